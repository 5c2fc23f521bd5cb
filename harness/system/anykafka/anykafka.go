// Package anykafka puts any cluster that speaks Kafka's protocol under test: nodes that
// the harness runs from an image, or a cluster that is there, by its addresses. It
// uses what Kafka offers to clients and nothing else.
package anykafka

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/environment/external"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/harness/system/kafka"
	"github.com/faultline-mq/faultline/nemesis"
)

// KgoClient is the kind of client that wraps franz-go's.
const KgoClient = "kgo"

// System is any Kafka-compatible cluster as a system under test.
type System struct {
	system.Contained
	// Further are distributions beside those that are known here.
	Further []Distribution
}

var (
	_ system.System    = System{}
	_ system.Reachable = System{}
	_ system.Clients   = System{}
	_ system.Preparer  = System{}
)

// Name implements system.System.
func (System) Name() string { return "kafka" }

// Doc implements system.System.
func (System) Doc() string {
	return "any cluster that speaks Kafka's protocol, by --image or by --addresses"
}

// Schemes implements system.System.
func (System) Schemes() []system.Scheme {
	return []system.Scheme{{
		Name: "isr", Doc: "Kafka's replication: followers pull, acknowledgements wait for the in-sync set, or as the system itself does it", Authority: "raft", Election: "controller",
		Replicas: "replication.factor", Factor: true, InSync: true,
	}}
}

// Workloads implements system.System.
func (System) Workloads() []string { return []string{"log"} }

// ClientKinds implements system.Clients.
func (System) ClientKinds() []string { return []string{KgoClient} }

// Validate implements system.System.
func (s System) Validate(spec system.Spec) error {
	if !slices.ContainsFunc(s.Schemes(), func(sc system.Scheme) bool { return sc.Name == spec.Scheme }) {
		return fmt.Errorf("system kafka: unknown scheme %q; known schemes: %s", spec.Scheme, s.Schemes()[0].Name)
	}
	v, err := s.resolve(spec.Set)
	if err != nil {
		return err
	}
	rf := replication(spec, v)
	if _, set := spec.Set[optReplication]; set && v.number(optReplication) > rf {
		return fmt.Errorf("%s=%s on %d nodes: at most %d are possible", optReplication, v[optReplication], len(spec.Nodes), rf)
	}
	if _, set := spec.Set[optMinInSync]; set && v.number(optMinInSync) > rf {
		return fmt.Errorf("%s=%s is above the %d replicas of a partition: nothing could ever be written", optMinInSync, v[optMinInSync], rf)
	}
	if len(spec.Addresses) == 0 {
		_, err = s.distribution(spec.Image, v[optDistribution])
	}
	return err
}

func (s System) values(spec system.Spec) values {
	v, err := s.resolve(spec.Set)
	if err != nil {
		v, _ = s.resolve(nil) // Validate was called before; the defaults resolve
	}
	return v
}

func replication(spec system.Spec, v values) int {
	return min(v.number(optReplication), len(spec.Nodes))
}

func minInSync(spec system.Spec, v values) int {
	return min(v.number(optMinInSync), replication(spec, v))
}

// Options implements system.System.
func (s System) Options(spec system.Spec) map[string]string {
	v := s.values(spec)
	v[optReplication] = strconv.Itoa(replication(spec, v))
	v[optMinInSync] = strconv.Itoa(minInSync(spec, v))
	if len(spec.Addresses) == 0 {
		if d, err := s.distribution(spec.Image, v[optDistribution]); err == nil {
			v[optDistribution] = d.Name()
		}
	}
	return v
}

// tells reports whether the nodes report events.
func (s System) tells(spec system.Spec) bool {
	d, err := s.distribution(spec.Image, s.values(spec)[optDistribution])
	return len(spec.Addresses) == 0 && err == nil && d.Tells()
}

// Lacks implements system.System.
func (s System) Lacks(spec system.Spec, step nemesis.Step) string {
	switch {
	case step.When != "" && !s.tells(spec):
		return "its nodes do not report the events that a step could wait for"
	case (step.Fault == "wipe" || step.Name() == "restart:"+string(nemesis.RestartWipe)) && !s.tells(spec):
		return "its nodes do not report what they find on their disks when they start, which is the proof"
	}
	switch step.Fault {
	case "membership":
		return "Kafka's protocol does not tell one identity of a node from the next, which is the proof"
	case "upgrade":
		return "its nodes do not tell their version, which is the proof"
	case "lock-remove":
		return "it has no storage device that nodes share"
	}
	return ""
}

// topic is a run's own, so that a cluster which outlives it is left as it was.
func topic(runID string) string { return "faultline-" + runID }

// Keys implements system.System.
func (s System) Keys(spec system.Spec) []string {
	keys := make([]string, s.values(spec).number(optPartitions))
	for i := range keys {
		keys[i] = kafka.Partition{Topic: topic(spec.RunID), Index: int32(i)}.String()
	}
	return keys
}

