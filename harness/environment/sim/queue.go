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
	free  []uint32
	seq   uint64
}

func (q *queue) len() int { return len(q.heap) }

func (q *queue) push(at time.Duration, a action) {
	var slot uint32
	if n := len(q.free); n > 0 {
		slot, q.free = q.free[n-1], q.free[:n-1]
		q.slots[slot] = a
	} else {
		slot = uint32(len(q.slots))
		q.slots = append(q.slots, a)
	}
	q.seq++
	e := entry{at: at, seq: q.seq, slot: slot}
	q.heap = append(q.heap, e)
	i := len(q.heap) - 1
	for i > 0 {
		parent := (i - 1) / 4
		if !e.before(q.heap[parent]) {
			break
		}
		q.heap[i] = q.heap[parent]
		i = parent
	}
	q.heap[i] = e
}

// pop removes the earliest event. The queue must not be empty.
func (q *queue) pop() (time.Duration, action) {
	top := q.heap[0]
	n := len(q.heap) - 1
	last := q.heap[n]
	q.heap = q.heap[:n]
	if n > 0 {
		i := 0
		for {
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
			if !q.heap[least].before(last) {
				break
			}
			q.heap[i] = q.heap[least]
			i = least
		}
		q.heap[i] = last
	}
	a := q.slots[top.slot]
	q.slots[top.slot] = action{}
	q.free = append(q.free, top.slot)
	return top.at, a
}
