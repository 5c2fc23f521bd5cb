package linear

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func enq(v uint64, call, ret int64) Op { return Op{Kind: Enqueue, Value: v, Call: call, Return: ret} }

func deq(v uint64, call, ret int64) Op { return Op{Kind: Dequeue, Value: v, Call: call, Return: ret} }
func none(call, ret int64) Op          { return Op{Kind: Empty, Call: call, Return: ret} }
func put(v uint64, offset, call, ret int64) Op {
	return Op{Kind: Append, Value: v, Offset: offset, Call: call, Return: ret}
}

func get(v uint64, offset, call, ret int64) Op {
	return Op{Kind: Get, Value: v, Offset: offset, Call: call, Return: ret}
}

func end(offset, call, ret int64) Op { return Op{Kind: End, Offset: offset, Call: call, Return: ret} }

func set(v uint64, call, ret int64) Op { return Op{Kind: Write, Value: v, Call: call, Return: ret} }

func saw(v uint64, call, ret int64) Op   { return Op{Kind: Read, Value: v, Call: call, Return: ret} }
func hist(ops ...Op) []Op                { sortByCall(ops); return ops }
func unanswered(call int64) Op           { return Op{Kind: Dequeue, Call: call, Return: Never} }
func in(object Object, ops ...Op) inRule { return inRule{object, hist(ops...)} }

type inRule struct {
	object Object
	ops    []Op
}

