package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// hardware is what a world has beside links and processes. A stub is a node that
// an injection does not reach.
type hardware struct {
	lockFiles wLocks
	logs      map[string][]byte // a node's one file
	copies    map[string][]byte
	founds    map[string]int64 // what it reported at its start
	mute      map[string]bool  // nodes that report nothing
	disks     map[string]error
	slow      map[string]float64
	sync      time.Duration // of a disk that is not slow
	coarse    float64       // what slows disks slows them so many times too much
	clocks    map[string]wClock
	shapes    map[string][]Shaping
	hits      uint64
	idle      bool // the system sends nothing
	rejects   map[string]string
	mutes     map[string]string // connections that are silenced
	resets    uint64

	limits   map[string]*wLimits
	versions map[string]string // of nodes; "": their own

	stubs   map[string]bool // nodes
	oneWay  bool            // shapes work towards targets only
	allLost bool
	stuck   bool // nothing is healed
	// starting is called before a node starts.
	starting   func()
	wipesFiles bool // a wipe takes canaries along
}

type wClock struct {
	since  time.Duration
	offset time.Duration
	rate   float64
	period time.Duration // of a strobe
}

func newHardware() hardware {
	return hardware{
		logs: map[string][]byte{}, copies: map[string][]byte{}, founds: map[string]int64{}, mute: map[string]bool{}, disks: map[string]error{}, slow: map[string]float64{},
		clocks: map[string]wClock{}, shapes: map[string][]Shaping{}, rejects: map[string]string{}, mutes: map[string]string{}, stubs: map[string]bool{}, limits: map[string]*wLimits{}, versions: map[string]string{},
		sync: time.Millisecond, coarse: 1,
	}
}

func (w *world) machines() Machines {
	d := wMachines{w}
	return Machines{FullDisks: wFull{d}, BadDisks: d, SlowDisks: d, LostDisks: d, Files: d, Clocks: d, Shaper: d, Resetter: d, NewNodes: d, Limiter: d, Upgrader: d, Locks: &w.lockFiles, Shell: &w.shell}
}

type wMachines struct{ *world }

type wFull struct{ wMachines }

func (w wMachines) spoil(n string, err error) error {
	if !w.stubs[n] {
		w.disks[n] = err
	}
	return w.fail["spoil "+n]
}

func (w wMachines) restore(n string) error {
	if !w.stuck {
		delete(w.disks, n)
	}
	return nil
}

func (w wFull) Fill(_ context.Context, n string) error      { return w.spoil(n, syscall.ENOSPC) }
func (w wFull) Free(_ context.Context, n string) error      { return w.restore(n) }
func (w wMachines) Break(_ context.Context, n string) error { return w.spoil(n, syscall.EIO) }
func (w wMachines) Mend(_ context.Context, n string) error  { return w.restore(n) }

func (w wMachines) Probe(_ context.Context, n string) (DiskProbe, error) {
	p := DiskProbe{Sync: w.sync, Err: w.disks[n]}
	if f := w.slow[n]; f > 0 {
		p.Sync = time.Duration(f * float64(p.Sync))
	}
	return p, w.fail["probe"]
}

func (w wMachines) Slow(_ context.Context, n string, factor float64) error {
	if !w.stubs[n] {
		w.slow[n] = factor * w.coarse
	}
	return w.fail["spoil "+n]
}

func (w wMachines) Quicken(_ context.Context, n string) error {
	if !w.stuck {
		delete(w.slow, n)
	}
	return nil
}

func (w wMachines) Wipe(_ context.Context, n string) error {
	if w.procs[n].Running {
		return fmt.Errorf("%s runs", n)
	}
	if !w.stubs[n] {
		w.logs[n] = nil
	}
	if w.wipesFiles {
		clear(w.files[n])
	}
	return w.fail["spoil "+n]
}

func (w wMachines) Stored(_ context.Context, n string) (int64, error) {
	return int64(len(w.logs[n])), nil
}

func (w wMachines) Found(_ context.Context, n string) (int64, bool, error) {
	return w.founds[n], !w.world.hardware.mute[n], nil
}

func (w wMachines) Files(_ context.Context, n string) ([]StoredFile, error) {
	return []StoredFile{{"empty", 0}, {"log", int64(len(w.logs[n]))}}, nil
}

func (w wMachines) Flip(_ context.Context, n, _ string, offset int64, bit uint) error {
	if !w.stubs[n] {
		w.logs[n] = slices.Clone(w.logs[n])
		w.logs[n][offset] ^= 1 << bit
	}
	return w.fail["spoil "+n]
}

func (w wMachines) Cut(_ context.Context, n, _ string, size int64) error {
	if !w.stubs[n] {
		w.logs[n] = w.logs[n][:size]
	}
	return w.fail["spoil "+n]
}

func (w wMachines) Digest(_ context.Context, n, _ string, upTo int64) (string, error) {
	if w.logs[n] == nil {
		return "", nil
	}
	return fmt.Sprintf("digest %x", w.logs[n][:min(upTo, int64(len(w.logs[n])))]), nil
}

