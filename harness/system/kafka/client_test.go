package kafka

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

// stepClock is a clock that moves only by sleeping.
type stepClock struct{ now time.Duration }

func (c *stepClock) Now() time.Duration { return c.now }

func (c *stepClock) Sleep(ctx context.Context, d time.Duration) error {
	c.now += max(d, time.Millisecond)
	return ctx.Err()
}

// fake answers requests by function, and counts them per node.
type fake struct {
	answer func(node string, req kmsg.Request) (kmsg.Response, error)
	asked  map[string]int
	closed []string
}

func (f *fake) RoundTrip(_ context.Context, _, node string, req kmsg.Request, _ time.Duration) (kmsg.Response, error) {
	if f.asked == nil {
		f.asked = map[string]int{}
	}
	f.asked[node]++
	return f.answer(node, req)
}

func (f *fake) Close(client string) { f.closed = append(f.closed, client) }

const run = "test-run"

func newCluster(f *fake) *Cluster {
	return &Cluster{
		RunID: run, Nodes: []string{"n1", "n2", "n3"}, First: 3, Keys: []Partition{{"t", 0}}, Transport: f, Clock: &stepClock{}, Acks: -1, Timeout: time.Second,
	}
}

// metadataOf answers a metadata request with one partition.
func metadataOf(leader, epoch int32, isr ...int32) *kmsg.MetadataResponse {
	resp := kmsg.NewPtrMetadataResponse()
	p := kmsg.NewMetadataResponseTopicPartition()
	p.Leader, p.LeaderEpoch, p.Replicas, p.ISR = leader, epoch, []int32{1, 2, 3}, isr
	t := kmsg.NewMetadataResponseTopic()
	t.Topic, t.Partitions = kmsg.StringPtr("t"), []kmsg.MetadataResponseTopicPartition{p}
	resp.Topics = []kmsg.MetadataResponseTopic{t}
	return resp
}

func produceAnswer(code int16, base int64) *kmsg.ProduceResponse {
	resp := kmsg.NewPtrProduceResponse()
	p := kmsg.NewProduceResponseTopicPartition()
	p.ErrorCode, p.BaseOffset = code, base
	t := kmsg.NewProduceResponseTopic()
	t.Topic, t.Partitions = "t", []kmsg.ProduceResponseTopicPartition{p}
	resp.Topics = []kmsg.ProduceResponseTopic{t}
	return resp
}

func fetchAnswer(code int16, data []byte) *kmsg.FetchResponse {
	resp := kmsg.NewPtrFetchResponse()
	p := kmsg.NewFetchResponseTopicPartition()
	p.ErrorCode, p.RecordBatches, p.HighWatermark = code, data, 7
	t := kmsg.NewFetchResponseTopic()
	t.Topic, t.Partitions = "t", []kmsg.FetchResponseTopicPartition{p}
	resp.Topics = []kmsg.FetchResponseTopic{t}
	return resp
}

// stored returns the one batch that a send writes, as a log would hold it.
func stored(offset int64, epoch int32, v history.Value) []byte {
	req := produceRequest(Partition{"t", 0}, workloads.Encode(run, v, 64), number{-1, -1, -1}, -1, time.Second)
	return restamp(req.Topics[0].Partitions[0].Records, offset, epoch)
}

func restamp(raw []byte, offset int64, epoch int32) []byte {
	raw = append([]byte(nil), raw...)
	for i := range 8 {
		raw[i] = byte(offset >> (56 - 8*i))
	}
	for i := range 4 {
		raw[12+i] = byte(epoch >> (24 - 8*i))
	}
	return raw
}

