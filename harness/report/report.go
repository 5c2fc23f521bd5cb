// Package report turns the judgement of one run into what people and machines
// read: one self-contained HTML page, summary.json, junit.xml, a Markdown
// summary for job pages, the lines on the terminal, and the index of all
// results. It judges nothing: every verdict comes from the checkers.
//
// The page opens from file://, loads nothing, and shows everything that decides
// without JavaScript; scripts add sorting, searching, zoom and pan.
package report

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// The files that WriteAll leaves in a result directory.
const (
	PageFile     = "index.html"
	SummaryFile  = "summary.json"
	JUnitFile    = "junit.xml"
	MarkdownFile = "summary.md"
)

// Run describes one run as the harness carried it out. Only what the history
// and the result do not hold already stands here. Empty fields are left out of
// the reports.
type Run struct {
	Command     string            // the command line that was typed, in full
	Replay      string            // the command that replays it; default "faultline replay DIR"
	System      string            // "reference"
	Scheme      string            // "isr"
	Workload    string            // "log"
	Environment string            // "docker", "sim" or "external"
	Seed        uint64            // derives every choice
	Options     map[string]string // resolved options of clients, topics, broker and scheme
	Faults      string            // as on the command line: "partition:isolate-leader,kill"
	Nodes       []string          // in the order in which they are drawn; default those of the history
	Started     time.Time         // wall clock of the harness; places log lines on the run's clock
	Duration    time.Duration     // from start to the end of the drain, on the run's clock
	Versions    map[string]string // tool, engine, kernel, image and source digests
	PlanYAML    string            // plan.yaml as stored, fully resolved; default what DIR/plan.yaml holds
	Commit      string            // of the source tree, with "-dirty" where it was changed
	Expect      string            // "survive" or "declared"
	// Notes are what a reader has to know before the verdict means anything, each a sentence.
	Notes []string
	// Online is what was found while the run went on; nil where nobody watched.
	Online *checker.OnlineReport
	// Stopped says why the fault phase ended early; nil where it did not.
	Stopped *Stopped
	Dir     string // the result directory as a user types it; default the directory written to
	// Error says in one sentence why the harness itself failed; it matters only
	// where there is no checker.Result.
	Error string
	// NodeLogs are the nodes' own logs in order of time. Where it is nil, the log
	// files below DIR/nodes/NODE/ are read instead.
	NodeLogs map[string][]LogLine
}

// LogLine is one line of a node's log.
type LogLine struct {
	At   int64  // nanoseconds on the run's clock
	Text string // as the node wrote it, without the line end
}

// WriteAll writes index.html, summary.json, junit.xml and summary.md into dir,
// which exists. Each file replaces its predecessor at once or not at all.
//
// res and h may be nil where the harness failed before there was anything to
// judge: the verdict is then "harness error" with run.Error as its reason. The
// machine-readable files are written first, so that a failing page never hides
// a verdict.
func WriteAll(dir string, run Run, res *checker.Result, h *history.History) error {
	run, res, h = complete(dir, run, res, h)
	sum := Summarize(run, res, h)
	files := []struct {
		name  string
		write func(io.Writer) error
	}{
		{SummaryFile, sum.WriteJSON},
		{JUnitFile, sum.WriteJUnit},
		{MarkdownFile, sum.WriteMarkdown},
		{PageFile, func(w io.Writer) error { return writePage(w, dir, run, sum, res, h) }},
	}
	for _, f := range files {
		if err := writeFile(filepath.Join(dir, f.name), f.write); err != nil {
			return err
		}
	}
	return nil
}

// complete fills what the caller left out, so that no writer meets a nil.
func complete(dir string, run Run, res *checker.Result, h *history.History) (Run, *checker.Result, *history.History) {
	if h == nil {
		h = &history.History{Closed: true}
	}
	if run.Dir == "" {
		run.Dir = dir
	}
	if run.Replay == "" {
		run.Replay = "faultline replay " + ShellQuote(run.Dir)
	}
	if len(run.Nodes) == 0 {
		run.Nodes = h.Header.Nodes
	}
	if run.Expect == "" {
		run.Expect = h.Header.Contract.Expect
	}
	if res == nil {
		why := run.Error
		if why == "" {
			why = "the run ended before its history was judged"
		}
		res = &checker.Result{Verdict: checker.HarnessError, Sentence: "Harness error: " + why}
	}
	if res.Sentence == "" {
		c := *res
		c.Sentence = "Verdict: " + string(res.Verdict)
		res = &c
	}
	return run, res, h
}

// writeFile writes path by way of a temporary file beside it and a rename. On
// an error the old file stays and the temporary one is removed.
func writeFile(path string, write func(io.Writer) error) (err error) {
	defer func() {
		switch {
		case err == nil:
		case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
			err = fmt.Errorf("writing %s: the disk is full (%w); free some space and run \"faultline report %s\"", path, err, ShellQuote(filepath.Dir(path)))
		default:
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // a second Close only repeats an error that is known
			_ = os.Remove(f.Name())
		}
	}()
	b := bufio.NewWriterSize(f, 1<<16)
	if err := write(b); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
