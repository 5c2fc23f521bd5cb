// Package schemetest is a world for the tests of schemes: a few replicas of one
// partition, with a network and disks that move only when they are told. Scripts
// and random schedules drive the same world.
package schemetest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/pull"
)

// Envelope is a message on its way.
type Envelope struct {
	From, To broker.NodeID
	Msg      broker.Message
}

// World is a partition and its replicas, numbered from 1.
type World struct {
	Now    broker.Time
	Nodes  []*Node
	Wires  []Envelope
	A      scheme.Assignment // the authority's present decision
	Quiet  bool              // messages are not shown
	Opts   scheme.Options
	New    scheme.Factory
	Text   func(broker.Message) string // of the scheme's own messages
	Answer func(n *Node, token uint64, p scheme.Produced)
	Report func(n *Node, epoch int32, inSync []broker.NodeID)
	Emit   func(n *Node, ev broker.Event)
	// Record takes what nodes that go by their own views make of the record.
	Record func(n *Node, r scheme.Record)
	// Propose takes in-sync sets that machines ask for. Nil: they are shown.
	Propose func(n *Node, epoch, partEpoch int32, isr []scheme.Member)
	Values  map[uint64]string // what was sent, by token

	cut   map[[2]broker.NodeID]bool
	out   strings.Builder
	epoch int64
	token uint64
}

// op is a write that the disk has not taken.
type op struct {
	batches [][]byte
	to      int64 // truncation, -1: none
	kept    []byte
}

// Node hosts one machine.
type Node struct {
	ID    broker.NodeID
	Up    bool
	M     scheme.Machine
	Bad   bool // the log on disk is corrupt
	w     *World
	index *logindex.Index
	log   [][]byte
	ops   []op
	epoch int64

	stable  int64
	durable [][]byte
	kept    []byte
	found   []byte // kept, when it started
}

var _ scheme.Host = (*Node)(nil)

// NewWorld returns a world of n replicas that are down.
func NewWorld(n int, factory scheme.Factory, opts scheme.Options) *World {
	w := &World{New: factory, Opts: opts, cut: map[[2]broker.NodeID]bool{}, Values: map[uint64]string{}, epoch: 100}
	for i := range n {
		w.Nodes = append(w.Nodes, &Node{ID: broker.NodeID(i + 1), w: w, index: logindex.New(0, nil)})
		w.A.Replicas = append(w.A.Replicas, broker.NodeID(i+1))
	}
	return w
}

// Node returns a replica.
func (w *World) Node(id broker.NodeID) *Node { return w.Nodes[id-1] }

// Self implements scheme.Host.
func (n *Node) Self() broker.NodeID { return n.ID }

// Owner implements scheme.Host.
func (n *Node) Owner() string { return fmt.Sprintf("%d.%d", n.ID, n.epoch) }

// Now implements scheme.Host.
func (n *Node) Now() broker.Time { return n.w.Now }

// Index implements scheme.Host.
func (n *Node) Index() *logindex.Index { return n.index }

// Stable implements scheme.Host.
func (n *Node) Stable() int64 { return n.stable }

// Refused implements scheme.Host.
func (n *Node) Refused() bool { return n.Bad }

// BrokerEpoch implements scheme.Host.
func (n *Node) BrokerEpoch() int64 { return n.epoch }

// Advanced implements scheme.Host.
func (n *Node) Advanced() {}

// Name implements scheme.Host.
func (n *Node) Name(id broker.NodeID) string { return id.String() }

// Eligible implements scheme.Host: whoever is up.
func (n *Node) Eligible(id broker.NodeID, epoch int64) bool {
	return n.w.Node(id).Up && n.w.Node(id).epoch == epoch
}

// ProposeISR implements scheme.Host.
func (n *Node) ProposeISR(epoch, partEpoch int32, isr []scheme.Member) {
	if n.w.Propose != nil {
		n.w.Propose(n, epoch, partEpoch, isr)
		return
	}
	var ids []broker.NodeID
	for _, m := range isr {
		ids = append(ids, m.ID)
	}
	n.w.Printf("%d proposes the in-sync set %s\n", n.ID, names(ids))
}

