// Package isr replicates a partition as Kafka does: followers pull, the high
// watermark runs over the maximal in-sync set, leaders carry epochs, and a
// follower truncates to where its epochs part from the leader's.
//
// Sources of the rules: Kafka's Partition.scala, AbstractFetcherThread.scala and
// PartitionChangeBuilder.java; KIP-101 and KIP-279 (truncation by epoch),
// KIP-320 (fencing by leader epoch), KIP-497 (AlterPartition), KIP-841 and
// KIP-903 (broker epoch at joining), KIP-966 part 1 (strict minimum in-sync).
package isr

import (
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/pull"
)

// What replicas say to each other.
type (
	Fetch       = pull.Fetch
	FetchAnswer = pull.FetchAnswer
)

type role uint8

const (
	idle role = iota // offline, or not assigned yet
	leader
	follower
)

// Machine is one replica of one partition. It implements scheme.Machine.
type Machine struct {
	h    scheme.Host
	o    scheme.Options
	a    scheme.Assignment
	role role
	high int64

	// As leader.
	epochStart int64 // log end when the epoch began
	peers      pull.Leader
	maximal    []broker.NodeID // committed in-sync set and everything proposed on its partition epoch
	pending    bool            // a proposal waits for its answer
	all        scheme.Acks     // acks=all, by high watermark
	one        scheme.Acks     // acks=1, by the leader's own stable end
	checkAt    time.Duration   // next look at the in-sync set

	pull pull.Follower
}

var _ scheme.Machine = (*Machine)(nil)

// New makes the machine of one replica. It is a scheme.Factory.
func New(h scheme.Host, o scheme.Options, high int64) scheme.Machine {
	m := &Machine{
		h: h, o: o, high: min(high, h.Index().End()),
		a:       scheme.Assignment{Leader: broker.None, Epoch: -1, PartEpoch: -1},
		checkAt: scheme.Never,
	}
	m.peers, m.pull = pull.NewLeader(h, o, &m.high), pull.NewFollower(h, o, &m.high)
	return m
}

// Assigned implements scheme.Machine.
func (m *Machine) Assigned(a scheme.Assignment) {
	if a.PartEpoch <= m.a.PartEpoch || a.Epoch < m.a.Epoch {
		return
	}
	if m.o.Mutants.On(mutant.MinISRIgnored) {
		a.MinISR = 1
	}
	old := m.a
	m.a = a
	m.peers.Epoch = a.Epoch
	switch {
	case a.Leader == m.h.Self() && !m.h.Refused():
		switch {
		case m.role == leader && a.Epoch == old.Epoch:
			m.committed(old)
			return
		case m.role == leader && a.Epoch == old.Epoch+1:
			// Replicas left, which takes a new epoch. Nobody else led in between, so what
			// waits for an acknowledgement goes on waiting.
			m.peers.Dismiss()
		default:
			m.stepDown()
		}
		m.lead()
	case a.Leader != broker.None && a.Leader != m.h.Self():
		if m.role == follower && a.Epoch == old.Epoch {
			return
		}
		m.stepDown()
		m.follow()
	default:
		m.stepDown()
		m.role = idle
		m.pull.Stop()
		m.h.Advanced()
	}
}

// lead begins a leader epoch here.
func (m *Machine) lead() {
	m.pull.Stop()
	m.role = leader
	now := m.h.Now().Mono
	m.h.Index().StartEpoch(m.a.Epoch)
	m.epochStart = m.h.Index().End()
	m.peers.Know(m.a.Replicas)
	if m.o.Mutants.On(mutant.LeadCommitsAll) {
		m.high = m.epochStart
	}
	m.maximal = slices.Clone(m.a.ISR)
	m.pending = false
	m.checkAt = now + m.o.ReplicaLag/2
	if m.a.Unclean {
		m.h.Emit(broker.Event{Kind: "unclean", Epoch: m.a.Epoch, Leader: m.h.Name(m.h.Self()), Offset: m.epochStart, Detail: "elected outside the in-sync set"})
	}
	if m.a.Eligible {
		m.h.Emit(broker.Event{Kind: "eligible", Epoch: m.a.Epoch, Leader: m.h.Name(m.h.Self()), Offset: m.epochStart, Detail: "elected as an eligible leader replica"})
	}
	m.h.Emit(broker.Event{Kind: "leader", Epoch: m.a.Epoch, Leader: m.h.Name(m.h.Self()), ISR: m.names(m.a.ISR), Offset: m.epochStart})
	m.raise()
	m.h.Advanced()
}

