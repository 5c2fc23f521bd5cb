package checker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/faultline-mq/faultline/checker/history"
)

// DefaultWindow is how much of each partition Online remembers: so many offsets
// and, on average, so many sends, about 10 MB of memory.
const DefaultWindow = 1 << 16

// maxFindings bounds what Online keeps in detail, and maxSuspects what it holds
// until it can be told.
const (
	maxFindings  = 1000
	maxSuspects  = 1024
	maxStretches = 256
)

// noMessage is the value of no message, since sequence numbers begin at 1: it stands
// where there is none. A record or a send with a lower number is not judged.
const noMessage = history.Value(0)

// OnlineOptions tune Online. The zero value of each field means its default.
type OnlineOptions struct {
	// Window is how many offsets and sends of a partition are remembered, rounded
	// up to a power of two. What falls out is not judged any more. Default
	// DefaultWindow.
	Window int
	// Found is told of every finding that is kept, in the goroutine that recorded
	// what completed it, and with no lock held. nil: nobody is.
	Found func(Finding)
}

// Finding is a broken promise that showed while the run went on.
type Finding struct {
	Clause string `json:"clause"`
	// Or is the clause that convicts in place of Clause if the message turns out
	// to stand at both offsets (of a moved one: at-most-once); else empty.
	Or string `json:"or,omitempty"`
	Anomaly
}

// OnlineReport is what Online found and what it could not judge.
type OnlineReport struct {
	Findings []Finding      `json:"findings"` // the first 1000, in the order in which they were found
	Counts   map[string]int `json:"counts"`   // all of them, by class
	// Outside counts the acknowledgements and delivered records that were not
	// judged: they, or the sends they belong to, lie outside of the window.
	Outside int `json:"outside"`
	Window  int `json:"window"`
}

// String says in one sentence what was not judged, or nothing if all was.
func (r OnlineReport) String() string {
	if r.Outside == 0 {
		return ""
	}
	return fmt.Sprintf("%s lay outside of the window of %d per partition and %s not judged during the run; the final check covers them",
		count(r.Outside, "acknowledgement or delivery"), r.Window, were(r.Outside))
}

var _ history.Sink = (*Online)(nil)

// Online checks what a run records while it is recorded, and hands everything on
// to another sink first, unchanged and in the same order. It reports a broken
// promise as soon as nothing that may still come can take it back: whatever it
// finds, Run convicts on the whole history, by the same clause and class. What
// rests on the drain (loss, divergence, dirty reads, jumps over records) is left
// to Run, and so is everything outside of the window.
//
// It relies on what a run promises: a value is called before it can be delivered,
// every value is sent once, and the values of one producer are sent in ascending
// order. A producer that breaks the last two is not judged from then on.
//
// Its methods may be called from several goroutines. Called in the same order it
// finds the same.
type Online struct {
	sink history.Sink
	hd   history.Header
	opts OnlineOptions

	mu        sync.Mutex
	keys      []*onlineKey
	byName    map[string]*onlineKey
	queues    []*onlineQueue // by key, nil for a log
	producers map[int32]*onlineProducer
	limit     int            // sends remembered per producer
	open      []int64        // by client: operations in progress
	overlap   map[int32]bool // clients whose operations overlapped: their steps cannot be told
	suspects  []suspect
	polls     int64 // so far
	lives     map[life]*onlineLife
	faults    []history.Fault
	report    OnlineReport
	fresh     []Finding // not yet told
}

// onlineKey is what is remembered of one partition.
type onlineKey struct {
	index     int32
	name      string
	slots     []onlineSlot // by offset, modulo their number
	shown     staircase    // what was acknowledged or delivered
	acked     staircase    // what was acknowledged
	positions map[int32]onlinePosition
	leaders   map[int32]string // by epoch, the node that led first
	stretches []stretch
}

// onlineSlot is one remembered offset.
type onlineSlot struct {
	offset      int64         // NoOffset: empty
	acked, seen history.Value // or noMessage
	ackOp       int64
	seenOp      int64
	epoch       int32 // of the record that was delivered
	told        uint16
}

// What of a slot or of a send was reported.
const (
	toldInconsistent = 1 << iota
	toldTooFew
	toldPhantom
	toldResurrected
	toldDuplicate
	toldMoved
	toldLinear
	toldOrder
	toldSettled
	toldTooMany
)