// Report implements scheme.Host.
func (n *Node) Report(epoch int32, inSync []broker.NodeID) {
	if n.w.Report != nil {
		n.w.Report(n, epoch, inSync)
	}
}

// Persisted implements scheme.Host.
func (n *Node) Persisted() []byte { return n.found }

// Keep implements scheme.Host.
func (n *Node) Keep(r scheme.Record) {
	if n.w.Record != nil {
		n.w.Record(n, r)
	}
}

// Persist implements scheme.Host.
func (n *Node) Persist(state []byte) { n.ops = append(n.ops, op{to: -1, kept: state}) }

// Persisting implements scheme.Host.
func (n *Node) Persisting() bool {
	return slices.ContainsFunc(n.ops, func(o op) bool { return o.kept != nil })
}

// Append implements scheme.Host.
func (n *Node) Append(batches [][]byte, infos []batch.Info) {
	for i := range batches {
		n.index.Append(infos[i])
		n.log = append(n.log, batches[i])
	}
	n.ops = append(n.ops, op{batches: batches, to: -1})
}

// Truncate implements scheme.Host.
func (n *Node) Truncate(to int64) int64 {
	end := n.index.Truncate(to)
	n.log = below(n.log, end)
	n.stable = min(n.stable, end)
	n.ops = append(n.ops, op{to: end})
	return end
}

func below(log [][]byte, end int64) [][]byte {
	return slices.DeleteFunc(slices.Clone(log), func(b []byte) bool { return Base(b) >= end })
}

// Send implements scheme.Host.
func (n *Node) Send(to broker.NodeID, msg broker.Message, from, upTo int64, data *[]byte) {
	for _, b := range n.log {
		if upTo > from && Base(b) >= from && Base(b) < upTo {
			*data = append(*data, b...)
		}
	}
	if n.w.cut[[2]broker.NodeID{n.ID, to}] || !n.w.Node(to).Up {
		return
	}
	e := Envelope{n.ID, to, msg}
	n.w.Wires = append(n.w.Wires, e)
	if !n.w.Quiet {
		n.w.Printf("%s\n", n.w.Show(e))
	}
}

// Produced implements scheme.Host.
func (n *Node) Produced(token uint64, p scheme.Produced) {
	switch {
	case n.w.Answer != nil:
		n.w.Answer(n, token, p)
	case p.Code != 0:
		n.w.Printf("%d answers %s: %s\n", n.ID, n.w.Values[token], Code(p.Code))
	default:
		n.w.Printf("%d answers %s: ok at %d\n", n.ID, n.w.Values[token], p.Base)
	}
}

// Emit implements scheme.Host.
func (n *Node) Emit(ev broker.Event) {
	if n.w.Emit != nil {
		n.w.Emit(n, ev)
		return
	}
	s := fmt.Sprintf("%d: %s epoch=%d", n.ID, ev.Kind, ev.Epoch)
	if ev.Leader != "" {
		s += " leader=" + ev.Leader
	}
	if ev.Kind == "isr" {
		s += " isr=(" + strings.Join(ev.ISR, ",") + ")"
	}
	if ev.Kind == "truncate" {
		s += fmt.Sprintf(" removed=[%d,%d)", ev.From, ev.To)
	}
	n.w.Printf("%s\n", s)
}

// Boot starts a new incarnation with what its disk holds.
func (w *World) Boot(n *Node) {
	w.epoch++
	n.epoch, n.Up, n.found, n.ops = w.epoch, true, n.kept, nil
	n.log = slices.Clone(n.durable)
	var infos []batch.Info
	for _, b := range n.log {
		i, _ := batch.Parse(b)
		infos = append(infos, i)
	}
	n.index = logindex.New(0, infos)
	n.stable = n.index.End()
	n.M = w.New(n, w.Opts, 0)
	n.M.Assigned(w.A)
	for _, p := range w.Nodes {
		if p.Up && p != n {
			p.M.Link(n.ID, true)
		}
	}
}

