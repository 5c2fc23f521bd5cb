package storage

import (
	"fmt"
	"math/rand/v2"
	"path"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/vfs"
)

// sharer is one node's process at a shared device.
type sharer struct {
	t    require.TestingT
	s    *Store
	id   broker.NodeID
	dead bool
}

func newSharer(t require.TestingT, device *vfs.Mem, id broker.NodeID) *sharer {
	n := &sharer{t: t, id: id}
	s, _, err := Open(vfs.NewMem(), vfs.NewMem(), 1<<16, mutant.Set{})
	require.NoError(t, err)
	s.Share(device.Process(func() bool { return n.dead }))
	n.s = s
	return n
}

func (n *sharer) lock() broker.Lock {
	return broker.Lock{Node: n.id, Owner: fmt.Sprintf("n%d", n.id)}
}

func (n *sharer) do(e broker.Device) broker.DeviceDone {
	e.Lane = lane
	if e.Lock == (broker.Lock{}) {
		e.Lock = n.lock()
	}
	d := n.s.Device(e)
	require.NoError(n.t, d.Err)
	return d
}

func (n *sharer) open(fenced bool) (token, end uint64) {
	e := broker.Device{Do: broker.OpenLog, Fenced: fenced}
	if fenced {
		e.Token = n.do(broker.Device{Do: broker.Publish}).Token
	}
	d := n.do(e)
	require.True(n.t, d.Held)
	require.Empty(n.t, d.Log.Corrupt)
	return e.Token, uint64(endOf(d.Log))
}

func endOf(l *broker.LogState) int64 {
	if k := len(l.Batches); k > 0 {
		return l.Batches[k-1].Last + 1
	}
	return l.Start
}

func (n *sharer) values(to int64) []byte {
	if to == 0 {
		return nil
	}
	data, err := n.s.Read(broker.Slice{Lane: lane, To: to})
	require.NoError(n.t, err)
	batches, _, err := batch.Split(data)
	require.NoError(n.t, err)
	var out []byte
	for _, b := range batches {
		out = append(out, b[61])
	}
	return out
}

func TestFileLock(t *testing.T) {
	device := vfs.NewMem()
	a, b := newSharer(t, device, 1), newSharer(t, device, 2)
	require.True(t, a.do(broker.Device{Do: broker.TryLock}).Held)
	d := b.do(broker.Device{Do: broker.TryLock})
	require.False(t, d.Held)
	require.Equal(t, broker.NodeID(1), d.Holder)
	require.True(t, a.do(broker.Device{Do: broker.CheckLock}).Held)
	require.False(t, b.do(broker.Device{Do: broker.CheckLock}).Held)

	require.NoError(t, device.Unlink(path.Join(LogsDir, string(lane), LockFile)))
	require.False(t, a.do(broker.Device{Do: broker.CheckLock}).Held, "lost")
	require.True(t, b.do(broker.Device{Do: broker.TryLock}).Held)
	require.False(t, a.do(broker.Device{Do: broker.CheckLock}).Held)
	require.False(t, a.do(broker.Device{Do: broker.TryLock}).Held)

	b.dead = true
	require.True(t, a.do(broker.Device{Do: broker.TryLock}).Held, "it ended with its process")
	a.do(broker.Device{Do: broker.CloseLog})
	c := newSharer(t, device, 3)
	require.True(t, c.do(broker.Device{Do: broker.TryLock}).Held)
}

func TestLease(t *testing.T) {
	device := vfs.NewMem()
	at := func(n *sharer, do broker.DeviceOp, wall, margin time.Duration) broker.DeviceDone {
		l := n.lock()
		l.Lease, l.Wall, l.Length, l.Margin = true, int64(wall), time.Second, margin
		return n.do(broker.Device{Do: do, Lock: l})
	}
	a, b := newSharer(t, device, 1), newSharer(t, device, 2)
	require.True(t, at(a, broker.TryLock, 10*time.Second, 0).Held)
	require.False(t, at(b, broker.TryLock, 10900*time.Millisecond, 0).Held)
	require.True(t, at(a, broker.CheckLock, 10900*time.Millisecond, 0).Held, "renewed")
	a.dead = true // it outlives its process
	require.False(t, at(b, broker.TryLock, 11800*time.Millisecond, 0).Held)
	require.False(t, at(b, broker.TryLock, 12*time.Second, 500*time.Millisecond).Held, "within the margin")
	require.True(t, at(b, broker.TryLock, 12*time.Second, 0).Held)
	a.dead = false
	require.False(t, at(a, broker.CheckLock, 11*time.Second, 0).Held, "by its own clock it would last")
	require.False(t, at(a, broker.CloseLog, 11*time.Second, 0).Held)
	require.True(t, at(b, broker.CheckLock, 12*time.Second, 0).Held, "a former owner frees nothing")
	at(b, broker.CloseLog, 12*time.Second, 0)
	require.True(t, at(a, broker.TryLock, 12*time.Second, time.Hour).Held, "freed")
}

// TestOverlap: without tokens two owners write at the same place.
func TestOverlap(t *testing.T) {
	device := vfs.NewMem()
	a, b := newSharer(t, device, 1), newSharer(t, device, 2)
	a.open(false)
	add(t, a.s, lane, 0, 1, 'a')
	_, end := b.open(false)
	require.Equal(t, uint64(1), end)
	add(t, b.s, lane, 1, 1, 'b')
	add(t, a.s, lane, 1, 1, 'c')
	require.NoError(t, a.s.Sync(lane))
	require.NoError(t, b.s.Sync(lane))
	require.Equal(t, "ac", string(b.values(2)), "its own record is gone")
	add(t, b.s, lane, 2, 3, 'd')
	add(t, a.s, lane, 2, 1, 'e')
	_, err := b.s.Read(broker.Slice{Lane: lane, To: 5})
	require.Error(t, err, "and where sizes differ the log is damaged")
}

