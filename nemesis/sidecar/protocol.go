package sidecar

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"time"
)

// The operations of a Request.
const (
	opConfigure = "configure"
	opApply     = "apply"
	opRemove    = "remove"
	opObserve   = "observe"
	opTime      = "time"
	opStay      = "stay"
	opDisk      = "disk"
	opTry       = "try"
	opEcho      = "echo"
	opArrived   = "arrived"
	opDial      = "dial"
	opGroup     = "group"
	opKernel    = "kernel"
	opClock     = "clock"
	opLocks     = "locks"
	opReadClock = "read-clock"
)

// Request is one command to a sidecar. Commands are carried out one after
// another, in the order of their arrival.
type Request struct {
	ID uint64 `json:"id"` // chosen by the client, unique on one connection
	Op string `json:"op"`
	// Timeout bounds the time from the command's arrival to its beginning, in
	// nanoseconds; 0 = DefaultTimeout.
	Timeout   time.Duration `json:"timeout,omitempty"`
	Configure *Configure    `json:"configure,omitempty"`
	Apply     *RuleSet      `json:"apply,omitempty"`
	Remove    string        `json:"remove,omitempty"` // a rule set's id
	Disk      *DiskRequest  `json:"disk,omitempty"`
	Try       *RuleSet      `json:"try,omitempty"`
	Echo      *Volley       `json:"echo,omitempty"`
	Arrived   uint64        `json:"arrived,omitempty"` // a volley's number
	Dial      string        `json:"dial,omitempty"`    // an endpoint
	Group     *GroupRequest `json:"group,omitempty"`
	Clock     *ClockRequest `json:"clock,omitempty"`
	Locks     *LocksRequest `json:"locks,omitempty"`
	ReadClock uint16        `json:"read_clock,omitempty"` // a port of the node
}

// name is what errors call the command.
func (r Request) name() string {
	if r.Disk != nil {
		return r.Op + " " + string(r.Disk.Op)
	}
	if r.Clock != nil {
		return r.Op + " " + string(r.Clock.Op)
	}
	return r.Op
}

// Response answers the request of the same ID.
type Response struct {
	ID     uint64        `json:"id"`
	Error  string        `json:"error,omitempty"`
	Boot   string        `json:"boot,omitempty"`
	State  *Observation  `json:"state,omitempty"`
	Wall   int64         `json:"wall,omitempty"` // time: nanoseconds since 1970
	Disk   *DiskResponse `json:"disk,omitempty"`
	Group  *Group        `json:"group,omitempty"`
	Kernel *Kernel       `json:"kernel,omitempty"`
	// Echo is what came back, or, of arrived, what arrived.
	Echo  *Echoes       `json:"echo,omitempty"`
	Dial  string        `json:"dial,omitempty"`
	Clock *ClockReading `json:"clock,omitempty"`
	// Locks answers opLocks.
	Locks *LocksResponse `json:"locks,omitempty"`
}

// DefaultTimeout bounds a command that names no bound of its own, and every
// command of a Client but those about disks.
const DefaultTimeout = 5 * time.Second

// Clients is the endpoint name of the harness, as in package nemesis, which the
// agent does not import: its image would change with every fault.
const Clients = "clients"

// Configure tells a sidecar who it is. It is the first command; sending the
// same again does nothing, sending another one is an error.
type Configure struct {
	Run  string `json:"run"`
	Self string `json:"self"` // the node's name
	// Peers are the other nodes' addresses, by name.
	Peers map[string]netip.Addr `json:"peers"`
	// Clients are the addresses from which the harness's packets arrive, as far as
	// they are known beforehand. The address that its nonces come from is added.
	Clients []netip.Addr `json:"clients"`
	// NoncePort is the datagram port of every sidecar.
	NoncePort uint16 `json:"nonce_port"`
	// Interval between two nonces of one direction.
	Interval time.Duration `json:"interval"`
}

func (c *Configure) validate() error {
	switch {
	case c == nil:
		return errors.New("configure: nothing given")
	case !validName(c.Run) || !validName(c.Self):
		return fmt.Errorf("configure: run %q, self %q: a name has 1 to %d printable ASCII characters and no space", c.Run, c.Self, maxName)
	case c.NoncePort == 0:
		return errors.New("configure: no nonce port")
	case c.Interval <= 0:
		return fmt.Errorf("configure: nonce interval %v", c.Interval)
	}
	for name, addr := range c.Peers {
		if !validName(name) || !addr.Is4() || name == c.Self {
			return fmt.Errorf("configure: peer %q at %v: it needs a name of its own and an IPv4 address", name, addr)
		}
	}
	for _, addr := range c.Clients {
		if !addr.Is4() {
			return fmt.Errorf("configure: the clients' address %v is not an IPv4 address", addr)
		}
	}
	return nil
}

// Hook is the place in the namespace where a packet is dropped.
type Hook string

// The hooks.
const (
	Input  Hook = "input"  // packets from the peer
	Output Hook = "output" // packets to the peer
)

// Drop is one direction of traffic between this node and a peer.
type Drop struct {
	Hook Hook   `json:"hook"`
	Peer string `json:"peer"` // a node's name, or Clients
	// Port narrows the drop to TCP connections to this port, on whichever side it
	// listens: packets to it and packets from it. 0 drops everything, nonces too.
	Port uint16 `json:"port,omitempty"`
	Mode Mode   `json:"mode,omitempty"`
}

// Mode says what is dropped of a direction, and how; "" is everything, without a word.
type Mode string

// The modes. Both leave datagrams alone.
const (
	// Reset answers every TCP segment with a reset; resets themselves pass.
	Reset Mode = "reset"
	// HalfOpen drops every TCP segment but those with the flag SYN: a connection can
	// be opened, as its dialler sees it, and nothing gets through on any.
	HalfOpen Mode = "half-open"
)

// RuleSet is what one fault does to packets in one namespace.
type RuleSet struct {
	// ID has 1 to 96 printable ASCII characters and no space.
	ID     string  `json:"id"`
	Drops  []Drop  `json:"drops,omitempty"`
	Shapes []Shape `json:"shapes,omitempty"`
}

// Counter counts the packets that one Drop or Shape hit.
type Counter struct {
	System uint64 `json:"system"` // TCP packets: the system's own, and its clients'
	Nonces uint64 `json:"nonces"` // and other packets of probes
}

// Observation is what one sidecar knows.
type Observation struct {
	Sent     map[string]uint64 `json:"sent"`     // per endpoint: number of the last nonce sent to it
	Received map[string]uint64 `json:"received"` // per endpoint: highest number received from it
	// Dropped counts per rule set, in the order of its Drops.
	Dropped map[string][]Counter `json:"dropped"`
	// Shaped counts the packets that shapes did something to, in the order of the set's Shapes.
	Shaped map[string][]Counter `json:"shaped,omitempty"`
}

const maxName = 96

var nameExp = regexp.MustCompile(`^[!-~]{1,96}$`)

func validName(s string) bool { return nameExp.MatchString(s) }
