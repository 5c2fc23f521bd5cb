// Package checker judges histories. Each clause of a contract is one checker
// with its own verdict; a verdict rests on the history alone.
package checker

import (
	"github.com/faultline-mq/faultline/checker/history"
)

// Verdict is the outcome of a check or of a run. The worst wins:
// Invalid > HarnessError > Unknown > Valid.
type Verdict string

// The verdicts.
const (
	Valid        Verdict = "valid"
	Unknown      Verdict = "unknown"
	HarnessError Verdict = "harness error"
	Invalid      Verdict = "invalid"
)

// ExitCode returns the process exit code of v: 0 valid, 1 invalid, 2 unknown,
// 255 harness error.
func (v Verdict) ExitCode() int {
	switch v {
	case Valid:
		return 0
	case Invalid:
		return 1
	case Unknown:
		return 2
	}
	return 255
}

// rank orders verdicts: the worst is the highest.
func (v Verdict) rank() int {
	switch v {
	case Valid:
		return 0
	case Unknown:
		return 1
	case HarnessError:
		return 2
	case Invalid:
		return 3
	}
	return 2
}

// Clause names. Each is one promise of a contract, and one row of a report.
const (
	ClauseSurvives     = "acknowledged-survive" // lost, unseen, late
	ClauseDivergence   = "replicas-agree"       // divergence
	ClauseDuplicate    = "at-most-once"         // duplicate
	ClausePhantom      = "only-what-was-sent"   // phantom, three kinds
	ClauseResurrected  = "failed-never-visible" // resurrected
	ClauseMoved        = "offsets-stay"         // moved
	ClauseInconsistent = "one-value-per-offset" // inconsistent offset
	ClauseDirtyRead    = "committed-reads"      // dirty read
	ClauseMonotonic    = "monotonic-reads"      // skip, non-monotonic
	ClauseOrder        = "producer-order"       // reorder
	ClauseSplitBrain   = "one-leader-per-epoch" // split brain
	ClauseInSync       = "enough-in-sync"       // acknowledged with too few replicas in sync
	ClauseLinearizable = "linearizable-appends" // Porcupine
	ClauseStale        = "fresh-reads"          // stale read
	ClauseRecovers     = "recovers"             // no progress after healing

	// Of queues.
	ClauseConsumedOnce  = "consumed-once"        // duplicate
	ClauseSettled       = "settled-stay-settled" // delivered after its settlement
	ClauseRedelivers    = "redelivers"           // never redelivered
	ClauseExclusive     = "exclusive-deliveries" // redelivered while it was held
	ClauseMaxDeliveries = "delivery-limit"       // too many deliveries
	ClauseDeadLetters   = "dead-letters"         // not there, or there too early
	ClauseTruthfulEmpty = "truthful-empty"       // false empty
	ClauseFIFO          = "linearizable-queue"   // not a FIFO queue
	ClauseTransactions  = "atomic-transactions"  // aborted, uncommitted, torn
)

// Anomaly classes. Each belongs to one clause.
const (
	ClassLost         = "lost"
	ClassUnseen       = "unseen" // counted in Result.Anomalies, never judged
	ClassLate         = "late"   // counted in Result.Anomalies, never judged
	ClassSentLost     = "sent-lost"
	ClassDivergence   = "divergence"
	ClassDuplicate    = "duplicate"
	ClassPhantom      = "phantom"           // never sent, or never sent there
	ClassPhantomRun   = "phantom-other-run" // well formed, of another run
	ClassPhantomBytes = "phantom-altered"   // its checksum does not match
	ClassResurrected  = "resurrected"
	ClassMoved        = "moved"
	ClassInconsistent = "inconsistent-offset"
	ClassDirtyRead    = "dirty-read"
	ClassSkip         = "skip"
	ClassNonMonotonic = "non-monotonic"
	ClassReorder      = "reorder"
	ClassSplitBrain   = "split-brain"
	ClassTooFew       = "too-few-in-sync"
	ClassLinearizable = "not-linearizable"
	ClassStale        = "stale-read"
	ClassNotRecovered = "not-recovered"

	ClassTaken            = "may-be-taken" // counted in Result.Anomalies, never judged
	ClassAfterSettlement  = "delivered-after-settlement"
	ClassNeverRedelivered = "never-redelivered"
	ClassWhileHeld        = "redelivered-while-held"
	ClassTooManyTimes     = "too-many-deliveries"
	ClassNotDeadLettered  = "not-dead-lettered"
	ClassDeadTooEarly     = "dead-lettered-early"
	ClassFalseEmpty       = "false-empty"
	ClassNotFIFO          = "not-first-in-first-out"
	ClassAbortedRead      = "aborted-read"
	ClassUncommittedRead  = "uncommitted-read"
	ClassTornTransaction  = "torn-transaction"
)