// onlineSend is one remembered send.
type onlineSend struct {
	value   history.Value // or noMessage
	id      int64
	call    int64
	ret     int64
	acked   int64 // offset, or NoOffset
	seen    int64 // the first offset at which it was delivered, or NoOffset
	key     int32
	client  int32
	outcome history.Outcome
	told    uint16
	promise bool // its acknowledgement promises something

	seenBy int64       // of a queue: a receive that was given it, its ID + 1
	fate   *onlineFate // of a queue, nil while nothing happened
}

// onlineProducer remembers the sends of one producer, by sequence number.
type onlineProducer struct {
	last      int64 // highest sequence number called, 0: none
	forgotten int64 // highest one that fell out
	unordered bool  // it sent a value twice, or a lower one later: it is not judged
	suspects  int
	sends     []onlineSend

	// Of the poll that is being looked at: the send called last among those that
	// were acknowledged and delivered so far.
	poll   int64
	latest *onlineSend
	at     int64 // its offset there
}

// suspect is a delivered record that was not sent yet when it was delivered.
type suspect struct {
	value  history.Value
	key    int32
	offset int64
	op     int64
	call   int64
	at     int64
	node   int16
	times  int32 // by the system's own count, of a queue
}

type onlinePosition struct {
	last  int64
	epoch int32
	op    int64
}

// onlineLife is one incarnation of a node: where the numbers of its events are.
type onlineLife struct {
	seq  int64
	told map[int32]onlineTold // by partition: the last event on leadership, while no number is missing since
}

type onlineTold struct {
	kind   string
	epoch  int32
	isr    []string
	offset int64
}

// NewOnline returns an Online that hands on to sink and judges by the contract
// of header.
func NewOnline(sink history.Sink, header history.Header, opts OnlineOptions) *Online {
	if opts.Window <= 0 {
		opts.Window = DefaultWindow
	}
	opts.Window = ceilPow2(opts.Window)
	o := &Online{
		sink: sink, hd: header, opts: opts, byName: map[string]*onlineKey{}, producers: map[int32]*onlineProducer{},
		open: make([]int64, len(header.Clients)), overlap: map[int32]bool{}, lives: map[life]*onlineLife{},
		report: OnlineReport{Findings: []Finding{}, Counts: map[string]int{}, Window: opts.Window},
	}
	for i, name := range header.Keys {
		k := &onlineKey{index: int32(i), name: name, positions: map[int32]onlinePosition{}, leaders: map[int32]string{}}
		k.shown.limit, k.acked.limit = opts.Window, opts.Window
		o.keys, o.byName[name] = append(o.keys, k), k
	}
	o.readQueues()
	producers := 0
	for _, c := range header.Clients {
		if c.Role == "producer" {
			producers++
		}
	}
	o.limit = ceilPow2(max(opts.Window*len(o.keys)/max(producers, 1), 1))
	return o
}

func ceilPow2(n int) int {
	p := 1
	for p < n {
		p *= 2
	}
	return p
}

// Invoke implements history.Sink.
func (o *Online) Invoke(op *history.Op) {
	o.sink.Invoke(op)
	o.mu.Lock()
	if k := o.key(op); k != nil {
		if o.open[op.Client]++; o.open[op.Client] > 1 {
			o.overlap[op.Client] = true
		}
		if op.Kind == history.Send {
			o.invoked(k, op)
		}
	}
	o.unlock()
}

// Complete implements history.Sink.
func (o *Online) Complete(op *history.Op) {
	o.sink.Complete(op)
	o.mu.Lock()
	if k := o.key(op); k != nil {
		o.open[op.Client]--
		switch {
		case op.Kind == history.Send:
			o.answered(k, op)
		case op.Kind == history.Poll && o.queues[k.index] == nil:
			o.polled(k, op)
		case op.Kind == history.Receive:
			o.received(k, op)
		case op.Kind.Settles():
			o.settle(op)
		}
	}
	o.unlock()
}

// Event implements history.Sink.
func (o *Online) Event(ev any) {
	o.sink.Event(ev)
	o.mu.Lock()
	switch ev := ev.(type) {
	case history.NodeEvent:
		o.told(&ev)
	case *history.NodeEvent:
		o.told(ev)
	case history.Fault:
		o.faults = append(o.faults, ev)
	case *history.Fault:
		o.faults = append(o.faults, *ev)
	}
	o.unlock()
}

