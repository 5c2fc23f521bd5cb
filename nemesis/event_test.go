package nemesis

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// told is what nodes report, on the world's clock.
type told struct {
	w      *world
	events []history.NodeEvent
}

func (t *told) Since(n int) []history.NodeEvent { return t.events[n:] }

func (t *told) tell(at time.Duration, e history.NodeEvent) {
	t.w.at(at, func() {
		e.At = int64(t.w.now)
		t.events = append(t.events, e)
	})
}

func waiting(when Event, after time.Duration, targets string) Step {
	return Step{Fault: "kill", Targets: targets, When: when, After: after, At: 2 * time.Second, Until: 7 * time.Second, Seed: 1}
}

func leaderEvent(node string) history.NodeEvent {
	return history.NodeEvent{Node: node, Kind: "leader", Key: "log-0", Epoch: 4, Leader: node, ISR: []string{node}}
}

// A step that waits for an event is injected the asked time after it, on the node
// that it is about, says so, and lasts its whole length.
func TestStepsWaitForTheirEvent(t *testing.T) {
	for _, tc := range []struct {
		name    string
		when    Event
		targets string
		event   history.NodeEvent
		want    []string
	}{
		{"the new leader", LeaderChange, TargetEvent, leaderEvent("n2"), []string{"n2"}},
		{"another than the new leader", LeaderChange, TargetOther, leaderEvent("n2"), nil},
		{"a name", LeaderChange, "n1", leaderEvent("n2"), []string{"n1"}},
		{"a follower", FollowerChange, TargetEvent, history.NodeEvent{Node: "n3", Kind: "follower", Key: "log-0"}, []string{"n3"}},
		{"a smaller in-sync set", InSyncShrink, TargetEvent, history.NodeEvent{Node: "n3", Kind: "isr", Key: "log-1", ISR: []string{"n3"}}, []string{"n3"}},
		{"a larger in-sync set", InSyncExpand, TargetEvent, history.NodeEvent{Node: "n3", Kind: "isr", Key: "log-1", ISR: []string{"n1", "n2", "n3"}}, []string{"n3"}},
		{"a truncation", Truncation, TargetEvent, history.NodeEvent{Node: "n1", Kind: "truncate", Key: "log-0"}, []string{"n1"}},
		{"a start", NodeStart, TargetEvent, history.NodeEvent{Node: "n1", Kind: "start"}, []string{"n1"}},
		{"another controller", ControllerChange, TargetEvent, history.NodeEvent{Node: "n1", Kind: "controller", Leader: "n3"}, []string{"n3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(3)
			ev := &told{w: w}
			ev.tell(time.Second, history.NodeEvent{Node: "n3", Kind: "leader", Key: "log-1", ISR: []string{"n1", "n3"}}) // before it waits
			ev.tell(3*time.Second, history.NodeEvent{Node: "n1", Kind: "hw"})
			ev.tell(4*time.Second, tc.event)
			ev.tell(4*time.Second, tc.event) // it fires once
			target := w.target()
			target.Events = ev
			steps := []Step{waiting(tc.when, 10*time.Millisecond, tc.targets)}
			require.NoError(t, Run(t.Context(), steps, target, w, Limits{}))
			require.Empty(t, MissingProofs(steps, w.events))
			var injected, healing time.Duration
			for _, f := range w.events {
				switch f.Stage {
				case history.Injecting:
					require.Contains(t, f.Proof["event"], string(tc.when))
					require.Equal(t, "10ms", f.Proof["after"])
					if tc.want != nil {
						require.Equal(t, tc.want, f.Targets)
					} else {
						require.NotContains(t, f.Targets, tc.event.Node)
						require.Len(t, f.Targets, 1)
					}
				case history.Injected:
					injected = time.Duration(f.At)
				case history.Healing:
					healing = time.Duration(f.At)
				}
			}
			require.InDelta(t, 4.01, injected.Seconds(), 0.003)
			require.InDelta(t, 5, (healing - injected).Seconds(), 0.01)
			w.requireClean(t)
		})
	}
}

