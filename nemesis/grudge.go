package nemesis

import (
	"fmt"
	"slices"
)

// Shape names one form of a fault that has several: who is cut off from whom in
// a partition, what is damaged of a file, how a clock is set.
type Shape string

// The shapes of a partition. One-way shapes and Client leave the other
// directions open.
const (
	IsolateOne    Shape = "isolate-one"    // one node from all other nodes; clients reach both sides
	IsolateLeader Shape = "isolate-leader" // the leader of one partition from all other nodes
	Halves        Shape = "halves"         // two halves as equal as the count allows
	Majority      Shape = "majority"       // the smallest majority from the rest
	Ring          Shape = "ring"           // every node sees a majority, and no two nodes the same one
	Bridge        Shape = "bridge"         // two halves, and one node that sees both
	Primaries     Shape = "primaries"      // every leader from every other node
	OneWayIn      Shape = "one-way-in"     // a node hears no other node, and is heard
	OneWayOut     Shape = "one-way-out"    // a node is heard by no other node, and hears
	ClientShape   Shape = "client"         // clients and one node, both directions
)

// ShapeInfo describes a shape.
type ShapeInfo struct {
	Name        Shape
	Description string
	MinNodes    int  // fewer are refused
	OneTarget   bool // takes one node, drawn from the seed or by --targets
}

// Shapes lists all shapes of a partition.
func Shapes() []ShapeInfo {
	return []ShapeInfo{
		{IsolateOne, "cuts one node off from all others, both directions", 2, true},
		{IsolateLeader, "cuts the leader of one partition off from all other nodes, both directions", 2, false},
		{OneWayIn, "one node receives nothing from the others, and they still receive from it", 2, true},
		{OneWayOut, "the others receive nothing from one node, and it still receives from them", 2, true},
		{ClientShape, "cuts the clients off from one node, both directions; nodes see each other", 1, true},
		{Halves, "cuts the nodes into two halves", 5, false},
		{Majority, "cuts the smallest majority off from the rest", 3, false},
		{Ring, "every node sees a majority, and no two nodes see the same one", 5, false},
		{Bridge, "two halves that only one node, the bridge, sees both of", 5, false},
		{Primaries, "cuts every node that leads a partition off from every other node", 3, false},
	}
}

func shapeInfo(s Shape) (ShapeInfo, bool) {
	all := Shapes()
	i := slices.IndexFunc(all, func(i ShapeInfo) bool { return i.Name == s })
	if i < 0 {
		return ShapeInfo{}, false
	}
	return all[i], true
}

// fits returns an error that names the needed count where n nodes are too few.
func (i ShapeInfo) fits(fault string, n int) error {
	if n >= i.MinNodes {
		return nil
	}
	hint := ""
	if i.MinNodes == 5 && n == 3 {
		hint = " (with three nodes it would be isolate-one or nothing)"
	}
	return fmt.Errorf("%s:%s needs at least %d nodes, and there are %d%s: use --nodes %d or another shape",
		fault, i.Name, i.MinNodes, n, hint, i.MinNodes)
}

// Grudge is the matrix of a partition: who no longer hears whom.
type Grudge struct {
	Cuts    []Cut      // one per direction, in the order of nodes
	Sides   [][]string // groups in which everyone sees everyone; empty for Client
	Targets []string   // the nodes that are cut off: the smaller side where there are two
}

