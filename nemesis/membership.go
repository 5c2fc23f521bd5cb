package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/faultline-mq/faultline/checker/history"
)

// The shapes of membership.
const (
	AddNode     Shape = "add"     // a further node joins, and leaves when healed
	RemoveNode  Shape = "remove"  // a node leaves, and an empty one comes in its place when healed
	ReplaceNode Shape = "replace" // a node is gone for good, and an empty one takes its place
)

func changesOfMembers() []ShapeInfo {
	return []ShapeInfo{
		{Name: AddNode, Description: "a further, empty node joins, takes replicas over, and leaves again when healed", MinNodes: 1},
		{Name: RemoveNode, Description: "a node hands its replicas over and leaves; an empty one takes its place and its replicas when healed", MinNodes: 2, OneTarget: true},
		{Name: ReplaceNode, Description: "a node dies and loses all its disks; an empty one takes its place and its replicas", MinNodes: 2, OneTarget: true},
	}
}

// membership changes who belongs to the cluster, as an operator does: with the
// system's own administration, one step after another.
type membership struct {
	held
	node     string
	identity string // of the new node
	former   string // of the node that was there before, "" for none
	replicas map[string][]string
	fresh    bool // the place was given to the new node
	reason   string
}

var _ Fault = (*membership)(nil)

// Available implements Fault.
func (*membership) Available(t Target) error {
	return lacking("membership", map[Capability]bool{
		NeedsProcesses: t.Processes != nil, NeedsWiping: t.LostDisks != nil, NeedsRoles: t.Roles != nil, NeedsAdmin: t.Admin != nil,
		NeedsNewNodes: t.NewNodes != nil,
	})
}

// bindMember binds the node that changes: the spare one of add, or the target.
func bindMember(ctx context.Context, s *Scene) error {
	if s.Step.Shape != AddNode {
		return bindTargets(ctx, s)
	}
	if len(s.Spares) == 0 {
		return unproven("was not injected: there is no place for a further node")
	}
	// It takes replicas of every partition over, and has none any more at the end.
	s.Targets, s.Keys = s.Spares[:1], s.Roles.Keys()
	return nil
}

// Inject implements Fault.
func (m *membership) Inject(ctx context.Context, s *Scene) error {
	m.node = s.Targets[0]
	// Identities of one run differ with certainty: each step has a range of its own.
	m.identity = strconv.FormatUint(1+uint64(s.Step.ID)<<32|uint64(s.rng.Uint32()), 10)
	m.replicas = map[string][]string{}
	if s.Step.Shape == AddNode {
		if err := s.ground.claim("process", s.Step.Name(), s.Targets); err != nil {
			return err
		}
		m.claimed = true
	} else if err := m.take(ctx, s); err != nil {
		return err
	}
	if err := m.note(ctx, s); err != nil {
		return err
	}
	switch s.Step.Shape {
	case AddNode:
		if err := m.join(ctx, s); err != nil {
			return err
		}
		return m.assign(ctx, s, m.with)
	case RemoveNode:
		return m.leave(ctx, s, m.former)
	default:
		if err := s.Processes.Kill(ctx, m.node); err != nil {
			return fmt.Errorf("killing %s: %w", m.node, err)
		}
		if err := m.expel(ctx, s, m.former); err != nil {
			return err
		}
		return m.join(ctx, s)
	}
}

// note waits for a moment at which all members live and nothing moves, and keeps
// who has which replicas.
func (m *membership) note(ctx context.Context, s *Scene) error {
	ok, err := m.await(ctx, s, func(members []Member) string {
		for _, o := range members {
			if !o.Live || !o.Voter {
				return fmt.Sprintf("%s is no live voter", o.Node)
			}
			if o.Node == m.node {
				m.former = o.Identity
			}
		}
		return m.still(ctx, s, func(key string, a Assignment) string {
			m.replicas[key] = a.Replicas
			return ""
		})
	})
	if err != nil {
		return err
	}
	switch {
	case !ok:
		return unproven("was not injected: the cluster was not whole within %s: %s", s.Limits.Admin, m.reason)
	case (m.former == "") != (s.Step.Shape == AddNode):
		return unproven("was not injected: %s is a member of identity %q", m.node, m.former)
	}
	return nil
}

// still looks at every partition; it says which one moves, has no leader or is not in sync.
func (m *membership) still(ctx context.Context, s *Scene, also func(key string, a Assignment) string) string {
	for _, key := range s.Roles.Keys() {
		a, err := s.Admin.Assignment(ctx, key)
		switch {
		case err != nil:
			return err.Error()
		case a.Moving:
			return fmt.Sprintf("replicas of %s are being exchanged", key)
		case len(a.InSync) < len(a.Replicas):
			return fmt.Sprintf("%s has %d of %d replicas in sync", key, len(a.InSync), len(a.Replicas))
		}
		if why := also(key, a); why != "" {
			return why
		}
	}
	return ""
}

