package harness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment/sim"
	"github.com/faultline-mq/faultline/harness/report"
	"github.com/faultline-mq/faultline/nemesis"
)

// simPlan is a plan of 30 s in the simulator with these faults.
func simPlan(faults string) Plan {
	p := DefaultPlan()
	p.Environment, p.Time, p.Faults = "sim", 30*time.Second, nil
	if faults != "" {
		p.Faults = strings.Split(faults, ",")
	}
	return p
}

// judged is a simulated and judged run.
type judged struct {
	*checker.Result
	history *history.History
	ex      Execution
	file    string // of the history, where there is one
}

// simulated runs a plan in a process of its own, because a process has one
// simulation at a time and tests are many, and judges it here.
func simulated(t *testing.T, p Plan) judged { return sabotaged(t, p, sim.Sabotage{}) }

// sabotaged is simulated with the network's rules spoilt.
func sabotaged(t *testing.T, p Plan, s sim.Sabotage) judged {
	t.Helper()
	p, err := p.Resolve()
	require.NoError(t, err)
	yaml, err := p.YAML()
	require.NoError(t, err)
	order := simulation{Plan: yaml, History: filepath.Join(t.TempDir(), "history.flh"), Sabotage: s}
	stdin, err := json.Marshal(order)
	require.NoError(t, err)
	cmd := asWorkerProcess(t, "simulate")
	var stderr strings.Builder
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &stderr
	stdout, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var done simulationDone
	require.NoError(t, json.Unmarshal(stdout, &done))
	h, err := history.Load(order.History)
	require.NoError(t, err)
	require.True(t, h.Closed)
	res, err := checker.Run(t.Context(), h, checker.Options{})
	require.NoError(t, err)
	ex := Execution{Plan: p, Digest: done.Digest, Online: done.Online, Stopped: done.Stopped}
	require.NoError(t, unconfirmed(res, ex))
	return judged{res, h, ex, order.History}
}

// simulation is what a process of sabotaged is told.
type simulation struct {
	Plan     []byte // as YAML
	History  string // the file to write
	Sabotage sim.Sabotage
}

// simulationDone is what a process of sabotaged says.
type simulationDone struct {
	Digest  string
	Online  *checker.OnlineReport
	Stopped *report.Stopped
}

// simulate is what a process of sabotaged does.
func simulate(in io.Reader, out io.Writer) error {
	var order simulation
	if err := json.NewDecoder(in).Decode(&order); err != nil {
		return err
	}
	p, err := ParsePlan(order.Plan, PlanFile)
	if err != nil {
		return err
	}
	if p, err = p.Resolve(); err != nil {
		return err
	}
	header, err := Header(p, "sim", time.Unix(0, 0))
	if err != nil {
		return err
	}
	w, err := history.Create(order.History, header)
	if err != nil {
		return err
	}
	ex, err := Execute(context.Background(), Config{Plan: p, RunID: "sim", Watch: true, SimOptions: func(o *sim.Options) { o.Sabotage = order.Sabotage }}, w, "")
	if err == nil {
		err = ex.Err
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(simulationDone{ex.Digest, ex.Online, ex.Stopped})
}

// here simulates and judges in this process.
func here(t *testing.T, p Plan) judged {
	t.Helper()
	p, err := p.Resolve()
	require.NoError(t, err)
	res, h, ex, err := Simulate(t.Context(), p)
	require.NoError(t, err)
	require.NoError(t, ex.Err)
	return judged{Result: res, history: h, ex: ex}
}

func (j judged) why() string {
	var b strings.Builder
	fmt.Fprintln(&b, j.Verdict, j.Sentence)
	for _, r := range j.WhyInconclusive {
		fmt.Fprintln(&b, " ", r.Why)
	}
	for _, c := range j.Checks {
		for i, a := range c.Anomalies {
			if i < 3 {
				fmt.Fprintln(&b, " ", a.Text, a.Cause)
			}
		}
	}
	return b.String()
}

// requireProven wants every step of the plan injected, proven twice and healed,
// by the history's own words.
func (j judged) requireProven(t *testing.T) {
	t.Helper()
	require.NotEmpty(t, j.ex.Plan.Steps)
	for _, step := range j.ex.Plan.Steps {
		var stages []history.FaultStage
		for _, f := range j.history.Faults {
			if f.ID == step.ID {
				stages = append(stages, f.Stage)
				require.Equal(t, step.Name(), f.Name)
				if f.Stage == history.Proven {
					require.NotEmpty(t, f.Targets)
				}
			}
		}
		require.Equal(t, []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed}, stages)
	}
}

