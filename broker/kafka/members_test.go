package kafka_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/kafka"
)

// settled sends a request, lets the quorum work and wants the answer then.
func (h *host) settled(req kmsg.Request) kmsg.Response {
	h.t.Helper()
	id := h.send(req)
	h.settle()
	h.s.Run()
	return h.answer(id)
}

func TestReassignments(t *testing.T) {
	h := newHost(t)
	alter := func(version int16, change bool, topic string, replicas []int32) kmsg.AlterPartitionAssignmentsResponseTopicPartition {
		req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		req.SetVersion(version)
		req.AllowReplicationFactorChange = change
		rt := kmsg.NewAlterPartitionAssignmentsRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
		rp.Replicas = replicas
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp := h.settled(req).(*kmsg.AlterPartitionAssignmentsResponse)
		require.Zero(t, resp.ErrorCode)
		return resp.Topics[0].Partitions[0]
	}
	for _, c := range []struct {
		name     string
		version  int16
		change   bool
		topic    string
		replicas []int32
		want     *kerr.Error
		text     string
	}{
		{"the same", 0, false, "t", []int32{1}, nil, ""},
		{"unknown broker", 0, false, "t", []int32{2}, kerr.InvalidReplicaAssignment, "broker 2 is not registered"},
		{"another factor", 1, false, "t", []int32{1, 1}, kerr.InvalidReplicaAssignment, "named twice"},
		{"nothing to take back", 1, true, "t", nil, kerr.NoReassignmentInProgress, "not being reassigned"},
		{"no replicas", 0, false, "t", []int32{}, kerr.InvalidReplicaAssignment, "no replicas"},
		{"no such topic", 0, false, "none", []int32{1}, kerr.UnknownTopicOrPartition, "does not exist"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := alter(c.version, c.change, c.topic, c.replicas)
			if c.want == nil {
				require.Zero(t, p.ErrorCode)
				require.Nil(t, p.ErrorMessage)
				return
			}
			require.Equal(t, c.want.Code, p.ErrorCode)
			require.Contains(t, *p.ErrorMessage, c.text)
		})
	}
	// A scheme that copies nothing cannot bring a new replica in sync.
	create := kmsg.NewPtrCreateTopicsRequest()
	create.SetVersion(5)
	ct := kmsg.NewCreateTopicsRequestTopic()
	ct.Topic, ct.NumPartitions, ct.ReplicationFactor = "s", 1, 1
	cfg := kmsg.NewCreateTopicsRequestTopicConfig()
	cfg.Name, cfg.Value = kafka.SchemeConfig, kmsg.StringPtr("single")
	ct.Configs = append(ct.Configs, cfg)
	create.Topics = append(create.Topics, ct)
	require.Zero(t, h.settled(create).(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode)
	p := alter(0, false, "s", []int32{1})
	require.Equal(t, kerr.InvalidReplicaAssignment.Code, p.ErrorCode)
	require.Contains(t, *p.ErrorMessage, "replicas of scheme single stay")

	list := kmsg.NewPtrListPartitionReassignmentsRequest()
	require.Empty(t, h.ask(list).(*kmsg.ListPartitionReassignmentsResponse).Topics)
}

func TestElectLeaders(t *testing.T) {
	h := newHost(t)
	req := kmsg.NewPtrElectLeadersRequest()
	req.SetVersion(2)
	rt := kmsg.NewElectLeadersRequestTopic()
	rt.Topic, rt.Partitions = "t", []int32{0, 7}
	req.Topics = append(req.Topics, rt)
	resp := h.settled(req).(*kmsg.ElectLeadersResponse)
	require.Equal(t, kerr.ElectionNotNeeded.Code, resp.Topics[0].Partitions[0].ErrorCode)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, resp.Topics[0].Partitions[1].ErrorCode)
	req.Topics = nil // all: those that need none are left out
	require.Empty(t, h.settled(req).(*kmsg.ElectLeadersResponse).Topics)
	req.ElectionType = 2
	require.Equal(t, kerr.InvalidRequest.Code, h.ask(req).(*kmsg.ElectLeadersResponse).ErrorCode)
}

