package harness

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/report"
	"github.com/faultline-mq/faultline/nemesis"
)

// good is a run that counts: valid, its one fault proven, writes after 2 s.
func good(change ...func(*Trial)) Trial {
	t := Trial{
		Seed: 1, Verdict: checker.Valid, Sentence: "No anomaly", Acknowledged: 1000, Exercised: map[string]int{"truncation": 2},
		Figures: Figures{
			Steps: []StepFigures{{
				Name: "kill", Proven: true, FailoverMS: 2000, OutageMS: 2100, RecoveryMS: 30,
				Before: Traffic{Targets: Share{Acknowledged: 100}, Others: Share{Acknowledged: 300}},
				During: Traffic{Others: Share{Acknowledged: 200, Seen: 200}},
			}},
			Leaders: Leaders{Spread: true, Back: true, Copies: 3, Wanted: 3},
		},
	}
	for _, f := range change {
		f(&t)
	}
	return t
}

func seed(n uint64) func(*Trial) { return func(t *Trial) { t.Seed = n } }
func step(f func(*StepFigures)) func(*Trial) {
	return func(t *Trial) { f(&t.Figures.Steps[0]) }
}

// withLost is a run that lost some of what was acknowledged before the fault.
func withLost(event string, targets, others int) func(*Trial) {
	return func(t *Trial) {
		t.Verdict, t.Sentence = checker.Invalid, "LOST some"
		t.Figures.Findings = append(t.Figures.Findings, Finding{checker.ClauseSurvives, checker.ClassLost, event, targets + others})
		t.Figures.Steps[0].Before.Targets.Lost, t.Figures.Steps[0].Before.Others.Lost = targets, others
	}
}

func unknown(t *Trial) {
	t.Verdict, t.Sentence = checker.Unknown, "Could not decide"
	t.Why = []checker.Reason{{Why: "the drain was not proven complete"}}
}

var loss = Sign{Verdict: "LOSS", Clause: checker.ClauseSurvives, Class: checker.ClassLost}

