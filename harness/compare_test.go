package harness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/report"
)

const goodComparison = `version: 1
title: Mirrors and a quorum under a partition
plan:
  nodes: 3
  clients: 4
  rate: 100
  phases: {baseline: 4s, fault: 16s, recovery: 6s}
  steps:
  - {id: 0, fault: partition, shape: isolate-one, targets: n1, at: 1s, until: 11s}
  - {id: 1, fault: restart, shape: kill, targets: n1, at: 12s, until: 14s}
systems:
- {name: mirrors, system: reference, scheme: mirrored, options: {partitions: "1", ha-sync-mode: automatic}}
- {name: a quorum, system: reference, scheme: quorum, options: {partitions: "1"}}
`

func writeComparison(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "compare.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// The same faults take a mirrored queue's discarded side and leave a quorum's messages
// alone, and the page says so.
func TestCompare(t *testing.T) {
	c, err := ReadComparison(writeComparison(t, goodComparison))
	require.NoError(t, err)
	plans, err := c.Plans("sim")
	require.NoError(t, err)
	require.Len(t, plans, 2)
	require.Equal(t, plans[0].Steps, plans[1].Steps, "all have the same faults")
	require.Equal(t, plans[0].Phases, plans[1].Phases)
	out := t.TempDir()
	var told []string
	res, err := c.Compare(t.Context(), plans, out, "faultline compare f", func(r report.ComparisonRow) { told = append(told, r.Name) })
	require.NoError(t, err)
	require.Equal(t, []string{"mirrors", "a quorum"}, told)
	mirrors, quorum := res.Rows[0].Summary, res.Rows[1].Summary
	require.Equal(t, checker.Invalid, mirrors.Verdict, mirrors.Sentence)
	require.Positive(t, mirrors.Anomalies[checker.ClassLost])
	require.Equal(t, checker.Valid, quorum.Verdict, quorum.Sentence)
	require.Zero(t, quorum.Anomalies[checker.ClassLost])
	require.Zero(t, res.ExitCode(), "a system that loses is no failure of the comparison")

	require.NoError(t, report.WriteComparison(out, res))
	for _, name := range []string{report.ComparisonPage, report.ComparisonMarkdown} {
		b, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		for _, text := range []string{c.Title, "mirrors", "a quorum", "invalid", "valid", "partition:isolate-one"} {
			require.Contains(t, string(b), text, name)
		}
	}
	index, err := os.ReadFile(filepath.Join(out, report.PageFile))
	require.NoError(t, err)
	require.Contains(t, string(index), report.ComparisonPage)
	for _, r := range res.Rows {
		require.FileExists(t, filepath.Join(out, r.Dir, report.PageFile))
	}
}

func TestComparisonIsRefused(t *testing.T) {
	for _, c := range []struct{ name, old, with, err string }{
		{"version", "version: 1", "version: 7", "version 7"},
		{"title", "title: Mirrors and a quorum under a partition", "title: \"\"", "no title"},
		{"unknown key", "title:", "titel: x\ntitle:", "titel"},
		{"a plan with a system", "plan:", "plan:\n  system: reference", "under systems"},
		{"faults that are drawn", "plan:", "plan:\n  faults: [kill]", "gives its steps"},
		{"one system", "- {name: a quorum", "# {name: a quorum", "at least two"},
		{"two of one name", "name: a quorum", "name: mirrors", "given twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Contains(t, goodComparison, c.old)
			_, err := ReadComparison(writeComparison(t, strings.Replace(goodComparison, c.old, c.with, 1)))
			require.ErrorIs(t, err, ErrBadPlan)
			require.ErrorContains(t, err, c.err)
		})
	}
	_, err := ReadComparison("/none/such.yaml")
	require.ErrorIs(t, err, ErrBadPlan)

	c, err := ReadComparison(writeComparison(t, strings.Replace(goodComparison, "scheme: quorum", "scheme: quarum", 1)))
	require.NoError(t, err)
	_, err = c.Plans("sim")
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, "a quorum: ")
	require.ErrorContains(t, err, "quarum")
}

func TestComparisonExitCode(t *testing.T) {
	of := func(all ...checker.Verdict) report.Comparison {
		var c report.Comparison
		for _, v := range all {
			c.Rows = append(c.Rows, report.ComparisonRow{Summary: report.Summary{Verdict: v}})
		}
		return c
	}
	require.Equal(t, 0, of(checker.Valid, checker.Invalid).ExitCode())
	require.Equal(t, 2, of(checker.Valid, checker.Unknown).ExitCode())
	require.Equal(t, 255, of(checker.Unknown, checker.HarnessError).ExitCode())
}

// TestSideBySide: the comparison of the documentation can be run, on real systems too.
func TestSideBySide(t *testing.T) {
	c, err := ReadComparison("../docs/side-by-side.yaml")
	require.NoError(t, err)
	plans, err := c.Plans("docker")
	require.NoError(t, err)
	var systems []string
	for _, p := range plans {
		systems = append(systems, p.System+" "+p.Scheme)
		require.Equal(t, plans[0].Steps, p.Steps)
	}
	require.Equal(t, []string{"rabbitmq mirrored", "rabbitmq quorum", "nats jetstream", "reference mirrored", "reference quorum"}, systems)
}
