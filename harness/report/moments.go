package report

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// Bounds of what is shown around anomalies.
const (
	maxMoments     = 20
	neighbours     = 12  // operations of the same partition on either side
	maxMomentOps   = 80  // rows of one moment
	maxEvidence    = 20  // proving operations shown per anomaly
	maxScan        = 1e5 // operations looked at on either side
	logWindow      = int64(2e9)
	maxLogMoments  = 6
	maxStories     = 3       // each is a pass over the whole history,
	manyOps        = 300_000 // and beyond so many operations "faultline explain" tells it
	maxStoryLines  = 60
	maxLogLines    = 120 // per node and moment
	maxEventsShown = 60
	maxText        = 400 // characters of a text that a node or a checker wrote
)

// moment is a time and a partition in which something went wrong: the
// operations around it, who held which role, and what the nodes logged.
type moment struct {
	ID      string // anchor: "m0"
	Key     string
	At      int64
	Anoms   []anomalyRow
	Ops     []opRow
	Roles   []roleRow
	Events  []eventRow
	Logs    []nodeLog
	Story   []logRow // of its first message
	Explain string   // the command that tells the story of a message
	from    int64
	to      int64
	opIndex map[int]bool
}

// Tally counts the anomalies by class, in their order: "10 lost, 2 moved".
func (m *moment) Tally() string {
	var classes []string
	n := map[string]int{}
	for _, a := range m.Anoms {
		if n[a.Class] == 0 {
			classes = append(classes, a.Class)
		}
		n[a.Class]++
	}
	for i, c := range classes {
		classes[i] = count(n[c]) + " " + c
	}
	return strings.Join(classes, ", ")
}

// opRow is one operation as the page shows it.
type opRow struct {
	ID           int64
	call, ret    int64
	Call, Return string
	Client       string
	Node         string
	What         string
	Outcome      string
	OutcomeClass string // ok, failed, ind
	Answer       string
	Evidence     bool
	Key          string
}

// Title describes the operation in one line.
func (r opRow) Title() string {
	return fmt.Sprintf("#%d %s %s on %s (%s to %s): %s %s", r.ID, r.Client, r.What, r.Node, r.Call, r.Return, r.Outcome, r.Answer)
}

type roleRow struct {
	Node    string
	Acked   bool // this node acknowledged the message
	Role    string
	Missing bool
	Faults  string
}

type eventRow struct {
	At, Node, Text, Unc string
}

type nodeLog struct {
	Node  string
	Lines []logRow
	More  int
	None  string // why there is nothing
}

type logRow struct {
	At   string
	Text string
}

// findMoments groups the anomalies into moments and gathers the operations
// around each. It sets the Moment of every row that it covers. Where there are
// more anomalies than moments, each group has its first one covered first.
func findMoments(h *history.History, rows []anomalyRow) []*moment {
	var out []*moment
	keyIndex := map[string]int32{}
	for i, k := range h.Header.Keys {
		keyIndex[k] = int32(i)
	}
	calls := sort.SliceIsSorted(h.Ops, func(i, j int) bool { return h.Ops[i].Call < h.Ops[j].Call })
	for _, i := range groupsFirst(rows) {
		r := &rows[i]
		var m *moment
		for _, o := range out {
			if o.Key == r.Key && r.At >= o.from && r.At <= o.to && len(o.opIndex)+maxEvidence <= maxMomentOps {
				m = o
				break
			}
		}
		if m == nil {
			if len(out) == maxMoments {
				continue
			}
			m = &moment{ID: fmt.Sprintf("m%d", len(out)), Key: r.Key, At: r.At, opIndex: map[int]bool{}}
			out = append(out, m)
			k, known := keyIndex[r.Key]
			m.around(h, k, known, calls)
		}
		for _, id := range firstN(r.ops, maxEvidence) {
			if at, ok := opByID(h, id); ok {
				m.opIndex[at] = true
			}
		}
		r.Moment = m.ID
		m.Anoms = append(m.Anoms, *r)
	}
	for _, m := range out {
		evidence := map[int64]bool{}
		for _, a := range m.Anoms {
			for _, id := range a.ops {
				evidence[id] = true
			}
		}
		for i := range m.opIndex {
			m.Ops = append(m.Ops, describeOp(h, &h.Ops[i], evidence[h.Ops[i].ID]))
		}
		slices.SortFunc(m.Ops, func(a, b opRow) int { return cmp.Or(cmp.Compare(a.call, b.call), cmp.Compare(a.ID, b.ID)) })
	}
	return out
}

