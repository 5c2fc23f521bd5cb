package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/nemesis"
)

// processes implements nemesis.Processes.
type processes struct{ w *World }

var _ nemesis.Processes = processes{}

func (w *World) node(ctx context.Context, doing, name string) (*node, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s %s: %w", doing, name, err)
	}
	i, ok := w.index[name]
	if !ok || i >= len(w.nodes) {
		return nil, fmt.Errorf("%s: no node %q: the nodes are %v", doing, name, w.names)
	}
	return w.nodes[i], nil
}

func (w *World) runningNode(ctx context.Context, doing, name string) (*node, error) {
	n, err := w.node(ctx, doing, name)
	if err == nil && n.state != running {
		return nil, fmt.Errorf("%s %s: its process is not running", doing, name)
	}
	return n, err
}

func (p processes) Kill(ctx context.Context, name string) error {
	n, err := p.w.runningNode(ctx, "kill", name)
	if err != nil {
		return err
	}
	n.end(exitKilled, false)
	return nil
}

func (p processes) Stop(ctx context.Context, name string, grace time.Duration) (int, error) {
	w := p.w
	n, err := w.runningNode(ctx, "stop", name)
	if err != nil {
		return 0, err
	}
	if w.current == nil {
		return 0, ErrOutside
	}
	w.queue.push(w.now, action{kind: evTerminate, on: n, gen: n.gen})
	inc, deadline := n.incarnation, w.now+grace
	for n.state == running && n.incarnation == inc {
		if w.now >= deadline {
			return 0, fmt.Errorf("stop %s: the process still runs %v after SIGTERM", name, grace)
		}
		if err := w.awaitNode(ctx, n, deadline, "Stop "+name); err != nil {
			return 0, fmt.Errorf("stop %s: %w", name, err)
		}
	}
	return n.exitCode, nil
}

func (p processes) Start(ctx context.Context, name string) error {
	n, err := p.w.node(ctx, "start", name)
	if err != nil {
		return err
	}
	if n.state != down {
		return fmt.Errorf("start %s: its process runs already", name)
	}
	n.start()
	return p.w.awaitBoot(ctx, n)
}

// awaitBoot parks the calling task until the node's process has begun.
func (w *World) awaitBoot(ctx context.Context, n *node) error {
	for n.state == booting {
		if err := w.awaitNode(ctx, n, -1, "Start "+n.name); err != nil {
			return fmt.Errorf("start %s: %w", n.name, err)
		}
	}
	return nil
}

func (p processes) Pause(ctx context.Context, name string) error {
	n, err := p.w.runningNode(ctx, "pause", name)
	if err != nil {
		return err
	}
	if n.paused {
		return fmt.Errorf("pause %s: it is paused already", name)
	}
	n.paused = true
	return nil
}

func (p processes) Resume(ctx context.Context, name string) error {
	n, err := p.w.runningNode(ctx, "resume", name)
	if err != nil {
		return err
	}
	if !n.paused {
		return fmt.Errorf("resume %s: it is not paused", name)
	}
	n.paused = false
	p.w.queue.push(p.w.now, action{kind: evFlush, on: n, gen: n.gen})
	return nil
}

func (p processes) State(ctx context.Context, name string) (nemesis.ProcessState, error) {
	n, err := p.w.node(ctx, "state of", name)
	if err != nil {
		return nemesis.ProcessState{}, err
	}
	s := nemesis.ProcessState{Started: fmt.Sprintf("%s/%d@%d", n.name, n.incarnation, n.started)}
	if n.state == running {
		s.Running, s.Paused = true, n.paused
		s.PID = 1 + n.idx + len(p.w.nodes)*n.incarnation
	} else {
		s.ExitCode = n.exitCode
	}
	return s, nil
}

// disks implements nemesis.Disks.
type disks struct{ w *World }

var _ nemesis.Disks = disks{}

func (d disks) WriteCanary(ctx context.Context, name, file string, sync bool) error {
	n, err := d.w.node(ctx, "write canary on", name)
	if err != nil {
		return err
	}
	return n.volume.WriteCanary(file, sync)
}

func (d disks) HasCanary(ctx context.Context, name, file string) (bool, error) {
	n, err := d.w.node(ctx, "look for canary on", name)
	if err != nil {
		return false, err
	}
	return n.volume.HasCanary(file)
}

// PowerLoss takes the power from the nodes, running or not. Their connections
// get no goodbye; what their processes issued and has not landed is dropped.
func (d disks) PowerLoss(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return errors.New("power loss: no nodes named")
	}
	var nodes []*node
	for _, name := range names {
		n, err := d.w.node(ctx, "power loss of", name)
		if err != nil {
			return err
		}
		if slices.Contains(nodes, n) {
			return fmt.Errorf("power loss: node %q is named twice", name)
		}
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		n.silent = true
		code := n.exitCode
		if n.state != down {
			code = exitKilled
		}
		n.end(code, true)
	}
	for _, n := range nodes {
		n.dropLanding()
		n.volume.PowerLoss(n.disk)
	}
	return nil
}

// Wipe gives a node whose process is down an empty disk.
func (w *World) Wipe(ctx context.Context, name string) error {
	n, err := w.node(ctx, "wipe", name)
	if err != nil {
		return err
	}
	if n.state != down {
		return fmt.Errorf("wipe %s: its process runs: kill it first", name)
	}
	n.dropLanding()
	n.volume.Wipe()
	return nil
}

// SetClock lets a node's wall clock jump by that much and from then on run at
// rate wall seconds per second (1: true; 0.99: slow). A strobe ends.
func (w *World) SetClock(ctx context.Context, name string, jump time.Duration, rate float64) error {
	n, err := w.node(ctx, "set the clock of", name)
	if err != nil {
		return err
	}
	if !(rate >= 0 && rate <= 1000) {
		return fmt.Errorf("set the clock of %s: rate %v is not within [0,1000]", name, rate)
	}
	n.clockBase, n.clockMono, n.clockRate, n.strobe = n.wall().Add(jump), w.now, rate, strobe{}
	return nil
}

// SlowDisk multiplies the latency of a node's storage operations issued from
// now on by factor (1: as modelled), but for those of MetaLane.
func (w *World) SlowDisk(ctx context.Context, name string, factor float64) error {
	n, err := w.node(ctx, "slow the disk of", name)
	if err != nil {
		return err
	}
	if !(factor >= 1 && factor <= 1e6) {
		return fmt.Errorf("slow the disk of %s: factor %v is not within [1,1e6]", name, factor)
	}
	n.slow = factor
	return nil
}