func TestSendOutcomes(t *testing.T) {
	refused := &Error{Node: "n1", Reason: "refused", Err: errors.New("x")}
	cut := &Error{Node: "n1", Sent: true, Reason: "timeout", Err: errors.New("x")}
	for _, tc := range []struct {
		name    string
		code    int16
		err     error
		foreign bool
		want    history.Outcome
	}{
		{name: "ok", want: history.OK},
		{name: "duplicate", code: kerr.DuplicateSequenceNumber.Code, want: history.OK},
		{name: "not enough replicas", code: kerr.NotEnoughReplicas.Code, want: history.Failed},
		{name: "invalid record", code: kerr.InvalidRecord.Code, want: history.Failed},
		{name: "too large", code: kerr.MessageTooLarge.Code, want: history.Failed},
		{name: "unknown topic", code: kerr.UnknownTopicOrPartition.Code, want: history.Failed},
		{name: "unauthorized", code: kerr.TopicAuthorizationFailed.Code, want: history.Failed},
		{name: "not leader, our broker", code: kerr.NotLeaderForPartition.Code, want: history.Failed},
		{name: "not leader, a foreign broker", code: kerr.NotLeaderForPartition.Code, foreign: true, want: history.Indeterminate},
		{name: "not enough after append", code: kerr.NotEnoughReplicasAfterAppend.Code, want: history.Indeterminate},
		{name: "timed out", code: kerr.RequestTimedOut.Code, want: history.Indeterminate},
		{name: "storage error", code: kerr.KafkaStorageError.Code, want: history.Indeterminate},
		{name: "out of order sequence", code: kerr.OutOfOrderSequenceNumber.Code, want: history.Indeterminate},
		{name: "unknown code", code: 12345, want: history.Indeterminate},
		{name: "refused, nothing sent", err: refused, want: history.Failed},
		{name: "timeout after sending", err: cut, want: history.Indeterminate},
		{name: "error of unknown kind", err: errors.New("x"), want: history.Indeterminate},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fake{}
			f.answer = func(_ string, req kmsg.Request) (kmsg.Response, error) {
				if _, ok := req.(*kmsg.MetadataRequest); ok {
					return metadataOf(2, 4, 1, 2, 3), nil
				}
				if tc.err != nil {
					return nil, tc.err
				}
				return produceAnswer(tc.code, 41), nil
			}
			c := newCluster(f)
			c.Foreign = tc.foreign
			cl := NewClient(c, spec("p", -1))
			op := &workloads.Op{Kind: history.Send, Value: history.MakeValue(1, 1), Size: 64}
			require.EqualValues(t, 1, cl.Route(t.Context(), op))
			require.EqualValues(t, 4, cl.Epoch(0))
			res := cl.Do(t.Context(), op)
			require.Equal(t, tc.want, res.Outcome, res.Code)
			if tc.name == "ok" {
				require.EqualValues(t, 41, res.Offset)
			} else {
				require.Equal(t, history.NoOffset, res.Offset)
			}
			if tc.want != history.OK {
				require.NotEmpty(t, res.Code)
			}
			cl.Close()
			require.Equal(t, []string{"p"}, f.closed)
		})
	}
}

func TestMalformedAnswersAreIndeterminate(t *testing.T) {
	for _, resp := range []kmsg.Response{kmsg.NewPtrProduceResponse(), kmsg.NewPtrMetadataResponse(), nil} {
		f := &fake{answer: func(_ string, req kmsg.Request) (kmsg.Response, error) {
			if _, ok := req.(*kmsg.MetadataRequest); ok {
				return metadataOf(1, 0, 1, 2, 3), nil
			}
			return resp, nil
		}}
		cl := NewClient(newCluster(f), spec("p", -1))
		op := &workloads.Op{Kind: history.Send, Value: history.MakeValue(1, 1), Size: 64}
		cl.Route(t.Context(), op)
		require.Equal(t, history.Indeterminate, cl.Do(t.Context(), op).Outcome, "%T", resp)
	}
}

func TestNothingIsSentWithoutLeader(t *testing.T) {
	f := &fake{answer: func(string, kmsg.Request) (kmsg.Response, error) { return metadataOf(-1, 3), nil }}
	cl := NewClient(newCluster(f), spec("p", -1))
	op := &workloads.Op{Kind: history.Send, Value: history.MakeValue(1, 1), Size: 64}
	require.Equal(t, history.NoNode, cl.Route(t.Context(), op))
	before := len(f.asked)
	require.Equal(t, history.Failed, cl.Do(t.Context(), op).Outcome)
	require.Len(t, f.asked, before)
}

func TestPinnedClientBelievesItsNodeOnly(t *testing.T) {
	f := &fake{answer: func(node string, _ kmsg.Request) (kmsg.Response, error) {
		if node == "n3" { // cut off, it still believes in itself
			return metadataOf(3, 1, 3), nil
		}
		return metadataOf(2, 2, 1, 2), nil
	}}
	c := newCluster(f)
	op := &workloads.Op{Kind: history.Send, Size: 64}
	pinned := NewClient(c, spec("p", 2))
	require.EqualValues(t, 2, pinned.Route(t.Context(), op))
	require.Equal(t, map[string]int{"n3": 1}, f.asked)

	free := NewClient(c, spec("q", -1))
	for range 6 { // whoever it asks, it never goes back to the older epoch
		free.stale = true
		c.Clock.(*stepClock).now += time.Second
		require.EqualValues(t, 1, free.Route(t.Context(), op))
	}
}

