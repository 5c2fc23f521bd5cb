package linear

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

// stay is the time of an enqueue.
type stay struct{ call, ret int64 }

// newest is the latest call of an enqueue whose value was dequeued by some time.
type newest struct {
	call  int64
	value uint64
}

// span is a time, without its ends.
type span struct{ from, until int64 }

// begun is a dequeue that was called.
type begun struct {
	id, call int64
	newest   newest // of those that ended before its call
}

// queueSweep decides one queue, moment by moment.
//
// Order: when a value is dequeued, no value may have been dequeued before that
// dequeue began and have been called only after the enqueue of this one returned. So
// of what was dequeued by a call the latest call of an enqueue is all that counts.
//
// Empty: an empty dequeue needs a moment at which no value is in the queue for
// certain. If there is one, then at its call, or at that of a dequeue in its time: the
// probes. At a probe nothing needs to be in if each value whose enqueue had returned
// was taken by a dequeue that was called by then. One that was taken by a later
// dequeue was in for certain. One that nobody took is known only at the end: what
// depends on those waits until then, and where that are too many, a second pass
// decides, which knows them.
type queueSweep struct {
	values  values
	in      map[uint64]stay // not dequeued yet
	early   map[uint64]bool // dequeued, and not enqueued yet
	running map[int64]begun // dequeues
	newest  newest
	open    []begun // dequeues without an answer
	count   int

	certain   int64 // values in the queue whose enqueue has returned
	probes    []probe
	last      int64   // the latest probe
	gap       int64   // the latest probe at which nothing was in
	gaps      []int64 // those just found
	waiting   []span  // empty dequeues without such a probe, by their ends
	undecided int     // how many probes and empty dequeues the first pass keeps
	tooMany   bool    // they are left to the second pass

	ambiguous bool // value was enqueued twice
	value     uint64
	broken    breach

	// Of a second pass, from the first: what nobody dequeued, dequeues without an
	// answer, and when something that nobody dequeued was in the queue.
	again   bool
	lost    map[uint64]bool
	never   map[int64]bool
	covered []span
}

// probe is a moment at which the queue may have been empty.
type probe struct {
	at int64
	in int64 // values in it of which nobody knows yet who took them
}

const ruleEmpty = "false-empty"

func newSweep(undecided int) *queueSweep {
	return &queueSweep{
		in: map[uint64]stay{}, early: map[uint64]bool{}, running: map[int64]begun{},
		newest: newest{call: math.MinInt64}, gap: math.MinInt64, last: math.MinInt64, undecided: undecided,
	}
}

func (s *queueSweep) visit(m *Moment) {
	switch {
	case m.Stage == Called && m.Kind == Enqueue:
		s.count++
		s.enqueue(m)
	case m.Stage == Called:
		s.count++
		s.probe(m.At)
		s.running[m.ID] = begun{m.ID, m.Call, s.newest}
	case m.Kind == Enqueue:
		s.enqueued(m)
	default:
		s.dequeued(m)
	}
}

func (s *queueSweep) enqueue(m *Moment) {
	if !s.again {
		switch was := s.values.enqueue(m.Value); {
		case was&enqueued != 0:
			s.ambiguous, s.value = true, m.Value
			return
		case was&dequeued != 0:
			s.broken.set("fresh", m.Value)
			delete(s.early, m.Value)
			return
		}
	}
	s.in[m.Value] = stay{m.At, Never}
}

func (s *queueSweep) enqueued(m *Moment) {
	at, in := s.in[m.Value]
	switch {
	case m.Stage == Failed:
		s.count--
		delete(s.in, m.Value)
		if !s.again && s.values.forget(m.Value)&dequeued != 0 {
			s.broken.set("phantom", m.Value)
		}
	case m.Stage == Returned && in:
		s.in[m.Value] = stay{at.call, m.At}
		if !s.lost[m.Value] {
			s.certain++
		}
	}
}

func (s *queueSweep) dequeued(m *Moment) {
	begun := s.running[m.ID]
	delete(s.running, m.ID)
	switch {
	case m.Stage == Unanswered:
		s.open = append(s.open, begun)
	case m.Stage == Failed:
		s.count--
	case m.Kind == Empty:
		if s.gap < m.Call && !s.tooMany {
			s.waiting = append(s.waiting, span{m.Call, m.At})
		}
	case s.again || s.takes(m):
		at := s.in[m.Value]
		delete(s.in, m.Value)
		if begun.newest.call > at.ret {
			s.broken.set("order", m.Value, begun.newest.value)
		}
		if at.call > s.newest.call {
			s.newest = newest{at.call, m.Value}
		}
		if at.ret != Never {
			s.certain--
			s.taken(at.ret, m.Call)
		}
	}
}

// takes reports whether the value that was dequeued could be.
func (s *queueSweep) takes(m *Moment) bool {
	switch was := s.values.dequeue(m.Value); {
	case was&dequeued != 0:
		s.broken.set("duplicate", m.Value)
		return false
	case was&enqueued == 0:
		s.early[m.Value] = true
		return false
	}
	return true
}

