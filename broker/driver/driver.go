// Package driver runs a broker's node in a process of its own: sockets, files,
// wall clock and goroutines are here and nowhere below. One goroutine owns the
// node and steps it; everything else hands it inputs and carries out its effects.
//
// The simulator's driver (package harness/system/reference) is its twin: the same
// effects mean the same there.
package driver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
	"github.com/faultline-mq/faultline/broker/storage"
	"github.com/faultline-mq/faultline/broker/vfs"
	"github.com/faultline-mq/faultline/broker/wire"
)

// Exit codes of Run, beside those that the node chooses (0: graceful stop, 1: the
// graceful stop took too long, 3: it cannot trust its storage or its metadata).
const (
	ExitSlowStop = 1
	ExitCrash    = 2   // a panic in the node, or events that cannot be reported
	ExitStart    = 4   // it could not start: config, data directory, ports
	ExitKilled   = 137 // the context was cancelled
)

// Limits of a stop: the node itself takes 10 s at most, see package node.
const (
	drainLimit = 5 * time.Second // storage operations that the node asked for
	flushLimit = 2 * time.Second // replies that are ready
)

// inputBuffer bounds the inputs that wait for the node; beyond it, connections
// are not read.
const inputBuffer = 256

type driver struct {
	cfg    Config
	log    *slog.Logger
	start  time.Time
	digest [sha256.Size]byte // of the cluster's members

	incarnation string
	clock       clock

	node    *node.Node
	store   *storage.Store
	metrics *metrics

	inputs  chan broker.Input
	queries chan func(*node.Node)
	deaf    chan struct{} // closed when the node takes no more inputs
	closing chan struct{} // closed when clients' connections are to end
	ctx     context.Context
	cancel  context.CancelFunc

	// Of the node's goroutine.
	machine int64 // the machine's wall clock at the present step
	lanes   map[broker.Lane]*lane
	meta    metaLane
	exit    *broker.Exit

	links     map[streamKey]*link
	listeners []net.Listener
	work      sync.WaitGroup // storage
	conns     sync.WaitGroup // clients' connections
	rest      sync.WaitGroup // everything else
	abandoned atomic.Bool    // storage operations that have not begun are dropped
	clients   atomic.Int64
	streams   atomic.Int64
	lastReq   atomic.Uint64

	mu      sync.Mutex
	pending map[broker.ReqID]*pending
	inbound map[streamKey]*inbound
}

