package linear

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
)

// Stage is what happens to an operation at a moment.
type Stage uint8

// The stages. Every operation is called once, and ends once at most.
const (
	Called     Stage = iota // with the value to enqueue; of a dequeue nobody knows yet what it takes
	Returned                // with the value that a dequeue took, as Empty where there was none
	Failed                  // it had no effect for certain
	Unanswered              // it may take effect at any time from its call on, or not at all
)

// Moment is one end of an operation on one of several queues.
type Moment struct {
	At    int64 // the time of the call, or of the return
	Call  int64 // the time of the call
	ID    int64 // which operation this is
	Value uint64
	Queue int32 // which queue it is on, from 0
	Kind  Kind  // Enqueue, Dequeue or Empty
	Stage Stage
}

// Stream gives the moments of a history nearly in the order of time, and can be
// read again from the beginning: up to three times more where there is something to
// tell. What has no end stays unanswered. An error ends it, and is passed on.
type Stream func() iter.Seq2[Moment, error]

// ErrDisorder says that a stream's moments are too far from the order of time.
var ErrDisorder = errors.New("its moments are too far from the order of time to be decided as a stream")

// Streamed is the result of one queue of a stream.
type Streamed struct {
	Result
	Count int  // operations that did not fail
	Ops   []Op // those that the witness is about, by whose indices it names them
}

// Moments that a stream is held back by, so that they can be put in order: at first
// and at most.
const (
	firstSlack = 1 << 12
	mostSlack  = 1 << 20
)

// mostUndecided is how many moments of empty dequeues a sweep keeps until the end,
// 16 bytes each, before it leaves them to a second one.
const mostUndecided = 1 << 20

// DecideQueues decides FIFO queues as Exact does, in memory that grows with what
// is in the queues and under way at the same time (about 100 bytes each) and with the
// number of values (two bits each where they are dense). docs/checking.md gives the
// argument. It fails with ErrDisorder, with an error of the stream, and with that of ctx.
func DecideQueues(ctx context.Context, queues int, stream Stream) ([]Streamed, error) {
	for slack := firstSlack; ; slack *= 16 {
		results, err := decideQueues(ctx, queues, stream, slack, mostUndecided)
		if !errors.Is(err, ErrDisorder) || slack >= mostSlack {
			return results, err
		}
	}
}

