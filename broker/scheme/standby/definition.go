package standby

import (
	"slices"
	"time"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/pull"
)

const (
	roleOption       = "brokerRole"
	inSyncOption     = "inSyncReplicas"
	minOption        = "minInSyncReplicas"
	autoOption       = "enableAutoInSyncReplicas"
	timeoutOption    = "slaveTimeout"
	gapOption        = "haMaxGapNotInSync"
	quietOption      = "haHousekeepingInterval"
	readOption       = "slaveReadEnable"
	controllerOption = "enableControllerMode"
	allOption        = "allAckInSyncStateSet"
	catchUpOption    = "haMaxTimeSlaveNotCatchup"
)

// Options that other schemes set.
const (
	MinInSync  = minOption
	Controller = controllerOption
	AllAck     = allOption
)

// Lag are the options about slaves that are behind or gone, and who waits for them.
var Lag = []string{timeoutOption, gapOption, quietOption, catchUpOption}

// Definition describes the scheme. Its options have RocketMQ's names, units and
// defaults; times are shorter for short runs, and RocketMQ's with profile=kafka.
func Definition() scheme.Definition {
	return scheme.Definition{
		Name: "standby", Doc: "a master and slaves that pull; acknowledged by the master, or by so many copies; no fail-over by itself (RocketMQ)",
		New: New, Metadata: scheme.Raft, Election: scheme.Fixed, Replicas: scheme.Factor,
		Elects: func(o options.Values) scheme.Election {
			if o.Bool(controllerOption) {
				return scheme.InSync
			}
			return scheme.Fixed
		},
		Options:   Options(),
		Messages:  []scheme.Message{{Number: 3, Type: (*pull.Fetch)(nil)}, {Number: 4, Type: (*pull.FetchAnswer)(nil)}},
		Detection: Detection,
		Promise:   promise,
	}
}

// Detection is how long the quorum, or with a controller the master, may take to find a
// replica gone.
func Detection(o options.Values) time.Duration {
	d := 20*o.Duration("quorum.tick.ms") + 3*o.Duration("broker.heartbeat.interval.ms")
	if o.Bool(controllerOption) {
		d = max(d, o.Duration(catchUpOption))
	}
	return max(d, o.Duration(quietOption))
}

// Options are the scheme's options. Scheme combined has them, too.
func Options() []options.Option {
	const owner = "scheme standby"
	return []options.Option{
		{Name: roleOption, Owner: owner, Type: "enum", Default: "ASYNC_MASTER", Values: []string{"ASYNC_MASTER", "SYNC_MASTER"}, Draw: []string{"ASYNC_MASTER", "SYNC_MASTER"}, Doc: "whether the master waits for slaves at all"},
		{Name: inSyncOption, Owner: owner, Type: "int", Default: "1", Min: 1, Max: 9, Draw: []string{"1", "2", "2"}, Doc: "with SYNC_MASTER: copies, the master's among them, that an acknowledgement waits for; 1 waits for no slave, though the role says sync"},
		{Name: minOption, Owner: owner, Type: "int", Default: "1", Min: 1, Max: 9, Doc: "with enableAutoInSyncReplicas or enableControllerMode: below this many in-sync copies a write is refused"},
		{Name: autoOption, Owner: owner, Type: "bool", Default: "false", Draw: []string{"false", "true"}, Doc: "with SYNC_MASTER: wait for fewer copies where fewer slaves keep up, down to minInSyncReplicas"},
		{Name: timeoutOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "1000", Kafka: "3000", Min: 10, Max: 600_000, Draw: []string{"300", "1000"}, Doc: "how long a write waits for slaves; after it the write is stored and not known to be copied"},
		{Name: gapOption, Owner: owner, Type: "int", Unit: "bytes", Default: "268435456", Min: 1, Max: 1 << 40, Doc: "a slave that is further behind does not count as in sync"},
		{Name: quietOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "1500", Kafka: "20000", Min: 50, Max: 600_000, Doc: "a slave that is silent for so long is disconnected"},
		{Name: readOption, Owner: owner, Type: "bool", Default: "false", Draw: []string{"false", "true"}, Doc: "slaves serve consumers, with what they have"},
		{Name: controllerOption, Owner: owner, Type: "bool", Default: "false", Draw: []string{"false", "true"}, Doc: "the metadata quorum makes another master out of those in sync (RocketMQ's controller)"},
		{Name: allOption, Owner: owner, Type: "bool", Default: "false", Draw: []string{"false", "true"}, Doc: "with enableControllerMode and SYNC_MASTER: every in-sync copy must have it before it is acknowledged or visible"},
		{Name: catchUpOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "3000", Kafka: "15000", Min: 100, Max: 600_000, Doc: "with enableControllerMode: a slave that has not caught up for so long is not in sync any more"},
	}
}

// promise. Without a controller one node leads for good, so that everything it has
// survives as long as its disk does, whatever the slaves have; and a lost disk takes
// everything, because the empty master leads again. With a controller a slave takes
// over, and only what every candidate has survives: what was acknowledged by all
// replicas, or by all in sync. What was shown and is cut may be sent again by its
// producer, and then stands at two offsets.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	return Promise(o, f, o.String(roleOption) == "SYNC_MASTER")
}

// Promise is the scheme's promise with masters that are synchronous or not.
func Promise(o options.Values, f scheme.Faults, synchronous bool) scheme.Promise {
	p := scheme.Promise{Order: "producer", Offsets: "global", Epochs: true, PerReplica: true}
	reads, whole := o.Bool(readOption), len(f.Lost(o)) == 0
	if !o.Bool(controllerOption) {
		p.Acknowledged, p.Recovers = o.Acks() != 0 && whole, whole
		p.CommittedReads = whole && !reads
		p.AtMostOnce = p.CommittedReads
		p.Fresh = p.Acknowledged && !reads
	} else {
		sync := synchronous && o.Acks() == -1 && !o.Bool("unclean.leader.election.enable")
		all := o.Bool(allOption)
		everywhere := !o.Bool(autoOption) && o.Int(inSyncOption) >= f.Replicas
		copies := f.Replicas
		if all {
			copies = o.Int(minOption)
		}
		lost := slices.ContainsFunc(f.Lost(o), func(l scheme.Loss) bool { return !f.Planned || l.Nodes >= copies || !l.Alone })
		p.Acknowledged = sync && (all || everywhere) && !lost
		p.CommittedReads = p.Acknowledged && all && !reads
		p.AtMostOnce = p.Acknowledged && all
		p.Recovers = !lost
	}
	p.Monotonic = p.CommittedReads && !reads
	p.Linearizable = p.Acknowledged && p.Monotonic
	return p
}
