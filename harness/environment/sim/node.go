package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
)

type nodeState uint8

const (
	down nodeState = iota
	booting
	running
)

// Exit codes of processes that did not choose their own.
const (
	exitKilled = 137
	exitCrash  = 2
)

// node is a place where processes live, one after another.
type node struct {
	w    *World
	idx  int
	name string
	// what clients wait for
	calling, dialling string

	state       nodeState
	paused      bool
	silent      bool // without power: its kernel answers nothing
	incarnation int
	gen         uint64 // changes with every start and end
	host        *host
	proc        Process
	started     time.Duration
	exitCode    int
	waiters     []waiter // tasks that wait for a boot or an end

	inbox    []Event // what a paused process's kernel holds
	exiting  bool
	wakeAt   time.Duration
	wakeGen  uint64
	wakeNext time.Duration // the wake-up event that is on the queue, or NoWake

	conns    []*conn // connections with an open end here
	links    []*link // streams that the process keeps
	requests map[RequestID]*conn

	volume   Volume
	disk     *rand.Rand
	lanes    []*lane
	laneOf   map[Lane]*lane
	tokens   Token
	ops      Slab[storageOp]
	landing  []*storageOp // issued by a dead incarnation, will still land
	landedBy time.Duration
	slow     float64    // of the data disk
	probes   *rand.Rand // of the harness's own syncs

	clockBase time.Time     // wall clock at clockMono
	clockMono time.Duration // when it was last set
	clockRate float64       // wall seconds per second
	strobe    strobe

	log    logBuffer
	events []history.NodeEvent
}

func newNode(w *World, idx int, name string) *node {
	return &node{
		w: w, idx: idx, name: name, calling: "Call to " + name, dialling: "Call to " + name + " (dialling)",
		volume:    w.opts.Volume(name),
		disk:      stream(w.opts.Seed, "disk/"+name),
		slow:      1,
		clockBase: w.opts.Wall, clockRate: 1,
		wakeAt: NoWake, wakeNext: NoWake,
		log: logBuffer{limit: w.opts.LogBytes},
	}
}

// wall is the node's wall clock.
func (n *node) wall() time.Time {
	d := n.w.now - n.clockMono
	if n.clockRate != 1 {
		d = time.Duration(float64(d) * n.clockRate)
	}
	if s := n.strobe; s.period > 0 && (n.w.now-s.since)/s.period%2 == 0 {
		d += s.by
	}
	return n.clockBase.Add(d)
}

// strobe makes a clock wrong by by in every other period.
type strobe struct{ by, period, since time.Duration }

// start schedules a boot after everything that a former incarnation issued has landed.
func (n *node) start() {
	w := n.w
	n.state, n.exitCode = booting, 0
	n.gen++
	n.incarnation++
	at := max(w.now, n.landedBy) + w.opts.Boot.draw(w.bootRand)
	w.queue.push(at, action{kind: evBoot, on: n, gen: n.gen})
}

func (l Latency) draw(r *rand.Rand) time.Duration {
	if l.Jitter <= 0 {
		return l.Base
	}
	return l.Base + time.Duration(r.Int64N(int64(l.Jitter)))
}

func (n *node) boot() {
	w := n.w
	n.state, n.started = running, w.now
	n.inbox, n.requests = nil, map[RequestID]*conn{}
	n.lanes, n.laneOf, n.tokens = nil, map[Lane]*lane{}, 0
	n.wakeAt, n.wakeNext = NoWake, NoWake
	n.wakeGen++
	h := &host{n: n, incarnation: n.incarnation, rands: map[string]*rand.Rand{}}
	h.logger = slog.New(newLogHandler(n, w.opts.LogLevel))
	n.host = h
	n.wakeWaiters()
	if n.silent {
		n.silent = false
		w.pathsChanged()
	}
	n.guard(func() { n.proc = w.opts.Factory(h) })
	n.handle(Started{})
}

func (n *node) wakeWaiters() {
	for _, wt := range n.waiters {
		if wt.task.gen == wt.gen { // still the same wait
			n.w.wake(wt.task, woken)
		}
	}
	n.waiters = nil
}

