package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

var (
	//go:embed assets/page.tmpl
	pageText string
	//go:embed assets/index.tmpl
	indexText string
	//go:embed assets/style.css
	styleText string
	//go:embed assets/table.js
	tableScript string
	//go:embed assets/timeline.js
	timelineScript string
)

var funcs = template.FuncMap{
	"count": count, "millis": millis, "plural": plural, "dash": orDash, "upper": strings.ToUpper,
	"class":    verdictClass,
	"join":     func(s []string) string { return strings.Join(s, " ") },
	"seconds2": seconds,
	"seconds":  func(ms float64) string { return fmt.Sprintf("%.3f s", ms/1000) },
}

var (
	pageTemplate  = template.Must(template.New("page").Funcs(funcs).Parse(pageText))
	indexTemplate = template.Must(template.New("index").Funcs(funcs).Parse(indexText))
)

// planFile is the plan as stored in a result directory.
const planFile = "plan.yaml"

// Limits of the page.
const (
	maxRows      = 1000 // anomalies listed one by one; more are grouped
	maxGroups    = 300  // groups listed
	maxFaultCols = 12   // faults with a column of their own in nodes × faults
	maxFaultRows = 200  // faults listed in the figures
	maxFiles     = 500  // raw files listed
	maxNotes     = 300  // notes of the run
	maxPlan      = 2e5  // bytes of the plan shown
	maxItems     = 1000 // lines of what was not checked
)

// assets are what makes a page self-contained: style, script and a policy that
// lets nothing else run or load.
type assets struct {
	Policy string
	Style  template.HTML
	Script template.HTML
}

func newAssets(scripts ...string) assets {
	script := strings.Join(scripts, "\n")
	digest := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return assets{
		Policy: "default-src 'none'; base-uri 'none'; form-action 'none'; style-src " + digest(styleText) + "; script-src " + digest(script),
		Style:  template.HTML("<style>" + styleText + "</style>"),
		Script: template.HTML("<script>" + script + "</script>"),
	}
}

// page is what the template of index.html sees.
type page struct {
	assets
	Summary
	Title      string
	Meta       string
	Why        []checker.Reason // of an inconclusive run
	Chips      []chip
	Rows       []anomalyRow
	Groups     []anomalyGroup
	First      *anomalyRow // the first broken promise, for the head of the page
	AnomTotal  int
	AnomListed int
	Timeline   template.HTML
	Data       any
	FaultCols  []pair // name, and when
	NodeRows   []nodeRow
	Moments    []*moment
	Plan       string
	Check      string
	OptionList []pair
	VersionsBy []pair
	Unchecked  []unchecked
	Notes      []logRow
	PhaseRows  []phaseRow
	QueueRows  []queueRow
	Served     bool // there is a fault after which consumers asked a queue
	FaultRows  []faultRow
	FaultsMore int
	LatRows    []latRow
	RespRows   []latRow
	KeyRows    []pair
	ExBy       []pair
	Files      []fileLink
	FilesMore  int
	Porcupine  []fileLink
}

type chip struct{ Class, Text string }

type pair struct{ Name, Value string }

type nodeRow struct {
	Name           string
	Acked          int
	NotOK          int
	AnomalyAcked   int
	AnomalyMissing int
	Cells          []string
}

type unchecked struct{ What, Text, Change string }

type phaseRow struct {
	Name string
	checker.PhaseCounts
}

type queueRow struct {
	Name string
	checker.QueueCounts
}

// windowCounts are the sends that were called in a window of time.
type windowCounts struct{ OK, Failed, Ind int }

type faultRow struct {
	FaultSummary
	ID                    int
	EndText               string
	Before, During, After windowCounts
	perFault
}

type latRow struct {
	Name string
	checker.Latency
}

type fileLink struct {
	Name string
	Href string
	Size string
}

func verdictClass(v checker.Verdict) string {
	switch v {
	case checker.Valid, checker.Invalid, checker.Unknown:
		return string(v)
	}
	return "harness"
}

func writePage(w io.Writer, dir string, run Run, sum Summary, res *checker.Result, h *history.History) error {
	return render(w, pageTemplate, newPage(dir, run, sum, res, h))
}

// render executes a template and replaces what no HTML page may hold, and what
// could turn the direction of its text: control characters.
func render(w io.Writer, t *template.Template, data any) error {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return err
	}
	_, err := w.Write(bytes.Map(func(r rune) rune {
		if r == '\n' {
			return r
		}
		return printableRune(r)
	}, b.Bytes()))
	return err
}

