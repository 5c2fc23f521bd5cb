package mirrored

import (
	"fmt"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/mutant"
)

// copying is a mirror's side. It outlives the master: the next one asks for it.
type copying struct {
	begun  bool
	from   broker.NodeID // whose stream it is
	stream uint64
	// delta is what lies between the master's offsets and those here: a mirror that is
	// not synchronised begins its own log where it came.
	delta int64
}

// probed tells a new master what is here. A node that has not seen yet who is master
// is asked again.
func (m *Machine) probed(from broker.NodeID, p *Probe) {
	if from == m.rec.Master {
		m.copying.stream = 0 // what the former master still sends must not be confirmed any more
		m.h.Send(from, &Tail{Stream: p.Stream, End: m.h.Index().End(), Whole: m.role == mirror && m.copying.begun && m.delta == 0}, 0, 0, nil)
	}
}

func (m *Machine) pulled(from broker.NodeID, p *Pull) {
	if from == m.rec.Master && m.role == mirror {
		r := &Rest{Stream: p.Stream}
		m.h.Send(from, r, p.From, m.h.Index().End(), &r.Data)
	}
}

// started takes the begin of the master's stream.
func (m *Machine) started(from broker.NodeID, b *Begin) {
	if from != m.rec.Master || from == m.h.Self() {
		return
	}
	if m.role == master {
		m.resign()
	}
	if m.role != mirror || m.copying.from != from {
		m.h.Emit(broker.Event{Kind: "follower", Epoch: -1, Leader: m.h.Name(from), Offset: m.h.Index().End()})
	}
	m.role = mirror
	switch {
	case b.Keep:
		b.From = max(b.From, m.delta+m.h.Index().End())
	case m.o.Mutants.On(mutant.RejoinKeeps):
		m.delta = max(0, b.From-m.h.Index().End())
	default:
		m.discard(from)
		m.delta = b.From - m.h.Index().End()
	}
	m.copying = copying{begun: true, from: from, stream: b.Stream, delta: m.delta}
	m.h.Advanced()
	m.confirm()
}

// discard throws the content away.
func (m *Machine) discard(from broker.NodeID) {
	end := m.h.Index().End()
	if end == m.h.Index().Start() {
		return
	}
	after := m.h.Truncate(m.h.Index().Start())
	m.h.Emit(broker.Event{
		Kind: "truncate", Epoch: -1, Leader: m.h.Name(from), From: after, To: end, Offset: end,
		Detail: fmt.Sprintf("begins empty as a mirror of %s: it cannot know whether it diverged", m.h.Name(from)),
	})
}

func (m *Machine) pushed(from broker.NodeID, p *Push) {
	if m.role != mirror || from != m.copying.from || p.Stream != m.copying.stream { // streams are numbered from 1
		return
	}
	m.take(p.Data, m.delta+m.h.Index().End(), m.delta)
}

// take appends records of another node, less those that are here already. expected is
// the sender's offset of what comes next, delta how far its offsets are ahead.
func (m *Machine) take(data []byte, expected, delta int64) bool {
	batches, infos, err := batch.Split(data)
	for i := range batches {
		if err == nil {
			err = batch.Check(batches[i])
		}
	}
	skip := 0
	for i := range infos {
		if err == nil && infos[i].Last < expected {
			skip = i + 1
		}
	}
	batches, infos = batches[min(skip, len(batches)):], infos[min(skip, len(infos)):]
	for i := range infos {
		if err == nil && infos[i].Base != expected {
			err = fmt.Errorf("offset %d came, expected %d", infos[i].Base, expected)
		}
		expected = infos[i].Last + 1
		if err == nil && delta != 0 {
			infos[i].Base -= delta
			infos[i].Last -= delta
			batch.Stamp(batches[i], infos[i].Base, infos[i].Epoch)
		}
	}
	if err != nil {
		m.h.Emit(broker.Event{Kind: "corrupt", Epoch: -1, Leader: m.h.Name(m.rec.Master), Offset: m.h.Index().End(), Detail: "refused what was sent: " + err.Error()})
		return false
	}
	if len(batches) > 0 {
		m.h.Append(batches, infos)
	}
	return true
}

// confirm tells the master what is stable here.
func (m *Machine) confirm() {
	if m.copying.begun && m.live(m.copying.from) {
		m.h.Send(m.copying.from, &Have{Stream: m.copying.stream, End: m.delta + m.h.Stable()}, 0, 0, nil)
	}
}
