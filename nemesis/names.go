package nemesis

import (
	"fmt"
	"slices"
	"strings"
)

// A step may give its target a name (Step.As), and steps that come later may mean
// the same node by it, whatever its role is then: "@old"; "not @old", one other
// node, drawn; "all but @old".
const (
	named    = "@"
	notNamed = "not @"
	allBut   = "all but @"
)

// reference returns the name that targets refer to, and how.
func reference(targets string) (how, name string, ok bool) {
	for _, how := range []string{allBut, notNamed, named} {
		if name, ok := strings.CutPrefix(targets, how); ok {
			return how, name, true
		}
	}
	return "", "", false
}

// validName refuses what could be taken for something else in a list of targets.
func validName(name string) error {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("name %q of a target: lower-case letters, digits and hyphens are wanted", name)
	}
	return nil
}

// countNamed returns how many of n nodes a reference means.
func countNamed(how string, n int) int {
	switch how {
	case allBut:
		return n - 1
	case notNamed:
		return min(1, n-1)
	}
	return min(1, n)
}

// validateAs refuses a name for targets that are not exactly one.
func (s Step) validateAs(nodes []string) error {
	if s.As == "" {
		return nil
	}
	if err := validName(s.As); err != nil {
		return fmt.Errorf("%s: %w", s.Name(), err)
	}
	if s.Fault == "partition" && s.Shape == IsolateLeader {
		return nil
	}
	if n, err := countTargets(s.Targets, nodes); err != nil || n != 1 {
		return fmt.Errorf("%s gives the name %q to its target, and targets %q are not one node", s.Name(), s.As, s.Targets)
	}
	return nil
}

// ValidateNames refuses steps that refer to a name which no step gives that begins
// before them, and names that are given twice.
func ValidateNames(steps []Step) error {
	for i, s := range steps {
		if s.As != "" && slices.ContainsFunc(steps[:i], func(o Step) bool { return o.As == s.As }) {
			return fmt.Errorf("step %d: the name %q is given twice", s.ID, s.As)
		}
		_, name, ok := reference(s.Targets)
		if ok && !slices.ContainsFunc(steps, func(o Step) bool { return o.As == name && o.At < s.At }) {
			return fmt.Errorf("step %d: targets %q of %s refer to a name that no earlier step gives (as: %s)", s.ID, s.Targets, s.Name(), name)
		}
	}
	return nil
}

// bindNamed binds targets that refer to a name.
func bindNamed(s *Scene, how, name string, count int) error {
	node, ok := s.ground.names[name]
	switch {
	case !ok:
		return unproven("was not injected: no fault has given the name %q to a node", name)
	case how == named:
		s.Targets = []string{node}
	default:
		s.Targets = draw(s.rng, without(s.Nodes, node), count)
	}
	return nil
}
