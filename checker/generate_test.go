package checker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/checker/history"
)

// generate draws a valid history of about n operations over keys partitions: an
// ideal broker under one fault. A tenth of the sends are indeterminate, half of
// which happened; some fail; pollers read prefixes, stale ones included.
func generate(r *rand.Rand, n, keys int) *history.History {
	h := &history.History{Closed: true, Header: history.Header{
		Version: history.Version, Nodes: []string{"n1", "n2", "n3"}, Contract: everything(),
	}}
	h.Header.Contract.Epochs = true
	const producers, pollers = 6, 3
	for i := range producers {
		h.Header.Clients = append(h.Header.Clients, history.Client{Name: fmt.Sprintf("producer-%d", i), Role: "producer"})
	}
	for i := range pollers {
		h.Header.Clients = append(h.Header.Clients, history.Client{Name: fmt.Sprintf("poller-%d", i), Role: "poller"})
	}
	logs := make([][]history.Record, keys)
	for k := range keys {
		h.Header.Keys = append(h.Header.Keys, fmt.Sprintf("t-%d", k))
		h.Events = append(h.Events, history.NodeEvent{Node: "n1", Incarnation: "a", Seq: int64(k + 1), Kind: "leader", Key: h.Header.Keys[k], Epoch: 1})
	}
	h.Ops = make([]history.Op, 0, n)
	now := int64(1000)
	seq := make([]int64, producers)
	busy := make([]int64, producers) // when a producer's operation in progress returns
	position := make([][]int64, pollers)
	for i := range position {
		position[i] = make([]int64, keys)
	}
	for id := range n {
		now += 1 + r.Int64N(1000)
		key := r.IntN(keys)
		if r.IntN(4) == 0 {
			c := r.IntN(pollers)
			op := history.Op{
				ID: int64(id), Client: int32(producers + c), Process: int64(c), Kind: history.Poll, Key: int32(key), Node: int16(r.IntN(3)),
				Call: now, Return: now + 1 + r.Int64N(500), Outcome: history.OK, Offset: history.NoOffset, From: position[c][key], High: history.NoOffset, Epoch: 1,
			}
			from, _ := slices.BinarySearchFunc(logs[key], op.From, func(rec history.Record, o int64) int { return int(rec.Offset - o) })
			upTo := min(len(logs[key]), from+r.IntN(12))
			op.Records = logs[key][from:upTo:upTo]
			if len(op.Records) > 0 {
				position[c][key] = op.Records[len(op.Records)-1].Offset + 1
			}
			h.Ops = append(h.Ops, op)
			continue
		}
		p := r.IntN(producers)
		now = max(now, busy[p]+1)
		seq[p]++
		op := history.Op{
			ID: int64(id), Client: int32(p), Process: int64(p), Kind: history.Send, Key: int32(key), Node: 0,
			Value: history.MakeValue(int32(p), seq[p]), Call: now, Return: now + 2 + r.Int64N(4000), Outcome: history.OK, Acked: true, Offset: history.NoOffset,
		}
		happens := true
		switch r.IntN(40) {
		case 0, 1, 2, 3:
			op.Outcome, op.Acked, op.Code = history.Indeterminate, false, "timeout"
			happens = r.IntN(2) == 0
		case 4:
			op.Outcome, op.Acked, op.Code = history.Failed, false, "NOT_ENOUGH_REPLICAS"
			happens = false
		}
		if happens {
			offset := int64(0)
			if l := logs[key]; len(l) > 0 {
				offset = l[len(l)-1].Offset + 1
			}
			if r.IntN(100) == 0 {
				offset++
			}
			// The append takes effect at the call: reads may return it from then on.
			logs[key] = append(logs[key], history.Record{Offset: offset, Value: op.Value, Epoch: 1})
			if op.Acked {
				op.Offset = offset
			}
		}
		busy[p] = op.Return
		h.Ops = append(h.Ops, op)
	}
	end := now + 10_000
	h.Phases = []history.Phase{{Name: "baseline", At: 0}, {Name: "fault", At: end / 3}, {Name: "recovery", At: 2 * end / 3}, {Name: "drain", At: end}}
	for i, s := range []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed} {
		t := end/3 + int64(i)
		if i > 2 {
			t = 2*end/3 - 10 + int64(i)
		}
		h.Faults = append(h.Faults, history.Fault{Name: "partition:isolate-one", Stage: s, At: t, Targets: []string{"n2"}})
	}
	for k, log := range logs {
		sentinel := int64(0)
		if len(log) > 0 {
			sentinel = log[len(log)-1].Offset + 1
		}
		log = append(slices.Clone(log), history.Record{Offset: sentinel, Payload: history.Sentinel, Epoch: 1})
		key := h.Header.Keys[k]
		for i, node := range h.Header.Nodes {
			rep := history.Replica{Key: key, Node: node, Leader: i == 0, Complete: true, End: sentinel + 1, Epoch: 1, Sentinel: sentinel, Digest: "d"}
			if i == 0 {
				rep.Records = log
			} else {
				rep.Same = "n1"
			}
			h.Replicas = append(h.Replicas, rep)
		}
		h.Drains = append(h.Drains, history.Drain{Key: key, Complete: true, InSync: true, Quiet: true, At: end + 1000, Epoch: 1})
	}
	return h
}

