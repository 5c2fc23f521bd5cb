// Package seglog stores a partition's log: record batches v2 as they came, each in a checksummed frame, in a directory of
// segments. It also has the record log of the metadata quorum (RecordLog) and checkpoints.
//
// # Recovery
//
// A crash leaves a torn tail: writes that were not synced, of which any part may have reached the disk, a later one without an
// earlier one too. Corruption changes or removes what had been durable. The first is cut off; the second must never be,
// for it may have been acknowledged: it is refused until the caller decides. A bad frame with nothing behind it can be either,
// and so can one with good frames behind it. What tells them apart is whether the place of the bad frame was durable
// before, and that is recorded twice:
//
//   - Every frame carries the position up to which its file was synced when it was written. A good frame behind a
//     bad one thus testifies whether the bad one had been durable. This costs no write and cannot be lost while it matters.
//   - A file named "state" holds the position after the last sync. It is rewritten in place after each sync, without
//     a sync of its own: exact after a killed process, possibly older after a power loss. It protects the end of the log, where no
//     frame follows that could testify.
//
// Only the last segment can have a torn tail, because a segment is synced before the next one is begun. Unsynced frames
// (fsync interval or never) enjoy no such protection: a bad one among them is cut off with all that follows, as
// after a power loss.
//
// Truncations are durable when they return, before anything is appended in their place: otherwise a power loss could bring
// back the old bytes behind the new ones, at a position where they are valid frames. The order of removals in one
// directory is taken to survive as a prefix, as on ext4 and XFS.
package seglog

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/vfs"
)

const (
	segmentSuffix = ".log"
	recordsSuffix = ".records"
	tmpSuffix     = ".tmp"
	nameDigits    = 20

	maxSegmentBytes = 1 << 30
	maxAppendBytes  = maxFile - maxSegmentBytes

	recoveryWindow = 1 << 20
)

var (
	// ErrOutOfRange says that an offset lies outside the log.
	ErrOutOfRange = errors.New("offset out of range")
	// ErrNotContiguous says that a batch does not begin at the log's end.
	ErrNotContiguous = errors.New("batch does not begin at the end of the log")
	// ErrFailed says that the log refuses changes since an earlier failure left the disk in an unknown state. The
	// remedy is to open the log again. The error wraps the first failure too.
	ErrFailed = errors.New("log refuses changes until it is opened again")
)

// CorruptError says where bytes that had been written, and in a log under recovery had been durable, are damaged or gone.
type CorruptError struct {
	File     string // name of the file
	Position int64  // in the file, bytes
	Offset   int64  // first offset that cannot be trusted; −1 where there are no offsets
	Next     int64  // first offset behind the damage that is readable again; −1: none found, or not searched for
	Reason   string
}

func (e *CorruptError) Error() string {
	at := fmt.Sprintf("%s is corrupt at byte %d", e.File, e.Position)
	if e.Offset >= 0 {
		at += fmt.Sprintf(", offset %d", e.Offset)
	}
	if e.Next >= 0 {
		at += fmt.Sprintf(" (readable again from %d)", e.Next)
	}
	return at + ": " + e.Reason
}

// Batch is what an index knows of a stored batch.
type Batch struct {
	batch.Info
	Origin    int32 // as in Frame
	OriginSeq int64 // as in Frame
}

// parse reads the batch that b holds; nothing may follow it.
func parse(b []byte) (batch.Info, error) {
	info, err := batch.Parse(b)
	if err == nil && int(info.Size) != len(b) {
		err = fmt.Errorf("%w: it has %d bytes, there are %d", batch.ErrLength, info.Size, len(b))
	}
	return info, err
}

// Options of a Log. The zero value means the defaults.
type Options struct {
	// SegmentBytes is the size after which a new segment is begun; default 64 MiB, at most 1 GiB. One Append always
	// goes into one segment, which may grow beyond it.
	SegmentBytes int64
	// IndexBytes is the distance of the entries of the sparse index in memory; default 4096.
	IndexBytes int64
	// Mutants are seeded bugs; none without the build tag.
	Mutants mutant.Set

	foreign bool  // see OpenForeign
	upTo    int64 // with foreign: the offset at which to end, -1 for the last whole frame
}

// Validate refuses values out of range.
func (o Options) Validate() error {
	if o.SegmentBytes < 0 || o.SegmentBytes > maxSegmentBytes {
		return fmt.Errorf("segment size of %d bytes: use 1 to %d, or 0 for the default", o.SegmentBytes, maxSegmentBytes)
	}
	if o.IndexBytes < 0 {
		return fmt.Errorf("index distance of %d bytes: use 1 or more, or 0 for the default", o.IndexBytes)
	}
	return nil
}

