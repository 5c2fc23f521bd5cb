package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/faultline-mq/faultline/broker/vfs"
)

const (
	stateName  = "state"
	stateBytes = 24
)

// state is a small file beside a log that says what must be there: one frame, rewritten in place.
//
// It is a lower bound. It is raised after a sync, without a sync of its own: after a killed process it is exact, after a power
// loss it may be older, or gone. It is lowered, durably, before anything that it speaks of is removed.
type state struct {
	start int64 // a Log's start offset; 0 in a RecordLog
	file  int64 // id of the last file that is durable; −1: nothing is
	pos   int64 // that file is durable up to here
}

func (s state) append(dst []byte) []byte {
	var b [stateBytes]byte
	binary.BigEndian.PutUint64(b[:], uint64(s.start))
	binary.BigEndian.PutUint64(b[8:], uint64(s.file))
	binary.BigEndian.PutUint64(b[16:], uint64(s.pos))
	return appendFrame(dst, 0, 0, kindState, 0, b[:])
}

// stateFile is the open state file.
type stateFile struct {
	f   vfs.File
	buf []byte
	state
	known bool // the file held a valid state at opening
}

func openState(fsys vfs.FS, dir string, foreign bool) (*stateFile, error) {
	f, err := fsys.OpenFile(path.Join(dir, stateName), true)
	if err != nil {
		return nil, err
	}
	s := &stateFile{f: f, state: state{file: -1}}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	sc := scanner{f: f, size: size, window: frameHeader + stateBytes}
	fr, err := sc.next()
	var bad *badFrame
	switch {
	case err == nil && fr.kind == kindState && len(fr.payload) == stateBytes:
		p := fr.payload
		st := state{
			start: int64(binary.BigEndian.Uint64(p)),
			file:  int64(binary.BigEndian.Uint64(p[8:])),
			pos:   int64(binary.BigEndian.Uint64(p[16:])),
		}
		if st.start >= 0 && st.file >= -1 && st.pos >= 0 {
			s.state, s.known = st, true
		}
	case err == nil || errors.As(err, &bad) || size == 0:
		// Absent or torn: nothing is known.
	default:
		return nil, errors.Join(err, f.Close())
	}
	if s.known && !foreign {
		// What was read may be in the page cache only, and a sync of it may have failed before (see settle).
		if err := s.set(s.state, true); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return s, nil
}

// set writes the state, durably if sync is set.
func (s *stateFile) set(to state, sync bool) error {
	if to == s.state && !sync {
		return nil
	}
	s.buf = to.append(s.buf[:0])
	if _, err := s.f.WriteAt(s.buf, 0); err != nil {
		return fmt.Errorf("writing the log's state: %w", err)
	}
	s.state = to
	if sync {
		if err := s.f.Sync(); err != nil {
			return fmt.Errorf("syncing the log's state: %w", err)
		}
	}
	return nil
}

// least returns the state with the lower bound lowered to file and pos, if it lies above them.
func (s state) least(file, pos int64) state {
	if s.file > file || s.file == file && s.pos > pos {
		s.file, s.pos = file, pos
	}
	return s
}

// WriteCheckpoint replaces the file name, durably if sync is set. Without sync it is atomic for a killed process
// only: after a power loss ReadCheckpoint may find the old data, the new, or an error.
func WriteCheckpoint(fsys vfs.FS, name string, data []byte, sync bool) (err error) {
	tmp := name + tmpSuffix
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing checkpoint %s: %w", name, err)
		}
	}()
	f, err := fsys.OpenFile(tmp, true)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(appendFrame(nil, 0, 0, kindCheckpoint, 0, data), 0)
	}
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return err
	}
	if sync {
		return fsys.SyncDir(path.Dir(name))
	}
	return nil
}

// ReadCheckpoint returns what WriteCheckpoint wrote: fs.ErrNotExist without a file, *CorruptError if its contents are
// damaged.
func ReadCheckpoint(fsys vfs.FS, name string) ([]byte, error) {
	b, err := vfs.ReadFile(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("checkpoint %s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	sc := scanner{size: int64(len(b)), buf: b}
	fr, err := sc.next()
	reason := "more follows the checkpoint"
	switch {
	case err != nil && len(b) == 0:
		reason = "the file is empty"
	case err != nil:
		reason = err.Error()
	case fr.kind != kindCheckpoint:
		reason = fmt.Sprintf("a frame of kind %d", fr.kind)
	case sc.pos == sc.size:
		return fr.payload, nil
	}
	return nil, &CorruptError{File: name, Offset: -1, Next: -1, Reason: reason}
}
