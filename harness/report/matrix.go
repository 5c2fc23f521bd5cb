package report

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker"
)

// ClaimOutcome is what the runs of a claim came to.
type ClaimOutcome string

// The outcomes of a claim.
const (
	Kept           ClaimOutcome = "kept"            // it holds, under faults that were proven
	Broken         ClaimOutcome = "broken"          // it does not
	LossReproduced ClaimOutcome = "loss reproduced" // it says that something goes wrong, and that was seen
	NotExercised   ClaimOutcome = "not exercised"   // nothing was proven; the reason is given
	Differs        ClaimOutcome = "differs"         // a faithful implementation behaves otherwise, as observed
)

// Outcomes lists them, the worst first.
func Outcomes() []ClaimOutcome {
	return []ClaimOutcome{Broken, Differs, NotExercised, LossReproduced, Kept}
}

// Files of a matrix, in the directory of the results.
const (
	MatrixPage  = "matrix.html"
	MatrixFile  = "matrix.json"
	MatrixJUnit = "matrix.junit.xml"
)

// MatrixVersion is the version of matrix.json.
const MatrixVersion = 1

// Matrix is matrix.json: claims about schemes and what became of them.
type Matrix struct {
	Version     int                  `json:"version"`
	Started     time.Time            `json:"started"`
	DurationMS  float64              `json:"duration_ms"`
	Environment string               `json:"environment"`
	Commit      string               `json:"commit"`
	Command     string               `json:"command"`
	FirstSeed   uint64               `json:"first_seed"`
	Interrupted string               `json:"interrupted,omitempty"` // why it is not whole
	Totals      map[ClaimOutcome]int `json:"totals"`
	Rows        []ClaimRow           `json:"rows"`
}

// ClaimRow is one claim.
type ClaimRow struct {
	ID       string       `json:"id"`
	Family   string       `json:"family"`
	Title    string       `json:"title"` // of its table
	Schemes  []string     `json:"schemes"`
	Says     string       `json:"says"`
	Done     string       `json:"done"`
	Expected string       `json:"expected"`
	Verdicts []string     `json:"verdicts"`
	Observed string       `json:"observed,omitempty"`
	Evidence string       `json:"evidence"`
	Source   string       `json:"source,omitempty"`
	Outcome  ClaimOutcome `json:"outcome"`
	Why      string       `json:"why"`
	// Open: other or more runs could have decided it.
	Open  checker.Verdict `json:"open"`
	Cases []ClaimCase     `json:"cases"`
}

// ClaimCase is one plan of a claim. Counts are sums over the runs that count;
// durations are those of the run that shows it best, in milliseconds, -1 where
// nothing came.
type ClaimCase struct {
	Name          string       `json:"name,omitempty"`
	Scheme        string       `json:"scheme"`
	Faults        []string     `json:"faults"`
	Options       []string     `json:"options"` // name=value, of those that were set
	Outcome       ClaimOutcome `json:"outcome"`
	Why           string       `json:"why"`
	Runs          int          `json:"runs"`
	Counted       int          `json:"counted"`
	Acknowledged  int          `json:"acknowledged"`
	Lost          int          `json:"lost"`
	UnavailableMS float64      `json:"unavailable_ms"`
	FailoverMS    []float64    `json:"failover_ms"` // per fault
	RecoveryMS    []float64    `json:"recovery_ms"`
	Seed          uint64       `json:"seed,omitempty"` // of the run that shows it best
	Dir           string       `json:"dir,omitempty"`  // where that is stored, below the directory of the results
}

// Count sums up the outcomes.
func (m *Matrix) Count() {
	m.Totals = map[ClaimOutcome]int{}
	for _, r := range m.Rows {
		m.Totals[r.Outcome]++
	}
}

