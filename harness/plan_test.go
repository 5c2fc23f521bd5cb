package harness

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestPhases divides a run's time without losing any of it.
func TestPhases(t *testing.T) {
	for _, total := range []time.Duration{9 * time.Second, 20 * time.Second, time.Minute, time.Hour} {
		ph, err := phases(total, true)
		require.NoError(t, err)
		require.Equal(t, total, ph.Baseline+ph.Fault+ph.Recovery)
		require.GreaterOrEqual(t, min(ph.Baseline, ph.Fault, ph.Recovery), minPhase)
		require.LessOrEqual(t, max(ph.Baseline, ph.Recovery), 20*time.Second)
		ph, err = phases(total, false)
		require.NoError(t, err)
		require.Zero(t, ph.Fault)
		require.Equal(t, total, ph.Baseline+ph.Recovery)
	}
	for _, total := range []time.Duration{0, -time.Second, 8 * time.Second, 25 * time.Hour} {
		_, err := phases(total, true)
		require.Error(t, err)
	}
}

// TestCommandRunsThePlan: the printed command line names whatever differs from the defaults.
func TestCommandRunsThePlan(t *testing.T) {
	p := simPlan("partition:ring,kill")
	p.Nodes, p.Time, p.Seed, p.Expect, p.Targets = 5, 45*time.Second, 9, "declared", ""
	p.Options["acks"] = "1"
	p, err := p.Resolve()
	require.NoError(t, err)
	require.Equal(t, "faultline run --system reference --scheme isr --workload log --faults partition:ring,kill --env sim --nodes 5 --clients 5"+
		" --time 45s --rate 200 --seed 9 --expect declared --set acks=1", p.Command())
	none := simPlan("")
	require.Contains(t, none.Command(), " --faults none ")
	periodic := simPlan("kill")
	periodic.Time, periodic.Schedule, periodic.Interval = 3*time.Minute, "periodic", 20*time.Second
	periodic, err = periodic.Resolve()
	require.NoError(t, err)
	require.Contains(t, periodic.Command(), " --schedule periodic --interval 20s ")
	require.Len(t, periodic.Steps, 7) // of 140 s
	for i, s := range periodic.Steps {
		require.Equal(t, periodic.Steps[0].At+time.Duration(i)*20*time.Second, s.At)
	}
	periodic.Schedule = "lunar"
	_, err = periodic.Resolve()
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, `unknown schedule "lunar"; known: random, periodic`)
	none.Targets = "leader"
	require.Contains(t, none.Command(), " --targets leader ")
}

// TestScheduleKeepsItsDistance: every drawn fault lasts at least three detection
// times, none overlaps another, and all are over when the fault phase is.
func TestScheduleKeepsItsDistance(t *testing.T) {
	for seed := range uint64(50) {
		p := simPlan("partition,kill,pause,power,stop")
		p.Time, p.Seed = 2*time.Minute, seed
		p, err := p.Resolve()
		require.NoError(t, err)
		isolated := false
		last := time.Duration(0)
		for _, s := range p.Steps {
			require.GreaterOrEqual(t, s.Until-s.At, 9*time.Second)
			require.GreaterOrEqual(t, s.At, last)
			last = s.Until
			isolated = isolated || s.Name() == "partition:isolate-leader"
		}
		require.LessOrEqual(t, last, p.Phases.Fault)
		require.True(t, isolated, "partition without a shape isolates a leader")
	}
}

// What a plan file does not say is the default, but steps stand for themselves.
func TestFaultsOfAPlanFile(t *testing.T) {
	for text, want := range map[string][]string{
		"version: 1\n":                 {"partition"},
		"version: 1\nfaults: []\n":     {},
		"version: 1\nfaults: [kill]\n": {"kill"},
		"version: 1\nsteps: [{id: 0, fault: kill, targets: n1, at: 1s, until: 9s}]\n": nil,
	} {
		p, err := ParsePlan([]byte(text), "plan")
		require.NoError(t, err)
		require.Equal(t, want, p.Faults, text)
	}
}

// Clients that are placed are at nodes of the plan, and late ones come during its faults.
func TestPlacedAndLateClients(t *testing.T) {
	const steps = "version: 1\nenvironment: sim\nphases: {baseline: 4s, fault: 14s, recovery: 8s}\nsteps: [{id: 0, fault: kill, targets: n1, at: 1s, until: 9s}]\n"
	for text, want := range map[string]string{
		"senders: [n1]\nreaders: [n2, n3]\nlate: 3s\n": "",
		"senders: [n4]\n":    `senders and readers: "n4" is none of n1, n2, n3`,
		"readers: [n1, 2]\n": `senders and readers: "2" is none of n1, n2, n3`,
		"late: -1s\n":        "clients that come -1s late",
		"late: 1h\n":         "less than a fault phase of 14s with faults",
		"late: 1s\nscript: {clients: [{name: a, role: producer}]}\n": "those of a script say themselves",
	} {
		p, err := ParsePlan([]byte(steps+text), "plan")
		require.NoError(t, err)
		p, err = p.Resolve()
		if want != "" {
			require.ErrorIs(t, err, ErrBadPlan, text)
			require.ErrorContains(t, err, want)
			continue
		}
		require.NoError(t, err)
		h, err := Header(p, "r", time.Time{})
		require.NoError(t, err)
		var names []string
		for _, c := range h.Clients {
			require.True(t, c.Loyal)
			names = append(names, c.Pinned)
		}
		require.Equal(t, []string{"n1", "n1", "n1", "n1", "n1", "n2", "n3"}, names)
	}
}
