package cluster

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
)

// reassign begins to give a partition other replicas, as Kafka's
// ReplicationControlManager.alterPartitionReassignment does. Until it is complete
// the partition has the new replicas and the old ones; a further one takes the
// place of the target alone.
func (s *State) reassign(c Reassign) outcome {
	p := s.Partition(c.Topic, c.Index)
	if p == nil {
		return refuse(kerr.UnknownTopicOrPartition, "%s-%d does not exist", c.Topic, c.Index)
	}
	original := minus(p.Replicas, p.Adding)
	target := c.Replicas
	if target == nil {
		if len(p.Adding)+len(p.Removing) == 0 {
			return refuse(kerr.NoReassignmentInProgress, "%s-%d is not being reassigned", c.Topic, c.Index)
		}
		target = original
	} else if o := s.checkTarget(c, p, len(original)); o != nil {
		return *o
	}
	next := *p
	next.Removing = minus(p.Replicas, target)
	next.Replicas = slices.Concat(target, next.Removing)
	next.Adding = minus(next.Replicas, original)
	var o outcome
	isr := p.ISR
	if s.mutants.On(mutant.ReassignInSync) {
		isr = slices.Concat(isr, minus(target, isr))
	}
	if !slices.Equal(next.Replicas, p.Replicas) || !slices.Equal(next.Removing, p.Removing) || !slices.Equal(next.Adding, p.Adding) {
		s.replace(&o.changes, p, next, p.Leader, ordered(next.Replicas, isr), false)
	}
	s.settle(&o.changes, s.Partition(c.Topic, c.Index))
	return o
}

func (s *State) checkTarget(c Reassign, p *Partition, factor int) *outcome {
	fail := func(e *kerr.Error, format string, args ...any) *outcome {
		o := refuse(e, format, args...)
		return &o
	}
	for i, id := range c.Replicas {
		if s.Broker(id) == nil {
			return fail(kerr.InvalidReplicaAssignment, "%s-%d: broker %d is not registered", c.Topic, c.Index, id)
		}
		if slices.Contains(c.Replicas[:i], id) {
			return fail(kerr.InvalidReplicaAssignment, "%s-%d: broker %d is named twice", c.Topic, c.Index, id)
		}
	}
	least := min(int(s.Topic(c.Topic).MinISR), factor)
	switch n := len(c.Replicas); {
	case n == 0:
		return fail(kerr.InvalidReplicaAssignment, "%s-%d: no replicas are named", c.Topic, c.Index)
	case n < least:
		return fail(kerr.InvalidReplicationFactor, "%s-%d: %d replicas are fewer than the %d that have to be in sync", c.Topic, c.Index, n, least)
	case c.FixedFactor && n != factor:
		return fail(kerr.InvalidReplicationFactor, "%s-%d: %d replicas instead of %d, and the request allows no other number", c.Topic, c.Index, n, factor)
	}
	return nil
}

// settle completes a reassignment if it can be: every new replica is in sync,
// and without the old ones the in-sync set still has the minimum and somebody to
// lead. Old replicas never leave before that.
func (s *State) settle(changes *[]Change, p *Partition) {
	if len(p.Adding)+len(p.Removing) == 0 {
		return
	}
	target := minus(p.Replicas, p.Removing)
	isr := ordered(target, p.ISR)
	least := max(1, min(int(s.Topic(p.Topic).MinISR), len(target)))
	if wanted := minus(p.Adding, p.Removing); len(minus(wanted, isr)) > 0 || len(isr) < least {
		return
	}
	next := *p
	next.Replicas, next.Adding, next.Removing = target, nil, nil
	leader := p.Leader
	if !slices.Contains(target, leader) {
		if leader, _, _ = s.elect(&next, isr, false); leader == broker.None {
			return
		}
	}
	s.replace(changes, p, next, leader, isr, false)
}

// minus returns those of ids that are not among others, in their order.
func minus(ids, others []broker.NodeID) []broker.NodeID {
	var rest []broker.NodeID
	for _, id := range ids {
		if !slices.Contains(others, id) {
			rest = append(rest, id)
		}
	}
	return rest
}

// ordered returns those of replicas that are in set, in the order of replicas.
func ordered(replicas, set []broker.NodeID) []broker.NodeID {
	return minus(replicas, minus(replicas, set))
}
