package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/harness/report"
)

// TestMatrixCommand: claims are run, written down and put together again.
func TestMatrixCommand(t *testing.T) {
	plainly(t)
	t.Parallel()
	out := t.TempDir()
	var parts []string
	for _, shard := range []string{"1/2", "2/2"} {
		dir := filepath.Join(out, shard[:1])
		a := ask(t, nil, "matrix", "--claims", "KF9,SN5", "--seeds", "1", "--shard", shard, "--out", dir)
		require.Zero(t, a.code, a.stdout+a.stderr)
		parts = append(parts, dir)
	}
	one, err := report.ReadMatrix(parts[0])
	require.NoError(t, err)
	require.Len(t, one.Rows, 1)
	require.Equal(t, report.LossReproduced, one.Rows[0].Outcome, one.Rows[0].Why)
	require.Equal(t, "faultline matrix --claims KF9,SN5 --shard 1/2 --seeds 1", one.Command)

	whole := filepath.Join(out, "whole")
	a := ask(t, nil, "matrix", "--claims", "KF9,SN5", "--merge", parts[1]+","+filepath.Join(parts[0], report.MatrixFile), "--out", whole)
	require.Zero(t, a.code, a.stdout+a.stderr)
	require.Contains(t, a.stdout, "2 claims: 1 not exercised, 1 loss reproduced")
	m, err := report.ReadMatrix(whole)
	require.NoError(t, err)
	require.Equal(t, "KF9", m.Rows[0].ID, "in the order that was asked for")
	require.FileExists(t, filepath.Join(whole, m.Rows[0].Cases[0].Dir, report.PageFile), "the run that shows it best")
	require.FileExists(t, filepath.Join(whole, report.MatrixPage))
	require.FileExists(t, filepath.Join(whole, report.MatrixJUnit))
	b, err := os.ReadFile(filepath.Join(whole, report.PageFile))
	require.NoError(t, err)
	require.Contains(t, string(b), `<a href="./matrix.html">`)
}

// TestMergeOfTooLittle: a part that is missing is not passed over.
func TestMergeOfTooLittle(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	require.Zero(t, ask(t, nil, "matrix", "--claims", "SN5", "--out", out).code)
	a := ask(t, nil, "matrix", "--merge", out, "--out", t.TempDir(), "--quiet")
	require.Equal(t, 2, a.code, a.stdout+a.stderr)
	require.Contains(t, a.stdout, "not whole: no part has SN1, SN2")
}

// TestMatrixIsCutShort: the matrix says so, and decides nothing.
func TestMatrixIsCutShort(t *testing.T) {
	t.Parallel()
	a := ask(t, nil, "matrix", "--claims", "KF1", "--budget", "1ms", "--out", t.TempDir(), "--quiet")
	require.Equal(t, 2, a.code, a.stdout+a.stderr)
	require.Contains(t, a.stdout, "not whole: the time that --budget gave was over")
}

func TestMatrixRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"claim", []string{"--claims", "KF99"}, `unknown claim "KF99"`},
		{"scheme", []string{"--scheme", "bogus"}, "no claim is about scheme bogus"},
		{"environment", []string{"--env", "moon"}, `unknown environment "moon"`},
		{"shard", []string{"--shard", "3"}, "i/n is wanted"},
		{"shard with more", []string{"--shard", "1/2x"}, "i/n is wanted"},
		{"shard beyond", []string{"--shard", "3/2"}, "shard 3/2"},
		{"seeds", []string{"--seeds", "-1"}, "--seeds"},
		{"no parts", []string{"--merge", ""}, "no part of a matrix to merge"},
		{"parts", []string{"--merge", "none-such"}, "none-such"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ask(t, nil, append([]string{"matrix", "--out", t.TempDir()}, c.args...)...)
			require.Equal(t, exitBadArguments, a.code, a.stdout+a.stderr)
			require.Contains(t, a.stderr, c.want)
		})
	}
}

func TestListClaims(t *testing.T) {
	t.Parallel()
	a := ask(t, nil, "list", "claims")
	require.Zero(t, a.code, a.stderr)
	require.Contains(t, a.stdout, "MQ8b ")
	require.Contains(t, a.stdout, "not exercised: needs queue operations")
}