// Report returns what was found so far.
func (o *Online) Report() OnlineReport {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.report
	r.Findings = slices.Clone(r.Findings)
	r.Counts = map[string]int{}
	for class, n := range o.report.Counts {
		r.Counts[class] = n
	}
	return r
}

// unlock tells of the findings that are new.
func (o *Online) unlock() {
	fresh := o.fresh
	o.fresh = nil
	o.mu.Unlock()
	if o.opts.Found != nil {
		for _, f := range fresh {
			o.opts.Found(f)
		}
	}
}

// key returns the partition of an operation, nil where the operation contradicts
// the header.
func (o *Online) key(op *history.Op) *onlineKey {
	if op.Key < 0 || int(op.Key) >= len(o.keys) || op.Client < 0 || int(op.Client) >= len(o.open) {
		return nil
	}
	return o.keys[op.Key]
}

// found keeps a finding. Its message, where it is one, is that of s.
func (o *Online) found(clause string, a Anomaly, s *onlineSend) {
	f := Finding{Clause: clause, Anomaly: a}
	o.report.Counts[a.Class]++
	if a.Class == ClassMoved {
		f.Or = ClauseDuplicate
	}
	if len(o.report.Findings) >= maxFindings {
		return
	}
	f.Seq = f.Value.Seq()
	if s != nil {
		f.Producer = o.hd.Clients[s.client].Name
	}
	f.Text = "broke " + clause + " - " + f.Text
	f.Fault = (&view{faults: faultViews(&history.History{Faults: o.faults})}).faultAt(f.At)
	o.report.Findings = append(o.report.Findings, f)
	o.fresh = append(o.fresh, f)
}

// invoked remembers a send.
func (o *Online) invoked(k *onlineKey, op *history.Op) {
	id := op.Value.Producer()
	p := o.producers[id]
	if p == nil {
		p = &onlineProducer{}
		o.producers[id] = p
	}
	seq := op.Value.Seq()
	if p.unordered || seq <= p.last {
		p.unordered, p.sends = true, nil
		return
	}
	p.last = seq
	s := p.place(seq, o.limit)
	*s = onlineSend{
		value: op.Value, id: op.ID, call: op.Call, ret: history.Infinity, acked: history.NoOffset, seen: history.NoOffset,
		key: op.Key, client: op.Client, outcome: history.Pending,
	}
	if p.suspects > 0 {
		o.resolve(p, id, s, k)
	}
}

// place returns the entry for a new sequence number. While there is room, the
// table grows rather than forget.
func (p *onlineProducer) place(seq int64, limit int) *onlineSend {
	if p.sends == nil {
		p.sends = make([]onlineSend, min(64, limit))
	}
	for {
		s := &p.sends[seq&int64(len(p.sends)-1)]
		if s.value == noMessage {
			return s
		}
		if len(p.sends) == limit {
			p.forgotten = max(p.forgotten, s.value.Seq())
			return s
		}
		old := p.sends
		p.sends = make([]onlineSend, 2*len(old))
		for i := range old {
			if old[i].value != noMessage {
				p.sends[old[i].value.Seq()&int64(len(p.sends)-1)] = old[i]
			}
		}
	}
}

// find returns the send of value, or nil; never is true where it was certainly
// never called, and will not be; later where it was not called yet.
func (o *Online) find(value history.Value) (s *onlineSend, p *onlineProducer, never, later bool) {
	p = o.producers[value.Producer()]
	switch seq := value.Seq(); {
	case seq < 1 || p != nil && p.unordered:
		return nil, p, false, false
	case p == nil || seq > p.last:
		return nil, p, false, true
	default:
		if s = &p.sends[seq&int64(len(p.sends)-1)]; s.value == value {
			return s, p, false, false
		}
		return nil, p, seq > p.forgotten, false
	}
}

// suspect holds a record that was delivered before anybody sent its value.
func (o *Online) suspect(k *onlineKey, op *history.Op, rec *history.Record) {
	if len(o.suspects) == maxSuspects {
		o.report.Outside++
		return
	}
	id := rec.Value.Producer()
	if o.producers[id] == nil {
		o.producers[id] = &onlineProducer{}
	}
	o.producers[id].suspects++
	o.suspects = append(o.suspects, suspect{rec.Value, k.index, rec.Offset, op.ID, op.Call, op.Return, op.Node, rec.Delivery})
}

