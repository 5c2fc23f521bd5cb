// Package broker holds the vocabulary of the reference broker: what enters a
// node (inputs) and what leaves it (effects). One process is one thin driver
// (sockets, files, wall clock, goroutines) around one node; a node is a
// deterministic state machine: no goroutine, lock, clock, random source, map
// order, socket or file. The same node runs in containers and in the simulator.
package broker

import (
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// NodeID identifies a node of the cluster, from 1. None is no node.
type NodeID int32

// None stands where there is no node (no leader, unknown).
const None NodeID = -1

// String returns the id as decimal digits.
func (id NodeID) String() string { return strconv.Itoa(int(id)) }

// Time is the moment of a step: Mono since an arbitrary start of this
// incarnation (never goes back; every timeout uses it), Wall as Unix
// nanoseconds (shown, never decided by).
type Time struct {
	Mono time.Duration
	Wall int64
}

// Member is one node of the cluster as its configuration names it.
type Member struct {
	ID   NodeID
	Name string
}

// ReqID numbers a client's request within one incarnation; the driver assigns
// it. A connection has one request in progress, in order; the driver sees to it.
type ReqID uint64

// Channel separates the kinds of traffic between nodes; each has its own port.
type Channel uint8

// The channels.
const (
	Peer   Channel = 1 // replication
	Quorum Channel = 2 // metadata quorum: raft, heartbeats
)

// Message is what nodes say to each other; package wire encodes each type.
type Message any

// Lane names a FIFO sequence of storage operations: one partition's log.
// It is also the name of its directory.
type Lane string

// Input is what a node is stepped with.
type Input interface{ input() }

// Request is a client's request, decoded. Batches of a produce request were
// checked before (CRC-32C, shape); Bad names, per topic and partition index in
// request order, those that failed.
type Request struct {
	ID       ReqID
	ClientID string
	Req      kmsg.Request
}

// RequestGone says that the connection of a request is closed: no reply is wanted.
type RequestGone struct{ ID ReqID }

// PeerMessage is a message of another node.
type PeerMessage struct {
	From    NodeID
	Channel Channel
	Msg     Message
}

// Link says that this node's outgoing stream to a peer came up or went down, or that
// the peer's stream to this node came up. Messages sent while a stream is down are
// dropped.
type Link struct {
	Peer    NodeID
	Channel Channel
	Up      bool
}

// Stored reports progress of one lane: every operation up to Written is in the
// file (survives the death of the process), every one up to Synced is durable.
// Err is a write or sync error: the disk can no longer be trusted.
type Stored struct {
	Lane    Lane
	Written uint64
	Synced  uint64
	Err     error
}

// MetaStored reports that metadata writes up to Seq are durable.
type MetaStored struct {
	Seq uint64
	Err error
}

// ReadFailed reports that a slice could not be read: the bytes on disk are not
// those that were written.
type ReadFailed struct {
	Lane   Lane
	Offset int64
	Err    error
}

// Wake is the timer: the time that NextWake asked for has come (or earlier).
type Wake struct{}

// Terminate asks for a graceful stop: leadership moves first.
type Terminate struct{}

func (Request) input()     {}
func (RequestGone) input() {}
func (PeerMessage) input() {}
func (Link) input()        {}
func (Stored) input()      {}
func (MetaStored) input()  {}
func (ReadFailed) input()  {}
func (Wake) input()        {}
func (Terminate) input()   {}

// Effect is what a step asks the driver to do, in order.
type Effect interface{ effect() }

// Slice is a range of a lane's log that the driver reads into a reply or
// message before it sends it. Whole batches: from the one that contains From up
// to the last that ends before To. It is read in the lane's order: after the
// appends and truncations asked for before it, before those asked for after it.
type Slice struct {
	Lane Lane
	From int64
	To   int64
	Into *[]byte // receives the concatenated raw batches
}

// Send sends a message on the outgoing stream to a peer, in order; it is
// dropped where the stream is down.
type Send struct {
	To      NodeID
	Channel Channel
	Msg     Message
	Slices  []Slice
}

// Reply answers a request. A nil Resp answers nothing (acks=0) and lets the
// connection go on to its next request.
type Reply struct {
	ID     ReqID
	Resp   kmsg.Response
	Slices []Slice
}

// Append writes raw batches at the end of a lane's log. Seq numbers the lane's
// writes (appends, truncations and what is kept) of this incarnation, from 1, without gaps; a
// lane that was removed and opened again goes on where it was.
type Append struct {
	Lane    Lane
	Seq     uint64
	Batches [][]byte
	// Origins names each batch, where the scheme gives batches names of their own; nil
	// where it does not. The log keeps them in its frames.
	Origins []Origin
}

// Origin is the name of a batch that any node may have taken from a client: the node,
// and its number there.
type Origin struct {
	Node int32
	Seq  int64
}

// Truncate removes every record from offset To on.
type Truncate struct {
	Lane Lane
	Seq  uint64
	To   int64
}

// Sync makes the lane's writes asked for so far durable; the driver coalesces.
type Sync struct{ Lane Lane }

// OpenLane creates a lane's empty log where it does not exist.
type OpenLane struct{ Lane Lane }

// RemoveLane closes a lane and deletes its data.
type RemoveLane struct{ Lane Lane }

// Checkpoint keeps a small value beside a lane's log, replaced atomically, not synced.
type Checkpoint struct {
	Lane Lane
	HW   int64
}

// Keep replaces what a partition keeps beside its log, atomically and durably,
// whatever fsync says. It is one of the lane's writes, with a Seq of its own: once it
// is written it is durable. What was asked for after it is done after it.
type Keep struct {
	Lane  Lane
	Seq   uint64
	State []byte
}

// MetaAppend writes records to the metadata log and makes them durable,
// whatever fsync says. Seq numbers these effects from 1. With Snapshot set the
// log is replaced: Records[0] is the snapshot, the rest what follows it.
type MetaAppend struct {
	Seq      uint64
	Records  [][]byte
	Snapshot bool
}

// Emit reports an event on standard output.
type Emit struct{ Event Event }

// LogLine is a structured log line for people.
type LogLine struct {
	Level string // debug, info, warn, error
	Text  string
	Attrs []any // alternating keys and values, as log/slog takes them
}

// Exit ends the process. With code 0 everything that was asked for is made durable first.
type Exit struct {
	Code   int
	Reason string
	// BrokerEpoch, with code 0, is kept with the logs then: it is how the next
	// incarnation shows that they have everything that this one had. 0: nothing is kept.
	BrokerEpoch int64
}

func (Send) effect()       {}
func (Reply) effect()      {}
func (Append) effect()     {}
func (Truncate) effect()   {}
func (Sync) effect()       {}
func (OpenLane) effect()   {}
func (RemoveLane) effect() {}
func (Checkpoint) effect() {}
func (Keep) effect()       {}
func (MetaAppend) effect() {}
func (Emit) effect()       {}
func (LogLine) effect()    {}
func (Exit) effect()       {}

// Event is one thing that a node reports about itself, numbered within its
// incarnation so that a gap shows.
type Event struct {
	Kind   string   `json:"event"` // start, stop, leader, follower, isr, truncate, unclean, eligible, fenced, unfenced, controller, corrupt, deleted, peer-down, partitioned
	Seq    int64    `json:"seq"`
	Wall   int64    `json:"wall"` // Unix nanoseconds
	Inc    string   `json:"incarnation"`
	Key    string   `json:"key,omitempty"` // topic-partition
	Epoch  int32    `json:"epoch"`
	Leader string   `json:"leader,omitempty"` // node name
	ISR    []string `json:"isr,omitempty"`    // node names
	From   int64    `json:"from,omitempty"`   // truncate: first offset removed
	To     int64    `json:"to,omitempty"`     // truncate: log end before
	Offset int64    `json:"offset,omitempty"` // leader, deleted: log end at that moment; start: number of records found
	Detail string   `json:"detail,omitempty"`
}
