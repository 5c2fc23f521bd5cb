package checker

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// parse reads a history from its compact form, one entry per line; times are
// milliseconds, offsets of a log are counted from 0:
//
//	p0.1 10-20 @0          producer 0 sent its message 1, acknowledged at offset 0
//	p0.1 10-20 ok          acknowledged, offset unknown (duplicate sequence)
//	p0.1 10-20 sent        acks=0
//	p0.1 10-20 x           failed for certain
//	p0.1 10-20 ?           indeterminate; "10-" was never answered
//	c0 30-40 0: p0.1 p0.2  poller 0 asked from offset 0, was given these from there on;
//	                       "p0.1@5" stands at 5, "-" is a gap, "!" altered, "~" of another run
//	log n1* p0.1 - p0.2    the drained log of n1, the leader; a sentinel follows, unless
//	                       the line has "partial"; "start=2" begins it at 2, "digest=x"
//	drain missing          how the drain ended: complete (default), incomplete, missing,
//	                       noisy (not quiet), unsynced, "at=500"
//	event n1 leader e=3    node events: leader, isr=n1,n2, truncate 3-5, unclean; "seq=4", "high=7", "inc=i2"
//	fault 0 kill:leader n1 100-200 role=leader keys=t-0   all proven; "unhealed", "unproven"
//	phase recovery 300
//
// Histories of a queue begin with a line of their own, and have further ones:
//
//	queue dead max=3 exactly  key 0 is the queue q; with dead letters, a limit, and a mode:
//	                       "once", "exactly", or at-least-once; "fifo" promises that; "log" adds the log t-0 as k1
//	r0 30-40 p0.1 p0.2#2   consumer 0 was given these, one for the second time; nothing: it was empty;
//	                       "?" unanswered; "lock=5" ms; "dead": from the dead letters
//	a0 50-60 p0.1          it accepted one of its last receive that had it; "?", "x", "of=none";
//	g0 gives it back, j0 gives it up; l0 50-60 leaves
//	commit 50-60 tx=1      or abort; sends take "tx=1", polls "committed"
//	rest p0.1              the drain of the queue, a sentinel behind it; "dead": of the dead letters;
//	                       "ready=1", "held=3", "partial", "blind" (no sentinel came out)
//
// Sends and polls take "k1" (partition t-1), "n2" (the node), "e=2", "high=3",
// "reset". Without a log line a partition is not drained; n2 and n3 agree with
// the leader's log unless they have a line of their own.
func parse(t testing.TB, text string) *history.History {
	t.Helper()
	h := &history.History{Closed: true, Header: history.Header{
		Version: history.Version, RunID: "r", Keys: []string{"t-0"}, Nodes: []string{"n1", "n2", "n3"},
		Clients: []history.Client{
			{Name: "p0", Role: "producer"},
			{Name: "p1", Role: "producer"},
			{Name: "p2", Role: "producer"},
			{Name: "c0", Role: "poller"},
			{Name: "c1", Role: "poller"},
		},
		Contract: everything(),
	}}
	if strings.Contains(text, "k1") && !strings.HasPrefix(strings.TrimSpace(text), "queue") {
		h.Header.Keys = append(h.Header.Keys, "t-1")
	}
	if strings.HasPrefix(strings.TrimSpace(text), "queue") {
		parseQueue(t, h, strings.Fields(strings.SplitN(strings.TrimSpace(text), "\n", 2)[0])[1:])
	}
	seqs := map[string]int64{}
	drained := map[string]*history.Drain{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		switch f[0] {
		case "queue":
		case "rest":
			parseRest(t, h, f[1:], drained)
		case "log":
			parseLog(t, h, f[1:], drained)
		case "drain":
			parseDrain(t, f[1:], h.Header.Keys, drained)
		case "event":
			e := history.NodeEvent{Node: f[1], Incarnation: "i1", Kind: f[2], Key: "t-0"}
			seqs[f[1]]++
			e.Seq = seqs[f[1]]
			for _, a := range f[3:] {
				name, val, _ := strings.Cut(a, "=")
				switch name {
				case "e":
					e.Epoch = int32(num(t, val))
				case "seq":
					e.Seq = num(t, val)
				case "isr":
					e.ISR = strings.Split(val, ",")
				case "high":
					e.Offset = num(t, val)
				case "inc":
					e.Incarnation = val
				case "at":
					e.At = num(t, val) * 1e6
				default:
					from, to, _ := strings.Cut(a, "-")
					e.From, e.To = num(t, from), num(t, to)
				}
			}
			h.Events = append(h.Events, e)
		case "fault":
			parseFault(t, h, f[1:])
		case "phase":
			h.Phases = append(h.Phases, history.Phase{Name: f[1], At: num(t, f[2]) * 1e6})
		default:
			op := parseOp(t, int64(len(h.Ops)), f)
			if op.Kind.Settles() && op.Of == 0 {
				op.Of = lastReceive(h, &op)
			}
			h.Ops = append(h.Ops, op)
		}
	}
	for _, key := range h.Header.Keys {
		if d := drained[key]; d != nil {
			h.Drains = append(h.Drains, *d)
		}
	}
	return h
}