// TestRules: of each rule histories that break it, with the witness in words, and
// histories that nearly do.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		rule, text string
		broken     []inRule
		near       []inRule
	}{
		{
			"phantom", "nobody",
			[]inRule{
				in(Queue, deq(1, 0, 1)), in(Queue, enq(1, 0, 1), deq(2, 2, 3)), in(Queue, enq(1, 0, Never), deq(1, 1, 2), deq(2, 3, 4)),
				in(Log, put(1, 0, 0, 1), get(2, 1, 2, 3)), in(SparseLog, get(1, 7, 0, 1)), in(Register, set(1, 0, 1), saw(2, 2, 3)),
			},
			[]inRule{
				in(Queue, enq(2, 0, Never), deq(2, 2, 3)), in(Log, put(2, NoOffset, 0, Never), get(2, 0, 2, 3)), in(Register, set(2, 0, Never), saw(2, 2, 3)), in(Register, saw(Unset, 0, 1)),
			},
		},
		{
			"duplicate", "value 1 was dequeued twice",
			[]inRule{
				in(Queue, enq(1, 0, 1), deq(1, 2, 3), deq(1, 4, 5)), in(Queue, enq(1, 0, Never), deq(1, 2, 9), deq(1, 3, 5)), in(Queue, enq(1, 0, 1), enq(2, 0, 1), deq(1, 2, 3), deq(2, 2, 3), deq(1, 2, 3)),
			},
			[]inRule{
				in(Queue, enq(1, 0, 1), deq(1, 2, 3), unanswered(4)), in(Queue, enq(1, 0, 1), enq(2, 0, 1), deq(1, 2, 3), deq(2, 4, 5)), in(Queue, enq(1, 0, 1), deq(1, 2, 3), none(2, 5)),
			},
		},
		{
			"fresh", "returned before",
			[]inRule{
				in(Queue, deq(1, 0, 1), enq(1, 2, 3)), in(Queue, deq(1, 0, 1), enq(1, 2, Never)), in(Queue, enq(2, 0, 1), deq(1, 0, 1), deq(2, 2, 3), enq(1, 2, 3)),
				in(Register, saw(1, 0, 1), set(1, 2, 3)), in(Register, saw(1, 0, 1), set(1, 2, Never)),
			},
			[]inRule{in(Queue, deq(1, 0, 2), enq(1, 2, 3)), in(Queue, deq(1, 0, 2), enq(1, 1, Never)), in(Register, saw(1, 0, 2), set(1, 2, 3))},
		},
		{
			"order", "returned",
			[]inRule{
				in(Queue, enq(1, 0, 1), enq(2, 2, 3), deq(2, 4, 5), deq(1, 6, 7)),
				in(Queue, enq(1, 0, 1), enq(2, 2, 3), deq(2, 4, 5)),
				in(Queue, enq(1, 0, 1), enq(2, 0, 1), unanswered(2), enq(3, 2, 3), deq(3, 4, 5)),
				in(Queue, enq(1, 0, 1), enq(2, 2, Never), deq(2, 4, 5), unanswered(6)),
				in(Log, put(1, 1, 0, 1), put(2, 0, 2, 3)), in(SparseLog, get(1, 7, 0, 1), put(1, 7, 0, 1), put(2, 6, 2, 3)),
				in(Log, put(1, 0, 0, 1), end(0, 2, 3)), in(Log, end(1, 0, 1), put(1, 0, 2, 3)), in(SparseLog, end(5, 0, 1), end(4, 2, 3)),
				in(Log, put(1, 1, 0, 1), put(2, NoOffset, 2, Never)),
			},
			[]inRule{
				in(Queue, enq(1, 0, 2), enq(2, 2, 3), deq(2, 4, 5), deq(1, 6, 7)),
				in(Queue, enq(1, 0, 1), enq(2, 2, 3), deq(2, 4, 6), deq(1, 6, 7)),
				in(Queue, enq(1, 0, 1), enq(2, 0, 1), unanswered(2), unanswered(5), enq(3, 2, 3), deq(3, 4, 5)),
				in(Queue, enq(1, 0, Never), enq(2, 2, 3), deq(2, 4, 5)),
				in(Log, put(1, 1, 0, 2), put(2, 0, 2, 3)), in(Log, put(1, 0, 0, 2), end(0, 2, 3)), in(SparseLog, end(5, 0, 2), end(4, 2, 3)),
				in(Log, put(1, 1, 0, 2), put(2, NoOffset, 2, Never)),
			},
		},
		{
			"false-empty", "dequeue-empty, called at",
			[]inRule{
				in(Queue, enq(1, 0, 1), none(2, 3), deq(1, 4, 5)), in(Queue, enq(1, 0, 1), none(2, 3)),
				in(Queue, enq(1, 0, 1), enq(2, 2, 4), none(3, 8), deq(1, 6, 7), deq(2, 9, 10)),
				in(Queue, enq(1, 0, 1), enq(2, 0, 1), unanswered(2), none(3, 4)),
			},
			[]inRule{
				in(Queue, enq(1, 0, 2), none(2, 3), deq(1, 4, 5)), in(Queue, enq(1, 0, 1), none(2, 4), deq(1, 4, 5)),
				in(Queue, enq(1, 0, 1), enq(2, 2, 6), none(3, 8), deq(1, 6, 7), deq(2, 9, 10)),
				in(Queue, enq(1, 0, 1), enq(2, 0, 1), unanswered(2), unanswered(4), none(3, 4)), in(Queue, enq(1, 0, Never), none(2, 3)),
			},
		},
		{
			"moved", "1 stood at offset",
			[]inRule{in(Log, put(1, 0, 0, 1), get(1, 1, 2, 3)), in(SparseLog, put(1, NoOffset, 0, Never), get(1, 4, 2, 3), get(1, 5, 2, 3)), in(SparseLog, get(1, 3, 0, 9), put(1, 2, 1, 2))},
			[]inRule{in(Log, put(1, 0, 0, 1), get(1, 0, 2, 3)), in(SparseLog, put(1, NoOffset, 0, Never), get(1, 4, 2, 3), get(1, 4, 2, 3)), in(SparseLog, get(1, 3, 0, Never), put(1, 2, 1, 2))},
		},
		{
			"two-values", "offset 0 held",
			[]inRule{in(Log, put(1, 0, 0, 1), put(2, 0, 2, 3)), in(Log, put(1, 0, 0, 1), put(2, NoOffset, 0, Never), get(2, 0, 2, 3)), in(SparseLog, put(1, 0, 0, 1), put(2, 0, 0, 1))},
			[]inRule{in(Log, put(1, 0, 0, 1), put(2, 1, 2, 3)), in(Log, put(1, 0, 0, 1), put(2, NoOffset, 0, Never), get(2, 1, 2, 3)), in(SparseLog, put(1, 0, 0, 1), put(2, 9, 0, 1))},
		},
		{
			"hole", "appends",
			[]inRule{
				in(Log, put(1, 1, 0, 1)), in(Log, end(1, 0, 1)), in(Log, put(1, 3, 0, 1), put(2, NoOffset, 0, Never), put(3, NoOffset, 0, Never)),
				in(Log, put(1, math.MaxInt64-1, 0, 1)),
			},
			[]inRule{
				in(Log, put(1, 1, 0, 1), put(2, NoOffset, 0, Never)), in(Log, end(1, 0, 1), put(2, NoOffset, 0, Never)), in(SparseLog, put(1, 1, 0, 1)), in(SparseLog, put(1, math.MaxInt64-1, 0, 1)),
			},
		},
		{
			"cycle", "was called",
			[]inRule{
				in(Register, set(1, 0, 1), set(2, 2, 3), saw(1, 4, 5)), in(Register, set(1, 0, 1), saw(Unset, 2, 3)),
				in(Register, set(1, 0, 9), set(2, 0, 9), saw(1, 1, 2), saw(2, 3, 4), saw(1, 5, 6)), in(Register, set(1, 0, 1), set(2, 0, Never), saw(2, 2, 3), saw(1, 4, 5), saw(2, 6, 7)),
			},
			[]inRule{
				in(Register, set(1, 0, 2), set(2, 2, 3), saw(1, 4, 5)), in(Register, set(1, 0, 2), saw(Unset, 2, 3)),
				in(Register, set(1, 0, 9), set(2, 0, 9), saw(1, 1, 2), saw(2, 3, 6), saw(1, 5, 7)), in(Register, set(1, 0, 1), set(2, 0, Never), saw(1, 4, 5), saw(2, 6, 7)),
			},
		},
	} {
		t.Run(c.rule, func(t *testing.T) {
			for _, h := range c.broken {
				r, err := Decide(t.Context(), h.object, h.ops, 0)
				require.NoError(t, err)
				require.Equal(t, Illegal, r.Verdict, tell(h.ops))
				require.Equal(t, "exact "+string(h.object)+" procedure", r.Procedure)
				require.Equal(t, c.rule, r.Witness.Rule, tell(h.ops))
				require.Contains(t, r.Witness.Text, c.text)
				wrong, _ := disagreement(t.Context(), h.object, h.ops)
				require.Empty(t, wrong, tell(h.ops))
			}
			for _, h := range c.near {
				r, err := Decide(t.Context(), h.object, h.ops, 0)
				require.NoError(t, err)
				require.Equal(t, Legal, r.Verdict, "%s%+v", tell(h.ops), r.Witness)
				wrong, _ := disagreement(t.Context(), h.object, h.ops)
				require.Empty(t, wrong, tell(h.ops))
			}
		})
	}
}