func TestGeneratedHistoriesAreValid(t *testing.T) {
	for seed := range uint64(60) {
		h := generate(rand.New(rand.NewPCG(seed, 5)), 900, 3)
		r := run(t, h, Options{})
		require.Equal(t, Valid, r.Verdict, "seed %d: %s", seed, r.Sentence)
		require.Empty(t, r.Anomalies)
	}
}

// mutation breaks one thing of a valid history. It returns false where the
// history offers nothing to break.
type mutation struct {
	name   string
	breaks []string
	apply  func(*rand.Rand, *history.History) bool
}

// pick returns a random operation that fits.
func pick(r *rand.Rand, h *history.History, fits func(*history.Op) bool) *history.Op {
	var all []*history.Op
	for i := range h.Ops {
		if fits(&h.Ops[i]) {
			all = append(all, &h.Ops[i])
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[r.IntN(len(all))]
}

func leaderLog(h *history.History, key int32) *history.Replica {
	for i := range h.Replicas {
		if h.Replicas[i].Key == h.Header.Keys[key] && h.Replicas[i].Leader {
			return &h.Replicas[i]
		}
	}
	return nil
}

func delivered(h *history.History, value history.Value) bool {
	return slices.ContainsFunc(h.Ops, func(op history.Op) bool {
		return slices.ContainsFunc(op.Records, func(rec history.Record) bool { return rec.Value == value })
	})
}

// remove takes value out of every replica's log.
func remove(h *history.History, key int32, value history.Value) bool {
	l := leaderLog(h, key)
	n := len(l.Records)
	l.Records = slices.DeleteFunc(slices.Clone(l.Records), func(rec history.Record) bool {
		return rec.Payload == history.Good && rec.Value == value
	})
	return len(l.Records) < n
}

func isAcked(op *history.Op) bool { return acked(op) }

var mutations = []mutation{
	{"lose an acknowledged message nobody read", []string{ClauseSurvives, ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, func(op *history.Op) bool { return acked(op) && !delivered(h, op.Value) })
		return op != nil && remove(h, op.Key, op.Value)
	}},
	{"lose an acknowledged message that was read", []string{ClauseSurvives, ClauseDirtyRead, ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, func(op *history.Op) bool { return acked(op) && delivered(h, op.Value) })
		return op != nil && remove(h, op.Key, op.Value)
	}},
	{"lose an indeterminate message that was read", []string{ClauseDirtyRead, ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, func(op *history.Op) bool {
			return op.Kind == history.Send && op.Outcome == history.Indeterminate && delivered(h, op.Value)
		})
		return op != nil && remove(h, op.Key, op.Value)
	}},
	{"lose a topic", []string{ClauseSurvives}, func(r *rand.Rand, h *history.History) bool {
		h.Drains[r.IntN(len(h.Drains))].Missing = true
		return true
	}},
	{"change a follower's record", []string{ClauseDivergence}, func(r *rand.Rand, h *history.History) bool {
		k := int32(r.IntN(len(h.Header.Keys)))
		for i := range h.Replicas {
			rep := &h.Replicas[i]
			if rep.Key != h.Header.Keys[k] || rep.Node != "n3" {
				continue
			}
			rep.Same, rep.Digest, rep.Records = "", "other", slices.Clone(leaderLog(h, k).Records)
			rec := &rep.Records[r.IntN(len(rep.Records)-1)]
			if r.IntN(2) == 0 {
				rec.Epoch++
			} else {
				rec.Payload = history.Altered
			}
			h.Drains[k].Complete = false
		}
		return true
	}},
	{"append a message again", []string{ClauseDuplicate, ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, isAcked)
		l := leaderLog(h, op.Key)
		l.Records = append(slices.Clone(l.Records), history.Record{Offset: l.End, Value: op.Value, Epoch: 1})
		return true
	}},
	{"append a message that nobody sent", []string{ClausePhantom, ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		l := leaderLog(h, int32(r.IntN(len(h.Header.Keys))))
		rec := history.Record{Offset: l.End, Value: history.MakeValue(200, 1+r.Int64N(9)), Epoch: 1, Payload: history.Payload(r.IntN(3))}
		l.Records = append(slices.Clone(l.Records), rec)
		return true
	}},
	{"say that an appended message failed", []string{ClauseResurrected, ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, isAcked)
		op.Outcome, op.Acked, op.Offset, op.Code = history.Failed, false, history.NoOffset, "NOT_ENOUGH_REPLICAS"
		return true
	}},
	{"acknowledge at a free offset", []string{ClauseMoved, ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, isAcked)
		op.Offset = leaderLog(h, op.Key).End + 5
		return true
	}},
	{"acknowledge at another message's offset", []string{ClauseMoved, ClauseInconsistent, ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		a := pick(r, h, isAcked)
		b := pick(r, h, func(op *history.Op) bool { return acked(op) && op.Key == a.Key && op != a })
		if b == nil {
			return false
		}
		a.Offset = b.Offset
		return true
	}},
	{"deliver another message of the partition in a record's place", []string{ClauseDuplicate, ClauseInconsistent, ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		poll := pick(r, h, func(op *history.Op) bool { return len(op.Records) > 0 })
		a := pick(r, h, func(op *history.Op) bool { return acked(op) && op.Key == poll.Key && op.Value != poll.Records[0].Value })
		if a == nil {
			return false
		}
		poll.Records = slices.Clone(poll.Records)
		poll.Records[0].Value = a.Value
		return true
	}},
	{"leave a record out of a poll", []string{ClauseMonotonic}, func(r *rand.Rand, h *history.History) bool {
		poll := pick(r, h, func(op *history.Op) bool { return len(op.Records) > 1 })
		if poll == nil {
			return false
		}
		poll.Records = slices.Delete(slices.Clone(poll.Records), 0, 1)
		return true
	}},
	{"deliver a record again", []string{ClauseMonotonic}, func(r *rand.Rand, h *history.History) bool {
		poll := pick(r, h, func(op *history.Op) bool { return len(op.Records) > 0 })
		if poll == nil {
			return false
		}
		poll.Records = append(slices.Clone(poll.Records), poll.Records[len(poll.Records)-1])
		return true
	}},
	{"put a producer's message before its earlier one", []string{ClauseOrder, ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		// Two neighbours in a log, of one producer, that nobody read.
		for i := range h.Drains {
			l := leaderLog(h, int32(i))
			for j := range len(l.Records) - 1 {
				a, b := &l.Records[j], &l.Records[j+1]
				x, y := ackOf(h, a.Value), ackOf(h, b.Value)
				if x == nil || y == nil || x.Value.Producer() != y.Value.Producer() || delivered(h, a.Value) || delivered(h, b.Value) {
					continue
				}
				l.Records = slices.Clone(l.Records)
				l.Records[j].Value, l.Records[j+1].Value = b.Value, a.Value
				x.Offset, y.Offset = y.Offset, x.Offset
				return true
			}
		}
		return false
	}},
	{"elect a second leader in one epoch", []string{ClauseSplitBrain}, func(r *rand.Rand, h *history.History) bool {
		h.Events = append(h.Events, history.NodeEvent{Node: "n2", Incarnation: "b", Seq: 1, Kind: "leader", Key: h.Header.Keys[r.IntN(len(h.Header.Keys))], Epoch: 1})
		return true
	}},
	{"send a message only after it was read", []string{ClauseLinearizable}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, func(op *history.Op) bool {
			return op.Kind == history.Send && op.Outcome == history.Indeterminate && delivered(h, op.Value)
		})
		if op == nil {
			return false
		}
		op.Call = h.Drains[0].At - 1
		op.Return = history.Infinity
		return true
	}},
	{"acknowledge nothing on a partition after healing", []string{ClauseRecovers}, func(r *rand.Rand, h *history.History) bool {
		k := int32(r.IntN(len(h.Header.Keys)))
		for i := range h.Ops {
			if op := &h.Ops[i]; op.Key == k && acked(op) && op.Return >= h.Phases[2].At {
				op.Outcome, op.Acked, op.Offset, op.Code = history.Indeterminate, false, history.NoOffset, "timeout"
			}
		}
		return true
	}},
}

