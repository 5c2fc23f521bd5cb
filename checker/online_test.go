package checker

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// watched plays h as a run records it, through an Online, and returns what was
// recorded, what was found, and how many operations had been answered at each
// finding. The drain comes last.
func watched(h *history.History, window int) (recorded *history.History, r OnlineReport, found []int) {
	rec := history.NewRecorder(h.Header)
	answered := 0
	o := NewOnline(rec, h.Header, OnlineOptions{Window: window, Found: func(Finding) { found = append(found, answered) }})
	type moment struct {
		at   int64
		rank int
		do   func()
	}
	var moments []moment
	for i := range h.Ops {
		op := h.Ops[i]
		moments = append(moments, moment{op.Call, 0, func() { o.Invoke(&op) }})
		if op.Return != history.Infinity {
			moments = append(moments, moment{op.Return, 1, func() { answered++; o.Complete(&op) }})
		}
	}
	for i := range h.Events {
		moments = append(moments, moment{h.Events[i].At, 0, func() { o.Event(h.Events[i]) }})
	}
	for i := range h.Faults {
		moments = append(moments, moment{h.Faults[i].At, 0, func() { o.Event(h.Faults[i]) }})
	}
	slices.SortStableFunc(moments, func(a, b moment) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.rank, b.rank)) })
	for _, m := range moments {
		m.do()
	}
	for _, p := range h.Phases {
		o.Event(p)
	}
	for _, rep := range h.Replicas {
		o.Event(rep)
	}
	for _, d := range h.Drains {
		o.Event(d)
	}
	return rec.History(), o.Report(), found
}

// requireConfirmed wants every finding to be a conviction of the final check, by
// the same clause and class.
func requireConfirmed(t testing.TB, h *history.History, r OnlineReport, why ...any) {
	t.Helper()
	if len(r.Findings) == 0 {
		return
	}
	final, err := Run(context.Background(), h, lax())
	require.NoError(t, err)
	for _, f := range r.Findings {
		require.True(t, Confirms(final, f), "%v: %s/%s: %s\nthe final check: %s %v", why, f.Clause, f.Class, f.Text, final.Sentence, final.Anomalies)
	}
}

