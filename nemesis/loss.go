package nemesis

import (
	"context"

	"github.com/faultline-mq/faultline/checker/history"
)

// loss loses packets from and to its targets.
type loss struct{ sharing }

var _ Fault = (*loss)(nil)

// Available implements Fault.
func (l *loss) Available(t Target) error { return l.lacking("loss", t) }

// Inject implements Fault.
func (l *loss) Inject(ctx context.Context, s *Scene) error {
	return l.applyShare(ctx, s, func(share float64) Shaping { return Shaping{Loss: share} })
}

// Prove implements Fault: datagrams are lost in each direction, and not all.
func (l *loss) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return l.proveShare(ctx, s, stage, "were lost", func(e Echo) (there, sent, back, arrived int) {
		return e.Sent - e.Arrived, e.Sent, e.Arrived - e.Returned, e.Arrived
	})
}
