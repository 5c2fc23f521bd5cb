package checker

import (
	"context"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// txnView is one transaction.
type txnView struct {
	sends   []*history.Op
	commits []*history.Op // those that may have happened
	aborts  []*history.Op // those that may have happened
}

// readTransactions finds every transaction; v.txns stays nil where there is none.
func (v *view) readTransactions() {
	for i := range v.h.Ops {
		op := &v.h.Ops[i]
		if op.Txn == 0 || op.Kind != history.Send && !op.Kind.Ends() {
			continue
		}
		if v.txns == nil {
			v.txns = map[int64]*txnView{}
		}
		t := v.txns[op.Txn]
		if t == nil {
			t = &txnView{}
			v.txns[op.Txn] = t
		}
		switch {
		case op.Kind == history.Send:
			t.sends = append(t.sends, op)
		case op.Outcome == history.Failed: // it did not end
		case op.Kind == history.Commit:
			t.commits = append(t.commits, op)
		default:
			t.aborts = append(t.aborts, op)
		}
	}
}

// confirmed returns the commit of t that was confirmed first, or nil.
func (t *txnView) confirmed() *history.Op {
	if i := slices.IndexFunc(t.commits, func(op *history.Op) bool { return op.Outcome == history.OK }); i >= 0 {
		return t.commits[i]
	}
	return nil
}

// begun returns when a commit of t was first called: Infinity where none was that may
// have happened.
func (t *txnView) begun() int64 {
	first := history.Infinity
	for _, op := range t.commits {
		first = min(first, op.Call)
	}
	return first
}

// sight is a read of a message by somebody who reads committed transactions only; op
// is nil for the drain of a queue.
type sight struct {
	op *history.Op
	m  *history.Op // the send
}

// checkTransactions: who reads committed transactions sees all of one or nothing. An
// unanswered commit is settled by what was seen alone: it happened where a message of
// its transaction was read.
func checkTransactions(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.Transactions
	sights := v.committedSights()
	passed := v.passedOver()
	for _, id := range sorted(v.txns) {
		t := v.txns[id]
		var seen *sight
		for _, m := range t.sends {
			for i := range sights[m.Value] {
				s := &sights[m.Value][i]
				if v.tooSoon(c, id, t, s) {
					break // one anomaly for a message
				}
				if seen == nil {
					seen = s
				}
			}
		}
		if len(t.commits) > 0 {
			v.torn(c, id, t, seen, passed)
		}
	}
	v.needQueueDrain(c)
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s of aborted transactions read, %s read before the commit, %s torn, of %s",
		count(c.classes[ClassAbortedRead], "message"), count(c.classes[ClassUncommittedRead], "message"), count(c.classes[ClassTornTransaction], "transaction"), count(len(v.txns), "transaction"))
}

// tooSoon judges one sight of a message of t: of a transaction that certainly was
// not committed at all, or not yet.
func (v *view) tooSoon(c *Check, id int64, t *txnView, s *sight) bool {
	k := v.all[s.m.Key]
	class, why := "", ""
	var ops []int64
	switch {
	case len(t.commits) == 0:
		class, why = ClassAbortedRead, "which nobody committed"
		for _, a := range t.aborts {
			ops = append(ops, a.ID)
			if a.Outcome == history.OK {
				why = "which was aborted at " + at(a.Return)
			}
		}
	case s.op != nil && s.op.Return < t.begun():
		class, why = ClassUncommittedRead, "whose commit was called at "+at(t.begun())
		ops = append(ops, t.commits[0].ID)
	default:
		return false
	}
	a := Anomaly{Class: class, Offset: history.NoOffset, Ops: ops}
	by := "the drain of " + k.name
	if s.op != nil {
		a.At, a.Node = s.op.Return, v.node(s.op.Node)
		a.Ops = append(a.Ops, s.op.ID)
		by = fmt.Sprintf("%s at %s", v.producer(s.op), at(s.op.Return))
	} else {
		a.At = k.drainAt()
	}
	a = v.about(k, s.m.Value, a)
	slices.Sort(a.Ops)
	a.Text = fmt.Sprintf("broke atomic-transactions - who reads committed transactions sees all of one, or nothing: %s of transaction %d, %s, was read by %s", msgName(s.m.Value), id, why, by)
	c.add(a)
	return true
}

