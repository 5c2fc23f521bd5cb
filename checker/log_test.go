package checker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// randomLog draws a small log: every position appended once, some appends never
// acknowledged, reads of both kinds, times with many ties.
func randomLog(r *rand.Rand) (values []uint64, ops []logOp) {
	n := 1 + r.IntN(4)
	span := int64(3 + r.IntN(10))
	interval := func() (int64, int64) {
		a, b := r.Int64N(span), r.Int64N(span)
		return min(a, b), max(a, b)
	}
	for p := range n {
		call, ret := interval()
		// Half of the logs lean towards legality: later positions, later times.
		if r.IntN(2) == 0 {
			call, ret = call+int64(p)*2, ret+int64(p)*2
		}
		if r.IntN(4) == 0 {
			ret = history.Infinity
		}
		values = append(values, uint64(100+p))
		ops = append(ops, logOp{id: int64(len(ops)), call: call, ret: ret, pos: p, exact: -1})
	}
	for range r.IntN(5) {
		call, ret := interval()
		op := logOp{id: int64(len(ops)), call: call + int64(r.IntN(6)), isRead: true, exact: -1}
		op.ret = max(ret, op.call) + int64(r.IntN(4))
		if r.IntN(2) == 0 {
			op.exact = r.IntN(n + 1)
		} else {
			op.pos = r.IntN(n + 1)
		}
		ops = append(ops, op)
	}
	r.Shuffle(len(ops), func(i, j int) { ops[i], ops[j] = ops[j], ops[i] })
	return values, ops
}

// permutationLegal tries every order: no cleverness to be wrong in.
func permutationLegal(ops []logOp, done []bool, tail int) bool {
	if !slices.Contains(done, false) {
		return true
	}
	for i := range ops {
		if done[i] {
			continue
		}
		first := true // no operation that is left precedes ops[i]
		for j := range ops {
			if !done[j] && ops[j].ret < ops[i].call {
				first = false
			}
		}
		op, next, ok := &ops[i], tail, false
		switch {
		case !op.isRead:
			ok, next = op.pos == tail, tail+1
		case op.exact >= 0:
			ok = op.exact == tail
		default:
			ok = op.pos <= tail
		}
		if first && ok {
			done[i] = true
			if permutationLegal(ops, done, next) {
				return true
			}
			done[i] = false
		}
	}
	return false
}

// TestLogAgreesWithPorcupine compares the exact procedure with Porcupine, and
// with plain permutation, on random small logs.
func TestLogAgreesWithPorcupine(t *testing.T) {
	cases, permuted := 120_000/slowdown, 40_000/slowdown
	if testing.Short() {
		cases, permuted = 10_000, 5_000
	}
	r := rand.New(rand.NewPCG(1, 2))
	var verdicts [2]int
	for i := range cases {
		values, ops := randomLog(r)
		witness, legal := decideLog(len(values), ops)
		second := searchLog(context.Background(), values, ops, time.Minute)
		require.Equal(t, legal, second == porcupine.Ok, "case %d: %v", i, ops)
		require.NotEqual(t, porcupine.Unknown, second)
		if i < permuted {
			require.Equal(t, legal, permutationLegal(ops, make([]bool, len(ops)), 0), "case %d: %v", i, ops)
		}
		if legal {
			verdicts[0]++
			require.Nil(t, witness)
			continue
		}
		verdicts[1]++
		require.LessOrEqual(t, witness.early, witness.late)
		require.Greater(t, witness.lowCall, witness.highRtrn)
	}
	require.Greater(t, verdicts[0], cases/10, "legal logs")
	require.Greater(t, verdicts[1], cases/10, "illegal logs")
}

