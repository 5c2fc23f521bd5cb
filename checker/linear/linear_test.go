package linear

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var objects = []Object{Queue, Log, SparseLog, Register}

// draw makes a small history: half of them from a run of a sequential object, whose
// operations are stretched over the moments at which they took effect, and damaged a
// little or not at all; half at random. Times are few, so that many are equal.
func draw(rng *rand.Rand, object Object) []Op {
	n := 2 + rng.IntN(8)
	times := int64(2 + rng.IntN(pickOf(rng, 5, 3*n)))
	var ops []Op
	if rng.IntN(2) == 0 {
		ops = played(rng, object, n, times)
		for range pickOf(rng, 0, 0, 1, 1, 2) {
			damage(rng, &ops[rng.IntN(len(ops))], times)
		}
	} else {
		for range n {
			o := Op{Kind: pickOf(rng, object.kinds()...), Value: uint64(rng.IntN(n/2 + 1)), Offset: int64(rng.IntN(n/2 + 1)), Call: rng.Int64N(times)}
			o.Return = o.Call + rng.Int64N(times)
			if o.Kind == Append && rng.IntN(3) == 0 || rng.IntN(6) == 0 && o.Kind != Empty {
				o.Return = Never
			}
			if o.Kind == Append && o.open() {
				o.Offset = NoOffset
			}
			if o.Kind == Read && rng.IntN(4) == 0 {
				o.Value = Unset
			}
			ops = append(ops, o)
		}
	}
	if object == Queue && rng.IntN(3) == 0 {
		for range 1 + rng.IntN(3) { // they found it empty, and perhaps wrongly so
			call := rng.Int64N(times)
			ops = append(ops, Op{Kind: Empty, Call: call, Return: call + rng.Int64N(times)})
		}
	}
	if rng.IntN(8) > 0 { // nearly always without repeated values
		once := map[uint64]bool{}
		ops = slices.DeleteFunc(ops, func(o Op) bool {
			if o.Kind != Enqueue && o.Kind != Append && o.Kind != Write {
				return false
			}
			again := once[o.Value]
			once[o.Value] = true
			return again
		})
	}
	sortByCall(ops)
	return ops
}

