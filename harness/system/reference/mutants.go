package reference

import (
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/options"
)

// Mutant describes a bug that can be seeded into the reference broker.
type Mutant = mutant.Info

// MutantOption is the option that chooses one.
const MutantOption = options.Mutant

// HasMutants says whether this binary was built with them.
const HasMutants = mutant.Enabled

// Mutants lists the mutants; without the build tag there are none.
func Mutants() []Mutant { return mutant.All() }

// UnseededMutants lists those that there are not yet, each with what it needs.
func UnseededMutants() []Mutant { return mutant.Unseeded() }
