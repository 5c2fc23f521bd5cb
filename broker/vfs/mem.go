package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Names of the operations, as the hook of Mem.SetError gets them and as errors carry them.
const (
	OpMkdir    = "mkdir"
	OpOpen     = "open" // opening a file that exists
	OpCreate   = "create"
	OpRemove   = "remove"
	OpRename   = "rename"
	OpList     = "list"
	OpStat     = "stat"
	OpSyncDir  = "syncdir"
	OpRead     = "read"
	OpWrite    = "write"
	OpTruncate = "truncate"
	OpSync     = "sync"
)

const (
	pageBytes   = 4096
	sectorBytes = 512 // a sector is written whole or not at all
)

// Mem is a file system in memory that keeps two states: what programs see (the page cache) and what would survive a
// power loss (the medium). A killed process loses nothing; PowerLoss loses what was not synced.
//
// The model is that of ext4 with ordered metadata, taken at its worst:
//
//   - File.Sync makes a file's contents and size durable. It also makes the file's own entry durable, with all
//     earlier changes of the directories that lead to it, because ext4 commits them in one journal
//     transaction. StrictEntries takes this away, as POSIX allows: then only SyncDir makes entries durable.
//   - SyncDir makes the creations, removals and renamings in one directory durable. Without it those of a directory
//     survive as a prefix of the order in which they were made (the journal commits in order); each is atomic.
//   - Unsynced writes and truncations of one file survive independently of those of other files, in one of four
//     ways: none; all; a prefix of them in the order of the calls, the last one torn at any byte; or any
//     mixture of old and new sectors of the pages that they touched, with the old size, the new size or one between.
//     In that mixture a later write can survive without an earlier one, and bytes behind a truncation can come back.
//   - A failed Sync (SetError) drops the unsynced writes: they stay visible, a later Sync does not make them durable,
//     and a power loss takes them away, unless they are written again. So does Linux. Truncations stay
//     unsynced: they are in the journal, which commits or takes the whole file system down.
//
// All methods may be called from several goroutines. The same calls in the same order, with the same random source,
// give the same states.
type Mem struct {
	mu       sync.Mutex
	root     *node
	gen      int // incremented when all open files become stale
	inodes   uint64
	strict   bool
	capacity int64
	used     int64
	fail     func(op, name string) error
}

var (
	_ FS   = (*Mem)(nil)
	_ File = (*memFile)(nil)
)

// node is a file or a directory.
type node struct {
	dir    bool
	parent *node

	// a directory's entries, what of them is durable, and the changes between the two
	entries, durableEntries map[string]*node
	changes                 []change

	// a file's contents, what of them is durable, and the writes and truncations between the two
	data, durable []byte
	shared        bool // durable is a prefix of data, in the same memory
	pending       []write
	written       []byte // memory of the pending writes' data
	links         int    // 1 while an entry names it
	inode         uint64
	lock          *memLock // nil: nobody holds it
}

// change is one atomic change of a directory: from loses its name, to gets node.
type change struct {
	from, to string // "" for none
	node     *node  // the node that to gets
}

// write is a write at off, or a truncation to off where data is nil.
type write struct {
	off  int64
	data []byte
	was  int64 // size before it
}

func newDir(parent *node) *node {
	return &node{dir: true, parent: parent, entries: map[string]*node{}, durableEntries: map[string]*node{}}
}

// NewMem returns an empty file system without a capacity limit.
func NewMem() *Mem { return &Mem{root: newDir(nil)} }

// StrictEntries chooses whether only SyncDir makes directory entries durable (see Mem). The default is false.
func (m *Mem) StrictEntries(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.strict = on
}

