package checker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/faultline-mq/faultline/checker/history"
)

// faultView is one planned fault with the moments of its life; a moment that
// was never recorded is -1.
type faultView struct {
	*history.Fault // its latest event that names targets
	stages         map[history.FaultStage]*history.Fault
	name           string // "fault 0 (partition:isolate-leader)"
}

func faultViews(h *history.History) []*faultView {
	var fs []*faultView
	for i := range h.Faults {
		e := &h.Faults[i]
		j := slices.IndexFunc(fs, func(f *faultView) bool { return f.ID == e.ID })
		if j < 0 {
			j = len(fs)
			fs = append(fs, &faultView{Fault: e, stages: map[history.FaultStage]*history.Fault{}})
		}
		f := fs[j]
		if f.stages[e.Stage] == nil {
			f.stages[e.Stage] = e
		}
		// Roles are bound to names at injection: events before it may lack them.
		if len(f.Targets) == 0 && len(e.Targets) > 0 || f.Role == "" && e.Role != "" {
			f.Fault = e
		}
	}
	// One that waited for an event which never came, or for which the run ended too
	// early, changed nothing.
	fs = slices.DeleteFunc(fs, func(f *faultView) bool { return f.stages[history.Skipped] != nil })
	slices.SortFunc(fs, func(a, b *faultView) int { return cmp.Compare(a.ID, b.ID) })
	for _, f := range fs {
		f.name = fmt.Sprintf("fault %d (%s)", f.ID, f.Name)
	}
	return fs
}

// at returns when the fault reached a stage, or the first of several that it
// reached; ok is false where it reached none.
func (f *faultView) at(stages ...history.FaultStage) (int64, bool) {
	for _, s := range stages {
		if e := f.stages[s]; e != nil {
			return e.At, true
		}
	}
	return 0, false
}

// start is when the fault began to have effect, at the earliest.
func (f *faultView) start() (int64, bool) {
	return f.at(history.Injecting, history.Injected, history.Proven)
}

// window is the time in which the fault was certainly whole: from the end of
// its injection to the beginning of its healing (Infinity where none began).
func (f *faultView) window() (from, to int64, ok bool) {
	from, ok = f.at(history.Injected, history.Proven)
	if !ok {
		return 0, 0, false
	}
	to, healing := f.at(history.Healing, history.Healed)
	if !healing {
		to = history.Infinity
	}
	return from, to, true
}

// faultAt names the fault that was active at t, or the last one before it.
func (v *view) faultAt(t int64) string {
	var last *faultView
	var lastEnd int64
	for _, f := range v.faults {
		from, ok := f.start()
		if !ok || from > t {
			continue
		}
		end, healed := f.at(history.Healed)
		if !healed || t <= end {
			return f.name
		}
		if last == nil || end > lastEnd {
			last, lastEnd = f, end
		}
	}
	if last == nil {
		return ""
	}
	return "after " + last.name
}

// healed reports whether the healing of every fault was proven, and when the
// last one was; why names the first that was not.
func (v *view) healed() (last int64, why string) {
	for _, f := range v.faults {
		t, ok := f.at(history.Healed)
		if !ok {
			return 0, "the healing of " + f.name + " was not proven"
		}
		last = max(last, t)
	}
	return last, ""
}

// affects reports whether the fault touches partition k: it names k, or one of
// its targets holds a replica of k, or led or followed it once (where the drain
// does not tell who does, every partition counts).
func (f *faultView) affects(k *keyView) bool {
	if len(f.Keys) > 0 {
		return slices.Contains(f.Keys, k.name)
	}
	if len(k.replicas) < 2 || len(f.Targets) == 0 {
		return true
	}
	return slices.ContainsFunc(k.replicas, func(r *replicaView) bool { return slices.Contains(f.Targets, r.Node) }) ||
		slices.ContainsFunc(k.events, func(e *history.NodeEvent) bool {
			return (e.Kind == "leader" || e.Kind == "follower") && slices.Contains(f.Targets, e.Node)
		})
}

// attempts counts the sends that were called while f was whole and could feel
// it: those sent to a target, and those to a partition that f affects, wherever
// they went. A leader that is cut off from its followers is exercised only by
// what is still sent to it: for such a fault only sends to its targets count,
// and only if one of them was to a partition that the target led. A real
// client's choice of node is unknown, and counts.
func (v *view) attempts(f *faultView) int {
	from, to, ok := f.window()
	if !ok {
		return 0
	}
	cutLeader := f.Role == "leader" && strings.HasPrefix(f.Name, "partition")
	n, onKeys := 0, 0
	for _, k := range v.all {
		affected := f.affects(k)
		for _, i := range k.sends {
			op := &v.h.Ops[i]
			if op.Call < from || op.Call >= to {
				continue
			}
			toTarget := op.Node == history.NoNode || slices.Contains(f.Targets, v.node(op.Node))
			if toTarget || affected && !cutLeader {
				n++
				if affected {
					onKeys++
				}
			}
		}
	}
	if onKeys == 0 {
		return 0
	}
	return n
}

