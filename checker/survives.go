package checker

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// checkSurvives: an acknowledged message is never lost. Absence is judged only
// on a log that was proven to be complete; whatever cannot be judged is unseen.
func checkSurvives(_ context.Context, v *view, c *Check) {
	ct := v.h.Header.Contract
	c.Promised = ct.Acknowledged || ct.Expect != "declared"
	c.Procedure = "drained log of the leader, up to an acknowledged sentinel"
	total, lost, unseen, late, sentLost := 0, 0, 0, 0, 0
	for _, k := range v.keys {
		var gone []int32
		keyUnseen := 0
		for _, i := range k.sends {
			found := v.found.at(i) != history.NoOffset
			ack := v.traits[i]&promised != 0
			if ack {
				total++
			}
			op := &v.h.Ops[i] // of most it is not looked at
			switch {
			case found:
				if ack && k.late(op) {
					late++
				}
			case v.traits[i]&silent != 0:
				if k.gone(v, op) {
					sentLost++
				}
			case !ack:
			case k.gone(v, op):
				gone = append(gone, i)
			default:
				keyUnseen++
			}
		}
		unseen += keyUnseen
		lost += len(gone)
		v.addLost(c, k, gone)
		switch {
		case !k.complete:
			c.undecided(fmt.Sprintf("the drain of partition %s was not proven complete: %s", k.name, k.why), drainRemedy)
		case keyUnseen > 0:
			c.undecided(fmt.Sprintf("%s of partition %s could not be judged: its log was trimmed to offset %d", count(keyUnseen, "acknowledged message"), k.name, k.leader.Start),
				"turn retention off for the run")
		}
	}
	c.Detail = fmt.Sprintf("lost %s of %s acknowledged messages", group(lost), group(total))
	for _, e := range []struct {
		class string
		n     int
		text  string
	}{
		{ClassUnseen, unseen, "unseen: absent from a drain that proves nothing"},
		{ClassLate, late, "late: only seen by a later drain"},
		{ClassSentLost, sentLost, "sent without asking for an acknowledgement and gone"},
	} {
		if e.n > 0 {
			c.Detail += fmt.Sprintf("; %s %s", group(e.n), e.text)
			c.note(e.class, e.n)
		}
	}
}

// gone reports whether op's message, which the drained log does not show, is
// certainly gone: the drain is decisive and covers the place where it would be.
func (k *keyView) gone(v *view, op *history.Op) bool {
	if !k.decisive {
		return false
	}
	if k.drain.Missing {
		return true
	}
	if v.h.Header.Contract.Offsets == "per-node" {
		return k.complete && !slices.ContainsFunc(k.replicas, func(r *replicaView) bool { return r.Start > 0 })
	}
	return k.leader.Start == 0 || op.Offset >= k.leader.Start
}

// late reports whether an earlier drain of the same partition did not show op's
// message, and the last one does.
func (k *keyView) late(op *history.Op) bool {
	if len(k.earlier) == 0 {
		return false
	}
	return !slices.ContainsFunc(k.earlier, func(r *replicaView) bool { return r.holds(op.Value) })
}