// groupsFirst orders the rows so that the first of every group leads.
func groupsFirst(rows []anomalyRow) []int {
	var first, rest []int
	seen := map[string]bool{}
	for i, r := range rows {
		if r.Group != "" && !seen[r.Group] {
			seen[r.Group] = true
			first = append(first, i)
		} else {
			rest = append(rest, i)
		}
	}
	return append(first, rest...)
}

// around takes the nearest operations of the partition on either side of m.At,
// and sets the stretch of time that they cover.
func (m *moment) around(h *history.History, key int32, known, sorted bool) {
	m.from, m.to = m.At-int64(50e6), m.At+int64(50e6)
	if !known {
		return
	}
	mid := 0
	if sorted {
		mid = sort.Search(len(h.Ops), func(i int) bool { return h.Ops[i].Call > m.At })
	} else {
		for mid < len(h.Ops) && h.Ops[mid].Call <= m.At {
			mid++
		}
	}
	for _, dir := range []int{-1, 1} {
		i, found := mid, 0
		if dir < 0 {
			i--
		}
		for steps := 0; i >= 0 && i < len(h.Ops) && found < neighbours && steps < maxScan; i, steps = i+dir, steps+1 {
			op := &h.Ops[i]
			if op.Key != key {
				continue
			}
			found++
			m.opIndex[i] = true
			m.from, m.to = min(m.from, op.Call), max(m.to, op.Call)
		}
	}
}

func opByID(h *history.History, id int64) (int, bool) {
	i := sort.Search(len(h.Ops), func(i int) bool { return h.Ops[i].ID >= id })
	return i, i < len(h.Ops) && h.Ops[i].ID == id
}

func describeOp(h *history.History, op *history.Op, evidence bool) opRow {
	r := opRow{
		ID: op.ID, call: op.Call, ret: op.Return, Call: seconds(op.Call), Return: seconds(op.Return), Evidence: evidence,
		Client: name(h.Header.Clients, int(op.Client), func(c history.Client) string { return c.Name }),
		Node:   orDash(nodeName(h, op.Node)), Key: name(h.Header.Keys, int(op.Key), func(s string) string { return s }),
	}
	switch op.Outcome {
	case history.OK:
		r.Outcome, r.OutcomeClass = "ok", "ok"
	case history.Failed:
		r.Outcome, r.OutcomeClass = "failed", "failed"
	default:
		r.Outcome, r.OutcomeClass = "indeterminate", "ind"
	}
	switch op.Kind {
	case history.Send:
		r.What = "send " + valueText(op.Value)
		if op.Outcome == history.OK {
			r.Answer = "offset " + offset(op.Offset)
			if !op.Acked {
				r.Answer = "written, not acknowledged"
			}
		}
	case history.Poll:
		r.What = fmt.Sprintf("poll from %d", op.From)
		if op.Reset {
			r.What += " (moved on purpose)"
		}
		if op.Outcome == history.OK {
			r.Answer = recordsText(op.Records)
			if op.High >= 0 {
				r.Answer += fmt.Sprintf(", high watermark %d", op.High)
			}
		}
	default:
		r.What = op.Kind.String()
		if op.Kind.Settles() {
			r.What += " " + valueText(op.Value)
		}
		if op.Txn != 0 {
			r.What += fmt.Sprintf(" transaction %d", op.Txn)
		}
		if op.Kind == history.Receive && op.Outcome == history.OK {
			r.Answer = recordsText(op.Records)
		}
	}
	if op.Code != "" {
		r.Answer = strings.TrimSpace(shorten(op.Code, maxText) + " " + r.Answer)
	}
	return r
}

