package nemesis

import (
	"context"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// wipe kills processes and brings them back with an empty data volume: a lost
// disk. The metadata quorum's log is on another volume and stays.
type wipe struct{ downed }

var _ Fault = (*wipe)(nil)

// Available implements Fault.
func (*wipe) Available(t Target) error {
	return lacking("wipe", map[Capability]bool{NeedsWiping: t.LostDisks != nil, NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (w *wipe) Inject(ctx context.Context, s *Scene) error {
	if err := w.take(ctx, s); err != nil {
		return err
	}
	for _, n := range s.Targets {
		stored, err := s.LostDisks.Stored(ctx, n)
		if err != nil {
			return fmt.Errorf("looking for data on %s: %w", n, err)
		}
		if stored == 0 {
			return unproven("was not injected: there was no data on %s that it could lose", n)
		}
	}
	for _, n := range s.Targets {
		w.hit = append(w.hit, n)
		if err := s.Processes.Kill(ctx, n); err != nil {
			return fmt.Errorf("killing %s: %w", n, err)
		}
	}
	for _, n := range s.Targets {
		if err := s.LostDisks.Wipe(ctx, n); err != nil {
			return fmt.Errorf("wiping the disk of %s: %w", n, err)
		}
		s.ground.wiped[n] = true
	}
	return nil
}

// Heal implements Fault.
func (w *wipe) Heal(ctx context.Context, s *Scene) error { return w.start(ctx, s) }

// Prove implements Fault. While a node is down its disk is seen to be empty;
// after it the node itself must say that it found nothing when it started.
func (w *wipe) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if stage != history.Healed {
		proof, err := w.proveDown(ctx, s, stage)
		if err != nil {
			return proof, err
		}
		for _, n := range s.Targets {
			stored, err := s.LostDisks.Stored(ctx, n)
			if err != nil {
				return Proof{}, fmt.Errorf("looking for data on %s: %w", n, err)
			}
			proof.Figures[n] += fmt.Sprintf(", %d bytes of logs", stored)
			if stored > 0 {
				return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %d bytes of logs are on the disk of %s", stored, n), proof.Figures}
			}
		}
		proof.Detail += ", their data disks are empty"
		return proof, nil
	}
	proof, err := w.proveUp(ctx, s)
	if err != nil {
		return proof, err
	}
	for _, n := range s.Targets {
		found, said, err := s.LostDisks.Found(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("what %s found at its start: %w", n, err)
		}
		switch {
		case !said:
			return Proof{}, &UnprovenError{fmt.Sprintf("cannot be proven: %s did not report what it found when it started", n), proof.Figures}
		case found > 0:
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %s found %d records when it started", n, found), proof.Figures}
		}
		proof.Figures[n] += ", found no record when it started"
	}
	proof.Detail += ", they started with empty logs"
	return proof, nil
}
