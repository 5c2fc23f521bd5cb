package checker

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// good is a conclusive run: baseline, one fault on the leader, recovery.
const good = `
	phase baseline 0
	p0.1 10-20 @0
	phase fault 100
	fault 0 kill:leader n1 100-200 role=leader keys=t-0
	p0.2 110-130 ?
	p0.3 140-150 n2 @1
	phase recovery 300
	p0.4 310-320 n2 @2
	phase drain 400
	log n2* p0.1 p0.3 p0.4`

// strict asks for one operation of each kind.
func strict() Options {
	return Options{MinBaselineOK: 1, MinRecoveryOK: 1, MinFaultAttempts: 1, MinRecoveryAttempts: 1}
}

func run(t *testing.T, h *history.History, o Options) *Result {
	t.Helper()
	r, err := Run(context.Background(), h, o)
	require.NoError(t, err)
	return r
}

func TestValidRun(t *testing.T) {
	r := run(t, parse(t, good), strict())
	require.Equal(t, Valid, r.Verdict, "%v", r.WhyInconclusive)
	require.Equal(t, 0, r.Verdict.ExitCode())
	require.Equal(t, "No anomaly in 3 acknowledged messages; 1 fault proven", r.Sentence)
	require.Empty(t, r.WhyInconclusive)
	require.Equal(t, 3, r.Counts.OK)
	require.Equal(t, 1, r.Counts.Indeterminate)
	require.Equal(t, PhaseCounts{Sends: 2, Acknowledged: 1, OK: 1, Indeterminate: 1}, r.Counts.Phases["fault"])
	require.Contains(t, r.NotChecked[0], "1 indeterminate operation")
	require.Contains(t, r.NotChecked, "fresh-reads: not promised by this configuration")
	require.Equal(t, "exact log procedure, agreed by Porcupine on 1 partition", clause(t, r, ClauseLinearizable).Procedure)
}

