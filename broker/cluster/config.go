package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/broker"
)

// DefaultConfig returns the defaults that suit short runs; identity and members
// are the caller's.
func DefaultConfig() Config {
	c := Config{RebalanceInterval: 10 * time.Second}
	c.setDefaults()
	return c
}

// setDefaults fills what was left zero. RebalanceInterval stays: 0 is off.
func (c *Config) setDefaults() {
	def(&c.TickInterval, 100*time.Millisecond)
	def(&c.ElectionTicks, 10)
	def(&c.HeartbeatTicks, 2)
	def(&c.BrokerHeartbeat, 300*time.Millisecond)
	def(&c.SessionTimeout, 1500*time.Millisecond)
	def(&c.ProposalTimeout, 3*time.Second)
	def(&c.SnapshotEntries, 2000)
	def(&c.DefaultPartitions, 1)
	def(&c.MinISR, 1)
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate names the first setting that cannot work, and the remedy.
func (c *Config) Validate() error {
	seen := map[broker.NodeID]bool{}
	for _, m := range slices.Concat(c.Voters, c.Learners) {
		if m.ID < 1 || m.ID > maxNodeID {
			return fmt.Errorf("cluster: member %q has id %d: ids are 1 to %d", m.Name, m.ID, maxNodeID)
		}
		if seen[m.ID] {
			return fmt.Errorf("cluster: member id %d is named twice: give every node its own id", m.ID)
		}
		seen[m.ID] = true
	}
	switch {
	case len(c.Voters) == 0:
		return errors.New("cluster: no voters: name at least one controller")
	case !seen[c.ID] && c.Directory == 0:
		return fmt.Errorf("cluster: node %d is neither voter nor learner: add it to the members, or format it as a node that is added later", c.ID)
	case c.ID < 1 || c.ID > maxNodeID || c.Directory > maxDirectory:
		return fmt.Errorf("cluster: node %d with directory %d: ids are 1 to %d, directories 0 to %d", c.ID, c.Directory, maxNodeID, uint64(maxDirectory))
	case c.Incarnation == "":
		return errors.New("cluster: empty incarnation: give every start of a node its own")
	case c.TickInterval <= 0 || c.BrokerHeartbeat <= 0 || c.ProposalTimeout <= 0 || c.RebalanceInterval < 0:
		return errors.New("cluster: intervals and timeouts must be positive (RebalanceInterval: 0 is off)")
	case c.HeartbeatTicks <= 0 || c.ElectionTicks <= c.HeartbeatTicks:
		return fmt.Errorf("cluster: ElectionTicks (%d) must be greater than HeartbeatTicks (%d), and that greater than 0",
			c.ElectionTicks, c.HeartbeatTicks)
	case c.SessionTimeout <= c.BrokerHeartbeat:
		return fmt.Errorf("cluster: SessionTimeout (%v) must be longer than BrokerHeartbeat (%v), or live brokers are fenced",
			c.SessionTimeout, c.BrokerHeartbeat)
	case c.SnapshotEntries < 1:
		return fmt.Errorf("cluster: SnapshotEntries is %d: it must be at least 1", c.SnapshotEntries)
	case c.DefaultPartitions < 1 || c.DefaultReplication < 0 || c.MinISR < 1:
		return errors.New("cluster: DefaultPartitions and MinISR must be at least 1, DefaultReplication at least 0")
	}
	return nil
}

// name returns the configured name of a node, or its id.
func (c *Config) name(id broker.NodeID) string {
	if n := c.Names[id]; n != "" {
		return n
	}
	for _, m := range slices.Concat(c.Voters, c.Learners) {
		if m.ID == id && m.Name != "" {
			return m.Name
		}
	}
	return id.String()
}

// MaxMessageConfig is the topic config that limits the size of a record batch, in
// bytes; DefaultMaxMessage is its default (org.apache.kafka.common.config.TopicConfig
// and its default in ServerLogConfigs).
const (
	MaxMessageConfig  = "max.message.bytes"
	DefaultMaxMessage = 1<<20 + 12
)

// Names of the topic configs that the quorum acts on.
const (
	minISRConfig  = "min.insync.replicas"
	uncleanConfig = "unclean.leader.election.enable"
)

// topicConfigs are the topic configs that exist, each with the check of its value,
// in name order. Ranges are Kafka's (TopicConfig, LogConfig); of cleanup.policy,
// compression.type and retention.ms only the value that this broker plays: it keeps
// every record as it came. A segment's size is the node's (option segment.bytes).
var topicConfigs = []struct {
	name  string
	check func(string) error
}{
	{"cleanup.policy", oneOf("delete")},
	{"compression.type", oneOf("producer")},
	{MaxMessageConfig, between(0, 1<<31-1)},
	{minISRConfig, between(1, 1<<31-1)},
	{"retention.ms", oneOf("-1")},
	{uncleanConfig, oneOf("true", "false")},
}

// KnownConfig says whether a topic config exists and may have this value. The
// error names the known ones or the values allowed.
func KnownConfig(name, value string) error {
	names := make([]string, len(topicConfigs))
	for i, k := range topicConfigs {
		if k.name == name {
			if err := k.check(value); err != nil {
				return fmt.Errorf("topic config %s: %w", name, err)
			}
			return nil
		}
		names[i] = k.name
	}
	return fmt.Errorf("unknown topic config %q: known are %s", name, strings.Join(names, ", "))
}

func oneOf(values ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("value %q: must be %s", v, strings.Join(values, " or "))
		}
		return nil
	}
}

func between(low, high int64) func(string) error {
	return func(v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < low || n > high {
			return fmt.Errorf("value %q: must be an integer from %d to %d", v, low, high)
		}
		return nil
	}
}

// ValidTopicName says why Kafka takes no topic of this name, or nil (org.apache.kafka.common.internals.Topic).
func ValidTopicName(name string) error {
	switch {
	case name == "":
		return errors.New("the topic name is empty")
	case name == "." || name == "..":
		return fmt.Errorf("the topic name %q is reserved", name)
	case len(name) > 249:
		return fmt.Errorf("the topic name has %d characters: at most 249 are allowed", len(name))
	}
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		default:
			return fmt.Errorf("the topic name %q holds %q: only letters, digits, '.', '_' and '-' are allowed", name, r)
		}
	}
	return nil
}