// Recovered is what Open found.
type Recovered struct {
	Start, End int64 // as Log.Start and Log.End
	// Batches are all batches that hold offsets in [Start, End), in order.
	Batches []Batch
	// TruncatedBytes is the length of the torn tail that was cut off.
	TruncatedBytes int64
	// Corrupt is nil, or where durable data is damaged. The log then ends at Corrupt.Offset and refuses Append until
	// Truncate or Reset removes what is damaged. The files are left as they are until then.
	Corrupt *CorruptError
}

// Infos returns Batches without origins.
func (r Recovered) Infos() []batch.Info {
	out := make([]batch.Info, len(r.Batches))
	for i, b := range r.Batches {
		out[i] = b.Info
	}
	return out
}

// Frame is a batch to append, and a batch as it was appended.
type Frame struct {
	Batch     []byte // one record batch, with base offset and leader epoch
	Origin    int32  // for schemes that need it
	OriginSeq int64  // for schemes that need it
}

// Log is the log of one partition: batches at contiguous offsets in [Start, End). It is not safe for concurrent use.
// Two Logs must not be open on one directory at once.
type Log struct {
	fs  vfs.FS
	dir string
	opt Options

	segs    []*segment // in order; the last one is appended to
	beyond  []string   // segments behind the damage, in order
	start   int64
	end     int64
	durable int64 // offset
	synced  int64 // position in the last segment up to which it is durable
	state   *stateFile
	corrupt *CorruptError
	failed  error

	dirty, dirDirty bool
	buf             []byte
	readBuf         []byte // of the last read, for the next
}

type segment struct {
	base, end int64 // offsets
	name      string
	f         vfs.File
	size      int64
	index     []indexEntry
}

type indexEntry struct{ base, pos int64 }

// add indexes a batch at pos.
func (s *segment) add(base, pos, distance int64) {
	n := len(s.index)
	if n > 0 && pos-s.index[n-1].pos < distance {
		return
	}
	if n == cap(s.index) {
		s.index = slices.Grow(s.index, max(64, n)) // append would copy a long index more often
	}
	s.index = append(s.index, indexEntry{base, pos})
}

// numbered returns the files of dir whose names are a number and suffix, in order, and removes what an interrupted
// replacement left.
func numbered(fsys vfs.FS, dir, suffix string) (names []string, ids []int64, err error) {
	all, err := fsys.List(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range all {
		if strings.HasSuffix(name, tmpSuffix) {
			if err := fsys.Remove(path.Join(dir, name)); err != nil {
				return nil, nil, err
			}
			continue
		}
		digits, ok := strings.CutSuffix(name, suffix)
		if !ok || len(digits) != nameDigits {
			continue
		}
		id, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || id < 0 {
			continue
		}
		names, ids = append(names, name), append(ids, id)
	}
	return names, ids, nil
}

func fileName(id int64, suffix string) string { return fmt.Sprintf("%0*d%s", nameDigits, id, suffix) }

// Open opens the log in dir, making it if there is none, and recovers it as the package says. All that it keeps is
// durable when it returns: what a killed process left in the page cache is synced first. The error is that of the file
// system or of the options; corruption is no error but part of Recovered.
func Open(fsys vfs.FS, dir string, opt Options) (_ *Log, _ Recovered, err error) {
	if err := opt.Validate(); err != nil {
		return nil, Recovered{}, fmt.Errorf("opening log %s: %w", dir, err)
	}
	opt.SegmentBytes = cmp.Or(opt.SegmentBytes, 64<<20)
	opt.IndexBytes = cmp.Or(opt.IndexBytes, 4096)
	l := &Log{fs: fsys, dir: dir, opt: opt}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening log %s: %w", dir, err), l.closeFiles())
		}
	}()
	if err := vfs.MkdirSynced(fsys, dir); err != nil {
		return nil, Recovered{}, err
	}
	if l.state, err = openState(fsys, dir, opt.foreign); err != nil {
		return nil, Recovered{}, err
	}
	rec, err := l.recover()
	if err != nil {
		return nil, Recovered{}, err
	}
	if err := fsys.SyncDir(dir); err != nil {
		return nil, Recovered{}, err
	}
	if l.corrupt == nil && !opt.foreign {
		st := state{start: l.start, file: l.active().base, pos: l.active().size}
		if err := l.state.set(st, false); err != nil {
			return nil, Recovered{}, err
		}
	}
	l.durable, l.dirty, l.dirDirty = l.end, false, false
	rec.Start, rec.End, rec.Corrupt = l.start, l.end, l.corrupt
	return l, rec, nil
}

