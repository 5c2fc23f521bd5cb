package cluster

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
)

// maxPartitions bounds a topic (Kafka: 10,000 per request).
const maxPartitions = 10_000

// outcome is what a command did.
type outcome struct {
	code    int16
	text    string
	value   any
	changes []Change
}

func refuse(e *kerr.Error, format string, args ...any) outcome {
	return outcome{code: e.Code, text: fmt.Sprintf(format, args...)}
}

// apply applies one committed command of raft index and term. Every node comes to
// the same outcome: it depends on the state and the entry alone. It reports false
// for a proposal that was applied before, or that its proposer gave up.
func (s *State) apply(index, term uint64, e *envelope, cmd Command) (outcome, bool) {
	if !s.admit(e) {
		return outcome{}, false
	}
	if e.Term != 0 && e.Term != term {
		return refuse(kerr.NotController, "node %d decided this as the controller of term %d; the term is %d", e.Node, e.Term, term), true
	}
	switch c := cmd.(type) {
	case RegisterBroker:
		return s.register(index, e, c), true
	case SetFenced:
		return s.setFenced(c), true
	case SetLeaving:
		return s.setLeaving(index, c), true
	case CreateTopic:
		return s.createTopic(index, e, c), true
	case DeleteTopic:
		return s.deleteTopic(c), true
	case AlterPartition:
		return s.alterPartition(c), true
	case ReportLeader:
		return s.reportLeader(c), true
	case ElectLeaders:
		return s.electLeaders(c), true
	case Reassign:
		return s.reassign(c), true
	case UnregisterBroker:
		return s.unregister(c), true
	case AddVoter:
		return s.addVoter(c), true
	case RemoveVoter:
		return s.removeVoter(c), true
	case changeMember:
		return s.member(c), true
	default: // AllocateProducerID: decodeEnvelope gives no other
		id := s.nextProducer
		s.nextProducer++
		return outcome{value: id}, true
	}
}

func (s *State) register(index uint64, e *envelope, c RegisterBroker) outcome {
	if c.ID != e.Node || c.Incarnation != e.Incarnation {
		return refuse(kerr.InvalidRequest, "node %d, incarnation %q, cannot register broker %d, incarnation %q", e.Node, e.Incarnation, c.ID, c.Incarnation)
	}
	former := s.Broker(c.ID)
	if former != nil && former.Incarnation == c.Incarnation {
		return outcome{value: former}
	}
	s.setBroker(Broker{
		ID: c.ID, Name: c.Name, Host: c.Host, Port: c.Port, Rack: c.Rack,
		Incarnation: c.Incarnation, Epoch: int64(index), Fenced: true,
	})
	if s.mutants.On(mutant.StayInSync) {
		return outcome{value: s.Broker(c.ID)}
	}
	changes := s.gone(c.ID, former == nil || former.Epoch != c.PreviousEpoch)
	if s.mutants.On(mutant.ForgetInSync) {
		for _, p := range s.hosted(c.ID) {
			s.change(&changes, p, p.Leader, p.Replicas, false)
		}
	}
	return outcome{value: s.Broker(c.ID), changes: changes}
}

// registered finds a broker of exactly this epoch.
func (s *State) registered(id broker.NodeID, epoch int64) (Broker, *outcome) {
	b := s.Broker(id)
	if b == nil {
		o := refuse(kerr.BrokerIDNotRegistered, "broker %d is not registered", id)
		return Broker{}, &o
	}
	if b.Epoch != epoch {
		o := refuse(kerr.StaleBrokerEpoch, "broker %d has epoch %d, not %d", id, b.Epoch, epoch)
		return Broker{}, &o
	}
	return *b, nil
}

func (s *State) setFenced(c SetFenced) outcome {
	b, bad := s.registered(c.ID, c.Epoch)
	if bad != nil {
		return *bad
	}
	if b.Fenced == c.Fenced {
		return outcome{}
	}
	b.Fenced = c.Fenced
	s.setBroker(b)
	if b.Fenced {
		return outcome{changes: s.gone(b.ID, false)}
	}
	return outcome{changes: s.back(b.ID)}
}

func (s *State) setLeaving(index uint64, c SetLeaving) outcome {
	b, bad := s.registered(c.ID, c.Epoch)
	if bad != nil {
		return *bad
	}
	if b.Leaving {
		return outcome{}
	}
	b.Leaving, b.LeavingAt = true, index
	s.setBroker(b)
	var o outcome
	for _, p := range s.decided(b.ID) {
		s.leave(&o.changes, p, b.ID)
	}
	return o
}

