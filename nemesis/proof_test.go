package nemesis

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

var whole = []history.FaultStage{
	history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed,
}

func step(fault string, shape Shape, targets string) Step {
	return Step{Fault: fault, Shape: shape, Targets: targets, At: time.Second, Until: 10 * time.Second, Seed: 7}
}

// run sets up and runs one schedule to its end.
func (w *world) run(t *testing.T, steps ...Step) {
	t.Helper()
	ctx := t.Context()
	require.NoError(t, Setup(ctx, steps, w.target()))
	require.NoError(t, Run(ctx, steps, w.target(), w, Limits{}))
}

func TestHonestFaultsAreProven(t *testing.T) {
	type want struct {
		targets []string
		role    string
		keys    int
		sides   int
	}
	cases := []struct {
		name  string
		nodes int
		step  Step
		want  want
	}{
		{"isolate-one", 3, step("partition", IsolateOne, "n2"), want{[]string{"n2"}, "", 0, 2}},
		{"isolate the controller", 3, step("partition", IsolateOne, TargetController), want{[]string{"n3"}, "controller", 0, 2}},
		{"isolate-leader", 3, step("partition", IsolateLeader, ""), want{nil, "leader", 1, 2}},
		{"one-way-in", 3, step("partition", OneWayIn, "n1"), want{[]string{"n1"}, "", 0, 2}},
		{"one-way-out", 3, step("partition", OneWayOut, TargetLeader), want{nil, "leader", 1, 2}},
		{"client", 3, step("partition", ClientShape, "n3"), want{[]string{"n3"}, "", 0, 0}},
		{"majority", 3, step("partition", Majority, ""), want{nil, "", 0, 2}},
		{"halves", 5, step("partition", Halves, ""), want{nil, "", 0, 2}},
		{"bridge", 5, step("partition", Bridge, ""), want{nil, "", 0, 2}},
		{"ring", 5, step("partition", Ring, ""), want{nil, "", 0, 5}},
		{"primaries", 5, step("partition", Primaries, ""), want{[]string{"n1", "n2"}, "leader", 2, 3}},
		{"kill one", 3, step("kill", "", TargetOne), want{}},
		{"kill the leader", 3, step("kill", "", TargetLeader), want{nil, "leader", 1, 0}},
		{"kill a follower", 3, step("kill", "", TargetFollower), want{nil, "follower", 1, 0}},
		{"kill followers", 3, step("kill", "", TargetFollowers), want{nil, "follower", 1, 0}},
		{"kill a minority", 5, step("kill", "", TargetMinority), want{}},
		{"kill a majority", 5, step("kill", "", TargetMajority), want{}},
		{"kill all", 3, step("kill", "", TargetAll), want{targets: []string{"n1", "n2", "n3"}}},
		{"stop two", 3, step("stop", "", "n3,n1"), want{targets: []string{"n3", "n1"}}},
		{"pause the controller", 3, step("pause", "", TargetController), want{[]string{"n3"}, "controller", 0, 0}},
		{"pause all", 3, step("pause", "", TargetAll), want{targets: []string{"n1", "n2", "n3"}}},
		{"power of one", 3, step("power", "", "n1"), want{targets: []string{"n1"}}},
		{"power of all", 3, step("power", "", TargetAll), want{targets: []string{"n1", "n2", "n3"}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(c.nodes)
			w.leader["controller"] = "n3"
			w.run(t, c.step)
			require.Equal(t, whole, w.stages(0), w.why(0))
			require.Empty(t, MissingProofs([]Step{c.step}, w.events))
			w.requireClean(t)
			first, proven := w.events[0], w.events[2]
			require.NotEmpty(t, first.Targets)
			require.Equal(t, c.step.Name(), first.Name)
			require.Equal(t, c.want.role, first.Role)
			require.Len(t, first.Keys, c.want.keys)
			require.Len(t, first.Sides, c.want.sides)
			if c.want.targets != nil {
				require.Equal(t, c.want.targets, first.Targets)
			}
			if c.want.role == "leader" {
				for _, k := range first.Keys {
					require.Contains(t, first.Targets, w.leader[k])
					require.Equal(t, w.leader[k], first.Proof["leader of "+k])
				}
			}
			if c.want.role == "follower" {
				require.NotContains(t, first.Targets, w.leader[first.Keys[0]])
			}
			require.NotEmpty(t, proven.Detail)
			require.NotEmpty(t, proven.Proof)
			require.GreaterOrEqual(t, w.events[3].At-w.events[1].At, int64(9*time.Second))
		})
	}
}

