// Package history holds the record of one run: what every client asked and was
// answered, which faults were injected and proven, what the nodes said of
// themselves, and what the drain found on every replica. It is the only input
// of the checkers, so a stored history can be judged again at any time,
// without Docker, sockets or a broker.
//
// Times are nanoseconds on the run's one monotonic clock, counted from the
// start of the run. A call is stamped before the first byte is written, a
// return after the last byte was read.
package history

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Version is the format version written to every history file. A reader
// refuses any other.
const Version = 2

// Infinity is the return time of an operation that was never answered.
const Infinity = int64(math.MaxInt64)

// NoOffset stands where an offset is unknown.
const NoOffset = int64(-1)

// NoOp stands where the operation that delivered a message is unknown.
const NoOp = int64(-1)

// NoNode stands where the node that served an operation is unknown.
const NoNode = int16(-1)

// Outcome is what a client knows of an operation.
type Outcome uint8

// The outcomes. The zero value is Pending: invoked, and not yet answered.
const (
	Pending       Outcome = iota
	OK                    // it certainly happened
	Failed                // it certainly did not and will not happen
	Indeterminate         // it may have happened, or may still
)

var outcomes = [...]string{"pending", "ok", "failed", "indeterminate"}

// String returns "pending", "ok", "failed" or "indeterminate".
func (o Outcome) String() string {
	if int(o) < len(outcomes) {
		return outcomes[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// Kind is what an operation does.
type Kind uint8

// The kinds of operations.
const (
	Send    Kind = iota + 1 // append one value to a partition, or put it into a queue
	Poll                    // read records of a partition from an offset on
	Receive                 // take messages from a queue; ok without records: the system said that it is empty
	Accept                  // settle: Value, which operation Of delivered, is consumed
	Release                 // settle: Value goes back to its queue, to be delivered again
	Reject                  // settle: Value is given up, and goes to the dead letters where there are any
	Leave                   // the client's session ends, on every key: what it held goes back, and what it was not answered happens no more
	Commit                  // transaction Txn takes effect; its Key says nothing
	Abort                   // transaction Txn never takes effect; its Key says nothing
)

var kinds = [...]string{
	Send: "send", Poll: "poll", Receive: "receive", Accept: "accept", Release: "release", Reject: "reject",
	Leave: "leave", Commit: "commit", Abort: "abort",
}

// Settles reports whether an operation of kind k answers a delivery.
func (k Kind) Settles() bool { return k == Accept || k == Release || k == Reject }

// Ends reports whether an operation of kind k ends a transaction.
func (k Kind) Ends() bool { return k == Commit || k == Abort }

// Known reports whether k is one of the kinds.
func (k Kind) Known() bool { return k >= Send && k <= Abort }

// String returns the kind's name: "send", "poll", "receive", …
func (k Kind) String() string {
	if k != 0 && int(k) < len(kinds) {
		return kinds[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Value identifies one message: the producer in the upper 24 bits, its
// sequence number (from 1) in the lower 40. Values are unique within a run.
type Value uint64

// MakeValue composes a value of producer (0 to 2^24-1) and sequence (1 to 2^40-1).
func MakeValue(producer int32, seq int64) Value {
	return Value(uint64(producer)<<40 | uint64(seq))
}

// Producer returns the producer that sent v.
func (v Value) Producer() int32 { return int32(v >> 40) }

// Seq returns the sequence number of v within its producer, counted from 1.
func (v Value) Seq() int64 { return int64(v & (1<<40 - 1)) }

// String returns "producer:sequence", as "3:17".
func (v Value) String() string { return fmt.Sprintf("%d:%d", v.Producer(), v.Seq()) }

// ParseValue reads what Value.String wrote.
func ParseValue(s string) (Value, error) {
	p, q, _ := strings.Cut(s, ":")
	producer, err := strconv.ParseUint(p, 10, 24)
	if err == nil {
		var seq uint64
		if seq, err = strconv.ParseUint(q, 10, 40); err == nil {
			return MakeValue(int32(producer), int64(seq)), nil
		}
	}
	return 0, fmt.Errorf(`value %q is not "producer:sequence", as "3:17": %w`, s, err)
}

// Payload says what the payload of a record turned out to be.
type Payload uint8

// The states of a payload. Only with Good does a record's Value mean anything.
const (
	Good     Payload = iota // run id and checksum are right
	OtherRun                // well formed, and of another run
	Altered                 // its checksum does not match, or it is not of our making
	Sentinel                // the drain's own mark; its Value is the drain's
)

var payloads = [...]string{"good", "other-run", "altered", "sentinel"}

// String returns "good", "other-run", "altered" or "sentinel".
func (p Payload) String() string {
	if int(p) < len(payloads) {
		return payloads[p]
	}
	return fmt.Sprintf("payload(%d)", uint8(p))
}

// Record is one record as a client or the drain decoded it. In the drain of a
// queue Offset is the place in the order of delivery, from 0; a Receive has
// NoOffset there where the system numbers nothing.
type Record struct {
	Offset  int64
	Value   Value
	Epoch   int32 // leader epoch of its batch, -1 where the system has none
	Payload Payload
	// Delivery says how often the system delivered it, as the system itself counts:
	// 1 is the first time, 0 that it does not say. For queues.
	Delivery int32
}

// Op is one operation: one request to one node with one deadline.
//
// There are millions of them in memory, so its fields are in an order that leaves no
// gaps. The first ones, 64 bytes, are what a checker reads of every operation.
type Op struct {
	ID     int64 // order of invocation in the history, from 0
	Call   int64
	Return int64 // Infinity while Pending, and for good where no answer came
	// Value and Offset are of a Send and of what settles. Offset is where it was
	// acknowledged, or NoOffset.
	Value  Value
	Offset int64
	// Txn is the transaction of a Send, Commit or Abort, from 1; 0: none. A number
	// is used for one transaction in a history.
	Txn     int64
	Client  int32 // index into Header.Clients
	Key     int32 // index into Header.Keys
	Node    int16 // index into Header.Nodes, or NoNode
	Kind    Kind
	Outcome Outcome
	// Acked is false for a send whose configuration promises nothing (acks=0): its
	// outcome OK then says only that it was written to the socket.
	Acked bool
	Reset bool // the client went back or forward on purpose (seek) before this poll
	// Committed: a Poll or Receive that asked for committed transactions only.
	Committed bool

	// Poll.
	From    int64    // the offset asked for
	High    int64    // the high watermark that the node answered with, or NoOffset
	Records []Record // what was delivered, in the order of delivery
	Epoch   int32    // the leader epoch that the client believed in, or -1

	Process int64  // an indeterminate operation ends its process; the client goes on under a new one
	Code    string // what was answered where it was not ok: "NOT_LEADER_OR_FOLLOWER", "timeout", …
	// Due is when an open-loop schedule wanted the call; 0: there was no schedule.
	Due int64
	// Lock is for how many nanoseconds what a Receive delivered is given to nobody
	// else; 0: until it is settled or its consumer is gone.
	Lock int64
	// Of is the ID of the Receive that delivered what is settled, or NoOp; 0 for
	// operations that settle nothing.
	Of int64
}

// Header says what a history is about. It is the first entry of every history.
type Header struct {
	Version  int               `json:"version"`
	RunID    string            `json:"run_id"`
	Seed     uint64            `json:"seed"`
	System   string            `json:"system"`
	Scheme   string            `json:"scheme"`
	Workload string            `json:"workload"`
	Keys     []string          `json:"keys"`  // "topic-partition"
	Nodes    []string          `json:"nodes"` // "n1", …
	Clients  []Client          `json:"clients"`
	Started  string            `json:"started"` // RFC 3339, wall clock of the harness; outside every digest
	Contract Contract          `json:"contract"`
	Labels   map[string]string `json:"labels,omitempty"`
	Queues   []Queue           `json:"queues,omitempty"` // those of Keys that are queues
}

// Queue describes a key that is a queue.
type Queue struct {
	Key string `json:"key"`
	// DeadLetters is the queue that takes what this one gives up; empty: there is none.
	DeadLetters string `json:"dead_letters,omitempty"`
}

// LabelImported is the label of Header.Labels that names the format from which a
// history was imported.
const LabelImported = "imported"

// Client describes one client.
type Client struct {
	Name   string `json:"name"`
	Role   string `json:"role"`             // "producer", "poller" or "consumer"
	Pinned string `json:"pinned,omitempty"` // the node whose metadata alone it believes
	// Loyal: it sends everything to the node that it is pinned to, whoever leads.
	Loyal bool `json:"loyal,omitempty"`
	// Idempotent: one send is one or more requests, numbered alike, to whoever
	// leads, and Op.Node the last one asked.
	Idempotent bool `json:"idempotent,omitempty"`
}

// Contract is what the system under test promises in the configuration that
// was run. Each field that is set makes its clause a promise; a clause without
// promise is reported, never judged.
type Contract struct {
	// Acknowledged: acknowledged messages survive. With Expect "survive" it is
	// judged whatever the configuration promises.
	Acknowledged bool `json:"acknowledged"`
	// Expect is "survive" or "declared".
	Expect string `json:"expect"`
	// AtMostOnce: a value stands at one offset at most, if it was sent once.
	AtMostOnce bool `json:"at_most_once"`
	// Order is "partition", "producer" or "none": what acknowledged messages keep.
	Order string `json:"order"`
	// Offsets is "global", "per-node" or "none".
	Offsets string `json:"offsets"`
	// CommittedReads: a record is delivered only once it can no longer be lost.
	CommittedReads bool `json:"committed_reads"`
	// Monotonic: a consumer's polls of one leader epoch never go back nor jump.
	Monotonic bool `json:"monotonic"`
	// Linearizable: appends are linearizable, reads are a consistent prefix.
	Linearizable bool `json:"linearizable"`
	// Fresh: a read that begins after an acknowledgement sees it.
	Fresh bool `json:"fresh"`
	// Epochs: leaders carry epochs, and one epoch has one leader.
	Epochs bool `json:"epochs"`
	// PerReplica: the drain reads every replica's own log.
	PerReplica bool `json:"per_replica"`
	// MinInSync: nothing is acknowledged while fewer replicas are in sync. Up to 1:
	// no promise.
	MinInSync int `json:"min_in_sync,omitempty"`
	// Recovers: the system makes progress again once every fault is healed.
	Recovers bool `json:"recovers"`

	// Delivery is how often a message of a queue is consumed: "at-most-once" (its
	// delivery consumes it), "at-least-once" or "exactly-once" (its acceptance
	// does). Empty: as "at-least-once", and nothing is promised.
	Delivery string `json:"delivery,omitempty"`
	// Settled: what was accepted or rejected, and confirmed, is not delivered again.
	Settled bool `json:"settled,omitempty"`
	// Redelivers: what a consumer had not settled when it left is delivered again.
	Redelivers bool `json:"redelivers,omitempty"`
	// Exclusive: a message is given to nobody else while its lock holds.
	Exclusive bool `json:"exclusive,omitempty"`
	// MaxDeliveries: a message is delivered so often at most. 0: no promise.
	MaxDeliveries int `json:"max_deliveries,omitempty"`
	// DeadLetters: what is rejected, or was delivered MaxDeliveries times and not
	// accepted, goes to the dead letters of its queue, and nothing else does.
	DeadLetters bool `json:"dead_letters,omitempty"`
	// TruthfulEmpty: a queue says that it is empty only where it is.
	TruthfulEmpty bool `json:"truthful_empty,omitempty"`
	// FIFO: a queue is linearizable: first in, first out.
	FIFO bool `json:"fifo,omitempty"`
	// Transactions: who reads committed transactions sees all of one, or nothing.
	Transactions bool `json:"transactions,omitempty"`
}

// Phase begins a phase of the run: "baseline", "fault", "heal", "recovery",
// "quiesce", "drain", "end".
type Phase struct {
	Name string `json:"name"`
	At   int64  `json:"at"`
}

// FaultStage is a moment in the life of a fault.
type FaultStage string

// The stages of a fault. A fault that was proven after injection and before
// healing, and whose healing was proven, has stages Injected, Proven,
// StillProven, Healing, Healed.
const (
	Injecting   FaultStage = "injecting"    // the injection begins
	Injected    FaultStage = "injected"     // the injection is complete
	Proven      FaultStage = "proven"       // its effect was seen right after injection
	StillProven FaultStage = "still-proven" // its effect was seen right before healing, unbroken in between
	Healing     FaultStage = "healing"      // the healing begins
	Healed      FaultStage = "healed"       // its absence was seen after healing
	Unproven    FaultStage = "unproven"     // a proof was missing; Detail says which
	Skipped     FaultStage = "skipped"      // the event that it waited for never came, or the run ended early: nothing was injected
)

// Fault is one event in the life of one fault.
type Fault struct {
	ID      int        `json:"id"`   // from 0, one per planned step
	Name    string     `json:"name"` // as on the command line: "partition:isolate-leader"
	Stage   FaultStage `json:"stage"`
	At      int64      `json:"at"`
	Targets []string   `json:"targets"` // node names; for client faults the nodes that were cut off
	// Sides are the groups of a partition that still see each other; empty for
	// other faults.
	Sides [][]string `json:"sides,omitempty"`
	// Keys are the partitions that the fault touches by role (isolate-leader).
	Keys []string `json:"keys,omitempty"`
	// Role is what the targets held when they were chosen: "leader", "follower",
	// "controller", or empty.
	Role   string            `json:"role,omitempty"`
	Detail string            `json:"detail,omitempty"` // the proof in words, or what was missing
	Proof  map[string]string `json:"proof,omitempty"`  // its figures
}

// NodeEvent is one event that a node reported about itself. Seq is numbered
// from 1 within an incarnation: a gap means that events were lost.
type NodeEvent struct {
	Node        string   `json:"node"`
	Incarnation string   `json:"incarnation"`
	Seq         int64    `json:"seq"`
	At          int64    `json:"at"`          // on the run's clock
	Uncertainty int64    `json:"uncertainty"` // ± nanoseconds of At
	Kind        string   `json:"kind"`        // start, stop, leader, follower, isr, hw, truncate, unclean, fenced, …
	Key         string   `json:"key,omitempty"`
	Epoch       int32    `json:"epoch"`
	Leader      string   `json:"leader,omitempty"`
	ISR         []string `json:"isr,omitempty"`
	From        int64    `json:"from,omitempty"` // truncate: first offset removed
	To          int64    `json:"to,omitempty"`   // truncate: log end before
	Offset      int64    `json:"offset,omitempty"`
	Detail      string   `json:"detail,omitempty"`
}

// Stall is a time in which the harness itself stood still; availability there
// is not measured.
type Stall struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Replica is what the drain read of one replica's own log.
type Replica struct {
	Key      string `json:"key"`
	Node     string `json:"node"`
	Leader   bool   `json:"leader"`
	Complete bool   `json:"complete"` // its log reached the sentinel's offset
	Reason   string `json:"reason,omitempty"`
	Start    int64  `json:"start"`    // log start offset
	End      int64  `json:"end"`      // log end offset
	Epoch    int32  `json:"epoch"`    // leader epoch at the time of the drain
	Sentinel int64  `json:"sentinel"` // offset of the acknowledged sentinel, or NoOffset
	Digest   string `json:"digest"`   // of (offset, epoch, payload) over the records up to the sentinel
	// Records are in offset order. A replica whose digest equals an earlier
	// complete replica's of the same key may leave them out and name it in Same.
	Records []Record `json:"-"`
	Same    string   `json:"same,omitempty"`
	// Queue: the key is a queue. Records are then what the drain was given and did
	// not settle, in the order of delivery; Ready and Unacknowledged are what the
	// system said at its end of the messages that wait and of those that are
	// delivered and not settled, the drain's own among them.
	Queue          bool  `json:"queue,omitempty"`
	Ready          int64 `json:"ready,omitempty"`
	Unacknowledged int64 `json:"unacknowledged,omitempty"`
}

// Drain closes a history: the state in which the drain found a partition.
type Drain struct {
	Key      string `json:"key"`
	Complete bool   `json:"complete"` // every replica complete, one epoch, one digest
	Missing  bool   `json:"missing"`  // the topic is gone: that counts as lost, not as unread
	Reason   string `json:"reason,omitempty"`
	At       int64  `json:"at"`
	InSync   bool   `json:"in_sync"` // all replicas were in sync before the sentinel was sent
	Quiet    bool   `json:"quiet"`   // no workload connection was open any more
	Trimmed  bool   `json:"trimmed"` // the log no longer begins at offset 0
	Epoch    int32  `json:"epoch"`
}

// Note is anything else worth keeping in order: warnings, choices, recoveries.
type Note struct {
	At   int64  `json:"at"`
	Text string `json:"text"`
}

// Sink takes what a run records. Its methods may be called from several
// goroutines; nothing is dropped: a full buffer makes the caller wait.
type Sink interface {
	// Invoke records that op was called. op.ID is set by the sink. What the
	// caller does not know yet (Return, Outcome, Code, Records) is ignored.
	Invoke(op *Op)
	// Complete records that op was answered; op.Outcome is not Pending. Every
	// operation is completed once at most; ID, Client, Process, Kind, Key and
	// Call are as they were invoked. The sink keeps neither op nor its Records.
	Complete(op *Op)
	// Event records one of Phase, Fault, NodeEvent, Stall, Replica, Drain or Note.
	Event(ev any)
}

// History is a whole history in memory, as the checkers take it. Ops are in
// order of ID; an operation that was never completed is Indeterminate with
// Return Infinity.
type History struct {
	Header   Header
	Ops      []Op
	Phases   []Phase
	Faults   []Fault
	Events   []NodeEvent
	Stalls   []Stall
	Replicas []Replica
	Drains   []Drain
	Notes    []Note
	// Closed is false where the file ends without its closing entry: the
	// harness died, and what is missing is unknown.
	Closed bool
	// Torn is how many bytes at the end of the file formed no whole chunk, as a
	// crash leaves them. They were ignored.
	Torn int64
}
