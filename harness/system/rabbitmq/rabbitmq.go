// Package rabbitmq puts RabbitMQ under test: queues with one home, mirrored queues and
// quorum queues, over AMQP 0-9-1 and the management API, with nodes in containers.
package rabbitmq

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
)

// System is RabbitMQ as a system under test.
type System struct{ system.Contained }

var _ system.System = System{}

// The schemes.
const (
	classic  = "classic"
	mirrored = "mirrored"
	quorum   = "quorum"
)

// scheme is one kind of queue.
type scheme struct {
	system.Scheme
	options []option // beside the common ones
}

var schemes = []scheme{
	{system.Scheme{
		Name: quorum, Doc: "quorum queues: every queue is a Raft group, and a message is confirmed once a majority has it on disk",
		Authority: "raft", Election: "raft, per queue", Replicas: "x-quorum-initial-group-size", Survives: true,
	}, raft},
	{system.Scheme{
		Name: mirrored, Doc: "mirrored queues: a master and mirrors, by policy; a message is confirmed once all live mirrors have it (up to RabbitMQ 3.13)",
		Authority: "peers", Election: "the eldest mirror, in each node's own view", Replicas: "ha-mode", Survives: true,
	}, slices.Concat([]option{durable}, mirrors)},
	{system.Scheme{
		Name: classic, Doc: "classic queues: every queue lives on one node, and all nodes know of it",
		Authority: "peers", Election: "none", Replicas: "one", Single: true,
	}, []option{durable}},
}

func lookup(name string) (scheme, error) {
	var names []string
	for _, s := range schemes {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return scheme{}, fmt.Errorf("system rabbitmq has no scheme %q; known schemes: %s", name, strings.Join(names, ", "))
}

// Name implements system.System.
func (System) Name() string { return "rabbitmq" }

// Doc implements system.System.
func (System) Doc() string {
	return "RabbitMQ over AMQP 0-9-1: classic, mirrored and quorum queues"
}

// Schemes implements system.System.
func (System) Schemes() []system.Scheme {
	all := make([]system.Scheme, len(schemes))
	for i, s := range schemes {
		all[i] = s.Scheme
		for _, o := range s.options {
			all[i].Options = append(all[i].Options, system.Option{Name: o.name, Doc: o.describe()})
		}
	}
	return all
}

// Workloads implements system.System.
func (System) Workloads() []string { return []string{"queue"} }

// Validate implements system.System.
func (System) Validate(spec system.Spec) error {
	v, err := resolve(spec.Scheme, spec.Set)
	if err != nil {
		return err
	}
	if size, set := spec.Set["x-quorum-initial-group-size"]; set && v.number("x-quorum-initial-group-size") > len(spec.Nodes) {
		return fmt.Errorf("x-quorum-initial-group-size=%s: there are %d nodes", size, len(spec.Nodes))
	}
	if spec.Scheme != mirrored {
		return nil
	}
	switch v["ha-mode"] {
	case "exactly":
		if n, err := strconv.Atoi(v["ha-params"]); err != nil || n < 1 {
			return fmt.Errorf("ha-params=%s: with ha-mode=exactly it is a number of copies, from 1", v["ha-params"])
		}
	case "nodes":
		for _, n := range strings.Split(v["ha-params"], ",") {
			if !slices.Contains(spec.Nodes, n) {
				return fmt.Errorf("ha-params=%s: with ha-mode=nodes it names nodes, separated by commas; there is no node %q", v["ha-params"], n)
			}
		}
	}
	return nil
}

// OptionList implements system.System.
func (System) OptionList() []system.Info {
	return infos(slices.Concat(common, []option{durable}, mirrors, raft))
}

// Options implements system.System.
func (System) Options(spec system.Spec) map[string]string {
	v := options(spec)
	if size, ok := v["x-quorum-initial-group-size"]; ok {
		n, _ := strconv.Atoi(size) // it was checked
		v["x-quorum-initial-group-size"] = strconv.Itoa(min(n, max(len(spec.Nodes), 1)))
	}
	return v
}

// options are those of a spec that was validated; of another one the defaults.
func options(spec system.Spec) values {
	v, err := resolve(spec.Scheme, spec.Set)
	if err != nil {
		v, err = resolve(spec.Scheme, nil)
	}
	if err != nil {
		v, _ = resolve(quorum, nil) // never fails
	}
	return v
}

// lacks is what faults need and the system or this adapter has not, and why; the first
// that fits is said.
var lacks = []struct {
	what nemesis.Capability
	why  string
}{
	{nemesis.NeedsAdmin, "the harness cannot change its members or move its leaders"},
	{nemesis.NeedsVersions, "the harness runs one version of it"},
	{nemesis.NeedsLocks, "its nodes share no lock"},
	{nemesis.NeedsWiping, "the others refuse a node that lost its disk, until an operator makes them forget it"},
	{nemesis.NeedsEvents, noEvents},
}

const noEvents = "its nodes report no events"

// Lacks implements system.System.
func (System) Lacks(_ system.Spec, s nemesis.Step) string {
	switch {
	case s.When != "":
		return noEvents
	case s.Port == nemesis.QuorumPort:
		return "it has no metadata quorum with a port of its own"
	case s.Targets == nemesis.TargetController:
		return "it has no controller: name nodes, or target a leader"
	}
	for _, f := range nemesis.Known() {
		if f.Name != s.Fault {
			continue
		}
		needs := f.NeedsOf(s.Shape)
		for _, l := range lacks {
			if slices.Contains(needs, l.what) {
				return l.why
			}
		}
	}
	return ""
}

// Keys implements system.System.
func (System) Keys(spec system.Spec) []string {
	keys := make([]string, options(spec).number("queues"))
	for i := range keys {
		keys[i] = "q-" + strconv.Itoa(i)
	}
	return keys
}

// Queues implements system.System.
func (s System) Queues(spec system.Spec) []history.Queue {
	var all []history.Queue
	for _, k := range s.Keys(spec) {
		all = append(all, history.Queue{Key: k})
	}
	return all
}

// Detection implements system.System: a node is down after 125 % of net_ticktime at
// most; replicas of a quorum queue ask whether their leader is there, some times over.
func (System) Detection(spec system.Spec) time.Duration {
	v := options(spec)
	d := v.seconds("net_ticktime") * 5 / 4
	if spec.Scheme == quorum {
		d = max(d, 4*v.millis("raft.adaptive_failure_detector.poll_interval"))
	}
	return d
}

var _ system.Limited = System{}

// Limits implements system.Limited. A node takes some ten seconds to start on a fast
// machine and a minute on a slow one; one that is stopped in good order closes every
// queue first.
func (System) Limits(system.Spec) system.Limits {
	return system.Limits{
		Faults: nemesis.Limits{Role: 30 * time.Second, Respond: 5 * time.Minute, StopGrace: time.Minute},
		Drain:  2 * time.Minute,
	}
}
