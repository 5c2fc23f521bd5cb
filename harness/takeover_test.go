package harness

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// TestTakeover: the plans of testdata/schemes show what a main queue and its backup keep,
// under which options, and who can work meanwhile.
func TestTakeover(t *testing.T) {
	plainly(t)
	t.Parallel()
	const restore, fencing, data, reroute = "restore", "takeover.fencing", "data", "client.reroute"
	for _, c := range []struct {
		claim       string
		set         map[string]string
		seed        uint64
		lost, split bool
		works       string // whether somebody can write while all faults are on: "yes", "no", "": not asked
	}{
		{claim: "pb1", lost: true},
		{claim: "pb2", lost: true},
		{claim: "pb3", lost: true, split: true},
		{claim: "pb3p", lost: true, split: true},
		{claim: "pb3", set: map[string]string{fencing: "epoch"}, lost: true},
		{claim: "pb3", set: map[string]string{fencing: "witness"}}, // PB4
		{claim: "pb3p", set: map[string]string{fencing: "witness"}},
		{claim: "pb5", lost: true},
		{claim: "pb5", set: map[string]string{restore: "resync"}}, // PB6
		{claim: "pb7", works: "yes"},
		{claim: "pb7", set: map[string]string{reroute: "proxy"}, works: "yes"},
		{claim: "pb7", set: map[string]string{reroute: "none"}, works: "no"},
		{claim: "pb8"},
		{claim: "pb9", works: "no"},
		{claim: "pb10", lost: true},
		{claim: "pb10", set: map[string]string{data: "sync", restore: "resync"}, split: true, lost: true}, // PB11
		{claim: "pb12"},
		{claim: "pb12", set: map[string]string{fencing: "witness"}},
		{claim: "pb12", set: map[string]string{"fsync": "never"}, seed: 2, lost: true},
	} {
		p, err := ReadPlan(filepath.Join("testdata", "schemes", c.claim+".yaml"))
		require.NoError(t, err)
		maps.Copy(p.Options, c.set)
		if c.seed != 0 {
			p.Seed = c.seed
		}
		t.Run(fmt.Sprint(c.claim, c.set), func(t *testing.T) {
			t.Parallel()
			j := simulated(t, p)
			j.requireProven(t)
			if !c.lost && !c.split {
				j.requireValid(t)
			}
			broken := map[string][]string{}
			for _, b := range breaches(j.Result) {
				broken[b.Clause] = b.Classes
			}
			require.Equal(t, c.lost, slices.Contains(broken[checker.ClauseSurvives], checker.ClassLost), j.why())
			require.Equal(t, c.split, slices.Contains(broken[checker.ClauseSplitBrain], checker.ClassSplitBrain), j.why())
			written := writtenUnderAll(j)
			if c.works != "" {
				require.Equal(t, c.works == "yes", written > 0, "%d sends were acknowledged while all faults were on", written)
			}
		})
	}
}

// writtenUnderAll counts the sends to the first partition that were acknowledged from a
// moment after the last fault was there until the first one was healed.
func writtenUnderAll(j judged) int {
	begin, end := int64(0), int64(1)<<62
	for _, f := range j.history.Faults {
		switch f.Stage {
		case history.Proven:
			begin = max(begin, f.At+int64(2*time.Second))
		case history.Healing:
			end = min(end, f.At)
		}
	}
	n := 0
	for i := range j.history.Ops {
		op := &j.history.Ops[i]
		if op.Kind == history.Send && op.Outcome == history.OK && op.Key == 0 && op.Call > begin && op.Return < end {
			n++
		}
	}
	return n
}

// TestFlappingMainQueue (PB8): a main queue that goes up and down gets its work back once,
// and at every return where nothing damps that.
func TestFlappingMainQueue(t *testing.T) {
	plainly(t)
	t.Parallel()
	restored := func(delay string) (n int) {
		p, err := ReadPlan(filepath.Join("testdata", "schemes", "pb8.yaml"))
		require.NoError(t, err)
		p.Options["restore.delay.ms"] = delay
		j := simulated(t, p)
		j.requireProven(t)
		j.requireValid(t)
		for i := range j.history.Events {
			if j.history.Events[i].Kind == "restore" {
				n++
			}
		}
		return n
	}
	require.Equal(t, 1, restored("1500"))
	require.Equal(t, 4, restored("0"))
}
