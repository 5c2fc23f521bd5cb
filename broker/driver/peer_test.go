package driver

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/wire"
)

func FuzzFrame(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 1, 2, 3}, 16)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, 1<<20)
	f.Add([]byte("GET / HTTP/1.1\r\n"), 64)
	f.Add(binary.BigEndian.AppendUint32(nil, 1<<20), 1<<30)
	f.Fuzz(func(t *testing.T, b []byte, limit int) {
		if limit < 0 {
			return
		}
		r := bytes.NewReader(b)
		size, err := readSize(r, limit)
		if err != nil {
			return
		}
		require.LessOrEqual(t, size, limit)
		body, err := readBody(r, size)
		if len(b)-4 < size {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		require.Equal(t, b[4:4+size], body)
	})
}

func TestFrameRoomGrowsWithWhatArrives(t *testing.T) {
	big := bytes.Repeat([]byte("faultline"), 50_000)
	got, err := readBody(bytes.NewReader(big), len(big))
	require.NoError(t, err)
	require.True(t, bytes.Equal(big, got))
	allocated := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			_, err := readBody(bytes.NewReader(big[:10]), 64<<20)
			require.ErrorIs(b, err, io.ErrUnexpectedEOF)
		}
	}).AllocedBytesPerOp()
	require.Less(t, allocated, int64(1<<20), "64 MiB are announced, 10 bytes arrived")
}

func FuzzHello(f *testing.F) {
	f.Add(hello{channel: broker.Peer, from: 1, to: 2}.encode())
	f.Add([]byte("FLPS\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHello(bytes.NewReader(b))
		if err == nil {
			require.Equal(t, b[:helloSize], h.encode())
		}
	})
}

// TestHello knocks at the peer port with what does not belong there.
func TestHello(t *testing.T) {
	n := newCluster(t, 3)[0]
	n.start()
	digest := n.cfg.digest()
	other := digest
	other[0]++
	version := hello{channel: broker.Peer, from: 2, to: 1, cluster: digest}.encode()
	version[4] = 9
	for want, b := range map[string][]byte{
		"another list of members":     hello{channel: broker.Peer, from: 2, to: 1, cluster: other}.encode(),
		"is not a member":             hello{channel: broker.Peer, from: 7, to: 1, cluster: digest}.encode(),
		"looks for node 3":            hello{channel: broker.Peer, from: 2, to: 3, cluster: digest}.encode(),
		"to the port of channel 1":    hello{channel: broker.Quorum, from: 2, to: 1, cluster: digest}.encode(),
		"has this node's id":          hello{channel: broker.Peer, from: 1, to: 1, cluster: digest}.encode(),
		"speaks version 9":            version,
		"this port is for other node": []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		conn, err := net.Dial("tcp", n.addrs[1])
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
		_, err = conn.Write(b)
		require.NoError(t, err)
		var head [3]byte
		_, err = io.ReadFull(conn, head[:])
		require.NoError(t, err, want)
		text := make([]byte, binary.BigEndian.Uint16(head[1:]))
		_, err = io.ReadFull(conn, text)
		require.NoError(t, err, want)
		require.NoError(t, conn.Close())
		require.EqualValues(t, 1, head[0])
		require.Contains(t, string(text), want)
		require.Eventually(t, func() bool { return strings.Contains(n.log.String(), want) }, limit, tick, want)
	}

	// A stream that is accepted and then carries garbage is closed; a newer one of the same peer replaces an older one.
	accepted := func() net.Conn {
		conn, err := net.Dial("tcp", n.addrs[2])
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
		_, err = conn.Write(hello{channel: broker.Quorum, from: 2, to: 1, cluster: digest}.encode())
		require.NoError(t, err)
		var answer [1]byte
		_, err = io.ReadFull(conn, answer[:])
		require.NoError(t, err)
		require.Zero(t, answer[0])
		return conn
	}
	old := accepted()
	newer := accepted()
	requireClosed(t, old)
	for _, garbage := range [][]byte{{0, 0, 0, 2, 250, 1}, {0xff, 0, 0, 0}, {0, 0, 0, 0}} {
		_, err := newer.Write(garbage)
		require.NoError(t, err)
		requireClosed(t, newer)
		newer = accepted()
	}
	// Messages that decode and make no sense do no harm.
	for _, msg := range []broker.Message{cluster.RaftMessage{Data: []byte("nonsense")}, cluster.HeartbeatReply{Epoch: 99}, &node.PartitionMessage{Body: cluster.Heartbeat{}}} {
		b, err := wire.Encode(msg)
		require.NoError(t, err)
		_, err = newer.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
		require.NoError(t, err)
	}
	status, body := n.get("/livez")
	require.Equal(t, 200, status, body)
}

