package nemesis

import (
	"context"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// power takes the power from nodes and their disks.
type power struct{ downed }

var (
	_ Fault    = (*power)(nil)
	_ Preparer = (*power)(nil)
)

func (*power) synced(s Step) string   { return fmt.Sprintf("canary-%d-synced", s.ID) }
func (*power) unsynced(s Step) string { return fmt.Sprintf("canary-%d-unsynced", s.ID) }

// Available implements Fault.
func (*power) Available(t Target) error {
	return lacking("power", map[Capability]bool{
		NeedsProcesses: t.Processes != nil,
		NeedsDisks:     t.Disks != nil,
		NeedsRoles:     t.Roles != nil,
	})
}

// Prepare writes the synced canary on every node: before any client writes, as
// a sync of ours in mid-run could make the neighbours' data durable.
func (p *power) Prepare(ctx context.Context, s Step, t Target) error {
	for _, n := range t.Nodes {
		if err := t.Disks.WriteCanary(ctx, n, p.synced(s), true); err != nil {
			return fmt.Errorf("writing the synced canary of %s: %w", n, err)
		}
	}
	return nil
}

// Inject implements Fault.
func (p *power) Inject(ctx context.Context, s *Scene) error {
	if err := p.take(ctx, s); err != nil {
		return err
	}
	for _, n := range s.Targets {
		if err := s.Disks.WriteCanary(ctx, n, p.unsynced(s.Step), false); err != nil {
			return fmt.Errorf("writing the unsynced canary of %s: %w", n, err)
		}
	}
	p.hit = s.Targets
	if err := s.Disks.PowerLoss(ctx, s.Targets); err != nil {
		return fmt.Errorf("cutting the power: %w", err)
	}
	return nil
}

// Heal implements Fault.
func (p *power) Heal(ctx context.Context, s *Scene) error { return p.start(ctx, s) }

// Prove implements Fault. While the nodes are down the engine proves that they
// are; what their disks lost can be seen only when they are up again, so the
// proof after healing says both.
func (p *power) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if stage != history.Healed {
		return p.proveDown(ctx, s, stage)
	}
	proof, err := p.proveUp(ctx, s)
	if err != nil {
		return proof, err
	}
	for _, n := range s.Targets {
		kept, err := s.Disks.HasCanary(ctx, n, p.synced(s.Step))
		if err != nil {
			return Proof{}, fmt.Errorf("looking for the synced canary of %s: %w", n, err)
		}
		switch {
		case s.ground.wiped[n]:
			proof.Figures[n] += ", synced file not judged: a wipe exchanged the disk that it was on"
		case !kept:
			return Proof{}, &UnprovenError{
				fmt.Sprintf("took more than it may: the file that was synced on %s before the clients started is gone, so nothing lost there accuses the system", n),
				proof.Figures,
			}
		}
		if !s.ground.wiped[n] {
			proof.Figures[n] += ", synced file kept"
		}
		left, err := s.Disks.HasCanary(ctx, n, p.unsynced(s.Step))
		if err != nil {
			return Proof{}, fmt.Errorf("looking for the unsynced canary of %s: %w", n, err)
		}
		if left {
			return Proof{}, &UnprovenError{
				fmt.Sprintf("had no effect: the file that was written on %s right before the cut and never synced is still there", n),
				proof.Figures,
			}
		}
		proof.Figures[n] += ", unsynced file gone"
	}
	proof.Detail += ", synced files are kept and unsynced ones gone"
	return proof, nil
}
