// Package docker is the environment that runs nodes as containers.
//
// Per node there are two containers and a few volumes. The sidecar's container
// owns the network namespace, the host name and a fixed address on the run's own
// bridge network; the node's container joins it, so that a killed node which is
// started again comes back into the same namespace, under the same rules. The
// volumes hold the node's data. Where Config.Disks says so, the data volume is a
// file system of its own on a loop device, which a second sidecar made and holds.
// A new node that takes the place of another one gets a container and volumes of its
// own, and the place's namespace, address and rules.
// Everything carries the run's and the host's label; what a dead run left behind
// is found by them (Sweep).
//
// This package alone knows the Engine's API, so that another client library
// replaces it in one place.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"github.com/docker/go-connections/nat"
	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// Environment is one cluster in Docker.
type Environment struct {
	cfg     Config
	log     *slog.Logger
	runtime *environment.Realtime
	links   *links
	onEvent func(history.NodeEvent)
	examine func(ctx context.Context, n *node, gateway netip.Addr, access Access) // instead of starting the nodes; nil: they are started

	ending sync.Mutex // one Down at a time, and no new node is put in place meanwhile

	mu       sync.Mutex // of all below
	started  bool
	down     bool
	cancelUp context.CancelFunc
	upDone   chan struct{}
	cli      *client.Client
	state    state
	lock     *flock.Flock
	nodes    map[string]*node // complete once Up has returned
	addrs    map[string]netip.Addr
	nonces   *sidecar.Nonces
	boot     sidecar.Boot
	versions map[string]string

	hostClock hostClock
	stop      context.CancelFunc // of the clock's samples
	tasks     sync.WaitGroup     // everything that Up started but for the dispatcher
	events    chan history.NodeEvent
	delivered chan struct{} // closed when the dispatcher ended
}

var _ environment.Environment = (*Environment)(nil)

// node is one node's place.
type node struct {
	spec NodeSpec
	addr netip.Addr
	cli  *client.Client

	log       *nodeLog
	agent     *agent
	disk      *agent              // nil: the data volume is a plain one
	limits    *agent              // nil: nobody reads its control groups
	device    string              // of that disk, on the engine's host
	published map[nat.Port]string // host:port by container port
	tasks     *sync.WaitGroup

	ops     chan struct{} // a lock that a context can give up on; also of the four below
	broken  bool          // the disk's file system is shut down
	rate    int           // writes per second to which the disk is throttled, 0 = not
	restore restore
	made    made

	mu    sync.Mutex
	id    string                 // of the node's container, "" while there is none
	conn  types.HijackedResponse // of the incarnation whose output is read
	read  chan struct{}          // closed when that output has ended
	found *int64                 // records that the present incarnation found when it started; nil: not said yet
}

// agent is a running sidecar.
type agent struct {
	*sidecar.Client
	id   string // of its container
	conn types.HijackedResponse
}

// container is the id of the node's container, "" while there is none.
func (n *node) container() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id
}

func (n *node) setContainer(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.id = id
}

// agents are the node's sidecars, as far as there are.
func (n *node) agents() []*agent {
	return slices.DeleteFunc([]*agent{n.agent, n.disk, n.limits}, func(a *agent) bool { return a == nil })
}

const (
	eventBuffer = 4096
	engineCall  = 30 * time.Second // bound of a call that creates something
	sampleEvery = 2 * time.Second
)

// New returns an environment that nothing has been created of yet. Its clock
// starts here.
func New(cfg Config) (*Environment, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("docker environment: %w", err)
	}
	e := &Environment{
		cfg: cfg, log: cfg.Log.With("run", cfg.RunID), runtime: environment.NewRealtime(),
		nodes: map[string]*node{}, boot: sidecar.NewBoot(), versions: map[string]string{},
	}
	e.links = &links{e: e, sets: map[string]map[string]placed{}}
	return e, nil
}

// Name returns "docker".
func (e *Environment) Name() string { return "docker" }

