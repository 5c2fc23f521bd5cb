package rabbitmq

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
)

func specOf(scheme string, set map[string]string, faults ...string) system.Spec {
	return system.Spec{Scheme: scheme, Workload: "queue", RunID: "r1", Nodes: []string{"n1", "n2", "n3"}, Set: set, Faults: faults, Image: "rabbitmq:test"}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spec  system.Spec
		wants string
	}{
		{"quorum", specOf(quorum, nil), ""},
		{"mirrored", specOf(mirrored, map[string]string{"ha-mode": "exactly", "ha-params": "2"}), ""},
		{"mirrors by name", specOf(mirrored, map[string]string{"ha-mode": "nodes", "ha-params": "n1,n3"}), ""},
		{"classic", specOf(classic, map[string]string{"durable": "false", "mandatory": "false", "delivery_mode": "1"}), ""},
		{"quorum on one node", system.Spec{Scheme: quorum, Nodes: []string{"n1"}}, ""},
		{"scheme", specOf("isr", nil), `system rabbitmq has no scheme "isr"; known schemes: quorum, mirrored, classic`},
		{"policy of another scheme", specOf(classic, map[string]string{"ha-mode": "all"}), `unknown option "ha-mode" of scheme classic; known options: cluster_partition_handling, delivery_mode, durable, heartbeat, mandatory, net_ticktime, password, profile, queues, request.timeout.ms`},
		{"transient quorum queue", specOf(quorum, map[string]string{"durable": "false"}), `unknown option "durable" of scheme quorum; known options: cluster_partition_handling, delivery_mode, heartbeat, mandatory, net_ticktime, password, profile, queues, raft.adaptive_failure_detector.poll_interval, request.timeout.ms, x-quorum-initial-group-size`},
		{"value", specOf(mirrored, map[string]string{"cluster_partition_handling": "pause"}), "cluster_partition_handling=pause: it is one of ignore, pause_minority, autoheal"},
		{"number", specOf(quorum, map[string]string{"net_ticktime": "0"}), "net_ticktime=0: it is a whole number from 1 to 3600"},
		{"no number", specOf(quorum, map[string]string{"queues": "many"}), "queues=many: it is a whole number from 1 to 100"},
		{"copies", specOf(mirrored, map[string]string{"ha-mode": "exactly", "ha-params": "n1"}), "ha-params=n1: with ha-mode=exactly it is a number of copies, from 1"},
		{"names", specOf(mirrored, map[string]string{"ha-mode": "nodes", "ha-params": "n1,n9"}), `ha-params=n1,n9: with ha-mode=nodes it names nodes, separated by commas; there is no node "n9"`},
		{"replicas", specOf(quorum, map[string]string{"x-quorum-initial-group-size": "5"}), "x-quorum-initial-group-size=5: there are 3 nodes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := System{}.Validate(tc.spec)
			if tc.wants != "" {
				require.EqualError(t, err, tc.wants)
				return
			}
			require.NoError(t, err)
			// What is resolved resolves again, to the same.
			again := tc.spec
			again.Set = System{}.Options(tc.spec)
			require.NoError(t, System{}.Validate(again))
			require.Equal(t, again.Set, System{}.Options(again))
		})
	}
}