// whyInconclusive lists why a run decided nothing, the deepest cause first.
func (v *view) whyInconclusive(r *Result) []Reason {
	var why []Reason
	add := func(change, format string, args ...any) {
		why = append(why, Reason{Why: fmt.Sprintf(format, args...), Change: change})
	}
	if !v.h.Closed {
		add("look for the harness's own error, and run again", "the history ends without its closing entry: the harness died during the run")
	}
	for _, f := range v.faults {
		v.faultReasons(f, add)
	}
	if len(v.h.Header.Keys) == 0 {
		add("give the workload at least one partition", "the history has no partition")
	}
	for _, k := range v.all {
		if !k.complete {
			add(drainRemedy, "the drain of partition %s was not proven complete: %s", k.name, k.why)
		}
	}
	traffic := "run longer, raise the rate, or use more clients"
	phase := func(name string, min int) {
		n := r.Counts.Phases[name].Acknowledged
		if v.fireAndForget() {
			n = r.Counts.Phases[name].OK
		}
		if n < min {
			add(traffic, "the %s phase saw %s acknowledged, fewer than %d", name, count(n, "send"), min)
		}
	}
	phase("baseline", v.o.MinBaselineOK)
	if len(v.faults) > 0 {
		phase("recovery", v.o.MinRecoveryOK)
	}
	for _, f := range v.faults {
		if _, _, ok := f.window(); !ok {
			continue
		}
		if n := v.attempts(f); n < v.o.MinFaultAttempts {
			add(traffic+", or hold the fault for longer", "while %s was active, %s %s attempted on an affected node and partition, fewer than %d",
				f.name, count(n, "send"), were(n), v.o.MinFaultAttempts)
		}
	}
	for _, c := range r.Checks {
		if !c.Promised || c.Verdict != Unknown {
			continue
		}
		for _, o := range c.open {
			if o.Change != drainRemedy { // said above, once per partition
				add(o.Change, "%s: %s", c.Name, o.Why)
			}
		}
	}
	return why
}

// fireAndForget reports whether no send of the run asked for an acknowledgement.
func (v *view) fireAndForget() bool {
	sent := false
	for _, k := range v.all {
		for _, i := range k.sends {
			if op := &v.h.Ops[i]; op.Outcome == history.OK {
				if op.Acked {
					return false
				}
				sent = true
			}
		}
	}
	return sent
}

func (v *view) faultReasons(f *faultView, add func(change, format string, args ...any)) {
	on := "on " + strings.Join(f.Targets, ", ")
	if len(f.Targets) == 0 {
		on = "without a target"
		add("name targets that exist in this cluster", "%s had no target", f.name)
	}
	if f.Role == "" && namesLeader(f.Name) {
		add("wait for a leader before the injection", "%s %s does not show that its target held the role of leader", f.name, on)
	}
	if f.Role == "leader" && len(f.Keys) == 0 {
		add("record the partition whose leader was chosen", "%s %s does not name the partition that its target led", f.name, on)
	}
	if u := f.stages[history.Unproven]; u != nil {
		add("run it again; if it stays without effect, this host cannot inject it: see the node's and the sidecar's logs under nodes/", "%s %s had no proven effect: %s", f.name, on, orElse(u.Detail, "no detail was recorded"))
		return
	}
	for _, m := range []struct {
		stage history.FaultStage
		what  string
	}{
		{history.Injected, "was never injected"},
		{history.Proven, "had no effect that was proven right after its injection"},
		{history.StillProven, "had no effect that was proven right before its healing"},
		{history.Healed, "was not proven to be healed"},
	} {
		if f.stages[m.stage] == nil {
			add("run it again with more time; if it stays so, this host cannot inject, prove or heal it: see the logs under nodes/", "%s %s %s", f.name, on, m.what)
			return
		}
	}
	order := []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed}
	var prev *history.Fault
	for _, s := range order {
		e := f.stages[s]
		if e == nil {
			continue
		}
		if prev != nil && e.At < prev.At {
			add("report it together with the history", "%s %s was %s at %s, before it was %s at %s", f.name, on, s, at(e.At), prev.Stage, at(prev.At))
			return
		}
		prev = e
	}
}

// namesLeader reports whether a fault by this name is on the leader:
// "partition:isolate-leader", "kill:leader".
func namesLeader(name string) bool {
	_, shape, _ := strings.Cut(name, ":")
	return shape == "leader" || shape == "isolate-leader"
}

