package logindex

import (
	"github.com/faultline-mq/faultline/broker/batch"
)

// remembered is how many batches of a producer can be recognised as sent again
// (Kafka: ProducerStateEntry.NUM_BATCHES_TO_RETAIN; it bounds max.in.flight to 5).
const remembered = 5

// Producer is what an idempotent producer wrote last to a partition.
type Producer struct {
	epoch   int16
	batches []batch.Info // the last ones, oldest first, at most remembered
}

// SeqCheck is the outcome of checking a batch's sequence numbers.
type SeqCheck uint8

// The outcomes.
const (
	SeqNext      SeqCheck = iota // in order: append it
	SeqDuplicate                 // it stands in the log already, at the offset returned
	SeqStale                     // older than what is remembered: it may stand in the log, or was lost from it
	SeqGap                       // out of order
	SeqFenced                    // of an older producer epoch
)

// CheckSeq checks a batch of an idempotent producer against the log; offset is
// the base offset of the original where it is a duplicate.
func (x *Index) CheckSeq(b batch.Info) (c SeqCheck, offset int64) {
	if b.ProducerID == batch.NoProducer {
		return SeqNext, -1
	}
	p := x.prods[b.ProducerID]
	if p == nil {
		// Unknown producer: its state may have been truncated away. Kafka takes any
		// first sequence since KIP-360.
		return SeqNext, -1
	}
	if b.ProducerEpoch < p.epoch {
		return SeqFenced, -1
	}
	if b.ProducerEpoch > p.epoch {
		if b.FirstSeq != 0 {
			return SeqGap, -1
		}
		return SeqNext, -1
	}
	for _, o := range p.batches {
		if o.FirstSeq == b.FirstSeq && o.LastSeq == b.LastSeq {
			return SeqDuplicate, o.Base
		}
	}
	last := p.batches[len(p.batches)-1]
	if b.FirstSeq == batch.AddSeq(last.LastSeq, 1) {
		return SeqNext, -1
	}
	if b.LastSeq <= last.LastSeq {
		return SeqStale, -1
	}
	return SeqGap, -1
}

func (x *Index) produced(b batch.Info) {
	if b.ProducerID == batch.NoProducer {
		return
	}
	if x.prods == nil {
		x.prods = make(map[int64]*Producer)
	}
	p := x.prods[b.ProducerID]
	if p == nil || b.ProducerEpoch > p.epoch {
		p = &Producer{epoch: b.ProducerEpoch}
		x.prods[b.ProducerID] = p
	}
	if len(p.batches) == remembered {
		copy(p.batches, p.batches[1:])
		p.batches = p.batches[:remembered-1]
	}
	p.batches = append(p.batches, b)
}
