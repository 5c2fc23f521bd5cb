package history

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testHeader() Header {
	return Header{
		RunID: "r1", Seed: 7, System: "reference", Scheme: "isr", Workload: "log",
		Keys:    []string{"t-0", "t-1", "t-2"},
		Nodes:   []string{"n1", "n2", "n3"},
		Clients: []Client{{Name: "p0", Role: "producer", Pinned: "n1"}, {Name: "p1", Role: "producer"}, {Name: "c0", Role: "poller"}},
		Started: "2026-01-02T03:04:05Z", Labels: map[string]string{"env": "sim"},
		Contract: Contract{Acknowledged: true, Expect: "survive", Order: "partition", Offsets: "global"},
	}
}

// sample records a small run with everything in it, one operation unanswered.
func sample(s Sink) {
	s.Event(Phase{"baseline", 0})
	a := Op{Client: 0, Process: 0, Kind: Send, Key: 1, Node: 0, Call: 1000, Value: MakeValue(0, 1), Offset: NoOffset, Acked: true, High: NoOffset, Epoch: -1}
	s.Invoke(&a)
	b := Op{Client: 1, Process: 1, Kind: Send, Key: 1, Node: NoNode, Call: 1500, Value: MakeValue(1, 1), Offset: NoOffset, Acked: true, High: NoOffset, Epoch: -1}
	s.Invoke(&b)
	a.Return, a.Outcome, a.Offset = 2500, OK, 0
	s.Complete(&a)
	c := Op{Client: 2, Process: 2, Kind: Poll, Key: 1, Node: 2, Call: 2600, Offset: NoOffset, High: NoOffset, Epoch: 3, Reset: true}
	s.Invoke(&c)
	c.Return, c.Outcome, c.High, c.Records = 4000, OK, 2, []Record{{0, MakeValue(0, 1), 3, Good, 0}, {1, MakeValue(1, 1), 3, Good, 0}, {2, 0, 3, Altered, 0}}
	s.Complete(&c)
	b.Return, b.Outcome, b.Code, b.Node = Infinity, Indeterminate, "timeout", 1
	s.Complete(&b)
	s.Event(&Fault{ID: 0, Name: "partition", Stage: Injected, At: 4100, Targets: []string{"n1"}, Sides: [][]string{{"n1"}, {"n2", "n3"}}, Proof: map[string]string{"lost": "3"}})
	d := Op{Client: 0, Process: 0, Kind: Send, Key: 2, Node: 0, Call: 4200, Value: MakeValue(0, 2), Offset: NoOffset, Acked: true, High: NoOffset, Epoch: -1}
	s.Invoke(&d)
	d.Return, d.Outcome, d.Code = 4300, Failed, "NOT_LEADER_OR_FOLLOWER"
	s.Complete(&d)
	e := Op{Client: 0, Process: 0, Kind: Send, Key: 0, Node: 0, Call: 4400, Value: MakeValue(0, 3), Offset: NoOffset, Acked: true, High: NoOffset, Epoch: -1}
	s.Invoke(&e)
	s.Event(NodeEvent{Node: "n2", Incarnation: "x", Seq: 1, At: -5, Uncertainty: 10, Kind: "leader", Key: "t-1", Epoch: 3, ISR: []string{"n2", "n3"}})
	s.Event(Stall{5000, 6000})
	log := []Record{{0, MakeValue(0, 1), 3, Good, 0}, {1, MakeValue(1, 1), 3, Good, 0}, {2, 0, 3, Altered, 0}, {3, 9, 4, Sentinel, 0}}
	s.Event(Replica{Key: "t-1", Node: "n1", Leader: true, Complete: true, End: 4, Epoch: 4, Sentinel: 3, Digest: "d", Records: log})
	s.Event(Replica{Key: "t-1", Node: "n2", Complete: true, End: 4, Epoch: 4, Sentinel: 3, Digest: "d", Same: "n1"})
	s.Event(Drain{Key: "t-1", Complete: true, At: 7000, InSync: true, Quiet: true, Epoch: 4})
	s.Event(Note{7100, "done"})
}