// wild draws a history in which anything may be answered: clients call one
// operation after the other, and values are sent once, in ascending order. The
// rest is as wrong as it likes.
func wild(r *rand.Rand) *history.History {
	chance := func(n int) bool { return r.IntN(n) == 0 }
	ct := history.Contract{
		Acknowledged: !chance(4), Expect: []string{"survive", "declared"}[r.IntN(2)], AtMostOnce: !chance(4), Order: []string{"producer", "partition", "none"}[r.IntN(3)],
		Offsets: []string{"global", "global", "global", "per-node", "none"}[r.IntN(5)], CommittedReads: !chance(4), Monotonic: !chance(4),
		Linearizable: !chance(4), Fresh: chance(3), Epochs: !chance(4), PerReplica: true, MinInSync: r.IntN(3),
	}
	const producers, pollers, keys = 3, 3, 2
	h := &history.History{Closed: true, Header: history.Header{Keys: []string{"t-0", "t-1"}, Nodes: []string{"n1", "n2"}, Contract: ct}}
	for i := range producers {
		h.Header.Clients = append(h.Header.Clients, history.Client{Name: fmt.Sprintf("p%d", i), Role: "producer"})
	}
	for i := range pollers {
		h.Header.Clients = append(h.Header.Clients, history.Client{Name: fmt.Sprintf("c%d", i), Role: "poller"})
	}
	sane := r.IntN(30) + 1 // one of so many facts is wrong
	var logs [keys][]history.Record
	var free [producers + pollers]int64
	var seq [producers]int64
	var from [pollers][keys]int64
	holes := [keys]int64{-1, -1} // offsets that were left out, and may yet be filled
	now := int64(0)
	epoch := int32(1)
	for range 5 + r.IntN(40) {
		now += r.Int64N(6)
		if chance(15) {
			epoch++
		}
		c := r.IntN(producers + pollers)
		k := int32(r.IntN(keys))
		log := &logs[k]
		op := history.Op{Client: int32(c), Process: int64(c), Key: k, Node: int16(r.IntN(2)), Call: max(now, free[c]), Offset: history.NoOffset, High: history.NoOffset, Epoch: epoch}
		op.Return = op.Call + r.Int64N(8)
		op.Outcome = history.OK
		if chance(6) {
			op.Outcome = history.Outcome(2 + r.IntN(2))
		}
		if c < producers {
			seq[c] += 1 + int64(r.IntN(2*sane)/(2*sane-1))
			op.Kind, op.Value, op.Acked = history.Send, history.MakeValue(int32(c), seq[c]), !chance(10)
			offset := endOf(*log)
			switch {
			case holes[k] >= 0 && chance(2):
				offset, holes[k] = holes[k], -1
			case chance(10):
				holes[k] = offset
				offset++
			}
			if op.Outcome == history.OK || op.Outcome == history.Indeterminate && chance(2) || chance(sane) {
				*log = slices.Insert(*log, place(*log, offset), history.Record{Offset: offset, Value: op.Value, Epoch: epoch})
			}
			if chance(sane) {
				offset = r.Int64N(offset + 3)
			}
			if op.Outcome == history.OK && !chance(8) {
				op.Offset = offset
			}
		} else {
			op.Kind = history.Poll
			at := &from[c-producers][k]
			if op.Reset = chance(10); op.Reset {
				*at = r.Int64N(endOf(*log) + 1)
			}
			op.From = *at
			begin := place(*log, op.From)
			op.Records = slices.Clone((*log)[begin : begin+r.IntN(len(*log)-begin+1)])
			for i := range op.Records {
				if !chance(sane) {
					continue
				}
				rec := &op.Records[i]
				switch r.IntN(5) {
				case 0:
					rec.Value = history.MakeValue(int32(r.IntN(producers+1)), 1+r.Int64N(12))
				case 1:
					rec.Offset = r.Int64N(endOf(*log) + 2)
				case 2:
					rec.Payload = history.Payload(r.IntN(4))
				case 3:
					rec.Epoch = int32(r.IntN(3)) - 1
				case 4:
					op.Records = slices.Delete(op.Records, i, len(op.Records))
				}
				if i >= len(op.Records)-1 {
					break
				}
			}
			if n := len(op.Records); n > 0 {
				*at = op.Records[n-1].Offset + 1
			}
			if op.Outcome != history.OK {
				op.Records = nil
			} else if chance(2) {
				op.High = endOf(*log)
			}
		}
		if op.Outcome == history.Indeterminate && chance(2) {
			op.Return = history.Infinity
			free[c] = history.Infinity / 2 // it never comes back
		} else {
			free[c] = op.Return
		}
		if op.Call < history.Infinity/4 {
			h.Ops = append(h.Ops, op)
		}
		if chance(8) && len(*log) > 2 { // a truncation
			*log, holes[k] = slices.Clone((*log)[:len(*log)-1-r.IntN(2)]), -1
		}
	}
	var seqs [2]int64
	var high [keys]int64
	for range r.IntN(12) {
		n, k := r.IntN(2), r.IntN(keys)
		seqs[n] += 1 + int64(r.IntN(8)/7)
		high[k] += r.Int64N(6)
		h.Events = append(h.Events, history.NodeEvent{
			Node: h.Header.Nodes[n], Incarnation: "a", Seq: seqs[n], At: r.Int64N(now + 1), Kind: []string{"leader", "isr", "isr", "isr", "follower", "hw"}[r.IntN(6)],
			Key: h.Header.Keys[k], Epoch: int32(1 + r.IntN(2)), ISR: h.Header.Nodes[:1+r.IntN(2)], Offset: high[k],
		})
	}
	for n := range seqs { // each node tells its events in their order
		var times []int64
		for _, e := range h.Events {
			if e.Node == h.Header.Nodes[n] {
				times = append(times, e.At)
			}
		}
		slices.Sort(times)
		for i := range h.Events {
			if h.Events[i].Node == h.Header.Nodes[n] {
				h.Events[i].At, times = times[0], times[1:]
			}
		}
	}
	for k, log := range logs {
		if chance(10) {
			continue
		}
		log = slices.Clone(log)
		for i := range log {
			if chance(3 * sane) {
				log[i].Value = history.MakeValue(int32(r.IntN(producers)), 1+r.Int64N(12))
			}
		}
		end := endOf(log)
		log = append(log, history.Record{Offset: end, Payload: history.Sentinel, Epoch: epoch})
		whole := !chance(4)
		h.Replicas = append(h.Replicas, history.Replica{
			Key: h.Header.Keys[k], Node: "n1", Leader: !chance(8), Complete: whole, End: end + 1, Epoch: epoch, Sentinel: end, Digest: "d", Records: log,
		})
		h.Drains = append(h.Drains, history.Drain{Key: h.Header.Keys[k], Complete: whole, InSync: !chance(8), Quiet: true, Missing: chance(10), At: now + 100, Epoch: epoch})
	}
	return h
}

