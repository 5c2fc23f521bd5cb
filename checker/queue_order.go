package checker

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/checker/linear"
)

// stay is a time in which a message was certainly in its queue, to be had by
// anybody: open at both ends.
type stay struct {
	from, until int64
	m           *message
	since       *history.Op // what put it there
	took        *history.Op // the delivery that may have ended it; nil: the drain
}

// stays lists when the messages of q were certainly there: from an acknowledgement
// until the first call that took it, and from a confirmed release until the next. What
// nobody was given later was perhaps not there at all.
func (v *view) stays(q *queueView) []stay {
	var all []stay
	for i := range q.messages {
		m := &q.messages[i]
		add := func(from int64, since *history.Op, takes []take) {
			s := stay{from: from, until: history.Infinity, m: m, since: since}
			if len(takes) > 0 {
				s.until, s.took = takes[0].op.Call, takes[0].op
			} else if m.drained == history.NoOffset || !q.quiet() {
				return
			}
			if s.from < s.until {
				all = append(all, s)
			}
		}
		from, ok := v.acknowledged(m)
		if ok {
			add(from, m.send, m.takes)
		}
		for _, r := range m.settled {
			if r.Kind != history.Release || r.Outcome != history.OK {
				continue
			}
			// Whatever did not certainly end before the release may have followed it.
			after := slices.DeleteFunc(slices.Clone(m.takes), func(t take) bool { return t.op.Return < r.Call })
			if len(after) < len(m.takes) {
				add(r.Return, r, after)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b stay) int { return cmp.Compare(a.from, b.from) })
	return all
}

// hidden are the times in which a receive of q without an answer may have held
// anything: until its client is known to have left, and for as long as its lock.
func (v *view) hidden(q *queueView, left map[int32][]*history.Op) []stay {
	var all []stay
	for _, i := range q.receives {
		op := &v.h.Ops[i]
		if op.Outcome != history.Indeterminate {
			continue
		}
		h := stay{from: op.Call, until: history.Infinity}
		ended := op.Return // or, where it never returned, any time after its call
		if ended == history.Infinity {
			ended = op.Call + 1
		}
		if leave := firstAfter(left[op.Client], ended); leave != nil {
			h.until = later(leave.Return, op.Lock)
		}
		all = append(all, h)
	}
	slices.SortStableFunc(all, func(a, b stay) int { return cmp.Compare(a.from, b.from) })
	return all
}

// checkTruthfulEmpty: a receive that was told that a queue is empty did not run while
// an acknowledged message was there from before its call until after its return. What
// a receive without an answer may have held at that time proves nothing, unless its
// client is known to have left before.
func checkTruthfulEmpty(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.TruthfulEmpty
	empties, unjudged := 0, 0
	left := v.leaves()
	for _, q := range v.queues {
		stays := v.stays(q)
		var found []*history.Op
		for _, i := range q.receives {
			if op := &v.h.Ops[i]; op.Outcome == history.OK && len(op.Records) == 0 {
				found = append(found, op)
			}
		}
		hidden := v.hidden(q, left)
		empties += len(found)
		slices.SortStableFunc(found, func(a, b *history.Op) int { return cmp.Compare(a.Call, b.Call) })
		n, best := 0, stay{}
		for _, op := range found {
			for ; n < len(stays) && stays[n].from < op.Call; n++ {
				if stays[n].until > best.until {
					best = stays[n]
				}
			}
			if best.m == nil || best.until <= op.Return {
				continue
			}
			if slices.ContainsFunc(hidden, func(h stay) bool { return h.from <= op.Return && h.until >= max(best.from, op.Call) }) {
				unjudged++
				continue
			}
			ops := []*history.Op{best.since, op}
			out := "the drain was given it"
			if best.took != nil {
				ops = append(ops, best.took)
				out = "the receive that was given it was called at " + at(best.took.Call)
			}
			a := v.spot(q, best.m, ClassFalseEmpty, op.Return, ops...)
			a.Text = fmt.Sprintf("broke truthful-empty - a queue says that it is empty only where it is: %s was in %s from %s on, %s, and a receive of %s between them (%s to %s)%s found nothing",
				msgName(best.m.send.Value), q.name, at(best.from), out, v.producer(op), at(op.Call), at(op.Return), by(v.node(op.Node)))
			c.add(a)
		}
	}
	v.needQueueDrain(c)
	c.Detail = fmt.Sprintf("%s of %s found a queue empty that was not", group(c.Count), count(empties, "empty receive"))
	if unjudged > 0 {
		c.Detail += fmt.Sprintf("; %s could not be judged: a receive without an answer may have held what was there", group(unjudged))
	}
}

// checkQueuesOrder: of two messages of one producer in one queue, the one
// acknowledged before the other was sent is delivered first. First deliveries count
// alone, and only those before anybody may hold what nobody recorded.
func checkQueuesOrder(_ context.Context, v *view, c *Check) {
	order := v.h.Header.Contract.Order
	c.Promised = order == "producer" || order == "partition"
	if !c.Promised {
		c.Detail = "not checked: the configuration keeps no order"
		return
	}
	unjudged := 0
	for _, q := range v.queues {
		byProducer := map[int32][]*message{}
		for i := range q.messages {
			m := &q.messages[i]
			if !acked(m.send) || m.send.Txn != 0 || len(m.takes) == 0 && (m.drained == history.NoOffset || !q.quiet()) || m.diedAt() {
				continue
			}
			if len(m.takes) > 0 && m.takes[0].op.Return >= q.doubt || len(m.takes) == 0 && q.doubt < history.Infinity {
				unjudged++
				continue
			}
			p := m.send.Value.Producer()
			byProducer[p] = append(byProducer[p], m)
		}
		for _, p := range sorted(byProducer) {
			v.overtaken(c, q, byProducer[p])
		}
	}
	v.needQueueDrain(c)
	c.Detail = fmt.Sprintf("%s before an earlier message of the same producer", count(c.Count, "message"))
	if unjudged > 0 {
		c.Detail += fmt.Sprintf("; %s could not be judged: somebody may have held what nobody recorded", group(unjudged))
	}
}

// out is when the first delivery of m began and had ended; the drain is the last one.
func (m *message) out() (call, ret int64) {
	if len(m.takes) == 0 {
		return history.Infinity, history.Infinity
	}
	return m.takes[0].op.Call, m.takes[0].op.Return
}

// overtaken sweeps the messages of one producer by the calls of their sends, with
// that one among those acknowledged before which came out last.
func (v *view) overtaken(c *Check, q *queueView, messages []*message) {
	byReturn := slices.Clone(messages)
	slices.SortStableFunc(byReturn, func(a, b *message) int { return cmp.Compare(a.send.Return, b.send.Return) })
	slices.SortStableFunc(messages, func(a, b *message) int { return cmp.Compare(a.send.Call, b.send.Call) })
	type batch struct{ op *history.Op }
	furthest := map[batch]*message{} // by receive: of those acknowledged before, the last one in it
	place := func(m *message) (batch, int64) {
		if len(m.takes) == 0 {
			return batch{}, m.drained
		}
		return batch{m.takes[0].op}, int64(m.takes[0].place)
	}
	n := 0
	var last *message
	for _, m := range messages {
		for ; n < len(byReturn) && byReturn[n].send.Return < m.send.Call; n++ {
			e := byReturn[n]
			call, _ := e.out()
			if last == nil || call > first(last.out()) {
				last = e
			}
			b, at := place(e)
			if other := furthest[b]; other == nil || at > second(place(other)) {
				furthest[b] = e
			}
		}
		_, ret := m.out()
		earlier := last
		if earlier == nil || first(earlier.out()) <= ret {
			b, at := place(m)
			if earlier = furthest[b]; earlier == nil || second(place(earlier)) < at {
				continue
			}
		}
		var ops []*history.Op
		when := q.drainAt()
		for _, x := range []*message{m, earlier} {
			ops = append(ops, x.send)
			if len(x.takes) > 0 {
				ops = append(ops, x.takes[0].op)
				when = min(when, x.takes[0].op.Return)
			}
		}
		a := v.spot(q, m, ClassReorder, when, ops...)
		a.Text = fmt.Sprintf("broke producer-order - a producer's messages come out in the order in which they were acknowledged: message %d of producer %d (acknowledged at %s) came out of %s after message %d (sent at %s)",
			earlier.send.Value.Seq(), earlier.send.Value.Producer(), at(earlier.send.Return), q.name, m.send.Value.Seq(), at(m.send.Call))
		c.add(a)
	}
}

func first[A, B any](a A, _ B) A  { return a }
func second[A, B any](_ A, b B) B { return b }

// checkFIFO: a queue is linearizable, by the exact procedure for queues. Unanswered
// sends are settled from the complete drain first. A queue from which messages are
// taken on trial (a settlement consumes them, and whoever loses them gives them back)
// is a FIFO queue only for those that came out once. The others are left out, and so
// are those that a receive without an answer may have taken, one or many: that
// convicts nobody, and leaves the question open where the rest is in order.
func checkFIFO(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.FIFO
	if !c.Promised {
		c.Detail = "not checked: the configuration does not promise it"
		return
	}
	ops, proven := 0, 0
	for _, q := range v.queues {
		l := v.linearQueue(q)
		if l.open != "" {
			c.undecided(fmt.Sprintf("queue %s: %s", q.name, l.open), l.remedy)
		}
		ops += len(l.ops)
		whole := make([]linear.Op, len(l.ops))
		for i := range l.ops {
			whole[i] = l.ops[i].Op
		}
		r, err := linear.Exact(linear.Queue, whole)
		switch {
		case err != nil:
			c.Verdict = HarnessError
			c.Detail, c.Remedy = fmt.Sprintf("queue %s could not be decided: %v", q.name, err), "report it together with the history"
			return
		case r.Verdict == linear.Illegal:
			c.add(v.notFIFO(q, l, r.Witness))
		case r.Verdict == linear.Unknown:
			c.undecided(fmt.Sprintf("queue %s: %s", q.name, r.Reason), "send every value once")
		case l.open == "":
			proven++
		}
	}
	c.Procedure = "exact queue procedure"
	c.Detail = fmt.Sprintf("%d of %s first in, first out, by %s", proven, count(len(v.queues), "queue"), count(ops, "operation"))
}

// linearQueue is a queue as the procedures take it.
type linearQueue struct {
	ops    []queued
	open   string // why legality would prove nothing
	remedy string
}

// queued is an operation as the procedures take it, and that of the history which it
// stands for.
type queued struct {
	linear.Op
	of *history.Op
}

// linearQueue resolves the operations on q. Its drain is a run of dequeues, one after
// the other, behind everything else.
func (v *view) linearQueue(q *queueView) linearQueue {
	var l linearQueue
	consumes := v.h.Header.Contract.Delivery == atMostOnce
	end := int64(0)
	for i := range v.h.Ops {
		end = max(end, v.h.Ops[i].Call)
		if r := v.h.Ops[i].Return; r != history.Infinity {
			end = max(end, r)
		}
	}
	add := func(op *history.Op, kind linear.Kind, call, ret int64, value history.Value) {
		l.ops = append(l.ops, queued{linear.Op{Kind: kind, Call: call, Return: ret, Value: uint64(value), Offset: linear.NoOffset}, op})
	}
	if !q.decisive {
		l.open, l.remedy = "its drain was not proven complete: "+q.why, drainRemedy
	}
	if !consumes && q.unseen > 0 {
		// What was held and given back may come out late, and nobody knows which.
		l.open, l.remedy = "a receive that was not answered, or a consumer that left, may have held a message and given it back", "judge it in a run whose consumers stay, or with automatic acceptance"
		return l
	}
	left := 0
	for i := range q.messages {
		m := &q.messages[i]
		if m.send.Outcome == history.Failed && !m.seen() {
			continue
		}
		n := len(m.takes)
		if m.drained != history.NoOffset {
			n++
		}
		if n > 1 || m.diedAt() || m.send.Txn != 0 || !consumes && m.may(history.Release) || m.send.Outcome == history.Failed {
			left++
			continue
		}
		if n == 0 && (q.unseen > 0 || m.may(history.Accept) || m.may(history.Reject)) {
			left++ // taken by whom nobody knows, or in what number
			continue
		}
		ret := m.send.Return
		switch {
		case m.send.Outcome == history.OK:
		case m.seen():
			ret = linear.Never
		default:
			continue // it is as if it had not been sent
		}
		if len(m.takes) == 0 && !q.decisive {
			continue // nobody knows whether it is still there, or since when not
		}
		add(m.send, linear.Enqueue, m.send.Call, ret, m.send.Value)
		switch {
		case len(m.takes) > 0:
			// What was decoded came before the end, answered or not.
			add(m.takes[0].op, linear.Dequeue, m.takes[0].op.Call, min(m.takes[0].op.Return, end), m.send.Value)
		case m.drained != history.NoOffset:
			t := end + 1 + 2*m.drained
			add(m.send, linear.Dequeue, t, t+1, m.send.Value)
		}
	}
	for _, i := range q.receives {
		op := &v.h.Ops[i]
		if op.Outcome == history.OK && len(op.Records) == 0 {
			add(op, linear.Empty, op.Call, op.Return, 0)
		}
	}
	if left > 0 && l.open == "" {
		l.open, l.remedy = fmt.Sprintf("%s left out, which came out more than once, went back, or were perhaps taken by a receive without an answer", count(left, "message")+" "+were(left)), "judge it in a run whose consumers settle what they are given"
	}
	slices.SortStableFunc(l.ops, func(a, b queued) int { return cmp.Compare(a.Call, b.Call) })
	return l
}

// notFIFO puts what the procedure says into the terms of the history.
func (v *view) notFIFO(q *queueView, l linearQueue, w *linear.Witness) Anomaly {
	a := Anomaly{Class: ClassNotFIFO, Key: q.name, Offset: history.NoOffset}
	for _, i := range w.Ops {
		op := l.ops[i].of
		a.Ops = append(a.Ops, op.ID)
		if op.Return != history.Infinity {
			a.At = max(a.At, op.Return)
		}
	}
	slices.Sort(a.Ops)
	a.Ops = slices.Compact(a.Ops)
	a.Fault = v.faultAt(a.At)
	a.Text = fmt.Sprintf("broke linearizable-queue - what goes into a queue first comes out first: in %s, %s", q.name, w.Text)
	return a
}
