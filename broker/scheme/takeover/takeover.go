// Package takeover is a main queue with a backup (SCHEMES.md 1.10). A listener on the
// main queue's status calls backup.takeOver() when it goes down, and restore() gives the
// work back. How much of it is safe is a matter of options: who may decide (fencing),
// what the backup has (data), and what the main queue gets before it goes on (restore).
//
// The log is copied as in scheme standby, with one master at a time. With fencing=witness
// the metadata quorum is one register (epoch, leader, in-sync set), and going on alone
// first excludes the peer there. Otherwise every node goes by its own view: with none
// nobody is fenced off, and both may serve; with epoch every take-over has a higher
// number, and who meets a higher one gives way.
package takeover

import (
	"cmp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/standby"
)

// Status is what the active node tells nodes that it can reach and that are not of its
// cluster any more (fencing=epoch).
type Status struct{ Record scheme.Record }

// New makes the machine of one partition. It is a scheme.Factory.
func New(h scheme.Host, o scheme.Options, high int64) scheme.Machine {
	s := read(o.Set)
	if s.witness {
		return standby.NewPair(h, o, high, s.sync)
	}
	m := &Machine{Host: h, o: o, s: s, first: high, rec: scheme.Record{Master: broker.None}, switchAt: scheme.Never}
	m.a = scheme.Assignment{PartEpoch: -1, Peers: &scheme.Neighbours{Home: broker.None, Record: m.rec}}
	m.begin()
	return m
}

// Machine is one node's part of one partition where nodes go by their own views. It
// implements scheme.Machine, and is the host of the machine that copies the log, for
// which it is the authority.
type Machine struct {
	scheme.Host
	o     scheme.Options
	s     settings
	first int64 // high watermark at the start
	a     scheme.Assignment
	rec   scheme.Record // the newest; it counts here once it is durable

	pair     *standby.Machine
	serial   int32 // of assignments to pair
	keeping  bool  // rec is not durable here yet
	proposed bool  // pair waits for an answer
	ready    bool  // pair was told rec
	led      bool  // this session has begun an epoch
	switchAt time.Duration
	handing  bool // the main queue catches up with the last writes, and no more are taken
}

var (
	_ scheme.Machine = (*Machine)(nil)
	_ scheme.Host    = (*Machine)(nil)
)

// begin makes the copying part anew: what it knows is in the log.
func (m *Machine) begin() {
	m.pair, m.serial = standby.NewPair(m, m.o, m.first, m.s.sync), 0
	m.first, m.led = 0, false
	m.keeping, m.proposed, m.ready, m.handing, m.switchAt = false, false, false, false, scheme.Never
}

// The epoch stands in the upper half of a record's version.
func epochOf(r scheme.Record) int32 { return int32(r.Version >> 32) }

func raised(r scheme.Record) int64 { return (r.Version>>32 + 1) << 32 }

// sees says who counts as up: the members of this node's cluster, or, where epochs say
// who is right, everybody who can be reached.
func (m *Machine) sees(id broker.NodeID) bool {
	if m.s.epochs {
		return slices.Contains(m.a.Peers.Reached, id)
	}
	return slices.Contains(m.a.Peers.Live, id)
}

// heirs are the nodes that may take over from the main queue, the first one before all.
func (m *Machine) heirs() []broker.NodeID {
	ids := m.a.Peers.Members
	at := slices.Index(ids, m.a.Peers.Home)
	if at < 0 || len(ids) < 2 {
		return nil
	}
	others := slices.Concat(ids[at+1:], ids[:at])
	if !m.s.cluster {
		others = others[:1]
	}
	return others
}

// copies are the nodes that have a copy.
func (m *Machine) copies() []broker.NodeID {
	return append([]broker.NodeID{m.a.Peers.Home}, m.heirs()...)
}

func (m *Machine) active() bool { return m.rec.Master == m.Self() }

