package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// ErrNotFailing is returned (wrapped) by Shrink for a plan that breaks no clause
// when it is run.
var ErrNotFailing = errors.New("nothing to shrink")

// ShrinkConfig is what Shrink begins from.
type ShrinkConfig struct {
	Plan Plan // of a simulated run that breaks a clause
	// Pool runs candidates; nil: this process does, one after another. What is
	// found does not depend on it.
	Pool *Pool
	// Budget ends the search with what was found until then; 0: none. Without it
	// the same plan always shrinks to the same plan.
	Budget time.Duration
	// Runs bounds the runs, likewise; 0: none.
	Runs int
	// Steady looks for a plan that fails in real time too: one that does so whenever
	// it begins, and though its operations come somewhat earlier or later than
	// planned, and with faults as long as a schedule makes them.
	Steady bool
	// Each is told about every smaller plan.
	Each func(Size, string)
}

// Size says how large a plan is.
type Size struct {
	Faults, Operations, Clients, Nodes, Partitions int
	Time                                           time.Duration // of all phases
}

// String is "2 faults, 14 operations of 2 clients, 3 nodes, 1 partition, 12s".
func (s Size) String() string {
	n := func(n int, what string) string {
		if n != 1 {
			what += "s"
		}
		return fmt.Sprintf("%d %s", n, what)
	}
	return fmt.Sprintf("%s, %s of %s, %s, %s, %s", n(s.Faults, "fault"), n(s.Operations, "operation"), n(s.Clients, "client"), n(s.Nodes, "node"),
		n(s.Partitions, "partition"), s.Time.Round(time.Millisecond))
}

// Shrunk is the smallest plan found that still breaks the same clause.
type Shrunk struct {
	Plan          Plan // resolved
	Clause, Class string
	Before, After Size
	Runs          int
	Elapsed       time.Duration
	Cut           bool // budget, runs or ctx ended the search before nothing smaller failed
}

// Shrink looks for a small plan that breaks the same clause by the same class of
// anomaly: it takes away faults, operations, clients, nodes, partitions and
// options, and shortens what is left, as long as a run in the simulator still
// fails. Operations become a script (Plan.Script) on the way. A plan that does
// not fail any more is refused (ErrNotFailing).
func Shrink(ctx context.Context, cfg ShrinkConfig) (Shrunk, error) {
	begin := time.Now()
	p := cfg.Plan
	if p.Environment != "sim" {
		return Shrunk{}, fmt.Errorf("%w: environment %s: only runs of the simulator can be shrunk, as it alone repeats them exactly", ErrBadPlan, p.Environment)
	}
	p, err := p.Resolve()
	if err != nil {
		return Shrunk{}, err
	}
	s := &shrinker{cfg: cfg, seen: map[string]bool{}}
	res, h, err := s.simulate(ctx, p)
	if err != nil {
		return Shrunk{}, err
	}
	broken := breaches(res)
	if len(broken) == 0 || len(broken[0].Classes) == 0 {
		return Shrunk{}, fmt.Errorf("%w: the run breaks no clause: %s", ErrNotFailing, res.Sentence)
	}
	s.best, s.clause, s.class, s.ops, s.clients = p, broken[0].Clause, broken[0].Classes[0], len(h.Ops), len(h.Header.Clients)
	out := Shrunk{Clause: s.clause, Class: s.class, Before: s.size()}
	if cfg.Budget > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.Budget)
		defer cancel()
	}
	err = s.all(ctx)
	out.Cut = errors.Is(err, errOver)
	if err != nil && !out.Cut {
		return Shrunk{}, err
	}
	if out.Plan, err = s.best.Resolve(); err != nil {
		return Shrunk{}, err
	}
	out.After, out.Runs, out.Elapsed = s.size(), s.runs, time.Since(begin)
	return out, nil
}

// errOver ends a search whose budget is spent.
var errOver = errors.New("the budget is spent")

// shrinker holds the smallest failing plan so far.
type shrinker struct {
	cfg           ShrinkConfig
	best          Plan
	clause, class string
	ops, clients  int // of the best plan's run
	runs          int
	seen          map[string]bool // candidates that did not fail
}

func (s *shrinker) size() Size {
	parts, _ := strconv.Atoi(s.best.Options["partitions"])
	return Size{
		Faults: len(s.best.Steps), Operations: s.ops, Clients: s.clients, Nodes: s.best.Nodes, Partitions: parts,
		Time: s.best.Phases.Baseline + s.best.Phases.Fault + s.best.Phases.Recovery,
	}
}

