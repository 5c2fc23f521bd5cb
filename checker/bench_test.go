package checker

import (
	"fmt"
	"math/rand/v2"
	"testing"

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

// BenchmarkClauses judges valid histories of one partition, from the operations in
// memory to the verdicts of some clauses. Time per operation must hardly grow with
// their number.
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
				if c.any && h.Ops[0].Value.Seq() == 1 {
					spread(h)
				}
				b.ReportAllocs()
				for b.Loop() {
					v, err := newView(h, Options{}.withDefaults())
					require.NoError(b, err)
					for _, check := range v.judgeAll(b.Context(), c.clauses) {
						require.Equal(b, Valid, check.Verdict, check.Detail)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/operation")
			})
		}
	}
}
