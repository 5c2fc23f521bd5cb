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
	if !c.Promised {
		c.Detail = "not checked: the configuration keeps no order"
		return
	}
	for _, k := range v.keys {
		byProducer := map[int32][]int32{}
		for _, i := range k.sends {
			if op := &v.h.Ops[i]; acked(op) && v.found[i] != history.NoOffset && !v.reused[op.Value] {
				byProducer[op.Value.Producer()] = append(byProducer[op.Value.Producer()], i)
			}
		}
		for _, p := range sorted(byProducer) {
			v.reorders(c, k, byProducer[p])
		}
		v.deliveredReorders(c, k)
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s before an earlier message of the same producer", count(c.Count, "message"))
}

// reorders sweeps the acknowledged sends of one producer by call, with the
// highest offset among those that had returned before.
func (v *view) reorders(c *Check, k *keyView, sends []int32) {
	byReturn := slices.Clone(sends)
	slices.SortFunc(byReturn, func(a, b int32) int { return cmp.Compare(v.h.Ops[a].Return, v.h.Ops[b].Return) })
	slices.SortFunc(sends, func(a, b int32) int {
		return cmp.Or(cmp.Compare(v.h.Ops[a].Call, v.h.Ops[b].Call), cmp.Compare(a, b))
	})
	n, highest := 0, int32(-1)
	for _, i := range sends {
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
