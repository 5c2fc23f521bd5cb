package sidecar

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// groups makes a tree of control groups as a kernel shows them: folders and files.
func groups(t *testing.T, files ...string) *throttle {
	t.Helper()
	root := t.TempDir()
	for _, f := range files {
		path := filepath.Join(root, f)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	}
	return &throttle{root: root}
}

func (t *throttle) read(file string) string {
	b, _ := os.ReadFile(filepath.Join(t.root, file))
	return string(b)
}

func TestThrottle(t *testing.T) {
	t.Run("version 1", func(t *testing.T) {
		g := groups(t, "blkio/docker/abc/blkio.throttle.write_iops_device", "cpu/docker/abc/cpu.shares")
		require.NoError(t, g.limit("7:3", []string{"dead", "abc"}, 5))
		require.Equal(t, "7:3 5", g.read("blkio/docker/abc/blkio.throttle.write_iops_device"))
		require.Equal(t, filepath.Join(g.root, "blkio/docker/abc"), g.first([]string{"dead", "abc"}))
		require.NoError(t, g.limit("7:3", []string{"abc"}, 0))
		require.Equal(t, "7:3 0", g.read("blkio/docker/abc/blkio.throttle.write_iops_device"))
	})
	t.Run("version 2", func(t *testing.T) {
		const scope = "system.slice/docker-abc.scope/"
		g := groups(t, "cgroup.controllers", "cgroup.subtree_control", "system.slice/cgroup.subtree_control", scope+"io.max", scope+"cgroup.freeze", "docker/def/io.max")
		require.NoError(t, g.limit("7:3", []string{"abc", "def"}, 1))
		for _, f := range []string{scope + "io.max", "docker/def/io.max"} {
			require.Equal(t, "7:3 wiops=1", g.read(f))
		}
		require.Equal(t, "+io", g.read("cgroup.subtree_control"))
		require.Equal(t, "+io", g.read("system.slice/cgroup.subtree_control"))
		require.Empty(t, g.read(scope+"cgroup.freeze"))
		require.NoError(t, g.limit("7:3", []string{"abc"}, 0))
		require.Equal(t, "7:3 wiops=max", g.read(scope+"io.max"))
		require.NoError(t, os.WriteFile(filepath.Join(g.root, scope+"cgroup.freeze"), []byte("1\n"), 0o600))
		require.Equal(t, filepath.Join(g.root, "docker/def"), g.first([]string{"abc", "def"}), "a process among the frozen ones would hang")
	})
	t.Run("neither", func(t *testing.T) {
		g := groups(t, "blkio/docker/abc/tasks")
		require.ErrorContains(t, g.limit("7:3", []string{"abc"}, 1), "CONFIG_BLK_DEV_THROTTLING")
		require.ErrorContains(t, g.limit("7:3", []string{"def"}, 1), "named after container def")
		require.Error(t, g.limit("7:3", []string{""}, 1))
		require.Empty(t, g.first([]string{"def", ""}))
	})
	t.Run("a group ends with its container", func(t *testing.T) {
		g := groups(t, "blkio/docker/abc/blkio.throttle.write_iops_device")
		require.NotEmpty(t, g.first([]string{"abc"}))
		require.NoError(t, os.RemoveAll(filepath.Join(g.root, "blkio/docker/abc")))
		require.Empty(t, g.first([]string{"abc"}))
	})
}
