package history

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// CorruptError says that a history file holds something that no writer wrote.
// Nothing is to be concluded from such a file.
type CorruptError struct {
	File   string
	Offset int64 // byte at which the damaged chunk begins
	What   string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("history %s is corrupt at byte %d: %s: restore the file from a copy or run again; a history with a hole in it proves nothing", e.File, e.Offset, e.What)
}

// Reader reads a history file from its beginning to its end, also while it is
// written. It is for one goroutine.
type Reader struct {
	name   string
	file   input
	zstd   *zstd.Decoder
	header Header

	at     int64 // where the next chunk begins
	begun  int64 // where the chunk that dec reads began
	number uint32
	stored []byte
	raw    []byte

	dec    decoder
	next   int64        // ID of the next operation
	open   pending[*Op] // invoked and not yet answered
	carry  []Record     // records that belong in front of the next entry's
	reuse  bool         // operations and records are used again
	free   []*Op        // to be used again
	block  []Record     // to be used again
	closed bool
	torn   int64
	err    error // for good
}

// input is what a Reader needs of a file.
type input interface {
	io.ReaderAt
	io.Closer
	Size() (int64, error)
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// Open opens a history file and reads its header. It fails where the path is
// no history, is of another Version, ends before its header, or with a
// *CorruptError.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening history: %w: name a result directory's %s", err, FileName)
	}
	return newReader(path, osFile{f})
}

func newReader(name string, file input) (*Reader, error) {
	r := &Reader{name: name, file: file}
	if err := r.readHeader(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Reader) readHeader() error {
	var err error
	r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxChunk), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return fmt.Errorf("history %s: %w", r.name, err)
	}
	begin := make([]byte, len(magic)+1)
	n, err := r.file.ReadAt(begin, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading history %s: %w", r.name, err)
	}
	switch {
	case n < len(begin) && bytes.HasPrefix([]byte(magic), begin[:n]):
		return r.headless()
	case n < len(begin) || string(begin[:len(magic)]) != magic:
		return fmt.Errorf("%s is not a history: name a result directory's %s", r.name, FileName)
	case begin[len(magic)] != Version:
		return fmt.Errorf("history %s has format version %d and this program reads version %d: use the version of faultline that wrote it", r.name, begin[len(magic)], Version)
	}
	r.at = int64(len(begin))
	first, err := r.Next()
	if errors.Is(err, io.EOF) {
		return r.headless()
	}
	if err != nil {
		return err
	}
	h, ok := first.(Header)
	if !ok {
		return r.corrupt("the first entry is not a header")
	}
	r.header = h
	return nil
}

func (r *Reader) headless() error {
	return fmt.Errorf("history %s ends before its header: the run that wrote it died as it began; run again", r.name)
}

// Header returns the header.
func (r *Reader) Header() Header { return r.header }

// Closed reports whether the closing entry was read.
func (r *Reader) Closed() bool { return r.closed }

// Torn returns how many bytes behind the last whole chunk were there when Next
// last returned io.EOF: the rest of a write that a crash cut off, or that is
// still under way.
func (r *Reader) Torn() int64 { return r.torn }

// Open returns the operations that were invoked and not answered as far as the
// file was read, in order of ID. They belong to the reader until Next returns them.
func (r *Reader) Open() []*Op {
	ops := make([]*Op, 0, r.open.n)
	for _, id := range r.open.ids() {
		op, _ := r.open.get(id)
		ops = append(ops, op)
	}
	return ops
}

// Close closes the file.
func (r *Reader) Close() error {
	if r.zstd != nil {
		r.zstd.Close()
	}
	if r.err == nil {
		r.err = os.ErrClosed
	}
	return r.file.Close()
}

// Next returns the next answered operation as *Op, or the next event as Phase,
// Fault, NodeEvent, Stall, Replica (without the records that Same stands for),
// Drain or Note. What it returns belongs to the caller and is not used again.
//
// At the end of the file it returns io.EOF; where Closed is false, it may be
// called again when the file has grown. Any other error is final.
func (r *Reader) Next() (any, error) {
	for {
		e, err := r.step()
		switch {
		case err != nil:
			return nil, err
		case e.Event != nil:
			return e.Event, nil
		case e.Answered:
			return e.Op, nil
		}
	}
}

// step reads up to the next entry.
func (r *Reader) step() (Entry, error) {
	if r.err != nil {
		return Entry{}, r.err
	}
	for {
		for r.dec.left() > 0 {
			e := r.entry()
			if r.dec.err != nil {
				return Entry{}, r.corrupt(r.dec.err.Error())
			}
			if e.Op != nil || e.Event != nil {
				return e, nil
			}
		}
		if err := r.chunk(); err != nil {
			if !errors.Is(err, io.EOF) {
				r.err = err
			}
			return Entry{}, err
		}
	}
}

