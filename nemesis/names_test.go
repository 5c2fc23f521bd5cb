package nemesis

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// What a step named is the same node later, although it leads no more.
func TestNamedTargets(t *testing.T) {
	for targets, want := range map[string][]string{"@old": {"n1"}, "all but @old": {"n2", "n3"}, "not @old": nil} {
		t.Run(targets, func(t *testing.T) {
			w := newWorld(3)
			w.keys = []string{"log-0"}
			w.leader["log-0"] = "n1"
			a, b := step("pause", "", TargetLeader), step("kill", "", targets)
			a.As, a.Until = "old", a.At+3*time.Second
			b.ID, b.At, b.Until = 1, a.Until+time.Second, a.Until+4*time.Second
			w.at(a.Until, func() { w.leader["log-0"] = "n2" })
			w.run(t, a, b)
			for _, e := range w.events {
				switch {
				case e.ID == 0:
					require.Equal(t, []string{"n1"}, e.Targets)
				case want != nil:
					require.Equal(t, want, e.Targets)
				default:
					require.Len(t, e.Targets, 1)
					require.NotContains(t, e.Targets, "n1")
				}
			}
			require.Empty(t, MissingProofs([]Step{a, b}, w.events))
		})
	}
}

// A name that its step never gave, as it did not come to that, is no target.
func TestNameThatWasNotGiven(t *testing.T) {
	w := newWorld(3)
	target := w.target()
	target.Events = &told{w: w}
	a := waiting(LeaderChange, 0, TargetEvent)
	a.As = "old"
	b := Step{ID: 1, Fault: "pause", Targets: "@old", At: 8 * time.Second, Until: 10 * time.Second}
	require.NoError(t, Run(t.Context(), []Step{a, b}, target, w, Limits{}))
	require.Equal(t, []history.FaultStage{history.Skipped}, w.stages(0))
	require.Contains(t, w.why(1), `no fault has given the name "old" to a node`)
}

func TestNamesAreChecked(t *testing.T) {
	for _, c := range []struct {
		as, targets, second, want string
	}{
		{"old", TargetMajority, "@old", `gives the name "old" to its target, and targets "majority" are not one node`},
		{"the old", TargetOne, "n1", "lower-case letters, digits and hyphens"},
		{"old", TargetOne, "@new", "refer to a name that no earlier step gives (as: new)"},
		{"", TargetOne, "not @old", "refer to a name that no earlier step gives (as: old)"},
		{"old", TargetOne, "@", "lower-case letters, digits and hyphens"},
	} {
		a, b := step("kill", "", c.targets), step("pause", "", c.second)
		a.As = c.as
		b.ID, b.At, b.Until = 1, a.Until+time.Second, a.Until+4*time.Second
		w := newWorld(3)
		require.ErrorContains(t, Check(w.target(), []Step{a, b}), c.want)
	}
	twice := step("kill", "", TargetOne)
	twice.As = "old"
	again := twice
	again.ID, again.At, again.Until = 1, twice.Until+time.Second, twice.Until+4*time.Second
	require.ErrorContains(t, ValidateNames([]Step{twice, again}), `the name "old" is given twice`)
	require.NoError(t, ValidateNames([]Step{twice}))
}
