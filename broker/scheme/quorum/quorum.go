// Package quorum replicates a partition by Raft: its replicas elect a leader by
// majority, and what a majority has is committed. It is the control mode of
// RabbitMQ's quorum queues, of NATS JetStream and of DLedger (SCHEMES.md 1.11).
//
// The log's batches are the entries, and followers pull them (as in Kafka's KRaft,
// KIP-595; package pull). The empty entry with which a leader begins its term takes
// no offset: it is kept beside the log, with the term and the vote, as the place at
// which the term begins. docs/decisions/quorum-raft.md says why that is Raft.
//
// Sources of the rules: Ongaro, "Consensus: Bridging Theory and Practice" (2014),
// 3.4 to 3.6 (elections, log matching, commitment in the own term), 3.10 (leadership
// transfer), 6.2 (a leader without a majority steps down), 9.6 (pre-vote).
package quorum

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/pull"
)

// Vote asks for a vote. A pre-vote asks whether it would be given, and changes
// nothing.
type Vote struct {
	Term     int32
	Pre      bool
	Transfer bool  // the leader of the term before wants it: it is asked for though that one lives
	LastTerm int32 // where the candidate's log ends: the term of its last entry, and its end
	End      int64
}

// VoteAnswer answers a Vote of Term. Current is the voter's own term.
type VoteAnswer struct {
	Term    int32
	Pre     bool
	Granted bool
	Current int32
}

// Lead is a leader's heartbeat. Start is where its term begins.
type Lead struct {
	Term  int32
	Start int64
}

// LeadAnswer answers a Lead. Holds: the replica durably has the empty entry with
// which the term begins, and so everything before it.
type LeadAnswer struct {
	Term  int32
	Holds bool
}

// Take asks a follower of Term to stand for election at once.
type Take struct{ Term int32 }

type role uint8

const (
	follower role = iota
	prospect      // asks for pre-votes
	candidate
	leader
)

// Machine is one replica of one partition. It implements scheme.Machine.
type Machine struct {
	h         scheme.Host
	o         scheme.Options
	timeout   time.Duration // of an election, to twice of it
	heartbeat time.Duration
	a         scheme.Assignment
	role      role
	state     // kept durably
	leader    broker.NodeID
	high      int64 // commit
	joining

	// As follower.
	begins  int64         // where the leader's term begins, -1: it has not said
	contact time.Duration // last moment at which the leader was heard
	electAt time.Duration
	drawn   uint64 // election timeouts drawn so far
	pull    pull.Follower
	waiting []letter // until what they rest on is durable

	// As candidate.
	grants []broker.NodeID

	// As leader.
	start   int64
	peers   pull.Leader
	voters  []voter
	acks    scheme.Acks
	beatAt  time.Duration
	told    []broker.NodeID // in-sync set that was reported last
	toldAt  time.Duration
	handing time.Duration // until then leadership is being handed over
	leaving bool
}

// letter is a message that may go out once all that was kept is durable.
type letter struct {
	to   broker.NodeID
	term int32
	msg  broker.Message
}

// voter is what a leader knows of another replica beside its log.
type voter struct {
	id    broker.NodeID
	met   bool // was told that its log matches
	holds bool
	heard time.Duration
}

var (
	_ scheme.Machine  = (*Machine)(nil)
	_ scheme.Resigner = (*Machine)(nil)
)

// New makes the machine of one replica. It is a scheme.Factory.
func New(h scheme.Host, o scheme.Options, high int64) scheme.Machine {
	m := &Machine{
		h: h, o: o, timeout: o.Set.Duration(electionOption), heartbeat: o.Set.Duration(heartbeatOption),
		high: min(high, h.Index().End()), leader: broker.None, begins: -1, electAt: scheme.Never, beatAt: scheme.Never, handing: scheme.Never,
		a: scheme.Assignment{Leader: broker.None, Epoch: -1, PartEpoch: -1}, joining: joining{askAt: scheme.Never},
	}
	m.o.FetchWait = min(m.o.FetchWait, m.timeout)
	m.peers, m.pull = pull.NewLeader(h, m.o, &m.high), pull.NewFollower(h, m.o, &m.high)
	m.pull.Cutting, m.pull.Appending = m.cutting, m.appending
	m.state, _ = decode(h.Persisted()) // what cannot be read is lost
	m.term = max(m.term, h.Index().LastEpoch())
	if m.dir == "" || h.Refused() {
		m.dir, m.founders = h.Owner(), nil // a damaged log is as good as a lost one
		m.keep()
	}
	if m.held.term >= 0 && h.Index().End() < m.held.start {
		m.drop() // what came before it was lost with the power
	}
	return m
}

