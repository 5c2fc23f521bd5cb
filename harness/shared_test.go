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

// TestSharedClaims: the plans of testdata/schemes about shared logs tell under which
// options nothing is lost, and for how long nobody could write.
func TestSharedClaims(t *testing.T) {
	plainly(t)
	t.Parallel()
	const keep, poll, fence = "lockKeepAlivePeriod", "lockAcquireSleepInterval", "fencing"
	for _, c := range []struct {
		claim string
		set   map[string]string
		lost  bool
		// The longest time without an acknowledgement, where it matters.
		least, most time.Duration
	}{
		{claim: "ss1", most: 1700 * time.Millisecond}, // the poll, and the clients' way there
		{claim: "ss1", set: map[string]string{poll: "3000"}, most: 3700 * time.Millisecond},
		{claim: "ss2", least: 15 * time.Second},
		{claim: "ss3", lost: true},
		{claim: "ss3", set: map[string]string{keep: "20"}, most: 1700 * time.Millisecond}, // SS4
		{claim: "ss3", set: map[string]string{fence: "token"}},
		{claim: "ss6-pause", lost: true},
		{claim: "ss6-pause", set: map[string]string{fence: "token"}},
		{claim: "ss6-clock", lost: true},
		{claim: "ss6-clock", set: map[string]string{fence: "token"}},
		{claim: "ss7", lost: true},
		{claim: "ss8", lost: true},
	} {
		p, err := ReadPlan(filepath.Join("testdata", "schemes", c.claim+".yaml"))
		require.NoError(t, err)
		maps.Copy(p.Options, c.set)
		t.Run(fmt.Sprint(c.claim, c.set), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(2) {
				p.Seed = 1 + seed
				j := simulated(t, p)
				j.requireProven(t)
				if c.lost {
					require.Equal(t, checker.Invalid, j.Verdict, j.why())
					broken := breaches(j.Result)
					require.True(t, slices.ContainsFunc(broken, func(b Breach) bool {
						return b.Clause == checker.ClauseSurvives && slices.Contains(b.Classes, checker.ClassLost)
					}), j.why())
					continue
				}
				j.requireValid(t)
				gap := longestGap(j.history)
				require.GreaterOrEqual(t, gap, c.least)
				if c.most > 0 {
					require.LessOrEqual(t, gap, c.most)
				}
			}
		})
	}
}

// longestGap is the longest time between two acknowledgements.
func longestGap(h *history.History) time.Duration {
	var at []int64
	for _, op := range h.Ops {
		if op.Kind == history.Send && op.Outcome == history.OK {
			at = append(at, op.Return)
		}
	}
	slices.Sort(at)
	gap := int64(0)
	for i := 1; i < len(at); i++ {
		gap = max(gap, at[i]-at[i-1])
	}
	return time.Duration(gap)
}