// SetCapacity limits the sum of the sizes of all files, in bytes; 0 takes the limit away. A write or an extension
// beyond it does what fits and returns syscall.ENOSPC; files that are larger already keep their bytes.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// Used returns the sum of the sizes of all files in bytes.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// SetError has fail called before every operation with its name (OpWrite, …) and the file or directory; an error
// that it returns becomes the operation's, wrapped in *fs.PathError, and the operation is not done. nil ends it.
// fail must not call the file system.
func (m *Mem) SetError(fail func(op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fail
}

// check refuses invalid names and asks the hook.
func (m *Mem) check(op, name string) error {
	if !fs.ValidPath(name) {
		return pathError(op, name, fs.ErrInvalid)
	}
	return m.injected(op, name)
}

// injected asks the hook.
func (m *Mem) injected(op, name string) error {
	if m.fail != nil {
		if err := m.fail(op, name); err != nil {
			return pathError(op, name, err)
		}
	}
	return nil
}

// find returns the node of a valid name.
func (m *Mem) find(name string) (*node, error) {
	n := m.root
	if name == "." {
		return n, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if !n.dir {
			return nil, syscall.ENOTDIR
		}
		child := n.entries[part]
		if child == nil {
			return nil, fs.ErrNotExist
		}
		n = child
	}
	return n, nil
}

func (m *Mem) findDir(name string) (*node, error) {
	n, err := m.find(name)
	if err == nil && !n.dir {
		err = syscall.ENOTDIR
	}
	return n, err
}

// change changes a directory's visible entries and remembers the change until it is durable.
func (n *node) change(c change) {
	n.changes = append(n.changes, c)
	c.apply(n.entries)
}

func (c change) apply(entries map[string]*node) {
	if c.from != "" {
		delete(entries, c.from)
	}
	if c.to != "" {
		entries[c.to] = c.node
	}
}

// commit makes the first k changes durable.
func (n *node) commit(k int) {
	for _, c := range n.changes[:k] {
		c.apply(n.durableEntries)
	}
	n.changes = slices.Delete(n.changes, 0, k)
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpMkdir, dir); err != nil {
		return err
	}
	if dir == "." {
		return nil
	}
	n := m.root
	for part := range strings.SplitSeq(dir, "/") {
		child := n.entries[part]
		if child == nil {
			child = newDir(n)
			n.change(change{to: part, node: child})
		}
		if !child.dir {
			return pathError(OpMkdir, dir, syscall.ENOTDIR)
		}
		n = child
	}
	return nil
}

// OpenFile implements FS.
func (m *Mem) OpenFile(name string, create bool) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !fs.ValidPath(name) {
		return nil, pathError(OpOpen, name, fs.ErrInvalid)
	}
	n, err := m.find(name)
	op := OpOpen
	if create && errors.Is(err, fs.ErrNotExist) {
		op = OpCreate
	}
	if err := m.check(op, name); err != nil {
		return nil, err
	}
	if op == OpCreate {
		var parent *node
		if parent, err = m.findDir(path.Dir(name)); err == nil {
			m.inodes++
			n = &node{parent: parent, links: 1, inode: m.inodes}
			parent.change(change{to: path.Base(name), node: n})
		}
	}
	if err == nil && n.dir {
		err = syscall.EISDIR
	}
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return &memFile{m: m, n: n, name: name, gen: m.gen}, nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpRemove, name); err != nil {
		return err
	}
	n, err := m.find(name)
	switch {
	case err != nil:
	case n == m.root:
		err = fs.ErrInvalid
	case n.dir && len(n.entries) > 0:
		err = syscall.ENOTEMPTY
	}
	if err != nil {
		return pathError(OpRemove, name, err)
	}
	m.unlink(n, path.Base(name))
	return nil
}

// RemoveAll implements FS. The hook of SetError is asked once for each name that it removes.
func (m *Mem) RemoveAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !fs.ValidPath(name) || name == "." {
		return pathError(OpRemove, name, fs.ErrInvalid)
	}
	n, err := m.find(name)
	if errors.Is(err, fs.ErrNotExist) {
		return m.check(OpRemove, name)
	}
	if err != nil {
		return pathError(OpRemove, name, err)
	}
	return m.removeAll(n, name)
}

func (m *Mem) removeAll(n *node, name string) error {
	for _, child := range slices.Sorted(maps.Keys(n.entries)) {
		if err := m.removeAll(n.entries[child], path.Join(name, child)); err != nil {
			return err
		}
	}
	if err := m.check(OpRemove, name); err != nil {
		return err
	}
	m.unlink(n, path.Base(name))
	return nil
}

