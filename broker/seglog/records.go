package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/faultline-mq/faultline/broker/vfs"
)

// RecordLog is an append-only log of opaque records, for the metadata quorum. It lies in one file, which Rotate
// replaces by one that begins with a snapshot. It uses the frames and the state file of a Log, and recovery
// follows the same rules, with one difference: a corrupt record log is not opened, for a node that forgets its vote can
// break the quorum. It is not safe for concurrent use.
type RecordLog struct {
	fs        vfs.FS
	dir       string
	gen       int64 // number of the file
	f         vfs.File
	size      int64
	synced    int64
	state     *stateFile
	truncated int64
	dirty     bool
	failed    error
	buf       []byte
}

// OpenRecords opens the record log in dir, making it if there is none, and returns its records, all of them durable. A torn
// tail is cut off. Damage to what had been durable is *CorruptError, and the files are left as they are: the node
// must come back with an empty directory, as a new member.
func OpenRecords(fsys vfs.FS, dir string) (_ *RecordLog, records [][]byte, err error) {
	l := &RecordLog{fs: fsys, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening record log %s: %w", dir, err), l.closeFiles())
		}
	}()
	if err := vfs.MkdirSynced(fsys, dir); err != nil {
		return nil, nil, err
	}
	if l.state, err = openState(fsys, dir, false); err != nil {
		return nil, nil, err
	}
	names, gens, err := numbered(fsys, dir, recordsSuffix)
	if err != nil {
		return nil, nil, err
	}
	// A rotation that was interrupted leaves the old file; the one that replaced it is complete.
	if n := len(gens); n > 0 {
		l.gen = gens[n-1]
	}
	if l.state.file >= 0 && (len(gens) == 0 || l.gen < l.state.file) {
		return nil, nil, &CorruptError{
			File: path.Join(dir, fileName(l.state.file, recordsSuffix)), Offset: -1, Next: -1, Reason: "the file is missing",
		}
	}
	if l.f, err = fsys.OpenFile(l.name(), len(gens) == 0); err != nil {
		return nil, nil, err
	}
	if records, err = l.recover(); err != nil {
		return nil, nil, err
	}
	for i := 0; i+1 < len(names); i++ {
		if err := fsys.Remove(path.Join(dir, names[i])); err != nil {
			return nil, nil, err
		}
	}
	if err := fsys.SyncDir(dir); err != nil {
		return nil, nil, err
	}
	if err := l.state.set(state{file: l.gen, pos: l.size}, false); err != nil {
		return nil, nil, err
	}
	return l, records, nil
}

func (l *RecordLog) name() string { return path.Join(l.dir, fileName(l.gen, recordsSuffix)) }

func (l *RecordLog) recover() ([][]byte, error) {
	size, err := l.f.Size()
	if err != nil {
		return nil, err
	}
	sc := &scanner{f: l.f, id: l.gen, size: size, window: recoveryWindow}
	var records [][]byte
	var bad *badFrame
	certain := false // a whole frame that cannot be here
	claimed := int64(0)
	for bad == nil {
		f, err := sc.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.As(err, &bad) {
			return nil, fmt.Errorf("reading %s: %w", l.name(), err)
		}
		if bad != nil {
			break
		}
		if f.kind != kindRecord {
			certain = true
			bad = &badFrame{f.pos, fmt.Sprintf("frame of kind %d is no record", f.kind)}
			break
		}
		records = append(records, bytes.Clone(f.payload))
		claimed = max(claimed, f.synced)
		l.size = f.end()
	}
	t := tail{known: claimed, next: -1}
	if l.state.file == l.gen {
		t.known = max(t.known, l.state.pos)
	}
	reason := "the file ends here"
	if bad != nil {
		reason = bad.reason
		if t, err = sc.judge(l.size, t.known); err != nil {
			return nil, fmt.Errorf("reading %s: %w", l.name(), err)
		}
	}
	if certain || l.size < t.known {
		return nil, &CorruptError{
			File: l.name(), Position: l.size, Offset: -1, Next: -1,
			Reason: fmt.Sprintf("%s; it was durable up to byte %d", reason, max(t.known, l.size)),
		}
	}
	l.truncated = size - l.size
	if err := settle(l.f, t.known, l.size); err != nil {
		return nil, fmt.Errorf("settling %s: %w", l.name(), err)
	}
	l.synced = l.size
	return records, nil
}

// TruncatedBytes returns the length of the torn tail that OpenRecords cut off.
func (l *RecordLog) TruncatedBytes() int64 { return l.truncated }

