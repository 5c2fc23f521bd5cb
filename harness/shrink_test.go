package harness

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/workloads"
)

// losing is a plan that loses acknowledged messages: nobody waits for followers.
func losing() Plan {
	p := simPlan("partition:isolate-leader,kill")
	p.Time, p.Rate, p.Clients = 50*time.Second, 50, 3
	p.Options["acks"], p.Options["segment.bytes"] = "1", "65536"
	return p
}

// TestShrink: a run of thousands of operations shrinks to a handful that break the
// same clause in the same way, and the same whoever runs the candidates.
func TestShrink(t *testing.T) {
	plainly(t)
	t.Parallel()
	workers, _ := pool(t, "serve", 2)
	var told []Size
	small, err := Shrink(t.Context(), ShrinkConfig{Plan: losing(), Pool: workers, Each: func(s Size, what string) {
		require.NotEmpty(t, what)
		told = append(told, s)
	}})
	require.NoError(t, err)
	require.False(t, small.Cut)
	require.Equal(t, []string{checker.ClauseSurvives, checker.ClassLost}, []string{small.Clause, small.Class})
	require.Greater(t, small.Before.Operations, 1000)
	require.Equal(t, 2, small.Before.Faults)
	require.LessOrEqual(t, small.After.Faults, 1)
	require.LessOrEqual(t, small.After.Operations, 5)
	require.Less(t, small.After.Time, 10*time.Second)
	require.Equal(t, small.After, told[len(told)-1])
	require.Equal(t, "1", small.Plan.Options["acks"], "the cause stays")
	require.Equal(t, "67108864", small.Plan.Options["segment.bytes"], "what has no part in it is at its default")

	// Stored as YAML and read again it still fails, and its story names the loss.
	b, err := small.Plan.YAML()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), PlanFile)
	require.NoError(t, os.WriteFile(path, b, 0o644))
	again, err := ReadPlan(path)
	require.NoError(t, err)
	o, err := Run(t.Context(), Config{Plan: again, RunID: "small"}, t.TempDir(), "")
	require.NoError(t, err)
	require.Equal(t, checker.Invalid, o.Summary.Verdict, o.Summary.Sentence)
	require.Len(t, o.History.Ops, small.After.Operations)
	require.Equal(t, "faultline run --plan "+filepath.Join(o.Dir, PlanFile), o.Summary.Command)
	story := Story(o.History, o.Result, small.Clause)
	for _, word := range []string{"acknowledged by", "truncated", "an acknowledged message is never lost"} {
		require.Contains(t, story, word)
	}

	alone, err := Shrink(t.Context(), ShrinkConfig{Plan: losing()})
	require.NoError(t, err)
	require.Equal(t, small.Plan, alone.Plan, "the number of workers changes nothing")
}

// TestShrinkSteady: a steady plan is as small, but as long as detection takes, and it
// fails although it begins later and its operations come at other moments.
func TestShrinkSteady(t *testing.T) {
	plainly(t)
	small, err := Shrink(t.Context(), ShrinkConfig{Plan: losing(), Steady: true})
	require.NoError(t, err)
	require.False(t, small.Cut)
	require.LessOrEqual(t, small.After.Faults, 1)
	require.LessOrEqual(t, small.After.Operations, 5)
	require.Less(t, small.After.Time, 25*time.Second)
	for _, s := range small.Plan.Steps {
		require.GreaterOrEqual(t, s.Until-s.At, 9*time.Second, "three detection times of 3 s")
	}
	require.GreaterOrEqual(t, small.Plan.Phases.Recovery, minPhase)
	p := small.Plan
	for _, later := range []time.Duration{-400 * time.Millisecond, 300 * time.Millisecond, 1200 * time.Millisecond} {
		p.Seed++
		p.Script = &Script{Clients: p.Script.Clients, Ops: slices.Clone(small.Plan.Script.Ops)}
		for i := range p.Script.Ops {
			p.Script.Ops[i].At += later
		}
		trial := Try(t.Context(), p)
		require.Equal(t, checker.Invalid, trial.Verdict, "%s later: %s", later, trial.Sentence)
	}
}

// TestShrinkUnclean: all replicas in sync acknowledge, and one that was not is
// elected. Of three faults the two that do it stay, and the options that allow it.
func TestShrinkUnclean(t *testing.T) {
	plainly(t)
	p := simPlan("kill")
	p.Time, p.Rate, p.Clients = 40*time.Second, 50, 3
	p.Options["unclean.leader.election.enable"], p.Options["min.insync.replicas"], p.Options["replication.factor"] = "true", "1", "2"
	p.Steps = []nemesis.Step{
		{ID: 0, Fault: "pause", Targets: "n3", At: 500 * time.Millisecond, Until: 2 * time.Second},
		{ID: 1, Fault: "kill", Targets: "n2", At: 4 * time.Second, Until: 12 * time.Second},
		{ID: 2, Fault: "kill", Targets: "n1", At: 11 * time.Second, Until: 18 * time.Second},
	}
	small, err := Shrink(t.Context(), ShrinkConfig{Plan: p})
	require.NoError(t, err)
	require.Equal(t, checker.ClauseSurvives, small.Clause)
	require.Len(t, small.Plan.Steps, 2)
	require.LessOrEqual(t, small.After.Operations, 5)
	require.Equal(t, "true", small.Plan.Options["unclean.leader.election.enable"])
	require.Equal(t, "1", small.Plan.Options["min.insync.replicas"])
}

