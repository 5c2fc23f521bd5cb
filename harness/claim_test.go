package harness

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tables are how many claims each table has; MQ has 8b beside.
var tables = []struct {
	family string
	n      int
}{{"SN", 5}, {"CC", 6}, {"MQ", 15}, {"KF", 16}, {"SS", 9}, {"MS", 11}, {"MM", 7}, {"FW", 6}, {"CB", 11}, {"PB", 13}, {"QQ", 5}, {"NT", 4}}

// TestEveryClaimIsThere: each id, in the order of the tables.
func TestEveryClaimIsThere(t *testing.T) {
	all, err := Claims()
	require.NoError(t, err)
	var want, got []string
	for _, f := range tables {
		for i := range f.n {
			want = append(want, fmt.Sprintf("%s%d", f.family, i+1))
			if f.family == "MQ" && i+1 == 8 {
				want = append(want, "MQ8b")
			}
		}
	}
	for _, c := range all {
		if c.System == DefaultPlan().System {
			got = append(got, c.ID)
			continue
		}
		row, system, _ := strings.Cut(c.ID, "@")
		require.Contains(t, want, row, "%s repeats a row of the tables", c.ID)
		_, err := LookupSystem(system)
		require.NoError(t, err)
	}
	require.Equal(t, want, got)
}

// TestExemptions: what other systems or benchmarks have to show is a fixed list.
func TestExemptions(t *testing.T) {
	all, err := Claims()
	require.NoError(t, err)
	var exempt []string
	for _, c := range all {
		if c.Exempt != "" && c.System == DefaultPlan().System {
			exempt = append(exempt, c.ID)
			require.Empty(t, c.Cases, c.ID)
		}
	}
	require.Equal(t, []string{"SN5", "CC5", "MQ12", "SS5", "SS9", "MS9", "MS11", "CB6", "CB7", "CB8", "CB11", "NT1", "NT2", "NT3", "NT4"}, exempt)
}

// TestPlansOfClaims: the plan of a scheme that is built can be run, in both
// environments, and a seed chooses the targets of its faults.
func TestPlansOfClaims(t *testing.T) {
	all, err := Claims()
	require.NoError(t, err)
	built := map[string]bool{}
	for _, s := range Systems() {
		for _, i := range s.Schemes() {
			built[i.Name] = true
		}
	}
	n := 0
	for _, c := range all {
		for i := range c.Cases {
			k := &c.Cases[i]
			if c.Unexercised() != "" || !built[k.Scheme] || slices.ContainsFunc(k.faults(), awaited) {
				continue
			}
			n++
			for _, env := range []string{"sim", "docker"} {
				if env == "sim" && c.System != DefaultPlan().System {
					continue // its nodes exist as containers only
				}
				p, err := k.plan(env, 7)
				require.NoError(t, err, "%s, case %d, in %s", c.ID, i, env)
				require.Equal(t, env, p.Environment)
				for _, s := range p.Steps {
					require.NotZero(t, s.Seed)
				}
			}
		}
	}
	require.Greater(t, n, 25)
}

const goodClaim = `
title: T
claims:
- id: KF1
  scheme: isr
  says: s
  done: d
  expected: SAFE, DUP possible
  verdicts: [SAFE]
  possible: [DUP]
  evidence: e
  cases:
  - safe: true
    plan:
      steps: [{id: 0, fault: kill, targets: leader, at: 1s, until: 9s}]
`

