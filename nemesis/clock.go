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
	ClockJump   Shape = "jump"
	ClockDrift  Shape = "drift"
	ClockStrobe Shape = "strobe"
	ClockSkew   Shape = "skew"
)

func clockShapes() []ShapeInfo {
	return []ShapeInfo{
		{Name: ClockJump, Description: "sets wall clocks by one second to one day, forward or back", MinNodes: 1},
		{Name: ClockDrift, Description: "lets wall clocks run at half to twice the speed", MinNodes: 1},
		{Name: ClockStrobe, Description: "sets wall clocks wrong and right again by turns, several times a second", MinNodes: 1},
		{Name: ClockSkew, Description: "sets wall clocks by 200 to 500 ms, forward or back, which those who allow for wrong clocks bear", MinNodes: 1},
	}
}

var (
	clockJumps = []time.Duration{time.Second, 10 * time.Second, time.Minute, time.Hour, 24 * time.Hour}
	clockSkews = []time.Duration{200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond}
	clockRates = []float64{0.5, 0.9, 1.1, 2}
	// Periods of a strobe, in which a clock is wrong and then right as long.
	clockPeriods = []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond}
)

const (
	clockTolerance = 50 * time.Millisecond // of a reading
	driftWatch     = 2 * time.Second       // how long a drift is watched for a proof
	strobeWatch    = 6                     // periods that a strobe is watched for
)

// jumps reports whether a shape sets clocks once, and no more.
func jumps(s Shape) bool { return s == ClockJump || s == ClockSkew }