func (j judged) requireValid(t *testing.T) {
	t.Helper()
	require.Equal(t, checker.Valid, j.Verdict, j.why())
	require.Empty(t, j.WhyInconclusive)
	require.Zero(t, j.Anomalies[checker.ClassLost])
	for _, phase := range []string{"baseline", "recovery"} {
		require.Greater(t, j.Counts.Phases[phase].Acknowledged, 500, phase)
	}
	lost, judged := lostByHand(t, j.history)
	require.Empty(t, lost)
	require.Equal(t, judged, j.Counts.Acknowledged)
}

// lostByHand finds the acknowledged values that no replica's drained log holds,
// without the checker: by value alone. It also counts the acknowledged ones.
func lostByHand(t *testing.T, h *history.History) (map[history.Value]history.Op, int) {
	t.Helper()
	there := map[history.Value]bool{}
	drained := map[string]bool{}
	for _, r := range h.Replicas {
		require.True(t, r.Complete, "%s of %s: %s", r.Key, r.Node, r.Reason)
		for _, rec := range r.Records {
			there[rec.Value] = there[rec.Value] || rec.Payload == history.Good
		}
		drained[r.Key] = true
	}
	require.Len(t, drained, len(h.Header.Keys))
	lost := map[history.Value]history.Op{}
	acknowledged := 0
	for _, op := range h.Ops {
		if op.Kind == history.Send && op.Outcome == history.OK && op.Acked {
			acknowledged++
			if !there[op.Value] {
				lost[op.Value] = op
			}
		}
	}
	return lost, acknowledged
}

// plainly leaves a test of whole simulations to the run without the race detector
// (`make test` has both): a simulation has one goroutine at a time, and is many
// times slower under it.
func plainly(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("runs without the race detector")
	}
}

// seedsOf returns how many seeds a test takes: one under the race detector.
func seedsOf(n int) int {
	if raceEnabled {
		return 1
	}
	return n
}

// TestFaultsAreSurvived runs the defaults under every fault, shape and target:
// what was acknowledged must be there.
func TestFaultsAreSurvived(t *testing.T) {
	t.Parallel()
	type row struct {
		faults, targets string
		nodes           int
	}
	rows := []row{
		{"", "", 3},
		{"partition:isolate-one", "", 3},
		{"partition:isolate-leader", "", 3},
		{"partition:one-way-in", "leader", 3},
		{"partition:one-way-out", "leader", 3},
		{"partition:client", "leader", 3},
		{"partition:isolate-one", "controller", 3},
		{"partition:halves", "", 5},
		{"partition:bridge", "", 5},
		{"partition:ring", "", 5},
		{"partition:majority", "", 5},
		{"partition:primaries", "", 5},
	}
	for _, fault := range []string{"kill", "pause", "power", "stop"} {
		for _, targets := range []string{"leader", "follower", "minority", "majority", "all"} {
			if fault == "stop" && targets == "all" {
				continue // the last nodes have nobody to hand over to, and say so with their exit code
			}
			rows = append(rows, row{fault, targets, 3})
		}
	}
	for i, r := range rows {
		if raceEnabled && i != 2 {
			continue
		}
		t.Run(strings.Trim(r.faults+" "+r.targets, " "), func(t *testing.T) {
			t.Parallel()
			p := simPlan(r.faults)
			p.Targets, p.Nodes = r.targets, r.nodes
			for seed := range uint64(seedsOf(2)) {
				p.Seed = 100 + seed
				j := simulated(t, p)
				j.requireValid(t)
				if r.faults == "" {
					require.Empty(t, j.history.Faults)
					continue
				}
				j.requireProven(t)
				requireTargets(t, j, r.targets)
			}
		})
	}
}

// requireTargets wants the faults to have hit what the plan says.
func requireTargets(t *testing.T, j judged, targets string) {
	t.Helper()
	want := map[string]int{"leader": 1, "follower": 1, "controller": 1, "minority": 1, "majority": 2, "all": 3}[targets]
	for _, f := range j.history.Faults {
		if f.Stage != history.Proven || want == 0 {
			continue
		}
		require.Len(t, f.Targets, want, f.Name)
		if targets == "leader" || targets == "follower" || targets == "controller" {
			require.Equal(t, targets, f.Role)
		}
	}
}

