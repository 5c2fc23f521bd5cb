package takeover

import (
	"fmt"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/pull"
	"github.com/faultline-mq/faultline/broker/scheme/standby"
)

const (
	fencingOption = "takeover.fencing"
	dataOption    = "data"
	restoreOption = "restore"
	whenOption    = "restore.on"
	rerouteOption = "client.reroute"
	extentOption  = "takeover"
	managerOption = "manager"
	dampingOption = "restore.delay.ms"
)

// Values of options.
const (
	blind  = "blind"
	resync = "resync"
)

// settings are the scheme's options.
type settings struct {
	witness, epochs, sync, cluster, atReturn bool
	data, restore, reroute, manager          string
	damping                                  time.Duration
}

func read(o options.Values) settings {
	return settings{
		witness: o.String(fencingOption) == "witness", epochs: o.String(fencingOption) == "epoch", sync: o.String(dataOption) == "sync",
		cluster: o.String(extentOption) != "pair", atReturn: o.String(whenOption) == "main-up",
		data: o.String(dataOption), restore: o.String(restoreOption), reroute: o.String(rerouteOption), manager: o.String(managerOption),
		damping: o.Duration(dampingOption),
	}
}

// copied reports whether the backup gets the main queue's messages.
func (s settings) copied() bool { return s.data != "none" }

// Definition describes the scheme. Its defaults are the article's.
func Definition() scheme.Definition {
	const owner = "scheme takeover"
	return scheme.Definition{
		Name: "takeover", Doc: "a main queue and a backup that takes over when it goes down, and a restore; fenced or not, with its data or without",
		New: New, Metadata: scheme.Peers, Election: scheme.Replicas, Replicas: scheme.Named, Copies: copies,
		Authority: func(o options.Values) scheme.Metadata {
			if read(o).witness {
				return scheme.Raft
			}
			return scheme.Peers
		},
		Elects: func(o options.Values) scheme.Election {
			if read(o).witness {
				return scheme.InSync
			}
			return scheme.Replicas
		},
		Options: []options.Option{
			{Name: fencingOption, Owner: owner, Type: "enum", Default: "none", Values: []string{"none", "epoch", "witness"}, Doc: "what keeps a main queue that was taken for dead from going on: nothing; the higher epoch, once it meets it; or the metadata quorum, without which nobody goes on alone"},
			{Name: dataOption, Owner: owner, Type: "enum", Default: "none", Values: []string{"none", "async", "sync"}, Doc: "what the backup has: nothing; what it has fetched; or all that was acknowledged while it was in sync"},
			{Name: restoreOption, Owner: owner, Type: "enum", Default: blind, Values: []string{blind, resync, "manual"}, Doc: "how the main queue takes over again: with what it has; after it has caught up; or not by itself. With a witness always after it has caught up, every leader.rebalance.interval.ms"},
			{Name: whenOption, Owner: owner, Type: "enum", Default: "backup-down", Values: []string{"backup-down", "main-up"}, Doc: "with restore=blind and data: what restores the main queue: that the backup goes down, or that the main queue is back"},
			{Name: dampingOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "1500", Min: 0, Max: 600_000, Doc: "with restore=resync: the main queue must have been in sync for so long before it takes over again"},
			{Name: rerouteOption, Owner: owner, Type: "enum", Default: "list", Values: []string{"none", "list", "proxy"}, Doc: "what clients know: the main queue alone; the active node; or any node, which passes requests on"},
			{Name: extentOption, Owner: owner, Type: "enum", Default: "pair", Values: []string{"pair", "cluster", "both"}, Doc: "who takes over: the backup; any other node; both is the same with copies on all of them"},
			{Name: managerOption, Owner: owner, Type: "string", Default: "", Doc: "without a witness: the node without which nobody takes over or is restored; none: each node listens by itself"},
		},
		Also:     shared(),
		Check:    check,
		Messages: []scheme.Message{{Number: 3, Type: (*pull.Fetch)(nil)}, {Number: 4, Type: (*pull.FetchAnswer)(nil)}, {Number: 80, Type: (*Status)(nil)}},
		Detection: func(o options.Values) time.Duration {
			return max(standby.Detection(o), o.Duration("net_ticktime.ms")+o.Duration(dampingOption))
		},
		Promise: promise,
		Hunted:  map[string]string{fencingOption: "witness", dataOption: "sync"},
	}
}

// shared are the options of scheme standby about slaves that lag.
func shared() []options.Option {
	return slices.DeleteFunc(standby.Options(), func(o options.Option) bool { return !slices.Contains(standby.Lag, o.Name) })
}

// copies: the main queue and its backup, or all nodes.
func copies(o options.Values, nodes int) int {
	s := read(o)
	switch {
	case !s.copied() && !s.witness:
		return 1
	case s.cluster:
		return nodes
	}
	return min(nodes, 2)
}

func check(o options.Values) error {
	s := read(o)
	switch {
	case s.witness && s.reroute != "list":
		return fmt.Errorf("%s=%s: with %s=witness clients are told the active node; use %s=list", rerouteOption, s.reroute, fencingOption, rerouteOption)
	case s.witness && s.manager != "":
		return fmt.Errorf("%s=%s: with %s=witness the metadata quorum decides; leave it empty", managerOption, s.manager, fencingOption)
	case s.witness && !s.copied():
		return fmt.Errorf("%s=none: a witness keeps who is in sync; use %s=async or sync", dataOption, dataOption)
	}
	return nil
}

// promise. With a witness whoever is active has all that was acknowledged by all in
// sync. Without one only deaths and stops are survived, where the view of the others is
// right: whatever delays or cuts messages may make two nodes active, and so may a take-over by several at once. That one epoch has one
// active node is judged always: it is what fencing is for.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	s := read(o)
	whole := len(f.Lost(o)) == 0 && !f.Leaves()
	// Clients that know the main queue alone are lost where it stays the backup.
	stranded := s.reroute == "none" && s.copied() && s.restore != resync && !(s.restore == blind && s.atReturn)
	p := scheme.Promise{Epochs: true, PerReplica: s.copied(), Recovers: whole && !stranded}
	sound := s.witness || f.Planned && f.Pauses+f.Cuts+f.Slow+f.Other+f.Leaders == 0 && !(s.cluster && s.copied())
	p.Acknowledged = whole && sound && s.sync && o.Acks() != 0 && (s.witness || s.restore != blind)
	if s.witness {
		p.Acknowledged = p.Acknowledged && o.Acks() == -1 && !o.Bool("unclean.leader.election.enable")
	}
	if f.Planned && f.Deaths+f.Stops+f.Pauses+f.Cuts+f.Slow+f.Other+f.Leaders == 0 {
		p.Acknowledged = whole && o.Acks() != 0
	}
	p.CommittedReads, p.AtMostOnce, p.Monotonic = p.Acknowledged, p.Acknowledged, p.Acknowledged
	if p.Acknowledged {
		p.Order, p.Offsets = "producer", "global"
	} else {
		p.Order, p.Offsets = "none", "none"
	}
	p.Linearizable = p.Acknowledged && s.witness
	return p
}