func (s *shrinker) simulate(ctx context.Context, p Plan) (*checker.Result, *history.History, error) {
	s.runs++
	res, h, _, err := Simulate(ctx, p)
	return res, h, err
}

// same reports whether a trial failed in the way that is looked for.
func (s *shrinker) same(t Trial) bool {
	return slices.ContainsFunc(t.Broken, func(b Breach) bool { return b.Clause == s.clause && slices.Contains(b.Classes, s.class) })
}

// change is one way to make a plan smaller; ok is false where there is nothing
// to change.
type change func(p *Plan) (ok bool)

// first tries changes of the best plan, in order, and keeps the first that still
// fails; it reports whether one did. Candidates run in parallel, and the order
// alone decides.
func (s *shrinker) first(ctx context.Context, what string, changes ...change) (int, error) {
	width := 1
	if s.cfg.Pool != nil {
		width = max(1, s.cfg.Pool.Workers)
	}
	for i := 0; i < len(changes); {
		var plans []Plan
		var keys []string
		var index []int
		for ; i < len(changes) && len(plans) < width; i++ {
			p, ok := s.candidate(changes[i])
			if !ok {
				continue
			}
			y, err := p.YAML()
			if err != nil {
				return -1, err
			}
			if !s.seen[string(y)] {
				plans, keys, index = append(plans, p), append(keys, string(y)), append(index, i)
			}
		}
		if len(plans) == 0 {
			continue
		}
		var runs []Plan
		for _, p := range plans {
			runs = append(runs, s.variants(p)...)
		}
		if ctx.Err() != nil || s.cfg.Runs > 0 && s.runs+len(runs) > s.cfg.Runs {
			return -1, errOver
		}
		trials, err := s.cfg.Pool.all(ctx, runs)
		if ctx.Err() != nil {
			return -1, errOver
		}
		if err != nil {
			return -1, err
		}
		s.runs += len(runs)
		each := len(runs) / len(plans)
		for j := range plans {
			of := trials[j*each : (j+1)*each]
			if slices.ContainsFunc(of, func(t Trial) bool { return !s.same(t) }) {
				s.seen[keys[j]] = true
				continue
			}
			s.best, s.ops = plans[j], of[0].Operations
			if sc := s.best.Script; sc != nil {
				s.clients = len(sc.Clients)
			}
			if s.cfg.Each != nil {
				s.cfg.Each(s.size(), what)
			}
			return index[j], nil
		}
	}
	return -1, nil
}

// variants returns what must fail for a plan to count: the plan, and where it is
// to be steady, the same under another seed, with everything later than planned, and
// with operations earlier and later than faults would have them.
func (s *shrinker) variants(p Plan) []Plan {
	if !s.cfg.Steady {
		return []Plan{p}
	}
	vary := func(later, operations time.Duration) Plan {
		v := p
		v.Seed++
		v.Phases.Baseline += later
		if p.Script != nil {
			v.Script = &Script{Clients: p.Script.Clients, Ops: slices.Clone(p.Script.Ops)}
			for i := range v.Script.Ops {
				op := &v.Script.Ops[i]
				op.At = max(0, op.At+later+operations)
			}
		}
		return v
	}
	return []Plan{p, vary(1700*time.Millisecond, 0), vary(0, -500*time.Millisecond), vary(4*time.Second, 1500*time.Millisecond)}
}

// candidate is the best plan with one change, if that gives a plan which can be run.
func (s *shrinker) candidate(c change) (Plan, bool) {
	p := s.best
	p.Steps = slices.Clone(p.Steps)
	p.Options = maps.Clone(p.Options)
	if p.Script != nil {
		p.Script = &Script{Clients: slices.Clone(p.Script.Clients), Ops: slices.Clone(p.Script.Ops)}
	}
	if !c(&p) {
		return Plan{}, false
	}
	p.Targets, p.Faults = "", nil // the steps say both
	for _, st := range p.Steps {
		if !slices.Contains(p.Faults, st.Name()) {
			p.Faults = append(p.Faults, st.Name())
		}
	}
	if p.Script != nil {
		p.Script = p.Script.tidy()
		p.Rate, p.Pinned, p.Clients, p.Idempotent, p.Loyal, p.Seekers = 0, 0, 1, 0, 0, 0
		for _, c := range p.Script.Clients[1:] {
			if c.Role == "producer" {
				p.Clients++
			}
		}
	}
	p, err := p.Resolve()
	return p, err == nil
}

