package nemesis

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// The shapes of leadership.
const (
	TransferLeader Shape = "transfer" // to another in-sync replica, once
	FlapLeader     Shape = "flap"     // to and fro
)

func movesOfLeaders() []ShapeInfo {
	return []ShapeInfo{
		{Name: TransferLeader, Description: "moves the leadership of a partition to another in-sync replica", MinNodes: 2},
		{Name: FlapLeader, Description: "moves the leadership of a partition eight times in quick succession", MinNodes: 2},
	}
}

const (
	flaps     = 8
	flapPause = 250 * time.Millisecond
)

// leadership moves the leadership of one partition: the replica that is to lead
// becomes the preferred one, and is elected.
type leadership struct {
	claimed bool
	key     string
	before  []string // replicas in order of preference
	moves   []lead
}

// lead is who led, in which epoch.
type lead struct {
	node  string
	epoch int32
}

var _ Fault = (*leadership)(nil)

// Available implements Fault.
func (*leadership) Available(t Target) error {
	return lacking("leadership", map[Capability]bool{NeedsRoles: t.Roles != nil, NeedsAdmin: t.Admin != nil})
}

// Inject implements Fault.
func (l *leadership) Inject(ctx context.Context, s *Scene) error {
	if len(s.Keys) != 1 {
		return unproven("was not injected: it takes the leader of one partition, and got %v", s.Targets)
	}
	l.key = s.Keys[0]
	if err := s.ground.claim("leadership", s.Step.Name(), s.Keys); err != nil {
		return err
	}
	l.claimed = true
	node, epoch, err := leaderOf(ctx, s, l.key)
	if err != nil {
		return err
	}
	l.moves = []lead{{node, epoch}}
	count := 1
	if s.Step.Shape == FlapLeader {
		count = flaps
	}
	for i := range count {
		if i > 0 {
			if err := s.Clock.Sleep(ctx, flapPause); err != nil {
				return err
			}
		}
		if err := l.move(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// move gives the leadership to another replica that is in sync.
func (l *leadership) move(ctx context.Context, s *Scene) error {
	was := l.moves[len(l.moves)-1]
	reason, to := "", ""
	ok, err := s.waitFor(ctx, s.Limits.Admin, func() (bool, error) {
		now, epoch, err := s.Roles.Leader(ctx, l.key)
		if err == nil && now != was.node && epoch > was.epoch {
			if l.before != nil {
				l.moves = append(l.moves, lead{now, epoch})
				return true, nil
			}
			was = lead{now, epoch} // it moved before anything was done
			l.moves = []lead{was}
		}
		a, err := s.Admin.Assignment(ctx, l.key)
		if err != nil {
			reason = err.Error()
			return false, ctx.Err()
		}
		if l.before == nil {
			l.before = a.Replicas
		}
		others := without(a.InSync, was.node)
		if len(others) == 0 || a.Moving {
			reason = fmt.Sprintf("of the replicas %v only %v are in sync", a.Replicas, a.InSync)
			return false, ctx.Err()
		}
		if !slices.Contains(others, to) {
			to = others[s.rng.IntN(len(others))]
		}
		if a.Replicas[0] != to {
			err = s.Admin.Assign(ctx, l.key, append([]string{to}, without(a.Replicas, to)...))
		}
		if err == nil {
			err = s.Admin.Elect(ctx, l.key)
		}
		reason = fmt.Sprintf("%s still leads", was.node)
		if err != nil {
			reason = err.Error()
		}
		return false, ctx.Err()
	})
	if err == nil && !ok {
		return unproven("did not get through: %s stayed the leader of %s for %s: %s", was.node, l.key, s.Limits.Admin, reason)
	}
	return err
}

// Heal implements Fault: the replicas get their former order back, and with it the
// first of them is preferred again. Who leads is left to the system.
func (l *leadership) Heal(ctx context.Context, s *Scene) error {
	if l.claimed {
		defer s.ground.release("leadership", s.Keys)
		l.claimed = false
	}
	if l.before == nil {
		return nil
	}
	_, err := s.waitFor(ctx, s.Limits.Admin, func() (bool, error) {
		a, err := s.Admin.Assignment(ctx, l.key)
		if err == nil && slices.Equal(a.Replicas, l.before) {
			return true, nil
		}
		if err == nil {
			_ = s.Admin.Assign(ctx, l.key, l.before) // looked at in the next round
		}
		return false, ctx.Err()
	})
	return err
}

// Prove implements Fault. Another fault may have moved the leadership on: then the
// epoch tells that it did.
func (l *leadership) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	figures := map[string]string{"partition": l.key}
	for i, m := range l.moves {
		figures[fmt.Sprintf("leader %d", i)] = fmt.Sprintf("%s in epoch %d", m.node, m.epoch)
	}
	if stage == history.Healed {
		a, err := s.Admin.Assignment(ctx, l.key)
		if err != nil {
			return Proof{}, &UnprovenError{fmt.Sprintf("was not healed: which replicas %s has is not known: %v", l.key, err), figures}
		}
		if !slices.Equal(a.Replicas, l.before) {
			return Proof{}, &UnprovenError{fmt.Sprintf("was not healed: %s has replicas %v instead of %v", l.key, a.Replicas, l.before), figures}
		}
		return Proof{Detail: fmt.Sprintf("replicas of %s are in their former order", l.key), Figures: figures}, nil
	}
	node, epoch, err := leaderOf(ctx, s, l.key)
	if err != nil {
		return Proof{}, err
	}
	figures["now"] = fmt.Sprintf("%s in epoch %d", node, epoch)
	first, last := l.moves[0], l.moves[len(l.moves)-1]
	switch {
	case epoch < first.epoch+int32(len(l.moves)-1):
		return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %s is led in epoch %d after %d moves from epoch %d", l.key, epoch, len(l.moves)-1, first.epoch), figures}
	case epoch == last.epoch && node != last.node:
		return Proof{}, &UnprovenError{fmt.Sprintf("cannot be proven: both %s and %s are named as the leader of %s in epoch %d", last.node, node, l.key, epoch), figures}
	case stage == history.Proven && node == first.node && len(l.moves) == 2:
		return Proof{}, &UnprovenError{fmt.Sprintf("did not last: %s leads %s again", node, l.key), figures}
	}
	return Proof{Detail: fmt.Sprintf("the leadership of %s moved %s, from %s in epoch %d to %s in epoch %d", l.key, many(len(l.moves)-1, "time", "times"), first.node, first.epoch, last.node, last.epoch), Figures: figures}, nil
}