func ackOf(h *history.History, value history.Value) *history.Op {
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Value == value && acked(op) {
			return op
		}
	}
	return nil
}

// TestMutations breaks one thing of a valid history: exactly the clauses that
// the mutation names convict, and no other.
func TestMutations(t *testing.T) {
	plainly(t)
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			applied := 0
			for seed := range uint64(25) {
				r := rand.New(rand.NewPCG(seed, 7))
				h := generate(r, 900, 3)
				if !m.apply(r, h) {
					continue
				}
				applied++
				res := run(t, h, Options{})
				require.Equal(t, Invalid, res.Verdict, "seed %d", seed)
				require.ElementsMatch(t, m.breaks, convicted(res), "seed %d: %s", seed, res.Sentence)
			}
			require.Greater(t, applied, 4, "histories that the mutation fits")
		})
	}
}

// mixed draws a small history, valid or not, from rapid's own choices.
func mixed() *rapid.Generator[*history.History] {
	return rapid.Custom(func(t *rapid.T) *history.History {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 9))
		if rapid.Bool().Draw(t, "several partitions") {
			return tangled(r)
		}
		h := randomHistory(r, rapid.Bool().Draw(t, "gaps"))
		h.Header.Contract.Fresh = rapid.Bool().Draw(t, "fresh")
		return h
	})
}