// NewGrudge returns the grudge of shape over nodes. The order of nodes decides
// who is on which side, where targets do not: halves and majority put the first
// nodes on the smaller side, the first node is the bridge, and a ring goes
// around in order. Targets are one node for isolate-one, isolate-leader,
// one-way-in, one-way-out and client, all leaders for primaries, and empty
// otherwise. Too few nodes, unknown targets and a wrong count of targets are
// errors.
func NewGrudge(shape Shape, nodes, targets []string, port Port) (Grudge, error) {
	info, ok := shapeInfo(shape)
	if !ok {
		return Grudge{}, unknownShape("partition", Shapes(), shape)
	}
	if err := info.fits("partition", len(nodes)); err != nil {
		return Grudge{}, err
	}
	for _, t := range targets {
		if !slices.Contains(nodes, t) {
			return Grudge{}, unknownNode(t, nodes)
		}
	}
	switch want := wantTargets(info); {
	case want >= 0 && len(targets) != want:
		return Grudge{}, fmt.Errorf("partition:%s takes %d target nodes, and got %d", shape, want, len(targets))
	case want < 0 && len(targets) == 0:
		return Grudge{}, fmt.Errorf("partition:%s has no target: no partition has a leader", shape)
	}

	isTarget := func(n string) bool { return slices.Contains(targets, n) }
	var g Grudge
	switch shape {
	case IsolateOne, IsolateLeader:
		g.Sides = [][]string{targets, without(nodes, targets...)}
		g.Targets = targets
		g.Cuts = between(nodes, func(a, b string) bool { return isTarget(a) || isTarget(b) })
	case Primaries:
		for _, t := range targets {
			g.Sides = append(g.Sides, []string{t})
		}
		if rest := without(nodes, targets...); len(rest) > 0 {
			g.Sides = append(g.Sides, rest)
		}
		g.Targets = targets
		g.Cuts = between(nodes, func(a, b string) bool { return isTarget(a) || isTarget(b) })
	case OneWayIn:
		g.Sides = [][]string{targets, without(nodes, targets...)}
		g.Targets = targets
		g.Cuts = between(nodes, func(_, b string) bool { return isTarget(b) })
	case OneWayOut:
		g.Sides = [][]string{targets, without(nodes, targets...)}
		g.Targets = targets
		g.Cuts = between(nodes, func(a, _ string) bool { return isTarget(a) })
	case ClientShape:
		g.Targets = targets
		g.Cuts = []Cut{{From: Clients, To: targets[0]}, {From: targets[0], To: Clients}}
	case Halves, Majority:
		small := len(nodes) / 2
		if shape == Majority {
			small = (len(nodes) - 1) / 2
		}
		g.Sides = [][]string{nodes[:small], nodes[small:]}
		g.Targets = nodes[:small]
		g.Cuts = between(nodes, func(a, b string) bool {
			return slices.Contains(nodes[:small], a) != slices.Contains(nodes[:small], b)
		})
	case Bridge:
		bridge, rest := nodes[0], nodes[1:]
		left, right := rest[:len(rest)/2], rest[len(rest)/2:]
		g.Sides = [][]string{append([]string{bridge}, left...), append([]string{bridge}, right...)}
		g.Targets = rest
		g.Cuts = between(rest, func(a, b string) bool { return slices.Contains(left, a) != slices.Contains(left, b) })
	case Ring:
		// A node sees reach neighbours on either side: the least that makes a
		// majority together with itself.
		n := len(nodes)
		reach := (n/2 + 1) / 2
		for i := range nodes {
			side := make([]string, 0, reach+1)
			for d := range reach + 1 {
				side = append(side, nodes[(i+d)%n])
			}
			g.Sides = append(g.Sides, side)
		}
		g.Targets = nodes
		g.Cuts = between(nodes, func(a, b string) bool {
			d := (slices.Index(nodes, b) - slices.Index(nodes, a) + n) % n
			return min(d, n-d) > reach
		})
	}
	for i := range g.Cuts {
		g.Cuts[i].Port = port
	}
	g.Targets = slices.Clone(g.Targets)
	for i := range g.Sides {
		g.Sides[i] = slices.Clone(g.Sides[i])
	}
	return g, nil
}

// wantTargets returns how many targets a shape takes, or -1 for one or more.
func wantTargets(i ShapeInfo) int {
	switch {
	case i.Name == Primaries:
		return -1
	case i.OneTarget, i.Name == IsolateLeader:
		return 1
	}
	return 0
}

// between returns the directions between different nodes that cut chooses.
func between(nodes []string, cut func(from, to string) bool) []Cut {
	var cuts []Cut
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b && cut(a, b) {
				cuts = append(cuts, Cut{From: a, To: b})
			}
		}
	}
	return cuts
}

func without(nodes []string, not ...string) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return slices.Contains(not, n) })
}