// waiter is a task in one of its waits.
type waiter struct {
	task *task
	gen  uint64
}

// guard runs the process's code: a panic is a crash, Exit takes effect after it.
func (n *node) guard(code func()) {
	h := n.host
	func() {
		defer func() {
			r := recover()
			if r == nil {
				return
			}
			c := Crash{Node: n.name, Incarnation: n.incarnation, At: n.w.now, Value: fmt.Sprint(r), Stack: string(debug.Stack())}
			n.w.crashes = append(n.w.crashes, c)
			n.exiting = false
			h.logger.Error("panic", "value", c.Value, "stack", c.Stack)
			h.Emit(history.NodeEvent{Kind: "panic", Detail: c.Value})
			n.exiting, n.exitCode = true, exitCrash
		}()
		code()
	}()
	if n.exiting {
		n.end(n.exitCode, false)
	}
}

// handle gives an event to the process.
func (n *node) handle(ev Event) {
	if n.state != running {
		return
	}
	n.guard(func() { n.proc.Handle(ev) })
}

// deliver gives an event to the process, or to its kernel while it is paused.
func (n *node) deliver(ev Event) {
	if n.state != running {
		return
	}
	if n.paused || len(n.inbox) > 0 {
		n.inbox = append(n.inbox, ev)
		return
	}
	n.dispatch(ev)
}

// dispatch handles an event unless it has lost its object while it waited.
func (n *node) dispatch(ev Event) {
	switch ev := ev.(type) {
	case Wake:
		if n.wakeAt == NoWake || n.wakeAt > n.w.now {
			return
		}
		n.wakeAt = NoWake
	case RequestGone:
		if _, open := n.requests[ev.ID]; !open {
			return
		}
		delete(n.requests, ev.ID)
	}
	n.handle(ev)
}

// flush handles what came while the node was paused.
func (n *node) flush() {
	h := n.host
	if n.paused {
		return // paused again before it got to run
	}
	for i := 0; i < len(n.inbox) && n.host == h; i++ {
		n.dispatch(n.inbox[i])
	}
	if n.host == h {
		n.inbox = nil
	}
}

// setWake keeps at most one wake-up event on the queue that can still matter:
// a later wake-up leaves the earlier event in place, which then moves on.
func (n *node) setWake(at time.Duration) {
	if at == NoWake {
		n.wakeAt = NoWake
		return
	}
	n.wakeAt = max(at, n.w.now)
	if n.wakeNext == NoWake || n.wakeAt < n.wakeNext {
		n.pushWake()
	}
}

func (n *node) pushWake() {
	n.wakeGen++
	n.wakeNext = n.wakeAt
	n.w.queue.push(n.wakeAt, action{kind: evWake, on: n, gen: n.wakeGen})
}

func (n *node) wakeDue(gen uint64) {
	if gen != n.wakeGen || n.state != running {
		return
	}
	n.wakeNext = NoWake
	if n.wakeAt == NoWake {
		return
	}
	if n.wakeAt > n.w.now {
		n.pushWake()
		return
	}
	n.w.trace(evWake, n.idx, 0)
	n.deliver(Wake{})
}

// end ends the process. Its connections are closed by its kernel, unless the
// power went with it.
func (n *node) end(code int, power bool) {
	wasRunning := n.state == running
	n.state, n.exitCode = down, code
	n.paused, n.exiting = false, false
	n.gen++
	n.wakeGen++
	n.wakeAt, n.wakeNext = NoWake, NoWake
	n.host, n.proc, n.inbox, n.requests = nil, nil, nil, nil
	if wasRunning {
		n.orphanStorage(power)
	}
	n.silent = n.silent || power
	conns := n.conns
	n.conns = nil
	for _, c := range conns {
		c.abandon(c.sideOf(n), !power)
	}
	n.links = nil
	n.wakeWaiters()
}

// host implements Host for one incarnation.
type host struct {
	n           *node
	incarnation int
	rands       map[string]*rand.Rand
	logger      *slog.Logger
	seq         int64
}

var _ Host = (*host)(nil)

// alive reports whether what the process does has an effect.
func (h *host) alive() bool { return h.n.host == h && !h.n.exiting }

