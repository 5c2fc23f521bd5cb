package sidecar

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func FuzzParseNonce(f *testing.F) {
	f.Add(nonce{boot: Boot{1}, number: 7, from: "n1"}.append(nil))
	f.Add([]byte("FLN1"))
	f.Fuzz(func(t *testing.T, in []byte) {
		n, err := parseNonce(in)
		if err == nil {
			require.Equal(t, in, n.append(nil))
		}
	})
}

func startNonces(t *testing.T, cfg NonceConfig) *Nonces {
	t.Helper()
	cfg.Interval = time.Millisecond
	n, err := StartNonces(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

func (n *Nonces) local() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), n.conn.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port())
}

func received(n *Nonces, from string) uint64 {
	_, r := n.Counters()
	return r[from]
}

func TestNonces(t *testing.T) {
	a := startNonces(t, NonceConfig{Run: "r", Self: "n1", Boot: NewBoot(), Peers: map[string]netip.AddrPort{Clients: {}}})
	sent, _ := a.Counters()
	require.Equal(t, map[string]uint64{Clients: 0}, sent, "nobody to send to yet")

	c := startNonces(t, NonceConfig{Run: "r", Self: Clients, Boot: NewBoot(), Peers: map[string]netip.AddrPort{"n1": a.local()}})
	require.Eventually(t, func() bool { return received(a, Clients) > 3 && received(c, "n1") > 3 }, 5*time.Second, time.Millisecond)
	require.Equal(t, c.local(), a.Addr(Clients), "learned from its nonces")
	sent, _ = a.Counters()
	require.GreaterOrEqual(t, sent[Clients], received(c, "n1"))
}

func TestNoncesOfOthersDoNotCount(t *testing.T) {
	boot, from := NewBoot(), netip.MustParseAddrPort("127.0.0.1:9")
	n := startNonces(t, NonceConfig{Run: "r", Self: "n1", Boot: NewBoot(), Peers: map[string]netip.AddrPort{"n2": from}})
	good := nonce{run: n.run, boot: boot, number: 5, from: "n2"}

	n.note(good, from)
	require.EqualValues(t, 5, received(n, "n2"))
	n.note(nonce{run: n.run, boot: boot, number: 3, from: "n2"}, from)
	require.EqualValues(t, 5, received(n, "n2"), "the highest stays")
	n.note(nonce{run: n.run, boot: boot, number: 9, from: "n2"}, netip.MustParseAddrPort("127.0.0.2:9"))
	require.EqualValues(t, 5, received(n, "n2"), "from another address")
	n.note(nonce{run: n.run, boot: boot, number: 9, from: "n3"}, from)
	_, r := n.Counters()
	require.NotContains(t, r, "n3")
	n.note(nonce{run: n.run, boot: NewBoot(), number: 2, from: "n2"}, from)
	require.EqualValues(t, 2, received(n, "n2"), "a new boot counts from the beginning")

	other := startNonces(t, NonceConfig{Run: "another run", Self: "n2", Boot: NewBoot(), Peers: map[string]netip.AddrPort{"n1": n.local()}})
	require.Eventually(t, func() bool { s, _ := other.Counters(); return s["n1"] > 5 }, 5*time.Second, time.Millisecond)
	require.EqualValues(t, 2, received(n, "n2"), "of another run")
}
