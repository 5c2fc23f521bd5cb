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
	NeedsNetwork    Capability = "cut links"
	NeedsProcesses  Capability = "control processes"
	NeedsDisks      Capability = "take the power from disks"
	NeedsRoles      Capability = "ask the system for its roles"
	NeedsRoom       Capability = "fill disks"
	NeedsDiskErrors Capability = "make writes on disks fail"
	NeedsSlowDisks  Capability = "slow disks down"
	NeedsWiping     Capability = "exchange disks for empty ones"
	NeedsFiles      Capability = "damage stored files"
	NeedsClocks     Capability = "set clocks"
	NeedsShaping    Capability = "disturb packets"
	NeedsResets     Capability = "spoil connections"
	NeedsAdmin      Capability = "administer the system's members and leaders"
	NeedsNewNodes   Capability = "put new nodes in place"
	NeedsLimits     Capability = "limit what processes use"
	NeedsVersions   Capability = "run two versions of the system"
	NeedsLocks      Capability = "remove lock files of a shared device"
	NeedsEvents     Capability = "tell the cluster's events"
	NeedsShell      Capability = "run commands of the user's own"
)

// Capabilities lists all of them, in the order in which errors name them.
func Capabilities() []Capability {
	return []Capability{
		NeedsNetwork, NeedsProcesses, NeedsDisks, NeedsRoles, NeedsRoom, NeedsDiskErrors, NeedsSlowDisks, NeedsWiping, NeedsFiles, NeedsClocks,
		NeedsShaping, NeedsResets, NeedsAdmin, NeedsNewNodes, NeedsLimits, NeedsVersions, NeedsLocks, NeedsEvents, NeedsShell,
	}
}

// Option describes one option of a fault.
type Option struct {
	Name, Unit, Default, Description string
}

// Info describes one fault of the catalogue.
type Info struct {
	Name        string
	Description string
	Proof       string      // its proof of effect in words
	Shapes      []ShapeInfo // empty: the fault has one shape only, which has no name
	Targets     []string    // what --targets may say; NAME,… is understood everywhere but in shapes that choose themselves
	Options     []Option
	Needs       []Capability // of every shape; see NeedsOf
}

// NeedsOf returns what a fault of this shape needs; "" is any of its shapes.
func (i Info) NeedsOf(s Shape) []Capability {
	if i.Name == "restart" {
		return append(restartNeeds(s), i.Needs...)
	}
	return i.Needs
}

// kind is one fault of the catalogue and how it is made.
type kind struct {
	Info
	// draw is what targets are drawn from where a plan says none.
	draw []string
	// settled: it takes data away, so the system must have had the planned time to
	// recover from what came before, however long that took to heal.
	settled bool
	// calm: it is healed only when no fault that an event brought is active.
	calm bool
	make func(Shape) Fault
	bind func(ctx context.Context, s *Scene) error
}

var nodeTargets = []string{TargetOne, TargetMinority, TargetMajority, TargetAll, TargetLeader, TargetFollower, TargetFollowers, TargetController, TargetEvent, TargetOther, "NAME,…"}

