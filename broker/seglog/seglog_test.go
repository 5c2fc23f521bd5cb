package seglog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"path"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/vfs"
)

const dir = "topic/0"

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 2)) }

// makeBatch returns a batch of n records at base with a payload of the given bytes (no real records: the log does not
// look at them).
func makeBatch(base int64, n int, epoch int32, payload []byte) []byte {
	b := make([]byte, batch.HeaderSize, batch.HeaderSize+len(payload))
	b = append(b, payload...)
	be := binary.BigEndian
	be.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	be.PutUint32(b[23:], uint32(n-1))
	be.PutUint64(b[35:], uint64(1000+base))
	be.PutUint64(b[43:], 7)
	be.PutUint16(b[51:], 1)
	be.PutUint32(b[53:], uint32(base))
	be.PutUint32(b[57:], uint32(n))
	batch.Stamp(b, base, epoch)
	be.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

// small returns a frame of n records at base.
func small(base int64, n int) Frame {
	return Frame{Batch: makeBatch(base, n, 1, fmt.Appendf(nil, "payload of %d", base))}
}

func mustOpen(t require.TestingT, fsys vfs.FS, opt Options) (*Log, Recovered) {
	l, rec, err := Open(fsys, dir, opt)
	require.NoError(t, err)
	return l, rec
}

// healthy opens a log that must not be corrupt.
func healthy(t require.TestingT, fsys vfs.FS, opt Options) (*Log, Recovered) {
	l, rec := mustOpen(t, fsys, opt)
	require.Nil(t, rec.Corrupt)
	return l, rec
}

func join(frames []Frame) []byte {
	var out []byte
	for _, f := range frames {
		out = append(out, f.Batch...)
	}
	return out
}

func read(t require.TestingT, l *Log, from, to int64) []byte {
	b, err := l.Read(from, to, 1<<30)
	require.NoError(t, err)
	return b
}

func segments(t require.TestingT, fsys vfs.FS) []string {
	names, err := fsys.List(dir)
	require.NoError(t, err)
	var out []string
	for _, n := range names {
		if path.Ext(n) == segmentSuffix {
			out = append(out, path.Join(dir, n))
		}
	}
	return out
}

func resizeFile(t require.TestingT, fsys vfs.FS, name string, size int64) {
	f, err := fsys.OpenFile(name, false)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
}

func TestAppendReadReopen(t *testing.T) {
	m := vfs.NewMem()
	l, rec := healthy(t, m, Options{SegmentBytes: 400})
	require.Equal(t, Recovered{}, rec)
	var all []Frame
	for base := int64(0); base < 30; base += 3 {
		f := small(base, 3)
		f.Origin, f.OriginSeq = int32(base%2), base%4
		all = append(all, f)
		require.NoError(t, l.Append(f))
	}
	require.EqualValues(t, 30, l.End())
	require.Less(t, l.Durable(), l.End())
	require.NoError(t, l.Sync())
	require.EqualValues(t, 30, l.Durable())
	require.Len(t, segments(t, m), 3)

	for name, tc := range map[string]struct {
		from, to int64
		max      int
		want     []Frame
	}{
		"all":                       {0, 30, 1 << 20, all},
		"to beyond the end":         {0, 99, 1 << 20, all},
		"from inside a batch":       {4, 30, 1 << 20, all[1:]},
		"to inside a batch":         {0, 4, 1 << 20, all[:2]},
		"to at a batch's beginning": {0, 3, 1 << 20, all[:1]},
		"too little room for one":   {6, 30, 1, all[2:3]},
		"room for two":              {6, 30, 2*len(all[0].Batch) + 2, all[2:4]},
		"at the end":                {30, 40, 1, nil},
		"empty range":               {5, 5, 100, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := l.Read(tc.from, tc.to, tc.max)
			require.NoError(t, err)
			require.Equal(t, join(tc.want), got)
			frames, err := l.ReadFrames(tc.from, tc.to, tc.max)
			require.NoError(t, err)
			require.Equal(t, tc.want, frames)
		})
	}
	_, err := l.Read(31, 40, 1)
	require.ErrorIs(t, err, ErrOutOfRange)
	_, err = l.Read(-1, 40, 1)
	require.ErrorIs(t, err, ErrOutOfRange)

	digest, err := l.Digest()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Append(small(30, 1)), fs.ErrClosed)
	_, err = l.Read(0, 1, 1)
	require.ErrorIs(t, err, fs.ErrClosed)

	l, rec = healthy(t, m, Options{SegmentBytes: 400})
	require.EqualValues(t, 0, rec.Start)
	require.EqualValues(t, 30, rec.End)
	require.Zero(t, rec.TruncatedBytes)
	require.Len(t, rec.Batches, 10)
	require.Len(t, rec.Infos(), 10)
	for i, b := range rec.Batches {
		info, err := batch.Parse(all[i].Batch)
		require.NoError(t, err)
		require.Equal(t, Batch{info, all[i].Origin, all[i].OriginSeq}, b)
	}
	again, err := l.Digest()
	require.NoError(t, err)
	require.Equal(t, digest, again)
	require.NoError(t, l.RemoveAll())
	ok, err := vfs.Exists(m, dir)
	require.NoError(t, err)
	require.False(t, ok)
	m.PowerLoss(source(1))
	ok, err = vfs.Exists(m, dir)
	require.NoError(t, err)
	require.False(t, ok, "the removal is durable")
}

