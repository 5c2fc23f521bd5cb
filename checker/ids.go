package checker

import (
	"github.com/faultline-mq/faultline/checker/history"
)

// ids finds the first send of a value. Producers number their messages from 1
// upwards, so a table by producer and sequence number answers for most histories
// without hashing; values of producers whose numbers lie far apart are kept in one
// table with open addressing.
type ids struct {
	dense [][]int32 // by producer, by sequence number: index into Ops + 1, 0 where nothing was sent

	values []history.Value // slots of the other values, a power of two
	ops    []int32         // of each slot: index into Ops + 1, 0 for a free one
	shift  uint
}

// maxDenseProducers bounds the producers that may have a table of their own.
const maxDenseProducers = 1 << 16

// counting is what is known of the values before they are entered.
type counting struct {
	producers []sent // by producer, below maxDenseProducers
	sends     int
	unordered bool // some sends of a producer are not called in their order, or nobody looked
}

// sent is what is known of the sends of one producer, in the order of their IDs.
type sent struct {
	count       int64
	first, last int64 // sequence numbers: the lowest and the highest
	from, to    int64 // calls: of the first send and of the last one
}

func (c *counting) add(value history.Value, call int64) {
	c.sends++
	p := value.Producer()
	if p >= maxDenseProducers {
		c.unordered = true
		return
	}
	if n := int(p) + 1 - len(c.producers); n > 0 {
		c.producers = append(c.producers, make([]sent, n)...)
	}
	c.unordered = !c.producers[p].follow(&sent{1, value.Seq(), value.Seq(), call, call}) || c.unordered
}

// follow adds sends of the same producer that come later. It returns false where they
// were not called later.
func (s *sent) follow(later *sent) bool {
	switch {
	case later.count == 0:
		return true
	case s.count == 0:
		*s = *later
		return true
	}
	inOrder := s.to <= later.from
	s.count, s.to = s.count+later.count, later.to
	s.first, s.last = min(s.first, later.first), max(s.last, later.last)
	return inOrder
}

// merge adds what other counted of later sends.
func (c *counting) merge(other *counting) {
	c.sends += other.sends
	c.unordered = c.unordered || other.unordered
	if n := len(other.producers) - len(c.producers); n > 0 {
		c.producers = append(c.producers, make([]sent, n)...)
	}
	for p := range other.producers {
		c.unordered = !c.producers[p].follow(&other.producers[p]) || c.unordered
	}
}

// table makes room for the values that were counted.
func (c *counting) table() ids {
	t := ids{dense: make([][]int32, len(c.producers))}
	rest := c.sends
	for p, of := range c.producers {
		if of.count > 0 && of.last < 4*of.count+1024 {
			t.dense[p] = make([]int32, of.last+1)
			rest -= int(of.count)
		}
	}
	if rest > 0 {
		bits := uint(2)
		for 1<<bits < 2*rest {
			bits++
		}
		t.values, t.ops, t.shift = make([]history.Value, 1<<bits), make([]int32, 1<<bits), 64-bits
	}
	return t
}

// enter notes that the operation with index op sent value. It returns false where
// an earlier one did.
func (t *ids) enter(value history.Value, op int32) bool {
	slot := t.slot(value)
	if *slot != 0 {
		return false
	}
	*slot = op + 1
	return true
}

// slot is the place of a counted value.
func (t *ids) slot(value history.Value) *int32 {
	if p := value.Producer(); int(p) < len(t.dense) && t.dense[p] != nil {
		return &t.dense[p][value.Seq()]
	}
	n := t.probe(value)
	t.values[n] = value
	return &t.ops[n]
}

// probe returns the slot that holds value, or the free one where it would be.
func (t *ids) probe(value history.Value) int {
	const golden = 0x9e3779b97f4a7c15 // 2^64 / golden ratio: neighbours are spread evenly
	n := int(uint64(value) * golden >> t.shift)
	for t.ops[n] != 0 && t.values[n] != value {
		n = (n + 1) & (len(t.ops) - 1)
	}
	return n
}

// apart reports whether parts can be entered side by side: each value has a place of
// its own that no value of another part has.
func (t *ids) apart(parts []part) bool {
	if len(t.ops) > 0 {
		return false
	}
	for p := range t.dense {
		last := int64(-1)
		for i := range parts {
			if of := parts[i].values.producers; p < len(of) && of[p].count > 0 {
				if of[p].first <= last {
					return false
				}
				last = of[p].last
			}
		}
	}
	return true
}

// find returns the index into Ops of the first send of value.
func (t *ids) find(value history.Value) (int32, bool) {
	if p := value.Producer(); int(p) < len(t.dense) && t.dense[p] != nil {
		if seq := value.Seq(); seq < int64(len(t.dense[p])) {
			op := t.dense[p][seq]
			return op - 1, op != 0
		}
		return 0, false
	}
	if len(t.ops) == 0 {
		return 0, false
	}
	op := t.ops[t.probe(value)]
	return op - 1, op != 0
}