func newPage(dir string, run Run, sum Summary, res *checker.Result, h *history.History) *page {
	faults := faultSpans(h)
	span := timeSpan(run, h)
	p := &page{assets: newAssets(tableScript, timelineScript), Summary: sum}
	p.Title = string(sum.Verdict) + ": " + sum.Sentence
	p.Meta = strings.Join(nonEmpty(
		strings.Join(nonEmpty(sum.System, sum.Scheme, sum.Workload), " · "), sum.FaultSpec, sum.Environment,
		plural(len(run.Nodes), "node"), fmt.Sprintf("seed %d", sum.Seed), elapsed(run.Duration), startedText(run.Started),
	), " · ")
	p.Why = sum.undecided()
	p.chips(sum)

	rows := anomalyRows(h, res)
	for _, c := range sum.Checks {
		p.AnomTotal += c.Count
	}
	if len(rows) > maxRows {
		p.Groups = groupRows(rows)
		p.Groups = firstN(p.Groups, maxGroups)
	}
	for i := range firstN(rows, maxRows) {
		rows[i].Listed = true
	}
	p.Moments = findMoments(h, rows)
	p.Rows = firstN(rows, maxRows)
	p.AnomListed = len(p.Rows)
	if len(p.Rows) > 0 && p.Rows[0].Judged {
		p.First = &p.Rows[0]
	}

	reignsOf, isrOf := map[string][]reign{}, map[string][]membership{}
	keys, hidden := drawnKeys(h, rows)
	for _, k := range keys {
		reignsOf[k], isrOf[k] = reigns(h, faults, k), memberships(h, k)
	}
	budget := maxLogBytes
	for i, m := range p.Moments {
		if _, ok := reignsOf[m.Key]; !ok {
			reignsOf[m.Key], isrOf[m.Key] = reigns(h, faults, m.Key), memberships(h, m.Key)
		}
		m.describe(run, h, faults, reignsOf[m.Key], isrOf[m.Key])
		if i < maxStories && len(h.Ops) < manyOps {
			m.tell(h)
		}
		if v := m.Anoms[0].value; v.Seq() != 0 {
			m.Explain = "faultline explain " + ShellQuote(run.Dir) + " " + v.String()
		}
		if i < maxLogMoments {
			m.addLogs(dir, run, &budget)
		}
	}

	coarse := sendSeries(h, span, coarseBuckets)
	p.Timeline = drawTimeline(timelineInput{
		run: run, h: h, res: res, faults: faults, rows: rows, moments: p.Moments, span: span,
		coarse: coarse, keys: keys, hidden: hidden, reigns: reignsOf, isr: isrOf,
	})
	p.Data = struct {
		Span   float64  `json:"span"` // milliseconds
		Left   int      `json:"left"`
		Right  int      `json:"right"`
		Levels []series `json:"levels"`
	}{toMS(span), plotLeft, plotEnd, []series{coarse, sendSeries(h, span, fineBuckets)}}

	p.where(run, h, faults, rows)
	p.Check = "faultline check " + ShellQuote(run.Dir)
	p.Plan = run.PlanYAML
	if p.Plan == "" {
		// A result that is rendered again has its plan beside it; without one the section is left out.
		if b, err := os.ReadFile(filepath.Join(dir, planFile)); err == nil {
			p.Plan = string(b)
		}
	}
	if len(p.Plan) > maxPlan {
		p.Plan = strings.ToValidUTF8(p.Plan[:maxPlan], "") + "\n… the rest is in plan.yaml"
	}
	p.OptionList, p.VersionsBy = pairs(sum.Options), pairs(sum.Versions)
	p.unchecked(res, h, faults)
	for _, n := range firstN(h.Notes, maxNotes) {
		p.Notes = append(p.Notes, logRow{At: seconds(n.At), Text: shorten(printable(n.Text), maxText)})
	}
	p.figures(h, sum, faults)
	p.files(dir)
	return p
}

