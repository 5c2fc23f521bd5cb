package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/faultline-mq/faultline/nemesis"
)

// Shell runs commands of the user's own on this host. Beside the environment of this
// program they have FAULTLINE_RUN_ID, FAULTLINE_STEP (a number), FAULTLINE_STAGE
// (inject, prove or heal), FAULTLINE_TARGETS and FAULTLINE_NODES (names with commas
// between them), and what Variables says.
type Shell struct {
	RunID string
	Nodes []string
	// Variables are further ones (NAME=value) for these targets; nil: none.
	Variables func(targets []string) []string
}

var _ nemesis.Shell = Shell{}

const (
	// outputLimit bounds the output that is kept of a command: its end.
	outputLimit = 2 << 10
	// outputGrace is how long the output of what a command left running is waited for.
	outputGrace = 500 * time.Millisecond
)

// Run implements nemesis.Shell. A command runs in a process group of its own, which is
// killed when its time is over or ctx ends; what a command that ended in time leaves
// running goes on.
func (s Shell) Run(ctx context.Context, c nemesis.ShellCommand) (nemesis.ShellResult, error) {
	within, cancel := context.WithTimeout(ctx, c.Limit)
	defer cancel()
	cmd := exec.CommandContext(within, "sh", "-c", c.Line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputGrace
	cmd.Env = append(os.Environ(),
		"FAULTLINE_RUN_ID="+s.RunID, "FAULTLINE_STEP="+strconv.Itoa(c.Step), "FAULTLINE_STAGE="+c.Stage,
		"FAULTLINE_TARGETS="+strings.Join(c.Targets, ","), "FAULTLINE_NODES="+strings.Join(s.Nodes, ","))
	if s.Variables != nil {
		cmd.Env = append(cmd.Env, s.Variables(c.Targets)...)
	}
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nemesis.ShellResult{}, ctx.Err()
	case err == nil, errors.As(err, &exit), errors.Is(err, exec.ErrWaitDelay), within.Err() != nil:
	default:
		return nemesis.ShellResult{}, fmt.Errorf("the command to %s of step %d: %w", c.Stage, c.Step, err)
	}
	return nemesis.ShellResult{Code: cmd.ProcessState.ExitCode(), Late: within.Err() != nil, Output: out.String()}, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	b   []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - outputLimit; over > 0 {
		t.b, t.cut = append(t.b[:0], t.b[over:]...), true
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.ToValidUTF8(strings.TrimSpace(string(t.b)), "?")
	if t.cut {
		text = "… " + text
	}
	return text
}
