package checker

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// checkProducerOrder: of two messages of one producer in one partition, the one
// acknowledged before the other was sent stands before it. Positions are those
// of the drained log (where a message is lost, it has none) or those of one poll,
// which showed both in one log.
func checkProducerOrder(_ context.Context, v *view, c *Check) {
	order := v.h.Header.Contract.Order
	c.Promised = order == "producer" || order == "partition"
	switch {
	case v.h.Header.Contract.Offsets == "per-node":
		checkLocalOrder(v, c)
		return
	case !c.Promised:
		c.Detail = "not checked: the configuration keeps no order"
		return
	}
	for _, k := range v.keys {
		// Mostly each producer's messages stand in the order of ID and were called in it:
		// then none can stand before one that was acknowledged when it was sent.
		if !k.ordered || !v.called {
			for _, sends := range v.byProducer(k) {
				v.reorders(c, k, sends, v.found.at)
			}
		}
		v.deliveredReorders(c, k)
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s before an earlier message of the same producer", count(c.Count, "message"))
}

// reorders sweeps the acknowledged sends of one producer by call, with the
// highest offset among those that had returned before. places are their offsets.
func (v *view) reorders(c *Check, k *keyView, sends []int32, places func(int32) int64) {
	byReturn := v.inOrder(sends, func(op *history.Op) int64 { return op.Return })
	byCall := v.inOrder(sends, func(op *history.Op) int64 { return op.Call })
	n, highest := 0, int32(-1)
	for _, i := range byCall {
		later := &v.h.Ops[i]
		for ; n < len(byReturn) && v.h.Ops[byReturn[n]].Return < later.Call; n++ {
			if highest < 0 || places(byReturn[n]) > places(highest) {
				highest = byReturn[n]
			}
		}
		if highest < 0 || places(highest) < places(i) {
			continue
		}
		earlier := &v.h.Ops[highest]
		c.add(v.about(k, later.Value, Anomaly{
			Class: ClassReorder, Offset: places(i), At: later.Return, Ops: []int64{earlier.ID},
			Text: fmt.Sprintf("broke producer-order - a producer's messages stand in the order in which they were acknowledged: message %d of producer %d (acknowledged at %s) stands at offset %d of %s, and message %d (sent at %s) before it at %d",
				earlier.Value.Seq(), earlier.Value.Producer(), at(earlier.Return), places(highest), k.name, later.Value.Seq(), at(later.Call), places(i)),
		}))
	}
}

// byProducer returns the acknowledged sends of k that were found, by producer, each
// in order of ID.
func (v *view) byProducer(k *keyView) [][]int32 {
	var (
		numbers = map[int32]int{}
		lists   [][]int32
		last    = int32(-1)
		n       int
	)
	for _, i := range k.sends {
		op := &v.h.Ops[i]
		if v.traits[i]&promised == 0 || v.found.at(i) == history.NoOffset || v.reused[op.Value] {
			continue
		}
		if p := op.Value.Producer(); p != last {
			known := false
			if n, known = numbers[p]; !known {
				n = len(lists)
				numbers[p], lists = n, append(lists, nil)
			}
			last = p
		}
		lists[n] = append(lists[n], i)
	}
	slices.SortFunc(lists, func(a, b []int32) int {
		return cmp.Compare(v.h.Ops[a[0]].Value.Producer(), v.h.Ops[b[0]].Value.Producer())
	})
	return lists
}

// inOrder returns operations in the order of a time of theirs, and of ID where that
// is equal. Those of one client mostly are in it.
func (v *view) inOrder(ops []int32, time func(*history.Op) int64) []int32 {
	order := func(a, b int32) int {
		return cmp.Or(cmp.Compare(time(&v.h.Ops[a]), time(&v.h.Ops[b])), cmp.Compare(a, b))
	}
	if slices.IsSortedFunc(ops, order) {
		return ops
	}
	ops = slices.Clone(ops)
	slices.SortFunc(ops, order)
	return ops
}
