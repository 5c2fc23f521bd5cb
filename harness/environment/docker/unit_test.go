package docker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/client"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

func dials(at string) bool {
	conn, err := net.DialTimeout("tcp", at, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

func TestConfigValidate(t *testing.T) {
	good := func() Config { return Config{RunID: "r1", Nodes: []NodeSpec{{Name: "n1"}, {Name: "n2"}}} }
	e, err := New(good())
	require.NoError(t, err)
	require.Equal(t, []string{"n1", "n2"}, e.Nodes())
	require.Equal(t, environment.DefaultPorts, e.cfg.Ports)
	require.Nil(t, e.Disks())
	require.Nil(t, e.Machines().BadDisks)
	require.NotNil(t, e.Machines().Shaper)
	for name, change := range map[string]func(*Config){
		"no run id":      func(c *Config) { c.RunID = "" },
		"run id":         func(c *Config) { c.RunID = "../x" },
		"no nodes":       func(c *Config) { c.Nodes = nil },
		"too many nodes": func(c *Config) { c.Nodes = make([]NodeSpec, maxNodes+1) },
		"node name":      func(c *Config) { c.Nodes[0].Name = "N_1" },
		"reserved name":  func(c *Config) { c.Nodes[0].Name = nemesis.Clients },
		"same name":      func(c *Config) { c.Nodes[0].Name = "n2" },
		"access":         func(c *Config) { c.Access = "magic" },
		"port": func(c *Config) {
			c.Ports = environment.NodePorts{Client: 70000, Peer: 1, Quorum: 1, Admin: 1, Nonce: 1}
		},
		"log limit":         func(c *Config) { c.LogLimit = -1 },
		"throttle":          func(c *Config) { c.Throttle = true },
		"sabotage":          func(c *Config) { c.Sabotage = "x" },
		"sabotaged nowhere": func(c *Config) { c.SabotageNode = "n9" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good()
			change(&cfg)
			_, err := New(cfg)
			require.Error(t, err)
		})
	}
}

func TestBeforeUp(t *testing.T) {
	e, err := New(Config{RunID: "r1", Nodes: []NodeSpec{{Name: "n1"}}})
	require.NoError(t, err)
	ctx := t.Context()
	_, err = e.Network().Observe(ctx)
	require.ErrorIs(t, err, ErrNotUp)
	require.ErrorIs(t, e.Network().Block(ctx, "x", []nemesis.Cut{{From: nemesis.Clients, To: "n1"}}), ErrNotUp)
	require.ErrorIs(t, e.Processes().Kill(ctx, "n1"), ErrNotUp)
	require.NoError(t, e.Collect(ctx, t.TempDir()), "nothing to write")
	_, err = e.Addr("n1", 1)
	require.ErrorIs(t, err, ErrNotUp)
	require.NoError(t, e.Down(ctx))
	require.Error(t, e.Up(ctx), "after Down")
	require.ErrorIs(t, e.Collect(ctx, t.TempDir()), ErrNotUp)
}

// fakeEngine answers pings as an engine of an API version.
func fakeEngine(t *testing.T, api, osType string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Api-Version", api)
		w.Header().Set("Ostype", osType)
	}))
	t.Cleanup(s.Close)
	t.Setenv(client.EnvOverrideHost, "tcp://"+strings.TrimPrefix(s.URL, "http://"))
}

// TestExamineWithoutImage: what is missing is told of where it belongs, and not elsewhere.
func TestExamineWithoutImage(t *testing.T) {
	for _, name := range []string{"DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"} {
		t.Setenv(name, "")
	}
	for _, tt := range []struct{ options, root, remedy string }{
		{`[]`, "", ""},
		{`["name=rootless"]`, "it is rootless and may not make loop devices", "name one that runs as root with DOCKER_HOST, or use --env sim"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Api-Version", MinAPIVersion)
			w.Header().Set("Ostype", "linux")
			switch {
			case strings.HasSuffix(r.URL.Path, "/info"):
				_, _ = fmt.Fprintf(w, `{"SecurityOptions":%s}`, tt.options)
			case strings.Contains(r.URL.Path, "/images/"):
				w.WriteHeader(http.StatusNotFound)
			}
		}))
		t.Cleanup(s.Close)
		t.Setenv(client.EnvOverrideHost, "tcp://"+strings.TrimPrefix(s.URL, "http://"))
		h, err := Examine(t.Context(), nil)
		require.NoError(t, err)
		require.True(t, h.Lookup(FeatureEngine).Works)
		image := h.Lookup(FeatureImage)
		require.False(t, image.Works)
		require.Contains(t, image.Detail, "is not built")
		require.Equal(t, imagesRemedy, image.Remedy)
		require.Equal(t, Feature{Name: FeatureRoot, Works: tt.root == "", Detail: tt.root, Remedy: tt.remedy}, h.Lookup(FeatureRoot))
		require.Equal(t, Feature{Name: FeatureLoop, Detail: notExamined, Remedy: "see " + FeatureImage}, h.Lookup(FeatureLoop))
	}
}

