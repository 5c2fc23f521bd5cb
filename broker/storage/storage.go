// Package storage carries out a node's storage effects on a file system. The
// driver of the daemon and the one of the simulator share it; they differ only
// in when they call it. Calls for one lane must not overlap; lanes are
// independent of each other and of the metadata log.
package storage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/seglog"
	"github.com/faultline-mq/faultline/broker/vfs"
)

// The directories below the data directory. The metadata quorum's log has its
// own, so that it can lie on another disk.
const (
	LogsDir = "logs"
	MetaDir = "meta"
	highExt = "high-watermark"
	keptExt = "kept"

	// removedExt marks a lane's directory that is being deleted: a log that lost only
	// its first segments must never be taken for a lane again.
	removedExt = ".removed"
	// stoppedFile holds the broker epoch of an incarnation that stopped in order (Kafka:
	// CleanShutdownFileHandler). It is on the disk of the logs, so that it is lost with them.
	stoppedFile = "clean-shutdown"
	// directoryFile holds what the metadata volume was formatted with.
	directoryFile = "directory"
)

// Store is a node's open storage.
type Store struct {
	logs vfs.FS
	opt  seglog.Options
	meta *seglog.RecordLog

	shared vfs.Locks // nil: there is no shared device

	mu    sync.Mutex
	lanes map[broker.Lane]log
	locks map[broker.Lane]vfs.FileLock // on the shared device
}

// log is what a lane's operations are done to.
type log interface {
	Append(frames ...seglog.Frame) error
	Truncate(to int64) error
	Sync() error
	Read(from, to int64, maxBytes int) ([]byte, error)
	Close() error
	Abandon() error
	Failed() error
}

// Open recovers everything that is on disk: logs is the file system of the
// partition logs, meta that of the metadata log (they may be one). What it
// returns is durable.
func Open(logs, meta vfs.FS, segmentBytes int64, mutants mutant.Set) (*Store, node.Recovered, error) {
	// Every batch is indexed: most reads want the newest one alone, and the node's own index is larger.
	s := &Store{logs: logs, opt: seglog.Options{SegmentBytes: segmentBytes, Mutants: mutants, IndexBytes: 1}, lanes: map[broker.Lane]log{}}
	var rec node.Recovered
	if err := vfs.MkdirSynced(logs, LogsDir); err != nil {
		return nil, rec, fmt.Errorf("data directory: %w", err)
	}
	names, err := logs.List(LogsDir)
	if err != nil {
		return nil, rec, fmt.Errorf("data directory: %w", err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, removedExt) {
			if err := logs.RemoveAll(path.Join(LogsDir, name)); err != nil {
				return nil, rec, errors.Join(fmt.Errorf("data directory: %w", err), s.Abandon())
			}
			continue
		}
		lane := broker.Lane(name)
		state, err := s.open(lane)
		if err != nil {
			return nil, rec, errors.Join(err, s.Abandon())
		}
		rec.Lanes = append(rec.Lanes, state)
	}
	if rec.Stopped, err = s.takeStopped(rec.Lanes); err != nil {
		return nil, rec, errors.Join(fmt.Errorf("data directory: %w", err), s.Abandon())
	}
	if rec.Directory, err = directory(meta); err != nil {
		return nil, rec, errors.Join(fmt.Errorf("metadata log: %w", err), s.Abandon())
	}
	if s.meta, rec.Meta, err = seglog.OpenRecords(meta, MetaDir); err != nil {
		return nil, rec, errors.Join(fmt.Errorf("metadata log: %w; give the node an empty data directory to bring it back as a new one", err), s.Abandon())
	}
	return s, rec, nil
}

