// Package batch reads and stamps Kafka record batches (format v2) without
// decoding their records.
//
// Source of the layout: Kafka's protocol guide, "Record Batch". The base offset
// and the leader epoch stand outside the range of the batch's CRC-32C, so that a
// leader stamps them without computing it again.
package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// HeaderSize is the length of a batch's header in bytes.
const HeaderSize = 61

// MaxSize is the largest batch that is taken, in bytes.
const MaxSize = 64 << 20

// NoProducer stands for a batch of a producer that is not idempotent.
const NoProducer = int64(-1)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors of Parse and Check.
var (
	ErrShort    = errors.New("record batch is cut off")
	ErrMagic    = errors.New("record batch is not of format v2")
	ErrLength   = errors.New("record batch has an impossible length or record count")
	ErrChecksum = errors.New("record batch fails its CRC-32C")
)

// Info is what is known of a batch without its records.
type Info struct {
	Base          int64 // offset of the first record
	Last          int64 // offset of the last record
	Epoch         int32 // leader epoch under which it was appended
	Size          int32 // bytes
	ProducerID    int64 // NoProducer: not idempotent
	ProducerEpoch int16
	FirstSeq      int32
	LastSeq       int32
	MaxTimestamp  int64 // milliseconds since 1970
	Records       int32
	// Origin and OriginSeq name the batch where a scheme gives it a name of its own.
	// They stand in the frame of the log, not in the batch: Parse leaves them 0.
	Origin    int32
	OriginSeq int64
}

// Parse reads the header of the batch at the beginning of b, which may be
// followed by more. It does not check the CRC.
func Parse(b []byte) (Info, error) {
	if len(b) < HeaderSize {
		return Info{}, ErrShort
	}
	if b[16] != 2 {
		return Info{}, ErrMagic
	}
	length := int32(binary.BigEndian.Uint32(b[8:]))
	if length < HeaderSize-12 || length > MaxSize {
		return Info{}, ErrLength
	}
	size := int64(length) + 12
	if int64(len(b)) < size {
		return Info{}, ErrShort
	}
	base := int64(binary.BigEndian.Uint64(b))
	delta := int32(binary.BigEndian.Uint32(b[23:]))
	n := int32(binary.BigEndian.Uint32(b[57:]))
	if delta < 0 || n < 0 || (n > 0 && delta != n-1) || base < 0 || base > 1<<62 {
		return Info{}, ErrLength
	}
	i := Info{
		Base: base, Last: base + int64(delta), Epoch: int32(binary.BigEndian.Uint32(b[12:])), Size: int32(size),
		MaxTimestamp: int64(binary.BigEndian.Uint64(b[35:])), ProducerID: int64(binary.BigEndian.Uint64(b[43:])),
		ProducerEpoch: int16(binary.BigEndian.Uint16(b[51:])), FirstSeq: int32(binary.BigEndian.Uint32(b[53:])), Records: n,
	}
	i.LastSeq = AddSeq(i.FirstSeq, delta)
	return i, nil
}

// AddSeq adds n to a sequence number, which wraps to 0 after 2^31-1.
func AddSeq(seq, n int32) int32 {
	if seq < 0 {
		return seq
	}
	return int32((int64(seq) + int64(n)) % (1 << 31))
}

// Internal reports whether the batch in b is transactional or a control batch,
// which clients without transactions do not send. b must have passed Parse.
func Internal(b []byte) bool {
	const transactional, control = 1 << 4, 1 << 5
	return b[22]&(transactional|control) != 0
}

// Check verifies the CRC-32C of the one batch that b holds.
func Check(b []byte) error {
	if len(b) < HeaderSize {
		return ErrShort
	}
	if crc32.Checksum(b[21:], castagnoli) != binary.BigEndian.Uint32(b[17:]) {
		return ErrChecksum
	}
	return nil
}

// Stamp sets the base offset and the leader epoch of the batch in b.
func Stamp(b []byte, base int64, epoch int32) {
	binary.BigEndian.PutUint64(b, uint64(base))
	binary.BigEndian.PutUint32(b[12:], uint32(epoch))
}

// Split cuts b into its batches. Every batch must be whole. The slices share b.
func Split(b []byte) (batches [][]byte, infos []Info, err error) {
	for pos := 0; pos < len(b); {
		info, err := Parse(b[pos:])
		if err != nil {
			return nil, nil, fmt.Errorf("batch at byte %d of %d: %w", pos, len(b), err)
		}
		end := pos + int(info.Size)
		batches = append(batches, b[pos:end:end])
		infos = append(infos, info)
		pos = end
	}
	return batches, infos, nil
}
