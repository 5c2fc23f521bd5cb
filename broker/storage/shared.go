package storage

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/seglog"
	"github.com/faultline-mq/faultline/broker/vfs"
)

// What a lane has on the shared device, below LogsDir and its own directory.
const (
	// LockFile is the file that is locked, or that holds the lease.
	LockFile = "lock"

	guardFile  = "lease-guard" // locked while the lease is read and written
	holderFile = "holder"      // who took the lock last: a hint for the others
	plainDir   = "log"         // the log, without tokens
	reignsDir  = "reigns"      // with tokens: one directory per owner, named by its token
	claimFile  = "claim"       // makes the directory one that no rename replaces
	chainFile  = "chain"       // what the owner found: the ends of the reigns before it
	ownDir     = "log"         // the owner's part of the log
	tmpExt     = ".tmp"
	tokenWidth = 20
)

// guardTries bounds the wait for another node that is at the lease: it takes
// milliseconds, unless that node was stopped in the middle.
const (
	guardTries = 100
	guardPause = 2 * time.Millisecond
)

// errNoDevice is the answer where the node has no shared device.
var errNoDevice = errors.New("this node has no shared storage device; give the daemon its directory (--shared)")

// Share gives the store the device that it shares with other nodes.
func (s *Store) Share(device vfs.Locks) { s.shared, s.locks = device, map[broker.Lane]vfs.FileLock{} }

// Device carries out an effect on the shared device.
func (s *Store) Device(e broker.Device) broker.DeviceDone {
	d := broker.DeviceDone{Lane: e.Lane, Do: e.Do, Holder: broker.None}
	if s.shared == nil {
		d.Err = errNoDevice
		return d
	}
	switch e.Do {
	case broker.TryLock:
		d.Held, d.Holder, d.Err = s.tryLock(e.Lane, e.Lock)
	case broker.CheckLock:
		d.Held, d.Err = s.checkLock(e.Lane, e.Lock)
	case broker.Publish:
		d.Token, d.Err = s.publish(e.Lane, e.Lock.Owner)
	case broker.CheckToken:
		d.Token, d.Err = s.token(e.Lane)
	case broker.OpenLog:
		d.Held, d.Log, d.Err = s.openShared(e)
	case broker.CloseLog:
		d.Err = s.closeShared(e.Lane, e.Lock)
	case broker.RemoveLog:
		d.Err = s.removeShared(e.Lane)
	default:
		d.Err = fmt.Errorf("unknown operation %d on the shared device", e.Do)
	}
	if d.Err != nil {
		d.Err = fmt.Errorf("shared log %s: %w", e.Lane, d.Err)
	}
	return d
}

func (s *Store) tryLock(lane broker.Lane, l broker.Lock) (held bool, holder broker.NodeID, err error) {
	if err := vfs.MkdirSynced(s.shared, s.dir(lane)); err != nil {
		return false, broker.None, err
	}
	if l.Lease {
		held, err = s.takeLease(lane, l)
	} else {
		held, err = s.lockFile(lane)
	}
	if err != nil {
		return false, broker.None, err
	}
	name := path.Join(s.dir(lane), holderFile)
	if held {
		if err := seglog.WriteCheckpoint(s.shared, name, binary.BigEndian.AppendUint32(nil, uint32(l.Node)), false); err != nil {
			return false, broker.None, errors.Join(err, s.unlock(lane))
		}
		return true, l.Node, nil
	}
	// A hint that is damaged or gone is worth nothing, and missing it does no harm.
	if b, err := seglog.ReadCheckpoint(s.shared, name); err == nil && len(b) == 4 {
		return false, broker.NodeID(binary.BigEndian.Uint32(b)), nil
	}
	return false, broker.None, nil
}

func (s *Store) lock(lane broker.Lane) vfs.FileLock {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locks[lane]
}

func (s *Store) setLock(lane broker.Lane, l vfs.FileLock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l == nil {
		delete(s.locks, lane)
		return
	}
	s.locks[lane] = l
}

