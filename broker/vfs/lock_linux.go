package vfs

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// OSLocks is OS for a directory that several processes share. Locks are those of open file descriptions (F_OFD_SETLK),
// which end with the descriptor: the kernel frees those of a killed process and keeps those of a stopped one. The
// processes may run in different containers of one machine; whether it works across machines depends on the file system.
func OSLocks(root string) Locks { return osLocks{osFS{root}} }

type osLocks struct{ osFS }

type osLock struct {
	f    *os.File
	path string
}

var (
	_ Locks    = osLocks{}
	_ FileLock = (*osLock)(nil)
)

func (o osLocks) Lock(name string) (FileLock, error) {
	for {
		f, err := o.OpenFile(name, true)
		if err != nil {
			return nil, err
		}
		l := &osLock{f.(osFile).File, f.(osFile).Name()}
		whole := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0, Start: 0, Len: 0}
		err = unix.FcntlFlock(l.f.Fd(), unix.F_OFD_SETLK, &whole)
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
			return nil, l.f.Close()
		}
		if err != nil {
			return nil, errors.Join(pathError("lock", name, err), l.f.Close())
		}
		// It may have been removed between opening and locking: then nobody else meets this lock.
		current, err := l.Current()
		if current {
			return l, nil
		}
		if err := errors.Join(err, l.f.Close()); err != nil {
			return nil, err
		}
	}
}

func (l *osLock) Current() (bool, error) {
	mine, err := l.f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

func (l *osLock) Unlock() error {
	if err := l.f.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
