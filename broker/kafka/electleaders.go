package kafka

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
)

// Types of an election.
const (
	electPreferred = 0
	electUnclean   = 1
)

// electLeaders elects the preferred leaders, or any live replica where there is no
// leader. Asked for all partitions it leaves out those that need no election.
func (s *Server) electLeaders(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.ElectLeadersRequest)
	resp := kmsg.NewPtrElectLeadersResponse()
	resp.SetVersion(req.Version)
	if req.ElectionType != electPreferred && req.ElectionType != electUnclean {
		resp.ErrorCode = kerr.InvalidRequest.Code
		reply(s, id, resp)
		return
	}
	all := req.Topics == nil
	asked := req.Topics
	if all {
		for _, t := range s.b.State().Topics() {
			rt := kmsg.NewElectLeadersRequestTopic()
			rt.Topic = t.Name
			for _, p := range t.Partitions {
				rt.Partitions = append(rt.Partitions, p.Index)
			}
			asked = append(asked, rt)
		}
	}
	waiting := 1
	answered := func() {
		if waiting--; waiting > 0 {
			return
		}
		if all {
			resp.Topics = needed(resp.Topics)
		}
		reply(s, id, resp)
	}
	resp.Topics = make([]kmsg.ElectLeadersResponseTopic, len(asked))
	for i, t := range asked {
		rt := &resp.Topics[i]
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.ElectLeadersResponseTopicPartition, len(t.Partitions))
		for j, index := range t.Partitions {
			rp := &rt.Partitions[j]
			rp.Partition = index
			waiting++
			s.propose(cluster.ElectLeaders{Partitions: []cluster.PartitionID{{Topic: t.Topic, Index: index}}, Unclean: req.ElectionType == electUnclean}, func(r cluster.Result) {
				rp.ErrorCode, rp.ErrorMessage = r.Code, text(r.Code, r.Text)
				answered()
			})
		}
	}
	answered()
}

// needed leaves out what needed no election.
func needed(topics []kmsg.ElectLeadersResponseTopic) []kmsg.ElectLeadersResponseTopic {
	var out []kmsg.ElectLeadersResponseTopic
	for _, t := range topics {
		var ps []kmsg.ElectLeadersResponseTopicPartition
		for _, p := range t.Partitions {
			if p.ErrorCode != kerr.ElectionNotNeeded.Code {
				ps = append(ps, p)
			}
		}
		if len(ps) > 0 {
			t.Partitions = ps
			out = append(out, t)
		}
	}
	return out
}
