package reference

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
)

// Schemes whose nodes go by their own views (metadata=peers).

func ownViews(scheme string) bool { return scheme == "classic" || scheme == "mirrored" }

// synchronising is held for long enough to bring a mirror up to date.
const synchronising = 1500 * time.Millisecond

// detection is the failure detector's time, and what a mirror that came back needs.
func detection(o options.Values) time.Duration {
	return o.Duration("net_ticktime.ms") + synchronising
}

// copies is the number of copies that ha-mode asks for.
func copies(spec system.Spec, o options.Values) int {
	switch o.String("ha-mode") {
	case "exactly":
		n, err := strconv.Atoi(o.String("ha-params"))
		if err != nil {
			return 0
		}
		return min(n, len(spec.Nodes))
	case "nodes":
		return len(strings.Split(o.String("ha-params"), ","))
	}
	return len(spec.Nodes)
}

func validateOwn(spec system.Spec, o options.Values) error {
	if spec.Scheme != "mirrored" {
		return nil
	}
	params := o.String("ha-params")
	switch o.String("ha-mode") {
	case "exactly":
		if n, err := strconv.Atoi(params); err != nil || n < 1 {
			return fmt.Errorf("ha-params=%q: with ha-mode=exactly a number of copies from 1 is wanted", params)
		}
	case "nodes":
		for _, name := range strings.Split(params, ",") {
			if !slices.Contains(spec.Nodes, name) {
				return fmt.Errorf("ha-params=%q: with ha-mode=nodes names of nodes are wanted, separated by commas; %q is none of %v", params, name, spec.Nodes)
			}
		}
	}
	return nil
}

// ownContract is what the schemes promise. Both show a write as soon as it is
// appended, so neither promises that what was read stays.
//
//   - classic: what was acknowledged survives if queue and messages are durable, a
//     message that reaches no queue comes back, and no disk is lost.
//   - mirrored: what was acknowledged survives the death of nodes as long as one of the
//     copies that have everything lives on. A mirror that came back is such a copy only
//     once it was synchronised. Nothing is promised where a node may be taken for dead
//     that is not: partitions, pauses, broken connections.
func (s System) ownContract(spec system.Spec, o options.Values) history.Contract {
	c := history.Contract{Expect: spec.Expect, AtMostOnce: true, Order: "producer", Offsets: "global", Recovers: true}
	synced := o.String("fsync") == "always"
	switch spec.Scheme {
	case "classic":
		kept := !slices.ContainsFunc(planned(spec), func(step nemesis.Step) bool { return loses("single", step, synced) })
		c.Acknowledged = o.Acks() != 0 && o.Bool("durable") && o.Int("delivery_mode") == 2 && o.Bool("mandatory") && kept
		c.Fresh, c.Recovers, c.PerReplica = c.Acknowledged, kept, true
	default:
		c.Acknowledged = o.Acks() != 0 && s.keepsMaster(spec, o)
		c.Recovers, c.PerReplica = c.Acknowledged, c.Acknowledged && o.String("ha-sync-mode") == "automatic"
	}
	return c
}

// planned are the steps of a schedule, or one for each fault that is named.
func planned(spec system.Spec) []nemesis.Step {
	if len(spec.Steps) > 0 {
		return spec.Steps
	}
	var steps []nemesis.Step
	for i, f := range spec.Faults {
		name, shape, _ := strings.Cut(f, ":")
		steps = append(steps, nemesis.Step{ID: i, Fault: name, Shape: nemesis.Shape(shape), Targets: nemesis.TargetAll})
	}
	return steps
}

// deadly are the faults that end processes and do nothing else to what other nodes see.
var deadly = []string{"kill", "stop", "restart", "rolling-restart", "power", "wipe", "disk-full", "disk-error"}

// keepsMaster reports whether a copy with everything is left whatever dies.
func (s System) keepsMaster(spec system.Spec, o options.Values) bool {
	n := copies(spec, o)
	automatic, whenSynced := o.String("ha-sync-mode") == "automatic", o.String("ha-promote-on-failure") == "when-synced"
	shutdown := o.String("ha-promote-on-shutdown") == "when-synced"
	deaths := 0
	for _, step := range planned(spec) {
		switch {
		case slices.Contains([]string{"clock", "disk-slow"}, step.Fault):
			continue
		case !slices.Contains(deadly, step.Fault):
			return false
		}
		hit, err := nemesis.CountTargets(step.Targets, spec.Nodes)
		if err != nil {
			return false
		}
		if step.Fault == "rolling-restart" {
			hit = len(spec.Nodes)
		}
		deaths += hit
		if loses("mirrored", step, o.String("fsync") == "always") && (!automatic || s.down(spec, step) >= n) {
			return false
		}
		// Without waiting for its synchronisation a mirror may be promoted that lacks
		// something, as soon as nobody else is left.
		if automatic && !(whenSynced && shutdown) && s.down(spec, step) >= n {
			return false
		}
	}
	return automatic || whenSynced && shutdown || deaths < n
}
