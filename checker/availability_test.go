package checker

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// due gives the sends of h, in their order, the milliseconds at which a schedule
// wanted them.
func due(h *history.History, ms ...int64) *history.History {
	for i, t := range ms {
		h.Ops[i].Due = t * 1e6
	}
	return h
}

// TestCoordinatedOmission: a client that waits for an answer is late with what
// follows. Its service times look well, and its response times do not.
func TestCoordinatedOmission(t *testing.T) {
	text := `
		p0.1 10-11 @0
		p0.2 20-121 @1
		p0.3 121-122 @2
		p0.4 122-123 @3
		p0.5 123-124 @4
		p0.6 124-125 @5
		log n1* p0.1 p0.2 p0.3 p0.4 p0.5 p0.6`
	a := run(t, due(parse(t, text), 10, 20, 30, 40, 50, 60), lax()).Availability
	require.Equal(t, "open loop: corrected for coordinated omission", a.Correction)
	service, response := a.Latency["before"], a.Response["before"]
	require.Equal(t, 6, service.Count)
	require.Equal(t, 6, response.Count)
	require.InDelta(t, 1, service.P50, 0.01)
	require.InDelta(t, 101, service.Max, 0.1)
	require.InDelta(t, 74, response.P50, 0.1, "the third best of 1, 65, 74, 83, 92, 101")
	require.InDelta(t, 101, response.Max, 0.1)

	a = run(t, parse(t, text), lax()).Availability
	require.Equal(t, NotCorrected, a.Correction)
	require.Empty(t, a.Response, "nothing is made up")
	require.Equal(t, service, a.Latency["before"])

	a = run(t, due(parse(t, text), 10, 20), lax()).Availability
	require.Contains(t, a.Correction, "on 2 of 6 sends")
}

// TestResponseByWhenItWasWanted: what was wanted during a fault and sent after it
// is part of what the fault did.
func TestResponseByWhenItWasWanted(t *testing.T) {
	a := run(t, due(parse(t, `
		p0.1 10-20 @0
		p0.2 210-220 @1
		p0.3 230-240 @2
		fault 0 kill n1 100-200
		log n2* p0.1 p0.2 p0.3`), 10, 150, 230), lax()).Availability
	require.Zero(t, a.Latency["during"].Count)
	require.Equal(t, 2, a.Latency["after"].Count)
	require.Equal(t, 1, a.Response["during"].Count)
	require.InDelta(t, 70, a.Response["fault 0"].Max, 0.1)
	require.Equal(t, 1, a.Response["after"].Count)
}

// TestStallsAreNotMeasured: nothing that the harness itself delayed counts.
func TestStallsAreNotMeasured(t *testing.T) {
	h := due(parse(t, `
		p0.1 10-20 @0
		p0.2 40-180 @1
		p0.3 210-260 @2
		p0.4 300-310 @3
		fault 0 kill n1 30-200
		log n2* p0.1 p0.2 p0.3 p0.4`), 10, 40, 120, 300)
	h.Stalls = []history.Stall{{From: 50e6, To: 110e6}, {From: 100e6, To: 150e6}, {From: 220e6, To: 230e6}}
	a := run(t, h, lax()).Availability
	require.Equal(t, 2, len(a.Latency), "before and after: %v", a.Latency)
	require.Equal(t, 1, a.Latency["before"].Count)
	require.Equal(t, 1, a.Latency["after"].Count)
	require.InDelta(t, 10, a.Latency["after"].Max, 0.1)
	require.InDelta(t, 10, a.Response["after"].Max, 0.1)
	require.NotContains(t, a.Response, "during", "the third was wanted during a stall")
	require.Equal(t, map[string]float64{"t-0": 50}, a.Faults[0].FailoverMS, "from 30 to 180, less 100")
	require.Equal(t, map[string]float64{"t-0": 50}, a.Faults[0].RecoveryMS, "from 200 to 260, less 10")
	require.Equal(t, map[string]float64{"t-0": 40}, a.Faults[0].UnavailableMS, "from 40 to 180, less 100")
}

// TestNeverRecovers: a partition that takes no send again is told from one that
// does, and from one without attempts.
func TestNeverRecovers(t *testing.T) {
	a := run(t, parse(t, `
		p0.1 10-20 @0
		p1.1 10-20 k1 @0
		fault 0 kill n1 100-200
		p0.2 120-130 x
		p1.2 150-170 k1 @1
		p0.3 210-290 ?
		p1.3 250-260 k1 @2
		log n2* p0.1
		log n2* k1 p1.1 p1.2 p1.3`), lax()).Availability
	f := a.Faults[0]
	require.Equal(t, map[string]float64{"t-0": -1, "t-1": 60}, f.RecoveryMS)
	require.Equal(t, map[string]float64{"t-0": -1, "t-1": 70}, f.FailoverMS)
	require.Equal(t, map[string]float64{"t-0": 170, "t-1": 20}, f.UnavailableMS, "from the first attempt to the end of the last")
	require.Equal(t, []float64{-1}, a.RecoveryMS)
	require.Equal(t, 1.0/6, a.IndeterminateShare)
	require.Zero(t, f.IndeterminateShare, "what was called after the healing is not the fault's")
}