func (s *State) createTopic(index uint64, e *envelope, c CreateTopic) outcome {
	t, bad := s.newTopic(index, c)
	if bad != nil {
		return *bad
	}
	if t.MinISR == 0 {
		t.MinISR = e.MinISR
	}
	if _, set := c.Configs[uncleanConfig]; !set {
		t.Unclean = e.Unclean
	}
	t.Eligible, t.Election = e.Eligible && !s.mutants.On(mutant.LastReplicaStanding), e.Election
	assignment, bad := s.assign(c)
	if bad != nil {
		return *bad
	}
	o := outcome{value: t}
	for i, replicas := range assignment {
		p := &Partition{Topic: c.Name, Index: int32(i), Replicas: replicas, Leader: broker.None, LastLeader: broker.None}
		for _, id := range replicas {
			if s.electable(id) {
				p.ISR = append(p.ISR, id)
			}
		}
		if t.Election == ElectReplicas {
			p.ISR = replicas
		} else {
			p.Leader = p.ISR[0]
			p.LastLeader = p.Leader
		}
		t.Partitions = append(t.Partitions, p)
		o.changes = append(o.changes, Change{Topic: t, Partition: p})
	}
	if c.ValidateOnly {
		t.ID, t.Created = [16]byte{}, 0
		return outcome{value: t}
	}
	if len(c.Assignment) == 0 {
		s.placed += uint64(len(assignment))
	}
	at, _ := s.findTopic(t.Name)
	s.topics = slices.Insert(s.topics, at, t)
	return o
}

// newTopic makes a topic without partitions: its name is free and its configs exist.
// MinISR is 0 where they do not set it.
func (s *State) newTopic(index uint64, c CreateTopic) (*Topic, *outcome) {
	fail := func(e *kerr.Error, format string, args ...any) (*Topic, *outcome) {
		o := refuse(e, format, args...)
		return nil, &o
	}
	if err := ValidTopicName(c.Name); err != nil {
		return fail(kerr.InvalidTopicException, "%v", err)
	}
	if s.Topic(c.Name) != nil {
		return fail(kerr.TopicAlreadyExists, "topic %q exists already", c.Name)
	}
	flat := strings.ReplaceAll(c.Name, ".", "_")
	for _, t := range s.topics {
		if strings.ReplaceAll(t.Name, ".", "_") == flat {
			return fail(kerr.InvalidTopicException, "topic %q collides with %q: names may not differ in '.' and '_' alone", c.Name, t.Name)
		}
	}
	t := &Topic{Name: c.Name, ID: topicID(index), Created: index, Scheme: c.Scheme, Configs: maps.Clone(c.Configs)}
	for _, name := range slices.Sorted(maps.Keys(c.Configs)) {
		value := c.Configs[name]
		if err := KnownConfig(name, value); err != nil {
			return fail(kerr.InvalidConfig, "%v", err)
		}
		switch name {
		case minISRConfig:
			n, _ := strconv.ParseInt(value, 10, 32) // KnownConfig checked it
			t.MinISR = int32(n)
		case uncleanConfig:
			t.Unclean = value == "true"
		}
	}
	return t, nil
}

// topicID is a version 8 UUID (RFC 9562: contents are the maker's own) of the raft index.
func topicID(index uint64) [16]byte {
	id := [16]byte{'f', 'a', 'u', 'l', 't', 'l', 0x80, 0}
	binary.BigEndian.PutUint64(id[8:], index|1<<63)
	return id
}

// assign gives the replicas of each partition, every partition with at least one
// that may lead.
func (s *State) assign(c CreateTopic) ([][]broker.NodeID, *outcome) {
	fail := func(e *kerr.Error, format string, args ...any) ([][]broker.NodeID, *outcome) {
		o := refuse(e, format, args...)
		return nil, &o
	}
	if len(c.Assignment) > 0 {
		if err := s.checkAssignment(c); err != nil {
			return nil, err
		}
		return c.Assignment, nil
	}
	if c.Partitions < 1 || c.Partitions > maxPartitions {
		return fail(kerr.InvalidPartitions, "topic %q: %d partitions: from 1 to %d are allowed, or -1 for the default", c.Name, c.Partitions, maxPartitions)
	}
	rf := int(c.ReplicationFactor)
	if rf == -1 {
		rf = max(1, min(3, len(s.brokers)))
	}
	switch {
	case rf < 1:
		return fail(kerr.InvalidReplicationFactor, "topic %q: replication factor %d: it must be at least 1, or -1 for the default", c.Name, rf)
	case rf > len(s.brokers):
		return fail(kerr.InvalidReplicationFactor, "topic %q: replication factor %d, but only %d brokers are registered", c.Name, rf, len(s.brokers))
	case !slices.ContainsFunc(s.brokers, func(b *Broker) bool { return s.electable(b.ID) }):
		return fail(kerr.InvalidReplicationFactor, "topic %q: all brokers are fenced or leaving: wait until one is up", c.Name)
	}
	placer := newStripes(s.brokers)
	assignment := make([][]broker.NodeID, c.Partitions)
	for i := range assignment {
		assignment[i] = placer.place(s.placed+uint64(i), rf)
	}
	return assignment, nil
}

