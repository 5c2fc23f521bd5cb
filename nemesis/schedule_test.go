package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/checker/history"
)

func names(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("n%d", i+1)
	}
	return out
}

func TestScheduleProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool := []string{"partition", "partition:one-way-in", "partition:isolate-leader", "partition:client", "kill", "stop", "pause", "power"}
		c := ScheduleConfig{
			Seed:      rapid.Uint64().Draw(t, "seed"),
			Faults:    rapid.SliceOfNDistinct(rapid.SampledFrom(pool), 1, len(pool), rapid.ID).Draw(t, "faults"),
			Nodes:     names(rapid.IntRange(3, 7).Draw(t, "nodes")),
			Keys:      rapid.IntRange(1, 4).Draw(t, "keys"),
			Detection: time.Duration(rapid.Int64Range(1, int64(20*time.Second)).Draw(t, "detection")),
		}
		if rapid.Bool().Draw(t, "interval given") {
			c.Interval = c.Least()/time.Duration(len(c.Faults)) + time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "interval"))
		}
		c.Periodic = rapid.Bool().Draw(t, "periodic")
		c.Duration = c.Least() + time.Duration(rapid.Int64Range(0, int64(10*time.Minute)).Draw(t, "more"))
		steps, err := Generate(c)
		require.NoError(t, err)
		again, err := Generate(c)
		require.NoError(t, err)
		require.Equal(t, steps, again)

		require.GreaterOrEqual(t, len(steps), len(c.Faults))
		var end time.Duration
		turns := map[string]int{}
		var shapes []Shape
		for i, s := range steps {
			require.Equal(t, i, s.ID)
			require.NoError(t, s.Validate(c.Nodes))
			require.GreaterOrEqual(t, s.At-end, c.Detection, "no gap before step %d", i)
			require.GreaterOrEqual(t, s.Until-s.At, 3*c.Detection)
			require.LessOrEqual(t, s.Until, c.Duration)
			if c.Interval > 0 {
				require.Equal(t, time.Duration(i), s.At/c.Interval, "one step an interval")
			}
			if c.Periodic && i > 1 {
				require.Equal(t, steps[1].At-steps[0].At, s.At-steps[i-1].At)
				require.Equal(t, steps[0].Until-steps[0].At, s.Until-s.At)
			}
			end = s.Until
			name := s.Name()
			if !slices.Contains(c.Faults, name) {
				require.Contains(t, c.Faults, s.Fault)
				name = s.Fault
			}
			turns[name]++
			shapes = append(shapes, s.Shape)
		}
		// A drawn shape may equal a named one, so turns are counted for other faults.
		least, most := len(steps), 0
		for _, f := range c.Faults {
			if !strings.HasPrefix(f, "partition") {
				least, most = min(least, turns[f]), max(most, turns[f])
			}
		}
		if most > 0 {
			require.LessOrEqual(t, most-least, 1, "faults do not take turns: %v", turns)
		}
		if slices.Contains(c.Faults, "partition") {
			require.Contains(t, shapes, IsolateLeader)
		}
	})
}

func TestPartitionSpreadsOverShapes(t *testing.T) {
	for nodes, want := range map[int][]Shape{
		3: {IsolateOne, IsolateLeader, OneWayIn, OneWayOut, ClientShape},
		5: {IsolateOne, IsolateLeader, OneWayIn, OneWayOut, ClientShape, Halves, Majority, Ring, Bridge, Primaries},
	} {
		orders := map[string]bool{}
		for seed := range uint64(50) {
			c := ScheduleConfig{Seed: seed, Faults: []string{"partition"}, Nodes: names(nodes), Keys: 3, Detection: time.Second}
			c.Duration = time.Duration(len(want)) * c.Least()
			steps, err := Generate(c)
			require.NoError(t, err)
			var shapes []Shape
			for _, s := range steps {
				shapes = append(shapes, s.Shape)
			}
			require.ElementsMatch(t, want, shapes)
			orders[fmt.Sprint(shapes)] = true

			c.Duration = 2 * c.Least()
			steps, err = Generate(c)
			require.NoError(t, err)
			require.Len(t, steps, 2)
			require.Contains(t, []Shape{steps[0].Shape, steps[1].Shape}, IsolateLeader)
			require.NotEqual(t, steps[0].Shape, steps[1].Shape)
		}
		require.Greater(t, len(orders), 10, "the seed does not decide")
	}
}

