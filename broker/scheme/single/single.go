// Package single keeps a partition on one node: append, make it as durable as
// fsync says, acknowledge. There is no fail-over; while the node is down the
// partition is, and what was acknowledged is there again when it returns
// (SCHEMES.md 1.1).
package single

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Machine is the only replica of one partition. It implements scheme.Machine.
type Machine struct {
	h    scheme.Host
	o    scheme.Options
	a    scheme.Assignment
	lead bool
	acks scheme.Acks
}

var _ scheme.Machine = (*Machine)(nil)

// New makes the machine of one partition. It is a scheme.Factory.
func New(h scheme.Host, o scheme.Options, _ int64) scheme.Machine {
	return &Machine{h: h, o: o, a: scheme.Assignment{Leader: broker.None, Epoch: -1, PartEpoch: -1}}
}

// Assigned implements scheme.Machine.
func (m *Machine) Assigned(a scheme.Assignment) {
	if a.PartEpoch <= m.a.PartEpoch {
		return
	}
	lead := a.Leader == m.h.Self() && !m.h.Refused()
	if lead && (!m.lead || a.Epoch != m.a.Epoch) {
		m.h.Index().StartEpoch(a.Epoch)
		self := m.h.Name(m.h.Self())
		m.h.Emit(broker.Event{Kind: "leader", Epoch: a.Epoch, Leader: self, ISR: []string{self}, Offset: m.h.Index().End()})
	}
	if !lead && m.lead {
		m.acks.Abandon(m.h)
	}
	m.a, m.lead = a, lead
	m.h.Advanced()
}

// ISRAnswer implements scheme.Machine; this scheme proposes nothing.
func (m *Machine) ISRAnswer(int16) {}

// Produce implements scheme.Machine.
func (m *Machine) Produce(p scheme.Produce) {
	if !m.lead {
		if p.Acks != 0 {
			m.h.Produced(p.Token, scheme.Produced{Code: kerr.NotLeaderForPartition.Code, Base: -1, Text: "this node does not own the partition"})
		}
		return
	}
	base, end, done := scheme.Prepare(m.h, p, m.a.Epoch)
	if done {
		return
	}
	if p.Acks != 0 {
		m.acks.Add(p.Token, base, end, m.h.Now().Mono+p.Timeout)
	}
	m.Stored()
}

// Message implements scheme.Machine; there is nobody to talk to.
func (m *Machine) Message(broker.NodeID, broker.Message) {}

// Link implements scheme.Machine.
func (m *Machine) Link(broker.NodeID, bool) {}

// Stored implements scheme.Machine.
func (m *Machine) Stored() {
	if m.o.Mutants.On(mutant.AckBeforeWrite) {
		m.acks.Reach(m.h, m.h.Index().End(), 0)
	}
	m.acks.Reach(m.h, m.h.Stable(), 0)
	m.h.Advanced()
}

// Wake implements scheme.Machine.
func (m *Machine) Wake() { m.acks.Expire(m.h) }

// NextWake implements scheme.Machine.
func (m *Machine) NextWake() time.Duration { return m.acks.Next() }

// CheckRead implements scheme.Machine: what is stable can be read.
func (m *Machine) CheckRead(leaderEpoch int32) (int64, int16) {
	switch {
	case !m.lead:
		return 0, kerr.NotLeaderForPartition.Code
	case leaderEpoch >= 0 && leaderEpoch < m.a.Epoch:
		return 0, kerr.FencedLeaderEpoch.Code
	case leaderEpoch > m.a.Epoch:
		return 0, kerr.UnknownLeaderEpoch.Code
	}
	return m.h.Stable(), 0
}

// High implements scheme.Machine.
func (m *Machine) High() int64 { return m.h.Stable() }

// View implements scheme.Machine.
func (m *Machine) View() scheme.View {
	return scheme.View{Leader: m.a.Leader, Epoch: m.a.Epoch, InSync: m.a.ISR, Writable: m.lead, Visible: m.h.Stable()}
}

// Close implements scheme.Machine.
func (m *Machine) Close() {
	m.acks.Abandon(m.h)
	m.lead = false
}
