// Package seeded is for tests of tests: it seeds a bug into the source of a package
// and wants its tests to find it.
package seeded

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Switch is the environment variable that asks for seeded bugs: each takes a build.
const Switch = "FAULTLINE_CHECKER_BUGS"

// Bug is one change to the source of the package under test, which makes it wrong.
type Bug struct {
	Name string
	File string // in the directory of the test
	Old  string // stands in File once
	With string // what stands there instead
	Run  string // the tests that must find it, as for go test -run
}

// Find runs the tests of b with the bug. They must fail, and say so in words that the
// expression found matches: to fail for another reason is not to find it.
func Find(t *testing.T, b Bug, found string) {
	t.Helper()
	here, err := os.Getwd()
	require.NoError(t, err)
	source := filepath.Join(here, b.File)
	text, err := os.ReadFile(source)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(text), b.Old), "%q in %s", b.Old, b.File)
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, b.File), filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(changed, []byte(strings.Replace(string(text), b.Old, b.With, 1)), 0o644))
	config, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, config, 0o644))
	cmd := exec.CommandContext(t.Context(), "go", "test", "-overlay", overlay, "-count=1", "-failfast", "-run", b.Run, ".")
	cmd.Env = append(os.Environ(), "FAULTLINE_DIFFERENTIAL=100000", Switch+"=")
	out, err := cmd.CombinedOutput()
	require.Error(t, err, "no history told the bug from the rule")
	require.Regexp(t, found, string(out), "it failed for another reason")
}
