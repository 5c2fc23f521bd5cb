package scheme

import (
	"time"

	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/logindex"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Acks holds writes that wait until an offset is reached, in the order of
// their offsets. The zero value is ready.
type Acks struct{ waiting []waitingAck }

type waitingAck struct {
	token    uint64
	base     int64
	required int64 // the write is complete once the mark reaches this offset
	deadline time.Duration
}

// Add makes a write wait until the mark reaches required.
func (a *Acks) Add(token uint64, base, required int64, deadline time.Duration) {
	a.waiting = append(a.waiting, waitingAck{token, base, required, deadline})
}

// Reach answers every write that required at most mark, with code.
func (a *Acks) Reach(h Host, mark int64, code int16) {
	keep := a.waiting[:0]
	for _, w := range a.waiting {
		if w.required <= mark {
			h.Produced(w.token, Produced{Code: code, Base: w.base})
			continue
		}
		keep = append(keep, w)
	}
	a.waiting = keep
}

// Expire answers REQUEST_TIMED_OUT to writes whose time is over.
func (a *Acks) Expire(h Host) {
	now := h.Now().Mono
	keep := a.waiting[:0]
	for _, w := range a.waiting {
		if w.deadline <= now {
			h.Produced(w.token, Produced{Code: kerr.RequestTimedOut.Code, Base: -1})
			continue
		}
		keep = append(keep, w)
	}
	a.waiting = keep
}

// Abandon answers REQUEST_TIMED_OUT to all: the writes are in the log and may
// still take effect, so no other answer would be true.
func (a *Acks) Abandon(h Host) {
	for _, w := range a.waiting {
		h.Produced(w.token, Produced{Code: kerr.RequestTimedOut.Code, Base: -1})
	}
	a.waiting = nil
}

// Next is the earliest deadline, or Never.
func (a *Acks) Next() time.Duration {
	next := Never
	for _, w := range a.waiting {
		next = min(next, w.deadline)
	}
	return next
}

// Len is the number of waiting writes.
func (a *Acks) Len() int { return len(a.waiting) }

// Prepare decides what a write does to the log: it checks the producer's
// sequence (KIP-98), stamps offset and epoch, and appends. done is true where
// the write is answered already (refused);
// otherwise [base, end) is where it stands, appended now or before: a duplicate
// too is acknowledged only once its original is replicated.
func Prepare(h Host, p Produce, epoch int32) (base, end int64, done bool) {
	code := int16(0)
	c, original := h.Index().CheckSeq(p.Info)
	switch c {
	case logindex.SeqNext:
		base = h.Index().End()
		appendStamped(h, p, base, epoch)
		return base, h.Index().End(), false
	case logindex.SeqDuplicate:
		return original, original + p.Info.Last - p.Info.Base + 1, false
	case logindex.SeqStale, logindex.SeqGap:
		// Not DUPLICATE_SEQUENCE_NUMBER: clients take that for success, and nothing
		// says that what is older than the remembered batches is in the log.
		code = kerr.OutOfOrderSequenceNumber.Code
	case logindex.SeqFenced:
		code = kerr.InvalidProducerEpoch.Code
	}
	if p.Acks != 0 {
		h.Produced(p.Token, Produced{Code: code, Base: -1})
	}
	return 0, 0, true
}

func appendStamped(h Host, p Produce, base int64, epoch int32) {
	// A copy: the request's bytes belong to the client (in the simulator to
	// another part of the same process).
	b := append([]byte(nil), p.Batch...)
	batch.Stamp(b, base, epoch)
	info := p.Info
	info.Base, info.Last, info.Epoch = base, base+info.Last-info.Base, epoch
	h.Append([][]byte{b}, []batch.Info{info})
}
