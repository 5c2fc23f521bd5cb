package checker

import (
	"cmp"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/faultline-mq/faultline/checker/history"
)

// view is a history prepared for the checkers: operations by partition, the
// drained logs resolved, every message found once.
type view struct {
	h      *history.History
	o      Options
	all    []*keyView // in the order of the header
	keys   []*keyView // those that are logs
	queues []*queueView
	txns   map[int64]*txnView
	byName map[string]*keyView
	ids    ids                    // the first send of every value
	reused map[history.Value]bool // values that more than one operation sent
	// Columns by index into Ops: an operation is large, so what is asked of all of them
	// is read once.
	traits []traits
	found  offsets      // in the drained leader's log, or NoOffset
	tolds  []uint32     // see told
	keyOf  []int32      // index into all; nil where there is one key
	called bool         // the sends of every producer are called in the order of ID
	faults []*faultView // in order of ID
	gaps   []string     // incarnations whose event numbering has a gap, in words
}

// keyView is one partition.
type keyView struct {
	index    int32
	name     string
	sends    []int32 // indices into Ops, in order of ID
	polls    []int32
	events   []*history.NodeEvent
	drain    *history.Drain // the last one, nil without any
	drains   int
	replicas []*replicaView // one per node, in the order of the drain
	leader   *replicaView   // whose log is the drained log; nil without one
	earlier  []*replicaView // leader's logs of earlier drains of the same run

	// decisive: what is absent from the leader's log is gone. complete: every
	// replica was proven to be caught up as well. why says what is missing.
	decisive bool
	complete bool
	why      string

	// odd holds every delivered record that does not stand in the drained
	// leader's log at its offset, in order of offset and value; all of them where
	// the drain is not decisive.
	odd     []oddRecord // of view.odd
	oddOnce sync.Once

	// plain: the drained log's offsets ascend, and each of its records is a sentinel or
	// the place of a message that was sent to the partition, once in this log.
	plain bool

	// ordered: in the drained log the promised messages of each producer stand in the
	// order of ID.
	ordered bool

	// steps are the polls at which a consumer may have gone back or passed something, in
	// the order of their IDs. Filled with odd.
	steps []pollStep

	deliveredOnce sync.Once
	delivered     map[placed]bool // what view.delivered looks up, built when first asked for
}

// replicaView is the drained log of one replica, with Same resolved.
type replicaView struct {
	*history.Replica
	log      []history.Record
	readable bool // Complete, and its records are here
	once     sync.Once
	values   map[history.Value]int64 // first offset of each, built when first asked for
}

// oddRecord is a delivery that the drained log does not show at its place.
type oddRecord struct {
	sighting
	first int32 // index into Ops of the first poll that returned it
	last  int64 // return of the last poll that returned it
	polls int
}

// pollStep is a poll and what came before it.
type pollStep struct {
	poll   int32 // index into Ops
	before int32 // the poll that gave its consumer something last, or a value below 0
	// smooth: all that it delivered stands in a decisive drained log just so, one record
	// after another.
	smooth bool
}

// What may stand in place of the poll before.
const (
	noPoll      = -1 // there was none, or the consumer went elsewhere on purpose since
	earlierPoll = -2 // it is in an earlier stretch of the polls
)

type sighting struct {
	offset  int64
	value   history.Value
	payload history.Payload
}

func newView(h *history.History, o Options) (*view, error) {
	v := &view{
		h: h, o: o,
		byName: make(map[string]*keyView, len(h.Header.Keys)),
		reused: map[history.Value]bool{},
	}
	for i, name := range h.Header.Keys {
		k := &keyView{index: int32(i), name: name}
		if v.byName[name] != nil {
			return nil, fmt.Errorf("%w: key %q stands twice in the header", ErrMalformed, name)
		}
		v.all = append(v.all, k)
		v.byName[name] = k
	}
	if err := v.readHeader(); err != nil {
		return nil, err
	}
	if err := v.readOps(); err != nil {
		return nil, err
	}
	for i := range h.Events {
		if k := v.byName[h.Events[i].Key]; k != nil {
			k.events = append(k.events, &h.Events[i])
		}
	}
	v.faults = faultViews(h)
	v.gaps = eventGaps(h.Events)
	v.readDrain()
	for _, k := range v.keys {
		v.place(k)
	}
	v.readQueues()
	return v, nil
}

