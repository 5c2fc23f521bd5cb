package driver

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
	"github.com/faultline-mq/faultline/broker/vfs"
)

// Member is one node of the cluster and where the others reach it. A port of 0
// is this node's own port of that kind: nodes on hosts of their own use the same.
type Member struct {
	ID         broker.NodeID
	Name       string
	Host       string
	ClientPort int
	PeerPort   int
	QuorumPort int
}

// Listeners are sockets that are open already; one that is nil is opened on
// Config.Listen and its port. Run closes them.
type Listeners struct {
	Client, Peer, Quorum, Admin net.Listener
}

// Config is what a broker process is made from.
type Config struct {
	ID      broker.NodeID
	Name    string
	Members []Member // every node that there may be, this one included; the same on every node
	// Voters are those of Members that the cluster begins with, the same on every
	// node; nil: all. Further ones are added by their administration.
	Voters []broker.NodeID
	// Directory, where it is not 0, makes an empty metadata directory that of a new
	// node, which waits until it is added under this id. One that holds another id,
	// or the metadata log of a node that the cluster began with, is refused.
	Directory cluster.Directory

	DataDir string // partition logs; made if missing, locked while in use
	MetaDir string // the metadata log; default DataDir
	Logs    vfs.FS // instead of DataDir
	Meta    vfs.FS // instead of MetaDir; default Logs
	// Shared is the directory of the storage device that the nodes share, for schemes that
	// keep their logs there; the same on every node, and there already. "": there is none.
	Shared string

	Version string // what the node says that it is

	Listen                                      string // address to listen on, default all
	ClientPort, PeerPort, QuorumPort, AdminPort int
	Listeners                                   Listeners
	Advertise                                   string // HOST:PORT for clients, default this member's host and client port

	// Clock is a file that makes the node's wall clock wrong: one JSON object as
	// described in clock.go. Without the file the clock is the machine's, and "" is
	// no such file. It is looked at a hundred times a second.
	Clock string

	Rack   string
	Scheme string            // of topics that name none
	Set    map[string]string // options, by the names of package options

	Stdout   io.Writer // events, one JSON object per line
	Stderr   io.Writer // the log
	LogLevel slog.Level
	// Terminate asks for a graceful stop when it is closed. Cancelling Run's
	// context stops the node as a kill does.
	Terminate <-chan struct{}

	MaxConnections int           // per port (Kafka: max.connections)
	IdleTimeout    time.Duration // a client's connection without request is closed (Kafka: connections.max.idle.ms)
	FrameTimeout   time.Duration // a frame that has begun must arrive within it
	WriteTimeout   time.Duration // a reply, or what is queued for a peer, must be taken within it
	QueueBytes     int           // bound of what is queued for one peer and channel
}

// DefaultConfig returns a config without identity, members and directory: ports
// 9092 to 9095, scheme isr, 1000 connections per port, 10 minutes idle, 30 s for
// a frame or a reply, 128 MiB queued per stream.
func DefaultConfig() Config {
	return Config{
		ClientPort: 9092, PeerPort: 9093, QuorumPort: 9094, AdminPort: 9095, Scheme: "isr",
		Stdout: os.Stdout, Stderr: os.Stderr, LogLevel: slog.LevelInfo,
		MaxConnections: 1000, IdleTimeout: 10 * time.Minute, FrameTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, QueueBytes: 128 << 20,
	}
}

// self returns this node's member, with its ports filled in.
func (c *Config) self() (Member, bool) {
	i := slices.IndexFunc(c.Members, func(m Member) bool { return m.ID == c.ID })
	if i < 0 {
		return Member{}, false
	}
	return c.resolved(c.Members[i]), true
}

func (c *Config) resolved(m Member) Member {
	fill := func(port *int, own int) {
		if *port == 0 {
			*port = own
		}
	}
	fill(&m.ClientPort, c.ClientPort)
	fill(&m.PeerPort, c.PeerPort)
	fill(&m.QuorumPort, c.QuorumPort)
	return m
}

// advertised returns what clients are told.
func (c *Config) advertised() (host string, port int32, err error) {
	self, _ := c.self()
	if c.Advertise == "" {
		return self.Host, int32(self.ClientPort), nil
	}
	host, p, err := net.SplitHostPort(c.Advertise)
	if err != nil || host == "" {
		return "", 0, fmt.Errorf("advertised address %q: HOST:PORT is wanted", c.Advertise)
	}
	n, err := parsePort(p)
	if err != nil {
		return "", 0, fmt.Errorf("advertised address %q: %w", c.Advertise, err)
	}
	return host, int32(n), nil
}

