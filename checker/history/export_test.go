package history

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJSONLRoundTrip(t *testing.T) {
	want := sampleHistory(t)
	want.Torn = 3
	var b bytes.Buffer
	require.NoError(t, ExportJSONL(&b, want))
	require.Contains(t, b.String(), `"kind":"send","client":0,"process":0,"key":1,"node":0,"call":1000,"return":2500,"outcome":"ok","value":"0:1","offset":0,"acked":true`)
	require.Contains(t, b.String(), `"return":null,"outcome":"indeterminate"`)
	got, err := ImportJSONL(&b)
	require.NoError(t, err)
	require.Equal(t, want, got)
}

// TestExportAsItComes: a file that is read entry by entry gives the lines of the same
// history as one that was loaded, what was not answered and a torn end included.
func TestExportAsItComes(t *testing.T) {
	path := write(t, testHeader(), sample)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, file := range map[string][]byte{
		"whole": whole,
		"torn":  append(slices.Clone(whole), whole[len(whole)-9:]...),
		"open":  crashed(t),
	} {
		require.NoError(t, os.WriteFile(path, file, 0o600))
		want, err := Load(path)
		require.NoError(t, err, name)
		r, err := Open(path)
		require.NoError(t, err, name)
		var b bytes.Buffer
		require.NoError(t, r.ExportJSONL(&b), name)
		require.NoError(t, r.Close())
		got, err := ImportJSONL(&b)
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	r, err := Open(path)
	require.NoError(t, err)
	require.ErrorContains(t, r.ExportJSONL(&full{}), "exporting history as JSON lines: no space")
	require.NoError(t, r.Close())
}

// TestLoadAbout: what is loaded of one value is the whole history without the
// operations that do not concern it.
func TestLoadAbout(t *testing.T) {
	path := write(t, testHeader(), sample)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	kept := 0
	for name, file := range map[string][]byte{
		"whole": whole,
		"torn":  append(slices.Clone(whole), whole[len(whole)-9:]...),
		"open":  crashed(t),
	} {
		require.NoError(t, os.WriteFile(path, file, 0o600))
		all := load(t, path)
		values := map[Value]bool{MakeValue(9, 9): true}
		for _, op := range all.Ops {
			values[op.Value] = true
			for _, rec := range op.Records {
				values[rec.Value] = true
			}
		}
		for value := range values {
			want := *all
			want.Ops = nil
			for _, op := range all.Ops {
				of := (op.Kind == Send || op.Kind.Settles()) && op.Value == value
				for _, rec := range op.Records {
					of = of || rec.Payload == Good && rec.Value == value
				}
				if of {
					want.Ops = append(want.Ops, op)
				}
			}
			kept += len(want.Ops)
			got, err := LoadAbout(path, value)
			require.NoError(t, err, name)
			require.Equal(t, &want, got, "%s: %s", name, value)
		}
	}
	require.Greater(t, kept, 5)
	whole[len(magic)+headerSize] ^= 1 // of the first chunk: damage to the last one may be a torn tail
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	_, err = LoadAbout(path, MakeValue(0, 1))
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
}

// crashed is the file of a writer that was killed with operations in the air, of which
// a later one was answered.
func crashed(t *testing.T) []byte {
	path := filepath.Join(t.TempDir(), FileName)
	w, err := Create(path, testHeader())
	require.NoError(t, err)
	ops := [3]Op{}
	for i := range ops {
		ops[i] = Op{Client: int32(i), Process: int64(i), Kind: Send, Node: NoNode, Call: int64(10 * i), Value: MakeValue(int32(i), 1)}
		w.Invoke(&ops[i])
	}
	ops[1].Outcome, ops[1].Return, ops[1].Offset = OK, 30, 7
	w.Complete(&ops[1])
	require.NoError(t, w.Flush())
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, w.finish(false))
	return file
}

func TestJSONLRefuses(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, ExportJSONL(&b, sampleHistory(t)))
	whole := b.String()
	lines := strings.SplitAfter(whole, "\n")
	for name, c := range map[string]struct{ in, want string }{
		"nothing":   {"", "line 1: the input ends"},
		"cut":       {strings.Join(lines[:4], ""), "line 5: the input ends"},
		"no header": {strings.Join(lines[1:], ""), "line 1: the header is the first line"},
		"version":   {strings.Replace(whole, `"version":2`, `"version":9`, 1), "format version 9"},
		"unknown":   {strings.Replace(whole, `"kind":"send"`, `"kund":"send"`, 1), "kund"},
		"kind":      {strings.Replace(whole, `"kind":"send"`, `"kind":"push"`, 1), `unknown kind "push"`},
		"outcome":   {strings.Replace(whole, `"outcome":"ok"`, `"outcome":"yes"`, 1), `unknown outcome "yes"`},
		"payload":   {strings.Replace(whole, `"altered"`, `"odd"`, 1), `unknown payload "odd"`},
		"value":     {strings.Replace(whole, `"0:1"`, `"1"`, 1), "producer:sequence"},
		"gap":       {strings.Replace(whole, `"id":1`, `"id":7`, 1), "operation 7, and 1 was expected"},
		"twice":     {strings.Replace(whole, `"id":1`, `"id":0`, 1), "operation 0, and 1 was expected"},
		"count":     {strings.Replace(whole, `"ops":5`, `"ops":6`, 1), "6 operations were exported and 5 are here"},
		"same":      {strings.Replace(whole, `"same":"n1"`, `"same":"n3"`, 1), "said to equal that on n3"},
	} {
		_, err := ImportJSONL(strings.NewReader(c.in))
		require.ErrorContains(t, err, c.want, name)
		require.ErrorContains(t, err, "line ", name)
	}
}

