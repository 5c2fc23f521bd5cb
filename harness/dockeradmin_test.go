package harness

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// shared is a cluster of the reference broker in Docker, without clients, that one
// fault after another is led through.
type shared struct {
	t       *testing.T
	run     string
	env     *docker.Environment
	cluster system.Cluster
	target  nemesis.Target

	mu     sync.Mutex
	events []history.NodeEvent
	faults []history.Fault
}

func (s *shared) Event(ev any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, ev.(history.Fault))
}

// reported are the nodes' events from the nth on.
func (s *shared) reported(n int) []history.NodeEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events[n:])
}

// theSystemsOwn are the faults that a system must have been made for, each of its
// shapes with what it hits.
func theSystemsOwn() []nemesis.Step {
	var steps []nemesis.Step
	for _, f := range nemesis.Known() {
		targets := map[string]string{"clock": "n1,n2", "membership": "n2"}[f.Name]
		if targets == "" {
			continue
		}
		for _, shape := range f.Shapes {
			s := nemesis.Step{ID: len(steps), Fault: f.Name, Shape: shape.Name, Targets: targets, Until: time.Minute}
			if shape.Name == nemesis.AddNode {
				s.Targets = nemesis.TargetOne
			}
			steps = append(steps, s)
		}
	}
	return steps
}

func sharedUp(t *testing.T, sabotage sidecar.Sabotage) *shared {
	t.Helper()
	p := dockerPlan("")
	p.Steps = theSystemsOwn()
	sys, err := LookupSystem(p.System)
	require.NoError(t, err)
	s := &shared{t: t, run: docker.NewRunID()}
	spec := p.spec(s.run)
	cfg, err := sys.Docker(spec)
	require.NoError(t, err)
	cfg.Disks, cfg.Throttle = disksNeeded(p.Steps)
	cfg.Sabotage = sabotage
	s.env, err = docker.New(cfg)
	require.NoError(t, err)
	s.env.Events(func(ev history.NodeEvent) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(s.events, ev)
	})
	t.Cleanup(func() { require.NoError(t, s.env.Down(context.WithoutCancel(t.Context()))) })
	require.NoError(t, s.env.Up(t.Context()))
	s.cluster = sys.ConnectDocker(spec, s.env)
	require.NoError(t, s.cluster.Setup(t.Context()))
	s.target = nemesis.Target{
		Nodes: spec.Nodes, Clock: s.env.Runtime(), Network: s.env.Network(), Processes: s.env.Processes(), Disks: s.env.Disks(), Roles: s.cluster,
		Admin: s.cluster.Admin(), Spares: spec.Spares, Machines: s.env.Machines(),
	}
	return s
}

// live leads one fault through its life, and does something in the middle of it.
// It returns its stages, and why a proof is missing where one is.
func (s *shared) live(step nemesis.Step, limits nemesis.Limits, meanwhile func()) (stages []history.FaultStage, why string) {
	s.t.Helper()
	first := len(s.faults)
	l, err := nemesis.NewLife(step, s.target, s, limits)
	require.NoError(s.t, err)
	require.NoError(s.t, l.Inject(s.t.Context()))
	if l.State() == nemesis.Active {
		meanwhile()
		require.NoError(s.t, l.Confirm(s.t.Context()))
		require.NoError(s.t, l.Heal(s.t.Context()))
	}
	at := map[history.FaultStage]time.Duration{}
	for _, f := range s.faults[first:] {
		if f.ID != step.ID {
			continue
		}
		stages = append(stages, f.Stage)
		at[f.Stage] = time.Duration(f.At)
		if f.Stage == history.Unproven {
			why = f.Detail
		}
	}
	if slices.Equal(stages, wholeLife) {
		s.t.Logf("%s: injected in %s, proven after %s more, healed in %s", step.Name(), at[history.Injected]-at[history.Injecting],
			at[history.Proven]-at[history.Injected], at[history.Healed]-at[history.Healing])
	}
	return stages, why
}

var wholeLife = []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed}

