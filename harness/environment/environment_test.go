package environment

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/nemesis"
)

func TestRealtime(t *testing.T) {
	r := NewRealtime()
	begin := r.Now()
	require.NoError(t, r.Sleep(t.Context(), time.Millisecond))
	require.GreaterOrEqual(t, r.Now()-begin, time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	g := r.Group()
	var err error
	g.Go("sleeper", func() { err = r.Sleep(ctx, time.Hour) })
	cancel()
	g.Wait()
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, r.Sleep(ctx, 0), context.Canceled)
}

func TestShell(t *testing.T) {
	s := Shell{RunID: "r1", Nodes: []string{"n1", "n2"}, Variables: func(targets []string) []string { return []string{"AT=" + strings.Join(targets, "+")} }}
	run := func(line string, limit time.Duration) nemesis.ShellResult {
		r, err := s.Run(t.Context(), nemesis.ShellCommand{Line: line, Step: 3, Stage: "inject", Targets: []string{"n2"}, Limit: limit})
		require.NoError(t, err)
		return r
	}
	require.Equal(t, nemesis.ShellResult{Output: "r1 3 inject n2 n1,n2 n2"},
		run("echo $FAULTLINE_RUN_ID $FAULTLINE_STEP $FAULTLINE_STAGE $FAULTLINE_TARGETS $FAULTLINE_NODES $AT", time.Minute))
	require.Equal(t, nemesis.ShellResult{Code: 3, Output: "no"}, run("echo no >&2; exit 3", time.Minute))
	require.Equal(t, 127, run("no-such-command-here", time.Minute).Code)
	require.Equal(t, -1, run("kill -KILL $$", time.Minute).Code)

	long := run("head -c 100000 /dev/zero | tr '\\0' x; echo end", time.Minute)
	require.Less(t, len(long.Output), outputLimit+10)
	require.True(t, strings.HasPrefix(long.Output, "… x") && strings.HasSuffix(long.Output, "xend"), "its end is kept")
}

// TestShellEndsWhatItStarted: a command whose time is over goes with all its children,
// and so does one that is interrupted.
func TestShellEndsWhatItStarted(t *testing.T) {
	for name, limit := range map[string]time.Duration{"its time is over": 300 * time.Millisecond, "interrupted": time.Hour} {
		t.Run(name, func(t *testing.T) {
			pid := filepath.Join(t.TempDir(), "pid")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if limit == time.Hour {
				go func() {
					for {
						if b, err := os.ReadFile(pid); err == nil && len(b) > 0 {
							cancel()
							return
						}
						time.Sleep(5 * time.Millisecond)
					}
				}()
			}
			r, err := Shell{}.Run(ctx, nemesis.ShellCommand{Line: "sh -c 'echo $$ >" + pid + "; exec sleep 1000' & wait", Limit: limit})
			if limit == time.Hour {
				require.ErrorIs(t, err, context.Canceled)
			} else {
				require.NoError(t, err)
				require.True(t, r.Late)
				require.NotZero(t, r.Code)
			}
			b, err := os.ReadFile(pid)
			if os.IsNotExist(err) {
				return // it was ended before its child began
			}
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat")
				return err != nil || strings.Contains(string(state), ") Z ")
			}, time.Minute, 10*time.Millisecond)
		})
	}
}

// TestShellLeavesBackground: what a command leaves running on purpose goes on.
func TestShellLeavesBackground(t *testing.T) {
	done := filepath.Join(t.TempDir(), "done")
	begin := filepath.Join(t.TempDir(), "go")
	r, err := Shell{}.Run(t.Context(), nemesis.ShellCommand{Line: "(while [ ! -e " + begin + " ]; do sleep 0.05; done; touch " + done + ") & echo left", Limit: time.Minute})
	require.NoError(t, err)
	require.Equal(t, nemesis.ShellResult{Output: "left"}, r)
	require.NoError(t, os.WriteFile(begin, nil, 0o600))
	require.Eventually(t, func() bool { _, err := os.Stat(done); return err == nil }, time.Minute, 10*time.Millisecond)
}
