package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/harness"
	"github.com/faultline-mq/faultline/harness/report"
)

func compareCommand() *cobra.Command {
	var env, out, markdown string
	quiet := false
	c := &cobra.Command{
		Use:   "compare FILE",
		Short: "put several systems under one plan, side by side",
		Long: `Runs the plan of a comparison file on each system that the file names, one after
another, and writes OUT/compare.html, compare.json and compare.md: verdict, loss,
duplicates, unavailability, recovery and latency of each, with a link to its run.
docs/side-by-side.yaml is an example.

Exit codes: 255 a run failed, 2 a run decided nothing, 0 otherwise: a system that loses
messages is what a comparison is for.`,
		Args: exactly(1),
	}
	c.Flags().StringVar(&env, "env", "docker", "docker or sim")
	c.Flags().StringVar(&out, "out", "results", "where the comparison and its runs are stored")
	c.Flags().StringVar(&markdown, "markdown", "", "also write the page in Markdown to this file")
	c.Flags().BoolVar(&quiet, "quiet", false, "print nothing but errors")
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx := c.Context()
		comparison, err := harness.ReadComparison(args[0])
		if err != nil {
			return err
		}
		plans, err := comparison.Plans(env)
		if err != nil {
			return err
		}
		if env == "docker" {
			if err := prepareDocker(ctx, !quiet, plans...); err != nil {
				return err
			}
		}
		command := "faultline compare " + args[0] + " --env " + env
		res, err := comparison.Compare(ctx, plans, out, command, func(r report.ComparisonRow) {
			if !quiet {
				fmt.Printf("%-32s %s\n", r.Name, r.Summary.Sentence)
			}
		})
		if err != nil {
			return err
		}
		if err := report.WriteComparison(out, res); err != nil {
			return err
		}
		if markdown != "" {
			var b bytes.Buffer
			if err := res.WriteMarkdown(&b); err != nil {
				return err
			}
			if err := os.WriteFile(markdown, b.Bytes(), 0o644); err != nil {
				return fmt.Errorf("writing the page: %w; choose another file with --markdown", err)
			}
		}
		if !quiet {
			fmt.Println(out + "/" + report.ComparisonPage)
		}
		if code := res.ExitCode(); code != 0 {
			return exitError(code)
		}
		return nil
	}
	return c
}
