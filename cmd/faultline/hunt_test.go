package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/report"
)

// newest is the result directory that out/latest points at.
func newest(t *testing.T, out string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(filepath.Join(out, "latest"))
	require.NoError(t, err)
	return dir
}

// convicted runs a plan that loses messages and returns its result directory.
func convicted(t *testing.T) string {
	t.Helper()
	out := t.TempDir()
	a := ask(t, nil, "run", "--env", "sim", "--faults", "partition:isolate-leader", "--time", "30s", "--rate", "50", "--set", "acks=1", "--quiet", "--out", out)
	require.Equal(t, 1, a.code, a.stdout+a.stderr)
	return newest(t, out)
}

// TestReplayOfAnotherVersion: refused with both versions named, unless forced. The
// same version gives the same history.
func TestReplayOfAnotherVersion(t *testing.T) {
	plainly(t)
	t.Parallel()
	dir := convicted(t)
	a := ask(t, nil, "replay", dir, "--out", t.TempDir())
	require.Equal(t, 1, a.code, a.stdout+a.stderr)
	require.Contains(t, a.stdout, "the same history as before, byte for byte")

	file := filepath.Join(dir, report.SummaryFile)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var s map[string]any
	require.NoError(t, json.Unmarshal(b, &s))
	versions, ok := s["versions"].(map[string]any)
	require.True(t, ok)
	mine, ok := versions["faultline"].(string)
	require.True(t, ok)
	store := func() {
		b, err := json.Marshal(s)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, b, 0o644))
	}

	was := versions["history digest"]
	versions["history digest"] = strings.Repeat("0", 64)
	store()
	a = ask(t, nil, "replay", dir, "--out", t.TempDir())
	require.Equal(t, 255, a.code)
	require.Contains(t, a.stderr, "the simulation is not deterministic")

	versions["faultline"], versions["history digest"] = "0123456789ab", was
	store()
	a = ask(t, nil, "replay", dir, "--out", t.TempDir())
	require.Equal(t, 254, a.code)
	for _, word := range []string{"0123456789ab", mine, "--force", dir} {
		require.Contains(t, a.stderr, word)
	}
	require.Equal(t, 1, strings.Count(a.stderr, "\n"), "one line: %s", a.stderr)
	a = ask(t, nil, "replay", "--force", dir, "--out", t.TempDir())
	require.Equal(t, 1, a.code, a.stderr)
	require.NotContains(t, a.stdout, "byte for byte")
}

// TestShrinkOnTheCommandLine ends with a small plan whose ready command fails in
// the same way.
func TestShrinkOnTheCommandLine(t *testing.T) {
	plainly(t)
	t.Parallel()
	dir, out := convicted(t), t.TempDir()
	a := ask(t, nil, "shrink", dir, "--out", out, "--runs", "25")
	require.Equal(t, 0, a.code, a.stdout+a.stderr)
	require.Contains(t, a.stdout, "still breaks "+checker.ClauseSurvives+" ("+checker.ClassLost+")")
	require.Contains(t, a.stdout, "an acknowledged message is never lost")
	_, ready, ok := strings.Cut(a.stdout, "run it: faultline ")
	require.True(t, ok, a.stdout)
	require.Contains(t, ready, newest(t, out))
	a = ask(t, nil, append(strings.Fields(ready), "--json", "--out", t.TempDir())...)
	require.Equal(t, 1, a.code, a.stderr)
	var s report.Summary
	require.NoError(t, json.Unmarshal([]byte(a.stdout), &s))
	require.Less(t, s.Ops.Total(), 50)
	require.LessOrEqual(t, len(s.Faults), 5)
	require.Positive(t, s.Anomalies["lost"])
}