func sampleHistory(t testing.TB) *History {
	r := NewRecorder(testHeader())
	sample(r)
	require.NoError(t, r.Err())
	return r.History()
}

func write(t testing.TB, header Header, f func(Sink)) string {
	path := filepath.Join(t.TempDir(), FileName)
	w, err := Create(path, header)
	require.NoError(t, err)
	f(w)
	require.NoError(t, w.Close())
	return path
}

func load(t testing.TB, path string) *History {
	h, err := Load(path)
	require.NoError(t, err)
	return h
}

// memory is a file in memory that is written.
type memory struct{ bytes.Buffer }

func (m *memory) Sync() error  { return nil }
func (m *memory) Close() error { return nil }

// source is a file in memory that is read.
type source struct{ *bytes.Reader }

func (s source) Close() error         { return nil }
func (s source) Size() (int64, error) { return s.Reader.Size(), nil }

func loadBytes(b []byte) (*History, error) {
	r, err := newReader("test.flh", source{bytes.NewReader(b)})
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	return r.load()
}

func TestSampleRoundTrip(t *testing.T) {
	want := sampleHistory(t)
	require.NoError(t, want.Validate())
	got := load(t, write(t, testHeader(), sample))
	require.Equal(t, want, got)
	require.True(t, got.Closed)
	require.Equal(t, Indeterminate, got.Ops[4].Outcome)
	require.Equal(t, Infinity, got.Ops[4].Return)
	require.Equal(t, got.Replicas[0].Records, got.Replicas[1].Records)
	require.Len(t, got.Replicas[1].Records, 4)
}

// genOp draws any operation at all, also impossible ones.
func genOp(t *rapid.T) Op {
	wide := rapid.OneOf(rapid.Int64Range(-2, 300), rapid.Int64())
	seldom := rapid.OneOf(rapid.Just(int64(0)), wide)
	return Op{
		Client:  rapid.OneOf(rapid.Int32Range(0, 4), rapid.Int32()).Draw(t, "client"),
		Process: wide.Draw(t, "process"),
		Kind:    Kind(rapid.OneOf(rapid.Uint8Range(1, 9), rapid.Uint8()).Draw(t, "kind")),
		Key:     rapid.OneOf(rapid.Int32Range(0, 4), rapid.Int32()).Draw(t, "key"),
		Node:    rapid.OneOf(rapid.Int16Range(-1, 4), rapid.Int16()).Draw(t, "node"),
		Call:    wide.Draw(t, "call"),
		Value:   Value(rapid.OneOf(rapid.Uint64Range(0, 300), rapid.Uint64()).Draw(t, "value")),
		Offset:  wide.Draw(t, "offset"),
		Acked:   rapid.Bool().Draw(t, "acked"),
		From:    wide.Draw(t, "from"),
		High:    wide.Draw(t, "high"),
		Epoch:   rapid.OneOf(rapid.Int32Range(-1, 9), rapid.Int32()).Draw(t, "epoch"),
		Reset:   rapid.Bool().Draw(t, "reset"),

		Due:       seldom.Draw(t, "due"),
		Lock:      seldom.Draw(t, "lock"),
		Of:        seldom.Draw(t, "of"),
		Txn:       seldom.Draw(t, "txn"),
		Committed: rapid.Bool().Draw(t, "committed"),
	}
}

