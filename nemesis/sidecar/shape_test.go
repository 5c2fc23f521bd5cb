package sidecar

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	here  = netip.MustParseAddr("10.0.0.1")
	peer  = netip.MustParseAddr("10.0.0.2")
	other = netip.MustParseAddr("10.0.0.3")
)

// packetOf is an IPv4 packet of so many bytes.
func packetOf(from, to netip.Addr, proto uint8, sport, dport uint16, size int) []byte {
	p := make([]byte, size)
	p[0] = 4<<4 | 5
	p[ipProtocol] = proto
	copy(p[ipSource:], from.AsSlice())
	copy(p[ipDest:], to.AsSlice())
	binary.BigEndian.PutUint16(p[20:], sport)
	binary.BigEndian.PutUint16(p[22:], dport)
	return p
}

// bench is a queue and what it decided, in order.
type bench struct {
	*queue
	now     time.Time
	passed  []uint32
	dropped []uint32
	changed map[uint32][]byte
}

func newBench(shapes ...Shape) *bench {
	b := &bench{now: time.Unix(1000, 0), changed: map[uint32][]byte{}}
	b.queue = newQueue(9099, rand.New(rand.NewPCG(1, 2)), func(id uint32, pass bool, payload []byte) {
		if !pass {
			b.dropped = append(b.dropped, id)
			return
		}
		b.passed = append(b.passed, id)
		if payload != nil {
			b.changed[id] = payload
		}
	})
	for i, s := range shapes {
		b.add("s", rule{Hook: Input, Addr: peer, Index: i, Shape: &s})
	}
	return b
}

// fates returns what becomes of count packets from the peer, one each gap.
func (b *bench) fates(count int, gap time.Duration, size int) (late []time.Duration, dropped int) {
	for i := range count {
		at := b.now.Add(time.Duration(i) * gap)
		due, pass, _ := b.fate(Input, packetOf(peer, here, protoTCP, 1, 2, size), at)
		if !pass {
			dropped++
			continue
		}
		late = append(late, due.Sub(at))
	}
	return late, dropped
}

func TestQueueDelays(t *testing.T) {
	const d, j = 100 * time.Millisecond, 50 * time.Millisecond
	late, _ := newBench(Shape{Delay: d, Jitter: j}).fates(1000, time.Millisecond, 100)
	require.GreaterOrEqual(t, slices.Min(late), d)
	require.LessOrEqual(t, slices.Max(late), d+j)
	for i := 1; i < len(late); i++ {
		require.GreaterOrEqual(t, late[i]+time.Millisecond, late[i-1], "packet %d keeps its place", i)
	}
	late, _ = newBench(Shape{Delay: d}, Shape{Delay: d}).fates(10, time.Second, 100)
	require.Equal(t, 2*d, late[0], "delays of several sets add up")
}

func TestQueueReorders(t *testing.T) {
	late, _ := newBench(Shape{Delay: 50 * time.Millisecond, Reorder: 0.25}).fates(1000, time.Millisecond, 100)
	spared := 0
	for _, l := range late {
		if l == 0 {
			spared++
		} else {
			require.Equal(t, 50*time.Millisecond, l)
		}
	}
	require.InDelta(t, 250, spared, 60)
}

func TestQueueLimitsTheRate(t *testing.T) {
	b := newBench(Shape{Rate: 100_000})
	late, dropped := b.fates(100, 0, 1000) // a burst of a second's worth
	require.Equal(t, 10*time.Millisecond, late[0])
	require.Len(t, late, 51)
	require.Equal(t, 510*time.Millisecond, late[50])
	require.Equal(t, 49, dropped, "what would wait longer than the backlog")
	b.now = b.now.Add(time.Minute)
	late, _ = b.fates(3, 20*time.Millisecond, 1000)
	require.Equal(t, []time.Duration{10 * time.Millisecond, 10 * time.Millisecond, 10 * time.Millisecond}, late, "below the rate nothing waits for another")
}

