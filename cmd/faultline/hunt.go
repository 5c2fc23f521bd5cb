package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/faultline-mq/faultline/harness"
	"github.com/faultline-mq/faultline/harness/report"
)

// workerName is the hidden command of a worker process.
const workerName = "hunt-worker"

func workerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    workerName,
		Short:  "run simulations for hunt, shrink and others: jobs on standard input, trials on standard output",
		Hidden: true,
		Args:   exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			// An interrupt is for the command that started this process; it ends workers.
			signal.Ignore(os.Interrupt)
			return harness.ServeWorker(context.WithoutCancel(c.Context()), os.Stdin, os.Stdout)
		},
	}
}

// workers returns a pool of n processes of this program: 0 for as many as there
// are cores.
func workers(n int) (*harness.Pool, error) {
	if n < 0 {
		return nil, badArguments(fmt.Errorf("--workers %d: 0 (one per core) or more are possible", n))
	}
	if n == 0 {
		n = runtime.GOMAXPROCS(0)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program, for its workers: %w", err)
	}
	return &harness.Pool{Workers: n, Start: func() *exec.Cmd { return exec.Command(self, workerName) }}, nil
}

// swarmFlags are drawn for each seed unless they are given.
var swarmFlags = []string{harness.DimFaults, harness.DimTargets, harness.DimNodes, harness.DimClients, harness.DimTime, harness.DimRate, harness.DimSize}

func huntCommand() *cobra.Command {
	f := &planFlags{}
	cfg := harness.HuntConfig{}
	var quiet bool
	var n int
	c := &cobra.Command{
		Use:   "hunt",
		Short: "run many seeds in the simulator, in parallel",
		Long: `Runs many seeds in the simulator, one worker process per core. Swarm style: each
seed draws its own subset of faults, their number and overlap, its cluster, load
and options, as far as the contract still promises that acknowledged messages
survive. A flag or --set that is given is fixed for all seeds.

A seed counts if it simulated 60 s or more with 2,000 acknowledged messages and
three proven faults. Every seed that does not end valid is stored below --out.

Exit codes: 1 a seed was convicted, 255 the harness failed, 2 more than 2 % of the
seeds decided nothing (or the hunt was interrupted), 0 otherwise.`,
		Args: exactly(0),
	}
	f.add(c)
	for _, name := range swarmFlags {
		flag := c.Flags().Lookup(name)
		flag.DefValue = map[string]string{"int": "0", "float64": "0", "duration": "0s"}[flag.Value.Type()] // not shown
		if name != harness.DimTargets {                                                                    // whose usage says it
			flag.Usage += " (default: drawn)"
		}
	}
	for _, name := range []string{"env", "seed"} { // one run's, refused here
		c.Flags().Lookup(name).Hidden = true
	}
	c.Flags().IntVar(&cfg.Seeds, "seeds", 0, "number of seeds (default: 100, or until --budget is over)")
	c.Flags().Uint64Var(&cfg.First, "first-seed", 1, "the first seed")
	c.Flags().DurationVar(&cfg.Budget, "budget", 0, "stop after so much time")
	c.Flags().StringVar(&cfg.Out, "out", "results", "where seeds that are not valid are stored")
	c.Flags().IntVar(&n, "workers", 0, "worker processes (default: one per core)")
	c.Flags().BoolVar(&quiet, "quiet", false, "print the end only")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if c.Flags().Changed("seed") {
			return badArguments(fmt.Errorf("--seed is for one run; say --first-seed and --seeds"))
		}
		p, err := f.resolve(c)
		if err != nil {
			return err
		}
		if c.Flags().Changed("env") && p.Environment != "sim" {
			return badArguments(fmt.Errorf("--env %s: hunt runs in the simulator; leave --env away, or use faultline run", p.Environment))
		}
		p.Environment = "sim"
		swarm := harness.Swarm{Base: p, Fixed: map[string]bool{}}
		for _, name := range swarmFlags {
			swarm.Fixed[name] = f.file != "" || c.Flags().Changed(name)
		}
		if cfg.Plans = swarm.Plan; f.file != "" {
			cfg.Plans, cfg.Plan = nil, p
			_, err = p.Resolve()
		} else {
			_, err = swarm.Plan(cfg.First)
		}
		if err != nil { // what cannot be run with any seed is refused before the first
			return err
		}
		if cfg.Seeds == 0 && cfg.Budget == 0 {
			cfg.Seeds = 100
		}
		if cfg.Pool, err = workers(n); err != nil {
			return err
		}
		line := again(c, "seeds", "first-seed", "budget", "out", "workers", "quiet")
		cfg.Command = func(seed uint64) string { return fmt.Sprintf("%s --first-seed %d --seeds 1", line, seed) }
		return hunt(c.Context(), cfg, p.Scheme, p.Options, quiet, os.Stdout)
	}
	return c
}

