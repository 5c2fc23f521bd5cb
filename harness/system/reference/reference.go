// Package reference puts the project's own replicated broker under test: as
// containers and inside the simulator, with the same node code.
package reference

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/environment/sim"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/harness/system/kafka"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
	"github.com/faultline-mq/faultline/workloads"
)

// Topic is the workload's topic.
const Topic = "t"

// SetupTimeout is how long a cluster may take to become ready.
const SetupTimeout = 60 * time.Second

// System is the reference broker as a system under test.
type System struct{}

var _ system.System = System{}

// Name implements system.System.
func (System) Name() string { return "reference" }

// Doc implements system.System.
func (System) Doc() string { return "the project's own replicated broker, with every scheme" }

// Workloads implements system.System.
func (System) Workloads() []string { return []string{"log"} }

// Lacks implements system.System: every fault can be had.
func (System) Lacks(system.Spec, nemesis.Step) string { return "" }

// Queues implements system.System: every key is a log.
func (System) Queues(system.Spec) []history.Queue { return nil }

// Schemes implements system.System.
func (System) Schemes() []system.Scheme {
	var all []system.Scheme
	for _, d := range schemes.Known() {
		s := system.Scheme{
			Name: d.Name, Doc: d.Doc, Authority: string(d.Metadata), Election: string(d.Election), Replicas: string(d.Replicas),
			Single: d.Replicas == scheme.One || d.Shared, Shared: d.Shared, Factor: d.Replicas == scheme.Factor, Few: d.Replicas == scheme.One || d.Replicas != scheme.Factor && d.Copies != nil, InSync: d.InSync, Moves: d.Moves, Survives: survives(d, scheme.LostDisk, nil), Unsynced: survives(d, scheme.LostPower, map[string]string{"fsync": "never"}), Hunted: d.Hunted, Survived: d.Survived,
		}
		for _, o := range slices.Concat(d.Options, d.Also) {
			s.Options = append(s.Options, system.Option{Name: o.Name, Doc: describe(o), Draw: o.Draw, Safe: o.Safe, Protocol: o.Protocol})
		}
		all = append(all, s)
	}
	return all
}

// survives reports whether a scheme, as it is hunted and under these options, promises
// anything where one of three nodes has a loss.
func survives(d scheme.Definition, kind scheme.LossKind, set map[string]string) bool {
	hunted := maps.Clone(d.Hunted)
	if hunted == nil {
		hunted = map[string]string{}
	}
	maps.Copy(hunted, set)
	o, err := schemes.Resolve(hunted)
	const nodes = 3
	f := scheme.Faults{Nodes: nodes, Replicas: d.Replicas.Count(o, nodes), Planned: true, Deaths: 1, Ended: 1, Losses: []scheme.Loss{{Kind: kind, Nodes: 1, Alone: true, Down: 1}}}
	return err == nil && d.Promise(o, f).Acknowledged
}

// Validate implements system.System.
func (s System) Validate(spec system.Spec) error {
	d, err := schemes.Lookup(spec.Scheme)
	if err != nil {
		return fmt.Errorf("system reference: %w", err)
	}
	o, err := schemes.Resolve(spec.Set)
	if err != nil {
		return err
	}
	rf := replication(spec, o)
	if _, set := spec.Set["replication.factor"]; set && o.Int("replication.factor") != rf {
		return fmt.Errorf("replication.factor=%d: scheme %s on %d nodes takes at most %d", o.Int("replication.factor"), spec.Scheme, len(spec.Nodes), rf)
	}
	if _, set := spec.Set["min.insync.replicas"]; set && o.Int("min.insync.replicas") > rf {
		return fmt.Errorf("min.insync.replicas=%d is above the %d replicas of a partition: nothing could ever be written", o.Int("min.insync.replicas"), rf)
	}
	if removes(spec) && d.InSync && rf == len(spec.Nodes) && o.Int("min.insync.replicas") >= rf {
		return fmt.Errorf("min.insync.replicas=%d with %d replicas on %d nodes: membership:remove would leave too few; use more nodes or a lower minimum", o.Int("min.insync.replicas"), rf, len(spec.Nodes))
	}
	return nil
}

