package nemesis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// The shapes of clock.
const (
	ClockJump  Shape = "jump"
	ClockDrift Shape = "drift"
)

func clockShapes() []ShapeInfo {
	return []ShapeInfo{
		{Name: ClockJump, Description: "sets wall clocks by one second to one day, forward or back", MinNodes: 1},
		{Name: ClockDrift, Description: "lets wall clocks run at half to twice the speed", MinNodes: 1},
	}
}

var (
	clockJumps = []time.Duration{time.Second, 10 * time.Second, time.Minute, time.Hour, 24 * time.Hour}
	clockRates = []float64{0.5, 0.9, 1.1, 2}
)

const (
	clockTolerance = 50 * time.Millisecond // of a reading
	driftWatch     = 2 * time.Second       // how long a drift is watched for a proof
)

// clock sets nodes' wall clocks. Monotonic time goes on.
type clock struct {
	claimed bool
	hit     []string
	by      time.Duration
	rate    float64
	first   map[string]reading // before a jump, right after the begin of a drift
}

// reading is a node's clock at a moment.
type reading struct {
	at     time.Duration // true time
	offset time.Duration
}

var _ Fault = (*clock)(nil)

// Available implements Fault.
func (*clock) Available(t Target) error {
	return lacking("clock", map[Capability]bool{NeedsClocks: t.Clocks != nil, NeedsRoles: t.Roles != nil})
}

func (*clock) read(ctx context.Context, s *Scene, n string) (reading, error) {
	offset, err := s.Clocks.Offset(ctx, n)
	if err != nil {
		return reading{}, fmt.Errorf("reading the clock of %s: %w", n, err)
	}
	return reading{s.Clock.Now(), offset}, nil
}

// Inject implements Fault.
func (c *clock) Inject(ctx context.Context, s *Scene) error {
	if err := s.ground.claim("clock", s.Step.Name(), s.Targets); err != nil {
		return err
	}
	c.claimed = true
	c.by = clockJumps[s.rng.IntN(len(clockJumps))]
	if s.rng.IntN(2) == 0 {
		c.by = -c.by
	}
	c.rate = clockRates[s.rng.IntN(len(clockRates))]
	c.first = map[string]reading{}
	for _, n := range s.Targets {
		r, err := c.read(ctx, s, n)
		if err != nil {
			return err
		}
		if r.offset.Abs() > clockTolerance {
			return unproven("was not injected: the clock of %s was wrong by %s before it", n, r.offset)
		}
		c.hit = append(c.hit, n)
		if s.Step.Shape == ClockJump {
			err = s.Clocks.Jump(ctx, n, c.by)
		} else {
			err = s.Clocks.Drift(ctx, n, c.rate)
		}
		if err != nil {
			return fmt.Errorf("setting the clock of %s: %w", n, err)
		}
		c.first[n] = r
	}
	return nil
}

// Heal implements Fault.
func (c *clock) Heal(ctx context.Context, s *Scene) error {
	var errs []error
	for _, n := range c.hit {
		if err := s.Clocks.Restore(ctx, n); err != nil {
			errs = append(errs, fmt.Errorf("restoring the clock of %s: %w", n, err))
		}
	}
	if c.claimed {
		s.ground.release("clock", s.Targets)
		c.claimed = false
	}
	return errors.Join(errs...)
}

// Prove implements Fault. A jump must stand at its whole size; a drift must have
// gone on since it began, so that an interruption shows in its sum; after
// healing clocks are right, and stay so.
func (c *clock) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if s.Step.Shape == ClockDrift && stage != history.StillProven {
		if err := s.Clock.Sleep(ctx, driftWatch); err != nil {
			return Proof{}, err
		}
	}
	figures := map[string]string{}
	for _, n := range s.Targets {
		r, err := c.read(ctx, s, n)
		if err != nil {
			return Proof{}, err
		}
		figures[n] = fmt.Sprintf("wrong by %s", r.offset)
		want, tolerance := time.Duration(0), clockTolerance
		switch {
		case stage == history.Healed:
		case s.Step.Shape == ClockJump:
			want = c.by
		default:
			want = time.Duration((c.rate - 1) * float64(r.at-c.first[n].at))
			tolerance += want.Abs() / 10
		}
		if (r.offset - want).Abs() <= tolerance {
			continue
		}
		if stage == history.Healed {
			return Proof{}, &UnprovenError{fmt.Sprintf("was not healed: the clock of %s is still wrong by %s", n, r.offset), figures}
		}
		return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: the clock of %s is wrong by %s, and %s was expected", n, r.offset, want), figures}
	}
	switch {
	case stage == history.Healed:
		return Proof{Detail: fmt.Sprintf("%d clocks are right", len(s.Targets)), Figures: figures}, nil
	case s.Step.Shape == ClockJump:
		return Proof{Detail: fmt.Sprintf("%d clocks are wrong by %s", len(s.Targets), c.by), Figures: figures}, nil
	}
	return Proof{Detail: fmt.Sprintf("%d clocks run at %g seconds per second", len(s.Targets), c.rate), Figures: figures}, nil
}
