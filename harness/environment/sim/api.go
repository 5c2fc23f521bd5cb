package sim

import (
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
)

// Factory makes the program of one incarnation of node h.Node(). It is called
// when the node boots; the process's first event is Started. The process must
// keep all that outlives it in h.Volume().
type Factory func(h Host) Process

// Process is a node's program: a state machine that is called by the event
// loop only, and only while its node runs and is not paused. It must not start
// goroutines, read real clocks, use random sources other than its Host's, or
// let the order of a map reach an effect. A panic in Handle is a crash of the
// node with exit code 2 (see World.Crashes).
type Process interface {
	Handle(ev Event)
}

// Event is what a process is told: one of Started, Wake, Message, LinkUp,
// LinkDown, Request, RequestGone, StorageDone, Terminate.
type Event interface{ event() }

// Started is a process's first event.
type Started struct{}

// Wake says that the time given to Host.SetWake has come (or is past: a paused
// process gets its wake-up on resume).
type Wake struct{}

// Message is a message that From sent on Channel. Msg is shared with its
// sender unless Options.Codec is set: neither may change it.
type Message struct {
	From    string
	Channel Channel
	Msg     any
}

// LinkUp says that a stream is established: the process's own to Node, or
// with Inbound the one that Node dialled. Inbound streams replaced by a new one
// get their LinkDown first.
type LinkUp struct {
	Node    string
	Channel Channel
	Inbound bool
}

// LinkDown says that a stream that was up has ended. What was sent on it and
// not yet received is lost. The process's own streams (not Inbound) are
// dialled anew until Disconnect; a new LinkUp follows.
type LinkDown struct {
	Node    string
	Channel Channel
	Inbound bool
	Reason  string // "reset", "closed", "timeout", "replaced"
}

// RequestID names one client request within a World.
type RequestID uint64

// Request is a client's request. Requests of one connection arrive in the
// order in which they were sent; a client waits for the answer to one before it
// sends the next on the same connection, except after a request without reply.
type Request struct {
	ID      RequestID
	Conn    uint64 // the connection, unique in the World
	Client  string
	Req     any  // shared with the client unless Options.Codec is set
	NoReply bool // the client expects no answer; Reply is ignored
}

// RequestGone says that the connection of an unanswered request was seen to be
// closed. A Reply to it is ignored.
type RequestGone struct{ ID RequestID }

// StorageDone reports that a storage operation has run. The events of one lane
// come in order of Submit.
type StorageDone struct {
	Lane  Lane
	Token Token
	Op    Operation
}

// Operation is a storage operation. Run runs at its completion, possibly after
// the incarnation that issued it was killed: it must touch nothing but the volume
// and the operation itself, where its result belongs.
type Operation interface{ Run() }

// Terminate is SIGTERM: the process should finish and call Host.Exit.
type Terminate struct{}

func (Started) event()      {}
func (Wake) event()         {}
func (Message) event()      {}
func (LinkUp) event()       {}
func (LinkDown) event()     {}
func (Request) event()      {}
func (RequestGone) event()  {}
func (*StorageDone) event() {}
func (Terminate) event()    {}

// Channel tells apart the streams between one ordered pair of nodes. Port says
// which cuts it obeys (nemesis.PeerPort or nemesis.QuorumPort); Name is free.
type Channel struct {
	Port nemesis.Port
	Name string
}

// The usual channels.
var (
	PeerChannel   = Channel{Port: nemesis.PeerPort}
	QuorumChannel = Channel{Port: nemesis.QuorumPort}
)

// Lane names a FIFO queue of a node's disk, for example a partition.
type Lane string

// MetaLane is the queue of the metadata log, which lies on another disk than all
// other lanes: a slow data disk does not slow it.
const MetaLane Lane = "meta"

// Token numbers the storage operations of one incarnation, from 1.
type Token uint64

// StorageKind chooses the latency model of a storage operation.
type StorageKind uint8

// The kinds of storage operations.
const (
	Append StorageKind = iota // buffered write: microseconds
	Sync                      // makes earlier writes durable: milliseconds, with a long tail
	Read                      // microseconds
	Modify                    // truncate, rename, remove, create: as Append
)

// NoWake given to Host.SetWake removes the wake-up.
const NoWake time.Duration = -1