// Assigned implements scheme.Machine: the status of a node, or the record, changed.
func (m *Machine) Assigned(a scheme.Assignment) {
	if a.PartEpoch <= m.a.PartEpoch || a.Peers == nil {
		return
	}
	anew := a.Peers.Session != m.a.Peers.Session
	m.a = a
	if anew || a.Peers.Paused {
		m.pair.Close()
		m.begin()
		m.rec = a.Peers.Record
	}
	if !a.Peers.Paused && !a.Peers.Unchecked {
		if m.newer(a.Peers.Record) {
			m.adopt(a.Peers.Record)
		}
		m.onStatus()
	}
	m.Advanced()
}

// newer says whether a record replaces this node's. Without fencing an active node gives
// way to none that took over at the same time: nobody has agreed on one.
func (m *Machine) newer(r scheme.Record) bool {
	if m.active() && !m.s.epochs && m.s.copied() {
		return r.Version > m.rec.Version
	}
	return r.Newer(m.rec)
}

// adopt takes over what another node made the record.
func (m *Machine) adopt(r scheme.Record) {
	m.rec, m.ready, m.keeping, m.handing, m.switchAt = r, false, false, false, scheme.Never
}

// keep makes a record this partition's. It counts once it is durable.
func (m *Machine) keep(r scheme.Record) {
	r.Mirrors = append([]broker.NodeID{r.Master}, slices.DeleteFunc(m.copies(), func(id broker.NodeID) bool { return id == r.Master })...)
	r.Sessions = make([]string, len(r.Mirrors)) // epochs say what a copy is worth, not sessions
	m.rec, m.ready, m.keeping = r, false, true
	m.handing, m.switchAt = false, scheme.Never
	m.Keep(r)
}

// onStatus is the article's onStatusChange: a node went down or came back.
func (m *Machine) onStatus() {
	switch {
	case m.rec.Master == broker.None || m.a.Peers.Home == broker.None:
		return
	case m.active() && !m.led:
		// What a former session wrote in this epoch, and lost, others may have.
		m.led = true
		m.keep(scheme.Record{Version: raised(m.rec), Master: m.Self(), Synced: m.rec.Synced})
		m.alone()
	case m.active():
		m.alone()
		m.tellStatus()
	case m.sees(m.rec.Master):
		if m.restoresAtOnce() {
			m.takeOver("restored")
		}
	case m.mayTakeOver():
		m.takeOver("takes over from " + m.Name(m.rec.Master))
	}
	m.apply()
}

// alone goes on without those that are down. Without fencing that is a new epoch, as a
// take-over is: nobody knows of the other one.
func (m *Machine) alone() {
	in := slices.DeleteFunc(slices.Clone(m.rec.Synced), func(id broker.NodeID) bool { return !m.sees(id) })
	if len(in) == len(m.rec.Synced) {
		return
	}
	m.keep(scheme.Record{Version: m.without(), Master: m.rec.Master, Synced: in})
}

// without is the version of a record of fewer nodes in sync.
func (m *Machine) without() int64 {
	if m.s.epochs {
		return m.rec.Version + 1
	}
	return raised(m.rec)
}

// managed reports whether somebody is there to decide: the manager, if there is one.
func (m *Machine) managed() bool {
	return m.s.manager == "" || slices.ContainsFunc(m.a.Peers.Members, func(id broker.NodeID) bool { return m.Name(id) == m.s.manager && m.sees(id) })
}

// mayTakeOver says whether this node takes over, the active one being down.
func (m *Machine) mayTakeOver() bool {
	self := m.Self()
	synced := slices.Contains(m.rec.Synced, self)
	switch {
	case !m.managed() || m.Refused():
		return false
	case self == m.a.Peers.Home:
		// The article restores the main queue when the backup goes down.
		return synced || m.s.restore == blind || !m.s.copied()
	case !slices.Contains(m.heirs(), self):
		return false
	case !m.s.copied(): // the others agree by their order who does the new work
		for _, id := range m.heirs() {
			if m.sees(id) {
				return id == self
			}
		}
		return false
	}
	return synced || !m.s.sync
}

