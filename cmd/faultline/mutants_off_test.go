//go:build !mutants

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A binary without the build tag holds no mutant, and says how to get them.
func TestMutantsAbsent(t *testing.T) {
	ask(t, nil, "mutants").requireRefused(t, exitBadArguments, "no mutants", "-tags mutants", "make mutants")
	ask(t, nil, "run", "--env", "sim", "--set", "mutant=ack-before-fsync", "--out", t.TempDir()).requireRefused(t, exitBadArguments, "no mutants", "-tags mutants")
	require.NotContains(t, ask(t, nil, "list", "options").stdout, "mutant")

	self, err := os.Executable()
	require.NoError(t, err)
	code, err := os.ReadFile(self)
	require.NoError(t, err)
	// Put together here, or this test would hold what it looks for.
	in := func(words ...string) bool { return bytes.Contains(code, []byte(strings.Join(words, "-"))) }
	require.True(t, in("min.insync.replicas"), "the broker's options are in the binary")
	for _, m := range [][]string{{"truncate", "to", "high", "watermark"}, {"new", "leader", "commits", "all"}} {
		require.False(t, in(m...), "%v", m)
	}
}