func TestDigestDoesNotDependOnSegmentsOrSyncs(t *testing.T) {
	digest := func(opt Options, syncEach bool, origin int32) string {
		l, _ := healthy(t, vfs.NewMem(), opt)
		for base := range int64(8) {
			f := small(base, 1)
			f.Origin = origin
			require.NoError(t, l.Append(f))
			if syncEach {
				require.NoError(t, l.Sync())
			}
		}
		d, err := l.Digest()
		require.NoError(t, err)
		return d
	}
	want := digest(Options{}, false, 0)
	require.Equal(t, want, digest(Options{SegmentBytes: 1}, true, 0))
	require.NotEqual(t, want, digest(Options{}, false, 1))
}

func TestAppendRefuses(t *testing.T) {
	m := vfs.NewMem()
	l, _ := healthy(t, m, Options{})
	require.NoError(t, l.Append(small(0, 2), small(2, 1)))
	before, err := l.Digest()
	require.NoError(t, err)
	require.ErrorIs(t, l.Append(small(4, 1)), ErrNotContiguous)
	require.ErrorIs(t, l.Append(small(2, 1)), ErrNotContiguous)
	require.ErrorIs(t, l.Append(small(3, 1), small(5, 1)), ErrNotContiguous)
	f := small(3, 1)
	require.ErrorIs(t, l.Append(Frame{Batch: f.Batch[:60]}), batch.ErrShort)
	require.ErrorIs(t, l.Append(Frame{Batch: append(bytes.Clone(f.Batch), 0)}), batch.ErrLength)
	old := bytes.Clone(f.Batch)
	old[16] = 1
	require.ErrorIs(t, l.Append(Frame{Batch: old}), batch.ErrMagic)
	require.NoError(t, l.Append())
	after, err := l.Digest()
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestOptionsAreValidated(t *testing.T) {
	for _, opt := range []Options{{SegmentBytes: -1}, {SegmentBytes: 1<<30 + 1}, {IndexBytes: -1}} {
		_, _, err := Open(vfs.NewMem(), dir, opt)
		require.Error(t, err)
	}
}

func TestTruncate(t *testing.T) {
	for to := int64(0); to <= 21; to++ {
		for _, segmentBytes := range []int64{1, 300, 1 << 20} {
			m := vfs.NewMem()
			opt := Options{SegmentBytes: segmentBytes, IndexBytes: 150}
			l, _ := healthy(t, m, opt)
			var all []Frame
			for base := int64(0); base < 20; base += 2 {
				all = append(all, small(base, 2))
				require.NoError(t, l.Append(all[len(all)-1]))
			}
			require.NoError(t, l.Truncate(to))
			left := min(to/2, 10)
			require.Equal(t, left*2, l.End(), "to %d: a batch goes as a whole", to)
			require.Equal(t, join(all[:left]), read(t, l, 0, 99))
			if to < 20 {
				require.Equal(t, l.End(), l.Durable())
			}
			next := Frame{Batch: makeBatch(l.End(), 1, 9, []byte("another"))}
			require.NoError(t, l.Append(next))
			want := join(append(all[:left:left], next))
			require.Equal(t, want, read(t, l, 0, 99))
			require.NoError(t, l.Abandon())
			l, _ = healthy(t, m, opt)
			require.Equal(t, want, read(t, l, 0, 99))
		}
	}
}

func TestTruncateNegativeIsRefused(t *testing.T) {
	l, _ := healthy(t, vfs.NewMem(), Options{})
	require.ErrorIs(t, l.Truncate(-1), ErrOutOfRange)
	require.ErrorIs(t, l.Reset(-1), ErrOutOfRange)
}

func TestResetAndStart(t *testing.T) {
	m := vfs.NewMem()
	opt := Options{SegmentBytes: 250}
	l, _ := healthy(t, m, opt)
	for base := int64(0); base < 20; base += 2 {
		require.NoError(t, l.Append(small(base, 2)))
	}
	require.ErrorIs(t, l.SetStart(21), ErrOutOfRange)
	require.NoError(t, l.SetStart(0))
	n := len(segments(t, m))
	require.NoError(t, l.SetStart(11))
	require.Less(t, len(segments(t, m)), n)
	require.EqualValues(t, 11, l.Start())
	_, err := l.Read(10, 20, 1)
	require.ErrorIs(t, err, ErrOutOfRange)
	require.ErrorIs(t, l.SetStart(10), ErrOutOfRange)
	first, err := batch.Parse(read(t, l, 11, 20))
	require.NoError(t, err)
	require.EqualValues(t, 10, first.Base, "the batch that holds the start")

	require.NoError(t, l.Close())
	m.PowerLoss(source(3))
	l, rec := healthy(t, m, opt)
	require.EqualValues(t, 20, rec.End)
	require.LessOrEqual(t, rec.Start, int64(11))

	require.NoError(t, l.SetStart(13))
	require.NoError(t, l.Truncate(14), "cuts nothing but what follows")
	require.EqualValues(t, 14, l.End())
	require.NoError(t, l.SetStart(13))
	require.NoError(t, l.Append(small(14, 2)))
	require.NoError(t, l.Truncate(13))
	require.EqualValues(t, 13, l.Start(), "the batch that holds the start went as a whole")
	require.EqualValues(t, 13, l.End())

	require.NoError(t, l.Reset(1000))
	m.PowerLoss(source(4))
	l, rec = healthy(t, m, opt)
	require.EqualValues(t, 1000, rec.Start)
	require.EqualValues(t, 1000, rec.End)
	require.NoError(t, l.Append(small(1000, 1)))
	require.NoError(t, l.Truncate(5), "below the start: a reset")
	require.EqualValues(t, 5, l.Start())
	require.EqualValues(t, 5, l.End())
}

// written makes a log of several segments whose last one has several frames, synced as given, and returns its frames.
func written(t require.TestingT, m *vfs.Mem, opt Options, batches int, syncEach bool) []Frame {
	l, _ := healthy(t, m, opt)
	var all []Frame
	for base := range int64(batches) {
		all = append(all, small(base, 1))
		require.NoError(t, l.Append(all[base]))
		if syncEach {
			require.NoError(t, l.Sync())
		}
	}
	require.NoError(t, l.Sync())
	require.NoError(t, l.Abandon())
	return all
}

// requireRefused opens a log that must be corrupt at offset, checks that it is readable up to there and refuses
// to append, that opening it again says the same, and that truncation repairs it.
func requireRefused(t require.TestingT, m *vfs.Mem, opt Options, all []Frame, offset int64, hint string) {
	l, rec := mustOpen(t, m, opt)
	require.NotNil(t, rec.Corrupt, hint)
	require.Equal(t, offset, rec.Corrupt.Offset, hint)
	require.Equal(t, offset, rec.End)
	require.Len(t, rec.Batches, int(offset))
	require.Zero(t, rec.TruncatedBytes)
	require.Equal(t, join(all[:offset]), read(t, l, 0, 99))
	err := l.Append(small(offset, 1))
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt, hint)
	require.ErrorAs(t, l.SetStart(offset), &corrupt)
	require.NoError(t, l.Close())
	l, again := mustOpen(t, m, opt)
	require.Equal(t, rec, again, "the files are left alone")
	require.ErrorIs(t, l.Truncate(offset+1), ErrOutOfRange)
	require.NoError(t, l.Truncate(offset))
	require.Nil(t, l.Corrupt())
	require.NoError(t, l.Append(all[offset:]...))
	require.NoError(t, l.Sync())
	m.PowerLoss(source(5))
	l, _ = healthy(t, m, opt)
	require.Equal(t, join(all), read(t, l, 0, 99))
}

