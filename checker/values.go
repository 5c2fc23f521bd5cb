package checker

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// checkAtMostOnce: one value stands at one offset at most. Clients never retry,
// so a value that was sent once and stands twice was duplicated by the system.
func checkAtMostOnce(_ context.Context, v *view, c *Check) {
	ct := v.h.Header.Contract
	c.Promised = ct.AtMostOnce
	if ct.Offsets == "per-node" {
		checkLocalOnce(v, c)
		return
	}
	for _, k := range v.keys {
		offsets := map[history.Value][]int64{}
		polls := map[history.Value][]int64{} // that showed it where the drained log does not
		see := func(value history.Value, offset int64) bool {
			if v.reused[value] || slices.Contains(offsets[value], offset) {
				return false
			}
			offsets[value] = append(offsets[value], offset)
			return true
		}
		// The common case, a value that stands where it was found first, costs no
		// map entry.
		if k.leader != nil && !k.plain {
			for i := range k.leader.log {
				rec := &k.leader.log[i]
				if rec.Payload == history.Good && !v.foundAt(k, rec.Value, rec.Offset) {
					see(rec.Value, rec.Offset)
				}
			}
		}
		strays := v.odd(k)
		for i := range strays {
			if o := &strays[i]; o.payload == history.Good && !v.foundAt(k, o.value, o.offset) && see(o.value, o.offset) {
				polls[o.value] = append(polls[o.value], v.h.Ops[o.first].ID)
			}
		}
		for _, value := range sorted(offsets) {
			at := offsets[value]
			if op, ok := v.ids.find(value); ok && v.h.Ops[op].Key == k.index && v.found.at(op) != history.NoOffset {
				at = append(at, v.found.at(op))
			}
			if len(at) < 2 {
				continue
			}
			slices.Sort(at)
			c.add(v.about(k, value, Anomaly{
				Class: ClassDuplicate, Offset: at[1], Ops: polls[value],
				Text: fmt.Sprintf("broke at-most-once - a message that was sent once stands at one offset at most: %s stands at offsets %v of %s", msgName(value), at, k.name),
			}))
		}
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s at more than one offset", count(c.Count, "message"))
}

// foundAt reports whether value was found in the drained log of k exactly at offset.
func (v *view) foundAt(k *keyView, value history.Value, offset int64) bool {
	op, ok := v.ids.find(value)
	return ok && v.h.Ops[op].Key == k.index && v.found.at(op) == offset
}

// about fills an anomaly with what is known of the message's send.
func (v *view) about(k *keyView, value history.Value, a Anomaly) Anomaly {
	a.Key, a.Value, a.Seq = k.name, value, value.Seq()
	if i, ok := v.ids.find(value); ok {
		op := &v.h.Ops[i]
		a.Producer = v.producer(op)
		if a.Node == "" {
			a.Node = v.node(op.Node)
		}
		if a.At == 0 {
			a.At = op.Call
			if op.Return != history.Infinity {
				a.At = op.Return
			}
		}
		a.Ops = append([]int64{op.ID}, a.Ops...)
	}
	if a.Fault == "" {
		a.Fault = v.faultAt(a.At)
	}
	return a
}

func sorted[K cmp.Ordered, T any](m map[K]T) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// checkOnlyWhatWasSent: nothing is delivered or drained that was never sent. It
// has three kinds: never sent (or sent to another partition), of another run,
// and with an altered payload.
func checkOnlyWhatWasSent(_ context.Context, v *view, c *Check) {
	for _, k := range v.keys {
		seen := map[sighting]bool{}
		judge := func(s sighting, node string, when int64, ops []int64) {
			class, what := v.phantom(k, s)
			if s.payload != history.Good {
				s.value = 0
			}
			if class == "" || seen[s] {
				return
			}
			seen[s] = true
			a := Anomaly{
				Class: class, Key: k.name, Value: s.value, Offset: s.offset, Node: node, At: when, Fault: v.faultAt(when), Ops: ops,
				Text: fmt.Sprintf("broke only-what-was-sent - nothing is delivered that was never sent: offset %d of %s holds %s", s.offset, k.name, what),
			}
			if class == ClassPhantom {
				a.Seq = s.value.Seq()
			}
			c.add(a)
		}
		strays := v.odd(k)
		for i := range strays {
			o := &strays[i]
			op := &v.h.Ops[o.first]
			judge(o.sighting, v.node(op.Node), op.Return, []int64{op.ID})
		}
		if k.plain {
			continue
		}
		for _, r := range v.authoritative(k) {
			for i := range r.log {
				rec := &r.log[i]
				judge(sighting{rec.Offset, rec.Value, rec.Payload}, r.Node, k.drainAt(), nil)
			}
		}
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s that %s never sent", count(c.Count, "record"), were(c.Count))
}

func (k *keyView) drainAt() int64 {
	if k.drain == nil {
		return 0
	}
	return k.drain.At
}

// phantom classes a record that was not sent to k by this run; class is empty
// for one that was.
func (v *view) phantom(k *keyView, s sighting) (class, what string) {
	switch s.payload {
	case history.Sentinel:
		return "", ""
	case history.OtherRun:
		return ClassPhantomRun, "a message of another run"
	case history.Altered:
		return ClassPhantomBytes, "a payload that does not match its checksum"
	}
	i, ok := v.ids.find(s.value)
	if !ok {
		return ClassPhantom, msgName(s.value) + ", which was never sent"
	}
	if op := &v.h.Ops[i]; op.Key != k.index && !v.reused[s.value] {
		return ClassPhantom, msgName(s.value) + ", which was sent to " + v.all[op.Key].name
	}
	return "", ""
}

// checkFailedNeverVisible: what failed for certain is never delivered, nor
// stands in the log of the drained leader.
func checkFailedNeverVisible(_ context.Context, v *view, c *Check) {
	for _, k := range v.keys {
		delivered := map[history.Value]*oddRecord{}
		strays := v.odd(k)
		for i := range strays {
			if o := &strays[i]; o.payload == history.Good && delivered[o.value] == nil {
				delivered[o.value] = o
			}
		}
		for _, i := range k.sends {
			if v.traits[i]&refused == 0 || v.found.at(i) == history.NoOffset && len(delivered) == 0 {
				continue
			}
			op := &v.h.Ops[i]
			if v.reused[op.Value] {
				continue
			}
			a := Anomaly{Class: ClassResurrected, Offset: v.found.at(i), At: op.Return}
			where := "stands in the drained log"
			if o := delivered[op.Value]; o != nil {
				a.Offset, a.LastSeen = o.offset, o.last
				a.Ops = []int64{v.h.Ops[o.first].ID}
				where = "was delivered at " + at(v.h.Ops[o.first].Return)
			} else if v.found.at(i) == history.NoOffset {
				continue
			}
			a.Text = fmt.Sprintf("broke failed-never-visible - what failed for certain does not happen: the send of %s failed with %s, and it %s at offset %d of %s",
				msgName(op.Value), orElse(op.Code, "no code"), where, a.Offset, k.name)
			c.add(v.about(k, op.Value, a))
		}
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s visible although %s send failed for certain", count(c.Count, "message"), whose(c.Count))
}

func whose(n int) string {
	if n == 1 {
		return "its"
	}
	return "their"
}

// checkOffsetsStay: a message is found where it was acknowledged, and nowhere
// else only. (Found there and elsewhere as well is a duplicate.)
func checkOffsetsStay(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.Offsets == "global"
	if !c.Promised {
		c.Detail = "not checked: offsets are not global"
		return
	}
	for _, k := range v.keys {
		odd := map[history.Value][]*oddRecord{}
		strays := v.odd(k)
		for i := range strays {
			if o := &strays[i]; o.payload == history.Good {
				odd[o.value] = append(odd[o.value], o)
			}
		}
		for _, i := range k.sends {
			if v.told(i) == history.NoOffset || v.found.at(i) == v.told(i) {
				continue
			}
			op := &v.h.Ops[i]
			if v.reused[op.Value] {
				continue
			}
			delivered := odd[op.Value]
			if slices.ContainsFunc(delivered, func(o *oddRecord) bool { return o.offset == op.Offset }) {
				continue
			}
			found, polls := v.found.at(i), []int64(nil)
			switch {
			case found != history.NoOffset:
			case len(delivered) > 0:
				found, polls = delivered[0].offset, []int64{v.h.Ops[delivered[0].first].ID}
			default:
				continue
			}
			if rec, ok := k.at(op.Offset); ok && rec.Value == op.Value && rec.Payload == history.Good {
				continue // it stands there too: a duplicate
			}
			c.add(v.about(k, op.Value, Anomaly{
				Class: ClassMoved, Offset: op.Offset, At: op.Return, Ops: polls,
				Text: fmt.Sprintf("broke offsets-stay - a message is found where it was acknowledged: %s was acknowledged at offset %d of %s, and found at %d",
					msgName(op.Value), op.Offset, k.name, found),
			}))
		}
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s found at another offset than acknowledged", count(c.Count, "message"))
}

// checkOneValuePerOffset: an offset that was acknowledged or delivered holds one
// value, then and later. An acknowledgement is evidence only where acknowledged
// messages must survive, a delivery only where reads are committed; a follower's
// uncommitted tail is no evidence at all.
func checkOneValuePerOffset(_ context.Context, v *view, c *Check) {
	ct := v.h.Header.Contract
	c.Promised = ct.Offsets == "global"
	if !c.Promised {
		c.Detail = "not checked: offsets are not global"
		return
	}
	type claim struct {
		offset int64
		value  history.Value
		what   string
		when   int64
		op     int64
	}
	for _, k := range v.keys {
		var claims []claim
		if ct.Acknowledged || ct.Expect != "declared" {
			for _, i := range k.sends {
				// What stands where it was acknowledged contradicts only odd claims,
				// which are compared with the drained log below.
				if v.told(i) == history.NoOffset || k.plain && k.decisive && v.found.at(i) == v.told(i) {
					continue
				}
				op := &v.h.Ops[i]
				if rec, ok := k.at(op.Offset); ok && k.decisive && rec.Value == op.Value && rec.Payload == history.Good {
					continue
				}
				claims = append(claims, claim{op.Offset, op.Value, "acknowledged", op.Return, op.ID})
			}
		}
		if ct.CommittedReads {
			strays := v.odd(k)
			for i := range strays {
				if o := &strays[i]; o.payload == history.Good {
					claims = append(claims, claim{o.offset, o.value, "delivered", v.h.Ops[o.first].Return, v.h.Ops[o.first].ID})
				}
			}
		}
		slices.SortFunc(claims, func(a, b claim) int {
			return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.when, b.when), cmp.Compare(a.op, b.op), cmp.Compare(a.value, b.value))
		})
		for i := 0; i < len(claims); {
			first := claims[i]
			other, what, ops := history.Value(0), "", []int64{first.op}
			if rec, ok := k.at(first.offset); ok && k.decisive && rec.Payload == history.Good && rec.Value != first.value {
				other, what = rec.Value, "found in the drained log"
			}
			j := i + 1
			for ; j < len(claims) && claims[j].offset == first.offset; j++ {
				if what == "" && claims[j].value != first.value {
					other, what = claims[j].value, claims[j].what
					ops = append(ops, claims[j].op)
				}
			}
			i = j
			if what == "" {
				continue
			}
			a := v.about(k, first.value, Anomaly{
				Class: ClassInconsistent, Offset: first.offset, At: first.when, Ops: ops,
				Text: fmt.Sprintf("broke one-value-per-offset - an offset that was acknowledged or delivered never holds another value: offset %d of %s was %s with %s, and %s with %s",
					first.offset, k.name, first.what, msgName(first.value), what, msgName(other)),
			})
			a.Ops = slices.Compact(a.Ops)
			c.add(a)
		}
	}
	v.needDrain(c)
	c.Detail = fmt.Sprintf("%s with two values", count(c.Count, "offset"))
}