func genRecords(t *rapid.T) []Record {
	out := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Record {
		return Record{
			Offset:  rapid.OneOf(rapid.Int64Range(-1, 50), rapid.Int64()).Draw(t, "offset"),
			Value:   Value(rapid.OneOf(rapid.Uint64Range(0, 50), rapid.Uint64()).Draw(t, "value")),
			Epoch:   rapid.OneOf(rapid.Int32Range(-1, 3), rapid.Int32()).Draw(t, "epoch"),
			Payload: Payload(rapid.Uint8Range(0, 3).Draw(t, "payload")),

			Delivery: rapid.OneOf(rapid.Int32Range(0, 2), rapid.Int32()).Draw(t, "delivery"),
		}
	}), 0, 12).Draw(t, "records")
	return cloneRecords(out)
}

// genRun records the same random run into every sink.
func genRun(t *rapid.T, sinks ...Sink) {
	var open []Op
	for range rapid.IntRange(0, 60).Draw(t, "steps") {
		switch rapid.IntRange(0, 5).Draw(t, "step") {
		case 0, 1:
			op := genOp(t)
			for _, s := range sinks {
				s.Invoke(&op)
			}
			open = append(open, op)
		case 2, 3:
			if len(open) == 0 {
				continue
			}
			i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
			op := open[i]
			open = append(open[:i], open[i+1:]...)
			if rapid.Bool().Draw(t, "changed") {
				changed := genOp(t)
				knownOf(&changed).into(&op)
			}
			op.Return = rapid.OneOf(rapid.Just(Infinity), rapid.Int64Range(op.Call, max(op.Call, op.Call+9)), rapid.Int64()).Draw(t, "return")
			op.Outcome = Outcome(rapid.Uint8Range(1, 3).Draw(t, "outcome"))
			op.Code = rapid.SampledFrom([]string{"", "timeout", "A", "\xff"}).Draw(t, "code")
			op.Records = genRecords(t)
			for _, s := range sinks {
				s.Complete(&op)
			}
		case 4:
			var ev any
			at := rapid.Int64().Draw(t, "at")
			text := rapid.String().Draw(t, "text")
			switch rapid.IntRange(0, 6).Draw(t, "event") {
			case 0:
				ev = Phase{text, at}
			case 1:
				ev = Fault{Name: text, At: at, Targets: []string{text}}
			case 2:
				ev = NodeEvent{Node: text, At: at}
			case 3:
				ev = Stall{at, at}
			case 4:
				ev = Replica{Key: "t", Node: text, End: at, Records: genRecords(t)}
			case 5:
				ev = Drain{Key: text, At: at}
			case 6:
				ev = Note{at, text}
			}
			for _, s := range sinks {
				s.Event(ev)
			}
		case 5:
			for _, s := range sinks {
				if w, ok := s.(*Writer); ok {
					require.NoError(t, w.Flush())
				}
			}
		}
	}
}

func TestRoundTripOfAnything(t *testing.T) {
	plainly(t)
	rapid.Check(t, func(t *rapid.T) {
		file := &memory{}
		w, err := newWriter("test.flh", file, testHeader())
		require.NoError(t, err)
		rec := NewRecorder(testHeader())
		genRun(t, w, rec)
		require.NoError(t, w.Close())
		require.NoError(t, rec.Err())
		got, err := loadBytes(file.Bytes())
		require.NoError(t, err)
		want := rec.History()
		require.Equal(t, want, got)
		require.Equal(t, want.Digest(), got.Digest())
	})
}

func TestSaveKeepsEverything(t *testing.T) {
	for _, closed := range []bool{true, false} {
		want := sampleHistory(t)
		want.Closed = closed
		path := filepath.Join(t.TempDir(), FileName)
		require.NoError(t, Save(path, want))
		require.Equal(t, want, load(t, path))
	}
}

