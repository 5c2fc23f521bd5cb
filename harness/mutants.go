package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/system/reference"
	"github.com/faultline-mq/faultline/nemesis"
)

// HasMutants says whether this binary holds the reference broker's seeded bugs.
const HasMutants = reference.HasMutants

// Mutant is a bug that can be seeded into the reference broker.
type Mutant = reference.Mutant

// ControlSeeds are those of the smallest control: enough for one that decides nothing.
const ControlSeeds = 50

// SeedRange is the distance between the first seeds of two ranges.
const SeedRange = 1_000_000

// MutantHunt looks for seeded bugs with the plans of a swarm. What a mutant's entry fixes
// of them (mutant.Hunt) is what has to be there for its rule to matter.
type MutantHunt struct {
	Mutants []Mutant
	// Base gives what is not drawn, the scheme and what the mutants' hunts fix apart.
	Base   Plan
	First  uint64
	Ranges int           // disjoint ranges of seeds, from First, First+SeedRange, …
	Seeds  int           // at most so many per mutant and range; 0: until Budget is over
	Budget time.Duration // at most so long per mutant and range; 0: until Seeds are done
	// Control is how many seeds the broker without a mutant runs for each that was run
	// with one, of the same plans; 0: no control. There are at least ControlSeeds.
	Control int
	// Shrink is how long a smaller plan is looked for that still breaks the same
	// clause, once per mutant that was found; 0: not at all.
	Shrink time.Duration
	Out    string // where seeds that are not valid are stored; "": nowhere
	Pool   *Pool
	// Each is told about every mutant and range, and about the controls, as they end.
	Each func(MutantRun)
}

// MutantRun is one mutant hunted on one range of seeds, or a control.
type MutantRun struct {
	ID           string        `json:"id,omitempty"` // empty: a control
	Name         string        `json:"mutant,omitempty"`
	Plans        string        `json:"plans,omitempty"` // of which mutant the plans are; empty: those of the scheme
	Scheme       string        `json:"scheme"`
	First        uint64        `json:"first_seed"`
	Seeds        int           `json:"seeds"` // that ended, the convicted one included
	Elapsed      time.Duration `json:"elapsed_ns"`
	Found        bool          `json:"found"`
	Seed         uint64        `json:"seed,omitempty"` // that was convicted
	Broken       []Breach      `json:"broken,omitempty"`
	Expected     bool          `json:"expected"` // one of the clauses that were expected broke
	Sentence     string        `json:"sentence,omitempty"`
	Inconclusive int           `json:"inconclusive"`
	Failed       int           `json:"harness_errors"`
	Spoiled      []Spoiled     `json:"spoiled,omitempty"`
	Shrunk       *Size         `json:"shrunk,omitempty"` // of the smallest plan that was looked for
	Dir          string        `json:"dir,omitempty"`
	Interrupted  bool          `json:"interrupted,omitempty"`
}

// Spoiled is a seed that was convicted with a mutant and is not valid without it
// either.
type Spoiled struct {
	Seed     uint64   `json:"seed"`
	Standing Standing `json:"standing"` // without the mutant
}

// LookupMutants returns the mutants of these names or ids; without names, those
// that are not held for equivalent. Every error wraps ErrBadPlan.
func LookupMutants(only ...string) ([]Mutant, error) {
	all := reference.Mutants()
	if !HasMutants {
		return nil, fmt.Errorf("%w: this faultline has no mutants; build it with `go build -tags mutants ./cmd/faultline`, or say `make mutants`", ErrBadPlan)
	}
	if len(only) == 0 {
		return slices.DeleteFunc(all, func(m Mutant) bool { return m.Equivalent != "" }), nil
	}
	var names []string
	for _, m := range all {
		names = append(names, m.Name)
	}
	var found []Mutant
	for _, name := range only {
		is := func(m Mutant) bool { return m.Name == name || m.ID == name }
		if i := slices.IndexFunc(UnseededMutants(), is); i >= 0 {
			m := UnseededMutants()[i]
			return nil, fmt.Errorf("%w: mutant %s (%s) is not there yet: it needs %s", ErrBadPlan, m.ID, m.Name, m.Needs)
		}
		i := slices.IndexFunc(all, is)
		if i < 0 {
			return nil, fmt.Errorf("%w: unknown mutant %q; known mutants: %v", ErrBadPlan, name, names)
		}
		found = append(found, all[i])
	}
	return found, nil
}