func (m *Mem) unlink(n *node, base string) {
	n.parent.change(change{from: base})
	if !n.dir {
		n.links = 0
		m.used -= int64(len(n.data))
	}
}

// Rename implements FS.
func (m *Mem) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpRename, oldName); err != nil {
		return err
	}
	if !fs.ValidPath(newName) || oldName == "." || newName == "." {
		return pathError(OpRename, newName, fs.ErrInvalid)
	}
	if path.Dir(oldName) != path.Dir(newName) {
		return pathError(OpRename, oldName, syscall.EXDEV)
	}
	n, err := m.find(oldName)
	if err != nil {
		return pathError(OpRename, oldName, err)
	}
	from, to := path.Base(oldName), path.Base(newName)
	switch old := n.parent.entries[to]; {
	case old == nil:
	case old.dir:
		return pathError(OpRename, oldName, fs.ErrExist)
	case n.dir:
		return pathError(OpRename, oldName, syscall.ENOTDIR)
	case old == n:
		return nil
	default:
		old.links = 0
		m.used -= int64(len(old.data))
	}
	n.parent.change(change{from: from, to: to, node: n})
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpList, dir); err != nil {
		return nil, err
	}
	n, err := m.findDir(dir)
	if err != nil {
		return nil, pathError(OpList, dir, err)
	}
	return slices.Sorted(maps.Keys(n.entries)), nil
}

// Stat implements FS.
func (m *Mem) Stat(name string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpStat, name); err != nil {
		return Info{}, err
	}
	n, err := m.find(name)
	if err != nil {
		return Info{}, pathError(OpStat, name, err)
	}
	return Info{Size: int64(len(n.data)), Dir: n.dir}, nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpSyncDir, dir); err != nil {
		return err
	}
	n, err := m.findDir(dir)
	if err != nil {
		return pathError(OpSyncDir, dir, err)
	}
	n.commit(len(n.changes))
	return nil
}

// PowerLoss throws away what was not durable, as Mem describes. All open files become stale: their operations fail
// with fs.ErrClosed.
func (m *Mem) PowerLoss(r *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gen++
	m.used = 0
	m.lose(m.root, r)
}

func (m *Mem) lose(n *node, r *rand.Rand) {
	if !n.dir {
		n.lose(r)
		n.links = 1
		m.used += int64(len(n.data))
		return
	}
	n.commit(r.IntN(len(n.changes) + 1))
	n.changes = nil
	n.entries = maps.Clone(n.durableEntries)
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		m.lose(n.entries[name], r)
	}
}

// Wipe removes everything, durably, as an exchanged disk does. All open files become stale.
func (m *Mem) Wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gen++
	m.used = 0
	m.root = newDir(nil)
}

// Digest returns the digest (see the function Digest) of all that programs see.
func (m *Mem) Digest() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	// A view without the hook: an injected error must not hide the state. It shares the nodes, so the lock stays.
	view := &Mem{root: m.root}
	d, err := Digest(view, ".")
	if err != nil { // a file system in memory without a hook has no errors
		return "error: " + err.Error()
	}
	return d
}

// Flip inverts one bit (0 to 7) of the byte at offset, on the medium and in the page cache, as silent corruption
// does. A missing file is fs.ErrNotExist, a place outside it fs.ErrInvalid.
func (m *Mem) Flip(name string, offset int64, bit uint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !fs.ValidPath(name) {
		return pathError("flip", name, fs.ErrInvalid)
	}
	n, err := m.find(name)
	if err != nil {
		return pathError("flip", name, err)
	}
	if n.dir || offset < 0 || offset >= int64(len(n.data)) || bit > 7 {
		return pathError("flip", name, fmt.Errorf("bit %d of byte %d of %d: %w", bit, offset, len(n.data), fs.ErrInvalid))
	}
	mask := byte(1) << bit
	n.part()
	n.data[offset] ^= mask
	if offset < int64(len(n.durable)) {
		n.durable[offset] ^= mask
	}
	for _, w := range n.pending {
		if i := offset - w.off; i >= 0 && i < int64(len(w.data)) {
			w.data[i] ^= mask
		}
	}
	return nil
}