// Runtime returns goroutines and the monotonic clock.
func (e *Environment) Runtime() environment.Runtime { return e.runtime }

// Network returns the capability to cut links.
func (e *Environment) Network() nemesis.Network { return e.links }

// Processes returns the capability to control processes.
func (e *Environment) Processes() nemesis.Processes { return processes{e} }

// Disks returns the capability to take the power from disks, or nil where
// Config.Disks is not set: plain volumes are folders of the engine's host.
func (e *Environment) Disks() nemesis.Disks {
	if !e.cfg.Disks {
		return nil
	}
	return disks{e}
}

// Machines implements environment.Environment: what is done to packets, what Config
// asks for, and what the nodes are made for.
func (e *Environment) Machines() nemesis.Machines {
	m := nemesis.Machines{Shaper: shaper{e.links}, Resetter: resetter{e.links}, NewNodes: newNodes{e}, Shell: e.shell()}
	if e.cfg.TellsTime() {
		m.Clocks = clocks{e}
	}
	if d := (disks{e}); e.cfg.Disks {
		m.FullDisks, m.BadDisks, m.LostDisks, m.Files = d, d, d, d
		if e.cfg.Throttle {
			m.SlowDisks = d
		}
	}
	if e.cfg.Shared != "" {
		m.Locks = locks{e}
	}
	if e.cfg.Limits {
		m.Limiter = limiter{e}
	}
	if e.cfg.NextImage != "" {
		m.Upgrader = upgrader{e}
	}
	return m
}

// Events sets what receives the nodes' events, one after another. Call it
// before Up. While f does not return, nodes are held back rather than events lost.
func (e *Environment) Events(f func(history.NodeEvent)) { e.onEvent = f }

// Nodes lists the nodes' names, in the order of the configuration.
func (e *Environment) Nodes() []string {
	names := make([]string, len(e.cfg.Nodes))
	for i, n := range e.cfg.Nodes {
		names[i] = n.Name
	}
	return names
}

// Versions names engine, API, kernel, operating system, architecture, cgroup
// version, the images' ids and the source digest, as far as Up found them.
func (e *Environment) Versions() map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.versions)
}

// Up creates the network, the sidecars, the volumes and the nodes, and starts
// them but for the spares; readiness is the caller's to establish. It sweeps what dead runs left
// behind first. After an error the caller still calls Down. Errors are ErrUnavailable,
// ErrNoImage, ErrStaleImage, ErrNoSubnet, ErrNoDisks, ErrNoLimits, ErrNoShaping (wrapped), ctx's, or the
// engine's.
func (e *Environment) Up(ctx context.Context) error {
	e.mu.Lock()
	if e.started || e.down {
		e.mu.Unlock()
		return errors.New("docker environment: Up is called once")
	}
	ctx, cancel := context.WithCancel(ctx)
	e.started, e.cancelUp, e.upDone = true, cancel, make(chan struct{})
	defer close(e.upDone)
	defer cancel()
	e.mu.Unlock()
	if err := e.up(ctx); err != nil {
		return fmt.Errorf("docker environment: %w", err)
	}
	return nil
}

