package sim

import (
	"slices"
	"time"
)

// A sender retransmits retransmitMin after the loss of data, then at intervals
// that double up to retransmitMax (Linux's minimum, and a cap that suits
// low-latency networks).
const (
	retransmitMin = 200 * time.Millisecond
	retransmitMax = 400 * time.Millisecond
)

type itemKind uint8

const (
	itemData   itemKind = iota
	itemAccept          // ends the handshake at the accepting side
	itemFin             // the sender's end is closed
)

// item is one element of a stream.
type item struct {
	seq  uint64 // order within its half
	kind itemKind
	msg  any
}

// end is one side of a connection.
type end struct {
	node *node // nil: a client
	idx  int   // endpoint index
	open bool
}

// conn is one connection: ends[0] dialled ends[1], which is a node.
type conn struct {
	w        *World
	id       uint64
	ch       Channel
	ends     [2]end
	halves   [2]half // halves[s] is the data that ends[s] sends
	up       bool    // established, as the dialler sees it
	accepted bool    // established, as the other side sees it

	link   *link // of a dialling node
	client *clientConn
	open   []RequestID // requests that the node has received, in order
}

// half is one direction of a connection.
type half struct {
	c           *conn
	side        int    // of the sender
	seq         uint64 // of the newest item
	lastArrival time.Duration
	held        []item
	blockedAt   time.Duration // first loss, or -1: not blocked
	gen         uint64        // changes with each blocking and its end
	retx        bool          // a retransmission is on the queue
	ackAt       time.Duration // first data not acknowledged, or -1
	ackGen      uint64
	broken      bool // something that was held is lost: nothing may arrive after the gap
	doomed      bool // a packet was lost as often as it was sent: the sender gives up in the end
}

func (w *World) newConn(ch Channel, from, to int) *conn {
	w.connSeq++
	c := &conn{w: w, id: w.connSeq, ch: ch}
	c.ends[0] = end{idx: from, open: true}
	if from < len(w.nodes) {
		c.ends[0].node = w.nodes[from]
	}
	c.ends[1] = end{idx: to, node: w.nodes[to]}
	for s := range c.halves {
		c.halves[s] = half{c: c, side: s, blockedAt: -1, ackAt: -1}
	}
	return c
}

func (c *conn) sideOf(n *node) int {
	if c.ends[0].node == n {
		return 0
	}
	return 1
}

func (h *half) from() *end { return &h.c.ends[h.side] }
func (h *half) to() *end   { return &h.c.ends[1-h.side] }

func (h *half) latency() time.Duration {
	w := h.c.w
	return w.opts.Latency.draw(w.dir(h.from().idx, h.to().idx).rand)
}

// cut reports whether a packet is lost now, and counts it where a rule drops it.
func (h *half) cut() bool {
	w := h.c.w
	dropped := w.drops(h.from().idx, h.to().idx, h.c)
	return w.silences(h.from().idx, h.to().idx, true) || dropped
}

// cutOpening is cut for the first two packets of a handshake.
func (h *half) cutOpening() bool { return h.c.w.drops(h.from().idx, h.to().idx, h.c) }

// passes reports whether a retransmission would arrive; nothing is counted.
func (h *half) passes() bool {
	w := h.c.w
	return !w.blocks(h.from().idx, h.to().idx, h.c) && !w.silences(h.from().idx, h.to().idx, false) && !h.deaf()
}

// deaf reports whether the receiver's machine has no power.
func (h *half) deaf() bool { n := h.to().node; return n != nil && n.silent }

// send puts an item on the wire, or behind what is already held.
func (h *half) send(kind itemKind, msg any) {
	h.seq++
	it := item{seq: h.seq, kind: kind, msg: msg}
	switch {
	case h.blockedAt >= 0:
		h.cut() // counts it
		h.hold(it)
	case h.cut():
		h.block(it)
	default:
		h.transmit(it)
	}
}

func (h *half) transmit(it item) {
	w := h.c.w
	late, ok := h.travelRepeated()
	if !ok {
		h.doomed = true
		h.block(it)
		return
	}
	h.lastArrival = max(h.lastArrival, w.now+late)
	w.queue.push(h.lastArrival, action{kind: evArrive, on: h, gen: it.seq, item: it.kind, msg: it.msg})
}

