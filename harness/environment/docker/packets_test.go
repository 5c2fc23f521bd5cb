package docker

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// packetSteps are all faults on packets and connections, with what their seeds draw.
func packetSteps(targets string) []nemesis.Step {
	var steps []nemesis.Step
	for _, fault := range []string{"delay", "loss", "duplicate", "reorder", "corrupt-packets", "rate", "reset", "half-open"} {
		seeds := uint64(3)
		if fault == "reset" || fault == "half-open" {
			seeds = 1 // nothing is drawn
		}
		for seed := range seeds {
			steps = append(steps, nemesis.Step{ID: len(steps), Fault: fault, Targets: targets, Until: time.Second, Seed: seed})
		}
	}
	return steps
}

func packetsUp(t *testing.T, nodes int, sabotage sidecar.Sabotage) *cluster {
	t.Helper()
	cfg := testConfig(nodes)
	cfg.Sabotage, cfg.SabotageNode = sabotage, "n2"
	c := up(t, cfg)
	for _, n := range c.Nodes() {
		c.eventuallyAnswers(n, cfg.Ports.Client)
	}
	return c
}

// TestPacketFaults leads one cluster through every fault on packets and
// connections.
func TestPacketFaults(t *testing.T) {
	needDocker(t)
	needAll(t)
	c := packetsUp(t, 3, sidecar.NoSabotage)
	for _, s := range packetSteps("n2") {
		t.Run(fmt.Sprintf("%s, seed %d", s.Name(), s.Seed), func(t *testing.T) {
			rec := c.live(t, s)
			got, why := rec.reached()
			require.Equal(t, []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.StillProven, history.Healing, history.Healed}, got, why)
			c.eventuallyAnswers("n2", c.cfg.Ports.Client)
		})
	}
}

// TestPacketFaultsStubbed: where one of two targets lets everything through, no
// fault is proven.
func TestPacketFaultsStubbed(t *testing.T) {
	needDocker(t)
	needAll(t)
	c := packetsUp(t, 2, sidecar.Stubbed)
	for _, s := range packetSteps("n1,n2") {
		if s.Seed > 0 {
			continue
		}
		t.Run(s.Name(), func(t *testing.T) {
			_, why := c.live(t, s).reached()
			require.Contains(t, why, s.Name()+" had no effect", "%s", s.Name())
			require.Contains(t, why, "n2")
		})
	}
}

// TestPacketFaultsEndEarly: what is healed at half time is not proven at the end.
func TestPacketFaultsEndEarly(t *testing.T) {
	needDocker(t)
	needAll(t)
	const half = 6 * time.Second
	c := packetsUp(t, 2, sidecar.HalfTime(half))
	for _, s := range packetSteps("n2") {
		if s.Seed > 0 {
			continue
		}
		t.Run(s.Name(), func(t *testing.T) {
			rec := &stages{}
			l, err := nemesis.NewLife(s, c.target(), rec, nemesis.Limits{})
			require.NoError(t, err)
			begin := c.Runtime().Now()
			require.NoError(t, l.Inject(t.Context()))
			require.NoError(t, c.Runtime().Sleep(t.Context(), begin+2*half-c.Runtime().Now()))
			require.NoError(t, l.Confirm(t.Context()))
			require.NoError(t, l.Heal(t.Context()))
			got, why := rec.reached()
			require.Equal(t, []history.FaultStage{history.Injecting, history.Injected, history.Proven, history.Unproven, history.Healing, history.Healed}, got, why)
			require.Contains(t, why, "had no effect")
		})
	}
}
