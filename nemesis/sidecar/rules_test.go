package sidecar

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func (r rule) String() string {
	s := fmt.Sprintf("%s %d", r.Hook, r.Index)
	if r.Addr.IsValid() {
		s += fmt.Sprintf(" addr %s", r.Addr)
	}
	if r.Proto != 0 {
		s += fmt.Sprintf(" proto %d", r.Proto)
	}
	if r.SPort != 0 {
		s += fmt.Sprintf(" sport %d", r.SPort)
	}
	if r.DPort != 0 {
		s += fmt.Sprintf(" dport %d", r.DPort)
	}
	if r.NotPort != 0 {
		s += fmt.Sprintf(" no port %d", r.NotPort)
	}
	if r.Without != 0 {
		s += fmt.Sprintf(" without flag %#x", r.Without)
	}
	if r.Share != 0 {
		s += fmt.Sprintf(" share %g", r.Share)
	}
	s += ": " + string(r.Role)
	return s + [...]string{pass: "", drop: " drop", reset: " reset", duplicate: " duplicate", enqueue: " queue"}[r.Action]
}

func TestCompile(t *testing.T) {
	addrs := func(name string) []netip.Addr {
		switch name {
		case "n2":
			return []netip.Addr{netip.MustParseAddr("10.0.0.2")}
		case Clients:
			return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.9.9.9")}
		}
		return nil
	}
	for _, tt := range []struct {
		name   string
		drops  []Drop
		shapes []Shape
		want   string
	}{
		{"everything from a node", []Drop{{Hook: Input, Peer: "n2"}}, nil, `
input 0 addr 10.0.0.2 proto 6: system
input 0 addr 10.0.0.2 proto 17 dport 9099: nonce
input 0 addr 10.0.0.2: act drop`},
		{"one port, requests and answers", []Drop{{Hook: Input, Peer: "n2", Port: 9093}}, nil, `
input 0 addr 10.0.0.2 proto 6 dport 9093: system
input 0 addr 10.0.0.2 proto 6 sport 9093: system
input 0 addr 10.0.0.2 proto 6 dport 9093: act drop
input 0 addr 10.0.0.2 proto 6 sport 9093: act drop`},
		{"everything to the clients, at each of their addresses", []Drop{{Hook: Output, Peer: Clients}}, nil, `
output 0 addr 10.0.0.1 proto 6: system
output 0 addr 10.0.0.1 proto 17 sport 9099: nonce
output 0 addr 10.0.0.1: act drop
output 0 addr 10.9.9.9 proto 6: system
output 0 addr 10.9.9.9 proto 17 sport 9099: nonce
output 0 addr 10.9.9.9: act drop`},
		{"several", []Drop{{Hook: Input, Peer: "n2", Port: 1}, {Hook: Output, Peer: "n2", Port: 2}}, nil, `
input 0 addr 10.0.0.2 proto 6 dport 1: system
input 0 addr 10.0.0.2 proto 6 sport 1: system
input 0 addr 10.0.0.2 proto 6 dport 1: act drop
input 0 addr 10.0.0.2 proto 6 sport 1: act drop
output 1 addr 10.0.0.2 proto 6 dport 2: system
output 1 addr 10.0.0.2 proto 6 sport 2: system
output 1 addr 10.0.0.2 proto 6 dport 2: act drop
output 1 addr 10.0.0.2 proto 6 sport 2: act drop`},
		{"resets, which spare themselves and, in the count, probes", []Drop{{Hook: Input, Peer: "n2", Mode: Reset}}, nil, `
input 0 addr 10.0.0.2 proto 6 no port 9099 without flag 0x4: system
input 0 addr 10.0.0.2 proto 6 without flag 0x4: act reset`},
		{"half-open connections", []Drop{{Hook: Output, Peer: "n2", Mode: HalfOpen}}, nil, `
output 0 addr 10.0.0.2 proto 6 no port 9099 without flag 0x2: system
output 0 addr 10.0.0.2 proto 6 without flag 0x2: act drop`},
		{"shapes of the kernel, behind the drops", []Drop{{Hook: Input, Peer: "n2", Port: 1}}, []Shape{{Hook: Input, Peer: "n2", Loss: 0.25}, {Hook: Output, Peer: "n2", Duplicate: 0.5}}, `
input 0 addr 10.0.0.2 proto 6 dport 1: system
input 0 addr 10.0.0.2 proto 6 sport 1: system
input 0 addr 10.0.0.2 proto 6 dport 1: act drop
input 0 addr 10.0.0.2 proto 6 sport 1: act drop
input 1 addr 10.0.0.2 proto 6 no port 9099 share 0.25: system drop
input 1 addr 10.0.0.2 proto 17 share 0.25: nonce drop
output 2 addr 10.0.0.2 proto 6 no port 9099 share 0.5: system duplicate
output 2 addr 10.0.0.2 proto 17 share 0.5: nonce duplicate`},
		{"shapes of user space, at each address", nil, []Shape{{Hook: Output, Peer: Clients, Delay: 1, Jitter: 1}, {Hook: Input, Peer: "n2", Rate: 1, Loss: 0.5}}, `
output 0 addr 10.0.0.1: act queue
output 0 addr 10.9.9.9: act queue
input 1 addr 10.0.0.2 proto 6 no port 9099 share 0.5: system drop
input 1 addr 10.0.0.2 proto 17 share 0.5: nonce drop
input 1 addr 10.0.0.2: act queue`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rules, err := compile(tt.drops, 9099, addrs)
			require.NoError(t, err)
			shaped, err := compileShapes(tt.shapes, len(tt.drops), 9099, addrs)
			require.NoError(t, err)
			rules = append(rules, shaped...)
			var got strings.Builder
			for _, r := range rules {
				require.False(t, r.New, "no rule spares established connections")
				fmt.Fprintf(&got, "\n%v", r)
			}
			require.Equal(t, tt.want, got.String())
		})
	}
	for name, drops := range map[string][]Drop{
		"unknown hook": {{Hook: "forward", Peer: "n2"}}, "unknown peer": {{Hook: Input, Peer: "n9"}},
		"unknown mode": {{Hook: Input, Peer: "n2", Mode: "loud"}}, "a port of resets": {{Hook: Input, Peer: "n2", Port: 1, Mode: Reset}},
	} {
		_, err := compile(drops, 9099, addrs)
		require.Error(t, err, name)
	}
	for name, s := range map[string]Shape{
		"nothing": {Hook: Input, Peer: "n2"}, "only reorder": {Hook: Input, Peer: "n2", Reorder: 0.5}, "unknown peer": {Hook: Input, Peer: "n9", Loss: 1},
		"share": {Hook: Input, Peer: "n2", Loss: 1.5}, "negative": {Hook: Input, Peer: "n2", Delay: -1}, "hook": {Hook: "x", Peer: "n2", Loss: 1},
	} {
		_, err := compileShapes([]Shape{s}, 0, 9099, addrs)
		require.Error(t, err, name)
	}
}
