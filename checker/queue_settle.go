package checker

import (
	"context"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// checkConsumedOnce: a message is consumed once. Where a delivery consumes, it is
// delivered once; elsewhere two of its deliveries were accepted, and both confirmed.
func checkConsumedOnce(_ context.Context, v *view, c *Check) {
	mode := v.h.Header.Contract.Delivery
	c.Promised = mode == atMostOnce || mode == exactlyOnce
	v.eachMessage(func(q *queueView, m *message) {
		var ops []*history.Op
		how := "delivered"
		if mode == atMostOnce {
			for _, t := range m.takes {
				ops = append(ops, t.op)
			}
			if len(ops) == 1 && m.drained != history.NoOffset && q.quiet() {
				c.add(v.consumed(q, m, ops, fmt.Sprintf("was delivered at %s, and by the drain again", at(ops[0].Return))))
				return
			}
		} else {
			how = "accepted"
			for _, s := range m.settled {
				if s.Kind == history.Accept && s.Outcome == history.OK && s.Of != history.NoOp &&
					!slices.ContainsFunc(ops, func(o *history.Op) bool { return o.Of == s.Of }) {
					ops = append(ops, s)
				}
			}
		}
		if len(ops) > 1 {
			c.add(v.consumed(q, m, ops, fmt.Sprintf("was %s %d times, first at %s and then at %s", how, len(ops), at(ops[0].Return), at(ops[1].Return))))
		}
	})
	v.needQueueDrain(c)
	c.Detail = fmt.Sprintf("%s consumed more than once", count(c.Count, "message"))
}

func (v *view) consumed(q *queueView, m *message, ops []*history.Op, what string) Anomaly {
	a := v.spot(q, m, ClassDuplicate, ops[len(ops)-1].Return, ops...)
	a.Text = fmt.Sprintf("broke consumed-once - a message of a queue is consumed once: %s, sent to %s once, %s", msgName(m.send.Value), q.name, what)
	return a
}

// checkSettled: what was accepted or rejected, and confirmed, is not delivered again:
// by no receive that began after that, nor by the drain.
func checkSettled(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.Settled
	v.eachMessage(func(q *queueView, m *message) {
		s := m.confirmed(history.Accept, history.Reject)
		if s == nil {
			return
		}
		i := slices.IndexFunc(m.takes, func(t take) bool { return t.op.Call > s.Return })
		var a Anomaly
		var where string
		switch {
		case i >= 0:
			op := m.takes[i].op
			a = v.spot(q, m, ClassAfterSettlement, op.Return, s, op)
			where = fmt.Sprintf("delivered again to %s at %s", v.producer(op), at(op.Return))
		case m.drained != history.NoOffset && q.quiet():
			a = v.spot(q, m, ClassAfterSettlement, s.Return, s)
			where = "in the drain"
		default:
			return
		}
		a.Text = fmt.Sprintf("broke settled-stay-settled - what was accepted or rejected, and confirmed, is not delivered again: the %s of %s from %s was confirmed at %s, and it was %s",
			s.Kind, msgName(m.send.Value), q.name, at(s.Return), where)
		c.add(a)
	})
	v.needQueueDrain(c)
	c.Detail = fmt.Sprintf("%s delivered after a confirmed settlement", count(c.Count, "message"))
}

// checkRedelivers: what a consumer held when it left, and its leaving was confirmed,
// comes out again: at another consumer, or in the drain. It did not where it is
// absent from a drain that is complete, and where the system still counts messages
// as delivered to somebody when nobody is left.
func checkRedelivers(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.Redelivers
	left := v.leaves()
	limit := v.h.Header.Contract.MaxDeliveries
	v.eachMessage(func(q *queueView, m *message) {
		if v.h.Header.Contract.Delivery == atMostOnce || len(m.takes) == 0 || m.drained != history.NoOffset || m.diedAt() ||
			m.may(history.Accept) || m.may(history.Reject) ||
			limit > 0 && (len(m.takes) >= limit || q.deliveries(m) >= limit && !v.keepsDead(q)) {
			return
		}
		// The last delivery of all: none may have come after it.
		last := m.takes[len(m.takes)-1].op
		for _, t := range m.takes {
			if t.op.Return > last.Return {
				last = t.op
			}
		}
		leave := firstAfter(left[last.Client], last.Return)
		if last.Outcome != history.OK || leave == nil || q.drain == nil || q.drain.Missing || !q.complete && q.stuck == 0 || q.dead != nil && !q.dead.complete {
			return
		}
		how := "is in no receive after that, nor in the drain"
		if q.stuck > 0 {
			how = fmt.Sprintf("is in no receive after that, nor in the drain: the system still counts %s as delivered and not settled", count(int(q.stuck), "message"))
		}
		a := v.spot(q, m, ClassNeverRedelivered, leave.Return, last, leave)
		a.Text = fmt.Sprintf("broke redelivers - what a consumer had not settled when it left is delivered again: %s was delivered to %s at %s and never settled, the consumer left %s at %s, and the message %s",
			msgName(m.send.Value), v.producer(last), at(last.Return), q.name, at(leave.Return), how)
		c.add(a)
	})
	v.needQueueDrain(c)
	c.Detail = fmt.Sprintf("%s held by a consumer that left, and never delivered again", count(c.Count, "message"))
}

// leaves returns the confirmed leaves of every client, in order of ID.
func (v *view) leaves() map[int32][]*history.Op {
	all := map[int32][]*history.Op{}
	for i := range v.h.Ops {
		if op := &v.h.Ops[i]; op.Kind == history.Leave && op.Outcome == history.OK {
			all[op.Client] = append(all[op.Client], op)
		}
	}
	return all
}

// firstAfter returns the first of some operations that was called at t or later.
func firstAfter(ops []*history.Op, t int64) *history.Op {
	if i := slices.IndexFunc(ops, func(op *history.Op) bool { return op.Call >= t }); i >= 0 {
		return ops[i]
	}
	return nil
}

// checkExclusive: while the lock of a delivery holds, nobody is given the message.
func checkExclusive(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.Exclusive
	ends := v.sessions()
	v.eachMessage(func(q *queueView, m *message) {
		for i, first := range m.takes {
			until, why := v.held(m, first, ends)
			for _, second := range m.takes[i+1:] {
				if second.op.Call >= until {
					break
				}
				// Called one after the other, or at once: then each must have come while
				// the other held it.
				if second.op.Client == first.op.Client || second.op.Return >= until {
					continue
				}
				if second.op.Call <= first.op.Return {
					if other, _ := v.held(m, second, ends); first.op.Return >= other {
						continue
					}
				}
				a := v.spot(q, m, ClassWhileHeld, second.op.Return, first.op, second.op)
				a.Text = fmt.Sprintf("broke exclusive-deliveries - a message is given to nobody else while its lock holds: %s of %s was delivered to %s at %s, which held it %s, and to %s at %s",
					msgName(m.send.Value), q.name, v.producer(first.op), at(first.op.Return), why, v.producer(second.op), at(second.op.Return))
				c.add(a)
				return
			}
		}
	})
	v.needQueueDrain(c)
	c.Detail = fmt.Sprintf("%s delivered while somebody held %s", count(c.Count, "message"), themOrIt(c.Count))
}

// sessions returns by index of a receive when its client's session may have ended
// after it, at the earliest: the next call of that client that was not ok, or its
// leave.
func (v *view) sessions() []int64 {
	ends := make([]int64, len(v.h.Ops))
	next := make([]int64, len(v.h.Header.Clients))
	for i := range next {
		next[i] = history.Infinity
	}
	for i, op := range slices.Backward(v.h.Ops) {
		if op.Outcome != history.OK || op.Kind == history.Leave {
			next[op.Client] = op.Call
		}
		ends[i] = next[op.Client]
	}
	return ends
}

// held returns until when the delivery t of m certainly held it, if it came at its
// call, and what says so. A lock for some time holds until a settlement may have ended
// it, or the session of its client may have; one without a time is certain only
// where a later settlement of the same delivery was confirmed.
func (v *view) held(m *message, t take, ends []int64) (until int64, why string) {
	var settled *history.Op
	for _, s := range m.settled {
		if (s.Of == t.op.ID || s.Of == history.NoOp) && s.Outcome != history.Failed && (settled == nil || s.Call < settled.Call) {
			settled = s
		}
	}
	if t.op.Lock == 0 {
		if settled == nil || settled.Of != t.op.ID || settled.Outcome != history.OK {
			return t.op.Call, ""
		}
		return settled.Call, fmt.Sprintf("until it settled it from %s on, which was confirmed,", at(settled.Call))
	}
	until = min(later(t.op.Call, t.op.Lock), ends[v.indexOf(t.op)])
	if settled != nil {
		until = min(until, settled.Call)
	}
	return until, fmt.Sprintf("until %s at least", at(until))
}

// indexOf returns the index of an operation of the history.
func (v *view) indexOf(op *history.Op) int {
	i, _ := slices.BinarySearchFunc(v.h.Ops, op.ID, func(o history.Op, id int64) int { return int(o.ID - id) })
	return i
}

// checkMaxDeliveries: a message is delivered only so often, the drain's delivery
// included where there are no dead letters to judge that.
func checkMaxDeliveries(_ context.Context, v *view, c *Check) {
	ct := v.h.Header.Contract
	limit := ct.MaxDeliveries
	c.Promised = limit > 0
	if !c.Promised {
		c.Detail = "not checked: the configuration has no limit of deliveries"
		return
	}
	v.eachMessage(func(q *queueView, m *message) {
		n, said := len(m.takes), 0
		ops := make([]*history.Op, 0, n)
		for _, t := range m.takes {
			ops = append(ops, t.op)
			said = max(said, int(t.times))
		}
		if m.drained != history.NoOffset && (!ct.DeadLetters || q.dead == nil) {
			n++
			said = max(said, int(m.times))
		}
		if n <= limit && said <= limit {
			return
		}
		when := q.drainAt()
		if len(ops) > 0 {
			when = ops[len(ops)-1].Return
		}
		a := v.spot(q, m, ClassTooManyTimes, when, ops...)
		a.Text = fmt.Sprintf("broke delivery-limit - a message is delivered only so often: %s of %s was delivered %s, and %d is the limit", msgName(m.send.Value), q.name, count(max(n, said), "time"), limit)
		c.add(a)
	})
	v.needQueueDrain(c)
	c.Detail = fmt.Sprintf("%s delivered more than %s", count(c.Count, "message"), count(limit, "time"))
}

// checkDeadLetters: what was rejected, or delivered as often as the limit allows and
// not accepted, is among the dead letters; what was neither is not.
func checkDeadLetters(_ context.Context, v *view, c *Check) {
	ct := v.h.Header.Contract
	c.Promised = ct.DeadLetters
	if !c.Promised {
		c.Detail = "not checked: the configuration promises nothing of dead letters"
		return
	}
	v.eachMessage(func(q *queueView, m *message) {
		if q.dead == nil {
			return
		}
		if m.diedAt() {
			v.diedEarly(c, q, m, ct.MaxDeliveries)
			return
		}
		if !q.complete || !q.dead.complete || m.may(history.Accept) {
			return
		}
		var why string
		reject := m.confirmed(history.Reject)
		ops := make([]*history.Op, 0, len(m.takes)+1)
		for _, t := range m.takes {
			ops = append(ops, t.op)
		}
		switch {
		case reject != nil:
			why = "its rejection was confirmed at " + at(reject.Return)
			ops = append(ops, reject)
		case ct.MaxDeliveries > 0 && len(m.takes) >= ct.MaxDeliveries:
			why = fmt.Sprintf("it was delivered %s and never accepted", count(len(m.takes), "time"))
		default:
			return
		}
		a := v.spot(q, m, ClassNotDeadLettered, ops[len(ops)-1].Return, ops...)
		a.Text = fmt.Sprintf("broke dead-letters - what is rejected or delivered too often goes to the dead letters: %s of %s is not in the drained %s, and %s", msgName(m.send.Value), q.name, q.dead.name, why)
		c.add(a)
	})
	v.needQueueDrain(c)
	c.Detail = fmt.Sprintf("%s missing from the dead letters, %s there too early", count(c.classes[ClassNotDeadLettered], "message"), count(c.classes[ClassDeadTooEarly], "message"))
}

// diedEarly judges a message that is among the dead letters.
func (v *view) diedEarly(c *Check, q *queueView, m *message, limit int) {
	if m.may(history.Reject) || limit > 0 && q.deliveries(m) >= limit {
		return
	}
	var ops []*history.Op
	for _, t := range slices.Concat(m.takes, m.dead) {
		ops = append(ops, t.op)
	}
	a := v.spot(q, m, ClassDeadTooEarly, q.dead.drainAt(), ops...)
	if len(m.dead) > 0 {
		a.At = m.dead[0].op.Return
	}
	a.Text = fmt.Sprintf("broke dead-letters - only what is rejected or delivered too often goes to the dead letters: %s of %s is in %s, was delivered %s, and nobody rejected it",
		msgName(m.send.Value), q.name, q.dead.name, count(len(m.takes), "time"))
	c.add(a)
}