func (w wMachines) Copy(_ context.Context, n string) error {
	w.copies[n] = w.logs[n]
	w.logs[n] = append(slices.Clone(w.logs[n]), "new"...) // it goes on
	return nil
}

func (w wMachines) PutBack(_ context.Context, n string) error {
	if w.procs[n].Running {
		return fmt.Errorf("%s runs", n)
	}
	if !w.stubs[n] {
		w.logs[n] = w.copies[n]
	}
	return w.fail["spoil "+n]
}

func (w wMachines) DataDigest(_ context.Context, n string) (string, error) {
	return fmt.Sprintf("digest %x", w.logs[n]), nil
}

func (w wMachines) Offset(_ context.Context, n string) (time.Duration, error) {
	if w.hardware.mute[n] || !w.procs[n].Running {
		return 0, fmt.Errorf("%s does not answer", n)
	}
	c, ok := w.clocks[n]
	if !ok {
		return 0, nil
	}
	if c.period > 0 && (w.now-c.since)/c.period%2 == 1 {
		return 0, nil
	}
	return c.offset + time.Duration((c.rate-1)*float64(w.now-c.since)), nil
}

func (w wMachines) Jump(_ context.Context, n string, by time.Duration) error {
	if !w.stubs[n] {
		w.clocks[n] = wClock{w.now, by, 1, 0}
	}
	return w.fail["spoil "+n]
}

func (w wMachines) Drift(_ context.Context, n string, rate float64) error {
	if !w.stubs[n] {
		w.clocks[n] = wClock{w.now, 0, rate, 0}
	}
	return w.fail["spoil "+n]
}

func (w wMachines) Strobe(_ context.Context, n string, by, period time.Duration) error {
	if !w.stubs[n] {
		w.clocks[n] = wClock{w.now, by, 1, period}
	}
	return w.fail["spoil "+n]
}

func (w wMachines) Restore(_ context.Context, n string) error {
	if !w.stuck {
		delete(w.clocks, n)
	}
	return nil
}

func (w wMachines) Shape(_ context.Context, id string, rules []Shaping) error {
	if _, known := w.shapes[id]; known {
		return fmt.Errorf("set %s is known", id)
	}
	w.shapes[id] = rules
	return w.fail["shape"]
}

func (w wMachines) Unshape(_ context.Context, id string) error {
	if _, known := w.shapes[id]; !known {
		return fmt.Errorf("set %s is unknown", id)
	}
	if !w.stuck {
		delete(w.shapes, id)
	}
	return nil
}

func (w wMachines) Shaped(_ context.Context, id string) (map[Pair]uint64, error) {
	if !w.idle {
		w.world.hits++
	}
	return map[Pair]uint64{{"n1", "n2"}: w.world.hits}, nil
}

func (w wMachines) Echo(_ context.Context, from, to string, v Volley) (Echo, error) {
	way := func(from, to string) (sum Shaping, late time.Duration) {
		for _, set := range w.shapes {
			for _, r := range set {
				off := w.stubs[from] || w.stubs[to] || w.oneWay && from < to
				if r.From == from && r.To == to && !off {
					sum.Loss, sum.Duplicate, sum.Reorder, sum.Corrupt = sum.Loss+r.Loss, sum.Duplicate+r.Duplicate, sum.Reorder+r.Reorder, sum.Corrupt+r.Corrupt
					sum.Rate = max(sum.Rate, r.Rate)
					late += r.Delay + r.Jitter/2
				}
			}
		}
		return sum, late
	}
	carry := func(r Shaping, sent int) (arrived int, y Way) {
		of := func(share float64) int { return int(share * float64(sent)) }
		y = Way{Twice: of(r.Duplicate), Overtaken: of(r.Reorder), Damaged: of(r.Corrupt)}
		arrived = sent - of(r.Loss) - y.Damaged
		if r.Rate > 0 {
			y.Spread = time.Duration((arrived-1)*v.Size) * time.Second / time.Duration(r.Rate)
		}
		return arrived, y
	}
	there, lateThere := way(from, to)
	back, lateBack := way(to, from)
	e := Echo{Sent: v.Count}
	e.Arrived, e.There = carry(there, v.Count)
	e.Returned, e.Back = carry(back, e.Arrived)
	if w.allLost && len(w.shapes) > 0 {
		e.Arrived, e.Returned = 0, 0
	}
	e.Median = time.Millisecond + lateThere + lateBack
	return e, w.fail["echo"]
}

func (w wMachines) Reject(_ context.Context, id, n string) error {
	w.rejects[id] = n
	return w.fail["spoil "+n]
}

func (w wMachines) Silence(_ context.Context, id, n string) error {
	w.mutes[id] = n
	return w.fail["spoil "+n]
}

func (w wMachines) Accept(_ context.Context, id string) error {
	_, rejected := w.rejects[id]
	_, silenced := w.mutes[id]
	if !rejected && !silenced {
		return fmt.Errorf("rule %s is unknown", id)
	}
	if !w.stuck {
		delete(w.rejects, id)
		delete(w.mutes, id)
	}
	return nil
}

func (w wMachines) Resets(context.Context, string) (uint64, error) {
	if !w.idle {
		w.world.resets++
	}
	return w.world.resets, nil
}

