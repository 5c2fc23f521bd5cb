package history

import (
	"errors"
	"io"
	"iter"
)

// Entry is one entry of a history: an invocation or an answer of Op, or Event.
type Entry struct {
	Op       *Op
	Answered bool // Op was answered; otherwise it was only invoked, and is Pending
	Event    any  // Phase, Fault, NodeEvent, Stall, Replica, Drain or Note; then Op is nil
}

// Entries reads the rest of the file entry by entry, in the order in which they
// were recorded, in memory that does not grow with the history: an operation and
// its Records are valid until the next entry, and are used again then; only while
// an operation is open may its Op be kept. The sequence ends at the end of the file
// as it is now, or with an error as Next returns it. Next and Entries must not be
// mixed on one Reader.
func (r *Reader) Entries() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r.reuse = true
		for {
			e, err := r.step()
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Operations reads the rest of the file as Entries does, and gives the operations
// only: in the order of their answers, and at last those without an answer,
// Indeterminate with Return Infinity, in order of ID.
func (r *Reader) Operations() iter.Seq2[*Op, error] {
	return func(yield func(*Op, error) bool) {
		for e, err := range r.Entries() {
			if (e.Answered || err != nil) && !yield(e.Op, err) {
				return
			}
		}
		if r.err != nil {
			return
		}
		for _, op := range r.Open() {
			unanswered := *op
			unanswered.Outcome = Indeterminate
			if !yield(&unanswered, nil) {
				return
			}
		}
	}
}

// newOp is where the next invocation goes.
func (r *Reader) newOp() *Op {
	if n := len(r.free); n > 0 {
		op := r.free[n-1]
		r.free = r.free[:n-1]
		return op
	}
	return new(Op)
}