// TestInconclusive: each run lacks one proof, and says which and what to change.
func TestInconclusive(t *testing.T) {
	stage := func(s history.FaultStage) func(*history.History) {
		return func(h *history.History) {
			for i := range h.Faults {
				if h.Faults[i].Stage == s {
					h.Faults = append(h.Faults[:i:i], h.Faults[i+1:]...)
					return
				}
			}
		}
	}
	for _, tc := range []struct {
		name    string
		why     string
		options func(*Options)
		change  func(*history.History)
	}{
		{name: "not closed", why: "without its closing entry", change: func(h *history.History) { h.Closed = false }},
		{name: "never injected", why: "fault 0 (kill:leader) on n1 was never injected", change: stage(history.Injected)},
		{name: "no proof after injection", why: "fault 0 (kill:leader) on n1 had no effect that was proven right after", change: stage(history.Proven)},
		{name: "no proof before healing", why: "had no effect that was proven right before its healing", change: stage(history.StillProven)},
		{name: "not healed", why: "was not proven to be healed", change: stage(history.Healed)},
		{name: "unproven", why: "fault 0 (kill:leader) on n1 had no proven effect: counters", change: func(h *history.History) {
			h.Faults = append(h.Faults, history.Fault{ID: 0, Name: "kill:leader", Stage: history.Unproven, At: 2e8, Targets: []string{"n1"}, Detail: "counters"})
		}},
		{name: "no role", why: "does not show that its target held the role of leader", change: func(h *history.History) {
			for i := range h.Faults {
				h.Faults[i].Role = ""
			}
		}},
		{name: "no partition led", why: "does not name the partition", change: func(h *history.History) {
			for i := range h.Faults {
				h.Faults[i].Keys = nil
			}
		}},
		{name: "no target", why: "fault 0 (kill:leader) had no target", change: func(h *history.History) {
			for i := range h.Faults {
				h.Faults[i].Targets = nil
			}
		}},
		{name: "quiet baseline", why: "the baseline phase saw 1 send acknowledged, fewer than 2", options: func(o *Options) { o.MinBaselineOK = 2 }},
		{name: "quiet recovery", why: "the recovery phase saw 1 send acknowledged, fewer than 5", options: func(o *Options) { o.MinRecoveryOK = 5 }},
		{name: "quiet fault", why: "2 sends were attempted on an affected node and partition, fewer than 3", options: func(o *Options) { o.MinFaultAttempts = 3 }},
		// One of the two sends of the fault phase went to the leader that was cut off.
		{name: "nobody stayed with the leader", why: "1 send was attempted on an affected node and partition, fewer than 2", options: func(o *Options) { o.MinFaultAttempts = 2 }, change: func(h *history.History) {
			for i := range h.Faults {
				h.Faults[i].Name = "partition:isolate-leader"
			}
		}},
		{name: "nobody sent to the led partition", why: "no sends were attempted on an affected node and partition", change: func(h *history.History) {
			h.Header.Keys = append(h.Header.Keys, "t-1")
			for i := range h.Faults {
				h.Faults[i].Keys = []string{"t-1"}
			}
		}},
		{name: "stages out of order", why: "was healed at 0.001 s, before it was healing at 0.200 s", change: func(h *history.History) {
			h.Faults[len(h.Faults)-1].At = 1e6
		}},
		{name: "one event missing", why: "events are missing: 1 of the events 1 to 2 of n1 (incarnation a)", change: func(h *history.History) {
			h.Header.Contract.Epochs = true
			h.Events = []history.NodeEvent{{Node: "n1", Incarnation: "a", Seq: 2, Kind: "leader", Key: "t-0", Epoch: 1}}
		}},
		{name: "the copied log has another digest", why: "the log of n1 did not reach the sentinel", change: func(h *history.History) {
			h.Replicas[1].Digest = "other"
		}},
		{name: "two leaders drained", why: "n2 and n1 were all drained as the leader", change: func(h *history.History) { h.Replicas[1].Leader = true }},
		{name: "drain incomplete", why: "the drain of partition t-0 was not proven complete: n3 lags", change: func(h *history.History) {
			h.Drains[0].Complete, h.Drains[0].Reason = false, "n3 lags"
		}},
		{name: "drain noisy", why: "workload connections were still open", change: func(h *history.History) { h.Drains[0].Quiet = false }},
		{name: "drain unsynced", why: "not all replicas were in sync", change: func(h *history.History) { h.Drains[0].InSync = false }},
		{name: "no sentinel", why: "no sentinel", change: func(h *history.History) {
			for i := range h.Replicas {
				h.Replicas[i].Sentinel = history.NoOffset
			}
		}},
		{name: "no leader drained", why: "no leader was among the drained replicas", change: func(h *history.History) {
			h.Replicas[0].Leader = false
		}},
		{name: "replica in another epoch", why: "n2 was drained in epoch 1 and n1 in epoch 7", change: func(h *history.History) {
			h.Replicas[1].Epoch = 7
		}},
		{name: "the copied log is missing", why: "the log of n1 did not reach the sentinel", change: func(h *history.History) {
			h.Replicas[1].Same = "n9"
		}},
		{name: "not drained", why: "it was not drained", change: func(h *history.History) { h.Drains, h.Replicas = nil, nil }},
		{name: "drained before healing", why: "its drain was taken before the last fault was healed", change: func(h *history.History) { h.Drains[0].At = 1e8 }},
		{name: "trimmed", why: "its log was trimmed to offset 1", change: func(h *history.History) {
			for i := range h.Replicas {
				h.Replicas[i].Start = 1
				if h.Replicas[i].Same == "" {
					h.Replicas[i].Records = h.Replicas[i].Records[1:]
				}
			}
		}},
		{name: "no leader event", why: "no node reported that it led", change: func(h *history.History) { h.Header.Contract.Epochs = true }},
		{name: "event gap", why: "events are missing: 2 of the events 1 to 4 of n1 (incarnation a)", change: func(h *history.History) {
			h.Header.Contract.Epochs = true
			h.Events = []history.NodeEvent{
				{Node: "n1", Incarnation: "a", Seq: 1, Kind: "leader", Key: "t-0", Epoch: 1},
				{Node: "n1", Incarnation: "a", Seq: 4, Kind: "hw", Key: "t-0", Epoch: 1},
			}
		}},
		{name: "a value sent twice", why: "sent more than once", change: func(h *history.History) {
			again := h.Ops[0]
			again.ID = int64(len(h.Ops))
			h.Ops = append(h.Ops, again)
		}},
		{name: "no recovery phase", why: "the run has no recovery phase", change: func(h *history.History) { h.Phases = h.Phases[:2] }},
		{name: "recovery without attempts", why: "partition t-0 saw 1 send in the recovery phase", options: func(o *Options) { o.MinRecoveryAttempts = 2 }, change: func(h *history.History) {
			h.Ops[3].Outcome, h.Ops[3].Acked = history.Indeterminate, false
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, o := parse(t, good), strict()
			if tc.change != nil {
				tc.change(h)
			}
			if tc.options != nil {
				tc.options(&o)
			}
			r := run(t, h, o)
			require.Equal(t, Unknown, r.Verdict, "%s", r.Sentence)
			require.Equal(t, 2, r.Verdict.ExitCode())
			require.Contains(t, r.Sentence, "Could not decide: ")
			all := ""
			for _, why := range r.WhyInconclusive {
				require.NotEmpty(t, why.Change)
				all += why.Why + "\n"
			}
			require.Contains(t, all, tc.why)
		})
	}
}

