package nemesis

import (
	"context"

	"github.com/faultline-mq/faultline/checker/history"
)

// duplicate lets packets from and to its targets arrive twice. TCP drops the
// second copy of a segment and acknowledges it once more: a broker sees nothing of
// it, unless the host's stack is slow. In the simulator its streams see nothing.
type duplicate struct{ sharing }

var _ Fault = (*duplicate)(nil)

// Available implements Fault.
func (d *duplicate) Available(t Target) error { return d.lacking("duplicate", t) }

// Inject implements Fault.
func (d *duplicate) Inject(ctx context.Context, s *Scene) error {
	return d.applyShare(ctx, s, func(share float64) Shaping { return Shaping{Duplicate: share} })
}

// Prove implements Fault: datagrams arrive twice in each direction.
func (d *duplicate) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return d.proveShare(ctx, s, stage, "came twice", func(e Echo) (there, sent, back, arrived int) {
		return e.There.Twice, e.Arrived, e.Back.Twice, e.Returned
	})
}
