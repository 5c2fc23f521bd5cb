package driver

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/kafka"
	"github.com/faultline-mq/faultline/broker/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Limits of waiting: generous, for a slow machine under the race detector.
const (
	limit = 60 * time.Second
	tick  = 20 * time.Millisecond
)

// output collects what a node writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// testNode is one node of a cluster on loopback, over several incarnations.
type testNode struct {
	t         testing.TB
	cfg       Config
	addrs     [4]string // client, peer, quorum, admin
	out, log  *output
	kill      context.CancelFunc
	terminate chan struct{}
	ended     chan struct{}
	code      int
	err       error
}

// newCluster makes n nodes that are not started yet. Their ports are chosen by
// the system and kept over restarts.
func newCluster(t testing.TB, n int) []*testNode {
	var nodes []*testNode
	var members []Member
	for i := range n {
		node := &testNode{t: t, out: &output{}, log: &output{}}
		node.cfg = DefaultConfig()
		node.cfg.ID, node.cfg.Name, node.cfg.DataDir = broker.NodeID(i+1), "n"+strconv.Itoa(i+1), t.TempDir()
		node.cfg.Rack = "r" + strconv.Itoa(i+1)
		node.cfg.Set = map[string]string{"partitions": "2"}
		var ports [4]int
		for j, p := range node.listeners() {
			var err error
			*p, err = net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			ports[j] = (*p).Addr().(*net.TCPAddr).Port
			node.addrs[j] = (*p).Addr().String()
		}
		node.cfg.AdminPort = ports[3]
		members = append(members, Member{ID: node.cfg.ID, Name: node.cfg.Name, Host: "127.0.0.1", ClientPort: ports[0], PeerPort: ports[1], QuorumPort: ports[2]})
		nodes = append(nodes, node)
	}
	for _, node := range nodes {
		node.cfg.Members = members
		t.Cleanup(func() {
			if node.ended != nil {
				node.stop()
				if t.Failed() {
					t.Logf("log of %s:\n%s\n%s", node.cfg.Name, node.log, node.out)
				}
				return
			}
			for _, p := range node.listeners() { // never started
				_ = (*p).Close()
			}
		})
	}
	return nodes
}

func (n *testNode) listeners() [4]*net.Listener {
	l := &n.cfg.Listeners
	return [4]*net.Listener{&l.Client, &l.Peer, &l.Quorum, &l.Admin}
}

func (n *testNode) start() {
	for i, p := range n.listeners() {
		if *p == nil {
			require.Eventually(n.t, func() bool {
				var err error
				*p, err = net.Listen("tcp", n.addrs[i])
				return err == nil
			}, limit, tick, "port %s", n.addrs[i])
		}
	}
	cfg := n.cfg
	cfg.Stdout, cfg.Stderr = n.out, n.log
	if n.cfg.Stdout != nil && n.cfg.Stdout != DefaultConfig().Stdout {
		cfg.Stdout = n.cfg.Stdout
	}
	n.terminate = make(chan struct{})
	cfg.Terminate = n.terminate
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	n.kill, n.ended = cancel, ended
	n.cfg.Listeners = Listeners{}
	go func() {
		defer close(ended)
		n.code, n.err = Run(ctx, cfg)
	}()
}

// stop kills the node, as a kill does, and waits for its end.
func (n *testNode) stop() {
	n.kill()
	n.wait()
}

func (n *testNode) wait() {
	select {
	case <-n.ended:
	case <-time.After(limit):
		require.Fail(n.t, "node does not end", n.cfg.Name)
	}
}

var httpClient = http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (n *testNode) get(path string) (status int, body string) {
	resp, err := httpClient.Get("http://" + n.addrs[3] + path)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func (n *testNode) requireReady() {
	require.Eventually(n.t, func() bool {
		status, _ := n.get("/readyz")
		return status == http.StatusOK
	}, limit, tick, "%s is not ready", n.cfg.Name)
}

// metric returns a figure of /metrics, by its name with labels.
func (n *testNode) metric(name string) (float64, bool) {
	_, body := n.get("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return f, err == nil
		}
	}
	return 0, false
}

