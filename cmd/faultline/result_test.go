package main

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness"
	"github.com/faultline-mq/faultline/harness/environment/sim"
	"github.com/faultline-mq/faultline/harness/report"
)

// simulating is held by the one test whose simulation runs in this process.
var simulating sync.Mutex

// stored runs a plan in the simulator and stores it. It is there to store what no
// command line can make: a sabotaged run.
func stored(t *testing.T, acks string, sabotage sim.SabotageMode) harness.Outcome {
	t.Helper()
	p := harness.DefaultPlan()
	p.Environment, p.Faults, p.Options["acks"] = "sim", []string{"partition:isolate-leader"}, acks
	p, err := p.Resolve()
	require.NoError(t, err)
	simulating.Lock()
	defer simulating.Unlock()
	o, err := harness.Run(t.Context(), harness.Config{Plan: p, RunID: "r", SimOptions: func(o *sim.Options) { o.Sabotage.Mode = sabotage }}, t.TempDir(), p.Command())
	require.NoError(t, err)
	return o
}

// TestSameVerdictAgain: a stored result is judged again to the same verdict, with
// no Docker in reach, by every way to name it.
func TestSameVerdictAgain(t *testing.T) {
	plainly(t)
	t.Parallel()
	for _, c := range []struct {
		name, acks string
		sabotage   sim.SabotageMode
		verdict    checker.Verdict
		code       int
		line       string
	}{
		{"valid", "all", sim.NoSabotage, checker.Valid, 0, "VALID  No anomaly in "},
		{"invalid", "1", sim.NoSabotage, checker.Invalid, 1, "INVALID  LOST "},
		{"unknown", "all", sim.Stubbed, checker.Unknown, 2, "UNKNOWN  Could not decide: fault "},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := stored(t, c.acks, c.sabotage).Summary
			require.Equal(t, c.verdict, first.Verdict)
			require.Equal(t, c.code, first.ExitCode)
			again := ask(t, nil, "check", "--json", first.Dir).summary(t)
			require.Equal(t, plain(t, first), plain(t, again))
			a := ask(t, nil, "check", filepath.Join(first.Dir, "plan.yaml"))
			require.Equal(t, c.code, a.code)
			require.Empty(t, a.stderr)
			require.True(t, strings.HasPrefix(a.stdout, c.line), a.stdout)
			if c.verdict == checker.Unknown {
				require.Contains(t, a.stdout, "partition:isolate-leader")
				require.Contains(t, a.stdout, "\n  why     ")
				require.Contains(t, a.stdout, "\n  change  ")
			}
			// Without the summary the history alone decides.
			require.NoError(t, os.Remove(filepath.Join(first.Dir, report.SummaryFile)))
			require.Equal(t, first.Sentence, ask(t, nil, "check", "--json", first.Dir).summary(t).Sentence)
			a = ask(t, nil, "report", first.Dir)
			require.Equal(t, 0, a.code)
			require.FileExists(t, strings.TrimSpace(a.stdout))
		})
	}
}

// TestCheckWitness: what a broken clause is cut down to is a result of its own, small,
// and convicted by the same clause.
func TestCheckWitness(t *testing.T) {
	plainly(t)
	first := stored(t, "1", sim.NoSabotage).Summary
	dir := t.TempDir()
	a := ask(t, nil, "check", "--witness", dir, first.Dir)
	require.Equal(t, 1, a.code, a.stderr)
	broken := 0
	for _, c := range first.Checks {
		if c.Verdict != checker.Invalid {
			continue
		}
		broken++
		for _, anomaly := range c.Anomalies {
			cut := filepath.Join(dir, c.Name+"-"+anomaly.Class)
			require.Contains(t, a.stderr, "witness: "+cut)
			again := ask(t, nil, "check", "--json", cut)
			require.Equal(t, 1, again.code, again.stderr)
			s := again.summary(t)
			require.NotZero(t, s.Anomalies[anomaly.Class])
			h, err := harness.LoadHistory(cut)
			require.NoError(t, err)
			require.LessOrEqual(t, len(h.Ops), 4, "%s by %s", c.Name, anomaly.Class)
			break
		}
	}
	require.NotZero(t, broken)
	ask(t, nil, "check", "--witness", dir, first.Dir).requireRefused(t, 255, "exists", "another directory")
}

// plain is a summary as a reader of JSON sees it.
func plain(t *testing.T, s report.Summary) any {
	t.Helper()
	b, err := json.Marshal(s)
	require.NoError(t, err)
	var v any
	require.NoError(t, json.Unmarshal(b, &v))
	return v
}