// probe begins one at the call of a dequeue.
func (s *queueSweep) probe(t int64) {
	if s.tooMany || t == s.last {
		return
	}
	s.last = t
	for len(s.covered) > 0 && s.covered[0].until <= t {
		s.covered = s.covered[1:]
	}
	switch {
	case len(s.covered) > 0 && s.covered[0].from < t:
		return
	case s.certain == 0:
		s.gap = t
		return
	}
	s.probes = append(s.probes, probe{t, s.certain})
	if !s.again && len(s.probes)+len(s.waiting) > s.undecided {
		s.tooMany, s.probes, s.waiting = true, nil, nil
	}
}

// taken tells the probes of a value that was in for certain between two times.
func (s *queueSweep) taken(from, until int64) {
	first := len(s.probes)
	for first > 0 && s.probes[first-1].at > from {
		first--
	}
	left := s.probes[:first]
	for _, p := range s.probes[first:] {
		if p.at < until {
			continue
		}
		if p.in--; p.in == 0 {
			s.gaps = append(s.gaps, p.at)
			continue
		}
		left = append(left, p)
	}
	s.probes = left
	if len(s.gaps) > 0 {
		s.found()
	}
}

// found forgets the empty dequeues in whose time a gap was just found.
func (s *queueSweep) found() {
	first := len(s.waiting)
	for first > 0 && s.waiting[first-1].until >= s.gaps[0] {
		first--
	}
	left, i := s.waiting[:first], 0
	for _, e := range s.waiting[first:] {
		for i+1 < len(s.gaps) && s.gaps[i+1] <= e.until {
			i++
		}
		if s.gaps[i] < e.from {
			left = append(left, e)
		}
	}
	s.waiting = left
	s.gap = max(s.gap, s.gaps[len(s.gaps)-1])
	s.gaps = s.gaps[:0]
}

// decideEmpty decides the empty dequeues that still wait at the end: by the probes at
// which only values were in that nobody took.
func (s *queueSweep) decideEmpty() {
	covered := s.covered
	if s.again {
		covered = nil // the probes are outside of it
	}
	free := func(t int64) bool {
		i, _ := slices.BinarySearchFunc(covered, t, func(c span, t int64) int { return cmp.Compare(c.until, t+1) })
		return i == len(covered) || covered[i].from >= t
	}
	for _, e := range s.waiting {
		i, _ := slices.BinarySearchFunc(s.probes, e.from, func(p probe, t int64) int { return cmp.Compare(p.at, t) })
		for i < len(s.probes) && s.probes[i].at <= e.until && !free(s.probes[i].at) {
			i++
		}
		if i == len(s.probes) || s.probes[i].at > e.until {
			s.broken.falseEmpty(e)
		}
	}
}

// finish says what can be said only at the end.
func (s *queueSweep) finish() {
	for v := range s.early {
		s.broken.set("phantom", v)
	}
	s.open = slices.AppendSeq(s.open, maps.Values(s.running))
	slices.SortFunc(s.open, func(a, b begun) int { return cmp.Or(cmp.Compare(a.call, b.call), cmp.Compare(a.id, b.id)) })
	type lost struct {
		value uint64
		ret   int64
	}
	var all []lost
	for v, at := range s.in {
		if at.ret != Never {
			all = append(all, lost{v, at.ret})
		}
	}
	slices.SortFunc(all, func(a, b lost) int { return cmp.Or(cmp.Compare(a.ret, b.ret), cmp.Compare(a.value, b.value)) })
	s.lost, s.never = make(map[uint64]bool, len(all)), make(map[int64]bool, len(s.open))
	for k, l := range all {
		s.lost[l.value] = true
		until, newest := int64(Never), s.newest
		if k < len(s.open) {
			until, newest = s.open[k].call, s.open[k].newest
		}
		if newest.call > l.ret {
			s.broken.set("order", l.value, newest.value)
		}
		if n := len(s.covered); n > 0 && l.ret < s.covered[n-1].until {
			s.covered[n-1].until = max(s.covered[n-1].until, until)
		} else if l.ret < until {
			s.covered = append(s.covered, span{l.ret, until})
		}
	}
	for _, o := range s.open {
		s.never[o.id] = true
	}
	s.broken.lost, s.broken.never = s.lost, s.never
	s.decideEmpty()
}

// second is the sweep of the second pass.
func (s *queueSweep) second() *queueSweep {
	again := newSweep(s.undecided)
	again.again, again.lost, again.never, again.covered = true, s.lost, s.never, s.covered
	again.broken.lost, again.broken.never = s.lost, s.never
	return again
}

func (s *queueSweep) result() Streamed {
	r := Streamed{Count: s.count, Result: Result{Verdict: Legal}}
	switch {
	case s.ambiguous:
		r.Result = enqueuedTwice(s.value)
	case s.broken.rule != "":
		r.Result, r.Ops = s.broken.witness()
	}
	r.Procedure = streamed
	return r
}