// entry reads one entry: none where it is part of a longer one.
func (r *Reader) entry() (e Entry) {
	d := &r.dec
	head := d.byte()
	tag := head & tagMask
	switch {
	case r.closed:
		d.fail(errors.New("something follows the closing entry"))
		return e
	case len(r.carry) > 0 && tag != tagRecords && tag != tagComplete && tag != tagEvent:
		d.fail(errors.New("records belong to no entry"))
		return e
	}
	switch tag {
	case tagInvoke:
		op := r.newOp()
		d.invoke(head, op, r.next)
		r.next++
		r.open.put(op.ID, op)
		e.Op = op
	case tagComplete:
		op, records := d.complete(head, r.next, &r.open, r.block[:0])
		if d.err != nil {
			return e
		}
		r.open.remove(op.ID)
		if r.reuse {
			r.free, r.block = append(r.free, op), records[:0]
		}
		op.Records = r.join(records)
		e.Op, e.Answered = op, true
	case tagRecords:
		r.carry = d.records(r.carry)
	case tagEvent:
		ev, records := d.event()
		if d.err != nil {
			return e
		}
		records = r.join(records)
		switch v := ev.(type) {
		case Replica:
			v.Records = records
			e.Event = v
			return e
		case Header:
			if r.header.Version != 0 {
				d.fail(errors.New("a second header"))
				return e
			}
			if v.Version != Version {
				d.fail(fmt.Errorf("its header has version %d", v.Version))
				return e
			}
		}
		if len(records) > 0 {
			d.fail(fmt.Errorf("%T has records", ev))
			return e
		}
		e.Event = ev
	case tagClose:
		if n := d.unsigned(); d.err == nil && n != uint64(r.next) {
			d.fail(fmt.Errorf("%d operations were written and %d are here", n, r.next))
			return e
		}
		r.closed = d.err == nil
	default:
		d.fail(fmt.Errorf("an entry of unknown tag %d", tag))
	}
	return e
}

// join puts the records that came before the entry in front of its own.
func (r *Reader) join(records []Record) []Record {
	if len(r.carry) > 0 {
		records = append(r.carry, records...)
	}
	if len(records) == 0 {
		records = nil
	}
	r.carry = nil
	return records
}

func (r *Reader) corrupt(what string) error {
	r.err = &CorruptError{File: r.name, Offset: r.begun, What: what}
	return r.err
}

// chunk reads the next chunk into dec. It returns io.EOF where no whole chunk
// follows.
func (r *Reader) chunk() error {
	size, err := r.file.Size()
	if err != nil {
		return r.ioError(err)
	}
	r.begun, r.torn = r.at, size-r.at
	if r.torn <= 0 {
		if r.torn < 0 {
			return r.corrupt(fmt.Sprintf("the file is only %d bytes long: it was cut while it was read", size))
		}
		return io.EOF
	}
	if r.torn < headerSize {
		return io.EOF
	}
	head := make([]byte, headerSize)
	if _, err := r.file.ReadAt(head, r.at); err != nil {
		return r.ioError(err)
	}
	le := binary.LittleEndian
	if !isHeader(head) {
		return r.tornOr(size, "the header of a chunk does not match its checksum")
	}
	number, stored, raw := le.Uint32(head[4:]), le.Uint32(head[8:]), le.Uint32(head[12:])
	switch {
	case number != r.number:
		return r.corrupt(fmt.Sprintf("here is chunk %d, and chunk %d was expected", number, r.number))
	case stored > raw || raw > maxChunk:
		return r.corrupt(fmt.Sprintf("chunk %d claims %d bytes, %d of them stored", number, raw, stored))
	case int64(stored) > r.torn-headerSize:
		return io.EOF
	}
	r.stored = slices.Grow(r.stored[:0], int(stored))[:stored]
	if _, err := r.file.ReadAt(r.stored, r.at+headerSize); err != nil {
		return r.ioError(err)
	}
	if crc32.Checksum(r.stored, castagnoli) != le.Uint32(head[16:]) {
		return r.tornOr(size, fmt.Sprintf("the body of chunk %d does not match its checksum", number))
	}
	body := r.stored
	if stored < raw {
		r.raw = slices.Grow(r.raw[:0], int(raw))[:0:raw]
		if body, err = r.zstd.DecodeAll(r.stored, r.raw); err != nil {
			return r.corrupt(fmt.Sprintf("chunk %d does not decompress (%v)", number, err))
		}
		if len(body) != int(raw) {
			return r.corrupt(fmt.Sprintf("chunk %d decompresses to %d bytes instead of %d", number, len(body), raw))
		}
	}
	next := r.dec.begin(body)
	if r.dec.err != nil {
		return r.corrupt(r.dec.err.Error())
	}
	if next != r.next {
		return r.corrupt(fmt.Sprintf("chunk %d begins behind operation %d, and %d were read", number, next, r.next))
	}
	r.number++
	r.at += headerSize + int64(stored)
	r.torn = 0
	return nil
}