func (w wMachines) Dial(_ context.Context, from, n string) (string, error) {
	hit := func(rules map[string]string) bool {
		for _, r := range rules {
			if (r == n || r == from) && !w.stubs[n] && !w.stubs[from] {
				return true
			}
		}
		return false
	}
	switch {
	case hit(w.rejects) && hit(w.mutes):
		return DialTimeout, nil
	case hit(w.rejects):
		return DialReset, nil
	case hit(w.mutes):
		return DialSilent, nil
	}
	return DialAccepted, w.fail["dial"]
}

// machineSteps is one honest step of each fault of machines.
func machineSteps(targets string) []Step {
	var steps []Step
	for _, name := range []string{
		"wipe", "disk-full", "disk-error", "disk-slow", "corrupt-file:bit-flip", "corrupt-file:truncate", "corrupt-file:stale-restore", "clock:jump", "clock:drift",
		"clock:strobe", "clock:skew", "delay", "loss", "duplicate", "reorder", "corrupt-packets", "rate", "reset", "half-open",
		"cpu", "memory", "rolling-restart", "restart:kill", "restart:power", "restart:wipe",
	} {
		k, shape, err := split(name)
		if err != nil {
			panic(err)
		}
		s := step(k.Name, shape, targets)
		s.Until = 30 * time.Second
		steps = append(steps, s)
	}
	return steps
}

func TestHonestMachineFaultsAreProven(t *testing.T) {
	for _, targets := range []string{TargetOne, "n3,n1", TargetLeader, TargetFollowers} {
		for _, s := range machineSteps(targets) {
			for seed := range uint64(6) { // what is drawn: factors, jumps, down or running
				t.Run(fmt.Sprintf("%s of %s, seed %d", s.Name(), targets, seed), func(t *testing.T) {
					s.Seed = seed
					w := newWorld(3)
					w.run(t, s)
					require.Equal(t, whole, w.stages(0), w.why(0))
					require.Empty(t, MissingProofs([]Step{s}, w.events))
					w.requireClean(t)
					for _, e := range w.events {
						require.Equal(t, s.Name(), e.Name)
						if e.Stage == history.Proven || e.Stage == history.StillProven || e.Stage == history.Healed {
							require.NotEmpty(t, e.Detail)
							require.NotEmpty(t, e.Proof)
						}
					}
				})
			}
		}
	}
}

// Processes that die of a bad disk are started again.
func TestDeadOfABadDiskAreStarted(t *testing.T) {
	for _, fault := range []string{"disk-full", "disk-error"} {
		w := newWorld(3)
		w.at(3*time.Second, func() { w.die("n2", 3) })
		w.run(t, step(fault, "", "n1,n2"))
		require.Equal(t, whole, w.stages(0), w.why(0))
		require.True(t, w.procs["n2"].Running)
		require.NotEqual(t, "s2", w.procs["n2"].Started)
		require.Equal(t, "s1", w.procs["n1"].Started, "what runs is left alone")
	}
}

// Where syncs are slow already, the factor is one that they can be slowed by; and
// a disk that was slowed by more is healed when it is fast again, not as it was.
func TestDiskSlowKeepsToWhatIsPossible(t *testing.T) {
	for seed := range uint64(6) {
		w := newWorld(3)
		w.sync, w.coarse = 40*time.Millisecond, 10
		w.at(29*time.Second, func() { w.sync = time.Second })
		s := step("disk-slow", "", "n1")
		s.Until, s.Seed = 30*time.Second, seed
		w.run(t, s)
		require.Equal(t, whole, w.stages(0), w.why(0))
		require.Contains(t, w.events[2].Proof["n1"], "40ms before; factor 25")
	}
}

