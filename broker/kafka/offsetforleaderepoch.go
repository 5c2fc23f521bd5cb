package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
)

func (s *Server) offsetForLeaderEpoch(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.OffsetForLeaderEpochRequest)
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	resp.SetVersion(req.Version)
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = t.Topic
		for _, want := range t.Partitions {
			rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			rp.Partition, rp.LeaderEpoch, rp.EndOffset = want.Partition, -1, -1
			p, code := s.find(t.Topic, want.Partition)
			if code == 0 && req.ReplicaID != DebuggingConsumer {
				_, code = p.Machine().CheckRead(want.CurrentLeaderEpoch)
			}
			rp.ErrorCode = code
			if code == 0 {
				rp.LeaderEpoch, rp.EndOffset = p.Index().EpochEnd(want.LeaderEpoch)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	reply(s, id, resp)
}
