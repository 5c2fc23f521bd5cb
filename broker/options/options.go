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
	// Draw are the values that random runs choose from; none: they leave it alone.
	Draw []string
	// Safe is the value that random runs fall back to where what they drew promises
	// nothing; "": none.
	Safe string
	// Protocol: the values are different protocols, so that a random run chooses
	// always, and not only now and then.
	Protocol bool
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
	{Name: "net_ticktime.ms", Owner: "metadata=peers", Type: "duration-ms", Unit: "ms", Default: "1500", Kafka: "60000", Min: 100, Max: 600_000, Doc: "a node that was not heard for so long is dead; a connection that closes is its death at once"},
	{Name: "cluster_partition_handling", Owner: "metadata=peers", Type: "enum", Default: "ignore", Values: []string{"ignore", "pause_minority", "autoheal"}, Doc: "ignore: both sides of a partition go on; pause_minority: who sees no more than half of all members stops serving; autoheal: when it is over, all sides but one join anew"},
	{Name: "queue-leader-locator", Owner: "metadata=peers", Type: "enum", Default: "balanced", Kafka: "client-local", Values: []string{"balanced", "client-local"}, Doc: "home of a new partition: the nodes in turn, or the node that was asked"},
	{Name: "auto.create.topics.enable", Owner: broker, Type: "bool", Default: "true", Doc: "a metadata request that allows it creates the topic"},
	{Name: Mutant, Owner: broker, Type: "mutant", Doc: "a bug that every node has (faultline mutants lists them)"},
	{Name: "segment.bytes", Owner: broker, Type: "int", Unit: "bytes", Default: "67108864", Min: 4096, Max: 1 << 30, Doc: "size at which a log begins a new segment"},
}

// All returns the registry and the options of schemes, sorted by name.
func All(schemes ...Option) []Option {
	all := slices.DeleteFunc(slices.Concat(registry, schemes), func(o Option) bool { return o.Name == Mutant && !mutant.Enabled })
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// Values are resolved options: every option has a valid value.
type Values struct{ v map[string]string }

// Resolve checks set against the registry and the options of schemes and fills in
// defaults. An unknown name, a wrong value or a contradiction is an error that names it
// and what is allowed.
func Resolve(set map[string]string, schemes ...Option) (Values, error) {
	registry := slices.Concat(registry, schemes)
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		i := slices.IndexFunc(registry, func(o Option) bool { return o.Name == name })
		if i < 0 {
			return Values{}, fmt.Errorf("unknown option %q; known options: %s", name, strings.Join(Names(schemes...), ", "))
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
func Names(schemes ...Option) []string {
	var names []string
	for _, o := range All(schemes...) {
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
