package docker

import (
	"context"
	"sync"
	"time"

	"github.com/faultline-mq/faultline/harness/environment"
)

// Runtime runs tasks as goroutines on the monotonic clock of this process.
type Runtime struct{ start time.Time }

var _ environment.Runtime = (*Runtime)(nil)

// NewRuntime starts a clock at zero.
func NewRuntime() *Runtime { return &Runtime{start: time.Now()} }

// Now returns the time since the clock was started.
func (r *Runtime) Now() time.Duration { return time.Since(r.start) }

// Sleep waits for d, or until ctx ends and then returns its error.
func (r *Runtime) Sleep(ctx context.Context, d time.Duration) error {
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
func (r *Runtime) Group() environment.Group { return &group{} }

type group struct{ wg sync.WaitGroup }

func (g *group) Go(_ string, task func()) { g.wg.Go(task) }
func (g *group) Wait()                    { g.wg.Wait() }