// traits are what one byte tells of an operation.
type traits uint8

const (
	isSend   traits = 1 << iota
	isPoll          // of a log
	promised        // a send whose acknowledgement promises something
	silent          // a send that asked for no acknowledgement, and was written
	refused         // a send that failed for certain
)

// part is what one stretch of the operations holds.
type part struct {
	from, to int
	values   counting
	sends    []int // by partition: how many, and then where the next one is listed
	polls    []int
	txns     bool            // some are part of a transaction
	reused   []history.Value // that an earlier operation sent
	err      error
}

// stretches cuts n things into as many stretches as parts and calls f for all of them
// at once.
func stretches(n, parts int, f func(part, from, to int)) {
	var running sync.WaitGroup
	for p := range parts {
		running.Go(func() { f(p, n*p/parts, n*(p+1)/parts) })
	}
	running.Wait()
}

// readOps sorts operations by partition and kind, and enters every value. It reads
// them once, a stretch on each processor; all else goes by the columns kept of them.
func (v *view) readOps() error {
	n := len(v.h.Ops)
	v.traits, v.found, v.tolds = make([]traits, n), newOffsets(n), make([]uint32, n)
	senders := make([]uint8, n)
	if len(v.all) > 1 {
		v.keyOf = make([]int32, n)
	}
	parts := make([]part, runtime.GOMAXPROCS(0))
	stretches(n, len(parts), func(p, from, to int) { parts[p] = v.readPart(from, to, senders) })
	var all counting
	txns := false
	for p := range parts {
		if parts[p].err != nil {
			return parts[p].err
		}
		all.merge(&parts[p].values)
		txns = txns || parts[p].txns
	}
	v.called = !all.unordered
	for i, k := range v.all {
		sends, polls := 0, 0
		for p := range parts {
			sends, parts[p].sends[i] = sends+parts[p].sends[i], sends
			polls, parts[p].polls[i] = polls+parts[p].polls[i], polls
		}
		k.sends, k.polls = make([]int32, sends), make([]int32, polls)
	}
	v.ids = all.table()
	if v.ids.apart(parts) {
		stretches(len(parts), len(parts), func(p, _, _ int) { v.enterPart(&parts[p], senders) })
	} else {
		for p := range parts {
			v.enterPart(&parts[p], senders)
		}
	}
	for p := range parts {
		for _, value := range parts[p].reused {
			v.reused[value] = true
		}
	}
	if txns {
		v.readTransactions()
	}
	return nil
}

// readPart takes the operations from one index to another into the columns. Until
// they are entered, the values of sends stand in senders and found, as far as they fit.
func (v *view) readPart(from, to int, senders []uint8) part {
	p := part{from: from, to: to, sends: make([]int, len(v.all)), polls: make([]int, len(v.all))}
	for i := from; i < to; i++ {
		op := &v.h.Ops[i]
		if p.err = v.valid(i, op); p.err != nil {
			return p
		}
		p.txns = p.txns || op.Txn != 0
		if v.keyOf != nil {
			v.keyOf[i] = op.Key
		}
		switch op.Kind {
		case history.Send:
			p.sends[op.Key]++
			p.values.add(op.Value, op.Call)
			v.traits[i] = isSend
			senders[i], v.found.short[i] = uint8(min(op.Value.Producer(), math.MaxUint8)), uint32(min(op.Value.Seq(), math.MaxUint32))
			switch {
			case acked(op):
				v.traits[i] |= promised
				v.tolds[i] = shorten(op.Offset)
			case op.Outcome == history.OK:
				v.traits[i] |= silent
			case op.Outcome == history.Failed:
				v.traits[i] |= refused
			}
		case history.Poll:
			p.polls[op.Key]++
			v.traits[i] = isPoll
		}
	}
	return p
}

// long stands for an offset that 32 bits do not hold.
const long = math.MaxUint32