// endOf is the offset behind a log, and place where an offset stands in it.
func endOf(log []history.Record) int64 {
	if len(log) == 0 {
		return 0
	}
	return log[len(log)-1].Offset + 1
}

func place(log []history.Record, offset int64) int {
	i, _ := search(log, offset)
	return i
}

// TestOnlineIsConfirmed: whatever is found while a run is recorded, the final
// check finds too, whatever else is wrong with the history.
func TestOnlineIsConfirmed(t *testing.T) {
	plainly(t)
	classes := map[string]int{}
	for seed := range uint64(5_000) {
		r := rand.New(rand.NewPCG(seed, 21))
		h, found, _ := watched(wild(r), []int{0, 4, 16}[r.IntN(3)])
		requireConfirmed(t, h, found, "seed", seed)
		for class := range found.Counts {
			classes[class]++
		}
	}
	t.Log(classes)
	for _, class := range onlineClasses {
		require.Greater(t, classes[class], 10, class)
	}
}

// onlineClasses are the classes that can be told before the drain.
var onlineClasses = []string{
	ClassPhantom, ClassPhantomRun, ClassPhantomBytes, ClassResurrected, ClassDuplicate, ClassMoved, ClassInconsistent, ClassLinearizable,
	ClassStale, ClassNonMonotonic, ClassReorder, ClassSplitBrain, ClassTooFew,
}

// TestOnlineMutations: an Online finds nothing in a valid history, and in one
// that was broken only what the final check finds.
func TestOnlineMutations(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 7))
		_, found, _ := watched(generate(r, 900, 3), 0)
		require.Empty(t, found.Findings)
		require.Zero(t, found.Outside)
		for _, m := range mutations {
			h := generate(r, 900, 3)
			if !m.apply(r, h) || m.name == "send a message only after it was read" {
				continue // that one sends in another order than a producer does
			}
			h, found, _ := watched(h, 0)
			requireConfirmed(t, h, found, m.name, "seed", seed)
		}
	}
}

