package checker

import (
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// drawQueue makes a small history of a queue: an ideal queue's, with each operation
// stretched over the moment at which it took effect, and damaged a little or not at
// all. Times are few, so that many are equal.
func drawQueue(rng *rand.Rand) *history.History {
	n := 3 + rng.IntN(5)
	dead := rng.IntN(2) == 0
	h := &history.History{Closed: true, Header: history.Header{
		Version: history.Version, Nodes: []string{"n1"}, Keys: []string{"q"}, Queues: []history.Queue{{Key: "q"}},
		Clients:  []history.Client{{Name: "p0"}, {Name: "c0"}, {Name: "c1"}},
		Contract: everything(),
	}}
	ct := &h.Header.Contract
	ct.Delivery, ct.Settled, ct.Redelivers, ct.Exclusive, ct.TruthfulEmpty = exactlyOnce, true, true, true, true
	ct.MaxDeliveries, ct.Order = rng.IntN(2)*2, "none"
	if dead {
		h.Header.Keys = append(h.Header.Keys, "q-dead")
		h.Header.Queues = []history.Queue{{Key: "q", DeadLetters: "q-dead"}, {Key: "q-dead"}}
		ct.DeadLetters = true
	}
	q := &ideal{r: rng, h: h, limit: ct.MaxDeliveries, held: map[history.Value]history.Op{}, counts: map[history.Value]int{}}
	sent := int64(0)
	now := int64(10)
	wide := int64(1 + rng.IntN(6))
	for range n {
		now += rng.Int64N(4)
		op := history.Op{ID: int64(len(h.Ops)), Call: now - rng.Int64N(wide), Return: now + rng.Int64N(wide), Outcome: history.OK, Offset: history.NoOffset, Client: 1 + rng.Int32N(2)}
		lost := rng.IntN(7) == 0 // nobody heard of it
		happens := !lost || rng.IntN(2) == 0
		held := sorted(q.held)
		switch x := rng.IntN(10); {
		case x < 3 && sent < 3:
			sent++
			op.Kind, op.Client, op.Value, op.Acked = history.Send, 0, history.MakeValue(0, sent), true
			if happens {
				q.ready = append(q.ready, op.Value)
			}
		case x < 7 || len(held) == 0:
			op.Kind = history.Receive
			if happens {
				op.Records = q.take(op, 1+rng.IntN(2))
			}
			if lost {
				op.Records = nil
			}
			for i := range op.Records {
				if rng.IntN(2) == 0 {
					op.Records[i].Delivery = 0
				}
			}
		case x < 9:
			v := held[rng.IntN(len(held))]
			of := q.held[v]
			op.Kind, op.Value, op.Of, op.Client = []history.Kind{history.Accept, history.Accept, history.Release, history.Reject}[rng.IntN(4)], v, of.ID, of.Client
			if happens {
				switch op.Kind {
				case history.Accept:
					delete(q.held, v)
				case history.Release:
					q.back(v)
				default:
					delete(q.held, v)
					q.dead = append(q.dead, v)
				}
			}
		default:
			op.Kind = history.Leave
			for _, v := range held {
				if happens && q.held[v].Client == op.Client {
					q.back(v)
				}
			}
		}
		if lost {
			op.Outcome, op.Acked = history.Indeterminate, false
			if rng.IntN(2) == 0 {
				op.Return = history.Infinity
			}
			if !happens && rng.IntN(2) == 0 && op.Kind != history.Leave {
				op.Outcome, op.Return = history.Failed, now+rng.Int64N(wide)
			}
		}
		h.Ops = append(h.Ops, op)
	}
	for _, v := range sorted(q.held) {
		q.back(v)
	}
	for range []int{0, 1, 1, 2}[rng.IntN(4)] {
		damageQueue(rng, h, q, sent)
	}
	for i, values := range [][]history.Value{q.ready, q.dead}[:len(h.Header.Keys)] {
		rep := history.Replica{Key: h.Header.Keys[i], Node: "n1", Leader: true, Complete: true, Queue: true, Sentinel: int64(len(values))}
		for _, v := range append(slices.Clone(values), 0) {
			rec := history.Record{Offset: int64(len(rep.Records)), Value: v, Epoch: -1}
			if v == 0 {
				rec.Payload = history.Sentinel
			}
			rep.Records = append(rep.Records, rec)
		}
		rep.Unacknowledged = int64(len(rep.Records))
		if rng.IntN(12) == 0 {
			rep.Ready = 1 // it proves nothing
		}
		h.Replicas = append(h.Replicas, rep)
		h.Drains = append(h.Drains, history.Drain{Key: rep.Key, Complete: true, InSync: true, Quiet: true, At: 1e6})
	}
	return h
}

// damageQueue changes one thing of a history, or of its drain.
func damageQueue(rng *rand.Rand, h *history.History, q *ideal, sent int64) {
	op := &h.Ops[rng.IntN(len(h.Ops))]
	value := history.MakeValue(0, 1+rng.Int64N(max(sent, 1)))
	if rng.IntN(10) == 0 {
		value = history.MakeValue(0, sent+1) // nobody sent it
	}
	switch rng.IntN(9) {
	case 0:
		op.Call -= rng.Int64N(8)
		op.Call = max(op.Call, 0)
	case 1:
		if op.Outcome == history.OK {
			later := rng.Int64N(8)
			op.Call, op.Return = op.Call+later, op.Return+later
		}
	case 2:
		again := slices.ContainsFunc(op.Records, func(rec history.Record) bool { return rec.Value == value })
		if op.Kind == history.Receive && op.Outcome == history.OK && !again {
			op.Records = append(slices.Clone(op.Records), history.Record{Offset: history.NoOffset, Value: value, Epoch: -1})
		}
	case 3:
		if op.Kind == history.Receive && op.Outcome == history.OK {
			op.Records = nil
		}
	case 4:
		if len(q.ready) > 0 {
			q.ready = q.ready[1:]
		}
	case 5:
		q.ready = append(slices.DeleteFunc(q.ready, func(v history.Value) bool { return v == value }), value)
	case 7, 8: // another consumer is given what this one settles
		if op.Kind.Settles() && op.Outcome == history.OK {
			of := &h.Ops[op.Of]
			again := history.Op{ID: int64(len(h.Ops)), Client: 3 - op.Client, Kind: history.Receive, Call: of.Return + rng.Int64N(2), Outcome: history.OK, Offset: history.NoOffset}
			again.Return = max(again.Call, op.Call-rng.Int64N(3))
			again.Records = []history.Record{{Offset: history.NoOffset, Value: op.Value, Epoch: -1}}
			h.Ops = append(h.Ops, again)
		}
	case 6:
		if i := slices.Index(q.dead, value); i >= 0 {
			q.dead = slices.Delete(q.dead, i, i+1)
		} else {
			q.dead = append(q.dead, value)
		}
	}
}

// model decides by trying everything whether a queue that keeps all its promises can
// have answered as a history says: every operation takes effect at one moment between
// its call and its return, one without an answer at any later one or never, and the
// system may take a consumer that holds something for dead at any moment, unless it
// confirms a settlement later.
type model struct {
	h     *history.History
	limit int
	dead  bool
	drain [2]map[history.Value]bool // what came out
	whole [2]bool                   // nothing else was there
	seen  map[modelState]bool
}

const modelValues = 4

// modelState says what took effect, and of every value where it is.
type modelState struct {
	done   uint16
	status [modelValues + 1]modelStatus // by sequence number
}

type modelStatus struct {
	where  byte // absent, ready, held, consumed, dead
	holder int8 // operation
	count  int8
}

const (
	modelAbsent = iota
	modelReady
	modelHeld
	modelConsumed
	modelDead
)

func explainable(h *history.History) bool {
	m := model{h: h, limit: h.Header.Contract.MaxDeliveries, dead: h.Header.Contract.DeadLetters, seen: map[modelState]bool{}}
	for i, rep := range h.Replicas {
		m.whole[i] = rep.Ready == 0
		m.drain[i] = map[history.Value]bool{}
		for _, rec := range rep.Records {
			if rec.Payload == history.Good {
				m.drain[i][rec.Value] = true
			}
		}
	}
	return m.search(modelState{})
}

func (m *model) back(s *modelState, v int) {
	switch st := &s.status[v]; {
	case m.limit == 0 || int(st.count) < m.limit:
		st.where = modelReady
	default:
		st.where = m.deadOr()
	}
}

func (m *model) deadOr() byte {
	if m.dead {
		return modelDead
	}
	return modelConsumed
}

func (m *model) search(s modelState) bool {
	if m.seen[s] {
		return false
	}
	m.seen[s] = true
	if m.final(s) {
		return true
	}
	for v := range s.status {
		if s.status[v].where == modelHeld {
			next := s
			m.back(&next, v)
			if m.search(next) {
				return true
			}
		}
	}
	for i := range m.h.Ops {
		if s.done>>i&1 != 0 || !m.mayBeNext(s, i) {
			continue
		}
		for _, next := range m.apply(s, i) {
			next.done |= 1 << i
			if m.search(next) {
				return true
			}
		}
	}
	return false
}

// mayBeNext: nothing that has not taken effect yet returned before operation i was called.
func (m *model) mayBeNext(s modelState, i int) bool {
	for j := range m.h.Ops {
		if o := &m.h.Ops[j]; s.done>>j&1 == 0 && o.Outcome == history.OK && o.Return < m.h.Ops[i].Call {
			return false
		}
		if s.done>>j&1 != 0 && m.over(i, j) {
			return false
		}
	}
	return true
}

// over: operation j is a leave, and i a receive of the same session that was not answered.
func (m *model) over(i, j int) bool {
	receive, leave := &m.h.Ops[i], &m.h.Ops[j]
	return receive.Kind == history.Receive && receive.Outcome == history.Indeterminate && leave.Kind == history.Leave && leave.Outcome == history.OK &&
		receive.Client == leave.Client && leave.Call > receive.Call && (receive.Return == history.Infinity || leave.Call >= receive.Return)
}

// apply lists the states that operation i can lead to: none where its answer is impossible.
func (m *model) apply(s modelState, i int) []modelState {
	op := &m.h.Ops[i]
	if op.Outcome == history.Failed {
		return []modelState{s}
	}
	v := int(op.Value.Seq())
	holds := op.Kind.Settles() && s.status[v].where == modelHeld && int64(s.status[v].holder) == op.Of
	next := s
	switch op.Kind {
	case history.Send:
		next.status[v].where = modelReady
	case history.Receive:
		if op.Outcome == history.Indeterminate {
			return m.takes(s, i)
		}
		if len(op.Records) == 0 {
			for _, st := range s.status {
				if st.where == modelReady {
					return nil
				}
			}
		}
		for _, rec := range op.Records {
			st := &next.status[rec.Value.Seq()]
			if st.where != modelReady || rec.Delivery != 0 && rec.Delivery != int32(st.count)+1 {
				return nil
			}
			*st = modelStatus{modelHeld, int8(i), st.count + 1}
		}
	case history.Leave:
		for v, st := range s.status {
			if st.where == modelHeld && m.h.Ops[st.holder].Client == op.Client {
				m.back(&next, v)
			}
		}
	default:
		switch {
		case !holds && op.Outcome == history.OK:
			return nil
		case !holds:
			return []modelState{s}
		case op.Kind == history.Accept:
			next.status[v].where = modelConsumed
		case op.Kind == history.Reject:
			next.status[v].where = m.deadOr()
		default:
			m.back(&next, v)
		}
	}
	return []modelState{next}
}

// takes lists what a receive without an answer may have taken: any of what is ready.
func (m *model) takes(s modelState, i int) []modelState {
	all := []modelState{s}
	for v, st := range s.status {
		if st.where != modelReady {
			continue
		}
		for _, other := range all {
			other.status[v] = modelStatus{modelHeld, int8(i), st.count + 1}
			all = append(all, other)
		}
	}
	return all
}

// final: everything that was answered took effect, and the drain shows what is left
// when everybody is gone.
func (m *model) final(s modelState) bool {
	for i := range m.h.Ops {
		if s.done>>i&1 == 0 && m.h.Ops[i].Outcome == history.OK {
			return false
		}
	}
	for v := range s.status {
		if s.status[v].where == modelHeld {
			m.back(&s, v)
		}
		for i, where := range [...]byte{modelReady, modelDead} {
			out, there := m.drain[i][history.MakeValue(0, int64(v))], s.status[v].where == where
			if out && !there || there && !out && m.whole[i] {
				return false
			}
		}
	}
	return true
}

// pairwise judges a history by the definitions of some clauses, pair by pair.
type pairwise struct{ h *history.History }

func (n pairwise) takes(v history.Value) []*history.Op {
	var all []*history.Op
	for i := range n.h.Ops {
		for _, rec := range n.h.Ops[i].Records {
			if rec.Value == v {
				all = append(all, &n.h.Ops[i])
			}
		}
	}
	return all
}

func (n pairwise) drained(v history.Value) bool {
	return slices.ContainsFunc(n.h.Replicas[0].Records, func(rec history.Record) bool { return rec.Value == v })
}

// settledAgain counts messages that were delivered after a confirmed settlement.
func (n pairwise) settledAgain() int {
	bad := map[history.Value]bool{}
	for _, s := range n.h.Ops {
		if s.Outcome != history.OK || s.Kind != history.Accept && s.Kind != history.Reject {
			continue
		}
		for _, t := range n.takes(s.Value) {
			bad[s.Value] = bad[s.Value] || t.Call > s.Return
		}
		bad[s.Value] = bad[s.Value] || n.drained(s.Value)
	}
	return trueOf(bad)
}

// falselyEmpty counts receives that found nothing while a message that nobody had been
// given since its acknowledgement or its confirmed return was there, and nobody
// unanswered may have held it.
func (n pairwise) falselyEmpty() int {
	bad := map[int64]bool{}
	for _, e := range n.h.Ops {
		if e.Kind != history.Receive || e.Outcome != history.OK || len(e.Records) > 0 {
			continue
		}
		for _, put := range n.h.Ops {
			if put.Outcome != history.OK || put.Kind != history.Send && put.Kind != history.Release || put.Return >= e.Call {
				continue
			}
			there, out := true, n.drained(put.Value)
			for _, t := range n.takes(put.Value) {
				if put.Kind == history.Release && t.Return < put.Call {
					continue
				}
				out = true
				there = there && t.Call > e.Return && t.Call > put.Return
			}
			if put.Kind == history.Release && len(n.takes(put.Value)) == 0 {
				continue
			}
			hidden := false
			for _, u := range n.h.Ops {
				if u.Kind != history.Receive || u.Outcome != history.Indeterminate || u.Call > e.Return {
					continue
				}
				gone := false
				for _, l := range n.h.Ops {
					after := l.Call >= u.Return || u.Return == history.Infinity && l.Call > u.Call
					gone = gone || l.Kind == history.Leave && l.Outcome == history.OK && l.Client == u.Client && after && l.Return < e.Call
				}
				hidden = hidden || !gone
			}
			bad[e.ID] = bad[e.ID] || there && out && !hidden
		}
	}
	return trueOf(bad)
}

// overtaken counts messages that came out strictly before an earlier one of their
// producer, or before it in one batch, or in the drain.
func (n pairwise) overtaken() int {
	doubt := int64(history.Infinity)
	for _, o := range n.h.Ops {
		if o.Kind == history.Leave && o.Outcome != history.Failed || o.Kind == history.Receive && o.Outcome == history.Indeterminate {
			doubt = min(doubt, o.Call)
		}
	}
	type place struct {
		op        *history.Op // nil: the drain
		call, ret int64
		at        int
	}
	out := func(v history.Value) (place, bool) {
		var p place
		found := false
		for _, t := range n.takes(v) {
			if !found || t.Call < p.call {
				at := slices.IndexFunc(t.Records, func(rec history.Record) bool { return rec.Value == v })
				p, found = place{t, t.Call, t.Return, at}, true
			}
		}
		if !found && n.drained(v) {
			at := slices.IndexFunc(n.h.Replicas[0].Records, func(rec history.Record) bool { return rec.Value == v })
			p, found = place{nil, history.Infinity, history.Infinity, at}, true
			return p, doubt == history.Infinity
		}
		return p, found && p.ret < doubt
	}
	dead := func(v history.Value) bool {
		return len(n.h.Replicas) > 1 && slices.ContainsFunc(n.h.Replicas[1].Records, func(rec history.Record) bool { return rec.Value == v })
	}
	bad := map[history.Value]bool{}
	for _, a := range n.h.Ops {
		for _, b := range n.h.Ops {
			if a.Kind != history.Send || b.Kind != history.Send || !acked(&a) || !acked(&b) || a.Return >= b.Call || dead(a.Value) || dead(b.Value) {
				continue
			}
			x, knownX := out(a.Value)
			y, knownY := out(b.Value)
			if knownX && knownY && (y.ret < x.call || x.op == y.op && y.at < x.at) {
				bad[b.Value] = true
			}
		}
	}
	return trueOf(bad)
}

func trueOf[K comparable](m map[K]bool) int {
	n := 0
	for _, bad := range m {
		if bad {
			n++
		}
	}
	return n
}

// counts are those of Jepsen's total-queue, from multisets.
func (n pairwise) counts() QueueCounts {
	var c QueueCounts
	out, acks := map[history.Value]int{}, map[history.Value]bool{}
	attempts, accepted := map[history.Value]bool{}, map[history.Value]bool{}
	for _, o := range n.h.Ops {
		switch {
		case o.Kind == history.Send:
			attempts[o.Value] = true
			acks[o.Value] = acked(&o)
		case o.Kind == history.Accept && o.Outcome == history.OK:
			accepted[o.Value] = true
		}
		for _, rec := range o.Records {
			out[rec.Value]++
		}
	}
	for i, rep := range n.h.Replicas {
		once := map[history.Value]bool{}
		for _, rec := range rep.Records {
			if rec.Payload == history.Good && !once[rec.Value] {
				once[rec.Value] = true
				out[rec.Value]++
				if i == 0 && attempts[rec.Value] {
					c.Drained++
				}
				if i == 1 && !attempts[rec.Value] {
					out[rec.Value]-- // counted with the dead letters
				}
			}
		}
	}
	for v := range attempts {
		c.Attempts++
		c.Delivered += min(out[v], 1)
		c.Duplicated += max(out[v]-1, 0)
		if accepted[v] {
			c.Accepted++
		}
		switch {
		case acks[v]:
			c.Acknowledged++
			if out[v] == 0 {
				c.Lost++
			}
		case out[v] > 0:
			c.Recovered++
		}
	}
	for v, n := range out {
		if !attempts[v] {
			c.Unexpected += n
		}
	}
	return c
}

// tally counts what a differential test saw.
type tally struct {
	explained, convicted, missed int
	clauses                      map[string]int
}

// differ compares the clauses with the model and with the definitions.
func differ(t *testing.T, seed, cases uint64) tally {
	sum := tally{clauses: map[string]int{}}
	for i := range cases {
		rng := rand.New(rand.NewPCG(seed, i))
		h := drawQueue(rng)
		v, err := newView(h, lax())
		if err != nil {
			t.Errorf("seed %d, case %d: %v", seed, i, err)
			return sum
		}
		r := &Result{}
		count := map[string]int{}
		for _, c := range v.clauses() {
			r.Checks = append(r.Checks, v.judge(t.Context(), c.name, c.run))
			count[c.name] = r.Checks[len(r.Checks)-1].Count
		}
		guilty := convicted(r)
		possible := explainable(h)
		switch {
		case possible && len(guilty) > 0:
			t.Errorf("seed %d, case %d: %v are convicted, and a queue that keeps every promise can answer so:\n%s", seed, i, guilty, show(h))
			return sum
		case possible:
			sum.explained++
		case len(guilty) > 0:
			sum.convicted++
		default:
			sum.missed++
		}
		for _, c := range guilty {
			sum.clauses[c]++
		}
		// Order is promised now: the sweeps say what the definitions say.
		h.Header.Contract.Order = "producer"
		order := v.judge(t.Context(), ClauseOrder, checkQueuesOrder)
		n := pairwise{h}
		got := []int{count[ClauseSettled], count[ClauseTruthfulEmpty], order.Count}
		counts := v.queueCounts()["q"]
		want := []int{n.settledAgain(), n.falselyEmpty(), n.overtaken()}
		if !slices.Equal(want, got) || n.counts() != counts {
			t.Errorf("seed %d, case %d: settled, empty, order are %v by definition and %v by sweep; %+v by multisets and %+v by messages\n%s",
				seed, i, want, got, n.counts(), counts, show(h))
			return sum
		}
		for j, name := range []string{"settled", "empty", "order"} {
			if want[j] > 0 {
				sum.clauses["definition of "+name]++
			}
		}
	}
	return sum
}

func show(h *history.History) string {
	var s string
	for _, o := range h.Ops {
		ret := strconv.FormatInt(o.Return, 10)
		if o.Return == history.Infinity {
			ret = "never"
		}
		s += strconv.FormatInt(o.ID, 10) + " client " + strconv.Itoa(int(o.Client)) + " [" + strconv.FormatInt(o.Call, 10) + ", " + ret + "] " + o.Kind.String() + " " + o.Value.String() + " of " + strconv.FormatInt(o.Of, 10) + " " + o.Outcome.String()
		for _, rec := range o.Records {
			s += " " + rec.Value.String() + "#" + strconv.Itoa(int(rec.Delivery))
		}
		s += "\n"
	}
	for _, rep := range h.Replicas {
		s += rep.Key + " ready " + strconv.FormatInt(rep.Ready, 10) + ":"
		for _, rec := range rep.Records {
			s += " " + rec.Value.String()
		}
		s += "\n"
	}
	return s + "limit " + strconv.Itoa(h.Header.Contract.MaxDeliveries) + "\n"
}

// TestQueuesAgainstModel compares the clauses of queues, on many small histories, with a
// model that tries everything, and with their definitions applied pair by pair.
// FAULTLINE_DIFFERENTIAL sets how many.
func TestQueuesAgainstModel(t *testing.T) {
	cases := 100_000
	cases /= slowdown
	if s := os.Getenv("FAULTLINE_DIFFERENTIAL"); s != "" {
		var err error
		cases, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	workers := runtime.GOMAXPROCS(0)
	sums := make([]tally, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { sums[w] = differ(t, uint64(w)+1, uint64((cases+workers-1)/workers)) })
	}
	wg.Wait()
	total := tally{clauses: map[string]int{}}
	for _, s := range sums {
		total.explained += s.explained
		total.convicted += s.convicted
		total.missed += s.missed
		for name, n := range s.clauses {
			total.clauses[name] += n
		}
	}
	n := total.explained + total.convicted + total.missed
	t.Logf("%d histories: %d that a queue can answer, all acquitted; %d that none can, %d of them convicted; by clause %v", n, total.explained, total.convicted+total.missed, total.convicted, total.clauses)
	require.GreaterOrEqual(t, n, cases)
	require.Greater(t, total.explained, n/5)
	require.Greater(t, total.convicted, n/6)
	// Of the others most have a receive without an answer, or a drain that proves nothing.
	require.Greater(t, total.convicted, 8*total.missed, "that none can answer")
	for _, name := range []string{
		ClauseSurvives, ClausePhantom, ClauseResurrected, ClauseSettled, ClauseRedelivers, ClauseExclusive, ClauseMaxDeliveries, ClauseDeadLetters,
		ClauseTruthfulEmpty, "definition of settled", "definition of empty", "definition of order",
	} {
		require.Greater(t, total.clauses[name], n/10_000, "histories that break %s", name)
	}
}
