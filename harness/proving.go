package harness

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/report"
)

// proof is how far the runs of one case have come.
type proof struct {
	*Case
	unfit  string // why it is not run at all
	trials []Trial
}

// verdict is what the runs of a case come to.
type verdict struct {
	outcome report.ClaimOutcome
	why     string
	// open says that more or other runs could have decided it: Unknown, HarnessError.
	open    checker.Verdict
	best    *Trial // that shows it best; nil: none counts
	counted []Trial
}

// counts says why a run may not count, or returns "": a fault without proof, too
// little load, a clause that was left open, or a harness that failed prove nothing.
func (k *Case) counts(t Trial) string {
	switch {
	case t.Err != "":
		return t.Err
	case t.Verdict == checker.HarnessError || t.Verdict == "":
		return t.Sentence
	case len(t.Figures.Steps) < len(k.Plan.Steps):
		return fmt.Sprintf("%d of %d faults were injected", len(t.Figures.Steps), len(k.Plan.Steps))
	}
	for _, s := range t.Figures.Steps {
		switch {
		case s.Skipped:
			return fmt.Sprintf("fault %d (%s) was not injected: its event did not come", s.ID, s.Name)
		case !s.Proven:
			return fmt.Sprintf("fault %d (%s) was not proven", s.ID, s.Name)
		}
	}
	for _, s := range slices.Concat(k.Always, k.Shows) {
		if why := s.stalled(t); why != "" {
			return why
		}
	}
	if t.Verdict == checker.Unknown && k.Undecided == "" {
		if len(t.Why) > 0 {
			return t.Why[0].Why
		}
		return t.Sentence
	}
	return ""
}

// judge draws the outcome of a case from its runs. wanted is how many must hold
// where every run must.
func (p *proof) judge(wanted int) verdict {
	if p.unfit != "" {
		return verdict{outcome: report.NotExercised, why: p.unfit, open: checker.Valid}
	}
	v := verdict{open: checker.Valid}
	var last, reason string
	for i := range p.trials {
		t := &p.trials[i]
		if why := p.counts(*t); why != "" {
			if reason = why; t.Verdict == checker.HarnessError || t.Err != "" {
				v.open = checker.HarnessError
			}
			continue
		}
		v.counted = append(v.counted, *t)
		if why := p.breach(*t); why != "" {
			return verdict{outcome: report.Broken, why: fmt.Sprintf("seed %d: %s", t.Seed, why), open: checker.Valid, best: t, counted: v.counted}
		}
		missing := p.missing(*t)
		if len(p.Shows) > 0 && missing == "" && (v.best == nil || !p.shown(*v.best) || p.better(*t, *v.best)) {
			v.best = t
		} else if len(p.Shows) == 0 && (v.best == nil || p.better(*t, *v.best)) {
			v.best = t
		}
		if missing != "" {
			last = fmt.Sprintf("seed %d did not show it: %s", t.Seed, missing)
		}
	}
	needed := 1
	if p.every() {
		needed = wanted
	}
	switch {
	case len(v.counted) < needed:
		v.outcome = report.NotExercised
		v.why = fmt.Sprintf("%d of %d runs count, and %d are needed", len(v.counted), len(p.trials), needed)
		if reason != "" {
			v.why += ": " + reason
		}
		if v.open == checker.Valid {
			v.open = checker.Unknown
		}
		return v
	case len(p.Shows) > 0 && v.best == nil:
		v.outcome, v.open = report.NotExercised, checker.Unknown
		v.why = fmt.Sprintf("not seen in %d runs; %s", len(v.counted), last)
		v.best = &v.counted[len(v.counted)-1]
		return v
	}
	v.open = checker.Valid
	v.outcome = report.Kept
	if p.harmful() {
		v.outcome = report.LossReproduced
	}
	v.why = p.describe(*v.best)
	return v
}

// every reports whether each run must hold; where something is to be seen once, the
// first run that shows it is enough.
func (k *Case) every() bool { return k.Safe || len(k.Shows) == 0 }

// harmful reports whether the case is to show that something goes wrong.
func (k *Case) harmful() bool {
	return slices.ContainsFunc(slices.Concat(k.Shows, k.Always), func(s Sign) bool { return slices.Contains(harms, s.Verdict) })
}

