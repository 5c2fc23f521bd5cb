// Package options is the registry of everything that can be set on the
// reference broker, with the names and units of the real model where there is
// one. Each option has one owner: the client, the topic, the broker or a scheme.
package options

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/broker/mutant"
)

// Option is one thing that can be set with --set name=value.
type Option struct {
	Name    string
	Owner   string // "client", "topic", "broker", "scheme isr", …
	Type    string // "int", "bool", "duration-ms", "enum", "string"
	Unit    string
	Default string
	Kafka   string // the real model's default (profile=kafka), where it differs
	Values  []string
	Min     int64
	Max     int64
	Doc     string
}

const (
	broker = "broker"
	client = "client"
	topic  = "topic"
)

// Mutant is the option that seeds a bug. It exists in binaries with mutants only,
// and it has no value unless it is set.
const Mutant = "mutant"

var registry = []Option{
	{Name: "profile", Owner: broker, Type: "enum", Default: "short", Values: []string{"short", "kafka"}, Doc: "short: detection times for short runs; kafka: those of the real model"},
	{Name: "acks", Owner: client, Type: "enum", Default: "all", Values: []string{"0", "1", "all", "-1"}, Doc: "what a producer waits for"},
	{Name: "request.timeout.ms", Owner: client, Type: "duration-ms", Unit: "ms", Default: "1000", Kafka: "30000", Min: 50, Max: 600_000, Doc: "deadline of one request of a precise client"},
	{Name: "min.insync.replicas", Owner: topic, Type: "int", Default: "2", Kafka: "1", Min: 1, Max: 9, Doc: "acks=all is refused below this many in-sync replicas, and the high watermark stands still"},
	{Name: "replication.factor", Owner: topic, Type: "int", Default: "3", Kafka: "3", Min: 1, Max: 9, Doc: "replicas of each partition; scheme single has one"},
	{Name: "partitions", Owner: topic, Type: "int", Default: "4", Min: 1, Max: 256, Doc: "partitions of the workload's topic"},
	{Name: "unclean.leader.election.enable", Owner: topic, Type: "bool", Default: "false", Doc: "elect a replica outside the in-sync set where no other is left"},
	{Name: "fsync", Owner: broker, Type: "enum", Default: "always", Values: []string{"always", "interval", "never"}, Doc: "when partition logs are made durable; the metadata log always is"},
	{Name: "fsync.interval.ms", Owner: broker, Type: "duration-ms", Unit: "ms", Default: "500", Min: 1, Max: 600_000, Doc: "with fsync=interval"},
	{Name: "broker.heartbeat.interval.ms", Owner: broker, Type: "duration-ms", Unit: "ms", Default: "300", Kafka: "2000", Min: 10, Max: 600_000, Doc: "heartbeat to the controller"},
	{Name: "broker.session.timeout.ms", Owner: broker, Type: "duration-ms", Unit: "ms", Default: "1500", Kafka: "9000", Min: 50, Max: 600_000, Doc: "a broker without heartbeat for so long is fenced"},
	{Name: "leader.rebalance.interval.ms", Owner: broker, Type: "duration-ms", Unit: "ms", Default: "10000", Kafka: "300000", Min: 0, Max: 3_600_000, Doc: "how often preferred leaders are elected; 0 = never"},
	{Name: "quorum.tick.ms", Owner: broker, Type: "duration-ms", Unit: "ms", Default: "50", Kafka: "100", Min: 5, Max: 10_000, Doc: "raft tick; an election takes 10 to 20 of them"},
	{Name: "replica.lag.time.max.ms", Owner: "scheme isr", Type: "duration-ms", Unit: "ms", Default: "3000", Kafka: "30000", Min: 100, Max: 600_000, Doc: "a follower that has not caught up for so long leaves the in-sync set"},
	{Name: "replica.fetch.wait.max.ms", Owner: "scheme isr", Type: "duration-ms", Unit: "ms", Default: "500", Kafka: "500", Min: 1, Max: 60_000, Doc: "how long a leader may park a follower's fetch"},
	{Name: "replica.fetch.max.bytes", Owner: "scheme isr", Type: "int", Unit: "bytes", Default: "1048576", Min: 1, Max: 1 << 30, Doc: "how much a follower fetches at once, at least one batch"},
	{Name: "eligible.leader.replicas.version", Owner: "scheme isr", Type: "int", Default: "1", Min: 0, Max: 1, Doc: "1: replicas that leave the in-sync set while it is below the minimum stay eligible, and one whose broker went down out of order does not (KIP-966; Kafka: 1 in clusters that are new since 4.1); 0: the last in-sync replica is elected again, whatever it lost"},
	{Name: "net_ticktime.ms", Owner: "metadata=peers", Type: "duration-ms", Unit: "ms", Default: "1500", Kafka: "60000", Min: 100, Max: 600_000, Doc: "a node that was not heard for so long is dead; a connection that closes is its death at once"},
	{Name: "cluster_partition_handling", Owner: "metadata=peers", Type: "enum", Default: "ignore", Values: []string{"ignore", "pause_minority", "autoheal"}, Doc: "ignore: both sides of a partition go on; pause_minority: who sees no more than half of all members stops serving; autoheal: when it is over, all sides but one join anew"},
	{Name: "queue-leader-locator", Owner: "metadata=peers", Type: "enum", Default: "balanced", Kafka: "client-local", Values: []string{"balanced", "client-local"}, Doc: "home of a new partition: the nodes in turn, or the node that was asked"},
	{Name: "durable", Owner: "scheme classic", Type: "bool", Default: "true", Doc: "the queue outlives a restart of its home"},
	{Name: "delivery_mode", Owner: "scheme classic", Type: "int", Default: "2", Min: 1, Max: 2, Doc: "1: messages are transient, confirmed at once and gone with a restart; 2: persistent"},
	{Name: "mandatory", Owner: "scheme classic", Type: "bool", Default: "false", Doc: "a message that reaches no queue is refused; without it, it is confirmed and dropped"},
	{Name: "ha-mode", Owner: "scheme mirrored", Type: "enum", Default: "all", Values: []string{"all", "exactly", "nodes"}, Doc: "which nodes have a copy: all, as many as ha-params says, or those that it names"},
	{Name: "ha-params", Owner: "scheme mirrored", Type: "string", Default: "2", Doc: "with ha-mode=exactly the number of copies, the master among them; with nodes their names, separated by commas"},
	{Name: "ha-sync-mode", Owner: "scheme mirrored", Type: "enum", Default: "manual", Values: []string{"manual", "automatic"}, Doc: "automatic: a new mirror is brought up to date at once, and the queue is blocked meanwhile; manual: it gets only what is written from now on"},
	{Name: "ha-sync-batch-size", Owner: "scheme mirrored", Type: "int", Default: "4096", Min: 1, Max: 1_000_000, Doc: "messages of one step of a synchronisation"},
	{Name: "ha-promote-on-failure", Owner: "scheme mirrored", Type: "enum", Default: "always", Values: []string{"always", "when-synced"}, Doc: "which mirrors may take over when the master fails"},
	{Name: "ha-promote-on-shutdown", Owner: "scheme mirrored", Type: "enum", Default: "when-synced", Values: []string{"always", "when-synced"}, Doc: "which mirrors may take over when the master stops in order"},
	{Name: "confirm.on.mirror.death", Owner: "scheme mirrored", Type: "enum", Default: "before-check", Values: []string{"before-check", "after-check"}, Doc: "when what only a dead mirror lacks is confirmed: before or after the master has looked whether it is in the minority"},
	{Name: "auto.create.topics.enable", Owner: broker, Type: "bool", Default: "true", Doc: "a metadata request that allows it creates the topic"},
	{Name: Mutant, Owner: broker, Type: "mutant", Doc: "a bug that every node has (faultline mutants lists them)"},
	{Name: "segment.bytes", Owner: broker, Type: "int", Unit: "bytes", Default: "67108864", Min: 4096, Max: 1 << 30, Doc: "size at which a log begins a new segment"},
}