func kinds() []kind {
	span := []Option{
		{"at", "duration", "drawn", "when it is injected, from the begin of the fault phase"},
		{"until", "duration", "drawn, at least three detection times after at", "when it is healed, from the begin of the fault phase"},
		{"targets", "", "drawn", "which nodes it hits"},
		{"when", "", "none", "the event of the cluster that it waits for from at on: " + eventNames()},
		{"within", "duration", "as long as it lasts", "how long it waits for that event at most"},
		{"after", "duration", "0s", "from that event to the injection"},
	}
	processes := []string{TargetLeader, TargetFollower, TargetMinority, TargetMajority, TargetAll}
	// What takes data away hits a minority, unless a plan says otherwise.
	few := []string{TargetLeader, TargetFollower, TargetMinority}
	return []kind{
		{
			Info: Info{
				Name:        "partition",
				Description: "cuts links between nodes, or between clients and a node",
				Proof:       "numbered datagrams of every direction against the intended cuts, and rule counters from the system's own traffic",
				Shapes:      Shapes(),
				Targets:     []string{TargetOne, TargetLeader, TargetFollower, TargetController, TargetEvent, TargetOther, "NAME"},
				Options: append([]Option{
					{"shape", "", "drawn", "who is cut off from whom"},
					{"port", "", "all traffic", "one kind of traffic only: client, peer or quorum; proven by rule counters alone, as datagrams pass"},
				}, span...),
				Needs: []Capability{NeedsNetwork, NeedsRoles},
			},
			make: func(Shape) Fault { return &partition{} },
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
			make: func(Shape) Fault { return &kill{} },
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
			make: func(Shape) Fault { return &stop{} },
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
			make: func(Shape) Fault { return &pause{} },
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
			draw:    processes,
			settled: true,
			make:    func(Shape) Fault { return &power{} },
			bind:    bindTargets,
		},
		{
			Info: Info{
				Name:        "rolling-restart",
				Description: "stops nodes with SIGTERM and starts them again, one after another; the last one comes back when healed",
				Proof:       "exit code 0 of each, other start times and answered requests; the last one is dead while it lasts",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsProcesses, NeedsRoles},
			},
			draw: []string{TargetAll, TargetMajority},
			make: func(Shape) Fault { return &rollingRestart{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "wipe",
				Description: "kills processes and brings them back with an empty data volume when healed; the metadata log is on another volume and stays",
				Proof:       "the process is dead and its data volume empty while it lasts; the node reports at its start that it found no record",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsWiping, NeedsProcesses, NeedsRoles},
			},
			draw:    few,
			settled: true,
			make:    func(Shape) Fault { return &wipe{} },
			bind:    bindTargets,
		},
		{
			Info: Info{
				Name:        "restart",
				Description: "ends processes and starts them again at once, before anybody has missed them, with what their disks hold, without what was not synced, or with empty disks",
				Proof:       "the processes were dead; other start times and answered requests while it lasts and after it; for power and wipe, what those prove of disks",
				Shapes:      restarts(),
				Targets:     nodeTargets,
				Options:     append([]Option{{"shape", "", "drawn", "what the disks lose"}}, span...),
				Needs:       []Capability{NeedsProcesses, NeedsRoles},
			},
			draw:    few,
			settled: true,
			make:    func(s Shape) Fault { return newRestart(s) },
			bind:    bindTargets,
		},
		{
			Info: Info{
				Name:        "disk-full",
				Description: "fills the disks of partition logs; processes that end over it are started again when healed",
				Proof:       "a write of the harness on the same disk gives ENOSPC, and succeeds before and after it",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsRoom, NeedsProcesses, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &diskFull{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "disk-error",
				Description: "lets writes on the disks of partition logs fail; processes that end over it are started again when healed",
				Proof:       "a write of the harness on the same disk gives EIO, and succeeds before and after it",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsDiskErrors, NeedsProcesses, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &diskError{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "disk-slow",
				Description: "slows syncs on the disks of partition logs by a factor of 30, 100 or 300, drawn, up to about a second",
				Proof:       "the measured time of a sync of the harness on the same disk, before, during and after it",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsSlowDisks, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &diskSlow{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "corrupt-file",
				Description: "damages a stored file of partition logs, while the process is down or runs, as drawn; the process is restarted when healed",
				Proof:       "the file's digest before and after the damage, and still before healing; another start time and an answered request after it",
				Shapes:      damages(),
				Targets:     nodeTargets,
				Options:     append([]Option{{"shape", "", "drawn", "what is damaged"}}, span...),
				Needs:       []Capability{NeedsFiles, NeedsProcesses, NeedsRoles},
			},
			draw:    few,
			settled: true,
			make:    func(Shape) Fault { return &corruptFile{} },
			bind:    bindTargets,
		},
		{
			Info: Info{
				Name:        "lock-remove",
				Description: "removes or replaces the lock files of a storage device that nodes share, under whoever holds the locks; nothing is put back",
				Proof:       "the inode of every lock file before and after, and still before healing; every lock has a file again after it",
				Shapes:      lockRemovals(),
				Targets:     []string{TargetAll},
				Options:     append([]Option{{"shape", "", "drawn", "whether other files take their places"}}, span...),
				Needs:       []Capability{NeedsLocks, NeedsRoles},
			},
			draw: []string{TargetAll},
			make: func(Shape) Fault { return &lockRemove{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "clock",
				Description: "sets wall clocks wrong, and right when healed; monotonic time goes on",
				Proof:       "the node's clock, as it tells it itself, against the true time: the whole jump, the sum of a drift since it began, or the turns of a strobe; right after it",
				Shapes:      clockShapes(),
				Targets:     nodeTargets,
				Options:     append([]Option{{"shape", "", "drawn", "how it is set"}}, span...),
				Needs:       []Capability{NeedsClocks, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &clock{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "delay",
				Description: "delays every packet from and to nodes by 10 to 200 ms, drawn, with jitter of half as much on top",
				Proof:       "measured round trips of datagrams on each link, before, during and after it, and packets of the system that were delayed",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsShaping, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &delay{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "loss",
				Description: "loses 10, 20 or 30 % of the packets from and to nodes, drawn",
				Proof:       "datagrams lost in each direction of each link, none after it, and packets of the system that were lost",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsShaping, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &loss{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "duplicate",
				Description: "lets 10, 20 or 30 % of the packets from and to nodes arrive twice, drawn; TCP drops the second copy",
				Proof:       "datagrams that arrive twice in each direction of each link, none after it, and packets of the system that were duplicated",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsShaping, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &duplicate{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "reorder",
				Description: "lets 10, 20 or 30 % of the packets from and to nodes overtake the others, which are delayed by 10 to 100 ms, drawn; TCP puts them back into order, late",
				Proof:       "datagrams that are overtaken in each direction of each link, none after it, and packets of the system that overtook others",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsShaping, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &reorder{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "corrupt-packets",
				Description: "inverts a bit in 10, 20 or 30 % of the packets from and to nodes, drawn; their checksums do not fit any more, so TCP loses them",
				Proof:       "datagrams that arrive damaged in each direction of each link, none after it, and packets of the system that were damaged",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsShaping, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &corruptPackets{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "rate",
				Description: "lets 32, 128 or 512 KiB per second through in each direction between nodes and each other endpoint, drawn; half a second's worth waits, the rest is lost",
				Proof:       "the time over which large datagrams arrive, from each end of each link, before, during and after it, and packets of the system that had to wait",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsShaping, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &rate{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "reset",
				Description: "resets the connections of nodes, and answers their dials and those to them with resets",
				Proof:       "a dial from each other endpoint is reset while the same process runs, connections of the system were reset; dials are accepted after it",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsResets, NeedsProcesses, NeedsRoles},
			},
			draw: []string{TargetOne, TargetLeader, TargetFollower},
			make: func(Shape) Fault { return newReset() },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "half-open",
				Description: "drops every TCP segment from and to nodes but those that begin a connection: connections go silent, and new ones open and stay silent",
				Proof:       "a dial from each other endpoint opens and is not answered while the same process runs, segments of the system were dropped; dials are answered after it",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsResets, NeedsProcesses, NeedsRoles},
			},
			draw: []string{TargetOne, TargetLeader, TargetFollower},
			make: func(Shape) Fault { return newHalfOpen() },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "cpu",
				Description: "leaves processes 50, 20 or 10 % of the processor time that they took in the second before, drawn",
				Proof:       "what the machine counts of each process: its quota, and periods in which it had to wait, more and more; the limits of before and an answered request after it",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsLimits, NeedsProcesses, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &cpu{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "memory",
				Description: "leaves processes 8, 16 or 32 MiB, drawn, beyond what cannot be taken from them, and fills that with cached files; processes that are killed over it are started again when healed",
				Proof:       "what the machine counts of each process: its limit, and how often it met that, more and more; the limits of before and an answered request after it",
				Targets:     nodeTargets,
				Options:     span,
				Needs:       []Capability{NeedsLimits, NeedsProcesses, NeedsRoles},
			},
			draw: processes,
			make: func(Shape) Fault { return &memory{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "upgrade",
				Description: "stops nodes with SIGTERM and starts them with another version of the system, one after another, and with their own again when healed",
				Proof:       "the version that each node says it runs, before, while it lasts and after it; other start times and answered requests after it",
				Shapes:      upgrades(),
				Targets:     nodeTargets,
				Options: append([]Option{
					{"shape", "", "drawn", "which nodes: rolling takes all"},
					{"upgrade", "", "this source, with another version stamp", "of the whole plan: the image to go to"},
				}, span...),
				Needs: []Capability{NeedsVersions, NeedsProcesses, NeedsRoles},
			},
			draw: []string{TargetOne, TargetMinority, TargetLeader, TargetFollower},
			make: func(Shape) Fault { return &upgrade{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "membership",
				Description: "adds, removes or replaces a node by the system's own administration; an added one leaves and a removed one comes back, empty, when healed",
				Proof:       "the system's own list of members: the node, which identity it has, whether it votes and lives, and its replicas",
				Shapes:      changesOfMembers(),
				Targets:     []string{TargetOne, TargetLeader, TargetFollower, TargetController, "NAME"},
				Options:     append([]Option{{"shape", "", "drawn", "what changes; add brings a node of its own"}}, span...),
				Needs:       []Capability{NeedsProcesses, NeedsWiping, NeedsRoles, NeedsAdmin, NeedsNewNodes},
			},
			draw:    []string{TargetOne, TargetLeader, TargetFollower, TargetController},
			settled: true,
			calm:    true,
			make:    func(Shape) Fault { return &membership{} },
			bind:    bindMember,
		},
		{
			Info: Info{
				Name:        "leadership",
				Description: "moves the leadership of a partition to other in-sync replicas by the system's own administration, and gives the former preference back when healed",
				Proof:       "the leader and its epoch, as the system itself says, before, after each move and before healing",
				Shapes:      movesOfLeaders(),
				Targets:     []string{TargetLeader},
				Options:     append([]Option{{"shape", "", "drawn", "once, or many times"}}, span...),
				Needs:       []Capability{NeedsRoles, NeedsAdmin},
			},
			draw: []string{TargetLeader},
			calm: true,
			make: func(Shape) Fault { return &leadership{} },
			bind: bindTargets,
		},
		{
			Info: Info{
				Name:        "exec",
				Description: "runs commands of the user's own on the harness's host, told the targets: one injects, one proves, one heals",
				Proof:       "the proving command's exit code: another than 0 before it, 0 while it lasts, another than 0 after it",
				Targets:     nodeTargets,
				Options: append([]Option{
					{"inject", "", "none: it must be given", "the command that injects it"},
					{"prove", "", "none: it must be given", "the command that exits with 0 where its effect is there, and with 1 to 125 where it is not"},
					{"heal", "", "none: it must be given", "the command that heals it; it runs once the injecting one was started, whatever became of that"},
					{"limit", "duration", DefaultCommandLimit.String(), "how long each command may take"},
				}, span...),
				Needs: []Capability{NeedsShell, NeedsRoles},
			},
			draw: []string{TargetOne, TargetLeader, TargetFollower},
			make: func(Shape) Fault { return &commands{} },
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

// shape returns the shape of k by name.
func (k kind) shape(s Shape) (ShapeInfo, error) {
	i := slices.IndexFunc(k.Shapes, func(i ShapeInfo) bool { return i.Name == s })
	if i < 0 {
		return ShapeInfo{}, unknownShape(k.Name, k.Shapes, s)
	}
	return k.Shapes[i], nil
}

// ownTargets returns what alone a shape of k takes as its targets, "" where it may
// be chosen.
func (k kind) ownTargets(s Shape) string {
	switch {
	case k.Name == "upgrade" && s == RollingUpgrade:
		return TargetAll
	case k.Name == "leadership":
		return TargetLeader
	case k.Name == "lock-remove":
		return TargetAll // the device is all nodes'
	case k.Name == "membership" && s == AddNode:
		return TargetOne // the node that comes is drawn from nothing
	}
	return ""
}

func unknownShape(fault string, shapes []ShapeInfo, s Shape) error {
	var names []string
	for _, i := range shapes {
		names = append(names, string(i.Name))
	}
	return fmt.Errorf("unknown shape %q of %s: known are %s", s, fault, strings.Join(names, ", "))
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
	if _, err := k.shape(Shape(shape)); err != nil {
		return kind{}, "", err
	}
	return k, Shape(shape), nil
}
