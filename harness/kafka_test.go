package harness

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system/anykafka"
	"github.com/faultline-mq/faultline/nemesis"
)

// kafkaPlan runs the reference broker as any image that speaks Kafka's protocol.
func kafkaPlan(t *testing.T, faults string) Plan {
	t.Helper()
	p := dockerPlan(faults)
	var err error
	p.System = "kafka"
	p.Image, err = docker.ImageName()
	require.NoError(t, err)
	p.Options = map[string]string{}
	return p
}

// TestDockerKafkaImage: what was acknowledged by all in sync survives, whoever sends.
func TestDockerKafkaImage(t *testing.T) {
	needAll(t)
	for _, client := range []string{"precise", "kgo"} {
		t.Run(client, func(t *testing.T) {
			p := kafkaPlan(t, "kill,partition:isolate-leader")
			p.Client, p.Time = client, time.Minute
			j := contained(t, p, nil)
			j.requireValidInDocker(t)
			require.Equal(t, "kafka", j.history.Header.System)
			require.False(t, j.history.Header.Contract.PerReplica)
			require.Equal(t, "reference", j.ex.Plan.Options["distribution"])
			for _, r := range j.history.Replicas {
				require.True(t, r.Leader)
			}
		})
	}
}

// TestDockerKafkaConvicts: with acks=1 a leader that is cut off loses what it
// acknowledged.
func TestDockerKafkaConvicts(t *testing.T) {
	needAll(t)
	p := kafkaPlan(t, "partition:isolate-leader")
	p.Options["acks"] = "1"
	j := contained(t, p, nil)
	require.Equal(t, checker.Invalid, j.Verdict, j.why())
	j.requireProven(t)
	requireLost(t, j.Result, j.history)
}

// nearby runs a cluster of the reference broker in containers beside the run that is
// going to reach it, and returns its run id and its addresses.
func nearby(t *testing.T) (run string, addresses []string) {
	t.Helper()
	p := dockerPlan("")
	sys, err := LookupSystem("reference")
	require.NoError(t, err)
	run = docker.NewRunID()
	spec := p.spec(run)
	cfg, err := sys.Docker(spec)
	require.NoError(t, err)
	cfg.Access = docker.Direct // what the brokers advertise
	env, err := docker.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, env.Down(context.WithoutCancel(t.Context())))
		requireNothingLeft(t, run)
	})
	require.NoError(t, env.Up(t.Context()))
	require.NoError(t, sys.ConnectDocker(spec, env).Setup(t.Context()))
	for _, n := range spec.Nodes {
		at, err := env.Addr(n, environment.DefaultPorts.Client)
		require.NoError(t, err)
		addresses = append(addresses, at)
	}
	return run, addresses
}

// TestDockerKafkaAddresses: a cluster that another one runs, by its addresses: without
// faults, and with such as its owner makes with docker's own commands.
func TestDockerKafkaAddresses(t *testing.T) {
	needAll(t)
	run, addresses := nearby(t)
	container := "$(docker ps -aq --filter label=io.faultline.run=" + run + " --filter label=io.faultline.role=node --filter label=io.faultline.node=$FAULTLINE_TARGETS)"
	state := func(is string) string {
		return `test "$(docker inspect -f '{{.State.Status}}' ` + container + `)" = ` + is
	}
	for _, c := range []struct {
		name    string
		acks    string
		client  string
		targets string
		exec    nemesis.Commands
	}{
		{"without faults", "all", "", "", nemesis.Commands{}},
		{"a paused leader", "all", "", "leader", nemesis.Commands{Inject: "docker pause " + container, Prove: state("paused"), Heal: "docker unpause " + container}},
		{"a killed leader, and a real client", "all", "kgo", "leader", nemesis.Commands{Inject: "docker kill " + container, Prove: state("exited"), Heal: "docker start " + container}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := externalPlan(addresses)
			p.Time, p.Client, p.Targets, p.Exec = 30*time.Second, c.client, c.targets, c.exec
			p.Options = map[string]string{"acks": c.acks}
			if c.exec != (nemesis.Commands{}) {
				p.Faults = []string{"exec"}
			}
			o, _ := against(t.Context(), t, p)
			require.NoError(t, o.Execution.Err)
			require.Equal(t, checker.Valid, o.Summary.Verdict, "%s %v", o.Summary.Sentence, o.Summary.WhyInconclusive)
			lost, acknowledged := lostByHand(t, o.History)
			require.Empty(t, lost)
			require.Greater(t, acknowledged, 500)
			if c.targets == "" {
				require.Empty(t, o.Summary.Faults)
				require.Contains(t, o.Summary.Notes[0], "no fault was injected")
				return
			}
			require.NotEmpty(t, o.Summary.Faults)
			for _, f := range o.Summary.Faults {
				require.True(t, f.Proven && f.Healed, "%+v", f)
				require.Equal(t, "leader", f.Role)
			}
		})
	}
}

