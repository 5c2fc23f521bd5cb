package harness

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// Figures are what a claim about a scheme is judged by, beside the verdict.
type Figures struct {
	Findings      []Finding     `json:"findings,omitempty"` // in the order of the report
	Steps         []StepFigures `json:"steps,omitempty"`    // one per planned step, by id
	UnavailableMS float64       `json:"unavailable_ms"`     // the longest
	Leaders       Leaders       `json:"leaders"`
}

// Finding counts the anomalies of one class that came by one kind of scheme event,
// whether their clause is promised or not.
type Finding struct {
	Clause string `json:"clause"`
	Class  string `json:"class"`
	Event  string `json:"event,omitempty"`
	Count  int    `json:"count"`
}

// StepFigures are what one fault met.
type StepFigures struct {
	ID      int    `json:"id"`
	Name    string `json:"name"`
	Proven  bool   `json:"proven"`  // its effect right after injection and right before healing, and its healing
	Skipped bool   `json:"skipped"` // the event that it waited for never came
	// FailoverMS is from injection to the first ok send on every affected partition,
	// RecoveryMS from healing; -1 where none came (before healing, or at all).
	FailoverMS float64 `json:"failover_ms"`
	RecoveryMS float64 `json:"recovery_ms"`
	// OutageMS is the longest time without an ok send on an affected partition that lies
	// in part between the begin of the injection and healing: it counts from the last ok
	// send before. The harness stood still for StalledMS in between, and no time counts
	// in which it did.
	OutageMS  float64 `json:"outage_ms"`
	StalledMS float64 `json:"stalled_ms"`
	// Before are the sends that were acknowledged before the injection began, During
	// those that were called while the fault was whole and acknowledged before healing.
	Before Traffic `json:"before"`
	During Traffic `json:"during"`
}

// Traffic are acknowledged sends by who acknowledged them: targets of the fault, or
// other nodes.
type Traffic struct {
	Targets Share `json:"targets"`
	Others  Share `json:"others"`
}

// Share says what became of acknowledged sends.
type Share struct {
	Acknowledged int `json:"acknowledged"`
	Lost         int `json:"lost"`
	Seen         int `json:"seen"` // delivered to a consumer before the fault began to heal
	// Held were delivered to nobody before the fault began to heal, and then by a
	// target: it had them all the while.
	Held int `json:"held"`
	// Stale are the polls that were called while the fault was whole, and saw the log
	// end before what had been acknowledged until then; by who answered them.
	Stale int `json:"stale"`
}

// Leaders compares who led the partitions before the first fault and at the end.
type Leaders struct {
	Spread bool `json:"spread"` // before: no node led two more than another
	Back   bool `json:"back"`   // at the end every partition is led by whom it was led by before
	Copies int  `json:"copies"` // the fewest replicas of a partition that the drain found complete
	Wanted int  `json:"wanted"` // replicas that each partition is to have
}

func figures(res *checker.Result, h *history.History, p Plan) Figures {
	f := Figures{
		Findings: findings(res), Steps: stepFigures(res, h), UnavailableMS: res.Availability.LongestUnavailableMS, Leaders: leaders(h),
	}
	f.Leaders.Wanted, _ = strconv.Atoi(p.Options["replication.factor"]) // 0 where the system has no such option
	return f
}

// findings counts anomalies by clause, class and event. What clauses only note
// (sent-lost, …) has no event.
func findings(res *checker.Result) []Finding {
	var all []Finding
	add := func(clause, class, event string, n int) {
		i := slices.IndexFunc(all, func(f Finding) bool { return f.Clause == clause && f.Class == class && f.Event == event })
		if i < 0 {
			i, all = len(all), append(all, Finding{Clause: clause, Class: class, Event: event})
		}
		all[i].Count += n
	}
	for _, c := range res.Checks {
		for _, a := range c.Anomalies {
			add(c.Name, a.Class, a.Event, 1)
		}
		for _, class := range slices.Sorted(maps.Keys(c.Notes)) {
			add(c.Name, class, "", c.Notes[class])
		}
	}
	return all
}

// moments are those of one fault's life.
type moments struct {
	StepFigures
	targets              []string
	injecting, from, end int64 // its injection begins, is complete, its healing begins
	stages               map[history.FaultStage]bool
}

