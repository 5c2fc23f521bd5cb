package checker

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// The modes of Contract.Delivery.
const (
	atMostOnce  = "at-most-once"
	exactlyOnce = "exactly-once"
)

// queueView is a key that is a queue.
type queueView struct {
	*keyView
	dead     *queueView // takes its dead letters; nil without one
	receives []int32    // indices into Ops, in order of ID
	messages []message  // those that were sent to it, in order of ID
	strays   []stray    // deliveries of what is neither its own nor its dead letters

	// doubt is the earliest moment from which somebody may hold what nobody
	// recorded: the call of a receive without an answer, or of a leave, before
	// which more may have been on its way than was decoded. unseen counts them.
	doubt  int64
	unseen int
	// stuck is how many messages the system counted as delivered and not settled,
	// beyond those of the drain, when no consumer was there any more.
	stuck int64
}

// message is one that was sent to a queue, once, and what became of it.
type message struct {
	send    *history.Op
	takes   []take // deliveries by its queue, by their calls
	dead    []take // deliveries by the dead letters' queue
	settled []*history.Op
	drained int64 // place in the drain of its queue, NoOffset where it is not
	buried  int64 // the same of the dead letters
	times   int32 // how often it was delivered, by the drain's own count; 0: unknown
}

// take is one delivery.
type take struct {
	op    *history.Op
	place int   // among the records of op
	times int32 // as the system counts
}

// stray is a record that has no place in a queue; op is -1 for one of the drain.
type stray struct {
	sighting
	op int32
}

// readHeader takes those keys out of the logs that are queues.
func (v *view) readHeader() error {
	queues := map[string]*queueView{}
	for _, q := range v.h.Header.Queues {
		k := v.byName[q.Key]
		switch {
		case k == nil:
			return fmt.Errorf("%w: queue %q is no key of the header", ErrMalformed, q.Key)
		case queues[q.Key] != nil:
			return fmt.Errorf("%w: queue %q stands twice in the header", ErrMalformed, q.Key)
		}
		queues[q.Key] = &queueView{keyView: k, doubt: history.Infinity}
		v.queues = append(v.queues, queues[q.Key])
	}
	for i, q := range v.h.Header.Queues {
		if q.DeadLetters == "" {
			continue
		}
		if v.queues[i].dead = queues[q.DeadLetters]; v.queues[i].dead == nil || q.DeadLetters == q.Key {
			return fmt.Errorf("%w: the dead letters of %q go to %q, which is no other queue of the header", ErrMalformed, q.Key, q.DeadLetters)
		}
	}
	for _, k := range v.all {
		if queues[k.name] == nil {
			v.keys = append(v.keys, k)
		}
	}
	return nil
}

// queue reports whether k is a queue.
func (v *view) queue(k *keyView) bool {
	return slices.ContainsFunc(v.queues, func(q *queueView) bool { return q.keyView == k })
}

func (v *view) takesDeadLetters(key string) bool {
	return slices.ContainsFunc(v.queues, func(q *queueView) bool { return q.dead != nil && q.dead.name == key })
}

// weigh decides what the drain of q proves: that a receive found nothing proves
// nothing. Its sentinel came out, nothing waits, and nothing is delivered and not
// settled but what the drain itself was given.
func (q *queueView) weigh() {
	k, d := q.keyView, q.drain
	for _, r := range k.replicas {
		if r.Leader || len(k.replicas) == 1 {
			k.leader = r
		}
	}
	if d != nil && d.Missing {
		k.decisive, k.complete, k.leader, k.replicas = true, true, nil, nil
		return
	}
	switch r := k.leader; {
	case d == nil:
		k.why = "it was not drained"
	case r == nil:
		k.why = orElse(d.Reason, "nothing was drained")
	case !r.readable:
		k.why = orElse(r.Reason, orElse(d.Reason, "it was not drained up to the sentinel"))
	case !d.Quiet:
		k.why = orElse(d.Reason, "workload connections were still open")
	case !d.InSync:
		k.why = orElse(d.Reason, "not all replicas were in sync")
	case r.Sentinel == history.NoOffset:
		k.why = "no sentinel was acknowledged"
	case !slices.ContainsFunc(r.log, func(rec history.Record) bool { return rec.Payload == history.Sentinel }):
		k.why = "the sentinel did not come out"
	case r.Ready != 0:
		k.why = fmt.Sprintf("%s still waited at its end", count(int(r.Ready), "message"))
	case r.Unacknowledged != int64(len(r.log)):
		q.stuck = max(0, r.Unacknowledged-int64(len(r.log)))
		k.why = fmt.Sprintf("%s delivered and not settled at its end, and the drain held %d", group(int(r.Unacknowledged))+" "+were(int(r.Unacknowledged)), len(r.log))
	case !d.Complete:
		k.why = orElse(d.Reason, "the harness could not prove it")
	default:
		k.decisive, k.complete = true, true
	}
}

