package nemesis

import (
	"context"
	"fmt"
	"time"
)

// Use is what the machine of a node says of its process at one moment: what the
// process is allowed, and what it used since it was started.
type Use struct {
	// Of each Period it may run for Quota; below 0: for all of it.
	Period, Quota time.Duration
	CPU           time.Duration // that it ran
	Throttled     uint64        // periods in which it had to wait for the next one
	ThrottledFor  time.Duration // how long it did
	Limit         int64         // bytes of memory that it may have; negative: all
	Memory        int64         // bytes that it has, with what is cached of the files that it uses
	Resident      int64         // bytes of that which cannot be taken from it
	Hits          uint64        // how often it wanted more than Limit, and something was taken from it
}

// Limiter limits what nodes' processes may use of their machines. Limits hold for
// the next process of a node too.
type Limiter interface {
	// Use asks the node's machine. The process must run.
	Use(ctx context.Context, node string) (Use, error)
	// LimitCPU lets a node's process have so many processors' time, such as 0.05.
	LimitCPU(ctx context.Context, node string, processors float64) error
	// FreeCPU ends that: the limits before it are in force again. What is not limited is left alone.
	FreeCPU(ctx context.Context, node string) error
	// LimitMemory lets a node's process have so many bytes, what is cached of the
	// files that it uses included.
	LimitMemory(ctx context.Context, node string, bytes int64) error
	// FreeMemory ends that: the limits before it are in force again. What is not limited is left alone.
	FreeMemory(ctx context.Context, node string) error
	// Press caches so many bytes of a file of its own at the expense of a node's
	// process, which must run: all that can be taken from it, if it is more than its limit.
	Press(ctx context.Context, node string, bytes int64) error
}

// limited is what faults that limit processes share. The processes belong to the
// fault, and those that died of it are started again when it is healed.
type limited struct {
	held
	hit  []string
	was  map[string]Use // before the injection
	last map[string]Use // at the last look
}

// limit notes what processes use, over a while, and limits them.
func (l *limited) limit(ctx context.Context, s *Scene, over time.Duration, one func(node string) error) error {
	if err := l.take(ctx, s); err != nil {
		return err
	}
	l.was, l.last = map[string]Use{}, map[string]Use{}
	for _, n := range s.Targets {
		u, err := l.use(ctx, s, n)
		if err != nil {
			return err
		}
		l.was[n] = u
	}
	if err := s.Clock.Sleep(ctx, over); err != nil {
		return err
	}
	for _, n := range s.Targets {
		u, err := l.use(ctx, s, n)
		if err != nil {
			return err
		}
		l.last[n] = u
	}
	for _, n := range s.Targets {
		l.hit = append(l.hit, n)
		if err := one(n); err != nil {
			return fmt.Errorf("limiting %s: %w", n, err)
		}
	}
	return nil
}

// free restores the limits and starts what died.
func (l *limited) free(ctx context.Context, s *Scene, one func(ctx context.Context, node string) error) error {
	return l.undo(ctx, s, l.hit, "restoring the limits", one)
}

// use asks for what a node's process uses. One that does not run, or is another
// than before, proves nothing.
func (l *limited) use(ctx context.Context, s *Scene, node string) (Use, error) {
	st, err := s.Processes.State(ctx, node)
	if err != nil {
		return Use{}, fmt.Errorf("state of %s: %w", node, err)
	}
	if !st.Running || st.Started != l.before[node].Started {
		return Use{}, unproven("cannot be proven: %s is %s, and it began with pid %d", node, describe(st), l.before[node].PID)
	}
	u, err := s.Limiter.Use(ctx, node)
	if err != nil {
		// It may have ended in between.
		if st, serr := s.Processes.State(ctx, node); serr == nil && !st.Running {
			return Use{}, unproven("cannot be proven: %s is %s", node, describe(st))
		}
		return Use{}, fmt.Errorf("what %s uses: %w", node, err)
	}
	return u, nil
}

// proveFree proves that every process runs, answers and has the limits of before.
func (l *limited) proveFree(ctx context.Context, s *Scene, tell func(Use) string) (Proof, error) {
	proof, err := s.proveAnswers(ctx, func(string, ProcessState) string { return "" })
	if err != nil {
		return proof, err
	}
	for _, n := range s.Targets {
		u, err := s.Limiter.Use(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("what %s uses: %w", n, err)
		}
		proof.Figures[n] += ", with " + tell(u)
		if tell(u) != tell(l.was[n]) {
			return Proof{}, &UnprovenError{fmt.Sprintf("was not healed: %s has %s, and had %s before it", n, tell(u), tell(l.was[n])), proof.Figures}
		}
	}
	proof.Detail += ", with the limits of before"
	return proof, nil
}
