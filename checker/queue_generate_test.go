package checker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/checker/history"
)

// ideal is a queue that keeps every promise: what waits in order, who holds what.
type ideal struct {
	r      *rand.Rand
	h      *history.History
	now    int64
	limit  int
	ready  []history.Value
	held   map[history.Value]history.Op // the receive that took it
	dead   []history.Value
	counts map[history.Value]int
}

func (q *ideal) do(op history.Op) *history.Op {
	q.now += 2 + q.r.Int64N(1000)
	op.ID, op.Call, op.Return = int64(len(q.h.Ops)), q.now, q.now+1+q.r.Int64N(3000)
	op.Process, op.Offset, op.High, op.Epoch = int64(op.Client), history.NoOffset, history.NoOffset, -1
	if op.Outcome == history.Indeterminate {
		op.Code = "timeout"
	}
	q.h.Ops = append(q.h.Ops, op)
	return &q.h.Ops[len(q.h.Ops)-1]
}

// back returns a message: in front, or to the dead letters if it was delivered often enough.
func (q *ideal) back(v history.Value) {
	delete(q.held, v)
	if q.limit > 0 && q.counts[v] >= q.limit {
		q.dead = append(q.dead, v)
		return
	}
	q.ready = append([]history.Value{v}, q.ready...)
}

// take delivers up to n messages to a receive.
func (q *ideal) take(op history.Op, n int) []history.Record {
	var records []history.Record
	for ; n > 0 && len(q.ready) > 0; n-- {
		v := q.ready[0]
		q.ready = q.ready[1:]
		q.held[v] = op
		q.counts[v]++
		records = append(records, history.Record{Offset: history.NoOffset, Value: v, Epoch: -1, Delivery: int32(q.counts[v])})
	}
	return records
}

