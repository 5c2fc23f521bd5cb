package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/environment/external"
	"github.com/faultline-mq/faultline/harness/environment/sim"
	"github.com/faultline-mq/faultline/harness/report"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/workloads"
)

// Config is what a run needs beside its plan.
type Config struct {
	Plan     Plan // resolved or not
	RunID    string
	Progress *report.Progress
	Log      *slog.Logger
	Keep     bool // leave a failed docker cluster up

	// Watch checks the history while it is recorded (checker.Online) and tells
	// Progress of the first violation. A plan that stops on violation is always
	// watched.
	Watch bool

	// DockerConfig and SimOptions, where set, change the environment before it is
	// made: for tests that sabotage it.
	DockerConfig func(*docker.Config)
	SimOptions   func(*sim.Options)
}

// Limits of a run's parts, on the run's clock.
const (
	drainLimit    = 60 * time.Second
	recoveryExtra = 30 * time.Second // beyond the planned recovery, for every partition to take a write and every queue to serve a consumer
	stallAfter    = 250 * time.Millisecond
)

// Execution is what carrying out a plan left.
type Execution struct {
	Plan     Plan // resolved
	RunID    string
	Started  time.Time
	Duration time.Duration
	Versions map[string]string
	// Digest identifies everything that a simulation did, "" in docker.
	Digest string
	// Online is what was found while the run went on; nil where nobody watched.
	Online *checker.OnlineReport
	// Stopped says why the fault phase ended early; nil where it did not.
	Stopped *report.Stopped
	// leave, where set, ends the environment that was kept up for judgement:
	// removed, or left to the user where failed.
	leave func(ctx context.Context, failed bool) error
	// Err is a failure of the harness (or its cancellation): the run did not
	// complete, and what was recorded until then is all there is.
	Err error
}

// run is one run in progress.
type run struct {
	cfg     Config
	plan    Plan
	sys     system.System
	spec    system.Spec
	env     environment.Environment
	rt      environment.Runtime
	cluster system.Cluster
	sink    history.Sink

	stop   atomic.Bool // clients are to end
	counts [3]atomic.Int64
	mu     sync.Mutex
	phase  string
	active map[int]string      // faults in force
	acked  map[int32]bool      // keys that took a write in the recovery phase
	served map[int32]bool      // queues that gave a message to a consumer in it
	told   []history.NodeEvent // what the nodes reported, where a step waits for it

	version string // that the nodes run, by their own word; "": they do not say

	online    *checker.Online // nil: nobody watches
	violation *report.Stopped // the first that was found
}

// Header describes the history of a resolved plan.
func Header(p Plan, runID string, started time.Time) (history.Header, error) {
	sys, err := LookupSystem(p.System)
	if err != nil {
		return history.Header{}, err
	}
	specs, err := p.clientSpecs(sys)
	if err != nil {
		return history.Header{}, err
	}
	h := history.Header{
		RunID: runID, Seed: p.Seed, System: p.System, Scheme: p.Scheme, Workload: p.Workload, Keys: sys.Keys(p.spec(runID)), Queues: sys.Queues(p.spec(runID)), Nodes: p.places(),
		Started: started.UTC().Format(time.RFC3339Nano), Contract: sys.Contract(p.spec(runID)),
	}
	for _, s := range specs {
		c := history.Client{Name: s.Name, Role: s.Role, Loyal: s.Loyal, Idempotent: s.Idempotent}
		if s.Pinned >= 0 {
			c.Pinned = h.Nodes[s.Pinned]
		}
		h.Clients = append(h.Clients, c)
	}
	return h, nil
}

