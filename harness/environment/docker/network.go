package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
	"golang.org/x/sync/errgroup"
)

// links cuts links with rules in the nodes' network namespaces.
type links struct {
	e *Environment

	mu   sync.Mutex
	sets map[string]map[string]placed // by set id and node
}

var _ nemesis.Network = (*links)(nil)

// placed is the part of a set that one node's sidecar carries out.
type placed struct {
	set   sidecar.RuleSet // without its id
	cuts  []nemesis.Cut   // of the drops of the same index
	pairs []nemesis.Pair  // of the shapes of the same index
}

// rollbackTimeout bounds the removal of a set that could not be applied everywhere.
const rollbackTimeout = 10 * time.Second

// where says at which node, and how seen from there, a direction is disturbed: in
// the receiving node, or, towards the clients, in the sending one.
func where(from, to string) (node string, hook sidecar.Hook, peer string) {
	if to == nemesis.Clients {
		return from, sidecar.Output, sidecar.Clients
	}
	return to, sidecar.Input, from
}

// place decides where each cut is made.
func place(cuts []nemesis.Cut, nodes []string, ports environment.NodePorts) (map[string]placed, error) {
	if len(cuts) == 0 {
		return nil, errors.New("a rule set without cuts")
	}
	byPort := map[nemesis.Port]int{
		nemesis.AnyPort: 0, nemesis.ClientPort: ports.Client, nemesis.PeerPort: ports.Peer, nemesis.QuorumPort: ports.Quorum,
	}
	at := map[string]placed{}
	seen := map[nemesis.Cut]bool{}
	for _, c := range cuts {
		port, ok := byPort[c.Port]
		if !ok {
			return nil, fmt.Errorf("cut %s→%s: unknown port %q, known are client, peer and quorum", c.From, c.To, c.Port)
		}
		for _, end := range []string{c.From, c.To} {
			if end != nemesis.Clients && !slices.Contains(nodes, end) {
				return nil, fmt.Errorf("cut %s→%s: unknown endpoint %q, known are %v and %s", c.From, c.To, end, nodes, nemesis.Clients)
			}
		}
		if c.From == c.To {
			return nil, fmt.Errorf("cut %s→%s: an endpoint is not cut from itself", c.From, c.To)
		}
		if seen[c] {
			return nil, fmt.Errorf("cut %s→%s is listed twice", c.From, c.To)
		}
		seen[c] = true
		node, hook, peer := where(c.From, c.To)
		p := at[node]
		p.cuts, p.set.Drops = append(p.cuts, c), append(p.set.Drops, sidecar.Drop{Hook: hook, Peer: peer, Port: uint16(port)})
		at[node] = p
	}
	return at, nil
}

// wireID is what a sidecar knows a set by.
func wireID(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "set-" + hex.EncodeToString(sum[:8])
}

func (l *links) Block(ctx context.Context, id string, cuts []nemesis.Cut) error {
	set, err := place(cuts, l.e.Nodes(), l.e.cfg.Ports)
	if err != nil {
		return fmt.Errorf("blocking %s: %w", id, err)
	}
	if err := l.apply(ctx, id, set); err != nil {
		return fmt.Errorf("blocking %s: %w", id, err)
	}
	return nil
}

// apply brings a set into force at its nodes, at all of them or at none.
func (l *links) apply(ctx context.Context, id string, set map[string]placed) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sets[id] != nil {
		return errors.New("there is a rule set of that id already")
	}
	var g errgroup.Group
	for node, p := range set {
		g.Go(func() error {
			agent, err := l.e.agent(node)
			if err != nil {
				return err
			}
			p.set.ID = wireID(id)
			if err := agent.Apply(ctx, p.set); err != nil {
				return fmt.Errorf("at node %s: %w", node, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		if back := l.remove(ctx, id, set); back != nil {
			l.sets[id] = set // still there in part: it can be unblocked again
			return errors.Join(err, fmt.Errorf("and taking it back: %w", back))
		}
		return err
	}
	l.sets[id] = set
	return nil
}

func (l *links) Unblock(ctx context.Context, id string) error {
	if err := l.take(ctx, id); err != nil {
		return fmt.Errorf("unblocking %s: %w", id, err)
	}
	return nil
}

// take takes a set out of force.
func (l *links) take(ctx context.Context, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := l.sets[id]
	if set == nil {
		return errors.New("there is no rule set of that id")
	}
	if err := l.remove(ctx, id, set); err != nil {
		return err
	}
	delete(l.sets, id)
	return nil
}

func (l *links) remove(ctx context.Context, id string, set map[string]placed) error {
	var mu sync.Mutex
	var errs error
	var wg sync.WaitGroup
	for node := range set {
		wg.Go(func() {
			agent, err := l.e.agent(node)
			if err == nil {
				err = agent.Remove(ctx, wireID(id))
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = errors.Join(errs, fmt.Errorf("at node %s: %w", node, err))
			}
		})
	}
	wg.Wait()
	return errs
}

func (l *links) Observe(ctx context.Context) (nemesis.Observation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	nodes := l.e.Nodes()
	states := make([]sidecar.Observation, len(nodes))
	boots := make([]string, len(nodes))
	g, ctx := errgroup.WithContext(ctx)
	for i, node := range nodes {
		g.Go(func() error {
			agent, err := l.e.agent(node)
			if err != nil {
				return err
			}
			states[i], boots[i], err = agent.Observe(ctx)
			if err != nil {
				return fmt.Errorf("observing at node %s: %w", node, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nemesis.Observation{}, err
	}
	sent, received, boot, err := l.e.clientNonces()
	if err != nil {
		return nemesis.Observation{}, err
	}
	o := nemesis.Observation{
		Reach:   map[nemesis.Pair]nemesis.Reach{},
		Boots:   map[string]string{nemesis.Clients: boot},
		Dropped: map[string]map[nemesis.Cut]uint64{},
	}
	byNode := map[string]sidecar.Observation{nemesis.Clients: {Sent: sent, Received: received}}
	for i, node := range nodes {
		byNode[node], o.Boots[node] = states[i], boots[i]
	}
	for from, a := range byNode {
		for to, b := range byNode {
			if from != to {
				o.Reach[nemesis.Pair{From: from, To: to}] = nemesis.Reach{Sent: a.Sent[to], Received: b.Received[from]}
			}
		}
	}
	for id, set := range l.sets {
		if !cuts(set) {
			continue
		}
		dropped := map[nemesis.Cut]uint64{}
		for node, p := range set {
			counters := byNode[node].Dropped[wireID(id)]
			for i, cut := range p.cuts {
				dropped[cut] = 0
				if i < len(counters) {
					dropped[cut] = counters[i].System
				}
			}
		}
		o.Dropped[id] = dropped
	}
	return o, nil
}

// cuts reports whether a set is one of cuts.
func cuts(set map[string]placed) bool {
	for _, p := range set {
		return len(p.cuts) > 0
	}
	return false
}
