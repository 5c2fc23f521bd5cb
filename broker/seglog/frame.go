package seglog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/faultline-mq/faultline/broker/vfs"
)

// A frame, big endian:
//
//	 0  magic    0xF7
//	 1  version  1
//	 2  kind
//	 3  zero
//	 4  length of the payload
//	 8  synced: the position in this file up to which it was durable when the frame was written
//	12  CRC-32C of file id, position in the file (8 bytes each), the header to here, and the payload
//	16  payload
//
// The CRC binds a frame to its place: bytes of a frame that lie elsewhere (in a message that quotes a log, in a
// sector written to the wrong place) are not a frame.
const (
	frameMagic   = 0xF7
	frameVersion = 1
	frameHeader  = 16

	// maxFile bounds what one write may make of a file, so that positions fit into the header.
	maxFile = math.MaxInt32
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type frameKind byte

const (
	kindBatch      frameKind = 1 // payload: a record batch
	kindOrigin     frameKind = 2 // payload: origin (4 bytes), origin sequence (8 bytes), a record batch
	kindRecord     frameKind = 3 // payload: a record of a RecordLog
	kindState      frameKind = 4 // payload: see state
	kindCheckpoint frameKind = 5 // payload: a checkpoint's data
	originBytes              = 12
)

type frame struct {
	pos     int64
	kind    frameKind
	synced  int64
	payload []byte // valid until the scanner's next call
}

func (f frame) end() int64 { return f.pos + frameHeader + int64(len(f.payload)) }

// appendFrame appends a frame for position pos of file id to dst.
func appendFrame(dst []byte, id, pos int64, kind frameKind, synced int64, payload ...[]byte) []byte {
	start := len(dst)
	dst = append(dst, frameMagic, frameVersion, byte(kind), 0)
	length := 0
	for _, p := range payload {
		length += len(p)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(length))
	dst = binary.BigEndian.AppendUint32(dst, uint32(synced))
	dst = append(dst, 0, 0, 0, 0)
	for _, p := range payload {
		dst = append(dst, p...)
	}
	f := dst[start:]
	binary.BigEndian.PutUint32(f[12:], frameCRC(id, pos, f))
	return dst
}

func frameCRC(id, pos int64, f []byte) uint32 {
	crc := crcNumber(crcNumber(0, uint64(id)), uint64(pos))
	crc = crc32.Update(crc, castagnoli, f[:12])
	return crc32.Update(crc, castagnoli, f[frameHeader:])
}

// crcNumber is crc32.Update of the number's 8 bytes, which then need no place on the heap.
func crcNumber(crc uint32, n uint64) uint32 {
	crc = ^crc
	for shift := 56; shift >= 0; shift -= 8 {
		crc = castagnoli[byte(crc)^byte(n>>shift)] ^ crc>>8
	}
	return ^crc
}

// badFrame says why the bytes at pos are no frame.
type badFrame struct {
	pos    int64
	reason string
}

func (b *badFrame) Error() string { return fmt.Sprintf("position %d: %s", b.pos, b.reason) }

// scanner reads a file's frames in order through a window.
type scanner struct {
	f      vfs.File
	id     int64
	pos    int64 // of the next frame
	size   int64 // of the file, or of what of it may be read
	window int   // bytes to read at a time
	buf    []byte
	bufPos int64

	trusting bool // checksums are not verified: a seeded bug
}

// A reader begins with a small window, which suits the tail of a log, and
// doubles it as it goes on.
const (
	firstWindow   = 4 << 10
	defaultWindow = 64 << 10
)

// bytes returns n bytes at pos, which lie below size.
func (s *scanner) bytes(pos int64, n int) ([]byte, error) {
	if pos < s.bufPos || pos+int64(n) > s.bufPos+int64(len(s.buf)) {
		want := min(int64(max(n, s.window)), s.size-pos)
		s.window = min(2*s.window, max(s.window, defaultWindow))
		if int64(cap(s.buf)) < want {
			s.buf = make([]byte, want)
		}
		s.buf = s.buf[:want]
		s.bufPos = pos
		got, err := s.f.ReadAt(s.buf, pos)
		if got < len(s.buf) {
			s.buf = s.buf[:0]
			if err == nil || errors.Is(err, io.EOF) {
				// It shrank under us: someone else writes to this directory.
				return nil, &badFrame{pos, fmt.Sprintf("the file ends after %d bytes more", got)}
			}
			return nil, err
		}
	}
	i := pos - s.bufPos
	return s.buf[i : i+int64(n)], nil
}

// next returns the next frame. It returns io.EOF at the end, *badFrame where no valid frame is, or a read error.
func (s *scanner) next() (frame, error) {
	f, err := s.at(s.pos)
	if err == nil {
		s.pos = f.end()
	}
	return f, err
}

func (s *scanner) at(pos int64) (frame, error) {
	left := s.size - pos
	if left <= 0 {
		return frame{}, io.EOF
	}
	if left < frameHeader {
		return frame{}, &badFrame{pos, fmt.Sprintf("%d bytes are too few for a frame's header", left)}
	}
	head, err := s.bytes(pos, frameHeader)
	if err != nil {
		return frame{}, err
	}
	length := int64(binary.BigEndian.Uint32(head[4:]))
	switch {
	case head[0] != frameMagic:
		return frame{}, &badFrame{pos, "no frame begins here"}
	case head[1] != frameVersion:
		return frame{}, &badFrame{pos, fmt.Sprintf("frame version %d, known is %d", head[1], frameVersion)}
	case length > left-frameHeader:
		return frame{}, &badFrame{pos, fmt.Sprintf("a frame of %d bytes, the file has %d more", frameHeader+length, left)}
	}
	whole, err := s.bytes(pos, int(frameHeader+length))
	if err != nil {
		return frame{}, err
	}
	if want, got := binary.BigEndian.Uint32(whole[12:]), frameCRC(s.id, pos, whole); want != got && !s.trusting {
		return frame{}, &badFrame{pos, fmt.Sprintf("frame's CRC-32C is %08x, its header says %08x", got, want)}
	}
	return frame{pos, frameKind(whole[2]), int64(binary.BigEndian.Uint32(whole[8:])), whole[frameHeader:]}, nil
}

// resync returns the first valid frame at pos or after it, or io.EOF.
func (s *scanner) resync(pos int64) (frame, error) {
	for s.size-pos >= frameHeader {
		b, err := s.bytes(pos, int(min(int64(defaultWindow), s.size-pos)))
		if err != nil {
			return frame{}, err
		}
		i := bytes.Index(b, []byte{frameMagic, frameVersion})
		if i < 0 {
			pos += int64(len(b)) - 1 // the last byte may be a magic byte
			continue
		}
		pos += int64(i)
		f, err := s.at(pos)
		var bad *badFrame
		if err == nil || !errors.As(err, &bad) && !errors.Is(err, io.EOF) {
			if err == nil {
				s.pos = f.end()
			}
			return f, err
		}
		pos++
	}
	return frame{}, io.EOF
}

// tail is what lies behind the last good frame of a file that was being written to.
type tail struct {
	known int64 // the file was durable up to here at least, once
	next  int64 // position of the first valid frame behind the bad one, or −1
	first frame // that frame; its payload is a copy
}

// judge looks behind position pos, where the valid frames end, of the last file of a log. hint is the position up to
// which the file is known to be durable. The tail is torn, and may be cut, if pos ≥ tail.known; otherwise
// bytes that were durable are gone or changed.
func (s *scanner) judge(pos, hint int64) (tail, error) {
	t := tail{known: hint, next: -1}
	for p := pos + 1; ; p = s.pos {
		f, err := s.resync(p)
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return t, err
		}
		if t.next < 0 {
			t.next, t.first = f.pos, f
			t.first.payload = bytes.Clone(f.payload)
		}
		t.known = max(t.known, f.synced)
	}
}

// settle makes the bytes of f below end durable: it cuts off what follows, writes the bytes from known on again and
// syncs. Writing again is necessary: a failed sync before a restart may have left pages in the page cache that the
// kernel takes for clean, and another sync would not write them.
func settle(f vfs.File, known, end int64) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size != end {
		if err := f.Truncate(end); err != nil {
			return err
		}
	}
	return rewrite(f, known, end)
}

// rewrite writes what stands in [known, end) again and syncs.
func rewrite(f vfs.File, known, end int64) error {
	buf := make([]byte, min(1<<20, max(0, end-known)))
	for pos := known; pos < end; {
		b := buf[:min(int64(len(buf)), end-pos)]
		if n, err := f.ReadAt(b, pos); n < len(b) {
			return fmt.Errorf("reading what to keep: %w", err)
		}
		if _, err := f.WriteAt(b, pos); err != nil {
			return err
		}
		pos += int64(len(b))
	}
	return f.Sync()
}