func (p *page) chips(s Summary) {
	judged := s.judged()
	classes := slices.Sorted(maps.Keys(s.Anomalies))
	slices.SortStableFunc(classes, func(a, b string) int { // lost messages before all others
		return cmp.Compare(b2f(a != checker.ClassLost), b2f(b != checker.ClassLost))
	})
	for _, c := range classes {
		switch n := s.Anomalies[c]; {
		case n == 0:
		case judged[c]:
			p.Chips = append(p.Chips, chip{"bad", fmt.Sprintf("%s %s", count(n), c)})
		default:
			p.Chips = append(p.Chips, chip{"plain", fmt.Sprintf("%s %s (not judged)", count(n), c)})
		}
	}
	proven, healed := 0, 0
	for _, f := range s.Faults {
		if f.Proven {
			proven++
		}
		if f.Healed {
			healed++
		}
	}
	class := "good"
	if proven < len(s.Faults) || healed < len(s.Faults) {
		class = "warn"
	}
	if len(s.Faults) == 0 {
		p.Chips = append(p.Chips, chip{"plain", "no fault injected"})
	} else {
		p.Chips = append(p.Chips, chip{class, fmt.Sprintf("%d of %s proven, %d healed", proven, plural(len(s.Faults), "fault"), healed)})
	}
	p.Chips = append(p.Chips,
		chip{"plain", count(s.Ops.Acknowledged) + " acknowledged"},
		chip{"plain", plural(s.Ops.Total(), "operation")})
	if s.Ops.Indeterminate > 0 {
		p.Chips = append(p.Chips, chip{"plain", count(s.Ops.Indeterminate) + " indeterminate"})
	}
	if s.Expect != "" {
		text := "acknowledged messages must survive, whatever was configured"
		if s.Expect == "declared" {
			text = "judged by what the configuration promises"
		}
		p.Chips = append(p.Chips, chip{"plain", text})
	}
}

// drawnKeys chooses the partitions that get a lane: those with anomalies first,
// then those whose leaders changed most. They are returned in the history's
// order.
func drawnKeys(h *history.History, rows []anomalyRow) (keys []string, hidden int) {
	weight := map[string]int{}
	var all []string
	see := func(k string, n int) {
		if k == "" {
			return
		}
		if _, ok := weight[k]; !ok {
			all = append(all, k)
		}
		weight[k] += n
	}
	for _, k := range h.Header.Keys {
		see(k, 0)
	}
	has := map[string]bool{}
	for _, e := range h.Events {
		if e.Key != "" && (e.Kind == "leader" || e.Kind == "isr" || e.Kind == "truncate") {
			see(e.Key, 1)
			has[e.Key] = true
		}
	}
	if len(has) == 0 {
		return nil, 0 // the nodes reported nothing that could be drawn
	}
	for _, r := range rows {
		see(r.Key, 1_000_000)
	}
	place := map[string]int{}
	for i, k := range all {
		place[k] = i
	}
	ranked := slices.Clone(all)
	sort.SliceStable(ranked, func(i, j int) bool { return weight[ranked[i]] > weight[ranked[j]] })
	keys = firstN(ranked, maxLanes)
	slices.SortFunc(keys, func(a, b string) int { return cmp.Compare(place[a], place[b]) })
	return keys, len(all) - len(keys)
}

// where fills the table of nodes × faults.
func (p *page) where(run Run, h *history.History, faults []faultSpan, rows []anomalyRow) {
	type column struct {
		name   string
		when   string
		faults []faultSpan
	}
	var cols []column
	if len(faults) <= maxFaultCols {
		for _, f := range faults {
			cols = append(cols, column{fmt.Sprintf("%d · %s", f.ID, f.Name), f.spanText(), []faultSpan{f}})
		}
	} else {
		index := map[string]int{}
		for _, f := range faults {
			i, ok := index[f.Name]
			if !ok {
				i = len(cols)
				index[f.Name] = i
				cols = append(cols, column{name: f.Name})
			}
			cols[i].faults = append(cols[i].faults, f)
		}
	}
	for _, c := range cols {
		n := c.name
		if len(faults) > maxFaultCols {
			n = fmt.Sprintf("%s (%d times)", c.name, len(c.faults))
		}
		p.FaultCols = append(p.FaultCols, pair{n, c.when})
	}
	acked, notOK := map[string]int{}, map[string]int{}
	byIndex := make([][2]int, len(h.Header.Nodes))
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Send || op.Node < 0 || int(op.Node) >= len(byIndex) {
			continue
		}
		if op.Outcome == history.OK {
			byIndex[op.Node][0]++
		} else {
			byIndex[op.Node][1]++
		}
	}
	for i, n := range h.Header.Nodes {
		acked[n], notOK[n] = byIndex[i][0], byIndex[i][1]
	}
	for _, n := range run.Nodes {
		r := nodeRow{Name: n, Acked: acked[n], NotOK: notOK[n]}
		for _, a := range rows {
			if a.Node == n {
				r.AnomalyAcked++
			}
			if slices.Contains(a.missing, n) {
				r.AnomalyMissing++
			}
		}
		for _, c := range cols {
			r.Cells = append(r.Cells, nodeCell(n, c.faults))
		}
		p.NodeRows = append(p.NodeRows, r)
	}
}

