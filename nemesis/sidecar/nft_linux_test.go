package sidecar

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestExprs(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.2")
	load := func(base expr.PayloadBase, offset, length uint32) expr.Any {
		return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}
	}
	eq := func(b ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }
	ip, l4 := expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader
	for _, tt := range []struct {
		name string
		rule rule
		want []expr.Any
	}{
		{
			"from an address",
			rule{Hook: Input, Role: act, Action: drop, Addr: addr},
			[]expr.Any{load(ip, 12, 4), eq(10, 0, 0, 2), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}},
		},
		{
			"to an address",
			rule{Hook: Output, Role: act, Action: drop, Addr: addr},
			[]expr.Any{load(ip, 16, 4), eq(10, 0, 0, 2), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}},
		},
		{
			"counting gives no verdict",
			rule{Hook: Input, Role: countSystem, Addr: addr, Proto: protoTCP, SPort: 9093},
			[]expr.Any{load(ip, 12, 4), eq(10, 0, 0, 2), load(ip, 9, 1), eq(6), load(l4, 0, 2), eq(0x23, 0x85), &expr.Counter{}},
		},
		{
			"to a port",
			rule{Hook: Input, Role: countNonce, Addr: addr, Proto: protoUDP, DPort: 9099},
			[]expr.Any{load(ip, 12, 4), eq(10, 0, 0, 2), load(ip, 9, 1), eq(17), load(l4, 2, 2), eq(0x23, 0x8b), &expr.Counter{}},
		},
		{
			"a share, without resets and the probes' port",
			rule{Hook: Input, Role: countSystem, Action: reset, Proto: protoTCP, NotPort: 9099, Without: flagRST, Share: 0.5},
			[]expr.Any{
				load(ip, 9, 1), eq(6),
				load(l4, 0, 2), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0x23, 0x8b}},
				load(l4, 2, 2), &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0x23, 0x8b}},
				load(l4, 13, 1), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{4}, Xor: []byte{0}}, eq(0),
				&expr.Numgen{Register: 1, Modulus: shareUnit, Type: unix.NFT_NG_RANDOM},
				&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
				&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: []byte{0, 0x07, 0xa1, 0x20}},
				&expr.Counter{}, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
			},
		},
		{
			"a copy to where it goes",
			rule{Hook: Output, Action: duplicate},
			[]expr.Any{&expr.Counter{}, load(ip, 16, 4), &expr.Dup{RegAddr: 1}},
		},
		{"to user space", rule{Hook: Output, Action: enqueue}, []expr.Any{&expr.Counter{}, &expr.Queue{}}},
	} {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, tt.rule.exprs(false)) })
	}
	var ct bool
	for _, e := range (rule{Hook: Input, Action: drop, New: true}).exprs(false) {
		_, is := e.(*expr.Ct)
		ct = ct || is
	}
	require.True(t, ct, "new-only asks conntrack")
	queued := rule{Hook: Output, Action: enqueue}.exprs(true)
	require.Equal(t, "NFQUEUE", queued[1].(*expr.Target).Name, "of xtables")
}

func TestNeeds(t *testing.T) {
	rules := []rule{{Action: drop, Share: 0.5}, {Action: duplicate, Share: 0.5}, {Action: enqueue}, {Action: reset}}
	err := needs(unix.ENOENT, rules)
	for _, feature := range []string{"CONFIG_NFT_NUMGEN", "CONFIG_NFT_DUP_IPV4", "CONFIG_NETFILTER_NETLINK_QUEUE", "CONFIG_NFT_REJECT_IPV4"} {
		require.ErrorContains(t, err, feature)
	}
	require.ErrorContains(t, needs(unix.ENOENT, []rule{{Action: drop}}), "CONFIG_NF_TABLES")
	require.NotContains(t, needs(unix.EPERM, rules).Error(), "CONFIG_")
}

func TestComment(t *testing.T) {
	set, r, ok := parseComment(comment("set-1", rule{Role: countNonce, Index: 12}))
	require.True(t, ok)
	require.Equal(t, "set-1", set)
	require.Equal(t, rule{Role: countNonce, Index: 12}, r)
	for _, foreign := range [][]byte{nil, {0}, comment("a b", rule{Role: act}), []byte("\x00\x07a b xyz\x00")} {
		_, _, ok := parseComment(foreign)
		require.False(t, ok, "%q", foreign)
	}
}