// TestEveryBitFlipIsDetected flips every bit of every file of a synced log.
func TestEveryBitFlipIsDetected(t *testing.T) {
	opt := Options{SegmentBytes: 220}
	m := vfs.NewMem()
	all := written(t, m, opt, 5, true)
	segs := segments(t, m)
	require.Len(t, segs, 3)
	frameLen := int64(frameHeader + len(all[0].Batch))
	for i, name := range append(segs, path.Join(dir, stateName)) {
		info, err := m.Stat(name)
		require.NoError(t, err)
		for pos := range info.Size {
			for bit := range uint(8) {
				if testing.Short() && bit > 0 {
					continue
				}
				m := vfs.NewMem()
				written(t, m, opt, 5, true)
				require.NoError(t, m.Flip(name, pos, bit))
				hint := fmt.Sprintf("bit %d of byte %d of %s", bit, pos, name)
				if i == len(segs) {
					l, rec := healthy(t, m, opt)
					require.Zero(t, rec.TruncatedBytes, hint)
					require.Equal(t, join(all), read(t, l, 0, 99), hint)
					continue
				}
				requireRefused(t, m, opt, all, int64(i)*2+pos/frameLen, hint)
			}
		}
	}
}

// TestBitFlipsWithoutStateFile shows what the frames alone prove: all but the frames after the last proven sync.
func TestBitFlipsWithoutStateFile(t *testing.T) {
	opt := Options{}
	m := vfs.NewMem()
	all := written(t, m, opt, 4, true)
	size := int64(frameHeader + len(all[0].Batch))
	for pos := range 4 * size {
		m := vfs.NewMem()
		written(t, m, opt, 4, true)
		require.NoError(t, m.Remove(path.Join(dir, stateName)))
		require.NoError(t, m.Flip(segments(t, m)[0], pos, 3))
		if bad := pos / size; bad < 3 {
			requireRefused(t, m, opt, all, bad, fmt.Sprintf("byte %d", pos))
			continue
		}
		l, rec := healthy(t, m, opt)
		require.Equal(t, size, rec.TruncatedBytes)
		require.Equal(t, join(all[:3]), read(t, l, 0, 99))
	}
}