// Run runs a broker until it stops by itself, is asked to (Config.Terminate) or
// ctx is cancelled, which is like a kill: nothing more is written or synced. The
// error says why the code is not 0.
func Run(ctx context.Context, cfg Config) (exitCode int, err error) {
	listeners := cfg.Listeners
	defer func() { // those that were not put to use
		for _, ln := range []net.Listener{listeners.Client, listeners.Peer, listeners.Quorum, listeners.Admin} {
			if ln != nil {
				_ = ln.Close()
			}
		}
	}()
	if err := cfg.Validate(); err != nil {
		return ExitStart, err
	}
	opts, err := schemes.Resolve(cfg.Set)
	if err != nil {
		return ExitStart, err
	}
	d := &driver{
		cfg: cfg, start: time.Now(), digest: cfg.digest(),
		log:    slog.New(slog.NewTextHandler(cfg.Stderr, &slog.HandlerOptions{Level: cfg.LogLevel})).With("node", cfg.Name),
		inputs: make(chan broker.Input, inputBuffer), queries: make(chan func(*node.Node)),
		deaf: make(chan struct{}), closing: make(chan struct{}),
		lanes: map[broker.Lane]*lane{}, links: map[streamKey]*link{},
		pending: map[broker.ReqID]*pending{}, inbound: map[streamKey]*inbound{},
	}
	d.meta.d = d
	d.metrics = newMetrics(d)
	d.ctx, d.cancel = context.WithCancel(ctx)
	defer d.cancel()
	if cfg.Clock != "" {
		d.clock.path, d.clock.log = cfg.Clock, d.log
		d.clock.look()
	}

	logs, meta, release, err := cfg.volumes()
	defer release()
	if err != nil {
		return ExitStart, err
	}
	if err := errors.Join(cfg.checkIdentity(logs), cfg.checkIdentity(meta)); err != nil {
		return ExitStart, err
	}
	if cfg.Directory != 0 {
		if err := storage.Format(meta, cfg.Directory); err != nil {
			return ExitStart, err
		}
	}
	var rec node.Recovered
	if d.store, rec, err = storage.Open(logs, meta, int64(opts.Int("segment.bytes")), opts.Mutants()); err != nil {
		return ExitStart, err
	}
	if cfg.Shared != "" {
		if _, err := os.Stat(cfg.Shared); err != nil {
			return ExitStart, errors.Join(fmt.Errorf("shared storage device: %w; it must be there before the node", err), d.store.Abandon())
		}
		d.store.Share(vfs.OSLocks(cfg.Shared))
	}
	if err := d.newNode(opts, rec); err != nil {
		return ExitStart, errors.Join(err, d.store.Abandon())
	}
	self, _ := cfg.self()
	if err := d.listen(self); err != nil {
		return ExitStart, errors.Join(err, d.store.Abandon())
	}
	d.log.Info("started", "id", cfg.ID, "incarnation", d.incarnation, "client", d.listeners[0].Addr(), "peer", d.listeners[1].Addr(), "quorum", d.listeners[2].Addr(), "admin", d.listeners[3].Addr(), "logs", len(rec.Lanes))
	for _, l := range d.links {
		d.rest.Go(l.run)
	}
	if cfg.Clock != "" {
		d.rest.Go(func() { d.clock.follow(d.ctx) })
	}
	return d.finish(d.loop(ctx))
}

// newNode makes the node from what was found on disk.
func (d *driver) newNode(opts options.Values, rec node.Recovered) (err error) {
	host, port, err := d.cfg.advertised()
	if err != nil {
		return err
	}
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	d.incarnation = d.start.UTC().Format("20060102T150405.000Z") + "-" + hex.EncodeToString(id[:])
	d.node, err = node.New(node.Config{
		ID: d.cfg.ID, Name: d.cfg.Name, Incarnation: d.incarnation, Members: d.cfg.brokers(), Voters: d.cfg.Voters,
		Host: host, Port: port, Rack: d.cfg.Rack, Scheme: d.cfg.Scheme, Options: opts, Mutants: opts.Mutants(),
	}, rec, d.now())
	return err
}

// listen opens the ports and begins to accept.
func (d *driver) listen(self Member) error {
	for _, p := range []struct {
		name string
		ln   net.Listener
		port int
	}{
		{"client", d.cfg.Listeners.Client, self.ClientPort},
		{"peer", d.cfg.Listeners.Peer, self.PeerPort},
		{"quorum", d.cfg.Listeners.Quorum, self.QuorumPort},
		{"admin", d.cfg.Listeners.Admin, d.cfg.AdminPort},
	} {
		ln, err := p.ln, error(nil)
		if ln == nil {
			ln, err = net.Listen("tcp", net.JoinHostPort(d.cfg.Listen, strconv.Itoa(p.port)))
		}
		if err != nil {
			for _, ln := range d.listeners {
				_ = ln.Close()
			}
			return fmt.Errorf("%s port: %w; choose another port or stop what uses it", p.name, err)
		}
		d.listeners = append(d.listeners, ln)
	}
	for _, m := range d.cfg.Members {
		if m.ID != d.cfg.ID {
			for _, ch := range []broker.Channel{broker.Peer, broker.Quorum} {
				l := d.newLink(d.cfg.resolved(m), ch)
				d.links[l.key] = l
			}
		}
	}
	d.rest.Go(func() { d.accept(d.listeners[0], &d.clients, &d.conns, d.serveClient) })
	d.rest.Go(func() {
		d.accept(d.listeners[1], &d.streams, &d.rest, func(c net.Conn) { d.servePeer(c, broker.Peer) })
	})
	d.rest.Go(func() {
		d.accept(d.listeners[2], &d.streams, &d.rest, func(c net.Conn) { d.servePeer(c, broker.Quorum) })
	})
	admin := d.admin()
	d.rest.Go(func() {
		if err := admin.Serve(d.listeners[3]); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			d.log.Error("the admin port is not served any more", "error", err)
		}
	})
	d.rest.Go(func() {
		<-d.ctx.Done()
		for _, ln := range d.listeners {
			_ = ln.Close()
		}
		_ = admin.Close()
	})
	return nil
}