func nodeCell(node string, faults []faultSpan) string {
	if len(faults) == 1 {
		f := faults[0]
		if !f.touches(node) {
			return "–"
		}
		var parts []string
		if slices.Contains(f.Targets, node) {
			t := "target"
			if f.Role != "" {
				t += ", " + f.Role
				if len(f.Keys) > 0 {
					t += " of " + strings.Join(firstN(f.Keys, 4), " ")
				}
			}
			parts = append(parts, t)
		}
		if s := f.side(node); s != "" {
			parts = append(parts, "side "+s)
		}
		if !f.proven() {
			parts = append(parts, "not proven")
		}
		return strings.Join(parts, " · ")
	}
	targets, others := 0, 0
	for _, f := range faults {
		if slices.Contains(f.Targets, node) {
			targets++
		} else if f.touches(node) {
			others++
		}
	}
	if targets+others == 0 {
		return "–"
	}
	return fmt.Sprintf("%d× target, %d× other side", targets, others)
}

// unchecked gathers what the run does not vouch for: the checkers' own list, and
// what stands in clauses, faults and stalls.
func (p *page) unchecked(res *checker.Result, h *history.History, faults []faultSpan) {
	add := func(what, text, change string) {
		if len(p.Unchecked) < maxItems {
			p.Unchecked = append(p.Unchecked, unchecked{what, shorten(text, maxText), change})
		}
	}
	if len(res.Checks) == 0 {
		add("everything", "no clause was judged", "")
		if !h.Closed {
			add("history cut short", "the history has no closing entry: the harness died, and what is missing is unknown", "")
		}
	}
	for _, c := range res.Checks {
		if c.Promised && c.Verdict == checker.Unknown {
			add("unknown", c.Name+": "+c.Detail, c.Remedy)
		}
	}
	for _, f := range faults {
		if !f.proven() {
			add("fault without proof", fmt.Sprintf("fault %d, %s: %s", f.ID, f.Name, orDash(f.detail())), "")
		}
	}
	for _, f := range skippedFaults(h) {
		add("fault skipped", fmt.Sprintf("fault %d, %s", f.ID, f.Detail), "")
	}
	if n := len(h.Stalls); n > 0 {
		var ns int64
		for _, s := range h.Stalls {
			ns += s.To - s.From
		}
		add("harness stalled", fmt.Sprintf("%s, %s in all: availability was not measured then", plural(n, "time"), millis(float64(ns)/1e6)), "")
	}
	if res.Verdict == checker.Invalid {
		for _, r := range res.WhyInconclusive {
			add("not decided besides", r.Why, r.Change)
		}
	}
	if o := p.Online; o != nil && o.Outside > 0 {
		add("not checked during the run", o.String(), "")
	}
	for _, n := range res.NotChecked {
		add("not checked", n, "")
	}
}

func (p *page) figures(h *history.History, s Summary, faults []faultSpan) {
	order := []string{"setup", "baseline", "fault", "heal", "recovery", "quiesce", "drain", "end"}
	names := slices.Sorted(maps.Keys(s.Phases))
	slices.SortStableFunc(names, func(a, b string) int {
		rank := func(n string) int {
			if i := slices.Index(order, n); i >= 0 {
				return i
			}
			return len(order)
		}
		return cmp.Compare(rank(a), rank(b))
	})
	for _, n := range names {
		if c := s.Phases[n]; c.OK+c.Failed+c.Indeterminate > 0 {
			p.PhaseRows = append(p.PhaseRows, phaseRow{n, c})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Queues)) {
		p.QueueRows = append(p.QueueRows, queueRow{name, s.Queues[name]})
	}
	if len(s.Queues) > 1 {
		p.QueueRows = append(p.QueueRows, queueRow{"all", queueTotals(s.Queues)})
	}
	p.Served = slices.ContainsFunc(s.Availability.Faults, func(f checker.FaultAvailability) bool { return len(f.ServedMS) > 0 })
	sends := sendIndex(h)
	for i, f := range faults {
		if i == maxFaultRows {
			p.FaultsMore = len(faults) - i
			break
		}
		r := faultRow{FaultSummary: s.Faults[i], ID: f.ID, EndText: seconds(f.End), perFault: faultFigures(checker.FaultAvailability{})}
		r.Detail = shorten(r.Detail, maxText)
		end := f.End
		if end == history.Infinity {
			end = timeSpan(Run{}, h)
		}
		length := min(end-f.Start, int64(10e9))
		r.Before = sends.count(h, f.Start-length, f.Start)
		r.During = sends.count(h, f.Start, end)
		r.After = sends.count(h, end, end+length)
		if n := slices.IndexFunc(s.Availability.Faults, func(a checker.FaultAvailability) bool { return a.ID == f.ID }); n >= 0 {
			r.perFault = faultFigures(s.Availability.Faults[n])
		}
		p.FaultRows = append(p.FaultRows, r)
	}
	p.LatRows, p.RespRows = latRows(s.Availability.Latency), latRows(s.Availability.Response)
	perKey := slices.Collect(maps.Keys(s.Availability.PerKeyMS))
	slices.SortFunc(perKey, func(a, b string) int {
		return cmp.Or(cmp.Compare(s.Availability.PerKeyMS[b], s.Availability.PerKeyMS[a]), cmp.Compare(a, b))
	})
	for _, k := range firstN(perKey, 20) {
		p.KeyRows = append(p.KeyRows, pair{k, millis(s.Availability.PerKeyMS[k])})
	}
	for _, k := range slices.Sorted(maps.Keys(s.Exercised)) {
		p.ExBy = append(p.ExBy, pair{k, count(s.Exercised[k])})
	}
}

