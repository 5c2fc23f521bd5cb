package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// maxMarkdownRows bounds the anomalies of summary.md: job pages are cut off at
// about a megabyte, and a reader of one wants the first few.
const maxMarkdownRows = 20

// WriteMarkdown writes summary.md, for the job pages of a CI system.
func (s Summary) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("## %s: %s", strings.ToUpper(string(s.Verdict)), md(s.Sentence))
	p("")
	for _, n := range s.Notes {
		p("**%s**", md(n))
		p("")
	}
	p("%s · seed %d · %s", md(strings.Join(nonEmpty(s.System, s.Scheme, s.Workload, s.FaultSpec, s.Environment), " · ")), s.Seed, millis(s.DurationMS))
	p("")
	if s.Stopped != nil {
		p("Faults ended early, as a violation was found %s.", md(s.Stopped.String()))
		p("")
	}
	why := s.undecided()
	for _, r := range why {
		p("- Why: %s", md(r.Why))
		p("- To change: %s", md(r.Change))
	}
	if len(why) > 0 {
		p("")
	}
	total, rows := 0, 0
	for _, c := range s.Checks {
		total += c.Count
	}
	if total > 0 {
		p("| class | value | partition | offset | at | node | missing on | fault | cause |")
		p("|---|---|---|---:|---:|---|---|---|---|")
		for _, c := range s.Checks {
			for _, a := range c.Anomalies {
				if rows++; rows > maxMarkdownRows {
					break
				}
				p("| %s | %s | %s | %s | %s | %s | %s | %s | %s |", md(a.Class), valueText(a.Value), md(a.Key), offset(a.Offset), seconds(a.At),
					md(orDash(a.Node)), md(orDash(strings.Join(a.Missing, " "))), md(orDash(a.Fault)), md(orDash(a.Cause)))
			}
		}
		p("")
		if more := total - min(rows, maxMarkdownRows); more > 0 {
			p("%s more in the report.", count(more))
			p("")
		}
	}
	if len(s.Faults) > 0 {
		p("| fault | targets | from | to | proven | healed |")
		p("|---|---|---:|---:|---|---|")
		for _, f := range s.Faults {
			end := "never"
			if f.End != nil {
				end = fmt.Sprintf("%.3f s", *f.End/1000)
			}
			p("| %s | %s | %.3f s | %s | %s | %s |", md(f.Name), md(strings.Join(f.Targets, " ")), f.Start/1000, end, yesNo(f.Proven), yesNo(f.Healed))
		}
		p("")
	}
	for _, f := range s.Skipped {
		p("Skipped %s.", md(f))
		p("")
	}
	p("| clause | verdict | detail |")
	p("|---|---|---|")
	for _, c := range s.Checks {
		v := string(c.Verdict)
		if !c.Promised {
			v = "not promised"
		}
		p("| %s | %s | %s |", md(c.Name), v, md(c.Detail))
	}
	p("")
	p("Operations: %s ok, %s failed, %s indeterminate (%s). Longest unavailability %s.",
		count(s.Ops.OK), count(s.Ops.Failed), count(s.Ops.Indeterminate), percent(s.Availability.IndeterminateShare), millis(s.Availability.LongestUnavailableMS))
	p("")
	s.markdownFigures(p)
	if len(s.NotChecked) > 0 {
		p("Not checked:")
		p("")
		for _, n := range s.NotChecked {
			p("- %s", md(n))
		}
		p("")
	}
	for _, c := range nonEmpty(s.Command, s.Replay) {
		p("    %s", printable(c))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// markdownFigures writes what each fault did to availability, and latencies.
func (s Summary) markdownFigures(p func(format string, args ...any)) {
	a := s.Availability
	if len(a.Faults) > 0 {
		p("| fault | longest unavailability | ok after injection | ok after healing | lost | indeterminate |")
		p("|---|---:|---:|---:|---:|---:|")
		for _, f := range firstN(a.Faults, maxMarkdownRows) {
			w := faultFigures(f)
			p("| %d · %s | %s | %s | %s | %s | %s |", f.ID, md(f.Name), md(w.Unavailable), md(w.Failover), md(w.Recovery), w.Lost, w.Indeterminate)
		}
		p("")
		if more := len(a.Faults) - maxMarkdownRows; more > 0 {
			p("%s in the report.", plural(more, "more fault"))
			p("")
		}
	}
	if len(s.Queues) > 0 {
		p("| queue | sent | acknowledged | came out | consumed | in the drain | further deliveries | never came out |")
		p("|---|---:|---:|---:|---:|---:|---:|---:|")
		for _, name := range firstN(slices.Sorted(maps.Keys(s.Queues)), maxMarkdownRows) {
			q := s.Queues[name]
			p("| %s | %s | %s | %s | %s | %s | %s | %s |", md(name), count(q.Attempts), count(q.Acknowledged), count(q.Delivered), count(q.Accepted), count(q.Drained), count(q.Duplicated), count(q.Lost))
		}
		p("")
	}
	if text := latencyText(a); text != "" {
		p("%s.", md(text))
		p("")
	}
}

// md escapes text for a cell of a Markdown table: no markup, no HTML, one line.
func md(s string) string {
	return mdEscape.Replace(printable(s))
}

var mdEscape = strings.NewReplacer(
	`\`, `\\`, "|", `\|`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "#", `\#`, "!", `\!`, "~", `\~`,
	"<", "&lt;", ">", "&gt;", "&", "&amp;", "@", "&#64;",
)

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "**no**"
}

// nonEmpty returns its arguments without the empty ones.
func nonEmpty(in ...string) []string {
	var out []string
	for _, s := range in {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}
