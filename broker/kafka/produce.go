package kafka

import (
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// produce is a produce request of which partitions still wait.
type produce struct {
	resp    *kmsg.ProduceResponse
	waiting int
}

// token names one partition of one produce request.
type token struct {
	id               broker.ReqID
	topic, partition int // indexes into the response
}

func (s *Server) produce(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.ProduceRequest)
	p := &produce{resp: produceResponse(req), waiting: 1} // one for this function itself
	s.produces[id] = p
	for ti, t := range req.Topics {
		for pi := range t.Partitions {
			s.token++
			s.tokens[s.token] = token{id, ti, pi}
			p.waiting++
			s.producePartition(s.token, req, t.Topic, &t.Partitions[pi])
		}
	}
	if req.Acks == 0 {
		// Nothing is answered, not even a refusal.
		delete(s.produces, id)
		s.answer(broker.Reply{ID: id})
		return
	}
	s.produceDone(id, p)
}

// produceResponse returns a response with the partitions of a request, to be filled in.
func produceResponse(req *kmsg.ProduceRequest) *kmsg.ProduceResponse {
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(req.Version)
	for _, t := range req.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic = t.Topic
		for _, want := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.BaseOffset, rp.LogAppendTime = want.Partition, -1, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func (s *Server) producePartition(tok uint64, req *kmsg.ProduceRequest, topic string, rp *kmsg.ProduceRequestTopicPartition) {
	refuse := func(e *kerr.Error, why string) {
		s.Produced(tok, scheme.Produced{Code: e.Code, Base: -1, Text: why})
	}
	if req.Acks < -1 || req.Acks > 1 {
		refuse(kerr.InvalidRequiredAcks, "")
		return
	}
	if req.TransactionID != nil {
		refuse(kerr.TransactionalIDAuthorizationFailed, "transactions are not served")
		return
	}
	part, code := s.find(topic, rp.Partition)
	if code != 0 {
		s.Produced(tok, scheme.Produced{Code: code, Base: -1})
		return
	}
	info, err := batch.Parse(rp.Records)
	if err == nil {
		err = batch.Check(rp.Records)
	}
	switch {
	case err != nil:
		refuse(kerr.CorruptMessage, err.Error())
		return
	case int(info.Size) != len(rp.Records) || info.Records < 1:
		refuse(kerr.InvalidRecord, "exactly one record batch with at least one record is wanted per partition")
		return
	case len(rp.Records) > maxMessage(s.b.State().Topic(topic)):
		refuse(kerr.MessageTooLarge, fmt.Sprintf("a batch of %d bytes; %s allows %d", len(rp.Records), cluster.MaxMessageConfig, maxMessage(s.b.State().Topic(topic))))
		return
	case batch.Internal(rp.Records):
		refuse(kerr.InvalidRecord, "transactional and control batches are not served")
		return
	case info.ProducerID != batch.NoProducer && (info.ProducerID < 0 || info.ProducerEpoch < 0 || info.FirstSeq < 0):
		refuse(kerr.InvalidRecord, "an idempotent producer must give its id, epoch and sequence number")
		return
	}
	if req.Acks == 0 {
		delete(s.tokens, tok)
	}
	part.Machine().Produce(scheme.Produce{
		Token: tok, Batch: rp.Records, Info: info, Acks: req.Acks, Timeout: time.Duration(max(req.TimeoutMillis, 1)) * time.Millisecond,
	})
}

// maxMessage is the largest record batch that a topic takes, in bytes.
func maxMessage(t *cluster.Topic) int {
	if n, err := strconv.Atoi(t.Configs[cluster.MaxMessageConfig]); err == nil {
		return n
	}
	return cluster.DefaultMaxMessage
}

// Produced takes the outcome of one partition of a produce request.
func (s *Server) Produced(tok uint64, r scheme.Produced) {
	t, ok := s.tokens[tok]
	if !ok {
		return
	}
	delete(s.tokens, tok)
	p := s.produces[t.id]
	if p == nil {
		return // its connection is gone
	}
	rp := &p.resp.Topics[t.topic].Partitions[t.partition]
	rp.ErrorCode, rp.BaseOffset, rp.ErrorMessage = r.Code, r.Base, text(r.Code, r.Text)
	if r.Code == 0 {
		rp.LogStartOffset = 0
	}
	s.produceDone(t.id, p)
}

func (s *Server) produceDone(id broker.ReqID, p *produce) {
	if p.waiting--; p.waiting == 0 {
		delete(s.produces, id)
		reply(s, id, p.resp)
	}
}
