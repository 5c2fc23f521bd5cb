package checker

import (
	"context"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// checkCommittedReads: what was delivered does not vanish from the log later.
func checkCommittedReads(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.CommittedReads
	for _, k := range v.keys {
		if !k.decisive || k.drain.Missing {
			continue // with the topic everything is lost, committed or not
		}
		dirty := map[history.Value]bool{}
		strays := v.odd(k)
		for i := range strays {
			o := &strays[i]
			send, sent := v.ids.find(o.value)
			if o.payload != history.Good || !sent || v.h.Ops[send].Key != k.index || dirty[o.value] ||
				v.found.at(send) != history.NoOffset || o.offset < k.leader.Start || k.leader.holds(o.value) {
				continue
			}
			if !k.gone(v, &v.h.Ops[send]) {
				continue
			}
			dirty[o.value] = true
			poll := &v.h.Ops[o.first]
			event, cause := v.cause(k, &history.Op{Offset: o.offset, Call: v.h.Ops[send].Call, Node: poll.Node})
			c.add(v.about(k, o.value, Anomaly{
				Class: ClassDirtyRead, Offset: o.offset, At: poll.Return, Node: v.node(poll.Node), LastSeen: o.last, Ops: []int64{poll.ID},
				Event: event, Cause: cause,
				Text: fmt.Sprintf("broke committed-reads - what is delivered can no longer be lost: %s was delivered at offset %d of %s at %s%s, and is not in the drained log",
					msgName(o.value), o.offset, k.name, at(poll.Return), by(v.node(poll.Node))),
			}))
		}
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s delivered and later gone", count(c.Count, "message"))
}

// checkMonotonicReads: a consumer of a partition neither goes back nor jumps
// over records that exist, inside one poll and between polls. Between polls this
// binds only within one belief of the leader epoch and without a reset; a jump
// counts only over records that stand in the drained log, and only if what it
// jumped to stands there too (otherwise it is another clause's evidence).
func checkMonotonicReads(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.Monotonic
	for _, k := range v.keys {
		v.odd(k) // and steps with it
		for _, at := range k.steps {
			op := &v.h.Ops[at.poll]
			last, between := history.NoOffset, int64(-1)
			if at.before >= 0 {
				if prev := &v.h.Ops[at.before]; !op.Reset && prev.Epoch == op.Epoch {
					last, between = prev.Records[len(prev.Records)-1].Offset, prev.ID
				}
			}
			n := len(op.Records)
			if at.smooth {
				n = 1 // behind the first record nothing is passed
			}
			for j := range n {
				rec := &op.Records[j]
				if last != history.NoOffset && rec.Offset == last+1 {
					last = rec.Offset // what came next
					continue
				}
				if step := v.step(k, op, rec, last, j == 0); step.Class != "" {
					step.Ops = []int64{op.ID}
					if j == 0 && between >= 0 {
						step.Ops = []int64{between, op.ID}
					}
					c.add(step)
				}
				last = rec.Offset
			}
		}
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s back and %s over existing records", count(c.classes[ClassNonMonotonic], "step"), count(c.classes[ClassSkip], "jump"))
}

// step judges one step of a consumer, from the record at last to rec; last is
// NoOffset where nothing came before. first is true for the first record of a
// poll, which must also begin where the poll asked.
func (v *view) step(k *keyView, op *history.Op, rec *history.Record, last int64, first bool) Anomaly {
	client := v.h.Header.Clients[op.Client].Name
	found := func(class string, value history.Value, offset int64, format string, args ...any) Anomaly {
		return Anomaly{
			Class: class, Key: k.name, Value: value, Offset: offset, At: op.Return, Node: v.node(op.Node), Fault: v.faultAt(op.Call),
			Producer: v.sender(value), Seq: value.Seq(), Text: "broke monotonic-reads - " + fmt.Sprintf(format, args...),
		}
	}
	if last != history.NoOffset && rec.Offset <= last {
		return found(ClassNonMonotonic, rec.Value, rec.Offset, "a consumer never goes back within one leader epoch: %s was given offset %d of %s after offset %d",
			client, rec.Offset, k.name, last)
	}
	want := int64(-1)
	if last != history.NoOffset {
		want = last + 1
	}
	// Where nothing came before, a poll is answered from the offset it asked for.
	if want < 0 && first {
		want = op.From
	}
	if want < 0 || rec.Offset <= want || !k.decisive || k.leader == nil {
		return Anomaly{}
	}
	if there, ok := k.at(rec.Offset); !ok || there.Value != rec.Value || there.Payload != rec.Payload {
		return Anomaly{}
	}
	jumped := -1
	for n, _ := search(k.leader.log, want); n < len(k.leader.log) && k.leader.log[n].Offset < rec.Offset; n++ {
		if k.leader.log[n].Payload == history.Good {
			jumped = n
			break
		}
	}
	if jumped < 0 {
		return Anomaly{}
	}
	over := &k.leader.log[jumped]
	return found(ClassSkip, over.Value, over.Offset, "a consumer never jumps over existing records: %s was given offset %d of %s where offset %d was next, past %s at offset %d",
		client, rec.Offset, k.name, want, msgName(over.Value), over.Offset)
}

// checkFreshReads: a read that begins after an acknowledgement sees it. Only the
// high watermark, or an empty answer, says how far a read saw; a full answer may
// have been cut by its size.
func checkFreshReads(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.Fresh
	if !c.Promised {
		c.Detail = "not checked: the configuration does not promise fresh reads"
		return
	}
	for _, k := range v.keys {
		var acks []int32
		for _, i := range k.sends {
			if op := &v.h.Ops[i]; acked(op) && op.Offset != history.NoOffset {
				acks = append(acks, i)
			}
		}
		acks = v.inOrder(acks, func(op *history.Op) int64 { return op.Return })
		polls := v.inOrder(k.polls, func(op *history.Op) int64 { return op.Call })
		n, newest := 0, int32(-1)
		for _, i := range polls {
			op := &v.h.Ops[i]
			for ; n < len(acks) && v.h.Ops[acks[n]].Return < op.Call; n++ {
				if newest < 0 || v.h.Ops[acks[n]].Offset > v.h.Ops[newest].Offset {
					newest = acks[n]
				}
			}
			saw, known := sawUpTo(op)
			if newest < 0 || !known || saw > v.h.Ops[newest].Offset {
				continue
			}
			send := &v.h.Ops[newest]
			c.add(v.about(k, send.Value, Anomaly{
				Class: ClassStale, Offset: send.Offset, At: op.Call, Node: v.node(op.Node), Ops: []int64{op.ID},
				Text: fmt.Sprintf("broke fresh-reads - a read that begins after an acknowledgement sees it: offset %d of %s was acknowledged at %s, and the read that began at %s saw the log end at %d",
					send.Offset, k.name, at(send.Return), at(op.Call), saw),
			}))
		}
	}
	c.Detail = fmt.Sprintf("%s read less than was acknowledged before", count(c.Count, "poll"))
}

// sawUpTo returns the length of the log that a poll saw, where it tells.
func sawUpTo(op *history.Op) (int64, bool) {
	switch {
	case op.Outcome != history.OK:
		return 0, false
	case op.High != history.NoOffset:
		saw := op.High
		if n := len(op.Records); n > 0 {
			saw = max(saw, op.Records[n-1].Offset+1)
		}
		return saw, true
	case len(op.Records) == 0 && op.From >= 0:
		return op.From, true
	}
	return 0, false
}
