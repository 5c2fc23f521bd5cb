//go:build mutants

package harness

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
)

// conviction is what a plan of testdata/mutants breaks.
type conviction struct {
	clause, class, event string
	late                 bool // nothing shows of it before the drain
}

var (
	lostByTruncation = conviction{clause: checker.ClauseSurvives, class: checker.ClassLost, event: checker.EventTruncation}

	// convictions are the plans of testdata/mutants, by the mutant that they convict.
	convictions = map[string]conviction{
		"ack-by-leader-alone":               lostByTruncation,
		"timeout-acknowledged":              lostByTruncation,
		"high-watermark-from-one-follower":  lostByTruncation,
		"unclean-election":                  lostByTruncation,
		"in-sync-set-forgotten":             lostByTruncation,
		"last-replica-standing":             lostByTruncation,
		"read-beyond-high-watermark":        {checker.ClauseDirtyRead, checker.ClassDirtyRead, checker.EventTruncation, false},
		"min-insync-ignored":                {checker.ClauseInSync, checker.ClassTooFew, checker.EventShrink, false},
		"confirm-offset-of-connected":       {checker.ClauseDirtyRead, checker.ClassDirtyRead, checker.EventTruncation, false},
		"master-begins-at-confirmed-offset": lostByTruncation,
		"blind-restore":                     lostByTruncation,
		"shared-without-fence":              {checker.ClauseSurvives, checker.ClassLost, noEvent, false},
		"lease-without-margin":              {checker.ClauseSurvives, checker.ClassLost, noEvent, false},
		"unroutable-confirmed":              {checker.ClauseSurvives, checker.ClassLost, noEvent, true},
		"sync-of-one-copy":                  lostByTruncation,
		"promote-unsynchronised-mirror":     lostByTruncation,
		"snapshot-stream-gap":               {checker.ClauseDivergence, checker.ClassDivergence, noEvent, true},
		"epoch-not-bumped":                  {checker.ClauseSplitBrain, checker.ClassSplitBrain, checker.EventLeader, false},
	}
)

// noEvent: a shared log says nothing when two owners write to it, and nor does who never
// had a message.
const noEvent = ""

// convicting reads the plan that convicts a mutant.
func convicting(t *testing.T, mutant, environment string) Plan {
	t.Helper()
	p, err := ReadPlan(filepath.Join("testdata", "mutants", mutant+".yaml"))
	require.NoError(t, err)
	require.Equal(t, mutant, p.Options["mutant"])
	p.Environment = environment
	return p
}

// requireConvicted wants a clause broken by one class of anomalies and one kind of
// scheme event, and every fault proven.
func (j judged) requireConvicted(t *testing.T, c conviction) {
	t.Helper()
	require.Equal(t, checker.Invalid, j.Verdict, j.why())
	j.requireProven(t)
	broken := map[string]Breach{}
	for _, b := range breaches(j.Result) {
		broken[b.Clause] = b
	}
	require.Contains(t, broken, c.clause, j.why())
	require.Equal(t, []string{c.class}, broken[c.clause].Classes, j.why())
	if c.event == noEvent {
		require.Empty(t, broken[c.clause].Events, j.why())
		return
	}
	require.Equal(t, []string{c.event}, broken[c.clause].Events, j.why())
}

// TestConvictions: in the simulator every plan convicts its mutant, and the broker
// without it is valid. A conviction shows before the drain, or needs it. A run that stops
// on violation is convicted by the same clause as the whole one; what shows early is what
// the final check convicts too (simulated compares them).
func TestConvictions(t *testing.T) {
	files, err := os.ReadDir("testdata/mutants")
	require.NoError(t, err)
	require.Len(t, files, len(convictions), "every plan has its line")
	shown := map[string]string{}
	var mu sync.Mutex
	t.Run("mutants", func(t *testing.T) {
		for mutant, c := range convictions {
			t.Run(mutant, func(t *testing.T) {
				t.Parallel()
				p := convicting(t, mutant, "sim")
				whole := simulated(t, p)
				whole.requireConvicted(t, c)
				p.StopOnViolation = true
				j := simulated(t, p)
				require.Equal(t, checker.Invalid, j.Verdict, j.why())
				if c.late {
					require.Empty(t, j.ex.Online.Findings)
				} else {
					require.NotEmpty(t, j.ex.Online.Findings)
					first := j.ex.Online.Findings[0]
					require.Contains(t, clauses(j.Result), first.Clause)
					require.Contains(t, clauses(whole.Result), first.Clause)
					mu.Lock()
					shown[mutant] = first.Clause
					mu.Unlock()
					t.Log(first.Text)
				}
				if j.ex.Stopped != nil {
					require.Less(t, len(j.history.Ops), len(whole.history.Ops))
				}
				p.StopOnViolation = false
				delete(p.Options, "mutant")
				simulated(t, p).requireValid(t)
			})
		}
	})
	for mutant, c := range convictions {
		require.NotEqual(t, c.late, shown[mutant] != "", mutant)
	}
}

// TestDockerConvictions: the same plans end the same in containers.
func TestDockerConvictions(t *testing.T) {
	needAll(t)
	for mutant, c := range convictions {
		t.Run(mutant, func(t *testing.T) {
			p := convicting(t, mutant, "docker")
			contained(t, p, nil).requireConvicted(t, c)
			delete(p.Options, "mutant")
			contained(t, p, nil).requireValidInDocker(t)
		})
	}
}

// TestDockerShrunk: what a conviction in the simulator shrinks to, a script of a few
// operations, is convicted in containers as it is.
func TestDockerShrunk(t *testing.T) {
	needAll(t)
	for _, mutant := range []string{"ack-by-leader-alone", "timeout-acknowledged", "high-watermark-from-one-follower", "min-insync-ignored"} {
		t.Run(mutant, func(t *testing.T) {
			small, err := Shrink(t.Context(), ShrinkConfig{Plan: convicting(t, mutant, "sim"), Steady: true})
			require.NoError(t, err)
			require.LessOrEqual(t, small.After.Operations, 5)
			small.Plan.Environment = "docker"
			contained(t, small.Plan, nil).requireConvicted(t, convictions[mutant])
		})
	}
}