// accept takes connections until the listener is closed; each ends with d.ctx.
func (d *driver) accept(ln net.Listener, open *atomic.Int64, group *sync.WaitGroup, serve func(net.Conn)) {
	pause := time.Duration(0)
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of file descriptors, or a connection that was reset at once.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			d.log.Warn("accepting a connection", "address", ln.Addr(), "error", err, "again_after", pause)
			select {
			case <-time.After(pause):
			case <-d.ctx.Done():
			}
			continue
		}
		pause = 0
		if open.Add(1) > int64(d.cfg.MaxConnections) {
			open.Add(-1)
			d.log.Warn("refused a connection: too many are open", "address", ln.Addr(), "remote", conn.RemoteAddr(), "limit", d.cfg.MaxConnections)
			_ = conn.Close()
			continue
		}
		group.Go(func() {
			defer open.Add(-1)
			defer context.AfterFunc(d.ctx, func() { _ = conn.Close() })()
			defer func() { _ = conn.Close() }()
			serve(conn)
		})
	}
}

// now is the time of a step.
func (d *driver) now() broker.Time {
	now := time.Now()
	d.machine = now.UnixNano()
	return broker.Time{Mono: now.Sub(d.start), Wall: d.clock.wall(now)}
}

// post hands an input to the node and waits while many are waiting. It reports
// false when the node takes no more.
func (d *driver) post(in broker.Input) bool {
	select {
	case d.inputs <- in:
		return true
	case <-d.deaf:
		return false
	}
}

// loop owns the node until it exits, and returns how.
func (d *driver) loop(ctx context.Context) (exit broker.Exit) {
	defer close(d.deaf)
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(d.cfg.Stderr, "panic: %v\n\n%s", r, debug.Stack())
			exit = broker.Exit{Code: ExitCrash, Reason: fmt.Sprintf("panic: %v", r)}
		}
	}()
	terminate := d.cfg.Terminate
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return broker.Exit{Code: ExitKilled, Reason: context.Cause(ctx).Error()}
		case in := <-d.inputs:
			d.step(in)
		case f := <-d.queries:
			f(d.node)
			continue
		case <-timer.C:
			d.step(broker.Wake{})
		case <-terminate:
			terminate = nil
			d.step(broker.Terminate{})
		}
		if d.exit != nil {
			return *d.exit
		}
		if next := d.node.NextWake(); next == scheme.Never {
			timer.Stop()
		} else {
			timer.Reset(next - time.Since(d.start))
		}
	}
}

func (d *driver) step(in broker.Input) {
	for _, e := range d.node.Step(d.now(), in) {
		d.carryOut(e)
		if d.exit != nil {
			return
		}
	}
}

// carryOut does what one effect asks for, or hands it on. It waits for nothing
// but standard output: what depends on an event comes after it.
func (d *driver) carryOut(e broker.Effect) {
	switch e := e.(type) {
	case broker.Send:
		d.send(e)
	case broker.Reply:
		d.reply(e)
	case broker.Append:
		d.lane(e.Lane).write(e.Seq, func() error { return d.store.Append(e) })
	case broker.Truncate:
		d.lane(e.Lane).write(e.Seq, func() error { return d.store.Truncate(e) })
	case broker.Sync:
		d.lane(e.Lane).sync()
	case broker.OpenLane:
		d.lane(e.Lane).open()
	case broker.RemoveLane:
		d.removeLane(e.Lane)
	case broker.Device:
		d.lane(e.Lane).device(e)
		d.lane(e.Lane).removed = e.Do == broker.RemoveLog
	case broker.Checkpoint:
		d.lane(e.Lane).submit(func() error { return d.store.Checkpoint(e) })
	case broker.Keep:
		d.lane(e.Lane).write(e.Seq, func() error { return d.store.Keep(e) })
	case broker.MetaAppend:
		d.meta.do(e)
	case broker.Emit:
		d.emit(e.Event)
	case broker.LogLine:
		var level slog.Level
		if level.UnmarshalText([]byte(e.Level)) != nil {
			level = slog.LevelInfo
		}
		d.log.Log(d.ctx, level, e.Text, e.Attrs...)
	case broker.Exit:
		d.exit = &e
	}
}

