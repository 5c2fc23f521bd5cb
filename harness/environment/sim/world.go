package sim

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
)

// ErrDeadlock is returned (wrapped, with the tasks that wait) by a Run in which
// nothing is left to happen while main waits.
var ErrDeadlock = errors.New("deadlock in virtual time")

// ErrLimit is returned (wrapped) by a Run that reached Options.MaxTime or MaxEvents.
var ErrLimit = errors.New("limit of the simulation reached")

// CancelGrace is the virtual time that main has to return after Run's context ended.
const CancelGrace = 2 * time.Minute

// World is one simulation: nodes, links, disks, clients and tasks on one event
// queue. It implements environment.Environment and environment.Runtime. All its
// methods must be called from one goroutine at a time: from tasks, or while no
// Run is in progress.
type World struct {
	opts  Options
	queue queue
	now   time.Duration

	events  uint64
	digest  uint64
	names   []string // nodes, in order
	nodes   []*node
	index   map[string]int // endpoint index by name: nodes, then clients
	clients map[string]*client

	dirs        []direction // by from*endpoints+to
	sets        map[string]*ruleSet
	shapes      map[string][]*shape // by set
	rejectionOf map[string]*rejection
	rejections  []*rejection // in order of their begin
	probes      *rand.Rand   // of echoes
	blocked     []*half      // halves that hold data, in order of blocking
	stalled     []*half      // halves that wait for acknowledgements, likewise
	connSeq     uint64
	reqSeq      uint64

	tasks   []*task // unfinished
	taskSeq int
	current *task
	watches []watch
	failure error
	running bool

	bootRand *rand.Rand
	sinks    []func(history.NodeEvent)
	crashes  []Crash
	phase    envPhase
}

// Crash is a panic of a node's process: a violation, whatever else happens.
type Crash struct {
	Node        string
	Incarnation int
	At          time.Duration
	Value       string
	Stack       string
}

// TraceEvent is one executed event.
type TraceEvent struct {
	At     time.Duration
	Number uint64
	Kind   string
	Node   string // the node, or endpoint, that it happens at; or the task's name
	Detail uint64
}

// New returns a World in which nothing has happened yet.
func New(opts Options) (*World, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	w := &World{
		opts:        opts,
		digest:      opts.Seed ^ 0x9e3779b97f4a7c15,
		names:       append([]string(nil), opts.Nodes...),
		index:       map[string]int{},
		clients:     map[string]*client{},
		sets:        map[string]*ruleSet{},
		shapes:      map[string][]*shape{},
		rejectionOf: map[string]*rejection{},
		bootRand:    stream(opts.Seed, "boot"),
	}
	for i, name := range w.names {
		w.index[name] = i
		w.nodes = append(w.nodes, newNode(w, i, name))
	}
	w.index[nemesis.Clients] = len(w.names)
	for from := range len(w.names) + 1 {
		for to := range len(w.names) + 1 {
			w.dirs = append(w.dirs, direction{rand: stream(opts.Seed, "latency/"+w.endpoint(from)+"/"+w.endpoint(to))})
		}
	}
	return w, nil
}

// endpoint returns the name of an endpoint.
func (w *World) endpoint(i int) string {
	if i == len(w.names) {
		return nemesis.Clients
	}
	return w.names[i]
}

func (w *World) endpoints() int { return len(w.names) + 1 }

// Now is the virtual monotonic time, from 0.
func (w *World) Now() time.Duration { return w.now }

// Executed is the number of events executed so far.
func (w *World) Executed() uint64 { return w.events }

// TraceDigest is a digest of every event executed so far: time, kind, place and
// a small detail. Equal seeds give equal digests; different ones nearly always
// different digests.
func (w *World) TraceDigest() string { return fmt.Sprintf("%016x-%d", w.digest, w.events) }

// Crashes are the panics of nodes' processes so far.
func (w *World) Crashes() []Crash { return w.crashes }

