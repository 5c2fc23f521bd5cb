package harness

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
)

// Every scenario ends valid with the defaults, and loses what was acknowledged
// without the protection that it tests.
func TestScenarios(t *testing.T) {
	plainly(t)
	t.Parallel()
	all, err := Scenarios()
	require.NoError(t, err)
	require.Len(t, all, 7)
	for _, s := range all {
		for _, weakened := range []bool{false, true} {
			name, want := s.Name, checker.Valid
			if weakened {
				name, want = s.Name+", weakened", checker.Invalid
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p, err := LookupScenario(s.Name, weakened)
				require.NoError(t, err)
				p.Environment = "sim"
				p, err = p.Resolve()
				require.NoError(t, err)
				j := simulated(t, p)
				require.Equal(t, want, j.Verdict, j.why())
				if weakened {
					require.Contains(t, j.Sentence, "LOST")
				}
			})
		}
	}
}

func TestUnknownScenario(t *testing.T) {
	_, err := LookupScenario("none-such", false)
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, "known scenarios: all-lose-power, ")
}