// shorten gives an offset, or NoOffset, 32 bits: one more than it is, or long.
func shorten(offset int64) uint32 {
	if n := uint64(offset + 1); n < long {
		return uint32(n)
	}
	return long
}

// offsets is a column of offsets by index into Ops, at first NoOffset. Touching memory
// for the first time is most of what a column costs, and few offsets need 64 bits.
type offsets struct {
	short []uint32 // as shorten gives them
	far   map[int32]int64
}

func newOffsets(n int) offsets { return offsets{make([]uint32, n), map[int32]int64{}} }

func (o *offsets) at(i int32) int64 {
	if s := o.short[i]; s != long {
		return int64(s) - 1
	}
	return o.far[i]
}

// set may be called from several goroutines for different operations if the offset is
// not long.
func (o *offsets) set(i int32, offset int64) {
	if o.short[i] = shorten(offset); o.short[i] == long {
		o.far[i] = offset
	}
}

// told is the offset at which the send with index i was acknowledged, or NoOffset.
func (v *view) told(i int32) int64 {
	if s := v.tolds[i]; s != long {
		return int64(s) - 1
	}
	return v.h.Ops[i].Offset
}

// key is the index of the key of the operation with index i.
func (v *view) key(i int32) int32 {
	if v.keyOf == nil {
		return 0
	}
	return v.keyOf[i]
}

// enterPart enters the values of a stretch of operations, and fills the lists of sends
// and polls of each partition.
func (v *view) enterPart(p *part, senders []uint8) {
	for i := int32(p.from); i < int32(p.to); i++ {
		k := v.all[v.key(i)]
		if v.traits[i]&isSend != 0 {
			k.sends[p.sends[k.index]] = i
			p.sends[k.index]++
			value := history.MakeValue(int32(senders[i]), int64(v.found.short[i]))
			if senders[i] == math.MaxUint8 || v.found.short[i] == math.MaxUint32 {
				value = v.h.Ops[i].Value
			}
			if !v.ids.enter(value, i) {
				p.reused = append(p.reused, value)
			}
		}
		if v.traits[i]&isPoll != 0 {
			k.polls[p.polls[k.index]] = i
			p.polls[k.index]++
		}
		v.found.short[i] = 0
	}
}

func (v *view) valid(i int, op *history.Op) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: operation %d %s", ErrMalformed, op.ID, fmt.Sprintf(format, args...))
	}
	hd := &v.h.Header
	switch {
	case op.Key < 0 || int(op.Key) >= len(hd.Keys):
		return bad("names key %d of %d", op.Key, len(hd.Keys))
	case !op.Kind.Known():
		return bad("has the unknown kind %d", op.Kind)
	case op.Outcome > history.Indeterminate:
		return bad("has the unknown outcome %d", op.Outcome)
	case op.Node != history.NoNode && (op.Node < 0 || int(op.Node) >= len(hd.Nodes)):
		return bad("names node %d of %d", op.Node, len(hd.Nodes))
	case op.Client < 0 || int(op.Client) >= len(hd.Clients):
		return bad("names client %d of %d", op.Client, len(hd.Clients))
	case op.Return < op.Call:
		return bad("returned at %d, before it was called at %d", op.Return, op.Call)
	case i > 0 && op.ID <= v.h.Ops[i-1].ID:
		return bad("follows operation %d: operations must be in order of ID", v.h.Ops[i-1].ID)
	case op.Outcome == history.OK && op.Kind == history.Send && op.Offset < history.NoOffset:
		return bad("was acknowledged at offset %d", op.Offset)
	}
	return nil
}