// all goes through the passes until none makes the plan smaller.
func (s *shrinker) all(ctx context.Context) error {
	for {
		before := s.best
		for _, pass := range []func(context.Context) error{s.faults, s.script, s.operations, s.mergeClients, s.cluster, s.options, s.times} {
			if err := pass(ctx); err != nil {
				return err
			}
		}
		a, err := before.YAML()
		if err != nil {
			return err
		}
		b, err := s.best.YAML()
		if err != nil || string(a) == string(b) {
			return err
		}
	}
}

// drop tries to take away parts 0 to n-1 (size says n, remove takes them away), in
// chunks that halve: delta debugging (Zeller and Hildebrandt, 2002).
func (s *shrinker) drop(ctx context.Context, what string, size func() int, remove func(p *Plan, from, to int)) error {
	for chunk := size(); chunk > 0; chunk /= 2 {
		// From the end: what came before is then the same run up to there.
		for to := size(); to > 0; {
			var changes []change
			var ends []int
			for at := to; at > 0; at -= chunk {
				from, end := max(0, at-chunk), at
				changes = append(changes, func(p *Plan) bool { remove(p, from, end); return true })
				ends = append(ends, from)
			}
			i, err := s.first(ctx, what, changes...)
			if err != nil {
				return err
			}
			if i < 0 {
				break
			}
			to = ends[i]
		}
	}
	return nil
}

func (s *shrinker) faults(ctx context.Context) error {
	return s.drop(ctx, "fewer faults", func() int { return len(s.best.Steps) }, func(p *Plan, from, to int) {
		p.Steps = slices.Delete(p.Steps, from, to)
	})
}

func (s *shrinker) operations(ctx context.Context) error {
	if s.best.Script == nil {
		return nil
	}
	return s.drop(ctx, "fewer operations", func() int { return len(s.best.Script.Ops) }, func(p *Plan, from, to int) {
		p.Script.Ops = slices.Delete(p.Script.Ops, from, to)
	})
}

// script writes down what the clients did, as little of it as still fails.
func (s *shrinker) script(ctx context.Context) error {
	if s.best.Script != nil {
		return nil
	}
	if s.cfg.Runs > 0 && s.runs >= s.cfg.Runs {
		return errOver
	}
	res, h, err := s.simulate(ctx, s.best)
	if err != nil {
		if ctx.Err() != nil {
			return errOver
		}
		return err
	}
	whole := scriptOf(h)
	var guilty []int64 // operations that prove the anomalies
	sends := map[history.Value]int64{}
	keys := map[int32]bool{}
	for i := range h.Ops {
		if op := &h.Ops[i]; op.Kind == history.Send {
			sends[op.Value] = op.ID
		}
	}
	for _, c := range res.Checks {
		if c.Name != s.clause {
			continue
		}
		for _, a := range c.Anomalies {
			if a.Class != s.class || len(guilty) > 200 {
				continue
			}
			ops := slices.Clone(a.Ops)
			if id, ok := sends[a.Value]; ok {
				ops = append(ops, id)
			}
			for _, id := range ops {
				if id >= 0 && int(id) < len(h.Ops) && !slices.Contains(guilty, id) {
					guilty = append(guilty, id)
					keys[h.Ops[id].Key] = true
				}
			}
		}
	}
	only := func(keep func(op *history.Op) bool) change {
		return func(p *Plan) bool {
			p.Script = &Script{Clients: whole.Clients}
			for i := range h.Ops {
				if keep(&h.Ops[i]) {
					p.Script.Ops = append(p.Script.Ops, whole.Ops[i])
				}
			}
			return len(p.Script.Ops) > 0
		}
	}
	// Those in the middle are the farthest from where it would not have happened.
	guiltyOf := func(n int) func(*history.Op) bool {
		from := max(0, (len(guilty)-n)/2)
		some := guilty[from:min(from+n, len(guilty))]
		return func(op *history.Op) bool { return slices.Contains(some, op.ID) }
	}
	near := func(every int64) func(*history.Op) bool {
		guilt := guiltyOf(50)
		return func(op *history.Op) bool { return guilt(op) || keys[op.Key] && op.ID%every == 0 }
	}
	_, err = s.first(ctx, "written operations", only(guiltyOf(2)), only(guiltyOf(20)), only(near(50)), only(near(10)), only(near(1)),
		only(func(*history.Op) bool { return true }))
	return err
}