// Cut ends a file at size, on the medium and in the page cache, as silent corruption does: nothing reports it, and
// open files go on. A missing file is fs.ErrNotExist, a size outside it fs.ErrInvalid.
func (m *Mem) Cut(name string, size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !fs.ValidPath(name) {
		return pathError("cut", name, fs.ErrInvalid)
	}
	n, err := m.find(name)
	if err != nil {
		return pathError("cut", name, err)
	}
	if n.dir || size < 0 || size > int64(len(n.data)) {
		return pathError("cut", name, fmt.Errorf("at %d of %d bytes: %w", size, len(n.data), fs.ErrInvalid))
	}
	n.part()
	m.used -= int64(len(n.data)) - size
	n.data = n.data[:size]
	n.durable = n.durable[:min(size, int64(len(n.durable)))]
	pending := n.pending[:0]
	for _, w := range n.pending {
		w.was = min(w.was, size)
		switch {
		case w.data == nil:
			w.off = min(w.off, size)
		case w.off >= size:
			continue
		default:
			w.data = w.data[:min(int64(len(w.data)), size-w.off)]
		}
		pending = append(pending, w)
	}
	n.pending = pending
	return nil
}

// resize returns data with the given length, filled with zeros. It doubles the memory: append alone would copy a
// large file more often.
func resize(data []byte, size int64) []byte {
	n := int64(len(data))
	if size <= n {
		return data[:size]
	}
	if size > int64(cap(data)) {
		data = slices.Grow(data, int(max(size, 2*n)-n))
	}
	clear(data[n:size:size])
	return data[:size]
}

func (w write) apply(data []byte) []byte {
	if w.data == nil {
		return resize(data, w.off)
	}
	if end := w.off + int64(len(w.data)); end > int64(len(data)) {
		data = resize(data, end)
	}
	copy(data[w.off:], w.data)
	return data
}

// lose leaves of a file's unsynced writes what a power loss leaves.
func (n *node) lose(r *rand.Rand) {
	if len(n.pending) == 0 {
		n.restore()
		return
	}
	n.part()
	switch r.IntN(4) {
	case 0: // none
	case 1: // all
		for _, w := range n.pending {
			n.durable = w.apply(n.durable)
		}
	case 2: // a prefix, the last one torn
		k := r.IntN(len(n.pending))
		for _, w := range n.pending[:k] {
			n.durable = w.apply(n.durable)
		}
		if w := n.pending[k]; len(w.data) > 0 {
			w.data = w.data[:r.IntN(len(w.data)+1)]
			n.durable = w.apply(n.durable)
		}
	case 3:
		n.mix(r)
	}
	n.restore()
}

// restore leaves a file with what is durable, as a reboot does.
func (n *node) restore() {
	n.data, n.shared = n.durable, true
	n.settle()
}

// settle forgets the pending writes.
func (n *node) settle() {
	clear(n.pending)
	n.pending, n.written = n.pending[:0], n.written[:0]
}

// part gives what is durable memory of its own, before something changes that is in one of the two only.
func (n *node) part() {
	if n.shared {
		n.durable, n.shared = slices.Clone(n.durable), false
	}
}

