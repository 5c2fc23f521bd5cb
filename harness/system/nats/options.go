package nats

import (
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/harness/system"
)

// The options. Where the server or JetStream has a name for one, it is that name.
const (
	optVersion  = "version"
	optStreams  = "streams"
	optReplicas = "replicas"
	optSync     = "sync_interval"
	optAckWait  = "ack_wait"
	optPing     = "ping_interval"
	optTimeout  = "request_timeout"
)

// syncAlways and syncDefault are values of sync_interval that are no durations.
const (
	syncAlways  = "always"
	syncDefault = "default"
)

// DefaultVersion of the server that an image is built of.
const DefaultVersion = "v2.15.2"

// option is one of this system.
type option struct {
	name, doc, def string
	check          func(string) error
}

var versionExp = regexp.MustCompile(`^v2\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)

func options() []option {
	return []option{
		{optVersion, "version of the server's Go module that the image is built of; nothing where --image names one", DefaultVersion, func(s string) error {
			if !versionExp.MatchString(s) {
				return fmt.Errorf("it needs to be a version of the Go module %s, as %s", module, DefaultVersion)
			}
			return nil
		}},
		{optStreams, "streams, each with one subject; where the workload is a queue each has one durable consumer", "2", number(1, 64)},
		{optReplicas, "copies of every stream and consumer: 1 (R1), 3 (R3) or 5", "3", oneOf("1", "3", "5")},
		{optSync, "how often the server syncs to disk what it acknowledged: always, a duration, or default, which leaves it to the server (2 minutes)", syncDefault, func(s string) error {
			if s == syncAlways || s == syncDefault {
				return nil
			}
			return duration(time.Millisecond, 24*time.Hour)(s)
		}},
		{optAckWait, "how long a delivered message is given to nobody else; then it is delivered again (JetStream's own default is 30s)", "5s", duration(100*time.Millisecond, time.Hour)},
		{optPing, "between the server's pings of idle routes and clients; two that are not answered end a connection (the server's own default is 2m)", "2s", duration(100*time.Millisecond, time.Hour)},
		{optTimeout, "deadline of one request of a client", "2s", duration(10*time.Millisecond, time.Minute)},
	}
}

func oneOf(known ...string) func(string) error {
	return func(s string) error {
		for _, k := range known {
			if s == k {
				return nil
			}
		}
		return fmt.Errorf("known are %s", strings.Join(known, ", "))
	}
}

func number(low, high int) func(string) error {
	return func(s string) error {
		if n, err := strconv.Atoi(s); err != nil || n < low || n > high {
			return fmt.Errorf("it needs to be a number from %d to %d", low, high)
		}
		return nil
	}
}

func duration(low, high time.Duration) func(string) error {
	return func(s string) error {
		if d, err := time.ParseDuration(s); err != nil || d < low || d > high {
			return fmt.Errorf("it needs to be a duration from %s to %s, as 5s", low, high)
		}
		return nil
	}
}

// checkOptions refuses unknown names and impossible values.
func checkOptions(set map[string]string) error {
	known := map[string]option{}
	var names []string
	for _, o := range options() {
		known[o.name] = o
		names = append(names, o.name)
	}
	for name, value := range set {
		o, ok := known[name]
		if !ok {
			return fmt.Errorf("unknown option %q of system nats; known options: %s", name, strings.Join(names, ", "))
		}
		if err := o.check(value); err != nil {
			return fmt.Errorf("option %s=%s: %w", name, value, err)
		}
	}
	return nil
}

// values are all options, resolved.
type values map[string]string

// resolve fills in the defaults: a single node holds single copies.
func resolve(spec system.Spec) values {
	v := values{}
	for _, o := range options() {
		v[o.name] = o.def
	}
	if len(spec.Nodes) < 3 {
		v[optReplicas] = "1"
	}
	maps.Copy(v, spec.Set)
	return v
}

// number and duration read values that were checked before.
func (v values) number(name string) int {
	n, _ := strconv.Atoi(v[name])
	return n
}

func (v values) duration(name string) time.Duration {
	d, _ := time.ParseDuration(v[name])
	return d
}
