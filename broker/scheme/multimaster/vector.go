package multimaster

import (
	"cmp"
	"slices"

	"github.com/faultline-mq/faultline/broker"
)

// Mark says that the first N messages of one stream are there. A stream is what a node
// wrote from one start to the next; Start numbers them, ascending.
type Mark struct {
	Node  broker.NodeID
	Start int64
	N     int64
}

// In the log a message is (origin, sequence): the sequence holds the start of the stream
// above, and the number within it, from 1, in the lower bits.
const numberBits = 22

// seq is the sequence of the last message that a mark covers.
func (m Mark) seq() int64 { return m.Start<<numberBits | m.N }

// markOf is the mark up to a message.
func markOf(node int32, seq int64) Mark {
	return Mark{broker.NodeID(node), seq >> numberBits, seq & (1<<numberBits - 1)}
}

// vector says how much of each stream is there, ordered by node and start. Streams have no
// gaps: a message is taken when it is the next of its stream.
type vector []Mark

func (v vector) find(m Mark) (int, bool) {
	return slices.BinarySearchFunc(v, m, func(a, b Mark) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Start, b.Start)) })
}

// of is how much there is of the stream of m.
func (v vector) of(m Mark) int64 {
	if i, ok := v.find(m); ok {
		return v[i].N
	}
	return 0
}

// holds reports whether the message that m ends with is there.
func (v vector) holds(m Mark) bool { return v.of(m) >= m.N }

// set makes m the mark of its stream.
func (v *vector) set(m Mark) {
	if i, ok := v.find(m); ok {
		(*v)[i].N = m.N
	} else {
		*v = slices.Insert(*v, i, m)
	}
}

// covers reports whether everything of o is in v.
func (v vector) covers(o vector) bool {
	return !slices.ContainsFunc(o, func(m Mark) bool { return !v.holds(m) })
}
