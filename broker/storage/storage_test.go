package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/vfs"
)

const (
	lane  = broker.Lane("t-0.5")
	other = broker.Lane("t-1.5")
)

// records returns a batch of n records at base; fill tells batches apart.
func records(base int64, n int, fill byte) []byte {
	b := make([]byte, 61+8*n)
	for i := 61; i < len(b); i++ {
		b[i] = fill
	}
	binary.BigEndian.PutUint64(b, uint64(base))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint32(b[23:], uint32(n-1))
	binary.BigEndian.PutUint64(b[43:], ^uint64(0)) // no producer
	binary.BigEndian.PutUint32(b[57:], uint32(n))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func open(t require.TestingT, logs, meta vfs.FS) (*Store, node.Recovered) {
	s, rec, err := Open(logs, meta, 1<<16, mutant.Set{})
	require.NoError(t, err)
	return s, rec
}

func add(t require.TestingT, s *Store, l broker.Lane, base int64, n int, fill byte) {
	require.NoError(t, s.Append(broker.Append{Lane: l, Batches: [][]byte{records(base, n, fill)}}))
}

func end(l node.LaneState) int64 {
	if len(l.Batches) == 0 {
		return l.Start
	}
	return l.Batches[len(l.Batches)-1].Last + 1
}

func TestLifeOfALane(t *testing.T) {
	mem := vfs.NewMem()
	s, rec := open(t, mem, mem)
	require.Empty(t, rec.Lanes)
	require.Empty(t, rec.Meta)
	require.NoError(t, s.OpenLane(lane))
	require.NoError(t, s.OpenLane(lane), "opening again changes nothing")
	require.NoError(t, s.OpenLane(other))
	add(t, s, lane, 0, 2, 1)
	add(t, s, lane, 2, 3, 2)
	add(t, s, other, 0, 1, 3)
	require.NoError(t, s.Checkpoint(broker.Checkpoint{Lane: lane, HW: 2}))
	require.NoError(t, s.Meta(broker.MetaAppend{Seq: 1, Records: [][]byte{[]byte("a"), []byte("b")}}))
	require.Equal(t, []broker.Lane{lane, other}, s.Lanes())

	for _, tt := range []struct {
		from, to int64
		want     []byte
	}{
		{0, 5, append(records(0, 2, 1), records(2, 3, 2)...)},
		{0, 2, records(0, 2, 1)},
		{1, 2, records(0, 2, 1)}, // the whole batch that holds From
		{3, 5, records(2, 3, 2)},
	} {
		got, err := s.Read(broker.Slice{Lane: lane, From: tt.from, To: tt.to})
		require.NoError(t, err)
		require.Equal(t, tt.want, got)
	}
	for _, bad := range []broker.Slice{{Lane: lane, From: 5, To: 6}, {Lane: lane, From: 9, To: 10}, {Lane: lane, From: -1, To: 1}, {Lane: "unknown", From: 0, To: 1}} {
		_, err := s.Read(bad)
		require.Error(t, err, "%+v", bad)
	}
	require.Error(t, s.Append(broker.Append{Lane: lane, Batches: [][]byte{records(9, 1, 1)}}), "a gap")
	for _, err := range []error{
		s.Append(broker.Append{Lane: "unknown"}), s.Truncate(broker.Truncate{Lane: "unknown"}), s.Sync("unknown"), s.RemoveLane("unknown"),
	} {
		require.ErrorContains(t, err, "log unknown is not open")
	}

	require.NoError(t, s.Truncate(broker.Truncate{Lane: lane, To: 2}))
	require.NoError(t, s.Close(0))
	s, rec = open(t, mem, mem)
	require.Len(t, rec.Lanes, 2)
	require.Equal(t, lane, rec.Lanes[0].Lane)
	require.EqualValues(t, 2, end(rec.Lanes[0]))
	require.EqualValues(t, 2, rec.Lanes[0].High)
	require.EqualValues(t, 1, end(rec.Lanes[1]))
	require.Zero(t, rec.Lanes[1].High)
	require.Equal(t, [][]byte{[]byte("a"), []byte("b")}, rec.Meta)

	require.NoError(t, s.RemoveLane(other))
	require.NoError(t, s.Meta(broker.MetaAppend{Seq: 1, Records: [][]byte{[]byte("snapshot"), []byte("c")}, Snapshot: true}))
	require.NoError(t, s.Meta(broker.MetaAppend{Seq: 2, Records: [][]byte{[]byte("d")}}))
	require.NoError(t, s.Abandon())
	mem.PowerLoss(rand.New(rand.NewPCG(1, 1)))
	s, rec = open(t, mem, mem)
	require.Len(t, rec.Lanes, 1, "the removal is durable")
	require.Equal(t, [][]byte{[]byte("snapshot"), []byte("c"), []byte("d")}, rec.Meta, "the metadata log is always durable")
	require.NoError(t, s.Close(0))
}

// TestHighWatermark never exceeds the log: it is not synced with it.
func TestHighWatermark(t *testing.T) {
	mem := vfs.NewMem()
	s, _ := open(t, mem, mem)
	require.NoError(t, s.OpenLane(lane))
	add(t, s, lane, 0, 3, 1)
	require.NoError(t, s.Checkpoint(broker.Checkpoint{Lane: lane, HW: 100}))
	require.NoError(t, s.Close(0))
	s, rec := open(t, mem, mem)
	require.EqualValues(t, 3, rec.Lanes[0].High)
	require.NoError(t, s.Close(0))

	require.NoError(t, mem.Flip(path.Join(LogsDir, string(lane), highExt), 20, 3))
	s, rec = open(t, mem, mem)
	require.Zero(t, rec.Lanes[0].High, "a damaged checkpoint is worth nothing")
	require.Empty(t, rec.Lanes[0].Corrupt)
	require.NoError(t, s.Close(0))
}

// TestCrashes writes, syncs and truncates two lanes and the metadata log, loses power or
// is killed at a random moment, and demands what was durable and nothing that was never written.
func TestCrashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logs, meta := vfs.NewMem(), vfs.NewMem()
		if rapid.Bool().Draw(t, "one disk") {
			meta = logs
		}
		s, _ := open(t, logs, meta)
		type model struct {
			data   [][]byte // one record per batch, by offset
			synced int      // of them
		}
		models := map[broker.Lane]*model{}
		var durable [][]byte
		fill := byte(0)
		for range rapid.IntRange(1, 4).Draw(t, "incarnations") {
			for range rapid.IntRange(0, 25).Draw(t, "steps") {
				l := rapid.SampledFrom([]broker.Lane{lane, other}).Draw(t, "lane")
				m := models[l]
				if m == nil {
					require.NoError(t, s.OpenLane(l))
					m = &model{}
					models[l] = m
				}
				fill++
				switch rapid.IntRange(0, 5).Draw(t, "step") {
				case 0, 1:
					b := records(int64(len(m.data)), 1, fill)
					require.NoError(t, s.Append(broker.Append{Lane: l, Batches: [][]byte{b}}))
					m.data = append(m.data, b)
				case 2:
					require.NoError(t, s.Sync(l))
					m.synced = len(m.data)
				case 3:
					to := rapid.IntRange(0, len(m.data)).Draw(t, "to")
					require.NoError(t, s.Truncate(broker.Truncate{Lane: l, To: int64(to)}))
					if to < len(m.data) {
						m.data, m.synced = m.data[:to:to], to
					}
				case 4:
					require.NoError(t, s.Checkpoint(broker.Checkpoint{Lane: l, HW: int64(m.synced)}))
				case 5:
					r := []byte(fmt.Sprint("record ", fill))
					snapshot := rapid.Bool().Draw(t, "snapshot")
					require.NoError(t, s.Meta(broker.MetaAppend{Records: [][]byte{r}, Snapshot: snapshot}))
					if snapshot {
						durable = nil
					}
					durable = append(durable, r)
				}
			}
			how := rapid.SampledFrom([]string{"close", "kill", "power"}).Draw(t, "end")
			if how == "close" {
				require.NoError(t, s.Close(0))
			} else {
				require.NoError(t, s.Abandon())
			}
			if how == "power" {
				seed := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
				logs.PowerLoss(seed)
				if meta != logs {
					meta.PowerLoss(seed)
				}
			}
			var rec node.Recovered
			s, rec = open(t, logs, meta)
			require.Equal(t, durable, rec.Meta)
			found := map[broker.Lane]node.LaneState{}
			for _, state := range rec.Lanes {
				found[state.Lane] = state
			}
			for l, m := range models {
				state, ok := found[l]
				if !ok {
					require.Zero(t, m.synced, "%s is gone", l)
					delete(models, l)
					continue
				}
				n := int(end(state))
				require.Empty(t, state.Corrupt, "%s", l)
				require.LessOrEqual(t, n, len(m.data))
				require.GreaterOrEqual(t, n, m.synced)
				if how != "power" {
					require.Len(t, m.data, n, "a killed process loses nothing")
				}
				require.LessOrEqual(t, state.High, int64(n))
				for i := range n {
					got, err := s.Read(broker.Slice{Lane: l, From: int64(i), To: int64(i) + 1})
					require.NoError(t, err)
					require.Equal(t, m.data[i], got)
				}
				m.data, m.synced = m.data[:n:n], n // what is recovered is durable
			}
		}
		require.NoError(t, s.Close(0))
	})
}

