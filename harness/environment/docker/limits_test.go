package docker

import (
	"fmt"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// limitSteps are all faults that limit processes, with what their seeds draw.
func limitSteps(targets string) []nemesis.Step {
	var steps []nemesis.Step
	for _, fault := range []string{"cpu", "memory"} {
		for seed := range uint64(3) {
			steps = append(steps, nemesis.Step{ID: len(steps), Fault: fault, Targets: targets, Until: time.Second, Seed: seed})
		}
	}
	return steps
}

func limitsUp(t *testing.T, sabotage sidecar.Sabotage) *cluster {
	t.Helper()
	cfg := testConfig(2)
	cfg.Limits, cfg.Sabotage, cfg.SabotageNode = true, sabotage, "n2"
	c := up(t, cfg)
	for _, n := range c.Nodes() {
		c.eventuallyAnswers(n, cfg.Ports.Client)
	}
	return c
}

// TestLimitFaults leads one cluster through every fault that limits processes.
func TestLimitFaults(t *testing.T) {
	cli := needDocker(t)
	c := limitsUp(t, sidecar.NoSabotage)
	whole := []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed}
	use := func(node string) nemesis.Use {
		u, err := c.Machines().Limiter.Use(t.Context(), node)
		require.NoError(t, err)
		return u
	}
	unlimited := func(node string) {
		u := use(node)
		require.Negative(t, u.Quota)
		require.Equal(t, cpuPeriod, u.Period)
		require.Negative(t, u.Limit)
	}
	for _, s := range limitSteps("n1,n2") {
		t.Run(fmt.Sprintf("%s, seed %d", s.Name(), s.Seed), func(t *testing.T) {
			rec := c.live(t, s)
			got, why := rec.reached()
			require.Equal(t, whole, got, why)
			rec.log(t)
			for _, n := range c.Nodes() {
				unlimited(n)
				c.eventuallyAnswers(n, c.cfg.Ports.Client)
			}
		})
	}

	t.Run("limits that were there before are there after it", func(t *testing.T) {
		n, err := c.node("n1")
		require.NoError(t, err)
		require.NoError(t, c.update(t.Context(), n.container(), cpuResources(0.9)))
		require.NoError(t, c.update(t.Context(), n.container(), memoryResources(300<<20, container.Resources{})))
		before := use("n1")
		require.EqualValues(t, 300<<20, before.Limit)
		require.Equal(t, 90*time.Millisecond, before.Quota)
		for _, s := range limitSteps("n1") {
			if s.Seed > 0 {
				continue
			}
			got, why := c.live(t, s).reached()
			require.Equal(t, whole, got, why)
			after := use("n1")
			require.Equal(t, before.Limit, after.Limit)
			require.Equal(t, before.Quota, after.Quota)
			require.Equal(t, before.Period, after.Period)
		}
		for _, r := range []container.Resources{unlimitedCPU(container.Resources{}), unlimitedMemory(container.Resources{})} {
			require.NoError(t, c.update(t.Context(), n.container(), r))
		}
	})

	t.Run("what is limited no more at half time is not proven", func(t *testing.T) {
		n, err := c.node("n2")
		require.NoError(t, err)
		for _, s := range limitSteps("n2") {
			if s.Seed > 0 {
				continue
			}
			rec := &stages{}
			l, err := nemesis.NewLife(s, c.target(), rec, nemesis.Limits{Proof: 2 * time.Second})
			require.NoError(t, err)
			require.NoError(t, l.Inject(t.Context()))
			for _, r := range []*container.Resources{n.restore.cpu, n.restore.memory} {
				if r != nil {
					require.NoError(t, c.update(t.Context(), n.container(), *r))
				}
			}
			require.NoError(t, l.Confirm(t.Context()))
			require.NoError(t, l.Heal(t.Context()))
			got, why := rec.reached()
			require.Equal(t, []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.Unproven, history.Healing, history.Healed}, got, why)
			require.Contains(t, why, s.Fault+" had no effect")
		}
	})

	t.Run("a process that is killed for want of memory is started again", func(t *testing.T) {
		s := nemesis.Step{Fault: "memory", Targets: "n2", Until: time.Second}
		rec := &stages{}
		l, err := nemesis.NewLife(s, c.target(), rec, nemesis.Limits{})
		require.NoError(t, err)
		require.NoError(t, l.Inject(t.Context()))
		n, err := c.node("n2")
		require.NoError(t, err)
		require.NoError(t, cli.ContainerKill(t.Context(), n.container(), "SIGUSR1"))
		require.Eventually(t, func() bool {
			st, err := c.Processes().State(t.Context(), "n2")
			require.NoError(t, err)
			return !st.Running && st.OutOfMemory
		}, 30*time.Second, 20*time.Millisecond)
		require.NoError(t, l.Confirm(t.Context()))
		require.NoError(t, l.Heal(t.Context()))
		got, why := rec.reached()
		require.Equal(t, whole, got, why)
		require.Contains(t, rec.faults[3].Detail, "1 were killed for want of memory")
		unlimited("n2")
		c.eventuallyAnswers("n2", c.cfg.Ports.Client)
	})

	require.NoError(t, c.Down(t.Context()))
	requireNothing(t, cli, c.cfg.RunID)
}

// log says what was seen and how long it took.
func (s *stages) log(t *testing.T) {
	t.Helper()
	at := map[history.FaultStage]int64{}
	for _, f := range s.faults {
		at[f.Stage] = f.At
		if f.Detail != "" {
			t.Logf("%s: %s %v", f.Stage, f.Detail, f.Proof)
		}
	}
	t.Logf("%s: injected in %v, proven in %v, healed in %v", s.faults[0].Name, time.Duration(at[history.Injected]-at[history.Injecting]),
		time.Duration(at[history.Proven]-at[history.Injected]), time.Duration(at[history.Healed]-at[history.Healing]))
}

// TestLimitFaultsStubbed: where one of two targets is not limited, no fault is proven.
func TestLimitFaultsStubbed(t *testing.T) {
	needDocker(t)
	needAll(t)
	c := limitsUp(t, sidecar.Stubbed)
	for _, s := range limitSteps("n1,n2") {
		if s.Seed > 0 {
			continue
		}
		t.Run(s.Name(), func(t *testing.T) {
			_, why := c.live(t, s).reached()
			require.Contains(t, why, s.Name()+" had no effect")
			require.Contains(t, why, "n2")
		})
	}
}
