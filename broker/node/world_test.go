package node_test

import (
	"cmp"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
)

// world runs real nodes on a virtual clock: messages and disks take a millisecond,
// all in one order. Nothing in it is concurrent.
type world struct {
	t      *testing.T
	now    time.Duration
	events []event // by time, then by order
	order  int
	peers  []*peer
	set    map[string]string
	scheme string
	cut    map[[2]broker.NodeID]bool
	mute   broker.NodeID // says and hears nothing on the replication channel
	req    broker.ReqID
}

type event struct {
	at    time.Duration
	order int
	do    func()
}

// peer is one node with its disk, which outlives incarnations.
type peer struct {
	w     *world
	id    broker.NodeID
	n     *node.Node // nil: down
	inc   int
	rnd   *rand.Rand // what raft's election jitter reads
	lanes map[broker.Lane]*lane
	was   map[broker.Lane]uint64 // number of the last write of a lane that was removed in this incarnation
	meta  [][]byte

	start   time.Duration
	inputs  []stepped // of this incarnation
	rec     node.Recovered
	events  []broker.Event // of all incarnations
	effects []broker.Effect
	replies map[broker.ReqID]kmsg.Response
	exit    *broker.Exit
	stopped int64 // broker epoch that the last incarnation left
	failing error // what the next write reports
}

type lane struct {
	batches [][]byte
	kept    []byte
	written uint64
	synced  int // batches
	corrupt string
	high    int64
}

// stepped is one step as it was.
type stepped struct {
	now     broker.Time
	in      broker.Input
	effects []broker.Effect
}

func newWorld(t *testing.T, nodes int, schemeName string, set map[string]string) *world {
	w := &world{t: t, set: set, scheme: schemeName, cut: map[[2]broker.NodeID]bool{}}
	reader := crand.Reader
	t.Cleanup(func() { crand.Reader = reader })
	for i := range nodes {
		w.peers = append(w.peers, &peer{
			w: w, id: broker.NodeID(i + 1), rnd: rand.New(rand.NewSource(int64(i))), lanes: map[broker.Lane]*lane{}, replies: map[broker.ReqID]kmsg.Response{},
		})
	}
	for _, p := range w.peers {
		w.boot(p)
	}
	return w
}

func (w *world) config(p *peer) node.Config {
	o, err := schemes.Resolve(w.set)
	require.NoError(w.t, err)
	c := node.Config{
		ID: p.id, Name: fmt.Sprintf("n%d", p.id), Incarnation: fmt.Sprintf("n%d.%d", p.id, p.inc), Host: fmt.Sprintf("host%d", p.id), Port: 9092,
		Scheme: w.scheme, Options: o,
	}
	for _, q := range w.peers {
		c.Members = append(c.Members, broker.Member{ID: q.id, Name: fmt.Sprintf("n%d", q.id)})
	}
	return c
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	e := event{w.now + d, w.order, do}
	i, _ := slices.BinarySearchFunc(w.events, e, func(a, b event) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.order, b.order)) })
	w.events = slices.Insert(w.events, i, e)
}

func (w *world) peer(id broker.NodeID) *peer { return w.peers[id-1] }

func (w *world) boot(p *peer) {
	p.inc++
	p.start, p.exit, p.inputs, p.was = w.now, nil, nil, map[broker.Lane]uint64{}
	p.rec = node.Recovered{Meta: slices.Clone(p.meta), Stopped: p.stopped}
	p.stopped = 0
	for _, name := range sortedLanes(p.lanes) {
		l := p.lanes[name]
		s := node.LaneState{Lane: name, High: l.high, Kept: l.kept, Corrupt: l.corrupt}
		for _, b := range l.batches {
			info, err := batch.Parse(b)
			require.NoError(w.t, err)
			s.Batches = append(s.Batches, info)
		}
		l.written, l.synced = 0, len(l.batches)
		p.rec.Lanes = append(p.rec.Lanes, s)
	}
	crand.Reader = p.rnd
	n, err := node.New(w.config(p), p.rec, p.time())
	require.NoError(w.t, err)
	p.n = n
	for _, q := range w.peers {
		if q != p && q.n != nil {
			w.link(p, q, true)
			w.link(q, p, true)
		}
	}
	p.step(broker.Wake{})
}

