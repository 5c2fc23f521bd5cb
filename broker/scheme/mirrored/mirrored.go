// Package mirrored copies a partition to mirrors as RabbitMQ's mirrored queues did
// (3.12; removed in 4.0): writes go to the master and from it to all mirrors at once,
// and are confirmed when every live one has them. A mirror that is declared dead is
// dropped from what is awaited. When the master is declared dead the eldest live
// mirror takes over, by each node's own view. A mirror that comes back throws its
// content away, because it cannot know whether it diverged, and is unsynchronised
// until it was synchronised.
//
// Sources of the rules: rabbit_mirror_queue_coordinator.erl, rabbit_mirror_queue_misc.erl
// and gm.erl of v3.12, and the manual's ha and partitions pages (SCHEMES.md 1.3).
package mirrored

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Options are those of the scheme.
type Options struct {
	Mode  string // ha-mode: all, exactly, nodes
	Count int    // ha-params with exactly: copies, the master among them
	Nodes []string
	// Automatic (ha-sync-mode): a new mirror is brought up to date at once, while the
	// queue is blocked. Otherwise it gets only what is written from now on.
	Automatic bool
	Batch     int64 // ha-sync-batch-size: messages of one step of a synchronisation
	// PromoteAlways and PromoteAlwaysOnShutdown (ha-promote-on-failure, -on-shutdown):
	// an unsynchronised mirror may take over when the master fails, or stops in order.
	PromoteAlways           bool
	PromoteAlwaysOnShutdown bool
	// ConfirmBeforeCheck (confirm.on.mirror.death): what only a dead mirror lacks is
	// confirmed before this node has looked whether it is itself in the minority.
	ConfirmBeforeCheck bool
}

// DefaultOptions are those of RabbitMQ 3.12 for ha-mode=all.
func DefaultOptions() Options {
	return Options{Mode: "all", Batch: 4096, PromoteAlways: true, ConfirmBeforeCheck: true}
}

func read(v options.Values) Options {
	o := Options{
		Mode: v.String(modeOption), Automatic: v.String(syncOption) == automatic, Batch: int64(v.Int(batchOption)),
		PromoteAlways: v.String(failureOption) == always, PromoteAlwaysOnShutdown: v.String(shutdownOption) == always,
		ConfirmBeforeCheck: v.String(confirmOption) == beforeCheck,
	}
	switch params := v.String(paramsOption); o.Mode {
	case exactly:
		o.Count, _ = strconv.Atoi(params) // check saw to it
	case named:
		o.Nodes = strings.Split(params, ",")
	}
	return o
}

// Probe is a new master's question what a mirror has.
type Probe struct{ Stream uint64 }

// Tail answers a Probe: the mirror's log ends at End. Whole: it has the former
// master's from its begin on.
type Tail struct {
	Stream uint64
	End    int64
	Whole  bool
}

// Pull asks a mirror for what it has from an offset on, Rest brings it.
type Pull struct {
	Stream uint64
	From   int64
}

// Rest answers a Pull.
type Rest struct {
	Stream uint64
	Data   []byte
}

// Begin begins a stream of the master's log from offset From on. Keep: the mirror has
// everything before it and goes on there; otherwise it throws away what it has.
type Begin struct {
	Stream uint64
	From   int64
	Keep   bool
}

// Push brings records of a stream, from offset From on.
type Push struct {
	Stream uint64
	From   int64
	Data   []byte
}

// Have is a mirror's confirmation: everything of the stream before End is as durable
// as fsync promises.
type Have struct {
	Stream uint64
	End    int64
}

type role uint8

const (
	idle   role = iota // no copy here, or not serving
	mirror             // of the record's master
	master
)

// retry is how long a question or a begun stream waits for an answer.
const retry = 300 * time.Millisecond

// Machine is one node's part of one partition. It implements scheme.Machine.
type Machine struct {
	h    scheme.Host
	o    scheme.Options
	opts Options
	a    scheme.Assignment
	rec  scheme.Record
	role role

	leading
	copying
}

var _ scheme.Machine = (*Machine)(nil)

// New makes the machine of one partition. It is a scheme.Factory.
func New(h scheme.Host, o scheme.Options, _ int64) scheme.Machine {
	return WithOptions(h, o, read(o.Set))
}

