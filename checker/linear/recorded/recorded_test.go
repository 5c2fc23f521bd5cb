package recorded

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

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
			if op.Kind = history.Poll; rng.IntN(2) == 0 {
				seq[c]++
				op.Kind, op.Value = history.Send, history.MakeValue(int32(c), seq[c])
			}
			if op.Kind == history.Poll && head == len(queue) && rng.IntN(5) > 0 {
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

func TestScratch(t *testing.T) {
	begin := time.Now()
	path := record(t, 1_000_000)
	fi, _ := os.Stat(path)
	t.Log(time.Since(begin), fi.Size())
	for range 2 {
		begin = time.Now()
		r, err := history.Open(path)
		require.NoError(t, err)
		n := 0
		for _, err := range r.Entries() {
			require.NoError(t, err)
			n++
		}
		t.Log("read", time.Since(begin), n)
		begin = time.Now()
		res, err := linear.DecideQueues(t.Context(), 1, queues(path))
		t.Log(time.Since(begin), res, err)
	}
}
