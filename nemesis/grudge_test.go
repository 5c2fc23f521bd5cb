package nemesis

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// matrix draws who hears whom: one row per receiver, x where nothing arrives.
func matrix(nodes []string, g Grudge) string {
	ends := slices.Clone(nodes)
	if slices.ContainsFunc(g.Cuts, func(c Cut) bool { return c.From == Clients || c.To == Clients }) {
		ends = append(ends, Clients)
	}
	var rows []string
	for _, to := range ends {
		row := ""
		for _, from := range ends {
			switch {
			case from == to:
				row += "="
			case slices.Contains(g.Cuts, Cut{From: from, To: to}):
				row += "x"
			default:
				row += "."
			}
		}
		rows = append(rows, row)
	}
	return strings.Join(rows, " ")
}

func TestGrudge(t *testing.T) {
	three := []string{"n1", "n2", "n3"}
	five := []string{"n1", "n2", "n3", "n4", "n5"}
	cases := []struct {
		shape   Shape
		nodes   []string
		targets string
		matrix  string // rows: receiver, columns: sender
		sides   string
		hit     string
	}{
		{IsolateOne, three, "n2", "=x. x=x .x=", "n2|n1,n3", "n2"},
		{IsolateLeader, three, "n1", "=xx x=. x.=", "n1|n2,n3", "n1"},
		{OneWayIn, three, "n1", "=xx .=. ..=", "n1|n2,n3", "n1"},
		{OneWayOut, three, "n1", "=.. x=. x.=", "n1|n2,n3", "n1"},
		{ClientShape, three, "n3", "=... .=.. ..=x ..x=", "", "n3"},
		{Majority, three, "", "=xx x=. x.=", "n1|n2,n3", "n1"},
		{Primaries, three, "n1,n3", "=xx x=x xx=", "n1|n3|n2", "n1,n3"},
		{Primaries, three, "n1,n2,n3", "=xx x=x xx=", "n1|n2|n3", "n1,n2,n3"},
		{IsolateOne, five, "n5", "=...x .=..x ..=.x ...=x xxxx=", "n5|n1,n2,n3,n4", "n5"},
		{OneWayIn, five, "n2", "=.... x=xxx ..=.. ...=. ....=", "n2|n1,n3,n4,n5", "n2"},
		{OneWayOut, five, "n2", "=x... .=... .x=.. .x.=. .x..=", "n2|n1,n3,n4,n5", "n2"},
		{Halves, five, "", "=.xxx .=xxx xx=.. xx.=. xx..=", "n1,n2|n3,n4,n5", "n1,n2"},
		{Majority, five, "", "=.xxx .=xxx xx=.. xx.=. xx..=", "n1,n2|n3,n4,n5", "n1,n2"},
		{Bridge, five, "", "=.... .=.xx ..=xx .xx=. .xx.=", "n1,n2,n3|n1,n4,n5", "n2,n3,n4,n5"},
		{Ring, five, "", "=.xx. .=.xx x.=.x xx.=. .xx.=", "n1,n2|n2,n3|n3,n4|n4,n5|n5,n1", "n1,n2,n3,n4,n5"},
		{Primaries, five, "n2,n4", "=x.x. x=xxx .x=x. xxx=x .x.x=", "n2|n4|n1,n3,n5", "n2,n4"},
		{Halves, []string{"a", "b", "c", "d", "e", "f"}, "", "=..xxx .=.xxx ..=xxx xxx=.. xxx.=. xxx..=", "a,b,c|d,e,f", "a,b,c"},
		{Majority, []string{"a", "b", "c", "d", "e", "f"}, "", "=.xxxx .=xxxx xx=... xx.=.. xx..=. xx...=", "a,b|c,d,e,f", "a,b"},
		{ClientShape, []string{"n1"}, "n1", "=x x=", "", "n1"},
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s of %d", c.shape, len(c.nodes)), func(t *testing.T) {
			var targets []string
			if c.targets != "" {
				targets = strings.Split(c.targets, ",")
			}
			g, err := NewGrudge(c.shape, c.nodes, targets, AnyPort)
			require.NoError(t, err)
			require.Equal(t, c.matrix, matrix(c.nodes, g))
			var sides []string
			for _, s := range g.Sides {
				sides = append(sides, strings.Join(s, ","))
			}
			require.Equal(t, c.sides, strings.Join(sides, "|"))
			require.Equal(t, c.hit, strings.Join(g.Targets, ","))
		})
	}
}