// latRows puts latencies in the order in which a reader looks for them.
func latRows(latencies map[string]checker.Latency) []latRow {
	names := slices.Sorted(maps.Keys(latencies))
	slices.SortStableFunc(names, func(a, b string) int {
		rank := map[string]int{"before": 1, "during": 2, "after": 3}
		ra, rb := cmp.Or(rank[a], 9), cmp.Or(rank[b], 9)
		return cmp.Or(cmp.Compare(ra, rb), cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	var rows []latRow
	for _, n := range firstN(names, maxFaultRows) {
		rows = append(rows, latRow{n, latencies[n]})
	}
	return rows
}

// sendIndex lists the sends of a history in order of their calls.
type sendList []int32

func sendIndex(h *history.History) sendList {
	var out sendList
	sorted := true
	last := int64(-1 << 62)
	for i := range h.Ops {
		if h.Ops[i].Kind == history.Send {
			sorted = sorted && h.Ops[i].Call >= last
			last = h.Ops[i].Call
			out = append(out, int32(i))
		}
	}
	if !sorted {
		slices.SortStableFunc(out, func(a, b int32) int { return cmp.Compare(h.Ops[a].Call, h.Ops[b].Call) })
	}
	return out
}

// count counts the sends called in [from, to).
func (l sendList) count(h *history.History, from, to int64) windowCounts {
	var c windowCounts
	lo := sort.Search(len(l), func(i int) bool { return h.Ops[l[i]].Call >= from })
	for _, i := range l[lo:] {
		op := &h.Ops[i]
		if op.Call >= to {
			break
		}
		switch op.Outcome {
		case history.OK:
			c.OK++
		case history.Failed:
			c.Failed++
		default:
			c.Ind++
		}
	}
	return c
}

// files lists what lies in the result directory. The files that are written
// together with the page are always there.
func (p *page) files(dir string) {
	sizes := map[string]string{SummaryFile: "", JUnitFile: "", MarkdownFile: ""}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what cannot be read is not linked; the report must come out all the same
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || strings.HasPrefix(filepath.Base(rel), ".") || rel == PageFile {
			return nil
		}
		rel = filepath.ToSlash(rel)
		if _, known := sizes[rel]; known {
			return nil
		}
		sizes[rel] = fileSize(d)
		return nil
	})
	for _, rel := range slices.Sorted(maps.Keys(sizes)) {
		l := fileLink{Name: rel, Href: "./" + (&url.URL{Path: rel}).EscapedPath(), Size: sizes[rel]}
		if strings.HasPrefix(rel, "checks/") && strings.HasSuffix(rel, ".html") {
			p.Porcupine = append(p.Porcupine, l)
		}
		if len(p.Files) < maxFiles {
			p.Files = append(p.Files, l)
		} else {
			p.FilesMore++
		}
	}
}

func fileSize(d fs.DirEntry) string {
	info, err := d.Info()
	if err != nil {
		return ""
	}
	switch n := float64(info.Size()); {
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", n/1e3)
	default:
		return fmt.Sprintf("%.0f B", n)
	}
}

func pairs(m map[string]string) []pair {
	var out []pair
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, pair{k, m[k]})
	}
	return out
}
