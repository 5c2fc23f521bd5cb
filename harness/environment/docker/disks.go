package docker

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"

	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// diskSize is the size of a node's data disk, in bytes; its file is sparse. It
// must hold what a run writes, and be full at a stroke.
const diskSize = 1 << 30

// startDisk starts the sidecar that serves a node's data disk and lets it make
// the disk. It may make, mount and shut down what is on loop devices, whoever owns
// it, and nothing else of what a privileged container may. It has no network.
func (e *Environment) startDisk(ctx context.Context, n *node) error {
	vol, err := e.createVolume(ctx, n, "disk", nil)
	if err != nil {
		return err
	}
	host := &container.HostConfig{
		NetworkMode: "none", UsernsMode: "host",
		CapDrop: []string{"ALL"}, CapAdd: []string{"SYS_ADMIN", "MKNOD", "DAC_OVERRIDE", "CHOWN", "FOWNER"},
		// The profiles of AppArmor and SELinux for containers let none of them mount.
		SecurityOpt: []string{"no-new-privileges", "apparmor=unconfined", "label=disable"},
		Resources:   container.Resources{DeviceCgroupRules: []string{"b 7:* rwm", "c 10:237 rwm"}}, // loop devices and their control
		Mounts:      []mount.Mount{{Type: mount.TypeVolume, Source: vol, Target: sidecar.DiskDir}},
	}
	if e.cfg.Throttle {
		host.CgroupnsMode = container.CgroupnsModeHost // a probe joins the node's group
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: "/sys/fs/cgroup", Target: sidecar.CgroupDir})
	}
	agent, err := e.runSidecar(ctx, n, "disk", e.sidecarConfig(n), host, nil, func(a *agent) { n.disk = a })
	if err != nil {
		return noDisks(ctx, err)
	}
	made, err := agent.Disk(ctx, sidecar.DiskRequest{Op: sidecar.DiskAttach, Size: diskSize})
	if err != nil {
		return noDisks(ctx, err)
	}
	n.device = made.Device
	if e.cfg.Throttle {
		return e.tryThrottle(ctx, n, agent.id)
	}
	return nil
}

// The volumes of a node: what it stores, and the clock that its sidecar sets.
const (
	dataVolume  = "data"
	metaVolume  = "meta"
	clockVolume = "clock"
)

// shareVolume makes the volume that all nodes share, which the sidecars mount too, and
// returns its mount, or none where there is no such volume. Whoever comes first makes it.
func (e *Environment) shareVolume(ctx context.Context, target string) ([]mount.Mount, error) {
	if e.cfg.Shared == "" {
		return nil, nil
	}
	v, err := create(ctx, func(ctx context.Context) (volume.Volume, error) {
		return e.cli.VolumeCreate(ctx, volume.CreateOptions{Name: e.netName() + "-shared", Driver: "local", Labels: e.labels("", "")})
	})
	if err != nil {
		return nil, fmt.Errorf("creating the shared volume: %w", err)
	}
	return []mount.Mount{{Type: mount.TypeVolume, Source: v.Name, Target: target}}, nil
}

// locks removes lock files on the shared volume.
type locks struct{ e *Environment }

var _ nemesis.LockRemover = locks{}

func (l locks) ask(ctx context.Context, req sidecar.LocksRequest) (map[string]string, error) {
	n, err := l.e.node(l.e.cfg.Nodes[0].Name) // any: there is one device
	if err != nil {
		return nil, err
	}
	return n.agent.Locks(ctx, req)
}

func (l locks) Files(ctx context.Context) (map[string]string, error) {
	return l.ask(ctx, sidecar.LocksRequest{})
}

func (l locks) Remove(ctx context.Context, name string, replace bool) error {
	_, err := l.ask(ctx, sidecar.LocksRequest{Remove: name, Replace: replace})
	return err
}

func (e *Environment) volumeName(n *node, kind string) string {
	return e.netName() + "-" + n.spec.Name + "-" + kind
}

