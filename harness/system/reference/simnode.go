package reference

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/storage"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment/sim"
)

// simNode drives a node inside the simulator, as broker/driver does in a
// process of its own: it turns the simulator's events into inputs and the
// node's effects into calls of the simulator.
type simNode struct {
	h     sim.Host
	n     *node.Node
	store *storage.Store
	ids   map[string]broker.NodeID
	done  map[sim.Token]func(result any)
	lanes map[broker.Lane]*simLane
}

// simLane coalesces the syncs of one lane.
type simLane struct {
	issued  uint64 // number of the last write issued
	written uint64 // and completed
	synced  uint64
	syncing bool
	again   bool // another sync is wanted when the present one is done
	removed bool // nothing of it needs to be durable any more
}

// newSimNode boots one incarnation of a node. The first so many nodes are those that
// the cluster begins with.
func newSimNode(h sim.Host, schemeName string, opts options.Values, voters int) sim.Process {
	s := &simNode{h: h, ids: map[string]broker.NodeID{}, done: map[sim.Token]func(any){}, lanes: map[broker.Lane]*simLane{}}
	var members []broker.Member
	for i, name := range h.Nodes() {
		id := broker.NodeID(i + 1)
		s.ids[name] = id
		members = append(members, broker.Member{ID: id, Name: name})
	}
	var first []broker.NodeID
	for _, m := range members[:voters] {
		first = append(first, m.ID)
	}
	disks := h.Volume().(*volume)
	store, rec, err := storage.Open(disks.data, disks.meta, int64(opts.Int("segment.bytes")))
	if err != nil {
		h.Logger().Error("the node cannot start", "error", err)
		h.Exit(4)
		return s
	}
	s.store = store
	s.n, err = node.New(node.Config{
		ID: s.ids[h.Node()], Name: h.Node(), Incarnation: fmt.Sprintf("%s.%d", h.Node(), h.Incarnation()), Members: members, Voters: first,
		Host: h.Node(), Port: 9092, Scheme: schemeName, Options: opts, Mutants: opts.Mutants(),
	}, rec, s.now())
	if err != nil {
		h.Logger().Error("the node cannot start", "error", err)
		h.Exit(4)
	}
	return s
}

func (s *simNode) now() broker.Time {
	return broker.Time{Mono: s.h.Now(), Wall: s.h.Wall().UnixNano()}
}

// Handle implements sim.Process.
func (s *simNode) Handle(ev sim.Event) {
	if s.n == nil {
		return
	}
	switch e := ev.(type) {
	case sim.Started:
		for _, to := range s.h.Nodes() {
			if to != s.h.Node() {
				s.h.Connect(to, sim.PeerChannel)
				s.h.Connect(to, sim.QuorumChannel)
			}
		}
		s.step(broker.Wake{})
	case sim.Wake:
		s.step(broker.Wake{})
	case sim.Message:
		s.step(broker.PeerMessage{From: s.ids[e.From], Channel: channelOf(e.Channel), Msg: e.Msg})
	case sim.LinkUp:
		if !e.Inbound {
			s.step(broker.Link{To: s.ids[e.Node], Channel: channelOf(e.Channel), Up: true})
		}
	case sim.LinkDown:
		if !e.Inbound {
			s.step(broker.Link{To: s.ids[e.Node], Channel: channelOf(e.Channel)})
		}
	case sim.Request:
		if req, ok := e.Req.(kmsg.Request); ok {
			s.step(broker.Request{ID: broker.ReqID(e.ID), ClientID: e.Client, Req: req})
		}
	case sim.RequestGone:
		s.step(broker.RequestGone{ID: broker.ReqID(e.ID)})
	case sim.StorageDone:
		if done := s.done[e.Token]; done != nil {
			delete(s.done, e.Token)
			done(e.Result)
		}
	case sim.Terminate:
		s.step(broker.Terminate{})
	}
}

func channelOf(c sim.Channel) broker.Channel {
	if c == sim.QuorumChannel {
		return broker.Quorum
	}
	return broker.Peer
}

func simChannel(c broker.Channel) sim.Channel {
	if c == broker.Quorum {
		return sim.QuorumChannel
	}
	return sim.PeerChannel
}

// step feeds one input and carries out what comes of it.
func (s *simNode) step(in broker.Input) {
	for _, e := range s.n.Step(s.now(), in) {
		s.carryOut(e)
	}
	if at := s.n.NextWake(); at == scheme.Never {
		s.h.SetWake(sim.NoWake)
	} else {
		s.h.SetWake(at)
	}
}