func TestTargetsAreDrawn(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(20) {
		steps, err := Generate(ScheduleConfig{Seed: seed, Faults: []string{"kill"}, Nodes: names(3), Keys: 1, Detection: time.Second, Duration: 20 * time.Second})
		require.NoError(t, err)
		require.Len(t, steps, 5)
		for _, s := range steps {
			seen[s.Targets]++
		}
	}
	require.Equal(t, map[string]int{TargetLeader: 20, TargetFollower: 20, TargetMinority: 20, TargetMajority: 20, TargetAll: 20}, seen)
}

func TestTargetsAreKept(t *testing.T) {
	steps, err := Generate(ScheduleConfig{
		Faults: []string{"partition", "kill"}, Nodes: names(3), Keys: 1, Detection: time.Second, Duration: time.Minute, Targets: TargetController,
	})
	require.NoError(t, err)
	for _, s := range steps {
		if s.Shape == IsolateLeader {
			require.Empty(t, s.Targets)
			continue
		}
		require.Equal(t, TargetController, s.Targets)
	}
}

func TestGenerateRefuses(t *testing.T) {
	cases := []struct {
		name   string
		change func(c *ScheduleConfig)
		say    string
	}{
		{"nothing", func(c *ScheduleConfig) { c.Faults = nil }, "no faults named"},
		{"unknown fault", func(c *ScheduleConfig) { c.Faults = []string{"meteor"} }, `unknown fault "meteor": known are partition, kill, stop, pause, power`},
		{"unknown shape", func(c *ScheduleConfig) { c.Faults = []string{"partition:star"} }, `unknown shape "star"`},
		{"too short", func(c *ScheduleConfig) { c.Duration = 15 * time.Second }, "too short for partition, kill: each needs 12s (three detection times of 3s, and a gap), so at least 24s"},
		{"interval too short", func(c *ScheduleConfig) { c.Interval = 11 * time.Second }, "an interval of 11s between faults is too short: each needs 12s"},
		{"negative interval", func(c *ScheduleConfig) { c.Interval = -time.Second }, "an interval of -1s between faults is too short"},
		{"too short for the interval", func(c *ScheduleConfig) { c.Interval = 40 * time.Second }, "each needs 40s (three detection times of 3s, and a gap), so at least 1m20s"},
		{"no detection", func(c *ScheduleConfig) { c.Detection = 0 }, "must be positive"},
		{"no nodes", func(c *ScheduleConfig) { c.Nodes = nil }, "no nodes"},
		{"ring of three", func(c *ScheduleConfig) { c.Faults = []string{"partition:ring"} }, "partition:ring needs at least 5 nodes, and there are 3"},
		{"one node", func(c *ScheduleConfig) { c.Nodes = names(1) }, "partition:isolate-leader needs at least 2 nodes"},
		{"minority of one", func(c *ScheduleConfig) { c.Nodes, c.Faults, c.Targets = names(1), []string{"kill"}, TargetMinority }, `targets "minority" are none of 1 nodes`},
		{"no keys", func(c *ScheduleConfig) { c.Keys = 0 }, "has no partition that has one: name a shape"},
		{"leader without keys", func(c *ScheduleConfig) { c.Keys, c.Faults, c.Targets = 0, []string{"kill"}, TargetLeader }, "the workload has none"},
		{"unknown node", func(c *ScheduleConfig) { c.Targets = "n1,n7" }, `unknown target "n7"`},
		{"node twice", func(c *ScheduleConfig) { c.Targets = "n1,n1" }, `target "n1" is named twice`},
		{"targets for a shape that chooses", func(c *ScheduleConfig) { c.Faults, c.Targets = []string{"partition:isolate-leader"}, "n1" }, "chooses its own targets"},
		{"too many targets", func(c *ScheduleConfig) { c.Targets = TargetMajority }, "takes one target"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := ScheduleConfig{Faults: []string{"partition", "kill"}, Nodes: names(3), Keys: 2, Detection: 3 * time.Second, Duration: time.Minute}
			_, err := Generate(cfg)
			require.NoError(t, err)
			c.change(&cfg)
			_, err = Generate(cfg)
			require.ErrorContains(t, err, c.say)
		})
	}
}

