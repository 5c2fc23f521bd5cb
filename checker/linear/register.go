package linear

import (
	"cmp"
	"math"
	"slices"
)

// cluster is a write and the reads that saw it: the register held its value from
// its first return to its latest call at least, if the one is before the other, and at
// some moment between the two if not.
//
// Its times are those of operations, by their index, or one of those below.
type cluster struct {
	first  int32 // who has the earliest return
	latest int32 // who has the latest call
	write  int32
	read   bool // and answered
}

// These stand in a cluster for operations that there are not.
const (
	nobody  = -1
	before  = -2 // the value was there before any write
	leftOut = -3 // with its cluster
)

// returned is when the first operation of c had returned.
func (c *cluster) returned(ops []Op) int64 {
	switch c.first {
	case nobody:
		return Never
	case before:
		return math.MinInt64
	}
	return ops[c.first].Return
}

// called is when the last operation of c was called.
func (c *cluster) called(ops []Op) int64 {
	if c.latest == nobody {
		return math.MinInt64
	}
	return ops[c.latest].Call
}

// decideRegister decides a register whose writes have different values.
// docs/checking.md gives the argument.
//
//   - An unanswered write that was read has no end; any other is left out, and so
//     are unanswered reads.
//   - No read returns before its write was called.
//   - No two clusters each begin before the other one ends.
func decideRegister(ops []Op) Result {
	x := index(ops, func(o *Op) bool { return o.Value != Unset })
	clusters := make([]cluster, x.n+1) // the last one is that of Unset
	number := func(value uint64) int32 {
		if value == Unset {
			return int32(x.n)
		}
		return x.of(value)
	}
	for v := range clusters {
		clusters[v] = cluster{first: nobody, latest: nobody, write: nobody}
	}
	for i := range ops {
		o := &ops[i]
		c := &clusters[number(o.Value)]
		switch {
		case o.Kind == Write && o.Value == Unset:
			return unknown("a write of what the register holds before the first write makes reads of that ambiguous")
		case o.Kind == Write && c.write >= 0:
			return unknown("value %d was written twice, so a read of it is ambiguous", o.Value)
		case o.Kind == Write:
			c.write = int32(i)
		case o.open():
			continue
		default:
			c.read = true
			if o.Value == Unset {
				c.first = before
			}
		}
		if o.Return < c.returned(ops) {
			c.first = int32(i)
		}
		if c.latest == nobody || o.Call > ops[c.latest].Call {
			c.latest = int32(i)
		}
	}
	for i := range ops {
		o := &ops[i]
		if o.Kind == Write || o.open() || o.Value == Unset {
			continue
		}
		switch w := clusters[number(o.Value)].write; {
		case w < 0:
			return illegal("phantom", []int{i}, "%s, and nobody wrote %d", describe(o), o.Value)
		case o.Return < ops[w].Call:
			return illegal("fresh", []int{int(w), i}, "%s returned before %s was called", describe(o), describe(&ops[w]))
		}
	}
	// Those that hold the register for a while must not overlap; a moment of one that
	// does not must not be needed in the middle of such a while.
	var whiles []int32
	for v := range clusters {
		c := &clusters[v]
		switch {
		case c.latest == nobody, c.write >= 0 && ops[c.write].open() && !c.read:
			c.write = leftOut
		case c.returned(ops) < c.called(ops):
			whiles = append(whiles, int32(v))
		}
	}
	slices.SortFunc(whiles, func(a, b int32) int { return cmp.Compare(clusters[a].returned(ops), clusters[b].returned(ops)) })
	for i := 1; i < len(whiles); i++ {
		if a, b := &clusters[whiles[i-1]], &clusters[whiles[i]]; b.returned(ops) < a.called(ops) {
			return cycle(ops, a, b)
		}
	}
	for v := range clusters {
		c := &clusters[v]
		if c.write == leftOut || c.returned(ops) < c.called(ops) {
			continue
		}
		// The last while that begins before its latest call: the whiles are apart, so
		// only that one can reach beyond its first return.
		i, _ := slices.BinarySearchFunc(whiles, c.called(ops), func(w int32, t int64) int { return cmp.Compare(clusters[w].returned(ops), t) })
		if i > 0 && c.returned(ops) < clusters[whiles[i-1]].called(ops) {
			return cycle(ops, &clusters[whiles[i-1]], c)
		}
	}
	return Result{Verdict: Legal}
}

// cycle is the witness that two values each must have been there before the other.
func cycle(ops []Op, a, b *cluster) Result {
	var proof []int
	for _, i := range []int32{a.write, a.first, a.latest, b.write, b.first, b.latest} {
		if i >= 0 {
			proof = append(proof, int(i))
		}
	}
	been := func(c *cluster) string {
		if c.first < 0 {
			return "nothing had been written at the beginning"
		}
		return describe(&ops[c.first]) + " had returned"
	}
	return illegal("cycle", proof, "%s before %s was called, and %s before %s was called",
		been(a), describe(&ops[b.latest]), been(b), describe(&ops[a.latest]))
}
