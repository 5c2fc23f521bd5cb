package seglog

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/vfs"
)

func TestDiskFullLeavesTheLogAsItWas(t *testing.T) {
	for room := int64(0); room < 300; room += 7 {
		m := vfs.NewMem()
		l, _ := healthy(t, m, Options{})
		require.NoError(t, l.Append(small(0, 1)))
		m.SetCapacity(m.Used() + room)
		// Two frames in one write: the first one may fit whole.
		err := l.Append(small(1, 1), small(2, 1))
		if err == nil {
			require.Greater(t, room, int64(150))
			continue
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.NotErrorIs(t, err, ErrFailed)
		require.EqualValues(t, 1, l.End())
		m.PowerLoss(source(uint64(room)))
		m.SetCapacity(0)
		l, rec := healthy(t, m, Options{})
		require.LessOrEqual(t, rec.End, int64(1), "a refused append does not come back")
		for l.End() < 3 {
			require.NoError(t, l.Append(small(l.End(), 1)))
		}
	}
}

func TestDiskFullWhenASegmentBegins(t *testing.T) {
	m := vfs.NewMem()
	opt := Options{SegmentBytes: 1}
	l, _ := healthy(t, m, opt)
	require.NoError(t, l.Append(small(0, 1)))
	failed := failNext(m, vfs.OpCreate, syscall.ENOSPC)
	require.ErrorIs(t, l.Append(small(1, 1)), syscall.ENOSPC)
	require.True(t, *failed)
	require.NoError(t, l.Append(small(1, 1)))
	require.EqualValues(t, 2, l.End())
	require.Len(t, segments(t, m), 2)
}

func TestFailedUndoRefusesChanges(t *testing.T) {
	m := vfs.NewMem()
	l, _ := healthy(t, m, Options{})
	require.NoError(t, l.Append(small(0, 1)))
	require.NoError(t, l.Sync())
	m.SetError(func(string, string) error { return syscall.EIO })
	require.ErrorIs(t, l.Append(small(1, 1)), syscall.EIO)
	m.SetError(nil)
	for _, err := range []error{l.Append(small(1, 1)), l.Sync(), l.Truncate(0), l.Reset(0), l.SetStart(1)} {
		require.ErrorIs(t, err, ErrFailed)
		require.ErrorIs(t, err, syscall.EIO)
	}
	require.Equal(t, small(0, 1).Batch, read(t, l, 0, 9))
	require.NoError(t, l.Close())
	l, _ = healthy(t, m, Options{})
	require.NoError(t, l.Append(small(1, 1)))
}

// TestFailedSync is the trap of a sync that fails once: the kernel takes the pages for clean, later syncs succeed
// and write nothing. What recovery keeps must nevertheless be durable.
func TestFailedSync(t *testing.T) {
	for seed := range uint64(50) {
		m := vfs.NewMem()
		l, _ := healthy(t, m, Options{})
		require.NoError(t, l.Append(small(0, 1)))
		require.NoError(t, l.Sync())
		require.NoError(t, l.Append(small(1, 1)))
		failNext(m, vfs.OpSync, syscall.EIO)
		require.ErrorIs(t, l.Sync(), syscall.EIO)
		require.EqualValues(t, 1, l.Durable())
		require.ErrorIs(t, l.Sync(), ErrFailed, "no second attempt")
		require.NoError(t, l.Abandon())
		l, rec := healthy(t, m, Options{})
		require.EqualValues(t, 2, rec.End)
		require.EqualValues(t, 2, l.Durable())
		m.PowerLoss(source(seed))
		_, rec = healthy(t, m, Options{})
		require.EqualValues(t, 2, rec.End, "what Open kept was durable")
	}
}

// TestOpenMakesPageCacheDurable: a process is killed before its sync; the next one must not count what it finds.
func TestOpenMakesPageCacheDurable(t *testing.T) {
	for _, strict := range []bool{false, true} {
		for seed := range uint64(50) {
			m := vfs.NewMem()
			m.StrictEntries(strict)
			opt := Options{SegmentBytes: 250}
			l, _ := healthy(t, m, opt)
			for base := range int64(5) {
				require.NoError(t, l.Append(small(base, 1)))
			}
			require.NoError(t, l.Abandon())
			_, rec := healthy(t, m, opt)
			require.EqualValues(t, 5, rec.End)
			m.PowerLoss(source(seed))
			_, rec = healthy(t, m, opt)
			require.EqualValues(t, 5, rec.End)
		}
	}
}

// TestTruncationDoesNotComeBack appends batches of the same length as those that were cut off, at the same place, and
// loses power: old frames behind the new ones would fit.
func TestTruncationDoesNotComeBack(t *testing.T) {
	old := func(base int64) Frame { return Frame{Batch: makeBatch(base, 1, 1, make([]byte, 900))} }
	for seed := range uint64(200) {
		m := vfs.NewMem()
		l, _ := healthy(t, m, Options{SegmentBytes: 3000})
		for base := range int64(7) {
			require.NoError(t, l.Append(old(base)))
		}
		require.NoError(t, l.Sync())
		require.NoError(t, l.Truncate(1))
		require.NoError(t, l.Append(Frame{Batch: makeBatch(1, 1, 2, make([]byte, 900))}))
		m.PowerLoss(source(seed))
		_, rec := healthy(t, m, Options{SegmentBytes: 3000})
		require.LessOrEqual(t, rec.End, int64(2))
		require.GreaterOrEqual(t, rec.End, int64(1))
		if rec.End == 2 {
			require.EqualValues(t, 2, rec.Batches[1].Epoch)
		}
	}
}

func TestOpenReportsErrorsOfTheFileSystem(t *testing.T) {
	ops := []string{vfs.OpMkdir, vfs.OpCreate, vfs.OpWrite, vfs.OpSync, vfs.OpSyncDir, vfs.OpList, vfs.OpStat}
	for _, op := range ops {
		m := vfs.NewMem()
		failed := failNext(m, op, syscall.EIO)
		_, _, err := Open(m, dir, Options{})
		if *failed {
			require.ErrorIs(t, err, syscall.EIO, op)
		}
		m = vfs.NewMem()
		failed = failNext(m, op, syscall.EIO)
		_, _, err = OpenRecords(m, dir)
		if *failed {
			require.ErrorIs(t, err, syscall.EIO, op)
		}
	}
	m := vfs.NewMem()
	written(t, m, Options{}, 3, true)
	failNext(m, vfs.OpRead, syscall.EIO)
	_, _, err := Open(m, dir, Options{})
	require.ErrorIs(t, err, syscall.EIO, "an error of reading is no corruption")
	require.False(t, isCorrupt(err))
	l, _ := healthy(t, m, Options{})
	failNext(m, vfs.OpRead, syscall.EIO)
	_, err = l.Read(0, 9, 1)
	require.ErrorIs(t, err, syscall.EIO)
	require.False(t, isCorrupt(err))
}

// TestStateOfTheFailedSync: the state file's own sync fails in a Reset. What the next Open reads of it is in the page
// cache only, and must be made durable before a segment follows from it.
func TestStateOfTheFailedSync(t *testing.T) {
	for skip := range 3 {
		for seed := range uint64(20) {
			m := vfs.NewMem()
			l, _ := healthy(t, m, Options{})
			require.NoError(t, l.Append(small(0, 1)))
			require.NoError(t, l.Sync())
			left := skip
			m.SetError(func(op, _ string) error {
				if op == vfs.OpSync {
					if left--; left == -1 {
						return syscall.EIO
					}
				}
				return nil
			})
			require.ErrorIs(t, l.Reset(100), syscall.EIO)
			require.ErrorIs(t, l.Reset(100), ErrFailed)
			m.SetError(nil)
			require.NoError(t, l.Abandon())
			l, rec := healthy(t, m, Options{})
			require.NoError(t, l.Abandon())
			m.PowerLoss(source(seed))
			_, again := healthy(t, m, Options{})
			require.Equal(t, rec.Start, again.Start)
			require.Equal(t, rec.End, again.End)
		}
	}
}

func TestInterruptedSetStartIsFinished(t *testing.T) {
	m := vfs.NewMem()
	opt := Options{SegmentBytes: 1}
	l, _ := healthy(t, m, opt)
	for base := range int64(5) {
		require.NoError(t, l.Append(small(base, 1)))
	}
	failNext(m, vfs.OpRemove, syscall.EIO)
	require.ErrorIs(t, l.SetStart(3), syscall.EIO)
	require.ErrorIs(t, l.SetStart(3), ErrFailed)
	require.Len(t, segments(t, m), 5)
	require.NoError(t, l.Close())
	_, rec := healthy(t, m, opt)
	require.EqualValues(t, 3, rec.Start)
	require.Len(t, rec.Batches, 2)
	require.Len(t, segments(t, m), 2)
}

// TestReadAfterFailure interrupts removals at each step: the log refuses changes, and reading what it says it has works.
func TestReadAfterFailure(t *testing.T) {
	for _, op := range []string{vfs.OpRemove, vfs.OpSyncDir, vfs.OpTruncate, vfs.OpSync} {
		for skip := range 4 {
			for _, change := range []func(*Log) error{
				func(l *Log) error { return l.Truncate(2) },
				func(l *Log) error { return l.Reset(50) },
			} {
				m := vfs.NewMem()
				l, _ := healthy(t, m, Options{SegmentBytes: 220})
				for base := range int64(5) {
					require.NoError(t, l.Append(small(base, 1)))
				}
				left := skip
				m.SetError(func(o, _ string) error {
					if o == op {
						if left--; left == -1 {
							return syscall.EIO
						}
					}
					return nil
				})
				if change(l) == nil {
					continue
				}
				require.ErrorIs(t, l.Sync(), ErrFailed)
				frames, err := l.ReadFrames(l.Start(), l.End(), 1<<20)
				require.NoError(t, err)
				require.Len(t, frames, int(l.End()-l.Start()))
				require.LessOrEqual(t, l.Durable(), l.End())
			}
		}
	}
}