func TestParse(t *testing.T) {
	got, err := Parse("partition:one-way-in, kill,partition")
	require.NoError(t, err)
	require.Equal(t, []string{"partition:one-way-in", "kill", "partition"}, got)
	for list, say := range map[string]string{
		"":                   `unknown fault "": known are partition, kill, stop, pause, power`,
		"kill,":              `unknown fault ""`,
		"kil":                `unknown fault "kil"`,
		"kill:ring":          "fault kill has no shapes",
		"partition:":         `unknown shape ""`,
		"partition:diagonal": "known are isolate-one, isolate-leader, one-way-in, one-way-out, client, halves, majority, ring, bridge, primaries",
		"kill,kill":          `fault "kill" is named twice`,
	} {
		_, err := Parse(list)
		require.ErrorContains(t, err, say, list)
	}
}

func TestKnownIsComplete(t *testing.T) {
	for _, i := range Known() {
		require.NotEmpty(t, i.Description, i.Name)
		require.NotEmpty(t, i.Proof, i.Name)
		require.NotEmpty(t, i.Targets, i.Name)
		require.NotEmpty(t, i.Needs, i.Name)
		for _, o := range i.Options {
			require.NotEmpty(t, o.Default, "%s %s", i.Name, o.Name)
			require.NotEmpty(t, o.Description, "%s %s", i.Name, o.Name)
		}
	}
}

func TestStepsKeepInYAML(t *testing.T) {
	steps, err := Generate(ScheduleConfig{Seed: 3, Faults: []string{"partition", "kill"}, Nodes: names(3), Keys: 2, Detection: 1500 * time.Millisecond, Duration: time.Minute})
	require.NoError(t, err)
	steps[0].Port = PeerPort
	steps[1].When, steps[1].After = LeaderChange, 5*time.Millisecond
	text, err := yaml.Marshal(steps)
	require.NoError(t, err)
	require.Contains(t, string(text), "until: ")
	var back []Step
	require.NoError(t, yaml.UnmarshalWithOptions(text, &back, yaml.Strict()))
	require.Equal(t, steps, back)

	require.NoError(t, yaml.UnmarshalWithOptions([]byte("- {id: 0, fault: kill, targets: n1, at: 1s, until: 1m30s}"), &back, yaml.Strict()))
	require.Equal(t, []Step{{Fault: "kill", Targets: "n1", At: time.Second, Until: 90 * time.Second}}, back)
	require.Error(t, yaml.UnmarshalWithOptions([]byte("- {id: 0, fault: kill, later: 1s}"), &back, yaml.Strict()))
}

