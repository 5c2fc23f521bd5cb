package checker

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// checkOneLeaderPerEpoch: one leader epoch of a partition has one leader, by the
// nodes' own events. Two leaders in overlapping time are no evidence: epochs
// decide, not clocks.
func checkOneLeaderPerEpoch(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.Epochs
	if !c.Promised {
		c.Detail = "not checked: the system has no leader epochs"
		return
	}
	leaders := 0
	for _, k := range v.all {
		first := map[int32]*history.NodeEvent{}
		told := map[string]bool{}
		for _, e := range k.events {
			if e.Kind != "leader" || e.Epoch < 0 || e.Leader != "" && e.Leader != e.Node {
				continue
			}
			leaders++
			other := first[e.Epoch]
			if other == nil {
				first[e.Epoch] = e
				continue
			}
			id := fmt.Sprint(e.Epoch, e.Node)
			if other.Node == e.Node || told[id] {
				continue
			}
			told[id] = true
			c.add(Anomaly{
				Class: ClassSplitBrain, Key: k.name, Offset: history.NoOffset, At: e.At, Node: e.Node, Fault: v.faultAt(e.At), Event: EventLeader,
				Text: fmt.Sprintf("broke one-leader-per-epoch - one epoch of a partition has one leader: both %s and %s led %s in epoch %d", other.Node, e.Node, k.name, e.Epoch),
			})
		}
	}
	for _, gap := range v.gaps {
		c.undecided("events are missing: "+gap, "collect the nodes' standard output without loss")
	}
	if leaders == 0 {
		c.undecided("no node reported that it led a partition", "collect the nodes' events, or declare a contract without epochs")
	}
	c.Detail = fmt.Sprintf("%s with two leaders, by %s of leaders", count(c.Count, "epoch"), count(leaders, "event"))
}

// eventGaps names the incarnations whose events are not numbered 1, 2, 3, …
func eventGaps(events []history.NodeEvent) []string {
	type incarnation struct{ node, id string }
	seqs := map[incarnation][]int64{}
	for i := range events {
		in := incarnation{events[i].Node, events[i].Incarnation}
		seqs[in] = append(seqs[in], events[i].Seq)
	}
	ins := make([]incarnation, 0, len(seqs))
	for in := range seqs {
		ins = append(ins, in)
	}
	slices.SortFunc(ins, func(a, b incarnation) int { return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.id, b.id)) })
	var gaps []string
	for _, in := range ins {
		s := seqs[in]
		slices.Sort(s)
		s = slices.Compact(s)
		if missing := s[len(s)-1] - int64(len(s)); missing > 0 {
			gaps = append(gaps, fmt.Sprintf("%d of the events 1 to %d of %s (incarnation %s)", missing, s[len(s)-1], in.node, in.id))
		}
	}
	return gaps
}

// exercised counts what the nodes' events show to have happened.
func (v *view) exercised() map[string]int {
	n := map[string]int{}
	for i := range v.h.Events {
		switch e := &v.h.Events[i]; e.Kind {
		case "start", "stop", "fenced":
			n[e.Kind]++
		case "unclean":
			n["unclean-election"]++
		case "truncate":
			if e.From < e.To {
				n["truncation"]++
			}
		}
	}
	for _, k := range v.all {
		n["leader-change"] += k.leaderChanges()
		shrinks, expands := k.inSyncChanges()
		n["isr-shrink"] += shrinks
		n["isr-expand"] += expands
	}
	for kind, c := range n {
		if c == 0 {
			delete(n, kind)
		}
	}
	return n
}

// leaderChanges counts how often successive epochs of k were led by another node.
func (k *keyView) leaderChanges() int {
	leader := map[int32]string{}
	for _, e := range k.events {
		if e.Kind == "leader" {
			leader[e.Epoch] = orElse(e.Leader, e.Node)
		}
	}
	changes, last := 0, ""
	for _, epoch := range sorted(leader) {
		if last != "" && leader[epoch] != last {
			changes++
		}
		last = leader[epoch]
	}
	return changes
}

// inSyncChanges compares successive in-sync sets of k, in the order of epochs
// and, within one, in the order in which the node that told most of it did: what
// a leader begins with, and what it becomes.
func (k *keyView) inSyncChanges() (shrinks, expands int) {
	type source struct{ node, incarnation string }
	byEpoch := map[int32]map[source][]*history.NodeEvent{}
	for _, e := range k.events {
		if e.Kind != "isr" && e.Kind != "leader" || len(e.ISR) == 0 {
			continue
		}
		if byEpoch[e.Epoch] == nil {
			byEpoch[e.Epoch] = map[source][]*history.NodeEvent{}
		}
		s := source{e.Node, e.Incarnation}
		byEpoch[e.Epoch][s] = append(byEpoch[e.Epoch][s], e)
	}
	var last []string
	for _, epoch := range sorted(byEpoch) {
		var told []*history.NodeEvent
		for _, list := range byEpoch[epoch] {
			if len(list) > len(told) || len(list) == len(told) && cmp.Compare(list[0].Node+list[0].Incarnation, told[0].Node+told[0].Incarnation) < 0 {
				told = list
			}
		}
		slices.SortFunc(told, func(a, b *history.NodeEvent) int { return cmp.Compare(a.Seq, b.Seq) })
		for _, e := range told {
			if last != nil {
				if !contains(e.ISR, last) {
					shrinks++
				}
				if !contains(last, e.ISR) {
					expands++
				}
			}
			last = e.ISR
		}
	}
	return shrinks, expands
}

// contains reports whether every element of part is in whole.
func contains(whole, part []string) bool {
	return !slices.ContainsFunc(part, func(s string) bool { return !slices.Contains(whole, s) })
}
