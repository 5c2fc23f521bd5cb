package kafka_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/kafka"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
)

// host is a backend with real metadata of one broker, and partitions whose machines
// do what the test says.
type host struct {
	t       *testing.T
	s       *kafka.Server
	now     time.Duration
	c       *cluster.Cluster
	parts   map[string]*part
	replies map[broker.ReqID]broker.Reply
	next    broker.ReqID
	hosted  bool // false: partitions are on another node
}

// part is a partition and its machine.
type part struct {
	h        *host
	index    *logindex.Index
	high     int64
	start    int64 // of the epoch
	code     int16 // of CheckRead
	produced []scheme.Produce
}

func (p *part) Machine() scheme.Machine { return p }
func (p *part) Index() *logindex.Index  { return p.index }
func (p *part) Lane() broker.Lane       { return "lane" }
func (p *part) Now() broker.Time        { return p.h.Now() }

func (p *part) Assigned(scheme.Assignment)            {}
func (p *part) ISRAnswer(int16)                       {}
func (p *part) Produce(r scheme.Produce)              { p.produced = append(p.produced, r) }
func (p *part) Message(broker.NodeID, broker.Message) {}
func (p *part) Link(broker.NodeID, bool)              {}
func (p *part) Stored()                               {}
func (p *part) Wake()                                 {}
func (p *part) NextWake() time.Duration               { return scheme.Never }
func (p *part) CheckRead(epoch int32) (limit int64, c int16) {
	if epoch >= 0 && epoch != 5 {
		return 0, kerr.FencedLeaderEpoch.Code
	}
	return p.high, p.code
}
func (p *part) High() int64 { return p.high }
func (p *part) View() scheme.View {
	return scheme.View{Leader: 1, Epoch: 5, Visible: p.high, EpochStart: p.start}
}
func (p *part) Close() {}

func (h *host) Now() broker.Time                         { return broker.Time{Mono: h.now} }
func (h *host) State() *cluster.State                    { return h.c.State() }
func (h *host) Quorum() cluster.Quorum                   { return h.c.Quorum() }
func (h *host) Propose(c cluster.Command) cluster.Ticket { return h.c.Propose(h.Now(), c) }
func (h *host) BrokerConfigs() map[string]string         { return map[string]string{"fsync": "always"} }

func (h *host) Configs(*cluster.Topic) map[string]string {
	return map[string]string{"min.insync.replicas": "2"}
}

func (h *host) Send(broker.NodeID, broker.Message, []broker.Slice) {}
func (h *host) Reply(r broker.Reply)                               { require.NotContains(h.t, h.replies, r.ID); h.replies[r.ID] = r }

func (h *host) Partition(topic string, index int32) kafka.Partition {
	if p := h.parts[fmt.Sprintf("%s-%d", topic, index)]; p != nil && h.hosted {
		return p
	}
	return nil
}

// newHost is a registered node with the topics t (two partitions) and u (one).
func newHost(t *testing.T) *host {
	h := &host{t: t, parts: map[string]*part{}, replies: map[broker.ReqID]broker.Reply{}, hosted: true}
	c := cluster.DefaultConfig()
	c.ID, c.Name, c.Incarnation, c.Host, c.Port, c.Rack = 1, "n1", "n1.1", "host1", 9092, "r1"
	c.Voters = []broker.Member{{ID: 1, Name: "n1"}}
	var err error
	h.c, err = cluster.New(c, nil, broker.Time{})
	require.NoError(t, err)
	h.s = kafka.New(h, kafka.Config{Self: 1, ClusterID: "test", AutoCreate: true, Scheme: "isr", Schemes: schemes.Known(), Nodes: []broker.NodeID{1, 2, 3}})
	h.settle()
	h.create("t", 2)
	h.create("u", 1)
	return h
}

// settle lets the metadata quorum work, for two seconds.
func (h *host) settle() {
	for range 40 {
		h.now += 50 * time.Millisecond
		h.c.Tick(h.Now())
		for {
			out := h.c.Take()
			require.Empty(h.t, out.Fatal)
			for _, r := range out.Results {
				h.s.Result(r)
			}
			if len(out.Writes) == 0 {
				break
			}
			h.c.Stored(h.Now(), out.Writes[len(out.Writes)-1].Seq)
		}
	}
}

func (h *host) create(name string, partitions int32) {
	h.c.Propose(h.Now(), cluster.CreateTopic{Name: name, Partitions: partitions, ReplicationFactor: 1})
	h.settle()
	require.NotNil(h.t, h.State().Topic(name))
	for i := range partitions {
		h.parts[fmt.Sprintf("%s-%d", name, i)] = &part{h: h, index: logindex.New(0, nil)}
	}
}

