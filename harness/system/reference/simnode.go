package reference

import (
	"context"
	"fmt"
	"log/slog"
	"time"

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
	ops   sim.Slab[operation]
	h     sim.Host
	n     *node.Node
	store *storage.Store
	ids   map[string]broker.NodeID
	lanes map[broker.Lane]*simLane

	issued int          // operations of the disk that are not done
	exit   *broker.Exit // in order, as soon as they are
}

// How a stop in order ends, as in package driver.
const (
	drainLimit   = 5 * time.Second
	exitSlowStop = 1
)

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
	s := &simNode{h: h, ids: map[string]broker.NodeID{}, lanes: map[broker.Lane]*simLane{}}
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
	store, rec, err := storage.Open(disks.data, disks.meta, int64(opts.Int("segment.bytes")), opts.Mutants())
	if err != nil {
		h.Logger().Error("the node cannot start", "error", err)
		h.Exit(4)
		return s
	}
	s.store = store
	if disks.shared != nil {
		store.Share(disks.shared.Process(h.Ended))
	}
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
	if s.exit != nil {
		s.stopping(ev)
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
		s.step(broker.Link{Peer: s.ids[e.Node], Channel: channelOf(e.Channel), Up: true})
	case sim.LinkDown:
		if !e.Inbound {
			s.step(broker.Link{Peer: s.ids[e.Node], Channel: channelOf(e.Channel)})
		}
	case sim.Request:
		if req, ok := e.Req.(kmsg.Request); ok {
			s.step(broker.Request{ID: broker.ReqID(e.ID), ClientID: e.Client, Req: req})
		}
	case sim.RequestGone:
		s.step(broker.RequestGone{ID: broker.ReqID(e.ID)})
	case *sim.StorageDone:
		s.stored(e)
	case sim.Terminate:
		s.step(broker.Terminate{})
	}
}

func (s *simNode) stored(e *sim.StorageDone) {
	op := e.Op.(*operation)
	s.issued--
	s.done(op)
	*op = operation{} // what it holds outlives it by no more than a moment: its neighbours keep its memory
}

// stopping waits for the disk after the node has exited in order.
func (s *simNode) stopping(ev sim.Event) {
	switch e := ev.(type) {
	case *sim.StorageDone:
		s.stored(e)
		s.close()
	case sim.Wake:
		s.h.Logger().Error("the disk did not take the last writes", "limit", drainLimit)
		s.h.Exit(exitSlowStop)
	}
}

// close ends the process if nothing is under way.
func (s *simNode) close() {
	if s.issued > 0 {
		return
	}
	if err := s.store.Close(s.exit.BrokerEpoch); err != nil {
		s.h.Logger().Error("closing the data directory failed", "error", err)
		s.h.Exit(exitSlowStop)
		return
	}
	s.h.Exit(0)
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
	if s.exit != nil {
		return
	}
	if at := s.n.NextWake(); at == scheme.Never {
		s.h.SetWake(sim.NoWake)
	} else {
		s.h.SetWake(at)
	}
}

func (s *simNode) carryOut(effect broker.Effect) {
	switch e := effect.(type) {
	case broker.Send:
		if s.filled(effect, e.Slices) {
			s.send(e)
		}
	case broker.Reply:
		// A request without reply has no response: the connection does not wait.
		if e.Resp != nil && s.filled(effect, e.Slices) {
			s.reply(e)
		}
	case broker.Append:
		s.write(effect, e.Lane, e.Seq, sim.Append, bytesOf(e.Batches))
	case broker.Truncate:
		s.write(effect, e.Lane, e.Seq, sim.Modify, 0)
	case broker.Sync:
		s.sync(effect, e.Lane)
	case broker.OpenLane:
		s.lane(e.Lane).removed = false
		s.submit(effect, e.Lane, sim.Modify, 0)
	case broker.RemoveLane:
		s.lane(e.Lane).removed = true
		s.submit(effect, e.Lane, sim.Modify, 0)
	case broker.Checkpoint:
		s.submit(effect, e.Lane, sim.Modify, 0)
	case broker.Device:
		s.device(effect, e)
	case broker.Keep:
		s.write(effect, e.Lane, e.Seq, sim.Sync, len(e.State))
	case broker.MetaAppend:
		s.issue(sim.MetaLane, sim.Sync, bytesOf(e.Records), operation{effect: effect})
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
		if e.Code != 0 {
			s.h.Exit(e.Code)
			return
		}
		s.exit = &e
		s.h.SetWake(s.h.Now() + drainLimit)
		s.close()
	}
}

func bytesOf(parts [][]byte) int {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	return n
}

func (s *simNode) send(e broker.Send) {
	s.h.Send(s.h.Nodes()[e.To-1], simChannel(e.Channel), e.Msg)
}

func (s *simNode) reply(e broker.Reply) { s.h.Reply(sim.RequestID(e.ID), e.Resp) }

// operation is what one effect asks of the disk: for a Send or a Reply, one of
// the slices that it waits for.
type operation struct {
	s      *simNode
	effect broker.Effect
	seq    uint64 // the lane's last write that it covers
	slice  *broker.Slice
	data   []byte
	device broker.DeviceDone
	left   *int // of the effect's slices; nil: it has this one only
	err    error
}

