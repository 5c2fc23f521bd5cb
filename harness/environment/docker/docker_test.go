package docker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// The image of the tests: the real sidecar, and a test node for a broker.
const testImage = "faultline/environment-test:latest"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-abandoned-run" {
		abandonedRun(os.Args[2])
		return
	}
	code := m.Run()
	removeTestImage()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func removeTestImage() {
	ctx, cancel := context.WithTimeout(context.Background(), engineCall)
	defer cancel()
	cli, err := connect(ctx)
	if err != nil {
		return
	}
	defer func() { _ = cli.Close() }()
	_, _ = cli.ImageRemove(ctx, testImage, image.RemoveOptions{Force: true, PruneChildren: true}) // may never have been built
}

// needDocker skips without Docker, and fails where it must be there.
func needDocker(t *testing.T) *client.Client {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Docker: skipped with -short")
	}
	cli, err := connect(t.Context())
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	buildTestImage(t, cli)
	return cli
}

// needAll skips a test that is too slow for every run of the suite.
func needAll(t *testing.T) {
	t.Helper()
	if os.Getenv("FAULTLINE_DOCKER_TESTS") != "all" {
		t.Skip("set FAULTLINE_DOCKER_TESTS=all to run it")
	}
}

var buildOnce sync.Once

var testPackages = map[string]string{
	"faultbroker": "./harness/environment/docker/testdata/testnode", "faultsidecar": binaries["faultsidecar"],
}

// buildTestImage builds the image of the tests, without the label that ties it
// to the source: the tree may be edited while they run.
func buildTestImage(t *testing.T, cli *client.Client) {
	buildOnce.Do(func() {
		dir := t.TempDir()
		root, err := sourceRoot()
		require.NoError(t, err)
		version, err := cli.ServerVersion(t.Context())
		require.NoError(t, err)
		files := map[string]string{"Dockerfile": filepath.Join(root, "docker", "Dockerfile")}
		for bin, pkg := range testPackages {
			files[bin] = filepath.Join(dir, bin)
			require.NoError(t, goBuild(t.Context(), root, version.Arch, "test", pkg, files[bin], io.Discard))
		}
		require.NoError(t, buildImage(t.Context(), cli, files, []string{testImage}, nil, io.Discard))
	})
}

func TestEnsureImage(t *testing.T) {
	cli := needDocker(t)
	needAll(t)
	const repository = "faultline/build-test"
	before := must(SourceDigest())
	name, err := ensureImage(t.Context(), cli, repository, "", testPackages, io.Discard)
	if before != must(SourceDigest()) {
		t.Skip("the source tree changes while this test runs")
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		for _, n := range []string{name, tagged(repository, "dev")} {
			_, err := cli.ImageRemove(context.Background(), n, image.RemoveOptions{PruneChildren: true})
			require.NoError(t, err)
		}
	})
	require.Equal(t, imageNameOf(repository, before), name)
	_, err = checkImage(t.Context(), cli, tagged(repository, "dev"))
	require.NoError(t, err)
	again, err := ensureImage(t.Context(), cli, repository, "", map[string]string{"x": "./no/such/package"}, io.Discard)
	require.NoError(t, err, "it is there: nothing is built")
	require.Equal(t, name, again)
	_, err = ensureImage(t.Context(), cli, repository+"2", "", map[string]string{"x": "./no/such/package"}, io.Discard)
	require.ErrorContains(t, err, "no/such/package")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// testConfig is a cluster of test nodes that talk to each other on the peer port.
func testConfig(nodes int) Config {
	cfg := Config{RunID: "t" + NewRunID(), SidecarImage: testImage}.withDefaults()
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		cfg.Nodes = append(cfg.Nodes, NodeSpec{
			Name: name, Image: testImage,
			Cmd: func(addrs map[string]netip.Addr, _ string) []string {
				var peers []string
				for peer, addr := range addrs {
					if peer != name {
						peers = append(peers, fmt.Sprintf("%s:%d", addr, cfg.Ports.Peer))
					}
				}
				args := []string{"/faultbroker", "/data", fmt.Sprintf("%d,%d,%d", cfg.Ports.Client, cfg.Ports.Peer, cfg.Ports.Admin)}
				if len(peers) > 0 {
					args = append(args, strings.Join(peers, ","))
				}
				return args
			},
		})
	}
	return cfg
}

