package harness

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
)

// TestManyMasters: the plans of testdata/schemes show what becomes of messages where every
// node takes them: what is lost, for how long nobody can send, and what stands twice or in
// another order, which is told although it is not promised.
func TestManyMasters(t *testing.T) {
	plainly(t)
	t.Parallel()
	const yes, no, any = 1, 0, -1
	for _, c := range []struct {
		claim       string
		set         map[string]string
		lost        int
		unavailable int // longer than a few seconds
		order       int // a message overtook an earlier one of its producer
		duplicate   int
		differ      int // nodes hold messages in different orders
	}{
		{"mm1", nil, no, yes, no, no, any},
		{"mm1", map[string]string{"ack.rule": "quorum"}, no, no, any, no, any},
		{"mm2", nil, no, no, no, no, any},
		{"mm3", nil, no, no, yes, no, yes},
		{"mm3", map[string]string{"heal": "none"}, yes, no, any, no, any},
		{"mm4", nil, no, no, no, no, yes},
		{"mm4", map[string]string{"order": "total"}, no, no, no, no, no},
		{"mm7", nil, no, no, no, no, any},
		{"fw1", nil, no, no, yes, no, any},
		{"fw2", nil, no, yes, no, no, any},
		{"fw3", nil, no, no, any, any, any},
		{"fw6", nil, no, no, any, yes, any},
	} {
		p, err := ReadPlan(filepath.Join("testdata", "schemes", c.claim+".yaml"))
		require.NoError(t, err)
		maps.Copy(p.Options, c.set)
		t.Run(fmt.Sprint(c.claim, c.set), func(t *testing.T) {
			t.Parallel()
			j := simulated(t, p)
			if len(p.Steps) > 0 {
				j.requireProven(t)
			}
			if c.lost == no {
				j.requireValid(t)
			} else {
				require.Equal(t, checker.Invalid, j.Verdict, j.why())
				require.Equal(t, checker.ClauseSurvives, breaches(j.Result)[0].Clause)
				require.Positive(t, survives(j.Result).Count)
			}
			is := func(want int, got bool, what string) {
				if want != any {
					require.Equal(t, want == yes, got, what)
				}
			}
			is(c.unavailable, j.Result.Availability.LongestUnavailableMS > 5000, "unavailable")
			is(c.order, clause(j.Result, checker.ClauseOrder).Count > 0, "order")
			is(c.duplicate, clause(j.Result, checker.ClauseDuplicate).Count > 0, "duplicate")
			is(c.differ, !strings.Contains(clause(j.Result, checker.ClauseDivergence).Detail, "no messages in another order"), "order of nodes")
		})
	}
}

func clause(r *checker.Result, name string) *checker.Check {
	i := slices.IndexFunc(r.Checks, func(c checker.Check) bool { return c.Name == name })
	return &r.Checks[i]
}
