package environment

import (
	"context"
	"sync"
	"time"
)

// Realtime is the Runtime of real time: goroutines, and the monotonic clock of this
// process.
type Realtime struct{ start time.Time }

var _ Runtime = (*Realtime)(nil)

// NewRealtime starts a clock at zero.
func NewRealtime() *Realtime { return &Realtime{start: time.Now()} }

// Now returns the time since the clock was started.
func (r *Realtime) Now() time.Duration { return time.Since(r.start) }

// Sleep waits for d, or until ctx ends and then returns its error.
func (r *Realtime) Sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Group returns a new group of goroutines.
func (r *Realtime) Group() Group { return &group{} }

type group struct{ wg sync.WaitGroup }

func (g *group) Go(_ string, task func()) { g.wg.Go(task) }
func (g *group) Wait()                    { g.wg.Wait() }
