package harness

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/report"
)

// MatrixConfig says which claims are put to the test, and how hard.
type MatrixConfig struct {
	Claims      []Claim
	Environment string // docker or sim
	First       uint64 // seed
	// Seeds is how many runs a case must hold in that every run must; Tries how many
	// may be spent until one shows what it is to show.
	Seeds, Tries int
	// Out is where the runs are stored that show each case best (in docker all of
	// them); "": nowhere, in the simulator.
	Out     string
	Command string
	// Pool runs simulations; nil: this process does. Parallel is how many clusters
	// docker has at once.
	Pool     *Pool
	Parallel int
	// Each is told about every claim that is decided, in the order in which they are.
	Each func(report.ClaimRow)
}

// claimProof is how far the cases of one claim have come.
type claimProof struct {
	*Claim
	cases []*proof
	told  bool
}

// Matrix runs claims until each is decided or has had its runs. In the simulator the
// outcome hangs on the first seed alone, not on the number of workers. Where ctx ends
// first the matrix holds what was decided until then. Errors are those of a pool that
// cannot start, of results that cannot be stored, and ErrBadPlan.
func Matrix(ctx context.Context, cfg MatrixConfig) (report.Matrix, error) {
	m := report.Matrix{
		Version: report.MatrixVersion, Started: time.Now(), Environment: cfg.Environment, Commit: Revision(), Command: cfg.Command, FirstSeed: cfg.First,
	}
	if cfg.Seeds < 1 || cfg.Tries < 1 {
		return m, fmt.Errorf("%w: %d seeds and %d tries: at least one of each is wanted", ErrBadPlan, cfg.Seeds, cfg.Tries)
	}
	var claims []*claimProof
	for i := range cfg.Claims {
		claims = append(claims, cfg.begin(&cfg.Claims[i]))
	}
	for ctx.Err() == nil {
		r, err := cfg.round(claims)
		if err != nil {
			return m, err
		}
		err = cfg.do(ctx, r.jobs, r.done)
		r.close()
		if err != nil && ctx.Err() == nil {
			return m, err
		}
		if len(r.jobs) == 0 {
			break
		}
	}
	if ctx.Err() == nil {
		if err := cfg.keep(ctx, claims); err != nil && ctx.Err() == nil {
			return m, err
		}
	}
	for _, c := range claims {
		m.Rows = append(m.Rows, cfg.row(c))
	}
	if cause := context.Cause(ctx); cause != nil {
		m.Interrupted = cause.Error()
	}
	m.DurationMS = float64(time.Since(m.Started).Milliseconds())
	m.Count()
	return m, nil
}

// begin finds out which cases of a claim can be run at all.
func (cfg MatrixConfig) begin(c *Claim) *claimProof {
	p := &claimProof{Claim: c}
	for i := range c.Cases {
		k := &c.Cases[i]
		p.cases = append(p.cases, &proof{Case: k, unfit: cfg.unfit(c, k)})
	}
	return p
}

// unfit says why a case cannot be run, or returns "".
func (cfg MatrixConfig) unfit(c *Claim, k *Case) string {
	if why := c.Unexercised(); why != "" {
		return why
	}
	if len(c.Environments) > 0 && !slices.Contains(c.Environments, cfg.Environment) {
		return fmt.Sprintf("it is exercised in %s only", strings.Join(c.Environments, ", "))
	}
	sys, err := LookupSystem(k.Plan.System)
	if err != nil {
		return oneLine(err)
	}
	built := false
	for _, s := range sys.Schemes() {
		built = built || s.Name == k.Scheme
	}
	if !built {
		return fmt.Sprintf("scheme %s is not built yet", k.Scheme)
	}
	for _, s := range k.Plan.Steps {
		if awaited(s.Fault) {
			return fmt.Sprintf("fault %s is not built yet", s.Fault)
		}
	}
	if _, err := k.plan(cfg.Environment, cfg.First); err != nil {
		return "its plan is refused: " + strings.TrimPrefix(oneLine(err), ErrBadPlan.Error()+": ")
	}
	return ""
}

// round are the runs that all cases want next.
type round struct {
	cfg    MatrixConfig
	jobs   []Job
	of     []*proof
	claims []*claimProof
	trials []Trial
	left   map[*claimProof]int // runs of each claim that are not done
}