func TestReadDetectsFlips(t *testing.T) {
	m := vfs.NewMem()
	l, _ := healthy(t, m, Options{})
	all := []Frame{small(0, 1), small(1, 1), small(2, 1)}
	require.NoError(t, l.Append(all...))
	require.NoError(t, l.Sync())
	size := int64(frameHeader + len(all[0].Batch))
	for pos := size; pos < 2*size; pos++ {
		require.NoError(t, m.Flip(segments(t, m)[0], pos, 0))
		_, err := l.Read(0, 99, 1<<20)
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt, "byte %d", pos)
		require.EqualValues(t, 1, corrupt.Offset)
		require.Equal(t, size, corrupt.Position)
		require.Equal(t, all[0].Batch, read(t, l, 0, 1), "what lies before it is whole")
		_, err = l.Digest()
		require.ErrorAs(t, err, &corrupt)
		require.NoError(t, m.Flip(segments(t, m)[0], pos, 0))
	}
	require.Equal(t, join(all), read(t, l, 0, 99))
	resizeFile(t, m, segments(t, m)[0], 2*size-1)
	_, err := l.Read(0, 99, 1<<20)
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
}

// TestTornTailAtEveryByte cuts a file with two synced and two unsynced frames at every length.
func TestTornTailAtEveryByte(t *testing.T) {
	var size int64
	for cut := int64(0); size == 0 || cut <= 4*size; cut++ {
		for _, zeros := range []bool{false, true} { // a file system may fill up what it lost
			m := vfs.NewMem()
			l, _ := healthy(t, m, Options{})
			all := []Frame{small(0, 1), small(1, 1), small(2, 1), small(3, 1)}
			size = int64(frameHeader + len(all[0].Batch))
			require.NoError(t, l.Append(all[:2]...))
			require.NoError(t, l.Sync())
			require.NoError(t, l.Append(all[2:]...))
			require.NoError(t, l.Abandon())
			name := segments(t, m)[0]
			resizeFile(t, m, name, cut)
			if zeros {
				resizeFile(t, m, name, 4*size+100)
			}
			whole := cut / size
			if zeros && cut%size > size-8 {
				continue // the payload's last bytes may be zeros anyway
			}
			if whole < 2 {
				requireRefused(t, m, Options{}, all, whole, fmt.Sprintf("cut at %d", cut))
				continue
			}
			l, rec := healthy(t, m, Options{})
			require.Equal(t, whole, rec.End)
			require.Equal(t, join(all[:whole]), read(t, l, 0, 99))
			info, err := m.Stat(name)
			require.NoError(t, err)
			require.Equal(t, whole*size, info.Size)
			if !zeros {
				require.Equal(t, cut-whole*size, rec.TruncatedBytes)
			}
		}
	}
}

