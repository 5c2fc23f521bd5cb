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

// TestClaims: the plans of testdata/schemes tell for which options a claim about a
// scheme holds, and for which messages are lost as it says.
func TestClaims(t *testing.T) {
	plainly(t)
	t.Parallel()
	const least, version = "min.insync.replicas", "eligible.leader.replicas.version"
	const role, sync, copies, controller = "brokerRole", "SYNC_MASTER", "inSyncReplicas", "enableControllerMode"
	for _, c := range []struct {
		claim string
		set   map[string]string
		lost  bool
	}{
		{"kf2", map[string]string{least: "1"}, true},
		{"kf2", map[string]string{least: "2", version: "0"}, true},
		{"kf2", map[string]string{least: "2"}, false},
		{"kf7", map[string]string{least: "2", version: "0"}, true},
		{"kf7", map[string]string{least: "2"}, false},
		{"kf7", map[string]string{least: "2", version: "0", "fsync": "always"}, false},
		{"ms", nil, true}, // MS1, and MS8
		{"ms", map[string]string{controller: "true"}, true},
		{"ms", map[string]string{role: sync, controller: "true"}, true},                                                            // MS2
		{"ms", map[string]string{role: sync, copies: "2", controller: "true"}, false},                                              // MS3
		{"ms", map[string]string{role: sync, copies: "2", "enableAutoInSyncReplicas": "true"}, true},                               // MS4
		{"ms", map[string]string{role: sync, controller: "true", "allAckInSyncStateSet": "true", "minInSyncReplicas": "2"}, false}, // CB4
		{"cb3", nil, true},
		{"cb3", map[string]string{"allAckInSyncStateSet": "true", "minInSyncReplicas": "2"}, false},
		{"cb4", nil, false},
		{"cb5", nil, true},
		{"cb5", map[string]string{"allAckInSyncStateSet": "true", "minInSyncReplicas": "2"}, false},
		{"cb9", nil, false},
		{"qq", nil, false},
		{"nt4", nil, false},
	} {
		p, err := ReadPlan(filepath.Join("testdata", "schemes", c.claim+".yaml"))
		require.NoError(t, err)
		maps.Copy(p.Options, c.set)
		t.Run(fmt.Sprint(c.claim, c.set), func(t *testing.T) {
			t.Parallel()
			if c.lost { // under the plan's own seed: of what was not synced a power loss may take nothing
				j := simulated(t, p)
				j.requireProven(t)
				j.requireLost(t)
				return
			}
			for seed := range uint64(3) {
				p.Seed = 1 + seed
				j := simulated(t, p)
				j.requireProven(t)
				j.requireValid(t)
			}
		})
	}
}

// TestSlaveOfASynchronousPairDies (MS5): what is sent is stored, and answered as
// unknown after slaveTimeout.
func TestSlaveOfASynchronousPairDies(t *testing.T) {
	plainly(t)
	t.Parallel()
	j := planned(t, "ms5")
	j.requireProven(t)
	j.requireValid(t)
	begin, end := during(t, j)
	var unknown, acknowledged int
	stored := drained(j)
	for i := range j.history.Ops {
		op := &j.history.Ops[i]
		if op.Kind != history.Send || op.Call < begin || op.Return > end {
			continue
		}
		switch {
		case op.Outcome == history.OK:
			acknowledged++
		case op.Code == "REQUEST_TIMED_OUT":
			unknown++
			require.True(t, stored[op.Value], "a send that waited for a copy is stored")
		}
	}
	require.Zero(t, acknowledged)
	require.Greater(t, unknown, 50)
}

