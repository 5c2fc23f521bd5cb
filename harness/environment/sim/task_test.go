package sim

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTasksRunOneAtATimeInOrderOfTime(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	var log []string
	err := r.Run(ctx, func() {
		g := r.Group()
		for i := range 3 {
			g.Go("t", func() {
				for k := range 3 {
					log = append(log, fmt.Sprintf("%d.%d@%v", i, k, r.Now()))
					r.sleep(time.Duration(3-i) * ms)
				}
			})
		}
		g.Wait()
		log = append(log, fmt.Sprintf("end@%v", r.Now()))
	})
	require.NoError(t, err)
	require.Equal(t, []string{
		"0.0@0s", "1.0@0s", "2.0@0s", "2.1@1ms", "1.1@2ms", "2.2@2ms", "0.1@3ms", "1.2@4ms", "0.2@6ms", "end@9ms",
	}, log)
}

func TestPanicOfATaskSurfacesWithItsStack(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	unwound := false
	err := r.Run(ctx, func() {
		g := r.Group()
		g.Go("bystander", func() {
			defer func() { unwound = r.Sleep(ctx, time.Hour) != nil }()
			r.sleep(time.Hour)
		})
		g.Go("culprit", func() {
			r.sleep(ms)
			explode()
		})
		g.Wait()
	})
	var p *TaskPanic
	require.ErrorAs(t, err, &p)
	require.Equal(t, "culprit", p.Task)
	require.Equal(t, "boom", p.Value)
	require.Contains(t, string(p.Stack), "explode")
	require.True(t, unwound, "deferred calls of the other tasks run, and do not wait")
}

func explode() { panic("boom") }

func TestCancellationEndsSleeps(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	err := r.Run(ctx, func() {
		c, cancel := context.WithCancelCause(ctx)
		g := r.Group()
		var at []time.Duration
		for range 2 {
			g.Go("sleeper", func() {
				require.ErrorIs(t, r.Sleep(c, time.Hour), context.Canceled)
				at = append(at, r.Now())
				require.ErrorIs(t, r.Sleep(c, time.Hour), context.Canceled, "an ended context never sleeps")
			})
		}
		r.sleep(5 * ms)
		cancel(errors.New("enough"))
		g.Wait()
		require.Equal(t, []time.Duration{5 * ms, 5 * ms}, at)
		r.sleep(2 * time.Hour) // the abandoned timers do no harm
	})
	require.NoError(t, err)
	require.Empty(t, r.watches)
}

func TestCancellationOfRun(t *testing.T) {
	c, cancel := context.WithCancel(ctx)
	r := newRig(t, 1, nil, nil)
	cleaned := false
	require.NoError(t, r.Run(c, func() {
		r.sleep(ms)
		cancel()
		require.ErrorIs(t, r.Sleep(c, time.Hour), context.Canceled)
		require.NoError(t, r.Sleep(context.WithoutCancel(c), time.Minute))
		cleaned = true
	}))
	require.True(t, cleaned)

	err := r.Run(c, func() {
		for {
			r.sleep(time.Second)
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, `"main" in Sleep`)
}

func TestDeadlockIsNamed(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	err := r.Run(ctx, func() {
		g2 := r.Group()
		g := r.Group()
		g.Go("left", func() { g2.Wait() })
		g2.Go("right", func() { g.Wait() })
		g.Wait()
	})
	require.ErrorIs(t, err, ErrDeadlock)
	require.ErrorContains(t, err, `"left" in Group.Wait`)
}

func TestLimits(t *testing.T) {
	loop := func(r *rig) error {
		return r.Run(ctx, func() {
			for {
				r.sleep(time.Second)
			}
		})
	}
	r := newRig(t, 1, nil, func(o *Options) { o.MaxTime = time.Minute })
	require.ErrorIs(t, loop(r), ErrLimit)
	require.Equal(t, time.Minute, r.Now())
	r = newRig(t, 1, nil, func(o *Options) { o.MaxEvents = 100 })
	require.ErrorIs(t, loop(r), ErrLimit)
	require.EqualValues(t, 100, r.Executed())
}

func TestWaitsOutsideOfTasksAreErrors(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	require.ErrorIs(t, r.Sleep(ctx, ms), ErrOutside)
	require.ErrorIs(t, r.Up(ctx), ErrOutside)
	_, err := r.Call(ctx, "c", "n1", nil, ms)
	require.ErrorIs(t, err, ErrOutside)
	require.NoError(t, r.Run(ctx, func() {
		require.ErrorContains(t, r.Run(ctx, func() {}), "inside of Run")
	}))
}

func TestRunAgainGoesOn(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	require.NoError(t, r.Run(ctx, func() { r.sleep(ms) }))
	require.NoError(t, r.Run(ctx, func() { r.sleep(ms) }))
	require.Equal(t, 2*ms, r.Now())
}

// The wait for a node's end must not wake a later, unrelated wait.
func TestStaleWaitersAreNotWoken(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	r.run(func() {
		_, err := r.Processes().Stop(ctx, "n1", 10*ms)
		require.ErrorContains(t, err, "still runs")
		g := r.Group()
		g.Go("killer", func() {
			r.sleep(5 * ms)
			require.NoError(t, r.Processes().Kill(ctx, "n1"))
		})
		begin := r.Now()
		r.sleep(time.Second)
		require.Equal(t, begin+time.Second, r.Now())
		g.Wait()
	})
}
