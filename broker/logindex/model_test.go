package logindex_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/logindex"
)

// naive is a log as a plain list of batches, with every question answered by
// looking at all of it.
type naive struct {
	batches []batch.Info
	started []logindex.EpochStart // epochs begun without a record since, newest last
}

func (n *naive) end() int64 {
	if len(n.batches) == 0 {
		return 0
	}
	return n.batches[len(n.batches)-1].Last + 1
}

func (n *naive) append(b batch.Info) {
	n.batches = append(n.batches, b)
	n.started = nil
}

func (n *naive) truncate(to int64) {
	if to >= n.end() {
		return
	}
	for len(n.batches) > 0 && n.batches[len(n.batches)-1].Last >= to {
		n.batches = n.batches[:len(n.batches)-1]
	}
	n.started = nil
}

// epochEnd: the largest epoch not above the one asked for, and the start of the next.
func (n *naive) epochEnd(epoch int32) (int32, int64) {
	known, end := int32(-1), n.end()
	for _, b := range n.batches {
		if b.Epoch <= epoch {
			known = b.Epoch
		} else {
			end = b.Base
			break
		}
	}
	if len(n.started) > 0 {
		if s := n.started[len(n.started)-1]; s.Epoch <= epoch {
			known = s.Epoch
		}
	}
	if known == -1 && len(n.batches) > 0 && n.batches[0].Epoch > epoch {
		end = 0
	}
	return known, end
}

// checkSeq is KIP-98's rule over the batches of the producer's newest epoch.
func (n *naive) checkSeq(b batch.Info) (logindex.SeqCheck, int64) {
	var own []batch.Info
	for _, o := range n.batches {
		if o.ProducerID != b.ProducerID {
			continue
		}
		if len(own) > 0 && o.ProducerEpoch > own[0].ProducerEpoch {
			own = nil
		}
		own = append(own, o)
	}
	if b.ProducerID == batch.NoProducer || len(own) == 0 {
		return logindex.SeqNext, -1
	}
	switch last := own[len(own)-1]; {
	case b.ProducerEpoch < last.ProducerEpoch:
		return logindex.SeqFenced, -1
	case b.ProducerEpoch > last.ProducerEpoch && b.FirstSeq == 0:
		return logindex.SeqNext, -1
	case b.ProducerEpoch > last.ProducerEpoch:
		return logindex.SeqGap, -1
	case b.FirstSeq == last.LastSeq+1:
		return logindex.SeqNext, -1
	}
	for _, o := range own[max(0, len(own)-5):] {
		if o.FirstSeq == b.FirstSeq && o.LastSeq == b.LastSeq {
			return logindex.SeqDuplicate, o.Base
		}
	}
	if b.LastSeq <= own[len(own)-1].LastSeq {
		return logindex.SeqStale, -1
	}
	return logindex.SeqGap, -1
}