// generateQueue draws a valid history of about n operations on a queue with dead
// letters after limit deliveries. Where it is calm, consumers accept at once whatever
// they are given, and everything is answered.
func generateQueue(r *rand.Rand, n, limit int, calm bool) *history.History {
	const producers, consumers = 4, 3
	h := &history.History{Closed: true, Header: history.Header{
		Version: history.Version, Nodes: []string{"n1"}, Keys: []string{"q", "q-dead"}, Contract: everything(),
		Queues: []history.Queue{{Key: "q", DeadLetters: "q-dead"}, {Key: "q-dead"}},
	}}
	ct := &h.Header.Contract
	ct.Delivery, ct.Settled, ct.Redelivers, ct.Exclusive, ct.TruthfulEmpty, ct.DeadLetters = exactlyOnce, true, true, true, true, true
	ct.MaxDeliveries, ct.FIFO = limit, calm
	for i := range producers + consumers {
		c := history.Client{Name: fmt.Sprintf("client-%d", i), Role: "producer"}
		if i >= producers {
			c.Role = "consumer"
		}
		h.Header.Clients = append(h.Header.Clients, c)
	}
	q := &ideal{r: r, h: h, now: 1000, limit: limit, held: map[history.Value]history.Op{}, counts: map[history.Value]int{}}
	seq := make([]int64, producers)
	txn := int64(0)
	send := func(txn int64) (history.Value, history.Outcome) {
		p := r.IntN(producers)
		seq[p]++
		op := history.Op{Client: int32(p), Kind: history.Send, Value: history.MakeValue(int32(p), seq[p]), Outcome: history.OK, Acked: true, Txn: txn}
		if x := r.IntN(20); x < 3 && !calm {
			op.Outcome, op.Acked = history.Indeterminate, false
			if x == 0 {
				op.Outcome, op.Code = history.Failed, "REFUSED"
			}
		}
		q.do(op)
		return op.Value, op.Outcome
	}
	maybe := func(o history.Outcome) bool {
		return o == history.OK || o == history.Indeterminate && r.IntN(2) == 0
	}
	settle := func(of history.Op, v history.Value) {
		s := history.Op{Client: of.Client, Kind: history.Accept, Value: v, Of: of.ID, Outcome: history.OK}
		if !calm {
			s.Kind = []history.Kind{history.Accept, history.Accept, history.Release, history.Reject}[r.IntN(4)]
			s.Outcome = []history.Outcome{history.OK, history.OK, history.OK, history.OK, history.Failed, history.Indeterminate}[r.IntN(6)]
		}
		q.do(s)
		if !maybe(s.Outcome) {
			return
		}
		switch s.Kind {
		case history.Accept:
			delete(q.held, v)
		case history.Release:
			q.back(v)
		case history.Reject:
			delete(q.held, v)
			q.dead = append(q.dead, v)
		}
	}
	heldBy := func(client int32) []history.Value {
		var all []history.Value
		for _, v := range sorted(q.held) {
			if q.held[v].Client == client {
				all = append(all, v)
			}
		}
		return all
	}
	leave := func(client int32) {
		q.do(history.Op{Client: client, Kind: history.Leave, Outcome: history.OK})
		for _, v := range slices.Backward(heldBy(client)) {
			q.back(v)
		}
	}
	for len(h.Ops) < n {
		switch x := r.IntN(20); {
		case x < 8:
			if v, o := send(0); maybe(o) {
				q.ready = append(q.ready, v)
			}
		case x == 8 && !calm:
			txn++
			var all []history.Value
			for range 1 + r.IntN(3) {
				if v, o := send(txn); maybe(o) {
					all = append(all, v)
				}
			}
			end := history.Op{Kind: history.Commit, Txn: txn, Outcome: []history.Outcome{history.OK, history.OK, history.Indeterminate}[r.IntN(3)]}
			if r.IntN(4) == 0 {
				end.Kind = history.Abort
			}
			q.do(end)
			if end.Kind == history.Commit && maybe(end.Outcome) {
				q.ready = append(q.ready, all...)
			}
		case x < 15:
			op := q.do(history.Op{Client: producers + r.Int32N(consumers), Kind: history.Receive, Outcome: history.OK})
			if r.IntN(30) == 0 && !calm {
				op.Outcome, op.Code = history.Indeterminate, "timeout"
				if r.IntN(2) == 0 {
					q.take(*op, 2)
				}
				if r.IntN(4) > 0 {
					leave(op.Client)
				}
				break
			}
			op.Records = q.take(*op, 1+r.IntN(3))
			if calm {
				for _, rec := range op.Records {
					settle(*op, rec.Value)
				}
			}
		case x < 19:
			if held := sorted(q.held); len(held) > 0 {
				v := held[r.IntN(len(held))]
				settle(q.held[v], v)
			}
		case !calm:
			leave(producers + r.Int32N(consumers))
		}
	}
	for _, v := range slices.Backward(sorted(q.held)) {
		q.back(v)
	}
	for i, values := range [][]history.Value{q.ready, q.dead} {
		key := h.Header.Keys[i]
		rep := history.Replica{Key: key, Node: "n1", Leader: true, Complete: true, Queue: true, Sentinel: int64(len(values))}
		for i, v := range values {
			rep.Records = append(rep.Records, history.Record{Offset: int64(i), Value: v, Epoch: -1})
		}
		rep.Records = append(rep.Records, history.Record{Offset: rep.Sentinel, Epoch: -1, Payload: history.Sentinel})
		rep.End, rep.Unacknowledged = int64(len(rep.Records)), int64(len(rep.Records))
		h.Replicas = append(h.Replicas, rep)
		h.Drains = append(h.Drains, history.Drain{Key: key, Complete: true, InSync: true, Quiet: true, At: q.now + 1e6})
	}
	return h
}

func TestGeneratedQueuesAreValid(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 11))
		h := generateQueue(r, 400, int(seed%4)*2, seed%5 == 0)
		res := run(t, h, lax())
		require.NotEqual(t, Invalid, res.Verdict, "seed %d: %s", seed, res.Sentence)
		require.Empty(t, convicted(res))
		for _, c := range res.Checks {
			require.Zero(t, c.Count, "seed %d: %s %v", seed, c.Name, c.Anomalies)
		}
		n := res.Counts.Queues["q"]
		require.Zero(t, n.Unexpected)
		require.LessOrEqual(t, n.Delivered, n.Attempts)
		require.LessOrEqual(t, n.Acknowledged-n.Lost+n.Recovered, n.Attempts)
		require.Equal(t, n.Delivered, n.Acknowledged-n.Lost+n.Recovered, "what came out was acknowledged or recovered")
	}
}

// drainOf is the drain of q or of its dead letters.
func drainOf(h *history.History, key string) *history.Replica {
	i := slices.IndexFunc(h.Replicas, func(r history.Replica) bool { return r.Key == key })
	return &h.Replicas[i]
}

