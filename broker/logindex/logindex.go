// Package logindex is what a node keeps in memory of one partition's log: where
// its batches stand, under which leader epochs they were appended, and what
// idempotent producers wrote last. The bytes are the driver's.
package logindex

import (
	"slices"
	"sort"

	"github.com/faultline-mq/faultline/broker/batch"
)

// Index is the index of one log. The zero value is an empty log from offset 0.
type Index struct {
	start   int64
	end     int64 // log end offset: one past the last record
	batches []batch.Info
	epochs  []EpochStart
	prods   map[int64]*Producer
}

// EpochStart is the first offset of a leader epoch.
type EpochStart struct {
	Epoch int32
	Start int64
}

// New returns the index of a log that begins at start and holds batches, in order.
func New(start int64, batches []batch.Info) *Index {
	x := &Index{start: start, end: start, batches: make([]batch.Info, 0, len(batches)+len(batches)/4)}
	for _, b := range batches {
		x.Append(b)
	}
	return x
}

// Start is the first offset of the log.
func (x *Index) Start() int64 { return x.start }

// End is the log end offset: the next record's.
func (x *Index) End() int64 { return x.end }

// Append adds a batch; its Base must be at or after End.
func (x *Index) Append(b batch.Info) {
	if n := len(x.batches); n == cap(x.batches) {
		x.batches = slices.Grow(x.batches, max(64, n)) // append would copy a long index more often
	}
	x.batches = append(x.batches, b)
	x.end = b.Last + 1
	x.assign(b.Epoch, b.Base)
	x.produced(b)
}

// StartEpoch notes that epoch begins at the present end, as a new leader does
// before its first append.
func (x *Index) StartEpoch(epoch int32) { x.assign(epoch, x.end) }

// assign notes that epoch begins at start. An epoch that got no record gives way,
// also to a lower one: a replica that led an epoch without a write may then follow
// a leader whose log has records of an epoch in between (Kafka:
// LeaderEpochFileCache.maybeTruncateNonMonotonicEntries).
func (x *Index) assign(epoch int32, start int64) {
	n := len(x.epochs)
	for n > 0 && (x.epochs[n-1].Epoch > epoch || x.epochs[n-1].Epoch < epoch && x.epochs[n-1].Start >= start) {
		n--
	}
	x.epochs = x.epochs[:n]
	if n == 0 || x.epochs[n-1].Epoch < epoch {
		x.epochs = append(x.epochs, EpochStart{epoch, start})
	}
}

// LastEpoch is the epoch of the last batch, -1 for an empty log.
func (x *Index) LastEpoch() int32 {
	if n := len(x.batches); n > 0 {
		return x.batches[n-1].Epoch
	}
	return -1
}

// EpochEnd answers OffsetForLeaderEpoch: the largest epoch known that is not
// above epoch, and its end offset. Known is -1 where every epoch of this log is
// above the one asked for; the end is then the start of the log. (KIP-101, KIP-279)
func (x *Index) EpochEnd(epoch int32) (known int32, end int64) {
	i := sort.Search(len(x.epochs), func(i int) bool { return x.epochs[i].Epoch > epoch })
	end = x.end
	if i < len(x.epochs) {
		end = x.epochs[i].Start
	}
	if i == 0 {
		return -1, max(x.start, min(end, x.end))
	}
	return x.epochs[i-1].Epoch, end
}

// Truncate removes every record from offset to on, whole batches: a batch that
// contains to goes too. It returns the new end and rebuilds producer states.
func (x *Index) Truncate(to int64) int64 {
	if to >= x.end {
		return x.end
	}
	to = max(to, x.start)
	n := sort.Search(len(x.batches), func(i int) bool { return x.batches[i].Last >= to })
	x.batches = slices.Clip(x.batches[:n])
	x.end = x.start
	if n > 0 {
		x.end = x.batches[n-1].Last + 1
	}
	for len(x.epochs) > 0 && x.epochs[len(x.epochs)-1].Start >= x.end {
		x.epochs = x.epochs[:len(x.epochs)-1]
	}
	x.prods = nil
	for _, b := range x.batches {
		x.produced(b)
	}
	return x.end
}

// Range returns the offsets [from, to) of whole batches to read: from the batch
// that contains offset on, up to limit (exclusive) and about maxBytes, at least
// one batch. from == to: nothing to read.
func (x *Index) Range(offset, limit int64, maxBytes int) (from, to int64, bytes int) {
	i := sort.Search(len(x.batches), func(i int) bool { return x.batches[i].Last >= offset })
	from, to = offset, offset
	for ; i < len(x.batches); i++ {
		b := x.batches[i]
		if b.Last >= limit || (bytes > 0 && bytes+int(b.Size) > maxBytes) {
			break
		}
		if bytes == 0 {
			from = b.Base
		}
		to = b.Last + 1
		bytes += int(b.Size)
	}
	return from, to, bytes
}

// EpochAt is the leader epoch of the batch that contains offset, -1 where none does.
func (x *Index) EpochAt(offset int64) int32 {
	i := sort.Search(len(x.batches), func(i int) bool { return x.batches[i].Last >= offset })
	if i < len(x.batches) && x.batches[i].Base <= offset {
		return x.batches[i].Epoch
	}
	return -1
}

// BatchEnd is the end of the batch that contains offset, offset itself where none does.
func (x *Index) BatchEnd(offset int64) int64 {
	i := sort.Search(len(x.batches), func(i int) bool { return x.batches[i].Last >= offset })
	if i < len(x.batches) && x.batches[i].Base <= offset {
		return x.batches[i].Last + 1
	}
	return offset
}

// ByTimestamp returns the first batch with a record at or after ts
// (milliseconds) below limit; ok is false where there is none.
func (x *Index) ByTimestamp(ts, limit int64) (b batch.Info, ok bool) {
	for _, b := range x.batches {
		if b.Last >= limit {
			break
		}
		if b.MaxTimestamp >= ts {
			return b, true
		}
	}
	return batch.Info{}, false
}
