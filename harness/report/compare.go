package report

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker"
)

// Files of a comparison, in the directory of the results.
const (
	ComparisonPage     = "compare.html"
	ComparisonFile     = "compare.json"
	ComparisonMarkdown = "compare.md"
)

// ComparisonVersion is the version of compare.json.
const ComparisonVersion = 1

// Comparison is compare.json: several systems under one plan.
type Comparison struct {
	Version     int             `json:"version"`
	Title       string          `json:"title"`
	Intro       string          `json:"intro,omitempty"`
	Started     time.Time       `json:"started"`
	Environment string          `json:"environment"`
	Commit      string          `json:"commit"`
	Command     string          `json:"command"`
	Faults      string          `json:"faults"`
	Seed        uint64          `json:"seed"`
	Rows        []ComparisonRow `json:"rows"`
}

// ComparisonRow is one system and its run.
type ComparisonRow struct {
	Name    string            `json:"name"`
	Options map[string]string `json:"options,omitempty"` // that were set for it
	Dir     string            `json:"dir,omitempty"`     // of its run, below the directory of the results
	Summary Summary           `json:"summary"`
}

// ExitCode is 255 where a run failed, 2 where one decided nothing, and 0 otherwise: a
// system that loses messages is what a comparison is for.
func (c Comparison) ExitCode() int {
	code := 0
	for _, r := range c.Rows {
		switch r.Summary.Verdict {
		case checker.Valid, checker.Invalid:
		case checker.Unknown:
			code = max(code, checker.Unknown.ExitCode())
		default:
			return checker.HarnessError.ExitCode()
		}
	}
	return code
}

// WriteComparison writes compare.html, compare.json and compare.md into dir, and the
// index of results anew.
func WriteComparison(dir string, c Comparison) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the comparison: %w; choose another directory with --out", err)
	}
	for _, f := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{ComparisonFile, func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(c)
		}},
		{ComparisonMarkdown, c.WriteMarkdown},
		{ComparisonPage, func(w io.Writer) error { return render(w, comparisonTemplate, newComparisonPage(c)) }},
	} {
		if err := writeFile(filepath.Join(dir, f.name), f.write); err != nil {
			return fmt.Errorf("writing the comparison: %w", err)
		}
	}
	return WriteIndex(dir)
}

// comparisonText is the template of compare.html.
//
//go:embed assets/compare.tmpl
var comparisonText string

var comparisonTemplate = template.Must(template.New("compare").Funcs(funcs).Funcs(template.FuncMap{"verdict": verdictClass}).Parse(comparisonText))

type comparisonPage struct {
	assets
	Comparison
	Meta    string
	Columns []string
	Lines   []comparedSystem
}

// comparedSystem is a row of the page and of the Markdown table.
type comparedSystem struct {
	ComparisonRow
	Href  string
	Cells []string // one per column
	Runs  string   // version and options
}

// sidecarRepository is the repository of the image that every run has beside its
// system's own.
const sidecarRepository = "faultline/node:"

// comparedColumns head the figures of each system, in the order of figures.
var comparedColumns = []string{"acknowledged", "lost", "duplicates", "other anomalies", "longest unavailable", "first write during each fault", "after its healing", "latency p50 / p99", "indeterminate"}

// figures are the cells of comparedColumns.
func (r ComparisonRow) figures() []string {
	s := r.Summary
	if s.Verdict == checker.HarnessError {
		return slices.Repeat([]string{"–"}, len(comparedColumns))
	}
	var others []string
	for _, class := range slices.Sorted(maps.Keys(s.Anomalies)) {
		if n := s.Anomalies[class]; n > 0 && class != checker.ClassLost && class != checker.ClassDuplicate {
			others = append(others, count(n)+" "+class)
		}
	}
	latency := "–"
	whole := s.Availability.Latency
	if l, ok := whole["during"]; ok && l.Count > 0 {
		latency = millis(l.P50) + " / " + millis(l.P99)
	}
	return []string{
		count(s.Ops.Acknowledged), count(s.Anomalies[checker.ClassLost]), count(s.Anomalies[checker.ClassDuplicate]), orDash(strings.Join(others, ", ")),
		millis(s.Availability.LongestUnavailableMS), gaps(s.Availability.FailoverMS), gaps(s.Availability.RecoveryMS), latency, percent(s.Availability.IndeterminateShare),
	}
}

// runs says what ran: the system's own word for its version where it has one, its
// images, and the options that were set.
func (r ComparisonRow) runs() string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(r.Summary.Versions)) {
		v := r.Summary.Versions[k]
		image, isImage := strings.CutPrefix(k, "image ")
		switch {
		case k == r.Summary.System:
			all = append(all, "version "+v)
		case isImage && !strings.HasPrefix(image, sidecarRepository):
			digest := strings.TrimPrefix(v, "sha256:")
			all = append(all, fmt.Sprintf("image %s (%s)", image, digest[:min(12, len(digest))]))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(r.Options)) {
		all = append(all, k+"="+r.Options[k])
	}
	return strings.Join(all, ", ")
}

func newComparisonPage(c Comparison) comparisonPage {
	p := comparisonPage{assets: newAssets(tableScript), Comparison: c, Columns: comparedColumns}
	p.Meta = strings.Join(nonEmpty(c.Environment, c.Faults, fmt.Sprintf("seed %d", c.Seed), startedText(c.Started), c.Commit, c.Command), " · ")
	for _, r := range c.Rows {
		line := comparedSystem{ComparisonRow: r, Cells: r.figures(), Runs: r.runs()}
		if r.Dir != "" {
			line.Href = "./" + (&url.URL{Path: r.Dir + "/" + PageFile}).EscapedPath()
		}
		p.Lines = append(p.Lines, line)
	}
	return p
}

// comparisonLink says in the index of results what the newest comparison is about; ""
// where there is none.
func comparisonLink(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, ComparisonFile))
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	var c Comparison
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s (%s)", c.Title, plural(len(c.Rows), "system"))
}

// WriteMarkdown writes the comparison as a page of documentation.
func (c Comparison) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# %s\n", md(c.Title))
	if c.Intro != "" {
		p("%s\n", strings.TrimSpace(c.Intro))
	}
	p("| system | verdict | %s |", strings.Join(comparedColumns, " | "))
	p("|---|---|%s", strings.Repeat("---:|", len(comparedColumns)))
	for _, r := range c.Rows {
		var cells []string
		for _, cell := range r.figures() {
			cells = append(cells, md(cell))
		}
		p("| %s | **%s** | %s |", md(r.Name), md(string(r.Summary.Verdict)), strings.Join(cells, " | "))
	}
	p("")
	for _, r := range c.Rows {
		p("- **%s** (%s %s, workload %s%s): %s", md(r.Name), md(r.Summary.System), md(r.Summary.Scheme), md(r.Summary.Workload), md(after("; ", r.runs())), md(r.Summary.Sentence))
	}
	p("\nFaults of all: %s. Environment %s, seed %d, %s, source %s. Made by:\n", md(c.Faults), md(c.Environment), c.Seed, startedText(c.Started), md(orDash(c.Commit)))
	p("    %s", printable(c.Command))
	_, err := io.WriteString(w, b.String())
	return err
}

// after puts text behind a separator, where there is any.
func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}
