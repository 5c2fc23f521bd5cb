package nemesis

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// fakeShell runs commands by their stage; what is not set works as it should.
type fakeShell struct {
	harmed bool // an injection took effect and was not healed
	ran    []string
	seen   []ShellCommand
	do     map[string]func() (ShellResult, error)
}

func (f *fakeShell) Run(ctx context.Context, c ShellCommand) (ShellResult, error) {
	if err := ctx.Err(); err != nil {
		return ShellResult{}, err
	}
	f.ran, f.seen = append(f.ran, c.Stage), append(f.seen, c)
	if do := f.do[c.Stage]; do != nil {
		return do()
	}
	switch c.Stage {
	case "inject":
		f.harmed = true
	case "heal":
		f.harmed = false
	default:
		if !f.harmed {
			return ShellResult{Code: 1, Output: "not there"}, nil
		}
	}
	return ShellResult{}, nil
}

func execStep(targets string) Step {
	s := step("exec", "", targets)
	s.Commands = Commands{Inject: "harm $FAULTLINE_TARGETS", Prove: "harmed", Heal: "mend", Limit: 5 * time.Second}
	return s
}

func TestExecIsProven(t *testing.T) {
	w := newWorld(3)
	s := execStep(TargetLeader)
	w.run(t, s)
	require.Equal(t, whole, w.stages(0), w.why(0))
	require.Equal(t, []string{"prove", "inject", "prove", "prove", "heal", "prove"}, w.shell.ran)
	require.False(t, w.shell.harmed)
	c := w.shell.seen[1]
	require.Equal(t, ShellCommand{Line: s.Inject, Stage: "inject", Targets: w.events[0].Targets, Limit: 5 * time.Second}, c)
	require.Equal(t, "leader", w.events[0].Role)
	require.Equal(t, "harmed", w.shell.seen[0].Line)
	require.Equal(t, "mend", w.shell.seen[4].Line)
}

func TestExecWithoutProof(t *testing.T) {
	result := func(r ShellResult) func() (ShellResult, error) {
		return func() (ShellResult, error) { return r, nil }
	}
	for _, c := range []struct {
		name  string
		stage string
		do    func(f *fakeShell) (ShellResult, error)
		say   string
		ran   string // the last that ran
	}{
		{"proves before it", "prove", func(*fakeShell) (ShellResult, error) { return ShellResult{}, nil }, "was not injected: its prove command succeeds before it", "prove"},
		{"no such command to prove", "prove", func(*fakeShell) (ShellResult, error) {
			return ShellResult{Code: 127, Output: "sh: harmed: not found"}, nil
		}, "its prove command did not work: it exited with 127: sh: harmed: not found", "prove"},
		{"a proof that takes too long", "prove", func(*fakeShell) (ShellResult, error) { return ShellResult{Code: -1, Late: true}, nil }, "did not work: it did not end: after 5s, its limit", "prove"},
		{"a proof that a signal ended", "prove", func(*fakeShell) (ShellResult, error) { return ShellResult{Code: -1}, nil }, "did not work: a signal ended it", "prove"},
		{"no effect", "inject", func(*fakeShell) (ShellResult, error) { return ShellResult{}, nil }, "had no effect within 5s: the prove command does not see it; it exited with 1: not there", "prove"},
		{"an injection that fails", "inject", func(f *fakeShell) (ShellResult, error) {
			f.harmed = true
			return ShellResult{Code: 2, Output: "half\ndone"}, nil
		}, "was not injected by its command: it exited with 2: half done", "heal"},
		{"an injection without end", "inject", func(*fakeShell) (ShellResult, error) { return ShellResult{Code: -1, Late: true}, nil }, "was not injected by its command: it did not end", "heal"},
		{"a healing that fails", "heal", func(*fakeShell) (ShellResult, error) { return ShellResult{Code: 1, Output: "no way"}, nil }, "was not healed by its command, look after the cluster: it exited with 1: no way", "heal"},
		{"a healing without effect", "heal", func(*fakeShell) (ShellResult, error) { return ShellResult{}, nil }, "was not healed within 30s: the prove command still sees its effect", "prove"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(3)
			w.shell.do = map[string]func() (ShellResult, error){c.stage: func() (ShellResult, error) { return c.do(&w.shell) }}
			w.run(t, execStep("n1"))
			require.Contains(t, w.why(0), c.say)
			require.NotEmpty(t, MissingProofs([]Step{execStep("n1")}, w.events))
			require.Equal(t, c.ran, w.shell.ran[len(w.shell.ran)-1])
			if c.stage != "heal" {
				require.False(t, w.shell.harmed)
			}
		})
	}
	t.Run("healed at half time", func(t *testing.T) {
		w := newWorld(3)
		w.at(5*time.Second, func() { w.shell.harmed = false })
		w.run(t, execStep("n1"))
		require.Contains(t, w.why(0), "did not last: the prove command does not see its effect any more")
		require.Equal(t, []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.Unproven, history.Healing, history.Healed}, w.stages(0))
	})
	t.Run("a proof that breaks meanwhile", func(t *testing.T) {
		w := newWorld(3)
		w.at(5*time.Second, func() { w.shell.do = map[string]func() (ShellResult, error){"prove": result(ShellResult{Code: 126})} })
		w.run(t, execStep("n1"))
		require.Contains(t, w.why(0), "its prove command did not work: it exited with 126")
		require.NotContains(t, w.stages(0), history.Healed, "its absence was not seen either")
		require.False(t, w.shell.harmed)
	})
}

