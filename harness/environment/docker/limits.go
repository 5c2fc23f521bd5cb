package docker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// limiter changes the limits of nodes' containers through the engine, and reads
// what the engine's host counts of them.
type limiter struct{ e *Environment }

var _ nemesis.Limiter = limiter{}

// startLimits starts the sidecar that reads a node's control groups, and looks
// whether containers can be limited at all. It sees the host's control groups and
// nothing else of the host, and has no network.
func (e *Environment) startLimits(ctx context.Context, n *node) error {
	vol, err := e.createVolume(ctx, n, "press", nil)
	if err != nil {
		return err
	}
	host := &container.HostConfig{
		NetworkMode: "none", UsernsMode: "host",
		// With a name space of its own a process could not join another container's group.
		CgroupnsMode: container.CgroupnsModeHost,
		CapDrop:      []string{"ALL"},
		SecurityOpt:  []string{"no-new-privileges", "label=disable"},
		Mounts: []mount.Mount{
			{Type: mount.TypeVolume, Source: vol, Target: sidecar.PressDir},
			{Type: mount.TypeBind, Source: "/sys/fs/cgroup", Target: sidecar.CgroupDir},
		},
	}
	agent, err := e.runSidecar(ctx, n, "limits", e.sidecarConfig(n), host, nil, func(a *agent) { n.limits = a })
	if err != nil {
		return noLimits(ctx, err)
	}
	return e.tryLimits(ctx, n, agent.id)
}

// tryLimits limits a container, wants to see that, and takes it back.
func (e *Environment) tryLimits(ctx context.Context, n *node, id string) error {
	const tried = 256 << 20 // more than any sidecar needs
	before, err := n.limits.Group(ctx, sidecar.GroupRequest{Container: id, Press: 1 << 20})
	if err != nil {
		return noLimits(ctx, err)
	}
	for _, r := range []container.Resources{cpuResources(0.5), memoryResources(tried, container.Resources{})} {
		if err := e.update(ctx, id, r); err != nil {
			return noLimits(ctx, err)
		}
	}
	limited, err := n.limits.Group(ctx, sidecar.GroupRequest{Container: id})
	switch {
	case err != nil:
		return noLimits(ctx, err)
	case limited.Limit != tried:
		return noLimits(ctx, errors.New("containers cannot be limited in their memory: no limit was in force that the engine was told to set"))
	case limited.Quota < 0 || limited.Quota >= limited.Period:
		return noLimits(ctx, errors.New("containers cannot be limited in their processor time: no limit was in force that the engine was told to set"))
	}
	for _, r := range []container.Resources{unlimitedCPU(container.Resources{}), unlimitedMemory(container.Resources{})} {
		if err := e.update(ctx, id, r); err != nil {
			return noLimits(ctx, err)
		}
	}
	after, err := n.limits.Group(ctx, sidecar.GroupRequest{Container: id})
	if err == nil && (after.Limit != before.Limit || after.Quota != before.Quota) {
		err = errors.New("limits of containers cannot be taken back through the engine")
	}
	if err != nil {
		return noLimits(ctx, err)
	}
	return nil
}

// noLimits says that the engine's host cannot do what a limit needs, unless the run
// was given up on.
func noLimits(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: at the engine's host: %w; boot it with the control groups cpu and memory, or name another engine with DOCKER_HOST", ErrNoLimits, err)
}

// update changes limits of a container.
func (e *Environment) update(ctx context.Context, id string, r container.Resources) error {
	_, err := create(ctx, func(ctx context.Context) (container.UpdateResponse, error) {
		return e.cli.ContainerUpdate(ctx, id, container.UpdateConfig{Resources: r})
	})
	return err
}

// The kernel's bounds of a quota: the least of it, and the longest period. Within
// the usual period of 100 ms a process waits for as long as possible for the next.
const (
	cpuPeriod    = 100 * time.Millisecond
	maxCPUPeriod = time.Second
	minCPUQuota  = time.Millisecond
)

// cpuResources lets processes run for a share of one processor's time; shares that
// are too small for the kernel are made as small as it can.
func cpuResources(share float64) container.Resources {
	period := cpuPeriod
	quota := time.Duration(share * float64(period))
	if quota < minCPUQuota {
		quota, period = minCPUQuota, maxCPUPeriod
		if share > float64(minCPUQuota)/float64(maxCPUPeriod) {
			period = time.Duration(float64(minCPUQuota) / share)
		}
	}
	return container.Resources{CPUQuota: quota.Microseconds(), CPUPeriod: period.Microseconds()}
}

// unlimitedCPU restores what was. To the engine zero means: as it is.
func unlimitedCPU(was container.Resources) container.Resources {
	r := container.Resources{CPUQuota: was.CPUQuota, CPUPeriod: was.CPUPeriod}
	if r.CPUQuota == 0 {
		r.CPUQuota = -1
	}
	if r.CPUPeriod == 0 {
		r.CPUPeriod = cpuPeriod.Microseconds() // the kernel's default
	}
	return r
}

