package vfs

import (
	"io/fs"
	"path"
)

// Locks is a file system that several processes share. They exclude each other by locks on its files.
type Locks interface {
	FS
	// Lock locks a file exclusively and at once, making it where there is none. It returns nil, without an error, where
	// another process holds it, or this one by an earlier Lock. The lock lasts until Unlock or the end of the process; a process
	// that is stopped keeps it.
	Lock(name string) (FileLock, error)
}

// FileLock is a lock that is held.
type FileLock interface {
	// Current reports whether the name that was locked still leads to the file that is locked. Somebody may have removed
	// or replaced it, and then another process can lock what stands there now.
	Current() (bool, error)
	// Unlock gives the lock up. A second call does nothing.
	Unlock() error
}

// Process returns the file system as one process sees it that shares it with others. ended reports whether that process
// has ended, and with it its locks.
func (m *Mem) Process(ended func() bool) Locks { return memProcess{m, ended} }

type memProcess struct {
	*Mem
	ended func() bool
}

type memLock struct {
	p    memProcess
	n    *node
	name string
}

var (
	_ Locks    = memProcess{}
	_ FileLock = (*memLock)(nil)
)

func (p memProcess) Lock(name string) (FileLock, error) {
	f, err := p.OpenFile(name, true)
	if err != nil {
		return nil, err
	}
	n := f.(*memFile).n
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.lock != nil && !n.lock.p.ended() {
		return nil, nil
	}
	n.lock = &memLock{p, n, name}
	return n.lock, nil
}

func (l *memLock) Current() (bool, error) {
	m := l.p.Mem
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpStat, l.name); err != nil {
		return false, err
	}
	n, err := m.find(l.name)
	return err == nil && n == l.n && n.lock == l, nil
}

func (l *memLock) Unlock() error {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.n.lock == l {
		l.n.lock = nil
	}
	return nil
}

// Inode returns a number that tells a file from every other one that ever had its name: that of the file that name leads
// to now. A missing file is fs.ErrNotExist.
func (m *Mem) Inode(name string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err == nil && n.dir {
		err = fs.ErrInvalid
	}
	if err != nil {
		return 0, pathError(OpStat, name, err)
	}
	return n.inode, nil
}

// Unlink removes a file durably, without asking the hook of SetError: somebody else did it.
func (m *Mem) Unlink(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err == nil && n.dir {
		err = fs.ErrInvalid
	}
	if err != nil {
		return pathError(OpRemove, name, err)
	}
	m.unlink(n, path.Base(name))
	n.parent.commit(len(n.parent.changes))
	return nil
}