// Format makes an empty metadata volume that of a new node, which waits until it
// is added to a running cluster under this directory id. A volume that holds a
// metadata log or was formatted with another id is refused.
func Format(meta vfs.FS, id cluster.Directory) error {
	names, err := meta.List(".")
	if err != nil {
		return fmt.Errorf("formatting the metadata volume: %w", err)
	}
	was, err := directory(meta)
	switch {
	case err != nil:
		return fmt.Errorf("formatting the metadata volume: %w", err)
	case was == id:
		return nil
	case was != 0 || slices.Contains(names, MetaDir):
		return fmt.Errorf("the metadata volume is that of directory %d and cannot become that of %d: give the new node an empty one", was, id)
	}
	f, err := meta.OpenFile(directoryFile, true)
	if err != nil {
		return fmt.Errorf("formatting the metadata volume: %w", err)
	}
	_, err = f.WriteAt([]byte(strconv.FormatUint(uint64(id), 10)), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = meta.SyncDir(".")
	}
	if err != nil {
		return fmt.Errorf("formatting the metadata volume: %w", err)
	}
	return nil
}

// directory returns what the metadata volume was formatted with, 0 for nothing.
func directory(meta vfs.FS) (cluster.Directory, error) {
	b, err := vfs.ReadFile(meta, directoryFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil || id == 0 {
		return 0, fmt.Errorf("file %s holds %q, which is no directory id; give the node an empty volume and add it again", directoryFile, b)
	}
	return cluster.Directory(id), nil
}

func (s *Store) dir(lane broker.Lane) string { return path.Join(LogsDir, string(lane)) }

func (s *Store) open(lane broker.Lane) (node.LaneState, error) {
	l, r, err := seglog.Open(s.logs, s.dir(lane), s.opt)
	if err != nil {
		return node.LaneState{}, fmt.Errorf("log %s: %w", lane, err)
	}
	s.setLog(lane, l)
	state := node.LaneState{Lane: lane, Start: r.Start, Batches: r.Infos(), Torn: r.TruncatedBytes}
	if r.Corrupt != nil {
		state.Corrupt = r.Corrupt.Error()
	}
	// A checkpoint that is damaged or gone is worth nothing, and missing it does no harm.
	if b, err := seglog.ReadCheckpoint(s.logs, path.Join(s.dir(lane), highExt)); err == nil && len(b) == 8 {
		state.High = min(int64(binary.BigEndian.Uint64(b)), r.End)
	}
	// What is kept was durable when it counted: if it cannot be read, something took it.
	switch b, err := seglog.ReadCheckpoint(s.logs, path.Join(s.dir(lane), keptExt)); {
	case err == nil:
		state.Kept = b
	case !errors.Is(err, fs.ErrNotExist):
		state.Corrupt = cmp.Or(state.Corrupt, err.Error())
	}
	return state, nil
}

func (s *Store) setLog(lane broker.Lane, l log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lanes[lane] = l
}

func (s *Store) lane(lane broker.Lane) (log, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[lane]
	if l == nil {
		return nil, fmt.Errorf("log %s is not open", lane)
	}
	return l, nil
}

// OpenLane makes a lane's empty log where there is none.
func (s *Store) OpenLane(lane broker.Lane) error {
	if l, _ := s.lane(lane); l != nil {
		return nil
	}
	_, err := s.open(lane)
	return err
}

// RemoveLane deletes a lane's log.
func (s *Store) RemoveLane(lane broker.Lane) error {
	l, err := s.lane(lane)
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.lanes, lane)
	s.mu.Unlock()
	if err := l.Abandon(); err != nil {
		return err
	}
	gone := s.dir(lane) + removedExt
	if err := s.logs.RemoveAll(gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.logs.Rename(s.dir(lane), gone); err != nil {
		return err
	}
	if err := s.logs.SyncDir(LogsDir); err != nil {
		return err
	}
	if err := s.logs.RemoveAll(gone); err != nil {
		return err
	}
	return s.logs.SyncDir(LogsDir)
}

// Append writes batches at the end of a lane.
func (s *Store) Append(e broker.Append) error {
	l, err := s.lane(e.Lane)
	if err != nil {
		return err
	}
	frames := make([]seglog.Frame, len(e.Batches))
	for i, b := range e.Batches {
		frames[i] = seglog.Frame{Batch: b}
	}
	return l.Append(frames...)
}

// Truncate cuts a lane.
func (s *Store) Truncate(e broker.Truncate) error {
	l, err := s.lane(e.Lane)
	if err != nil {
		return err
	}
	return l.Truncate(e.To)
}

// Sync makes a lane durable.
func (s *Store) Sync(lane broker.Lane) error {
	l, err := s.lane(lane)
	if err != nil {
		return err
	}
	return l.Sync()
}

// Read returns the raw batches of a slice.
func (s *Store) Read(sl broker.Slice) ([]byte, error) {
	l, err := s.lane(sl.Lane)
	if err != nil {
		return nil, err
	}
	data, err := l.Read(sl.From, sl.To, 1<<30)
	if err != nil {
		return nil, err
	}
	if info, err := batch.Parse(data); err != nil || info.Base > sl.From {
		return nil, fmt.Errorf("log %s has no batch at offset %d", sl.Lane, sl.From)
	}
	return data, nil
}

// Checkpoint keeps a lane's high watermark; it is not synced.
func (s *Store) Checkpoint(e broker.Checkpoint) error {
	return seglog.WriteCheckpoint(s.logs, path.Join(s.dir(e.Lane), highExt), binary.BigEndian.AppendUint64(nil, uint64(e.HW)), false)
}

// Keep replaces what a lane keeps beside its log, durably.
func (s *Store) Keep(e broker.Keep) error {
	if _, err := s.lane(e.Lane); err != nil {
		return err
	}
	return seglog.WriteCheckpoint(s.logs, path.Join(s.dir(e.Lane), keptExt), e.State, true)
}

// Meta appends to the metadata log, or replaces it, and makes it durable.
func (s *Store) Meta(e broker.MetaAppend) error {
	if e.Snapshot {
		return s.meta.Rotate(e.Records...)
	}
	if err := s.meta.Append(e.Records...); err != nil {
		return err
	}
	return s.meta.Sync()
}

// Lanes returns the open lanes, sorted.
func (s *Store) Lanes() []broker.Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes := make([]broker.Lane, 0, len(s.lanes))
	for l := range s.lanes {
		lanes = append(lanes, l)
	}
	slices.Sort(lanes)
	return lanes
}

