package checker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// porcupineMemory bounds what Porcupine may hold, in bytes: it keeps a bitset of
// all operations (n/8 bytes) with every configuration that it has seen, and
// sees at most one for each step.
const porcupineMemory = 256 << 20

// logState is the state of a log for Porcupine: constant in size.
type logState struct {
	tail int
	hash uint64 // chained over the records appended so far
}

// chain appends the record at pos to a chained hash.
func chain(hash uint64, pos int, value uint64) uint64 {
	h := (hash ^ value) * 0xff51afd7ed558ccd
	h ^= h >> 33
	h = (h ^ uint64(pos)) * 0xc4ceb9fe1a85ec53
	return h ^ h>>29
}

type logInput struct {
	*logOp
	value uint64 // append
	hash  uint64 // exact read: what it saw, chained
}

// searchLog asks Porcupine the question that decideLog answers; values are those
// of the positions. It gives up, with Unknown, after limit, when ctx ends, or
// when its memory bound is reached.
func searchLog(ctx context.Context, values []uint64, ops []logOp, limit time.Duration) porcupine.CheckResult {
	n := len(values)
	prefix := make([]uint64, n+1)
	for p, value := range values {
		prefix[p+1] = chain(prefix[p], p, value)
	}
	history := make([]porcupine.Operation, len(ops))
	for i := range ops {
		op := &ops[i]
		in := logInput{logOp: op}
		if !op.isRead {
			in.value = values[op.pos]
		} else if op.exact >= 0 {
			in.hash = prefix[min(op.exact, n)]
		}
		history[i] = porcupine.Operation{Input: in, Call: op.call, Return: op.ret}
	}
	maxSteps := int64(porcupineMemory / (len(ops)/8 + 256))
	var steps atomic.Int64
	model := porcupine.Model{
		Init: func() any { return logState{} },
		StepContext: func(stepCtx context.Context, state, input, _ any) (bool, any) {
			// A refused step ends the search early; its verdict is then void.
			if steps.Add(1) > maxSteps || stepCtx.Err() != nil || ctx.Err() != nil {
				return false, state
			}
			s, in := state.(logState), input.(logInput)
			switch {
			case !in.isRead:
				if s.tail != in.pos {
					return false, s
				}
				return true, logState{s.tail + 1, chain(s.hash, in.pos, in.value)}
			case in.exact >= 0:
				return s.tail == in.exact && s.hash == in.hash, s
			default:
				return s.tail >= in.pos, s
			}
		},
		Hash: func(state any) uint64 { return state.(logState).hash },
	}
	res := porcupine.CheckOperationsTimeout(model, history, limit)
	if ctx.Err() != nil || steps.Load() > maxSteps {
		return porcupine.Unknown
	}
	return res
}