func TestUnusableEngines(t *testing.T) {
	t.Setenv("DOCKER_TLS_VERIFY", "")
	t.Setenv("DOCKER_CERT_PATH", "")
	t.Setenv("DOCKER_API_VERSION", "")
	for _, tt := range []struct {
		name    string
		prepare func(*testing.T)
		remedy  string
	}{
		{"not running", func(t *testing.T) {
			t.Setenv(client.EnvOverrideHost, "unix://"+filepath.Join(t.TempDir(), "none.sock"))
		}, "start the engine"},
		{"malformed", func(t *testing.T) { t.Setenv(client.EnvOverrideHost, "nonsense") }, "unset it"},
		{"ssh", func(t *testing.T) { t.Setenv(client.EnvOverrideHost, "ssh://host") }, "forward the engine's socket"},
		{"too old", func(t *testing.T) { fakeEngine(t, "1.40", "linux") }, "20.10 or newer"},
		{"windows", func(t *testing.T) { fakeEngine(t, "1.41", "windows") }, "Linux containers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.prepare(t)
			_, err := connect(t.Context())
			require.ErrorIs(t, err, ErrUnavailable)
			require.ErrorContains(t, err, tt.remedy)
			require.NotContains(t, err.Error(), "\n", "one line")
		})
	}
	denied := fmt.Errorf("dial unix: %w", os.ErrPermission)
	require.ErrorContains(t, unusable(denied, "unix:///x"), "add your user to the group docker")
	require.ErrorIs(t, unusable(denied, "unix:///x"), ErrUnavailable)
	require.ErrorContains(t, unusable(context.DeadlineExceeded, "unix:///x"), "does not answer")
	require.ErrorIs(t, unusable(context.Canceled, "unix:///x"), context.Canceled)
	t.Run("good", func(t *testing.T) {
		fakeEngine(t, MinAPIVersion, "linux")
		cli, err := connect(t.Context())
		require.NoError(t, err)
		require.NoError(t, cli.Close())
	})
}

func TestPublishedHost(t *testing.T) {
	for daemon, want := range map[string][2]string{
		"unix:///var/run/docker.sock":    {"127.0.0.1", "127.0.0.1"},
		"npipe:////./pipe/docker_engine": {"127.0.0.1", "127.0.0.1"},
		"tcp://engine.example:2376":      {"engine.example", "0.0.0.0"},
	} {
		reach, listen := publishedHost(daemon)
		require.Equal(t, want, [2]string{reach, listen}, daemon)
	}
}

func TestPlace(t *testing.T) {
	cuts := []nemesis.Cut{
		{From: "n1", To: "n2"},
		{From: "n2", To: "n1", Port: nemesis.PeerPort},
		{From: nemesis.Clients, To: "n1", Port: nemesis.ClientPort},
		{From: "n1", To: nemesis.Clients},
		{From: "n3", To: "n1", Port: nemesis.QuorumPort},
	}
	got, err := place(cuts, []string{"n1", "n2", "n3"}, environment.DefaultPorts)
	require.NoError(t, err)
	require.Equal(t, map[string]placed{
		"n1": {
			cuts: []nemesis.Cut{cuts[1], cuts[2], cuts[3], cuts[4]},
			set: sidecar.RuleSet{Drops: []sidecar.Drop{
				{Hook: sidecar.Input, Peer: "n2", Port: 9093},
				{Hook: sidecar.Input, Peer: "clients", Port: 9092},
				{Hook: sidecar.Output, Peer: "clients"},
				{Hook: sidecar.Input, Peer: "n3", Port: 9094},
			}},
		},
		"n2": {cuts: cuts[:1], set: sidecar.RuleSet{Drops: []sidecar.Drop{{Hook: sidecar.Input, Peer: "n1"}}}},
	}, got)
	require.Equal(t, nemesis.Clients, sidecar.Clients)
}

