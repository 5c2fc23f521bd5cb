package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/report"
	"github.com/faultline-mq/faultline/workloads"
)

func counts(m map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, m[name]))
	}
	return strings.Join(parts, ", ")
}

// judged prints a result that was judged again.
func judged(o harness.Outcome, asJSON bool) error {
	var err error
	if asJSON {
		err = o.Summary.WriteJSON(os.Stdout)
	} else {
		err = report.PrintVerdict(os.Stdout, o.Summary)
	}
	if err == nil && o.Summary.ExitCode != 0 {
		err = exitError(o.Summary.ExitCode)
	}
	return err
}

func checkCommand() *cobra.Command {
	asJSON, witness := false, ""
	c := &cobra.Command{
		Use:   "check RESULT",
		Short: "judge a stored history again",
		Args:  exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := harness.Recheck(c.Context(), args[0])
			if err != nil {
				return err
			}
			if witness != "" {
				saved, err := harness.SaveWitnesses(c.Context(), o, witness)
				for _, dir := range saved {
					fmt.Fprintln(os.Stderr, "witness: "+dir)
				}
				if err != nil {
					return err
				}
			}
			return judged(o, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print summary.json")
	c.Flags().StringVar(&witness, "witness", "", "write a result that still fails, as small as can be, for every broken clause to a directory in here")
	return c
}

func reportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "report RESULT",
		Short: "render a stored result's report again",
		Args:  exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := harness.Recheck(c.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Println(o.Dir + "/" + report.PageFile)
			return nil
		},
	}
}

func explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain RESULT VALUE",
		Short: "everything known about one message (PRODUCER:SEQUENCE)",
		Args:  exactly(2),
		RunE: func(_ *cobra.Command, args []string) error {
			v, err := history.ParseValue(args[1])
			if err != nil {
				return badArguments(err)
			}
			h, err := harness.LoadHistoryAbout(args[0], v)
			if err != nil {
				return err
			}
			s, err := checker.Explain(h, v)
			if err != nil {
				return badArguments(err)
			}
			fmt.Print(s)
			return nil
		},
	}
}

func exportCommand() *cobra.Command {
	format := "jsonl"
	c := &cobra.Command{
		Use:   "export RESULT",
		Short: "print a history as JSON lines or Jepsen's EDN",
		Args:  exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			export := map[string]func(io.Writer, *history.History) error{"edn": history.ExportEDN, "edn-queue": history.ExportQueueEDN}[format]
			switch {
			case format == "jsonl":
				r, err := harness.OpenHistory(args[0])
				if err != nil {
					return err
				}
				return errors.Join(r.ExportJSONL(os.Stdout), r.Close())
			case export == nil:
				return badArguments(fmt.Errorf("unknown format %q; known formats: jsonl, edn, edn-queue", format))
			}
			h, err := harness.LoadHistory(args[0])
			if err != nil {
				return err
			}
			return export(os.Stdout, h)
		},
	}
	c.Flags().StringVar(&format, "format", format, "jsonl, edn (of jepsen.tests.kafka) or edn-queue (of Jepsen's queue workloads)")
	return c
}

func imagesCommand() *cobra.Command {
	p := harness.DefaultPlan()
	c := &cobra.Command{
		Use:   "images",
		Short: "build the node image of this source, and the image of a system",
		Args:  exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			name, err := docker.BuildImage(c.Context(), os.Stderr)
			if err != nil {
				return err
			}
			fmt.Println(name)
			return p.Prepare(c.Context(), os.Stderr)
		},
	}
	c.Flags().StringVar(&p.System, "system", p.System, "also what nodes of this system need (faultline list systems)")
	return c
}

func cleanCommand() *cobra.Command {
	o := docker.SweepOptions{}
	c := &cobra.Command{
		Use:   "clean",
		Short: "remove what killed runs left behind in docker",
		Args:  exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := docker.Sweep(c.Context(), o)
			if err != nil {
				return err
			}
			fmt.Printf("removed what %d runs left: %d containers, %d networks, %d volumes\n", len(s.Runs), s.Containers, s.Networks, s.Volumes)
			return nil
		},
	}
	c.Flags().BoolVar(&o.Kept, "kept", false, "also clusters that were kept on purpose (run --keep)")
	return c
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print versions",
		Args:  exactly(0),
		RunE: func(*cobra.Command, []string) error {
			fmt.Printf("faultline %s, plans of version %d, histories of version %d\n", harness.Revision(), harness.PlanVersion, history.Version)
			if name, err := docker.ImageName(); err == nil {
				fmt.Printf("node image %s\n", name)
			}
			return nil
		},
	}
}