func TestShrinkRefuses(t *testing.T) {
	plainly(t)
	_, err := Shrink(t.Context(), ShrinkConfig{Plan: simPlan("kill")})
	require.ErrorIs(t, err, ErrNotFailing)
	_, err = Shrink(t.Context(), ShrinkConfig{Plan: DefaultPlan()})
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, "simulator")
	bad := simPlan("kill")
	bad.Nodes = 0
	_, err = Shrink(t.Context(), ShrinkConfig{Plan: bad})
	require.ErrorIs(t, err, ErrBadPlan)
}

// TestShrinkStops: a spent budget ends the search with what was found.
func TestShrinkStops(t *testing.T) {
	plainly(t)
	small, err := Shrink(t.Context(), ShrinkConfig{Plan: losing(), Runs: 3})
	require.NoError(t, err)
	require.True(t, small.Cut)
	require.LessOrEqual(t, small.Runs, 3)
	require.LessOrEqual(t, small.After.Faults, small.Before.Faults)
	res, _, _, err := Simulate(t.Context(), small.Plan)
	require.NoError(t, err)
	require.Equal(t, checker.Invalid, res.Verdict)

	small, err = Shrink(t.Context(), ShrinkConfig{Plan: losing(), Budget: time.Nanosecond})
	require.NoError(t, err)
	require.True(t, small.Cut)
	require.Equal(t, small.Before, small.After)
}

// TestScriptRefuses: a script that cannot be run is named before the run.
func TestScriptRefuses(t *testing.T) {
	good := func() *Script {
		return &Script{
			Clients: []ScriptClient{{Name: "producer-0", Role: "producer", Pinned: "n1"}, {Name: "poller-0", Role: "poller"}},
			Ops:     []ScriptOp{{At: time.Second, Client: "producer-0", Key: 3}, {At: 2 * time.Second, Client: "poller-0"}},
		}
	}
	p := simPlan("kill")
	p.Script = good()
	_, err := p.Resolve()
	require.NoError(t, err)
	for name, c := range map[string]struct {
		change func(*Script)
		want   string
	}{
		"no client":    {func(s *Script) { s.Clients = nil; s.Ops = nil }, "no client"},
		"twice":        {func(s *Script) { s.Clients[1].Name = "producer-0" }, "twice"},
		"role":         {func(s *Script) { s.Clients[0].Role = "bystander" }, "bystander"},
		"pinned":       {func(s *Script) { s.Clients[0].Pinned = "n9" }, "n9"},
		"whose":        {func(s *Script) { s.Ops[0].Client = "nobody" }, "nobody"},
		"partition":    {func(s *Script) { s.Ops[0].Key = 4 }, "partition 4"},
		"before":       {func(s *Script) { s.Ops[0].At = -1 }, "before the run"},
		"negative key": {func(s *Script) { s.Ops[0].Key = -1 }, "partition -1"},
	} {
		p.Script = good()
		c.change(p.Script)
		_, err := p.Resolve()
		require.ErrorIs(t, err, ErrBadPlan, name)
		require.ErrorContains(t, err, c.want, name)
	}
}

// TestScripted: a client does what is written, at its time, and polls read on
// where the last one ended.
func TestScripted(t *testing.T) {
	s := &Script{
		Clients: []ScriptClient{{Name: "a", Role: "producer", Pinned: "n2"}, {Name: "b", Role: "poller"}, {Name: "idle", Role: "producer"}},
		Ops: []ScriptOp{
			{At: time.Second, Client: "a", Key: 1},
			{At: time.Second, Client: "b", Key: 1},
			{At: 2 * time.Second, Client: "a"},
			{At: 3 * time.Second, Client: "b", Key: 1},
			{At: 4 * time.Second, Client: "b", Key: 1},
		},
	}
	s = s.tidy()
	require.Len(t, s.Clients, 2)
	specs := s.clients([]string{"n1", "n2"}, 0)
	require.Equal(t, 1, specs[0].Pinned)
	require.Equal(t, -1, specs[1].Pinned)
	const begin = 10 * time.Second
	step := specs[0].Gen.Next(begin, nil)
	require.Equal(t, workloads.Step{At: begin + time.Second, Op: &workloads.Op{Kind: history.Send, Key: 1, Value: history.MakeValue(0, 1), Size: workloads.MinPayload}}, step)
	step = specs[0].Gen.Next(begin+time.Second, &workloads.Result{Op: *step.Op, Outcome: history.OK})
	require.Equal(t, history.MakeValue(0, 2), step.Op.Value)
	require.True(t, specs[0].Gen.Next(begin+3*time.Second, nil).Done)

	step = specs[1].Gen.Next(begin, nil)
	require.Equal(t, []int64{0, 1}, []int64{step.Op.From, int64(step.Op.Key)})
	step = specs[1].Gen.Next(begin, &workloads.Result{Op: *step.Op, Outcome: history.OK, Records: []history.Record{{Offset: 0}, {Offset: 6}}})
	require.Equal(t, int64(7), step.Op.From)
	step = specs[1].Gen.Next(begin, &workloads.Result{Op: *step.Op, Outcome: history.Failed, OutOfRange: true, Start: 0, High: 4})
	require.Equal(t, int64(4), step.Op.From)
	require.True(t, step.Op.Reset)
}