func (s *simNode) carryOut(e broker.Effect) {
	switch e := e.(type) {
	case broker.Send:
		to := s.h.Nodes()[e.To-1]
		s.filled(e.Slices, func() { s.h.Send(to, simChannel(e.Channel), e.Msg) })
	case broker.Reply:
		if e.Resp == nil {
			return // a request without reply: the connection does not wait
		}
		s.filled(e.Slices, func() { s.h.Reply(sim.RequestID(e.ID), e.Resp) })
	case broker.Append:
		size := 0
		for _, b := range e.Batches {
			size += len(b)
		}
		s.write(e.Lane, e.Seq, sim.Append, size, func() error { return s.store.Append(e) })
	case broker.Truncate:
		s.write(e.Lane, e.Seq, sim.Modify, 0, func() error { return s.store.Truncate(e) })
	case broker.Sync:
		s.sync(e.Lane)
	case broker.OpenLane:
		s.lane(e.Lane).removed = false
		s.submit(e.Lane, func() error { return s.store.OpenLane(e.Lane) })
	case broker.RemoveLane:
		s.lane(e.Lane).removed = true
		s.submit(e.Lane, func() error { return s.store.RemoveLane(e.Lane) })
	case broker.Checkpoint:
		s.submit(e.Lane, func() error { return s.store.Checkpoint(e) })
	case broker.MetaAppend:
		size := 0
		for _, r := range e.Records {
			size += len(r)
		}
		t := s.h.Submit(sim.MetaLane, sim.Sync, size, func() any { return s.store.Meta(e) })
		s.done[t] = func(r any) { s.step(broker.MetaStored{Seq: e.Seq, Err: asError(r)}) }
	case broker.Emit:
		ev := e.Event
		s.h.Emit(history.NodeEvent{
			Kind: ev.Kind, Key: ev.Key, Epoch: ev.Epoch, Leader: ev.Leader, ISR: ev.ISR, From: ev.From, To: ev.To, Offset: ev.Offset, Detail: ev.Detail,
		})
	case broker.LogLine:
		var level slog.Level
		if level.UnmarshalText([]byte(e.Level)) != nil {
			level = slog.LevelInfo
		}
		s.h.Logger().Log(context.Background(), level, e.Text, e.Attrs...)
	case broker.Exit:
		s.h.Logger().Info("exit", "code", e.Code, "reason", e.Reason)
		s.h.Exit(e.Code)
	}
}

func asError(r any) error {
	err, _ := r.(error)
	return err
}

// submit issues an operation whose only outcome of interest is its failure.
func (s *simNode) submit(lane broker.Lane, op func() error) {
	t := s.h.Submit(sim.Lane(lane), sim.Modify, 0, func() any { return op() })
	s.done[t] = func(r any) {
		if err := asError(r); err != nil {
			s.step(broker.Stored{Lane: lane, Err: err})
		}
	}
}

func (s *simNode) lane(name broker.Lane) *simLane {
	l := s.lanes[name]
	if l == nil {
		l = &simLane{}
		s.lanes[name] = l
	}
	return l
}

func (s *simNode) write(name broker.Lane, seq uint64, kind sim.StorageKind, size int, op func() error) {
	l := s.lane(name)
	l.issued = seq
	t := s.h.Submit(sim.Lane(name), kind, size, func() any { return op() })
	s.done[t] = func(r any) {
		l.written = seq
		s.step(broker.Stored{Lane: name, Written: l.written, Synced: l.synced, Err: asError(r)})
	}
}

func (s *simNode) sync(name broker.Lane) {
	l := s.lane(name)
	if l.removed {
		return
	}
	if l.syncing {
		l.again = true
		return
	}
	l.syncing, l.again = true, false
	upTo := l.issued
	t := s.h.Submit(sim.Lane(name), sim.Sync, 0, func() any { return s.store.Sync(name) })
	s.done[t] = func(r any) {
		l.syncing = false
		l.synced = upTo
		if l.again {
			s.sync(name)
		}
		s.step(broker.Stored{Lane: name, Written: l.written, Synced: l.synced, Err: asError(r)})
	}
}

// filled reads slices in the order of their lanes and runs then once all are in place.
func (s *simNode) filled(slicesOf []broker.Slice, then func()) {
	left := len(slicesOf)
	if left == 0 {
		then()
		return
	}
	for _, sl := range slicesOf {
		t := s.h.Submit(sim.Lane(sl.Lane), sim.Read, int(sl.To-sl.From)*128, func() any {
			data, err := s.store.Read(sl)
			if err != nil {
				return err
			}
			return data
		})
		s.done[t] = func(r any) {
			if err := asError(r); err != nil {
				s.step(broker.ReadFailed{Lane: sl.Lane, Offset: sl.From, Err: err})
				return
			}
			*sl.Into = r.([]byte)
			if left--; left == 0 {
				then()
			}
		}
	}
}
