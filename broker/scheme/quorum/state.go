package quorum

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/faultline-mq/faultline/broker"
)

// state is what must be durable before this replica acts on it.
type state struct {
	term int32
	vote broker.NodeID // in this term, None: nobody
	held beginning
	// dir names the directory that this is kept in, "" for nothing kept: one whose disk was
	// lost has another.
	dir string
	// founders are the directories of the replicas as they were when the group was founded,
	// by replica. It is empty until this replica is a member, which votes and is counted.
	founders []Founder
}

// Founder is a replica with its directory.
type Founder struct {
	ID  broker.NodeID
	Dir string
}

// beginning is the empty entry with which a term begins: where its records will be.
type beginning struct {
	term  int32 // -1: none
	start int64
}

var nothing = beginning{term: -1}

const (
	stateSize    = 4 + 4 + 4 + 8 + 2 + 2 // and the founders and directories
	maxDirectory = 1 << 10               // bytes
	maxFounders  = 1 << 10
)

func (s state) encode() []byte {
	b := make([]byte, 0, stateSize+len(s.dir))
	b = binary.BigEndian.AppendUint32(b, uint32(s.term))
	b = binary.BigEndian.AppendUint32(b, uint32(s.vote))
	b = binary.BigEndian.AppendUint32(b, uint32(s.held.term))
	b = binary.BigEndian.AppendUint64(b, uint64(s.held.start))
	b = appendText(b, s.dir)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.founders)))
	for _, f := range s.founders {
		b = binary.BigEndian.AppendUint32(b, uint32(f.ID))
		b = appendText(b, f.Dir)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	s = s[:min(len(s), maxDirectory)]
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// decode reads what encode wrote; nothing is a replica that never took part, or lost its
// disk.
func decode(b []byte) (state, error) {
	fresh := state{vote: broker.None, held: nothing}
	if len(b) == 0 {
		return fresh, nil
	}
	if len(b) < stateSize {
		return fresh, fmt.Errorf("the kept state of a replica has %d bytes, expected %d or more", len(b), stateSize)
	}
	s := state{
		term: int32(binary.BigEndian.Uint32(b)), vote: broker.NodeID(int32(binary.BigEndian.Uint32(b[4:]))),
		held: beginning{int32(binary.BigEndian.Uint32(b[8:])), int64(binary.BigEndian.Uint64(b[12:]))},
	}
	dir, rest, ok := cutText(b[20:])
	if !ok || len(rest) < 2 {
		return fresh, errors.New("the kept state of a replica ends within its directory")
	}
	s.dir = dir
	n := int(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	for range n {
		if len(rest) < 4 {
			return fresh, errors.New("the kept state of a replica ends within its founders")
		}
		f := Founder{ID: broker.NodeID(int32(binary.BigEndian.Uint32(rest)))}
		if f.Dir, rest, ok = cutText(rest[4:]); !ok {
			return fresh, errors.New("the kept state of a replica ends within its founders")
		}
		s.founders = append(s.founders, f)
	}
	if s.dir == "" || n > maxFounders || len(rest) > 0 || s.term < 0 || s.held.term < -1 || s.held.term > s.term || s.held.start < 0 {
		return fresh, fmt.Errorf("the kept state of a replica is impossible: directory %q, term %d, held term %d from %d, %d founders, %d bytes too many", s.dir, s.term, s.held.term, s.held.start, n, len(rest))
	}
	return s, nil
}

// cutText takes what appendText appended.
func cutText(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n > maxDirectory || len(b) < 2+n {
		return "", nil, false
	}
	return string(b[2 : 2+n]), b[2+n:], true
}