const streamed = "exact FIFO queue procedure, streamed"

// breach is the first rule that was seen to be broken. Two passes more collect the
// operations that prove it: the other procedure words the witness.
type breach struct {
	rule  string
	about map[uint64]bool // values
	empty span
	lost  map[uint64]bool
	never map[int64]bool

	in    map[uint64]stay
	ops   []Op
	place map[int64]int // by operation
}

func (b *breach) set(rule string, values ...uint64) {
	if b.rule != "" {
		return
	}
	b.rule, b.about, b.in, b.place = rule, map[uint64]bool{}, map[uint64]stay{}, map[int64]int{}
	for _, v := range values {
		b.about[v] = true
	}
}

func (b *breach) falseEmpty(e span) {
	if b.rule == "" {
		b.set(ruleEmpty)
		b.empty = e
	}
}

// cover finds the values that were in the queue while it was said to be empty.
func (b *breach) cover(m *Moment) {
	if b.rule != ruleEmpty {
		return
	}
	switch {
	case m.Kind == Enqueue && m.Stage == Called:
		b.in[m.Value] = stay{m.At, Never}
	case m.Kind == Enqueue && m.Stage == Returned:
		if at, in := b.in[m.Value]; in {
			b.in[m.Value] = stay{at.call, m.At}
		}
	case m.Kind == Dequeue && m.Stage == Returned:
		if b.in[m.Value].ret < b.empty.until && m.Call > b.empty.from {
			b.about[m.Value] = true
		}
		delete(b.in, m.Value)
	}
}

// collect keeps the operations on those values, on what was lost, and those without
// an answer.
func (b *breach) collect(m *Moment) {
	of := b.about[m.Value] || b.lost[m.Value]
	o := Op{Kind: m.Kind, Value: m.Value, Call: m.Call, Return: m.At}
	switch {
	case b.rule == "":
	case m.Kind == Enqueue && m.Stage == Called && of:
		o.Return = Never
		b.keep(m.ID, o)
	case m.Kind == Dequeue && m.Stage == Called && b.never[m.ID]:
		o.Return = Never
		b.keep(m.ID, o)
	case m.Stage == Returned && m.Kind == Enqueue && of:
		b.ops[b.place[m.ID]].Return = m.At
	case m.Stage == Returned && m.Kind == Dequeue && of:
		b.keep(m.ID, o)
	case m.Stage == Returned && m.Kind == Empty && b.rule == ruleEmpty && b.empty == span{m.Call, m.At}:
		b.keep(m.ID, o)
	case m.Stage == Failed && m.Kind == Enqueue && of:
		b.ops[b.place[m.ID]].Kind = 0
	}
}

func (b *breach) keep(id int64, o Op) {
	b.place[id] = len(b.ops)
	b.ops = append(b.ops, o)
}

// witness words what was collected.
func (b *breach) witness() (Result, []Op) {
	ops := slices.DeleteFunc(b.ops, func(o Op) bool { return o.Kind == 0 })
	slices.SortStableFunc(ops, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
	r, err := Exact(Queue, ops)
	if err != nil || r.Verdict != Illegal {
		return unknown("%s of the rule %s was not found again: report it together with the history", lostCover, b.rule), nil
	}
	return r, ops
}

// What is known of a value, in bits.
const (
	enqueued = 1 << iota
	dequeued
)

// values is what happened to the values: two bits for each in blocks of 64, of
// which those met last are at hand.
type values struct {
	blocks map[uint64]*block
	recent [64]struct {
		key   uint64
		block *block
	}
}

type block struct{ enqueued, dequeued uint64 }

func (v *values) of(value uint64) (b *block, bit uint64) {
	key := value >> 6
	bit = 1 << (value & 63)
	near := &v.recent[(key^value>>40)%uint64(len(v.recent))]
	if near.block != nil && near.key == key {
		return near.block, bit
	}
	b = v.blocks[key]
	if b == nil {
		if v.blocks == nil {
			v.blocks = map[uint64]*block{}
		}
		b = new(block)
		v.blocks[key] = b
	}
	near.key, near.block = key, b
	return b, bit
}

func (b *block) state(bit uint64) (s int) {
	if b.enqueued&bit != 0 {
		s |= enqueued
	}
	if b.dequeued&bit != 0 {
		s |= dequeued
	}
	return s
}

// enqueue, dequeue and forget return what was known before.
func (v *values) enqueue(value uint64) int {
	b, bit := v.of(value)
	was := b.state(bit)
	b.enqueued |= bit
	return was
}

func (v *values) dequeue(value uint64) int {
	b, bit := v.of(value)
	was := b.state(bit)
	b.dequeued |= bit
	return was
}

func (v *values) forget(value uint64) int {
	b, bit := v.of(value)
	was := b.state(bit)
	b.enqueued &^= bit
	return was
}