// recordsText names the records of a poll: all of a few, the ends of many.
func recordsText(rs []history.Record) string {
	one := func(r history.Record) string {
		switch r.Payload {
		case history.Good:
			if r.Offset == history.NoOffset {
				return valueText(r.Value)
			}
			return fmt.Sprintf("%d=%s", r.Offset, valueText(r.Value))
		case history.Sentinel:
			return fmt.Sprintf("%d=sentinel", r.Offset)
		case history.OtherRun:
			return fmt.Sprintf("%d=of another run", r.Offset)
		}
		return fmt.Sprintf("%d=altered payload", r.Offset)
	}
	switch n := len(rs); {
	case n == 0:
		return "no records"
	case n <= 4:
		parts := make([]string, n)
		for i, r := range rs {
			parts[i] = one(r)
		}
		return strings.Join(parts, " ")
	default:
		return fmt.Sprintf("%d records, %s … %s", n, one(rs[0]), one(rs[n-1]))
	}
}

func name[T any](s []T, i int, f func(T) string) string {
	if i < 0 || i >= len(s) {
		return fmt.Sprintf("#%d", i)
	}
	return f(s[i])
}

func nodeName(h *history.History, n int16) string {
	if n == history.NoNode {
		return ""
	}
	return name(h.Header.Nodes, int(n), func(s string) string { return s })
}

// describe fills the roles, events and logs of a moment.
func (m *moment) describe(run Run, h *history.History, faults []faultSpan, reigns []reign, isr []membership) {
	first := m.Anoms[0]
	for _, n := range run.Nodes {
		m.Roles = append(m.Roles, roleRow{
			Node: n, Acked: n == first.Node, Missing: slices.Contains(first.missing, n),
			Role: roleAt(n, m.At, h, faults, reigns, isr), Faults: faultsAt(faults, n, m.At),
		})
	}
	var near []history.NodeEvent
	for _, e := range h.Events {
		if e.At >= m.At-logWindow && e.At <= m.At+logWindow && (e.Key == "" || e.Key == m.Key) && e.Kind != "hw" {
			near = append(near, e)
		}
	}
	for _, e := range nearest(near, m.At, maxEventsShown, func(e history.NodeEvent) int64 { return e.At }) {
		row := eventRow{At: seconds(e.At), Node: e.Node, Text: eventText(e)}
		if e.Uncertainty > 0 {
			row.Unc = "± " + millis(float64(e.Uncertainty)/1e6)
		}
		m.Events = append(m.Events, row)
	}
}

// nearest keeps the n elements of s that are nearest to a moment, in order of time.
func nearest[T any](s []T, at int64, n int, when func(T) int64) []T {
	if len(s) > n {
		slices.SortStableFunc(s, func(a, b T) int {
			return cmp.Compare(max(when(a)-at, at-when(a)), max(when(b)-at, at-when(b)))
		})
		s = s[:n]
	}
	slices.SortStableFunc(s, func(a, b T) int { return cmp.Compare(when(a), when(b)) })
	return s
}

// tell adds the story of the first message of m, as far as the history knows one.
func (m *moment) tell(h *history.History) {
	v := m.Anoms[0].value
	if v.Seq() == 0 {
		return
	}
	story, err := checker.Explain(h, v)
	if err != nil {
		return // the anomaly's own sentence and operations stand; there is no more to tell
	}
	for _, l := range firstN(story.Lines, maxStoryLines) {
		row := logRow{At: seconds(l.At), Text: shorten(l.Text, maxText)}
		if l.Uncertainty > 0 {
			row.Text += " (± " + millis(float64(l.Uncertainty)/1e6) + ")"
		}
		m.Story = append(m.Story, row)
	}
}

