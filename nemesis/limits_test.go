package nemesis

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// wLimits are the limits of a node's process in memory. A process takes a tenth
// of a processor's time, and wants memory when it is pressed only.
type wLimits struct {
	processors float64       // 0: all
	since      time.Duration // of that
	waited     uint64        // before that
	memory     int64         // 0: all
	hits       uint64
}

func (w *world) limit(n string) *wLimits {
	if w.limits[n] == nil {
		w.limits[n] = &wLimits{}
	}
	return w.limits[n]
}

func (l *wLimits) waits(now time.Duration) uint64 {
	if l.processors == 0 || l.processors >= 0.1 {
		return l.waited
	}
	return l.waited + uint64((now-l.since)/(100*time.Millisecond))
}

func (w wMachines) Use(_ context.Context, n string) (Use, error) {
	if !w.procs[n].Running {
		return Use{}, fmt.Errorf("%s does not run", n)
	}
	l := w.limit(n)
	u := Use{Period: 100 * time.Millisecond, Quota: -1, CPU: w.now / 10, Limit: -1, Memory: 30 * mib, Resident: 20 * mib, Hits: l.hits}
	u.Throttled = l.waits(w.now)
	u.ThrottledFor = time.Duration(u.Throttled) * time.Millisecond
	if l.processors > 0 {
		u.Quota = time.Duration(l.processors * float64(u.Period))
	}
	if l.memory > 0 {
		u.Limit, u.Memory = l.memory, l.memory
	}
	return u, w.fail["use"]
}

func (w wMachines) setCPU(n string, processors float64) {
	l := w.limit(n)
	l.waited, l.since, l.processors = l.waits(w.now), w.now, processors
}

func (w wMachines) LimitCPU(_ context.Context, n string, processors float64) error {
	if !w.stubs[n] {
		w.setCPU(n, processors)
	}
	return w.fail["spoil "+n]
}

func (w wMachines) FreeCPU(_ context.Context, n string) error {
	if !w.stuck {
		w.setCPU(n, 0)
	}
	return nil
}

func (w wMachines) LimitMemory(_ context.Context, n string, bytes int64) error {
	if !w.stubs[n] {
		w.limit(n).memory = bytes
	}
	return w.fail["spoil "+n]
}

func (w wMachines) FreeMemory(_ context.Context, n string) error {
	if !w.stuck {
		w.limit(n).memory = 0
	}
	return nil
}

func (w wMachines) Press(_ context.Context, n string, bytes int64) error {
	if !w.procs[n].Running {
		return fmt.Errorf("%s does not run", n)
	}
	if l := w.limit(n); l.memory > 0 && 20*mib+bytes > l.memory {
		l.hits++
	}
	return w.fail["press"]
}

func TestSabotagedLimitsAreNotProven(t *testing.T) {
	at := func(do func(w *world)) func(*world) {
		return func(w *world) { w.at(15*time.Second, func() { do(w) }) }
	}
	for _, c := range []struct {
		name, fault, targets string
		sabotage             func(w *world)
		say                  string
	}{
		{"no effect", "cpu", "n1", func(w *world) { w.stubs["n1"] = true }, "cpu had no effect within 5s: n1 has all processor time, as before"},
		{"one of two", "cpu", "n1,n2", func(w *world) { w.stubs["n2"] = true }, "n2 has all processor time, as before"},
		{"over at half time", "cpu", "n1", at(func(w *world) { w.limit("n1").processors = 0 }), "n1 has all processor time, as before"},
		{"enough for it", "cpu", "n1", at(func(w *world) { wMachines{w}.setCPU("n1", 0.5) }), "n1 has 50ms of processor time in 100ms; it waited in"},
		{"never healed", "cpu", "n1", func(w *world) { w.stuck = true }, "was not healed: n1 has"},
		{"dead before", "cpu", "n1", func(w *world) { w.die("n1", 1) }, "was not injected: n1 was dead"},
		{"dead at half time", "cpu", "n1", at(func(w *world) { w.die("n1", 3) }), "cannot be proven: n1 is dead with exit code 3"},
		{"started by something", "cpu", "n1", at(func(w *world) { w.procs["n1"] = w.incarnation() }), "cannot be proven: n1 is running"},

		{"no effect", "memory", "n1", func(w *world) { w.stubs["n1"] = true }, "memory had no effect: n1 has all memory, not"},
		{"one of two", "memory", "n1,n2", func(w *world) { w.stubs["n2"] = true }, "n2 has all memory, not"},
		{"over at half time", "memory", "n1", at(func(w *world) { w.limit("n1").memory = 0 }), "n1 has all memory, not"},
		{"another limit", "memory", "n1", at(func(w *world) { w.limit("n1").memory = 500 * mib }), "n1 has a limit of 524288000 bytes, not"},
		{"never healed", "memory", "n1", func(w *world) { w.stuck = true }, "was not healed: n1 has a limit of"},
		{"dead at half time", "memory", "n1", at(func(w *world) { w.die("n1", 3) }), "cannot be proven: n1 is dead with exit code 3"},
	} {
		t.Run(c.fault+", "+c.name, func(t *testing.T) {
			s := step(c.fault, "", c.targets)
			s.Until = 30 * time.Second
			w := newWorld(3)
			c.sabotage(w)
			require.NoError(t, Run(t.Context(), []Step{s}, w.target(), w, Limits{}))
			require.Contains(t, w.why(0), c.say)
			require.Len(t, MissingProofs([]Step{s}, w.events), 1)
			for n, p := range w.procs {
				require.True(t, p.Running || c.name == "dead before", "%s left dead", n)
			}
		})
	}
}

// A process that is killed for want of memory is under the fault, and is started again.
func TestKilledForWantOfMemory(t *testing.T) {
	s := step("memory", "", "n1,n2")
	s.Until = 30 * time.Second
	w := newWorld(3)
	w.at(15*time.Second, func() {
		w.procs["n2"] = ProcessState{Started: w.procs["n2"].Started, ExitCode: 137, OutOfMemory: true}
	})
	w.run(t, s)
	require.Equal(t, whole, w.stages(0), w.why(0))
	require.Contains(t, w.events[3].Detail, "1 were killed for want of memory")
	require.Contains(t, w.events[3].Proof["n2"], "killed for want of memory")
	w.requireClean(t)
}

// What processes get is less than they take.
func TestLimitsAreRelative(t *testing.T) {
	for seed := range uint64(6) {
		s := step("cpu", "", "n1")
		s.Until, s.Seed = 10*time.Second, seed
		w := newWorld(3)
		w.at(2*time.Second, func() { require.Less(t, w.limit("n1").processors, 0.06) })
		w.run(t, s)
		require.Equal(t, whole, w.stages(0), w.why(0))
		require.NotEmpty(t, w.events[2].Proof["n1"])
		require.Equal(t, history.Proven, w.events[2].Stage)
	}
}
