package sidecar

import (
	"net/netip"
	"runtime"
	"testing"

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
	} {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, tt.rule.exprs(false)) })
	}
	var ct bool
	for _, e := range (rule{Hook: Input, Action: drop, New: true}).exprs(false) {
		_, is := e.(*expr.Ct)
		ct = ct || is
	}
	require.True(t, ct, "new-only asks conntrack")
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
