package harness

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
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
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

var buildImage sync.Once

// needDocker skips without Docker, and fails where it must be there; it builds
// the node image where this source's is missing.
func needDocker(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Docker: skipped with -short")
	}
	_, err := docker.HaveImage(t.Context())
	if errors.Is(err, docker.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	require.NoError(t, err)
	buildImage.Do(func() {
		_, err := docker.BuildImage(t.Context(), nil)
		require.NoError(t, err)
	})
}

// needAll skips a test that is too slow for every run of the suite.
func needAll(t *testing.T) {
	t.Helper()
	if os.Getenv("FAULTLINE_DOCKER_TESTS") != "all" {
		t.Skip("set FAULTLINE_DOCKER_TESTS=all to run it")
	}
	needDocker(t)
}

// dockerPlan is a short plan in Docker: one fault of each kind that is named.
func dockerPlan(faults string) Plan {
	p := simPlan(faults)
	p.Environment, p.Time = "docker", 20*time.Second
	return p
}

// contained runs a plan in containers, stores and judges it, and wants nothing of
// it left in Docker.
func contained(t *testing.T, p Plan, sabotage func(*docker.Config)) judged {
	t.Helper()
	run := docker.NewRunID()
	o, err := Run(t.Context(), Config{Plan: p, RunID: run, DockerConfig: sabotage}, t.TempDir(), "")
	require.NoError(t, err)
	requireNothingLeft(t, run)
	require.NoError(t, o.Execution.Err)
	for _, n := range o.Execution.Plan.NodeNames() {
		for _, f := range []string{"stdout.log", "stderr.log", "events.jsonl", "data.sha256"} {
			require.FileExists(t, o.Dir+"/nodes/"+n+"/"+f)
		}
	}
	again, err := Recheck(t.Context(), o.Dir)
	require.NoError(t, err)
	require.Equal(t, o.Summary.Verdict, again.Summary.Verdict)
	require.Equal(t, o.Summary.Sentence, again.Summary.Sentence)
	return judged{o.Result, o.History, o.Execution}
}

// requireNothingLeft wants no container, network or volume of a run in Docker.
func requireNothingLeft(t *testing.T, run string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	cli, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	require.NoError(t, err)
	defer func() { require.NoError(t, cli.Close()) }()
	by := filters.NewArgs(filters.Arg("label", "io.faultline.run="+run))
	containers, err := cli.ContainerList(ctx, container.ListOptions{All: true, Filters: by})
	require.NoError(t, err)
	require.Empty(t, containers)
	networks, err := cli.NetworkList(ctx, network.ListOptions{Filters: by})
	require.NoError(t, err)
	require.Empty(t, networks)
	volumes, err := cli.VolumeList(ctx, volume.ListOptions{Filters: by})
	require.NoError(t, err)
	require.Empty(t, volumes.Volumes)
}

// requireValidInDocker is requireValid for a short run on a busy host.
func (j judged) requireValidInDocker(t *testing.T) {
	t.Helper()
	require.Equal(t, checker.Valid, j.Verdict, j.why())
	j.requireProven(t)
	lost, acknowledged := lostByHand(t, j.history)
	require.Empty(t, lost)
	require.Greater(t, acknowledged, 500)
}

// The three runs of every suite: one that must be acquitted, one that must be
// convicted, and one that proves nothing and must say so.

func TestDockerValid(t *testing.T) {
	needDocker(t)
	contained(t, dockerPlan("partition"), nil).requireValidInDocker(t)
}

func TestDockerConvicts(t *testing.T) {
	needDocker(t)
	p := dockerPlan("partition:isolate-leader")
	p.Options["acks"] = "1"
	j := contained(t, p, nil)
	require.Equal(t, checker.Invalid, j.Verdict, j.why())
	j.requireProven(t)
	requireLost(t, j.Result, j.history)
}

func TestDockerStubbed(t *testing.T) {
	needDocker(t)
	j := contained(t, dockerPlan("partition:isolate-leader"), func(c *docker.Config) { c.Sabotage = sidecar.Stubbed })
	requireWithoutEffect(t, j, "partition:isolate-leader")
}