// readDrain attaches the drained logs to their partitions and decides what each
// drain proves. It trusts the harness's own Complete only together with the
// replicas' evidence.
func (v *view) readDrain() {
	h := v.h
	for i := range h.Drains {
		if k := v.byName[h.Drains[i].Key]; k != nil {
			k.drain = &h.Drains[i]
			k.drains++
		}
	}
	for i := range h.Replicas {
		r := &replicaView{Replica: &h.Replicas[i]}
		k := v.byName[r.Key]
		if k == nil {
			continue
		}
		r.log, r.readable = r.Records, r.Complete
		if r.Same != "" {
			r.log, r.readable = nil, false
			for _, other := range slices.Backward(k.replicas) {
				if other.Node == r.Same && other.Digest == r.Digest {
					r.log, r.readable = other.log, r.Complete && other.readable
				}
			}
		}
		if r.Same == "" && !ascends(r.log) {
			r.log = slices.Clone(r.log)
			slices.SortStableFunc(r.log, func(a, b history.Record) int { return cmp.Compare(a.Offset, b.Offset) })
		}
		if j := slices.IndexFunc(k.replicas, func(o *replicaView) bool { return o.Node == r.Node }); j >= 0 {
			if k.replicas[j].Leader {
				k.earlier = append(k.earlier, k.replicas[j])
			}
			k.replicas[j] = r
		} else {
			k.replicas = append(k.replicas, r)
		}
	}
	for _, k := range v.keys {
		v.weigh(k)
	}
	for _, q := range v.queues {
		q.weigh()
	}
}

// ascends reports whether the offsets of a log never go back.
func ascends(log []history.Record) bool {
	back := make([]bool, runtime.GOMAXPROCS(0))
	stretches(len(log), len(back), func(part, from, to int) {
		for i := max(from, 1); i < to; i++ {
			if log[i].Offset < log[i-1].Offset {
				back[part] = true
				return
			}
		}
	})
	return !slices.Contains(back, true)
}

// weigh decides what the drain of k proves.
func (v *view) weigh(k *keyView) {
	var leaders []string
	for _, r := range k.replicas {
		if r.Leader || len(k.replicas) == 1 {
			k.leader = r
			leaders = append(leaders, r.Node)
		}
	}
	d := k.drain
	switch {
	case d == nil:
		k.why = "it was not drained"
	case d.Missing:
		k.decisive, k.complete = true, true
		k.leader, k.replicas = nil, nil
	case k.leader == nil:
		k.why = "no leader was among the drained replicas"
	case len(leaders) > 1:
		k.why = strings.Join(leaders, " and ") + " were all drained as the leader"
	case !k.leader.readable:
		k.why = orElse(k.leader.Reason, orElse(d.Reason, "the log of the leader "+k.leader.Node+" was not read up to the sentinel"))
	case k.leader.Sentinel == history.NoOffset:
		k.why = "no sentinel was acknowledged"
	case !d.InSync:
		k.why = orElse(d.Reason, "not all replicas were in sync")
	case !d.Quiet:
		k.why = orElse(d.Reason, "workload connections were still open")
	default:
		k.decisive = true
	}
	if !k.decisive || d.Missing {
		return
	}
	for _, r := range k.replicas {
		switch {
		case !r.readable:
			k.why = "the log of " + r.Node + " did not reach the sentinel: " + orElse(r.Reason, "no reason was recorded")
			return
		case r.Epoch != k.leader.Epoch:
			k.why = fmt.Sprintf("%s was drained in epoch %d and %s in epoch %d", k.leader.Node, k.leader.Epoch, r.Node, r.Epoch)
			return
		}
	}
	// Replicas that all were read and differ are a divergence, which has its own
	// clause; the harness says "not complete" there as well.
	if !d.Complete && !k.differ() {
		k.why = orElse(d.Reason, "the harness could not prove it")
		return
	}
	k.complete = true
}