// TestViolationIsNeverHidden: the same shortcomings do not turn a lost message
// into an inconclusive run.
func TestViolationIsNeverHidden(t *testing.T) {
	lost := func(h *history.History) {
		h.Replicas[0].Records = h.Replicas[0].Records[1:]
	}
	for name, change := range map[string]func(*history.History){
		"not closed":    func(h *history.History) { h.Closed = false },
		"unproven":      func(h *history.History) { h.Faults = h.Faults[:2] },
		"replica lags":  func(h *history.History) { h.Replicas[2].Complete, h.Drains[0].Complete = false, false },
		"event gap":     func(h *history.History) { h.Events = []history.NodeEvent{{Node: "n1", Seq: 3}} },
		"no phases":     func(h *history.History) { h.Phases = nil },
		"harness stall": func(h *history.History) { h.Stalls = []history.Stall{{From: 0, To: 1e9}} },
	} {
		t.Run(name, func(t *testing.T) {
			h := parse(t, good)
			lost(h)
			change(h)
			r := run(t, h, strict())
			require.Equal(t, Invalid, r.Verdict)
			require.Equal(t, 1, r.Verdict.ExitCode())
			require.Contains(t, r.Sentence, "LOST 1 of 3 acknowledged messages")
		})
	}
}

// TestUnseenIsNotLost: where the drain proves nothing, absence is no loss.
func TestUnseenIsNotLost(t *testing.T) {
	for name, change := range map[string]func(*history.History){
		"leader unread": func(h *history.History) { h.Replicas[0].Complete, h.Drains[0].Complete = false, false },
		"noisy":         func(h *history.History) { h.Drains[0].Quiet = false },
		"unsynced":      func(h *history.History) { h.Drains[0].InSync = false },
	} {
		t.Run(name, func(t *testing.T) {
			h := parse(t, good)
			h.Replicas[0].Records = h.Replicas[0].Records[1:]
			change(h)
			r := run(t, h, strict())
			require.Equal(t, Unknown, r.Verdict)
			require.Equal(t, 1, r.Anomalies[ClassUnseen])
			require.Zero(t, r.Anomalies[ClassLost])
			require.Contains(t, clause(t, r, ClauseSurvives).Remedy, "drain")
		})
	}
}

