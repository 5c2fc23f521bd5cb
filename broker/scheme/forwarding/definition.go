package forwarding

import (
	"time"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
)

const (
	forwardOption  = "forward"
	ttlOption      = "networkTTL"
	replayOption   = "replayWhenNoConsumers"
	prefetchOption = "prefetchSize"
	auditOption    = "auditNetworkProducers"
	priorityOption = "decreaseNetworkConsumerPriority"
	ackOption      = "bridge.ack.timeout.ms"
	tickOption     = "net_ticktime.ms"

	proxy, move = "proxy", "move"
)

// Definition describes the scheme.
func Definition() scheme.Definition {
	const owner = "scheme forwarding"
	both, flags := []string{proxy, move}, []string{"false", "true"}
	return scheme.Definition{
		Name: "forwarding", Doc: "nodes share metadata alone: a message is on one node, and is asked for there or moves to where it is wanted (a network of brokers)",
		New: New, Metadata: scheme.Peers, Election: scheme.Fixed, Replicas: scheme.One, Local: moves,
		Options: []options.Option{
			{Name: forwardOption, Owner: owner, Type: "enum", Default: move, Values: both, Draw: both, Doc: "proxy: the queue has a home, and every node passes requests on to it; move: every node takes messages, and they move to a node whose consumers wait"},
			{Name: ttlOption, Owner: owner, Type: "int", Default: "1", Min: 1, Max: 100, Draw: []string{"1", "2"}, Doc: "how often a message may move"},
			{Name: replayOption, Owner: owner, Type: "bool", Default: "false", Draw: flags, Doc: "a message that has moved as often as networkTTL says moves all the same where it is and nobody consumes"},
			{Name: prefetchOption, Owner: owner, Type: "int", Default: "1000", Min: 1, Max: 100_000, Draw: []string{"1", "10", "1000"}, Doc: "messages that a bridge moves at once"},
			{Name: auditOption, Owner: owner, Type: "bool", Default: "false", Draw: flags, Doc: "a node that is moved a message again, which it has, does not store it twice"},
			{Name: priorityOption, Owner: owner, Type: "bool", Default: "false", Draw: flags, Doc: "consumers of the node itself go before others: nothing moves while they are there"},
			{Name: ackOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "500", Min: 10, Max: 60_000, Doc: "a move that was not acknowledged for so long is made again"},
		},
		Messages: []scheme.Message{
			{Number: 75, Type: (*Demand)(nil)},
			{Number: 76, Type: (*Bundle)(nil)},
			{Number: 77, Type: (*Taken)(nil)},
		},
		Detection: func(o options.Values) time.Duration { return o.Duration(tickOption) + o.Duration(ackOption) },
		Promise:   promise,
	}
}

func moves(o options.Values) bool { return o.String(forwardOption) == move }

// promise: a message is on one disk before it is acknowledged, and leaves it when it is on
// another one: nothing is lost as long as disks keep what they hold. A move that was not
// acknowledged is made again, and the message then stands twice. Moves keep no order.
// What is shown need not be on a disk yet: without moves, too, it may be gone when a node
// ends, and its idempotent producer sends it again, to another offset.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	kept := len(f.Lost(o)) == 0 && !f.Leaves()
	p := scheme.Promise{Acknowledged: o.Acks() != 0 && kept, Recovers: kept, Order: "none", Offsets: "per-node"}
	p.AtMostOnce = kept && f.Cuts+f.Pauses+f.Slow+f.Leaders+f.Other+f.Ended == 0
	if !moves(o) {
		p.Order, p.Offsets, p.PerReplica, p.AtMostOnce = "producer", "none", true, f.Ended == 0
		if kept {
			p.Offsets = "global"
		}
		p.Fresh = p.Acknowledged
	}
	return p
}
