package checker

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// fate is what became of an acknowledged message of a queue.
type fate int

const (
	safe   fate = iota // it came out, or went where it was sent by a settlement
	gone               // it is lost
	taken              // it is absent, and perhaps taken by a receive that was not answered
	unseen             // it is absent from a drain that proves nothing
)

// fate decides what became of m. What was delivered counts as consumed only where a
// delivery consumes (at-most-once) or its acceptance was sent: an acceptance that
// was sent may have arrived, answered or not.
func (v *view) fate(q *queueView, m *message) fate {
	consumes := v.h.Header.Contract.Delivery == atMostOnce
	limit := v.h.Header.Contract.MaxDeliveries
	switch {
	case m.drained != history.NoOffset || m.diedAt() || m.may(history.Accept) || m.may(history.Reject):
		return safe
	case consumes && len(m.takes) > 0:
		return safe
	case !q.decisive || q.dead != nil && !q.dead.decisive:
		return unseen
	case q.drain.Missing:
		return gone
	case consumes && q.unseen > 0:
		return taken
	case limit == 0 || v.keepsDead(q):
		return gone // what was delivered too often would be among the dead letters
	case len(m.takes) >= limit:
		return safe // given up, and kept by nobody
	case q.deliveries(m) >= limit:
		return taken
	}
	return gone
}

// keepsDead reports whether what q gives up is promised to be among its dead letters.
func (v *view) keepsDead(q *queueView) bool {
	return q.dead != nil && v.h.Header.Contract.DeadLetters
}

// checkQueuesSurvive: an acknowledged message is consumed, or is in the drain of its
// queue or of its dead letters.
func checkQueuesSurvive(_ context.Context, v *view, c *Check) {
	ct := v.h.Header.Contract
	c.Promised = ct.Acknowledged || ct.Expect != "declared"
	c.Procedure = orElse(c.Procedure, "drain of the queue, up to an acknowledged sentinel, with nothing left behind")
	total, late := 0, 0
	sums := map[fate]int{}
	for _, q := range v.queues {
		var acks []*message
		lost := map[*message]bool{}
		for i := range q.messages {
			m := &q.messages[i]
			if _, ok := v.acknowledged(m); !ok {
				continue
			}
			acks = append(acks, m)
			f := v.fate(q, m)
			sums[f]++
			if f == gone {
				lost[m] = true
			}
			if m.drained != history.NoOffset && len(m.takes) == 0 && q.late(m.send) {
				late++
			}
		}
		total += len(acks)
		v.addLostFrom(c, q, acks, lost)
	}
	v.needQueueDrain(c)
	if n := sums[taken]; n > 0 {
		c.undecided(fmt.Sprintf("%s absent, and receives that were not answered may have taken %s", count(n, "acknowledged message")+" "+were(n), themOrIt(n)),
			"let consumers settle what they are given, without a limit of deliveries, or run without faults on consumers")
	}
	c.Detail = fmt.Sprintf("lost %s of %s acknowledged messages", group(sums[gone]), group(total))
	for _, e := range []struct {
		class string
		n     int
		text  string
	}{
		{ClassUnseen, sums[unseen], "unseen: absent from a drain that proves nothing"},
		{ClassTaken, sums[taken], "absent, and perhaps taken by a receive that was not answered"},
		{ClassLate, late, "late: only seen by a later drain"},
	} {
		if e.n > 0 {
			c.Detail += fmt.Sprintf("; %s %s", group(e.n), e.text)
			c.note(e.class, e.n)
		}
	}
}

// addLostFrom adds the lost messages of q, with their place among its acknowledged
// ones and among those of their producer.
func (v *view) addLostFrom(c *Check, q *queueView, acks []*message, lost map[*message]bool) {
	if len(lost) == 0 {
		return
	}
	slices.SortStableFunc(acks, func(a, b *message) int { return cmp.Compare(a.send.Return, b.send.Return) })
	isGone, byProducer := map[int32]bool{}, map[int32][]int32{}
	inKey, inProducer := make([]int32, len(acks)), map[int32]string{}
	for i, m := range acks {
		inKey[i] = int32(i)
		isGone[int32(i)] = lost[m]
		p := m.send.Value.Producer()
		byProducer[p] = append(byProducer[p], int32(i))
	}
	for _, list := range byProducer {
		for i, place := range places(list, isGone) {
			inProducer[i] = place
		}
	}
	place := places(inKey, isGone)
	for i, m := range acks {
		if !lost[m] {
			continue
		}
		a := v.spot(q, m, ClassLost, m.send.Return)
		a.Place, a.PlaceIn = place[int32(i)], inProducer[int32(i)]
		a.Text = v.lostText(q, m, &a)
		c.add(a)
	}
}