// Validate checks the config; an error names the field and the remedy.
func (c Config) Validate() error {
	self, ok := c.self()
	if !ok || self.Name != c.Name {
		return fmt.Errorf("node %d@%s is not in the cluster list: give it exactly one entry there, with this id and name", c.ID, c.Name)
	}
	if err := validMembers(c.Members); err != nil {
		return err
	}
	if c.DataDir == "" && c.Logs == nil {
		return errors.New("no data directory is given")
	}
	if c.Logs != nil && c.Meta == nil && c.MetaDir != "" || c.Meta != nil && c.Logs == nil {
		return errors.New("partition logs and metadata log must both be directories or both be file systems")
	}
	ports := map[int]string{}
	for _, p := range []struct {
		name string
		port int
		ln   net.Listener
	}{
		{"client", self.ClientPort, c.Listeners.Client},
		{"peer", self.PeerPort, c.Listeners.Peer},
		{"quorum", self.QuorumPort, c.Listeners.Quorum},
		{"admin", c.AdminPort, c.Listeners.Admin},
	} {
		if p.ln != nil {
			continue
		}
		if p.port < 1 || p.port > 65535 {
			return fmt.Errorf("%s port %d: a port from 1 to 65535 is wanted", p.name, p.port)
		}
		if other, taken := ports[p.port]; taken {
			return fmt.Errorf("%s port and %s port are both %d: each needs its own", other, p.name, p.port)
		}
		ports[p.port] = p.name
	}
	if _, _, err := c.advertised(); err != nil {
		return err
	}
	if _, err := schemes.Resolve(c.Set); err != nil {
		return err
	}
	if c.MaxConnections < 1 || c.IdleTimeout <= 0 || c.FrameTimeout <= 0 || c.WriteTimeout <= 0 || c.QueueBytes < 1 {
		return errors.New("limits must be above zero: begin with DefaultConfig")
	}
	if c.Stdout == nil || c.Stderr == nil {
		return errors.New("nowhere to write events and log: begin with DefaultConfig")
	}
	return node.Config{ID: c.ID, Name: c.Name, Members: c.brokers(), Voters: c.Voters, Scheme: c.Scheme}.Validate()
}

func (c *Config) brokers() []broker.Member {
	var members []broker.Member
	for _, m := range c.Members {
		members = append(members, broker.Member{ID: m.ID, Name: m.Name})
	}
	slices.SortFunc(members, func(a, b broker.Member) int { return int(a.ID) - int(b.ID) })
	return members
}

// digest tells clusters apart: nodes that were not given the same list of
// members refuse each other.
func (c *Config) digest() [sha256.Size]byte {
	members := slices.Clone(c.Members)
	slices.SortFunc(members, func(a, b Member) int { return int(a.ID) - int(b.ID) })
	var b strings.Builder
	for _, m := range members {
		m = c.resolved(m)
		fmt.Fprintf(&b, "%d@%q:%q/%d/%d/%d\n", m.ID, m.Name, m.Host, m.ClientPort, m.PeerPort, m.QuorumPort)
	}
	if c.Voters != nil {
		fmt.Fprintf(&b, "begins with %v\n", slices.Sorted(slices.Values(c.Voters)))
	}
	return sha256.Sum256([]byte(b.String()))
}

// ParseCluster reads a list of members, separated by commas:
//
//	ID@NAME:HOST                      ports as this node's own
//	ID@NAME:HOST/CLIENT/PEER/QUORUM   ports of its own, for several nodes on one host
//
// An IPv6 address may stand in brackets.
func ParseCluster(s string) ([]Member, error) {
	const form = "ID@NAME:HOST or ID@NAME:HOST/CLIENT/PEER/QUORUM is wanted"
	var members []Member
	for entry := range strings.SplitSeq(s, ",") {
		id, rest, ok := strings.Cut(strings.TrimSpace(entry), "@")
		name, host, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 {
			return nil, fmt.Errorf("member %q of the cluster: %s", entry, form)
		}
		n, err := strconv.ParseInt(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("member %q of the cluster: id %q is not a number; %s", entry, id, form)
		}
		m := Member{ID: broker.NodeID(n), Name: name}
		parts := strings.Split(host, "/")
		m.Host = strings.TrimSuffix(strings.TrimPrefix(parts[0], "["), "]")
		switch len(parts) {
		case 1:
		case 4:
			for i, port := range []*int{&m.ClientPort, &m.PeerPort, &m.QuorumPort} {
				if *port, err = parsePort(parts[i+1]); err != nil {
					return nil, fmt.Errorf("member %q of the cluster: %w", entry, err)
				}
			}
		default:
			return nil, fmt.Errorf("member %q of the cluster: %s", entry, form)
		}
		members = append(members, m)
	}
	return members, validMembers(members)
}

func validMembers(members []Member) error {
	ids, names := map[broker.NodeID]bool{}, map[string]bool{}
	for _, m := range members {
		switch {
		case m.ID < 1:
			return fmt.Errorf("member %d@%s of the cluster: ids begin at 1", m.ID, m.Name)
		case m.Name == "" || m.Host == "":
			return fmt.Errorf("member %d@%s:%s of the cluster: name and host must not be empty", m.ID, m.Name, m.Host)
		case ids[m.ID]:
			return fmt.Errorf("id %d stands twice in the cluster list", m.ID)
		case names[m.Name]:
			return fmt.Errorf("name %s stands twice in the cluster list", m.Name)
		}
		ids[m.ID], names[m.Name] = true, true
	}
	return nil
}

func parsePort(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: a number from 1 to 65535 is wanted", s)
	}
	return int(n), nil
}
