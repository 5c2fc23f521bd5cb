package reference

import (
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
)

// faults sums up what is planned for a cluster whose partitions have so many replicas.
func (s System) faults(spec system.Spec, replicas int) scheme.Faults {
	f := scheme.Faults{Nodes: len(spec.Nodes), Replicas: replicas, Planned: len(spec.Steps) > 0}
	if !f.Planned {
		for _, name := range spec.Faults {
			name, shape, _ := strings.Cut(name, ":")
			step := nemesis.Step{Fault: name, Shape: nemesis.Shape(shape)}
			count(&f, step)
			if kind, loses := named(step); loses {
				f.Losses = append(f.Losses, scheme.Loss{Kind: kind, Nodes: unplanned(name, f.Nodes)})
			}
		}
		f.Ended = f.Nodes
		return f
	}
	detection := s.Detection(spec)
	for _, step := range spec.Steps {
		count(&f, step)
		if ends(step) {
			f.Ended += targets(spec, step)
		}
		if kind, loses := lost(step); loses {
			f.Losses = append(f.Losses, scheme.Loss{Kind: kind, Nodes: targets(spec, step), Alone: alone(spec, step, detection), Down: down(spec, step, detection)})
		}
	}
	return f
}

// unplanned is how many nodes a fault that is only named may hit at once: the power
// goes on all, disks are lost by few.
func unplanned(name string, nodes int) int {
	if name == "power" {
		return nodes
	}
	return 1
}

// count adds a step to the numbers of faults by kind.
func count(f *scheme.Faults, step nemesis.Step) {
	switch step.Fault {
	case "kill", "power", "wipe", "restart", "corrupt-file", "disk-full", "disk-error", "memory":
		f.Deaths++
		if strings.HasPrefix(step.Fault, "disk-") {
			f.Disks++
		}
	case "stop", "rolling-restart", "membership", "upgrade", "downgrade":
		f.Stops++
	case "pause":
		f.Pauses++
	case "partition", "half-open", "reset":
		f.Cuts++
	case "delay", "loss", "duplicate", "reorder", "corrupt-packets", "rate", "disk-slow", "cpu":
		f.Slow++
	case "leadership":
		f.Leaders++
	case "clock":
		if step.Shape == nemesis.ClockSkew {
			f.Skews++
		} else {
			f.Clocks++
		}
	case "lock-remove":
		f.Locks++
	default:
		f.Other++
	}
}

// ends reports whether a step may end processes.
func ends(step nemesis.Step) bool { return !slices.Contains(orderly, step.Fault) }

// lost says how a step takes away or damages what disks hold, if it does.
func lost(step nemesis.Step) (scheme.LossKind, bool) {
	switch step.Fault {
	case "wipe", "corrupt-file":
		return scheme.LostDisk, true
	case "membership":
		if step.Shape == nemesis.ReplaceNode {
			return scheme.LostDisk, true
		}
		return scheme.LostMember, true
	case "power":
		return scheme.LostPower, true
	case "restart":
		switch step.Shape {
		case nemesis.RestartWipe:
			return scheme.LostDisk, true
		case nemesis.RestartPower:
			return scheme.LostPower, true
		}
	}
	return 0, false
}

// named is what lost says of a fault that is named and not planned yet: the worst of
// its shapes where none is named.
func named(step nemesis.Step) (scheme.LossKind, bool) {
	if step.Shape == "" && (step.Fault == "restart" || step.Fault == "membership") {
		return scheme.LostDisk, true
	}
	return lost(step)
}

// targets is how many nodes a step hits; all where that cannot be known.
func targets(spec system.Spec, step nemesis.Step) int {
	n, err := nemesis.CountTargets(step.Targets, spec.Nodes)
	if err != nil {
		return len(spec.Nodes)
	}
	return n
}

// end is when a step is healed at the latest, as planned: one that waits for an
// event may have to wait for it.
func end(step nemesis.Step) time.Duration {
	if step.When == "" {
		return step.Until
	}
	return step.Until + step.Patience()
}

// orderly are the faults that end no process. Of all others it is held for possible: a
// stop in order may lack the quorum or the time for it, and a broker whose disk is full
// or fails ends itself.
var orderly = []string{
	"partition", "pause", "delay", "loss", "duplicate", "reorder", "corrupt-packets", "rate", "reset", "half-open", "disk-slow", "clock", "leadership", "cpu",
}

// alone reports whether all are in sync when a step begins, and no other fault is on
// the cluster until it is healed.
func alone(spec system.Spec, step nemesis.Step, detection time.Duration) bool {
	harmless := []string{"clock"} // nothing is decided by wall clocks
	return !slices.ContainsFunc(spec.Steps, func(o nemesis.Step) bool {
		return o.ID != step.ID && o.At < end(step) && end(o)+detection > step.At && !slices.Contains(harmless, o.Fault)
	})
}

// down counts the nodes that may go down out of order around a step, from when all
// were in sync until they are again: a node as often as faults hit it.
func down(spec system.Spec, step nemesis.Step, detection time.Duration) int {
	around, count := []nemesis.Step{step}, 0
	for i := 0; i < len(around); i++ {
		if !slices.Contains(orderly, around[i].Fault) {
			n, err := nemesis.CountTargets(around[i].Targets, spec.Nodes)
			if err != nil {
				return len(spec.Nodes)
			}
			count += n
		}
		for _, o := range spec.Steps {
			met := o.At < end(around[i])+detection && end(o)+detection > around[i].At
			if met && !slices.ContainsFunc(around, func(a nemesis.Step) bool { return a.ID == o.ID }) {
				around = append(around, o)
			}
		}
	}
	return count
}
