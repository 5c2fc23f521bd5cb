package nemesis

import (
	"context"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// kill ends processes with SIGKILL.
type kill struct{ downed }

var _ Fault = (*kill)(nil)

// Available implements Fault.
func (*kill) Available(t Target) error {
	return lacking("kill", map[Capability]bool{NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (k *kill) Inject(ctx context.Context, s *Scene) error {
	if err := k.take(ctx, s); err != nil {
		return err
	}
	for _, n := range s.Targets {
		k.hit = append(k.hit, n)
		if err := s.Processes.Kill(ctx, n); err != nil {
			return fmt.Errorf("killing %s: %w", n, err)
		}
	}
	return nil
}

// Heal implements Fault.
func (k *kill) Heal(ctx context.Context, s *Scene) error { return k.start(ctx, s) }

// Prove implements Fault. A published port would prove nothing, as its proxy
// accepts for the dead: the engine's process id and start time decide.
func (k *kill) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if stage == history.Healed {
		return k.proveUp(ctx, s)
	}
	return k.proveDown(ctx, s, stage)
}