// All returns the registry, sorted by name.
func All() []Option {
	all := slices.DeleteFunc(slices.Clone(registry), func(o Option) bool { return o.Name == Mutant && !mutant.Enabled })
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// Values are resolved options: every option has a valid value.
type Values struct{ v map[string]string }

// Resolve checks set against the registry and fills in defaults. An unknown
// name, a wrong value or a contradiction is an error that names it and what is allowed.
func Resolve(set map[string]string) (Values, error) {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		i := slices.IndexFunc(registry, func(o Option) bool { return o.Name == name })
		if i < 0 {
			return Values{}, fmt.Errorf("unknown option %q; known options: %s", name, strings.Join(Names(), ", "))
		}
		if err := registry[i].check(set[name]); err != nil {
			return Values{}, err
		}
	}
	v := Values{v: make(map[string]string, len(registry))}
	for _, o := range registry {
		v.v[o.Name] = o.Default
		if set["profile"] == "kafka" && o.Kafka != "" {
			v.v[o.Name] = o.Kafka
		}
		if s, ok := set[o.Name]; ok {
			v.v[o.Name] = s
		}
	}
	if v.Duration("broker.session.timeout.ms") <= v.Duration("broker.heartbeat.interval.ms") {
		return Values{}, fmt.Errorf("broker.session.timeout.ms (%s) must be above broker.heartbeat.interval.ms (%s)", v.v["broker.session.timeout.ms"], v.v["broker.heartbeat.interval.ms"])
	}
	if v.Duration("replica.fetch.wait.max.ms") > v.Duration("replica.lag.time.max.ms") {
		return Values{}, fmt.Errorf("replica.fetch.wait.max.ms (%s) must not be above replica.lag.time.max.ms (%s), or idle followers leave the in-sync set", v.v["replica.fetch.wait.max.ms"], v.v["replica.lag.time.max.ms"])
	}
	return v, nil
}

