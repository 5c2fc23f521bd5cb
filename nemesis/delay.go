package nemesis

import (
	"context"
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// delays are what the seed chooses from; jitter of half as much comes on top.
var delays = []time.Duration{10 * time.Millisecond, 30 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond}

const delayEchoes = 20

// delay delays every packet from and to its targets.
type delay struct {
	shaped
	by time.Duration
}

var _ Fault = (*delay)(nil)

// Available implements Fault.
func (d *delay) Available(t Target) error { return d.lacking("delay", t) }

// Inject implements Fault.
func (d *delay) Inject(ctx context.Context, s *Scene) error {
	d.by = delays[s.rng.IntN(len(delays))]
	return d.apply(ctx, s, Volley{Count: delayEchoes}, Shaping{Delay: d.by, Jitter: d.by / 2})
}

// Prove implements Fault: a round trip takes the delay of both directions longer
// than before. One direction alone gives three quarters of that at most.
func (d *delay) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return d.prove(ctx, s, stage, Volley{Count: delayEchoes}, func(before, now Echo) string {
		longer := now.Median - before.Median
		switch {
		case now.Returned == 0:
			return "no datagram came back"
		case stage == history.Healed && longer > d.by/2, stage != history.Healed && longer < 2*d.by:
			return fmt.Sprintf("a round trip takes %s, %s before; %s was added to each direction", now.Median, before.Median, d.by)
		}
		return ""
	})
}
