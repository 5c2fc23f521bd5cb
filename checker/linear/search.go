package linear

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// searchMemory bounds what Porcupine may hold, in bytes: it keeps a bitset of all
// operations and a state with every configuration that it has seen, and sees at
// most one for each step that is possible.
const searchMemory = 1 << 30

// bounds are those of a search.
type bounds struct {
	time   time.Duration
	memory int // bytes
}

// within are the bounds of a search that may take limit (0: DefaultLimit).
func within(limit time.Duration) bounds {
	if limit <= 0 {
		limit = DefaultLimit
	}
	return bounds{limit, searchMemory}
}

// Search asks Porcupine, which searches for an order and decides any history if
// it is given the time. It is Unknown, with the reason, after limit, when ctx ends,
// or when it would need too much memory. It gives no witness. Input and errors are as
// for Decide.
func Search(ctx context.Context, object Object, ops []Op, limit time.Duration) (Result, error) {
	return searchOps(ctx, object, ops, within(limit))
}

func searchOps(ctx context.Context, object Object, ops []Op, most bounds) (Result, error) {
	if err := validate(object, ops); err != nil {
		return Result{}, err
	}
	place := func(o *Op) *Op { return o }
	settled := false
	if object == Log || object == SparseLog {
		place, settled = places(ops)
	}
	var history []porcupine.Operation
	size := 0
	for i := range ops {
		o := &ops[i]
		switch o.Kind {
		case Enqueue, Append:
			size += 16
		case Get, End, Read:
			if o.open() {
				continue // it says nothing
			}
		}
		history = append(history, porcupine.Operation{Input: place(o), Call: o.Call, Return: o.Return})
	}
	if settled {
		size = 8
	}
	return search(ctx, history, size, most, func(state string, o *Op) (bool, string) {
		return step(object, settled, state, o)
	}), nil
}

// search asks Porcupine about operations whose inputs are of type T, on an object
// that begins as "" and whose states are of size bytes at most.
func search[T any](ctx context.Context, history []porcupine.Operation, size int, may bounds, step func(state string, o T) (bool, string)) Result {
	most := int64(may.memory / (len(history)/8 + size + 256))
	var steps atomic.Int64 // those that were possible
	seed := maphash.MakeSeed()
	model := porcupine.Model{
		Init: func() any { return "" },
		StepContext: func(stepCtx context.Context, state, input, _ any) (bool, any) {
			// A refused step ends the search early; its verdict is then void.
			if steps.Load() > most || stepCtx.Err() != nil || ctx.Err() != nil {
				return false, state
			}
			ok, next := step(state.(string), input.(T))
			if ok {
				steps.Add(1)
			}
			return ok, next
		},
		Hash: func(state any) uint64 { return maphash.String(seed, state.(string)) },
	}
	res := porcupine.CheckOperationsTimeout(model, history, may.time)
	r := Result{Procedure: "Porcupine"}
	switch {
	case ctx.Err() != nil:
		r.Verdict, r.Reason = Unknown, "Porcupine was interrupted"
	case steps.Load() > most:
		r.Verdict, r.Reason = Unknown, fmt.Sprintf("Porcupine would need more than %d MiB", may.memory>>20)
	case res == porcupine.Ok:
		r.Verdict = Legal
	case res == porcupine.Illegal:
		r.Verdict = Illegal
	default:
		r.Verdict, r.Reason = Unknown, fmt.Sprintf("Porcupine did not decide within %s", may.time)
	}
	return r
}

// places gives appends the offset that a read tells of them: they can only stand
// there. settled is true where no value stands at two offsets and no two values at one:
// then a log is where its end is, for whoever takes another one's offset leaves that
// one no place.
func places(ops []Op) (place func(*Op) *Op, settled bool) {
	seen, held, settled := map[uint64]int64{}, map[int64]uint64{}, true
	for i := range ops {
		o := &ops[i]
		if o.Kind == End || o.Kind == Get && o.open() || o.Offset == NoOffset {
			continue
		}
		offset, shown := seen[o.Value]
		value, taken := held[o.Offset]
		settled = settled && (!shown || offset == o.Offset) && (!taken || value == o.Value)
		if o.Kind == Get || !shown {
			seen[o.Value], held[o.Offset] = o.Offset, o.Value
		}
	}
	appended := map[uint64]bool{}
	for i := range ops {
		if o := &ops[i]; o.Kind == Append {
			settled = settled && !appended[o.Value]
			appended[o.Value] = true
		}
	}
	for value := range seen {
		settled = settled && appended[value]
	}
	return func(o *Op) *Op {
		if offset, ok := seen[o.Value]; ok && o.Kind == Append && o.Offset == NoOffset {
			placed := *o
			placed.Offset = offset
			return &placed
		}
		return o
	}, settled
}

// step is the sequential object. A state is a string of what it holds: of a queue its
// values, of a log pairs of offset and value and the end, or the end alone where its
// records are settled, of a register the value.
func step(object Object, settled bool, s string, o *Op) (bool, string) {
	const width = 8
	word := func(i int) uint64 { return binary.BigEndian.Uint64([]byte(s[i : i+width])) }
	with := func(s string, values ...uint64) string {
		b := []byte(s)
		for _, v := range values {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		return string(b)
	}
	switch object {
	case Queue:
		switch {
		case o.Kind == Enqueue:
			return true, with(s, o.Value)
		case o.Kind == Empty:
			return s == "", s
		case s == "":
			return o.open(), s // unanswered: it may have found nothing
		case !o.open() && word(0) != o.Value:
			return false, s
		}
		return true, s[width:]
	case Log, SparseLog:
		end, records := uint64(0), ""
		if s != "" {
			records = s[:len(s)-width]
			end = word(len(s) - width)
		}
		offset := uint64(o.Offset)
		switch o.Kind {
		case Append:
			if o.Offset == NoOffset {
				offset = end // and whatever else it could be with gaps leaves less room
			}
			if offset < end || object == Log && offset != end {
				return false, s
			}
			if settled {
				return true, with("", offset+1)
			}
			return true, with(records, offset, o.Value, offset+1)
		case End:
			if object == SparseLog && offset > end {
				return true, with(records, offset)
			}
			return offset == end, s
		case Get:
			if settled {
				return offset < end, s
			}
		}
		for i := 0; i < len(records); i += 2 * width {
			if word(i) == offset {
				return word(i+width) == o.Value, s
			}
		}
		return false, s
	}
	value := uint64(Unset)
	if s != "" {
		value = word(0)
	}
	switch o.Kind {
	case Write:
		return true, with("", o.Value)
	case Swap:
		if value == uint64(o.Offset) {
			return true, with("", o.Value)
		}
		return o.open(), s // unanswered: it may have been refused
	case Refused:
		return value != uint64(o.Offset), s
	}
	return value == o.Value, s
}
