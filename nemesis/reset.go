package nemesis

import "context"

// reset answers everything on connections from and to its targets with a TCP
// reset, dials included, while datagrams pass.
type reset struct{ connections }

var _ Fault = (*reset)(nil)

func newReset() *reset {
	return &reset{connections{
		spoil: func(ctx context.Context, s *Scene, id, node string) error { return s.Resetter.Reject(ctx, id, node) },
		dials: DialReset,
		did:   "%d connections and dials of the system were reset",
	}}
}

// Available implements Fault.
func (r *reset) Available(t Target) error { return r.lacking("reset", t) }