func TestQueueDamages(t *testing.T) {
	b := newBench(Shape{Corrupt: 0.5})
	const count = 1000
	hit := 0
	for range count {
		p := packetOf(peer, here, protoUDP, 1, 2, 100)
		was := slices.Clone(p)
		due, pass, mangled := b.fate(Input, p, b.now)
		require.True(t, pass)
		require.Equal(t, b.now, due)
		require.Equal(t, was, p, "what the kernel holds is not touched")
		if mangled == nil {
			continue
		}
		hit++
		require.Equal(t, was[:28], mangled[:28], "headers stay whole")
		flipped := 0
		for i := range was {
			flipped += bits.OnesCount8(was[i] ^ mangled[i])
		}
		require.Equal(t, 1, flipped)
	}
	require.InDelta(t, count/2, hit, 80)
}

func TestQueueCountsAndForgets(t *testing.T) {
	b := newBench(Shape{Delay: time.Second})
	b.add("t", rule{Hook: Output, Addr: other, Shape: &Shape{Delay: time.Second}})
	held := func(from, to netip.Addr, proto uint8, sport, dport uint16, hook Hook) bool {
		due, _, _ := b.fate(hook, packetOf(from, to, proto, sport, dport, 40), b.now)
		return due.After(b.now)
	}
	require.True(t, held(peer, here, protoTCP, 5, 9092, Input))
	require.True(t, held(peer, here, protoTCP, 5, 9099, Input), "a probe's connection")
	require.True(t, held(peer, here, protoUDP, 9099, 9099, Input))
	require.False(t, held(other, here, protoTCP, 5, 9092, Input), "from another node")
	require.False(t, held(here, peer, protoTCP, 9092, 5, Output), "the other direction")
	require.True(t, held(here, other, protoTCP, 9092, 5, Output))
	counts := func() map[string]uint64 {
		sets := map[string][]packets{}
		b.counters(sets)
		sums := map[string]uint64{}
		for id, ps := range sets {
			for _, p := range ps {
				sums[id+" "+string(p.Rule.Role)] += p.Count
			}
		}
		return sums
	}
	require.Equal(t, map[string]uint64{"s system": 1, "s nonce": 2, "t system": 1, "t nonce": 0}, counts())
	b.remove("s")
	require.False(t, held(peer, here, protoTCP, 5, 9092, Input))
	require.True(t, held(here, other, protoTCP, 9092, 5, Output), "the other set stays")
	require.NotContains(t, counts(), "s system")
}

func TestQueueLetsGo(t *testing.T) {
	b := newBench(Shape{Delay: time.Hour})
	for id := range uint32(3) {
		b.arrive(id, Input, packetOf(peer, here, protoTCP, 1, 2, 40), b.now)
	}
	b.arrive(3, Input, packetOf(other, here, protoTCP, 1, 2, 40), b.now)
	require.Equal(t, []uint32{3}, b.passed, "what is not shaped is not held")
	b.mu.Lock()
	b.release(b.now.Add(time.Hour))
	b.mu.Unlock()
	require.Equal(t, []uint32{3, 0, 1, 2}, b.passed)
	b.arrive(4, Input, packetOf(peer, here, protoTCP, 1, 2, 40), b.now)
	b.close()
	b.arrive(5, Input, packetOf(peer, here, protoTCP, 1, 2, 40), b.now)
	require.Equal(t, []uint32{3, 0, 1, 2, 4, 5}, b.passed, "nothing is held when it ends, and nothing after it")
	require.Empty(t, b.dropped)

	c := newBench(Shape{Delay: time.Millisecond})
	done := make(chan struct{})
	c.verdict = func(uint32, bool, []byte) { close(done) }
	c.arrive(1, Input, packetOf(peer, here, protoTCP, 1, 2, 40), time.Now())
	<-done // by its timer
	c.close()
}

func FuzzFate(f *testing.F) {
	f.Add(packetOf(peer, here, protoTCP, 1, 2, 40))
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, p []byte) {
		b := newBench(Shape{Corrupt: 1, Delay: 1, Rate: 1000})
		due, _, mangled := b.fate(Input, p, b.now)
		require.False(t, due.Before(b.now))
		require.True(t, mangled == nil || len(mangled) == len(p))
	})
}
