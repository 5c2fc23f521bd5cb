package nemesis

import (
	"context"
	"errors"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// pause freezes processes.
type pause struct {
	held
	hit []string
}

var _ Fault = (*pause)(nil)

// Available implements Fault.
func (*pause) Available(t Target) error {
	return lacking("pause", map[Capability]bool{NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault. It asks each node first: only where a node answered
// before does its silence prove anything.
func (p *pause) Inject(ctx context.Context, s *Scene) error {
	if err := p.take(ctx, s); err != nil {
		return err
	}
	for _, n := range s.Targets {
		if s.ground.clientsCutOff(n) {
			return unproven("was not injected: another fault cuts %s off from the clients, so its silence would prove nothing", n)
		}
		ok, err := s.waitFor(ctx, s.Limits.Respond, func() (bool, error) {
			return s.Roles.Responds(ctx, n, s.Limits.RespondTimeout), ctx.Err()
		})
		if err != nil {
			return err
		}
		if !ok {
			return unproven("was not injected: %s answered no request before it either", n)
		}
	}
	for _, n := range s.Targets {
		p.hit = append(p.hit, n)
		if err := s.Processes.Pause(ctx, n); err != nil {
			return fmt.Errorf("pausing %s: %w", n, err)
		}
	}
	return nil
}

// Heal implements Fault.
func (p *pause) Heal(ctx context.Context, s *Scene) error {
	var errs []error
	for _, n := range p.hit {
		st, err := s.Processes.State(ctx, n)
		if err != nil {
			errs = append(errs, fmt.Errorf("state of %s: %w", n, err))
			continue
		}
		if !st.Paused {
			continue
		}
		if err := s.Processes.Resume(ctx, n); err != nil {
			errs = append(errs, fmt.Errorf("resuming %s: %w", n, err))
		}
	}
	p.drop(s)
	return errors.Join(errs...)
}

// Prove implements Fault. A paused process still completes TCP handshakes, so an
// application request must time out, and the engine must say so.
func (p *pause) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if stage == history.Healed {
		return s.proveAnswers(ctx, p.changed)
	}
	figures := map[string]string{}
	for _, n := range s.Targets {
		st, err := s.Processes.State(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("state of %s: %w", n, err)
		}
		figures[n] = describe(st)
		if reason := p.changed(n, st); reason != "" {
			return Proof{}, &UnprovenError{"did not last: " + reason, figures}
		}
		if !st.Paused {
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: the engine says that %s is %s", n, describe(st)), figures}
		}
		if s.Roles.Responds(ctx, n, s.Limits.RespondTimeout) {
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %s still answers requests", n), figures}
		}
		if err := ctx.Err(); err != nil {
			return Proof{}, err
		}
		figures[n] += fmt.Sprintf(", no answer within %s", s.Limits.RespondTimeout)
	}
	return Proof{Detail: many(len(s.Targets), "process is frozen and answers nothing", "processes are frozen and answer nothing"), Figures: figures}, nil
}

// changed says in which way st is another incarnation than before the pause.
func (p *pause) changed(n string, st ProcessState) string {
	if was := p.before[n]; st.PID != was.PID || st.Started != was.Started {
		return fmt.Sprintf("%s is no longer the process with pid %d: it is %s", n, was.PID, describe(st))
	}
	return ""
}