// TestKernel runs against a network namespace of its own; it needs the rights
// to make one, as in a container with NET_ADMIN and SYS_ADMIN.
func TestKernel(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread dies with its namespace
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace of its own: %v", err)
	}
	k := newFilter(true)
	require.NoError(t, k.setup("run-1", 9099))
	addr := netip.MustParseAddr("10.0.0.2")
	rules := func(index int) []rule {
		return []rule{{Hook: Input, Role: countSystem, Index: index, Addr: addr}, {Hook: Output, Role: act, Action: drop, Index: index, Addr: addr}}
	}
	require.NoError(t, k.apply("a", rules(0)))
	require.NoError(t, k.apply("b", rules(3)))
	got, err := k.counters()
	require.NoError(t, err)
	require.Equal(t, map[string]int{"a": 2, "b": 2}, map[string]int{"a": len(got["a"]), "b": len(got["b"])})
	require.Contains(t, got["b"], packets{Rule: rule{Hook: Output, Role: act, Index: 3}})
	require.NoError(t, k.remove("a"))
	require.NoError(t, k.remove("a"), "again")
	got, err = k.counters()
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Len(t, got["b"], 2)
	require.NoError(t, k.teardown())
	require.NoError(t, k.teardown(), "again")
}

// TestKernelShapes sends datagrams through every kind of rule, in a namespace of
// its own, from one loopback address to another.
func TestKernelShapes(t *testing.T) {
	runtime.LockOSThread() // as above
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace of its own: %v", err)
	}
	raiseLoopback(t)
	const port = 9099
	from, to := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: to.AsSlice(), Port: port})
	require.NoError(t, err)
	defer func() { require.NoError(t, in.Close()) }()
	out, err := net.DialUDP("udp4", &net.UDPAddr{IP: from.AsSlice()}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
	require.NoError(t, err)
	defer func() { require.NoError(t, out.Close()) }()
	require.NoError(t, uncheck(out))
	// send returns what arrives of count datagrams, and how long the last one took.
	send := func(count int) (arrived []string, took time.Duration) {
		begin := time.Now()
		for range count {
			_, err := out.Write([]byte("datagram"))
			require.NoError(t, err)
		}
		buf := make([]byte, 64)
		for {
			require.NoError(t, in.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
			n, err := in.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return arrived, took
			}
			require.NoError(t, err)
			arrived, took = append(arrived, string(buf[:n])), time.Since(begin)
		}
	}
	k := newFilter(false)
	require.NoError(t, k.setup("run-1", port))
	defer func() { require.NoError(t, k.teardown()) }()
	addrs := func(string) []netip.Addr { return []netip.Addr{from} }
	for _, tt := range []struct {
		shape Shape
		hook  Hook
		check func(arrived []string, took time.Duration)
	}{
		{Shape{Delay: 100 * time.Millisecond}, Input, func(arrived []string, took time.Duration) {
			require.Len(t, arrived, 50)
			require.GreaterOrEqual(t, took, 100*time.Millisecond)
		}},
		{Shape{Loss: 0.5}, Input, func(arrived []string, _ time.Duration) { require.InDelta(t, 25, len(arrived), 20) }},
		{Shape{Corrupt: 1}, Input, func(arrived []string, _ time.Duration) {
			require.Len(t, arrived, 50)
			require.NotContains(t, arrived, "datagram")
		}},
		{Shape{Rate: 36 * 250}, Input, func(arrived []string, took time.Duration) {
			require.Len(t, arrived, 50)
			require.GreaterOrEqual(t, took, 190*time.Millisecond)
		}},
		{Shape{Duplicate: 1}, Output, func(arrived []string, _ time.Duration) { require.Len(t, arrived, 100) }},
	} {
		tt.shape.Hook, tt.shape.Peer = tt.hook, "n2"
		if tt.hook == Output {
			addrs = func(string) []netip.Addr { return []netip.Addr{to} }
		}
		rules, err := compileShapes([]Shape{tt.shape}, 0, port, addrs)
		require.NoError(t, err)
		require.NoError(t, k.apply("a", rules))
		tt.check(send(50))
		sets, err := k.counters()
		require.NoError(t, err)
		var hits uint64
		for _, p := range sets["a"] {
			if p.Rule.Role == countNonce {
				hits += p.Count
			}
		}
		require.GreaterOrEqual(t, hits, uint64(5), "%+v", tt.shape)
		require.NoError(t, k.remove("a"))
		arrived, took := send(50)
		require.Len(t, arrived, 50, "when it is removed")
		require.Equal(t, slices.Repeat([]string{"datagram"}, 50), arrived)
		require.Less(t, took, 100*time.Millisecond)
	}
}

// raiseLoopback gives the namespace its loopback addresses.
func raiseLoopback(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(fd)) }()
	req, err := unix.NewIfreq("lo")
	require.NoError(t, err)
	req.SetUint16(unix.IFF_UP)
	require.NoError(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req))
}
