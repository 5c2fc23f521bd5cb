package history

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// anyHistory draws what the types allow, whether a run can leave it or not. Strings
// are printable: JSON keeps no others.
func anyHistory(t *rapid.T) *History {
	text := rapid.StringMatching(`[ -~äß€]{0,12}`)
	number := rapid.OneOf(rapid.Int64Range(-1, 100), rapid.Int64())
	h := &History{
		Header: Header{
			Version: Version, RunID: text.Draw(t, "run"), Seed: rapid.Uint64().Draw(t, "seed"), Keys: rapid.SliceOfN(text, 1, 3).Draw(t, "keys"),
			Nodes: rapid.SliceOfN(text, 1, 3).Draw(t, "nodes"), Clients: []Client{{Name: "c", Role: "producer", Loyal: rapid.Bool().Draw(t, "loyal")}},
		},
		Closed: rapid.Bool().Draw(t, "closed"),
	}
	records := func() []Record {
		drawn := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Record {
			return Record{
				Offset: number.Draw(t, "offset"), Value: Value(rapid.Uint64().Draw(t, "value")), Epoch: rapid.Int32().Draw(t, "epoch"),
				Payload: Payload(rapid.IntRange(0, 3).Draw(t, "payload")), Delivery: rapid.Int32Range(0, 9).Draw(t, "delivery"),
			}
		}), 0, 4).Draw(t, "records")
		return cloneRecords(drawn)
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "operations") {
		op := Op{
			ID: int64(i), Client: rapid.Int32().Draw(t, "client"), Process: number.Draw(t, "process"), Kind: Kind(rapid.IntRange(int(Send), int(Abort)).Draw(t, "kind")),
			Key: rapid.Int32().Draw(t, "key"), Node: rapid.Int16().Draw(t, "node"), Call: number.Draw(t, "call"), Return: number.Draw(t, "return"),
			Outcome: Outcome(rapid.IntRange(int(OK), int(Indeterminate)).Draw(t, "outcome")), Code: text.Draw(t, "code"), Value: Value(rapid.Uint64().Draw(t, "value")),
			Offset: number.Draw(t, "offset"), Acked: rapid.Bool().Draw(t, "acked"), From: number.Draw(t, "from"), Records: records(), High: number.Draw(t, "high"),
			Epoch: rapid.Int32().Draw(t, "epoch"), Reset: rapid.Bool().Draw(t, "reset"), Committed: rapid.Bool().Draw(t, "committed"),
			Due: number.Draw(t, "due"), Lock: number.Draw(t, "lock"), Of: number.Draw(t, "of"), Txn: number.Draw(t, "txn"),
		}
		if rapid.Bool().Draw(t, "never") {
			op.Return = Infinity
		}
		h.Ops = append(h.Ops, op)
	}
	for range rapid.IntRange(0, 2).Draw(t, "events") {
		h.Phases = append(h.Phases, Phase{text.Draw(t, "phase"), number.Draw(t, "at")})
		h.Faults = append(h.Faults, Fault{ID: rapid.Int().Draw(t, "id"), Name: text.Draw(t, "fault"), Stage: FaultStage(text.Draw(t, "stage")), Targets: []string{text.Draw(t, "target")}, Proof: map[string]string{"a": text.Draw(t, "proof")}})
		h.Events = append(h.Events, NodeEvent{Node: text.Draw(t, "node"), Seq: number.Draw(t, "seq"), Kind: text.Draw(t, "event"), Epoch: rapid.Int32().Draw(t, "epoch"), From: number.Draw(t, "from")})
		h.Stalls = append(h.Stalls, Stall{number.Draw(t, "from"), number.Draw(t, "to")})
		h.Replicas = append(h.Replicas, Replica{Key: text.Draw(t, "key"), Node: text.Draw(t, "node"), End: number.Draw(t, "end"), Records: records()})
		h.Drains = append(h.Drains, Drain{Key: text.Draw(t, "key"), At: number.Draw(t, "at"), Complete: rapid.Bool().Draw(t, "complete")})
		h.Notes = append(h.Notes, Note{number.Draw(t, "at"), text.Draw(t, "note")})
	}
	return h
}

// TestEveryHistorySurvives: whatever a history holds, JSON lines and the file hold too.
func TestEveryHistorySurvives(t *testing.T) {
	plainly(t)
	rapid.Check(t, func(t *rapid.T) {
		want := anyHistory(t)
		var b bytes.Buffer
		require.NoError(t, ExportJSONL(&b, want))
		got, err := ImportJSONL(&b)
		require.NoError(t, err)
		require.Equal(t, want, got, "as JSON lines")

		file := &memory{}
		w, err := newWriter("any.flh", file, want.Header)
		require.NoError(t, err)
		want.replay(w)
		require.NoError(t, w.finish(want.Closed))
		got, err = loadBytes(file.Bytes())
		require.NoError(t, err)
		require.Equal(t, want, got, "as a file")

		r, err := newReader("any.flh", source{bytes.NewReader(file.Bytes())})
		require.NoError(t, err)
		b.Reset()
		require.NoError(t, r.ExportJSONL(&b))
		got, err = ImportJSONL(&b)
		require.NoError(t, err)
		require.Equal(t, want, got, "as JSON lines of a file that is read as it comes")
		_ = want.Validate() // whatever it says, it does not panic
	})
}
