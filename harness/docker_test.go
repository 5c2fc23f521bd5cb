package harness

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	"github.com/faultline-mq/faultline/nemesis"
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
	return judged{Result: o.Result, history: o.History, ex: o.Execution}
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
		{"power", "all", 3},
		{"restart:power", "leader", 3},
		{"restart:wipe", "leader", 3},
		{"wipe", "leader", 3},
		{"disk-full", "all", 3},
		{"disk-error", "all", 3},
		{"disk-slow", "leader", 3},
		{"corrupt-file:bit-flip", "leader", 3},
		{"corrupt-file:truncate", "leader", 3},
		{"corrupt-file:stale-restore", "follower", 3},
		{"restart:kill", "leader", 3},
		{"restart:kill", "follower", 3},
		{"restart:kill", "all", 3},
		{"leadership:transfer", "", 3},
		{"leadership:flap", "", 3},
		{"delay", "leader", 3},
		{"loss", "leader", 3},
		{"duplicate", "all", 3},
		{"reorder", "leader", 3},
		{"corrupt-packets", "leader", 3},
		{"rate", "leader", 3},
		{"reset", "leader", 3},
		{"half-open", "leader", 3},
		{"cpu", "leader", 3},
		{"cpu", "all", 3},
		{"memory", "leader", 3},
		{"memory", "all", 3},
		{"upgrade:mixed", "leader", 3},
		{"upgrade:rolling", "", 3},
		{"clock:jump", "all", 3},
		{"clock:drift", "majority", 3},
		{"clock:strobe", "leader", 3},
		{"membership:add", "", 3},
		{"membership:remove", "leader", 3},
		{"membership:replace", "leader", 3},
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
			logTimes(t, j.history)
			j.requireValidInDocker(t)
			requireTargets(t, j, r.targets)
		})
	}
}