// createVolume makes a volume of a node, unless it is there.
func (e *Environment) createVolume(ctx context.Context, n *node, kind string, driver map[string]string) (string, error) {
	v, err := create(ctx, func(ctx context.Context) (volume.Volume, error) {
		return e.cli.VolumeCreate(ctx, volume.CreateOptions{
			Name: e.volumeName(n, kind), Driver: "local", DriverOpts: driver, Labels: e.labels(n.spec.Name, ""),
		})
	})
	if err != nil {
		return "", fmt.Errorf("creating the %s volume of %s: %w", kind, n.spec.Name, err)
	}
	return v.Name, nil
}

// volumes makes the volumes that a node's container has.
func (e *Environment) volumes(ctx context.Context, n *node) ([]mount.Mount, error) {
	var driver map[string]string // none: a folder of the engine's host
	if n.device != "" {
		driver = map[string]string{"type": "ext4", "device": n.device}
	}
	var mounts []mount.Mount
	for _, v := range []struct {
		kind, dir string
		driver    map[string]string
	}{{dataVolume, n.spec.DataDir, driver}, {metaVolume, n.spec.MetaDir, nil}, {clockVolume, n.spec.Clock, nil}} {
		if v.dir == "" {
			continue
		}
		name, err := e.createVolume(ctx, n, v.kind, v.driver)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, mount.Mount{Type: mount.TypeVolume, Source: name, Target: v.dir, ReadOnly: v.kind == clockVolume})
	}
	shared, err := e.shareVolume(ctx, e.cfg.Shared)
	return append(mounts, shared...), err
}

// tryThrottle looks whether a container can be throttled at all.
func (e *Environment) tryThrottle(ctx context.Context, n *node, id string) error {
	for _, rate := range []int{slowestRate, 0} {
		if err := e.throttle(ctx, n, rate, id); err != nil {
			return noDisks(ctx, err)
		}
	}
	return nil
}

// noDisks says that the engine's host cannot do what a disk needs, unless the run
// was given up on.
func noDisks(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: at the engine's host: %w; or use --env sim", ErrNoDisks, err)
}

// throttle lets so many writes per second of each of some containers, as far as
// they run, through to the node's disk; 0 = all.
func (e *Environment) throttle(ctx context.Context, n *node, rate int, containers ...string) error {
	_, err := n.disk.Disk(ctx, sidecar.DiskRequest{Op: sidecar.DiskThrottle, Containers: containers, Rate: rate})
	return err
}

// disks does to nodes' data disks what faults ask for.
type disks struct{ e *Environment }

var (
	_ nemesis.Disks       = disks{}
	_ nemesis.DiskFiller  = disks{}
	_ nemesis.DiskBreaker = disks{}
	_ nemesis.DiskSlower  = disks{}
	_ nemesis.DiskWiper   = disks{}
	_ nemesis.FileDamager = disks{}
)

// ask sends a command to the sidecar of a node's disk.
func (d disks) ask(ctx context.Context, name string, req sidecar.DiskRequest) (sidecar.DiskResponse, error) {
	n, err := d.e.node(name)
	if err == nil {
		var resp sidecar.DiskResponse
		if resp, err = n.disk.Disk(ctx, req); err == nil {
			return resp, nil
		}
	}
	return sidecar.DiskResponse{}, fmt.Errorf("disk of %s: %w", name, err)
}

func (d disks) tell(ctx context.Context, name string, req sidecar.DiskRequest) error {
	_, err := d.ask(ctx, name, req)
	return err
}

// whileDown sends a command that needs the node's process dead, and keeps it so meanwhile.
func (d disks) whileDown(ctx context.Context, name string, req sidecar.DiskRequest) error {
	n, unlock, err := d.e.lockNode(ctx, name)
	if err != nil {
		return fmt.Errorf("disk of %s: %w", name, err)
	}
	defer unlock()
	if err := n.dead(ctx); err != nil {
		return fmt.Errorf("disk of %s: %w", name, err)
	}
	return d.atOnce(ctx, n, req)
}

// dead refuses a process that runs.
func (n *node) dead(ctx context.Context) error {
	s, err := n.state(ctx)
	if err == nil && s.Running {
		return errors.New("its process runs: kill it first")
	}
	return err
}

