package nemesis

import (
	"context"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// reorderDelays are what the seed chooses from, for the packets that are overtaken.
var reorderDelays = []time.Duration{10 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond}

// reorder lets some packets from and to its targets overtake others, which are
// delayed. TCP puts segments back into order: a broker sees delay, and its
// connections go slower, as they take it for loss. In the simulator, whose streams
// are in order, what overtakes waits for what was sent before it.
type reorder struct{ sharing }

var _ Fault = (*reorder)(nil)

// Available implements Fault.
func (r *reorder) Available(t Target) error { return r.lacking("reorder", t) }

// Inject implements Fault.
func (r *reorder) Inject(ctx context.Context, s *Scene) error {
	return r.applyShare(ctx, s, func(share float64) Shaping {
		return Shaping{Delay: reorderDelays[s.rng.IntN(len(reorderDelays))], Reorder: share}
	})
}

// Prove implements Fault: in each direction at least as many datagrams are
// overtaken as overtake others.
func (r *reorder) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return r.proveShare(ctx, s, stage, "were overtaken", func(e Echo) (there, sent, back, arrived int) {
		return e.There.Overtaken, e.Arrived, e.Back.Overtaken, e.Returned
	})
}
