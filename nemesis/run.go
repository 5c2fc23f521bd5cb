package nemesis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// Preparer is a fault that must do something before any client starts.
type Preparer interface {
	Prepare(ctx context.Context, s Step, t Target) error
}

// Check refuses steps that cannot be run on t, before a run starts: invalid ones
// (Step.Validate), an ID given twice, and faults whose capability t lacks (then
// the error wraps ErrUnsupported).
func Check(t Target, steps []Step) error {
	if t.Clock == nil {
		return errors.New("the target has no clock")
	}
	errs := []error{ValidateNames(steps)}
	seen := map[int]bool{}
	for _, s := range steps {
		if seen[s.ID] {
			errs = append(errs, fmt.Errorf("step %d is there twice", s.ID))
		}
		seen[s.ID] = true
		if err := s.Validate(t.Nodes); err != nil {
			errs = append(errs, err)
			continue
		}
		k, err := lookup(s.Fault)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := k.make(s.Shape).Available(t); err != nil {
			errs = append(errs, fmt.Errorf("step %d: %w", s.ID, err))
		}
		if s.When != "" && t.Events == nil {
			errs = append(errs, fmt.Errorf("step %d: %w", s.ID, lacking("a step that waits for an event", map[Capability]bool{NeedsEvents: false})))
		}
	}
	return errors.Join(errs...)
}

// Setup checks steps and prepares those that ask for it. It must be called when
// the nodes are up and before any client starts.
func Setup(ctx context.Context, steps []Step, t Target) error {
	if err := Check(t, steps); err != nil {
		return err
	}
	for _, s := range steps {
		k, err := lookup(s.Fault)
		if err != nil {
			return err
		}
		if p, ok := k.make(s.Shape).(Preparer); ok {
			if err := p.Prepare(ctx, s, t); err != nil {
				return fmt.Errorf("preparing %s (step %d): %w", s.Name(), s.ID, err)
			}
		}
	}
	return nil
}

// Run carries steps out, from now on, in the calling task: it blocks in
// t.Clock.Sleep and in the target's capabilities only. Every fault lasts as long
// as its step says, counted from its complete injection; a fault that was
// planned to begin after another one's end waits until that one is healed; one
// that takes data away (wipe, corrupt-file) then waits for the planned gap as
// well. Steps that overlap in the plan overlap.
//
// A step that waits for an event is injected when the event comes, and its stage
// is Skipped where it does not. So it is for all steps that are still to come when
// limits.Stop says that the run ends early.
//
// Every stage is recorded in rec. A fault without effect is recorded as
// unproven, not returned: Run returns errors of the environment, or ctx's. In
// both cases it first heals everything that is active, even though ctx ended,
// and records what was cut short or never injected as unproven.
func Run(ctx context.Context, steps []Step, t Target, rec Recorder, limits Limits) (err error) {
	if err := Check(t, steps); err != nil {
		return err
	}
	limits = limits.withDefaults()
	r := &runner{clock: t.Clock, start: t.Clock.Now(), watch: newWatch(t.Events), stop: limits.Stop}
	g := newGround()
	for _, s := range steps {
		l, err := newLife(s, t, rec, limits, g)
		if err != nil {
			return err
		}
		r.waiting = append(r.waiting, l)
	}
	slices.SortStableFunc(r.waiting, func(a, b *Life) int {
		return cmp.Or(cmp.Compare(a.scene.Step.At, b.scene.Step.At), cmp.Compare(a.scene.Step.ID, b.scene.Step.ID))
	})
	defer func() {
		if err == nil {
			return
		}
		healing, cancel := context.WithTimeout(context.WithoutCancel(ctx), limits.Heal)
		defer cancel()
		err = errors.Join(err, r.abandon(healing))
	}()
	for {
		more, err := r.next(ctx)
		if err != nil || !more {
			return err
		}
	}
}

// runner holds the faults of a run: those still to come in order of their
// begin, and the active ones in order of their injection.
type runner struct {
	clock   Clock
	start   time.Duration
	watch   *watch
	waiting []*Life
	active  []*Life
	stop    func() bool // whether the run ends early; nil: it never does
}

// stopInterval is how often a runner asks whether the run ends early.
const stopInterval = 100 * time.Millisecond

// length is how long a fault lasts.
func (l *Life) length() time.Duration { return l.scene.Step.Until - l.scene.Step.At }

// givesUp is when a fault stops waiting for its event.
func (l *Life) givesUp() time.Duration { return l.since + l.scene.Step.Patience() }

// reacts reports whether the fault comes when an event does.
func (l *Life) reacts() bool { return l.scene.Step.When != "" }

// waits reports whether the fault still has to begin to wait for its event.
func (l *Life) waits() bool { return l.reacts() && l.since < 0 }

// ends is when an active fault is to be healed.
func (l *Life) ends() time.Duration {
	return l.injected + l.length()
}

