// Package vfs is the file system below the broker's storage: a small interface, the operating system's
// implementation of it, and a memory twin that loses unsynced data at a power loss.
//
// Names are slash-separated and relative to the root of the file system, as io/fs.ValidPath accepts them; "." is
// the root. Any other name is refused with fs.ErrInvalid.
package vfs

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
)

// FS is a file system. Errors answer errors.Is for fs.ErrNotExist, fs.ErrInvalid, syscall.ENOSPC, syscall.EIO and
// whatever else the operating system reports.
type FS interface {
	// MkdirAll makes dir and its missing parents. The new entries are durable after SyncDir of their parents.
	MkdirAll(dir string) error
	// OpenFile opens a file for reading and writing; with create it makes an empty one if there is none. Without
	// create a missing file is fs.ErrNotExist. The parent directory must exist.
	OpenFile(name string, create bool) (File, error)
	// Remove removes a file or an empty directory; a missing one is fs.ErrNotExist.
	Remove(name string) error
	// RemoveAll removes name and all below it; a missing name is no error. The root cannot be removed.
	RemoveAll(name string) error
	// Rename gives a file or directory another name. A file replaces a file of that name atomically; a directory of
	// that name is fs.ErrExist. Both names must lie in one directory (otherwise syscall.EXDEV): one SyncDir then makes the
	// change durable.
	Rename(oldName, newName string) error
	// List returns the names of dir's entries, sorted.
	List(dir string) ([]string, error)
	// Stat describes a file or directory; a missing one is fs.ErrNotExist.
	Stat(name string) (Info, error)
	// SyncDir makes every creation, removal and renaming in dir so far durable, but not the contents of files.
	SyncDir(dir string) error
}

// File is an open file. ReadAt, WriteAt, Truncate and Sync may be called from several goroutines.
type File interface {
	io.ReaderAt
	// WriterAt extends the file where the write goes beyond its end; a gap reads as zeros. A failed write may have
	// written some of its bytes (n says how many).
	io.WriterAt
	io.Closer
	// Truncate sets the file's size in bytes; a longer file is filled with zeros.
	Truncate(size int64) error
	// Sync makes the contents and the size durable. After a failed Sync nothing written since the last successful
	// one may be counted on, not even if a later Sync succeeds: Linux marks pages clean that it could not write.
	// Such data must be written again.
	Sync() error
	// Size returns the size in bytes.
	Size() (int64, error)
}

// Info describes a file or directory.
type Info struct {
	Size int64 // bytes; 0 for a directory
	Dir  bool
}

// Exists reports whether name is there. Any error but fs.ErrNotExist is returned.
func Exists(fsys FS, name string) (bool, error) {
	_, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// MkdirSynced makes dir and its missing parents, and the entries of all of them durable.
func MkdirSynced(fsys FS, dir string) error {
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	for dir != "." {
		dir = path.Dir(dir)
		if err := fsys.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// ReadFile returns the contents of a file.
func ReadFile(fsys FS, name string) (data []byte, err error) {
	f, err := fsys.OpenFile(name, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	data = make([]byte, size)
	if n, err := f.ReadAt(data, 0); err != nil && (!errors.Is(err, io.EOF) || int64(n) < size) {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// Digest returns the SHA-256, in hexadecimal, of the names and contents of all that lies in dir. It does not depend
// on the implementation: equal trees have equal digests.
func Digest(fsys FS, dir string) (string, error) {
	h := sha256.New()
	if err := digest(fsys, dir, "", h); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func digest(fsys FS, dir, prefix string, h io.Writer) error {
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		full, rel := path.Join(dir, name), path.Join(prefix, name)
		info, err := fsys.Stat(full)
		if err != nil {
			return err
		}
		var data []byte
		kind := byte('d')
		if !info.Dir {
			kind = 'f'
			if data, err = ReadFile(fsys, full); err != nil {
				return err
			}
		}
		// Lengths stand before what they measure, so that no two trees give the same bytes.
		head := binary.BigEndian.AppendUint64([]byte{kind}, uint64(len(rel)))
		head = append(head, rel...)
		head = binary.BigEndian.AppendUint64(head, uint64(len(data)))
		if _, err := h.Write(append(head, data...)); err != nil {
			return err
		}
		if info.Dir {
			if err := digest(fsys, full, rel, h); err != nil {
				return err
			}
		}
	}
	return nil
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}