// removes reports whether a node may be taken out of service.
func removes(spec system.Spec) bool {
	const remove = "membership:" + string(nemesis.RemoveNode)
	return slices.Contains(spec.Faults, "membership") || slices.Contains(spec.Faults, remove) ||
		slices.ContainsFunc(spec.Steps, func(s nemesis.Step) bool { return s.Name() == remove })
}

func resolve(spec system.Spec) options.Values {
	o, err := schemes.Resolve(spec.Set)
	if err != nil {
		// Validate was called before; an empty set always resolves.
		o, _ = schemes.Resolve(nil)
	}
	return o
}

// definition is that of a spec's scheme. Validate was called before.
func definition(spec system.Spec) scheme.Definition {
	d, err := schemes.Lookup(spec.Scheme)
	if err != nil {
		d = schemes.Known()[0]
	}
	return d
}

func replication(spec system.Spec, o options.Values) int {
	d := definition(spec)
	if d.Copies != nil {
		return d.Copies(o, len(spec.Nodes))
	}
	return d.Replicas.Count(o, len(spec.Nodes))
}

// OptionList implements system.System.
func (System) OptionList() []system.Info {
	var infos []system.Info
	for _, o := range schemes.Options() {
		infos = append(infos, system.Info{Name: o.Name, Doc: describe(o)})
	}
	return infos
}

// describe is what is said of an option.
func describe(o options.Option) string {
	doc := fmt.Sprintf("%s (%s; default %s", o.Doc, o.Owner, o.Default)
	if o.Kafka != "" && o.Kafka != o.Default {
		doc += ", with profile=kafka " + o.Kafka
	}
	if len(o.Values) > 0 {
		doc += "; one of " + strings.Join(o.Values, ", ")
	}
	if o.Unit != "" {
		doc += "; unit " + o.Unit
	}
	return doc + ")"
}

// Options implements system.System.
func (s System) Options(spec system.Spec) map[string]string {
	o := resolve(spec)
	m := o.Map()
	// What the scheme and the number of nodes allow: resolved options resolve again.
	rf := replication(spec, o)
	m["replication.factor"] = strconv.Itoa(rf)
	m["min.insync.replicas"] = strconv.Itoa(min(o.Int("min.insync.replicas"), rf))
	return m
}

// Keys implements system.System.
func (System) Keys(spec system.Spec) []string {
	n := resolve(spec).Int("partitions")
	keys := make([]string, n)
	for i := range keys {
		keys[i] = Topic + "-" + strconv.Itoa(i)
	}
	return keys
}

// Detection implements system.System: the slowest of the session timeout and of what
// the scheme waits for.
func (System) Detection(spec system.Spec) time.Duration {
	o := resolve(spec)
	d := o.Duration("broker.session.timeout.ms")
	if def := definition(spec); def.Detection != nil {
		d = max(d, def.Detection(o))
	}
	return d
}

// Contract implements system.System: what the scheme promises under its options and
// the planned faults.
func (s System) Contract(spec system.Spec) history.Contract {
	o := resolve(spec)
	p := definition(spec).Promise(o, s.faults(spec, replication(spec, o)))
	return history.Contract{
		Expect: spec.Expect, Acknowledged: p.Acknowledged, AtMostOnce: p.AtMostOnce, Order: p.Order, Offsets: p.Offsets, CommittedReads: p.CommittedReads,
		Monotonic: p.Monotonic, Linearizable: p.Linearizable, Fresh: p.Fresh, Epochs: p.Epochs, PerReplica: p.PerReplica, MinInSync: p.MinInSync, Recovers: p.Recovers,
	}
}

// Where a node's volumes are mounted. The metadata log has its own, so that a lost,
// full, broken or damaged data disk leaves the metadata quorum alone.
const (
	dataDir  = "/data"
	metaDir  = "/meta"
	clockDir = "/clock"
)

// Docker implements system.System.
func (s System) Docker(spec system.Spec) (docker.Config, error) {
	return containers(spec, func(_ string, addr netip.Addr) string { return addr.String() }), nil
}

