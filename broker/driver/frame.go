package driver

import (
	"encoding/binary"
	"fmt"
	"io"
)

// frameChunk is how much room a frame gets before its bytes have arrived: a
// length that is announced and never sent costs no more.
const frameChunk = 64 << 10

// readSize reads a frame's length prefix: 4 bytes, big-endian.
func readSize(r io.Reader, limit int) (int, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if uint64(size) > uint64(limit) {
		return 0, fmt.Errorf("a frame of %d bytes is announced, at most %d are taken (begins with %q: another protocol?)", size, limit, head[:])
	}
	return int(size), nil
}

// readBody reads a frame's size bytes. The room for it grows as they arrive.
func readBody(r io.Reader, size int) ([]byte, error) {
	b := make([]byte, 0, min(size, frameChunk))
	for len(b) < size {
		have := len(b)
		want := min(size, max(2*have, frameChunk))
		if cap(b) < want {
			b = append(make([]byte, 0, want), b...)
		}
		b = b[:want]
		if _, err := io.ReadFull(r, b[have:]); err != nil {
			return nil, fmt.Errorf("a frame of %d bytes breaks off: %w", size, err)
		}
	}
	return b, nil
}
