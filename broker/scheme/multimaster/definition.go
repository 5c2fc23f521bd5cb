package multimaster

import (
	"time"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
)

const (
	ruleOption   = "ack.rule"
	orderOption  = "order"
	healOption   = "heal"
	gossipOption = "anti.entropy.ms"
	tickOption   = "net_ticktime.ms"

	allConfigured, allLive, quorum = "all-configured", "all-live", "quorum"
	arrival, total                 = "arrival", "total"
	union, none                    = "union", "none"
)

// Definition describes the scheme.
func Definition() scheme.Definition {
	const owner = "scheme multimaster"
	rules, orders := []string{allConfigured, allLive, quorum}, []string{arrival, total}
	return scheme.Definition{
		Name: "multimaster", Doc: "every node takes writes and sends them to all; logs become the same set by union, each in an order of its own",
		New: New, Metadata: scheme.Peers, Election: scheme.Replicas, Replicas: scheme.All, Local: func(options.Values) bool { return true },
		Options: []options.Option{
			{Name: ruleOption, Owner: owner, Type: "enum", Default: allLive, Values: rules, Draw: rules, Doc: "who must have a write before it is acknowledged: all configured nodes, all that this node sees, or more than half of those configured"},
			{Name: orderOption, Owner: owner, Type: "enum", Default: arrival, Values: orders, Draw: orders, Doc: "arrival: each node keeps writes as they come; total: all are passed to a sequencer, the lowest node seen"},
			{Name: healOption, Owner: owner, Type: "enum", Default: union, Values: []string{union, none}, Doc: "what sides of a partition do when they meet: union of both; or none: the smaller one throws its log away and copies the larger one's"},
			{Name: gossipOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "500", Min: 50, Max: 60_000, Doc: "how often nodes compare what they have; what another one has lacked for so long is sent to it, whoever wrote it"},
		},
		Messages: []scheme.Message{
			{Number: 70, Type: (*Marks)(nil)},
			{Number: 71, Type: (*Push)(nil)},
		},
		Detection: func(o options.Values) time.Duration { return o.Duration(tickOption) + 2*o.Duration(gossipOption) },
		Promise:   promise,
	}
}

// promise: with the union of all sides nothing acknowledged is lost as long as the disks
// keep what they hold, whatever is cut, paused or killed: a write is on its writer's disk
// before it is acknowledged. One lost disk alone does no harm where others had to
// confirm. Offsets belong to a node; once all is healed every node holds the same
// messages, in no promised order. A producer that sends again what was not answered may
// send it to another node, which does not know it: it then stands twice.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	united, copied := o.String(healOption) == union, o.Acks() == -1
	trusted := f.Cuts+f.Pauses+f.Slow+f.Leaders+f.Other == 0 && !f.Leaves()
	lost := f.Lost(o)
	kept := !f.Leaves() && (len(lost) == 0 || copied && f.Planned && len(lost) == 1 && lost[0].Nodes == 1 && lost[0].Alone && f.Nodes > 1)
	if !united {
		kept = kept && trusted && copied && f.Ended < f.Nodes
	}
	quiet := trusted && f.Ended == 0 && len(lost) == 0
	return scheme.Promise{
		Acknowledged: o.Acks() != 0 && kept, AtMostOnce: quiet, Order: "none", Offsets: "per-node",
		PerReplica: true, Recovers: kept || united && !f.Leaves(),
	}
}
