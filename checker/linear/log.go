package linear

import (
	"math"
	"slices"
	"sync/atomic"
)

// decideLog decides an append-only log. docs/checking.md gives the argument.
//
// The log passes through positions, one for each record, in the order of offsets.
// One is passed at the earliest when its append was called, and not while anybody
// still saw the end at or before it; it was passed at the latest when its append
// returned, and when the first one who saw it, or an end behind it, had his answer. As
// positions are passed in their order, the log is legal exactly if none can be passed
// only after a later one, or itself, was.
//
// Without gaps every offset below the last one that is known is a position. Those
// of which nobody knows the record were taken by unanswered appends that nobody saw
// again: the first of them by the one that was called first, and so on. With gaps
// each end that somebody saw is a position too, in front of the record there.
func decideLog(ops []Op, gaps bool) Result {
	l := readLog{ops: ops, values: index(ops, func(o *Op) bool { return o.Kind != End })}
	if r := l.read(); r.Verdict != "" {
		return r
	}
	slots := slotting{n: int(l.length)}
	if gaps {
		slots = l.slots()
	} else if l.length > int64(l.count) {
		// Each record needs an append of its own.
		return illegal("hole", []int{l.lengthOf}, "%s shows %d records, and there were only %d appends", describe(&ops[l.lengthOf]), l.length, l.count)
	}
	occupants, r := l.occupants(slots)
	if r.Verdict != "" {
		return r
	}
	if gaps {
		before := l.before(slots, occupants)
		// A record is the last position of its slot, and an end the first.
		return l.decide(int(before[slots.n]), nil, func(offset int64) (record, reached, beyond int64) {
			s := slots.of(offset)
			return int64(before[s+1]) - 1, int64(before[s]), int64(before[s]) + 1
		})
	}
	var holes []int64
	for p, by := range occupants {
		if by == 0 {
			holes = append(holes, int64(p))
		}
	}
	if len(holes) > len(l.unseen) {
		return illegal("hole", []int{l.lengthOf}, "%s shows %d records, of which %d are unknown, and only %d appends may have written these: one of them, at offset %d at the latest, was written by nobody",
			describe(&ops[l.lengthOf]), l.length, len(holes), len(l.unseen), holes[len(l.unseen)])
	}
	return l.decide(int(l.length), holes, func(offset int64) (record, reached, beyond int64) { return offset, offset - 1, offset })
}

// readLog is what a history of a log says of its records.
type readLog struct {
	ops    []Op
	values indexed
	// By value, indices + 1: its append, and the first operation that tells its offset.
	appends, shown []int32
	unseen         []int32 // appends whose offset nobody knows, by their calls
	count          int     // appends
	length         int64   // that somebody saw
	lengthOf       int     // who
}

// layout tells of an offset the position of its record, and of an end there the
// last position that was passed and the first that was not. Positions outside of the
// log say nothing.
type layout func(offset int64) (record, reached, beyond int64)

// read finds the place of every value: one each. A Result without a verdict is none.
func (l *readLog) read() Result {
	ops := l.ops
	l.appends, l.shown = make([]int32, l.values.n), make([]int32, l.values.n)
	for i := range ops {
		if o := &ops[i]; o.Kind == Append {
			v := l.values.of(o.Value)
			if l.appends[v] != 0 {
				return unknown("value %d was appended twice, so a read of it is ambiguous", o.Value)
			}
			l.appends[v] = int32(i) + 1
			l.count++
		}
	}
	for i := range ops {
		o := &ops[i]
		if o.Kind == End && !o.open() && o.Offset > l.length {
			l.length, l.lengthOf = o.Offset, i
		}
		if o.Kind == End || o.Offset == NoOffset || o.open() && o.Kind == Get {
			continue
		}
		v := l.values.of(o.Value)
		switch {
		case l.appends[v] == 0:
			return sparse(illegal("phantom", []int{i}, "%s, and nobody appended %d", describe(o), o.Value))
		case o.Offset == math.MaxInt64:
			return unknown("offset %d of operation %d is the largest possible one: no end can be behind it", o.Offset, i)
		case l.shown[v] == 0:
			l.shown[v] = int32(i) + 1
		case ops[l.shown[v]-1].Offset != o.Offset:
			first := &ops[l.shown[v]-1]
			return sparse(illegal("moved", l.withPlaces(i), "%d stood at offset %d (%s) and at offset %d (%s)", o.Value, first.Offset, describe(first), o.Offset, describe(o)))
		}
		if o.Offset >= l.length {
			l.length, l.lengthOf = o.Offset+1, i
		}
	}
	for i := range ops {
		if o := &ops[i]; o.Kind == Append && l.shown[l.values.of(o.Value)] == 0 {
			if !o.open() {
				return unknown("%s was acknowledged, and neither its answer nor a read tells its offset", describe(o))
			}
			l.unseen = append(l.unseen, int32(i))
		}
	}
	return Result{}
}

