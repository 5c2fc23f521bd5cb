package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// office is a world's administration. What it is asked for is done at once.
type office struct {
	places   map[string]string // the identity of the node at a place
	members  map[string]string // node → identity of the member
	replicas map[string][]string
	lagging  map[string]string // partition → replica that is not in sync
	epochs   map[string]int32
	deafTo   map[string]bool // requests that have no effect: "admit", "expel", "replace", "assign", "elect"
	down     bool
}

func newOffice(w *world) office {
	o := office{places: map[string]string{}, members: map[string]string{}, replicas: map[string][]string{}, lagging: map[string]string{}, epochs: map[string]int32{}, deafTo: map[string]bool{}}
	for _, n := range w.nodes {
		o.places[n], o.members[n] = "0", "0"
	}
	for i, key := range w.keys {
		o.replicas[key] = slices.Concat(w.nodes[i%len(w.nodes):], w.nodes[:i%len(w.nodes)])
		o.epochs[key] = 4
	}
	return o
}

type wAdmin struct{ *world }

var (
	_ Admin        = wAdmin{}
	_ NodeReplacer = wMachines{}
)

func (w wMachines) Replace(_ context.Context, n, identity string) error {
	if w.procs[n].Running {
		return fmt.Errorf("%s runs", n)
	}
	if !w.deafTo["replace"] {
		w.places[n], w.logs[n] = identity, nil
	}
	return w.fail["replace "+n]
}

func (w wAdmin) Members(context.Context) ([]Member, error) {
	if w.down {
		return nil, errors.New("nobody answers")
	}
	var list []Member
	for _, n := range append(slices.Clone(w.nodes), "spare") {
		if id, ok := w.members[n]; ok {
			m := Member{Node: n, Identity: id, Voter: true, Live: w.procs[n].Running}
			for _, replicas := range w.replicas {
				if slices.Contains(replicas, n) {
					m.Replicas++
				}
			}
			list = append(list, m)
		}
	}
	return list, nil
}

func (w wAdmin) Admit(_ context.Context, n, identity string) error {
	switch was, member := w.members[n]; {
	case member && was != identity:
		return fmt.Errorf("%s is a member of identity %s", n, was)
	case w.places[n] != identity || !w.procs[n].Running:
		return fmt.Errorf("%s of identity %s does not answer", n, identity)
	case !w.deafTo["admit"]:
		w.members[n] = identity
	}
	return nil
}

func (w wAdmin) Expel(_ context.Context, n, identity string) error {
	if w.members[n] == identity && !w.deafTo["expel"] {
		delete(w.members, n)
	}
	return nil
}

func (w wAdmin) Forget(_ context.Context, n string) error {
	if w.procs[n].Running {
		return fmt.Errorf("%s is alive", n)
	}
	return nil
}

func (w wAdmin) Assignment(_ context.Context, key string) (Assignment, error) {
	r := w.replicas[key]
	return Assignment{Replicas: slices.Clone(r), InSync: without(r, w.lagging[key])}, nil
}

func (w wAdmin) Assign(_ context.Context, key string, replicas []string) error {
	if !w.deafTo["assign"] {
		w.replicas[key] = replicas
	}
	return nil
}

func (w wAdmin) Elect(_ context.Context, key string) error {
	if to := w.replicas[key][0]; to != w.leader[key] && !w.deafTo["elect"] {
		w.leader[key] = to
		w.epochs[key]++
	}
	return nil
}

func adminStep(t *testing.T, name, targets string) Step {
	k, shape, err := split(name)
	require.NoError(t, err)
	s := step(k.Name, shape, targets)
	s.Until = 30 * time.Second
	return s
}

func TestHonestChangesOfMembersAreProven(t *testing.T) {
	for _, c := range []struct{ fault, targets string }{
		{"membership:add", TargetOne},
		{"membership:remove", TargetOne},
		{"membership:remove", "n2"},
		{"membership:remove", TargetLeader},
		{"membership:replace", TargetFollower},
		{"membership:replace", TargetLeader},
		{"leadership:transfer", TargetLeader},
		{"leadership:flap", TargetLeader},
	} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%s of %s, seed %d", c.fault, c.targets, seed), func(t *testing.T) {
				w := newWorld(3)
				s := adminStep(t, c.fault, c.targets)
				s.Seed = seed
				replicas := fmt.Sprint(w.replicas)
				w.run(t, s)
				require.Equal(t, whole, w.stages(0), w.why(0))
				require.Empty(t, MissingProofs([]Step{s}, w.events))
				require.False(t, w.procs["spare"].Running)
				delete(w.procs, "spare") // it is to stay dead
				w.requireClean(t)
				require.Equal(t, replicas, fmt.Sprint(w.replicas), "replicas are as before")
				require.Len(t, w.members, 3)
				for _, e := range w.events {
					if e.Stage == history.Proven || e.Stage == history.StillProven || e.Stage == history.Healed {
						require.NotEmpty(t, e.Detail)
						require.NotEmpty(t, e.Proof)
					}
				}
				target := w.events[0].Targets[0]
				switch s.Shape {
				case AddNode:
					require.Equal(t, "spare", target)
				case RemoveNode, ReplaceNode:
					require.NotEqual(t, "0", w.members[target], "another node is there now")
					require.Equal(t, w.places[target], w.members[target])
				}
			})
		}
	}
}