type cluster struct {
	*Environment
	t *testing.T

	mu  sync.Mutex
	evs []history.NodeEvent
}

func up(t *testing.T, cfg Config) *cluster {
	t.Helper()
	e, err := New(cfg)
	require.NoError(t, err)
	c := &cluster{Environment: e, t: t}
	e.Events(func(ev history.NodeEvent) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.evs = append(c.evs, ev)
	})
	t.Cleanup(func() { require.NoError(t, e.Down(context.Background())) })
	begin := time.Now()
	require.NoError(t, e.Up(t.Context()))
	t.Logf("up in %v", time.Since(begin))
	return c
}

func (c *cluster) events() []history.NodeEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]history.NodeEvent(nil), c.evs...)
}

func (c *cluster) observe() nemesis.Observation {
	c.t.Helper()
	o, err := c.Network().Observe(c.t.Context())
	require.NoError(c.t, err)
	return o
}

// nonces until a direction counts as decided: so many sent, and the newest of
// them arrived or none of them did.
const decided = 4

// cutNow watches until every direction is decided and returns those that are cut.
func (c *cluster) cutNow() map[nemesis.Pair]bool {
	c.t.Helper()
	// A nonce that was on its way when the rules changed counts for neither side.
	first := c.observe()
	require.Eventually(c.t, func() bool { return advanced(first, c.observe(), 2) }, 5*time.Second, nemesis.NonceInterval/2)
	begin := c.observe()
	cut := map[nemesis.Pair]bool{}
	require.Eventually(c.t, func() bool {
		o := c.observe()
		if !advanced(begin, o, decided) {
			return false
		}
		for pair := range o.Reach {
			got := o.Reach[pair].Received - begin.Reach[pair].Received
			if got > 0 && got < decided-1 {
				return false
			}
			cut[pair] = got == 0
		}
		require.Equal(c.t, begin.Boots, o.Boots)
		return true
	}, 5*time.Second, nemesis.NonceInterval/2)
	for pair, is := range cut {
		if !is {
			delete(cut, pair)
		}
	}
	return cut
}

func advanced(a, b nemesis.Observation, by uint64) bool {
	for pair := range b.Reach {
		if b.Reach[pair].Sent < a.Reach[pair].Sent+by {
			return false
		}
	}
	return true
}

func pairs(cuts ...nemesis.Cut) map[nemesis.Pair]bool {
	m := map[nemesis.Pair]bool{}
	for _, c := range cuts {
		m[nemesis.Pair{From: c.From, To: c.To}] = true
	}
	return m
}

func (c *cluster) eventuallyDropped(id string, cuts ...nemesis.Cut) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		o := c.observe()
		for _, cut := range cuts {
			if o.Dropped[id][cut] == 0 {
				return false
			}
		}
		return true
	}, 10*time.Second, nemesis.NonceInterval)
}

// answers reports whether a node echoes a byte on a port.
func (c *cluster) answers(node string, port int, timeout time.Duration) bool {
	c.t.Helper()
	at, err := c.Addr(node, port)
	require.NoError(c.t, err)
	conn, err := net.DialTimeout("tcp", at, timeout)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := conn.Write([]byte{7}); err != nil {
		return false
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err == nil
}

func (c *cluster) eventuallyAnswers(node string, port int) {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return c.answers(node, port, time.Second) }, 10*time.Second, 20*time.Millisecond)
}