// TestDockerExec: commands of the user's own know the containers that they are to hit.
func TestDockerExec(t *testing.T) {
	needAll(t)
	p := dockerPlan("exec")
	p.Targets = "n2"
	p.Exec = nemesis.Commands{
		Inject: "docker pause $FAULTLINE_CONTAINERS", Heal: "docker unpause $FAULTLINE_CONTAINERS",
		Prove: `test "$(docker inspect -f '{{.State.Paused}}' $FAULTLINE_CONTAINERS)" = true`,
	}
	contained(t, p, nil).requireValidInDocker(t)
}

// TestDockerKafkaBadImages: an image that is not there or does not serve is one clear
// line, and nothing of it is left.
func TestDockerKafkaBadImages(t *testing.T) {
	needDocker(t)
	p := kafkaPlan(t, "")
	p.Image = "nosuch/kafka:1"
	err := p.Prepare(t.Context(), nil)
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, "image not found: nosuch/kafka:1")
	p.Image = ""
	_, err = p.Resolve()
	require.ErrorContains(t, err, "name the image of the nodes with --image, or an external cluster with --addresses")
	p.Image = "registry.example/team/broker:7"
	_, err = p.Resolve()
	require.ErrorContains(t, err, "its name does not tell what it is; say --set distribution=apache|redpanda|reference")

	for _, c := range []struct {
		name  string
		spoil func(*docker.NodeSpec)
		say   []string
	}{
		{"does not start", func(n *docker.NodeSpec) { n.Entrypoint = []string{"/no-such-program"} }, []string{"starting node n", "/no-such-program"}},
		{"ends at once", func(n *docker.NodeSpec) { n.Entrypoint = []string{"/faultbroker", "--bogus"} }, []string{"the cluster is not ready: n", "its process ended with exit code", "its output is in nodes/n"}},
		{"is never ready", func(n *docker.NodeSpec) {
			cmd := n.Cmd
			n.Cmd = func(addrs map[string]netip.Addr, identity string) []string {
				return strings.Split(strings.ReplaceAll(strings.Join(cmd(addrs, identity), "\n"), "--client-port\n9092", "--client-port\n9192"), "\n")
			}
		}, []string{"the cluster is not ready: after 5s: ", "--set ready.timeout.ms=… gives it more time"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := kafkaPlan(t, "")
			if c.name == "is never ready" {
				p.Options["ready.timeout.ms"] = "5000"
			}
			run := docker.NewRunID()
			o, err := Run(t.Context(), Config{Plan: p, RunID: run, DockerConfig: func(cfg *docker.Config) {
				for i := range cfg.Nodes {
					c.spoil(&cfg.Nodes[i])
				}
			}}, t.TempDir(), "")
			require.NoError(t, err)
			requireNothingLeft(t, run)
			require.Equal(t, 255, o.Summary.ExitCode)
			for _, say := range c.say {
				require.Contains(t, o.Summary.Sentence, say)
			}
		})
	}
}

