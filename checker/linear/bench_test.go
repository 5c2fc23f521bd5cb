package linear

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
)

// load is a legal history of n operations by so many clients that never rest. Of
// those on queues and logs one write in a hundred is never answered; where a queue has
// nothing to take, one client in five finds that out.
func load(object Object, n, clients int) []Op {
	rng := rand.New(rand.NewPCG(1, 1))
	type turn struct{ moment, call, ret int64 }
	turns := make([]turn, 0, n)
	next := make([]int64, clients)
	for i := range n {
		at := &next[i%clients]
		last := 1 + rng.Int64N(100)
		turns = append(turns, turn{*at + rng.Int64N(last+1), *at, *at + last})
		*at += last + 1
	}
	slices.SortFunc(turns, func(a, b turn) int { return cmp.Compare(a.moment, b.moment) })
	ops := make([]Op, 0, n)
	var (
		queue []uint64
		head  int
		log   []uint64
		value uint64 // a register is written first
	)
	for i, t := range turns {
		o := Op{Call: t.call, Return: t.ret, Value: uint64(i)}
		lost := rng.IntN(100) == 0
		switch object {
		case Queue:
			switch {
			case head == len(queue) && rng.IntN(5) == 0:
				o.Kind = Empty
			case head == len(queue) || rng.IntN(2) == 0:
				o.Kind = Enqueue
				queue = append(queue, o.Value)
			default:
				o.Kind, o.Value = Dequeue, queue[head]
				head++
			}
			lost = lost && o.Kind == Enqueue
		case Log, SparseLog:
			switch {
			case i%2 == 0:
				o.Kind, o.Offset = Append, int64(len(log))
				log = append(log, o.Value)
				if lost {
					o.Offset = NoOffset
				}
			case rng.IntN(5) == 0:
				o.Kind, o.Offset, lost = End, int64(len(log)), false
			default:
				o.Offset = int64(max(0, len(log)-1-rng.IntN(100)))
				o.Kind, o.Value, lost = Get, log[o.Offset], false
			}
		case Register:
			o.Kind, lost = Read, false
			if i%2 == 0 {
				o.Kind = Write
				value = o.Value + 1
			}
			o.Value = value
		}
		if lost {
			o.Return = Never
		}
		ops = append(ops, o)
	}
	sortByCall(ops)
	return ops
}

// BenchmarkExact decides histories of 10 clients. Time per operation must hardly
// grow with their number; bytes are those beyond the input.
func BenchmarkExact(b *testing.B) {
	for _, object := range objects {
		for _, n := range []int{100_000, 1_000_000, 10_000_000} {
			b.Run(fmt.Sprintf("%s/%d", object, n), func(b *testing.B) {
				ops := load(object, n, 10)
				runtime.GC()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				for b.Loop() {
					if r, err := Exact(object, ops); err != nil || r.Verdict != Legal {
						b.Fatal(r, err)
					}
				}
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/operation")
				b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N)/float64(n), "bytes/operation")
			})
		}
	}
}

// BenchmarkAgainstSearch decides histories by the exact procedure and by Porcupine, and
// gives the ratio of their times: at least that, where Porcupine gave up undecided. The
// procedure's time is the mean of several, so that it is not that of cold caches alone.
func BenchmarkAgainstSearch(b *testing.B) {
	for _, c := range []struct {
		object     Object
		n, clients int
		memory     int // in units of what a search is given: it ends there undecided, and early
	}{{Queue, 300, 5, 1}, {Log, 3_000, 20, 1}, {Log, 20_000, 20, 1}, {Log, 100_000, 20, 4}, {Register, 3_000, 20, 1}} {
		b.Run(fmt.Sprintf("%s/%d", c.object, c.n), func(b *testing.B) {
			ops := load(c.object, c.n, c.clients)
			var exact, search time.Duration
			undecided := 0
			for b.Loop() {
				const times = 10
				runtime.GC() // what the last search left is not the procedure's
				begin := time.Now()
				for range times {
					if r, err := Exact(c.object, ops); err != nil || r.Verdict != Legal {
						b.Fatal(r, err)
					}
				}
				exact += time.Since(begin) / times
				begin = time.Now()
				r, err := searchOps(b.Context(), c.object, ops, bounds{DefaultLimit, searchMemory * c.memory})
				search += time.Since(begin)
				if err != nil || r.Verdict == Illegal {
					b.Fatal(r, err)
				}
				if r.Verdict == Unknown {
					undecided++
				}
			}
			b.ReportMetric(float64(search)/float64(exact), "times-as-fast")
			b.ReportMetric(float64(exact.Nanoseconds())/float64(b.N), "exact-ns/op")
			b.ReportMetric(float64(search.Nanoseconds())/float64(b.N), "search-ns/op")
			b.ReportMetric(float64(undecided)/float64(b.N), "undecided/op")
		})
	}
}