// Execute carries out a resolved plan and records it in sink. nodesDir, where
// not empty, receives the nodes' logs and data digests. Errors of the plan come
// back as err; failures of the harness are in Execution.Err.
func Execute(ctx context.Context, cfg Config, sink history.Sink, nodesDir string) (ex Execution, err error) {
	p := cfg.Plan
	sys, err := LookupSystem(p.System)
	if err != nil {
		return ex, err
	}
	r := &run{cfg: cfg, plan: p, sys: sys, spec: p.spec(cfg.RunID), sink: sink, active: map[int]string{}, acked: map[int32]bool{}, served: map[int32]bool{}}
	if cfg.Watch || p.StopOnViolation {
		header, err := Header(p, cfg.RunID, time.Now())
		if err != nil {
			return ex, err
		}
		r.online = checker.NewOnline(sink, header, checker.OnlineOptions{Found: r.found})
		r.sink = r.online
	}
	if cfg.Log == nil {
		r.cfg.Log = slog.New(slog.DiscardHandler)
	}
	ex = Execution{Plan: p, RunID: cfg.RunID, Started: time.Now()}
	switch p.Environment {
	case "sim":
		err = r.simulate(ctx, &ex, nodesDir)
	case "external":
		err = r.reach(ctx, &ex, nodesDir)
	default:
		err = r.contain(ctx, &ex, nodesDir)
	}
	r.unwatch(&ex)
	return ex, err
}

// simulate runs in the simulator.
func (r *run) simulate(ctx context.Context, ex *Execution, nodesDir string) error {
	opts, err := r.sys.Sim(r.spec)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadPlan, err)
	}
	if r.cfg.SimOptions != nil {
		r.cfg.SimOptions(&opts)
	}
	w, err := sim.New(opts)
	if err != nil {
		return err
	}
	restore, err := w.InstallRandReader()
	if err != nil {
		return err
	}
	defer restore()
	r.env, r.rt, r.cluster = w, w, r.sys.ConnectSim(r.spec, w)
	var failed error
	if err := w.Run(ctx, func() { failed = r.whole(ctx, ex, nodesDir) }); err != nil {
		failed = errors.Join(failed, err)
	}
	for _, c := range w.Crashes() {
		failed = errors.Join(failed, fmt.Errorf("node %s crashed: %v", c.Node, c))
	}
	ex.Err = failed
	ex.Digest = w.TraceDigest()
	return nil
}

// contain runs in containers.
func (r *run) contain(ctx context.Context, ex *Execution, nodesDir string) error {
	cfg, err := r.sys.Docker(r.spec)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadPlan, err)
	}
	cfg.Log = r.cfg.Log
	cfg.Disks, cfg.Throttle = disksNeeded(r.plan.Steps)
	cfg.Limits = limitsNeeded(r.plan.Steps)
	if cfg.NextImage = r.plan.Upgrade; cfg.NextImage == "" && upgrades(r.plan.Steps) {
		if cfg.NextImage, err = docker.BuildNextImage(ctx, nil); err != nil {
			return err
		}
	}
	cfg.Try = kernelNeeded(r.plan.Steps)
	if r.cfg.DockerConfig != nil {
		r.cfg.DockerConfig(&cfg)
	}
	env, err := docker.New(cfg)
	if err != nil {
		return err
	}
	r.env, r.rt, r.cluster = env, env.Runtime(), r.sys.ConnectDocker(r.spec, env)
	if r.cfg.Keep {
		ex.leave = func(ctx context.Context, failed bool) error {
			if failed {
				return env.Release(ctx)
			}
			return env.Down(ctx)
		}
	}
	r.live(ctx, ex, nodesDir)
	return nil
}

// reach runs against a cluster that is there.
func (r *run) reach(ctx context.Context, ex *Execution, nodesDir string) error {
	sys, ok := r.sys.(system.Reachable)
	if !ok {
		return fmt.Errorf("%w: system %s cannot be reached by addresses", ErrBadPlan, r.plan.System)
	}
	env, err := external.New(external.Config{RunID: r.spec.RunID, Nodes: r.spec.Nodes, Addresses: r.spec.Addresses})
	if err != nil {
		return err
	}
	r.env, r.rt, r.cluster = env, env.Runtime(), sys.ConnectExternal(r.spec, env)
	r.live(ctx, ex, nodesDir)
	return nil
}

// live runs in real time.
func (r *run) live(ctx context.Context, ex *Execution, nodesDir string) {
	watching, done := context.WithCancel(ctx)
	var g sync.WaitGroup
	g.Go(func() { r.watch(watching) })
	ex.Err = r.whole(ctx, ex, nodesDir)
	done()
	g.Wait()
}

