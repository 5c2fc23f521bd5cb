package multimaster

import (
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme/origin"
)

// peer is what this node knows of another one.
type peer struct {
	id    broker.NodeID
	up    bool  // it is in reach
	known bool  // its marks came since it was met
	start int64 // in which it told them
	have  origin.Vector
	sent  origin.Vector // what is on its way to it, or there
	live  int64         // offset up to which own writes were sent as they came
	// behind: everything before this offset is on its disk.
	behind int64
	// catching up: it is sent whatever it lacks, and more with every confirmation.
	catching bool
	due      origin.Vector // what this node had when it compared last
	before   origin.Vector // and what the other one had then
}

func (m *Machine) peer(id broker.NodeID) *peer {
	for _, p := range m.peers {
		if p.id == id {
			return p
		}
	}
	return nil
}

// meet begins with a node that came into reach.
func (m *Machine) meet(p *peer) {
	p.up, p.known, p.sent, p.catching = true, false, nil, false
	p.live, p.behind, p.due, p.before = m.h.Index().End(), m.h.Index().Start(), nil, nil
	m.tell(p, true)
}

func (m *Machine) lose(p *peer) {
	p.up, p.known = false, false
	m.side = slices.DeleteFunc(m.side, func(id broker.NodeID) bool { return id == p.id })
}

// tell sends this node's marks.
func (m *Machine) tell(p *peer, met bool) {
	if !p.up {
		return
	}
	msg := &Marks{Start: m.last.Start, Have: slices.Clone(m.stable), Met: met}
	if met {
		msg.Fresh, msg.Side = m.fresh, slices.Clone(m.side)
	}
	m.h.Send(p.id, msg, 0, 0, nil)
}

// marks takes what another node has.
func (m *Machine) marks(p *peer, b *Marks) {
	if b.Met && !m.opts.Union {
		m.join(p.id, b)
	}
	first := !p.known
	if p.start != b.Start || first {
		// It may have less than when it was met last.
		p.start, p.have, p.sent, p.behind = b.Start, nil, nil, m.h.Index().Start()
		first = true
	}
	for _, k := range b.Have {
		if p.have.Of(k) < k.N {
			p.have.Set(k)
		}
	}
	p.known = p.up
	if b.Met {
		m.tell(p, false)
	}
	if first && p.up {
		p.sent, p.catching = nil, true
	}
	if p.catching {
		m.feed(p, p.behind, true)
	}
	m.sequence()
	m.raise()
	m.h.Advanced()
}

// join is heal=none: of two sides that meet the smaller one begins anew with what the
// other one has, and so does a node that just started.
func (m *Machine) join(id broker.NodeID, b *Marks) {
	theirs := append(slices.Clone(b.Side), m.h.Self())
	lose := func() {
		m.discard(id)
		m.fresh, m.side = false, theirs
	}
	switch {
	case slices.Contains(m.side, id):
		return
	case slices.Contains(b.Side, m.h.Self()), b.Fresh && !m.fresh:
	case m.fresh && !b.Fresh:
		lose()
		return
	case !m.fresh && (len(b.Side) > len(m.side) || len(b.Side) == len(m.side) && slices.Min(b.Side) < slices.Min(m.side)):
		lose()
		return
	}
	m.side = append(m.side, id)
	m.fresh = m.fresh && len(m.side) < len(m.a.Peers.Members)
}

// discard throws the log away.
func (m *Machine) discard(from broker.NodeID) {
	m.abandon()
	x := m.h.Index()
	if end := x.End(); end > x.Start() {
		after := m.h.Truncate(x.Start())
		m.h.Emit(broker.Event{
			Kind: "truncate", Epoch: -1, Leader: m.h.Name(from), From: after, To: end, Offset: end,
			Detail: fmt.Sprintf("begins anew with what the side of %s has (heal=none)", m.h.Name(from)),
		})
	}
	m.have, m.stable, m.unstable = nil, nil, nil
	m.begin() // the others see by it that the former log is gone
	for _, p := range m.peers {
		p.sent, p.live, p.behind, p.due, p.before = nil, x.End(), x.Start(), nil, nil
		m.tell(p, false)
	}
}

