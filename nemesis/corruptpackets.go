package nemesis

import (
	"context"

	"github.com/faultline-mq/faultline/checker/history"
)

// corruptPackets inverts one bit of packets from and to its targets. Checksums
// stay as they were: the receiver's kernel drops a damaged segment, and its sender
// sends it again, so that a broker sees loss. In the simulator too.
type corruptPackets struct{ sharing }

var _ Fault = (*corruptPackets)(nil)

// Available implements Fault.
func (c *corruptPackets) Available(t Target) error { return c.lacking("corrupt-packets", t) }

// Inject implements Fault.
func (c *corruptPackets) Inject(ctx context.Context, s *Scene) error {
	return c.applyShare(ctx, s, func(share float64) Shaping { return Shaping{Corrupt: share} })
}

// Prove implements Fault: datagrams, which have no checksum of the kernel's, arrive
// damaged in each direction.
func (c *corruptPackets) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return c.proveShare(ctx, s, stage, "were damaged", func(e Echo) (there, sent, back, arrived int) {
		return e.There.Damaged, e.Sent, e.Back.Damaged, e.Arrived
	})
}
