package checker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// ErrMalformed is returned (wrapped, with the operation named) by Run for a
// history that contradicts its own header or format: an operation of an unknown
// key, kind or node, or one that returned before it was called.
var ErrMalformed = errors.New("malformed history")

// Options tune the judgement of a history. The zero value of each field means
// its default.
type Options struct {
	// MaxAnomalies is how many anomalies of each class are kept in detail; all
	// are counted. Default 10,000.
	MaxAnomalies int
	// PorcupineTimeout bounds Porcupine's search over all partitions together.
	// Default 20 s; negative turns Porcupine off.
	PorcupineTimeout time.Duration
	// PorcupineMaxOps is the largest number of operations of one partition that
	// is given to Porcupine, whose memory grows with its square. Default 3,000.
	PorcupineMaxOps int
	// MinBaselineOK is how many acknowledged sends the baseline must have seen
	// for the run to decide anything. Default 20; negative asks for none.
	MinBaselineOK int
	// MinRecoveryOK is the same for the recovery phase. Default 20; negative
	// asks for none.
	MinRecoveryOK int
	// MinFaultAttempts is how many sends must have been attempted on an affected
	// node and partition while each fault was active. Default 5; negative asks
	// for none.
	MinFaultAttempts int
	// MinRecoveryAttempts is how many sends must have been attempted on a
	// partition in the recovery phase before their failure breaks the clause
	// recovers. Default 3.
	MinRecoveryAttempts int
}

// DefaultOptions returns the defaults named at each field of Options.
func DefaultOptions() Options { return Options{}.withDefaults() }

func (o Options) withDefaults() Options {
	set := func(p *int, def int) {
		if *p == 0 {
			*p = def
		}
	}
	set(&o.MaxAnomalies, 10_000)
	set(&o.PorcupineMaxOps, 3_000)
	set(&o.MinBaselineOK, 20)
	set(&o.MinRecoveryOK, 20)
	set(&o.MinFaultAttempts, 5)
	set(&o.MinRecoveryAttempts, 3)
	if o.PorcupineTimeout == 0 {
		o.PorcupineTimeout = 20 * time.Second
	}
	return o
}

// clauseCheck fills a Check: whether its clause is promised, the anomalies, and
// what could not be decided.
type clauseCheck struct {
	name string
	run  func(context.Context, *view, *Check)
}

// clauses lists every checker, in the order of the report.
var clauses = []clauseCheck{
	{ClauseSurvives, checkSurvives},
	{ClauseDivergence, checkReplicasAgree},
	{ClauseDuplicate, checkAtMostOnce},
	{ClausePhantom, checkOnlyWhatWasSent},
	{ClauseResurrected, checkFailedNeverVisible},
	{ClauseMoved, checkOffsetsStay},
	{ClauseInconsistent, checkOneValuePerOffset},
	{ClauseDirtyRead, checkCommittedReads},
	{ClauseMonotonic, checkMonotonicReads},
	{ClauseOrder, checkProducerOrder},
	{ClauseSplitBrain, checkOneLeaderPerEpoch},
	{ClauseInSync, checkEnoughInSync},
	{ClauseLinearizable, checkLinearizable},
	{ClauseStale, checkFreshReads},
	{ClauseRecovers, checkRecovers},
}

// queueParts judge the queues of a history by clauses that are of logs as well.
var queueParts = map[string]func(context.Context, *view, *Check){
	ClauseSurvives:    checkQueuesSurvive,
	ClausePhantom:     checkQueuesSent,
	ClauseResurrected: checkQueuesFailed,
	ClauseOrder:       checkQueuesOrder,
}

// queueClauses are of queues alone.
var queueClauses = []clauseCheck{
	{ClauseConsumedOnce, checkConsumedOnce},
	{ClauseSettled, checkSettled},
	{ClauseRedelivers, checkRedelivers},
	{ClauseExclusive, checkExclusive},
	{ClauseMaxDeliveries, checkMaxDeliveries},
	{ClauseDeadLetters, checkDeadLetters},
	{ClauseTruthfulEmpty, checkTruthfulEmpty},
	{ClauseFIFO, checkFIFO},
}

