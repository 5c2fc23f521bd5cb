package nemesis

import (
	"context"
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// cpuShares are what the seed chooses from: what a process gets of the time that
// it took before.
var cpuShares = []float64{0.5, 0.2, 0.1}

const (
	// cpuSample is the time over which it is measured what a process takes.
	cpuSample = time.Second
	// cpuWaits is in how many further periods it must wait.
	cpuWaits = 3
)

// cpu starves processes of processor time.
type cpu struct {
	limited
	share float64
}

var _ Fault = (*cpu)(nil)

// Available implements Fault.
func (*cpu) Available(t Target) error {
	return lacking("cpu", map[Capability]bool{NeedsLimits: t.Limiter != nil, NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault: each process gets less than it takes, however much that is.
func (c *cpu) Inject(ctx context.Context, s *Scene) error {
	c.share = cpuShares[s.rng.IntN(len(cpuShares))]
	begin := s.Clock.Now()
	return c.limit(ctx, s, cpuSample, func(n string) error {
		took := c.last[n].CPU - c.was[n].CPU
		return s.Limiter.LimitCPU(ctx, n, c.share*took.Seconds()/(s.Clock.Now()-begin).Seconds())
	})
}

// Heal implements Fault.
func (c *cpu) Heal(ctx context.Context, s *Scene) error { return c.free(ctx, s, s.Limiter.FreeCPU) }

// Prove implements Fault: the machine counts further periods in which each
// process has to wait, and after healing it has the limits of before.
func (c *cpu) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if stage == history.Healed {
		return c.proveFree(ctx, s, Use.ofCPU)
	}
	base := map[string]Use{}
	for _, n := range s.Targets {
		u, err := c.use(ctx, s, n)
		if err != nil {
			return Proof{}, err
		}
		base[n] = u
	}
	figures := map[string]string{}
	var missing string
	ok, err := s.waitFor(ctx, s.Limits.Proof, func() (bool, error) {
		missing = ""
		for _, n := range s.Targets {
			u, err := c.use(ctx, s, n)
			if err != nil {
				return false, err
			}
			waits := fmt.Sprintf("it waited in %d periods, %s in all, and %d and %s at first", u.Throttled, u.ThrottledFor, base[n].Throttled, base[n].ThrottledFor)
			figures[n] = u.ofCPU() + "; " + waits
			switch {
			case u.ofCPU() == c.was[n].ofCPU():
				missing = fmt.Sprintf("%s has %s, as before", n, u.ofCPU())
			case u.Throttled < base[n].Throttled+cpuWaits || u.ThrottledFor <= base[n].ThrottledFor:
				missing = fmt.Sprintf("%s has %s; %s", n, u.ofCPU(), waits)
			}
		}
		return missing == "", nil
	})
	if err != nil {
		return Proof{}, err
	}
	if !ok {
		return Proof{}, &UnprovenError{fmt.Sprintf("had no effect within %s: %s", s.Limits.Proof, missing), figures}
	}
	return Proof{Detail: fmt.Sprintf("%s %g %% of the processor time taken before, and must wait for it", many(len(s.Targets), "process gets", "processes get"), 100*c.share), Figures: figures}, nil
}

// ofCPU says what processor time a process is allowed.
func (u Use) ofCPU() string {
	if u.Quota < 0 {
		return "all processor time"
	}
	return fmt.Sprintf("%s of processor time in %s", u.Quota, u.Period)
}