// TestLaterPageSurvivesEarlierOneNot is the torn tail that looks like a corrupt middle.
func TestLaterPageSurvivesEarlierOneNot(t *testing.T) {
	big := func(base int64) Frame { return Frame{Batch: makeBatch(base, 1, 1, bytes.Repeat([]byte{'x'}, 9000))} }
	build := func(synced int) (*vfs.Mem, []Frame, int64) {
		m := vfs.NewMem()
		l, _ := healthy(t, m, Options{})
		var all []Frame
		for i := range 4 {
			all = append(all, big(int64(i)))
			require.NoError(t, l.Append(all[i]))
			if i+1 == synced {
				require.NoError(t, l.Sync())
			}
		}
		require.NoError(t, l.Abandon())
		return m, all, int64(frameHeader + len(all[0].Batch))
	}
	for _, withState := range []bool{true, false} {
		// Frame 2 was never synced: it is torn, whatever follows it.
		m, all, size := build(2)
		if !withState {
			require.NoError(t, m.Remove(path.Join(dir, stateName)))
		}
		require.NoError(t, m.Flip(segments(t, m)[0], 2*size+5000, 0))
		l, rec := healthy(t, m, Options{})
		require.Equal(t, 2*size, rec.TruncatedBytes)
		require.Equal(t, join(all[:2]), read(t, l, 0, 99))

		// Frame 2 had been synced before frame 3 was written: frame 3 testifies.
		m, all, size = build(3)
		if !withState {
			require.NoError(t, m.Remove(path.Join(dir, stateName)))
		}
		require.NoError(t, m.Flip(segments(t, m)[0], 2*size+5000, 0))
		requireRefused(t, m, Options{}, all, 2, fmt.Sprint("with state ", withState))
	}
}

func TestMissingSegmentsAreRefused(t *testing.T) {
	opt := Options{SegmentBytes: 220}
	for name, tc := range map[string]struct {
		lose func(m *vfs.Mem, segs []string)
		at   int64
	}{
		"first":  {func(m *vfs.Mem, s []string) { require.NoError(t, m.Remove(s[0])) }, 0},
		"middle": {func(m *vfs.Mem, s []string) { require.NoError(t, m.Remove(s[1])) }, 2},
		"last":   {func(m *vfs.Mem, s []string) { require.NoError(t, m.Remove(s[2])) }, 4},
		"all": {func(m *vfs.Mem, s []string) {
			for _, n := range s {
				require.NoError(t, m.Remove(n))
			}
		}, 0},
		"a frame of the middle": {func(m *vfs.Mem, s []string) {
			resizeFile(t, m, s[1], int64(frameHeader+len(small(2, 1).Batch)))
		}, 3},
		"the last frame": {func(m *vfs.Mem, s []string) { resizeFile(t, m, s[2], 0) }, 4},
	} {
		t.Run(name, func(t *testing.T) {
			m := vfs.NewMem()
			all := written(t, m, opt, 5, false)
			tc.lose(m, segments(t, m))
			requireRefused(t, m, opt, all, tc.at, name)
		})
	}
}

