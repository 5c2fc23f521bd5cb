package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// diskSteps are all faults of disks, on n2 and, where that makes a difference, on
// both. A wipe takes the files along that a power loss is proven by, so it comes later.
func diskSteps() []nemesis.Step {
	var steps []nemesis.Step
	for _, name := range []string{
		"power", "restart:power", "restart:kill", "wipe", "restart:wipe", "disk-full", "disk-error", "disk-slow",
		"corrupt-file:bit-flip", "corrupt-file:truncate", "corrupt-file:stale-restore",
	} {
		fault, shape, _ := strings.Cut(name, ":")
		// One of these seeds damages files of a process that runs, the other of one that is dead.
		for seed := range uint64(2) {
			if seed == 1 && fault != "corrupt-file" {
				continue
			}
			targets := "n2"
			if fault == "power" || fault == "disk-error" {
				targets = "n1,n2"
			}
			steps = append(steps, nemesis.Step{ID: len(steps), Fault: fault, Shape: nemesis.Shape(shape), Targets: targets, Until: time.Second, Seed: seed})
		}
	}
	return steps
}

// stages records the life of one fault.
type stages struct {
	mu     sync.Mutex
	faults []history.Fault
}

func (s *stages) Event(ev any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, ev.(history.Fault))
}

// reached lists them in order, and says what is missing where something is.
func (s *stages) reached() (names []history.FaultStage, why string) {
	for _, f := range s.faults {
		names = append(names, f.Stage)
		if f.Stage == history.Unproven {
			why = f.Detail
		}
	}
	return names, why
}

// roles are those of a system that has none: its nodes only answer.
type roles struct {
	nemesis.Roles
	c *cluster
}

func (r roles) Responds(_ context.Context, node string, timeout time.Duration) bool {
	return r.c.answers(node, r.c.cfg.Ports.Client, timeout)
}

func (r roles) Keys() []string { return nil }

func (c *cluster) target() nemesis.Target {
	return nemesis.Target{
		Nodes: c.Nodes(), Clock: c.Runtime(), Network: c.Network(), Processes: c.Processes(), Disks: c.Disks(), Roles: roles{c: c}, Machines: c.Machines(),
	}
}

// live leads one fault through its life.
func (c *cluster) live(t *testing.T, s nemesis.Step) *stages {
	t.Helper()
	rec := &stages{}
	l, err := nemesis.NewLife(s, c.target(), rec, nemesis.Limits{})
	require.NoError(t, err)
	require.NoError(t, l.Inject(t.Context()))
	if l.State() == nemesis.Active {
		require.NoError(t, l.Confirm(t.Context()))
		require.NoError(t, l.Heal(t.Context()))
	}
	require.Equal(t, nemesis.Spent, l.State())
	return rec
}

// disksUp is a cluster whose nodes have disks, with what faults do before clients
// start. Only n2 is sabotaged.
func disksUp(t *testing.T, sabotage sidecar.Sabotage) *cluster {
	t.Helper()
	cfg := testConfig(2)
	cfg.Disks, cfg.Throttle, cfg.Sabotage, cfg.SabotageNode = true, true, sabotage, "n2"
	cfg.Nodes[1].Image = otherUsersImage(t)
	c := up(t, cfg)
	for _, n := range c.Nodes() {
		c.eventuallyAnswers(n, cfg.Ports.Client)
	}
	require.NoError(t, nemesis.Setup(t.Context(), diskSteps(), c.target()))
	return c
}

