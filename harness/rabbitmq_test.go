package harness

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/nemesis"
)

// rabbitPlan is the plan of `make test-rabbitmq`: a leader is cut off, and restarted once
// that is over.
func rabbitPlan(t *testing.T, scheme string) Plan {
	t.Helper()
	p, err := ReadPlan("../docs/systems/rabbitmq-partition.yaml")
	require.NoError(t, err)
	p.Scheme = scheme
	return p
}

func TestDockerRabbitMQ(t *testing.T) {
	needAll(t)
	deaths := rabbitPlan(t, "quorum")
	deaths.Consumers, deaths.Options = 0, map[string]string{"queues": "3"}
	deaths.Steps = []nemesis.Step{{Fault: "kill", Targets: "leader", At: time.Second, Until: 10 * time.Second}}
	deaths.Phases.Fault = 20 * time.Second
	for _, tc := range []struct {
		name  string
		plan  Plan
		loses bool
	}{
		{"mirrored, cut off", rabbitPlan(t, "mirrored"), true},
		{"quorum, cut off", rabbitPlan(t, "quorum"), false},
		{"quorum, killed, with consumers", deaths, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.NoError(t, tc.plan.Prepare(t.Context(), nil))
			j := contained(t, tc.plan, nil)
			require.Contains(t, j.ex.Versions["nodes"], "RabbitMQ ")
			if tc.loses {
				require.Equal(t, checker.Invalid, j.Verdict, j.Sentence)
				require.Positive(t, j.Anomalies[checker.ClassLost])
				return
			}
			j.requireValidInDocker(t)
			require.Zero(t, j.Anomalies[checker.ClassLost])
		})
	}
}

// TestDockerRabbitMQUnready: a cluster that cannot become ready is one line that says
// why, and nothing of it is left.
func TestDockerRabbitMQUnready(t *testing.T) {
	needAll(t)
	for _, tc := range []struct {
		name   string
		change func(*Plan)
		docker func(*docker.Config)
		says   string
	}{
		{name: "wrong password", change: func(p *Plan) { p.Options["password"] = "wrong" }, says: "the cluster did not form: node n1: it refuses user faultline with this password"},
		{name: "no RabbitMQ in the image", docker: func(c *docker.Config) { c.Nodes[1].Entrypoint = []string{"/bin/sh", "-c", "exit 127"} }, says: "the cluster did not form: node n2 ended with exit code 127; its log is in the result directory"},
		{name: "no shell in the image", docker: func(c *docker.Config) { c.Nodes[0].Image = "" }, says: "starting node n1: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := rabbitPlan(t, "quorum")
			if tc.change != nil {
				tc.change(&p)
			}
			require.NoError(t, p.Prepare(t.Context(), nil))
			run := docker.NewRunID()
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			o, err := Run(ctx, Config{Plan: p, RunID: run, DockerConfig: tc.docker}, t.TempDir(), "")
			require.NoError(t, err)
			requireNothingLeft(t, run)
			require.Equal(t, checker.HarnessError, o.Result.Verdict)
			require.ErrorContains(t, o.Execution.Err, tc.says)
			require.NotContains(t, o.Execution.Err.Error(), "\n")
		})
	}
}

// TestRabbitMQRefuses: what RabbitMQ or its nodes cannot have is refused before anything
// starts.
func TestRabbitMQRefuses(t *testing.T) {
	for fault, why := range map[string]string{
		"membership": "system rabbitmq: the harness cannot change its members or move its leaders",
		"leadership": "system rabbitmq: the harness cannot change its members or move its leaders",
		"upgrade":    "system rabbitmq: the harness runs one version of it",
		"wipe":       "system rabbitmq: the others refuse a node that lost its disk",
		"clock":      "a node of system rabbitmq goes by the clock of its machine",
	} {
		p := rabbitPlan(t, "quorum")
		p.Faults, p.Steps, p.Phases.Fault = []string{fault}, nil, 4*time.Minute
		_, err := p.Resolve()
		require.ErrorIs(t, err, ErrBadPlan)
		require.ErrorContains(t, err, why)
	}
	p := rabbitPlan(t, "quorum")
	p.Options = map[string]string{"ha-mode": "all"}
	_, err := p.Resolve()
	require.ErrorContains(t, err, `bad plan: unknown option "ha-mode" of scheme quorum; known options: `)
	p.Options, p.Environment = nil, "sim"
	_, err = p.Resolve()
	require.EqualError(t, err, "bad plan: system rabbitmq: its nodes run as containers only; use --env docker")
}

// TestRabbitMQImageRefused: an image that is not there and cannot be pulled is a line of
// the plan's.
func TestRabbitMQImageRefused(t *testing.T) {
	needDocker(t)
	p := rabbitPlan(t, "quorum")
	p.Image = "faultline/nothing:here"
	err := p.Prepare(t.Context(), nil)
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, "faultline/nothing:here")
}
