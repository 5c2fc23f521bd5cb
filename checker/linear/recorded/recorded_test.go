package recorded

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/checker/linear"
)

// record writes a legal history of n operations on a queue by ten clients that
// never rest. One send in a hundred and one receive in two hundred is never answered;
// where the queue has nothing, one client in five finds that out.
func record(tb testing.TB, n int) (path string) {
	tb.Helper()
	const clients = 10
	path = filepath.Join(tb.TempDir(), history.FileName)
	h := history.Header{System: "queue", Keys: []string{"q"}, Nodes: []string{"n1"}}
	for i := range clients {
		h.Clients = append(h.Clients, history.Client{Name: string(rune('a' + i)), Role: "producer"})
	}
	w, err := history.Create(path, h)
	require.NoError(tb, err)
	rng := rand.New(rand.NewPCG(1, 1))
	var (
		ops     [clients]history.Op
		moment  [clients]int64 // when it takes effect
		ended   [clients]int64
		running [clients]bool
		done    [clients]bool
		seq     [clients]int64
		records [clients][1]history.Record
		lost    [clients]bool
		queue   []history.Value
		head    int
		process = int64(clients)
	)
	for c := range ops {
		ops[c].Process = int64(c)
	}
	for count := 0; ; {
		// The next thing that happens: a call, an effect or a return.
		c, at := -1, int64(0)
		for i := range ops {
			t := ended[i]
			switch {
			case running[i] && !done[i]:
				t = moment[i]
			case running[i]:
				t = ops[i].Return
			case count == n:
				continue
			}
			if c < 0 || t < at {
				c, at = i, t
			}
		}
		if c < 0 {
			break
		}
		op := &ops[c]
		switch {
		case !running[c]:
			count++
			length := 1 + rng.Int64N(200_000)
			*op = history.Op{Client: int32(c), Process: op.Process, Call: at, Return: at + length, Acked: true, Offset: history.NoOffset, High: history.NoOffset, Epoch: -1}
			moment[c] = at + rng.Int64N(length+1)
			if op.Kind = history.Receive; rng.IntN(2) == 0 {
				seq[c]++
				op.Kind, op.Value = history.Send, history.MakeValue(int32(c), seq[c])
			}
			if op.Kind == history.Receive && head == len(queue) && rng.IntN(5) > 0 {
				seq[c]++
				op.Kind, op.Value = history.Send, history.MakeValue(int32(c), seq[c])
			}
			op.Acked = op.Kind == history.Send
			lost[c] = op.Kind == history.Send && rng.IntN(100) == 0 || op.Kind != history.Send && rng.IntN(200) == 0
			running[c], done[c] = true, false
			w.Invoke(op)
		case !done[c]:
			done[c] = true
			op.Records = nil
			switch {
			case op.Kind == history.Send:
				queue = append(queue, op.Value)
			case head < len(queue):
				records[c][0] = history.Record{Offset: int64(head), Value: queue[head], Epoch: -1}
				op.Records = records[c][:]
				head++
				if head > 1<<16 && head > len(queue)/2 {
					queue = queue[:copy(queue, queue[head:])]
					head = 0
				}
			}
		default:
			op.Outcome = history.OK
			ended[c] = op.Return + 1 + rng.Int64N(1000)
			if lost[c] {
				op.Outcome, op.Records, op.Return = history.Indeterminate, nil, history.Infinity
			}
			w.Complete(op)
			if lost[c] {
				op.Process = process
				process++
			}
			running[c] = false
		}
	}
	require.NoError(tb, w.Close())
	return path
}

// save writes a history of one queue with these operations.
func save(t *testing.T, h *history.History) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), history.FileName)
	h.Header.Version = history.Version
	if h.Header.Keys == nil {
		h.Header.Keys = []string{"q"}
	}
	require.NoError(t, history.Save(path, h))
	return path
}

func queueOf(ops ...history.Op) *history.History {
	h := &history.History{Closed: true}
	for i, op := range ops {
		op.Process = int64(i)
		if op.Outcome == history.Pending {
			op.Outcome = history.OK
		}
		op.Acked = op.Kind == history.Send && op.Code != "unpromised"
		h.Ops = append(h.Ops, op)
	}
	return h
}

func send(value history.Value, call, ret int64) history.Op {
	return history.Op{Kind: history.Send, Value: value, Call: call, Return: ret}
}

func receive(value history.Value, call, ret int64) history.Op {
	op := history.Op{Kind: history.Receive, Call: call, Return: ret}
	if value != 0 {
		op.Records = []history.Record{{Value: value}}
	}
	return op
}

func with(op history.Op, change func(*history.Op)) history.Op {
	change(&op)
	return op
}

