package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/report"
)

// PlanFile is the name of the stored plan in a result directory.
const PlanFile = "plan.yaml"

// Commit is the revision of the source tree, set by the linker where the build
// does not record it.
var Commit string

// Revision returns the source revision that this program was built from, or "unknown".
func Revision() string {
	if Commit != "" {
		return Commit
	}
	rev, dirty := "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				rev = s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "-dirty"
			}
		}
	}
	if rev == "" {
		return "unknown"
	}
	return rev + dirty
}

// Outcome is a judged run.
type Outcome struct {
	Dir       string // "" where nothing was stored
	Execution Execution
	Result    *checker.Result // nil where the harness failed before there was anything to judge
	Summary   report.Summary
	History   *history.History
}

// Run carries out a plan, stores everything below out, judges it and writes the
// report. Only what the user can mend comes back as an error (ErrBadPlan, the
// environment's errors, a directory that cannot be written); everything else is
// in the outcome, whose summary has the verdict and the exit code.
func Run(ctx context.Context, cfg Config, out, command string) (Outcome, error) {
	var o Outcome
	p, err := cfg.Plan.Resolve()
	if err != nil {
		return o, err
	}
	cfg.Plan = p
	started := time.Now()
	if o.Dir, err = ResultDir(out, p, started); err != nil {
		return o, err
	}
	plan, w, err := store(o.Dir, p, cfg.RunID, started)
	if err != nil {
		// Nothing began: what was made of the directory would only be in the way.
		return Outcome{}, errors.Join(err, os.RemoveAll(o.Dir))
	}
	before, _ := os.Readlink(filepath.Join(out, latestLink)) // none: no run before
	if err := pointLatest(out, o.Dir); err != nil {
		return o, errors.Join(err, w.Close())
	}
	// A full disk ends the run at once: what is not recorded cannot be judged.
	running, cancel := context.WithCancelCause(ctx)
	sink := &guarded{Writer: w, fail: cancel}
	cfg.Watch = true
	o.Execution, err = Execute(running, cfg, sink, filepath.Join(o.Dir, "nodes"))
	cancel(nil)
	if cerr := w.Close(); cerr != nil {
		o.Execution.Err = errors.Join(fmt.Errorf("recording the history: %w", cerr), o.Execution.Err)
	}
	if err != nil {
		return o, err
	}
	if refused := o.Execution.Err; errors.Is(refused, docker.ErrNoDisks) || errors.Is(refused, docker.ErrNoLimits) || errors.Is(refused, docker.ErrNoShaping) {
		// It never came to a node: another engine or another environment mends it.
		err := errors.Join(fmt.Errorf("%w: %w", ErrBadPlan, refused), os.RemoveAll(o.Dir))
		if before == "" {
			return Outcome{}, errors.Join(err, os.Remove(filepath.Join(out, latestLink)))
		}
		return Outcome{}, errors.Join(err, pointLatest(out, filepath.Join(out, before)))
	}
	if ctx.Err() != nil {
		o.Execution.Err = fmt.Errorf("interrupted; everything was cleaned up, and what was recorded until then is in %s", o.Dir)
	}
	if o.History, err = history.Load(filepath.Join(o.Dir, history.FileName)); err != nil {
		o.Execution.Err = errors.Join(o.Execution.Err, err)
	}
	rest := context.WithoutCancel(ctx)
	o, err = judge(rest, o, describe(o, command, string(plan)))
	if o.Execution.leave != nil {
		cleanup, done := context.WithTimeout(rest, environment.DownTimeout)
		defer done()
		err = errors.Join(err, o.Execution.leave(cleanup, err != nil || o.Summary.Verdict != checker.Valid))
	}
	return o, err
}

// store writes the plan of a run and begins its history.
func store(dir string, p Plan, runID string, started time.Time) ([]byte, *history.Writer, error) {
	plan, err := p.YAML()
	if err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, PlanFile), plan, 0o644); err != nil {
		return nil, nil, fmt.Errorf("storing the plan: %w; free some space or choose another directory with --out", err)
	}
	header, err := Header(p, runID, started)
	if err != nil {
		return nil, nil, err
	}
	w, err := history.Create(filepath.Join(dir, history.FileName), header)
	return plan, w, err
}

// guarded ends the run when the history cannot be written any more.
type guarded struct {
	*history.Writer
	fail context.CancelCauseFunc
}

func (g *guarded) Complete(op *history.Op) {
	g.Writer.Complete(op)
	if err := g.Writer.Err(); err != nil {
		g.fail(err)
	}
}

func describe(o Outcome, command, plan string) report.Run {
	p, ex := o.Execution.Plan, o.Execution
	versions := map[string]string{versionKey: Version()}
	for k, v := range ex.Versions {
		versions[k] = v
	}
	if ex.Digest != "" {
		versions[simDigestKey] = ex.Digest
		if o.History != nil {
			versions[histDigestKey] = o.History.Digest()
		}
	}
	if command == "" {
		command = "faultline run --plan " + filepath.Join(o.Dir, PlanFile)
	}
	return report.Run{
		Command: command, System: p.System, Scheme: p.Scheme, Workload: p.Workload, Environment: p.Environment, Seed: p.Seed, Options: p.Options,
		Faults: p.FaultList(), Nodes: p.places(), Started: ex.Started, Duration: ex.Duration, Versions: versions, PlanYAML: plan,
		Commit: Revision(), Expect: p.Expect, Dir: o.Dir, Notes: p.notes(), Online: ex.Online, Stopped: ex.Stopped,
	}
}