var _ sim.Operation = (*operation)(nil)

// issue asks for an operation.
func (s *simNode) issue(lane sim.Lane, kind sim.StorageKind, size int, o operation) {
	p := s.ops.Take()
	*p = o
	p.s = s
	s.issued++
	s.h.Submit(lane, kind, size, p)
}

// Run implements sim.Operation.
func (o *operation) Run() {
	store := o.s.store
	switch e := o.effect.(type) {
	case broker.Append:
		o.err = store.Append(e)
	case broker.Truncate:
		o.err = store.Truncate(e)
	case broker.Sync:
		o.err = store.Sync(e.Lane)
	case broker.OpenLane:
		o.err = store.OpenLane(e.Lane)
	case broker.RemoveLane:
		o.err = store.RemoveLane(e.Lane)
	case broker.Checkpoint:
		o.err = store.Checkpoint(e)
	case broker.Device:
		o.device = store.Device(e)
	case broker.Keep:
		o.err = store.Keep(e)
	case broker.MetaAppend:
		o.err = store.Meta(e)
	default:
		o.data, o.err = store.Read(*o.slice)
	}
}

// done takes the outcome of an operation.
func (s *simNode) done(o *operation) {
	switch e := o.effect.(type) {
	case broker.Append:
		s.written(e.Lane, o)
	case broker.Truncate:
		s.written(e.Lane, o)
	case broker.Keep:
		s.written(e.Lane, o)
	case broker.Sync:
		l := s.lane(e.Lane)
		l.syncing, l.synced = false, o.seq
		if l.again {
			s.sync(o.effect, e.Lane)
		}
		s.step(broker.Stored{Lane: e.Lane, Written: l.written, Synced: l.synced, Err: o.err})
	case broker.OpenLane:
		s.failed(e.Lane, o)
	case broker.RemoveLane:
		s.failed(e.Lane, o)
	case broker.Checkpoint:
		s.failed(e.Lane, o)
	case broker.Device:
		s.step(o.device)
	case broker.MetaAppend:
		s.step(broker.MetaStored{Seq: e.Seq, Err: o.err})
	case broker.Send:
		if s.read(o) {
			s.send(e)
		}
	case broker.Reply:
		if s.read(o) {
			s.reply(e)
		}
	}
}

// device asks the shared storage device: what makes something durable there takes as
// long as a sync.
func (s *simNode) device(effect broker.Effect, e broker.Device) {
	kind := sim.Modify
	switch e.Do {
	case broker.Publish, broker.OpenLog:
		kind = sim.Sync
	case broker.CheckLock, broker.CheckToken:
		kind = sim.Read
	}
	l := s.lane(e.Lane)
	switch e.Do {
	case broker.OpenLog:
		l.removed = false
	case broker.CloseLog, broker.RemoveLog:
		l.removed = true
	}
	s.submit(effect, e.Lane, kind, 0)
}

// submit issues an operation of a lane.
func (s *simNode) submit(e broker.Effect, lane broker.Lane, kind sim.StorageKind, size int) {
	s.issue(sim.Lane(lane), kind, size, operation{effect: e})
}

// failed reports an operation whose only outcome of interest is its failure.
func (s *simNode) failed(lane broker.Lane, o *operation) {
	if o.err != nil {
		s.step(broker.Stored{Lane: lane, Err: o.err})
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

func (s *simNode) write(e broker.Effect, name broker.Lane, seq uint64, kind sim.StorageKind, size int) {
	s.lane(name).issued = seq
	s.issue(sim.Lane(name), kind, size, operation{effect: e, seq: seq})
}

func (s *simNode) written(name broker.Lane, o *operation) {
	l := s.lane(name)
	l.written = o.seq
	s.step(broker.Stored{Lane: name, Written: l.written, Synced: l.synced, Err: o.err})
}

func (s *simNode) sync(e broker.Effect, name broker.Lane) {
	l := s.lane(name)
	if l.removed {
		return
	}
	if l.syncing {
		l.again = true
		return
	}
	l.syncing, l.again = true, false
	s.issue(sim.Lane(name), sim.Sync, 0, operation{effect: e, seq: l.issued})
}

// filled reports whether an effect has no slices. Otherwise it has them read, in
// the order of their lanes.
func (s *simNode) filled(e broker.Effect, slices []broker.Slice) bool {
	var left *int
	if n := len(slices); n > 1 {
		left = &n
	}
	for i := range slices {
		sl := &slices[i]
		s.issue(sim.Lane(sl.Lane), sim.Read, int(sl.To-sl.From)*128, operation{effect: e, slice: sl, left: left})
	}
	return len(slices) == 0
}

// read takes the outcome of a slice's read, and reports whether it was the last
// that its effect waited for.
func (s *simNode) read(o *operation) bool {
	if o.err != nil {
		s.step(broker.ReadFailed{Lane: o.slice.Lane, Offset: o.slice.From, Err: o.err})
		return false
	}
	*o.slice.Into = o.data
	if o.left == nil {
		return true
	}
	*o.left--
	return *o.left == 0
}
