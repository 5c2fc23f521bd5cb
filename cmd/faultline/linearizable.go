package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/checker/linear"
	"github.com/faultline-mq/faultline/checker/linear/jepsen"
)

// objectNames are the objects by the names that users give them.
var objectNames = map[string]linear.Object{"queue": linear.Queue, "log": linear.Log, "log-with-gaps": linear.SparseLog, "register": linear.Register}

// maxWitness is how many operations of a witness are printed.
const maxWitness = 20

func linearizableCommand() *cobra.Command {
	name, limit, asJSON := "", linear.DefaultLimit, false
	c := &cobra.Command{
		Use:   "linearizable FILE",
		Short: "decide whether a history that Jepsen wrote is linearizable",
		Long: `Reads a history in Jepsen's EDN (- is standard input) and decides whether it is
linearizable: a FIFO queue (:enqueue, :dequeue, :drain), a log (:send and :poll of
jepsen.tests.kafka, and of faultline export --format edn; each key is one), or a
register (:write, :read; values may be pairs of a key and a value). With unique values
an exact procedure decides in O(n log n), and what it must leave open is left to
Porcupine. Where a history is not linearizable, the operations that prove it are shown.

Exit codes: 0 every object is linearizable, 1 one is not, 2 undecided, 254 bad
arguments or a file that is no such history.`,
		Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			object, ok := objectNames[name]
			if !ok {
				return badArguments(fmt.Errorf("unknown object %q: --object takes %s", name, strings.Join(slices.Sorted(maps.Keys(objectNames)), ", ")))
			}
			if limit <= 0 {
				return badArguments(fmt.Errorf("--limit %s: more than 0s is possible", limit))
			}
			in := io.Reader(os.Stdin)
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return badArguments(err)
				}
				defer func() { _ = f.Close() }()
				in = f
			}
			histories, err := jepsen.Read(in, object)
			if err != nil {
				return badArguments(fmt.Errorf("%s: %w", args[0], err))
			}
			return decide(c.Context(), os.Stdout, object, histories, limit, asJSON)
		},
	}
	c.Flags().StringVar(&name, "object", "", "queue, log, log-with-gaps or register")
	c.Flags().DurationVar(&limit, "limit", limit, "how long Porcupine may search, per object")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// decision is the result of one object.
type decision struct {
	Key        string      `json:"key,omitempty"`
	Verdict    string      `json:"verdict"`
	Operations int         `json:"operations"`
	Procedure  string      `json:"procedure"`
	Reason     string      `json:"reason,omitempty"`
	Rule       string      `json:"rule,omitempty"`
	Text       string      `json:"text,omitempty"`
	Witness    []linear.Op `json:"witness,omitempty"`
}

func decide(ctx context.Context, out io.Writer, object linear.Object, histories []jepsen.History, limit time.Duration, asJSON bool) error {
	all := []decision{}
	code := exitError(0)
	for _, h := range histories {
		r, err := linear.Decide(ctx, object, h.Ops, limit)
		if err != nil {
			return badArguments(err)
		}
		d := decision{Key: h.Key, Verdict: string(r.Verdict), Operations: len(h.Ops), Procedure: r.Procedure, Reason: r.Reason}
		if w := r.Witness; w != nil {
			d.Rule, d.Text = w.Rule, w.Text
			for _, i := range w.Ops {
				d.Witness = append(d.Witness, h.Ops[i])
			}
		}
		switch {
		case r.Verdict == linear.Illegal:
			code = 1
		case r.Verdict == linear.Unknown && code == 0:
			code = 2
		}
		all = append(all, d)
	}
	var err error
	if asJSON {
		err = printJSON(out, all)
	} else {
		err = printDecisions(out, object, all)
	}
	if err == nil && code != 0 {
		err = code
	}
	return err
}

func printDecisions(out io.Writer, object linear.Object, all []decision) error {
	var b strings.Builder
	if len(all) == 0 {
		fmt.Fprintf(&b, "linearizable: the history has no operation on a %s\n", object)
	}
	for _, d := range all {
		what := string(object)
		if d.Key != "" {
			what += " " + d.Key
		}
		fmt.Fprintf(&b, "%s: %s (%d operations, %s)\n", what, d.Verdict, d.Operations, d.Procedure)
		if why := cmp.Or(d.Reason, d.Text); why != "" {
			fmt.Fprintf(&b, "  %s\n", strings.TrimPrefix(d.Rule+": "+why, ": "))
		}
		for i := range d.Witness {
			if i == maxWitness {
				fmt.Fprintf(&b, "    … and %d more (--json prints all)\n", len(d.Witness)-i)
				break
			}
			fmt.Fprintf(&b, "    %s\n", &d.Witness[i])
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
