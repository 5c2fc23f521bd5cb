package rabbitmq

import (
	"slices"
	"strings"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
)

// What faults do to nodes, as far as promises depend on it.
var (
	// Processes end and begin again on the same data.
	deaths = []string{"kill", "stop", "restart", "rolling-restart"}
	// Nodes take each other for dead while they live.
	doubts = []string{"partition", "pause", "loss", "delay", "duplicate", "reorder", "corrupt-packets", "rate", "reset", "half-open", "cpu", "memory"}
	// What was not synced is gone.
	power = []string{"power"}
	// The disk refuses, and what is on it stays.
	disks = []string{"disk-full", "disk-slow", "disk-error"}
)

// faults are those of a spec, by name: of its schedule, or else as they are planned.
func faults(spec system.Spec) []string {
	var names []string
	for _, s := range spec.Steps {
		names = append(names, kind(s.Name()))
	}
	if len(names) == 0 {
		for _, f := range spec.Faults {
			names = append(names, kind(f))
		}
	}
	return names
}

// kind is the fault that a name with a shape means, as far as promises depend on it.
func kind(name string) string {
	fault, shape, _ := strings.Cut(name, ":")
	if fault == "restart" && nemesis.Shape(shape) == nemesis.RestartPower {
		return "power"
	}
	return fault
}

// only reports whether all faults of a spec are among some.
func only(spec system.Spec, kinds ...[]string) bool {
	return !slices.ContainsFunc(faults(spec), func(f string) bool {
		return !slices.ContainsFunc(kinds, func(k []string) bool { return slices.Contains(k, f) })
	})
}

// Contract implements system.System. Acknowledged is basic.ack, and no basic.return of
// the message before it. docs/systems/rabbitmq.md says where each promise is from.
func (System) Contract(spec system.Spec) history.Contract {
	v := options(spec)
	c := history.Contract{Expect: spec.Expect, Order: "none", Offsets: "none", Delivery: "at-least-once"}
	kept := v.is("mandatory") && v["delivery_mode"] == "2" && v["durable"] != "false"
	switch spec.Scheme {
	case quorum:
		// Messages of quorum queues are always persistent, confirmed once a majority synced
		// them, and a leader without a majority confirms nothing.
		c.Acknowledged = v.is("mandatory") && only(spec, deaths, doubts, power, disks)
		c.Recovers = only(spec, deaths, doubts, power, disks)
		c.Order = "producer"
	case mirrored:
		// A partition or a pause makes a master on each side. A death leaves the eldest
		// mirror, synchronised or not unless it must be.
		c.Acknowledged = kept && only(spec, deaths) && (len(spec.Steps) == 1 || v["ha-promote-on-failure"] == "when-synced" && v["ha-promote-on-shutdown"] == "when-synced")
		c.Recovers = only(spec, deaths, power)
	default:
		// The only copy is on its disk, and waits there for its node. Who takes that node
		// for dead returns what is sent to it.
		c.Acknowledged = kept && only(spec, deaths, doubts, power, disks)
		c.Recovers = kept && only(spec, deaths, doubts, power, disks)
		c.Order = "producer"
	}
	if len(faults(spec)) == 0 {
		c.Acknowledged = true
	}
	c.Redelivers = c.Acknowledged
	return c
}