// Where the event does not come nothing is injected, that is recorded, and what
// was planned to come after it comes.
func TestEventThatNeverComes(t *testing.T) {
	w := newWorld(3)
	ev := &told{w: w}
	ev.tell(time.Second, leaderEvent("n2"))   // too early
	ev.tell(8*time.Second, leaderEvent("n2")) // too late
	target := w.target()
	target.Events = ev
	steps := []Step{
		waiting(LeaderChange, 0, TargetEvent),
		{ID: 1, Fault: "pause", Targets: "n3", At: 5 * time.Second, Until: 6 * time.Second}, // meanwhile
		{ID: 2, Fault: "kill", Targets: "n1", At: 8 * time.Second, Until: 10 * time.Second},
	}
	require.NoError(t, Run(t.Context(), steps, target, w, Limits{}))
	require.Equal(t, []history.FaultStage{history.Skipped}, w.stages(0))
	require.Contains(t, w.events[len(w.events)-1].Name, "kill")
	for _, f := range w.events {
		if f.Stage == history.Skipped {
			require.Equal(t, "kill was not injected: no leader-change came within 5s", f.Detail)
			require.InDelta(t, 7, time.Duration(f.At).Seconds(), 0.01)
		}
	}
	for _, id := range []int{1, 2} {
		require.Contains(t, w.stages(id), history.Healed)
	}
	require.Empty(t, MissingProofs(steps, w.events))
	w.requireClean(t)
}

// A run that ends early injects no more, whatever a step waits for, and heals what is
// active with its proofs.
func TestRunThatEndsEarly(t *testing.T) {
	w := newWorld(3)
	target := w.target()
	target.Events = &told{w: w}
	steps := []Step{
		{ID: 0, Fault: "kill", Targets: "n1", At: time.Second, Until: 2 * time.Second},
		{ID: 1, Fault: "pause", Targets: "n3", At: 4 * time.Second, Until: 60 * time.Second},
		{ID: 2, Fault: "kill", Targets: "n2", At: 70 * time.Second, Until: 80 * time.Second},
		{ID: 3, Fault: "kill", Targets: TargetEvent, When: LeaderChange, At: 3 * time.Second, Until: 90 * time.Second, Seed: 1},
	}
	end := 10 * time.Second
	require.NoError(t, Run(t.Context(), steps, target, w, Limits{Stop: func() bool { return w.now >= end }}))
	for _, id := range []int{0, 1} {
		require.Equal(t, []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed}, w.stages(id))
	}
	for _, id := range []int{2, 3} {
		require.Equal(t, []history.FaultStage{history.Skipped}, w.stages(id))
	}
	for _, f := range w.events {
		switch {
		case f.Stage == history.Skipped:
			require.Equal(t, "kill was not injected: the run ended early", f.Detail)
		case f.ID == 0 && f.Stage == history.Healing:
			require.Less(t, time.Duration(f.At), 3*time.Second, "what ends before is not touched")
		}
	}
	require.Less(t, w.now, 20*time.Second)
	require.Empty(t, MissingProofs(steps, w.events))
	w.requireClean(t)
}

// A step may wait longer than it lasts. What has a time of its own is not kept
// waiting by that, but by the fault once it is there.
func TestWaitingLong(t *testing.T) {
	w := newWorld(3)
	ev := &told{w: w}
	ev.tell(7*time.Second, leaderEvent("n2"))
	target := w.target()
	target.Events = ev
	long := waiting(LeaderChange, 0, TargetEvent)
	long.Within = time.Minute
	steps := []Step{
		long,
		{ID: 1, Fault: "kill", Targets: "n3", At: 3 * time.Second, Until: 5 * time.Second},
		{ID: 2, Fault: "kill", Targets: "n2", At: 8 * time.Second, Until: 10 * time.Second},
	}
	require.NoError(t, Run(t.Context(), steps, target, w, Limits{}))
	require.Empty(t, MissingProofs(steps, w.events))
	at := map[int]map[history.FaultStage]float64{}
	for _, f := range w.events {
		if at[f.ID] == nil {
			at[f.ID] = map[history.FaultStage]float64{}
		}
		at[f.ID][f.Stage] = time.Duration(f.At).Seconds()
	}
	require.InDelta(t, 3, at[1][history.Injecting], 0.01)
	require.InDelta(t, 7, at[0][history.Injected], 0.01)
	require.InDelta(t, 12, at[0][history.Healing], 0.01)
	require.GreaterOrEqual(t, at[2][history.Injecting], at[0][history.Healed])
	w.requireClean(t)
}

