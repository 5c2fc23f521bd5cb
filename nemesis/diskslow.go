package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// slowFactors are what the seed chooses from: syncs of about a millisecond then
// take some tens to some hundreds.
var slowFactors = []float64{30, 100, 300}

// slowest is what a sync is to take at most: a disk that takes longer hangs,
// which is another fault. Where syncs are slow without any fault the factor is
// lowered for it, but not below leastFactor: then there is nothing to tell apart.
const (
	slowest     = time.Second
	leastFactor = 8
)

// slowProbes is how many syncs are timed for one figure, their median: a
// sync takes much longer now and then without any fault.
const slowProbes = 9

// diskSlow slows the disks of partition logs.
type diskSlow struct {
	claimed bool
	hit     []string
	factor  float64
	before  map[string]time.Duration
	during  map[string]time.Duration // the shortest seen of a slow disk
}

var _ Fault = (*diskSlow)(nil)

// Available implements Fault.
func (*diskSlow) Available(t Target) error {
	return lacking("disk-slow", map[Capability]bool{NeedsSlowDisks: t.SlowDisks != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (d *diskSlow) Inject(ctx context.Context, s *Scene) error {
	if err := s.ground.claim("disk", s.Step.Name(), s.Targets); err != nil {
		return err
	}
	d.claimed = true
	d.factor = slowFactors[s.rng.IntN(len(slowFactors))]
	d.before, d.during = map[string]time.Duration{}, map[string]time.Duration{}
	for _, n := range s.Targets {
		took, err := d.median(ctx, s, n)
		if err != nil {
			return err
		}
		d.before[n] = took
		d.factor = min(d.factor, math.Floor(slowest.Seconds()/took.Seconds()))
	}
	if d.factor < leastFactor {
		return unproven("was not injected: syncs take too long without it: %v", d.before)
	}
	for _, n := range s.Targets {
		d.hit = append(d.hit, n)
		if err := s.SlowDisks.Slow(ctx, n, d.factor); err != nil {
			return fmt.Errorf("slowing the disk of %s: %w", n, err)
		}
	}
	return nil
}

// Heal implements Fault.
func (d *diskSlow) Heal(ctx context.Context, s *Scene) error {
	var errs []error
	for _, n := range d.hit {
		if err := s.SlowDisks.Quicken(ctx, n); err != nil {
			errs = append(errs, fmt.Errorf("quickening the disk of %s: %w", n, err))
		}
	}
	if d.claimed {
		s.ground.release("disk", s.Targets)
		d.claimed = false
	}
	return errors.Join(errs...)
}

// median times syncs.
func (d *diskSlow) median(ctx context.Context, s *Scene, node string) (time.Duration, error) {
	took := make([]time.Duration, slowProbes)
	for i := range took {
		p, err := s.SlowDisks.Probe(ctx, node)
		if err != nil {
			return 0, fmt.Errorf("timing a sync of %s: %w", node, err)
		}
		if p.Err != nil {
			return 0, unproven("cannot be proven: no sync of %s can be timed: %v", node, p.Err)
		}
		took[i] = p.Sync
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// Prove implements Fault: a sync takes at least a quarter of what the factor
// makes of the time before, or leastFactor times that time: whoever slows disks has
// another time before to go by, and both are figures of a busy host. After healing it
// takes less than that, or less than a quarter of what it took: a disk may be slowed
// by more than was asked for.
func (d *diskSlow) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	figures := map[string]string{}
	for _, n := range s.Targets {
		took, err := d.median(ctx, s, n)
		if err != nil {
			return Proof{}, err
		}
		figures[n] = fmt.Sprintf("a sync takes %s (median of %d), %s before; factor %g", took, slowProbes, d.before[n], d.factor)
		least := time.Duration(float64(d.before[n]) * min(d.factor/4, leastFactor))
		if stage == history.Healed {
			if took >= max(least, d.during[n]/4) {
				return Proof{}, &UnprovenError{fmt.Sprintf("was not healed: a sync on %s still takes %s, %s before it", n, took, d.before[n]), figures}
			}
			continue
		}
		if took < least {
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: a sync on %s takes %s, %s before it", n, took, d.before[n]), figures}
		}
		if was, seen := d.during[n]; !seen || took < was {
			d.during[n] = took
		}
	}
	if stage == history.Healed {
		return Proof{Detail: fmt.Sprintf("syncs on %s are as fast as before", many(len(s.Targets), "disk", "disks")), Figures: figures}, nil
	}
	return Proof{Detail: fmt.Sprintf("syncs on %s are slowed by a factor of %g", many(len(s.Targets), "disk", "disks"), d.factor), Figures: figures}, nil
}
