package nemesis

import (
	"context"
	"errors"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// spoiled is a fault of disks that a process need not outlive: a broker that
// cannot store must not go on. The processes belong to the fault, and those that
// died of it are started again when it is healed.
type spoiled struct {
	held
	hit []string
}

// spoil notes that every disk is well, and spoils them.
func (p *spoiled) spoil(ctx context.Context, s *Scene, disks DiskProber, one func(ctx context.Context, node string) error) error {
	if err := p.take(ctx, s); err != nil {
		return err
	}
	for _, n := range s.Targets {
		probe, err := disks.Probe(ctx, n)
		if err != nil {
			return fmt.Errorf("probing the disk of %s: %w", n, err)
		}
		if probe.Err != nil {
			return unproven("was not injected: a write on %s failed before it: %v", n, probe.Err)
		}
	}
	for _, n := range s.Targets {
		p.hit = append(p.hit, n)
		if err := one(ctx, n); err != nil {
			return fmt.Errorf("spoiling the disk of %s: %w", n, err)
		}
	}
	return nil
}

// mend restores the disks and starts what died.
func (p *spoiled) mend(ctx context.Context, s *Scene, one func(ctx context.Context, node string) error) error {
	return p.undo(ctx, s, p.hit, "mending the disk", one)
}

// prove wants writes on every target to fail with want, and after healing none to fail.
func (p *spoiled) prove(ctx context.Context, s *Scene, stage history.FaultStage, disks DiskProber, want error) (Proof, error) {
	figures := map[string]string{}
	for _, n := range s.Targets {
		probe, err := disks.Probe(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("probing the disk of %s: %w", n, err)
		}
		st, err := s.Processes.State(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("state of %s: %w", n, err)
		}
		answer := "a write succeeded"
		if probe.Err != nil {
			answer = "a write failed: " + probe.Err.Error()
		}
		figures[n] = answer + "; its process is " + describe(st)
		switch {
		case stage == history.Healed && probe.Err != nil:
			return Proof{}, &UnprovenError{fmt.Sprintf("was not healed: on %s %s", n, answer), figures}
		case stage != history.Healed && !errors.Is(probe.Err, want):
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: on %s %s, and %q was expected", n, answer, want), figures}
		case stage != history.Healed && st.Running && st.Started != p.before[n].Started:
			return Proof{}, &UnprovenError{fmt.Sprintf("cannot be proven: %s was started again before it was healed", n), figures}
		}
	}
	if stage != history.Healed {
		return Proof{Detail: fmt.Sprintf("writes on %s fail: %v", many(len(s.Targets), "disk", "disks"), want), Figures: figures}, nil
	}
	proof, err := s.proveAnswers(ctx, func(string, ProcessState) string { return "" })
	proof.Detail += ", and writes on their disks succeed"
	return proof, err
}
