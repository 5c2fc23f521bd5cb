//go:build !mutants

package mutant

import "fmt"

// Enabled says whether this binary has mutants.
const Enabled = false

// Set is empty: this binary has no mutants.
type Set struct{}

// On is false.
func (Set) On(Name) bool { return false }

// Parse refuses every name.
func Parse(names string) (Set, error) {
	if names != "" {
		return Set{}, fmt.Errorf("mutant %q: this binary has no mutants; build it with -tags mutants", names)
	}
	return Set{}, nil
}

// All is empty.
func All() []Info { return nil }

// Unseeded is empty.
func Unseeded() []Info { return nil }
