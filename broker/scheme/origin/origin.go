// Package origin names messages where any node takes them from clients: by the node, and
// by its number there. The name stands in the frame of every log that holds the message.
package origin

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

// Seq is the sequence of the last message that a mark covers.
func (m Mark) Seq() int64 { return m.Start<<numberBits | m.N }

// Of is the mark up to a message.
func Of(node int32, seq int64) Mark {
	return Mark{broker.NodeID(node), seq >> numberBits, seq & (1<<numberBits - 1)}
}

// Full reports whether no number is left in a stream.
func (m Mark) Full() bool { return m.N == 1<<numberBits-1 }

// firstStart is the wall time, in milliseconds, from which starts are counted: 41 bits
// last until 2089.
const firstStart = 1_577_836_800_000 // 2020-01-01

// Begin is an empty stream of a node's own, which nobody has seen before: the clock
// numbers it, for a log may have lost the streams of the past. after is the one before in
// this process, a zero value if there was none.
func Begin(self broker.NodeID, now broker.Time, after Mark, have Vector) Mark {
	start := max(now.Wall/1_000_000-firstStart, after.Start+1, 1)
	for _, k := range have {
		if k.Node == self {
			start = max(start, k.Start+1)
		}
	}
	return Mark{Node: self, Start: start}
}

// Vector says how much of each stream is there, ordered by node and start. Streams have no
// gaps: a message is taken when it is the next of its stream.
type Vector []Mark

func (v Vector) find(m Mark) (int, bool) {
	return slices.BinarySearchFunc(v, m, func(a, b Mark) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Start, b.Start)) })
}

// Of is how much there is of the stream of m.
func (v Vector) Of(m Mark) int64 {
	if i, ok := v.find(m); ok {
		return v[i].N
	}
	return 0
}

// Holds reports whether the message that m ends with is there.
func (v Vector) Holds(m Mark) bool { return v.Of(m) >= m.N }

// Set makes m the mark of its stream.
func (v *Vector) Set(m Mark) {
	if i, ok := v.find(m); ok {
		(*v)[i].N = m.N
	} else {
		*v = slices.Insert(*v, i, m)
	}
}

// Covers reports whether everything of o is in v.
func (v Vector) Covers(o Vector) bool {
	return !slices.ContainsFunc(o, func(m Mark) bool { return !v.Holds(m) })
}
