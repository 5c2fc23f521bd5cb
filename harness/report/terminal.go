package report

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/faultline-mq/faultline/checker"
)

// Status is what a progress display shows of a run.
type Status struct {
	Phase         string        // "baseline", "fault", …
	Elapsed       time.Duration // on the run's clock
	Total         time.Duration // planned, 0 = unknown
	OK            int
	Failed        int
	Indeterminate int
	Faults        []string // in force now: "partition:isolate-leader n2"
}

// How often a progress display speaks when nothing but the counts changed.
const (
	liveInterval  = 100 * time.Millisecond
	plainInterval = 10 * time.Second
)

// Progress shows how a run goes on: one line that is drawn again and again on a
// terminal, plain lines elsewhere (one whenever the phase or the faults change,
// otherwise one in ten seconds). It starts no goroutine: it draws when it is
// told something. All methods may be called from several goroutines; those of a
// nil Progress do nothing, which is what --quiet and --json want.
type Progress struct {
	mu    sync.Mutex
	w     io.Writer
	live  bool
	width func() int
	now   func() time.Time
	drawn time.Time // when it last spoke
	last  Status
	any   bool // something was shown
	open  bool // a live line stands on the terminal
}

// NewProgress returns a display that writes to w. It is live if w is a terminal
// and the environment variable TERM is not "dumb".
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, now: time.Now, width: func() int { return 80 }}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		p.live = true
		p.width = func() int {
			if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
				return n
			}
			return 80
		}
	}
	return p
}

// Update shows s. It may be called as often as one likes: it draws at once when
// the phase or the faults changed, and otherwise at most ten times a second (on
// a terminal) or once in ten seconds.
func (p *Progress) Update(s Status) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	changed := !p.any || s.Phase != p.last.Phase || strings.Join(s.Faults, "\x00") != strings.Join(p.last.Faults, "\x00")
	interval := plainInterval
	if p.live {
		interval = liveInterval
	}
	if !changed && now.Sub(p.drawn) < interval {
		return
	}
	p.last, p.any, p.drawn = s, true, now
	if !p.live {
		fmt.Fprintln(p.w, statusLine(s))
		return
	}
	fmt.Fprint(p.w, "\r\x1b[2K"+shorten(statusLine(s), max(p.width()-1, 1)))
	p.open = true
}

// Note prints one line that stays, above the live line.
func (p *Progress) Note(format string, args ...any) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		fmt.Fprint(p.w, "\r\x1b[2K")
	}
	fmt.Fprintln(p.w, printable(fmt.Sprintf(format, args...)))
	if p.open {
		fmt.Fprint(p.w, shorten(statusLine(p.last), max(p.width()-1, 1)))
	}
}

// Close takes the live line away. The display may be used again afterwards.
func (p *Progress) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		fmt.Fprint(p.w, "\r\x1b[2K")
		p.open = false
	}
}

func statusLine(s Status) string {
	clock := elapsed(s.Elapsed)
	if s.Total > 0 {
		clock += "/" + elapsed(s.Total)
	}
	line := fmt.Sprintf("%-9s %s  %s ok, %s failed, %s indeterminate", s.Phase, clock, count(s.OK), count(s.Failed), count(s.Indeterminate))
	if len(s.Faults) > 0 {
		line += "  fault: " + strings.Join(s.Faults, ", ")
	}
	return printable(line)
}

// maxTerminalRows bounds the anomalies that PrintVerdict names.
const maxTerminalRows = 20

// PrintVerdict prints how a run ended: the verdict in one sentence, each broken
// promise with its moment (the first 20, in order of time within a clause), for an inconclusive run why and what
// to change, where the report is and how to replay the run. Colour is used only
// on a terminal and never where NO_COLOR is set.
func PrintVerdict(w io.Writer, s Summary) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("%s  %s", paint(w, s.Verdict, strings.ToUpper(string(s.Verdict))), printable(s.Sentence))
	for _, n := range s.Notes {
		p("  note    %s", printable(n))
	}
	shown, total := 0, 0
	for _, c := range s.Checks {
		if !c.Promised || c.Verdict != checker.Invalid {
			continue
		}
		total += c.Count
		inTime := slices.Clone(c.Anomalies)
		slices.SortStableFunc(inTime, func(a, b checker.Anomaly) int { return cmp.Compare(a.At, b.At) })
		for _, a := range inTime {
			if shown == maxTerminalRows {
				break
			}
			shown++
			p("  %s", printable(shorten(anomalyLine(a), 500)))
		}
	}
	if total > shown {
		p("  and %s more in the report", count(total-shown))
	}
	if s.Stopped != nil {
		p("  stopped %s", printable(shorten("a violation was found "+s.Stopped.String(), 500)))
	}
	if a := s.Availability; a.Correction != "" {
		p("  without an ok send for %s at most, %s of operations indeterminate", millis(a.LongestUnavailableMS), percent(a.IndeterminateShare))
		if text := latencyText(a); text != "" {
			p("  %s", text)
		}
	}
	if len(s.Queues) > 0 {
		sum := queueTotals(s.Queues)
		p("  %s: %s acknowledged, %s consumed, %s in the drain, %s never came out; further deliveries: %s", plural(len(s.Queues), "queue"),
			count(sum.Acknowledged), count(sum.Accepted), count(sum.Drained), count(sum.Lost), count(sum.Duplicated))
	}
	for _, r := range s.undecided() {
		p("  why     %s", printable(r.Why))
		p("  change  %s", printable(r.Change))
	}
	if s.Dir != "" {
		p("  report  %s", printable(strings.TrimSuffix(s.Dir, "/")+"/"+PageFile))
	}
	if s.Replay != "" {
		p("  replay  %s", printable(s.Replay))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// anomalyLine names one anomaly with offset, node and fault.
func anomalyLine(a checker.Anomaly) string {
	line := a.Class
	if a.Value.Seq() != 0 {
		line += " " + valueText(a.Value)
	}
	if a.Key != "" {
		line += " " + a.Key
	}
	if a.Offset >= 0 {
		line += " offset " + offset(a.Offset)
	}
	line += " at " + seconds(a.At)
	if a.Node != "" {
		line += " on " + a.Node
	}
	if len(a.Missing) > 0 {
		line += ", missing on " + strings.Join(a.Missing, " ")
	}
	if a.Fault != "" {
		if !strings.HasPrefix(a.Fault, "after ") {
			line += ", under"
		} else {
			line += ","
		}
		line += " " + a.Fault
	}
	if a.Cause != "" {
		line += ": " + a.Cause
	}
	return line
}

func paint(w io.Writer, v checker.Verdict, text string) string {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	colour := "35" // magenta: harness error
	switch v {
	case checker.Valid:
		colour = "32"
	case checker.Invalid:
		colour = "31"
	case checker.Unknown:
		colour = "33"
	}
	return "\x1b[1;" + colour + "m" + text + "\x1b[0m"
}
