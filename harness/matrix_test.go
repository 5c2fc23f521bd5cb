package harness

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/report"
)

// small is a claim on a scheme, with one case.
func small(id, scheme string, change func(*Case)) Claim {
	k := Case{Scheme: scheme, Plan: casePlan()}
	k.Plan.Options = map[string]string{}
	change(&k)
	k.Plan.Scheme = scheme
	return Claim{ID: id, Family: id[:2], Title: "T", Scheme: scheme, Says: "s", Done: "d", Expected: "e", Evidence: "v", Cases: []Case{k}}
}

// claimsNamed returns claims by their ids.
func claimsNamed(t *testing.T, ids ...string) []Claim {
	t.Helper()
	all, err := Claims()
	require.NoError(t, err)
	some, err := LookupClaims(all, ids)
	require.NoError(t, err)
	return some
}

func matrixOf(t *testing.T, cfg MatrixConfig) report.Matrix {
	t.Helper()
	cfg.Environment, cfg.First = "sim", 1
	cfg.Pool, _ = pool(t, "serve", 2)
	m, err := Matrix(t.Context(), cfg)
	require.NoError(t, err)
	require.Len(t, m.Rows, len(cfg.Claims))
	return m
}

// provenHere is the part of the matrix that every test run proves, and how each claim ends.
var provenHere = map[string]report.ClaimOutcome{
	"SN1": report.Kept, "SN2": report.LossReproduced, "SN5": report.NotExercised,
	"KF1": report.Kept, "KF2": report.LossReproduced, "KF3": report.LossReproduced, "KF5": report.LossReproduced, "KF6": report.Kept, "KF7": report.LossReproduced,
	"CC1": report.Kept, "CC3": report.LossReproduced, "MQ1": report.Kept, "MQ2": report.LossReproduced, "MQ5": report.Kept, "MQ6": report.LossReproduced, "MQ7": report.LossReproduced, "MQ8b": report.LossReproduced,
	"KF8": report.Kept, "KF9": report.LossReproduced, "KF12": report.Kept, "KF15": report.Kept, "KF16": report.LossReproduced,
}

// TestMatrix: a fixed part of the matrix, with what it is to end with.
func TestMatrix(t *testing.T) {
	plainly(t)
	var ids []string
	for id := range provenHere {
		ids = append(ids, id)
	}
	out := t.TempDir()
	told := map[string]int{}
	m := matrixOf(t, MatrixConfig{
		Claims: claimsNamed(t, ids...), Seeds: 1, Tries: 5, Out: out,
		Each: func(r report.ClaimRow) { told[r.ID]++ },
	})
	for _, r := range m.Rows {
		require.Equal(t, provenHere[r.ID], r.Outcome, "%s: %s", r.ID, r.Why)
		require.Equal(t, 1, told[r.ID], r.ID)
		for _, c := range r.Cases {
			require.Positive(t, c.Counted, r.ID)
			require.FileExists(t, filepath.Join(out, c.Dir, report.PageFile), r.ID)
			s, err := report.ReadSummary(filepath.Join(out, c.Dir))
			require.NoError(t, err)
			require.Equal(t, c.Seed, s.Seed)
			require.Contains(t, s.Command, "--claims "+r.ID)
			if c.Outcome == report.LossReproduced {
				require.Positive(t, c.Lost, r.ID)
			}
		}
	}
	require.Zero(t, m.ExitCode())
}

// TestMatrixOutcomes: a claim that is broken, one whose scheme is not built, one that is
// refused, one that is for another environment, and one that is never seen.
func TestMatrixOutcomes(t *testing.T) {
	plainly(t)
	t.Parallel()
	kill := claimsNamed(t, "KF1")[0].Cases[0].Plan.Steps
	cut := claimsNamed(t, "KF9")[0].Cases[1].Plan.Steps
	elsewhere := small("AA4", "isr", func(k *Case) { k.Safe, k.Plan.Steps = true, kill })
	elsewhere.Environments = []string{"docker"}
	claims := []Claim{
		small("AA1", "isr", func(k *Case) {
			k.Safe, k.Plan.Steps = true, cut
			k.Plan.Options["acks"] = "1"
		}),
		small("AA2", "future", func(k *Case) { k.Safe, k.Plan.Steps = true, kill }),
		small("AA3", "isr", func(k *Case) {
			k.Safe, k.Plan.Steps = true, kill
			k.Plan.Options["none-such"] = "1"
		}),
		elsewhere,
		small("AA5", "isr", func(k *Case) { k.Shows, k.Plan.Steps = []Sign{loss}, kill }),
	}
	m := matrixOf(t, MatrixConfig{Claims: claims, Seeds: 1, Tries: 2, Out: t.TempDir()})
	for i, want := range []struct {
		outcome report.ClaimOutcome
		why     string
		open    checker.Verdict
		runs    int
	}{
		{report.Broken, "seed 1: LOST ", checker.Valid, 1},
		{report.NotExercised, "scheme future is not built yet", checker.Valid, 0},
		{report.NotExercised, "its plan is refused: unknown option \"none-such\"", checker.Valid, 0},
		{report.NotExercised, "it is exercised in docker only", checker.Valid, 0},
		{report.NotExercised, "not seen in 2 runs", checker.Unknown, 2},
	} {
		r := m.Rows[i]
		require.Equal(t, want.outcome, r.Outcome, r.ID)
		require.Contains(t, r.Why, want.why)
		require.Equal(t, want.open, r.Open, r.ID)
		require.Equal(t, want.runs, r.Cases[0].Runs, r.ID)
	}
	require.NotEmpty(t, m.Rows[0].Cases[0].Dir, "the run that broke it is stored")
	require.Equal(t, 1, m.ExitCode())
	m.Rows = m.Rows[1:]
	m.Count()
	require.Equal(t, 2, m.ExitCode())
	m.Rows = m.Rows[:3]
	m.Count()
	require.Zero(t, m.ExitCode(), "what cannot be exercised is no failure")
}

