package seglog

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/vfs"
)

// model is what a log must hold: frames at contiguous offsets, of which those below durable survive everything.
type model struct {
	start, durable int64
	base           int64 // of the first frame
	frames         []Frame
	// alternatives are the outcomes of changes that failed half way; the next Open settles which it was.
	alternatives []model
}

func last(f Frame) int64 {
	info, err := batch.Parse(f.Batch)
	if err != nil {
		panic(err)
	}
	return info.Last
}

func (m model) end() int64 {
	if len(m.frames) == 0 {
		return m.base
	}
	return last(m.frames[len(m.frames)-1]) + 1
}

// truncated is the model without the offsets from to on.
func (m model) truncated(to int64) model {
	if to <= m.start {
		return model{start: to, durable: to, base: to}
	}
	for i, f := range m.frames {
		if last(f) >= to {
			m.frames = m.frames[:i:i]
			break
		}
	}
	if m.end() < m.start {
		return model{start: m.start, durable: m.start, base: m.start}
	}
	m.durable = m.end()
	return m
}

// allows says whether a log that was recovered to [start, end) with these bytes is one of m's: a prefix that has all that is
// durable. exact is set after a kill, which loses nothing. The start may go back: a power loss can tear the state file.
func (m model) allows(start, end int64, content []byte, exact bool) (model, bool) {
	if exact && end != m.end() || end < m.durable || end > m.end() || start > m.start || exact && start != m.start {
		return m, false
	}
	kept := m
	kept.start, kept.durable = start, end
	for i, f := range m.frames {
		if last(f) >= end {
			kept.frames = m.frames[:i:i]
			break
		}
	}
	var want []byte
	for _, f := range kept.frames {
		if last(f) >= start {
			want = append(want, f.Batch...)
		}
	}
	return kept, kept.end() == end && bytes.Equal(want, content)
}