// restoresAtOnce says whether the main queue takes its work back from the active node
// without anything that it lacks.
func (m *Machine) restoresAtOnce() bool {
	if m.Self() != m.a.Peers.Home || m.Refused() || !m.managed() {
		return false
	}
	switch m.s.restore {
	case blind:
		return !m.s.copied() || m.s.atReturn
	case resync:
		return !m.s.copied() || m.o.Mutants.On(mutant.BlindRestore)
	}
	return false
}

// takeOver makes this node the active one, with what it has.
func (m *Machine) takeOver(why string) {
	m.Emit(broker.Event{Kind: "takeover", Epoch: epochOf(m.rec) + 1, Leader: m.Name(m.Self()), Offset: m.Index().End(), Detail: why})
	m.led = true
	m.keep(scheme.Record{Version: raised(m.rec), Master: m.Self(), Synced: []broker.NodeID{m.Self()}})
}

// tellStatus tells nodes beyond this node's cluster who is active.
func (m *Machine) tellStatus() {
	if !m.s.epochs {
		return
	}
	for _, id := range m.a.Peers.Reached {
		if id != m.Self() {
			m.Send(id, &Status{Record: m.rec}, 0, 0, nil)
		}
	}
}

// apply tells the copying part who leads, as far as the record counts.
func (m *Machine) apply() {
	if m.ready || m.keeping || m.rec.Master == broker.None {
		return
	}
	m.ready = true
	m.serial++
	a := scheme.Assignment{Replicas: m.copies(), ISR: m.rec.Synced, Leader: m.rec.Master, Epoch: epochOf(m.rec), PartEpoch: m.serial, MinISR: 1}
	switch {
	case !m.s.copied():
		a.Replicas, a.ISR = []broker.NodeID{m.rec.Master}, []broker.NodeID{m.rec.Master}
		fallthrough
	case m.stale() && m.Self() == m.a.Peers.Home: // it waits for its restoring, and gets nothing meanwhile
		if !m.active() {
			a.Leader = broker.None
		}
	case !m.active() && !slices.Contains(a.Replicas, m.Self()):
		a.Leader = broker.None
	}
	m.pair.Assigned(a)
	if m.proposed {
		m.proposed = false
		m.pair.ISRAnswer(0)
	}
	m.watch()
}

// stale says of a main queue that is to be restored blindly that it lacks something.
func (m *Machine) stale() bool {
	return m.s.restore == blind && !slices.Contains(m.rec.Synced, m.a.Peers.Home)
}

// watch begins to give the work back as soon as the main queue has all there is: after
// it has been up for a while, so that one that flaps does not carry it to and fro.
func (m *Machine) watch() {
	home := m.a.Peers.Home
	wanted := m.s.restore == resync && m.s.copied() && m.active() && home != m.Self() && m.ready && m.sees(home) && slices.Contains(m.rec.Synced, home)
	switch {
	case !wanted:
		m.switchAt, m.handing = scheme.Never, false
	case m.switchAt == scheme.Never && !m.handing:
		m.switchAt = m.Now().Mono + m.s.damping
	}
	m.handOver()
}

// handOver ends the pause in which the main queue got the last writes.
func (m *Machine) handOver() {
	home := m.a.Peers.Home
	if m.handing && m.ready && m.pair.Complete(home) {
		m.Emit(broker.Event{Kind: "restore", Epoch: epochOf(m.rec) + 1, Leader: m.Name(home), Offset: m.Index().End(), Detail: "has everything, and takes over again"})
		m.keep(scheme.Record{Version: raised(m.rec), Master: home, Synced: []broker.NodeID{home, m.Self()}})
	}
}

// ProposeISR implements scheme.Host for the copying part.
func (m *Machine) ProposeISR(epoch, _ int32, isr []scheme.Member) {
	m.proposed = true
	if epoch != epochOf(m.rec) || !m.active() || m.keeping {
		return
	}
	var in []broker.NodeID
	for _, member := range isr {
		in = append(in, member.ID)
	}
	handing, at := m.handing, m.switchAt
	r := scheme.Record{Version: m.rec.Version + 1, Master: m.rec.Master, Synced: in}
	if len(in) < len(m.rec.Synced) {
		r.Version = m.without()
	}
	m.keep(r)
	m.handing, m.switchAt = handing, at
}