// TestCluster walks one cluster through everything a node and its links can undergo.
func TestCluster(t *testing.T) {
	cli := needDocker(t)
	cfg := testConfig(3)
	c := up(t, cfg)
	ctx := t.Context()
	net, proc := c.Network(), c.Processes()
	n1to2 := nemesis.Cut{From: "n1", To: "n2"}
	n2to1 := nemesis.Cut{From: "n2", To: "n1"}
	c.eventuallyAnswers("n1", cfg.Ports.Client)

	t.Run("all directions pass at first", func(t *testing.T) {
		require.Empty(t, c.cutNow())
		require.Len(t, c.observe().Reach, 4*3)
		require.Len(t, c.observe().Boots, 4)
	})

	t.Run("a one-way cut is one-way and hits established connections", func(t *testing.T) {
		require.NoError(t, net.Block(ctx, "one-way", []nemesis.Cut{n1to2}))
		require.Equal(t, pairs(n1to2), c.cutNow())
		c.eventuallyDropped("one-way", n1to2)
	})

	t.Run("a second set overlaps and is counted too", func(t *testing.T) {
		both := []nemesis.Cut{n1to2, n2to1}
		require.NoError(t, net.Block(ctx, "both", both))
		require.Equal(t, pairs(both...), c.cutNow())
		c.eventuallyDropped("both", both...)
		require.Error(t, net.Block(ctx, "both", both), "a known id")
		require.NoError(t, net.Unblock(ctx, "both"))
		require.Equal(t, pairs(n1to2), c.cutNow(), "the other set is untouched")
		require.Error(t, net.Unblock(ctx, "both"), "an unknown id")
	})

	t.Run("kill and start keep address, rules, data and observer", func(t *testing.T) {
		before, err := proc.State(ctx, "n2")
		require.NoError(t, err)
		require.True(t, before.Running)
		boots := c.observe().Boots
		require.NoError(t, proc.Kill(ctx, "n2"))
		dead, err := proc.State(ctx, "n2")
		require.NoError(t, err)
		require.Equal(t, nemesis.ProcessState{Started: before.Started, ExitCode: 137}, dead)
		require.Error(t, proc.Kill(ctx, "n2"), "it is dead")
		require.False(t, c.answers("n2", cfg.Ports.Client, time.Second))
		require.NoError(t, proc.Start(ctx, "n2"))
		require.Error(t, proc.Start(ctx, "n2"), "it runs")
		after, err := proc.State(ctx, "n2")
		require.NoError(t, err)
		require.True(t, after.Running)
		require.NotEqual(t, before.Started, after.Started)
		require.Equal(t, boots, c.observe().Boots)
		require.Equal(t, pairs(n1to2), c.cutNow())
		c.eventuallyAnswers("n2", cfg.Ports.Client)
		require.NoError(t, net.Unblock(ctx, "one-way"))
		require.Empty(t, c.cutNow())
	})

	t.Run("clients are cut from a node, both ways and each alone", func(t *testing.T) {
		in := nemesis.Cut{From: nemesis.Clients, To: "n3"}
		out := nemesis.Cut{From: "n3", To: nemesis.Clients}
		require.NoError(t, net.Block(ctx, "c", []nemesis.Cut{in}))
		require.Equal(t, pairs(in), c.cutNow())
		require.False(t, c.answers("n3", cfg.Ports.Client, 200*time.Millisecond))
		c.eventuallyDropped("c", in)
		require.NoError(t, net.Unblock(ctx, "c"))
		require.NoError(t, net.Block(ctx, "c", []nemesis.Cut{out}))
		require.Equal(t, pairs(out), c.cutNow())
		require.False(t, c.answers("n3", cfg.Ports.Client, 200*time.Millisecond))
		c.eventuallyDropped("c", out)
		require.NoError(t, net.Unblock(ctx, "c"))
		c.eventuallyAnswers("n3", cfg.Ports.Client)
		require.Empty(t, c.cutNow())
	})

	t.Run("a cut of one port leaves the others", func(t *testing.T) {
		cut := nemesis.Cut{From: nemesis.Clients, To: "n1", Port: nemesis.ClientPort}
		peer := nemesis.Cut{From: "n1", To: "n3", Port: nemesis.PeerPort}
		quorum := nemesis.Cut{From: "n1", To: "n3", Port: nemesis.QuorumPort}
		require.NoError(t, net.Block(ctx, "p", []nemesis.Cut{cut, peer, quorum}))
		require.Empty(t, c.cutNow(), "nonces have another port")
		require.False(t, c.answers("n1", cfg.Ports.Client, 200*time.Millisecond))
		require.True(t, c.answers("n1", cfg.Ports.Admin, time.Second))
		c.eventuallyDropped("p", cut, peer)
		require.Zero(t, c.observe().Dropped["p"][quorum], "nothing speaks on that port")
		require.NoError(t, net.Unblock(ctx, "p"))
	})

	t.Run("pause, resume, and kill while paused", func(t *testing.T) {
		require.NoError(t, proc.Pause(ctx, "n3"))
		s, err := proc.State(ctx, "n3")
		require.NoError(t, err)
		require.True(t, s.Running && s.Paused)
		require.False(t, c.answers("n3", cfg.Ports.Client, 200*time.Millisecond))
		require.Empty(t, c.cutNow(), "the sidecar is not paused")
		_, err = proc.Stop(ctx, "n3", time.Second)
		require.ErrorContains(t, err, "resume it first")
		require.NoError(t, proc.Resume(ctx, "n3"))
		c.eventuallyAnswers("n3", cfg.Ports.Client)
		require.NoError(t, proc.Pause(ctx, "n3"))
		require.NoError(t, proc.Kill(ctx, "n3"))
		s, err = proc.State(ctx, "n3")
		require.NoError(t, err)
		require.False(t, s.Running)
		require.False(t, s.Paused)
		require.NoError(t, proc.Start(ctx, "n3"))
		c.eventuallyAnswers("n3", cfg.Ports.Client)
	})

	t.Run("stop is graceful", func(t *testing.T) {
		code, err := proc.Stop(ctx, "n1", 5*time.Second)
		require.NoError(t, err)
		require.Zero(t, code)
		require.NoError(t, proc.Start(ctx, "n1"))
	})

	t.Run("events arrive from every incarnation, in order, with times", func(t *testing.T) {
		require.Eventually(t, func() bool { return len(c.events()) == 7 }, 5*time.Second, 10*time.Millisecond)
		got := map[string][]string{}
		for _, ev := range c.events() {
			got[ev.Node] = append(got[ev.Node], ev.Kind+ev.Incarnation)
			require.Positive(t, ev.At)
			require.Less(t, ev.At, int64(c.Runtime().Now()))
			require.Less(t, ev.Uncertainty, int64(50*time.Millisecond))
			if ev.Kind == "start" {
				require.Equal(t, ev.Node, ev.Detail, "the host name")
			}
		}
		require.Equal(t, map[string][]string{
			"n1": {"start1", "stop1", "start2"}, "n2": {"start1", "start2"}, "n3": {"start1", "start2"},
		}, got)
	})

	t.Run("unknown names are refused", func(t *testing.T) {
		for name, cuts := range map[string][]nemesis.Cut{
			"node": {{From: "n9", To: "n1"}}, "port": {{From: "n1", To: "n2", Port: "ssh"}},
			"self": {{From: "n1", To: "n1"}}, "none": nil, "twice": {n1to2, n1to2},
		} {
			require.Error(t, net.Block(ctx, "bad", cuts), name)
		}
		require.ErrorContains(t, proc.Kill(ctx, "n9"), "n1 n2 n3")
		require.Empty(t, c.cutNow())
	})

	t.Run("collect", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, c.Collect(ctx, dir))
		read := func(name string) string { return string(must(os.ReadFile(filepath.Join(dir, "n2", name)))) }
		require.Equal(t, "a line of log\na line of log\n", read(stdoutFile))
		require.Equal(t, "a line of errors\na line of errors\n", read(stderrFile))
		require.Contains(t, read(digestFile), "  data/starts\n")
		var ev history.NodeEvent
		require.NoError(t, json.NewDecoder(strings.NewReader(read(eventsFile))).Decode(&ev))
		require.Equal(t, "start", ev.Kind)
		require.NotEmpty(t, c.Versions()["kernel"])
	})

	t.Run("a lost sidecar is seen, never a heal", func(t *testing.T) {
		require.NoError(t, net.Block(ctx, "gone", []nemesis.Cut{n1to2}))
		n, err := c.node("n2")
		require.NoError(t, err)
		require.NoError(t, cli.ContainerKill(ctx, n.agent.id, "SIGKILL"))
		<-n.agent.Done()
		_, err = net.Observe(ctx)
		require.ErrorIs(t, err, sidecar.ErrGone)
		require.ErrorIs(t, net.Unblock(ctx, "gone"), sidecar.ErrGone)
		// A set that cannot be applied everywhere is taken back where it was.
		require.ErrorIs(t, net.Block(ctx, "half", []nemesis.Cut{n2to1, n1to2}), sidecar.ErrGone)
		agent, err := c.agent("n1")
		require.NoError(t, err)
		o, _, err := agent.Observe(ctx)
		require.NoError(t, err)
		require.Empty(t, o.Dropped)
	})

	require.NoError(t, c.Down(ctx))
	requireNothing(t, cli, cfg.RunID)
	_, err := net.Observe(ctx)
	require.ErrorIs(t, err, ErrNotUp)
	require.NoError(t, c.Down(ctx), "again")
}