// mix writes an arbitrary part of the sectors that the pending writes touched.
func (n *node) mix(r *rand.Rand) {
	after := slices.Clone(n.durable)
	dirty := map[int64]bool{} // by page
	for _, w := range n.pending {
		from, to := w.off, w.off+int64(len(w.data))
		if w.data == nil {
			from, to = min(w.off, w.was), max(w.off, w.was)
		} else {
			from = min(from, w.was) // the gap that it fills with zeros
		}
		for p := from / pageBytes; p*pageBytes < to; p++ {
			dirty[p] = true
		}
		after = w.apply(after)
	}
	was, is := int64(len(n.durable)), int64(len(after))
	size := was
	switch r.IntN(3) {
	case 0:
	case 1:
		size = is
	case 2:
		lo, hi := min(was, is), max(was, is)
		size = lo + r.Int64N(hi-lo+1)
	}
	whole := max(was, is)
	mixed, after := resize(slices.Clone(n.durable), whole), resize(after, whole)
	for _, p := range slices.Sorted(maps.Keys(dirty)) {
		how := r.IntN(3) // the page as it was, as it is, or torn
		for s := p * pageBytes; s < min((p+1)*pageBytes, whole); s += sectorBytes {
			end := min(s+sectorBytes, whole)
			if how == 1 || how == 2 && r.IntN(2) == 1 {
				copy(mixed[s:end], after[s:end])
			}
		}
	}
	n.durable = resize(mixed, size)
}

type memFile struct {
	m      *Mem
	n      *node
	name   string
	gen    int
	closed bool
}

// check refuses closed and stale files and asks the hook.
func (f *memFile) check(op string) error {
	if f.closed || f.gen != f.m.gen {
		return pathError(op, f.name, fs.ErrClosed)
	}
	return f.m.injected(op, f.name)
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check(OpRead); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError(OpRead, f.name, fs.ErrInvalid)
	}
	if off >= int64(len(f.n.data)) {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check(OpWrite); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError(OpWrite, f.name, fs.ErrInvalid)
	}
	if len(p) == 0 {
		return 0, nil
	}
	fits := f.room(off + int64(len(p)))
	n := len(p)
	if short := off + int64(len(p)) - fits; short > 0 {
		n = max(0, n-int(min(short, int64(n))))
	}
	if n > 0 {
		at := len(f.n.written)
		f.n.written = append(f.n.written, p[:n]...)
		f.do(write{off: off, data: f.n.written[at:len(f.n.written):len(f.n.written)]})
	}
	if n < len(p) {
		return n, pathError(OpWrite, f.name, syscall.ENOSPC)
	}
	return n, nil
}

// room returns the largest size, up to want, that the file may have.
func (f *memFile) room(want int64) int64 {
	size := int64(len(f.n.data))
	if f.m.capacity <= 0 || want <= size || f.n.links == 0 {
		return want
	}
	return min(want, size+max(0, f.m.capacity-f.m.used))
}

func (f *memFile) do(w write) {
	w.was = int64(len(f.n.data))
	if w.off < int64(len(f.n.durable)) {
		f.n.part()
	}
	f.n.data = w.apply(f.n.data)
	if f.n.shared { // it may have moved
		f.n.durable = f.n.data[:len(f.n.durable)]
	}
	f.n.pending = append(f.n.pending, w)
	if f.n.links > 0 {
		f.m.used += int64(len(f.n.data)) - w.was
	}
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check(OpTruncate); err != nil {
		return err
	}
	if size < 0 {
		return pathError(OpTruncate, f.name, fs.ErrInvalid)
	}
	if f.room(size) < size {
		return pathError(OpTruncate, f.name, syscall.ENOSPC)
	}
	if size != int64(len(f.n.data)) {
		f.do(write{off: size})
	}
	return nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check(OpSync); err != nil {
		if f.gen == f.m.gen && !f.closed {
			f.n.part() // what is dropped stays visible
			f.n.pending = slices.DeleteFunc(f.n.pending, func(w write) bool { return w.data != nil })
			f.n.written = f.n.written[:0]
		}
		return err
	}
	if f.n.shared {
		f.n.durable = f.n.data // all that is pending lies behind it
	} else {
		for _, w := range f.n.pending {
			f.n.durable = w.apply(f.n.durable)
		}
	}
	f.n.settle()
	if f.m.strict {
		return nil
	}
	for n := f.n; n.parent != nil; n = n.parent {
		last := len(n.parent.changes) - 1
		for last >= 0 && n.parent.changes[last].node != n {
			last--
		}
		n.parent.commit(last + 1)
	}
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.check(OpStat); err != nil {
		return 0, err
	}
	return int64(len(f.n.data)), nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	return nil
}