func TestCheckRefuses(t *testing.T) {
	w := newWorld(3)
	require.NoError(t, Check(w.target(), []Step{step("kill", "", "n1")}))
	cases := []struct {
		name        string
		step        Step
		change      func(t *Target)
		unsupported bool
		say         string
	}{
		{"no network", step("partition", IsolateOne, "n1"), func(t *Target) { t.Network = nil }, true, "partition needs an environment that can cut links"},
		{"no processes", step("pause", "", "n1"), func(t *Target) { t.Processes = nil }, true, "pause needs an environment that can control processes"},
		{"no disks", step("power", "", "n1"), func(t *Target) { t.Disks = nil }, true, "power needs an environment that can take the power from disks"},
		{"no roles", step("kill", "", "n1"), func(t *Target) { t.Roles = nil }, true, "kill needs an environment that can ask the system for its roles"},
		{"no clock", step("kill", "", "n1"), func(t *Target) { t.Clock = nil }, false, "no clock"},
		{"unknown fault", step("flood", "", "n1"), nil, false, `step 0: unknown fault "flood"`},
		{"no targets", step("kill", "", ""), nil, false, "no targets given"},
		{"followers of one node", step("kill", "", TargetFollowers), func(t *Target) { t.Nodes = t.Nodes[:1] }, false, "a fault without target is refused"},
		{"shape of kill", step("kill", Ring, "n1"), nil, false, "takes no shape"},
		{"no shape", step("partition", "", ""), nil, false, `unknown shape ""`},
		{"times", Step{Fault: "kill", Targets: "n1", At: 2, Until: 2}, nil, false, "it must end after it begins"},
		{"before the begin", Step{Fault: "kill", Targets: "n1", At: -1, Until: 2}, nil, false, "it must end after it begins"},
		{"port", Step{Fault: "partition", Shape: IsolateOne, Port: "http", Targets: "n1", Until: 2}, nil, false, `unknown port "http"`},
		{"client port between nodes", Step{Fault: "partition", Shape: IsolateOne, Port: ClientPort, Targets: "n1", Until: 2}, nil, false, "cuts nodes from each other"},
		{"peer port of clients", Step{Fault: "partition", Shape: ClientShape, Port: PeerPort, Targets: "n1", Until: 2}, nil, false, "cuts clients"},
		{"two to isolate", step("partition", IsolateOne, "n1,n2"), nil, false, "takes one target"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			target := w.target()
			if c.change != nil {
				c.change(&target)
			}
			err := Check(target, []Step{c.step})
			require.ErrorContains(t, err, c.say)
			require.Equal(t, c.unsupported, errors.Is(err, ErrUnsupported))
			require.Error(t, Setup(t.Context(), []Step{c.step}, target))
			require.Error(t, Run(t.Context(), []Step{c.step}, target, w, Limits{}))
			_, err = NewLife(c.step, target, w, Limits{})
			if c.name != "no clock" {
				require.Error(t, err)
			}
		})
	}
	require.ErrorContains(t, Check(w.target(), []Step{step("kill", "", "n1"), step("kill", "", "n2")}), "step 0 is there twice")
	require.Empty(t, w.events)
}

func TestGeneratedSchedulesRunProven(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		for seed := range uint64(20) {
			w := newWorld(nodes)
			steps, err := Generate(ScheduleConfig{
				Seed: seed, Faults: []string{"partition", "kill", "pause", "stop", "power"}, Nodes: w.nodes, Keys: 2,
				Detection: 1500 * time.Millisecond, Duration: 2 * time.Minute,
			})
			require.NoError(t, err)
			w.run(t, steps...)
			require.Empty(t, MissingProofs(steps, w.events))
			for _, s := range steps {
				require.Equal(t, whole, w.stages(s.ID))
			}
			w.requireClean(t)

			again := newWorld(nodes)
			again.run(t, steps...)
			require.Equal(t, w.events, again.events, "the same seed gives other events")
		}
	}
}

// Overlapping faults on one link and on several nodes: healing restores what
// that fault changed, and each proof allows for the others.
func TestOverlap(t *testing.T) {
	w := newWorld(3)
	steps := []Step{
		{ID: 0, Fault: "partition", Shape: IsolateOne, Targets: "n1", At: time.Second, Until: 20 * time.Second},
		{ID: 1, Fault: "partition", Shape: OneWayIn, Targets: "n1", At: 5 * time.Second, Until: 25 * time.Second},
		{ID: 2, Fault: "kill", Targets: "n2", At: 6 * time.Second, Until: 10 * time.Second},
		{ID: 3, Fault: "partition", Shape: ClientShape, Targets: "n3", At: 7 * time.Second, Until: 30 * time.Second},
		{ID: 4, Fault: "kill", Targets: "n3", At: 8 * time.Second, Until: 12 * time.Second},
	}
	w.at(22*time.Second, func() {
		require.False(t, w.blocks(Pair{"n1", "n2"}), "step 0 is healed")
		require.True(t, w.blocks(Pair{"n2", "n1"}), "step 1 still cuts")
	})
	w.run(t, steps...)
	for _, s := range steps {
		require.Equal(t, whole, w.stages(s.ID), w.why(s.ID))
	}
	for _, e := range w.events {
		if e.ID == 4 && e.Stage == history.Healed {
			require.Contains(t, e.Proof["n3"], "not asked")
		}
	}
	w.requireClean(t)
}

func TestMissingProofsOfSilence(t *testing.T) {
	steps := []Step{step("kill", "", "n1")}
	require.Equal(t, []string{"kill (step 0) was never proven"}, MissingProofs(steps, nil))
	events := []history.Fault{{Stage: history.Proven}, {Stage: history.StillProven}}
	require.Equal(t, []string{"kill (step 0) was never healed"}, MissingProofs(steps, events))
	require.Empty(t, MissingProofs(steps, append(events, history.Fault{Stage: history.Healed})))
}

