package isr

import (
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
)

const (
	lagOption      = "replica.lag.time.max.ms"
	waitOption     = "replica.fetch.wait.max.ms"
	bytesOption    = "replica.fetch.max.bytes"
	eligibleOption = "eligible.leader.replicas.version"
)

// Definition describes the scheme.
func Definition() scheme.Definition {
	const owner = "scheme isr"
	return scheme.Definition{
		Name: "isr", Doc: "followers pull; high watermark over the in-sync set; leaders elected by the metadata quorum (Kafka)",
		New: configured, Metadata: scheme.Raft, Election: scheme.InSync, Replicas: scheme.Factor, InSync: true, Moves: true,
		Eligible: eligible,
		Options: []options.Option{
			{Name: lagOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "3000", Kafka: "30000", Min: 100, Max: 600_000, Draw: []string{"1000", "1500", "2000", "3000"}, Doc: "a follower that has not caught up for so long leaves the in-sync set"},
			{Name: waitOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "500", Kafka: "500", Min: 1, Max: 60_000, Draw: []string{"50", "200", "500", "1000"}, Doc: "how long a leader may park a follower's fetch"},
			{Name: bytesOption, Owner: owner, Type: "int", Unit: "bytes", Default: "1048576", Min: 1, Max: 1 << 30, Draw: []string{"1", "4096", "16384", "1048576"}, Doc: "how much a follower fetches at once, at least one batch"},
			{Name: eligibleOption, Owner: owner, Type: "int", Default: "1", Min: 0, Max: 1, Draw: []string{"0", "1"}, Protocol: true, Doc: "1: replicas that leave the in-sync set while it is below the minimum stay eligible, and one whose broker went down out of order does not (KIP-966; Kafka: 1 in clusters that are new since 4.1); 0: the last in-sync replica is elected again, whatever it lost"},
		},
		Check:    check,
		Messages: []scheme.Message{{Number: 3, Type: (*Fetch)(nil)}, {Number: 4, Type: (*FetchAnswer)(nil)}},
		// The time after which a lagging follower leaves the in-sync set, and what it takes
		// after all nodes were down until all are in sync again: an election of the metadata
		// quorum (at most 20 ticks if the votes are not split), and the brokers' reports to it.
		Detection: func(o options.Values) time.Duration {
			return max(o.Duration(lagOption), 20*o.Duration("quorum.tick.ms")+3*o.Duration("broker.heartbeat.interval.ms"))
		},
		Promise: promise,
	}
}

// configured makes a machine with the scheme's options as they were set.
func configured(h scheme.Host, o scheme.Options, high int64) scheme.Machine {
	o.ReplicaLag = o.Set.Duration(lagOption)
	o.FetchBytes = o.Set.Int(bytesOption)
	o.FetchWait = o.Set.Duration(waitOption)
	return New(h, o, high)
}

func eligible(o options.Values) bool { return o.Int(eligibleOption) > 0 }

func check(o options.Values) error {
	if o.Duration(waitOption) > o.Duration(lagOption) {
		return fmt.Errorf("%s (%s) must not be above %s (%s), or idle followers leave the in-sync set", waitOption, o.String(waitOption), lagOption, o.String(lagOption))
	}
	return nil
}

// promise: acknowledged messages survive if every acknowledgement waited for the
// in-sync set, that set has at least two members, no leader is elected outside it, and
// a copy is left of what disks lost. Full, failing and slow disks, wrong clocks and bad
// links take nothing from it.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	minISR := min(o.Int("min.insync.replicas"), f.Replicas)
	copies := keepsCopies(o, f, minISR)
	safe := minISR >= 2 && !o.Bool("unclean.leader.election.enable") && copies
	p := scheme.Promise{
		Acknowledged: o.Acks() == -1 && safe, CommittedReads: safe, AtMostOnce: true, Order: "producer", Offsets: "global", Epochs: true, PerReplica: true,
		// A replica that is damaged refuses to lead: where it was the last in sync,
		// staying away is the right answer, and not to recover no breach.
		Recovers: copies,
		// What the high watermark covered is never cut again where it is safe; without
		// that, offsets may be given twice.
		Monotonic: safe,
	}
	p.Linearizable = p.Acknowledged
	if o.Acks() == -1 {
		p.MinInSync = minISR
	}
	return p
}

// keepsCopies reports whether lost and damaged disks leave a copy of everything
// that was acknowledged to a replica that may lead. The least in-sync set has
// minISR members: so they must hit fewer nodes than that at once. And they must
// not hit the last one that is in sync:
//
//   - Without other faults within a detection time before, all are in sync.
//   - With other faults, only eligible leader replicas help (KIP-966): as long as fewer
//     brokers than minISR go down out of order, whatever is left of their disks, one that
//     was in sync at the newest acknowledgement is still eligible. Deaths count as much
//     as lost disks, because the broker cannot tell them apart; and so does every node
//     that faults hit, from when all were in sync until they are again, by whichever of
//     them. Without them the last in-sync replica is elected again, without what it lost
//     (Kafka did so before).
//
// Faults that are named and not planned yet are held for the worst where they may be so.
func keepsCopies(o options.Values, f scheme.Faults, minISR int) bool {
	for _, l := range f.Lost(o) {
		switch {
		case !f.Planned:
			if l.Kind == scheme.LostPower && l.Nodes == f.Nodes {
				return false
			}
		case l.Nodes >= minISR, !l.Alone && !(eligible(o) && l.Down < minISR):
			return false
		}
	}
	return true
}
