package harness

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// diskNetworkClockFaults are the faults of machines, each by itself.
var diskNetworkClockFaults = []string{
	"wipe", "disk-full", "disk-error", "disk-slow", "corrupt-file:bit-flip", "corrupt-file:truncate", "corrupt-file:stale-restore",
	"clock:jump", "clock:drift", "clock:strobe", "delay", "loss", "duplicate", "reorder", "corrupt-packets", "rate", "reset", "half-open",
	"rolling-restart",
	"membership:add", "membership:remove", "membership:replace", "leadership:transfer", "leadership:flap",
}

// TestMachineFaultsAreSurvived runs the defaults under each fault of disks, files,
// clocks, packets, members and leaders: what was acknowledged must be there, and every fault proven.
func TestMachineFaultsAreSurvived(t *testing.T) {
	plainly(t)
	t.Parallel()
	for _, fault := range diskNetworkClockFaults {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seedsOf(3)) {
				p := simPlan(fault)
				p.Time, p.Seed = simPlan("").Time*2, 300+seed
				j := simulated(t, p)
				require.Empty(t, j.WhyInconclusive, "seed %d: %s", p.Seed, j.why())
				j.requireValid(t)
				j.requireProven(t)
				for _, f := range j.history.Faults {
					if f.Stage == history.Proven {
						require.NotEmpty(t, f.Proof)
						require.True(t, strings.HasPrefix(f.Name, fault))
					}
				}
			}
		})
	}
}