// otherUsersImage is an image as others make them: its process is not root, and
// may write to its data folder alone.
func otherUsersImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	dockerfile := filepath.Join(dir, "Dockerfile")
	require.NoError(t, os.WriteFile(dockerfile, []byte("FROM "+testImage+"\nCOPY --chown=1000:1000 keep /data/\nUSER 1000\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "keep"), nil, 0o600))
	cli, err := connect(t.Context())
	require.NoError(t, err)
	defer func() { _ = cli.Close() }()
	const name = "faultline/environment-test:other-user"
	files := map[string]string{"Dockerfile": dockerfile, "keep": filepath.Join(dir, "keep")}
	require.NoError(t, buildImage(t.Context(), cli, files, []string{name}, nil, io.Discard))
	t.Cleanup(func() {
		cli, err := connect(context.Background())
		require.NoError(t, err)
		_, err = cli.ImageRemove(context.Background(), name, image.RemoveOptions{Force: true, PruneChildren: true})
		require.NoError(t, errors.Join(err, cli.Close()))
	})
	return name
}

// TestDiskFaults leads one cluster through every fault of disks.
func TestDiskFaults(t *testing.T) {
	cli := needDocker(t)
	c := disksUp(t, sidecar.NoSabotage)
	devices := devicesOf(t, cli, c.cfg.RunID)
	require.Len(t, devices, 2)
	require.Len(t, bound(t, devices), 2, "loop devices are in use")
	for _, s := range diskSteps() {
		t.Run(fmt.Sprintf("%s of %s, seed %d", s.Name(), s.Targets, s.Seed), func(t *testing.T) {
			rec := c.live(t, s)
			got, why := rec.reached()
			require.Equal(t, []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed}, got, why)
			for _, n := range c.Nodes() {
				p, err := c.Machines().SlowDisks.Probe(t.Context(), n)
				require.NoError(t, err)
				require.NoError(t, p.Err, "the disk of %s is well", n)
			}
		})
	}

	t.Run("what was unsynced is gone, what was synced stays", func(t *testing.T) {
		ctx, d := t.Context(), c.Machines()
		ticks := func() int64 {
			files, err := d.Files.Files(ctx, "n1")
			require.NoError(t, err)
			for _, f := range files {
				require.NotContains(t, f.Name, "faultline", "files of the harness are no records")
				if f.Name == "ticks" {
					return f.Size
				}
			}
			return 0
		}
		require.NoError(t, d.BadDisks.Break(ctx, "n1"), "which syncs everything")
		require.NoError(t, d.BadDisks.Mend(ctx, "n1"))
		synced := ticks()
		require.Positive(t, synced)
		require.NoError(t, c.Processes().Start(ctx, "n1"))
		require.Eventually(t, func() bool { return ticks() >= synced+10 }, 10*time.Second, 20*time.Millisecond)
		require.NoError(t, c.Disks().PowerLoss(ctx, []string{"n1"}))
		require.Equal(t, synced, ticks())
		require.NoError(t, c.Processes().Start(ctx, "n1"))
		require.NoError(t, d.BadDisks.Mend(ctx, "n1"), "which is not broken: left alone")
		s, err := c.Processes().State(ctx, "n1")
		require.NoError(t, err)
		require.True(t, s.Running)
	})

	t.Run("a slow disk stays slow for the next process", func(t *testing.T) {
		ctx, d := t.Context(), c.Machines()
		require.NoError(t, d.SlowDisks.Slow(ctx, "n1", 100))
		begin := time.Now()
		require.NoError(t, c.Disks().PowerLoss(ctx, []string{"n1"}))
		require.Less(t, time.Since(begin), 20*time.Second, "it is not slow for what a power loss does to it")
		probe := func() time.Duration { // the median: the first write of a throttled process may pass at once
			var took []time.Duration
			for range 5 {
				p, err := d.SlowDisks.Probe(ctx, "n1")
				require.NoError(t, err)
				took = append(took, p.Sync)
			}
			slices.Sort(took)
			return took[len(took)/2]
		}
		require.Greater(t, probe(), 100*time.Millisecond, "while it is down")
		require.NoError(t, c.Processes().Start(ctx, "n1"))
		require.Greater(t, probe(), 100*time.Millisecond)
		require.NoError(t, d.SlowDisks.Quicken(ctx, "n1"))
		require.Less(t, probe(), 100*time.Millisecond)
	})

	t.Run("what a running process forbids", func(t *testing.T) {
		d := c.Machines()
		c.eventuallyAnswers("n1", c.cfg.Ports.Client)
		require.ErrorContains(t, d.LostDisks.Wipe(t.Context(), "n1"), "kill it first")
		require.ErrorContains(t, d.Files.PutBack(t.Context(), "n1"), "kill it first")
		require.ErrorContains(t, d.FullDisks.Fill(t.Context(), "n9"), "unknown node")
		_, err := d.Files.Digest(t.Context(), "n1", "../image", 1)
		require.ErrorContains(t, err, "not on the disk")
	})

	require.NoError(t, c.Down(t.Context()))
	requireNothing(t, cli, c.cfg.RunID)
	requireUnbound(t, devices)
}

// TestDiskFaultsStubbed: where nothing is done to the disk of one target, no fault is proven.
func TestDiskFaultsStubbed(t *testing.T) {
	needDocker(t)
	needAll(t)
	c := disksUp(t, sidecar.Stubbed)
	for _, s := range diskSteps() {
		if s.Shape == nemesis.RestartKill {
			continue // it does nothing to disks
		}
		t.Run(fmt.Sprintf("%s of %s, seed %d", s.Name(), s.Targets, s.Seed), func(t *testing.T) {
			_, why := c.live(t, s).reached()
			require.Contains(t, why, "had no effect", "%s", s.Name())
			require.Contains(t, why, "n2")
		})
	}
}

// devicesOf lists the loop devices of a run's volumes.
func devicesOf(t *testing.T, cli *client.Client, run string) []string {
	t.Helper()
	vs, err := cli.VolumeList(context.Background(), volume.ListOptions{Filters: filters.NewArgs(filters.Arg("label", labelRun+"="+run))})
	require.NoError(t, err)
	var devices []string
	for _, v := range vs.Volumes {
		if d := v.Options["device"]; d != "" {
			devices = append(devices, d)
		}
	}
	return devices
}

// bound returns those devices that have a file. Where the engine is elsewhere
// nothing can be said.
func bound(t *testing.T, devices []string) []string {
	t.Helper()
	var out []string
	for _, d := range devices {
		switch _, err := os.Stat("/sys/block/" + strings.TrimPrefix(d, "/dev/") + "/loop"); {
		case err == nil:
			out = append(out, d)
		default:
			require.ErrorIs(t, err, os.ErrNotExist)
		}
	}
	return out
}

func requireUnbound(t *testing.T, devices []string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(bound(t, devices)) == 0 }, 10*time.Second, 10*time.Millisecond, "loop devices of a run that has ended are in use: %v", devices)
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	for _, d := range devices {
		require.NotContains(t, string(mounts), d+" ")
	}
}
