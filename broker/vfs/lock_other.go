//go:build !linux

package vfs

import "errors"

// OSLocks is OS for a directory that several processes share. Locks work on Linux only.
func OSLocks(root string) Locks { return osLocks{osFS{root}} }

type osLocks struct{ osFS }

var _ Locks = osLocks{}

func (o osLocks) Lock(name string) (FileLock, error) {
	return nil, pathError("lock", name, errors.ErrUnsupported)
}