// await waits until the list of members is as wrong wants it; what was missing at
// last is in m.reason.
func (m *membership) await(ctx context.Context, s *Scene, wrong func([]Member) string) (bool, error) {
	return s.waitFor(ctx, s.Limits.Admin, func() (bool, error) {
		members, err := s.Admin.Members(ctx)
		if err != nil {
			m.reason = err.Error()
			return false, ctx.Err()
		}
		m.reason = wrong(members)
		return m.reason == "", ctx.Err()
	})
}

// must is await where the change is none without it.
func (m *membership) must(ctx context.Context, s *Scene, what string, wrong func([]Member) string) error {
	ok, err := m.await(ctx, s, wrong)
	if err == nil && !ok {
		return unproven("did not get through: %s %s within %s: %s", m.node, what, s.Limits.Admin, m.reason)
	}
	return err
}

func member(members []Member, node, identity string) (Member, bool) {
	i := slices.IndexFunc(members, func(o Member) bool { return o.Node == node && o.Identity == identity })
	if i < 0 {
		return Member{}, false
	}
	return members[i], true
}

// join puts the new node in place and admits it, until it votes and lives.
func (m *membership) join(ctx context.Context, s *Scene) error {
	if !m.fresh {
		if err := s.NewNodes.Replace(ctx, m.node, m.identity); err != nil {
			return fmt.Errorf("putting a new node in the place of %s: %w", m.node, err)
		}
		m.fresh = true
		s.ground.wiped[m.node] = true
	}
	if err := s.revive(ctx, m.node); err != nil {
		return err
	}
	return m.must(ctx, s, "did not join", func(members []Member) string {
		o, ok := member(members, m.node, m.identity)
		switch {
		case ok && o.Voter && o.Live:
			return ""
		case !ok:
			if err := s.Admin.Admit(ctx, m.node, m.identity); err != nil {
				return err.Error()
			}
		}
		return fmt.Sprintf("voter %t, live %t", o.Voter, o.Live)
	})
}

// expel takes a node out of the quorum.
func (m *membership) expel(ctx context.Context, s *Scene, identity string) error {
	return m.must(ctx, s, "did not leave the quorum", func(members []Member) string {
		if _, ok := member(members, m.node, identity); !ok {
			return ""
		}
		if err := s.Admin.Expel(ctx, m.node, identity); err != nil {
			return err.Error()
		}
		return "it is still listed"
	})
}

// leave takes a node out of service: its replicas go elsewhere first.
func (m *membership) leave(ctx context.Context, s *Scene, identity string) error {
	if err := m.assign(ctx, s, m.without); err != nil {
		return err
	}
	if err := m.expel(ctx, s, identity); err != nil {
		return err
	}
	st, err := s.Processes.State(ctx, m.node)
	if err == nil && st.Running {
		err = s.Processes.Kill(ctx, m.node)
	}
	if err != nil {
		return fmt.Errorf("killing %s: %w", m.node, err)
	}
	// The system has to notice that it is dead.
	ok, err := s.waitFor(ctx, s.Limits.Admin, func() (bool, error) {
		err := s.Admin.Forget(ctx, m.node)
		if err != nil {
			m.reason = err.Error()
		}
		return err == nil, ctx.Err()
	})
	if err == nil && !ok {
		return unproven("did not get through: %s was not forgotten within %s: %s", m.node, s.Limits.Admin, m.reason)
	}
	return err
}

// assign gives every partition the replicas that to says, and waits until they are in sync.
func (m *membership) assign(ctx context.Context, s *Scene, to func(s *Scene, key string) []string) error {
	want := map[string][]string{}
	for _, key := range s.Roles.Keys() {
		want[key] = to(s, key)
	}
	return m.must(ctx, s, "did not exchange replicas", func([]Member) string {
		missing := ""
		for _, key := range s.Roles.Keys() {
			a, err := s.Admin.Assignment(ctx, key)
			if err == nil && !a.Moving && !slices.Equal(a.Replicas, want[key]) {
				err = s.Admin.Assign(ctx, key, want[key])
				missing = fmt.Sprintf("%s has replicas %v instead of %v", key, a.Replicas, want[key])
			}
			if err != nil {
				missing = err.Error()
			}
		}
		if missing != "" {
			return missing
		}
		return m.still(ctx, s, func(string, Assignment) string { return "" })
	})
}

// with gives the new node a replica: a further one, or that of a drawn node.
func (m *membership) with(s *Scene, key string) []string {
	replicas := slices.Clone(m.replicas[key])
	if i := s.rng.IntN(len(replicas) + 1); i < len(replicas) {
		replicas[i] = m.node
		return replicas
	}
	return append(replicas, m.node)
}

