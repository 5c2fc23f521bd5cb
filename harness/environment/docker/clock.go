package docker

import (
	"sync"
	"time"
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