func TestSabotagedMachineFaultsAreNotProven(t *testing.T) {
	stub := func(n string) func(*world) { return func(w *world) { w.stubs[n] = true } }
	half := 15 * time.Second
	at := func(do func(w *world)) func(*world) {
		return func(w *world) { w.at(half, func() { do(w) }) }
	}
	stuck := func(w *world) { w.stuck = true }
	two := "n1,n2"
	cases := []struct {
		name, fault, targets string
		sabotage             func(w *world)
		say                  string
	}{
		{"no effect", "wipe", "n1", stub("n1"), "wipe had no effect: 10 bytes of logs are on the disk of n1"},
		{"one of two", "wipe", two, stub("n2"), "10 bytes of logs are on the disk of n2"},
		{"data back at half time", "wipe", "n1", at(func(w *world) { w.logs["n1"] = []byte("back") }), "4 bytes of logs are on the disk of n1"},
		{"data back at the start", "wipe", "n1", func(w *world) { w.starting = func() { w.logs["n1"] = []byte("back") } }, "wipe had no effect: n1 found 4 records when it started"},
		{"no report", "wipe", "n1", func(w *world) { w.hardware.mute["n1"] = true }, "n1 did not report what it found"},
		{"nothing to lose", "wipe", "n1", func(w *world) { w.logs["n1"] = nil }, "was not injected: there was no data on n1"},
		{"not killed", "wipe", "n1", func(w *world) { w.procs["n1"] = ProcessState{} }, "was not injected: n1 was dead"},

		{"no effect", "disk-full", "n1", stub("n1"), "disk-full had no effect: on n1 a write succeeded"},
		{"one of two", "disk-full", two, stub("n2"), "on n2 a write succeeded"},
		{"another error", "disk-full", "n1", at(func(w *world) { w.disks["n1"] = syscall.EIO }), "on n1 a write failed: input/output error"},
		{"over at half time", "disk-full", "n1", at(func(w *world) { delete(w.disks, "n1") }), "on n1 a write succeeded"},
		{"full before", "disk-full", "n1", func(w *world) { w.disks["n1"] = syscall.ENOSPC }, "was not injected: a write on n1 failed before it"},
		{"never healed", "disk-full", "n1", stuck, "was not healed: on n1 a write failed"},
		{"no effect", "disk-error", "n1", stub("n1"), "disk-error had no effect: on n1 a write succeeded"},
		{"one of two", "disk-error", two, stub("n1"), "on n1 a write succeeded"},
		{"over at half time", "disk-error", "n1", at(func(w *world) { delete(w.disks, "n1") }), "on n1 a write succeeded"},
		{"started by something", "disk-error", "n1", at(func(w *world) { w.procs["n1"] = w.incarnation() }), "n1 was started again before it was healed"},
		{"never healed", "disk-error", "n1", stuck, "was not healed: on n1 a write failed"},
		{"crashes after healing", "disk-error", "n1", func(w *world) { w.crashes = true; w.at(half, func() { w.die("n1", 3) }) }, "was not healed within 30s: n1 is dead"},

		{"no effect", "disk-slow", "n1", stub("n1"), "disk-slow had no effect: a sync on n1 takes 1ms"},
		{"one of two", "disk-slow", two, stub("n2"), "a sync on n2 takes 1ms"},
		{"over at half time", "disk-slow", "n1", at(func(w *world) { delete(w.slow, "n1") }), "a sync on n1 takes 1ms"},
		{"never healed", "disk-slow", "n1", stuck, "was not healed: a sync on n1 still takes"},
		{"slow without it", "disk-slow", "n1", func(w *world) { w.sync = 130 * time.Millisecond }, "was not injected: syncs take too long without it: map[n1:130ms]"},
		{"disk broken meanwhile", "disk-slow", "n1", at(func(w *world) { w.disks["n1"] = syscall.EIO }), "no sync of n1 can be timed"},

		{"no effect", "corrupt-file:bit-flip", "n1", stub("n1"), "corrupt-file:bit-flip had no effect: log on n1 is as it was"},
		{"one of two", "corrupt-file:bit-flip", two, stub("n2"), "log on n2 is as it was"},
		{"undone at half time", "corrupt-file:bit-flip", "n1", at(func(w *world) { w.logs["n1"] = []byte("0123456789") }), "the damage to log on n1 is gone"},
		{"file gone", "corrupt-file:bit-flip", "n1", at(func(w *world) { w.logs["n1"] = nil }), "the damage to log on n1 is gone"},
		{"no effect", "corrupt-file:truncate", "n1", stub("n1"), "corrupt-file:truncate had no effect: log on n1 is as it was"},
		{"undone at half time", "corrupt-file:truncate", "n1", at(func(w *world) { w.logs["n1"] = []byte("0123456789") }), "the damage to log on n1 is gone"},
		{"nothing to damage", "corrupt-file:truncate", "n1", func(w *world) { w.logs["n1"] = nil }, "n1 has stored no records"},
		{"started by something", "corrupt-file:truncate", "n1", at(func(w *world) { w.procs["n1"] = w.incarnation() }), "n1 was started before it was healed"},
		{"old incarnation", "corrupt-file:truncate", "n1", func(w *world) { w.startNoop = true }, "n1 was not restarted"},

		{"no effect", "corrupt-file:stale-restore", "n1", stub("n1"), "corrupt-file:stale-restore had no effect: its disk on n1 is as it was"},
		{"one of two", "corrupt-file:stale-restore", two, stub("n2"), "its disk on n2 is as it was"},
		{"undone at half time", "corrupt-file:stale-restore", "n1", at(func(w *world) { w.logs["n1"] = []byte("0123456789new") }), "the damage to its disk on n1 is gone"},
		{"started by something", "corrupt-file:stale-restore", "n1", at(func(w *world) { w.procs["n1"] = w.incarnation() }), "n1 was started before it was healed"},

		{"no effect", "clock:strobe", "n1", stub("n1"), "clock:strobe had no effect: the clock of n1 changed 0 times"},
		{"one of two", "clock:strobe", two, stub("n2"), "the clock of n2 changed 0 times"},
		{"a jump instead", "clock:strobe", "n1", at(func(w *world) { c := w.clocks["n1"]; c.period = 0; w.clocks["n1"] = c }), "the clock of n1 changed 0 times"},
		{"another time", "clock:strobe", "n1", at(func(w *world) { c := w.clocks["n1"]; c.offset += 10 * time.Minute; w.clocks["n1"] = c }), "cannot be proven: the clock of n1 is wrong by"},
		{"never healed", "clock:strobe", "n1", stuck, "was not healed: the clock of n1 is wrong again and again"},

		{"not told", "clock:strobe", "n1", at(func(w *world) { w.hardware.mute["n1"] = true }), "clock:strobe cannot be proven: n1 did not tell its clock within 30s: n1 does not answer"},

		{"no effect", "clock:jump", "n1", stub("n1"), "clock:jump had no effect: the clock of n1 is wrong by 0s"},
		{"not told before", "clock:jump", "n1", func(w *world) { w.hardware.mute["n1"] = true }, "clock:jump cannot be proven: n1 did not tell its clock within 30s: n1 does not answer"},
		{"dead", "clock:drift", two, at(func(w *world) { w.die("n2", 1) }), "clock:drift cannot be proven: n2 did not tell its clock within 30s: n2 does not answer"},
		{"one of two", "clock:jump", two, stub("n2"), "the clock of n2 is wrong by 0s"},
		{"over at half time", "clock:jump", "n1", at(func(w *world) { delete(w.clocks, "n1") }), "the clock of n1 is wrong by 0s"},
		{"wrong before", "clock:jump", "n1", func(w *world) { w.clocks["n1"] = wClock{0, time.Second, 1, 0} }, "was wrong by 1s before it"},
		{"never healed", "clock:jump", "n1", stuck, "was not healed: the clock of n1"},
		{"no effect", "clock:drift", "n1", stub("n1"), "clock:drift had no effect: the clock of n1 is wrong by 0s"},
		{"over at half time", "clock:drift", "n1", at(func(w *world) {
			c := w.clocks["n1"]
			w.clocks["n1"] = wClock{w.now, time.Duration((c.rate - 1) * float64(w.now-c.since)), 1, 0}
		}), "clock:drift had no effect: the clock of n1"},
		{"never healed", "clock:drift", "n1", stuck, "was not healed: the clock of n1"},

		{"no effect", "delay", "n1", stub("n1"), "delay had no effect: between n1 and n2 a round trip takes 1ms"},
		{"one link only", "delay", "n1", stub("n3"), "between n1 and n3 a round trip takes 1ms"},
		{"one direction only", "delay", "n1", func(w *world) { w.oneWay = true }, "between n1 and n2 a round trip takes"},
		{"over at half time", "delay", "n1", at(func(w *world) { w.shapes["fault-0"] = nil }), "between n1 and n2 a round trip takes 1ms"},
		{"all lost", "delay", "n1", func(w *world) { w.allLost = true }, "no datagram came back"},
		{"no traffic of the system", "delay", "n1", func(w *world) { w.idle = true }, "met no packet of the system"},
		{"counters reset", "delay", "n1", at(func(w *world) { w.hits = 0; w.idle = true }), "its counters went back"},
		{"never healed", "delay", "n1", stuck, "was not healed: between n1 and n2"},
		{"no effect", "loss", "n1", stub("n1"), "loss had no effect: between n1 and n2 0 of 200 datagrams"},
		{"one link only", "loss", "n1", stub("n3"), "between n1 and n3 0 of 200 datagrams"},
		{"one direction only", "loss", "n1", func(w *world) { w.oneWay = true }, "between n1 and n2 0 of 200 datagrams were lost on the way there"},
		{"over at half time", "loss", "n1", at(func(w *world) { w.shapes["fault-0"] = nil }), "0 of 200 datagrams"},
		{"all lost", "loss", "n1", func(w *world) { w.allLost = true }, "no datagram came back"},
		{"no traffic of the system", "loss", "n1", func(w *world) { w.idle = true }, "met no packet of the system"},
		{"never healed", "loss", "n1", stuck, "was not healed: between n1 and n2"},

		{"no effect", "duplicate", "n1", stub("n1"), "duplicate had no effect: between n1 and n2 0 of 200 datagrams came twice on the way there, 0 of 200 on the way back"},
		{"one link only", "duplicate", "n1", stub("n3"), "between n1 and n3 0 of 200 datagrams came twice"},
		{"one of two", "duplicate", two, func(w *world) { w.oneWay = true }, "between n1 and n2 0 of 200 datagrams came twice"},
		{"one direction only", "duplicate", "n2", func(w *world) { w.oneWay = true }, "0 of 200 datagrams came twice on the way there"},
		{"over at half time", "duplicate", "n1", at(func(w *world) { w.shapes["fault-0"] = nil }), "0 of 200 datagrams came twice"},
		{"all lost", "duplicate", "n1", func(w *world) { w.allLost = true }, "no datagram came back"},
		{"no traffic of the system", "duplicate", "n1", func(w *world) { w.idle = true }, "met no packet of the system"},
		{"never healed", "duplicate", "n1", stuck, "was not healed: between n1 and n2"},
		{"no effect", "reorder", "n1", stub("n1"), "reorder had no effect: between n1 and n2 0 of 200 datagrams were overtaken on the way there, 0 of 200 on the way back"},
		{"one link only", "reorder", "n1", stub("n3"), "between n1 and n3 0 of 200 datagrams were overtaken"},
		{"one of two", "reorder", two, func(w *world) { w.oneWay = true }, "between n1 and n2 0 of 200 datagrams were overtaken"},
		{"one direction only", "reorder", "n2", func(w *world) { w.oneWay = true }, "0 of 200 datagrams were overtaken on the way there"},
		{"over at half time", "reorder", "n1", at(func(w *world) { w.shapes["fault-0"] = nil }), "0 of 200 datagrams were overtaken"},
		{"all lost", "reorder", "n1", func(w *world) { w.allLost = true }, "no datagram came back"},
		{"no traffic of the system", "reorder", "n1", func(w *world) { w.idle = true }, "met no packet of the system"},
		{"never healed", "reorder", "n1", stuck, "was not healed: between n1 and n2"},
		{"no effect", "corrupt-packets", "n1", stub("n1"), "corrupt-packets had no effect: between n1 and n2 0 of 200 datagrams were damaged on the way there, 0 of 200 on the way back"},
		{"one link only", "corrupt-packets", "n1", stub("n3"), "between n1 and n3 0 of 200 datagrams were damaged"},
		{"one of two", "corrupt-packets", two, func(w *world) { w.oneWay = true }, "between n1 and n2 0 of 200 datagrams were damaged"},
		{"one direction only", "corrupt-packets", "n2", func(w *world) { w.oneWay = true }, "0 of 200 datagrams were damaged on the way there"},
		{"over at half time", "corrupt-packets", "n1", at(func(w *world) { w.shapes["fault-0"] = nil }), "0 of 200 datagrams were damaged"},
		{"all lost", "corrupt-packets", "n1", func(w *world) { w.allLost = true }, "no datagram came back"},
		{"no traffic of the system", "corrupt-packets", "n1", func(w *world) { w.idle = true }, "met no packet of the system"},
		{"never healed", "corrupt-packets", "n1", stuck, "was not healed: between n1 and n2"},
		{"no effect", "rate", "n1", stub("n1"), "rate had no effect: between n1 and n2"},
		{"one link only", "rate", "n1", stub("n3"), "between n1 and n3"},
		{"one direction only", "rate", "n1", func(w *world) { w.oneWay = true }, "rate had no effect: between n1 and n2"},
		{"the other direction only", "rate", "n3", func(w *world) { w.oneWay = true }, "rate had no effect: between n1 and n3"},
		{"over at half time", "rate", "n1", at(func(w *world) { w.shapes["fault-0"] = nil }), "datagrams of 1400 bytes took 0s"},
		{"all lost", "rate", "n1", func(w *world) { w.allLost = true }, "too few datagrams arrived"},
		{"no traffic of the system", "rate", "n1", func(w *world) { w.idle = true }, "met no packet of the system"},
		{"never healed", "rate", "n1", stuck, "was not healed: between n1 and n2"},

		{"no effect", "reset", "n1", stub("n1"), "reset had no effect: a dial from n2 to n1 was answered: accepted"},
		{"one peer only", "reset", "n1", stub("n3"), "a dial from n3 to n1 was answered: accepted"},
		{"clients are spared", "reset", "n1", stub(Clients), "a dial from clients to n1 was answered: accepted"},
		{"over at half time", "reset", "n1", at(func(w *world) { clear(w.rejects); w.rejects["fault-0-n1"] = "" }), "a dial from n2 to n1 was answered: accepted"},
		{"dead instead", "reset", "n1", at(func(w *world) { w.die("n1", 2) }), "n1 is no longer the process with pid 101"},
		{"no connection of the system", "reset", "n1", func(w *world) { w.idle = true }, "met no connection of the system itself on n1"},
		{"never healed", "reset", "n1", stuck, "was not healed: a dial from n2 to n1 was answered: reset"},

		{"no effect", "half-open", "n1", stub("n1"), "half-open had no effect: a dial from n2 to n1 was answered: accepted"},
		{"one of two", "half-open", two, stub("n2"), "a dial from n2 to n1 was answered: accepted"},
		{"clients are spared", "half-open", "n1", stub(Clients), "a dial from clients to n1 was answered: accepted"},
		{"over at half time", "half-open", "n1", at(func(w *world) { clear(w.mutes); w.mutes["fault-0-n1"] = "" }), "a dial from n2 to n1 was answered: accepted"},
		{"resets instead", "half-open", "n1", at(func(w *world) { clear(w.mutes); w.mutes["fault-0-n1"] = ""; w.rejects["x"] = "n1" }), "a dial from n2 to n1 was answered: reset"},
		{"dead instead", "half-open", "n1", at(func(w *world) { w.die("n1", 2) }), "n1 is no longer the process with pid 101"},
		{"no connection of the system", "half-open", "n1", func(w *world) { w.idle = true }, "met no connection of the system itself on n1"},
		{"never healed", "half-open", "n1", stuck, "was not healed: a dial from n2 to n1 was answered: silent"},

		{"not killed", "restart:kill", two, func(w *world) { w.killNoop["n2"] = true }, "restart:kill had no effect: n2 still runs"},
		{"old incarnation", "restart:kill", "n1", func(w *world) { w.startNoop = true }, "was not healed within 30s: n1 still runs"},
		{"dead again at half time", "restart:kill", "n1", at(func(w *world) { w.die("n1", 2) }), "was not healed within 30s: n1 is dead"},
		{"nothing was lost", "restart:power", "n1", func(w *world) { w.tooGentle = true }, "restart:power had no effect: the file that was written on n1"},
		{"synced data was lost", "restart:power", two, func(w *world) { w.tooRough = true }, "took more than it may"},
		{"no effect", "restart:wipe", "n1", stub("n1"), "restart:wipe had no effect: 10 bytes of logs are on the disk of n1"},
		{"data back at the start", "restart:wipe", "n1", func(w *world) { w.starting = func() { w.logs["n1"] = []byte("back") } }, "restart:wipe had no effect: n1 found 4 records"},

		{"exit code", "rolling-restart", "n1,n2,n3", func(w *world) { w.stopCode = 4 }, "was not graceful: n1 exited with code 4"},
		{"hangs", "rolling-restart", two, func(w *world) { w.stopHangs = true }, "n1 did not exit within 20s"},
		{"does not come back", "rolling-restart", two, func(w *world) { w.crashes = true }, "did not go on: n1 was back"},
		{"no leader any more", "rolling-restart", two, func(w *world) { clear(w.leader) }, "did not go on: n1 was back"},
		{"old incarnation", "rolling-restart", two, func(w *world) { w.startNoop = true }, "n1 still runs with pid"},
		{"dead again at half time", "rolling-restart", two, at(func(w *world) { w.die("n1", 2) }), "did not last: n1 came back"},
		{"last one back early", "rolling-restart", two, at(func(w *world) { w.procs["n2"] = w.incarnation() }), "n2 runs again before it was healed"},
		{"last one back and dead", "rolling-restart", two, at(func(w *world) { w.procs["n2"] = w.incarnation(); w.die("n2", 0) }), "n2 was started and died again"},
	}
	for _, c := range cases {
		t.Run(c.fault+", "+c.name, func(t *testing.T) {
			k, shape, err := split(c.fault)
			require.NoError(t, err)
			s := step(k.Name, shape, c.targets)
			s.Until = 30 * time.Second
			w := newWorld(3)
			require.NoError(t, Setup(t.Context(), []Step{s}, w.target()))
			c.sabotage(w)
			require.NoError(t, Run(t.Context(), []Step{s}, w.target(), w, Limits{}))
			require.Contains(t, w.why(0), c.say)
			require.Contains(t, w.why(0), c.fault)
			require.Len(t, MissingProofs([]Step{s}, w.events), 1)
			after := false
			for _, stage := range w.stages(0) {
				after = after || stage == history.Unproven
				require.False(t, after && (stage == history.Proven || stage == history.StillProven), "a later stage claims the effect: %v", w.stages(0))
			}
		})
	}
}

