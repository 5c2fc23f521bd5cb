package checker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/checker/linear"
)

// oracle finds the anomalies of a small history in the most literal way: loops over
// everything, straight from their definitions. It shares nothing with the checkers.
type oracle struct {
	h     *history.History
	found map[string]int // anomalies by class
	open  map[string]bool
}

// seen is one record that somebody was shown of a partition, or that was drained.
type seen struct {
	offset  int64
	value   history.Value
	payload history.Payload
}

// truth is what an oracle knows of one partition.
type truth struct {
	key       int32
	drain     *history.Drain
	leader    *history.Replica
	others    []*history.Replica
	earlier   []*history.Replica
	decisive  bool // what its leader's log lacks is gone
	complete  bool // and so for every replica
	log       []history.Record
	delivered []seen
}

func ask(h *history.History) *oracle {
	o := &oracle{h: h, found: map[string]int{}, open: map[string]bool{}}
	for key := range h.Header.Keys {
		k := o.truth(int32(key))
		if !k.complete {
			for _, clause := range []string{
				ClauseSurvives, ClauseDivergence, ClauseDuplicate, ClausePhantom, ClauseResurrected, ClauseMoved,
				ClauseInconsistent, ClauseDirtyRead, ClauseMonotonic, ClauseOrder,
			} {
				o.open[clause] = true
			}
		}
		o.loss(k)
		o.divergence(k)
		o.duplicates(k)
		o.phantoms(k)
		o.resurrected(k)
		o.moved(k)
		o.inconsistent(k)
		o.dirty(k)
		o.steps(k)
		o.reorders(k)
		o.stale(k)
	}
	return o
}

func (o *oracle) truth(key int32) *truth {
	k := &truth{key: key}
	name := o.h.Header.Keys[key]
	for i := range o.h.Drains {
		if o.h.Drains[i].Key == name {
			k.drain = &o.h.Drains[i]
		}
	}
	for i := range o.h.Replicas {
		r := &o.h.Replicas[i]
		switch {
		case r.Key != name:
		case r.Leader && k.leader != nil:
			k.earlier = append(k.earlier, k.leader)
			k.leader = r
		case r.Leader:
			k.leader = r
		default:
			k.others = append(k.others, r)
		}
	}
	for i := range o.h.Ops {
		if op := &o.h.Ops[i]; op.Kind == history.Poll && op.Key == key {
			for _, rec := range op.Records {
				if rec.Payload != history.Sentinel {
					k.delivered = append(k.delivered, seen{rec.Offset, rec.Value, rec.Payload})
				}
			}
		}
	}
	switch {
	case k.drain == nil:
		if k.leader != nil {
			k.log = k.leader.Records
		}
	case k.drain.Missing:
		k.decisive, k.complete = true, true
		k.leader, k.others = nil, nil
	case k.leader != nil:
		k.log = k.leader.Records
		k.decisive = k.leader.Complete && k.leader.Sentinel >= 0 && k.drain.InSync && k.drain.Quiet
		k.complete = k.decisive
		differ := false
		for _, r := range k.others {
			if !r.Complete || r.Epoch != k.leader.Epoch {
				k.complete = false
			}
			differ = differ || r.Complete && r.Digest != k.leader.Digest
		}
		if !k.drain.Complete && !differ {
			k.complete = false
		}
	}
	return k
}

// sends of value, anywhere.
func (o *oracle) sends(value history.Value) []*history.Op {
	var all []*history.Op
	for i := range o.h.Ops {
		if op := &o.h.Ops[i]; op.Kind == history.Send && op.Value == value {
			all = append(all, op)
		}
	}
	return all
}

// ownSends of a partition.
func (o *oracle) ownSends(k *truth) []*history.Op {
	var all []*history.Op
	for i := range o.h.Ops {
		if op := &o.h.Ops[i]; op.Kind == history.Send && op.Key == k.key {
			all = append(all, op)
		}
	}
	return all
}

