package workloads

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"

	"github.com/faultline-mq/faultline/checker/history"
)

// MinPayload is the size of the smallest payload, in bytes: the header alone.
const MinPayload = 29

// The layout of a payload; integers are big endian.
//
//	 0  magic, 4 bytes
//	 4  kind, 1 byte
//	 5  first 8 bytes of the SHA-256 of the run id
//	13  value, 8 bytes: producer and sequence
//	21  length of the whole payload, 4 bytes
//	25  CRC-32C of everything but itself, 4 bytes
//	29  filler that follows from the value
const (
	magic       = "FLN1"
	kindAt      = 4
	runAt       = 5
	valueAt     = 13
	lengthAt    = 21
	checksumAt  = 25
	kindMessage = byte('m')
	kindMark    = byte('s')
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the payload of value v in run runID: size bytes, or MinPayload
// where size is less.
func Encode(runID string, v history.Value, size int) []byte {
	return encode(kindMessage, runID, v, size)
}

// EncodeSentinel returns the payload of a drain's own mark. No workload sends
// one, so its value may be any.
func EncodeSentinel(runID string, v history.Value, size int) []byte {
	return encode(kindMark, runID, v, size)
}

func encode(kind byte, runID string, v history.Value, size int) []byte {
	b := make([]byte, max(size, MinPayload))
	copy(b, magic)
	b[kindAt] = kind
	run := sha256.Sum256([]byte(runID))
	copy(b[runAt:valueAt], run[:])
	binary.BigEndian.PutUint64(b[valueAt:], uint64(v))
	binary.BigEndian.PutUint32(b[lengthAt:], uint32(len(b)))
	fill(b[MinPayload:], uint64(v))
	binary.BigEndian.PutUint32(b[checksumAt:], checksum(b))
	return b
}

// Decode tells what b is in run runID. The value means anything with Good, and
// with Sentinel alone; it is 0 with OtherRun and Altered.
func Decode(runID string, b []byte) (history.Value, history.Payload) {
	if len(b) < MinPayload || string(b[:kindAt]) != magic ||
		b[kindAt] != kindMessage && b[kindAt] != kindMark ||
		uint64(binary.BigEndian.Uint32(b[lengthAt:])) != uint64(len(b)) ||
		binary.BigEndian.Uint32(b[checksumAt:]) != checksum(b) {
		return 0, history.Altered
	}
	run := sha256.Sum256([]byte(runID))
	if string(b[runAt:valueAt]) != string(run[:valueAt-runAt]) {
		return 0, history.OtherRun
	}
	v := history.Value(binary.BigEndian.Uint64(b[valueAt:]))
	if b[kindAt] == kindMark {
		return v, history.Sentinel
	}
	return v, history.Good
}

// checksum covers b but for the checksum's own four bytes.
func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:checksumAt], castagnoli), castagnoli, b[MinPayload:])
}

// fill writes bytes that follow from seed and do not compress (splitmix64), so
// that a system which compresses carries what was asked for.
func fill(b []byte, seed uint64) {
	var word [8]byte
	for len(b) > 0 {
		seed += 0x9e3779b97f4a7c15
		z := seed
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(word[:], z^z>>31)
		b = b[copy(b, word[:]):]
	}
}
