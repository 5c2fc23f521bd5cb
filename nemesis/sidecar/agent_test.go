package sidecar

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a filter that counts one packet per rule each time it is asked.
type memory struct {
	mu   sync.Mutex
	run  string
	sets map[string][]rule
	fail error
	asks uint64
}

func (m *memory) setup(run string, _ uint16) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run, m.sets = run, map[string][]rule{}
	return m.fail
}

func (m *memory) apply(set string, rules []rule) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.sets[set] = rules
	}
	return m.fail
}

func (m *memory) remove(set string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sets, set)
	return nil
}

func (m *memory) counters() (map[string][]packets, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asks++
	out := map[string][]packets{}
	for set, rules := range m.sets {
		for _, r := range rules {
			out[set] = append(out[set], packets{Rule: r, Count: m.asks})
		}
	}
	return out, nil
}

func (m *memory) teardown() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run, m.sets = "", nil
	return nil
}

func (m *memory) names() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]int{}
	for set, rules := range m.sets {
		out[set] = len(rules)
	}
	return out
}

type served struct {
	*Client
	filter *memory
	clock  string // the folder of the node's clock
	cancel context.CancelFunc
	result chan error
}

func serve(t *testing.T, s Sabotage) *served {
	t.Helper()
	weak, err := s.parse()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	in, toAgent := io.Pipe()
	fromAgent, out := io.Pipe()
	sv := &served{filter: &memory{}, cancel: cancel, result: make(chan error, 1)}
	a := newAgent(sv.filter, weak, slog.New(slog.DiscardHandler))
	sv.clock = t.TempDir()
	a.clock.dir = sv.clock
	go func() {
		err := a.Serve(ctx, in, out)
		_ = in.Close()
		_ = out.Close()
		sv.result <- err
	}()
	sv.Client = NewClient(toAgent, fromAgent)
	t.Cleanup(func() {
		cancel()
		_ = sv.Close()
		<-sv.Done()
	})
	return sv
}

func config() Configure {
	return Configure{
		Run: "r1", Self: "n1", Peers: map[string]netip.Addr{"n2": netip.MustParseAddr("127.0.0.2")},
		Clients: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, NoncePort: freePort(), Interval: time.Millisecond,
	}
}

// freePort is free at the moment; another process may take it, which fails the test aloud.
func freePort() uint16 {
	n, err := StartNonces(NonceConfig{Interval: time.Hour})
	if err != nil {
		panic(err)
	}
	defer func() { _ = n.Close() }()
	return n.local().Port()
}

var cutN2 = RuleSet{ID: "s1", Drops: []Drop{{Hook: Input, Peer: "n2"}, {Hook: Output, Peer: Clients, Port: 9092}}}

func TestAgent(t *testing.T) {
	s, ctx := serve(t, NoSabotage), t.Context()
	_, _, err := s.Observe(ctx)
	require.ErrorContains(t, err, "not configured")

	cfg := config()
	require.NoError(t, s.Configure(ctx, cfg))
	require.NoError(t, s.Configure(ctx, cfg), "the same again")
	other := cfg
	other.Self = "n3"
	require.Error(t, s.Configure(ctx, other))

	require.NoError(t, s.Apply(ctx, cutN2))
	require.NoError(t, s.Apply(ctx, cutN2), "the same again")
	require.Equal(t, map[string]int{"s1": 3 + 4}, s.filter.names())
	require.Error(t, s.Apply(ctx, RuleSet{ID: "s1", Drops: cutN2.Drops[:1]}), "another set of the same id")
	require.Error(t, s.Apply(ctx, RuleSet{ID: "a b", Drops: cutN2.Drops}))
	require.Error(t, s.Apply(ctx, RuleSet{ID: "s2", Drops: []Drop{{Hook: Input, Peer: "n9"}}}))
	require.Error(t, s.Apply(ctx, RuleSet{ID: "s2"}), "an empty set")
	require.NoError(t, s.Apply(ctx, RuleSet{ID: "s3", Drops: cutN2.Drops[:1]}))

	o, boot, err := s.Observe(ctx)
	require.NoError(t, err)
	require.Equal(t, []Counter{{System: 1, Nonces: 1}, {System: 2}}, o.Dropped["s1"])
	_, again, err := s.Observe(ctx)
	require.NoError(t, err)
	require.Equal(t, boot, again)
	require.Len(t, boot, 16)

	require.NoError(t, s.Remove(ctx, "s1"))
	require.NoError(t, s.Remove(ctx, "s1"), "again")
	require.Equal(t, map[string]int{"s3": 3}, s.filter.names())

	before := time.Now()
	wall, err := s.Time(ctx)
	require.NoError(t, err)
	require.WithinRange(t, wall, before.Add(-time.Millisecond), time.Now())
	_, err = s.do(ctx, DefaultTimeout, Request{Op: "dance"})
	require.ErrorContains(t, err, "dance")

	require.NoError(t, s.Close())
	require.NoError(t, <-s.result, "the orderly end")
	require.Empty(t, s.filter.names(), "the rules are gone")
	_, _, err = s.Observe(ctx)
	require.ErrorIs(t, err, ErrGone)
}