func TestRaftVoters(t *testing.T) {
	h := newHost(t)
	add := func(version int16, id int32, change func(*kmsg.AddRaftVoterRequest)) *kmsg.AddRaftVoterRequest {
		req := kmsg.NewPtrAddRaftVoterRequest()
		req.SetVersion(version)
		req.VoterID, req.TimeoutMillis, req.AckWhenCommitted = id, 5000, true
		req.VoterDirectoryID = kafka.DirectoryUUID(9)
		if change != nil {
			change(req)
		}
		return req
	}
	remove := func(id int32, dir [16]byte) int16 {
		req := kmsg.NewPtrRemoveRaftVoterRequest()
		req.VoterID, req.VoterDirectoryID = id, dir
		return h.settled(req).(*kmsg.RemoveRaftVoterResponse).ErrorCode
	}
	quorum := func() kmsg.DescribeQuorumResponseTopicPartition {
		req := kmsg.NewPtrDescribeQuorumRequest()
		req.SetVersion(2)
		rt := kmsg.NewDescribeQuorumRequestTopic()
		rt.Topic = "__cluster_metadata"
		rt.Partitions = append(rt.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
		req.Topics = append(req.Topics, rt)
		return h.ask(req).(*kmsg.DescribeQuorumResponse).Topics[0].Partitions[0]
	}
	code := func(req *kmsg.AddRaftVoterRequest) int16 { return h.ask(req).(*kmsg.AddRaftVoterResponse).ErrorCode }
	other, mine := "other", "test"
	require.Equal(t, kerr.InconsistentClusterID.Code, code(add(0, 2, func(r *kmsg.AddRaftVoterRequest) { r.ClusterID = &other })))
	require.Equal(t, kerr.InvalidRequest.Code, code(add(0, 4, nil)), "no place")
	require.Equal(t, kerr.InvalidRequest.Code, code(add(0, 2, func(r *kmsg.AddRaftVoterRequest) { r.VoterDirectoryID[0] = 1 })))
	require.Equal(t, kerr.DuplicateVoter.Code, h.settled(add(0, 1, nil)).(*kmsg.AddRaftVoterResponse).ErrorCode)
	require.Equal(t, int32(1), quorum().CurrentVoters[0].ReplicaID)

	// One that never catches up stays a learner; the answer waits for it, and no further change begins.
	id := h.send(add(0, 2, func(r *kmsg.AddRaftVoterRequest) { r.ClusterID = &mine }))
	h.settle()
	h.s.Run()
	require.NotContains(t, h.replies, id)
	require.LessOrEqual(t, h.s.NextWake(), h.now+5*time.Second)
	q := quorum()
	require.Len(t, q.CurrentVoters, 1)
	require.Positive(t, q.CurrentVoters[0].LogEndOffset)
	require.Len(t, q.Observers, 1)
	require.Equal(t, kafka.DirectoryUUID(9), q.Observers[0].ReplicaDirectoryID)
	require.Equal(t, kerr.RequestTimedOut.Code, h.settled(add(1, 3, nil)).(*kmsg.AddRaftVoterResponse).ErrorCode)
	h.now += 5 * time.Second
	h.s.Wake()
	require.Equal(t, kerr.RequestTimedOut.Code, h.answer(id).(*kmsg.AddRaftVoterResponse).ErrorCode)

	// It is taken back; a request that only begins a change is answered at once.
	require.Equal(t, kerr.RequestTimedOut.Code, remove(1, [16]byte{}))
	require.Zero(t, remove(2, kafka.DirectoryUUID(9)))
	require.Empty(t, quorum().Observers)
	require.Equal(t, kerr.VoterNotFound.Code, remove(2, kafka.DirectoryUUID(9)))
	require.Equal(t, kerr.InvalidRequest.Code, remove(1, [16]byte{}), "the only voter")
	require.Zero(t, h.settled(add(1, 3, func(r *kmsg.AddRaftVoterRequest) { r.AckWhenCommitted = false })).(*kmsg.AddRaftVoterResponse).ErrorCode)
	require.Len(t, quorum().Observers, 1)
}

func TestUnregisterBroker(t *testing.T) {
	h := newHost(t)
	for id, want := range map[int32]*kerr.Error{1: kerr.InvalidRequest, 5: kerr.BrokerIDNotRegistered} {
		req := kmsg.NewPtrUnregisterBrokerRequest()
		req.BrokerID = id
		resp := h.settled(req).(*kmsg.UnregisterBrokerResponse)
		require.Equal(t, want.Code, resp.ErrorCode)
		require.NotEmpty(t, *resp.ErrorMessage)
	}
	require.NotNil(t, h.State().Broker(broker.NodeID(1)))
}
