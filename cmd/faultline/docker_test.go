package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/report"
	"github.com/faultline-mq/faultline/nemesis"
)

// needAll skips what needs Docker and is too slow for every run of the suite.
func needAll(t *testing.T) *client.Client {
	t.Helper()
	if os.Getenv("FAULTLINE_DOCKER_TESTS") != "all" {
		t.Skip("set FAULTLINE_DOCKER_TESTS=all to run it")
	}
	_, err := docker.HaveImage(t.Context())
	if errors.Is(err, docker.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	require.NoError(t, err)
	_, err = docker.BuildImage(t.Context(), nil)
	require.NoError(t, err)
	cli, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cli.Close()) })
	return cli
}

// inDocker is the environment of a command that finds Docker.
func inDocker() []string { return []string{"DOCKER_HOST=" + os.Getenv("DOCKER_HOST")} }

// left counts the containers, networks and volumes of a run.
func left(t *testing.T, cli *client.Client, run string) (containers, networks, volumes int) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	by := filters.NewArgs(filters.Arg("label", "io.faultline.run="+run))
	cs, err := cli.ContainerList(ctx, container.ListOptions{All: true, Filters: by})
	require.NoError(t, err)
	ns, err := cli.NetworkList(ctx, network.ListOptions{Filters: by})
	require.NoError(t, err)
	vs, err := cli.VolumeList(ctx, volume.ListOptions{Filters: by})
	require.NoError(t, err)
	return len(cs), len(ns), len(vs.Volumes)
}

func requireNothing(t *testing.T, cli *client.Client, run string) {
	t.Helper()
	c, n, v := left(t, cli, run)
	require.Equal(t, [3]int{}, [3]int{c, n, v}, "of run %s: containers, networks, volumes", run)
}

// loops lists the loop devices of a run.
func loops(t *testing.T, cli *client.Client, run string) []string {
	t.Helper()
	vs, err := cli.VolumeList(t.Context(), volume.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "io.faultline.run="+run))})
	require.NoError(t, err)
	var devices []string
	for _, v := range vs.Volumes {
		if d := v.Options["device"]; d != "" {
			devices = append(devices, d)
		}
	}
	return devices
}

