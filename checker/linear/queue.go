package linear

import (
	"fmt"
	"math"
	"slices"
	"sort"
)

// decideQueue decides a FIFO queue. docs/checking.md gives the argument.
//
//   - An unanswered enqueue whose value was dequeued has no end; any other is left out.
//   - Values that were enqueued and never seen again, by the ends of their enqueues,
//     are taken by the unanswered dequeues, by their calls; what is left over of the
//     values stays in for ever, what is left over of the dequeues took nothing.
//   - No dequeue returns before its value's enqueue was called.
//   - No a and b exist with enqueue(a) before enqueue(b) and dequeue(b) before dequeue(a).
//   - No empty dequeue lies strictly inside of one component of the union of the open
//     intervals from the end of a value's enqueue to the call of its dequeue.
//
// One sweep in the order of calls does; what was called and has not returned is in
// a heap, so that ends come in order too. It needs 2 to 4 bytes per operation.
func decideQueue(ops []Op) Result {
	x := index(ops, func(o *Op) bool { return o.Kind == Enqueue || o.Kind == Dequeue && !o.open() })
	enqueued, taken := make([]bool, x.n), make([]int32, x.n) // taken: the dequeue's index + 1
	again := -1                                              // a second dequeue of a value
	for i := range ops {
		o := &ops[i]
		switch {
		case o.Kind == Enqueue:
			v := x.of(o.Value)
			if enqueued[v] {
				return unknown("value %d was enqueued twice, so a dequeue of it is ambiguous", o.Value)
			}
			enqueued[v] = true
		case o.Kind == Dequeue && !o.open():
			v := x.of(o.Value)
			if taken[v] != 0 {
				again = i
				continue
			}
			taken[v] = int32(i) + 1
		}
	}
	if again >= 0 {
		value := ops[again].Value
		proof := []int{int(taken[x.of(value)]) - 1, again}
		if e := slices.IndexFunc(ops, func(f Op) bool { return f.Kind == Enqueue && f.Value == value }); e >= 0 {
			proof = append(proof, e)
		}
		return illegal("duplicate", proof, "value %d was dequeued twice, and enqueued once at most", value)
	}
	for v, d := range taken {
		if d != 0 && !enqueued[v] {
			return illegal("phantom", []int{int(d) - 1}, "%s, and nobody enqueued %d", describe(&ops[d-1]), ops[d-1].Value)
		}
	}

	var (
		running  = returns{}
		latest   = int64(math.MinInt64) // the latest call of a dequeue of what was in by now
		latestOf = -1                   // its enqueue
		end      = int64(math.MinInt64) // of the component that is being built
		soonest  = int64(Never)         // the earliest return of an empty dequeue that began in it
		emptyOf  = -1
		next     = 0 // unanswered dequeues before it are given away
	)
	// over takes the value of an enqueue that has returned as certainly in the queue.
	over := func(i int32) bool {
		o, until := &ops[i], int64(Never)
		if d := taken[x.of(o.Value)]; d != 0 {
			until = ops[d-1].Call
		} else {
			for next < len(ops) && !(ops[next].Kind == Dequeue && ops[next].open()) {
				next++
			}
			if next < len(ops) {
				until = ops[next].Call
				next++
			}
		}
		if until > latest {
			latest, latestOf = until, int(i)
		}
		if o.Return < until {
			if o.Return >= end {
				end, soonest, emptyOf = until, Never, -1
			}
			end = max(end, until)
		}
		return soonest >= end
	}
	for i := range ops {
		o := &ops[i]
		for len(running) > 0 && running[0].at < o.Call {
			if !over(running.pop()) {
				return falseEmpty(ops, emptyOf)
			}
		}
		switch {
		case o.Kind == Empty && o.Call < end:
			if o.Return < end {
				return falseEmpty(ops, i)
			}
			if o.Return < soonest {
				soonest, emptyOf = o.Return, i
			}
		case o.Kind == Enqueue:
			if d := taken[x.of(o.Value)]; d != 0 {
				took := &ops[d-1]
				if took.Return < o.Call {
					return illegal("fresh", []int{i, int(d) - 1}, "%s returned before %s was called", describe(took), describe(o))
				}
				if took.Return < latest {
					return outOfOrder(ops, latestOf, i, int(d)-1)
				}
			}
			if !o.open() {
				running.push(o.Return, int32(i))
			}
		}
	}
	for len(running) > 0 {
		if !over(running.pop()) {
			return falseEmpty(ops, emptyOf)
		}
	}
	return Result{Verdict: Legal}
}

func dequeueOf(ops []Op, value uint64) int {
	return slices.IndexFunc(ops, func(o Op) bool { return o.Kind == Dequeue && !o.open() && o.Value == value })
}

