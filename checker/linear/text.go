package linear

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
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
// procedure decides that. A state is a hash of the text (122 bits and its length), so
// that texts of any length take the same memory. It is Unknown, with the reason, after
// limit (0: DefaultLimit), when ctx ends, or when it would need too much memory. It gives
// no witness.
func SearchText(ctx context.Context, ops []TextOp, limit time.Duration) (Result, error) {
	type step struct {
		kind TextKind
		digest
	}
	var history []porcupine.Operation
	for i := range ops {
		o := &ops[i]
		if o.Return < o.Call {
			return Result{}, fmt.Errorf("operation %d returned at %d, before its call at %d: its times are damaged", i, o.Return, o.Call)
		}
		if o.Kind == Look && o.Return == Never {
			continue // it says nothing
		}
		history = append(history, porcupine.Operation{Input: step{o.Kind, digestOf(o.Text)}, Call: o.Call, Return: o.Return})
	}
	return search(ctx, history, 64, within(limit), func(state string, s step) (bool, string) {
		now := digestFrom(state)
		switch s.kind {
		case Put:
			return true, s.String()
		case Concat:
			return true, now.and(s.digest).String()
		}
		return now == s.digest, state
	}), nil
}

// digest is a hash of a text that can be had of its parts: polynomials in two bases,
// modulo the prime 2^61-1, with the bases to the power of the length.
type digest struct {
	length uint64
	sums   [2]uint64
	powers [2]uint64
}

var digestBases = [2]uint64{0x1b873593cc9e2d51 % prime61, 0x0fedcba987654321 % prime61}

const prime61 = 1<<61 - 1

func digestOf(text string) digest {
	d := digest{powers: [2]uint64{1, 1}}
	for i := range len(text) {
		d = d.and(digest{1, [2]uint64{uint64(text[i]) + 1, uint64(text[i]) + 1}, digestBases})
	}
	return d
}

// and is the digest of what d is of and then o.
func (d digest) and(o digest) digest {
	d.length += o.length
	for i := range d.sums {
		d.sums[i] = (times61(d.sums[i], o.powers[i]) + o.sums[i]) % prime61
		d.powers[i] = times61(d.powers[i], o.powers[i])
	}
	return d
}

func times61(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	_, rest := bits.Div64(hi%prime61, lo, prime61)
	return rest
}

func (d digest) String() string {
	var b []byte
	for _, v := range [...]uint64{d.length, d.sums[0], d.sums[1], d.powers[0], d.powers[1]} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return string(b)
}

// digestFrom is the reverse of String; "" is the digest of no text.
func digestFrom(s string) digest {
	if s == "" {
		return digestOf("")
	}
	word := func(i int) uint64 { return binary.BigEndian.Uint64([]byte(s[8*i : 8*i+8])) }
	return digest{word(0), [2]uint64{word(1), word(2)}, [2]uint64{word(3), word(4)}}
}
