package history

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// FuzzBody feeds bodies whose checksums are right to the decoder of entries.
func FuzzBody(f *testing.F) {
	var e encoder
	e.begin(nil, 0)
	kind, body, _, err := marshal(testHeader())
	require.NoError(f, err)
	e.event(kind, body, nil)
	head := bytes.Clone(e.buf)
	op := Op{Kind: Poll, Client: 2, Key: 1, Call: 9, Value: 4, Process: 3}
	e.invoke(&op)
	op.Outcome, op.Code, op.Records = OK, "x", []Record{{1, 2, 3, Good, 0}, {9, 1 << 50, 3, Altered, 0}}
	e.complete(&op, op.Records, known{}, 1)
	e.buf = append(e.buf, tagRecords)
	e.records(op.Records)
	kind, body, _, err = marshal(Replica{Key: "t-0", Node: "n1"})
	require.NoError(f, err)
	e.event(kind, body, op.Records)
	e.buf = append(e.buf, tagClose, 1)
	f.Add(bytes.Clone(e.buf[len(head):]))
	e.buf = append(e.buf[:0], head...)
	e.state = state{}
	takes := Op{Kind: Receive, Call: 9, Due: 8, Lock: 5, Committed: true}
	e.invoke(&takes)
	base := knownOf(&takes)
	takes.Lock, takes.Outcome, takes.Records = 6, OK, []Record{{NoOffset, 2, -1, Good, 1}, {NoOffset, 3, -1, Good, 2}}
	e.complete(&takes, takes.Records, base, 1)
	settles := Op{ID: 1, Kind: Accept, Value: 2, Txn: 3, Of: NoOp}
	e.invoke(&settles)
	e.buf = append(e.buf, tagClose, 2)
	f.Add(bytes.Clone(e.buf[len(head):]))
	f.Add([]byte{tagRecords, 0xff, 0xff, 0x01})
	f.Add([]byte{tagComplete | hasRecords, 0, 0, 0})
	f.Add([]byte{tagEvent, evNote, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{tagInvoke, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f})

	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	require.NoError(f, err)
	f.Cleanup(func() { _ = enc.Close() })
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 1<<20 {
			return
		}
		file := append([]byte(magic), Version)
		file = appendChunk(file, 0, append(bytes.Clone(head), body...), enc)
		h, err := loadBytes(file)
		if err != nil {
			var c *CorruptError
			require.ErrorAs(t, err, &c)
			return
		}
		again(t, h)
	})
}

// again checks that what was read can be written and read again.
func again(t *testing.T, h *History) {
	file := &memory{}
	w, err := newWriter("again.flh", file, h.Header)
	require.NoError(t, err)
	h.replay(w)
	require.NoError(t, w.finish(h.Closed))
	got, err := loadBytes(file.Bytes())
	require.NoError(t, err)
	require.Equal(t, h.Digest(), got.Digest())
	_ = h.Validate() // whatever it says, it does not panic
	require.NoError(t, ExportEDN(io.Discard, h))
}

// FuzzFile feeds whole files to the reader.
func FuzzFile(f *testing.F) {
	file := &memory{}
	w, err := newWriter("seed.flh", file, testHeader())
	require.NoError(f, err)
	sample(w)
	require.NoError(f, w.Flush())
	sample(w)
	require.NoError(f, w.Close())
	f.Add(file.Bytes())
	f.Add(file.Bytes()[:file.Len()/2])
	f.Add([]byte(magic))
	// A chunk that claims far more than there is, with checksums that match.
	huge := make([]byte, headerSize)
	le := binary.LittleEndian
	le.PutUint32(huge, marker)
	le.PutUint32(huge[8:], 1<<31)
	le.PutUint32(huge[12:], 1<<32-1)
	le.PutUint32(huge[20:], crc32.Checksum(huge[:20], castagnoli))
	f.Add(append(append([]byte(magic), Version), huge...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := newReader("test.flh", source{bytes.NewReader(b)})
		if err != nil {
			return
		}
		defer func() { _ = r.Close() }()
		for range 1 << 20 {
			if _, err = r.Next(); err != nil {
				break
			}
		}
		if errors.Is(err, io.EOF) {
			require.LessOrEqual(t, r.Torn(), int64(len(b)))
			return
		}
		_, again := r.Next()
		require.Equal(t, err, again, "an error is final")
	})
}

func TestHostileLengths(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	require.NoError(t, err)
	defer func() { _ = enc.Close() }()
	begin := append([]byte(magic), Version)
	bomb := appendChunk(bytes.Clone(begin), 0, make([]byte, 64<<20), enc)
	lying := bytes.Clone(bomb)
	le := binary.LittleEndian
	h := lying[len(begin):]
	le.PutUint32(h[12:], maxChunk)
	le.PutUint32(h[20:], crc32.Checksum(h[:20], castagnoli))
	for name, b := range map[string][]byte{"honest bomb": bomb, "lying bomb": lying} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := loadBytes(b)
		runtime.ReadMemStats(&after)
		var c *CorruptError
		require.ErrorAs(t, err, &c, name)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4*maxChunk), name)
	}
}

func FuzzImportJSONL(f *testing.F) {
	var b bytes.Buffer
	require.NoError(f, ExportJSONL(&b, sampleHistory(f)))
	f.Add(b.Bytes())
	f.Add([]byte(`{"header":{"version":2}}` + "\n" + `{"op":{"id":0,"kind":"send","outcome":"ok"}}` + "\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := ImportJSONL(bytes.NewReader(in))
		if err != nil {
			return
		}
		var out bytes.Buffer
		require.NoError(t, ExportJSONL(&out, h))
		got, err := ImportJSONL(&out)
		require.NoError(t, err)
		require.Equal(t, h.Digest(), got.Digest())
	})
}
