package harness

import (
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/system/reference"
)

// Rule is one rule of a replication protocol that a run may reach: a hunt that
// never met the case says nothing about it.
type Rule struct {
	Name string
	Doc  string
	// Schemes that have the rule; empty: all.
	Schemes []string
	// Needs names an option that must have this value for the rule to be reached at all.
	Needs map[string]string
	// Unless names options that may not have this value, or the rule is never reached.
	Unless map[string]string

	event  func(e *history.NodeEvent) bool
	op     func(op *history.Op) bool
	counts string // counted by the checkers under this name
}

func (r Rule) has(scheme string, options map[string]string) bool {
	ok := len(r.Schemes) == 0
	for _, s := range r.Schemes {
		ok = ok || s == scheme
	}
	for name, v := range r.Needs {
		ok = ok && options[name] == v
	}
	for name, v := range r.Unless {
		ok = ok && options[name] != v
	}
	return ok
}

func answered(kind history.Kind, codes ...string) func(*history.Op) bool {
	return func(op *history.Op) bool {
		if op.Kind != kind {
			return false
		}
		for _, c := range codes {
			if op.Code == c {
				return true
			}
		}
		return false
	}
}

func emitted(kind string) func(*history.NodeEvent) bool {
	return func(e *history.NodeEvent) bool { return e.Kind == kind }
}

// Schemes that share a rule.
var (
	isrOnly = []string{"isr"}
	// a leader that waits for followers is elected anew where it goes
	moving = []string{"combined", "isr", "quorum"}
	// followers pull, and cut what their leader does not have
	pulling      = []string{"combined", "isr", "quorum", "standby"}
	mirroredOnly = []string{"mirrored"}
	quorumOnly   = authority("raft")
	// takeover is hunted with a witness, which is a quorum
	ownViews = slices.DeleteFunc(authority("peers"), func(name string) bool { return name == "takeover" })
)

// authority names the schemes of the reference broker that have this one.
func authority(name string) (names []string) {
	for _, s := range (reference.System{}).Schemes() {
		if s.Authority == name {
			names = append(names, s.Name)
		}
	}
	return names
}

// Rules lists the rules that a hunt looks out for, in the order in which it
// prints them. They are read off what nodes report and what clients are
// answered; a rule whose case shows in neither is not listed.
func Rules() []Rule {
	return []Rule{
		{Name: "leader-change", Doc: "a partition got another leader in a later epoch", Schemes: moving, counts: "leader-change"},
		{Name: "controller-change", Doc: "the metadata quorum elected another controller", Schemes: quorumOnly},
		{Name: "isr-shrink", Doc: "a replica left the in-sync set", Schemes: pulling, counts: "isr-shrink"},
		{Name: "isr-expand", Doc: "a replica that caught up joined the in-sync set", Schemes: pulling, counts: "isr-expand"},
		{Name: "isr-alone", Doc: "a leader went on with itself alone in sync", Schemes: isrOnly, event: func(e *history.NodeEvent) bool {
			return e.Kind == "isr" && len(e.ISR) == 1
		}},
		{Name: "truncation", Doc: "a follower cut what its leader does not have", Schemes: pulling, counts: "truncation"},
		{Name: "truncation-deep", Doc: "more than one record was cut at once", Schemes: pulling, event: func(e *history.NodeEvent) bool {
			return e.Kind == "truncate" && e.To-e.From > 1
		}},
		{Name: "truncation-at-high-watermark", Doc: "a cut began right at the high watermark that its follower knew", Schemes: isrOnly, event: func(e *history.NodeEvent) bool {
			return e.Kind == "truncate" && e.From < e.To && e.From == e.Offset
		}},
		{
			Name: "unclean-election", Doc: "a replica outside the in-sync set was elected", Schemes: isrOnly,
			Needs: map[string]string{"unclean.leader.election.enable": "true"}, counts: "unclean-election",
		},
		{
			Name: "eligible-election", Doc: "a replica was elected that was not in sync any more, and eligible", Schemes: isrOnly,
			Unless: map[string]string{"eligible.leader.replicas.version": "0"}, event: emitted("eligible"),
		},
		{
			Name: "last-leader-election", Doc: "the last leader was elected, with nobody in sync or eligible", Schemes: isrOnly,
			Unless: map[string]string{"eligible.leader.replicas.version": "0", "unclean.leader.election.enable": "true"}, counts: "unclean-election",
		},
		{Name: "peer-down", Doc: "a node declared another one dead", Schemes: ownViews, event: emitted("peer-down")},
		{Name: "mirror-promoted", Doc: "a mirror took over with records in its log", Schemes: mirroredOnly, event: func(e *history.NodeEvent) bool {
			return e.Kind == "leader" && e.Offset > 0
		}},
		{Name: "mirror-discarded", Doc: "a node that came back threw its content away", Schemes: mirroredOnly, event: func(e *history.NodeEvent) bool {
			return e.Kind == "truncate" && e.From < e.To
		}},
		{Name: "recovery", Doc: "a node started again after it was killed or lost power"},
		{Name: "recovery-torn", Doc: "a node that started cut a torn tail", event: emitted("torn")},
		{Name: "corrupt-refused", Doc: "a node refused a log whose middle is damaged", event: emitted("corrupt")},
		{Name: "restart-clean", Doc: "a node started again after a graceful stop"},
		{Name: "not-leader", Doc: "a node that does not lead refused a send", op: answered(history.Send, "NOT_LEADER_OR_FOLLOWER", "NOT_LEADER_FOR_PARTITION")},
		{Name: "not-enough-replicas", Doc: "a send was refused because too few replicas were in sync", Schemes: isrOnly, op: answered(history.Send, "NOT_ENOUGH_REPLICAS")},
		{
			Name: "not-enough-after-append", Doc: "the in-sync set shrank below the minimum while a send was waiting", Schemes: isrOnly,
			op: answered(history.Send, "NOT_ENOUGH_REPLICAS_AFTER_APPEND"),
		},
		{Name: "replication-timeout", Doc: "a send was appended and not replicated in time", Schemes: pulling, op: answered(history.Send, "REQUEST_TIMED_OUT")},
		{Name: "read-not-leader", Doc: "a node that does not lead refused a read", op: answered(history.Poll, "NOT_LEADER_OR_FOLLOWER", "NOT_LEADER_FOR_PARTITION")},
		{Name: "read-old-epoch", Doc: "a read under an older epoch than the leader's was refused", Schemes: moving, op: answered(history.Poll, "FENCED_LEADER_EPOCH")},
		{Name: "read-new-epoch", Doc: "a read under a newer epoch than the node knew was refused", Schemes: moving, op: answered(history.Poll, "UNKNOWN_LEADER_EPOCH")},
		{Name: "read-out-of-range", Doc: "a read outside the log was refused", op: answered(history.Poll, "OFFSET_OUT_OF_RANGE")},
		{Name: "send-unanswered", Doc: "a send was never answered, and may have happened or not", op: func(op *history.Op) bool {
			return op.Kind == history.Send && op.Outcome == history.Indeterminate && op.Code != "REQUEST_TIMED_OUT"
		}},
		{Name: "unanswered-happened", Doc: "an indeterminate send stands in the drained log"},
		{Name: "unanswered-never-happened", Doc: "an indeterminate send is absent from the drained log"},
	}
}