// differ reports whether readable replicas of k show different digests.
func (k *keyView) differ() bool {
	for _, r := range k.replicas {
		if r.readable && r.Digest != k.leader.Digest {
			return true
		}
	}
	return false
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

const drainRemedy = "give the drain more time (or the recovery phase, so that all replicas are in sync before it), and keep retention off"

// needDrain makes c undecided for each partition whose drain is not complete.
func (v *view) needDrain(c *Check) {
	for _, k := range v.keys {
		if !k.complete {
			c.undecided(fmt.Sprintf("the drain of partition %s was not proven complete: %s", k.name, k.why), drainRemedy)
		}
	}
}

// place finds every sent value in the drained leader's log. Where offsets are
// local to a node, any replica's log counts.
func (v *view) place(k *keyView) {
	logs := v.authoritative(k)
	k.plain, k.ordered = len(logs) == 1, len(logs) == 1 && len(v.reused) == 0
	for _, r := range logs {
		v.placeLog(k, r.log)
		if len(v.reused) == 0 {
			continue
		}
		for _, i := range k.sends {
			if value := v.h.Ops[i].Value; v.reused[value] && v.found.at(i) == history.NoOffset {
				if offset, ok := r.find(value); ok {
					v.found.set(i, offset)
				}
			}
		}
	}
}

// placing is one stretch of a log whose records are looked up beside others. What it
// finds of the operations from one index to another is its own to note; the rest it
// leaves.
type placing struct {
	from, to int32
	plain    bool
	ordered  bool
	places   []struct{ first, last int32 } // of the promised messages by producer, indices into Ops + 1
	left     []int                         // indices into the log
}

// placeLog notes where the log has what was sent to k, a stretch of it on each processor.
func (v *view) placeLog(k *keyView, log []history.Record) {
	parts := v.placings(k, log)
	stretches(len(log), len(parts), func(p, from, to int) { v.placePart(k, log, from, to, &parts[p]) })
	var last []int32
	for p := range parts {
		k.plain, k.ordered = k.plain && parts[p].plain, k.ordered && parts[p].ordered
		for producer, of := range parts[p].places {
			if producer >= len(last) {
				last = append(last, make([]int32, producer+1-len(last))...)
			}
			if of.first != 0 {
				k.ordered = k.ordered && of.first > last[producer]
				last[producer] = of.last
			}
		}
		for _, i := range parts[p].left {
			op, _ := v.ids.find(log[i].Value)
			at := v.found.at(op)
			if at == history.NoOffset {
				v.found.set(op, log[i].Offset)
				continue
			}
			k.plain = false
			v.found.set(op, min(at, log[i].Offset)) // the first place, as offsets ascend
		}
	}
}

// placings cuts the operations where the log is cut, so that hardly a stretch of it
// holds what is another's: messages mostly stand in the order of their sends. Where that
// cannot be, or there are logs before, one stretch is all.
func (v *view) placings(k *keyView, log []history.Record) []placing {
	n := runtime.GOMAXPROCS(0)
	parts := make([]placing, 1, n)
	for p := 1; p < n && k.plain; p++ {
		cut := len(log) * p / n
		if cut == len(log) {
			break
		}
		op, sent := v.ids.find(log[cut].Value)
		if !sent || op <= parts[p-1].from {
			parts = parts[:1]
			break
		}
		parts[p-1].to = op
		parts = append(parts, placing{from: op})
	}
	if len(parts) < n {
		parts = parts[:1]
	}
	parts[len(parts)-1].to = int32(len(v.h.Ops))
	return parts
}

// placePart looks up one stretch of the log.
func (v *view) placePart(k *keyView, log []history.Record, from, to int, p *placing) {
	p.plain, p.ordered = true, true
	for i := from; i < to; i++ {
		rec := &log[i]
		p.plain = p.plain && (i == 0 || log[i-1].Offset < rec.Offset)
		if rec.Payload == history.Sentinel {
			continue
		}
		op, sent := v.ids.find(rec.Value)
		if rec.Payload != history.Good || !sent || v.key(op) != k.index {
			p.plain = false
			continue
		}
		if v.traits[op]&promised != 0 {
			p.follow(rec.Value.Producer(), op)
		}
		switch {
		case op < p.from || op >= p.to || shorten(rec.Offset) == long:
			p.left = append(p.left, i)
		case v.found.at(op) != history.NoOffset:
			p.plain = false
		default:
			v.found.set(op, rec.Offset)
		}
	}
}

// follow notes that a message of a producer comes next.
func (p *placing) follow(producer, op int32) {
	if producer >= maxDenseProducers {
		p.ordered = false
		return
	}
	if n := int(producer) + 1 - len(p.places); n > 0 {
		p.places = append(p.places, make([]struct{ first, last int32 }, n)...)
	}
	of := &p.places[producer]
	if of.first == 0 {
		of.first = op + 1
	}
	p.ordered = p.ordered && op+1 > of.last
	of.last = op + 1
}

// authoritative returns the logs that say what a partition holds: the drained
// leader's, or every replica's where offsets are local to a node.
func (v *view) authoritative(k *keyView) []*replicaView {
	switch {
	case k.leader == nil:
		return nil
	case v.h.Header.Contract.Offsets != "per-node":
		return []*replicaView{k.leader}
	}
	logs := []*replicaView{k.leader}
	for _, r := range k.replicas {
		if r != k.leader {
			logs = append(logs, r)
		}
	}
	return logs
}

// odd returns the deliveries that the drained log does not show.
func (v *view) odd(k *keyView) []oddRecord {
	k.oddOnce.Do(func() { v.sift(k) })
	return k.odd
}

// sift gathers the deliveries that the drained log does not show.
func (v *view) sift(k *keyView) {
	var log []history.Record
	// What a drain did not prove is no answer to what was delivered: two deliveries
	// are compared with each other then.
	if k.decisive && k.leader != nil {
		log = k.leader.log
	}
	parts := make([]sifted, runtime.GOMAXPROCS(0))
	stretches(len(k.polls), len(parts), func(part, from, to int) { parts[part] = v.siftPolls(log, k.polls[from:to]) })
	odd := map[sighting]*oddRecord{}
	last := slices.Repeat([]int32{noPoll}, len(v.h.Header.Clients))
	for _, part := range parts {
		for _, s := range part.steps {
			if s.before == earlierPoll {
				s.before = last[v.h.Ops[s.poll].Client]
			}
			k.steps = append(k.steps, s)
		}
		for client := range part.readers {
			if poll := part.readers[client].poll; poll != earlierPoll {
				last[client] = poll
			}
		}
		for s, o := range part.odd {
			if all := odd[s]; all != nil {
				all.last, all.polls = max(all.last, o.last), all.polls+o.polls
			} else {
				odd[s] = o
			}
		}
	}
	for _, o := range odd {
		k.odd = append(k.odd, *o)
	}
	slices.SortFunc(k.odd, func(a, b oddRecord) int {
		return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.value, b.value), cmp.Compare(a.payload, b.payload))
	})
}

