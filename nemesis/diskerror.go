package nemesis

import (
	"context"
	"syscall"

	"github.com/faultline-mq/faultline/checker/history"
)

// diskError lets writes on the disks of partition logs fail.
type diskError struct{ spoiled }

var _ Fault = (*diskError)(nil)

// Available implements Fault.
func (*diskError) Available(t Target) error {
	return lacking("disk-error", map[Capability]bool{NeedsDiskErrors: t.BadDisks != nil, NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (d *diskError) Inject(ctx context.Context, s *Scene) error {
	return d.spoil(ctx, s, s.BadDisks, s.BadDisks.Break)
}

// Heal implements Fault.
func (d *diskError) Heal(ctx context.Context, s *Scene) error { return d.mend(ctx, s, s.BadDisks.Mend) }

// Prove implements Fault.
func (d *diskError) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return d.prove(ctx, s, stage, s.BadDisks, syscall.EIO)
}