func (o Option) check(s string) error {
	switch o.Type {
	case "mutant":
		_, err := mutant.Parse(s)
		return err
	case "enum":
		if !slices.Contains(o.Values, s) {
			return fmt.Errorf("option %s=%q: allowed values are %s", o.Name, s, strings.Join(o.Values, ", "))
		}
	case "bool":
		if s != "true" && s != "false" {
			return fmt.Errorf("option %s=%q: allowed values are true, false", o.Name, s)
		}
	case "int", "duration-ms":
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < o.Min || n > o.Max {
			return fmt.Errorf("option %s=%q: a whole number from %d to %d is wanted (unit: %s)", o.Name, s, o.Min, o.Max, cmp.Or(o.Unit, "none"))
		}
	}
	return nil
}

// Names returns the names of all options, sorted.
func Names() []string {
	var names []string
	for _, o := range All() {
		names = append(names, o.Name)
	}
	return names
}

// String returns an option's value.
func (v Values) String(name string) string { return v.v[name] }

// Int returns a numeric option's value.
func (v Values) Int(name string) int {
	n, _ := strconv.Atoi(v.v[name])
	return n
}

// Bool returns a boolean option's value.
func (v Values) Bool(name string) bool { return v.v[name] == "true" }

// Duration returns the value of an option in milliseconds.
func (v Values) Duration(name string) time.Duration {
	return time.Duration(v.Int(name)) * time.Millisecond
}

// Acks returns -1, 0 or 1.
func (v Values) Acks() int16 {
	switch v.v["acks"] {
	case "0":
		return 0
	case "1":
		return 1
	}
	return -1
}

// Mutants are the seeded bugs that were chosen.
func (v Values) Mutants() mutant.Set {
	s, _ := mutant.Parse(v.v[Mutant]) // Resolve checked it
	return s
}

// Map returns all values by name, defaults included; without the mutant where there is none.
func (v Values) Map() map[string]string {
	m := make(map[string]string, len(v.v))
	for name, s := range v.v {
		if name != Mutant || s != "" {
			m[name] = s
		}
	}
	return m
}