func TestLostInDetail(t *testing.T) {
	h := parse(t, `
		p0.1 10-20 @0
		p0.2 30-40 @1
		p1.1 35-45 @2
		p0.3 50-60 @3
		p1.2 55-65 n2 @4
		c0 66-70 0: p0.1 p0.2
		c1 66-75 0: p0.1 p0.2
		fault 0 partition:isolate-leader n1 32-90 role=leader keys=t-0
		event n1 start
		event n1 truncate 9-12 e=4 at=91
		event n1 truncate 0-1 e=4 at=92
		event n2 truncate 0-2 e=2 at=5
		event n3 truncate 1-9 e=3 at=95
		event n1 truncate 1-5 e=4 at=100
		log n2* p0.1 - - p0.3
		log n3 p0.1 p0.2 - p0.3`)
	r := run(t, h, lax())
	lost := clause(t, r, ClauseSurvives).Anomalies
	require.Len(t, lost, 3)
	a := lost[0]
	require.Equal(t, "p0", a.Producer)
	require.EqualValues(t, 2, a.Seq)
	require.EqualValues(t, 1, a.Offset)
	require.EqualValues(t, 40e6, a.At)
	require.Equal(t, "n1", a.Node)
	require.Equal(t, "middle", a.Place)
	require.Equal(t, "middle", a.PlaceIn)
	require.Equal(t, []string{"n2", "n1"}, a.Missing)
	require.EqualValues(t, 75e6, a.LastSeen)
	require.Equal(t, "fault 0 (partition:isolate-leader)", a.Fault)
	require.Equal(t, "n1 truncated t-0 from 1 (epoch 4)", a.Cause)
	require.Equal(t, EventTruncation, a.Event)
	require.Equal(t, []int64{1}, a.Ops)
	require.Equal(t, "all", lost[1].PlaceIn, "producer 1 lost everything")
	require.Equal(t, "tail", lost[2].Place)
	require.Equal(t, "n3 truncated t-0 from 1 (epoch 3)", lost[2].Cause, "the node that acknowledged did not truncate")
}

// The kind of scheme event that broke a clause tells apart what breaks it in
// another way.
func TestEvents(t *testing.T) {
	for event, c := range map[string]struct{ clause, text string }{
		EventTruncation: {ClauseDirtyRead, "p0.1 10- ?\nc0 20-30 0: p0.1\nevent n1 truncate 0-1 at=40\nlog n1*"},
		EventUnclean:    {ClauseSurvives, "p0.1 10-20 @0\nevent n2 unclean e=2 at=30\nlog n1*"},
		EventDeletion:   {ClauseSurvives, "p0.1 10-20 @0\nevent n2 deleted at=30\nlog n1*"},
		EventLeader:     {ClauseSplitBrain, "event n1 leader e=3\nevent n2 leader e=3\nlog n1*"},
		EventShrink:     {ClauseInSync, "p0.1 10-20 @0\nevent n1 leader e=1 isr=n1\nevent n1 isr e=1 isr=n1,n2 high=1\nlog n1* p0.1"},
		"":              {ClauseSurvives, "p0.1 10-20 @0\nlog n1*"},
	} {
		t.Run(event, func(t *testing.T) {
			h := parse(t, c.text)
			h.Header.Contract.Epochs, h.Header.Contract.MinInSync = true, 2
			found := clause(t, run(t, h, lax()), c.clause).Anomalies
			require.Len(t, found, 1)
			require.Equal(t, event, found[0].Event)
		})
	}
}

// A log that goes with its topic takes its messages along, and so does a topic that is
// gone in the end; a truncation says more.
func TestDeletions(t *testing.T) {
	for text, want := range map[string]string{
		"p0.1 10-20 @0 n2\nevent n1 deleted at=30\nevent n2 deleted at=31\nlog n1*":      "n2 deleted t-0 with its topic",
		"p0.1 10-20 @0 n2\nevent n2 deleted at=5\nlog n1*":                               "",
		"p0.1 10-20 @0 n2\nevent n2 deleted at=30\nevent n1 truncate 0-1 at=40\nlog n1*": "n1 truncated t-0 from 0 (epoch 0)",
		"p0.1 10-20 @0\ndrain missing":                                                   "topic of t-0 is gone",
	} {
		require.Equal(t, want, clause(t, run(t, parse(t, text), lax()), ClauseSurvives).Anomalies[0].Cause, text)
	}
}

func TestPlaces(t *testing.T) {
	list := []int32{10, 11, 12, 13, 14}
	require.Equal(t, map[int32]string{10: "prefix", 12: "middle", 14: "tail"}, places(list, map[int32]bool{10: true, 12: true, 14: true}))
	require.Equal(t, map[int32]string{10: "prefix", 11: "prefix", 13: "tail", 14: "tail"}, places(list, map[int32]bool{10: true, 11: true, 13: true, 14: true}))
	require.Equal(t, "all", places(list[:1], map[int32]bool{10: true})[10])
	require.Empty(t, places(list, nil))
}

