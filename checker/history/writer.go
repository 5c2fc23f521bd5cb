package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// FileName is the name of a history within a result directory.
const FileName = "history.flh"

// buffers is how many chunks may wait for the disk before callers do.
const buffers = 4

var _ Sink = (*Writer)(nil)

// Writer writes a history file. Its methods may be called from several
// goroutines. Chunks are compressed and written by one goroutine of its own;
// when the disk falls behind by more than four chunks (256 KiB), callers wait.
//
// The first error, of the disk or of the caller, is kept: from then on nothing
// more is written, and Err, Flush and Close return it.
type Writer struct {
	name string
	file output

	mu     sync.Mutex
	enc    encoder
	empty  int            // length of enc.buf while it holds no entry
	next   int64          // ID of the next operation
	open   pending[known] // invoked and not yet answered
	closed bool

	work  chan chunk
	spare chan []byte
	done  chan struct{}

	errMu sync.Mutex
	err   error
}

// output is what a Writer needs of a file.
type output interface {
	io.Writer
	Sync() error
	Close() error
}

// chunk is one raw body on its way to the file.
type chunk struct {
	raw     []byte
	written chan struct{} // closed once raw is in the file, where somebody waits
}

// Create makes a new history file and writes its header, whose Version it
// sets. It refuses a path that exists.
func Create(path string, header Header) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("history %s exists, and a history is never overwritten: choose another directory", path)
	}
	if err != nil {
		return nil, fmt.Errorf("creating history: %w: check that its directory exists and may be written", err)
	}
	return newWriter(path, f, header)
}

func newWriter(name string, file output, header Header) (*Writer, error) {
	w := &Writer{
		name:  name,
		file:  file,
		work:  make(chan chunk, buffers),
		spare: make(chan []byte, buffers+1),
		done:  make(chan struct{}),
	}
	// The level is the fastest: what one chunk costs must stay far below what
	// the operations in it took.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("history %s: %w", name, err), file.Close())
	}
	for range buffers + 1 {
		w.spare <- nil
	}
	w.begin()
	go w.run(enc)

	header.Version = Version
	w.event(header)
	if err := w.Flush(); err != nil {
		_ = w.finish(false) // it returns the same error
		return nil, err
	}
	return w, nil
}

// run writes chunks until work is closed.
func (w *Writer) run(enc *zstd.Encoder) {
	defer close(w.done)
	defer func() { _ = enc.Close() }() // it writes to nothing
	var number uint32
	out := append([]byte(magic), Version)
	for c := range w.work {
		if len(c.raw) > 0 && w.Err() == nil {
			out = appendChunk(out, number, c.raw, enc)
			if _, err := w.file.Write(out); err != nil {
				w.fail(w.ioError("writing", err))
			}
			number++
			out = out[:0]
		}
		if c.raw != nil {
			w.spare <- c.raw
		}
		if c.written != nil {
			close(c.written)
		}
	}
}

// appendChunk appends the chunk of that number with a raw body to out.
func appendChunk(out []byte, number uint32, raw []byte, enc *zstd.Encoder) []byte {
	at := len(out)
	out = append(out, make([]byte, headerSize)...)
	out = enc.EncodeAll(raw, out)
	if len(out)-at-headerSize >= len(raw) {
		out = append(out[:at+headerSize], raw...)
	}
	h, body := out[at:at+headerSize], out[at+headerSize:]
	le := binary.LittleEndian
	le.PutUint32(h[0:], marker)
	le.PutUint32(h[4:], number)
	le.PutUint32(h[8:], uint32(len(body)))
	le.PutUint32(h[12:], uint32(len(raw)))
	le.PutUint32(h[16:], crc32.Checksum(body, castagnoli))
	le.PutUint32(h[20:], crc32.Checksum(h[:20], castagnoli))
	return out
}

func (w *Writer) ioError(doing string, err error) error {
	return fmt.Errorf("%s history %s: %w: free space there or choose another result directory, then run again", doing, w.name, err)
}

// misuse keeps an error of the caller.
func (w *Writer) misuse(format string, args ...any) {
	w.fail(fmt.Errorf("history %s: %w", w.name, fmt.Errorf(format, args...)))
}

