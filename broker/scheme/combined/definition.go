package combined

import (
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/standby"
)

const uncleanOption = "enableElectUncleanMaster"

// Definition describes the scheme. It has the options of scheme standby, with RocketMQ's
// names, and the election outside the in-sync set.
func Definition() scheme.Definition {
	base := standby.Definition()
	return scheme.Definition{
		Name: "combined", Doc: "masters with slaves, spread over the cluster; fail-over by the metadata quorum with enableControllerMode (RocketMQ)",
		New: New, Metadata: scheme.Raft, Election: scheme.Fixed, Elects: base.Elects, Replicas: scheme.Factor, Copies: copies,
		Options: []options.Option{
			{Name: uncleanOption, Owner: "scheme combined", Type: "bool", Default: "false", Doc: "with enableControllerMode: where nobody in sync is left, a slave that is not becomes master"},
		},
		Also: base.Options, Unclean: func(o options.Values) bool { return o.Bool(uncleanOption) },
		Messages: base.Messages, Detection: standby.Detection, Promise: promise,
		Hunted: map[string]string{standby.Controller: "true", standby.AllAck: "true", standby.MinInSync: "2"},
	}
}

// copies: a master has one slave where nobody takes over (2m-2s), and with a
// controller as many as replication.factor says.
func copies(o options.Values, nodes int) int {
	n := min(o.Int("replication.factor"), nodes)
	if !o.Bool(standby.Controller) {
		n = min(n, 2)
	}
	return n
}

// promise is that of scheme standby, whose masters are synchronous where a controller
// makes them; and an election outside the in-sync set loses what only that had.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	p := standby.Promise(o, f, true)
	if o.Bool(standby.Controller) && o.Bool(uncleanOption) {
		p.Acknowledged, p.CommittedReads, p.AtMostOnce, p.Monotonic, p.Linearizable = false, false, false, false, false
	}
	return p
}