// atOnce sends a command that writes what is not a node's load. A slow disk is
// not slow for it: replaying a log write by write would take minutes.
func (d disks) atOnce(ctx context.Context, n *node, req sidecar.DiskRequest) (err error) {
	if n.rate > 0 {
		if err := d.e.throttle(ctx, n, 0, n.disk.id); err != nil {
			return fmt.Errorf("disk of %s: %w", n.spec.Name, err)
		}
		defer func() { err = errors.Join(err, d.e.throttle(ctx, n, n.rate, n.disk.id)) }()
	}
	return d.tell(ctx, n.spec.Name, req)
}

func (d disks) WriteCanary(ctx context.Context, node, name string, sync bool) error {
	return d.tell(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskCanary, Name: name, Sync: sync})
}

func (d disks) HasCanary(ctx context.Context, node, name string) (bool, error) {
	resp, err := d.ask(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskHas, Name: name})
	return resp.Found, err
}

// PowerLoss kills first: a living process could still sync and acknowledge what
// is about to vanish.
func (d disks) PowerLoss(ctx context.Context, nodes []string) error {
	held := map[string]*node{}
	for _, name := range slices.Sorted(slices.Values(nodes)) { // in one order: two power losses do not wait for each other
		n, unlock, err := d.e.lockNode(ctx, name)
		if err != nil {
			return fmt.Errorf("power of %s: %w", name, err)
		}
		defer unlock()
		held[name] = n
	}
	if err := each(held, func(n *node) error { return n.kill(ctx) }); err != nil {
		return err
	}
	for name, n := range held {
		if s, err := n.state(ctx); err != nil || s.Running {
			return errors.Join(fmt.Errorf("power of %s: its process is not known to be dead, so no disk was cut", name), err)
		}
	}
	return each(held, func(n *node) error { return d.atOnce(ctx, n, sidecar.DiskRequest{Op: sidecar.DiskCut}) })
}

// Probe is done by a process among the node's where a throttle matters, as it
// holds for those. While none of them runs, the sidecar's stands in for them.
func (d disks) Probe(ctx context.Context, node string) (nemesis.DiskProbe, error) {
	n, unlock, err := d.e.lockNode(ctx, node)
	if err != nil {
		return nemesis.DiskProbe{}, fmt.Errorf("disk of %s: %w", node, err)
	}
	defer unlock()
	req := sidecar.DiskRequest{Op: sidecar.DiskProbe}
	if d.e.cfg.Throttle {
		req.Containers = []string{n.container(), n.disk.id}
	}
	resp, err := d.ask(ctx, node, req)
	p := nemesis.DiskProbe{Sync: resp.Took}
	if resp.Errno != 0 {
		p.Err = resp.Errno
	}
	return p, err
}

func (d disks) Fill(ctx context.Context, node string) error {
	return d.tell(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskFill})
}

func (d disks) Free(ctx context.Context, node string) error {
	return d.tell(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskFree})
}

// Break shuts the file system down under the process. Everything is synced before
// it: a disk that fails has what it took.
func (d disks) Break(ctx context.Context, node string) error {
	n, unlock, err := d.e.lockNode(ctx, node)
	if err != nil {
		return fmt.Errorf("disk of %s: %w", node, err)
	}
	defer unlock()
	n.broken = true
	return d.atOnce(ctx, n, sidecar.DiskRequest{Op: sidecar.DiskBreak})
}

// Mend mounts the file system anew. A process that still runs has the old one
// open, which is of no use any more: it is killed.
func (d disks) Mend(ctx context.Context, node string) error {
	n, unlock, err := d.e.lockNode(ctx, node)
	if err != nil {
		return fmt.Errorf("disk of %s: %w", node, err)
	}
	defer unlock()
	if !n.broken {
		return nil
	}
	if err := n.kill(ctx); err != nil {
		return err
	}
	if err := d.atOnce(ctx, n, sidecar.DiskRequest{Op: sidecar.DiskRemount}); err != nil {
		return err
	}
	n.broken = false
	return nil
}

// The rates to which writes are throttled, per second. The kernel grants what a
// rate allows in a tenth of a second: from ten on, a write that comes alone does
// not wait at all. The lowest is the kernel's unit.
const (
	fastestRate = 5
	slowestRate = 1
)

