package seglog

import (
	"fmt"
	"path"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/vfs"
)

func mustOpenRecords(t require.TestingT, fsys vfs.FS) (*RecordLog, []string) {
	l, records, err := OpenRecords(fsys, dir)
	require.NoError(t, err)
	return l, text(records)
}

func text(records [][]byte) []string {
	out := make([]string, len(records))
	for i, r := range records {
		out[i] = string(r)
	}
	return out
}

func raw(records ...string) [][]byte {
	out := make([][]byte, len(records))
	for i, r := range records {
		out[i] = []byte(r)
	}
	return out
}

func recordFile(t require.TestingT, fsys vfs.FS) string {
	names, _, err := numbered(fsys, dir, recordsSuffix)
	require.NoError(t, err)
	require.Len(t, names, 1)
	return path.Join(dir, names[0])
}

func TestRecords(t *testing.T) {
	m := vfs.NewMem()
	l, records := mustOpenRecords(t, m)
	require.Empty(t, records)
	require.NoError(t, l.Append(raw("a", "", "b")...))
	require.NoError(t, l.Append())
	require.NoError(t, l.Sync())
	require.NoError(t, l.Append(raw("c")...))
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Append(raw("d")...), ErrFailed)
	m.PowerLoss(source(1))
	l, records = mustOpenRecords(t, m)
	require.Equal(t, []string{"a", "", "b", "c"}, records, "Close syncs")
	before := l.Size()
	require.NoError(t, l.Rotate(raw("snap", "x")...))
	require.Less(t, l.Size(), before)
	require.NoError(t, l.Append(raw("y")...))
	require.NoError(t, l.Sync())
	m.PowerLoss(source(2))
	l, records = mustOpenRecords(t, m)
	require.Equal(t, []string{"snap", "x", "y"}, records)
	require.Zero(t, l.TruncatedBytes())
	recordFile(t, m) // there is but one
}

// TestRecordsEveryBitFlip flips every bit of a synced record log: none is opened with fewer records.
func TestRecordsEveryBitFlip(t *testing.T) {
	build := func(rotated bool) *vfs.Mem {
		m := vfs.NewMem()
		l, _ := mustOpenRecords(t, m)
		require.NoError(t, l.Append(raw("one", "two", "three")...))
		require.NoError(t, l.Sync())
		if rotated {
			require.NoError(t, l.Rotate(raw("one", "two", "three")...))
		}
		require.NoError(t, l.Abandon())
		return m
	}
	for _, rotated := range []bool{false, true} {
		name := recordFile(t, build(rotated))
		for _, file := range []string{name, path.Join(dir, stateName)} {
			info, err := build(rotated).Stat(file)
			require.NoError(t, err)
			for pos := range info.Size {
				for bit := range uint(8) {
					m := build(rotated)
					require.NoError(t, m.Flip(file, pos, bit))
					before := m.Digest()
					_, records, err := OpenRecords(m, dir)
					if file != name {
						require.NoError(t, err)
						require.Equal(t, []string{"one", "two", "three"}, text(records))
						continue
					}
					require.True(t, isCorrupt(err), "bit %d of byte %d: %v", bit, pos, err)
					require.Equal(t, before, m.Digest(), "the files are left alone")
				}
			}
		}
	}
}

func TestRotatedRecordsTestifyForThemselves(t *testing.T) {
	m := vfs.NewMem()
	l, _ := mustOpenRecords(t, m)
	require.NoError(t, l.Rotate(raw("snapshot", "tail")...))
	size := l.Size()
	require.NoError(t, l.Abandon())
	require.NoError(t, m.Remove(path.Join(dir, stateName)))
	require.NoError(t, m.Flip(recordFile(t, m), size-1, 0))
	_, _, err := OpenRecords(m, dir)
	require.True(t, isCorrupt(err), "the last record, without the state file: %v", err)
}

