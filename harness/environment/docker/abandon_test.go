package docker

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// abandonedRun is a harness that brings a cluster with disks up, cuts a link, puts a
// new node in place, sets a clock and hangs until it is killed. It is this test
// binary, started again.
func abandonedRun(run string) {
	ctx := context.Background()
	cfg := withSpare(1)
	cfg.RunID, cfg.Disks = run, true
	for i := range cfg.Nodes {
		cfg.Nodes[i].Clock = sidecar.ClockDir
	}
	e, err := New(cfg)
	if err == nil {
		err = e.Up(ctx)
	}
	if err == nil {
		err = e.Network().Block(ctx, "x", []nemesis.Cut{{From: "n1", To: "n2"}})
	}
	if err == nil {
		err = e.Machines().NewNodes.Replace(ctx, "n2", "7")
	}
	if err == nil {
		err = e.Processes().Start(ctx, "n2")
	}
	if err == nil {
		err = e.Machines().Clocks.Jump(ctx, "n2", time.Hour)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

func states(t *testing.T, cli *client.Client, run, role string) map[string]int {
	t.Helper()
	cs, err := cli.ContainerList(context.Background(), container.ListOptions{All: true, Filters: filters.NewArgs(
		filters.Arg("label", labelRun+"="+run), filters.Arg("label", labelRole+"="+role))})
	require.NoError(t, err)
	n := map[string]int{}
	for _, c := range cs {
		n[c.State]++
	}
	return n
}

// TestKilledHarness kills a harness beside a living one: its sidecars heal and
// exit by themselves, the next sweep takes the rest, the other run stays whole.
func TestKilledHarness(t *testing.T) {
	cli := needDocker(t)
	needAll(t)
	live := up(t, testConfig(2))
	cut := nemesis.Cut{From: "n1", To: "n2"}
	require.NoError(t, live.Network().Block(t.Context(), "x", []nemesis.Cut{cut}))

	run := "t" + NewRunID()
	cmd := exec.Command(must(os.Executable()), "-abandoned-run", run)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	wrong := toldTheTime(t, run, "n2")
	killed := cmd.Process.Kill()
	require.Equal(t, "ready\n", line)
	require.NoError(t, killed)
	require.Error(t, cmd.Wait(), "killed")
	require.True(t, wrong, "the clock of n2 was set")

	devices := devicesOf(t, cli, run)
	require.Len(t, bound(t, devices), 2)
	// Two for networks, two for disks.
	require.Eventually(t, func() bool { return states(t, cli, run, roleSidecar)["exited"] == 4 }, 10*time.Second, 20*time.Millisecond)
	cs, err := cli.ContainerList(t.Context(), container.ListOptions{All: true, Filters: filters.NewArgs(
		filters.Arg("label", labelRun+"="+run), filters.Arg("label", labelRole+"="+roleSidecar))})
	require.NoError(t, err)
	for _, c := range cs {
		s, err := cli.ContainerInspect(t.Context(), c.ID)
		require.NoError(t, err)
		require.Zero(t, s.State.ExitCode, "it took its rules away, or let go of its disk")
	}
	require.Equal(t, map[string]int{"running": 2}, states(t, cli, run, roleNode))
	require.False(t, toldTheTime(t, run, "n2"), "its sidecar made it right")

	third := up(t, testConfig(1)) // which sweeps
	requireNothing(t, cli, run)
	requireUnbound(t, devices)
	require.Empty(t, third.cutNow())
	require.Equal(t, pairs(cut), live.cutNow())
	live.eventuallyDropped("x", cut)
	swept, err := Sweep(t.Context(), SweepOptions{Kept: true})
	require.NoError(t, err)
	require.NotContains(t, swept.Runs, live.cfg.RunID)
	require.Equal(t, pairs(cut), live.cutNow())
}

func TestParallelRuns(t *testing.T) {
	needDocker(t)
	needAll(t)
	clusters := make(chan *Environment, 3)
	errs := make(chan error, 3)
	for range 3 {
		go func() {
			e, err := New(testConfig(1))
			if err == nil {
				err = e.Up(context.Background())
				clusters <- e
			}
			errs <- err
		}()
	}
	subnet := map[string]bool{}
	for range 3 {
		require.NoError(t, <-errs)
		e := <-clusters
		defer func() { require.NoError(t, e.Down(context.Background())) }()
		at, err := e.Addr("n1", 1)
		require.NoError(t, err)
		subnet[at] = true
	}
	require.Len(t, subnet, 3)
}

func TestDownDuringUp(t *testing.T) {
	cli := needDocker(t)
	needAll(t)
	cfg := testConfig(3)
	cfg.Disks = true
	e, err := New(cfg)
	require.NoError(t, err)
	result := make(chan error)
	go func() { result <- e.Up(context.Background()) }()
	require.Eventually(t, func() bool { return len(states(t, cli, cfg.RunID, roleSidecar)) > 0 }, 20*time.Second, 5*time.Millisecond)
	downed := make(chan error)
	go func() { downed <- e.Down(context.Background()) }()
	require.ErrorIs(t, <-result, context.Canceled)
	require.NoError(t, <-downed)
	requireNothing(t, cli, cfg.RunID)
	require.Error(t, e.Up(t.Context()), "once")
}

func TestRelease(t *testing.T) {
	cli := needDocker(t)
	needAll(t)
	cfg := testConfig(1)
	cfg.Keep, cfg.Disks = true, true
	e, err := New(cfg)
	require.NoError(t, err)
	c := &cluster{Environment: e, t: t}
	require.NoError(t, e.Up(t.Context()))
	at, err := e.Addr("n1", cfg.Ports.Client)
	require.NoError(t, err)
	c.eventuallyAnswers("n1", cfg.Ports.Client)
	require.NoError(t, e.Network().Block(t.Context(), "x", []nemesis.Cut{{From: nemesis.Clients, To: "n1"}}))
	require.False(t, c.answers("n1", cfg.Ports.Client, 200*time.Millisecond))
	devices := devicesOf(t, cli, cfg.RunID)
	require.NoError(t, e.Down(t.Context()))
	require.Len(t, bound(t, devices), 1)

	require.Eventually(t, func() bool { return dials(at) }, 10*time.Second, 20*time.Millisecond, "healed")
	_, err = Sweep(t.Context(), SweepOptions{})
	require.NoError(t, err)
	require.True(t, dials(at), "kept")
	swept, err := Sweep(t.Context(), SweepOptions{Kept: true})
	require.NoError(t, err)
	require.Contains(t, swept.Runs, cfg.RunID)
	requireNothing(t, cli, cfg.RunID)
	requireUnbound(t, devices)
}
