package linear

import (
	"cmp"
	"math"
	"slices"
)

// cluster is a write and the reads that saw it: the register held its value from
// its first return to its latest call at least, if the one is before the other, and at
// some moment between the two if not.
type cluster struct {
	first, latest     int64 // the earliest return and the latest call
	firstOf, latestOf int32 // whose they are; -1: of the value before any write
	write             int32 // -1: none
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
		clusters[v] = cluster{first: Never, latest: math.MinInt64, firstOf: -1, latestOf: -1, write: -1}
	}
	read := make([]bool, x.n+1)
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
			read[number(o.Value)] = true
			if o.Value == Unset {
				c.first = math.MinInt64 // it was there before anything
			}
		}
		if o.Return < c.first {
			c.first, c.firstOf = o.Return, int32(i)
		}
		if o.Call > c.latest {
			c.latest, c.latestOf = o.Call, int32(i)
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
		case c.latestOf < 0, c.write >= 0 && ops[c.write].open() && !read[v]:
			*c = cluster{write: -2}
		case c.first < c.latest:
			whiles = append(whiles, int32(v))
		}
	}
	slices.SortFunc(whiles, func(a, b int32) int { return cmp.Compare(clusters[a].first, clusters[b].first) })
	for i := 1; i < len(whiles); i++ {
		if a, b := &clusters[whiles[i-1]], &clusters[whiles[i]]; b.first < a.latest {
			return cycle(ops, a, b)
		}
	}
	for v := range clusters {
		c := &clusters[v]
		if c.write == -2 || c.first < c.latest {
			continue
		}
		// The last while that begins before its latest call: the whiles are apart, so
		// only that one can reach beyond its first return.
		i, _ := slices.BinarySearchFunc(whiles, c.latest, func(w int32, t int64) int { return cmp.Compare(clusters[w].first, t) })
		if i > 0 && c.first < clusters[whiles[i-1]].latest {
			return cycle(ops, &clusters[whiles[i-1]], c)
		}
	}
	return Result{Verdict: Legal}
}

// cycle is the witness that two values each must have been there before the other.
func cycle(ops []Op, a, b *cluster) Result {
	var proof []int
	for _, i := range []int32{a.write, a.firstOf, a.latestOf, b.write, b.firstOf, b.latestOf} {
		if i >= 0 {
			proof = append(proof, int(i))
		}
	}
	before := func(c *cluster) string {
		if c.firstOf < 0 {
			return "nothing had been written at the beginning"
		}
		return describe(&ops[c.firstOf]) + " had returned"
	}
	return illegal("cycle", proof, "%s before %s was called, and %s before %s was called",
		before(a), describe(&ops[b.latestOf]), before(b), describe(&ops[a.latestOf]))
}