// round asks each case what it wants to run next. Claims that want nothing are decided.
func (cfg MatrixConfig) round(claims []*claimProof) (*round, error) {
	r := &round{cfg: cfg, left: map[*claimProof]int{}}
	for _, c := range claims {
		for _, p := range c.cases {
			for i := range p.more(cfg.Seeds, cfg.Tries) {
				plan, err := p.plan(cfg.Environment, cfg.First+uint64(len(p.trials)+i))
				if err != nil {
					return nil, err
				}
				r.jobs = append(r.jobs, Job{Plan: plan, Command: cfg.again(c.ID, plan.Seed)})
				r.of, r.claims = append(r.of, p), append(r.claims, c)
				r.left[c]++
			}
		}
		if r.left[c] == 0 {
			cfg.tell(c)
		}
	}
	r.trials = make([]Trial, len(r.jobs))
	return r, nil
}

// done takes the trial of a job. It is called by one task at a time.
func (r *round) done(i int, t Trial) {
	r.trials[i] = t
	c := r.claims[i]
	if r.left[c]--; r.left[c] > 0 {
		return
	}
	r.hand(c)
	if !slices.ContainsFunc(c.cases, func(p *proof) bool { return p.more(r.cfg.Seeds, r.cfg.Tries) > 0 }) {
		r.cfg.tell(c)
	}
}

// hand gives a claim's trials to its cases, in the order of their seeds.
func (r *round) hand(c *claimProof) {
	for i, t := range r.trials {
		if r.claims[i] == c && t.Verdict != "" { // it was run
			r.of[i].trials = append(r.of[i].trials, t)
		}
	}
}

// close hands over what was done of claims whose runs were cut short.
func (r *round) close() {
	for c, n := range r.left {
		if n > 0 {
			r.hand(c)
		}
	}
}

// again is the command line that runs a claim with one seed.
func (cfg MatrixConfig) again(id string, seed uint64) string {
	return fmt.Sprintf("faultline matrix --claims %s --env %s --first-seed %d --seeds 1 --tries 1", id, cfg.Environment, seed)
}

// do runs jobs and hands each trial to done, one at a time, in the order in which they
// end. It returns ctx's error where that ended first.
func (cfg MatrixConfig) do(ctx context.Context, jobs []Job, done func(int, Trial)) error {
	if cfg.Environment == "sim" {
		return cfg.Pool.jobs(ctx, jobs, done)
	}
	var mu sync.Mutex
	turns := make(chan struct{}, max(1, cfg.Parallel))
	var g sync.WaitGroup
	for i, j := range jobs {
		turns <- struct{}{}
		g.Go(func() {
			defer func() { <-turns }()
			if ctx.Err() != nil {
				return
			}
			if t, ok := inContainers(ctx, j, cfg.Out); ok {
				mu.Lock()
				defer mu.Unlock()
				done(i, t)
			}
		})
	}
	g.Wait()
	return ctx.Err()
}

// inContainers runs a job in containers. What an environment refuses is a trial that
// decides nothing: another case may be possible. It is not ok where ctx ended it.
func inContainers(ctx context.Context, j Job, out string) (t Trial, ok bool) {
	o, err := Run(ctx, Config{Plan: j.Plan, RunID: docker.NewRunID(), Log: slog.New(slog.DiscardHandler)}, out, j.Command)
	if ctx.Err() != nil {
		return Trial{}, false
	}
	t = Trial{Seed: j.Plan.Seed, Verdict: checker.HarnessError, Dir: o.Dir}
	switch {
	case o.Result != nil && o.History != nil:
		t.summarize(o.Result, o.History, o.Execution)
	case err != nil:
		t.Err = oneLine(err)
		t.Sentence = "Harness error: " + t.Err
	default:
		t.Sentence = o.Summary.Sentence
	}
	return t, true
}

// tell hands over a claim that is decided, once.
func (cfg MatrixConfig) tell(c *claimProof) {
	if !c.told && cfg.Each != nil {
		cfg.Each(cfg.row(c))
	}
	c.told = true
}