// hold keeps an item in order: one that was on its way when the path closed
// comes before those sent later.
func (h *half) hold(it item) {
	i := len(h.held)
	for i > 0 && h.held[i-1].seq > it.seq {
		i--
	}
	h.held = slices.Insert(h.held, i, it)
}

// block begins to hold data.
func (h *half) block(it item) {
	w := h.c.w
	h.hold(it)
	h.blockedAt = w.now
	h.gen++
	h.retx = false
	w.blocked = append(w.blocked, h)
	w.queue.push(w.now+w.opts.UserTimeout, action{kind: evUserTimeout, on: h, gen: h.gen})
}

func (h *half) unblock() {
	if h.blockedAt < 0 {
		return
	}
	h.blockedAt = -1
	h.gen++
	h.c.w.blocked = removeHalf(h.c.w.blocked, h)
}

func (h *half) unstall() {
	if h.ackAt < 0 {
		return
	}
	h.ackAt = -1
	h.ackGen++
	h.c.w.stalled = removeHalf(h.c.w.stalled, h)
}

func removeHalf(hs []*half, h *half) []*half {
	if i := slices.Index(hs, h); i >= 0 {
		return slices.Delete(hs, i, i+1)
	}
	return hs
}

// purge forgets what is held and what is awaited.
func (h *half) purge() {
	h.unblock()
	h.unstall()
	h.broken = h.broken || len(h.held) > 0
	h.held = nil
}

// nextRetransmit is the sender's first retransmission after now.
func (h *half) nextRetransmit() time.Duration {
	at, step := h.blockedAt+retransmitMin, retransmitMin
	for at <= h.c.w.now {
		step = min(2*step, retransmitMax)
		at += step
	}
	return at
}

// arrive brings an item to the receiver.
func (h *half) arrive(it item) {
	kind, msg := it.kind, it.msg
	c, w := h.c, h.c.w
	if h.broken || !h.to().open && !h.from().open {
		return // nobody is left to notice
	}
	w.trace(evArrive, h.to().idx, c.id<<3|uint64(h.side)<<2|uint64(kind))
	if h.blockedAt >= 0 {
		h.hold(it)
		return
	}
	if h.cut() || h.deaf() {
		h.block(it)
		return
	}
	if !h.to().open {
		if kind != itemFin {
			h.answerReset()
		}
		return
	}
	switch kind {
	case itemAccept:
		c.accept()
		return
	case itemFin:
		c.close(1-h.side, "closed")
		return
	}
	if h.from().open && c.halves[1-h.side].cut() {
		h.stall()
	}
	c.receive(1-h.side, msg)
}

// answerReset answers data for a closed end, if the way back is open.
func (h *half) answerReset() {
	if !h.from().open {
		return
	}
	back := &h.c.halves[1-h.side]
	if back.cut() {
		h.stall()
		return
	}
	w := h.c.w
	if late, ok := back.travelRepeated(); ok {
		w.queue.push(w.now+late, action{kind: evReset, on: h})
		return
	}
	h.stall()
}

// stall begins to wait for an acknowledgement that is cut.
func (h *half) stall() {
	if h.ackAt >= 0 {
		return
	}
	w := h.c.w
	h.ackAt = w.now
	h.ackGen++
	w.stalled = append(w.stalled, h)
	w.queue.push(w.now+w.opts.UserTimeout, action{kind: evAckTimeout, on: h, gen: h.ackGen})
}

// resetArrives closes the end of the sender of h.
func (w *World) resetArrives(h *half) {
	if !h.from().open {
		return
	}
	w.trace(evReset, h.from().idx, h.c.id)
	back := &h.c.halves[1-h.side]
	if back.cut() || back.deaf() {
		h.stall()
		return
	}
	h.c.close(h.side, "reset")
}

func (h *half) retransmit(gen uint64) {
	if gen != h.gen {
		return
	}
	h.c.w.trace(evRetransmit, h.from().idx, h.c.id)
	h.retx = false
	switch {
	case !h.cut() && !h.deaf():
		h.flush()
	case h.c.w.now >= h.blockedAt+h.c.w.opts.UserTimeout:
		h.giveUp() // the last one, delayed in flush
	} // otherwise the next opening of the path tries again
}

