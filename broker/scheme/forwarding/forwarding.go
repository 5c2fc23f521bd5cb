// Package forwarding lets nodes share metadata alone. Its two forms differ in what a
// consumer gets that asks the wrong node (SCHEMES.md 1.8). With forward=proxy the node
// passes the request on to the home of the queue, as package classic does. With
// forward=move every node takes messages, as in ActiveMQ's network of brokers, and the
// message itself moves to the node whose consumers wait for it: store and forward.
//
// A move is a copy and a cursor. The node where a message is sends it over the bridge; the
// other one stores it and acknowledges when it is on disk; the cursor then passes it, and
// it is hidden where it was. If the acknowledgement is lost the move is made again, and the
// message is there twice: at least once, never less.
//
// Demand is a fetch that waits. Acknowledged consumption belongs to queues: here a message
// that was delivered stays, and moves like any other.
package forwarding

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
	"github.com/faultline-mq/faultline/broker/scheme/classic"
	"github.com/faultline-mq/faultline/broker/scheme/origin"
)

// Options are those of forward=move, with ActiveMQ's names.
type Options struct {
	TTL      int           // networkTTL
	Replay   bool          // replayWhenNoConsumers
	Prefetch int           // prefetchSize
	Audit    bool          // auditNetworkProducers
	Own      bool          // decreaseNetworkConsumerPriority
	Ack      time.Duration // bridge.ack.timeout.ms
}

// DefaultOptions are those of ActiveMQ 5.17.
func DefaultOptions() Options {
	return Options{TTL: 1, Prefetch: 1000, Ack: 500 * time.Millisecond}
}

func read(v options.Values) Options {
	return Options{
		TTL: v.Int(ttlOption), Replay: v.Bool(replayOption), Prefetch: v.Int(prefetchOption), Audit: v.Bool(auditOption),
		Own: v.Bool(priorityOption), Ack: v.Duration(ackOption),
	}
}

// Demand says that consumers of the sender wait.
type Demand struct{}

// Bundle moves batches, under their names.
type Bundle struct {
	ID    uint64
	Names []broker.Origin
	Data  []byte
}

// Taken acknowledges a Bundle: it is as durable as fsync says.
type Taken struct{ ID uint64 }

// demandAge is how long a demand holds: longer than a fetch waits before it is repeated.
// demandPause is the least time between two words of it.
const (
	demandAge   = time.Second
	demandPause = 100 * time.Millisecond
)

// Machine is one node's part of one partition with forward=move. It implements
// scheme.Selective.
type Machine struct {
	h    scheme.Host
	o    scheme.Options
	opts Options
	a    scheme.Assignment

	last origin.Mark
	// cursor: what may move and stands before it has moved, and is not shown.
	cursor int64
	next   int64                 // nothing before it can move any more; at or after the cursor
	names  map[broker.Origin]int // of what is shown here, and how often, for the audit
	acks   scheme.Acks

	wanted  []demand // of other nodes, the one whose turn it is first
	askedAt time.Duration
	told    time.Duration // when the others were told last
	moves   uint64        // the newest one's number, which no life of this node gives twice: an acknowledgement may be late
	out     *transfer     // a move that is not acknowledged
	in      []arrival     // moves to here that are not on disk yet
}

type demand struct {
	id    broker.NodeID
	until time.Duration
}

type transfer struct {
	id    uint64
	to    broker.NodeID
	end   int64 // of what moves
	until time.Duration
}

type arrival struct {
	from broker.NodeID
	id   uint64
	end  int64
}

var _ scheme.Selective = (*Machine)(nil)

// New makes the machine of one partition. It is a scheme.Factory.
func New(h scheme.Host, o scheme.Options, mark int64) scheme.Machine {
	if !moves(o.Set) {
		return classic.WithOptions(h, o, classic.Options{Durable: true, Persistent: true, Mandatory: true})
	}
	return WithOptions(h, o, read(o.Set), mark)
}