func checkRecovers(_ context.Context, v *view, c *Check) {
	c.Promised = v.h.Header.Contract.Recovers
	if len(v.faults) == 0 {
		c.Detail = "no fault was injected: there was nothing to recover from"
		return
	}
	if _, why := v.healed(); why != "" {
		c.undecided(why, "let the healing be proven before recovery is judged")
		return
	}
	from, to, ok := v.phase("recovery")
	if !ok {
		c.undecided("the run has no recovery phase", "run to the end")
		return
	}
	recovered, keys := 0, 0
	for _, k := range v.all {
		if v.takesDeadLetters(k.name) {
			continue // nobody sends to it
		}
		keys++
		switch attempts, done, last := progress(v.h.Ops, k.sends, from, to); {
		case done:
			recovered++
		case attempts < v.o.MinRecoveryAttempts:
			c.undecided(fmt.Sprintf("partition %s saw %s in the recovery phase", k.name, count(attempts, "send")), "lengthen the recovery phase or raise the rate")
		default:
			c.add(v.notRecovered(k, from, last, fmt.Sprintf("%s in the recovery phase of partition %s, and none succeeded (last answer: %s)",
				count(attempts, "send"), k.name, orElse(last.Code, "none"))))
		}
	}
	c.Detail = fmt.Sprintf("%d of %s acknowledged messages after healing", recovered, count(keys, "partition"))
	v.servesAgain(c, from, to)
}

// progress counts the operations of some indices that were called from one moment until
// another, says whether one that was called before the end was ok after the beginning,
// and which of them was the last.
func progress(ops []history.Op, of []int32, from, to int64) (attempts int, done bool, last *history.Op) {
	for _, i := range of {
		op := &ops[i]
		if op.Call >= from && op.Call < to {
			attempts++
			last = op
		}
		if op.Outcome == history.OK && op.Call < to && op.Return >= from {
			done = true
		}
	}
	return attempts, done, last
}

func (v *view) notRecovered(k *keyView, from int64, last *history.Op, what string) Anomaly {
	return Anomaly{
		Class: ClassNotRecovered, Key: k.name, Offset: history.NoOffset, At: from, Node: v.node(last.Node), Fault: v.faultAt(from), Ops: []int64{last.ID},
		Text: "broke recovers - the system makes progress again once every fault is healed: " + what,
	}
}

// servesAgain adds to the clause recovers what consumers of queues were answered in
// the recovery phase. A queue whose consumers asked often enough answers one of them,
// and not always that it is empty, where a message was there for everybody throughout.
func (v *view) servesAgain(c *Check, from, to int64) {
	served, asked := 0, 0
	left := v.leaves()
	for _, q := range v.queues {
		attempts, done, last := progress(v.h.Ops, q.receives, from, to)
		if attempts < v.o.MinRecoveryAttempts && !done {
			continue // consumers did not ask
		}
		asked++
		if !done {
			c.add(v.notRecovered(q.keyView, from, last, fmt.Sprintf("%s in the recovery phase of queue %s, and none was answered (last answer: %s)",
				count(attempts, "receive"), q.name, orElse(last.Code, "none"))))
			continue
		}
		if waits := v.waitsThrough(q, left, from, to); waits != nil && attempts >= v.o.MinRecoveryAttempts {
			a := v.notRecovered(q.keyView, from, last, fmt.Sprintf("%s in the recovery phase of queue %s, and none was given a message, although %s was there from %s on",
				count(attempts, "receive"), q.name, msgName(waits.m.send.Value), at(waits.from)))
			a.Value = waits.m.send.Value
			a.Ops = append(a.Ops, waits.since.ID)
			slices.Sort(a.Ops)
			c.add(a)
			continue
		}
		served++
	}
	if asked > 0 {
		c.Detail += fmt.Sprintf("; %d of %s served consumers", served, count(asked, "queue"))
	}
}

// waitsThrough returns a message that was in q for everybody from one moment until
// another, in which nobody was given any; nil: there is none, or a receive without an
// answer may have held it.
func (v *view) waitsThrough(q *queueView, left map[int32][]*history.Op, from, to int64) *stay {
	for _, i := range q.receives {
		if op := &v.h.Ops[i]; len(op.Records) > 0 && op.Call < to && op.Return >= from {
			return nil
		}
	}
	if slices.ContainsFunc(v.hidden(q, left), func(h stay) bool { return h.from < to && h.until > from }) {
		return nil
	}
	for _, s := range v.stays(q) {
		if s.from < from && s.until > to {
			return &s
		}
	}
	return nil
}
