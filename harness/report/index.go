package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker"
)

// maxRuns bounds the runs that results/index.html lists, so that it stays
// small; older ones are still on disk.
const maxRuns = 5000

// indexPage is what the template of results/index.html sees.
type indexPage struct {
	assets
	Runs     []indexRun
	Older    int
	Totals   []chip
	Compared string // what is compared beside it; empty: nothing
	Matrix   string // what the matrix of claims beside it came to; empty: there is none
}

type indexRun struct {
	Href        string
	Verdict     checker.Verdict
	Sentence    string
	Started     string
	System      string
	Scheme      string
	Workload    string
	Environment string
	Faults      string
	Seed        uint64
	Ops         int
	Lost        int
	Unavailable float64 // ms
	DurationMS  float64
	Commit      string
	Problem     string // the summary could not be read
	order       time.Time
	path        string
}

// WriteIndex writes resultsDir/index.html: every run below resultsDir
// (NAME/TIME-SEED/), newest first, from their summary.json alone. A summary that
// cannot be read is listed as such. Runs that end at the same time may call it
// at once.
func WriteIndex(resultsDir string) error {
	runs, err := findRuns(resultsDir)
	if err != nil {
		return err
	}
	p := indexPage{assets: newAssets(tableScript), Runs: runs, Matrix: matrixLink(resultsDir), Compared: comparisonLink(resultsDir)}
	if len(runs) > maxRuns {
		p.Runs, p.Older = runs[:maxRuns], len(runs)-maxRuns
	}
	totals := map[string]int{}
	for _, r := range runs {
		totals[string(r.Verdict)]++
	}
	for _, v := range []checker.Verdict{checker.Invalid, checker.HarnessError, checker.Unknown, checker.Valid} {
		if n := totals[string(v)]; n > 0 {
			p.Totals = append(p.Totals, chip{verdictClass(v), count(n) + " " + string(v)})
		}
	}
	return writeFile(filepath.Join(resultsDir, PageFile), func(w io.Writer) error { return render(w, indexTemplate, p) })
}

func findRuns(resultsDir string) ([]indexRun, error) {
	groups, err := os.ReadDir(resultsDir)
	if err != nil {
		return nil, fmt.Errorf("listing the results: %w", err)
	}
	var runs []indexRun
	for _, g := range groups {
		if !g.IsDir() { // not the symbolic link "latest"
			continue
		}
		entries, err := os.ReadDir(filepath.Join(resultsDir, g.Name()))
		if err != nil {
			return nil, fmt.Errorf("listing the results: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			rel := g.Name() + "/" + e.Name()
			r := indexRun{Href: "./" + (&url.URL{Path: rel + "/" + PageFile}).EscapedPath(), path: rel}
			s, err := ReadSummary(filepath.Join(resultsDir, g.Name(), e.Name()))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				continue // still running, or killed before it was judged
			case err != nil:
				r.Problem, r.Sentence, r.Verdict = err.Error(), rel, checker.HarnessError
				if info, err := e.Info(); err == nil {
					r.order = info.ModTime()
				}
			default:
				r.fill(s)
			}
			runs = append(runs, r)
		}
	}
	slices.SortFunc(runs, func(a, b indexRun) int {
		return cmp.Or(b.order.Compare(a.order), cmp.Compare(b.path, a.path))
	})
	return runs, nil
}

func (r *indexRun) fill(s Summary) {
	r.Verdict, r.Sentence, r.order = s.Verdict, s.Sentence, s.Started
	r.Started = s.Started.UTC().Format(timeLayout)
	r.System, r.Scheme, r.Workload, r.Environment = s.System, s.Scheme, s.Workload, s.Environment
	r.Faults, r.Seed, r.Ops, r.Lost = s.FaultSpec, s.Seed, s.Ops.Total(), s.Anomalies["lost"]
	r.Unavailable, r.DurationMS, r.Commit = s.Availability.LongestUnavailableMS, s.DurationMS, s.Commit
	if strings.TrimSpace(r.Faults) == "" {
		r.Faults = "none"
	}
}