func TestJudgeCase(t *testing.T) {
	byTruncation, nearlyAll, few := loss, loss, loss
	byTruncation.Event = checker.EventTruncation
	nearlyAll.Window, nearlyAll.By, nearlyAll.Share = "before", "targets", 0.9
	few.AtMost = 5
	gap := Sign{Verdict: "UNAVAIL", Unavailable: "gap", Least: 1e9, Most: 4e9}
	healed := Sign{Verdict: "UNAVAIL", Unavailable: "healed"}
	unhealed := step(func(s *StepFigures) { s.FailoverMS, s.RecoveryMS = -1, 200 })
	for _, c := range []struct {
		name   string
		k      Case
		trials []Trial
		want   report.ClaimOutcome
		open   checker.Verdict // empty: valid
		why    string
		more   int // runs that it wants next, of 2 that must hold and 3 tries
	}{
		{name: "no run yet", k: Case{Safe: true}, want: report.NotExercised, open: checker.Unknown, why: "0 of 0 runs count", more: 2},
		{name: "safe in every run", k: Case{Safe: true}, trials: []Trial{good(), good(seed(2))}, want: report.Kept, why: "every run was valid"},
		{name: "safe in too few runs", k: Case{Safe: true}, trials: []Trial{good()}, want: report.NotExercised, open: checker.Unknown, why: "1 of 1 runs count, and 2 are needed", more: 1},
		{name: "one run is invalid", k: Case{Safe: true}, trials: []Trial{good(), good(seed(9), withLost("", 1, 0))}, want: report.Broken, why: "seed 9: LOST some"},
		{name: "an invalid run is worth more than an open one", k: Case{Safe: true}, trials: []Trial{good(unknown), good(seed(9), withLost("", 1, 0))}, want: report.Broken},
		{
			name: "a fault without proof", k: Case{Safe: true}, trials: []Trial{good(), good(step(func(s *StepFigures) { s.Proven = false }))},
			want: report.NotExercised, open: checker.Unknown, why: "fault 0 (kill) was not proven", more: 1,
		},
		{
			name: "a fault without proof shows no loss", k: Case{Shows: []Sign{loss}}, trials: []Trial{good(withLost("", 5, 0), step(func(s *StepFigures) { s.Proven = false }))},
			want: report.NotExercised, open: checker.Unknown, why: "was not proven", more: 1,
		},
		{
			name: "a fault that never came", k: Case{Safe: true}, trials: []Trial{good(), good(step(func(s *StepFigures) { s.Skipped = true }))},
			want: report.NotExercised, open: checker.Unknown, why: "its event did not come", more: 1,
		},
		{name: "a fault too few", k: Case{Safe: true, Plan: Plan{Steps: make([]nemesis.Step, 2)}}, trials: []Trial{good(), good()}, want: report.NotExercised, open: checker.Unknown, why: "1 of 2 faults", more: 2},
		{name: "decides nothing", k: Case{Safe: true}, trials: []Trial{good(unknown), good()}, want: report.NotExercised, open: checker.Unknown, why: "the drain was not proven complete", more: 1},
		{name: "decides nothing, as it should", k: Case{Undecided: "it stays away", Always: []Sign{gap}}, trials: []Trial{good(unknown), good(unknown)}, want: report.Kept},
		{
			name: "a harness that fails", k: Case{Safe: true}, trials: []Trial{good(func(t *Trial) { t.Verdict, t.Err = checker.HarnessError, "the worker died" }), good()},
			want: report.NotExercised, open: checker.HarnessError, why: "the worker died", more: 1,
		},
		{name: "no more runs than twice as many", k: Case{Safe: true}, trials: []Trial{good(unknown), good(unknown), good(unknown), good(unknown)}, want: report.NotExercised, open: checker.Unknown},

		{name: "lost", k: Case{Shows: []Sign{loss}}, trials: []Trial{good(withLost("", 3, 0))}, want: report.LossReproduced, why: "3 lost"},
		{name: "lost at the second try", k: Case{Shows: []Sign{loss}}, trials: []Trial{good(), good(seed(2), withLost("", 3, 0))}, want: report.LossReproduced},
		{name: "not lost", k: Case{Shows: []Sign{loss}}, trials: []Trial{good(), good(seed(2))}, want: report.NotExercised, open: checker.Unknown, why: "not seen in 2 runs; seed 2 did not show it: 0 lost", more: 1},
		{name: "not lost in all tries", k: Case{Shows: []Sign{loss}}, trials: []Trial{good(), good(), good()}, want: report.NotExercised, open: checker.Unknown},
		{name: "lost by the event", k: Case{Shows: []Sign{byTruncation}}, trials: []Trial{good(withLost(checker.EventTruncation, 3, 0))}, want: report.LossReproduced, why: "3 lost by truncation"},
		{
			name: "lost by another event", k: Case{Shows: []Sign{byTruncation}}, trials: []Trial{good(withLost(checker.EventUnclean, 3, 0))},
			want: report.NotExercised, open: checker.Unknown, why: "0 lost by truncation (by unclean-election)", more: 1,
		},
		{
			name: "lost by no known event", k: Case{Shows: []Sign{byTruncation}}, trials: []Trial{good(withLost("", 3, 0))},
			want: report.NotExercised, open: checker.Unknown, why: "by no known event", more: 1,
		},
		{
			name: "of another clause", k: Case{Shows: []Sign{loss}}, trials: []Trial{good(func(t *Trial) {
				t.Figures.Findings = []Finding{{checker.ClauseDirtyRead, checker.ClassDirtyRead, "", 3}}
			})},
			want: report.NotExercised, open: checker.Unknown, more: 1,
		},
		{name: "nearly all", k: Case{Shows: []Sign{nearlyAll}}, trials: []Trial{good(withLost("", 90, 0))}, want: report.LossReproduced, why: "90 of 100 lost (90 %) that were acknowledged before fault 0 by its targets"},
		{name: "not nearly all", k: Case{Shows: []Sign{nearlyAll}}, trials: []Trial{good(withLost("", 89, 0))}, want: report.NotExercised, open: checker.Unknown, more: 1},
		{name: "those of other nodes", k: Case{Shows: []Sign{nearlyAll}}, trials: []Trial{good(withLost("", 0, 300))}, want: report.NotExercised, open: checker.Unknown, more: 1},
		{name: "few", k: Case{Shows: []Sign{few}}, trials: []Trial{good(withLost("", 5, 0))}, want: report.LossReproduced},
		{name: "not few", k: Case{Shows: []Sign{few}}, trials: []Trial{good(withLost("", 6, 0))}, want: report.NotExercised, open: checker.Unknown, more: 1},
		{
			name: "two things in two runs are not shown together", k: Case{Shows: []Sign{loss, healed}}, trials: []Trial{good(withLost("", 3, 0)), good(seed(2), unhealed)},
			want: report.NotExercised, open: checker.Unknown, more: 1,
		},
		{name: "what may never happen", k: Case{Shows: []Sign{loss}, Never: []Sign{{Reached: "truncation"}}}, trials: []Trial{good(withLost("", 3, 0))}, want: report.Broken, why: "it may never happen, and did: truncation reached 2 times"},

		{name: "the gap", k: Case{Safe: true, Always: []Sign{gap}}, trials: []Trial{good(), good()}, want: report.Kept, why: "writes again 2s into fault 0"},
		{name: "the gap is too long", k: Case{Safe: true, Always: []Sign{gap}}, trials: []Trial{good(), good(step(func(s *StepFigures) { s.FailoverMS = 4001 }))}, want: report.Broken, why: "4.001s"},
		{name: "the gap is too short", k: Case{Safe: true, Always: []Sign{gap}}, trials: []Trial{good(), good(step(func(s *StepFigures) { s.FailoverMS, s.OutageMS = 999, 999 }))}, want: report.Broken},
		{name: "the gap began while the fault was injected", k: Case{Safe: true, Always: []Sign{gap}}, trials: []Trial{good(), good(step(func(s *StepFigures) { s.FailoverMS, s.OutageMS = 100, 1000 }))}, want: report.Kept},
		{
			name: "the gap may be longer than it looks", k: Case{Safe: true, Always: []Sign{gap}}, trials: []Trial{good(), good(step(func(s *StepFigures) { s.FailoverMS, s.OutageMS, s.StalledMS = 100, 900, 100 }))},
			want: report.NotExercised, open: checker.Unknown, why: "the harness stood still for 100ms", more: 1,
		},
		{name: "the gap is too short all the same", k: Case{Safe: true, Always: []Sign{gap}}, trials: []Trial{good(), good(step(func(s *StepFigures) { s.FailoverMS, s.OutageMS, s.StalledMS = 100, 899, 100 }))}, want: report.Broken},
		{name: "no gap but until healing", k: Case{Safe: true, Always: []Sign{gap}}, trials: []Trial{good(unhealed)}, want: report.Broken, why: "no write until fault 0 was healed"},
		{name: "until healing", k: Case{Safe: true, Always: []Sign{healed}}, trials: []Trial{good(unhealed), good(unhealed)}, want: report.Kept},
		{name: "before healing", k: Case{Safe: true, Always: []Sign{healed}}, trials: []Trial{good()}, want: report.Broken, why: "missing: writes again 2s into fault 0"},
		{
			name: "never again", k: Case{Safe: true, Always: []Sign{healed}}, trials: []Trial{good(step(func(s *StepFigures) { s.FailoverMS, s.RecoveryMS = -1, -1 }))},
			want: report.Broken, why: "nor after it",
		},
		{
			name: "for good", k: Case{Always: []Sign{{Unavailable: "forever"}}}, trials: []Trial{good(step(func(s *StepFigures) { s.RecoveryMS = -1 })), good(step(func(s *StepFigures) { s.RecoveryMS = -1 }))},
			want: report.Kept,
		},
		{name: "not for good", k: Case{Always: []Sign{{Unavailable: "forever"}}}, trials: []Trial{good()}, want: report.Broken},

		{name: "no traffic", k: Case{Safe: true, Always: []Sign{{Traffic: "none", Window: "during", By: "targets"}}}, trials: []Trial{good(), good()}, want: report.Kept, why: "0 acknowledged during fault 0 by its targets"},
		{name: "some traffic", k: Case{Safe: true, Always: []Sign{{Traffic: "none", Window: "during"}}}, trials: []Trial{good()}, want: report.Broken, why: "200 acknowledged during fault 0"},
		{name: "traffic of others", k: Case{Safe: true, Always: []Sign{{Traffic: "some", Window: "during", By: "others"}}}, trials: []Trial{good(), good()}, want: report.Kept},
		{name: "unseen where nothing was sent", k: Case{Safe: true, Always: []Sign{{Traffic: "unseen", Window: "during", By: "targets"}}}, trials: []Trial{good()}, want: report.Broken},
		{name: "seen", k: Case{Safe: true, Always: []Sign{{Traffic: "unseen", Window: "during", By: "others"}}}, trials: []Trial{good()}, want: report.Broken, why: "200 of them delivered"},
		{name: "unseen", k: Case{Safe: true, Always: []Sign{{Traffic: "unseen", Window: "before", By: "others"}}}, trials: []Trial{good(), good()}, want: report.Kept},

		{name: "stale", k: Case{Shows: []Sign{{Verdict: "STALE", Traffic: "stale", Window: "during", By: "others"}}}, trials: []Trial{good(step(func(s *StepFigures) { s.During.Others.Stale = 4 }))}, want: report.LossReproduced, why: "4 polls saw less"},
		{
			name: "stale at another node", k: Case{Shows: []Sign{{Traffic: "stale", Window: "during", By: "others"}}}, trials: []Trial{good(step(func(s *StepFigures) { s.During.Targets.Stale = 4 }))},
			want: report.NotExercised, open: checker.Unknown, more: 1,
		},

		{name: "leaders", k: Case{Safe: true, Always: []Sign{{Leaders: "spread"}, {Leaders: "back"}, {Leaders: "copies"}}}, trials: []Trial{good(), good()}, want: report.Kept, why: "leaders spread evenly"},
		{name: "a leader elsewhere", k: Case{Safe: true, Always: []Sign{{Leaders: "back"}}}, trials: []Trial{good(func(t *Trial) { t.Figures.Leaders.Back = false })}, want: report.Broken},
		{name: "a copy too few", k: Case{Safe: true, Always: []Sign{{Leaders: "copies"}}}, trials: []Trial{good(func(t *Trial) { t.Figures.Leaders.Copies = 2 })}, want: report.Broken, why: "at least 2 of 3 copies"},
		{name: "a rule that was not met", k: Case{Safe: true, Always: []Sign{{Reached: "isr-alone"}}}, trials: []Trial{good()}, want: report.Broken, why: "isr-alone not reached"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.k.Plan.Steps == nil {
				c.k.Plan.Steps = make([]nemesis.Step, 1)
			}
			p := &proof{Case: &c.k, trials: c.trials}
			v := p.judge(2)
			require.Equal(t, c.want, v.outcome, v.why)
			require.Contains(t, v.why, c.why)
			open := c.open
			if open == "" {
				open = checker.Valid
			}
			require.Equal(t, open, v.open)
			require.Equal(t, c.more, p.more(2, 3))
		})
	}
	unfit := &proof{Case: &Case{Safe: true}, unfit: "scheme x is not built yet"}
	require.Zero(t, unfit.more(2, 3))
	v := unfit.judge(2)
	require.Equal(t, report.NotExercised, v.outcome)
	require.Equal(t, checker.Valid, v.open, "nobody could have decided it")
}