// TestDockerSabotage: the other ways to spoil a partition.
func TestDockerSabotage(t *testing.T) {
	needAll(t)
	for name, sabotage := range map[string]func(*docker.Config){
		"stubbed on one node":  func(c *docker.Config) { c.Sabotage, c.SabotageNode = sidecar.Stubbed, "n2" },
		"new connections only": func(c *docker.Config) { c.Sabotage = sidecar.NewOnly },
		"removed at half time": func(c *docker.Config) { c.Sabotage = sidecar.HalfTime(4 * time.Second) },
	} {
		for _, fault := range []string{"partition:isolate-leader", "partition:one-way-in"} {
			t.Run(name+" "+fault, func(t *testing.T) {
				p := dockerPlan(fault)
				if fault == "partition:one-way-in" {
					p.Targets = "n2" // the rules of a cut stand where it ends
				}
				requireWithoutEffect(t, contained(t, p, sabotage), fault)
			})
		}
	}
}

// TestDockerFaults: the defaults survive every fault, shape and target.
func TestDockerFaults(t *testing.T) {
	needAll(t)
	type row struct {
		faults, targets string
		nodes           int
	}
	rows := []row{
		{"partition:isolate-one", "", 3},
		{"partition:one-way-in", "leader", 3},
		{"partition:one-way-out", "leader", 3},
		{"partition:client", "leader", 3},
		{"partition:halves", "", 5},
		{"partition:bridge", "", 5},
		{"partition:ring", "", 5},
		{"stop", "leader", 3},
	}
	for _, fault := range []string{"kill", "pause"} {
		for _, targets := range []string{"leader", "follower", "minority", "majority", "all"} {
			rows = append(rows, row{fault, targets, 3})
		}
	}
	for _, r := range rows {
		t.Run(strings.Trim(r.faults+" "+r.targets, " "), func(t *testing.T) {
			p := dockerPlan(r.faults)
			p.Targets, p.Nodes = r.targets, r.nodes
			j := contained(t, p, nil)
			j.requireValidInDocker(t)
			requireTargets(t, j, r.targets)
		})
	}
}

// TestDockerConvictsAlways: ten seeds of ten.
func TestDockerConvictsAlways(t *testing.T) {
	needAll(t)
	p := dockerPlan("partition:isolate-leader")
	p.Options["acks"] = "1"
	for seed := range uint64(10) {
		p.Seed = 1 + seed
		j := contained(t, p, nil)
		require.Equal(t, checker.Invalid, j.Verdict, "seed %d: %s", p.Seed, j.why())
		requireLost(t, j.Result, j.history)
	}
}

// TestDockerSingle: one replica is not available while its node is dead, and
// keeps what it acknowledged.
func TestDockerSingle(t *testing.T) {
	needAll(t)
	p := dockerPlan("kill")
	p.Scheme, p.Targets = "single", "leader"
	j := contained(t, p, nil)
	j.requireValidInDocker(t)
	require.GreaterOrEqual(t, j.Availability.LongestUnavailableMS, 4000.0, "nobody takes over")
}

// TestDockerAsInTheSimulator: both environments run one plan to histories of one
// shape: the same clients, keys, steps and phases.
func TestDockerAsInTheSimulator(t *testing.T) {
	needAll(t)
	p := dockerPlan("kill")
	inDocker := contained(t, p, nil)
	p.Environment = "sim"
	inSim := simulated(t, p)
	require.Equal(t, inDocker.ex.Plan.Steps, inSim.ex.Plan.Steps)
	a, b := inDocker.history, inSim.history
	require.Equal(t, a.Header.Clients, b.Header.Clients)
	require.Equal(t, a.Header.Contract, b.Header.Contract)
	names := func(h *history.History) (out []string) {
		for _, ph := range h.Phases {
			out = append(out, ph.Name)
		}
		return out
	}
	require.Equal(t, names(a), names(b))
	require.Equal(t, slices.Sorted(maps.Keys(inDocker.Counts.Phases)), slices.Sorted(maps.Keys(inSim.Counts.Phases)))
}