// sifted is what one stretch of the polls of a partition tells.
type sifted struct {
	odd     map[sighting]*oddRecord
	steps   []pollStep
	readers []reader // by client
}

// reader is how far a consumer has come.
type reader struct {
	place int   // index into the log behind what it was given last
	poll  int32 // that gave it something last: index into Ops, noPoll or earlierPoll
	epoch int32 // of this poll
	last  int64 // offset of the last record of this poll
}

// siftPolls looks at what some polls delivered, and a log shows or not. A consumer mostly
// reads on where it was.
func (v *view) siftPolls(log []history.Record, polls []int32) sifted {
	var odd map[sighting]*oddRecord
	var steps []pollStep
	readers := slices.Repeat([]reader{{poll: earlierPoll}}, len(v.h.Header.Clients))
	for _, i := range polls {
		op := &v.h.Ops[i]
		r := &readers[op.Client]
		if len(op.Records) == 0 {
			if op.Reset {
				r.poll = noPoll
			}
			continue
		}
		n, ok := searchFrom(log, r.place, op.Records[0].Offset)
		smooth := ok && stand(log[n:], op.Records)
		// Where nothing stands between the last record and the first of a smooth poll, and
		// the one binds the other, there is no step to judge.
		if !smooth || r.poll < 0 || op.Reset || r.epoch != op.Epoch || n == 0 || log[n-1].Offset != r.last {
			steps = append(steps, pollStep{i, r.poll, smooth})
		}
		r.poll, r.epoch, r.last = i, op.Epoch, op.Records[len(op.Records)-1].Offset
		if smooth {
			r.place = n + len(op.Records)
			continue
		}
		for j := range op.Records {
			rec := &op.Records[j]
			if rec.Payload == history.Sentinel {
				continue
			}
			if n, ok := searchFrom(log, r.place, rec.Offset); ok {
				r.place = n + 1
				if log[n].Value == rec.Value && log[n].Payload == rec.Payload {
					continue
				}
			}
			if odd == nil {
				odd = map[sighting]*oddRecord{}
			}
			s := sighting{rec.Offset, rec.Value, rec.Payload}
			if rec.Payload != history.Good {
				s.value = 0 // the value of such a record means nothing
			}
			o := odd[s]
			if o == nil {
				o = &oddRecord{sighting: s, first: i}
				odd[s] = o
			}
			o.polls++
			if op.Return != history.Infinity {
				o.last = max(o.last, op.Return)
			}
		}
	}
	return sifted{odd, steps, readers}
}