// errForeign is why a foreign log takes no changes.
var errForeign = errors.New("the log belongs to another process")

// OpenForeign opens, for reading, a log that another process may still append to. It ends at offset upTo, or with upTo -1
// where the last whole frame does that is there now. Nothing of the log's files is changed, but what is kept is durable when it
// returns. What the other process appends behind it is neither seen nor touched. The log refuses changes with
// ErrFailed.
func OpenForeign(fsys vfs.FS, dir string, opt Options, upTo int64) (*Log, Recovered, error) {
	opt.foreign, opt.upTo = true, upTo
	l, rec, err := Open(fsys, dir, opt)
	if err == nil {
		l.failed = errForeign
	}
	return l, rec, err
}

// full reports whether a foreign log has all that is wanted of it.
func (l *Log) full(end int64) bool { return l.opt.foreign && l.opt.upTo >= 0 && end >= l.opt.upTo }

func (l *Log) active() *segment { return l.segs[len(l.segs)-1] }

// recover fills segs, beyond, start, end, synced and corrupt.
func (l *Log) recover() (Recovered, error) {
	var rec Recovered
	names, bases, err := numbered(l.fs, l.dir, segmentSuffix)
	if err != nil {
		return rec, err
	}
	l.start = l.state.start
	if l.state.known {
		// Finish a SetStart that was interrupted.
		for len(bases) > 1 && bases[1] <= l.start {
			if err := l.fs.Remove(path.Join(l.dir, names[0])); err != nil {
				return rec, err
			}
			names, bases = names[1:], bases[1:]
		}
	} else if len(bases) > 0 {
		l.start = bases[0]
	}
	l.end = l.start
	missing := func(base int64, reason string) {
		l.corrupt = &CorruptError{File: l.path(fileName(base, segmentSuffix)), Offset: l.end, Next: -1, Reason: reason}
	}
	if len(bases) == 0 {
		if l.state.file >= 0 {
			missing(l.state.file, "the file is missing, and so are all other segments")
			return rec, nil
		}
		if l.opt.foreign {
			return rec, nil
		}
		return rec, l.create(l.start)
	}
	if bases[0] > l.start {
		missing(l.start, "the first segments are missing")
		l.corrupt.Next = bases[0]
		l.beyond = names
		return rec, nil
	}
	l.end = bases[0]
	for i, name := range names {
		f, err := l.fs.OpenFile(l.path(name), false)
		if err != nil {
			return rec, err
		}
		seg := &segment{base: bases[i], end: bases[i], name: name, f: f}
		l.segs = append(l.segs, seg)
		next := int64(-1)
		if i+1 < len(bases) {
			next = bases[i+1]
		}
		if err := l.recoverSegment(seg, next, &rec); err != nil {
			return rec, err
		}
		if l.corrupt != nil {
			l.beyond = names[i+1:]
			break
		}
		if l.full(seg.end) {
			break
		}
	}
	if l.corrupt == nil && !l.full(l.end) && l.state.file > l.active().base {
		missing(l.state.file, "the file is missing")
	}
	if l.corrupt == nil && l.start > l.end {
		l.corrupt = &CorruptError{
			File: l.path(l.active().name), Position: l.active().size, Offset: l.end, Next: -1,
			Reason: fmt.Sprintf("the log ends before its start offset %d", l.start),
		}
	}
	l.start = min(l.start, l.end)
	rec.Batches = slices.DeleteFunc(rec.Batches, func(b Batch) bool { return b.Last < l.start })
	if l.corrupt != nil {
		for _, seg := range l.segs {
			if err := seg.f.Sync(); err != nil {
				return rec, err
			}
		}
	}
	return rec, nil
}