// torn judges a transaction of which something was seen, or whose commit was
// confirmed: a reader passed over an acknowledged message of it, or one of a queue is
// gone. (What is gone although its commit was confirmed is lost, which has its own clause.)
func (v *view) torn(c *Check, id int64, t *txnView, seen *sight, passed map[history.Value]*history.Op) {
	commit := t.confirmed()
	if seen == nil && commit == nil {
		return
	}
	for _, m := range t.sends {
		if m.Outcome != history.OK || v.reused[m.Value] {
			continue
		}
		k := v.all[m.Key]
		a := Anomaly{Class: ClassTornTransaction, Offset: m.Offset, At: k.drainAt()}
		var what string
		switch reader := passed[m.Value]; {
		case reader != nil:
			a.At, a.Node = reader.Return, v.node(reader.Node)
			a.Ops = append(a.Ops, reader.ID)
			what = fmt.Sprintf("%s was given later offsets of %s at %s, and not %s", v.producer(reader), k.name, at(reader.Return), msgName(m.Value))
		case commit == nil && v.goneFromQueue(m):
			what = fmt.Sprintf("%s never came out of %s, nor is it in its drain", msgName(m.Value), k.name)
		default:
			continue
		}
		how := ""
		if commit != nil {
			a.Ops = append(a.Ops, commit.ID)
			how = "its commit was confirmed at " + at(commit.Return)
		} else {
			how = msgName(seen.m.Value) + " of it was read"
			a.Ops = append(a.Ops, seen.m.ID)
			if seen.op != nil {
				a.Ops = append(a.Ops, seen.op.ID)
			}
		}
		a = v.about(k, m.Value, a)
		slices.Sort(a.Ops)
		a.Ops = slices.Compact(a.Ops)
		a.Text = fmt.Sprintf("broke atomic-transactions - who reads committed transactions sees all of one, or nothing: of transaction %d, %s, and %s", id, how, what)
		c.add(a)
		return // one anomaly for a transaction
	}
}

// goneFromQueue reports whether m, which was sent to a queue, is certainly gone from it.
func (v *view) goneFromQueue(m *history.Op) bool {
	for _, q := range v.queues {
		if q.index != m.Key {
			continue
		}
		for i := range q.messages {
			if q.messages[i].send == m {
				return len(q.messages[i].takes) == 0 && v.fate(q, &q.messages[i]) == gone
			}
		}
	}
	return false
}

// committedSights lists by value what readers of committed transactions saw of
// messages that were sent in one: polls that ask for that, and whatever comes out of
// a queue.
func (v *view) committedSights() map[history.Value][]sight {
	all := map[history.Value][]sight{}
	see := func(value history.Value, key int32, op *history.Op) {
		if i, ok := v.ids.find(value); ok && !v.reused[value] {
			if m := &v.h.Ops[i]; m.Txn != 0 && (m.Key == key || op == nil) {
				all[value] = append(all[value], sight{op, m})
			}
		}
	}
	for i := range v.h.Ops {
		op := &v.h.Ops[i]
		if op.Kind == history.Poll && op.Committed || op.Kind == history.Receive {
			for _, rec := range op.Records {
				if rec.Payload == history.Good {
					see(rec.Value, op.Key, op)
				}
			}
		}
	}
	for _, q := range v.queues {
		if q.leader == nil {
			continue
		}
		for _, rec := range q.leader.log {
			if rec.Payload == history.Good {
				see(rec.Value, q.index, nil)
			}
		}
	}
	return all
}

// passedOver lists the messages of transactions that a poll of committed ones went
// past: it began at or before the offset at which the drained log has them, was given
// a later one, and not them. Whoever goes past a record knows what became of its
// transaction.
func (v *view) passedOver() map[history.Value]*history.Op {
	all := map[history.Value]*history.Op{}
	for _, k := range v.keys {
		if !k.decisive || k.leader == nil {
			continue
		}
		for _, i := range k.polls {
			op := &v.h.Ops[i]
			if !op.Committed || len(op.Records) == 0 {
				continue
			}
			given := map[int64]bool{}
			for _, rec := range op.Records {
				given[rec.Offset] = true
			}
			end := op.Records[len(op.Records)-1].Offset
			for n, _ := search(k.leader.log, op.From); n < len(k.leader.log) && k.leader.log[n].Offset < end; n++ {
				rec := &k.leader.log[n]
				if rec.Payload != history.Good || given[rec.Offset] || all[rec.Value] != nil {
					continue
				}
				j, ok := v.ids.find(rec.Value)
				if m := &v.h.Ops[max(j, 0)]; ok && m.Txn != 0 && m.Key == k.index && (m.Offset == history.NoOffset || m.Offset == rec.Offset) {
					all[rec.Value] = op
				}
			}
		}
	}
	return all
}