func TestMachineFaultsHealAfterErrorsOfTheEnvironment(t *testing.T) {
	broken := errors.New("engine is gone")
	for _, s := range machineSteps("n1,n2") {
		t.Run(s.Name(), func(t *testing.T) {
			w := newWorld(3)
			require.NoError(t, Setup(t.Context(), []Step{s}, w.target()))
			for _, what := range []string{"spoil n2", "shape", "start n1", "kill n2", "power"} {
				w.fail[what] = broken
			}
			if s.Fault != "rolling-restart" {
				delete(w.fail, "start n1")
			}
			if s.Fault != "restart" || s.Shape == RestartWipe {
				delete(w.fail, "kill n2")
			}
			err := Run(t.Context(), []Step{s}, w.target(), w, Limits{})
			require.ErrorIs(t, err, broken)
			require.ErrorContains(t, err, s.Name())
			delete(w.fail, "start n1")
			for n, p := range w.procs {
				if s.Fault == "rolling-restart" && n == "n1" {
					continue // its start is what failed
				}
				require.True(t, p.Running, "%s left dead", n)
			}
			require.Empty(t, w.disks)
			require.Empty(t, w.slow)
			require.Empty(t, w.clocks)
			require.Empty(t, w.shapes)
			require.Len(t, MissingProofs([]Step{s}, w.events), 1)
		})
	}
}