// withPlaces adds to reads their appends, and to appends what tells their offset.
func (l *readLog) withPlaces(of ...int) []int {
	for _, i := range of {
		if o := &l.ops[i]; o.Kind != End {
			v := l.values.of(o.Value)
			for _, j := range []int32{l.appends[v], l.shown[v]} {
				if j != 0 {
					of = append(of, int(j)-1)
				}
			}
		}
	}
	return of
}

// slotting numbers offsets in their order: as they are, or, where they lie far
// apart, those that occur.
type slotting struct {
	offsets []int64
	n       int
}

func (s *slotting) of(offset int64) int {
	if s.offsets == nil {
		return int(offset)
	}
	i, _ := slices.BinarySearch(s.offsets, offset)
	return i
}

func (l *readLog) slots() slotting {
	if l.length < 4*int64(len(l.ops))+1024 {
		return slotting{n: int(l.length) + 1} // an end is one behind the last record
	}
	s := slotting{offsets: []int64{}}
	for i := range l.ops {
		if o := &l.ops[i]; o.Offset != NoOffset {
			s.offsets = append(s.offsets, o.Offset)
		}
	}
	slices.Sort(s.offsets)
	s.offsets = slices.Compact(s.offsets)
	s.n = len(s.offsets)
	return s
}

// occupants are the first operations, + 1, that tell of the record of each slot: all
// of one value.
func (l *readLog) occupants(slots slotting) ([]int32, Result) {
	by := make([]int32, slots.n)
	for _, s := range l.shown {
		if s == 0 {
			continue
		}
		at := &by[slots.of(l.ops[s-1].Offset)]
		if *at != 0 {
			a, b := &l.ops[*at-1], &l.ops[s-1]
			return nil, sparse(illegal("two-values", l.withPlaces(int(*at)-1, int(s)-1), "offset %d held %d (%s) and %d (%s)", a.Offset, a.Value, describe(a), b.Value, describe(b)))
		}
		*at = s
	}
	return by, Result{}
}

// before counts, for each slot of a log with gaps, the positions in front of it.
func (l *readLog) before(slots slotting, occupants []int32) []int32 {
	before := make([]int32, slots.n+1)
	for i := range l.ops {
		if o := &l.ops[i]; o.Kind == End && !o.open() {
			before[slots.of(o.Offset)+1] = 1
		}
	}
	for s, by := range occupants {
		if by != 0 {
			before[s+1]++
		}
		before[s+1] += before[s]
	}
	return before
}

// each visits what the operations say: that a position is passed not before t, or by
// t at the latest. holes are filled by the appends that nobody saw.
func (l *readLog) each(holes []int64, where layout, visit func(op int, position int64, notBefore bool, t int64)) {
	for i := range l.ops {
		switch o := &l.ops[i]; {
		case o.Kind == Append:
			if s := l.shown[l.values.of(o.Value)]; s != 0 {
				record, _, _ := where(l.ops[s-1].Offset)
				visit(i, record, true, o.Call)
				visit(i, record, false, o.Return)
			}
		case o.open():
		case o.Kind == Get:
			record, _, _ := where(o.Offset)
			visit(i, record, false, o.Return)
		default:
			_, reached, beyond := where(o.Offset)
			visit(i, reached, false, o.Return)
			visit(i, beyond, true, o.Call)
		}
	}
	for k, p := range holes {
		visit(int(l.unseen[k]), p, true, l.ops[l.unseen[k]].Call)
	}
}

