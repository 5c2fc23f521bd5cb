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
		v.mastersAtOnce(c)
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

// tenure is a time in which a node was a partition's master by its own events: from
// when it said so to the last thing that it said as one.
type tenure struct {
	node     string
	from, to *history.NodeEvent
}

// mastersAtOnce reports masters of one partition at the same time, where leaders have
// no epochs. Only what both nodes said themselves counts, and clocks only as far as
// they are certain: a master that died said nothing more.
func (v *view) mastersAtOnce(c *Check) {
	c.Detail = "the system has no leader epochs"
	told := 0
	for _, k := range v.keys {
		all := v.tenures(k.name)
		told += len(all)
		for i, b := range all {
			for _, a := range all[:i] {
				if a.node == b.node || a.to.At-a.to.Uncertainty <= b.from.At+b.from.Uncertainty {
					continue
				}
				c.add(Anomaly{
					Class: ClassSplitBrain, Key: k.name, Offset: history.NoOffset, At: b.from.At, Node: b.node, Fault: v.faultAt(b.from.At), Event: EventLeader,
					Text: fmt.Sprintf("a partition has one master at a time: %s became master of %s at %s, and %s still was at %s", b.node, k.name, at(b.from.At), a.node, at(a.to.At)),
				})
			}
		}
	}
	c.Detail += fmt.Sprintf("; %s at the same time as another, by %s of masters", count(c.Count, "master"), count(told, "event"))
}

// tenures reads from events who was master of a partition, in the order of the
// beginnings. A node ends it by following another, by stopping, or by its death; one
// that fences itself was master until then.
func (v *view) tenures(key string) []tenure {
	open := map[string]int{} // node and incarnation → its tenure
	var all []tenure
	for i := range v.h.Events {
		e := &v.h.Events[i]
		if e.Key != "" && e.Key != key {
			continue
		}
		life := e.Node + " " + e.Incarnation
		n, ok := open[life]
		switch {
		case e.Kind == "leader" && e.Key == key && (e.Leader == "" || e.Leader == e.Node):
			if !ok {
				open[life] = len(all)
				all = append(all, tenure{e.Node, e, e})
			}
		case !ok:
		case e.Kind == "follower" || e.Kind == "stop":
			delete(open, life)
		case e.Kind == "fenced":
			all[n].to = e
			delete(open, life)
		default:
			all[n].to = e
		}
	}
	slices.SortStableFunc(all, func(a, b tenure) int { return cmp.Compare(a.from.At, b.from.At) })
	return all
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
