package kafka

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
)

// Timestamps with a meaning of their own.
const (
	latest   = -1
	earliest = -2
)

func (s *Server) listOffsets(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.ListOffsetsRequest)
	resp := kmsg.NewPtrListOffsetsResponse()
	resp.SetVersion(req.Version)
	for _, t := range req.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for _, want := range t.Partitions {
			rt.Partitions = append(rt.Partitions, s.listPartition(req.Version, req.ReplicaID, t.Topic, want))
		}
		resp.Topics = append(resp.Topics, rt)
	}
	reply(s, id, resp)
}

func (s *Server) listPartition(version int16, replica int32, topic string, want kmsg.ListOffsetsRequestTopicPartition) kmsg.ListOffsetsResponseTopicPartition {
	rp := kmsg.NewListOffsetsResponseTopicPartition()
	rp.Partition, rp.Offset, rp.Timestamp, rp.LeaderEpoch = want.Partition, -1, -1, -1
	p, code := s.find(topic, want.Partition)
	if code != 0 {
		rp.ErrorCode = code
		return rp
	}
	x := p.Index()
	limit := x.End()
	if replica != DebuggingConsumer {
		if limit, rp.ErrorCode = p.Machine().CheckRead(want.CurrentLeaderEpoch); rp.ErrorCode != 0 {
			return rp
		}
	}
	// After an election the high watermark may be behind what the former leader
	// showed, until it reaches the start of the epoch (KIP-207).
	view := p.Machine().View()
	behind := replica != DebuggingConsumer && limit < view.EpochStart
	refuse := func() {
		rp.LeaderEpoch, rp.ErrorCode = -1, kerr.OffsetNotAvailable.Code
		if version < 5 {
			rp.ErrorCode = kerr.LeaderNotAvailable.Code
		}
	}
	rp.LeaderEpoch = view.Epoch
	switch {
	case want.Timestamp == latest && behind:
		refuse()
	case want.Timestamp == latest:
		rp.Offset = limit
	case want.Timestamp == earliest:
		rp.Offset = x.Start()
	case want.Timestamp < 0:
		rp.ErrorCode = kerr.UnsupportedVersion.Code
	default:
		if b, ok := x.ByTimestamp(want.Timestamp, limit); ok {
			rp.Offset, rp.Timestamp, rp.LeaderEpoch = b.Base, b.MaxTimestamp, b.Epoch
		} else if behind {
			refuse()
		}
	}
	return rp
}

// find returns a hosted partition, or the error code for its absence. Before its
// registration a node does not know what there is, and leads nothing.
func (s *Server) find(topic string, index int32) (Partition, int16) {
	if s.b.State().Registered() < 0 {
		return nil, kerr.NotLeaderForPartition.Code
	}
	t := s.b.State().Topic(topic)
	if t == nil || index < 0 || int(index) >= len(t.Partitions) {
		return nil, kerr.UnknownTopicOrPartition.Code
	}
	p := s.b.Partition(topic, index)
	if p == nil {
		return nil, kerr.NotLeaderForPartition.Code
	}
	return p, 0
}
