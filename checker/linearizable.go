package checker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/checker/linear"
)

// checkLinearizable: the appends of a partition are linearizable, and every read
// is a prefix of the one log that they form; where fresh reads are promised, the
// prefix up to the end at that time. Indeterminate sends are resolved from the
// drain first: absent, it never happened; present, its offset is fixed. That is
// sound only for a complete, quiet, untrimmed drain after healing: elsewhere a
// partition is convicted by what was acknowledged and delivered, or undecided.
func checkLinearizable(ctx context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.Linearizable
	if !c.Promised {
		c.Detail = "not checked: the configuration does not promise it"
		return
	}
	// A negative timeout turns Porcupine off.
	deadline := time.Now().Add(v.o.PorcupineTimeout)
	ops, proven, seconded := 0, 0, 0
	var skipped []string
	for _, k := range v.keys {
		if n, ok := v.linearizableLog(k); ok && (n > v.o.PorcupineMaxOps || v.o.PorcupineTimeout <= 0) {
			ops, proven, skipped = ops+n, proven+1, append(skipped, k.name)
			continue
		}
		l := v.linearLog(k)
		if l.open != "" {
			c.undecided(fmt.Sprintf("partition %s: %s", k.name, l.open), l.remedy)
		}
		if l.broken != nil {
			c.add(*l.broken)
			continue
		}
		ops += len(l.ops)
		first, err := linear.Exact(linear.Log, l.ops)
		switch {
		case err != nil:
		case first.Verdict == linear.Unknown: // never: positions and values are unique
			err = errors.New(first.Reason)
		case first.Verdict == linear.Illegal:
			c.add(v.notLinearizable(k, l, first.Witness))
		case l.open == "":
			proven++
		}
		second := linear.Result{Verdict: linear.Unknown}
		if left := time.Until(deadline); err == nil && len(l.ops) <= v.o.PorcupineMaxOps && left > 0 && v.o.PorcupineTimeout > 0 {
			// One stubborn partition must not use up everybody's time.
			second, err = linear.Search(ctx, linear.Log, l.ops, max(left/4, min(left, time.Second)))
		}
		switch {
		case err == nil && second.Verdict == linear.Unknown:
			skipped = append(skipped, k.name)
		case err != nil || first.Verdict != second.Verdict:
			c.Verdict = HarnessError
			c.Promised = true
			c.Detail = fmt.Sprintf("the exact procedure and Porcupine disagree on partition %s: it is %s by the one, %s by the other", k.name, first.Verdict, second.Verdict)
			if err != nil {
				c.Detail = fmt.Sprintf("partition %s could not be decided: %v", k.name, err)
			}
			c.Remedy = "report it together with the history"
			return
		default:
			seconded++
		}
	}
	c.Procedure = "exact log procedure"
	if seconded > 0 {
		c.Procedure += fmt.Sprintf(", agreed by Porcupine on %s", count(seconded, "partition"))
	}
	if len(skipped) > 0 {
		c.Procedure += fmt.Sprintf("; alone on %s (too large for Porcupine, or beyond its time)", strings.Join(skipped, ", "))
	}
	c.Detail = fmt.Sprintf("%d of %s linearizable, by %s", proven, count(len(v.keys), "partition"), count(ops, "operation"))
}

// linearizableLog reports whether a partition is linearizable, and by how many
// operations, where its drain resolves everything and all that was acknowledged and
// delivered stands in the drained log: a record's place in it is its position then, and
// the operations need not be listed. Of any other partition it says nothing.
func (v *view) linearizableLog(k *keyView) (ops int, ok bool) {
	if why, _ := v.unresolvable(k); why != "" || !k.plain || len(v.reused) > 0 || !v.allStand(k) || len(v.odd(k)) > 0 {
		return 0, false
	}
	log := k.leader.log
	positions := linear.NewPositions(len(log))
	counts := make([]int, runtime.GOMAXPROCS(0))
	stretches(len(log), len(counts), func(part, from, to int) {
		for p := from; p < to; p++ {
			if log[p].Payload == history.Sentinel {
				continue
			}
			i, _ := v.ids.find(log[p].Value)
			op := &v.h.Ops[i]
			positions.Append(p, op.Call, v.appended(op))
			counts[part]++
		}
	})
	stretches(len(k.polls), len(counts), func(part, from, to int) {
		counts[part] += v.readPositions(log, k.polls[from:to], positions)
	})
	for _, n := range counts {
		ops += n
	}
	return ops, positions.Legal()
}