func (r *Reader) ioError(err error) error {
	if errors.Is(err, io.EOF) { // less than Size said
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading history %s at byte %d: %w", r.name, r.at, err)
}

func isHeader(b []byte) bool {
	le := binary.LittleEndian
	return le.Uint32(b) == marker && le.Uint32(b[20:]) == crc32.Checksum(b[:20], castagnoli)
}

// tornOr tells a torn tail from a corrupt middle: it returns io.EOF where no
// chunk begins behind the damaged one, for then the damage is what a crash of
// the machine leaves of the last writes.
func (r *Reader) tornOr(size int64, what string) error {
	const window = 1 << 20
	var mark [4]byte
	binary.LittleEndian.PutUint32(mark[:], marker)
	buf := make([]byte, min(window, size-r.at))
	for at := r.at + 1; size-at >= headerSize; at += int64(len(buf)) - headerSize + 1 {
		buf = buf[:min(int64(len(buf)), size-at)]
		if _, err := r.file.ReadAt(buf, at); err != nil {
			return r.ioError(err)
		}
		for b := buf; len(b) >= headerSize; b = b[1:] {
			i := bytes.Index(b, mark[:])
			if i < 0 || len(b)-i < headerSize {
				break
			}
			b = b[i:]
			if isHeader(b) {
				return r.corrupt(what)
			}
		}
	}
	return io.EOF
}

// Load reads a whole history file into memory: operations in order of ID,
// those without an answer Indeterminate with Return Infinity, and replicas
// that name another in Same with that one's Records (shared, not copied). A
// torn tail is ignored and counted in Torn. It fails as Open does.
func Load(path string) (*History, error) {
	r, err := Open(path)
	if err != nil {
		return nil, err
	}
	h, err := r.load()
	return h, errors.Join(err, r.Close())
}

// LoadAbout reads a history file as Load does, and of its operations keeps only those
// that concern one value: that sent, settled or delivered it. The others are forgotten
// as they are read.
func LoadAbout(path string, value Value) (*History, error) {
	r, err := Open(path)
	if err != nil {
		return nil, err
	}
	h, err := r.loadAbout(value)
	return h, errors.Join(err, r.Close())
}

func (r *Reader) loadAbout(value Value) (*History, error) {
	h := &History{Header: r.header}
	concerns := func(op *Op) bool {
		return (op.Kind == Send || op.Kind.Settles()) && op.Value == value ||
			slices.ContainsFunc(op.Records, func(rec Record) bool { return rec.Value == value && rec.Payload == Good })
	}
	for e, err := range r.Entries() {
		switch {
		case err != nil:
			return nil, err
		case e.Op == nil:
			h.add(e.Event)
		case e.Answered && concerns(e.Op):
			kept := *e.Op
			kept.Records = slices.Clone(kept.Records)
			h.Ops = append(h.Ops, kept)
		}
	}
	for _, op := range r.Open() {
		if op.Outcome = Indeterminate; concerns(op) {
			h.Ops = append(h.Ops, *op)
		}
	}
	slices.SortFunc(h.Ops, func(a, b Op) int { return cmp.Compare(a.ID, b.ID) })
	return r.finish(h)
}

func (r *Reader) load() (*History, error) {
	h := &History{Header: r.header}
	for {
		entry, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if op, ok := entry.(*Op); ok {
			h.put(op, r.next)
		} else {
			h.add(entry)
		}
	}
	for _, op := range r.Open() {
		op.Outcome = Indeterminate
		h.put(op, r.next)
	}
	return r.finish(h)
}

// finish completes a history of which everything was read.
func (r *Reader) finish(h *History) (*History, error) {
	h.Closed, h.Torn = r.closed, r.torn
	if err := h.resolve(); err != nil {
		return nil, &CorruptError{r.name, r.begun, err.Error()}
	}
	return h, nil
}

// put sets operation op of n that are known so far.
func (h *History) put(op *Op, n int64) {
	if missing := int(n) - len(h.Ops); missing > 0 {
		h.Ops = append(h.Ops, make([]Op, missing)...)
	}
	h.Ops[op.ID] = *op
}

// add appends an event, given by value.
func (h *History) add(ev any) {
	switch v := ev.(type) {
	case Phase:
		h.Phases = append(h.Phases, v)
	case Fault:
		h.Faults = append(h.Faults, v)
	case NodeEvent:
		h.Events = append(h.Events, v)
	case Stall:
		h.Stalls = append(h.Stalls, v)
	case Replica:
		h.Replicas = append(h.Replicas, v)
	case Drain:
		h.Drains = append(h.Drains, v)
	case Note:
		h.Notes = append(h.Notes, v)
	}
}

// resolve gives replicas that name an earlier one in Same its Records.
func (h *History) resolve() error {
	for i := range h.Replicas {
		r := &h.Replicas[i]
		if r.Same == "" {
			continue
		}
		j := slices.IndexFunc(h.Replicas[:i], func(o Replica) bool { return o.Key == r.Key && o.Node == r.Same })
		if j < 0 {
			return fmt.Errorf("replica %s on %s is said to equal that on %s, which was not recorded before it", r.Key, r.Node, r.Same)
		}
		r.Records = h.Replicas[j].Records
	}
	return nil
}