func verdicts(t require.TestingT, h *history.History) map[string]Verdict {
	r, err := Run(context.Background(), h, lax())
	require.NoError(t, err)
	m := map[string]Verdict{}
	for _, c := range r.Checks {
		m[c.Name] = c.Verdict
	}
	return m
}

// neverWorse requires that a change turns no valid clause into an invalid one.
func neverWorse(t *rapid.T, before map[string]Verdict, h *history.History, except ...string) {
	for name, v := range verdicts(t, h) {
		if name == ClauseMoved && before[ClauseDuplicate] == Invalid {
			continue // a duplicate, one place of which is no longer known, was moved
		}
		if before[name] == Valid && v == Invalid && !slices.Contains(except, name) {
			t.Fatalf("%s turned from valid to invalid", name)
		}
	}
}

// TestRemovingAReadAccusesNobody: less evidence convicts no more. A read in the
// midst of a consumer's run is the exception of monotonic-reads: without it the
// run has a hole.
func TestRemovingAReadAccusesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := mixed().Draw(t, "history")
		var polls []int
		for i := range h.Ops {
			if h.Ops[i].Kind == history.Poll {
				polls = append(polls, i)
			}
		}
		if len(polls) == 0 {
			return
		}
		before := verdicts(t, h)
		n := rapid.IntRange(0, len(polls)-1).Draw(t, "read")
		h.Ops = slices.Delete(slices.Clone(h.Ops), polls[n], polls[n]+1)
		if n == len(polls)-1 {
			neverWorse(t, before, h)
		} else {
			neverWorse(t, before, h, ClauseMonotonic)
		}
	})
}

