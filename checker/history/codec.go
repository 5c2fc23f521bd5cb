package history

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// The file is the magic, then chunks. A chunk is a header of headerSize bytes,
//
//	marker, chunk number (from 0), stored length, raw length, CRC-32C of the
//	stored body, CRC-32C of the twenty bytes before: six little-endian uint32
//
// and a body: raw where both lengths are equal, one zstd frame where the raw
// length is larger. A raw body is the number of operations invoked before it
// (uvarint) and then entries. An entry's first byte holds its tag in the low
// three bits and flags in the others.
//
// Everything is coded as a difference to a state that begins anew with every
// chunk. A completion names its operation by how many were invoked since, and
// holds what changed since the invocation.
const (
	magic      = "FLHIST\x00" // followed by one byte, Version
	marker     = 0x4b434c46   // "FLCK"
	headerSize = 24

	chunkTarget = 64 << 10 // a chunk is cut once its raw body is this long
	maxEntry    = 2 << 20  // longest entry; longer lists of records are split
	maxChunk    = 4 << 20  // longest raw or stored body that a reader accepts
	maxBlock    = 32 << 10 // records in one block
	maxSlots    = 64 << 10 // indexes beyond it are coded without state
)

const (
	tagInvoke   = 1
	tagComplete = 2
	tagRecords  = 3 // records that belong in front of those of the next entry
	tagEvent    = 4
	tagClose    = 5

	tagBits = 3
	tagMask = 1<<tagBits - 1
)

// Flags of an invocation, above its tag.
const (
	newKey = 1 << (tagBits + iota)
	newProcess
	newKind
	newMore // a second mask follows the first
)

// Flags of a completion, above its tag; its outcome is in the two lowest. Where
// that is Pending, a byte between head and mask holds a second mask, and the outcome
// above it.
const (
	outcomeShift = tagBits
	outcomeMask  = 3
	noReturn     = 1 << (tagBits + 2) // Return is Infinity
	hasCode      = 1 << (tagBits + 3)
	hasRecords   = 1 << (tagBits + 4)
)

// Bits of the second byte of invocations and completions: which known fields
// differ from what was predicted.
const (
	setNode = 1 << iota
	setValue
	setOffset
	setFrom
	setHigh
	setEpoch
	setAcked
	setReset
)

// Bits of the second mask, for what few operations have.
const (
	setDue = 1 << iota
	setLock
	setOf
	setTxn
	setCommitted

	moreBits = iota
)

// Control byte of a record: its payload in the two lowest bits.
const (
	payloadMask = 3
	newOffset   = 1 << (iota + 1) // not the successor of the record before
	newEpoch
	newProducer
	newSeq      // not the successor of this producer's last
	newDelivery // delivered more or less often than the record before
)