// Queues implements system.System: every key is a log.
func (System) Queues(system.Spec) []history.Queue { return nil }

// Detection implements system.System.
func (s System) Detection(spec system.Spec) time.Duration {
	v := s.values(spec)
	return max(v.duration(optSession), v.duration(optLag))
}

// losing are the faults that take from disks what was not synced, or more. Kafka syncs
// nothing before it acknowledges.
var losing = []string{"power", "wipe", "restart", "corrupt-file", "disk-error", "membership"}

// loses reports whether disks may lose what was written.
func loses(spec system.Spec) bool {
	return slices.ContainsFunc(losing, func(fault string) bool {
		return slices.ContainsFunc(spec.Steps, func(s nemesis.Step) bool {
			return s.Fault == fault && s.Name() != "restart:"+string(nemesis.RestartKill)
		}) || len(spec.Steps) == 0 && slices.ContainsFunc(spec.Faults, func(name string) bool {
			return (name == fault || len(name) > len(fault) && name[:len(fault)+1] == fault+":") && name != "restart:"+string(nemesis.RestartKill)
		})
	})
}

// Contract implements system.System: what Kafka promises, and no more. Acknowledged
// messages survive with acks=all if at least two replicas are in sync at each
// acknowledgement, none is elected outside the in-sync set and no disk loses what was
// written (Kafka's documentation of acks, min.insync.replicas and
// unclean.leader.election.enable). Commands of the user's own are taken to leave the
// disks alone. Clients read no single replica's log, and events of nodes are judged
// where they report them.
func (s System) Contract(spec system.Spec) history.Contract {
	v := s.values(spec)
	least, all := minInSync(spec, v), v.acks() == -1
	keeps := !loses(spec)
	safe := least >= 2 && v[optUnclean] == "false" && keeps
	c := history.Contract{
		Expect: spec.Expect, Acknowledged: all && safe, AtMostOnce: true, Order: "producer", Offsets: "global", CommittedReads: safe, Monotonic: safe,
		Linearizable: all && safe, Epochs: s.tells(spec), Recovers: keeps,
	}
	if all && s.tells(spec) {
		c.MinInSync = least
	}
	if spec.Client == KgoClient && !all {
		// It sends again what got no answer, without numbers: twice is possible, and late.
		c.AtMostOnce, c.Order = false, "none"
	}
	return c
}

// Docker implements system.System.
func (s System) Docker(spec system.Spec) (docker.Config, error) {
	v := s.values(spec)
	d, err := s.distribution(spec.Image, v[optDistribution])
	if err != nil {
		return docker.Config{}, err
	}
	cfg := d.Docker(spec, map[string]string{optSession: v[optSession], optLag: v[optLag]})
	for i := range cfg.Nodes {
		cfg.Nodes[i].Image = spec.Image
	}
	return cfg, nil
}

// Prepare implements system.Preparer: nothing is made here, and an image that is not
// there is refused before the run.
func (System) Prepare(ctx context.Context, spec system.Spec, _ io.Writer) error {
	return docker.CheckImage(ctx, spec.Image)
}

// ConnectDocker implements system.System.
func (s System) ConnectDocker(spec system.Spec, env *docker.Environment) system.Cluster {
	resolve := func(node string) (string, error) { return env.Addr(node, environment.DefaultPorts.Client) }
	c := s.connect(spec, env.Runtime(), resolve)
	// A node advertises its name.
	c.is = func(node string, b kafka.Broker) bool { return b.Host == node }
	c.running = func(ctx context.Context, node string) error {
		st, err := env.Processes().State(ctx, node)
		if err == nil && !st.Running {
			err = fmt.Errorf("its process ended with exit code %d; its output is in nodes/%s/ of the result directory", st.ExitCode, node)
		}
		return err
	}
	return c
}

// ConnectExternal implements system.Reachable.
func (s System) ConnectExternal(spec system.Spec, env *external.Environment) system.Cluster {
	c := s.connect(spec, env.Runtime(), env.Addr)
	c.external = true
	c.is = func(node string, b kafka.Broker) bool {
		at, err := env.Addr(node)
		return err == nil && same(at, b)
	}
	return c
}

func (s System) connect(spec system.Spec, clock kafka.Clock, resolve func(string) (string, error)) *cluster {
	v := s.values(spec)
	c := &cluster{
		Cluster: &kafka.Cluster{
			RunID: spec.RunID, Nodes: spec.Nodes, First: len(spec.Nodes), Transport: &kafka.TCP{Resolve: resolve}, Clock: clock,
			Acks: v.acks(), Timeout: v.duration(optTimeout), Foreign: true,
		},
		spec: spec, v: v, resolve: resolve,
	}
	for i := range v.number(optPartitions) {
		c.Cluster.Keys = append(c.Cluster.Keys, kafka.Partition{Topic: topic(spec.RunID), Index: int32(i)})
	}
	return c
}
