// Package linear decides whether histories of operations on one object are
// linearizable: whether each operation can be given a moment between its call and
// its return such that a sequential object gives the same answers in the order of
// the moments.
//
// With unique values a FIFO queue, an append-only log and a register have exact
// decision procedures in O(n log n); they stand beside Porcupine's search, which
// decides any history, if it is small enough. The rules are those of Henzinger,
// Sezgin, Vafeiadis: Aspect-Oriented Linearizability Proofs (CONCUR 2013) for
// queues, and of Gibbons, Korach: Testing Shared Memories (SIAM J. Comput. 1997)
// for registers. One operation precedes another only if its return is strictly
// before the other's call: with equal times they are concurrent.
package linear

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

// Kind is what an operation does.
type Kind uint8

// The kinds, by object.
const (
	Enqueue Kind = iota + 1 // queue: puts Value in at the end
	Dequeue                 // queue: took Value from the front; one without an answer took a value that nobody knows, or none
	Empty                   // queue: a dequeue that found nothing
	Append                  // log: puts Value at Offset; NoOffset where that is not known. With an offset it did so, answered or not
	Get                     // log: saw Value at Offset
	End                     // log: saw that Offset is the next one to be taken
	Write                   // register: sets it to Value
	Read                    // register: saw Value, Unset where nothing was written yet
	Swap                    // register with compare-and-set: held Offset, and holds Value now; without an answer it may have been refused
	Refused                 // register with compare-and-set: did not hold Offset
)