func TestSabotagedChangesOfMembersAreNotProven(t *testing.T) {
	deaf := func(to string) func(*world) { return func(w *world) { w.deafTo[to] = true } }
	half := 15 * time.Second
	at := func(do func(w *world)) func(*world) {
		return func(w *world) { w.hooks = append(w.hooks, hook{half, func() { do(w) }}) }
	}
	for _, c := range []struct {
		name, fault, targets string
		sabotage             func(w *world)
		say                  string
	}{
		{"not admitted", "membership:add", TargetOne, deaf("admit"), "did not get through: spare did not join within 1m0s"},
		{"without replicas", "membership:add", TargetOne, deaf("assign"), "did not get through: spare did not exchange replicas"},
		{"out at half time", "membership:add", TargetOne, at(func(w *world) { delete(w.members, "spare") }), "had no effect: the new node at spare is no voter"},
		{"never leaves", "membership:add", TargetOne, at(func(w *world) { w.deafTo["expel"] = true }), "was not healed: the new node at spare is still a member"},
		{"no place", "membership:add", TargetOne, func(w *world) { w.noSpares = true }, "was not injected: there is no place for a further node"},
		{"stays a member", "membership:remove", "n2", deaf("expel"), "did not get through: n2 did not leave the quorum"},
		{"keeps its replicas", "membership:remove", "n2", deaf("assign"), "did not get through: n2 did not exchange replicas"},
		{"back at half time", "membership:remove", "n2", at(func(w *world) { w.members["n2"] = "0" }), "had no effect: the node that was at n2, of identity 0, is still a member"},
		{"does not come back", "membership:remove", "n2", at(func(w *world) { w.deafTo["admit"] = true }), "was not healed: the new node at n2 is no voter"},
		{"replicas not given back", "membership:remove", "n2", at(func(w *world) { w.deafTo["assign"] = true }), "was not healed: log-0 has replicas [n1 n3] instead of [n1 n2 n3]"},
		{"the same node again", "membership:replace", "n2", deaf("replace"), "did not get through: n2 did not join"},
		{"the disk is the old one", "membership:replace", "n2", func(w *world) { w.starting = func() { w.logs["n2"] = []byte("back") } }, "had no effect: the new node at n2 found 4 records"},
		{"another one at half time", "membership:replace", "n2", at(func(w *world) { w.members["n2"] = "0" }), "had no effect: the node that was at n2, of identity 0, is still a member"},
		{"never in sync", "membership:replace", "n2", at(func(w *world) { w.lagging["log-1"] = "n2" }), "was not healed: log-1 has 2 of 3 replicas in sync"},
		{"not whole before", "membership:replace", "n2", func(w *world) { w.lagging["log-1"] = "n3" }, "was not injected: the cluster was not whole within 1m0s: log-1 has 2 of 3"},
		{"a dead member before", "membership:remove", "n2", func(w *world) { w.die("n1", 1) }, "was not injected: the cluster was not whole within 1m0s: n1 is no live voter"},
		{"nobody tells", "membership:remove", "n2", at(func(w *world) { w.down = true }), "cannot be proven: the system did not list its members"},
		{"not elected", "leadership:transfer", TargetLeader, deaf("elect"), "did not get through: "},
		{"not preferred", "leadership:transfer", TargetLeader, deaf("assign"), "did not get through: "},
		{"an epoch of before", "leadership:transfer", TargetLeader, at(func(w *world) { clear(w.epochs) }), "had no effect: log-"},
		{"nobody else in sync", "leadership:flap", TargetLeader, func(w *world) {
			for key, r := range w.replicas {
				w.replicas[key] = r[:1]
			}
		}, "did not get through: "},
		{"order not given back", "leadership:flap", TargetLeader, at(func(w *world) { w.deafTo["assign"] = true }), "was not healed: log-"},
	} {
		t.Run(c.fault+", "+c.name, func(t *testing.T) {
			s := adminStep(t, c.fault, c.targets)
			w := newWorld(3)
			c.sabotage(w)
			require.NoError(t, Run(t.Context(), []Step{s}, w.target(), w, Limits{}))
			require.Contains(t, w.why(0), c.say)
			require.Contains(t, w.why(0), c.fault)
			require.Len(t, MissingProofs([]Step{s}, w.events), 1)
		})
	}
}

func TestChangesOfMembersChooseTheirTargets(t *testing.T) {
	nodes := []string{"n1", "n2", "n3"}
	for _, c := range []struct{ fault, targets, say string }{
		{"membership:add", "n1", `membership:add takes targets "one" alone`},
		{"membership:remove", TargetMinority, ""},
		{"membership:remove", TargetMajority, "membership:remove takes one target"},
		{"membership:replace", "n1,n2", "membership:replace takes one target"},
		{"leadership:flap", TargetOne, `leadership:flap takes targets "leader" alone`},
	} {
		err := adminStep(t, c.fault, c.targets).Validate(nodes)
		if c.say == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, c.say)
	}
	require.ErrorContains(t, adminStep(t, "membership:remove", TargetOne).Validate(nodes[:1]), "needs at least 2 nodes")
	steps, err := Generate(ScheduleConfig{Seed: 1, Faults: []string{"membership", "leadership"}, Nodes: nodes, Keys: 2, Duration: 2 * time.Minute, Detection: time.Second, Targets: "n2"})
	require.NoError(t, err)
	seen := map[string]string{}
	for _, s := range steps {
		seen[s.Name()] = s.Targets
	}
	require.Equal(t, map[string]string{
		"membership:add": TargetOne, "membership:remove": "n2", "membership:replace": "n2", "leadership:transfer": TargetLeader, "leadership:flap": TargetLeader,
	}, seen)
}
