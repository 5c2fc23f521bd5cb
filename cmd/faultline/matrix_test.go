package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/harness"
	"github.com/faultline-mq/faultline/harness/report"
	system "github.com/faultline-mq/faultline/harness/system/reference"
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

// TestClaimsForDocker: where nobody says which, a matrix in Docker has some of each scheme.
func TestClaimsForDocker(t *testing.T) {
	t.Parallel()
	all, err := harness.Claims()
	require.NoError(t, err)
	ids := func(f matrixFlags) (ids []string) {
		f.systems = []string{harness.DefaultPlan().System}
		claims, err := f.selected(all)
		require.NoError(t, err)
		for _, c := range claims {
			ids = append(ids, c.ID)
		}
		return ids
	}
	some := ids(matrixFlags{env: "docker"})
	require.Subset(t, some, strings.Fields("MQ1 MQ2 MQ6 MQ7 MQ9 CC1 CC3 KF1 KF2 KF3 KF9 SS1 SS2 SS3 SS4 MS1 MS6 MM3 FW2 FW3 CB1 PB3 PB5 PB6 QQ1 QQ2 QQ3"))
	of := map[string]int{}
	reference := harness.OfSystems(all, []string{(system.System{}).Name()})
	for _, c := range harness.ForDocker(reference) {
		for _, s := range c.Schemes() {
			of[s]++
		}
	}
	for _, s := range (system.System{}).Schemes() {
		require.GreaterOrEqual(t, of[s.Name], 2, "scheme %s", s.Name)
	}
	require.Len(t, ids(matrixFlags{env: "docker", all: true}), len(reference))
	require.Len(t, ids(matrixFlags{env: "sim"}), len(reference))
	require.Equal(t, []string{"KF16"}, ids(matrixFlags{env: "docker", claims: []string{"KF16"}}))
	require.Contains(t, ids(matrixFlags{env: "docker", schemes: []string{"quorum"}}), "QQ4")
}

func TestMatrixRefusals(t *testing.T) {
	plainly(t)
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