func TestPollOutcomes(t *testing.T) {
	v := history.MakeValue(3, 9)
	for _, tc := range []struct {
		name string
		resp kmsg.Response
		err  error
		want history.Outcome
		out  bool
		n    int
	}{
		{name: "records", resp: fetchAnswer(0, stored(5, 2, v)), want: history.OK, n: 1},
		{name: "empty", resp: fetchAnswer(0, nil), want: history.OK},
		{name: "not leader", resp: fetchAnswer(kerr.NotLeaderForPartition.Code, nil), want: history.Failed},
		{name: "fenced", resp: fetchAnswer(kerr.FencedLeaderEpoch.Code, nil), want: history.Failed},
		{name: "out of range", resp: fetchAnswer(kerr.OffsetOutOfRange.Code, nil), want: history.Failed, out: true},
		{name: "timeout", err: &Error{Sent: true, Reason: "timeout", Err: errors.New("x")}, want: history.Indeterminate},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fake{answer: func(_ string, req kmsg.Request) (kmsg.Response, error) {
				if _, ok := req.(*kmsg.MetadataRequest); ok {
					return metadataOf(1, 2, 1, 2, 3), nil
				}
				return tc.resp, tc.err
			}}
			cl := NewClient(newCluster(f), spec("c", -1))
			op := &workloads.Op{Kind: history.Poll, From: 5, Max: 1 << 20}
			cl.Route(t.Context(), op)
			res := cl.Do(t.Context(), op)
			require.Equal(t, tc.want, res.Outcome)
			require.Equal(t, tc.out, res.OutOfRange)
			require.Len(t, res.Records, tc.n)
			if tc.n > 0 {
				require.Equal(t, history.Record{Offset: 5, Value: v, Epoch: 2}, res.Records[0])
			}
		})
	}
}

func TestRecords(t *testing.T) {
	a, b := history.MakeValue(1, 1), history.MakeValue(2, 1)
	two := append(stored(0, 0, a), stored(1, 3, b)...)
	both := []history.Record{{Offset: 0, Value: a}, {Offset: 1, Value: b, Epoch: 3}}
	flipped := append([]byte(nil), two...)
	flipped[len(flipped)-1] ^= 1
	otherRun := produceRequest(Partition{"t", 0}, workloads.Encode("another", a, 64), number{-1, -1, -1}, -1, time.Second).Topics[0].Partitions[0].Records
	compressed := restamp(stored(0, 0, a), 0, 0)
	compressed[22] |= 1

	got, err := Records(run, two, 0)
	require.NoError(t, err)
	require.Equal(t, both, got)

	got, err = Records(run, two, 1)
	require.NoError(t, err)
	require.Equal(t, both[1:], got, "records before the offset asked for are not delivered")

	got, err = Records(run, two[:len(two)-3], 0)
	require.NoError(t, err, "a byte limit cuts the last batch off")
	require.Equal(t, both[:1], got)

	got, err = Records(run, flipped, 0)
	require.ErrorContains(t, err, "CRC")
	require.Equal(t, append(both[:1:1], history.Record{Offset: 1, Epoch: -1, Payload: history.Altered}), got)

	got, err = Records(run, otherRun, 0)
	require.NoError(t, err)
	require.Equal(t, history.OtherRun, got[0].Payload)

	_, err = Records(run, compressed, 0)
	require.Error(t, err)
}

func FuzzRecords(f *testing.F) {
	f.Add(stored(0, 0, history.MakeValue(1, 1)), int64(0))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0}, int64(5))
	f.Fuzz(func(t *testing.T, data []byte, from int64) {
		records, err := Records(run, data, from)
		if err != nil && len(records) == 0 {
			t.Fatal("damage must show as an altered record")
		}
	})
}

// replicas is a fake cluster for the drain: three logs of one partition.
type replicas struct {
	leader, epoch int32
	isr           []int32
	logs          map[string][]byte
	next          int64
	code          int16
	gone          bool
	drains        int
}