// TestOnlineFindsInTime: each class is found before the run is over, and the
// history without what is wrong shows nothing.
func TestOnlineFindsInTime(t *testing.T) {
	fresh := func(h *history.History) { h.Header.Contract.Fresh = true }
	epochs := func(h *history.History) { h.Header.Contract.Epochs = true }
	inSync := func(h *history.History) { h.Header.Contract.MinInSync = 2 }
	rest := `
		p2.1 500-510 k1 @0
		log n1* p0.1
		log n1* k1 p2.1
	`
	for _, c := range []struct {
		name, class, clause string
		wrong, right        string
		change              func(*history.History)
	}{
		{"never sent", ClassPhantom, ClausePhantom, "p0.1 10-20 @0\np0.3 30-40 @1\nc0 50-60 2: p0.2", "p0.1 10-20 @0\np0.3 30-40 @1\nc0 50-60 0: p0.1 p0.3", nil},
		{"told when its producer went past it", ClassPhantom, ClausePhantom, "p0.1 10-20 @0\nc0 30-40 0: p0.1 p0.2\np0.3 50-60 @2", "p0.1 10-20 @0\nc0 30-40 0: p0.1\np0.3 50-60 @2", nil},
		{"sent elsewhere", ClassPhantom, ClausePhantom, "p0.1 10-20 k1 @0\nc0 30-40 0: p0.1", "p0.1 10-20 k1 @0\nc0 30-40 k1 0: p0.1", nil},
		{"another run's", ClassPhantomRun, ClausePhantom, "p0.1 10-20 @0\nc0 30-40 0: p0.1 ~", "p0.1 10-20 @0\nc0 30-40 0: p0.1 S", nil},
		{"altered", ClassPhantomBytes, ClausePhantom, "p0.1 10-20 @0\nc0 30-40 0: p0.1 !", "p0.1 10-20 @0\nc0 30-40 0: p0.1", nil},
		{"delivered after its failure", ClassResurrected, ClauseResurrected, "p0.1 10-20 x\nc0 30-40 0: p0.1", "p0.1 10-20 ?\nc0 30-40 0: p0.1", nil},
		{"delivered before its failure", ClassResurrected, ClauseResurrected, "p0.1 10-50 x\nc0 30-40 0: p0.1", "p0.1 10-50 ?\nc0 30-40 0: p0.1", nil},
		{"twice", ClassDuplicate, ClauseDuplicate, "p0.1 10-20 ?\nc0 30-40 0: p0.1 p0.1", "p0.1 10-20 ?\nc0 30-40 0: p0.1\nc1 35-45 0: p0.1", nil},
		{"moved", ClassMoved, ClauseMoved, "p0.1 10-20 @0\nc0 30-40 3: p0.1", "p0.1 10-20 @3\nc0 30-40 3: p0.1", nil},
		{"two acknowledged at one offset", ClassInconsistent, ClauseInconsistent, "p0.1 10-20 @0\np1.1 30-40 @0", "p0.1 10-20 @0\np1.1 30-40 @1", nil},
		{"acknowledged and delivered", ClassInconsistent, ClauseInconsistent, "p0.1 10-20 ?\np1.1 10-20 @0\nc0 30-40 0: p0.1", "p0.1 10-20 ?\np1.1 10-20 @1\nc0 30-40 0: p0.1", nil},
		{"two delivered", ClassInconsistent, ClauseInconsistent, "p0.1 10-20 ?\np1.1 10-20 ?\nc0 30-40 0: p0.1\nc1 30-40 0: p1.1", "p0.1 10-20 ?\np1.1 10-20 ?\nc0 30-40 0: p0.1\nc1 30-40 1: p1.1", nil},
		{"back in one poll", ClassNonMonotonic, ClauseMonotonic, "p0.1 10-20 @0\np0.2 21-22 @1\nc0 30-40 0: p0.1@1 p0.2@0", "p0.1 10-20 @0\np0.2 21-22 @1\nc0 30-40 0: p0.1 p0.2", nil},
		{"back between polls", ClassNonMonotonic, ClauseMonotonic, "p0.1 10-20 @0\nc0 30-40 0: p0.1\nc0 50-60 0: p0.1", "p0.1 10-20 @0\nc0 30-40 0: p0.1\nc0 50-60 reset 0: p0.1", nil},
		{"reordered", ClassReorder, ClauseOrder, "p0.1 10-20 @1\np0.2 30-40 @0\nc0 50-60 0: p0.2 p0.1", "p0.1 10-40 @1\np1.1 30-40 @0\nc0 50-60 0: p1.1 p0.1", nil},
		{"not linearizable by acknowledgements", ClassLinearizable, ClauseLinearizable, "p0.1 10-20 @1\np1.1 30-40 @0", "p0.1 10-30 @1\np1.1 30-40 @0", nil},
		{"not linearizable by a read", ClassLinearizable, ClauseLinearizable, "p0.1 10-50 @1\nc0 20-25 1: p0.1\np1.1 30-40 @0", "p0.1 10-50 @1\nc0 20-30 1: p0.1\np1.1 30-40 @0", nil},
		{"delivered before it was called", ClassLinearizable, ClauseLinearizable, "p0.1 5-6 @0\nc0 20-25 1: p0.2\np0.2 30-40 @1", "p0.1 5-6 @0\nc0 20-35 1: p0.2\np0.2 30-40 @1", nil},
		{"stale", ClassStale, ClauseStale, "p0.1 10-20 @0\nc0 30-40 high=0 0:", "p0.1 10-30 @0\nc0 30-40 high=0 0:", fresh},
		{"two leaders", ClassSplitBrain, ClauseSplitBrain, "event n1 leader e=1 at=5\nevent n2 leader e=1 at=6", "event n1 leader e=1 at=5\nevent n2 leader e=2 at=6", epochs},
		{"too few in sync", ClassTooFew, ClauseInSync, "event n1 leader e=1 isr=n1 high=0 at=5\np0.1 10-20 @0\nc0 30-40 0: p0.1\nevent n1 isr e=1 isr=n1,n2 high=1 at=50", "event n1 leader e=1 isr=n1 high=0 at=5\np0.1 10-20 @0\nc0 30-40 0: p0.1\nevent n1 isr e=1 isr=n1,n2 high=0 at=50", inSync},
		{"too few in sync, and read later", ClassTooFew, ClauseInSync, "event n1 leader e=1 isr=n1 high=0 at=5\np0.1 10-20 @0\nevent n1 isr e=1 isr=n1,n2 high=1 at=50\nc0 60-70 0: p0.1", "event n1 leader e=1 isr=n1 high=0 at=5\np0.1 10-20 @0\nevent n1 isr e=1 seq=3 isr=n1,n2 high=1 at=50\nc0 60-70 0: p0.1", inSync},
	} {
		t.Run(c.name, func(t *testing.T) {
			play := func(text string) (*history.History, OnlineReport, []int) {
				h := parse(t, text+rest)
				if c.change != nil {
					c.change(h)
				}
				return watched(h, 0)
			}
			h, r, found := play(c.wrong)
			i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Clause == c.clause && f.Class == c.class })
			require.GreaterOrEqual(t, i, 0, "%v", r.Findings)
			require.Less(t, found[i], len(h.Ops), "found while the run goes on")
			require.Contains(t, r.Findings[i].Text, "broke "+c.clause)
			requireConfirmed(t, h, r)
			_, r, _ = play(c.right)
			require.Zero(t, r.Counts[c.class], "%v", r.Findings)
		})
	}
}

