package nemesis

import (
	"context"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// shaped is what faults on packets share: the links between each target and
// every other endpoint, clients among them, in both directions.
type shaped struct {
	claimed, attempted, applied bool
	before                      map[Pair]Echo
	foreign                     map[Pair]bool // links that another fault was on at any time
	counted                     uint64        // the system's own packets that were hit, at the latest proof
}

// links are the pairs that a target is an end of, once each.
func (*shaped) links(s *Scene) []Pair {
	var pairs []Pair
	for _, n := range s.Targets {
		for _, other := range append(slices.Clone(s.Nodes), Clients) {
			if other != n && !slices.Contains(pairs, Pair{other, n}) {
				pairs = append(pairs, Pair{n, other})
			}
		}
	}
	return pairs
}

// elsewhere reports whether another fault cuts or shapes a link, or did so when
// it was measured first, so that what is measured there tells nothing of this one.
func (h *shaped) elsewhere(s *Scene, p Pair) bool {
	if s.ground.isCut(p) || s.ground.isCut(Pair{p.To, p.From}) || !slices.Contains(s.Targets, p.To) && s.ground.owners["links of "+p.To] != "" {
		h.foreign[p] = true
	}
	return h.foreign[p]
}

func (h *shaped) apply(ctx context.Context, s *Scene, count int, rule Shaping) error {
	if err := s.ground.claim("links", s.Step.Name(), s.Targets); err != nil {
		return err
	}
	h.claimed = true
	h.before, h.foreign = map[Pair]Echo{}, map[Pair]bool{}
	var rules []Shaping
	for _, p := range h.links(s) {
		echo, err := s.Shaper.Echo(ctx, p.From, p.To, count)
		if err != nil {
			return fmt.Errorf("measuring the link from %s to %s: %w", p.From, p.To, err)
		}
		h.before[p] = echo
		h.elsewhere(s, p)
		there, back := rule, rule
		there.From, there.To = p.From, p.To
		back.From, back.To = p.To, p.From
		rules = append(rules, there, back)
	}
	h.attempted = true
	if err := s.Shaper.Shape(ctx, s.ruleSet(), rules); err != nil {
		return fmt.Errorf("shaping %d directions: %w", len(rules), err)
	}
	h.applied = true
	return nil
}

// Heal implements Fault.
func (h *shaped) Heal(ctx context.Context, s *Scene) error {
	if h.attempted {
		// A set that never came to be whole may be unknown.
		if err := s.Shaper.Unshape(ctx, s.ruleSet()); err != nil && h.applied {
			return fmt.Errorf("unshaping: %w", err)
		}
	}
	if h.claimed {
		s.ground.release("links", s.Targets)
		h.claimed = false
	}
	return nil
}

// prove measures every link and lets wrong judge it; before healing at the
// latest the rules must have met packets of the system itself.
func (h *shaped) prove(ctx context.Context, s *Scene, stage history.FaultStage, count int, wrong func(before, now Echo) string) (Proof, error) {
	figures := map[string]string{}
	judged := 0
	for _, p := range h.links(s) {
		if h.elsewhere(s, p) {
			figures[p.From+"↔"+p.To] = "not judged: another fault is on this link"
			continue
		}
		now, err := s.Shaper.Echo(ctx, p.From, p.To, count)
		if err != nil {
			return Proof{}, fmt.Errorf("measuring the link from %s to %s: %w", p.From, p.To, err)
		}
		judged++
		figures[p.From+"↔"+p.To] = fmt.Sprintf("%d sent, %d arrived, %d came back, median round trip %s (%s before)", now.Sent, now.Arrived, now.Returned, now.Median, h.before[p].Median)
		if why := wrong(h.before[p], now); why != "" {
			had := "had no effect"
			if stage == history.Healed {
				had = "was not healed"
			}
			return Proof{}, &UnprovenError{fmt.Sprintf("%s: between %s and %s %s", had, p.From, p.To, why), figures}
		}
	}
	if judged == 0 {
		return Proof{}, &UnprovenError{"cannot be proven: other faults are on all of its links", figures}
	}
	if stage == history.Healed {
		return Proof{Detail: fmt.Sprintf("%d links are as before", judged), Figures: figures}, nil
	}
	counts, err := s.Shaper.Shaped(ctx, s.ruleSet())
	if err != nil {
		return Proof{}, fmt.Errorf("counting packets: %w", err)
	}
	var own uint64
	for _, n := range counts {
		own += n
	}
	figures["packets"] = fmt.Sprint(own)
	switch {
	case own < h.counted:
		return Proof{}, &UnprovenError{fmt.Sprintf("cannot be proven: its counters went back from %d to %d packets", h.counted, own), figures}
	case stage == history.StillProven && own == h.counted:
		return Proof{}, &UnprovenError{"met no packet of the system itself since its first proof", figures}
	}
	h.counted = own
	return Proof{Detail: fmt.Sprintf("%d links are disturbed; %d packets of the system were hit", judged, own), Figures: figures}, nil
}
