package rabbitmq

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/harness/system"
)

// option is one thing that can be set with --set name=value. It is one of values, or
// else, where max is set, a whole number from min to max, or else any text.
type option struct {
	name     string
	def      string
	real     string // RabbitMQ's own default (profile=rabbitmq), where it differs
	values   []string
	min, max int
	unit     string
	doc      string
}

var boolean = []string{"true", "false"}

// The names and units are RabbitMQ's own where it has one; those of policies are
// written as in the policy.
var common = []option{
	{name: "profile", def: "short", values: []string{"short", "rabbitmq"}, doc: "short: detection times for short runs; rabbitmq: RabbitMQ's own"},
	{name: "queues", def: "3", min: 1, max: 100, doc: "queues of the workload; their homes or leaders are spread over the nodes"},
	{name: "request.timeout.ms", def: "2000", real: "30000", min: 50, max: 600_000, unit: "ms", doc: "deadline of one operation of a client"},
	{name: "heartbeat", def: "5", real: "60", min: 1, max: 3600, unit: "s", doc: "of client connections: two that are missed close one, and what it held goes back to its queue"},
	{name: "net_ticktime", def: "5", real: "60", min: 1, max: 3600, unit: "s", doc: "a node that was not heard for 75 to 125 % of this is down"},
	{name: "cluster_partition_handling", def: "ignore", values: []string{"ignore", "pause_minority", "autoheal"}, doc: "ignore: both sides of a partition go on; pause_minority: who sees no more than half of all members stops; autoheal: when it is over, all sides but one restart and lose what they have"},
	{name: "mandatory", def: "true", values: boolean, doc: "a message that no queue takes is returned; false: it is confirmed all the same, and gone"},
	{name: "delivery_mode", def: "2", values: []string{"1", "2"}, doc: "2: messages are persistent; 1: they are not"},
	{name: "password", def: defaultPassword, doc: "what the harness shows the nodes, whose user " + user + " has the password " + defaultPassword},
}

var durable = option{name: "durable", def: "true", values: boolean, doc: "queues outlive a restart of their node"}

var mirrors = []option{
	{name: "ha-mode", def: "all", values: []string{"all", "exactly", "nodes"}, doc: "which nodes have a copy: all, as many as ha-params says, or those that it names"},
	{name: "ha-params", def: "2", doc: "with ha-mode=exactly the number of copies, the master's among them; with nodes their names, separated by commas"},
	{name: "ha-sync-mode", def: "automatic", real: "manual", values: []string{"automatic", "manual"}, doc: "a new mirror is filled at once, while the queue stands still; manual: it has only what comes from now on"},
	{name: "ha-promote-on-failure", def: "always", values: []string{"always", "when-synced"}, doc: "whether a mirror that is not synchronised takes over from a dead master"},
	{name: "ha-promote-on-shutdown", def: "when-synced", values: []string{"always", "when-synced"}, doc: "the same for a master that was stopped in good order"},
}

var raft = []option{
	{name: "raft.adaptive_failure_detector.poll_interval", def: "1000", real: "5000", min: 100, max: 60_000, unit: "ms", doc: "how often replicas ask whether their leader is there"},
	{name: "x-quorum-initial-group-size", def: "3", min: 1, max: 9, doc: "replicas of a queue; no more than there are nodes"},
}

// values are the options of one configuration, all of them.
type values map[string]string

func (v values) number(name string) int {
	n, _ := strconv.Atoi(v[name]) // it was checked
	return n
}

func (v values) is(name string) bool { return v[name] == "true" }

func (v values) seconds(name string) time.Duration {
	return time.Duration(v.number(name)) * time.Second
}

func (v values) millis(name string) time.Duration {
	return time.Duration(v.number(name)) * time.Millisecond
}

// resolve checks what was set, and fills in the defaults of a scheme.
func resolve(scheme string, set map[string]string) (values, error) {
	s, err := lookup(scheme)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(common, s.options)
	v := values{}
	for _, o := range all {
		v[o.name] = o.def
		if set["profile"] == "rabbitmq" && o.real != "" {
			v[o.name] = o.real
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		i := slices.IndexFunc(all, func(o option) bool { return o.name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown option %q of scheme %s; known options: %s", name, scheme, strings.Join(slices.Sorted(maps.Keys(v)), ", "))
		}
		if err := all[i].check(set[name]); err != nil {
			return nil, err
		}
		v[name] = set[name]
	}
	return v, nil
}

func (o option) check(value string) error {
	if len(o.values) > 0 {
		if !slices.Contains(o.values, value) {
			return fmt.Errorf("%s=%s: it is one of %s", o.name, value, strings.Join(o.values, ", "))
		}
		return nil
	}
	if n, err := strconv.Atoi(value); o.max > 0 && (err != nil || n < o.min || n > o.max) {
		return fmt.Errorf("%s=%s: it is a whole number from %d to %d", o.name, value, o.min, o.max)
	}
	return nil
}

// describe is what people are told of an option.
func (o option) describe() string {
	doc := o.doc + " (default " + o.def
	if o.real != "" {
		doc += ", with profile=rabbitmq " + o.real
	}
	if len(o.values) > 0 {
		doc += "; one of " + strings.Join(o.values, ", ")
	}
	if o.unit != "" {
		doc += "; unit " + o.unit
	}
	return doc + ")"
}

// infos describes options to the harness.
func infos(options []option) []system.Info {
	all := make([]system.Info, len(options))
	for i, o := range options {
		all[i] = system.Info{Name: o.name, Doc: o.describe()}
	}
	return all
}