func eventText(e history.NodeEvent) string {
	t := e.Kind
	switch e.Kind {
	case "leader":
		t = fmt.Sprintf("leader in epoch %d", e.Epoch)
		if e.Leader != "" && e.Leader != e.Node {
			t = fmt.Sprintf("takes %s for the leader in epoch %d", e.Leader, e.Epoch)
		}
	case "follower":
		t = strings.TrimSpace(fmt.Sprintf("follower in epoch %d %s", e.Epoch, e.Leader))
	case "truncate":
		t = fmt.Sprintf("truncated from offset %d to %d in epoch %d", e.To, e.From, e.Epoch)
	case "isr":
		t = fmt.Sprintf("in sync in epoch %d", e.Epoch)
	}
	if len(e.ISR) > 0 {
		t += ": " + strings.Join(e.ISR, " ")
	}
	if e.Detail != "" {
		t += " (" + e.Detail + ")"
	}
	return shorten(t, maxText)
}

// roleAt says what node was for the partition at a moment, by its own events.
func roleAt(node string, at int64, h *history.History, faults []faultSpan, rs []reign, isr []membership) string {
	for _, f := range faults {
		if _, seen := f.stage(history.Proven); !seen {
			continue
		}
		if from, to := f.effective(); f.stops() && slices.Contains(f.Targets, node) && at >= from && at < to {
			return "down"
		}
	}
	for _, r := range rs {
		if r.Node == node && at >= r.From && at < r.To {
			if r.Stale {
				return fmt.Sprintf("still leader of epoch %d; a later epoch had another", r.Epoch)
			}
			return fmt.Sprintf("leader, epoch %d", r.Epoch)
		}
	}
	for _, m := range isr {
		if at >= m.From && at < m.To {
			if slices.Contains(m.ISR, node) {
				return "follower, in sync"
			}
			return "follower, not in sync"
		}
	}
	for _, e := range h.Events {
		if e.Node == node {
			return "not leader"
		}
	}
	return "no events from it"
}

// faultsAt names the faults in force on a node at a moment.
func faultsAt(faults []faultSpan, node string, at int64) string {
	var out []string
	for _, f := range faults {
		if at < f.Start || at > f.End || !f.touches(node) {
			continue
		}
		t := f.Name
		if s := f.side(node); s != "" {
			t += " side " + s
		} else if slices.Contains(f.Targets, node) {
			t += " target"
		}
		out = append(out, t)
	}
	return strings.Join(out, ", ")
}

// anomalyRow is one anomaly as the page shows it.
type anomalyRow struct {
	ID       string // anchor: "a0"
	Index    int    // from 1
	Clause   string
	Judged   bool
	Class    string
	Value    string
	Key      string
	Offset   string
	Producer string
	At       int64
	AtText   string
	Node     string
	Place    string
	Missing  string
	LastSeen string
	Fault    string
	Cause    string
	Text     string
	Short    string
	Moment   string // anchor of its moment, or ""
	Listed   bool   // it has a row of its own in the table
	Group    string // anchor of its group, where anomalies are grouped
	value    history.Value
	missing  []string
	ops      []int64
	offset   int64
}

// Target is the anchor that leads to the anomaly.
func (r anomalyRow) Target() string {
	if !r.Listed && r.Group != "" {
		return r.Group
	}
	return r.ID
}