// TestTwoClusters lets a node dial one of another cluster: both say why not.
func TestTwoClusters(t *testing.T) {
	a := newCluster(t, 2)
	b := newCluster(t, 2)
	// Node 1 of the second cluster takes the first cluster's node 2 for its own.
	b[0].cfg.Members = []Member{b[0].cfg.Members[0], a[1].cfg.Members[1]}
	a[1].start()
	b[0].start()
	require.Eventually(t, func() bool {
		return strings.Contains(b[0].log.String(), "the peer refused the hello") && strings.Contains(a[1].log.String(), "another list of members")
	}, limit, tick)
	up, ok := b[0].metric(`faultline_link_up{channel="quorum",peer="n2"}`)
	require.True(t, ok)
	require.Zero(t, up)
}

// bareDriver is a driver without a node: what its parts report is in inputs.
func bareDriver(t *testing.T, cfg Config) *driver {
	d := &driver{
		cfg: cfg, log: slog.New(slog.DiscardHandler), inputs: make(chan broker.Input, 1000), deaf: make(chan struct{}),
		lanes: map[broker.Lane]*lane{}, inbound: map[streamKey]*inbound{},
	}
	d.metrics = newMetrics(d)
	d.meta.d = d
	d.ctx, d.cancel = context.WithCancel(t.Context())
	t.Cleanup(func() {
		d.cancel()
		d.rest.Wait()
		d.work.Wait()
	})
	return d
}

func (d *driver) next(t *testing.T) broker.Input {
	select {
	case in := <-d.inputs:
		return in
	case <-time.After(limit):
		require.Fail(t, "no input for the node")
		return nil
	}
}

// TestBlockedPeer sends to a peer that takes the hello and then reads nothing.
func TestBlockedPeer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	cfg := DefaultConfig()
	cfg.ID, cfg.QueueBytes = 1, 1<<20
	d := bareDriver(t, cfg)
	port := ln.Addr().(*net.TCPAddr).Port
	l := d.newLink(Member{ID: 2, Name: "n2", Host: "127.0.0.1", QuorumPort: port}, broker.Quorum)

	l.send([]byte("dropped: the stream is down"))
	d.rest.Go(l.run)
	accept := func() net.Conn {
		conn, err := ln.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		h, err := readHello(conn)
		require.NoError(t, err)
		require.Equal(t, hello{channel: broker.Quorum, from: 1, to: 2}, h)
		_, err = conn.Write([]byte{0})
		require.NoError(t, err)
		return conn
	}
	accept()
	require.Equal(t, broker.Link{Peer: 2, Channel: broker.Quorum, Up: true}, d.next(t))

	// Far more than the sockets' buffers and the queue hold. Every call returns.
	msg := make([]byte, 256<<10)
	sent := make(chan int)
	go func() {
		n := 0
		for ; l.up(); n++ {
			l.send(msg)
		}
		sent <- n
	}()
	select {
	case <-sent:
	case <-time.After(limit):
		require.Fail(t, "sending waits for the peer")
	}
	require.Equal(t, broker.Link{Peer: 2, Channel: broker.Quorum}, d.next(t))

	// It dials again, and what was queued before is forgotten.
	conn := accept()
	require.Equal(t, broker.Link{Peer: 2, Channel: broker.Quorum, Up: true}, d.next(t))
	l.send([]byte("hello again"))
	require.NoError(t, conn.SetDeadline(time.Now().Add(limit)))
	size, err := readSize(conn, 100)
	require.NoError(t, err)
	body, err := readBody(conn, size)
	require.NoError(t, err)
	require.Equal(t, "hello again", string(body))

	// The end of the connection is noticed without sending anything.
	require.NoError(t, conn.Close())
	require.Equal(t, broker.Link{Peer: 2, Channel: broker.Quorum}, d.next(t))
}

// TestInboundStream: the node learns of a peer's stream before anything that comes
// on it, as what the peer sent before there was one is lost.
func TestInboundStream(t *testing.T) {
	cfg := DefaultConfig()
	cfg.ID = 1
	cfg.Members = []Member{{ID: 1, Name: "n1"}, {ID: 2, Name: "n2"}}
	d := bareDriver(t, cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	d.rest.Go(func() {
		conn, err := ln.Accept()
		if err == nil {
			d.servePeer(conn, broker.Peer)
			_ = conn.Close()
		}
	})
	conn, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	msg, err := wire.Encode(cluster.HeartbeatReply{Epoch: 7})
	require.NoError(t, err)
	stream := hello{channel: broker.Peer, from: 2, to: 1}.encode()
	stream = append(binary.BigEndian.AppendUint32(stream, uint32(len(msg))), msg...)
	_, err = conn.Write(stream)
	require.NoError(t, err)
	require.Equal(t, broker.Link{Peer: 2, Channel: broker.Peer, Up: true}, d.next(t))
	require.IsType(t, broker.PeerMessage{}, d.next(t))
}
