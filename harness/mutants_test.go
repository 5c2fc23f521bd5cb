package harness

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What the exit code of a hunt for mutants means.
func TestMutantsExit(t *testing.T) {
	found := MutantRun{ID: "M1", Name: "m", Found: true, Seeds: 3}
	missed := MutantRun{ID: "M1", Name: "m", Seeds: 100}
	clean := MutantRun{Seeds: 100}
	for name, c := range map[string]struct {
		runs []MutantRun
		want int
	}{
		"nothing was run": {nil, 2},
		"found":           {[]MutantRun{found, clean}, 0},
		"not found":       {[]MutantRun{found, missed, clean}, 1},
		"a seed was convicted without its mutant":   {[]MutantRun{{ID: "M1", Found: true, Spoiled: []Spoiled{{7, SeedInvalid}}}, clean}, 1},
		"a seed decided nothing without its mutant": {[]MutantRun{{ID: "M1", Found: true, Spoiled: []Spoiled{{7, SeedInconclusive}}}, clean}, 0},
		"the control was convicted":                 {[]MutantRun{found, {Found: true, Seeds: 5}}, 1},
		"a harness error":                           {[]MutantRun{found, {Seeds: 100, Failed: 1}}, 255},
		"a harness error before the conviction":     {[]MutantRun{{ID: "M1", Found: true, Failed: 1}}, 0},
		"the control decided too little":            {[]MutantRun{found, {Seeds: 100, Inconclusive: 3}}, 2},
		"the control decided enough":                {[]MutantRun{found, {Seeds: 100, Inconclusive: 2}}, 0},
		"an undecided mutant's seed counts nothing": {[]MutantRun{{ID: "M1", Found: true, Seeds: 4, Inconclusive: 3}, clean}, 0},
		"interrupted":                               {[]MutantRun{found, {ID: "M2", Interrupted: true}}, 2},
		"interrupted after one that was not found":  {[]MutantRun{missed, {ID: "M2", Interrupted: true}}, 1},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, MutantsExit(c.runs)) })
	}
}

// A hunt without an end is refused before its first seed.
func TestMutantHuntRefused(t *testing.T) {
	for name, h := range map[string]MutantHunt{
		"no range":        {Seeds: 1},
		"no end":          {Ranges: 1},
		"too many seeds":  {Ranges: 1, Seeds: SeedRange + 1},
		"negative budget": {Ranges: 1, Seeds: 1, Budget: -1},
		"control below 0": {Ranges: 1, Seeds: 1, Control: -1},
	} {
		t.Run(name, func(t *testing.T) {
			runs, err := h.Run(t.Context())
			require.ErrorIs(t, err, ErrBadPlan)
			require.Empty(t, runs)
		})
	}
}