// undrain takes the i-th record out of a drain.
func undrain(rep *history.Replica, i int) history.Value {
	v := rep.Records[i].Value
	rep.Records = slices.Delete(slices.Clone(rep.Records), i, i+1)
	rep.Unacknowledged--
	return v
}

// bury puts a value into a drain, in front.
func bury(rep *history.Replica, v history.Value) {
	rep.Records = append([]history.Record{{Value: v, Epoch: -1}}, rep.Records...)
	for i := range rep.Records {
		rep.Records[i].Offset = int64(i)
	}
	rep.Unacknowledged++
}

// of returns the operations of a kind that concern value.
func concerning(h *history.History, value history.Value, kind history.Kind) []*history.Op {
	var all []*history.Op
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind == kind && (op.Value == value && kind != history.Receive ||
			slices.ContainsFunc(op.Records, func(rec history.Record) bool { return rec.Value == value })) {
			all = append(all, op)
		}
	}
	return all
}

// insert adds an operation behind all others, at a time of its own.
func insert(h *history.History, op history.Op) *history.Op {
	op.ID = int64(len(h.Ops))
	op.Process, op.Offset, op.High, op.Epoch = op.ID+1000, history.NoOffset, history.NoOffset, -1
	h.Ops = append(h.Ops, op)
	return &h.Ops[op.ID]
}

func lastTime(h *history.History) int64 {
	t := int64(0)
	for i := range h.Ops {
		t = max(t, h.Ops[i].Return)
	}
	return t
}

