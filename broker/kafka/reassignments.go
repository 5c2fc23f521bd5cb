package kafka

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
)

// alterPartitionReassignments gives partitions other replicas, or takes a
// reassignment back. The answer says that they have begun; ListPartitionReassignments
// shows those that are not complete.
func (s *Server) alterPartitionReassignments(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.AlterPartitionAssignmentsRequest)
	resp := kmsg.NewPtrAlterPartitionAssignmentsResponse()
	resp.SetVersion(req.Version)
	resp.AllowReplicationFactorChange = req.AllowReplicationFactorChange
	waiting := 1
	answered := func() {
		if waiting--; waiting == 0 {
			reply(s, id, resp)
		}
	}
	resp.Topics = make([]kmsg.AlterPartitionAssignmentsResponseTopic, len(req.Topics))
	for i, t := range req.Topics {
		rt := &resp.Topics[i]
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.AlterPartitionAssignmentsResponseTopicPartition, len(t.Partitions))
		for j, p := range t.Partitions {
			rp := &rt.Partitions[j]
			rp.Partition = p.Partition
			c := cluster.Reassign{Topic: t.Topic, Index: p.Partition, FixedFactor: req.Version >= 1 && !req.AllowReplicationFactorChange}
			if p.Replicas != nil {
				c.Replicas = []broker.NodeID{}
			}
			for _, r := range p.Replicas {
				c.Replicas = append(c.Replicas, broker.NodeID(r))
			}
			if known := s.b.State().Topic(t.Topic); known != nil {
				if d := s.scheme(known.Scheme); d != nil && !d.Moves {
					rp.ErrorCode = kerr.InvalidReplicaAssignment.Code
					rp.ErrorMessage = text(rp.ErrorCode, fmt.Sprintf("replicas of scheme %s stay where they are", known.Scheme))
					continue
				}
			}
			waiting++
			s.propose(c, func(r cluster.Result) {
				rp.ErrorCode, rp.ErrorMessage = r.Code, text(r.Code, r.Text)
				answered()
			})
		}
	}
	answered()
}

// listPartitionReassignments lists those under way, as far as this node knows: of
// the partitions asked for, or of all.
func (s *Server) listPartitionReassignments(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.ListPartitionReassignmentsRequest)
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	resp.SetVersion(req.Version)
	for _, t := range s.b.State().Topics() {
		rt := kmsg.NewListPartitionReassignmentsResponseTopic()
		rt.Topic = t.Name
		for _, p := range t.Partitions {
			if len(p.Adding)+len(p.Removing) == 0 || req.Topics != nil && !slices.ContainsFunc(req.Topics, func(asked kmsg.ListPartitionReassignmentsRequestTopic) bool {
				return asked.Topic == t.Name && slices.Contains(asked.Partitions, p.Index)
			}) {
				continue
			}
			rp := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
			rp.Partition, rp.Replicas, rp.RemovingReplicas = p.Index, ids(p.Replicas), ids(p.Removing)
			for _, a := range p.Adding {
				if !slices.Contains(p.Removing, a) {
					rp.AddingReplicas = append(rp.AddingReplicas, int32(a))
				}
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		if len(rt.Partitions) > 0 {
			resp.Topics = append(resp.Topics, rt)
		}
	}
	reply(s, id, resp)
}