// WithOptions makes the machine of one partition with other options than o.Set has.
func WithOptions(h scheme.Host, o scheme.Options, opts Options) scheme.Machine {
	none := scheme.Record{Master: broker.None}
	return &Machine{h: h, o: o, opts: opts, rec: none, a: scheme.Assignment{PartEpoch: -1, Peers: &scheme.Neighbours{Record: none}}, leading: leading{retryAt: scheme.Never}}
}

func (m *Machine) live(id broker.NodeID) bool { return slices.Contains(m.a.Peers.Live, id) }

// Assigned implements scheme.Machine: the view of the others, or the record, changed.
func (m *Machine) Assigned(a scheme.Assignment) {
	if a.PartEpoch <= m.a.PartEpoch || a.Peers == nil {
		return
	}
	anew := a.Peers.Session != m.a.Peers.Session
	m.a = a
	if anew || a.Peers.Paused {
		m.stop()
		m.rec = a.Peers.Record
		m.h.Advanced()
		if a.Peers.Paused {
			return
		}
	}
	if a.Peers.Unchecked {
		if m.role == master && (m.opts.ConfirmBeforeCheck || m.o.Mutants.On(mutant.ConfirmBeforeCheck)) {
			m.dropDead()
		}
		return
	}
	if a.Peers.Record.Newer(m.rec) {
		m.rec = a.Peers.Record
	}
	if next := m.without(m.rec); next.Version != m.rec.Version {
		shrunk := len(next.Synced) < len(m.rec.Synced)
		switch {
		case next.Master == m.h.Self() && m.role != master:
			m.rec = next // it is kept when this node takes over
		case m.role == master && shrunk:
			m.keep(next)
			m.tellSynced()
		default:
			m.keep(next)
		}
	}
	m.act()
	m.h.Advanced()
}

// keep makes a record this partition's.
func (m *Machine) keep(r scheme.Record) {
	m.rec = r
	m.h.Keep(r)
}

// tellSynced reports which copies have everything.
func (m *Machine) tellSynced() {
	m.h.Emit(broker.Event{Kind: "isr", Epoch: -1, Leader: m.h.Name(m.h.Self()), ISR: m.names(m.rec.Synced), Offset: m.h.Index().End()})
}

// without is the record without the dead: every survivor comes to the same one by
// itself. Where the master is dead the eldest live mirror is promoted, if the policy lets it.
func (m *Machine) without(r scheme.Record) scheme.Record {
	present := func(id broker.NodeID) bool { return m.present(r, id) }
	self := r.Master == m.h.Self()
	if m.present(r, r.Master) && !self {
		return r // a live master strikes off its dead mirrors itself
	}
	next := scheme.Record{Version: r.Version + 1, Master: r.Master, Mirrors: keepOf(r.Mirrors, present), Synced: keepOf(r.Synced, present)}
	if self {
		if len(next.Mirrors) == len(r.Mirrors) {
			return r
		}
		return m.stamped(next, r)
	}
	heirs := next.Mirrors
	always := m.opts.PromoteAlways
	if slices.Contains(m.a.Peers.Left, r.Master) {
		always = m.opts.PromoteAlwaysOnShutdown
	}
	if !always && !m.o.Mutants.On(mutant.PromoteUnsynced) {
		heirs = next.Synced
	}
	if len(heirs) == 0 {
		return r // nobody may take over: the partition stops until its master is back
	}
	next.Master = heirs[0]
	next.Mirrors = append([]broker.NodeID{next.Master}, keepOf(next.Mirrors, func(id broker.NodeID) bool { return id != next.Master })...)
	if !slices.Contains(next.Synced, next.Master) {
		next.Synced = nil // what it lacks nobody has now
	}
	next.Synced = append([]broker.NodeID{next.Master}, keepOf(next.Synced, func(id broker.NodeID) bool { return id != next.Master })...)
	if m.o.Mutants.On(mutant.MirrorsForgotten) {
		next.Mirrors, next.Synced = next.Mirrors[:1], next.Synced[:1]
	}
	return m.stamped(next, r)
}

// session is that of a live node that was heard, "" of any other.
func (m *Machine) session(id broker.NodeID) string {
	if i := slices.Index(m.a.Peers.Live, id); i >= 0 {
		return m.a.Peers.Sessions[i]
	}
	return ""
}

