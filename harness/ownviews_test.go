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

// TestOwnViews: the plans of testdata/schemes show what happens to acknowledged
// messages of classic and mirrored queues, with the figures of the claims as shares: how
// many of all are lost at least and at most.
func TestOwnViews(t *testing.T) {
	plainly(t)
	t.Parallel()
	const failure, sync, policy, confirm = "ha-promote-on-failure", "ha-sync-mode", "cluster_partition_handling", "confirm.on.mirror.death"
	for _, c := range []struct {
		claim       string
		set         map[string]string
		least, most float64 // 0, 0: nothing is lost
	}{
		{"cc1", nil, 0, 0},
		{"cc3", nil, 0.6, 0.9}, // all that was sent meanwhile
		{"cc4", nil, 0.6, 0.9}, // all from before the restart
		{"mq1", nil, 0, 0},
		{"mq2", nil, 0.4, 0.6}, // all from before the mirrors came back
		{"mq2", map[string]string{failure: "when-synced"}, 0, 0},
		{"mq2", map[string]string{sync: "automatic"}, 0, 0},
		{"mq5", nil, 0, 0},
		{"mq6", nil, 0.05, 0.3}, // the discarded side
		{"mq7", nil, 0.05, 0.3},
		{"mq7", map[string]string{policy: "pause_minority"}, 0.05, 0.3},
		{"mq8b", nil, 0.05, 0.3},
		{"mq9", nil, 0, 0.001}, // what was in flight
		{"mq9", map[string]string{confirm: "after-check"}, 0, 0},
		{"mq11", nil, 0, 0},
		{"mq14", nil, 0.05, 0.3},
		{"mq15", nil, 0.3, 0.6},
	} {
		p, err := ReadPlan(filepath.Join("testdata", "schemes", c.claim+".yaml"))
		require.NoError(t, err)
		maps.Copy(p.Options, c.set)
		t.Run(fmt.Sprint(c.claim, c.set), func(t *testing.T) {
			t.Parallel()
			j := simulated(t, p)
			j.requireProven(t)
			if c.most == 0 {
				j.requireValid(t)
				return
			}
			require.Equal(t, checker.Invalid, j.Verdict, j.why())
			broken := breaches(j.Result)
			i := slices.IndexFunc(broken, func(b Breach) bool { return b.Clause == checker.ClauseSurvives })
			require.GreaterOrEqual(t, i, 0, j.why())
			require.Equal(t, []string{checker.ClassLost}, broken[i].Classes)
			lost := float64(survives(j.Result).Count) / float64(j.Result.Counts.Acknowledged)
			require.Greater(t, lost, c.least)
			require.LessOrEqual(t, lost, c.most)
		})
	}
}

// TestMemberNotHeardYet keeps the run in which a node that came back joined one member,
// took a master that it had not heard yet for restarted, and named another one.
func TestMemberNotHeardYet(t *testing.T) {
	plainly(t)
	t.Parallel()
	j := planned(t, "member-not-heard-yet")
	require.Equal(t, checker.Valid, j.Verdict, j.why())
	require.Zero(t, j.Anomalies[checker.ClassDuplicate], j.why())
}

// TestLostBeforeItWasSynchronised keeps the run in which the master's disk was lost while
// its mirror was not synchronised yet: how long that takes nobody can say from a plan, so
// nothing is promised.
func TestLostBeforeItWasSynchronised(t *testing.T) {
	plainly(t)
	t.Parallel()
	j := planned(t, "lost-before-it-was-synchronised")
	require.Positive(t, survives(j.Result).Count, j.why())
	require.False(t, j.history.Header.Contract.Acknowledged)
	require.Equal(t, checker.Valid, j.Verdict, j.why())
}

// TestDamagedReplicaVotes keeps the run in which a replica of a quorum with a damaged log
// voted, because the metadata named it in sync from before.
func TestDamagedReplicaVotes(t *testing.T) {
	plainly(t)
	t.Parallel()
	j := planned(t, "damaged-replica-votes")
	require.Zero(t, survives(j.Result).Count, j.why())
	require.Equal(t, checker.Valid, j.Verdict, j.why())
}

func survives(r *checker.Result) *checker.Check {
	i := slices.IndexFunc(r.Checks, func(c checker.Check) bool { return c.Name == checker.ClauseSurvives })
	return &r.Checks[i]
}