// TestLacks: every fault is either possible, or refused with a reason.
func TestLacks(t *testing.T) {
	refused := map[string]string{}
	for _, f := range nemesis.Known() {
		if why := (System{}).Lacks(specOf(quorum, nil), nemesis.Step{Fault: f.Name, Targets: nemesis.TargetOne}); why != "" {
			refused[f.Name] = why
		}
	}
	require.Equal(t, map[string]string{
		"wipe":        "the others refuse a node that lost its disk, until an operator makes them forget it",
		"restart":     "the others refuse a node that lost its disk, until an operator makes them forget it", // of any shape
		"lock-remove": "its nodes share no lock", "membership": "the harness cannot change its members or move its leaders",
		"leadership": "the harness cannot change its members or move its leaders", "upgrade": "the harness runs one version of it",
	}, refused)
	for _, s := range []nemesis.Shape{nemesis.RestartKill, nemesis.RestartPower} {
		require.Empty(t, System{}.Lacks(specOf(quorum, nil), nemesis.Step{Fault: "restart", Shape: s, Targets: "n1"}))
	}
	require.Contains(t, System{}.Lacks(specOf(quorum, nil), nemesis.Step{Fault: "kill", Targets: nemesis.TargetController}), "no controller")
	require.Contains(t, System{}.Lacks(specOf(quorum, nil), nemesis.Step{Fault: "partition", Port: nemesis.QuorumPort}), "no metadata quorum")
	require.Equal(t, noEvents, System{}.Lacks(specOf(quorum, nil), nemesis.Step{Fault: "kill", When: "leader"}))

	// Clocks are the environment's to refuse.
	cfg, err := System{}.Docker(specOf(quorum, nil))
	require.NoError(t, err)
	require.False(t, cfg.TellsTime())
}

func TestContract(t *testing.T) {
	twice := func(s system.Spec, faults ...string) system.Spec {
		for _, f := range faults {
			s.Steps = append(s.Steps, nemesis.Step{Fault: f})
		}
		return s
	}
	safe := map[string]string{"ha-promote-on-failure": "when-synced"}
	for _, tc := range []struct {
		name     string
		spec     system.Spec
		survives bool
		recovers bool
	}{
		{"nothing happens", specOf(mirrored, map[string]string{"delivery_mode": "1"}), true, true},
		{"quorum, everything", specOf(quorum, nil, "kill", "partition:isolate-leader", "pause", "power", "restart:power", "loss", "disk-full", "rolling-restart"), true, true},
		{"quorum, damage", specOf(quorum, nil, "corrupt-file"), false, false},
		{"quorum, not mandatory", specOf(quorum, map[string]string{"mandatory": "false"}, "kill"), false, true},
		{"mirrored, one death", twice(specOf(mirrored, nil), "kill"), true, true},
		{"mirrored, two deaths", twice(specOf(mirrored, nil), "kill", "kill"), false, true},
		{"mirrored, two deaths, promoted when synchronised", twice(specOf(mirrored, safe), "kill", "stop"), true, true},
		{"mirrored, partition", specOf(mirrored, safe, "partition"), false, false},
		{"mirrored, pause", specOf(mirrored, map[string]string{"cluster_partition_handling": "pause_minority"}, "pause"), false, false},
		{"mirrored, not persistent", twice(specOf(mirrored, map[string]string{"delivery_mode": "1"}), "kill"), false, true},
		{"classic", specOf(classic, nil, "kill", "power", "partition"), true, true},
		{"classic, not durable", specOf(classic, map[string]string{"durable": "false"}, "kill"), false, false},
		{"classic, not persistent", specOf(classic, map[string]string{"delivery_mode": "1"}, "kill"), false, false},
		{"classic, not mandatory", specOf(classic, map[string]string{"mandatory": "false"}, "kill"), false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.NoError(t, System{}.Validate(tc.spec))
			c := System{}.Contract(tc.spec)
			require.Equal(t, tc.survives, c.Acknowledged)
			require.Equal(t, tc.recovers, c.Recovers)
			require.Equal(t, tc.survives, c.Redelivers)
			require.Equal(t, "at-least-once", c.Delivery)
			require.False(t, c.Settled || c.PerReplica || c.Epochs)
		})
	}
}