// Close syncs and closes everything. If no log ever failed, it then keeps the epoch
// of the broker that stopped, unless that is 0.
func (s *Store) Close(epoch int64) error {
	var failed, errs []error
	for _, lane := range s.Lanes() {
		failed = append(failed, s.lanes[lane].Failed())
		errs = append(errs, s.lanes[lane].Close())
	}
	err := errors.Join(append(errs, s.meta.Close(), s.unlockAll())...)
	if epoch == 0 || err != nil || errors.Join(failed...) != nil {
		return err
	}
	return seglog.WriteCheckpoint(s.logs, stoppedFile, binary.BigEndian.AppendUint64(nil, uint64(epoch)), true)
}

// takeStopped returns what Close kept, for this start alone: 0 where there is nothing,
// where it is damaged, and where a log is, because that happened after the stop.
func (s *Store) takeStopped(found []node.LaneState) (int64, error) {
	b, err := seglog.ReadCheckpoint(s.logs, stoppedFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	// Its removal need not be durable: what it says is of no use once the broker is registered anew.
	if err := s.logs.Remove(stoppedFile); err != nil {
		return 0, err
	}
	damaged := func(l node.LaneState) bool { return l.Corrupt != "" || l.Torn > 0 }
	if err != nil || len(b) != 8 || slices.ContainsFunc(found, damaged) {
		return 0, nil
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

// Abandon closes everything as a killed process does: nothing more is written.
func (s *Store) Abandon() error {
	var errs []error
	for _, lane := range s.Lanes() {
		errs = append(errs, s.lanes[lane].Abandon())
	}
	if s.meta != nil {
		errs = append(errs, s.meta.Abandon())
	}
	errs = append(errs, s.unlockAll())
	return errors.Join(errs...)
}