// TestWideningAccusesNobody: an operation that may have taken effect at more
// times is guilty of no more.
func TestWideningAccusesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := mixed().Draw(t, "history")
		before := verdicts(t, h)
		op := &h.Ops[rapid.IntRange(0, len(h.Ops)-1).Draw(t, "op")]
		op.Call -= rapid.Int64Range(0, 20).Draw(t, "earlier")
		if op.Return != history.Infinity {
			op.Return += rapid.Int64Range(0, 20).Draw(t, "later")
		}
		neverWorse(t, before, h)
	})
}

// TestOrderOfEqualTimesIsNone: operations of different clients that were called at one
// time may stand in either order.
func TestOrderOfEqualTimesIsNone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := mixed().Draw(t, "history")
		if len(h.Ops) < 2 {
			return
		}
		n := rapid.IntRange(0, len(h.Ops)-2).Draw(t, "first")
		a, b := &h.Ops[n], &h.Ops[n+1]
		if a.Client == b.Client {
			return
		}
		a.Call = min(a.Call, b.Call)
		b.Call = a.Call
		before, err := Run(context.Background(), h, lax())
		require.NoError(t, err)
		h.Ops = slices.Clone(h.Ops)
		h.Ops[n], h.Ops[n+1] = h.Ops[n+1], h.Ops[n]
		h.Ops[n].ID, h.Ops[n+1].ID = h.Ops[n+1].ID, h.Ops[n].ID
		after, err := Run(context.Background(), h, lax())
		require.NoError(t, err)
		require.Equal(t, before.Anomalies, after.Anomalies)
		for i := range before.Checks {
			require.Equal(t, before.Checks[i].Verdict, after.Checks[i].Verdict, before.Checks[i].Name)
		}
	})
}

// TestEveryAnomalyHasAWitness: whatever is found in a small history is found again in
// what it is cut down to.
func TestEveryAnomalyHasAWitness(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := mixed().Draw(t, "history")
		r, err := Run(context.Background(), h, lax())
		require.NoError(t, err)
		for _, c := range r.Checks {
			for _, a := range c.Anomalies {
				w, err := Witness(context.Background(), h, lax(), c.Name, a)
				require.NoError(t, err, "%+v", a)
				again, err := Run(context.Background(), w, lax())
				require.NoError(t, err)
				require.NotZero(t, again.Anomalies[a.Class])
			}
		}
	})
}

// TestForgettingAnAnswerAccusesNobody: an answer that turns indeterminate takes
// evidence away, and adds none.
func TestForgettingAnAnswerAccusesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := mixed().Draw(t, "history")
		before := verdicts(t, h)
		op := &h.Ops[rapid.IntRange(0, len(h.Ops)-1).Draw(t, "op")]
		if op.Kind != history.Send {
			return
		}
		op.Outcome, op.Acked, op.Offset = history.Indeterminate, false, history.NoOffset
		neverWorse(t, before, h)
	})
}

// TestUnprovenDrainAcquitsNobody: without a complete drain nothing that rests on
// it is valid, and nothing is lost.
func TestUnprovenDrainAcquitsNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := mixed().Draw(t, "history")
		for i := range h.Drains {
			h.Drains[i].Complete, h.Drains[i].Missing = false, false
		}
		for i := range h.Replicas {
			h.Replicas[i].Complete = false
		}
		r, err := Run(context.Background(), h, lax())
		require.NoError(t, err)
		require.Zero(t, r.Anomalies[ClassLost])
		require.NotEqual(t, Valid, r.Verdict)
	})
}

func BenchmarkRun(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		for _, keys := range []int{1, 10} {
			b.Run(fmt.Sprintf("ops=%d/partitions=%d", n, keys), func(b *testing.B) {
				h := generate(rand.New(rand.NewPCG(1, 1)), n, keys)
				b.ReportAllocs()
				for b.Loop() {
					r, err := Run(context.Background(), h, Options{})
					if err != nil || r.Verdict != Valid {
						b.Fatal(err, r)
					}
				}
				b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mops/s")
			})
		}
	}
}

// plainly leaves a test of one goroutine and many cases to the run without the race
// detector; `make test` has both.
func plainly(t *testing.T) {
	t.Helper()
	if slowdown > 1 {
		t.Skip("runs without the race detector")
	}
}