// TestDockerMembersAndClocks leads one cluster through every change of members and
// of clocks. While a clock is wrong leaders change, and events have true times.
func TestDockerMembersAndClocks(t *testing.T) {
	needAll(t)
	s := sharedUp(t, sidecar.NoSabotage)
	for _, step := range theSystemsOwn() {
		t.Run(step.Name(), func(t *testing.T) {
			s.t = t
			stages, why := s.live(step, nemesis.Limits{}, func() {
				if step.Fault != "clock" {
					return
				}
				before, begin := len(s.reported(0)), s.env.Runtime().Now()
				move := nemesis.Step{ID: 100 + step.ID, Fault: "leadership", Shape: nemesis.TransferLeader, Targets: nemesis.TargetLeader, Until: time.Second}
				stages, why := s.live(move, nemesis.Limits{}, func() {})
				require.Equal(t, wholeLife, stages, why)
				require.Eventually(t, func() bool {
					return slices.ContainsFunc(s.reported(before), func(ev history.NodeEvent) bool { return ev.Kind == "leader" })
				}, 30*time.Second, 20*time.Millisecond, "a leader tells of itself")
				for _, ev := range s.reported(before) {
					require.Less(t, ev.At, int64(s.env.Runtime().Now()), "%+v", ev)
					require.Greater(t, ev.At+ev.Uncertainty, int64(begin-5*time.Second), "%+v", ev)
				}
			})
			require.Equal(t, wholeLife, stages, why)
		})
	}
	s.t = t

	t.Run("a clock that is right at half time", func(t *testing.T) {
		s.t = t
		for _, shape := range []nemesis.Shape{nemesis.ClockJump, nemesis.ClockDrift, nemesis.ClockStrobe} {
			step := nemesis.Step{ID: 200, Fault: "clock", Shape: shape, Targets: "n3", Until: time.Minute}
			_, why := s.live(step, nemesis.Limits{}, func() {
				require.NoError(t, s.env.Machines().Clocks.Restore(t.Context(), "n3"))
				require.Eventually(t, func() bool {
					off, err := s.env.Machines().Clocks.Offset(t.Context(), "n3")
					return err == nil && off.Abs() < 50*time.Millisecond
				}, 10*time.Second, 20*time.Millisecond)
			})
			require.Contains(t, why, step.Name()+" had no effect: the clock of n3")
		}
	})

	t.Run("nobody tells the clock of a dead or paused process", func(t *testing.T) {
		s.t = t
		for name, f := range map[string]struct {
			hit, undo func(context.Context, string) error
		}{
			"kill":  {s.env.Processes().Kill, s.env.Processes().Start},
			"pause": {s.env.Processes().Pause, s.env.Processes().Resume},
		} {
			require.NoError(t, f.hit(t.Context(), "n3"))
			step := nemesis.Step{ID: 201, Fault: "clock", Shape: nemesis.ClockJump, Targets: "n3", Until: time.Minute}
			_, why := s.live(step, nemesis.Limits{Respond: time.Second}, func() {})
			require.Contains(t, why, "clock:jump cannot be proven: n3 did not tell its clock within 1s", name)
			require.NoError(t, f.undo(t.Context(), "n3"))
		}
	})

	t.Run("a new node may be killed, and is there again", func(t *testing.T) {
		s.t = t
		step := nemesis.Step{ID: 202, Fault: "membership", Shape: nemesis.AddNode, Targets: nemesis.TargetOne, Until: time.Minute}
		stages, why := s.live(step, nemesis.Limits{}, func() {
			p := s.env.Processes()
			require.NoError(t, p.Kill(t.Context(), "n4"))
			require.NoError(t, p.Start(t.Context(), "n4"))
			require.Eventually(t, func() bool {
				members, err := s.target.Admin.Members(t.Context())
				return err == nil && slices.ContainsFunc(members, func(m nemesis.Member) bool { return m.Node == "n4" && m.Live })
			}, time.Minute, 50*time.Millisecond)
		})
		require.Equal(t, wholeLife, stages, why)
	})

	dir := t.TempDir()
	require.NoError(t, s.env.Collect(t.Context(), dir))
	for _, n := range s.env.Nodes() {
		for _, f := range []string{"stdout.log", "events.jsonl", "data.sha256"} {
			require.FileExists(t, dir+"/"+n+"/"+f)
		}
		require.True(t, slices.ContainsFunc(s.reported(0), func(ev history.NodeEvent) bool { return ev.Node == n && ev.Kind == "start" }), n)
	}
	require.NoError(t, s.env.Down(t.Context()))
	requireNothingLeft(t, s.run)
}

