// Package system says what a system under test must offer to the harness: how
// its nodes are started in each environment, what it promises, how its clients
// speak to it, and how it is drained. One package beside this one per system.
package system

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/environment/external"
	"github.com/faultline-mq/faultline/harness/environment/sim"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/workloads"
)

// Spec is one configuration of a system.
type Spec struct {
	Scheme   string
	Workload string
	Image    string // of the nodes in Docker; "": the system's own
	// Addresses (host:port) are those of the nodes of an external cluster, in their order.
	Addresses []string
	Client    string // kind of client; "": precise
	RunID     string
	Nodes     []string
	Spares    []string          // further nodes, which are no members at first
	Faults    []string          // as planned; what is promised may depend on them
	Steps     []nemesis.Step    // the schedule, once it is known; likewise
	Set       map[string]string // options that were set; the others have their defaults
	Expect    string            // "survive" or "declared"
	Seed      uint64
	Late      bool // the workload's topic is there only once a client asks for it
	Timeout   time.Duration
}

// System is one kind of system under test.
type System interface {
	Name() string
	Doc() string // one line, for people
	Schemes() []Scheme
	// Workloads are the names of those that it can carry, its own first.
	Workloads() []string
	// Validate refuses an impossible configuration with one clear line.
	Validate(Spec) error
	// OptionList describes what can be set.
	OptionList() []Info
	// Options returns every option, resolved. The configuration is valid.
	Options(Spec) map[string]string
	// Lacks says why the nodes cannot have a fault, by nature; "": they can.
	Lacks(Spec, nemesis.Step) string
	// Keys are the partitions or queues of the workload.
	Keys(Spec) []string
	// Queues are those of the keys that are queues.
	Queues(Spec) []history.Queue
	Contract(Spec) history.Contract
	// Detection is the slowest detection time of this configuration.
	Detection(Spec) time.Duration
	// Docker describes the nodes as containers.
	Docker(Spec) (docker.Config, error)
	// Sim describes the nodes as simulated processes.
	Sim(Spec) (sim.Options, error)
	// ConnectDocker and ConnectSim return the cluster as clients see it.
	ConnectDocker(Spec, *docker.Environment) Cluster
	ConnectSim(Spec, *sim.World) Cluster
}

// Reachable is a system of which clusters can be put under test that the harness
// does not run.
type Reachable interface {
	// ConnectExternal returns the cluster as clients see it.
	ConnectExternal(Spec, *external.Environment) Cluster
}

// Closer is a cluster that is left behind when a run ends: Close takes away what its
// Setup made there. It is called once, whatever became of the run.
type Closer interface {
	Close(ctx context.Context) error
}

// PreciseClient is the kind of client that every system has: one operation is one
// request to one node with one deadline.
const PreciseClient = "precise"

// Clients is a system that has further kinds of clients.
type Clients interface {
	// ClientKinds are those beside PreciseClient.
	ClientKinds() []string
}

// Preparer is a system whose images are made here: Prepare makes those of spec that
// the engine lacks, before a run in Docker. progress takes the output of the tools.
type Preparer interface {
	Prepare(ctx context.Context, spec Spec, progress io.Writer) error
}

// Limited is a system that takes longer than others: Limits are those of its runs.
type Limited interface {
	Limits(Spec) Limits
}

// Limits bound parts of a run. What is 0 has its default.
type Limits struct {
	Faults nemesis.Limits // of what is done to nodes, and of its proofs
	Drain  time.Duration  // default 60 s
}

// ErrNotSimulated is returned where a system's nodes exist as containers only.
var ErrNotSimulated = errors.New("its nodes run as containers only; use --env docker")

// Contained is what systems have in common whose nodes exist as containers only. It
// is embedded.
type Contained struct{}

// Sim implements System: it is refused.
func (Contained) Sim(Spec) (sim.Options, error) { return sim.Options{}, ErrNotSimulated }

// ConnectSim implements System. There is nothing to connect to.
func (Contained) ConnectSim(Spec, *sim.World) Cluster { return nil }

// Scheme describes a replication scheme that can be chosen.
type Scheme struct {
	Name      string
	Doc       string
	Authority string // who tells its nodes what there is: "raft" or "peers"
	Election  string // who makes leaders, for people
	Replicas  string // how many a partition has, for people
	Single    bool   // a partition has one copy
	Factor    bool   // it has as many as replication.factor says
	Few       bool   // nodes may have none of its copies, whatever replication.factor says
	InSync    bool   // min.insync.replicas is a matter of its own
	Moves     bool   // replicas can be moved between nodes
	Shared    bool   // that copy lies on a device that all nodes share
	Survives  bool   // with default options, the loss of one disk takes nothing
	Unsynced  bool   // and nor does one node's loss of power where logs are never synced
	Options   []Option
	// Hunted are values of options that random runs set, because with them acknowledged
	// messages survive, and Survived the faults that they draw. Nil: what they choose, and all.
	Hunted   map[string]string
	Survived []string
}

// Option is an option of a scheme.
type Option struct {
	Name string
	Doc  string
	// Draw are the values that random runs choose from; none: they leave it alone.
	Draw []string
	// Safe is what they fall back to where what they drew promises nothing; "": none.
	Safe string
	// Protocol: they choose always, and not only now and then.
	Protocol bool
}

// Info names and describes something that can be chosen.
type Info struct {
	Name string
	Doc  string
}

// Cluster is a running system as clients see it.
type Cluster interface {
	nemesis.Roles
	// Admin is the system's own administration; nil: it has none.
	Admin() nemesis.Admin
	// Versions tells what nodes run; nil: they do not say.
	Versions() nemesis.Versions
	// Setup waits until the nodes answer and creates what the workload needs.
	// It returns once every partition is ready, or an error that says what was missing.
	Setup(ctx context.Context) error
	// Client returns a client as spec says: its name, and how it behaves.
	Client(spec workloads.ClientSpec) Client
	// Drain reads what every replica holds; workload connections are closed.
	Drain(ctx context.Context, limit time.Duration) ([]history.Drain, []history.Replica)
}

// Client is one precise client, used by one task.
type Client interface {
	// Route returns the index of the node that Do will send op to, or
	// history.NoNode. It may ask for metadata; it is not part of the operation.
	Route(ctx context.Context, op *workloads.Op) int16
	// Do executes op: one request to one node with one deadline, and more of them,
	// numbered alike, where the client is idempotent.
	Do(ctx context.Context, op *workloads.Op) workloads.Result
	// Epoch is the leader epoch that the client believes in, -1 where there is none.
	Epoch(key int32) int32
	Close()
}