func (s *Store) lockFile(lane broker.Lane) (bool, error) {
	if err := s.unlock(lane); err != nil {
		return false, err
	}
	l, err := s.shared.Lock(path.Join(s.dir(lane), LockFile))
	if l == nil || err != nil {
		return false, err
	}
	s.setLock(lane, l)
	return true, nil
}

func (s *Store) unlock(lane broker.Lane) error {
	l := s.lock(lane)
	if l == nil {
		return nil
	}
	s.setLock(lane, nil)
	return l.Unlock()
}

func (s *Store) unlockAll() error {
	var errs []error
	for _, l := range s.locks {
		errs = append(errs, l.Unlock())
	}
	return errors.Join(errs...)
}

func (s *Store) checkLock(lane broker.Lane, l broker.Lock) (bool, error) {
	if l.Lease {
		return s.renewLease(lane, l)
	}
	lock := s.lock(lane)
	if lock == nil {
		return false, nil
	}
	return lock.Current()
}

// lease is what the lock file holds.
type lease struct {
	Node    broker.NodeID `json:"node"`
	Owner   string        `json:"owner"`
	Expires int64         `json:"expires"` // by the wall clock of the owner
}

// withLease lets change read and replace the lease, which nobody else does meanwhile;
// it reports whether to write.
func (s *Store) withLease(lane broker.Lane, change func(*lease) bool) (err error) {
	var guard vfs.FileLock
	for try := 0; guard == nil; try++ {
		if try == guardTries {
			return errors.New("another node does not let go of the lease")
		}
		if try > 0 {
			time.Sleep(guardPause)
		}
		if guard, err = s.shared.Lock(path.Join(s.dir(lane), guardFile)); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, guard.Unlock()) }()
	f, err := s.shared.OpenFile(path.Join(s.dir(lane), LockFile), true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); size > 0 && err != nil {
		return err
	}
	var l lease
	if json.Unmarshal(b, &l) != nil {
		l = lease{} // empty, or torn by a crash: nobody has it
	}
	if !change(&l) {
		return nil
	}
	if b, err = json.Marshal(l); err != nil {
		return err
	}
	// In place: the file that is the lock stays the same one.
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync()
}

func (s *Store) takeLease(lane broker.Lane, l broker.Lock) (held bool, err error) {
	err = s.withLease(lane, func(is *lease) bool {
		held = is.Owner == "" || is.Owner == l.Owner || l.Wall > is.Expires+int64(l.Margin)
		*is = lease{l.Node, l.Owner, l.Wall + int64(l.Length)}
		return held
	})
	return held && err == nil, err
}

func (s *Store) renewLease(lane broker.Lane, l broker.Lock) (held bool, err error) {
	err = s.withLease(lane, func(is *lease) bool {
		held = is.Owner == l.Owner
		is.Expires = l.Wall + int64(l.Length)
		return held
	})
	return held && err == nil, err
}

// freeLease ends the lease of an owner that closes its log, if it still has one.
func (s *Store) freeLease(lane broker.Lane, owner string) error {
	return s.withLease(lane, func(is *lease) bool {
		mine := is.Owner == owner
		*is = lease{}
		return mine
	})
}