func (k *truth) drainedAt(value history.Value) []int64 {
	var at []int64
	for _, rec := range k.log {
		if rec.Payload == history.Good && rec.Value == value {
			at = append(at, rec.Offset)
		}
	}
	return at
}

// everywhere is where value was drained or delivered.
func (k *truth) everywhere(value history.Value) []int64 {
	at := k.drainedAt(value)
	for _, s := range k.delivered {
		if s.payload == history.Good && s.value == value {
			at = append(at, s.offset)
		}
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// gone: a drain that proves it does not show op's message, and would.
func (k *truth) gone(op *history.Op) bool {
	if !k.decisive || len(k.drainedAt(op.Value)) > 0 {
		return false
	}
	return k.drain.Missing || k.leader.Start == 0 || op.Offset >= k.leader.Start
}

func (o *oracle) loss(k *truth) {
	for _, op := range o.ownSends(k) {
		if op.Outcome != history.OK {
			continue
		}
		present := len(k.drainedAt(op.Value)) > 0
		switch {
		case !op.Acked && k.gone(op):
			o.found[ClassSentLost]++
		case !op.Acked:
		case present:
			late := len(k.earlier) > 0
			for _, r := range k.earlier {
				for _, rec := range r.Records {
					late = late && (rec.Payload != history.Good || rec.Value != op.Value)
				}
			}
			if late {
				o.found[ClassLate]++
			}
		case k.gone(op):
			o.found[ClassLost]++
		default:
			o.found[ClassUnseen]++
			o.open[ClauseSurvives] = true
		}
	}
}

func (o *oracle) divergence(k *truth) {
	if k.leader == nil || !k.leader.Complete {
		return
	}
	at := func(r *history.Replica, offset int64) any {
		for _, rec := range r.Records {
			if rec.Offset == offset {
				return rec
			}
		}
		return nil
	}
	for _, r := range k.others {
		if !r.Complete {
			continue
		}
		for offset := max(r.Start, k.leader.Start); offset < min(r.End, k.leader.End); offset++ {
			if at(r, offset) != at(k.leader, offset) {
				o.found[ClassDivergence]++
			}
		}
	}
}

// values of everything that was sent, drained or delivered.
func (o *oracle) values(k *truth) []history.Value {
	var all []history.Value
	for i := range o.h.Ops {
		if o.h.Ops[i].Kind == history.Send {
			all = append(all, o.h.Ops[i].Value)
		}
	}
	for _, rec := range k.log {
		all = append(all, rec.Value)
	}
	for _, s := range k.delivered {
		all = append(all, s.value)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (o *oracle) duplicates(k *truth) {
	for _, value := range o.values(k) {
		if len(o.sends(value)) <= 1 && len(k.everywhere(value)) > 1 {
			o.found[ClassDuplicate]++
		}
	}
}

func (o *oracle) phantoms(k *truth) {
	told := map[seen]bool{}
	judge := func(s seen) {
		class := ""
		switch s.payload {
		case history.OtherRun:
			class, s.value = ClassPhantomRun, 0
		case history.Altered:
			class, s.value = ClassPhantomBytes, 0
		case history.Good:
			if sent := o.sends(s.value); len(sent) == 0 || len(sent) == 1 && sent[0].Key != k.key {
				class = ClassPhantom
			}
		}
		if class != "" && !told[s] {
			told[s] = true
			o.found[class]++
		}
	}
	for _, rec := range k.log {
		judge(seen{rec.Offset, rec.Value, rec.Payload})
	}
	for _, s := range k.delivered {
		judge(s)
	}
}

func (o *oracle) resurrected(k *truth) {
	for _, op := range o.ownSends(k) {
		if op.Outcome == history.Failed && len(o.sends(op.Value)) == 1 && len(k.everywhere(op.Value)) > 0 {
			o.found[ClassResurrected]++
		}
	}
}

func (o *oracle) moved(k *truth) {
	for _, op := range o.ownSends(k) {
		at := k.everywhere(op.Value)
		if op.Outcome == history.OK && op.Acked && op.Offset >= 0 && len(o.sends(op.Value)) == 1 && len(at) > 0 && !slices.Contains(at, op.Offset) {
			o.found[ClassMoved]++
		}
	}
}

func (o *oracle) inconsistent(k *truth) {
	ct := o.h.Header.Contract
	held := map[int64]map[history.Value]bool{}
	claim := func(offset int64, value history.Value) {
		if held[offset] == nil {
			held[offset] = map[history.Value]bool{}
		}
		held[offset][value] = true
	}
	if ct.Acknowledged || ct.Expect != "declared" {
		for _, op := range o.ownSends(k) {
			if op.Outcome == history.OK && op.Acked && op.Offset >= 0 {
				claim(op.Offset, op.Value)
			}
		}
	}
	if ct.CommittedReads {
		for _, s := range k.delivered {
			if s.payload == history.Good {
				claim(s.offset, s.value)
			}
		}
	}
	if k.decisive {
		for _, rec := range k.log {
			if rec.Payload == history.Good {
				claim(rec.Offset, rec.Value)
			}
		}
	}
	for _, values := range held {
		if len(values) > 1 {
			o.found[ClassInconsistent]++
		}
	}
}

func (o *oracle) dirty(k *truth) {
	if !k.decisive || k.drain.Missing {
		return
	}
	for _, value := range o.values(k) {
		sent := o.sends(value)
		if len(sent) == 0 || sent[0].Key != k.key || !k.gone(sent[0]) {
			continue
		}
		for _, s := range k.delivered {
			if s.payload == history.Good && s.value == value && s.offset >= k.leader.Start {
				o.found[ClassDirtyRead]++
				break
			}
		}
	}
}

// steps looks at every record that a consumer was given, and at the one before it.
func (o *oracle) steps(k *truth) {
	for client := range o.h.Header.Clients {
		last, epoch := int64(-1), int32(-1)
		for i := range o.h.Ops {
			op := &o.h.Ops[i]
			if op.Kind != history.Poll || op.Key != k.key || int(op.Client) != client {
				continue
			}
			if op.Reset || len(op.Records) > 0 && op.Epoch != epoch {
				last = -1
			}
			if len(op.Records) > 0 {
				epoch = op.Epoch
			}
			for j, rec := range op.Records {
				next := last + 1
				if last < 0 && j == 0 {
					next = op.From
				}
				switch {
				case last >= 0 && rec.Offset <= last:
					o.found[ClassNonMonotonic]++
				case k.decisive && k.shows(rec) && k.between(next, rec.Offset):
					o.found[ClassSkip]++
				}
				last = rec.Offset
			}
		}
	}
}

func (k *truth) shows(rec history.Record) bool {
	return slices.ContainsFunc(k.log, func(r history.Record) bool {
		return r.Offset == rec.Offset && r.Value == rec.Value && r.Payload == rec.Payload
	})
}

func (k *truth) between(from, to int64) bool {
	return slices.ContainsFunc(k.log, func(r history.Record) bool {
		return r.Payload == history.Good && r.Offset >= from && r.Offset < to
	})
}

// reorders finds whether there are any: how many is a matter of counting.
func (o *oracle) reorders(k *truth) {
	once := func(op *history.Op) bool {
		return op.Outcome == history.OK && op.Acked && len(o.sends(op.Value)) == 1
	}
	sends := o.ownSends(k)
	for _, a := range sends {
		for _, b := range sends {
			if !once(a) || !once(b) || a.Value.Producer() != b.Value.Producer() || a.Return >= b.Call {
				continue
			}
			x, y := k.drainedAt(a.Value), k.drainedAt(b.Value)
			if len(x) > 0 && len(y) > 0 && x[0] > y[0] || o.polledInOrder(k, b, a) {
				o.found[ClassReorder] = 1
			}
		}
	}
}

// polledInOrder reports whether one poll, whose offsets ascend, showed a before b, both
// where they were acknowledged.
func (o *oracle) polledInOrder(k *truth, a, b *history.Op) bool {
	for i := range o.h.Ops {
		op := &o.h.Ops[i]
		if op.Kind != history.Poll || op.Key != k.key {
			continue
		}
		at := func(s *history.Op) int {
			return slices.IndexFunc(op.Records, func(r history.Record) bool {
				return r.Payload == history.Good && r.Value == s.Value && r.Offset == s.Offset
			})
		}
		ascends := true
		for j := 1; j < len(op.Records); j++ {
			ascends = ascends && op.Records[j-1].Offset < op.Records[j].Offset
		}
		if x, y := at(a), at(b); ascends && x >= 0 && y > x {
			return true
		}
	}
	return false
}

func (o *oracle) stale(k *truth) {
	if !o.h.Header.Contract.Fresh {
		return
	}
	for i := range o.h.Ops {
		op := &o.h.Ops[i]
		if op.Kind != history.Poll || op.Key != k.key {
			continue
		}
		saw := op.High
		if n := len(op.Records); n > 0 && saw >= 0 {
			saw = max(saw, op.Records[n-1].Offset+1)
		} else if n == 0 && saw < 0 {
			saw = op.From
		}
		for _, s := range o.ownSends(k) {
			if saw >= 0 && s.Outcome == history.OK && s.Acked && s.Offset >= saw && s.Return < op.Call {
				o.found[ClassStale]++
				break
			}
		}
	}
}

// tangled draws a small history of one to three partitions: every outcome, gaps,
// acks=0, resets, drains that prove nothing, and with each of its deeds, as often as
// not, a mistake.
func tangled(r *rand.Rand) *history.History {
	h := &history.History{Closed: true, Header: history.Header{
		Keys: []string{"t-0", "t-1", "t-2"}[:1+r.IntN(3)], Nodes: []string{"n1", "n2"}, Contract: everything(),
		Clients: []history.Client{{Name: "p0"}, {Name: "p1"}, {Name: "c0"}, {Name: "c1"}},
	}}
	ct := &h.Header.Contract
	ct.Fresh, ct.CommittedReads, ct.Linearizable = r.IntN(2) == 0, r.IntN(8) > 0, false
	if r.IntN(8) == 0 {
		ct.Acknowledged, ct.Expect = false, "declared"
	}
	wrong := r.IntN(3) // 0: nothing is; else a deed in so many is
	slip := func() bool { return wrong > 0 && r.IntN(5+10*wrong) == 0 }
	logs := make([][]history.Record, len(h.Header.Keys))
	ends := make([]int64, len(logs))
	seqs := [2]int64{}
	busy := [2]int64{}
	positions := [2][3]int64{}
	now := int64(0)
	for id := range 3 + r.IntN(14) {
		now += r.Int64N(4)
		key := r.IntN(len(logs))
		op := history.Op{ID: int64(id), Key: int32(key), Node: 0, Offset: history.NoOffset, High: history.NoOffset, Epoch: 1}
		if r.IntN(5) < 2 {
			c := r.IntN(2)
			poll(r, h, &op, c, now, logs[key], ends[key], &positions[c][key], slip)
			h.Ops = append(h.Ops, op)
			continue
		}
		p := r.IntN(2)
		now = max(now, busy[p])
		if seqs[p] == 0 || !slip() {
			seqs[p]++ // else it is sent again
		}
		op.Kind, op.Client, op.Process, op.Value = history.Send, int32(p), int64(p), history.MakeValue(int32(p), seqs[p])
		op.Call = now
		op.Return = now + r.Int64N(6)
		if r.IntN(4) > 0 {
			busy[p] = op.Return
		}
		happens := true
		switch r.IntN(8) {
		case 0:
			op.Outcome, happens = history.Failed, slip()
		case 1:
			op.Outcome, happens = history.Indeterminate, r.IntN(2) == 0
			if r.IntN(2) == 0 {
				op.Return = history.Infinity
			}
		case 2:
			op.Outcome, happens = history.OK, r.IntN(4) > 0
		default:
			op.Outcome, op.Acked, happens = history.OK, true, !slip()
		}
		if happens || op.Acked {
			offset := ends[key]
			if r.IntN(6) == 0 {
				offset++
			}
			if happens {
				logs[key] = append(logs[key], history.Record{Offset: offset, Value: op.Value, Epoch: 1})
				ends[key] = offset + 1
			}
			if op.Acked && r.IntN(8) > 0 {
				op.Offset = offset
			}
			if op.Offset >= 0 && slip() {
				op.Offset = r.Int64N(offset + 3)
			}
		}
		h.Ops = append(h.Ops, op)
	}
	for key := range logs {
		drain(r, h, key, logs[key], ends[key], slip)
	}
	return h
}

// poll reads on from a consumer's position.
func poll(r *rand.Rand, h *history.History, op *history.Op, c int, now int64, log []history.Record, end int64, position *int64, slip func() bool) {
	op.Kind, op.Client, op.Process, op.Outcome = history.Poll, int32(2+c), int64(2+c), history.OK
	op.Call, op.Return = now, now+r.Int64N(4)
	if r.IntN(6) == 0 {
		op.Reset = true
		*position = r.Int64N(end + 1)
	}
	if r.IntN(8) == 0 {
		op.Epoch = 2
		*position = min(*position, r.Int64N(end+1))
	}
	op.From = *position
	from := slices.IndexFunc(log, func(rec history.Record) bool { return rec.Offset >= *position })
	if from >= 0 {
		op.Records = slices.Clone(log[from : from+r.IntN(len(log)-from+1)])
	}
	if n := len(op.Records); n > 0 {
		rec := &op.Records[r.IntN(n)]
		if slip() {
			rec.Value = history.MakeValue(int32(r.IntN(3)), r.Int64N(5)) // 0 is the value of those who send nothing
		}
		if slip() {
			rec.Payload = history.Payload(r.IntN(4))
		}
		if slip() {
			rec.Offset = r.Int64N(end + 2)
		}
		if slip() {
			op.Records = slices.Delete(op.Records, 0, 1)
		}
		if slip() {
			op.Records = append(op.Records, op.Records[:min(1, len(op.Records))]...)
		}
	}
	if n := len(op.Records); n > 0 {
		*position = op.Records[n-1].Offset + 1
	}
	if r.IntN(3) == 0 {
		op.High = max(*position, end)
		if slip() {
			op.High = r.Int64N(end + 1)
		}
	} else if len(op.Records) == 0 && *position < end && !slip() {
		op.High = end // an empty answer says how far it saw
	}
}

// drain reads the logs of both replicas of a partition.
func drain(r *rand.Rand, h *history.History, key int, log []history.Record, end int64, slip func() bool) {
	name := h.Header.Keys[key]
	if r.IntN(30) == 0 {
		return
	}
	log = slices.Clone(log)
	if n := len(log); n > 0 {
		at := r.IntN(n)
		if slip() {
			log = slices.Delete(log, at, at+1)
		} else if slip() {
			log = log[:at]
		}
	}
	if n := len(log); n > 0 {
		at := r.IntN(n)
		if slip() {
			log = append(log, history.Record{Offset: end, Value: log[at].Value, Epoch: 1})
			end++
		}
		if slip() {
			log[at].Value, log[0].Value = log[0].Value, log[at].Value
		}
		if slip() {
			log[at].Payload = history.Payload(1 + r.IntN(2))
		}
		if slip() {
			log[at].Value = history.MakeValue(int32(r.IntN(3)), r.Int64N(5)) // 0 is the value of those who send nothing
		}
	}
	start := int64(0)
	if end > 0 && r.IntN(20) == 0 {
		start = 1 + r.Int64N(end)
		log = slices.DeleteFunc(log, func(rec history.Record) bool { return rec.Offset < start })
	}
	leader := history.Replica{Key: name, Node: "n1", Leader: true, Complete: true, Start: start, Epoch: 1}
	other := history.Replica{Key: name, Node: "n2", Complete: true, Start: start, Epoch: 1}
	sentinel := func(r *history.Replica, records []history.Record) {
		r.Records = append(slices.Clone(records), history.Record{Offset: end, Epoch: 1, Payload: history.Sentinel})
		r.Sentinel, r.End = end, end+1
		r.Digest = fmt.Sprint(r.Records)
	}
	if r.IntN(10) == 0 {
		first := leader
		sentinel(&first, log[:r.IntN(len(log)+1)])
		h.Replicas = append(h.Replicas, first)
	}
	sentinel(&leader, log)
	copied := slices.Clone(log)
	if n := len(copied); n > 0 {
		at := r.IntN(n)
		if slip() {
			copied[at].Epoch = 2
		}
		if slip() {
			copied = slices.Delete(copied, at, at+1)
		}
	}
	sentinel(&other, copied)
	d := history.Drain{Key: name, Complete: leader.Digest == other.Digest, InSync: true, Quiet: true, At: 1000}
	switch r.IntN(40) {
	case 0:
		leader.Complete, d.Complete = false, false
	case 1:
		other.Complete, d.Complete = false, d.Complete && r.IntN(2) == 0 // the harness may be wrong
	case 2:
		d.InSync = false
	case 3:
		d.Quiet = false
	case 4:
		d.Complete = false
	case 5:
		other.Epoch, d.Complete = 2, d.Complete && r.IntN(2) == 0
	case 6:
		d.Missing, d.Complete = true, false
	case 7:
		leader.Sentinel = history.NoOffset
	}
	h.Replicas = append(h.Replicas, leader, other)
	h.Drains = append(h.Drains, d)
}

// stretch64 makes the offsets of a history larger than 32 bits, all but 0.
func stretch64(h *history.History) {
	far := func(o int64) int64 {
		if o > 0 {
			o <<= 31
		}
		return o
	}
	log := func(records []history.Record) []history.Record {
		records = slices.Clone(records)
		for i := range records {
			records[i].Offset = far(records[i].Offset)
		}
		return records
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		op.Offset, op.From, op.High, op.Records = far(op.Offset), far(op.From), far(op.High), log(op.Records)
	}
	for i := range h.Replicas {
		r := &h.Replicas[i]
		r.Start, r.Sentinel, r.End, r.Records = far(r.Start), far(r.Sentinel), far(r.End), log(r.Records)
	}
}

// exchangeTimes gives two sends of one producer each other's times, if there are two.
func exchangeTimes(r *rand.Rand, h *history.History) {
	var sends []int
	for i := range h.Ops {
		if h.Ops[i].Kind == history.Send {
			sends = append(sends, i)
		}
	}
	if len(sends) == 0 {
		return
	}
	a := &h.Ops[sends[r.IntN(len(sends))]]
	for _, i := range sends {
		if b := &h.Ops[i]; b.Client == a.Client && b != a {
			a.Call, a.Return, b.Call, b.Return = b.Call, b.Return, a.Call, a.Return
			return
		}
	}
}

// differential is how many histories a comparison takes.
func differential(t *testing.T, cases int) int {
	cases /= slowdown
	if testing.Short() {
		cases /= 20
	}
	if s := os.Getenv("FAULTLINE_DIFFERENTIAL"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err, "FAULTLINE_DIFFERENTIAL counts histories")
		cases = n
	}
	return cases
}

// TestOffsetTwice: a log that has an offset twice is not smooth to read, and who is given
// both records there goes back.
func TestOffsetTwice(t *testing.T) {
	for _, c := range []struct {
		offsets []int64
		back    int
	}{
		{[]int64{0, 1, 2}, 0},
		{[]int64{0, 2, 5}, 0},
		{[]int64{0, 1, 1}, 1},
		{[]int64{1, 1, 1}, 2},
	} {
		h := randomHistory(rand.New(rand.NewPCG(1, 1)), false)
		h.Ops, h.Replicas[0].Records = nil, nil
		var log []history.Record
		for i, offset := range c.offsets {
			value := history.MakeValue(0, int64(i+1))
			h.Ops = append(h.Ops, history.Op{ID: int64(i), Call: int64(10 * i), Return: int64(10*i + 1), Kind: history.Send, Value: value, Offset: offset, Outcome: history.OK, Acked: true})
			log = append(log, history.Record{Offset: offset, Value: value, Epoch: 1})
		}
		h.Ops = append(h.Ops, history.Op{ID: 9, Client: 4, Call: 100, Return: 101, Kind: history.Poll, Outcome: history.OK, Records: slices.Clone(log), High: history.NoOffset})
		h.Replicas[0].Sentinel, h.Replicas[0].End = 9, 10
		h.Replicas[0].Records = append(log, history.Record{Offset: 9, Payload: history.Sentinel, Epoch: 1})
		v, err := newView(h, lax().withDefaults())
		require.NoError(t, err)
		check := v.judge(context.Background(), ClauseMonotonic, checkMonotonicReads)
		require.Equal(t, c.back, check.classes[ClassNonMonotonic], "%v: %s", c.offsets, check.Detail)
		require.Equal(t, []pollStep{{poll: 3, before: noPoll, smooth: c.back == 0}}, v.keys[0].steps)
	}
}

// TestPlainPartitions compares what is said of partitions whose drain resolves everything
// with what the exact procedure says of their operations.
func TestPlainPartitions(t *testing.T) {
	acquitted, others := 0, 0
	compare := func(h *history.History) {
		v, err := newView(h, Options{}.withDefaults())
		require.NoError(t, err)
		for _, k := range v.keys {
			n, ok := v.linearizableLog(k)
			l := v.linearLog(k)
			legal := false
			if l.open == "" && l.broken == nil {
				r, err := linear.Exact(linear.Log, l.ops)
				require.NoError(t, err)
				legal = r.Verdict == linear.Legal
			}
			if ok != legal && (ok || len(v.reused) == 0) { // of a value that was sent twice it says nothing
				require.Equal(t, legal, ok, "%s\n%s", k.name, describe(h))
			}
			if ok {
				require.Equal(t, len(l.ops), n)
				acquitted++
			} else {
				others++
			}
		}
	}
	for i := range differential(t, 30_000) {
		r := rand.New(rand.NewPCG(uint64(i), 17))
		h := randomHistory(r, r.IntN(2) == 0)
		h.Header.Contract.Fresh = r.IntN(2) == 0
		compare(h)
	}
	require.Greater(t, acquitted, others/20, "legal partitions")
	for i := range uint64(300) {
		r := rand.New(rand.NewPCG(i, 18))
		h := generate(r, 900, 2)
		h.Header.Contract.Fresh = r.IntN(2) == 0
		mutations[r.IntN(len(mutations))].apply(r, h)
		compare(h)
	}
}

// TestAgainstOracle compares the anomalies and the verdict of every clause about what
// stands in a log and what was read of it with the oracle's, on small histories.
func TestAgainstOracle(t *testing.T) {
	cases := differential(t, 100_000)
	judged := logClauses()
	shown, clean := map[string]int{}, map[string]int{}
	for i := range cases {
		r := rand.New(rand.NewPCG(uint64(i), 11))
		h := tangled(r)
		other := r.IntN(12)
		if other == 0 {
			exchangeTimes(r, h)
		}
		want := ask(h)
		if other == 1 {
			stretch64(h)
		}
		v, err := newView(h, lax().withDefaults())
		require.NoError(t, err)
		got := map[string]int{}
		for _, c := range judged {
			check := v.judge(context.Background(), c.name, c.run)
			broken := false
			for class, n := range check.classes {
				if class == ClassReorder {
					n = min(n, 1)
				}
				got[class] += n
				broken = broken || n > 0 && !unjudged(class)
			}
			verdict := Valid
			switch {
			case !check.Promised:
			case broken:
				verdict = Invalid
			case want.open[c.name]:
				verdict = Unknown
			}
			if c.name != ClauseSplitBrain && check.Verdict != verdict {
				require.Equal(t, verdict, check.Verdict, "seed %d: %s: %s\n%s", i, c.name, check.Detail, describe(h))
			}
		}
		for _, class := range classes {
			if class == ClassStale && !h.Header.Contract.Fresh {
				continue
			}
			if got[class] != want.found[class] {
				require.Equal(t, want.found[class], got[class], "seed %d: %s by the oracle and by the checker\n%s", i, class, describe(h))
			}
			if got[class] > 0 {
				shown[class]++
			} else {
				clean[class]++
			}
		}
		requireTotals(t, h, v.counts())
	}
	if cases < 1000 {
		return
	}
	for _, class := range classes {
		switch class {
		case ClassSplitBrain, ClassTooFew, ClassLinearizable, ClassNotRecovered:
			continue // of events and times: they have comparisons of their own
		}
		t.Logf("%-20s %6d shown, %6d not", class, shown[class], clean[class])
		require.GreaterOrEqual(t, shown[class], cases/200, "histories that show %s", class)
		require.GreaterOrEqual(t, clean[class], cases/3, "histories without %s", class)
	}
}

// requireTotals counts operations and records one by one.
func requireTotals(t *testing.T, h *history.History, got Counts) {
	t.Helper()
	var want Counts
	for _, op := range h.Ops {
		switch op.Outcome {
		case history.OK:
			want.OK++
		case history.Failed:
			want.Failed++
		default:
			want.Indeterminate++
		}
		if op.Kind == history.Send && op.Outcome == history.OK && op.Acked {
			want.Acknowledged++
		}
		want.Delivered += len(op.Records)
	}
	got.Phases = nil
	require.Equal(t, want, got)
}

// together makes one history of histories of one partition each.
func together(parts ...*history.History) *history.History {
	all := &history.History{Header: parts[0].Header, Closed: true}
	all.Header.Keys = nil
	for k, part := range parts {
		name := fmt.Sprintf("t-%d", k)
		own := func(v history.Value) history.Value { return history.MakeValue(v.Producer()+int32(10*k), v.Seq()) }
		log := func(records []history.Record) []history.Record {
			records = slices.Clone(records)
			for i := range records {
				if records[i].Payload == history.Good {
					records[i].Value = own(records[i].Value)
				}
			}
			return records
		}
		all.Header.Keys = append(all.Header.Keys, name)
		for _, op := range part.Ops {
			op.ID, op.Process, op.Key, op.Records = int64(len(all.Ops)), int64(len(all.Ops)), int32(k), log(op.Records)
			if op.Kind == history.Send {
				op.Value = own(op.Value)
			}
			all.Ops = append(all.Ops, op)
		}
		rep, d := part.Replicas[0], part.Drains[0]
		rep.Key, d.Key, rep.Records = name, name, log(rep.Records)
		all.Replicas, all.Drains = append(all.Replicas, rep), append(all.Drains, d)
	}
	return all
}

// TestPartitionsAgainstPorcupine compares the clause linearizable-appends of several
// partitions with Porcupine's verdict on each of them.
func TestPartitionsAgainstPorcupine(t *testing.T) {
	cases := differential(t, 30_000)
	verdicts := map[Verdict]int{}
	for i := range cases {
		r := rand.New(rand.NewPCG(uint64(i), 12))
		var parts []*history.History
		want := Valid
		for range 2 + r.IntN(2) {
			part := randomHistory(r, r.IntN(2) == 0)
			if naive(part) != porcupine.Ok {
				want = Invalid
				if i%2 == 0 {
					continue // leave it out: else hardly any would be legal
				}
			}
			parts = append(parts, part)
		}
		if len(parts) == 0 {
			continue
		}
		if i%2 == 0 {
			want = Valid
		}
		h := together(parts...)
		o := lax()
		o.PorcupineTimeout = -1 // the exact procedure alone
		v, err := newView(h, o.withDefaults())
		require.NoError(t, err)
		c := v.judge(context.Background(), ClauseLinearizable, checkLinearizable)
		if c.Verdict != want {
			require.Equal(t, want, c.Verdict, "seed %d: %s\n%s", i, c.Detail, describe(h))
		}
		verdicts[want]++
	}
	require.Greater(t, verdicts[Valid], cases/10, "legal histories")
	require.Greater(t, verdicts[Invalid], cases/10, "illegal histories")
}
