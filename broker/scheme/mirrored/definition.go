package mirrored

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
)

const (
	modeOption     = "ha-mode"
	paramsOption   = "ha-params"
	syncOption     = "ha-sync-mode"
	batchOption    = "ha-sync-batch-size"
	failureOption  = "ha-promote-on-failure"
	shutdownOption = "ha-promote-on-shutdown"
	confirmOption  = "confirm.on.mirror.death"
	tickOption     = "net_ticktime.ms"

	always, whenSynced = "always", "when-synced"
	automatic          = "automatic"
	beforeCheck        = "before-check"
	exactly, named     = "exactly", "nodes"
)

// synchronising is held for long enough to bring a mirror up to date, where a partition
// is to serve again. What is promised does not rest on it: a synchronisation takes as
// long as there are messages and steps.
const synchronising = 1500 * time.Millisecond

// Definition describes the scheme.
func Definition() scheme.Definition {
	const owner = "scheme mirrored"
	promotions := []string{always, whenSynced}
	return scheme.Definition{
		Name: "mirrored", Doc: "a master pushes to all mirrors; the eldest is promoted by each node's own view (RabbitMQ's mirrored queues)",
		New: New, Metadata: scheme.Peers, Election: scheme.Replicas, Replicas: scheme.All, Copies: copies,
		Options: []options.Option{
			{Name: modeOption, Owner: owner, Type: "enum", Default: "all", Values: []string{"all", exactly, named}, Draw: []string{"all", exactly}, Doc: "which nodes have a copy: all, as many as ha-params says, or those that it names"},
			{Name: paramsOption, Owner: owner, Type: "string", Default: "2", Doc: "with ha-mode=exactly the number of copies, the master among them; with nodes their names, separated by commas"},
			{Name: syncOption, Owner: owner, Type: "enum", Default: "manual", Values: []string{"manual", automatic}, Draw: []string{"manual", automatic}, Doc: "automatic: a new mirror is brought up to date at once, and the queue is blocked meanwhile; manual: it gets only what is written from now on"},
			{Name: batchOption, Owner: owner, Type: "int", Default: "4096", Min: 1, Max: 1_000_000, Draw: []string{"16", "256", "4096"}, Doc: "messages of one step of a synchronisation"},
			{Name: failureOption, Owner: owner, Type: "enum", Default: always, Values: promotions, Draw: promotions, Doc: "which mirrors may take over when the master fails"},
			{Name: shutdownOption, Owner: owner, Type: "enum", Default: whenSynced, Values: promotions, Draw: promotions, Doc: "which mirrors may take over when the master stops in order"},
			{Name: confirmOption, Owner: owner, Type: "enum", Default: beforeCheck, Values: []string{beforeCheck, "after-check"}, Draw: []string{beforeCheck, "after-check"}, Doc: "when what only a dead mirror lacks is confirmed: before or after the master has looked whether it is in the minority"},
		},
		Check: check,
		Messages: []scheme.Message{
			{Number: 60, Type: (*Probe)(nil)},
			{Number: 61, Type: (*Tail)(nil)},
			{Number: 62, Type: (*Pull)(nil)},
			{Number: 63, Type: (*Rest)(nil)},
			{Number: 64, Type: (*Begin)(nil)},
			{Number: 65, Type: (*Push)(nil)},
			{Number: 66, Type: (*Have)(nil)},
		},
		Detection: func(o options.Values) time.Duration { return o.Duration(tickOption) + synchronising },
		Promise:   promise,
		Hunted:    map[string]string{syncOption: automatic, failureOption: whenSynced, shutdownOption: whenSynced},
		Survived:  []string{"kill", "stop", "rolling-restart", "restart:kill", "power", "restart:power", "wipe", "clock:jump", "clock:drift", "clock:strobe"},
	}
}

// copies is how many ha-mode asks for.
func copies(o options.Values, nodes int) int {
	switch o.String(modeOption) {
	case exactly:
		n, _ := strconv.Atoi(o.String(paramsOption)) // check saw to it
		return min(n, nodes)
	case named:
		return len(strings.Split(o.String(paramsOption), ","))
	}
	return nodes
}

func check(o options.Values) error {
	params := o.String(paramsOption)
	switch o.String(modeOption) {
	case exactly:
		if n, err := strconv.Atoi(params); err != nil || n < 1 {
			return fmt.Errorf("%s=%q: with %s=%s a number of copies from 1 is wanted", paramsOption, params, modeOption, exactly)
		}
	case named:
		for name := range strings.SplitSeq(params, ",") {
			if _, err := strconv.Atoi(name); err == nil || name == "" {
				return fmt.Errorf("%s=%q: with %s=%s names of nodes are wanted, separated by commas", paramsOption, params, modeOption, named)
			}
		}
	}
	return nil
}

// promise: what was acknowledged survives the death of nodes as long as one of the
// copies that have everything lives on. A mirror that came back is such a copy only
// once it was synchronised, and no plan says how long that takes. A message that was
// shown by a master that ends may stand nowhere, and its idempotent producer sends it
// again: at another offset. Nothing is promised where a node may be taken for dead that
// is not: partitions, pauses, broken connections, slow links. A write is shown as soon
// as it is appended, so nothing that was read is promised to stay.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	safe := f.Cuts+f.Pauses+f.Slow+f.Leaders+f.Other == 0 && !f.Leaves() && keepsCopies(o, f)
	p := scheme.Promise{
		Acknowledged: o.Acks() != 0 && safe, AtMostOnce: safe && f.Ended == 0, Order: "producer", Offsets: "none",
		Recovers: safe, PerReplica: safe && o.String(syncOption) == automatic,
	}
	if safe { // otherwise a mirror may take over whose log begins where it came
		p.Offsets = "global"
	}
	return p
}

// keepsCopies reports whether a copy with everything may lead, whatever dies.
func keepsCopies(o options.Values, f scheme.Faults) bool {
	waits := o.String(failureOption) == whenSynced && o.String(shutdownOption) == whenSynced
	if waits && len(f.Lost(o)) == 0 {
		return true // nobody else takes over: the partition waits for a copy with everything
	}
	return f.Ended < f.Replicas
}
