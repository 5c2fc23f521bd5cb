package checker

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// logClauses are those about what stands in a partition and what was read of it:
// the Kafka anomalies.
func logClauses() []clauseCheck {
	var some []clauseCheck
	for _, c := range clauses {
		if c.name != ClauseLinearizable && c.name != ClauseRecovers {
			some = append(some, c)
		}
	}
	return some
}

// spread gives every message of a valid history an id from all of 64 bits.
func spread(h *history.History) {
	id := func(v history.Value) history.Value {
		x := uint64(v) * 0xbf58476d1ce4e5b9 // odd: one to one
		return history.Value(x ^ x>>31)
	}
	log := func(records []history.Record) {
		for i := range records {
			if records[i].Payload == history.Good {
				records[i].Value = id(records[i].Value)
			}
		}
	}
	for i := range h.Ops {
		if h.Ops[i].Kind == history.Send {
			h.Ops[i].Value = id(h.Ops[i].Value)
		} else {
			h.Ops[i].Records = append([]history.Record(nil), h.Ops[i].Records...)
			log(h.Ops[i].Records)
		}
	}
	for i := range h.Replicas {
		log(h.Replicas[i].Records)
	}
}

// bareRead is the least that a checker of operations in memory must do: it reads one
// field of each, a stretch on each processor.
func bareRead(h *history.History) (sum int64) {
	parts := make([]int64, runtime.GOMAXPROCS(0))
	stretches(len(h.Ops), len(parts), func(part, from, to int) {
		n := int64(0)
		for i := from; i < to; i++ {
			n += h.Ops[i].Call
		}
		parts[part] = n
	})
	for _, n := range parts {
		sum += n
	}
	return sum
}

// BenchmarkClauses judges valid histories of one partition, from the operations in
// memory to the verdicts of some clauses. Time per operation must hardly grow with
// their number. Beside the whole it gives what the view takes of it, which all clauses
// share, and the clauses, and how many times as long as a bare read of the operations
// the whole took. The bytes are those beyond the input.
func BenchmarkClauses(b *testing.B) {
	only := func(name string) []clauseCheck {
		for _, c := range clauses {
			if c.name == name {
				return []clauseCheck{c}
			}
		}
		return nil
	}
	for _, n := range []int{100_000, 1_000_000, 10_000_000} {
		h := generate(rand.New(rand.NewPCG(1, 1)), n, 1)
		dense := true
		for _, c := range []struct {
			name    string
			clauses []clauseCheck
			any     bool
		}{
			{"loss, dense ids", only(ClauseSurvives), false},
			{"Kafka anomalies", logClauses(), false},
			{"linearizable appends", only(ClauseLinearizable), false},
			{"loss, any ids", only(ClauseSurvives), true}, // the last: it changes the history
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				if c.any && dense {
					spread(h)
					dense = false
				}
				// The columns lie in memory that the process has already: what a first touch of
				// 170 MB costs says more of a virtual machine than of the clauses.
				_, err := newView(h, Options{}.withDefaults())
				require.NoError(b, err)
				b.ReportAllocs()
				var read, view, judge time.Duration
				for b.Loop() {
					b.StopTimer()
					runtime.GC()
					begin := time.Now()
					require.Positive(b, bareRead(h))
					read += time.Since(begin)
					b.StartTimer()
					begin = time.Now()
					v, err := newView(h, Options{}.withDefaults())
					view += time.Since(begin)
					require.NoError(b, err)
					begin = time.Now()
					checks := v.judgeAll(b.Context(), c.clauses)
					judge += time.Since(begin)
					for _, check := range checks {
						require.Equal(b, Valid, check.Verdict, check.Detail)
					}
				}
				each := func(d time.Duration) float64 { return float64(d) / float64(b.N) / float64(n) }
				b.ReportMetric(each(view+judge), "ns/operation")
				b.ReportMetric(each(view), "view-ns/operation")
				b.ReportMetric(each(judge), "clauses-ns/operation")
				b.ReportMetric(float64(view+judge)/float64(read), "times-bare-read")
			})
		}
	}
}
