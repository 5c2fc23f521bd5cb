package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/report"
)

// ComparisonVersion is the version of the format of comparison files.
const ComparisonVersion = 1

// Comparison puts several systems under one plan.
type Comparison struct {
	Version int    `yaml:"version"`
	Title   string `yaml:"title"`
	Intro   string `yaml:"intro,omitempty"` // what a reader of the page should know first
	// Plan is what all have in common: nodes, clients, load, phases, steps, seed. It
	// names no system.
	Plan     Plan      `yaml:"plan"`
	Subjects []Subject `yaml:"systems"`
}

// Subject is one system under comparison; empty fields are the system's own defaults.
type Subject struct {
	Name     string            `yaml:"name"`
	System   string            `yaml:"system"`
	Scheme   string            `yaml:"scheme,omitempty"`
	Workload string            `yaml:"workload,omitempty"`
	Image    string            `yaml:"image,omitempty"`
	Options  map[string]string `yaml:"options,omitempty"`
}

// ReadComparison reads a comparison file. Unknown keys are refused; every error wraps
// ErrBadPlan.
func ReadComparison(path string) (Comparison, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Comparison{}, fmt.Errorf("%w: comparison: %w", ErrBadPlan, err)
	}
	c := Comparison{Plan: DefaultPlan()}
	c.Plan.Faults, c.Plan.System, c.Plan.Scheme, c.Plan.Workload = nil, "", "", ""
	bad := func(format string, args ...any) (Comparison, error) {
		return Comparison{}, fmt.Errorf("%w: %s: %w", ErrBadPlan, path, fmt.Errorf(format, args...))
	}
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.DisallowUnknownField()).Decode(&c); err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
		return bad("%s", line)
	}
	switch {
	case c.Version != ComparisonVersion:
		return bad("version %d; this faultline reads version %d", c.Version, ComparisonVersion)
	case c.Title == "":
		return bad("it has no title")
	case c.Plan.System != "" || c.Plan.Scheme != "" || c.Plan.Workload != "" || c.Plan.Image != "" || len(c.Plan.Options) > 0:
		return bad("the plan is of all systems; name system, scheme, workload, image and options under systems")
	case len(c.Plan.Faults) > 0 || c.Plan.Script != nil || c.Plan.Scenario != "":
		return bad("the plan gives its steps: faults would be drawn for each system anew")
	case len(c.Subjects) < 2:
		return bad("%d systems: at least two are compared", len(c.Subjects))
	}
	var names []string
	for i := range c.Subjects {
		s := &c.Subjects[i]
		if s.Name == "" || slices.Contains(names, s.Name) {
			return bad("system %d: its name %q is empty or given twice", i, s.Name)
		}
		names = append(names, s.Name)
	}
	return c, nil
}

// Plans are the resolved plans of the systems, in an environment. Every error wraps
// ErrBadPlan and names the system.
func (c Comparison) Plans(env string) ([]Plan, error) {
	var plans []Plan
	for _, s := range c.Subjects {
		p := c.Plan
		p.Version, p.Environment = PlanVersion, env
		p.System, p.Scheme, p.Workload, p.Image, p.Options = s.System, s.Scheme, s.Workload, s.Image, s.Options
		p.Steps = slices.Clone(p.Steps)
		for i := range p.Steps {
			p.Steps[i].Seed = p.Seed*1000 + uint64(i)
		}
		p, err := p.Resolve()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		plans = append(plans, p)
	}
	return plans, nil
}

// Compare runs the plans of Plans one after another, stores each run below out as Run
// does, and returns what they came to. tell, where not nil, is called after each. It
// ends early only with ctx, whose error it returns; a run that failed is a row that
// says so.
func (c Comparison) Compare(ctx context.Context, plans []Plan, out, command string, tell func(report.ComparisonRow)) (report.Comparison, error) {
	res := report.Comparison{
		Version: report.ComparisonVersion, Title: c.Title, Intro: c.Intro, Started: time.Now().UTC(), Commit: Revision(), Command: command,
	}
	for i, p := range plans {
		res.Environment, res.Faults, res.Seed = p.Environment, p.FaultList(), p.Seed
		o, err := Run(ctx, Config{Plan: p, RunID: docker.NewRunID(), Log: slog.New(slog.DiscardHandler)}, out, "")
		if ctx.Err() != nil {
			return res, ctx.Err()
		}
		row := report.ComparisonRow{Name: c.Subjects[i].Name, Summary: o.Summary, Options: c.Subjects[i].Options}
		if err != nil {
			row.Summary = report.Summary{
				System: p.System, Scheme: p.Scheme, Workload: p.Workload, Verdict: checker.HarnessError, ExitCode: checker.HarnessError.ExitCode(),
				Sentence: "Harness error: " + oneLine(errors.Join(err)),
			}
		}
		if o.Dir != "" {
			if rel, err := filepath.Rel(out, o.Dir); err == nil {
				row.Dir = filepath.ToSlash(rel)
			}
		}
		res.Rows = append(res.Rows, row)
		if tell != nil {
			tell(row)
		}
	}
	return res, nil
}
