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
		if c.Verdict != want {
			require.Equal(t, want, c.Verdict, "case %d: %s\n%s", i, c.Detail, describe(h))
		}
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
