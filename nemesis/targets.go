package nemesis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// What --targets may say beside names of nodes. Roles are bound to names at
// injection, as the system itself says.
const (
	TargetOne        = "one"        // one node, drawn
	TargetMinority   = "minority"   // the largest minority, drawn: (n-1)/2
	TargetMajority   = "majority"   // the smallest majority, drawn: n/2+1
	TargetAll        = "all"        // every node
	TargetLeader     = "leader"     // the leader of one drawn partition
	TargetFollower   = "follower"   // one node that does not lead one drawn partition
	TargetFollowers  = "followers"  // every node that does not lead one drawn partition
	TargetController = "controller" // the leader of the metadata quorum
	TargetEvent      = "event"      // of a step that waits for an event: the node that it is about
	TargetOther      = "other"      // of such a step: one node that the event is not about
)

// CountTargets returns how many of nodes a step's targets mean. An unknown name, a
// name given twice and a count of zero are errors.
func CountTargets(spec string, nodes []string) (int, error) { return countTargets(spec, nodes) }

// countTargets returns how many nodes spec means among nodes. An unknown name, a
// name given twice and a count of zero are errors.
func countTargets(spec string, nodes []string) (int, error) {
	n := len(nodes)
	count := 0
	how, name, byName := reference(spec)
	if byName {
		if err := validName(name); err != nil {
			return 0, err
		}
		count = countNamed(how, n)
	}
	switch spec {
	case "":
		return 0, fmt.Errorf("no targets given: say one of %s", strings.Join(nodeTargets, ", "))
	case TargetOne, TargetLeader, TargetController, TargetEvent:
		count = min(1, n)
	case TargetMinority:
		count = max(0, (n-1)/2)
	case TargetMajority:
		count = min(n/2+1, n)
	case TargetAll:
		count = n
	case TargetFollower, TargetOther:
		count = min(1, max(0, n-1))
	case TargetFollowers:
		count = max(0, n-1)
	default:
		if byName {
			break
		}
		names := splitNames(spec)
		for i, name := range names {
			if !slices.Contains(nodes, name) {
				return 0, unknownNode(name, nodes)
			}
			if slices.Contains(names[:i], name) {
				return 0, fmt.Errorf("target %q is named twice", name)
			}
		}
		return len(names), nil
	}
	if count == 0 {
		return 0, fmt.Errorf("targets %q are none of %d nodes: a fault without target is refused", spec, n)
	}
	return count, nil
}

func splitNames(spec string) []string {
	names := strings.Split(spec, ",")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	return names
}

// byRole reports whether spec needs the system's own word.
func byRole(spec string) bool {
	switch spec {
	case TargetLeader, TargetFollower, TargetFollowers, TargetController:
		return true
	}
	return false
}

// bindTargets binds the step's targets to names.
func bindTargets(ctx context.Context, s *Scene) error {
	spec := s.Step.Targets
	count, err := countTargets(spec, s.Nodes)
	if err != nil {
		return err
	}
	switch spec {
	case TargetOne, TargetMinority, TargetMajority, TargetAll:
		s.Targets = draw(s.rng, s.Nodes, count)
	case TargetLeader:
		leader, err := bindLeader(ctx, s)
		if err != nil {
			return err
		}
		s.Targets, s.Role = []string{leader}, "leader"
	case TargetFollower, TargetFollowers:
		leader, err := bindLeader(ctx, s)
		if err != nil {
			return err
		}
		s.Targets, s.Role = draw(s.rng, without(s.Nodes, leader), count), "follower"
	case TargetController:
		node := ""
		ok, err := s.waitFor(ctx, s.Limits.Role, func() (bool, error) {
			n, err := s.Roles.Controller(ctx)
			if err == nil && slices.Contains(s.Nodes, n) {
				node = n
			}
			return node != "", ctx.Err()
		})
		if err != nil {
			return err
		}
		if !ok {
			return unproven("was not injected: the system named no controller within %s", s.Limits.Role)
		}
		s.Targets, s.Role = []string{node}, "controller"
	case TargetEvent:
		s.Targets = []string{s.event.Node}
	case TargetOther:
		s.Targets = draw(s.rng, without(s.Nodes, s.event.Node), count)
	default:
		if how, name, ok := reference(spec); ok {
			return bindNamed(s, how, name, count)
		}
		s.Targets = splitNames(spec)
	}
	return nil
}

// bindLeader draws one of the workload's partitions and asks for its leader.
func bindLeader(ctx context.Context, s *Scene) (string, error) {
	keys := s.Roles.Keys()
	if len(keys) == 0 {
		return "", unproven("was not injected: the workload has no partition whose leader it could hit")
	}
	key := keys[s.rng.IntN(len(keys))]
	leader, epoch, err := leaderOf(ctx, s, key)
	if err != nil {
		return "", err
	}
	s.Keys = []string{key}
	s.figures["leader of "+key] = leader
	s.figures["epoch of "+key] = strconv.Itoa(int(epoch))
	return leader, nil
}

// leaderOf asks for the leader of key until the system names one.
func leaderOf(ctx context.Context, s *Scene, key string) (node string, epoch int32, err error) {
	var last error
	ok, err := s.waitFor(ctx, s.Limits.Role, func() (bool, error) {
		node, epoch, last = s.Roles.Leader(ctx, key)
		return last == nil && slices.Contains(s.Nodes, node), ctx.Err()
	})
	if err != nil {
		return "", 0, err
	}
	if !ok {
		reason := ""
		if last != nil {
			reason = ": " + last.Error()
		}
		return "", 0, unproven("was not injected: the system named no leader of %s within %s%s", key, s.Limits.Role, reason)
	}
	return node, epoch, nil
}

// draw returns count of nodes, chosen by rng, in the order of nodes.
func draw(rng *rand.Rand, nodes []string, count int) []string {
	chosen := rng.Perm(len(nodes))[:count]
	slices.Sort(chosen)
	names := make([]string, count)
	for i, c := range chosen {
		names[i] = nodes[c]
	}
	return names
}