// TestMatrixRepeats: what a claim ends with does not hang on the number of workers.
func TestMatrixRepeats(t *testing.T) {
	plainly(t)
	t.Parallel()
	cfg := MatrixConfig{Claims: claimsNamed(t, "SN2", "KF3"), Environment: "sim", First: 5, Seeds: 2, Tries: 4}
	var rows [][]report.ClaimRow
	for _, workers := range []int{1, 3} {
		cfg.Pool, _ = pool(t, "serve", workers)
		m, err := Matrix(t.Context(), cfg)
		require.NoError(t, err)
		rows = append(rows, m.Rows)
	}
	require.Equal(t, rows[0], rows[1])
}

// TestMatrixCutShort: what was not decided is not exercised, and the matrix says why.
func TestMatrixCutShort(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("no more time"))
	m, err := Matrix(ctx, MatrixConfig{Claims: claimsNamed(t, "KF1", "SN5"), Environment: "sim", First: 1, Seeds: 1, Tries: 1})
	require.NoError(t, err)
	require.Equal(t, "no more time", m.Interrupted)
	require.Equal(t, report.NotExercised, m.Rows[0].Outcome)
	require.Equal(t, 2, m.ExitCode())
	require.Equal(t, checker.Valid, m.Rows[1].Open)

	_, err = Matrix(t.Context(), MatrixConfig{Claims: claimsNamed(t, "KF1"), Environment: "sim"})
	require.ErrorIs(t, err, ErrBadPlan)
}

// TestMatrixWithoutWorkers: a pool that cannot start is an error, not an outcome.
func TestMatrixWithoutWorkers(t *testing.T) {
	t.Parallel()
	p, _ := pool(t, "serve", 1)
	start := p.Start
	p.Start = func() *exec.Cmd {
		cmd := start()
		cmd.Path = filepath.Join(t.TempDir(), "none-such")
		return cmd
	}
	_, err := Matrix(t.Context(), MatrixConfig{Claims: claimsNamed(t, "KF1"), Environment: "sim", First: 1, Seeds: 1, Tries: 1, Pool: p})
	require.ErrorContains(t, err, "starting a worker")
}

// TestFiguresOfStoredRun: the figures are those of the stored report.
func TestFiguresOfStoredRun(t *testing.T) {
	plainly(t)
	t.Parallel()
	k := claimsNamed(t, "KF9")[0].Cases[1]
	p, err := k.plan("sim", 3)
	require.NoError(t, err)
	j := simulated(t, p)
	f := figures(j.Result, j.history, j.ex.Plan)
	require.Len(t, f.Steps, 1)
	s := f.Steps[0]
	require.True(t, s.Proven)
	require.Equal(t, "partition:isolate-leader", s.Name)
	require.Equal(t, j.Availability.FailoverMS[0], s.FailoverMS)
	require.Positive(t, s.Before.Targets.Acknowledged)
	require.Zero(t, s.Before.Others.Acknowledged, "with one partition the leader acknowledges alone")
	require.Positive(t, s.During.Targets.Acknowledged, "the leader that is cut off")
	require.Positive(t, s.During.Others.Acknowledged, "the new one")
	require.Equal(t, s.During.Targets.Acknowledged, s.During.Targets.Lost)
	require.Zero(t, s.During.Others.Lost)
	require.Zero(t, s.During.Targets.Seen, "nobody reads what is not replicated")
	lost := 0
	for _, x := range f.Findings {
		if x.Class == checker.ClassLost {
			lost += x.Count
			require.Equal(t, checker.EventTruncation, x.Event)
		}
	}
	require.Equal(t, j.Anomalies[checker.ClassLost], lost)
	require.GreaterOrEqual(t, lost, s.During.Targets.Lost+s.Before.Targets.Lost)
	require.Equal(t, 3, f.Leaders.Wanted)
	require.Contains(t, j.Sentence, "LOST")
}

// TestResultDirs: runs that begin at once do not share a directory.
func TestResultDirs(t *testing.T) {
	t.Parallel()
	out, now := t.TempDir(), time.Now()
	seen := map[string]bool{}
	for range 3 {
		dir, err := ResultDir(out, DefaultPlan(), now)
		require.NoError(t, err)
		require.False(t, seen[dir], dir)
		seen[dir] = true
		require.DirExists(t, filepath.Join(dir, "nodes"))
	}
}

// TestDockerMatrix: a claim of each kind ends in containers as in the simulator.
func TestDockerMatrix(t *testing.T) {
	needAll(t)
	out := t.TempDir()
	m, err := Matrix(t.Context(), MatrixConfig{Claims: claimsNamed(t, "KF1", "KF3", "KF9", "SN2"), Environment: "docker", First: 1, Seeds: 1, Tries: 3, Out: out, Parallel: 1})
	require.NoError(t, err)
	for _, r := range m.Rows {
		require.Equal(t, provenHere[r.ID], r.Outcome, "%s: %s", r.ID, r.Why)
		for _, c := range r.Cases {
			require.FileExists(t, filepath.Join(out, c.Dir, report.PageFile))
		}
	}
}
