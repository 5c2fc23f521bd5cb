package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/workloads"
)

// SetupTimeout is how long a cluster may take to become ready: three Erlang machines
// that start at once on a small, busy host take minutes.
const SetupTimeout = 6 * time.Minute

// Names of the harness's own connections; clients have their own.
const (
	adminName = "faultline-admin"
	drainName = "faultline-drain"
)

// cluster is a running RabbitMQ.
type cluster struct {
	runID   string
	scheme  string
	nodes   []string
	keys    []string
	v       values
	timeout time.Duration // of one operation
	clock   nemesis.Clock
	addr    func(node string, port int) (string, error)
	state   func(ctx context.Context, node string) (nemesis.ProcessState, error)
	api     *api

	mu      sync.Mutex
	clients int // made so far
}

var _ system.Cluster = (*cluster)(nil)

// ConnectDocker implements system.System.
func (s System) ConnectDocker(spec system.Spec, env *docker.Environment) system.Cluster {
	return s.connect(spec, env.Runtime(), env.Addr, env.Processes().State)
}

func (s System) connect(spec system.Spec, clock nemesis.Clock, addr func(string, int) (string, error), state func(context.Context, string) (nemesis.ProcessState, error)) *cluster {
	v := values(s.Options(spec))
	return &cluster{
		runID: spec.RunID, scheme: spec.Scheme, nodes: spec.Nodes, keys: s.Keys(spec), v: v, timeout: v.millis("request.timeout.ms"), clock: clock, addr: addr, state: state,
		api: newAPI(func(node string) (string, error) { return addr(node, adminPort) }, v["password"]),
	}
}

// Admin implements system.Cluster.
func (*cluster) Admin() nemesis.Admin { return nil }

// Versions implements system.Cluster.
func (c *cluster) Versions() nemesis.Versions { return versions{c.api} }

type versions struct{ api *api }

// Version implements nemesis.Versions.
func (v versions) Version(ctx context.Context, node string) (string, error) {
	return v.api.version(ctx, node)
}

// Client implements system.Cluster.
func (c *cluster) Client(spec workloads.ClientSpec) system.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := &client{c: c, name: spec.Name, node: c.clients % len(c.nodes)}
	c.clients++
	if spec.Pinned >= 0 {
		cl.node, cl.stays = spec.Pinned, true
	}
	return cl
}

func (c *cluster) dial(ctx context.Context, node, name string) (*conn, error) {
	addr, err := c.addr(node, amqpPort)
	if err != nil {
		return nil, err
	}
	return dial(ctx, addr, login{name: name, password: c.v["password"], heartbeat: c.v.seconds("heartbeat")})
}

// Keys implements nemesis.Roles.
func (c *cluster) Keys() []string { return c.keys }

// Controller implements nemesis.Roles: there is none.
func (*cluster) Controller(context.Context) (string, error) {
	return "", errors.New("RabbitMQ has no controller")
}

// Leader implements nemesis.Roles: the node that most nodes name, each by its own view.
func (c *cluster) Leader(ctx context.Context, key string) (string, int32, error) {
	views, errs := c.views(ctx, key)
	leader := ""
	for _, n := range c.nodes {
		if backers(views, n) > backers(views, leader) {
			leader = n
		}
	}
	if leader == "" {
		return "", -1, fmt.Errorf("no node names one of %s that is up: %w", key, errors.Join(errs...))
	}
	return leader, -1, nil
}

// backers counts who names a node as the leader.
func backers(views map[string]queueView, node string) int {
	n := 0
	for _, v := range views {
		if node != "" && v.leads() == node {
			n++
		}
	}
	return n
}

// views asks every node for its view of a queue. Who knows no such queue is absent,
// as is who does not answer; errors are in the order of nodes.
func (c *cluster) views(ctx context.Context, key string) (map[string]queueView, []error) {
	views := map[string]queueView{}
	errs := make([]error, len(c.nodes))
	var mu sync.Mutex
	var g sync.WaitGroup
	for i, node := range c.nodes {
		g.Go(func() {
			v, err := c.api.queue(ctx, node, key)
			if errs[i] = err; err == nil {
				mu.Lock()
				defer mu.Unlock()
				views[node] = v
			}
		})
	}
	g.Wait()
	return views, errs
}

// Responds implements nemesis.Roles: the node lets somebody in and opens a channel.
func (c *cluster) Responds(ctx context.Context, node string, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	k, err := c.dial(ctx, node, adminName)
	if err != nil {
		return false
	}
	if k.close(ctx) != nil {
		k.abort()
	}
	return true
}

// Setup implements system.Cluster: all nodes are members of one cluster, the queues
// are declared, each by another node, which becomes its home or leader, and every
// mirror or replica is there and synchronised.
func (c *cluster) Setup(ctx context.Context) error {
	deadline := c.clock.Now() + SetupTimeout
	if err := c.await(ctx, deadline, func() error { return c.formed(ctx) }); err != nil {
		return fmt.Errorf("the cluster did not form: %w", err)
	}
	if c.scheme == mirrored {
		if err := c.api.setPolicy(ctx, c.nodes[0], c.policy()); err != nil {
			return fmt.Errorf("this RabbitMQ takes no policy for mirrored queues (4.0 and later have none): %w", err)
		}
	}
	for i, key := range c.keys {
		if err := c.await(ctx, deadline, func() error { return c.declare(ctx, c.nodes[i%len(c.nodes)], key) }); err != nil {
			return fmt.Errorf("queue %s was not declared: %w", key, err)
		}
	}
	for _, key := range c.keys {
		if err := c.await(ctx, deadline, func() error { return c.ready(ctx, key) }); err != nil {
			return fmt.Errorf("queue %s did not become ready: %w", key, err)
		}
	}
	return nil
}

