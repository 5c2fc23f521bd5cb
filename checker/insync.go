package checker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/faultline-mq/faultline/checker/history"
)

// checkEnoughInSync: nothing is acknowledged while fewer replicas are in sync than
// was promised. A leader reports every change of its in-sync set with its high
// watermark; between two reports of one incarnation in one epoch the watermark
// must stand still where the set is too small. What was acknowledged at an offset
// that it passed in between was acknowledged then. Offsets, epochs and the
// numbering of one node's events decide, no clock does. A message's epoch is that
// of its record in the drained log, or as it was delivered if it was lost since.
func checkEnoughInSync(_ context.Context, v *view, c *Check) {
	least := v.h.Header.Contract.MinInSync
	c.Promised = least > 1
	if !c.Promised {
		c.Detail = "not checked: the configuration promises no least number of replicas in sync"
		return
	}
	windows := 0
	numbered := numbering(v.h.Events)
	for _, k := range v.keys {
		for _, w := range k.understaffed(least, numbered) {
			windows++
			for _, i := range k.sends {
				op := &v.h.Ops[i]
				if !acked(op) || op.Offset < w.from || op.Offset >= w.to {
					continue
				}
				if at := (placed{op.Offset, op.Value, w.epoch}); !k.drained(at) && !v.delivered(k, at) {
					continue
				}
				c.add(v.about(k, op.Value, Anomaly{
					Class: ClassTooFew, Offset: op.Offset, At: op.Return, Node: w.node, Event: EventShrink,
					Text: fmt.Sprintf("broke enough-in-sync - nothing is acknowledged while fewer than %d replicas are in sync: %s was acknowledged at offset %d of %s, and %s passed it in epoch %d while %s alone was in sync",
						least, msgName(op.Value), op.Offset, k.name, w.node, w.epoch, strings.Join(w.isr, " and ")),
				}))
			}
		}
	}
	c.Detail = fmt.Sprintf("%s acknowledged with fewer than %d replicas in sync, in %s with fewer", count(c.Count, "message"), least, count(windows, "window"))
}

// stretch is what a leader's high watermark passed while too few were in sync.
type stretch struct {
	node     string
	epoch    int32
	isr      []string
	from, to int64
}

// life is one incarnation of one node.
type life struct{ node, incarnation string }

// numbering returns the numbers of the events of each incarnation, sorted.
func numbering(events []history.NodeEvent) map[life][]int64 {
	n := map[life][]int64{}
	for i := range events {
		l := life{events[i].Node, events[i].Incarnation}
		n[l] = append(n[l], events[i].Seq)
	}
	for l := range n {
		slices.Sort(n[l])
		n[l] = slices.Compact(n[l])
	}
	return n
}

// understaffed returns the stretches of k in which its leader had fewer than least
// replicas in sync, as far as both ends were reported and nothing in between is
// missing.
func (k *keyView) understaffed(least int, numbered map[life][]int64) []stretch {
	told := map[life][]*history.NodeEvent{}
	var lives []life
	for _, e := range k.events {
		if e.Kind != "leader" && e.Kind != "isr" && e.Kind != "follower" {
			continue
		}
		l := life{e.Node, e.Incarnation}
		if told[l] == nil {
			lives = append(lives, l)
		}
		told[l] = append(told[l], e)
	}
	var out []stretch
	for _, l := range lives {
		slices.SortFunc(told[l], func(a, b *history.NodeEvent) int { return cmp.Compare(a.Seq, b.Seq) })
		for i, e := range told[l][:len(told[l])-1] {
			next := told[l][i+1]
			if e.Kind == "follower" || len(e.ISR) == 0 || len(e.ISR) >= least || next.Kind != "isr" || next.Epoch != e.Epoch {
				continue
			}
			a, _ := slices.BinarySearch(numbered[l], e.Seq)
			b, _ := slices.BinarySearch(numbered[l], next.Seq)
			if int64(b-a) != next.Seq-e.Seq {
				continue // what is missing may be a change of the set
			}
			out = append(out, stretch{l.node, e.Epoch, e.ISR, e.Offset, next.Offset})
		}
	}
	return out
}
