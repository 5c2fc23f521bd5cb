package checker

import (
	"cmp"
	"context"
	"fmt"
	"math"
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
	if !c.Promised {
		c.Detail = "not checked: the configuration keeps no order"
		return
	}
	for _, k := range v.keys {
		if !v.inSendOrder(k) {
			for _, sends := range v.byProducer(k) {
				v.reorders(c, k, sends)
			}
		}
		v.deliveredReorders(c, k)
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s before an earlier message of the same producer", count(c.Count, "message"))
}

// inSendOrder reports whether the acknowledged messages of each producer stand in the
// order of their calls, which is that of ID: the common case, in which none can stand
// before one that was acknowledged when it was sent.
func (v *view) inSendOrder(k *keyView) bool {
	type sent struct{ call, offset int64 }
	var last []sent
	for _, i := range k.sends {
		if v.traits[i]&promised == 0 || v.found[i] == history.NoOffset {
			continue
		}
		op := &v.h.Ops[i]
		p := int(op.Value.Producer())
		if p >= maxDenseProducers {
			return false
		}
		if n := p + 1 - len(last); n > 0 {
			for range n {
				last = append(last, sent{math.MinInt64, history.NoOffset})
			}
		}
		if op.Call < last[p].call || v.found[i] <= last[p].offset {
			return false
		}
		last[p] = sent{op.Call, v.found[i]}
	}
	return true
}

// reorders sweeps the acknowledged sends of one producer by call, with the
// highest offset among those that had returned before.
func (v *view) reorders(c *Check, k *keyView, sends []int32) {
	byReturn := v.inOrder(sends, func(op *history.Op) int64 { return op.Return })
	byCall := v.inOrder(sends, func(op *history.Op) int64 { return op.Call })
	n, highest := 0, int32(-1)
	for _, i := range byCall {
		later := &v.h.Ops[i]
		for ; n < len(byReturn) && v.h.Ops[byReturn[n]].Return < later.Call; n++ {
			if highest < 0 || v.found[byReturn[n]] > v.found[highest] {
				highest = byReturn[n]
			}
		}
		if highest < 0 || v.found[highest] < v.found[i] {
			continue
		}
		earlier := &v.h.Ops[highest]
		c.add(v.about(k, later.Value, Anomaly{
			Class: ClassReorder, Offset: v.found[i], At: later.Return, Ops: []int64{earlier.ID},
			Text: fmt.Sprintf("broke producer-order - a producer's messages stand in the order in which they were acknowledged: message %d of producer %d (acknowledged at %s) stands at offset %d of %s, and message %d (sent at %s) before it at %d",
				earlier.Value.Seq(), earlier.Value.Producer(), at(earlier.Return), v.found[highest], k.name, later.Value.Seq(), at(later.Call), v.found[i]),
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
		if v.traits[i]&promised == 0 || v.found[i] == history.NoOffset || v.reused[op.Value] {
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
