package sim

// Slab allocates short-lived values by the block. The zero value is ready.
type Slab[T any] struct{ block []T }

const slabBlock = 64

// Take returns a new zero value. Its memory is free when its whole block is
// unused.
func (s *Slab[T]) Take() *T {
	if len(s.block) == 0 {
		s.block = make([]T, slabBlock)
	}
	v := &s.block[0]
	s.block = s.block[1:]
	return v
}