func TestPlaceShapes(t *testing.T) {
	nodes := []string{"n1", "n2"}
	rules := []nemesis.Shaping{
		{From: "n1", To: "n2", Delay: 1, Jitter: 2, Reorder: 0.1},
		{From: "n2", To: nemesis.Clients, Loss: 0.2, Duplicate: 0.3},
		{From: nemesis.Clients, To: "n2", Corrupt: 0.4, Rate: 5},
	}
	got, err := placeShapes(rules, nodes)
	require.NoError(t, err)
	require.Equal(t, map[string]placed{"n2": {
		set: sidecar.RuleSet{Shapes: []sidecar.Shape{
			{Hook: sidecar.Input, Peer: "n1", Delay: 1, Jitter: 2, Reorder: 0.1},
			{Hook: sidecar.Output, Peer: "clients", Loss: 0.2, Duplicate: 0.3},
			{Hook: sidecar.Input, Peer: "clients", Corrupt: 0.4, Rate: 5},
		}},
		pairs: []nemesis.Pair{{From: "n1", To: "n2"}, {From: "n2", To: "clients"}, {From: "clients", To: "n2"}},
	}}, got)
	for _, bad := range [][]nemesis.Shaping{nil, {{From: "n1", To: "n9"}}, {{From: "n1", To: "n1"}}} {
		_, err := placeShapes(bad, nodes)
		require.Error(t, err)
	}
}

func TestSubnets(t *testing.T) {
	require.Equal(t, 28, subnetBits(1))
	require.Equal(t, 28, subnetBits(13))
	require.Equal(t, 27, subnetBits(14))
	require.Equal(t, 27, subnetBits(maxNodes))
	require.Equal(t, "10.213.0.18", hostAt(netip.MustParsePrefix("10.213.0.16/28"), 2).String())

	first := func(run string, taken ...netip.Prefix) netip.Prefix {
		for p := range subnets(run, 28, taken) {
			return p
		}
		return netip.Prefix{}
	}
	a := first("a")
	require.True(t, pools[0].Contains(a.Addr()))
	require.Equal(t, a, a.Masked())
	require.Equal(t, a, first("a"), "the same for the same run")
	require.NotEqual(t, a, first("b"))
	require.NotEqual(t, a, first("a", a))
	require.True(t, pools[1].Contains(first("a", pools[0]).Addr()))
	require.False(t, first("a", pools...).IsValid(), "exhausted")

	seen := map[netip.Prefix]bool{}
	for p := range subnets("a", 28, nil) {
		require.False(t, seen[p])
		seen[p] = true
		require.True(t, overlapsAny(p, pools))
	}
	require.Len(t, seen, 1<<13+1<<12)
}

func TestParseRoutes(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the example is of a little-endian host")
	}
	table := "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n" +
		"tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n" +
		"junk\tzz\t0\t0\t0\t0\t0\tzz\n"
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}, parseRoutes(table))
}

func TestHostClock(t *testing.T) {
	var h hostClock
	_, _, ok := h.at(1)
	require.False(t, ok)
	epoch := time.Unix(1000, 0)
	sample := func(before, after, wall time.Duration) { h.add(before, after, epoch.Add(wall)) }
	at := func(wall time.Duration) (time.Duration, time.Duration) {
		a, u, ok := h.at(epoch.Add(wall).UnixNano())
		require.True(t, ok)
		return time.Duration(a), time.Duration(u)
	}
	sample(0, 10*time.Millisecond, 8*time.Millisecond) // true offset 0
	sample(20*time.Millisecond, 22*time.Millisecond, 21*time.Millisecond)
	got, u := at(100 * time.Millisecond)
	require.Equal(t, 100*time.Millisecond, got)
	require.Equal(t, time.Millisecond, u, "the best sample's")

	sample(30*time.Millisecond, 32*time.Millisecond, 531*time.Millisecond)
	got, u = at(600 * time.Millisecond)
	require.Equal(t, 100*time.Millisecond, got, "the newest of equals")
	require.GreaterOrEqual(t, u, 500*time.Millisecond, "the clock was stepped")
	for range clockWindow {
		sample(40*time.Millisecond, 42*time.Millisecond, 541*time.Millisecond)
	}
	_, u = at(600 * time.Millisecond)
	require.Equal(t, time.Millisecond, u, "the step is out of the window")
}