// TestBest: the run that lost most shows a loss best, the one with the longest gap
// anything else.
func TestBest(t *testing.T) {
	k := &Case{Shows: []Sign{loss}, Plan: Plan{Steps: make([]nemesis.Step, 1)}}
	p := &proof{Case: k, trials: []Trial{good(withLost("", 3, 0)), good(seed(2), withLost("", 9, 0)), good(seed(3))}}
	require.EqualValues(t, 2, p.judge(1).best.Seed)
	k = &Case{Safe: true, Plan: Plan{Steps: make([]nemesis.Step, 1)}}
	p = &proof{Case: k, trials: []Trial{good(), good(seed(2), func(t *Trial) { t.Figures.UnavailableMS = 70 }), good(seed(3))}}
	require.EqualValues(t, 2, p.judge(3).best.Seed)
	require.Len(t, p.judge(3).counted, 3)
}

func TestSumOfCases(t *testing.T) {
	kept := verdict{outcome: report.Kept, why: "held", open: checker.Valid}
	lost := verdict{outcome: report.LossReproduced, why: "lost", open: checker.Valid}
	broken := verdict{outcome: report.Broken, why: "broke", open: checker.Valid}
	open := verdict{outcome: report.NotExercised, why: "undecided", open: checker.Unknown}
	failed := verdict{outcome: report.NotExercised, why: "failed", open: checker.HarnessError}
	unbuilt := verdict{outcome: report.NotExercised, why: "not built", open: checker.Valid}
	observed := &Observed{Reason: "r", Seed: 1}
	for _, c := range []struct {
		name     string
		observed *Observed
		cases    []verdict
		want     report.ClaimOutcome
		why      string
		open     checker.Verdict
	}{
		{"all kept", nil, []verdict{kept, kept}, report.Kept, "a: held. b: held", checker.Valid},
		{"one lost, as it should", nil, []verdict{kept, lost}, report.LossReproduced, "a: held. b: lost", checker.Valid},
		{"one broken", nil, []verdict{open, broken}, report.Broken, "b: broke", checker.Valid},
		{"one open", nil, []verdict{lost, open}, report.NotExercised, "b: undecided", checker.Unknown},
		{"one not built", nil, []verdict{unbuilt, lost}, report.NotExercised, "a: not built", checker.Valid},
		{"the harness failed", nil, []verdict{open, failed}, report.NotExercised, "a: undecided", checker.HarnessError},
		{"otherwise, as observed", observed, []verdict{kept, lost}, report.Differs, "a: held. b: lost", checker.Valid},
		{"not even as observed", observed, []verdict{kept, broken}, report.Broken, "b: broke", checker.Valid},
		{"otherwise, and not seen", observed, []verdict{kept, open}, report.NotExercised, "b: undecided", checker.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			claim := Claim{Observed: c.observed, Cases: []Case{{Name: "a"}, {Name: "b"}}}
			outcome, why, open := claim.sum(c.cases)
			require.Equal(t, c.want, outcome)
			require.Equal(t, c.why, why)
			require.Equal(t, c.open, open)
		})
	}
}
