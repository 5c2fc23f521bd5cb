package example

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/harness/system/example/tinyq"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/workloads"
)

func spec(change ...func(*system.Spec)) system.Spec {
	s := system.Spec{Scheme: "alone", Workload: "queue", RunID: "r", Nodes: []string{"n1"}, Expect: "survive"}
	for _, f := range change {
		f(&s)
	}
	return s
}

func set(name, value string) func(*system.Spec) {
	return func(s *system.Spec) { s.Set = map[string]string{name: value} }
}

func TestValidate(t *testing.T) {
	require.NoError(t, System{}.Validate(spec()))
	require.NoError(t, System{}.Validate(spec(set("durability", "buffered"))))
	for want, change := range map[string]func(*system.Spec){
		`unknown scheme "mirrored"; known: alone`:               func(s *system.Spec) { s.Scheme = "mirrored" },
		"it has one node, not 3; use --nodes 1":                 func(s *system.Spec) { s.Nodes = []string{"n1", "n2", "n3"} },
		`unknown option "acks" of system example`:               set("acks", "1"),
		"option queues=0: it needs to be a number from 1 to 16": set("queues", "0"),
		"option durability=hoped: known are synced":             set("durability", "hoped"),
	} {
		require.ErrorContains(t, System{}.Validate(spec(change)), want)
	}
}

// Everything that ends an operation, and what is known of it then.
func TestOutcomes(t *testing.T) {
	timeout := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	for _, c := range []struct {
		err     error
		outcome history.Outcome
		code    string
	}{
		{refusal("this session does not hold it"), history.Failed, "this-session-does-not-hold-it"},
		{fmt.Errorf("%w: %w", errUnsent, syscall.ECONNREFUSED), history.Failed, "refused"},
		{fmt.Errorf("%w: %w", errUnsent, timeout), history.Failed, "no-session"},
		{syscall.ECONNREFUSED, history.Indeterminate, "reset"}, // of a connection that was there
		{timeout, history.Indeterminate, "timeout"},
		{syscall.ECONNRESET, history.Indeterminate, "reset"},
		{errUnconfirmed, history.Indeterminate, "unconfirmed"},
		{errors.New("invalid character"), history.Indeterminate, "reset"},
	} {
		outcome, code := outcome(c.err)
		require.Equal(t, c.outcome, outcome, "%v", c.err)
		require.Equal(t, c.code, code)
	}
}

// served is a server in this process; nobody is at another address.
type served struct{ at string }

func serve(t *testing.T) *served {
	t.Helper()
	s, err := tinyq.Open(tinyq.Config{Dir: t.TempDir(), Queues: []string{"q0", "q1"}})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ctx, l) // it ends by the context
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return &served{l.Addr().String()}
}

func (c *served) cluster() *cluster {
	return System{}.Connect(spec(), environment.NewRealtime(), func() (string, error) { return c.at, nil }).(*cluster)
}

func (c *served) client(name string) *client {
	return c.cluster().Client(workloads.ClientSpec{Name: name, Role: "consumer", Pinned: -1}).(*client)
}

func do(t *testing.T, c *client, kind history.Kind, v history.Value) workloads.Result {
	t.Helper()
	return c.Do(t.Context(), &workloads.Op{Kind: kind, Value: v, Size: 64, Max: 4})
}

func TestClient(t *testing.T) {
	srv := serve(t)
	p, c := srv.client("producer-0"), srv.client("consumer-0")
	defer p.Close()
	defer c.Close()
	v := history.MakeValue(0, 1)
	require.Equal(t, history.OK, do(t, p, history.Send, v).Outcome)
	res := do(t, c, history.Receive, 0)
	require.Equal(t, history.OK, res.Outcome)
	require.Equal(t, []history.Record{{Offset: history.NoOffset, Value: v, Epoch: -1, Payload: history.Good, Delivery: 1}}, res.Records)
	require.Equal(t, history.OK, do(t, c, history.Release, v).Outcome)
	require.Equal(t, history.Failed, do(t, c, history.Accept, v).Outcome, "it does not hold it any more")
	require.Equal(t, history.Failed, do(t, c, history.Reject, v).Outcome, "tinyq cannot")
	require.Len(t, do(t, c, history.Receive, 0).Records, 1)
	require.Equal(t, history.OK, do(t, c, history.Leave, 0).Outcome)
	require.Equal(t, history.OK, do(t, c, history.Leave, 0).Outcome, "there is no session")
	require.Len(t, do(t, p, history.Receive, 0).Records, 1, "it went back")
	require.Equal(t, history.OK, do(t, p, history.Accept, v).Outcome)
	require.Empty(t, do(t, p, history.Receive, 0).Records)
}

