// Package classic keeps a partition on one node, its home; every node knows where it
// is and passes requests on (RabbitMQ's ordinary cluster: the queue is a process on
// one node, its record is on all). There is no fail-over. Who writes while the home is
// down gets what RabbitMQ's publisher gets: nothing is routed, and only a mandatory
// message comes back; any other is confirmed, and dropped (SCHEMES.md 1.2).
package classic

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Options are those of the scheme.
type Options struct {
	// Durable: the queue outlives its home's restart; if not it is gone while its home
	// is down, and empty afterwards.
	Durable bool
	// Persistent (delivery_mode=2): so do its messages, and they are acknowledged when
	// they are as durable as fsync says; transient ones at once.
	Persistent bool
	// Mandatory: a message that cannot be routed is refused, not confirmed and dropped.
	Mandatory bool
}

func read(v options.Values) Options {
	return Options{Durable: v.Bool(durableOption), Persistent: v.Int(deliveryOption) == 2, Mandatory: v.Bool(mandatoryOption)}
}

// Machine is one node's part of one partition. It implements scheme.Machine.
type Machine struct {
	h       scheme.Host
	o       scheme.Options
	opts    Options
	a       scheme.Assignment
	session int // in which this node began to be the home
	home    bool
	acks    scheme.Acks
}

var _ scheme.Machine = (*Machine)(nil)

// New makes the machine of one partition. It is a scheme.Factory.
func New(h scheme.Host, o scheme.Options, _ int64) scheme.Machine {
	return &Machine{h: h, o: o, opts: read(o.Set), a: scheme.Assignment{PartEpoch: -1, Peers: &scheme.Neighbours{Record: scheme.Record{Master: broker.None}}}}
}

// master is the home of the partition.
func (m *Machine) master() broker.NodeID { return m.a.Peers.Record.Master }

// away: the home cannot be reached from here.
func (m *Machine) away() bool { return !slices.Contains(m.a.Peers.Reached, m.master()) }

// Assigned implements scheme.Machine.
func (m *Machine) Assigned(a scheme.Assignment) {
	if a.PartEpoch <= m.a.PartEpoch || a.Peers == nil {
		return
	}
	m.a = a
	home := m.master() == m.h.Self() && !a.Peers.Paused && !m.h.Refused()
	switch {
	case home && !m.home:
		if m.session != a.Peers.Session {
			m.recover()
		}
		m.session = a.Peers.Session
		self := m.h.Name(m.h.Self())
		m.h.Emit(broker.Event{Kind: "leader", Epoch: -1, Leader: self, ISR: []string{self}, Offset: m.h.Index().End()})
	case !home && m.home:
		m.acks.Abandon(m.h)
	}
	m.home = home
	m.h.Advanced()
}

// recover is the home's restart: what was not meant to outlive it is gone.
func (m *Machine) recover() {
	end := m.h.Index().End()
	if m.opts.Durable && m.opts.Persistent || end == m.h.Index().Start() {
		return
	}
	why := "the messages are transient (delivery_mode=1)"
	if !m.opts.Durable {
		why = "the queue is not durable"
	}
	after := m.h.Truncate(m.h.Index().Start())
	m.h.Emit(broker.Event{Kind: "truncate", Epoch: -1, Leader: m.h.Name(m.h.Self()), From: after, To: end, Offset: end, Detail: "restart: " + why})
}

// ISRAnswer implements scheme.Machine; this scheme proposes nothing.
func (m *Machine) ISRAnswer(int16) {}

// Produce implements scheme.Machine.
func (m *Machine) Produce(p scheme.Produce) {
	if !m.home {
		m.unroutable(p)
		return
	}
	base, end, done := scheme.Prepare(m.h, p, -1)
	switch {
	case done:
	case p.Acks == 0:
	case !m.opts.Durable || !m.opts.Persistent:
		m.h.Produced(p.Token, scheme.Produced{Base: base})
	default:
		m.acks.Add(p.Token, base, end, m.h.Now().Mono+p.Timeout)
	}
	m.Stored()
}

// unroutable answers a write that reaches no queue. This node may have to pass it on
// as soon as it sees the home again, but not now.
func (m *Machine) unroutable(p scheme.Produce) {
	out := scheme.Produced{Base: -1}
	switch {
	case m.a.Peers.Paused, !m.away():
		out.Code, out.Text = kerr.NotLeaderForPartition.Code, "this node does not serve the partition"
	case m.opts.Mandatory && !m.o.Mutants.On(mutant.UnroutableConfirmed):
		out.Code, out.Text = kerr.NotLeaderForPartition.Code, "returned: the home node "+m.h.Name(m.master())+" of the queue is down"
	}
	if p.Acks != 0 {
		m.h.Produced(p.Token, out)
	}
}

// Message implements scheme.Machine: nodes pass on clients' requests, nothing else.
func (m *Machine) Message(broker.NodeID, broker.Message) {}

// Link implements scheme.Machine.
func (m *Machine) Link(broker.NodeID, bool) {}

// Stored implements scheme.Machine.
func (m *Machine) Stored() {
	m.acks.Reach(m.h, m.h.Stable(), 0)
	m.h.Advanced()
}

// Wake implements scheme.Machine.
func (m *Machine) Wake() { m.acks.Expire(m.h) }

// NextWake implements scheme.Machine.
func (m *Machine) NextWake() time.Duration { return m.acks.Next() }

// CheckRead implements scheme.Machine: the home shows what it has, durable or not.
// With its home down a queue that is not durable does not exist.
func (m *Machine) CheckRead(int32) (int64, int16) {
	switch {
	case m.home:
		return m.h.Index().End(), 0
	case !m.opts.Durable && m.away() && !m.a.Peers.Paused:
		return 0, kerr.UnknownTopicOrPartition.Code
	}
	return 0, kerr.NotLeaderForPartition.Code
}

// High implements scheme.Machine.
func (m *Machine) High() int64 { return m.h.Index().End() }

// View implements scheme.Machine.
func (m *Machine) View() scheme.View {
	v := scheme.View{Leader: broker.None, Epoch: -1, Writable: m.home, Visible: m.h.Index().End(), Proxied: true, Replicas: []broker.NodeID{m.master()}}
	if m.home || !m.away() && !m.a.Peers.Paused {
		v.Leader, v.InSync = m.master(), v.Replicas
	}
	return v
}

// Close implements scheme.Machine.
func (m *Machine) Close() {
	m.acks.Abandon(m.h)
	m.home = false
}