func (s *State) checkAssignment(c CreateTopic) *outcome {
	fail := func(e *kerr.Error, format string, args ...any) *outcome {
		o := refuse(e, format, args...)
		return &o
	}
	if c.Partitions != -1 || c.ReplicationFactor != -1 {
		return fail(kerr.InvalidRequest, "topic %q: with an assignment, partitions and replication factor must be -1", c.Name)
	}
	if len(c.Assignment) > maxPartitions {
		return fail(kerr.InvalidPartitions, "topic %q: %d partitions: at most %d are allowed", c.Name, len(c.Assignment), maxPartitions)
	}
	for i, replicas := range c.Assignment {
		if len(replicas) == 0 || len(replicas) != len(c.Assignment[0]) {
			return fail(kerr.InvalidReplicaAssignment, "topic %q: partition %d has %d replicas, partition 0 has %d: all need the same number, at least 1",
				c.Name, i, len(replicas), len(c.Assignment[0]))
		}
		up := false
		for j, id := range replicas {
			if s.Broker(id) == nil {
				return fail(kerr.InvalidReplicaAssignment, "topic %q: partition %d names broker %d, which is not registered", c.Name, i, id)
			}
			if slices.Contains(replicas[:j], id) {
				return fail(kerr.InvalidReplicaAssignment, "topic %q: partition %d names broker %d twice", c.Name, i, id)
			}
			up = up || s.electable(id)
		}
		if !up {
			return fail(kerr.InvalidReplicaAssignment, "topic %q: all replicas of partition %d are fenced or leaving", c.Name, i)
		}
	}
	return nil
}

func (s *State) deleteTopic(c DeleteTopic) outcome {
	i, ok := s.findTopic(c.Name)
	if !ok {
		return refuse(kerr.UnknownTopicOrPartition, "topic %q does not exist", c.Name)
	}
	t := s.topics[i]
	s.topics = slices.Delete(s.topics, i, i+1)
	return outcome{changes: []Change{{Topic: t, Deleted: true}}}
}

// alterPartition follows the order of the checks in Kafka's
// ReplicationControlManager.validateAlterPartitionData.
func (s *State) alterPartition(c AlterPartition) outcome {
	t := s.Topic(c.Topic)
	if t == nil || c.Index < 0 || int(c.Index) >= len(t.Partitions) {
		return refuse(kerr.UnknownTopicOrPartition, "%s-%d does not exist", c.Topic, c.Index)
	}
	if t.ID != c.TopicID {
		return refuse(kerr.UnknownTopicID, "%s-%d is of another topic of this name, created at %d", c.Topic, c.Index, t.Created)
	}
	p := t.Partitions[c.Index]
	switch {
	case c.Epoch > p.Epoch || c.PartEpoch > p.PartEpoch:
		return refuse(kerr.NotController, "%s-%d: leader epoch %d and partition epoch %d are ahead of %d and %d",
			c.Topic, c.Index, c.Epoch, c.PartEpoch, p.Epoch, p.PartEpoch)
	case c.Epoch < p.Epoch:
		return refuse(kerr.FencedLeaderEpoch, "%s-%d: leader epoch %d is over; it is %d", c.Topic, c.Index, c.Epoch, p.Epoch)
	case c.Leader != p.Leader:
		return refuse(kerr.InvalidRequest, "%s-%d: broker %d is not the leader; %d is", c.Topic, c.Index, c.Leader, p.Leader)
	case c.PartEpoch < p.PartEpoch:
		return refuse(kerr.InvalidUpdateVersion, "%s-%d: partition epoch %d is over; it is %d", c.Topic, c.Index, c.PartEpoch, p.PartEpoch)
	}
	members := map[broker.NodeID]Member{}
	for _, m := range c.ISR {
		if _, twice := members[m.ID]; twice || !slices.Contains(p.Replicas, m.ID) {
			return refuse(kerr.InvalidRequest, "%s-%d: broker %d is named twice or is no replica", c.Topic, c.Index, m.ID)
		}
		members[m.ID] = m
	}
	if _, ok := members[p.Leader]; !ok {
		return refuse(kerr.InvalidRequest, "%s-%d: the in-sync set proposed lacks the leader %d", c.Topic, c.Index, p.Leader)
	}
	var isr []broker.NodeID // in assignment order
	for _, id := range p.Replicas {
		m, ok := members[id]
		if !ok {
			continue
		}
		b := s.Broker(id)
		switch {
		case id == p.Leader && (b == nil || b.Epoch != m.Epoch):
			return refuse(kerr.StaleBrokerEpoch, "%s-%d: leader %d does not have broker epoch %d", c.Topic, c.Index, id, m.Epoch)
		case b == nil || b.Epoch != m.Epoch && !s.mutants.On(mutant.JoinAnyBrokerEpoch):
			return refuse(kerr.IneligibleReplica, "%s-%d: broker %d does not have broker epoch %d", c.Topic, c.Index, id, m.Epoch)
		case id != p.Leader && !s.electable(id) && !s.mutants.On(mutant.JoinFenced):
			// A leader that is leaving found no successor; this change may bring one.
			return refuse(kerr.IneligibleReplica, "%s-%d: broker %d is fenced or leaving", c.Topic, c.Index, id)
		}
		isr = append(isr, id)
	}
	var o outcome
	s.change(&o.changes, p, p.Leader, isr, false)
	if s.Broker(p.Leader).Leaving {
		s.leave(&o.changes, s.Partition(c.Topic, c.Index), p.Leader)
	}
	s.settle(&o.changes, s.Partition(c.Topic, c.Index))
	o.value = s.Partition(c.Topic, c.Index)
	return o
}