// containers describes the nodes as containers; advertise says under which host
// name clients are to find one.
func containers(spec system.Spec, advertise func(node string, addr netip.Addr) string) docker.Config {
	p := environment.DefaultPorts
	cfg := docker.Config{RunID: spec.RunID, Ports: p}
	if definition(spec).Shared {
		cfg.Shared = sidecar.SharedDir
	}
	places := slices.Concat(spec.Nodes, spec.Spares)
	clock := "" // who need not be told a time does not look for one
	if slices.ContainsFunc(spec.Steps, func(s nemesis.Step) bool { return s.Fault == "clock" }) {
		clock = clockDir
	}
	for i, name := range places {
		cfg.Nodes = append(cfg.Nodes, docker.NodeSpec{
			Name: name, Spare: i >= len(spec.Nodes), DataDir: dataDir, MetaDir: metaDir, Clock: clock, Records: ".log",
			Cmd: func(addrs map[string]netip.Addr, identity string) []string {
				var members, voters []string
				for j, n := range places {
					members = append(members, fmt.Sprintf("%d@%s:%s", j+1, n, addrs[n]))
				}
				for j := range spec.Nodes {
					voters = append(voters, strconv.Itoa(j+1))
				}
				cmd := []string{
					"/faultbroker", "--id", strconv.Itoa(i + 1), "--name", name, "--data", dataDir, "--meta-data", metaDir,
					"--cluster", strings.Join(members, ","), "--voters", strings.Join(voters, ","),
					"--client-port", strconv.Itoa(p.Client), "--peer-port", strconv.Itoa(p.Peer), "--quorum-port", strconv.Itoa(p.Quorum),
					"--admin-port", strconv.Itoa(p.Admin), "--advertise", fmt.Sprintf("%s:%d", advertise(name, addrs[name]), p.Client), "--scheme", spec.Scheme,
				}
				if cfg.Shared != "" {
					cmd = append(cmd, "--shared", cfg.Shared)
				}
				if clock != "" {
					cmd = append(cmd, "--clock", path.Join(clock, sidecar.ClockFile))
				}
				if identity != "" {
					cmd = append(cmd, "--directory", identity)
				}
				for _, name := range sortedKeys(spec.Set) {
					cmd = append(cmd, "--set", name+"="+spec.Set[name])
				}
				return cmd
			},
		})
	}
	return cfg
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Sim implements system.System.
func (System) Sim(spec system.Spec) (sim.Options, error) {
	o, err := schemes.Resolve(spec.Set)
	if err != nil {
		return sim.Options{}, err
	}
	opts := sim.DefaultOptions(slices.Concat(spec.Nodes, spec.Spares), spec.Seed)
	opts.Spares = spec.Spares
	opts.Factory = func(h sim.Host) sim.Process { return newSimNode(h, spec.Scheme, o, len(spec.Nodes)) }
	opts.Volume = newVolume
	if definition(spec).Shared {
		opts.Volume = newShared()
	}
	return opts, nil
}

// ConnectDocker implements system.System.
func (s System) ConnectDocker(spec system.Spec, env *docker.Environment) system.Cluster {
	t := &kafka.TCP{Resolve: func(node string) (string, error) { return env.Addr(node, environment.DefaultPorts.Client) }}
	c := s.connect(spec, t, env.Runtime())
	c.versions = versions{func(node string) (string, error) { return env.Addr(node, environment.DefaultPorts.Admin) }}
	return c
}

// ConnectSim implements system.System.
func (s System) ConnectSim(spec system.Spec, w *sim.World) system.Cluster {
	return s.connect(spec, simTransport{w}, w)
}

func (s System) connect(spec system.Spec, t kafka.Transport, clock kafka.Clock) *cluster {
	o := resolve(spec)
	c := &kafka.Cluster{
		RunID: spec.RunID, Nodes: slices.Concat(spec.Nodes, spec.Spares), First: len(spec.Nodes), Transport: t, Clock: clock, Acks: o.Acks(), Timeout: o.Duration("request.timeout.ms"), OneCopy: definition(spec).Shared, Own: definition(spec).MetadataUnder(o) == scheme.Peers, Local: local(definition(spec), o), Creates: spec.Late,
	}
	for i := range o.Int("partitions") {
		c.Keys = append(c.Keys, kafka.Partition{Topic: Topic, Index: int32(i)})
	}
	return &cluster{Cluster: c, o: o, replication: replication(spec, o)}
}

// local reports whether offsets belong to a node.
func local(d scheme.Definition, o options.Values) bool { return d.Local != nil && d.Local(o) }

// cluster is a running reference broker.
type cluster struct {
	*kafka.Cluster
	o           options.Values
	replication int
	versions    nemesis.Versions // nil in the simulator
}

var _ system.Cluster = (*cluster)(nil)

// Admin implements system.Cluster.
func (c *cluster) Admin() nemesis.Admin { return kafka.Admin{Cluster: c.Cluster} }

// Versions implements system.Cluster.
func (c *cluster) Versions() nemesis.Versions { return c.versions }

// Keys implements nemesis.Roles.
func (c *cluster) Keys() []string { return c.KeyNames() }

// Client implements system.Cluster.
func (c *cluster) Client(spec workloads.ClientSpec) system.Client {
	return kafka.NewClient(c.Cluster, spec)
}

// Setup implements system.Cluster.
func (c *cluster) Setup(ctx context.Context) error {
	deadline := c.Clock.Now() + SetupTimeout
	if err := c.await(ctx, deadline, func() (bool, string) { return c.Answers(ctx) }); err != nil {
		return fmt.Errorf("the cluster did not form: %w", err)
	}
	if c.Creates {
		return nil
	}
	configs := map[string]string{}
	for _, name := range []string{"min.insync.replicas", "unclean.leader.election.enable"} {
		configs[name] = c.o.String(name)
	}
	configs["min.insync.replicas"] = strconv.Itoa(min(c.o.Int("min.insync.replicas"), c.replication))
	if err := c.CreateTopic(ctx, Topic, int32(len(c.Cluster.Keys)), int16(c.replication), configs, sortedKeys(configs)); err != nil {
		return err
	}
	if err := c.await(ctx, deadline, func() (bool, string) { return c.Ready(ctx, c.replication) }); err != nil {
		return fmt.Errorf("the partitions did not become ready: %w", err)
	}
	return nil
}

func (c *cluster) await(ctx context.Context, deadline time.Duration, ready func() (bool, string)) error {
	for {
		ok, why := ready()
		if ok {
			return nil
		}
		if c.Clock.Now() >= deadline {
			return fmt.Errorf("not ready after %s: %s", SetupTimeout, why)
		}
		if err := c.Clock.Sleep(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%w (%s)", err, why)
		}
	}
}

// Drain implements system.Cluster.
func (c *cluster) Drain(ctx context.Context, limit time.Duration) (drains []history.Drain, replicas []history.Replica) {
	for _, r := range c.Cluster.Drain(ctx, limit) {
		drains = append(drains, r.Drain)
		replicas = append(replicas, r.Replicas...)
	}
	return drains, replicas
}

// simTransport carries requests inside the simulator, as structures.
type simTransport struct{ w *sim.World }

var _ kafka.Transport = simTransport{}

// RoundTrip implements kafka.Transport.
func (t simTransport) RoundTrip(ctx context.Context, client, node string, req kmsg.Request, timeout time.Duration) (kmsg.Response, error) {
	if p, ok := req.(*kmsg.ProduceRequest); ok && p.Acks == 0 {
		return nil, simError(node, t.w.Post(ctx, client, node, req, timeout))
	}
	answer, err := t.w.Call(ctx, client, node, req, timeout)
	if err != nil {
		return nil, simError(node, err)
	}
	resp, ok := answer.(kmsg.Response)
	if !ok {
		return nil, &kafka.Error{Node: node, Sent: true, Reason: "decode", Err: fmt.Errorf("unexpected answer %T", answer)}
	}
	return resp, nil
}

// Close implements kafka.Transport.
func (t simTransport) Close(client string) { t.w.CloseClient(client) }

func simError(node string, err error) error {
	var ce *sim.CallError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ce):
		return &kafka.Error{Node: node, Sent: ce.Sent, Reason: ce.Reason, Err: err}
	}
	return &kafka.Error{Node: node, Sent: true, Reason: "failed", Err: err}
}