// WithOptions makes the machine of one partition with forward=move and other options than
// o.Set has. mark is the cursor that was kept.
func WithOptions(h scheme.Host, o scheme.Options, opts Options, mark int64) *Machine {
	m := &Machine{
		h: h, o: o, opts: opts, cursor: mark, names: map[broker.Origin]int{}, askedAt: -demandAge, told: -demandPause,
		a: scheme.Assignment{PartEpoch: -1, Peers: &scheme.Neighbours{Paused: true}},
	}
	var have origin.Vector
	for _, b := range h.Index().Batches(h.Index().Start()) {
		node, _ := came(b)
		have.Set(origin.Of(node, b.OriginSeq))
		if !m.hidden(b) {
			m.names[broker.Origin{Node: node, Seq: b.OriginSeq}]++
		}
	}
	m.last = origin.Begin(h.Self(), h.Now(), m.last, have)
	m.moves = uint64(m.last.Seq())
	return m
}

// hopBits: in the log the origin of a message holds, above the node, how often it moved.
const hopBits = 16

func came(b batch.Info) (node int32, hops int) {
	return b.Origin & (1<<hopBits - 1), int(b.Origin >> hopBits)
}

// movable reports whether a message may move from here at some time.
func (m *Machine) movable(b batch.Info) bool { return !m.tired(b) || m.opts.Replay }

// tired: it has moved as often as it may.
func (m *Machine) tired(b batch.Info) bool {
	_, hops := came(b)
	return hops >= m.opts.TTL
}

// hidden: it has moved.
func (m *Machine) hidden(b batch.Info) bool { return b.Base < m.cursor && m.movable(b) }

// Assigned implements scheme.Machine: the view of the others changed.
func (m *Machine) Assigned(a scheme.Assignment) {
	if a.PartEpoch <= m.a.PartEpoch || a.Peers == nil {
		return
	}
	before := m.a.Peers
	m.a = a
	gone := func(id broker.NodeID) bool { return !slices.Contains(a.Peers.Reached, id) }
	m.wanted = slices.DeleteFunc(m.wanted, func(d demand) bool { return gone(d.id) })
	if m.out != nil && gone(m.out.to) {
		m.out = nil
	}
	if a.Peers.Paused {
		m.acks.Abandon(m.h)
	} else if before.Paused {
		self := m.h.Name(m.h.Self())
		m.h.Emit(broker.Event{Kind: "leader", Epoch: -1, Leader: self, ISR: []string{self}, Offset: m.h.Index().End()})
	}
	m.bridge()
	m.h.Advanced()
}

// ISRAnswer implements scheme.Machine; this scheme proposes nothing.
func (m *Machine) ISRAnswer(int16) {}

// Produce implements scheme.Machine: the node that is asked keeps the message.
func (m *Machine) Produce(p scheme.Produce) {
	x := m.h.Index()
	if m.a.Peers.Paused {
		if p.Acks != 0 {
			m.h.Produced(p.Token, scheme.Produced{Code: kerr.NotLeaderForPartition.Code, Base: -1, Text: "this node is no part of the cluster at present"})
		}
		return
	}
	// A producer may write to several nodes: gaps in its numbers say nothing.
	c, base := x.CheckSeq(p.Info)
	if c != logindex.SeqDuplicate {
		base = x.End()
		if m.last.Full() {
			m.last = origin.Begin(m.h.Self(), m.h.Now(), m.last, nil)
		}
		m.last.N++
		// A copy: the request's bytes belong to the client.
		m.append([][]byte{slices.Clone(p.Batch)}, []batch.Info{p.Info}, []broker.Origin{{Node: int32(m.h.Self()), Seq: m.last.Seq()}})
	}
	if p.Acks != 0 {
		m.acks.Add(p.Token, base, base+p.Info.Last-p.Info.Base+1, m.h.Now().Mono+p.Timeout)
	}
	m.Stored()
}

// append puts batches at the end of the log, under their names.
func (m *Machine) append(batches [][]byte, infos []batch.Info, names []broker.Origin) {
	end := m.h.Index().End()
	for i := range batches {
		in := &infos[i]
		in.Base, in.Last, in.Epoch = end, end+in.Last-in.Base, -1
		in.Origin, in.OriginSeq = names[i].Node, names[i].Seq
		batch.Stamp(batches[i], in.Base, in.Epoch)
		end = in.Last + 1
		node, _ := came(*in)
		m.names[broker.Origin{Node: node, Seq: in.OriginSeq}]++
	}
	m.h.Append(batches, infos)
}

