package report

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// SummaryVersion is the version of summary.json. Fields may be added under the
// same version; a changed meaning raises it.
const SummaryVersion = 1

// maxListed bounds the anomalies that summary.json lists per check; the counts
// are always complete.
const maxListed = 1000

// Summary is summary.json. Keys stand in the order of the fields, those of maps
// in alphabetical order; lists are never null. Names that end in _ms are
// milliseconds, start and end are milliseconds since the start of the run, and
// the times inside an anomaly are nanoseconds on the run's clock, as in the
// history.
type Summary struct {
	Version     int               `json:"version"`
	Verdict     checker.Verdict   `json:"verdict"`         // valid, invalid, unknown, harness error
	ExitCode    int               `json:"exit_code"`       // 0, 1, 2, 255
	Sentence    string            `json:"sentence"`        // the verdict in one sentence, with counts
	Notes       []string          `json:"notes,omitempty"` // what a reader has to know first, each a sentence
	System      string            `json:"system"`
	Scheme      string            `json:"scheme"`
	Workload    string            `json:"workload"`
	Environment string            `json:"environment"`
	Seed        uint64            `json:"seed"`
	Command     string            `json:"command"`
	Replay      string            `json:"replay"`
	Dir         string            `json:"dir"`
	Started     time.Time         `json:"started"` // wall clock, RFC 3339
	DurationMS  float64           `json:"duration_ms"`
	Expect      string            `json:"expect"`
	Commit      string            `json:"commit"`
	FaultSpec   string            `json:"fault_spec"` // as on the command line
	Nodes       []string          `json:"nodes"`
	Options     map[string]string `json:"options"`

	Ops             Ops                            `json:"ops"`
	Phases          map[string]checker.PhaseCounts `json:"phases"`
	Queues          map[string]checker.QueueCounts `json:"queues,omitempty"` // by key, of a run with queues
	Faults          []FaultSummary                 `json:"faults"`
	Skipped         []string                       `json:"skipped,omitempty"` // faults whose event never came, each as a sentence
	Checks          []CheckSummary                 `json:"checks"`
	Anomalies       map[string]int                 `json:"anomalies"` // by class; "lost" and "duplicate" are always there
	NotChecked      []string                       `json:"not_checked"`
	WhyInconclusive []checker.Reason               `json:"why_inconclusive"`
	Availability    checker.Availability           `json:"availability"`
	Exercised       map[string]int                 `json:"exercised"` // leader-change, truncation, … by count
	Versions        map[string]string              `json:"versions"`
	Online          *checker.OnlineReport          `json:"online,omitempty"`  // what was found while the run went on, the first 10 in detail
	Stopped         *Stopped                       `json:"stopped,omitempty"` // why the fault phase ended early
}

// maxOnline bounds the findings that summary.json lists; the counts are complete.
const maxOnline = 10

// Stopped is the first violation that was found while a run went on, and when.
type Stopped struct {
	AtMS      float64         `json:"at_ms"`     // since the start of the run
	Operation int64           `json:"operation"` // the last of those that prove it, -1: events of nodes do
	Early     bool            `json:"early"`     // it ended the fault phase
	Finding   checker.Finding `json:"finding"`
}

// String says what was found, when, and by which operation.
func (s *Stopped) String() string {
	by := ""
	if s.Operation >= 0 {
		by = fmt.Sprintf(", by operation %d", s.Operation)
	}
	return fmt.Sprintf("at %s%s: %s", seconds(int64(s.AtMS*1e6)), by, s.Finding.Text)
}

// Ops are the operations by outcome.
type Ops struct {
	OK            int `json:"ok"`
	Failed        int `json:"failed"`
	Indeterminate int `json:"indeterminate"`
	Acknowledged  int `json:"acknowledged"` // sends
	Delivered     int `json:"delivered"`    // records that polls returned
}

// Total is the number of operations.
func (o Ops) Total() int { return o.OK + o.Failed + o.Indeterminate }

// FaultSummary is one fault's life.
type FaultSummary struct {
	Name    string     `json:"name"`
	Targets []string   `json:"targets"`
	Sides   [][]string `json:"sides,omitempty"` // of a partition
	Role    string     `json:"role,omitempty"`  // what the targets held when they were chosen
	Start   float64    `json:"start"`           // ms since the start of the run
	End     *float64   `json:"end"`             // ms; null where it was never healed
	Proven  bool       `json:"proven"`          // right after injection and right before healing
	Healed  bool       `json:"healed"`          // its absence was seen
	Detail  string     `json:"detail,omitempty"`
}

// CheckSummary is one clause's verdict.
type CheckSummary struct {
	Name      string            `json:"name"`
	Promised  bool              `json:"promised"` // false: reported, not judged
	Verdict   checker.Verdict   `json:"verdict"`
	Detail    string            `json:"detail"`
	Remedy    string            `json:"remedy,omitempty"`
	Count     int               `json:"count"`
	Anomalies []checker.Anomaly `json:"anomalies,omitempty"` // the first 1000
}