// TestModel runs random operations, failures, kills and power losses, and compares with the model.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		disk := vfs.NewMem()
		disk.StrictEntries(rapid.Bool().Draw(rt, "strict"))
		opt := Options{
			SegmentBytes: rapid.SampledFrom([]int64{1, 500, 3000, 1 << 20}).Draw(rt, "segment bytes"),
			IndexBytes:   rapid.SampledFrom([]int64{1, 300, 4096}).Draw(rt, "index bytes"),
		}
		l, _ := healthy(rt, disk, opt)
		m := model{}
		written := uint64(0)
		// reopen opens the log after a kill or a power loss and lets the model be what it found.
		reopen := func(exact bool) {
			var rec Recovered
			l, rec = mustOpen(rt, disk, opt)
			require.Nil(rt, rec.Corrupt, "a crash is no corruption")
			require.Equal(rt, rec.End, l.Durable())
			content := read(rt, l, rec.Start, rec.End)
			for _, can := range append([]model{m}, m.alternatives...) {
				if kept, ok := can.allows(rec.Start, rec.End, content, exact && len(m.alternatives) == 0); ok {
					m = kept
					m.alternatives = nil
					return
				}
			}
			rt.Fatalf("recovered %d to %d, allowed are %d to %d, durable to %d, and %d alternatives",
				rec.Start, rec.End, m.start, m.end(), m.durable, len(m.alternatives))
		}
		// judge compares an error with the state that follows it: after a failure that the log cannot undo it
		// refuses changes, and any of the alternatives may have happened.
		judge := func(err error, done model, half ...model) {
			if err == nil {
				m = done
				return
			}
			require.ErrorIs(rt, err, syscall.EIO)
			if l.failed == nil {
				return
			}
			require.ErrorIs(rt, l.Append(small(l.End(), 1)), ErrFailed)
			m.alternatives = append(m.alternatives, done)
			m.alternatives = append(m.alternatives, half...)
			require.NoError(rt, l.Abandon())
			disk.SetError(nil)
			if rapid.Bool().Draw(rt, "kill, not power loss") {
				reopen(true)
				return
			}
			disk.PowerLoss(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "power"), 0)))
			reopen(false)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				var frames []Frame
				done, end := m, m.end()
				for range rapid.IntRange(1, 4).Draw(rt, "frames") {
					written++
					n := rapid.IntRange(1, 3).Draw(rt, "records")
					size := rapid.SampledFrom([]int{0, 1, 60, 400, 5000}).Draw(rt, "size")
					f := Frame{Batch: makeBatch(end, n, int32(written), make([]byte, size))}
					if rapid.Bool().Draw(rt, "origin") {
						f.Origin, f.OriginSeq = int32(written%3), int64(written)
					}
					frames = append(frames, f)
					end += int64(n)
				}
				done.frames = append(done.frames[:len(done.frames):len(done.frames)], frames...)
				judge(l.Append(frames...), done)
			},
			"sync": func(*rapid.T) {
				done := m
				done.durable = m.end()
				err := l.Sync()
				if err == nil {
					require.Equal(rt, l.End(), l.Durable())
				}
				judge(err, done)
			},
			"truncate": func(rt *rapid.T) {
				to := rapid.Int64Range(max(0, m.start-2), m.end()+1).Draw(rt, "to")
				if to >= m.end() {
					require.NoError(rt, l.Truncate(to))
					return
				}
				done := m.truncated(to)
				// Interrupted: any shorter log that still has what was to stay.
				half := m
				half.durable = min(m.durable, done.end())
				judge(l.Truncate(to), done, half, model{}, model{start: m.start, base: m.start, durable: m.start})
			},
			"reset": func(rt *rapid.T) {
				to := rapid.Int64Range(0, 60).Draw(rt, "to")
				done := model{start: to, durable: to, base: to}
				half := m
				half.durable = 0
				judge(l.Reset(to), done, half, model{}, model{start: m.start, base: m.start, durable: m.start})
			},
			"set start": func(rt *rapid.T) {
				to := rapid.Int64Range(m.start, m.end()).Draw(rt, "to")
				done := m
				done.start = to
				if to > m.start {
					done.durable = m.end()
				}
				judge(l.SetStart(to), done)
			},
			"read": func(rt *rapid.T) {
				from := rapid.Int64Range(m.start, m.end()).Draw(rt, "from")
				to := rapid.Int64Range(from, m.end()).Draw(rt, "to")
				limit := rapid.IntRange(0, 3000).Draw(rt, "max")
				var want []Frame
				got := 0
				for _, f := range m.frames {
					info, err := batch.Parse(f.Batch)
					require.NoError(rt, err)
					if info.Last < from || info.Base >= to {
						continue
					}
					got += len(f.Batch)
					if len(want) > 0 && got > limit {
						break
					}
					want = append(want, f)
				}
				if from == to {
					want = nil
				}
				frames, err := l.ReadFrames(from, to, limit)
				require.NoError(rt, err)
				require.Equal(rt, want, frames)
			},
			"close": func(*rapid.T) {
				if err := l.Close(); err != nil {
					require.ErrorIs(rt, err, syscall.EIO)
				}
				disk.SetError(nil)
				reopen(true)
			},
			"kill": func(*rapid.T) {
				require.NoError(rt, l.Abandon())
				disk.SetError(nil)
				reopen(true)
			},
			"power loss": func(rt *rapid.T) {
				disk.SetError(nil)
				disk.PowerLoss(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "power"), 0)))
				reopen(false)
			},
			"fail": func(rt *rapid.T) {
				// One of the next operations on the disk fails, or all from then on.
				op := rapid.SampledFrom([]string{
					vfs.OpWrite, vfs.OpSync, vfs.OpSyncDir, vfs.OpTruncate, vfs.OpCreate, vfs.OpRemove, "any",
				}).Draw(rt, "op")
				skip := rapid.IntRange(0, 5).Draw(rt, "skip")
				times := rapid.SampledFrom([]int{1, 2, 1000}).Draw(rt, "times")
				disk.SetError(func(o, _ string) error {
					if o == vfs.OpRead || op != "any" && o != op {
						return nil
					}
					if skip > 0 {
						skip--
						return nil
					}
					if times == 0 {
						return nil
					}
					times--
					return syscall.EIO
				})
			},
			"": func(rt *rapid.T) {
				require.Equal(rt, m.start, l.Start())
				require.Equal(rt, m.end(), l.End())
				require.GreaterOrEqual(rt, l.Durable(), m.durable)
				m.durable = l.Durable() // what the log claims it must keep
			},
		})
	})
}