// mergeClients gives the operations of one client to another that is like it.
func (s *shrinker) mergeClients(ctx context.Context) error {
	if s.best.Script == nil {
		return nil
	}
	for {
		var changes []change
		clients := s.best.Script.Clients
		for i, a := range clients {
			for _, b := range clients[i+1:] {
				if a.Role == b.Role {
					changes = append(changes, func(p *Plan) bool {
						for k := range p.Script.Ops {
							if p.Script.Ops[k].Client == b.Name {
								p.Script.Ops[k].Client = a.Name
							}
						}
						return true
					})
				}
			}
		}
		if i, err := s.first(ctx, "fewer clients", changes...); err != nil || i < 0 {
			return err
		}
	}
}

// cluster takes nodes and partitions away.
func (s *shrinker) cluster(ctx context.Context) error {
	fewer := func(n int) change {
		return func(p *Plan) bool {
			if n >= p.Nodes {
				return false
			}
			p.Nodes = n
			if rf, err := strconv.Atoi(p.Options["replication.factor"]); err == nil && rf > n {
				p.Options["replication.factor"] = strconv.Itoa(n)
			}
			// Names beyond the last one become others'.
			rename := func(name string) string {
				if i, err := strconv.Atoi(strings.TrimPrefix(name, "n")); err == nil && i > n {
					return fmt.Sprintf("n%d", (i-1)%n+1)
				}
				return name
			}
			for i := range p.Steps {
				if strings.HasPrefix(p.Steps[i].Targets, "n") {
					var names []string
					for _, name := range strings.Split(p.Steps[i].Targets, ",") {
						if name = rename(name); !slices.Contains(names, name) {
							names = append(names, name)
						}
					}
					p.Steps[i].Targets = strings.Join(names, ",")
				}
			}
			if p.Script != nil {
				for i := range p.Script.Clients {
					p.Script.Clients[i].Pinned = rename(p.Script.Clients[i].Pinned)
				}
			}
			return true
		}
	}
	if _, err := s.first(ctx, "fewer nodes", fewer(1), fewer(2), fewer(3), fewer(4)); err != nil {
		return err
	}
	if s.best.Script == nil {
		return nil
	}
	dense := func(n int) change {
		return func(p *Plan) bool {
			was, err := strconv.Atoi(p.Options["partitions"])
			if err != nil || n >= was {
				return false
			}
			number := map[int32]int32{}
			for i := range p.Script.Ops {
				op := &p.Script.Ops[i]
				if _, ok := number[op.Key]; !ok {
					number[op.Key] = int32(len(number)) % int32(n)
				}
				op.Key = number[op.Key]
			}
			p.Options["partitions"] = strconv.Itoa(n)
			return true
		}
	}
	_, err := s.first(ctx, "fewer partitions", dense(1), dense(2), dense(3), dense(4), dense(6))
	return err
}

// options sets to its default what need not be otherwise.
func (s *shrinker) options(ctx context.Context) error {
	sys, err := LookupSystem(s.best.System)
	if err != nil {
		return err
	}
	plain := s.best
	plain.Options = nil
	defaults := sys.Options(plain.spec(""))
	reset := func(names ...string) change {
		return func(p *Plan) bool {
			changed := false
			for _, name := range names {
				if p.Options[name] != defaults[name] {
					p.Options[name] = defaults[name]
					changed = true
				}
			}
			return changed
		}
	}
	// Partitions have their own pass.
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(s.best.Options)), func(n string) bool { return n == "partitions" })
	if _, err := s.first(ctx, "default options", reset(names...)); err != nil {
		return err
	}
	for _, name := range names {
		if _, err := s.first(ctx, "default "+name, reset(name)); err != nil {
			return err
		}
	}
	size := DefaultPlan().Size
	_, err = s.first(ctx, "default size", func(p *Plan) bool {
		changed := p.Size != size
		p.Size = size
		return changed
	})
	return err
}

// least returns the lengths that times are shortened to: of a phase, of a fault, and
// of what is before it.
func (s *shrinker) least() (phase, fault, gap time.Duration, err error) {
	if !s.cfg.Steady {
		return time.Second, 250 * time.Millisecond, 50 * time.Millisecond, nil
	}
	sys, err := LookupSystem(s.best.System)
	if err != nil {
		return 0, 0, 0, err
	}
	detection := sys.Detection(s.best.spec(""))
	return minPhase, 3 * detection, detection, nil
}

