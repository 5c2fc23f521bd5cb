//go:build mutants

package mutant

import (
	"fmt"
	"slices"
	"strings"
)

// Enabled says whether this binary has mutants.
const Enabled = true

// Set is the mutants of one node. The zero value is none.
type Set struct{ bits uint64 }

// On reports whether a node has a mutant.
func (s Set) On(n Name) bool { return s.bits&(1<<n) != 0 }

// Of returns a set.
func Of(ms ...Name) Set {
	var s Set
	for _, n := range ms {
		s.bits |= 1 << n
	}
	return s
}

// Parse reads names, separated by commas; "" is none. An unknown one is an error
// that lists those that exist.
func Parse(list string) (Set, error) {
	var s Set
	if list == "" {
		return s, nil
	}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(registry[:], func(m Info) bool { return m.Name == name || m.ID == name })
		if i < 0 {
			var known []string
			for _, m := range registry {
				known = append(known, m.Name)
			}
			return Set{}, fmt.Errorf("unknown mutant %q; known mutants: %s", name, strings.Join(known, ", "))
		}
		s.bits |= 1 << i
	}
	return s, nil
}

// All returns every mutant.
func All() []Info { return slices.Clone(registry[:]) }

// Unseeded returns those that there are not yet, each with what it needs.
func Unseeded() []Info { return slices.Clone(unseeded) }
