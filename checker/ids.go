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
	producers []struct{ count, last int64 } // by producer, below maxDenseProducers
	sends     int
}

func (c *counting) add(value history.Value) {
	c.sends++
	p := value.Producer()
	if p >= maxDenseProducers {
		return
	}
	if int(p) >= len(c.producers) {
		c.producers = append(c.producers, make([]struct{ count, last int64 }, int(p)+1-len(c.producers))...)
	}
	of := &c.producers[p]
	of.count++
	of.last = max(of.last, value.Seq())
}

// merge adds what other counted.
func (c *counting) merge(other *counting) {
	c.sends += other.sends
	if n := len(other.producers) - len(c.producers); n > 0 {
		c.producers = append(c.producers, make([]struct{ count, last int64 }, n)...)
	}
	for p, of := range other.producers {
		c.producers[p].count += of.count
		c.producers[p].last = max(c.producers[p].last, of.last)
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
