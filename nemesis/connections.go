package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// connections is what faults on the connections of nodes share.
type connections struct {
	held
	hit   []string
	spoil func(ctx context.Context, s *Scene, id, node string) error
	dials string // what becomes of a dial meanwhile
	did   string // what was done to the system's own traffic: "connections and dials … were reset"
}

func (*connections) set(s *Scene, node string) string { return s.ruleSet() + "-" + node }

func (*connections) lacking(fault string, t Target) error {
	return lacking(fault, map[Capability]bool{NeedsResets: t.Resetter != nil, NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (c *connections) Inject(ctx context.Context, s *Scene) error {
	if err := c.take(ctx, s); err != nil {
		return err
	}
	for _, n := range s.Targets {
		if err := c.spoil(ctx, s, c.set(s, n), n); err != nil {
			return fmt.Errorf("spoiling the connections of %s: %w", n, err)
		}
		c.hit = append(c.hit, n)
	}
	return nil
}

// Heal implements Fault.
func (c *connections) Heal(ctx context.Context, s *Scene) error {
	var errs []error
	var left []string
	for _, n := range c.hit {
		if err := s.Resetter.Accept(ctx, c.set(s, n)); err != nil {
			left = append(left, n)
			errs = append(errs, fmt.Errorf("letting %s have connections again: %w", n, err))
		}
	}
	if c.hit = left; len(left) == 0 {
		c.drop(s)
	}
	return errors.Join(errs...)
}

// foreign reports whether dials from an endpoint show what another fault does.
func (c *connections) foreign(s *Scene, from, to string) bool {
	owner := s.ground.owners["process of "+from]
	spoilt := !slices.Contains(s.Targets, from) && (owner == "reset" || owner == "half-open")
	return spoilt || s.ground.isCut(Pair{from, to}) || s.ground.isCut(Pair{to, from})
}

// Prove implements Fault. A dead process refuses connections too: so the same
// process must run all the time, and traffic of the system must have been hit.
func (c *connections) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	figures := map[string]string{}
	want := c.dials
	if stage == history.Healed {
		want = DialAccepted
	}
	for _, n := range s.Targets {
		st, err := s.Processes.State(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("state of %s: %w", n, err)
		}
		figures[n] = describe(st)
		if was := c.before[n]; !st.Running || st.Started != was.Started {
			return Proof{}, &UnprovenError{fmt.Sprintf("cannot be proven: %s is no longer the process with pid %d: it is %s", n, was.PID, describe(st)), figures}
		}
		for _, from := range append(slices.Clone(s.Nodes), Clients) {
			if from == n || c.foreign(s, from, n) {
				continue
			}
			// Packets of a dial may be lost to another fault: one answer of several is enough.
			var got string
			ok, err := s.waitFor(ctx, s.Limits.Proof, func() (bool, error) {
				var err error
				if got, err = s.Resetter.Dial(ctx, from, n); err != nil {
					return false, fmt.Errorf("dialling %s from %s: %w", n, from, err)
				}
				return got == want || got == DialAccepted || got == DialReset, nil
			})
			if err != nil {
				return Proof{}, err
			}
			figures[n] += fmt.Sprintf("; a dial from %s was answered: %s", from, got)
			if !ok || got != want {
				had := "had no effect"
				if stage == history.Healed {
					had = "was not healed"
				}
				return Proof{}, &UnprovenError{fmt.Sprintf("%s: a dial from %s to %s was answered: %s", had, from, n, got), figures}
			}
		}
		if stage == history.Healed {
			continue
		}
		var hits uint64
		met, err := s.waitFor(ctx, s.Limits.Drops, func() (bool, error) {
			var err error
			hits, err = s.Resetter.Resets(ctx, c.set(s, n))
			return hits > 0, err
		})
		if err != nil {
			return Proof{}, fmt.Errorf("counting what was hit of %s: %w", n, err)
		}
		figures[n] += fmt.Sprintf("; "+c.did, hits)
		if !met {
			return Proof{}, &UnprovenError{fmt.Sprintf("met no connection of the system itself on %s", n), figures}
		}
	}
	if stage != history.Healed {
		return Proof{Detail: fmt.Sprintf("dials to %s are answered: %s; their processes run", many(len(s.Targets), "node", "nodes"), want), Figures: figures}, nil
	}
	proof, err := s.proveAnswers(ctx, func(string, ProcessState) string { return "" })
	proof.Detail += ", and accept connections"
	return proof, err
}
