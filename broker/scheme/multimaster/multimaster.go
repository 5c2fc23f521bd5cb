// Package multimaster lets any node take writes. The writer appends, sends to every node
// that it sees, and acknowledges as the rule says: when all configured nodes have the
// write, all that are seen, or more than half. No mainstream queue does this
// synchronously; SCHEMES.md 1.7 defines it.
//
// A message has a name, (origin, sequence), that stands in the frame of every log that
// holds it. Each node numbers its messages anew at every start, so that a name is never
// given twice even where a log lost its end; a log holds each such stream without gaps.
// What a node has is thus told by one mark per stream. Nodes compare their marks when they
// meet and from time to time, and whoever sees that another one lacks something sends it:
// that is the union after a partition, the state that a new node is given, and the repair
// of what the network lost, all in one.
//
// Every node shows and delivers all that it has: nobody owns a delivery. Messages that
// were consumed, and the tombstones that keep them from coming back in a union, belong to
// queues; a log keeps everything.
package multimaster

import (
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/origin"
)

// Options are those of the scheme.
type Options struct {
	Rule   string        // ack.rule: all-configured, all-live, quorum
	Total  bool          // order=total
	Union  bool          // heal=union
	Gossip time.Duration // anti.entropy.ms
}

// DefaultOptions are those that are safe and available.
func DefaultOptions() Options {
	return Options{Rule: allLive, Union: true, Gossip: 500 * time.Millisecond}
}

func read(v options.Values) Options {
	return Options{Rule: v.String(ruleOption), Total: v.String(orderOption) == total, Union: v.String(healOption) == union, Gossip: v.Duration(gossipOption)}
}

// Marks tells what is on the sender's disk. It confirms writes, and asks for what it lacks.
type Marks struct {
	Start int64 // of the sender: another one may have less than the one before
	Have  []origin.Mark
	// Met: the sender sees the receiver anew, and wants its marks. Fresh and Side are
	// whom it goes with, for heal=none: the nodes that it did not lose since it met them.
	Met   bool
	Fresh bool
	Side  []broker.NodeID
}

// Name is the name of one batch.
type Name struct {
	Node broker.NodeID
	Seq  int64
}

// Push brings batches that the receiver may lack, in the sender's order.
type Push struct {
	Names []Name // of each batch
	Data  []byte
}

// Machine is one node's part of one partition. It implements scheme.Machine.
type Machine struct {
	h    scheme.Host
	o    scheme.Options
	opts Options
	a    scheme.Assignment

	last     origin.Mark   // the newest message of this node's own stream
	have     origin.Vector // in the log
	stable   origin.Vector // of it, what is as durable as fsync says
	unstable []unstable
	peers    []*peer
	waiting  []write
	gossipAt time.Duration
	// sequencing: this node gives the order, and has what every other one had when it began.
	sequencing bool
	fresh      bool            // it has not gone with others since it started
	side       []broker.NodeID // whom it goes with, itself among them
}

type unstable struct {
	end  int64
	mark origin.Mark
}

// write waits for its acknowledgement.
type write struct {
	token    uint64
	mark     origin.Mark
	base     int64
	alone    bool // acks=1: this node's disk suffices
	deadline time.Duration
}

var _ scheme.Machine = (*Machine)(nil)

// New makes the machine of one partition. It is a scheme.Factory.
func New(h scheme.Host, o scheme.Options, _ int64) scheme.Machine {
	return WithOptions(h, o, read(o.Set))
}

// WithOptions makes the machine of one partition with other options than o.Set has.
func WithOptions(h scheme.Host, o scheme.Options, opts Options) scheme.Machine {
	m := &Machine{
		h: h, o: o, opts: opts, fresh: true, side: []broker.NodeID{h.Self()}, gossipAt: h.Now().Mono + opts.Gossip,
		a: scheme.Assignment{PartEpoch: -1, Peers: &scheme.Neighbours{Paused: true}},
	}
	for _, b := range h.Index().Batches(h.Index().Start()) {
		m.have.Set(origin.Of(b.Origin, b.OriginSeq))
	}
	m.stable = slices.Clone(m.have)
	m.begin()
	return m
}

func (m *Machine) begin() { m.last = origin.Begin(m.h.Self(), m.h.Now(), m.last, m.have) }

func (m *Machine) reached(id broker.NodeID) bool { return slices.Contains(m.a.Peers.Reached, id) }