// send gives a request to the server, through its encoding.
func (h *host) send(req kmsg.Request) broker.ReqID {
	h.t.Helper()
	decoded := roundTrip(h.t, req)
	h.next++
	h.s.Handle(broker.Request{ID: h.next, Req: decoded})
	return h.next
}

// ask wants the answer at once, through its encoding.
func (h *host) ask(req kmsg.Request) kmsg.Response {
	h.t.Helper()
	id := h.send(req)
	return h.answer(id)
}

func (h *host) answer(id broker.ReqID) kmsg.Response {
	h.t.Helper()
	r, ok := h.replies[id]
	require.True(h.t, ok, "no answer")
	return reread(h.t, r.Resp)
}

// roundTrip sends a request through a client's encoder and the server's decoder.
func roundTrip(t *testing.T, req kmsg.Request) kmsg.Request {
	t.Helper()
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("me")).AppendRequest(nil, req, 42)
	require.Equal(t, len(frame)-4, int(binary.BigEndian.Uint32(frame)))
	h, got, unsupported, err := kafka.Decode(frame[4:])
	require.NoError(t, err)
	require.False(t, unsupported)
	require.Equal(t, kafka.Header{Key: req.Key(), Version: req.GetVersion(), Correlation: 42, ClientID: "me"}, h)
	return got
}

// reread sends a response through the server's encoder and a client's decoder.
func reread(t *testing.T, resp kmsg.Response) kmsg.Response {
	t.Helper()
	frame := kafka.AppendResponse([]byte("before"), 42, resp)[6:]
	r := kbin.Reader{Src: frame}
	require.Equal(t, int32(len(frame)-4), r.Int32())
	require.Equal(t, int32(42), r.Int32())
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		kmsg.SkipTags(&r)
	}
	got := kmsg.ResponseForKey(resp.Key())
	got.SetVersion(resp.GetVersion())
	require.NoError(t, got.ReadFrom(r.Src))
	return got
}