// Ended implements Host.
func (h *host) Ended() bool { return h.n.host != h && h.n.landedBy <= h.n.w.now }

func (h *host) Node() string         { return h.n.name }
func (h *host) Nodes() []string      { return h.n.w.names }
func (h *host) Volume() Volume       { return h.n.volume }
func (h *host) Incarnation() int     { return h.incarnation }
func (h *host) Now() time.Duration   { return h.n.w.now }
func (h *host) Wall() time.Time      { return h.n.wall() }
func (h *host) Logger() *slog.Logger { return h.logger }

func (h *host) Rand(name string) *rand.Rand {
	r := h.rands[name]
	if r == nil {
		r = stream(h.n.w.opts.Seed, "node/"+h.n.name+"/"+strconv.Itoa(h.incarnation)+"/"+name)
		h.rands[name] = r
	}
	return r
}

func (h *host) SetWake(at time.Duration) {
	if h.alive() {
		h.n.setWake(at)
	}
}

func (h *host) Emit(ev history.NodeEvent) {
	if !h.alive() {
		return
	}
	h.seq++
	ev.Node, ev.Incarnation, ev.Seq = h.n.name, strconv.Itoa(h.incarnation), h.seq
	ev.At, ev.Uncertainty = int64(h.n.w.now), 0
	h.n.events = append(h.n.events, ev)
	for _, sink := range h.n.w.sinks {
		sink(ev)
	}
}

func (h *host) Exit(code int) {
	if h.alive() {
		h.n.exiting, h.n.exitCode = true, code
	}
}

func (h *host) peer(to string) int {
	i, ok := h.n.w.index[to]
	if !ok || i == h.n.idx || to == nemesis.Clients {
		panic(fmt.Sprintf("sim: node %q has no stream to %q: name another node of %v", h.n.name, to, h.n.w.names))
	}
	return i
}

func (h *host) Connect(to string, ch Channel) {
	i := h.peer(to)
	if !h.alive() || h.n.linkTo(i, ch) != nil {
		return
	}
	l := &link{owner: h.n, host: h, to: i, ch: ch, backoff: h.n.w.opts.RedialMin}
	h.n.links = append(h.n.links, l)
	l.dial()
}

func (h *host) Disconnect(to string, ch Channel) {
	l := h.n.linkTo(h.peer(to), ch)
	if !h.alive() || l == nil {
		return
	}
	l.gen++
	h.n.links = slices.DeleteFunc(h.n.links, func(o *link) bool { return o == l })
	if c := l.conn; c != nil {
		l.conn = nil
		h.n.forget(c)
		c.abandon(0, true)
	}
}

func (h *host) Send(to string, ch Channel, msg any) bool {
	if !h.alive() {
		return false
	}
	l := h.n.linkTo(h.peer(to), ch)
	if l == nil || l.conn == nil || !l.conn.up {
		return false
	}
	l.conn.halves[0].send(itemData, h.n.w.encode(msg))
	return true
}

func (h *host) Reply(id RequestID, resp any) {
	if !h.alive() {
		return
	}
	c, ok := h.n.requests[id]
	if !ok {
		return
	}
	delete(h.n.requests, id)
	if c.ends[1].open {
		c.halves[1].send(itemData, response{id: id, resp: h.n.w.encode(resp)})
	}
}

func (n *node) linkTo(to int, ch Channel) *link {
	for _, l := range n.links {
		if l.to == to && l.ch == ch {
			return l
		}
	}
	return nil
}

func (n *node) forget(c *conn) {
	if i := slices.Index(n.conns, c); i >= 0 {
		n.conns = slices.Delete(n.conns, i, i+1)
	}
}

func (w *World) encode(v any) any {
	if w.opts.Codec == nil {
		return v
	}
	return w.opts.Codec(v)
}

// awaitNode parks the calling task until the node's process has booted or ended.
func (w *World) awaitNode(ctx context.Context, n *node, until time.Duration, why string) error {
	if w.current == nil {
		return ErrOutside
	}
	n.waiters = append(n.waiters, waiter{task: w.current, gen: w.current.gen})
	return w.causeErr(ctx, w.park(ctx, until, why))
}
