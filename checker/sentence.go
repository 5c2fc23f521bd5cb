package checker

import (
	"fmt"
	"strings"
)

// headline words each class of anomaly, the worst first; lost comes before all.
var headline = []struct{ class, one, many string }{
	{ClassDivergence, "replicas differ at 1 offset", "replicas differ at %s offsets"},
	{ClassSplitBrain, "1 epoch had two leaders", "%s epochs had two leaders"},
	{ClassTooFew, "1 message was acknowledged with too few replicas in sync", "%s messages were acknowledged with too few replicas in sync"},
	{ClassDirtyRead, "1 delivered message is gone", "%s delivered messages are gone"},
	{ClassResurrected, "1 failed message became visible", "%s failed messages became visible"},
	{ClassPhantom, "1 message was never sent", "%s messages were never sent"},
	{ClassPhantomRun, "1 message is of another run", "%s messages are of another run"},
	{ClassPhantomBytes, "1 message was altered", "%s messages were altered"},
	{ClassDuplicate, "1 message is duplicated", "%s messages are duplicated"},
	{ClassMoved, "1 message moved to another offset", "%s messages moved to other offsets"},
	{ClassInconsistent, "1 offset held two values", "%s offsets held two values"},
	{ClassReorder, "1 message overtook an earlier one", "%s messages overtook earlier ones"},
	{ClassNonMonotonic, "1 read went back", "%s reads went back"},
	{ClassSkip, "1 read skipped records", "%s reads skipped records"},
	{ClassStale, "1 read was stale", "%s reads were stale"},
	{ClassLinearizable, "1 partition is not linearizable", "%s partitions are not linearizable"},
	{ClassNeverRedelivered, "1 message was never redelivered", "%s messages were never redelivered"},
	{ClassAfterSettlement, "1 message was delivered after it was settled", "%s messages were delivered after they were settled"},
	{ClassWhileHeld, "1 message was redelivered while it was held", "%s messages were redelivered while they were held"},
	{ClassTooManyTimes, "1 message was delivered too often", "%s messages were delivered too often"},
	{ClassNotDeadLettered, "1 message is not among the dead letters", "%s messages are not among the dead letters"},
	{ClassDeadTooEarly, "1 message went to the dead letters too early", "%s messages went to the dead letters too early"},
	{ClassFalseEmpty, "1 receive found a queue empty that was not", "%s receives found queues empty that were not"},
	{ClassNotFIFO, "1 queue is not first in, first out", "%s queues are not first in, first out"},
	{ClassAbortedRead, "1 message of an aborted transaction was read", "%s messages of aborted transactions were read"},
	{ClassUncommittedRead, "1 message was read before its transaction was committed", "%s messages were read before their transactions were committed"},
	{ClassTornTransaction, "1 transaction was torn", "%s transactions were torn"},
	{ClassNotRecovered, "1 partition did not recover", "%s partitions did not recover"},
}

// sentence words the verdict in one sentence, with counts.
func (v *view) sentence(r *Result) string {
	acks := group(r.Counts.Acknowledged) + " acknowledged messages"
	switch r.Verdict {
	case Invalid:
		found := breaks(r, true)
		if n := judged(r, ClassLost); n > 0 {
			s := fmt.Sprintf("LOST %s of %s", group(n), acks)
			if len(found) > 0 {
				s += "; " + strings.Join(found, "; ")
			}
			return s
		}
		return strings.ToUpper(found[0][:1]) + strings.Join(found, "; ")[1:] + "; " + acks
	case HarnessError:
		for _, c := range r.Checks {
			if c.Verdict == HarnessError {
				return "Harness error: " + c.Detail
			}
		}
	case Unknown:
		if len(r.WhyInconclusive) > 0 {
			return "Could not decide: " + r.WhyInconclusive[0].Why + more(len(r.WhyInconclusive)-1, "reason")
		}
		return "Could not decide"
	}
	s := "No anomaly in " + acks
	unpromised := breaks(r, false)
	if n := r.Anomalies[ClassLost]; n > 0 {
		unpromised = append([]string{group(n) + " lost"}, unpromised...)
	}
	if n := r.Anomalies[ClassSentLost]; n > 0 {
		unpromised = append(unpromised, group(n)+" sent without acknowledgement and lost")
	}
	if len(unpromised) > 0 {
		s = "No promise broken in " + acks + "; not promised: " + strings.Join(unpromised, "; ")
	}
	return s + "; " + count(len(v.faults), "fault") + " proven"
}

// breaks words the anomalies of the clauses that are promised (or are not),
// other than loss.
func breaks(r *Result, promised bool) []string {
	var out []string
	for _, h := range headline {
		n := 0
		for _, c := range r.Checks {
			if c.Promised == promised {
				n += c.classes[h.class]
			}
		}
		switch n {
		case 0:
		case 1:
			out = append(out, h.one)
		default:
			out = append(out, fmt.Sprintf(h.many, group(n)))
		}
	}
	return out
}

// judged counts the anomalies of a class that promised clauses found.
func judged(r *Result, class string) int {
	n := 0
	for _, c := range r.Checks {
		if c.Promised {
			n += c.classes[class]
		}
	}
	return n
}

// notChecked says plainly what the verdict does not cover.
func (v *view) notChecked(r *Result) []string {
	out := []string{}
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if n := r.Counts.Indeterminate; n > 0 {
		add("%s: what they did is known only where the drain or a read shows it", count(n, "indeterminate operation"))
	}
	if n := r.Anomalies[ClassUnseen]; n > 0 {
		add("%s: absent from a drain that proves nothing", count(n, "acknowledged message"))
	}
	if n := r.Anomalies[ClassTaken]; n > 0 {
		add("%s absent, and perhaps taken by a receive that was not answered", count(n, "acknowledged message"))
	}
	if n := r.Anomalies[ClassSentLost]; n > 0 {
		add("%s without acknowledgement and gone: nothing was promised for them", count(n, "message"))
	}
	for _, k := range v.all {
		if !k.complete {
			add("partition %s: its drain was not proven complete (%s)", k.name, k.why)
		}
		if len(k.sends) == 0 && !v.takesDeadLetters(k.name) {
			add("partition %s: nothing was sent to it", k.name)
		}
	}
	for _, gap := range v.gaps {
		add("node events are missing: %s", gap)
	}
	for _, f := range v.faults {
		if _, ok := f.at("healed"); !ok {
			add("%s: its healing was not proven", f.name)
		}
	}
	if n := len(v.reused); n > 0 {
		add("%s sent by more than one operation: whether the system duplicated them", count(n, "message"))
	}
	for _, c := range r.Checks {
		switch {
		case !c.Promised:
			add("%s: not promised by this configuration", c.Name)
		case c.Verdict == HarnessError:
			add("%s: %s", c.Name, c.Detail)
		}
		if c.Name == ClauseLinearizable && c.Promised && strings.Contains(c.Procedure, "; alone on ") {
			_, rest, _ := strings.Cut(c.Procedure, "; alone on ")
			add("%s: no second opinion by Porcupine on %s", c.Name, rest)
		}
	}
	if !v.h.Closed {
		add("whatever came after the end of the history file: it has no closing entry")
	}
	if v.o.MaxAnomalies > 0 {
		for _, c := range r.Checks {
			if d := c.Count - len(c.Anomalies); d > 0 {
				add("%s: %s, counted and not listed", c.Name, group(d)+" further anomalies")
			}
		}
	}
	return out
}
