package sidecar

import (
	"fmt"
	"net/netip"
)

// role is what a rule does with the packets that it matches.
type role string

// A set's counting rules stand before every drop of every set: so a packet
// that two overlapping sets drop is counted by both.
const (
	countSystem role = "system"
	countNonce  role = "nonce"
	drop        role = "drop"
)

// The protocol numbers that rules name.
const (
	protoTCP = 6
	protoUDP = 17
)

// rule is one nftables rule as data. Zero fields match everything.
type rule struct {
	Hook  Hook
	Role  role
	Index int        // of the Drop in its set
	Addr  netip.Addr // source address in Input, destination address in Output
	Proto uint8
	SPort uint16
	DPort uint16
	// New narrows the rule to connections that conntrack calls new. It exists for
	// the test that such a partition is not proven; no fault uses it.
	New bool
}

// compile translates a set's drops to rules. addrs resolves an endpoint to its
// addresses.
func compile(drops []Drop, noncePort uint16, addrs func(endpoint string) []netip.Addr) ([]rule, error) {
	if len(drops) == 0 {
		return nil, fmt.Errorf("a rule set without drops")
	}
	var rules []rule
	for i, d := range drops {
		if d.Hook != Input && d.Hook != Output {
			return nil, fmt.Errorf("drop %d: unknown hook %q, known are %q and %q", i, d.Hook, Input, Output)
		}
		as := addrs(d.Peer)
		if len(as) == 0 {
			return nil, fmt.Errorf("drop %d: the address of %q is unknown", i, d.Peer)
		}
		for _, a := range as {
			base := rule{Hook: d.Hook, Index: i, Addr: a}
			with := func(ro role, proto uint8, sport, dport uint16) {
				r := base
				r.Role, r.Proto, r.SPort, r.DPort = ro, proto, sport, dport
				rules = append(rules, r)
			}
			if d.Port == 0 {
				with(countSystem, protoTCP, 0, 0)
				if d.Hook == Input {
					with(countNonce, protoUDP, 0, noncePort)
				} else { // the clients receive on whatever port they have
					with(countNonce, protoUDP, noncePort, 0)
				}
				with(drop, 0, 0, 0)
				continue
			}
			// Requests to the port and answers from it travel in the same direction when
			// both ends listen on it.
			with(countSystem, protoTCP, 0, d.Port)
			with(countSystem, protoTCP, d.Port, 0)
			with(drop, protoTCP, 0, d.Port)
			with(drop, protoTCP, d.Port, 0)
		}
	}
	return rules, nil
}

// packets is what the kernel counted for one rule.
type packets struct {
	Rule  rule
	Count uint64
}

// filter is the packet filter of a namespace.
type filter interface {
	// setup creates an empty table for the run.
	setup(run string) error
	// apply adds all rules of a set, or none.
	apply(set string, rules []rule) error
	// remove deletes exactly the rules of a set; an unknown set has none.
	remove(set string) error
	// counters returns role, index and count of every rule, by set.
	counters() (map[string][]packets, error)
	// teardown deletes the table with all that is in it.
	teardown() error
}