func TestSabotagedFaultsAreNotProven(t *testing.T) {
	half := 5 * time.Second
	isolate := step("partition", IsolateOne, "n1")
	cases := []struct {
		name     string
		step     Step
		sabotage func(w *world)
		say      string
	}{
		{"rules without effect", step("partition", IsolateLeader, ""), func(w *world) {
			w.applies = func(Cut) bool { return false }
		}, "partition:isolate-leader had no effect: n"},
		{"rules on one node only", isolate, func(w *world) {
			w.applies = func(c Cut) bool { return c.To == "n1" }
		}, "had no effect: n2 still received nonces from n1"},
		{"one rule of all is missing", isolate, func(w *world) {
			w.applies = func(c Cut) bool { return c != Cut{From: "n3", To: "n1"} }
		}, "n1 still received nonces from n3"},
		{"one-way cut the other way round", step("partition", OneWayIn, "n1"), func(w *world) {
			w.applies = func(Cut) bool { return false }
			w.overcut = func(p Pair) bool { return p.From == "n1" }
		}, "partition:one-way-in had no effect: n1 still received nonces from n2"},
		{"one-way cut in both directions", step("partition", OneWayIn, "n1"), func(w *world) {
			w.overcut = func(p Pair) bool { return p.From == "n1" && len(w.sets) > 0 }
		}, "cut more than it should: nothing arrived at"},
		{"client cut without effect", step("partition", ClientShape, "n2"), func(w *world) {
			w.applies = func(Cut) bool { return false }
		}, "partition:client had no effect: n2 still received nonces from clients"},
		{"client cut where clients send no nonces", step("partition", ClientShape, "n2"), func(w *world) {
			delete(w.reach, Pair{Clients, "n2"})
		}, "no nonces are counted from clients to n2"},
		{"rules gone at half time", isolate, func(w *world) {
			w.at(half, func() { w.applies = func(Cut) bool { return false } })
		}, "had no effect: n2 still received nonces from n1"},
		{"rules gone for a moment", isolate, func(w *world) {
			w.at(half, func() { w.applies = func(Cut) bool { return false } })
			w.at(half+time.Second, func() { w.applies = nil })
		}, "had no effect: n2 still received nonces from n1"},
		{"one direction healed at half time", isolate, func(w *world) {
			w.at(half, func() { w.applies = func(c Cut) bool { return c != Cut{From: "n1", To: "n3"} } })
		}, "n3 still received nonces from n1"},
		{"observer restarted", isolate, func(w *world) {
			w.at(half, func() { w.boots["n2"] = "other" })
		}, "the observer of n2 restarted since the cut (boot boot-n2, now other)"},
		{"observer gone", isolate, func(w *world) {
			w.at(half, func() { delete(w.boots, "n2") })
		}, "boot boot-n2, now none"},
		{"observer without boot id", isolate, func(w *world) { delete(w.boots, "n3") }, "the observer of n3 gave no boot id"},
		{"counters reset", isolate, func(w *world) { w.at(half, w.resetCounters) }, "the nonce counters from n1 to n2 went back"},
		{"rule counters reset", isolate, func(w *world) {
			w.at(half, func() { clear(w.drops["fault-0"]); w.silent = true })
		}, "rule counters went back"},
		{"no nonces from the start", isolate, func(w *world) { w.mute = "n1" }, "cannot be proven: n1 sent no nonces to"},
		{"no nonces any more at the end", step("partition", OneWayOut, "n1"), func(w *world) {
			delete(w.reach, Pair{"n1", Clients})
			w.at(half, func() { w.mute = "n1" })
		}, "n1 sent 0 nonces to n2 within 5s, and 5 are needed"},
		{"no traffic of the system", isolate, func(w *world) { w.silent = true }, "dropped no packet of the system itself"},
		{"never healed", isolate, func(w *world) { w.sticky = true }, "was not healed: nothing arrived at n2 from n1"},
		{"port cut without effect", Step{Fault: "partition", Shape: IsolateOne, Port: PeerPort, Targets: "n1", Until: time.Minute}, func(w *world) {
			w.applies = func(Cut) bool { return false }
		}, "dropped no packet of the system since injection"},
		{"port cut gone at half time", Step{Fault: "partition", Shape: IsolateOne, Port: PeerPort, Targets: "n1", Until: time.Minute}, func(w *world) {
			// What was counted between the first proof and the removal still proves that
			// time; counting must stop before it to be missed.
			w.at(100*time.Millisecond, func() { w.applies = func(Cut) bool { return false } })
		}, "dropped no packet of the system since its first proof"},

		{"kill without effect", step("kill", "", "n1"), func(w *world) { w.killNoop["n1"] = true }, "kill had no effect: n1 still runs with pid 101"},
		{"kill of one of two", step("kill", "", "n1,n2"), func(w *world) { w.killNoop["n2"] = true }, "n2 still runs"},
		{"killed and restarted by something", step("kill", "", "n1"), func(w *world) {
			w.at(half, func() { w.procs["n1"] = w.incarnation() })
		}, "did not last: n1 runs again"},
		{"killed, restarted and dead again", step("kill", "", "n1"), func(w *world) {
			w.at(half, func() { w.procs["n1"] = w.incarnation(); w.die("n1", 137) })
		}, "did not last: n1 was started and died again"},
		{"dead before", step("kill", "", "n1"), func(w *world) { w.die("n1", 2) }, "was not injected: n1 was dead with exit code 2"},
		{"not restarted", step("kill", "", "n1"), func(w *world) { w.crashes = true }, "was not healed within 30s: n1 is dead with exit code 3"},
		{"restart is the old incarnation", step("kill", "", "n1"), func(w *world) { w.startNoop = true }, "n1 still runs as the incarnation started s1"},
		{"restarted and silent", step("kill", "", "n1"), func(w *world) { w.deafs["n1"] = true }, "n1 runs and answers no request"},

		{"stop with exit code", step("stop", "", "n1"), func(w *world) { w.stopCode = 4 }, "stop was not graceful: n1 exited with code 4"},
		{"stop hangs", step("stop", "", "n1"), func(w *world) { w.stopHangs = true }, "n1 did not exit within 20s"},

		{"pause without effect", step("pause", "", "n1"), func(w *world) { w.pauseNoop["n1"] = true }, "pause had no effect: the engine says that n1 is running"},
		{"pause of one of two", step("pause", "", "n1,n2"), func(w *world) { w.pauseNoop["n2"] = true }, "n2 is running"},
		{"silent before the pause", step("pause", "", "n1"), func(w *world) { w.deafs["n1"] = true }, "n1 answered no request before it either"},
		{"resumed at half time", step("pause", "", "n1"), func(w *world) {
			w.at(half, func() { p := w.procs["n1"]; p.Paused = false; w.procs["n1"] = p })
		}, "the engine says that n1 is running"},
		{"replaced at half time", step("pause", "", "n1"), func(w *world) {
			w.at(half, func() { p := w.incarnation(); p.Paused = true; w.procs["n1"] = p })
		}, "n1 is no longer the process with pid 101"},
		{"paused at half time only", step("pause", "", "n1"), func(w *world) {
			w.pauseNoop["n1"] = true
			w.at(half, func() { p := w.procs["n1"]; p.Paused = true; w.procs["n1"] = p })
		}, "pause had no effect: the engine says that n1 is running"},
		{"not resumed", step("pause", "", "n1"), func(w *world) { w.sticky = true }, "was not healed within 30s: n1 is paused"},
		{"replaced by healing", step("pause", "", "n1"), func(w *world) {
			w.at(10200*time.Millisecond, func() { p := w.incarnation(); p.Paused = true; w.procs["n1"] = p })
		}, "n1 is no longer the process with pid 101"},

		{"power loss without effect on the disk", step("power", "", "n1"), func(w *world) { w.tooGentle = true }, "power had no effect: the file that was written on n1"},
		{"power loss takes synced data", step("power", "", "n1"), func(w *world) { w.tooRough = true }, "power took more than it may"},

		{"no leader", step("partition", IsolateLeader, ""), func(w *world) { clear(w.leader) }, "the system named no leader of log-"},
		{"no controller", step("kill", "", TargetController), func(*world) {}, "the system named no controller within 10s"},
		{"no partitions", step("kill", "", TargetLeader), func(w *world) { w.keys = nil }, "the workload has no partition"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(3)
			require.NoError(t, Setup(t.Context(), []Step{c.step}, w.target()))
			c.sabotage(w)
			require.NoError(t, Run(t.Context(), []Step{c.step}, w.target(), w, Limits{}))
			require.Contains(t, w.why(0), c.say)
			require.Contains(t, w.why(0), c.step.Name())
			require.Len(t, MissingProofs([]Step{c.step}, w.events), 1)
			after := false
			for _, s := range w.stages(0) {
				after = after || s == history.Unproven
				require.False(t, after && (s == history.Proven || s == history.StillProven), "a later stage claims the effect: %v", w.stages(0))
			}
		})
	}
}