// TestDamage flips one bit anywhere on disk. Opening never panics; either it
// names the damage, or what it returns is what was written.
func TestDamage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := vfs.NewMem()
		s, _ := open(t, mem, mem)
		require.NoError(t, s.OpenLane(lane))
		var want []byte
		for i := range 6 {
			add(t, s, lane, int64(i), 1, byte(i+1))
			want = append(want, records(int64(i), 1, byte(i+1))...)
		}
		require.NoError(t, s.Meta(broker.MetaAppend{Records: [][]byte{[]byte("meta")}}))
		require.NoError(t, s.Close(0))

		var files []string
		for _, dir := range []string{path.Join(LogsDir, string(lane)), MetaDir} {
			names, err := mem.List(dir)
			require.NoError(t, err)
			for _, name := range names {
				files = append(files, path.Join(dir, name))
			}
		}
		file := rapid.SampledFrom(files).Draw(t, "file")
		info, err := mem.Stat(file)
		require.NoError(t, err)
		if info.Size == 0 {
			return
		}
		require.NoError(t, mem.Flip(file, rapid.Int64Range(0, info.Size-1).Draw(t, "byte"), uint(rapid.IntRange(0, 7).Draw(t, "bit"))))
		s, rec, err := Open(mem, mem, 1<<16, mutant.Set{})
		if err != nil {
			return
		}
		state := rec.Lanes[0]
		n := int(end(state))
		if state.Corrupt == "" && state.Torn == 0 {
			require.Equal(t, 6, n, "records vanished without a word")
		}
		if n > 0 {
			got, err := s.Read(broker.Slice{Lane: lane, From: 0, To: int64(n)})
			require.NoError(t, err)
			require.Equal(t, want[:n*len(want)/6], got)
		}
		require.NoError(t, s.Close(0))
	})
}