// resolve looks at the suspects of a producer that went on to send s: s itself
// was delivered before it was called, and what it passed will never be sent.
func (o *Online) resolve(p *onlineProducer, id int32, s *onlineSend, k *onlineKey) {
	o.suspects = slices.DeleteFunc(o.suspects, func(x suspect) bool {
		if x.value.Producer() != id || x.value > s.value {
			return false
		}
		p.suspects--
		switch {
		case x.value < s.value:
			o.phantom(o.keys[x.key], x.value, x.offset, x.op, x.at, x.node, ClassPhantom, msgName(x.value)+", which was never sent")
		case o.queues[x.key] != nil:
			o.took(o.keys[x.key], s, x)
		case x.key != s.key:
			o.elsewhere(o.keys[x.key], s, x.offset, x.op, x.at, x.node)
		case s.seen == history.NoOffset:
			s.seen = x.offset
			o.linear(k, s, x.offset)
		}
		return true
	})
}

// answered judges the answer to a send.
func (o *Online) answered(k *onlineKey, op *history.Op) {
	s, _, _, _ := o.find(op.Value)
	if s == nil || s.id != op.ID {
		o.report.Outside++
		return
	}
	s.ret, s.outcome = op.Return, op.Outcome
	s.promise = acked(op)
	switch {
	case o.queues[k.index] != nil:
		o.cameOut(s)
		return
	case op.Outcome == history.Failed:
		o.resurrected(k, s)
	}
	if !s.promise || op.Offset < 0 {
		return
	}
	s.acked = op.Offset
	o.moved(k, s, s.seen, op.ID, op.Node)
	if slot := k.slot(op.Offset, o.opts.Window); slot != nil {
		o.claimAck(k, slot, s, op)
		o.tooFew(k, slot, s)
	} else {
		o.report.Outside++
	}
	o.linear(k, s, op.Offset)
	k.shown.add(op.Offset, op.Return, op.ID)
	if o.hd.Contract.Fresh {
		k.acked.add(op.Offset, op.Return, op.ID)
	}
}

// slot returns the entry of an offset, nil where it lies before the window.
func (k *onlineKey) slot(offset int64, limit int) *onlineSlot {
	if offset < 0 {
		return nil
	}
	if k.slots == nil {
		k.slots = emptySlots(min(64, limit))
	}
	for {
		s := &k.slots[offset&int64(len(k.slots)-1)]
		switch {
		case s.offset == offset:
			return s
		case s.offset == history.NoOffset || s.offset < offset && len(k.slots) == limit:
			*s = onlineSlot{offset: offset}
			return s
		case len(k.slots) == limit:
			return nil
		}
		old := k.slots
		k.slots = emptySlots(2 * len(old))
		for i := range old {
			if old[i].offset != history.NoOffset {
				k.slots[old[i].offset&int64(len(k.slots)-1)] = old[i]
			}
		}
	}
}

func emptySlots(n int) []onlineSlot {
	s := make([]onlineSlot, n)
	for i := range s {
		s[i].offset = history.NoOffset
	}
	return s
}

// polled judges what a poll delivered.
func (o *Online) polled(k *onlineKey, op *history.Op) {
	if o.hd.Contract.Fresh {
		o.stale(k, op)
	}
	o.steps(k, op)
	if op.Outcome != history.OK {
		return
	}
	o.polls++
	ascending := true
	last := history.NoOffset
	for i := range op.Records {
		rec := &op.Records[i]
		ascending = ascending && (i == 0 || rec.Offset > op.Records[i-1].Offset)
		switch rec.Payload {
		case history.Sentinel:
			continue
		case history.OtherRun:
			o.phantom(k, noMessage, rec.Offset, op.ID, op.Return, op.Node, ClassPhantomRun, "a message of another run")
			continue
		case history.Altered:
			o.phantom(k, noMessage, rec.Offset, op.ID, op.Return, op.Node, ClassPhantomBytes, "a payload that does not match its checksum")
			continue
		}
		last = max(last, rec.Offset)
		o.delivered(k, op, rec, ascending)
	}
	if last != history.NoOffset {
		k.shown.add(last, op.Return, op.ID)
	}
}