// reached counts, for each rule, how often a history met its case.
func reached(h *history.History, counted map[string]int) map[string]int {
	n := map[string]int{}
	rules := Rules()
	for i := range h.Events {
		for _, r := range rules {
			if r.event != nil && r.event(&h.Events[i]) {
				n[r.Name]++
			}
		}
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Outcome == history.OK {
			continue
		}
		for _, r := range rules {
			if r.op != nil && r.op(op) {
				n[r.Name]++
			}
		}
	}
	for _, r := range rules {
		if r.counts != "" {
			n[r.Name] = counted[r.counts]
		}
	}
	restarts(h, n)
	unanswered(h, n)
	for name, c := range n {
		if c == 0 {
			delete(n, name)
		}
	}
	return n
}

// restarts counts changes of controller and starts after another life, by how that ended.
func restarts(h *history.History, n map[string]int) {
	type life struct{ begun, stopped bool }
	lives := map[string]life{}
	controller := ""
	for i := range h.Events {
		switch e := &h.Events[i]; e.Kind {
		case "controller":
			if controller != "" && e.Leader != controller {
				n["controller-change"]++
			}
			controller = e.Leader
		case "stop":
			lives[e.Node] = life{begun: true, stopped: true}
		case "start":
			switch l := lives[e.Node]; {
			case l.stopped:
				n["restart-clean"]++
			case l.begun:
				n["recovery"]++
			}
			lives[e.Node] = life{begun: true}
		}
	}
}

// unanswered counts indeterminate sends by whether a complete drain found them.
func unanswered(h *history.History, n map[string]int) {
	complete := map[string]bool{}
	for _, d := range h.Drains {
		complete[d.Key] = d.Complete
	}
	found := map[history.Value]bool{}
	for i := range h.Replicas {
		for _, rec := range h.Replicas[i].Records {
			if rec.Payload == history.Good {
				found[rec.Value] = true
			}
		}
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Send || op.Outcome != history.Indeterminate || !complete[h.Header.Keys[op.Key]] {
			continue
		}
		if found[op.Value] {
			n["unanswered-happened"]++
		} else {
			n["unanswered-never-happened"]++
		}
	}
}

// Unreached splits the rules that a scheme has under these options into reached
// and not reached.
func Unreached(scheme string, options map[string]string, exercised map[string]int) (met, missed []Rule) {
	for _, r := range Rules() {
		switch {
		case !r.has(scheme, options):
		case exercised[r.Name] > 0:
			met = append(met, r)
		default:
			missed = append(missed, r)
		}
	}
	return met, missed
}