// recoverSegment reads a segment; next is the base offset of the one that follows it, or −1. It leaves the segment
// durable, with its size at the end of its last good frame, or sets corrupt.
func (l *Log) recoverSegment(seg *segment, next int64, rec *Recovered) error {
	size, err := seg.f.Size()
	if err != nil {
		return err
	}
	sc := &scanner{f: seg.f, id: seg.base, size: size, window: recoveryWindow}
	certain := false // a whole frame that cannot be here
	var bad *badFrame
	for bad == nil && !l.full(seg.end) {
		f, err := sc.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.As(err, &bad) {
			return fmt.Errorf("reading %s: %w", l.path(seg.name), err)
		}
		if bad != nil {
			break
		}
		b, _, err := decode(f, seg.end)
		if err != nil {
			certain = true
			bad = &badFrame{f.pos, err.Error()}
			break
		}
		rec.Batches = append(rec.Batches, b)
		seg.add(b.Base, f.pos, l.opt.IndexBytes)
		seg.size, seg.end = f.end(), b.Last+1
	}
	l.end = seg.end
	if l.full(seg.end) {
		return l.keep(seg)
	}
	hint := int64(0)
	if l.state.file == seg.base {
		hint = l.state.pos
	}
	corrupt := &CorruptError{File: l.path(seg.name), Position: seg.size, Offset: seg.end, Next: next}
	t := tail{known: hint, next: -1}
	if bad != nil {
		corrupt.Reason = bad.reason
		if t, err = sc.judge(seg.size, hint); err != nil {
			return fmt.Errorf("reading %s: %w", l.path(seg.name), err)
		}
		if b, _, err := decode(t.first, -1); t.next >= 0 && err == nil {
			corrupt.Next = b.Base
		}
	}
	switch {
	case certain:
		l.corrupt = corrupt
	case next >= 0:
		// A segment is durable before another one follows it: it has no torn tail.
		if bad == nil && seg.end != next {
			bad = &badFrame{reason: fmt.Sprintf("the file ends here, the next one begins at offset %d", next)}
			corrupt.Reason = bad.reason
		}
		if bad != nil {
			l.corrupt = corrupt
		}
	case seg.size < t.known:
		if bad == nil {
			corrupt.Reason = "the file ends here"
		}
		corrupt.Reason += fmt.Sprintf("; it was durable up to byte %d", t.known)
		l.corrupt = corrupt
	default:
		rec.TruncatedBytes = size - seg.size
		if l.opt.foreign {
			return l.keep(seg)
		}
		if l.opt.Mutants.On(mutant.RecoverUnsynced) && rec.TruncatedBytes == 0 {
			break
		}
		if err := settle(seg.f, t.known, seg.size); err != nil {
			return fmt.Errorf("settling %s: %w", l.path(seg.name), err)
		}
	}
	l.synced = seg.size
	return nil
}

// keep makes what was read of a foreign segment durable. Its owner's pages are
// written again, for its syncs may have failed (see settle); what stands behind them
// is left alone, for it may be writing there.
func (l *Log) keep(seg *segment) error {
	known := seg.size // a segment is synced before the next one is begun
	if l.state.file <= seg.base {
		known = 0
		if l.state.file == seg.base {
			known = min(l.state.pos, seg.size)
		}
	}
	if err := rewrite(seg.f, known, seg.size); err != nil {
		return fmt.Errorf("keeping %s: %w", l.path(seg.name), err)
	}
	l.synced = seg.size
	return nil
}

func (l *Log) path(name string) string { return path.Join(l.dir, name) }

// decode returns the batch in a frame, which must begin at offset want unless that is negative.
func decode(f frame, want int64) (Batch, Frame, error) {
	fr := Frame{Batch: f.payload}
	switch {
	case f.kind == kindBatch:
	case f.kind == kindOrigin && len(f.payload) >= originBytes:
		fr.Origin = int32(binary.BigEndian.Uint32(f.payload))
		fr.OriginSeq = int64(binary.BigEndian.Uint64(f.payload[4:]))
		fr.Batch = f.payload[originBytes:]
	default:
		return Batch{}, Frame{}, fmt.Errorf("frame of kind %d with %d bytes is no batch", f.kind, len(f.payload))
	}
	info, err := parse(fr.Batch)
	if err != nil {
		return Batch{}, Frame{}, err
	}
	if want >= 0 && info.Base != want {
		return Batch{}, Frame{}, fmt.Errorf("batch begins at offset %d, expected %d", info.Base, want)
	}
	return Batch{info, fr.Origin, fr.OriginSeq}, fr, nil
}

// create begins a segment.
func (l *Log) create(base int64) error {
	name := fileName(base, segmentSuffix)
	f, err := l.fs.OpenFile(l.path(name), true)
	if err != nil {
		return err
	}
	l.segs = append(l.segs, &segment{base: base, end: base, name: name, f: f})
	l.synced, l.dirty, l.dirDirty = 0, true, true
	return nil
}

// Start returns the first offset that can be read.
func (l *Log) Start() int64 { return l.start }

// End returns the offset that the next batch gets.
func (l *Log) End() int64 { return l.end }

// Durable returns the offset below which all is durable.
func (l *Log) Durable() int64 { return l.durable }

