package nemesis

import (
	"context"
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// rates are what the seed chooses from, in bytes per second.
var rates = []int{32 << 10, 128 << 10, 512 << 10}

const (
	rateSize = 1400                   // bytes of a datagram
	rateTime = 250 * time.Millisecond // that a volley takes at the rate
)

// rate limits how many bytes per second pass in each direction between its targets
// and each other endpoint. What would wait for more than half a second is lost.
// In the simulator messages have no size, so each counts as a packet of 1,500 bytes.
type rate struct {
	shaped
	limit int
}

var _ Fault = (*rate)(nil)

// Available implements Fault.
func (r *rate) Available(t Target) error { return r.lacking("rate", t) }

func (r *rate) volley() Volley {
	return Volley{Count: 2 + int(rateTime.Seconds()*float64(r.limit)/rateSize), Size: rateSize}
}

// Inject implements Fault.
func (r *rate) Inject(ctx context.Context, s *Scene) error {
	r.limit = rates[s.rng.IntN(len(rates))]
	r.eachWay = true // what came slowly there comes back slowly by itself
	return r.apply(ctx, s, r.volley(), Shaping{Rate: r.limit})
}

// Prove implements Fault: what arrives of a volley of large datagrams is spread
// over the time that the rate gives it, from either end.
func (r *rate) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	return r.prove(ctx, s, stage, r.volley(), func(_, now Echo) string {
		least := time.Duration(now.Arrived-1) * rateSize * time.Second / time.Duration(r.limit)
		switch {
		case now.Arrived < 2:
			return "too few datagrams arrived"
		case stage == history.Healed && now.There.Spread > least/2, stage != history.Healed && now.There.Spread < least*3/4:
			return fmt.Sprintf("%d datagrams of %d bytes took %s; %d bytes per second were asked for", now.Arrived, rateSize, now.There.Spread, r.limit)
		}
		return ""
	})
}