// TestExecAlwaysHeals: whenever a run is interrupted, or the shell itself fails, what
// was begun is healed.
func TestExecAlwaysHeals(t *testing.T) {
	for at := 500 * time.Millisecond; at < 12*time.Second; at += 500 * time.Millisecond {
		w := newWorld(3)
		ctx, cancel := context.WithCancel(t.Context())
		w.at(at, cancel)
		err := Run(ctx, []Step{execStep("n1")}, w.target(), w, Limits{})
		cancel()
		if at < 10*time.Second {
			require.ErrorIs(t, err, context.Canceled)
		}
		require.False(t, w.shell.harmed, "interrupted at %s", at)
	}
	w := newWorld(3)
	gone := errors.New("no shell")
	w.shell.do = map[string]func() (ShellResult, error){"inject": func() (ShellResult, error) {
		w.shell.harmed = true
		return ShellResult{}, gone
	}}
	require.ErrorIs(t, Run(t.Context(), []Step{execStep("n1")}, w.target(), w, Limits{}), gone)
	require.False(t, w.shell.harmed)
}

func TestExecIsChecked(t *testing.T) {
	nodes := names(3)
	for _, c := range []struct {
		change func(*Step)
		say    string
	}{
		{func(s *Step) { s.Commands = Commands{} }, "exec has no command to inject and none to prove and none to heal: give it in the step, or with --exec-inject and --exec-prove and --exec-heal"},
		{func(s *Step) { s.Prove = " " }, "exec has no command to prove: give it in the step, or with --exec-prove"},
		{func(s *Step) { s.Limit = -1 }, "a limit of -1ns"},
		{func(s *Step) { s.Fault = "kill" }, "fault kill takes no commands"},
		{func(s *Step) { s.Targets = "n9" }, `unknown target "n9"`},
	} {
		s := execStep("n1")
		c.change(&s)
		require.ErrorContains(t, s.Validate(nodes), c.say)
	}
	s := execStep("n1")
	require.NoError(t, s.Validate(nodes))

	w := newWorld(3)
	target := w.target()
	target.Shell = nil
	require.ErrorIs(t, Check(target, []Step{s}), ErrUnsupported)

	cfg := ScheduleConfig{Seed: 3, Faults: []string{"exec", "kill"}, Nodes: nodes, Keys: 2, Detection: time.Second, Duration: time.Minute}
	_, err := Generate(cfg)
	require.ErrorContains(t, err, "exec has no command to inject")
	cfg.Commands = s.Commands
	steps, err := Generate(cfg)
	require.NoError(t, err)
	for _, g := range steps {
		require.Equal(t, g.Fault == "exec", g.Commands == s.Commands)
	}
}
