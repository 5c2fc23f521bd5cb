// Package cluster is one node's part in the metadata quorum: registration and
// fencing of brokers, topics, assignments, leaders, in-sync sets and epochs, on
// go.etcd.io/raft. Like everything below the driver it is a state machine:
// messages, stored acknowledgements and ticks in; messages, writes, applied
// changes and results out.
package cluster

import (
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Broker is one registered broker.
type Broker struct {
	ID          broker.NodeID
	Name        string
	Host        string // advertised to clients
	Port        int32
	Rack        string
	Incarnation string
	// Epoch is the raft index of its registration: a new incarnation has a higher one.
	Epoch  int64
	Fenced bool
	// Leaving: it asked for a controlled shutdown and takes no leadership.
	Leaving bool
	// LeavingAt is the raft index at which Leaving was set. The broker may stop
	// once every live broker has applied it (Kafka: controlledShutdownOffset).
	LeavingAt uint64
}

// Partition is what the quorum knows of one partition.
type Partition struct {
	Topic      string
	Index      int32
	Replicas   []broker.NodeID // assignment order; the first is the preferred leader; Removing stand at the end
	Adding     []broker.NodeID // replicas that were none before a reassignment; one that is not wanted any more is in Removing, too
	Removing   []broker.NodeID // replicas that leave when it is complete
	ISR        []broker.NodeID // empty only where Topic.Eligible, and then nobody leads
	ELR        []broker.NodeID // eligible leader replicas: not in sync, and known to have all that was acknowledged
	Leader     broker.NodeID   // None: offline
	Epoch      int32           // leader epoch: raised by one with every change of leader, to None too, and when replicas leave
	PartEpoch  int32           // raised with every change of the partition
	LastLeader broker.NodeID   // the newest broker that led it, None if none did
}

// Election is who makes a partition's leaders.
type Election string

// The elections. With ElectFixed the last leader leads, if it is up; the quorum elects
// no other by itself, and is told who is in sync. With ElectReplicas the replicas elect
// among themselves, and the quorum is told that, too.
const (
	ElectInSync   Election = ""
	ElectFixed    Election = "fixed"
	ElectReplicas Election = "replicas"
)

// Topic is one topic.
type Topic struct {
	Name       string
	ID         [16]byte          // derived from the raft index of its creation
	Created    uint64            // that index
	Scheme     string            // replication scheme of its partitions
	Configs    map[string]string // those that were set
	MinISR     int32             // effective min.insync.replicas
	Unclean    bool              // effective unclean.leader.election.enable
	Eligible   bool              // its partitions keep eligible leader replicas (KIP-966)
	Election   Election          // who makes the leaders of its partitions
	Partitions []*Partition
}

// Command is what is proposed to the quorum, one of the types below. It is
// validated when it is applied, on every node alike.
type Command any

// The commands.
type (
	// RegisterBroker registers an incarnation; it is fenced until its first
	// heartbeat that has caught up, and leaves every in-sync set (see State.gone).
	RegisterBroker struct {
		ID               broker.NodeID
		Name, Host, Rack string
		Port             int32
		Incarnation      string
		// PreviousEpoch is the broker epoch of the former incarnation if that one stopped
		// in order and its disk is the same, 0 otherwise (Kafka: PreviousBrokerEpoch).
		PreviousEpoch int64
	}
	// SetFenced fences or unfences a broker of exactly this epoch.
	SetFenced struct {
		ID     broker.NodeID
		Epoch  int64
		Fenced bool
	}
	// SetLeaving moves the leadership of a broker away, for its graceful stop.
	SetLeaving struct {
		ID    broker.NodeID
		Epoch int64
	}
	// CreateTopic creates a topic. Partitions and ReplicationFactor of -1 take
	// the defaults; Assignment, when set, names the replicas of each partition.
	CreateTopic struct {
		Name              string
		Partitions        int32
		ReplicationFactor int16
		Assignment        [][]broker.NodeID
		Scheme            string
		Configs           map[string]string
		ValidateOnly      bool
	}
	// DeleteTopic deletes a topic by name.
	DeleteTopic struct{ Name string }
	// AlterPartition changes the in-sync set, proposed by its leader.
	AlterPartition struct {
		Topic     string
		TopicID   [16]byte
		Index     int32
		Leader    broker.NodeID
		Epoch     int32 // leader epoch
		PartEpoch int32 // the partition epoch that the change is based on
		ISR       []Member
	}
	// ReportLeader tells who leads a partition whose replicas elect among themselves, and
	// who is in sync. It is taken where its epoch is not behind. Where the leader is fixed,
	// only the in-sync set is taken.
	ReportLeader struct {
		Topic   string
		TopicID [16]byte
		Index   int32
		Leader  broker.NodeID
		Epoch   int32
		ISR     []broker.NodeID
	}
	// ElectLeaders elects the preferred leader of partitions where it is in the
	// in-sync set; with Unclean also any live replica where no leader is left.
	ElectLeaders struct {
		Partitions []PartitionID
		Unclean    bool
	}
	// AllocateProducerID takes the next producer id.
	AllocateProducerID struct{}
	// Reassign gives a partition other replicas (Kafka: AlterPartitionReassignments).
	// New ones have to be in sync before old ones leave. Without Replicas it takes
	// the reassignment back that is under way.
	Reassign struct {
		Topic    string
		Index    int32
		Replicas []broker.NodeID
		// FixedFactor refuses another number of replicas than before.
		FixedFactor bool
	}
	// UnregisterBroker forgets a broker that is fenced and hosts no replica.
	UnregisterBroker struct{ ID broker.NodeID }
	// AddVoter begins to take a node into the metadata quorum: a learner first, a
	// voter as soon as it has caught up.
	AddVoter struct {
		ID        broker.NodeID
		Directory Directory
	}
	// RemoveVoter begins to take a voter out of the metadata quorum, or a node that
	// is still being added.
	RemoveVoter struct {
		ID        broker.NodeID
		Directory Directory
	}
)

// Member is a broker with the broker epoch by which the leader knows it.
type Member struct {
	ID    broker.NodeID
	Epoch int64
}

// PartitionID names a partition.
type PartitionID struct {
	Topic string
	Index int32
}

// Ticket identifies a proposal of this node.
type Ticket uint64

// Result is the outcome of a proposal of this node.
type Result struct {
	Ticket Ticket
	// Code is a Kafka error code, 0 for success. REQUEST_TIMED_OUT means that it
	// is unknown whether it was applied.
	Code  int16
	Text  string
	Value any // AllocateProducerID: int64; CreateTopic: *Topic; AlterPartition: *Partition; RegisterBroker: *Broker
}

// Change is one applied change that a node acts on.
type Change struct {
	Topic     *Topic     // never nil
	Partition *Partition // nil for the deletion of the whole topic
	Deleted   bool
	// Unclean: the new leader was neither in the in-sync set nor eligible.
	Unclean bool
	// Eligible: the new leader was eligible, and not in the in-sync set.
	Eligible bool
	// Peers is the node's own view as of this change, where no quorum decides.
	Peers *scheme.Neighbours
}

// Send is a message for another node's Cluster, on the quorum channel.
type Send struct {
	To  broker.NodeID
	Msg broker.Message
}

// Output is everything that happened since the last Take.
type Output struct {
	Sends   []Send
	Writes  []broker.MetaAppend
	Changes []Change
	Results []Result
	Events  []broker.Event // without Seq, Wall, Inc
	Logs    []broker.LogLine
	// ShutdownReady: after Leave, this broker leads nothing any more.
	ShutdownReady bool
	// Fatal ends the node: a raft panic, a corrupt metadata log.
	Fatal string
}

// Config configures one node's part. Durations are on the monotonic clock.
type Config struct {
	ID          broker.NodeID
	Name        string
	Host        string
	Port        int32
	Rack        string
	Incarnation string
	// Directory tells apart the nodes that bear this id one after another: 0 is the
	// one of Voters and Learners, any other waits until AddVoter names it.
	Directory Directory
	Voters    []broker.Member // controllers that the metadata log begins with, the same on every node
	Learners  []broker.Member // brokers without a vote, likewise
	// ControllerOnly: this node is no broker; it neither registers nor sends heartbeats.
	ControllerOnly bool
	Names          map[broker.NodeID]string

	TickInterval      time.Duration // raft tick, default 100 ms
	ElectionTicks     int           // default 10
	HeartbeatTicks    int           // default 2
	BrokerHeartbeat   time.Duration // default 300 ms (Kafka: broker.heartbeat.interval.ms 2 s)
	SessionTimeout    time.Duration // default 1.5 s (Kafka: broker.session.timeout.ms 9 s)
	ProposalTimeout   time.Duration // default 3 s
	RebalanceInterval time.Duration // preferred-leader check, 0 = off; DefaultConfig: 10 s (Kafka: 300 s)
	SnapshotEntries   int           // applied entries between snapshots, default 2000

	DefaultPartitions  int32 // default 1
	DefaultReplication int16 // 0: min(3, registered brokers)
	DefaultScheme      string
	MinISR             int32 // of topics that do not set min.insync.replicas, default 1
	Unclean            bool  // of topics that do not set unclean.leader.election.enable
	// EligibleLeaders are the schemes whose topics keep eligible leader replicas from
	// their creation on (Kafka: the feature eligible.leader.replicas.version).
	EligibleLeaders []string
	// Elections are the schemes that do not elect from an in-sync set.
	Elections map[string]Election
	// PreviousEpoch goes with the registration, see RegisterBroker.
	PreviousEpoch int64
	// Mutants are seeded bugs, the same on every voter; none without the build tag.
	Mutants mutant.Set
}
