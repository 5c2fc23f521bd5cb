package nemesis

import (
	"context"
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// rollPause is the time between the return of one node and the stop of the
// next, for the system to take the first back in: what an operator waits for.
const rollPause = 2 * time.Second

// rollingRestart stops nodes with SIGTERM and starts them again, one after
// another. The last one comes back when the fault is healed.
type rollingRestart struct {
	held
	stopped string                  // the node that is down, or ""
	again   map[string]ProcessState // the restarted ones
	failure string
	dead    ProcessState // the last one's
}

var _ Fault = (*rollingRestart)(nil)

// Available implements Fault.
func (*rollingRestart) Available(t Target) error {
	return lacking("rolling-restart", map[Capability]bool{NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault. What was not graceful, or did not come back, is no
// error here: the first proof tells of it, and the roll ends there.
func (f *rollingRestart) Inject(ctx context.Context, s *Scene) error {
	if err := f.take(ctx, s); err != nil {
		return err
	}
	f.again = map[string]ProcessState{}
	for i, n := range s.Targets {
		f.stopped = n
		_, failure, err := s.stop(ctx, n)
		if err != nil {
			return err
		}
		if f.failure = failure; failure != "" || i == len(s.Targets)-1 {
			return nil
		}
		if err := f.back(ctx, s, n); err != nil || f.failure != "" {
			return err
		}
	}
	return nil
}

// back starts a node and waits until it answers and every partition has a leader.
func (f *rollingRestart) back(ctx context.Context, s *Scene, n string) error {
	if err := s.Processes.Start(ctx, n); err != nil {
		return fmt.Errorf("starting %s: %w", n, err)
	}
	f.stopped = ""
	ok, err := s.awaitLeaders(ctx, n)
	if err != nil {
		return err
	}
	if !ok {
		f.failure = fmt.Sprintf("did not go on: %s was back, and the system did not answer with a leader of every partition within %s", n, s.Limits.Respond)
		return nil
	}
	if f.again[n], err = s.Processes.State(ctx, n); err != nil {
		return fmt.Errorf("state of %s: %w", n, err)
	}
	return s.Clock.Sleep(ctx, rollPause)
}

// awaitLeaders waits until a node answers and every partition has a leader.
func (s *Scene) awaitLeaders(ctx context.Context, n string) (bool, error) {
	return s.waitFor(ctx, s.Limits.Respond, func() (bool, error) {
		if !s.ground.clientsCutOff(n) && !s.Roles.Responds(ctx, n, s.Limits.RespondTimeout) {
			return false, ctx.Err()
		}
		for _, key := range s.Roles.Keys() {
			if leader, _, err := s.Roles.Leader(ctx, key); err != nil || leader == "" {
				return false, ctx.Err()
			}
		}
		return true, nil
	})
}

// Heal implements Fault.
func (f *rollingRestart) Heal(ctx context.Context, s *Scene) error {
	defer f.drop(s)
	if f.stopped == "" {
		return nil
	}
	return s.revive(ctx, f.stopped)
}

// Prove implements Fault: all but the last node exited with code 0 and run as
// other incarnations, the last one exited with code 0 and is dead.
func (f *rollingRestart) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if stage == history.Healed {
		return f.proveUp(ctx, s)
	}
	if f.failure != "" {
		return Proof{}, &UnprovenError{Reason: f.failure}
	}
	figures := map[string]string{}
	for i, n := range s.Targets {
		st, err := s.Processes.State(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("state of %s: %w", n, err)
		}
		was := f.before[n]
		figures[n] = fmt.Sprintf("before pid %d started %s; exit code 0; now %s", was.PID, was.Started, describe(st))
		last := i == len(s.Targets)-1
		switch {
		case st.Running && st.Started == was.Started:
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %s still runs with pid %d", n, st.PID), figures}
		case !last && (!st.Running || st.Started != f.again[n].Started):
			return Proof{}, &UnprovenError{fmt.Sprintf("did not last: %s came back with pid %d and is now %s", n, f.again[n].PID, describe(st)), figures}
		case last && st.Running:
			return Proof{}, &UnprovenError{fmt.Sprintf("did not last: %s runs again before it was healed", n), figures}
		case last && stage == history.Proven:
			f.dead = st
		case last && (st.Started != f.dead.Started || st.ExitCode != f.dead.ExitCode):
			return Proof{}, &UnprovenError{fmt.Sprintf("did not last: %s was started and died again before it was healed", n), figures}
		}
	}
	return Proof{Detail: fmt.Sprintf("%d of %d nodes were restarted, the last one is down", len(s.Targets)-1, len(s.Targets)), Figures: figures}, nil
}