// noMemoryLimit is the most that kernels count, which is as good as no limit to
// them and how they show one. To the engine -1 is too little.
const noMemoryLimit = math.MaxInt64 &^ 0xfff

// memoryResources lets processes have so much memory. Swap is limited as before:
// the engine cannot end a limit of it.
func memoryResources(bytes int64, was container.Resources) container.Resources {
	r := container.Resources{Memory: bytes, MemorySwap: was.MemorySwap}
	if r.MemorySwap == 0 {
		r.MemorySwap = -1
	}
	return r
}

// unlimitedMemory restores what was.
func unlimitedMemory(was container.Resources) container.Resources {
	if was.Memory == 0 {
		return memoryResources(noMemoryLimit, was)
	}
	return memoryResources(was.Memory, was)
}

// restore are the limits that were there before ours, where ours are in force.
type restore struct{ cpu, memory *container.Resources }

// limit changes a node's limits, and remembers in undo those of before the first change.
func (l limiter) limit(ctx context.Context, name string, undo func(*node) **container.Resources, change, restore func(was container.Resources) container.Resources) error {
	n, unlock, err := l.e.lockNode(ctx, name)
	if err != nil {
		return fmt.Errorf("limits of %s: %w", name, err)
	}
	defer unlock()
	c, err := n.cli.ContainerInspect(ctx, n.container())
	if err != nil {
		return fmt.Errorf("limits of %s: %w", name, err)
	}
	if before := undo(n); *before == nil {
		was := restore(c.HostConfig.Resources)
		*before = &was
	}
	return l.update(ctx, n, change(c.HostConfig.Resources))
}

// free restores the limits of before, if there are any.
func (l limiter) free(ctx context.Context, name string, undo func(*node) **container.Resources) error {
	n, unlock, err := l.e.lockNode(ctx, name)
	if err != nil {
		return fmt.Errorf("limits of %s: %w", name, err)
	}
	defer unlock()
	before := undo(n)
	if *before == nil {
		return nil
	}
	if err := l.update(ctx, n, **before); err != nil {
		return err
	}
	*before = nil
	return nil
}

func (l limiter) update(ctx context.Context, n *node, r container.Resources) error {
	if l.e.stubbed(n.spec.Name) {
		return nil
	}
	if err := l.e.update(ctx, n.container(), r); err != nil {
		return fmt.Errorf("limits of %s: %w", n.spec.Name, err)
	}
	return nil
}

func ofCPU(n *node) **container.Resources    { return &n.restore.cpu }
func ofMemory(n *node) **container.Resources { return &n.restore.memory }

// stubbed reports whether a test wants nothing to be done to a node.
func (e *Environment) stubbed(node string) bool {
	return e.cfg.Sabotage == sidecar.Stubbed && (e.cfg.SabotageNode == "" || e.cfg.SabotageNode == node)
}

func (l limiter) LimitCPU(ctx context.Context, node string, processors float64) error {
	return l.limit(ctx, node, ofCPU, func(container.Resources) container.Resources { return cpuResources(processors) }, unlimitedCPU)
}

func (l limiter) FreeCPU(ctx context.Context, node string) error { return l.free(ctx, node, ofCPU) }

func (l limiter) LimitMemory(ctx context.Context, node string, bytes int64) error {
	return l.limit(ctx, node, ofMemory, func(was container.Resources) container.Resources { return memoryResources(bytes, was) }, unlimitedMemory)
}

func (l limiter) FreeMemory(ctx context.Context, node string) error {
	return l.free(ctx, node, ofMemory)
}

func (l limiter) Use(ctx context.Context, node string) (nemesis.Use, error) {
	g, err := l.group(ctx, node, 0)
	if err != nil {
		return nemesis.Use{}, err
	}
	u := nemesis.Use{
		Period: g.Period, Quota: g.Quota, CPU: g.CPU, Throttled: g.Throttled, ThrottledFor: g.ThrottledFor,
		Limit: g.Limit, Memory: g.Usage, Resident: g.Resident, Hits: g.Hits,
	}
	if u.Limit >= sidecar.NoLimit {
		u.Limit = -1
	}
	return u, nil
}

func (l limiter) Press(ctx context.Context, node string, bytes int64) error {
	_, err := l.group(ctx, node, bytes)
	return err
}

func (l limiter) group(ctx context.Context, name string, press int64) (sidecar.Group, error) {
	n, err := l.e.node(name)
	if err != nil {
		return sidecar.Group{}, fmt.Errorf("control group of %s: %w", name, err)
	}
	g, err := n.limits.Group(ctx, sidecar.GroupRequest{Container: n.container(), Press: press})
	if err != nil {
		return sidecar.Group{}, fmt.Errorf("control group of %s: %w", name, err)
	}
	return g, nil
}
