package nemesis

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// wLocks is a shared device with two lock files.
type wLocks struct {
	files map[string]string // name → identity
	made  int
	stubs map[string]bool // files that stay as they are
	empty bool            // there are none
}

func (l *wLocks) init() {
	if l.files == nil && !l.empty {
		l.files = map[string]string{}
		l.put("logs/a/lock")
		l.put("logs/b/lock")
	}
}

func (l *wLocks) put(name string) {
	l.made++
	l.files[name] = fmt.Sprint(l.made)
}

func (l *wLocks) Files(context.Context) (map[string]string, error) {
	l.init()
	return maps.Clone(l.files), nil
}

func (l *wLocks) Remove(_ context.Context, name string, replace bool) error {
	if l.stubs[name] {
		return nil
	}
	delete(l.files, name)
	if replace {
		l.put(name)
	}
	return nil
}

func TestLockRemove(t *testing.T) {
	for _, shape := range []Shape{RemoveLock, ReplaceLock} {
		w := newWorld(3)
		w.at(20*time.Second, func() { // whoever polls makes the files anew
			for _, name := range []string{"logs/a/lock", "logs/b/lock"} {
				w.lockFiles.put(name)
			}
		})
		w.run(t, step("lock-remove", shape, TargetAll))
		require.Equal(t, whole, w.stages(0), w.why(0))
		after := map[Shape]string{RemoveLock: "none", ReplaceLock: "3"}[shape]
		require.Equal(t, "inode 1 before, "+after+" now", w.events[2].Proof["logs/a/lock"])
	}
}

func TestSabotagedLockRemoveIsNotProven(t *testing.T) {
	back := func(w *world) {
		w.at(5*time.Second, func() { w.lockFiles.put("logs/a/lock"); w.lockFiles.put("logs/b/lock") })
	}
	for _, c := range []struct {
		name  string
		shape Shape
		spoil func(w *world)
		why   string
	}{
		{"no effect", RemoveLock, func(w *world) { w.lockFiles.stubs = map[string]bool{"logs/a/lock": true, "logs/b/lock": true} }, "had no effect: the lock file logs/a/lock is the one that it was"},
		{"one of two", ReplaceLock, func(w *world) { w.lockFiles.stubs = map[string]bool{"logs/b/lock": true} }, "had no effect: the lock file logs/b/lock is the one that it was"},
		{"put back at half time", RemoveLock, func(w *world) {
			w.at(5*time.Second, func() { w.lockFiles.files["logs/a/lock"] = "1" })
		}, "had no effect: the lock file logs/a/lock is the one that it was"},
		{"none there", RemoveLock, func(w *world) { w.lockFiles.empty = true }, "was not injected: there is no lock file"},
		{"nobody locks again", RemoveLock, func(*world) {}, "was not healed: 0 of 2 lock files are there again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(3)
			if c.name != "nobody locks again" && c.name != "put back at half time" && c.name != "none there" {
				back(w)
			}
			c.spoil(w)
			w.run(t, step("lock-remove", c.shape, TargetAll))
			require.NotEqual(t, whole, w.stages(0))
			require.Contains(t, w.why(0), c.why)
		})
	}
}

func TestLockRemoveNeedsLocks(t *testing.T) {
	w := newWorld(3)
	target := w.target()
	target.Machines.Locks = nil
	require.ErrorContains(t, (&lockRemove{}).Available(target), "remove lock files of a shared device")
}