func (w *Writer) fail(err error) {
	w.errMu.Lock()
	defer w.errMu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// Err returns the first error.
func (w *Writer) Err() error {
	w.errMu.Lock()
	defer w.errMu.Unlock()
	return w.err
}

// Invoke implements Sink. It keeps everything but op's Return, Outcome, Code
// and Records, and does not keep op.
func (w *Writer) Invoke(op *Op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	op.ID = w.next
	if w.closed {
		w.misuse("operation %d was invoked after Close", op.ID)
		return
	}
	w.enc.invoke(op)
	w.open.put(op.ID, knownOf(op))
	w.next++
	w.cut(chunkTarget, nil)
}

// Complete implements Sink. Of op it writes Return, Outcome, Code, Records and
// whatever else but ID, Client, Process, Kind, Key and Call changed since
// Invoke. It keeps neither op nor its Records.
func (w *Writer) Complete(op *Op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	base, open := w.open.get(op.ID)
	if err := checkComplete(op, open && !w.closed); err != nil {
		w.misuse("%w", err)
		return
	}
	w.open.remove(op.ID)
	records := w.spill(op.Records)
	start := len(w.enc.buf)
	w.enc.complete(op, records, base, w.next)
	w.checkSize(start)
	w.cut(chunkTarget, nil)
}

// checkComplete says what is wrong with completing op.
func checkComplete(op *Op, open bool) error {
	switch {
	case !open:
		return fmt.Errorf("operation %d was answered but is not open: invoke it first, and complete it once", op.ID)
	case op.Outcome == Pending || op.Outcome > Indeterminate:
		return fmt.Errorf("operation %d was answered with outcome %s: set ok, failed or indeterminate", op.ID, op.Outcome)
	}
	for i := range op.Records {
		if op.Records[i].Payload > Sentinel {
			return fmt.Errorf("operation %d delivered a record of unknown payload %d", op.ID, op.Records[i].Payload)
		}
	}
	return nil
}

// Event implements Sink. It takes an event by value or by pointer and does not
// keep it.
func (w *Writer) Event(ev any) {
	switch ev.(type) {
	case Header, *Header:
		w.misuse("a second header: a history has one, given to Create")
		return
	}
	w.event(ev)
}

func (w *Writer) event(ev any) {
	kind, body, records, err := marshal(ev)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		w.misuse("%w", err)
		return
	case w.closed:
		w.misuse("an event (%T) was recorded after Close", ev)
		return
	}
	for i := range records {
		if records[i].Payload > Sentinel {
			w.misuse("a replica has a record of unknown payload %d", records[i].Payload)
			return
		}
	}
	records = w.spill(records)
	start := len(w.enc.buf)
	w.enc.event(kind, body, records)
	w.checkSize(start)
	w.cut(chunkTarget, nil)
}

// spill writes the records that do not fit into their own entry, and returns
// the others.
func (w *Writer) spill(records []Record) []Record {
	last, before := split(records)
	for _, block := range before {
		w.enc.buf = append(w.enc.buf, tagRecords)
		w.enc.records(block)
		w.cut(chunkTarget, nil)
	}
	return last
}

// checkSize refuses an entry that no reader would take.
func (w *Writer) checkSize(start int) {
	if n := len(w.enc.buf) - start; n > maxEntry {
		w.enc.buf = w.enc.buf[:start]
		w.misuse("an entry of %d bytes is longer than %d: shorten its texts", n, maxEntry)
	}
}

// cut hands the chunk over if it is at least atLeast bytes long, and begins
// the next.
func (w *Writer) cut(atLeast int, written chan struct{}) {
	if len(w.enc.buf) < atLeast {
		return
	}
	w.work <- chunk{w.enc.buf, written}
	w.begin()
}

func (w *Writer) begin() {
	w.enc.begin(<-w.spare, w.next)
	w.empty = len(w.enc.buf)
}

// Flush hands everything recorded so far to the operating system, so that a
// reader sees it and a crash of this process leaves it. Call it about every
// 250 ms.
func (w *Writer) Flush() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return w.Err()
	}
	written := make(chan struct{})
	if len(w.enc.buf) > w.empty {
		w.cut(0, written)
	} else {
		w.work <- chunk{written: written}
	}
	w.mu.Unlock()
	<-written
	return w.Err()
}

// Close writes the closing entry, syncs the file and closes it. Operations
// that were not answered stay open, and are read as indeterminate. A second
// Close returns the first error again.
func (w *Writer) Close() error { return w.finish(true) }

// finish ends the goroutine and closes the file, with a closing entry or
// without.
func (w *Writer) finish(whole bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return w.Err()
	}
	w.closed = true
	if whole {
		w.enc.buf = append(w.enc.buf, tagClose)
		w.enc.unsigned(uint64(w.next))
	}
	w.work <- chunk{raw: w.enc.buf}
	close(w.work)
	<-w.done
	if err := w.file.Sync(); err != nil {
		w.fail(w.ioError("syncing", err))
	}
	if err := w.file.Close(); err != nil {
		w.fail(w.ioError("closing", err))
	}
	return w.Err()
}

// Save writes a whole history to a new file, as Create would. The closing
// entry is written only where h.Closed is set. It returns the first error.
func Save(path string, h *History) error {
	w, err := Create(path, h.Header)
	if err != nil {
		return err
	}
	h.replay(w)
	return w.finish(h.Closed)
}

// replay records h into s: every operation is answered at once, so the file
// keeps the order of invocation and not that of the answers.
func (h *History) replay(s Sink) {
	for i := range h.Phases {
		s.Event(&h.Phases[i])
	}
	for i := range h.Faults {
		s.Event(&h.Faults[i])
	}
	for i := range h.Events {
		s.Event(&h.Events[i])
	}
	for i := range h.Stalls {
		s.Event(&h.Stalls[i])
	}
	for i := range h.Ops {
		op := h.Ops[i]
		s.Invoke(&op)
		s.Complete(&op)
	}
	for i := range h.Replicas {
		r := h.Replicas[i]
		if r.Same != "" {
			r.Records = nil
		}
		s.Event(&r)
	}
	for i := range h.Drains {
		s.Event(&h.Drains[i])
	}
	for i := range h.Notes {
		s.Event(&h.Notes[i])
	}
}