func TestMachineFaultsAreUnsupportedWithoutTheirCapability(t *testing.T) {
	w := newWorld(3)
	target := w.target()
	target.Machines, target.Disks = Machines{}, nil
	for _, s := range machineSteps("n1") {
		err := Check(target, []Step{s})
		if s.Fault == "rolling-restart" || s.Name() == "restart:kill" {
			require.NoError(t, err, s.Name())
			continue
		}
		require.ErrorIs(t, err, ErrUnsupported, s.Name())
		require.ErrorContains(t, err, s.Fault+" needs an environment that can")
	}
}

// Faults of machines overlap where they touch different things.
func TestMachineFaultsOverlap(t *testing.T) {
	overlapping := func(a, b Step) (first, second Step) {
		b.ID = 1
		a.At, a.Until = time.Second, 20*time.Second
		b.At, b.Until = 5*time.Second, 30*time.Second
		return a, b
	}
	for _, c := range []struct {
		a, b Step
		say  string // why the second is not injected
	}{
		{step("delay", "", "n1"), step("clock", ClockJump, "n1"), ""},
		{step("disk-slow", "", "n1"), step("kill", "", "n1"), ""},
		{step("delay", "", "n1"), step("delay", "", "n2"), ""},
		{step("partition", IsolateOne, "n1"), step("delay", "", "n2"), ""},
		{step("delay", "", "n1"), step("loss", "", "n1"), "the links of n1 is already under delay"},
		{step("cpu", "", "n1"), step("delay", "", "n1"), ""},
		{step("cpu", "", "n1"), step("memory", "", "n2"), ""},
		{step("memory", "", "n1"), step("kill", "", "n1"), "the process of n1 is already under memory"},
		{step("disk-full", "", "n1"), step("kill", "", "n1"), "the process of n1 is already under disk-full"},
		{step("clock", ClockJump, "n1"), step("clock", ClockDrift, "n1"), "the clock of n1 is already under clock:jump"},
		{step("disk-slow", "", "n1"), step("disk-slow", "", "n1"), "the disk of n1 is already under disk-slow"},
	} {
		t.Run(c.a.Name()+" and "+c.b.Name(), func(t *testing.T) {
			a, b := overlapping(c.a, c.b)
			w := newWorld(3)
			w.run(t, a, b)
			require.Equal(t, whole, w.stages(0), w.why(0))
			if c.say == "" {
				require.Equal(t, whole, w.stages(1), w.why(1))
			} else {
				require.Contains(t, w.why(1), c.say)
			}
			w.requireClean(t)
		})
	}
}