// await tries until something is so. What waiting cannot change ends it at once: a
// node that ended, and a password that is refused.
func (c *cluster) await(ctx context.Context, deadline time.Duration, try func() error) error {
	for {
		err := try()
		if err == nil || errors.Is(err, errUnauthorized) {
			return err
		}
		for _, node := range c.nodes {
			if st, serr := c.state(ctx, node); serr == nil && !st.Running {
				return fmt.Errorf("node %s ended with exit code %d; its log is in the result directory", node, st.ExitCode)
			}
		}
		if c.clock.Now() >= deadline {
			return fmt.Errorf("not so after %s: %w", SetupTimeout, err)
		}
		if serr := c.clock.Sleep(ctx, 250*time.Millisecond); serr != nil {
			return fmt.Errorf("%w (%w)", serr, err)
		}
	}
}

// formed reports what is missing of one cluster of all nodes, in each node's view.
func (c *cluster) formed(ctx context.Context) error {
	for _, node := range c.nodes {
		members, err := c.api.members(ctx, node)
		if err != nil {
			return err
		}
		for _, other := range c.nodes {
			i := slices.IndexFunc(members, func(m memberView) bool { return nodeOf(m.Name) == other })
			switch {
			case i < 0:
				return fmt.Errorf("node %s is in no cluster with %s", node, other)
			case !members[i].Running:
				return fmt.Errorf("node %s sees %s down", node, other)
			case len(members[i].Partitions) > 0:
				return fmt.Errorf("node %s was parted from %s", other, strings.Join(nodesOf(members[i].Partitions), ", "))
			}
		}
	}
	return nil
}

// policy is that of mirrored queues, as the options say.
func (c *cluster) policy() map[string]any {
	p := map[string]any{}
	for _, name := range []string{"ha-mode", "ha-sync-mode", "ha-promote-on-failure", "ha-promote-on-shutdown"} {
		p[name] = c.v[name]
	}
	switch c.v["ha-mode"] {
	case "exactly":
		p["ha-params"], _ = strconv.Atoi(c.v["ha-params"]) // it was checked
	case "nodes":
		var nodes []string
		for _, n := range strings.Split(c.v["ha-params"], ",") {
			nodes = append(nodes, "rabbit@"+n)
		}
		p["ha-params"] = nodes
	}
	return p
}

// mirrors is how many mirrors a queue is to have beside its master.
func (c *cluster) mirrors() int {
	n := len(c.nodes)
	switch c.v["ha-mode"] {
	case "exactly":
		k, _ := strconv.Atoi(c.v["ha-params"]) // it was checked
		n = min(n, k)
	case "nodes":
		n = len(strings.Split(c.v["ha-params"], ","))
	}
	return n - 1
}

// declare declares a queue at a node, whose home or leader is there.
func (c *cluster) declare(ctx context.Context, node, key string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	k, err := c.dial(ctx, node, adminName)
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	defer k.abort()
	args := amqp.Table{}
	if c.scheme == quorum {
		args["x-queue-type"] = "quorum"
		args["x-quorum-initial-group-size"] = int32(c.v.number("x-quorum-initial-group-size"))
	}
	err = k.within(ctx, func() error {
		_, err := k.ch.QueueDeclare(key, c.v["durable"] != "false", false, false, false, args)
		return err
	})
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	return k.close(ctx)
}

// ready reports what is missing of a queue, in each node's view.
func (c *cluster) ready(ctx context.Context, key string) error {
	views, errs := c.views(ctx, key)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := c.agree(key, views); err != nil {
		return err
	}
	for _, node := range c.nodes {
		if err := c.whole(views[node]); err != nil {
			return fmt.Errorf("node %s sees %w", node, err)
		}
	}
	return nil
}

// whole reports which copies of a queue are missing in a view.
func (c *cluster) whole(q queueView) error {
	switch {
	case q.leads() == "":
		return fmt.Errorf("it without a home (state %q)", q.State)
	case c.scheme == mirrored && (len(q.Mirrors) < c.mirrors() || len(q.Synced) < c.mirrors()):
		return fmt.Errorf("%d of %d mirrors, %d synchronised", len(q.Mirrors), c.mirrors(), len(q.Synced))
	case c.scheme == quorum && len(q.Online) < c.v.number("x-quorum-initial-group-size"):
		return fmt.Errorf("%d of %d replicas", len(q.Online), c.v.number("x-quorum-initial-group-size"))
	}
	return nil
}

// agree reports who leads a queue in whose view, where not all views are the same.
func (c *cluster) agree(key string, views map[string]queueView) error {
	var words []string
	named := map[string]bool{}
	for _, node := range c.nodes {
		v, ok := views[node]
		if !ok {
			continue
		}
		leader := orElse(v.leads(), "nobody")
		named[leader] = true
		words = append(words, node+" names "+leader)
	}
	if len(named) <= 1 {
		return nil
	}
	return fmt.Errorf("the nodes do not agree on who leads %s: %s", key, strings.Join(words, ", "))
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