func rawBatch(value string, change func(b []byte)) []byte {
	b := append(make([]byte, batch.HeaderSize), value...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint64(b[43:], ^uint64(0))
	binary.BigEndian.PutUint16(b[51:], ^uint16(0))
	binary.BigEndian.PutUint32(b[53:], ^uint32(0))
	binary.BigEndian.PutUint32(b[57:], 1)
	if change != nil {
		change(b)
	}
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// fill gives a partition n batches of 100 bytes in epoch 5, of which high are visible.
func (p *part) fill(n, high int64) {
	for i := range n {
		p.index.Append(batch.Info{Base: i, Last: i, Epoch: 5, Size: 100, ProducerID: -1, MaxTimestamp: 1000 + i, Records: 1})
	}
	p.high = high
}

func (p *part) rise(high int64) {
	p.high = high
	p.h.s.Advanced(p)
	p.h.s.Run()
}

// TestEveryVersion: each kind that is advertised is decoded and answered in every
// version that is advertised, and kmsg knows the version.
func TestEveryVersion(t *testing.T) {
	versions := kafka.Versions(3)
	require.Len(t, versions.ApiKeys, 18)
	for _, k := range versions.ApiKeys {
		for v := k.MinVersion; v <= k.MaxVersion; v++ {
			t.Run(fmt.Sprintf("%s/%d", kmsg.NameForKey(k.ApiKey), v), func(t *testing.T) {
				h := newHost(t)
				req := kmsg.RequestForKey(k.ApiKey)
				require.LessOrEqual(t, v, req.MaxVersion())
				// Every field at its default, arrays with one element.
				one(reflect.ValueOf(req).Elem(), 0)
				req.SetVersion(v)
				if p, ok := req.(*kmsg.ProduceRequest); ok {
					p.Acks = 1
				}
				id := h.send(req)
				h.settle()
				h.now += time.Minute
				h.s.Wake()
				resp := h.answer(id)
				require.Equal(t, v, resp.GetVersion())
			})
		}
	}
}

// one gives every slice of structures in v one element, by its Default method.
func one(v reflect.Value, depth int) {
	if m := v.Addr().MethodByName("Default"); m.IsValid() {
		m.Call(nil)
	}
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct && depth < 3 {
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			one(f.Index(0), depth+1)
		}
	}
}

func TestUnserved(t *testing.T) {
	f := kmsg.NewRequestFormatter()
	req := kmsg.NewPtrJoinGroupRequest()
	_, _, _, err := kafka.Decode(f.AppendRequest(nil, req, 1)[4:])
	require.ErrorIs(t, err, kafka.ErrUnserved)
	require.ErrorContains(t, err, "JoinGroup")
	old := kmsg.NewPtrProduceRequest()
	old.Version = 2
	_, _, _, err = kafka.Decode(f.AppendRequest(nil, old, 1)[4:])
	require.ErrorIs(t, err, kafka.ErrUnserved)
	// ApiVersions of a version to come is answered in version 0 (KIP-511).
	h, got, unsupported, err := kafka.Decode([]byte{0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff})
	require.NoError(t, err)
	require.True(t, unsupported)
	require.Equal(t, int32(7), h.Correlation)
	require.Equal(t, int16(0), got.GetVersion())
	for _, frame := range [][]byte{
		{0, 3, 0, 9, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}, // four billion tags
		nil, {0}, {0, 3, 0, 1, 0, 0, 0, 1, 0, 9}, {0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0xff},
	} {
		_, _, _, err := kafka.Decode(frame)
		require.Error(t, err)
	}
}

func FuzzDecode(f *testing.F) {
	format := kmsg.NewRequestFormatter(kmsg.FormatterClientID("me"))
	for _, k := range kafka.Versions(3).ApiKeys {
		for _, v := range []int16{k.MinVersion, k.MaxVersion} {
			req := kmsg.RequestForKey(k.ApiKey)
			one(reflect.ValueOf(req).Elem(), 0)
			req.SetVersion(v)
			f.Add(format.AppendRequest(nil, req, 1)[4:])
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		// kmsg believes a tag count of a body, up to 2^32: slow, and no more than that.
		run := 0
		for _, b := range frame[min(8, len(frame)):] {
			if run++; b < 0x80 {
				run = 0
			}
			if run == 3 {
				t.Skip("a number that may keep kmsg busy")
			}
		}
		h, req, unsupported, err := kafka.Decode(frame)
		if err != nil {
			return
		}
		require.Equal(t, h.Key, req.Key())
		if !unsupported {
			require.Equal(t, h.Version, req.GetVersion())
		}
	})
}

func produceRequest(acks int16, topic string, partition int32, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, acks, 500
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, records
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func TestProduceRefusals(t *testing.T) {
	good := rawBatch("a", nil)
	cases := []struct {
		name   string
		req    *kmsg.ProduceRequest
		hosted bool
		want   *kerr.Error
	}{
		{"acks 2", produceRequest(2, "t", 0, good), true, kerr.InvalidRequiredAcks},
		{"unknown topic", produceRequest(-1, "nope", 0, good), true, kerr.UnknownTopicOrPartition},
		{"unknown partition", produceRequest(-1, "t", 2, good), true, kerr.UnknownTopicOrPartition},
		{"negative partition", produceRequest(-1, "t", -1, good), true, kerr.UnknownTopicOrPartition},
		{"not hosted here", produceRequest(-1, "t", 0, good), false, kerr.NotLeaderForPartition},
		{"no records", produceRequest(-1, "t", 0, nil), true, kerr.CorruptMessage},
		{"wrong checksum", produceRequest(-1, "t", 0, append(append([]byte(nil), good[:len(good)-1]...), 'b')), true, kerr.CorruptMessage},
		{"cut off", produceRequest(-1, "t", 0, good[:len(good)-1]), true, kerr.CorruptMessage},
		{"two batches", produceRequest(-1, "t", 0, append(append([]byte(nil), good...), good...)), true, kerr.CorruptMessage},
		{"no record in the batch", produceRequest(-1, "t", 0, rawBatch("", func(b []byte) { b[60] = 0 })), true, kerr.InvalidRecord},
		{"larger than max.message.bytes", produceRequest(-1, "t", 0, rawBatch(strings.Repeat("a", 1<<20), nil)), true, kerr.MessageTooLarge},
		{"control batch", produceRequest(-1, "t", 0, rawBatch("a", func(b []byte) { b[22] = 1 << 5 })), true, kerr.InvalidRecord},
		{"producer without sequence", produceRequest(-1, "t", 0, rawBatch("a", func(b []byte) { binary.BigEndian.PutUint64(b[43:], 7) })), true, kerr.InvalidRecord},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.hosted = c.hosted
			rp := h.ask(c.req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
			require.ErrorIs(t, kerr.ErrorForCode(rp.ErrorCode), c.want)
			require.Equal(t, int64(-1), rp.BaseOffset)
			require.NotNil(t, rp.ErrorMessage)
			require.Empty(t, h.parts["t-0"].produced, "nothing reached the log")
		})
	}
	t.Run("transaction", func(t *testing.T) {
		h := newHost(t)
		req := produceRequest(-1, "t", 0, good)
		req.TransactionID = kmsg.StringPtr("tx")
		rp := h.ask(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		require.Equal(t, kerr.TransactionalIDAuthorizationFailed.Code, rp.ErrorCode)
	})
}

// TestProduceWaitsForAllPartitions: one answer, when the last partition is done.
func TestProduceWaitsForAllPartitions(t *testing.T) {
	h := newHost(t)
	req := produceRequest(-1, "t", 1, rawBatch("a", nil))
	two := kmsg.NewProduceRequestTopicPartition()
	two.Partition, two.Records = 0, rawBatch("b", nil)
	req.Topics[0].Partitions = append(req.Topics[0].Partitions, two)
	id := h.send(req)
	p0, p1 := h.parts["t-0"].produced, h.parts["t-1"].produced
	require.Len(t, p0, 1)
	require.Len(t, p1, 1)
	require.Equal(t, int16(-1), p0[0].Acks)
	require.Equal(t, 500*time.Millisecond, p0[0].Timeout)
	h.s.Produced(p0[0].Token, scheme.Produced{Base: 7})
	require.NotContains(t, h.replies, id)
	h.s.Produced(p1[0].Token, scheme.Produced{Code: kerr.RequestTimedOut.Code, Base: -1})
	resp := h.answer(id).(*kmsg.ProduceResponse)
	require.Equal(t, int32(1), resp.Topics[0].Partitions[0].Partition)
	require.Equal(t, kerr.RequestTimedOut.Code, resp.Topics[0].Partitions[0].ErrorCode)
	require.Equal(t, int64(7), resp.Topics[0].Partitions[1].BaseOffset)
	// A second outcome of the same write is none.
	h.s.Produced(p0[0].Token, scheme.Produced{Base: 9})
	require.Len(t, h.replies, 1)
}

func TestProduceWithoutAnswer(t *testing.T) {
	h := newHost(t)
	for _, topic := range []string{"t", "nope"} {
		id := h.send(produceRequest(0, topic, 0, rawBatch("a", nil)))
		r, ok := h.replies[id]
		require.True(t, ok, "the connection goes on")
		require.Nil(t, r.Resp)
	}
	require.Len(t, h.parts["t-0"].produced, 1)
	// The client goes away before the outcome.
	id := h.send(produceRequest(1, "t", 0, rawBatch("b", nil)))
	h.s.Gone(id)
	h.s.Produced(h.parts["t-0"].produced[1].Token, scheme.Produced{Base: 1})
	require.NotContains(t, h.replies, id)
}

func fetchRequest(offset int64, wait, minBytes int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 12, -1, wait, minBytes, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = "t"
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = offset, 1<<20, -1, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func (h *host) part(id broker.ReqID) (kmsg.FetchResponseTopicPartition, []broker.Slice) {
	h.t.Helper()
	return h.answer(id).(*kmsg.FetchResponse).Topics[0].Partitions[0], h.replies[id].Slices
}

func TestFetchAnswers(t *testing.T) {
	cases := []struct {
		name     string
		change   func(h *host, r *kmsg.FetchRequest)
		want     *kerr.Error
		from, to int64 // of the slice; equal: none
		diverged int64
	}{
		{name: "below the high watermark", to: 6},
		{name: "from the middle", change: func(_ *host, r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].FetchOffset = 4 }, from: 4, to: 6},
		{name: "partition bytes", change: func(_ *host, r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].PartitionMaxBytes = 250 }, to: 2},
		{name: "response bytes", change: func(_ *host, r *kmsg.FetchRequest) { r.MaxBytes = 300 }, to: 3},
		{name: "at least one batch", change: func(_ *host, r *kmsg.FetchRequest) { r.MaxBytes = 10 }, to: 1},
		{name: "debugging consumer reads to the end", change: func(_ *host, r *kmsg.FetchRequest) { r.ReplicaID = -2 }, to: 9},
		{name: "debugging consumer reads whoever leads", change: func(h *host, r *kmsg.FetchRequest) {
			r.ReplicaID = -2
			h.parts["t-0"].code = kerr.NotLeaderForPartition.Code
		}, to: 9},
		{name: "replica", change: func(_ *host, r *kmsg.FetchRequest) { r.ReplicaID = 2 }, want: kerr.NotLeaderForPartition},
		{name: "not the leader", change: func(h *host, _ *kmsg.FetchRequest) { h.parts["t-0"].code = kerr.NotLeaderForPartition.Code }, want: kerr.NotLeaderForPartition},
		{name: "not hosted", change: func(h *host, _ *kmsg.FetchRequest) { h.hosted = false }, want: kerr.NotLeaderForPartition},
		{name: "wrong epoch", change: func(_ *host, r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].CurrentLeaderEpoch = 4 }, want: kerr.FencedLeaderEpoch},
		{name: "unknown topic", change: func(_ *host, r *kmsg.FetchRequest) { r.Topics[0].Topic = "nope" }, want: kerr.UnknownTopicOrPartition},
		{name: "unknown partition", change: func(_ *host, r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].Partition = 2 }, want: kerr.UnknownTopicOrPartition},
		{name: "beyond the end", change: func(_ *host, r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].FetchOffset = 10 }, want: kerr.OffsetOutOfRange},
		{name: "negative", change: func(_ *host, r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].FetchOffset = -1 }, want: kerr.OffsetOutOfRange},
		{name: "diverged", change: func(_ *host, r *kmsg.FetchRequest) {
			r.Topics[0].Partitions[0].LastFetchedEpoch = 7
			r.Topics[0].Partitions[0].FetchOffset = 8
		}, diverged: 9},
		{name: "between the high watermark and the end, time is up"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.parts["t-0"].fill(9, 6)
			req := fetchRequest(0, 0, 1)
			if c.change == nil && c.to == 0 {
				req = fetchRequest(7, 0, 1)
			}
			if c.change != nil {
				c.change(h, req)
			}
			rp, slices := h.part(h.send(req))
			if c.want != nil {
				require.ErrorIs(t, kerr.ErrorForCode(rp.ErrorCode), c.want)
				require.Empty(t, slices)
				return
			}
			require.Zero(t, rp.ErrorCode)
			if c.diverged > 0 {
				require.Equal(t, c.diverged, rp.DivergingEpoch.EndOffset)
				require.Equal(t, int32(5), rp.DivergingEpoch.Epoch)
				require.Empty(t, slices)
				return
			}
			require.Equal(t, int64(6), rp.HighWatermark)
			if c.from == c.to {
				require.Empty(t, slices)
				return
			}
			require.Len(t, slices, 1)
			require.Equal(t, [2]int64{c.from, c.to}, [2]int64{slices[0].From, slices[0].To})
		})
	}
}