// Assigned implements scheme.Machine. Of what the authority says only the replicas
// count.
func (m *Machine) Assigned(a scheme.Assignment) {
	if a.PartEpoch <= m.a.PartEpoch {
		return
	}
	first := m.a.Replicas == nil
	m.a = a
	if first {
		m.await()
		if m.member() && m.term == 0 {
			m.first()
		}
		m.introduce()
		m.h.Advanced()
	}
}

// ISRAnswer implements scheme.Machine; this scheme proposes nothing.
func (m *Machine) ISRAnswer(int16) {}

// first lets the first replica stand first, so that leaders are spread as replicas are.
func (m *Machine) first() {
	m.electAt = m.h.Now().Mono + time.Duration(slices.Index(m.a.Replicas, m.h.Self()))*m.timeout/2
}

// mute reports whether this replica neither votes nor stands: it cannot know what it
// had.
func (m *Machine) mute() bool { return !m.member() }

// majority is how many of the replicas decide.
func (m *Machine) majority() int { return len(m.a.Replicas)/2 + 1 }

// await draws a new election timeout from now on: no random source, but another
// value for each replica, term and attempt.
func (m *Machine) await() {
	m.drawn++
	x := uint64(m.h.Self())<<40 ^ uint64(uint32(m.term))<<8 ^ m.drawn
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	m.electAt = m.h.Now().Mono + m.timeout + time.Duration(x%uint64(m.timeout))
}

// lastTerm is the term of the last entry, the empty one of a term included.
func (m *Machine) lastTerm() int32 { return max(m.h.Index().LastEpoch(), m.held.term) }

// keep makes term, vote and the held beginning durable.
func (m *Machine) keep() { m.h.Persist(m.encode()) }

// drop gives up the empty entry that is held, durably before anything else happens
// to the log.
func (m *Machine) drop() {
	m.held = nothing
	m.keep()
}

func (m *Machine) cutting(to int64) {
	if m.held.term >= 0 && to < m.held.start {
		m.drop()
	}
}

func (m *Machine) appending(epoch int32) {
	if epoch < m.held.term {
		m.drop() // what comes is of a log that did not have it
	}
}

// become makes this replica a follower: of the leader of a term, or of nobody yet.
func (m *Machine) become(term int32, of broker.NodeID) {
	if m.role == leader {
		m.acks.Abandon(m.h)
		m.peers.Dismiss()
		m.beatAt, m.handing = scheme.Never, scheme.Never
	}
	if term > m.term {
		m.term, m.vote = term, broker.None
		m.keep()
	}
	m.role, m.leader, m.grants, m.begins = follower, of, nil, -1
	m.pull.Stop()
	m.await()
	if of != broker.None {
		m.contact = m.h.Now().Mono
		m.h.Emit(broker.Event{Kind: "follower", Epoch: m.term, Leader: m.h.Name(of), Offset: m.h.Index().End()})
		m.pull.Follow(of, m.term)
	}
	m.h.Advanced()
}

// stand begins an election: with pre-votes, unless the leader asked for it.
func (m *Machine) stand(transfer bool) {
	m.await()
	if m.mute() || m.leaving || !slices.Contains(m.a.Replicas, m.h.Self()) {
		return
	}
	m.pull.Stop()
	m.leader, m.grants = broker.None, []broker.NodeID{m.h.Self()}
	v := Vote{Term: m.term + 1, Pre: !transfer, Transfer: transfer, LastTerm: m.lastTerm(), End: m.h.Index().End()}
	if v.Pre && m.majority() > 1 {
		m.role = prospect
		m.broadcast(&v)
		m.h.Advanced()
		return
	}
	m.campaign(transfer)
}

// campaign asks for the votes of a new term.
func (m *Machine) campaign(transfer bool) {
	m.role = candidate
	m.term++
	m.vote, m.grants = m.h.Self(), []broker.NodeID{m.h.Self()}
	m.keep()
	for _, id := range m.others() {
		m.later(id, &Vote{Term: m.term, Transfer: transfer, LastTerm: m.lastTerm(), End: m.h.Index().End()})
	}
	m.await()
	m.h.Advanced()
}

// lead begins a term as its leader.
func (m *Machine) lead() {
	now := m.h.Now().Mono
	m.role, m.leader, m.electAt = leader, m.h.Self(), scheme.Never
	m.h.Index().StartEpoch(m.term)
	m.start = m.h.Index().End()
	m.held = beginning{m.term, m.start}
	m.keep()
	m.peers.Epoch = m.term
	m.peers.Know(m.a.Replicas)
	m.voters = m.voters[:0]
	for _, id := range m.others() {
		m.voters = append(m.voters, voter{id: id, heard: now})
	}
	m.told, m.toldAt = nil, 0
	m.h.Emit(broker.Event{Kind: "leader", Epoch: m.term, Leader: m.h.Name(m.h.Self()), ISR: m.names(m.a.Replicas), Offset: m.start})
	m.beat()
	m.raise()
	m.h.Advanced()
}

