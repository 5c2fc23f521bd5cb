package harness

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// Scenario is a plan of several steps that is known by name.
type Scenario struct {
	Name string `yaml:"-"`
	Doc  string `yaml:"doc"`
	// Weakened are options that take the very protection which the scenario tests:
	// with them acknowledged messages are lost.
	Weakened map[string]string `yaml:"weakened"`
	Plan     Plan              `yaml:"plan"`
}

//go:embed scenarios/*.yaml
var scenarioFiles embed.FS

// Scenarios lists those that are shipped, by name.
func Scenarios() ([]Scenario, error) {
	files, err := fs.Glob(scenarioFiles, "scenarios/*.yaml")
	if err != nil {
		return nil, err
	}
	var all []Scenario
	for _, file := range files {
		b, err := scenarioFiles.ReadFile(file)
		if err != nil {
			return nil, err
		}
		s := Scenario{Name: strings.TrimSuffix(strings.TrimPrefix(file, "scenarios/"), ".yaml"), Plan: DefaultPlan()}
		s.Plan.Faults = nil // its steps are all
		if err := yaml.NewDecoder(bytes.NewReader(b), yaml.DisallowUnknownField()).Decode(&s); err != nil {
			return nil, fmt.Errorf("scenario %s: %w", s.Name, err)
		}
		all = append(all, s)
	}
	return all, nil
}

// LookupScenario returns a scenario's plan, weakened or not. An unknown name wraps
// ErrBadPlan.
func LookupScenario(name string, weakened bool) (Plan, error) {
	all, err := Scenarios()
	if err != nil {
		return Plan{}, err
	}
	i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == name })
	if i < 0 {
		var names []string
		for _, s := range all {
			names = append(names, s.Name)
		}
		return Plan{}, fmt.Errorf("%w: unknown scenario %q; known scenarios: %s", ErrBadPlan, name, strings.Join(names, ", "))
	}
	p := all[i].Plan
	p.Scenario = name
	p.Options = maps.Clone(p.Options)
	if weakened {
		maps.Copy(p.Options, all[i].Weakened)
	}
	return p, nil
}
