package driver

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/storage"
	"github.com/faultline-mq/faultline/broker/vfs"
)

// records returns a batch of n records at base.
func records(base int64, n int) []byte {
	b := make([]byte, 61+8*n)
	binary.BigEndian.PutUint64(b, uint64(base))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint32(b[23:], uint32(n-1))
	binary.BigEndian.PutUint64(b[43:], ^uint64(0)) // no producer
	binary.BigEndian.PutUint32(b[57:], uint32(n))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

const testLane = broker.Lane("t-0.1")

// storageDriver is a driver without a node, with one open log on a disk in memory.
func storageDriver(t *testing.T) (*driver, *vfs.Mem) {
	mem := vfs.NewMem()
	store, _, err := storage.Open(mem, mem, 1<<20, mutant.Set{})
	require.NoError(t, err)
	d := bareDriver(t, DefaultConfig())
	d.store = store
	d.carryOut(broker.OpenLane{Lane: testLane})
	d.work.Wait()
	return d, mem
}

func TestGroupCommit(t *testing.T) {
	d, _ := storageDriver(t)
	entered, release := make(chan struct{}), make(chan struct{})
	// The first operation holds the lane until all others are queued.
	d.lane(testLane).do(func() { close(entered); <-release })
	<-entered
	const writes = 50
	for i := range writes {
		d.carryOut(broker.Append{Lane: testLane, Seq: uint64(i + 1), Batches: [][]byte{records(int64(i), 1)}})
		d.carryOut(broker.Sync{Lane: testLane})
	}
	close(release)
	written, synced, syncReports := uint64(0), uint64(0), 0
	for synced < writes {
		s := d.next(t).(broker.Stored)
		require.NoError(t, s.Err)
		require.Equal(t, testLane, s.Lane)
		require.GreaterOrEqual(t, s.Written, written)
		require.GreaterOrEqual(t, s.Synced, synced)
		require.LessOrEqual(t, s.Synced, s.Written)
		if s.Synced > synced {
			syncReports++
		}
		written, synced = s.Written, s.Synced
	}
	require.Equal(t, 2, syncReports, "syncs asked for while one is queued or under way become one")
	d.work.Wait()
	require.Empty(t, d.inputs)
}

// TestLaneOrder reads between writes: each read sees what was asked for before it and nothing after.
func TestLaneOrder(t *testing.T) {
	d, _ := storageDriver(t)
	var before, after []byte
	var done atomic.Int64
	d.carryOut(broker.Append{Lane: testLane, Seq: 1, Batches: [][]byte{records(0, 2), records(2, 1)}})
	d.filled([]broker.Slice{{Lane: testLane, From: 0, To: 9, Into: &before}}, func() { done.Add(1) })
	d.carryOut(broker.Truncate{Lane: testLane, Seq: 2, To: 2})
	d.filled([]broker.Slice{{Lane: testLane, From: 0, To: 9, Into: &after}, {Lane: testLane, From: 0, To: 1, Into: new([]byte)}}, func() { done.Add(1) })
	d.work.Wait()
	require.EqualValues(t, 2, done.Load())
	require.Equal(t, append(records(0, 2), records(2, 1)...), before)
	require.Equal(t, records(0, 2), after)
	require.Equal(t, broker.Stored{Lane: testLane, Written: 1}, d.next(t))
	require.Equal(t, broker.Stored{Lane: testLane, Written: 2}, d.next(t))

	// What cannot be read is reported and nothing is sent.
	d.filled([]broker.Slice{{Lane: testLane, From: 7, To: 9, Into: new([]byte)}}, func() { done.Add(1) })
	failed := d.next(t).(broker.ReadFailed)
	require.Equal(t, testLane, failed.Lane)
	require.EqualValues(t, 7, failed.Offset)
	require.Error(t, failed.Err)
	d.work.Wait()
	require.EqualValues(t, 2, done.Load())
}

// TestFailedLane reports the failure once and does nothing more, so that no later success hides it.
func TestFailedLane(t *testing.T) {
	for _, op := range []string{vfs.OpWrite, vfs.OpSync} {
		t.Run(op, func(t *testing.T) {
			d, mem := storageDriver(t)
			d.carryOut(broker.Append{Lane: testLane, Seq: 1, Batches: [][]byte{records(0, 1)}})
			d.work.Wait()
			require.Equal(t, broker.Stored{Lane: testLane, Written: 1}, d.next(t))
			var failures atomic.Int64
			mem.SetError(func(o, _ string) error {
				if o == op && failures.Add(1) == 1 {
					return syscall.EIO
				}
				return nil
			})
			for seq := uint64(2); seq < 5; seq++ {
				d.carryOut(broker.Append{Lane: testLane, Seq: seq, Batches: [][]byte{records(int64(seq)-1, 1)}})
				d.carryOut(broker.Sync{Lane: testLane})
			}
			d.work.Wait()
			errors := 0
			for len(d.inputs) > 0 {
				s := d.next(t).(broker.Stored)
				require.Zero(t, s.Synced)
				if s.Err != nil {
					require.ErrorIs(t, s.Err, syscall.EIO)
					require.Empty(t, d.inputs, "reports follow a failure")
					errors++
				}
			}
			require.Equal(t, 1, errors)
		})
	}
}

// TestRemovedLane removes a log while a sync of it is under way and another is wanted.
func TestRemovedLane(t *testing.T) {
	d, mem := storageDriver(t)
	var syncs atomic.Int64
	entered, gate := make(chan struct{}, 1), make(chan struct{}, 1)
	mem.SetError(func(op, name string) error {
		if op == vfs.OpSync && syncs.Add(1) == 1 {
			entered <- struct{}{}
			<-gate
		}
		return nil
	})
	d.carryOut(broker.Append{Lane: testLane, Seq: 1, Batches: [][]byte{records(0, 1)}})
	d.carryOut(broker.Sync{Lane: testLane})
	<-entered
	d.carryOut(broker.Append{Lane: testLane, Seq: 2, Batches: [][]byte{records(1, 1)}})
	d.carryOut(broker.Sync{Lane: testLane})
	d.carryOut(broker.RemoveLane{Lane: testLane})
	gate <- struct{}{}
	d.work.Wait()
	for len(d.inputs) > 0 {
		require.NoError(t, d.next(t).(broker.Stored).Err)
	}
	require.Empty(t, d.store.Lanes())

	other := broker.Lane("t-0.2")
	d.carryOut(broker.OpenLane{Lane: other})
	d.work.Wait()
	d.carryOut(broker.RemoveLane{Lane: other})
	require.NotContains(t, d.lanes, testLane, "queues of removed logs are forgotten")
}

func TestMetaLane(t *testing.T) {
	rec := func(s string) [][]byte { return [][]byte{[]byte(s)} }
	got := merged([]broker.MetaAppend{
		{Seq: 1, Records: rec("a")}, {Seq: 2, Records: rec("b")}, {Seq: 3, Records: rec("S"), Snapshot: true}, {Seq: 4, Records: rec("c")}, {Seq: 5, Records: rec("T"), Snapshot: true},
	})
	require.Equal(t, []broker.MetaAppend{
		{Seq: 2, Records: append(rec("a"), rec("b")...)}, {Seq: 4, Records: append(rec("S"), rec("c")...), Snapshot: true}, {Seq: 5, Records: rec("T"), Snapshot: true},
	}, got)

	d, mem := storageDriver(t)
	for i := range 20 {
		d.carryOut(broker.MetaAppend{Seq: uint64(i + 1), Records: rec(string(rune('a' + i)))})
	}
	last := uint64(0)
	for last < 20 {
		m := d.next(t).(broker.MetaStored)
		require.NoError(t, m.Err)
		require.Greater(t, m.Seq, last)
		last = m.Seq
	}
	d.work.Wait()
	require.NoError(t, d.store.Abandon())
	mem.PowerLoss(rand.New(rand.NewPCG(1, 1)))
	_, found, err := storage.Open(mem, mem, 1<<20, mutant.Set{})
	require.NoError(t, err)
	require.Len(t, found.Meta, 20)

	d, mem = storageDriver(t)
	mem.SetError(func(op, name string) error { return syscall.EIO })
	d.carryOut(broker.MetaAppend{Seq: 1, Records: rec("a")})
	require.ErrorIs(t, d.next(t).(broker.MetaStored).Err, syscall.EIO)
	d.carryOut(broker.MetaAppend{Seq: 2, Records: rec("b")})
	d.work.Wait()
	require.Empty(t, d.inputs)
}

func TestWithin(t *testing.T) {
	require.True(t, within(limit, func() {}))
	release := make(chan struct{})
	require.False(t, within(time.Millisecond, func() { <-release }))
	close(release)
}