// Run hunts every mutant on every range, then the controls, one for all mutants of a
// scheme with the same plans. It
// returns what was done when ctx ended. An error is the caller's to mend
// (ErrBadPlan), or says that no worker could be started.
func (h MutantHunt) Run(ctx context.Context) ([]MutantRun, error) {
	if h.Ranges < 1 || h.Seeds < 0 || h.Seeds > SeedRange || h.Budget < 0 || h.Seeds == 0 && h.Budget == 0 || h.Control < 0 {
		return nil, fmt.Errorf("%w: %d ranges of %d seeds, %s each, control %d: at least one range, and seeds (up to %d) or a budget above zero are wanted",
			ErrBadPlan, h.Ranges, h.Seeds, h.Budget, h.Control, SeedRange)
	}
	var runs []MutantRun
	add := func(r MutantRun, err error) error {
		if err != nil {
			return err
		}
		runs = append(runs, r)
		if h.Each != nil {
			h.Each(r)
		}
		return nil
	}
	var controls []control
	for _, m := range h.Mutants {
		i := slices.IndexFunc(controls, func(c control) bool { return c.m.Scheme == m.Scheme && reflect.DeepEqual(c.m.Hunt, m.Hunt) })
		if i < 0 {
			i, controls = len(controls), append(controls, control{m: m})
		}
		small := false
		for n := range h.Ranges {
			if ctx.Err() != nil {
				return runs, nil
			}
			r, err := h.hunt(ctx, m, true, h.First+uint64(n)*SeedRange, h.Seeds, h.Budget)
			if err == nil && r.Found && h.Shrink > 0 && !small {
				small = true
				r.Shrunk, err = h.shrunk(ctx, m, r.Seed)
			}
			if err := add(r, err); err != nil {
				return runs, err
			}
			controls[i].seeds += r.Seeds
		}
	}
	for _, c := range controls {
		if ctx.Err() != nil || h.Control == 0 {
			return runs, nil
		}
		seeds := min(max(ControlSeeds, h.Control*c.seeds), SeedRange)
		if err := add(h.hunt(ctx, c.m, false, h.First, seeds, 0)); err != nil {
			return runs, err
		}
	}
	return runs, nil
}

// control is what is hunted without a mutant: m's plans, for so many seeds with it and
// with those that have the same plans.
type control struct {
	m     Mutant
	seeds int
}

// hunt runs seeds until one is convicted that is valid without the mutant: what
// the plan itself breaks says nothing about the mutant.
func (h MutantHunt) hunt(ctx context.Context, m Mutant, with bool, first uint64, seeds int, budget time.Duration) (MutantRun, error) {
	r := MutantRun{Scheme: m.Scheme, First: first}
	if with {
		r.ID, r.Name = m.ID, m.Name
	}
	if !m.Hunt.Drawn() {
		r.Plans = m.Name
	}
	begin := time.Now()
	for next := first; ; next = r.Seed + 1 {
		cfg := HuntConfig{First: next, Seeds: seeds, Budget: budget, Out: h.Out, Pool: h.Pool, Plans: h.plans(m, with)}
		if seeds > 0 {
			cfg.Seeds -= r.Seeds
		}
		if budget > 0 {
			cfg.Budget = max(1, budget-time.Since(begin))
		}
		if err := h.convict(ctx, cfg, &r); err != nil {
			return r, err
		}
		if r.Found && with {
			cfg.First, cfg.Seeds, cfg.Budget, cfg.Out, cfg.Plans = r.Seed, 1, 0, "", h.plans(m, false)
			confirmed := false
			cfg.Each = func(t Trial, s Standing) {
				if confirmed = s == SeedValid; !confirmed {
					r.Spoiled = append(r.Spoiled, Spoiled{t.Seed, s})
				}
			}
			if _, err := Hunt(ctx, cfg); err != nil {
				return r, err
			}
			if !confirmed {
				r.Found, r.Broken, r.Sentence, r.Dir = false, nil, "", ""
			}
		}
		r.Elapsed = time.Since(begin)
		if r.Found || ctx.Err() != nil || r.exhausted(seeds, budget) {
			break
		}
	}
	r.Expected = slices.ContainsFunc(r.Broken, func(b Breach) bool { return slices.Contains(m.Clauses, b.Clause) })
	r.Interrupted = ctx.Err() != nil && !r.Found
	return r, nil
}

