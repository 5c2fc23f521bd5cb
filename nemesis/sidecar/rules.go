package sidecar

import (
	"fmt"
	"net/netip"
)

// role is what the counter of a rule counts.
type role string

// The roles. A set's rules that only count stand before every other rule of
// every set: so a packet that two overlapping sets drop is counted by both.
const (
	countSystem role = "system"
	countNonce  role = "nonce"
	act         role = "act" // nothing that matters
)

// action is what a rule does with the packets that it matches.
type action uint8

const (
	pass      action = iota // nothing
	drop                    // gone without a word
	reset                   // gone, and answered with a TCP reset
	duplicate               // sent again to where it goes, and passed
	enqueue                 // handed to user space
)

// The protocol numbers that rules name.
const (
	protoTCP = 6
	protoUDP = 17
)

// The offsets into the IPv4 and the TCP or UDP header.
const (
	ipProtocol = 9
	ipSource   = 12
	ipDest     = 16
	l4Source   = 0
	l4Dest     = 2
	tcpFlags   = 13
)

// The flags of a TCP header.
const (
	flagSYN = 0x02
	flagRST = 0x04
)

// rule is one nftables rule as data. Zero fields match everything.
type rule struct {
	Hook   Hook
	Role   role
	Action action
	Index  int        // of the Drop in its set; shapes follow the drops
	Addr   netip.Addr // source address in Input, destination address in Output
	Proto  uint8
	SPort  uint16
	DPort  uint16
	// NotPort spares connections from and to this port.
	NotPort uint16
	// Without spares TCP segments that have one of these flags.
	Without uint8
	// Share of the packets that match, drawn; 0 = all.
	Share float64
	Shape *Shape // of enqueue
	// New narrows the rule to connections that conntrack calls new. It exists for
	// the test that such a partition is not proven; no fault uses it.
	New bool
}

// resolve returns the addresses of a peer for a hook.
func resolve(hook Hook, peer string, addrs func(endpoint string) []netip.Addr) ([]netip.Addr, error) {
	if hook != Input && hook != Output {
		return nil, fmt.Errorf("unknown hook %q, known are %q and %q", hook, Input, Output)
	}
	as := addrs(peer)
	if len(as) == 0 {
		return nil, fmt.Errorf("the address of %q is unknown", peer)
	}
	return as, nil
}

// compile translates a set's drops to rules. addrs resolves an endpoint to its
// addresses.
func compile(drops []Drop, noncePort uint16, addrs func(endpoint string) []netip.Addr) ([]rule, error) {
	var rules []rule
	for i, d := range drops {
		as, err := resolve(d.Hook, d.Peer, addrs)
		if err != nil {
			return nil, fmt.Errorf("drop %d: %w", i, err)
		}
		for _, a := range as {
			base := rule{Hook: d.Hook, Index: i, Addr: a}
			with := func(ro role, do action, proto uint8, sport, dport uint16) {
				r := base
				r.Role, r.Action, r.Proto, r.SPort, r.DPort = ro, do, proto, sport, dport
				rules = append(rules, r)
			}
			switch d.Mode {
			case "":
			case Reset, HalfOpen:
				if d.Port != 0 {
					return nil, fmt.Errorf("drop %d: %s takes no port", i, d.Mode)
				}
				do, spared := reset, uint8(flagRST)
				if d.Mode == HalfOpen {
					do, spared = drop, flagSYN
				}
				base.Without = spared
				counted := base
				counted.Role, counted.Proto, counted.NotPort = countSystem, protoTCP, noncePort
				rules = append(rules, counted)
				with(act, do, protoTCP, 0, 0)
				continue
			default:
				return nil, fmt.Errorf("drop %d: unknown mode %q, known are %q and %q", i, d.Mode, Reset, HalfOpen)
			}
			if d.Port == 0 {
				with(countSystem, pass, protoTCP, 0, 0)
				if d.Hook == Input {
					with(countNonce, pass, protoUDP, 0, noncePort)
				} else { // the clients receive on whatever port they have
					with(countNonce, pass, protoUDP, noncePort, 0)
				}
				with(act, drop, 0, 0, 0)
				continue
			}
			// Requests to the port and answers from it travel in the same direction when
			// both ends listen on it.
			with(countSystem, pass, protoTCP, 0, d.Port)
			with(countSystem, pass, protoTCP, d.Port, 0)
			with(act, drop, protoTCP, 0, d.Port)
			with(act, drop, protoTCP, d.Port, 0)
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
	// setup creates an empty table for the run. Connections from and to spare are
	// those of probes.
	setup(run string, spare uint16) error
	// apply adds all rules of a set, or none.
	apply(set string, rules []rule) error
	// remove deletes exactly the rules of a set; an unknown set has none.
	remove(set string) error
	// counters returns role, index and count of every rule, by set.
	counters() (map[string][]packets, error)
	// teardown deletes the table with all that is in it.
	teardown() error
}
