package checker

import (
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// placed is a message at an offset in a leader epoch.
type placed struct {
	offset int64
	value  history.Value
	epoch  int32
}

// drained reports whether the drained leader's log holds p.
func (k *keyView) drained(p placed) bool {
	rec, ok := k.at(p.offset)
	return ok && rec.Value == p.value && rec.Payload == history.Good && rec.Epoch == p.epoch
}

// delivered reports whether a poll returned p. Only what the drained leader's log
// does not hold is looked up: drained answers for the rest.
func (v *view) delivered(k *keyView, p placed) bool {
	k.deliveredOnce.Do(func() {
		k.delivered = map[placed]bool{}
		for _, i := range k.polls {
			op := &v.h.Ops[i]
			for j := range op.Records {
				rec := &op.Records[j]
				at := placed{rec.Offset, rec.Value, rec.Epoch}
				if op.Outcome == history.OK && rec.Payload == history.Good && !k.drained(at) {
					k.delivered[at] = true
				}
			}
		}
	})
	return k.delivered[p]
}

// ascending reports whether a poll delivered records in order of their offsets.
func ascending(op *history.Op) bool {
	for j := 1; j < len(op.Records); j++ {
		if op.Records[j].Offset <= op.Records[j-1].Offset {
			return false
		}
	}
	return true
}

// deliveredReorders finds messages of one producer that one poll delivered in the
// wrong order, each where it was acknowledged: it showed them in one log, whatever
// became of that. Polls of what
// the drained log holds, and holds once, say nothing that it does not.
func (v *view) deliveredReorders(c *Check, k *keyView) {
	if len(v.odd(k)) == 0 && !v.twice(k) {
		return
	}
	type seen struct {
		op     *history.Op
		offset int64
	}
	told := map[history.Value]bool{}
	for _, i := range k.polls {
		poll := &v.h.Ops[i]
		if poll.Outcome != history.OK || !ascending(poll) {
			continue
		}
		latest := map[int32]seen{} // by producer: called last of those so far
		for j := range poll.Records {
			rec := &poll.Records[j]
			n, sent := v.ids.find(rec.Value)
			if rec.Payload != history.Good || !sent || v.reused[rec.Value] {
				continue
			}
			op := &v.h.Ops[n]
			if op.Key != k.index || !acked(op) || op.Offset != rec.Offset {
				continue // elsewhere it is moved, or a duplicate
			}
			later, ok := latest[rec.Value.Producer()]
			if ok && op.Return < later.op.Call && !told[later.op.Value] &&
				(v.found.at(n) != rec.Offset || !v.foundAt(k, later.op.Value, later.offset)) { // else reorders told
				told[later.op.Value] = true
				c.add(v.about(k, later.op.Value, Anomaly{
					Class: ClassReorder, Offset: later.offset, At: poll.Return, Node: v.node(poll.Node), Ops: []int64{op.ID, poll.ID},
					Text: fmt.Sprintf("broke producer-order - a producer's messages stand in the order in which they were acknowledged: message %d of producer %d (acknowledged at %s) was delivered at offset %d of %s, and message %d (sent at %s) before it at %d",
						op.Value.Seq(), op.Value.Producer(), at(op.Return), rec.Offset, k.name, later.op.Value.Seq(), at(later.op.Call), later.offset),
				}))
			}
			if !ok || op.Call > later.op.Call {
				latest[rec.Value.Producer()] = seen{op, rec.Offset}
			}
		}
	}
}

// twice reports whether the drained leader's log holds more messages than were
// found in it: one of them at two offsets, or one that nobody sent.
func (v *view) twice(k *keyView) bool {
	if k.leader == nil || k.plain {
		return false
	}
	n := 0
	for i := range k.leader.log {
		if k.leader.log[i].Payload == history.Good {
			n++
		}
	}
	for _, i := range k.sends {
		if v.found.at(i) != history.NoOffset {
			n--
		}
	}
	return n > 0
}
