package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// SaveWitnesses writes to dir, for each clause that o breaks and each class of anomaly
// that it finds, a result directory named after both, with the history cut down to the
// first of these anomalies (checker.Witness). Recheck convicts each by the same clause.
// It returns the directories; dir may exist, and none of them.
func SaveWitnesses(ctx context.Context, o Outcome, dir string) ([]string, error) {
	var saved []string
	for _, c := range o.Result.Checks {
		if c.Verdict != checker.Invalid {
			continue
		}
		seen := map[string]bool{}
		for _, a := range c.Anomalies {
			if seen[a.Class] {
				continue
			}
			seen[a.Class] = true
			h, err := checker.Witness(ctx, o.History, checker.Options{}, c.Name, a)
			if err != nil {
				return saved, fmt.Errorf("cutting a witness of %s: %w", c.Name, err)
			}
			to := filepath.Join(dir, c.Name+"-"+a.Class)
			if err := saveCut(o.Dir, to, h); err != nil {
				return saved, err
			}
			saved = append(saved, to)
		}
	}
	return saved, nil
}

// saveCut writes h to a new result directory with the plan of another.
func saveCut(from, to string, h *history.History) error {
	plan, err := os.ReadFile(filepath.Join(from, PlanFile))
	if err != nil {
		return fmt.Errorf("reading the plan of a witness: %w", err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("making room for a witness: %w: choose a directory that may be written", err)
	}
	if err := history.Save(filepath.Join(to, history.FileName), h); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(to, PlanFile), plan, 0o644); err != nil {
		return fmt.Errorf("writing the plan of a witness: %w", err)
	}
	return nil
}
