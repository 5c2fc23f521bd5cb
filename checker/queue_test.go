package checker

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// queueSituation is a history of a queue, and what one clause says of it: the class of its
// anomaly, "valid" or "unknown".
type queueSituation struct {
	name, text, want string
}

func judgeSituations(t *testing.T, name string, all []queueSituation) {
	t.Helper()
	broken, valid := 0, 0
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			r := judgeText(t, s.text)
			c := clause(t, r, name)
			switch s.want {
			case "valid":
				valid++
				require.Equal(t, Valid, c.Verdict, "%s %v", c.Detail, c.Anomalies)
				require.Zero(t, c.Count)
			case "unknown":
				require.Equal(t, Unknown, c.Verdict, "%s %v", c.Detail, c.Anomalies)
				require.NotEmpty(t, c.Remedy)
				require.NotEqual(t, Valid, r.Verdict)
			default:
				broken++
				require.Equal(t, Invalid, c.Verdict, c.Detail)
				require.Contains(t, c.classes, s.want)
				for _, a := range c.Anomalies {
					w, err := Witness(t.Context(), parse(t, s.text), lax(), name, a)
					require.NoError(t, err)
					requireWitness(t, w, lax(), name, a)
					require.Contains(t, a.Text, "broke "+name+" - ")
					require.NotEmpty(t, a.Key)
					require.IsIncreasing(t, append([]int64{-1}, a.Ops...), "operations that prove it, each once")
				}
			}
		})
	}
	require.GreaterOrEqual(t, broken, 3, "histories that break it")
	require.GreaterOrEqual(t, valid, 3, "near misses")
}

func TestQueuesSurvive(t *testing.T) {
	judgeSituations(t, ClauseSurvives, []queueSituation{
		{"acknowledged and never seen again", `queue
			p0.1 10-20 ok
			rest`, ClassLost},
		{"delivered, never accepted, and absent", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			rest`, ClassLost},
		{"its acceptance certainly failed, and it is absent", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 50-60 p0.1 x
			rest`, ClassLost},
		{"given back, and absent", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			g0 50-60 p0.1
			rest`, ClassLost},
		{"the queue is gone", `queue
			p0.1 10-20 ok
			drain missing`, ClassLost},
		{"in a transaction whose commit was confirmed, and absent", `queue
			p0.1 10-20 ok tx=1
			commit 30-40 tx=1
			rest`, ClassLost},
		{"delivered only once of three times", `queue max=3
			p0.1 10-20 ok
			r0 30-40 p0.1
			rest`, ClassLost},
		{"at most once, nobody received", `queue once
			p0.1 10-20 ok
			rest`, ClassLost},
		{"in the drain", `queue
			p0.1 10-20 ok
			rest p0.1`, "valid"},
		{"accepted, and absent", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 50-60 p0.1
			rest`, "valid"},
		{"its acceptance was sent and not answered, and it is absent", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 50- p0.1 ?
			rest`, "valid"},
		{"rejected, and absent without dead letters", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			j0 50-60 p0.1
			rest`, "valid"},
		{"among the dead letters", `queue dead
			p0.1 10-20 ok
			r0 30-40 p0.1
			j0 50-60 p0.1
			rest
			rest dead p0.1`, "valid"},
		{"at most once, delivered and absent", `queue once
			p0.1 10-20 ok
			r0 30-40 p0.1
			rest`, "valid"},
		{"never acknowledged, and absent", `queue
			p0.1 10- ?
			rest`, "valid"},
		{"in a transaction that nobody committed, and absent", `queue
			p0.1 10-20 ok tx=1
			abort 30-40 tx=1
			rest`, "valid"},
		{"in a transaction whose commit was not answered, and absent", `queue
			p0.1 10-20 ok tx=1
			commit 30- tx=1 ?
			rest`, "valid"},
		{"absent, and the sentinel did not come out", `queue
			p0.1 10-20 ok
			rest blind`, "unknown"},
		{"absent, and something still waits", `queue
			p0.1 10-20 ok
			rest ready=1`, "unknown"},
		{"absent, and somebody else holds one", `queue
			p0.1 10-20 ok
			rest held=2`, "unknown"},
		{"absent from a drain that found it empty and was cut off", `queue
			p0.1 10-20 ok
			rest partial`, "unknown"},
		{"absent, and a connection was still open", `queue
			p0.1 10-20 ok
			rest
			drain noisy`, "unknown"},
		{"absent, and the dead letters were not drained", `queue dead
			p0.1 10-20 ok
			rest`, "unknown"},
		{"at most once, absent, and a receive was not answered", `queue once
			p0.1 10-20 ok
			r0 30- ?
			rest`, "unknown"},
		{"delivered twice of three times, and a receive was not answered", `queue max=3
			p0.1 10-20 ok
			r0 30-40 p0.1
			r1 50-60 p0.1
			r0 70- ?
			rest`, "unknown"},
	})
}

