package docker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// shaper disturbs packets with rules in the nodes' network namespaces. A
// direction is shaped where a cut of it would be made.
type shaper struct{ *links }

var _ nemesis.Shaper = shaper{}

// resetter spoils connections, at the node whose they are.
type resetter struct{ *links }

var _ nemesis.Resetter = resetter{}

const (
	defaultVolleySize = 64
	volleyGap         = time.Millisecond // buffers take a volley of small datagrams that is not a burst
)

func (s shaper) Shape(ctx context.Context, id string, rules []nemesis.Shaping) error {
	parts, err := placeShapes(rules, s.e.Nodes())
	if err != nil {
		return fmt.Errorf("shaping %s: %w", id, err)
	}
	if err := s.apply(ctx, id, parts); err != nil {
		return fmt.Errorf("shaping %s: %w", id, err)
	}
	return nil
}

func (s shaper) Unshape(ctx context.Context, id string) error {
	if err := s.take(ctx, id); err != nil {
		return fmt.Errorf("unshaping %s: %w", id, err)
	}
	return nil
}

// placeShapes decides where each direction is shaped.
func placeShapes(rules []nemesis.Shaping, nodes []string) (map[string]placed, error) {
	if len(rules) == 0 {
		return nil, errors.New("no rules are given")
	}
	at := map[string]placed{}
	for _, r := range rules {
		for _, end := range []string{r.From, r.To} {
			if end != nemesis.Clients && !slices.Contains(nodes, end) {
				return nil, fmt.Errorf("%s→%s: unknown endpoint %q, known are %v and %s", r.From, r.To, end, nodes, nemesis.Clients)
			}
		}
		if r.From == r.To {
			return nil, fmt.Errorf("%s→%s: an endpoint has no link to itself", r.From, r.To)
		}
		node, hook, peer := where(r.From, r.To)
		p := at[node]
		p.pairs = append(p.pairs, nemesis.Pair{From: r.From, To: r.To})
		p.set.Shapes = append(p.set.Shapes, sidecar.Shape{
			Hook: hook, Peer: peer, Delay: r.Delay, Jitter: r.Jitter, Reorder: r.Reorder, Loss: r.Loss, Duplicate: r.Duplicate, Corrupt: r.Corrupt, Rate: r.Rate,
		})
		at[node] = p
	}
	return at, nil
}

func (s shaper) Shaped(ctx context.Context, id string) (map[nemesis.Pair]uint64, error) {
	counts := map[nemesis.Pair]uint64{}
	err := s.counted(ctx, id, func(p placed, o sidecar.Observation) {
		for i, c := range o.Shaped[wireID(id)] {
			counts[p.pairs[i]] += c.System
		}
	})
	if err != nil {
		return nil, fmt.Errorf("counting packets of %s: %w", id, err)
	}
	return counts, nil
}

// volleys numbers the volleys of this process.
var volleys atomic.Uint64

func (s shaper) Echo(ctx context.Context, from, to string, v nemesis.Volley) (nemesis.Echo, error) {
	fail := func(err error) (nemesis.Echo, error) {
		return nemesis.Echo{}, fmt.Errorf("echo from %s to %s: %w", from, to, err)
	}
	a, err := s.e.endpoint(from)
	if err != nil {
		return fail(err)
	}
	b, err := s.e.endpoint(to)
	if err != nil {
		return fail(err)
	}
	if v.Size == 0 {
		v.Size = defaultVolleySize
	}
	out := sidecar.Volley{Number: volleys.Add(1), To: to, Count: v.Count, Size: v.Size, Gap: volleyGap}
	back, err := a.Volley(ctx, out)
	if err != nil {
		return fail(err)
	}
	there, err := b.Arrived(ctx, out.Number)
	if err != nil {
		return fail(err)
	}
	return nemesis.Echo{
		Sent: v.Count, Arrived: there.Arrived, Returned: back.Arrived, Median: back.Median, There: way(there), Back: way(back),
	}, nil
}

func way(e sidecar.Echoes) nemesis.Way {
	return nemesis.Way{Twice: e.Twice, Overtaken: e.Overtaken, Damaged: e.Damaged, Spread: e.Spread}
}

