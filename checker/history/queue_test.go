package history

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func queueHeader() Header {
	h := testHeader()
	h.Keys = []string{"q", "q-dead", "t-0"}
	h.Queues = []Queue{{Key: "q", DeadLetters: "q-dead"}, {Key: "q-dead"}}
	h.Contract.Delivery, h.Contract.MaxDeliveries = "at-least-once", 3
	return h
}

// consume records n messages in a transaction each, taken ten at a time and accepted
// one by one, on a schedule; the last ones are released, rejected and left to others.
func consume(s Sink, n int) {
	now, rng := int64(0), rand.New(rand.NewPCG(1, 3))
	do := func(op Op, answer func(*Op)) Op {
		op.Due = now + 100
		op.Call, op.High, op.Epoch, op.Offset = op.Due+rng.Int64N(50_000), NoOffset, -1, NoOffset
		s.Invoke(&op)
		now = op.Call + 300_000 + rng.Int64N(900_000)
		op.Return, op.Outcome = now, OK
		if answer != nil {
			answer(&op)
		}
		s.Complete(&op)
		return op
	}
	for first := 1; first <= n; first += 10 {
		var records []Record
		for i := first; i < first+10; i++ {
			v := MakeValue(0, int64(i))
			do(Op{Kind: Send, Value: v, Txn: int64(first), Acked: true}, nil)
			records = append(records, Record{Offset: NoOffset, Value: v, Epoch: -1, Delivery: 1})
		}
		do(Op{Kind: Commit, Txn: int64(first)}, nil)
		take := do(Op{Client: 2, Process: 2, Kind: Receive, Committed: true, Lock: 5e9}, func(op *Op) { op.Records, op.Lock = records, 6e9 })
		kinds := []Kind{Accept, Release, Reject}
		for i, r := range records {
			do(Op{Client: 2, Process: 2, Kind: kinds[max(0, i-7)], Value: r.Value, Of: take.ID}, nil)
		}
	}
	do(Op{Client: 2, Process: 2, Kind: Receive}, nil) // empty
	do(Op{Client: 2, Process: 2, Kind: Accept, Value: MakeValue(0, 1), Of: NoOp}, func(op *Op) { op.Outcome, op.Code = Failed, "NO_SUCH_DELIVERY" })
	do(Op{Client: 2, Process: 2, Kind: Leave}, nil)
	do(Op{Kind: Abort, Txn: int64(n + 1)}, nil)
	s.Event(Replica{
		Key: "q", Node: "n1", Leader: true, Complete: true, End: 2, Sentinel: 1, Digest: "d", Queue: true, Unacknowledged: 2,
		Records: []Record{{Value: MakeValue(0, 9), Epoch: -1, Delivery: 2}, {Offset: 1, Epoch: -1, Payload: Sentinel, Delivery: 1}},
	})
	s.Event(Drain{Key: "q", Complete: true, At: now, InSync: true, Quiet: true})
}

func TestQueueRoundTrip(t *testing.T) {
	rec := NewRecorder(queueHeader())
	consume(rec, 30)
	require.NoError(t, rec.Err())
	want := rec.History()
	require.NoError(t, want.Validate())
	require.EqualValues(t, 6e9, want.Ops[11].Lock, "the answer said more")

	got := load(t, write(t, queueHeader(), func(s Sink) { consume(s, 30) }))
	require.Equal(t, want, got)

	var b bytes.Buffer
	require.NoError(t, ExportJSONL(&b, want))
	got, err := ImportJSONL(&b)
	require.NoError(t, err)
	require.Equal(t, want, got)

	b.Reset()
	require.NoError(t, ExportEDN(&b, want))
	require.NotContains(t, b.String(), "receive", "Jepsen's kafka workload knows no queue")
}

func TestBytesPerQueueMessage(t *testing.T) {
	const n = 10_000
	path := filepath.Join(t.TempDir(), FileName)
	w, err := Create(path, queueHeader())
	require.NoError(t, err)
	consume(w, n)
	require.NoError(t, w.Close())
	fi, err := os.Stat(path)
	require.NoError(t, err)
	per := float64(fi.Size()) / n
	t.Logf("%.1f bytes for a message sent on a schedule, received and settled", per)
	require.Less(t, per, 32.0, "it is sent, read, and one operation more")
}

// TestLogsCostNothingMore: what only queues have takes no byte of a log's history.
func TestLogsCostNothingMore(t *testing.T) {
	var e encoder
	e.begin(nil, 0)
	op := Op{Kind: Send, Value: 1, Acked: true}
	e.invoke(&op)
	before := len(e.buf)
	base := knownOf(&op)
	op.Value++
	op.ID = 1
	e.invoke(&op)
	require.Equal(t, 4, len(e.buf)-before, "tag, mask, client, time")
	before = len(e.buf)
	op.Outcome = OK
	e.complete(&op, nil, base, 2)
	require.LessOrEqual(t, len(e.buf)-before, 5)
}

func TestValidateQueues(t *testing.T) {
	receive := func(h *History) *Op { return &h.Ops[11] }
	for _, c := range []struct {
		name   string
		change func(*History)
		want   string
	}{
		{"a queue that is no key", func(h *History) { h.Header.Queues[0].Key = "z" }, `the header names queue "z", which is not in the header`},
		{"a queue twice", func(h *History) { h.Header.Queues[1].Key = "q" }, `two queues are named "q"`},
		{"dead letters that are no queue", func(h *History) { h.Header.Queues[0].DeadLetters = "t-0" }, `dead-letter queue "t-0"`},
		{"a settlement of a send", func(h *History) { h.Ops[12].Of = 0 }, "settles what operation 0 delivered, which is no receive before it"},
		{"a settlement of what comes later", func(h *History) { h.Ops[12].Of = 35 }, "which is no receive before it"},
		{"a settlement of nothing", func(h *History) { h.Ops[12].Of = -7 }, "which is no receive before it"},
		{"a settlement of what was not delivered", func(h *History) { receive(h).Records = receive(h).Records[1:] }, "settles value 0:1, which operation 11 did not deliver"},
		{"an end of no transaction", func(h *History) { h.Ops[10].Txn = 0 }, "operation 10 (commit) ends no transaction"},
		{"a negative lock", func(h *History) { receive(h).Lock = -1 }, "operation 11 has lock -1"},
		{"a negative schedule", func(h *History) { h.Ops[0].Due = -1 }, "operation 0 has time when it was due -1"},
		{"a negative transaction", func(h *History) { h.Ops[0].Txn = -1 }, "operation 0 has transaction -1"},
		{"a negative delivery", func(h *History) { receive(h).Records[0].Delivery = -1 }, "was delivered -1 times"},
		{"a delivery at offset -2", func(h *History) { receive(h).Records[0].Offset = -2 }, "has a record at offset -2"},
		{"an acceptance that delivers", func(h *History) { h.Ops[12].Records = []Record{{}} }, "operation 12 (accept) delivered 1 records"},
		{"fewer than no messages", func(h *History) { h.Replicas[0].Ready = -1 }, "-1 messages that wait"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rec := NewRecorder(queueHeader())
			consume(rec, 30)
			h := rec.History()
			c.change(h)
			require.ErrorContains(t, h.Validate(), c.want)
		})
	}
}
