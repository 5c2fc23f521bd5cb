// Package nemesis injects faults, proves that they took effect, heals them and
// proves that too. A fault without its proofs makes a run inconclusive, never
// valid. Each fault is one file; the capabilities it needs (kill a process, cut
// a link, take a disk's power) are declared here and implemented by the
// environments.
package nemesis

import (
	"context"
	"errors"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// ErrUnsupported is returned (wrapped, with the missing feature named) by an
// environment that lacks a capability. It is found before a run starts.
var ErrUnsupported = errors.New("not supported by this environment")

// Clock is the run's clock. Sleep returns early, with ctx's error, when ctx ends.
type Clock interface {
	Now() time.Duration
	Sleep(ctx context.Context, d time.Duration) error
}

// Clients is the endpoint name of all clients of the harness together.
const Clients = "clients"

// Port narrows a cut to one kind of traffic.
type Port string

// The kinds of traffic. AnyPort is all of them.
const (
	AnyPort    Port = ""
	ClientPort Port = "client" // clients to brokers
	PeerPort   Port = "peer"   // replication
	QuorumPort Port = "quorum" // metadata quorum
)

// Cut is one direction of traffic that is dropped: from one endpoint to another
// (node names, or Clients). Packets that belong to established connections are
// dropped as well.
type Cut struct {
	From string `json:"from"`
	To   string `json:"to"`
	Port Port   `json:"port,omitempty"`
}

// Pair is one direction between two endpoints.
type Pair struct{ From, To string }

// Reach is what is known of one direction: every endpoint sends a numbered
// nonce to every other one every NonceInterval, over datagrams and on a port
// that every cut of AnyPort covers.
type Reach struct {
	Sent     uint64 // number of the last nonce that From sent
	Received uint64 // highest nonce number that To received, 0 = none
}

// NonceInterval is the interval between two nonces of one direction.
const NonceInterval = 50 * time.Millisecond

// Observation is the state of all directions at one moment.
type Observation struct {
	Reach map[Pair]Reach
	// Boots is the boot id of each endpoint's observer. A change between two
	// observations means that rules and counters were lost in between.
	Boots map[string]string
	// Dropped counts, per rule set id and cut, the packets (simulator: messages)
	// of the system under test that were dropped; nonces are not counted.
	Dropped map[string]map[Cut]uint64
}

// Network cuts links.
type Network interface {
	// Block drops what cuts name, in addition to whatever other sets drop.
	// A known id is an error.
	Block(ctx context.Context, id string, cuts []Cut) error
	// Unblock removes exactly the set id. An unknown id is an error.
	Unblock(ctx context.Context, id string) error
	Observe(ctx context.Context) (Observation, error)
}

// ProcessState is what the environment's engine says about a node's process.
type ProcessState struct {
	Running  bool
	Paused   bool
	PID      int    // 0 when not running
	Started  string // start time of this incarnation, opaque, differs between incarnations
	ExitCode int    // of the last incarnation when not running
	// OutOfMemory: the last incarnation was killed for want of memory.
	OutOfMemory bool
}

// Processes controls the nodes' processes.
type Processes interface {
	// Kill sends SIGKILL and returns once the process is dead.
	Kill(ctx context.Context, node string) error
	// Stop sends SIGTERM and returns the exit code; after grace it fails and the process still runs.
	Stop(ctx context.Context, node string, grace time.Duration) (exitCode int, err error)
	// Start starts a dead node again, with its data, name, address and network rules.
	Start(ctx context.Context, node string) error
	Pause(ctx context.Context, node string) error
	Resume(ctx context.Context, node string) error
	State(ctx context.Context, node string) (ProcessState, error)
}

// Disks takes the power from nodes' disks.
type Disks interface {
	// WriteCanary writes a small file beside the node's data, synced or not.
	WriteCanary(ctx context.Context, node, name string, sync bool) error
	// HasCanary reports whether the file is there.
	HasCanary(ctx context.Context, node, name string) (bool, error)
	// PowerLoss kills the nodes' processes, all of them before any disk is cut,
	// then drops everything that was not synced. The nodes stay down.
	PowerLoss(ctx context.Context, nodes []string) error
}

// Roles tells who holds which role, as the system under test itself says.
type Roles interface {
	// Leader returns the leader of a partition and its epoch (-1 where the system has none).
	Leader(ctx context.Context, key string) (node string, epoch int32, err error)
	// Controller returns the node that leads the metadata quorum.
	Controller(ctx context.Context) (string, error)
	// Responds reports whether node answers an application request within timeout.
	Responds(ctx context.Context, node string, timeout time.Duration) bool
	// Keys lists the partitions of the workload.
	Keys() []string
}

// Member is a node that belongs to the cluster, as the system itself lists it.
type Member struct {
	Node string
	// Identity tells apart the nodes that were at this place one after another.
	Identity string
	Voter    bool // has a vote in the metadata quorum
	Live     bool // is registered as a broker and not fenced
	Replicas int  // how many of the workload's partitions it has a replica of
}

// Assignment is a partition's replicas, as the system itself says.
type Assignment struct {
	Replicas []string // in order of preference
	InSync   []string
	Moving   bool // replicas are being exchanged
}

// Admin is the system's own administration. Every method asks once; what it
// begins may take its time, and asking again for what has begun or is done
// already is no error. An error says why it was refused, or that nobody answered.
type Admin interface {
	// Members lists the nodes that belong to the metadata quorum.
	Members(ctx context.Context) ([]Member, error)
	// Admit begins to take the running node of this identity in.
	Admit(ctx context.Context, node, identity string) error
	// Expel begins to take the node of this identity out of the quorum.
	Expel(ctx context.Context, node, identity string) error
	// Forget ends the registration of a broker that is gone and has no replicas.
	Forget(ctx context.Context, node string) error
	Assignment(ctx context.Context, key string) (Assignment, error)
	// Assign begins to give a partition these replicas, in order of preference.
	Assign(ctx context.Context, key string, replicas []string) error
	// Elect gives the leadership of a partition to its first replica.
	Elect(ctx context.Context, key string) error
}

// Events tells what the nodes reported of themselves.
type Events interface {
	// Since returns the events from number n on, counted from 0, in the order in
	// which they came. The caller changes nothing in them.
	Since(n int) []history.NodeEvent
}

// Target is everything a fault acts on. A nil capability is missing in this
// environment.
type Target struct {
	Nodes     []string
	Clock     Clock
	Network   Network
	Processes Processes
	Disks     Disks
	Roles     Roles
	Admin     Admin
	// Spares are further places, whose nodes are no members at first.
	Spares []string
	Events Events
	// Versions is the nodes' own word for what they run.
	Versions Versions
	Machines
}

// Recorder takes the fault events of a run; the history's Sink fulfils it.
type Recorder interface{ Event(ev any) }

var _ Recorder = history.Sink(nil)
