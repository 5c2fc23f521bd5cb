package report

import (
	"cmp"
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
	"strings"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// Geometry of the picture, in its own units (pixels at full size).
const (
	picWidth = 1140
	plotLeft = 132
	plotEnd  = 1128
	laneH    = 18
	gap      = 10
	charW    = 6.3 // of the 11-pixel text inside bands, for deciding whether it fits
	// tickCharW is the same for the 10-pixel text of the axis.
	tickCharW = 5.8
)

// Limits that keep the page small whatever the run was.
const (
	maxNodes    = 30   // lanes of faults
	maxLanes    = 12   // partitions that are drawn
	maxSegments = 150  // per lane
	maxBands    = 2500 // fault bands over all nodes
	maxMarks    = 1200 // anomalies drawn one by one; beyond that one mark per pixel
)

// timeline draws the run on one real-time axis. Every element of the plot
// carries its times (data-a, data-b, in milliseconds), so that the page's script
// can zoom by moving what is there; without script it is a picture.
type timeline struct {
	b    strings.Builder
	span int64
	y    float64
}

type timelineInput struct {
	run     Run
	h       *history.History
	res     *checker.Result
	faults  []faultSpan
	rows    []anomalyRow
	moments []*moment
	span    int64
	coarse  series
	keys    []string // partitions to draw
	hidden  int      // partitions that are not drawn
	reigns  map[string][]reign
	isr     map[string][]membership
}

func drawTimeline(in timelineInput) template.HTML {
	t := &timeline{span: in.span, y: 22}
	body := func() {
		t.phases(in)
		t.marks(in)
		t.faults(in)
		t.leaders(in)
		t.rates(in)
		t.latency(in)
		t.operations(in)
	}
	body()
	inner := t.b.String()
	height := t.y + 22

	var out strings.Builder
	fmt.Fprintf(&out, `<svg id="timeline" class="timeline" viewBox="0 0 %d %.0f" role="group" aria-label="Timeline of the run in real time, %s long">`, picWidth, height, seconds(in.span))
	fmt.Fprintf(&out, `<defs><clipPath id="plot"><rect x="%d" y="0" width="%d" height="%.0f"/></clipPath>`, plotLeft, plotEnd-plotLeft, height)
	out.WriteString(`<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hb" width="6" height="6"/><rect class="hl" width="2" height="6"/></pattern>` +
		`<pattern id="dots" width="4" height="4" patternUnits="userSpaceOnUse"><rect class="db" width="4" height="4"/><rect class="dl" width="2" height="2"/></pattern>` +
		`<pattern id="hatch2" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="ib" width="5" height="5"/><rect class="il" width="3" height="5"/></pattern>` +
		`<pattern id="gaps" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)"><rect class="gl" width="3" height="8"/></pattern></defs>`)
	out.WriteString(`<g class="axis" clip-path="url(#plot)" id="ticks">`)
	step := tickStep(in.span, 10)
	for at := int64(0); at <= in.span; at += step {
		x, label := t.x(at), tickLabel(at, step)
		fmt.Fprintf(&out, `<line x1="%.1f" x2="%.1f" y1="16" y2="%.0f"/>`, x, x, height-18)
		if x+2+float64(len(label))*tickCharW <= plotEnd {
			fmt.Fprintf(&out, `<text x="%.1f" y="11">%s</text><text x="%.1f" y="%.0f">%s</text>`, x+2, label, x+2, height-6, label)
		}
	}
	out.WriteString(`</g>`)
	out.WriteString(inner)
	fmt.Fprintf(&out, `<line id="cursor" class="cursor" x1="-9" x2="-9" y1="16" y2="%.0f"/></svg>`, height-18)
	return template.HTML(out.String())
}

// x places a time on the picture.
func (t *timeline) x(at int64) float64 {
	f := float64(min(max(at, 0), t.span)) / float64(t.span)
	return plotLeft + f*(plotEnd-plotLeft)
}

func (t *timeline) put(format string, args ...any) { fmt.Fprintf(&t.b, format, args...) }

func (t *timeline) label(y float64, text, title string) {
	t.put(`<text class="lane" x="%d" y="%.1f">%s<title>%s</title></text>`, plotLeft-8, y, esc(shorten(text, 19)), esc(text+title))
}

func (t *timeline) heading(text string) {
	t.y += gap
	t.put(`<text class="lh" x="4" y="%.1f">%s</text>`, t.y+9, esc(text))
	t.y += 14
}

// band draws one span of time with a text: the first of texts that fits, or none.
func (t *timeline) band(class string, from, to int64, y, h float64, title string, texts ...string) {
	to = min(to, t.span)
	from = max(min(from, to), 0)
	x, w := t.x(from), math.Max(t.x(to)-t.x(from), 1.2)
	t.put(`<g class="seg %s" data-a="%s" data-b="%s"><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f"/>`, class, msText(from), msText(to), x, y, w, h)
	shown := false
	for _, text := range texts {
		hide := ""
		if shown || float64(len([]rune(text)))*charW+6 > w {
			hide = ` class="no"`
		} else {
			shown = true
		}
		t.put(`<text%s x="%.1f" y="%.1f">%s</text>`, hide, x+4, y+h/2+4, esc(text))
	}
	t.put(`<title>%s</title></g>`, esc(title))
}

func (t *timeline) open()  { t.put(`<g clip-path="url(#plot)">`) }
func (t *timeline) close() { t.put(`</g>`) }

func (t *timeline) phases(in timelineInput) {
	if len(in.h.Phases) == 0 {
		return
	}
	t.label(t.y+13, "phase", "")
	t.open()
	for i, p := range in.h.Phases {
		if p.Name == "end" || i >= maxSegments {
			continue
		}
		to := in.span
		if i+1 < len(in.h.Phases) {
			to = in.h.Phases[i+1].At
		}
		t.band(fmt.Sprintf("phase p%d", i%2), p.At, to, t.y, laneH, fmt.Sprintf("phase %s, %s to %s", p.Name, seconds(p.At), seconds(to)), p.Name)
	}
	t.close()
	t.y += laneH + 2
	if len(in.h.Stalls) > 0 {
		t.label(t.y+10, "harness stalled", "")
		t.open()
		for _, s := range in.h.Stalls[:min(len(in.h.Stalls), maxSegments)] {
			t.band("stall", s.From, s.To, t.y, 12, fmt.Sprintf("the harness itself stood still from %s to %s: not measured", seconds(s.From), seconds(s.To)))
		}
		t.close()
		t.y += 14
	}
}

// glyphs of anomaly marks, so that colour is never the only difference.
var glyphs = map[string]string{
	"lost":      "M-4,-4 L4,4 M-4,4 L4,-4",
	"duplicate": "M-4,-4 H4 V4 H-4 Z",
	"phantom":   "M0,-5 L5,0 L0,5 L-5,0 Z",
}

const otherGlyph = "M0,-5 L5,4 L-5,4 Z"

func (t *timeline) marks(in timelineInput) {
	if len(in.rows) == 0 {
		return
	}
	t.heading("what went wrong")
	var classes []string
	byClass := map[string][]anomalyRow{}
	for _, r := range in.rows {
		if byClass[r.Class] == nil {
			classes = append(classes, r.Class)
		}
		byClass[r.Class] = append(byClass[r.Class], r)
	}
	for _, c := range classes {
		rows := byClass[c]
		t.label(t.y+12, fmt.Sprintf("%s %s", count(max(in.res.Anomalies[c], len(rows))), c), "")
		t.open()
		t.put(`<rect class="bg" x="%d" y="%.1f" width="%d" height="%d"/>`, plotLeft, t.y, plotEnd-plotLeft, laneH-2)
		glyph, ok := glyphs[c]
		if !ok {
			glyph = otherGlyph
		}
		tab := ""
		if len(in.rows) > 40 {
			tab = ` tabindex="-1"` // the table below is the way for the keyboard
		}
		seen := map[int]int{}
		if len(in.rows) > maxMarks {
			for _, r := range rows {
				seen[int(t.x(r.At))]++
			}
		}
		for _, r := range rows {
			title := shorten(r.Short, 300)
			if len(in.rows) > maxMarks {
				px := int(t.x(r.At))
				n := seen[px]
				if n == 0 {
					continue
				}
				delete(seen, px)
				title = fmt.Sprintf("%s × %s within %s of %s", count(n), c, seconds(t.span/(plotEnd-plotLeft)), seconds(r.At))
			}
			class := "mark"
			if !r.Judged {
				class += " mild"
			}
			t.put(`<a class="%s" href="#%s"%s data-a="%s" transform="translate(%.1f %.1f)" data-y="%.1f"><path class="hit" d="M-7,-8 H7 V8 H-7 Z"/><path class="glyph" d="%s"/><title>%s</title></a>`,
				class, r.Target(), tab, msText(r.At), t.x(r.At), t.y+8, t.y+8, glyph, esc(title))
		}
		t.close()
		t.y += laneH
	}
}

func (t *timeline) faults(in timelineInput) {
	if len(in.faults) == 0 {
		return
	}
	t.heading("faults, by node")
	nodes := firstN(in.run.Nodes, maxNodes)
	drawn, left := longest(in.faults, maxBands/max(len(nodes), 1), func(f faultSpan) (int64, int64) { return f.Start, f.End })
	for _, n := range nodes {
		// Overlapping faults of one node stand below each other.
		var ends []int64
		rows := 1
		type placed struct {
			f   faultSpan
			row int
		}
		var ps []placed
		for _, f := range drawn {
			if !f.touches(n) {
				continue
			}
			row := slices.IndexFunc(ends, func(e int64) bool { return e <= f.Start })
			if row < 0 {
				row = len(ends)
				ends = append(ends, 0)
			}
			ends[row] = f.End
			rows = max(rows, row+1)
			ps = append(ps, placed{f, row})
		}
		t.label(t.y+13, n, "")
		t.open()
		t.put(`<rect class="bg" x="%d" y="%.1f" width="%d" height="%d"/>`, plotLeft, t.y, plotEnd-plotLeft, rows*laneH-2)
		for _, p := range ps {
			f := p.f
			class, texts := "fault", []string{f.Name, f.shape()}
			if side := f.side(n); side != "" {
				texts = []string{"side " + side + " · " + f.Name, "side " + side + " · " + f.shape(), side + " · " + f.shape(), f.shape(), "side " + side, side}
			}
			if !slices.Contains(f.Targets, n) {
				class += " otherside"
			}
			title := fmt.Sprintf("fault %d: %s, targets %s, %s", f.ID, f.Name, strings.Join(f.Targets, " "), f.spanText())
			if len(f.Sides) > 0 {
				title += "; " + f.sidesText()
			}
			switch {
			case !f.proven():
				class += " unproven"
				texts = []string{"NOT PROVEN · " + texts[0], "NOT PROVEN"}
				title += "; not proven: " + shorten(f.detail(), 300)
			case !f.healed():
				class += " unproven"
				texts = []string{"NOT HEALED · " + texts[0], "NOT HEALED"}
				title += "; healing not proven"
			default:
				title += "; proven: " + shorten(f.detail(), 300)
			}
			t.band(class, f.Start, f.End, t.y+float64(p.row*laneH), laneH-3, title, texts...)
		}
		t.close()
		t.y += float64(rows * laneH)
	}
	t.dropped(left, "fault")
	t.dropped(len(in.run.Nodes)-len(nodes), "node")
}

func (t *timeline) leaders(in timelineInput) {
	if len(in.keys) == 0 {
		return
	}
	t.heading("leader and epoch, in-sync replicas, by partition")
	node := map[string]int{}
	for i, n := range in.run.Nodes {
		node[n] = i % 7
	}
	replicas := map[string]int{}
	for _, k := range in.keys {
		for _, m := range in.isr[k] {
			replicas[k] = max(replicas[k], len(m.ISR))
		}
	}
	left := 0
	for _, k := range in.keys {
		rs, more := longest(in.reigns[k], maxSegments, func(r reign) (int64, int64) { return r.From, r.To })
		sets, moreSets := longest(in.isr[k], maxSegments, func(m membership) (int64, int64) { return m.From, m.To })
		left += more + moreSets
		stale := slices.ContainsFunc(rs, func(r reign) bool { return r.Stale })
		t.label(t.y+13, k, "")
		t.open()
		t.put(`<rect class="bg" x="%d" y="%.1f" width="%d" height="%d"/>`, plotLeft, t.y, plotEnd-plotLeft, laneH-2)
		for _, stalePass := range []bool{false, true} {
			y := t.y
			if stalePass {
				y += laneH - 1
			}
			for _, r := range rs {
				if r.Stale != stalePass {
					continue
				}
				text, class := fmt.Sprintf("%s e%d", r.Node, r.Epoch), fmt.Sprintf("lead n%d", node[r.Node])
				title := fmt.Sprintf("%s leads %s in epoch %d, %s to %s", r.Node, k, r.Epoch, seconds(r.From), seconds(min(r.To, in.span)))
				if r.Unc > 0 {
					title += fmt.Sprintf(" (its clock is known to ± %s)", millis(float64(r.Unc)/1e6))
				}
				if stalePass {
					class += " stale"
					text = "still " + text
					title = fmt.Sprintf("%s still holds itself for the leader of %s in epoch %d, while a later epoch has another one; %s to %s", r.Node, k, r.Epoch, seconds(r.From), seconds(min(r.To, in.span)))
				}
				t.band(class, r.From, r.To, y, laneH-3, title, text, r.Node)
				if r.Unc > 0 && !r.Stale {
					t.band("unc", r.From-r.Unc, r.From+r.Unc, y, laneH-3, title)
				}
			}
		}
		t.y += laneH - 1
		if stale {
			t.y += laneH - 2
		}
		for _, m := range sets {
			class := "isr full"
			if len(m.ISR) < replicas[k] {
				class = "isr less"
			}
			members := strings.Join(m.ISR, " ")
			t.band(class, m.From, m.To, t.y, 11, fmt.Sprintf("%s in sync: %s, %s to %s", k, members, seconds(m.From), seconds(min(m.To, in.span))), "in sync: "+members, members)
		}
		drawn := 0
		for _, e := range in.h.Events {
			if e.Key != k || (e.Kind != "truncate" && e.Kind != "unclean") {
				continue
			}
			if drawn++; drawn > maxSegments {
				left++
				continue
			}
			title := fmt.Sprintf("%s: %s of %s at %s, epoch %d", e.Node, e.Kind, k, seconds(e.At), e.Epoch)
			if e.Kind == "truncate" {
				title = fmt.Sprintf("%s truncated %s from offset %d to %d at %s (epoch %d)", e.Node, k, e.To, e.From, seconds(e.At), e.Epoch)
			}
			y := t.y - 2
			t.put(`<g class="mark cut" data-a="%s" transform="translate(%.1f %.1f)" data-y="%.1f"><path class="glyph" d="M-5,-7 H5 L0,2 Z"/><title>%s</title></g>`, msText(e.At), t.x(e.At), y, y, esc(title))
		}
		t.close()
		t.y += 16
	}
	t.dropped(left, "span")
	if in.hidden > 0 {
		t.put(`<text class="note" x="%d" y="%.1f">%s not drawn: no anomaly and fewer leader changes</text>`, plotLeft, t.y+8, plural(in.hidden, "partition"))
		t.y += 12
	}
}

const panelH = 96

// panel opens a plot with a scale from 0 to top, and returns the place of a value.
func (t *timeline) panel(id, heading string, h float64) float64 {
	t.heading(heading)
	y := t.y
	t.put(`<rect class="bg" x="%d" y="%.1f" width="%d" height="%.0f"/><g id="%s" data-y="%.1f" data-h="%.0f" clip-path="url(#plot)">`, plotLeft, y, plotEnd-plotLeft, h, id, y, h)
	t.y += h + 2
	return y
}

func (t *timeline) rates(in timelineInput) {
	s := in.coarse
	y := t.panel("rates", "answers to sends per second: ok (plain), indeterminate (hatched), failed (dotted)", panelH)
	top := 0.0
	for i := range s.OK {
		top = math.Max(top, float64(s.OK[i]+s.Ind[i]+s.Failed[i])/s.Width*1000)
	}
	top = niceTop(top)
	place := func(n int) float64 { return y + panelH - float64(n)/s.Width*1000/top*panelH }
	below := make([]int, len(s.OK))
	for _, part := range []struct {
		class  string
		values []int
	}{{"ok", s.OK}, {"ind", s.Ind}, {"failed", s.Failed}} {
		var d strings.Builder
		for i, v := range part.values {
			if v > 0 {
				x0, x1 := t.x(int64(float64(i)*s.Width*1e6)), t.x(int64(float64(i+1)*s.Width*1e6))
				fmt.Fprintf(&d, "M%.1f,%.1fH%.1fV%.1fH%.1fZ", x0, place(below[i]+v), x1, place(below[i]), x0)
			}
			below[i] += v
		}
		t.put(`<path class="rate %s" d="%s"/>`, part.class, orM(d.String()))
	}
	if a := in.res.Availability; a.LongestUnavailableMS > 0 {
		to := a.LongestFrom + int64(a.LongestUnavailableMS*1e6)
		text := "longest unavailability: " + strings.TrimSpace(a.LongestKey+" "+millis(a.LongestUnavailableMS))
		t.band("gap", a.LongestFrom, to, y, panelH, text+fmt.Sprintf(", %s to %s", seconds(a.LongestFrom), seconds(to)))
		x := math.Min(t.x(a.LongestFrom)+4, plotEnd-float64(len(text))*charW)
		t.put(`<text class="gaptext" data-a="%s" x="%.1f" y="%.1f">%s</text>`, msText(a.LongestFrom), x, y+13, esc(text))
	}
	t.close()
	t.scale("rates", y, panelH, []string{count(int(top)) + "/s", count(int(top/2)) + "/s", "0"})
}

func (t *timeline) latency(in timelineInput) {
	const h = 76
	s := in.coarse
	y := t.panel("latency", "latency of ok sends, logarithmic: band = median to 99th percentile, line = slowest", h)
	place := func(ms float64) float64 { return y + h - latencyPlace(ms)*h }
	var band, top strings.Builder
	for i := range s.P50 {
		if s.P50[i] < 0 {
			continue
		}
		x0, x1 := t.x(int64(float64(i)*s.Width*1e6)), t.x(int64(float64(i+1)*s.Width*1e6))
		fmt.Fprintf(&band, "M%.1f,%.1fH%.1fV%.1fH%.1fZ", x0, place(s.P99[i])-0.5, x1, place(s.P50[i])+0.5, x0)
		fmt.Fprintf(&top, "M%.1f,%.1fH%.1f", x0, place(s.Max[i]), x1)
	}
	t.put(`<path class="band" d="%s"/><path class="top" d="%s"/>`, orM(band.String()), orM(top.String()))
	t.close()
	t.scale("latency", y, h, []string{"10 s", "1 s", "100 ms", "10 ms", "1 ms"})
}

// latencyPlace maps 1 ms … 10 s to 0 … 1, logarithmically.
func latencyPlace(ms float64) float64 {
	return min(max(math.Log10(math.Max(ms, 1e-9))/4, 0), 1)
}

func orM(path string) string {
	if path == "" {
		return "M0,0"
	}
	return path
}

// scale writes the labels of a panel from top to bottom, at equal distances.
func (t *timeline) scale(id string, y, h float64, labels []string) {
	for i, l := range labels {
		at := y + h*float64(i)/float64(len(labels)-1)
		t.put(`<text class="scale" id="%s-%d" x="%d" y="%.1f">%s</text>`, id, i, plotLeft-6, min(at+4+4*b2f(i == 0), y+h), l)
		if i > 0 && i < len(labels)-1 {
			t.put(`<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, plotLeft, plotEnd, at, at)
		}
	}
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// operations draws the operations around the anomalies, as bars from call to
// return; they become readable when the reader zooms in.
func (t *timeline) operations(in timelineInput) {
	var rows []opRow
	for _, m := range in.moments {
		rows = append(rows, m.Ops...)
	}
	if len(rows) == 0 {
		return
	}
	slices.SortFunc(rows, func(a, b opRow) int { return cmp.Compare(a.call, b.call) })
	t.heading("operations around the anomalies (zoom in to read them)")
	const lanes, h = 10, 9
	t.open()
	t.put(`<rect class="bg" x="%d" y="%.1f" width="%d" height="%d"/>`, plotLeft, t.y, plotEnd-plotLeft, lanes*h)
	var ends [lanes]int64
	for _, r := range rows {
		lane := 0
		for i := range ends {
			if ends[i] <= r.call {
				lane = i
				break
			}
			if ends[i] < ends[lane] {
				lane = i
			}
		}
		to := min(r.ret, in.span)
		ends[lane] = to
		class := "op " + r.OutcomeClass
		if r.Evidence {
			class += " evidence"
		}
		t.band(class, r.call, to, t.y+float64(lane*h), h-2, r.Title())
	}
	t.close()
	t.y += lanes*h + 2
}

// tickStep chooses a round distance between ticks, in nanoseconds.
func tickStep(span int64, ticks int) int64 {
	raw := span / int64(ticks)
	for unit := int64(1000); ; unit *= 10 {
		for _, m := range []int64{1, 2, 5} {
			if m*unit >= raw {
				return m * unit
			}
		}
	}
}

func tickLabel(at, step int64) string {
	digits := 0
	for s := int64(1e9); s > step && digits < 6; s /= 10 {
		digits++
	}
	return fmt.Sprintf("%.*f s", digits, float64(at)/1e9)
}

// niceTop rounds up to 1, 2, 4 or 10 times a power of ten.
func niceTop(v float64) float64 {
	if v <= 1 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 4, 10} {
		if m*p >= v {
			return m * p
		}
	}
	return 10 * p
}

// msText writes a time as milliseconds for the script.
func msText(ns int64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.3f", float64(ns)/1e6), "0"), ".")
}

func esc(s string) string { return html.EscapeString(printable(s)) }

func firstN[T any](s []T, n int) []T { return s[:min(len(s), n)] }

// longest keeps the n longest spans of s in their order: what is dropped then is
// what would be too narrow to see. It also returns how many were dropped.
func longest[T any](s []T, n int, span func(T) (from, to int64)) ([]T, int) {
	if len(s) <= n {
		return s, 0
	}
	index := make([]int, len(s))
	for i := range index {
		index[i] = i
	}
	length := func(i int) int64 {
		from, to := span(s[i])
		return to - from
	}
	slices.SortStableFunc(index, func(a, b int) int { return cmp.Compare(length(b), length(a)) })
	index = index[:n]
	slices.Sort(index)
	out := make([]T, n)
	for i, at := range index {
		out[i] = s[at]
	}
	return out, len(s) - n
}

// dropped says that spans were left out of the lanes above.
func (t *timeline) dropped(n int, what string) {
	if n > 0 {
		t.put(`<text class="note" x="%d" y="%.1f">%s not drawn: too short to see, or too many</text>`, plotLeft, t.y+9, plural(n, what))
		t.y += 14
	}
}

// shape is the name of the fault without its kind: "isolate-leader", "kill".
func (f faultSpan) shape() string {
	if _, shape, ok := strings.Cut(f.Name, ":"); ok {
		return shape
	}
	return f.Name
}

// sidesText names who still sees whom: "A: n2 | B: n1 n3".
func (f faultSpan) sidesText() string {
	var parts []string
	for i, s := range f.Sides {
		parts = append(parts, string(rune('A'+i%26))+": "+strings.Join(s, " "))
	}
	return strings.Join(parts, " | ")
}