// readPositions notes what polls saw of a drained log that holds all of it, and returns
// how many saw something.
func (v *view) readPositions(log []history.Record, polls []int32, positions linear.Positions) (reads int) {
	places := make([]int, len(v.h.Header.Clients))
	for _, i := range polls {
		op := &v.h.Ops[i]
		place := &places[op.Client]
		last, told := lastGood(op), false
		if last != history.NoOffset {
			p, _ := searchFrom(log, *place, last)
			positions.Get(p, op.Return)
			*place, told = p+1, true
		}
		if saw, ok := sawUpTo(op); ok && v.h.Header.Contract.Fresh {
			end, _ := searchFrom(log, *place, saw)
			if last != history.NoOffset {
				end = max(end, *place)
			}
			positions.End(end, op.Call, op.Return)
			told = true
		}
		if told {
			reads++
		}
	}
	return reads
}

// allStand reports whether every message that was acknowledged stands in the drained
// log, where it was, and none whose send failed for certain.
func (v *view) allStand(k *keyView) bool {
	return !slices.ContainsFunc(k.sends, func(i int32) bool {
		of, found, told := v.traits[i], v.found.at(i), v.told(i)
		switch {
		case of&refused != 0:
			return found != history.NoOffset
		case of&promised != 0:
			return found == history.NoOffset || told != history.NoOffset && told != found
		}
		return false
	})
}

// linearLog is one partition as the procedures take it.
type linearLog struct {
	offsets []int64 // by position
	sends   []int32 // by position: index into Ops
	// ops have positions for offsets, so that gaps do not matter, and for values. They
	// are in the order of their calls; of names the operation that each stands for.
	ops    []linear.Op
	of     []int32
	broken *Anomaly // the partition is not one log: no order can help
	open   string   // why legality would prove nothing
	remedy string
}

// breakAt records why a partition is not one log; the first reason stays.
func (l *linearLog) breakAt(v *view, k *keyView, value history.Value, offset int64, op *history.Op, format string, args ...any) {
	if l.broken != nil {
		return
	}
	l.broken = &Anomaly{
		Class: ClassLinearizable, Key: k.name, Value: value, Offset: offset, Producer: v.sender(value), Seq: value.Seq(), At: k.drainAt(),
		Text: "broke linearizable-appends - a partition is one log that all clients agree on: " + fmt.Sprintf(format, args...),
	}
	if op != nil {
		l.broken.At, l.broken.Node, l.broken.Ops = op.Return, v.node(op.Node), []int64{op.ID}
	}
	l.broken.Fault = v.faultAt(l.broken.At)
}

// alsoBy adds an operation to the proof that a partition is not one log.
func (l *linearLog) alsoBy(id int64) {
	if !slices.Contains(l.broken.Ops, id) {
		l.broken.Ops = append(l.broken.Ops, id)
	}
}

// linearLog resolves the partition's operations into positions.
func (v *view) linearLog(k *keyView) linearLog {
	var l linearLog
	l.open, l.remedy = v.unresolvable(k)
	if l.open == "" {
		v.drainedLog(k, &l)
	} else {
		v.claimedLog(k, &l)
	}
	if l.broken == nil {
		v.operations(k, &l)
	}
	return l
}