// Host is what one incarnation of a node has around it. It is used from the
// factory, from Handle and from harness tasks, never from other goroutines.
// After the incarnation's end every method with an effect does nothing.
type Host interface {
	// Node is this node's name; Nodes are all nodes' names, in a fixed order
	// (the slice must not be changed).
	Node() string
	Nodes() []string
	// Incarnation counts the boots of this node, from 1.
	Incarnation() int
	// Volume is the node's disk as Options.Volume made it.
	Volume() Volume
	// Ended reports whether this incarnation has ended and nothing that it issued can
	// land any more: what it held, others may have.
	Ended() bool

	// Now is monotonic time, the same on all nodes. It stands still in Handle.
	Now() time.Duration
	// Wall is this node's wall clock, which faults may set and bend.
	Wall() time.Time
	// Rand is this incarnation's random stream of that name, the same on each call.
	Rand(name string) *rand.Rand
	// Logger writes to the node's log (collected as stdout.log), stamped with Wall.
	Logger() *slog.Logger

	// SetWake asks for one Wake event at a monotonic time (at once when it is
	// past) and replaces the former request. NoWake removes it.
	SetWake(at time.Duration)

	// Connect keeps a stream to another node: it dials until the stream is up
	// (LinkUp) and again after each LinkDown. A second call does nothing.
	// An unknown node, or the node itself, is a programming error and panics.
	Connect(to string, ch Channel)
	// Disconnect closes the stream and stops dialling; what was sent still arrives.
	// No LinkDown follows on this side.
	Disconnect(to string, ch Channel)
	// Send puts a message on a stream that is up. It returns false, and the
	// message is not sent, where the stream is not up.
	Send(to string, ch Channel, msg any) bool

	// Reply answers a request. Unknown, answered and gone requests are ignored.
	Reply(id RequestID, resp any)

	// Submit issues a storage operation of about that many bytes. StorageDone says
	// that it has run.
	Submit(lane Lane, kind StorageKind, bytes int, op Operation) Token

	// Emit publishes an event of this node. Node, Incarnation, Seq, At and
	// Uncertainty are set by the host; Seq counts from 1 per incarnation.
	Emit(ev history.NodeEvent)

	// Exit ends the process once Handle (or the factory) returns; until then, as
	// after it, nothing the process does has an effect.
	Exit(code int)
}

// Volume is what a node stores: a data disk with the partition logs, and
// another disk with the metadata log. It survives the node's processes. Its
// methods are called by the event loop and by faults only.
type Volume interface {
	// PowerLoss drops what was not synced on both disks, in whole or in part as r decides.
	PowerLoss(r *rand.Rand)
	// Wipe makes the data disk empty, as a new one is.
	Wipe()
	// Fill leaves the data disk no room, or gives it back.
	Fill(on bool)
	// Break lets changes and syncs of the data disk fail with syscall.EIO, or ends that.
	Break(on bool)
	// Probe writes, syncs and removes a small file on the data disk.
	Probe() error
	// Stored is the size of all partition logs in bytes.
	Stored() int64
	// Files lists the files that hold records, sorted by name.
	Files() ([]nemesis.StoredFile, error)
	// FileDigest is a digest of a file's first upTo bytes, or of as many as there
	// are; "" where there is no such file.
	FileDigest(file string, upTo int64) (string, error)
	// Flip inverts a bit, and Cut ends a file, without anybody's notice, durably.
	Flip(file string, offset int64, bit uint) error
	Cut(file string, size int64) error
	// Copy keeps a copy of the data disk, and PutBack makes it what it was then.
	Copy() error
	PutBack() error
	// DataDigest is a digest of all files on the data disk.
	DataDigest() string
	// Replace makes both disks empty and formats them for a new node of this identity.
	Replace(identity string) error
	// Digest is a digest of all files' names and contents.
	Digest() string
	// WriteCanary writes a small file, synced or not (the file and its name).
	WriteCanary(name string, sync bool) error
	// Locks returns the identities of the lock files of a device that nodes share, by name;
	// nil: they share none.
	Locks() (map[string]string, error)
	// RemoveLock removes one of them, or puts a new one in its place, durably.
	RemoveLock(name string, replace bool) error
	// HasCanary reports whether the file is there.
	HasCanary(name string) (bool, error)
}
