package quorum

import (
	"encoding/binary"
	"fmt"

	"github.com/faultline-mq/faultline/broker"
)

// state is what must be durable before this replica acts on it.
type state struct {
	term int32
	vote broker.NodeID // in this term, None: nobody
	held beginning
}

// beginning is the empty entry with which a term begins: where its records will be.
type beginning struct {
	term  int32 // -1: none
	start int64
}

var nothing = beginning{term: -1}

const stateSize = 4 + 4 + 4 + 8

func (s state) encode() []byte {
	b := make([]byte, 0, stateSize)
	b = binary.BigEndian.AppendUint32(b, uint32(s.term))
	b = binary.BigEndian.AppendUint32(b, uint32(s.vote))
	b = binary.BigEndian.AppendUint32(b, uint32(s.held.term))
	return binary.BigEndian.AppendUint64(b, uint64(s.held.start))
}

// decode reads what encode wrote; nothing is a replica that never took part.
func decode(b []byte) (state, error) {
	s := state{vote: broker.None, held: nothing}
	if len(b) == 0 {
		return s, nil
	}
	if len(b) != stateSize {
		return s, fmt.Errorf("the kept state of a replica has %d bytes, expected %d", len(b), stateSize)
	}
	s.term = int32(binary.BigEndian.Uint32(b))
	s.vote = broker.NodeID(int32(binary.BigEndian.Uint32(b[4:])))
	s.held = beginning{int32(binary.BigEndian.Uint32(b[8:])), int64(binary.BigEndian.Uint64(b[12:]))}
	if s.term < 0 || s.held.term < -1 || s.held.term > s.term || s.held.start < 0 {
		return state{vote: broker.None, held: nothing}, fmt.Errorf("the kept state of a replica is impossible: term %d, held term %d from %d", s.term, s.held.term, s.held.start)
	}
	return s, nil
}