// drainedLog takes the drained log for the one log, and holds what was
// acknowledged and delivered against it.
func (v *view) drainedLog(k *keyView, l *linearLog) {
	l.offsets, l.sends = make([]int64, 0, len(k.leader.log)), make([]int32, 0, len(k.leader.log))
	for i := range k.leader.log {
		rec := &k.leader.log[i]
		if rec.Payload == history.Sentinel {
			continue // it takes an offset, and is no message
		}
		send, sent := v.ids.find(rec.Value)
		switch {
		case i > 0 && k.leader.log[i-1].Offset == rec.Offset:
			l.breakAt(v, k, rec.Value, rec.Offset, nil, "offset %d holds two records", rec.Offset)
			return
		case rec.Payload == history.Good && v.reused[rec.Value]:
			l.open, l.remedy = msgName(rec.Value)+" was sent more than once, so its append is ambiguous", "send every value once"
		case rec.Payload != history.Good || !sent || v.h.Ops[send].Key != k.index:
			l.breakAt(v, k, rec.Value, rec.Offset, nil, "offset %d holds %s, which nobody sent to it", rec.Offset, recName(rec))
			return
		case v.found.at(send) != rec.Offset:
			l.breakAt(v, k, rec.Value, rec.Offset, nil, "%s stands at offset %d and at %d", msgName(rec.Value), v.found.at(send), rec.Offset)
			return
		case v.h.Ops[send].Outcome == history.Failed:
			l.breakAt(v, k, rec.Value, rec.Offset, &v.h.Ops[send], "%s stands at offset %d, and its send failed for certain", msgName(rec.Value), rec.Offset)
			return
		}
		l.place(send, rec.Offset)
	}
	for _, i := range k.sends {
		op := &v.h.Ops[i]
		switch {
		case !acked(op) || v.reused[op.Value]:
		case v.found.at(i) == history.NoOffset:
			l.breakAt(v, k, op.Value, op.Offset, op, "%s is acknowledged, and is not in the drained log", msgName(op.Value))
			return
		case op.Offset != history.NoOffset && op.Offset != v.found.at(i):
			l.breakAt(v, k, op.Value, op.Offset, op, "%s is acknowledged at offset %d, and stands at %d", msgName(op.Value), op.Offset, v.found.at(i))
			return
		}
	}
	if strays := v.odd(k); len(strays) > 0 {
		o := &strays[0]
		l.breakAt(v, k, o.value, o.offset, &v.h.Ops[o.first], "offset %d was delivered with %s, and the drained log does not hold it there",
			o.offset, recName(&history.Record{Value: o.value, Payload: o.payload, Epoch: -1}))
	}
}

// claimedLog takes what was acknowledged and delivered for the log: enough to
// convict, never to acquit. Offsets that nobody claims are gaps.
func (v *view) claimedLog(k *keyView, l *linearLog) {
	at := map[history.Value]int64{}
	stands := map[int64]history.Value{}
	by := map[int64]int64{} // the operation that claimed an offset first
	claim := func(value history.Value, offset int64, op *history.Op, what string) {
		if l.broken != nil {
			return
		}
		if o, ok := at[value]; ok && o != offset {
			l.breakAt(v, k, value, offset, op, "%s is %s at offset %d, and stands at %d", msgName(value), what, offset, o)
			l.alsoBy(by[o])
		}
		if other, ok := stands[offset]; ok && other != value {
			l.breakAt(v, k, value, offset, op, "%s is %s at offset %d, where %s stands", msgName(value), what, offset, msgName(other))
			l.alsoBy(by[offset])
		}
		at[value], stands[offset] = offset, value
		if _, ok := by[offset]; !ok {
			by[offset] = op.ID
		}
	}
	for _, i := range k.sends {
		if op := &v.h.Ops[i]; acked(op) && op.Offset != history.NoOffset && !v.reused[op.Value] {
			claim(op.Value, op.Offset, op, "acknowledged")
		}
	}
	for _, i := range k.polls {
		op := &v.h.Ops[i]
		for j := range op.Records {
			switch rec := &op.Records[j]; rec.Payload {
			case history.Good:
				if v.reused[rec.Value] {
					continue // it may rightly stand at several offsets
				}
				claim(rec.Value, rec.Offset, op, "delivered")
			case history.Sentinel:
			default:
				l.breakAt(v, k, 0, rec.Offset, op, "offset %d was delivered with %s, which nobody sent", rec.Offset, recName(rec))
			}
		}
	}
	for _, offset := range sorted(stands) {
		send, sent := v.ids.find(stands[offset])
		if !sent || v.h.Ops[send].Key != k.index || v.h.Ops[send].Outcome == history.Failed {
			l.breakAt(v, k, stands[offset], offset, nil, "%s stands at offset %d, and no send can have appended it", msgName(stands[offset]), offset)
			return
		}
		l.place(send, offset)
	}
}

