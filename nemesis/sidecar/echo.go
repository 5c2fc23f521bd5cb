package sidecar

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Volley is a number of datagrams that one endpoint sends to another one, which
// sends each back at once.
type Volley struct {
	Number uint64        `json:"number"` // above 0, unique in a run
	To     string        `json:"to"`
	Count  int           `json:"count"`
	Size   int           `json:"size"` // of each, in bytes
	Gap    time.Duration `json:"gap"`  // between two; 0 = all at once
}

// The bounds of a volley.
const (
	MinVolleySize = echoHead + 4
	MaxVolleySize = 1400
	maxVolley     = 10_000
)

func (v Volley) validate() error {
	if v.Number == 0 || v.Count < 1 || v.Count > maxVolley || v.Size < MinVolleySize || v.Size > MaxVolleySize || v.Gap < 0 {
		return fmt.Errorf("volley %d of %d datagrams of %d bytes, one each %v: 1 to %d of %d to %d bytes are possible",
			v.Number, v.Count, v.Size, v.Gap, maxVolley, MinVolleySize, MaxVolleySize)
	}
	return nil
}

// Echoes is what one end received of a volley: the other end on the way there, the
// sender on the way back.
type Echoes struct {
	Arrived   int           `json:"arrived"`   // different ones, whole
	Twice     int           `json:"twice"`     // further copies of those
	Overtaken int           `json:"overtaken"` // that came after one which was sent later
	Damaged   int           `json:"damaged"`
	Spread    time.Duration `json:"spread"`           // from the first to the last
	Median    time.Duration `json:"median,omitempty"` // round trip, on the way back
}

// echo is one datagram of a volley: magic, run, kind, volley, number, order,
// padding, checksum.
type echo struct {
	reply  bool
	volley uint64
	number uint32
	order  uint32 // of a reply: counted by its sender
}

var echoMagic = []byte("FLE1")

const echoHead = 4 + 8 + 1 + 8 + 4 + 4

// castagnoli is the checksum of datagrams: those of the kernel are switched off,
// so that damaged ones arrive.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sealed(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// unsealed returns what is in front of the checksum; ok is false where it does not fit.
func unsealed(b []byte) (body []byte, ok bool) {
	if len(b) < 4 {
		return nil, false
	}
	body = b[:len(b)-4]
	return body, crc32.Checksum(body, castagnoli) == binary.BigEndian.Uint32(b[len(b)-4:])
}

func (e echo) append(b []byte, run [8]byte, size int) []byte {
	b = append(b, echoMagic...)
	b = append(b, run[:]...)
	kind := byte(0)
	if e.reply {
		kind = 1
	}
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, e.volley)
	b = binary.BigEndian.AppendUint32(b, e.number)
	b = binary.BigEndian.AppendUint32(b, e.order)
	b = append(b, make([]byte, size-4-len(b))...)
	return sealed(b)
}

// tally counts the datagrams of a volley at one end.
type tally struct {
	volley  uint64
	from    netip.Addr
	seen    map[uint32]bool
	highest uint32
	first   time.Time
	got     Echoes
}

// note counts a datagram that has this place in the order of sending.
func (t *tally) note(place uint32, now time.Time) (fresh bool) {
	if t.seen[place] {
		t.got.Twice++
		return false
	}
	t.seen[place] = true
	if t.got.Arrived == 0 {
		t.first = now
	}
	t.got.Arrived++
	t.got.Spread = now.Sub(t.first)
	if place < t.highest {
		t.got.Overtaken++
	}
	t.highest = max(t.highest, place)
	return true
}

// echoes are the volleys that an endpoint takes part in.
type echoes struct {
	mu      sync.Mutex
	sent    *outgoing // the volley that is being sent
	arrived []*tally  // the newest last, at most tallies
	damaged map[netip.Addr]int
}

const tallies = 16

// outgoing is a volley at its sender.
type outgoing struct {
	tally
	at    []time.Time // when each was sent
	trips []time.Duration
	last  time.Time // when the newest reply came
}

// What a sender waits for after its last datagram: first for any reply, and then
// as long as replies come.
const (
	firstReply = 2 * time.Second
	nextReply  = 250 * time.Millisecond
	straggler  = 20 * time.Millisecond // for copies, when all are back
	echoPoll   = 2 * time.Millisecond
)

