package history

import (
	"maps"
	"slices"
)

// ring is how many operations in a row pending keeps without a map.
const ring = 1 << 10

// pending holds what is known of operations that were invoked and not yet
// answered, by their IDs. Most are answered soon after: those are in a ring, and
// the few that many others were invoked after are in a map.
type pending[T any] struct {
	slots []pendingSlot[T]
	old   map[int64]T
	n     int
}

type pendingSlot[T any] struct {
	id int64 // + 1; 0: free
	v  T
}

func (p *pending[T]) put(id int64, v T) {
	if p.slots == nil {
		p.slots = make([]pendingSlot[T], ring)
	}
	s := &p.slots[id&(ring-1)]
	if s.id != 0 {
		if p.old == nil {
			p.old = map[int64]T{}
		}
		p.old[s.id-1] = s.v
	}
	*s = pendingSlot[T]{id + 1, v}
	p.n++
}

// get returns what put was given for id, and whether it is still there.
func (p *pending[T]) get(id int64) (v T, ok bool) {
	if id < 0 || p.n == 0 {
		return v, false
	}
	if s := &p.slots[id&(ring-1)]; s.id == id+1 {
		return s.v, true
	}
	v, ok = p.old[id]
	return v, ok
}

// remove forgets id, which is there.
func (p *pending[T]) remove(id int64) {
	p.n--
	if s := &p.slots[id&(ring-1)]; s.id == id+1 {
		*s = pendingSlot[T]{}
		return
	}
	delete(p.old, id)
}

// ids are those that are there, ascending.
func (p *pending[T]) ids() []int64 {
	all := slices.AppendSeq(make([]int64, 0, p.n), maps.Keys(p.old))
	for i := range p.slots {
		if id := p.slots[i].id; id != 0 {
			all = append(all, id-1)
		}
	}
	slices.Sort(all)
	return all
}