// TestQuotedFramesAreNoFrames puts a frame of another log, which testifies that much was durable, into a message of which
// the end is torn off: recovery must not take the quotation for a frame.
func TestQuotedFramesAreNoFrames(t *testing.T) {
	m := vfs.NewMem()
	l, _ := healthy(t, m, Options{})
	require.NoError(t, l.Append(small(0, 1), small(1, 1)))
	require.NoError(t, l.Sync())
	quote := appendFrame(nil, 0, 5000, kindBatch, 5000, small(9, 1).Batch)
	require.NoError(t, l.Append(Frame{Batch: makeBatch(2, 1, 1, append(quote, "padding"...))}))
	require.NoError(t, l.Abandon())
	info, err := m.Stat(segments(t, m)[0])
	require.NoError(t, err)
	resizeFile(t, m, segments(t, m)[0], info.Size-1)
	_, rec := healthy(t, m, Options{})
	require.EqualValues(t, 2, rec.End)
	require.Positive(t, rec.TruncatedBytes)
}

func TestAlienFrameIsRefused(t *testing.T) {
	m := vfs.NewMem()
	l, _ := healthy(t, m, Options{})
	require.NoError(t, l.Append(small(0, 1)))
	require.NoError(t, l.Close())
	name := segments(t, m)[0]
	info, err := m.Stat(name)
	require.NoError(t, err)
	f, err := m.OpenFile(name, false)
	require.NoError(t, err)
	for what, alien := range map[string][]byte{
		"a record":         appendFrame(nil, 0, info.Size, kindRecord, 0, []byte("r")),
		"no batch":         appendFrame(nil, 0, info.Size, kindBatch, 0, []byte("r")),
		"a short origin":   appendFrame(nil, 0, info.Size, kindOrigin, 0, []byte("r")),
		"the wrong offset": appendFrame(nil, 0, info.Size, kindBatch, 0, small(5, 1).Batch),
	} {
		require.NoError(t, f.Truncate(info.Size))
		_, err = f.WriteAt(alien, info.Size)
		require.NoError(t, err)
		_, rec := mustOpen(t, m, Options{})
		require.NotNil(t, rec.Corrupt, what)
		require.EqualValues(t, 1, rec.Corrupt.Offset, what)
	}
}

func TestCheckpoint(t *testing.T) {
	m := vfs.NewMem()
	const name = "hw"
	_, err := ReadCheckpoint(m, name)
	require.ErrorIs(t, err, fs.ErrNotExist)
	for _, data := range []string{"first", "", "a longer second one"} {
		require.NoError(t, WriteCheckpoint(m, name, []byte(data), true))
		m.PowerLoss(source(1))
		got, err := ReadCheckpoint(m, name)
		require.NoError(t, err)
		require.Equal(t, data, string(got))
	}
	info, err := m.Stat(name)
	require.NoError(t, err)
	var corrupt *CorruptError
	for pos := range info.Size {
		require.NoError(t, m.Flip(name, pos, 1))
		_, err = ReadCheckpoint(m, name)
		require.ErrorAs(t, err, &corrupt)
		require.NoError(t, m.Flip(name, pos, 1))
	}
	for size := range info.Size {
		c := vfs.NewMem()
		require.NoError(t, WriteCheckpoint(c, name, []byte("a longer second one"), false))
		resizeFile(t, c, name, size)
		_, err = ReadCheckpoint(c, name)
		require.ErrorAs(t, err, &corrupt)
	}
	resizeFile(t, m, name, info.Size+1)
	_, err = ReadCheckpoint(m, name)
	require.ErrorAs(t, err, &corrupt)

	seen := map[string]bool{}
	for seed := range uint64(200) {
		m := vfs.NewMem()
		require.NoError(t, WriteCheckpoint(m, name, []byte("old"), true))
		require.NoError(t, WriteCheckpoint(m, name, []byte("new"), false))
		m.PowerLoss(source(seed))
		got, err := ReadCheckpoint(m, name)
		if err != nil {
			require.ErrorAs(t, err, &corrupt)
			got = []byte("error")
		}
		seen[string(got)] = true
	}
	require.Equal(t, map[string]bool{"old": true, "new": true, "error": true}, seen)
}

// failNext makes the next operation op fail once.
func failNext(m *vfs.Mem, op string, err error) (failed *bool) {
	failed = new(bool)
	m.SetError(func(o, _ string) error {
		if o != op || *failed {
			return nil
		}
		*failed = true
		return err
	})
	return failed
}

func isCorrupt(err error) bool {
	var corrupt *CorruptError
	return errors.As(err, &corrupt)
}