// Summarize builds the summary of a run. res and h may be nil, as in WriteAll.
func Summarize(run Run, res *checker.Result, h *history.History) Summary {
	run, res, h = complete(run.Dir, run, res, h)
	s := Summary{
		Version: SummaryVersion, Verdict: res.Verdict, ExitCode: res.Verdict.ExitCode(), Sentence: res.Sentence, Notes: run.Notes,
		System: run.System, Scheme: run.Scheme, Workload: run.Workload, Environment: run.Environment, Seed: run.Seed,
		Command: run.Command, Replay: run.Replay, Dir: run.Dir, Started: run.Started.UTC(),
		DurationMS: toMS(int64(run.Duration)), Expect: run.Expect, Commit: run.Commit, FaultSpec: run.Faults,
		Nodes: list(run.Nodes), Options: orEmpty(run.Options),
		Ops: Ops{
			OK: res.Counts.OK, Failed: res.Counts.Failed, Indeterminate: res.Counts.Indeterminate,
			Acknowledged: res.Counts.Acknowledged, Delivered: res.Counts.Delivered,
		},
		Phases: orEmpty(res.Counts.Phases), Queues: res.Counts.Queues, Faults: []FaultSummary{}, Checks: []CheckSummary{},
		Anomalies:  map[string]int{"lost": 0, "duplicate": 0},
		NotChecked: list(res.NotChecked), WhyInconclusive: list(res.WhyInconclusive),
		Availability: finiteAvailability(res.Availability), Exercised: orEmpty(res.Exercised), Versions: orEmpty(run.Versions),
		Stopped: run.Stopped,
	}
	if run.Online != nil {
		online := *run.Online
		online.Findings = online.Findings[:min(len(online.Findings), maxOnline)]
		s.Online = &online
	}
	maps.Copy(s.Anomalies, res.Anomalies)
	for _, f := range faultSpans(h) {
		fs := FaultSummary{
			Name: f.Name, Targets: list(f.Targets), Sides: f.Sides, Role: f.Role,
			Start: toMS(f.Start), Proven: f.proven(), Healed: f.healed(), Detail: f.detail(),
		}
		if f.End != history.Infinity {
			end := toMS(f.End)
			fs.End = &end
		}
		s.Faults = append(s.Faults, fs)
	}
	for _, f := range skippedFaults(h) {
		s.Skipped = append(s.Skipped, fmt.Sprintf("fault %d: %s", f.ID, f.Detail))
	}
	for _, c := range res.Checks {
		s.Checks = append(s.Checks, CheckSummary{
			Name: c.Name, Promised: c.Promised, Verdict: c.Verdict, Detail: c.Detail, Remedy: c.Remedy,
			Count: max(c.Count, len(c.Anomalies)), Anomalies: c.Anomalies[:min(len(c.Anomalies), maxListed)],
		})
	}
	return s
}

// undecided returns why the run decided nothing, reasons with the same remedy
// together: at most three of them are named. It is empty where the verdict does
// not hang on them.
func (s Summary) undecided() []checker.Reason {
	if s.Verdict == checker.Valid || s.Verdict == checker.Invalid {
		return nil
	}
	var out []checker.Reason
	index, n := map[string]int{}, map[string]int{}
	for _, r := range s.WhyInconclusive {
		i, known := index[r.Change]
		n[r.Change]++
		switch {
		case !known:
			index[r.Change] = len(out)
			out = append(out, r)
		case n[r.Change] <= 3:
			out[i].Why += "; " + r.Why
		}
	}
	for i := range out {
		if more := n[out[i].Change] - 3; more > 0 {
			out[i].Why += "; and " + plural(more, "more reason")
		}
	}
	return out
}

// judged returns the classes of anomalies that broke a promise.
func (s Summary) judged() map[string]bool {
	out := map[string]bool{}
	for _, c := range s.Checks {
		if c.Promised && c.Verdict == checker.Invalid {
			for _, a := range c.Anomalies {
				out[a.Class] = true
			}
		}
	}
	return out
}

// WriteJSON writes the summary as indented JSON.
func (s Summary) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(s)
}

// ReadSummary reads the summary.json of the result directory dir.
func ReadSummary(dir string) (Summary, error) {
	path := filepath.Join(dir, SummaryFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return Summary{}, fmt.Errorf("reading the summary of a run: %w", err)
	}
	var s Summary
	if err := json.Unmarshal(b, &s); err != nil {
		return Summary{}, fmt.Errorf("reading %s: %w; \"faultline check %s\" writes it again", path, err, ShellQuote(dir))
	}
	if s.Version != SummaryVersion {
		return Summary{}, fmt.Errorf("reading %s: version %d is not %d; \"faultline check %s\" writes it again", path, s.Version, SummaryVersion, ShellQuote(dir))
	}
	return s, nil
}