// Corrupt returns what Recovered.Corrupt said, and nil after Truncate or Reset has removed the damage.
func (l *Log) Corrupt() *CorruptError { return l.corrupt }

// fail makes the log refuse changes from now on.
func (l *Log) fail(err error) error {
	if err != nil && l.failed == nil {
		l.failed = err
	}
	return err
}

// changeable refuses a change after a failure.
func (l *Log) changeable() error {
	if l.failed != nil {
		return fmt.Errorf("log %s: %w: %w", l.dir, ErrFailed, l.failed)
	}
	return nil
}

// Append stores batches at the log's end with one write. It does not sync. Each batch must begin where the one before
// ends (otherwise ErrNotContiguous) and be whole (otherwise an error of batch.Parse; its own CRC is not checked).
//
// After an error of the file system (syscall.ENOSPC, …) nothing of it is in the log, also after a power loss, and it may be
// tried again; if that cannot be guaranteed, the log refuses all further changes with ErrFailed. A corrupt log
// refuses with *CorruptError.
func (l *Log) Append(frames ...Frame) error {
	if err := l.changeable(); err != nil {
		return err
	}
	if l.corrupt != nil {
		return fmt.Errorf("log %s refuses to append until it is truncated or reset: %w", l.dir, l.corrupt)
	}
	if len(frames) == 0 {
		return nil
	}
	bases := make([]int64, len(frames))
	end, total := l.end, int64(0)
	for i, fr := range frames {
		b, err := parse(fr.Batch)
		if err != nil {
			return fmt.Errorf("appending to log %s: %w", l.dir, err)
		}
		if b.Base != end {
			return fmt.Errorf("appending to log %s: %w: batch at offset %d, end %d", l.dir, ErrNotContiguous, b.Base, end)
		}
		bases[i], end = b.Base, b.Last+1
		total += frameHeader + originBytes + int64(len(fr.Batch))
	}
	if total > maxAppendBytes {
		return fmt.Errorf("appending to log %s: %d bytes in one write, the most is %d: split them", l.dir, total, maxAppendBytes)
	}
	if size := l.active().size; size > 0 && size+total > l.opt.SegmentBytes {
		// The old segment and its entry become durable first: recovery rests on it.
		if err := l.Sync(); err != nil {
			return err
		}
		if err := l.create(l.end); err != nil {
			return fmt.Errorf("beginning a segment: %w", err)
		}
	}
	seg := l.active()
	l.buf = l.buf[:0]
	index := make([]int64, len(frames))
	for i, fr := range frames {
		pos := seg.size + int64(len(l.buf))
		index[i] = pos
		if fr.Origin == 0 && fr.OriginSeq == 0 {
			l.buf = appendFrame(l.buf, seg.base, pos, kindBatch, l.synced, fr.Batch)
			continue
		}
		var origin [originBytes]byte
		binary.BigEndian.PutUint32(origin[:], uint32(fr.Origin))
		binary.BigEndian.PutUint64(origin[4:], uint64(fr.OriginSeq))
		l.buf = appendFrame(l.buf, seg.base, pos, kindOrigin, l.synced, origin[:], fr.Batch)
	}
	if err := writeOrUndo(seg.f, l.buf, seg.size, l.fail); err != nil {
		return fmt.Errorf("appending to %s: %w", l.path(seg.name), err)
	}
	for i, base := range bases {
		seg.add(base, index[i], l.opt.IndexBytes)
	}
	seg.size += int64(len(l.buf))
	seg.end, l.end, l.dirty = end, end, true
	const keep = 1 << 20
	if cap(l.buf) > keep {
		l.buf = nil
	}
	return nil
}

// writeOrUndo writes b at the end of f. If that fails it takes back, durably, what was written: a frame that was whole
// before the error would otherwise be found after a crash. If that fails too it calls fail.
func writeOrUndo(f vfs.File, b []byte, end int64, fail func(error) error) error {
	_, err := f.WriteAt(b, end)
	if err == nil {
		return nil
	}
	undo := f.Truncate(end)
	if undo == nil {
		undo = f.Sync()
	}
	if undo != nil {
		err = errors.Join(err, fmt.Errorf("undoing the write: %w", undo))
		_ = fail(err)
	}
	return err
}