// drained picks a message of the drain of q that fits.
func pickDrained(r *rand.Rand, h *history.History, fits func(history.Value) bool) (int, bool) {
	var all []int
	for i, rec := range drainOf(h, "q").Records {
		if rec.Payload == history.Good && fits(rec.Value) {
			all = append(all, i)
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	return all[r.IntN(len(all))], true
}

func plainAck(h *history.History, v history.Value) bool {
	s := concerning(h, v, history.Send)
	return len(s) == 1 && acked(s[0]) && s[0].Txn == 0
}

var queueMutations = []mutation{
	{"lose what nobody received", []string{ClauseSurvives}, func(r *rand.Rand, h *history.History) bool {
		i, ok := pickDrained(r, h, func(v history.Value) bool {
			return plainAck(h, v) && len(concerning(h, v, history.Receive)) == 0
		})
		if ok {
			undrain(drainOf(h, "q"), i)
		}
		return ok
	}},
	{"lose what a consumer had that left", []string{ClauseSurvives, ClauseRedelivers}, func(r *rand.Rand, h *history.History) bool {
		v := insert(h, history.Op{Kind: history.Send, Value: history.MakeValue(98, int64(len(h.Ops))), Call: lastTime(h) + 1, Return: lastTime(h) + 2, Outcome: history.OK, Acked: true}).Value
		insert(h, history.Op{Client: 5, Kind: history.Receive, Call: lastTime(h) + 1, Return: lastTime(h) + 2, Outcome: history.OK, Records: []history.Record{{Offset: -1, Value: v, Epoch: -1}}})
		insert(h, history.Op{Client: 5, Kind: history.Leave, Call: lastTime(h) + 1, Return: lastTime(h) + 2, Outcome: history.OK})
		return true
	}},
	{"deliver what was accepted", []string{ClauseSettled}, func(r *rand.Rand, h *history.History) bool {
		s := pick(r, h, func(op *history.Op) bool { return op.Kind == history.Accept && op.Outcome == history.OK })
		if s == nil || h.Header.Contract.MaxDeliveries > 0 {
			return false
		}
		insert(h, history.Op{Client: 5, Kind: history.Receive, Call: lastTime(h) + 1, Return: lastTime(h) + 2, Outcome: history.OK, Records: []history.Record{{Offset: -1, Value: s.Value, Epoch: -1}}})
		return true
	}},
	{"accept two deliveries", []string{ClauseConsumedOnce}, func(r *rand.Rand, h *history.History) bool {
		s := pick(r, h, func(op *history.Op) bool { return op.Kind == history.Accept && op.Outcome == history.OK })
		if s == nil || h.Header.Contract.MaxDeliveries > 0 {
			return false
		}
		// The second one was called before the first was accepted, and returned after that.
		again := history.Op{Client: 4, Kind: history.Receive, Call: s.Call, Return: s.Return, Outcome: history.OK, Records: []history.Record{{Offset: -1, Value: s.Value, Epoch: -1}}}
		of := insert(h, again)
		insert(h, history.Op{Client: 4, Kind: history.Accept, Value: of.Records[0].Value, Of: of.ID, Call: lastTime(h) + 1, Return: lastTime(h) + 2, Outcome: history.OK})
		return true
	}},
	{"deliver to another what is held", []string{ClauseExclusive}, func(r *rand.Rand, h *history.History) bool {
		s := pick(r, h, func(op *history.Op) bool {
			return op.Kind == history.Accept && op.Outcome == history.OK && op.Call-h.Ops[op.Of].Return > 2
		})
		if s == nil || h.Header.Contract.MaxDeliveries > 0 {
			return false
		}
		first := h.Ops[s.Of]
		insert(h, history.Op{Client: (first.Client-3)%3 + 4, Kind: history.Receive, Call: first.Return + 1, Return: s.Call - 1, Outcome: history.OK, Records: []history.Record{{Offset: -1, Value: s.Value, Epoch: -1}}})
		return true
	}},
	{"say that a message was delivered too often", []string{ClauseMaxDeliveries}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, func(op *history.Op) bool { return len(op.Records) > 0 })
		if op == nil || h.Header.Contract.MaxDeliveries == 0 {
			return false
		}
		op.Records[0].Delivery = int32(h.Header.Contract.MaxDeliveries) + 1
		return true
	}},
	{"forget a dead letter", []string{ClauseDeadLetters}, func(r *rand.Rand, h *history.History) bool {
		rep := drainOf(h, "q-dead")
		i := slices.IndexFunc(rep.Records, func(rec history.Record) bool {
			return slices.ContainsFunc(concerning(h, rec.Value, history.Reject), func(op *history.Op) bool { return op.Outcome == history.OK }) &&
				!slices.ContainsFunc(concerning(h, rec.Value, history.Accept), func(op *history.Op) bool { return op.Outcome != history.Failed })
		})
		if i >= 0 {
			undrain(rep, i)
		}
		return i >= 0
	}},
	{"give a message up too early", []string{ClauseDeadLetters}, func(r *rand.Rand, h *history.History) bool {
		i, ok := pickDrained(r, h, func(v history.Value) bool {
			return len(concerning(h, v, history.Receive)) == 0 && len(concerning(h, v, history.Send)) == 1
		})
		if unanswered := pick(r, h, func(op *history.Op) bool {
			return op.Kind == history.Leave || op.Kind == history.Receive && op.Outcome == history.Indeterminate
		}); !ok || unanswered != nil && h.Header.Contract.MaxDeliveries > 0 {
			return false // it may have been delivered so often
		}
		bury(drainOf(h, "q-dead"), undrain(drainOf(h, "q"), i))
		return true
	}},
	{"say that a queue is empty", []string{ClauseTruthfulEmpty}, func(r *rand.Rand, h *history.History) bool {
		// After everybody left, what nobody received is still there.
		if _, ok := pickDrained(r, h, func(v history.Value) bool {
			return plainAck(h, v) && len(concerning(h, v, history.Receive)) == 0
		}); !ok {
			return false
		}
		for c := range int32(3) {
			insert(h, history.Op{Client: 4 + c, Kind: history.Leave, Call: lastTime(h) + 1, Return: lastTime(h) + 2, Outcome: history.OK})
		}
		insert(h, history.Op{Client: 5, Kind: history.Receive, Call: lastTime(h) + 1, Return: lastTime(h) + 2, Outcome: history.OK})
		return true
	}},
	{"deliver what nobody sent", []string{ClausePhantom}, func(r *rand.Rand, h *history.History) bool {
		bury(drainOf(h, "q"), history.MakeValue(99, 1))
		return true
	}},
	{"deliver what failed", []string{ClauseResurrected}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, func(op *history.Op) bool {
			return op.Kind == history.Send && op.Outcome == history.Failed && op.Txn == 0
		})
		if op != nil {
			bury(drainOf(h, "q"), op.Value)
		}
		return op != nil
	}},
	{"read what was aborted", []string{ClauseTransactions}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, func(op *history.Op) bool { return op.Kind == history.Abort && op.Outcome == history.OK })
		if op == nil {
			return false
		}
		for i := range h.Ops {
			if s := &h.Ops[i]; s.Kind == history.Send && s.Txn == op.Txn && s.Outcome == history.OK {
				bury(drainOf(h, "q"), s.Value)
				return true
			}
		}
		return false
	}},
	{"tear a transaction", []string{ClauseTransactions}, func(r *rand.Rand, h *history.History) bool {
		i, ok := pickDrained(r, h, func(v history.Value) bool {
			sends := concerning(h, v, history.Send)
			if len(sends) == 0 {
				return false
			}
			s := sends[0]
			return s.Txn != 0 && s.Outcome == history.OK && len(concerning(h, v, history.Receive)) == 0 &&
				slices.ContainsFunc(h.Ops, func(o history.Op) bool {
					return o.Kind == history.Commit && o.Txn == s.Txn && o.Outcome == history.Indeterminate
				}) &&
				slices.ContainsFunc(h.Ops, func(o history.Op) bool {
					return o.Kind == history.Send && o.Txn == s.Txn && o.Value != v &&
						slices.ContainsFunc(drainOf(h, "q").Records, func(rec history.Record) bool { return rec.Value == o.Value })
				})
		})
		if ok {
			undrain(drainOf(h, "q"), i)
		}
		return ok
	}},
	{"read before the commit", []string{ClauseTransactions}, func(r *rand.Rand, h *history.History) bool {
		op := pick(r, h, func(op *history.Op) bool {
			return op.Kind == history.Commit && slices.ContainsFunc(h.Ops, func(s history.Op) bool {
				return s.Kind == history.Send && s.Txn == op.Txn && len(concerning(h, s.Value, history.Receive)) > 0
			})
		})
		if op != nil {
			op.Call, op.Return = lastTime(h)+5, lastTime(h)+9
		}
		return op != nil
	}},
}

