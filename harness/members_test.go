package harness

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/nemesis"
)

// TestFaultsWhileMembersDiffer kills, pauses and cuts off nodes while the cluster
// has a member more or less than before, or a new one in the place of another, and
// right before it is as before again.
func TestFaultsWhileMembersDiffer(t *testing.T) {
	plainly(t)
	t.Parallel()
	steps := func(shape nemesis.Shape, nodes []string, seed int) []nemesis.Step {
		// One node changes, the others are hit.
		changing, hit := nodes[seed%len(nodes)], func(i int) string { return nodes[(seed+1+i%(len(nodes)-1))%len(nodes)] }
		if shape == nemesis.AddNode {
			changing = nemesis.TargetOne
		}
		second := time.Second
		return []nemesis.Step{
			{ID: 0, Fault: "membership", Shape: shape, Targets: changing, At: second, Until: 45 * second, Seed: uint64(seed)},
			{ID: 1, Fault: "kill", Targets: hit(0), At: 5 * second, Until: 14 * second},
			{ID: 2, Fault: "partition", Shape: nemesis.IsolateOne, Targets: hit(1), At: 18 * second, Until: 27 * second},
			{ID: 3, Fault: "pause", Targets: hit(2), At: 30 * second, Until: 39 * second},
		}
	}
	for _, nodes := range []int{3, 5} {
		for _, shape := range []nemesis.Shape{nemesis.AddNode, nemesis.RemoveNode, nemesis.ReplaceNode} {
			t.Run(fmt.Sprintf("%s of %d", shape, nodes), func(t *testing.T) {
				t.Parallel()
				for seed := range seedsOf(4) {
					p := simPlan("")
					p.Nodes, p.Seed = nodes, uint64(700+seed)
					p.Steps = steps(shape, p.NodeNames(), seed)
					p.Phases = Phases{Baseline: 5 * time.Second, Fault: 50 * time.Second, Recovery: 10 * time.Second}
					j := simulated(t, p)
					require.Empty(t, j.WhyInconclusive, "seed %d: %s", p.Seed, j.why())
					j.requireValid(t)
					j.requireProven(t)
				}
			})
		}
	}
}
