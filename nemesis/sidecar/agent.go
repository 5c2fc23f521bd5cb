package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"
)

// Agent is a sidecar's state. It is configured by its first command.
type Agent struct {
	boot   Boot
	filter filter
	weak   weakness
	disk   disk
	groups cgroups
	clock  clock
	locks  locks
	log    *slog.Logger

	mu     sync.Mutex // against the timer of a half-time sabotage
	cfg    *Configure
	nonces *Nonces
	server *echoServer
	sets   map[string]RuleSet
	timers []*time.Timer
	stay   bool
}

// NewAgent returns an agent for the network namespace of this process.
func NewAgent(s Sabotage, log *slog.Logger) (*Agent, error) {
	weak, err := s.parse()
	if err != nil {
		return nil, err
	}
	return newAgent(newFilter(weak.newOnly), weak, log), nil
}

func newAgent(f filter, weak weakness, log *slog.Logger) *Agent {
	return &Agent{boot: NewBoot(), filter: f, weak: weak, log: log, sets: map[string]RuleSet{}, disk: disk{dir: DiskDir, stubbed: weak.stubbed}, clock: clock{dir: ClockDir, stubbed: weak.stubbed}, locks: locks{dir: SharedDir, stubbed: weak.stubbed}}
}

// Serve carries out commands until in ends (unless it was told to stay) or ctx
// does, and then takes every rule away and lets go of its disk. It returns nil at the orderly end of in. Reading in is not
// interrupted by ctx: the caller closes it, or exits.
func (a *Agent) Serve(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	probing, cancel := context.WithCancel(ctx)
	var probes sync.WaitGroup
	defer func() {
		err = errors.Join(err, a.shutdown())
		cancel()
		probes.Wait()
	}()
	type message struct {
		req     Request
		arrived time.Time
		err     error
	}
	messages := make(chan message)
	answers := make(chan Response) // of probes
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			var m message
			m.err = ReadFrame(in, &m.req)
			m.arrived = time.Now()
			select {
			case messages <- m:
			case <-done:
				return
			}
			if m.err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-messages:
			if errors.Is(m.err, io.EOF) {
				if a.stay {
					err := a.restore()
					<-ctx.Done()
					return err
				}
				return nil
			}
			if m.err != nil {
				return fmt.Errorf("reading a command: %w", m.err)
			}
			if slices.Contains([]string{opEcho, opDial, opReadClock}, m.req.Op) {
				probes.Go(func() {
					select {
					case answers <- a.probe(probing, m.req):
					case <-done:
					}
				})
				continue
			}
			if err := WriteFrame(out, a.handle(m.req, m.arrived)); err != nil {
				return err
			}
		case r := <-answers:
			if err := WriteFrame(out, r); err != nil {
				return err
			}
		}
	}
}

// probe carries out a command that waits for others; commands behind it do not
// wait for it.
func (a *Agent) probe(ctx context.Context, req Request) Response {
	a.mu.Lock()
	resp := Response{ID: req.ID, Boot: a.boot.String()}
	cfg, nonces := a.cfg, a.nonces
	a.mu.Unlock()
	var err error
	switch {
	case cfg == nil:
		err = fmt.Errorf("%s: not configured yet", req.Op)
	case req.Op == opDial:
		addr, ok := cfg.Peers[req.Dial]
		if !ok {
			err = fmt.Errorf("dial: unknown node %q", req.Dial)
			break
		}
		resp.Dial, err = Dial(ctx, netip.AddrPortFrom(addr, cfg.NoncePort).String())
	case req.Op == opReadClock:
		var got ClockReading
		got, err = readClock(ctx, req.ReadClock)
		resp.Clock = &got
	case req.Echo == nil:
		err = errors.New("echo: nothing given")
	default:
		var got Echoes
		got, err = nonces.Volley(ctx, *req.Echo)
		resp.Echo = &got
	}
	if err != nil {
		resp.Error = err.Error()
	}
	return resp
}