// decide looks for a position that can be passed only after it, or a later one, was.
func (l *readLog) decide(n int, holes []int64, where layout) Result {
	positions := NewPositions(n)
	l.each(holes, where, func(_ int, p int64, notBefore bool, t int64) {
		if notBefore {
			positions.notBefore(p, t)
		} else {
			positions.by(p, t)
		}
	})
	from, p, latest := positions.tooLate()
	if p < 0 {
		return Result{Verdict: Legal}
	}
	var low, high int // whose the two bounds are
	l.each(holes, where, func(i int, q int64, notBefore bool, t int64) {
		switch {
		case notBefore && q == int64(from) && t == latest:
			low = i
		case !notBefore && q == int64(p) && t == positions[p].until:
			high = i
		}
	})
	return l.tooLate(low, high, from)
}

// Positions decides a log of which the caller knows the position of every record,
// each of another value: as Exact does for Log with positions for offsets, and without
// the operations in memory, by 16 bytes for each position. Operations may come in any
// order, and from several goroutines: appends of different positions at once, and reads
// at once. Other positions than 0 to n-1 say nothing.
type Positions []window

// window is when a position may be passed.
type window struct{ from, until int64 }

// NewPositions begins with n positions that may be passed at any time.
func NewPositions(n int) Positions {
	p := make(Positions, n)
	for i := range p {
		p[i] = window{math.MinInt64, Never}
	}
	return p
}

func (p Positions) notBefore(position, t int64) {
	if position >= 0 && position < int64(len(p)) {
		p[position].from = max(p[position].from, t)
	}
}

func (p Positions) by(position, t int64) {
	if position >= 0 && position < int64(len(p)) {
		p[position].until = min(p[position].until, t)
	}
}

// Append notes the append of the record at a position; ret is Never where it was not
// answered.
func (p Positions) Append(position int, call, ret int64) {
	p.notBefore(int64(position), call)
	p.by(int64(position), ret)
}

// Get notes a read of the record at a position.
func (p Positions) Get(position int, ret int64) {
	if position >= 0 && position < len(p) {
		replace(&p[position].until, ret, func(was int64) bool { return ret < was })
	}
}

// End notes a read that saw that a position is the next one to be taken.
func (p Positions) End(position int, call, ret int64) {
	if ret == Never {
		return
	}
	p.Get(position-1, ret)
	if position >= 0 && position < len(p) {
		replace(&p[position].from, call, func(was int64) bool { return call > was })
	}
}

// replace sets a time to t where it is better than what was there.
func replace(at *int64, t int64, better func(was int64) bool) {
	for was := atomic.LoadInt64(at); better(was) && !atomic.CompareAndSwapInt64(at, was, t); {
		was = atomic.LoadInt64(at)
	}
}

// Legal reports whether the log is linearizable, if every position had its Append.
func (p Positions) Legal() bool {
	_, late, _ := p.tooLate()
	return late < 0
}

// tooLate returns the first position that can be passed only after it, or a later
// one, was; from is the one before it that can be passed only at latest. It is -1
// where there is none.
func (p Positions) tooLate() (from, position int, latest int64) {
	latest = math.MinInt64
	for i := range p {
		if p[i].from > latest {
			latest, from = p[i].from, i
		}
		if latest > p[i].until {
			return from, i, latest
		}
	}
	return 0, -1, 0
}

// tooLate is the witness that a position can be passed only when low was called, and
// that it, or a later one, was passed when high had returned.
func (l *readLog) tooLate(low, high, position int) Result {
	a, b := &l.ops[low], &l.ops[high]
	if a.Kind == Append && l.shown[l.values.of(a.Value)] == 0 {
		// It stands for all that were called later still.
		return illegal("order", l.withPlaces(high, low), "%s had returned at %d, and of the appends that may have written position %d, none of whose records anybody saw, the next one, %s, was called only at %d",
			describe(b), b.Return, position, describe(a), a.Call)
	}
	what := "was called only"
	if a.Kind == End {
		what = "which saw less, was called only"
	}
	return sparse(illegal("order", l.withPlaces(low, high), "%s had returned at %d, and %s, %s at %d", describe(b), b.Return, describe(a), what, a.Call))
}

// sparse says that a witness stands for itself once the offsets between are left out.
func sparse(r Result) Result {
	r.Witness.Object = SparseLog
	return r
}