// beat tells all that there is a leader, and looks whether a majority still hears.
func (m *Machine) beat() {
	now := m.h.Now().Mono
	m.beatAt = now + m.heartbeat
	heard := 1
	for _, v := range m.voters {
		if now-v.heard < m.timeout {
			heard++
		}
	}
	if heard < m.majority() {
		m.become(m.term, broker.None)
		return
	}
	m.broadcast(&Lead{Term: m.term, Start: m.start})
	m.report()
}

// report tells the authority who is in sync, where it does not know.
func (m *Machine) report() {
	now := m.h.Now().Mono
	inSync := m.inSync()
	if m.told != nil && !slices.Equal(inSync, m.told) {
		m.h.Emit(broker.Event{Kind: "isr", Epoch: m.term, Leader: m.h.Name(m.h.Self()), ISR: m.names(inSync), Offset: m.high})
	}
	known := m.a.Leader == m.h.Self() && m.a.Epoch == m.term && slices.Equal(m.a.ISR, inSync)
	if !known && (m.toldAt == 0 || now-m.toldAt >= m.timeout || !slices.Equal(inSync, m.told)) {
		m.toldAt = now
		m.h.Report(m.term, inSync)
	}
	m.told = inSync
}

// inSync gives the replicas that hold this term, are heard, and had all that the
// leader had not long ago; for people and tools, since a majority is what counts.
func (m *Machine) inSync() []broker.NodeID {
	now := m.h.Now().Mono
	var ids []broker.NodeID
	for _, id := range m.a.Replicas {
		r, v := m.peers.Find(id), m.voter(id)
		if id == m.h.Self() || r != nil && v != nil && v.holds && now-v.heard < m.timeout && r.Stable >= m.start && now-r.CaughtUp <= 2*m.timeout {
			ids = append(ids, id)
		}
	}
	return ids
}

func (m *Machine) others() []broker.NodeID {
	return slices.DeleteFunc(slices.Clone(m.a.Replicas), func(id broker.NodeID) bool { return id == m.h.Self() })
}

func (m *Machine) voter(id broker.NodeID) *voter {
	if i := slices.IndexFunc(m.voters, func(v voter) bool { return v.id == id }); i >= 0 {
		return &m.voters[i]
	}
	return nil
}

func (m *Machine) broadcast(msg broker.Message) {
	for _, id := range m.others() {
		m.h.Send(id, msg, 0, 0, nil)
	}
}

// later sends a message as soon as everything that is to be kept is durable.
func (m *Machine) later(to broker.NodeID, msg broker.Message) {
	m.waiting = append(m.waiting, letter{to, m.term, msg})
	m.flush()
}

// flush does what waited for what is kept to be durable.
func (m *Machine) flush() {
	if m.h.Persisting() {
		return
	}
	waiting := m.waiting
	m.waiting = nil
	for _, l := range waiting {
		if l.term == m.term {
			m.h.Send(l.to, l.msg, 0, 0, nil)
		}
	}
	m.tally()
}

// tally ends an election that is won. The own vote counts once it is durable.
func (m *Machine) tally() {
	if len(m.grants) < m.majority() {
		return
	}
	switch {
	case m.role == prospect:
		m.campaign(false)
	case m.role == candidate && !m.h.Persisting():
		m.lead()
	}
}

// Message implements scheme.Machine.
func (m *Machine) Message(from broker.NodeID, msg broker.Message) {
	if m.a.Replicas == nil || !slices.Contains(m.a.Replicas, from) {
		return
	}
	switch f := msg.(type) {
	case *Vote:
		m.asked(from, f)
	case *VoteAnswer:
		m.voted(from, f)
	case *Lead:
		m.led(from, f)
	case *LeadAnswer:
		m.heard(from, f)
	case *Take:
		if m.role == follower && f.Term == m.term && from == m.leader {
			m.stand(true)
		}
	case *Ask:
		m.introduced(from, f)
	case *Tell:
		m.learn(from, f)
	case *pull.Fetch:
		m.fetched(from, f)
	case *pull.FetchAnswer:
		if from == m.leader && m.role == follower {
			m.pull.Answered(from, f)
			m.hold()
			m.enter()
		}
	}
}

