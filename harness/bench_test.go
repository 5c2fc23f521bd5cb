//go:build unix

package harness

import (
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
)

// processTime is the CPU time that this process has spent, in user and system mode.
func processTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSimulate carries out trials as a worker of a hunt does, on one core:
// four seeds of 90 s with three nodes, 200 sends a second and every kind of
// fault. sim-s/cpu-s is simulated seconds per second of CPU time, checks and
// garbage collection included; sim-ms/sim-s and check-ms/sim-s are CPU time per
// simulated second for the simulation and for all that is done with its history;
// B/sim-s is what both allocate.
func BenchmarkSimulate(b *testing.B) {
	tuneWorker()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var simulated, simulating, checking time.Duration
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for b.Loop() {
		for seed := range uint64(4) {
			begin := processTime(b)
			p := simPlan("partition,kill,pause,power")
			p.Time, p.Seed = 90*time.Second, seed+1
			p, err := p.Resolve()
			require.NoError(b, err)
			h, ex, err := record(b.Context(), p)
			require.NoError(b, err)
			recorded := processTime(b)
			res, err := judgeInMemory(b.Context(), h, ex)
			require.NoError(b, err)
			t := Trial{Seed: p.Seed}
			t.summarize(res, h, ex)
			require.Equal(b, checker.Valid, t.Verdict, t.Sentence)
			simulated += t.Virtual
			simulating += recorded - begin
			checking += processTime(b) - recorded
		}
	}
	runtime.ReadMemStats(&after)
	perSecond := func(d time.Duration) float64 { return 1000 * d.Seconds() / simulated.Seconds() }
	b.ReportMetric(simulated.Seconds()/(simulating+checking).Seconds(), "sim-s/cpu-s")
	b.ReportMetric(perSecond(simulating), "sim-ms/sim-s")
	b.ReportMetric(perSecond(checking), "check-ms/sim-s")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/simulated.Seconds(), "B/sim-s")
}