func requireNothing(t *testing.T, cli *client.Client, run string) {
	t.Helper()
	o, err := list(context.Background(), cli, filters.Arg("label", labelRun+"="+run))
	require.NoError(t, err)
	require.True(t, o.empty(), "%+v", o)
	st, err := openState()
	require.NoError(t, err)
	require.NoFileExists(t, st.lockPath(run))
	require.NoDirExists(t, st.spoolDir(run))
}

// TestSabotage shows that what the proofs rest on tells a pretended cut from a real one.
func TestSabotage(t *testing.T) {
	needDocker(t)
	needAll(t)
	cut := []nemesis.Cut{{From: "n1", To: "n2"}, {From: "n2", To: "n1"}}
	for _, tt := range []struct {
		name     string
		sabotage sidecar.Sabotage
		node     string
		want     map[nemesis.Pair]bool
	}{
		{"stubbed", sidecar.Stubbed, "", pairs()},
		{"stubbed on one node", sidecar.Stubbed, "n1", pairs(cut[0])},
		{"new connections only", sidecar.NewOnly, "", pairs()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(2)
			cfg.Sabotage, cfg.SabotageNode = tt.sabotage, tt.node
			c := up(t, cfg)
			require.Empty(t, c.cutNow())
			require.NoError(t, c.Network().Block(t.Context(), "x", cut))
			require.Equal(t, tt.want, c.cutNow())
			require.NoError(t, c.Network().Unblock(t.Context(), "x"))
		})
	}
	t.Run("removed at half time", func(t *testing.T) {
		cfg := testConfig(2)
		cfg.Sabotage = sidecar.HalfTime(2 * time.Second)
		c := up(t, cfg)
		require.Empty(t, c.cutNow())
		require.NoError(t, c.Network().Block(t.Context(), "x", cut))
		require.Equal(t, pairs(cut...), c.cutNow(), "at first it is real")
		require.Eventually(t, func() bool { return len(c.cutNow()) == 0 }, 10*time.Second, nemesis.NonceInterval)
		require.NoError(t, c.Network().Unblock(t.Context(), "x"))
	})
}