// stepDown ends this replica's leadership, if it has it. Writes in the log may
// still take effect, so their answer is REQUEST_TIMED_OUT.
func (m *Machine) stepDown() {
	if m.role != leader {
		return
	}
	m.role = idle
	m.all.Abandon(m.h)
	m.one.Abandon(m.h)
	m.peers.Dismiss()
	m.checkAt = scheme.Never
}

// follow begins to pull from the leader of the present epoch.
func (m *Machine) follow() {
	m.role = follower
	m.h.Emit(broker.Event{Kind: "follower", Epoch: m.a.Epoch, Leader: m.h.Name(m.a.Leader), Offset: m.h.Index().End()})
	m.h.Advanced()
	m.pull.Follow(m.a.Leader, m.a.Epoch)
}

// committed takes over a new in-sync set, or other replicas, in the same epoch. A
// raised partition epoch voids every proposal that was based on the former one.
func (m *Machine) committed(old scheme.Assignment) {
	m.peers.Know(m.a.Replicas)
	m.maximal = slices.Clone(m.a.ISR)
	m.pending = false
	for _, r := range m.peers.Remotes {
		if m.a.PartEpoch > old.PartEpoch+1 && !slices.Contains(m.a.ISR, r.ID) {
			// Changes were skipped (a snapshot of the metadata): it may have left and come
			// back, empty.
			r.End, r.Stable = -1, -1
		}
	}
	if !slices.Equal(old.ISR, m.a.ISR) {
		m.h.Emit(broker.Event{Kind: "isr", Epoch: m.a.Epoch, Leader: m.h.Name(m.h.Self()), ISR: m.names(m.a.ISR), Offset: m.high})
	}
	m.raise()
	m.expand()
}

// ISRAnswer implements scheme.Machine. Where the outcome is unknown, the members
// that were proposed stay in the maximal set: the proposal may be applied yet.
// Otherwise the committed set is all there is (Kafka: Partition.handleAlterPartitionError).
func (m *Machine) ISRAnswer(code int16) {
	if m.role != leader || !m.pending {
		return
	}
	m.pending = false
	m.checkAt = min(m.checkAt, m.h.Now().Mono+m.o.FetchRetry)
	if code != kerr.RequestTimedOut.Code {
		m.maximal = slices.Clone(m.a.ISR)
		m.raise()
	}
}

// Produce implements scheme.Machine.
func (m *Machine) Produce(p scheme.Produce) {
	refuse := func(e *kerr.Error, text string) {
		if p.Acks != 0 {
			m.h.Produced(p.Token, scheme.Produced{Code: e.Code, Base: -1, Text: text})
		}
	}
	if m.role != leader {
		refuse(kerr.NotLeaderForPartition, "this replica does not lead the partition")
		return
	}
	if p.Acks == -1 && len(m.a.ISR) < m.a.MinISR {
		if m.o.Mutants.On(mutant.AppendThenRefuse) {
			_, _, _ = scheme.Prepare(m.h, p, m.a.Epoch)
		}
		refuse(kerr.NotEnoughReplicas, fmt.Sprintf("%d in-sync replicas, min.insync.replicas is %d", len(m.a.ISR), m.a.MinISR))
		return
	}
	if c, at := m.h.Index().CheckSeq(p.Info); c == logindex.SeqDuplicate &&
		(m.o.Mutants.On(mutant.RetryTwice) || m.o.Mutants.On(mutant.ForgetProducers) && m.h.Index().EpochAt(at) < m.a.Epoch) {
		p.Info.ProducerID = batch.NoProducer
	}
	base, end, done := scheme.Prepare(m.h, p, m.a.Epoch)
	if done {
		return
	}
	deadline := m.h.Now().Mono + p.Timeout
	switch p.Acks {
	case -1:
		if m.o.Mutants.On(mutant.AckByLeaderAlone) {
			m.one.Add(p.Token, base, end, deadline)
			break
		}
		m.all.Add(p.Token, base, end, deadline)
	case 1:
		m.one.Add(p.Token, base, end, deadline)
	}
	m.peers.ServeParked()
	m.raise()
}