// Run drives the World until main, run as a task, has returned. Tasks that are
// left then are unwound (their deferred calls run). Run may be called again: the
// World goes on where it was.
//
// Errors: ErrDeadlock, ErrLimit, *TaskPanic; ctx's error where main did not
// return within CancelGrace of ctx's end (main itself sees that end in its
// Sleeps, where they are given a context below ctx).
func (w *World) Run(ctx context.Context, main func()) error {
	if w.running {
		return errors.New("sim: Run called inside of Run")
	}
	w.running, w.failure = true, nil
	defer func() {
		w.unwindTasks()
		w.running = false
	}()
	done := false
	w.spawn("main", nil, func() {
		main()
		done = true
	})
	graceEnd := time.Duration(-1)
	for n := 0; !done && w.failure == nil; n++ {
		if w.queue.len() == 0 {
			return fmt.Errorf("%w at %v: no event is left and these tasks wait for each other: %s", ErrDeadlock, w.now, w.stuck())
		}
		if n%1024 == 0 {
			w.pollContexts()
			if graceEnd < 0 && ctx.Err() != nil {
				graceEnd = w.now + CancelGrace
			}
		}
		at, a := w.queue.pop()
		if at > w.opts.MaxTime || w.events >= w.opts.MaxEvents {
			return fmt.Errorf("%w: %v of virtual time and %d events (Options.MaxTime %v, MaxEvents %d); waiting: %s",
				ErrLimit, w.now, w.events, w.opts.MaxTime, w.opts.MaxEvents, w.stuck())
		}
		if graceEnd >= 0 && at > graceEnd {
			return fmt.Errorf("main did not return within %v of virtual time after cancellation (waiting: %s): %w", CancelGrace, w.stuck(), ctx.Err())
		}
		w.now = at
		w.execute(&a)
	}
	return w.failure
}

// trace adds an event to the digest.
func (w *World) trace(k kind, place int, detail uint64) {
	w.events++
	x := uint64(w.now)*0xa0761d6478bd642f ^ uint64(k)<<56 ^ uint64(place)<<40 ^ detail
	hi, lo := bits.Mul64(w.digest^x, 0xe7037ed1a0b428db)
	w.digest = hi ^ lo ^ bits.RotateLeft64(w.digest, 23)
	if w.opts.Trace != nil {
		w.opts.Trace(TraceEvent{At: w.now, Number: w.events, Kind: k.String(), Node: w.place(k, place), Detail: detail})
	}
}

func (w *World) place(k kind, place int) string {
	if k == evTask || k == evRulesOff {
		return ""
	}
	return w.endpoint(place)
}

var kindNames = [...]string{
	evTask: "task", evBoot: "boot", evFlush: "flush", evWake: "wake", evTerminate: "terminate", evStorage: "storage",
	evSyn: "syn", evSynAck: "syn-ack", evRefused: "refused", evDialTimeout: "dial-timeout", evRedial: "redial",
	evArrive: "arrive", evRetransmit: "retransmit", evUserTimeout: "user-timeout", evAckTimeout: "ack-timeout",
	evReset: "reset", evRulesOff: "rules-off",
}

func (k kind) String() string { return kindNames[k] }

// execute runs one event, unless what it acts on has moved on.
func (w *World) execute(a *action) {
	switch a.kind {
	case evTask:
		if t := a.on.(*task); t.gen == a.gen && (t.state == fresh || t.state == parked || t.state == waking) {
			w.trace(a.kind, 0, uint64(t.id))
			w.resume(t)
		}
	case evBoot:
		if n := a.on.(*node); n.gen == a.gen {
			w.trace(a.kind, n.idx, uint64(n.incarnation))
			n.boot()
		}
	case evFlush:
		if n := a.on.(*node); n.gen == a.gen {
			w.trace(a.kind, n.idx, uint64(len(n.inbox)))
			n.flush()
		}
	case evWake:
		a.on.(*node).wakeDue(a.gen)
	case evTerminate:
		if n := a.on.(*node); n.gen == a.gen {
			w.trace(a.kind, n.idx, 0)
			n.deliver(Terminate{})
		}
	case evStorage:
		a.on.(*storageOp).complete()
	case evSyn:
		w.synArrives(a.on.(*conn))
	case evSynAck:
		w.synAckArrives(a.on.(*conn))
	case evRefused:
		w.refusalArrives(a.on.(*conn))
	case evDialTimeout:
		w.dialTimedOut(a.on.(*conn))
	case evRedial:
		a.on.(*link).redial(a.gen)
	case evArrive:
		a.on.(*half).arrive(item{seq: a.gen, kind: a.item, msg: a.msg})
	case evRetransmit:
		a.on.(*half).retransmit(a.gen)
	case evUserTimeout:
		a.on.(*half).userTimeout(a.gen)
	case evAckTimeout:
		a.on.(*half).ackTimeout(a.gen)
	case evReset:
		w.resetArrives(a.on.(*half))
	case evRulesOff:
		w.trace(a.kind, 0, 0)
		w.disable(a.on.(*ruleSet))
	}
}
