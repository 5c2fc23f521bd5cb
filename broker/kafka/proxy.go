package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Forward passes a client's request, or the part of it that another node answers, to
// that node.
type Forward struct {
	ID  uint64
	Req kmsg.Request
}

// Forwarded answers a Forward.
type Forwarded struct {
	ID   uint64
	Resp kmsg.Response
}

// MarshalCBOR implements cbor.Marshaler.
func (f *Forward) MarshalCBOR() ([]byte, error) {
	return pack(f.ID, f.Req.Key(), f.Req.GetVersion(), f.Req.AppendTo(nil))
}

// UnmarshalCBOR implements cbor.Unmarshaler.
func (f *Forward) UnmarshalCBOR(b []byte) error {
	id, key, version, body, err := unpack(b)
	if err != nil {
		return err
	}
	f.ID, f.Req = id, kmsg.RequestForKey(key)
	f.Req.SetVersion(version)
	return f.Req.ReadFrom(body)
}

// MarshalCBOR implements cbor.Marshaler.
func (f *Forwarded) MarshalCBOR() ([]byte, error) {
	return pack(f.ID, f.Resp.Key(), f.Resp.GetVersion(), f.Resp.AppendTo(nil))
}

// UnmarshalCBOR implements cbor.Unmarshaler.
func (f *Forwarded) UnmarshalCBOR(b []byte) error {
	id, key, version, body, err := unpack(b)
	if err != nil {
		return err
	}
	f.ID, f.Resp = id, kmsg.ResponseForKey(key)
	f.Resp.SetVersion(version)
	return f.Resp.ReadFrom(body)
}

// packHead is the length of what precedes a request or a response: id, kind, version.
const packHead = 8 + 2 + 2

func pack(id uint64, key, version int16, body []byte) ([]byte, error) {
	b := make([]byte, packHead, packHead+len(body))
	binary.BigEndian.PutUint64(b, id)
	binary.BigEndian.PutUint16(b[8:], uint16(key))
	binary.BigEndian.PutUint16(b[10:], uint16(version))
	return cbor.Marshal(append(b, body...))
}

func unpack(data []byte) (id uint64, key, version int16, body []byte, err error) {
	var b []byte
	if err := cbor.Unmarshal(data, &b); err != nil {
		return 0, 0, 0, nil, err
	}
	if len(b) < packHead {
		return 0, 0, 0, nil, errors.New("a forwarded request is cut off")
	}
	id, key, version = binary.BigEndian.Uint64(b), int16(binary.BigEndian.Uint16(b[8:])), int16(binary.BigEndian.Uint16(b[10:]))
	if _, ok := served(key, version); !ok || !passable(key) {
		return 0, 0, 0, nil, fmt.Errorf("a forwarded request has kind %d in version %d", key, version)
	}
	return id, key, version, b[packHead:], nil
}

func passable(key int16) bool {
	return key == int16(kmsg.Produce) || key == int16(kmsg.Fetch) || key == int16(kmsg.ListOffsets)
}

// passLimit is how much longer than the request itself a forwarded one is waited for.
const passLimit = 500 * time.Millisecond

// gather collects the answers to the parts of one request.
type gather struct {
	id      broker.ReqID
	waiting int
	parts   []kmsg.Response
	slices  []broker.Slice // of the part that was answered here
}

// passed is one part that another node answers.
type passed struct {
	id    uint64
	to    broker.NodeID
	req   kmsg.Request
	until time.Duration
	g     *gather
}

// spread divides a request among the nodes that answer its partitions. It reports
// false where this node answers all of them.
func (s *Server) spread(r broker.Request) bool {
	if !passable(r.Req.Key()) || ownLog(r.Req) {
		return false
	}
	var owners []broker.NodeID // this node is 0
	each(r.Req, func(topic string, index int32) {
		if o := s.owner(topic, index); !slices.Contains(owners, o) {
			owners = append(owners, o)
		}
	})
	if len(owners) == 0 || len(owners) == 1 && owners[0] == 0 {
		return false
	}
	slices.Sort(owners)
	g := &gather{id: r.ID, waiting: len(owners)}
	silent := false
	if p, ok := r.Req.(*kmsg.ProduceRequest); ok && p.Acks == 0 {
		silent = true
		s.b.Reply(broker.Reply{ID: r.ID})
	}
	for _, o := range owners {
		part := r.Req
		if len(owners) > 1 {
			part = only(r.Req, func(topic string, index int32) bool { return s.owner(topic, index) == o })
		}
		switch {
		case o == 0:
			s.answerHere(part, func(rep broker.Reply) {
				if rep.Resp != nil {
					g.slices = rep.Slices
					s.collect(g, rep.Resp)
				}
			})
		case s.cut[o]:
			// Nothing was sent: it was certainly not appended.
			s.collect(g, refusal(part, kerr.NotLeaderForPartition.Code))
		default:
			s.passID++
			f := &Forward{ID: s.passID, Req: part}
			if !silent {
				s.passed = append(s.passed, &passed{id: f.ID, to: o, req: part, until: s.b.Now().Mono + patience(part), g: g})
			}
			s.b.Send(o, f, nil)
		}
	}
	return true
}