func (e *Environment) up(ctx context.Context) error {
	cli, err := connect(ctx)
	if err != nil {
		return err
	}
	e.set(func() { e.cli = cli })
	if err := e.checkImages(ctx); err != nil {
		return err
	}
	st, err := openState()
	if err != nil {
		return err
	}
	lock, err := st.lock(e.cfg.RunID)
	if err != nil {
		return err
	}
	if lock == nil {
		return fmt.Errorf("run id %s is in use by another run", e.cfg.RunID)
	}
	e.set(func() { e.state, e.lock = st, lock })
	if swept, err := sweep(ctx, cli, st, SweepOptions{}); err != nil {
		e.log.Warn("sweeping what dead runs left behind", "error", err)
	} else if len(swept.Runs) > 0 {
		e.log.Info("swept what dead runs left behind", "runs", swept.Runs)
	}

	subnet, err := e.createNetwork(ctx)
	if err != nil {
		return err
	}
	gateway := hostAt(subnet, 1)
	access := e.cfg.Access
	if access == Auto {
		access = Published
		if local, err := isLocal(gateway); err != nil {
			return err
		} else if local {
			access = Direct
		}
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.set(func() {
		e.stop = stop
		e.events, e.delivered = make(chan history.NodeEvent, eventBuffer), make(chan struct{})
	})
	go e.dispatch()

	nodes := map[string]*node{}
	addrs := map[string]netip.Addr{}
	for i, spec := range e.cfg.Nodes {
		n := &node{spec: spec, addr: hostAt(subnet, 2+i), cli: cli, tasks: &e.tasks, ops: make(chan struct{}, 1)}
		n.log, err = newNodeLog(spec.Name, filepath.Join(st.spoolDir(e.cfg.RunID), spec.Name), e.cfg.LogLimit, &e.hostClock, e.runtime.Now, func(ev history.NodeEvent) {
			n.note(ev)
			e.emit(ev)
		})
		if err != nil {
			return err
		}
		nodes[spec.Name], addrs[spec.Name] = n, n.addr
		e.set(func() { e.nodes[spec.Name] = n })
	}
	e.set(func() { e.addrs = addrs })
	if e.examine != nil {
		e.examine(ctx, nodes[e.cfg.Nodes[0].Name], gateway, access)
		return nil
	}
	if e.cfg.Disks {
		if err := each(nodes, func(n *node) error { return e.startDisk(ctx, n) }); err != nil {
			return err
		}
	}
	if e.cfg.Limits {
		if err := each(nodes, func(n *node) error { return e.startLimits(ctx, n) }); err != nil {
			return err
		}
	}
	if err := each(nodes, func(n *node) error { return e.startSidecar(ctx, n, addrs, gateway, access) }); err != nil {
		return err
	}
	if err := e.try(ctx, nodes); err != nil {
		return err
	}
	if err := e.startNonces(nodes, access); err != nil {
		return err
	}
	first := nodes[e.cfg.Nodes[0].Name].agent.Client
	for range clockWindow {
		if err := e.sampleClock(ctx, first); err != nil {
			return fmt.Errorf("asking a sidecar for the time: %w", err)
		}
	}
	e.tasks.Go(func() {
		for e.runtime.Sleep(background, sampleEvery) == nil {
			if err := e.sampleClock(background, first); err != nil && background.Err() == nil {
				e.log.Warn("asking a sidecar for the time", "error", err)
			}
		}
	})
	return each(nodes, func(n *node) error { return e.startNode(ctx, n) })
}

// set changes the environment's state, which Down reads.
func (e *Environment) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

// each runs f for all nodes at once; all have returned when it does.
func each(nodes map[string]*node, f func(*node) error) error {
	var g errgroup.Group
	g.SetLimit(8)
	for _, n := range nodes {
		g.Go(func() error { return f(n) })
	}
	return g.Wait()
}

// create bounds a call that creates something and lets it run to its end even
// when ctx is cancelled: the engine would finish it anyway, behind the back of
// the clean-up.
func create[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	if err := ctx.Err(); err != nil {
		var zero T
		return zero, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), engineCall)
	defer cancel()
	return f(ctx)
}

