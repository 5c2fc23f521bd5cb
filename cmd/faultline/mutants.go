package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/harness"
)

func mutantsCommand() *cobra.Command {
	h := harness.MutantHunt{Base: harness.DefaultPlan()}
	h.Base.Environment = "sim"
	var only []string
	var n int
	var asJSON, list bool
	c := &cobra.Command{
		Use:   "mutants",
		Short: "which seeded bug is found, by which clause, how soon",
		Long: `Seeds one bug after another into the reference broker and hunts it in the
simulator with a swarm of plans, on disjoint ranges of seeds; then the broker without
a bug, with the same plans, as the control. Where a bug's rule matters under certain
options or faults only, its plans have those, and a control of their own. A seed
counts as finding a mutant only if it is valid without it. Only binaries that are
built with -tags mutants have mutants.

Exit codes: 1 a mutant was not found or the control was convicted, 255 the harness
failed, 2 interrupted or the control decided too little, 0 otherwise.`,
		Args: exactly(0),
	}
	fl := c.Flags()
	fl.StringSliceVar(&only, "only", nil, "mutants by name or id (default: all that are not held for equivalent)")
	fl.Uint64Var(&h.First, "first-seed", 1, "the first seed of the first range; the next ranges begin 1,000,000 further each")
	fl.IntVar(&h.Ranges, "ranges", 3, "disjoint ranges of seeds")
	fl.IntVar(&h.Seeds, "seeds", 0, "at most so many seeds per mutant and range (default: until --budget is over)")
	fl.DurationVar(&h.Budget, "budget", 10*time.Minute, "at most so much time per mutant and range")
	fl.IntVar(&h.Control, "control", 1, fmt.Sprintf("seeds of a control for each seed that was run with a mutant, %d at least; 0: no control", harness.ControlSeeds))
	fl.DurationVar(&h.Shrink, "shrink", time.Minute, "how long to look for the smallest plan that still convicts, once per mutant found; 0: not at all")
	fl.StringVar(&h.Out, "out", "", "where seeds that are not valid are stored (default: nowhere)")
	fl.IntVar(&n, "workers", 0, "worker processes (default: one per core)")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	fl.BoolVar(&list, "list", false, "list the mutants and run nothing")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var err error
		if h.Mutants, err = harness.LookupMutants(only...); err != nil {
			return err
		}
		if list {
			if len(only) == 0 {
				h.Mutants = harness.AllMutants()
			}
			return listMutants(os.Stdout, h.Mutants, asJSON)
		}
		if h.Pool, err = workers(n); err != nil {
			return err
		}
		return mutants(c.Context(), h, asJSON, os.Stdout)
	}
	return c
}

func listMutants(out io.Writer, ms []harness.Mutant, asJSON bool) error {
	if asJSON {
		return printJSON(out, ms)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, m := range ms {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.ID, m.Name, m.Scheme, m.Doc)
		if why := notHunted(m); why != "" {
			fmt.Fprintf(w, "\t\t\tnot hunted: %s\n", why)
		}
	}
	return w.Flush()
}

// notHunted says why a mutant is not hunted; "": it is.
func notHunted(m harness.Mutant) string {
	if m.Needs != "" {
		return "there is none yet, it needs " + m.Needs
	}
	return m.Equivalent
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func mutants(ctx context.Context, h harness.MutantHunt, asJSON bool, out io.Writer) error {
	progress := out
	if asJSON {
		progress = os.Stderr
	}
	h.Each = func(r harness.MutantRun) {
		name := cmp.Or(r.Name, "control")
		if r.ID == "" && r.Plans != "" {
			name += " of " + r.Plans
		}
		fmt.Fprintf(progress, "%-4s %-36s %-11s from seed %-8d %s\n", cmp.Or(r.ID, "-"), name, r.Scheme, r.First, mutantLine(r))
	}
	runs, err := h.Run(ctx)
	if err != nil {
		return err
	}
	code := harness.MutantsExit(runs)
	if asJSON {
		if err := printJSON(out, struct {
			Runs     []harness.MutantRun `json:"runs"`
			ExitCode int                 `json:"exit_code"`
		}{runs, code}); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(out, mutantSummary(runs))
		for _, m := range harness.AllMutants() {
			if why := notHunted(m); why != "" && !slices.ContainsFunc(h.Mutants, func(o harness.Mutant) bool { return o.ID == m.ID }) {
				fmt.Fprintf(out, "%-4s %s was not hunted: %s\n", m.ID, m.Name, why)
			}
		}
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}

// mutantLine says what came of one mutant on one range.
func mutantLine(r harness.MutantRun) string {
	took := fmt.Sprintf("%d seeds, %.1f s", r.Seeds, r.Elapsed.Seconds())
	if r.Inconclusive > 0 {
		took += fmt.Sprintf(", %d inconclusive", r.Inconclusive)
	}
	for _, s := range r.Spoiled {
		took += fmt.Sprintf(", seed %d is %s without the mutant too", s.Seed, s.Standing)
	}
	if r.Failed > 0 {
		took += fmt.Sprintf(", %d harness errors", r.Failed)
	}
	if !r.Found {
		how := "NOT FOUND"
		switch {
		case r.Interrupted:
			how = "interrupted"
		case r.ID == "":
			how = "nothing found"
		}
		return how + "  " + took
	}
	var clauses []string
	for _, b := range r.Broken {
		clauses = append(clauses, fmt.Sprintf("%s ×%d", b.Clause, b.Count))
	}
	line := fmt.Sprintf("found by seed %d  %s  %s", r.Seed, took, strings.Join(clauses, ", "))
	switch {
	case r.ID == "":
		line = "CONVICTED " + strings.TrimPrefix(line, "found ")
	case !r.Expected:
		line += " (another clause than expected)"
	}
	if r.Shrunk != nil {
		line += fmt.Sprintf("  shrunk to %d faults and %d operations", r.Shrunk.Faults, r.Shrunk.Operations)
	}
	if r.Dir != "" {
		line += "  " + r.Dir
	}
	return line
}

// mutantSummary gives the count, the median and the worst.
func mutantSummary(runs []harness.MutantRun) string {
	var found []time.Duration
	total := 0
	for _, r := range runs {
		if r.ID == "" {
			continue
		}
		total++
		if r.Found {
			found = append(found, r.Elapsed)
		}
	}
	line := fmt.Sprintf("%d of %d hunts found their mutant", len(found), total)
	if len(found) > 0 {
		slices.Sort(found)
		line += fmt.Sprintf("; median %.1f s, longest %.1f s", found[len(found)/2].Seconds(), found[len(found)-1].Seconds())
	}
	return line
}
