package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// LocksRequest asks for the lock files of the device that nodes share, after one was removed.
type LocksRequest struct {
	Remove  string `json:"remove,omitempty"` // name of a lock file; "": none
	Replace bool   `json:"replace,omitempty"`
}

// LocksResponse are the lock files by name, below the device's top, with what tells each
// from every other file: the number of its inode, and when that was made, for numbers
// are given again.
type LocksResponse struct {
	Files map[string]string `json:"files"`
}

// Locks lists the lock files of the device that nodes share, and removes or replaces one
// of them before.
func (c *Client) Locks(ctx context.Context, req LocksRequest) (map[string]string, error) {
	resp, err := c.do(ctx, DefaultTimeout, Request{Op: opLocks, Locks: &req})
	if err != nil {
		return nil, err
	}
	if resp.Locks == nil {
		return nil, errors.New("locks: an answer without content")
	}
	return resp.Locks.Files, nil
}

// SharedDir is where a sidecar, and the nodes, find the device that nodes share.
const SharedDir = "/shared"

// lockFiles is where lock files are on it: one for each partition.
const lockFiles = "logs/*/lock"

// locks changes lock files on the shared device.
type locks struct {
	dir     string
	stubbed bool
}

func (l locks) do(req LocksRequest, resp *LocksResponse) error {
	if _, err := os.Stat(l.dir); err != nil {
		return fmt.Errorf("this node shares no device: %w", err)
	}
	if req.Remove != "" && !l.stubbed {
		if ok, err := filepath.Match(lockFiles, req.Remove); !ok || err != nil {
			return errors.Join(fmt.Errorf("%q is no lock file", req.Remove), err)
		}
		file := filepath.Join(l.dir, filepath.FromSlash(req.Remove))
		if err := os.Remove(file); err != nil {
			return err
		}
		if req.Replace {
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				return err
			}
		}
	}
	names, err := filepath.Glob(filepath.Join(l.dir, lockFiles))
	if err != nil {
		return err
	}
	resp.Files = map[string]string{}
	for _, file := range names {
		id, err := identity(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(l.dir, file)
		if err != nil {
			return err
		}
		resp.Files[filepath.ToSlash(name)] = id
	}
	return nil
}