// Stored implements scheme.Machine.
func (m *Machine) Stored() {
	switch m.role {
	case leader:
		m.raise()
	case follower:
		m.pull.Stored()
	}
}

// raise moves the high watermark to the lowest stable end over the maximal
// in-sync set and over replicas that are about to join it, and answers what
// waited for it. It does not move while the committed set is below the minimum.
func (m *Machine) raise() {
	m.one.Reach(m.h, m.h.Stable(), 0)
	if m.role != leader {
		return
	}
	if len(m.a.ISR) >= m.a.MinISR && slices.Contains(m.a.ISR, m.h.Self()) {
		mark := m.h.Stable()
		for _, r := range m.peers.Remotes {
			if m.o.Mutants.On(mutant.ExpansionAfterReply) && !slices.Contains(m.a.ISR, r.ID) {
				continue
			}
			if slices.Contains(m.maximal, r.ID) || m.joining(r) {
				if m.o.Mutants.On(mutant.HighFromOneFollower) {
					mark = m.h.Stable()
				}
				mark = min(mark, r.Stable)
			}
		}
		if mark > m.high {
			m.high = mark
			m.h.Advanced()
			m.peers.ServeParked()
		}
	}
	code := int16(0)
	if len(m.a.ISR) < m.a.MinISR {
		code = kerr.NotEnoughReplicasAfterAppend.Code
	}
	m.all.Reach(m.h, m.high, code)
}

// joining reports whether a replica outside the in-sync set is so close that the
// high watermark waits for it (Kafka: Partition.maybeIncrementLeaderHW).
func (m *Machine) joining(r *pull.Remote) bool {
	return r.End >= m.epochStart && m.inTime(r) && m.h.Eligible(r.ID, r.BrokerEpoch)
}

// inTime reports whether a replica has had all that the leader had within
// replica.lag.time.max.
func (m *Machine) inTime(r *pull.Remote) bool {
	return r.End >= 0 && m.h.Now().Mono-r.CaughtUp <= m.o.ReplicaLag
}

// Message implements scheme.Machine.
func (m *Machine) Message(from broker.NodeID, msg broker.Message) {
	switch f := msg.(type) {
	case *Fetch:
		m.fetched(from, f)
	case *FetchAnswer:
		m.pull.Answered(from, f)
	}
}

// fetched serves a follower's fetch.
func (m *Machine) fetched(from broker.NodeID, f *Fetch) {
	r, diverged := m.peers.Take(from, f)
	switch {
	case r == nil:
		return
	case diverged:
		if m.o.Mutants.On(mutant.HighBeforeTruncation) {
			r.End, r.Stable = f.Offset, f.Stable
			m.raise()
		}
		m.peers.Diverged(r, f)
		return
	}
	m.expand()
	m.raise()
	m.peers.Serve(r)
}

// expand proposes to take caught-up followers into the in-sync set: their stable
// end has reached the high watermark and the start of this epoch. One that is
// silent does not come back by that alone, though nothing was written since.
func (m *Machine) expand() {
	if m.role != leader || m.pending {
		return
	}
	want := slices.Clip(m.a.ISR) // an append copies it
	for _, r := range m.peers.Remotes {
		if !slices.Contains(want, r.ID) && m.inTime(r) && (r.Stable >= m.high && r.Stable >= m.epochStart || m.o.Mutants.On(mutant.JoinBehind)) && m.h.Eligible(r.ID, r.BrokerEpoch) {
			want = append(want, r.ID)
		}
	}
	if len(want) > len(m.a.ISR) {
		m.propose(want)
	}
}

// review proposes the in-sync set without the followers that have not caught up
// for longer than replica.lag.time.max.
func (m *Machine) review() {
	if m.pending {
		return
	}
	now := m.h.Now().Mono
	want := []broker.NodeID{}
	for _, id := range m.maximal {
		r := m.peers.Find(id)
		if r == nil || now-r.CaughtUp <= m.o.ReplicaLag && (slices.Contains(m.a.ISR, id) || m.h.Eligible(id, r.BrokerEpoch)) {
			want = append(want, id)
		}
	}
	if !slices.Equal(want, m.a.ISR) || len(m.maximal) != len(m.a.ISR) {
		m.propose(want)
		return
	}
	m.expand()
}

