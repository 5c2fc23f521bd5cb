package nemesis

import "context"

// halfOpen drops every TCP segment from and to its targets but those that begin a
// connection, while datagrams pass. Connections go silent without an end; a dialler
// takes a new one for open, and nothing gets through on it.
type halfOpen struct{ connections }

var _ Fault = (*halfOpen)(nil)

func newHalfOpen() *halfOpen {
	return &halfOpen{connections{
		spoil: func(ctx context.Context, s *Scene, id, node string) error { return s.Resetter.Silence(ctx, id, node) },
		dials: DialSilent,
		did:   "%d segments of the system were dropped",
	}}
}

// Available implements Fault.
func (h *halfOpen) Available(t Target) error { return h.lacking("half-open", t) }