// TestSingleReplica: one copy survives kills of its node with what it
// acknowledged; while the node is dead its partitions are not available.
func TestSingleReplica(t *testing.T) {
	plainly(t)
	t.Parallel()
	p := simPlan("kill")
	p.Scheme, p.Targets = "single", "leader"
	for seed := range uint64(seedsOf(4)) {
		p.Seed = 1 + seed
		j := simulated(t, p)
		j.requireProven(t)
		j.requireValid(t)
		require.NotContains(t, j.Exercised, "leader-change")
		require.GreaterOrEqual(t, j.Availability.LongestUnavailableMS, 4000.0, "nobody takes over")
		require.Equal(t, []float64{-1}, slices.Compact(slices.Clone(j.Availability.FailoverMS)), "no send of its partitions before it was healed")
	}
}

// TestAcksOneLoses convicts: a leader that acknowledges alone and is cut off
// loses what it acknowledged, and every lost message is named with its offset,
// the node and the fault.
func TestAcksOneLoses(t *testing.T) {
	t.Parallel()
	for seed := range uint64(seedsOf(10)) {
		t.Run(strconv.FormatUint(1+seed, 10), func(t *testing.T) {
			t.Parallel()
			p := simPlan("partition:isolate-leader")
			p.Options["acks"], p.Seed = "1", 1+seed
			j := simulated(t, p)
			j.requireProven(t)
			require.Equal(t, checker.Invalid, j.Verdict, j.why())
			require.Equal(t, 1, j.Verdict.ExitCode())
			requireLost(t, j.Result, j.history)
		})
	}
}

// replicaLag is how long a replica may lag and be in sync all the same: the default.
const replicaLag = 3 * time.Second

// requireLost compares what the checker says is lost with what the history
// shows, message by message.
func requireLost(t *testing.T, res *checker.Result, h *history.History) {
	t.Helper()
	lost, acknowledged := lostByHand(t, h)
	require.NotEmpty(t, lost)
	require.Less(t, len(lost), acknowledged)
	i := slices.IndexFunc(res.Checks, func(c checker.Check) bool { return c.Name == checker.ClauseSurvives })
	require.GreaterOrEqual(t, i, 0)
	c := res.Checks[i]
	require.Equal(t, checker.Invalid, c.Verdict)
	require.True(t, c.Promised)
	require.Equal(t, len(lost), res.Anomalies[checker.ClassLost])
	require.Len(t, c.Anomalies, len(lost), "each is named")
	for _, a := range c.Anomalies {
		op, ok := lost[a.Value]
		require.True(t, ok, "%s was accused and is there", a.Text)
		delete(lost, a.Value)
		require.Equal(t, op.Offset, a.Offset)
		require.GreaterOrEqual(t, a.Offset, int64(0))
		require.Equal(t, h.Header.Nodes[op.Node], a.Node)
		require.Equal(t, h.Header.Keys[op.Key], a.Key)
		require.Equal(t, op.Return, a.At)
		if a.Fault == "" { // acknowledged right before the cut, and not replicated yet
			cut := slices.IndexFunc(h.Faults, func(f history.Fault) bool { return f.Stage == history.Injected })
			require.GreaterOrEqual(t, cut, 0)
			require.Less(t, op.Return, h.Faults[cut].At, a.Text)
			require.Greater(t, op.Return, h.Faults[cut].At-int64(replicaLag), a.Text)
		} else {
			require.Contains(t, a.Fault, "partition:isolate-leader")
		}
		require.Contains(t, a.Text, fmt.Sprintf("at offset %d ", a.Offset))
		var read []string // whose log the drain saw: all replicas', or the leader's
		for _, r := range h.Replicas {
			if r.Key == a.Key {
				read = append(read, r.Node)
			}
		}
		require.ElementsMatch(t, read, a.Missing)
	}
	require.Empty(t, lost, "lost and not named")
	require.Contains(t, res.Sentence, fmt.Sprintf("LOST %d of", res.Anomalies[checker.ClassLost]))
}

// TestExpectDeclared: acks=1 promises nothing, so under --expect declared its
// loss breaks no promise, and is reported all the same.
func TestExpectDeclared(t *testing.T) {
	plainly(t)
	t.Parallel()
	p := simPlan("partition:isolate-leader")
	p.Options["acks"], p.Expect = "1", "declared"
	j := simulated(t, p)
	lost, _ := lostByHand(t, j.history)
	require.NotEmpty(t, lost)
	require.Equal(t, len(lost), j.Anomalies[checker.ClassLost])
	require.NotEqual(t, checker.Invalid, j.Verdict, j.why())
}

