package classic

import (
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
)

const (
	durableOption   = "durable"
	deliveryOption  = "delivery_mode"
	mandatoryOption = "mandatory"
)

// Definition describes the scheme.
func Definition() scheme.Definition {
	const owner = "scheme classic"
	return scheme.Definition{
		Name: "classic", Doc: "one copy at its home, every node passes requests on; no fail-over (RabbitMQ's ordinary cluster)",
		New: New, Metadata: scheme.Peers, Election: scheme.Fixed, Replicas: scheme.One,
		Options: []options.Option{
			{Name: durableOption, Owner: owner, Type: "bool", Default: "true", Doc: "the queue outlives a restart of its home; without, it is gone while its home is down, and empty afterwards"},
			{Name: deliveryOption, Owner: owner, Type: "int", Default: "2", Min: 1, Max: 2, Doc: "2: messages are persistent; 1: transient, confirmed at once and gone with a restart"},
			{Name: mandatoryOption, Owner: owner, Type: "bool", Default: "false", Doc: "a message that reaches no queue is refused; without, it is confirmed with offset -1, and dropped"},
		},
		Promise: promise,
		Hunted:  map[string]string{durableOption: "true", deliveryOption: "2", mandatoryOption: "true"},
	}
}

// promise: what was acknowledged survives if queue and messages are durable, a message
// that reaches no queue comes back, and no disk is lost. A write is shown as soon as it
// is appended, so nothing that was read is promised to stay: of a home that ends it may be
// gone, and its idempotent producer sends it again, to another offset.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	kept := len(f.Lost(o)) == 0 && !f.Leaves()
	lasting := o.Bool(durableOption) && o.Int(deliveryOption) == 2
	p := scheme.Promise{
		Acknowledged: o.Acks() != 0 && lasting && o.Bool(mandatoryOption) && kept,
		AtMostOnce:   f.Ended == 0, Order: "producer", Offsets: "none", PerReplica: true, Recovers: kept,
	}
	if lasting && kept { // otherwise offsets are given twice
		p.Offsets = "global"
	}
	p.Fresh = p.Acknowledged // one copy: whoever reads after an acknowledgement sees it
	return p
}
