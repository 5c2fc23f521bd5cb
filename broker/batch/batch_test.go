package batch_test

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker/batch"
)

// encode makes a batch as a client does, with kmsg's own encoder.
func encode(values []string, change func(*kmsg.RecordBatch)) []byte {
	var records []byte
	for i, v := range values {
		r := kmsg.Record{OffsetDelta: int32(i), Value: []byte(v)}
		body := r.AppendTo(nil)[1:] // without the length 0, which has one byte
		r.Length = int32(len(body))
		records = r.AppendTo(records)
	}
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(values) - 1), FirstTimestamp: 1000, MaxTimestamp: 1234,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(len(values)), Records: records,
	}
	if change != nil {
		change(&b)
	}
	b.Length = int32(len(b.AppendTo(nil)) - 12)
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

func TestParseReadsTheHeader(t *testing.T) {
	raw := encode([]string{"a", "b", "c"}, func(b *kmsg.RecordBatch) {
		b.FirstOffset, b.ProducerID, b.ProducerEpoch, b.FirstSequence, b.PartitionLeaderEpoch = 40, 7, 2, 11, 5
	})
	info, err := batch.Parse(raw)
	require.NoError(t, err)
	require.NoError(t, batch.Check(raw))
	require.Equal(t, batch.Info{
		Base: 40, Last: 42, Epoch: 5, Size: int32(len(raw)), ProducerID: 7, ProducerEpoch: 2, FirstSeq: 11, LastSeq: 13, MaxTimestamp: 1234, Records: 3,
	}, info)
	require.False(t, batch.Internal(raw))
}

// TestStamp: base offset and epoch change, the checksum holds.
func TestStamp(t *testing.T) {
	raw := encode([]string{"a", "b"}, nil)
	batch.Stamp(raw, 1<<40, 9)
	info, err := batch.Parse(raw)
	require.NoError(t, err)
	require.NoError(t, batch.Check(raw))
	require.Equal(t, int64(1<<40+1), info.Last)
	require.Equal(t, int32(9), info.Epoch)
}

func TestRefused(t *testing.T) {
	good := encode([]string{"a", "b"}, nil)
	cases := []struct {
		name  string
		spoil func(b []byte) []byte
		parse error
		check error
	}{
		{name: "empty", spoil: func([]byte) []byte { return nil }, parse: batch.ErrShort, check: batch.ErrShort},
		{name: "cut in the header", spoil: func(b []byte) []byte { return b[:60] }, parse: batch.ErrShort, check: batch.ErrShort},
		{name: "cut in the records", spoil: func(b []byte) []byte { return b[:len(b)-1] }, parse: batch.ErrShort, check: batch.ErrChecksum},
		{name: "format v1", spoil: func(b []byte) []byte { b[16] = 1; return b }, parse: batch.ErrMagic},
		{name: "length below the header", spoil: func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 10); return b }, parse: batch.ErrLength},
		{name: "length beyond the largest", spoil: func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], batch.MaxSize+1); return b }, parse: batch.ErrLength},
		{name: "negative length", spoil: func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 1<<31); return b }, parse: batch.ErrLength},
		{name: "more offsets than records", spoil: func(b []byte) []byte { b[26] = 9; return b }, parse: batch.ErrLength, check: batch.ErrChecksum},
		{name: "negative base offset", spoil: func(b []byte) []byte { b[0] = 0x80; return b }, parse: batch.ErrLength},
		{name: "base offset near the end of the range", spoil: func(b []byte) []byte { b[0] = 0x7f; return b }, parse: batch.ErrLength},
		{name: "a flipped bit in a record", spoil: func(b []byte) []byte { b[len(b)-2] ^= 4; return b }, check: batch.ErrChecksum},
		{name: "a flipped bit in the checksum", spoil: func(b []byte) []byte { b[18] ^= 1; return b }, check: batch.ErrChecksum},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := c.spoil(append([]byte(nil), good...))
			_, err := batch.Parse(b)
			require.ErrorIs(t, err, c.parse)
			require.ErrorIs(t, batch.Check(b), c.check)
		})
	}
}

func TestInternal(t *testing.T) {
	for attributes, want := range map[int16]bool{0: false, 1: false, 4: false, 8: false, 1 << 4: true, 1 << 5: true} {
		raw := encode([]string{"a"}, func(b *kmsg.RecordBatch) { b.Attributes = attributes })
		require.Equal(t, want, batch.Internal(raw), "attributes %b", attributes)
	}
}

func TestSplit(t *testing.T) {
	a, b := encode([]string{"a"}, nil), encode([]string{"b", "c"}, func(b *kmsg.RecordBatch) { b.FirstOffset = 1 })
	all := append(append([]byte(nil), a...), b...)
	batches, infos, err := batch.Split(all)
	require.NoError(t, err)
	require.Equal(t, [][]byte{a, b}, batches)
	require.Equal(t, int64(2), infos[1].Last)
	_, _, err = batch.Split(all[:len(all)-1])
	require.ErrorIs(t, err, batch.ErrShort)
	// A caller that appends to one batch must not write into the next.
	_ = append(batches[0], 'x')
	require.NoError(t, batch.Check(batches[1]))
}

func TestAddSeq(t *testing.T) {
	require.Equal(t, int32(0), batch.AddSeq(1<<31-1, 1))
	require.Equal(t, int32(4), batch.AddSeq(1<<31-1, 5))
	require.Equal(t, int32(-1), batch.AddSeq(-1, 5))
}

func FuzzSplit(f *testing.F) {
	f.Add(encode([]string{"a"}, nil))
	f.Add(append(encode([]string{"a", "b"}, nil), encode(nil, nil)...))
	f.Add(make([]byte, 61))
	f.Fuzz(func(t *testing.T, b []byte) {
		batches, infos, err := batch.Split(b)
		if err != nil {
			return
		}
		total := 0
		for i, x := range batches {
			total += len(x)
			again, err := batch.Parse(x)
			require.NoError(t, err)
			require.Equal(t, infos[i], again)
			require.Equal(t, len(x), int(again.Size))
			require.GreaterOrEqual(t, again.Last, again.Base)
			if batch.Check(x) == nil {
				y := append([]byte(nil), x...)
				batch.Stamp(y, 77, 3)
				require.NoError(t, batch.Check(y))
			}
			_ = batch.Internal(x)
		}
		require.Equal(t, len(b), total)
	})
}
