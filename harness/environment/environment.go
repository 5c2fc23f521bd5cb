// Package environment says what a place where nodes live must offer. Three
// places exist: docker (containers), sim (one process, virtual time) and external
// (a cluster that the harness reaches and does not run). The
// harness is written once, in blocking style, against Runtime.
package environment

import (
	"context"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
)

// Runtime runs the harness's own concurrent tasks: goroutines and the
// monotonic clock in docker, coroutines and virtual time in the simulator,
// where exactly one task runs at a time, so that a seed gives one history.
type Runtime interface {
	nemesis.Clock
	// Group returns a new group of tasks. Code that runs in tasks must not block
	// on channels or locks held across Sleep; it shares state under a mutex and
	// waits by Sleep or Group.Wait.
	Group() Group
}

// Group is a set of tasks that can be waited for.
type Group interface {
	Go(name string, task func())
	Wait()
}

// Environment is one cluster's home.
type Environment interface {
	// Name is "docker", "sim" or "external".
	Name() string
	Runtime() Runtime
	// Up creates everything and starts all nodes; it does not wait for readiness.
	Up(ctx context.Context) error
	// Down removes everything that Up and faults created, after success, failure or cancellation.
	Down(ctx context.Context) error
	Nodes() []string
	Network() nemesis.Network     // nil: cannot cut links
	Processes() nemesis.Processes // nil: cannot control processes
	Disks() nemesis.Disks         // nil: cannot take power
	Machines() nemesis.Machines   // a nil field: cannot do that
	// Events delivers the nodes' own events (JSON lines on standard output) as they come.
	// It must be called before Up.
	Events(func(history.NodeEvent))
	// Collect writes each node's log, events and data digest below dir/<node>/.
	Collect(ctx context.Context, dir string) error
	// Versions names engine, kernel, image and source digests.
	Versions() map[string]string
}

// NodePorts are the ports a node listens on inside its network namespace.
type NodePorts struct {
	Client int // 9092
	Peer   int // 9093
	Quorum int // 9094
	Admin  int // 9095: /readyz, /metrics
	Nonce  int // the sidecar's datagram port, 9099
}

// DefaultPorts are the ports of every node of the project's own images.
var DefaultPorts = NodePorts{Client: 9092, Peer: 9093, Quorum: 9094, Admin: 9095, Nonce: 9099}

// Deadline bounds for environments, as defaults.
const (
	UpTimeout   = 60 * time.Second
	DownTimeout = 60 * time.Second
)