// What takes data away waits for the planned gap after what was healed late.
func TestTakingDataAwayWaitsForTheGap(t *testing.T) {
	for _, c := range []struct {
		fault string
		waits bool
	}{{"wipe", true}, {"power", true}, {"kill", false}} {
		a, b := step("kill", "", "n1"), step(c.fault, "", "n2")
		b.ID, b.At, b.Until = 1, 13*time.Second, 23*time.Second
		w := newWorld(3)
		w.deafs["n1"] = true
		w.at(18*time.Second, func() { delete(w.deafs, "n1") }) // eight seconds late
		w.run(t, a, b)
		require.Equal(t, whole, w.stages(1), w.why(1))
		for _, e := range w.events {
			if e.ID == 1 && e.Stage == history.Injecting {
				require.Equal(t, c.waits, e.At >= int64(21*time.Second), "%s began at %s", c.fault, time.Duration(e.At))
			}
		}
	}
}

// Of two resets that overlap, the first is healed while the second still answers
// dials from its own node.
func TestResetsThatOverlap(t *testing.T) {
	for _, faults := range [][2]string{{"reset", "reset"}, {"half-open", "half-open"}, {"reset", "half-open"}, {"half-open", "reset"}} {
		a, b := step(faults[0], "", "n2"), step(faults[1], "", "n3")
		b.ID, b.At, b.Until = 1, a.At+time.Second, a.Until+time.Second
		w := newWorld(3)
		w.run(t, a, b)
		require.Equal(t, whole, w.stages(0), w.why(0))
		require.Equal(t, whole, w.stages(1), w.why(1))
		w.requireClean(t)
	}
}

