package nemesis

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type wVersions struct{ *world }

func (w wVersions) Version(_ context.Context, n string) (string, error) {
	if p := w.procs[n]; !p.Running || p.Paused || w.deafs[n] {
		return "", fmt.Errorf("%s does not answer", n)
	}
	if w.versions[n] == "" {
		return "1", nil
	}
	return w.versions[n], nil
}

func (w wMachines) exchange(n, version string) error {
	if w.procs[n].Running {
		return fmt.Errorf("%s runs", n)
	}
	if !w.stubs[n] {
		w.versions[n] = version
	}
	return w.fail["spoil "+n]
}

func (w wMachines) Upgrade(_ context.Context, n string) error { return w.exchange(n, "2") }

func (w wMachines) Downgrade(_ context.Context, n string) error {
	if w.stuck {
		return nil
	}
	if err := w.exchange(n, ""); !errors.Is(err, w.fail["spoil "+n]) {
		return err
	}
	return nil
}

func TestUpgradesAreProven(t *testing.T) {
	for _, c := range []struct {
		shape   Shape
		targets string
		count   int
	}{{MixedVersions, "n2", 1}, {MixedVersions, TargetLeader, 1}, {MixedVersions, "n1,n3", 2}, {RollingUpgrade, TargetAll, 3}} {
		s := step("upgrade", c.shape, c.targets)
		s.Until = 30 * time.Second
		w := newWorld(3)
		w.run(t, s)
		require.Equal(t, whole, w.stages(0), w.why(0))
		require.Equal(t, fmt.Sprintf("%d of 3 nodes run version 2", c.count), w.events[2].Detail)
		require.Len(t, w.events[2].Proof, 3, "every node is asked")
		require.Equal(t, "1; 1 before", w.events[5].Proof["version of n2"])
		w.requireClean(t)
	}
}

func TestSabotagedUpgradesAreNotProven(t *testing.T) {
	at := func(do func(w *world)) func(*world) {
		return func(w *world) { w.at(20*time.Second, func() { do(w) }) }
	}
	for _, c := range []struct {
		name     string
		sabotage func(w *world)
		say      string
	}{
		{"no effect", func(w *world) { w.stubs["n1"], w.stubs["n2"] = true, true }, "upgrade:mixed had no effect: n1 runs version 1, as before"},
		{"one of two", func(w *world) { w.stubs["n2"] = true }, "n2 runs version 1, as before"},
		{"back at half time", at(func(w *world) { w.versions["n1"] = "" }), "n1 runs version 1, as before"},
		{"a third version", at(func(w *world) { w.versions["n2"] = "3" }), "n2 runs version 3, and another target 2"},
		{"another node too", at(func(w *world) { w.versions["n3"] = "2" }), "n3 is no target, and runs version 2"},
		{"never healed", func(w *world) { w.stuck = true }, "was not healed: n1 runs version 2, and ran 1 before"},
		{"does not say", func(w *world) { w.deafs["n3"] = true }, "n3 does not say which version it runs"},
		{"exit code", func(w *world) { w.stopCode = 4 }, "was not graceful: n1 exited with code 4"},
		{"hangs", func(w *world) { w.stopHangs = true }, "was not graceful: n1 did not exit within 20s"},
		{"does not come back", func(w *world) { w.crashes = true }, "did not go on: n1 was upgraded"},
		{"dead before", func(w *world) { w.die("n1", 1) }, "was not injected: n1 was dead"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := step("upgrade", MixedVersions, "n1,n2")
			s.Until = 30 * time.Second
			w := newWorld(3)
			c.sabotage(w)
			require.NoError(t, Run(t.Context(), []Step{s}, w.target(), w, Limits{}))
			require.Contains(t, w.why(0), c.say)
			require.Len(t, MissingProofs([]Step{s}, w.events), 1)
			if c.name != "never healed" {
				for n, v := range w.versions {
					if n != "n3" {
						require.Empty(t, v, "%s left upgraded", n)
					}
				}
			}
		})
	}
}

func TestUpgradesChooseTheirTargets(t *testing.T) {
	nodes := []string{"n1", "n2", "n3"}
	require.ErrorContains(t, step("upgrade", MixedVersions, TargetAll).Validate(nodes), "needs a node that keeps its version")
	require.ErrorContains(t, step("upgrade", RollingUpgrade, "n1").Validate(nodes), `takes targets "all" alone`)
	for seed := range uint64(20) {
		steps, err := Generate(ScheduleConfig{Seed: seed, Faults: []string{"upgrade"}, Nodes: nodes, Keys: 1, Detection: time.Second, Duration: 30 * time.Second})
		require.NoError(t, err)
		require.NotEmpty(t, steps)
	}
}