func (e *Environment) checkImages(ctx context.Context) error {
	var err error
	if e.cfg.SidecarImage == "" {
		if e.cfg.SidecarImage, err = ImageName(); err != nil {
			return err
		}
	}
	images := map[string]bool{e.cfg.SidecarImage: true}
	for i := range e.cfg.Nodes {
		n := &e.cfg.Nodes[i]
		if n.Image == "" {
			if n.Image, err = ImageName(); err != nil {
				return err
			}
		}
		images[n.Image] = true
	}
	if e.cfg.NextImage != "" {
		images[e.cfg.NextImage] = true
	}
	found := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(images)) {
		id, err := checkImage(ctx, e.cli, name)
		if err != nil {
			return err
		}
		found["image "+name] = id
	}
	info, err := e.cli.Info(ctx)
	if err != nil {
		return fmt.Errorf("asking the engine about itself: %w", err)
	}
	found["engine"] = info.ServerVersion
	found["api"] = e.cli.ClientVersion()
	found["kernel"] = info.KernelVersion
	found["os"] = info.OperatingSystem
	found["arch"] = info.Architecture
	found["cgroup"] = info.CgroupVersion
	if rootless(info.SecurityOptions) && e.cfg.Disks {
		return fmt.Errorf("%w: the engine at %s is %s", ErrNoDisks, e.cli.DaemonHost(), rootlessRemedy)
	}
	if digest, err := SourceDigest(); err == nil {
		found["source"] = digest
	}
	e.set(func() { e.versions = found })
	return nil
}

func (e *Environment) labels(node, role string) map[string]string {
	l := map[string]string{labelRun: e.cfg.RunID, labelHost: e.state.host}
	if node != "" {
		l[labelNode] = node
	}
	if role != "" {
		l[labelRole] = role
	}
	return l
}

func (e *Environment) netName() string { return "faultline-" + e.cfg.RunID }

// createNetwork takes a free subnet. Another run may take the same one at the
// same time; the engine refuses the second, and the next one is tried.
func (e *Environment) createNetwork(ctx context.Context) (netip.Prefix, error) {
	taken, err := hostPrefixes()
	if err != nil {
		return netip.Prefix{}, err
	}
	nets, err := e.cli.NetworkList(ctx, network.ListOptions{})
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("listing networks: %w", err)
	}
	for _, n := range nets {
		for _, c := range n.IPAM.Config {
			if p, err := netip.ParsePrefix(c.Subnet); err == nil && p.Addr().Is4() {
				taken = append(taken, p.Masked())
			}
		}
	}
	noIPv6 := false
	for p := range subnets(e.cfg.RunID, subnetBits(len(e.cfg.Nodes)), taken) {
		_, err := create(ctx, func(ctx context.Context) (network.CreateResponse, error) {
			return e.cli.NetworkCreate(ctx, e.netName(), network.CreateOptions{
				Driver: "bridge", EnableIPv6: &noIPv6, Labels: e.labels("", ""),
				IPAM: &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: p.String(), Gateway: hostAt(p, 1).String()}}},
			})
		})
		if err == nil {
			return p, nil
		}
		if text := err.Error(); !strings.Contains(text, "overlap") && !strings.Contains(text, "conflicts with network") {
			return netip.Prefix{}, fmt.Errorf("creating network %s: %w", e.netName(), err)
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w in %v; remove unused networks with `docker network prune`, or end other runs", ErrNoSubnet, pools)
}

