package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/harness"
	"github.com/faultline-mq/faultline/nemesis"
)

// exitNotReady is doctor's exit code where something is missing that the default
// jobs need.
const exitNotReady = 1

func doctorCommand() *cobra.Command {
	asJSON := false
	c := &cobra.Command{
		Use:   "doctor",
		Short: "what the Docker engine's host can do, and what is missing for which fault",
		Long: `Examines the host of the Docker engine (DOCKER_HOST), not of this program: it asks the
engine, and lets a container there try what faults need. Nothing is left behind.

Exit codes: 0 where everything works that the default jobs need (partition, kill and
pause in Docker), 1 where not, 254 bad arguments, 255 the examination itself failed.`,
		Args: exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			d, err := harness.Diagnose(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(os.Stdout, d)
			} else {
				err = printDiagnosis(os.Stdout, d)
			}
			if err == nil && !d.Ready {
				err = exitError(exitNotReady)
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func yesNo(works bool) string {
	if works {
		return "yes"
	}
	return "no"
}

// printDiagnosis prints a table of features, one of faults, and the sum.
func printDiagnosis(w io.Writer, d harness.Diagnosis) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FEATURE\tWORKS\tNEEDED BY\tSEEN, OR WHAT IS MISSING AND THE REMEDY")
	for _, f := range d.Features {
		seen := f.Detail
		if f.Remedy != "" {
			seen += "; " + f.Remedy
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Name, yesNo(f.Works), neededBy(f.Name), seen)
	}
	fmt.Fprintln(t)
	err := t.Flush()
	fmt.Fprintln(t, "FAULT IN DOCKER\tWORKS\tWHY NOT")
	for _, f := range d.Faults {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Name, yesNo(f.Works), f.Why)
	}
	if err := errors.Join(err, t.Flush()); err != nil {
		return err
	}
	sum := "Everything that the default jobs need works."
	if !d.Ready {
		sum = "Something is missing that the default jobs need; --env sim needs none of it."
	}
	_, err = fmt.Fprintf(w, "\n%s\n", sum)
	return err
}

// neededBy names the faults that need a feature.
func neededBy(feature string) string {
	switch names := harness.NeededBy(feature); {
	case len(names) == 0:
		return "-"
	case len(names) == len(nemesis.Known()):
		return "all"
	default:
		return strings.Join(names, ", ")
	}
}

// faultEntries describes the faults, with what this host can do.
func faultEntries(d harness.Diagnosis) []entry {
	var all []entry
	for _, f := range nemesis.Known() {
		e := entry{Name: f.Name, Doc: f.Description, More: []string{"proof: " + f.Proof, "targets: " + strings.Join(f.Targets, ", ")}}
		for _, s := range f.Shapes {
			e.More = append(e.More, fmt.Sprintf("%s:%s (%d nodes or more) %s", f.Name, s.Name, s.MinNodes, s.Description))
		}
		for _, o := range f.Options {
			kind := "default " + o.Default
			if o.Unit != "" {
				kind = o.Unit + ", " + kind
			}
			e.More = append(e.More, fmt.Sprintf("option %s (%s): %s", o.Name, kind, o.Description))
		}
		if why, lacks := harness.SimLacks(f); lacks {
			e.More = append(e.More, "environments: docker", why)
		} else {
			e.More = append(e.More, "environments: docker, sim")
		}
		s := d.Fault(f.Name)
		here := "docker on this host: " + yesNo(s.Works)
		if s.Why != "" {
			here += "; " + s.Why
		}
		e.More = append(e.More, here)
		all = append(all, e)
	}
	return all
}
