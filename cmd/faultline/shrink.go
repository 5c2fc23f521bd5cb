package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness"
	"github.com/faultline-mq/faultline/harness/report"
)

func shrinkCommand() *cobra.Command {
	cfg := harness.ShrinkConfig{}
	var out string
	var n int
	var quiet bool
	c := &cobra.Command{
		Use:   "shrink RESULT",
		Short: "find the smallest run that still breaks the same clause (simulator)",
		Long: `Takes the plan of a simulated result that is invalid and looks for a smaller one
that breaks the same clause by the same class of anomaly: without faults,
operations, clients, nodes and options that it does not need, and shorter. What
is found is stored as a new result, with its story and the command that runs it.

Exit codes: 0 a plan was found that still fails (smaller, or the same where nothing
can go), 254 the result does not fail, 255 the harness failed.`,
		Args: exactly(1),
	}
	c.Flags().DurationVar(&cfg.Budget, "budget", 10*time.Minute, "stop after so much time with what was found; 0 = until nothing smaller fails")
	c.Flags().IntVar(&cfg.Runs, "runs", 0, "stop after so many runs; 0 = no limit")
	c.Flags().BoolVar(&cfg.Steady, "steady", false, "want a plan that fails in docker too: at other times, and with faults as long as detection takes there")
	c.Flags().StringVar(&out, "out", "results", "where the smallest run is stored")
	c.Flags().IntVar(&n, "workers", 0, "worker processes (default: one per core)")
	c.Flags().BoolVar(&quiet, "quiet", false, "print the end only")
	c.RunE = func(c *cobra.Command, args []string) error {
		if cfg.Budget < 0 || cfg.Runs < 0 {
			return badArguments(fmt.Errorf("--budget %s --runs %d: 0 (no limit) or more are possible", cfg.Budget, cfg.Runs))
		}
		stored, err := harness.OpenStored(args[0])
		if err != nil {
			return err
		}
		cfg.Plan = stored.Plan
		if cfg.Pool, err = workers(n); err != nil {
			return err
		}
		if !quiet {
			cfg.Each = func(s harness.Size, what string) { fmt.Printf("%-28s %s\n", what, s) }
		}
		small, err := harness.Shrink(c.Context(), cfg)
		switch {
		case errors.Is(err, harness.ErrNotFailing) && stored.Version != harness.Version():
			return badArguments(fmt.Errorf("%s: %w; it was made by faultline %s and this is %s", stored.Dir, err, stored.Version, harness.Version()))
		case errors.Is(err, harness.ErrNotFailing):
			return badArguments(fmt.Errorf("%s: %w", stored.Dir, err))
		case err != nil:
			return err
		}
		if c.Context().Err() != nil {
			return errors.New("interrupted; nothing was stored")
		}
		o, err := harness.Run(c.Context(), harness.Config{Plan: small.Plan, RunID: "sim", Log: slog.New(slog.DiscardHandler)}, out, "")
		if err != nil {
			return err
		}
		if o.Summary.Verdict != checker.Invalid {
			return fmt.Errorf("the smallest plan failed in the search and is %s now: the simulation is not deterministic; report %s", o.Summary.Verdict, o.Dir)
		}
		if err := report.WriteIndex(out); err != nil {
			fmt.Fprintln(os.Stderr, "faultline: the index of results:", err)
		}
		fmt.Printf("still breaks %s (%s)\nbefore: %s\nafter:  %s\n%d runs in %s", small.Clause, small.Class, small.Before, small.After, small.Runs, small.Elapsed.Round(time.Second))
		if small.Cut {
			fmt.Print("; the budget ended the search, a longer --budget may find a smaller one")
		}
		fmt.Printf("\n\n%s\n%s\nrun it: faultline run --plan %s\n", harness.Story(o.History, o.Result, small.Clause), filepath.Join(o.Dir, report.PageFile),
			filepath.Join(o.Dir, harness.PlanFile))
		return nil
	}
	return c
}
