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
// probes. At a probe the queue may have been empty if all values in it by then were
// taken by the dequeues that were under way.
//
// What nobody dequeued can be said only at the end, so a first pass takes it for
// something that is dequeued later. Where that makes an empty dequeue wrong, a second
// pass decides: it knows what was lost, and until when.
type queueSweep struct {
	values  values
	in      map[uint64]stay // not dequeued yet
	early   map[uint64]bool // dequeued, and not enqueued yet
	running map[int64]begun // dequeues
	newest  newest
	open    []begun // dequeues without an answer
	count   int

	certain int64 // values in the queue whose enqueue has returned
	busy    int64 // dequeues under way
	calling bool  // a dequeue was called at calledAt, and there is no probe of that time yet
	called  int64
	probes  []probe
	first   int   // those before it are decided
	gap     int64 // the latest decided probe that found the queue empty
	waiting []span
	next    int // those before it are decided

	suspect   bool // an empty dequeue is wrong, or would be if nothing was lost
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
	at   int64
	in   int64 // values in it that nobody took yet
	busy int64 // dequeues that may have taken them
}

// Decided probes: nothing was in, something was for certain.
const (
	nothingIn   = 0
	somethingIn = -1
)

// mostProbes is how many probes the first pass keeps before it leaves empty dequeues
// to the second.
const mostProbes = 1 << 18

const ruleEmpty = "false-empty"

func newSweep() *queueSweep {
	return &queueSweep{
		in: map[uint64]stay{}, early: map[uint64]bool{}, running: map[int64]begun{},
		newest: newest{call: math.MinInt64}, gap: math.MinInt64,
	}
}

func (s *queueSweep) visit(m *Moment) {
	switch {
	case m.Stage == Called && m.Kind == Enqueue:
		s.count++
		s.enqueue(m)
	case m.Stage == Called:
		s.count++
		s.probeAt(m.At)
		if !s.never[m.ID] {
			s.running[m.ID] = begun{m.ID, m.Call, s.newest}
			s.busy++
		}
	case m.Kind == Enqueue:
		s.settle()
		s.enqueued(m)
	case !s.never[m.ID]:
		s.settle()
		s.dequeued(m)
		s.prune()
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
	s.busy--
	ret := int64(Never) // of the enqueue of what it took
	switch {
	case m.Stage == Unanswered:
		s.open = append(s.open, begun)
	case m.Stage == Failed:
		s.count--
	case m.Kind == Empty:
		s.waiting = append(s.waiting, span{m.Call, m.At})
	case !s.again && !s.takes(m):
	default:
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
		}
		ret = at.ret
	}
	s.take(m.Call, ret)
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

// probeAt asks for a probe at a time, once everything of that time was called.
func (s *queueSweep) probeAt(t int64) {
	if s.calling && s.called != t {
		s.settle()
	}
	s.calling, s.called = true, t
}

// settle makes the probe that was asked for.
func (s *queueSweep) settle() {
	if !s.calling {
		return
	}
	s.calling = false
	for len(s.covered) > 0 && s.covered[0].until <= s.called {
		s.covered = s.covered[1:]
	}
	switch {
	case s.suspect && !s.again, s.certain > s.busy, len(s.covered) > 0 && s.covered[0].from < s.called:
		return // it is left to the second pass; or something was in
	}
	s.probes = append(s.probes, probe{s.called, s.certain, s.busy})
	if !s.again && len(s.probes)-s.first > mostProbes {
		s.suspect = true
		s.probes, s.first, s.waiting, s.next = nil, 0, nil, 0
	}
}

// take ends a dequeue for the probes: it took what was enqueued by a time, or nothing.
func (s *queueSweep) take(call, enqueued int64) {
	from := call
	if enqueued < call {
		from = enqueued + 1
	}
	i, _ := slices.BinarySearchFunc(s.probes[s.first:], from, func(p probe, t int64) int { return cmp.Compare(p.at, t) })
	for i += s.first; i < len(s.probes); i++ {
		p := &s.probes[i]
		switch {
		case p.in == nothingIn || p.in == somethingIn:
		case p.at < call:
			p.in = somethingIn // it was taken only later
		default:
			p.busy--
			if enqueued < p.at {
				p.in--
			}
			if p.in > p.busy {
				p.in = somethingIn
			}
		}
	}
}

// prune forgets what is decided.
func (s *queueSweep) prune() {
	for s.first < len(s.probes) {
		p := &s.probes[s.first]
		if p.in != nothingIn && p.in != somethingIn {
			break
		}
		s.empties(p.at)
		if p.in == nothingIn {
			s.gap = p.at
		}
		s.first++
	}
	switch {
	case s.first == len(s.probes):
		s.empties(math.MaxInt64)
		s.probes, s.first = s.probes[:0], 0
	case s.next < len(s.waiting):
		s.empties(s.probes[s.first].at)
		fallthrough
	default:
		if s.first >= 1<<10 && s.first > len(s.probes)/2 {
			s.probes = s.probes[:copy(s.probes, s.probes[s.first:])]
			s.first = 0
		}
	}
}

// empties decides the empty dequeues that returned before a time, up to which all
// probes are decided.
func (s *queueSweep) empties(before int64) {
	for ; s.next < len(s.waiting) && s.waiting[s.next].until < before; s.next++ {
		if e := s.waiting[s.next]; s.gap < e.from {
			s.suspect = true
			if s.again {
				s.broken.falseEmpty(e)
			}
		}
	}
	if s.next == len(s.waiting) {
		s.waiting, s.next = s.waiting[:0], 0
	}
}

// finish says what can be said only at the end.
func (s *queueSweep) finish() {
	s.suspect = s.suspect || s.next < len(s.waiting)
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
}

// second is the sweep of the second pass.
func (s *queueSweep) second() *queueSweep {
	again := newSweep()
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