// TestLoader: what could not be judged is refused, with what is wrong.
func TestLoader(t *testing.T) {
	t.Run("a row about another system takes what it leaves out", func(t *testing.T) {
		row := `
- id: KF1@rabbitmq
  scheme: quorum
  source: measured
  cases: [{safe: true, plan: {steps: [{id: 0, fault: kill, targets: leader, at: 1s, until: 9s}]}}]
`
		claims, err := ParseClaims([]byte(goodClaim+row[1:]), "f")
		require.NoError(t, err)
		first, again := claims[0], claims[1]
		require.Equal(t, []string{"reference", "rabbitmq"}, []string{first.System, again.System})
		require.Equal(t, []string{first.Says, first.Done, first.Expected, first.Evidence, first.Family}, []string{again.Says, again.Done, again.Expected, again.Evidence, again.Family})
		require.Equal(t, "measured", again.Source)
		require.Equal(t, first.Verdicts, again.Verdicts)
		require.Equal(t, "rabbitmq", again.Cases[0].Plan.System)
		require.Empty(t, again.Cases[0].Plan.Workload, "the system's own")
		require.Equal(t, claims[1:], OfSystems(claims, []string{"rabbitmq"}))
	})
	claims, err := ParseClaims([]byte(goodClaim), "f")
	require.NoError(t, err)
	require.Len(t, claims, 1)
	require.Equal(t, "KF", claims[0].Family)
	require.Equal(t, "isr", claims[0].Cases[0].Plan.Scheme)
	require.Equal(t, casePlan().Phases, claims[0].Cases[0].Plan.Phases)

	show := func(sign string) func(string) string {
		return func(s string) string {
			return strings.Replace(s, "  - safe: true\n", "  - safe: true\n    shows: ["+sign+"]\n", 1)
		}
	}
	replace := func(old, with string) func(string) string {
		return func(s string) string {
			require.Contains(t, s, old)
			return strings.Replace(s, old, with, 1)
		}
	}
	for _, c := range []struct {
		name   string
		change func(string) string
		err    []string // parts of it
	}{
		{"unknown key", replace("says: s", "says: s\n  seys: s"), []string{"seys"}},
		{"unknown key of a case", replace("safe: true", "safe: true\n    save: true"), []string{"save"}},
		{"unknown key of a plan", replace("plan:\n", "plan:\n      node: 3\n"), []string{"node"}},
		{"unknown key of a sign", show("{clas: lost}"), []string{"clas"}},
		{"no title", replace("title: T\n", ""), []string{"title"}},
		{"no claim", func(string) string { return "title: T\n" }, []string{"at least one claim"}},
		{"id", replace("id: KF1", "id: kf-1"), []string{"kf-1", "two capital letters"}},
		{"a row that repeats none", replace("id: KF1", "id: KF1@rabbitmq"), []string{"no table before has row KF1"}},
		{"the same id twice", func(s string) string { return s + s[strings.Index(s, "- id"):] }, []string{"claim KF1 is there twice"}},
		{"no sentence", replace("says: s", "says: \"\""), []string{"claim KF1: says is empty"}},
		{"no evidence", replace("  evidence: e\n", ""), []string{"evidence is empty"}},
		{"environment", replace("evidence: e", "evidence: e\n  environments: [moon]"), []string{`unknown environment "moon"`}},
		{"unknown verdict", replace("verdicts: [SAFE]", "verdicts: [SAFE, GONE]"), []string{`unknown verdict "GONE"`, "RESURRECT"}},
		{"a verdict that is not listed", replace("possible: [DUP]", "possible: []"), []string{"DUP is in none of"}},
		{"a verdict that nothing judges", replace("- safe: true", "- always: [{unavailable: healed}]"), []string{"no case judges SAFE"}},
		{"no case", func(s string) string { return s[:strings.Index(s, "  cases:")] }, []string{"no case, and nothing says why"}},
		{"no scheme", replace("  scheme: isr\n", ""), []string{"case 0", "no scheme is named"}},
		{"observed without seed", replace("evidence: e", "evidence: e\n  observed: {reason: r}"), []string{"reason and the seed"}},
		{"scenario", replace("safe: true", "safe: true\n    scenario: none-such"), []string{"unknown scenario"}},
		{"weakened without scenario", replace("safe: true", "safe: true\n    weakened: true"), []string{"only a scenario can be"}},
		{"nothing is judged", replace("- safe: true", "- name: n"), []string{"it judges nothing"}},
		{"faults", replace("plan:\n", "plan:\n      faults: [kill]\n"), []string{"a case gives its steps"}},
		{"a fault that does not exist", replace("fault: kill", "fault: flood"), []string{`unknown fault "flood"`}},
		{"targets that nobody names", replace("targets: leader", "targets: \"@old\""), []string{"@old"}},
		{"two signs in one", show("{class: lost, clause: acknowledged-survive, reached: truncation}"), []string{"exactly one of"}},
		{"no sign", show("{verdict: LOSS}"), []string{"exactly one of"}},
		{"class", show("{clause: acknowledged-survive, class: gone}"), []string{`class "gone"`, "lost"}},
		{"clause", show("{clause: survives, class: lost}"), []string{`clause "survives"`, "acknowledged-survive"}},
		{"a step that the plan does not have", show("{unavailable: healed, step: 4}"), []string{"step 4"}},
		{"unavailable", show("{unavailable: sometimes}"), []string{`unavailable "sometimes"`, "forever"}},
		{"a gap without bounds", show("{unavailable: gap}"), []string{"a gap has bounds"}},
		{"a gap with bounds that exclude each other", show("{unavailable: gap, least: 3s, most: 2s}"), []string{"least 3s and most 2s"}},
		{"bounds without a gap", show("{unavailable: healed, most: 2s}"), []string{"a gap has bounds"}},
		{"window", show("{traffic: none, window: after}"), []string{`window "after"`}},
		{"traffic without window", show("{traffic: none}"), []string{`window ""`}},
		{"stale before a fault", show("{traffic: stale, window: before}"), []string{"during a fault"}},
		{"by", show("{traffic: none, window: during, by: all}"), []string{`by "all"`}},
		{"rule", show("{reached: heaven}"), []string{`reached "heaven"`, "truncation"}},
		{"leaders", show("{leaders: gone}"), []string{`leaders "gone"`}},
		{"share of what has none", show("{clause: at-most-once, class: duplicate, window: during, share: 0.5}"), []string{"of lost messages"}},
		{"share without window", show("{clause: acknowledged-survive, class: lost, share: 0.5}"), []string{"with a window"}},
		{"share above one", show("{clause: acknowledged-survive, class: lost, window: during, share: 2}"), []string{"share 2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseClaims([]byte(c.change(goodClaim)), "f")
			require.Error(t, err)
			for _, part := range append(c.err, "f") {
				require.ErrorContains(t, err, part)
			}
		})
	}
}