func TestQueues(t *testing.T) {
	for _, c := range []struct {
		name    string
		h       *history.History
		verdict linear.Verdict
		says    string // the rule, or a part of the reason
	}{
		{"nothing", queueOf(), linear.Legal, ""},
		{"legal", queueOf(send(1, 0, 1), receive(1, 2, 3), receive(0, 4, 5)), linear.Legal, ""},
		{"lost", queueOf(send(1, 0, 1), receive(0, 4, 5)), linear.Illegal, "false-empty"},
		{"lost, and nothing was promised", queueOf(with(send(1, 0, 1), func(o *history.Op) { o.Code = "unpromised" }), receive(0, 4, 5)), linear.Legal, ""},
		{"order", queueOf(send(1, 0, 1), send(2, 2, 3), receive(2, 4, 5), receive(1, 6, 7)), linear.Illegal, "order"},
		{"phantom", queueOf(receive(1, 4, 5)), linear.Illegal, "phantom"},
		{"failed and taken", queueOf(with(send(1, 0, 1), func(o *history.Op) { o.Outcome = history.Failed }), receive(1, 2, 3)), linear.Illegal, "phantom"},
		{"twice", queueOf(send(1, 0, 1), receive(1, 4, 5), receive(1, 4, 5)), linear.Illegal, "duplicate"},
		{"taken by nobody knows whom", queueOf(send(1, 0, 1), with(receive(0, 2, history.Infinity), func(o *history.Op) { o.Outcome = history.Indeterminate }), receive(0, 4, 5)), linear.Legal, ""},
		{"reused", queueOf(send(1, 0, 1), send(1, 2, 3)), linear.Unknown, "value 1 was enqueued twice"},
		{"batch", queueOf(send(1, 0, 1), with(receive(1, 2, 3), func(o *history.Op) { o.Records = make([]history.Record, 2) })), linear.Unknown, "operation 1 took 2 messages at once"},
		{"release", queueOf(send(1, 0, 1), history.Op{Kind: history.Release, Call: 2, Return: 3}), linear.Unknown, "operation 1 is a release"},
		{"unknown kind", queueOf(history.Op{Kind: 77, Call: 2, Return: 3}), linear.Unknown, "operation 0 is a kind(77)"},
		{"accept", queueOf(send(1, 0, 1), receive(1, 2, 3), history.Op{Kind: history.Accept, Value: 1, Of: 1, Call: 4, Return: 5}), linear.Legal, ""},
		{"transaction", queueOf(with(send(1, 0, 1), func(o *history.Op) { o.Txn = 3 })), linear.Unknown, "transaction 3"},
		{"delivered again", queueOf(send(1, 0, 1), with(receive(1, 2, 3), func(o *history.Op) { o.Records[0].Delivery = 2 })), linear.Unknown, "delivered 2 times"},
		{"altered", queueOf(send(1, 0, 1), with(receive(1, 2, 3), func(o *history.Op) { o.Records[0].Payload = history.Altered })), linear.Unknown, "payload is altered"},
		{"sentinel", queueOf(with(receive(1, 2, 3), func(o *history.Op) { o.Records[0].Payload = history.Sentinel })), linear.Legal, ""},
		{"times near the end", queueOf(send(1, 0, history.Infinity-2), receive(1, history.Infinity-2, history.Infinity-1)), linear.Legal, ""},
		{"offsets near the end", queueOf(send(1, 0, 1), with(receive(1, 2, 3), func(o *history.Op) { o.Records[0].Offset = history.Infinity })), linear.Legal, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys, results, err := Queues(t.Context(), save(t, c.h))
			require.NoError(t, err)
			require.Equal(t, []string{"q"}, keys)
			r := results[0]
			require.Equal(t, c.verdict, r.Verdict, r.Reason)
			require.Contains(t, r.Reason, map[bool]string{true: c.says}[c.verdict == linear.Unknown])
			if c.verdict == linear.Illegal {
				require.Equal(t, c.says, r.Witness.Rule)
				require.NotEmpty(t, r.Witness.Ops)
			}
		})
	}
	h := queueOf(send(1, 0, 1))
	h.Header.Keys = []string{"q", "dead"}
	h.Header.Queues = []history.Queue{{Key: "q", DeadLetters: "dead"}, {Key: "dead"}}
	_, results, err := Queues(t.Context(), save(t, h))
	require.NoError(t, err)
	require.Len(t, results, 2)
	require.Contains(t, results[1].Reason, "queue q gives messages up to dead")
}