// TestAcksZero: nothing is acknowledged, so nothing can be lost; what was sent
// and is gone is reported as that.
func TestAcksZero(t *testing.T) {
	plainly(t)
	t.Parallel()
	p := simPlan("partition:isolate-leader")
	p.Options["acks"] = "0"
	for seed := range uint64(seedsOf(4)) {
		p.Seed = 1 + seed
		j := simulated(t, p)
		require.NotEqual(t, checker.Invalid, j.Verdict, j.why())
		require.Zero(t, j.Counts.Acknowledged)
		require.Zero(t, j.Anomalies[checker.ClassLost])
		there := map[history.Value]bool{}
		for _, r := range j.history.Replicas {
			for _, rec := range r.Records {
				there[rec.Value] = true
			}
		}
		gone := 0
		for _, op := range j.history.Ops {
			if op.Kind == history.Send && op.Outcome == history.OK {
				require.False(t, op.Acked)
				if !there[op.Value] {
					gone++
				}
			}
		}
		require.Positive(t, gone)
		require.Equal(t, gone, j.Anomalies[checker.ClassSentLost])
	}
}

// digestOf is the digest of everything in a history.
func digestOf(t *testing.T, h *history.History) string {
	t.Helper()
	sum := sha256.New()
	require.NoError(t, history.ExportJSONL(sum, h))
	return hex.EncodeToString(sum.Sum(nil))
}

// TestSameSeedSameRun: the same seed gives the same history and the same trace of
// all that the simulation did, whatever the scheduler does; another seed another.
func TestSameSeedSameRun(t *testing.T) {
	plainly(t)
	p := simPlan("partition,kill,pause,power,stop")
	p.Time = 100 * time.Second
	first := here(t, p)
	require.NotEmpty(t, first.ex.Digest)
	for _, procs := range []int{1, 2} {
		func() {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			again := here(t, p)
			require.Equal(t, first.ex.Digest, again.ex.Digest)
			require.Equal(t, digestOf(t, first.history), digestOf(t, again.history))
			require.Equal(t, first.Result, again.Result)
		}()
	}
	p.Seed++
	other := here(t, p)
	require.NotEqual(t, first.ex.Digest, other.ex.Digest)
	require.NotEqual(t, digestOf(t, first.history), digestOf(t, other.history))
}

// TestReplayOfAResolvedPlan: what is stored as plan.yaml is the whole run.
func TestReplayOfAResolvedPlan(t *testing.T) {
	plainly(t)
	t.Parallel()
	p := simPlan("partition,kill")
	p.Time = 45 * time.Second
	p, err := p.Resolve()
	require.NoError(t, err)
	b, err := p.YAML()
	require.NoError(t, err)
	stored, err := ParsePlan(b, "plan.yaml")
	require.NoError(t, err)
	again, err := stored.Resolve()
	require.NoError(t, err)
	require.Equal(t, p, again)
	require.Equal(t, simulated(t, p).ex.Digest, simulated(t, stored).ex.Digest)
}

// sabotages spoil the cuts of a partition in every way that a proof must notice.
var sabotages = map[string]sim.Sabotage{
	"stubbed":              {Mode: sim.Stubbed},
	"stubbed on one node":  {Mode: sim.StubbedNode, Node: "n2"},
	"new connections only": {Mode: sim.NewOnly},
	"removed at half time": {Mode: sim.RemovedAfter, After: 4 * time.Second},
}

// TestSabotage: a partition without effect decides nothing, and the run says
// which fault it was.
func TestSabotage(t *testing.T) {
	t.Parallel()
	for _, name := range slices.Sorted(maps.Keys(sabotages)) {
		for i, fault := range []string{"partition:isolate-leader", "partition:isolate-one", "partition:one-way-in", "partition:client"} {
			if raceEnabled && (i > 0 || name != "stubbed") {
				continue
			}
			t.Run(name+" "+fault, func(t *testing.T) {
				t.Parallel()
				p := simPlan(fault)
				p.Targets = "n2"
				if fault == "partition:isolate-leader" {
					p.Targets = ""
				}
				s := sabotages[name]
				if s.Mode == sim.StubbedNode && fault == "partition:client" {
					s.Node = "n2"
				}
				requireWithoutEffect(t, sabotaged(t, p, s), fault)
				simulated(t, p).requireProven(t) // it is the sabotage, not the fault
			})
		}
	}
}

func requireWithoutEffect(t *testing.T, j judged, fault string) {
	t.Helper()
	require.Equal(t, checker.Unknown, j.Verdict, j.why())
	require.Equal(t, 2, j.Verdict.ExitCode())
	require.True(t, slices.ContainsFunc(j.history.Faults, func(f history.Fault) bool {
		return f.Stage == history.Unproven && f.Name == fault && strings.Contains(f.Detail, fault)
	}))
	named := slices.ContainsFunc(j.WhyInconclusive, func(r checker.Reason) bool {
		return strings.Contains(r.Why, fault) && r.Change != ""
	})
	require.True(t, named, "nothing says which fault had no effect:\n%s", j.why())
}