// Eligible implements scheme.Host for the copying part.
func (m *Machine) Eligible(id broker.NodeID, _ int64) bool { return m.sees(id) }

// BrokerEpoch implements scheme.Host for the copying part: a new session is a new copy.
func (m *Machine) BrokerEpoch() int64 { return int64(m.a.Peers.Session) }

// ISRAnswer implements scheme.Machine: the newest record is durable here.
func (m *Machine) ISRAnswer(code int16) {
	if code == 0 && m.keeping {
		m.keeping = false
		m.apply()
		m.tellStatus()
		m.Advanced()
	}
}

// Produce implements scheme.Machine.
func (m *Machine) Produce(p scheme.Produce) {
	if !m.serving() {
		if p.Acks != 0 {
			m.Produced(p.Token, scheme.Produced{Code: kerr.NotLeaderForPartition.Code, Base: -1, Text: "this node is not the active one, or hands over"})
		}
		return
	}
	m.pair.Produce(p)
}

func (m *Machine) serving() bool {
	return m.active() && !m.handing && !m.a.Peers.Paused && m.pair.View().Writable
}

// Message implements scheme.Machine.
func (m *Machine) Message(from broker.NodeID, msg broker.Message) {
	s, told := msg.(*Status)
	switch {
	case m.a.Peers.Paused:
	case told && s.Record.Newer(m.rec):
		m.adopt(s.Record)
		m.Keep(s.Record)
		m.keeping = true
		m.onStatus()
		m.Advanced()
	case told && m.rec.Newer(s.Record) && m.active():
		m.Send(from, &Status{Record: m.rec}, 0, 0, nil)
	case told:
	case m.sees(from):
		m.pair.Message(from, msg)
		m.handOver()
	}
}

// Link implements scheme.Machine.
func (m *Machine) Link(peer broker.NodeID, up bool) { m.pair.Link(peer, up) }

// Stored implements scheme.Machine.
func (m *Machine) Stored() {
	m.pair.Stored()
	m.handOver()
}

// Wake implements scheme.Machine.
func (m *Machine) Wake() {
	m.pair.Wake()
	if m.switchAt <= m.Now().Mono {
		m.switchAt, m.handing = scheme.Never, true
		m.handOver()
	}
}

// NextWake implements scheme.Machine.
func (m *Machine) NextWake() time.Duration { return min(m.switchAt, m.pair.NextWake()) }

// CheckRead implements scheme.Machine: the active node shows what it may.
func (m *Machine) CheckRead(leaderEpoch int32) (int64, int16) {
	if !m.active() || m.a.Peers.Paused {
		return 0, kerr.NotLeaderForPartition.Code
	}
	return m.pair.CheckRead(leaderEpoch)
}

// High implements scheme.Machine.
func (m *Machine) High() int64 { return m.pair.High() }

// View implements scheme.Machine.
func (m *Machine) View() scheme.View {
	v := m.pair.View()
	v.Leader, v.InSync, v.Replicas, v.Writable = broker.None, m.rec.Synced, m.copies(), m.serving()
	switch {
	case !m.s.copied():
		v.Replicas = []broker.NodeID{m.rec.Master}
	case m.stale():
		v.Replicas = v.Replicas[1:]
	}
	if !m.a.Peers.Paused && (m.active() && m.ready || !m.active() && m.sees(m.rec.Master)) {
		v.Leader = m.rec.Master
	}
	switch m.s.reroute {
	case "proxy":
		v.Proxied, v.Epoch = true, -1
	case "none": // clients know the main queue, and no other
		v.Leader, v.Epoch = m.a.Peers.Home, cmp.Or(v.Epoch, 0)
	}
	return v
}

// Close implements scheme.Machine.
func (m *Machine) Close() { m.pair.Close() }