// randomHistory draws a small history of one partition with its drain: sends of
// all outcomes, reads, ties. Some are consistent, some not in every way there is.
func randomHistory(r *rand.Rand, gaps bool) *history.History {
	h := &history.History{Closed: true, Header: history.Header{
		Keys: []string{"t-0"}, Nodes: []string{"n1"}, Contract: everything(),
		Clients: []history.Client{{Name: "p0"}, {Name: "p1"}, {Name: "p2"}, {Name: "p3"}, {Name: "c0"}},
	}}
	sends := 1 + r.IntN(4)
	span := int64(4 + r.IntN(10))
	var log []history.Value
	for i := range sends {
		op := history.Op{ID: int64(i), Client: int32(i), Process: int64(i), Kind: history.Send, Value: history.MakeValue(int32(i), 1), Offset: history.NoOffset}
		a, b := r.Int64N(span), r.Int64N(span)
		op.Call, op.Return = min(a, b)+int64(i), max(a, b)+int64(i)
		switch r.IntN(8) {
		case 0:
			op.Outcome = history.Failed
			if r.IntN(20) == 0 {
				log = append(log, op.Value)
			}
		case 1, 2:
			op.Outcome = history.Indeterminate
			if r.IntN(2) == 0 {
				op.Return = history.Infinity
			}
			if r.IntN(2) == 0 {
				log = append(log, op.Value)
			}
		default:
			op.Outcome, op.Acked = history.OK, true
			if r.IntN(15) > 0 {
				log = append(log, op.Value)
			}
		}
		h.Ops = append(h.Ops, op)
	}
	if r.IntN(2) == 0 {
		r.Shuffle(len(log), func(i, j int) { log[i], log[j] = log[j], log[i] })
	}
	if r.IntN(25) == 0 && len(log) > 0 {
		log = append(log, log[0])
	}
	rep := history.Replica{Key: "t-0", Node: "n1", Leader: true, Complete: true, Digest: "d"}
	offset := int64(0)
	for _, value := range log {
		if gaps {
			offset += int64(r.IntN(2))
		}
		rep.Records = append(rep.Records, history.Record{Offset: offset, Value: value, Epoch: 1})
		offset++
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Outcome != history.OK {
			continue
		}
		for _, rec := range rep.Records {
			if rec.Value == op.Value && r.IntN(10) > 0 {
				op.Offset = rec.Offset
			}
		}
		if r.IntN(30) == 0 {
			op.Offset = r.Int64N(4)
		}
	}
	for range r.IntN(4) {
		op := history.Op{ID: int64(len(h.Ops)), Client: 4, Process: int64(len(h.Ops)), Kind: history.Poll, Outcome: history.OK, High: history.NoOffset, Offset: history.NoOffset}
		op.Call = r.Int64N(span)
		op.Return = op.Call + r.Int64N(span)
		if len(rep.Records) > 0 {
			from := r.IntN(len(rep.Records))
			op.Records = slices.Clone(rep.Records[from : from+r.IntN(len(rep.Records)-from)+1])
			op.From = op.Records[0].Offset
			if r.IntN(15) == 0 {
				op.Records[0].Value = history.MakeValue(int32(r.IntN(sends)), 1)
			}
		}
		h.Ops = append(h.Ops, op)
	}
	rep.Sentinel, rep.End = offset, offset+1
	rep.Records = append(rep.Records, history.Record{Offset: offset, Payload: history.Sentinel, Epoch: 1})
	h.Replicas = []history.Replica{rep}
	h.Drains = []history.Drain{{Key: "t-0", Complete: true, InSync: true, Quiet: true, At: 1000}}
	return h
}

