// Package scheme declares what a replication scheme is: a state machine for one
// partition (Machine) over small ports (Host). Each scheme is one package
// beside this one; what schemes share (waiting acknowledgements, the pulling
// follower) are composed parts, never a switch over scheme names.
//
// Where no quorum decides (metadata=peers), Assigned brings this node's own view
// (Neighbours) and the record that nodes keep of the partition; the machines decide
// who leads (docs/decisions/scheme-interface.md has the scripts by which the interface
// was tried before it was frozen).
package scheme

import (
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/options"
)

// Never is a NextWake without a timer.
const Never = time.Duration(1<<63 - 1)

// Assignment is what the authority decided about a partition. A machine never
// sees one with a lower PartEpoch than before.
type Assignment struct {
	Replicas  []broker.NodeID
	ISR       []broker.NodeID
	Leader    broker.NodeID // broker.None: offline
	Epoch     int32         // leader epoch
	PartEpoch int32
	MinISR    int
	Unclean   bool // the leader was elected outside the in-sync set
	Eligible  bool // it was not in the in-sync set either, and is known to have all that was acknowledged
	// Peers is this node's own view where no quorum decides (metadata=peers); nil where
	// one does. The other fields then say nothing but PartEpoch, which each node counts
	// for itself.
	Peers *Neighbours
}

// Record is what nodes that decide by their own views keep of a partition and tell
// each other. Who leads is decided by the machines, from records and views.
type Record struct {
	// Version is raised with every change. Of two records the one with the higher
	// version holds, of equal ones that of the master with the lower id.
	Version int64
	Master  broker.NodeID
	Mirrors []broker.NodeID // all copies, the master first, then by age
	Synced  []broker.NodeID // those of them that have everything, in the same order
	// Sessions are those of Mirrors in which each became one: a node that has restarted
	// since is not the copy that it was.
	Sessions []string
}

// Newer says whether r replaces o.
func (r Record) Newer(o Record) bool {
	if r.Version != o.Version {
		return r.Version > o.Version
	}
	return r.Master < o.Master
}

// Neighbours is what a node sees of the others.
type Neighbours struct {
	Record Record // the newest that this node knows
	// Home is the node that the partition was made on, Members are all nodes that there may be.
	Home    broker.NodeID
	Members []broker.NodeID
	// Live are the members that count as one cluster with this node, itself among
	// them. One that was declared dead and comes back is not live until it, or this
	// node, has restarted (RabbitMQ: a partition that was noticed).
	Live     []broker.NodeID
	Sessions []string // of Live: another one after each restart, "" of one not heard yet
	// Reached are those that can be talked to, live or not, itself among them.
	Reached []broker.NodeID
	// Left are those that are not live because they stopped in order.
	Left []broker.NodeID
	// Unchecked: some were just declared dead, and the partition policy has not spoken
	// yet. Another assignment follows that says what it did.
	Unchecked bool
	// Paused: the policy does not let this node serve.
	Paused bool
	// Session counts the times that this process joined the cluster: a node that was
	// paused, or lost by autoheal, joins anew as if it had restarted.
	Session int
}

// Member is a replica with the broker epoch by which the leader knows it. Epoch is
// -1 for a member of the committed in-sync set that the leader has not heard of
// yet: the partition epoch vouches for it, which moves when a member registers again.
type Member struct {
	ID    broker.NodeID
	Epoch int64
}

// View is what a partition shows of itself.
type View struct {
	Leader   broker.NodeID
	Epoch    int32 // -1 where the scheme has none
	InSync   []broker.NodeID
	Writable bool // this node would take a write now
	// Visible is the first offset that a consumer may not read yet.
	Visible int64
	// EpochStart is the log end at which this leader began. While Visible is below
	// it, a former leader may have shown more than Visible (KIP-207).
	EpochStart int64
	// Proxied: any node takes requests for the partition. Leader is then where they are
	// answered, None while they are answered (or refused) here; InSync begins with the master.
	Proxied bool
	// Replicas are the copies of a partition whose scheme chooses them itself.
	Replicas []broker.NodeID
}

// Produce is a write request for one partition.
type Produce struct {
	Token   uint64 // names the request in Host.Produced
	Batch   []byte // one record batch; base offset and epoch are stamped by the machine
	Info    batch.Info
	Acks    int16 // 0, 1, or -1 for all
	Timeout time.Duration
}

// Produced is the outcome of a write. Code is a Kafka error code.
type Produced struct {
	Code int16
	Base int64 // first offset, -1 where unknown
	Text string
}

