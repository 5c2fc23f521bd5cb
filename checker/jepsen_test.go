package checker

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// TestJepsenKafka judges the situations that the tests of Jepsen's kafka workload
// name (jepsen/test/jepsen/tests/kafka_test.clj), as far as they are about single
// sends and polls. Where our rule differs, why says so. The drain takes the place of
// Jepsen's final polls: what they infer from reads, it shows.
//
// Situations over transactions (an atomic lost write, aborted transactions that poll,
// internal sends, write cycles G0 and G1c, precommitted reads) need operations of
// several partitions, which these histories do not have. Generators (poll-unseen) and
// measures (realtime-lag) are no verdicts.
func TestJepsenKafka(t *testing.T) {
	notLinear := func(c *history.Contract) { c.Linearizable = false }
	for _, s := range []struct {
		name    string
		class   string // "": nothing of the kind
		count   int
		verdict Verdict
		text    string
		change  contractChange
		why     string
	}{
		{
			name: "version-orders: an offset read and written with different values", class: ClassInconsistent, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 @0
				p0.2 30- ?
				c0 40-50 0: p0.1 p0.2
				p1.1 60-70 @1
				log n1* p0.1 p0.2`,
		},
		{
			name: "version-orders: two acknowledgements of one offset", class: ClassInconsistent, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 @537
				p1.1 30-40 @537
				log n1* p1.1@537`,
		},
		{
			name: "inconsistent-offsets: an indeterminate send conflicts", class: "", verdict: Valid,
			text: `
				p0.1 10-20 ?
				p1.1 30-40 @0
				log n1* p1.1`,
		},
		{
			name: "inconsistent-offsets: and a read proves that it happened", class: ClassInconsistent, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 ?
				p1.1 30-40 @0
				c0 50-60 0: p0.1
				log n1* p1.1`,
		},
		{
			name: "G1a: a failed send is read", class: ClassResurrected, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 x
				c0 30-40 0: p0.1
				log n1* p0.1`,
			why: "one rule for sends that are read and sends that are only drained: Jepsen sees the former alone",
		},
		{
			name: "lost-write: consistent", class: ClassLost, count: 2, verdict: Invalid,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				p1.1 50- ?
				p0.3 60-70 @3
				c0 80-90 2: p1.1@2
				log n1* - - p1.1 p0.3`,
		},
		{
			name: "lost-write: inconsistent", class: ClassLost, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @0
				p0.3 50-60 @2
				c0 70-80 0: p0.2 - p0.3
				log n1* p0.2 - p0.3`,
		},
		{
			name: "lost-write: beyond the highest read", class: ClassLost, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 0: p0.1
				log n1* p0.1`,
			why: "Jepsen calls a lost tail unseen, for a later poll might show it; a proven drain cannot",
		},
		{
			name: "poll-skip: over a record that exists", class: ClassSkip, count: 2, verdict: Invalid,
			text: `
				p0.1 1-2 @1
				p0.2 3-4 @2
				p0.3 5-6 @3
				p0.4 7-8 @4
				p0.6 11-12 @6
				p0.7 13-14 @7
				c0 20-21 1: p0.1 p0.2
				c1 22-23 3: p0.3
				c0 24-25 3: p0.4@4
				c0 26-27 5: p0.7@7
				log n1* - p0.1 p0.2 p0.3 p0.4 - p0.6 p0.7`,
		},
		{
			name: "poll-skip: with an intermediate subscribe", class: ClassSkip, verdict: Valid,
			text: `
				p0.1 1-2 @0
				p0.2 3-4 @1
				p0.3 5-6 @2
				c0 20-21 0: p0.1
				c0 24-25 reset 2: p0.3
				log n1* p0.1 p0.2 p0.3`,
		},
		{
			name: "poll-skip: a subscribe that still covers the partition", class: ClassSkip, count: 1, verdict: Invalid,
			text: `
				p0.1 1-2 @0
				p0.2 3-4 @1
				p0.3 5-6 @2
				c0 20-21 0: p0.1
				c0 24-25 1: p0.3@2
				log n1* p0.1 p0.2 p0.3`,
		},
		{
			name: "int-poll-skip: inside a poll", class: ClassSkip, count: 1, verdict: Invalid,
			text: `
				p0.1 1-2 @1
				p0.2 3-4 @2
				p0.4 5-6 @4
				c0 20-21 1: p0.1 p0.4@4
				c1 22-23 2: p0.2
				log n1* - p0.1 p0.2 - p0.4`,
		},
		{
			name: "nonmonotonic-poll: back to what was read", class: ClassNonMonotonic, count: 1, verdict: Invalid,
			text: `
				p0.1 1-2 @1
				p0.2 3-4 @2
				p0.3 5-6 @3
				p0.4 7-8 @4
				c0 20-21 1: p0.1 p0.2 p0.3
				c0 22-23 2: p0.2 p0.3 p0.4
				log n1* - p0.1 p0.2 p0.3 p0.4`,
		},
		{
			name: "nonmonotonic-poll: with an intermediate subscribe", class: ClassNonMonotonic, verdict: Valid,
			text: `
				p0.1 1-2 @0
				p0.2 3-4 @1
				c0 20-21 0: p0.1 p0.2
				c0 22-23 reset 0: p0.1 p0.2
				log n1* p0.1 p0.2`,
		},
		{
			name: "nonmonotonic-poll: after a change of leader", class: ClassNonMonotonic, verdict: Valid,
			text: `
				p0.1 1-2 @0
				p0.2 3-4 @1
				c0 20-21 0: p0.1 p0.2
				c0 22-23 e=2 1: p0.2
				log n1* p0.1 p0.2`,
			why: "Kafka lets a consumer of a new leader epoch begin again at its committed offset; Jepsen would convict",
		},
		{
			name: "int-nonmonotonic-poll: back inside a poll", class: ClassNonMonotonic, count: 1, verdict: Invalid,
			text: `
				p0.1 1-2 @1
				p0.2 3-4 @2
				p0.3 5-6 @3
				c0 20-21 1: p0.3@3 p0.1@1 p0.2@2
				log n1* - p0.1 p0.2 p0.3`,
			change: notLinear,
		},
		{
			name: "int-nonmonotonic-poll: the same offset twice", class: ClassNonMonotonic, count: 1, verdict: Invalid,
			text: `
				p0.1 1-2 @0
				c0 20-21 0: p0.1 p0.1@0
				log n1* p0.1`,
		},
		{
			name: "nonmonotonic-send: a later send stands before", class: ClassReorder, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 @3
				p0.2 30-40 @1
				log n1* - p0.2 - p0.1`,
		},
		{
			name: "nonmonotonic-send: both were under way at once", class: ClassReorder, verdict: Valid,
			text: `
				p0.1 10-40 @3
				p0.2 30-50 @1
				log n1* - p0.2 - p0.1`,
			why: "without an acknowledgement in between nothing says which was sent first",
		},
		{
			name: "duplicate: basic", class: ClassDuplicate, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 @1
				p1.1 30- ?
				c0 40-50 2: p1.1 p0.1
				log n1* - p0.1 p1.1 p0.1`,
		},
		{
			name: "duplicate: many values at the same two offsets", class: ClassDuplicate, count: 3, verdict: Invalid,
			text: `
				p0.1 1-2 @0
				c0 3-4 reset 1: p0.1
				p0.2 5-6 @0
				c0 7-8 reset 1: p0.2
				p0.3 9-10 @0
				c0 11-12 reset 1: p0.3
				log n1* p0.3 p0.2 p0.1@9 p0.1 p0.2@12`,
			why: "an acknowledged offset where the value never stood is moved, not a second place: only what was drained or delivered counts here",
		},
		{
			name: "duplicate: a failed send at another offset is none", class: ClassDuplicate, verdict: Invalid,
			text: `
				p0.1 10-20 x
				c0 30-40 12: p0.1
				log n1* - - - - - - - - - - - - p0.1`,
			why: "it is resurrected, which convicts it",
		},
		{
			name: "unseen: acknowledged, and no reader came so far", class: "", verdict: Valid,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 0: p0.1
				log n1* p0.1 p0.2`,
			why: "the drain reads what no consumer did",
		},
		{
			name: "unseen: and the drain proves nothing", class: ClassUnseen, count: 1, verdict: Unknown,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 0: p0.1
				log n1* p0.1
				drain noisy`,
			why: "Jepsen counts unseen as valid",
		},
		{
			name: "empty-history: nothing was done", class: "", verdict: Unknown, text: "phase baseline 0",
			why: "nothing was drained",
		},

		// What the workload cannot see.
		{
			name: "blind spot: loss of the tail", class: ClassLost, count: 2, verdict: Invalid,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				p0.3 50-60 @2
				log n1* p0.1`,
		},
		{
			name: "blind spot: sparse offsets hide no loss", class: ClassLost, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1000000
				p0.3 50-60 @4000000000
				log n1* p0.1 p0.3@4000000000`,
		},
		{
			name: "blind spot: sparse offsets are no loss", class: ClassLost, verdict: Valid,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1000000
				p0.3 50-60 @4000000000
				log n1* p0.1 p0.2@1000000 p0.3@4000000000`,
		},
		{
			name: "blind spot: a partition with only empty polls", class: ClassLost, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 k1 @0
				c0 30-40 k1 0:
				c0 50-60 k1 0:
				log n1*
				log n1* k1`,
		},
		{
			name: "blind spot: a failed send becomes visible after everything", class: ClassResurrected, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 x
				p0.2 30-40 @0
				c0 50-60 0: p0.2
				log n1* p0.2 p0.1`,
		},
		{
			name: "blind spot: one replica alone differs", class: ClassDivergence, count: 1, verdict: Invalid,
			text: `
				p0.1 10-20 @0
				c0 30-40 0: p0.1
				log n1* p0.1
				log n3 -`,
		},
	} {
		t.Run(s.name, func(t *testing.T) {
			r := judgeText(t, s.text, func(h *history.History) {
				if s.change != nil {
					s.change(&h.Header.Contract)
				}
			})
			require.Equal(t, s.verdict, r.Verdict, "%s (%s)", r.Sentence, s.why)
			if s.class != "" {
				require.Equal(t, s.count, r.Anomalies[s.class], "%v (%s)", r.Anomalies, s.why)
			} else if s.verdict == Valid {
				require.Empty(t, r.Anomalies)
			}
		})
	}
}

// TestLateIsNotLost: what the last drain shows is there, and what only an earlier one
// showed is not.
func TestLateIsNotLost(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second string
		late, lost    int
	}{
		{"late", "", "p0.1", 1, 0},
		{"lost", "p0.1", "", 0, 1},
		{"both", "p0.1", "p0.1", 0, 0},
		{"neither", "", "", 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := parse(t, "p0.1 10-20 @0\nlog n1* "+c.second)
			var values []string
			if c.first != "" {
				values = append(values, c.first)
			}
			earlierDrain(values...)(h)
			r, err := Run(context.Background(), h, lax())
			require.NoError(t, err)
			require.Equal(t, c.late, r.Anomalies[ClassLate])
			require.Equal(t, c.lost, r.Anomalies[ClassLost])
		})
	}
}