// TestConvictionOnTheCommandLine: acks=1 under a cut-off leader ends with exit
// code 1 and names each lost message; explain tells its story.
func TestConvictionOnTheCommandLine(t *testing.T) {
	plainly(t)
	t.Parallel()
	out := t.TempDir()
	a := ask(t, nil, "run", "--env", "sim", "--faults", "partition:isolate-leader", "--time", "30s", "--set", "acks=1", "--out", out)
	require.Equal(t, 1, a.code, a.stderr)
	require.Empty(t, a.stderr)
	require.Regexp(t, `(?m)^INVALID  LOST \d+ of [\d,]+ acknowledged messages`, a.stdout)
	require.Regexp(t, `(?m)^  lost \d+:\d+ t-\d offset [\d,]+ at [\d.]+ s on n\d, missing on .*under fault 0 \(partition:isolate-leader\)`, a.stdout)
	s, err := report.ReadSummary(filepath.Join(out, "latest"))
	require.NoError(t, err)
	require.Positive(t, s.Anomalies["lost"])
	for _, c := range s.Checks {
		if c.Name != checker.ClauseSurvives {
			continue
		}
		require.Len(t, c.Anomalies, s.Anomalies["lost"])
		for _, lost := range c.Anomalies {
			require.NotEmpty(t, lost.Node)
			require.Contains(t, lost.Fault, "partition:isolate-leader")
			require.GreaterOrEqual(t, lost.Offset, int64(0))
		}
		a = ask(t, nil, "explain", s.Dir, c.Anomalies[0].Value.String())
		require.Equal(t, 0, a.code, a.stderr)
		require.Contains(t, a.stdout, "truncate")
	}
	for _, args := range [][]string{{"export", s.Dir}, {"export", "--format", "edn", s.Dir}} {
		a = ask(t, nil, args...)
		require.Equal(t, 0, a.code, a.stderr)
		require.Greater(t, strings.Count(a.stdout, "\n"), s.Ops.Total())
	}
	// What was lost shows in Jepsen's form too: its offset holds something else.
	exported := filepath.Join(t.TempDir(), "history.edn")
	require.NoError(t, os.WriteFile(exported, []byte(a.stdout), 0o644))
	a = ask(t, nil, "linearizable", "--object", "log-with-gaps", exported)
	require.Equal(t, 1, a.code, a.stdout+a.stderr)
	require.Contains(t, a.stdout, "not linearizable")
	require.Contains(t, a.stdout, "two-values: ")
	a = ask(t, nil, "export", "--format", "bogus", s.Dir)
	a.requireRefused(t, 254, `unknown format "bogus"`, "jsonl, edn")
	a = ask(t, nil, "explain", s.Dir, "999:1")
	a.requireRefused(t, 254, "never mentions")

	// The replay is the same run.
	again := ask(t, nil, "replay", "--json", "--out", t.TempDir(), s.Dir).summary(t)
	require.Equal(t, s.Sentence, again.Sentence)
	require.Equal(t, s.Versions["simulation digest"], again.Versions["simulation digest"])
	require.NotEmpty(t, s.Versions["simulation digest"])
}

// TestHuntOnTheCommandLine ends with 1 and tells where what it convicted is stored.
func TestHuntOnTheCommandLine(t *testing.T) {
	plainly(t)
	t.Parallel()
	a := ask(t, nil, "hunt", "--first-seed", "2", "--seeds", "2", "--faults", "partition:isolate-leader", "--time", "30s", "--set", "acks=1", "--out", t.TempDir())
	require.Equal(t, 1, a.code, a.stderr)
	require.Contains(t, a.stdout, "seed 2  INVALID  LOST ")
	require.Contains(t, a.stdout, "0 valid, 2 invalid, 0 inconclusive, 0 harness errors")
	pages := 0
	for lines := bufio.NewScanner(strings.NewReader(a.stdout)); lines.Scan(); {
		if _, page, ok := strings.Cut(lines.Text(), "  "); ok && strings.HasSuffix(page, "/"+report.PageFile) {
			require.FileExists(t, page)
			pages++
		}
	}
	require.Equal(t, 2, pages)
	a = ask(t, nil, "hunt", "--seeds", "2", "--faults", "partition,kill,pause,power", "--quiet", "--out", t.TempDir())
	require.Equal(t, 0, a.code, a.stdout+a.stderr)
	require.Contains(t, a.stdout, "2 valid, 0 invalid")
}

// TestLists: every kind is printed for people and as JSON, and each name in it is
// one that a run takes.
func TestLists(t *testing.T) {
	plainly(t)
	t.Parallel()
	for _, kind := range []string{"systems", "schemes", "workloads", "clauses", "faults", "options"} {
		a := ask(t, nil, "list", "--json", kind)
		require.Equal(t, 0, a.code, a.stderr)
		var all []entry
		require.NoError(t, json.Unmarshal([]byte(a.stdout), &all))
		require.NotEmpty(t, all)
		if kind == "clauses" {
			for _, e := range all {
				require.NotEmpty(t, e.Doc, e.Name)
			}
		}
		text := ask(t, nil, "list", kind)
		for _, e := range all {
			require.NotEmpty(t, e.Name)
			require.Contains(t, text.stdout, e.Name)
		}
	}
	require.Equal(t, 0, ask(t, nil, "version").code)
	require.Contains(t, ask(t, nil, "version").stdout, "faultline ")
	require.Contains(t, ask(t, nil).stdout, "Usage:", "no command: the help")
	require.Equal(t, 0, ask(t, nil, "run", "--help").code)
}