func TestRecordsTornTailAtEveryByte(t *testing.T) {
	all := []string{"one", "two", "six", "ten"}
	const size = int64(frameHeader + 3)
	for cut := range 4*size + 1 {
		m := vfs.NewMem()
		l, _ := mustOpenRecords(t, m)
		require.NoError(t, l.Append(raw(all[:2]...)...))
		require.NoError(t, l.Sync())
		require.NoError(t, l.Append(raw(all[2:]...)...))
		require.NoError(t, l.Abandon())
		resizeFile(t, m, recordFile(t, m), cut)
		l, records, err := OpenRecords(m, dir)
		if cut < 2*size {
			require.True(t, isCorrupt(err), "cut at %d: %v", cut, err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, all[:cut/size], text(records))
		require.Equal(t, cut%size, l.TruncatedBytes())
		require.NoError(t, l.Append(raw("new")...))
		require.NoError(t, l.Close())
		_, records = func() (*RecordLog, [][]byte) { l, r, err := OpenRecords(m, dir); require.NoError(t, err); return l, r }()
		require.Equal(t, append(all[:cut/size:cut/size], "new"), text(records))
	}
}

func TestMissingRecordFileIsRefused(t *testing.T) {
	for _, rotate := range []bool{false, true} {
		m := vfs.NewMem()
		l, _ := mustOpenRecords(t, m)
		if rotate {
			require.NoError(t, l.Rotate(raw("snapshot")...))
		}
		require.NoError(t, l.Close())
		require.NoError(t, m.Remove(recordFile(t, m)))
		_, _, err := OpenRecords(m, dir)
		require.True(t, isCorrupt(err), "%v", err)
	}
}

func TestInterruptedRotation(t *testing.T) {
	old, rotated := []string{"a", "b"}, []string{"snap", "c"}
	for _, op := range []string{vfs.OpCreate, vfs.OpWrite, vfs.OpSync, vfs.OpRename, vfs.OpSyncDir, vfs.OpRemove} {
		for seed := range uint64(20) {
			m := vfs.NewMem()
			m.StrictEntries(seed%2 == 0)
			l, _ := mustOpenRecords(t, m)
			require.NoError(t, l.Append(raw(old...)...))
			require.NoError(t, l.Sync())
			failed := failNext(m, op, syscall.ENOSPC)
			err := l.Rotate(raw(rotated...)...)
			require.True(t, *failed, op)
			require.ErrorIs(t, err, syscall.ENOSPC, op)
			before := op != vfs.OpSyncDir && op != vfs.OpRemove
			if before {
				require.NoError(t, l.Append(raw("more")...), "it is as it was")
				require.NoError(t, l.Sync())
			} else {
				require.ErrorIs(t, l.Append(raw("more")...), ErrFailed)
			}
			require.NoError(t, l.Abandon())
			m.PowerLoss(source(seed))
			_, records := mustOpenRecords(t, m)
			if before {
				require.Equal(t, append(old[:2:2], "more"), records)
			} else {
				require.Contains(t, [][]string{old, rotated}, records)
			}
			recordFile(t, m)
		}
	}
}

func TestRecordsFailedSync(t *testing.T) {
	m := vfs.NewMem()
	l, _ := mustOpenRecords(t, m)
	require.NoError(t, l.Append(raw("a")...))
	failNext(m, vfs.OpSync, syscall.EIO)
	require.ErrorIs(t, l.Sync(), syscall.EIO)
	require.ErrorIs(t, l.Sync(), ErrFailed)
	require.ErrorIs(t, l.Rotate(raw("s")...), ErrFailed)
	require.NoError(t, l.Abandon())
	_, records := mustOpenRecords(t, m)
	require.Equal(t, []string{"a"}, records)
	m.PowerLoss(source(1))
	_, records = mustOpenRecords(t, m)
	require.Equal(t, []string{"a"}, records, "what was returned was durable")
}

func TestRecordsDiskFull(t *testing.T) {
	m := vfs.NewMem()
	l, _ := mustOpenRecords(t, m)
	require.NoError(t, l.Append(raw("a")...))
	m.SetCapacity(m.Used() + 25)
	require.ErrorIs(t, l.Append(raw("bbbb", "cccc")...), syscall.ENOSPC)
	require.NoError(t, l.Append(raw("d")...))
	require.NoError(t, l.Close())
	m.SetCapacity(0)
	_, records := mustOpenRecords(t, m)
	require.Equal(t, []string{"a", "d"}, records)
}

func ExampleRecordLog() {
	disk := vfs.NewMem()
	l, _, err := OpenRecords(disk, "quorum")
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = l.Append([]byte("vote"), []byte("entry 1"))
	_ = l.Sync()
	_ = l.Append([]byte("entry 2")) // not synced
	disk.PowerLoss(source(4))
	_, records, err := OpenRecords(disk, "quorum")
	fmt.Println(text(records)[:2], err)
	// Output: [vote entry 1] <nil>
}