// logTimes logs, for every fault of a run, how long it took to inject and to heal,
// and what proved it.
func logTimes(t *testing.T, h *history.History) {
	t.Helper()
	at := map[int]map[history.FaultStage]history.Fault{}
	for _, f := range h.Faults {
		if at[f.ID] == nil {
			at[f.ID] = map[history.FaultStage]history.Fault{}
		}
		at[f.ID][f.Stage] = f
	}
	for _, id := range slices.Sorted(maps.Keys(at)) {
		took := func(from, to history.FaultStage) time.Duration {
			return time.Duration(at[id][to].At - at[id][from].At).Round(time.Millisecond)
		}
		t.Logf("%s: injected in %s, proven in %s, healed and proven in %s: %s", at[id][history.Injecting].Name,
			took(history.Injecting, history.Injected), took(history.Injected, history.Proven), took(history.Healing, history.Healed), at[id][history.Proven].Detail)
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

// dockerSeeds is how many seeds are run of what must hold for each:
// FAULTLINE_DOCKER_SEEDS, by default 3.
func dockerSeeds(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("FAULTLINE_DOCKER_SEEDS")
	if s == "" {
		return 3
	}
	n, err := strconv.ParseUint(s, 10, 32)
	require.NoError(t, err, "FAULTLINE_DOCKER_SEEDS is a number of seeds")
	return n
}

// TestDockerCorruptFile: a byte that is damaged in the middle of a log, on a minority
// of its replicas, reaches nobody, though somebody reads from the beginning again and
// again, and nothing is lost: its replica refuses it and fetches it again.
func TestDockerCorruptFile(t *testing.T) {
	needAll(t)
	p := dockerPlan("corrupt-file:bit-flip")
	p.Targets, p.Seekers = "minority", 1
	refused := 0
	for seed := range dockerSeeds(t) {
		p.Seed = 1 + seed
		j := contained(t, p, nil)
		j.requireValidInDocker(t)
		n := 0
		for i := range j.history.Events {
			if j.history.Events[i].Kind == "corrupt" {
				n++
			}
		}
		t.Logf("seed %d: damage was refused %d times", p.Seed, n)
		refused += min(n, 1)
	}
	require.NotZero(t, refused, "no node ever met the damage")
}

// TestDockerPowerUnsynced: where nothing is synced, a power loss of all nodes at
// once takes the newest of what was acknowledged, and nothing older than that.
func TestDockerPowerUnsynced(t *testing.T) {
	needAll(t)
	p := dockerPlan("power")
	p.Targets, p.Options["fsync"] = "all", "never"
	for seed := range dockerSeeds(t) {
		p.Seed = 1 + seed
		j := contained(t, p, nil)
		require.Equal(t, checker.Invalid, j.Verdict, "seed %d: %s", p.Seed, j.why())
		j.requireProven(t)
		requireTailLost(t, j.history)
	}
}

// TestDockerPowerSynced: where everything is synced before it is acknowledged, it takes nothing.
func TestDockerPowerSynced(t *testing.T) {
	needAll(t)
	p := dockerPlan("power")
	p.Targets, p.Options["fsync"] = "all", "always"
	for seed := range dockerSeeds(t) {
		p.Seed = 1 + seed
		j := contained(t, p, nil)
		j.requireValidInDocker(t)
		cut := cutAt(t, j.history)
		before := 0
		for _, op := range j.history.Ops {
			if op.Kind == history.Send && op.Outcome == history.OK && op.Return < cut {
				before++
			}
		}
		require.Greater(t, before, 500, "acknowledged before the cut")
	}
}

// cutAt is when the power was cut: from the begin of its injection on.
func cutAt(t *testing.T, h *history.History) int64 {
	t.Helper()
	i := slices.IndexFunc(h.Faults, func(f history.Fault) bool { return f.Name == "power" && f.Stage == history.Injecting })
	require.GreaterOrEqual(t, i, 0)
	return h.Faults[i].At
}

// requireTailLost wants a partition's messages that were acknowledged before a cut
// to be there up to some offset and lost from there on, and no later one lost.
func requireTailLost(t *testing.T, h *history.History) {
	t.Helper()
	lost, _ := lostByHand(t, h)
	require.NotEmpty(t, lost)
	first := map[int32]int64{}
	for _, op := range lost {
		if at, ok := first[op.Key]; !ok || op.Offset < at {
			first[op.Key] = op.Offset
		}
	}
	injected := slices.IndexFunc(h.Faults, func(f history.Fault) bool { return f.Name == "power" && f.Stage == history.Injected })
	require.GreaterOrEqual(t, injected, 0)
	for _, op := range h.Ops {
		if op.Kind != history.Send || op.Outcome != history.OK {
			continue
		}
		_, gone := lost[op.Value]
		at, some := first[op.Key]
		if op.Call > h.Faults[injected].At {
			require.False(t, gone, "%s was sent after the cut", op.Value)
		} else {
			require.Equal(t, some && op.Offset >= at, gone, "%s at offset %d; lost from %d on", op.Value, op.Offset, at)
		}
	}
}

// TestDockerPowerStubbed: a power loss that takes nothing is none.
func TestDockerPowerStubbed(t *testing.T) {
	needAll(t)
	requireWithoutEffect(t, contained(t, dockerPlan("power"), func(c *docker.Config) { c.Sabotage = sidecar.Stubbed }), "power")
}

// TestDockerUpgradeStubbed: nodes that come back with their own version were not upgraded.
func TestDockerUpgradeStubbed(t *testing.T) {
	needAll(t)
	requireWithoutEffect(t, contained(t, dockerPlan("upgrade:mixed"), func(c *docker.Config) { c.Sabotage = sidecar.Stubbed }), "upgrade:mixed")
}

// TestDockerRefusesDisks: an engine that cannot give nodes disks is told of in one
// sentence, and no result is left.
func TestDockerRefusesDisks(t *testing.T) {
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", docker.MinAPIVersion)
		switch {
		case strings.HasSuffix(r.URL.Path, "/info"):
			_, _ = w.Write([]byte(`{"SecurityOptions":["name=seccomp,profile=default","name=rootless"]}`))
		default: // an image
			_, _ = w.Write([]byte(`{"Id":"sha256:1"}`))
		}
	}))
	defer engine.Close()
	for _, name := range []string{"DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"} {
		t.Setenv(name, "")
	}
	t.Setenv(client.EnvOverrideHost, "tcp://"+strings.TrimPrefix(engine.URL, "http://"))
	out := t.TempDir()
	for range 2 {
		_, err := Run(t.Context(), Config{Plan: dockerPlan("power"), RunID: docker.NewRunID(), DockerConfig: func(c *docker.Config) {
			c.SidecarImage = "somebody/else"
			for i := range c.Nodes {
				c.Nodes[i].Image = "somebody/else"
			}
		}}, out, "")
		require.ErrorIs(t, err, ErrBadPlan)
		require.ErrorIs(t, err, docker.ErrNoDisks)
		require.ErrorContains(t, err, "is rootless and may not make loop devices; name one that runs as root with DOCKER_HOST, or use --env sim")
		left, err := filepath.Glob(out + "/*/*")
		require.NoError(t, err)
		require.Empty(t, left)
		_, err = os.Lstat(filepath.Join(out, latestLink))
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	p := simPlan("")
	p.Time = 9 * time.Second
	_, err := Run(t.Context(), Config{Plan: p, RunID: docker.NewRunID()}, out, "")
	require.NoError(t, err)
	before, err := os.Readlink(filepath.Join(out, latestLink))
	require.NoError(t, err)
	_, err = Run(t.Context(), Config{Plan: dockerPlan("wipe"), RunID: docker.NewRunID()}, out, "")
	require.ErrorIs(t, err, docker.ErrNoDisks)
	after, err := os.Readlink(filepath.Join(out, latestLink))
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// TestDockerRefusesPackets: a kernel that cannot do what a fault needs is told of
// before the nodes start, and no result is left.
func TestDockerRefusesPackets(t *testing.T) {
	needDocker(t)
	out, run := t.TempDir(), docker.NewRunID()
	_, err := Run(t.Context(), Config{Plan: dockerPlan("delay"), RunID: run, DockerConfig: func(c *docker.Config) {
		c.Try = append(c.Try, sidecar.RuleSet{Drops: []sidecar.Drop{{Hook: sidecar.Input, Peer: sidecar.Clients, Mode: "magic"}}})
	}}, out, "")
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorIs(t, err, docker.ErrNoShaping)
	require.ErrorContains(t, err, `unknown mode "magic"`)
	require.ErrorContains(t, err, "or use --env sim")
	left, err := filepath.Glob(out + "/*/*")
	require.NoError(t, err)
	require.Empty(t, left)
	requireNothingLeft(t, run)
}

// TestDockerTriesTheKernel: whatever a fault does to packets is tried first.
func TestDockerTriesTheKernel(t *testing.T) {
	for _, f := range nemesis.Known() {
		sets := kernelNeeded([]nemesis.Step{{Fault: "kill"}, {Fault: f.Name}, {Fault: f.Name}})
		want := 0
		if slices.Contains(f.Needs, nemesis.NeedsShaping) || slices.Contains(f.Needs, nemesis.NeedsResets) {
			want = 1
		}
		require.Len(t, sets, want, f.Name)
	}
}

// TestDockerPlainVolumes: nodes have disks of their own only where a fault needs them.
func TestDockerPlainVolumes(t *testing.T) {
	for _, f := range nemesis.Known() {
		disks, slowed := disksNeeded([]nemesis.Step{{Fault: "kill"}, {Fault: f.Name}})
		onDisks := []string{"power", "restart", "wipe", "disk-full", "disk-error", "disk-slow", "corrupt-file", "membership"}
		require.Equal(t, slices.Contains(onDisks, f.Name), disks, f.Name)
		require.Equal(t, f.Name == "disk-slow", slowed, f.Name)
		require.Equal(t, f.Name == "cpu" || f.Name == "memory", limitsNeeded([]nemesis.Step{{Fault: "kill"}, {Fault: f.Name}}), f.Name)
	}
	for _, shape := range []nemesis.Shape{nemesis.RestartKill, nemesis.RestartPower, nemesis.RestartWipe} {
		disks, _ := disksNeeded([]nemesis.Step{{Fault: "restart", Shape: shape}})
		require.Equal(t, shape != nemesis.RestartKill, disks, shape)
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
