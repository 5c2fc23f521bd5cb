package mirrored

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// leading is the master's side.
type leading struct {
	settled bool // it knows that it has what any live mirror has
	kept    bool // the record that made it master is durable
	remotes []*remote
	streams uint64 // numbers what it asks and sends
	acks    scheme.Acks
	parked  []parked // writes that came while a synchronisation blocked the queue
	retryAt time.Duration
}

// remote is what the master knows of one mirror.
type remote struct {
	id     broker.NodeID
	stream uint64
	asked  bool // a Probe waits for its Tail
	end    int64
	whole  bool
	pull   bool // a Pull waits for its Rest

	begun  bool  // the stream was answered
	from   int64 // where it began
	keep   bool
	next   int64 // what was sent
	have   int64 // what was confirmed
	synced bool
	sync   bool // its synchronisation is under way
}

type parked struct {
	scheme.Produce
	deadline time.Duration
}

// lead makes this node master. What a live mirror has and it has not was on its way
// when the former master died: it gets that first (the guarantee of gm: of those that
// survive, all have a message or none).
func (m *Machine) lead() {
	m.copying = copying{}
	m.role, m.settled = master, false
	m.remotes = nil
	for _, id := range m.rec.Mirrors[1:] {
		if m.present(m.rec, id) {
			m.remotes = append(m.remotes, &remote{id: id})
		}
	}
	m.h.Emit(broker.Event{Kind: "leader", Epoch: -1, Leader: m.h.Name(m.h.Self()), ISR: m.names(m.rec.Synced), Offset: m.h.Index().End()})
	m.kept = false
	next := m.stamped(m.rec, m.rec)
	if !slices.Equal(next.Sessions, m.rec.Sessions) {
		next.Version++ // this node has restarted, and the others are to know
	}
	m.keep(next)
	for _, r := range m.remotes {
		m.probe(r)
	}
	m.settle()
}

// resign ends the mastership. What is in the log may still take effect.
func (m *Machine) resign() {
	m.acks.Abandon(m.h)
	m.refuseParked()
	m.remotes, m.settled, m.retryAt = nil, false, scheme.Never
}

// serving: this node is master and may write and show.
func (m *Machine) serving() bool { return m.role == master && m.settled && m.kept }

func (m *Machine) probe(r *remote) {
	m.streams++
	r.stream, r.asked = m.streams, true
	m.h.Send(r.id, &Probe{Stream: r.stream}, 0, 0, nil)
	m.again()
}

func (m *Machine) again() { m.retryAt = min(m.retryAt, m.h.Now().Mono+retry) }

func (m *Machine) remote(id broker.NodeID, stream uint64) *remote {
	for _, r := range m.remotes {
		if m.role == master && r.id == id && r.stream == stream {
			return r
		}
	}
	return nil
}

func (m *Machine) tail(from broker.NodeID, t *Tail) {
	r := m.remote(from, t.Stream)
	if r == nil || !r.asked {
		return
	}
	r.asked = false
	r.end, r.whole = t.End, t.Whole && slices.Contains(m.rec.Synced, from)
	m.settle()
}

// settle ends the questions: once all have answered, the longest tail is fetched, and
// every mirror's stream begins.
func (m *Machine) settle() {
	if m.settled {
		return
	}
	var longest *remote
	for _, r := range m.remotes {
		if r.asked || r.pull {
			return
		}
		if r.whole && r.end > m.h.Index().End() && (longest == nil || r.end > longest.end) {
			longest = r
		}
	}
	if longest != nil {
		m.streams++
		longest.stream, longest.pull = m.streams, true
		m.h.Send(longest.id, &Pull{Stream: longest.stream, From: m.h.Index().End()}, 0, 0, nil)
		m.again()
		return
	}
	m.settled = true
	for _, r := range m.remotes {
		if r.whole {
			m.begin(r, r.end, true)
			r.synced = true
		} else {
			m.begin(r, m.h.Index().End(), false)
		}
	}
	m.review()
}

func (m *Machine) rest(from broker.NodeID, rest *Rest) {
	r := m.remote(from, rest.Stream)
	if r == nil || !r.pull {
		return
	}
	r.pull = false
	if !m.take(rest.Data, m.h.Index().End(), 0) {
		r.end = m.h.Index().End() // what cannot be read is as good as not there
	}
	m.settle()
}

// begin begins a mirror's stream.
func (m *Machine) begin(r *remote, from int64, keep bool) {
	m.streams++
	r.stream, r.begun, r.from, r.keep, r.next, r.have = m.streams, false, from, keep, from, from
	if !keep {
		r.synced = false
	}
	m.h.Send(r.id, &Begin{Stream: r.stream, From: from, Keep: keep}, 0, 0, nil)
	m.again()
	m.push(r)
}

// push sends what a mirror has not been sent: all at once, or one step of its
// synchronisation.
func (m *Machine) push(r *remote) {
	end := m.h.Index().End()
	for r.next < end {
		limit := end
		if r.sync {
			if r.have < r.next {
				return // the step before is not confirmed
			}
			limit = min(end, max(r.next+m.opts.Batch, m.h.Index().BatchEnd(r.next)))
		}
		from, to, _ := m.h.Index().Range(r.next, limit, m.o.FetchBytes)
		if from == to {
			return
		}
		p := &Push{Stream: r.stream, From: from}
		m.h.Send(r.id, p, from, to, &p.Data)
		r.next = to
	}
}