func (e *Environment) startSidecar(ctx context.Context, n *node, addrs map[string]netip.Addr, gateway netip.Addr, access Access) error {
	cfg := e.sidecarConfig(n)
	cfg.Hostname = n.spec.Name
	host := &container.HostConfig{
		NetworkMode: container.NetworkMode(e.netName()),
		CapDrop:     []string{"ALL"}, CapAdd: []string{"NET_ADMIN"}, SecurityOpt: []string{"no-new-privileges"},
	}
	if n.spec.Clock != "" {
		vol, err := e.createVolume(ctx, n, clockVolume, nil)
		if err != nil {
			return err
		}
		host.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: vol, Target: sidecar.ClockDir}}
	}
	shared, err := e.shareVolume(ctx, sidecar.SharedDir)
	if err != nil {
		return err
	}
	host.Mounts = append(host.Mounts, shared...)
	for _, peer := range slices.Sorted(maps.Keys(addrs)) {
		if peer != n.spec.Name { // the engine adds the own name
			host.ExtraHosts = append(host.ExtraHosts, peer+":"+addrs[peer].String())
		}
	}
	probes := []nat.Port{nat.Port(fmt.Sprintf("%d/udp", e.cfg.Ports.Nonce)), nat.Port(fmt.Sprintf("%d/tcp", e.cfg.Ports.Nonce))}
	reach, listen := publishedHost(e.cli.DaemonHost())
	if access == Published {
		cfg.ExposedPorts, host.PortBindings = nat.PortSet{}, nat.PortMap{}
		for _, port := range append(tcpPorts(n.spec.Ports), probes...) {
			cfg.ExposedPorts[port] = struct{}{}
			host.PortBindings[port] = []nat.PortBinding{{HostIP: listen}}
		}
	}
	endpoint := &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: n.addr.String()}}
	agent, err := e.runSidecar(ctx, n, "net", cfg, host, &network.NetworkingConfig{
		EndpointsConfig: map[string]*network.EndpointSettings{e.netName(): endpoint},
	}, func(a *agent) { n.agent = a })
	if err != nil {
		return err
	}
	peers := maps.Clone(addrs)
	delete(peers, n.spec.Name)
	if err := agent.Configure(ctx, sidecar.Configure{
		Run: e.cfg.RunID, Self: n.spec.Name, Peers: peers, Clients: []netip.Addr{gateway},
		NoncePort: uint16(e.cfg.Ports.Nonce), Interval: nemesis.NonceInterval,
	}); err != nil {
		if ctx.Err() != nil {
			return err
		}
		if errors.Is(err, context.DeadlineExceeded) { // a slow host says nothing of its kernel
			return fmt.Errorf("configuring the sidecar of %s: %w", n.spec.Name, err)
		}
		return fmt.Errorf("%w: at the engine's host: configuring the sidecar of %s: %w; or use --env sim", ErrNoShaping, n.spec.Name, err)
	}
	if access != Published {
		return nil
	}
	c, err := e.cli.ContainerInspect(ctx, agent.id)
	if err != nil {
		return fmt.Errorf("inspecting the sidecar of %s: %w", n.spec.Name, err)
	}
	published := map[nat.Port]string{}
	for port, bindings := range c.NetworkSettings.Ports {
		for _, b := range bindings {
			if strings.Contains(b.HostIP, ":") {
				continue // IPv6
			}
			published[port] = reach + ":" + b.HostPort
		}
	}
	e.set(func() { n.published = published })
	return nil
}

// sidecarConfig is what both kinds of sidecar have in common.
func (e *Environment) sidecarConfig(n *node) *container.Config {
	cfg := &container.Config{
		Image: e.cfg.SidecarImage, Entrypoint: []string{"/faultsidecar"}, Cmd: []string{},
		Labels:    e.labels(n.spec.Name, roleSidecar),
		OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true, AttachStderr: true,
	}
	if e.cfg.SabotageNode == "" || e.cfg.SabotageNode == n.spec.Name {
		cfg.Env = []string{sidecar.SabotageEnv + "=" + string(e.cfg.Sabotage)}
	}
	return cfg
}

// runSidecar starts a sidecar of a node and attaches to it. Its name ends in
// kind, and keep puts it where Down finds it.
func (e *Environment) runSidecar(ctx context.Context, n *node, kind string, cfg *container.Config, host *container.HostConfig, nets *network.NetworkingConfig, keep func(*agent)) (*agent, error) {
	host.ReadonlyRootfs = true
	host.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyDisabled}
	host.LogConfig = container.LogConfig{Type: "none"} // its output is protocol
	created, err := create(ctx, func(ctx context.Context) (container.CreateResponse, error) {
		return e.cli.ContainerCreate(ctx, cfg, host, nets, nil, e.netName()+"-"+n.spec.Name+"-"+kind)
	})
	if err != nil {
		return nil, fmt.Errorf("creating the sidecar of %s: %w", n.spec.Name, err)
	}
	conn, err := e.cli.ContainerAttach(ctx, created.ID, container.AttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, fmt.Errorf("attaching to the sidecar of %s: %w", n.spec.Name, err)
	}
	out, outWriter := io.Pipe()
	e.tasks.Go(func() {
		_, err := stdcopy.StdCopy(outWriter, n.log.stream(sidecarFile), conn.Reader)
		_ = outWriter.CloseWithError(err) // never fails
	})
	a := &agent{Client: sidecar.NewClient(stdin{conn}, out), id: created.ID, conn: conn}
	e.set(func() { keep(a) })
	if _, err := create(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, e.cli.ContainerStart(ctx, created.ID, container.StartOptions{})
	}); err != nil {
		return nil, fmt.Errorf("starting the sidecar of %s: %w", n.spec.Name, err)
	}
	return a, nil
}

