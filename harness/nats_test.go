package harness

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/nemesis"
)

// natsPlan is a short plan with one fault on three servers of NATS JetStream. The fault
// outlasts an election, of 4 to 9 s.
func natsPlan(workload string, fault nemesis.Step, set map[string]string) Plan {
	p := DefaultPlan()
	p.System, p.Scheme, p.Workload, p.Options = "nats", "jetstream", workload, set
	p.Phases = Phases{Baseline: 4 * time.Second, Fault: 40 * time.Second, Recovery: 15 * time.Second}
	fault.At, fault.Until = 5*time.Second, 30*time.Second
	p.Faults, p.Steps = nil, []nemesis.Step{fault}
	return p
}

func TestDockerNats(t *testing.T) {
	needAll(t)
	for _, tc := range []struct {
		name  string
		plan  Plan
		loses bool
	}{
		{"a leader is killed", natsPlan("queue", nemesis.Step{Fault: "kill", Targets: "leader"}, nil), false},
		// With a queue this may find what docs/systems/nats.md tells of confirmed acknowledgements.
		{"a leader is cut off", natsPlan("log", nemesis.Step{Fault: "partition", Shape: "isolate-leader"}, nil), false},
		{"all lose power", natsPlan("log", nemesis.Step{Fault: "power", Targets: "all"}, nil), true},
		{"all lose power, always synced", natsPlan("log", nemesis.Step{Fault: "power", Targets: "all"}, map[string]string{"sync_interval": "always"}), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.NoError(t, tc.plan.Prepare(t.Context(), nil))
			j := contained(t, tc.plan, nil)
			if tc.loses {
				require.Equal(t, checker.Invalid, j.Verdict, j.Sentence)
				require.Positive(t, j.Anomalies[checker.ClassLost])
				return
			}
			require.Equal(t, checker.Valid, j.Verdict, j.Sentence)
		})
	}
}

// What the nodes cannot have is refused before anything starts.
func TestNatsRefuses(t *testing.T) {
	for fault, why := range map[string]string{
		"lock-remove": "system nats: its nodes share no storage and take no lock",
		"clock":       "its nodes go by the clock of the machine",
		"leadership":  "its leaders carry no epoch",
	} {
		p := natsPlan("queue", nemesis.Step{}, nil)
		p.Faults, p.Steps, p.Phases.Fault = []string{fault}, nil, 2*time.Minute
		_, err := p.Resolve()
		require.ErrorIs(t, err, ErrBadPlan)
		require.ErrorContains(t, err, why)
	}
	p := natsPlan("queue", nemesis.Step{Fault: "kill", Targets: "one"}, map[string]string{"replicas": "5"})
	_, err := p.Resolve()
	require.EqualError(t, err, "bad plan: option replicas=5: there are 3 nodes; use --nodes 5 or fewer replicas")
	p.Options, p.Environment = nil, "sim"
	_, err = p.Resolve()
	require.EqualError(t, err, "bad plan: system nats: its nodes run as containers only; use --env docker")
}