func themOrIt(n int) string {
	if n == 1 {
		return "it"
	}
	return "them"
}

func (v *view) lostText(q *queueView, m *message, a *Anomaly) string {
	text := fmt.Sprintf("broke acknowledged-survive - an acknowledged message is never lost: %s was acknowledged by %s at %s%s, ", msgName(m.send.Value), q.name, at(a.At), by(a.Node))
	switch n := len(m.takes); {
	case q.drain.Missing:
		return text + "and is gone with its queue"
	case n > 0:
		last := m.takes[n-1].op
		a.LastSeen = last.Return
		a.Ops = append(a.Ops, last.ID)
		return text + fmt.Sprintf("was delivered to %s at %s and never accepted, and is not in the drained queue", v.producer(last), at(last.Return))
	}
	return text + "was never delivered, and is not in the drained queue"
}

// checkQueuesSent: nothing comes out of a queue that was not sent to it, or before it
// was.
func checkQueuesSent(_ context.Context, v *view, c *Check) {
	for _, q := range v.queues {
		known := map[sighting]bool{}
		for _, s := range q.strays {
			class, what := v.phantomOf(s.sighting)
			id := s.sighting
			if id.payload == history.Good {
				id.offset = 0
			}
			if known[id] {
				continue
			}
			known[id] = true
			a := Anomaly{Class: class, Key: q.name, Offset: history.NoOffset, At: q.drainAt()}
			if s.payload == history.Good {
				a = v.about(q.keyView, s.value, a)
			}
			where := "the drain of " + q.name
			if s.op >= 0 {
				op := &v.h.Ops[s.op]
				a.At, a.Node = op.Return, v.node(op.Node)
				a.Ops = append(a.Ops, op.ID)
				where = fmt.Sprintf("a receive of %s from %s, at %s,", v.producer(op), q.name, at(op.Return))
			}
			a.Fault = v.faultAt(a.At)
			a.Text = fmt.Sprintf("broke only-what-was-sent - nothing is delivered that was never sent: %s was given %s", where, what)
			c.add(a)
		}
	}
	v.eachMessage(func(q *queueView, m *message) {
		for _, t := range slices.Concat(m.takes, m.dead) {
			if t.op.Return >= m.send.Call {
				continue
			}
			a := v.spot(q, m, ClassPhantom, t.op.Return, t.op)
			a.Text = fmt.Sprintf("broke only-what-was-sent - nothing is delivered that was never sent: %s was given to %s at %s, and was sent to %s at %s only",
				msgName(m.send.Value), v.producer(t.op), at(t.op.Return), q.name, at(m.send.Call))
			c.add(a)
			return
		}
	})
	v.needQueueDrain(c)
	c.Detail = fmt.Sprintf("%s that %s never sent", count(c.Count, "delivered message"), were(c.Count))
}

// phantomOf classes a record that has no place in its queue.
func (v *view) phantomOf(s sighting) (class, what string) {
	switch s.payload {
	case history.OtherRun:
		return ClassPhantomRun, "a message of another run"
	case history.Altered:
		return ClassPhantomBytes, "a payload that does not match its checksum"
	}
	if i, ok := v.ids.find(s.value); ok {
		return ClassPhantom, msgName(s.value) + ", which was sent to " + v.all[v.h.Ops[i].Key].name
	}
	return ClassPhantom, msgName(s.value) + ", which was never sent"
}

// checkQueuesFailed: what failed for certain never comes out.
func checkQueuesFailed(_ context.Context, v *view, c *Check) {
	v.eachMessage(func(q *queueView, m *message) {
		if m.send.Outcome != history.Failed || !m.seen() {
			return
		}
		a := v.spot(q, m, ClassResurrected, m.send.Return)
		where := "is in the drain"
		if t := slices.Concat(m.takes, m.dead); len(t) > 0 {
			a = v.spot(q, m, ClassResurrected, m.send.Return, t[0].op)
			where = "was delivered at " + at(t[0].op.Return)
		}
		a.Text = fmt.Sprintf("broke failed-never-visible - what failed for certain does not happen: the send of %s to %s failed with %s, and it %s",
			msgName(m.send.Value), q.name, orElse(m.send.Code, "no code"), where)
		c.add(a)
	})
	v.needQueueDrain(c)
	c.Detail = fmt.Sprintf("%s visible although %s send failed for certain", count(c.Count, "message"), whose(c.Count))
}
