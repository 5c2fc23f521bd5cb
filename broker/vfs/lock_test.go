//go:build linux

package vfs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestLocks(t *testing.T) {
	mem := NewMem()
	dir := t.TempDir()
	for _, c := range []struct {
		name   string
		open   func() Locks // as another process sees it
		remove func(name string) error
	}{
		{"memory", func() Locks { return mem.Process(func() bool { return false }) }, mem.Unlink},
		{"operating system", func() Locks { return OSLocks(dir) }, func(name string) error { return os.Remove(filepath.Join(dir, name)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := c.open(), c.open()
			mine, err := a.Lock("lock")
			require.NoError(t, err)
			require.NotNil(t, mine)
			theirs, err := b.Lock("lock")
			require.NoError(t, err)
			require.Nil(t, theirs, "it is held")
			again, err := a.Lock("lock")
			require.NoError(t, err)
			require.Nil(t, again, "by whoever asks")
			ok, err := mine.Current()
			require.NoError(t, err)
			require.True(t, ok)

			require.NoError(t, c.remove("lock"))
			ok, err = mine.Current()
			require.NoError(t, err)
			require.False(t, ok, "its file has no name any more")
			theirs, err = b.Lock("lock")
			require.NoError(t, err)
			require.NotNil(t, theirs, "two hold a lock now")
			ok, err = mine.Current()
			require.NoError(t, err)
			require.False(t, ok, "the name leads to another file")

			require.NoError(t, theirs.Unlock())
			require.NoError(t, theirs.Unlock())
			mine, err = a.Lock("lock")
			require.NoError(t, err)
			require.NotNil(t, mine)
			require.NoError(t, mine.Unlock())
		})
	}
}

func TestLockEndsWithItsProcess(t *testing.T) {
	m := NewMem()
	dead := false
	l, err := m.Process(func() bool { return dead }).Lock("lock")
	require.NoError(t, err)
	require.NotNil(t, l)
	other := m.Process(func() bool { return false })
	busy, err := other.Lock("lock")
	require.NoError(t, err)
	require.Nil(t, busy)
	dead = true
	l, err = other.Lock("lock")
	require.NoError(t, err)
	require.NotNil(t, l)
}

func TestInode(t *testing.T) {
	m := NewMem()
	_, err := m.Inode("f")
	require.ErrorIs(t, err, os.ErrNotExist)
	f, err := m.OpenFile("f", true)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	first, err := m.Inode("f")
	require.NoError(t, err)
	require.NoError(t, m.Unlink("f"))
	_, err = m.OpenFile("f", true)
	require.NoError(t, err)
	second, err := m.Inode("f")
	require.NoError(t, err)
	require.NotEqual(t, first, second)
}

const lockHolder = "FAULTLINE_TEST_LOCK_HOLDER"

// TestMain is also the process that holds a lock in TestLockOfAnotherProcess.
func TestMain(m *testing.M) {
	if dir := os.Getenv(lockHolder); dir != "" {
		l, err := OSLocks(dir).Lock("lock")
		if err != nil || l == nil {
			os.Exit(1)
		}
		if f, err := os.Create(filepath.Join(dir, "held")); err != nil || f.Close() != nil {
			os.Exit(1)
		}
		select {}
	}
	os.Exit(m.Run())
}

// TestLockOfAnotherProcess: the kernel keeps a stopped process's lock and frees a
// killed one's.
func TestLockOfAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), lockHolder+"="+dir)
	require.NoError(t, holder.Start())
	killed := false
	t.Cleanup(func() {
		if !killed {
			_ = holder.Process.Kill()
			_ = holder.Wait()
		}
	})
	require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(dir, "held")); return err == nil }, 20*time.Second, 5*time.Millisecond)

	require.NoError(t, holder.Process.Signal(unix.SIGSTOP))
	l, err := OSLocks(dir).Lock("lock")
	require.NoError(t, err)
	require.Nil(t, l)

	require.NoError(t, holder.Process.Kill())
	require.Error(t, holder.Wait(), "it was killed")
	killed = true
	l, err = OSLocks(dir).Lock("lock")
	require.NoError(t, err)
	require.NotNil(t, l)
	require.NoError(t, l.Unlock())
}