// TestModel compares the index with the naive log under random appends,
// truncations and changes of epoch.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, n := logindex.New(0, nil), &naive{}
		epoch := int32(0)
		draw := func(base int64) batch.Info {
			b := batch.Info{
				Base: base, Last: base + int64(rapid.IntRange(0, 3).Draw(t, "records")), Epoch: epoch,
				Size: int32(rapid.IntRange(70, 300).Draw(t, "size")), ProducerID: int64(rapid.IntRange(-1, 1).Draw(t, "producer")),
				MaxTimestamp: int64(rapid.IntRange(0, 50).Draw(t, "timestamp")),
			}
			b.FirstSeq, b.LastSeq = -1, -1
			if b.ProducerID >= 0 {
				b.ProducerEpoch = int16(rapid.IntRange(0, 2).Draw(t, "producer epoch"))
				b.FirstSeq = int32(rapid.IntRange(0, 12).Draw(t, "sequence"))
				b.LastSeq = b.FirstSeq + int32(b.Last-b.Base)
			}
			return b
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				b := draw(x.End())
				want, original := n.checkSeq(b)
				got, offset := x.CheckSeq(b)
				require.Equal(t, want, got)
				require.Equal(t, original, offset)
				if got == logindex.SeqNext {
					x.Append(b)
					n.append(b)
				}
			},
			"lead": func(*rapid.T) {
				epoch++
				x.StartEpoch(epoch)
				n.started = append(n.started, logindex.EpochStart{Epoch: epoch, Start: n.end()})
			},
			"follow": func(t *rapid.T) {
				// Records of a lower epoch than one that this replica led without a write.
				last := int32(0)
				if k := len(n.batches); k > 0 {
					last = n.batches[k-1].Epoch
				}
				epoch = last + int32(rapid.IntRange(0, 2).Draw(t, "later"))
				b := draw(x.End())
				b.ProducerID, b.FirstSeq, b.LastSeq = batch.NoProducer, -1, -1
				x.Append(b)
				n.append(b)
			},
			"truncate": func(t *rapid.T) {
				to := rapid.Int64Range(0, x.End()+2).Draw(t, "to")
				n.truncate(to)
				require.Equal(t, n.end(), x.Truncate(to))
			},
			"": func(t *rapid.T) {
				require.Equal(t, n.end(), x.End())
				last := int32(-1)
				if k := len(n.batches); k > 0 {
					last = n.batches[k-1].Epoch
				}
				require.Equal(t, last, x.LastEpoch())
				for e := int32(-1); e <= epoch+1; e++ {
					wantKnown, wantEnd := n.epochEnd(e)
					known, end := x.EpochEnd(e)
					require.Equal(t, [2]int64{int64(wantKnown), wantEnd}, [2]int64{int64(known), end}, "end of epoch %d", e)
				}
				n.sameReads(t, x)
			},
		})
		// What is rebuilt from the batches alone, as at a start, knows the same.
		fresh := logindex.New(0, n.batches)
		require.Equal(t, n.end(), fresh.End())
		for id := int64(0); id <= 1; id++ {
			b := batch.Info{ProducerID: id, ProducerEpoch: 1, FirstSeq: 3, LastSeq: 3}
			want, _ := n.checkSeq(b)
			got, _ := fresh.CheckSeq(b)
			require.Equal(t, want, got)
		}
	})
}

func (n *naive) sameReads(t *rapid.T, x *logindex.Index) {
	offset := rapid.Int64Range(0, n.end()+1).Draw(t, "offset")
	limit := rapid.Int64Range(0, n.end()).Draw(t, "limit")
	size := rapid.IntRange(0, 900).Draw(t, "bytes")
	from, to, total := offset, offset, 0
	epochAt := int32(-1)
	for _, b := range n.batches {
		if b.Base <= offset && offset <= b.Last {
			epochAt = b.Epoch
		}
		if b.Last < offset {
			continue
		}
		if b.Last >= limit || total > 0 && total+int(b.Size) > size {
			break
		}
		if total == 0 {
			from = b.Base
		}
		to, total = b.Last+1, total+int(b.Size)
	}
	gotFrom, gotTo, gotBytes := x.Range(offset, limit, size)
	require.Equal(t, []int64{from, to, int64(total)}, []int64{gotFrom, gotTo, int64(gotBytes)}, "range of %d below %d, %d bytes", offset, limit, size)
	require.Equal(t, epochAt, x.EpochAt(offset))

	ts := rapid.Int64Range(0, 55).Draw(t, "time")
	want, found := int64(0), false
	for _, b := range n.batches {
		if b.Last < limit && b.MaxTimestamp >= ts {
			want, found = b.Base, true
			break
		}
	}
	b, ok := x.ByTimestamp(ts, limit)
	require.Equal(t, found, ok)
	if ok {
		require.Equal(t, want, b.Base)
	}
}

// TestSequenceWraps: after 2^31-1 comes 0.
func TestSequenceWraps(t *testing.T) {
	x := logindex.New(0, []batch.Info{{ProducerID: 1, FirstSeq: 1<<31 - 2, LastSeq: batch.AddSeq(1<<31-2, 1), Last: 1}})
	c, _ := x.CheckSeq(batch.Info{ProducerID: 1, FirstSeq: 0, LastSeq: 0})
	require.Equal(t, logindex.SeqNext, c)
	c, _ = x.CheckSeq(batch.Info{ProducerID: 1, FirstSeq: 1, LastSeq: 1})
	require.NotEqual(t, logindex.SeqNext, c)
}
