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
	"github.com/faultline-mq/faultline/harness/report"
)

// leaderAlone is a plan whose leaders acknowledge alone: offsets are given twice.
func leaderAlone() Plan {
	p := simPlan("partition:isolate-leader")
	p.Time, p.Options = 60*time.Second, map[string]string{"acks": "1"}
	return p
}

// clauses names the clauses that a result convicts.
func clauses(r *checker.Result) []string {
	var names []string
	for _, b := range breaches(r) {
		names = append(names, b.Clause)
	}
	return names
}

// TestStopOnViolation: the first violation that shows ends the faults, which are
// healed and proven; the final check convicts by the clauses of the whole run.
func TestStopOnViolation(t *testing.T) {
	plainly(t)
	whole := here(t, leaderAlone())
	require.Nil(t, whole.ex.Stopped)
	p := leaderAlone()
	p.StopOnViolation = true
	j := here(t, p)
	require.Equal(t, checker.Invalid, j.Verdict, j.why())
	require.Equal(t, clauses(whole.Result), clauses(j.Result))
	require.Less(t, j.ex.Duration, whole.ex.Duration*2/3)

	v := j.ex.Stopped
	require.NotNil(t, v)
	require.Equal(t, j.ex.Online.Findings[0], v.Finding)
	require.True(t, checker.Confirms(j.Result, v.Finding))
	require.GreaterOrEqual(t, v.Operation, int64(0))
	require.True(t, slices.ContainsFunc(j.history.Notes, func(n history.Note) bool { return n.Text == "faults ended early: "+v.String() }))
	stages := map[int][]history.FaultStage{}
	for _, f := range j.history.Faults {
		stages[f.ID] = append(stages[f.ID], f.Stage)
	}
	require.Len(t, stages, len(j.ex.Plan.Steps), "no step is forgotten")
	proven, skipped := 0, 0
	for id, s := range stages {
		switch {
		case slices.Contains(s, history.Skipped):
			skipped++
			require.Len(t, s, 1, "fault %d", id)
		default:
			proven++
			require.Equal(t, []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed}, s)
		}
	}
	require.Positive(t, proven)
	require.Positive(t, skipped)

	again := here(t, p)
	require.Equal(t, j.ex.Online, again.ex.Online, "the same seed finds the same")
	require.Equal(t, j.history.Digest(), again.history.Digest())
}

// TestStopWithoutFaults: a run without faults ends at a violation too.
func TestStopWithoutFaults(t *testing.T) {
	plainly(t)
	p := simPlan("")
	p.StopOnViolation = true
	j := here(t, p)
	require.Nil(t, j.ex.Stopped)
	require.Equal(t, checker.Valid, j.Verdict, j.why())
}

// TestValidRunsDoNotStop: where nothing is wrong nothing is found, and the run has
// its whole length.
func TestValidRunsDoNotStop(t *testing.T) {
	plainly(t)
	p := simPlan("partition")
	p.StopOnViolation = true
	j := here(t, p)
	require.Equal(t, checker.Valid, j.Verdict, j.why())
	require.Nil(t, j.ex.Stopped)
	require.Empty(t, j.ex.Online.Findings)
	require.Zero(t, j.ex.Online.Outside)
	require.GreaterOrEqual(t, j.ex.Duration, p.Time)
}

// TestStoppedRunIsStored: reports, stored plan and a second judgement say why the
// run ended early.
func TestStoppedRunIsStored(t *testing.T) {
	plainly(t)
	p := leaderAlone()
	p.StopOnViolation = true
	require.Contains(t, p.Command(), "--stop-on-violation")
	o, err := Run(t.Context(), Config{Plan: p, RunID: "sim"}, t.TempDir(), "")
	require.NoError(t, err)
	require.Equal(t, checker.Invalid, o.Summary.Verdict)
	require.NotNil(t, o.Summary.Stopped)
	stored, err := StoredPlan(o.Dir)
	require.NoError(t, err)
	require.True(t, stored.StopOnViolation)
	for _, name := range []string{report.SummaryFile, report.MarkdownFile, report.PageFile} {
		b, err := os.ReadFile(filepath.Join(o.Dir, name))
		require.NoError(t, err)
		require.Contains(t, string(b), o.Summary.Stopped.Finding.Clause, name)
		require.Contains(t, string(b), "ended early", name)
	}
	again, err := Recheck(t.Context(), o.Dir)
	require.NoError(t, err)
	require.Equal(t, o.Summary.Stopped, again.Summary.Stopped)
	require.Equal(t, o.Summary.Online, again.Summary.Online)
}

// TestUnconfirmed: what was found early and not at the end is the harness's error.
func TestUnconfirmed(t *testing.T) {
	f := checker.Finding{Clause: checker.ClauseInconsistent, Anomaly: checker.Anomaly{Class: checker.ClassInconsistent, Text: "broke it"}}
	ex := Execution{Online: &checker.OnlineReport{Findings: []checker.Finding{f}}}
	require.ErrorContains(t, unconfirmed(&checker.Result{}, ex), "broke it")
	require.NoError(t, unconfirmed(&checker.Result{}, Execution{}))
	ex.Err = os.ErrClosed
	require.NoError(t, unconfirmed(&checker.Result{}, ex), "a run that failed has no whole history")
}

// TestDueIsRecorded: with a rate every send has the time at which the schedule wanted
// it, evenly apart and not after its call; without one none has, and the report says so.
func TestDueIsRecorded(t *testing.T) {
	plainly(t)
	p := simPlan("partition:isolate-leader")
	j := here(t, p)
	last := map[int32]int64{}
	every := int64(float64(p.Clients) / p.Rate * 1e9)
	sends := 0
	for _, op := range j.history.Ops {
		if op.Kind != history.Send {
			require.Zero(t, op.Due)
			continue
		}
		sends++
		require.Positive(t, op.Due)
		require.LessOrEqual(t, op.Due, op.Call)
		if before, ok := last[op.Client]; ok {
			require.Equal(t, before+every, op.Due)
		}
		last[op.Client] = op.Due
	}
	require.Greater(t, sends, 1000)
	a := j.Availability
	require.Contains(t, a.Correction, "open loop")
	require.Greater(t, a.Response["during"].P999, a.Latency["during"].P999)

	p.Rate = 0
	j = here(t, p)
	require.Equal(t, checker.NotCorrected, j.Availability.Correction)
	require.Empty(t, j.Availability.Response)
}