func sortByCall(ops []Op) {
	slices.SortStableFunc(ops, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
}

func pickOf[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

// played runs a sequential object and gives each operation an interval around its moment.
func played(rng *rand.Rand, object Object, n int, times int64) []Op {
	moments := make([]int64, n)
	for i := range moments {
		moments[i] = rng.Int64N(times)
	}
	slices.Sort(moments)
	var (
		ops   []Op
		queue []uint64
		log   = map[int64]uint64{}
		end   int64
		value = uint64(Unset)
	)
	width := pickOf(rng, 2, 3, times/2+1)
	for i, at := range moments {
		o := Op{Kind: pickOf(rng, object.kinds()...), Value: uint64(i + 1)}
		lost := false // nobody heard of it
		switch o.Kind {
		case Enqueue:
			if lost = rng.IntN(6) == 0; !lost || rng.IntN(2) == 0 {
				queue = append(queue, o.Value)
			}
		case Dequeue, Empty:
			lost = rng.IntN(6) == 0
			switch {
			case lost && rng.IntN(2) == 0:
			case len(queue) == 0:
				o.Kind = Empty
				if lost {
					o.Kind = Dequeue
				}
			default:
				o.Kind, o.Value = Dequeue, queue[0]
				queue = queue[1:]
			}
			if lost {
				o.Kind, o.Value = Dequeue, 0
			}
		case Append:
			o.Offset = end
			if object == SparseLog {
				o.Offset += int64(pickOf(rng, 0, 0, 1, 3))
			}
			if lost = rng.IntN(5) == 0; !lost || rng.IntN(2) == 0 {
				log[o.Offset] = o.Value
				end = o.Offset + 1
			}
			if lost {
				o.Offset = NoOffset
			}
		case Get:
			o.Offset = rng.Int64N(end + 1)
			if v, ok := log[o.Offset]; ok {
				o.Value = v
			} else {
				o.Kind, o.Offset = End, end
			}
		case End:
			o.Offset = end
		case Write:
			if lost = rng.IntN(5) == 0; !lost || rng.IntN(2) == 0 {
				value = o.Value
			}
		case Read:
			o.Value = value
		}
		o.Call, o.Return = at-rng.Int64N(width), at+rng.Int64N(width)
		if lost {
			o.Return = Never
		}
		ops = append(ops, o)
	}
	return ops
}

// damage changes an operation so that it may be wrong now.
func damage(rng *rand.Rand, o *Op, times int64) {
	switch rng.IntN(6) {
	case 0:
		if o.Return != Never {
			o.Return = o.Call
		}
	case 1:
		if o.Return != Never {
			o.Call = o.Return
		}
	case 2:
		by := rng.Int64N(times) - times/2
		o.Call += by
		if o.Return != Never {
			o.Return += by
		}
	case 3:
		if o.Offset > 0 {
			o.Offset += int64(pickOf(rng, -1, 1))
		}
	case 4:
		o.Value += pickOf(rng, uint64(1), ^uint64(0))
	case 5:
		if o.Kind != Empty {
			o.Return = Never
		}
	}
}

func tell(ops []Op) string {
	var b strings.Builder
	for i := range ops {
		fmt.Fprintf(&b, "%2d %s\n", i, &ops[i])
	}
	return b.String()
}

// disagreement compares the procedures on a history, and asks the search whether
// the witness is one. "" where all is well.
func disagreement(ctx context.Context, object Object, ops []Op) (string, Verdict) {
	exact, err := Exact(object, ops)
	if err != nil {
		return err.Error(), ""
	}
	search, err := Search(ctx, object, ops, 10*time.Second)
	switch {
	case err != nil:
		return err.Error(), ""
	case strings.Contains(exact.Reason, lostCover):
		return exact.Reason + " by the exact procedure", ""
	case exact.Verdict == Unknown || search.Verdict == Unknown:
		return "", Unknown
	case search.Verdict != exact.Verdict:
		return fmt.Sprintf("%s by the exact procedure (%s %+v), %s by Porcupine (%s)", exact.Verdict, exact.Reason, exact.Witness, search.Verdict, search.Reason), ""
	case exact.Verdict == Legal || exact.Witness.Object == "":
		return "", exact.Verdict
	}
	var alone []Op
	for _, i := range exact.Witness.Ops {
		alone = append(alone, ops[i])
	}
	if w, err := Search(ctx, exact.Witness.Object, alone, time.Minute); err != nil || w.Verdict != Illegal {
		return fmt.Sprintf("the witness %+v alone is %s (%v)", exact.Witness, w.Verdict, err), ""
	}
	// Whatever else there was, an unanswered dequeue may have taken any value.
	for i := range ops {
		if ops[i].Kind == Dequeue && ops[i].open() && !slices.Contains(exact.Witness.Ops, i) {
			alone = append(alone, ops[i])
		}
	}
	sortByCall(alone)
	if w, err := Search(ctx, exact.Witness.Object, alone, time.Minute); err != nil || w.Verdict != Illegal {
		return fmt.Sprintf("the witness %+v with all unanswered dequeues is %s (%v)", exact.Witness, w.Verdict, err), ""
	}
	return "", Illegal
}

// naive is a sequential object as plain as can be: nothing of it is shared with what is tested.
type naive struct {
	queue []uint64
	log   map[int64]uint64
	end   int64
	value uint64
}

// after are the states in which an operation may leave the object; none: it cannot have
// had this answer.
func (n naive) after(object Object, o *Op) []naive {
	as := func(ok bool) []naive {
		if ok {
			return []naive{n}
		}
		return nil
	}
	switch o.Kind {
	case Enqueue:
		n.queue = append(slices.Clone(n.queue), o.Value)
		return as(true)
	case Empty:
		return as(len(n.queue) == 0)
	case Dequeue:
		if len(n.queue) == 0 || !o.open() && n.queue[0] != o.Value {
			return nil
		}
		n.queue = n.queue[1:]
		return as(true)
	case Append:
		var all []naive
		for at := n.end; at < 40; at++ {
			if (o.Offset == NoOffset || o.Offset == at) && (object == SparseLog || at == n.end) {
				m := n
				m.log = maps.Clone(n.log)
				m.log[at], m.end = o.Value, at+1
				all = append(all, m)
			}
		}
		return all
	case Get:
		v, ok := n.log[o.Offset]
		return as(ok && v == o.Value)
	case End:
		ok := o.Offset == n.end || object == SparseLog && o.Offset > n.end
		n.end = o.Offset
		return as(ok)
	case Write:
		n.value = o.Value
		return as(true)
	default:
		return as(n.value == o.Value)
	}
}

// permute tries every order, and for unanswered operations also that they never happened.
func permute(object Object, n naive, ops []Op, done []bool) bool {
	first, happened := int64(Never), true // whether all that must have happened did
	for i := range ops {
		if !done[i] {
			first = min(first, ops[i].Return)
			happened = happened && ops[i].open() && (ops[i].Kind != Append || ops[i].Offset == NoOffset)
		}
	}
	if happened {
		return true
	}
	for i := range ops {
		if done[i] || ops[i].Call > first {
			continue
		}
		done[i] = true
		for _, m := range n.after(object, &ops[i]) {
			if permute(object, m, ops, done) {
				return true
			}
		}
		done[i] = false
	}
	return false
}

// TestAgainstPermutation compares the exact procedures with all orders of small histories.
func TestAgainstPermutation(t *testing.T) {
	t.Parallel()
	n := 20_000
	if raced {
		n = 2_000
	}
	for _, object := range objects {
		count := map[Verdict]int{}
		for seed := range n {
			ops := draw(rand.New(rand.NewPCG(uint64(seed), 11)), object)
			ops = ops[:min(len(ops), 6)]
			r, err := Exact(object, ops)
			require.NoError(t, err)
			count[r.Verdict]++
			if r.Verdict != Unknown {
				legal := permute(object, naive{log: map[int64]uint64{}, value: Unset}, ops, make([]bool, len(ops)))
				require.Equal(t, legal, r.Verdict == Legal, "%s, seed %d\n%s", object, seed, tell(ops))
			}
		}
		require.Greater(t, count[Legal], n/10)
		require.Greater(t, count[Illegal], n/10)
	}
}

// TestAgainstPorcupine compares the exact procedures with Porcupine's search on
// small random histories. FAULTLINE_DIFFERENTIAL says how many of each object.
func TestAgainstPorcupine(t *testing.T) {
	t.Parallel()
	n := 100_000
	if raced {
		n = 5_000
	}
	if s := os.Getenv("FAULTLINE_DIFFERENTIAL"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	for _, object := range objects {
		t.Run(string(object), func(t *testing.T) {
			t.Parallel()
			var (
				wg    sync.WaitGroup
				mu    sync.Mutex
				count = map[Verdict]int{}
			)
			workers := runtime.GOMAXPROCS(0)
			for w := range workers {
				wg.Go(func() {
					mine := map[Verdict]int{}
					for seed := w; seed < n && !t.Failed(); seed += workers {
						ops := draw(rand.New(rand.NewPCG(uint64(seed), 7)), object)
						wrong, verdict := disagreement(t.Context(), object, ops)
						if wrong != "" {
							t.Errorf("seed %d: %s\n%s", seed, wrong, tell(ops))
						}
						mine[verdict]++
					}
					mu.Lock()
					defer mu.Unlock()
					for v, k := range mine {
						count[v] += k
					}
				})
			}
			wg.Wait()
			t.Logf("%d histories: %v", n, count)
			require.Greater(t, count[Legal], n/10)
			require.Greater(t, count[Illegal], n/10)
			require.Less(t, count[Unknown], n/5)
		})
	}
}

// TestPositions compares what is decided by positions with what Exact decides of the
// operations: logs of which every record is known.
func TestPositions(t *testing.T) {
	verdicts := map[bool]int{}
	for seed := range uint64(20_000) {
		rng := rand.New(rand.NewPCG(seed, 21))
		n := 1 + rng.IntN(6)
		var ops []Op
		at := func(kind Kind, position int) {
			call := rng.Int64N(10) + 4*int64(position)
			o := Op{Kind: kind, Value: uint64(position), Offset: int64(position), Call: call, Return: call + rng.Int64N(12)}
			if rng.IntN(8) == 0 {
				o.Return = Never
			}
			ops = append(ops, o)
		}
		for p := range n {
			at(Append, p)
		}
		for range rng.IntN(4) {
			at([]Kind{Get, End}[rng.IntN(2)], rng.IntN(n))
		}
		positions := NewPositions(n)
		for _, o := range ops {
			switch p := int(o.Offset); o.Kind {
			case Append:
				positions.Append(p, o.Call, o.Return)
			case Get:
				positions.Get(p, o.Return)
			case End:
				positions.End(p, o.Call, o.Return)
			}
		}
		sortByCall(ops)
		r, err := Exact(Log, ops)
		require.NoError(t, err)
		require.Equal(t, r.Verdict == Legal, positions.Legal(), "%v", ops)
		verdicts[positions.Legal()]++
	}
	require.Greater(t, verdicts[true], 2_000)
	require.Greater(t, verdicts[false], 2_000)
}