// Die ends a process. The first so many of the writes that its disk had not taken are
// there when it starts again: all survive the death of a process, few a power loss.
func (w *World) Die(n *Node, writes int) {
	for range min(writes, len(n.ops)) {
		n.carryOut()
	}
	n.Up, n.M, n.ops = false, nil, nil
	w.Wires = slices.DeleteFunc(w.Wires, func(e Envelope) bool { return e.From == n.ID || e.To == n.ID })
	for _, p := range w.Nodes {
		if p.Up {
			p.M.Link(n.ID, false)
		}
	}
}

// Wipe empties the disk of a replica that is down.
func (w *World) Wipe(n *Node) { n.durable, n.kept = nil, nil }

// Pending is the number of writes that a disk has not taken.
func (n *Node) Pending() int { return len(n.ops) }

// carryOut does the oldest write.
func (n *Node) carryOut() {
	o := n.ops[0]
	n.ops = n.ops[1:]
	switch {
	case o.kept != nil:
		n.kept = o.kept
	case o.to >= 0:
		n.durable = below(n.durable, o.to)
	default:
		n.durable = append(n.durable, o.batches...)
	}
}

// Store makes everything written so far durable. It reports whether there was anything.
func (w *World) Store(n *Node) bool {
	if !n.Up || len(n.ops) == 0 {
		return false
	}
	for len(n.ops) > 0 {
		n.carryOut()
	}
	n.stable = n.index.End()
	n.M.Stored()
	return true
}

// Cut cuts or heals a link in one direction; what is on its way is lost.
func (w *World) Cut(from, to broker.NodeID, cut bool) {
	w.cut[[2]broker.NodeID{from, to}] = cut
	w.Wires = slices.DeleteFunc(w.Wires, func(e Envelope) bool { return e.From == from && e.To == to })
	if n := w.Node(from); n.Up {
		n.M.Link(to, !cut)
	}
}

// Deliver delivers the i-th message on its way.
func (w *World) Deliver(i int) {
	e := w.Wires[i]
	w.Wires = slices.Delete(w.Wires, i, i+1)
	if n := w.Node(e.To); n.Up {
		n.M.Message(e.From, e.Msg)
	}
}

// Settle delivers and stores until all is quiet. It gives up after many steps.
func (w *World) Settle() error {
	quiet := w.Quiet
	w.Quiet = true
	defer func() { w.Quiet = quiet }()
	for range 20_000 {
		busy := len(w.Wires) > 0
		if busy {
			w.Deliver(0)
		}
		for _, n := range w.Nodes {
			busy = w.Store(n) || busy
		}
		if !busy {
			return nil
		}
	}
	return fmt.Errorf("the replicas talk without end: %s", w.Show(w.Wires[0]))
}

// Pass lets time go by; messages and disks keep up.
func (w *World) Pass(d time.Duration) error {
	end := w.Now.Mono + d
	for range 20_000 {
		next := scheme.Never
		for _, n := range w.Nodes {
			if n.Up {
				next = min(next, n.M.NextWake())
			}
		}
		if next > end {
			w.Now.Mono = end
			return nil
		}
		w.Now.Mono = max(w.Now.Mono, next)
		w.WakeDue()
		if err := w.Settle(); err != nil {
			return err
		}
	}
	return fmt.Errorf("timers fire without end at %s", w.Now.Mono)
}

// WakeDue wakes whose time has come, without showing their messages.
func (w *World) WakeDue() {
	quiet := w.Quiet
	w.Quiet = true
	defer func() { w.Quiet = quiet }()
	for _, n := range w.Nodes {
		if n.Up && n.M.NextWake() <= w.Now.Mono {
			n.M.Wake()
		}
	}
}