// place makes the send with index op the append of the next position.
func (l *linearLog) place(op int32, offset int64) {
	l.offsets = append(l.offsets, offset)
	l.sends = append(l.sends, op)
}

// position returns that of the first record at or after offset.
func (l *linearLog) position(offset int64) int {
	if len(l.offsets) > 0 {
		if d := offset - l.offsets[0]; d >= 0 && d < int64(len(l.offsets)) && l.offsets[d] == offset {
			return int(d)
		}
	}
	p, _ := slices.BinarySearch(l.offsets, offset)
	return p
}

// operations lists the appends and reads in the order of their calls. IDs are given
// in that order, up to the odd one.
func (v *view) operations(k *keyView, l *linearLog) {
	direct := l.open == "" // the sends were found where the positions are
	positions := map[int32]int{}
	if !direct {
		for p, i := range l.sends {
			positions[i] = p
		}
	}
	positionOf := func(i int32) (int, bool) {
		if !direct {
			p, ok := positions[i]
			return p, ok
		}
		if v.found.at(i) == history.NoOffset {
			return 0, false
		}
		p := l.position(v.found.at(i))
		return p, p < len(l.sends) && l.sends[p] == i
	}
	l.ops = make([]linear.Op, 0, len(l.sends)+len(k.polls))
	l.of = make([]int32, 0, len(l.sends)+len(k.polls))
	polls := k.polls
	readUpTo := func(end int32) {
		for ; len(polls) > 0 && polls[0] < end; polls = polls[1:] {
			v.read(l, polls[0])
		}
	}
	for _, i := range k.sends {
		if p, ok := positionOf(i); ok {
			readUpTo(i)
			v.append(l, i, p)
		}
	}
	readUpTo(math.MaxInt32)
	l.sort()
}

// sort puts the operations in the order of their calls.
func (l *linearLog) sort() {
	if slices.IsSortedFunc(l.ops, func(a, b linear.Op) int { return cmp.Compare(a.Call, b.Call) }) {
		return
	}
	order := make([]int32, len(l.ops))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Or(cmp.Compare(l.ops[a].Call, l.ops[b].Call), cmp.Compare(a, b)) })
	ops, of := make([]linear.Op, len(order)), make([]int32, len(order))
	for n, i := range order {
		ops[n], of[n] = l.ops[i], l.of[i]
	}
	l.ops, l.of = ops, of
}

// append adds the send with index i as the append of a position.
func (v *view) append(l *linearLog, i int32, position int) {
	op := &v.h.Ops[i]
	l.ops = append(l.ops, linear.Op{Kind: linear.Append, Call: op.Call, Return: v.appended(op), Value: uint64(position), Offset: int64(position)})
	l.of = append(l.of, i)
}

// appended is when the append of a send was over. Only an acknowledgement tells, and
// of a value that was sent more than once it does not tell of which.
func (v *view) appended(op *history.Op) int64 {
	if !acked(op) || v.reused[op.Value] {
		return history.Infinity
	}
	return op.Return
}

