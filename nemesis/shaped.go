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
	eachWay                     bool // volleys are sent from both ends of a link
	claimed, attempted, applied bool
	before                      map[Pair]Echo
	foreign                     map[Pair]bool // links that another fault was on at any time
	counted                     uint64        // the system's own packets that were hit, at the latest proof
}

// shares are what the seed chooses from where a fault hits a share of packets.
var shares = []float64{0.1, 0.2, 0.3}

// shareEchoes is how many datagrams show a share. Of so many at least 20 are
// expected to be hit in each direction; fewer than a quarter of the expected
// number are no accident, and one in a hundred may be hit by chance without it.
const (
	shareEchoes = 200
	shareChance = shareEchoes / 100
)

func (*shaped) lacking(fault string, t Target) error {
	return lacking(fault, map[Capability]bool{NeedsShaping: t.Shaper != nil, NeedsRoles: t.Roles != nil})
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

// measured are the links that volleys are sent on, from each end where that is asked for.
func (h *shaped) measured(s *Scene) []Pair {
	pairs := h.links(s)
	if h.eachWay {
		for _, p := range slices.Clone(pairs) {
			pairs = append(pairs, Pair{p.To, p.From})
		}
	}
	return pairs
}

// elsewhere reports whether another fault cuts or shapes a link, or did so when
// it was measured first, so that what is measured there tells nothing of this one.
func (h *shaped) elsewhere(s *Scene, p Pair) bool {
	if s.ground.isCut(p) || s.ground.isCut(Pair{p.To, p.From}) {
		h.foreign[p] = true
	}
	for _, end := range []string{p.From, p.To} {
		if !slices.Contains(s.Targets, end) && s.ground.owners["links of "+end] != "" {
			h.foreign[p] = true
		}
	}
	return h.foreign[p]
}

func (h *shaped) apply(ctx context.Context, s *Scene, v Volley, rule Shaping) error {
	if err := s.ground.claim("links", s.Step.Name(), s.Targets); err != nil {
		return err
	}
	h.claimed = true
	h.before, h.foreign = map[Pair]Echo{}, map[Pair]bool{}
	for _, p := range h.measured(s) {
		echo, err := s.Shaper.Echo(ctx, p.From, p.To, v)
		if err != nil {
			return fmt.Errorf("measuring the link from %s to %s: %w", p.From, p.To, err)
		}
		h.before[p] = echo
		h.elsewhere(s, p)
	}
	var rules []Shaping
	for _, p := range h.links(s) {
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
func (h *shaped) prove(ctx context.Context, s *Scene, stage history.FaultStage, v Volley, wrong func(before, now Echo) string) (Proof, error) {
	figures := map[string]string{}
	judged := 0
	for _, p := range h.measured(s) {
		name := p.From + "↔" + p.To
		if h.elsewhere(s, p) {
			figures[name] = "not judged: another fault is on this link"
			continue
		}
		// A busy host may spoil one volley. Where nothing is done to packets, or all
		// the time, several show no other picture.
		var why string
		if _, err := s.waitFor(ctx, s.Limits.Proof, func() (bool, error) {
			now, err := s.Shaper.Echo(ctx, p.From, p.To, v)
			if err != nil {
				return false, fmt.Errorf("measuring the link from %s to %s: %w", p.From, p.To, err)
			}
			figures[name] = now.describe() + fmt.Sprintf(" (%s before)", h.before[p].Median)
			why = wrong(h.before[p], now)
			return why == "", nil
		}); err != nil {
			return Proof{}, err
		}
		judged++
		if why != "" {
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
		return Proof{Detail: many(judged, "link is as before", "links are as before"), Figures: figures}, nil
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
	return Proof{Detail: fmt.Sprintf("%s disturbed; %d packets of the system were hit", many(judged, "link is", "links are"), own), Figures: figures}, nil
}

// describe says what a volley showed.
func (e Echo) describe() string {
	text := fmt.Sprintf("%d sent, %d arrived, %d came back", e.Sent, e.Arrived, e.Returned)
	for _, x := range []struct {
		what        string
		there, back int
	}{
		{"came twice", e.There.Twice, e.Back.Twice},
		{"were overtaken", e.There.Overtaken, e.Back.Overtaken},
		{"were damaged", e.There.Damaged, e.Back.Damaged},
	} {
		if x.there+x.back > 0 {
			text += fmt.Sprintf(", %d there and %d back %s", x.there, x.back, x.what)
		}
	}
	return text + fmt.Sprintf(", all there within %s, median round trip %s", e.There.Spread, e.Median)
}

// sharing is what faults that hit a share of packets have in common.
type sharing struct {
	shaped
	share float64
}

// applyShare draws the share, and applies the rule that it makes.
func (h *sharing) applyShare(ctx context.Context, s *Scene, rule func(share float64) Shaping) error {
	h.share = shares[s.rng.IntN(len(shares))]
	return h.apply(ctx, s, Volley{Count: shareEchoes}, rule(h.share))
}

// proveShare wants datagrams hit in each direction, near the share, and after
// healing none. hits tells how many were, of so many: there, and back.
func (h *sharing) proveShare(ctx context.Context, s *Scene, stage history.FaultStage, what string, hits func(Echo) (there, sent, back, arrived int)) (Proof, error) {
	return h.prove(ctx, s, stage, Volley{Count: shareEchoes}, func(_, now Echo) string {
		if now.Returned == 0 {
			return "no datagram came back"
		}
		there, sent, back, arrived := hits(now)
		text := fmt.Sprintf("%d of %d datagrams %s on the way there, %d of %d on the way back; a share of %g was asked for", there, sent, what, back, arrived, h.share)
		switch {
		case stage == history.Healed:
			if there+back > shareChance {
				return text
			}
		case float64(there) < h.share*float64(sent)/4, float64(back) < h.share*float64(arrived)/4:
			return text
		}
		return ""
	})
}