// ExitCode is 1 where a claim is broken, 255 where the harness failed, 2 where a claim
// was left open or the matrix is not whole, and 0 otherwise: a claim that cannot be
// exercised yet is none of these.
func (m *Matrix) ExitCode() int {
	open := func(v checker.Verdict) bool {
		return slices.ContainsFunc(m.Rows, func(r ClaimRow) bool { return r.Open == v })
	}
	switch {
	case m.Totals[Broken] > 0:
		return checker.Invalid.ExitCode()
	case open(checker.HarnessError):
		return checker.HarnessError.ExitCode()
	case open(checker.Unknown) || m.Interrupted != "":
		return checker.Unknown.ExitCode()
	}
	return checker.Valid.ExitCode()
}

// Merge puts the parts of one matrix together, as shards leave them: rows in the
// order of ids, each once. Where two parts have the same claim the worse outcome stays;
// an id that no part has makes the matrix not whole.
func Merge(parts []Matrix, order []string) (Matrix, error) {
	if len(parts) == 0 {
		return Matrix{}, errors.New("no part of a matrix to merge")
	}
	whole := parts[0]
	whole.Rows = nil
	var commits, stopped []string
	for _, p := range parts {
		if !slices.Contains(commits, p.Commit) {
			commits = append(commits, p.Commit)
		}
		if p.Interrupted != "" {
			stopped = append(stopped, p.Interrupted)
		}
		if p.Started.Before(whole.Started) {
			whole.Started = p.Started
		}
		whole.DurationMS = max(whole.DurationMS, p.DurationMS)
		if p.Environment != whole.Environment {
			whole.Environment = "docker and sim"
		}
		for _, r := range p.Rows {
			i := slices.IndexFunc(whole.Rows, func(o ClaimRow) bool { return o.ID == r.ID })
			switch {
			case i < 0:
				whole.Rows = append(whole.Rows, r)
			case severity(r) < severity(whole.Rows[i]):
				whole.Rows[i] = r
			}
		}
	}
	if len(commits) > 1 {
		return Matrix{}, fmt.Errorf("the parts are of different sources: %s", strings.Join(commits, ", "))
	}
	if missing := slices.DeleteFunc(slices.Clone(order), func(id string) bool {
		return slices.ContainsFunc(whole.Rows, func(r ClaimRow) bool { return r.ID == id })
	}); len(missing) > 0 {
		stopped = append(stopped, "no part has "+strings.Join(missing, ", "))
	}
	whole.Interrupted = strings.Join(stopped, "; ")
	slices.SortStableFunc(whole.Rows, func(a, b ClaimRow) int { return cmp.Compare(slices.Index(order, a.ID), slices.Index(order, b.ID)) })
	whole.Count()
	return whole, nil
}

// Below puts a directory in front of those of the runs: where they are, seen from the
// directory that the matrix is written to.
func (m *Matrix) Below(dir string) {
	for i := range m.Rows {
		for j := range m.Rows[i].Cases {
			if c := &m.Rows[i].Cases[j]; c.Dir != "" {
				c.Dir = path.Join(dir, c.Dir)
			}
		}
	}
}

// severity orders outcomes for merging. What was exercised in one environment and
// could not be in another counts as exercised; what was left open stays open.
func severity(r ClaimRow) int {
	if r.Outcome == NotExercised && r.Open == checker.Valid {
		return len(Outcomes())
	}
	return slices.Index(Outcomes(), r.Outcome)
}

// WriteMatrix writes matrix.html, matrix.json and matrix.junit.xml into dir, and the
// index of results anew.
func WriteMatrix(dir string, m Matrix) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the matrix: %w; choose another directory with --out", err)
	}
	for _, f := range []struct {
		name  string
		write func(io.Writer) error
	}{
		{MatrixFile, m.writeJSON},
		{MatrixJUnit, m.writeJUnit},
		{MatrixPage, func(w io.Writer) error { return render(w, matrixTemplate, newMatrixPage(m)) }},
	} {
		if err := writeFile(filepath.Join(dir, f.name), f.write); err != nil {
			return fmt.Errorf("writing the matrix: %w", err)
		}
	}
	return WriteIndex(dir)
}

