package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/checker/linear"
	"github.com/faultline-mq/faultline/checker/linear/jepsen"
	"github.com/faultline-mq/faultline/checker/linear/recorded"
)

// objectNames are the objects by the names that users give them.
var objectNames = map[string]linear.Object{"queue": linear.Queue, "log": linear.Log, "log-with-gaps": linear.SparseLog, "register": linear.Register}

// usualObjects are what files of a format are about, unless the user says otherwise.
var usualObjects = map[string]string{formatKafka: "log-with-gaps", formatQueue: "queue", formatRegister: "register"}

// ednOf is the format of a file that does not tell its own, by what it is about.
var ednOf = map[string]string{"queue": formatQueue, "log": formatKafka, "log-with-gaps": formatKafka, "register": formatRegister}

// singleFormats are those that linearizable decides.
var singleFormats = []string{formatHistory, formatKafka, formatQueue, formatRegister, formatEtcdLog, formatPorcupineKV}

// maxWitness is how many operations of a witness are printed.
const maxWitness = 20

func linearizableCommand() *cobra.Command {
	o := linearizableOptions{limit: linear.DefaultLimit}
	c := &cobra.Command{
		Use:   "linearizable FILE",
		Short: "decide whether a history of queues, logs, registers or texts is linearizable",
		Long: `Reads a history (- is standard input, but for our own format) and decides whether it
is linearizable. Formats, by default told from the content:

  history          a history file or a result directory of this program, from disk in
                   memory that does not grow with it for a queue; each key is an object
  jepsen-queue     Jepsen's EDN with :enqueue, :dequeue, :drain
  jepsen-kafka     :send and :poll of jepsen.tests.kafka, and of faultline export
                   --format edn; each key is a log
  jepsen-register  :read, :write, :cas; values may be pairs of a key and a value
  porcupine-etcd   lines of Jepsen's log, as Porcupine's tests keep them
  porcupine-kv     :get, :put and :append of texts, as Porcupine's tests keep them

With unique values an exact procedure decides queues, logs and registers in O(n log n),
and what it must leave open is left to Porcupine, as are compare-and-set and texts.
Where a history is not linearizable, the operations that prove it are shown.

Exit codes: 0 every object is linearizable, 1 one is not, 2 undecided, 254 bad
arguments or a file that is no such history.`,
		Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			if o.limit <= 0 {
				return badArguments(fmt.Errorf("--limit %s: more than 0s is possible", o.limit))
			}
			if _, ok := objectNames[o.object]; !ok && o.object != "" {
				return badArguments(fmt.Errorf("unknown object %q: --object takes %s", o.object, strings.Join(slices.Sorted(maps.Keys(objectNames)), ", ")))
			}
			all, err := o.decide(c.Context(), args[0])
			if err != nil {
				return err
			}
			return o.print(os.Stdout, all)
		},
	}
	c.Flags().StringVar(&o.object, "object", "", "queue, log, log-with-gaps or register (default: what the format is of, log-with-gaps for logs)")
	c.Flags().StringVar(&o.format, "format", "", strings.Join(singleFormats, ", "))
	c.Flags().DurationVar(&o.limit, "limit", o.limit, "how long Porcupine may search, per object")
	c.Flags().BoolVar(&o.asJSON, "json", false, "print JSON")
	return c
}

type linearizableOptions struct {
	object, format string
	limit          time.Duration
	asJSON         bool
}

// decision is the result of one object.
type decision struct {
	object     string
	Key        string      `json:"key,omitempty"`
	Verdict    string      `json:"verdict"`
	Operations int         `json:"operations"`
	Procedure  string      `json:"procedure"`
	Reason     string      `json:"reason,omitempty"`
	Rule       string      `json:"rule,omitempty"`
	Text       string      `json:"text,omitempty"`
	Witness    []linear.Op `json:"witness,omitempty"`
}

// decisionOf tells a result; ops are those whose indices its witness names.
func decisionOf(object linear.Object, key string, r linear.Result, n int, ops []linear.Op) decision {
	d := decision{object: string(object), Key: key, Verdict: string(r.Verdict), Operations: n, Procedure: r.Procedure, Reason: r.Reason}
	if w := r.Witness; w != nil {
		d.Rule, d.Text = w.Rule, w.Text
		for _, i := range w.Ops {
			d.Witness = append(d.Witness, ops[i])
		}
	}
	return d
}

