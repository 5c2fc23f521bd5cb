package checker

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

type contractChange = func(*history.Contract)

// logSituation is a small history and what is found in it. Each that breaks a promise
// names every clause that convicts it: the companions of a clause are part of its
// meaning. A near miss has no clause to break, and must be valid as a whole.
type logSituation struct {
	name   string
	class  string
	count  int // of class
	breaks []string
	text   string
	change contractChange
	alter  func(*history.History)
	// noted: class is counted and never judged; the run is Valid, or what verdict says.
	noted   bool
	verdict Verdict
}

func (s *logSituation) history(t testing.TB) *history.History {
	h := parse(t, s.text)
	if s.change != nil {
		s.change(&h.Header.Contract)
	}
	if s.alter != nil {
		s.alter(h)
	}
	return h
}

// earlierDrain adds a drain of the leader n1 that came before the last one, and found
// these values.
func earlierDrain(values ...string) func(*history.History) {
	return func(h *history.History) {
		first := h.Replicas[0]
		first.Records = nil
		for i, s := range values {
			v, err := history.ParseValue(strings.Replace(strings.TrimPrefix(s, "p"), ".", ":", 1))
			if err != nil {
				panic(err)
			}
			first.Records = append(first.Records, history.Record{Offset: int64(i), Value: v, Epoch: 1})
		}
		first.Sentinel = int64(len(values))
		first.End = first.Sentinel + 1
		h.Replicas = append([]history.Replica{first}, h.Replicas...)
	}
}

