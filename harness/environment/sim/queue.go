package sim

import "time"

// kind says what an event on the queue does.
type kind uint8

const (
	evTask        kind = iota + 1 // start or resume a task
	evBoot                        // a node's process starts
	evFlush                       // a resumed node handles what its kernel buffered
	evWake                        // a node's wake-up is due
	evTerminate                   // SIGTERM reaches a node
	evStorage                     // a storage operation completes
	evSyn                         // a dial's first packet arrives
	evSynAck                      // its answer arrives
	evRefused                     // a refusal arrives
	evDialTimeout                 // nothing answered a dial
	evRedial                      // the back-off before the next dial is over
	evArrive                      // an item of a stream arrives
	evRetransmit                  // a sender retransmits what it holds
	evUserTimeout                 // a sender gives up what it holds
	evAckTimeout                  // a sender gives up waiting for acknowledgements
	evReset                       // a reset arrives
	evRulesOff                    // sabotage: a rule set is removed at half time
)

// action is what an event acts on. gen is compared with its target's
// generation: an event whose target has moved on is skipped.
type action struct {
	kind kind
	item itemKind
	gen  uint64
	on   any // *task, *node, *storageOp, *conn, *half, *link or *ruleSet, as kind says
	msg  any
}

// entry is an element of the heap. It holds no pointer, so that moving it is
// cheap; its action waits in a slot.
type entry struct {
	at   time.Duration
	seq  uint64
	slot uint32
}

func (e entry) before(o entry) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// queue is a 4-ary heap of events by (time, sequence of insertion).
type queue struct {
	heap  []entry
	slots []action
	at    []int // by slot: its index in the heap
	free  []uint32
	seq   uint64
}

func (q *queue) len() int { return len(q.heap) }

// push adds an event. Its slot names it until it is popped or removed.
func (q *queue) push(at time.Duration, a action) (slot uint32) {
	if n := len(q.free); n > 0 {
		slot, q.free = q.free[n-1], q.free[:n-1]
		q.slots[slot] = a
	} else {
		slot = uint32(len(q.slots))
		q.slots = append(q.slots, a)
		q.at = append(q.at, 0)
	}
	q.seq++
	q.heap = append(q.heap, entry{})
	q.up(len(q.heap)-1, entry{at: at, seq: q.seq, slot: slot})
	return slot
}

// pop removes the earliest event. The queue must not be empty.
func (q *queue) pop() (time.Duration, action) {
	top := q.heap[0]
	a := q.slots[top.slot]
	q.remove(top.slot)
	return top.at, a
}

// remove takes an event away.
func (q *queue) remove(slot uint32) {
	i, n := q.at[slot], len(q.heap)-1
	last := q.heap[n]
	q.heap = q.heap[:n]
	switch {
	case i == n:
	case i > 0 && last.before(q.heap[(i-1)/4]):
		q.up(i, last)
	default:
		q.down(i, last)
	}
	q.slots[slot] = action{}
	q.free = append(q.free, slot)
}

// up places e at index i of the heap, or above it.
func (q *queue) up(i int, e entry) {
	for i > 0 {
		parent := (i - 1) / 4
		if !e.before(q.heap[parent]) {
			break
		}
		q.set(i, q.heap[parent])
		i = parent
	}
	q.set(i, e)
}

// down places e at index i of the heap, or below it.
func (q *queue) down(i int, e entry) {
	for n := len(q.heap); ; {
		first := 4*i + 1
		if first >= n {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, n); c++ {
			if q.heap[c].before(q.heap[least]) {
				least = c
			}
		}
		if !q.heap[least].before(e) {
			break
		}
		q.set(i, q.heap[least])
		i = least
	}
	q.set(i, e)
}

func (q *queue) set(i int, e entry) {
	q.heap[i] = e
	q.at[e.slot] = i
}
