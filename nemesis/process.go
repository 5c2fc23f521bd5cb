package nemesis

import (
	"context"
	"errors"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// held is what faults on processes share: the state before, and the claim on
// the processes, so that two faults never fight over one.
type held struct {
	before  map[string]ProcessState
	claimed bool
}

// take claims the targets' processes and notes their state. A process that does
// not run cannot be hit.
func (h *held) take(ctx context.Context, s *Scene) error {
	if err := s.ground.claim("process", s.Step.Name(), s.Targets); err != nil {
		return err
	}
	h.claimed = true
	h.before = map[string]ProcessState{}
	for _, n := range s.Targets {
		st, err := s.Processes.State(ctx, n)
		if err != nil {
			return fmt.Errorf("state of %s before: %w", n, err)
		}
		if !st.Running || st.Paused {
			return unproven("was not injected: %s was %s before it", n, describe(st))
		}
		h.before[n] = st
	}
	return nil
}

// undo takes back what a fault did to nodes whose processes need not outlive
// it, and starts those that died of it. It tries every node. what tells what one does.
func (h *held) undo(ctx context.Context, s *Scene, hit []string, what string, one func(ctx context.Context, node string) error) error {
	var errs []error
	for _, n := range hit {
		if err := one(ctx, n); err != nil {
			errs = append(errs, fmt.Errorf("%s of %s: %w", what, n, err))
			continue
		}
		errs = append(errs, s.revive(ctx, n))
	}
	h.drop(s)
	return errors.Join(errs...)
}

// revive starts a node's process unless it runs.
func (s *Scene) revive(ctx context.Context, node string) error {
	st, err := s.Processes.State(ctx, node)
	if err == nil && !st.Running {
		err = s.Processes.Start(ctx, node)
	}
	if err != nil {
		return fmt.Errorf("starting %s: %w", node, err)
	}
	return nil
}

func (h *held) drop(s *Scene) {
	if h.claimed {
		s.ground.release("process", s.Targets)
		h.claimed = false
	}
}

// downed is a fault that ends processes and starts them again.
type downed struct {
	held
	hit  []string                // nodes whose process was to end, also where that failed
	dead map[string]ProcessState // the state at the first proof
}

// proveDown proves that every target is dead, and is the same dead incarnation
// at both proofs.
func (d *downed) proveDown(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if stage == history.Proven {
		d.dead = map[string]ProcessState{}
	}
	figures := map[string]string{}
	for _, n := range s.Targets {
		st, err := s.Processes.State(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("state of %s: %w", n, err)
		}
		figures[n] = fmt.Sprintf("before pid %d started %s; now %s", d.before[n].PID, d.before[n].Started, describe(st))
		if st.Running {
			if st.PID == d.before[n].PID && st.Started == d.before[n].Started {
				return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %s still runs with pid %d", n, st.PID), figures}
			}
			return Proof{}, &UnprovenError{fmt.Sprintf("did not last: %s runs again with pid %d before it was healed", n, st.PID), figures}
		}
		if stage == history.Proven {
			d.dead[n] = st
		} else if was := d.dead[n]; st.Started != was.Started || st.ExitCode != was.ExitCode {
			return Proof{}, &UnprovenError{fmt.Sprintf("did not last: %s was started and died again before it was healed", n), figures}
		}
	}
	return Proof{Detail: many(len(s.Targets), "process is dead", "processes are dead"), Figures: figures}, nil
}

// start starts again what the fault ended; a process that already runs is left
// alone. It tries every node.
func (d *downed) start(ctx context.Context, s *Scene) error {
	var errs []error
	for _, n := range d.hit {
		errs = append(errs, s.revive(ctx, n))
	}
	d.drop(s)
	return errors.Join(errs...)
}

// proveUp proves that every target runs as another incarnation and answers.
func (h *held) proveUp(ctx context.Context, s *Scene) (Proof, error) {
	return s.proveAnswers(ctx, func(n string, st ProcessState) string {
		if st.Running && st.Started == h.before[n].Started {
			return fmt.Sprintf("%s still runs as the incarnation started %s", n, st.Started)
		}
		return ""
	})
}

// proveAnswers waits until every target runs, is not paused, has nothing that
// wrong complains of and answers a request. A node that another fault cuts off
// from the clients is not asked.
func (s *Scene) proveAnswers(ctx context.Context, wrong func(node string, st ProcessState) string) (Proof, error) {
	figures := map[string]string{}
	var waiting string
	ok, err := s.waitFor(ctx, s.Limits.Respond, func() (bool, error) {
		for _, n := range s.Targets {
			st, err := s.Processes.State(ctx, n)
			if err != nil {
				return false, fmt.Errorf("state of %s: %w", n, err)
			}
			figures[n] = describe(st)
			if waiting = wrong(n, st); waiting != "" {
				return false, nil
			}
			if !st.Running || st.Paused {
				waiting = fmt.Sprintf("%s is %s", n, describe(st))
				return false, nil
			}
			if s.ground.clientsCutOff(n) {
				figures[n] += ", not asked: another fault cuts it off from the clients"
				continue
			}
			// Another fault may make the way there slow: whoever is healed is given time.
			if !s.Roles.Responds(ctx, n, 5*s.Limits.RespondTimeout) {
				waiting = fmt.Sprintf("%s runs and answers no request", n)
				return false, ctx.Err()
			}
			figures[n] += ", answers"
		}
		return true, nil
	})
	if err != nil {
		return Proof{}, err
	}
	if !ok {
		return Proof{}, &UnprovenError{fmt.Sprintf("was not healed within %s: %s", s.Limits.Respond, waiting), figures}
	}
	return Proof{Detail: many(len(s.Targets), "process runs", "processes run"), Figures: figures}, nil
}

// many counts things, of which there may be one.
func many(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

func describe(st ProcessState) string {
	switch {
	case st.Paused:
		return fmt.Sprintf("paused with pid %d started %s", st.PID, st.Started)
	case st.Running:
		return fmt.Sprintf("running with pid %d started %s", st.PID, st.Started)
	}
	if st.OutOfMemory {
		return fmt.Sprintf("dead with exit code %d, killed for want of memory", st.ExitCode)
	}
	return fmt.Sprintf("dead with exit code %d", st.ExitCode)
}