// Sync makes all that was appended durable. After an error the log refuses all further changes with ErrFailed: a
// second attempt could succeed without having written anything.
func (l *Log) Sync() error {
	if err := l.changeable(); err != nil {
		return err
	}
	if !l.dirty && !l.dirDirty {
		return nil
	}
	seg := l.active()
	if err := seg.f.Sync(); err != nil {
		return l.fail(fmt.Errorf("syncing %s: %w", l.path(seg.name), err))
	}
	if l.dirDirty {
		if err := l.fs.SyncDir(l.dir); err != nil {
			return l.fail(fmt.Errorf("syncing directory %s: %w", l.dir, err))
		}
	}
	l.dirty, l.dirDirty = false, false
	l.synced, l.durable = seg.size, l.end
	return l.fail(l.state.set(state{start: l.start, file: seg.base, pos: seg.size}, false))
}

// Truncate removes the offsets from to on, durably, with all that was appended before being durable too. A batch
// that holds to goes as a whole, so that End may be less than to. to ≥ End changes nothing, unless the log is corrupt: then it
// must be at most the corrupt offset (otherwise ErrOutOfRange), and the damage is removed. to ≤ Start is Reset(to).
// After an error of the file system the log refuses all further changes with ErrFailed.
func (l *Log) Truncate(to int64) error {
	if err := l.changeable(); err != nil {
		return err
	}
	switch {
	case to < 0 || l.corrupt != nil && to > l.end:
		return fmt.Errorf("truncating log %s to %d: %w: it ends at %d", l.dir, to, ErrOutOfRange, l.end)
	case l.corrupt == nil && to >= l.end:
		return nil
	case to <= l.start || len(l.segs) == 0:
		return l.Reset(to)
	}
	i, seg := l.segment(to)
	pos, end := seg.size, seg.end
	err := l.walk(to, to+1, func(f frame, b Batch, _ Frame) bool {
		pos, end = f.pos, b.Base
		return false
	})
	if err != nil {
		return fmt.Errorf("truncating log %s to %d: %w", l.dir, to, err)
	}
	if end < l.start {
		return l.Reset(l.start)
	}
	if err := l.cut(i, pos, end); err != nil {
		return l.fail(fmt.Errorf("truncating log %s to %d: %w", l.dir, to, err))
	}
	return nil
}

// segment returns the segment that holds offset, or at whose end it lies.
func (l *Log) segment(offset int64) (int, *segment) {
	i, found := slices.BinarySearchFunc(l.segs, offset, func(s *segment, o int64) int { return cmp.Compare(s.base, o) })
	if !found {
		i--
	}
	return i, l.segs[i]
}

// cut ends the log at pos of segment i, which is offset end.
func (l *Log) cut(i int, pos, end int64) error {
	seg := l.segs[i]
	// First what says that the bytes must be there, then the later segments from the last one down, then the bytes.
	// A crash in between leaves a shorter log, or the old one.
	if err := l.state.set(l.state.least(seg.base, pos), true); err != nil {
		return err
	}
	if err := l.dropFrom(i + 1); err != nil {
		return err
	}
	known := pos
	if i == len(l.segs)-1 && l.corrupt == nil {
		known = min(pos, l.synced)
	}
	// From here on nothing behind pos is read any more, even if what follows fails.
	seg.size, seg.end = pos, end
	j, _ := slices.BinarySearchFunc(seg.index, pos, func(e indexEntry, p int64) int { return cmp.Compare(e.pos, p) })
	seg.index = seg.index[:j]
	l.end, l.durable = end, min(l.durable, end)
	if err := settle(seg.f, known, pos); err != nil {
		return err
	}
	// The segment's entry is durable too: dropFrom has synced the directory.
	l.durable, l.synced = end, pos
	l.dirty, l.dirDirty, l.corrupt = false, false, nil
	return l.state.set(state{start: l.start, file: seg.base, pos: pos}, false)
}

// dropFrom removes the segments from i on, the last one first, and syncs the directory.
func (l *Log) dropFrom(i int) error {
	for n := len(l.beyond); n > 0; n-- {
		if err := l.fs.Remove(l.path(l.beyond[n-1])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		l.beyond = l.beyond[:n-1]
	}
	for n := len(l.segs); n > i; n-- {
		if err := l.drop(l.segs[n-1]); err != nil {
			return err
		}
		l.segs = l.segs[:n-1]
		l.end = l.start
		if n > 1 {
			l.end = l.segs[n-2].end
		}
		l.durable = min(l.durable, l.end)
	}
	return l.fs.SyncDir(l.dir)
}

func (l *Log) drop(seg *segment) error {
	if err := l.fs.Remove(l.path(seg.name)); err != nil {
		return err
	}
	return seg.f.Close()
}

// Reset removes everything, durably, and lets the log begin at offset. It also ends the refusal of a corrupt log.
// After an error the log refuses all further changes with ErrFailed.
func (l *Log) Reset(offset int64) error {
	if err := l.changeable(); err != nil {
		return err
	}
	if offset < 0 {
		return fmt.Errorf("resetting log %s to %d: %w", l.dir, offset, ErrOutOfRange)
	}
	if err := l.reset(offset); err != nil {
		return l.fail(fmt.Errorf("resetting log %s to %d: %w", l.dir, offset, err))
	}
	return nil
}

func (l *Log) reset(offset int64) error {
	if err := l.state.set(state{start: l.start, file: -1}, true); err != nil {
		return err
	}
	if err := l.dropFrom(0); err != nil {
		return err
	}
	// The start before the segment: a segment that begins behind the start is one whose predecessors are lost.
	if err := l.state.set(state{start: offset, file: -1}, true); err != nil {
		return err
	}
	if err := l.create(offset); err != nil {
		return err
	}
	l.start, l.end, l.corrupt = offset, offset, nil
	if err := l.active().f.Sync(); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return err
	}
	l.dirty, l.dirDirty, l.durable = false, false, offset
	return l.state.set(state{start: offset, file: offset}, false)
}

