package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/faultline-mq/faultline/checker"
)

// Job is one plan for a worker.
type Job struct {
	Plan Plan `json:"plan"`
	// Out, where set, is where a run that did not end as a valid seed is stored: it
	// is run again with everything kept.
	Out     string `json:"out"`
	Keep    bool   `json:"keep,omitempty"` // store it whatever it ends with
	Command string `json:"command"`        // for the report

	index int // among those that were given together
}

// Pool runs simulations in worker processes: a simulation owns process-wide
// randomness, so there is one per process. A nil Pool runs them in this process.
type Pool struct {
	// Workers is the number of processes; less than one counts as one.
	Workers int
	// Start makes the command of one worker: a program that calls ServeWorker with
	// its standard input and output.
	Start func() *exec.Cmd
	// Limit ends a worker that spends more on one job. Default 10 minutes.
	Limit time.Duration
	// Recycle is how many jobs a worker does before another takes its place.
	// Default 200.
	Recycle int
	// MaxMemory replaces a worker that has more bytes from the system. Default 1 GiB.
	MaxMemory uint64
}

func (p *Pool) limits() (limit time.Duration, recycle int, memory uint64) {
	limit, recycle, memory = p.Limit, p.Recycle, p.MaxMemory
	if limit <= 0 {
		limit = 10 * time.Minute
	}
	if recycle <= 0 {
		recycle = 200
	}
	if memory == 0 {
		memory = 1 << 30
	}
	return limit, recycle, memory
}

// do runs one job in this process.
func do(ctx context.Context, j Job) Trial {
	var t Trial
	if j.Keep {
		t = Trial{Seed: j.Plan.Seed, Verdict: checker.HarnessError}
		t.store(ctx, j)
	} else if t = Try(ctx, j.Plan); t.stored(j) && ctx.Err() == nil {
		again := t
		again.store(ctx, j)
		t.Dir, t.Err = again.Dir, again.Err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Memory = m.Sys - m.HeapReleased
	return t
}

// stored reports whether a run that was tried is to be stored.
func (t *Trial) stored(j Job) bool {
	s, _ := t.Standing()
	return s != SeedValid && j.Out != "" && !t.Refused
}

// store runs a job with everything kept, and takes over what it came to.
func (t *Trial) store(ctx context.Context, j Job) {
	o, err := Run(ctx, Config{Plan: j.Plan, RunID: "sim"}, j.Out, j.Command)
	if o.Result != nil && o.History != nil {
		t.summarize(o.Result, o.History, o.Execution)
	}
	t.Dir = o.Dir
	if err != nil && t.Err == "" {
		t.Err = oneLine(err)
	}
}

// each takes jobs from next, in order, until it has no more, and hands every
// trial to done, one at a time, in the order in which they end. Trials that ctx
// cut short are dropped. The first error of next or done ends it.
func (p *Pool) each(ctx context.Context, next func() (Job, bool, error), done func(Job, Trial) error) error {
	if p == nil {
		for {
			j, more, err := next()
			if err != nil || !more {
				return err
			}
			t := do(ctx, j)
			if ctx.Err() != nil {
				return nil
			}
			if err := done(j, t); err != nil {
				return err
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		g     sync.WaitGroup
		mu    sync.Mutex
		first error
		over  bool
	)
	take := func() (Job, bool) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return Job{}, false
		}
		j, more, err := next()
		if err != nil {
			first = errors.Join(first, err)
		}
		over = err != nil || !more
		return j, !over
	}
	give := func(j Job, t Trial, err error) bool {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			err = done(j, t)
		}
		if err != nil {
			first = errors.Join(first, err)
			over = true
			cancel()
		}
		return err == nil
	}
	for range max(1, p.Workers) {
		g.Go(func() {
			w := &worker{pool: p}
			defer w.end()
			for {
				j, more := take()
				if !more {
					return
				}
				t, err := w.do(ctx, j)
				if !give(j, t, err) {
					return
				}
			}
		})
	}
	g.Wait()
	return first
}

// all runs plans and returns their trials in the same order.
func (p *Pool) all(ctx context.Context, plans []Plan) ([]Trial, error) {
	jobs, trials := make([]Job, len(plans)), make([]Trial, len(plans))
	for i := range plans {
		jobs[i].Plan = plans[i]
	}
	err := p.jobs(ctx, jobs, func(i int, t Trial) { trials[i] = t })
	return trials, err
}

// jobs does jobs and hands each trial to done with the index of its job, one at a time,
// in the order in which they end. Where ctx ends first its error is returned.
func (p *Pool) jobs(ctx context.Context, jobs []Job, done func(int, Trial)) error {
	i := -1
	next := func() (Job, bool, error) {
		i++
		if i >= len(jobs) || ctx.Err() != nil {
			return Job{}, false, nil
		}
		j := jobs[i]
		j.index = i
		return j, true, nil
	}
	err := p.each(ctx, next, func(j Job, t Trial) error {
		done(j.index, t)
		return nil
	})
	return errors.Join(err, ctx.Err())
}