// A leave is answered for certain only once the server ended whatever there was.
func TestLeaveAfterALostSession(t *testing.T) {
	srv := serve(t)
	p, c := srv.client("producer-0"), srv.client("consumer-0")
	defer p.Close()
	require.Equal(t, history.OK, do(t, p, history.Send, history.MakeValue(0, 1)).Outcome)
	require.Len(t, do(t, c, history.Receive, 0).Records, 1)
	lost := c.conn.Conn
	defer func() { _ = lost.Close() }()
	c.conn, c.dangling = nil, true // nobody tells the server
	at := srv.at
	srv.at = "127.0.0.1:1"
	require.Equal(t, history.Indeterminate, do(t, c, history.Leave, 0).Outcome)
	require.Equal(t, history.Indeterminate, do(t, c, history.Leave, 0).Outcome, "and stays so")
	srv.at = at
	require.Empty(t, do(t, p, history.Receive, 0).Records, "the server believes in the lost session")
	require.Equal(t, history.OK, do(t, c, history.Leave, 0).Outcome)
	require.Len(t, do(t, p, history.Receive, 0).Records, 1, "and does not any more")
}

func TestDrain(t *testing.T) {
	srv := serve(t)
	cl := srv.cluster()
	require.NoError(t, cl.Setup(t.Context()))
	require.True(t, cl.Responds(t.Context(), "n1", time.Second))
	p := srv.client("producer-0")
	for i := range int64(3) {
		require.Equal(t, history.OK, do(t, p, history.Send, history.MakeValue(0, i+1)).Outcome)
	}
	drains, replicas := cl.Drain(t.Context(), 200*time.Millisecond)
	require.False(t, drains[0].Complete, "a client is still there")
	require.False(t, drains[0].Quiet)
	require.Contains(t, drains[0].Reason, "sessions of clients are still open")
	require.False(t, replicas[0].Complete)
	p.Close()
	drains, replicas = cl.Drain(t.Context(), 10*time.Second)
	require.Len(t, drains, 2)
	for i, key := range []string{"q0", "q1"} {
		require.Equal(t, key, drains[i].Key)
		require.True(t, drains[i].Complete && drains[i].Quiet && drains[i].InSync, drains[i].Reason)
		require.Zero(t, replicas[i].Ready)
		require.EqualValues(t, len(replicas[i].Records), replicas[i].Unacknowledged)
		require.Equal(t, history.Sentinel, replicas[i].Records[replicas[i].Sentinel].Payload)
	}
	require.Len(t, replicas[0].Records, 4)
	require.Len(t, replicas[1].Records, 1)

	srv.at = "127.0.0.1:1"
	require.False(t, cl.Responds(t.Context(), "n1", time.Second))
	drains, _ = cl.Drain(t.Context(), 100*time.Millisecond)
	require.False(t, drains[0].Complete)
	require.NotEmpty(t, drains[0].Reason)
}

func TestSetupNamesWhatIsMissing(t *testing.T) {
	srv := serve(t)
	srv.at = "127.0.0.1:1"
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, srv.cluster().Setup(ctx), "node n1 is not ready")
}

func TestContract(t *testing.T) {
	for _, c := range []struct {
		durability, fault string
		kept              bool
	}{
		{"synced", "kill", true},
		{"synced", "power", true},
		{"synced", "wipe", false},
		{"written", "kill", true},
		{"written", "power", false},
		{"buffered", "kill", false},
	} {
		s := spec(set("durability", c.durability), func(s *system.Spec) { s.Faults = []string{c.fault} })
		require.Equal(t, c.kept, System{}.Contract(s).Acknowledged, "%s under %s", c.durability, c.fault)
		s.Faults, s.Steps = nil, []nemesis.Step{{Fault: c.fault}}
		require.Equal(t, c.kept, System{}.Contract(s).Acknowledged, "%s under a step of %s", c.durability, c.fault)
	}
}

// The page that walks through this package quotes it.
func TestPageQuotesTheSource(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "systems", "adding.md"))
	require.NoError(t, err)
	file, quote, quotes := "", []string(nil), 0
	inside := false
	for line := range strings.Lines(string(page)) {
		text := strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(text, "<!-- "):
			file = strings.TrimSuffix(strings.TrimPrefix(text, "<!-- "), " -->")
		case text == "```go":
			require.NotEmpty(t, file, "a quote without its source")
			inside, quote = true, nil
		case text == "```" && inside:
			source, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(file)))
			require.NoError(t, err)
			require.Contains(t, string(source), strings.Join(quote, ""), "docs/systems/adding.md quotes %s otherwise", file)
			inside, file = false, ""
			quotes++
		case inside:
			quote = append(quote, line)
		}
	}
	require.GreaterOrEqual(t, quotes, 6)
	for _, name := range []string{"TestQueueThroughKills", "TestExampleInDocker", "TestOutcomes"} {
		require.Contains(t, string(page), name)
	}
}
