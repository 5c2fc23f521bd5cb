package checker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// queueHeader is of a queue "q" with dead letters "d", and a log "t-0".
func queueHeader(ct history.Contract) history.Header {
	return history.Header{
		Keys: []string{"q", "d", "t-0"}, Nodes: []string{"n1"}, Contract: ct, Queues: []history.Queue{{Key: "q", DeadLetters: "d"}, {Key: "d"}},
		Clients: []history.Client{{Name: "p0", Role: "producer"}, {Name: "p1", Role: "producer"}, {Name: "c0", Role: "consumer"}, {Name: "c1", Role: "consumer"}},
	}
}

// wildQueue draws a history of queues in which anything may be answered.
func wildQueue(r *rand.Rand) *history.History {
	chance := func(n int) bool { return r.IntN(n) == 0 }
	h := &history.History{Closed: true, Header: queueHeader(history.Contract{
		Acknowledged: true, Expect: "survive", Delivery: []string{"", "at-most-once", "at-least-once", "exactly-once"}[r.IntN(4)], Settled: !chance(4), MaxDeliveries: r.IntN(4),
		AtMostOnce: true, Offsets: "global",
	})}
	sane := 1 + r.IntN(20)
	var seq [2]int64
	var free [4]int64
	var sent []history.Value
	now := int64(0)
	for range 5 + r.IntN(40) {
		now += r.Int64N(6)
		c := r.IntN(4)
		op := history.Op{ID: int64(len(h.Ops)), Client: int32(c), Process: int64(c), Key: int32(r.IntN(8) / 7), Call: max(now, free[c]), Offset: history.NoOffset, High: history.NoOffset, Epoch: -1, Outcome: history.OK}
		op.Return = op.Call + r.Int64N(8)
		if chance(6) {
			op.Outcome = history.Outcome(2 + r.IntN(2))
		}
		switch {
		case c < 2:
			seq[c]++
			op.Kind, op.Value, op.Acked = history.Send, history.MakeValue(int32(c), seq[c]), true
			if chance(20) {
				op.Key = 2
			}
			sent = append(sent, op.Value)
		case chance(2):
			op.Kind = history.Receive
			for range r.IntN(4) {
				rec := history.Record{Offset: history.NoOffset, Epoch: -1, Delivery: int32(r.IntN(3))}
				if len(sent) > 0 {
					rec.Value = sent[r.IntN(len(sent))]
				}
				if chance(sane) {
					rec.Value = history.MakeValue(int32(r.IntN(3)), 1+r.Int64N(9))
				}
				if chance(4 * sane) {
					rec.Payload = history.Payload(r.IntN(4))
				}
				op.Records = append(op.Records, rec)
			}
			if op.Outcome == history.Failed {
				op.Records = nil
			}
		case len(sent) > 0:
			op.Kind = []history.Kind{history.Accept, history.Accept, history.Release, history.Reject}[r.IntN(4)]
			op.Value, op.Of = sent[r.IntN(len(sent))], int64(r.IntN(len(h.Ops)+1))-1
		default:
			continue
		}
		free[c] = op.Return
		if op.Outcome == history.Indeterminate && chance(2) {
			op.Return, free[c] = history.Infinity, history.Infinity/2
		}
		if op.Call < history.Infinity/4 {
			h.Ops = append(h.Ops, op)
		}
	}
	return h
}

// TestOnlineQueuesAreConfirmed: the same of queues as TestOnlineIsConfirmed of logs.
func TestOnlineQueuesAreConfirmed(t *testing.T) {
	plainly(t)
	classes := map[string]int{}
	for seed := range uint64(5_000) {
		r := rand.New(rand.NewPCG(seed, 22))
		h, found, _ := watched(wildQueue(r), []int{0, 4, 16}[r.IntN(3)])
		requireConfirmed(t, h, found, "seed", seed)
		for class := range found.Counts {
			classes[class]++
		}
	}
	for _, class := range []string{ClassPhantom, ClassPhantomRun, ClassPhantomBytes, ClassResurrected, ClassDuplicate, ClassAfterSettlement, ClassTooManyTimes} {
		require.Greater(t, classes[class], 10, "%s: %v", class, classes)
	}
}