func parseQueue(t testing.TB, h *history.History, f []string) {
	t.Helper()
	hd := &h.Header
	ct := &hd.Contract
	hd.Keys = []string{"q"}
	hd.Queues = []history.Queue{{Key: "q"}}
	ct.Delivery, ct.Settled, ct.Redelivers, ct.Exclusive, ct.TruthfulEmpty = "at-least-once", true, true, true, true
	for _, a := range f {
		switch {
		case a == "dead":
			hd.Keys = append(hd.Keys, "q-dead")
			hd.Queues = []history.Queue{{Key: "q", DeadLetters: "q-dead"}, {Key: "q-dead"}}
			ct.DeadLetters = true
		case a == "log":
			hd.Keys = append(hd.Keys, "t-0")
		case a == "fifo":
			ct.FIFO = true
		case a == "once":
			ct.Delivery = atMostOnce
		case a == "exactly":
			ct.Delivery = exactlyOnce
		case strings.HasPrefix(a, "max="):
			ct.MaxDeliveries = int(num(t, a[4:]))
		default:
			require.Fail(t, "unknown word", "%q", a)
		}
	}
}

// lastReceive is the last one of op's client that delivered op's value.
func lastReceive(h *history.History, op *history.Op) int64 {
	for i := len(h.Ops) - 1; i >= 0; i-- {
		r := &h.Ops[i]
		if r.Kind == history.Receive && r.Client == op.Client &&
			slices.ContainsFunc(r.Records, func(rec history.Record) bool { return rec.Value == op.Value }) {
			return r.ID
		}
	}
	return history.NoOp
}

func parseRest(t testing.TB, h *history.History, f []string, drained map[string]*history.Drain) {
	t.Helper()
	r := history.Replica{Key: "q", Node: "n1", Leader: true, Complete: true, Queue: true, Sentinel: history.NoOffset}
	held, blind := int64(-1), false
	var recs []string
	for _, a := range f {
		switch {
		case a == "dead":
			r.Key = "q-dead"
		case a == "partial":
			r.Complete, r.Reason = false, "it was cut off"
		case a == "blind":
			blind = true
		case strings.HasPrefix(a, "ready="):
			r.Ready = num(t, a[6:])
		case strings.HasPrefix(a, "held="):
			held = num(t, a[5:])
		default:
			recs = append(recs, a)
		}
	}
	r.Records = parseRecords(t, 0, -1, recs)
	r.Sentinel = int64(len(r.Records))
	if !blind {
		r.Records = append(r.Records, history.Record{Offset: r.Sentinel, Epoch: -1, Payload: history.Sentinel})
	}
	r.Unacknowledged = int64(len(r.Records))
	if held >= 0 {
		r.Unacknowledged = held
	}
	h.Replicas = append(h.Replicas, r)
	drained[r.Key] = &history.Drain{Key: r.Key, Complete: r.Complete, InSync: true, Quiet: true, At: 1e12}
}

func everything() history.Contract {
	return history.Contract{
		Acknowledged: true, Expect: "survive", AtMostOnce: true, Order: "producer", Offsets: "global",
		CommittedReads: true, Monotonic: true, Linearizable: true, PerReplica: true, Recovers: true, Transactions: true,
	}
}

func num(t testing.TB, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	require.NoError(t, err)
	return n
}

func parseValue(t testing.TB, s string) (history.Value, int32) {
	t.Helper()
	p, seq, ok := strings.Cut(strings.TrimPrefix(s, "p"), ".")
	require.True(t, ok, "value %q", s)
	return history.MakeValue(int32(num(t, p)), num(t, seq)), int32(num(t, p))
}

