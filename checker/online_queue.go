package checker

import (
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// onlineQueue is what is remembered of a key that is a queue.
type onlineQueue struct {
	dead int32 // index of the queue that takes its dead letters, -1: none
}

// onlineFate is what became of a message of a queue so far.
type onlineFate struct {
	takes    int32 // deliveries by its queue
	lastCall int64 // the latest call of these
	lastOp   int64
	settled  int64 // when it was first confirmed to be accepted or rejected
	settleOp int64
	accepted int64 // the delivery that was first accepted, and that was confirmed: its ID + 1
	acceptOp int64
}

// remember returns what is remembered of a message of a queue.
func (s *onlineSend) remember() *onlineFate {
	if s.fate == nil {
		s.fate = &onlineFate{}
	}
	return s.fate
}

// readQueues takes the queues of the header.
func (o *Online) readQueues() {
	o.queues = make([]*onlineQueue, len(o.keys))
	for _, q := range o.hd.Queues {
		k := o.byName[q.Key]
		if k == nil {
			continue
		}
		o.queues[k.index] = &onlineQueue{dead: -1}
		if dead := o.byName[q.DeadLetters]; dead != nil {
			o.queues[k.index].dead = dead.index
		}
	}
}

// received judges what a receive was given.
func (o *Online) received(k *onlineKey, op *history.Op) {
	if o.queues[k.index] == nil || op.Outcome != history.OK {
		return
	}
	for i := range op.Records {
		rec := &op.Records[i]
		switch rec.Payload {
		case history.Good:
			o.given(k, op, rec)
		case history.OtherRun:
			o.phantom(k, noMessage, history.NoOffset, op.ID, op.Return, op.Node, ClassPhantomRun, "a message of another run")
		case history.Altered:
			o.phantom(k, noMessage, history.NoOffset, op.ID, op.Return, op.Node, ClassPhantomBytes, "a payload that does not match its checksum")
		}
	}
}

// given judges one message that a receive was given.
func (o *Online) given(k *onlineKey, op *history.Op, rec *history.Record) {
	s, _, never, later := o.find(rec.Value)
	switch {
	case never:
		o.phantom(k, rec.Value, history.NoOffset, op.ID, op.Return, op.Node, ClassPhantom, msgName(rec.Value)+", which was never sent")
	case later:
		o.suspect(k, op, rec)
	case s == nil:
		o.report.Outside++
	default:
		o.took(k, s, suspect{rec.Value, k.index, history.NoOffset, op.ID, op.Call, op.Return, op.Node, rec.Delivery})
	}
}

// took judges a delivery of s by the queue k.
func (o *Online) took(k *onlineKey, s *onlineSend, x suspect) {
	home := o.queues[s.key]
	switch {
	case s.key == k.index:
		f := s.remember()
		f.takes++
		if f.takes == 1 || x.call > f.lastCall {
			f.lastCall, f.lastOp = x.call, x.op
		}
	case home == nil || home.dead != k.index:
		o.phantom(k, s.value, history.NoOffset, x.op, x.at, x.node, ClassPhantom, msgName(s.value)+", which was sent to "+o.keys[s.key].name)
		return
	}
	s.seenBy = x.op + 1
	o.cameOut(s)
	if s.key == k.index {
		o.takenTwice(k, s, x)
		o.takenLate(s)
	}
}

// cameOut reports a message of a queue whose send failed for certain.
func (o *Online) cameOut(s *onlineSend) {
	if s.outcome != history.Failed || s.seenBy == 0 || !s.once(toldResurrected) {
		return
	}
	o.found(ClauseResurrected, Anomaly{
		Class: ClassResurrected, Key: o.keys[s.key].name, Value: s.value, Offset: history.NoOffset, At: s.ret, Ops: []int64{s.id, s.seenBy - 1},
		Text: fmt.Sprintf("what failed for certain does not happen: the send of %s to %s failed, and it was delivered", msgName(s.value), o.keys[s.key].name),
	}, s)
}

// takenTwice judges how often s was delivered.
func (o *Online) takenTwice(k *onlineKey, s *onlineSend, x suspect) {
	ct, f := &o.hd.Contract, s.remember()
	if ct.Delivery == atMostOnce && f.takes > 1 && s.once(toldDuplicate) {
		o.found(ClauseConsumedOnce, Anomaly{
			Class: ClassDuplicate, Key: k.name, Value: s.value, Offset: history.NoOffset, At: x.at, Node: o.node(x.node), Ops: []int64{s.id, x.op},
			Text: fmt.Sprintf("a message of a queue is consumed once: %s was delivered by %s twice", msgName(s.value), k.name),
		}, s)
	}
	if n := max(f.takes, x.times); ct.MaxDeliveries > 0 && int(n) > ct.MaxDeliveries && s.once(toldTooMany) {
		o.found(ClauseMaxDeliveries, Anomaly{
			Class: ClassTooManyTimes, Key: k.name, Value: s.value, Offset: history.NoOffset, At: x.at, Node: o.node(x.node), Ops: []int64{s.id, x.op},
			Text: fmt.Sprintf("a message is delivered only so often: %s of %s was delivered %s, and %d is the limit", msgName(s.value), k.name, count(int(n), "time"), ct.MaxDeliveries),
		}, s)
	}
}

// takenLate judges a delivery that began after a confirmed settlement.
func (o *Online) takenLate(s *onlineSend) {
	f := s.remember()
	if !o.hd.Contract.Settled || f.takes == 0 || f.settleOp == 0 || f.lastCall <= f.settled || !s.once(toldSettled) {
		return
	}
	o.found(ClauseSettled, Anomaly{
		Class: ClassAfterSettlement, Key: o.keys[s.key].name, Value: s.value, Offset: history.NoOffset, At: f.lastCall, Ops: []int64{s.id, f.settleOp - 1, f.lastOp},
		Text: fmt.Sprintf("what was accepted or rejected, and confirmed, is not delivered again: that of %s from %s was confirmed at %s, and a receive that began at %s was given it",
			msgName(s.value), o.keys[s.key].name, at(f.settled), at(f.lastCall)),
	}, s)
}

// settle judges a settlement that was confirmed.
func (o *Online) settle(op *history.Op) {
	if op.Outcome != history.OK || op.Kind == history.Release {
		return
	}
	s, _, _, _ := o.find(op.Value)
	if s == nil {
		o.report.Outside++
		return
	}
	if o.queues[s.key] == nil {
		return
	}
	f := s.remember()
	if f.settleOp == 0 || op.Return < f.settled {
		f.settled, f.settleOp = op.Return, op.ID+1
	}
	o.takenLate(s)
	if op.Kind != history.Accept || op.Of == history.NoOp || o.hd.Contract.Delivery != exactlyOnce {
		return
	}
	if f.accepted == 0 {
		f.accepted, f.acceptOp = op.Of+1, op.ID
	}
	if f.accepted != op.Of+1 && s.once(toldDuplicate) {
		o.found(ClauseConsumedOnce, Anomaly{
			Class: ClassDuplicate, Key: o.keys[s.key].name, Value: s.value, Offset: history.NoOffset, At: op.Return, Node: o.node(op.Node), Ops: []int64{s.id, f.acceptOp, op.ID},
			Text: fmt.Sprintf("a message of a queue is consumed once: two deliveries of %s by %s were accepted, and both were confirmed", msgName(s.value), o.keys[s.key].name),
		}, s)
	}
}
