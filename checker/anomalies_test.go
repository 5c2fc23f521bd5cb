package checker

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

type contractChange = func(*history.Contract)

// TestAnomalies judges small histories. Each case that breaks names every
// clause that convicts it: the companions of a clause are part of its meaning.
// A near miss has no clause to break, and must be valid as a whole.
func TestAnomalies(t *testing.T) {
	fresh := func(c *history.Contract) { c.Fresh = true }
	epochs := func(c *history.Contract) { c.Epochs = true }
	least2 := func(c *history.Contract) { c.MinInSync = 2 }
	notLinear := func(c *history.Contract) { c.Linearizable = false }
	perNode := func(c *history.Contract) {
		c.Offsets, c.Linearizable, c.Order, c.Monotonic = "per-node", false, "none", false
	}
	for _, tc := range []struct {
		name   string
		class  string
		count  int // of class
		breaks []string
		text   string
		change contractChange
	}{
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
			name: "replicas may differ where offsets are local", class: ClassDivergence, change: perNode,
			text: `
				p0.1 10-20 @0
				p1.1 10-20 n2 @0
				log n1* p0.1
				log n2 p1.1
				log n3 p1.1`,
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
			name: "altered", class: ClassPhantomBytes, count: 1, breaks: []string{ClauseSurvives, ClausePhantom, ClauseLinearizable},
			text: `
				p0.1 10-20 @0
				p0.2 30-40 @1
				log n1* p0.1 !`,
		},
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
		{name: "uncommitted reads are allowed", class: "", change: func(c *history.Contract) { c.CommittedReads, c.Linearizable = false, false }, text: `
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
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := judgeText(t, tc.text, func(h *history.History) {
				if tc.change != nil {
					tc.change(&h.Header.Contract)
				}
			})
			require.ElementsMatch(t, tc.breaks, convicted(r), "convicted clauses: %s", r.Sentence)
			if tc.breaks == nil {
				require.Equal(t, Valid, r.Verdict, "%s %v", r.Sentence, r.WhyInconclusive)
				require.Zero(t, r.Anomalies[tc.class])
				return
			}
			require.Equal(t, Invalid, r.Verdict)
			require.Equal(t, tc.count, r.Anomalies[tc.class], "%v", r.Anomalies)
			for _, c := range r.Checks {
				for _, a := range c.Anomalies {
					require.Contains(t, a.Text, "broke "+c.Name, "an anomaly quotes the guarantee that broke")
				}
			}
		})
	}
}
