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
	return s + ": " + string(r.Role)
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
		name  string
		drops []Drop
		want  string
	}{
		{"everything from a node", []Drop{{Hook: Input, Peer: "n2"}}, `
input 0 addr 10.0.0.2 proto 6: system
input 0 addr 10.0.0.2 proto 17 dport 9099: nonce
input 0 addr 10.0.0.2: drop`},
		{"one port, requests and answers", []Drop{{Hook: Input, Peer: "n2", Port: 9093}}, `
input 0 addr 10.0.0.2 proto 6 dport 9093: system
input 0 addr 10.0.0.2 proto 6 sport 9093: system
input 0 addr 10.0.0.2 proto 6 dport 9093: drop
input 0 addr 10.0.0.2 proto 6 sport 9093: drop`},
		{"everything to the clients, at each of their addresses", []Drop{{Hook: Output, Peer: Clients}}, `
output 0 addr 10.0.0.1 proto 6: system
output 0 addr 10.0.0.1 proto 17 sport 9099: nonce
output 0 addr 10.0.0.1: drop
output 0 addr 10.9.9.9 proto 6: system
output 0 addr 10.9.9.9 proto 17 sport 9099: nonce
output 0 addr 10.9.9.9: drop`},
		{"several", []Drop{{Hook: Input, Peer: "n2", Port: 1}, {Hook: Output, Peer: "n2", Port: 2}}, `
input 0 addr 10.0.0.2 proto 6 dport 1: system
input 0 addr 10.0.0.2 proto 6 sport 1: system
input 0 addr 10.0.0.2 proto 6 dport 1: drop
input 0 addr 10.0.0.2 proto 6 sport 1: drop
output 1 addr 10.0.0.2 proto 6 dport 2: system
output 1 addr 10.0.0.2 proto 6 sport 2: system
output 1 addr 10.0.0.2 proto 6 dport 2: drop
output 1 addr 10.0.0.2 proto 6 sport 2: drop`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rules, err := compile(tt.drops, 9099, addrs)
			require.NoError(t, err)
			var got strings.Builder
			for _, r := range rules {
				require.False(t, r.New, "no rule spares established connections")
				fmt.Fprintf(&got, "\n%v", r)
			}
			require.Equal(t, tt.want, got.String())
		})
	}
	for name, drops := range map[string][]Drop{
		"none": nil, "unknown hook": {{Hook: "forward", Peer: "n2"}}, "unknown peer": {{Hook: Input, Peer: "n9"}},
	} {
		_, err := compile(drops, 9099, addrs)
		require.Error(t, err, name)
	}
}
