package harness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/report"
)

// violationInterval is how often a run looks whether a violation was found.
const violationInterval = 100 * time.Millisecond

// found takes what was found while the run goes on. The first is told.
func (r *run) found(f checker.Finding) {
	v := &report.Stopped{AtMS: float64(r.rt.Now().Microseconds()) / 1e3, Operation: history.NoOffset, Finding: f}
	if n := len(f.Ops); n > 0 {
		v.Operation = f.Ops[n-1]
	}
	r.mu.Lock()
	first := r.violation == nil
	if first {
		r.violation = v
	}
	r.mu.Unlock()
	if first {
		r.cfg.Progress.Note("violation found: %s", v)
	}
}

// violated reports whether a violation ends the run's fault phase.
func (r *run) violated() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan.StopOnViolation && r.violation != nil
}

// stopper is what tells the nemesis to end; nil where nothing does.
func (r *run) stopper() func() bool {
	if !r.plan.StopOnViolation {
		return nil
	}
	return r.violated
}

// pass waits for a moment, or for a violation that ends the run's fault phase.
func (r *run) pass(ctx context.Context, until time.Duration) error {
	if !r.plan.StopOnViolation {
		return r.rt.Sleep(ctx, until-r.rt.Now())
	}
	for !r.violated() {
		left := until - r.rt.Now()
		if left <= 0 {
			return nil
		}
		if err := r.rt.Sleep(ctx, min(left, violationInterval)); err != nil {
			return err
		}
	}
	return nil
}

// noteStop records that a violation ended the phase that was planned to last
// until end.
func (r *run) noteStop(end time.Duration) {
	now := r.rt.Now()
	if now >= end || !r.violated() {
		return
	}
	r.mu.Lock()
	r.violation.Early = true
	text := r.violation.String()
	r.mu.Unlock()
	r.sink.Event(history.Note{At: int64(now), Text: "faults ended early: " + text})
	r.cfg.Progress.Note("faults ended early; recovery, drain and the final check follow")
}

// unwatch keeps what was found of a run that is over.
func (r *run) unwatch(ex *Execution) {
	if r.online == nil {
		return
	}
	found := r.online.Report()
	ex.Online = &found
	if text := found.String(); text != "" {
		r.cfg.Progress.Note("%s", text)
	}
	if v := r.violation; v != nil && v.Early {
		ex.Stopped = v
	}
}

// unconfirmed says which violation was found while the run went on, and is none
// by the final check. What is found early is final, so one of the two is wrong.
func unconfirmed(res *checker.Result, ex Execution) error {
	if ex.Online == nil || ex.Err != nil || res == nil {
		return nil
	}
	var errs []error
	for _, f := range ex.Online.Findings {
		if !checker.Confirms(res, f) && len(errs) < 3 {
			errs = append(errs, fmt.Errorf("the check during the run found that it %s, and the final check does not: report it together with the history", f.Text))
		}
	}
	return errors.Join(errs...)
}
