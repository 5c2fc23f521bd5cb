package sidecar

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hostGroups makes the files of a host's control groups.
func hostGroups(t *testing.T, files map[string]string) *cgroups {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return &cgroups{root: root, press: t.TempDir()}
}

func version1() map[string]string {
	return map[string]string{
		"cpu,cpuacct/docker/abc/cpu.cfs_period_us":     "100000\n",
		"cpu,cpuacct/docker/abc/cpu.cfs_quota_us":      "5000\n",
		"cpu,cpuacct/docker/abc/cpu.stat":              "nr_periods 9\nnr_throttled 4\nthrottled_time 2500\n",
		"cpu,cpuacct/docker/abc/cpuacct.usage":         "7000000\n",
		"memory/docker/abc/memory.limit_in_bytes":      "9223372036854771712\n",
		"memory/docker/abc/memory.usage_in_bytes":      "1000\n",
		"memory/docker/abc/memory.failcnt":             "3\n",
		"memory/docker/abc/memory.stat":                "cache 1\ntotal_inactive_file 200\ntotal_active_file 300\n",
		"memory/docker/abc/cgroup.procs":               "",
		"memory/docker/another/memory.limit_in_bytes":  "1\n",
		"memory/docker/another/memory.usage_in_bytes":  "1\n",
		"cpu,cpuacct/docker/another/cpu.cfs_period_us": "1\n",
	}
}

func version2() map[string]string {
	const scope = "system.slice/docker-abc.scope/"
	return map[string]string{
		"cgroup.controllers":     "cpu memory\n",
		scope + "cpu.max":        "max 100000\n",
		scope + "cpu.stat":       "usage_usec 7\nnr_periods 9\nnr_throttled 4\nthrottled_usec 25\n",
		scope + "memory.max":     "max\n",
		scope + "memory.current": "1000\n",
		scope + "memory.events":  "low 0\nmax 3\noom 0\n",
		scope + "memory.stat":    "inactive_file 200\nactive_file 300\n",
		scope + "cgroup.procs":   "",
	}
}

func TestGroup(t *testing.T) {
	read := func(g *cgroups) (Group, error) {
		var got Group
		err := g.do(GroupRequest{Container: "abc"}, &got)
		return got, err
	}
	t.Run("version 1", func(t *testing.T) {
		g := hostGroups(t, version1())
		for _, controller := range []string{"cpu", "cpuacct"} {
			require.NoError(t, os.Symlink("cpu,cpuacct", filepath.Join(g.root, controller)))
		}
		got, err := read(g)
		require.NoError(t, err)
		require.Equal(t, Group{
			Period: 100 * time.Millisecond, Quota: 5 * time.Millisecond, CPU: 7 * time.Millisecond, Throttled: 4, ThrottledFor: 2500,
			Limit: 9223372036854771712, Usage: 1000, Resident: 500, Hits: 3,
		}, got)
		require.GreaterOrEqual(t, got.Limit, int64(NoLimit))
		require.ErrorContains(t, g.do(GroupRequest{Container: "def"}, &got), "is named after container def")
		require.NoError(t, os.Remove(filepath.Join(g.root, "cpu,cpuacct/docker/abc/cpu.cfs_quota_us")))
		_, err = read(g)
		require.ErrorContains(t, err, "CONFIG_CFS_BANDWIDTH")
		require.NoError(t, os.RemoveAll(filepath.Join(g.root, "memory")))
		_, err = read(g)
		require.ErrorContains(t, err, "no control groups for it")
	})
	t.Run("version 2", func(t *testing.T) {
		files := version2()
		g := hostGroups(t, files)
		got, err := read(g)
		require.NoError(t, err)
		require.Equal(t, Group{
			Period: 100 * time.Millisecond, Quota: -time.Microsecond, CPU: 7 * time.Microsecond, Throttled: 4, ThrottledFor: 25 * time.Microsecond,
			Limit: math.MaxInt64, Usage: 1000, Resident: 500, Hits: 3,
		}, got)
		const scope = "system.slice/docker-abc.scope/"
		files[scope+"cpu.max"], files[scope+"memory.max"] = "5000 200000\n", "4096\n"
		got, err = read(hostGroups(t, files))
		require.NoError(t, err)
		require.Equal(t, 5*time.Millisecond, got.Quota)
		require.Equal(t, 200*time.Millisecond, got.Period)
		require.EqualValues(t, 4096, got.Limit)
		files[scope+"cpu.stat"] = "usage_usec 7\n" // as without the controller
		_, err = read(hostGroups(t, files))
		require.ErrorContains(t, err, "has no nr_throttled")
		for _, damaged := range []string{"", "5000", "x 100000"} {
			files = version2()
			files[scope+"cpu.max"] = damaged
			_, err = read(hostGroups(t, files))
			require.Error(t, err, "%q", damaged)
		}
	})
}

// TestPress: what is read is at the expense of the group that was joined.
func TestPress(t *testing.T) {
	g := hostGroups(t, version2())
	procs := filepath.Join(g.root, "system.slice/docker-abc.scope/cgroup.procs")
	file := filepath.Join(g.press, "file")
	require.NoError(t, Press(file, "100000", procs))
	joined, err := os.ReadFile(procs)
	require.NoError(t, err)
	require.Equal(t, "0", string(joined))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.EqualValues(t, 100000, info.Size())
	require.Error(t, Press(file, "many"))
	require.Error(t, Press(file, "1", filepath.Join(g.root, "no group")))
}