// delivered judges one record whose payload is good. Where the records before it
// ascend, its place among those of its producer is judged too.
func (o *Online) delivered(k *onlineKey, op *history.Op, rec *history.Record, ascending bool) {
	if rec.Offset < 0 || rec.Value.Seq() < 1 {
		o.report.Outside++
		return
	}
	s, p, never, later := o.find(rec.Value)
	slot := k.slot(rec.Offset, o.opts.Window)
	if slot == nil || s == nil && !never && !later {
		o.report.Outside++
	}
	switch {
	case slot == nil:
	case slot.seen == noMessage:
		slot.seen, slot.seenOp, slot.epoch = rec.Value, op.ID, rec.Epoch
	case slot.epoch != rec.Epoch:
		slot.epoch = -1
	}
	if slot != nil {
		o.claimSeen(k, slot, op, rec)
	}
	switch {
	case never:
		o.phantom(k, rec.Value, rec.Offset, op.ID, op.Return, op.Node, ClassPhantom, msgName(rec.Value)+", which was never sent")
		return
	case later:
		o.suspect(k, op, rec)
		return
	case s == nil:
		return
	case s.key != k.index:
		o.elsewhere(k, s, rec.Offset, op.ID, op.Return, op.Node)
		return
	}
	if s.seen == history.NoOffset {
		s.seen = rec.Offset
		o.resurrected(k, s)
		o.linear(k, s, rec.Offset)
	}
	if s.seen != rec.Offset {
		o.duplicate(k, s, op, rec.Offset)
	}
	o.moved(k, s, rec.Offset, op.ID, op.Node)
	if slot != nil {
		o.tooFew(k, slot, s)
	}
	if ascending && s.acked == rec.Offset {
		o.order(k, s, p, op, rec.Offset)
	}
}

func (o *Online) phantom(k *onlineKey, value history.Value, offset, op, at int64, node int16, class, what string) {
	if slot := k.slot(offset, o.opts.Window); slot != nil { // else it may be told again
		if slot.told&toldPhantom != 0 {
			return
		}
		slot.told |= toldPhantom
	}
	where := k.name
	if offset >= 0 {
		where = fmt.Sprintf("offset %d of %s", offset, k.name)
	}
	o.found(ClausePhantom, Anomaly{
		Class: class, Key: k.name, Value: value, Offset: offset, At: at, Node: o.node(node), Ops: []int64{op},
		Text: fmt.Sprintf("nothing is delivered that was never sent: %s delivered %s", where, what),
	}, nil)
}

// elsewhere reports a record that was sent to another partition.
func (o *Online) elsewhere(k *onlineKey, s *onlineSend, offset, op, at int64, node int16) {
	o.phantom(k, s.value, offset, op, at, node, ClassPhantom, msgName(s.value)+", which was sent to "+o.keys[s.key].name)
}

func (o *Online) node(i int16) string {
	if i < 0 || int(i) >= len(o.hd.Nodes) {
		return ""
	}
	return o.hd.Nodes[i]
}

// once reports whether something is to be reported of s, which was not yet.
func (s *onlineSend) once(what uint16) bool {
	first := s.told&what == 0
	s.told |= what
	return first
}

func (o *Online) resurrected(k *onlineKey, s *onlineSend) {
	if s.outcome != history.Failed || s.seen == history.NoOffset || !s.once(toldResurrected) {
		return
	}
	o.found(ClauseResurrected, Anomaly{
		Class: ClassResurrected, Key: k.name, Value: s.value, Offset: s.seen, At: s.ret, Ops: []int64{s.id},
		Text: fmt.Sprintf("what failed for certain does not happen: the send of %s failed, and it was delivered at offset %d of %s", msgName(s.value), s.seen, k.name),
	}, s)
}

func (o *Online) duplicate(k *onlineKey, s *onlineSend, op *history.Op, offset int64) {
	ct := &o.hd.Contract
	if !ct.AtMostOnce || ct.Offsets == "per-node" || !s.once(toldDuplicate) {
		return
	}
	o.found(ClauseDuplicate, Anomaly{
		Class: ClassDuplicate, Key: k.name, Value: s.value, Offset: offset, At: op.Return, Node: o.node(op.Node), Ops: []int64{s.id, op.ID},
		Text: fmt.Sprintf("a message that was sent once stands at one offset at most: %s was delivered at offsets %d and %d of %s", msgName(s.value), s.seen, offset, k.name),
	}, s)
}