// asked answers a candidate.
func (m *Machine) asked(from broker.NodeID, v *Vote) {
	if m.mute() {
		return
	}
	alive := m.role == leader || m.leader != broker.None && m.h.Now().Mono-m.contact < m.timeout
	last, end := m.lastTerm(), m.h.Index().End()
	current := v.LastTerm > last || v.LastTerm == last && v.End >= end
	switch {
	case v.Pre:
		m.h.Send(from, &VoteAnswer{Term: v.Term, Pre: true, Granted: v.Term > m.term && current && !alive, Current: m.term}, 0, 0, nil)
		return
	case alive && !v.Transfer && v.Term > m.term:
		return // it did not hear the leader; this replica does
	case v.Term > m.term:
		m.become(v.Term, broker.None)
	}
	if v.Term < m.term || m.role != follower || m.vote != broker.None && m.vote != from || !current {
		m.h.Send(from, &VoteAnswer{Term: v.Term, Current: m.term}, 0, 0, nil)
		return
	}
	if m.vote != from {
		m.vote = from
		m.keep()
	}
	m.await()
	m.later(from, &VoteAnswer{Term: m.term, Granted: true, Current: m.term})
}

// voted counts an answer.
func (m *Machine) voted(from broker.NodeID, a *VoteAnswer) {
	if a.Current > m.term {
		m.become(a.Current, broker.None)
		return
	}
	asked := m.role == prospect && a.Pre && a.Term == m.term+1 || m.role == candidate && !a.Pre && a.Term == m.term
	if asked && a.Granted && !slices.Contains(m.grants, from) {
		m.grants = append(m.grants, from)
		m.tally()
	}
}

// led takes a leader's heartbeat.
func (m *Machine) led(from broker.NodeID, l *Lead) {
	if l.Term < m.term {
		m.h.Send(from, &LeadAnswer{Term: m.term}, 0, 0, nil)
		return
	}
	if m.role == leader && l.Term == m.term {
		return // nobody else leads this term
	}
	if l.Term > m.term || m.leader != from {
		m.become(l.Term, from)
	}
	m.contact, m.begins = m.h.Now().Mono, l.Start
	m.await()
	m.hold()
	m.h.Send(from, &LeadAnswer{Term: m.term, Holds: m.holds()}, 0, 0, nil)
}

// hold takes the empty entry of the leader's term, once this log is known to be the
// leader's up to there.
func (m *Machine) hold() {
	if m.role == follower && m.leader != broker.None && m.held.term != m.term && m.begins >= 0 && m.pull.Matched && m.h.Index().End() >= m.begins {
		m.held = beginning{m.term, m.begins}
		m.keep()
		if m.member() {
			m.later(m.leader, &LeadAnswer{Term: m.term, Holds: true})
		}
	}
}

// holds reports whether the empty entry of this term is here durably, and counts.
func (m *Machine) holds() bool { return m.member() && m.held.term == m.term && !m.h.Persisting() }

// heard takes an answer to a heartbeat.
func (m *Machine) heard(from broker.NodeID, a *LeadAnswer) {
	switch v := m.voter(from); {
	case a.Term > m.term:
		m.become(a.Term, broker.None)
	case m.role != leader || a.Term < m.term || v == nil:
	default:
		v.heard = m.h.Now().Mono
		if a.Holds && !v.holds {
			v.holds = true
			m.raise()
		}
	}
}

// fetched serves a follower's fetch.
func (m *Machine) fetched(from broker.NodeID, f *pull.Fetch) {
	r, diverged := m.peers.Take(from, f)
	if r == nil {
		return
	}
	v := m.voter(from)
	v.heard = m.h.Now().Mono
	if diverged {
		m.peers.Diverged(r, f)
		return
	}
	m.raise()
	if m.role == leader && !v.met {
		v.met = true
		m.peers.Meet(r)
		return
	}
	m.peers.Serve(r)
}

// raise moves the commit to what a majority durably has, if that reaches the
// beginning of the own term: what former terms left is committed by it alone
// (Ongaro 3.6.2), and the empty entry counts as one.
func (m *Machine) raise() {
	if m.role != leader {
		return
	}
	ends := []int64{-1}
	if m.holds() {
		ends[0] = m.h.Stable()
	}
	for _, r := range m.peers.Remotes {
		end := int64(-1)
		if v := m.voter(r.ID); v != nil && v.holds {
			end = r.Stable
		}
		ends = append(ends, end)
	}
	slices.Sort(ends)
	mark := ends[len(ends)-m.majority()]
	if mark >= m.start && mark > m.high {
		m.high = mark
		m.h.Advanced()
		m.peers.ServeParked()
	}
	m.acks.Reach(m.h, m.high, 0)
	m.handOver()
}