func (v *view) addLost(c *Check, k *keyView, gone []int32) {
	if len(gone) == 0 {
		return
	}
	var acks []int32
	for _, i := range k.sends {
		if v.traits[i]&promised != 0 {
			acks = append(acks, i)
		}
	}
	// Where an offset is unknown (acknowledged as a duplicate), time gives the order.
	known := !slices.ContainsFunc(acks, func(i int32) bool { return v.h.Ops[i].Offset == history.NoOffset })
	byOffset := func(a, b int32) int {
		x, y := &v.h.Ops[a], &v.h.Ops[b]
		if known {
			return cmp.Or(cmp.Compare(x.Offset, y.Offset), cmp.Compare(x.ID, y.ID))
		}
		return cmp.Or(cmp.Compare(x.Return, y.Return), cmp.Compare(x.ID, y.ID))
	}
	isGone := make(map[int32]bool, len(gone))
	for _, i := range gone {
		isGone[i] = true
	}
	inKey := places(slices.SortedFunc(slices.Values(acks), byOffset), isGone)
	byProducer := map[int32][]int32{}
	for _, i := range acks {
		p := v.h.Ops[i].Value.Producer()
		byProducer[p] = append(byProducer[p], i)
	}
	inProducer := map[int32]string{}
	for _, list := range byProducer {
		slices.SortFunc(list, func(a, b int32) int { return cmp.Compare(v.h.Ops[a].Value, v.h.Ops[b].Value) })
		for i, place := range places(list, isGone) {
			inProducer[i] = place
		}
	}
	seen := v.lastSeen(k)
	slices.SortFunc(gone, byOffset)
	for _, i := range gone {
		op := &v.h.Ops[i]
		a := Anomaly{
			Class: ClassLost, Key: k.name, Value: op.Value, Offset: op.Offset, Producer: v.producer(op), Seq: op.Value.Seq(),
			At: op.Return, Node: v.node(op.Node), Place: inKey[i], PlaceIn: inProducer[i],
			LastSeen: seen[op.Value], Fault: v.faultAt(op.Return), Ops: []int64{op.ID},
		}
		a.Event, a.Cause = v.cause(k, op)
		for _, r := range k.replicas {
			if r.readable && !r.holds(op.Value) {
				a.Missing = append(a.Missing, r.Node)
			}
		}
		where := "is not in the drained log"
		if k.drain.Missing {
			where = "is gone with its topic"
		}
		a.Text = fmt.Sprintf("broke acknowledged-survive - an acknowledged message is never lost: %s was acknowledged %sat %s%s, and %s",
			msgName(op.Value), atOffset(k, op.Offset), at(op.Return), by(a.Node), where)
		c.add(a)
	}
}

func atOffset(k *keyView, offset int64) string {
	if offset == history.NoOffset {
		return "on " + k.name + " "
	}
	return fmt.Sprintf("on %s at offset %d ", k.name, offset)
}

func by(node string) string {
	if node == "" {
		return ""
	}
	return " by " + node
}

// places classes the lost messages of an ordered list: those before every
// survivor are a prefix, those after every survivor a tail, others a middle.
func places(list []int32, gone map[int32]bool) map[int32]string {
	first, last := -1, -1 // survivors
	for n, i := range list {
		if !gone[i] {
			if first < 0 {
				first = n
			}
			last = n
		}
	}
	out := map[int32]string{}
	for n, i := range list {
		switch {
		case !gone[i]:
		case first < 0:
			out[i] = "all"
		case n < first:
			out[i] = "prefix"
		case n > last:
			out[i] = "tail"
		default:
			out[i] = "middle"
		}
	}
	return out
}

// lastSeen returns when each message that the drained log does not show was
// last delivered.
func (v *view) lastSeen(k *keyView) map[history.Value]int64 {
	m := map[history.Value]int64{}
	strays := v.odd(k)
	for i := range strays {
		if o := &strays[i]; o.payload == history.Good {
			m[o.value] = max(m[o.value], o.last)
		}
	}
	return m
}

// cause names the scheme event that removed an acknowledged message: the
// truncation that covered its offset, on the node that had acknowledged it if
// there is one, an unclean election, or the deletion of the log with its topic. Offsets and epochs decide; the time only
// excludes what was certainly over before the message was sent. It returns the
// event's kind, and what it was in words.
func (v *view) cause(k *keyView, op *history.Op) (kind, what string) {
	if k.drain != nil && k.drain.Missing {
		return EventDeletion, "topic of " + k.name + " is gone"
	}
	var best *history.NodeEvent
	for _, e := range k.events {
		if e.At+e.Uncertainty < op.Call {
			continue
		}
		switch e.Kind {
		case "truncate":
			if op.Offset == history.NoOffset || op.Offset < e.From || op.Offset >= e.To {
				continue
			}
			if best == nil || best.Kind != "truncate" || best.Node != v.node(op.Node) && e.Node == v.node(op.Node) {
				best = e
			}
		case "unclean":
			if best == nil {
				best = e
			}
		case "deleted":
			if best == nil || best.Kind == "deleted" && best.Node != v.node(op.Node) && e.Node == v.node(op.Node) {
				best = e
			}
		}
	}
	switch {
	case best == nil:
		return "", ""
	case best.Kind == "truncate":
		return EventTruncation, fmt.Sprintf("%s truncated %s from %d (epoch %d)", best.Node, k.name, best.From, best.Epoch)
	case best.Kind == "deleted":
		return EventDeletion, fmt.Sprintf("%s deleted %s with its topic", best.Node, k.name)
	}
	return EventUnclean, fmt.Sprintf("%s became leader of %s by unclean election (epoch %d)", orElse(best.Leader, best.Node), k.name, best.Epoch)
}