func parseRecords(t testing.TB, offset int64, epoch int32, f []string) []history.Record {
	t.Helper()
	var recs []history.Record
	for _, s := range f {
		s, times, counted := strings.Cut(s, "#")
		s, o, ok := strings.Cut(s, "@")
		if ok {
			offset = num(t, o)
		}
		rec := history.Record{Offset: offset, Epoch: epoch}
		if counted {
			rec.Delivery = int32(num(t, times))
		}
		offset++
		switch s {
		case "-":
			continue
		case "!":
			rec.Payload, rec.Value = history.Altered, 99
		case "~":
			rec.Payload, rec.Value = history.OtherRun, 98
		case "S":
			rec.Payload = history.Sentinel
		default:
			rec.Value, _ = parseValue(t, s)
		}
		recs = append(recs, rec)
	}
	return recs
}

func parseOp(t testing.TB, id int64, f []string) history.Op {
	t.Helper()
	op := history.Op{ID: id, Process: id, Node: 0, Offset: history.NoOffset, High: history.NoOffset, Epoch: 1}
	kinds := map[byte]history.Kind{
		'c': history.Poll, 'r': history.Receive, 'a': history.Accept, 'g': history.Release, 'j': history.Reject, 'l': history.Leave,
	}
	switch kind := kinds[f[0][0]]; {
	case f[0] == "commit" || f[0] == "abort":
		op.Kind, op.Outcome = history.Abort, history.OK
		if f[0] == "commit" {
			op.Kind = history.Commit
		}
	case kind != 0:
		op.Kind = kind
		op.Client = 3 + int32(num(t, f[0][1:]))
		op.Outcome = history.OK
	default:
		op.Kind = history.Send
		op.Value, op.Client = parseValue(t, f[0])
	}
	call, ret, _ := strings.Cut(f[1], "-")
	op.Call, op.Return = num(t, call)*1e6, history.Infinity
	if ret != "" {
		op.Return = num(t, ret) * 1e6
	}
	for i := 2; i < len(f); i++ {
		a := f[i]
		switch {
		case a == "k1" || a == "dead":
			op.Key = 1
		case a == "committed":
			op.Committed = true
		case strings.HasPrefix(a, "tx="):
			op.Txn = num(t, a[3:])
		case strings.HasPrefix(a, "lock="):
			op.Lock = num(t, a[5:]) * 1e6
		case a == "of=none":
			op.Of = history.NoOp
		case op.Kind.Settles() && a[0] == 'p':
			op.Value, _ = parseValue(t, a)
		case op.Kind == history.Receive && strings.ContainsRune("p!~S", rune(a[0])):
			op.Records = append(op.Records, parseRecords(t, history.NoOffset, -1, []string{a})...)
		case a == "reset":
			op.Reset = true
		case len(a) == 2 && a[0] == 'n':
			op.Node = int16(a[1] - '1')
		case strings.HasPrefix(a, "e="):
			op.Epoch = int32(num(t, a[2:]))
		case strings.HasPrefix(a, "high="):
			op.High = num(t, a[5:])
		case strings.HasPrefix(a, "@"):
			op.Outcome, op.Acked, op.Offset = history.OK, true, num(t, a[1:])
		case a == "ok":
			op.Outcome, op.Acked = history.OK, true
		case a == "sent":
			op.Outcome = history.OK
		case a == "x":
			op.Outcome, op.Code = history.Failed, "NOT_ENOUGH_REPLICAS"
		case a == "?":
			op.Outcome, op.Code = history.Indeterminate, "timeout"
		case strings.HasSuffix(a, ":"):
			op.From = num(t, strings.TrimSuffix(a, ":"))
			op.Records = parseRecords(t, op.From, op.Epoch, f[i+1:])
			return op
		default:
			require.Fail(t, "unknown word", "%q in %v", a, f)
		}
	}
	return op
}

