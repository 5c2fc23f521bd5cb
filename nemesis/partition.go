package nemesis

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/faultline-mq/faultline/checker/history"
)

// minNonces is how many nonces must have been sent in each cut direction before
// their absence proves anything: one may be lost by accident, five are not.
const minNonces = 5

// partition cuts links.
type partition struct {
	attempted, blocked bool
	after              Observation // right after the cut: the whole window is judged against it
	dropped            uint64      // highest count of the system's own dropped packets so far
}

var _ Fault = (*partition)(nil)

func bindPartition(ctx context.Context, s *Scene) error {
	info, ok := shapeInfo(s.Step.Shape)
	if !ok {
		return unknownShape("partition", Shapes(), s.Step.Shape)
	}
	nodes := s.Nodes
	switch {
	case info.OneTarget:
		if err := bindTargets(ctx, s); err != nil {
			return err
		}
	case info.Name == IsolateLeader:
		leader, err := bindLeader(ctx, s)
		if err != nil {
			return err
		}
		s.Targets, s.Role = []string{leader}, "leader"
	case info.Name == Primaries:
		for _, key := range s.Roles.Keys() {
			leader, _, err := leaderOf(ctx, s, key)
			if err != nil {
				return err
			}
			s.Keys = append(s.Keys, key)
			s.figures["leader of "+key] = leader
			if !slices.Contains(s.Targets, leader) {
				s.Targets = append(s.Targets, leader)
			}
		}
		slices.SortFunc(s.Targets, func(a, b string) int { return slices.Index(s.Nodes, a) - slices.Index(s.Nodes, b) })
		s.Role = "leader"
	default:
		nodes = make([]string, len(s.Nodes))
		for i, p := range s.rng.Perm(len(nodes)) {
			nodes[i] = s.Nodes[p]
		}
	}
	g, err := NewGrudge(info.Name, nodes, s.Targets, s.Step.Port)
	if err != nil {
		return err
	}
	s.Targets, s.Sides, s.Cuts = g.Targets, g.Sides, g.Cuts
	return nil
}