func (a *Agent) handle(req Request, arrived time.Time) Response {
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	resp := Response{ID: req.ID, Boot: a.boot.String()}
	var err error
	if late := time.Since(arrived); late > timeout {
		// Its sender has given up, and may have decided that it was not carried out.
		err = fmt.Errorf("%s: not carried out: it waited for %v, its bound is %v", req.Op, late, timeout)
	} else {
		err = a.do(req, &resp)
	}
	if err != nil {
		resp.Error = err.Error()
		a.log.Warn("command failed", "op", req.name(), "error", err)
	}
	return resp
}

func (a *Agent) do(req Request, resp *Response) error {
	switch req.Op {
	case opTime:
		resp.Wall = time.Now().UnixNano()
		return nil
	case opStay:
		a.stay = true
		return nil
	case opDisk:
		if req.Disk == nil {
			return errors.New("disk: nothing given")
		}
		resp.Disk = &DiskResponse{}
		return a.disk.do(*req.Disk, resp.Disk)
	case opKernel:
		resp.Kernel = lookAtKernel()
		return nil
	case opGroup:
		if req.Group == nil {
			return errors.New("group: nothing given")
		}
		resp.Group = &Group{}
		return a.groups.do(*req.Group, resp.Group)
	case opClock:
		if req.Clock == nil {
			return errors.New("clock: nothing given")
		}
		a.halve(a.clock.restore)
		return a.clock.do(*req.Clock)
	case opLocks:
		if req.Locks == nil {
			return errors.New("locks: nothing given")
		}
		resp.Locks = &LocksResponse{}
		return a.locks.do(*req.Locks, resp.Locks)
	case opConfigure:
		return a.configure(req.Configure)
	case opApply, opRemove, opObserve, opTry, opArrived:
		if a.cfg == nil {
			return fmt.Errorf("%s: not configured yet", req.Op)
		}
	}
	switch req.Op {
	case opApply:
		return a.apply(req.Apply)
	case opRemove:
		return a.remove(req.Remove)
	case opObserve:
		state, err := a.observe()
		resp.State = state
		return err
	case opTry:
		return a.try(req.Try)
	case opArrived:
		got := a.nonces.Arrived(req.Arrived)
		resp.Echo = &got
		return nil
	default:
		return fmt.Errorf("unknown command %q", req.Op)
	}
}

func (a *Agent) configure(c *Configure) error {
	if err := c.validate(); err != nil {
		return err
	}
	if a.cfg != nil {
		if !reflect.DeepEqual(a.cfg, c) {
			return errors.New("configure: already configured differently")
		}
		return nil
	}
	if err := a.filter.setup(c.Run, c.NoncePort); err != nil {
		return err
	}
	peers := map[string]netip.AddrPort{Clients: {}}
	for name, addr := range c.Peers {
		peers[name] = netip.AddrPortFrom(addr, c.NoncePort)
	}
	n, err := StartNonces(NonceConfig{
		Run: c.Run, Self: c.Self, Boot: a.boot, Port: c.NoncePort, Peers: peers, Interval: c.Interval,
	})
	if err != nil {
		return errors.Join(err, a.filter.teardown())
	}
	s, err := startEchoServer(c.NoncePort)
	if err != nil {
		return errors.Join(fmt.Errorf("opening the probes' port: %w", err), n.Close(), a.filter.teardown())
	}
	a.cfg, a.nonces, a.server = c, n, s
	return nil
}

// addrs resolves an endpoint. The clients are where the harness said that they
// are, and where their nonces came from.
func (a *Agent) addrs(endpoint string) []netip.Addr {
	if endpoint != Clients {
		if addr, ok := a.cfg.Peers[endpoint]; ok {
			return []netip.Addr{addr}
		}
		return nil
	}
	as := slices.Clone(a.cfg.Clients)
	if from := a.nonces.Addr(Clients); from.IsValid() && !slices.Contains(as, from.Addr()) {
		as = append(as, from.Addr())
	}
	return as
}