// TestStopped: what a stop in order leaves is there once, and not where the stop was
// none, the disk is lost, or damage came after it.
func TestStopped(t *testing.T) {
	mem := vfs.NewMem()
	reopen := func() (*Store, int64) {
		s, rec := open(t, mem, mem)
		return s, rec.Stopped
	}
	s, epoch := reopen()
	require.Zero(t, epoch)
	require.NoError(t, s.OpenLane(lane))
	add(t, s, lane, 0, 1, 'a')
	add(t, s, lane, 1, 1, 'b')
	require.NoError(t, s.Close(7))
	mem.PowerLoss(rand.New(rand.NewPCG(1, 1)))
	s, epoch = reopen()
	require.EqualValues(t, 7, epoch, "it is durable")
	require.NoError(t, s.Abandon())
	s, epoch = reopen()
	require.Zero(t, epoch, "it was used")
	require.NoError(t, s.Close(0))
	s, epoch = reopen()
	require.Zero(t, epoch)
	require.NoError(t, s.Close(0))

	const segment = LogsDir + "/" + string(lane) + "/00000000000000000000.log"
	for _, damage := range []struct {
		what string
		do   func() error
	}{
		{"its own", func() error { return mem.Flip(stoppedFile, 20, 1) }},
		{"a torn log", func() error {
			info, err := mem.Stat(segment)
			require.NoError(t, err)
			return mem.Cut(segment, info.Size-1)
		}},
		{"a damaged log", func() error { return mem.Flip(segment, 40, 1) }},
		{"a lost disk", func() error { mem.Wipe(); return nil }},
	} {
		s, _ = reopen()
		require.NoError(t, s.Close(8))
		require.NoError(t, damage.do())
		s, epoch = reopen()
		require.Zero(t, epoch, damage.what)
		require.NoError(t, s.Close(0))
	}

	// A log that refused something may not have all.
	s, _ = reopen()
	require.NoError(t, s.OpenLane(lane))
	mem.SetError(func(string, string) error { return syscall.EIO })
	require.Error(t, s.Append(broker.Append{Lane: lane, Batches: [][]byte{records(0, 1, 'c')}}))
	mem.SetError(nil)
	require.NoError(t, s.Close(9))
	_, epoch = reopen()
	require.Zero(t, epoch)
}