// clauses are those that apply: a history of logs without transactions is judged
// by those of logs, one of queues by theirs, and one of both by all.
func (v *view) clauses() []clauseCheck {
	all := clauses
	if len(v.queues) > 0 {
		all = nil
		for _, c := range clauses {
			ofQueues := queueParts[c.name]
			switch {
			case len(v.keys) > 0 && ofQueues != nil:
				all = append(all, clauseCheck{c.name, both(c.run, ofQueues)})
			case ofQueues != nil:
				all = append(all, clauseCheck{c.name, ofQueues})
			case len(v.keys) > 0 || c.name == ClauseRecovers || c.name == ClauseSplitBrain:
				all = append(all, c)
			}
		}
		all = slices.Concat(all, queueClauses)
	}
	if len(v.txns) > 0 {
		all = append(slices.Clone(all), clauseCheck{ClauseTransactions, checkTransactions})
	}
	return all
}

// both judges logs and then queues by one clause.
func both(logs, queues func(context.Context, *view, *Check)) func(context.Context, *view, *Check) {
	return func(ctx context.Context, v *view, c *Check) {
		logs(ctx, v, c)
		ofLogs := c.Detail
		queues(ctx, v, c)
		c.Detail = ofLogs + "; of queues: " + c.Detail
	}
}

// Run judges h: every clause by its own checker, then whether the run decided
// anything at all. A checker that panics is a HarnessError of its clause, and
// the others still run. Run returns an error only for a history that it cannot
// take in (ErrMalformed) or when ctx ended before the judgement was complete.
func Run(ctx context.Context, h *history.History, o Options) (*Result, error) {
	o = o.withDefaults()
	v, err := newView(h, o)
	if err != nil {
		return nil, err
	}
	r := &Result{Anomalies: map[string]int{}}
	r.Checks = v.judgeAll(ctx, v.clauses())
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("checking: %w", err)
	}
	for _, c := range r.Checks {
		for class, n := range c.classes {
			r.Anomalies[class] += n
		}
	}
	r.Counts = v.counts()
	r.Availability = v.availability()
	r.Exercised = v.exercised()
	r.WhyInconclusive = v.whyInconclusive(r)
	r.NotChecked = v.notChecked(r)
	r.Verdict = overall(r)
	r.Sentence = v.sentence(r)
	return r, nil
}

// judgeAll runs the checkers, as many at a time as there are processors.
func (v *view) judgeAll(ctx context.Context, clauses []clauseCheck) []Check {
	checks := make([]Check, len(clauses))
	var (
		next    atomic.Int32
		running sync.WaitGroup
	)
	for range min(runtime.GOMAXPROCS(0), len(clauses)) {
		running.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(clauses) || ctx.Err() != nil {
					return
				}
				checks[i] = v.judge(ctx, clauses[i].name, clauses[i].run)
			}
		})
	}
	running.Wait()
	return checks
}

// judge runs one checker and draws its verdict from what it found: anomalies
// of a promised clause make it Invalid; open questions make it Unknown.
func (v *view) judge(ctx context.Context, name string, f func(context.Context, *view, *Check)) (c Check) {
	c = Check{Name: name, Promised: true, Verdict: Valid, max: v.o.MaxAnomalies}
	defer func() {
		if p := recover(); p != nil {
			c.Promised, c.Verdict = true, HarnessError
			c.Detail = fmt.Sprintf("the checker of %s panicked: %v", name, p)
			c.Remedy = "report it together with the history; the other clauses were judged"
		}
	}()
	f(ctx, v, &c)
	switch {
	case c.Verdict == HarnessError:
	case !c.Promised:
		c.Verdict = Valid
		if c.Count > 0 {
			c.Detail += " (reported, not judged: this configuration does not promise it)"
		}
	case c.Count > 0:
		c.Verdict = Invalid
	case len(c.open) > 0:
		c.Verdict = Unknown
		c.Detail = "could not decide: " + c.open[0].Why + more(len(c.open)-1, "reason")
		c.Remedy = c.open[0].Change
	}
	return c
}

// overall draws the verdict of a run: the worst of its clauses, and at best
// Unknown where the run was inconclusive.
func overall(r *Result) Verdict {
	worst := Valid
	for _, c := range r.Checks {
		if c.Verdict.rank() > worst.rank() { // of an unpromised clause it is Valid
			worst = c.Verdict
		}
	}
	if worst == Valid && len(r.WhyInconclusive) > 0 {
		return Unknown
	}
	return worst
}