// reportLeader takes what a leader says that the quorum did not make, or of a set that
// is not the quorum's to decide.
func (s *State) reportLeader(c ReportLeader) outcome {
	t := s.TopicByID(c.TopicID)
	if t == nil || t.Election == ElectInSync || c.Index < 0 || int(c.Index) >= len(t.Partitions) {
		return refuse(kerr.UnknownTopicOrPartition, "%s-%d does not exist, or the quorum elects its leaders", c.Topic, c.Index)
	}
	p := t.Partitions[c.Index]
	isr := ordered(p.Replicas, c.ISR)
	switch {
	case c.Epoch < p.Epoch || c.Epoch == p.Epoch && p.Leader != broker.None && c.Leader != p.Leader:
		return refuse(kerr.FencedLeaderEpoch, "%s-%d: epoch %d is over; it is %d", c.Topic, c.Index, c.Epoch, p.Epoch)
	case t.Election == ElectFixed && (c.Epoch != p.Epoch || c.Leader != p.Leader):
		return refuse(kerr.InvalidRequest, "%s-%d: its leader is %d, in epoch %d", c.Topic, c.Index, p.Leader, p.Epoch)
	case !slices.Contains(isr, c.Leader):
		return refuse(kerr.InvalidRequest, "%s-%d: broker %d is no replica, or not in sync with itself", c.Topic, c.Index, c.Leader)
	case c.Epoch == p.Epoch && c.Leader == p.Leader && slices.Equal(isr, p.ISR):
		return outcome{}
	}
	next := *p
	next.Leader, next.LastLeader, next.Epoch, next.ISR = c.Leader, c.Leader, c.Epoch, isr
	next.PartEpoch++
	return outcome{changes: []Change{{Topic: s.put(&next), Partition: &next}}}
}

// electLeaders answers with the first refusal; the other partitions are elected all the same.
func (s *State) electLeaders(c ElectLeaders) outcome {
	var o outcome
	fail := func(e *kerr.Error, format string, args ...any) {
		if o.code == 0 {
			o.code, o.text = e.Code, fmt.Sprintf(format, args...)
		}
	}
	for _, id := range c.Partitions {
		p := s.Partition(id.Topic, id.Index)
		if p == nil {
			fail(kerr.UnknownTopicOrPartition, "%s-%d does not exist", id.Topic, id.Index)
			continue
		}
		preferred := p.Replicas[0]
		switch {
		case s.Topic(id.Topic).Election == ElectReplicas:
			fail(kerr.InvalidRequest, "%s-%d: its replicas elect among themselves", id.Topic, id.Index)
		case p.Leader == broker.None && c.Unclean:
			leader, isr, unclean := s.elect(p, p.ISR, true)
			if leader == broker.None {
				fail(kerr.EligibleLeadersNotAvailable, "%s-%d: no replica is up", id.Topic, id.Index)
			}
			s.change(&o.changes, p, leader, isr, unclean)
		case p.Leader == preferred || c.Unclean:
			fail(kerr.ElectionNotNeeded, "%s-%d has leader %d", id.Topic, id.Index, p.Leader)
		case !s.preferable(p):
			fail(kerr.PreferredLeaderNotAvailable, "%s-%d: the preferred leader %d is not in the in-sync set, fenced or leaving", id.Topic, id.Index, preferred)
		default:
			s.change(&o.changes, p, preferred, p.ISR, false)
		}
	}
	return o
}
