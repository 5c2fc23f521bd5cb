package nemesis

import (
	"cmp"
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
		exited, failure, err := s.stop(ctx, n)
		if err != nil {
			return err
		}
		f.failure = cmp.Or(f.failure, failure)
		if !exited {
			return nil
		}
	}
	return nil
}

// stop asks a node to end. exited is false where it still runs after the grace
// period; failure says why the shutdown was not graceful, "" where it was.
func (s *Scene) stop(ctx context.Context, node string) (exited bool, failure string, err error) {
	code, err := s.Processes.Stop(ctx, node, s.Limits.StopGrace)
	if err != nil {
		if st, stateErr := s.Processes.State(ctx, node); stateErr != nil || !st.Running {
			return false, "", fmt.Errorf("stopping %s: %w", node, err)
		}
		return false, fmt.Sprintf("was not graceful: %s did not exit within %s", node, s.Limits.StopGrace), nil
	}
	if code != 0 {
		failure = fmt.Sprintf("was not graceful: %s exited with code %d", node, code)
	}
	return true, failure, nil
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