// SetStart raises the start offset, durably, syncs the log, and removes the segments that lie wholly below it.
// offset must lie in [Start, End], otherwise ErrOutOfRange. A corrupt log refuses with *CorruptError. After an error of
// the file system the log refuses all further changes with ErrFailed.
func (l *Log) SetStart(offset int64) error {
	if err := l.changeable(); err != nil {
		return err
	}
	if l.corrupt != nil {
		return fmt.Errorf("log %s refuses a new start until it is truncated or reset: %w", l.dir, l.corrupt)
	}
	if offset < l.start || offset > l.end {
		return fmt.Errorf("log %s from %d to %d, new start %d: %w", l.dir, l.start, l.end, offset, ErrOutOfRange)
	}
	if offset == l.start {
		return nil
	}
	// What lies at the new start must be durable before the start is: a log must not end before it starts.
	if err := l.Sync(); err != nil {
		return err
	}
	if err := l.setStart(offset); err != nil {
		return l.fail(fmt.Errorf("setting the start of log %s to %d: %w", l.dir, offset, err))
	}
	return nil
}

func (l *Log) setStart(offset int64) error {
	st := l.state.state
	st.start = offset
	if err := l.state.set(st, true); err != nil {
		return err
	}
	l.start = offset
	for len(l.segs) > 1 && l.segs[1].base <= offset {
		if err := l.drop(l.segs[0]); err != nil {
			return err
		}
		l.segs = l.segs[1:]
	}
	return l.fs.SyncDir(l.dir)
}

// walk calls fn for the batches from the one that holds offset from, while they begin below to and fn returns true. Its
// arguments' bytes are valid until it returns.
func (l *Log) walk(from, to int64, fn func(frame, Batch, Frame) bool) error {
	if from >= min(to, l.end) {
		return nil
	}
	first, _ := l.segment(from)
	for _, seg := range l.segs[first:] {
		sc := &scanner{f: seg.f, id: seg.base, size: seg.size, window: firstWindow, buf: l.readBuf[:0], trusting: l.opt.Mutants.On(mutant.ChecksumIgnored)}
		want := seg.base
		j, found := slices.BinarySearchFunc(seg.index, from, func(e indexEntry, o int64) int { return cmp.Compare(e.base, o) })
		if !found {
			j--
		}
		if j >= 0 {
			sc.pos, want = seg.index[j].pos, seg.index[j].base
		}
		for want < seg.end {
			if want >= to {
				return nil
			}
			pos := sc.pos
			f, err := sc.next()
			l.readBuf = sc.buf
			if err != nil {
				return l.unreadable(seg, pos, want, err)
			}
			b, fr, err := decode(f, want)
			if err != nil {
				return l.damaged(seg, pos, want, err.Error())
			}
			want = b.Last + 1
			if b.Last >= from && !fn(f, b, fr) {
				return nil
			}
		}
	}
	return nil
}

// unreadable is the error of a walk that meets err at pos of a segment, where offset should be.
func (l *Log) unreadable(seg *segment, pos, offset int64, err error) error {
	if errors.Is(err, io.EOF) {
		err = &badFrame{pos, "the file ends here"}
	}
	var bad *badFrame
	if errors.As(err, &bad) {
		return l.damaged(seg, pos, offset, bad.Error())
	}
	return fmt.Errorf("reading %s: %w", l.path(seg.name), err)
}

func (l *Log) damaged(seg *segment, pos, offset int64, reason string) error {
	return &CorruptError{File: l.path(seg.name), Position: pos, Offset: offset, Next: -1, Reason: reason}
}