// TestWitnessInALongHistory: a few operations prove what is wrong with many.
func TestWitnessInALongHistory(t *testing.T) {
	for _, object := range objects {
		ops := load(object, 20_000, 10)
		at := ops[10_000].Call
		late := map[Object]Op{
			Queue:     none(at, at+1),
			Log:       end(3, at, at+1),
			SparseLog: end(3, at, at+1),
			Register:  saw(2, at, at+1),
		}[object]
		if object == Queue {
			// Something is in for a long time.
			ops = append(ops, enq(1<<40, ops[9_000].Call, ops[9_000].Return), deq(1<<40, at+10_000, at+10_001))
		}
		ops = hist(append(ops, late)...)
		r, err := Exact(object, ops)
		require.NoError(t, err)
		require.Equal(t, Illegal, r.Verdict, object)
		require.LessOrEqual(t, len(r.Witness.Ops), 6, "%+v", r.Witness)
		var alone []Op
		for _, i := range r.Witness.Ops {
			alone = append(alone, ops[i])
		}
		again, err := Search(t.Context(), r.Witness.Object, alone, time.Minute)
		require.NoError(t, err)
		require.Equal(t, Illegal, again.Verdict, tell(alone))
	}
}

// TestAmbiguous: what the exact procedures cannot decide is left to the search, and
// where that gives up too the reasons of both are told.
func TestAmbiguous(t *testing.T) {
	for _, h := range []inRule{
		in(Queue, enq(1, 0, 1), enq(1, 2, 3), deq(1, 4, 5)), in(Queue, deq(1, 0, 9), enq(1, 1, 9), deq(1, 2, 9), enq(1, 3, 9)), in(Log, put(1, 0, 0, 1), put(1, 1, 2, 3), get(1, 1, 4, 5)), in(Log, put(1, NoOffset, 0, 1)),
		in(Register, set(1, 0, 1), set(1, 2, 3), saw(1, 4, 5)), in(Register, set(Unset, 0, 1), saw(Unset, 2, 3)), in(SparseLog, put(1, math.MaxInt64, 0, 1)),
	} {
		r, err := Exact(h.object, h.ops)
		require.NoError(t, err)
		require.Equal(t, Unknown, r.Verdict, tell(h.ops))
		r, err = Decide(t.Context(), h.object, h.ops, 0)
		require.NoError(t, err)
		require.Equal(t, Result{Verdict: Legal, Procedure: "Porcupine"}, r, tell(h.ops))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r, err = Decide(ctx, h.object, h.ops, 0)
		require.NoError(t, err)
		require.Equal(t, Unknown, r.Verdict)
		require.True(t, strings.HasSuffix(r.Reason, ", and Porcupine was interrupted"), r.Reason)
	}
	r, err := Decide(t.Context(), Queue, hist(enq(1, 0, 1), enq(1, 2, 3), deq(1, 4, 5), deq(1, 4, 5), deq(1, 4, 5)), 0)
	require.NoError(t, err)
	require.Equal(t, Result{Verdict: Illegal, Procedure: "Porcupine"}, r)
}