// The pause must be seen by its silence too: an engine that claims it while the
// process answers is not believed.
func TestPauseThatAnswersIsNotProven(t *testing.T) {
	w := newWorld(3)
	target := w.target()
	target.Roles = chatty{wRoles{w}}
	require.NoError(t, Run(t.Context(), []Step{step("pause", "", "n1")}, target, w, Limits{}))
	require.Contains(t, w.why(0), "pause had no effect: n1 still answers requests")
}

type chatty struct{ wRoles }

func (chatty) Responds(context.Context, string, time.Duration) bool { return true }

func TestLifeCycle(t *testing.T) {
	for _, f := range []Step{step("partition", IsolateOne, "n1"), step("kill", "", "n1"), step("stop", "", "n1"), step("pause", "", "n1"), step("power", "", "n1")} {
		t.Run(f.Name(), func(t *testing.T) {
			ctx := t.Context()
			w := newWorld(3)
			require.NoError(t, Setup(ctx, []Step{f}, w.target()))
			l, err := NewLife(f, w.target(), w, Limits{})
			require.NoError(t, err)
			require.Equal(t, Ready, l.State())
			require.ErrorContains(t, l.Heal(ctx), "it is ready, not active")
			require.ErrorContains(t, l.Confirm(ctx), "it is ready, not active")
			require.Empty(t, w.events)
			require.NoError(t, l.Inject(ctx))
			require.Equal(t, Active, l.State())
			require.ErrorContains(t, l.Inject(ctx), "it is active already")
			require.NoError(t, l.Confirm(ctx))
			require.NoError(t, l.Heal(ctx))
			require.Equal(t, Spent, l.State())
			require.ErrorContains(t, l.Heal(ctx), "it is healed, not active")
			require.ErrorContains(t, l.Confirm(ctx), "it is healed, not active")
			require.ErrorContains(t, l.Inject(ctx), "it is healed already")
			require.Equal(t, whole, w.stages(0))
			require.False(t, l.Unproven())
			w.requireClean(t)
		})
	}
}

func TestEnvironmentErrorsAreReturnedAndHealed(t *testing.T) {
	broken := errors.New("engine is gone")
	cases := []struct {
		name, fail string
		step       Step
		lasting    bool
	}{
		{"block", "block", step("partition", IsolateOne, "n1"), true},
		{"observe at injection", "observe", step("partition", IsolateOne, "n1"), true},
		{"second of two kills", "kill n2", step("kill", "", "n1,n2"), true},
		{"power", "power", step("power", "", "n1"), true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(3)
			require.NoError(t, Setup(t.Context(), []Step{c.step}, w.target()))
			w.fail[c.fail] = broken
			err := Run(t.Context(), []Step{c.step}, w.target(), w, Limits{})
			require.ErrorIs(t, err, broken)
			require.ErrorContains(t, err, c.step.Name())
			w.requireClean(t)
			require.Len(t, MissingProofs([]Step{c.step}, w.events), 1)
		})
	}
}
