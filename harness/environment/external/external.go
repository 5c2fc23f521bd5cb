// Package external is the environment of a cluster that the harness reaches and does
// not run: it has no control of the nodes, sees none of their events and collects
// nothing. What faults there are come from commands of the user's own, or from the
// system's own administration.
package external

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/nemesis"
)

// Config describes a cluster.
type Config struct {
	RunID string
	Nodes []string // names
	// Addresses (host:port) are those of the nodes, in their order.
	Addresses []string
}

// ErrSilent is wrapped by Up where an address does not answer.
var ErrSilent = errors.New("no answer")

const dialTimeout = 5 * time.Second

// Capabilities are what faults may need of an environment here.
func Capabilities() []nemesis.Capability {
	return []nemesis.Capability{nemesis.NeedsRoles, nemesis.NeedsAdmin, nemesis.NeedsShell}
}

// Environment is a cluster as it is found.
type Environment struct {
	cfg     Config
	runtime *environment.Realtime
}

var _ environment.Environment = (*Environment)(nil)

// ParseAddress refuses what is no host and port.
func ParseAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return fmt.Errorf("address %q: HOST:PORT is wanted", s)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("address %q: the port is a number from 1 to 65535", s)
	}
	return nil
}

// New returns the environment; its clock starts here.
func New(cfg Config) (*Environment, error) {
	if len(cfg.Addresses) != len(cfg.Nodes) || len(cfg.Nodes) == 0 {
		return nil, fmt.Errorf("external environment: %d addresses of %d nodes", len(cfg.Addresses), len(cfg.Nodes))
	}
	return &Environment{cfg: cfg, runtime: environment.NewRealtime()}, nil
}

// Name returns "external".
func (e *Environment) Name() string { return "external" }

// Runtime returns goroutines and the monotonic clock.
func (e *Environment) Runtime() environment.Runtime { return e.runtime }

// Up opens a connection to every address, and closes it again. An address that does
// not answer is an error that wraps ErrSilent.
func (e *Environment) Up(ctx context.Context) error {
	var g errgroup.Group
	for i, address := range e.cfg.Addresses {
		g.Go(func() error {
			d := net.Dialer{Timeout: dialTimeout}
			c, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				return fmt.Errorf("%s at %s: %w: %w; is a broker there, and may this host reach it?", e.cfg.Nodes[i], address, ErrSilent, cause(err))
			}
			return c.Close()
		})
	}
	return g.Wait()
}

// cause is the innermost of what a dial says: the address stands before it already.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}

// Down does nothing: nothing was made.
func (e *Environment) Down(context.Context) error { return nil }

// Nodes lists the nodes' names.
func (e *Environment) Nodes() []string { return e.cfg.Nodes }

// Addr is where a node is reached.
func (e *Environment) Addr(node string) (string, error) {
	i := slices.Index(e.cfg.Nodes, node)
	if i < 0 {
		return "", fmt.Errorf("unknown node %q, known are %v", node, e.cfg.Nodes)
	}
	return e.cfg.Addresses[i], nil
}

// Network returns nil: links are not ours.
func (e *Environment) Network() nemesis.Network { return nil }

// Processes returns nil: nor are processes.
func (e *Environment) Processes() nemesis.Processes { return nil }

// Disks returns nil: nor are disks.
func (e *Environment) Disks() nemesis.Disks { return nil }

// Machines has the shell alone. Its commands are told the addresses of their targets.
func (e *Environment) Machines() nemesis.Machines {
	return nemesis.Machines{Shell: environment.Shell{RunID: e.cfg.RunID, Nodes: e.cfg.Nodes, Variables: func(targets []string) []string {
		var at []string
		for _, n := range targets {
			if address, err := e.Addr(n); err == nil {
				at = append(at, address)
			}
		}
		return []string{"FAULTLINE_ADDRESSES=" + strings.Join(at, ",")}
	}}}
}

// Events does nothing: nodes report nothing to the harness.
func (e *Environment) Events(func(history.NodeEvent)) {}

// Collect does nothing: the nodes' logs are not ours.
func (e *Environment) Collect(context.Context, string) error { return nil }

// Versions names the addresses.
func (e *Environment) Versions() map[string]string {
	v := map[string]string{}
	for i, n := range e.cfg.Nodes {
		v["address of "+n] = e.cfg.Addresses[i]
	}
	return v
}
