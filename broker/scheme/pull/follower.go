package pull

import (
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Follower is the follower's side: one fetch under way at a time. A fetch goes out
// only when all that was fetched before is stable, so its offset is an
// acknowledgement.
type Follower struct {
	// Cutting is called before records from an offset on are cut, Appending before
	// records of a first epoch are appended. Nil: nobody wants to know.
	Cutting   func(to int64)
	Appending func(epoch int32)

	// Matched: in this epoch the leader has found this log to be a part of its own.
	Matched bool

	h      scheme.Host
	o      scheme.Options
	high   *int64 // the machine's high watermark
	leader broker.NodeID
	epoch  int32

	id     uint64
	flying bool
	wanted bool          // a fetch goes out as soon as the log is stable
	next   time.Duration // retry, or Never
	expire time.Duration // the fetch under way is given up
	cut    bool          // truncated in this epoch; for mutants alone
}

// NewFollower returns a follower of nobody, whose high watermark is at high.
func NewFollower(h scheme.Host, o scheme.Options, high *int64) Follower {
	return Follower{h: h, o: o, high: high, leader: broker.None, epoch: -1, next: scheme.Never, expire: scheme.Never}
}

// Follow begins to pull from the leader of an epoch.
func (p *Follower) Follow(leader broker.NodeID, epoch int32) {
	p.Stop()
	p.leader, p.epoch, p.cut, p.Matched = leader, epoch, false, false
	if p.o.Mutants.On(mutant.TruncateToHighWatermark) {
		p.truncate(p.h.Index().LastEpoch(), *p.high)
	}
	p.send()
}

// Stop ends the pulling.
func (p *Follower) Stop() {
	p.flying, p.wanted = false, false
	p.next, p.expire = scheme.Never, scheme.Never
	p.leader = broker.None
}

// send fetches from the log's end on, now or as soon as the log is stable.
func (p *Follower) send() {
	x := p.h.Index()
	if p.h.Stable() < x.End() && !p.o.Mutants.On(mutant.FollowerAckBeforeSync) {
		p.wanted = true
		return
	}
	now := p.h.Now().Mono
	p.id++
	p.flying, p.wanted = true, false
	p.next, p.expire = scheme.Never, now+p.o.FetchWait+p.o.FetchExpire
	f := &Fetch{
		ID: p.id, Epoch: p.epoch, BrokerEpoch: p.h.BrokerEpoch(), Offset: x.End(), Stable: p.h.Stable(), LastEpoch: x.LastEpoch(),
		High: *p.high, Max: p.o.FetchBytes, Wait: p.o.FetchWait,
	}
	if p.o.Mutants.On(mutant.FollowerAckBeforeSync) {
		f.Stable = f.Offset
	}
	if p.cut && (p.o.Mutants.On(mutant.TruncateOnce) || p.o.Mutants.On(mutant.TruncateOneLess)) {
		f.LastEpoch = -1
	}
	p.h.Send(p.leader, f, 0, 0, nil)
}

// Stored tells that the log's stable end moved.
func (p *Follower) Stored() {
	if p.wanted {
		p.send()
	}
}

// Link follows the streams to the leader and back: what was sent before one went
// down or came up may be lost, the fetch or its answer.
func (p *Follower) Link(peer broker.NodeID, up bool) {
	switch {
	case peer != p.leader:
	case up:
		p.send()
	case p.flying:
		p.retry()
	}
}

// retry fetches again after a back-off.
func (p *Follower) retry() {
	p.flying, p.expire = false, scheme.Never
	p.next = p.h.Now().Mono + p.o.FetchRetry
}

// Wake lets time pass.
func (p *Follower) Wake() {
	now := p.h.Now().Mono
	if p.flying && p.expire <= now {
		p.retry()
	}
	if p.next <= now {
		p.next = scheme.Never
		p.send()
	}
}

// NextWake is when Wake has something to do.
func (p *Follower) NextWake() time.Duration { return min(p.next, p.expire) }

// Answered takes a leader's answer; advanced says that the high watermark moved.
func (p *Follower) Answered(from broker.NodeID, a *FetchAnswer) (advanced bool) {
	if from != p.leader || !p.flying || a.ID != p.id {
		return false
	}
	p.flying, p.expire = false, scheme.Never
	switch {
	case a.Code != 0 || a.Epoch != p.epoch && !p.o.Mutants.On(mutant.FetchAnyEpoch): // newer metadata will tell
		p.retry()
		return false
	case a.Diverged:
		p.truncate(a.KnownEpoch, a.KnownEnd)
		p.cut = true
		p.send()
		return false
	}
	if len(a.Data) > 0 && !p.replicate(a.Data) {
		p.retry()
		return false
	}
	p.Matched = true
	if high := min(a.High, p.h.Index().End()); high > *p.high {
		*p.high = high
		advanced = true
		p.h.Advanced()
	}
	p.send()
	return advanced
}

// replicate appends what the leader sent, after checking every batch. A batch
// that fails is not taken, and is fetched again.
func (p *Follower) replicate(data []byte) bool {
	batches, infos, err := batch.Split(data)
	for i := range batches {
		if err == nil && !p.o.Mutants.On(mutant.ChecksumIgnored) {
			err = batch.Check(batches[i])
		}
	}
	x := p.h.Index()
	// Base offset and epoch stand outside a batch's checksum.
	end, epoch := x.End(), x.LastEpoch()
	for _, i := range infos {
		switch {
		case err != nil:
		case i.Base != end:
			err = fmt.Errorf("the leader sent offset %d, expected %d", i.Base, end)
		case i.Epoch < epoch || i.Epoch > p.epoch:
			err = fmt.Errorf("the leader sent epoch %d at offset %d, after epoch %d, in epoch %d", i.Epoch, i.Base, epoch, p.epoch)
		}
		end, epoch = i.Last+1, i.Epoch
	}
	if err != nil {
		p.h.Emit(broker.Event{Kind: "corrupt", Epoch: p.epoch, Leader: p.h.Name(p.leader), Offset: x.End(), Detail: "refused what the leader sent: " + err.Error()})
		return false
	}
	if p.Appending != nil {
		p.Appending(infos[0].Epoch)
	}
	p.h.Append(batches, infos)
	return true
}

// truncate cuts the log where it parts from the leader's: known is the leader's
// largest epoch that is not above ours, end its end there. Where known is an
// epoch that this log does not have, only the part above its own lower epoch is
// cut, and the next fetch asks again with that one (KIP-279).
func (p *Follower) truncate(known int32, end int64) {
	x := p.h.Index()
	before := x.End()
	own, ownEnd := x.EpochEnd(known)
	to := min(end, ownEnd, before)
	switch {
	case p.o.Mutants.On(mutant.TruncateOnce):
		to = min(end, before)
	case own != known:
		to = min(ownEnd, before)
	}
	if p.o.Mutants.On(mutant.TruncateOneLess) {
		to++
	}
	if p.Cutting != nil && to < before {
		p.Cutting(to)
	}
	after := p.h.Truncate(to)
	if after < before {
		p.h.Emit(broker.Event{
			Kind: "truncate", Epoch: p.epoch, Leader: p.h.Name(p.leader), From: after, To: before, Offset: *p.high,
			Detail: fmt.Sprintf("diverged from %s: its epoch %d ends at %d, ours (%d) at %d", p.h.Name(p.leader), known, end, own, ownEnd),
		})
	}
	*p.high = min(*p.high, after)
}
