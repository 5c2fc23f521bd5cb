//go:build mutants

package harness

import (
	"maps"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
)

// TestOwnViewMutants: the safe option is set and the code ignores it, so the plan that
// shows the claim without that option loses messages with it; without the mutant none.
func TestOwnViewMutants(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mutant, claim string
		set           map[string]string
	}{
		{"M9", "mq9", map[string]string{"confirm.on.mirror.death": "after-check"}},
		{"M10", "mq2", map[string]string{"ha-promote-on-failure": "when-synced"}},
		{"M17", "cc3", map[string]string{"mandatory": "true"}},
	} {
		t.Run(c.mutant, func(t *testing.T) {
			t.Parallel()
			p, err := ReadPlan(filepath.Join("testdata", "schemes", c.claim+".yaml"))
			require.NoError(t, err)
			maps.Copy(p.Options, c.set)
			j := simulated(t, p)
			j.requireProven(t)
			j.requireValid(t)
			p.Options["mutant"] = c.mutant
			j = simulated(t, p)
			j.requireProven(t)
			require.Equal(t, checker.Invalid, j.Verdict, j.why())
			require.Positive(t, survives(j.Result).Count, j.why())
		})
	}
}

// TestMirrorMutants: those of mirrored queues that random runs find.
func TestMirrorMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates for about half a minute")
	}
	ms, err := LookupMutants("M11", "M12")
	require.NoError(t, err)
	runs, err := MutantHunt{Mutants: ms, Base: swarmBase(), First: 1, Ranges: 1, Seeds: 12}.Run(t.Context())
	require.NoError(t, err)
	for _, r := range runs {
		require.True(t, r.Found, r.Name)
		require.True(t, r.Expected, "%s broke %v", r.Name, r.Broken)
	}
}
