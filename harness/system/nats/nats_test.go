package nats

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
)

func specOf(nodes int, set map[string]string) system.Spec {
	all := []string{"n1", "n2", "n3", "n4", "n5"}
	return system.Spec{Scheme: "jetstream", Workload: queueWorkload, RunID: "r1", Nodes: all[:nodes], Set: set, Expect: "survive"}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spec  system.Spec
		wants string
	}{
		{"defaults", specOf(3, nil), ""},
		{"one node", specOf(1, nil), ""},
		{"R1 on three", specOf(3, map[string]string{optReplicas: "1"}), ""},
		{"R5 on five", specOf(5, map[string]string{optReplicas: "5", optSync: syncAlways}), ""},
		{"R5 on three", specOf(3, map[string]string{optReplicas: "5"}), "option replicas=5: there are 3 nodes; use --nodes 5 or fewer replicas"},
		{"R2", specOf(3, map[string]string{optReplicas: "2"}), "option replicas=2: known are 1, 3, 5"},
		{"sync", specOf(3, map[string]string{optSync: "never"}), "option sync_interval=never: it needs to be a duration from 1ms to 24h0m0s, as 5s"},
		{"version", specOf(3, map[string]string{optVersion: "2.9"}), "option version=2.9: it needs to be a version of the Go module github.com/nats-io/nats-server/v2, as v2.15.2"},
		{"streams", specOf(3, map[string]string{optStreams: "0"}), "option streams=0: it needs to be a number from 1 to 64"},
		{"unknown", specOf(3, map[string]string{"acks": "1"}), `unknown option "acks" of system nats; known options: version, streams, replicas, sync_interval, ack_wait, ping_interval, request_timeout`},
		{"scheme", system.Spec{Scheme: "isr"}, `system nats: unknown scheme "isr"; known schemes: jetstream`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := System{}.Validate(tc.spec)
			if tc.wants == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tc.wants)
		})
	}
}

// Every fault is either possible by nature, or refused with a reason.
func TestLacks(t *testing.T) {
	var refused []string
	for _, f := range nemesis.Known() {
		if why := (System{}).Lacks(specOf(3, nil), nemesis.Step{Fault: f.Name}); why != "" {
			refused = append(refused, f.Name)
		}
	}
	require.ElementsMatch(t, []string{"lock-remove", "clock", "membership", "leadership", "upgrade"}, refused)
}

func TestContract(t *testing.T) {
	for _, tc := range []struct {
		name            string
		set             map[string]string
		faults          []string
		steps           []nemesis.Step
		kept, confirmed bool
	}{
		{"no faults", nil, nil, nil, true, true},
		{"kill", nil, []string{"kill", "partition"}, nil, true, true},
		{"power", nil, []string{"kill", "power"}, nil, false, false},
		{"power, always synced", map[string]string{optSync: syncAlways}, []string{"power"}, nil, true, true},
		{"power, synced now and then", map[string]string{optSync: "1s"}, []string{"power"}, nil, false, false},
		{"R1", map[string]string{optReplicas: "1"}, []string{"kill"}, nil, true, false},
		{"lost disks", map[string]string{optSync: syncAlways}, []string{"wipe"}, nil, false, false},
		{"a restart of any shape", map[string]string{optSync: syncAlways}, []string{"restart"}, nil, false, false},
		{"a killing restart", nil, []string{"restart:kill"}, nil, true, true},
		{"what is planned and not what is named", nil, []string{"power"}, []nemesis.Step{{Fault: "kill"}}, true, true},
		{"planned power", nil, nil, []nemesis.Step{{Fault: "restart", Shape: nemesis.RestartPower}}, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := specOf(3, tc.set)
			spec.Faults, spec.Steps = tc.faults, tc.steps
			c := System{}.Contract(spec)
			require.Equal(t, tc.kept, c.Acknowledged)
			require.Equal(t, tc.kept, c.Recovers)
			require.Equal(t, tc.confirmed, c.Settled)
			require.Equal(t, "at-least-once", c.Delivery)
			spec.Workload = logWorkload
			c = System{}.Contract(spec)
			require.Equal(t, tc.kept, c.Acknowledged)
			require.Equal(t, tc.kept, c.CommittedReads)
			require.Empty(t, c.Delivery)
			require.Empty(t, System{}.Queues(spec))
		})
	}
}

func TestServerConfig(t *testing.T) {
	p := environment.DefaultPorts
	spec := specOf(3, map[string]string{optSync: syncAlways})
	require.Equal(t, `server_name: n2
listen: "0.0.0.0:9092"
http: "0.0.0.0:9095"
ping_interval: "2s"
ping_max: 2
jetstream {
  store_dir: "/data"
  max_file_store: 1TB
  sync_interval: "always"
}
cluster {
  name: faultline
  listen: "0.0.0.0:9093"
  no_advertise: true
  routes: [
    "nats-route://n1:9093"
    "nats-route://n3:9093"
  ]
}
`, serverConfig("n2", spec.Nodes, resolve(spec), p))
	alone := serverConfig("n1", []string{"n1"}, resolve(specOf(1, nil)), p)
	require.NotContains(t, alone, "cluster")
	require.NotContains(t, alone, "sync_interval", "it is the server's own default")
}

func TestDockerConfig(t *testing.T) {
	cfg, err := System{}.Docker(specOf(3, map[string]string{optVersion: "v2.9.10"}))
	require.NoError(t, err)
	require.Len(t, cfg.Nodes, 3)
	require.True(t, strings.HasPrefix(cfg.Nodes[0].Image, "faultline/nats:v2.9.10-"), cfg.Nodes[0].Image)
	require.Equal(t, []string{"--config", "/faultline.conf"}, cfg.Nodes[0].Cmd(nil, ""))
	require.Contains(t, string(cfg.Nodes[2].Files["/faultline.conf"]), "server_name: n3\n")
	cfg.RunID = "r1"
	require.NoError(t, cfg.Validate())

	spec := specOf(3, nil)
	spec.Image = "nats:2.12"
	cfg, err = System{}.Docker(spec)
	require.NoError(t, err)
	require.Equal(t, "nats:2.12", cfg.Nodes[0].Image)
}