func tcpPorts(ports []int) []nat.Port {
	var out []nat.Port
	for _, p := range ports {
		out = append(out, nat.Port(strconv.Itoa(p)+"/tcp"))
	}
	return out
}

// stdin is a container's attached standard input.
type stdin struct{ conn types.HijackedResponse }

func (s stdin) Write(p []byte) (int, error) { return s.conn.Conn.Write(p) }
func (s stdin) Close() error                { return s.conn.CloseWrite() }

// startNonces makes the harness an endpoint of its own.
func (e *Environment) startNonces(nodes map[string]*node, access Access) error {
	peers := map[string]netip.AddrPort{}
	for name, n := range nodes {
		peers[name] = netip.AddrPortFrom(n.addr, uint16(e.cfg.Ports.Nonce))
		if access == Published {
			at, err := e.addr(name, nat.Port(fmt.Sprintf("%d/udp", e.cfg.Ports.Nonce)))
			if err != nil {
				return err
			}
			addr, err := resolve4(at)
			if err != nil {
				return err
			}
			peers[name] = addr
		}
	}
	nonces, err := sidecar.StartNonces(sidecar.NonceConfig{
		Run: e.cfg.RunID, Self: nemesis.Clients, Boot: e.boot, Peers: peers, Interval: nemesis.NonceInterval,
	})
	if err != nil {
		return err
	}
	e.set(func() { e.nonces = nonces })
	return nil
}

func (e *Environment) sampleClock(ctx context.Context, agent *sidecar.Client) error {
	ctx, cancel := context.WithTimeout(ctx, sidecar.DefaultTimeout)
	defer cancel()
	before := e.runtime.Now()
	wall, err := agent.Time(ctx)
	if err != nil {
		return err
	}
	e.hostClock.add(before, e.runtime.Now(), wall)
	return nil
}

// startNode makes a node and starts it, unless it is a spare.
func (e *Environment) startNode(ctx context.Context, n *node) error {
	if err := e.createNode(ctx, n, ""); err != nil || n.spec.Spare {
		return err
	}
	if err := n.start(ctx); err != nil {
		return fmt.Errorf("starting node %s: %w", n.spec.Name, err)
	}
	if e.cfg.Throttle {
		return e.tryThrottle(ctx, n, n.container())
	}
	return nil
}

// createNode makes the volumes and the container of a node.
func (e *Environment) createNode(ctx context.Context, n *node, identity string) error {
	mounts, err := e.volumes(ctx, n)
	if err != nil {
		return err
	}
	cfg := &container.Config{
		Image: n.spec.Image, Entrypoint: n.spec.Entrypoint, Env: n.spec.Env,
		Labels: e.labels(n.spec.Name, roleNode), AttachStdout: true, AttachStderr: true,
	}
	if n.spec.Cmd != nil {
		cfg.Cmd = n.spec.Cmd(maps.Clone(e.addrs), identity)
	}
	host := &container.HostConfig{
		NetworkMode:   container.NetworkMode("container:" + n.agent.id),
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		Mounts:        mounts,
		LogConfig:     container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "1"}},
	}
	name := e.netName() + "-" + n.spec.Name
	id, err := n.createContainer(ctx, cfg, host, name)
	if err != nil {
		return fmt.Errorf("creating node %s: %w", n.spec.Name, err)
	}
	n.made = made{cfg: *cfg, host: *host, name: name, own: id}
	n.setContainer(id)
	return nil
}