func listCommand() *cobra.Command {
	kinds := map[string]func(context.Context) ([]entry, error){
		"systems": func(context.Context) ([]entry, error) {
			var all []entry
			for _, s := range harness.Systems() {
				all = append(all, entry{Name: s.Name(), Doc: s.Doc(), More: []string{"workload " + strings.Join(s.Workloads(), ", ")}})
			}
			return all, nil
		},
		"schemes": func(context.Context) ([]entry, error) {
			var all []entry
			for _, s := range harness.Systems() {
				for _, sc := range s.Schemes() {
					more := []string{"system " + s.Name(), "authority " + sc.Authority + "; leaders: " + sc.Election + "; replicas: " + sc.Replicas}
					for _, o := range sc.Options {
						more = append(more, "option "+o.Name+": "+o.Doc)
					}
					all = append(all, entry{Name: sc.Name, Doc: sc.Doc, More: more})
				}
			}
			return all, nil
		},
		"workloads": func(context.Context) ([]entry, error) {
			var all []entry
			for _, w := range workloads.Known() {
				all = append(all, entry{Name: w.Name, Doc: w.Description, More: []string{"judged by " + strings.Join(w.Clauses, ", ")}})
			}
			return all, nil
		},
		"clauses": func(context.Context) ([]entry, error) {
			var all []entry
			for _, w := range workloads.Known() {
				for _, c := range w.Clauses {
					all = append(all, entry{Name: c, Doc: checker.ClauseDoc(c), More: []string{"workload " + w.Name}})
				}
			}
			return all, nil
		},
		"faults": func(ctx context.Context) ([]entry, error) {
			d, err := harness.Diagnose(ctx)
			return faultEntries(d), err
		},
		"options":   func(context.Context) ([]entry, error) { return optionEntries(), nil },
		"scenarios": func(context.Context) ([]entry, error) { return scenarioEntries(), nil },
		"claims":    func(context.Context) ([]entry, error) { return claimEntries() },
	}
	names := slices.Sorted(maps.Keys(kinds))
	asJSON := false
	c := &cobra.Command{
		Use:   "list KIND",
		Short: "list " + strings.Join(names, ", "),
		Args:  exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			kind, ok := kinds[args[0]]
			if !ok {
				return badArguments(fmt.Errorf("unknown kind %q; known kinds: %s", args[0], strings.Join(names, ", ")))
			}
			entries, err := kind(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(os.Stdout, entries)
			}
			for _, e := range entries {
				fmt.Printf("%-32s %s\n", e.Name, e.Doc)
				for _, m := range e.More {
					fmt.Printf("%-32s   %s\n", "", m)
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// entry is one line of a list.
type entry struct {
	Name string   `json:"name"`
	Doc  string   `json:"doc,omitempty"`
	More []string `json:"more,omitempty"`
}

func scenarioEntries() []entry {
	all, err := harness.Scenarios()
	if err != nil {
		panic(err) // they are part of the binary
	}
	var entries []entry
	for _, s := range all {
		var steps, weak []string
		for _, step := range s.Plan.Steps {
			steps = append(steps, step.Name())
		}
		for _, name := range slices.Sorted(maps.Keys(s.Weakened)) {
			weak = append(weak, name+"="+s.Weakened[name])
		}
		entries = append(entries, entry{Name: s.Name, Doc: s.Doc, More: []string{"steps: " + strings.Join(steps, ", "), "weakened: " + strings.Join(weak, ", ")}})
	}
	return entries
}

func optionEntries() []entry {
	var all []entry
	for _, s := range harness.Systems() {
		for _, o := range s.OptionList() {
			all = append(all, entry{Name: o.Name, Doc: o.Doc, More: []string{"system " + s.Name()}})
		}
	}
	return all
}

func claimEntries() ([]entry, error) {
	all, err := harness.Claims()
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, c := range all {
		e := entry{Name: c.ID, Doc: c.Says, More: []string{"done: " + c.Done, "expected: " + c.Expected}}
		if schemes := c.Schemes(); len(schemes) > 0 {
			e.More = append(e.More, "scheme "+strings.Join(schemes, ", "))
		}
		if why := c.Unexercised(); why != "" {
			e.More = append(e.More, "not exercised: "+why)
		}
		entries = append(entries, e)
	}
	return entries, nil
}
