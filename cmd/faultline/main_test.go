package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/harness/report"
)

// asCommand makes this test binary the command itself.
const asCommand = "FAULTLINE_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// plainly leaves a test to the run without the race detector (`make test` has both):
// one of whole simulations, which have one goroutine at a time, or of many commands one
// after another. Each command is left one test at least.
func plainly(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("runs without the race detector")
	}
}

// noDocker is where no engine answers.
const noDocker = "DOCKER_HOST=tcp://127.0.0.1:1"

// faultline is the command line as a process of its own. Without a setting of
// its own it finds no Docker: only tests that are about Docker use it.
func faultline(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(append(os.Environ(), asCommand+"=1", "NO_COLOR=1", noDocker, "GORACE=atexit_sleep_ms=0"), env...)
	return cmd
}

// answer is what a command left.
type answer struct {
	code           int
	stdout, stderr string
}

func ask(t *testing.T, env []string, args ...string) answer {
	t.Helper()
	return await(t, faultline(t, env, args...))
}

func await(t *testing.T, cmd *exec.Cmd) answer {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return answered(t, cmd.Run(), &stdout, &stderr)
}

func answered(t *testing.T, err error, stdout, stderr fmt.Stringer) answer {
	t.Helper()
	a := answer{stdout: stdout.String(), stderr: stderr.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		a.code = exit.ExitCode()
	} else {
		require.NoError(t, err)
	}
	require.NotContains(t, a.stderr, "goroutine ", "it panicked")
	return a
}

// requireRefused wants one line on standard error that holds every text, and
// nothing of a verdict.
func (a answer) requireRefused(t *testing.T, code int, texts ...string) {
	t.Helper()
	require.Equal(t, code, a.code, a.stderr+a.stdout)
	require.Regexp(t, `\Afaultline: [^\n]+\n\z`, a.stderr, "one line")
	for _, text := range texts {
		require.Contains(t, a.stderr, text)
	}
	for _, word := range []string{"VALID", "INVALID", "UNKNOWN"} {
		require.NotContains(t, a.stdout, word+"  ")
	}
}

// summary reads the summary that a run printed with --json.
func (a answer) summary(t *testing.T) report.Summary {
	t.Helper()
	var s report.Summary
	require.NoError(t, json.Unmarshal([]byte(a.stdout), &s), a.stdout+a.stderr)
	require.Equal(t, s.ExitCode, a.code)
	return s
}

// under returns every file below dir, by its path from there.
func under(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	}))
	return files
}
