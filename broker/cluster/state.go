package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
)

// State is what a node has applied of the metadata: a read-only view that moves
// on with the Cluster that gave it. The topics, partitions and brokers that it
// gives out never change: a change replaces them.
type State struct {
	self        broker.NodeID
	incarnation string
	controller  broker.NodeID
	applied     uint64

	nextProducer int64
	placed       uint64 // partitions placed so far: where the next placement starts
	brokers      []*Broker
	topics       []*Topic
	proposers    []*proposer
	conf         *pb.ConfState // members of the quorum
	voting       *voterChange  // the change of them that is under way
	mutants      mutant.Set
}

// proposer is what is remembered of a node's proposals, so that none is applied twice.
type proposer struct {
	Node         broker.NodeID
	Incarnations []string // the newest ones, the current one last
	Oldest       Ticket   // tickets below are finished
	Applied      []Ticket // from Oldest on, ascending
}

// rememberedIncarnations bounds proposer.Incarnations.
const rememberedIncarnations = 8

func newState(self broker.NodeID, incarnation string) *State {
	return &State{self: self, incarnation: incarnation, controller: broker.None, nextProducer: 1}
}

// Topic returns a topic, or nil.
func (s *State) Topic(name string) *Topic {
	if i, ok := s.findTopic(name); ok {
		return s.topics[i]
	}
	return nil
}

// TopicByID returns a topic, or nil.
func (s *State) TopicByID(id [16]byte) *Topic {
	for _, t := range s.topics {
		if t.ID == id {
			return t
		}
	}
	return nil
}

// Topics returns all topics in name order.
func (s *State) Topics() []*Topic { return slices.Clone(s.topics) }

// Partition returns a partition, or nil.
func (s *State) Partition(topic string, index int32) *Partition {
	if t := s.Topic(topic); t != nil && index >= 0 && int(index) < len(t.Partitions) {
		return t.Partitions[index]
	}
	return nil
}

// Broker returns a registered broker, or nil.
func (s *State) Broker(id broker.NodeID) *Broker {
	if i, ok := s.findBroker(id); ok {
		return s.brokers[i]
	}
	return nil
}

// Brokers returns the registered brokers by id, fenced ones too.
func (s *State) Brokers() []*Broker { return slices.Clone(s.brokers) }

// Controller is the raft leader as this node knows it, None if unknown. It is
// this node's view, no part of the replicated state.
func (s *State) Controller() broker.NodeID { return s.controller }

// Registered is the broker epoch of this incarnation of this node, -1 while it is
// not registered.
func (s *State) Registered() int64 {
	if b := s.own(); b != nil {
		return b.Epoch
	}
	return -1
}

// Applied is the raft index up to which the metadata is applied.
func (s *State) Applied() uint64 { return s.applied }

// own is the registration of this incarnation, or nil.
func (s *State) own() *Broker {
	if b := s.Broker(s.self); b != nil && b.Incarnation == s.incarnation {
		return b
	}
	return nil
}

func (s *State) findTopic(name string) (int, bool) {
	return slices.BinarySearchFunc(s.topics, name, func(t *Topic, n string) int { return cmp.Compare(t.Name, n) })
}

func (s *State) findBroker(id broker.NodeID) (int, bool) {
	return slices.BinarySearchFunc(s.brokers, id, func(b *Broker, id broker.NodeID) int { return cmp.Compare(b.ID, id) })
}

func (s *State) setBroker(b Broker) {
	i, ok := s.findBroker(b.ID)
	if ok {
		s.brokers[i] = &b
		return
	}
	s.brokers = slices.Insert(s.brokers, i, &b)
}

// electable: a broker that may lead, and may join an in-sync set.
func (s *State) electable(id broker.NodeID) bool {
	b := s.Broker(id)
	return b != nil && !b.Fenced && !b.Leaving
}

// image is the replicated part of the state as a snapshot holds it.
type image struct {
	NextProducer int64
	Placed       uint64
	Brokers      []*Broker
	Topics       []*Topic
	Proposers    []*proposer
	Voting       *voterChange
}

func (s *State) marshal() ([]byte, error) {
	return encoding.Marshal(image{s.nextProducer, s.placed, s.brokers, s.topics, s.proposers, s.voting})
}

