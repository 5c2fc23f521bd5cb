package anykafka

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/harness/system"
)

// option is one that can be set.
type option struct {
	name, def, doc string
	values         []string // that are allowed; nil: whole numbers from min to max
	min, max       int
}

// The options, with Kafka's names where Kafka has them.
const (
	optAcks         = "acks"
	optPartitions   = "partitions"
	optReplication  = "replication.factor"
	optMinInSync    = "min.insync.replicas"
	optUnclean      = "unclean.leader.election.enable"
	optTimeout      = "request.timeout.ms"
	optSession      = "broker.session.timeout.ms"
	optLag          = "replica.lag.time.max.ms"
	optReady        = "ready.timeout.ms"
	optDistribution = "distribution"
)

func (s System) options() []option {
	var names []string
	for _, d := range s.distributions() {
		names = append(names, d.Name())
	}
	return []option{
		{name: optAcks, def: "all", values: []string{"0", "1", "all", "-1"}, doc: "what a producer waits for (client)"},
		{name: optPartitions, def: "4", min: 1, max: 256, doc: "partitions of the workload's topic"},
		{name: optReplication, def: "3", min: 1, max: 9, doc: "replicas of each partition"},
		{name: optMinInSync, def: "2", min: 1, max: 9, doc: "in-sync replicas without which acks=all is refused (topic)"},
		{name: optUnclean, def: "false", values: []string{"true", "false"}, doc: "whether a replica outside the in-sync set may be elected (topic)"},
		{name: optTimeout, def: "1000", min: 50, max: 600_000, doc: "deadline of one request of a client, in ms"},
		{name: optSession, def: "3000", min: 500, max: 600_000, doc: "after how many ms without heartbeat a broker is fenced: by image it is set, by addresses it says what the cluster has (faults last three times as long)"},
		{name: optLag, def: "3000", min: 500, max: 600_000, doc: "after how many ms a replica that lags leaves the in-sync set; as " + optSession},
		{name: optReady, def: "60000", min: 1000, max: 3_600_000, doc: "how many ms a cluster may take to become ready"},
		{name: optDistribution, def: "auto", values: append([]string{"auto"}, names...), doc: "what an image is, and so how it is started; auto: by the image's name"},
	}
}

// values are resolved options.
type values map[string]string

// resolve checks options and fills in the defaults.
func (s System) resolve(set map[string]string) (values, error) {
	v := values{}
	known := s.options()
	for _, o := range known {
		v[o.name] = o.def
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		i := slices.IndexFunc(known, func(o option) bool { return o.name == name })
		if i < 0 {
			var names []string
			for _, o := range known {
				names = append(names, o.name)
			}
			return nil, fmt.Errorf("unknown option %q of system kafka; known options: %s", name, strings.Join(names, ", "))
		}
		o := known[i]
		if o.values != nil {
			if !slices.Contains(o.values, set[name]) {
				return nil, fmt.Errorf("%s=%q: allowed values are %s", name, set[name], strings.Join(o.values, ", "))
			}
		} else if n, err := strconv.Atoi(set[name]); err != nil || n < o.min || n > o.max {
			return nil, fmt.Errorf("%s=%q: a whole number from %d to %d is wanted", name, set[name], o.min, o.max)
		}
		v[name] = set[name]
	}
	return v, nil
}

// number is an option that resolve has checked.
func (v values) number(name string) int {
	n, _ := strconv.Atoi(v[name])
	return n
}

func (v values) duration(name string) time.Duration {
	return time.Duration(v.number(name)) * time.Millisecond
}

func (v values) acks() int16 {
	switch v[optAcks] {
	case "0":
		return 0
	case "1":
		return 1
	}
	return -1
}

// OptionList implements system.System.
func (s System) OptionList() []system.Info {
	var infos []system.Info
	for _, o := range s.options() {
		doc := fmt.Sprintf("%s (default %s", o.doc, o.def)
		if o.values != nil {
			doc += "; one of " + strings.Join(o.values, ", ")
		}
		infos = append(infos, system.Info{Name: o.name, Doc: doc + ")"})
	}
	return infos
}