func TestCreateRefusesToOverwrite(t *testing.T) {
	path := write(t, testHeader(), sample)
	_, err := Create(path, testHeader())
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "choose another directory")
	require.NotEmpty(t, load(t, path).Ops)
	_, err = Create(filepath.Join(t.TempDir(), "no", "dir"), testHeader())
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A cut at any byte keeps everything before the torn chunk, never fails, and
// never makes up an answer.
func TestTornAtEveryByte(t *testing.T) {
	var chunks []int // file length after each flush
	file := &memory{}
	w, err := newWriter("test.flh", file, testHeader())
	require.NoError(t, err)
	chunks = append(chunks, file.Len())
	sent := 0
	for i := range 6 {
		op := Op{Client: int32(i % 2), Process: int64(i % 2), Kind: Send, Call: int64(i * 10), Value: MakeValue(int32(i%2), int64(i/2+1)), Offset: NoOffset, Acked: true}
		w.Invoke(&op)
		require.NoError(t, w.Flush())
		chunks = append(chunks, file.Len())
		if i != 3 {
			op.Return, op.Outcome, op.Offset = op.Call+5, OK, int64(i)
			w.Complete(&op)
			require.NoError(t, w.Flush())
			chunks = append(chunks, file.Len())
			sent++
		}
	}
	require.NoError(t, w.Close())
	whole := file.Bytes()
	full, err := loadBytes(whole)
	require.NoError(t, err)
	require.True(t, full.Closed)

	for cut := range whole {
		h, err := loadBytes(whole[:cut])
		if cut < chunks[0] {
			require.ErrorContains(t, err, "ends before its header", "cut at %d", cut)
			continue
		}
		require.NoError(t, err, "cut at %d", cut)
		require.False(t, h.Closed, "cut at %d", cut)
		n := 0
		for n+1 < len(chunks) && chunks[n+1] <= cut {
			n++
		}
		require.EqualValues(t, cut-chunks[n], h.Torn, "cut at %d", cut)
		answered := 0
		for i, op := range h.Ops {
			if op.Outcome == Indeterminate {
				require.Equal(t, Infinity, op.Return)
				require.Equal(t, full.Ops[i].Value, op.Value)
				require.Equal(t, full.Ops[i].Call, op.Call)
			} else {
				require.Equal(t, full.Ops[i], op)
				answered++
			}
		}
		require.Equal(t, n, len(h.Ops)+answered, "every flush before the cut at %d holds one entry", cut)
	}
	require.Equal(t, 5, sent)
}

// A flipped bit anywhere is either a named error, or, in the last chunk only,
// a torn tail: it never changes what is read.
func TestFlippedBits(t *testing.T) {
	file := &memory{}
	w, err := newWriter("test.flh", file, testHeader())
	require.NoError(t, err)
	sample(w)
	require.NoError(t, w.Flush())
	sample(w)
	last := file.Len()
	require.NoError(t, w.Close())
	whole := bytes.Clone(file.Bytes())
	require.Greater(t, len(whole), last)
	for at := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[at] ^= 1 << bit
			h, err := loadBytes(b)
			if at >= last {
				require.NoError(t, err)
				require.False(t, h.Closed)
				require.EqualValues(t, len(whole)-last, h.Torn)
				continue
			}
			require.Error(t, err, "byte %d bit %d", at, bit)
			require.ErrorContains(t, err, "test.flh")
			if at > len(magic) {
				var c *CorruptError
				require.ErrorAs(t, err, &c)
				require.LessOrEqual(t, c.Offset, int64(at))
				require.ErrorContains(t, err, fmt.Sprintf("at byte %d", c.Offset))
				require.ErrorContains(t, err, "run again")
			}
		}
	}
}