// Assigned implements scheme.Machine: the view of the others changed.
func (m *Machine) Assigned(a scheme.Assignment) {
	if a.PartEpoch <= m.a.PartEpoch || a.Peers == nil {
		return
	}
	before := m.a.Peers
	m.a = a
	for _, id := range a.Peers.Members {
		if id != m.h.Self() && m.peer(id) == nil {
			m.peers = append(m.peers, &peer{id: id})
		}
	}
	if a.Peers.Paused {
		m.abandon()
	}
	for _, p := range m.peers {
		up := !a.Peers.Paused && m.reached(p.id)
		switch {
		case up && (!p.up || before.Session != a.Peers.Session):
			m.meet(p)
		case !up && p.up:
			m.lose(p)
		}
	}
	if !a.Peers.Paused && (before.Paused || !slices.Equal(before.Reached, a.Peers.Reached)) {
		kind := "isr"
		if before.Paused {
			kind = "leader"
		}
		m.h.Emit(broker.Event{Kind: kind, Epoch: -1, Leader: m.h.Name(m.h.Self()), ISR: m.names(a.Peers.Reached), Offset: m.h.Index().End()})
	}
	m.sequence()
	m.raise()
	m.h.Advanced()
}

// ISRAnswer implements scheme.Machine; this scheme proposes nothing.
func (m *Machine) ISRAnswer(int16) {}

// sequencer is the node that gives the order, where it is total.
func (m *Machine) sequencer() broker.NodeID {
	if !m.opts.Total || m.a.Peers.Paused {
		return m.h.Self()
	}
	return slices.Min(m.a.Peers.Reached)
}

// sequence lets the sequencer begin once it has what any node that it sees has: what
// comes from it afterwards comes after that, everywhere.
func (m *Machine) sequence() {
	if m.sequencer() != m.h.Self() {
		m.sequencing = false
		return
	}
	m.sequencing = m.sequencing || !slices.ContainsFunc(m.peers, func(p *peer) bool { return p.up && !(p.known && m.have.Covers(p.have)) })
}

// Produce implements scheme.Machine.
func (m *Machine) Produce(p scheme.Produce) {
	if code, why := m.refusal(); code != nil {
		if p.Acks != 0 {
			m.h.Produced(p.Token, scheme.Produced{Code: code.Code, Base: -1, Text: why})
		}
		return
	}
	mark, base := m.take(p)
	if p.Acks != 0 {
		m.waiting = append(m.waiting, write{p.Token, mark, base, p.Acks == 1, m.h.Now().Mono + p.Timeout})
	}
	for _, peer := range m.peers {
		m.feed(peer, peer.live, false)
	}
	m.raise()
	m.h.Advanced()
}

// refusal says why no write can be taken now: it is not appended then.
func (m *Machine) refusal() (*kerr.Error, string) {
	seen, all := len(m.a.Peers.Reached), len(m.a.Peers.Members)
	switch {
	case m.a.Peers.Paused:
		return kerr.NotLeaderForPartition, "this node is no part of the cluster at present"
	case m.opts.Total && !m.sequencing:
		return kerr.NotLeaderForPartition, "this node does not give the order"
	case m.opts.Rule == allConfigured && seen < all, m.opts.Rule == quorum && 2*seen <= all:
		return kerr.NotEnoughReplicas, fmt.Sprintf("%d of %d nodes are in reach, ack.rule is %s", seen, all, m.opts.Rule)
	}
	return nil, ""
}

// take appends a write, unless its producer sends it again and it is here. Producers
// may write to several nodes, so gaps in their sequence numbers say nothing.
func (m *Machine) take(p scheme.Produce) (origin.Mark, int64) {
	x := m.h.Index()
	if c, original := x.CheckSeq(p.Info); c == logindex.SeqDuplicate {
		b := x.Batches(original)[0]
		return origin.Of(b.Origin, b.OriginSeq), original
	}
	if m.last.Full() {
		m.begin()
	}
	m.last.N++
	// A copy: the request's bytes belong to the client.
	m.append([][]byte{slices.Clone(p.Batch)}, []batch.Info{p.Info}, []origin.Mark{m.last})
	return m.last, x.End() - (p.Info.Last - p.Info.Base + 1)
}

// append puts batches at the end of the log, under their names.
func (m *Machine) append(batches [][]byte, infos []batch.Info, marks []origin.Mark) {
	end := m.h.Index().End()
	for i := range batches {
		in := &infos[i]
		in.Base, in.Last, in.Epoch = end, end+in.Last-in.Base, -1
		in.Origin, in.OriginSeq = int32(marks[i].Node), marks[i].Seq()
		batch.Stamp(batches[i], in.Base, in.Epoch)
		end = in.Last + 1
		m.have.Set(marks[i])
		m.unstable = append(m.unstable, unstable{end, marks[i]})
	}
	m.h.Append(batches, infos)
}