// moved compares where s was acknowledged with where it was delivered. If it
// turns out to stand at both offsets it is a duplicate, so both must be promised.
func (o *Online) moved(k *onlineKey, s *onlineSend, seen, op int64, node int16) {
	ct := &o.hd.Contract
	if ct.Offsets != "global" || !ct.AtMostOnce || s.acked == history.NoOffset || seen == history.NoOffset || seen == s.acked || !s.once(toldMoved) {
		return
	}
	o.found(ClauseMoved, Anomaly{
		Class: ClassMoved, Key: k.name, Value: s.value, Offset: s.acked, At: s.ret, Node: o.node(node), Ops: []int64{s.id, op},
		Text: fmt.Sprintf("a message is found where it was acknowledged: %s was acknowledged at offset %d of %s, and delivered at %d", msgName(s.value), s.acked, k.name, seen),
	}, s)
}

// claimAck and claimSeen compare the two values of an offset, under the
// conditions of checkOneValuePerOffset.
func (o *Online) claimAck(k *onlineKey, slot *onlineSlot, s *onlineSend, op *history.Op) {
	if ct := &o.hd.Contract; !ct.Acknowledged && ct.Expect == "declared" {
		return
	}
	if slot.acked == noMessage {
		slot.acked, slot.ackOp = s.value, s.id
	}
	if slot.acked != s.value {
		o.inconsistent(k, slot, "acknowledged", slot.acked, slot.ackOp, "acknowledged", s.value, op)
	}
	if o.hd.Contract.CommittedReads && slot.seen != noMessage && slot.seen != s.value {
		o.inconsistent(k, slot, "delivered", slot.seen, slot.seenOp, "acknowledged", s.value, op)
	}
}

func (o *Online) claimSeen(k *onlineKey, slot *onlineSlot, op *history.Op, rec *history.Record) {
	if !o.hd.Contract.CommittedReads {
		return
	}
	if slot.seen != rec.Value {
		o.inconsistent(k, slot, "delivered", slot.seen, slot.seenOp, "delivered", rec.Value, op)
	}
	if slot.acked != noMessage && slot.acked != rec.Value {
		o.inconsistent(k, slot, "acknowledged", slot.acked, slot.ackOp, "delivered", rec.Value, op)
	}
}

func (o *Online) inconsistent(k *onlineKey, slot *onlineSlot, what string, value history.Value, by int64, also string, other history.Value, op *history.Op) {
	if o.hd.Contract.Offsets != "global" || slot.told&toldInconsistent != 0 {
		return
	}
	slot.told |= toldInconsistent
	s, _, _, _ := o.find(value)
	o.found(ClauseInconsistent, Anomaly{
		Class: ClassInconsistent, Key: k.name, Value: value, Offset: slot.offset, At: op.Return, Node: o.node(op.Node), Ops: []int64{by, op.ID},
		Text: fmt.Sprintf("an offset that was acknowledged or delivered never holds another value: offset %d of %s was %s with %s, and %s with %s",
			slot.offset, k.name, what, msgName(value), also, msgName(other)),
	}, s)
}

// linear judges the append of s, now that its offset is known: nothing at or
// behind it may have been acknowledged or delivered before it was called.
func (o *Online) linear(k *onlineKey, s *onlineSend, offset int64) {
	if !o.hd.Contract.Linearizable || s.outcome == history.Failed {
		return
	}
	high, by, ok := k.shown.before(s.call)
	if !ok || high < offset || !s.once(toldLinear) {
		return
	}
	o.found(ClauseLinearizable, Anomaly{
		Class: ClassLinearizable, Key: k.name, Value: s.value, Offset: offset, At: s.call, Ops: []int64{by, s.id},
		Text: fmt.Sprintf("a message stands after everything that was there before it was sent: offset %d of %s had been acknowledged or delivered when the send of %s was called at %s, and it stands at offset %d",
			high, k.name, msgName(s.value), at(s.call), offset),
	}, s)
}

// stale judges a poll that began after an acknowledgement that it does not see.
func (o *Online) stale(k *onlineKey, op *history.Op) {
	saw, known := sawUpTo(op)
	high, by, ok := k.acked.before(op.Call)
	if !known || !ok || saw > high {
		return
	}
	o.found(ClauseStale, Anomaly{
		Class: ClassStale, Key: k.name, Offset: high, At: op.Call, Node: o.node(op.Node), Ops: []int64{by, op.ID},
		Text: fmt.Sprintf("a read that begins after an acknowledgement sees it: offset %d of %s had been acknowledged, and the read that began at %s saw the log end at %d",
			high, k.name, at(op.Call), saw),
	}, nil)
}