func TestLate(t *testing.T) {
	h := parse(t, `
		p0.1 10-20 @0
		p0.2 10-20 @1
		log n1* p0.1 p0.2`)
	first := h.Replicas[0]
	first.Complete, first.Records = false, first.Records[:1]
	h.Replicas = append([]history.Replica{first}, h.Replicas...)
	r := run(t, h, lax())
	require.Equal(t, 1, r.Anomalies[ClassLate])
	require.Equal(t, Valid, r.Verdict, "%v", r.WhyInconclusive)
}

func TestSentLostIsReportedNeverJudged(t *testing.T) {
	r := judgeText(t, `
		p0.1 10-20 sent
		p0.2 30-40 sent
		log n1* p0.1`)
	require.Equal(t, Valid, r.Verdict)
	require.Equal(t, 1, r.Anomalies[ClassSentLost])
	require.Contains(t, r.Sentence, "not promised: 1 sent without acknowledgement and lost")
}

// TestDeclared: what a configuration does not promise is reported, not judged;
// with expect=survive loss is judged whatever it promises.
func TestDeclared(t *testing.T) {
	const text = `
		p0.1 10-20 @0
		p0.2 30-40 @1
		log n1* p0.1`
	declare := func(expect string) func(*history.History) {
		return func(h *history.History) {
			h.Header.Contract = history.Contract{Expect: expect, PerReplica: true, Offsets: "global"}
		}
	}
	r := judgeText(t, text, declare("declared"))
	require.Equal(t, Valid, r.Verdict)
	require.Equal(t, 1, r.Anomalies[ClassLost])
	require.Contains(t, r.Sentence, "No promise broken in 2 acknowledged messages; not promised: 1 lost")
	require.Contains(t, clause(t, r, ClauseSurvives).Detail, "reported, not judged")

	r = judgeText(t, text, declare("survive"))
	require.Equal(t, Invalid, r.Verdict)
	require.Equal(t, "LOST 1 of 2 acknowledged messages", r.Sentence)
}

// TestPanickingChecker: a checker that panics is a harness error of its clause;
// the others are judged, and a violation still wins.
func TestPanickingChecker(t *testing.T) {
	defer func(old []clauseCheck) { clauses = old }(clauses)
	clauses = append([]clauseCheck{{"broken-checker", func(context.Context, *view, *Check) { panic("index out of range") }}}, clauses...)
	r := run(t, parse(t, good), strict())
	require.Equal(t, HarnessError, r.Verdict)
	require.Equal(t, 255, r.Verdict.ExitCode())
	require.Contains(t, r.Sentence, "Harness error: the checker of broken-checker panicked: index out of range")
	require.Equal(t, Valid, clause(t, r, ClauseSurvives).Verdict)

	h := parse(t, good)
	h.Replicas[0].Records = h.Replicas[0].Records[1:]
	require.Equal(t, Invalid, run(t, h, strict()).Verdict)
}

func TestMalformed(t *testing.T) {
	for name, change := range map[string]func(*history.History){
		"key":      func(h *history.History) { h.Ops[0].Key = 7 },
		"kind":     func(h *history.History) { h.Ops[0].Kind = 99 },
		"outcome":  func(h *history.History) { h.Ops[0].Outcome = 9 },
		"node":     func(h *history.History) { h.Ops[0].Node = 9 },
		"client":   func(h *history.History) { h.Ops[0].Client = -1 },
		"time":     func(h *history.History) { h.Ops[0].Return = -5 },
		"order":    func(h *history.History) { h.Ops[1].ID = 0 },
		"offset":   func(h *history.History) { h.Ops[0].Offset = -7 },
		"same key": func(h *history.History) { h.Header.Keys = []string{"t-0", "t-0"} },
	} {
		t.Run(name, func(t *testing.T) {
			h := parse(t, good)
			change(h)
			_, err := Run(context.Background(), h, strict())
			require.ErrorIs(t, err, ErrMalformed)
		})
	}
}

func TestEmptyHistory(t *testing.T) {
	r := run(t, &history.History{}, Options{})
	require.Equal(t, Unknown, r.Verdict)
	require.Contains(t, r.Sentence, "Could not decide")
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Run(ctx, parse(t, good), strict())
	require.ErrorIs(t, err, context.Canceled)
}

