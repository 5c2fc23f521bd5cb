package linear

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/internal/seeded"
)

// bugs are changes to the procedures' source, each of which makes one wrong.
var bugs = []struct{ name, file, old, with string }{
	{"ends at a call come before it", "queue.go", "running[0].at < o.Call", "running[0].at <= o.Call"},
	{"fresh: equal times precede", "queue.go", "took.Return < o.Call", "took.Return <= o.Call"},
	{"fresh is not looked at", "queue.go", "took.Return < o.Call", "took.Return < o.Call && false"},
	{"order: equal times precede", "queue.go", "took.Return < latest", "took.Return <= latest"},
	{"order is not looked at", "queue.go", "took.Return < latest", "false"},
	{"order goes by the earliest dequeue", "queue.go", "if until > latest {", "if until < latest {"},
	{"empty: the component is closed", "queue.go", "if o.Return < end {", "if o.Return <= end {"},
	{"empty: components touch", "queue.go", "if o.Return >= end {", "if o.Return > end {"},
	{"empty: the first to end is not kept", "queue.go", "if o.Return < soonest {", "if o.Return > soonest || soonest == Never {"},
	{"empty: a component grows too far", "queue.go", "return soonest >= end", "return soonest > end"},
	{"empty: a component shrinks", "queue.go", "end = max(end, until)", "end = until"},
	{"an unanswered dequeue serves many", "queue.go", "				next++\n			}\n		}\n		if until", "			}\n		}\n		if until"},
	{"unanswered dequeues take nothing", "queue.go", "if next < len(ops) {\n				until", "if next < 0 {\n				until"},
	{"what was never taken is gone", "queue.go", "&ops[i], int64(Never)", "&ops[i], int64(math.MinInt64)"},
	{"phantoms are not looked for", "queue.go", "d != 0 && !enqueued[v]", "d < 0 && !enqueued[v]"},
	{"duplicates are not looked for", "queue.go", "if q.taken[v] != 0 {", "if q.taken[v] < 0 {"},
	{"the heap rises the wrong way", "queue.go", "s[up].at <= s[i].at", "s[up].at >= s[i].at"},
	{"the heap sinks the wrong way", "queue.go", "s[down+1].at < s[down].at", "s[down+1].at > s[down].at"},
	{"witness: dequeues that came in time are left out", "queue.go", "q.ops[i].Call > took.Return", "q.ops[i].Call >= took.Return"},
	{"witness: those before are left out", "queue.go", "slices.Concat(proof, lost[:together]", "slices.Concat(proof, lost[max(together-1, 0):together]"},
	{"witness: the cover has a gap", "queue.go", "stays[i].from < covered", "stays[i].from <= covered"},
	{"one value may stand twice", "log.go", "case ops[l.shown[v]-1].Offset != o.Offset:", "case ops[l.shown[v]-1].Offset > o.Offset+1<<40:"},
	{"two values may share an offset", "log.go", "if *at != 0 {", "if *at < 0 {"},
	{"a full log has a hole", "log.go", "if len(holes) > len(l.unseen) {", "if len(holes) >= len(l.unseen) && len(holes) > 0 {"},
	{"records need one append more", "log.go", "if l.length > int64(l.count) {", "if l.length >= int64(l.count) && l.count > 0 {"},
	{"an end is one further", "log.go", "return offset, offset - 1, offset }", "return offset, offset, offset }"},
	{"an end forbids one less", "log.go", "return offset, offset - 1, offset }", "return offset, offset - 1, offset + 1 }"},
	{"log: equal times precede", "log.go", "if latest > p[i].until {", "if latest >= p[i].until {"},
	{"the earliest call counts", "log.go", "p[position].from = max(p[position].from, t)", "p[position].from = t"},
	{"the last return counts", "log.go", "p[position].until = min(p[position].until, t)", "p[position].until = t"},
	{"one append fills every hole", "log.go", "visit(int(l.unseen[k]), p, true, l.ops[l.unseen[k]].Call)", "visit(int(l.unseen[0]), p+0*int64(k), true, l.ops[l.unseen[0]].Call)"},
	{"gaps: an end forbids itself", "log.go", "int64(before[s]), int64(before[s]) + 1", "int64(before[s]), int64(before[s])"},
	{"gaps: an end is not a position", "log.go", "before[slots.of(o.Offset)+1] = 1", "before[slots.of(o.Offset)+1] = 0"},
	{"log: phantoms are not looked for", "log.go", "case l.appends[v] == 0:", "case l.appends[v] < 0:"},
	{"register: equal times precede", "register.go", "case o.Return < ops[w].Call:", "case o.Return <= ops[w].Call:"},
	{"register: fresh is not looked at", "register.go", "case o.Return < ops[w].Call:", "case false:"},
	{"whiles that touch overlap", "register.go", "b.returned(ops) < a.called(ops)", "b.returned(ops) <= a.called(ops)"},
	{"a moment at the edge is inside", "register.go", "c.returned(ops) < clusters[whiles[i-1]].called(ops)", "c.returned(ops) <= clusters[whiles[i-1]].called(ops)"},
	{"moments are not looked at", "register.go", "if i > 0 && c.returned", "if i < 0 && c.returned"},
	{"the first value comes late", "register.go", "c.first = before", "_ = before"},
	{"the earliest call ends a while", "register.go", "if c.latest == nobody || o.Call > ops[c.latest].Call {", "if c.latest == nobody {"},
	{"reads do not begin a while", "register.go", "if o.Return < c.returned(ops) {", "if o.Return < c.returned(ops) && o.Kind == Write {"},
	{"stream: calls come behind returns", "stream.go", "return cmp.Compare(min(a.Stage, Returned), min(b.Stage, Returned))", "return cmp.Compare(min(b.Stage, Returned), min(a.Stage, Returned))"},
	{"stream: order is not looked at", "sweep.go", "if begun.newest.call > at.ret {", "if begun.newest.call > at.ret && false {"},
	{"stream: order: equal times precede", "sweep.go", "if begun.newest.call > at.ret {", "if begun.newest.call >= at.ret {"},
	{"stream: order goes by what is known at the return", "sweep.go", "if begun.newest.call > at.ret {", "if s.newest.call > at.ret {"},
	{"stream: what was lost is not in order", "sweep.go", "if newest.call > l.ret {", "if newest.call > l.ret && false {"},
	{"stream: a later dequeue empties", "sweep.go", "if p.at < until {", "if p.at < from {"},
	{"stream: taken at its call, it is still in", "sweep.go", "if p.at < until {", "if p.at <= until {"},
	{"stream: a probe at the end of an enqueue has it", "sweep.go", "s.probes[first-1].at > from {", "s.probes[first-1].at >= from {"},
	{"stream: a gap serves all", "sweep.go", "if s.gaps[i] < e.from {", "if s.gaps[i] < 0 {"},
	{"stream: gaps are forgotten", "sweep.go", "s.gap = max(s.gap, s.gaps[len(s.gaps)-1])", "s.gap = max(s.gap, math.MinInt64)"},
	{"stream: what was lost covers nothing", "sweep.go", "return i == len(covered) || covered[i].from >= t", "return i >= 0"},
	{"stream: the cover is closed", "sweep.go", "return i == len(covered) || covered[i].from >= t", "return i == len(covered) || covered[i].from > t"},
	{"stream: a second pass forgets what was lost", "sweep.go", "case len(s.covered) > 0 && s.covered[0].from < t:", "case len(s.covered) < 0:"},
	{"stream: covers that touch are one", "sweep.go", "n > 0 && l.ret < s.covered[n-1].until", "n > 0 && l.ret <= s.covered[n-1].until"},
	{"stream: a failed enqueue stays", "sweep.go", "s.values.forget(m.Value)&dequeued != 0", "s.values.enqueue(m.Value)&dequeued != 0"},
}

// TestBugs seeds one bug after another into the procedures: TestAgainstPorcupine, or
// TestStreamAgainstExact, must fail with each. It builds the package once for each, so
// it runs only on request: FAULTLINE_CHECKER_BUGS=1.
func TestBugs(t *testing.T) {
	if os.Getenv(seeded.Switch) == "" {
		t.Skip("seeds bugs into the source, one build each: make test-checkers")
	}
	finds := map[string]string{
		"queue.go": "TestAgainstPorcupine/queue", "log.go": "TestAgainstPorcupine/log", "register.go": "TestAgainstPorcupine/register",
		"stream.go": "TestStreamAgainstExact", "sweep.go": "TestStreamAgainstExact",
	}
	for _, bug := range bugs {
		t.Run(bug.name, func(t *testing.T) {
			t.Parallel()
			err := seeded.Find(t.Context(), t.TempDir(), seeded.Bug{Name: bug.name, File: bug.file, Old: bug.old, With: bug.with, Run: finds[bug.file]},
				regexp.MustCompile(`seed \d+: .* by the exact procedure|seed \d+: the witness|seed \d+, queue|panic: `))
			require.NoError(t, err)
		})
	}
}
