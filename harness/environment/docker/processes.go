package docker

import (
	"context"
	"fmt"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/faultline-mq/faultline/nemesis"
)

// processes controls the nodes' containers. Operations on one node are carried
// out one after another.
type processes struct{ e *Environment }

var _ nemesis.Processes = processes{}

// Kill works on a paused node too: the engine sends the signal first and thaws
// after it, so that the process does not run again.
func (p processes) Kill(ctx context.Context, node string) error {
	n, unlock, err := p.e.lockNode(ctx, node)
	if err != nil {
		return fmt.Errorf("killing %s: %w", node, err)
	}
	defer unlock()
	s, err := n.state(ctx)
	if err != nil {
		return fmt.Errorf("killing %s: %w", node, err)
	}
	if !s.Running {
		return fmt.Errorf("killing %s: it is not running", node)
	}
	return n.kill(ctx)
}

// kill ends the node's process, if it runs, and returns once it is dead.
func (n *node) kill(ctx context.Context) error {
	err := n.cli.ContainerKill(ctx, n.container(), "SIGKILL")
	if err != nil {
		if s, serr := n.state(ctx); serr == nil && !s.Running {
			err = nil // it was dead already
		}
	}
	if err == nil {
		_, err = n.waitExit(ctx)
	}
	if err != nil {
		return fmt.Errorf("killing %s: %w", n.spec.Name, err)
	}
	return nil
}

func (p processes) Stop(ctx context.Context, node string, grace time.Duration) (int, error) {
	n, unlock, err := p.e.lockNode(ctx, node)
	if err != nil {
		return 0, fmt.Errorf("stopping %s: %w", node, err)
	}
	defer unlock()
	s, err := n.state(ctx)
	switch {
	case err != nil:
		return 0, fmt.Errorf("stopping %s: %w", node, err)
	case !s.Running:
		return 0, fmt.Errorf("stopping %s: it is not running", node)
	case s.Paused:
		return 0, fmt.Errorf("stopping %s: it is paused; resume it first", node)
	}
	if err := n.cli.ContainerKill(ctx, n.container(), "SIGTERM"); err != nil {
		return 0, fmt.Errorf("stopping %s: %w", node, err)
	}
	within, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	code, err := n.waitExit(within)
	if err != nil {
		if ctx.Err() == nil && within.Err() != nil {
			return 0, fmt.Errorf("stopping %s: it still runs %v after SIGTERM", node, grace)
		}
		return 0, fmt.Errorf("stopping %s: %w", node, err)
	}
	return code, nil
}

func (p processes) Start(ctx context.Context, node string) error {
	n, unlock, err := p.e.lockNode(ctx, node)
	if err != nil {
		return fmt.Errorf("starting %s: %w", node, err)
	}
	defer unlock()
	s, err := n.state(ctx)
	if err != nil {
		return fmt.Errorf("starting %s: %w", node, err)
	}
	if s.Running {
		return fmt.Errorf("starting %s: it is running already", node)
	}
	if err := n.start(ctx); err != nil {
		return fmt.Errorf("starting %s: %w", node, err)
	}
	if n.rate > 0 { // a control group ends with its process
		if err := p.e.throttle(ctx, n, n.rate, n.container(), n.disk.id); err != nil {
			return fmt.Errorf("starting %s: %w", node, err)
		}
	}
	return nil
}

func (p processes) Pause(ctx context.Context, node string) error {
	n, unlock, err := p.e.lockNode(ctx, node)
	if err != nil {
		return fmt.Errorf("pausing %s: %w", node, err)
	}
	defer unlock()
	if err := n.cli.ContainerPause(ctx, n.container()); err != nil {
		return fmt.Errorf("pausing %s: %w", node, err)
	}
	return nil
}

func (p processes) Resume(ctx context.Context, node string) error {
	n, unlock, err := p.e.lockNode(ctx, node)
	if err != nil {
		return fmt.Errorf("resuming %s: %w", node, err)
	}
	defer unlock()
	if err := n.cli.ContainerUnpause(ctx, n.container()); err != nil {
		return fmt.Errorf("resuming %s: %w", node, err)
	}
	return nil
}

func (p processes) State(ctx context.Context, node string) (nemesis.ProcessState, error) {
	// Without the node's lock: the state can be asked for while Stop waits.
	n, err := p.e.node(node)
	if err != nil {
		return nemesis.ProcessState{}, fmt.Errorf("state of %s: %w", node, err)
	}
	s, err := n.state(ctx)
	if err != nil {
		return nemesis.ProcessState{}, fmt.Errorf("state of %s: %w", node, err)
	}
	return s, nil
}

func (n *node) state(ctx context.Context) (nemesis.ProcessState, error) {
	c, err := n.cli.ContainerInspect(ctx, n.container())
	if err != nil {
		return nemesis.ProcessState{}, err
	}
	s := nemesis.ProcessState{
		Running: c.State.Running, Paused: c.State.Paused, Started: c.State.StartedAt, ExitCode: c.State.ExitCode,
		OutOfMemory: !c.State.Running && c.State.OOMKilled,
	}
	if s.Running {
		s.PID = c.State.Pid
	}
	return s, nil
}

// waitExit waits until the container is not running and returns its exit code.
func (n *node) waitExit(ctx context.Context) (int, error) {
	ok, failed := n.cli.ContainerWait(ctx, n.container(), container.WaitConditionNotRunning)
	select {
	case r := <-ok:
		if r.Error != nil {
			return 0, fmt.Errorf("waiting for its end: %s", r.Error.Message)
		}
		return int(r.StatusCode), nil
	case err := <-failed:
		return 0, fmt.Errorf("waiting for its end: %w", err)
	}
}