// shrunk returns how small the plan of a seed that was convicted becomes.
func (h MutantHunt) shrunk(ctx context.Context, m Mutant, seed uint64) (*Size, error) {
	p, err := h.plans(m, true)(seed)
	if err != nil {
		return nil, err
	}
	small, err := Shrink(ctx, ShrinkConfig{Plan: p, Budget: h.Shrink, Pool: h.Pool})
	if err != nil {
		return nil, fmt.Errorf("shrinking seed %d of mutant %s: %w", seed, m.Name, err)
	}
	return &small.After, nil
}

func (r *MutantRun) exhausted(seeds int, budget time.Duration) bool {
	return seeds > 0 && r.Seeds >= seeds || budget > 0 && r.Elapsed >= budget
}

// plans gives the plans of a mutant, with it or without.
func (h MutantHunt) plans(m Mutant, with bool) func(seed uint64) (Plan, error) {
	s := Swarm{Base: h.Base, Fixed: map[string]bool{}, Faults: m.Hunt.Faults, Haze: m.Hunt.Haze, When: nemesis.Event(m.Hunt.When), Then: m.Hunt.Then, Estrange: m.Hunt.Estrange}
	s.Base.Scheme, s.Base.Options = m.Scheme, maps.Clone(m.Hunt.Options)
	if m.Hunt.Rate > 0 {
		s.Base.Rate, s.Fixed[DimRate] = m.Hunt.Rate, true
	}
	if m.Hunt.Nodes > 0 {
		s.Base.Nodes, s.Fixed[DimNodes] = m.Hunt.Nodes, true
	}
	return func(seed uint64) (Plan, error) {
		p, err := s.Plan(seed)
		if err != nil || !with {
			return p, err
		}
		p.Options = maps.Clone(p.Options)
		p.Options[reference.MutantOption] = m.Name
		return p.Resolve()
	}
}

// convict runs seeds until the first that is convicted.
func (h MutantHunt) convict(ctx context.Context, cfg HuntConfig, r *MutantRun) error {
	until, stop := context.WithCancel(ctx)
	defer stop()
	cfg.Each = func(t Trial, s Standing) {
		if s != SeedInvalid || r.Found {
			return
		}
		r.Found, r.Seed, r.Broken, r.Sentence, r.Dir = true, t.Seed, t.Broken, t.Sentence, t.Dir
		stop()
	}
	found, err := Hunt(until, cfg)
	if err != nil && !(r.Found && errors.Is(err, context.Canceled)) {
		return err
	}
	r.Seeds += found.Seeds
	r.Inconclusive += len(found.Inconclusive)
	r.Failed += len(found.Failed)
	return nil
}

// MutantsExit is the exit code of a hunt for mutants: 1 when one was not found on
// a range, or a control or a seed without its mutant was convicted, 255 when the harness failed, 2 when it was
// interrupted or more than 2 % of a control's seeds decided nothing, 0 otherwise.
func MutantsExit(runs []MutantRun) int {
	missed, failed, open := false, false, len(runs) == 0
	for _, r := range runs {
		control := r.ID == ""
		missed = missed || r.Found == control && !r.Interrupted
		missed = missed || slices.ContainsFunc(r.Spoiled, func(s Spoiled) bool { return s.Standing == SeedInvalid })
		failed = failed || r.Failed > 0 && !r.Found
		open = open || r.Interrupted || control && r.Inconclusive*50 > r.Seeds
	}
	switch {
	case missed:
		return checker.Invalid.ExitCode()
	case failed:
		return checker.HarnessError.ExitCode()
	case open:
		return checker.Unknown.ExitCode()
	}
	return 0
}

// AllMutants lists every mutant, those that are held for equivalent too, and those that
// there are not yet.
func AllMutants() []Mutant { return slices.Concat(reference.Mutants(), UnseededMutants()) }

// UnseededMutants lists those that there are not yet, each with what it needs.
func UnseededMutants() []Mutant { return reference.UnseededMutants() }
