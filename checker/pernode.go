package checker

import (
	"fmt"
	"strings"

	"github.com/faultline-mq/faultline/checker/history"
)

// checkSameMessages: where offsets are local to a node, all replicas hold the same
// messages. That they hold them in another order is told, and is no difference.
func checkSameMessages(v *view, c *Check) {
	c.Procedure = "per message, every replica against the first"
	compared, moved := 0, 0
	for _, k := range v.keys {
		if !k.decisive || k.leader == nil { // each log ends at a sentinel of its own: only the drain's wait makes them comparable
			continue
		}
		for _, r := range k.replicas {
			if r == k.leader || !r.readable {
				continue
			}
			compared++
			v.lacks(c, k, r, k.leader)
			v.lacks(c, k, k.leader, r)
			moved += k.outOfOrder(r)
		}
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s in %s that %s compared with the first node's; %s in another order", count(c.Count, "difference"), count(compared, "replica log"), were(compared), count(moved, "message"))
	if moved > 0 {
		c.note(ClassReorder, moved)
	}
}

// lacks adds what has holds and r does not.
func (v *view) lacks(c *Check, k *keyView, r, has *replicaView) {
	for i := range has.log {
		rec := &has.log[i]
		if rec.Payload != history.Good || r.holds(rec.Value) {
			continue
		}
		c.add(v.about(k, rec.Value, Anomaly{
			Class: ClassDivergence, Offset: rec.Offset, At: k.drain.At, Node: r.Node, Missing: []string{r.Node},
			Text: fmt.Sprintf("broke replicas-agree - after the drain all nodes hold the same messages: %s stands at offset %d of %s on %s, and not on %s",
				msgName(rec.Value), rec.Offset, k.name, has.Node, r.Node),
		}))
	}
}

// outOfOrder is how many messages of r stand behind one that comes later in the log of k.
func (k *keyView) outOfOrder(r *replicaView) int {
	n, highest := 0, history.NoOffset
	for i := range r.log {
		offset, ok := k.leader.find(r.log[i].Value)
		if r.log[i].Payload != history.Good || !ok {
			continue
		}
		if offset < highest {
			n++
		}
		highest = max(highest, offset)
	}
	return n
}

// checkLocalOnce is checkAtMostOnce where offsets are local to a node: a value stands once
// in a log, and on one node alone where nodes are no copies of each other.
func checkLocalOnce(v *view, c *Check) {
	c.Procedure = "drained log of each node"
	for _, k := range v.keys {
		places := map[history.Value][]string{}
		twice := map[history.Value]bool{}
		for _, r := range v.authoritative(k) {
			here := map[history.Value]bool{}
			for i := range r.log {
				rec := &r.log[i]
				if rec.Payload != history.Good || v.reused[rec.Value] {
					continue
				}
				twice[rec.Value] = twice[rec.Value] || here[rec.Value] || len(places[rec.Value]) > 0 && !v.h.Header.Contract.PerReplica
				here[rec.Value] = true
				places[rec.Value] = append(places[rec.Value], fmt.Sprintf("%s:%d", r.Node, rec.Offset))
			}
		}
		for _, value := range sorted(places) {
			if twice[value] {
				c.add(v.about(k, value, Anomaly{
					Class: ClassDuplicate, Offset: history.NoOffset,
					Text: fmt.Sprintf("broke at-most-once - a message that was sent once stands once: %s of %s stands at %s", msgName(value), k.name, strings.Join(places[value], ", ")),
				}))
			}
		}
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s more than once", count(c.Count, "message"))
}

// checkLocalOrder is checkProducerOrder where offsets are local to a node: each node's log
// is judged for itself, and a message counts once. Where no order is promised it is told
// all the same: that nodes keep an order of their own is no reason to hide it.
func checkLocalOrder(v *view, c *Check) {
	c.Procedure = "drained log of each node"
	for _, k := range v.keys {
		seen := map[history.Value]bool{}
		once := func(node string, find func(*Check)) {
			var in Check
			in.max = len(v.h.Ops)
			find(&in)
			for _, a := range in.Anomalies {
				if !seen[a.Value] {
					seen[a.Value], a.Node = true, orElse(node, a.Node)
					c.add(a)
				}
			}
		}
		for _, r := range v.authoritative(k) {
			once(r.Node, func(in *Check) {
				for _, sends := range v.byProducer(k) {
					v.reorders(in, k, v.placed(r, sends), v.placesIn(k, r))
				}
			})
		}
		once("", func(in *Check) { v.deliveredReorders(in, k) })
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s before an earlier message of the same producer in the log of some node", count(c.Count, "message"))
}

// placed are those of sends whose messages a node's log holds.
func (v *view) placed(r *replicaView, sends []int32) []int32 {
	var there []int32
	for _, i := range sends {
		if r.holds(v.h.Ops[i].Value) {
			there = append(there, i)
		}
	}
	return there
}

// placesIn is where the messages of k stand in a node's log, by index into Ops.
func (v *view) placesIn(k *keyView, r *replicaView) func(int32) int64 {
	places := make([]int64, len(v.h.Ops))
	for _, i := range k.sends {
		if offset, ok := r.find(v.h.Ops[i].Value); ok {
			places[i] = offset
		}
	}
	return func(i int32) int64 { return places[i] }
}