// logSituations returns what is hand-made of every class.
func logSituations() []logSituation {
	fresh := func(c *history.Contract) { c.Fresh = true }
	epochs := func(c *history.Contract) { c.Epochs = true }
	least2 := func(c *history.Contract) { c.MinInSync = 2 }
	notLinear := func(c *history.Contract) { c.Linearizable = false }
	perNode := func(c *history.Contract) {
		c.Offsets, c.Linearizable, c.Order, c.Monotonic = "per-node", false, "none", false
	}
	return []logSituation{
		// acknowledged-survive
		{
			name: "lost tail", class: ClassLost, count: 1, breaks: []string{ClauseSurvives, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1* p0.1`,
		},
		{
			name: "lost with an unknown offset", class: ClassLost, count: 1, breaks: []string{ClauseSurvives, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 ok
				log n1* p0.1`,
		},
		{
			name: "lost and its offset taken", class: ClassLost, count: 1, breaks: []string{ClauseSurvives, ClauseInconsistent, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				p1.1 30-40 @0
				log n1* p1.1`,
		},
		{
			name: "lost with its topic", class: ClassLost, count: 2, breaks: []string{ClauseSurvives},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				drain missing`,
		},
		{
			name: "lost on the leader while a replica lags", class: ClassLost, count: 1, breaks: []string{ClauseSurvives},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1* p0.1
				log n3 partial p0.1`,
		},
		{name: "everything survives", class: ClassLost, text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1* p0.1 p0.2`},
		{name: "an indeterminate send may be gone", class: ClassLost, text: `
				p0.1 10-20 @0
				p0.2 30-40 ?
				p0.3 50- ?
				log n1* p0.1`},
		{name: "a failed send is gone", class: ClassLost, text: `
				p0.1 10-20 x
				p0.2 30-40 @0
				log n1* p0.2`},
		{name: "offsets may have gaps", class: ClassLost, text: `
				p0.1 10-20 @0
				p0.2 30-40 @3
				log n1* p0.1 - - p0.2`},

		{
			name: "late is not lost", class: ClassLost,
			alter: earlierDrain("p0.1"),
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1* p0.1 p0.2`,
		},
		{
			name: "absent from a lagging leader", class: ClassUnseen, count: 1, noted: true, verdict: Unknown,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1* partial p0.1`,
		},
		{
			name: "absent while connections were open", class: ClassUnseen, count: 1, noted: true, verdict: Unknown,
			text: `
				p0.1 10-20 @0
				log n1*
				drain noisy`,
		},
		{
			name: "absent before all replicas were in sync", class: ClassUnseen, count: 2, noted: true, verdict: Unknown,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1*
				drain unsynced`,
		},
		{
			name: "below the start of a trimmed log", class: ClassUnseen, count: 1, noted: true, verdict: Unknown,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1* start=1 p0.2`,
		},
		{
			name: "present in a drain that proves nothing", class: ClassUnseen, verdict: Unknown,
			text: `
				p0.1 10-20 @0
				log n1* p0.1
				drain noisy`,
		},
		{
			name: "absent from a drain that proves it", class: ClassUnseen, breaks: []string{ClauseSurvives, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				log n1*`,
		},
		{name: "an indeterminate send is never unseen", class: ClassUnseen, verdict: Unknown, text: `
				p0.1 10-20 ?
				log n1*
				drain noisy`},
		{
			name: "seen by the second drain alone", class: ClassLate, count: 1, noted: true, alter: earlierDrain(),
			text: `
				p0.1 10-20 @0
				log n1* p0.1`,
		},
		{
			name: "a tail that the first drain did not see", class: ClassLate, count: 2, noted: true, alter: earlierDrain("p0.1"),
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				p0.3 50-60 @2
				log n1* p0.1 p0.2 p0.3`,
		},
		{
			name: "of an unknown offset, seen late", class: ClassLate, count: 1, noted: true, alter: earlierDrain("p0.1"),
			text: `
				p0.1 10-20 @0
				p0.2 30-40 ok
				log n1* p0.1 p0.2`,
		},
		{name: "seen by both drains", class: ClassLate, alter: earlierDrain("p0.1"), text: `
				p0.1 10-20 @0
				log n1* p0.1`},
		{
			name: "gone from the second drain", class: ClassLate, alter: earlierDrain("p0.1"), breaks: []string{ClauseSurvives, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				log n1*`,
		},
		{name: "an indeterminate message may come late", class: ClassLate, alter: earlierDrain(), text: `
				p0.1 10-20 ?
				log n1* p0.1`},
		{name: "sent and gone", class: ClassSentLost, count: 1, noted: true, text: `
				p0.1 10-20 sent
				log n1*`},
		{name: "sent and gone behind another", class: ClassSentLost, count: 2, noted: true, text: `
				p0.1 10-20 @0
				p0.2 30-40 sent
				p0.3 50-60 sent
				log n1* p0.1`},
		{name: "sent and gone with its topic", class: ClassSentLost, count: 1, noted: true, change: notLinear, text: `
				p0.1 10-20 sent
				drain missing`},
		{name: "sent and found", class: ClassSentLost, text: `
				p0.1 10-20 sent
				log n1* p0.1`},
		{name: "sent without an answer and gone", class: ClassSentLost, text: `
				p0.1 10- ?
				log n1*`},
		{name: "sent and absent from a drain that proves nothing", class: ClassSentLost, verdict: Unknown, text: `
				p0.1 10-20 sent
				log n1*
				drain noisy`},

		// replicas-agree
		{
			name: "another value on a follower", class: ClassDivergence, count: 1, breaks: []string{ClauseDivergence},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 ?
				log n1* p0.1
				log n2 p0.2`,
		},
		{
			name: "a record missing on a follower", class: ClassDivergence, count: 1, breaks: []string{ClauseDivergence},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1* p0.1 p0.2
				log n3 - p0.2`,
		},
		{
			name: "equal records and another digest", class: ClassDivergence, count: 1, breaks: []string{ClauseDivergence},
			text: `
				p0.1 10-20 @0
				log n1* p0.1
				log n3 digest=other p0.1`,
		},
		{
			name: "an altered record on a follower", class: ClassDivergence, count: 1, breaks: []string{ClauseDivergence},
			text: `
				p0.1 10-20 @0
				log n1* p0.1
				log n3 !`,
		},
		{name: "replicas agree line by line", class: ClassDivergence, text: `
				p0.1 10-20 @0
				log n1* p0.1
				log n3 p0.1`},
		{name: "replicas agree with gaps", class: ClassDivergence, text: `
				p0.1 10-20 @2
				log n1* - - p0.1
				log n2 - - p0.1`},
		{
			name: "nodes hold different messages where offsets are local", class: ClassDivergence, count: 4, breaks: []string{ClauseDivergence}, change: perNode,
			text: `
				p0.1 10-20 @0
				p1.1 10-20 n2 @0
				log n1* p0.1
				log n2 p1.1
				log n3 p1.1`,
		},
		{
			name: "the same messages at other offsets, where those are local", class: ClassDivergence, change: perNode,
			text: `
				p0.1 10-20 @0
				p1.1 12-22 n2 @0
				log n1* p0.1 p1.1
				log n2 p1.1 p0.1
				log n3 p0.1 p1.1`,
		},
		{
			name: "the order may differ where offsets are local", class: ClassReorder, count: 2, noted: true, change: perNode,
			text: `
				p0.1 10-20 @0
				p1.1 10-20 n2 @0
				log n1* p0.1 p1.1
				log n2 p1.1 p0.1
				log n3 p1.1 p0.1`,
		},

		// at-most-once
		{
			name: "twice in the drained log", class: ClassDuplicate, count: 1, breaks: []string{ClauseDuplicate, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				log n1* p0.1 p0.1`,
		},
		{
			name: "twice with another between", class: ClassDuplicate, count: 1, breaks: []string{ClauseDuplicate, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1* p0.1 p0.2 p0.1`,
		},
		{
			name: "an indeterminate send that stands twice", class: ClassDuplicate, count: 1, breaks: []string{ClauseDuplicate, ClauseLinearizable},
			text: `
				p0.1 10-20 ?
				p0.2 30-40 @1
				log n1* p0.1 p0.2 p0.1`,
		},
		{
			name: "delivered at two offsets", class: ClassDuplicate, count: 1, breaks: []string{ClauseDuplicate, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				c0 30-40 0: p0.1 - p0.1
				log n1* p0.1`,
		},
		{name: "delivered twice from one offset", class: ClassDuplicate, text: `
				p0.1 10-20 @0
				c0 30-40 0: p0.1
				c1 30-40 0: p0.1
				log n1* p0.1`},
		{name: "sent twice and standing twice", class: ClassDuplicate, change: notLinear, text: `
				p0.1 10-20 @0
				p0.1 30-40 @1
				log n1* p0.1 p0.1`},
		{name: "the same sequence of two producers", class: ClassDuplicate, text: `
				p0.1 10-20 @0
				p1.1 10-20 @1
				log n1* p0.1 p1.1`},

		// only-what-was-sent
		{
			name: "drained and never sent", class: ClassPhantom, count: 1, breaks: []string{ClausePhantom, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				log n1* p0.1 p2.7`,
		},
		{
			name: "delivered and never sent", class: ClassPhantom, count: 1, breaks: []string{ClausePhantom, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				c0 30-40 0: p0.1 p2.7
				log n1* p0.1`,
		},
		{
			name: "sent to another partition", class: ClassPhantom, count: 1, breaks: []string{ClausePhantom, ClauseLinearizable},
			text: `
				p0.1 10-20 k1 ?
				p0.2 10-20 @0
				log n1* p0.2 p0.1
				log n1* k1`,
		},
		{
			name: "of another run", class: ClassPhantomRun, count: 1, breaks: []string{ClausePhantom, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				c0 30-40 0: p0.1 ~
				c1 50-60 1: ~
				log n1* p0.1 ~`,
		},
		{
			name: "of another run, at the same place of two nodes' own logs", class: ClassPhantomRun, count: 1, breaks: []string{ClausePhantom}, change: perNode,
			text: `
				p0.1 10-20 @0
				log n1* p0.1 ~
				log n2 p0.1 ~`,
		},
		{
			name: "altered", class: ClassPhantomBytes, count: 1, breaks: []string{ClauseSurvives, ClausePhantom, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1* p0.1 !`,
		},
		{
			name: "of another run, drained", class: ClassPhantomRun, count: 1, breaks: []string{ClausePhantom, ClauseLinearizable},
			text: `
				p0.1 10-20 @1
				log n1* ~ p0.1`,
		},
		{
			name: "of another run, delivered", class: ClassPhantomRun, count: 1, breaks: []string{ClausePhantom, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				c0 30-40 0: p0.1 ~
				log n1* p0.1`,
		},
		{name: "of another run, on a follower that is read no more", class: ClassPhantomRun, verdict: Unknown, text: `
				p0.1 10-20 @0
				log n1* p0.1
				log n3 partial p0.1 ~`},
		{name: "of another run, in a poll that failed", class: ClassPhantomRun, text: `
				p0.1 10-20 @0
				c0 30-40 x 0:
				log n1* p0.1`},
		{name: "the sentinel of an earlier drain", class: ClassPhantomRun, text: `
				p0.1 10-20 @0
				c0 30-40 0: p0.1 S
				log n1* p0.1 S`},
		{
			name: "altered on the way", class: ClassPhantomBytes, count: 1, breaks: []string{ClausePhantom, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				c0 30-40 0: !
				log n1* p0.1`,
		},
		{
			name: "altered in two places", class: ClassPhantomBytes, count: 2, breaks: []string{ClausePhantom, ClauseLinearizable},
			text: `
				p0.1 10-20 @1
				log n1* ! p0.1 !`,
		},
		{name: "altered, on a follower alone", class: ClassPhantomBytes, breaks: []string{ClauseDivergence}, text: `
				p0.1 10-20 @0
				log n1* p0.1
				log n2 !`},
		{name: "lost and not altered", class: ClassPhantomBytes, breaks: []string{ClauseSurvives, ClauseLinearizable}, text: `
				p0.1 10-20 @0
				log n1* -`},
		{name: "delivered as it was sent", class: ClassPhantomBytes, text: `
				p0.1 10-20 @0
				c0 30-40 0: p0.1
				log n1* p0.1`},
		{name: "a sentinel was not sent", class: ClassPhantom, text: `
				p0.1 10-20 @1
				c0 30-40 0: S p0.1
				log n1* S p0.1`},
		{name: "an indeterminate send may appear", class: ClassPhantom, text: `
				p0.1 10- ?
				c0 30-40 0: p0.1
				log n1* p0.1`},
		{name: "a send without acknowledgement may appear", class: ClassPhantom, text: `
				p0.1 10-20 sent
				log n1* p0.1`},

		// failed-never-visible
		{
			name: "failed and drained", class: ClassResurrected, count: 1, breaks: []string{ClauseResurrected, ClauseLinearizable},
			text: `
				p0.1 10-20 x
				log n1* p0.1`,
		},
		{
			name: "failed and delivered", class: ClassResurrected, count: 1, breaks: []string{ClauseResurrected, ClauseDirtyRead, ClauseLinearizable},
			text: `
				p0.1 10-20 x
				c0 30-40 0: p0.1
				log n1*`,
		},
		{
			name: "failed, delivered and drained", class: ClassResurrected, count: 1, breaks: []string{ClauseResurrected, ClauseLinearizable},
			text: `
				p0.1 10-20 x
				c0 30-40 0: p0.1
				log n1* p0.1`,
		},
		{name: "failed and invisible", class: ClassResurrected, text: `
				p0.1 10-20 x
				c0 30-40 0:
				log n1*`},
		{name: "indeterminate and visible", class: ClassResurrected, text: `
				p0.1 10-20 ?
				log n1* p0.1`},
		{name: "failed once and acknowledged once", class: ClassResurrected, change: notLinear, text: `
				p0.1 10-20 x
				p0.1 30-40 @0
				log n1* p0.1`},

		// offsets-stay
		{
			name: "acknowledged at one offset and drained at another", class: ClassMoved, count: 1, breaks: []string{ClauseMoved, ClauseLinearizable},
			text: `
				p0.1 10-20 @5
				log n1* p0.1`,
		},
		{
			name: "acknowledged and delivered at different offsets", class: ClassMoved, count: 1, breaks: []string{ClauseMoved, ClauseLinearizable},
			text: `
				p0.1 10-20 @1
				c0 30-40 0: p0.1
				log n1* p0.1`,
		},
		{
			name: "two that changed places", class: ClassMoved, count: 2, breaks: []string{ClauseMoved, ClauseInconsistent, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				p1.1 10-20 @1
				log n1* p1.1 p0.1`,
		},
		{name: "found where acknowledged", class: ClassMoved, text: `
				p0.1 10-20 @1
				log n1* - p0.1`},
		{name: "the offset was not told", class: ClassMoved, text: `
				p0.1 10-20 ok
				log n1* - p0.1`},
		{name: "offsets are local to a node", class: ClassMoved, change: perNode, text: `
				p0.1 10-20 @7
				log n1* p0.1`},

		// one-value-per-offset
		{
			name: "acknowledged with two values", class: ClassInconsistent, count: 1, breaks: []string{ClauseSurvives, ClauseInconsistent, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				p1.1 10-20 @0
				log n1* p1.1`,
		},
		{
			name: "delivered with two values", class: ClassInconsistent, count: 1, breaks: []string{ClauseInconsistent, ClauseDirtyRead, ClauseLinearizable},
			text: `
				p0.1 10-20 ?
				p1.1 10-20 ?
				c0 30-40 0: p0.1
				c1 30-40 0: p1.1
				log n1* p0.1`,
		},
		{
			name: "delivered with a value and drained with another", class: ClassInconsistent, count: 1, breaks: []string{ClauseInconsistent, ClauseDirtyRead, ClauseLinearizable},
			text: `
				p0.1 10-20 ?
				p1.1 10-20 @0
				c0 30-40 0: p0.1
				log n1* p1.1`,
		},
		{name: "one value acknowledged, delivered and drained", class: ClassInconsistent, text: `
				p0.1 10-20 @0
				c0 30-40 0: p0.1
				log n1* p0.1`},
		{name: "equal offsets of two partitions", class: ClassInconsistent, text: `
				p0.1 10-20 @0
				p1.1 10-20 k1 @0
				log n1* p0.1
				log n1* k1 p1.1`},
		{
			name: "an acknowledgement that promises nothing", class: ClassInconsistent,
			change: func(c *history.Contract) { c.Acknowledged, c.Expect, c.Linearizable = false, "declared", false },
			text: `
				p0.1 10-20 @0
				p1.1 30-40 @0
				log n1* p1.1`,
		},

		{
			name: "an uncommitted delivery", class: ClassInconsistent,
			change: func(c *history.Contract) { c.CommittedReads, c.Linearizable = false, false },
			text: `
				p0.1 10-20 ?
				p1.1 10-20 @0
				c0 30-40 0: p0.1
				log n1* p1.1`,
		},

		// committed-reads
		{
			name: "delivered and gone", class: ClassDirtyRead, count: 1, breaks: []string{ClauseDirtyRead, ClauseLinearizable},
			text: `
				p0.1 10-20 ?
				c0 30-40 0: p0.1
				log n1*`,
		},
		{
			name: "delivered, acknowledged and gone", class: ClassDirtyRead, count: 1, breaks: []string{ClauseSurvives, ClauseDirtyRead, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				c0 30-40 0: p0.1
				log n1*`,
		},
		{
			name: "a delivered tail is gone", class: ClassDirtyRead, count: 2, breaks: []string{ClauseDirtyRead, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				p0.2 30- ?
				p0.3 50- ?
				c0 60-70 0: p0.1 p0.2 p0.3
				log n1* p0.1`,
		},
		{name: "delivered and kept", class: ClassDirtyRead, text: `
				p0.1 10-20 ?
				c0 30-40 0: p0.1
				log n1* p0.1`},
		{name: "gone and never delivered", class: ClassDirtyRead, text: `
				p0.1 10-20 ?
				c0 30-40 0:
				log n1*`},
		{name: "delivered and absent from a drain that proves nothing", class: ClassDirtyRead, verdict: Unknown, text: `
				p0.1 10-20 ?
				c0 30-40 0: p0.1
				log n1*
				drain noisy`},
		{name: "uncommitted reads are allowed", class: ClassDirtyRead, count: 1, noted: true, change: func(c *history.Contract) { c.CommittedReads, c.Linearizable = false, false }, text: `
				p0.1 10-20 ?
				c0 30-40 0: p0.1
				log n1*`},

		// monotonic-reads
		{
			name: "a jump between polls", class: ClassSkip, count: 1, breaks: []string{ClauseMonotonic},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				p0.3 50-60 @2
				c0 70-80 0: p0.1
				c0 90-95 1: p0.3@2
				log n1* p0.1 p0.2 p0.3`,
		},
		{
			name: "a jump inside a poll", class: ClassSkip, count: 1, breaks: []string{ClauseMonotonic},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				p0.3 50-60 @2
				c0 70-80 0: p0.1 p0.3@2
				log n1* p0.1 p0.2 p0.3`,
		},
		{
			name: "a first poll that begins too late", class: ClassSkip, count: 1, breaks: []string{ClauseMonotonic},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 70-80 0: p0.2@1
				log n1* p0.1 p0.2`,
		},
		{
			name: "back between polls", class: ClassNonMonotonic, count: 1, breaks: []string{ClauseMonotonic},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 0: p0.1 p0.2
				c0 70-80 2: p0.2@1
				log n1* p0.1 p0.2`,
		},
		{
			name: "back inside a poll", class: ClassNonMonotonic, count: 1, breaks: []string{ClauseMonotonic},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 0: p0.1 p0.2 p0.2@1
				log n1* p0.1 p0.2`,
		},
		{
			name: "back to the beginning inside a poll", class: ClassNonMonotonic, count: 1, breaks: []string{ClauseMonotonic},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 0: p0.1 p0.2 p0.1@0 p0.2
				log n1* p0.1 p0.2`,
		},
		{name: "a jump over a gap", class: ClassSkip, text: `
				p0.1 10-20 @0
				p0.2 30-40 @2
				c0 70-80 0: p0.1
				c0 90-95 1: p0.2@2
				log n1* p0.1 - p0.2`},
		{name: "a jump over an old sentinel", class: ClassSkip, text: `
				p0.1 10-20 @0
				p0.2 30-40 @2
				c0 70-80 0: p0.1
				c0 90-95 1: p0.2@2
				log n1* p0.1 S p0.2`},
		{name: "back after a reset", class: ClassNonMonotonic, text: `
				p0.1 10-20 @0
				c0 50-60 0: p0.1
				c0 70-80 reset 0: p0.1
				log n1* p0.1`},
		{name: "back in another leader epoch", class: ClassNonMonotonic, text: `
				p0.1 10-20 @0
				c0 50-60 0: p0.1
				c0 70-80 e=2 0: p0.1
				log n1* p0.1`},
		{name: "two consumers are not one", class: ClassNonMonotonic, text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 0: p0.1 p0.2
				c1 70-80 0: p0.1
				log n1* p0.1 p0.2`},
		{name: "an empty poll between", class: ClassSkip, text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 0: p0.1
				c0 61-62 1:
				c0 70-80 1: p0.2
				log n1* p0.1 p0.2`},

		// producer-order
		{
			name: "a later message stands before", class: ClassReorder, count: 1, breaks: []string{ClauseOrder, ClauseLinearizable},
			text: `
				p0.1 10-20 @1
				p0.2 30-40 @0
				log n1* p0.2 p0.1`,
		},
		{
			name: "a later message with unknown offset stands before", class: ClassReorder, count: 1, breaks: []string{ClauseOrder, ClauseLinearizable},
			text: `
				p0.1 10-20 @1
				p0.2 30-40 ok
				log n1* p0.2 p0.1`,
		},
		{
			name: "the last overtakes two", class: ClassReorder, count: 1, breaks: []string{ClauseOrder, ClauseLinearizable},
			text: `
				p0.1 10-20 @1
				p0.2 30-40 @2
				p0.3 50-60 @0
				log n1* p0.3 p0.1 p0.2`,
		},
		{name: "sent before the other was acknowledged", class: ClassReorder, text: `
				p0.1 10-20 @1
				p0.2 20-40 @0
				log n1* p0.2 p0.1`},
		{name: "an indeterminate message has no order", class: ClassReorder, text: `
				p0.1 10-20 ?
				p0.2 30-40 @0
				log n1* p0.2 p0.1`},
		{name: "two producers", class: ClassReorder, change: notLinear, text: `
				p0.1 10-20 @1
				p1.1 30-40 @0
				log n1* p1.1 p0.1`},

		// one-leader-per-epoch
		{
			name: "two leaders of one epoch", class: ClassSplitBrain, count: 1, breaks: []string{ClauseSplitBrain}, change: epochs,
			text: `
				p0.1 10-20 @0
				event n1 leader e=3
				event n2 leader e=3
				log n1* p0.1`,
		},
		{
			name: "three leaders of one epoch", class: ClassSplitBrain, count: 2, breaks: []string{ClauseSplitBrain}, change: epochs,
			text: `
				event n1 leader e=3
				event n2 leader e=3
				event n2 leader e=3
				event n3 leader e=3
				log n1*`,
		},
		{
			name: "two leaders of an old epoch", class: ClassSplitBrain, count: 1, breaks: []string{ClauseSplitBrain}, change: epochs,
			text: `
				event n1 leader e=3
				event n1 leader e=5
				event n2 leader e=4
				event n2 leader e=3
				log n1*`,
		},
		{name: "one leader after another", class: ClassSplitBrain, change: epochs, text: `
				event n1 leader e=3
				event n2 leader e=4
				log n1*`},
		{name: "one leader says so twice", class: ClassSplitBrain, change: epochs, text: `
				event n1 leader e=3
				event n1 leader e=3
				log n1*`},
		{name: "a follower of the same epoch", class: ClassSplitBrain, change: epochs, text: `
				event n1 leader e=3
				event n2 follower e=3
				log n1*`},

		// enough-in-sync
		{
			name: "acknowledged by the leader alone", class: ClassTooFew, count: 2, breaks: []string{ClauseInSync}, change: least2,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				p0.3 50-60 @2
				p0.4 70-80 @3
				event n1 leader e=1 isr=n1,n2
				event n1 isr e=1 isr=n1 high=1
				event n1 isr e=1 isr=n1,n2 high=3
				log n1* p0.1 p0.2 p0.3 p0.4`,
		},
		{
			name: "a leader that was alone from the beginning", class: ClassTooFew, count: 1, breaks: []string{ClauseInSync}, change: least2,
			text: `
				p0.1 10-20 @0
				p0.2 30- ?
				event n1 leader e=1 isr=n1
				event n1 isr e=1 isr=n1,n2 high=1
				log n1* p0.1 p0.2`,
		},
		{
			name: "alone of three that must be two", class: ClassTooFew, count: 1, breaks: []string{ClauseInSync}, change: least2,
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				event n1 leader e=1 isr=n1,n2,n3
				event n1 isr e=1 isr=n1 high=1
				event n1 isr e=1 isr=n1 high=2
				log n1* p0.1 p0.2`,
		},
		{name: "the watermark stood still", class: ClassTooFew, change: least2, text: `
				p0.1 10-20 @0
				p0.2 30-90 @1
				event n1 leader e=1 isr=n1,n2
				event n1 isr e=1 isr=n1 high=1
				event n1 isr e=1 isr=n1,n2 high=1
				log n1* p0.1 p0.2`},
		{name: "moved on by somebody else, in another epoch", class: ClassTooFew, change: least2, text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				event n1 isr e=0 isr=n1 high=1
				event n1 follower e=1
				event n1 leader e=2 isr=n1,n2
				event n1 isr e=2 isr=n1,n2,n3 high=2
				log n1* p0.1 p0.2`},
		{name: "another incarnation", class: ClassTooFew, change: least2, text: `
				p0.1 10-20 @0
				event n1 isr e=1 isr=n1 high=0
				event n1 isr e=1 isr=n1,n2 high=1 inc=i2 seq=1
				log n1* p0.1`},
		{name: "a report is missing in between", class: ClassTooFew, change: least2, text: `
				p0.1 10-20 @0
				event n1 isr e=1 isr=n1 high=0 seq=1
				event n1 isr e=1 isr=n1,n2 high=1 seq=3
				log n1* p0.1`},
		{name: "what is there was appended in a later epoch", class: ClassTooFew, change: least2, text: `
				p0.1 10-20 @0
				event n1 isr e=3 isr=n1 high=0
				event n1 isr e=3 isr=n1,n2 high=1
				log n1* p0.1`},
		{name: "not acknowledged", class: ClassTooFew, change: least2, text: `
				p0.1 10- ?
				event n1 isr e=1 isr=n1 high=0
				event n1 isr e=1 isr=n1,n2 high=1
				log n1* p0.1`},
		{name: "not promised", class: ClassTooFew, text: `
				p0.1 10-20 @0
				event n1 isr e=1 isr=n1 high=0
				event n1 isr e=1 isr=n1,n2 high=1
				log n1* p0.1`},

		// linearizable-appends
		{
			name: "two producers against real time", class: ClassLinearizable, count: 1, breaks: []string{ClauseLinearizable},
			text: `
				p0.1 10-20 @1
				p1.1 30-40 @0
				log n1* p1.1 p0.1`,
		},
		{
			name: "read before it was sent", class: ClassLinearizable, count: 1, breaks: []string{ClauseLinearizable},
			text: `
				c0 10-20 0: p0.1
				p0.1 30-40 @0
				log n1* p0.1`,
		},
		{
			name: "read, and what stands before was sent later", class: ClassLinearizable, count: 1, breaks: []string{ClauseLinearizable},
			text: `
				p1.1 10- ?
				c0 20-30 1: p1.1
				p0.1 40- ?
				log n1* p0.1 p1.1`,
		},
		{
			name: "a fresh read against real time", class: ClassLinearizable, count: 1, change: fresh,
			breaks: []string{ClauseLinearizable, ClauseStale},
			text: `
				p0.1 10-20 @0
				c0 30-40 high=0 0:
				log n1* p0.1`,
		},
		{name: "concurrent sends stand in either order", class: ClassLinearizable, text: `
				p0.1 10-30 @1
				p1.1 30-40 @0
				log n1* p1.1 p0.1`},
		{name: "a stale read is a prefix", class: ClassLinearizable, text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 0: p0.1
				c1 70-80 high=0 0:
				log n1* p0.1 p0.2`},
		{name: "an indeterminate send takes effect late", class: ClassLinearizable, text: `
				p0.1 10-20 ?
				p1.1 30-40 @0
				log n1* p1.1 p0.1`},

		// fresh-reads
		{
			name: "an empty answer", class: ClassStale, count: 1, change: fresh, breaks: []string{ClauseLinearizable, ClauseStale},
			text: `
				p0.1 10-20 @0
				c0 30-40 0:
				log n1* p0.1`,
		},
		{
			name: "a watermark behind", class: ClassStale, count: 1, change: fresh, breaks: []string{ClauseLinearizable, ClauseStale},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 high=1 0: p0.1
				log n1* p0.1 p0.2`,
		},
		{
			name: "an empty answer further on", class: ClassStale, count: 1, change: fresh, breaks: []string{ClauseLinearizable, ClauseStale},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 1:
				log n1* p0.1 p0.2`,
		},
		{name: "a read that began before", class: ClassStale, change: fresh, text: `
				p0.1 10-20 @0
				c0 20-40 high=0 0:
				log n1* p0.1`},
		{name: "an answer cut by its size", class: ClassStale, change: fresh, text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				c0 50-60 0: p0.1
				log n1* p0.1 p0.2`},
		{name: "a failed read", class: ClassStale, change: fresh, text: `
				p0.1 10-20 @0
				c0 50-60 x 0:
				log n1* p0.1`},

		// recovers
		{
			name: "nothing after healing", class: ClassNotRecovered, count: 1, breaks: []string{ClauseRecovers},
			text: `
				phase baseline 0
				p0.1 10-20 @0
				fault 0 kill n1 100-200
				phase recovery 300
				p0.2 310-400 ?
				phase drain 500
				log n1* p0.1`,
		},
		{
			name: "one partition of two", class: ClassNotRecovered, count: 1, breaks: []string{ClauseRecovers},
			text: `
				fault 0 kill n1 100-200
				phase recovery 300
				p0.1 310-320 @0
				p0.2 310-400 k1 x
				phase drain 500
				log n1* p0.1
				log n1* k1`,
		},
		{
			name: "only refusals", class: ClassNotRecovered, count: 1, breaks: []string{ClauseRecovers},
			text: `
				fault 0 kill n1 100-200
				phase recovery 300
				p0.1 310-320 x
				p0.2 330-340 x
				phase drain 500
				p0.3 510-520 @0
				log n1* p0.3`,
		},
		{name: "one success is enough", class: ClassNotRecovered, text: `
				fault 0 kill n1 100-200
				phase recovery 300
				p0.1 310-320 x
				p0.2 330-340 @0
				phase drain 500
				log n1* p0.2`},
		{name: "begun before and acknowledged in the phase", class: ClassNotRecovered, text: `
				fault 0 kill n1 100-200
				p0.1 290-310 @0
				phase recovery 300
				p0.2 320- ?
				phase drain 500
				log n1* p0.1`},
		{name: "only a send from before", class: ClassNotRecovered, text: `
				fault 0 kill n1 100-200
				p0.1 290-310 @0
				phase recovery 300
				phase drain 500
				log n1* p0.1`},
		{name: "no fault", class: ClassNotRecovered, text: `
				phase recovery 300
				p0.1 310-320 x
				phase drain 500
				log n1*`},
	}
}

// TestAnomalies judges the situations.
func TestAnomalies(t *testing.T) {
	for _, s := range logSituations() {
		t.Run(s.name, func(t *testing.T) {
			r, err := Run(context.Background(), s.history(t), lax())
			require.NoError(t, err)
			require.ElementsMatch(t, s.breaks, convicted(r), "convicted clauses: %s", r.Sentence)
			require.Equal(t, s.count, r.Anomalies[s.class], "%v", r.Anomalies)
			if s.breaks == nil {
				want := Valid
				if s.verdict != "" {
					want = s.verdict
				}
				require.Equal(t, want, r.Verdict, "%s %v", r.Sentence, r.WhyInconclusive)
				return
			}
			require.Equal(t, Invalid, r.Verdict)
			for _, c := range r.Checks {
				for _, a := range c.Anomalies {
					require.Contains(t, a.Text, "broke "+c.Name, "an anomaly quotes the guarantee that broke")
				}
			}
		})
	}
}

// classes lists every class of anomaly of a log.
var classes = []string{
	ClassLost, ClassUnseen, ClassLate, ClassSentLost, ClassDivergence, ClassDuplicate, ClassPhantom, ClassPhantomRun, ClassPhantomBytes,
	ClassResurrected, ClassMoved, ClassInconsistent, ClassDirtyRead, ClassSkip, ClassNonMonotonic, ClassReorder, ClassSplitBrain, ClassTooFew,
	ClassLinearizable, ClassStale, ClassNotRecovered,
}

// unjudged reports whether a class is counted, and no anomaly of its own.
func unjudged(class string) bool {
	return class == ClassUnseen || class == ClassLate || class == ClassSentLost
}

// TestEveryClassIsHandMade: each class has three situations at least that show it,
// and three that come close to it and do not.
func TestEveryClassIsHandMade(t *testing.T) {
	shown, missed := map[string]int{}, map[string]int{}
	names := map[string]bool{}
	for _, s := range logSituations() {
		require.False(t, names[s.name], "two situations are named %q", s.name)
		names[s.name] = true
		require.Contains(t, classes, s.class, s.name)
		switch {
		case s.count == 0:
			missed[s.class]++
		case s.breaks != nil || unjudged(s.class):
			shown[s.class]++
		default:
			require.True(t, s.noted, s.name)
		}
	}
	for _, class := range classes {
		t.Logf("%-20s %d shown, %d near misses", class, shown[class], missed[class])
		require.GreaterOrEqual(t, shown[class], 3, "histories that show %s", class)
		require.GreaterOrEqual(t, missed[class], 3, "near misses of %s", class)
	}
}

// TestWitness cuts every situation down to each of its anomalies: the clause finds the
// same one in the cut, nothing can be left out of that, and every operation that the
// anomaly names is in it.
func TestWitness(t *testing.T) {
	cut := map[string]bool{}
	for _, s := range logSituations() {
		if s.breaks == nil {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			h := s.history(t)
			r, err := Run(context.Background(), h, lax())
			require.NoError(t, err)
			for _, c := range r.Checks {
				for _, a := range c.Anomalies {
					w, err := Witness(context.Background(), h, lax(), c.Name, a)
					require.NoError(t, err, "%+v", a)
					if h.Validate() == nil {
						require.NoError(t, w.Validate())
					}
					requireWitness(t, w, lax(), c.Name, a)
					cut[a.Class] = true
				}
			}
		})
	}
	for _, class := range classes {
		if !unjudged(class) {
			require.True(t, cut[class], "no witness of %s", class)
		}
	}
}

// requireWitness requires that the checker breaks the same clause by the same class on
// w, and that it does so no more once any operation is gone.
func requireWitness(t *testing.T, w *history.History, o Options, name string, a Anomaly) {
	t.Helper()
	again := func() []Anomaly {
		r, err := Run(context.Background(), w, o)
		require.NoError(t, err)
		for _, c := range r.Checks {
			if c.Name == name {
				return c.Anomalies
			}
		}
		return nil // it has nothing to judge any more
	}
	same := func(b Anomaly) bool {
		return b.Class == a.Class && b.Key == a.Key && (a.Class == ClassNotRecovered || b.Text == a.Text)
	}
	require.True(t, slices.ContainsFunc(again(), same), "%+v\n%s", a, describe(w))
	ops := w.Ops
	for i := range ops {
		w.Ops = slices.Delete(slices.Clone(ops), i, i+1)
		require.False(t, slices.ContainsFunc(again(), same), "%+v does not need operation %d of\n%s", a, ops[i].ID, describe(w))
	}
	w.Ops = ops
}

// TestWitnessOfMany: a witness of a long history is as small as that of a short one.
func TestWitnessOfMany(t *testing.T) {
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			var h *history.History
			for seed := uint64(0); ; seed++ {
				r := rand.New(rand.NewPCG(seed, 7))
				if h = generate(r, 900, 3); m.apply(r, h) {
					break
				}
			}
			res := run(t, h, Options{})
			for _, c := range res.Checks {
				if c.Verdict != Invalid {
					continue
				}
				w, err := Witness(context.Background(), h, Options{}, c.Name, c.Anomalies[0])
				require.NoError(t, err)
				require.LessOrEqual(t, len(w.Ops), 4, "operations of a witness of %s", c.Name)
				requireWitness(t, w, Options{}, c.Name, c.Anomalies[0])
			}
		})
	}
}

// TestEveryOpIsNamed: the operations that an anomaly names are the proof, with the
// sends of the messages that it is about and what was drained; what never happened is
// proven by the last attempt and all others.
func TestEveryOpIsNamed(t *testing.T) {
	for _, s := range logSituations() {
		t.Run(s.name, func(t *testing.T) {
			h := s.history(t)
			r, err := Run(context.Background(), h, lax())
			require.NoError(t, err)
			for _, c := range r.Checks {
				for _, a := range c.Anomalies {
					if a.Class == ClassNotRecovered {
						continue
					}
					w := cutting{h: h, options: lax().withDefaults(), clause: c.Name, anomaly: a, budget: cutBudget}
					require.True(t, w.proves(context.Background(), w.near()), "%+v", a)
				}
			}
		})
	}
}