// TestRegression is a hunt of a fixed budget: seeds with every fault, all of which
// must be valid and together must have seen what replication is about.
func TestRegression(t *testing.T) {
	plainly(t)
	t.Parallel()
	exercised := map[string]int{}
	var mu sync.Mutex
	t.Run("seeds", func(t *testing.T) {
		for seed := range uint64(24) {
			t.Run(strconv.FormatUint(500+seed, 10), func(t *testing.T) {
				t.Parallel()
				p := simPlan("partition,kill,pause,power")
				p.Time, p.Seed = 80*time.Second, 500+seed
				j := simulated(t, p)
				require.Equal(t, checker.Valid, j.Verdict, j.why())
				j.requireProven(t)
				mu.Lock()
				defer mu.Unlock()
				for name, n := range j.Exercised {
					exercised[name] += n
				}
			})
		}
	})
	for _, name := range []string{"leader-change", "truncation", "isr-shrink", "isr-expand"} {
		require.Positive(t, exercised[name], name)
	}
}

// TestKeptSeeds: plans that a hunt once found something by, in the broker or in the
// harness itself. Each is a file that is named after the cause, and tells it.
func TestKeptSeeds(t *testing.T) {
	plainly(t)
	t.Parallel()
	files, err := filepath.Glob("testdata/kept/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			p, err := ReadPlan(file)
			require.NoError(t, err)
			p, err = p.Resolve()
			require.NoError(t, err)
			j := simulated(t, p)
			require.Equal(t, checker.Valid, j.Verdict, j.why())
		})
	}
}

// TestShownFaults: what is healed, had no effect or was skipped is no longer shown as in force.
func TestShownFaults(t *testing.T) {
	r := &run{active: map[int]string{}, sink: history.NewRecorder(history.Header{})}
	for id, last := range []history.FaultStage{history.Healed, history.Unproven, history.Skipped} {
		f := history.Fault{ID: id, Name: "partition:ring", Stage: history.Injecting}
		r.Event(f)
		require.Equal(t, map[int]string{id: "partition:ring"}, r.active)
		f.Stage, f.Targets = history.Injected, []string{"n1", "n2"}
		r.Event(f)
		require.Equal(t, map[int]string{id: "partition:ring n1,n2"}, r.active)
		f.Stage = last
		r.Event(f)
		require.Empty(t, r.active, last)
	}
}

// TestInterruptedSimulation ends at once, with what was recorded judged as far as
// it goes.
func TestInterruptedSimulation(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := simPlan("kill")
	p.Time = time.Hour
	stopped := false
	o, err := Run(ctx, Config{Plan: p, RunID: "r", SimOptions: func(o *sim.Options) {
		o.Trace = func(e sim.TraceEvent) {
			if !stopped && e.At > 30*time.Second {
				stopped = true
				cancel()
			}
		}
	}}, t.TempDir(), "")
	require.NoError(t, err)
	require.Equal(t, checker.HarnessError, o.Summary.Verdict)
	require.Equal(t, 255, o.Summary.ExitCode)
	require.Contains(t, o.Summary.Sentence, "interrupted")
	require.Less(t, o.Execution.Duration, 5*time.Minute)
	again, err := Recheck(t.Context(), o.Dir)
	require.NoError(t, err)
	require.Equal(t, checker.HarnessError, again.Summary.Verdict)
	require.Equal(t, o.Summary.Sentence, again.Summary.Sentence)
}

// TestFaultsOfTheCatalogue: whatever is listed can be run in the simulator, or is
// refused with the reason.
func TestFaultsOfTheCatalogue(t *testing.T) {
	for _, f := range nemesis.Known() {
		p := simPlan(f.Name)
		contained := dockerPlan(f.Name)
		if f.Name == "exec" {
			p.Exec = nemesis.Commands{Inject: "true", Prove: "false", Heal: "true"}
			contained.Exec = p.Exec
		}
		_, err := p.Resolve()
		if why, lacks := SimLacks(f); lacks {
			require.ErrorIs(t, err, ErrBadPlan, f.Name)
			require.ErrorContains(t, err, why)
			require.ErrorContains(t, err, "use --env docker")
			_, err = contained.Resolve()
		}
		require.NoError(t, err, f.Name)
	}
}
