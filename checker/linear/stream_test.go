package linear

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// streamOf gives histories of queues as a stream: what has no answer ends as
// unanswered or never, and operations that failed are strewn in. Moments are put up to
// jitter places from where they belong.
func streamOf(rng *rand.Rand, jitter int, queues ...[]Op) (Stream, int) {
	var all []Moment
	failed := 0
	id := int64(0)
	for q, ops := range queues {
		add := func(o *Op, stage Stage, at int64) {
			id++
			kind := o.Kind
			if kind == Empty {
				kind = Dequeue
			}
			m := Moment{At: o.Call, Call: o.Call, ID: id, Queue: int32(q), Kind: kind, Stage: Called}
			if kind == Enqueue {
				m.Value = o.Value
			}
			all = append(all, m)
			m.At, m.Stage = at, stage
			if stage == Returned {
				m.Kind, m.Value = o.Kind, o.Value
			}
			if stage != Called {
				all = append(all, m)
			}
		}
		nobodys := phantoms(ops)
		for i := range ops {
			o := &ops[i]
			switch {
			case !o.open():
				add(o, Returned, o.Return)
			case rng.IntN(2) == 0:
				add(o, Unanswered, o.Call+rng.Int64N(8))
			default:
				add(o, Called, 0)
			}
			if rng.IntN(8) == 0 {
				failed++
				f := Op{Kind: pickOf(rng, Enqueue, Dequeue), Value: 1<<50 + uint64(id), Call: o.Call}
				if f.Kind == Enqueue && len(nobodys) > 0 {
					f.Value, nobodys = nobodys[0], nobodys[1:]
				}
				add(&f, Failed, o.Call+rng.Int64N(5))
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Moment) int { return compare(&a, &b) })
	for i := range all {
		if jitter > 0 {
			j := min(i+rng.IntN(jitter), len(all)-1)
			all[i], all[j] = all[j], all[i]
		}
	}
	return func() iter.Seq2[Moment, error] {
		return func(yield func(Moment, error) bool) {
			for _, m := range all {
				if !yield(m, nil) {
					return
				}
			}
		}
	}, failed
}

// phantoms are values that were dequeued and that nobody enqueued.
func phantoms(ops []Op) []uint64 {
	of := map[uint64]bool{}
	for _, kind := range []Kind{Dequeue, Enqueue} {
		for i := range ops {
			if o := &ops[i]; o.Kind == kind && !(kind == Dequeue && o.open()) {
				of[o.Value] = kind == Dequeue
			}
		}
	}
	maps.DeleteFunc(of, func(_ uint64, phantom bool) bool { return !phantom })
	return slices.Sorted(maps.Keys(of))
}

// bare clears what says nothing of a queue.
func bare(ops []Op) []Op {
	for i := range ops {
		ops[i].Offset = 0
		if ops[i].Kind == Empty || ops[i].Kind == Dequeue && ops[i].open() {
			ops[i].Value = 0
		}
	}
	return ops
}

// TestStreamAgainstExact: a stream of two queues has the verdicts of the two, and
// each witness is one.
func TestStreamAgainstExact(t *testing.T) {
	t.Parallel()
	n := 50_000
	if raced {
		n = 2_000
	}
	if s := os.Getenv("FAULTLINE_DIFFERENTIAL"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	count := map[string]int{}
	for seed := range n {
		rng := rand.New(rand.NewPCG(uint64(seed), 9))
		queues := [][]Op{bare(draw(rng, Queue)), bare(draw(rng, Queue))}
		stream, _ := streamOf(rng, rng.IntN(10), queues...)
		got, err := decideQueues(t.Context(), 2, stream, firstSlack, pickOf(rng, mostUndecided, 0, 1, 2))
		require.NoError(t, err)
		for q, ops := range queues {
			want, err := Exact(Queue, ops)
			require.NoError(t, err)
			g := got[q]
			require.Equal(t, want.Verdict, g.Verdict, "seed %d, queue %d: %s\n%s", seed, q, g.Reason, tell(ops))
			require.Equal(t, len(ops), g.Count, "seed %d", seed)
			if want.Verdict == Illegal {
				for i := range g.Ops {
					require.Contains(t, ops, g.Ops[i], "seed %d: the witness is of the history", seed)
				}
				again, err := Exact(Queue, g.Ops)
				require.NoError(t, err)
				require.Equal(t, Illegal, again.Verdict, "seed %d", seed)
				count[g.Witness.Rule]++
			}
			count[string(g.Verdict)]++
		}
	}
	t.Log(count)
	for _, what := range []string{"linearizable", "not linearizable", "unknown", "phantom", "duplicate", "fresh", "order", "false-empty"} {
		require.NotZero(t, count[what], what)
	}
}

func TestStreamRules(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, object := range objects {
		if object != Queue {
			continue
		}
		ops := load(object, 30_000, 10)
		for _, jitter := range []int{0, 5, 500, 10_000} {
			stream, failed := streamOf(rng, jitter, ops)
			require.NotZero(t, failed)
			got, err := DecideQueues(t.Context(), 1, stream)
			require.NoError(t, err)
			require.Equal(t, Legal, got[0].Verdict)
			require.Equal(t, len(ops), got[0].Count)
		}
	}
}

func TestStreamRefuses(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		moments []Moment
		err     error
		want    string
	}{
		"an error of the stream": {nil, broken, "broken"},
		"times":                  {[]Moment{{At: 3, Call: 5, ID: 7, Kind: Enqueue, Stage: Returned}}, nil, "operation 7 returned at 3, before its call at 5"},
		"queue":                  {[]Moment{{ID: 7, Kind: Enqueue, Queue: 1}}, nil, "operation 7 is on queue 1 of 1"},
	} {
		_, err := DecideQueues(t.Context(), 1, func() iter.Seq2[Moment, error] {
			return func(yield func(Moment, error) bool) {
				for _, m := range c.moments {
					if !yield(m, nil) {
						return
					}
				}
				if c.err != nil {
					yield(Moment{}, c.err)
				}
			}
		})
		require.ErrorContains(t, err, c.want, name)
	}
	// The first operation comes last, behind more than are ever held back.
	_, err := DecideQueues(t.Context(), 1, func() iter.Seq2[Moment, error] {
		return func(yield func(Moment, error) bool) {
			for i := range int64(mostSlack) + 10 {
				if !yield(Moment{At: i + 1, Call: i + 1, ID: i, Value: uint64(i), Kind: Enqueue}, nil) {
					return
				}
			}
			yield(Moment{ID: -1, Kind: Dequeue}, nil)
		}
	})
	require.ErrorIs(t, err, ErrDisorder)
	r, err := DecideQueues(t.Context(), 3, func() iter.Seq2[Moment, error] { return func(func(Moment, error) bool) {} })
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(Legal, Legal, Legal), fmt.Sprint(r[0].Verdict, r[1].Verdict, r[2].Verdict))
}
