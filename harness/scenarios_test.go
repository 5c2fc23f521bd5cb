package harness

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
)

// eachScenario runs every scenario as it is, and without the protection that it
// tests: the first is to end valid, and the second to lose what was acknowledged.
func eachScenario(t *testing.T, env string, judge func(*testing.T, Plan) judged) {
	all, err := Scenarios()
	require.NoError(t, err)
	require.Len(t, all, 8)
	for _, s := range all {
		for _, weakened := range []bool{false, true} {
			name, want := s.Name, checker.Valid
			if weakened {
				name, want = s.Name+", weakened", checker.Invalid
			}
			t.Run(name, func(t *testing.T) {
				p, err := LookupScenario(s.Name, weakened)
				require.NoError(t, err)
				p.Environment = env
				p, err = p.Resolve()
				require.NoError(t, err)
				j := judge(t, p)
				require.Equal(t, want, j.Verdict, j.why())
				j.requireProven(t)
				if weakened {
					require.Contains(t, j.Sentence, "LOST")
				}
			})
		}
	}
}

func TestScenarios(t *testing.T) {
	plainly(t)
	eachScenario(t, "sim", func(t *testing.T, p Plan) judged {
		t.Parallel()
		return simulated(t, p)
	})
}

func TestDockerScenarios(t *testing.T) {
	needAll(t)
	eachScenario(t, "docker", func(t *testing.T, p Plan) judged { return contained(t, p, nil) })
}

func TestUnknownScenario(t *testing.T) {
	_, err := LookupScenario("none-such", false)
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, "known scenarios: all-lose-power, ")
}