// Volley sends datagrams and waits for what comes back. One volley at a time is
// sent; an endpoint without a known address is an error.
func (n *Nonces) Volley(ctx context.Context, v Volley) (Echoes, error) {
	if err := v.validate(); err != nil {
		return Echoes{}, err
	}
	to := n.Addr(v.To)
	if !to.IsValid() {
		return Echoes{}, fmt.Errorf("the address of %q is unknown", v.To)
	}
	e := &n.echoes
	out := &outgoing{tally: tally{volley: v.Number, from: to.Addr(), seen: map[uint32]bool{}}, at: make([]time.Time, v.Count)}
	e.mu.Lock()
	if e.sent != nil {
		defer e.mu.Unlock()
		return Echoes{}, fmt.Errorf("volley %d is still on its way", e.sent.volley)
	}
	e.sent = out
	delete(e.damaged, to.Addr())
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.sent = nil
		e.mu.Unlock()
	}()
	var buf []byte
	var end time.Time
	for i := range v.Count {
		buf = echo{volley: v.Number, number: uint32(i)}.append(buf[:0], n.run, v.Size)
		e.mu.Lock()
		end = time.Now()
		out.at[i] = end
		e.mu.Unlock()
		// As with nonces: a rule of ours may drop it here.
		if _, err := n.conn.WriteToUDPAddrPort(buf, to); err != nil && !errors.Is(err, syscall.EPERM) {
			return Echoes{}, fmt.Errorf("sending to %s: %w", v.To, err)
		}
		if err := sleep(ctx, v.Gap); err != nil {
			return Echoes{}, err
		}
	}
	for {
		e.mu.Lock()
		got, trips := out.got, slices.Clone(out.trips)
		wait := end.Add(firstReply)
		if got.Arrived > 0 {
			slices.Sort(trips)
			got.Median = trips[len(trips)/2]
			wait = later(out.last, end).Add(nextReply + 2*trips[len(trips)-1])
		}
		if got.Arrived == v.Count {
			wait = out.last.Add(straggler)
		}
		got.Damaged = e.damaged[to.Addr()]
		e.mu.Unlock()
		if !time.Now().Before(wait) {
			return got, nil
		}
		if err := sleep(ctx, echoPoll); err != nil {
			return Echoes{}, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Arrived returns what arrived here of a volley that another endpoint sent, and
// begins to count damaged datagrams from that endpoint anew.
func (n *Nonces) Arrived(volley uint64) Echoes {
	e := &n.echoes
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.arrived {
		if t.volley == volley {
			got := t.got
			got.Damaged = e.damaged[t.from]
			delete(e.damaged, t.from)
			return got
		}
	}
	return Echoes{}
}

// echoed takes a datagram and reports whether it was one of a volley.
func (n *Nonces) echoed(b []byte, from netip.AddrPort) bool {
	if !bytes.HasPrefix(b, echoMagic) {
		return false
	}
	now := time.Now()
	e := &n.echoes
	body, whole := unsealed(b)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !whole {
		if e.damaged == nil {
			e.damaged = map[netip.Addr]int{}
		}
		e.damaged[from.Addr()]++
		return true
	}
	if len(body) < echoHead || [8]byte(body[4:12]) != n.run {
		return true
	}
	got := echo{
		reply: body[12] == 1, volley: binary.BigEndian.Uint64(body[13:21]),
		number: binary.BigEndian.Uint32(body[21:25]), order: binary.BigEndian.Uint32(body[25:29]),
	}
	if got.reply {
		out := e.sent
		if out == nil || out.volley != got.volley || int(got.number) >= len(out.at) {
			return true
		}
		if out.note(got.order, now) {
			out.trips = append(out.trips, now.Sub(out.at[got.number]))
		}
		out.last = now
		return true
	}
	i := slices.IndexFunc(e.arrived, func(t *tally) bool { return t.volley == got.volley })
	if i < 0 {
		if len(e.arrived) == tallies {
			e.arrived = slices.Delete(e.arrived, 0, 1)
		}
		i = len(e.arrived)
		e.arrived = append(e.arrived, &tally{volley: got.volley, from: from.Addr(), seen: map[uint32]bool{}})
	}
	t := e.arrived[i]
	if t.note(got.number, now) {
		answer := echo{reply: true, volley: got.volley, number: got.number, order: uint32(t.got.Arrived)}
		_, _ = n.conn.WriteToUDPAddrPort(answer.append(nil, n.run, len(b)), from) // what is lost is lost
	}
	return true
}