// clock sets nodes' wall clocks. Monotonic time goes on.
type clock struct {
	claimed bool
	hit     []string
	by      time.Duration
	rate    float64
	period  time.Duration
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

// read asks a node for its clock until it tells. One that is dead or paused does not.
func (*clock) read(ctx context.Context, s *Scene, n string) (r reading, err error) {
	var why error
	ok, err := s.waitFor(ctx, s.Limits.Respond, func() (bool, error) {
		r.offset, why = s.Clocks.Offset(ctx, n)
		r.at = s.Clock.Now()
		return why == nil, ctx.Err()
	})
	if err == nil && !ok {
		err = unproven("cannot be proven: %s did not tell its clock within %s: %s", n, s.Limits.Respond, why)
	}
	return r, err
}

// Inject implements Fault.
func (c *clock) Inject(ctx context.Context, s *Scene) error {
	if err := s.ground.claim("clock", s.Step.Name(), s.Targets); err != nil {
		return err
	}
	c.claimed = true
	sizes := clockJumps
	if s.Step.Shape == ClockSkew {
		sizes = clockSkews
	}
	c.by = sizes[s.rng.IntN(len(sizes))]
	if s.rng.IntN(2) == 0 {
		c.by = -c.by
	}
	c.rate = clockRates[s.rng.IntN(len(clockRates))]
	c.period = clockPeriods[s.rng.IntN(len(clockPeriods))]
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
		switch s.Step.Shape {
		case ClockJump, ClockSkew:
			err = s.Clocks.Jump(ctx, n, c.by)
		case ClockStrobe:
			err = s.Clocks.Strobe(ctx, n, c.by, c.period)
		default:
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

// proveStrobe reads each clock often enough to see it wrong and right by turns; after
// healing it must be right each time.
func (c *clock) proveStrobe(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	figures := map[string]string{}
	if stage == history.Healed {
		if err := c.await(ctx, s, stage, figures); err != nil {
			return Proof{}, err
		}
	}
	for _, n := range s.Targets {
		wrong, right, turns, was := 0, 0, 0, false
		for i := range 4 * strobeWatch {
			r, err := c.read(ctx, s, n)
			if err != nil {
				return Proof{}, err
			}
			is := false
			switch {
			case r.offset.Abs() <= clockTolerance:
				right++
			case (r.offset - c.by).Abs() <= clockTolerance:
				wrong++
				is = true
			default:
				figures[n] = fmt.Sprintf("wrong by %s", r.offset)
				return Proof{}, &UnprovenError{fmt.Sprintf("cannot be proven: the clock of %s is wrong by %s, and 0 or %s was expected", n, r.offset, c.by), figures}
			}
			if i > 0 && is != was {
				turns++
			}
			was = is
			if err := s.Clock.Sleep(ctx, c.period/4); err != nil {
				return Proof{}, err
			}
		}
		figures[n] = fmt.Sprintf("wrong by %s in %d of %d readings, %d turns", c.by, wrong, wrong+right, turns)
		switch {
		case stage == history.Healed && wrong > 0:
			return Proof{}, &UnprovenError{fmt.Sprintf("was not healed: the clock of %s is wrong again and again", n), figures}
		case stage != history.Healed && turns < strobeWatch/2:
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: the clock of %s changed %d times in %d periods", n, turns, strobeWatch), figures}
		}
	}
	if stage == history.Healed {
		return Proof{Detail: many(len(s.Targets), "clock is right", "clocks are right"), Figures: figures}, nil
	}
	return Proof{Detail: fmt.Sprintf("%s wrong by %s and right again, every %s", many(len(s.Targets), "clock is", "clocks are"), c.by, c.period), Figures: figures}, nil
}

// await reads each clock until it shows what it should. Right before healing it is
// read once: then it must have done so for long.
func (c *clock) await(ctx context.Context, s *Scene, stage history.FaultStage, figures map[string]string) error {
	limit := s.Limits.Proof
	if stage == history.StillProven {
		limit = 0
	}
	for _, n := range s.Targets {
		var r reading
		var want time.Duration
		ok, err := s.waitFor(ctx, limit, func() (bool, error) {
			var err error
			if r, err = c.read(ctx, s, n); err != nil {
				return false, err
			}
			tolerance := clockTolerance
			switch {
			case stage == history.Healed:
			case jumps(s.Step.Shape):
				want = c.by
			default:
				want = time.Duration((c.rate - 1) * float64(r.at-c.first[n].at))
				tolerance += want.Abs() / 10
			}
			return (r.offset - want).Abs() <= tolerance, nil
		})
		if err != nil {
			return err
		}
		figures[n] = fmt.Sprintf("wrong by %s", r.offset)
		switch {
		case ok:
		case stage == history.Healed:
			return &UnprovenError{fmt.Sprintf("was not healed: the clock of %s is still wrong by %s", n, r.offset), figures}
		default:
			return &UnprovenError{fmt.Sprintf("had no effect: the clock of %s is wrong by %s, and %s was expected", n, r.offset, want), figures}
		}
	}
	return nil
}

// Prove implements Fault. A jump must stand at its whole size; a drift must have
// gone on since it began, so that an interruption shows in its sum; after
// healing clocks are right, and stay so.
func (c *clock) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if s.Step.Shape == ClockStrobe {
		return c.proveStrobe(ctx, s, stage)
	}
	if s.Step.Shape == ClockDrift && stage != history.StillProven {
		if err := s.Clock.Sleep(ctx, driftWatch); err != nil {
			return Proof{}, err
		}
	}
	figures := map[string]string{}
	if err := c.await(ctx, s, stage, figures); err != nil {
		return Proof{}, err
	}
	switch {
	case stage == history.Healed:
		return Proof{Detail: many(len(s.Targets), "clock is right", "clocks are right"), Figures: figures}, nil
	case jumps(s.Step.Shape):
		return Proof{Detail: fmt.Sprintf("%s wrong by %s", many(len(s.Targets), "clock is", "clocks are"), c.by), Figures: figures}, nil
	}
	return Proof{Detail: fmt.Sprintf("%s at %g seconds per second", many(len(s.Targets), "clock runs", "clocks run"), c.rate), Figures: figures}, nil
}
