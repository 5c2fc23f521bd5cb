package harness

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// HuntConfig is a loop over seeds in the simulator.
type HuntConfig struct {
	Plan   Plan // its seed is replaced
	First  uint64
	Seeds  int           // 0: until Budget is over
	Budget time.Duration // 0: until Seeds are done
	Out    string        // where seeds that are not valid are stored
	// Each is told about every seed.
	Each func(seed uint64, res *checker.Result, err error)
}

// Hunted is what a hunt found.
type Hunted struct {
	Seeds        int
	Valid        int
	Invalid      []uint64
	Inconclusive []uint64
	Failed       []uint64 // harness errors
	Acknowledged int
	Exercised    map[string]int
	Virtual      time.Duration // simulated time
	Elapsed      time.Duration
	Dirs         map[uint64]string // stored results of seeds that were not valid
}

// Exit is the exit code of a hunt: 1 when a seed was convicted, 255 when the
// harness failed, 2 when more than 2 % of the seeds decided nothing, 0 otherwise.
func (h Hunted) Exit() int {
	switch {
	case len(h.Invalid) > 0:
		return checker.Invalid.ExitCode()
	case len(h.Failed) > 0:
		return checker.HarnessError.ExitCode()
	case h.Seeds == 0 || len(h.Inconclusive)*50 > h.Seeds:
		return checker.Unknown.ExitCode()
	}
	return 0
}

// Simulate runs one resolved plan in the simulator and judges it, in memory.
func Simulate(ctx context.Context, p Plan) (*checker.Result, *history.History, Execution, error) {
	header, err := Header(p, "sim", time.Unix(0, 0))
	if err != nil {
		return nil, nil, Execution{}, err
	}
	rec := history.NewRecorder(header)
	ex, err := Execute(ctx, Config{Plan: p, RunID: "sim"}, rec, "")
	if err != nil {
		return nil, nil, ex, err
	}
	h := rec.History()
	h.Closed = true
	res, err := checker.Run(ctx, h, checker.Options{})
	if err != nil {
		return nil, h, ex, err
	}
	if ex.Err != nil {
		res = failed(res, ex.Err)
	}
	return res, h, ex, nil
}

// Hunt runs seeds one after another until it has its number or its time is over.
// A seed that is not valid is run once more with everything stored; the same
// seed gives the same history.
func Hunt(ctx context.Context, cfg HuntConfig) (Hunted, error) {
	if cfg.Seeds < 0 || cfg.Budget < 0 || cfg.Seeds == 0 && cfg.Budget == 0 {
		return Hunted{}, fmt.Errorf("%w: %d seeds and a budget of %s: at least one of them must be above zero, and none below", ErrBadPlan, cfg.Seeds, cfg.Budget)
	}
	found := Hunted{Exercised: map[string]int{}, Dirs: map[uint64]string{}}
	begin := time.Now()
	for seed := cfg.First; ; seed++ {
		if cfg.Seeds > 0 && found.Seeds >= cfg.Seeds || cfg.Budget > 0 && time.Since(begin) >= cfg.Budget || ctx.Err() != nil {
			break
		}
		p := cfg.Plan
		p.Seed, p.Environment, p.Steps = seed, "sim", nil
		p, err := p.Resolve()
		if err != nil {
			return found, err
		}
		res, _, ex, err := Simulate(ctx, p)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return found, fmt.Errorf("seed %d: %w", seed, err)
		}
		found.Seeds++
		found.Virtual += ex.Duration
		found.Acknowledged += res.Counts.Acknowledged
		for name, n := range res.Exercised {
			found.Exercised[name] += n
		}
		switch res.Verdict {
		case checker.Valid:
			found.Valid++
		case checker.Invalid:
			found.Invalid = append(found.Invalid, seed)
		case checker.Unknown:
			found.Inconclusive = append(found.Inconclusive, seed)
		default:
			found.Failed = append(found.Failed, seed)
		}
		if res.Verdict != checker.Valid && cfg.Out != "" {
			o, err := Run(ctx, Config{Plan: p, RunID: "sim"}, cfg.Out, p.Command())
			if err != nil {
				return found, err
			}
			found.Dirs[seed] = o.Dir
		}
		if cfg.Each != nil {
			cfg.Each(seed, res, ex.Err)
		}
	}
	found.Elapsed = time.Since(begin)
	found.Exercised = maps.Clone(found.Exercised)
	return found, nil
}
