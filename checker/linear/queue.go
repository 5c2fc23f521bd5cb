package linear

import (
	"cmp"
	"fmt"
	"math"
	"slices"
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
// a heap, so that ends come in order too. It needs 5 bytes for every number that a value may have.
func decideQueue(ops []Op) Result {
	q := readQueue{ops: ops}
	if r := q.read(); r.Verdict != "" {
		return r
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
		if d := q.dequeue(int(i)); d >= 0 {
			until = ops[d].Call
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
				return q.falseEmpty(emptyOf)
			}
		}
		switch {
		case o.Kind == Empty && o.Call < end:
			if o.Return < end {
				return q.falseEmpty(i)
			}
			if o.Return < soonest {
				soonest, emptyOf = o.Return, i
			}
		case o.Kind == Enqueue:
			if d := q.dequeue(i); d >= 0 {
				took := &ops[d]
				if took.Return < o.Call {
					return illegal("fresh", []int{i, d}, "%s returned before %s was called", describe(took), describe(o))
				}
				if took.Return < latest {
					return q.outOfOrder(latestOf, i, d)
				}
			}
			if !o.open() {
				running.push(o.Return, int32(i))
			}
		}
	}
	for len(running) > 0 {
		if !over(running.pop()) {
			return q.falseEmpty(emptyOf)
		}
	}
	return Result{Verdict: Legal}
}

// readQueue is what a history of a queue says of its values.
type readQueue struct {
	ops    []Op
	values indexed
	taken  []int32 // by value: the index of its dequeue + 1
}

// read finds the dequeue of every value: one each. A Result without a verdict is none.
func (q *readQueue) read() Result {
	ops := q.ops
	q.values = index(ops, func(o *Op) bool { return o.Kind == Enqueue || o.Kind == Dequeue && !o.open() })
	enqueued := make([]bool, q.values.n)
	q.taken = make([]int32, q.values.n)
	again := -1 // a second dequeue of a value
	for i := range ops {
		o := &ops[i]
		switch {
		case o.Kind == Enqueue:
			v := q.values.of(o.Value)
			if enqueued[v] {
				return enqueuedTwice(o.Value)
			}
			enqueued[v] = true
		case o.Kind == Dequeue && !o.open():
			v := q.values.of(o.Value)
			if q.taken[v] != 0 {
				again = i
				continue
			}
			q.taken[v] = int32(i) + 1
		}
	}
	if again >= 0 {
		value := ops[again].Value
		proof := []int{q.dequeue(again), again}
		if e := slices.IndexFunc(ops, func(f Op) bool { return f.Kind == Enqueue && f.Value == value }); e >= 0 {
			proof = append(proof, e)
		}
		return illegal("duplicate", proof, "value %d was dequeued twice, and enqueued once at most", value)
	}
	for v, d := range q.taken {
		if d != 0 && !enqueued[v] {
			return illegal("phantom", []int{int(d) - 1}, "%s, and nobody enqueued %d", describe(&ops[d-1]), ops[d-1].Value)
		}
	}
	return Result{}
}

func enqueuedTwice(value uint64) Result {
	return unknown("value %d was enqueued twice, so a dequeue of it is ambiguous", value)
}

// dequeue is the index of the answered dequeue of an operation's value, -1 where there is none.
func (q *readQueue) dequeue(of int) int { return int(q.taken[q.values.of(q.ops[of].Value)]) - 1 }

// open are the unanswered dequeues, by their calls.
func (q *readQueue) open() []int {
	var all []int
	for i := range q.ops {
		if o := &q.ops[i]; o.Kind == Dequeue && o.open() {
			all = append(all, i)
		}
	}
	return all
}

// lost are the finished enqueues whose values nobody saw again, by their ends.
func (q *readQueue) lost() []int {
	var all []int
	for i := range q.ops {
		if o := &q.ops[i]; o.Kind == Enqueue && !o.open() && q.dequeue(i) < 0 {
			all = append(all, i)
		}
	}
	slices.SortStableFunc(all, func(a, b int) int { return cmp.Compare(q.ops[a].Return, q.ops[b].Return) })
	return all
}

// outOfOrder is the witness that b was dequeued before a, which was there first.
// Where a was never seen again it is one of several, of which unanswered dequeues
// that were called in time may have taken all but one: they prove it together.
func (q *readQueue) outOfOrder(enqueueA, enqueueB, dequeueB int) Result {
	a, b, took := &q.ops[enqueueA], &q.ops[enqueueB], &q.ops[dequeueB]
	if d := q.dequeue(enqueueA); d >= 0 {
		return illegal("order", []int{enqueueA, enqueueB, dequeueB, d}, "%s returned before %s was called, yet %s finished before %s began",
			describe(took), describe(&q.ops[d]), describe(a), describe(b))
	}
	inTime := slices.DeleteFunc(q.open(), func(i int) bool { return q.ops[i].Call > took.Return })
	lost := q.lost()[:len(inTime)+1]
	text := fmt.Sprintf("%s returned, yet %s finished before %s began, and %d was never dequeued", describe(took), describe(a), describe(b), a.Value)
	if len(inTime) > 0 {
		text = fmt.Sprintf("%s returned, yet %d values whose enqueues finished before %s began were never dequeued, and only %d unanswered dequeues may have taken one by then",
			describe(took), len(lost), describe(b), len(inTime))
	}
	return illegal("order", slices.Concat([]int{enqueueB, dequeueB}, lost, inTime), "%s", text)
}

// falseEmpty is the witness that a queue was never empty during a dequeue that found
// nothing: values one of which was certainly in at each moment. It repeats the
// sweep's intervals and takes as few of them as cover the dequeue.
func (q *readQueue) falseEmpty(empty int) Result {
	type stay struct {
		from, until int64
		enqueue     int
		lost        int // its place among those that nobody saw again, from 1 on; 0: it was dequeued
	}
	var stays []stay
	for i := range q.ops {
		if o := &q.ops[i]; o.Kind == Enqueue && !o.open() {
			if d := q.dequeue(i); d >= 0 {
				stays = append(stays, stay{from: o.Return, until: q.ops[d].Call, enqueue: i})
			}
		}
	}
	// The k-th of those that nobody saw again stays until the k-th unanswered dequeue.
	// That proves something only together with those before it.
	open, lost := q.open(), q.lost()
	for k, i := range lost {
		s := stay{q.ops[i].Return, Never, i, k + 1}
		if k < len(open) {
			s.until = q.ops[open[k]].Call
		}
		stays = append(stays, s)
	}
	slices.SortStableFunc(stays, func(a, b stay) int { return cmp.Compare(a.from, b.from) })
	e := &q.ops[empty]
	proof, values, together := []int{empty}, 0, 0
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
		if s := &stays[best]; s.lost > 0 {
			together = max(together, s.lost)
		} else {
			proof = append(proof, s.enqueue, q.dequeue(s.enqueue))
		}
		covered = stays[best].until
	}
	proof = slices.Concat(proof, lost[:together], open[:min(together, len(open))])
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
