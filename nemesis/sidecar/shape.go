package sidecar

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Shape is what happens to the packets of one direction between this node and a
// peer, whatever their protocol. Shares are within [0, 1] and drawn per packet.
type Shape struct {
	Hook Hook   `json:"hook"`
	Peer string `json:"peer"` // a node's name, or Clients
	// Delay, and a uniformly drawn Jitter on top, are added to each packet. The
	// order of packets stays.
	Delay  time.Duration `json:"delay,omitempty"`
	Jitter time.Duration `json:"jitter,omitempty"`
	// Reorder is the share of packets that are not delayed, and so overtake others.
	Reorder   float64 `json:"reorder,omitempty"`
	Loss      float64 `json:"loss,omitempty"`      // is dropped
	Duplicate float64 `json:"duplicate,omitempty"` // arrives twice
	// Corrupt is the share of packets of which one bit is inverted. Checksums stay
	// as they were, so the receiver's kernel drops what has one.
	Corrupt float64 `json:"corrupt,omitempty"`
	// Rate is how many bytes per second get through; 0 = all. What would wait longer
	// than Backlog is dropped.
	Rate int `json:"rate,omitempty"`
}

// Backlog is how long a packet waits at most where the rate is limited.
const Backlog = 500 * time.Millisecond

// queued reports whether the shape needs its packets in user space.
func (s Shape) queued() bool {
	return s.Delay > 0 || s.Jitter > 0 || s.Corrupt > 0 || s.Rate > 0
}

func (s Shape) validate() error {
	for _, share := range []float64{s.Loss, s.Duplicate, s.Reorder, s.Corrupt} {
		if !(share >= 0 && share <= 1) {
			return fmt.Errorf("a share of %g is not within [0, 1]", share)
		}
	}
	if s.Delay < 0 || s.Jitter < 0 || s.Rate < 0 {
		return fmt.Errorf("delay %v, jitter %v and rate %d must not be negative", s.Delay, s.Jitter, s.Rate)
	}
	if !s.queued() && s.Loss == 0 && s.Duplicate == 0 {
		return fmt.Errorf("it does nothing")
	}
	return nil
}

// compileShapes translates a set's shapes to rules, with indices from first on.
func compileShapes(shapes []Shape, first int, noncePort uint16, addrs func(endpoint string) []netip.Addr) ([]rule, error) {
	var rules []rule
	for i, s := range shapes {
		if err := s.validate(); err != nil {
			return nil, fmt.Errorf("shape %d: %w", i, err)
		}
		as, err := resolve(s.Hook, s.Peer, addrs)
		if err != nil {
			return nil, fmt.Errorf("shape %d: %w", i, err)
		}
		for _, a := range as {
			base := rule{Hook: s.Hook, Index: first + i, Addr: a}
			for _, x := range []struct {
				share  float64
				action action
			}{{s.Duplicate, duplicate}, {s.Loss, drop}} {
				if x.share == 0 {
					continue
				}
				own, nonce := base, base
				own.Role, own.Proto, own.NotPort, own.Share, own.Action = countSystem, protoTCP, noncePort, x.share, x.action
				nonce.Role, nonce.Proto, nonce.Share, nonce.Action = countNonce, protoUDP, x.share, x.action
				rules = append(rules, own, nonce)
			}
			if s.queued() {
				q := base
				q.Role, q.Action, q.Shape = act, enqueue, &s
				rules = append(rules, q)
			}
		}
	}
	return rules, nil
}

// flow is the packets from an address, or to it.
type flow struct {
	hook Hook
	addr netip.Addr
}

// queue holds packets in user space. Of packets that it lets through at once it
// says so at once.
type queue struct {
	// verdict lets a packet go on, with another content where payload is not nil, or
	// drops it. It is called under the queue's lock.
	verdict func(id uint32, pass bool, payload []byte)
	// spare is the port of the probes' connections, which are not the system's.
	spare uint16

	mu     sync.Mutex
	rng    *rand.Rand
	flows  map[flow]*lane
	held   packetHeap
	number uint64
	timer  *time.Timer
	closed bool
}

// lane is what is in force for one flow.
type lane struct {
	shapes []*shaping
	last   time.Time // when the latest packet that keeps its place goes on
}

// shaping is a shape of a set in force.
type shaping struct {
	Shape
	set   string
	index int
	busy  time.Time // until when the packets before fill the rate
	hit   Counter
}

// heldPacket goes on at due; equal ones in the order of their numbers.
type heldPacket struct {
	due     time.Time
	number  uint64
	id      uint32
	payload []byte
}

type packetHeap []heldPacket

func (h packetHeap) Len() int { return len(h) }
func (h packetHeap) Less(i, j int) bool {
	if h[i].due.Equal(h[j].due) {
		return h[i].number < h[j].number
	}
	return h[i].due.Before(h[j].due)
}
func (h packetHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *packetHeap) Push(x any)   { *h = append(*h, x.(heldPacket)) }
func (h *packetHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func newQueue(spare uint16, rng *rand.Rand, verdict func(id uint32, pass bool, payload []byte)) *queue {
	return &queue{verdict: verdict, spare: spare, rng: rng, flows: map[flow]*lane{}}
}

// add brings a set's rule into force.
func (q *queue) add(set string, r rule) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := flow{r.Hook, r.Addr}
	if q.flows[f] == nil {
		q.flows[f] = &lane{}
	}
	q.flows[f].shapes = append(q.flows[f].shapes, &shaping{Shape: *r.Shape, set: set, index: r.Index})
}