// flush sends what is held, once nothing sent before is on its way any more.
func (h *half) flush() {
	w := h.c.w
	if w.now < h.lastArrival {
		h.retx = true
		w.queue.push(h.lastArrival, action{kind: evRetransmit, on: h, gen: h.gen})
		return
	}
	held := h.held
	h.held = nil
	h.unblock()
	for _, it := range held {
		if h.blockedAt >= 0 {
			h.hold(it) // behind one that was lost
			continue
		}
		h.transmit(it)
	}
}

func (h *half) userTimeout(gen uint64) {
	if gen != h.gen {
		return
	}
	h.c.w.trace(evUserTimeout, h.from().idx, h.c.id)
	if h.passes() && !h.doomed {
		h.flush()
		return
	}
	h.giveUp()
}

// giveUp loses what is held.
func (h *half) giveUp() {
	h.purge()
	if h.from().open {
		h.c.close(h.side, "timeout")
	}
}

func (h *half) ackTimeout(gen uint64) {
	if gen != h.ackGen {
		return
	}
	h.c.w.trace(evAckTimeout, h.from().idx, h.c.id)
	h.unstall()
	if h.from().open {
		h.c.close(h.side, "timeout")
	}
}

// pathsChanged lets senders notice that a direction may be open again.
func (w *World) pathsChanged() {
	for _, h := range w.blocked {
		if !h.retx && !h.doomed && h.passes() {
			h.retx = true
			w.queue.push(h.nextRetransmit(), action{kind: evRetransmit, on: h, gen: h.gen})
		}
	}
	for i := 0; i < len(w.stalled); {
		h := w.stalled[i]
		if !h.c.halves[1-h.side].passes() {
			i++
			continue
		}
		h.unstall() // removes it from the list
		if !h.to().open {
			w.queue.push(w.now+retransmitMin, action{kind: evReset, on: h})
		}
	}
}

// dial sends the first packet of a handshake.
func (w *World) dial(c *conn) {
	if n := c.ends[0].node; n != nil {
		n.conns = append(n.conns, c)
	}
	if h := &c.halves[0]; !h.cutOpening() {
		w.handshake(h, evSyn)
	}
	w.queue.push(w.now+w.opts.DialTimeout, action{kind: evDialTimeout, on: c})
}

// handshake sends a packet that only the dial's end repeats.
func (w *World) handshake(h *half, k kind) {
	if late, lost := h.travel(0); !lost {
		w.queue.push(w.now+late, action{kind: k, on: h.c})
	}
}

func (w *World) synArrives(c *conn) {
	if !c.ends[0].open {
		return
	}
	n := c.ends[1].node
	w.trace(evSyn, n.idx, c.id)
	if c.halves[0].cutOpening() || n.silent {
		return
	}
	back := &c.halves[1]
	if w.rejects(c.ends[0].idx, n.idx) || n.state != running {
		if !back.cut() {
			w.handshake(back, evRefused)
		}
		return
	}
	c.ends[1].open = true
	n.conns = append(n.conns, c)
	if !back.cutOpening() {
		w.handshake(back, evSynAck)
	}
}

func (w *World) synAckArrives(c *conn) {
	if !c.ends[0].open {
		return
	}
	w.trace(evSynAck, c.ends[0].idx, c.id)
	if c.halves[1].cutOpening() {
		return
	}
	c.up = true
	if l := c.link; l != nil {
		l.backoff = w.opts.RedialMin
		c.halves[0].send(itemAccept, nil)
		l.owner.deliver(LinkUp{Node: w.names[l.to], Channel: l.ch})
		return
	}
	c.halves[0].send(itemAccept, nil)
	c.client.established()
}

func (w *World) refusalArrives(c *conn) {
	if !c.ends[0].open || c.up {
		return
	}
	w.trace(evRefused, c.ends[0].idx, c.id)
	if !c.halves[1].cut() {
		c.failDial("refused")
	}
}

func (w *World) dialTimedOut(c *conn) {
	if !c.ends[0].open || c.up {
		return
	}
	w.trace(evDialTimeout, c.ends[0].idx, c.id)
	c.failDial("timeout")
}

// failDial ends a dial that did not succeed.
func (c *conn) failDial(reason string) {
	c.drop()
	if c.link != nil {
		c.link.conn = nil
		c.link.retry()
		return
	}
	c.client.dialFailed(reason)
}