// steps looks for a consumer that goes back, inside a poll and between polls.
// Whether one jumps over records only the drained log tells.
func (o *Online) steps(k *onlineKey, op *history.Op) {
	if !o.hd.Contract.Monotonic || o.overlap[op.Client] {
		return
	}
	if len(op.Records) == 0 {
		if op.Reset {
			delete(k.positions, op.Client)
		}
		return
	}
	last, from := history.NoOffset, op.ID
	if prev, ok := k.positions[op.Client]; ok && !op.Reset && prev.epoch == op.Epoch {
		last, from = prev.last, prev.op
	}
	for i := range op.Records {
		rec := &op.Records[i]
		if last != history.NoOffset && rec.Offset <= last {
			o.found(ClauseMonotonic, Anomaly{
				Class: ClassNonMonotonic, Key: k.name, Value: rec.Value, Offset: rec.Offset, At: op.Return, Node: o.node(op.Node), Ops: slices.Compact([]int64{from, op.ID}),
				Text: fmt.Sprintf("a consumer never goes back within one leader epoch: %s was given offset %d of %s after offset %d", o.hd.Clients[op.Client].Name, rec.Offset, k.name, last),
			}, nil)
		}
		last, from = rec.Offset, op.ID
	}
	k.positions[op.Client] = onlinePosition{last, op.Epoch, op.ID}
}

// order judges s among the messages of its producer that one poll delivered in
// ascending offsets, each where it was acknowledged: what was called after s was
// acknowledged does not stand before it.
func (o *Online) order(k *onlineKey, s *onlineSend, p *onlineProducer, op *history.Op, offset int64) {
	if ct := &o.hd.Contract; ct.Order != "producer" && ct.Order != "partition" {
		return
	}
	if p.poll != o.polls {
		p.poll, p.latest = o.polls, nil
	}
	if p.latest != nil && s.ret < p.latest.call && p.latest.once(toldOrder) {
		o.found(ClauseOrder, Anomaly{
			Class: ClassReorder, Key: k.name, Value: p.latest.value, Offset: p.at, At: op.Return, Node: o.node(op.Node), Ops: []int64{s.id, p.latest.id, op.ID},
			Text: fmt.Sprintf("a producer's messages stand in the order in which they were acknowledged: %s (acknowledged at %s) was delivered at offset %d of %s, and %s (sent at %s) before it at %d",
				msgName(s.value), at(s.ret), offset, k.name, msgName(p.latest.value), at(p.latest.call), p.at),
		}, p.latest)
	}
	if p.latest == nil || s.call > p.latest.call {
		p.latest, p.at = s, offset
	}
}

// told takes what a node said of itself.
func (o *Online) told(e *history.NodeEvent) {
	id := life{e.Node, e.Incarnation}
	l := o.lives[id]
	if l == nil {
		l = &onlineLife{}
		o.lives[id] = l
	}
	if e.Seq != l.seq+1 || l.told == nil {
		l.told = map[int32]onlineTold{} // what is missing may be a change of the set
	}
	l.seq = e.Seq
	k := o.byName[e.Key]
	if k == nil {
		return
	}
	o.split(k, e)
	if o.queues[k.index] != nil {
		return
	}
	if e.Kind == "leader" || e.Kind == "isr" || e.Kind == "follower" {
		o.understaffed(k, l, e)
	}
}

// split judges two leaders of one epoch.
func (o *Online) split(k *onlineKey, e *history.NodeEvent) {
	if !o.hd.Contract.Epochs || e.Kind != "leader" || e.Epoch < 0 || e.Leader != "" && e.Leader != e.Node {
		return
	}
	first, known := k.leaders[e.Epoch]
	switch {
	case !known:
		if len(k.leaders) == o.opts.Window {
			clear(k.leaders)
		}
		k.leaders[e.Epoch] = e.Node
	case first != e.Node:
		o.found(ClauseSplitBrain, Anomaly{
			Class: ClassSplitBrain, Key: k.name, Offset: history.NoOffset, At: e.At, Node: e.Node, Event: EventLeader,
			Text: fmt.Sprintf("one epoch of a partition has one leader: both %s and %s led %s in epoch %d", first, e.Node, k.name, e.Epoch),
		}, nil)
	}
}