// Read returns the raw batches, one after the other and without frames, from the one that holds offset from, while
// they begin below to and fit into maxBytes; the first one always fits. from must lie in [Start, End], otherwise
// ErrOutOfRange; at End, or if to ≤ from, there is nothing to return. The frames' checksums are verified: damage is *CorruptError.
// After a failure the log can still be read.
func (l *Log) Read(from, to int64, maxBytes int) ([]byte, error) {
	var out []byte
	err := l.read(from, to, maxBytes, func(fr Frame) {
		if out == nil {
			out = make([]byte, 0, max(len(fr.Batch), min(maxBytes, l.stored(from, to))))
		}
		out = append(out, fr.Batch...)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// stored returns how many bytes at most the batches of [from, to) take in the segment of from, where the index knows.
func (l *Log) stored(from, to int64) int {
	_, seg := l.segment(from)
	at := func(offset int64) (int, bool) {
		return slices.BinarySearchFunc(seg.index, offset, func(e indexEntry, o int64) int { return cmp.Compare(e.base, o) })
	}
	end := seg.size
	if i, _ := at(to); i < len(seg.index) {
		end = seg.index[i].pos
	}
	i, found := at(from)
	if !found {
		i--
	}
	if i < 0 {
		return 0
	}
	return int(end - seg.index[i].pos)
}

// ReadFrames is like Read, with origins.
func (l *Log) ReadFrames(from, to int64, maxBytes int) ([]Frame, error) {
	var out []Frame
	err := l.read(from, to, maxBytes, func(fr Frame) {
		fr.Batch = slices.Clone(fr.Batch)
		out = append(out, fr)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (l *Log) read(from, to int64, maxBytes int, add func(Frame)) error {
	if errors.Is(l.failed, fs.ErrClosed) {
		return l.changeable()
	}
	if from < l.start || from > l.end {
		return fmt.Errorf("reading log %s at offset %d: %w: it has %d to %d", l.dir, from, ErrOutOfRange, l.start, l.end)
	}
	got, first := 0, true
	return l.walk(from, to, func(_ frame, _ Batch, fr Frame) bool {
		got += len(fr.Batch)
		if !first && got > maxBytes {
			return false
		}
		first = false
		add(fr)
		return got < maxBytes
	})
}

// Digest returns the SHA-256, in hexadecimal, of the start offset and of all batches with their origins. Segments and
// syncs do not enter it: logs with equal contents have equal digests.
func (l *Log) Digest() (string, error) {
	h := sha256.New()
	var head [8 + 4 + 8 + 4]byte
	binary.BigEndian.PutUint64(head[:], uint64(l.start))
	h.Write(head[:8])
	err := l.read(l.start, math.MaxInt64, math.MaxInt, func(fr Frame) {
		binary.BigEndian.PutUint32(head[8:], uint32(fr.Origin))
		binary.BigEndian.PutUint64(head[12:], uint64(fr.OriginSeq))
		binary.BigEndian.PutUint32(head[20:], uint32(len(fr.Batch)))
		h.Write(head[8:])
		h.Write(fr.Batch)
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Close syncs what was appended, unless the log has failed, and closes the files. Only reopening is possible afterwards; a
// second Close does nothing.
func (l *Log) Close() error {
	if errors.Is(l.failed, fs.ErrClosed) {
		return nil
	}
	var err error
	if l.failed == nil {
		err = l.Sync()
	}
	return errors.Join(err, l.closeFiles())
}

// Failed says why the log refuses changes, nil where it takes them.
func (l *Log) Failed() error { return l.failed }

// Abandon closes the files without syncing, as a killed process does.
func (l *Log) Abandon() error { return l.closeFiles() }

func (l *Log) closeFiles() error {
	var errs []error
	for _, s := range l.segs {
		errs = append(errs, s.f.Close())
	}
	if l.state != nil {
		errs = append(errs, l.state.f.Close())
	}
	l.segs, l.state = nil, nil
	l.failed = fs.ErrClosed
	return errors.Join(errs...)
}

// RemoveAll closes the log and removes its directory, durably. If a crash interrupts it, Open finds what is left to be
// corrupt, or an empty log; call RemoveAll again.
func (l *Log) RemoveAll() error {
	err := l.closeFiles()
	if err == nil {
		err = l.fs.RemoveAll(l.dir)
	}
	if err == nil {
		err = l.fs.SyncDir(path.Dir(l.dir))
	}
	if err != nil {
		return fmt.Errorf("removing log %s: %w", l.dir, err)
	}
	return nil
}