// Kinds of scheme events that break a promise. The same clause that breaks by the
// same kind is the same conviction, wherever it was run.
const (
	EventTruncation = "truncation"       // a replica cut it off
	EventUnclean    = "unclean-election" // a leader from outside the in-sync set came without it
	EventShrink     = "isr-shrink"       // a leader went on with too few replicas in sync
	EventLeader     = "leader-change"    // a node began to lead
	EventDeletion   = "topic-deletion"   // its topic went
)

// Anomaly is one broken promise with its evidence.
type Anomaly struct {
	Class    string        `json:"class"` // lost, duplicate, phantom, …
	Key      string        `json:"key,omitempty"`
	Value    history.Value `json:"value,omitempty"`
	Offset   int64         `json:"offset"` // NoOffset where none applies
	Producer string        `json:"producer,omitempty"`
	Seq      int64         `json:"seq,omitempty"`
	At       int64         `json:"at"` // the moment to look at: the acknowledgement, the read, …
	Node     string        `json:"node,omitempty"`
	Place    string        `json:"place,omitempty"`      // lost: prefix, middle, tail (of the partition's acknowledged offsets)
	PlaceIn  string        `json:"place_in,omitempty"`   // the same within its producer
	Missing  []string      `json:"missing_on,omitempty"` // replicas without it
	LastSeen int64         `json:"last_seen,omitempty"`  // last moment a read returned it, 0 = never
	Fault    string        `json:"fault,omitempty"`      // the fault that was active At, or the last before
	Cause    string        `json:"cause,omitempty"`      // scheme event that removed it: "n2 truncated t-0 from 17 (epoch 4)"
	Event    string        `json:"event,omitempty"`      // what kind of scheme event broke it: EventTruncation, …; empty: none is known
	Ops      []int64       `json:"ops,omitempty"`        // operations that prove it
	Text     string        `json:"text"`                 // one sentence that quotes the guarantee that broke
}

// Check is the verdict on one clause.
type Check struct {
	Name      string  `json:"name"`
	Promised  bool    `json:"promised"` // false: reported, not judged
	Verdict   Verdict `json:"verdict"`
	Detail    string  `json:"detail"` // one sentence, with counts
	Procedure string  `json:"procedure,omitempty"`
	// Anomalies holds every anomaly up to Options.MaxAnomalies; Count is the whole number.
	Anomalies []Anomaly `json:"anomalies,omitempty"`
	Count     int       `json:"count"`
	// Notes count by class what is reported under this clause and is neither an
	// anomaly of it nor judged: sent-lost, late, …
	Notes map[string]int `json:"notes,omitempty"`
	// Remedy says what to change where the verdict is Unknown.
	Remedy string `json:"remedy,omitempty"`

	max     int            // anomalies kept in detail per class
	classes map[string]int // all of them, by class
	open    []Reason       // what kept the clause from being decided
}

// add records one anomaly, in detail while its class holds fewer than max.
func (c *Check) add(a Anomaly) {
	if c.classes == nil {
		c.classes = map[string]int{}
	}
	c.Count++
	c.classes[a.Class]++
	if c.classes[a.Class] <= c.max {
		c.Anomalies = append(c.Anomalies, a)
	}
}

// note counts what is reported under class, and neither an anomaly of the
// clause nor judged.
func (c *Check) note(class string, n int) {
	if c.classes == nil {
		c.classes = map[string]int{}
	}
	c.classes[class] += n
	if n > 0 {
		if c.Notes == nil {
			c.Notes = map[string]int{}
		}
		c.Notes[class] += n
	}
}

// undecided records why the clause could not be decided, and what to change.
func (c *Check) undecided(why, change string) {
	c.open = append(c.open, Reason{Why: why, Change: change})
}

// Reason says why a run decided nothing, and what to change.
type Reason struct {
	Why    string `json:"why"`
	Change string `json:"change"`
}

// Result is the judgement of one history.
type Result struct {
	Verdict         Verdict        `json:"verdict"`
	Sentence        string         `json:"sentence"` // the verdict in one sentence, with counts
	Checks          []Check        `json:"checks"`
	Anomalies       map[string]int `json:"anomalies"` // by class
	NotChecked      []string       `json:"not_checked"`
	WhyInconclusive []Reason       `json:"why_inconclusive"`
	Counts          Counts         `json:"counts"`
	Availability    Availability   `json:"availability"`
	Exercised       map[string]int `json:"exercised"` // leader-change, truncation, isr-shrink, isr-expand, … seen in node events
}

