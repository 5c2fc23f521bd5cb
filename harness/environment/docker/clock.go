package docker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// hostClock maps the wall clock of the engine's host, which all containers
// share, to the run's clock. Each sample bounds the offset between the two by
// half of its round trip.
type hostClock struct {
	mu      sync.Mutex
	samples []clockSample // the newest last, at most clockWindow
}

type clockSample struct {
	offset time.Duration // wall clock (since 1970) minus run clock
	half   time.Duration
}

const clockWindow = 8

func (h *hostClock) add(before, after time.Duration, wall time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	mid := before + (after-before)/2
	h.samples = append(h.samples, clockSample{
		offset: time.Duration(wall.UnixNano()) - mid,
		half:   (after - before) / 2,
	})
	if len(h.samples) > clockWindow {
		h.samples = h.samples[1:]
	}
}

// at maps wall (nanoseconds since 1970). ok is false before the first sample.
// The best sample of the window gives the offset; where a later one shows that
// the clocks drifted apart or were stepped, that difference is uncertain too.
func (h *hostClock) at(wall int64) (at, uncertainty int64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.samples) == 0 {
		return 0, 0, false
	}
	best := h.samples[0]
	for _, s := range h.samples[1:] {
		if s.half <= best.half {
			best = s
		}
	}
	uncertain := best.half
	for _, s := range h.samples {
		if apart := max(s.offset-best.offset, best.offset-s.offset); apart > best.half+s.half {
			uncertain = max(uncertain, apart+s.half)
		}
	}
	return wall - int64(best.offset), int64(uncertain), true
}

// clocks sets nodes' wall clocks through their sidecars.
type clocks struct{ e *Environment }

var _ nemesis.Clocks = clocks{}

// How well a clock is to be read, and how often that is tried.
const (
	clockPrecision = 20 * time.Millisecond
	clockTries     = 5
)

// Offset asks the node for its wall clock, next to it: neither cut links nor the
// way to the engine's host count.
func (c clocks) Offset(ctx context.Context, node string) (time.Duration, error) {
	agent, err := c.e.agent(node)
	if err != nil {
		return 0, fmt.Errorf("clock of %s: %w", node, err)
	}
	var r sidecar.ClockReading
	for range clockTries {
		if r, err = agent.ReadClock(ctx, uint16(c.e.cfg.Ports.Admin)); err != nil {
			return 0, fmt.Errorf("clock of %s: %w", node, err)
		}
		if r.Error <= clockPrecision {
			return r.Offset, nil
		}
	}
	return 0, fmt.Errorf("clock of %s: %d readings took too long, the last one %v", node, clockTries, 2*r.Error)
}

func (c clocks) Jump(ctx context.Context, node string, by time.Duration) error {
	return c.set(ctx, node, sidecar.ClockRequest{Op: sidecar.ClockJump, By: by})
}

func (c clocks) Drift(ctx context.Context, node string, rate float64) error {
	return c.set(ctx, node, sidecar.ClockRequest{Op: sidecar.ClockDrift, Rate: rate})
}

func (c clocks) Strobe(ctx context.Context, node string, by, period time.Duration) error {
	return c.set(ctx, node, sidecar.ClockRequest{Op: sidecar.ClockStrobe, By: by, Period: period})
}

func (c clocks) Restore(ctx context.Context, node string) error {
	return c.set(ctx, node, sidecar.ClockRequest{Op: sidecar.ClockRestore})
}

func (c clocks) set(ctx context.Context, node string, req sidecar.ClockRequest) error {
	agent, err := c.e.agent(node)
	if err == nil {
		err = agent.SetClock(ctx, req)
	}
	if err != nil {
		return fmt.Errorf("clock of %s: %w", node, err)
	}
	return nil
}