func sortedLanes(m map[broker.Lane]*lane) []broker.Lane {
	var names []broker.Lane
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// crash ends a process; with power, what is not synced is gone.
func (w *world) crash(p *peer, power bool) {
	p.n = nil
	if power {
		for _, l := range p.lanes {
			l.batches = l.batches[:l.synced]
		}
	}
	for _, q := range w.peers {
		if q.n != nil {
			w.link(q, p, false)
		}
	}
}

func (w *world) link(from, to *peer, up bool) {
	inc := from.inc
	w.after(time.Millisecond, func() {
		if from.n != nil && from.inc == inc {
			for _, ch := range []broker.Channel{broker.Peer, broker.Quorum} {
				from.step(broker.Link{Peer: to.id, Channel: ch, Up: up})
			}
		}
	})
}

func (w *world) isolate(p *peer, cut bool) {
	for _, q := range w.peers {
		if q != p {
			w.cut[[2]broker.NodeID{p.id, q.id}], w.cut[[2]broker.NodeID{q.id, p.id}] = cut, cut
			w.link(p, q, !cut)
			w.link(q, p, !cut)
		}
	}
}

func (p *peer) time() broker.Time {
	return broker.Time{Mono: p.w.now - p.start + time.Second, Wall: int64(p.w.now)}
}

func (p *peer) step(in broker.Input) {
	if p.n == nil {
		return
	}
	crand.Reader = p.rnd
	now := p.time()
	effects := p.n.Step(now, in)
	p.inputs = append(p.inputs, stepped{now, in, effects})
	p.effects = append(p.effects, effects...)
	for _, e := range effects {
		if p.n == nil {
			p.w.t.Fatalf("effect %T after the end of node %d", e, p.id)
		}
		p.carryOut(e)
	}
}

func (p *peer) carryOut(e broker.Effect) {
	w := p.w
	inc := p.inc
	later := func(in broker.Input) {
		w.after(time.Millisecond, func() {
			if p.inc == inc {
				p.step(in)
			}
		})
	}
	switch e := e.(type) {
	case broker.Send:
		p.fill(e.Slices)
		q := w.peer(e.To)
		to := q.inc
		w.after(time.Millisecond, func() {
			mute := e.Channel == broker.Peer && (w.mute == p.id || w.mute == q.id)
			if !mute && !w.cut[[2]broker.NodeID{p.id, q.id}] && q.inc == to && p.inc == inc {
				q.step(broker.PeerMessage{From: p.id, Channel: e.Channel, Msg: e.Msg})
			}
		})
	case broker.Reply:
		p.fill(e.Slices)
		require.NotContains(w.t, p.replies, e.ID, "answered twice")
		p.replies[e.ID] = e.Resp
	case broker.OpenLane:
		if p.lanes[e.Lane] == nil {
			p.lanes[e.Lane] = &lane{written: p.was[e.Lane]}
		}
	case broker.RemoveLane:
		if l := p.lanes[e.Lane]; l != nil {
			p.was[e.Lane] = l.written
		}
		delete(p.lanes, e.Lane)
	case broker.Append:
		l := p.lanes[e.Lane]
		require.Empty(w.t, l.corrupt, "a damaged log takes no append before a truncation")
		require.Equal(w.t, l.written+1, e.Seq)
		l.written++
		l.batches = append(l.batches, e.Batches...)
		later(broker.Stored{Lane: e.Lane, Written: e.Seq, Err: p.failing})
	case broker.Truncate:
		l := p.lanes[e.Lane]
		require.Equal(w.t, l.written+1, e.Seq)
		l.written++
		l.corrupt = ""
		l.batches = slices.DeleteFunc(l.batches, func(b []byte) bool { return baseOf(b) >= e.To })
		l.synced = min(l.synced, len(l.batches))
		later(broker.Stored{Lane: e.Lane, Written: e.Seq})
	case broker.Sync:
		if l := p.lanes[e.Lane]; l != nil {
			n, written := len(l.batches), l.written
			w.after(2*time.Millisecond, func() {
				if p.n != nil && p.inc == inc {
					l.synced = min(n, len(l.batches))
					p.step(broker.Stored{Lane: e.Lane, Written: written, Synced: written})
				}
			})
		}
	case broker.Keep:
		l := p.lanes[e.Lane]
		require.Equal(w.t, l.written+1, e.Seq)
		l.written++
		l.kept = e.State
		later(broker.Stored{Lane: e.Lane, Written: e.Seq, Err: p.failing})
	case broker.Checkpoint:
		p.lanes[e.Lane].high = e.HW
	case broker.MetaAppend:
		if e.Snapshot {
			p.meta = nil
		}
		p.meta = append(p.meta, e.Records...)
		later(broker.MetaStored{Seq: e.Seq, Err: p.failing})
	case broker.Emit:
		p.events = append(p.events, e.Event)
	case broker.Exit:
		p.exit, p.stopped = &e, e.BrokerEpoch
		p.w.crash(p, false)
	}
}

func baseOf(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

func (p *peer) fill(slices []broker.Slice) {
	for _, s := range slices {
		var data []byte
		for _, b := range p.lanes[s.Lane].batches {
			if info, _ := batch.Parse(b); info.Last >= s.From && info.Last < s.To {
				data = append(data, b...)
			}
		}
		*s.Into = data
	}
}

// run lets d pass.
func (w *world) run(d time.Duration) { w.until(d, func() bool { return false }) }

// until runs until done, at most for d; it reports whether it is.
func (w *world) until(d time.Duration, done func() bool) bool {
	end := w.now + d
	for !done() {
		var next *peer
		at := end + 1
		if len(w.events) > 0 {
			at = w.events[0].at
		}
		for _, p := range w.peers {
			if p.n != nil {
				if wake := p.n.NextWake() - time.Second + p.start; wake < at {
					at, next = wake, p
				}
			}
		}
		if at > end {
			w.now = end
			return done()
		}
		w.now = max(w.now, at)
		if next != nil {
			next.step(broker.Wake{})
			continue
		}
		e := w.events[0]
		w.events = w.events[1:]
		e.do()
	}
	return true
}

func (w *world) eventually(what string, done func() bool) {
	w.t.Helper()
	require.True(w.t, w.until(30*time.Second, done), "not within 30 s: %s", what)
}

func (w *world) ready() {
	w.t.Helper()
	w.eventually("all nodes are ready", func() bool {
		for _, p := range w.peers {
			if p.n == nil {
				continue
			}
			if ok, _ := p.n.Ready(); !ok {
				return false
			}
		}
		return true
	})
}

// send gives a request to a node, as its connection would.
func (w *world) send(p *peer, req kmsg.Request) broker.ReqID {
	w.req++
	p.step(broker.Request{ID: w.req, ClientID: "test", Req: req})
	return w.req
}

// ask sends a request and waits for the answer.
func (w *world) ask(p *peer, req kmsg.Request) kmsg.Response {
	w.t.Helper()
	id := w.send(p, req)
	w.eventually("an answer", func() bool { _, ok := p.replies[id]; return ok })
	return p.replies[id]
}

func (w *world) create(p *peer, topic string, partitions int32, rf int16, configs map[string]string) *kmsg.CreateTopicsResponseTopic {
	w.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version = 7
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, partitions, rf
	for k, v := range configs {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, &v
		rt.Configs = append(rt.Configs, c)
	}
	req.Topics = append(req.Topics, rt)
	resp := w.ask(p, req).(*kmsg.CreateTopicsResponse)
	return &resp.Topics[0]
}

// leader is the leader of a partition by the metadata of a node.
func (w *world) leader(p *peer, topic string) broker.NodeID {
	if p.n == nil {
		return broker.None
	}
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 9
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	id := w.send(p, req)
	resp, ok := p.replies[id].(*kmsg.MetadataResponse)
	if !ok || len(resp.Topics[0].Partitions) == 0 {
		return broker.None
	}
	return broker.NodeID(resp.Topics[0].Partitions[0].Leader)
}

func (w *world) inSync(p *peer, topic string) []int32 {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 9
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	resp := p.replies[w.send(p, req)].(*kmsg.MetadataResponse)
	return resp.Topics[0].Partitions[0].ISR
}

func produceRequest(topic, value string, acks int16) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, acks, 2000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = oneRecord(value)
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func (w *world) produce(p *peer, topic, value string) (offset int64, err error) {
	w.t.Helper()
	resp := w.ask(p, produceRequest(topic, value, -1)).(*kmsg.ProduceResponse)
	rp := resp.Topics[0].Partitions[0]
	return rp.BaseOffset, kerr.ErrorForCode(rp.ErrorCode)
}

func fetchRequest(topic string, offset int64, replica int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 11, replica, 100, 1, 1<<20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = offset, 1<<20, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func (w *world) values(p *peer, topic string, replica int32) (values []string, err error) {
	w.t.Helper()
	resp := w.ask(p, fetchRequest(topic, 0, replica)).(*kmsg.FetchResponse)
	rp := resp.Topics[0].Partitions[0]
	batches, _, e := batch.Split(rp.RecordBatches)
	require.NoError(w.t, e)
	for _, b := range batches {
		values = append(values, string(b[batch.HeaderSize:]))
	}
	return values, kerr.ErrorForCode(rp.ErrorCode)
}

// oneRecord is a batch of one record whose body nobody below a client decodes.
func oneRecord(value string) []byte {
	b := append(make([]byte, batch.HeaderSize), value...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint64(b[43:], ^uint64(0))
	binary.BigEndian.PutUint16(b[51:], ^uint16(0))
	binary.BigEndian.PutUint32(b[53:], ^uint32(0))
	binary.BigEndian.PutUint32(b[57:], 1)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func (p *peer) emitted(kind string) (n int) {
	for _, e := range p.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

var errDisk = errors.New("the disk is on fire")