func TestAgentFailingKernel(t *testing.T) {
	s, ctx := serve(t, NoSabotage), t.Context()
	require.NoError(t, s.Configure(ctx, config()))
	s.filter.mu.Lock()
	s.filter.fail = errors.New("no nftables here")
	s.filter.mu.Unlock()
	require.ErrorContains(t, s.Apply(ctx, cutN2), "no nftables here")
	o, _, err := s.Observe(ctx)
	require.NoError(t, err)
	require.Empty(t, o.Dropped)
}

func TestAgentStays(t *testing.T) {
	s, ctx := serve(t, NoSabotage), t.Context()
	require.NoError(t, s.Configure(ctx, config()))
	require.NoError(t, s.Apply(ctx, cutN2))
	require.NoError(t, s.Stay(ctx))
	require.NoError(t, s.Close())
	require.Eventually(t, func() bool { return len(s.filter.names()) == 0 }, 5*time.Second, time.Millisecond)
	select {
	case <-s.result:
		t.Fatal("it did not stay")
	default:
	}
	s.cancel()
	require.NoError(t, <-s.result)
}

func TestAgentEndsAtGarbage(t *testing.T) {
	s, ctx := serve(t, NoSabotage), t.Context()
	require.NoError(t, s.Configure(ctx, config()))
	require.NoError(t, s.Apply(ctx, cutN2))
	_, err := s.in.Write([]byte{0xff, 0xff, 0xff, 0xff})
	require.NoError(t, err)
	require.ErrorIs(t, <-s.result, ErrFrame)
	require.Empty(t, s.filter.names(), "the rules are gone")
}

func TestAgentRefusesLateCommands(t *testing.T) {
	a := newAgent(&memory{}, weakness{}, slog.New(slog.DiscardHandler))
	now := time.Now()
	resp := a.handle(Request{ID: 4, Op: opTime, Timeout: time.Second}, now.Add(-time.Minute))
	require.Contains(t, resp.Error, "not carried out")
	require.EqualValues(t, 4, resp.ID)
	require.Empty(t, a.handle(Request{Op: opTime, Timeout: time.Second}, now).Error)
}

func TestSabotages(t *testing.T) {
	for _, tt := range []struct {
		sabotage Sabotage
		first    map[string]int
	}{
		{Stubbed, map[string]int{}},
		{NewOnly, map[string]int{"s1": 7}},
		{HalfTime(time.Hour), map[string]int{"s1": 7}},
		{HalfTime(time.Millisecond), nil},
	} {
		t.Run(string(tt.sabotage), func(t *testing.T) {
			s, ctx := serve(t, tt.sabotage), t.Context()
			require.NoError(t, s.Configure(ctx, config()))
			require.NoError(t, s.Apply(ctx, cutN2), "it pretends")
			if tt.first == nil {
				require.Eventually(t, func() bool { return len(s.filter.names()) == 0 }, 5*time.Second, time.Millisecond)
			} else {
				require.Equal(t, tt.first, s.filter.names())
			}
			s.filter.mu.Lock()
			for _, r := range s.filter.sets["s1"] {
				require.Equal(t, tt.sabotage == NewOnly, r.New)
			}
			s.filter.mu.Unlock()
			require.NoError(t, s.Remove(ctx, "s1"))
		})
	}
	for _, bad := range []Sabotage{"half", "half:", "half:-1s", "stub"} {
		require.Error(t, bad.Validate(), bad)
		_, err := NewAgent(bad, slog.New(slog.DiscardHandler))
		require.Error(t, err)
	}
}

func TestConfigureRefused(t *testing.T) {
	for name, change := range map[string]func(*Configure){
		"no run":       func(c *Configure) { c.Run = "" },
		"bad name":     func(c *Configure) { c.Self = "n 1" },
		"no port":      func(c *Configure) { c.NoncePort = 0 },
		"no interval":  func(c *Configure) { c.Interval = 0 },
		"IPv6 peer":    func(c *Configure) { c.Peers["n2"] = netip.MustParseAddr("::1") },
		"its own peer": func(c *Configure) { c.Peers["n1"] = netip.MustParseAddr("127.0.0.1") },
		"IPv6 clients": func(c *Configure) { c.Clients = []netip.Addr{netip.MustParseAddr("::1")} },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.Peers = maps.Clone(cfg.Peers)
			change(&cfg)
			require.Error(t, cfg.validate())
		})
	}
	require.Error(t, (*Configure)(nil).validate())
}

func TestClientContext(t *testing.T) {
	in, toAgent := io.Pipe() // nobody answers
	out, fromAgent := io.Pipe()
	go func() { _, _ = io.Copy(io.Discard, in) }()
	c := NewClient(toAgent, out)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Remove(ctx, "x"), context.DeadlineExceeded)
	ended := make(chan error)
	go func() { ended <- c.Remove(t.Context(), "x") }()
	require.Eventually(t, func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.waiting) == 1 }, 5*time.Second, time.Millisecond)
	require.NoError(t, fromAgent.Close())
	require.ErrorIs(t, <-ended, ErrGone)
	<-c.Done()
	require.NoError(t, c.Close())
}