// times shortens phases, faults and the time between them; what comes later moves
// along.
func (s *shrinker) times(ctx context.Context) error {
	leastPhase, leastFault, leastGap, err := s.least()
	if err != nil {
		return err
	}
	// squeeze takes by out of the time from `from` on, counted from the begin of
	// the baseline: later steps and operations come earlier.
	squeeze := func(p *Plan, from, by time.Duration) {
		if p.Script != nil {
			for i := range p.Script.Ops {
				if op := &p.Script.Ops[i]; op.At >= from {
					op.At = max(from, op.At-by)
				}
			}
		}
		for i := range p.Steps {
			st := &p.Steps[i]
			if p.Phases.Baseline+st.At >= from+by {
				st.At -= by
			}
			if p.Phases.Baseline+st.Until >= from+by {
				st.Until -= by
			}
		}
	}
	parts := []time.Duration{1, 2, 4, 8} // of what could be taken away: all, a half, …
	each := func(what string, spare func(Plan) time.Duration, do func(p *Plan, by time.Duration)) error {
		for {
			var changes []change
			for _, part := range parts {
				changes = append(changes, func(p *Plan) bool {
					by := (spare(*p) / part).Truncate(10 * time.Millisecond)
					if by < 100*time.Millisecond {
						return false
					}
					do(p, by)
					return true
				})
			}
			if i, err := s.first(ctx, what, changes...); err != nil || i < 0 {
				return err
			}
		}
	}
	if err := each("shorter baseline", func(p Plan) time.Duration { return p.Phases.Baseline - leastPhase }, func(p *Plan, by time.Duration) {
		// Operations move as faults do, which are counted from the end of the baseline.
		if p.Script != nil {
			for i := range p.Script.Ops {
				p.Script.Ops[i].At = max(0, p.Script.Ops[i].At-by)
			}
		}
		p.Phases.Baseline -= by
	}); err != nil {
		return err
	}
	for i := range s.best.Steps {
		before := func(p Plan) time.Duration {
			last := time.Duration(0)
			for _, st := range p.Steps {
				for _, t := range []time.Duration{st.At, st.Until} {
					if t < p.Steps[i].At {
						last = max(last, t)
					}
				}
			}
			return last
		}
		if err := each("less time before a fault", func(p Plan) time.Duration { return p.Steps[i].At - before(p) - leastGap }, func(p *Plan, by time.Duration) {
			squeeze(p, p.Phases.Baseline+before(*p)+leastGap/2, by)
		}); err != nil {
			return err
		}
		if err := each("a shorter fault", func(p Plan) time.Duration { return p.Steps[i].Until - p.Steps[i].At - leastFault }, func(p *Plan, by time.Duration) {
			squeeze(p, p.Phases.Baseline+p.Steps[i].Until-by, by)
		}); err != nil {
			return err
		}
	}
	end := func(p Plan) time.Duration {
		last := time.Duration(0)
		for _, st := range p.Steps {
			last = max(last, st.Until)
		}
		return last
	}
	if err := each("a shorter fault phase", func(p Plan) time.Duration { return p.Phases.Fault - end(p) }, func(p *Plan, by time.Duration) { p.Phases.Fault -= by }); err != nil {
		return err
	}
	if err := each("a shorter recovery", func(p Plan) time.Duration { return p.Phases.Recovery - leastPhase }, func(p *Plan, by time.Duration) { p.Phases.Recovery -= by }); err != nil {
		return err
	}
	if s.best.Script == nil {
		return nil
	}
	// Round times are easier to read.
	round := func(to time.Duration) change {
		return func(p *Plan) bool {
			changed := false
			for i := range p.Script.Ops {
				at := p.Script.Ops[i].At.Round(to)
				changed = changed || at != p.Script.Ops[i].At
				p.Script.Ops[i].At = at
			}
			for i := range p.Steps {
				st := &p.Steps[i]
				if at, until := st.At.Round(to), st.Until.Round(to); until > at {
					changed = changed || at != st.At || until != st.Until
					st.At, st.Until = at, until
				}
			}
			return changed
		}
	}
	_, err = s.first(ctx, "round times", round(100*time.Millisecond), round(10*time.Millisecond), round(time.Millisecond))
	return err
}

// Story tells what became of the message of the first anomaly of a clause, or
// quotes the anomaly where it is of no message.
func Story(h *history.History, res *checker.Result, clause string) string {
	for _, c := range res.Checks {
		if c.Name != clause || len(c.Anomalies) == 0 {
			continue
		}
		a := c.Anomalies[0]
		if a.Value != 0 {
			if s, err := checker.Explain(h, a.Value); err == nil {
				return s.WithAnomalies(res).String()
			}
		}
		return a.Text + "\n"
	}
	return ""
}
