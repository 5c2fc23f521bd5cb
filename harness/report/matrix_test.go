package report

import (
	"bytes"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
)

// sampleMatrix has a claim of every outcome.
func sampleMatrix() Matrix {
	row := func(id, scheme string, outcome ClaimOutcome, why string, faults ...string) ClaimRow {
		return ClaimRow{
			ID: id, Family: id[:2], Title: "table " + id[:2], Schemes: []string{scheme}, Says: "sentence of " + id, Done: "done for " + id, Expected: "SAFE", Evidence: "[M]",
			Outcome: outcome, Why: why, Open: checker.Valid,
			Cases: []ClaimCase{{
				Name: "case of " + id, Scheme: scheme, Faults: faults, Options: []string{"acks=1"}, Outcome: outcome, Why: why, Runs: 5, Counted: 5, Acknowledged: 41207, Lost: 3,
				UnavailableMS: 2500, FailoverMS: []float64{2400, -1}, RecoveryMS: []float64{35, 40}, Seed: 7, Dir: "reference-isr-log-kill/20260301T120000.000Z-7",
			}},
		}
	}
	m := Matrix{
		Version: MatrixVersion, Started: started, DurationMS: 65_000, Environment: "sim", Commit: "abc", Command: "faultline matrix", FirstSeed: 1,
		Rows: []ClaimRow{
			row("KF1", "isr", Kept, "every run was valid", "kill"),
			row("KF2", "isr", LossReproduced, "3 lost by truncation", "partition", "kill"),
			row("KF3", "isr", Broken, "seed 4: LOST 3 of 41,207 <acknowledged> messages", "kill"),
			row("MQ1", "mirrored", Differs, "gap", "pause"),
			row("MQ2", "mirrored", NotExercised, "0 of 5 runs count", "pause"),
			{ID: "NT1", Family: "NT", Title: "NATS", Says: "a sentence", Done: "d", Expected: "SAFE", Evidence: "[M]", Outcome: NotExercised, Why: "exempt: another system", Open: checker.Valid},
		},
	}
	m.Rows[3].Observed = "the reason (seed 9)"
	m.Rows[4].Open = checker.Unknown
	m.Count()
	return m
}

func TestMatrixPage(t *testing.T) {
	dir := t.TempDir()
	m := sampleMatrix()
	require.NoError(t, WriteMatrix(dir, m))
	b, err := os.ReadFile(filepath.Join(dir, MatrixPage))
	require.NoError(t, err)
	require.Less(t, len(b), 100_000)
	doc := parse(t, string(b))
	for _, text := range []string{
		"6 claims", "1 broken, 1 differs, 2 not exercised, 1 loss reproduced, 1 kept",
		"sentence of KF1", "done for KF1", "case of KF2", "3 lost by truncation", "seed 4: LOST 3 of 41,207 <acknowledged> messages", "41,207", "2.40 s, never", "2.50 s", "5 of 5",
		"observed: the reason (seed 9)", "exempt: another system", "table MQ", "acks=1", "took 1m05s",
	} {
		require.Contains(t, doc.text, text)
	}
	for _, r := range m.Rows {
		require.Contains(t, doc.ids, r.ID)
	}
	require.Contains(t, doc.hrefs, "./reference-isr-log-kill/20260301T120000.000Z-7/index.html")
	// The grid tells every outcome in words.
	start := strings.Index(doc.text, "Schemes and faults\n")
	require.Positive(t, start)
	gridText := doc.text[start:]
	gridText = gridText[:strings.Index(gridText, "KF: table KF")]
	for _, cell := range []string{"KF1 kept", "KF2 loss reproduced", "KF3 broken", "MQ1 differs", "MQ2 not exercised"} {
		require.Contains(t, gridText, cell)
	}
	require.NotContains(t, gridText, "NT1", "it has no case")

	again, err := ReadMatrix(dir)
	require.NoError(t, err)
	require.Equal(t, m, again)
	index, err := os.ReadFile(filepath.Join(dir, PageFile))
	require.NoError(t, err)
	found := parse(t, string(index))
	require.Contains(t, found.hrefs, "./matrix.html")
	require.Contains(t, found.text, "Matrix of claims: 6 claims: 1 broken")
}

func TestIndexWithoutMatrix(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, WriteIndex(dir))
	b, err := os.ReadFile(filepath.Join(dir, PageFile))
	require.NoError(t, err)
	require.NotContains(t, string(b), "matrix.html")
}

