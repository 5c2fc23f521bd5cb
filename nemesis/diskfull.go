package nemesis

import (
	"context"
	"syscall"

	"github.com/faultline-mq/faultline/checker/history"
)

// diskFull fills the disks of partition logs.
type diskFull struct{ spoiled }

var _ Fault = (*diskFull)(nil)

// Available implements Fault.
func (*diskFull) Available(t Target) error {
	return lacking("disk-full", map[Capability]bool{NeedsRoom: t.FullDisks != nil, NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (d *diskFull) Inject(ctx context.Context, s *Scene) error {
	return d.spoil(ctx, s, s.FullDisks, s.FullDisks.Fill)
}

// Heal implements Fault.
func (d *diskFull) Heal(ctx context.Context, s *Scene) error { return d.mend(ctx, s, s.FullDisks.Free) }

// Prove implements Fault.
func (d *diskFull) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return d.prove(ctx, s, stage, s.FullDisks, syscall.ENOSPC)
}