// TestOnlineWindow: what fell out of the window is not judged, and said.
func TestOnlineWindow(t *testing.T) {
	for _, c := range []struct {
		window  int
		found   bool
		outside string
	}{
		{1 << 10, true, ""},
		{64, false, "lay outside of the window of 64 per partition"},
	} {
		o := NewOnline(history.NewRecorder(history.Header{}), history.Header{
			Keys: []string{"t-0"}, Clients: []history.Client{{Name: "p", Role: "producer"}, {Name: "c", Role: "poller"}}, Contract: everything(),
		}, OnlineOptions{Window: c.window})
		for i := range int64(500) {
			op := history.Op{Kind: history.Send, Value: history.MakeValue(0, i+1), Call: 10 * i}
			o.Invoke(&op)
			op.Return, op.Outcome, op.Acked, op.Offset = op.Call+5, history.OK, true, i
			o.Complete(&op)
		}
		poll := history.Op{Client: 1, Kind: history.Poll, Call: 6000, Offset: history.NoOffset}
		o.Invoke(&poll)
		poll.Return, poll.Outcome, poll.Records = 6010, history.OK, []history.Record{{Offset: 3, Value: history.MakeValue(0, 3)}}
		o.Complete(&poll)
		r := o.Report()
		require.Equal(t, c.found, r.Counts[ClassInconsistent] > 0)
		require.Equal(t, c.found, r.Counts[ClassMoved] > 0)
		require.Contains(t, r.String(), c.outside)
		require.Equal(t, c.window, r.Window)
		require.LessOrEqual(t, len(o.keys[0].slots), c.window)
		require.LessOrEqual(t, len(o.keys[0].shown.stairs), c.window)
		require.LessOrEqual(t, len(o.producers[0].sends), c.window)
	}
}

// TestOnlineBadInput: what contradicts the header or the order of a run is handed
// on, and not judged.
func TestOnlineBadInput(t *testing.T) {
	rec := history.NewRecorder(history.Header{})
	o := NewOnline(rec, history.Header{Keys: []string{"t-0"}, Clients: []history.Client{{Name: "p"}}, Contract: everything()}, OnlineOptions{})
	ops := []history.Op{
		{Key: 7, Kind: history.Send, Value: 5},
		{Key: -1, Kind: history.Send, Value: 5},
		{Client: 9, Kind: history.Poll},
		{Client: -1, Kind: history.Poll},
		{Kind: 99},
		{Kind: history.Send, Value: 0, Offset: -9, Acked: true},
		{Kind: history.Send, Value: 3, Offset: 1<<63 - 1, Acked: true},
		{Kind: history.Send, Value: 3, Acked: true},
		{Kind: history.Poll, Records: []history.Record{{Offset: -5, Value: 1}, {Offset: 1<<63 - 1, Value: 1 << 63}, {Offset: -1, Payload: history.Altered}, {Payload: 77}}},
	}
	for i := range ops {
		op := ops[i]
		o.Invoke(&op)
		op.Outcome = history.OK
		o.Complete(&op)
	}
	o.Event(&history.NodeEvent{Key: "nowhere", Kind: "leader"})
	o.Event("no event")
	require.Len(t, rec.History().Ops, len(ops))
	require.Error(t, rec.Err(), "what is wrong is the sink's to say")
	require.NotZero(t, o.Report().Outside)
}