func faultMoments(h *history.History) []*moments {
	byID := map[int]*moments{}
	var all []*moments
	for _, f := range h.Faults {
		m := byID[f.ID]
		if m == nil {
			m = &moments{
				StepFigures: StepFigures{ID: f.ID, Name: f.Name, FailoverMS: -1, RecoveryMS: -1},
				injecting:   history.Infinity, from: history.Infinity, end: history.Infinity, stages: map[history.FaultStage]bool{},
			}
			byID[f.ID], all = m, append(all, m)
		}
		m.stages[f.Stage] = true
		if len(f.Targets) > 0 {
			m.targets = f.Targets
		}
		switch f.Stage {
		case history.Injecting:
			m.injecting = f.At
		case history.Injected:
			m.from = f.At
		case history.Healing:
			m.end = f.At
		}
	}
	for _, m := range all {
		m.Proven = m.stages[history.Proven] && m.stages[history.StillProven] && m.stages[history.Healed]
		m.Skipped = m.stages[history.Skipped]
	}
	slices.SortFunc(all, func(a, b *moments) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

func stepFigures(res *checker.Result, h *history.History) []StepFigures {
	all := faultMoments(h)
	lost := lostOps(res)
	seen := firstSeen(h)
	stale := stalePolls(h)
	n := 0 // availability leaves out what was skipped
	out := make([]StepFigures, len(all))
	for i, m := range all {
		if !m.Skipped {
			if n < len(res.Availability.FailoverMS) {
				m.FailoverMS, m.RecoveryMS = res.Availability.FailoverMS[n], res.Availability.RecoveryMS[n]
				for _, ms := range res.Availability.Faults[n].UnavailableMS {
					m.OutageMS = max(m.OutageMS, ms)
				}
			}
			n++
			m.count(h, lost, seen, stale)
			m.StalledMS = m.stalled(h)
		}
		out[i] = m.StepFigures
	}
	return out
}

// stalled is how long the harness stood still from the begin of the injection until
// healing, in milliseconds.
func (m *moments) stalled(h *history.History) float64 {
	var sum int64
	for _, s := range h.Stalls {
		sum += max(0, min(s.To, m.end)-max(s.From, m.injecting))
	}
	return float64(sum) / float64(time.Millisecond)
}

// share is the part of the traffic that a node answered.
func (m *moments) share(t *Traffic, h *history.History, node int16) *Share {
	if m.targeted(h, node) {
		return &t.Targets
	}
	return &t.Others
}

func (m *moments) targeted(h *history.History, node int16) bool {
	return node >= 0 && slices.Contains(m.targets, h.Header.Nodes[node])
}

// count sorts acknowledged sends and stale polls by time and by who answered them.
func (m *moments) count(h *history.History, lost map[int64]bool, seen map[history.Value]delivery, stale []*history.Op) {
	for _, op := range stale {
		if op.Call >= m.from && op.Return < m.end {
			m.share(&m.During, h, op.Node).Stale++
		}
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Send || op.Outcome != history.OK || !op.Acked {
			continue
		}
		var traffic *Traffic
		switch {
		case op.Return < m.injecting:
			traffic = &m.Before
		case op.Call >= m.from && op.Return < m.end:
			traffic = &m.During
		default:
			continue
		}
		share := m.share(traffic, h, op.Node)
		share.Acknowledged++
		if lost[op.ID] {
			share.Lost++
		}
		switch first, ok := seen[op.Value]; {
		case !ok:
		case first.at < m.end:
			share.Seen++
		case m.targeted(h, first.node):
			share.Held++
		}
	}
}

// stalePolls are the polls that saw the log end before an offset that was acknowledged
// before they were called.
func stalePolls(h *history.History) []*history.Op {
	type moment struct {
		at int64
		op *history.Op
	}
	var all []moment
	for i := range h.Ops {
		op := &h.Ops[i]
		switch {
		case op.Outcome != history.OK:
		case op.Kind == history.Send && op.Acked && op.Offset != history.NoOffset:
			all = append(all, moment{op.Return, op})
		case op.Kind == history.Poll && op.High != history.NoOffset:
			all = append(all, moment{op.Call, op})
		}
	}
	// At the same moment the poll comes first: they are concurrent.
	slices.SortStableFunc(all, func(a, b moment) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(b.op.Kind, a.op.Kind)) })
	end := map[int32]int64{} // key → behind what was acknowledged
	var stale []*history.Op
	for _, m := range all {
		switch op := m.op; {
		case op.Kind == history.Send:
			end[op.Key] = max(end[op.Key], op.Offset+1)
		case op.High < end[op.Key] && (len(op.Records) == 0 || op.Records[len(op.Records)-1].Offset+1 < end[op.Key]):
			stale = append(stale, op)
		}
	}
	return stale
}

// lostOps are the sends that were acknowledged and lost.
func lostOps(res *checker.Result) map[int64]bool {
	ops := map[int64]bool{}
	for _, c := range res.Checks {
		for _, a := range c.Anomalies {
			if a.Class == checker.ClassLost {
				for _, id := range a.Ops {
					ops[id] = true
				}
			}
		}
	}
	return ops
}

// delivery is when a value was delivered, and by which node.
type delivery struct {
	at   int64
	node int16
}

// firstSeen is the first delivery of each value.
func firstSeen(h *history.History) map[history.Value]delivery {
	seen := map[history.Value]delivery{}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Poll || op.Outcome != history.OK {
			continue
		}
		for _, r := range op.Records {
			if r.Payload != history.Good {
				continue
			}
			if first, ok := seen[r.Value]; !ok || op.Return < first.at {
				seen[r.Value] = delivery{op.Return, op.Node}
			}
		}
	}
	return seen
}

// leaders reads from the nodes' events who led what.
func leaders(h *history.History) Leaders {
	begin := history.Infinity
	for _, f := range h.Faults {
		begin = min(begin, f.At)
	}
	before, last, epoch := map[string]string{}, map[string]string{}, map[string]int32{}
	for i := range h.Events {
		e := &h.Events[i]
		if e.Kind != "leader" {
			continue
		}
		if n, ok := epoch[e.Key]; !ok || e.Epoch >= n {
			last[e.Key], epoch[e.Key] = e.Node, e.Epoch
		}
		if e.At < begin {
			before[e.Key] = e.Node
		}
	}
	led := map[string]int{}
	for _, node := range h.Header.Nodes {
		led[node] = 0
	}
	l := Leaders{Back: len(before) == len(h.Header.Keys)}
	for _, key := range h.Header.Keys {
		led[before[key]]++
		l.Back = l.Back && before[key] == last[key]
	}
	fewest, most := len(h.Header.Keys), 0
	for _, n := range led {
		fewest, most = min(fewest, n), max(most, n)
	}
	l.Spread = len(before) == len(h.Header.Keys) && most-fewest <= 1
	copies := map[string]int{}
	for i := range h.Replicas {
		if r := &h.Replicas[i]; r.Complete {
			copies[r.Key]++
		}
	}
	for i, key := range h.Header.Keys {
		if i == 0 || copies[key] < l.Copies {
			l.Copies = copies[key]
		}
	}
	return l
}