// TestDistributions: what an image is shows in its name; its nodes know each other by
// name, and every listener has a port of its own.
func TestDistributions(t *testing.T) {
	for image, want := range map[string]string{
		"apache/kafka:4.0.0": "apache", "docker.io/apache/kafka-native@sha256:00": "apache", "localhost:5000/kafka": "apache",
		"docker.redpanda.com/redpandadata/redpanda:v25.1.1": "redpanda", "faultline/node:dev": "reference",
	} {
		p := DefaultPlan()
		p.System, p.Image, p.Faults = "kafka", image, nil
		p, err := p.Resolve()
		require.NoError(t, err, image)
		require.Equal(t, want, p.Options["distribution"], image)
		again, err := p.Resolve()
		require.NoError(t, err)
		require.Equal(t, p, again)
		sys, err := LookupSystem("kafka")
		require.NoError(t, err)
		cfg, err := sys.Docker(p.spec("r1"))
		require.NoError(t, err)
		require.NoError(t, cfg.Validate())
		require.Len(t, cfg.Nodes, 3)
		for _, n := range cfg.Nodes {
			require.Equal(t, image, n.Image)
			text := strings.Join(n.Env, "\n")
			if n.Cmd != nil {
				text = strings.Join(n.Cmd(map[string]netip.Addr{"n1": netip.MustParseAddr("10.0.0.2"), "n2": netip.MustParseAddr("10.0.0.3"), "n3": netip.MustParseAddr("10.0.0.4")}, ""), "\n")
			}
			require.Contains(t, text, n.Name+":9092", "it advertises its name")
		}
	}
	p := DefaultPlan()
	p.System, p.Image, p.Faults = "kafka", "apache/kafka:4.0.0", nil
	p.Options = map[string]string{"broker.session.timeout.ms": "2000"}
	p, err := p.Resolve()
	require.NoError(t, err)
	cfg, err := anykafka.System{}.Docker(p.spec("r1"))
	require.NoError(t, err)
	require.Equal(t, []string{
		"CLUSTER_ID=" + clusterID(cfg.Nodes[0].Env),
		"KAFKA_NODE_ID=2",
		"KAFKA_PROCESS_ROLES=broker,controller",
		"KAFKA_CONTROLLER_QUORUM_VOTERS=1@n1:9094,2@n2:9094,3@n3:9094",
		"KAFKA_LISTENERS=CLIENT://0.0.0.0:9092,PEER://0.0.0.0:9093,CONTROLLER://0.0.0.0:9094",
		"KAFKA_ADVERTISED_LISTENERS=CLIENT://n2:9092,PEER://n2:9093",
		"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=CLIENT:PLAINTEXT,PEER:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"KAFKA_INTER_BROKER_LISTENER_NAME=PEER",
		"KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER",
		"KAFKA_LOG_DIRS=/var/lib/kafka/data/logs",
		"KAFKA_AUTO_CREATE_TOPICS_ENABLE=false",
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=3",
		"KAFKA_BROKER_SESSION_TIMEOUT_MS=2000",
		"KAFKA_REPLICA_LAG_TIME_MAX_MS=3000",
		"KAFKA_BROKER_HEARTBEAT_INTERVAL_MS=500",
	}, cfg.Nodes[1].Env)
	require.Len(t, clusterID(cfg.Nodes[0].Env), 22)
}

func clusterID(env []string) string { return strings.TrimPrefix(env[0], "CLUSTER_ID=") }

// TestKafkaPromises: no more than Kafka does.
func TestKafkaPromises(t *testing.T) {
	for _, c := range []struct {
		name                          string
		set                           map[string]string
		faults, client                string
		acknowledged, once, committed bool
	}{
		{"defaults", nil, "kill,partition", "", true, true, true},
		{"acks=1", map[string]string{"acks": "1"}, "kill", "", false, true, true},
		{"one in sync is enough", map[string]string{"min.insync.replicas": "1"}, "kill", "", false, true, false},
		{"unclean elections", map[string]string{"unclean.leader.election.enable": "true"}, "kill", "", false, true, false},
		{"power loss, and nothing is synced", nil, "power", "", false, true, false},
		{"a restart that loses nothing", nil, "restart:kill", "", true, true, true},
		{"a restart that may", nil, "restart", "", false, true, false},
		{"a client that numbers", nil, "kill", "kgo", true, true, true},
		{"a client that repeats", map[string]string{"acks": "1"}, "kill", "kgo", false, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := DefaultPlan()
			p.System, p.Image, p.Faults, p.Client, p.Options = "kafka", "apache/kafka:4.0.0", strings.Split(c.faults, ","), c.client, c.set
			ct := anykafka.System{}.Contract(p.spec("r1"))
			require.Equal(t, c.acknowledged, ct.Acknowledged)
			require.Equal(t, c.once, ct.AtMostOnce)
			require.Equal(t, c.committed, ct.CommittedReads)
			require.False(t, ct.PerReplica)
			require.False(t, ct.Epochs, "its nodes report no events")
		})
	}
	for _, fault := range []string{"membership:remove", "upgrade:mixed", "wipe", "clock:jump", "lock-remove:remove"} {
		p := DefaultPlan()
		p.System, p.Image, p.Faults, p.Time = "kafka", "apache/kafka:4.0.0", []string{fault}, time.Minute
		_, err := p.Resolve()
		require.ErrorIs(t, err, ErrBadPlan, fault)
		require.ErrorContains(t, err, "fault "+fault, fault)
	}
}
