package nemesis

import (
	"context"

	"github.com/faultline-mq/faultline/checker/history"
)

// corruptPackets inverts one bit of packets from and to its targets. Checksums
// stay as they were: the receiver's kernel drops a damaged segment, and its sender
// sends it again, so that a broker sees loss. In the simulator too.
type corruptPackets struct {
	shaped
	share float64
}

var _ Fault = (*corruptPackets)(nil)

// Available implements Fault.
func (*corruptPackets) Available(t Target) error {
	return lacking("corrupt-packets", map[Capability]bool{NeedsShaping: t.Shaper != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (c *corruptPackets) Inject(ctx context.Context, s *Scene) error {
	c.share = shares[s.rng.IntN(len(shares))]
	return c.apply(ctx, s, Volley{Count: shareEchoes}, Shaping{Corrupt: c.share})
}

// Prove implements Fault: datagrams, which have no checksum of the kernel's, arrive
// damaged in each direction.
func (c *corruptPackets) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return c.prove(ctx, s, stage, Volley{Count: shareEchoes}, func(_, now Echo) string {
		if now.Returned == 0 {
			return "no datagram came back"
		}
		return hitBoth(stage, c.share, "were damaged", now.There.Damaged, now.Sent, now.Back.Damaged, now.Arrived)
	})
}
