//go:build mutants

package harness

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/system/reference"
)

// Every mutant names a scheme that there is.
func TestMutantsOfSchemes(t *testing.T) {
	known := map[string]bool{}
	for _, s := range (reference.System{}).Schemes() {
		known[s.Name] = true
	}
	for _, m := range reference.Mutants() {
		require.True(t, known[m.Scheme], "%s is of scheme %q", m.Name, m.Scheme)
	}
}

// A handful of bugs is found within a few seeds, each by a clause that it is
// expected to break, and the broker without them passes the same seeds.
func TestMutantsAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates for about a minute")
	}
	ms, err := LookupMutants("ack-by-leader-alone", "epoch-not-bumped", "O11", "O1")
	require.NoError(t, err)
	runs, err := MutantHunt{Mutants: ms, Base: swarmBase(), First: 1, Ranges: 1, Seeds: 12, Control: 1, Shrink: time.Second}.Run(t.Context())
	require.NoError(t, err)
	require.Len(t, runs, len(ms)+2)
	for i, r := range runs {
		require.False(t, r.Interrupted)
		require.Zero(t, r.Failed)
		if i >= len(ms) {
			require.Empty(t, r.Name)
			require.False(t, r.Found, "the control of %s: seed %d: %s", r.Scheme, r.Seed, r.Sentence)
			require.GreaterOrEqual(t, r.Seeds, ControlSeeds)
			require.Nil(t, r.Shrunk)
			continue
		}
		require.Equal(t, ms[i].Name, r.Name)
		require.True(t, r.Found, r.Name)
		require.True(t, r.Expected, "%s broke %v, expected was %v", r.Name, r.Broken, ms[i].Clauses)
		require.NotZero(t, r.Seed)
		require.NotNil(t, r.Shrunk)
		require.Positive(t, r.Shrunk.Operations)
	}
}

// What hinges on a moment is found within a few seeds of plans that bring it about, and
// says so: a control has the same plans.
func TestMutantsOfAMoment(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates for some seconds")
	}
	ms, err := LookupMutants("CB6")
	require.NoError(t, err)
	runs, err := MutantHunt{Mutants: ms, Base: swarmBase(), First: 1, Ranges: 1, Seeds: 25}.Run(t.Context())
	require.NoError(t, err)
	require.Len(t, runs, 1)
	require.True(t, runs[0].Found)
	require.True(t, runs[0].Expected, "%v", runs[0].Broken)
	require.Equal(t, ms[0].Name, runs[0].Plans)
}

// A convicted seed is convicted again, by the same history: the mutant is part of
// the plan.
func TestMutantReplays(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates two runs")
	}
	p, err := convicting(t, "ack-by-leader-alone", "sim").Resolve()
	require.NoError(t, err)
	first := Try(t.Context(), p)
	require.Equal(t, checker.Invalid, first.Verdict, first.Sentence)
	require.Contains(t, p.Command(), " --set mutant=ack-by-leader-alone")
	text, err := p.YAML()
	require.NoError(t, err)
	p, err = ParsePlan(text, "plan")
	require.NoError(t, err)
	again := Try(t.Context(), p)
	require.Equal(t, first.History, again.History)
	require.Equal(t, first.Broken, again.Broken)
}

// A mutant that nobody knows is refused, with those that there are.
func TestUnknownMutant(t *testing.T) {
	_, err := LookupMutants("none-such")
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, "ack-before-fsync")
	for _, name := range []string{"M26", "union-without-tombstones"} {
		_, err = LookupMutants(name)
		require.ErrorIs(t, err, ErrBadPlan)
		require.ErrorContains(t, err, "is not there yet: it needs queue operations")
	}
	p, err := SwarmPlan(swarmBase(), 1)
	require.NoError(t, err)
	p.Options["mutant"] = "none-such"
	_, err = p.Resolve()
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, "ack-before-fsync")
}

// What is held for equivalent is hunted only where it is named.
func TestEquivalentMutants(t *testing.T) {
	ms, err := LookupMutants()
	require.NoError(t, err)
	require.NotEmpty(t, ms)
	for _, m := range ms {
		require.Empty(t, m.Equivalent, m.Name)
	}
	ms, err = LookupMutants("join-fenced")
	require.NoError(t, err)
	require.NotEmpty(t, ms[0].Equivalent)
}