// A wipe exchanges the disk that a later power loss has its synced file on.
func TestPowerAfterWipe(t *testing.T) {
	a, b := step("wipe", "", "n1"), step("power", "", "n1")
	b.ID, b.At, b.Until = 1, 20*time.Second, 30*time.Second
	w := newWorld(3)
	w.wipesFiles = true
	w.run(t, a, b)
	require.Equal(t, whole, w.stages(0), w.why(0))
	require.Equal(t, whole, w.stages(1), w.why(1))
}

func TestShapesOfMachineFaults(t *testing.T) {
	nodes := []string{"n1", "n2", "n3"}
	s := step("corrupt-file", "", "n1")
	require.ErrorContains(t, s.Validate(nodes), "known are bit-flip, truncate, stale-restore")
	s.Shape = IsolateOne
	require.ErrorContains(t, s.Validate(nodes), `unknown shape "isolate-one" of corrupt-file`)
	s.Shape, s.Port = BitFlip, PeerPort
	require.ErrorContains(t, s.Validate(nodes), "takes no shape and no port")
	_, err := Parse("partition:bit-flip")
	require.ErrorContains(t, err, "unknown shape")
	_, err = Parse("wipe:fast")
	require.ErrorContains(t, err, "has no shapes")
	steps, err := Generate(ScheduleConfig{Seed: 3, Faults: []string{"corrupt-file", "clock"}, Nodes: nodes, Keys: 2, Duration: 2 * time.Minute, Detection: 3 * time.Second})
	require.NoError(t, err)
	seen := map[string]int{}
	for _, s := range steps {
		seen[s.Name()]++
		if s.Fault == "corrupt-file" {
			require.NotContains(t, []string{TargetMajority, TargetAll, TargetFollowers}, s.Targets, "on a minority unless told otherwise")
		}
	}
	require.Len(t, seen, 7)
}
