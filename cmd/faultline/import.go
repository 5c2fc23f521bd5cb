package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/checker/linear/jepsen"
	"github.com/faultline-mq/faultline/harness"
)

// importFormats are those of which faultline check can judge something.
var importFormats = map[string]func(io.Reader) (*history.History, error){
	formatJSONL: history.ImportJSONL,
	formatKafka: jepsen.ReadKafka,
	formatQueue: jepsen.ReadQueue,
}

// promises are the names of what a contract can promise, for --promise.
var promises = map[string]func(*history.Contract){
	"acknowledged":    func(c *history.Contract) { c.Acknowledged = true },
	"at-most-once":    func(c *history.Contract) { c.AtMostOnce = true },
	"committed-reads": func(c *history.Contract) { c.CommittedReads = true },
	"fifo":            func(c *history.Contract) { c.FIFO = true },
	"fresh":           func(c *history.Contract) { c.Fresh = true },
	"linearizable":    func(c *history.Contract) { c.Linearizable = true },
	"monotonic":       func(c *history.Contract) { c.Monotonic = true },
	"order":           func(c *history.Contract) { c.Order = "producer" },
	"truthful-empty":  func(c *history.Contract) { c.TruthfulEmpty = true },
}

// usualPromises is what Jepsen's own checker takes for promised.
var usualPromises = []string{"acknowledged", "at-most-once", "monotonic"}

func importCommand() *cobra.Command {
	format, out, promised := "", "", usualPromises
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "make a result of a history that was recorded elsewhere",
		Long: `Reads a history (- is standard input) and stores it as a result directory, which
faultline check, explain, export and report take. Formats, by default told from the
content:

  jsonl         what faultline export writes: everything is kept
  jepsen-kafka  EDN of jepsen.tests.kafka, and of faultline export --format edn
  jepsen-queue  EDN with :enqueue, :dequeue, :drain, and of export --format edn-queue

A history of Jepsen's has no contract: --promise says what the system promises, from
` + strings.Join(slices.Sorted(maps.Keys(promises)), ", ") + `.
It has no drain either: a clause that needs one is unknown unless it is broken. What
Porcupine and Jepsen test one object with goes to faultline linearizable.`,
		Args: exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			if out == "" {
				return badArguments(errors.New("--out DIR is missing: the directory to make"))
			}
			h, err := importFile(args[0], format)
			if err != nil {
				return err
			}
			if h.Header.Labels[history.LabelImported] != formatJSONL || c.Flags().Changed("promise") {
				if h.Header.Contract, err = contractOf(promised, h); err != nil {
					return err
				}
			}
			if err := harness.Import(filepath.Clean(out), h); err != nil {
				return err
			}
			fmt.Printf("imported %d operations; faultline check %s judges them\n", len(h.Ops), out)
			return nil
		},
	}
	c.Flags().StringVar(&format, "format", "", strings.Join(slices.Sorted(maps.Keys(importFormats)), " or "))
	c.Flags().StringVar(&out, "out", "", "the directory to make")
	c.Flags().StringSliceVar(&promised, "promise", promised, "what the system promises (jepsen-kafka; jsonl has its own contract unless this is given)")
	return c
}

func importFile(name, format string) (*history.History, error) {
	known := slices.Sorted(maps.Keys(importFormats))
	in, format, err := openHistory(name, format, "", known...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // it was only read
	read, ok := importFormats[format]
	if !ok {
		return nil, badArguments(fmt.Errorf("%s is of the format %s, of which there is nothing to import: known are %s, and faultline linearizable decides others", name, format, strings.Join(known, ", ")))
	}
	h, err := read(in)
	if err != nil {
		return nil, badArguments(fmt.Errorf("%s: %w", name, err))
	}
	labels := maps.Clone(h.Header.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[history.LabelImported] = format
	h.Header.Labels = labels
	return h, nil
}

// contractOf is what promises of these names make of a history's system.
func contractOf(names []string, h *history.History) (history.Contract, error) {
	c := history.Contract{Expect: "declared", Order: "none", Offsets: "global"}
	if len(h.Header.Queues) > 0 {
		c.Delivery, c.Offsets = "at-most-once", "none" // a delivery consumes its message
	}
	for _, name := range names {
		set, ok := promises[name]
		if !ok {
			return c, badArguments(fmt.Errorf("unknown promise %q: --promise takes %s", name, strings.Join(slices.Sorted(maps.Keys(promises)), ", ")))
		}
		set(&c)
	}
	return c, nil
}