// more says how many further runs the case wants at once, 0 where those that it has
// decide it; tries bounds the runs of one that has something to show.
func (p *proof) more(wanted, tries int) int {
	if p.unfit != "" {
		return 0
	}
	v := p.judge(wanted)
	limit := tries
	if p.every() {
		limit = max(2*wanted, tries)
	}
	left := limit - len(p.trials)
	switch {
	case v.outcome != report.NotExercised || left <= 0:
		return 0
	case p.every():
		return min(max(1, wanted-len(v.counted)), left)
	}
	return 1
}

// breach says what a run did that no run may, or left out that every run must show.
func (k *Case) breach(t Trial) string {
	if k.Safe && t.Verdict == checker.Invalid {
		return t.Sentence
	}
	for _, s := range k.Always {
		if ok, what := s.in(t); !ok {
			return "missing: " + what
		}
	}
	for _, s := range k.Never {
		if ok, what := s.in(t); ok {
			return "it may never happen, and did: " + what
		}
	}
	return ""
}

// missing says what of Shows a run does not show.
func (k *Case) missing(t Trial) string {
	var all []string
	for _, s := range k.Shows {
		if ok, what := s.in(t); !ok {
			all = append(all, what)
		}
	}
	return strings.Join(all, "; ")
}

func (k *Case) shown(t Trial) bool { return k.missing(t) == "" }

// better reports whether a shows more than b: the loss of more, or a longer gap.
func (k *Case) better(a, b Trial) bool {
	if x, y := a.lost(), b.lost(); x != y {
		return x > y
	}
	return a.Figures.UnavailableMS > b.Figures.UnavailableMS
}

func (k *Case) describe(t Trial) string {
	var all []string
	for _, s := range slices.Concat(k.Shows, k.Always) {
		if _, what := s.in(t); what != "" {
			all = append(all, what)
		}
	}
	if k.Safe {
		all = append(all, "every run was valid")
	}
	return strings.Join(all, "; ")
}

// lost is how many acknowledged messages the run lost, or sent ones where none are
// acknowledged.
func (t Trial) lost() int {
	n := 0
	for _, f := range t.Figures.Findings {
		if f.Class == checker.ClassLost || f.Class == checker.ClassSentLost {
			n += f.Count
		}
	}
	return n
}

// in reports whether a run shows the sign, and says what was looked for and found.
func (s Sign) in(t Trial) (bool, string) {
	switch {
	case s.Class != "":
		return s.anomaly(t)
	case s.Unavailable != "":
		return s.unavailable(t)
	case s.Traffic != "":
		return s.traffic(t)
	case s.Reached != "":
		n := t.Exercised[s.Reached]
		return n > 0, fmt.Sprintf("%s %s", s.Reached, times(n))
	}
	l := t.Figures.Leaders
	switch s.Leaders {
	case "spread":
		return l.Spread, yes(l.Spread, "leaders spread evenly over the nodes", "leaders not spread evenly over the nodes")
	case "back":
		return l.Back, yes(l.Back, "every leadership back where it was", "not every leadership back where it was")
	}
	return l.Copies > 0 && l.Copies >= l.Wanted, fmt.Sprintf("at least %d of %d copies complete", l.Copies, l.Wanted)
}

func yes(ok bool, is, isNot string) string {
	if ok {
		return is
	}
	return isNot
}

func times(n int) string {
	switch n {
	case 0:
		return "not reached"
	case 1:
		return "reached once"
	}
	return fmt.Sprintf("reached %d times", n)
}

func (s Sign) anomaly(t Trial) (bool, string) {
	n := 0
	var others []string
	for _, f := range t.Figures.Findings {
		if f.Clause != s.Clause || f.Class != s.Class {
			continue
		}
		if s.Event != "" && f.Event != s.Event {
			others = append(others, "by "+orElse(f.Event, "no known event"))
			continue
		}
		n += f.Count
	}
	what := fmt.Sprintf("%d %s", n, s.Class)
	if s.Event != "" {
		what += " by " + s.Event
		if n == 0 && len(others) > 0 {
			what += " (" + strings.Join(others, ", ") + ")"
		}
	}
	if s.AtMost > 0 {
		what += fmt.Sprintf(", at most %d", s.AtMost)
	}
	ok := n > 0 && (s.AtMost == 0 || n <= s.AtMost)
	if s.Window == "" {
		return ok, what
	}
	share, whose := s.share(t)
	part := 0.0
	if share.Acknowledged > 0 {
		part = float64(share.Lost) / float64(share.Acknowledged)
	}
	return ok && share.Lost > 0 && part >= s.Share, fmt.Sprintf("%s; %d of %d lost (%.0f %%) that were acknowledged %s", what, share.Lost, share.Acknowledged, 100*part, whose)
}