// outOfOrder is the witness that b was dequeued before a, which was there first.
// Where a was never seen again it may be one of several, and unanswered dequeues
// that were called in time may have taken as many: all of these prove it together.
func outOfOrder(ops []Op, enqueueA, enqueueB, dequeueB int) Result {
	a, b, took := &ops[enqueueA], &ops[enqueueB], &ops[dequeueB]
	proof := []int{enqueueA, enqueueB, dequeueB}
	if d := dequeueOf(ops, a.Value); d >= 0 {
		return illegal("order", append(proof, d), "%s returned before %s was called, yet %s finished before %s began",
			describe(took), describe(&ops[d]), describe(a), describe(b))
	}
	var open []int
	for i := range ops {
		if o := &ops[i]; o.Kind == Dequeue && o.open() && o.Call <= took.Return {
			open = append(open, i)
		}
	}
	lost := neverTaken(ops, b.Call)
	lost = lost[:min(len(lost), len(open)+1)]
	text := fmt.Sprintf("%s returned, yet %s finished before %s began, and %d was never dequeued", describe(took), describe(a), describe(b), a.Value)
	if len(open) > 0 {
		text = fmt.Sprintf("%s returned, yet %d values whose enqueues finished before %s began were never dequeued, and only %d unanswered dequeues may have taken one by then",
			describe(took), len(lost), describe(b), len(open))
	}
	return illegal("order", slices.Concat([]int{enqueueB, dequeueB}, lost, open), "%s", text)
}

// neverTaken are the enqueues that finished before some time and whose values
// nobody saw again.
func neverTaken(ops []Op, before int64) []int {
	seen := map[uint64]bool{}
	for i := range ops {
		if o := &ops[i]; o.Kind == Dequeue && !o.open() {
			seen[o.Value] = true
		}
	}
	var all []int
	for i := range ops {
		if o := &ops[i]; o.Kind == Enqueue && o.Return < before && !seen[o.Value] {
			all = append(all, i)
		}
	}
	return all
}

// falseEmpty is the witness that a queue was never empty during a dequeue that found
// nothing: values one of which was certainly in at each moment. It repeats the
// sweep's intervals and takes as few of them as cover the dequeue.
func falseEmpty(ops []Op, empty int) Result {
	type stay struct {
		from, until int64
		ops         []int
	}
	var (
		stays      []stay
		open, lost []int
	)
	dequeues := map[uint64]int{}
	for i := range ops {
		if o := &ops[i]; o.Kind == Dequeue && o.open() {
			open = append(open, i)
		} else if o.Kind == Dequeue {
			dequeues[o.Value] = i
		}
	}
	for i := range ops {
		o := &ops[i]
		if o.Kind != Enqueue || o.open() {
			continue
		}
		if d, ok := dequeues[o.Value]; ok {
			stays = append(stays, stay{o.Return, ops[d].Call, []int{i, d}})
		} else {
			lost = append(lost, i)
		}
	}
	// The k-th of those that nobody saw again stays until the k-th unanswered dequeue.
	// That proves something only together with those before it.
	sort.SliceStable(lost, func(i, j int) bool { return ops[lost[i]].Return < ops[lost[j]].Return })
	for k, i := range lost {
		s := stay{ops[i].Return, Never, slices.Concat(lost[:k+1], open[:min(k+1, len(open))])}
		if k < len(open) {
			s.until = ops[open[k]].Call
		}
		stays = append(stays, s)
	}
	slices.SortStableFunc(stays, func(a, b stay) int {
		switch {
		case a.from < b.from:
			return -1
		case a.from > b.from:
			return 1
		}
		return 0
	})
	e := &ops[empty]
	proof, values := []int{empty}, 0
	for covered, i := e.Call, 0; covered <= e.Return; values++ {
		best := -1
		// The first one is there before the call; the next ones before the last one goes.
		for ; i < len(stays) && stays[i].from < covered; i++ {
			if best < 0 || stays[i].until > stays[best].until {
				best = i
			}
		}
		if best < 0 || stays[best].until <= covered {
			return unknown("%s of %s at %d was not found again: report it together with the history", lostCover, describe(e), e.Call)
		}
		proof = append(proof, stays[best].ops...)
		covered = stays[best].until
	}
	return illegal("false-empty", proof, "dequeue-empty, called at %d, returned at %d, and at each moment between them one of %d values had been enqueued and was not dequeued yet", e.Call, e.Return, values)
}

// lostCover begins what is said where a sweep and its witness disagree: never, unless
// one of them is wrong.
const lostCover = "the cover"

// returns is a heap of operations by their returns, the earliest first.
type returns []running

type running struct {
	at int64
	op int32
}

func (h *returns) push(at int64, op int32) {
	*h = append(*h, running{at, op})
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if s[up].at <= s[i].at {
			return
		}
		s[up], s[i] = s[i], s[up]
		i = up
	}
}

func (h *returns) pop() int32 {
	s := *h
	op := s[0].op
	last := len(s) - 1
	s[0] = s[last]
	s = s[:last]
	*h = s
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			return op
		}
		if down+1 < last && s[down+1].at < s[down].at {
			down++
		}
		if s[i].at <= s[down].at {
			return op
		}
		s[i], s[down] = s[down], s[i]
		i = down
	}
}