// understaffed notes what a leader's high watermark passed while too few
// replicas were in sync, and judges what was acknowledged there.
func (o *Online) understaffed(k *onlineKey, l *onlineLife, e *history.NodeEvent) {
	least := o.hd.Contract.MinInSync
	prev, known := l.told[k.index]
	l.told[k.index] = onlineTold{e.Kind, e.Epoch, slices.Clone(e.ISR), e.Offset}
	if least <= 1 || !known || prev.kind == "follower" || len(prev.isr) == 0 || len(prev.isr) >= least || e.Kind != "isr" || e.Epoch != prev.epoch || prev.offset >= e.Offset {
		return
	}
	if len(k.stretches) == maxStretches {
		k.stretches = slices.Delete(k.stretches, 0, maxStretches/2)
	}
	w := stretch{e.Node, e.Epoch, prev.isr, prev.offset, e.Offset}
	k.stretches = append(k.stretches, w)
	for offset := max(w.from, w.to-int64(len(k.slots)), 0); offset < w.to; offset++ {
		if slot := &k.slots[offset&int64(len(k.slots)-1)]; slot.offset == offset && slot.acked != noMessage {
			if s, _, _, _ := o.find(slot.acked); s != nil {
				o.tooFew(k, slot, s)
			}
		}
	}
}

// tooFew judges a message that was acknowledged and delivered at one offset,
// whose epoch the delivery tells.
func (o *Online) tooFew(k *onlineKey, slot *onlineSlot, s *onlineSend) {
	if len(k.stretches) == 0 || s.acked != slot.offset || slot.seen != s.value || slot.epoch < 0 || slot.told&toldTooFew != 0 {
		return
	}
	for _, w := range k.stretches {
		if slot.epoch != w.epoch || slot.offset < w.from || slot.offset >= w.to {
			continue
		}
		slot.told |= toldTooFew
		o.found(ClauseInSync, Anomaly{
			Class: ClassTooFew, Key: k.name, Value: s.value, Offset: slot.offset, At: s.ret, Node: w.node, Event: EventShrink, Ops: []int64{s.id, slot.seenOp},
			Text: fmt.Sprintf("nothing is acknowledged while fewer than %d replicas are in sync: %s was acknowledged at offset %d of %s, and %s passed it in epoch %d while %s alone was in sync",
				o.hd.Contract.MinInSync, msgName(s.value), slot.offset, k.name, w.node, w.epoch, strings.Join(w.isr, " and ")),
		}, s)
		return
	}
}

// staircase remembers the highest offset that was shown up to each time: offsets
// and times both ascend.
type staircase struct {
	stairs []stair
	limit  int
}

type stair struct{ offset, at, op int64 }

// until returns how many stairs lie before t. Times are looked for from the end,
// where they mostly are.
func (c *staircase) until(t int64) int {
	high, step := len(c.stairs), 1
	for high > 0 && c.stairs[max(high-step, 0)].at >= t {
		high = max(high-step, 0)
		step *= 2
	}
	low := max(high-step, 0)
	i, _ := slices.BinarySearchFunc(c.stairs[low:high], t, func(s stair, t int64) int { return cmp.Compare(s.at, t) })
	return low + i
}

// add says that somebody who returned at was shown offset.
func (c *staircase) add(offset, at, op int64) {
	if at == history.Infinity {
		return
	}
	i := c.until(at + 1)
	if i > 0 && c.stairs[i-1].offset >= offset {
		return
	}
	// What came later and was not higher says nothing more.
	j := i
	for j < len(c.stairs) && c.stairs[j].offset <= offset {
		j++
	}
	if i == j && len(c.stairs) == c.limit {
		half := c.limit / 2
		c.stairs = slices.Delete(c.stairs, 0, half)
		i, j = max(i-half, 0), max(j-half, 0)
	}
	c.stairs = slices.Replace(c.stairs, i, j, stair{offset, at, op})
}

// before returns the highest offset that somebody was shown who returned before t.
func (c *staircase) before(t int64) (offset, op int64, ok bool) {
	i := c.until(t)
	if i == 0 {
		return 0, 0, false
	}
	return c.stairs[i-1].offset, c.stairs[i-1].op, true
}

// Confirms reports whether the judgement of the whole history convicts what was
// found while it was recorded, by the same clause and class (or by the clause that
// f.Or names).
func Confirms(r *Result, f Finding) bool {
	return slices.ContainsFunc(r.Checks, func(c Check) bool {
		return c.Promised && (c.Verdict == Invalid || c.Verdict == HarnessError) &&
			(c.Name == f.Clause && c.classes[f.Class] > 0 || f.Or != "" && c.Name == f.Or && c.Count > 0)
	})
}