// Host is what a machine may do. It is implemented by the node for each of its
// partitions; all calls happen inside a step.
type Host interface {
	Self() broker.NodeID
	Now() broker.Time
	// Owner names this incarnation of the node: no other node and no other start has it.
	Owner() string

	// Index is the log's index, changed only through Append and Truncate.
	Index() *logindex.Index
	// Append writes batches at the log's end and asks for a sync as fsync says.
	Append(batches [][]byte, infos []batch.Info)
	// Truncate removes every record from offset to on and returns the new end.
	Truncate(to int64) int64
	// Stable is the offset up to which the log would survive what fsync promises:
	// a power loss with always, the death of the process otherwise. Machine.Stored
	// is called when it moved forward; Truncate moves it back.
	Stable() int64
	// Refused: the log on disk is corrupt from an offset on. The replica neither
	// leads nor acknowledges until it has fetched that part again.
	Refused() bool

	// Persisted is what was kept beside the log when the node started, nil for nothing.
	Persisted() []byte
	// Persist replaces it, atomically and durably whatever fsync says, after every append
	// and truncation asked for before and before those asked for after it.
	Persist(state []byte)
	// Persisting reports that something which is to be kept is not durable yet. Machine.Stored
	// is called when that ends.
	Persisting() bool

	// Send sends a message to the same partition on another node, on the
	// replication channel, with the log's bytes from..to in data where to > from.
	Send(to broker.NodeID, msg broker.Message, from, upTo int64, data *[]byte)

	// ProposeISR asks the authority for another in-sync set, based on PartEpoch.
	// A change comes as Assigned, the outcome then as ISRAnswer; of several
	// proposals only the newest one is answered.
	ProposeISR(epoch, partEpoch int32, isr []Member)
	// Report tells the authority who is in sync with this replica, which leads epoch by
	// its peers' vote. What the authority knows comes as Assigned.
	Report(epoch int32, inSync []broker.NodeID)
	// Keep replaces the record of a partition where no quorum decides, and tells the
	// other nodes. ISRAnswer(0) comes as soon as it is durable here, for the newest one.
	Keep(r Record)
	// Eligible reports whether a broker may join the in-sync set: registered with
	// exactly this broker epoch, not fenced, not leaving.
	Eligible(id broker.NodeID, brokerEpoch int64) bool
	// BrokerEpoch is this node's own broker epoch, -1 while it is not registered.
	BrokerEpoch() int64

	// Produced answers a write.
	Produced(token uint64, p Produced)
	// Advanced says that View().Visible or the leadership changed: parked reads look again.
	Advanced()
	// Emit reports an event; key and wall time are filled in.
	Emit(ev broker.Event)
	// Name is a node's name.
	Name(id broker.NodeID) string
}

// SharedHost is a Host whose log lies on a storage device that all nodes share. The
// outcome of each method comes as a *broker.DeviceDone, by Machine.Message from this
// node itself; so does a *broker.ReadFailed where what is read is damaged. Until the log
// is open it is empty, and it must not be appended to.
type SharedHost interface {
	Host
	TryLock(l broker.Lock)
	CheckLock(l broker.Lock)
	Publish(l broker.Lock)
	CheckToken()
	// OpenLog opens the log; once it has come, Index, Stable and Refused are those of the
	// log as it was found.
	OpenLog(fenced bool, token uint64)
	// CloseLog closes the log, which is empty from then on, and gives up the lock.
	CloseLog(l broker.Lock)
}

// Machine is the state machine of one partition under one scheme.
type Machine interface {
	// Assigned delivers the authority's decision.
	Assigned(a Assignment)
	// ISRAnswer tells the outcome of this replica's newest proposal of an in-sync
	// set. 0: it was accepted; if it changed anything, Assigned came before.
	// REQUEST_TIMED_OUT: nobody knows. Any other Kafka error code: it was refused.
	// Unless it is unknown, no earlier proposal can be applied any more either.
	ISRAnswer(code int16)
	// Produce takes a write; the machine answers each by Host.Produced, once,
	// except with Acks 0.
	Produce(p Produce)
	// Message takes a message of the same partition on another node.
	Message(from broker.NodeID, msg broker.Message)
	// Link tells that the outgoing replication stream to a peer came up or went down,
	// or that the peer's to this node came up.
	Link(peer broker.NodeID, up bool)
	// Stored tells that Host.Stable moved forward.
	Stored()
	// Wake is called at NextWake or earlier.
	Wake()
	NextWake() time.Duration
	// CheckRead says up to which offset (exclusive) a consumer that believes in
	// leaderEpoch (-1: none given) may read here, or a Kafka error code.
	CheckRead(leaderEpoch int32) (limit int64, code int16)
	// High is the high watermark, as this replica knows it.
	High() int64
	View() View
	// Close ends the machine: the partition is deleted or the node stops.
	// Waiting writes are answered.
	Close()
}

// Selective is a machine that does not show all that its log holds, and keeps a mark of
// what it hides.
type Selective interface {
	Machine
	// Shown returns the first run of whole batches at or after offset that can be read
	// here, [from, to); there is none where from == to. consumer: a consumer asks, and
	// waits if there is none.
	Shown(offset int64, consumer bool) (from, to int64)
	// Mark is kept in the place of the high watermark whenever it has changed, and given
	// to the Factory after a restart. After a power loss it may be an older one.
	Mark() int64
}

// Resigner is a machine that can give its leadership away, where no authority does.
type Resigner interface {
	// Resign begins to hand over: the node is about to stop.
	Resign()
}

// Options are the options of schemes on one broker.
type Options struct {
	SyncAlways  bool          // fsync=always: acknowledge only what is durable
	ReplicaLag  time.Duration // replica.lag.time.max.ms, default 3 s (Kafka: 30 s)
	FetchWait   time.Duration // replica.fetch.wait.max.ms, default 500 ms
	FetchBytes  int           // replica.fetch.max.bytes, default 1 MiB
	FetchRetry  time.Duration // back-off after a failed fetch, default 100 ms
	FetchExpire time.Duration // a fetch without answer is given up, default 1.5 s
	Mutants     mutant.Set    // seeded bugs; none without the build tag
	// Set are the broker's options, for those that a scheme owns.
	Set options.Values
}

// DefaultOptions returns the defaults named at each field, with SyncAlways set.
func DefaultOptions() Options {
	return Options{
		SyncAlways: true, ReplicaLag: 3 * time.Second, FetchWait: 500 * time.Millisecond, FetchBytes: 1 << 20,
		FetchRetry: 100 * time.Millisecond, FetchExpire: 1500 * time.Millisecond,
	}
}

// Factory makes the machine of one partition. high is the checkpointed high
// watermark, 0 where there is none.
type Factory func(h Host, o Options, high int64) Machine
