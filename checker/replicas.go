package checker

import (
	"context"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// checkReplicasAgree: after the drain, all replicas of a partition hold the same
// record at every offset. Each readable replica is compared with the leader.
func checkReplicasAgree(_ context.Context, v *view, c *Check) {
	ct := v.h.Header.Contract
	c.Promised = ct.PerReplica
	switch {
	case !ct.PerReplica:
		c.Detail = "not checked: the system serves no reads of a single replica's log"
		return
	case ct.Offsets == "per-node":
		checkSameMessages(v, c)
		return
	}
	c.Procedure = "per offset, every replica against the leader"
	compared := 0
	for _, k := range v.keys {
		if k.leader == nil || !k.leader.readable {
			continue
		}
		for _, r := range k.replicas {
			if r != k.leader && r.readable {
				compared++
				k.diverge(c, r)
			}
		}
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s in %s that %s compared with the leader's", count(c.Count, "difference"), count(compared, "replica log"), were(compared))
}

// diverge compares r with the leader of k from the later start to the earlier
// sentinel: what lies outside was not proven on both.
func (k *keyView) diverge(c *Check, r *replicaView) {
	l := k.leader
	before := c.Count
	from := max(l.Start, r.Start)
	to := min(end(l), end(r))
	i, _ := search(l.log, from)
	j, _ := search(r.log, from)
	if len(l.log) == len(r.log) && (len(l.log) == 0 || &l.log[0] == &r.log[0]) {
		i, j = len(l.log), len(r.log) // it is the same one
	}
	for i < len(l.log) || j < len(r.log) {
		var a, b *history.Record
		if i < len(l.log) {
			a = &l.log[i]
		}
		if j < len(r.log) {
			b = &r.log[j]
		}
		switch {
		case a != nil && (b == nil || a.Offset < b.Offset):
			b = nil
			i++
		case b != nil && (a == nil || b.Offset < a.Offset):
			a = nil
			j++
		default:
			i++
			j++
		}
		offset := int64(0)
		if a != nil {
			offset = a.Offset
		} else {
			offset = b.Offset
		}
		if offset >= to {
			break
		}
		if a != nil && b != nil && same(*a, *b) {
			continue
		}
		an := Anomaly{
			Class: ClassDivergence, Key: k.name, Offset: offset, At: k.drain.At, Node: r.Node,
			Text: fmt.Sprintf("broke replicas-agree - after the drain all replicas hold the same log: at offset %d of %s the leader %s has %s, and %s has %s",
				offset, k.name, l.Node, recName(a), r.Node, recName(b)),
		}
		if a != nil {
			an.Value = a.Value
		} else {
			an.Value = b.Value
		}
		switch {
		case a == nil:
			an.Missing = []string{l.Node}
		case b == nil:
			an.Missing = []string{r.Node}
		}
		c.add(an)
	}
	if c.Count == before && l.Start == r.Start && l.Sentinel == r.Sentinel && l.Digest != r.Digest {
		c.add(Anomaly{
			Class: ClassDivergence, Key: k.name, Offset: history.NoOffset, At: k.drain.At, Node: r.Node,
			Text: fmt.Sprintf("broke replicas-agree - after the drain all replicas hold the same log: the digests of %s on %s (%s) and %s (%s) differ although their records decode alike",
				k.name, l.Node, l.Digest, r.Node, r.Digest),
		})
	}
}

// end is the first offset that the drain proves nothing about.
func end(r *replicaView) int64 {
	if r.Sentinel != history.NoOffset {
		return r.Sentinel + 1
	}
	return r.End
}

func same(a, b history.Record) bool {
	return a.Value == b.Value && a.Payload == b.Payload && a.Epoch == b.Epoch
}

func recName(r *history.Record) string {
	switch {
	case r == nil:
		return "nothing"
	case r.Payload == history.Sentinel:
		return fmt.Sprintf("a sentinel (epoch %d)", r.Epoch)
	case r.Payload == history.OtherRun:
		return fmt.Sprintf("a record of another run (epoch %d)", r.Epoch)
	case r.Payload == history.Altered:
		return fmt.Sprintf("an altered record (epoch %d)", r.Epoch)
	}
	return fmt.Sprintf("%s (epoch %d)", msgName(r.Value), r.Epoch)
}