// naive decides a history by Porcupine alone on a model that keeps the whole
// log, lets each indeterminate send happen or not, and reads the drained log at
// the end. It shares nothing with the checker's resolution.
func naive(h *history.History) porcupine.CheckResult {
	type entry struct {
		offset int64
		value  history.Value
	}
	drained := map[history.Value][]int64{}
	var final []entry
	highest := int64(0)
	for _, rec := range h.Replicas[0].Records {
		if rec.Payload == history.Good {
			drained[rec.Value] = append(drained[rec.Value], rec.Offset)
			final = append(final, entry{rec.Offset, rec.Value})
			highest = max(highest, rec.Offset+1)
		}
	}
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{[]entry(nil)} },
		Step: func(state, input, _ any) []any {
			log, op := state.([]entry), input.(*history.Op)
			next := int64(0)
			if len(log) > 0 {
				next = log[len(log)-1].offset + 1
			}
			var out []any
			push := func(offset int64) {
				if offset >= next {
					out = append(out, append(slices.Clone(log), entry{offset, op.Value}))
				}
			}
			switch {
			case op == nil:
				if slices.Equal(log, final) {
					out = append(out, log)
				}
			case op.Kind == history.Poll:
				for _, rec := range op.Records {
					if !slices.Contains(log, entry{rec.Offset, rec.Value}) {
						return nil
					}
				}
				out = append(out, log)
			case op.Outcome == history.OK && op.Offset != history.NoOffset:
				push(op.Offset)
			case op.Outcome == history.OK:
				for _, o := range drained[op.Value] {
					push(o)
				}
			default: // it may have happened, anywhere, or not
				out = append(out, log)
				for o := range highest + 1 {
					push(o)
				}
			}
			return out
		},
		Equal: func(a, b any) bool { return slices.Equal(a.([]entry), b.([]entry)) },
	}
	var ops []porcupine.Operation
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Outcome == history.Failed {
			continue
		}
		p := porcupine.Operation{Input: op, Call: op.Call, Return: op.Return}
		if op.Kind == history.Send && op.Outcome == history.Indeterminate {
			p.Return = 5000
		}
		ops = append(ops, p)
	}
	ops = append(ops, porcupine.Operation{Input: (*history.Op)(nil), Call: 6000, Return: 6000})
	return porcupine.CheckOperationsTimeout(model.ToModel(), ops, time.Minute)
}

// TestResolutionAgreesWithNaiveModel compares the whole clause, resolution of
// indeterminate sends included, with the naive model.
func TestResolutionAgreesWithNaiveModel(t *testing.T) {
	cases := 100_000 / slowdown
	if testing.Short() {
		cases = 5_000
	}
	r := rand.New(rand.NewPCG(3, 4))
	var verdicts [2]int
	for i := range cases {
		h := randomHistory(r, i%2 == 0)
		v, err := newView(h, lax().withDefaults())
		require.NoError(t, err)
		c := v.judge(context.Background(), ClauseLinearizable, checkLinearizable)
		want := Valid
		if naive(h) != porcupine.Ok {
			want = Invalid
		}
		require.Equal(t, want, c.Verdict, "case %d: %s\n%s", i, c.Detail, describe(h))
		if want == Valid {
			verdicts[0]++
		} else {
			verdicts[1]++
		}
	}
	require.Greater(t, verdicts[0], cases/10, "legal histories")
	require.Greater(t, verdicts[1], cases/10, "illegal histories")
}

func describe(h *history.History) string {
	s := ""
	for _, op := range h.Ops {
		s += fmt.Sprintf("%+v\n", op)
	}
	return s + fmt.Sprintf("%+v\n", h.Replicas)
}

// TestPorcupineGivesUp: a search that is too large ends as Unknown within its
// bounds, and the exact procedure still decides.
func TestPorcupineGivesUp(t *testing.T) {
	// An illegal log with many concurrent reads: search must try all orders.
	const n = 24
	values := make([]uint64, n)
	var ops []logOp
	for p := range n {
		values[p] = uint64(p)
		ops = append(ops, logOp{id: int64(p), call: 0, ret: 1000, pos: p, exact: -1})
		for range 4 {
			ops = append(ops, logOp{id: int64(len(ops)), call: 0, ret: 1000, isRead: true, pos: p, exact: -1})
		}
	}
	ops = append(ops, logOp{id: 9999, call: 2000, ret: 2001, isRead: true, exact: 3})
	_, legal := decideLog(n, ops)
	require.False(t, legal)
	require.Equal(t, porcupine.Unknown, searchLog(context.Background(), values, ops, 50*time.Millisecond))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.Equal(t, porcupine.Unknown, searchLog(ctx, values, ops, time.Minute))
}
