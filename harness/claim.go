package harness

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/nemesis"
)

// Claim is one sentence about a replication scheme, and how it is put to the test.
//
// A row about another system has the id of the row that it repeats, an @ and the
// system's name, and what it leaves out of the sentence, the words and the evidence is
// that row's.
type Claim struct {
	ID     string `yaml:"id"`
	System string `yaml:"-"`      // of its cases: what its id names, "reference" where it names none
	Scheme string `yaml:"scheme"` // of its cases, where they do not name another
	Says   string `yaml:"says"`   // the sentence
	Done   string `yaml:"done"`   // configuration and fault, in words
	// Expected is what happens, as the source has it. Verdicts are the words of it
	// that must be seen, Possible those that may, Excluded those that it denies, and
	// Deferred those that only a queue's operations can show.
	Expected string   `yaml:"expected"`
	Verdicts []string `yaml:"verdicts"`
	Possible []string `yaml:"possible,omitempty"`
	Excluded []string `yaml:"excluded,omitempty"`
	Deferred []string `yaml:"deferred,omitempty"`
	Evidence string   `yaml:"evidence"`         // measured, source, public report, not verified
	Source   string   `yaml:"source,omitempty"` // where it is from, and its figures
	// Environments that it can be run in; empty: docker and sim.
	Environments []string `yaml:"environments,omitempty"`
	// Docker: it is one of those that are run in Docker where nobody says which.
	Docker bool `yaml:"docker,omitempty"`
	// Exempt, Needs and Missing say why it is not exercised: it is of another system,
	// it needs operations that no workload has, or something is not built.
	Exempt  string `yaml:"exempt,omitempty"`
	Needs   string `yaml:"needs,omitempty"`
	Missing string `yaml:"missing,omitempty"`
	// Observed: a faithful implementation behaves otherwise, and the cases say how.
	Observed *Observed `yaml:"observed,omitempty"`
	Cases    []Case    `yaml:"cases,omitempty"`

	Family string `yaml:"-"` // its table
	Title  string `yaml:"-"` // of the table
}

// Observed says how a faithful implementation behaves instead.
type Observed struct {
	Reason string `yaml:"reason"`
	Seed   uint64 `yaml:"seed"` // that shows it
}

// Case is one plan of a claim and what its runs must show.
type Case struct {
	Name     string            `yaml:"name,omitempty"`
	Scheme   string            `yaml:"scheme,omitempty"`
	Scenario string            `yaml:"scenario,omitempty"` // its plan is this scenario's
	Weakened bool              `yaml:"weakened,omitempty"`
	Set      map[string]string `yaml:"set,omitempty"` // options over the plan's
	Plan     Plan              `yaml:"plan,omitempty"`
	// Safe: every run must be valid. It counts only if all its faults were proven
	// under load. Otherwise the first run counts that shows everything.
	Safe bool `yaml:"safe,omitempty"`
	// Undecided says why a run may leave a clause open, and counts all the same.
	Undecided string `yaml:"undecided,omitempty"`
	Shows     []Sign `yaml:"shows,omitempty"`  // at least one run must show all of them together
	Always    []Sign `yaml:"always,omitempty"` // every run must
	Never     []Sign `yaml:"never,omitempty"`  // no run may
}