// createContainer makes a container of the node, with the node's files in it, and
// returns its id.
func (n *node) createContainer(ctx context.Context, cfg *container.Config, host *container.HostConfig, name string) (string, error) {
	created, err := create(ctx, func(ctx context.Context) (container.CreateResponse, error) {
		return n.cli.ContainerCreate(ctx, cfg, host, nil, nil, name)
	})
	if err != nil || len(n.spec.Files) == 0 {
		return created.ID, err
	}
	files, err := tarOf(n.spec.Files, 0o644)
	if err != nil {
		return "", err
	}
	_, err = create(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, n.cli.CopyToContainer(ctx, created.ID, "/", files, container.CopyToContainerOptions{})
	})
	return created.ID, err
}

// start starts the node's container and reads its output from the first byte
// on. The output of an incarnation before has ended when this one's is read.
func (n *node) start(ctx context.Context) error {
	n.mu.Lock()
	before := n.read
	n.mu.Unlock()
	if before != nil {
		select {
		case <-before:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the end of its output: %w", ctx.Err())
		}
	}
	conn, err := n.cli.ContainerAttach(ctx, n.container(), container.AttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return fmt.Errorf("attaching: %w", err)
	}
	read := make(chan struct{})
	n.mu.Lock()
	n.conn, n.read, n.found = conn, read, nil
	n.mu.Unlock()
	n.tasks.Go(func() {
		defer close(read)
		defer conn.Close()
		out := &lines{emit: n.log.stdout}
		_, err := stdcopy.StdCopy(out, n.log.stream(stderrFile), conn.Reader)
		out.flush()
		if err != nil {
			n.log.store(stderrFile, fmt.Appendf(nil, "\n[reading the node's output: %v]\n", err))
		}
	})
	_, err = create(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, n.cli.ContainerStart(ctx, n.container(), container.StartOptions{})
	})
	if err != nil {
		conn.Close()
	}
	return err
}

// note remembers what the node said of its start.
func (n *node) note(ev history.NodeEvent) {
	if ev.Kind == "start" {
		n.mu.Lock()
		n.found = &ev.Offset
		n.mu.Unlock()
	}
}

// emit hands an event to the dispatcher; a full buffer makes the node wait.
func (e *Environment) emit(ev history.NodeEvent) { e.events <- ev }

func (e *Environment) dispatch() {
	defer close(e.delivered)
	for ev := range e.events {
		if e.onEvent != nil {
			e.onEvent(ev)
		}
	}
}

// node returns a node once it has been created, and ErrNotUp before and after.
func (e *Environment) node(name string) (*node, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.Nodes(), name) {
		return nil, fmt.Errorf("unknown node %q, known are %v", name, e.Nodes())
	}
	n := e.nodes[name]
	if e.down || n == nil || n.container() == "" {
		return nil, ErrNotUp
	}
	return n, nil
}