// kinds of events, in the byte after tagEvent.
const (
	evHeader = iota
	evPhase
	evFault
	evNode
	evStall
	evReplica
	evDrain
	evNote
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// table holds a state per small index that is forgotten when gen moves on.
type table[T any] struct {
	slots []slot[T]
	spare T
}

type slot[T any] struct {
	gen   uint64
	state T
}

func (t *table[T]) at(i int64, gen uint64) *T {
	if i < 0 || i >= maxSlots {
		var zero T
		t.spare = zero
		return &t.spare
	}
	for int64(len(t.slots)) <= i {
		t.slots = append(t.slots, slot[T]{})
	}
	s := &t.slots[i]
	if s.gen != gen {
		*s = slot[T]{gen: gen}
	}
	return &s.state
}

// known are the fields of an operation that may be known at the call and may
// be known better at the return.
type known struct {
	value              Value
	offset, from, high int64
	epoch              int32
	node               int16
	acked, reset       bool
	more
}

// more are those that few operations have.
type more struct {
	due, lock, of, txn int64
	committed          bool
}

func knownOf(op *Op) known {
	return known{
		op.Value, op.Offset, op.From, op.High, op.Epoch, op.Node, op.Acked, op.Reset,
		more{op.Due, op.Lock, op.Of, op.Txn, op.Committed},
	}
}

func (k known) into(op *Op) {
	op.Value, op.Offset, op.From, op.High = k.value, k.offset, k.from, k.high
	op.Epoch, op.Node, op.Acked, op.Reset = k.epoch, k.node, k.acked, k.reset
	op.Due, op.Lock, op.Of, op.Txn, op.Committed = k.due, k.lock, k.of, k.txn, k.committed
}

// client is the last invocation of one client within a chunk.
type client struct {
	known
	process int64
	sent    Value // its last value that was not zero
	key     int32
	kind    Kind
	// Of its last Receive.
	received  int64
	lock      int64
	committed bool
}

// predict gives the fields that the next invocation of kind, at call, probably has.
func (c *client) predict(kind Kind, call int64) known {
	k := c.known
	k.value, k.of = 0, 0
	if k.due != 0 {
		k.due = call
	}
	switch {
	case kind == Send:
		k.value = c.sent + 1
	case kind == Receive:
		k.lock, k.committed = c.lock, c.committed
	case kind.Settles():
		k.value, k.of, k.lock, k.committed = c.sent+1, c.received, 0, false
	}
	return k
}

func (c *client) remember(op *Op) {
	c.known, c.process, c.key, c.kind = knownOf(op), op.Process, op.Key, op.Kind
	if op.Value != 0 {
		c.sent = op.Value
	}
	if op.Kind == Receive {
		c.received, c.lock, c.committed = op.ID, op.Lock, op.Committed
	}
}

// state is what the coding of one entry leaves to the next. Writer and reader
// go through the same states.
type state struct {
	gen       uint64
	now       int64 // last time
	clients   table[client]
	keys      table[int64] // last offset seen
	producers table[int64] // last sequence number seen
	record    Record       // last record, without its Value
	producer  int32        // of the last record
}

func (s *state) reset() {
	s.gen++
	s.now, s.record, s.producer = 0, Record{}, 0
}

func (s *state) see(key *int64, offset int64) {
	if offset >= 0 {
		*key = offset
	}
}

// encoder appends entries to buf.
type encoder struct {
	state
	buf   []byte
	codes map[string]uint64
}

// begin starts a chunk in buf, before which next operations were invoked.
func (e *encoder) begin(buf []byte, next int64) {
	e.reset()
	clear(e.codes)
	e.buf = binary.AppendUvarint(buf[:0], uint64(next))
}

func (e *encoder) signed(v int64)    { e.buf = binary.AppendVarint(e.buf, v) }
func (e *encoder) unsigned(v uint64) { e.buf = binary.AppendUvarint(e.buf, v) }

func (e *encoder) bytes(b []byte) {
	e.unsigned(uint64(len(b)))
	e.buf = append(e.buf, b...)
}

func (e *encoder) time(t int64) {
	e.signed(t - e.now)
	e.now = t
}

func (e *encoder) invoke(op *Op) {
	c := e.clients.at(int64(op.Client), e.gen)
	head := byte(tagInvoke)
	if op.Key != c.key {
		head |= newKey
	}
	if op.Process != c.process {
		head |= newProcess
	}
	if op.Kind != c.kind {
		head |= newKind
	}
	k, base := knownOf(op), c.predict(op.Kind, op.Call)
	rest := k.differs(base.more)
	if rest != 0 {
		head |= newMore
	}
	e.buf = append(e.buf, head, 0)
	mask := len(e.buf) - 1
	if rest != 0 {
		e.buf = append(e.buf, rest)
	}
	e.signed(int64(op.Client))
	e.time(op.Call)
	if head&newKey != 0 {
		e.signed(int64(op.Key))
	}
	if head&newProcess != 0 {
		e.signed(op.Process - c.process)
	}
	if head&newKind != 0 {
		e.buf = append(e.buf, byte(op.Kind))
	}
	e.known(mask, k, base, op.Key)
	e.more(rest, k.more, base.more)
	c.remember(op)
}

// differs is the mask of what differs from base.
func (m *more) differs(base more) byte {
	if *m == base {
		return 0
	}
	var mask byte
	for i, f := range m.numbers() {
		if *f != *base.numbers()[i] {
			mask |= 1 << i
		}
	}
	if m.committed != base.committed {
		mask |= setCommitted
	}
	return mask
}

// numbers are those fields that are, in the order of their bits.
func (m *more) numbers() [4]*int64 { return [...]*int64{&m.due, &m.lock, &m.of, &m.txn} }

// more appends what mask says differs from base.
func (e *encoder) more(mask byte, m, base more) {
	if mask == 0 {
		return
	}
	for i, f := range m.numbers() {
		if mask&(1<<i) != 0 {
			e.signed(*f - *base.numbers()[i])
		}
	}
}

// known appends the fields of k that differ from base, and notes at mask which.
func (e *encoder) known(mask int, k, base known, key int32) {
	if k == base {
		return
	}
	last := e.keys.at(int64(key), e.gen)
	var m byte
	if k.node != base.node {
		m |= setNode
		e.signed(int64(k.node))
	}
	if k.value != base.value {
		m |= setValue
		e.signed(int64(k.value - base.value))
	}
	if k.offset != base.offset {
		m |= setOffset
		e.offset(last, k.offset)
	}
	if k.from != base.from {
		m |= setFrom
		e.offset(last, k.from)
	}
	if k.high != base.high {
		m |= setHigh
		e.offset(last, k.high)
	}
	if k.epoch != base.epoch {
		m |= setEpoch
		e.signed(int64(k.epoch) - int64(base.epoch))
	}
	if k.acked != base.acked {
		m |= setAcked
	}
	if k.reset != base.reset {
		m |= setReset
	}
	e.buf[mask] = m
}

// offset appends one as a difference to the last of its key.
func (e *encoder) offset(last *int64, v int64) {
	e.signed(v - *last)
	e.see(last, v)
}

// complete appends the completion of op, invoked as base, when next operations
// have been invoked. Its records were split by the caller.
func (e *encoder) complete(op *Op, records []Record, base known, next int64) {
	k := knownOf(op)
	head, rest := byte(tagComplete), k.differs(base.more)
	if rest == 0 {
		head |= byte(op.Outcome) << outcomeShift
	}
	if op.Return == Infinity {
		head |= noReturn
	}
	if op.Code != "" {
		head |= hasCode
	}
	if len(records) > 0 {
		head |= hasRecords
	}
	e.buf = append(e.buf, head)
	if rest != 0 {
		e.buf = append(e.buf, byte(op.Outcome)<<moreBits|rest)
	}
	e.buf = append(e.buf, 0)
	mask := len(e.buf) - 1
	e.unsigned(uint64(next - 1 - op.ID))
	if head&noReturn == 0 {
		e.time(op.Return)
	}
	if head&hasCode != 0 {
		e.code(op.Code)
	}
	e.known(mask, k, base, op.Key)
	e.more(rest, k.more, base.more)
	if head&hasRecords != 0 {
		e.records(records)
	}
}

// code appends a code once in full and then by its number, from 1.
func (e *encoder) code(s string) {
	n, seen := e.codes[s]
	e.unsigned(n)
	if !seen {
		if e.codes == nil {
			e.codes = map[string]uint64{}
		}
		e.codes[s] = uint64(len(e.codes) + 1)
		e.bytes([]byte(s))
	}
}

func (e *encoder) records(records []Record) {
	e.unsigned(uint64(len(records)))
	for i := range records {
		r := &records[i]
		ctl := byte(r.Payload)
		at := len(e.buf)
		e.buf = append(e.buf, 0)
		if d := r.Offset - e.record.next(); d != 0 {
			ctl |= newOffset
			e.signed(d)
		}
		if r.Epoch != e.record.Epoch {
			ctl |= newEpoch
			e.signed(int64(r.Epoch) - int64(e.record.Epoch))
		}
		if p := r.Value.Producer(); p != e.producer {
			ctl |= newProducer
			e.unsigned(uint64(p))
			e.producer = p
		}
		last := e.producers.at(int64(e.producer), e.gen)
		if d := r.Value.Seq() - *last - 1; d != 0 {
			ctl |= newSeq
			e.signed(d)
		}
		*last = r.Value.Seq()
		if r.Delivery != e.record.Delivery {
			ctl |= newDelivery
			e.signed(int64(r.Delivery) - int64(e.record.Delivery))
		}
		e.buf[at] = ctl
		e.record = *r
	}
}

// next is the offset that the record behind r probably has.
func (r *Record) next() int64 {
	if r.Offset == NoOffset {
		return NoOffset
	}
	return r.Offset + 1
}

// split returns the records that fit into their own entry, and the blocks that
// have to go before.
func split(records []Record) (last []Record, before [][]Record) {
	for len(records) > maxBlock {
		before = append(before, records[:maxBlock])
		records = records[maxBlock:]
	}
	return records, before
}

// event appends an event of kind, with the records that did not go before it.
func (e *encoder) event(kind byte, body []byte, records []Record) {
	e.buf = append(e.buf, tagEvent, kind)
	e.bytes(body)
	if kind == evReplica {
		e.records(records)
	}
}

// marshal returns the kind and the JSON of an event.
func marshal(ev any) (kind byte, body []byte, records []Record, err error) {
	switch v := ev.(type) {
	case Header, *Header:
		kind = evHeader
	case Phase, *Phase:
		kind = evPhase
	case Fault, *Fault:
		kind = evFault
	case NodeEvent, *NodeEvent:
		kind = evNode
	case Stall, *Stall:
		kind = evStall
	case Replica:
		kind, records = evReplica, v.Records
	case *Replica:
		kind, records = evReplica, v.Records
	case Drain, *Drain:
		kind = evDrain
	case Note, *Note:
		kind = evNote
	default:
		return 0, nil, nil, fmt.Errorf("%T is no event of a history: record a Phase, Fault, NodeEvent, Stall, Replica, Drain or Note", ev)
	}
	body, err = json.Marshal(ev)
	return kind, body, records, err
}

func unmarshal(kind byte, body []byte) (any, error) {
	switch kind {
	case evHeader:
		return decodeJSON[Header](body)
	case evPhase:
		return decodeJSON[Phase](body)
	case evFault:
		return decodeJSON[Fault](body)
	case evNode:
		return decodeJSON[NodeEvent](body)
	case evStall:
		return decodeJSON[Stall](body)
	case evReplica:
		return decodeJSON[Replica](body)
	case evDrain:
		return decodeJSON[Drain](body)
	case evNote:
		return decodeJSON[Note](body)
	}
	return nil, fmt.Errorf("event of unknown kind %d", kind)
}

func decodeJSON[T any](body []byte) (any, error) {
	var v T
	err := json.Unmarshal(body, &v)
	return v, err
}

// decoder reads entries from buf. After the first error it returns zeros, and
// err stays.
type decoder struct {
	state
	buf   []byte
	pos   int // those before it are read
	err   error
	codes []string
}

var errShort = errors.New("an entry is cut off")

// begin starts on the raw body of a chunk and returns how many operations were
// invoked before it.
func (d *decoder) begin(buf []byte) (next int64) {
	d.reset()
	d.buf, d.pos, d.err, d.codes = buf, 0, nil, d.codes[:0]
	return int64(d.unsigned())
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.pos = len(d.buf)
}

// left is how many bytes are.
func (d *decoder) left() int { return len(d.buf) - d.pos }

func (d *decoder) byte() byte {
	if d.pos >= len(d.buf) {
		d.fail(errShort)
		return 0
	}
	b := d.buf[d.pos]
	d.pos++
	return b
}

func (d *decoder) unsigned() uint64 {
	if p := d.pos; p < len(d.buf) && d.buf[p] < 0x80 {
		d.pos++
		return uint64(d.buf[p])
	}
	return d.long()
}

// long reads an unsigned number of more than one byte.
func (d *decoder) long() uint64 {
	v, n := binary.Uvarint(d.buf[d.pos:])
	if n <= 0 {
		d.fail(errShort)
		return 0
	}
	d.pos += n
	return v
}

func (d *decoder) signed() int64 {
	u := d.unsigned()
	return int64(u>>1) ^ -int64(u&1)
}

// bytes returns a slice of buf, valid until the next chunk.
func (d *decoder) bytes() []byte {
	n := d.unsigned()
	if n > uint64(d.left()) {
		d.fail(errShort)
		return nil
	}
	d.pos += int(n)
	return d.buf[d.pos-int(n) : d.pos]
}

func (d *decoder) time() int64 {
	d.now += d.signed()
	return d.now
}

// invoke reads the invocation of operation id into op.
func (d *decoder) invoke(head byte, op *Op, id int64) {
	m, rest := d.byte(), byte(0)
	if head&newMore != 0 {
		rest = d.byte()
	}
	*op = Op{ID: id, Client: int32(d.signed()), Return: Infinity}
	c := d.clients.at(int64(op.Client), d.gen)
	op.Call = d.time()
	op.Key, op.Process, op.Kind = c.key, c.process, c.kind
	if head&newKey != 0 {
		op.Key = int32(d.signed())
	}
	if head&newProcess != 0 {
		op.Process += d.signed()
	}
	if head&newKind != 0 {
		op.Kind = Kind(d.byte())
	}
	d.known(m, c.predict(op.Kind, op.Call), op)
	d.more(rest, op)
	c.remember(op)
}

// more adds to the fields of op what mask says differs.
func (d *decoder) more(mask byte, op *Op) {
	if mask == 0 {
		return
	}
	for i, f := range [...]*int64{&op.Due, &op.Lock, &op.Of, &op.Txn} {
		if mask&(1<<i) != 0 {
			*f += d.signed()
		}
	}
	op.Committed = op.Committed != (mask&setCommitted != 0)
}

// known sets the fields of op to base and to what mask says differs from it.
func (d *decoder) known(mask byte, k known, op *Op) {
	if mask != 0 {
		last := d.keys.at(int64(op.Key), d.gen)
		if mask&setNode != 0 {
			k.node = int16(d.signed())
		}
		if mask&setValue != 0 {
			k.value += Value(d.signed())
		}
		if mask&setOffset != 0 {
			k.offset = d.offset(last)
		}
		if mask&setFrom != 0 {
			k.from = d.offset(last)
		}
		if mask&setHigh != 0 {
			k.high = d.offset(last)
		}
		if mask&setEpoch != 0 {
			k.epoch += int32(d.signed())
		}
		k.acked = k.acked != (mask&setAcked != 0)
		k.reset = k.reset != (mask&setReset != 0)
	}
	k.into(op)
}

// offset reads one as a difference to the last of its key.
func (d *decoder) offset(last *int64) int64 {
	v := *last + d.signed()
	d.see(last, v)
	return v
}

// complete finishes one of open, of next operations that were invoked. Of its
// records it reads those in its own entry, and appends them to dst.
func (d *decoder) complete(head byte, next int64, open *pending[*Op], dst []Record) (*Op, []Record) {
	outcome, rest := Outcome(head>>outcomeShift&outcomeMask), byte(0)
	if outcome == Pending {
		rest = d.byte()
		outcome, rest = Outcome(rest>>moreBits&outcomeMask), rest&(1<<moreBits-1)
	}
	m := d.byte()
	back := d.unsigned()
	var op *Op
	if d.err == nil && back < uint64(next) {
		op, _ = open.get(next - 1 - int64(back))
	}
	if op == nil {
		d.fail(fmt.Errorf("an answer to an operation that is not open (%d before operation %d)", back, next-1))
		return nil, nil
	}
	if op.Outcome = outcome; op.Outcome == Pending {
		d.fail(fmt.Errorf("operation %d has an answer without an outcome", op.ID))
	}
	if head&noReturn == 0 {
		op.Return = d.time()
	}
	if head&hasCode != 0 {
		op.Code = d.code()
	}
	d.known(m, knownOf(op), op)
	d.more(rest, op)
	if head&hasRecords != 0 {
		dst = d.records(dst)
	}
	return op, dst
}

func (d *decoder) code() string {
	n := d.unsigned()
	switch {
	case n == 0:
		s := string(d.bytes())
		d.codes = append(d.codes, s)
		return s
	case n <= uint64(len(d.codes)):
		return d.codes[n-1]
	}
	d.fail(fmt.Errorf("code %d of %d", n, len(d.codes)))
	return ""
}

// records appends a block of records to dst.
func (d *decoder) records(dst []Record) []Record {
	n := d.unsigned()
	if n > maxBlock || n > uint64(d.left()) { // a record takes a byte at least
		d.fail(fmt.Errorf("a block of %d records", n))
		return dst
	}
	if dst == nil && n > 0 {
		dst = make([]Record, 0, n)
	}
	for range n {
		ctl := d.byte()
		d.record.Offset = d.record.next()
		if ctl&newOffset != 0 {
			d.record.Offset += d.signed()
		}
		if ctl&newEpoch != 0 {
			d.record.Epoch += int32(d.signed())
		}
		if ctl&newProducer != 0 {
			d.producer = int32(d.unsigned() & (1<<24 - 1))
		}
		last := d.producers.at(int64(d.producer), d.gen)
		*last++
		if ctl&newSeq != 0 {
			*last += d.signed()
		}
		d.record.Value = MakeValue(d.producer, *last&(1<<40-1))
		if ctl&newDelivery != 0 {
			d.record.Delivery += int32(d.signed())
		}
		d.record.Payload = Payload(ctl & payloadMask)
		dst = append(dst, d.record)
	}
	return dst
}

// event reads an event, with the records of its own entry.
func (d *decoder) event() (any, []Record) {
	kind := d.byte()
	body := d.bytes()
	var records []Record
	if d.err == nil && kind == evReplica {
		records = d.records(nil)
	}
	if d.err != nil {
		return nil, nil
	}
	ev, err := unmarshal(kind, body)
	if err != nil {
		d.fail(fmt.Errorf("an event of kind %d: %w", kind, err))
		return nil, nil
	}
	return ev, records
}
