package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/report"
)

// Import makes a result directory of a history that was recorded elsewhere: it has no
// plan, and Recheck judges it by the contract in its header. dir must not exist.
func Import(dir string, h *history.History) error {
	if err := h.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadPlan, err)
	}
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s exists, and a result is never overwritten: choose another directory with --out", ErrBadPlan, dir)
	}
	if err != nil {
		return fmt.Errorf("%w: %w: choose another directory with --out", ErrBadPlan, err)
	}
	if err := history.Save(filepath.Join(dir, history.FileName), h); err != nil {
		return errors.Join(err, os.RemoveAll(dir)) // half a history proves nothing
	}
	return nil
}

// imported is what a result directory without a plan says of its run.
func imported(dir string) (Outcome, report.Run, error) {
	o := Outcome{Dir: dir}
	r, err := history.Open(filepath.Join(dir, history.FileName))
	if err != nil {
		return o, report.Run{}, err
	}
	h := r.Header()
	if err := r.Close(); err != nil {
		return o, report.Run{}, err
	}
	if h.Labels[history.LabelImported] == "" {
		return o, report.Run{}, fmt.Errorf("%w: %s is no result directory: it has no %s, and its history was not imported", ErrBadPlan, dir, PlanFile)
	}
	o.Execution.Plan = Plan{System: h.System, Scheme: h.Scheme, Workload: h.Workload, Seed: h.Seed, Expect: h.Contract.Expect}
	run := report.Run{
		Command: "faultline import --format " + h.Labels[history.LabelImported], Replay: "faultline check " + dir,
		System: h.System, Scheme: h.Scheme, Workload: h.Workload, Environment: "import", Seed: h.Seed, Expect: h.Contract.Expect, Dir: dir,
		Versions: map[string]string{versionKey: Version()}, Commit: Revision(),
	}
	return o, run, nil
}