func (o *linearizableOptions) decide(ctx context.Context, name string) ([]decision, error) {
	if fi, err := os.Stat(name); err == nil && fi.IsDir() {
		name = filepath.Join(name, history.FileName)
	}
	in, format, err := openHistory(name, o.format, ednOf[o.object], singleFormats...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // it was only read
	if !slices.Contains(singleFormats, format) {
		return nil, badArguments(fmt.Errorf("%s is of the format %s; known are %s", name, format, strings.Join(singleFormats, ", ")))
	}
	var all []decision
	switch format {
	case formatHistory:
		all, err = o.decideRecorded(ctx, name)
	case formatEtcdLog:
		all, err = o.decideEtcdLog(ctx, in)
	case formatPorcupineKV:
		all, err = o.decideTexts(ctx, in)
	default:
		all, err = o.decideJepsen(ctx, in, objectNames[cmp.Or(o.object, usualObjects[format])])
	}
	if err != nil && ctx.Err() == nil {
		err = badArguments(fmt.Errorf("%s: %w", name, err))
	}
	return all, err
}

func (o *linearizableOptions) decideRecorded(ctx context.Context, path string) ([]decision, error) {
	object := objectNames[cmp.Or(o.object, "queue")]
	if object != linear.Queue && object != linear.Log && object != linear.SparseLog {
		return nil, fmt.Errorf("a history of this program is one of queues or logs, and of no %s", object)
	}
	if o.object == "" {
		found, err := recorded.Object(path)
		if err != nil {
			return nil, err
		}
		object = found
	}
	var all []decision
	if object == linear.Queue {
		keys, results, err := recorded.Queues(ctx, path)
		for i, r := range results {
			all = append(all, decisionOf(object, keys[i], r.Result, r.Count, r.Ops))
		}
		return all, err
	}
	logs, err := recorded.Logs(path)
	if err != nil {
		return nil, err
	}
	return o.decideEach(ctx, object, logs)
}

func (o *linearizableOptions) decideJepsen(ctx context.Context, in io.Reader, object linear.Object) ([]decision, error) {
	if object == linear.Register {
		object, histories, err := jepsen.ReadRegister(in)
		if err != nil {
			return nil, err
		}
		return o.decideEach(ctx, object, histories)
	}
	histories, err := jepsen.Read(in, object)
	if err != nil {
		return nil, err
	}
	return o.decideEach(ctx, object, histories)
}

func (o *linearizableOptions) decideEach(ctx context.Context, object linear.Object, histories []jepsen.History) ([]decision, error) {
	var all []decision
	for _, h := range histories {
		r, err := linear.Decide(ctx, object, h.Ops, o.limit)
		if err != nil {
			return nil, err
		}
		all = append(all, decisionOf(object, h.Key, r, len(h.Ops), h.Ops))
	}
	return all, nil
}

func (o *linearizableOptions) decideEtcdLog(ctx context.Context, in io.Reader) ([]decision, error) {
	object, ops, err := jepsen.ReadEtcdLog(in)
	if err != nil {
		return nil, err
	}
	return o.decideEach(ctx, object, []jepsen.History{{Ops: ops}})
}

func (o *linearizableOptions) decideTexts(ctx context.Context, in io.Reader) ([]decision, error) {
	texts, err := jepsen.ReadKV(in)
	if err != nil {
		return nil, err
	}
	var all []decision
	for _, t := range texts {
		r, err := linear.SearchText(ctx, t.Ops, o.limit)
		if err != nil {
			return nil, err
		}
		all = append(all, decisionOf("text", t.Key, r, len(t.Ops), nil))
	}
	return all, nil
}

// print tells the decisions, and returns the exit code of the worst.
func (o *linearizableOptions) print(out io.Writer, all []decision) error {
	code := exitError(0)
	for _, d := range all {
		switch {
		case d.Verdict == string(linear.Illegal):
			code = 1
		case d.Verdict == string(linear.Unknown) && code == 0:
			code = 2
		}
	}
	var err error
	if o.asJSON {
		err = printJSON(out, append([]decision{}, all...))
	} else {
		err = printDecisions(out, all)
	}
	if code != 0 {
		err = errors.Join(err, code)
	}
	return err
}

func printDecisions(out io.Writer, all []decision) error {
	var b strings.Builder
	if len(all) == 0 {
		b.WriteString("linearizable: the history has no operation on such an object\n")
	}
	for _, d := range all {
		what := d.object
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
