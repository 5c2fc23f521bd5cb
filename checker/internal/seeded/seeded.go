// Package seeded is for tests of tests: it seeds a bug into the source of a package
// and wants its tests to find it.
package seeded

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
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
// expression found matches: to fail for another reason is not to find it. It returns
// an error where they do not. dir is an empty directory for the changed source.
func Find(ctx context.Context, dir string, b Bug, found *regexp.Regexp) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	source := filepath.Join(here, b.File)
	text, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), b.Old); n != 1 {
		return fmt.Errorf("%q stands %d times in %s, not once: mend the list of bugs", b.Old, n, b.File)
	}
	changed, overlay := filepath.Join(dir, b.File), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), b.Old, b.With, 1)), 0o644); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(overlay, config, 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-overlay", overlay, "-count=1", "-failfast", "-run", b.Run, ".")
	cmd.Env = append(os.Environ(), "FAULTLINE_DIFFERENTIAL=100000", Switch+"=")
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return fmt.Errorf("no test told the bug from the rule")
	case !found.Match(out):
		return fmt.Errorf("the tests failed for another reason:\n%s", out)
	}
	return nil
}
