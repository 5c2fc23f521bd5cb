package rabbitmq

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"strings"

	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system"
)

// Ports of a node. Nodes speak to each other on one port, beside that of epmd (4369),
// which only tells it.
const (
	amqpPort  = 5672
	peerPort  = 25672
	adminPort = 15672
	dataDir   = "/var/lib/rabbitmq"
)

// The user that nodes are made with.
const (
	user            = "faultline"
	defaultPassword = "faultline"
)

//go:embed entry.sh
var entry []byte

// debian is the image of RabbitMQ as Debian packages it: 3.10.8 in bookworm, the
// version that the claims about it were measured on.
func debian() docker.SystemImage {
	return docker.SystemImage{Name: "rabbitmq", Version: "debian-" + docker.Suite(), Based: true}
}

var _ system.Preparer = System{}

// Prepare implements system.Preparer.
func (System) Prepare(ctx context.Context, spec system.Spec, progress io.Writer) error {
	if spec.Image != "" {
		return docker.CheckImage(ctx, spec.Image)
	}
	_, err := docker.BuildSystemImage(ctx, debian(), progress)
	return err
}

// Docker implements system.System.
func (System) Docker(spec system.Spec) (docker.Config, error) {
	v, err := resolve(spec.Scheme, spec.Set)
	if err != nil {
		return docker.Config{}, err
	}
	image := spec.Image
	if image == "" {
		if image, err = debian().Tag(); err != nil {
			return docker.Config{}, err
		}
	}
	cfg := docker.Config{RunID: spec.RunID, Ports: environment.NodePorts{
		Client: amqpPort, Peer: peerPort, Quorum: peerPort, Admin: adminPort, Nonce: environment.DefaultPorts.Nonce,
	}}
	for _, name := range spec.Nodes {
		cfg.Nodes = append(cfg.Nodes, docker.NodeSpec{
			Name: name, Image: image, Entrypoint: []string{"/bin/sh", "/faultline/entry.sh"}, DataDir: dataDir,
			Env: []string{
				"FAULTLINE_NODES=" + strings.Join(spec.Nodes, " "), "FAULTLINE_COOKIE=faultline",
				// Schedulers that spin while they wait would take the processors from each other.
				"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none +sbwtdcpu none +sbwtdio none",
			},
			Files: map[string][]byte{
				"/faultline/entry.sh":           entry,
				"/faultline/rabbitmq.conf":      []byte(config(v)),
				"/etc/rabbitmq/advanced.config": []byte(advanced(v)),
				"/etc/rabbitmq/enabled_plugins": []byte("[rabbitmq_management].\n"),
			},
		})
	}
	return cfg, nil
}

// config is rabbitmq.conf but for the peers, which the entry script adds.
func config(v values) string {
	return fmt.Sprintf(`log.console = true
log.file = false
default_user = %s
default_pass = %s
loopback_users = none
heartbeat = %s
collect_statistics_interval = 1000
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.discovery_retry_limit = 3
cluster_formation.internal_lock_retries = 60
cluster_partition_handling = %s
`, user, defaultPassword, v["heartbeat"], v["cluster_partition_handling"])
}

// advanced is advanced.config: what RabbitMQ takes in Erlang's own terms only.
func advanced(v values) string {
	poll := v["raft.adaptive_failure_detector.poll_interval"]
	if poll == "" {
		poll = raft[0].def
	}
	return fmt.Sprintf(`[
  {kernel, [{net_ticktime, %s}, {inet_dist_listen_min, %d}, {inet_dist_listen_max, %d}]},
  {aten, [{poll_interval, %s}]}
].
`, v["net_ticktime"], peerPort, peerPort, poll)
}