// TestStrangers puts what does not belong there into a data directory.
func TestStrangers(t *testing.T) {
	for name, put := range map[string]func(fs vfs.FS) error{
		"a file among the logs": func(fs vfs.FS) error { return write(fs, LogsDir+"/stray", "x") },
		"a file for the logs":   func(fs vfs.FS) error { return write(fs, LogsDir, "x") },
		"a file for metadata":   func(fs vfs.FS) error { return write(fs, MetaDir, "x") },
	} {
		mem := vfs.NewMem()
		if name == "a file among the logs" {
			require.NoError(t, mem.MkdirAll(LogsDir))
		}
		require.NoError(t, put(mem))
		_, _, err := Open(mem, mem, 1<<16, mutant.Set{})
		require.Error(t, err, name)
	}
}

func write(fs vfs.FS, name, text string) error {
	f, err := fs.OpenFile(name, true)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	return f.Close()
}

// FuzzOpen opens whatever bytes stand in the files.
func FuzzOpen(f *testing.F) {
	mem := vfs.NewMem()
	s, _ := open(f, mem, mem)
	require.NoError(f, s.OpenLane(lane))
	add(f, s, lane, 0, 2, 1)
	require.NoError(f, s.Meta(broker.MetaAppend{Records: [][]byte{[]byte("a")}}))
	require.NoError(f, s.Close(0))
	dir := path.Join(LogsDir, string(lane))
	names, err := mem.List(dir)
	require.NoError(f, err)
	metaNames, err := mem.List(MetaDir)
	require.NoError(f, err)
	contents := func(name string) []byte {
		b, err := vfs.ReadFile(mem, name)
		require.NoError(f, err)
		return b
	}
	f.Add(contents(path.Join(dir, names[0])), contents(path.Join(MetaDir, metaNames[0])))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, log, meta []byte) {
		mem := vfs.NewMem()
		require.NoError(t, mem.MkdirAll(dir))
		require.NoError(t, mem.MkdirAll(MetaDir))
		require.NoError(t, write(mem, path.Join(dir, names[0]), string(log)))
		require.NoError(t, write(mem, path.Join(MetaDir, metaNames[0]), string(meta)))
		s, rec, err := Open(mem, mem, 1<<16, mutant.Set{})
		if err != nil {
			return
		}
		for _, state := range rec.Lanes {
			if n := end(state); n > state.Start {
				_, err := s.Read(broker.Slice{Lane: state.Lane, From: state.Start, To: n})
				require.NoError(t, err)
			}
		}
		require.NoError(t, s.Close(0))
	})
}

// TestKeptSurvivesPowerLoss: what is kept is durable at once and replaced whole, and
// when it cannot be read the log is not to be trusted.
func TestKeptSurvivesPowerLoss(t *testing.T) {
	for seed := range uint64(20) {
		mem := vfs.NewMem()
		s, _ := open(t, mem, mem)
		require.NoError(t, s.OpenLane(lane))
		require.NoError(t, s.Keep(broker.Keep{Lane: lane, Seq: 1, State: []byte("first")}))
		require.NoError(t, s.Keep(broker.Keep{Lane: lane, Seq: 2, State: []byte("second")}))
		require.ErrorContains(t, s.Keep(broker.Keep{Lane: "unknown"}), "log unknown is not open")
		require.NoError(t, s.Abandon())
		mem.PowerLoss(rand.New(rand.NewPCG(seed, 1)))
		s, rec := open(t, mem, mem)
		require.Len(t, rec.Lanes, 1)
		require.Equal(t, "second", string(rec.Lanes[0].Kept))
		require.Empty(t, rec.Lanes[0].Corrupt)
		require.NoError(t, s.Close(0))

		f, err := mem.OpenFile(path.Join(LogsDir, string(lane), keptExt), true)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte{0xff}, 3)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		_, rec = open(t, mem, mem)
		require.Nil(t, rec.Lanes[0].Kept)
		require.NotEmpty(t, rec.Lanes[0].Corrupt)
	}
}