// notes are what a reader of the run's report has to know first.
func (p Plan) notes() []string {
	switch {
	case p.Environment != "external":
		return nil
	case len(p.Steps) == 0:
		return []string{"The harness has no control of this cluster: no fault was injected, and what was seen says nothing about faults."}
	}
	return []string{"The harness has no control of this cluster: its faults are " + p.FaultList() + ", made by commands of the user's own or by the cluster's administration, and nothing else is known of its nodes."}
}

// judge checks the history, where there is one, and writes the reports.
func judge(ctx context.Context, o Outcome, run report.Run) (Outcome, error) {
	if o.History != nil {
		var err error
		if o.Result, err = checker.Run(ctx, o.History, checker.Options{}); err != nil {
			o.Execution.Err = errors.Join(o.Execution.Err, err)
		}
		o.Execution.Err = errors.Join(o.Execution.Err, unconfirmed(o.Result, o.Execution))
	}
	if o.Execution.Err != nil {
		o.Result = failed(o.Result, o.Execution.Err)
		run.Error = oneLine(o.Execution.Err)
	}
	o.Summary = report.Summarize(run, o.Result, o.History)
	if err := report.WriteAll(o.Dir, run, o.Result, o.History); err != nil {
		return o, fmt.Errorf("writing the report: %w", err)
	}
	return o, nil
}

// failed makes a harness error of a result, unless it found a real violation:
// that is never hidden.
func failed(res *checker.Result, err error) *checker.Result {
	if res == nil {
		res = &checker.Result{}
	}
	reason := checker.Reason{Why: "the harness failed: " + oneLine(err), Change: "mend that and run again"}
	res.WhyInconclusive = append([]checker.Reason{reason}, res.WhyInconclusive...)
	if res.Verdict != checker.Invalid {
		res.Verdict, res.Sentence = checker.HarnessError, "Harness error: "+oneLine(err)
	}
	return res
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// Recheck judges a stored result again, without running anything, and renders
// its reports anew. dir may be the result directory or any file in it. A history
// that cannot be read is an error, and what was stored of the run stays as it is:
// the damage is no verdict on it.
func Recheck(ctx context.Context, dir string) (Outcome, error) {
	o, run, err := open(dir)
	if err != nil {
		return o, err
	}
	if o.History, err = history.Load(filepath.Join(o.Dir, history.FileName)); err != nil {
		return o, err
	}
	return judge(ctx, o, run)
}

// open reads what a result directory says of its run.
func open(dir string) (Outcome, report.Run, error) {
	if fi, err := os.Stat(dir); err == nil && !fi.IsDir() {
		dir = filepath.Dir(dir)
	}
	o := Outcome{Dir: dir}
	if _, err := os.Stat(filepath.Join(dir, history.FileName)); err != nil {
		return o, report.Run{}, fmt.Errorf("%w: %s is no result directory: %w", ErrBadPlan, dir, err)
	}
	plan, err := os.ReadFile(filepath.Join(dir, PlanFile))
	if errors.Is(err, os.ErrNotExist) {
		return imported(dir)
	}
	if err != nil {
		return o, report.Run{}, fmt.Errorf("%w: %s is no result directory: %w", ErrBadPlan, dir, err)
	}
	if o.Execution.Plan, err = ParsePlan(plan, filepath.Join(dir, PlanFile)); err != nil {
		return o, report.Run{}, err
	}
	run := report.Run{PlanYAML: string(plan)}
	if s, err := report.ReadSummary(dir); err == nil {
		run = s.Run()
		run.PlanYAML = string(plan)
		if s.Verdict == checker.HarnessError && len(s.WhyInconclusive) > 0 {
			o.Execution.Err = errors.New(strings.TrimPrefix(s.WhyInconclusive[0].Why, "the harness failed: "))
		}
	} else {
		run = describe(o, "", string(plan))
	}
	run.Dir = dir
	return o, run, nil
}

// StoredPlan reads the plan of a result directory, for a replay.
func StoredPlan(dir string) (Plan, error) {
	o, _, err := open(dir)
	return o.Execution.Plan, err
}

// LoadHistory loads the history of a result directory, or a history file.
func LoadHistory(path string) (*history.History, error) {
	return atHistory(path, history.Load)
}

// LoadHistoryAbout reads what the history of a result directory, or a history file,
// knows of one value, as history.LoadAbout does.
func LoadHistoryAbout(path string, value history.Value) (*history.History, error) {
	return atHistory(path, func(path string) (*history.History, error) { return history.LoadAbout(path, value) })
}

// OpenHistory opens the history of a result directory, or a history file.
func OpenHistory(path string) (*history.Reader, error) {
	return atHistory(path, history.Open)
}

// atHistory reads the history of a result directory, or a history file.
func atHistory[T any](path string, read func(string) (T, error)) (T, error) {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		path = filepath.Join(path, history.FileName)
	}
	h, err := read(path)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrBadPlan, err)
	}
	return h, err
}