// TestConsumersServedAgain: the time to the first message that a consumer was given
// after healing, apart from that to the first send; empty answers are none, and a queue
// whose consumers did not ask has no figure.
func TestConsumersServedAgain(t *testing.T) {
	served := func(text string) map[string]float64 {
		a := run(t, parse(t, "queue\np0.1 10-20 ok\nfault 0 kill n1 100-200\np0.2 205-210 ok\n"+text+"\nrest p0.1 p0.2"), lax()).Availability
		require.Equal(t, map[string]float64{"q": 10}, a.Faults[0].RecoveryMS)
		return a.Faults[0].ServedMS
	}
	require.Equal(t, map[string]float64{"q": 60}, served("r0 220-230\nr0 240-260 p0.1\nr1 250-270 p0.2"))
	require.Equal(t, map[string]float64{"q": -1}, served("r0 150-170 p0.1\nr0 220-230\nr0 240-250 ?"))
	require.Empty(t, served("r0 150-170 p0.1"))
}

// TestFaultWithoutPartitions: a fault that touches none has no figures, which is
// not the same as never.
func TestFaultWithoutPartitions(t *testing.T) {
	a := run(t, parse(t, `
		p0.1 10-20 @0
		fault 0 kill n9 100-200
		p0.2 120-130 @1
		log n2* p0.1 p0.2`), lax()).Availability
	f := a.Faults[0]
	require.Empty(t, f.UnavailableMS)
	require.Empty(t, f.FailoverMS)
	require.Empty(t, f.RecoveryMS)
	require.Zero(t, f.Lost)
	require.Equal(t, 1, a.Latency["fault 0"].Count)
}

// TestOverlappingFaults: each has what was seen while it was there; a lost message
// is counted once.
func TestOverlappingFaults(t *testing.T) {
	a := run(t, due(parse(t, `
		p0.1 10-20 @0
		fault 0 kill n1 100-300
		fault 1 pause n2 200-400
		p0.2 110-150 @1
		p0.3 210-290 ?
		p0.4 310-390 @2
		p0.5 450-460 @3
		log n3* p0.1 - - p0.5`), 10, 110, 210, 310, 450), lax()).Availability
	require.Len(t, a.Faults, 2)
	first, second := a.Faults[0], a.Faults[1]
	require.Equal(t, 1, first.Lost, "acknowledged at 150")
	require.Equal(t, 1, second.Lost, "acknowledged at 390")
	require.InDelta(t, 180, first.UnavailableMS["t-0"], 1e-9, "from 210 to 390: it began under both")
	require.InDelta(t, 180, second.UnavailableMS["t-0"], 1e-9)
	require.Equal(t, 90.0, first.RecoveryMS["t-0"])
	require.Equal(t, 60.0, second.RecoveryMS["t-0"])
	require.Equal(t, 0.5, first.IndeterminateShare)
	require.Equal(t, 0.5, second.IndeterminateShare)
	require.Equal(t, 1, a.Latency["fault 0"].Count)
	require.Equal(t, 1, a.Latency["fault 1"].Count)
	require.Equal(t, 2, a.Latency["during"].Count)
}

// TestRecoveryPoint: what is lost counts for the fault in force at its
// acknowledgement, or the last one; what was lost before any counts for none.
func TestRecoveryPoint(t *testing.T) {
	a := run(t, parse(t, `
		p0.1 10-20 @0
		p0.2 30-40 @1
		fault 0 kill n1 100-200
		p0.3 110-120 @2
		p0.4 130-170 @3
		p0.5 250-260 @4
		fault 1 kill n1 300-400
		p0.6 310-320 @5
		log n2* p0.1 - - - - p0.6`), lax()).Availability
	require.Equal(t, 3, a.Faults[0].Lost)
	require.InDelta(t, 140, a.Faults[0].LostSpanMS, 1e-9, "from 120 to 260")
	require.Zero(t, a.Faults[1].Lost)
	undrained := run(t, parse(t, `
		fault 0 kill n1 100-200
		p0.3 110-120 @2
		drain incomplete`), lax()).Availability
	require.Zero(t, undrained.Faults[0].Lost, "what was not drained is not known to be lost")
}