func TestMaxAnomalies(t *testing.T) {
	h := parse(t, `
		p0.1 10-20 @0
		p0.2 30-40 @1
		p0.3 50-60 @2
		log n1*`)
	o := lax()
	o.MaxAnomalies = 2
	r := run(t, h, o)
	c := clause(t, r, ClauseSurvives)
	require.Len(t, c.Anomalies, 2)
	require.Equal(t, 3, c.Count)
	require.Contains(t, r.NotChecked, "acknowledged-survive: 1 further anomalies, counted and not listed")
}

// TestUndecidedDrainStillConvicts: an incomplete drain acquits nobody, but what
// was acknowledged against real time is still a violation.
func TestUndecidedDrainStillConvicts(t *testing.T) {
	for name, text := range map[string]string{
		"real time": `
			p0.1 10-20 @1
			p1.1 30-40 @0
			drain incomplete`,
		"two values": `
			p0.1 10-20 @1
			p1.1 30-40 @1
			drain incomplete`,
		"read of a message that failed": `
			p0.1 10-20 x
			c0 30-40 0: p0.1
			drain incomplete`,
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, Invalid, clause(t, judgeText(t, text), ClauseLinearizable).Verdict)
		})
	}
	r := judgeText(t, `
		p0.1 10-20 @0
		p1.1 30-40 @5
		drain incomplete`)
	require.Equal(t, Unknown, clause(t, r, ClauseLinearizable).Verdict)
}

func TestAvailability(t *testing.T) {
	h := parse(t, `
		phase baseline 0
		p0.1 10-20 @0
		p0.2 21-30 @1
		fault 0 kill:leader n1 100-400 role=leader keys=t-0
		p0.3 90-150 ?
		p0.4 160-210 ?
		p0.5 220-300 n2 @2
		p1.1 310-400 k1 @0
		p0.6 420-450 n2 @3
		phase recovery 500
		log n2* p0.1 p0.2 p0.5 p0.6
		log n1* k1 p1.1`)
	a := run(t, h, lax()).Availability
	// Nothing was attempted between 30 and 90: that is idle, not unavailable.
	require.InDelta(t, 210, a.LongestUnavailableMS, 1e-9)
	require.Equal(t, "t-0", a.LongestKey)
	require.EqualValues(t, 90e6, a.LongestFrom)
	require.InDelta(t, 90, a.PerKeyMS["t-1"], 1e-9)
	require.Equal(t, []float64{200}, a.FailoverMS, "from 100 to the answer at 300")
	require.Equal(t, []float64{50}, a.RecoveryMS, "from 400 to the answer at 450")
	require.Equal(t, 2, a.Latency["before"].Count)
	require.Equal(t, 2, a.Latency["during"].Count)
	require.Equal(t, 1, a.Latency["after"].Count)
	require.InDelta(t, 30, a.Latency["after"].P50, 0.1)
	require.Equal(t, a.Latency["during"], a.Latency["fault 0"])

	h.Stalls = []history.Stall{{From: 100e6, To: 160e6}, {From: 150e6, To: 200e6}}
	a = run(t, h, lax()).Availability
	require.InDelta(t, 110, a.LongestUnavailableMS, 1e-9, "the harness's own stalls are excluded")
	require.InDelta(t, 100, a.StallsMS, 1e-9)
}

// TestUnavailableWhileInFlight: what was under way at an answer and stays
// unanswered counts from that answer on.
func TestUnavailableWhileInFlight(t *testing.T) {
	a := run(t, parse(t, `
		p0.1 10-20 @0
		p1.1 15-180 ?
		p0.2 190-200 @1
		log n2* p0.1 p0.2`), lax()).Availability
	require.InDelta(t, 180, a.LongestUnavailableMS, 1e-9)
	require.EqualValues(t, 20e6, a.LongestFrom)
}

