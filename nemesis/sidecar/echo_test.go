package sidecar

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// twoEnds are two endpoints that know each other.
func twoEnds(t *testing.T) (a, b *Nonces) {
	t.Helper()
	a = startNonces(t, NonceConfig{Run: "r", Self: "n1", Boot: NewBoot(), Peers: map[string]netip.AddrPort{"n2": {}}})
	b = startNonces(t, NonceConfig{Run: "r", Self: "n2", Boot: NewBoot(), Peers: map[string]netip.AddrPort{"n1": a.local()}})
	require.Eventually(t, func() bool { return a.Addr("n2").IsValid() }, 5*time.Second, time.Millisecond)
	return a, b
}

func TestVolley(t *testing.T) {
	a, b := twoEnds(t)
	for number := uint64(1); number < 2*tallies; number++ {
		got, err := a.Volley(t.Context(), Volley{Number: number, To: "n2", Count: 20, Size: MaxVolleySize})
		require.NoError(t, err)
		require.Equal(t, 20, got.Arrived)
		require.Positive(t, got.Median)
		there := b.Arrived(number)
		require.Equal(t, 20, there.Arrived)
		require.Zero(t, there.Twice+there.Overtaken+there.Damaged+got.Twice+got.Overtaken+got.Damaged)
		require.Positive(t, there.Spread)
	}
	require.Zero(t, b.Arrived(1), "long ago")
	for name, bad := range map[string]Volley{
		"number": {To: "n2", Count: 1, Size: 64}, "count": {Number: 1, To: "n2", Size: 64}, "small": {Number: 1, To: "n2", Count: 1, Size: MinVolleySize - 1},
		"large": {Number: 1, To: "n2", Count: 1, Size: MaxVolleySize + 1}, "endpoint": {Number: 1, To: "n9", Count: 1, Size: 64},
	} {
		_, err := a.Volley(t.Context(), bad)
		require.Error(t, err, name)
	}
}

// What arrives is counted by what became of it on the way.
func TestVolleyOnABadLink(t *testing.T) {
	a, b := twoEnds(t)
	from := a.local()
	send := func(number uint32, change func([]byte)) {
		d := echo{volley: 7, number: number}.append(nil, b.run, 64)
		if change != nil {
			change(d)
		}
		require.True(t, b.echoed(d, from))
	}
	send(0, nil)
	send(2, nil)
	send(1, nil)                                                  // overtaken
	send(2, nil)                                                  // a copy
	send(3, func(d []byte) { d[40] ^= 1 })                        // damaged
	send(4, func(d []byte) { d[5] ^= 1; _ = sealed(d[:60]) })     // of another run
	require.False(t, b.echoed([]byte("FLN2, a nonce"), from))     // no echo at all
	require.True(t, b.echoed([]byte("FLE1"), netip.AddrPort{}))   // nobody's
	require.True(t, b.echoed(sealed([]byte("FLE1 short")), from)) // nothing
	got := b.Arrived(7)
	require.Positive(t, got.Spread)
	got.Spread = 0
	require.Equal(t, Echoes{Arrived: 3, Twice: 1, Overtaken: 1, Damaged: 1}, got)
	require.Zero(t, b.Arrived(7).Damaged, "counted anew")
}

func TestVolleyWithoutAnAnswer(t *testing.T) {
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()
	a := startNonces(t, NonceConfig{Run: "r", Self: "n1", Boot: NewBoot(), Peers: map[string]netip.AddrPort{"n2": silent.LocalAddr().(*net.UDPAddr).AddrPort()}})
	got, err := a.Volley(t.Context(), Volley{Number: 1, To: "n2", Count: 3, Size: 64})
	require.NoError(t, err)
	require.Equal(t, Echoes{}, got)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = a.Volley(ctx, Volley{Number: 2, To: "n2", Count: 3, Size: 64})
	require.ErrorIs(t, err, context.Canceled)
}

func FuzzEchoed(f *testing.F) {
	f.Add(echo{volley: 7, number: 1}.append(nil, [8]byte{}, 64))
	f.Add(echo{reply: true, volley: 7, number: 1 << 30}.append(nil, [8]byte{}, 64))
	f.Add([]byte("FLE1"))
	n, err := StartNonces(NonceConfig{Interval: time.Hour})
	require.NoError(f, err)
	f.Cleanup(func() { _ = n.Close() })
	n.echoes.sent = &outgoing{tally: tally{volley: 7, seen: map[uint32]bool{}}, at: make([]time.Time, 3)}
	f.Fuzz(func(t *testing.T, in []byte) {
		n.echoed(in, n.local())
		n.echoed(sealed(in), n.local())
	})
}

func TestDial(t *testing.T) {
	dial := func(addr string) string {
		got, err := Dial(t.Context(), addr)
		require.NoError(t, err)
		return got
	}
	s, err := startEchoServer(0)
	require.NoError(t, err)
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.listener.Addr().(*net.TCPAddr).AddrPort().Port()).String()
	require.Equal(t, Accepted, dial(addr))
	require.NoError(t, s.Close())
	require.Equal(t, WasReset, dial(addr), "nobody listens")

	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	require.Equal(t, Unanswered, dial(l.Addr().String()), "the kernel opens it, and nobody answers")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close() // as a proxy for the dead does
		}
	}()
	require.Equal(t, WasReset, dial(l.Addr().String()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Dial(ctx, addr)
	require.ErrorIs(t, err, context.Canceled)
}
