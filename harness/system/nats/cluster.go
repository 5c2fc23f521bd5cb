package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/workloads"
)

// SetupTimeout is how long a cluster may take to become ready. An election takes up to
// 9 s, and one of the streams can begin after one of the meta group.
const SetupTimeout = 90 * time.Second

// cluster is a running cluster.
type cluster struct {
	runID    string
	nodes    []string
	keys     []string // stream names
	queue    bool
	replicas int
	v        values
	clock    nemesis.Clock
	resolve  func(node string) (string, error) // host:port where clients connect
	monitor  monitor
}

var _ system.Cluster = (*cluster)(nil)

// ConnectDocker implements system.System.
func (s System) ConnectDocker(spec system.Spec, env *docker.Environment) system.Cluster {
	at := func(port int) func(string) (string, error) {
		return func(node string) (string, error) { return env.Addr(node, port) }
	}
	p := environment.DefaultPorts
	return s.connect(spec, env.Runtime(), at(p.Client), at(p.Admin))
}

func (s System) connect(spec system.Spec, clock nemesis.Clock, clients, admin func(string) (string, error)) *cluster {
	v := resolve(spec)
	return &cluster{
		runID: spec.RunID, nodes: spec.Nodes, keys: s.Keys(spec), queue: spec.Workload == queueWorkload, replicas: v.number(optReplicas), v: v,
		clock: clock, resolve: clients, monitor: monitor{admin},
	}
}

// Admin implements system.Cluster: none of what the faults of administration need.
func (c *cluster) Admin() nemesis.Admin { return nil }

// Versions implements system.Cluster.
func (c *cluster) Versions() nemesis.Versions { return c }

// Version implements nemesis.Versions.
func (c *cluster) Version(ctx context.Context, node string) (string, error) {
	var v varz
	if err := c.monitor.get(ctx, node, "/varz", askTimeout, &v); err != nil {
		return "", fmt.Errorf("version of %s: %w", node, err)
	}
	return v.Version, nil
}

// Keys implements nemesis.Roles.
func (c *cluster) Keys() []string { return c.keys }

// Client implements system.Cluster.
func (c *cluster) Client(spec workloads.ClientSpec) system.Client {
	cl := &client{c: c, spec: spec, node: spec.Pinned, held: map[history.Value]string{}}
	if spec.Pinned < 0 {
		cl.node = spread(spec.Name, len(c.nodes))
	}
	return cl
}

// spread gives each client that is not pinned a node to begin with.
func spread(name string, nodes int) int {
	sum := 0
	for _, r := range name {
		sum += int(r)
	}
	return sum % nodes
}

// Setup implements system.Cluster.
func (c *cluster) Setup(ctx context.Context) error {
	deadline := c.clock.Now() + SetupTimeout
	if err := c.await(ctx, deadline, c.formed); err != nil {
		return fmt.Errorf("the cluster did not form: %w", err)
	}
	for _, key := range c.keys {
		if err := c.await(ctx, deadline, func(ctx context.Context) string { return text(c.create(ctx, key)) }); err != nil {
			return fmt.Errorf("stream %s cannot be created: %w", key, err)
		}
	}
	if err := c.await(ctx, deadline, func(ctx context.Context) string {
		for _, key := range c.keys {
			if why, _ := c.inSync(ctx, key); why != "" {
				return why
			}
		}
		return ""
	}); err != nil {
		return fmt.Errorf("the streams did not become ready: %w", err)
	}
	return nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// await asks until nothing is missing. JetStream's own refusals of what was asked for
// end it at once.
func (c *cluster) await(ctx context.Context, deadline time.Duration, missing func(context.Context) string) error {
	for {
		why := missing(ctx)
		if why == "" {
			return nil
		}
		if c.clock.Now() >= deadline {
			return fmt.Errorf("not ready after %s: %s", SetupTimeout, why)
		}
		if err := c.clock.Sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%w (%s)", err, why)
		}
	}
}

// formed says what is missing until every node is well in its own eyes and names the
// same leader of a meta group of all of them.
func (c *cluster) formed(ctx context.Context) string {
	leader := ""
	for _, node := range c.nodes {
		if err := c.monitor.get(ctx, node, "/healthz", askTimeout, nil); err != nil {
			return err.Error()
		}
		if len(c.nodes) == 1 {
			return ""
		}
		_, j, err := c.monitor.streams(ctx, node)
		switch {
		case err != nil:
			return err.Error()
		case j.Meta == nil || j.Meta.Leader == "":
			return node + " knows no leader of the meta group"
		case j.Meta.Size != len(c.nodes):
			return fmt.Sprintf("%s sees %d of %d nodes in the meta group", node, j.Meta.Size, len(c.nodes))
		case leader != "" && leader != j.Meta.Leader:
			return fmt.Sprintf("%s names %s as the leader of the meta group, and another node %s", node, j.Meta.Leader, leader)
		}
		leader = j.Meta.Leader
	}
	return ""
}