func TestQueueMutations(t *testing.T) {
	plainly(t)
	for _, m := range queueMutations {
		t.Run(m.name, func(t *testing.T) {
			applied := 0
			for seed := range uint64(120) {
				r := rand.New(rand.NewPCG(seed, 13))
				h := generateQueue(r, 60+int(seed)*3, int(seed%3)*4, false)
				h.Header.Contract.Order = "none"
				if !m.apply(r, h) {
					continue
				}
				applied++
				res := run(t, h, lax())
				require.Equal(t, m.breaks, convicted(res), "seed %d: %s", seed, res.Sentence)
			}
			require.Greater(t, applied, 4, "histories that the mutation fits")
		})
	}
}

var calmMutations = []mutation{
	{"let a producer's message overtake its earlier one", []string{ClauseOrder, ClauseFIFO}, func(r *rand.Rand, h *history.History) bool {
		return swapReceives(h, func(a, b history.Value) bool { return a.Producer() == b.Producer() })
	}},
	{"let a message overtake another producer's", []string{ClauseFIFO}, func(r *rand.Rand, h *history.History) bool {
		return swapReceives(h, func(a, b history.Value) bool { return a.Producer() != b.Producer() })
	}},
}

// swapReceives swaps two neighbouring messages whose sends and receives are one after
// the other, with what settles them.
func swapReceives(h *history.History, fits func(a, b history.Value) bool) bool {
	var order []*history.Record
	var by []*history.Op
	for i := range h.Ops {
		for j := range h.Ops[i].Records {
			order, by = append(order, &h.Ops[i].Records[j]), append(by, &h.Ops[i])
		}
	}
	for i := range len(order) - 1 {
		a, b := order[i].Value, order[i+1].Value
		x, y := concerning(h, a, history.Send)[0], concerning(h, b, history.Send)[0]
		if !fits(a, b) || x.Return >= y.Call || y.Return >= by[i].Call || by[i].Return >= by[i+1].Call {
			continue
		}
		order[i].Value, order[i+1].Value = b, a
		sa, sb := concerning(h, a, history.Accept), concerning(h, b, history.Accept)
		for _, s := range sa {
			s.Value = b
		}
		for _, s := range sb {
			s.Value = a
		}
		return true
	}
	return false
}