// TestBadInput is refused, with the operation and what is wrong with it.
func TestBadInput(t *testing.T) {
	for text, h := range map[string]inRule{
		"unknown object":                          {"stack", nil},
		"operation 1 is of kind write, which":     {Queue, []Op{enq(1, 0, 1), set(1, 1, 2)}},
		"operation 0 is of kind Kind(77), which":  {Log, []Op{{Kind: 77}}},
		"operation 0 (enqueue) returned at 0":     {Queue, []Op{enq(1, 1, 0)}},
		"sort operations by their calls":          {Queue, []Op{enq(1, 1, 2), enq(2, 0, 2)}},
		"operation 0 (read) has offset -1":        {Log, []Op{get(1, -1, 0, 1)}},
		"operation 0 (append) has offset -2":      {Log, []Op{put(1, -2, 0, 1)}},
		"one without an answer is a dequeue":      {Queue, []Op{none(0, Never)}},
		"operation 0 (end-of-log) has offset -9":  {SparseLog, []Op{end(-9, 0, 1)}},
		"operation 0 is of kind enqueue, which a": {Register, []Op{enq(1, 0, 1)}},
	} {
		for _, decide := range []func() (Result, error){
			func() (Result, error) { return Exact(h.object, h.ops) },
			func() (Result, error) { return Search(t.Context(), h.object, h.ops, time.Second) },
			func() (Result, error) { return Decide(t.Context(), h.object, h.ops, time.Second) },
		} {
			_, err := decide()
			require.ErrorContains(t, err, text)
		}
	}
	for _, object := range objects {
		r, err := Exact(object, nil)
		require.NoError(t, err)
		require.Equal(t, Legal, r.Verdict, "of nothing")
	}
}

// TestSearchGivesUp: a search that is too large ends as unknown within its bounds,
// and the exact procedure still decides.
func TestSearchGivesUp(t *testing.T) {
	var ops []Op
	for p := range 24 {
		ops = append(ops, put(uint64(p), int64(p), 0, 1000))
		for range 4 {
			ops = append(ops, get(uint64(p), int64(p), 0, 1000))
		}
	}
	ops = append(ops, end(3, 2000, 2001))
	r, err := Exact(Log, ops)
	require.NoError(t, err)
	require.Equal(t, Illegal, r.Verdict)
	r, err = Search(t.Context(), Log, ops, 50*time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, Unknown, r.Verdict)
	require.Contains(t, r.Reason, "Porcupine")
}

// TestWitnessAmongManyLost: a queue that lost nearly everything is told of in a few
// operations, and without holding each value's proof.
func TestWitnessAmongManyLost(t *testing.T) {
	var ops []Op
	for i := range int64(200_000) {
		ops = append(ops, enq(uint64(i), 3*i, 3*i+1))
	}
	ops = append(ops, none(1_000_000, 1_000_001))
	r, err := Exact(Queue, ops)
	require.NoError(t, err)
	require.Equal(t, "false-empty", r.Witness.Rule)
	require.Equal(t, []int{0, 200_000}, r.Witness.Ops)
}