// Assign tells all replicas that are up what the authority decided.
func (w *World) Assign(change func(a *scheme.Assignment)) {
	change(&w.A)
	w.A.PartEpoch++
	for _, n := range w.Nodes {
		if n.Up {
			n.M.Assigned(w.A)
		}
	}
}

// Produce sends a batch of one record to a replica.
func (w *World) Produce(n *Node, value string, acks int16, timeout time.Duration) uint64 {
	w.token++
	w.Values[w.token] = value
	b := Batch(value)
	info, _ := batch.Parse(b)
	n.M.Produce(scheme.Produce{Token: w.token, Batch: b, Info: info, Acks: acks, Timeout: timeout})
	return w.token
}

// Records gives a replica's log as it is in memory.
func (n *Node) Records() []string {
	var all []string
	for _, b := range n.log {
		i, _ := batch.Parse(b)
		all = append(all, fmt.Sprintf("%s@%d", b[batch.HeaderSize:], i.Epoch))
	}
	return all
}

// Printf adds to the output.
func (w *World) Printf(f string, args ...any) { fmt.Fprintf(&w.out, f, args...) }

// Show words a message.
func (w *World) Show(e Envelope) string {
	s := fmt.Sprintf("%d>%d ", e.From, e.To)
	switch m := e.Msg.(type) {
	case *pull.Fetch:
		return s + fmt.Sprintf("fetch from %d: last epoch %d, in epoch %d", m.Offset, m.LastEpoch, m.Epoch)
	case *pull.FetchAnswer:
		s += "answer:"
		switch {
		case m.Code != 0:
			return s + " " + Code(m.Code)
		case m.Diverged:
			return s + fmt.Sprintf(" diverged: here epoch %d ends at %d", m.KnownEpoch, m.KnownEnd)
		}
		batches, infos, _ := batch.Split(m.Data)
		for i := range batches {
			s += " " + record(batches[i], infos[i])
		}
		return s + fmt.Sprintf(" high %d", m.High)
	}
	if w.Text != nil {
		return s + w.Text(e.Msg)
	}
	return s + fmt.Sprintf("%T", e.Msg)
}

func record(b []byte, i batch.Info) string {
	return fmt.Sprintf("%d:%s@%d", i.Base, b[batch.HeaderSize:], i.Epoch)
}

// ShowLog words a replica's log: | durable up to here, ^ visible up to here.
func (w *World) ShowLog(n *Node, role string) {
	mark := func(at int64) string {
		s := ""
		if n.Up && at == n.M.View().Visible {
			s += " ^"
		}
		if n.Up && at == n.stable {
			s += " |"
		}
		return s
	}
	if !n.Up {
		w.Printf("%d down:", n.ID)
		for _, b := range n.durable {
			i, _ := batch.Parse(b)
			w.Printf(" %s", record(b, i))
		}
		w.Printf("\n")
		return
	}
	w.Printf("%d %s epoch %d:%s", n.ID, role, n.M.View().Epoch, mark(0))
	for _, b := range n.log {
		i, _ := batch.Parse(b)
		w.Printf(" %s%s", record(b, i), mark(i.Last+1))
	}
	w.Printf("\n")
}

// Code is the name of a Kafka error code.
func Code(c int16) string { return kerr.TypedErrorForCode(c).Message }

// Base is a batch's base offset.
func Base(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

// Batch is a batch of one record; its body is the value itself, which nobody below a
// client decodes.
func Batch(value string) []byte {
	b := make([]byte, batch.HeaderSize, batch.HeaderSize+len(value))
	b = append(b, value...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint64(b[43:], uint64(0xffffffffffffffff)) // batch.NoProducer
	binary.BigEndian.PutUint32(b[57:], 1)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func names(ids []broker.NodeID) string {
	s := make([]string, len(ids))
	for i, id := range ids {
		s[i] = id.String()
	}
	return "(" + strings.Join(s, ",") + ")"
}