func (n *testNode) requireMetric(name string, want float64) {
	require.Eventually(n.t, func() bool {
		got, ok := n.metric(name)
		return ok && got == want
	}, limit, tick, "%s of %s is not %v", name, n.cfg.Name, want)
}

func (n *testNode) events() []broker.Event {
	var events []broker.Event
	for line := range strings.Lines(n.out.String()) {
		var ev broker.Event
		require.NoError(n.t, json.Unmarshal([]byte(line), &ev), line)
		require.True(n.t, strings.HasPrefix(line, `{"event":`), line)
		events = append(events, ev)
	}
	return events
}

func started(t testing.TB, n int) []*testNode {
	nodes := newCluster(t, n)
	for _, node := range nodes {
		node.start()
	}
	for _, node := range nodes {
		node.requireReady()
	}
	return nodes
}

func seeds(nodes []*testNode) kgo.Opt {
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.addrs[0])
	}
	return kgo.SeedBrokers(addrs...)
}

func client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	c, err := kgo.NewClient(append(opts, kgo.MetadataMinAge(50*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }))...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func createTopic(t testing.TB, c *kgo.Client, name string, partitions int32, replicas int16) {
	req := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, replicas
	req.Topics = append(req.Topics, topic)
	req.TimeoutMillis = 10_000
	resp, err := req.RequestWith(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(resp.Topics[0].ErrorCode))
}

func leaderOf(t testing.TB, c *kgo.Client, nodes []*testNode, topic string, partition int) (*testNode, bool) {
	req := kmsg.NewPtrMetadataRequest()
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, mt)
	resp, err := req.RequestWith(t.Context(), c)
	if err != nil || len(resp.Topics) != 1 {
		return nil, false
	}
	for _, p := range resp.Topics[0].Partitions {
		if int(p.Partition) == partition && p.Leader > 0 {
			return nodes[p.Leader-1], true
		}
	}
	return nil, false
}

// TestCluster produces through a kill, a restart and a graceful stop of leaders:
// nothing acknowledged may be missing, and an idempotent producer writes nothing twice.
func TestCluster(t *testing.T) {
	nodes := started(t, 3)
	c := client(t, seeds(nodes), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		"t": {0: kgo.NewOffset().AtStart(), 1: kgo.NewOffset().AtStart()},
	}))
	createTopic(t, c, "t", 2, 3)
	for _, n := range nodes {
		n.requireMetric(`faultline_in_sync_replicas{partition="t-0"}`, 3)
		n.requireMetric("faultline_ready", 1)
		n.requireMetric(`faultline_link_up{channel="quorum",peer="`+nodes[int(n.cfg.ID)%3].cfg.Name+`"}`, 1)
	}

	sent := 0
	produce := func(count int) {
		var records []*kgo.Record
		for range count {
			records = append(records, &kgo.Record{Topic: "t", Partition: int32(sent % 2), Value: []byte(strconv.Itoa(sent))})
			sent++
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		require.NoError(t, c.ProduceSync(ctx, records...).FirstErr())
	}
	produce(100)

	killed, ok := leaderOf(t, c, nodes, "t", 0)
	require.True(t, ok)
	killed.stop()
	require.Equal(t, ExitKilled, killed.code)
	require.ErrorContains(t, killed.err, "canceled")
	produce(100)
	killed.start()
	killed.requireReady()
	killed.requireMetric(`faultline_in_sync_replicas{partition="t-0"}`, 3)
	killed.requireMetric(`faultline_in_sync_replicas{partition="t-1"}`, 3)
	produce(100)

	var stopping *testNode
	require.Eventually(t, func() bool {
		stopping, ok = leaderOf(t, c, nodes, "t", 0)
		return ok
	}, limit, tick)
	close(stopping.terminate)
	produce(200)
	stopping.wait()
	require.NoError(t, stopping.err)
	require.Zero(t, stopping.code)
	events := stopping.events()
	require.Equal(t, "stop", events[len(events)-1].Kind)
	require.Equal(t, "graceful stop", events[len(events)-1].Detail)
	produce(100)
	stopping.start()
	stopping.requireReady()
	starts := slices.DeleteFunc(stopping.events(), func(e broker.Event) bool { return e.Kind != "start" })
	require.Contains(t, starts[len(starts)-1].Detail, "as they were left in order")

	got := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for len(got) < sent {
		fetches := c.PollFetches(ctx)
		require.NoError(t, ctx.Err(), "%d of %d records", len(got), sent)
		fetches.EachRecord(func(r *kgo.Record) { got[string(r.Value)]++ })
	}
	for value, times := range got {
		require.Equal(t, 1, times, value)
	}

	for _, n := range nodes {
		seq, inc := int64(0), ""
		for _, ev := range n.events() {
			if ev.Inc != inc {
				seq, inc = 0, ev.Inc
			}
			seq++
			require.Equal(t, seq, ev.Seq, "events of %s have a gap", n.cfg.Name)
			require.WithinDuration(t, time.Now(), time.Unix(0, ev.Wall), 10*time.Minute)
		}
		require.NotContains(t, n.log.String(), "panic")
	}
}