// next waits for whatever comes next, an injection, an event or a healing, and
// does it.
func (r *runner) next(ctx context.Context) (more bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	stopped := r.stop != nil && r.stop()
	if stopped {
		for _, l := range r.waiting {
			l.skip("the run ended early")
		}
		r.waiting = nil
	}
	var heal *Life
	brought := r.brought()
	for _, l := range r.active {
		if (heal == nil || l.ends() < heal.ends()) && !(l.kind.calm && brought) {
			heal = l
		}
	}
	inject, listening := r.upcoming()
	now := r.clock.Now()
	r.watch.read(now, listening)
	for _, l := range listening {
		if l.fires < 0 && now >= l.givesUp() {
			l.skip(fmt.Sprintf("no %s came within %s", l.scene.Step.When, l.scene.Step.Patience()))
			r.waiting = slices.DeleteFunc(r.waiting, func(w *Life) bool { return w == l })
			return true, nil
		}
	}
	switch {
	case heal == nil && inject == nil:
		return false, nil
	case inject != nil && (heal == nil || r.begins(inject) < heal.ends()):
		if at := r.begins(inject); at > now {
			return true, r.sleepUntil(ctx, r.soon(at, listening))
		}
		if inject.waits() {
			inject.since = now
			return true, nil
		}
		r.waiting = slices.DeleteFunc(r.waiting, func(w *Life) bool { return w == inject })
		r.active = append(r.active, inject)
		if err := inject.Inject(ctx); err != nil {
			return false, err
		}
		if inject.state != Active {
			r.forget(inject)
		}
	default:
		if at := heal.ends(); at > now && !stopped {
			return true, r.sleepUntil(ctx, r.soon(at, listening))
		}
		if err := heal.Confirm(ctx); err != nil {
			return false, err
		}
		if err := heal.Heal(ctx); err != nil {
			return false, err
		}
		r.forget(heal)
		for _, l := range r.waiting {
			if gap := l.scene.Step.At - heal.scene.Step.Until; gap >= 0 {
				l.earliest = max(l.earliest, r.clock.Now()+gap)
			}
		}
	}
	return true, nil
}

// brought reports whether a fault that an event brought is active.
func (r *runner) brought() bool { return slices.ContainsFunc(r.active, (*Life).reacts) }

// upcoming returns the fault that is to be injected, or is to begin to wait for
// its event, next; and those that wait. What was planned to come after another
// one's end comes when that one is healed. A fault that an event brought comes in
// between: what has a time of its own waits for its end, as it may need what that
// fault took.
func (r *runner) upcoming() (next *Life, listening []*Life) {
	brought := r.brought()
	for i, l := range r.waiting {
		after := func(o *Life) bool { return !o.reacts() && o.scene.Step.Until <= l.scene.Step.At }
		if !l.reacts() && (brought || slices.ContainsFunc(r.active, after) || slices.ContainsFunc(r.waiting[:i], after)) {
			continue
		}
		if l.since >= 0 {
			listening = append(listening, l)
		}
		if next == nil || r.begins(l) < r.begins(next) {
			next = l
		}
	}
	return next, listening
}

// soon is when to look again: at the latest when a step that waits has waited
// long enough, and in short intervals while any does or the run may end early.
func (r *runner) soon(at time.Duration, listening []*Life) time.Duration {
	if r.stop != nil {
		at = min(at, r.clock.Now()+stopInterval)
	}
	for _, l := range listening {
		if l.fires >= 0 { // its event has just come
			at = min(at, l.fires)
		} else {
			at = min(at, r.clock.Now()+eventInterval, l.givesUp())
		}
	}
	return at
}

// begins is when a fault is to be injected, or is to begin to wait for its event,
// or is to give that up. One that was planned to begin during another's time
// begins no sooner after it.
func (r *runner) begins(l *Life) time.Duration {
	at := r.start + l.scene.Step.At
	if l.kind.settled {
		at = max(at, l.earliest)
	}
	for _, o := range r.waiting {
		if o == l {
			break
		}
		if !l.reacts() && !o.reacts() && o.scene.Step.Until > l.scene.Step.At {
			at = max(at, r.begins(o)+l.scene.Step.At-o.scene.Step.At)
		}
	}
	switch {
	case l.fires >= 0:
		return l.fires
	case l.since >= 0:
		return l.givesUp()
	}
	return at
}

func (r *runner) forget(l *Life) {
	r.active = slices.DeleteFunc(r.active, func(a *Life) bool { return a == l })
}

func (r *runner) sleepUntil(ctx context.Context, at time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d := at - r.clock.Now(); d > 0 {
		return r.clock.Sleep(ctx, d)
	}
	return nil
}

// abandon heals every active fault, the last one first, and records that the
// proofs of all unfinished ones are missing.
func (r *runner) abandon(ctx context.Context) error {
	var errs []error
	for _, l := range slices.Backward(r.active) {
		switch l.state {
		case Ready:
			l.miss(unproven("was never injected: the run ended before its time"))
			continue
		case Spent:
			l.miss(unproven("was healed, and the run ended before that was proven"))
			continue
		}
		l.miss(unproven("was healed early: the run ended before its time"))
		if err := l.Heal(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	for _, l := range r.waiting {
		l.miss(unproven("was never injected: the run ended before its time"))
	}
	return errors.Join(errs...)
}

// MissingProofs reports, for the events of one run, the faults that lack a proof, each
// as a sentence, in the order of their IDs. Steps without any event lack all.
func MissingProofs(steps []Step, events []history.Fault) []string {
	stages := map[int]map[history.FaultStage]bool{}
	reason := map[int]string{}
	for _, e := range events {
		if stages[e.ID] == nil {
			stages[e.ID] = map[history.FaultStage]bool{}
		}
		stages[e.ID][e.Stage] = true
		if e.Stage == history.Unproven && reason[e.ID] == "" {
			reason[e.ID] = e.Detail
		}
	}
	var out []string
	for _, s := range steps {
		if stages[s.ID][history.Skipped] {
			continue
		}
		if reason[s.ID] != "" {
			out = append(out, reason[s.ID])
			continue
		}
		for _, stage := range []history.FaultStage{history.Proven, history.StillProven, history.Healed} {
			if !stages[s.ID][stage] {
				out = append(out, fmt.Sprintf("%s (step %d) was never %s", s.Name(), s.ID, stage))
				break
			}
		}
	}
	return out
}