func TestGrudgeRefuses(t *testing.T) {
	three := []string{"n1", "n2", "n3"}
	cases := []struct {
		shape   Shape
		nodes   []string
		targets []string
		say     string
	}{
		{"star", three, nil, `unknown shape "star" of partition: known are isolate-one, isolate-leader`},
		{Halves, three, nil, "partition:halves needs at least 5 nodes, and there are 3"},
		{Ring, three, nil, "partition:ring needs at least 5 nodes, and there are 3"},
		{Bridge, three, nil, "partition:bridge needs at least 5 nodes, and there are 3"},
		{Majority, three[:2], nil, "partition:majority needs at least 3 nodes, and there are 2"},
		{IsolateOne, three[:1], []string{"n1"}, "needs at least 2 nodes"},
		{IsolateOne, three, nil, "takes 1 target nodes, and got 0"},
		{IsolateLeader, three, []string{"n1", "n2"}, "takes 1 target nodes, and got 2"},
		{Majority, three, []string{"n1"}, "takes 0 target nodes, and got 1"},
		{Primaries, three, nil, "no partition has a leader"},
		{IsolateOne, three, []string{"n9"}, `unknown target "n9": nodes are n1, n2, n3`},
	}
	for _, c := range cases {
		_, err := NewGrudge(c.shape, c.nodes, c.targets, AnyPort)
		require.ErrorContains(t, err, c.say)
	}
}

// In every ring each node hears a majority, and no two nodes the same one;
// sides hold only nodes that see each other.
func TestGrudgeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(5, 15).Draw(t, "nodes")
		nodes := make([]string, n)
		for i := range nodes {
			nodes[i] = fmt.Sprintf("n%d", i+1)
		}
		nodes = rapid.Permutation(nodes).Draw(t, "order")
		info := rapid.SampledFrom(Shapes()).Draw(t, "shape")
		var targets []string
		if want := wantTargets(info); want != 0 {
			targets = nodes[:1]
		}
		g, err := NewGrudge(info.Name, nodes, targets, PeerPort)
		require.NoError(t, err)
		require.NotEmpty(t, g.Cuts)
		require.NotEmpty(t, g.Targets)
		cut := map[Pair]bool{}
		for _, c := range g.Cuts {
			require.Equal(t, PeerPort, c.Port)
			require.NotEqual(t, c.From, c.To)
			require.False(t, cut[Pair{c.From, c.To}], "a cut is there twice")
			cut[Pair{c.From, c.To}] = true
		}
		oneWay := info.Name == OneWayIn || info.Name == OneWayOut
		for p := range cut {
			require.Equal(t, !oneWay, cut[Pair{p.To, p.From}])
		}
		for _, side := range g.Sides {
			for _, a := range side {
				for _, b := range side {
					require.False(t, cut[Pair{a, b}], "%s and %s are on one side", a, b)
				}
			}
		}
		if info.Name == Ring {
			seen := map[string]bool{}
			for _, a := range nodes {
				var hears []string
				for _, b := range nodes {
					if !cut[Pair{b, a}] {
						hears = append(hears, b)
					}
				}
				require.Greater(t, len(hears), n/2)
				slices.Sort(hears)
				key := strings.Join(hears, ",")
				if n%2 == 1 || len(hears) < n {
					require.False(t, seen[key], "two nodes hear the same majority")
				}
				seen[key] = true
			}
		}
	})
}
