package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/harness"
	"github.com/faultline-mq/faultline/harness/report"
)

// matrixFlags are the flags of faultline matrix.
type matrixFlags struct {
	claims, systems, schemes []string
	all                      bool
	env                      string
	shard                    string
	parallel                 int
	first                    uint64
	seeds, tries             int
	budget                   time.Duration
	out                      string
	merge                    []string
	quiet                    bool
}

func matrixCommand() *cobra.Command {
	f := &matrixFlags{}
	c := &cobra.Command{
		Use:   "matrix",
		Short: "put the claims about replication schemes to the test",
		Long: `Runs claims, each over several seeds (in the simulator all of them, in docker some of
each scheme, unless --all, --claims or --scheme says which), and says what became of them: kept, broken,
loss reproduced, differs, or not exercised, with the reason. A claim that expects a
loss counts only when the loss was seen, by the clause and the event that it names;
one that expects safety only when every run was valid and every fault was proven
under load. OUT/matrix.html, matrix.json and matrix.junit.xml hold the result, and
link to the run that shows each case best.

Exit codes: 1 a claim is broken, 255 the harness failed, 2 a claim was left open (its
runs decided nothing, or the matrix was cut short), 0 otherwise. A claim that cannot be
exercised yet, or not here, leaves the exit code alone.`,
		Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	fl := c.Flags()
	fl.StringSliceVar(&f.claims, "claims", nil, "ids of claims, as KF1,MQ2 (default: all, or in docker those marked for it; faultline list claims)")
	fl.BoolVar(&f.all, "all", false, "all claims in docker, too; that takes hours")
	fl.StringSliceVar(&f.schemes, "scheme", nil, "only claims about these schemes")
	fl.StringSliceVar(&f.systems, "system", []string{harness.DefaultPlan().System}, "only claims about these systems, or all; claims that are named are about any")
	fl.StringVar(&f.env, "env", "sim", "docker or sim")
	fl.StringVar(&f.shard, "shard", "", "i/n: the i-th of n parts of the claims")
	fl.IntVar(&f.parallel, "parallel", 0, "runs at a time (default: one per core in the simulator, one in docker)")
	fl.Uint64Var(&f.first, "first-seed", 1, "the first seed")
	fl.IntVar(&f.seeds, "seeds", 0, "runs in which a claim must hold (default: 5 in the simulator, 1 in docker)")
	fl.IntVar(&f.tries, "tries", 0, "runs until what is expected to go wrong was seen (default: 10 in the simulator, 3 in docker)")
	fl.DurationVar(&f.budget, "budget", 0, "stop after so much time; what was not decided until then is not exercised")
	fl.StringVar(&f.out, "out", "results", "where the matrix and its runs are stored")
	fl.StringSliceVar(&f.merge, "merge", nil, "run nothing: put these parts together, directories or files, as shards leave them; a claim that --claims and --scheme select and no part has makes the matrix not whole")
	fl.BoolVar(&f.quiet, "quiet", false, "print the totals only")
	return c
}

// plansOf are the plans of claims' cases.
func plansOf(claims []harness.Claim) []harness.Plan {
	var plans []harness.Plan
	for _, c := range claims {
		for _, k := range c.Cases {
			plans = append(plans, k.Plan)
		}
	}
	return plans
}

// selected returns the claims that the flags name.
func (f *matrixFlags) selected(all []harness.Claim) ([]harness.Claim, error) {
	claims, err := harness.LookupClaims(all, f.claims)
	if err != nil {
		return nil, err
	}
	if len(f.claims) == 0 {
		systems := f.systems
		if slices.Equal(systems, []string{"all"}) {
			systems = nil
			for _, s := range harness.Systems() {
				systems = append(systems, s.Name())
			}
		}
		for _, name := range systems {
			if _, err := harness.LookupSystem(name); err != nil {
				return nil, err
			}
		}
		if claims = harness.OfSystems(claims, systems); len(claims) == 0 {
			return nil, badArguments(fmt.Errorf("no claim is about system %s", strings.Join(f.systems, ", ")))
		}
	}
	if len(f.schemes) > 0 {
		if claims = harness.OfSchemes(claims, f.schemes); len(claims) == 0 {
			return nil, badArguments(fmt.Errorf("no claim is about scheme %s", strings.Join(f.schemes, ", ")))
		}
	}
	if f.env == "docker" && !f.all && len(f.claims)+len(f.schemes) == 0 {
		claims = harness.ForDocker(claims)
	}
	if f.shard == "" {
		return claims, nil
	}
	var i, n int
	if _, err := fmt.Sscanf(f.shard, "%d/%d", &i, &n); err != nil || fmt.Sprintf("%d/%d", i, n) != f.shard {
		return nil, badArguments(fmt.Errorf("--shard %q: i/n is wanted, as 2/4", f.shard))
	}
	return harness.Shard(claims, i, n)
}

// errBudget ends a matrix whose time is over.
var errBudget = errors.New("the time that --budget gave was over")

func (f *matrixFlags) run(c *cobra.Command) error {
	all, err := harness.Claims()
	if err != nil {
		return err
	}
	if c.Flags().Changed("merge") {
		return f.join(all)
	}
	cfg := harness.MatrixConfig{Environment: f.env, First: f.first, Seeds: f.seeds, Tries: f.tries, Out: f.out, Command: f.again(c), Parallel: f.parallel}
	if cfg.Claims, err = f.selected(all); err != nil {
		return err
	}
	if f.parallel < 0 || f.seeds < 0 || f.tries < 0 || f.budget < 0 {
		return badArguments(errors.New("--parallel, --seeds, --tries and --budget are 0 (the default) or more"))
	}
	seeds, tries := 5, 10
	switch f.env {
	case "sim":
		if cfg.Pool, err = workers(f.parallel); err != nil {
			return err
		}
	case "docker":
		seeds, tries = 1, 3
		if err := prepareDocker(c.Context(), f.quiet, plansOf(cfg.Claims)...); err != nil {
			return err
		}
	default:
		return badArguments(fmt.Errorf("unknown environment %q; known environments: docker, sim", f.env))
	}
	if cfg.Seeds == 0 {
		cfg.Seeds = seeds
	}
	if cfg.Tries == 0 {
		cfg.Tries = tries
	}
	if !f.quiet {
		cfg.Each = func(r report.ClaimRow) {
			if slices.ContainsFunc(r.Cases, func(c report.ClaimCase) bool { return c.Runs > 0 }) { // the others stand in the table
				fmt.Fprintf(os.Stderr, "%-5s %s\n", r.ID, r.Outcome)
			}
		}
	}
	ctx := c.Context()
	if f.budget > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.budget, errBudget)
		defer cancel()
	}
	m, err := harness.Matrix(ctx, cfg)
	if err != nil {
		return err
	}
	return f.finish(m)
}