func TestQueuesRefuse(t *testing.T) {
	same := func(h *history.History) *history.History {
		for i := range h.Ops {
			h.Ops[i].Process = 4
		}
		return h
	}
	open := same(queueOf(send(1, 0, history.Infinity), send(2, 5, 6)))
	open.Ops[0].Outcome = history.Indeterminate
	for _, c := range []struct {
		name string
		h    *history.History
		want string
	}{
		{"overlap", same(queueOf(send(1, 0, 7), send(2, 5, 9))), "operation 1 of process 4 is called at 5, before its operation 0 returned at 7"},
		{"after the end", open, "operation 1 of process 4 is called after its operation 0, which was never answered"},
		{"two clients", same(queueOf(send(1, 0, 1), with(send(2, 5, 9), func(o *history.Op) { o.Client = 1 }))), "process 4 is of clients 0 and 1"},
		{"times", queueOf(send(1, 5, 3)), "operation 0 returned at 3, before it was called at 5"},
		{"key", queueOf(with(send(1, 5, 6), func(o *history.Op) { o.Key = 9 })), "operation 0 names key 9 of 1"},
	} {
		_, _, err := Queues(t.Context(), save(t, c.h))
		require.ErrorContains(t, err, c.want, c.name)
	}
	_, _, err := Queues(t.Context(), filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)

	// A file that a crash cut off is decided as far as it goes; one with a hole is not.
	path := record(t, 20_000)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, b[:len(b)*3/4], 0o644))
	_, results, err := Queues(t.Context(), path)
	require.NoError(t, err)
	require.Equal(t, linear.Legal, results[0].Verdict)
	require.Less(t, results[0].Count, 20_000)
	require.Greater(t, results[0].Count, 10_000)
	b[len(b)/2] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o644))
	_, _, err = Queues(t.Context(), path)
	var corrupt *history.CorruptError
	require.ErrorAs(t, err, &corrupt)
}

// TestAgainstMemory: what is decided from disk is what is decided in memory, of
// legal histories and of such with two values exchanged.
func TestAgainstMemory(t *testing.T) {
	path := record(t, 3_000)
	h, err := history.Load(path)
	require.NoError(t, err)
	illegal := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		changed := &history.History{Header: h.Header, Ops: slices.Clone(h.Ops), Closed: true}
		var taken []int
		for i := range changed.Ops {
			if len(changed.Ops[i].Records) > 0 {
				taken = append(taken, i)
			}
		}
		if seed > 0 {
			i := rng.IntN(len(taken) - 12)
			a, b := &changed.Ops[taken[i]], &changed.Ops[taken[i+1+rng.IntN(10)]]
			a.Records, b.Records = b.Records, a.Records
		}
		want, err := linear.Exact(linear.Queue, inMemory(t, changed))
		require.NoError(t, err)
		_, got, err := Queues(t.Context(), save(t, changed))
		require.NoError(t, err)
		require.Equal(t, want.Verdict, got[0].Verdict, "seed %d", seed)
		if want.Verdict == linear.Illegal {
			illegal++
		}
	}
	require.Greater(t, illegal, 10)
	require.Less(t, illegal, 60)
}

// inMemory are the operations of a history of one queue.
func inMemory(t *testing.T, h *history.History) []linear.Op {
	var ops []linear.Op
	for i := range h.Ops {
		op := &h.Ops[i]
		o := linear.Op{Call: op.Call, Return: op.Return, Value: uint64(op.Value), Kind: linear.Enqueue}
		if op.Kind == history.Receive {
			o.Kind = linear.Dequeue
			switch {
			case op.Outcome != history.OK:
			case len(op.Records) == 0:
				o.Kind = linear.Empty
			default:
				o.Value = uint64(op.Records[0].Value)
			}
		}
		if op.Outcome == history.Indeterminate {
			o.Return = linear.Never
		}
		require.NotEqual(t, history.Failed, op.Outcome)
		ops = append(ops, o)
	}
	slices.SortStableFunc(ops, func(a, b linear.Op) int { return cmp.Compare(a.Call, b.Call) })
	return ops
}

// childFile names the history that the child of BenchmarkQueueFromDisk decides.
const childFile = "FAULTLINE_BENCH_HISTORY"

func TestMain(m *testing.M) {
	path := os.Getenv(childFile)
	if path == "" {
		os.Exit(m.Run())
	}
	_, results, err := Queues(context.Background(), path)
	fmt.Println(results, err)
	if err != nil || results[0].Verdict != linear.Legal {
		os.Exit(1)
	}
}

// BenchmarkQueueFromDisk decides histories of ten clients from a file to the verdict,
// in a process of its own: ns/operation is all of its time, and peak-MB the most memory
// that the system ever gave it, program included.
func BenchmarkQueueFromDisk(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000, 10_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			path := record(b, n)
			fi, err := os.Stat(path)
			require.NoError(b, err)
			peak := int64(0)
			for b.Loop() {
				cmd := exec.CommandContext(b.Context(), os.Args[0])
				cmd.Env = append(os.Environ(), childFile+"="+path)
				out, err := cmd.CombinedOutput()
				require.NoError(b, err, string(out))
				usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
				require.True(b, ok)
				peak = max(peak, usage.Maxrss)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/operation")
			b.ReportMetric(float64(fi.Size())/float64(n), "disk-B/operation")
			b.ReportMetric(float64(peak)/1024, "peak-MB")
		})
	}
}