func TestFetchLongPoll(t *testing.T) {
	h := newHost(t)
	p := h.parts["t-0"]
	p.fill(9, 2)
	id := h.send(fetchRequest(2, 300, 250))
	require.NotContains(t, h.replies, id)
	require.Equal(t, h.now+300*time.Millisecond, h.s.NextWake())
	p.rise(4)
	require.NotContains(t, h.replies, id, "200 bytes are not enough")
	h.s.Run()
	p.rise(5)
	_, slices := h.part(id)
	require.Equal(t, int64(5), slices[0].To)
	require.Equal(t, scheme.Never, h.s.NextWake())

	// Time is up: what there is.
	id = h.send(fetchRequest(4, 300, 1000))
	h.now += 299 * time.Millisecond
	h.s.Wake()
	require.NotContains(t, h.replies, id)
	h.now += time.Millisecond
	h.s.Wake()
	_, slices = h.part(id)
	require.Equal(t, int64(5), slices[0].To)

	// A change of leader wakes it too.
	id = h.send(fetchRequest(5, 300, 1))
	p.code = kerr.NotLeaderForPartition.Code
	p.rise(5)
	rp, _ := h.part(id)
	require.Equal(t, kerr.NotLeaderForPartition.Code, rp.ErrorCode)
	p.code = 0

	// A partition that it does not ask for does not.
	id = h.send(fetchRequest(5, 300, 1))
	h.parts["t-1"].rise(0)
	require.NotContains(t, h.replies, id)
	h.s.Gone(id)
	p.rise(9)
	require.NotContains(t, h.replies, id, "nobody waits any more")
}