func TestMissingDoubledAndSwappedChunks(t *testing.T) {
	file := &memory{}
	w, err := newWriter("test.flh", file, testHeader())
	require.NoError(t, err)
	at := []int{file.Len()}
	for i := range 3 {
		w.Event(Note{int64(i), strings.Repeat("x", i)})
		require.NoError(t, w.Flush())
		at = append(at, file.Len())
	}
	require.NoError(t, w.Close())
	b := file.Bytes()
	head, one, two, rest := b[:at[0]], b[at[0]:at[1]], b[at[1]:at[2]], b[at[2]:]
	for name, parts := range map[string][][]byte{
		"missing": {head, two, rest},
		"doubled": {head, one, one, two, rest},
		"swapped": {head, two, one, rest},
		"behind":  {head, one, two, rest, one},
		"hole":    {head, one, make([]byte, len(two)), rest},
		"garbage": {head, one, bytes.Repeat([]byte("FLCK"), 1<<19), two, rest},
	} {
		_, err := loadBytes(bytes.Join(parts, nil))
		var c *CorruptError
		require.ErrorAs(t, err, &c, name)
	}
	h, err := loadBytes(bytes.Join([][]byte{head, one, make([]byte, 3<<20)}, nil))
	require.NoError(t, err, "zeros at the end are what a crash of the machine leaves")
	require.EqualValues(t, 3<<20, h.Torn)
	require.Len(t, h.Notes, 1)
}