// slowProbes are how many syncs are timed before a disk is slowed.
const slowProbes = 5

// Slow lets each write wait until a sync takes at least factor times as long as
// now, within what the rates allow: 200 ms to a second for each write of it.
func (d disks) Slow(ctx context.Context, node string, factor float64) error {
	var took []time.Duration
	for range slowProbes {
		p, err := d.Probe(ctx, node)
		if err == nil {
			err = p.Err
		}
		if err != nil {
			return err
		}
		took = append(took, p.Sync)
	}
	slices.Sort(took)
	wait := max(time.Duration(float64(took[len(took)/2])*factor), time.Second/fastestRate)
	return d.slow(ctx, node, max(slowestRate, int(time.Second/wait)))
}

func (d disks) Quicken(ctx context.Context, node string) error { return d.slow(ctx, node, 0) }

// slow remembers the rate: a control group ends with its process, so the next
// process of the node is throttled anew.
func (d disks) slow(ctx context.Context, node string, rate int) error {
	n, unlock, err := d.e.lockNode(ctx, node)
	if err != nil {
		return fmt.Errorf("disk of %s: %w", node, err)
	}
	defer unlock()
	n.rate = rate
	if err := d.e.throttle(ctx, n, rate, n.container(), n.disk.id); err != nil {
		return fmt.Errorf("disk of %s: %w", node, err)
	}
	return nil
}

func (d disks) Wipe(ctx context.Context, node string) error {
	return d.whileDown(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskWipe})
}

func (d disks) Stored(ctx context.Context, node string) (int64, error) {
	files, err := d.Files(ctx, node)
	total := int64(0)
	for _, f := range files {
		total += f.Size
	}
	return total, err
}

// foundTimeout bounds the wait for a node's output: it may answer before that is read.
const foundTimeout = 5 * time.Second

// Found reads the node's event "start": its offset is the number of records.
func (d disks) Found(ctx context.Context, node string) (int64, bool, error) {
	n, err := d.e.node(node)
	if err != nil {
		return 0, false, fmt.Errorf("start of %s: %w", node, err)
	}
	for deadline := d.e.runtime.Now() + foundTimeout; ; {
		n.mu.Lock()
		found := n.found
		n.mu.Unlock()
		if found != nil {
			return *found, true, nil
		}
		if d.e.runtime.Now() > deadline {
			return 0, false, nil
		}
		if err := d.e.runtime.Sleep(ctx, nemesis.NonceInterval); err != nil {
			return 0, false, err
		}
	}
}

func (d disks) Files(ctx context.Context, node string) ([]nemesis.StoredFile, error) {
	resp, err := d.ask(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskFiles})
	if err != nil {
		return nil, err
	}
	n, err := d.e.node(node)
	if err != nil {
		return nil, fmt.Errorf("disk of %s: %w", node, err)
	}
	var files []nemesis.StoredFile
	for _, f := range resp.Files {
		if n.spec.Records == "" || path.Ext(f.Name) == n.spec.Records {
			files = append(files, nemesis.StoredFile{Name: f.Name, Size: f.Size})
		}
	}
	return files, nil
}

func (d disks) Flip(ctx context.Context, node, file string, offset int64, bit uint) error {
	return d.tell(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskFlip, Name: file, Offset: offset, Bit: bit})
}

func (d disks) Cut(ctx context.Context, node, file string, size int64) error {
	return d.tell(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskTrim, Name: file, Size: size})
}

func (d disks) Digest(ctx context.Context, node, file string, upTo int64) (string, error) {
	resp, err := d.ask(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskDigest, Name: file, Size: upTo})
	return resp.Digest, err
}

func (d disks) Copy(ctx context.Context, node string) error {
	return d.tell(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskCopy})
}

func (d disks) PutBack(ctx context.Context, node string) error {
	return d.whileDown(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskPutBack})
}

func (d disks) DataDigest(ctx context.Context, node string) (string, error) {
	resp, err := d.ask(ctx, node, sidecar.DiskRequest{Op: sidecar.DiskDigest})
	return resp.Digest, err
}