func (k Kind) String() string {
	names := [...]string{"", "enqueue", "dequeue", "dequeue-empty", "append", "read", "end-of-log", "write", "read", "compare-and-set", "refused compare-and-set"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Limits of times and offsets.
const (
	Never    = math.MaxInt64 // the return of an operation without an answer: it may take effect at any time from its call on, or not at all
	NoOffset = -1
)

// Unset is what a register holds before the first write.
const Unset = math.MaxUint64

// Op is one operation. Operations that failed for certain are not part of a
// history: they had no effect.
type Op struct {
	Call   int64  `json:"call"` // on one monotonic clock
	Return int64  `json:"return"`
	Value  uint64 `json:"value"`
	Offset int64  `json:"offset"` // of a compare-and-set the value compared with
	Kind   Kind   `json:"kind"`
}

// String tells the operation and when it was.
func (o *Op) String() string {
	until := strconv.FormatInt(o.Return, 10)
	if o.open() {
		until = "never"
	}
	return fmt.Sprintf("[%d, %s] %s", o.Call, until, describe(o))
}

// MarshalText writes the kind's name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (o *Op) open() bool { return o.Return == Never }

// Object is what a history is about.
type Object string

// The objects.
const (
	Queue     Object = "FIFO queue"
	Log       Object = "log"           // offsets are dense, from 0 on
	SparseLog Object = "log with gaps" // offsets grow, and any may be skipped
	Register  Object = "register"
	CAS       Object = "register with compare-and-set" // no exact procedure decides it
)

// kinds of an object's operations.
func (o Object) kinds() []Kind {
	switch o {
	case Queue:
		return []Kind{Enqueue, Dequeue, Empty}
	case Log, SparseLog:
		return []Kind{Append, Get, End}
	case Register:
		return []Kind{Write, Read}
	case CAS:
		return []Kind{Write, Read, Swap, Refused}
	}
	return nil
}

// Verdict is what was decided.
type Verdict string

// The verdicts.
const (
	Legal   Verdict = "linearizable"
	Illegal Verdict = "not linearizable"
	Unknown Verdict = "unknown"
)

// Result is a verdict and what it rests on.
type Result struct {
	Verdict   Verdict
	Procedure string   // which one decided
	Reason    string   // Unknown: why
	Witness   *Witness // Illegal, by an exact procedure
}

// Witness proves that a history is not linearizable.
type Witness struct {
	Rule string // the broken one: phantom, duplicate, fresh, order, false-empty, moved, two-values, hole, cycle
	// Ops are the operations that prove it, by their index, ascending.
	Ops  []int
	Text string // in words
	// Object is that of which Ops, on their own, are a history that is not
	// linearizable either; "" where the proof is what is missing in all of the history.
	Object Object
}

// DefaultLimit is how long Porcupine may search.
const DefaultLimit = 10 * time.Second

// Decide decides a history by the exact procedure of its object, and what that
// cannot decide by Porcupine within limit (0: DefaultLimit). Operations are in the
// order of their calls. An error is that of malformed input; it names the operation.
func Decide(ctx context.Context, object Object, ops []Op, limit time.Duration) (Result, error) {
	r, err := Exact(object, ops)
	if err != nil || r.Verdict != Unknown {
		return r, err
	}
	if limit <= 0 {
		limit = DefaultLimit
	}
	s, err := Search(ctx, object, ops, limit)
	if err == nil && s.Verdict == Unknown {
		s.Reason = r.Reason + ", and " + s.Reason
	}
	return s, err
}

// Exact decides a history by the exact procedure of its object, in O(n log n). It
// is Unknown, with the reason, where that needs unique values and they are not.
// Input and errors are as for Decide.
func Exact(object Object, ops []Op) (Result, error) {
	if err := validate(object, ops); err != nil {
		return Result{}, err
	}
	var r Result
	switch object {
	case Queue:
		r = decideQueue(ops)
	case Log, SparseLog:
		r = decideLog(ops, object == SparseLog)
	case Register:
		r = decideRegister(ops)
	case CAS:
		r = unknown("a register with compare-and-set is left to a search")
	}
	r.Procedure = "exact " + string(object) + " procedure"
	if w := r.Witness; w != nil && object != Log && object != SparseLog {
		w.Object = object
	}
	return r, nil
}

// validate refuses what is no history of an object.
func validate(object Object, ops []Op) error {
	kinds := object.kinds()
	if kinds == nil {
		return fmt.Errorf("unknown object %q: known are %q, %q, %q, %q and %q", object, Queue, Log, SparseLog, Register, CAS)
	}
	if len(ops) > math.MaxInt32 {
		return fmt.Errorf("%d operations are too many: %d are possible in one history; check a part of it", len(ops), math.MaxInt32)
	}
	last := int64(math.MinInt64)
	for i := range ops {
		o := &ops[i]
		switch {
		case !slices.Contains(kinds, o.Kind):
			return fmt.Errorf("operation %d is of kind %s, which a %s does not have", i, o.Kind, object)
		case o.Return < o.Call:
			return fmt.Errorf("operation %d (%s) returned at %d, before its call at %d: its times are damaged", i, o.Kind, o.Return, o.Call)
		case o.Call < last:
			return fmt.Errorf("operation %d (%s) was called at %d, before the one in front of it at %d: sort operations by their calls", i, o.Kind, o.Call, last)
		case o.Kind == Empty && o.open():
			return fmt.Errorf("operation %d found the queue empty and never returned: one without an answer is a dequeue", i)
		case o.Kind == Append && o.Offset < NoOffset, (o.Kind == Get || o.Kind == End) && o.Offset < 0:
			return fmt.Errorf("operation %d (%s) has offset %d: 0 or more is possible", i, o.Kind, o.Offset)
		}
		last = o.Call
	}
	return nil
}

func unknown(format string, args ...any) Result {
	return Result{Verdict: Unknown, Reason: fmt.Sprintf(format, args...)}
}

func illegal(rule string, ops []int, format string, args ...any) Result {
	slices.Sort(ops)
	return Result{Verdict: Illegal, Witness: &Witness{Rule: rule, Ops: slices.Compact(ops), Text: fmt.Sprintf(format, args...)}}
}

// describe words an operation for a witness.
func describe(o *Op) string {
	switch o.Kind {
	case Empty:
		return "dequeue-empty"
	case Dequeue:
		if o.open() {
			return "an unanswered dequeue"
		}
	case Read:
		if o.Value == Unset {
			return "read(nothing)"
		}
	case Append:
		if o.Offset == NoOffset {
			return fmt.Sprintf("append(%d)", o.Value)
		}
		return fmt.Sprintf("append(%d at %d)", o.Value, o.Offset)
	case Get:
		return fmt.Sprintf("read(%d at %d)", o.Value, o.Offset)
	case End:
		return fmt.Sprintf("end-of-log(%d)", o.Offset)
	case Swap, Refused:
		return fmt.Sprintf("%s(%d to %d)", o.Kind, o.Offset, o.Value)
	}
	return fmt.Sprintf("%s(%d)", o.Kind, o.Value)
}

// indexed gives the values of some operations dense numbers: those that are small
// already keep theirs.
type indexed struct {
	number map[uint64]int32 // nil: a value is its own number
	n      int              // numbers are below it
}

// index numbers the values of the operations of some kinds.
func index(ops []Op, of func(*Op) bool) indexed {
	largest, count := uint64(0), 0
	for i := range ops {
		if of(&ops[i]) {
			largest = max(largest, ops[i].Value)
			count++
		}
	}
	if largest < 4*uint64(count)+1024 {
		return indexed{n: int(largest) + 1}
	}
	x := indexed{number: make(map[uint64]int32, count/2)}
	for i := range ops {
		if !of(&ops[i]) {
			continue
		}
		if _, ok := x.number[ops[i].Value]; !ok {
			x.number[ops[i].Value] = int32(len(x.number))
		}
	}
	x.n = len(x.number)
	return x
}

func (x *indexed) of(value uint64) int32 {
	if x.number == nil {
		return int32(value)
	}
	return x.number[value]
}