// output is what a living process has printed.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is a run in a process of its own.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	out            string
	stdout, stderr output
	ended          chan error
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, out: t.TempDir(), ended: make(chan error, 1)}
	p.cmd = faultline(t, inDocker(), append([]string{"run", "--env", "docker", "--out", p.out}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	require.NoError(t, p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	return p
}

// says waits until the process has printed text.
func (p *process) says(text string) {
	p.t.Helper()
	deadline := time.After(2 * time.Minute)
	for poll := time.NewTicker(20 * time.Millisecond); ; {
		if strings.Contains(p.stdout.String(), text) {
			poll.Stop()
			return
		}
		select {
		case err := <-p.ended:
			p.t.Fatalf("ended before it said %q: %v\n%s%s", text, err, &p.stdout, &p.stderr)
		case <-deadline:
			p.t.Fatalf("did not say %q:\n%s%s", text, &p.stdout, &p.stderr)
		case <-poll.C:
		}
	}
}

// run is the run's id, from the history that it writes.
func (p *process) run() string {
	p.t.Helper()
	r, err := history.Open(filepath.Join(p.out, "latest", history.FileName))
	require.NoError(p.t, err)
	defer func() { require.NoError(p.t, r.Close()) }()
	return r.Header().RunID
}

func (p *process) end() answer {
	p.t.Helper()
	select {
	case err := <-p.ended:
		return answered(p.t, err, &p.stdout, &p.stderr)
	case <-time.After(4 * time.Minute):
		p.t.Fatalf("it did not end:\n%s%s", &p.stdout, &p.stderr)
	}
	return answer{}
}

// TestDockerKilledHarness: runs A and B at once, SIGKILL for A's harness in mid-fault,
// then run C. Everything of A is gone, and B and C end valid and untouched.
func TestDockerKilledHarness(t *testing.T) {
	cli := needAll(t)
	b := start(t, "--faults", "partition:isolate-leader", "--time", "60s", "--rate", "100")
	a := start(t, "--faults", "partition:isolate-leader", "--time", "60s", "--rate", "100", "--seed", "2")
	b.says("baseline")
	a.says("fault: partition:isolate-leader n")
	runA, runB := a.run(), b.run()
	require.NotEqual(t, runA, runB)
	require.NoError(t, a.cmd.Process.Kill())
	require.Error(t, <-a.ended)
	containers, networks, volumes := left(t, cli, runA)
	require.Positive(t, containers*networks*volumes, "the kill left its cluster behind")

	c := start(t, "--faults", "kill", "--time", "20s", "--rate", "100")
	got := c.end()
	require.Equal(t, 0, got.code, got.stdout+got.stderr)
	requireNothing(t, cli, runA)
	requireNothing(t, cli, c.run())
	got = b.end()
	require.Equal(t, 0, got.code, got.stdout+got.stderr)
	require.Contains(t, got.stdout, "\nVALID  ")
	requireNothing(t, cli, runB)

	// What A recorded until then is judged, and decides nothing.
	require.Equal(t, 2, ask(t, nil, "check", filepath.Join(a.out, "latest")).code)
}

// TestDockerInterrupted: SIGINT at any time, and in the middle of every fault, leaves
// nothing, says so, and keeps what was recorded.
func TestDockerInterrupted(t *testing.T) {
	cli := needAll(t)
	type row struct {
		name, fault, text string
		containers        int // that are there by then
	}
	rows := []row{
		{"before it comes up", "kill", "setup ", 0},
		{"while it comes up", "kill", "setup ", 2},
		{"in the baseline", "kill", "baseline ", 6},
		{"while disks come up", "power", "setup ", 2},
		{"with a wrong clock", "clock:jump", "fault: clock:jump n", 6},
		{"while a node joins", "membership:add", "fault: membership:add", 12},
		{"with a further node", "membership:add", "fault: membership:add n4", 12},
		{"while a node leaves", "membership:remove", "fault: membership:remove", 9},
		{"while a node is replaced", "membership:replace", "fault: membership:replace", 9},
	}
	for _, f := range nemesis.Known() {
		if f.Name == "exec" {
			continue // TestDockerExecInterrupted
		}
		rows = append(rows, row{"in mid-fault: " + f.Name, f.Name, "fault: " + f.Name, 6})
	}
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, "--faults", c.fault, "--time", "60s")
			p.says(c.text)
			run := p.run()
			require.Eventually(t, func() bool {
				n, _, _ := left(t, cli, run)
				return n >= c.containers
			}, time.Minute, 5*time.Millisecond)
			devices := loops(t, cli, run)
			require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
			a := p.end()
			require.Equal(t, 255, a.code, a.stdout+a.stderr)
			require.Contains(t, a.stdout, "HARNESS ERROR  Harness error: interrupted; everything was cleaned up")
			require.Empty(t, a.stderr)
			requireNothing(t, cli, run)
			for _, d := range devices {
				require.Eventually(t, func() bool {
					_, err := os.Stat("/sys/block/" + filepath.Base(d) + "/loop")
					return errors.Is(err, os.ErrNotExist)
				}, 10*time.Second, 10*time.Millisecond, "%s is in use", d)
			}
			s, err := report.ReadSummary(filepath.Join(p.out, "latest"))
			require.NoError(t, err)
			require.Equal(t, checker.HarnessError, s.Verdict)
			require.FileExists(t, filepath.Join(s.Dir, report.PageFile))
		})
	}
}

// TestDockerFullDisk: the run ends with one line, and its cluster is gone.
func TestDockerFullDisk(t *testing.T) {
	cli := needAll(t)
	out := smallDisk(t, "96k")
	cmd := faultline(t, inDocker(), "run", "--env", "docker", "--faults", "none", "--time", "30s", "--rate", "500", "--out", out)
	a := await(t, cmd)
	a.requireRefused(t, 255, "no space left on device", "free some space")
	r, err := history.Open(filepath.Join(out, "latest", history.FileName))
	require.NoError(t, err)
	run := r.Header().RunID
	require.NoError(t, r.Close())
	requireNothing(t, cli, run)
}

// TestDockerKept: a failed cluster that was to be kept stays until clean --kept.
func TestDockerKept(t *testing.T) {
	cli := needAll(t)
	p := start(t, "--faults", "partition:isolate-leader", "--time", "20s", "--set", "acks=1", "--keep")
	a := p.end()
	require.Equal(t, 1, a.code, a.stdout+a.stderr)
	run := p.run()
	containers, networks, volumes := left(t, cli, run)
	require.Positive(t, containers*networks*volumes)
	a = ask(t, inDocker(), "clean")
	require.Equal(t, 0, a.code, a.stderr)
	containers, _, _ = left(t, cli, run)
	require.Positive(t, containers, "clean leaves what is kept")
	a = ask(t, inDocker(), "clean", "--kept")
	require.Equal(t, 0, a.code, a.stderr)
	requireNothing(t, cli, run)

	p = start(t, "--faults", "none", "--time", "10s", "--keep")
	a = p.end()
	require.Equal(t, 0, a.code, a.stdout+a.stderr)
	requireNothing(t, cli, p.run())
}
