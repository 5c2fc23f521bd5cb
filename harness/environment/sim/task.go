package sim

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/harness/environment"
)

// ErrStopped is returned by waits of a task whose World's Run has ended.
var ErrStopped = errors.New("the simulation has stopped")

// ErrOutside is returned by a wait that was not called from a task of a running World.
var ErrOutside = errors.New("called outside of a task: only code below World.Run may wait in virtual time")

// TaskPanic is the error of a Run in which a task panicked.
type TaskPanic struct {
	Task  string
	Value any
	Stack []byte
}

func (p *TaskPanic) Error() string {
	return fmt.Sprintf("task %q panicked: %v\n%s", p.Task, p.Value, p.Stack)
}

// unwind is the value with which a task that outlives its Run is unwound.
type unwind struct{}

// cause says why a parked task goes on.
type cause uint8

const (
	timeout   cause = iota // its time has come
	woken                  // what it waited for has happened
	cancelled              // its context has ended
	stopped                // the Run has ended
)

type taskState uint8

const (
	fresh taskState = iota
	active
	parked
	waking
	finished
)

// task is a coroutine of the harness.
type task struct {
	id    int
	name  string
	state taskState
	gen   uint64
	cause cause
	timed bool // its time-out is on the queue, in slot timer
	timer uint32
	why   string // what it is parked for
	ctx   context.Context

	next      func() (struct{}, bool)
	stop      func()
	yield     func(struct{}) bool
	unwinding bool
	failure   *TaskPanic
	group     *group
}

// watch lists the tasks that are parked under one context.
type watch struct {
	done  <-chan struct{}
	tasks []*task
}

func (w *World) spawn(name string, g *group, body func()) *task {
	w.taskSeq++
	t := &task{id: w.taskSeq, name: name, group: g}
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		defer func() {
			r := recover()
			if _, ok := r.(unwind); r != nil && !ok {
				t.failure = &TaskPanic{Task: t.name, Value: r, Stack: debug.Stack()}
			}
			t.state = finished
		}()
		body()
	})
	w.tasks = append(w.tasks, t)
	w.queue.push(w.now, action{kind: evTask, on: t, gen: t.gen})
	return t
}

// resume runs t until it parks or ends. Only the event loop calls it.
func (w *World) resume(t *task) {
	if t.state == parked { // its timer fired
		t.cause, t.timed = timeout, false
	}
	w.unwatch(t)
	t.gen++
	t.state, t.why = active, ""
	w.current = t
	defer func() { w.current = nil }() // also when the task ends in runtime.Goexit
	t.next()
	w.current = nil
	if t.state == finished {
		w.reap(t)
	}
	w.pollContexts()
}

// reap forgets a finished task.
func (w *World) reap(t *task) {
	if i := slices.Index(w.tasks, t); i >= 0 {
		w.tasks = slices.Delete(w.tasks, i, i+1)
	}
	if t.failure != nil && w.failure == nil {
		w.failure = t.failure
	}
	if t.group != nil {
		t.group.finished()
	}
}

// park gives way until wake is called, the time until has come (negative:
// never) or ctx ends.
func (w *World) park(ctx context.Context, until time.Duration, why string) cause {
	t := w.current
	if t.unwinding {
		return stopped
	}
	if ctx.Err() != nil {
		return cancelled
	}
	if ctx.Done() != nil {
		w.watch(ctx, t)
	}
	if until >= 0 {
		t.timer, t.timed = w.queue.push(max(until, w.now), action{kind: evTask, on: t, gen: t.gen}), true
	}
	t.state, t.why = parked, why
	w.current = nil
	if !t.yield(struct{}{}) {
		w.current = t
		t.unwinding = true
		panic(unwind{})
	}
	return t.cause
}

// wake lets a parked task go on, after the current event and those already due.
func (w *World) wake(t *task, c cause) {
	if t == nil || t.state != parked {
		return
	}
	if t.timed { // most waits end long before their time: the queue stays short
		w.queue.remove(t.timer)
		t.timed = false
	}
	t.gen++
	t.cause, t.state = c, waking
	w.queue.push(w.now, action{kind: evTask, on: t, gen: t.gen})
}

func (w *World) watch(ctx context.Context, t *task) {
	t.ctx = ctx
	for i := range w.watches {
		if w.watches[i].done == ctx.Done() {
			w.watches[i].tasks = append(w.watches[i].tasks, t)
			return
		}
	}
	w.watches = append(w.watches, watch{done: ctx.Done(), tasks: []*task{t}})
}

func (w *World) unwatch(t *task) {
	if t.ctx == nil {
		return
	}
	done := t.ctx.Done()
	t.ctx = nil
	for i := range w.watches {
		wa := &w.watches[i]
		if wa.done != done {
			continue
		}
		if j := slices.Index(wa.tasks, t); j >= 0 {
			wa.tasks = slices.Delete(wa.tasks, j, j+1)
		}
		if len(wa.tasks) == 0 {
			w.watches = slices.Delete(w.watches, i, i+1)
		}
		return
	}
}

// pollContexts wakes the tasks whose context has ended. It runs after every
// slice of a task, so that a cancellation by a task is seen at a moment that the
// seed decides.
func (w *World) pollContexts() {
	for i := range w.watches {
		select {
		case <-w.watches[i].done:
			for _, t := range w.watches[i].tasks {
				w.wake(t, cancelled)
			}
		default:
		}
	}
}

// unwindTasks ends every task that is left. Their deferred calls run; waits in
// them return at once.
func (w *World) unwindTasks() {
	for len(w.tasks) > 0 {
		t := w.tasks[len(w.tasks)-1]
		w.tasks = w.tasks[:len(w.tasks)-1]
		w.unwatch(t)
		t.gen++
		t.unwinding = true
		t.stop()
		t.state = finished
		if t.failure != nil && w.failure == nil {
			w.failure = t.failure
		}
		if t.group != nil {
			t.group.n--
		}
	}
	w.current, w.watches = nil, nil
}

// stuck describes the parked tasks.
func (w *World) stuck() string {
	var b strings.Builder
	for i, t := range w.tasks {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q in %s", t.name, t.why)
	}
	return b.String()
}

// Sleep parks the calling task for d of virtual time. It returns early with
// ctx's error when ctx ends, and ErrStopped or ErrOutside where time cannot pass
// for the caller.
func (w *World) Sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.current == nil {
		return ErrOutside
	}
	return w.causeErr(ctx, w.park(ctx, w.now+max(d, 0), "Sleep"))
}

func (w *World) causeErr(ctx context.Context, c cause) error {
	switch c {
	case cancelled:
		return ctx.Err()
	case stopped:
		return ErrStopped
	default:
		return nil
	}
}

// group implements environment.Group.
type group struct {
	w       *World
	n       int
	waiters []*task
}

var _ environment.Group = (*group)(nil)

// Group returns a new group of tasks.
func (w *World) Group() environment.Group { return &group{w: w} }

// Go starts a task. It runs once the caller gives way.
func (g *group) Go(name string, body func()) {
	g.n++
	g.w.spawn(name, g, body)
}

// Wait parks the calling task until all tasks of the group are done. A panic
// of one of them ends the Run.
func (g *group) Wait() {
	for g.n > 0 {
		if g.w.current == nil {
			panic(ErrOutside)
		}
		g.waiters = append(g.waiters, g.w.current)
		if g.w.park(context.Background(), -1, "Group.Wait") == stopped {
			return
		}
	}
}

func (g *group) finished() {
	g.n--
	if g.n > 0 {
		return
	}
	for _, t := range g.waiters {
		g.w.wake(t, woken)
	}
	g.waiters = nil
}
