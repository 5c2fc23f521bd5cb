package quorum

import (
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/pull"
)

const (
	electionOption  = "raft.election.timeout.ms"
	heartbeatOption = "raft.heartbeat.interval.ms"
)

// Definition describes the scheme.
func Definition() scheme.Definition {
	const owner = "scheme quorum"
	return scheme.Definition{
		Name: "quorum", Doc: "Raft per partition: leaders by majority vote, acknowledged and visible once a majority has it (quorum queues, JetStream, DLedger)",
		New: New, Metadata: scheme.Raft, Election: scheme.Replicas, Replicas: scheme.Factor,
		Options: []options.Option{
			{Name: electionOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "1000", Kafka: "4000", Min: 50, Max: 600_000, Draw: []string{"500", "1000", "1500"}, Doc: "a follower that hears no leader for so long, and up to as long again, stands for election (JetStream: 4 to 9 s)"},
			{Name: heartbeatOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "200", Kafka: "1000", Min: 5, Max: 60_000, Draw: []string{"50", "100", "200"}, Doc: "how often a leader tells that it is one (JetStream: 1 s)"},
		},
		Check: check,
		Messages: []scheme.Message{
			{Number: 3, Type: (*pull.Fetch)(nil)},
			{Number: 4, Type: (*pull.FetchAnswer)(nil)},
			{Number: 16, Type: (*Vote)(nil)},
			{Number: 17, Type: (*VoteAnswer)(nil)},
			{Number: 18, Type: (*Lead)(nil)},
			{Number: 19, Type: (*LeadAnswer)(nil)},
			{Number: 20, Type: (*Take)(nil)},
			{Number: 21, Type: (*Ask)(nil)},
			{Number: 22, Type: (*Tell)(nil)},
		},
		// Twice the timeout until somebody stands, once more if the votes were split; before
		// that, when all were down, the nodes register with the metadata quorum.
		Detection: func(o options.Values) time.Duration {
			return max(3*o.Duration(electionOption), 20*o.Duration("quorum.tick.ms")+3*o.Duration("broker.heartbeat.interval.ms")+2*o.Duration(electionOption))
		},
		Promise: promise,
	}
}

func check(o options.Values) error {
	if 2*o.Duration(heartbeatOption) > o.Duration(electionOption) {
		return fmt.Errorf("%s (%s) must be at most half of %s (%s), or followers stand against a leader that lives", heartbeatOption, o.String(heartbeatOption), electionOption, o.String(electionOption))
	}
	return nil
}

// promise: what a majority has survives everything but lost and damaged disks, and power
// losses where it is not synced. A replica that lost its disk is refilled before it counts
// again, but one whose log was damaged at its very end takes that for a torn tail, and
// losses of both kinds are one here.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	kept := len(f.Lost(o)) == 0
	acknowledged := o.Acks() != 0 && kept
	return scheme.Promise{
		Acknowledged: acknowledged, CommittedReads: kept, Monotonic: kept, Linearizable: acknowledged, Recovers: kept,
		AtMostOnce: true, Order: "producer", Offsets: "global", Epochs: kept, PerReplica: true,
	}
}