// lockNode returns a node with the right to change its process.
func (e *Environment) lockNode(ctx context.Context, name string) (*node, func(), error) {
	n, err := e.node(name)
	if err != nil {
		return nil, nil, err
	}
	select {
	case n.ops <- struct{}{}:
		return n, func() { <-n.ops }, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

func (e *Environment) agent(name string) (*sidecar.Client, error) {
	n, err := e.node(name)
	if err != nil {
		return nil, err
	}
	return n.agent.Client, nil
}

func (e *Environment) clientNonces() (sent, received map[string]uint64, boot string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nonces == nil || e.down {
		return nil, nil, "", ErrNotUp
	}
	sent, received = e.nonces.Counters()
	return sent, received, e.boot.String(), nil
}

// Addr returns where this process reaches a node's TCP port, as "host:port". It
// stays the same over restarts of the node.
func (e *Environment) Addr(name string, port int) (string, error) {
	return e.addr(name, nat.Port(strconv.Itoa(port)+"/tcp"))
}

func (e *Environment) addr(name string, port nat.Port) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.nodes[name]
	switch {
	case !slices.Contains(e.Nodes(), name):
		return "", fmt.Errorf("unknown node %q, known are %v", name, e.Nodes())
	case n == nil || e.down:
		return "", fmt.Errorf("address of %s: %w", name, ErrNotUp)
	case n.published == nil:
		return netip.AddrPortFrom(n.addr, uint16(port.Int())).String(), nil
	}
	if at, ok := n.published[port]; ok {
		return at, nil
	}
	return "", fmt.Errorf("port %d of %s is not published; list it in the node's ports", port.Int(), name)
}

// Down removes everything that Up created, or leaves it up where Config.Keep
// says so. It may be called at any time, during Up too, and more than once; it
// does not end with ctx but within environment.DownTimeout.
func (e *Environment) Down(ctx context.Context) error { return e.end(ctx, e.cfg.Keep) }

// Release lets go of the cluster and leaves it up, healed, for somebody to
// look at; Sweep with Kept set removes it.
func (e *Environment) Release(ctx context.Context) error { return e.end(ctx, true) }

func (e *Environment) end(ctx context.Context, keep bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), environment.DownTimeout)
	defer cancel()
	e.ending.Lock()
	defer e.ending.Unlock()
	e.mu.Lock()
	e.down = true
	cancelUp, upDone := e.cancelUp, e.upDone
	e.mu.Unlock()
	if cancelUp != nil {
		cancelUp()
		select {
		case <-upDone:
		case <-ctx.Done():
			return fmt.Errorf("taking the environment down: Up does not end: %w", ctx.Err())
		}
	}
	// Up has returned and nothing else writes to e, so e.mu, which the events'
	// receiver may need, is held only to change what others read.
	var errs error
	if e.stop != nil {
		e.stop()
	}
	if e.nonces != nil {
		errs = errors.Join(errs, e.nonces.Close())
		e.set(func() { e.nonces = nil })
	}
	if e.lock != nil {
		if keep {
			errs = errors.Join(errs, e.keep(ctx))
		} else if _, err := removeRun(ctx, e.cli, e.cfg.RunID, e.state.host); err != nil {
			return errors.Join(errs, err) // the lock is kept: Down can be called again
		}
	}
	for _, n := range e.nodes {
		for _, a := range n.agents() {
			_ = a.Close() // its container may be gone
			a.conn.Close()
		}
		n.mu.Lock()
		if n.read != nil {
			n.conn.Close()
		}
		n.mu.Unlock()
	}
	if err := e.drain(ctx); err != nil {
		return errors.Join(errs, err)
	}
	for _, n := range e.nodes {
		errs = errors.Join(errs, n.log.close())
	}
	e.set(func() { clear(e.nodes) })
	if e.lock != nil {
		if keep {
			errs = errors.Join(errs, e.lock.Close())
		} else {
			errs = errors.Join(errs, e.state.forget(e.cfg.RunID, e.lock))
		}
		e.lock = nil
	}
	if e.cli != nil {
		errs = errors.Join(errs, e.cli.Close())
		e.cli = nil
	}
	return errs
}

// drain waits until all output is read and all events are delivered.
func (e *Environment) drain(ctx context.Context) error {
	if e.events == nil {
		return nil
	}
	read := make(chan struct{})
	go func() {
		e.tasks.Wait()
		close(read)
	}()
	for _, c := range []chan struct{}{read, e.delivered} {
		select {
		case <-c:
		case <-ctx.Done():
			return fmt.Errorf("taking the environment down: the nodes' events are not taken: %w", ctx.Err())
		}
		if c == read {
			close(e.events)
		}
	}
	e.events = nil
	return nil
}

// keep heals the cluster and marks it, so that no ordinary sweep takes it.
func (e *Environment) keep(ctx context.Context) error {
	errs := e.state.markKept(e.cfg.RunID)
	for name, n := range e.nodes {
		for _, a := range n.agents() {
			if err := a.Stay(ctx); err != nil {
				errs = errors.Join(errs, fmt.Errorf("keeping node %s: %w", name, err))
			}
		}
	}
	return errs
}