// Sign is one thing that a run may show. Exactly one of Class, Unavailable, Traffic,
// Reached and Leaders is given.
type Sign struct {
	Verdict string `yaml:"verdict,omitempty"` // the word that it stands for
	Step    int    `yaml:"step,omitempty"`    // the fault that it is about, by id
	// Class of anomalies of a clause, by a kind of scheme event where it is given.
	// Window and By, for lost messages, say which of them, and Share is the least
	// share of those that are lost.
	Clause string  `yaml:"clause,omitempty"`
	Class  string  `yaml:"class,omitempty"`
	Event  string  `yaml:"event,omitempty"`
	Window string  `yaml:"window,omitempty"`  // before: acknowledged before the fault; during: while it lasted
	By     string  `yaml:"by,omitempty"`      // targets: acknowledged by a node under the fault; others; empty: any
	Share  float64 `yaml:"share,omitempty"`   // of the acknowledged ones, 0 to 1
	AtMost int     `yaml:"at_most,omitempty"` // so many anomalies at most; 0: any number
	// Unavailable: until the fault is healed, for good, or for a time within bounds.
	Unavailable string        `yaml:"unavailable,omitempty"` // healed, forever, gap
	Least       time.Duration `yaml:"least,omitempty"`
	Most        time.Duration `yaml:"most,omitempty"`
	// Traffic of Window and By: none acknowledged, some acknowledged, some acknowledged
	// and none of them delivered before healing; some that nobody but a target had, which
	// delivered them after healing; or polls during the fault that saw less than was
	// acknowledged before.
	Traffic string `yaml:"traffic,omitempty"` // none, some, unseen, held, stale
	// Reached is the name of a rule that a run must have come across.
	Reached string `yaml:"reached,omitempty"`
	// Leaders: spread before the faults, back at the end, or copies: every partition
	// is complete on all its replicas.
	Leaders string `yaml:"leaders,omitempty"`
}

// Words of verdicts, as claims use them.
const (
	wordSafe    = "SAFE"
	wordUnavail = "UNAVAIL"
)

// harms are the words for what a claim expects to go wrong beside unavailability.
var harms = []string{"LOSS", "DUP", "REORDER", "STALE", "SPLIT", "CORRUPT", "PHANTOM", "RESURRECT"}

var (
	claimID      = regexp.MustCompile(`^(([A-Z]{2})[0-9]+b?)(?:@([a-z]+))?$`)
	verdictWords = regexp.MustCompile(`\b(SAFE|UNAVAIL|` + strings.Join(harms, "|") + `)\b`)
)

//go:embed claims/*.yaml
var claimFiles embed.FS

