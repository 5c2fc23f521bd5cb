package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// Trial is one run in the simulator, in brief: what a worker process hands back.
type Trial struct {
	Seed         uint64           `json:"seed"`
	Verdict      checker.Verdict  `json:"verdict"`
	Sentence     string           `json:"sentence"`
	Broken       []Breach         `json:"broken,omitempty"` // promised clauses that are invalid, in the order of the report
	Why          []checker.Reason `json:"why,omitempty"`    // why it decided nothing
	Operations   int              `json:"operations"`
	Acknowledged int              `json:"acknowledged"`
	Proven       int              `json:"proven"` // faults proven after injection, before healing, and healed
	Virtual      time.Duration    `json:"virtual"`
	Exercised    map[string]int   `json:"exercised"` // what the checkers counted, and rules by name
	History      string           `json:"history"`   // digest of the history
	Trace        string           `json:"trace"`     // digest of everything that the simulation did
	Err          string           `json:"err,omitempty"`
	Figures      Figures          `json:"figures"`
	Dir          string           `json:"dir,omitempty"`   // where the run was stored
	Memory       uint64           `json:"memory"`          // bytes that the process has from the system
	Refused      bool             `json:"refused"`         // the plan cannot be run; Err says why
	Lost         bool             `json:"lost,omitempty"`  // the worker died or hung; Err says how
	Crash        string           `json:"crash,omitempty"` // the end of its standard error
}

// Breach is one broken clause.
type Breach struct {
	Clause  string   `json:"clause"`
	Classes []string `json:"classes"`          // of its anomalies, in the order of the report
	Events  []string `json:"events,omitempty"` // kinds of the scheme events that broke it, likewise
	Count   int      `json:"count"`
}

// Seeds count only if the run was long, busy and disturbed enough.
const (
	MinVirtual      = 60 * time.Second
	MinAcknowledged = 2000
	MinProven       = 3
)

// Short says why a valid run is too small to count, or returns "".
func (t Trial) Short() string {
	switch {
	case t.Virtual < MinVirtual:
		return fmt.Sprintf("it simulated %s, and a seed counts from %s on: use a longer --time", t.Virtual.Round(time.Millisecond), MinVirtual)
	case t.Acknowledged < MinAcknowledged:
		return fmt.Sprintf("%d messages were acknowledged, and a seed counts from %d on: use a longer --time, a higher --rate or fewer faults", t.Acknowledged, MinAcknowledged)
	case t.Proven < MinProven:
		return fmt.Sprintf("%d faults were proven, and a seed counts from %d on: use a longer --time or name faults", t.Proven, MinProven)
	}
	return ""
}

// Simulate runs one resolved plan in the simulator and judges it, in memory.
// One simulation per process at a time.
func Simulate(ctx context.Context, p Plan) (*checker.Result, *history.History, Execution, error) {
	h, ex, err := record(ctx, p)
	if err != nil {
		return nil, nil, ex, err
	}
	res, err := judgeInMemory(ctx, h, ex)
	return res, h, ex, err
}

// record runs one resolved plan in the simulator.
func record(ctx context.Context, p Plan) (*history.History, Execution, error) {
	header, err := Header(p, "sim", time.Unix(0, 0))
	if err != nil {
		return nil, Execution{}, err
	}
	rec := history.NewRecorder(header)
	ex, err := Execute(ctx, Config{Plan: p, RunID: "sim"}, rec, "")
	if err != nil {
		return nil, ex, err
	}
	h := rec.History()
	h.Closed = true
	return h, ex, nil
}

// judgeInMemory checks what record recorded.
func judgeInMemory(ctx context.Context, h *history.History, ex Execution) (*checker.Result, error) {
	res, err := checker.Run(ctx, h, checker.Options{})
	if err != nil {
		return res, err
	}
	if failure := errors.Join(ex.Err, unconfirmed(res, ex)); failure != nil {
		res = failed(res, failure)
	}
	return res, err
}

// Try runs a plan in the simulator, in this process. What the plan or the
// harness did wrong is in the trial.
func Try(ctx context.Context, p Plan) Trial {
	t := Trial{Seed: p.Seed, Verdict: checker.HarnessError}
	fail := func(err error) Trial {
		t.Err, t.Refused = oneLine(err), errors.Is(err, ErrBadPlan)
		t.Sentence = "Harness error: " + t.Err
		return t
	}
	if p.Environment != "sim" {
		return fail(fmt.Errorf("%w: environment %q: only the simulator repeats a run", ErrBadPlan, p.Environment))
	}
	p, err := p.Resolve()
	if err != nil {
		return fail(err)
	}
	res, h, ex, err := Simulate(ctx, p)
	if err != nil {
		return fail(err)
	}
	t.summarize(res, h, ex)
	return t
}

// summarize fills in what a run that was judged came to.
func (t *Trial) summarize(res *checker.Result, h *history.History, ex Execution) {
	t.Verdict, t.Sentence, t.Why = res.Verdict, res.Sentence, res.WhyInconclusive
	t.Operations, t.Acknowledged, t.Virtual = len(h.Ops), res.Counts.Acknowledged, ex.Duration
	if ex.Err != nil {
		t.Err = oneLine(ex.Err)
	}
	t.Broken = breaches(res)
	t.Proven = proven(h)
	t.Exercised = reached(h, res.Exercised)
	for name, n := range res.Exercised {
		t.Exercised[name] = n
	}
	t.Figures = figures(res, h, ex.Plan)
	t.History, t.Trace = h.Digest(), ex.Digest
}

func breaches(res *checker.Result) []Breach {
	var out []Breach
	for _, c := range res.Checks {
		if !c.Promised || c.Verdict != checker.Invalid {
			continue
		}
		b := Breach{Clause: c.Name, Count: c.Count}
		for _, a := range c.Anomalies {
			if !slices.Contains(b.Classes, a.Class) {
				b.Classes = append(b.Classes, a.Class)
			}
			if a.Event != "" && !slices.Contains(b.Events, a.Event) {
				b.Events = append(b.Events, a.Event)
			}
		}
		out = append(out, b)
	}
	return out
}

// proven counts the faults whose effect and healing were proven.
func proven(h *history.History) int {
	stages := map[int]map[history.FaultStage]bool{}
	for _, f := range h.Faults {
		if stages[f.ID] == nil {
			stages[f.ID] = map[history.FaultStage]bool{}
		}
		stages[f.ID][f.Stage] = true
	}
	n := 0
	for _, s := range stages {
		if s[history.Proven] && s[history.StillProven] && s[history.Healed] {
			n++
		}
	}
	return n
}