// TestFetchSharesItsBytes: the first batch of an answer may exceed the limit, no other.
func TestFetchSharesItsBytes(t *testing.T) {
	h := newHost(t)
	h.parts["t-0"].fill(3, 3)
	h.parts["t-1"].fill(3, 3)
	req := fetchRequest(0, 0, 1)
	second := req.Topics[0].Partitions[0]
	second.Partition = 1
	req.Topics[0].Partitions = append(req.Topics[0].Partitions, second)
	req.MaxBytes = 350
	_, slices := h.part(h.send(req))
	require.Len(t, slices, 1)
	req.MaxBytes = 400
	_, slices = h.part(h.send(req))
	require.Len(t, slices, 2)
	require.Equal(t, int64(1), slices[1].To)
}

func TestFetchSessionsAreNotKept(t *testing.T) {
	h := newHost(t)
	req := fetchRequest(0, 0, 1)
	req.SessionID = 9
	require.Equal(t, kerr.FetchSessionIDNotFound.Code, h.ask(req).(*kmsg.FetchResponse).ErrorCode)
	req.SessionID, req.SessionEpoch = 0, 0
	require.Zero(t, h.ask(req).(*kmsg.FetchResponse).SessionID)
}

func TestListOffsets(t *testing.T) {
	cases := []struct {
		name              string
		version           int16
		replica           int32
		ts                int64
		start             int64
		partition         int32
		epoch             int32
		want              *kerr.Error
		offset, timestamp int64
	}{
		{name: "latest", ts: -1, offset: 6, timestamp: -1},
		{name: "latest of the debugging consumer", ts: -1, replica: -2, offset: 9, timestamp: -1},
		{name: "earliest", ts: -2, offset: 0, timestamp: -1},
		{name: "time", ts: 1003, offset: 3, timestamp: 1003},
		{name: "time before all", ts: 0, offset: 0, timestamp: 1000},
		{name: "time after what is visible", ts: 1007, offset: -1, timestamp: -1},
		{name: "unknown partition", ts: -1, partition: 5, want: kerr.UnknownTopicOrPartition},
		{name: "wrong epoch", ts: -1, epoch: 3, want: kerr.FencedLeaderEpoch},
		{name: "unknown meaning", ts: -9, want: kerr.UnsupportedVersion},
		// After an election, until the high watermark has reached the epoch (KIP-207).
		{name: "latest, new leader", ts: -1, start: 8, want: kerr.OffsetNotAvailable},
		{name: "latest, new leader, old client", version: 4, ts: -1, start: 8, want: kerr.LeaderNotAvailable},
		{name: "latest, new leader that has caught up", ts: -1, start: 6, offset: 6, timestamp: -1},
		{name: "time, new leader, known", ts: 1003, start: 8, offset: 3, timestamp: 1003},
		{name: "time, new leader, not known yet", ts: 1007, start: 8, want: kerr.OffsetNotAvailable},
		{name: "earliest, new leader", ts: -2, start: 8, offset: 0, timestamp: -1},
		{name: "debugging consumer, new leader", ts: -1, replica: -2, start: 8, offset: 9, timestamp: -1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.parts["t-0"].fill(9, 6)
			h.parts["t-0"].start = c.start
			req := kmsg.NewPtrListOffsetsRequest()
			req.Version, req.ReplicaID = 6, c.replica
			if c.replica == 0 {
				req.ReplicaID = -1
			}
			if c.version > 0 {
				req.Version = c.version
			}
			rt := kmsg.NewListOffsetsRequestTopic()
			rt.Topic = "t"
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Timestamp, rp.Partition, rp.CurrentLeaderEpoch = c.ts, c.partition, -1
			if c.epoch > 0 {
				rp.CurrentLeaderEpoch = c.epoch
			}
			rt.Partitions = append(rt.Partitions, rp)
			req.Topics = append(req.Topics, rt)
			got := h.ask(req).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
			if c.want != nil {
				require.ErrorIs(t, kerr.ErrorForCode(got.ErrorCode), c.want)
				require.Equal(t, int64(-1), got.Offset)
				return
			}
			require.Zero(t, got.ErrorCode)
			require.Equal(t, c.offset, got.Offset)
			require.Equal(t, c.timestamp, got.Timestamp)
		})
	}
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	h := newHost(t)
	p := h.parts["t-0"]
	for i, e := range []int32{1, 1, 3, 3, 5} {
		p.index.Append(batch.Info{Base: int64(i), Last: int64(i), Epoch: e, Size: 100, ProducerID: -1})
	}
	p.high = 2
	for _, c := range []struct {
		current, asked, known int32
		end                   int64
		want                  *kerr.Error
	}{
		{5, 1, 1, 2, nil},
		{5, 2, 1, 2, nil},
		{-1, 3, 3, 4, nil},
		{5, 5, 5, 5, nil},
		{5, 0, -1, 0, nil},
		{4, 3, -1, -1, kerr.FencedLeaderEpoch},
	} {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Version, req.ReplicaID = 4, -1
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = "t"
		rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		rp.CurrentLeaderEpoch, rp.LeaderEpoch = c.current, c.asked
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		got := h.ask(req).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0]
		require.Equal(t, kerr.ErrorForCode(got.ErrorCode) == nil, c.want == nil)
		require.Equal(t, c.known, got.LeaderEpoch)
		require.Equal(t, c.end, got.EndOffset)
	}
}