func TestTwoFaultsOnOneProcess(t *testing.T) {
	w := newWorld(3)
	steps := []Step{
		{ID: 0, Fault: "pause", Targets: "n1", At: time.Second, Until: 20 * time.Second},
		{ID: 1, Fault: "kill", Targets: "n2,n1", At: 5 * time.Second, Until: 10 * time.Second},
	}
	w.run(t, steps...)
	require.Equal(t, whole, w.stages(0))
	require.Contains(t, w.why(1), "the process of n1 is already under pause")
	require.Equal(t, []string{w.why(1)}, MissingProofs(steps, w.events))
	w.requireClean(t)
}

// The silence of a node that clients cannot reach anyway proves no pause.
func TestPauseOfANodeThatIsCutOff(t *testing.T) {
	w := newWorld(3)
	w.run(t,
		Step{ID: 0, Fault: "partition", Shape: ClientShape, Targets: "n1", At: time.Second, Until: 20 * time.Second},
		Step{ID: 1, Fault: "pause", Targets: "n1", At: 5 * time.Second, Until: 10 * time.Second})
	require.Equal(t, whole, w.stages(0))
	require.Contains(t, w.why(1), "another fault cuts n1 off from the clients")
	w.requireClean(t)
}

// A slow injection never makes a fault shorter, nor lets a later one overlap it.
func TestFaultsKeepTheirLength(t *testing.T) {
	w := newWorld(3)
	leaders := w.leader
	w.leader = map[string]string{}
	w.at(7*time.Second, func() { w.leader = leaders })
	steps := []Step{
		{ID: 0, Fault: "partition", Shape: IsolateLeader, At: time.Second, Until: 10 * time.Second},
		{ID: 1, Fault: "kill", Targets: "n1", At: 11 * time.Second, Until: 20 * time.Second},
	}
	w.run(t, steps...)
	at := func(id int, stage history.FaultStage) time.Duration {
		for _, e := range w.events {
			if e.ID == id && e.Stage == stage {
				return time.Duration(e.At)
			}
		}
		t.Fatalf("step %d has no stage %s", id, stage)
		return 0
	}
	require.GreaterOrEqual(t, at(0, history.Injected), 7*time.Second)
	require.GreaterOrEqual(t, at(0, history.Healing)-at(0, history.Injected), 9*time.Second)
	require.GreaterOrEqual(t, at(1, history.Injecting), at(0, history.Healed))
	require.GreaterOrEqual(t, at(1, history.Healing)-at(1, history.Injected), 9*time.Second)
}

func TestCancellationHeals(t *testing.T) {
	steps := []Step{
		{ID: 0, Fault: "partition", Shape: IsolateOne, Targets: "n1", At: time.Second, Until: 20 * time.Second},
		{ID: 1, Fault: "pause", Targets: "n2", At: 2 * time.Second, Until: 20 * time.Second},
		{ID: 2, Fault: "power", Targets: "n3", At: 3 * time.Second, Until: 20 * time.Second},
		{ID: 3, Fault: "kill", Targets: "n3", At: 21 * time.Second, Until: 30 * time.Second},
	}
	for at := 50 * time.Millisecond; at < 35*time.Second; at += 370 * time.Millisecond {
		w := newWorld(3)
		ctx, cancel := context.WithCancel(t.Context())
		require.NoError(t, Setup(ctx, steps, w.target()))
		w.at(at, cancel)
		err := Run(ctx, steps, w.target(), w, Limits{})
		cancel()
		if err == nil {
			require.Empty(t, MissingProofs(steps, w.events))
			require.Greater(t, at, 30*time.Second)
			continue
		}
		require.ErrorIs(t, err, context.Canceled)
		w.requireClean(t)
		require.NotEmpty(t, MissingProofs(steps, w.events))
		for _, s := range steps {
			if st := w.stages(s.ID); !slices.Contains(st, history.Healed) {
				require.Contains(t, w.why(s.ID), "the run ended before", "step %d, cancelled at %s: %v", s.ID, at, st)
			}
		}
	}
}
