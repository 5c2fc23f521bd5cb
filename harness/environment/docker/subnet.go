package docker

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"net"
	"net/netip"
	"os"
	"strings"
)

// pools are what runs take their subnets from, in this order. 198.18.0.0/15 is
// set aside for tests of network devices (RFC 2544) and is routed nowhere; the
// other is private (RFC 1918) and outside the defaults of Docker's own pools.
var pools = []netip.Prefix{
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("10.213.0.0/16"),
}

// subnetBits returns the length of the prefix that holds n nodes beside the
// network's, the gateway's and the broadcast address: 28 for up to 13 nodes.
func subnetBits(nodes int) int {
	bits := 28
	for 1<<(32-bits)-3 < nodes {
		bits--
	}
	return bits
}

// subnets yields the subnets of the pools that overlap with nothing in taken.
// It begins at a place that depends on the run, so that runs which start at
// once rarely try the same one.
func subnets(run string, bits int, taken []netip.Prefix) iter.Seq[netip.Prefix] {
	h := fnv.New32a()
	_, _ = h.Write([]byte(run)) // a hash never fails
	return func(yield func(netip.Prefix) bool) {
		for _, pool := range pools {
			count := uint32(1) << (bits - pool.Bits())
			base := binary.BigEndian.Uint32(pool.Addr().AsSlice())
			for i := range count {
				p := netip.PrefixFrom(ipv4(base+(h.Sum32()+i)%count<<(32-bits)), bits)
				if !overlapsAny(p, taken) && !yield(p) {
					return
				}
			}
		}
	}
}

func overlapsAny(p netip.Prefix, taken []netip.Prefix) bool {
	for _, t := range taken {
		if p.Overlaps(t) {
			return true
		}
	}
	return false
}

func ipv4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// hostAt returns the n-th address of a subnet: 1 is the gateway's, nodes begin at 2.
func hostAt(p netip.Prefix, n int) netip.Addr {
	return ipv4(binary.BigEndian.Uint32(p.Masked().Addr().AsSlice()) + uint32(n))
}

// hostPrefixes lists what this host's interfaces and routes reach, but for the
// default route. Where the engine runs elsewhere, its own routes stay unknown.
func hostPrefixes() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing this host's addresses: %w", err)
	}
	var taken []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			taken = append(taken, p.Masked())
		}
	}
	table, err := os.ReadFile("/proc/net/route")
	if errors.Is(err, os.ErrNotExist) {
		return taken, nil // not Linux
	}
	if err != nil {
		return nil, fmt.Errorf("listing this host's routes: %w", err)
	}
	return append(taken, parseRoutes(string(table))...), nil
}

// parseRoutes reads Linux's /proc/net/route, whose numbers are hexadecimal in
// host byte order; the default route and unreadable lines are left out.
func parseRoutes(table string) []netip.Prefix {
	var routes []netip.Prefix
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 {
			continue
		}
		dest, err1 := hex.DecodeString(f[1])
		mask, err2 := hex.DecodeString(f[7])
		if err1 != nil || err2 != nil || len(dest) != 4 || len(mask) != 4 {
			continue
		}
		bits, _ := net.IPv4Mask(flip(mask)[0], flip(mask)[1], flip(mask)[2], flip(mask)[3]).Size()
		if bits == 0 {
			continue
		}
		routes = append(routes, netip.PrefixFrom(netip.AddrFrom4(flip(dest)), bits).Masked())
	}
	return routes
}

func flip(b []byte) [4]byte {
	var out [4]byte
	binary.BigEndian.PutUint32(out[:], binary.NativeEndian.Uint32(b))
	return out
}

// isLocal reports whether addr is an address of this host.
func isLocal(addr netip.Addr) (bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("listing this host's addresses: %w", err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == addr {
			return true, nil
		}
	}
	return false, nil
}

// resolve4 turns "host:port" into an IPv4 address and port.
func resolve4(at string) (netip.AddrPort, error) {
	a, err := net.ResolveUDPAddr("udp4", at)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("resolving %s: %w", at, err)
	}
	return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), uint16(a.Port)), nil
}