// Produce implements scheme.Machine. Every acknowledgement waits for the majority.
func (m *Machine) Produce(p scheme.Produce) {
	if m.role != leader || m.handing != scheme.Never {
		if p.Acks != 0 {
			m.h.Produced(p.Token, scheme.Produced{Code: kerr.NotLeaderForPartition.Code, Base: -1, Text: "this replica does not lead the partition"})
		}
		return
	}
	base, end, done := scheme.Prepare(m.h, p, m.term)
	if done {
		return
	}
	if p.Acks != 0 {
		m.acks.Add(p.Token, base, end, m.h.Now().Mono+p.Timeout)
	}
	m.peers.ServeParked()
	m.raise()
}

// Resign implements scheme.Resigner: writes are refused, and a follower that has
// everything is asked to take over.
func (m *Machine) Resign() {
	m.leaving = true
	if m.role == leader && m.majority() > 1 {
		m.handing = m.h.Now().Mono + m.timeout
		m.handOver()
	}
}

// handOver asks a follower that has everything to take over, once.
func (m *Machine) handOver() {
	if m.handing == scheme.Never || m.leader == broker.None {
		return
	}
	for _, r := range m.peers.Remotes {
		if v := m.voter(r.ID); v != nil && v.holds && m.h.Now().Mono-v.heard < m.timeout && r.Stable == m.h.Index().End() {
			m.h.Send(r.ID, &Take{Term: m.term}, 0, 0, nil)
			return
		}
	}
}

// Stored implements scheme.Machine.
func (m *Machine) Stored() {
	m.flush()
	if m.askAt != scheme.Never && len(m.tells) == 0 {
		m.introduce() // its directory is durable now
	}
	m.enter()
	switch m.role {
	case leader:
		m.raise()
	default:
		m.pull.Stored()
	}
}

// Link implements scheme.Machine. A leader whose connection broke is most often dead:
// its followers ask each other soon, and a pre-vote keeps those from harm that are wrong.
func (m *Machine) Link(peer broker.NodeID, up bool) {
	m.pull.Link(peer, up)
	if m.role == follower && peer == m.leader && !up {
		m.contact = m.h.Now().Mono - m.timeout
		m.electAt = min(m.electAt, m.h.Now().Mono+(m.electAt-m.h.Now().Mono)/8)
	}
}

// Wake implements scheme.Machine.
func (m *Machine) Wake() {
	now := m.h.Now().Mono
	if m.role == leader {
		m.acks.Expire(m.h)
		if m.handing <= now {
			m.handing = scheme.Never // nobody took it
		}
		if m.beatAt <= now {
			m.beat()
		}
		m.peers.ServeParked()
		return
	}
	m.pull.Wake()
	if m.askAt <= now {
		m.introduce()
	}
	if m.electAt <= now {
		m.stand(false)
	}
}

// NextWake implements scheme.Machine.
func (m *Machine) NextWake() time.Duration {
	if m.role == leader {
		return min(m.beatAt, m.acks.Next(), m.handing, m.peers.NextWake())
	}
	return min(m.electAt, m.askAt, m.pull.NextWake())
}

// CheckRead implements scheme.Machine: the leader serves consumers, up to the commit.
func (m *Machine) CheckRead(leaderEpoch int32) (int64, int16) {
	switch {
	case m.role != leader:
		return 0, kerr.NotLeaderForPartition.Code
	case leaderEpoch >= 0 && leaderEpoch < m.term:
		return 0, kerr.FencedLeaderEpoch.Code
	case leaderEpoch > m.term:
		return 0, kerr.UnknownLeaderEpoch.Code
	}
	return m.high, 0
}

// High implements scheme.Machine.
func (m *Machine) High() int64 { return m.high }

// View implements scheme.Machine.
func (m *Machine) View() scheme.View {
	v := scheme.View{Leader: m.leader, Epoch: m.term, InSync: m.a.ISR, Visible: m.high, Writable: m.role == leader && m.handing == scheme.Never}
	if m.role == leader {
		v.InSync, v.EpochStart = m.inSync(), m.start
	}
	return v
}

// Close implements scheme.Machine.
func (m *Machine) Close() {
	m.acks.Abandon(m.h)
	m.peers.Dismiss()
	m.pull.Stop()
	m.role, m.leader, m.electAt, m.askAt, m.waiting = follower, broker.None, scheme.Never, scheme.Never, nil
}

func (m *Machine) names(ids []broker.NodeID) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = m.h.Name(id)
	}
	return names
}
