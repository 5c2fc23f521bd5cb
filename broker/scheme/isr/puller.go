package isr

import (
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// puller is the follower's side: one fetch under way at a time. A fetch goes out
// only when all that was fetched before is stable, so its offset is an
// acknowledgement.
type puller struct {
	id     uint64
	flying bool
	wanted bool          // a fetch goes out as soon as the log is stable
	next   time.Duration // retry, or Never
	expire time.Duration // the fetch under way is given up
	cut    bool          // truncated in this epoch; for mutants alone
}

// follow begins to pull from the leader of the present epoch.
func (m *Machine) follow() {
	m.role = follower
	m.h.Emit(broker.Event{Kind: "follower", Epoch: m.a.Epoch, Leader: m.h.Name(m.a.Leader), Offset: m.h.Index().End()})
	m.h.Advanced()
	m.pull.stop()
	m.pull.cut = false
	if m.o.Mutants.On(mutant.TruncateToHighWatermark) {
		m.truncate(m.h.Index().LastEpoch(), m.high)
	}
	m.pull.send(m)
}

func (p *puller) stop() {
	p.flying, p.wanted = false, false
	p.next, p.expire = scheme.Never, scheme.Never
}

// send fetches from the log's end on, now or as soon as the log is stable.
func (p *puller) send(m *Machine) {
	x := m.h.Index()
	if m.h.Stable() < x.End() && !m.o.Mutants.On(mutant.FollowerAckBeforeSync) {
		p.wanted = true
		return
	}
	now := m.h.Now().Mono
	p.id++
	p.flying, p.wanted = true, false
	p.next, p.expire = scheme.Never, now+m.o.FetchWait+m.o.FetchExpire
	f := &Fetch{
		ID: p.id, Epoch: m.a.Epoch, BrokerEpoch: m.h.BrokerEpoch(), Offset: x.End(), Stable: m.h.Stable(), LastEpoch: x.LastEpoch(),
		High: m.high, Max: m.o.FetchBytes, Wait: m.o.FetchWait,
	}
	if m.o.Mutants.On(mutant.FollowerAckBeforeSync) {
		f.Stable = f.Offset
	}
	if p.cut && (m.o.Mutants.On(mutant.TruncateOnce) || m.o.Mutants.On(mutant.TruncateOneLess)) {
		f.LastEpoch = -1
	}
	m.h.Send(m.a.Leader, f, 0, 0, nil)
}

func (p *puller) stored(m *Machine) {
	if p.wanted {
		p.send(m)
	}
}

// link follows the streams to the leader and back: what was sent before one went
// down or came up may be lost, the fetch or its answer.
func (p *puller) link(m *Machine, up bool) {
	if up {
		p.send(m)
	} else if p.flying {
		p.retry(m)
	}
}

// retry fetches again after a back-off.
func (p *puller) retry(m *Machine) {
	p.flying, p.expire = false, scheme.Never
	p.next = m.h.Now().Mono + m.o.FetchRetry
}

func (p *puller) wake(m *Machine) {
	now := m.h.Now().Mono
	if p.flying && p.expire <= now {
		p.retry(m)
	}
	if p.next <= now {
		p.next = scheme.Never
		p.send(m)
	}
}

func (p *puller) answered(m *Machine, a *FetchAnswer) {
	if !p.flying || a.ID != p.id {
		return
	}
	p.flying, p.expire = false, scheme.Never
	switch {
	case a.Code != 0 || a.Epoch != m.a.Epoch && !m.o.Mutants.On(mutant.FetchAnyEpoch): // newer metadata will tell
		p.retry(m)
		return
	case a.Diverged:
		m.truncate(a.KnownEpoch, a.KnownEnd)
		p.cut = true
		p.send(m)
		return
	}
	if len(a.Data) > 0 && !m.replicate(a.Data) {
		p.retry(m)
		return
	}
	if high := min(a.High, m.h.Index().End()); high > m.high {
		m.high = high
		m.h.Advanced()
	}
	p.send(m)
}

// replicate appends what the leader sent, after checking every batch. A batch
// that fails is not taken, and is fetched again.
func (m *Machine) replicate(data []byte) bool {
	batches, infos, err := batch.Split(data)
	for i := range batches {
		if err == nil && !m.o.Mutants.On(mutant.ChecksumIgnored) {
			err = batch.Check(batches[i])
		}
	}
	x := m.h.Index()
	// Base offset and epoch stand outside a batch's checksum.
	end, epoch := x.End(), x.LastEpoch()
	for _, i := range infos {
		switch {
		case err != nil:
		case i.Base != end:
			err = fmt.Errorf("the leader sent offset %d, expected %d", i.Base, end)
		case i.Epoch < epoch || i.Epoch > m.a.Epoch:
			err = fmt.Errorf("the leader sent epoch %d at offset %d, after epoch %d, in epoch %d", i.Epoch, i.Base, epoch, m.a.Epoch)
		}
		end, epoch = i.Last+1, i.Epoch
	}
	if err != nil {
		m.h.Emit(broker.Event{Kind: "corrupt", Epoch: m.a.Epoch, Leader: m.h.Name(m.a.Leader), Offset: x.End(), Detail: "refused what the leader sent: " + err.Error()})
		return false
	}
	m.h.Append(batches, infos)
	return true
}

// truncate cuts the log where it parts from the leader's: known is the leader's
// largest epoch that is not above ours, end its end there. Where known is an
// epoch that this log does not have, only the part above its own lower epoch is
// cut, and the next fetch asks again with that one (KIP-279).
func (m *Machine) truncate(known int32, end int64) {
	x := m.h.Index()
	before := x.End()
	own, ownEnd := x.EpochEnd(known)
	to := min(end, ownEnd, before)
	switch {
	case m.o.Mutants.On(mutant.TruncateOnce):
		to = min(end, before)
	case own != known:
		to = min(ownEnd, before)
	}
	if m.o.Mutants.On(mutant.TruncateOneLess) {
		to++
	}
	after := m.h.Truncate(to)
	if after < before {
		m.h.Emit(broker.Event{
			Kind: "truncate", Epoch: m.a.Epoch, Leader: m.h.Name(m.a.Leader), From: after, To: before, Offset: m.high,
			Detail: fmt.Sprintf("diverged from %s: its epoch %d ends at %d, ours (%d) at %d", m.h.Name(m.a.Leader), known, end, own, ownEnd),
		})
	}
	if m.high > after {
		m.high = after
	}
}