// TestStopWithoutQuorum asks a node without quorum to stop: it cannot hand over,
// makes everything durable, and says so.
// TestNewNode: an empty node is added to a running cluster by its administration,
// gets a replica, and is a member like the others after a restart.
func TestNewNode(t *testing.T) {
	nodes := newCluster(t, 4)
	for _, n := range nodes {
		n.cfg.Voters = []broker.NodeID{1, 2, 3}
	}
	nodes[3].cfg.Directory = 4711
	for _, n := range nodes {
		n.start()
	}
	for _, n := range nodes[:3] {
		n.requireReady()
	}
	status, body := nodes[3].get("/readyz")
	require.NotEqual(t, http.StatusOK, status, body)
	c := client(t, seeds(nodes[:3]))
	createTopic(t, c, "t", 1, 3)
	require.NoError(t, c.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte("before")}).FirstErr())

	add := kmsg.NewPtrAddRaftVoterRequest()
	add.VoterID, add.VoterDirectoryID, add.TimeoutMillis = 4, kafka.DirectoryUUID(4711), 20_000
	added, err := add.RequestWith(t.Context(), c)
	require.NoError(t, err)
	require.Zero(t, added.ErrorCode, "%v", added.ErrorMessage)
	nodes[3].requireReady()

	move := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	mt, mp := kmsg.NewAlterPartitionAssignmentsRequestTopic(), kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
	mp.Replicas = []int32{4, 2, 3}
	mt.Topic, mt.Partitions = "t", append(mt.Partitions, mp)
	move.Topics = append(move.Topics, mt)
	moved, err := move.RequestWith(t.Context(), c)
	require.NoError(t, err)
	require.Zero(t, moved.Topics[0].Partitions[0].ErrorCode)
	nodes[3].requireMetric(`faultline_log_end_offset{partition="t-0"}`, 1)
	nodes[3].requireMetric(`faultline_in_sync_replicas{partition="t-0"}`, 3)
	require.NoError(t, c.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte("after")}).FirstErr())

	nodes[3].stop()
	nodes[3].start()
	nodes[3].requireReady()
	nodes[3].requireMetric(`faultline_log_end_offset{partition="t-0"}`, 2)
	// Its directory is its own: nobody becomes another node by a flag.
	nodes[3].stop()
	nodes[3].cfg.Directory = 4712
	nodes[3].start()
	nodes[3].wait()
	require.Equal(t, ExitStart, nodes[3].code)
	require.ErrorContains(t, nodes[3].err, "that of directory 4711")
}

