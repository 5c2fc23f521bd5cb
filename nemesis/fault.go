package nemesis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// Fault is one fault of one step. Life calls its methods in order and exactly
// once each, Prove once per moment; a Fault keeps what it changed and restores
// exactly that.
type Fault interface {
	// Available returns nil, or an error that wraps ErrUnsupported and names
	// what t lacks for this fault.
	Available(t Target) error
	// Inject makes the fault take effect on s.Targets. It returns an
	// *UnprovenError where the fault would prove nothing from the start, and any
	// other error where the environment failed; what was changed until then is
	// healed in both cases.
	Inject(ctx context.Context, s *Scene) error
	// Prove looks for the effect right after injection (history.Proven) and right
	// before healing (history.StillProven), and for its absence after healing
	// (history.Healed). A missing proof is an *UnprovenError.
	Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error)
	// Heal restores what Inject changed, and nothing else. It returns an *UnprovenError
	// where it was done and did not work, and any other error where the environment
	// failed and Heal may be called again.
	Heal(ctx context.Context, s *Scene) error
}

// Proof is the evidence of one moment.
type Proof struct {
	Detail  string            // in words
	Figures map[string]string // its figures by name
}

// UnprovenError says which proof of a fault is missing. It makes a run
// inconclusive; it is not a failure of the harness.
type UnprovenError struct {
	Reason  string // continues a sentence that begins with the fault's name
	Figures map[string]string
}

// Error returns the reason.
func (e *UnprovenError) Error() string { return e.Reason }

func unproven(format string, args ...any) error {
	return &UnprovenError{Reason: fmt.Sprintf(format, args...)}
}

// Limits bounds what the nemesis waits for, on the run's clock. A zero field
// takes its default.
type Limits struct {
	Proof          time.Duration // for nonces to show a cut or its healing; 5s
	Drops          time.Duration // right after injection, for the system's own traffic to meet a cut; 1s
	Role           time.Duration // for the system to name a leader or controller; 10s
	Respond        time.Duration // for a node to answer again after healing; 30s
	RespondTimeout time.Duration // of one application request; 1s
	StopGrace      time.Duration // between SIGTERM and giving up; 20s
	Admin          time.Duration // for a change of members or leaders to be complete; 60s
	// Stop, where set, is asked every 100 ms. Once it says true no more is injected
	// (the stage of those steps is Skipped), and what is active is healed at once,
	// with its proofs.
	Stop func() bool
	// Heal bounds the healing after the run's context ended, by the wall clock:
	// it guards against an engine that hangs, and must never pass otherwise; 2m.
	Heal time.Duration
}

// DefaultLimits returns the limits that zero fields stand for.
func DefaultLimits() Limits {
	return Limits{
		Proof:          5 * time.Second,
		Drops:          time.Second,
		Role:           10 * time.Second,
		Respond:        30 * time.Second,
		RespondTimeout: time.Second,
		StopGrace:      20 * time.Second,
		Admin:          60 * time.Second,
		Heal:           2 * time.Minute,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ have, def *time.Duration }{
		{&l.Proof, &d.Proof},
		{&l.Drops, &d.Drops},
		{&l.Role, &d.Role},
		{&l.Respond, &d.Respond},
		{&l.RespondTimeout, &d.RespondTimeout},
		{&l.StopGrace, &d.StopGrace},
		{&l.Admin, &d.Admin},
		{&l.Heal, &d.Heal},
	} {
		if *f.have <= 0 {
			*f.have = *f.def
		}
	}
	return l
}

// pollInterval is the pause between two looks at a condition.
const pollInterval = NonceInterval

// Scene is what a fault acts on: the target, its step, and what the step's
// roles were bound to at injection.
type Scene struct {
	Target
	Step    Step
	Targets []string   // node names
	Sides   [][]string // partitions only
	Keys    []string   // partitions of the workload that are touched by role
	Role    string     // "leader", "follower", "controller" or ""
	Cuts    []Cut      // partitions only
	Limits  Limits

	event   Happening         // that the step waited for
	figures map[string]string // how roles were bound
	ground  *ground
	rng     *rand.Rand
}

// ruleSet is the id under which the scene's cuts are known to the network.
func (s *Scene) ruleSet() string { return fmt.Sprintf("fault-%d", s.Step.ID) }

// waitFor calls done until it reports true or fails, for limit at most; the
// condition is looked at once more when limit is over. It reports whether the
// condition was met.
func (s *Scene) waitFor(ctx context.Context, limit time.Duration, done func() (bool, error)) (bool, error) {
	return s.waitEvery(ctx, pollInterval, limit, done)
}

// waitEvery is waitFor with a pause of its own between two looks.
func (s *Scene) waitEvery(ctx context.Context, pause, limit time.Duration, done func() (bool, error)) (bool, error) {
	for deadline := s.Clock.Now() + limit; ; {
		late := s.Clock.Now() >= deadline
		if ok, err := done(); ok || err != nil {
			return ok, err
		}
		if late {
			return false, nil
		}
		if err := s.Clock.Sleep(ctx, pause); err != nil {
			return false, err
		}
	}
}

// ground is what all active faults of a run changed together, so that faults
// which overlap are well defined: a process, a disk, a clock and the shape of a
// node's links belong to one fault at a time, and a link may be cut by several.
type ground struct {
	owners map[string]string // "process of n1" → the fault that it belongs to
	cuts   map[int][]Cut     // step → its cuts
	wiped  map[string]bool   // nodes whose data disk was exchanged in this run
	names  map[string]string // what steps named → the node
}

func newGround() *ground {
	return &ground{owners: map[string]string{}, cuts: map[int][]Cut{}, wiped: map[string]bool{}, names: map[string]string{}}
}

// claim takes what ("process", "disk", "clock", "links") of nodes for a fault, all or none.
func (g *ground) claim(what, fault string, nodes []string) error {
	for _, n := range nodes {
		if owner, taken := g.owners[what+" of "+n]; taken {
			return unproven("was not injected: the %s of %s is already under %s", what, n, owner)
		}
	}
	for _, n := range nodes {
		g.owners[what+" of "+n] = fault
	}
	return nil
}

func (g *ground) release(what string, nodes []string) {
	for _, n := range nodes {
		delete(g.owners, what+" of "+n)
	}
}

// isCut reports whether any active fault cuts all traffic of p.
func (g *ground) isCut(p Pair) bool {
	for _, cuts := range g.cuts {
		if slices.Contains(cuts, Cut{From: p.From, To: p.To}) {
			return true
		}
	}
	return false
}

// busy reports whether traffic may be expected on a link: no fault cuts it, and
// none has the process at either end.
func (g *ground) busy(c Cut) bool {
	held := func(n string) bool { return g.owners["process of "+n] != "" }
	return !g.isCut(Pair{c.From, c.To}) && !held(c.From) && !held(c.To)
}

// clientsCutOff reports whether clients and node are cut from each other, in
// either direction.
func (g *ground) clientsCutOff(node string) bool {
	for _, cuts := range g.cuts {
		for _, c := range cuts {
			if c.Port != AnyPort && c.Port != ClientPort {
				continue
			}
			if c.From == Clients && c.To == node || c.From == node && c.To == Clients {
				return true
			}
		}
	}
	return false
}

// lacking returns an error that wraps ErrUnsupported and names each lacking
// capability.
func lacking(fault string, need map[Capability]bool) error {
	var errs []error
	for _, c := range Capabilities() {
		if have, asked := need[c]; asked && !have {
			errs = append(errs, fmt.Errorf("%s needs an environment that can %s: %w", fault, c, ErrUnsupported))
		}
	}
	return errors.Join(errs...)
}
