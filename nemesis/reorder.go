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
type reorder struct {
	shaped
	share float64 // of packets that overtake
}

var _ Fault = (*reorder)(nil)

// Available implements Fault.
func (*reorder) Available(t Target) error {
	return lacking("reorder", map[Capability]bool{NeedsShaping: t.Shaper != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (r *reorder) Inject(ctx context.Context, s *Scene) error {
	r.share = shares[s.rng.IntN(len(shares))]
	by := reorderDelays[s.rng.IntN(len(reorderDelays))]
	return r.apply(ctx, s, Volley{Count: shareEchoes}, Shaping{Delay: by, Reorder: r.share})
}

// Prove implements Fault: in each direction at least as many datagrams are
// overtaken as overtake others.
func (r *reorder) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return r.prove(ctx, s, stage, Volley{Count: shareEchoes}, func(_, now Echo) string {
		if now.Returned == 0 {
			return "no datagram came back"
		}
		return hitBoth(stage, r.share, "were overtaken", now.There.Overtaken, now.Arrived, now.Back.Overtaken, now.Returned)
	})
}