// deaf is an administration that takes orders and does nothing.
type deaf struct{ nemesis.Admin }

func (deaf) Assign(context.Context, string, []string) error { return nil }
func (deaf) Expel(context.Context, string, string) error    { return nil }
func (deaf) Admit(context.Context, string, string) error    { return nil }

// TestDockerMembersAndClocksStubbed: where nothing is done, nothing is proven: no
// clock is set, no new node is put in place, and no member changes.
func TestDockerMembersAndClocksStubbed(t *testing.T) {
	needAll(t)
	limits := nemesis.Limits{Admin: 10 * time.Second, Respond: 5 * time.Second}
	say := map[string]string{
		"clock:jump":         "clock:jump had no effect: the clock of n1",
		"clock:drift":        "clock:drift had no effect: the clock of n1",
		"clock:strobe":       "clock:strobe had no effect: the clock of n1",
		"membership:add":     "membership:add did not get through: n4 did not join within 10s",
		"membership:replace": "membership:replace did not get through: n2 did not join within 10s",
		// A node that leaves has nobody put in its place before it is healed.
		"membership:remove": "membership:remove was not healed",
	}
	steps := theSystemsOwn()
	require.Len(t, steps, len(say))
	var s *shared
	for _, step := range steps {
		if s == nil || step.Fault == "membership" { // whose cluster is not whole afterwards
			s = sharedUp(t, sidecar.Stubbed)
		}
		t.Run(step.Name(), func(t *testing.T) {
			s.t = t
			_, why := s.live(step, limits, func() {})
			require.Contains(t, why, say[step.Name()])
		})
	}
	s = sharedUp(t, sidecar.NoSabotage)
	s.target.Admin = deaf{s.target.Admin}
	for shape, say := range map[nemesis.Shape]string{
		nemesis.AddNode:     "did not get through: n4 did not join within 10s",
		nemesis.RemoveNode:  "did not get through: n2 did not exchange replicas within 10s",
		nemesis.ReplaceNode: "did not get through: n2 did not leave the quorum within 10s",
	} {
		t.Run("deaf to "+string(shape), func(t *testing.T) {
			s.t = t
			i := slices.IndexFunc(steps, func(s nemesis.Step) bool { return s.Shape == shape })
			_, why := s.live(steps[i], limits, func() {})
			require.Contains(t, why, say)
		})
	}
}

// TestDockerRefusesClocks: a system whose nodes cannot be told a time is not run
// under faults of clocks.
func TestDockerRefusesClocks(t *testing.T) {
	p := dockerPlan("clock:jump")
	p, err := p.Resolve()
	require.NoError(t, err)
	sys, err := LookupSystem(p.System)
	require.NoError(t, err)
	cfg, err := sys.Docker(p.spec("r"))
	require.NoError(t, err)
	require.NoError(t, tellable(p.System, cfg, p.Steps))
	cfg.Nodes[1].Clock = ""
	err = tellable("another", cfg, p.Steps)
	require.ErrorContains(t, err, "fault clock:jump: a node of system another goes by the clock of its machine")
	require.ErrorContains(t, err, "leave the fault out")
	require.NoError(t, tellable("another", cfg, nil))
	env, err := docker.New(cfg)
	require.NoError(t, err)
	require.Nil(t, env.Machines().Clocks, "nor by whoever asks the environment")
}

// TestDockerTellsTheTimeWhereAsked: a node looks for a clock only where a plan sets clocks.
func TestDockerTellsTheTimeWhereAsked(t *testing.T) {
	for fault, want := range map[string]bool{"clock": true, "kill": false} {
		p := dockerPlan("")
		p.Steps = []nemesis.Step{{Fault: fault}}
		sys, err := LookupSystem(p.System)
		require.NoError(t, err)
		cfg, err := sys.Docker(p.spec("r"))
		require.NoError(t, err)
		require.Equal(t, want, cfg.TellsTime())
		require.Equal(t, want, slices.Contains(cfg.Nodes[0].Cmd(nil, ""), "--clock"))
	}
}