// Message implements scheme.Machine.
func (m *Machine) Message(from broker.NodeID, msg broker.Message) {
	if m.a.Peers.Paused {
		return
	}
	switch b := msg.(type) {
	case *Demand:
		m.demanded(from)
	case *Bundle:
		m.arrived(from, b)
	case *Taken:
		m.taken(from, b)
	}
}

func (m *Machine) demanded(from broker.NodeID) {
	if !slices.Contains(m.a.Peers.Reached, from) {
		return
	}
	until := m.h.Now().Mono + demandAge
	if i := slices.IndexFunc(m.wanted, func(d demand) bool { return d.id == from }); i >= 0 {
		m.wanted[i].until = until
	} else {
		m.wanted = append(m.wanted, demand{from, until})
	}
	m.bridge()
}

// bridge moves what may move to a node that wants it.
func (m *Machine) bridge() {
	now := m.h.Now().Mono
	m.wanted = slices.DeleteFunc(m.wanted, func(d demand) bool { return d.until <= now })
	if m.out != nil || len(m.wanted) == 0 || m.opts.Own && m.asked() {
		return
	}
	next := &Bundle{}
	begin, end, size, records := int64(0), int64(0), 0, 0
	m.next = max(m.next, m.cursor)
	for _, b := range m.h.Index().Batches(m.next) {
		if m.tired(b) && m.opts.Replay && m.asked() {
			break // it is consumed here, or moves later: the cursor cannot pass it
		}
		full := records+int(b.Records) > m.opts.Prefetch || size+int(b.Size) > m.o.FetchBytes
		if b.Last >= m.h.Stable() || len(next.Names) > 0 && (full || !m.movable(b)) {
			break
		}
		if !m.movable(b) {
			m.next = b.Last + 1
			continue
		}
		if len(next.Names) == 0 {
			begin = b.Base
		}
		node, hops := came(b)
		next.Names = append(next.Names, broker.Origin{Node: node | int32(hops+1)<<hopBits, Seq: b.OriginSeq})
		end, size, records = b.Last+1, size+int(b.Size), records+int(b.Records)
	}
	if len(next.Names) == 0 {
		return
	}
	to := m.wanted[0]
	m.wanted = append(m.wanted[1:], to) // the others have their turn
	m.moves++
	next.ID = m.moves
	m.out = &transfer{m.moves, to.id, end, now + m.opts.Ack}
	m.h.Send(to.id, next, begin, end, &next.Data)
}

// arrived stores what moved here.
func (m *Machine) arrived(from broker.NodeID, b *Bundle) {
	batches, infos, err := batch.Split(b.Data)
	if err == nil && len(batches) != len(b.Names) {
		err = fmt.Errorf("%d batches came with %d names", len(batches), len(b.Names))
	}
	for i := range batches {
		if err == nil {
			err = batch.Check(batches[i])
		}
	}
	if err != nil {
		m.h.Emit(broker.Event{Kind: "corrupt", Epoch: -1, Leader: m.h.Name(from), Offset: m.h.Index().End(), Detail: "refused what was sent: " + err.Error()})
		return
	}
	n := 0
	for i, name := range b.Names {
		name.Node &= 1<<hopBits - 1
		if m.opts.Audit && m.names[name] > m.leaving(name) {
			continue
		}
		batches[n], infos[n], b.Names[n] = batches[i], infos[i], b.Names[i]
		n++
	}
	if n > 0 {
		m.append(batches[:n], infos[:n], b.Names[:n])
	}
	m.in = append(m.in, arrival{from, b.ID, m.h.Index().End()})
	m.Stored()
}

// leaving is how many copies of a message are on their way to another node: what is here
// no longer once that is acknowledged must not stand for a copy that comes, or two nodes
// that move one message to each other both let it go.
func (m *Machine) leaving(name broker.Origin) int {
	if m.out == nil {
		return 0
	}
	n := 0
	for _, b := range m.h.Index().Batches(m.cursor) {
		if b.Base >= m.out.end {
			break
		}
		if node, _ := came(b); m.movable(b) && name == (broker.Origin{Node: node, Seq: b.OriginSeq}) {
			n++
		}
	}
	return n
}