// endpoint is where volleys begin and end: a sidecar, or the harness.
type endpoint interface {
	Volley(ctx context.Context, v sidecar.Volley) (sidecar.Echoes, error)
	Arrived(ctx context.Context, volley uint64) (sidecar.Echoes, error)
}

// harness is the clients' endpoint.
type harness struct{ *sidecar.Nonces }

func (h harness) Arrived(_ context.Context, volley uint64) (sidecar.Echoes, error) {
	return h.Nonces.Arrived(volley), nil
}

func (e *Environment) endpoint(name string) (endpoint, error) {
	if name != nemesis.Clients {
		return e.agent(name)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nonces == nil || e.down {
		return nil, ErrNotUp
	}
	return harness{e.nonces}, nil
}

func (r resetter) Reject(ctx context.Context, id, node string) error {
	if err := r.spoil(ctx, id, node, sidecar.Reset); err != nil {
		return fmt.Errorf("resetting the connections of %s: %w", node, err)
	}
	return nil
}

func (r resetter) Silence(ctx context.Context, id, node string) error {
	if err := r.spoil(ctx, id, node, sidecar.HalfOpen); err != nil {
		return fmt.Errorf("silencing the connections of %s: %w", node, err)
	}
	return nil
}

// spoil puts a mode on all links of a node, at the node itself.
func (r resetter) spoil(ctx context.Context, id, node string, mode sidecar.Mode) error {
	nodes := r.e.Nodes()
	if !slices.Contains(nodes, node) {
		return fmt.Errorf("unknown node %q, known are %v", node, nodes)
	}
	var p placed
	for _, peer := range append(nodes, nemesis.Clients) {
		if peer == node {
			continue
		}
		for _, hook := range []sidecar.Hook{sidecar.Input, sidecar.Output} {
			p.set.Drops = append(p.set.Drops, sidecar.Drop{Hook: hook, Peer: peer, Mode: mode})
		}
	}
	return r.apply(ctx, id, map[string]placed{node: p})
}

func (r resetter) Accept(ctx context.Context, id string) error {
	if err := r.take(ctx, id); err != nil {
		return fmt.Errorf("ending %s: %w", id, err)
	}
	return nil
}

func (r resetter) Resets(ctx context.Context, id string) (uint64, error) {
	var sum uint64
	err := r.counted(ctx, id, func(_ placed, o sidecar.Observation) {
		for _, c := range o.Dropped[wireID(id)] {
			sum += c.System
		}
	})
	if err != nil {
		return 0, fmt.Errorf("counting what %s met: %w", id, err)
	}
	return sum, nil
}

// Dial dials the node's sidecar, which is behind the same rules as the node.
func (r resetter) Dial(ctx context.Context, from, node string) (string, error) {
	var got string
	var err error
	if from == nemesis.Clients {
		var at string
		if at, err = r.e.Addr(node, r.e.cfg.Ports.Nonce); err == nil {
			got, err = sidecar.Dial(ctx, at)
		}
	} else {
		var agent *sidecar.Client
		if agent, err = r.e.agent(from); err == nil {
			got, err = agent.Dial(ctx, node)
		}
	}
	if err != nil {
		return "", fmt.Errorf("dialling %s from %s: %w", node, from, err)
	}
	return got, nil
}

// counted visits what each node's sidecar knows of a set.
func (l *links) counted(ctx context.Context, id string, visit func(placed, sidecar.Observation)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	set := l.sets[id]
	if set == nil {
		return fmt.Errorf("there is no rule set of that id")
	}
	for node, p := range set {
		agent, err := l.e.agent(node)
		if err != nil {
			return err
		}
		o, _, err := agent.Observe(ctx)
		if err != nil {
			return fmt.Errorf("observing at node %s: %w", node, err)
		}
		visit(p, o)
	}
	return nil
}

// try looks whether the sidecars' kernel can do what faults are going to ask of it.
func (e *Environment) try(ctx context.Context, nodes map[string]*node) error {
	var g errgroup.Group
	for _, n := range nodes {
		g.Go(func() error {
			for i, set := range e.cfg.Try {
				set.ID = "try-" + strconv.Itoa(i)
				if err := n.agent.Try(ctx, set); err != nil && ctx.Err() == nil {
					return fmt.Errorf("%w: at the engine's host: %w; or use --env sim", ErrNoShaping, err)
				}
			}
			return nil
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}