func TestDocker(t *testing.T) {
	spec := specOf(quorum, map[string]string{"profile": "rabbitmq", "cluster_partition_handling": "autoheal"})
	cfg, err := System{}.Docker(spec)
	require.NoError(t, err)
	require.Len(t, cfg.Nodes, 3)
	n := cfg.Nodes[0]
	require.Equal(t, "rabbitmq:test", n.Image)
	require.Contains(t, string(n.Files["/faultline/rabbitmq.conf"]), "cluster_partition_handling = autoheal\n")
	require.Contains(t, string(n.Files["/faultline/rabbitmq.conf"]), "heartbeat = 60\n")
	require.Contains(t, string(n.Files["/etc/rabbitmq/advanced.config"]), "{net_ticktime, 60}")
	require.Contains(t, string(n.Files["/etc/rabbitmq/advanced.config"]), "{poll_interval, 5000}")
	require.Contains(t, n.Env, "FAULTLINE_NODES=n1 n2 n3")

	cfg, err = System{}.Docker(specOf(classic, nil))
	require.NoError(t, err)
	require.Contains(t, string(cfg.Nodes[2].Files["/etc/rabbitmq/advanced.config"]), "{net_ticktime, 5}")

	own := specOf(classic, nil)
	own.Image = ""
	cfg, err = System{}.Docker(own)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(cfg.Nodes[0].Image, "faultline/rabbitmq:debian-"+docker.Suite()+"-"), cfg.Nodes[0].Image)
}

// TestLeads: who leads is what a node's own view says, and a home that is down is none.
func TestLeads(t *testing.T) {
	require.Equal(t, "n2", queueView{Leader: "rabbit@n2", Node: "rabbit@n1", State: "running"}.leads())
	require.Equal(t, "n1", queueView{Node: "rabbit@n1", State: "live"}.leads())
	require.Empty(t, queueView{Node: "rabbit@n1", State: "down"}.leads())
	require.Empty(t, queueView{}.leads())

	c := System{}.connect(specOf(mirrored, nil), nil, nil, nil)
	views := map[string]queueView{"n1": {Node: "rabbit@n1"}, "n2": {Node: "rabbit@n2"}, "n3": {Node: "rabbit@n2"}}
	require.EqualError(t, c.agree("q-0", views), "the nodes do not agree on who leads q-0: n1 names n1, n2 names n2, n3 names n2")
	delete(views, "n1")
	require.NoError(t, c.agree("q-0", views))
	require.Equal(t, 2, backers(views, "n2"))
	require.Zero(t, backers(views, ""))

	require.EqualError(t, c.whole(queueView{Node: "rabbit@n1", Mirrors: []string{"rabbit@n2", "rabbit@n3"}, Synced: []string{"rabbit@n3"}}), "2 of 2 mirrors, 1 synchronised")
	require.EqualError(t, c.whole(queueView{State: "down"}), `it without a home (state "down")`)
}

// late is a clock on which every sleep takes a minute.
type late struct{ now time.Duration }

func (l *late) Now() time.Duration { return l.now }
func (l *late) Sleep(ctx context.Context, _ time.Duration) error {
	l.now += time.Minute
	return ctx.Err()
}

// TestNeverReady: waiting for a cluster ends, with what was missing; a node that ended
// and a refused password end it at once.
func TestNeverReady(t *testing.T) {
	clock := &late{}
	running := true
	c := System{}.connect(specOf(quorum, nil), clock, nil, func(_ context.Context, node string) (nemesis.ProcessState, error) {
		return nemesis.ProcessState{Running: running || node != "n2", ExitCode: 127}, nil
	})
	wait := func(err error) error {
		clock.now = 0
		return c.await(t.Context(), SetupTimeout, func() error { return err })
	}
	require.NoError(t, wait(nil))
	require.EqualError(t, wait(errors.New("node n3 sees n1 down")), "not so after 6m0s: node n3 sees n1 down")
	require.Equal(t, SetupTimeout, clock.now)

	require.ErrorIs(t, wait(errUnauthorized), errUnauthorized)
	require.Zero(t, clock.now)

	running = false
	require.EqualError(t, wait(errors.New("refused")), "node n2 ended with exit code 127; its log is in the result directory")
	require.Zero(t, clock.now)
}
