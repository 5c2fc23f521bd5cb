package kafka

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
)

// fetch is a read that waits for records.
type fetch struct {
	id    broker.ReqID
	req   *kmsg.FetchRequest
	until time.Duration
	parts []Partition
	resp  *kmsg.FetchResponse // the answer, filled in anew by each attempt
}

func (s *Server) fetch(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.FetchRequest)
	f := &fetch{id: id, req: req, until: s.b.Now().Mono + time.Duration(min(max(req.MaxWaitMillis, 0), 60_000))*time.Millisecond}
	for _, t := range req.Topics {
		for _, rp := range t.Partitions {
			if p := s.b.Partition(t.Topic, rp.Partition); p != nil {
				f.parts = append(f.parts, p)
			}
		}
	}
	if !s.tryFetch(f) {
		s.fetches = append(s.fetches, f)
	}
}

// tryFetch answers a read if there is enough, an error, or its time is over.
// The answer always starts a full fetch session of id 0: sessions (KIP-227) are
// not kept, which clients must accept.
func (s *Server) tryFetch(f *fetch) bool {
	req := f.req
	if f.resp == nil {
		f.resp = fetchResponse(req)
	}
	if req.SessionID != 0 {
		f.resp.ErrorCode = kerr.FetchSessionIDNotFound.Code
		f.resp.Topics = nil
		reply(s, f.id, f.resp)
		return true
	}
	var slices []broker.Slice
	bytes, failed := 0, false
	left := int(req.MaxBytes)
	if req.MaxBytes <= 0 {
		left = 50 << 20
	}
	for ti, t := range req.Topics {
		for i := range t.Partitions {
			rp := &f.resp.Topics[ti].Partitions[i]
			rp.Default()
			rp.Partition = t.Partitions[i].Partition
			rp.RecordBatches = []byte{}
			lane, from, to, n := s.readPartition(req, t.Topic, &t.Partitions[i], rp, left)
			failed = failed || rp.ErrorCode != 0 || rp.DivergingEpoch.EndOffset >= 0
			if bytes > 0 && n > left {
				continue // only the answer's first batch may exceed what was asked for
			}
			if to > from {
				slices = append(slices, broker.Slice{Lane: lane, From: from, To: to, Into: &rp.RecordBatches})
				bytes += n
				left = max(left-n, 0)
			}
		}
	}
	if !failed && bytes < int(max(req.MinBytes, 1)) && s.b.Now().Mono < f.until {
		return false
	}
	s.answer(broker.Reply{ID: f.id, Resp: f.resp, Slices: slices})
	return true
}

// fetchResponse returns a response with the partitions of a request, to be filled in.
func fetchResponse(req *kmsg.FetchRequest) *kmsg.FetchResponse {
	resp := kmsg.NewPtrFetchResponse()
	resp.SetVersion(req.Version)
	resp.Topics = make([]kmsg.FetchResponseTopic, len(req.Topics))
	for i, t := range req.Topics {
		resp.Topics[i].Default()
		resp.Topics[i].Topic = t.Topic
		resp.Topics[i].Partitions = make([]kmsg.FetchResponseTopicPartition, len(t.Partitions))
	}
	return resp
}

// readPartition fills in one partition's part of the answer and returns what is
// to be read of its log.
func (s *Server) readPartition(req *kmsg.FetchRequest, topic string, want *kmsg.FetchRequestTopicPartition, rp *kmsg.FetchResponseTopicPartition, left int) (lane broker.Lane, from, to int64, bytes int) {
	rp.HighWatermark, rp.LastStableOffset, rp.LogStartOffset = -1, -1, -1
	p, code := s.find(topic, want.Partition)
	if code != 0 {
		rp.ErrorCode = code
		return lane, 0, 0, 0
	}
	x := p.Index()
	limit := x.End()
	switch {
	case req.ReplicaID == DebuggingConsumer:
		// This replica's own log, up to its end.
	case req.ReplicaID >= 0:
		// Brokers replicate on a port of their own.
		rp.ErrorCode = kerr.NotLeaderForPartition.Code
		return lane, 0, 0, 0
	default:
		if limit, rp.ErrorCode = p.Machine().CheckRead(want.CurrentLeaderEpoch); rp.ErrorCode != 0 {
			return lane, 0, 0, 0
		}
	}
	high := p.Machine().High()
	rp.HighWatermark, rp.LastStableOffset, rp.LogStartOffset = high, high, x.Start()
	if want.LastFetchedEpoch >= 0 && req.ReplicaID != DebuggingConsumer {
		if known, end := x.EpochEnd(want.LastFetchedEpoch); known < want.LastFetchedEpoch || end < want.FetchOffset {
			rp.DivergingEpoch.Epoch, rp.DivergingEpoch.EndOffset = known, end
			return lane, 0, 0, 0
		}
	}
	if want.FetchOffset < x.Start() || want.FetchOffset > x.End() {
		rp.ErrorCode = kerr.OffsetOutOfRange.Code
		return lane, 0, 0, 0
	}
	if left <= 0 {
		return lane, 0, 0, 0
	}
	from, to, bytes = x.Range(want.FetchOffset, limit, min(int(want.PartitionMaxBytes), left))
	return p.Lane(), from, to, bytes
}
