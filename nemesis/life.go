package nemesis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// State is where a fault stands in its life.
type State string

// The states, in order. There is no way back.
const (
	Ready  State = "ready"
	Active State = "active"
	Spent  State = "healed"
)

// Life leads one fault through its life: ready → active → healed. It alone calls
// a Fault's methods, and it records every stage. Injecting twice, healing what
// is not active, and a fault without target are errors. It is not safe for
// concurrent use.
type Life struct {
	kind     kind
	fault    Fault
	scene    *Scene
	rec      Recorder
	state    State
	unproven bool
	whole    bool          // the injection was completed
	injected time.Duration // when
	earliest time.Duration // of the injection, as faults healed before it say
	since    time.Duration // of a step with an event: when it began to wait, -1: not yet
	fires    time.Duration // when it is to be injected, once its event came; -1: it did not
}

func newLife(step Step, t Target, rec Recorder, limits Limits, g *ground) (*Life, error) {
	if err := step.Validate(t.Nodes); err != nil {
		return nil, err
	}
	k, err := lookup(step.Fault)
	if err != nil {
		return nil, err
	}
	f := k.make(step.Shape)
	if err := f.Available(t); err != nil {
		return nil, err
	}
	return &Life{
		kind:  k,
		fault: f,
		rec:   rec,
		state: Ready,
		since: -1,
		fires: -1,
		scene: &Scene{
			Target:  t,
			Step:    step,
			Limits:  limits.withDefaults(),
			figures: map[string]string{},
			ground:  g,
			rng:     rand.New(rand.NewPCG(step.Seed, uint64(step.ID))),
		},
	}, nil
}

// NewLife returns the ready fault of one step on its own. It refuses a step that
// Step.Validate refuses, and wraps ErrUnsupported where t lacks a capability.
func NewLife(step Step, t Target, rec Recorder, limits Limits) (*Life, error) {
	return newLife(step, t, rec, limits, newGround())
}

// State returns where the fault stands.
func (l *Life) State() State { return l.state }

// Unproven reports whether a proof is missing so far.
func (l *Life) Unproven() bool { return l.unproven }

// Inject binds targets to names, injects the fault and looks for its effect. A
// missing proof is recorded, not returned: then the fault stays active, or, where
// it could not be injected at all, is healed at once. An error is the
// environment's, or ctx's; the fault may be active then and must be healed.
func (l *Life) Inject(ctx context.Context) error {
	name := l.scene.Step.Name()
	if l.state != Ready {
		return fmt.Errorf("injecting %s (step %d): it is %s already", name, l.scene.Step.ID, l.state)
	}
	if err := l.kind.bind(ctx, l.scene); err != nil {
		if l.miss(err) {
			l.state = Spent
			return nil
		}
		return fmt.Errorf("choosing the targets of %s: %w", name, err)
	}
	if len(l.scene.Targets) == 0 {
		return fmt.Errorf("injecting %s (step %d): it has no target", name, l.scene.Step.ID)
	}
	if as := l.scene.Step.As; as != "" {
		l.scene.ground.names[as] = l.scene.Targets[0]
	}
	l.record(history.Injecting, Proof{})
	l.state = Active
	if err := l.fault.Inject(ctx, l.scene); err != nil {
		var u *UnprovenError
		if l.scene.Step.When != "" && errors.As(err, &u) {
			// Its event came at a moment at which it cannot be: no fault of the plan's.
			l.record(history.Skipped, Proof{Detail: name + " " + u.Reason, Figures: u.Figures})
			return l.Heal(ctx)
		}
		if l.miss(err) {
			return l.Heal(ctx)
		}
		return fmt.Errorf("injecting %s: %w", name, err)
	}
	l.whole, l.injected = true, l.scene.Clock.Now()
	l.record(history.Injected, Proof{})
	return l.prove(ctx, history.Proven)
}

// Confirm looks for the effect once more. It is called right before Heal.
func (l *Life) Confirm(ctx context.Context) error {
	if l.state != Active {
		return fmt.Errorf("confirming %s (step %d): it is %s, not active", l.scene.Step.Name(), l.scene.Step.ID, l.state)
	}
	return l.prove(ctx, history.StillProven)
}

// Heal restores what the fault changed and looks for the effect's absence. After
// an error that is the environment's the fault stays active, and Heal may be
// called again.
func (l *Life) Heal(ctx context.Context) error {
	name := l.scene.Step.Name()
	if l.state != Active {
		return fmt.Errorf("healing %s (step %d): it is %s, not active", name, l.scene.Step.ID, l.state)
	}
	l.record(history.Healing, Proof{})
	if err := l.fault.Heal(ctx, l.scene); err != nil {
		if l.miss(err) {
			l.state = Spent
			return nil
		}
		return fmt.Errorf("healing %s: %w", name, err)
	}
	l.state = Spent
	if !l.whole {
		return nil // it never was whole, so there is no absence to prove
	}
	return l.prove(ctx, history.Healed)
}

// prove records the stage with its proof, or that the proof is missing. Once a
// proof is missing no later stage claims the effect, but healing is still proven.
func (l *Life) prove(ctx context.Context, stage history.FaultStage) error {
	if l.unproven && stage != history.Healed {
		return nil
	}
	p, err := l.fault.Prove(ctx, l.scene, stage)
	if err == nil {
		l.record(stage, p)
		return nil
	}
	if l.miss(err) {
		return nil
	}
	return fmt.Errorf("proving %s (%s): %w", l.scene.Step.Name(), stage, err)
}

// miss records a missing proof and reports whether err is one.
func (l *Life) miss(err error) bool {
	var u *UnprovenError
	if !errors.As(err, &u) {
		return false
	}
	l.unproven = true
	l.record(history.Unproven, Proof{Detail: l.scene.Step.Name() + " " + u.Reason, Figures: u.Figures})
	return true
}

func (l *Life) record(stage history.FaultStage, p Proof) {
	s := l.scene
	proof := maps.Clone(p.Figures)
	if stage == history.Injecting && len(s.figures) > 0 {
		proof = maps.Clone(s.figures)
	}
	l.rec.Event(history.Fault{
		ID:      s.Step.ID,
		Name:    s.Step.Name(),
		Stage:   stage,
		At:      int64(s.Clock.Now()),
		Targets: s.Targets,
		Sides:   s.Sides,
		Keys:    s.Keys,
		Role:    s.Role,
		Detail:  p.Detail,
		Proof:   proof,
	})
}