// TestHuntRefuses: what no seed could make right is refused before the first.
func TestHuntRefuses(t *testing.T) {
	plainly(t)
	t.Parallel()
	valid := t.TempDir()
	a := ask(t, nil, "run", "--env", "sim", "--faults", "kill", "--time", "30s", "--rate", "50", "--quiet", "--out", valid)
	require.Equal(t, 0, a.code, a.stderr)
	for _, c := range []struct {
		args string
		want []string
	}{
		{"hunt --workers -1 --seeds 1", []string{"--workers -1"}},
		{"hunt --seed 3 --seeds 1", []string{"--first-seed"}},
		{"hunt --set bogus=1 --seeds 1", []string{"bogus"}},
		{"hunt --faults wipe-the-moon --seeds 1", []string{"wipe-the-moon", "partition"}},
		{"hunt --plan " + filepath.Join(valid, "none.yaml"), []string{"none.yaml"}},
		{"shrink " + filepath.Join(valid, "none"), []string{"is no result directory"}},
		{"shrink --budget -1s " + valid, []string{"--budget -1s"}},
		{"shrink " + newest(t, valid), []string{"nothing to shrink", "breaks no clause"}},
		{"shrink", []string{"usage", "shrink RESULT"}},
	} {
		a := ask(t, nil, strings.Fields(c.args)...)
		require.Equal(t, 254, a.code, "%s: %s", c.args, a.stdout+a.stderr)
		for _, word := range c.want {
			require.Contains(t, a.stderr, word, c.args)
		}
		require.Equal(t, 1, strings.Count(a.stderr, "\n"), "%s: one line: %s", c.args, a.stderr)
	}
}

// TestHuntInconclusive: seeds that are too short decide nothing, and the hunt says
// so with 2, and which rules it never met.
func TestHuntInconclusive(t *testing.T) {
	plainly(t)
	t.Parallel()
	a := ask(t, nil, "hunt", "--seeds", "1", "--first-seed", "9", "--faults", "kill", "--time", "40s", "--rate", "60", "--out", t.TempDir())
	require.Equal(t, 2, a.code, a.stdout+a.stderr)
	require.Contains(t, a.stdout, "seed 9  inconclusive  ")
	require.Contains(t, a.stdout, "a seed counts from")
	require.Contains(t, a.stdout, "1 inconclusive")
	require.Contains(t, a.stdout, "NOT REACHED  truncation")
	require.Contains(t, a.stdout, "  reached      recovery ")
}

// TestStopOnViolation: the terminal says why a run ended early, a replay ends at the
// same operation, and a hunt ends its seeds early too.
func TestStopOnViolation(t *testing.T) {
	plainly(t)
	t.Parallel()
	out := t.TempDir()
	flags := []string{"--faults", "partition:isolate-leader", "--time", "60s", "--rate", "50", "--set", "acks=1", "--stop-on-violation", "--out", out}
	a := ask(t, nil, append([]string{"run", "--env", "sim"}, flags...)...)
	require.Equal(t, 1, a.code, a.stdout+a.stderr)
	for _, want := range []string{"violation found: at ", "was not injected: the run ended early", "faults ended early", "INVALID", "stopped a violation was found at "} {
		require.Contains(t, a.stdout, want)
	}
	s, err := report.ReadSummary(newest(t, out))
	require.NoError(t, err)
	require.NotNil(t, s.Stopped)
	again := t.TempDir()
	a = ask(t, nil, "replay", newest(t, out), "--out", again)
	require.Contains(t, a.stdout, "the same history as before, byte for byte")
	r, err := report.ReadSummary(newest(t, again))
	require.NoError(t, err)
	require.Equal(t, s.Stopped, r.Stopped)

	a = ask(t, nil, append([]string{"hunt", "--seeds", "1", "--workers", "1"}, flags...)...)
	require.Equal(t, 1, a.code, a.stdout+a.stderr)
	r, err = report.ReadSummary(newest(t, out))
	require.NoError(t, err)
	require.NotNil(t, r.Stopped)
	require.Contains(t, r.Command, "--stop-on-violation=true")
}