// ReadMatrix reads the matrix.json of a directory, or such a file.
func ReadMatrix(file string) (Matrix, error) {
	if fi, err := os.Stat(file); err == nil && fi.IsDir() {
		file = filepath.Join(file, MatrixFile)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return Matrix{}, fmt.Errorf("reading a matrix: %w", err)
	}
	var m Matrix
	if err := json.Unmarshal(b, &m); err != nil {
		return Matrix{}, fmt.Errorf("reading %s: %w", file, err)
	}
	if m.Version != MatrixVersion {
		return Matrix{}, fmt.Errorf("reading %s: version %d is not %d; run faultline matrix again", file, m.Version, MatrixVersion)
	}
	return m, nil
}

func (m Matrix) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(m)
}

// writeJUnit writes one test case per claim: broken is a failure, a harness that
// failed an error; what was not exercised is skipped, with the reason.
func (m Matrix) writeJUnit(w io.Writer) error {
	suite := junitSuite{Name: "faultline.matrix." + m.Environment, Time: junitSeconds(m.DurationMS)}
	if !m.Started.IsZero() {
		suite.Timestamp = m.Started.UTC().Format("2006-01-02T15:04:05")
	}
	for _, p := range []junitProperty{{"command", m.Command}, {"commit", m.Commit}, {"interrupted", m.Interrupted}} {
		if p.Value != "" {
			suite.Properties = append(suite.Properties, p)
		}
	}
	for _, r := range m.Rows {
		c := junitCase{Class: "claims." + r.Family, Name: r.ID + ": " + string(r.Outcome), Time: "0"}
		problem := &junitProblem{Message: string(r.Outcome) + ": " + r.Why, Type: string(r.Outcome), Text: strings.Join(nonEmpty(r.Says, r.Done, "expected: "+r.Expected), "\n")}
		switch {
		case r.Outcome == Broken:
			c.Failure = problem
			suite.Failures++
		case r.Open == checker.HarnessError:
			c.Error = problem
			suite.Errors++
		case r.Outcome == NotExercised:
			c.Skipped = problem
			suite.Skipped++
		}
		suite.Cases = append(suite.Cases, c)
		suite.Tests++
	}
	return encodeJUnit(w, suite)
}

// matrixText is the template of matrix.html.
//
//go:embed assets/matrix.tmpl
var matrixText string

var matrixTemplate = template.Must(template.New("matrix").Funcs(funcs).Funcs(template.FuncMap{
	"outcome": outcomeClass, "list": func(s []string) string { return strings.Join(s, ", ") }, "gaps": gaps,
}).Parse(matrixText))

// matrixPage is what the template of matrix.html sees.
type matrixPage struct {
	assets
	Matrix
	Meta   string
	Chips  []chip
	Faults []string
	Grid   []gridRow
	Tables []claimTable
}

// gridRow is one scheme, with a cell per fault.
type gridRow struct {
	Scheme string
	Cells  [][]gridClaim
}

type gridClaim struct {
	ID      string
	Outcome ClaimOutcome
}

type claimTable struct {
	Family, Title string
	Rows          []shownRow
}

type shownRow struct {
	ClaimRow
	Lines []shownCase
}

type shownCase struct {
	ClaimCase
	Href string
}

// outcomeClass is the class of an outcome in the style sheet.
func outcomeClass(o ClaimOutcome) string {
	switch o {
	case Kept:
		return "valid"
	case Broken:
		return "invalid"
	case LossReproduced:
		return "harness"
	case Differs:
		return "unknown"
	}
	return "plain"
}

// gaps writes durations of several faults.
func gaps(ms []float64) string {
	if len(ms) == 0 {
		return "–"
	}
	var all []string
	for _, v := range ms {
		all = append(all, millis(v))
	}
	return strings.Join(all, ", ")
}

// noFault is the column of claims without one.
const noFault = "none"