func (a *Agent) apply(set *RuleSet) error {
	if set == nil || !validName(set.ID) {
		return errors.New("apply: no valid rule set id")
	}
	if known, ok := a.sets[set.ID]; ok {
		if !reflect.DeepEqual(known, *set) {
			return fmt.Errorf("apply: rule set %s is there with other rules", set.ID)
		}
		return nil
	}
	rules, err := a.compile(set)
	if err != nil {
		return fmt.Errorf("apply: rule set %s: %w", set.ID, err)
	}
	if a.weak.newOnly {
		for i := range rules {
			rules[i].New = true
		}
	}
	if !a.weak.stubbed {
		if err := a.filter.apply(set.ID, rules); err != nil {
			return err
		}
	}
	a.halve(func() error { return a.filter.remove(set.ID) })
	a.sets[set.ID] = *set
	return nil
}

// halve undoes something at half time, where a sabotage asks for it.
func (a *Agent) halve(undo func() error) {
	if a.weak.after == 0 {
		return
	}
	a.timers = append(a.timers, time.AfterFunc(a.weak.after, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.cfg == nil {
			return // shut down meanwhile
		}
		if err := undo(); err != nil {
			a.log.Error("undoing at half time", "error", err)
		}
	}))
}

// compile translates a set to rules.
func (a *Agent) compile(set *RuleSet) ([]rule, error) {
	if len(set.Drops) == 0 && len(set.Shapes) == 0 {
		return nil, errors.New("it is empty")
	}
	rules, err := compile(set.Drops, a.cfg.NoncePort, a.addrs)
	if err != nil {
		return nil, err
	}
	shapes, err := compileShapes(set.Shapes, len(set.Drops), a.cfg.NoncePort, a.addrs)
	return append(rules, shapes...), err
}

// try adds a set's rules and takes them away again, to see whether the kernel can.
func (a *Agent) try(set *RuleSet) error {
	if set == nil || !validName(set.ID) {
		return errors.New("try: no valid rule set id")
	}
	if _, known := a.sets[set.ID]; known {
		return fmt.Errorf("try: rule set %s is there", set.ID)
	}
	rules, err := a.compile(set)
	if err != nil {
		return fmt.Errorf("try: %w", err)
	}
	if err := a.filter.apply(set.ID, rules); err != nil {
		return err
	}
	return a.filter.remove(set.ID)
}

func (a *Agent) remove(id string) error {
	if err := a.filter.remove(id); err != nil {
		return err
	}
	delete(a.sets, id)
	return nil
}

func (a *Agent) observe() (*Observation, error) {
	counted, err := a.filter.counters()
	if err != nil {
		return nil, err
	}
	o := &Observation{Dropped: map[string][]Counter{}, Shaped: map[string][]Counter{}}
	o.Sent, o.Received = a.nonces.Counters()
	for id, set := range a.sets {
		counters := make([]Counter, len(set.Drops)+len(set.Shapes))
		for _, p := range counted[id] {
			if p.Rule.Index < 0 || p.Rule.Index >= len(counters) {
				return nil, fmt.Errorf("rule set %s has a rule of number %d, which it does not have", id, p.Rule.Index)
			}
			switch p.Rule.Role {
			case countSystem:
				counters[p.Rule.Index].System += p.Count
			case countNonce:
				counters[p.Rule.Index].Nonces += p.Count
			}
		}
		o.Dropped[id], o.Shaped[id] = counters[:len(set.Drops)], counters[len(set.Drops):]
	}
	return o, nil
}

// shutdown takes the rules away first: healing does not wait for anything.
func (a *Agent) shutdown() error {
	err := a.restore()
	a.mu.Lock()
	defer a.mu.Unlock()
	return errors.Join(err, a.disk.close())
}

// restore takes the rules away, and makes the node's clock right.
func (a *Agent) restore() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.timers {
		t.Stop()
	}
	right := a.clock.restore()
	if a.cfg == nil {
		return right
	}
	err := a.filter.teardown()
	a.cfg = nil
	return errors.Join(err, right, a.nonces.Close(), a.server.Close())
}
