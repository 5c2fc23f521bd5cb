package seglog

import (
	"path"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/vfs"
)

// putFile makes a durable file.
func putFile(t testing.TB, m *vfs.Mem, name string, data []byte) {
	t.Helper()
	require.NoError(t, vfs.MkdirSynced(m, path.Dir(name)))
	f, err := m.OpenFile(name, true)
	require.NoError(t, err)
	_, err = f.WriteAt(data, 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
}

// FuzzOpen opens arbitrary segment and state files: whatever it finds, a second time it finds the same, and what it found
// can be read and repaired.
func FuzzOpen(f *testing.F) {
	m := vfs.NewMem()
	l, _ := healthy(f, m, Options{})
	require.NoError(f, l.Append(small(0, 1), small(1, 2)))
	require.NoError(f, l.Sync())
	require.NoError(f, l.Append(Frame{Batch: small(3, 1).Batch, Origin: 2, OriginSeq: 3}))
	require.NoError(f, l.Abandon())
	seg, err := vfs.ReadFile(m, segments(f, m)[0])
	require.NoError(f, err)
	st, err := vfs.ReadFile(m, path.Join(dir, stateName))
	require.NoError(f, err)
	f.Add(seg, st)
	f.Add(seg[:len(seg)-1], []byte{})
	f.Add(seg[1:], st)
	f.Add([]byte{frameMagic, frameVersion, 1, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0}, st)
	f.Add([]byte{}, state{start: 1 << 62, file: 1 << 62, pos: -1}.append(nil))
	f.Add(seg, state{start: -5, file: 0, pos: -1}.append(nil))
	f.Fuzz(func(t *testing.T, seg, st []byte) {
		m := vfs.NewMem()
		putFile(t, m, path.Join(dir, fileName(0, segmentSuffix)), seg)
		putFile(t, m, path.Join(dir, stateName), st)
		l, rec := mustOpen(t, m, Options{})
		require.LessOrEqual(t, rec.Start, rec.End)
		content := read(t, l, rec.Start, rec.End)
		require.NoError(t, l.Close())
		l, again := mustOpen(t, m, Options{})
		require.Zero(t, again.TruncatedBytes)
		rec.TruncatedBytes = 0
		require.Equal(t, rec, again)
		require.Equal(t, content, read(t, l, rec.Start, rec.End))
		require.NoError(t, l.Truncate(rec.End))
		require.NoError(t, l.Append(small(l.End(), 1)))
		require.NoError(t, l.Close())
		l, _ = healthy(t, m, Options{})
		require.NoError(t, l.Close())
	})
}

// FuzzOpenRecords opens arbitrary record files.
func FuzzOpenRecords(f *testing.F) {
	m := vfs.NewMem()
	l, _ := mustOpenRecords(f, m)
	require.NoError(f, l.Append(raw("a", "b", "")...))
	require.NoError(f, l.Close())
	file, err := vfs.ReadFile(m, recordFile(f, m))
	require.NoError(f, err)
	f.Add(file, []byte{})
	f.Add(file[:len(file)-2], state{file: 0, pos: 20}.append(nil))
	f.Fuzz(func(t *testing.T, file, st []byte) {
		m := vfs.NewMem()
		putFile(t, m, path.Join(dir, fileName(0, recordsSuffix)), file)
		putFile(t, m, path.Join(dir, stateName), st)
		l, records, err := OpenRecords(m, dir)
		if err != nil {
			require.True(t, isCorrupt(err), "%v", err)
			return
		}
		require.NoError(t, l.Append([]byte("more")))
		require.NoError(t, l.Close())
		_, again, err := OpenRecords(m, dir)
		require.NoError(t, err)
		require.Equal(t, append(text(records), "more"), text(again))
	})
}

// FuzzCheckpoint reads arbitrary checkpoints: only what was written is accepted.
func FuzzCheckpoint(f *testing.F) {
	f.Add(appendFrame(nil, 0, 0, kindCheckpoint, 0, []byte("data")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, file []byte) {
		m := vfs.NewMem()
		putFile(t, m, "c", file)
		data, err := ReadCheckpoint(m, "c")
		if err != nil {
			require.True(t, isCorrupt(err), "%v", err)
			return
		}
		require.Len(t, file, frameHeader+len(data))
	})
}

func benchmarkAppend(b *testing.B, fsys vfs.FS, perSync int) {
	l, _ := healthy(b, fsys, Options{})
	payload := make([]byte, 1024)
	b.SetBytes(int64(len(payload)))
	i := 0
	for b.Loop() {
		if err := l.Append(Frame{Batch: makeBatch(l.End(), 1, 1, payload)}); err != nil {
			b.Fatal(err)
		}
		if i++; i%perSync == 0 {
			if err := l.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	}
	require.NoError(b, l.Close())
}

func BenchmarkAppendSyncOS(b *testing.B)     { benchmarkAppend(b, vfs.OS(b.TempDir()), 1) }
func BenchmarkAppendSync100OS(b *testing.B)  { benchmarkAppend(b, vfs.OS(b.TempDir()), 100) }
func BenchmarkAppendSyncMem(b *testing.B)    { benchmarkAppend(b, vfs.NewMem(), 1) }
func BenchmarkAppendSync100Mem(b *testing.B) { benchmarkAppend(b, vfs.NewMem(), 100) }

func BenchmarkReadOS(b *testing.B) {
	l, _ := healthy(b, vfs.OS(b.TempDir()), Options{})
	for range 10_000 {
		require.NoError(b, l.Append(Frame{Batch: makeBatch(l.End(), 1, 1, make([]byte, 1024))}))
	}
	const size = 64 << 10
	b.SetBytes(size)
	from := int64(0)
	for b.Loop() {
		if _, err := l.Read(from, l.End(), size); err != nil {
			b.Fatal(err)
		}
		from = (from + 60) % 9900
	}
	require.NoError(b, l.Close())
}

func BenchmarkOpenOS(b *testing.B) {
	fsys := vfs.OS(b.TempDir())
	l, _ := healthy(b, fsys, Options{})
	for range 10_000 {
		require.NoError(b, l.Append(Frame{Batch: makeBatch(l.End(), 1, 1, make([]byte, 1024))}))
	}
	require.NoError(b, l.Close())
	for b.Loop() {
		l, rec := healthy(b, fsys, Options{})
		require.Len(b, rec.Batches, 10_000)
		require.NoError(b, l.Close())
	}
}