// restore replaces the replicated part with a snapshot's. On an error the state is unchanged.
func (s *State) restore(index uint64, data []byte) error {
	var m image
	if err := decoding.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("decoding the snapshot: %w", err)
	}
	if err := m.check(); err != nil {
		return fmt.Errorf("the snapshot is not one of ours: %w", err)
	}
	s.applied = index
	s.nextProducer, s.placed, s.brokers, s.topics, s.proposers, s.voting = m.NextProducer, m.Placed, m.Brokers, m.Topics, m.Proposers, m.Voting
	return nil
}

// check finds what would break the code that relies on a snapshot's shape.
func (m *image) check() error {
	if slices.Contains(m.Brokers, nil) || slices.Contains(m.Topics, nil) || slices.Contains(m.Proposers, nil) {
		return errors.New("a broker, topic or proposer is missing")
	}
	ascending := slices.IsSortedFunc(m.Brokers, func(a, b *Broker) int { return strictly(cmp.Compare(a.ID, b.ID)) }) &&
		slices.IsSortedFunc(m.Topics, func(a, b *Topic) int { return strictly(cmp.Compare(a.Name, b.Name)) }) &&
		slices.IsSortedFunc(m.Proposers, func(a, b *proposer) int { return strictly(cmp.Compare(a.Node, b.Node)) })
	if !ascending {
		return errors.New("brokers, topics and proposers are not in order")
	}
	for _, p := range m.Proposers {
		if len(p.Incarnations) == 0 {
			return fmt.Errorf("proposer %d has no incarnation", p.Node)
		}
	}
	for _, t := range m.Topics {
		for i, p := range t.Partitions {
			switch {
			case p == nil:
				return fmt.Errorf("partition %s-%d is missing", t.Name, i)
			case p.Topic != t.Name || p.Index != int32(i):
				return fmt.Errorf("partition %s-%d stands at %s-%d", p.Topic, p.Index, t.Name, i)
			case len(p.Removing) >= len(p.Replicas) && len(p.Replicas) > 0 || !slices.Equal(p.Replicas[len(p.Replicas)-len(p.Removing):], p.Removing):
				return fmt.Errorf("partition %s-%d: replicas %v do not end with the leaving %v", t.Name, i, p.Replicas, p.Removing)
			case len(p.Replicas) == 0 || len(p.ISR) == 0 && (!t.Eligible || p.Leader != broker.None):
				return fmt.Errorf("partition %s-%d has no replica or no in-sync replica", t.Name, i)
			}
		}
	}
	return nil
}

// strictly makes IsSortedFunc refuse equal neighbours, too: it asks whether the
// second is less than the first.
func strictly(c int) int {
	if c == 0 {
		return -1
	}
	return c
}

// everything gives the whole state as changes.
func (s *State) everything() []Change {
	var changes []Change
	for _, t := range s.topics {
		for _, p := range t.Partitions {
			changes = append(changes, Change{Topic: t, Partition: p})
		}
	}
	return changes
}

// since gives the changes from earlier topics to the present ones. What happened
// between, an unclean election for one, is not known.
func (s *State) since(earlier []*Topic) []Change {
	var changes []Change
	before := map[[16]byte]*Topic{}
	for _, t := range earlier {
		before[t.ID] = t
		if s.TopicByID(t.ID) == nil {
			changes = append(changes, Change{Topic: t, Deleted: true})
		}
	}
	for _, c := range s.everything() {
		if t := before[c.Topic.ID]; t == nil || int(c.Partition.Index) >= len(t.Partitions) ||
			t.Partitions[c.Partition.Index].PartEpoch != c.Partition.PartEpoch {
			changes = append(changes, c)
		}
	}
	return changes
}

// admit says whether a proposal is to be applied, and remembers that it was. A
// duplicate, and one whose proposer has given it up, is not.
func (s *State) admit(e *envelope) bool {
	i, ok := slices.BinarySearchFunc(s.proposers, e.Node, func(p *proposer, id broker.NodeID) int { return cmp.Compare(p.Node, id) })
	if !ok {
		s.proposers = slices.Insert(s.proposers, i, &proposer{Node: e.Node, Incarnations: []string{e.Incarnation}})
	}
	p := s.proposers[i]
	if current := len(p.Incarnations) - 1; p.Incarnations[current] != e.Incarnation {
		if slices.Contains(p.Incarnations, e.Incarnation) {
			return false // an earlier incarnation's, late
		}
		if len(p.Incarnations) == rememberedIncarnations {
			p.Incarnations = p.Incarnations[1:]
		}
		p.Incarnations = append(p.Incarnations, e.Incarnation)
		p.Oldest, p.Applied = 0, nil
	}
	if e.Oldest > p.Oldest {
		p.Oldest = e.Oldest
		p.Applied = slices.DeleteFunc(p.Applied, func(t Ticket) bool { return t < e.Oldest })
	}
	at, found := slices.BinarySearch(p.Applied, e.Ticket)
	if found || e.Ticket < p.Oldest {
		return false
	}
	p.Applied = slices.Insert(p.Applied, at, e.Ticket)
	return true
}

