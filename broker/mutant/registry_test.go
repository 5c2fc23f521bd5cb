//go:build mutants

package mutant

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRegistry(t *testing.T) {
	require.True(t, Enabled)
	require.LessOrEqual(t, int(names), 64, "a set has 64 bits")
	seen := map[string]bool{}
	for i, m := range All() {
		require.NotEmpty(t, m.ID)
		require.Regexp(t, `^[a-z-]+$`, m.Name)
		require.Regexp(t, `^[A-Z].*\.$`, m.Doc, "one sentence")
		require.NotEmpty(t, m.Scheme)
		require.NotEmpty(t, m.Clauses)
		require.False(t, seen[m.ID] || seen[m.Name], "%s %s stands twice", m.ID, m.Name)
		seen[m.ID], seen[m.Name] = true, true
		for _, as := range []string{m.Name, m.ID} {
			s, err := Parse(as)
			require.NoError(t, err)
			require.Equal(t, Of(Name(i)), s)
		}
	}
	for _, m := range Unseeded() {
		require.False(t, seen[m.ID] || seen[m.Name], "%s %s is seeded", m.ID, m.Name)
		require.NotEmpty(t, m.Needs)
		_, err := Parse(m.ID)
		require.ErrorContains(t, err, "unknown mutant")
		seen[m.ID], seen[m.Name] = true, true
	}
	for i := range 27 {
		require.True(t, seen[fmt.Sprintf("M%d", i+1)], "M%d of the list is neither seeded nor named with what it needs", i+1)
	}
}

func TestHuntDrawn(t *testing.T) {
	require.True(t, Hunt{}.Drawn())
	for _, h := range []Hunt{{Options: map[string]string{"a": "b"}}, {Faults: []string{"kill"}}, {Haze: "delay"}, {Rate: 1}, {Nodes: 5}, {Then: "kill"}, {When: "leader-change"}, {Estrange: true}} {
		require.False(t, h.Drawn(), "%+v", h)
	}
}

func TestParse(t *testing.T) {
	s, err := Parse("")
	require.NoError(t, err)
	for n := range names {
		require.False(t, s.On(n))
	}
	s, err = Parse("unclean-election,M16")
	require.NoError(t, err)
	for n := range names {
		require.Equal(t, n == UncleanElection || n == AckBeforeSync, s.On(n))
	}
	_, err = Parse("none-such")
	require.ErrorContains(t, err, `unknown mutant "none-such"; known mutants: truncate-to-high-watermark, `)
}