func TestPublishedPorts(t *testing.T) {
	needDocker(t)
	needAll(t)
	cfg := testConfig(2)
	cfg.Access = Published
	c := up(t, cfg)
	require.Empty(t, c.cutNow())
	at, err := c.Addr("n1", cfg.Ports.Client)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(at, "127.0.0.1:"), at)
	_, err = c.Addr("n1", cfg.Ports.Quorum)
	require.ErrorContains(t, err, "not published")
	c.eventuallyAnswers("n1", cfg.Ports.Client)
	for _, cut := range []nemesis.Cut{{From: nemesis.Clients, To: "n1"}, {From: "n1", To: nemesis.Clients}} {
		require.NoError(t, c.Network().Block(t.Context(), "x", []nemesis.Cut{cut}))
		require.Equal(t, pairs(cut), c.cutNow())
		require.False(t, c.answers("n1", cfg.Ports.Client, 200*time.Millisecond))
		require.NoError(t, c.Network().Unblock(t.Context(), "x"))
	}
	require.Empty(t, c.cutNow())
	for _, pair := range [][2]string{{nemesis.Clients, "n1"}, {"n1", nemesis.Clients}} {
		e, err := c.Machines().Shaper.Echo(t.Context(), pair[0], pair[1], nemesis.Volley{Count: 20})
		require.NoError(t, err)
		require.Equal(t, 20, e.Returned, "from %s to %s", pair[0], pair[1])
	}
	resetter := c.Machines().Resetter
	for _, d := range []struct {
		want  string
		spoil func(ctx context.Context, id, node string) error
	}{{nemesis.DialReset, resetter.Reject}, {nemesis.DialSilent, resetter.Silence}} {
		require.NoError(t, d.spoil(t.Context(), "x", "n1"))
		got, err := resetter.Dial(t.Context(), nemesis.Clients, "n1")
		require.NoError(t, err)
		require.Equal(t, d.want, got)
		require.NoError(t, resetter.Accept(t.Context(), "x"))
		got, err = resetter.Dial(t.Context(), nemesis.Clients, "n1")
		require.NoError(t, err)
		require.Equal(t, nemesis.DialAccepted, got)
	}
	require.NoError(t, c.Processes().Kill(t.Context(), "n1"))
	require.NoError(t, c.Processes().Start(t.Context(), "n1"))
	again, err := c.Addr("n1", cfg.Ports.Client)
	require.NoError(t, err)
	require.Equal(t, at, again)
	c.eventuallyAnswers("n1", cfg.Ports.Client)
}