// create creates a stream, and its consumer where it is a queue. What is there already
// with the same configuration is fine.
func (c *cluster) create(ctx context.Context, key string) error {
	node := c.nodes[0]
	retention := "limits"
	if c.queue {
		retention = "workqueue"
	}
	err := c.request(ctx, node, "$JS.API.STREAM.CREATE."+key, map[string]any{
		"name": key, "subjects": []string{subject(key)}, "retention": retention, "storage": "file", "num_replicas": c.replicas,
		"discard": "old", "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_consumers": -1, "max_msgs_per_subject": -1, "max_msg_size": -1,
	}, nil, setupRequest)
	if err != nil || !c.queue {
		return err
	}
	return c.request(ctx, node, "$JS.API.CONSUMER.DURABLE.CREATE."+key+"."+consumerName, map[string]any{
		"stream_name": key, "config": map[string]any{
			"durable_name": consumerName, "deliver_policy": "all", "ack_policy": "explicit", "ack_wait": c.v.duration(optAckWait).Nanoseconds(),
			"max_deliver": -1, "max_ack_pending": maxPending, "max_waiting": 4096, "replay_policy": "instant",
		},
	}, nil, setupRequest)
}

const (
	// setupRequest bounds one request of the setup: the meta group answers when the
	// stream's own group has a leader.
	setupRequest = 12 * time.Second
	// maxPending is more than is ever delivered and not acknowledged: the drain holds
	// all that is left.
	maxPending = 10_000_000
)

// view is what the nodes say of one stream.
type view struct {
	leader string // that most nodes name
	copies map[string]streamState
	detail streamDetail // as the leader sees it
	known  int          // nodes that know the stream
	silent int          // nodes that do not answer
	err    error        // of the last one of these
}

// look asks every node for a stream.
func (c *cluster) look(ctx context.Context, key string) view {
	v := view{copies: map[string]streamState{}}
	votes := map[string]int{}
	details := map[string]streamDetail{}
	for _, node := range c.nodes {
		streams, _, err := c.monitor.streams(ctx, node)
		if err != nil {
			v.silent, v.err = v.silent+1, err
			continue
		}
		d, ok := streams[key]
		if !ok {
			continue
		}
		v.known++
		v.copies[node], details[node] = d.State, d
		leader := node // a server that stands alone leads
		if d.Cluster != nil {
			leader = d.Cluster.Leader
		}
		if leader != "" {
			votes[leader]++
		}
	}
	for _, node := range c.nodes {
		if votes[node] > votes[v.leader] {
			v.leader = node
		}
	}
	v.detail = details[v.leader]
	return v
}

// inSync says what is missing until a stream has all its replicas, they name the same
// leader, it says that all of them are current, and their copies have the same bounds.
// enough: a majority, the leader among it, is as far.
func (c *cluster) inSync(ctx context.Context, key string) (missing string, enough bool) {
	v := c.look(ctx, key)
	if v.leader == "" {
		if v.silent > 0 {
			return v.err.Error(), false
		}
		return fmt.Sprintf("stream %s has no leader", key), false
	}
	want := v.copies[v.leader]
	well := map[string]bool{v.leader: true}
	for _, node := range c.nodes {
		s, ok := v.copies[node]
		switch {
		case !ok || node == v.leader:
		case s != want:
			missing = fmt.Sprintf("stream %s has %d messages from %d to %d on %s, and %d from %d to %d on its leader %s", key, s.Messages, s.First, s.Last, node, want.Messages, want.First, want.Last, v.leader)
		default:
			well[node] = true
		}
	}
	if v.detail.Cluster != nil {
		for _, r := range v.detail.Cluster.Replicas {
			if !r.Current || r.Lag > 0 {
				missing = fmt.Sprintf("the replica of stream %s on %s is not current", key, r.Name)
				delete(well, r.Name)
			}
		}
	}
	switch {
	case missing != "":
	case v.silent > 0:
		missing = v.err.Error()
	case v.known < c.replicas:
		missing = fmt.Sprintf("%d of %d replicas of stream %s are there", v.known, c.replicas, key)
	}
	return missing, len(well) > c.replicas/2
}

// Leader implements nemesis.Roles: the leader that most nodes name.
func (c *cluster) Leader(ctx context.Context, key string) (string, int32, error) {
	v := c.look(ctx, key)
	if v.leader == "" {
		return "", -1, fmt.Errorf("no node names a leader of %s (last error: %w)", key, errOr(v.err, "none"))
	}
	return v.leader, -1, nil
}

func errOr(err error, text string) error {
	if err == nil {
		return errors.New(text)
	}
	return err
}

// Controller implements nemesis.Roles: the leader of the meta group that most nodes name.
func (c *cluster) Controller(ctx context.Context) (string, error) {
	votes := map[string]int{}
	var last error
	for _, node := range c.nodes {
		_, j, err := c.monitor.streams(ctx, node)
		switch {
		case err != nil:
			last = err
		case j.Meta != nil:
			votes[j.Meta.Leader]++
		case len(c.nodes) == 1:
			votes[node]++
		}
	}
	best := ""
	for _, node := range c.nodes {
		if votes[node] > votes[best] || best == "" && votes[node] > 0 {
			best = node
		}
	}
	if best == "" {
		return "", fmt.Errorf("no node names a leader of the meta group (last error: %w)", errOr(last, "none"))
	}
	return best, nil
}

// Responds implements nemesis.Roles: over a connection of its own, which the node
// greets and whose ping it answers.
func (c *cluster) Responds(_ context.Context, node string, timeout time.Duration) bool {
	nc, err := c.connect(node, "probe", timeout)
	if err != nil {
		return false
	}
	nc.Close()
	return true
}
