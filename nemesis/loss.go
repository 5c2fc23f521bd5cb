package nemesis

import (
	"context"

	"github.com/faultline-mq/faultline/checker/history"
)

// loss loses packets from and to its targets.
type loss struct {
	shaped
	share float64
}

var _ Fault = (*loss)(nil)

// Available implements Fault.
func (*loss) Available(t Target) error {
	return lacking("loss", map[Capability]bool{NeedsShaping: t.Shaper != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (l *loss) Inject(ctx context.Context, s *Scene) error {
	l.share = shares[s.rng.IntN(len(shares))]
	return l.apply(ctx, s, Volley{Count: shareEchoes}, Shaping{Loss: l.share})
}

// Prove implements Fault: datagrams are lost in each direction, and not all.
func (l *loss) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return l.prove(ctx, s, stage, Volley{Count: shareEchoes}, func(_, now Echo) string {
		if now.Returned == 0 {
			return "no datagram came back"
		}
		return hitBoth(stage, l.share, "were lost", now.Sent-now.Arrived, now.Sent, now.Arrived-now.Returned, now.Arrived)
	})
}