// raise acknowledges what enough nodes have.
func (m *Machine) raise() {
	m.waiting = slices.DeleteFunc(m.waiting, func(w write) bool {
		if !m.stable.Holds(w.mark) || !w.alone && !m.enough(w.mark) {
			return false
		}
		m.h.Produced(w.token, scheme.Produced{Base: w.base})
		return true
	})
}

// enough reports whether the rule is satisfied.
func (m *Machine) enough(k origin.Mark) bool {
	have, missing := 1, false
	for _, p := range m.peers {
		if p.have.Holds(k) {
			have++
		} else if p.up {
			missing = true
		}
	}
	switch m.opts.Rule {
	case allConfigured:
		return have == len(m.a.Peers.Members)
	case quorum:
		return 2*have > len(m.a.Peers.Members)
	}
	return !missing
}

// abandon answers what waits: it is in the log and may still take effect.
func (m *Machine) abandon() {
	for _, w := range m.waiting {
		m.h.Produced(w.token, scheme.Produced{Code: kerr.RequestTimedOut.Code, Base: -1})
	}
	m.waiting = nil
}

// Message implements scheme.Machine.
func (m *Machine) Message(from broker.NodeID, msg broker.Message) {
	p := m.peer(from)
	if p == nil || m.a.Peers.Paused {
		return
	}
	switch b := msg.(type) {
	case *Marks:
		m.marks(p, b)
	case *Push:
		m.pushed(p, b)
	}
}

// Link implements scheme.Machine: what was under way is lost with its stream.
func (m *Machine) Link(id broker.NodeID, up bool) {
	if p := m.peer(id); p != nil && p.up {
		p.sent = nil
		if up {
			m.tell(p, true)
		}
	}
}

// Stored implements scheme.Machine.
func (m *Machine) Stored() {
	n := 0
	for n < len(m.unstable) && m.unstable[n].end <= m.h.Stable() {
		m.stable.Set(m.unstable[n].mark)
		n++
	}
	m.unstable = m.unstable[n:]
	if n == 0 {
		return
	}
	for _, p := range m.peers {
		m.tell(p, false)
	}
	m.raise()
	m.h.Advanced()
}

// Wake implements scheme.Machine.
func (m *Machine) Wake() {
	now := m.h.Now().Mono
	m.waiting = slices.DeleteFunc(m.waiting, func(w write) bool {
		if w.deadline > now {
			return false
		}
		m.h.Produced(w.token, scheme.Produced{Code: kerr.RequestTimedOut.Code, Base: -1})
		return true
	})
	if m.gossipAt > now {
		return
	}
	m.gossipAt = now + m.opts.Gossip
	for _, p := range m.peers {
		m.compare(p)
	}
}

// NextWake implements scheme.Machine.
func (m *Machine) NextWake() time.Duration {
	next := m.gossipAt
	for _, w := range m.waiting {
		next = min(next, w.deadline)
	}
	return next
}

// CheckRead implements scheme.Machine: each node shows what it has, acknowledged or not.
func (m *Machine) CheckRead(int32) (int64, int16) {
	if m.a.Peers.Paused {
		return 0, kerr.NotLeaderForPartition.Code
	}
	return m.h.Index().End(), 0
}

// High implements scheme.Machine.
func (m *Machine) High() int64 { return m.h.Index().End() }

// View implements scheme.Machine: in sync are those that have the same on disk.
func (m *Machine) View() scheme.View {
	v := scheme.View{
		Leader: broker.None, Epoch: -1, Visible: m.h.Index().End(), Proxied: true, Replicas: m.a.Peers.Members,
	}
	if m.a.Peers.Paused {
		return v
	}
	v.Leader, v.InSync = m.sequencer(), []broker.NodeID{m.h.Self()}
	refused, _ := m.refusal()
	v.Writable = refused == nil
	for _, p := range m.peers {
		if p.up && p.known && p.have.Covers(m.have) && m.stable.Covers(p.have) && m.stable.Covers(m.have) {
			v.InSync = append(v.InSync, p.id)
		}
	}
	return v
}

// Close implements scheme.Machine.
func (m *Machine) Close() { m.abandon() }

func (m *Machine) names(ids []broker.NodeID) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = m.h.Name(id)
	}
	return names
}