// share are the acknowledged sends of the sign's window and nodes.
func (s Sign) share(t Trial) (Share, string) {
	f, ok := t.step(s.Step)
	if !ok {
		return Share{}, fmt.Sprintf("around fault %d, which was not injected", s.Step)
	}
	traffic, when := f.Before, "before"
	if s.Window == "during" {
		traffic, when = f.During, "during"
	}
	whose := fmt.Sprintf("%s fault %d", when, s.Step)
	switch s.By {
	case "targets":
		return traffic.Targets, whose + " by its targets"
	case "others":
		return traffic.Others, whose + " by other nodes"
	}
	return Share{
		Acknowledged: traffic.Targets.Acknowledged + traffic.Others.Acknowledged,
		Lost:         traffic.Targets.Lost + traffic.Others.Lost,
		Seen:         traffic.Targets.Seen + traffic.Others.Seen,
		Held:         traffic.Targets.Held + traffic.Others.Held,
		Stale:        traffic.Targets.Stale + traffic.Others.Stale,
	}, whose
}

func (t Trial) step(id int) (StepFigures, bool) {
	i := slices.IndexFunc(t.Figures.Steps, func(f StepFigures) bool { return f.ID == id })
	if i < 0 || t.Figures.Steps[i].Skipped {
		return StepFigures{}, false
	}
	return t.Figures.Steps[i], true
}

func (s Sign) unavailable(t Trial) (bool, string) {
	f, ok := t.step(s.Step)
	if !ok {
		return false, fmt.Sprintf("fault %d was not injected", s.Step)
	}
	gap := time.Duration(f.FailoverMS * float64(time.Millisecond)).Round(time.Millisecond)
	switch {
	case s.Unavailable == "forever":
		return f.RecoveryMS < 0, yes(f.RecoveryMS < 0, fmt.Sprintf("no write after fault %d", f.ID), fmt.Sprintf("writes again %.0f ms after fault %d", f.RecoveryMS, f.ID))
	case f.FailoverMS < 0 && f.RecoveryMS >= 0:
		return s.Unavailable == "healed", fmt.Sprintf("no write until fault %d was healed, again %.0f ms after it", f.ID, f.RecoveryMS)
	case f.FailoverMS < 0:
		return false, fmt.Sprintf("no write during fault %d nor after it", f.ID)
	}
	return s.Unavailable == "gap" && max(gap, f.outage()) >= s.Least && (s.Most == 0 || gap <= s.Most), fmt.Sprintf("writes again %s into fault %d, after %s without any", gap, f.ID, f.outage().Round(time.Millisecond))
}

// outage is the longest time without writes that the fault was a part of. Its injection
// takes time in containers, and what is dead by then was missed by others before it is
// complete.
func (f StepFigures) outage() time.Duration {
	return time.Duration(f.OutageMS * float64(time.Millisecond))
}

// stalled says that a gap may have been as long as the sign wants and only looks shorter,
// because the harness stood still, or returns "".
func (s Sign) stalled(t Trial) string {
	f, ok := t.step(s.Step)
	stalled := time.Duration(f.StalledMS * float64(time.Millisecond))
	if !ok || s.Unavailable != "gap" || f.FailoverMS < 0 || f.outage() >= s.Least || f.outage()+stalled < s.Least {
		return ""
	}
	return fmt.Sprintf("the harness stood still for %s: whether no write came for %s around fault %d is open", stalled.Round(time.Millisecond), s.Least, f.ID)
}

func (s Sign) traffic(t Trial) (bool, string) {
	share, whose := s.share(t)
	switch s.Traffic {
	case "none":
		return share.Acknowledged == 0, fmt.Sprintf("%d acknowledged %s", share.Acknowledged, whose)
	case "stale":
		return share.Stale > 0, fmt.Sprintf("%d polls saw less than was acknowledged before, %s", share.Stale, whose)
	case "held":
		return share.Held > 0, fmt.Sprintf("%d of %d that were acknowledged %s were delivered to nobody until it was healed, and then by its targets", share.Held, share.Acknowledged, whose)
	case "unseen":
		return share.Acknowledged > 0 && share.Seen == 0, fmt.Sprintf("%d acknowledged %s, %d of them delivered before it was healed", share.Acknowledged, whose, share.Seen)
	}
	return share.Acknowledged > 0, fmt.Sprintf("%d acknowledged %s", share.Acknowledged, whose)
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
