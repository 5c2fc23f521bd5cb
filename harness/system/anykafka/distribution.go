package anykafka

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system"
)

// Distribution is a broker that speaks Kafka's protocol, as an image.
type Distribution interface {
	Name() string
	Doc() string
	// Recognises reports whether an image is of it, by the image's name.
	Recognises(image string) bool
	// Tells reports whether its nodes write events on their standard output, as the
	// reference broker does.
	Tells() bool
	// Docker describes the nodes; set has options of brokers by Kafka's names. Each
	// node listens for clients at environment.DefaultPorts.Client, and advertises its
	// own name with it.
	Docker(spec system.Spec, set map[string]string) docker.Config
}

// apache is Apache Kafka's official image: KRaft, all nodes brokers and controllers.
type apache struct{}

func (apache) Name() string { return "apache" }
func (apache) Doc() string {
	return "Apache Kafka's official images (apache/kafka, apache/kafka-native)"
}
func (apache) Tells() bool { return false }

// Recognises implements Distribution.
func (apache) Recognises(image string) bool { return named(image, "kafka", "kafka-native") }

// Docker implements Distribution. The image takes Kafka's properties as environment
// variables, and formats the disks for CLUSTER_ID. Clients, replication and the
// controllers have ports of their own, so that faults can tell them apart.
func (apache) Docker(spec system.Spec, set map[string]string) docker.Config {
	p := environment.DefaultPorts
	cfg := docker.Config{RunID: spec.RunID, Ports: p}
	var voters []string
	for i, name := range spec.Nodes {
		voters = append(voters, fmt.Sprintf("%d@%s:%d", i+1, name, p.Quorum))
	}
	id := sha256.Sum256([]byte(spec.RunID))
	const dir = "/var/lib/kafka/data" // the image's own, which its user may write to
	for i, name := range spec.Nodes {
		env := []string{
			"CLUSTER_ID=" + base64.RawURLEncoding.EncodeToString(id[:16]),
			"KAFKA_NODE_ID=" + strconv.Itoa(i+1),
			"KAFKA_PROCESS_ROLES=broker,controller",
			"KAFKA_CONTROLLER_QUORUM_VOTERS=" + strings.Join(voters, ","),
			fmt.Sprintf("KAFKA_LISTENERS=CLIENT://0.0.0.0:%d,PEER://0.0.0.0:%d,CONTROLLER://0.0.0.0:%d", p.Client, p.Peer, p.Quorum),
			fmt.Sprintf("KAFKA_ADVERTISED_LISTENERS=CLIENT://%s:%d,PEER://%s:%d", name, p.Client, name, p.Peer),
			"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=CLIENT:PLAINTEXT,PEER:PLAINTEXT,CONTROLLER:PLAINTEXT",
			"KAFKA_INTER_BROKER_LISTENER_NAME=PEER",
			"KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER",
			"KAFKA_LOG_DIRS=" + path.Join(dir, "logs"),
			"KAFKA_AUTO_CREATE_TOPICS_ENABLE=false",
			"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=" + strconv.Itoa(min(3, len(spec.Nodes))),
		}
		for _, name := range sortedKeys(set) {
			env = append(env, "KAFKA_"+strings.ToUpper(strings.ReplaceAll(name, ".", "_"))+"="+set[name])
		}
		session, _ := strconv.Atoi(set[optSession])
		env = append(env, "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS="+strconv.Itoa(max(session/4, 100)))
		cfg.Nodes = append(cfg.Nodes, docker.NodeSpec{Name: name, Env: env, DataDir: dir, Records: ".log"})
	}
	return cfg
}

// redpanda is Redpanda's image.
type redpanda struct{}

func (redpanda) Name() string { return "redpanda" }
func (redpanda) Doc() string  { return "Redpanda's images (redpandadata/redpanda)" }
func (redpanda) Tells() bool  { return false }

// Recognises implements Distribution.
func (redpanda) Recognises(image string) bool { return named(image, "redpanda") }

// Docker implements Distribution. Its replication and its quorums share one port, the
// peers'; it has no properties of Kafka's broker, so set is not used.
func (redpanda) Docker(spec system.Spec, _ map[string]string) docker.Config {
	p := environment.DefaultPorts
	cfg := docker.Config{RunID: spec.RunID, Ports: p}
	var seeds []string
	for _, name := range spec.Nodes {
		seeds = append(seeds, fmt.Sprintf("%s:%d", name, p.Peer))
	}
	for _, name := range spec.Nodes {
		cfg.Nodes = append(cfg.Nodes, docker.NodeSpec{
			Name: name, DataDir: "/var/lib/redpanda/data", Records: ".log",
			Cmd: func(map[string]netip.Addr, string) []string {
				return []string{
					"redpanda", "start", "--mode", "dev-container", "--smp", "1", "--memory", "512M", "--reserve-memory", "0M", "--overprovisioned",
					"--kafka-addr", fmt.Sprintf("client://0.0.0.0:%d", p.Client), "--advertise-kafka-addr", fmt.Sprintf("client://%s:%d", name, p.Client),
					"--rpc-addr", fmt.Sprintf("0.0.0.0:%d", p.Peer), "--advertise-rpc-addr", fmt.Sprintf("%s:%d", name, p.Peer),
					"--seeds", strings.Join(seeds, ","),
				}
			},
		})
	}
	return cfg
}

// named reports whether the last part of an image's name is one of names, whatever
// its registry and tag.
func named(image string, names ...string) bool {
	image, _, _ = strings.Cut(image, "@")
	last := path.Base(image)
	last, _, _ = strings.Cut(last, ":")
	return slices.Contains(names, last)
}

// distributions are those that are known, Kafka's first.
func (s System) distributions() []Distribution {
	return slices.Concat([]Distribution{apache{}, redpanda{}}, s.Further)
}

// distribution is that of the image.
func (s System) distribution(image, name string) (Distribution, error) {
	if image == "" {
		return nil, fmt.Errorf("system kafka: name the image of the nodes with --image, or an external cluster with --addresses")
	}
	var names []string
	for _, d := range s.distributions() {
		if name == d.Name() || name == "auto" && d.Recognises(image) {
			return d, nil
		}
		names = append(names, d.Name())
	}
	return nil, fmt.Errorf("image %s: its name does not tell what it is; say --set %s=%s", image, optDistribution, strings.Join(names, "|"))
}