// readQueues finds every message of every queue.
func (v *view) readQueues() {
	if len(v.queues) == 0 {
		return
	}
	byKey := make([]*queueView, len(v.all))
	at := make([]int32, len(v.h.Ops)) // by index of a send: its message + 1
	for _, q := range v.queues {
		byKey[q.index] = q
		q.messages = make([]message, 0, len(q.sends))
		for _, i := range q.sends {
			op := &v.h.Ops[i]
			if v.reused[op.Value] {
				continue
			}
			q.messages = append(q.messages, message{send: op, drained: history.NoOffset, buried: history.NoOffset})
			at[i] = int32(len(q.messages))
		}
	}
	of := func(value history.Value) (*queueView, *message) {
		if i, ok := v.ids.find(value); ok && at[i] != 0 {
			q := byKey[v.h.Ops[i].Key]
			return q, &q.messages[at[i]-1]
		}
		return nil, nil
	}
	for i := range v.h.Ops {
		op := &v.h.Ops[i]
		q := byKey[op.Key]
		switch {
		case op.Kind == history.Leave:
			if op.Outcome != history.Failed {
				for _, q := range v.queues {
					q.doubtful(op)
				}
			}
		case op.Kind.Settles():
			if _, m := of(op.Value); m != nil {
				m.settled = append(m.settled, op)
			}
		case op.Kind == history.Receive && q != nil:
			q.receives = append(q.receives, int32(i))
			if op.Outcome == history.Indeterminate {
				q.doubtful(op)
			}
			for j, rec := range op.Records {
				home, m := of(rec.Value)
				t := take{op, j, rec.Delivery}
				switch {
				case rec.Payload == history.Sentinel || rec.Payload == history.Good && v.reused[rec.Value]:
				case rec.Payload == history.Good && m != nil && home == q:
					m.takes = append(m.takes, t)
				case rec.Payload == history.Good && m != nil && home.dead == q:
					m.dead = append(m.dead, t)
				default:
					q.strays = append(q.strays, stray{sighting{rec.Offset, rec.Value, rec.Payload}, int32(i)})
				}
			}
		}
	}
	for _, q := range v.queues {
		q.readDrained(v, of)
		for i := range q.messages {
			byCall := func(a, b take) int {
				return cmp.Or(cmp.Compare(a.op.Call, b.op.Call), cmp.Compare(a.op.ID, b.op.ID), cmp.Compare(a.place, b.place))
			}
			slices.SortFunc(q.messages[i].takes, byCall)
			slices.SortFunc(q.messages[i].dead, byCall)
		}
	}
}

func (q *queueView) doubtful(op *history.Op) {
	q.doubt = min(q.doubt, op.Call)
	q.unseen++
}

// readDrained finds the messages that the drain of q was given.
func (q *queueView) readDrained(v *view, of func(history.Value) (*queueView, *message)) {
	if q.leader == nil {
		return
	}
	for i, rec := range q.leader.log {
		home, m := of(rec.Value)
		switch {
		case rec.Payload == history.Sentinel || rec.Payload == history.Good && v.reused[rec.Value]:
		case rec.Payload == history.Good && m != nil && home == q:
			if m.drained == history.NoOffset {
				m.drained, m.times = int64(i), rec.Delivery
			}
		case rec.Payload == history.Good && m != nil && home.dead == q:
			if m.buried == history.NoOffset {
				m.buried = int64(i)
			}
		default:
			q.strays = append(q.strays, stray{sighting{rec.Offset, rec.Value, rec.Payload}, -1})
		}
	}
}

// quiet reports whether the drain of q came after everything else.
func (q *queueView) quiet() bool { return q.drain != nil && q.drain.Quiet }