func parseLog(t testing.TB, h *history.History, f []string, drained map[string]*history.Drain) {
	t.Helper()
	key := "t-0"
	r := history.Replica{Node: strings.TrimSuffix(f[0], "*"), Leader: strings.HasSuffix(f[0], "*"), Complete: true, Epoch: 1, Sentinel: history.NoOffset}
	var recs []string
	for _, a := range f[1:] {
		switch {
		case a == "k1":
			key = "t-1"
		case a == "partial":
			r.Complete, r.Reason = false, "it lags"
		case strings.HasPrefix(a, "start="):
			r.Start = num(t, a[6:])
		case strings.HasPrefix(a, "e="):
			r.Epoch = int32(num(t, a[2:]))
		case strings.HasPrefix(a, "digest="):
			r.Digest = a[7:]
		default:
			recs = append(recs, a)
		}
	}
	r.Key = key
	r.Records = parseRecords(t, r.Start, 1, recs)
	r.End = r.Start + int64(len(recs))
	if n := len(r.Records); n > 0 {
		r.End = max(r.End, r.Records[n-1].Offset+1)
	}
	if r.Complete {
		r.Sentinel = r.End
		r.Records = append(r.Records, history.Record{Offset: r.End, Epoch: 1, Payload: history.Sentinel})
		r.End++
	}
	if r.Digest == "" {
		r.Digest = fmt.Sprint(r.Records)
	}
	if drained[key] == nil {
		drained[key] = &history.Drain{Key: key, Complete: true, InSync: true, Quiet: true, At: 1e12}
	}
	d := drained[key]
	d.Complete = d.Complete && r.Complete
	d.Trimmed = d.Trimmed || r.Start > 0
	for i := range h.Replicas {
		o := &h.Replicas[i]
		if o.Key != key {
			continue
		}
		if o.Node == r.Node && o.Same != "" { // replaces the copy of the leader's
			*o = r
			d.Complete = d.Complete && r.Digest == h.Replicas[0].Digest
			return
		}
	}
	h.Replicas = append(h.Replicas, r)
	if r.Leader {
		for _, n := range h.Header.Nodes {
			if n != r.Node {
				c := r
				c.Node, c.Leader, c.Records, c.Same = n, false, nil, r.Node
				h.Replicas = append(h.Replicas, c)
			}
		}
	}
}

func parseDrain(t testing.TB, f, keys []string, drained map[string]*history.Drain) {
	t.Helper()
	key := keys[0]
	if len(f) > 1 {
		key = keys[1]
	}
	d := drained[key]
	if d == nil {
		d = &history.Drain{Key: key, At: 1e12}
		drained[key] = d
	}
	switch {
	case f[0] == "missing":
		d.Missing, d.Complete = true, false
	case f[0] == "incomplete":
		d.Complete, d.Reason = false, "n3 lags"
	case f[0] == "noisy":
		d.Quiet = false
	case f[0] == "unsynced":
		d.InSync = false
	case strings.HasPrefix(f[0], "at="):
		d.At = num(t, f[0][3:]) * 1e6
	default:
		require.Fail(t, "unknown drain", "%v", f)
	}
}

func parseFault(t testing.TB, h *history.History, f []string) {
	t.Helper()
	from, to, _ := strings.Cut(f[3], "-")
	base := history.Fault{ID: int(num(t, f[0])), Name: f[1], Targets: strings.Split(f[2], ",")}
	start, end := num(t, from)*1e6, num(t, to)*1e6
	skip := map[history.FaultStage]bool{}
	var unproven bool
	for _, a := range f[4:] {
		name, val, _ := strings.Cut(a, "=")
		switch name {
		case "role":
			base.Role = val
		case "keys":
			base.Keys = strings.Split(val, ",")
		case "no":
			skip[history.FaultStage(val)] = true
		case "unproven":
			unproven = true
		default:
			require.Fail(t, "unknown word", "%q", a)
		}
	}
	for _, s := range []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed} {
		e := base
		e.Stage, e.At = s, start
		if s == history.StillProven || s == history.Healing || s == history.Healed {
			e.At = end
		}
		if !skip[s] {
			h.Faults = append(h.Faults, e)
		}
	}
	if unproven {
		e := base
		e.Stage, e.At, e.Detail = history.Unproven, end, "the counters stayed at zero"
		h.Faults = append(h.Faults, e)
	}
}

// lax asks for no traffic: small histories decide by their clauses alone.
func lax() Options {
	return Options{MinBaselineOK: -1, MinRecoveryOK: -1, MinFaultAttempts: -1, MinRecoveryAttempts: 1}
}

func judgeText(t testing.TB, text string, change ...func(*history.History)) *Result {
	t.Helper()
	h := parse(t, text)
	for _, f := range change {
		f(h)
	}
	r, err := Run(context.Background(), h, lax())
	require.NoError(t, err)
	return r
}

func clause(t testing.TB, r *Result, name string) Check {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	require.Fail(t, "no such clause", name)
	return Check{}
}

// convicted lists the clauses that are invalid.
func convicted(r *Result) []string {
	var out []string
	for _, c := range r.Checks {
		if c.Verdict == Invalid {
			out = append(out, c.Name)
		}
	}
	return out
}