// propose asks for an in-sync set. Until the answer is known, its members count
// for the high watermark as well (the maximal in-sync set).
func (m *Machine) propose(isr []broker.NodeID) {
	isr = m.inOrder(isr)
	members := make([]scheme.Member, len(isr))
	for i, id := range isr {
		members[i] = scheme.Member{ID: id, Epoch: m.h.BrokerEpoch()}
		for _, r := range m.peers.Remotes {
			if r.ID == id {
				members[i].Epoch = r.BrokerEpoch
			}
		}
		if !slices.Contains(m.maximal, id) {
			m.maximal = append(m.maximal, id)
		}
	}
	m.pending = true
	if m.o.Mutants.On(mutant.ShrinkBeforeReply) && len(isr) < len(m.a.ISR) {
		m.a.ISR, m.maximal = isr, isr
	}
	m.h.ProposeISR(m.a.Epoch, m.a.PartEpoch, members)
}

// inOrder sorts ids into assignment order.
func (m *Machine) inOrder(ids []broker.NodeID) []broker.NodeID {
	var sorted []broker.NodeID
	for _, id := range m.a.Replicas {
		if slices.Contains(ids, id) {
			sorted = append(sorted, id)
		}
	}
	return sorted
}

// Link implements scheme.Machine.
func (m *Machine) Link(peer broker.NodeID, up bool) {
	m.pull.Link(peer, up)
}

// Wake implements scheme.Machine.
func (m *Machine) Wake() {
	now := m.h.Now().Mono
	switch m.role {
	case leader:
		if m.o.Mutants.On(mutant.TimeoutAcknowledged) && m.all.Next() <= now {
			m.all.Reach(m.h, m.h.Index().End(), 0)
		}
		m.all.Expire(m.h)
		m.one.Expire(m.h)
		if m.checkAt <= now {
			m.checkAt = now + m.o.ReplicaLag/2
			m.review()
			m.raise() // a replica that was about to join may have fallen behind
		}
		m.peers.ServeParked()
	case follower:
		m.pull.Wake()
	}
}

// NextWake implements scheme.Machine.
func (m *Machine) NextWake() time.Duration {
	switch m.role {
	case leader:
		return min(m.checkAt, m.all.Next(), m.one.Next(), m.peers.NextWake())
	case follower:
		return m.pull.NextWake()
	}
	return scheme.Never
}

// CheckRead implements scheme.Machine: only the leader serves consumers, up to
// the high watermark, and only those that believe in its epoch (KIP-320).
func (m *Machine) CheckRead(leaderEpoch int32) (int64, int16) {
	switch {
	case m.role != leader:
		return 0, kerr.NotLeaderForPartition.Code
	case leaderEpoch >= 0 && leaderEpoch < m.a.Epoch:
		return 0, kerr.FencedLeaderEpoch.Code
	case m.o.Mutants.On(mutant.ReadBeyondHigh), m.o.Mutants.On(mutant.ZombieReads) && leaderEpoch > m.a.Epoch:
		return m.h.Index().End(), 0
	case leaderEpoch > m.a.Epoch:
		return 0, kerr.UnknownLeaderEpoch.Code
	}
	return m.high, 0
}

// High implements scheme.Machine.
func (m *Machine) High() int64 { return m.high }

// View implements scheme.Machine.
func (m *Machine) View() scheme.View {
	return scheme.View{
		Leader: m.a.Leader, Epoch: m.a.Epoch, InSync: m.a.ISR, Visible: m.high, EpochStart: m.startShown(),
		Writable: m.role == leader && len(m.a.ISR) >= m.a.MinISR,
	}
}

func (m *Machine) startShown() int64 {
	if m.role == leader {
		return m.epochStart
	}
	return 0
}

// Close implements scheme.Machine.
func (m *Machine) Close() {
	m.stepDown()
	m.pull.Stop()
	m.role = idle
}

func (m *Machine) names(ids []broker.NodeID) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = m.h.Name(id)
	}
	return names
}
