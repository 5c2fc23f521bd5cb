package harness

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
)

// BenchmarkSimulate runs and judges whole runs of 90 s with every kind of fault.
// sim-s/s is simulated seconds per second.
func BenchmarkSimulate(b *testing.B) {
	p := simPlan("partition,kill,pause,power")
	p.Time = 90 * time.Second
	p, err := p.Resolve()
	require.NoError(b, err)
	var simulated time.Duration
	for b.Loop() {
		res, _, ex, err := Simulate(b.Context(), p)
		require.NoError(b, err)
		require.Equal(b, checker.Valid, res.Verdict, res.Sentence)
		simulated += ex.Duration
	}
	b.ReportMetric(simulated.Seconds()/b.Elapsed().Seconds(), "sim-s/s")
}