// worker is one place of a pool: a process, or none yet.
type worker struct {
	pool *Pool
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	tail *tail
	jobs int
}

// do runs one job in the worker's process. A process that dies or hangs is a
// harness error of its seed, and the next job gets a new one. The error is that
// of a process which cannot be started at all.
func (w *worker) do(ctx context.Context, j Job) (Trial, error) {
	limit, recycle, memory := w.pool.limits()
	if w.cmd == nil {
		if err := w.begin(); err != nil {
			return Trial{}, err
		}
	}
	line, err := json.Marshal(j)
	if err != nil {
		return Trial{}, fmt.Errorf("seed %d: %w", j.Plan.Seed, err)
	}
	cmd := w.cmd
	killed := make(chan struct{})
	timer := time.AfterFunc(limit, func() { close(killed); _ = cmd.Process.Kill() })
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	var t Trial
	_, err = w.in.Write(append(line, '\n'))
	if err == nil {
		var answer []byte
		if answer, err = w.out.ReadBytes('\n'); err == nil {
			err = json.Unmarshal(answer, &t)
		}
	}
	stop()
	timer.Stop()
	if err != nil {
		why := "the worker died: " + w.end()
		select {
		case <-killed:
			why = fmt.Sprintf("the worker did not end within %s and was killed", limit)
		default:
		}
		return Trial{Seed: j.Plan.Seed, Verdict: checker.HarnessError, Sentence: "Harness error: " + why, Err: why, Lost: true, Crash: w.tail.String()}, nil
	}
	if w.jobs++; w.jobs >= recycle || t.Memory > memory {
		w.end()
	}
	return t, nil
}

func (w *worker) begin() error {
	cmd := w.pool.Start()
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting a worker: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting a worker: %w", err)
	}
	w.tail = &tail{}
	cmd.Stderr = w.tail
	// One simulation runs on one thread at a time; the others are other workers'.
	if !slices.ContainsFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "GOMAXPROCS=") }) {
		cmd.Env = append(cmd.Environ(), "GOMAXPROCS=1")
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting a worker: %w", err)
	}
	w.cmd, w.in, w.out, w.jobs = cmd, in, bufio.NewReaderSize(out, 1<<16), 0
	return nil
}

// end ends the worker's process, where there is one, and says how it ended.
func (w *worker) end() string {
	if w.cmd == nil {
		return "it was not running"
	}
	cmd := w.cmd
	w.cmd = nil
	_ = w.in.Close() // it ends when its input does
	timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	how := "exit status 0"
	if err := cmd.Wait(); err != nil {
		how = err.Error()
	}
	if last := w.tail.firstLine(); last != "" {
		how += ": " + last
	}
	return how
}

// tail keeps the beginning and the end of what is written to it: of a crash both
// tell.
type tail struct {
	mu        sync.Mutex
	head, end []byte
	cut       bool
}

const tailBytes = 16 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(b)
	if room := tailBytes - len(t.head); room > 0 {
		room = min(room, len(b))
		t.head = append(t.head, b[:room]...)
		b = b[room:]
	}
	t.end = append(t.end, b...)
	if len(t.end) > tailBytes {
		t.end, t.cut = append([]byte(nil), t.end[len(t.end)-tailBytes:]...), true
	}
	return n, nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	gap := ""
	if t.cut {
		gap = "\n…\n"
	}
	return string(t.head) + gap + string(t.end)
}

func (t *tail) firstLine() string {
	line, _, _ := strings.Cut(strings.TrimSpace(t.String()), "\n")
	return line
}

// workerMemory is the soft limit of a worker's heap, in bytes.
const workerMemory = 512 << 20

// tuneWorker trades a worker's memory for its time.
func tuneWorker() {
	debug.SetMemoryLimit(workerMemory)
	debug.SetGCPercent(400) // a run's garbage is worth little of its time, and the limit holds
}

// ServeWorker is a worker process: it takes jobs from in, one JSON object a line,
// runs each and writes its trial to out likewise, until in ends. When in ends
// during a job, nobody waits for it any more, and it is cut short.
func ServeWorker(ctx context.Context, in io.Reader, out io.Writer) error {
	tuneWorker()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		r := bufio.NewReaderSize(in, 1<<16)
		for {
			line, err := r.ReadBytes('\n')
			if err != nil {
				cancel(err)
				return
			}
			select {
			case lines <- line:
			case <-ctx.Done():
				return
			}
		}
	}()
	enc := json.NewEncoder(out)
	for line := range lines {
		var j Job
		if err := json.Unmarshal(line, &j); err != nil {
			return fmt.Errorf("job: %w", err)
		}
		t := do(ctx, j)
		if ctx.Err() != nil {
			break
		}
		if err := enc.Encode(t); err != nil {
			return fmt.Errorf("answering: %w", err)
		}
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("reading a job: %w", err)
	}
	return nil
}