// compare is the anti-entropy: what another node has lacked since the last time is sent to
// it, whoever wrote it.
func (m *Machine) compare(p *peer) {
	if !p.up {
		return
	}
	m.tell(p, !p.known)
	if p.known && !p.have.Covers(p.due) {
		// A stream that did not get on meanwhile was lost on its way.
		for i := range p.sent {
			if p.have.Of(p.sent[i]) == p.before.Of(p.sent[i]) {
				p.sent[i].N = p.have.Of(p.sent[i])
			}
		}
		p.catching = true
		m.feed(p, p.behind, true)
	}
	p.due, p.before = slices.Clone(m.have), slices.Clone(p.have)
}

// pushes bounds what is sent at once to a node that catches up.
const pushes = 16

// feed sends what a node lacks from an offset on: everything, or this node's own. A
// sequencer passes on everything in its order.
func (m *Machine) feed(p *peer, from int64, all bool) {
	if !p.known {
		return
	}
	x := m.h.Index()
	run := &Push{}
	begin, end, size, sent := int64(0), x.End(), 0, 0
	flush := func(to int64) {
		if len(run.Names) > 0 {
			m.h.Send(p.id, run, begin, to, &run.Data)
			run, size = &Push{}, 0
			sent++
		}
	}
	covered, lacks := from <= p.behind, false
	for _, b := range x.Batches(from) {
		if all && b.Base >= m.h.Stable() && m.o.Mutants.On(mutant.JoinGap) {
			end = b.Base
			break
		}
		k := origin.Of(b.Origin, b.OriginSeq)
		if covered = covered && p.have.Holds(k); covered {
			p.behind = max(p.behind, b.Last+1)
		}
		lacks = lacks || !p.have.Holds(k)
		there := max(p.have.Of(k), p.sent.Of(k))
		next := k.N == there+1 || k.N > there && !all && m.o.Mutants.On(mutant.JoinGap)
		if !next || !all && k.Node != m.h.Self() && !m.opts.Total || all && sent == pushes {
			flush(b.Base)
			continue
		}
		if size+int(b.Size) > m.o.FetchBytes {
			flush(b.Base)
		}
		if len(run.Names) == 0 {
			begin = b.Base
		}
		run.Names, size = append(run.Names, Name{k.Node, k.Seq()}), size+int(b.Size)
		p.sent.Set(k)
	}
	flush(end)
	if !all || sent < pushes {
		p.live = max(p.live, x.End())
	}
	p.catching = p.catching && (!all || lacks)
}

// pushed takes what is the next of its stream.
func (m *Machine) pushed(p *peer, b *Push) {
	if !m.opts.Union && !slices.Contains(m.side, p.id) {
		return
	}
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
		m.h.Emit(broker.Event{Kind: "corrupt", Epoch: -1, Leader: m.h.Name(p.id), Offset: m.h.Index().End(), Detail: "refused what was sent: " + err.Error()})
		return
	}
	n := 0
	var marks []origin.Mark
	seen := slices.Clone(m.have)
	for i, name := range b.Names {
		k := origin.Of(int32(name.Node), name.Seq)
		if k.N != seen.Of(k)+1 && !(k.N > seen.Of(k) && m.o.Mutants.On(mutant.JoinGap)) {
			continue // it is here, or what comes before it is not
		}
		seen.Set(k)
		batches[n], infos[n] = batches[i], infos[i]
		marks = append(marks, k)
		n++
	}
	if n == 0 {
		return
	}
	m.append(batches[:n], infos[:n], marks)
	for _, o := range m.peers {
		if m.opts.Total && m.sequencer() == m.h.Self() {
			m.feed(o, o.live, false)
		}
	}
	m.h.Advanced()
}