// owner is the other node that answers a partition, 0 where this one does.
func (s *Server) owner(topic string, index int32) broker.NodeID {
	if p := s.b.Partition(topic, index); p != nil {
		if v := p.Machine().View(); v.Proxied && v.Leader != broker.None && v.Leader != s.cfg.Self {
			return v.Leader
		}
	}
	return 0
}

// Forwarded takes a request that another node passed on. It is answered here, whoever leads.
func (s *Server) Forwarded(from broker.NodeID, f *Forward) {
	s.answerHere(f.Req, func(rep broker.Reply) {
		if rep.Resp != nil {
			s.b.Send(from, &Forwarded{ID: f.ID, Resp: rep.Resp}, rep.Slices)
		}
	})
}

// answerHere handles a request of this node's own or of another node, whose answer goes to then.
func (s *Server) answerHere(r kmsg.Request, then func(broker.Reply)) {
	s.inner++
	id := innerRequests | s.inner
	s.then[id] = then
	a, _ := served(r.Key(), r.GetVersion())
	a.handle(s, id, r)
}

// innerRequests marks the ids of requests that no connection waits for.
const innerRequests broker.ReqID = 1 << 63

// answer sends a reply to whom it is for.
func (s *Server) answer(r broker.Reply) {
	if r.ID&innerRequests == 0 {
		s.b.Reply(r)
		return
	}
	then := s.then[r.ID]
	delete(s.then, r.ID)
	then(r)
}

// Answered takes the answer to a request that was passed on.
func (s *Server) Answered(from broker.NodeID, f *Forwarded) {
	i := slices.IndexFunc(s.passed, func(p *passed) bool { return p.id == f.ID && p.to == from })
	if i < 0 {
		return
	}
	p := s.passed[i]
	s.passed = slices.Delete(s.passed, i, i+1)
	s.collect(p.g, f.Resp)
}

// Link tells that a stream to another node came up or broke: what was passed on over
// it may be lost, or its answer.
func (s *Server) Link(peer broker.NodeID, up bool) {
	s.cut[peer] = !up
	if !up {
		s.giveUp(func(p *passed) bool { return p.to == peer })
	}
}

// giveUp answers what was passed on and is not waited for any more.
func (s *Server) giveUp(which func(*passed) bool) {
	var over []*passed
	s.passed = slices.DeleteFunc(s.passed, func(p *passed) bool {
		if which(p) {
			over = append(over, p)
			return true
		}
		return false
	})
	for _, p := range over {
		code := kerr.NotLeaderForPartition.Code // of a read: it changed nothing
		if p.req.Key() == int16(kmsg.Produce) {
			code = kerr.RequestTimedOut.Code // it may have been appended
		}
		s.collect(p.g, refusal(p.req, code))
	}
}

func (s *Server) collect(g *gather, r kmsg.Response) {
	g.parts = append(g.parts, r)
	if g.waiting--; g.waiting > 0 {
		return
	}
	resp := g.parts[0]
	if len(g.parts) > 1 {
		resp = merged(g.parts, g.slices)
	}
	s.b.Reply(broker.Reply{ID: g.id, Resp: resp, Slices: g.slices})
}

// nextPass is the earliest end of the wait for a request that was passed on.
func (s *Server) nextPass() time.Duration {
	next := scheme.Never
	for _, p := range s.passed {
		next = min(next, p.until)
	}
	return next
}

// ownLog: the request is about this replica's own log, whoever leads.
func ownLog(r kmsg.Request) bool {
	switch r := r.(type) {
	case *kmsg.FetchRequest:
		return r.ReplicaID == DebuggingConsumer
	case *kmsg.ListOffsetsRequest:
		return r.ReplicaID == DebuggingConsumer
	}
	return false
}

// each calls do with every partition of a request.
func each(r kmsg.Request, do func(topic string, index int32)) {
	only(r, func(topic string, index int32) bool {
		do(topic, index)
		return false
	})
}

// only returns a request with those partitions that keep chooses.
func only(r kmsg.Request, keep func(topic string, index int32) bool) kmsg.Request {
	switch r := r.(type) {
	case *kmsg.ProduceRequest:
		q := *r
		q.Topics = nil
		for _, t := range r.Topics {
			t.Partitions = kept(t.Partitions, func(p *kmsg.ProduceRequestTopicPartition) bool { return keep(t.Topic, p.Partition) })
			if len(t.Partitions) > 0 {
				q.Topics = append(q.Topics, t)
			}
		}
		return &q
	case *kmsg.FetchRequest:
		q := *r
		q.Topics = nil
		for _, t := range r.Topics {
			t.Partitions = kept(t.Partitions, func(p *kmsg.FetchRequestTopicPartition) bool { return keep(t.Topic, p.Partition) })
			if len(t.Partitions) > 0 {
				q.Topics = append(q.Topics, t)
			}
		}
		return &q
	case *kmsg.ListOffsetsRequest:
		q := *r
		q.Topics = nil
		for _, t := range r.Topics {
			t.Partitions = kept(t.Partitions, func(p *kmsg.ListOffsetsRequestTopicPartition) bool { return keep(t.Topic, p.Partition) })
			if len(t.Partitions) > 0 {
				q.Topics = append(q.Topics, t)
			}
		}
		return &q
	}
	return r
}