// anomalyRows lists every anomaly of res: those of broken promises first, lost
// messages before all others, each class in order of time.
func anomalyRows(h *history.History, res *checker.Result) []anomalyRow {
	var rows []anomalyRow
	for _, c := range res.Checks {
		for _, a := range c.Anomalies {
			r := anomalyRow{
				Clause: c.Name, Judged: c.Promised, Class: orDash(a.Class), Key: a.Key, Offset: offset(a.Offset), offset: a.Offset,
				At: a.At, AtText: seconds(a.At), Node: a.Node, Missing: strings.Join(a.Missing, " "), LastSeen: "–",
				Fault: a.Fault, Cause: shorten(a.Cause, maxText), Text: shorten(a.Text, maxText), missing: a.Missing, ops: a.Ops, Value: valueText(a.Value), value: a.Value,
				Producer: cmp.Or(a.Producer, producerName(h, a.Value)),
			}
			switch {
			case a.LastSeen > 0:
				r.LastSeen = seconds(a.LastSeen)
			case a.Class == checker.ClassLost:
				r.LastSeen = "never"
			}
			r.Place = a.Place
			if a.PlaceIn != "" {
				r.Place = strings.TrimSpace(orDash(a.Place) + " / " + a.PlaceIn)
			}
			r.Short = anomalyLine(a)
			rows = append(rows, r)
		}
	}
	rank := func(r anomalyRow) int {
		switch {
		case r.Judged && r.Class == checker.ClassLost:
			return 0
		case r.Judged:
			return 1
		}
		return 2
	}
	order := map[string]int{}
	for _, r := range rows {
		if _, ok := order[r.Class]; !ok {
			order[r.Class] = len(order)
		}
	}
	slices.SortStableFunc(rows, func(a, b anomalyRow) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(order[a.Class], order[b.Class]), cmp.Compare(a.At, b.At))
	})
	for i := range rows {
		rows[i].ID, rows[i].Index = fmt.Sprintf("a%d", i), i+1
		if i > 0 && rows[i].Class == checker.ClassLost {
			rows[i].Text = "" // the first one quotes the guarantee; of the others their row says it all
		}
	}
	return rows
}

// producerName finds the client that sent v. Producers are numbered in the
// order of the clients with that role.
func producerName(h *history.History, v history.Value) string {
	n := int32(0)
	for _, c := range h.Header.Clients {
		if c.Role != "producer" {
			continue
		}
		if n == v.Producer() {
			return c.Name
		}
		n++
	}
	return ""
}

// anomalyGroup stands for many anomalies of one kind.
type anomalyGroup struct {
	ID, Class, Key, Node, Fault, Cause string
	Count                              int
	Offsets, Times                     string
	First                              *anomalyRow
	lo, hi, from, to                   int64
}

// groupRows gathers anomalies that share class, partition, node, fault and
// cause, in the order of the rows' classes and the largest group of a class
// first, and gives each row the anchor of its group.
func groupRows(rows []anomalyRow) []anomalyGroup {
	type id struct{ class, key, node, fault, cause string }
	index := map[id]*anomalyGroup{}
	var groups []*anomalyGroup
	members := map[*anomalyGroup][]int{}
	for i, r := range rows {
		k := id{r.Class, r.Key, r.Node, r.Fault, r.Cause}
		g := index[k]
		if g == nil {
			g = &anomalyGroup{Class: r.Class, Key: r.Key, Node: r.Node, Fault: r.Fault, Cause: r.Cause, lo: r.offset, hi: r.offset, from: r.At, to: r.At}
			index[k] = g
			groups = append(groups, g)
		}
		g.Count++
		g.lo, g.hi = min(g.lo, r.offset), max(g.hi, r.offset)
		g.from, g.to = min(g.from, r.At), max(g.to, r.At)
		members[g] = append(members[g], i)
	}
	class := map[string]int{}
	for _, g := range groups {
		if _, ok := class[g.Class]; !ok {
			class[g.Class] = len(class)
		}
	}
	slices.SortStableFunc(groups, func(a, b *anomalyGroup) int {
		return cmp.Or(cmp.Compare(class[a.Class], class[b.Class]), cmp.Compare(b.Count, a.Count))
	})
	var out []anomalyGroup
	for n, g := range groups {
		g.ID = fmt.Sprintf("g%d", n)
		g.Offsets = offset(g.lo)
		if g.hi != g.lo {
			g.Offsets += " … " + offset(g.hi)
		}
		g.Times = seconds(g.from)
		if g.to != g.from {
			g.Times += " … " + seconds(g.to)
		}
		for _, i := range members[g] {
			rows[i].Group = g.ID
		}
		g.First = &rows[members[g][0]]
		out = append(out, *g)
	}
	return out
}