func TestMatrixJUnit(t *testing.T) {
	m := sampleMatrix()
	m.Rows[5].Open = checker.HarnessError
	var b bytes.Buffer
	require.NoError(t, m.writeJUnit(&b))
	var suites junitSuites
	require.NoError(t, xml.Unmarshal(b.Bytes(), &suites))
	s := suites.Suites[0]
	require.Equal(t, []int{6, 1, 1, 1}, []int{s.Tests, s.Failures, s.Errors, s.Skipped})
	require.Equal(t, "KF3: broken", s.Cases[2].Name)
	require.Contains(t, s.Cases[2].Failure.Message, "LOST 3 of 41,207")
	require.Contains(t, s.Cases[4].Skipped.Message, "0 of 5 runs count")
	require.Nil(t, s.Cases[1].Failure)
}

func TestMatrixText(t *testing.T) {
	var b bytes.Buffer
	m := sampleMatrix()
	m.Interrupted = "no time"
	require.NoError(t, m.WriteText(&b))
	require.Contains(t, b.String(), "KF2   loss reproduced  5 runs, lost 3 of 41,207     3 lost by truncation\n")
	require.Contains(t, b.String(), "6 claims: 1 broken, 1 differs, 2 not exercised, 1 loss reproduced, 1 kept\nnot whole: no time\n")
}

func TestMatrixExitCode(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Matrix)
		want   int
	}{
		{"broken", func(*Matrix) {}, 1},
		{"open", func(m *Matrix) { m.Rows[2].Outcome = Kept }, 2},
		{"nothing open", func(m *Matrix) { m.Rows[2].Outcome, m.Rows[4].Open = Kept, checker.Valid }, 0},
		{"the harness failed", func(m *Matrix) { m.Rows[2].Outcome, m.Rows[5].Open = Kept, checker.HarnessError }, 255},
		{"broken is never hidden", func(m *Matrix) { m.Rows[5].Open = checker.HarnessError }, 1},
		{"not whole", func(m *Matrix) {
			m.Rows[2].Outcome, m.Rows[4].Open, m.Interrupted = Kept, checker.Valid, "no time"
		}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := sampleMatrix()
			c.change(&m)
			m.Count()
			require.Equal(t, c.want, m.ExitCode())
		})
	}
}

func TestMergeMatrices(t *testing.T) {
	a, b := sampleMatrix(), sampleMatrix()
	a.Rows, b.Rows = a.Rows[3:], b.Rows[:4]
	b.Rows[3].Outcome, b.Interrupted = Broken, "no time" // the same claim as a's first
	a.Below("shard-1")
	m, err := Merge([]Matrix{a, b}, []string{"KF1", "KF2", "KF3", "MQ1", "MQ2", "NT1"})
	require.NoError(t, err)
	var ids []string
	for _, r := range m.Rows {
		ids = append(ids, r.ID)
	}
	require.Equal(t, []string{"KF1", "KF2", "KF3", "MQ1", "MQ2", "NT1"}, ids)
	require.Equal(t, Broken, m.Rows[3].Outcome, "the worse stays")
	require.Equal(t, 2, m.Totals[Broken])
	require.Equal(t, "no time", m.Interrupted)
	require.Equal(t, "shard-1/reference-isr-log-kill/20260301T120000.000Z-7", m.Rows[4].Cases[0].Dir)

	// What cannot be exercised in one environment is where it was in another.
	x, y := sampleMatrix(), sampleMatrix()
	x.Rows, y.Rows = x.Rows[:1], y.Rows[:1]
	x.Rows[0].Outcome, x.Environment = NotExercised, "docker"
	m, err = Merge([]Matrix{x, y}, nil)
	require.NoError(t, err)
	require.Equal(t, Kept, m.Rows[0].Outcome)
	require.Equal(t, "docker and sim", m.Environment)

	m, err = Merge([]Matrix{y}, []string{"KF1", "KF8", "KF9"})
	require.NoError(t, err)
	require.Equal(t, "no part has KF8, KF9", m.Interrupted)
	require.Equal(t, 2, m.ExitCode())

	y.Commit = "def"
	_, err = Merge([]Matrix{x, y}, nil)
	require.ErrorContains(t, err, "different sources: abc, def")
	_, err = Merge(nil, nil)
	require.Error(t, err)
}

func TestReadMatrixErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := ReadMatrix(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	for text, want := range map[string]string{"{": "reading", `{"version":99}`: "version 99 is not 1"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, MatrixFile), []byte(text), 0o644))
		_, err = ReadMatrix(dir)
		require.ErrorContains(t, err, want)
		require.NotEmpty(t, matrixLink(dir))
	}
}
