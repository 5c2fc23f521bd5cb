package harness

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// TestHistoryOnDisk: the history of a simulated run, with everything that is in it,
// takes at most 24 bytes for a record sent or read and 20 for an operation.
func TestHistoryOnDisk(t *testing.T) {
	plainly(t)
	t.Parallel()
	for _, faults := range []string{"", "partition"} {
		j := simulated(t, simPlan(faults))
		fi, err := os.Stat(j.file)
		require.NoError(t, err)
		records := 0
		for i := range j.history.Ops {
			records += len(j.history.Ops[i].Records)
			if j.history.Ops[i].Kind == history.Send {
				records++
			}
		}
		require.NotEmpty(t, j.history.Replicas, "the drain is part of it")
		perRecord, perOp := float64(fi.Size())/float64(records), float64(fi.Size())/float64(len(j.history.Ops))
		t.Logf("faults %q: %d bytes for %d records and %d operations: %.1f a record, %.1f an operation", faults, fi.Size(), records, len(j.history.Ops), perRecord, perOp)
		require.LessOrEqual(t, perRecord, 24.0)
		require.LessOrEqual(t, perOp, 20.0)
	}
}

// TestStoryOfOneMessage: explain tells from the operations that concern a message what
// it tells from all of them.
func TestStoryOfOneMessage(t *testing.T) {
	plainly(t)
	t.Parallel()
	p := simPlan("partition:isolate-leader")
	p.Options["acks"] = "1"
	j := simulated(t, p)
	values := []history.Value{history.MakeValue(999, 1)}
	for i := 0; len(values) < 5; i += 100 {
		if op := &j.history.Ops[i]; op.Kind == history.Send {
			values = append(values, op.Value)
		}
	}
	for _, c := range j.Checks {
		if len(c.Anomalies) > 0 {
			values = append(values, c.Anomalies[0].Value)
		}
	}
	require.Greater(t, len(values), 5, "some are lost")
	for _, value := range values {
		about, err := LoadHistoryAbout(j.file, value)
		require.NoError(t, err)
		require.Less(t, len(about.Ops), len(j.history.Ops)/10)
		want, wantErr := checker.Explain(j.history, value)
		got, err := checker.Explain(about, value)
		require.Equal(t, wantErr, err)
		require.Equal(t, want, got)
	}
}