func TestQueuesLosePrefixMiddleTail(t *testing.T) {
	r := judgeText(t, `queue
		p0.1 10-20 ok
		p1.1 11-21 ok
		p0.2 30-40 ok
		p0.3 50-60 ok
		p1.2 70-80 ok
		rest p1.1 p0.3`)
	c := clause(t, r, ClauseSurvives)
	require.Equal(t, 3, c.Count)
	var places [][2]string
	for _, a := range c.Anomalies {
		places = append(places, [2]string{a.Place, a.PlaceIn})
	}
	require.Equal(t, [][2]string{{"prefix", "prefix"}, {"middle", "prefix"}, {"tail", "tail"}}, places)
	require.Equal(t, "LOST 3 of 5 acknowledged messages", r.Sentence)
}

func TestQueuesLate(t *testing.T) {
	r := judgeText(t, `queue
		p0.1 10-20 ok
		rest p0.1`, func(h *history.History) {
		early := h.Replicas[0]
		early.Records = early.Records[1:]
		h.Replicas = append([]history.Replica{early}, h.Replicas...)
	})
	require.Equal(t, Valid, clause(t, r, ClauseSurvives).Verdict)
	require.Equal(t, 1, r.Anomalies[ClassLate])
}

func TestQueuesSent(t *testing.T) {
	judgeSituations(t, ClausePhantom, []queueSituation{
		{"never sent", `queue
			r0 30-40 p0.1
			rest`, ClassPhantom},
		{"never sent, and in the drain", `queue
			rest p0.1`, ClassPhantom},
		{"sent to another queue", `queue dead
			p0.1 10-20 ok dead
			r0 30-40 p0.1
			rest
			rest dead p0.1`, ClassPhantom},
		{"sent to a log", `queue log
			p0.1 10-20 @0 k1
			r0 30-40 p0.1
			rest
			log n1* p0.1`, ClassPhantom},
		{"of another run", `queue
			r0 30-40 ~
			rest`, ClassPhantomRun},
		{"altered", `queue
			rest !`, ClassPhantomBytes},
		{"received before it was sent", `queue
			r0 5-9 p0.1
			p0.1 10-20 ok
			rest p0.1`, ClassPhantom},
		{"received while it was sent", `queue
			r0 5-10 p0.1
			p0.1 10-20 ok
			rest p0.1`, "valid"},
		{"sent and never answered", `queue
			p0.1 10- ?
			r0 30-40 p0.1
			rest`, "valid"},
		{"out of the dead letters of its queue", `queue dead
			p0.1 10-20 ok
			r0 30-40 p0.1
			j0 50-60 p0.1
			r0 70-80 p0.1 dead
			rest
			rest dead p0.1`, "valid"},
		{"the sentinel", `queue
			r0 30-40 S
			rest`, "valid"},
		{"sent, and the drain proves nothing", `queue
			p0.1 10-20 ok
			rest p0.1 ready=1`, "unknown"},
	})
}