func TestEDN(t *testing.T) {
	r := NewRecorder(testHeader())
	sample(r)
	poll := Op{Client: 2, Process: 2, Kind: Poll, Key: 0, Node: NoNode, Call: 5000, Reset: true}
	r.Invoke(&poll)
	poll.Outcome, poll.Return = OK, 5000
	r.Complete(&poll)
	free := Op{Client: 0, Process: 8, Kind: Send, Key: 0, Node: NoNode, Call: 5000, Value: 5}
	r.Invoke(&free)
	free.Outcome, free.Return, free.Offset = OK, 6000, NoOffset
	r.Complete(&free)
	again := Op{Client: 0, Process: 8, Kind: Send, Key: 0, Node: NoNode, Call: 6000, Value: 6, Acked: true}
	r.Invoke(&again)
	again.Outcome, again.Return, again.Offset = OK, 6500, NoOffset
	r.Complete(&again)

	var b bytes.Buffer
	require.NoError(t, ExportEDN(&b, r.History()))
	const p1 = "1099511627777"
	require.Equal(t, `{:index 0, :time 1000, :type :invoke, :process 0, :f :send, :value [[:send 1 1]], :node "n1"}
{:index 1, :time 1500, :type :invoke, :process 1, :f :send, :value [[:send 1 `+p1+`]], :node "n2"}
{:index 2, :time 2500, :type :ok, :process 0, :f :send, :value [[:send 1 [0 1]]], :node "n1"}
{:index 3, :time 2600, :type :invoke, :process 2, :f :assign, :value []}
{:index 4, :time 2600, :type :ok, :process 2, :f :assign, :value []}
{:index 5, :time 2600, :type :invoke, :process 2, :f :assign, :value [1]}
{:index 6, :time 2600, :type :ok, :process 2, :f :assign, :value [1]}
{:index 7, :time 2600, :type :invoke, :process 2, :f :poll, :value [[:poll]], :node "n3"}
{:index 8, :time 4000, :type :ok, :process 2, :f :poll, :value [[:poll {1 [[0 1] [1 `+p1+`] [2 "altered@2"]]}]], :node "n3"}
{:index 9, :time 4200, :type :invoke, :process 0, :f :send, :value [[:send 2 2]], :node "n1"}
{:index 10, :time 4300, :type :fail, :process 0, :f :send, :value [[:send 2 2]], :node "n1", :error "NOT_LEADER_OR_FOLLOWER"}
{:index 11, :time 4400, :type :invoke, :process 0, :f :send, :value [[:send 0 3]], :node "n1"}
{:index 12, :time 5000, :type :invoke, :process 2, :f :assign, :value [1]}
{:index 13, :time 5000, :type :invoke, :process 9, :f :send, :value [[:send 0 5]]}
{:index 14, :time 5000, :type :ok, :process 2, :f :assign, :value [1]}
{:index 15, :time 5000, :type :invoke, :process 2, :f :assign, :value [1 0]}
{:index 16, :time 5000, :type :ok, :process 2, :f :assign, :value [1 0]}
{:index 17, :time 5000, :type :invoke, :process 2, :f :poll, :value [[:poll]]}
{:index 18, :time 5000, :type :ok, :process 2, :f :poll, :value [[:poll {}]]}
{:index 19, :time 6000, :type :invoke, :process 8, :f :send, :value [[:send 0 6]]}
{:index 20, :time 6000, :type :info, :process 9, :f :send, :value [[:send 0 5]]}
{:index 21, :time 6500, :type :ok, :process 8, :f :send, :value [[:send 0 [nil 6]]]}
{:index 22, :time 7000, :type :invoke, :process 10, :f :poll, :value [[:poll]]}
{:index 23, :time 7000, :type :info, :process 0, :f :send, :value [[:send 0 3]], :node "n1"}
{:index 24, :time 7000, :type :info, :process 1, :f :send, :value [[:send 1 `+p1+`]], :node "n2", :error "timeout"}
{:index 25, :time 7000, :type :ok, :process 10, :f :poll, :value [[:poll {1 [[0 1] [1 `+p1+`] [2 "altered@2"] [3 "sentinel@3"]]}]]}
`, b.String())
	require.Equal(t, `"a\"\\\n"`, ednString("a\"\\\n"))
}