// taken moves the cursor: the messages are on the other node's disk.
func (m *Machine) taken(from broker.NodeID, t *Taken) {
	if m.out == nil || m.out.to != from || m.out.id != t.ID {
		return // the move was given up, and is made again
	}
	for _, b := range m.h.Index().Batches(m.cursor) {
		if b.Base >= m.out.end {
			break
		}
		if m.movable(b) { // should it come back it is none that is here
			node, _ := came(b)
			name := broker.Origin{Node: node, Seq: b.OriginSeq}
			if m.names[name]--; m.names[name] <= 0 {
				delete(m.names, name)
			}
		}
	}
	m.cursor = m.out.end
	m.out = nil
	m.bridge()
	m.h.Advanced()
}

// Link implements scheme.Machine: a move may be lost with its stream, or its acknowledgement.
func (m *Machine) Link(id broker.NodeID, up bool) {
	if m.out != nil && m.out.to == id && !up {
		m.out = nil
		m.bridge()
	}
}

// Stored implements scheme.Machine.
func (m *Machine) Stored() {
	stable := m.h.Stable()
	m.acks.Reach(m.h, stable, 0)
	for len(m.in) > 0 && m.in[0].end <= stable {
		m.h.Send(m.in[0].from, &Taken{ID: m.in[0].id}, 0, 0, nil)
		m.in = m.in[1:]
	}
	m.bridge()
	m.h.Advanced()
}

// Wake implements scheme.Machine.
func (m *Machine) Wake() {
	m.acks.Expire(m.h)
	if m.out != nil && m.out.until <= m.h.Now().Mono {
		m.out = nil
	}
	m.bridge()
}

// NextWake implements scheme.Machine.
func (m *Machine) NextWake() time.Duration {
	next := m.acks.Next()
	if m.out != nil {
		next = min(next, m.out.until)
	}
	return next
}

// asked: consumers of this node itself were here lately.
func (m *Machine) asked() bool { return m.h.Now().Mono-m.askedAt < demandAge }

// Shown implements scheme.Selective. A consumer that finds nothing is a demand.
func (m *Machine) Shown(offset int64, consumer bool) (from, to int64) {
	from = offset
	found, size := false, 0
	for _, b := range m.h.Index().Batches(offset) {
		if m.hidden(b) {
			if found {
				break
			}
			continue
		}
		if !found {
			from, found = max(b.Base, offset), true
		}
		to = b.Last + 1
		if size += int(b.Size); size > m.o.FetchBytes {
			break // more is read at another time
		}
	}
	if !found {
		from, to = offset, offset
	}
	if consumer {
		m.askedAt = m.h.Now().Mono
		if !found {
			m.demand()
		}
	}
	return from, to
}

// demand tells the others that consumers wait here.
func (m *Machine) demand() {
	now := m.h.Now().Mono
	if now-m.told < demandPause {
		return
	}
	m.told = now
	for _, id := range m.a.Peers.Reached {
		if id != m.h.Self() {
			m.h.Send(id, &Demand{}, 0, 0, nil)
		}
	}
}

// Mark implements scheme.Selective.
func (m *Machine) Mark() int64 { return m.cursor }

// CheckRead implements scheme.Machine.
func (m *Machine) CheckRead(int32) (int64, int16) {
	if m.a.Peers.Paused {
		return 0, kerr.NotLeaderForPartition.Code
	}
	return m.h.Index().End(), 0
}

// High implements scheme.Machine.
func (m *Machine) High() int64 { return m.h.Index().End() }

// View implements scheme.Machine: the nodes are in sync while nothing moves nor is about to.
func (m *Machine) View() scheme.View {
	v := scheme.View{Leader: broker.None, Epoch: -1, Visible: m.h.Index().End(), Proxied: true, Replicas: m.a.Peers.Members}
	if m.a.Peers.Paused {
		return v
	}
	v.Leader, v.Writable, v.InSync = m.h.Self(), true, []broker.NodeID{m.h.Self()}
	now := m.h.Now().Mono
	wanted := slices.ContainsFunc(m.wanted, func(d demand) bool { return d.until > now })
	if m.out == nil && len(m.in) == 0 && !wanted && !m.asked() {
		for _, id := range m.a.Peers.Reached {
			if id != m.h.Self() {
				v.InSync = append(v.InSync, id)
			}
		}
	}
	return v
}

// Close implements scheme.Machine.
func (m *Machine) Close() { m.acks.Abandon(m.h) }