// again is the command line of c with the flags that were given, but those left out.
func again(c *cobra.Command, without ...string) string {
	words := []string{"faultline " + c.Name()}
	c.Flags().Visit(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			if values = list.GetSlice(); f.Value.Type() == "stringSlice" {
				values = []string{strings.Join(values, ",")}
			}
		}
		for _, v := range values {
			switch {
			case slices.Contains(without, f.Name):
			case f.Value.Type() == "bool":
				words = append(words, "--"+f.Name+"="+v)
			default:
				words = append(words, "--"+f.Name+" "+report.ShellQuote(v))
			}
		}
	})
	return strings.Join(words, " ")
}

// toldEvery is the time between two lines of progress.
const toldEvery = 5 * time.Second

func hunt(ctx context.Context, cfg harness.HuntConfig, scheme string, options map[string]string, quiet bool, out io.Writer) error {
	begin := time.Now()
	told, n, simulated := begin, 0, time.Duration(0)
	standing := map[harness.Standing]int{}
	cfg.Each = func(t harness.Trial, s harness.Standing) {
		n++
		simulated += t.Virtual
		standing[s]++
		if _, why := t.Standing(); s != harness.SeedValid {
			fmt.Fprintf(out, "seed %d  %s  %s\n", t.Seed, s, why) // where it is stored stands at the end
		}
		if !quiet && time.Since(told) >= toldEvery {
			told = time.Now()
			took := time.Since(begin).Seconds()
			fmt.Fprintf(out, "%d seeds, %.1f per second, %.0f simulated seconds per second; %d invalid, %d inconclusive, %d harness errors\n",
				n, float64(n)/took, simulated.Seconds()/took, standing[harness.SeedInvalid], standing[harness.SeedInconclusive], standing[harness.SeedFailed])
		}
	}
	found, err := harness.Hunt(ctx, cfg)
	if err != nil {
		return err
	}
	took := max(found.Elapsed.Seconds(), 1e-9)
	if found.Interrupted {
		fmt.Fprintln(out, "interrupted; this is what was done until then")
	}
	fmt.Fprintf(out, "%d seeds in %s (%.1f per second, %.0f simulated seconds per second, %d workers): %d valid, %d invalid, %d inconclusive, %d harness errors\n",
		found.Seeds, found.Elapsed.Round(time.Millisecond), float64(found.Seeds)/took, found.Virtual.Seconds()/took, cfg.Pool.Workers,
		found.Valid, len(found.Invalid), len(found.Inconclusive), len(found.Failed))
	fmt.Fprintf(out, "%d messages acknowledged, %d faults proven, %s simulated\n", found.Acknowledged, found.Proven, found.Virtual.Round(time.Second))
	met, missed := harness.Unreached(scheme, options, found.Exercised)
	for _, r := range met {
		fmt.Fprintf(out, "  reached      %-28s %8d  %s\n", r.Name, found.Exercised[r.Name], r.Doc)
	}
	for _, r := range missed {
		fmt.Fprintf(out, "  NOT REACHED  %-28s %8s  %s\n", r.Name, "", r.Doc)
	}
	for _, group := range [][]uint64{found.Invalid, found.Failed, found.Inconclusive} {
		for _, seed := range group {
			if dir := found.Dirs[seed]; dir != "" {
				fmt.Fprintf(out, "seed %d  %s\n", seed, filepath.Join(dir, report.PageFile))
			}
		}
	}
	if len(found.Invalid) > 0 {
		if dir := found.Dirs[found.Invalid[0]]; dir != "" {
			fmt.Fprintf(out, "the smallest run that still fails: faultline shrink %s\n", dir)
		}
	}
	if len(found.Dirs) > 0 {
		if err := report.WriteIndex(cfg.Out); err != nil {
			fmt.Fprintln(os.Stderr, "faultline: the index of results:", err)
		}
	}
	if code := found.Exit(); code != 0 {
		return exitError(code)
	}
	return nil
}