// TestOnlineFindsInQueues: each class of queues is found at the operation that
// shows it, and its near miss is not.
func TestOnlineFindsInQueues(t *testing.T) {
	const q, d, log = 0, 1, 2
	v1 := history.MakeValue(0, 1)
	op := func(client int32, kind history.Kind, call, ret int64, key int32) history.Op {
		return history.Op{Client: client, Process: int64(client), Kind: kind, Key: key, Call: call, Return: ret, Outcome: history.OK, Offset: history.NoOffset, High: history.NoOffset, Epoch: -1}
	}
	send := func(key int32, outcome history.Outcome) history.Op {
		o := op(0, history.Send, 10, 20, key)
		o.Value, o.Outcome, o.Acked = v1, outcome, true
		return o
	}
	receive := func(client int32, call int64, key int32, times int32) history.Op {
		o := op(client, history.Receive, call, call+10, key)
		o.Records = []history.Record{{Offset: history.NoOffset, Value: v1, Delivery: times, Epoch: -1}}
		return o
	}
	settle := func(kind history.Kind, ret, of int64) history.Op {
		o := op(3, kind, ret-1, ret, q)
		o.Value, o.Of = v1, of
		return o
	}
	mode := func(m string) history.Contract { return history.Contract{Delivery: m} }
	settled := history.Contract{Settled: true}
	for _, c := range []struct {
		name, clause, class string
		ct                  history.Contract
		wrong, right        []history.Op
	}{
		{
			"sent to a log", ClausePhantom, ClassPhantom, settled,
			[]history.Op{send(log, history.OK), receive(2, 30, q, 0)},
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0)},
		},
		{
			"in the wrong queue", ClausePhantom, ClassPhantom, settled,
			[]history.Op{send(d, history.OK), receive(2, 30, q, 0)},
			[]history.Op{send(q, history.OK), receive(2, 30, d, 0)},
		},
		{
			"failed, and delivered", ClauseResurrected, ClassResurrected, settled,
			[]history.Op{send(q, history.Failed), receive(2, 30, q, 0)},
			[]history.Op{send(q, history.Indeterminate), receive(2, 30, q, 0)},
		},
		{
			"delivered twice", ClauseConsumedOnce, ClassDuplicate, mode(atMostOnce),
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0), receive(3, 50, q, 0)},
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0), receive(3, 50, d, 0)},
		},
		{
			"accepted twice", ClauseConsumedOnce, ClassDuplicate, mode(exactlyOnce),
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0), settle(history.Accept, 50, 1), settle(history.Accept, 70, 2)},
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0), settle(history.Accept, 50, 1), settle(history.Accept, 70, 1)},
		},
		{
			"delivered after its acceptance", ClauseSettled, ClassAfterSettlement, settled,
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0), settle(history.Accept, 50, 1), receive(2, 51, q, 0)},
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0), settle(history.Accept, 50, 1), receive(2, 50, q, 0)},
		},
		{
			"delivered after its rejection", ClauseSettled, ClassAfterSettlement, settled,
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0), settle(history.Reject, 50, 1), receive(2, 51, q, 0)},
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0), settle(history.Release, 50, 1), receive(2, 51, q, 0)},
		},
		{
			"too often", ClauseMaxDeliveries, ClassTooManyTimes,
			history.Contract{MaxDeliveries: 2},
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0), receive(3, 50, q, 3)},
			[]history.Op{send(q, history.OK), receive(2, 30, q, 0), receive(3, 50, q, 2)},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			play := func(ops []history.Op) (*history.History, OnlineReport, []int) {
				last := op(1, history.Send, 500, 510, q)
				last.Value, last.Acked = history.MakeValue(1, 1), true
				h := &history.History{Header: queueHeader(c.ct), Ops: append(slices.Clone(ops), last), Closed: true}
				return watched(h, 0)
			}
			h, r, found := play(c.wrong)
			i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Clause == c.clause && f.Class == c.class })
			require.GreaterOrEqual(t, i, 0, fmt.Sprint(r.Findings))
			require.Less(t, found[i], len(h.Ops), "found while the run goes on")
			requireConfirmed(t, h, r)
			_, r, _ = play(c.right)
			require.Zero(t, r.Counts[c.class], fmt.Sprint(r.Findings))
		})
	}
}