// without gives the node's replica to a node that has none, where there is one.
func (m *membership) without(s *Scene, key string) []string {
	replicas := slices.Clone(m.replicas[key])
	i := slices.Index(replicas, m.node)
	if i < 0 {
		return replicas
	}
	if others := without(s.Nodes, replicas...); len(others) > 0 {
		replicas[i] = others[s.rng.IntN(len(others))]
		return replicas
	}
	return slices.Delete(replicas, i, i+1)
}

func (m *membership) before(_ *Scene, key string) []string { return m.replicas[key] }

// Heal implements Fault. A replacement is for good: to heal it is to complete it.
func (m *membership) Heal(ctx context.Context, s *Scene) error {
	defer m.drop(s)
	if len(m.replicas) == 0 {
		return nil // nothing was done
	}
	var u *UnprovenError
	err := m.restore(ctx, s)
	if errors.As(err, &u) {
		m.reason = u.Reason
		return nil // the proof of healing tells of it
	}
	return err
}

func (m *membership) restore(ctx context.Context, s *Scene) error {
	if s.Step.Shape == AddNode {
		if err := m.assign(ctx, s, m.before); err != nil {
			return err
		}
		return m.leave(ctx, s, m.identity)
	}
	still := false
	if err := m.must(ctx, s, "was not looked for", func(members []Member) string {
		_, still = member(members, m.node, m.former)
		return ""
	}); err != nil {
		return err
	}
	if still && !m.fresh {
		// It was not expelled: the same node goes on.
		if err := s.revive(ctx, m.node); err != nil {
			return err
		}
	} else if err := m.join(ctx, s); err != nil {
		return err
	}
	return m.assign(ctx, s, m.before)
}

// Prove implements Fault.
func (m *membership) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if stage == history.Healed && s.Step.Shape != AddNode {
		if proof, err := s.proveAnswers(ctx, func(string, ProcessState) string { return "" }); err != nil {
			return proof, err
		}
	}
	var members []Member
	ok, err := s.waitFor(ctx, s.Limits.Respond, func() (ok bool, err error) {
		members, err = s.Admin.Members(ctx)
		return err == nil, ctx.Err()
	})
	if err != nil {
		return Proof{}, err
	}
	if !ok {
		return Proof{}, unproven("cannot be proven: the system did not list its members within %s", s.Limits.Respond)
	}
	figures := map[string]string{}
	for _, o := range members {
		figures[o.Node+" of identity "+o.Identity] = fmt.Sprintf("voter %t, live %t, %d replicas", o.Voter, o.Live, o.Replicas)
	}
	figures["before"] = fmt.Sprintf("%s of identity %q", m.node, m.former)
	fail := func(format string, args ...any) (Proof, error) {
		return Proof{}, &UnprovenError{fmt.Sprintf(format, args...), figures}
	}
	_, old := member(members, m.node, m.former)
	now, joined := member(members, m.node, m.identity)
	present := joined && now.Voter
	effect := s.Step.Shape != RemoveNode // the new node is to be there, during or after it
	if stage == history.Healed {
		effect = s.Step.Shape != AddNode
	}
	verb := "had no effect"
	if stage == history.Healed {
		verb = "was not healed"
	}
	switch {
	case old && m.former != "":
		return fail("%s: the node that was at %s, of identity %s, is still a member", verb, m.node, m.former)
	case effect && !present:
		return fail("%s: the new node at %s is no voter", verb, m.node)
	case !effect && joined:
		return fail("%s: the new node at %s is still a member", verb, m.node)
	case stage == history.Proven && effect && !now.Live:
		return fail("%s: the new node at %s is not live", verb, m.node)
	case stage == history.Proven && s.Step.Shape == AddNode && now.Replicas == 0:
		return fail("%s: the new node at %s has no replica", verb, m.node)
	}
	if stage == history.Healed {
		if why := m.still(ctx, s, func(key string, a Assignment) string {
			if !slices.Equal(a.Replicas, m.replicas[key]) {
				return fmt.Sprintf("%s has replicas %v instead of %v", key, a.Replicas, m.replicas[key])
			}
			return ""
		}); why != "" {
			return fail("%s: %s", verb, why)
		}
		return Proof{Detail: fmt.Sprintf("%d members, replicas as before", len(members)), Figures: figures}, nil
	}
	if stage == history.Proven && s.Step.Shape == ReplaceNode {
		found, said, err := s.LostDisks.Found(ctx, m.node)
		if err != nil {
			return Proof{}, fmt.Errorf("what %s found at its start: %w", m.node, err)
		}
		if !said || found > 0 {
			return fail("had no effect: the new node at %s found %d records when it started", m.node, found)
		}
	}
	return Proof{Detail: fmt.Sprintf("%d members, %s: %s", len(members), s.Step.Shape, m.node), Figures: figures}, nil
}