// TestOnlineFromManyGoroutines: what is recorded is what the sink would have
// recorded alone.
func TestOnlineFromManyGoroutines(t *testing.T) {
	const clients, each = 8, 500
	hd := history.Header{Keys: []string{"t-0"}, Contract: everything()}
	for range clients {
		hd.Clients = append(hd.Clients, history.Client{Name: "p", Role: "producer"})
	}
	rec := history.NewRecorder(hd)
	var told sync.Map
	o := NewOnline(rec, hd, OnlineOptions{Found: func(f Finding) { told.Store(f.Text, true) }})
	var g sync.WaitGroup
	for c := range int32(clients) {
		g.Go(func() {
			for i := range int64(each) {
				op := history.Op{Client: c, Process: int64(c), Kind: history.Send, Value: history.MakeValue(c, i+1), Call: i, Offset: history.NoOffset}
				o.Invoke(&op)
				op.Return, op.Outcome, op.Acked, op.Offset = i+1, history.OK, true, i // all at the same offsets
				o.Complete(&op)
			}
		})
	}
	g.Wait()
	h := rec.History()
	require.NoError(t, rec.Err())
	require.Len(t, h.Ops, clients*each)
	r := o.Report()
	require.Equal(t, each, r.Counts[ClassInconsistent])
	n := 0
	told.Range(func(any, any) bool { n++; return true })
	require.Equal(t, len(r.Findings), n)
}

// BenchmarkOnline measures what Online adds to one send with its answer, a third
// of a poll of three records included, over a sink that does nothing.
func BenchmarkOnline(b *testing.B) {
	for _, c := range []struct {
		name string
		on   bool
	}{{"without", false}, {"with", true}} {
		b.Run(c.name, func(b *testing.B) {
			hd := history.Header{Keys: []string{"t-0", "t-1", "t-2"}, Contract: everything()}
			for i := range 5 {
				hd.Clients = append(hd.Clients, history.Client{Name: fmt.Sprint(i), Role: "producer"})
			}
			hd.Clients = append(hd.Clients, history.Client{Name: "c", Role: "poller"})
			var sink history.Sink = idle{}
			if c.on {
				sink = NewOnline(sink, hd, OnlineOptions{Found: func(f Finding) { b.Fatal(f.Text) }})
			}
			var seq [5]int64
			var next [3]int64
			var logs [3][]history.Record
			b.ReportAllocs()
			for i := range b.N {
				p, k := i%5, i%3
				seq[p]++
				now := int64(i) * 1000
				op := history.Op{Client: int32(p), Kind: history.Send, Key: int32(k), Value: history.MakeValue(int32(p), seq[p]), Call: now, Offset: history.NoOffset}
				sink.Invoke(&op)
				op.Return, op.Outcome, op.Acked, op.Offset = now+700, history.OK, true, next[k]
				sink.Complete(&op)
				logs[k] = append(logs[k], history.Record{Offset: next[k], Value: op.Value})
				next[k]++
				if len(logs[k]) == 3 {
					poll := history.Op{Client: 5, Kind: history.Poll, Key: int32(k), Call: now + 800, Offset: history.NoOffset}
					sink.Invoke(&poll)
					poll.Return, poll.Outcome, poll.Records = now+900, history.OK, logs[k]
					sink.Complete(&poll)
					logs[k] = logs[k][:0]
				}
			}
		})
	}
}

type idle struct{}

func (idle) Invoke(*history.Op)   {}
func (idle) Complete(*history.Op) {}
func (idle) Event(any)            {}