func TestMetadata(t *testing.T) {
	h := newHost(t)
	ask := func(version int16, topics ...string) *kmsg.MetadataResponse {
		req := kmsg.NewPtrMetadataRequest()
		req.Version = version
		for _, name := range topics {
			rt := kmsg.NewMetadataRequestTopic()
			rt.Topic = &name
			req.Topics = append(req.Topics, rt)
		}
		return h.ask(req).(*kmsg.MetadataResponse)
	}
	all := ask(9)
	require.Len(t, all.Topics, 2)
	require.Len(t, all.Topics[0].Partitions, 2)
	require.Equal(t, int32(1), all.ControllerID)
	require.Equal(t, "host1", all.Brokers[0].Host)
	require.Equal(t, "r1", *all.Brokers[0].Rack)
	require.Equal(t, []int32{1}, all.Topics[0].Partitions[0].ISR)
	require.Len(t, ask(0).Topics, 2)
	got := ask(9, "u", "nope").Topics
	require.Zero(t, got[0].ErrorCode)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, got[1].ErrorCode, "creation was not allowed")
	h.settle()
	require.Nil(t, h.State().Topic("nope"))

	// None, other than all, from version 1 on.
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.Topics = 9, []kmsg.MetadataRequestTopic{}
	require.Empty(t, h.ask(req).(*kmsg.MetadataResponse).Topics)

	// By id.
	byID := kmsg.NewPtrMetadataRequest()
	byID.Version = 12
	known, unknown := kmsg.NewMetadataRequestTopic(), kmsg.NewMetadataRequestTopic()
	known.TopicID, unknown.TopicID = h.State().Topic("t").ID, [16]byte{1}
	byID.Topics = append(byID.Topics, known, unknown)
	got = h.ask(byID).(*kmsg.MetadataResponse).Topics
	require.Equal(t, "t", *got[0].Topic)
	require.Equal(t, kerr.UnknownTopicID.Code, got[1].ErrorCode)

	// Created on demand.
	auto := kmsg.NewPtrMetadataRequest()
	auto.Version, auto.AllowAutoTopicCreation = 9, true
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr("auto")
	auto.Topics = append(auto.Topics, rt)
	require.Equal(t, kerr.LeaderNotAvailable.Code, h.ask(auto).(*kmsg.MetadataResponse).Topics[0].ErrorCode)
	h.settle()
	require.Zero(t, h.ask(auto).(*kmsg.MetadataResponse).Topics[0].ErrorCode)
	// A name that no topic can have is refused at once, and for good.
	auto.Topics[0].Topic = kmsg.StringPtr("no/topic")
	require.Equal(t, kerr.InvalidTopicException.Code, h.ask(auto).(*kmsg.MetadataResponse).Topics[0].ErrorCode)
	h.settle()
	require.Nil(t, h.State().Topic("no/topic"))
	// A client before version 4 cannot forbid it.
	ask(3, "old")
	h.settle()
	require.NotNil(t, h.State().Topic("old"))
}