func TestStopWithoutQuorum(t *testing.T) {
	n := newCluster(t, 3)[0]
	n.start()
	require.Eventually(t, func() bool {
		status, body := n.get("/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, "no controller")
	}, limit, tick)
	status, _ := n.get("/livez")
	require.Equal(t, http.StatusOK, status)
	close(n.terminate)
	n.wait()
	require.NoError(t, n.err)
	require.Equal(t, 0, n.code)
	events := n.events()
	require.Equal(t, "stop", events[len(events)-1].Kind)
	require.Contains(t, events[len(events)-1].Detail, "without a metadata quorum")
}

// raw is a Kafka client that sends what it is told.
type raw struct {
	t    testing.TB
	conn net.Conn
}

func dialRaw(t testing.TB, addr string) raw {
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
	return raw{t, conn}
}

func (r raw) send(correlation int32, req kmsg.Request) {
	_, err := r.conn.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")).AppendRequest(nil, req, correlation))
	require.NoError(r.t, err)
}

func (r raw) receive() (correlation int32, body []byte) {
	size, err := readSize(r.conn, 1<<20)
	require.NoError(r.t, err)
	b, err := readBody(r.conn, size)
	require.NoError(r.t, err)
	return int32(binary.BigEndian.Uint32(b)), b[4:]
}

// requireClosed waits until the node has closed the connection.
func requireClosed(t testing.TB, conn net.Conn) {
	_, err := io.Copy(io.Discard, conn)
	if !errors.Is(err, syscall.ECONNRESET) {
		require.NoError(t, err)
	}
}

func TestClients(t *testing.T) {
	n := started(t, 1)[0]
	c := client(t, seeds([]*testNode{n}))
	createTopic(t, c, "t", 1, 1)

	t.Run("garbage is refused with a reason", func(t *testing.T) {
		unserved := binary.BigEndian.AppendUint16(nil, 999)
		unserved = append(unserved, 0, 0, 0, 0, 0, 7, 0xff, 0xff)
		for name, b := range map[string][]byte{
			"another protocol":     []byte("GET / HTTP/1.1\r\n\r\n"),
			"request header is":    {0, 0, 0, 3, 1, 2, 3},
			"request is not serv":  append([]byte{0, 0, 0, byte(len(unserved))}, unserved...),
			"Produce version 9: ":  {0, 0, 0, 14, 0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0, 99, 99, 99},
			"breaks off: unexpect": {0, 0, 1, 0, 1, 2},
		} {
			r := dialRaw(t, n.addrs[0])
			_, err := r.conn.Write(b)
			require.NoError(t, err)
			require.NoError(t, r.conn.(*net.TCPConn).CloseWrite())
			requireClosed(t, r.conn)
			require.Eventually(t, func() bool { return strings.Contains(n.log.String(), name) }, limit, tick, name)
		}
	})

	t.Run("a future ApiVersions is answered with what there is", func(t *testing.T) {
		r := dialRaw(t, n.addrs[0])
		_, err := r.conn.Write([]byte{0, 0, 0, 13, 0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0, 1, 2})
		require.NoError(t, err)
		correlation, body := r.receive()
		require.EqualValues(t, 5, correlation)
		resp := kmsg.NewPtrApiVersionsResponse()
		require.NoError(t, resp.ReadFrom(body))
		require.Equal(t, kerr.UnsupportedVersion.Code, resp.ErrorCode)
		require.Len(t, resp.ApiKeys, len(kafka.Versions(0).ApiKeys))
	})

	t.Run("requests are answered in order, acks=0 is not answered", func(t *testing.T) {
		r := dialRaw(t, n.addrs[0])
		produce := kmsg.NewPtrProduceRequest()
		produce.Version, produce.Acks = 9, 0
		r.send(1, produce)
		fetch := kmsg.NewPtrFetchRequest()
		fetch.Version, fetch.MaxWaitMillis, fetch.MinBytes, fetch.ReplicaID = 12, 200, 1, -1
		r.send(2, fetch)
		meta := kmsg.NewPtrMetadataRequest()
		meta.Version = 9
		r.send(3, meta)
		for _, want := range []int32{2, 3} {
			got, _ := r.receive()
			require.Equal(t, want, got)
		}
	})

	t.Run("a request whose connection is gone is given up", func(t *testing.T) {
		// The client of this test has gone or idles: only its own connections remain.
		r := dialRaw(t, n.addrs[0])
		fetch := kmsg.NewPtrFetchRequest()
		fetch.Version, fetch.MaxWaitMillis, fetch.MinBytes, fetch.ReplicaID = 12, 60_000, 1<<20, -1
		before, ok := n.metric(`faultline_requests_total{api="Fetch"}`)
		require.True(t, ok)
		r.send(1, fetch)
		n.requireMetric(`faultline_requests_total{api="Fetch"}`, before+1)
		open, ok := n.metric(`faultline_connections{port="client"}`)
		require.True(t, ok)
		require.NoError(t, r.conn.Close())
		begin := time.Now()
		n.requireMetric(`faultline_connections{port="client"}`, open-1)
		require.Less(t, time.Since(begin), 30*time.Second) // it did not wait for the fetch's end
	})
}

func TestConnectionLimits(t *testing.T) {
	n := newCluster(t, 1)[0]
	n.cfg.MaxConnections, n.cfg.IdleTimeout = 2, 300*time.Millisecond
	n.start()
	n.requireReady()
	first, second, third := dialRaw(t, n.addrs[0]), dialRaw(t, n.addrs[0]), dialRaw(t, n.addrs[0])
	requireClosed(t, third.conn)
	require.Eventually(t, func() bool { return strings.Contains(n.log.String(), "too many are open") }, limit, tick)
	requireClosed(t, first.conn) // idle
	requireClosed(t, second.conn)
	fourth := dialRaw(t, n.addrs[0])
	meta := kmsg.NewPtrMetadataRequest()
	fourth.send(9, meta)
	got, _ := fourth.receive()
	require.EqualValues(t, 9, got)
}

// TestFailures checks how a node ends that cannot go on.
func TestFailures(t *testing.T) {
	t.Run("a disk that cannot sync", func(t *testing.T) {
		n := newCluster(t, 1)[0]
		mem := vfs.NewMem()
		n.cfg.DataDir, n.cfg.Logs = "", mem
		n.start()
		n.requireReady()
		c := client(t, seeds([]*testNode{n}), kgo.DisableIdempotentWrite(), kgo.RecordRetries(1))
		createTopic(t, c, "t", 1, 1)
		mem.SetError(func(op, name string) error {
			if op == vfs.OpSync && strings.HasPrefix(name, "logs/") {
				return syscall.EIO
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		require.Error(t, c.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("x")}).FirstErr(), "acknowledged what is not durable")
		n.wait()
		require.Equal(t, 3, n.code)
		require.ErrorContains(t, n.err, "cannot be written")
		events := n.events()
		require.Equal(t, "stop", events[len(events)-1].Kind)
	})
	t.Run("a metadata disk that cannot write", func(t *testing.T) {
		n := newCluster(t, 1)[0]
		mem := vfs.NewMem()
		n.cfg.DataDir, n.cfg.Logs = "", mem
		n.start()
		n.requireReady()
		mem.SetError(func(op, name string) error {
			if op == vfs.OpWrite && strings.HasPrefix(name, "meta/") {
				return syscall.ENOSPC
			}
			return nil
		})
		c := client(t, seeds([]*testNode{n}))
		req := kmsg.NewPtrCreateTopicsRequest()
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "t", 1, 1
		req.Topics = append(req.Topics, topic)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, _ = req.RequestWith(ctx, c)
		n.wait()
		require.Equal(t, 3, n.code)
		require.ErrorContains(t, n.err, "metadata log")
	})
	t.Run("events that nobody takes", func(t *testing.T) {
		n := newCluster(t, 1)[0]
		n.cfg.Stdout = writerFunc(func([]byte) (int, error) { return 0, syscall.EPIPE })
		n.start()
		n.wait()
		require.Equal(t, ExitCrash, n.code)
		require.ErrorContains(t, n.err, "events cannot be reported")
	})
	t.Run("a panic", func(t *testing.T) {
		n := newCluster(t, 1)[0]
		n.cfg.Stdout = writerFunc(func([]byte) (int, error) { panic("a seeded bug") })
		n.start()
		n.wait()
		require.Equal(t, ExitCrash, n.code)
		require.ErrorContains(t, n.err, "a seeded bug")
		require.Contains(t, n.log.String(), "goroutine")
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestStartErrors(t *testing.T) {
	nodes := newCluster(t, 2)
	nodes[0].start()
	require.Eventually(t, func() bool { status, _ := nodes[0].get("/livez"); return status == http.StatusOK }, limit, tick)

	run := func(change func(*Config)) (int, error) {
		cfg := nodes[1].cfg
		cfg.Listeners = Listeners{}
		cfg.Listen = "127.0.0.1"
		cfg.Stdout, cfg.Stderr = io.Discard, io.Discard
		change(&cfg)
		return Run(t.Context(), cfg)
	}
	for name, change := range map[string]func(*Config){
		"in use by another broker": func(c *Config) { c.DataDir = nodes[0].cfg.DataDir },
		"client port":              func(*Config) {}, // the listeners of this test hold the ports
		"not in the cluster list":  func(c *Config) { c.Name = "other" },
		"unknown option":           func(c *Config) { c.Set = map[string]string{"fsyncc": "never"} },
		"unknown scheme":           func(c *Config) { c.Scheme = "bogus" },
		"each needs its own":       func(c *Config) { c.AdminPort = c.Members[1].PeerPort },
		"data directory":           func(c *Config) { c.DataDir = "" },
		"HOST:PORT is wanted":      func(c *Config) { c.Advertise = "host" },
	} {
		code, err := run(change)
		require.ErrorContains(t, err, name)
		require.Equal(t, ExitStart, code, name)
	}

	nodes[0].stop()
	code, err := run(func(c *Config) { c.DataDir = nodes[0].cfg.DataDir })
	require.ErrorContains(t, err, `belongs to node "1@n1"`)
	require.Equal(t, ExitStart, code)
}

func TestParseCluster(t *testing.T) {
	got, err := ParseCluster("1@n1:10.0.0.1, 2@n2:host/1/2/3,3@n3:[fd00::1]/65535/5/6,4@n4:[::1]")
	require.NoError(t, err)
	require.Equal(t, []Member{
		{ID: 1, Name: "n1", Host: "10.0.0.1"},
		{ID: 2, Name: "n2", Host: "host", ClientPort: 1, PeerPort: 2, QuorumPort: 3},
		{ID: 3, Name: "n3", Host: "fd00::1", ClientPort: 65535, PeerPort: 5, QuorumPort: 6},
		{ID: 4, Name: "n4", Host: "::1"},
	}, got)
	for s, want := range map[string]string{
		"":                    "is wanted",
		"1@n1":                "is wanted",
		"n1:h":                "is wanted",
		"x@n1:h":              "not a number",
		"0@n1:h":              "begin at 1",
		"1@:h":                "must not be empty",
		"1@n1:":               "must not be empty",
		"1@n1:h,1@n2:h":       "id 1 stands twice",
		"1@n1:h,2@n1:h":       "name n1 stands twice",
		"1@n1:h/1/2":          "is wanted",
		"1@n1:h/1/2/70000":    "from 1 to 65535",
		"1@n1:h/0/2/3":        "from 1 to 65535",
		"1@n1:h,":             "is wanted",
		"99999999999999@n1:h": "not a number",
	} {
		_, err := ParseCluster(s)
		require.ErrorContains(t, err, want, "%q", s)
	}
}

func TestDigestTellsClustersApart(t *testing.T) {
	base := DefaultConfig()
	base.Members = []Member{{ID: 1, Name: "a", Host: "h1"}, {ID: 2, Name: "b", Host: "h2"}}
	same := base
	same.Members = slices.Clone(base.Members)
	slices.Reverse(same.Members)
	same.Members[0].PeerPort = 9093 // said, and the default
	require.Equal(t, base.digest(), same.digest())
	for i, change := range []func(*Member){
		func(m *Member) { m.ID = 3 },
		func(m *Member) { m.Name = "c" },
		func(m *Member) { m.Host = "h3" },
		func(m *Member) { m.QuorumPort = 1 },
	} {
		other := base
		other.Members = slices.Clone(base.Members)
		change(&other.Members[1])
		require.NotEqual(t, base.digest(), other.digest(), fmt.Sprint(i))
	}
}