// watch notices when the harness itself stood still, and keeps the display going.
func (r *run) watch(ctx context.Context) {
	const tick = 50 * time.Millisecond
	last := r.rt.Now()
	for r.rt.Sleep(ctx, tick) == nil {
		now := r.rt.Now()
		if now-last-tick > stallAfter {
			r.sink.Event(history.Stall{From: int64(last), To: int64(now)})
		}
		last = now
		r.show()
	}
}

func (r *run) show() {
	if r.cfg.Progress == nil {
		return
	}
	r.mu.Lock()
	s := report.Status{Phase: r.phase, Elapsed: r.rt.Now(), Total: r.plan.Time}
	for _, step := range r.plan.Steps {
		if f, ok := r.active[step.ID]; ok {
			s.Faults = append(s.Faults, f)
		}
	}
	r.mu.Unlock()
	s.OK, s.Failed, s.Indeterminate = int(r.counts[0].Load()), int(r.counts[1].Load()), int(r.counts[2].Load())
	r.cfg.Progress.Update(s)
}

// Event implements nemesis.Recorder: faults go into the history, and what is in
// force is shown.
func (r *run) Event(ev any) {
	if f, ok := ev.(history.Fault); ok {
		r.mu.Lock()
		switch f.Stage {
		case history.Injecting:
			r.active[f.ID] = f.Name
		case history.Injected:
			r.active[f.ID] = strings.TrimSpace(f.Name + " " + strings.Join(f.Targets, ","))
		case history.Healed, history.Unproven, history.Skipped:
			delete(r.active, f.ID)
		}
		r.mu.Unlock()
		if f.Stage == history.Skipped {
			r.cfg.Progress.Note("%s", f.Detail)
		}
		if f.Stage == history.Unproven {
			r.cfg.Progress.Note("fault without effect: %s: %s", f.Name, f.Detail)
		}
	}
	r.sink.Event(ev)
}

func (r *run) enter(phase string) {
	r.mu.Lock()
	r.phase = phase
	r.mu.Unlock()
	r.sink.Event(history.Phase{Name: phase, At: int64(r.rt.Now())})
	r.show()
}

// whole is a run from environment up to environment down.
func (r *run) whole(ctx context.Context, ex *Execution, nodesDir string) (err error) {
	waits := slices.ContainsFunc(r.plan.Steps, func(s nemesis.Step) bool { return s.When != "" })
	r.env.Events(func(ev history.NodeEvent) {
		r.sink.Event(ev)
		if waits {
			r.mu.Lock()
			r.told = append(r.told, ev)
			r.mu.Unlock()
		}
	})
	runs := "" // what the nodes say that they run
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), environment.DownTimeout)
		defer cancel()
		ex.Duration = r.rt.Now()
		if ex.Versions = r.env.Versions(); r.version != "" {
			ex.Versions = maps.Clone(ex.Versions)
			if ex.Versions == nil {
				ex.Versions = map[string]string{}
			}
			ex.Versions[r.plan.System] = r.version
		}
		if runs != "" {
			ex.Versions["nodes"] = runs
		}
		if nodesDir != "" {
			if cerr := r.env.Collect(cleanup, nodesDir); cerr != nil {
				err = errors.Join(err, fmt.Errorf("collecting the nodes' logs: %w", cerr))
			}
		}
		if c, ok := r.cluster.(system.Closer); ok {
			err = errors.Join(err, c.Close(cleanup))
		}
		if ex.leave != nil {
			return
		}
		if derr := r.env.Down(cleanup); derr != nil {
			err = errors.Join(err, fmt.Errorf("clean-up: %w; `faultline clean` removes what is left", derr))
		}
	}()
	r.enter("setup")
	up, cancel := context.WithTimeout(ctx, environment.UpTimeout)
	defer cancel()
	if err := r.env.Up(up); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	if err := r.cluster.Setup(ctx); err != nil {
		return err
	}
	if v := r.cluster.Versions(); v != nil { // what the nodes say of themselves, as far as they do
		r.version, _ = v.Version(ctx, r.spec.Nodes[0])
	}
	runs = r.versions(ctx)
	return r.work(ctx)
}

