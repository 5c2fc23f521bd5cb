package cluster

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
)

// electing is a partition of three replicas under an election.
func electing(t *testing.T, e Election) *copies {
	t.Helper()
	c := &copies{st: newState(1, "none"), index: 1, starts: map[broker.NodeID]int{}}
	create := CreateTopic{Name: "a", Partitions: -1, ReplicationFactor: -1, Assignment: [][]broker.NodeID{{1, 2, 3}}}
	for id := broker.NodeID(1); id <= 3; id++ {
		c.register(t, id, false)
		c.fence(t, id, false)
	}
	c.apply(t, envelope{Node: 100, Incarnation: "100.1", MinISR: 1, Unclean: true, Election: e}, create)
	return c
}

func (c *copies) report(leader broker.NodeID, epoch int32, isr ...broker.NodeID) outcome {
	t := c.st.Topic("a")
	return c.st.reportLeader(ReportLeader{Topic: "a", TopicID: t.ID, Leader: leader, Epoch: epoch, ISR: isr})
}

// TestFixedLeader: the quorum elects no other by itself, though unclean elections are
// allowed; an operator may.
func TestFixedLeader(t *testing.T) {
	c := electing(t, ElectFixed)
	require.Equal(t, broker.NodeID(1), c.partition().Leader)
	require.Zero(t, c.report(1, 0, 1, 2).code)
	require.Equal(t, []broker.NodeID{1, 2}, c.partition().ISR)
	require.Equal(t, kerr.InvalidRequest.Code, c.report(2, 5, 1, 2).code, "no other leads")

	c.fence(t, 1, true)
	require.Equal(t, broker.None, c.partition().Leader)
	c.fence(t, 3, true)
	c.fence(t, 3, false)
	require.Equal(t, broker.None, c.partition().Leader)
	c.fence(t, 1, false)
	require.Equal(t, broker.NodeID(1), c.partition().Leader, "it is back")
	require.Equal(t, int32(2), c.partition().Epoch)

	c.fence(t, 1, true)
	c.propose(t, ElectLeaders{Partitions: []PartitionID{{Topic: "a"}}, Unclean: true})
	require.Equal(t, broker.NodeID(2), c.partition().Leader, "by hand")
	c.fence(t, 1, false)
	require.Equal(t, broker.NodeID(2), c.partition().Leader, "nothing falls back by itself")
}

// TestReplicasElect: the quorum takes what it is told, in the order of epochs, and
// elects nobody.
func TestReplicasElect(t *testing.T) {
	c := electing(t, ElectReplicas)
	require.Equal(t, broker.None, c.partition().Leader)
	before := c.partition().PartEpoch
	o := c.report(2, 3, 3, 2)
	require.Zero(t, o.code)
	require.Len(t, o.changes, 1)
	p := c.partition()
	require.Equal(t, broker.NodeID(2), p.Leader)
	require.Equal(t, []any{int32(3), before + 1}, []any{p.Epoch, p.PartEpoch})
	require.Equal(t, []broker.NodeID{2, 3}, p.ISR, "in assignment order")
	require.Empty(t, c.report(2, 3, 2, 3).changes, "known")

	require.Equal(t, kerr.FencedLeaderEpoch.Code, c.report(1, 2, 1).code, "an older term")
	require.Equal(t, kerr.FencedLeaderEpoch.Code, c.report(1, 3, 1).code, "another leader of the same term")
	require.Equal(t, kerr.InvalidRequest.Code, c.report(9, 4, 9).code, "no replica")
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, c.st.reportLeader(ReportLeader{Topic: "b"}).code)

	c.fence(t, 2, true)
	require.True(t, slices.Equal(p.ISR, c.partition().ISR))
	require.Equal(t, broker.NodeID(2), c.partition().Leader, "a report, not a decision")
	require.Equal(t, kerr.InvalidRequest.Code, c.st.electLeaders(ElectLeaders{Partitions: []PartitionID{{Topic: "a"}}}).code)
	require.Zero(t, c.report(1, 4, 1).code)
	require.Equal(t, broker.NodeID(1), c.partition().Leader)

	in := electing(t, ElectInSync)
	require.NotZero(t, in.report(1, 9, 1).code, "the quorum elects")
}
