package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// HuntConfig is a hunt: many seeds in the simulator.
type HuntConfig struct {
	// Plan is run with every seed; its own seed and steps do not count.
	Plan Plan
	// Plans, where set, gives the plan of a seed instead: Swarm.Plan does. It must
	// give the same plan for the same seed.
	Plans  func(seed uint64) (Plan, error)
	First  uint64
	Seeds  int           // 0: until Budget is over
	Budget time.Duration // 0: until Seeds are done
	Out    string        // where seeds that are not valid are stored; "": nowhere
	// Pool runs the seeds; nil: this process does, one after another.
	Pool *Pool
	// Command is the command line that runs a seed again, for its report; nil:
	// the one that runs its stored plan.
	Command func(seed uint64) string
	// Each is told about every seed, in the order of their ends.
	Each func(t Trial, s Standing)
}

// Standing is how one seed counts.
type Standing string

// The standings of a seed.
const (
	SeedValid        Standing = "valid"
	SeedInvalid      Standing = "INVALID"
	SeedInconclusive Standing = "inconclusive"
	SeedFailed       Standing = "HARNESS ERROR"
)

// Standing says how the trial counts, and why where it decided nothing.
func (t Trial) Standing() (Standing, string) {
	switch t.Verdict {
	case checker.Invalid:
		return SeedInvalid, t.Sentence
	case checker.Valid:
		if why := t.Short(); why != "" {
			return SeedInconclusive, why
		}
		return SeedValid, t.Sentence
	case checker.Unknown:
		why := t.Sentence
		if len(t.Why) > 0 {
			why = t.Why[0].Why
		}
		return SeedInconclusive, why
	}
	return SeedFailed, t.Sentence
}

// maxStoredInconclusive bounds the runs that are stored because they decided
// nothing: a few show why, and all would fill the disk.
const maxStoredInconclusive = 20

// Hunted is what a hunt found.
type Hunted struct {
	Seeds        int
	Valid        int
	Invalid      []uint64 // seeds, in the order of their ends, as in the next two
	Inconclusive []uint64
	Failed       []uint64 // harness errors
	Acknowledged int
	Proven       int // faults
	Exercised    map[string]int
	Virtual      time.Duration // simulated time
	Elapsed      time.Duration
	Dirs         map[uint64]string // stored results of seeds that were not valid
	Interrupted  bool
}

// Exit is the exit code of a hunt: 1 when a seed was convicted, 255 when the
// harness failed, 2 when it was interrupted or more than 2 % of the seeds decided
// nothing, 0 otherwise.
func (h Hunted) Exit() int {
	switch {
	case len(h.Invalid) > 0:
		return checker.Invalid.ExitCode()
	case len(h.Failed) > 0:
		return checker.HarnessError.ExitCode()
	case h.Seeds == 0 || h.Interrupted || len(h.Inconclusive)*50 > h.Seeds:
		return checker.Unknown.ExitCode()
	}
	return 0
}

// Hunt runs seeds from First on until it has its number or its time is over, or
// ctx ends. Each seed that is not valid is run once more with everything stored:
// the same seed gives the same history. What a seed ends with does not depend on
// the number of workers. Errors are the caller's to mend (ErrBadPlan), or say that
// nothing could be stored or no worker started.
func Hunt(ctx context.Context, cfg HuntConfig) (Hunted, error) {
	found := Hunted{Exercised: map[string]int{}, Dirs: map[uint64]string{}}
	if cfg.Seeds < 0 || cfg.Budget < 0 || cfg.Seeds == 0 && cfg.Budget == 0 {
		return found, fmt.Errorf("%w: %d seeds and a budget of %s: at least one of them must be above zero, and none below", ErrBadPlan, cfg.Seeds, cfg.Budget)
	}
	begin := time.Now()
	next := cfg.First
	jobs := func() (Job, bool, error) {
		if cfg.Seeds > 0 && next-cfg.First >= uint64(cfg.Seeds) || cfg.Budget > 0 && time.Since(begin) >= cfg.Budget || ctx.Err() != nil {
			return Job{}, false, nil
		}
		p, err := cfg.plan(next)
		if err != nil {
			return Job{}, false, err
		}
		next++
		return Job{Plan: p, Out: cfg.Out, Command: cfg.command(p.Seed)}, true, nil
	}
	err := cfg.Pool.each(ctx, jobs, func(j Job, t Trial) error { return cfg.count(ctx, &found, j, t) })
	found.Elapsed = time.Since(begin)
	found.Interrupted = ctx.Err() != nil
	return found, err
}

// plan is the resolved plan of a seed.
func (cfg HuntConfig) plan(seed uint64) (Plan, error) {
	if cfg.Plans != nil {
		return cfg.Plans(seed)
	}
	p := cfg.Plan
	p.Seed, p.Environment, p.Steps = seed, "sim", nil
	return p.Resolve()
}

func (cfg HuntConfig) command(seed uint64) string {
	if cfg.Command == nil {
		return ""
	}
	return cfg.Command(seed)
}

// count takes one trial into the account.
func (cfg HuntConfig) count(ctx context.Context, found *Hunted, j Job, t Trial) error {
	if t.Refused {
		return fmt.Errorf("%w: seed %d: %s", ErrBadPlan, t.Seed, t.Err)
	}
	standing, _ := t.Standing()
	found.Seeds++
	found.Virtual += t.Virtual
	found.Acknowledged += t.Acknowledged
	found.Proven += t.Proven
	for name, n := range t.Exercised {
		found.Exercised[name] += n
	}
	switch standing {
	case SeedValid:
		found.Valid++
	case SeedInvalid:
		found.Invalid = append(found.Invalid, t.Seed)
	case SeedInconclusive:
		found.Inconclusive = append(found.Inconclusive, t.Seed)
	case SeedFailed:
		found.Failed = append(found.Failed, t.Seed)
	}
	if t.Lost && cfg.Out != "" {
		dir, err := keepLost(ctx, j, t)
		if err != nil {
			return err
		}
		t.Dir = dir
	}
	if t.Dir != "" {
		if standing == SeedInconclusive && len(found.Inconclusive) > maxStoredInconclusive {
			if err := os.RemoveAll(t.Dir); err != nil {
				return err
			}
			t.Dir = ""
		} else {
			found.Dirs[t.Seed] = t.Dir
		}
	}
	if cfg.Each != nil {
		cfg.Each(t, standing)
	}
	return nil
}

// CrashFile holds the end of the standard error of a worker that died.
const CrashFile = "crash.log"

// keepLost stores what is known of a seed whose worker died: its plan, an empty
// history and the worker's last words.
func keepLost(ctx context.Context, j Job, t Trial) (string, error) {
	p, err := j.Plan.Resolve()
	if err != nil {
		return "", err
	}
	started := time.Now()
	o := Outcome{Execution: Execution{Plan: p, Started: started, Err: errors.New(t.Err)}}
	if o.Dir, err = ResultDir(j.Out, p, started); err != nil {
		return "", err
	}
	plan, w, err := store(o.Dir, p, "sim", started)
	if err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(o.Dir, CrashFile), []byte(t.Crash), 0o644); err != nil {
		return "", err
	}
	if o.History, err = history.Load(filepath.Join(o.Dir, history.FileName)); err != nil {
		return "", err
	}
	o, err = judge(ctx, o, describe(o, j.Command, string(plan)))
	return o.Dir, err
}