func TestImages(t *testing.T) {
	cli := needDocker(t)
	ctx := t.Context()
	_, err := checkImage(ctx, cli, imageRepository+":none")
	require.ErrorIs(t, err, ErrNoImage)
	require.ErrorContains(t, err, "make images")
	_, err = checkImage(ctx, cli, "faultline/third-party:none")
	require.ErrorIs(t, err, ErrNoImage)
	require.ErrorContains(t, err, "pull")
	_, err = checkImage(ctx, cli, testImage)
	require.NoError(t, err, "nothing is required of the images of others")

	dir := t.TempDir()
	files := map[string]string{"Dockerfile": filepath.Join(dir, "Dockerfile"), "x": filepath.Join(dir, "x")}
	require.NoError(t, os.WriteFile(files["Dockerfile"], []byte("FROM scratch\nCOPY x /\n"), 0o600))
	require.NoError(t, os.WriteFile(files["x"], []byte("x"), 0o600))
	build := func(name, source string) string {
		name = "faultline/environment-test:" + name
		require.NoError(t, buildImage(ctx, cli, files, []string{name}, map[string]string{labelSource: source}, io.Discard))
		t.Cleanup(func() {
			_, err := cli.ImageRemove(context.Background(), name, image.RemoveOptions{Force: true, PruneChildren: true})
			require.NoError(t, err)
		})
		return name
	}
	stale := build("stale", "0123456789abcdef")
	_, err = checkImage(ctx, cli, stale)
	require.ErrorIs(t, err, ErrStaleImage)
	require.ErrorContains(t, err, "make images")

	cfg := testConfig(1)
	cfg.SidecarImage = stale
	e, err := New(cfg)
	require.NoError(t, err)
	require.ErrorIs(t, e.Up(ctx), ErrStaleImage)
	require.NoError(t, e.Down(ctx))
	requireNothing(t, cli, cfg.RunID)

	require.NoError(t, os.WriteFile(files["Dockerfile"], []byte("FROM scratch\nCOPY missing /\n"), 0o600))
	err = buildImage(ctx, cli, files, []string{"faultline/environment-test:bad"}, nil, io.Discard)
	require.ErrorContains(t, err, "missing")
}

func TestStopTimesOut(t *testing.T) {
	cli := needDocker(t)
	needAll(t)
	cfg := testConfig(1)
	cfg.Nodes[0].Env = []string{"STUBBORN=1"}
	c := up(t, cfg)
	c.eventuallyAnswers("n1", cfg.Ports.Client)
	_, err := c.Processes().Stop(t.Context(), "n1", 200*time.Millisecond)
	require.ErrorContains(t, err, "still runs")
	s, err := c.Processes().State(t.Context(), "n1")
	require.NoError(t, err)
	require.True(t, s.Running)

	require.NoError(t, c.Processes().Pause(t.Context(), "n1"))
	require.NoError(t, c.Down(t.Context()), "with a paused node")
	requireNothing(t, cli, cfg.RunID)
}