func TestParseEvent(t *testing.T) {
	ev, wall, ok := parseEvent("n1", []byte(`{"event":"isr","incarnation":"a1","seq":7,"wall":99,"key":"t-0","epoch":3,"leader":"n2","isr":["n1","n2"],"from":1,"to":2,"offset":5,"detail":"d"}`+"\n"))
	require.True(t, ok)
	require.EqualValues(t, 99, wall)
	require.Equal(t, history.NodeEvent{
		Node: "n1", Incarnation: "a1", Seq: 7, Kind: "isr", Key: "t-0", Epoch: 3, Leader: "n2",
		ISR: []string{"n1", "n2"}, From: 1, To: 2, Offset: 5, Detail: "d",
	}, ev)
	_, wall, _ = parseEvent("n1", []byte(`{"event":"isr","wall":99,"machine":42}`))
	require.EqualValues(t, 42, wall, "where the node's clock may be wrong, the machine's counts")
	ev, _, ok = parseEvent("n1", []byte(`{"event":"start","incarnation":12}`))
	require.True(t, ok)
	require.Equal(t, "12", ev.Incarnation)
	require.EqualValues(t, -1, ev.Epoch, "none")
	for _, line := range []string{"", "\n", "text", "{}", `{"event":""}`, `{"event":"x"`, `{"event":3}`, `{"level":"info","msg":"event"}`, `["event"]`} {
		_, _, ok := parseEvent("n1", []byte(line))
		require.False(t, ok, line)
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"event":"start","incarnation":1,"seq":1}`))
	f.Add([]byte(`{"event":"x","isr":null,"epoch":1e3}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if ev, _, ok := parseEvent("n1", line); ok {
			require.NotEmpty(t, ev.Kind)
			_, err := json.Marshal(ev)
			require.NoError(t, err)
		}
	})
}

func TestLines(t *testing.T) {
	var got []string
	l := &lines{emit: func(b []byte) { got = append(got, string(b)) }}
	for _, part := range []string{"a", "b\nc\n", "", "\nd"} {
		n, err := l.Write([]byte(part))
		require.NoError(t, err)
		require.Equal(t, len(part), n)
	}
	l.flush()
	l.flush()
	require.Equal(t, []string{"ab\n", "c\n", "\n", "d\n"}, got)
	got = nil
	_, err := l.Write([]byte(strings.Repeat("x", maxLine) + "y\n"))
	require.NoError(t, err)
	_, err = l.Write([]byte(strings.Repeat("z", maxLine)))
	require.NoError(t, err)
	require.Equal(t, []int{maxLine + 2, maxLine + 1}, []int{len(got[0]), len(got[1])})
}

func TestNodeLog(t *testing.T) {
	var clock hostClock
	clock.add(0, 2, time.Unix(0, 1000))
	var emitted []history.NodeEvent
	dir := t.TempDir()
	l, err := newNodeLog("n1", filepath.Join(dir, "spool"), 100, &clock, func() time.Duration { return 77 }, func(ev history.NodeEvent) { emitted = append(emitted, ev) })
	require.NoError(t, err)
	l.stdout([]byte("log\n"))
	l.stdout([]byte(`{"event":"start","wall":2000}` + "\n"))
	l.stdout([]byte(`{"event":"timeless"}` + "\n"))
	for range 30 {
		_, err := l.stream(stderrFile).Write([]byte("0123456789"))
		require.NoError(t, err)
	}
	require.NoError(t, l.copyTo(dir))
	require.Equal(t, "log\n", string(must(os.ReadFile(filepath.Join(dir, stdoutFile)))))
	require.Equal(t, strings.Repeat("0123456789", 10)+"\n[the rest is dropped: the limit of 100 bytes is reached]\n", string(must(os.ReadFile(filepath.Join(dir, stderrFile)))))
	require.Equal(t, 2, strings.Count(string(must(os.ReadFile(filepath.Join(dir, eventsFile)))), "\n"))
	require.Len(t, emitted, 2)
	require.EqualValues(t, 1001, emitted[0].At)
	require.EqualValues(t, 1, emitted[0].Uncertainty)
	require.EqualValues(t, 77, emitted[1].At, "its arrival")
	require.EqualValues(t, arrivalUncertainty, emitted[1].Uncertainty)

	require.NoError(t, l.close())
	l.stdout([]byte("too late\n"))
	require.Error(t, l.copyTo(dir), "what could not be stored is told")
}