func TestValidate(t *testing.T) {
	require.NoError(t, sampleHistory(t).Validate())
	for name, c := range map[string]struct {
		change func(*History)
		want   string
	}{
		"version":        {func(h *History) { h.Header.Version = 1 }, "format version is 1"},
		"two keys":       {func(h *History) { h.Header.Keys[1] = "t-0" }, `two keys are named "t-0"`},
		"return":         {func(h *History) { h.Ops[0].Return = 1 }, "operation 0 returned at 1, before it was called at 1000"},
		"call":           {func(h *History) { h.Ops[0].Call = -1 }, "before the run began"},
		"ok, no return":  {func(h *History) { h.Ops[0].Return = Infinity }, "is ok and never returned"},
		"pending":        {func(h *History) { h.Ops[4].Outcome = Pending }, "operation 4 is pending"},
		"outcome":        {func(h *History) { h.Ops[0].Outcome = 7 }, "unknown outcome 7"},
		"kind":           {func(h *History) { h.Ops[0].Kind = 99 }, "unknown kind 99"},
		"key":            {func(h *History) { h.Ops[0].Key = 3 }, "operation 0 names key 3 of 3"},
		"node":           {func(h *History) { h.Ops[0].Node = -2 }, "names node -2 of 3"},
		"client":         {func(h *History) { h.Ops[0].Client = 3 }, "names client 3 of 3"},
		"id":             {func(h *History) { h.Ops[0].ID = 3 }, "operation 3 stands at place 0"},
		"value again":    {func(h *History) { h.Ops[3].Value = h.Ops[0].Value }, "operations 0 and 3 both send value 0:1"},
		"no value":       {func(h *History) { h.Ops[0].Value = 0 }, "sequence numbers begin at 1"},
		"offset":         {func(h *History) { h.Ops[0].Offset = -2 }, "has offset -2"},
		"from":           {func(h *History) { h.Ops[2].From = -2 }, "has from -2"},
		"high":           {func(h *History) { h.Ops[2].High = -2 }, "has high watermark -2"},
		"epoch":          {func(h *History) { h.Ops[2].Epoch = -2 }, "has epoch -2"},
		"record":         {func(h *History) { h.Ops[2].Records[0].Offset = -1 }, "record at offset -1"},
		"payload":        {func(h *History) { h.Ops[2].Records[0].Payload = 4 }, "unknown payload 4"},
		"send reads":     {func(h *History) { h.Ops[0].Records = h.Ops[2].Records }, "(send) delivered 3 records"},
		"overlap":        {func(h *History) { h.Ops[0].Return = 4250 }, "operations 0 and 3 of process 0 overlap"},
		"after the end":  {func(h *History) { h.Ops[3].Outcome = Indeterminate }, "operation 4 of process 0 follows operation 3"},
		"overlaps never": {func(h *History) { h.Ops[2].Process, h.Ops[2].Client = 1, 1 }, "returns at no time"},
		"two clients":    {func(h *History) { h.Ops[2].Process = 1 }, "of process 1 and of clients 1 and 2"},
		"phases":         {func(h *History) { h.Phases = append(h.Phases, Phase{"x", 9}, Phase{"y", 8}) }, `phase "y" begins at 8`},
		"stage":          {func(h *History) { h.Faults[0].Stage = "odd" }, `unknown stage "odd"`},
		"fault key":      {func(h *History) { h.Faults[0].Keys = []string{"t-9"} }, `names key "t-9"`},
		"event seq":      {func(h *History) { h.Events[0].Seq = 0 }, "numbered from 1"},
		"event node":     {func(h *History) { h.Events[0].Node = "n9" }, `names node "n9"`},
		"stall":          {func(h *History) { h.Stalls[0].To = 0 }, "a stall lasts from 5000 to 0"},
		"drain":          {func(h *History) { h.Drains[0].Key = "x" }, `a drain names key "x"`},
		"note":           {func(h *History) { h.Notes[0].At = -1 }, "a note was taken at -1"},
		"drained twice":  {func(h *History) { h.Replicas[1].Node = "n1" }, "drained twice"},
		"same":           {func(h *History) { h.Replicas[1].Same = "n3" }, "not drained before"},
		"replica order":  {func(h *History) { h.Replicas[0].Records[1].Offset = 0 }, "has offset 0 behind 0"},
		"replica node":   {func(h *History) { h.Replicas[0].Node = "q" }, `names node "q"`},
	} {
		h := sampleHistory(t)
		c.change(h)
		require.ErrorContains(t, h.Validate(), c.want, name)
	}
	touching := sampleHistory(t)
	touching.Ops[0].Return = touching.Ops[3].Call
	require.NoError(t, touching.Validate(), "a tie is no overlap")
	many := sampleHistory(t)
	for range 50 {
		many.Notes = append(many.Notes, Note{At: -1})
	}
	require.ErrorContains(t, many.Validate(), "and 30 more")
}