// again is the command line without what says where and how fast.
func (f *matrixFlags) again(c *cobra.Command) string {
	words := []string{"faultline matrix"}
	for _, name := range []string{"claims", "system", "scheme", "all", "env", "shard", "first-seed", "seeds", "tries"} {
		switch flag := c.Flags().Lookup(name); {
		case flag.Changed && flag.Value.Type() == "bool":
			words = append(words, fmt.Sprintf("--%s=%s", name, flag.Value))
		case flag.Changed:
			words = append(words, "--"+name+" "+strings.Trim(flag.Value.String(), "[]"))
		}
	}
	return strings.Join(words, " ")
}

// join puts parts of a matrix together.
func (f *matrixFlags) join(all []harness.Claim) error {
	var parts []report.Matrix
	for _, path := range f.merge {
		m, err := report.ReadMatrix(path)
		if err != nil {
			return badArguments(err)
		}
		dir := path
		if filepath.Base(path) == report.MatrixFile {
			dir = filepath.Dir(path)
		}
		if rel, err := filepath.Rel(f.out, dir); err == nil {
			m.Below(filepath.ToSlash(rel))
		}
		parts = append(parts, m)
	}
	claims, err := f.selected(all)
	if err != nil {
		return err
	}
	var order []string
	for _, c := range claims {
		order = append(order, c.ID)
	}
	m, err := report.Merge(parts, order)
	if err != nil {
		return badArguments(err)
	}
	return f.finish(m)
}

// finish writes a matrix, prints it and turns it into an exit code.
func (f *matrixFlags) finish(m report.Matrix) error {
	if err := report.WriteMatrix(f.out, m); err != nil {
		return err
	}
	shown := m
	if f.quiet {
		shown.Rows = slices.DeleteFunc(slices.Clone(m.Rows), func(r report.ClaimRow) bool { return r.Outcome != report.Broken })
	}
	if err := shown.WriteText(os.Stdout); err != nil {
		return err
	}
	fmt.Println(f.out + "/" + report.MatrixPage)
	if code := m.ExitCode(); code != 0 {
		return exitError(code)
	}
	return nil
}