// drop forgets a connection without a word to either process.
func (c *conn) drop() {
	for s := range c.ends {
		if e := &c.ends[s]; e.open && e.node != nil {
			e.node.forget(c)
		}
		c.ends[s].open = false
		c.halves[s].purge()
	}
}

// accept ends the handshake at the accepting node. A former connection of the
// same stream is closed first: its dialler has given it up.
func (c *conn) accept() {
	n := c.ends[1].node
	c.accepted = true
	if c.client != nil {
		return
	}
	for _, o := range slices.Clone(n.conns) {
		if o != c && o.client == nil && o.accepted && o.ends[1].node == n && o.ends[0].idx == c.ends[0].idx && o.ch == c.ch {
			o.close(1, "replaced")
		}
	}
	n.deliver(LinkUp{Node: c.w.names[c.ends[0].idx], Channel: c.ch, Inbound: true})
}

// receive gives data to the process behind an end.
func (c *conn) receive(side int, msg any) {
	n := c.ends[side].node
	switch {
	case n == nil:
		c.client.receive(msg)
	case c.client != nil:
		r := msg.(Request)
		if !r.NoReply {
			n.requests[r.ID] = c
			c.open = append(c.open, r.ID)
			if len(c.open) > 1 { // answered ones are known by their absence
				c.open = slices.DeleteFunc(c.open, func(id RequestID) bool { _, open := n.requests[id]; return !open })
			}
		}
		n.deliver(msg.(Event)) // r again, without another allocation
	default:
		n.deliver(Message{From: c.w.names[c.ends[0].idx], Channel: c.ch, Msg: msg})
	}
}

// close closes one end and tells its owner why.
func (c *conn) close(side int, reason string) {
	e := &c.ends[side]
	if !e.open {
		return
	}
	if side == 0 && !c.up {
		c.failDial(reason)
		return
	}
	e.open = false
	n := e.node
	if n != nil {
		n.forget(c)
	}
	c.halves[side].purge()
	c.purgeDead()
	switch {
	case n == nil:
		c.client.closed(reason)
	case side == 0:
		l := c.link
		l.conn = nil
		n.deliver(LinkDown{Node: c.w.names[l.to], Channel: l.ch, Reason: reason})
		if slices.Contains(n.links, l) {
			l.retry()
		}
	case c.client != nil:
		for _, id := range c.open {
			n.deliver(RequestGone{ID: id})
		}
		c.open = nil
	case c.accepted:
		n.deliver(LinkDown{Node: c.w.names[c.ends[0].idx], Channel: c.ch, Inbound: true, Reason: reason})
	}
}

// abandon closes one end without telling its owner, who is gone or asked for
// it. With goodbye the kernel still sends what it holds, and says that it closed.
func (c *conn) abandon(side int, goodbye bool) {
	c.ends[side].open = false
	if side == 0 && !c.up {
		c.drop()
		return
	}
	h := &c.halves[side]
	h.unstall()
	if goodbye && c.ends[1-side].open {
		h.send(itemFin, nil)
	} else {
		h.purge()
	}
	c.purgeDead()
}

func (c *conn) purgeDead() {
	if !c.ends[0].open && !c.ends[1].open {
		c.halves[0].purge()
		c.halves[1].purge()
	}
}

// link is a stream that a process keeps to another node.
type link struct {
	owner   *node
	host    *host
	to      int
	ch      Channel
	conn    *conn // dialling or established; nil between attempts
	backoff time.Duration
	gen     uint64
}

func (l *link) dial() {
	w := l.owner.w
	c := w.newConn(l.ch, l.owner.idx, l.to)
	c.link, l.conn = l, c
	w.dial(c)
}

// retry dials again after the back-off.
func (l *link) retry() {
	w := l.owner.w
	l.gen++
	w.queue.push(w.now+l.backoff, action{kind: evRedial, on: l, gen: l.gen})
	l.backoff = min(2*l.backoff, w.opts.RedialMax)
}

func (l *link) redial(gen uint64) {
	if gen != l.gen || l.owner.host != l.host {
		return
	}
	l.owner.w.trace(evRedial, l.owner.idx, uint64(l.to))
	l.dial()
}