func newMatrixPage(m Matrix) matrixPage {
	p := matrixPage{assets: newAssets(tableScript), Matrix: m}
	took := time.Duration(m.DurationMS * float64(time.Millisecond))
	p.Meta = strings.Join(nonEmpty(m.Environment, "took "+elapsed(took), startedText(m.Started), m.Commit, m.Command), " · ")
	for _, o := range Outcomes() {
		if n := m.Totals[o]; n > 0 {
			p.Chips = append(p.Chips, chip{outcomeClass(o), count(n) + " " + string(o)})
		}
	}
	p.Grid, p.Faults = grid(m.Rows)
	for _, r := range m.Rows {
		if n := len(p.Tables); n == 0 || p.Tables[n-1].Family != r.Family {
			p.Tables = append(p.Tables, claimTable{Family: r.Family, Title: r.Title})
		}
		t := &p.Tables[len(p.Tables)-1]
		s := shownRow{ClaimRow: r}
		for _, c := range r.Cases {
			if c.Runs == 0 {
				continue // there is nothing to show, and the row says why
			}
			k := shownCase{ClaimCase: c}
			if c.Dir != "" {
				k.Href = "./" + (&url.URL{Path: c.Dir + "/" + PageFile}).EscapedPath()
			}
			s.Lines = append(s.Lines, k)
		}
		t.Rows = append(t.Rows, s)
	}
	return p
}

// grid arranges claims by scheme and fault, in the order in which they come.
func grid(rows []ClaimRow) (lines []gridRow, faults []string) {
	type cell struct{ scheme, fault string }
	cells := map[cell][]gridClaim{}
	var schemes []string
	put := func(scheme, fault string, g gridClaim) {
		if !slices.Contains(schemes, scheme) {
			schemes = append(schemes, scheme)
		}
		if !slices.Contains(faults, fault) {
			faults = append(faults, fault)
		}
		c := cell{scheme, fault}
		if !slices.ContainsFunc(cells[c], func(o gridClaim) bool { return o.ID == g.ID }) {
			cells[c] = append(cells[c], g)
		}
	}
	for _, r := range rows {
		for _, c := range r.Cases {
			names := c.Faults
			if len(names) == 0 {
				names = []string{noFault}
			}
			for _, f := range names {
				put(c.Scheme, f, gridClaim{r.ID, r.Outcome})
			}
		}
	}
	for _, s := range schemes {
		line := gridRow{Scheme: s, Cells: make([][]gridClaim, len(faults))}
		for i, f := range faults {
			line.Cells[i] = cells[cell{s, f}]
		}
		lines = append(lines, line)
	}
	return lines, faults
}

// matrixLink says in the index of results what the newest matrix came to; "" where
// there is none.
func matrixLink(dir string) string {
	m, err := ReadMatrix(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case err != nil:
		return err.Error()
	}
	return fmt.Sprintf("%s: %s", plural(len(m.Rows), "claim"), m.TotalsText())
}

// TotalsText counts the outcomes in words.
func (m Matrix) TotalsText() string {
	var all []string
	for _, o := range Outcomes() {
		if n := m.Totals[o]; n > 0 {
			all = append(all, count(n)+" "+string(o))
		}
	}
	return strings.Join(all, ", ")
}

// WriteText prints the matrix as a table for a terminal, and its totals.
func (m Matrix) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, r := range m.Rows {
		fmt.Fprintf(&b, "%-5s %-16s %-28s %s\n", r.ID, r.Outcome, r.figures(), printable(r.Why))
	}
	fmt.Fprintf(&b, "%s: %s\n", plural(len(m.Rows), "claim"), m.TotalsText())
	if m.Interrupted != "" {
		fmt.Fprintf(&b, "not whole: %s\n", m.Interrupted)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// figures are the messages of all cases.
func (r ClaimRow) figures() string {
	acknowledged, lost, runs := 0, 0, 0
	for _, c := range r.Cases {
		acknowledged, lost, runs = acknowledged+c.Acknowledged, lost+c.Lost, runs+c.Counted
	}
	if runs == 0 {
		return ""
	}
	return fmt.Sprintf("%s, lost %s of %s", plural(runs, "run"), count(lost), count(acknowledged))
}