// lastGood is the highest offset at which a poll was given a message, or NoOffset.
func lastGood(op *history.Op) int64 {
	last := history.NoOffset
	for j := range op.Records {
		if op.Records[j].Payload == history.Good {
			last = max(last, op.Records[j].Offset)
		}
	}
	return last
}

// unresolvable says why the drain of k does not resolve indeterminate sends, or
// nothing if it does. A complete drain was in sync and quiet (see weigh).
func (v *view) unresolvable(k *keyView) (why, remedy string) {
	healed, unhealed := v.healed()
	switch {
	case !k.complete:
		return "its drain was not proven complete: " + k.why, drainRemedy
	case k.drain.Missing:
		return "its topic is gone", "look at the clause acknowledged-survive"
	case k.drain.Trimmed || k.leader.Start > 0:
		return fmt.Sprintf("its log was trimmed to offset %d", k.leader.Start), "turn retention off for the run"
	case unhealed != "":
		return unhealed, "let the healing be proven before the drain"
	case k.drain.At < healed:
		return "its drain was taken before the last fault was healed", "drain after healing"
	}
	return "", ""
}

// read adds the poll with index i. One of no record says nothing, unless reads are
// promised to be fresh.
func (v *view) read(l *linearLog, i int32) {
	op := &v.h.Ops[i]
	last := lastGood(op)
	read, p := linear.Op{Call: op.Call, Return: op.Return}, 0
	if last != history.NoOffset {
		p = l.position(last)
		read.Kind, read.Value, read.Offset = linear.Get, uint64(p), int64(p)
		p++
	}
	if saw, ok := sawUpTo(op); ok && v.h.Header.Contract.Fresh && l.open == "" {
		end := l.position(saw)
		read.Kind, read.Value, read.Offset = linear.End, 0, int64(max(end, p)) // it shows what is before it too
	}
	if read.Kind != 0 {
		l.ops = append(l.ops, read)
		l.of = append(l.of, i)
	}
}

// notLinearizable words a witness: two operations, of which the one had returned
// before the other was called, and says that the log was longer then.
func (v *view) notLinearizable(k *keyView, l linearLog, w *linear.Witness) Anomaly {
	var high, low *linear.Op
	var highOf, lowOf *history.Op
	for _, i := range w.Ops {
		for _, j := range w.Ops {
			if a, b := &l.ops[i], &l.ops[j]; a.Return < b.Call && length(a) > b.Offset {
				high, low = a, b
				highOf, lowOf = &v.h.Ops[l.of[i]], &v.h.Ops[l.of[j]]
			}
		}
	}
	late := length(high) - 1
	send := &v.h.Ops[l.sends[late]]
	a := Anomaly{
		Class: ClassLinearizable, Key: k.name, Value: send.Value, Offset: l.offsets[late], Producer: v.sender(send.Value), Seq: send.Value.Seq(),
		At: high.Return, Node: v.node(highOf.Node), Fault: v.faultAt(high.Return), Ops: []int64{highOf.ID, lowOf.ID},
	}
	had := fmt.Sprintf("the send of %s", msgName(send.Value))
	if high.Kind != linear.Append {
		had = fmt.Sprintf("a read of %s", msgName(send.Value))
	}
	lacked := "a read that saw the log end there"
	if low.Kind == linear.Append {
		lacked = fmt.Sprintf("the send of %s", msgName(lowOf.Value))
	}
	a.Text = fmt.Sprintf("broke linearizable-appends - a message stands after everything that was there before it was sent: %s (offset %d of %s) had returned at %s, and %s, which belongs at offset %d, not after it, was called only at %s",
		had, l.offsets[late], k.name, at(high.Return), lacked, l.offsets[low.Offset], at(low.Call))
	return a
}

// length is that of the log when an operation had taken effect, at least.
func length(o *linear.Op) int64 {
	if o.Kind == linear.End {
		return o.Offset
	}
	return o.Offset + 1
}
