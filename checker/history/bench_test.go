package history

import (
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// workload records ops sends and the polls that read them as the log workload
// leaves them: five producers over three partitions in turn, five pollers that
// read what is new every few sends, a few failures, some node events. Each
// send takes step nanoseconds of the run, and flush is called every 250 ms of
// it. It returns how many records were sent and read.
func workload(s Sink, ops int, step int64, flush func()) (records int) {
	rng := rand.New(rand.NewPCG(1, 2))
	const producers, pollers, keys = 5, 5, 3
	var (
		now, flushed int64
		seqs         [producers]int64
		process      [producers]int64
		free         [producers + pollers]int64 // when a client may call again
		from         [pollers][keys]int64
		logs         [keys][]Record
	)
	for p := range process {
		process[p] = int64(p)
	}
	next := int64(producers + pollers)
	for i := range ops {
		p := rng.IntN(producers)
		key := int32(rng.IntN(keys))
		now += rng.Int64N(2 * step)
		seqs[p]++
		op := Op{
			Client: int32(p), Process: process[p], Kind: Send, Key: key, Node: int16(key), Call: max(now, free[p]),
			Value: MakeValue(int32(p), seqs[p]), Offset: NoOffset, Acked: true, High: NoOffset, Epoch: -1,
		}
		s.Invoke(&op)
		op.Return = op.Call + 300_000 + rng.Int64N(900_000)
		free[p] = op.Return
		switch r := rng.IntN(200); {
		case r == 0:
			op.Outcome, op.Code = Failed, "NOT_LEADER_OR_FOLLOWER"
		case r == 1:
			op.Outcome, op.Code, op.Return = Indeterminate, "timeout", Infinity
			process[p] = next
			next++
		default:
			op.Outcome, op.Offset = OK, int64(len(logs[key]))
			logs[key] = append(logs[key], Record{op.Offset, op.Value, 3, Good, 0})
		}
		s.Complete(&op)
		records++
		if i%4 == 0 {
			c, k := rng.IntN(pollers), rng.IntN(keys)
			at := from[c][k]
			poll := Op{
				Client: int32(producers + c), Process: int64(producers + c), Kind: Poll, Key: int32(k), Node: int16(k),
				Call: max(now+50_000, free[producers+c]), Offset: NoOffset, From: at, High: NoOffset, Epoch: 3,
			}
			s.Invoke(&poll)
			poll.Return = poll.Call + 200_000 + rng.Int64N(400_000)
			free[producers+c] = poll.Return
			poll.Outcome, poll.High, poll.Records = OK, int64(len(logs[k])), logs[k][at:]
			s.Complete(&poll)
			records += len(poll.Records)
			from[c][k] = int64(len(logs[k]))
		}
		if i%500 == 0 {
			s.Event(NodeEvent{Node: "n1", Incarnation: "n1-1", Seq: int64(i/500 + 1), At: now, Uncertainty: 100_000, Kind: "isr", Key: "t-0", Epoch: 3, ISR: []string{"n1", "n2"}})
		}
		if now-flushed > 250e6 {
			flushed = now
			flush()
		}
	}
	return records
}

func workloadHeader() Header {
	h := testHeader()
	h.Clients = make([]Client, 10)
	for i := range h.Clients {
		h.Clients[i].Name = string(rune('a' + i))
	}
	return h
}

func TestBytesPerRecord(t *testing.T) {
	plainly(t)
	for _, c := range []struct {
		name string
		rate int64 // sends per second
		ops  int
	}{{"fast", 20_000, 50_000}, {"usual", 2_000, 20_000}, {"slow", 200, 4_000}} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), FileName)
			w, err := Create(path, workloadHeader())
			require.NoError(t, err)
			n := workload(w, c.ops, 1e9/c.rate, func() { require.NoError(t, w.Flush()) })
			require.NoError(t, w.Close())
			fi, err := os.Stat(path)
			require.NoError(t, err)
			per := float64(fi.Size()) / float64(n)
			t.Logf("%d records, %d bytes: %.1f bytes a record", n, fi.Size(), per)
			require.Less(t, per, 24.0)
			h := load(t, path)
			require.NoError(t, h.Validate())
			rec := NewRecorder(workloadHeader())
			require.Equal(t, n, workload(rec, c.ops, 1e9/c.rate, func() {}))
			require.Equal(t, rec.History().Digest(), h.Digest())
		})
	}
}

// BenchmarkRecord measures one operation with its answer, and a share of polls.
func BenchmarkRecord(b *testing.B) {
	for _, c := range []struct {
		name string
		sink func(b *testing.B) (Sink, func())
	}{
		{"file", func(b *testing.B) (Sink, func()) {
			path := filepath.Join(b.TempDir(), FileName)
			w, err := Create(path, workloadHeader())
			require.NoError(b, err)
			return w, func() {
				require.NoError(b, w.Close())
				fi, err := os.Stat(path)
				require.NoError(b, err)
				b.ReportMetric(float64(fi.Size())/float64(b.N), "file-B/op")
			}
		}},
		{"memory", func(*testing.B) (Sink, func()) { return NewRecorder(workloadHeader()), func() {} }},
		{"nothing", func(*testing.B) (Sink, func()) { return nothing{}, func() {} }}, // what the workload itself costs
	} {
		b.Run(c.name, func(b *testing.B) {
			s, end := c.sink(b)
			b.ReportAllocs()
			b.ResetTimer()
			workload(s, b.N, 100_000, func() {})
			end()
		})
	}
}

type nothing struct{}

func (nothing) Invoke(*Op)   {}
func (nothing) Complete(*Op) {}
func (nothing) Event(any)    {}

// BenchmarkSend measures the recording of one send, its answer included, with times as
// they are in a run: nothing of them can be guessed.
func BenchmarkSend(b *testing.B) {
	path := filepath.Join(b.TempDir(), FileName)
	w, err := Create(path, testHeader())
	require.NoError(b, err)
	var steps [1 << 16][2]int64
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range steps {
		steps[i] = [...]int64{rng.Int64N(100_000), 300_000 + rng.Int64N(900_000)}
	}
	b.ReportAllocs()
	op := Op{Kind: Send, Key: 1, Node: 1, Acked: true}
	for i := 0; b.Loop(); i++ {
		step := &steps[i%len(steps)]
		op.Call += step[0]
		op.Value++
		op.Offset = NoOffset
		w.Invoke(&op)
		op.Return, op.Outcome, op.Offset = op.Call+step[1], OK, int64(op.Value)
		w.Complete(&op)
	}
	require.NoError(b, w.Close())
	fi, err := os.Stat(path)
	require.NoError(b, err)
	b.ReportMetric(float64(fi.Size())/float64(b.N), "disk-B/op")
}

func BenchmarkRead(b *testing.B) {
	const ops = 200_000
	path := write(b, workloadHeader(), func(s Sink) { workload(s, ops, 100_000, func() {}) })
	fi, err := os.Stat(path)
	require.NoError(b, err)
	b.Run("stream", func(b *testing.B) {
		b.SetBytes(fi.Size())
		b.ReportAllocs()
		for b.Loop() {
			r, err := Open(path)
			require.NoError(b, err)
			for err == nil {
				_, err = r.Next()
			}
			require.ErrorIs(b, err, io.EOF)
			require.True(b, r.Closed())
			require.NoError(b, r.Close())
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/ops, "ns/send")
	})
	b.Run("load", func(b *testing.B) {
		b.SetBytes(fi.Size())
		b.ReportAllocs()
		for b.Loop() {
			_, err := Load(path)
			require.NoError(b, err)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/ops, "ns/send")
	})
}
