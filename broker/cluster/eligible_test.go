package cluster

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker"
)

// copies follows which replicas of one partition have everything that was
// acknowledged. It is harsh: an acknowledgement takes the in-sync set at its
// smallest, and a replica outside it has nothing of it.
type copies struct {
	st       *State
	index    uint64
	ticket   Ticket
	starts   map[broker.NodeID]int
	complete []broker.NodeID
	unclean  bool // whether somebody was elected who may lack something
}

func newCopies(t require.TestingT, brokers int, least int32, eligible bool) *copies {
	c := &copies{st: newState(1, "none"), index: 1, starts: map[broker.NodeID]int{}}
	create := CreateTopic{Name: "a", Partitions: -1, ReplicationFactor: -1, Assignment: [][]broker.NodeID{nil}}
	for id := broker.NodeID(1); int(id) <= brokers; id++ {
		c.register(t, id, false)
		c.fence(t, id, false)
		create.Assignment[0] = append(create.Assignment[0], id)
	}
	c.complete = create.Assignment[0]
	c.apply(t, envelope{Node: 100, Incarnation: "100.1", MinISR: least, Eligible: eligible}, create)
	return c
}

func (c *copies) apply(t require.TestingT, e envelope, cmd Command) {
	c.ticket++
	c.index++
	e.Ticket, e.Oldest = c.ticket, c.ticket
	o, ok := c.st.apply(c.index, 1, &e, cmd)
	require.True(t, ok)
	require.Zero(t, o.code, o.text)
	for _, ch := range o.changes {
		requireSets(t, ch.Topic, ch.Partition)
		c.unclean = c.unclean || ch.Unclean
	}
}

func (c *copies) propose(t require.TestingT, cmd Command) {
	c.apply(t, envelope{Node: 100, Incarnation: "100.1"}, cmd)
}

func (c *copies) register(t require.TestingT, id broker.NodeID, stopped bool) {
	c.starts[id]++
	cmd := RegisterBroker{ID: id, Incarnation: fmt.Sprintf("%d.%d", id, c.starts[id])}
	if stopped {
		cmd.PreviousEpoch = c.st.Broker(id).Epoch
	}
	c.apply(t, envelope{Node: id, Incarnation: cmd.Incarnation}, cmd)
}

func (c *copies) fence(t require.TestingT, id broker.NodeID, fenced bool) {
	c.propose(t, SetFenced{ID: id, Epoch: c.st.Broker(id).Epoch, Fenced: fenced})
}

func (c *copies) partition() *Partition { return c.st.Partition("a", 0) }

// inSync lets the leader propose an in-sync set. Who joins has fetched what the leader has.
func (c *copies) inSync(t require.TestingT, isr []broker.NodeID) {
	p := c.partition()
	cmd := AlterPartition{Topic: "a", TopicID: c.st.Topic("a").ID, Leader: p.Leader, Epoch: p.Epoch, PartEpoch: p.PartEpoch}
	for _, id := range isr {
		cmd.ISR = append(cmd.ISR, Member{ID: id, Epoch: c.st.Broker(id).Epoch})
		if !slices.Contains(c.complete, id) && slices.Contains(c.complete, p.Leader) {
			c.complete = append(c.complete, id)
		}
	}
	c.propose(t, cmd)
}

// acknowledge writes a record that the in-sync set alone has.
func (c *copies) acknowledge() {
	if p := c.partition(); p.Leader != broker.None && len(p.ISR) >= c.st.least(p) {
		c.complete = slices.Clone(p.ISR)
	}
}

// lost reports whether somebody leads who lacks acknowledged records.
func (c *copies) lost() bool {
	p := c.partition()
	return p.Leader != broker.None && !slices.Contains(c.complete, p.Leader)
}

// step does one random thing. Those of losing may come back with an empty disk, those
// of dying out of order with all of it.
func (c *copies) step(t *rapid.T, brokers int, losing, dying []broker.NodeID) {
	id := broker.NodeID(rapid.IntRange(1, brokers).Draw(t, "broker"))
	b := c.st.Broker(id)
	switch p := c.partition(); rapid.IntRange(0, 7).Draw(t, "action") {
	case 0:
		c.fence(t, id, true)
	case 1:
		c.fence(t, id, false)
	case 2:
		c.propose(t, SetLeaving{ID: id, Epoch: b.Epoch})
	case 3:
		c.register(t, id, true)
	case 4:
		switch {
		case slices.Contains(losing, id):
			c.complete = minus(c.complete, []broker.NodeID{id})
			c.register(t, id, false)
		case slices.Contains(dying, id):
			c.register(t, id, false)
		}
	case 5:
		c.acknowledge()
	default:
		if p.Leader == broker.None {
			return
		}
		var isr []broker.NodeID
		for _, r := range p.Replicas {
			if r == p.Leader || c.st.electable(r) && rapid.Bool().Draw(t, "in sync") {
				isr = append(isr, r)
			}
		}
		c.inSync(t, isr)
	}
}

// TestEligibleLeadersKeepWhatWasAcknowledged is what KIP-966 promises: whoever leads
// has every acknowledged record, as long as fewer brokers than min.insync.replicas
// ever go down out of order, whatever becomes of their disks; and also where all do
// so, again and again, and no disk loses anything.
func TestEligibleLeadersKeepWhatWasAcknowledged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		brokers := rapid.IntRange(2, 5).Draw(t, "brokers")
		least := rapid.IntRange(1, brokers).Draw(t, "least")
		var all []broker.NodeID
		for id := range brokers {
			all = append(all, broker.NodeID(id+1))
		}
		losing, dying := rapid.Permutation(all).Draw(t, "losing")[:least-1], []broker.NodeID(nil)
		if rapid.Bool().Draw(t, "no disk loses anything") {
			losing, dying = nil, all
		}
		c := newCopies(t, brokers, int32(least), true)
		for range 60 {
			c.step(t, brokers, losing, dying)
			if c.lost() {
				t.Fatalf("%s leads without all records; those have %v", showPartition(c.partition()), c.complete)
			}
		}
		require.False(t, c.unclean && dying == nil, "fewer than the minimum went down, and nobody was eligible")
		// All come back.
		for _, id := range all {
			c.register(t, id, dying == nil)
		}
		for _, id := range all {
			c.fence(t, id, false)
		}
		require.NotEqual(t, broker.None, c.partition().Leader, "all are up and nobody leads")
		require.False(t, c.lost())
	})
}

// TestLastReplicaStanding is what KIP-966 begins with: the disk of the last in-sync
// replica is lost. Without eligible leader replicas it leads again; with them it does
// as well, if another broker went down out of order before, whatever was left of that
// one's disk.
func TestLastReplicaStanding(t *testing.T) {
	for _, tc := range []struct {
		name             string
		eligible, dies   bool
		leader           broker.NodeID
		lost, lastLeader bool
	}{
		{"not kept", false, false, 1, true, false},
		{"eligible", true, false, 2, false, false},
		{"one more went down", true, true, 1, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCopies(t, 3, 2, tc.eligible)
			c.inSync(t, []broker.NodeID{1, 2})
			c.acknowledge()
			c.inSync(t, []broker.NodeID{1})
			if tc.dies {
				c.register(t, 2, false)
				c.fence(t, 2, false)
			}
			c.complete = minus(c.complete, []broker.NodeID{1})
			c.register(t, 1, false)
			c.fence(t, 1, false)
			require.Equal(t, tc.leader, c.partition().Leader)
			require.Equal(t, tc.lost, c.lost())
			require.Equal(t, tc.lastLeader, c.unclean)
		})
	}
}
