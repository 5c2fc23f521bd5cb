package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// reset answers everything on connections from and to its targets with a TCP
// reset, dials included, while datagrams pass.
type reset struct {
	held
	hit []string
}

var _ Fault = (*reset)(nil)

func (*reset) set(s *Scene, node string) string { return s.ruleSet() + "-" + node }

// Available implements Fault.
func (*reset) Available(t Target) error {
	return lacking("reset", map[Capability]bool{NeedsResets: t.Resetter != nil, NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (r *reset) Inject(ctx context.Context, s *Scene) error {
	if err := r.take(ctx, s); err != nil {
		return err
	}
	for _, n := range s.Targets {
		if err := s.Resetter.Reject(ctx, r.set(s, n), n); err != nil {
			return fmt.Errorf("resetting the connections of %s: %w", n, err)
		}
		r.hit = append(r.hit, n)
	}
	return nil
}

// Heal implements Fault.
func (r *reset) Heal(ctx context.Context, s *Scene) error {
	var errs []error
	var left []string
	for _, n := range r.hit {
		if err := s.Resetter.Accept(ctx, r.set(s, n)); err != nil {
			left = append(left, n)
			errs = append(errs, fmt.Errorf("letting %s have connections again: %w", n, err))
		}
	}
	if r.hit = left; len(left) == 0 {
		r.drop(s)
	}
	return errors.Join(errs...)
}

// Prove implements Fault. A dead process refuses connections too: so the same
// process must run all the time, and connections of the system must have met the
// resets.
func (r *reset) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	figures := map[string]string{}
	want := "reset"
	if stage == history.Healed {
		want = "accepted"
	}
	for _, n := range s.Targets {
		st, err := s.Processes.State(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("state of %s: %w", n, err)
		}
		figures[n] = describe(st)
		if was := r.before[n]; !st.Running || st.Started != was.Started {
			return Proof{}, &UnprovenError{fmt.Sprintf("cannot be proven: %s is no longer the process with pid %d: it is %s", n, was.PID, describe(st)), figures}
		}
		for _, from := range append(slices.Clone(s.Nodes), Clients) {
			other := stage == history.Healed && s.ground.owners["process of "+from] == s.Step.Name() // its resets are still there
			if from == n || other || s.ground.isCut(Pair{from, n}) || s.ground.isCut(Pair{n, from}) {
				continue
			}
			// Packets of a dial may be lost to another fault: one answer of several is enough.
			var got string
			ok, err := s.waitFor(ctx, s.Limits.Proof, func() (bool, error) {
				var err error
				if got, err = s.Resetter.Dial(ctx, from, n); err != nil {
					return false, fmt.Errorf("dialling %s from %s: %w", n, from, err)
				}
				return got != "timeout", nil
			})
			if err != nil {
				return Proof{}, err
			}
			figures[n] += fmt.Sprintf("; a dial from %s was answered: %s", from, got)
			if !ok || got != want {
				had := "had no effect"
				if stage == history.Healed {
					had = "was not healed"
				}
				return Proof{}, &UnprovenError{fmt.Sprintf("%s: a dial from %s to %s was answered: %s", had, from, n, got), figures}
			}
		}
		if stage == history.Healed {
			continue
		}
		resets, err := s.Resetter.Resets(ctx, r.set(s, n))
		if err != nil {
			return Proof{}, fmt.Errorf("counting resets of %s: %w", n, err)
		}
		figures[n] += fmt.Sprintf("; %d connections and dials of the system were reset", resets)
		if resets == 0 {
			return Proof{}, &UnprovenError{fmt.Sprintf("met no connection of the system itself on %s", n), figures}
		}
	}
	if stage != history.Healed {
		return Proof{Detail: fmt.Sprintf("connections of %d nodes are reset, their processes run", len(s.Targets)), Figures: figures}, nil
	}
	proof, err := s.proveAnswers(ctx, func(string, ProcessState) string { return "" })
	proof.Detail += ", and accept connections"
	return proof, err
}