func (r *replicas) answer(node string, req kmsg.Request) (kmsg.Response, error) {
	switch q := req.(type) {
	case *kmsg.MetadataRequest:
		if r.gone {
			return kmsg.NewPtrMetadataResponse(), nil
		}
		return metadataOf(r.leader, r.epoch, r.isr...), nil
	case *kmsg.ProduceRequest:
		if r.code != 0 {
			return produceAnswer(r.code, -1), nil
		}
		raw := restamp(q.Topics[0].Partitions[0].Records, r.next, r.epoch)
		for n := range r.logs {
			if n != "lag" {
				r.logs[n] = append(r.logs[n], raw...)
			}
		}
		r.next++
		return produceAnswer(0, r.next-1), nil
	case *kmsg.FetchRequest:
		r.drains++
		from := q.Topics[0].Partitions[0].FetchOffset
		data := r.logs[node]
		records, err := Records(run, data, 0)
		if err != nil {
			return nil, err
		}
		if len(records) == 0 || records[len(records)-1].Offset < from {
			data = nil
		}
		return fetchAnswer(0, data), nil
	}
	return nil, fmt.Errorf("unexpected %T", req)
}

func healthy() *replicas {
	r := &replicas{leader: 1, epoch: 5, isr: []int32{1, 2, 3}, next: 2, logs: map[string][]byte{}}
	for _, n := range []string{"n1", "n2", "n3"} {
		r.logs[n] = append(stored(0, 4, history.MakeValue(1, 1)), stored(1, 5, history.MakeValue(1, 2))...)
	}
	return r
}

func TestDrain(t *testing.T) {
	for _, tc := range []struct {
		name     string
		change   func(r *replicas)
		complete bool
		missing  bool
		reason   string
	}{
		{name: "all there", change: func(*replicas) {}, complete: true},
		{name: "out of sync", change: func(r *replicas) { r.isr = []int32{1, 2} }, reason: "2 of 3 replicas in sync"},
		{name: "no leader", change: func(r *replicas) { r.leader = -1 }, reason: "no leader"},
		{name: "topic gone", change: func(r *replicas) { r.gone = true }, missing: true, reason: "gone"},
		{name: "sentinel refused", change: func(r *replicas) { r.code = kerr.NotEnoughReplicas.Code }, reason: "sentinel"},
		{name: "replica behind", change: func(r *replicas) { delete(r.logs, "n3") }, reason: "before the sentinel"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := healthy()
			tc.change(r)
			c := newCluster(&fake{answer: r.answer})
			got := c.Drain(t.Context(), 5*time.Second)
			require.Len(t, got, 1)
			d := got[0].Drain
			require.Equal(t, tc.complete, d.Complete, "%+v", d)
			require.Equal(t, tc.missing, d.Missing)
			require.Contains(t, d.Reason, tc.reason)
			if !tc.complete {
				require.NotEmpty(t, d.Reason)
				return
			}
			require.Len(t, got[0].Replicas, 3)
			for _, rep := range got[0].Replicas {
				require.True(t, rep.Complete)
				require.Equal(t, got[0].Replicas[0].Digest, rep.Digest)
				require.Len(t, rep.Records, 3)
				require.Equal(t, history.Sentinel, rep.Records[2].Payload)
				require.Equal(t, rep.Node == "n1", rep.Leader)
			}
		})
	}
}

func TestDrainShowsDivergence(t *testing.T) {
	r := healthy()
	r.logs["n2"] = append(stored(0, 4, history.MakeValue(1, 1)), stored(1, 5, history.MakeValue(7, 7))...)
	got := newCluster(&fake{answer: r.answer}).Drain(t.Context(), 5*time.Second)
	reps := got[0].Replicas
	require.Equal(t, reps[0].Digest, reps[2].Digest)
	require.NotEqual(t, reps[0].Digest, reps[1].Digest)
}

func TestRoles(t *testing.T) {
	answers := map[string]*kmsg.MetadataResponse{"n1": metadataOf(1, 3), "n2": metadataOf(2, 4), "n3": metadataOf(1, 3)}
	answers["n1"].ControllerID, answers["n2"].ControllerID, answers["n3"].ControllerID = 1, 2, 2
	c := newCluster(&fake{answer: func(node string, _ kmsg.Request) (kmsg.Response, error) { return answers[node], nil }})
	node, epoch, err := c.Leader(t.Context(), "t-0")
	require.NoError(t, err)
	require.Equal(t, "n2", node)
	require.EqualValues(t, 4, epoch)
	ctl, err := c.Controller(t.Context())
	require.NoError(t, err)
	require.Equal(t, "n2", ctl)
	_, _, err = c.Leader(t.Context(), "u-0")
	require.ErrorContains(t, err, "t-0")
}