// TestLostFromATrimmedLog: what a trimmed log still covers is judged.
func TestLostFromATrimmedLog(t *testing.T) {
	r := judgeText(t, `
		p0.1 10-20 @0
		p0.2 30-40 @1
		p0.3 50-60 @2
		log n1* start=1 - p0.3`)
	require.Equal(t, 1, r.Anomalies[ClassLost])
	require.Equal(t, 1, r.Anomalies[ClassUnseen])
	require.EqualValues(t, 1, clause(t, r, ClauseSurvives).Anomalies[0].Offset)
}

func TestDivergentEpoch(t *testing.T) {
	h := parse(t, `
		p0.1 10-20 @0
		p0.2 30-40 @1
		log n1* p0.1 p0.2
		log n3 digest=other p0.1 p0.2`)
	h.Replicas[2].Records[1].Epoch = 9
	c := clause(t, run(t, h, lax()), ClauseDivergence)
	require.Equal(t, Invalid, c.Verdict)
	require.EqualValues(t, 1, c.Anomalies[0].Offset)
	require.Equal(t, "n3", c.Anomalies[0].Node)
}

func TestNeverBack(t *testing.T) {
	a := run(t, parse(t, `
		p0.1 10-20 @0
		fault 0 kill n1 100-200
		p0.2 210-230 x
		p0.3 240-290 ?
		log n2* p0.1`), lax()).Availability
	require.Equal(t, []float64{-1}, a.FailoverMS)
	require.Equal(t, []float64{-1}, a.RecoveryMS)
	require.InDelta(t, 80, a.LongestUnavailableMS, 1e-9, "from the first refused attempt to the end of the last")
}

func TestExercised(t *testing.T) {
	r := judgeText(t, `
		event n1 start
		event n1 leader e=1 isr=n1,n2,n3
		event n1 isr e=1 isr=n1,n2
		event n2 isr e=1 isr=n1,n2
		event n1 isr e=1 isr=n1,n2
		event n2 leader e=2 isr=n2
		event n2 isr e=2 isr=n2,n3
		event n2 isr e=2 isr=n2,n1
		event n1 truncate 3-3
		event n1 truncate 3-5
		event n3 unclean e=3
		event n3 leader e=3
		event n2 leader e=4
		event n2 leader e=5
		log n1*`)
	require.Equal(t, map[string]int{
		"start": 1, "leader-change": 3, "isr-shrink": 3, "isr-expand": 2, "truncation": 1, "unclean-election": 1,
	}, r.Exercised)
}

func TestExplain(t *testing.T) {
	h := parse(t, `
		p0.1 10-20 @0
		p0.2 30-40 @1
		c0 41-45 0: p0.1 p0.2
		fault 0 kill:leader n1 35-90 role=leader keys=t-0
		event n2 leader e=3 at=60
		event n1 truncate 1-2 e=3 at=100
		log n2* p0.1
		log n3 p0.1 p0.2`)
	s, err := Explain(h, history.MakeValue(0, 2))
	require.NoError(t, err)
	require.Equal(t, []string{"n3"}, s.Holds)
	require.Equal(t, []string{"n2", "n1"}, s.Lacks)
	text := s.WithAnomalies(run(t, h, lax())).String()
	at := -1
	for _, want := range []string{
		"message 2 of producer 0", "p0 sent it to t-0 on n1", "fault 0 (kill:leader) began on n1", "acknowledged by n1 at offset 1",
		"read at offset 1 by c0", "n2 became leader of t-0 in epoch 3", "was healed",
		"n1 truncated t-0 from 2 to 1 (epoch 3)", "the drain found it on n3", "missing on n2, n1", "lost: broke acknowledged-survive",
	} {
		i := indexFrom(text, want, at)
		require.Greater(t, i, at, "%q in its place in\n%s", want, text)
		at = i
	}
	_, err = Explain(h, history.MakeValue(9, 9))
	require.ErrorContains(t, err, "never mentions")
}

func indexFrom(s, sub string, from int) int {
	for i := from + 1; i+len(sub) <= len(s); i++ {
		if s[i:i+len(sub)] == sub {
			return i
		}
	}
	return -1
}

func TestPorcupineOff(t *testing.T) {
	o := strict()
	o.PorcupineTimeout = -time.Second
	r := run(t, parse(t, good), o)
	require.Equal(t, Valid, r.Verdict)
	require.Contains(t, clause(t, r, ClauseLinearizable).Procedure, "alone on t-0")
}