// versions words what the nodes say that they run; "" where they do not.
func (r *run) versions(ctx context.Context) string {
	v := r.cluster.Versions()
	if v == nil {
		return ""
	}
	var words []string
	for _, n := range r.spec.Nodes {
		// One that does not say is named by what the environment knows of it.
		if version, err := v.Version(ctx, n); err == nil && !slices.Contains(words, version) {
			words = append(words, version)
		}
	}
	return strings.Join(words, ", ")
}

// target is what the nemesis acts on.
func (r *run) target() nemesis.Target {
	return nemesis.Target{
		Nodes: r.spec.Nodes, Clock: r.rt, Network: r.env.Network(), Processes: r.env.Processes(), Disks: r.env.Disks(), Roles: r.cluster,
		Admin: r.cluster.Admin(), Versions: r.cluster.Versions(), Spares: r.spec.Spares,
		Machines: r.env.Machines(), Events: r,
	}
}

// Since implements nemesis.Events.
func (r *run) Since(n int) []history.NodeEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.told[n:])
}

// work runs the phases on a cluster that is ready.
func (r *run) work(ctx context.Context) error {
	specs, err := r.plan.clientSpecs(r.sys)
	if err != nil {
		return err
	}
	if err := nemesis.Setup(ctx, r.plan.Steps, r.target()); err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	r.enter("baseline")
	clients := r.rt.Group()
	for i, s := range specs {
		clients.Go(s.Name, func() {
			if late := r.plan.Late; late > 0 && r.rt.Sleep(ctx, r.plan.Phases.Baseline+late) != nil {
				return
			}
			r.drive(ctx, i, len(specs), s)
		})
	}
	err = r.disturb(ctx)
	r.enter("quiesce")
	r.stop.Store(true)
	clients.Wait()
	if err != nil {
		return err
	}
	r.enter("drain")
	drains, replicas := r.cluster.Drain(ctx, r.limits().Drain)
	for _, rep := range replicas {
		r.sink.Event(rep)
	}
	for _, d := range drains {
		r.sink.Event(d)
	}
	r.enter("end")
	return ctx.Err()
}

// limits are those of the system.
func (r *run) limits() system.Limits {
	var l system.Limits
	if s, ok := r.sys.(system.Limited); ok {
		l = s.Limits(r.spec)
	}
	if l.Drain == 0 {
		l.Drain = drainLimit
	}
	return l
}

