package nemesis

import (
	"context"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// losses are what the seed chooses from, as shares of packets.
var losses = []float64{0.1, 0.2, 0.3}

// lossEchoes is how many datagrams measure a link. Of so many at least 20 are
// expected to be lost in each direction; fewer than a quarter of the expected
// number are no accident.
const lossEchoes = 200

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
	l.share = losses[s.rng.IntN(len(losses))]
	return l.apply(ctx, s, lossEchoes, Shaping{Loss: l.share})
}

// Prove implements Fault: datagrams are lost in each direction, and not all.
func (l *loss) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return l.prove(ctx, s, stage, lossEchoes, func(_, now Echo) string {
		there, back := now.Sent-now.Arrived, now.Arrived-now.Returned
		lost := fmt.Sprintf("%d of %d datagrams were lost on the way there, %d of %d on the way back; a share of %g was asked for", there, now.Sent, back, now.Arrived, l.share)
		switch {
		case stage == history.Healed:
			if there+back > lossEchoes/100 {
				return lost
			}
		case now.Returned == 0:
			return "no datagram came back"
		case float64(there) < l.share*float64(now.Sent)/4, float64(back) < l.share*float64(now.Arrived)/4:
			return lost
		}
		return ""
	})
}
