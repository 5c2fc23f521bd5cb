package pull

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Leader is what a leader knows of its followers. It has none while it does not lead.
type Leader struct {
	h       scheme.Host
	o       scheme.Options
	high    *int64 // the machine's high watermark
	Epoch   int32
	Remotes []*Remote
}

// Remote is one follower.
type Remote struct {
	ID          broker.NodeID
	BrokerEpoch int64
	End         int64 // its log end, -1: has not fetched in this epoch
	Stable      int64
	CaughtUp    time.Duration // last moment at which it had all that the leader had
	Heard       time.Duration // its newest fetch; -1: none in this epoch
	fetchedAt   time.Duration // its previous fetch, and the leader's log end then
	endThen     int64
	parked      *Fetch
	parkedUntil time.Duration
}

// NewLeader returns a leader without followers, whose high watermark is at high.
func NewLeader(h scheme.Host, o scheme.Options, high *int64) Leader {
	return Leader{h: h, o: o, high: high, Epoch: -1}
}

// Find returns a follower, nil where it is none.
func (l *Leader) Find(id broker.NodeID) *Remote {
	if i := slices.IndexFunc(l.Remotes, func(r *Remote) bool { return r.ID == id }); i >= 0 {
		return l.Remotes[i]
	}
	return nil
}

// Know makes followers of what replicas there are: one that came has shown nothing
// yet, and one that left is answered no more.
func (l *Leader) Know(replicas []broker.NodeID) {
	now := l.h.Now().Mono
	var remotes []*Remote
	for _, id := range replicas {
		if id == l.h.Self() {
			continue
		}
		r := l.Find(id)
		if r == nil {
			r = &Remote{ID: id, End: -1, Stable: -1, BrokerEpoch: -1, CaughtUp: now, Heard: -1, fetchedAt: now}
		}
		remotes = append(remotes, r)
	}
	for _, r := range l.Remotes {
		if !slices.Contains(remotes, r) {
			l.turnAway(r)
		}
	}
	l.Remotes = remotes
}

// Dismiss forgets the followers of an epoch that is over.
func (l *Leader) Dismiss() {
	for _, r := range l.Remotes {
		l.turnAway(r)
	}
	l.Remotes = nil
}

// turnAway ends a follower's wait without records.
func (l *Leader) turnAway(r *Remote) {
	l.answer(r, FetchAnswer{Code: kerr.NotLeaderForPartition.Code, Epoch: l.Epoch, High: -1}, 0, 0)
}

// Take takes a follower's fetch. One that is refused is answered, and nil comes back.
// Where the logs part, the caller ends with Diverged, otherwise with Serve.
func (l *Leader) Take(from broker.NodeID, f *Fetch) (r *Remote, diverged bool) {
	r = l.Find(from)
	var refusal *kerr.Error
	switch {
	case r == nil:
		refusal = kerr.NotLeaderForPartition
	case l.o.Mutants.On(mutant.FetchAnyEpoch):
	case f.Epoch < l.Epoch:
		refusal = kerr.FencedLeaderEpoch
	case f.Epoch > l.Epoch:
		refusal = kerr.UnknownLeaderEpoch
	case f.BrokerEpoch < r.BrokerEpoch:
		refusal = kerr.StaleBrokerEpoch
	}
	if refusal != nil {
		l.h.Send(from, &FetchAnswer{ID: f.ID, Epoch: l.Epoch, Code: refusal.Code, High: -1}, 0, 0, nil)
		return nil, false
	}
	now := l.h.Now().Mono
	r.Heard = now
	r.parked = nil // a follower has one fetch under way: an earlier one is given up
	if _, _, parts := l.parts(f); parts {
		return r, true
	}
	x := l.h.Index()
	switch {
	case f.Stable >= x.End():
		r.CaughtUp = max(r.CaughtUp, now)
	case f.Stable >= r.endThen && r.End >= 0:
		r.CaughtUp = max(r.CaughtUp, r.fetchedAt)
	}
	r.fetchedAt, r.endThen = now, x.End()
	r.BrokerEpoch, r.End, r.Stable = f.BrokerEpoch, f.Offset, min(f.Stable, f.Offset)
	r.park(f, now+min(f.Wait, l.o.FetchWait))
	return r, false
}

// parts finds where a follower's log parts from this one.
func (l *Leader) parts(f *Fetch) (known int32, end int64, parts bool) {
	x := l.h.Index()
	if f.LastEpoch < 0 && f.Offset <= x.End() || l.o.Mutants.On(mutant.NoDivergenceCheck) {
		return 0, 0, false
	}
	known, end = x.EpochEnd(f.LastEpoch)
	return known, end, known < f.LastEpoch || end < f.Offset
}

// Diverged tells a follower where its log parts from this one.
func (l *Leader) Diverged(r *Remote, f *Fetch) {
	known, end, _ := l.parts(f)
	r.park(f, 0)
	l.answer(r, FetchAnswer{Epoch: l.Epoch, High: *l.high, Diverged: true, KnownEpoch: known, KnownEnd: end}, 0, 0)
}

func (r *Remote) park(f *Fetch, until time.Duration) { r.parked, r.parkedUntil = f, until }

// Serve answers a parked fetch if there is something to say: records, a higher
// watermark, or the end of its wait.
func (l *Leader) Serve(r *Remote) {
	f := r.parked
	if f == nil {
		return
	}
	x := l.h.Index()
	from, to, _ := x.Range(f.Offset, x.End(), min(f.Max, l.o.FetchBytes))
	if from == to && min(*l.high, f.Offset) <= f.High && l.h.Now().Mono < r.parkedUntil {
		return
	}
	l.answer(r, FetchAnswer{Epoch: l.Epoch, High: *l.high}, from, to)
}

// Meet answers a parked fetch at once, with nothing if there is nothing: the follower
// learns that the logs match.
func (l *Leader) Meet(r *Remote) {
	r.parkedUntil = l.h.Now().Mono
	l.Serve(r)
}

// ServeParked serves all followers.
func (l *Leader) ServeParked() {
	for _, r := range l.Remotes {
		l.Serve(r)
	}
}

// NextWake is when the first parked fetch has waited long enough.
func (l *Leader) NextWake() time.Duration {
	next := scheme.Never
	for _, r := range l.Remotes {
		if r.parked != nil {
			next = min(next, r.parkedUntil)
		}
	}
	return next
}

func (l *Leader) answer(r *Remote, a FetchAnswer, from, to int64) {
	if r.parked == nil {
		return
	}
	a.ID = r.parked.ID
	r.parked = nil
	l.h.Send(r.ID, &a, from, to, &a.Data)
}
