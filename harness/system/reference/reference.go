// Package reference puts the project's own replicated broker under test: as
// containers and inside the simulator, with the same node code.
package reference

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker/options"
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

// Schemes implements system.System.
func (System) Schemes() []system.Info {
	return []system.Info{
		{Name: "classic", Doc: "one copy at its home, every node passes requests on; no fail-over (RabbitMQ's ordinary cluster)"},
		{Name: "isr", Doc: "followers pull; high watermark over the in-sync set; leaders elected by the metadata quorum (Kafka)"},
		{Name: "mirrored", Doc: "a master pushes to all mirrors; the eldest is promoted by each node's own view (RabbitMQ's mirrored queues)"},
		{Name: "single", Doc: "one replica per partition, no fail-over"},
	}
}

// Validate implements system.System.
func (s System) Validate(spec system.Spec) error {
	var names []string
	for _, i := range s.Schemes() {
		names = append(names, i.Name)
	}
	if !slices.Contains(names, spec.Scheme) {
		return fmt.Errorf("unknown scheme %q of system reference; known schemes: %s", spec.Scheme, strings.Join(names, ", "))
	}
	o, err := options.Resolve(spec.Set)
	if err != nil {
		return err
	}
	rf := s.replication(spec, o)
	if ownViews(spec.Scheme) {
		return validateOwn(spec, o)
	}
	if _, set := spec.Set["replication.factor"]; set && o.Int("replication.factor") != rf {
		return fmt.Errorf("replication.factor=%d: scheme %s on %d nodes takes at most %d", o.Int("replication.factor"), spec.Scheme, len(spec.Nodes), rf)
	}
	if _, set := spec.Set["min.insync.replicas"]; set && o.Int("min.insync.replicas") > rf {
		return fmt.Errorf("min.insync.replicas=%d is above the %d replicas of a partition: nothing could ever be written", o.Int("min.insync.replicas"), rf)
	}
	if removes(spec) && spec.Scheme != "single" && rf == len(spec.Nodes) && o.Int("min.insync.replicas") >= rf {
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
	o, err := options.Resolve(spec.Set)
	if err != nil {
		// Validate was called before; an empty set always resolves.
		o, _ = options.Resolve(nil)
	}
	return o
}

func (System) replication(spec system.Spec, o options.Values) int {
	switch spec.Scheme {
	case "single", "classic":
		return 1
	case "mirrored":
		return copies(spec, o)
	}
	return min(o.Int("replication.factor"), len(spec.Nodes))
}

// OptionList implements system.System.
func (System) OptionList() []system.Info {
	var infos []system.Info
	for _, o := range options.All() {
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
		infos = append(infos, system.Info{Name: o.Name, Doc: doc + ")"})
	}
	return infos
}

// Options implements system.System.
func (s System) Options(spec system.Spec) map[string]string {
	o := resolve(spec)
	m := o.Map()
	// What the scheme and the number of nodes allow: resolved options resolve again.
	rf := s.replication(spec, o)
	if ownViews(spec.Scheme) {
		m["replication.factor"], m["min.insync.replicas"] = strconv.Itoa(rf), "1"
		return m
	}
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

// Detection implements system.System: the slowest of the session timeout, the time
// after which a lagging follower leaves the in-sync set, and what it takes after all
// nodes were down until all are in sync again: an election of the metadata quorum (at
// most 20 ticks if the votes are not split), and the brokers' reports to it.
func (System) Detection(spec system.Spec) time.Duration {
	o := resolve(spec)
	if ownViews(spec.Scheme) {
		return detection(o)
	}
	d := o.Duration("broker.session.timeout.ms")
	if spec.Scheme == "isr" {
		d = max(d, o.Duration("replica.lag.time.max.ms"), 20*o.Duration("quorum.tick.ms")+3*o.Duration("broker.heartbeat.interval.ms"))
	}
	return d
}

// Contract implements system.System. What is promised depends on the options:
// acknowledged messages survive if every acknowledgement waited for the in-sync
// set, that set has at least two members, no leader is elected outside it, and
// what disks hold is lost or damaged on fewer nodes at once than that set has,
// with other faults around it only as far as keepsCopies says; a power loss takes what
// was not synced, which is nothing of importance with fsync=always.
// Full, failing and slow disks, wrong clocks and bad links take nothing from the
// promise.
func (s System) Contract(spec system.Spec) history.Contract {
	o := resolve(spec)
	if ownViews(spec.Scheme) {
		return s.ownContract(spec, o)
	}
	rf := s.replication(spec, o)
	minISR := min(o.Int("min.insync.replicas"), rf)
	copies := s.keepsCopies(spec, o, minISR)
	c := history.Contract{
		Expect: spec.Expect, AtMostOnce: true, Order: "producer", Offsets: "global", CommittedReads: true, Monotonic: true,
		Epochs: true, PerReplica: true, Recovers: true,
	}
	switch spec.Scheme {
	case "single":
		c.Acknowledged = o.Acks() != 0 && copies
		c.CommittedReads = copies
		c.Fresh = c.Acknowledged // one copy: whoever reads after an acknowledgement sees it
	default:
		safe := !o.Bool("unclean.leader.election.enable") && copies
		c.Acknowledged = o.Acks() == -1 && minISR >= 2 && safe
		c.CommittedReads = minISR >= 2 && safe
	}
	if spec.Scheme == "isr" && o.Acks() == -1 {
		c.MinInSync = minISR
	}
	// A replica that is damaged refuses to lead: where it was the last in sync,
	// staying away is the right answer, and not to recover no breach.
	c.Recovers = copies
	c.Linearizable = c.Acknowledged
	// What the high watermark covered is never cut again where it is safe; without
	// that, offsets may be given twice.
	c.Monotonic = c.CommittedReads
	return c
}

// loses reports whether a step takes away or damages what disks hold.
func loses(scheme string, step nemesis.Step, synced bool) bool {
	switch step.Fault {
	case "wipe", "corrupt-file":
		return true
	case "membership":
		// Where there are other replicas, one that goes hands over before its disk is lost.
		return step.Shape == nemesis.ReplaceNode || scheme == "single"
	case "power":
		return !synced
	case "restart":
		return step.Shape == nemesis.RestartWipe || step.Shape == nemesis.RestartPower && !synced
	}
	return false
}

// end is when a step is healed at the latest, as planned: one that waits for an
// event may have to wait for it.
func end(step nemesis.Step) time.Duration {
	if step.When == "" {
		return step.Until
	}
	return step.Until + step.Patience()
}

// orderly are the faults that end no process. Of all others it is held for possible: a
// stop in order may lack the quorum or the time for it, and a broker whose disk is full
// or fails ends itself.
var orderly = []string{
	"partition", "pause", "delay", "loss", "duplicate", "reorder", "corrupt-packets", "rate", "reset", "half-open", "disk-slow", "clock", "leadership", "cpu",
}

// keepsCopies reports whether lost and damaged disks leave a copy of everything
// that was acknowledged to a replica that may lead. The least in-sync set has
// minISR members: so they must hit fewer nodes than that at once. And they must
// not hit the last one that is in sync:
//
//   - Without other faults within a detection time before, all are in sync.
//   - With other faults, only eligible leader replicas help (KIP-966): as long as fewer
//     brokers than minISR go down out of order, whatever is left of their disks, one that
//     was in sync at the newest acknowledgement is still eligible. Deaths count as much
//     as lost disks, because the broker cannot tell them apart; and so does every node
//     that faults hit, from when all were in sync until they are again, by whichever of
//     them. Without them the last in-sync replica is elected again, without what it lost
//     (Kafka did so before).
//
// Faults that are named and not planned yet are held for the worst where they may be so.
func (s System) keepsCopies(spec system.Spec, o options.Values, minISR int) bool {
	synced := o.String("fsync") == "always"
	if len(spec.Steps) == 0 {
		return !slices.ContainsFunc(spec.Faults, func(f string) bool {
			name, shape, _ := strings.Cut(f, ":")
			step := nemesis.Step{Fault: name, Shape: nemesis.Shape(shape)}
			worst := shape == "" && (name == "restart" || name == "membership")
			return (loses(spec.Scheme, step, synced) || worst) && (spec.Scheme == "single" || name == "power")
		})
	}
	eligible := spec.Scheme == "isr" && o.Int("eligible.leader.replicas.version") > 0
	for _, step := range spec.Steps {
		if !loses(spec.Scheme, step, synced) {
			continue
		}
		if n, err := nemesis.CountTargets(step.Targets, spec.Nodes); err != nil || n >= minISR || spec.Scheme == "single" {
			return false
		}
		if !s.alone(spec, step) && !(eligible && s.down(spec, step) < minISR) {
			return false
		}
	}
	return true
}

// alone reports whether all are in sync when a step begins, and no other fault is on
// the cluster until it is healed.
func (s System) alone(spec system.Spec, step nemesis.Step) bool {
	harmless := []string{"clock"} // nothing is decided by wall clocks
	return !slices.ContainsFunc(spec.Steps, func(o nemesis.Step) bool {
		return o.ID != step.ID && o.At < end(step) && end(o)+s.Detection(spec) > step.At && !slices.Contains(harmless, o.Fault)
	})
}

// down counts the nodes that may go down out of order around a step, from when all
// were in sync until they are again: a node as often as faults hit it.
func (s System) down(spec system.Spec, step nemesis.Step) int {
	around, count := []nemesis.Step{step}, 0
	for i := 0; i < len(around); i++ {
		if !slices.Contains(orderly, around[i].Fault) {
			n, err := nemesis.CountTargets(around[i].Targets, spec.Nodes)
			if err != nil {
				return len(spec.Nodes)
			}
			count += n
		}
		for _, o := range spec.Steps {
			met := o.At < end(around[i])+s.Detection(spec) && end(o)+s.Detection(spec) > around[i].At
			if met && !slices.ContainsFunc(around, func(a nemesis.Step) bool { return a.ID == o.ID }) {
				around = append(around, o)
			}
		}
	}
	return count
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
	p := environment.DefaultPorts
	cfg := docker.Config{RunID: spec.RunID, Ports: p}
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
					"--admin-port", strconv.Itoa(p.Admin), "--advertise", fmt.Sprintf("%s:%d", addrs[name], p.Client), "--scheme", spec.Scheme,
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
	return cfg, nil
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
	o, err := options.Resolve(spec.Set)
	if err != nil {
		return sim.Options{}, err
	}
	opts := sim.DefaultOptions(slices.Concat(spec.Nodes, spec.Spares), spec.Seed)
	opts.Spares = spec.Spares
	opts.Factory = func(h sim.Host) sim.Process { return newSimNode(h, spec.Scheme, o, len(spec.Nodes)) }
	opts.Volume = newVolume
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
		RunID: spec.RunID, Nodes: slices.Concat(spec.Nodes, spec.Spares), First: len(spec.Nodes), Transport: t, Clock: clock, Acks: o.Acks(), Timeout: o.Duration("request.timeout.ms"), Own: ownViews(spec.Scheme),
	}
	for i := range o.Int("partitions") {
		c.Keys = append(c.Keys, kafka.Partition{Topic: Topic, Index: int32(i)})
	}
	return &cluster{Cluster: c, o: o, replication: s.replication(spec, o)}
}

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