func TestNotAHistory(t *testing.T) {
	_, err := loadBytes([]byte("a completely different file"))
	require.ErrorContains(t, err, "is not a history")
	_, err = loadBytes(append([]byte(magic), Version+1))
	require.ErrorContains(t, err, "format version 3")
	_, err = Load(filepath.Join(t.TempDir(), "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, FileName)
}

func TestReadWhileItGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	w, err := Create(path, testHeader())
	require.NoError(t, err)
	r, err := Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	require.Equal(t, "r1", r.Header().RunID)
	next := func() any {
		e, err := r.Next()
		require.NoError(t, err)
		return e
	}
	end := func() {
		_, err := r.Next()
		require.ErrorIs(t, err, io.EOF)
	}
	end()
	op := Op{Kind: Send, Value: MakeValue(0, 1), Call: 5}
	w.Invoke(&op)
	end()
	require.NoError(t, w.Flush())
	end()
	require.Len(t, r.Open(), 1)
	require.Equal(t, op.Value, r.Open()[0].Value)
	op.Return, op.Outcome, op.Offset = 9, OK, 17
	w.Complete(&op)
	w.Event(Note{1, "a"})
	require.NoError(t, w.Flush())
	require.Equal(t, &op, next())
	require.Equal(t, Note{1, "a"}, next())
	end()
	require.Empty(t, r.Open())
	require.False(t, r.Closed())
	require.NoError(t, w.Close())
	end()
	require.True(t, r.Closed())
	require.Zero(t, r.Torn())
}

func TestFlushWithoutNewsWritesNothing(t *testing.T) {
	file := &memory{}
	w, err := newWriter("test.flh", file, testHeader())
	require.NoError(t, err)
	before := file.Len()
	require.NoError(t, w.Flush())
	require.Equal(t, before, file.Len())
	require.NoError(t, w.Close())
	require.NoError(t, w.Close())
	require.NoError(t, w.Flush())
}

func TestConcurrentWriters(t *testing.T) {
	const writers, each = 8, 2000
	header := testHeader()
	header.Clients = nil
	for i := range writers {
		header.Clients = append(header.Clients, Client{Name: fmt.Sprint("c", i)})
	}
	path := filepath.Join(t.TempDir(), FileName)
	w, err := Create(path, header)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for c := range writers {
		wg.Go(func() {
			for i := range each {
				op := Op{Client: int32(c), Process: int64(c), Kind: Send, Key: int32(i % 3), Call: int64(2 * i), Value: MakeValue(int32(c), int64(i+1)), Offset: NoOffset, Acked: true}
				w.Invoke(&op)
				op.Return, op.Outcome, op.Offset = op.Call+1, OK, int64(c*each+i)
				w.Complete(&op)
				if i%500 == 0 {
					w.Event(NodeEvent{Node: "n1", Seq: int64(i + 1)})
					if err := w.Flush(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, w.Close())
	h := load(t, path)
	require.NoError(t, h.Validate())
	require.Len(t, h.Ops, writers*each)
	require.Len(t, h.Events, writers*each/500)
	for _, op := range h.Ops {
		require.Equal(t, OK, op.Outcome)
		require.Equal(t, int64(op.Client)*each+op.Value.Seq()-1, op.Offset)
	}
}

// full is a disk with room for n bytes.
type full struct {
	memory
	n int
}

func (f *full) Write(p []byte) (int, error) {
	k := min(f.n, len(p))
	f.n -= k
	_, _ = f.Buffer.Write(p[:k])
	if k < len(p) {
		return k, syscall.ENOSPC
	}
	return k, nil
}

func TestFullDisk(t *testing.T) {
	f := &full{n: 2000}
	w, err := newWriter("results/x/history.flh", f, testHeader())
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 200_000 { // far more than the buffers hold: nobody hangs
		op := Op{Client: int32(i % 3), Kind: Send, Call: rng.Int64(), Value: Value(i + 1)}
		w.Invoke(&op)
	}
	for _, err := range []error{w.Flush(), w.Err(), w.Close(), w.Close()} {
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.ErrorContains(t, err, "results/x/history.flh")
		require.ErrorContains(t, err, "free space")
	}
	h, err := loadBytes(f.Bytes())
	require.NoError(t, err)
	require.False(t, h.Closed)

	_, err = newWriter("history.flh", &full{}, testHeader())
	require.ErrorIs(t, err, syscall.ENOSPC)
}

func TestMisuseIsKept(t *testing.T) {
	op := Op{Kind: Send, Value: 1}
	answered := func(s Sink) Op {
		o := op
		s.Invoke(&o)
		o.Outcome = OK
		s.Complete(&o)
		return o
	}
	for name, c := range map[string]struct {
		do   func(Sink)
		want string
	}{
		"never invoked": {func(s Sink) { s.Complete(&Op{ID: 5, Outcome: OK}) }, "is not open"},
		"twice":         {func(s Sink) { o := answered(s); s.Complete(&o) }, "is not open"},
		"pending":       {func(s Sink) { o := op; s.Invoke(&o); s.Complete(&o) }, "outcome pending"},
		"outcome":       {func(s Sink) { o := op; s.Invoke(&o); o.Outcome = 9; s.Complete(&o) }, "outcome(9)"},
		"payload": {func(s Sink) {
			o := op
			s.Invoke(&o)
			o.Outcome, o.Records = OK, []Record{{Payload: 4}}
			s.Complete(&o)
		}, "unknown payload 4"},
		"event":  {func(s Sink) { s.Event(42) }, "int is no event"},
		"header": {func(s Sink) { s.Event(Header{}) }, "header"},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := newWriter("test.flh", &memory{}, testHeader())
			require.NoError(t, err)
			c.do(w)
			require.ErrorContains(t, w.Close(), strings.ReplaceAll(c.want, "Header", "header"))
			r := NewRecorder(testHeader())
			c.do(r)
			require.ErrorContains(t, r.Err(), strings.ReplaceAll(c.want, "header", "Header"))
		})
	}
	w, err := newWriter("test.flh", &memory{}, testHeader())
	require.NoError(t, err)
	require.NoError(t, w.Close())
	w.Invoke(&op)
	require.ErrorContains(t, w.Err(), "after Close")
	w.Event(Note{})
	w.Complete(&op)

	w, err = newWriter("test.flh", &memory{}, testHeader())
	require.NoError(t, err)
	w.Event(Note{Text: strings.Repeat("x", maxEntry)})
	require.ErrorContains(t, w.Close(), "shorten its texts")
}

func TestLongListsOfRecords(t *testing.T) {
	records := make([]Record, 3*maxBlock+7)
	for i := range records {
		records[i] = Record{Offset: int64(i), Value: MakeValue(int32(i%5), int64(i/5+1)), Epoch: 2}
	}
	record := func(s Sink) {
		op := Op{Kind: Poll, Client: 2}
		s.Invoke(&op)
		op.Outcome, op.Records, op.Return = OK, records, 1
		s.Complete(&op)
		s.Event(Replica{Key: "t-0", Node: "n1", Records: records})
	}
	path := write(t, testHeader(), record)
	h := load(t, path)
	require.Equal(t, records, h.Ops[0].Records)
	require.Equal(t, records, h.Replicas[0].Records)
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, fi.Size(), int64(2*len(records)), "a byte a record, before the digest of regular ones")
}

func TestSameMustNameAnEarlierReplica(t *testing.T) {
	path := write(t, testHeader(), func(s Sink) { s.Event(Replica{Key: "t-0", Node: "n1", Same: "n2"}) })
	_, err := Load(path)
	var c *CorruptError
	require.ErrorAs(t, err, &c)
	require.ErrorContains(t, err, "replica t-0 on n1 is said to equal that on n2")
	r := NewRecorder(testHeader())
	r.Event(Replica{Key: "t-0", Node: "n1", Same: "n2"})
	r.History()
	require.ErrorContains(t, r.Err(), "said to equal")
}

func TestRecorderKeepsCopies(t *testing.T) {
	r := NewRecorder(testHeader())
	op := Op{Kind: Poll}
	r.Invoke(&op)
	op.Outcome, op.Records = OK, []Record{{Offset: 1}}
	r.Complete(&op)
	h := r.History()
	op.Records[0].Offset = 9
	op2 := Op{Kind: Poll}
	r.Invoke(&op2)
	require.EqualValues(t, 1, h.Ops[0].Records[0].Offset)
	require.Len(t, h.Ops, 1)
	require.Len(t, r.History().Ops, 2)
}

func TestDigest(t *testing.T) {
	base := sampleHistory(t).Digest()
	require.Len(t, base, 64)
	same := sampleHistory(t)
	same.Header.RunID, same.Header.Started, same.Header.Labels, same.Torn = "other", "", nil, 4
	require.Equal(t, base, same.Digest())
	for name, change := range map[string]func(*History){
		"seed":      func(h *History) { h.Header.Seed++ },
		"contract":  func(h *History) { h.Header.Contract.Fresh = true },
		"call":      func(h *History) { h.Ops[0].Call++ },
		"return":    func(h *History) { h.Ops[0].Return++ },
		"outcome":   func(h *History) { h.Ops[0].Outcome = Failed },
		"code":      func(h *History) { h.Ops[1].Code = "reset" },
		"record":    func(h *History) { h.Ops[2].Records[0].Offset++ },
		"payload":   func(h *History) { h.Ops[2].Records[0].Payload = Altered },
		"acked":     func(h *History) { h.Ops[0].Acked = false },
		"less ops":  func(h *History) { h.Ops = h.Ops[:3] },
		"phase":     func(h *History) { h.Phases[0].At++ },
		"fault":     func(h *History) { h.Faults[0].Proof["lost"] = "4" },
		"event":     func(h *History) { h.Events[0].Epoch++ },
		"stall":     func(h *History) { h.Stalls = nil },
		"replica":   func(h *History) { h.Replicas[0].Records[0].Value++ },
		"drain":     func(h *History) { h.Drains[0].Quiet = false },
		"note":      func(h *History) { h.Notes[0].Text = "" },
		"closed":    func(h *History) { h.Closed = false },
		"node":      func(h *History) { h.Ops[0].Node = 1 },
		"reset":     func(h *History) { h.Ops[0].Reset = true },
		"last seen": func(h *History) { h.Ops[2].High++ },
		"due":       func(h *History) { h.Ops[0].Due++ },
		"lock":      func(h *History) { h.Ops[2].Lock++ },
		"of":        func(h *History) { h.Ops[0].Of = NoOp },
		"txn":       func(h *History) { h.Ops[0].Txn++ },
		"committed": func(h *History) { h.Ops[2].Committed = true },
		"delivery":  func(h *History) { h.Ops[2].Records[0].Delivery++ },
		"ready":     func(h *History) { h.Replicas[0].Ready++ },
		"queues":    func(h *History) { h.Header.Queues = []Queue{{Key: "t-0"}} },
	} {
		h := sampleHistory(t)
		change(h)
		require.NotEqual(t, base, h.Digest(), name)
	}
}

func TestValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := Value(rapid.Uint64().Draw(t, "v"))
		require.Equal(t, v, MakeValue(v.Producer(), v.Seq()))
		got, err := ParseValue(v.String())
		require.NoError(t, err)
		require.Equal(t, v, got)
	})
	require.Equal(t, "3:17", MakeValue(3, 17).String())
	for _, bad := range []string{"", "3", ":", "-1:2", "3:x", "16777216:1", "1:1099511627776", "1:2:3"} {
		_, err := ParseValue(bad)
		require.ErrorContains(t, err, "producer:sequence", bad)
	}
}

