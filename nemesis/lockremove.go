package nemesis

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// The shapes of lock-remove.
const (
	RemoveLock  Shape = "remove"  // the file is gone
	ReplaceLock Shape = "replace" // another, empty file has its name
)

func lockRemovals() []ShapeInfo {
	return []ShapeInfo{
		{Name: RemoveLock, Description: "removes the lock files, as a clean-up job does", MinNodes: 1},
		{Name: ReplaceLock, Description: "puts new, empty files in the places of the lock files", MinNodes: 1},
	}
}

// lockRemove takes the lock files from under whoever holds their locks: the locks are
// on files without a name then, and others can lock what has the name. It is done at
// once, and nothing is put back: whoever takes a lock makes its file.
type lockRemove struct {
	device bool              // claimed
	before map[string]string // identity of each lock file
	after  map[string]string // right after it
}

var _ Fault = (*lockRemove)(nil)

// sharedDevice is what a fault claims that changes the shared device: all its nodes' one.
var sharedDevice = []string{"all nodes"}

// Available implements Fault.
func (*lockRemove) Available(t Target) error {
	return lacking("lock-remove", map[Capability]bool{NeedsLocks: t.Locks != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (l *lockRemove) Inject(ctx context.Context, s *Scene) error {
	if err := s.ground.claim("locks", s.Step.Name(), sharedDevice); err != nil {
		return err
	}
	l.device = true
	var err error
	if l.before, err = s.Locks.Files(ctx); err != nil {
		return fmt.Errorf("looking for lock files: %w", err)
	}
	if len(l.before) == 0 {
		return unproven("was not injected: there is no lock file that it could remove")
	}
	for _, name := range slices.Sorted(maps.Keys(l.before)) {
		if err := s.Locks.Remove(ctx, name, s.Step.Shape == ReplaceLock); err != nil {
			return fmt.Errorf("removing the lock file %s: %w", name, err)
		}
	}
	if l.after, err = s.Locks.Files(ctx); err != nil {
		return fmt.Errorf("looking for lock files: %w", err)
	}
	return nil
}

// Heal implements Fault.
func (l *lockRemove) Heal(_ context.Context, s *Scene) error {
	if l.device {
		s.ground.release("locks", sharedDevice)
		l.device = false
	}
	return nil
}

// Prove implements Fault. None of the former files may have its name right after
// injection, nor right before healing; afterwards every lock has a file again, and a
// system that answers.
func (l *lockRemove) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	now := l.after
	if stage != history.Proven {
		back := func() (bool, error) {
			var err error
			if now, err = s.Locks.Files(ctx); err != nil {
				return false, fmt.Errorf("looking for lock files: %w", err)
			}
			return len(now) >= len(l.before), nil
		}
		limit := s.Limits.Respond
		if stage == history.StillProven {
			limit = 0
		}
		ok, err := s.waitFor(ctx, limit, back)
		if err != nil {
			return Proof{}, err
		}
		if !ok && stage == history.Healed {
			return Proof{}, &UnprovenError{fmt.Sprintf("was not healed: %d of %d lock files are there again after %s", len(now), len(l.before), limit), l.figures(now)}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.before)) {
		if now[name] == l.before[name] {
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: the lock file %s is the one that it was", name), l.figures(now)}
		}
		if stage == history.Proven && s.Step.Shape == ReplaceLock && now[name] == "" {
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: there is no lock file %s in the place of the former one", name), l.figures(now)}
		}
	}
	detail := many(len(l.before), "lock file is gone or another one", "lock files are gone or others")
	if stage == history.Healed {
		detail = many(len(l.before), "lock has a file again, another one", "locks have files again, others")
	}
	return Proof{Detail: detail, Figures: l.figures(now)}, nil
}

func (l *lockRemove) figures(now map[string]string) map[string]string {
	figures := map[string]string{}
	for name, id := range l.before {
		figures[name] = fmt.Sprintf("inode %s before, %s now", id, orNone(now[name]))
	}
	return figures
}