func TestTopics(t *testing.T) {
	h := newHost(t)
	create := func(change func(*kmsg.CreateTopicsRequestTopic)) kmsg.CreateTopicsResponseTopic {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version = 7
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = "new", 3, 1
		change(&rt)
		req.Topics = append(req.Topics, rt)
		id := h.send(req)
		h.settle()
		return h.answer(id).(*kmsg.CreateTopicsResponse).Topics[0]
	}
	config := func(name, value string) kmsg.CreateTopicsRequestTopicConfig {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = name, &value
		return c
	}
	assign := func(partition int32, replicas ...int32) kmsg.CreateTopicsRequestTopicReplicaAssignment {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = partition, replicas
		return a
	}
	for _, c := range []struct {
		name   string
		change func(*kmsg.CreateTopicsRequestTopic)
		want   *kerr.Error
	}{
		{"exists", func(r *kmsg.CreateTopicsRequestTopic) { r.Topic = "t" }, kerr.TopicAlreadyExists},
		{"bad name", func(r *kmsg.CreateTopicsRequestTopic) { r.Topic = "a/b" }, kerr.InvalidTopicException},
		{"too many replicas", func(r *kmsg.CreateTopicsRequestTopic) { r.ReplicationFactor = 2 }, kerr.InvalidReplicationFactor},
		{"unknown config", func(r *kmsg.CreateTopicsRequestTopic) { r.Configs = append(r.Configs, config("x", "1")) }, kerr.InvalidConfig},
		{"unknown scheme", func(r *kmsg.CreateTopicsRequestTopic) { r.Configs = append(r.Configs, config(kafka.SchemeConfig, "x")) }, kerr.InvalidConfig},
		{"single with two replicas", func(r *kmsg.CreateTopicsRequestTopic) {
			r.ReplicationFactor = 2
			r.Configs = append(r.Configs, config(kafka.SchemeConfig, "single"))
		}, kerr.InvalidReplicationFactor},
		{"assignment with a gap", func(r *kmsg.CreateTopicsRequestTopic) {
			r.NumPartitions, r.ReplicationFactor = -1, -1
			r.ReplicaAssignment = append(r.ReplicaAssignment, assign(1, 1))
		}, kerr.InvalidReplicaAssignment},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := create(c.change)
			require.ErrorIs(t, kerr.ErrorForCode(got.ErrorCode), c.want)
			require.NotEmpty(t, *got.ErrorMessage)
		})
	}
	got := create(func(r *kmsg.CreateTopicsRequestTopic) {
		r.Configs = append(r.Configs, config(kafka.SchemeConfig, "single"))
	})
	require.Zero(t, got.ErrorCode)
	require.Equal(t, int32(3), got.NumPartitions)
	require.Equal(t, "single", h.State().Topic("new").Scheme)

	// What DescribeConfigs says of it.
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 4
	for kind, name := range map[kmsg.ConfigResourceType]string{kmsg.ConfigResourceTypeTopic: "new"} {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kind, name
		req.Resources = append(req.Resources, r)
	}
	for _, c := range []struct {
		kind kmsg.ConfigResourceType
		name string
		want *kerr.Error
	}{{kmsg.ConfigResourceTypeTopic, "nope", kerr.UnknownTopicOrPartition}, {kmsg.ConfigResourceTypeBroker, "1", nil}, {kmsg.ConfigResourceTypeBroker, "2", kerr.InvalidRequest}, {kmsg.ConfigResourceTypeBrokerLogger, "1", kerr.InvalidRequest}} {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = c.kind, c.name
		one := *req
		one.Resources = []kmsg.DescribeConfigsRequestResource{r}
		got := h.ask(&one).(*kmsg.DescribeConfigsResponse).Resources[0]
		require.Equal(t, c.want == nil, got.ErrorCode == 0, c.name)
	}
	values := map[string]string{}
	for _, c := range h.ask(req).(*kmsg.DescribeConfigsResponse).Resources[0].Configs {
		values[c.Name] = *c.Value
	}
	require.Equal(t, map[string]string{kafka.SchemeConfig: "single", "min.insync.replicas": "2"}, values)

	// Deleted, by name and by id.
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.Version = 6
	a, b, c := kmsg.NewDeleteTopicsRequestTopic(), kmsg.NewDeleteTopicsRequestTopic(), kmsg.NewDeleteTopicsRequestTopic()
	a.Topic, b.TopicID, c.TopicID = kmsg.StringPtr("new"), h.State().Topic("u").ID, [16]byte{3}
	del.Topics = append(del.Topics, a, b, c)
	id := h.send(del)
	h.settle()
	gone := h.answer(id).(*kmsg.DeleteTopicsResponse).Topics
	require.Zero(t, gone[0].ErrorCode)
	require.Zero(t, gone[1].ErrorCode)
	require.Equal(t, "u", *gone[1].Topic)
	require.Equal(t, kerr.UnknownTopicID.Code, gone[2].ErrorCode)
	require.Nil(t, h.State().Topic("u"))
}

func TestInitProducerID(t *testing.T) {
	h := newHost(t)
	var last int64
	for range 3 {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version = 4
		id := h.send(req)
		require.NotContains(t, h.replies, id, "the quorum decides")
		h.settle()
		got := h.answer(id).(*kmsg.InitProducerIDResponse)
		require.Zero(t, got.ErrorCode)
		require.Greater(t, got.ProducerID, last)
		last = got.ProducerID
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionalID = 4, kmsg.StringPtr("tx")
	require.Equal(t, kerr.TransactionalIDAuthorizationFailed.Code, h.ask(req).(*kmsg.InitProducerIDResponse).ErrorCode)
}

func TestDescribeCluster(t *testing.T) {
	h := newHost(t)
	got := h.ask(kmsg.NewPtrDescribeClusterRequest()).(*kmsg.DescribeClusterResponse)
	require.Equal(t, "test", got.ClusterID)
	require.Len(t, got.Brokers, 1)
	require.Equal(t, int32(9092), got.Brokers[0].Port)
}