// seen reports whether m came out anywhere.
func (m *message) seen() bool { return len(m.takes) > 0 || m.drained != history.NoOffset || m.diedAt() }

// diedAt reports whether m came out of the dead letters.
func (m *message) diedAt() bool { return len(m.dead) > 0 || m.buried != history.NoOffset }

// settlement returns the first settlement of m that fits, or nil.
func (m *message) settlement(fits func(*history.Op) bool) *history.Op {
	if i := slices.IndexFunc(m.settled, fits); i >= 0 {
		return m.settled[i]
	}
	return nil
}

// may reports whether a settlement of m of kind k was sent that may have had an effect.
func (m *message) may(k history.Kind) bool {
	return m.settlement(func(s *history.Op) bool { return s.Kind == k && s.Outcome != history.Failed }) != nil
}

// confirmed returns the settlement of m of one of some kinds that was confirmed
// first, or nil.
func (m *message) confirmed(kinds ...history.Kind) *history.Op {
	var first *history.Op
	for _, s := range m.settled {
		if s.Outcome == history.OK && slices.Contains(kinds, s.Kind) && (first == nil || s.Return < first.Return) {
			first = s
		}
	}
	return first
}

// acknowledged returns when it was acknowledged that m is in its queue, and
// whether it was: where it was sent in a transaction, by that one's commit.
func (v *view) acknowledged(m *message) (int64, bool) {
	if !acked(m.send) {
		return 0, false
	}
	if m.send.Txn == 0 {
		return m.send.Return, true
	}
	t := v.txns[m.send.Txn]
	if c := t.confirmed(); c != nil {
		return max(c.Return, m.send.Return), true
	}
	return 0, false
}

// deliveries is how often m may have been delivered, at most.
func (q *queueView) deliveries(m *message) int {
	n := len(m.takes)
	for _, t := range m.takes {
		n = max(n, int(t.times))
	}
	return n + q.unseen
}

// spot is what an anomaly of a message of q says beside its class and its text.
func (v *view) spot(q *queueView, m *message, class string, when int64, ops ...*history.Op) Anomaly {
	a := Anomaly{Class: class, Offset: history.NoOffset, At: when}
	for _, op := range ops {
		if op != m.send {
			a.Ops = append(a.Ops, op.ID)
			if a.Node == "" {
				a.Node = v.node(op.Node)
			}
		}
	}
	a = v.about(q.keyView, m.send.Value, a)
	slices.Sort(a.Ops)
	a.Ops = slices.Compact(a.Ops)
	return a
}

// needQueueDrain makes c undecided for each queue whose drain is not complete.
func (v *view) needQueueDrain(c *Check) {
	for _, q := range v.queues {
		if !q.complete {
			c.undecided(fmt.Sprintf("the drain of queue %s was not proven complete: %s", q.name, q.why), drainRemedy)
		}
	}
}

// eachMessage calls f for every message of every queue.
func (v *view) eachMessage(f func(*queueView, *message)) {
	for _, q := range v.queues {
		for i := range q.messages {
			f(q, &q.messages[i])
		}
	}
}

// queueCounts counts the messages of every queue.
func (v *view) queueCounts() map[string]QueueCounts {
	if len(v.queues) == 0 {
		return nil
	}
	all := map[string]QueueCounts{}
	for _, q := range v.queues {
		n := QueueCounts{Attempts: len(q.sends)}
		for i := range q.messages {
			m := &q.messages[i]
			_, ok := v.acknowledged(m)
			if ok {
				n.Acknowledged++
			}
			if m.confirmed(history.Accept) != nil {
				n.Accepted++
			}
			out := len(m.takes) + len(m.dead)
			if m.drained != history.NoOffset {
				n.Drained++
				out++
			}
			if m.buried != history.NoOffset {
				out++
			}
			switch {
			case out > 0 && !ok:
				n.Recovered++
			case out == 0 && ok:
				n.Lost++
			}
			n.Delivered += min(out, 1)
			n.Duplicated += max(out-1, 0)
		}
		n.Unexpected = len(q.strays)
		all[q.name] = n
	}
	return all
}

// later adds to a time without leaving the range.
func later(t, d int64) int64 {
	if t > math.MaxInt64-d {
		return math.MaxInt64
	}
	return t + d
}