// TestShards: together they hold each claim once, whatever their number.
func TestShards(t *testing.T) {
	all, err := Claims()
	require.NoError(t, err)
	for _, n := range []int{1, 2, 3, 7, len(all), len(all) + 5} {
		seen := map[string]int{}
		for i := 1; i <= n; i++ {
			some, err := Shard(all, i, n)
			require.NoError(t, err)
			require.LessOrEqual(t, len(some), len(all)/n+1)
			for _, c := range some {
				seen[c.ID]++
			}
		}
		require.Len(t, seen, len(all))
		for id, times := range seen {
			require.Equal(t, 1, times, id)
		}
	}
	for _, s := range [][2]int{{0, 2}, {3, 2}, {1, 0}, {-1, 3}} {
		_, err := Shard(all, s[0], s[1])
		require.ErrorIs(t, err, ErrBadPlan)
	}
}

func TestLookupClaims(t *testing.T) {
	all, err := Claims()
	require.NoError(t, err)
	some, err := LookupClaims(all, []string{"KF7", "mq8B", "KF7"})
	require.NoError(t, err)
	require.Len(t, some, 2)
	_, err = LookupClaims(all, []string{"KF99"})
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, "faultline list claims")
	some = OfSchemes(all, []string{"quorum"})
	require.NotEmpty(t, some)
	for _, c := range some {
		require.Contains(t, c.Schemes(), "quorum")
	}
}