func kept[P any](all []P, keep func(*P) bool) []P {
	var some []P
	for i := range all {
		if keep(&all[i]) {
			some = append(some, all[i])
		}
	}
	return some
}

// patience is how long the answer to a request that was passed on is waited for.
func patience(r kmsg.Request) time.Duration {
	ms := int32(0)
	switch r := r.(type) {
	case *kmsg.ProduceRequest:
		ms = r.TimeoutMillis
	case *kmsg.FetchRequest:
		ms = r.MaxWaitMillis
	}
	return time.Duration(min(max(ms, 0), 600_000))*time.Millisecond + passLimit
}

// refusal answers every partition of a request with an error code.
func refusal(r kmsg.Request, code int16) kmsg.Response {
	switch r := r.(type) {
	case *kmsg.FetchRequest:
		resp := fetchResponse(r)
		for i, t := range r.Topics {
			for j := range t.Partitions {
				rp := &resp.Topics[i].Partitions[j]
				rp.Default()
				rp.Partition, rp.ErrorCode, rp.HighWatermark, rp.LastStableOffset, rp.LogStartOffset, rp.RecordBatches = t.Partitions[j].Partition, code, -1, -1, -1, []byte{}
			}
		}
		return resp
	case *kmsg.ListOffsetsRequest:
		resp := kmsg.NewPtrListOffsetsResponse()
		resp.SetVersion(r.Version)
		for _, t := range r.Topics {
			rt := kmsg.NewListOffsetsResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewListOffsetsResponseTopicPartition()
				rp.Partition, rp.ErrorCode, rp.Offset, rp.Timestamp, rp.LeaderEpoch = p.Partition, code, -1, -1, -1
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp
	}
	req := r.(*kmsg.ProduceRequest)
	resp := produceResponse(req)
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			rp := &resp.Topics[i].Partitions[j]
			rp.ErrorCode, rp.ErrorMessage = code, text(code, "")
		}
	}
	return resp
}

// merged makes one response of several; slices point into it afterwards.
func merged(parts []kmsg.Response, into []broker.Slice) kmsg.Response {
	switch first := parts[0].(type) {
	case *kmsg.FetchResponse:
		resp := kmsg.NewPtrFetchResponse()
		resp.SetVersion(first.Version)
		for _, part := range parts {
			for _, t := range part.(*kmsg.FetchResponse).Topics {
				rt := topicOf(&resp.Topics, func(o *kmsg.FetchResponseTopic) bool { return o.Topic == t.Topic }, kmsg.FetchResponseTopic{Topic: t.Topic})
				rt.Partitions = append(rt.Partitions, t.Partitions...)
			}
		}
		// The partitions stand in another place now.
		for _, part := range parts {
			for i, t := range part.(*kmsg.FetchResponse).Topics {
				for j := range t.Partitions {
					repoint(into, &part.(*kmsg.FetchResponse).Topics[i].Partitions[j].RecordBatches, resp, t.Topic, t.Partitions[j].Partition)
				}
			}
		}
		return resp
	case *kmsg.ListOffsetsResponse:
		resp := kmsg.NewPtrListOffsetsResponse()
		resp.SetVersion(first.Version)
		for _, part := range parts {
			for _, t := range part.(*kmsg.ListOffsetsResponse).Topics {
				rt := topicOf(&resp.Topics, func(o *kmsg.ListOffsetsResponseTopic) bool { return o.Topic == t.Topic }, kmsg.ListOffsetsResponseTopic{Topic: t.Topic})
				rt.Partitions = append(rt.Partitions, t.Partitions...)
			}
		}
		return resp
	}
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(parts[0].GetVersion())
	for _, part := range parts {
		for _, t := range part.(*kmsg.ProduceResponse).Topics {
			rt := topicOf(&resp.Topics, func(o *kmsg.ProduceResponseTopic) bool { return o.Topic == t.Topic }, kmsg.ProduceResponseTopic{Topic: t.Topic})
			rt.Partitions = append(rt.Partitions, t.Partitions...)
		}
	}
	return resp
}

// topicOf finds a topic in a response, or adds it.
func topicOf[T any](topics *[]T, is func(*T) bool, empty T) *T {
	for i := range *topics {
		if is(&(*topics)[i]) {
			return &(*topics)[i]
		}
	}
	*topics = append(*topics, empty)
	return &(*topics)[len(*topics)-1]
}

// repoint lets the slice that was to be read into old be read into the partition's
// place in resp.
func repoint(slices []broker.Slice, old *[]byte, resp *kmsg.FetchResponse, topic string, index int32) {
	for k := range slices {
		if slices[k].Into != old {
			continue
		}
		for i := range resp.Topics {
			for j := range resp.Topics[i].Partitions {
				if p := &resp.Topics[i].Partitions[j]; resp.Topics[i].Topic == topic && p.Partition == index {
					slices[k].Into = &p.RecordBatches
				}
			}
		}
	}
}
