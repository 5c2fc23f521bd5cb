package linear

import (
	"context"
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

// TextOp is one operation on a text: Put sets it, Concat appends to it, Look saw it.
// It is "" at the beginning.
type TextOp struct {
	Call   int64
	Return int64 // Never: without an answer
	Kind   TextKind
	Text   string
}

// TextKind is what an operation on a text does.
type TextKind uint8

// The kinds.
const (
	Put TextKind = iota
	Concat
	Look
)

// SearchText asks Porcupine whether operations on a text are linearizable: no exact
// procedure decides that. It is Unknown, with the reason, after limit (0:
// DefaultLimit), when ctx ends, or when it would need too much memory. It gives no witness.
func SearchText(ctx context.Context, ops []TextOp, limit time.Duration) (Result, error) {
	var history []porcupine.Operation
	size := 0
	for i := range ops {
		o := &ops[i]
		if o.Return < o.Call {
			return Result{}, fmt.Errorf("operation %d returned at %d, before its call at %d: its times are damaged", i, o.Return, o.Call)
		}
		if o.Kind == Look && o.Return == Never {
			continue // it says nothing
		}
		if o.Kind != Look {
			size += len(o.Text)
		}
		history = append(history, porcupine.Operation{Input: o, Call: o.Call, Return: o.Return})
	}
	return search(ctx, history, size, limit, func(text string, o *TextOp) (bool, string) {
		switch o.Kind {
		case Put:
			return true, o.Text
		case Concat:
			return true, text + o.Text
		}
		return text == o.Text, text
	}), nil
}
