package history

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

var _ Sink = (*Recorder)(nil)

// Recorder is a Sink in memory, for tests and the simulator. Its methods may
// be called from several goroutines. The first misuse is kept for Err.
type Recorder struct {
	mu  sync.Mutex
	h   History
	err error
}

// NewRecorder returns an empty Recorder. It sets the header's Version.
func NewRecorder(header Header) *Recorder {
	header.Version = Version
	return &Recorder{h: History{Header: header}}
}

// Invoke implements Sink, exactly as Writer does.
func (r *Recorder) Invoke(op *Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	op.ID = int64(len(r.h.Ops))
	o := *op
	o.Return, o.Outcome, o.Code, o.Records = Infinity, Pending, "", nil
	if n := len(r.h.Ops); n == cap(r.h.Ops) {
		r.h.Ops = slices.Grow(r.h.Ops, max(1024, n)) // append would copy a long history more often
	}
	r.h.Ops = append(r.h.Ops, o)
}

// Complete implements Sink, exactly as Writer does.
func (r *Recorder) Complete(op *Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	open := op.ID >= 0 && op.ID < int64(len(r.h.Ops)) && r.h.Ops[op.ID].Outcome == Pending
	if err := checkComplete(op, open); err != nil {
		r.fail(err)
		return
	}
	o := &r.h.Ops[op.ID]
	o.Return, o.Outcome, o.Code = op.Return, op.Outcome, op.Code
	o.Records = cloneRecords(op.Records)
	knownOf(op).into(o)
}

// Event implements Sink. It takes an event by value or by pointer, and keeps
// what the event points to.
func (r *Recorder) Event(ev any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch v := ev.(type) {
	case Phase, Fault, NodeEvent, Stall, Drain, Note:
		r.h.add(v)
	case *Phase:
		r.h.add(*v)
	case *Fault:
		r.h.add(*v)
	case *NodeEvent:
		r.h.add(*v)
	case *Stall:
		r.h.add(*v)
	case Replica:
		v.Records = cloneRecords(v.Records)
		r.h.add(v)
	case *Replica:
		c := *v
		c.Records = cloneRecords(v.Records)
		r.h.add(c)
	case *Drain:
		r.h.add(*v)
	case *Note:
		r.h.add(*v)
	default:
		r.fail(fmt.Errorf("%T is no event of a history: record a Phase, Fault, NodeEvent, Stall, Replica, Drain or Note", ev))
	}
}

// cloneRecords copies records; none are nil, as they are when read from a file.
func cloneRecords(records []Record) []Record {
	if len(records) == 0 {
		return nil
	}
	return slices.Clone(records)
}

func (r *Recorder) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Err returns the first misuse: an answer to what was not open, an outcome
// that is none, something that is no event.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// History returns what was recorded so far, as Load would return it from a
// closed file. What is recorded later does not change it. The slices within
// its entries are shared with later calls and must not be written.
func (r *Recorder) History() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := History{
		Header:   r.h.Header,
		Ops:      slices.Clone(r.h.Ops),
		Phases:   slices.Clone(r.h.Phases),
		Faults:   slices.Clone(r.h.Faults),
		Events:   slices.Clone(r.h.Events),
		Stalls:   slices.Clone(r.h.Stalls),
		Replicas: slices.Clone(r.h.Replicas),
		Drains:   slices.Clone(r.h.Drains),
		Notes:    slices.Clone(r.h.Notes),
		Closed:   true,
	}
	for i := range h.Ops {
		if h.Ops[i].Outcome == Pending {
			h.Ops[i].Outcome = Indeterminate
		}
	}
	if err := h.resolve(); err != nil {
		r.fail(errors.Join(errors.New("recording replicas"), err))
	}
	return &h
}