func TestState(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			st, err := openState()
			if err == nil {
				ids[i] = st.host
			}
		})
	}
	wg.Wait()
	require.NotEmpty(t, ids[0])
	require.Len(t, slices.Compact(ids), 1, "one id for all")

	st, err := openState()
	require.NoError(t, err)
	lock, err := st.lock("r1")
	require.NoError(t, err)
	require.NotNil(t, lock)
	second, err := st.lock("r1")
	require.NoError(t, err)
	require.Nil(t, second, "it is held")
	require.NoError(t, os.MkdirAll(st.spoolDir("r1"), 0o700))
	require.NoError(t, st.markKept("r1"))
	require.True(t, st.kept("r1"))
	runs, err := st.runs()
	require.NoError(t, err)
	require.Contains(t, runs, "r1")
	require.NoError(t, st.forget("r1", lock))
	runs, err = st.runs()
	require.NoError(t, err)
	require.Empty(t, runs)
	lock, err = st.lock("r1")
	require.NoError(t, err)
	require.NotNil(t, lock, "free again")
	require.NoError(t, st.forget("r1", lock))
}

func TestDigestTree(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	write("go.mod", "module "+modulePath+"\n")
	write("docker/Dockerfile", "FROM scratch")
	write("broker/b.go", "package broker")
	digest := func() string { return must(digestTree(root)) }
	first := digest()
	for _, unrelated := range []string{"broker/b_test.go", "broker/README.md", "broker/testdata/x.go", "harness/h.go", "docker/compose.yaml"} {
		write(unrelated, "x")
		require.Equal(t, first, digest(), unrelated)
	}
	seen := []string{first}
	for _, related := range []string{"broker/b.go", "broker/deep/c.go", "go.sum", "cmd/faultsidecar/main.go", "docker/Dockerfile", "nemesis/sidecar/s.go"} {
		write(related, "changed")
		require.NotContains(t, seen, digest(), related)
		seen = append(seen, digest())
	}
	write("broker/b.go", "")
	write("broker/bb.go", "changed")
	require.NotContains(t, seen, digest(), "content moved to another file")

	t.Chdir(filepath.Join(root, "broker", "deep"))
	require.Equal(t, digest(), must(SourceDigest()))
	name := "faultline/node:" + digest()[:12]
	if buildTags != "" {
		name += "-" + buildTags
	}
	require.Equal(t, name, must(ImageName()))
	t.Chdir(t.TempDir())
	_, err := SourceDigest()
	require.ErrorIs(t, err, errNoSource)
	builtDigest = first
	defer func() { builtDigest = "" }()
	require.Equal(t, first, must(SourceDigest()), "what was set when the binary was built")
}

// TestSourcesAreComplete holds imageSources against what the binaries are really built from.
func TestSourcesAreComplete(t *testing.T) {
	root, err := sourceRoot()
	require.NoError(t, err)
	for _, pkg := range binaries {
		if _, err := os.Stat(filepath.Join(root, pkg)); err != nil {
			continue
		}
		cmd := exec.Command("go", "list", "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{.ImportPath}} {{.EmbedFiles}}{{end}}{{end}}", pkg)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		for line := range strings.Lines(string(out)) {
			path, embedded, _ := strings.Cut(strings.TrimSpace(line), " ")
			require.Equal(t, "[]", embedded, "%s embeds files, which the digest does not cover", path)
			rel := strings.TrimPrefix(path, modulePath+"/")
			require.True(t, slices.ContainsFunc(imageSources, func(s string) bool { return rel == s || strings.HasPrefix(rel, s+"/") }),
				fmt.Sprintf("%s needs %s, which the digest does not cover", pkg, rel))
		}
	}
}