func (d *driver) removeLane(name broker.Lane) {
	d.lane(name).remove()
	d.lane(name).removed = true
	for name, l := range d.lanes {
		if l.removed && l.idle() {
			delete(d.lanes, name)
		}
	}
}

// send encodes a message and queues it. Without slices it is encoded here, inside
// the step: it may share memory with the node.
func (d *driver) send(e broker.Send) {
	l := d.links[streamKey{e.To, e.Channel}]
	if l == nil {
		return
	}
	d.filled(e.Slices, func() {
		b, err := wire.Encode(e.Msg)
		if err == nil && len(b) > wire.MaxMessage {
			err = fmt.Errorf("a message of %d bytes, at most %d are sent", len(b), wire.MaxMessage)
		}
		if err != nil {
			d.log.Error("a message cannot be sent", "peer", l.name, "error", err)
			return
		}
		l.send(b)
	})
}

// report is an event as it is printed. Where the node's wall clock may be wrong, the
// machine's tells when it happened.
type report struct {
	broker.Event
	Machine int64 `json:"machine,omitempty"` // Unix nanoseconds
}

// emit reports an event. An event that is lost would make what is said about the
// node wrong, so the node does not go on without it.
func (d *driver) emit(ev broker.Event) {
	r := report{Event: ev}
	if d.cfg.Clock != "" {
		r.Machine = d.machine
	}
	b, err := json.Marshal(r)
	if err == nil {
		_, err = d.cfg.Stdout.Write(append(b, '\n'))
	}
	if err != nil {
		d.exit = &broker.Exit{Code: ExitCrash, Reason: fmt.Sprintf("events cannot be reported on standard output: %v", err)}
	}
}

// finish ends everything after the node has exited.
func (d *driver) finish(exit broker.Exit) (int, error) {
	if exit.Code == 0 {
		// What the node answered is in the lanes and on its way to the clients.
		_ = d.listeners[0].Close()
		if !within(drainLimit, d.work.Wait) {
			exit = broker.Exit{Code: ExitSlowStop, Reason: "the disk did not take the last writes within " + drainLimit.String()}
		}
	}
	d.abandoned.Store(exit.Code != 0)
	close(d.closing)
	if exit.Code == 0 && !within(flushLimit, d.conns.Wait) {
		d.log.Warn("clients did not take the last replies", "limit", flushLimit)
	}
	d.cancel()
	d.conns.Wait()
	d.rest.Wait()
	end := d.store.Abandon
	if exit.Code == 0 {
		end = func() error { return d.store.Close(exit.BrokerEpoch) }
	}
	var err error
	if within(drainLimit, d.work.Wait) {
		err = end()
	} else {
		err = errors.New("a storage operation hangs") // the log is left as it is
	}
	if exit.Code == 0 && err == nil {
		d.log.Info("stopped", "reason", exit.Reason)
		return 0, nil
	}
	if exit.Code == 0 {
		exit = broker.Exit{Code: ExitSlowStop, Reason: "closing the data directory failed"}
	}
	d.log.Error("stopped", "code", exit.Code, "reason", exit.Reason, "error", err)
	return exit.Code, errors.Join(errors.New(exit.Reason), err)
}

// within reports whether wait returned before the limit.
func within(limit time.Duration, wait func()) bool {
	done := make(chan struct{})
	go func() {
		wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}