// stand reports whether a log begins with records, each behind the last one.
func stand(log, records []history.Record) bool {
	if len(records) > len(log) {
		return false
	}
	for j := range records {
		a, b := &log[j], &records[j]
		if a.Offset != b.Offset || a.Value != b.Value || a.Payload != b.Payload || j > 0 && a.Offset <= log[j-1].Offset {
			return false
		}
	}
	return true
}

// at returns the record at offset in the drained leader's log.
func (k *keyView) at(offset int64) (history.Record, bool) {
	if k.leader == nil {
		return history.Record{}, false
	}
	i, ok := search(k.leader.log, offset)
	if !ok {
		return history.Record{}, false
	}
	return k.leader.log[i], true
}

// search returns the index of the first record at or after offset, and whether
// it stands exactly there. Dense logs, the common case, are indexed directly.
func search(log []history.Record, offset int64) (int, bool) {
	if len(log) == 0 || offset < log[0].Offset {
		return 0, false
	}
	if d := offset - log[0].Offset; d < int64(len(log)) && log[d].Offset == offset &&
		(d == 0 || log[d-1].Offset < offset) {
		return int(d), true
	}
	return slices.BinarySearchFunc(log, offset, func(r history.Record, o int64) int { return cmp.Compare(r.Offset, o) })
}

// searchFrom is search, where the record probably is the one at index place or close
// behind it: as far as its offset is, or nearer, by the gaps in between.
func searchFrom(log []history.Record, place int, offset int64) (int, bool) {
	const gaps = 8
	if place > 0 && place < len(log) && log[place].Offset <= offset && offset-log[place].Offset < int64(len(log)-place) {
		n := place + int(offset-log[place].Offset)
		for last := max(place, n-gaps); n > last && log[n].Offset > offset; {
			n--
		}
		if log[n].Offset == offset && log[n-1].Offset < offset {
			return n, true
		}
	}
	return search(log, offset)
}

// find returns the first offset at which r's log has value.
func (r *replicaView) find(value history.Value) (int64, bool) {
	r.once.Do(func() {
		r.values = make(map[history.Value]int64, len(r.log))
		for i := range r.log {
			rec := &r.log[i]
			if _, again := r.values[rec.Value]; rec.Payload == history.Good && !again {
				r.values[rec.Value] = rec.Offset
			}
		}
	})
	offset, ok := r.values[value]
	return offset, ok
}

// holds reports whether r's log has value at any offset.
func (r *replicaView) holds(value history.Value) bool {
	_, ok := r.find(value)
	return ok
}

// acked reports whether op is a send whose acknowledgement promises something.
func acked(op *history.Op) bool {
	return op.Kind == history.Send && op.Outcome == history.OK && op.Acked
}

func (v *view) node(i int16) string {
	if i == history.NoNode {
		return ""
	}
	return v.h.Header.Nodes[i]
}

// sender names the client that sent value, or nobody.
func (v *view) sender(value history.Value) string {
	if i, ok := v.ids.find(value); ok {
		return v.producer(&v.h.Ops[i])
	}
	return ""
}

func (v *view) producer(op *history.Op) string { return v.h.Header.Clients[op.Client].Name }

// phase returns the bounds of the named phase; ok is false where the run never
// came to it. A phase ends where the next begins.
func (v *view) phase(name string) (from, to int64, ok bool) {
	for i, p := range v.h.Phases {
		if p.Name != name {
			continue
		}
		to = history.Infinity
		if i+1 < len(v.h.Phases) {
			to = v.h.Phases[i+1].At
		}
		return p.At, to, true
	}
	return 0, 0, false
}