// Claims lists all claims in the order of their tables.
func Claims() ([]Claim, error) {
	files, err := fs.Glob(claimFiles, "claims/*.yaml")
	if err != nil {
		return nil, err
	}
	var all []Claim
	for _, file := range files {
		b, err := claimFiles.ReadFile(file)
		if err != nil {
			return nil, err
		}
		claims, err := parseClaims(b, file, all)
		if err != nil {
			return nil, err
		}
		for _, c := range claims {
			if slices.ContainsFunc(all, func(o Claim) bool { return o.ID == c.ID }) {
				return nil, fmt.Errorf("%s: claim %s is there twice", file, c.ID)
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// table is one file of claims.
type table struct {
	Title  string  `yaml:"title"`
	Claims []Claim `yaml:"claims"`
}

// ParseClaims reads one table of claims. Unknown keys are refused, and so is what
// could not be judged.
func ParseClaims(b []byte, name string) ([]Claim, error) { return parseClaims(b, name, nil) }

// parseClaims is ParseClaims where rows may repeat those of tables before.
func parseClaims(b []byte, name string, before []Claim) ([]Claim, error) {
	var t table
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.DisallowUnknownField()).Decode(&t); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if t.Title == "" || len(t.Claims) == 0 {
		return nil, fmt.Errorf("%s: a table of claims needs a title and at least one claim", name)
	}
	seen := map[string]bool{}
	for i := range t.Claims {
		c := &t.Claims[i]
		if seen[c.ID] {
			return nil, fmt.Errorf("%s: claim %s is there twice", name, c.ID)
		}
		seen[c.ID] = true
		c.Title = t.Title
		err := c.repeat(slices.Concat(before, t.Claims[:i]))
		if err == nil {
			err = c.complete()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: claim %s: %w", name, c.ID, err)
		}
	}
	return t.Claims, nil
}

// casePlan is what the plan of a case overrides: that of a run in the simulator with
// phases that hold one fault.
func casePlan() Plan {
	p := DefaultPlan()
	p.Faults = nil  // its steps are all
	p.Workload = "" // the system's own
	p.Environment = "sim"
	p.Phases = Phases{Baseline: 4 * time.Second, Fault: 14 * time.Second, Recovery: 8 * time.Second}
	return p
}

// UnmarshalYAML reads a case over the defaults of its plan.
func (c *Case) UnmarshalYAML(b []byte) error {
	type plain Case
	p := plain{Plan: casePlan()}
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.DisallowUnknownField()).Decode(&p); err != nil {
		return err
	}
	*c = Case(p)
	return nil
}

// repeat takes what a row about another system leaves out from the row that it repeats.
func (c *Claim) repeat(before []Claim) error {
	m := claimID.FindStringSubmatch(c.ID)
	if m == nil {
		return fmt.Errorf("id %q: two capital letters and a number are wanted, and for another system an @ and its name", c.ID)
	}
	c.Family, c.System = m[2], m[3]
	if c.System == "" {
		c.System = DefaultPlan().System
		return nil
	}
	i := slices.IndexFunc(before, func(o Claim) bool { return o.ID == m[1] })
	if i < 0 {
		return fmt.Errorf("no table before has row %s, which it repeats", m[1])
	}
	o := before[i]
	for _, f := range []struct{ to, from *string }{{&c.Says, &o.Says}, {&c.Done, &o.Done}, {&c.Expected, &o.Expected}, {&c.Evidence, &o.Evidence}, {&c.Source, &o.Source}} {
		if *f.to == "" {
			*f.to = *f.from
		}
	}
	if len(c.Verdicts)+len(c.Possible)+len(c.Excluded)+len(c.Deferred) == 0 {
		c.Verdicts, c.Possible, c.Excluded, c.Deferred = o.Verdicts, o.Possible, o.Excluded, o.Deferred
	}
	return nil
}

// complete fills in what cases inherit, and refuses what could not be judged.
func (c *Claim) complete() error {
	if c.System == "" {
		c.System = DefaultPlan().System
	}
	for _, f := range []struct{ name, value string }{{"says", c.Says}, {"done", c.Done}, {"expected", c.Expected}, {"evidence", c.Evidence}} {
		if strings.TrimSpace(f.value) == "" {
			return fmt.Errorf("%s is empty", f.name)
		}
	}
	for _, env := range c.Environments {
		if env != "docker" && env != "sim" {
			return fmt.Errorf("unknown environment %q; known environments: docker, sim", env)
		}
	}
	if c.Docker && (c.Unexercised() != "" || len(c.Environments) > 0 && !slices.Contains(c.Environments, "docker")) {
		return errors.New("docker: it is not exercised there")
	}
	if err := c.checkWords(); err != nil {
		return err
	}
	if c.Observed != nil && (c.Observed.Reason == "" || c.Observed.Seed == 0) {
		return errors.New("observed needs a reason and the seed that shows it")
	}
	if c.Unexercised() == "" && len(c.Cases) == 0 {
		return errors.New("it has no case, and nothing says why")
	}
	for i := range c.Cases {
		if err := c.Cases[i].complete(c.System, c.Scheme); err != nil {
			return fmt.Errorf("case %d %s: %w", i, c.Cases[i].Name, err)
		}
	}
	return c.checkJudged()
}

// Unexercised says why the claim has no run of its own, "" where it has.
func (c *Claim) Unexercised() string {
	switch {
	case c.Exempt != "":
		return "exempt: " + c.Exempt
	case c.Needs != "":
		return "needs " + c.Needs
	case c.Missing != "":
		return c.Missing
	}
	return ""
}

// checkWords compares the lists of words with what the source says.
func (c *Claim) checkWords() error {
	listed := slices.Concat(c.Verdicts, c.Possible, c.Excluded, c.Deferred)
	for _, w := range listed {
		if verdictWords.FindString(w) != w {
			return fmt.Errorf("unknown verdict %q; known: %s, %s, %s", w, wordSafe, wordUnavail, strings.Join(harms, ", "))
		}
	}
	for _, w := range verdictWords.FindAllString(c.Expected, -1) {
		if !slices.Contains(listed, w) {
			return fmt.Errorf("it expects %q, and %s is in none of verdicts, possible, excluded, deferred", c.Expected, w)
		}
	}
	return nil
}

// checkJudged wants every verdict that is expected judged by some case. Where the
// implementation behaves otherwise the cases say how.
func (c *Claim) checkJudged() error {
	if len(c.Cases) == 0 || c.Observed != nil {
		return nil
	}
	judged := map[string]bool{}
	for _, k := range c.Cases {
		judged[wordSafe] = judged[wordSafe] || k.Safe
		for _, s := range slices.Concat(k.Shows, k.Always) {
			judged[s.Verdict] = true
		}
		for _, s := range k.Never { // what else may break, nothing is lost
			judged[wordSafe] = judged[wordSafe] || s.Verdict == wordSafe && s.Class == checker.ClassLost
		}
	}
	for _, w := range c.Verdicts {
		if !judged[w] {
			return fmt.Errorf("no case judges %s", w)
		}
	}
	return nil
}

func (k *Case) complete(system, scheme string) error {
	if k.Scheme == "" {
		k.Scheme = scheme
	}
	if k.Scheme == "" {
		return errors.New("no scheme is named")
	}
	if k.Scenario != "" {
		p, err := LookupScenario(k.Scenario, k.Weakened)
		if err != nil {
			return err
		}
		k.Plan = p
	} else if k.Weakened {
		return errors.New("weakened: only a scenario can be")
	}
	if len(k.Plan.Faults) > 0 {
		return errors.New("faults: a case gives its steps")
	}
	if !k.Safe && len(k.Shows)+len(k.Always)+len(k.Never) == 0 {
		return errors.New("it judges nothing: say safe, shows, always or never")
	}
	k.Plan.System, k.Plan.Scheme = system, k.Scheme
	k.Plan.Options = maps.Clone(k.Plan.Options)
	if k.Plan.Options == nil {
		k.Plan.Options = map[string]string{}
	}
	maps.Copy(k.Plan.Options, k.Set)
	for _, s := range k.Plan.Steps {
		if awaited(s.Fault) {
			continue
		}
		if err := s.Validate(k.Plan.NodeNames()); err != nil {
			return err
		}
	}
	if err := nemesis.ValidateNames(k.Plan.Steps); err != nil {
		return err
	}
	for _, s := range slices.Concat(k.Shows, k.Always, k.Never) {
		if err := s.validate(k.Plan.Steps); err != nil {
			return err
		}
	}
	return nil
}

// awaitedFaults are those that claims have in their plans and nobody can inject yet.
var awaitedFaults = []string{"lock-remove"}

// awaited reports whether a fault is still to be built.
func awaited(fault string) bool {
	return slices.Contains(awaitedFaults, fault) && !slices.ContainsFunc(nemesis.Known(), func(f nemesis.Info) bool { return f.Name == fault })
}

// oneOf refuses a value that is none of a field's.
func oneOf(field, value string, known ...string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("%s %q: known are %s", field, value, strings.Join(known, ", "))
}

func (s Sign) validate(steps []nemesis.Step) error {
	given := 0
	for _, v := range []string{s.Class, s.Unavailable, s.Traffic, s.Reached, s.Leaders} {
		if v != "" {
			given++
		}
	}
	if given != 1 {
		return errors.New("a sign is exactly one of class, unavailable, traffic, reached, leaders")
	}
	ofStep := s.Window != "" || s.Unavailable != "" || s.Traffic != ""
	if ofStep && !slices.ContainsFunc(steps, func(o nemesis.Step) bool { return o.ID == s.Step }) {
		return fmt.Errorf("it is about step %d, which the plan does not have", s.Step)
	}
	var errs []error
	if s.Verdict != "" {
		errs = append(errs, oneOf("verdict", s.Verdict, append([]string{wordSafe, wordUnavail}, harms...)...))
	}
	errs = append(errs, oneOf("window", s.Window, "", "before", "during"), oneOf("by", s.By, "", "targets", "others"))
	switch {
	case s.Class != "":
		errs = append(errs, oneOf("class", s.Class, checker.Classes()...), oneOf("clause", s.Clause, checker.Clauses()...), s.validateShare())
	case s.Unavailable != "":
		errs = append(errs, oneOf("unavailable", s.Unavailable, "healed", "forever", "gap"))
		if bounded := s.Least > 0 || s.Most > 0; bounded != (s.Unavailable == "gap") || s.Most > 0 && s.Most < s.Least {
			errs = append(errs, fmt.Errorf("least %s and most %s: a gap has bounds, and nothing else", s.Least, s.Most))
		}
	case s.Traffic != "":
		errs = append(errs, oneOf("traffic", s.Traffic, "none", "some", "unseen", "held", "stale"), oneOf("window", s.Window, "before", "during"))
		if s.Traffic == "stale" && s.Window != "during" {
			errs = append(errs, errors.New("stale polls are counted during a fault"))
		}
	case s.Reached != "":
		var names []string
		for _, r := range Rules() {
			names = append(names, r.Name)
		}
		errs = append(errs, oneOf("reached", s.Reached, names...))
	default:
		errs = append(errs, oneOf("leaders", s.Leaders, "spread", "back", "copies"))
	}
	return errors.Join(errs...)
}

// validateShare: only lost messages have their acknowledgement's time and node.
func (s Sign) validateShare() error {
	switch narrowed := s.Window != "" || s.By != "" || s.Share != 0; {
	case !narrowed:
		return nil
	case s.Class != checker.ClassLost || s.Window == "":
		return errors.New("by and share are of lost messages, with a window")
	case s.Share < 0 || s.Share > 1:
		return fmt.Errorf("share %g: 0 to 1 is possible", s.Share)
	}
	return nil
}

// LookupClaims returns the claims by their ids, all of them where none is named. An
// unknown id wraps ErrBadPlan.
func LookupClaims(all []Claim, ids []string) ([]Claim, error) {
	if len(ids) == 0 {
		return all, nil
	}
	var some []Claim
	for _, id := range ids {
		i := slices.IndexFunc(all, func(c Claim) bool { return strings.EqualFold(c.ID, id) })
		if i < 0 {
			return nil, fmt.Errorf("%w: unknown claim %q; faultline list claims names them", ErrBadPlan, id)
		}
		if !slices.ContainsFunc(some, func(c Claim) bool { return c.ID == all[i].ID }) {
			some = append(some, all[i])
		}
	}
	return some, nil
}

// OfSchemes returns the claims that have a case on one of the schemes.
func OfSchemes(all []Claim, schemes []string) []Claim {
	return slices.DeleteFunc(slices.Clone(all), func(c Claim) bool {
		return !slices.ContainsFunc(c.Schemes(), func(s string) bool { return slices.Contains(schemes, s) })
	})
}

// ForDocker returns the claims that are run in Docker where nobody says which: of those
// about the reference broker at least two of each scheme, and few enough for an hour.
func ForDocker(all []Claim) []Claim {
	return slices.DeleteFunc(slices.Clone(all), func(c Claim) bool { return !c.Docker && c.System == DefaultPlan().System })
}

// OfSystems returns the claims about the systems.
func OfSystems(all []Claim, systems []string) []Claim {
	return slices.DeleteFunc(slices.Clone(all), func(c Claim) bool { return !slices.Contains(systems, c.System) })
}

// Schemes are those of the claim's cases, or its own where it has none.
func (c *Claim) Schemes() []string {
	var names []string
	for _, k := range c.Cases {
		if !slices.Contains(names, k.Scheme) {
			names = append(names, k.Scheme)
		}
	}
	if len(names) == 0 && c.Scheme != "" {
		names = []string{c.Scheme}
	}
	return names
}

// Shard returns the i-th of n parts of the claims (i from 1): together they hold
// each claim once. Neighbours go to different parts, so that these take about as long.
func Shard(all []Claim, i, n int) ([]Claim, error) {
	if n < 1 || i < 1 || i > n {
		return nil, fmt.Errorf("%w: shard %d/%d: i from 1 to n is wanted, as 2/4", ErrBadPlan, i, n)
	}
	var some []Claim
	for k := i - 1; k < len(all); k += n {
		some = append(some, all[k])
	}
	return some, nil
}

// plan is the case's plan with a seed, resolved.
func (k *Case) plan(env string, seed uint64) (Plan, error) {
	p := k.Plan
	p.Environment, p.Seed = env, seed
	p.Steps = slices.Clone(p.Steps)
	for i := range p.Steps {
		p.Steps[i].Seed = seed*1000 + uint64(i)
	}
	return p.Resolve()
}

// faults names the case's faults, each once.
func (k *Case) faults() []string {
	var names []string
	for _, s := range k.Plan.Steps {
		if !slices.Contains(names, s.Fault) {
			names = append(names, s.Fault)
		}
	}
	return names
}