func TestTokens(t *testing.T) {
	device := vfs.NewMem()
	a, b, c := newSharer(t, device, 1), newSharer(t, device, 2), newSharer(t, device, 3)
	token, _ := a.open(true)
	require.Equal(t, uint64(1), token)
	add(t, a.s, lane, 0, 1, 'a')
	require.NoError(t, a.s.Sync(lane))

	stale := c.do(broker.Device{Do: broker.Publish}).Token // and comes no further for now
	token, end := b.open(true)
	require.Equal(t, uint64(3), token)
	require.Equal(t, uint64(1), end)
	add(t, a.s, lane, 1, 1, 'x') // a late write: it lands in its own part
	require.NoError(t, a.s.Sync(lane))
	require.Equal(t, token, a.do(broker.Device{Do: broker.CheckToken}).Token, "whoever looks sees that it is not its own any more")
	add(t, b.s, lane, 1, 2, 'b')
	require.NoError(t, b.s.Sync(lane))
	require.False(t, c.do(broker.Device{Do: broker.OpenLog, Fenced: true, Token: stale}).Held, "overtaken")
	require.Equal(t, "ab", string(b.values(3)))

	device.PowerLoss(rand.New(rand.NewPCG(1, 2)))
	d := newSharer(t, device, 4)
	_, end = d.open(true)
	require.Equal(t, uint64(3), end)
	require.Equal(t, "ab", string(d.values(3)))
	add(t, d.s, lane, 3, 1, 'd')
	require.Equal(t, "abd", string(d.values(4)))
	require.NoError(t, d.s.Truncate(broker.Truncate{Lane: lane, To: 3}))
	require.Error(t, d.s.Truncate(broker.Truncate{Lane: lane, To: 1}), "others' parts are not cut")
}

func TestDamageIsRefused(t *testing.T) {
	for _, fenced := range []bool{false, true} {
		device := vfs.NewMem()
		a := newSharer(t, device, 1)
		token, _ := a.open(fenced)
		for i := range int64(4) {
			add(t, a.s, lane, i, 1, 'a')
			require.NoError(t, a.s.Sync(lane))
		}
		dir := path.Join(LogsDir, string(lane), plainDir)
		if fenced {
			dir = a.s.reign(lane, token, ownDir)
		}
		require.NoError(t, device.Flip(path.Join(dir, "00000000000000000000.log"), 200, 3))
		b := newSharer(t, device, 2)
		e := broker.Device{Do: broker.OpenLog, Fenced: fenced}
		if fenced {
			e.Token = b.do(broker.Device{Do: broker.Publish}).Token
		}
		d := b.do(e)
		require.NotEmpty(t, d.Log.Corrupt)
		require.Less(t, endOf(d.Log), int64(4))
		require.Error(t, b.s.Append(broker.Append{Lane: lane, Batches: [][]byte{records(endOf(d.Log), 1, 'b')}}))
	}
}

// TestReigns lets owners come, go on writing after they were overtaken, and lose power
// at random: what an owner acknowledged, having seen its token unchanged after its
// sync, is in every later owner's log.
func TestReigns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		device := vfs.NewMem()
		type owner struct {
			*sharer
			token uint64
			end   int64
		}
		var owners []*owner
		var acked []byte // by offset
		fill := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"take over": func(t *rapid.T) {
				o := &owner{sharer: newSharer(t, device, broker.NodeID(len(owners)+1))}
				token, end := o.open(true)
				o.token, o.end = token, int64(end)
				owners = append(owners, o)
				require.GreaterOrEqual(t, o.end, int64(len(acked)))
				got := o.values(o.end)
				require.Equal(t, string(acked), string(got[:len(acked)]))
			},
			"write": func(t *rapid.T) {
				if len(owners) == 0 {
					return
				}
				o := owners[rapid.IntRange(max(0, len(owners)-3), len(owners)-1).Draw(t, "owner")]
				fill++
				add(t, o.s, lane, o.end, 1, fill)
				o.end++
				if rapid.Bool().Draw(t, "sync") {
					require.NoError(t, o.s.Sync(lane))
					if o.do(broker.Device{Do: broker.CheckToken}).Token == o.token {
						acked = o.values(o.end)
					}
				}
			},
			"power": func(t *rapid.T) {
				device.PowerLoss(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)))
				owners = nil
			},
		})
	})
}

func TestNoDevice(t *testing.T) {
	s, _ := open(t, vfs.NewMem(), vfs.NewMem())
	require.ErrorContains(t, s.Device(broker.Device{Lane: lane, Do: broker.TryLock}).Err, "--shared")
}

func TestRemoveShared(t *testing.T) {
	device := vfs.NewMem()
	a, b := newSharer(t, device, 1), newSharer(t, device, 2)
	require.True(t, a.do(broker.Device{Do: broker.TryLock}).Held)
	a.open(false)
	b.do(broker.Device{Do: broker.RemoveLog})
	there, err := vfs.Exists(device, path.Join(LogsDir, string(lane)))
	require.NoError(t, err)
	require.True(t, there, "it is another's")
	a.do(broker.Device{Do: broker.RemoveLog})
	there, err = vfs.Exists(device, path.Join(LogsDir, string(lane)))
	require.NoError(t, err)
	require.False(t, there)
}
