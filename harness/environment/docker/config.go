package docker

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"

	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// Access is how the harness reaches the nodes' ports.
type Access string

// The ways to reach nodes.
const (
	// Auto is Direct where the run's bridge is an interface of this host, else Published.
	Auto      Access = ""
	Direct    Access = "direct"    // by the containers' own addresses
	Published Access = "published" // by ports that are published on the engine's host
)

// Config describes one cluster. The zero value of every optional field is its default.
type Config struct {
	// RunID labels and names everything: 1 to 40 of a-z, 0-9 and -, unique.
	RunID string
	Nodes []NodeSpec // 1 to 29
	// Ports of every node, inside its namespace. Default environment.DefaultPorts.
	Ports  environment.NodePorts
	Access Access
	// SidecarImage holds /faultsidecar. Default: the image of this source.
	SidecarImage string
	// Disks puts DataDir of every node on a disk of its own, which faults of disks
	// need: an ext4 file system in a sparse file on a loop device of the engine's host.
	Disks bool
	// Throttle says that these disks are going to be slowed, and lets Up fail where
	// the engine's host cannot do that.
	Throttle bool
	// Shared is where a volume that all nodes share is mounted, by its sidecars at
	// sidecar.SharedDir; "" = there is none.
	Shared string
	// Limits says that nodes' processors and memory are going to be limited, and lets
	// Up fail where the engine's host cannot do that.
	Limits bool
	// NextImage is that of another version, which nodes can be upgraded to; "" = none.
	NextImage string
	// Try are rule sets such as the run's faults are going to use, without ids. Up
	// fails where the kernel of the engine's host cannot carry one out.
	Try []sidecar.RuleSet
	// Keep leaves the cluster up at Down. What is kept goes by Sweep with Kept set.
	Keep bool
	// LogLimit bounds each stored output stream of a node, in bytes; what is beyond
	// it is dropped with a mark. Events do not count. Default 64 MiB.
	LogLimit int64
	Log      *slog.Logger // default: discard

	// Sabotage weakens the sidecars, and a stubbed one puts no new node in place
	// either, to prove that proofs of effect can fail. Tests only.
	Sabotage sidecar.Sabotage
	// SabotageNode narrows Sabotage to one node; "" = all.
	SabotageNode string
}

// NodeSpec describes one node.
type NodeSpec struct {
	Name string // a host name: a-z, 0-9 and -, at most 30 characters
	// Image of the node. Default: the image of this source. Nothing is required in it.
	Image      string
	Entrypoint []string // default: the image's
	// Spare is a place that Up makes and starts nothing in: a new node is put there
	// later (nemesis.NodeReplacer).
	Spare bool
	// Cmd returns the command, given all nodes' addresses by name: with the binary
	// first where there is no entry point, as in the image of this source. nil = the image's.
	// identity is that of a new node (nemesis.NodeReplacer), "" for one that Up made.
	Cmd func(addrs map[string]netip.Addr, identity string) []string
	Env []string // NAME=value
	// Files are put into the node's container before it starts: absolute path → content.
	Files map[string][]byte
	// Ports are published where containers are not reached directly. Default: client and admin port.
	Ports []int
	// DataDir is where the node's data volume is mounted. Default /data.
	DataDir string
	// MetaDir is where a second volume is mounted, which is always a plain one: for
	// what faults of disks must not touch. "" = none.
	MetaDir string
	// Clock is the folder where the node finds a file "clock" while its wall clock is
	// to go wrong (sidecar.Skew); it tells its clock at /clock of its admin port, in
	// nanoseconds since 1970. "" = it cannot be told a time.
	Clock string
	// Records is the extension of the files below DataDir that hold records; "" = all files.
	Records string
}

const (
	defaultLogLimit = 64 << 20
	maxNodes        = 29
)

var nodeExp = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$`)

// Validate refuses a configuration that cannot work.
func (c Config) Validate() error {
	if !runExp.MatchString(c.RunID) {
		return fmt.Errorf("run id %q: it needs 1 to 40 of the characters a-z, 0-9 and -", c.RunID)
	}
	if len(c.Nodes) < 1 || len(c.Nodes) > maxNodes {
		return fmt.Errorf("%d nodes: Docker takes 1 to %d", len(c.Nodes), maxNodes)
	}
	seen := map[string]bool{}
	for _, n := range c.Nodes {
		switch {
		case !nodeExp.MatchString(n.Name):
			return fmt.Errorf("node name %q: it needs to be a host name of a-z, 0-9 and -, at most 30 characters", n.Name)
		case n.Name == nemesis.Clients || n.Name == "localhost":
			return fmt.Errorf("node name %q is reserved", n.Name)
		case seen[n.Name]:
			return fmt.Errorf("node name %q is used twice", n.Name)
		}
		seen[n.Name] = true
	}
	switch c.Access {
	case Auto, Direct, Published:
	default:
		return fmt.Errorf("unknown access %q, known are direct and published", c.Access)
	}
	for kind, port := range map[string]int{"client": c.Ports.Client, "peer": c.Ports.Peer, "quorum": c.Ports.Quorum, "admin": c.Ports.Admin, "nonce": c.Ports.Nonce} {
		if port < 1 || port > 65535 {
			return fmt.Errorf("%s port %d: it needs to be 1 to 65535", kind, port)
		}
	}
	if c.Throttle && !c.Disks {
		return errors.New("nodes without disks of their own cannot have them throttled")
	}
	if c.LogLimit < 0 {
		return errors.New("a negative log limit")
	}
	if c.SabotageNode != "" && !seen[c.SabotageNode] {
		return fmt.Errorf("sabotage of an unknown node %q", c.SabotageNode)
	}
	return c.Sabotage.Validate()
}

// TellsTime reports whether all nodes can be told a time.
func (c Config) TellsTime() bool {
	return !slices.ContainsFunc(c.Nodes, func(n NodeSpec) bool { return n.Clock == "" })
}

func (c Config) withDefaults() Config {
	if c.Ports == (environment.NodePorts{}) {
		c.Ports = environment.DefaultPorts
	}
	if c.LogLimit == 0 {
		c.LogLimit = defaultLogLimit
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	nodes := make([]NodeSpec, len(c.Nodes))
	for i, n := range c.Nodes {
		if len(n.Ports) == 0 {
			n.Ports = []int{c.Ports.Client, c.Ports.Admin}
		}
		if n.DataDir == "" {
			n.DataDir = "/data"
		}
		nodes[i] = n
	}
	c.Nodes = nodes
	return c
}