func (m *Machine) have(from broker.NodeID, h *Have) {
	r := m.remote(from, h.Stream)
	if r == nil || !m.settled || h.End < r.have {
		return
	}
	r.begun, r.have = true, h.End
	if r.sync || r.from == m.h.Index().Start() && !r.synced {
		if m.synchronised(r) {
			return
		}
	}
	m.push(r)
	if m.opts.Automatic && !m.blocked() {
		m.review() // it may be one to be synchronised
	}
	m.raise()
}

// synchronised notes that a mirror has the whole log, or gets what it lacks with the
// other mirrors: while it was synchronised nothing was written.
func (m *Machine) synchronised(r *remote) bool {
	if r.sync && r.have < m.h.Index().End() {
		return false
	}
	r.sync, r.synced = false, true
	next := m.rec
	next.Version++
	next.Synced = keepOf(next.Mirrors, func(id broker.NodeID) bool { return slices.Contains(m.rec.Synced, id) || id == r.id })
	m.keep(next)
	m.tellSynced()
	m.review()
	m.raise()
	return true
}

// review makes the mirrors what the record, the view and ha-mode say.
func (m *Machine) review() {
	m.dropDead()
	if !m.settled {
		m.settle()
		return
	}
	for _, id := range m.wanted() {
		next := m.rec
		next.Version++
		next.Mirrors = append(slices.Clone(next.Mirrors), id)
		m.keep(m.stamped(next, m.rec))
		r := &remote{id: id}
		m.remotes = append(m.remotes, r)
		m.begin(r, m.h.Index().End(), false)
	}
	if m.opts.Automatic && !m.blocked() {
		for _, r := range m.remotes {
			if !r.synced && r.begun {
				r.sync = true
				m.begin(r, m.h.Index().Start(), false)
				break
			}
		}
	}
	m.unpark()
	m.raise()
}

// wanted are live nodes that ha-mode wants as further mirrors.
func (m *Machine) wanted() []broker.NodeID {
	if m.o.Mutants.On(mutant.MirrorsForgotten) && m.rec.Version > 1 && len(m.rec.Mirrors) == 1 {
		return nil
	}
	var ids []broker.NodeID
	for _, id := range m.a.Peers.Live {
		switch {
		case slices.Contains(m.rec.Mirrors, id):
		case m.opts.Mode == named && !slices.Contains(m.opts.Nodes, m.h.Name(id)):
		case m.opts.Mode == exactly && len(m.rec.Mirrors)+len(ids) >= m.opts.Count:
		default:
			ids = append(ids, id)
		}
	}
	return ids
}

// dropDead forgets the mirrors that are not live: what only they lack is confirmed.
func (m *Machine) dropDead() {
	n := len(m.remotes)
	m.remotes = slices.DeleteFunc(m.remotes, func(r *remote) bool { return !m.live(r.id) })
	if len(m.remotes) < n {
		m.raise()
	}
}

// blocked: a synchronisation is under way.
func (m *Machine) blocked() bool {
	return slices.ContainsFunc(m.remotes, func(r *remote) bool { return r.sync })
}

// Produce implements scheme.Machine.
func (m *Machine) Produce(p scheme.Produce) {
	switch {
	case !m.serving():
		if p.Acks != 0 {
			m.h.Produced(p.Token, scheme.Produced{Code: kerr.NotLeaderForPartition.Code, Base: -1, Text: "this node reaches no master of the partition"})
		}
	case m.blocked():
		m.parked = append(m.parked, parked{p, m.h.Now().Mono + p.Timeout})
	default:
		m.write(p)
	}
}

func (m *Machine) write(p scheme.Produce) {
	base, end, done := scheme.Prepare(m.h, p, -1)
	if done {
		return
	}
	if p.Acks != 0 {
		m.acks.Add(p.Token, base, end, m.h.Now().Mono+p.Timeout)
	}
	for _, r := range m.remotes {
		m.push(r)
	}
	m.raise()
	m.h.Advanced()
}

func (m *Machine) unpark() {
	if m.blocked() {
		return
	}
	waiting := m.parked
	m.parked = nil
	for _, p := range waiting {
		m.write(p.Produce)
	}
}

// refuseParked: they are in no log.
func (m *Machine) refuseParked() {
	for _, p := range m.parked {
		if p.Acks != 0 {
			m.h.Produced(p.Token, scheme.Produced{Code: kerr.NotLeaderForPartition.Code, Base: -1, Text: "this node is the master no more"})
		}
	}
	m.parked = nil
}

// raise confirms what every awaited copy has.
func (m *Machine) raise() {
	if !m.serving() {
		return
	}
	mark := m.h.Stable()
	for _, r := range m.remotes {
		mark = min(mark, r.have)
	}
	m.acks.Reach(m.h, mark, 0)
}

// Wake implements scheme.Machine.
func (m *Machine) Wake() {
	m.acks.Expire(m.h)
	now := m.h.Now().Mono
	m.parked = slices.DeleteFunc(m.parked, func(p parked) bool {
		if p.deadline > now {
			return false
		}
		if p.Acks != 0 {
			m.h.Produced(p.Token, scheme.Produced{Code: kerr.RequestTimedOut.Code, Base: -1})
		}
		return true
	})
	if m.retryAt > now {
		return
	}
	m.retryAt = scheme.Never
	for _, r := range m.remotes {
		switch {
		case r.asked || r.pull:
			// The mirror may not have seen yet who is master.
			r.pull = false
			m.probe(r)
		case m.settled && !r.begun:
			synced := r.synced
			m.begin(r, r.from, r.keep)
			r.synced = synced
		}
	}
}

// NextWake implements scheme.Machine.
func (m *Machine) NextWake() time.Duration {
	next := min(m.acks.Next(), m.retryAt)
	for _, p := range m.parked {
		next = min(next, p.deadline)
	}
	return next
}
