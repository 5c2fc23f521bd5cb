package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"github.com/faultline-mq/faultline/broker/seglog"
	"github.com/faultline-mq/faultline/broker/vfs"
)

// Files at the root of a data directory, beside those of package storage.
const (
	lockFile     = "lock"
	identityFile = "identity"
)

// volumes opens the file systems of the partition logs and of the metadata log.
// Directories are made if missing and locked until release, which is to be called
// after an error too.
func (c *Config) volumes() (logs, meta vfs.FS, release func(), err error) {
	var locks []*flock.Flock
	release = func() {
		for _, l := range locks {
			_ = l.Unlock() // it ends with the process at the latest
		}
	}
	if c.Logs != nil {
		meta = c.Meta
		if meta == nil {
			meta = c.Logs
		}
		return c.Logs, meta, release, nil
	}
	open := func(dir string) (vfs.FS, error) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("data directory %s: %w", dir, err)
		}
		l := flock.New(filepath.Join(dir, lockFile), flock.SetPermissions(0o644))
		ok, err := l.TryLock()
		if err != nil {
			return nil, fmt.Errorf("locking data directory %s: %w", dir, err)
		}
		if !ok {
			return nil, fmt.Errorf("data directory %s is in use by another broker: stop that one, or give this one a directory of its own", dir)
		}
		locks = append(locks, l)
		return vfs.OS(dir), nil
	}
	if logs, err = open(c.DataDir); err != nil {
		return nil, nil, release, err
	}
	meta = logs
	if c.MetaDir != "" && filepath.Clean(c.MetaDir) != filepath.Clean(c.DataDir) {
		meta, err = open(c.MetaDir)
	}
	return logs, meta, release, err
}

// checkIdentity refuses the data of another node: its votes and its log are not
// this one's. An empty volume is marked as this node's. A mark that is damaged
// says nothing, and is written again.
func (c *Config) checkIdentity(fsys vfs.FS) error {
	own := fmt.Sprintf("%d@%s", c.ID, c.Name)
	b, err := seglog.ReadCheckpoint(fsys, identityFile)
	var damaged *seglog.CorruptError
	switch {
	case err == nil && string(b) == own:
		return nil
	case err == nil:
		return fmt.Errorf("the data directory belongs to node %q, this is %q: give each node its own directory", b, own)
	case !errors.Is(err, fs.ErrNotExist) && !errors.As(err, &damaged):
		return err
	}
	return seglog.WriteCheckpoint(fsys, identityFile, []byte(own), true)
}