func TestCalmQueueMutations(t *testing.T) {
	for _, m := range calmMutations {
		t.Run(m.name, func(t *testing.T) {
			applied := 0
			for seed := range uint64(60) {
				r := rand.New(rand.NewPCG(seed, 17))
				h := generateQueue(r, 300, 0, true)
				require.Equal(t, Valid, run(t, h, lax()).Verdict)
				if !m.apply(r, h) {
					continue
				}
				applied++
				res := run(t, h, lax())
				require.Subset(t, convicted(res), m.breaks, "seed %d: %s", seed, res.Sentence)
				for _, c := range convicted(res) {
					require.Contains(t, []string{ClauseOrder, ClauseFIFO, ClauseTruthfulEmpty}, c)
				}
			}
			require.Greater(t, applied, 4, "histories that the mutation fits")
		})
	}
}

// mixedQueue draws a history of a queue, broken or not.
func mixedQueue() *rapid.Generator[*history.History] {
	return rapid.Custom(func(t *rapid.T) *history.History {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 19))
		h := generateQueue(r, rapid.IntRange(5, 60).Draw(t, "n"), rapid.IntRange(0, 3).Draw(t, "limit"), rapid.Bool().Draw(t, "calm"))
		for range rapid.IntRange(0, 2).Draw(t, "damage") {
			_ = queueMutations[rapid.IntRange(0, len(queueMutations)-1).Draw(t, "mutation")].apply(r, h)
		}
		return h
	})
}

// TestRemovingAReceiveAccusesNobody: less evidence convicts no more. What settles a
// receive goes with it; the exceptions are the clauses that count what came out, which a
// message that was received and not settled is for the loss of it.
func TestRemovingAReceiveAccusesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := mixedQueue().Draw(t, "history")
		var receives []int
		for i := range h.Ops {
			if h.Ops[i].Kind == history.Receive {
				receives = append(receives, i)
			}
		}
		if len(receives) == 0 {
			return
		}
		before := verdicts(t, h)
		i := receives[rapid.IntRange(0, len(receives)-1).Draw(t, "receive")]
		if len(h.Ops[i].Records) == 0 {
			h.Ops[i].Kind, h.Ops[i].Outcome = history.Poll, history.Failed
			neverWorse(t, before, h)
			return
		}
		// Its answer got lost.
		h.Ops[i].Records, h.Ops[i].Outcome = nil, history.Indeterminate
		neverWorse(t, before, h)
	})
}

// TestWideningQueuesAccusesNobody: an operation that may have taken effect at more
// times is guilty of no more.
func TestWideningQueuesAccusesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := mixedQueue().Draw(t, "history")
		before := verdicts(t, h)
		op := &h.Ops[rapid.IntRange(0, len(h.Ops)-1).Draw(t, "op")]
		op.Call -= rapid.Int64Range(0, 4000).Draw(t, "earlier")
		op.Return += rapid.Int64Range(0, 4000).Draw(t, "later")
		neverWorse(t, before, h)
	})
}

// TestForgettingAnAnswerOfAQueueAccusesNobody: a send or a settlement whose answer
// turns indeterminate takes evidence away, and adds none.
func TestForgettingAnAnswerOfAQueueAccusesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := mixedQueue().Draw(t, "history")
		before := verdicts(t, h)
		op := &h.Ops[rapid.IntRange(0, len(h.Ops)-1).Draw(t, "op")]
		if op.Kind == history.Receive {
			return
		}
		op.Outcome, op.Acked = history.Indeterminate, false
		neverWorse(t, before, h)
	})
}

// TestUnprovenQueueDrainAcquitsNobody: without a proven drain nothing is lost, and the
// run is not valid.
func TestUnprovenQueueDrainAcquitsNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := mixedQueue().Draw(t, "history")
		rep := drainOf(h, "q")
		switch rapid.IntRange(0, 4).Draw(t, "what") {
		case 0:
			rep.Ready++
		case 1:
			rep.Unacknowledged--
		case 2:
			rep.Complete = false
		case 3:
			rep.Sentinel = history.NoOffset
		case 4:
			rep.Records = slices.DeleteFunc(slices.Clone(rep.Records), func(rec history.Record) bool { return rec.Payload == history.Sentinel })
		}
		res, err := Run(t.Context(), h, lax())
		require.NoError(t, err)
		require.Zero(t, res.Anomalies[ClassLost])
		require.NotEqual(t, Valid, res.Verdict)
	})
}
