package nemesis

import (
	"context"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// stop ends processes with SIGTERM.
type stop struct {
	downed
	failure string // the first shutdown that was not graceful
}

var _ Fault = (*stop)(nil)

// Available implements Fault.
func (*stop) Available(t Target) error {
	return lacking("stop", map[Capability]bool{NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault. A shutdown that is not graceful is no error here: the
// first proof tells of it.
func (f *stop) Inject(ctx context.Context, s *Scene) error {
	if err := f.take(ctx, s); err != nil {
		return err
	}
	for _, n := range s.Targets {
		f.hit = append(f.hit, n)
		code, err := s.Processes.Stop(ctx, n, s.Limits.StopGrace)
		if err != nil {
			st, stateErr := s.Processes.State(ctx, n)
			if stateErr != nil || !st.Running {
				return fmt.Errorf("stopping %s: %w", n, err)
			}
			f.failure = fmt.Sprintf("was not graceful: %s did not exit within %s", n, s.Limits.StopGrace)
			return nil
		}
		if code != 0 && f.failure == "" {
			f.failure = fmt.Sprintf("was not graceful: %s exited with code %d", n, code)
		}
	}
	return nil
}

// Heal implements Fault.
func (f *stop) Heal(ctx context.Context, s *Scene) error { return f.start(ctx, s) }

// Prove implements Fault.
func (f *stop) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	switch {
	case stage == history.Healed:
		return f.proveUp(ctx, s)
	case f.failure != "":
		return Proof{}, &UnprovenError{Reason: f.failure}
	}
	return f.proveDown(ctx, s, stage)
}
