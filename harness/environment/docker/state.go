package docker

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// The labels of everything that is created.
const (
	labelRun  = "io.faultline.run"
	labelHost = "io.faultline.host" // of the harness, not of the engine
	labelNode = "io.faultline.node"
	labelRole = "io.faultline.role"
)

// The values of labelRole.
const (
	roleNode    = "node"
	roleSidecar = "sidecar"
)

const lockRetry = 50 * time.Millisecond

// state is the folder in which the runs of this host and user keep their locks.
type state struct {
	dir  string
	host string // random, the same for every run of this host and user
}

// openState uses the user's cache folder, or the temporary one where there is
// none. Removing the folder while a run is going on makes that run look dead.
func openState() (state, error) {
	dir, err := os.UserCacheDir()
	if err == nil {
		dir = filepath.Join(dir, "faultline")
		err = os.MkdirAll(filepath.Join(dir, "runs"), 0o700)
	}
	if err != nil {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("faultline-%d", os.Getuid()))
		if err := os.MkdirAll(filepath.Join(dir, "runs"), 0o700); err != nil {
			return state{}, fmt.Errorf("creating the state folder: %w", err)
		}
	}
	host, err := hostID(filepath.Join(dir, "host-id"))
	if err != nil {
		return state{}, fmt.Errorf("reading the host id: %w", err)
	}
	return state{dir: dir, host: host}, nil
}

// hostID reads the id, or creates it in one step: of several processes that
// start at once, one wins.
func hostID(path string) (string, error) {
	for {
		data, err := os.ReadFile(path)
		if id := strings.TrimSpace(string(data)); err == nil && id != "" {
			return id, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err == nil { // empty: nobody's
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
		}
		tmp, err := os.CreateTemp(filepath.Dir(path), "host-id-")
		if err != nil {
			return "", err
		}
		_, err = tmp.WriteString(strings.ToLower(rand.Text()) + "\n")
		if err := errors.Join(err, tmp.Close()); err != nil {
			return "", errors.Join(err, os.Remove(tmp.Name()))
		}
		linkErr := os.Link(tmp.Name(), path)
		if err := os.Remove(tmp.Name()); err != nil {
			return "", err
		}
		if linkErr != nil && !errors.Is(linkErr, fs.ErrExist) {
			return "", linkErr
		}
	}
}

func (s state) lockPath(run string) string { return filepath.Join(s.dir, "runs", run+".lock") }
func (s state) keptPath(run string) string { return filepath.Join(s.dir, "runs", run+".kept") }

// spoolDir is where a run keeps its nodes' output until it is collected.
func (s state) spoolDir(run string) string { return filepath.Join(s.dir, "runs", run) }

// lock takes a run's lock; nil without error means that another process has it.
// A sweep may delete the file between its opening and its locking, so the
// locked file must be the one that others find.
func (s state) lock(run string) (*flock.Flock, error) {
	for {
		l := flock.New(s.lockPath(run))
		ok, err := l.TryLock()
		if err != nil {
			return nil, fmt.Errorf("locking run %s: %w", run, err)
		}
		if !ok {
			return nil, l.Close()
		}
		mine, err1 := l.Stat()
		found, err2 := os.Stat(s.lockPath(run))
		if err1 == nil && err2 == nil && os.SameFile(mine, found) {
			return l, nil
		}
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("locking run %s: %w", run, err)
		}
	}
}

// forget removes everything that is kept of a run, its lock last.
func (s state) forget(run string, l *flock.Flock) error {
	return errors.Join(
		os.RemoveAll(s.spoolDir(run)),
		ignoreMissing(os.Remove(s.keptPath(run))),
		ignoreMissing(os.Remove(s.lockPath(run))),
		l.Close(),
	)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// runs lists the runs that have left something in the folder.
func (s state) runs() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "runs"))
	if err != nil {
		return nil, fmt.Errorf("reading the state folder: %w", err)
	}
	var runs []string
	for _, e := range entries {
		name := strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".lock"), ".kept")
		if runExp.MatchString(name) {
			runs = append(runs, name)
		}
	}
	return runs, nil
}

// markKept protects what a run left up from ordinary sweeps.
func (s state) markKept(run string) error {
	if err := os.WriteFile(s.keptPath(run), nil, 0o600); err != nil {
		return fmt.Errorf("marking run %s as kept: %w", run, err)
	}
	return nil
}

func (s state) kept(run string) bool {
	_, err := os.Stat(s.keptPath(run))
	return err == nil
}

var runExp = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// NewRunID returns a random run id.
func NewRunID() string { return strings.ToLower(rand.Text())[:12] }
