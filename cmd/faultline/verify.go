package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness"
	"github.com/faultline-mq/faultline/harness/environment/docker"
)

// verified is what one seed of a verification ended with.
type verified struct {
	Verdict       checker.Verdict `json:"verdict"`
	Sentence      string          `json:"sentence"`
	Dir           string          `json:"dir"`
	Operations    int             `json:"operations"`
	Indeterminate int             `json:"indeterminate"`
	Acknowledged  int             `json:"acknowledged"`
	Exercised     map[string]int  `json:"exercised"`
}

// What all seeds together must have seen, or the verification proved too little.
var mustSee = []string{"leader-change", "truncation", "isr-shrink", "isr-expand"}

const leastIndeterminate = 0.005

func verifyCommand() *cobra.Command {
	f := &planFlags{}
	var seeds int
	var first uint64
	var out string
	c := &cobra.Command{
		Use:   "verify",
		Short: "run many seeds one after another, all of which must be valid",
		Long: `Runs a plan with many seeds. All must be valid, and together they must have seen
a leader change, a truncation, an in-sync shrink and an expansion, and at least
0.5 % indeterminate operations. What is done is kept in OUT/verify.json: called
again with the same plan and source, verify goes on with the seeds that are missing.`,
		Args: exactly(0),
	}
	f.add(c)
	c.Flags().IntVar(&seeds, "seeds", 20, "number of seeds")
	c.Flags().Uint64Var(&first, "first-seed", 1, "the first seed")
	c.Flags().StringVar(&out, "out", "results", "where results are stored")
	c.RunE = func(c *cobra.Command, _ []string) error {
		p, err := f.resolve(c)
		if err != nil {
			return err
		}
		if seeds < 1 {
			return badArguments(fmt.Errorf("%d seeds: at least one is wanted", seeds))
		}
		p.Environment, _ = place(c.Context(), p.Environment)
		if p.Environment == "docker" {
			if err := prepareDocker(c.Context(), true, p); err != nil {
				return err
			}
		}
		v := verification{file: filepath.Join(out, "verify.json"), Source: harness.Revision(), Seeds: map[uint64]verified{}}
		if name, err := docker.ImageName(); err == nil {
			v.Source = name
		}
		p.Seed, p.Steps = 0, nil
		v.Plan = p.Command()
		if err := v.load(); err != nil {
			return err
		}
		for seed := first; seed < first+uint64(seeds); seed++ {
			if done, ok := v.Seeds[seed]; ok {
				fmt.Printf("seed %-6d %s  %s (done before)\n", seed, done.Verdict, done.Sentence)
				continue
			}
			p.Seed = seed
			o, err := harness.Run(c.Context(), harness.Config{Plan: p, RunID: docker.NewRunID(), Log: slog.New(slog.DiscardHandler)}, out, p.Command())
			if err != nil {
				return err
			}
			if c.Context().Err() != nil {
				return errors.New("interrupted; the same command goes on with this seed")
			}
			s := o.Summary
			v.Seeds[seed] = verified{s.Verdict, s.Sentence, s.Dir, s.Ops.Total(), s.Ops.Indeterminate, s.Ops.Acknowledged, s.Exercised}
			fmt.Printf("seed %-6d %s  %s\n", seed, s.Verdict, s.Sentence)
			if err := v.store(); err != nil {
				return err
			}
		}
		return v.judge(first, seeds)
	}
	return c
}

// verification is what verify.json holds.
type verification struct {
	file   string
	Plan   string              `json:"plan"`
	Source string              `json:"source"`
	Seeds  map[uint64]verified `json:"seeds"`
}

// load takes over what was done before, if plan and source are the same.
func (v *verification) load() error {
	b, err := os.ReadFile(v.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var old verification
	if err := json.Unmarshal(b, &old); err != nil {
		return fmt.Errorf("%s: %w; remove it to begin anew", v.file, err)
	}
	if old.Plan == v.Plan && old.Source == v.Source && old.Seeds != nil {
		v.Seeds = old.Seeds
	}
	return nil
}

func (v *verification) store() error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(v.file+".new", b, 0o644); err != nil {
		return fmt.Errorf("storing what was verified: %w", err)
	}
	return os.Rename(v.file+".new", v.file)
}

// judge says what all seeds together showed.
func (v *verification) judge(first uint64, seeds int) error {
	verdicts := map[string]int{}
	exercised := map[string]int{}
	ops, indeterminate, acked, code := 0, 0, 0, 0
	for seed := first; seed < first+uint64(seeds); seed++ {
		s := v.Seeds[seed]
		verdicts[string(s.Verdict)]++
		ops, indeterminate, acked = ops+s.Operations, indeterminate+s.Indeterminate, acked+s.Acknowledged
		for name, n := range s.Exercised {
			exercised[name] += n
		}
		if s.Verdict != checker.Valid {
			fmt.Printf("seed %d  %s  %s\n", seed, s.Verdict, s.Dir)
			if code != checker.Invalid.ExitCode() {
				code = s.Verdict.ExitCode()
			}
		}
	}
	share := float64(indeterminate) / float64(max(ops, 1))
	fmt.Printf("%d seeds: %s; %d operations, %d acknowledged messages, %.2f %% indeterminate\nexercised: %s\n", seeds, counts(verdicts), ops, acked, 100*share, counts(exercised))
	for _, name := range mustSee {
		if exercised[name] == 0 {
			fmt.Printf("no %s was seen: use other faults or more seeds\n", name)
			code = max(code, checker.Unknown.ExitCode())
		}
	}
	if share < leastIndeterminate {
		fmt.Printf("%.2f %% of the operations were indeterminate, %.1f %% are wanted: use more clients or a shorter request.timeout.ms\n", 100*share, 100*leastIndeterminate)
		code = max(code, checker.Unknown.ExitCode())
	}
	if code != 0 {
		return exitError(code)
	}
	return nil
}
