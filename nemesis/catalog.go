package nemesis

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Capability is what a fault needs from an environment.
type Capability string

// The capabilities; each is one field of Target.
const (
	NeedsNetwork   Capability = "cut links"
	NeedsProcesses Capability = "control processes"
	NeedsDisks     Capability = "take the power from disks"
	NeedsRoles     Capability = "ask the system for its roles"
)

// Option describes one option of a fault.
type Option struct {
	Name, Unit, Default, Description string
}

// Info describes one fault of the catalogue.
type Info struct {
	Name        string
	Description string
	Proof       string      // its proof of effect in words
	Shapes      []ShapeInfo // partition only
	Targets     []string    // what --targets may say; NAME,… is understood everywhere but in shapes that choose themselves
	Options     []Option
	Needs       []Capability
}

// kind is one fault of the catalogue and how it is made.
type kind struct {
	Info
	// draw is what targets are drawn from where a plan says none.
	draw []string
	make func() Fault
	bind func(ctx context.Context, s *Scene) error
}

var nodeTargets = []string{TargetOne, TargetMinority, TargetMajority, TargetAll, TargetLeader, TargetFollower, TargetFollowers, TargetController, "NAME,…"}

func kinds() []kind {
	span := []Option{
		{"at", "duration", "drawn", "when it is injected, from the begin of the fault phase"},
		{"until", "duration", "drawn, at least three detection times after at", "when it is healed, from the begin of the fault phase"},
		{"targets", "", "drawn", "which nodes it hits"},
	}
	processes := []string{TargetLeader, TargetFollower, TargetMinority, TargetMajority, TargetAll}
	return []kind{
		{
			Info: Info{
				Name:        "partition",
				Description: "cuts links between nodes, or between clients and a node",
				Proof:       "numbered datagrams of every direction against the intended cuts, and rule counters from the system's own traffic",
				Shapes:      Shapes(),
				Targets:     []string{TargetOne, TargetLeader, TargetFollower, TargetController, "NAME"},
				Options: append([]Option{
					{"shape", "", "drawn", "who is cut off from whom"},
					{"port", "", "all traffic", "one kind of traffic only: client, peer or quorum; proven by rule counters alone, as datagrams pass"},
				}, span...),
				Needs: []Capability{NeedsNetwork, NeedsRoles},
			},
			make: func() Fault { return &partition{} },
			bind: bindPartition,
		},
		{
			Info: Info{
				Name:        "kill",
				Description: "kills processes with SIGKILL and starts them again when healed",
				Proof:       "the engine's process id and start time before, dead while it lasts, another start time and an answered request after it",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsProcesses, NeedsRoles},
			},
			draw: processes,
			make: func() Fault { return &kill{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "stop",
				Description: "stops processes with SIGTERM, one after another, and starts them again when healed",
				Proof:       "exit code 0 within the grace period, dead while it lasts, another start time and an answered request after it",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsProcesses, NeedsRoles},
			},
			draw: processes,
			make: func() Fault { return &stop{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "pause",
				Description: "freezes processes and thaws them when healed",
				Proof:       "the engine says that they are frozen and an application request times out; the same process answers after it",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsProcesses, NeedsRoles},
			},
			draw: processes,
			make: func() Fault { return &pause{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "power",
				Description: "kills processes, then drops what their disks had not synced, and starts them again when healed",
				Proof:       "a file synced before the clients started is still there, and a file written right before the cut and not synced is gone",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsProcesses, NeedsDisks, NeedsRoles},
			},
			draw: processes,
			make: func() Fault { return &power{} },
			bind: bindTargets,
		},
	}
}

// Known lists the faults of the catalogue.
func Known() []Info {
	all := kinds()
	infos := make([]Info, len(all))
	for i, k := range all {
		infos[i] = k.Info
	}
	return infos
}

func lookup(name string) (kind, error) {
	all := kinds()
	names := make([]string, len(all))
	for i, k := range all {
		if k.Name == name {
			return k, nil
		}
		names[i] = k.Name
	}
	return kind{}, fmt.Errorf("unknown fault %q: known are %s", name, strings.Join(names, ", "))
}

func unknownShape(s Shape) error {
	var names []string
	for _, i := range Shapes() {
		names = append(names, string(i.Name))
	}
	return fmt.Errorf("unknown shape %q of partition: known are %s", s, strings.Join(names, ", "))
}

func unknownNode(name string, nodes []string) error {
	return fmt.Errorf("unknown target %q: nodes are %s, and targets %s", name, strings.Join(nodes, ", "),
		strings.Join(nodeTargets[:len(nodeTargets)-1], ", "))
}

// Parse splits a list of faults as the command line takes it, such as
// "partition:one-way-in,kill", into names. An empty list, an unknown fault or
// shape, a shape on a fault without shapes and a name given twice are errors.
func Parse(list string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if _, _, err := split(name); err != nil {
			return nil, err
		}
		if slices.Contains(names, name) {
			return nil, fmt.Errorf("fault %q is named twice", name)
		}
		names = append(names, name)
	}
	return names, nil
}

// split takes "partition:ring" apart and looks both parts up.
func split(name string) (kind, Shape, error) {
	fault, shape, shaped := strings.Cut(name, ":")
	k, err := lookup(fault)
	if err != nil {
		return kind{}, "", err
	}
	if !shaped {
		return k, "", nil
	}
	if len(k.Shapes) == 0 {
		return kind{}, "", fmt.Errorf("fault %s has no shapes, and %q names one", fault, name)
	}
	if _, ok := shapeInfo(Shape(shape)); !ok {
		return kind{}, "", unknownShape(Shape(shape))
	}
	return k, Shape(shape), nil
}