// Counts are the operations by outcome, in all and per phase.
type Counts struct {
	OK            int                    `json:"ok"`
	Failed        int                    `json:"failed"`
	Indeterminate int                    `json:"indeterminate"`
	Acknowledged  int                    `json:"acknowledged"` // sends
	Delivered     int                    `json:"delivered"`    // records returned by polls and receives
	Phases        map[string]PhaseCounts `json:"phases"`
	Queues        map[string]QueueCounts `json:"queues,omitempty"` // by key
}

// QueueCounts are the messages of one queue: those sent to it, wherever they came
// out, in the terms of Jepsen's total-queue. What is delivered counts whether it was
// settled or not, and the drain delivers too, the dead letters' included.
type QueueCounts struct {
	Attempts     int `json:"attempts"`     // sends
	Acknowledged int `json:"acknowledged"` // of them
	Delivered    int `json:"delivered"`    // messages that came out, of those that were sent: each once
	Accepted     int `json:"accepted"`     // messages whose acceptance was confirmed
	Drained      int `json:"drained"`      // messages in the drain
	Lost         int `json:"lost"`         // acknowledged, and never came out
	Unexpected   int `json:"unexpected"`   // deliveries of what was never sent to it
	Duplicated   int `json:"duplicated"`   // further deliveries of what was delivered before
	Recovered    int `json:"recovered"`    // came out, and were never acknowledged
}

// PhaseCounts are the sends, polls and receives that began in one phase.
type PhaseCounts struct {
	Sends         int `json:"sends"`
	Acknowledged  int `json:"acknowledged"`
	Polls         int `json:"polls"`
	OK            int `json:"ok"`
	Failed        int `json:"failed"`
	Indeterminate int `json:"indeterminate"`
}

// Availability is what every run measures beside its verdict. Durations are
// milliseconds, latencies in milliseconds over ok sends.
type Availability struct {
	LongestUnavailableMS float64            `json:"longest_unavailable_ms"`
	LongestKey           string             `json:"longest_key,omitempty"`
	LongestFrom          int64              `json:"longest_from,omitempty"`
	PerKeyMS             map[string]float64 `json:"per_key_ms,omitempty"`
	// RecoveryMS: for each fault in order of ID, from the end of healing to the
	// first ok send on every affected partition; -1 where it never came.
	RecoveryMS []float64 `json:"recovery_ms"`
	// FailoverMS: for each fault, from injection to the first ok send on every
	// affected partition that began after it; -1 where none came before healing.
	FailoverMS []float64 `json:"failover_ms"`
	// Faults: the same and more for each fault in order of ID, by partition.
	Faults []FaultAvailability `json:"faults"`
	// Latency is the service time, from the call to the return: "before", "during",
	// "after", and per fault "fault 0".
	Latency map[string]Latency `json:"latency"`
	// Response is the time from when the schedule wanted the call to the return,
	// under the same names, by when the call was wanted. Empty without a schedule.
	Response map[string]Latency `json:"response"`
	// Correction says in words whether Response is there for all sends.
	Correction string `json:"correction"`
	// IndeterminateShare is that of all operations, 0 to 1.
	IndeterminateShare float64 `json:"indeterminate_share"`
	StallsMS           float64 `json:"stalls_ms"`
}

// FaultAvailability is what one fault did to the partitions that it affects and
// that saw any send; the maps are empty where there is none. Where faults overlap,
// each has what was seen while it was there.
type FaultAvailability struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
	// UnavailableMS is the longest time without an ok send, counted from the begin
	// of the injection on, that began before the healing was proven. It may last
	// beyond.
	UnavailableMS map[string]float64 `json:"unavailable_ms"`
	// FailoverMS and RecoveryMS are as in Availability, by partition.
	FailoverMS map[string]float64 `json:"failover_ms"`
	RecoveryMS map[string]float64 `json:"recovery_ms"`
	// ServedMS is the time from the end of healing to the first message that a consumer
	// was given, by queue whose consumers asked after it; -1 where none came.
	ServedMS map[string]float64 `json:"served_ms,omitempty"`
	// Lost is the recovery point: the acknowledged messages that are lost for
	// certain, acknowledged while the fault was in force (of several, the first) or
	// was the last one. LostSpanMS is the time from the first to the last of these
	// acknowledgements.
	Lost       int     `json:"lost"`
	LostSpanMS float64 `json:"lost_span_ms"`
	// IndeterminateShare is that of the sends called to these partitions while the
	// fault was there.
	IndeterminateShare float64 `json:"indeterminate_share"`
}

// Latency gives percentiles in milliseconds.
type Latency struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p999"`
	Max   float64 `json:"max"`
}
