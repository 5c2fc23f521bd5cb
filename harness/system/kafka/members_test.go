package kafka

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/nemesis"
)

// TestAdmin: what a node that is no member answers is not asked for, and what a
// cluster refuses or has done already is told apart.
func TestAdmin(t *testing.T) {
	var asked []kmsg.Request
	code := int16(0)
	c := newCluster(&fake{answer: func(node string, req kmsg.Request) (kmsg.Response, error) {
		md := metadataOf(3, 7, 3, 1)
		md.ControllerID = 2
		for _, id := range []int32{1, 2, 3} {
			b := kmsg.NewMetadataResponseBroker()
			if b.NodeID = id; id != 3 {
				md.Brokers = append(md.Brokers, b)
			}
		}
		switch r := req.(type) {
		case *kmsg.MetadataRequest:
			if node == "n1" {
				return nil, errors.New("refused")
			}
			return md, nil
		case *kmsg.DescribeQuorumRequest:
			require.Equal(t, metadataTopic, r.Topics[0].Topic)
			resp := kmsg.NewPtrDescribeQuorumResponse()
			p := kmsg.NewDescribeQuorumResponseTopicPartition()
			if p.ErrorCode = kerr.NotLeaderForPartition.Code; node == "n2" {
				p.ErrorCode = 0
				p.CurrentVoters = []kmsg.DescribeQuorumResponseTopicPartitionReplicaState{{ReplicaID: 2}, {ReplicaID: 3, ReplicaDirectoryID: [16]byte{15: 9}}}
				p.Observers = []kmsg.DescribeQuorumResponseTopicPartitionReplicaState{{ReplicaID: 1}}
			}
			resp.Topics = []kmsg.DescribeQuorumResponseTopic{{Topic: metadataTopic, Partitions: []kmsg.DescribeQuorumResponseTopicPartition{p}}}
			return resp, nil
		case *kmsg.ListPartitionReassignmentsRequest:
			require.Equal(t, "n3", node, "who leads the partition knows")
			resp := kmsg.NewPtrListPartitionReassignmentsResponse()
			resp.Topics = []kmsg.ListPartitionReassignmentsResponseTopic{{Topic: "t", Partitions: []kmsg.ListPartitionReassignmentsResponseTopicPartition{{}}}}
			return resp, nil
		}
		require.Equal(t, "n2", node, "the controller is asked")
		asked = append(asked, req)
		switch req.(type) {
		case *kmsg.AddRaftVoterRequest:
			return &kmsg.AddRaftVoterResponse{ErrorCode: code}, nil
		case *kmsg.RemoveRaftVoterRequest:
			return &kmsg.RemoveRaftVoterResponse{ErrorCode: code}, nil
		case *kmsg.UnregisterBrokerRequest:
			return &kmsg.UnregisterBrokerResponse{ErrorCode: code}, nil
		case *kmsg.AlterPartitionAssignmentsRequest:
			return &kmsg.AlterPartitionAssignmentsResponse{Topics: []kmsg.AlterPartitionAssignmentsResponseTopic{
				{Partitions: []kmsg.AlterPartitionAssignmentsResponseTopicPartition{{ErrorCode: code}}},
			}}, nil
		case *kmsg.ElectLeadersRequest:
			return &kmsg.ElectLeadersResponse{Topics: []kmsg.ElectLeadersResponseTopic{
				{Partitions: []kmsg.ElectLeadersResponseTopicPartition{{ErrorCode: code}}},
			}}, nil
		}
		return nil, errors.New("unexpected")
	}})
	a := Admin{c}
	ctx := t.Context()
	members, err := a.Members(ctx)
	require.NoError(t, err)
	require.Equal(t, []nemesis.Member{
		{Node: "n2", Identity: "0", Voter: true, Live: true, Replicas: 1}, {Node: "n3", Identity: "9", Voter: true, Replicas: 1}, {Node: "n1", Identity: "0", Live: true, Replicas: 1},
	}, members)
	as, err := a.Assignment(ctx, "t-0")
	require.NoError(t, err)
	require.Equal(t, nemesis.Assignment{Replicas: []string{"n1", "n2", "n3"}, InSync: []string{"n3", "n1"}, Moving: true}, as)

	all := func() []error {
		return []error{
			a.Admit(ctx, "n3", "9"), a.Expel(ctx, "n3", "9"), a.Forget(ctx, "n3"), a.Assign(ctx, "t-0", []string{"n3", "n1"}), a.Elect(ctx, "t-0"),
		}
	}
	for _, err := range all() {
		require.NoError(t, err)
	}
	require.Len(t, asked, 5)
	require.Equal(t, int32(3), asked[0].(*kmsg.AddRaftVoterRequest).VoterID)
	require.Equal(t, [16]byte{15: 9}, asked[0].(*kmsg.AddRaftVoterRequest).VoterDirectoryID)
	require.False(t, asked[0].(*kmsg.AddRaftVoterRequest).AckWhenCommitted)
	require.Equal(t, [16]byte{15: 9}, asked[1].(*kmsg.RemoveRaftVoterRequest).VoterDirectoryID)
	require.Equal(t, []int32{3, 1}, asked[3].(*kmsg.AlterPartitionAssignmentsRequest).Topics[0].Partitions[0].Replicas)
	code = kerr.InvalidRequest.Code
	for _, err := range all() {
		require.ErrorContains(t, err, "INVALID_REQUEST")
	}
	code = kerr.VoterNotFound.Code
	require.NoError(t, a.Expel(ctx, "n3", "9"), "it is done already")
	code = kerr.BrokerIDNotRegistered.Code
	require.NoError(t, a.Forget(ctx, "n3"))
	code = kerr.ElectionNotNeeded.Code
	require.NoError(t, a.Elect(ctx, "t-0"))
	require.Error(t, a.Admit(ctx, "n3", "no number"))
}