func TestQueuesFailed(t *testing.T) {
	judgeSituations(t, ClauseResurrected, []queueSituation{
		{"failed and delivered", `queue
			p0.1 10-20 x
			r0 30-40 p0.1
			rest`, ClassResurrected},
		{"failed and in the drain", `queue
			p0.1 10-20 x
			rest p0.1`, ClassResurrected},
		{"failed and among the dead letters", `queue dead
			p0.1 10-20 x
			rest
			rest dead p0.1`, ClassResurrected},
		{"failed and never seen", `queue
			p0.1 10-20 x
			rest`, "valid"},
		{"not answered and delivered", `queue
			p0.1 10- ?
			r0 30-40 p0.1
			rest`, "valid"},
		{"acknowledged and delivered", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			rest p0.1`, "valid"},
	})
}

func TestConsumedOnce(t *testing.T) {
	judgeSituations(t, ClauseConsumedOnce, []queueSituation{
		{"at most once, delivered twice", `queue once
			p0.1 10-20 ok
			r0 30-40 p0.1
			r1 50-60 p0.1
			rest`, ClassDuplicate},
		{"at most once, delivered and in the drain", `queue once
			p0.1 10-20 ok
			r0 30-40 p0.1
			rest p0.1`, ClassDuplicate},
		{"at most once, twice in one batch", `queue once
			p0.1 10-20 ok
			r0 30-40 p0.1 p0.1
			rest`, ClassDuplicate},
		{"exactly once, two deliveries accepted", `queue exactly
			p0.1 10-20 ok
			r0 30-40 p0.1
			r1 50-60 p0.1
			a0 70-80 p0.1
			a1 70-80 p0.1
			rest`, ClassDuplicate},
		{"exactly once, two deliveries, one acceptance not answered", `queue exactly
			p0.1 10-20 ok
			r0 30-40 p0.1
			r1 50-60 p0.1
			a0 70- p0.1 ?
			a1 70-80 p0.1
			rest`, "valid"},
		{"exactly once, one delivery accepted twice", `queue exactly
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 70-80 p0.1
			a0 90-95 p0.1
			rest`, "valid"},
		{"exactly once, delivered twice and accepted once", `queue exactly
			p0.1 10-20 ok
			r0 30-40 p0.1
			g0 45-48 p0.1
			r1 50-60 p0.1
			a1 70-80 p0.1
			rest`, "valid"},
		{"exactly once, an acceptance of nobody knows which delivery", `queue exactly
			p0.1 10-20 ok
			r0 30-40 p0.1
			r1 50-60 p0.1
			a0 70-80 p0.1 of=none
			a1 70-80 p0.1
			rest`, "valid"},
		{"at most once, delivered once", `queue once
			p0.1 10-20 ok
			r0 30-40 p0.1
			rest`, "valid"},
		{"at most once, the drain proves nothing", `queue once
			p0.1 10-20 ok
			r0 30-40 p0.1
			rest ready=1`, "unknown"},
	})
	r := judgeText(t, `queue
		p0.1 10-20 ok
		r0 30-40 p0.1
		r1 50-60 p0.1
		a0 70-80 p0.1
		a1 70-80 p0.1
		rest`)
	require.False(t, clause(t, r, ClauseConsumedOnce).Promised, "at least once")
	require.Equal(t, 1, clause(t, r, ClauseConsumedOnce).Count, "reported, not judged")
}

func TestSettledStaySettled(t *testing.T) {
	judgeSituations(t, ClauseSettled, []queueSituation{
		{"accepted and delivered again", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 50-60 p0.1
			r1 61-70 p0.1
			rest`, ClassAfterSettlement},
		{"accepted and in the drain", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 50-60 p0.1
			rest p0.1`, ClassAfterSettlement},
		{"rejected and delivered again", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			j0 50-60 p0.1
			r0 70-80 p0.1
			rest`, ClassAfterSettlement},
		{"accepted, and delivered by a receive called at that moment", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 50-60 p0.1
			r1 60-70 p0.1
			rest`, "valid"},
		{"its acceptance was not answered, and it was delivered again", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 50- p0.1 ?
			r1 70-80 p0.1
			rest p0.1`, "valid"},
		{"its acceptance failed, and it was delivered again", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 50-60 p0.1 x
			r1 70-80 p0.1
			rest p0.1`, "valid"},
		{"given back and delivered again", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			g0 50-60 p0.1
			r1 70-80 p0.1
			rest p0.1`, "valid"},
		{"rejected and out of the dead letters", `queue dead
			p0.1 10-20 ok
			r0 30-40 p0.1
			j0 50-60 p0.1
			r1 70-80 p0.1 dead
			rest
			rest dead p0.1`, "valid"},
	})
}

func TestRedelivers(t *testing.T) {
	judgeSituations(t, ClauseRedelivers, []queueSituation{
		{"its consumer left, and it is absent", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			l0 50-60
			rest`, ClassNeverRedelivered},
		{"its consumer left, and somebody who is not there still holds it", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			l0 50-60
			rest held=2`, ClassNeverRedelivered},
		{"redelivered once, and then never again", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			l0 50-60
			r1 70-80 p0.1
			l1 90-95
			rest`, ClassNeverRedelivered},
		{"its acceptance failed, and its consumer left", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 41-42 p0.1 x
			l0 50-60
			rest held=5`, ClassNeverRedelivered},
		{"its consumer left, and it is in the drain", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			l0 50-60
			rest p0.1`, "valid"},
		{"its consumer left, and the next one accepted it", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			l0 50-60
			r1 70-80 p0.1
			a1 90-95 p0.1
			rest`, "valid"},
		{"its consumer did not leave", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			rest`, "valid"},
		{"its consumer had sent an acceptance", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 41- p0.1 ?
			l0 50-60
			rest`, "valid"},
		{"nobody knows whether its consumer is gone", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			l0 50- ?
			rest`, "valid"},
		{"its consumer left, and something still waits", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			l0 50-60
			rest ready=1`, "unknown"},
	})
}