// TestSlavesLag (MS6): what a slave shows lies behind what was acknowledged before it
// was asked.
func TestSlavesLag(t *testing.T) {
	plainly(t)
	t.Parallel()
	j := planned(t, "ms6")
	j.requireProven(t)
	j.requireValid(t)
	begin, end := during(t, j)
	require.False(t, j.history.Header.Contract.Fresh)
	var acknowledged []*history.Op
	for i := range j.history.Ops {
		if op := &j.history.Ops[i]; op.Kind == history.Send && op.Outcome == history.OK {
			acknowledged = append(acknowledged, op)
		}
	}
	lagging := map[int16]int{}
	for i := range j.history.Ops {
		op := &j.history.Ops[i]
		if op.Kind != history.Poll || op.Outcome != history.OK || op.Call < begin || op.Return > end {
			continue
		}
		if slices.ContainsFunc(acknowledged, func(s *history.Op) bool { return s.Key == op.Key && s.Return < op.Call && s.Offset >= op.High }) {
			lagging[op.Node]++
		}
	}
	require.Len(t, lagging, 2, "both slaves lag, and the master does not: %v", lagging)
}

// TestPowerOfAllIsLostWithoutSync (NT4, CB10): a majority in the page cache is none when
// the power goes.
func TestPowerOfAllIsLostWithoutSync(t *testing.T) {
	plainly(t)
	t.Parallel()
	p, err := ReadPlan(filepath.Join("testdata", "schemes", "nt4.yaml"))
	require.NoError(t, err)
	p.Options["fsync"] = "never"
	j := simulated(t, p)
	j.requireProven(t)
	require.Equal(t, checker.Invalid, j.Verdict, j.why())
	require.Greater(t, j.Anomalies[checker.ClassLost], 100)
}

// TestOneMasterOfSeveralDies (CB1): the queues of a dead master wait for it, and the
// others go on; what its slave has can be read meanwhile.
func TestOneMasterOfSeveralDies(t *testing.T) {
	plainly(t)
	t.Parallel()
	j := planned(t, "cb1")
	j.requireProven(t)
	j.requireValid(t)
	begin, end := during(t, j)
	sent, read := map[int32]int{}, map[int32]int{}
	for i := range j.history.Ops {
		op := &j.history.Ops[i]
		if op.Outcome != history.OK || op.Call < begin || op.Return > end {
			continue
		}
		switch op.Kind {
		case history.Send:
			sent[op.Key]++
		case history.Poll:
			read[op.Key]++
		}
	}
	require.Len(t, sent, 3, "the dead node was the master of one of four queues: %v", sent)
	require.Len(t, read, 4, "and its slave shows that one: %v", read)
}

// TestSlaveShowsWhatIsCut keeps the run in which a slave showed what its master had not
// confirmed: that was cut, sent again by its idempotent producer, and read twice.
func TestSlaveShowsWhatIsCut(t *testing.T) {
	plainly(t)
	t.Parallel()
	j := planned(t, "slave-shows-what-is-cut")
	require.Equal(t, checker.Valid, j.Verdict, j.why())
	require.True(t, j.history.Header.Contract.AtMostOnce)
}

// planned runs a plan of testdata/schemes under its own seed.
func planned(t *testing.T, name string) judged {
	t.Helper()
	p, err := ReadPlan(filepath.Join("testdata", "schemes", name+".yaml"))
	require.NoError(t, err)
	return simulated(t, p)
}

// during is when the only fault of a run was proven to hold, and a moment more.
func during(t *testing.T, j judged) (begin, end int64) {
	t.Helper()
	for _, f := range j.history.Faults {
		switch f.Stage {
		case history.Proven:
			begin = f.At + int64(2*time.Second)
		case history.Healing:
			end = f.At
		}
	}
	require.Greater(t, end, begin)
	return begin, end
}

// drained is what stands in the logs in the end.
func drained(j judged) map[history.Value]bool {
	found := map[history.Value]bool{}
	for i := range j.history.Replicas {
		for _, r := range j.history.Replicas[i].Records {
			found[r.Value] = true
		}
	}
	return found
}

// requireLost wants acknowledged messages lost by truncation.
func (j judged) requireLost(t *testing.T) {
	t.Helper()
	require.Equal(t, checker.Invalid, j.Verdict, j.why())
	broken := breaches(j.Result)
	i := slices.IndexFunc(broken, func(b Breach) bool { return b.Clause == checker.ClauseSurvives })
	require.GreaterOrEqual(t, i, 0, j.why())
	require.Equal(t, []string{checker.ClassLost}, broken[i].Classes)
	require.Contains(t, broken[i].Events, checker.EventTruncation)
}