func TestStreaming(t *testing.T) {
	path := write(t, workloadHeader(), func(s Sink) {
		workload(s, 20_000, 100_000, func() {})
		never := Op{Client: 0, Process: 9999, Kind: Send, Key: 0, Node: NoNode, Call: 1 << 40, Value: MakeValue(7, 1), Offset: NoOffset, Epoch: -1, High: NoOffset}
		s.Invoke(&never)
		for range 2 * ring { // so that the one before must be found elsewhere
			next := never
			next.Process++
			next.Value++
			s.Invoke(&next)
			next.Outcome, next.Return = OK, next.Call
			s.Complete(&next)
			never.Value, never.Process = next.Value, next.Process
		}
	})
	want := load(t, path)
	got := &History{Header: want.Header, Ops: make([]Op, len(want.Ops)), Closed: true}
	r, err := Open(path)
	require.NoError(t, err)
	invoked := 0
	for e, err := range r.Entries() {
		require.NoError(t, err)
		switch {
		case e.Event != nil:
			got.add(e.Event)
		case e.Answered:
			op := *e.Op
			op.Records = cloneRecords(op.Records)
			got.Ops[op.ID] = op
		default:
			require.Equal(t, Pending, e.Op.Outcome)
			require.Equal(t, int64(invoked), e.Op.ID)
			got.Ops[e.Op.ID] = *e.Op
			got.Ops[e.Op.ID].Outcome = Indeterminate
			invoked++
		}
	}
	require.NoError(t, r.Close())
	require.Equal(t, len(want.Ops), invoked)
	require.Equal(t, want.Digest(), got.Digest())

	r, err = Open(path)
	require.NoError(t, err)
	defer func() { _ = r.Close() }()
	clear(got.Ops)
	last := int64(-1)
	for op, err := range r.Operations() {
		require.NoError(t, err)
		got.Ops[op.ID] = *op
		got.Ops[op.ID].Records = cloneRecords(op.Records)
		last = op.ID
	}
	require.Equal(t, want.Digest(), got.Digest())
	require.Equal(t, Infinity, want.Ops[last].Return, "what was never answered comes last")
	require.True(t, r.Closed())
}

// TestStreamingAllocates nothing for each operation.
func TestStreamingAllocates(t *testing.T) {
	path := write(t, workloadHeader(), func(s Sink) { workload(s, 50_000, 100_000, func() {}) })
	allocs := testing.AllocsPerRun(1, func() {
		r, err := Open(path)
		require.NoError(t, err)
		ops := 0
		for _, err := range r.Operations() {
			require.NoError(t, err)
			ops++
		}
		require.NoError(t, r.Close())
		require.Greater(t, ops, 60_000)
	})
	require.Less(t, allocs, 5_000.0) // chunks, and 100 events of nodes
}

// plainly leaves a test of one goroutine and many cases to the run without the race
// detector; `make test` has both.
func plainly(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("runs without the race detector")
	}
}