// tokens returns those that were published, in order.
func (s *Store) tokens(lane broker.Lane) ([]uint64, error) {
	names, err := s.shared.List(path.Join(s.dir(lane), reignsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var tokens []uint64
	for _, name := range names {
		if t, err := strconv.ParseUint(name, 10, 64); err == nil && len(name) == tokenWidth {
			tokens = append(tokens, t)
		}
	}
	return tokens, nil
}

func (s *Store) token(lane broker.Lane) (uint64, error) {
	tokens, err := s.tokens(lane)
	if len(tokens) == 0 || err != nil {
		return 0, err
	}
	return slices.Max(tokens), nil
}

func (s *Store) reign(lane broker.Lane, token uint64, more ...string) string {
	return path.Join(append([]string{s.dir(lane), reignsDir, fmt.Sprintf("%0*d", tokenWidth, token)}, more...)...)
}

// publish claims the next token. Two nodes that publish at once get different ones:
// the token is a directory, and only one rename makes it.
func (s *Store) publish(lane broker.Lane, owner string) (token uint64, err error) {
	dir := path.Join(s.dir(lane), reignsDir)
	if err := vfs.MkdirSynced(s.shared, dir); err != nil {
		return 0, err
	}
	claim := path.Join(dir, "claim-"+owner+tmpExt)
	if err := s.shared.RemoveAll(claim); err != nil {
		return 0, err
	}
	if err := vfs.MkdirSynced(s.shared, claim); err != nil {
		return 0, err
	}
	f, err := s.shared.OpenFile(path.Join(claim, claimFile), true)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		return 0, err
	}
	for {
		if token, err = s.token(lane); err != nil {
			return 0, err
		}
		token++
		err = s.shared.Rename(claim, s.reign(lane, token))
		if err == nil {
			return token, s.shared.SyncDir(dir)
		}
		if taken, terr := vfs.Exists(s.shared, s.reign(lane, token)); !taken {
			return 0, errors.Join(err, terr)
		}
	}
}

// link is one reign in the chain that makes the log: it holds the offsets from the
// end of the one before it up to End. What its owner wrote behind that came too late.
type link struct {
	Token uint64 `json:"token"`
	End   int64  `json:"end"` // -1: whatever is there
}

// chain returns the reigns that make the log before token: those that the newest
// owner before it found, and that owner's own. An owner that published a token and
// came no further has no part of the log.
func (s *Store) chain(lane broker.Lane, tokens []uint64, token uint64) ([]link, error) {
	for _, t := range slices.Backward(tokens) {
		if t >= token {
			continue
		}
		b, err := seglog.ReadCheckpoint(s.shared, s.reign(lane, t, chainFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var links []link
		if err == nil {
			err = json.Unmarshal(b, &links)
		}
		if err != nil {
			return nil, err
		}
		return append(links, link{t, -1}), nil
	}
	return nil, nil
}

// openShared opens the log of a lane whose lock is held.
func (s *Store) openShared(e broker.Device) (bool, *broker.LogState, error) {
	if err := s.closeLog(e.Lane); err != nil {
		return false, nil, err
	}
	if !e.Fenced {
		l, r, err := seglog.Open(s.shared, path.Join(s.dir(e.Lane), plainDir), s.opt)
		if err != nil {
			return false, nil, err
		}
		s.setLog(e.Lane, l)
		st := &broker.LogState{Start: r.Start, Batches: r.Infos(), Torn: r.TruncatedBytes}
		if r.Corrupt != nil {
			st.Corrupt = r.Corrupt.Error()
		}
		return true, st, nil
	}
	tokens, err := s.tokens(e.Lane)
	if err != nil {
		return false, nil, err
	}
	if len(tokens) == 0 || slices.Max(tokens) != e.Token {
		return false, nil, nil
	}
	links, err := s.chain(e.Lane, tokens, e.Token)
	if err != nil {
		return false, nil, err
	}
	g := &reigns{}
	st := &broker.LogState{}
	for i := range links {
		if st.Corrupt != "" {
			break
		}
		if err := s.addReign(e.Lane, g, &links[i], st); err != nil {
			return false, nil, errors.Join(err, g.Abandon())
		}
	}
	if st.Corrupt == "" {
		if err := s.ownReign(e.Lane, g, e.Token, links); err != nil {
			return false, nil, errors.Join(err, g.Abandon())
		}
	}
	s.setLog(e.Lane, g)
	return true, st, nil
}

// addReign reads one reign of the chain, and sets its end where it was open.
func (s *Store) addReign(lane broker.Lane, g *reigns, k *link, st *broker.LogState) error {
	l, r, err := seglog.OpenForeign(s.shared, s.reign(lane, k.Token, ownDir), s.opt, k.End)
	if err != nil {
		return err
	}
	if len(g.old) == 0 {
		st.Start = r.Start
	}
	g.old = append(g.old, l)
	st.Batches = append(st.Batches, r.Infos()...)
	st.Torn += r.TruncatedBytes
	switch {
	case r.Corrupt != nil:
		st.Corrupt = r.Corrupt.Error()
	case r.End < k.End:
		st.Corrupt = fmt.Sprintf("the part of token %d ends at offset %d; it had been taken over up to %d", k.Token, r.End, k.End)
	case k.End < 0:
		k.End = r.End
	}
	return nil
}

// ownReign begins this owner's part of the log where the last one ends. Its chain is
// what makes it part of the log, so it comes last.
func (s *Store) ownReign(lane broker.Lane, g *reigns, token uint64, links []link) error {
	own, _, err := seglog.Open(s.shared, s.reign(lane, token, ownDir), s.opt)
	if err != nil {
		return err
	}
	g.own = own
	if end := g.end(); end > 0 {
		if err := own.Reset(end); err != nil {
			return err
		}
	}
	b, err := json.Marshal(links)
	if err != nil {
		return err
	}
	return seglog.WriteCheckpoint(s.shared, s.reign(lane, token, chainFile), b, true)
}

func (s *Store) closeLog(lane broker.Lane) error {
	s.mu.Lock()
	l := s.lanes[lane]
	delete(s.lanes, lane)
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	// Not Close, which syncs: what was not acknowledged may be another's by now.
	return l.Abandon()
}

func (s *Store) closeShared(lane broker.Lane, l broker.Lock) error {
	err := errors.Join(s.closeLog(lane), s.unlock(lane))
	if l.Lease {
		err = errors.Join(err, s.freeLease(lane, l.Owner))
	}
	return err
}

func (s *Store) removeShared(lane broker.Lane) error {
	held := s.lock(lane) != nil
	err := s.closeLog(lane)
	if held && err == nil {
		err = s.shared.RemoveAll(s.dir(lane))
	}
	return errors.Join(err, s.unlock(lane))
}

// reigns is a log with tokens: the parts of former owners, read only, and this one's.
type reigns struct {
	old []*seglog.Log
	own *seglog.Log // nil: what comes before it is damaged
}

var _ log = (*reigns)(nil)

var errDamaged = errors.New("the log is damaged before its end and takes no changes")

func (g *reigns) end() int64 {
	if n := len(g.old); n > 0 {
		return g.old[n-1].End()
	}
	return 0
}

func (g *reigns) all() []*seglog.Log {
	if g.own == nil {
		return g.old
	}
	return append(slices.Clip(g.old), g.own)
}

// Append implements log.
func (g *reigns) Append(frames ...seglog.Frame) error {
	if g.own == nil {
		return errDamaged
	}
	return g.own.Append(frames...)
}

// Truncate implements log.
func (g *reigns) Truncate(to int64) error {
	if g.own == nil || to < g.end() {
		return errDamaged
	}
	return g.own.Truncate(to)
}

// Sync implements log.
func (g *reigns) Sync() error {
	if g.own == nil {
		return nil
	}
	return g.own.Sync()
}

// Read implements log.
func (g *reigns) Read(from, to int64, maxBytes int) ([]byte, error) {
	var out []byte
	for _, l := range g.all() {
		if l.End() <= from || l.Start() >= to {
			continue
		}
		b, err := l.Read(max(from, l.Start()), min(to, l.End()), maxBytes-len(out))
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	if out == nil {
		return nil, fmt.Errorf("%w: nothing is stored from %d to %d", seglog.ErrOutOfRange, from, to)
	}
	return out, nil
}

// Close implements log.
func (g *reigns) Close() error { return g.each((*seglog.Log).Close) }

// Abandon implements log.
func (g *reigns) Abandon() error { return g.each((*seglog.Log).Abandon) }

func (g *reigns) each(f func(*seglog.Log) error) error {
	var errs []error
	for _, l := range g.all() {
		errs = append(errs, f(l))
	}
	return errors.Join(errs...)
}

// Failed implements log.
func (g *reigns) Failed() error {
	if g.own == nil {
		return errDamaged
	}
	return g.own.Failed()
}