// disturb goes through baseline, faults and recovery while clients work.
func (r *run) disturb(ctx context.Context) error {
	end := r.rt.Now() + r.plan.Phases.Baseline
	if err := r.pass(ctx, end); err != nil {
		return err
	}
	if len(r.plan.Steps) > 0 {
		r.enter("fault")
		end = r.rt.Now() + r.plan.Phases.Fault
		limits := r.limits().Faults
		limits.Stop = r.stopper()
		if err := nemesis.Run(ctx, r.plan.Steps, r.target(), r, limits); err != nil {
			return fmt.Errorf("nemesis: %w", err)
		}
		if err := r.pass(ctx, end); err != nil {
			return err
		}
	}
	r.noteStop(end)
	r.enter("recovery")
	if err := r.rt.Sleep(ctx, r.plan.Phases.Recovery); err != nil {
		return err
	}
	// A script ends when it ends: nobody would send more.
	for deadline := r.rt.Now() + recoveryExtra; r.plan.Script == nil && r.rt.Now() < deadline && !r.recovered(); {
		if err := r.rt.Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// recovered reports whether, since the recovery began, every partition took a write
// and every queue, where there are consumers, gave one of them a message. Keys that
// take dead letters are nobody's.
func (r *run) recovered() bool {
	all := len(r.sys.Keys(r.spec)) - len(deadLetters(r.sys, r.spec))
	queues := len(r.sys.Queues(r.spec)) - len(deadLetters(r.sys, r.spec))
	if r.plan.Consumers < 0 {
		queues = 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.acked) == all && len(r.served) >= queues
}

// drive is one client: it asks its generator, routes, records and executes, one
// operation after another.
func (r *run) drive(ctx context.Context, index, clients int, spec workloads.ClientSpec) {
	cl := r.cluster.Client(spec)
	defer cl.Close()
	process := int64(index)
	acked := r.sys.Options(r.spec)["acks"] != "0"
	var (
		last *workloads.Result
		res  workloads.Result
		op   history.Op
	)
	taken := map[history.Value]int64{} // the receive that delivered a message last
	for !r.stop.Load() && ctx.Err() == nil {
		step := spec.Gen.Next(r.rt.Now(), last)
		last = nil
		if step.Done {
			return
		}
		if wait := step.At - r.rt.Now(); wait > 0 {
			if r.rt.Sleep(ctx, wait) != nil || r.stop.Load() {
				return
			}
		}
		if step.Op == nil {
			continue
		}
		node := cl.Route(ctx, step.Op)
		if r.stop.Load() {
			return
		}
		op = history.Op{
			Client: int32(index), Process: process, Kind: step.Op.Kind, Key: step.Op.Key, Node: node, Call: int64(r.rt.Now()), Due: int64(step.Due), Value: step.Op.Value,
			Offset: history.NoOffset, Acked: acked && step.Op.Kind == history.Send, From: step.Op.From, High: history.NoOffset, Epoch: cl.Epoch(step.Op.Key),
			Reset: step.Op.Reset,
		}
		if op.Kind.Settles() {
			op.Of = history.NoOp
			if id, ok := taken[op.Value]; ok {
				op.Of = id
			}
		}
		r.sink.Invoke(&op)
		res = cl.Do(ctx, step.Op)
		op.Return, op.Outcome, op.Code, op.Offset, op.Records, op.High = int64(r.rt.Now()), res.Outcome, res.Code, res.Offset, res.Records, res.High
		op.Node, op.Lock = res.Node, int64(res.Lock)
		r.sink.Complete(&op)
		if op.Kind == history.Receive {
			for _, rec := range res.Records {
				taken[rec.Value] = op.ID
			}
		}
		r.count(&op)
		if op.Outcome == history.Indeterminate {
			process += int64(clients)
		}
		last = &res
	}
}

func (r *run) count(op *history.Op) {
	r.counts[op.Outcome-history.OK].Add(1)
	if op.Outcome != history.OK {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.phase != "recovery":
	case op.Kind == history.Send:
		r.acked[op.Key] = true
	case op.Kind == history.Receive && len(op.Records) > 0:
		r.served[op.Key] = true
	}
}

// ResultDir makes a new result directory below out for a plan and a moment. Where a run
// of the same kind and seed began in the same millisecond it takes the next one.
func ResultDir(out string, p Plan, started time.Time) (string, error) {
	name := strings.Join(slices.DeleteFunc([]string{p.System, p.Scheme, p.Workload, fileSafe(p.FaultList())}, func(s string) bool { return s == "" }), "-")
	wrap := func(err error) error { return fmt.Errorf("result directory: %w; choose another with --out", err) }
	if err := os.MkdirAll(filepath.Join(out, name), 0o755); err != nil {
		return "", wrap(err)
	}
	for {
		dir := filepath.Join(out, name, fmt.Sprintf("%s-%d", started.UTC().Format("20060102T150405.000Z"), p.Seed))
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			started = started.Add(time.Millisecond)
			continue
		}
		for _, sub := range []string{"nodes", "checks"} {
			if err == nil {
				err = os.Mkdir(filepath.Join(dir, sub), 0o755)
			}
		}
		if err != nil {
			return "", wrap(err)
		}
		return dir, nil
	}
}

// latestLink is the link to the newest result directory.
const latestLink = "latest"

// pointLatest points out/latest at a result directory.
func pointLatest(out, dir string) error {
	latest := filepath.Join(out, latestLink)
	rel, err := filepath.Rel(out, dir)
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d", latest, os.Getpid())
	if err := os.Symlink(rel, tmp); err == nil {
		if os.Rename(tmp, latest) != nil {
			_ = os.Remove(tmp) // a file system without links keeps no latest
		}
	}
	return nil
}

func fileSafe(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r == ':', r == ',':
			return '+'
		}
		return -1
	}, s)
}