// change replaces a partition with one of this leader and in-sync set, if they
// differ, and adds that to changes. The leader epoch goes up with every change of
// leader, also to and from None, and when replicas leave, so that a fetch which one
// of them sent before does not count once it is back; with nothing else (Kafka
// since KAFKA-15021: no longer when the in-sync set shrinks).
func (s *State) change(changes *[]Change, p *Partition, leader broker.NodeID, isr []broker.NodeID, unclean bool) {
	if leader == p.Leader && slices.Equal(isr, p.ISR) {
		return
	}
	s.replace(changes, p, *p, leader, isr, unclean)
}

// replace does the same to a partition of which more changes, as next has it: its
// replicas, or who of the sets can still be trusted.
func (s *State) replace(changes *[]Change, p *Partition, next Partition, leader broker.NodeID, isr []broker.NodeID, unclean bool) {
	elr := s.eligible(&next, isr)
	if unclean {
		elr = nil // what is not on the new leader is given up
	}
	next.ISR, next.ELR = slices.Clone(isr), elr
	next.PartEpoch++
	if (leader != p.Leader || len(minus(p.Replicas, next.Replicas)) > 0) && !s.mutants.On(mutant.EpochNotBumped) {
		next.Epoch++
	}
	if leader != p.Leader {
		next.Leader = leader
		if leader != broker.None {
			next.LastLeader = leader
		}
	}
	t := s.put(&next)
	eligible := !unclean && leader != p.Leader && slices.Contains(p.ELR, leader)
	*changes = append(*changes, Change{Topic: t, Partition: &next, Unclean: unclean, Eligible: eligible})
}

// put replaces a partition of its topic.
func (s *State) put(p *Partition) *Topic {
	i, _ := s.findTopic(p.Topic)
	t := *s.topics[i]
	t.Partitions = slices.Clone(t.Partitions)
	t.Partitions[p.Index] = p
	s.topics[i] = &t
	return &t
}

// least is how many replicas have to be in sync for anything to be acknowledged
// (Kafka: ReplicationControlManager.getTopicEffectiveMinIsr).
func (s *State) least(p *Partition) int {
	return min(int(s.Topic(p.Topic).MinISR), len(p.Replicas))
}

// eligible gives the eligible leader replicas of a partition whose in-sync set
// becomes isr: as long as that is below the minimum, all that left it meanwhile. They
// have every acknowledged record, because the high watermark, too, stands still below
// the minimum (KIP-966; Kafka: PartitionChangeBuilder.maybePopulateTargetElr).
func (s *State) eligible(p *Partition, isr []broker.NodeID) []broker.NodeID {
	if !s.Topic(p.Topic).Eligible || len(isr) >= s.least(p) {
		return nil
	}
	return minus(ordered(p.Replicas, slices.Concat(p.ISR, p.ELR)), isr)
}

// elect chooses a leader for a partition whose in-sync set becomes isr, in the order
// of Kafka's PartitionChangeBuilder.electAnyLeader:
//   - the first in assignment order that is in the in-sync set and may lead;
//   - where that set is empty, the first that is eligible;
//   - where nobody is eligible either, the last leader: all that had the acknowledged
//     records went down out of order since, and of them it was the last. That is what
//     brings a partition back after the death of every process, which loses nothing;
//   - if unclean allows it, any replica that may lead.
//
// It returns the in-sync set as well: of a leader that was not in it, that leader
// alone. Without a leader, None, it stays. The last two elections are unclean: where
// the former leader's disk was lost, too, so is what was acknowledged. So the promise
// is that of KIP-966: nothing is lost as long as fewer replicas go down out of order,
// before the in-sync set is at its minimum again, than that minimum.
func (s *State) elect(p *Partition, isr []broker.NodeID, unclean bool) (broker.NodeID, []broker.NodeID, bool) {
	if s.Topic(p.Topic).Election == ElectFixed && !unclean {
		if s.electable(p.LastLeader) {
			return p.LastLeader, ordered(p.Replicas, append(minus(isr, []broker.NodeID{p.LastLeader}), p.LastLeader)), false
		}
		return broker.None, isr, false
	}
	candidates := isr
	if len(isr) == 0 {
		candidates = s.eligible(p, nil)
	}
	for _, id := range p.Replicas {
		if slices.Contains(candidates, id) && s.electable(id) {
			if len(isr) == 0 {
				isr = []broker.NodeID{id}
			}
			return id, isr, false
		}
	}
	if len(candidates) == 0 && slices.Contains(p.Replicas, p.LastLeader) && s.electable(p.LastLeader) {
		return p.LastLeader, []broker.NodeID{p.LastLeader}, true
	}
	if unclean || s.mutants.On(mutant.UncleanElection) {
		for _, id := range p.Replicas {
			if s.electable(id) {
				return id, []broker.NodeID{id}, true
			}
		}
	}
	return broker.None, isr, false
}