func TestExclusive(t *testing.T) {
	judgeSituations(t, ClauseExclusive, []queueSituation{
		{"delivered to another within its lock", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1 lock=100
			r1 50-129 p0.1
			rest p0.1`, ClassWhileHeld},
		{"delivered to another, while the first one's acceptance was still to come and was confirmed", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			r1 50-60 p0.1
			a0 61-70 p0.1
			rest`, ClassWhileHeld},
		{"delivered to both at once, each with a lock", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1 lock=100
			r1 30-40 p0.1 lock=100
			rest p0.1`, ClassWhileHeld},
		{"the third one within the lock of the first", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1 lock=100
			r0 45-48 p0.1
			r1 50-60 p0.1
			rest p0.1`, ClassWhileHeld},
		{"perhaps delivered after its lock", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1 lock=100
			r1 50-130 p0.1
			rest p0.1`, "valid"},
		{"perhaps given back before", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1 lock=100
			g0 55- p0.1 ?
			r1 50-60 p0.1
			rest p0.1`, "valid"},
		{"its consumer left before", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1 lock=100
			l0 41-45
			r1 50-60 p0.1
			rest p0.1`, "valid"},
		{"its consumer's session may have ended", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1 lock=100
			r0 41- ?
			r1 50-60 p0.1
			rest p0.1`, "valid"},
		{"held until it is settled, and its settlement failed", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			r1 50-60 p0.1
			a0 61-70 p0.1 x
			rest p0.1`, "valid"},
		{"held until it is settled, and its settlement was not answered", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			r1 50-60 p0.1
			a0 61- p0.1 ?
			rest p0.1`, "valid"},
		{"held until it is settled, which it was at that moment", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			r1 50-60 p0.1
			a0 60-70 p0.1
			rest`, "valid"},
		{"delivered to the same consumer again", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1 lock=100
			r0 50-60 p0.1
			rest p0.1`, "valid"},
		{"delivered to both at once, and only one lock is long", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1 lock=100
			r1 30-40 p0.1 lock=5
			rest p0.1`, "valid"},
	})
}

func TestMaxDeliveries(t *testing.T) {
	judgeSituations(t, ClauseMaxDeliveries, []queueSituation{
		{"delivered three times of two", `queue max=2
			p0.1 10-20 ok
			r0 30-40 p0.1
			r0 50-60 p0.1
			r0 70-80 p0.1
			rest`, ClassTooManyTimes},
		{"the system itself counts three", `queue max=2
			p0.1 10-20 ok
			r0 30-40 p0.1#3
			rest`, ClassTooManyTimes},
		{"twice, and by the drain", `queue max=2
			p0.1 10-20 ok
			r0 30-40 p0.1
			r0 50-60 p0.1
			rest p0.1`, ClassTooManyTimes},
		{"twice", `queue max=2
			p0.1 10-20 ok
			r0 30-40 p0.1#1
			r0 50-60 p0.1#2
			rest`, "valid"},
		{"once, and by the drain", `queue max=2
			p0.1 10-20 ok
			r0 30-40 p0.1#1
			rest p0.1#2`, "valid"},
		{"twice, and then by the dead letters' queue", `queue dead max=2
			p0.1 10-20 ok
			r0 30-40 p0.1
			r0 50-60 p0.1
			r0 70-80 p0.1 dead
			rest
			rest dead p0.1`, "valid"},
	})
}

func TestDeadLetters(t *testing.T) {
	judgeSituations(t, ClauseDeadLetters, []queueSituation{
		{"rejected, and nowhere", `queue dead
			p0.1 10-20 ok
			r0 30-40 p0.1
			j0 50-60 p0.1
			rest
			rest dead`, ClassNotDeadLettered},
		{"delivered twice of two, and nowhere", `queue dead max=2
			p0.1 10-20 ok
			r0 30-40 p0.1
			r0 50-60 p0.1
			rest
			rest dead`, ClassNotDeadLettered},
		{"delivered twice of two, and still in its queue", `queue dead max=2
			p0.1 10-20 ok
			r0 30-40 p0.1
			r0 50-60 p0.1
			rest p0.1
			rest dead`, ClassNotDeadLettered},
		{"delivered once of three, and dead", `queue dead max=3
			p0.1 10-20 ok
			r0 30-40 p0.1
			rest
			rest dead p0.1`, ClassDeadTooEarly},
		{"accepted, and dead", `queue dead
			p0.1 10-20 ok
			r0 30-40 p0.1
			a0 50-60 p0.1
			rest
			rest dead p0.1`, ClassDeadTooEarly},
		{"never delivered, and out of the dead letters", `queue dead max=2
			p0.1 10-20 ok
			r0 30-40 p0.1 dead
			rest
			rest dead`, ClassDeadTooEarly},
		{"rejected, and dead", `queue dead
			p0.1 10-20 ok
			r0 30-40 p0.1
			j0 50-60 p0.1
			rest
			rest dead p0.1`, "valid"},
		{"delivered twice of two, and dead", `queue dead max=2
			p0.1 10-20 ok
			r0 30-40 p0.1
			r0 50-60 p0.1
			rest
			rest dead p0.1`, "valid"},
		{"delivered once of two, a receive was not answered, and it is dead", `queue dead max=2
			p0.1 10-20 ok
			r0 30-40 p0.1
			r1 50- ?
			rest
			rest dead p0.1`, "valid"},
		{"its rejection was not answered, and it is in its queue", `queue dead
			p0.1 10-20 ok
			r0 30-40 p0.1
			j0 50- p0.1 ?
			rest p0.1
			rest dead`, "valid"},
		{"delivered twice of two, accepted the second time", `queue dead max=2
			p0.1 10-20 ok
			r0 30-40 p0.1
			r0 50-60 p0.1
			a0 70-80 p0.1
			rest
			rest dead`, "valid"},
		{"rejected, and the dead letters were not drained", `queue dead
			p0.1 10-20 ok
			r0 30-40 p0.1
			j0 50-60 p0.1
			rest`, "unknown"},
	})
}

func TestTruthfulEmpty(t *testing.T) {
	judgeSituations(t, ClauseTruthfulEmpty, []queueSituation{
		{"empty, and the message came later", `queue
			p0.1 10-20 ok
			r0 30-40
			r0 50-60 p0.1
			rest p0.1`, ClassFalseEmpty},
		{"empty, and the message is in the drain", `queue
			p0.1 10-20 ok
			r0 30-40
			rest p0.1`, ClassFalseEmpty},
		{"empty after a confirmed return", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			g0 50-60 p0.1
			r1 70-80
			r1 90-95 p0.1
			a1 96-97 p0.1
			rest`, ClassFalseEmpty},
		{"empty after a commit", `queue
			p0.1 10-20 ok tx=1
			commit 21-25 tx=1
			r0 30-40
			rest p0.1`, ClassFalseEmpty},
		{"empty, and who was not answered before is certainly gone", `queue
			p0.1 10-20 ok
			r1 5- ?
			l1 21-25
			r0 30-40
			rest p0.1`, ClassFalseEmpty},
		{"empty, and the lock of who was not answered before and is gone is over", `queue
			p0.1 10-20 ok
			r1 5- ? lock=4
			l1 21-25
			r0 30-40
			rest p0.1`, ClassFalseEmpty},
		{"perhaps locked by who was not answered before and is gone", `queue
			p0.1 10-20 ok
			r1 5- ? lock=5
			l1 21-25
			r0 30-40
			rest p0.1`, "valid"},
		{"acknowledged at that moment", `queue
			p0.1 10-30 ok
			r0 30-40
			rest p0.1`, "valid"},
		{"taken at that moment", `queue
			p0.1 10-20 ok
			r0 30-40
			r1 40-50 p0.1
			rest p0.1`, "valid"},
		{"held by somebody", `queue
			p0.1 10-20 ok
			r1 25-28 p0.1
			r0 30-40
			rest p0.1`, "valid"},
		{"perhaps held by a receive that was not answered", `queue
			p0.1 10-20 ok
			r1 25- ?
			r0 30-40
			rest p0.1`, "valid"},
		{"never acknowledged", `queue
			p0.1 10- ?
			r0 30-40
			rest p0.1`, "valid"},
		{"not yet committed", `queue
			p0.1 10-20 ok tx=1
			r0 30-40
			commit 41-45 tx=1
			rest p0.1`, "valid"},
		{"its return was not answered", `queue
			p0.1 10-20 ok
			r0 30-40 p0.1
			g0 50- p0.1 ?
			r1 70-80
			rest p0.1`, "valid"},
		{"an empty receive alone", `queue
			r0 30-40
			rest`, "valid"},
	})
}

func TestQueuesRecover(t *testing.T) {
	const before = `queue dead
			p0.1 10-20 ok
			fault 0 kill n1 100-200
			phase recovery 300
			phase drain 500
			p0.2 310-320 ok
`
	situations := []queueSituation{
		{"no receive is answered", before + `
			r0 330-340 ?
			r1 330-340 x
			r0 350-360 x
			rest p0.1 p0.2`, ClassNotRecovered},
		{"receives find nothing, and a message is there", before + `
			r0 330-340
			r1 330-340
			r0 350-360 x
			rest p0.1 p0.2`, ClassNotRecovered},
		{"no send is acknowledged, and receives are answered", `queue dead
			fault 0 kill n1 100-200
			phase recovery 300
			phase drain 500
			p0.1 310-320 ?
			p0.2 310-320 x
			r0 330-340
			r0 340-350
			r0 350-360
			rest`, ClassNotRecovered},
		{"one is given what is there", before + `
			r0 330-340
			r1 330-340 x
			r1 350-360 p0.1 p0.2
			a1 370-380 p0.1
			rest p0.2`, "valid"},
		{"receives find nothing, and nothing was there from before", `queue dead
			fault 0 kill n1 100-200
			phase recovery 300
			phase drain 500
			p0.2 310-320 ok
			r0 330-340
			r1 330-340
			r0 350-360
			rest p0.2`, "valid"},
		{"receives find nothing, and somebody without an answer may hold it", before + `
			r1 30- ?
			r0 330-340
			r0 350-360
			r0 370-380
			rest p0.1 p0.2`, "valid"},
		{"nobody receives", before + `
			rest p0.1 p0.2`, "valid"},
	}
	for i := range situations {
		situations[i].text += "\n\t\t\trest dead"
	}
	judgeSituations(t, ClauseRecovers, situations)

	few := lax()
	few.MinRecoveryAttempts = 3
	for n, want := range map[int]bool{2: false, 3: true} {
		text := before + strings.Repeat("r0 330-340 x\n", n) + "rest p0.1 p0.2\nrest dead"
		r, err := Run(t.Context(), parse(t, text), few)
		require.NoError(t, err)
		c := clause(t, r, ClauseRecovers)
		require.Equal(t, want, c.Verdict == Invalid, "%d receives: %s", n, c.Detail)
	}
}

func TestQueuesOrder(t *testing.T) {
	judgeSituations(t, ClauseOrder, []queueSituation{
		{"the second came out before the first", `queue
			p0.1 10-20 ok
			p0.2 30-40 ok
			r0 50-60 p0.2
			r0 61-70 p0.1
			rest p0.1 p0.2`, ClassReorder},
		{"in one batch", `queue
			p0.1 10-20 ok
			p0.2 30-40 ok
			r0 50-60 p0.2 p0.1
			rest p0.1 p0.2`, ClassReorder},
		{"in the drain", `queue
			p0.1 10-20 ok
			p0.2 30-40 ok
			rest p0.2 p0.1`, ClassReorder},
		{"the first is still in the drain", `queue
			p0.1 10-20 ok
			p0.2 30-40 ok
			r0 50-60 p0.2
			rest p0.1 p0.2`, ClassReorder},
		{"of two producers", `queue
			p0.1 10-20 ok
			p1.1 30-40 ok
			r0 50-60 p1.1
			r0 61-70 p0.1
			rest`, "valid"},
		{"sent at once", `queue
			p0.1 10-30 ok
			p0.2 30-40 ok
			r0 50-60 p0.2
			r0 61-70 p0.1
			rest`, "valid"},
		{"received at once", `queue
			p0.1 10-20 ok
			p0.2 30-40 ok
			r0 50-60 p0.2
			r1 60-70 p0.1
			rest`, "valid"},
		{"the first was delivered before, and again later", `queue
			p0.1 10-20 ok
			p0.2 30-40 ok
			r0 21-22 p0.1
			g0 23-24 p0.1
			r0 50-60 p0.2
			r0 61-70 p0.1
			rest p0.1 p0.2`, "valid"},
		{"perhaps the first was held by a receive that was not answered", `queue
			p0.1 10-20 ok
			p0.2 30-40 ok
			r1 45- ?
			r0 50-60 p0.2
			r0 61-70 p0.1
			rest p0.1 p0.2`, "valid"},
	})
}

func TestFIFO(t *testing.T) {
	judgeSituations(t, ClauseFIFO, []queueSituation{
		{"the second came out first", `queue fifo
			p0.1 10-20 ok
			p1.1 30-40 ok
			r0 50-60 p1.1
			r0 61-70 p0.1
			rest`, ClassNotFIFO},
		{"the second came out, and the first is in the drain", `queue fifo
			p0.1 10-20 ok
			p1.1 30-40 ok
			r0 50-60 p1.1
			rest p0.1`, ClassNotFIFO},
		{"out of order in the drain", `queue fifo
			p0.1 10-20 ok
			p1.1 30-40 ok
			rest p1.1 p0.1`, ClassNotFIFO},
		{"an unanswered send that the drain settles", `queue fifo
			p0.1 10- ?
			p1.1 30-40 ok
			r1 41-42 p0.1
			r0 50-60
			rest p1.1`, ClassNotFIFO},
		{"never empty, though each was there for a time only", `queue fifo
			p0.1 10-20 ok
			r0 25-75
			p1.1 30-40 ok
			r1 50-60 p0.1
			r1 80-90 p1.1
			rest`, ClassNotFIFO},
		{"in order", `queue fifo
			p0.1 10-20 ok
			p1.1 30-40 ok
			r0 50-60 p0.1
			r0 61-70 p1.1
			rest`, "valid"},
		{"sent at once", `queue fifo
			p0.1 10-30 ok
			p1.1 30-40 ok
			r0 50-60 p1.1
			r0 61-70 p0.1
			rest`, "valid"},
		{"an unanswered send that never happened", `queue fifo
			p0.1 10- ?
			p1.1 30-40 ok
			r0 50-60 p1.1
			r0 61-70
			rest`, "valid"},
		{"an unanswered send that happened late", `queue fifo
			p0.1 10- ?
			p1.1 30-40 ok
			r0 50-60 p1.1
			rest p0.1`, "valid"},
		{"a receive that was not answered gave something back", `queue fifo
			p0.1 10-20 ok
			p1.1 30-40 ok
			r1 45- ?
			r0 50-60 p1.1
			r0 61-70 p0.1
			rest`, "unknown"},
		{"one came out twice", `queue fifo
			p0.1 10-20 ok
			p1.1 30-40 ok
			r0 50-60 p0.1
			r0 61-70 p1.1
			rest p0.1`, "unknown"},
		{"one came out twice, and the others are out of order", `queue fifo
			p0.1 10-20 ok
			p1.1 30-40 ok
			p2.1 41-45 ok
			r0 50-60 p0.1
			r0 61-70 p2.1
			r0 71-80 p1.1
			rest p0.1`, ClassNotFIFO},
		{"the drain proves nothing", `queue fifo
			p0.1 10-20 ok
			p1.1 30-40 ok
			r0 50-60 p1.1
			rest p0.1 ready=1`, "unknown"},
	})
}

func TestTransactions(t *testing.T) {
	judgeSituations(t, ClauseTransactions, []queueSituation{
		{"a message of an aborted one was read", `
			p0.1 10-20 @0 tx=1
			abort 30-40 tx=1
			c0 50-60 committed 0: p0.1
			log n1* p0.1`, ClassAbortedRead},
		{"a message of one that nobody ended was read", `
			p0.1 10-20 @0 tx=1
			c0 50-60 committed 0: p0.1
			log n1* p0.1`, ClassAbortedRead},
		{"all its commits failed, and a message was read", `
			p0.1 10-20 @0 tx=1
			commit 30-40 tx=1 x
			c0 50-60 committed 0: p0.1
			log n1* p0.1`, ClassAbortedRead},
		{"aborted, and out of a queue", `queue
			p0.1 10-20 ok tx=1
			abort 30-40 tx=1
			r0 50-60 p0.1
			rest`, ClassAbortedRead},
		{"aborted, and in the drain of a queue", `queue
			p0.1 10-20 ok tx=1
			abort 30-40 tx=1
			rest p0.1`, ClassAbortedRead},
		{"read before its commit was called", `
			p0.1 10-20 @0 tx=1
			c0 25-29 committed 0: p0.1
			commit 30-40 tx=1
			log n1* p0.1`, ClassUncommittedRead},
		{"out of a queue before its commit was called", `queue
			p0.1 10-20 ok tx=1
			r0 25-29 p0.1
			commit 30- tx=1 ?
			rest p0.1`, ClassUncommittedRead},
		{"passed over although its commit was confirmed", `
			p0.1 10-20 @0 tx=1
			p0.2 21-25 @1 tx=1
			p1.1 26-29 @2
			commit 30-40 tx=1
			c0 50-60 committed 0: p0.1 - p1.1
			log n1* p0.1 p0.2 p1.1`, ClassTornTransaction},
		{"passed over although another message of it was read", `
			p0.1 10-20 @0 tx=1
			p0.2 21-25 @1 tx=1
			commit 30- tx=1 ?
			c0 50-60 committed 0: - p0.2
			log n1* p0.1 p0.2`, ClassTornTransaction},
		{"one came out of a queue, and the other is gone", `queue
			p0.1 10-20 ok tx=1
			p0.2 21-25 ok tx=1
			commit 30- tx=1 ?
			r0 50-60 p0.1
			rest`, ClassTornTransaction},
		{"aborted, and read by who reads everything", `
			p0.1 10-20 @0 tx=1
			abort 30-40 tx=1
			c0 50-60 0: p0.1
			log n1* p0.1`, "valid"},
		{"an unanswered commit, and all of it was read", `
			p0.1 10-20 @0 tx=1
			p0.2 21-25 @1 tx=1
			commit 30- tx=1 ?
			c0 50-60 committed 0: p0.1 p0.2
			log n1* p0.1 p0.2`, "valid"},
		{"an unanswered commit, and none of it was read", `
			p0.1 10-20 @0 tx=1
			p1.1 21-25 @1
			commit 30- tx=1 ?
			c0 50-60 committed 0: - p1.1
			log n1* p0.1 p1.1`, "valid"},
		{"the reader has not come to the rest of it yet", `
			p0.1 10-20 @0 tx=1
			p0.2 21-25 @1 tx=1
			commit 30-40 tx=1
			c0 50-60 committed 0: p0.1
			log n1* p0.1 p0.2`, "valid"},
		{"read while its commit was under way", `
			p0.1 10-20 @0 tx=1
			c0 25-30 committed 0: p0.1
			commit 30-40 tx=1
			log n1* p0.1`, "valid"},
		{"an unanswered commit, then an abort, and it was read", `
			p0.1 10-20 @0 tx=1
			commit 30- tx=1 ?
			abort 40-45 tx=1
			c0 50-60 committed 0: p0.1
			log n1* p0.1`, "valid"},
		{"an unanswered send of a committed one is not there", `
			p0.1 10- tx=1 ?
			p0.2 21-25 @0 tx=1
			commit 30-40 tx=1
			c0 50-60 committed 0: p0.2
			log n1* p0.2`, "valid"},
		{"aborted, and never seen", `queue
			p0.1 10-20 ok tx=1
			abort 30-40 tx=1
			rest`, "valid"},
	})
}

// TestLogsKeepTheirClauses: a history of logs without transactions is judged by what
// it was judged by before there were queues, and one of queues by theirs.
func TestLogsKeepTheirClauses(t *testing.T) {
	names := func(r *Result) []string {
		var all []string
		for _, c := range r.Checks {
			all = append(all, c.Name)
			require.NotEmpty(t, ClauseDoc(c.Name), c.Name)
		}
		return all
	}
	var ofLogs []string
	for _, c := range clauses {
		ofLogs = append(ofLogs, c.name)
	}
	log := judgeText(t, "p0.1 10-20 @0\nlog n1* p0.1")
	require.Equal(t, ofLogs, names(log))
	require.Nil(t, log.Counts.Queues)

	queue := judgeText(t, "queue\np0.1 10-20 ok\nrest p0.1")
	require.Equal(t, Valid, queue.Verdict, queue.Sentence)
	require.Equal(t, []string{
		ClauseSurvives, ClausePhantom, ClauseResurrected, ClauseOrder, ClauseSplitBrain, ClauseRecovers, ClauseConsumedOnce, ClauseSettled,
		ClauseRedelivers, ClauseExclusive, ClauseMaxDeliveries, ClauseDeadLetters, ClauseTruthfulEmpty, ClauseFIFO,
	}, names(queue))

	mixed := judgeText(t, "queue log\np0.1 10-20 ok\np0.2 30-40 @0 k1 tx=1\ncommit 50-60 tx=1\nrest p0.1\nlog n1* p0.2")
	require.Equal(t, Valid, mixed.Verdict, mixed.Sentence)
	require.Len(t, mixed.Checks, len(ofLogs)+len(queueClauses)+1)
	require.Contains(t, clause(t, mixed, ClauseSurvives).Detail, "; of queues: lost 0 of 1")
}

func TestMixedHistoriesLose(t *testing.T) {
	r := judgeText(t, "queue log\np0.1 10-20 ok\np0.2 30-40 @0 k1\np1.1 30-40 @1 k1\nrest\nlog n1* p0.2")
	require.Equal(t, "LOST 2 of 3 acknowledged messages; 1 partition is not linearizable", r.Sentence)
	require.Equal(t, []string{ClauseSurvives, ClauseLinearizable}, convicted(r))
}

func TestQueueCounts(t *testing.T) {
	r := judgeText(t, `queue dead
		p0.1 10-20 ok
		p0.2 10-20 ok
		p0.3 10- ?
		p0.4 10- ?
		p0.5 10-20 ok
		r0 30-40 p0.1 p0.3 p1.7
		a0 41-45 p0.1
		r0 50-60 p0.3
		rest p0.3
		rest dead p0.5`)
	require.Equal(t, map[string]QueueCounts{
		"q":      {Attempts: 5, Acknowledged: 3, Delivered: 3, Accepted: 1, Drained: 1, Lost: 1, Unexpected: 1, Duplicated: 2, Recovered: 1},
		"q-dead": {},
	}, r.Counts.Queues)
}

func TestMalformedQueues(t *testing.T) {
	for name, change := range map[string]func(*history.Header){
		"no such key":            func(h *history.Header) { h.Queues[0].Key = "z" },
		"twice":                  func(h *history.Header) { h.Queues = append(h.Queues, h.Queues[0]) },
		"dead letters no queue":  func(h *history.Header) { h.Queues[0].DeadLetters = "z" },
		"dead letters to itself": func(h *history.Header) { h.Queues[0].DeadLetters = "q" },
	} {
		t.Run(name, func(t *testing.T) {
			h := parse(t, "queue\np0.1 10-20 ok\nrest p0.1")
			change(&h.Header)
			_, err := Run(t.Context(), h, lax())
			require.ErrorIs(t, err, ErrMalformed)
		})
	}
}

func TestExplainQueuedMessage(t *testing.T) {
	h := parse(t, `queue dead
		p0.1 10-20 ok
		r0 30-40 p0.1#1
		g0 45-48 p0.1 ?
		r1 50-60 p0.1
		j1 70-80 p0.1
		rest
		rest dead p0.1`)
	s, err := Explain(h, history.MakeValue(0, 1))
	require.NoError(t, err)
	require.Equal(t, "q", s.Key)
	var lines []string
	for _, l := range s.Lines {
		lines = append(lines, l.Text)
	}
	require.Equal(t, []string{
		"p0 sent it to q on n1", "acknowledged by n1, its offset unknown", "received from q, delivery 1, by c0 on n1",
		"release by c0 on n1: indeterminate, timeout", "received from q by c1 on n1", "reject by c1 on n1: confirmed",
		"the drain found it among the dead letters, q-dead",
	}, lines)
}