// Run returns the description that the summary was made from, for rendering a
// stored result again. Its PlanYAML and NodeLogs are empty: WriteAll reads them
// from the result directory.
func (s Summary) Run() Run {
	return Run{
		Command: s.Command, Replay: s.Replay, System: s.System, Scheme: s.Scheme, Workload: s.Workload,
		Environment: s.Environment, Seed: s.Seed, Options: s.Options, Faults: s.FaultSpec, Nodes: s.Nodes,
		Started: s.Started, Duration: time.Duration(s.DurationMS * float64(time.Millisecond)), Versions: s.Versions,
		Commit: s.Commit, Expect: s.Expect, Dir: s.Dir, Notes: s.Notes, Online: s.Online, Stopped: s.Stopped,
	}
}

// toMS converts nanoseconds to milliseconds, rounded to a microsecond.
func toMS(ns int64) float64 { return math.Round(float64(ns)/1e3) / 1e3 }

// finite replaces what JSON cannot hold by -1, which in this format means "never".
func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return -1
	}
	return f
}

func finiteAvailability(a checker.Availability) checker.Availability {
	a.LongestUnavailableMS, a.StallsMS, a.IndeterminateShare = finite(a.LongestUnavailableMS), finite(a.StallsMS), finite(a.IndeterminateShare)
	each := func(in []float64) []float64 {
		out := make([]float64, len(in))
		for i, f := range in {
			out[i] = finite(f)
		}
		return out
	}
	a.RecoveryMS, a.FailoverMS = each(a.RecoveryMS), each(a.FailoverMS)
	a.PerKeyMS = finiteValues(a.PerKeyMS)
	a.Faults = list(a.Faults)
	for i := range a.Faults {
		f := &a.Faults[i]
		f.UnavailableMS, f.FailoverMS, f.RecoveryMS = finiteValues(f.UnavailableMS), finiteValues(f.FailoverMS), finiteValues(f.RecoveryMS)
		if f.ServedMS != nil {
			f.ServedMS = finiteValues(f.ServedMS)
		}
		f.LostSpanMS, f.IndeterminateShare = finite(f.LostSpanMS), finite(f.IndeterminateShare)
	}
	a.Latency, a.Response = finiteLatencies(a.Latency), finiteLatencies(a.Response)
	return a
}

func finiteValues(in map[string]float64) map[string]float64 {
	out := make(map[string]float64, len(in))
	for k, f := range in {
		out[k] = finite(f)
	}
	return out
}

func finiteLatencies(in map[string]checker.Latency) map[string]checker.Latency {
	out := make(map[string]checker.Latency, len(in))
	for k, l := range in {
		l.P50, l.P90, l.P99, l.P999, l.Max = finite(l.P50), finite(l.P90), finite(l.P99), finite(l.P999), finite(l.Max)
		out[k] = l
	}
	return out
}

// perFault is what a fault did to availability, as the reports word it.
type perFault struct {
	Unavailable, Failover, Recovery string // the worst of its partitions
	Served                          string // the worst of its queues
	Lost, Indeterminate             string
}

// faultFigures words the availability of a fault; "–" where it affected no partition
// that saw a send.
func faultFigures(f checker.FaultAvailability) perFault {
	worst := func(perKey map[string]float64) string {
		w := -1.0
		for _, key := range slices.Sorted(maps.Keys(perKey)) {
			if perKey[key] < 0 {
				return "never (" + key + ")"
			}
			w = max(w, perKey[key])
		}
		if w < 0 {
			return "–"
		}
		return millis(w)
	}
	p := perFault{Unavailable: worst(f.UnavailableMS), Failover: worst(f.FailoverMS), Recovery: worst(f.RecoveryMS), Served: worst(f.ServedMS), Lost: count(f.Lost), Indeterminate: percent(f.IndeterminateShare)}
	if f.Lost > 0 {
		p.Lost += " in " + millis(f.LostSpanMS)
	}
	return p
}

// queueTotals counts the messages of all queues together.
func queueTotals(queues map[string]checker.QueueCounts) (sum checker.QueueCounts) {
	for _, q := range queues {
		sum.Attempts += q.Attempts
		sum.Acknowledged += q.Acknowledged
		sum.Delivered += q.Delivered
		sum.Accepted += q.Accepted
		sum.Drained += q.Drained
		sum.Lost += q.Lost
		sum.Unexpected += q.Unexpected
		sum.Duplicated += q.Duplicated
		sum.Recovered += q.Recovered
	}
	return sum
}

// latencyText words how long sends took, beside what the schedule makes of it.
func latencyText(a checker.Availability) string {
	var parts []string
	for _, name := range []string{"before", "during", "after"} {
		l, ok := a.Latency[name]
		if !ok {
			continue
		}
		text := fmt.Sprintf("%s the faults %s", name, millis(l.P99))
		if r, ok := a.Response[name]; ok {
			text += " (from when it was due " + millis(r.P99) + ")"
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return ""
	}
	return "99 % of ok sends within: " + strings.Join(parts, ", ") + "; " + a.Correction
}

// list returns s, or an empty list in place of nil: JSON lists are never null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return slices.Clone(s)
}

func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}