// Size returns the size of the file in bytes, from which a caller can tell when to rotate.
func (l *RecordLog) Size() int64 { return l.size }

func (l *RecordLog) fail(err error) error {
	if err != nil && l.failed == nil {
		l.failed = err
	}
	return err
}

func (l *RecordLog) changeable() error {
	if l.failed != nil {
		return fmt.Errorf("record log %s: %w: %w", l.dir, ErrFailed, l.failed)
	}
	return nil
}

// length returns the bytes that records take in a file.
func length(records [][]byte) int64 {
	var n int64
	for _, r := range records {
		n += frameHeader + int64(len(r))
	}
	return n
}

// frames encodes records for position pos of file gen into l.buf.
func (l *RecordLog) frames(gen, pos, synced int64, records [][]byte) error {
	total := pos + length(records)
	if total > maxFile {
		return fmt.Errorf("record log %s would grow to %d bytes, the most is %d: rotate it", l.dir, total, maxFile)
	}
	l.buf = l.buf[:0]
	for _, r := range records {
		l.buf = appendFrame(l.buf, gen, pos+int64(len(l.buf)), kindRecord, synced, r)
	}
	return nil
}

// Append stores records at the end with one write. It does not sync. Errors are as with Log.Append.
func (l *RecordLog) Append(records ...[]byte) error {
	if err := l.changeable(); err != nil {
		return err
	}
	if len(records) == 0 {
		return nil
	}
	if err := l.frames(l.gen, l.size, l.synced, records); err != nil {
		return err
	}
	if err := writeOrUndo(l.f, l.buf, l.size, l.fail); err != nil {
		return fmt.Errorf("appending to %s: %w", l.name(), err)
	}
	l.size += int64(len(l.buf))
	l.dirty = true
	return nil
}

// Sync makes all that was appended durable. After an error the log refuses all further changes with ErrFailed.
func (l *RecordLog) Sync() error {
	if err := l.changeable(); err != nil {
		return err
	}
	if !l.dirty {
		return nil
	}
	if err := l.f.Sync(); err != nil {
		return l.fail(fmt.Errorf("syncing %s: %w", l.name(), err))
	}
	l.dirty, l.synced = false, l.size
	return l.fail(l.state.set(state{file: l.gen, pos: l.size}, false))
}

// Rotate replaces all records by the given ones, atomically and durably: a snapshot, and the records that
// follow it. If it fails before the replacement (syscall.ENOSPC, …) the log is as it was; otherwise it refuses all
// further changes with ErrFailed.
func (l *RecordLog) Rotate(records ...[]byte) error {
	if err := l.changeable(); err != nil {
		return err
	}
	if err := l.rotate(records); err != nil {
		return fmt.Errorf("rotating record log %s: %w", l.dir, err)
	}
	return nil
}

func (l *RecordLog) rotate(records [][]byte) error {
	gen := l.gen + 1
	// The file gets its name when it is durable as a whole, so each of its frames may testify for all of it.
	if err := l.frames(gen, 0, length(records), records); err != nil {
		return err
	}
	name := path.Join(l.dir, fileName(gen, recordsSuffix))
	tmp := name + tmpSuffix
	f, err := l.fs.OpenFile(tmp, true)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(l.buf, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.fs.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, f.Close(), l.fs.Remove(tmp))
	}
	old := l.f
	oldName := l.name()
	l.f, l.gen, l.size, l.synced, l.dirty = f, gen, int64(len(l.buf)), int64(len(l.buf)), false
	err = errors.Join(old.Close(), l.fs.SyncDir(l.dir))
	if err == nil {
		err = l.state.set(state{file: l.gen, pos: l.size}, true)
	}
	if err == nil {
		err = l.fs.Remove(oldName)
	}
	return l.fail(err)
}

// Close syncs what was appended, unless the log has failed, and closes the files. A second Close does nothing.
func (l *RecordLog) Close() error {
	if errors.Is(l.failed, fs.ErrClosed) {
		return nil
	}
	var err error
	if l.failed == nil {
		err = l.Sync()
	}
	return errors.Join(err, l.closeFiles())
}

// Abandon closes the files without syncing, as a killed process does.
func (l *RecordLog) Abandon() error { return l.closeFiles() }

func (l *RecordLog) closeFiles() error {
	var errs []error
	if l.f != nil {
		errs = append(errs, l.f.Close())
	}
	if l.state != nil {
		errs = append(errs, l.state.f.Close())
	}
	l.f, l.state = nil, nil
	l.failed = fs.ErrClosed
	return errors.Join(errs...)
}