// remove takes a set out of force. What is held goes on when it is due.
func (q *queue) remove(set string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for f, l := range q.flows {
		l.shapes = slices.DeleteFunc(l.shapes, func(s *shaping) bool { return s.set == set })
		if len(l.shapes) == 0 {
			delete(q.flows, f)
		}
	}
}

// counters adds what was hit to sets.
func (q *queue) counters(sets map[string][]packets) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for f, l := range q.flows {
		for _, s := range l.shapes {
			r := rule{Hook: f.hook, Index: s.index}
			r.Role = countSystem
			sets[s.set] = append(sets[s.set], packets{Rule: r, Count: s.hit.System})
			r.Role = countNonce
			sets[s.set] = append(sets[s.set], packets{Rule: r, Count: s.hit.Nonces})
		}
	}
}

// close lets everything go on that is held.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.timer != nil {
		q.timer.Stop()
	}
	q.release(time.Time{})
}

// arrive takes a packet (an IPv4 header and what follows it).
func (q *queue) arrive(id uint32, hook Hook, packet []byte, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	due, pass, mangled := q.fate(hook, packet, now)
	switch {
	case !pass, q.closed, !due.After(now):
		q.verdict(id, pass, mangled)
		return
	}
	q.number++
	heap.Push(&q.held, heldPacket{due, q.number, id, mangled})
	if q.held[0].id == id {
		q.arm(now)
	}
}

// arm sets the timer to the first packet that is due.
func (q *queue) arm(now time.Time) {
	if len(q.held) == 0 {
		return
	}
	wait := q.held[0].due.Sub(now)
	if q.timer != nil {
		q.timer.Reset(wait)
		return
	}
	q.timer = time.AfterFunc(wait, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.closed {
			return
		}
		now := time.Now()
		q.release(now)
		q.arm(now)
	})
}

// release lets go on what is due; everything at the zero time.
func (q *queue) release(now time.Time) {
	for len(q.held) > 0 && (now.IsZero() || !q.held[0].due.After(now)) {
		p := heap.Pop(&q.held).(heldPacket)
		q.verdict(p.id, true, p.payload)
	}
}

// fate draws what the shapes of a packet's flow do to it.
func (q *queue) fate(hook Hook, packet []byte, now time.Time) (due time.Time, pass bool, mangled []byte) {
	h, ok := parseHeader(packet)
	if !ok {
		return now, true, nil
	}
	addr := h.from
	if hook == Output {
		addr = h.to
	}
	l := q.flows[flow{hook, addr}]
	if l == nil {
		return now, true, nil
	}
	due = now
	inOrder := true
	for _, s := range l.shapes {
		hit := false
		if s.Corrupt > 0 && q.rng.Float64() < s.Corrupt && len(packet) > h.payload {
			if mangled == nil {
				mangled = slices.Clone(packet)
			}
			mangled[h.payload+q.rng.IntN(len(packet)-h.payload)] ^= 1 << q.rng.IntN(8)
			hit = true
		}
		if s.Rate > 0 {
			s.busy = later(s.busy, now)
			if s.busy.Sub(now) > Backlog {
				s.count(h, q.spare)
				return now, false, nil
			}
			hit = hit || s.busy.After(now)
			s.busy = s.busy.Add(time.Duration(len(packet)) * time.Second / time.Duration(s.Rate))
			due = later(due, s.busy)
		}
		if s.Delay > 0 || s.Jitter > 0 {
			spared := s.Reorder > 0 && q.rng.Float64() < s.Reorder
			switch {
			case !spared:
				due = due.Add(s.Delay + time.Duration(q.rng.Int64N(int64(s.Jitter)+1)))
				hit = hit || s.Reorder == 0
			default:
				inOrder, hit = false, true
			}
		}
		if hit {
			s.count(h, q.spare)
		}
	}
	if inOrder {
		due = later(due, l.last)
		l.last = due
	}
	return due, true, mangled
}

func (s *shaping) count(h header, spare uint16) {
	if h.proto == protoTCP && h.sport != spare && h.dport != spare {
		s.hit.System++
	} else {
		s.hit.Nonces++
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// header is what matters of the headers of a packet.
type header struct {
	from, to     netip.Addr
	proto        uint8
	sport, dport uint16
	payload      int // where bits may be inverted: behind the ports, lengths and checksum of UDP
}

func parseHeader(p []byte) (header, bool) {
	if len(p) < 20 || p[0]>>4 != 4 {
		return header{}, false
	}
	l4 := int(p[0]&15) * 4
	h := header{
		from: netip.AddrFrom4([4]byte(p[ipSource:])), to: netip.AddrFrom4([4]byte(p[ipDest:])), proto: p[ipProtocol], payload: l4 + 8,
	}
	if (h.proto == protoTCP || h.proto == protoUDP) && len(p) >= l4+4 {
		h.sport, h.dport = binary.BigEndian.Uint16(p[l4+l4Source:]), binary.BigEndian.Uint16(p[l4+l4Dest:])
	}
	return h, true
}
