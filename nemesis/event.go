package nemesis

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// Event is what a step may wait for: something that the nodes report.
type Event string

// The events, by what the nodes say of themselves.
const (
	LeaderChange     Event = "leader-change"     // a node became the leader of a partition
	FollowerChange   Event = "follower-change"   // a node began to follow a leader of a partition
	InSyncShrink     Event = "isr-shrink"        // a leader went on with fewer replicas in sync
	InSyncExpand     Event = "isr-expand"        // a leader took a replica into the in-sync set
	Truncation       Event = "truncation"        // a follower cut its log
	ControllerChange Event = "controller-change" // a node became the leader of the metadata quorum
	NodeStart        Event = "start"             // a process started
)

// Events of the cluster that a step may wait for.
func eventList() []Event {
	return []Event{LeaderChange, FollowerChange, InSyncShrink, InSyncExpand, Truncation, ControllerChange, NodeStart}
}

func eventNames() string {
	var names []string
	for _, e := range eventList() {
		names = append(names, string(e))
	}
	return strings.Join(names, ", ")
}

// eventInterval is how often a step that waits looks for its event.
const eventInterval = time.Millisecond

// validateEvent refuses what does not go together.
func (s Step) validateEvent() error {
	ofEvent := s.Targets == TargetEvent || s.Targets == TargetOther
	switch {
	case s.When == "" && s.After != 0:
		return fmt.Errorf("%s comes %s after an event, and waits for none", s.Name(), s.After)
	case s.When == "" && s.Within != 0:
		return fmt.Errorf("%s waits %s for an event, and names none", s.Name(), s.Within)
	case s.When == "" && ofEvent:
		return fmt.Errorf("targets %q of %s are those of an event, and it waits for none", s.Targets, s.Name())
	case s.When == "":
		return nil
	case !slices.Contains(eventList(), s.When):
		return fmt.Errorf("unknown event %q: known are %s", s.When, eventNames())
	case s.Within < 0:
		return fmt.Errorf("%s waits %s for its event: it is 0s or more", s.Name(), s.Within)
	case s.After < 0 || s.After > s.Until-s.At:
		return fmt.Errorf("%s comes %s after its event: from 0s to its own length is possible", s.Name(), s.After)
	}
	return nil
}

// Patience is how long the step waits for its event at most.
func (s Step) Patience() time.Duration {
	if s.Within > 0 {
		return s.Within
	}
	return s.Until - s.At
}

// Happening is an event that happened.
type Happening struct {
	Event Event
	Node  string // that it is about: the one that reported it, or the new controller
	Key   string
	Epoch int32
	At    time.Duration // when the node reported it
}

// watch follows the events of a run.
type watch struct {
	events     Events
	seen       int
	inSync     map[string][]string // key → the newest in-sync set that was reported
	controller string
}

func newWatch(e Events) *watch { return &watch{events: e, inSync: map[string][]string{}} }

// read takes what came since the last time, and fires those that waited for it.
func (w *watch) read(now time.Duration, listening []*Life) {
	if w.events == nil {
		return
	}
	news := w.events.Since(w.seen)
	w.seen += len(news)
	for i := range news {
		h, ok := w.classify(&news[i])
		if !ok {
			continue
		}
		for _, l := range listening {
			if l.fires < 0 && l.scene.Step.When == h.Event && h.At >= l.since && slices.Contains(l.scene.Nodes, h.Node) {
				l.fire(h, now)
			}
		}
	}
}

func (w *watch) classify(e *history.NodeEvent) (Happening, bool) {
	h := Happening{Node: e.Node, Key: e.Key, Epoch: e.Epoch, At: time.Duration(e.At)}
	switch e.Kind {
	case "leader":
		h.Event = LeaderChange
		w.inSync[e.Key] = e.ISR
	case "follower":
		h.Event = FollowerChange
	case "truncate":
		h.Event = Truncation
	case "start":
		h.Event = NodeStart
	case "isr":
		before := w.inSync[e.Key]
		w.inSync[e.Key] = e.ISR
		h.Event = InSyncShrink
		if slices.ContainsFunc(e.ISR, func(n string) bool { return !slices.Contains(before, n) }) {
			h.Event = InSyncExpand
		}
	case "controller":
		if e.Leader == "" || e.Leader == w.controller {
			return h, false
		}
		w.controller = e.Leader
		h.Event, h.Node = ControllerChange, e.Leader
	default:
		return h, false
	}
	return h, true
}

// fire plans the injection.
func (l *Life) fire(h Happening, now time.Duration) {
	s := l.scene
	l.fires = max(now, h.At+s.Step.After)
	s.event = h
	what := fmt.Sprintf("%s, %s, at %s", h.Event, h.Node, h.At)
	if h.Key != "" {
		what = fmt.Sprintf("%s of %s in epoch %d, %s, at %s", h.Event, h.Key, h.Epoch, h.Node, h.At)
	}
	s.figures["event"], s.figures["after"] = what, s.Step.After.String()
}

// skip ends a life in which nothing is injected any more, and says why.
func (l *Life) skip(why string) {
	l.state = Spent
	l.record(history.Skipped, Proof{Detail: l.scene.Step.Name() + " was not injected: " + why})
}
