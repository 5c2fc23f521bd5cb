package nemesis

import (
	"context"

	"github.com/faultline-mq/faultline/checker/history"
)

// duplicate lets packets from and to its targets arrive twice. TCP drops the
// second copy of a segment and acknowledges it once more: a broker sees nothing of
// it, unless the host's stack is slow. In the simulator its streams see nothing.
type duplicate struct {
	shaped
	share float64
}

var _ Fault = (*duplicate)(nil)

// Available implements Fault.
func (*duplicate) Available(t Target) error {
	return lacking("duplicate", map[Capability]bool{NeedsShaping: t.Shaper != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (d *duplicate) Inject(ctx context.Context, s *Scene) error {
	d.share = shares[s.rng.IntN(len(shares))]
	return d.apply(ctx, s, Volley{Count: shareEchoes}, Shaping{Duplicate: d.share})
}

// Prove implements Fault: datagrams arrive twice in each direction.
func (d *duplicate) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return d.prove(ctx, s, stage, Volley{Count: shareEchoes}, func(_, now Echo) string {
		if now.Returned == 0 {
			return "no datagram came back"
		}
		return hitBoth(stage, d.share, "came twice", now.There.Twice, now.Arrived, now.Back.Twice, now.Returned)
	})
}