// TestRecordLogModel does the same for the record log.
func TestRecordLogModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		disk := vfs.NewMem()
		disk.StrictEntries(rapid.Bool().Draw(rt, "strict"))
		l, _ := mustOpenRecords(rt, disk)
		var have, replaced []string // replaced is what a failed Rotate may have put in its place
		durable := 0
		written := 0
		draw := func(rt *rapid.T) []string {
			var out []string
			for range rapid.IntRange(1, 3).Draw(rt, "records") {
				written++
				size := rapid.SampledFrom([]int{1, 40, 3000}).Draw(rt, "size")
				b := make([]byte, size)
				for i := range b {
					b[i] = byte(written)
				}
				out = append(out, string(b))
			}
			return out
		}
		reopen := func(exact bool) {
			var records []string
			disk.SetError(nil)
			l, records = mustOpenRecords(rt, disk)
			prefix := len(records) <= len(have) && len(records) >= durable
			for i := 0; prefix && i < len(records); i++ {
				prefix = records[i] == have[i]
			}
			if exact && replaced == nil && len(records) != len(have) {
				prefix = false
			}
			if !prefix {
				require.NotNil(rt, replaced, "recovered %d of %d records, durable %d", len(records), len(have), durable)
				require.Equal(rt, replaced, records)
			}
			have, replaced, durable = records, nil, len(records)
		}
		crash := func(rt *rapid.T) {
			if rapid.Bool().Draw(rt, "kill, not power loss") {
				require.NoError(rt, l.Abandon())
				reopen(true)
				return
			}
			disk.PowerLoss(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "power"), 0)))
			reopen(false)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				records := draw(rt)
				if err := l.Append(raw(records...)...); err == nil {
					have = append(have, records...)
				} else if l.failed != nil {
					// It could not be undone: it may be there or not.
					have = append(have, records...)
					_ = l.Abandon()
					disk.PowerLoss(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "power"), 0)))
					reopen(false)
				}
			},
			"sync": func(rt *rapid.T) {
				if err := l.Sync(); err != nil {
					crash(rt)
					return
				}
				durable = len(have)
			},
			"rotate": func(rt *rapid.T) {
				records := draw(rt)
				err := l.Rotate(raw(records...)...)
				switch {
				case err == nil:
					have, durable = records, len(records)
				case l.failed != nil:
					replaced = records
					crash(rt)
				default:
					require.False(rt, errors.Is(err, ErrFailed))
				}
			},
			"crash": crash,
			"close": func(*rapid.T) {
				disk.SetError(nil)
				require.NoError(rt, l.Close())
				durable = len(have)
				reopen(true)
			},
			"fail": func(rt *rapid.T) {
				op := rapid.SampledFrom([]string{vfs.OpWrite, vfs.OpSync, vfs.OpSyncDir, vfs.OpRename, vfs.OpCreate, vfs.OpRemove}).Draw(rt, "op")
				failNext(disk, op, syscall.EIO)
			},
		})
	})
}

// TestTwins runs the same operations on the memory file system and on the operating system's: equal files come out.
func TestTwins(t *testing.T) {
	r := source(11)
	for range 20 {
		mem, disk := vfs.NewMem(), vfs.OS(t.TempDir())
		opt := Options{SegmentBytes: int64(1 + r.IntN(2000)), IndexBytes: 200}
		open := func() [2]*Log {
			a, ra := healthy(t, mem, opt)
			b, rb := healthy(t, disk, opt)
			require.Equal(t, ra, rb)
			return [2]*Log{a, b}
		}
		logs := open()
		for range 60 {
			do := func(f func(*Log) error) {
				require.NoError(t, f(logs[0]))
				require.NoError(t, f(logs[1]))
			}
			end := logs[0].End()
			switch r.IntN(8) {
			case 0, 1, 2:
				f := Frame{Batch: makeBatch(end, 1+r.IntN(3), 1, make([]byte, r.IntN(600)))}
				do(func(l *Log) error { return l.Append(f) })
			case 3:
				do((*Log).Sync)
			case 4:
				to := end - int64(r.IntN(4))
				if to >= 0 {
					do(func(l *Log) error { return l.Truncate(to) })
				}
			case 5:
				do((*Log).Close)
				logs = open()
			case 6:
				do((*Log).Abandon)
				logs = open()
			case 7:
				if to := logs[0].Start() + int64(r.IntN(3)); to <= end {
					do(func(l *Log) error { return l.SetStart(to) })
				}
			}
			d1, err := logs[0].Digest()
			require.NoError(t, err)
			d2, err := logs[1].Digest()
			require.NoError(t, err)
			require.Equal(t, d1, d2)
			files, err := vfs.Digest(disk, ".")
			require.NoError(t, err)
			require.Equal(t, mem.Digest(), files)
		}
		require.NoError(t, logs[1].RemoveAll())
		require.NoError(t, logs[0].RemoveAll())
		files, err := vfs.Digest(disk, ".")
		require.NoError(t, err)
		require.Equal(t, mem.Digest(), files)

		a, _ := mustOpenRecords(t, mem)
		b, _ := mustOpenRecords(t, disk)
		for _, rl := range []*RecordLog{a, b} {
			require.NoError(t, rl.Append(raw("a", "b")...))
			require.NoError(t, rl.Rotate(raw("snap")...))
			require.NoError(t, rl.Append(raw("c")...))
			require.NoError(t, rl.Close())
		}
		_, ra := mustOpenRecords(t, mem)
		b, rb := mustOpenRecords(t, disk)
		require.Equal(t, ra, rb)
		require.NoError(t, b.Close())
		files, err = vfs.Digest(disk, ".")
		require.NoError(t, err)
		require.Equal(t, mem.Digest(), files)
	}
}