// keep stores the run that shows each case best. Simulations are run again for it:
// the same seed gives the same history.
func (cfg MatrixConfig) keep(ctx context.Context, claims []*claimProof) error {
	if cfg.Environment != "sim" || cfg.Out == "" {
		return nil
	}
	var jobs []Job
	var whose []*Trial
	for _, c := range claims {
		for _, p := range c.cases {
			best := p.judge(cfg.Seeds).best
			if best == nil {
				continue
			}
			plan, err := p.plan(cfg.Environment, best.Seed)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(p.trials, func(t Trial) bool { return t.Seed == best.Seed })
			jobs = append(jobs, Job{Plan: plan, Out: cfg.Out, Keep: true, Command: cfg.again(c.ID, best.Seed)})
			whose = append(whose, &p.trials[i])
		}
	}
	return cfg.Pool.jobs(ctx, jobs, func(i int, t Trial) { whose[i].Dir = t.Dir })
}

// row is a claim with what became of it.
func (cfg MatrixConfig) row(c *claimProof) report.ClaimRow {
	r := report.ClaimRow{
		ID: c.ID, Family: c.Family, Title: c.Title, Schemes: c.Schemes(), Says: c.Says, Done: c.Done, Expected: c.Expected, Verdicts: c.Verdicts, Evidence: c.Evidence,
		Source: c.Source, Outcome: report.NotExercised, Open: checker.Valid, Why: c.Unexercised(), Cases: []report.ClaimCase{},
	}
	if c.Observed != nil {
		r.Observed = fmt.Sprintf("%s (seed %d)", c.Observed.Reason, c.Observed.Seed)
	}
	var cases []verdict
	for _, p := range c.cases {
		v := p.judge(cfg.Seeds)
		cases = append(cases, v)
		r.Cases = append(r.Cases, cfg.line(p, v))
	}
	if len(cases) > 0 {
		r.Outcome, r.Why, r.Open = c.sum(cases)
	}
	return r
}

// sum draws the outcome of a claim from its cases: broken where one is, not exercised
// where one is not, and otherwise what they show together.
func (c *Claim) sum(cases []verdict) (outcome report.ClaimOutcome, why string, open checker.Verdict) {
	open = checker.Valid
	say := func(i int) string {
		if c.Cases[i].Name == "" {
			return cases[i].why
		}
		return c.Cases[i].Name + ": " + cases[i].why
	}
	for i, v := range cases {
		if v.open == checker.HarnessError || v.open == checker.Unknown && open == checker.Valid {
			open = v.open
		}
		if v.outcome == report.Broken {
			return report.Broken, say(i), checker.Valid
		}
	}
	for i, v := range cases {
		if v.outcome == report.NotExercised {
			if c.Cases[i].Name == "" || c.Unexercised() != "" {
				return report.NotExercised, v.why, open
			}
			return report.NotExercised, say(i), open
		}
	}
	outcome = report.Kept
	var all []string
	for i, v := range cases {
		if v.outcome == report.LossReproduced {
			outcome = report.LossReproduced
		}
		all = append(all, say(i))
	}
	if c.Observed != nil {
		outcome = report.Differs
	}
	return outcome, strings.Join(all, ". "), open
}

// line is a case with its figures.
func (cfg MatrixConfig) line(p *proof, v verdict) report.ClaimCase {
	l := report.ClaimCase{
		Name: p.Name, Scheme: p.Scheme, Faults: append([]string{}, p.faults()...), Options: []string{}, Outcome: v.outcome, Why: v.why,
		Runs: len(p.trials), Counted: len(v.counted), FailoverMS: []float64{}, RecoveryMS: []float64{},
	}
	for _, name := range slices.Sorted(maps.Keys(p.Plan.Options)) {
		l.Options = append(l.Options, name+"="+p.Plan.Options[name])
	}
	for _, t := range v.counted {
		l.Acknowledged += t.Acknowledged
		l.Lost += t.lost()
	}
	if v.best == nil {
		return l
	}
	l.Seed, l.UnavailableMS = v.best.Seed, v.best.Figures.UnavailableMS
	for _, s := range v.best.Figures.Steps {
		l.FailoverMS, l.RecoveryMS = append(l.FailoverMS, s.FailoverMS), append(l.RecoveryMS, s.RecoveryMS)
	}
	if dir := v.best.Dir; dir != "" {
		if rel, err := filepath.Rel(cfg.Out, dir); err == nil {
			l.Dir = filepath.ToSlash(rel)
		}
	}
	return l
}