// Available implements Fault.
func (*partition) Available(t Target) error {
	return lacking("partition", map[Capability]bool{NeedsNetwork: t.Network != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (p *partition) Inject(ctx context.Context, s *Scene) error {
	if s.Step.When != "" && !slices.ContainsFunc(s.Cuts, s.ground.busy) {
		return unproven("was not injected: other faults keep all the links still that it would cut")
	}
	p.attempted = true
	if err := s.Network.Block(ctx, s.ruleSet(), s.Cuts); err != nil {
		return fmt.Errorf("blocking %d directions: %w", len(s.Cuts), err)
	}
	p.blocked = true
	s.ground.cuts[s.Step.ID] = s.Cuts
	var err error
	if p.after, err = s.Network.Observe(ctx); err != nil {
		return fmt.Errorf("observing after the cut: %w", err)
	}
	return nil
}

// Heal implements Fault.
func (p *partition) Heal(ctx context.Context, s *Scene) error {
	if !p.attempted {
		return nil
	}
	err := s.Network.Unblock(ctx, s.ruleSet())
	if err != nil && p.blocked {
		return fmt.Errorf("unblocking: %w", err)
	}
	// A set that never came to be whole may be unknown to the network: then there
	// is nothing to remove, and the failed Block was reported already.
	delete(s.ground.cuts, s.Step.ID)
	return nil
}

// Prove implements Fault.
//
// Effect: no nonce that was sent after the cut arrived in a cut direction, from
// injection up to now, while at least minNonces were sent there and every other
// direction went on; the observers ran unbroken; and, before healing at the
// latest, the rules met traffic of the system itself. A cut of one port lets the
// nonces pass, so it rests on the rule counters alone: they must count right
// after injection, and must have gone on counting before healing.
//
// Healing: a nonce that was sent after it arrived in every direction that no
// other fault cuts.
func (p *partition) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	base := p.after
	var err error
	if stage != history.Proven {
		if base, err = s.Network.Observe(ctx); err != nil {
			return Proof{}, fmt.Errorf("observing: %w", err)
		}
	}
	atStart := p.dropped
	began := s.Clock.Now()
	var now Observation
	var waiting string
	ok, err := s.waitFor(ctx, s.Limits.Proof, func() (bool, error) {
		if now, err = s.Network.Observe(ctx); err != nil {
			return false, fmt.Errorf("observing: %w", err)
		}
		if stage != history.Healed {
			if err := p.unbroken(s, now); err != nil {
				return false, err
			}
		}
		if waiting = p.progress(s, base, now, stage); waiting != "" {
			return false, nil
		}
		switch {
		case stage == history.Healed || p.dropped > atStart:
			return true, nil
		case s.Step.Port != AnyPort:
			waiting = fmt.Sprintf("had no effect that shows: its rules for port %s dropped no packet of the system since %s", s.Step.Port, sinceWhen(stage))
			return false, nil
		case p.dropped > 0:
			return true, nil
		case stage == history.Proven:
			// The system may be silent for a moment; before healing it must have met the cut.
			return s.Clock.Now() >= began+s.Limits.Drops, nil
		}
		waiting = "dropped no packet of the system itself: its nonces were cut, and no traffic was"
		return false, nil
	})
	if err != nil {
		return Proof{}, err
	}
	figures := p.figures(s, now)
	if !ok {
		return Proof{}, &UnprovenError{Reason: waiting, Figures: figures}
	}
	if stage == history.Healed {
		return Proof{Detail: "a nonce sent after healing arrived in every direction", Figures: figures}, nil
	}
	if s.Step.Port != AnyPort {
		return Proof{Detail: fmt.Sprintf("%d packets of the system were dropped on port %s", p.dropped, s.Step.Port), Figures: figures}, nil
	}
	return Proof{
		Detail: fmt.Sprintf("no nonce sent since the cut arrived in any of %d directions, all others went on; %d packets of the system were dropped",
			len(s.Cuts), p.dropped),
		Figures: figures,
	}, nil
}

func sinceWhen(stage history.FaultStage) string {
	if stage == history.Proven {
		return "injection"
	}
	return "its first proof"
}

// unbroken judges the window from the cut up to now: same observers, counters
// that never went back, and nothing through a cut.
func (p *partition) unbroken(s *Scene, now Observation) error {
	for _, e := range slices.Sorted(maps.Keys(p.after.Boots)) {
		if was, is := p.after.Boots[e], now.Boots[e]; is != was {
			return unproven("cannot be proven: the observer of %s restarted since the cut (boot %s, now %s), and its rules and counters were lost", e, was, orNone(is))
		}
	}
	for _, n := range s.Nodes {
		if p.after.Boots[n] == "" {
			return unproven("cannot be proven: the observer of %s gave no boot id", n)
		}
	}
	for _, pair := range sortedPairs(p.after.Reach) {
		was, is := p.after.Reach[pair], now.Reach[pair]
		if is.Sent < was.Sent || is.Received < was.Received {
			return unproven("cannot be proven: the nonce counters from %s to %s went back from %d sent, %d received to %d, %d",
				pair.From, pair.To, was.Sent, was.Received, is.Sent, is.Received)
		}
	}
	for _, c := range s.Cuts {
		if c.Port != AnyPort {
			continue
		}
		pair := Pair{c.From, c.To}
		was, counted := p.after.Reach[pair]
		if !counted {
			return unproven("cannot be proven: no nonces are counted from %s to %s", pair.From, pair.To)
		}
		if got := now.Reach[pair].Received; got > was.Sent {
			return unproven("had no effect: %s still received nonces from %s (number %d, and number %d was the last before the cut)",
				pair.To, pair.From, got, was.Sent)
		}
	}
	var dropped uint64
	for _, n := range now.Dropped[s.ruleSet()] {
		dropped += n
	}
	if dropped < p.dropped {
		return unproven("cannot be proven: its rule counters went back from %d to %d packets", p.dropped, dropped)
	}
	p.dropped = dropped
	return nil
}

// progress says what is still missing for directions to have gone on since
// base, and nothing if all have: enough nonces sent where cut, one sent and
// arrived where open.
func (p *partition) progress(s *Scene, base, now Observation, stage history.FaultStage) string {
	cut := map[Pair]bool{}
	if stage != history.Healed {
		for _, c := range s.Cuts {
			if c.Port == AnyPort {
				cut[Pair{c.From, c.To}] = true
			}
		}
	}
	pairs := sortedPairs(base.Reach)
	for _, c := range between(s.Nodes, func(string, string) bool { return true }) {
		if _, counted := base.Reach[Pair{c.From, c.To}]; !counted {
			return fmt.Sprintf("cannot be proven: no nonces are counted from %s to %s", c.From, c.To)
		}
	}
	for _, pair := range pairs {
		was, is := base.Reach[pair], now.Reach[pair]
		switch {
		case cut[pair]:
			if is.Sent < was.Sent+minNonces {
				return fmt.Sprintf("cannot be proven: %s sent %d nonces to %s within %s, and %d are needed",
					pair.From, is.Sent-min(is.Sent, was.Sent), pair.To, s.Limits.Proof, minNonces)
			}
		case s.ground.isCut(pair): // by another fault: own cuts came first, and are forgotten when healed
		case is.Sent <= was.Sent:
			return fmt.Sprintf("cannot be proven: %s sent no nonces to %s within %s", pair.From, pair.To, s.Limits.Proof)
		case is.Received <= was.Sent:
			if stage == history.Healed {
				return fmt.Sprintf("was not healed: nothing arrived at %s from %s within %s", pair.To, pair.From, s.Limits.Proof)
			}
			return fmt.Sprintf("cut more than it should: nothing arrived at %s from %s within %s", pair.To, pair.From, s.Limits.Proof)
		}
	}
	return ""
}

// figures gives, per cut direction, the last nonce sent before the cut, the last
// one sent and the last one received, and the packets dropped.
func (p *partition) figures(s *Scene, now Observation) map[string]string {
	f := map[string]string{"dropped": strconv.FormatUint(p.dropped, 10)}
	for _, c := range s.Cuts {
		pair := Pair{c.From, c.To}
		f[c.From+"→"+c.To] = fmt.Sprintf("sent %d before, %d now, received %d",
			p.after.Reach[pair].Sent, now.Reach[pair].Sent, now.Reach[pair].Received)
	}
	return f
}

func sortedPairs(reach map[Pair]Reach) []Pair {
	return slices.SortedFunc(maps.Keys(reach), func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
