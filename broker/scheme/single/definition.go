package single

import (
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Definition describes the scheme.
func Definition() scheme.Definition {
	return scheme.Definition{
		Name: "single", Doc: "one replica per partition, no fail-over",
		New: New, Metadata: scheme.Raft, Election: scheme.InSync, Replicas: scheme.One,
		Promise: promise,
	}
}

// promise: what was acknowledged is there as long as the only copy is.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	kept := len(f.Lost(o)) == 0 && !f.Leaves()
	acknowledged := o.Acks() != 0 && kept
	return scheme.Promise{
		Acknowledged: acknowledged, CommittedReads: kept, Monotonic: kept, Recovers: kept, Linearizable: acknowledged,
		Fresh:      acknowledged, // one copy: whoever reads after an acknowledgement sees it
		AtMostOnce: true, Order: "producer", Offsets: "global", Epochs: true, PerReplica: true,
	}
}