// An event may come while its target is under another fault: then the step is
// skipped, and takes nothing from the other.
func TestEventAtAWrongMoment(t *testing.T) {
	kill, cut := waiting(LeaderChange, 0, TargetEvent), waiting(LeaderChange, 0, TargetEvent)
	cut.Fault, cut.Shape = "partition", IsolateOne
	paused := Step{ID: 1, Fault: "pause", Targets: "n2", At: time.Second, Until: 6 * time.Second}
	for _, tc := range []struct {
		name           string
		planned, event Step
	}{
		{"kill a paused process", paused, kill},
		{"cut links of a paused process", paused, cut},
		{"cut links that are cut", Step{ID: 1, Fault: "partition", Shape: IsolateOne, Targets: "n2", At: time.Second, Until: 6 * time.Second}, cut},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(3)
			ev := &told{w: w}
			ev.tell(4*time.Second, leaderEvent("n2"))
			target := w.target()
			target.Events = ev
			steps := []Step{tc.planned, tc.event}
			require.NoError(t, Run(t.Context(), steps, target, w, Limits{}))
			require.Contains(t, w.stages(0), history.Skipped)
			require.NotContains(t, w.stages(0), history.Unproven)
			require.NotContains(t, w.stages(0), history.Injected)
			require.Contains(t, w.stages(1), history.Healed)
			require.Empty(t, MissingProofs(steps, w.events))
			w.requireClean(t)
		})
	}
}

// A change of members or leaders is taken back when the fault that an event brought
// meanwhile is over: it needs all nodes for that.
func TestChangesAreTakenBackInAWholeCluster(t *testing.T) {
	for fault, targets := range map[string]string{"membership:add": TargetOne, "leadership:flap": TargetLeader} {
		w := newWorld(3)
		ev := &told{w: w}
		ev.tell(25*time.Second, leaderEvent("n2"))
		target := w.target()
		target.Events = ev
		long := waiting(LeaderChange, 0, TargetEvent)
		long.ID, long.At, long.Until, long.Within = 1, 20*time.Second, 35*time.Second, 8*time.Second
		steps := []Step{adminStep(t, fault, targets), long}
		require.NoError(t, Run(t.Context(), steps, target, w, Limits{}))
		require.Empty(t, MissingProofs(steps, w.events))
		at := map[int]map[history.FaultStage]int64{0: {}, 1: {}}
		for _, f := range w.events {
			at[f.ID][f.Stage] = f.At
		}
		require.Less(t, time.Duration(at[1][history.Injected]), 30*time.Second)
		require.GreaterOrEqual(t, at[0][history.Healing], at[1][history.Healed], fault)
	}
}

func TestEventsAreChecked(t *testing.T) {
	good := waiting(LeaderChange, time.Second, TargetEvent)
	require.NoError(t, good.Validate(names(3)))
	for _, tc := range []struct {
		want string
		do   func(*Step)
	}{
		{`unknown event "moon"`, func(s *Step) { s.When = "moon" }},
		{"waits for none", func(s *Step) { s.When = "" }},
		{"waits for none", func(s *Step) { s.When, s.After = "", 0 }},
		{"and names none", func(s *Step) { s.When, s.After, s.Within = "", 0, time.Second }},
		{"it is 0s or more", func(s *Step) { s.Within = -1 }},
		{"from 0s to its own length", func(s *Step) { s.After = 6 * time.Second }},
		{"from 0s to its own length", func(s *Step) { s.After = -1 }},
	} {
		s := good
		tc.do(&s)
		require.ErrorContains(t, s.Validate(names(3)), tc.want)
	}
	w := newWorld(3)
	require.ErrorIs(t, Check(w.target(), []Step{good}), ErrUnsupported, "nobody tells it of events")
}