// present: a copy of the record is live, and has not restarted since it became one, as
// far as is known: of a member of the cluster that this node joined and has not heard
// yet, nothing says that it has. A master that comes back to a partition that waited for
// it is present to itself.
func (m *Machine) present(r scheme.Record, id broker.NodeID) bool {
	if id == m.h.Self() && id == r.Master {
		return true
	}
	i := slices.Index(r.Mirrors, id)
	if i < 0 || !m.live(id) {
		return false
	}
	session := m.session(id)
	return session == "" || session == r.Sessions[i]
}

// stamped gives the copies of a record their sessions: those that they had in the
// former one, and their present ones where they are new, or this node.
func (m *Machine) stamped(r, former scheme.Record) scheme.Record {
	r.Sessions = make([]string, len(r.Mirrors))
	for i, id := range r.Mirrors {
		r.Sessions[i] = m.session(id)
		if j := slices.Index(former.Mirrors, id); j >= 0 && id != m.h.Self() {
			r.Sessions[i] = former.Sessions[j]
		}
	}
	return r
}

func keepOf(ids []broker.NodeID, keep func(broker.NodeID) bool) []broker.NodeID {
	var out []broker.NodeID
	for _, id := range ids {
		if keep(id) {
			out = append(out, id)
		}
	}
	return out
}

// act does what the record says of this node.
func (m *Machine) act() {
	switch {
	case m.rec.Master == m.h.Self() && !m.h.Refused():
		if m.role != master {
			m.lead()
		} else {
			m.review()
		}
	case m.role == master:
		m.stop()
	}
}

// stop ends what this node does for the partition.
func (m *Machine) stop() {
	m.resign()
	m.role = idle
	m.copying = copying{}
}

// ISRAnswer implements scheme.Machine: the newest record is durable here.
func (m *Machine) ISRAnswer(code int16) {
	if code == 0 && !m.kept {
		m.kept = true
		m.raise()
		m.h.Advanced()
	}
}

// Message implements scheme.Machine. What an estranged node says is not for this
// cluster.
func (m *Machine) Message(from broker.NodeID, msg broker.Message) {
	if !m.live(from) || m.a.Peers.Paused {
		return
	}
	switch b := msg.(type) {
	case *Probe:
		m.probed(from, b)
	case *Pull:
		m.pulled(from, b)
	case *Begin:
		m.started(from, b)
	case *Push:
		m.pushed(from, b)
	case *Tail:
		m.tail(from, b)
	case *Rest:
		m.rest(from, b)
	case *Have:
		m.have(from, b)
	}
}

// Link implements scheme.Machine: the authority tells of the dead.
func (m *Machine) Link(broker.NodeID, bool) {}

// Stored implements scheme.Machine.
func (m *Machine) Stored() {
	switch m.role {
	case master:
		m.raise()
		m.h.Advanced()
	case mirror:
		m.confirm()
	}
}

// CheckRead implements scheme.Machine: the master shows what it has, confirmed or not.
func (m *Machine) CheckRead(int32) (int64, int16) {
	if !m.serving() {
		return 0, kerr.NotLeaderForPartition.Code
	}
	return m.h.Index().End(), 0
}

// High implements scheme.Machine.
func (m *Machine) High() int64 { return m.h.Index().End() }

// View implements scheme.Machine. A mirror that nobody will synchronise is no copy of
// what was before it came.
func (m *Machine) View() scheme.View {
	v := scheme.View{Leader: broker.None, Epoch: -1, Writable: m.serving(), Visible: m.h.Index().End(), Proxied: true, Replicas: m.rec.Synced}
	if m.opts.Automatic {
		v.Replicas = m.rec.Mirrors
	}
	switch {
	case m.a.Peers.Paused || !m.live(m.rec.Master):
	case m.rec.Master != m.h.Self() || m.serving():
		v.Leader, v.InSync = m.rec.Master, m.rec.Synced
	}
	return v
}

// Close implements scheme.Machine.
func (m *Machine) Close() { m.stop() }

func (m *Machine) names(ids []broker.NodeID) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = m.h.Name(id)
	}
	return names
}
