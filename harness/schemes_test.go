package harness

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
)

// TestClaims: the plans of testdata/schemes tell for which options a claim about a
// scheme holds, and for which messages are lost as it says.
func TestClaims(t *testing.T) {
	plainly(t)
	t.Parallel()
	const least, version = "min.insync.replicas", "eligible.leader.replicas.version"
	for _, c := range []struct {
		claim string
		set   map[string]string
		lost  bool
	}{
		{"kf2", map[string]string{least: "1"}, true},
		{"kf2", map[string]string{least: "2", version: "0"}, true},
		{"kf2", map[string]string{least: "2"}, false},
		{"kf7", map[string]string{least: "2", version: "0"}, true},
		{"kf7", map[string]string{least: "2"}, false},
		{"kf7", map[string]string{least: "2", version: "0", "fsync": "always"}, false},
	} {
		p, err := ReadPlan(filepath.Join("testdata", "schemes", c.claim+".yaml"))
		require.NoError(t, err)
		maps.Copy(p.Options, c.set)
		t.Run(fmt.Sprint(c.claim, c.set), func(t *testing.T) {
			t.Parallel()
			if c.lost { // under the plan's own seed: of what was not synced a power loss may take nothing
				j := simulated(t, p)
				j.requireProven(t)
				j.requireLost(t)
				return
			}
			for seed := range uint64(3) {
				p.Seed = 1 + seed
				j := simulated(t, p)
				j.requireProven(t)
				j.requireValid(t)
			}
		})
	}
}

// requireLost wants acknowledged messages lost by truncation.
func (j judged) requireLost(t *testing.T) {
	t.Helper()
	require.Equal(t, checker.Invalid, j.Verdict, j.why())
	broken := breaches(j.Result)
	i := slices.IndexFunc(broken, func(b Breach) bool { return b.Clause == checker.ClauseSurvives })
	require.GreaterOrEqual(t, i, 0, j.why())
	require.Equal(t, []string{checker.ClassLost}, broken[i].Classes)
	require.Contains(t, broken[i].Events, checker.EventTruncation)
}
