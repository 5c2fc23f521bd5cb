package sidecar

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Boot identifies one start of an observer.
type Boot [8]byte

// NewBoot returns a random boot id.
func NewBoot() Boot {
	var b Boot
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return b
}

func (b Boot) String() string { return hex.EncodeToString(b[:]) }

// nonce is one numbered datagram: magic, run, boot, number, sender's name, checksum.
type nonce struct {
	run    [8]byte // of the run id's SHA-256
	boot   Boot
	number uint64
	from   string
}

var (
	nonceMagic = []byte("FLN2")
	errNonce   = errors.New("not a nonce")
)

const nonceHead = 4 + 8 + 8 + 8

func (n nonce) append(b []byte) []byte {
	b = append(b, nonceMagic...)
	b = append(b, n.run[:]...)
	b = append(b, n.boot[:]...)
	b = binary.BigEndian.AppendUint64(b, n.number)
	return sealed(append(b, n.from...))
}

func parseNonce(b []byte) (nonce, error) {
	b, whole := unsealed(b)
	if !whole || len(b) < nonceHead || !bytes.HasPrefix(b, nonceMagic) {
		return nonce{}, errNonce
	}
	n := nonce{
		run: [8]byte(b[4:12]), boot: Boot(b[12:20]),
		number: binary.BigEndian.Uint64(b[20:28]), from: string(b[28:]),
	}
	if n.number == 0 || !validName(n.from) {
		return nonce{}, errNonce
	}
	return n, nil
}

// NonceConfig says who exchanges nonces with whom.
type NonceConfig struct {
	Run  string
	Self string
	Boot Boot
	// Port is the UDP port on all local addresses; 0 = any free one.
	Port uint16
	// Peers are the other endpoints. One without an address is answered at the
	// address that its nonces last came from; one with an address is believed
	// only from there.
	Peers    map[string]netip.AddrPort
	Interval time.Duration
}

// Nonces sends numbered datagrams to peers and counts what arrives. Between them
// it sends volleys where it is told to, and sends those of others back.
type Nonces struct {
	conn *net.UDPConn
	cfg  NonceConfig
	run  [8]byte
	stop context.CancelFunc
	wg   sync.WaitGroup

	echoes echoes

	mu    sync.Mutex
	peers map[string]*noncePeer
}

type noncePeer struct {
	addr     netip.AddrPort
	learned  bool
	sent     uint64
	boot     Boot
	received uint64
}

// StartNonces opens the port and begins; Close ends it.
func StartNonces(cfg NonceConfig) (*Nonces, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(cfg.Port)})
	if err != nil {
		return nil, fmt.Errorf("opening the nonce port %d: %w", cfg.Port, err)
	}
	if err := uncheck(conn); err != nil {
		return nil, errors.Join(fmt.Errorf("setting up the nonce port: %w", err), conn.Close())
	}
	sum := sha256.Sum256([]byte(cfg.Run))
	n := &Nonces{conn: conn, cfg: cfg, run: [8]byte(sum[:8]), peers: map[string]*noncePeer{}}
	for name, addr := range cfg.Peers {
		n.peers[name] = &noncePeer{addr: addr, learned: !addr.IsValid()}
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	n.wg.Go(func() { n.send(ctx) })
	n.wg.Go(n.receive)
	return n, nil
}

// Close ends the exchange and waits for its end.
func (n *Nonces) Close() error {
	n.stop()
	err := n.conn.Close()
	n.wg.Wait()
	return err
}

func (n *Nonces) send(ctx context.Context) {
	tick := time.NewTicker(n.cfg.Interval)
	defer tick.Stop()
	var buf []byte
	for {
		n.mu.Lock()
		for _, p := range n.peers {
			if !p.addr.IsValid() {
				continue
			}
			buf = nonce{run: n.run, boot: n.cfg.Boot, number: p.sent + 1, from: n.cfg.Self}.append(buf[:0])
			// A rule of ours that drops output answers "not permitted": that nonce was
			// sent, and cut. After any other error it is not counted as sent, or its
			// absence at the peer would pass for the effect of a cut.
			if _, err := n.conn.WriteToUDPAddrPort(buf, p.addr); err == nil || errors.Is(err, syscall.EPERM) {
				p.sent++
			}
		}
		n.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (n *Nonces) receive() {
	buf := make([]byte, 2*MaxVolleySize)
	for {
		size, from, err := n.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier packet
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if n.echoed(buf[:size], from) {
			continue
		}
		got, err := parseNonce(buf[:size])
		if err != nil || got.run != n.run {
			continue
		}
		n.note(got, from)
	}
}

func (n *Nonces) note(got nonce, from netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.peers[got.from]
	switch {
	case p == nil:
		return
	case p.learned:
		p.addr = from
	case p.addr != from:
		return
	}
	if p.boot != got.boot {
		p.boot, p.received = got.boot, 0
	}
	p.received = max(p.received, got.number)
}

// Counters returns, per peer, the number of the last nonce sent and the highest
// one received.
func (n *Nonces) Counters() (sent, received map[string]uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	sent, received = map[string]uint64{}, map[string]uint64{}
	for name, p := range n.peers {
		sent[name], received[name] = p.sent, p.received
	}
	return sent, received
}

// Addr returns a peer's address as far as it is known.
func (n *Nonces) Addr(peer string) netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.peers[peer]; p != nil {
		return p.addr
	}
	return netip.AddrPort{}
}