func decideQueues(ctx context.Context, queues int, stream Stream, slack, undecided int) ([]Streamed, error) {
	sweeps := make([]*queueSweep, queues)
	for i := range sweeps {
		sweeps[i] = newSweep(undecided)
	}
	pass := func(visit func(*queueSweep, *Moment)) error {
		return inOrder(ctx, stream, slack, func(m *Moment) error {
			if m.Queue < 0 || int(m.Queue) >= len(sweeps) {
				return fmt.Errorf("operation %d is on queue %d of %d", m.ID, m.Queue, len(sweeps))
			}
			visit(sweeps[m.Queue], m)
			return nil
		})
	}
	if err := pass((*queueSweep).visit); err != nil {
		return nil, err
	}
	again, broken, covers := false, false, false
	for i, s := range sweeps {
		s.finish()
		if s.tooMany && !s.ambiguous && s.broken.rule == "" {
			sweeps[i] = s.second()
			again = true
		}
	}
	if again {
		err := pass(func(s *queueSweep, m *Moment) {
			if s.again {
				s.visit(m)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	for _, s := range sweeps {
		if s.again {
			s.decideEmpty()
		}
		broken = broken || s.broken.rule != ""
		covers = covers || s.broken.rule == ruleEmpty
	}
	if covers {
		if err := pass(func(s *queueSweep, m *Moment) { s.broken.cover(m) }); err != nil {
			return nil, err
		}
	}
	if broken {
		if err := pass(func(s *queueSweep, m *Moment) { s.broken.collect(m) }); err != nil {
			return nil, err
		}
	}
	results := make([]Streamed, queues)
	for i, s := range sweeps {
		results[i] = s.result()
	}
	return results, nil
}

// inOrder visits the moments of a stream in the order of time, calls before returns.
func inOrder(ctx context.Context, stream Stream, slack int, visit func(*Moment) error) error {
	var b backlog
	last, m := Moment{At: math.MinInt64}, Moment{}
	next := func() error {
		m = b.pop()
		if compare(&m, &last) < 0 {
			return ErrDisorder
		}
		last = m
		return visit(&m)
	}
	for batch, err := range ahead(ctx, stream) {
		if err != nil {
			return err
		}
		for i := range batch {
			b.push(&batch[i])
			if b.len() > slack {
				if err := next(); err != nil {
					return err
				}
			}
		}
	}
	for b.len() > 0 {
		if err := next(); err != nil {
			return err
		}
	}
	return nil
}

// ahead reads a stream in a goroutine of its own, while what it read before is looked at.
func ahead(ctx context.Context, stream Stream) iter.Seq2[[]Moment, error] {
	const size, batches = 1 << 10, 8
	return func(yield func([]Moment, error) bool) {
		ctx, stop := context.WithCancel(ctx)
		full, spare := make(chan []Moment, batches), make(chan []Moment, batches)
		for range batches {
			spare <- make([]Moment, 0, size)
		}
		var err error // of the stream; read once full is closed
		go func() {
			defer close(full)
			err = fill(ctx, stream, full, spare)
		}()
		defer func() {
			stop()
			for range full { // until the goroutine has ended
			}
		}()
		for batch := range full {
			if !yield(batch, nil) {
				return
			}
			spare <- batch[:0]
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// fill hands the moments of a stream over in batches.
func fill(ctx context.Context, stream Stream, full chan<- []Moment, spare <-chan []Moment) error {
	hand := func(batch []Moment) error {
		select {
		case full <- batch:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	batch := <-spare
	for m, err := range stream() {
		if err != nil {
			return err
		}
		if m.At < m.Call {
			return fmt.Errorf("operation %d returned at %d, before its call at %d: its times are damaged", m.ID, m.At, m.Call)
		}
		if batch = append(batch, m); len(batch) < cap(batch) {
			continue
		}
		if err := hand(batch); err != nil {
			return err
		}
		select {
		case batch = <-spare:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return hand(batch)
}

// compare orders moments by time, and calls before everything else of one time.
func compare(a, b *Moment) int {
	if a.At != b.At {
		return cmp.Compare(a.At, b.At)
	}
	return cmp.Compare(min(a.Stage, Returned), min(b.Stage, Returned))
}

// backlog holds moments that are nearly in order: those that fit in near the end
// are in a sorted list, and the others in a heap.
type backlog struct {
	sorted []Moment
	head   int
	heap   []Moment
}

// nearEnd is how far from the end of the sorted list a moment is put into it.
const nearEnd = 64

func (b *backlog) len() int { return len(b.sorted) - b.head + len(b.heap) }

func (b *backlog) push(m *Moment) {
	i := len(b.sorted)
	for i > b.head && compare(m, &b.sorted[i-1]) < 0 {
		i--
		if i < len(b.sorted)-nearEnd {
			b.raise(*m)
			return
		}
	}
	b.sorted = append(b.sorted, *m)
	if i < len(b.sorted)-1 {
		copy(b.sorted[i+1:], b.sorted[i:])
		b.sorted[i] = *m
	}
}

// pop takes the first of all.
func (b *backlog) pop() Moment {
	if b.head == len(b.sorted) || len(b.heap) > 0 && compare(&b.heap[0], &b.sorted[b.head]) < 0 {
		return b.sink()
	}
	m := b.sorted[b.head]
	b.head++
	if b.head > len(b.sorted)/2 && b.head >= 1<<10 {
		b.sorted = b.sorted[:copy(b.sorted, b.sorted[b.head:])]
		b.head = 0
	}
	return m
}

func (b *backlog) raise(m Moment) {
	b.heap = append(b.heap, m)
	for i := len(b.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if compare(&b.heap[up], &b.heap[i]) <= 0 {
			return
		}
		b.heap[up], b.heap[i] = b.heap[i], b.heap[up]
		i = up
	}
}

func (b *backlog) sink() Moment {
	h := b.heap
	m := h[0]
	last := len(h) - 1
	h[0] = h[last]
	h = h[:last]
	b.heap = h
	for i := 0; 2*i+1 < last; {
		down := 2*i + 1
		if down+1 < last && compare(&h[down+1], &h[down]) < 0 {
			down++
		}
		if compare(&h[i], &h[down]) <= 0 {
			break
		}
		h[i], h[down] = h[down], h[i]
		i = down
	}
	return m
}