// preferable says whether a partition's preferred leader may lead.
func (s *State) preferable(p *Partition) bool {
	preferred := p.Replicas[0]
	return s.electable(preferred) && (slices.Contains(p.ISR, preferred) || s.mutants.On(mutant.ElectOutOfSync))
}

// hosted gives the partitions of which a broker has a replica.
func (s *State) hosted(id broker.NodeID) []*Partition {
	var ps []*Partition
	for _, t := range s.topics {
		for _, p := range t.Partitions {
			if slices.Contains(p.Replicas, id) {
				ps = append(ps, p)
			}
		}
	}
	return ps
}

// decided gives those of them whose leaders the quorum makes.
func (s *State) decided(id broker.NodeID) []*Partition {
	return slices.DeleteFunc(s.hosted(id), func(p *Partition) bool { return s.Topic(p.Topic).Election == ElectReplicas })
}

// unclean reports whether the quorum may elect a replica outside the in-sync set by
// itself.
func (s *State) unclean(p *Partition) bool {
	t := s.Topic(p.Topic)
	return t.Unclean && t.Election == ElectInSync
}

// without removes a broker from a partition's in-sync set. As its last member it
// stays where there are no eligible leader replicas: nothing else says then that it
// has every acknowledged record.
func (s *State) without(p *Partition, id broker.NodeID) []broker.NodeID {
	if len(p.ISR) == 1 && !s.Topic(p.Topic).Eligible {
		return p.ISR
	}
	return minus(p.ISR, []broker.NodeID{id})
}

// gone takes a broker that is fenced by now out of every in-sync set and elects
// leaders where it led. One that went down out of order is not eligible any more
// either: what it had not synced may be lost, or its disk (Kafka:
// ReplicationControlManager.handleBrokerShutdown). It may also have lost nothing, if
// only its process died; Kafka does not tell these apart, and nor is it done here.
func (s *State) gone(id broker.NodeID, crashed bool) []Change {
	var changes []Change
	for _, p := range s.decided(id) {
		next := *p
		leader, isr, unclean := p.Leader, s.without(p, id), false
		if crashed && s.Topic(p.Topic).Eligible {
			next.ISR, next.ELR = isr, minus(p.ELR, []broker.NodeID{id})
		}
		if leader == id || leader == broker.None { // the last eligible one may have gone, and the last leader be up
			leader, isr, unclean = s.elect(&next, isr, s.unclean(p))
		}
		if leader != p.Leader || !slices.Equal(isr, p.ISR) || len(next.ELR) != len(p.ELR) {
			s.replace(&changes, p, next, leader, isr, unclean)
		}
	}
	return changes
}

// back elects leaders where there was none and this broker can change that.
func (s *State) back(id broker.NodeID) []Change {
	var changes []Change
	for _, p := range s.decided(id) {
		if p.Leader == broker.None {
			leader, isr, unclean := s.elect(p, p.ISR, s.unclean(p))
			s.change(&changes, p, leader, isr, unclean)
		}
	}
	return changes
}

// leave takes a leaving broker out of one partition: it hands over leadership and
// leaves the in-sync set. Where no other in-sync or eligible replica can lead it stays
// the leader until it stops: better than no leader (Kafka goes offline at once).
func (s *State) leave(changes *[]Change, p *Partition, id broker.NodeID) {
	leader, isr := p.Leader, s.without(p, id)
	if leader == id {
		if leader, isr, _ = s.elect(p, isr, false); leader == broker.None {
			return
		}
	}
	s.change(changes, p, leader, isr, false)
}
