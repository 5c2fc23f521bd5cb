package driver

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/wire"
)

// Times of the streams between nodes.
const (
	userTimeout  = 3 * time.Second // TCP_USER_TIMEOUT
	dialTimeout  = 3 * time.Second
	helloTimeout = 5 * time.Second
	backOffMin   = 50 * time.Millisecond
	backOffMax   = 500 * time.Millisecond
)

// A stream begins with the dialler's hello:
//
//	magic "FLPS" | version, 1 byte | channel, 1 byte | sender, 4 bytes | receiver, 4 bytes | cluster digest, 32 bytes
//
// It is answered by one byte (0: accepted) and, after any other, by 2 bytes of
// length and as many of text. After it, messages flow from the dialler to the
// acceptor only: each 4 bytes of length and a message as package wire encodes it.
// Numbers are big-endian.
const (
	helloMagic   = "FLPS"
	helloVersion = 1
	helloSize    = 4 + 1 + 1 + 4 + 4 + sha256.Size
)

type hello struct {
	channel  broker.Channel
	from, to broker.NodeID
	cluster  [sha256.Size]byte
}

func (h hello) encode() []byte {
	b := append([]byte(helloMagic), helloVersion, byte(h.channel))
	b = binary.BigEndian.AppendUint32(b, uint32(h.from))
	b = binary.BigEndian.AppendUint32(b, uint32(h.to))
	return append(b, h.cluster[:]...)
}

func readHello(r io.Reader) (h hello, err error) {
	var b [helloSize]byte
	// Magic and version first: those of another version may be shorter.
	if _, err := io.ReadFull(r, b[:5]); err != nil {
		return h, fmt.Errorf("no hello: %w", err)
	}
	if string(b[:4]) != helloMagic {
		return h, fmt.Errorf("this port is for other nodes of the cluster; the stream begins with %q", b[:4])
	}
	if b[4] != helloVersion {
		return h, fmt.Errorf("the node speaks version %d, this one %d: run the same version on all nodes", b[4], helloVersion)
	}
	if _, err := io.ReadFull(r, b[5:]); err != nil {
		return h, fmt.Errorf("the hello breaks off: %w", err)
	}
	h.channel = broker.Channel(b[5])
	h.from, h.to = broker.NodeID(binary.BigEndian.Uint32(b[6:])), broker.NodeID(binary.BigEndian.Uint32(b[10:]))
	copy(h.cluster[:], b[14:])
	return h, nil
}

// check says why a hello is refused.
func (d *driver) checkHello(h hello, ch broker.Channel) error {
	switch {
	case h.cluster != d.digest:
		return fmt.Errorf("node %d has another list of members: it belongs to another cluster, or was not given the same list", h.from)
	case h.to != d.cfg.ID:
		return fmt.Errorf("node %d looks for node %d here, this is node %d: correct the addresses in the list of members", h.from, h.to, d.cfg.ID)
	case h.channel != ch:
		return fmt.Errorf("node %d sends the traffic of channel %d to the port of channel %d: correct the ports", h.from, h.channel, ch)
	case h.from == d.cfg.ID:
		return fmt.Errorf("another node has this node's id %d: give each node its own", h.from)
	}
	for _, m := range d.cfg.Members {
		if m.ID == h.from {
			return nil
		}
	}
	return fmt.Errorf("node %d is not a member of the cluster", h.from)
}

// tune sets what every socket between nodes has.
func tune(c net.Conn) error {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	return errors.Join(
		t.SetNoDelay(true),
		t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}),
		setUserTimeout(t, userTimeout),
	)
}

type streamKey struct {
	peer    broker.NodeID
	channel broker.Channel
}

// inbound is a stream from a peer.
type inbound struct {
	conn net.Conn
	done chan struct{}
}

// servePeer takes one incoming stream until it ends.
func (d *driver) servePeer(conn net.Conn, ch broker.Channel) {
	log := d.log.With("remote", conn.RemoteAddr().String(), "channel", channelName(ch))
	if err := tune(conn); err != nil {
		log.Warn("socket options of a stream", "error", err)
	}
	_ = conn.SetDeadline(time.Now().Add(helloTimeout))
	r := bufio.NewReaderSize(conn, 64<<10)
	h, err := readHello(r)
	if err == nil {
		err = d.checkHello(h, ch)
	}
	if err != nil {
		log.Warn("refused a stream", "reason", err)
		text := err.Error()
		b := binary.BigEndian.AppendUint16([]byte{1}, uint16(len(text)))
		_, _ = conn.Write(append(b, text...))
		return
	}
	// The former stream of this peer is dead or about to be: what it carried comes
	// before what this one carries.
	in := &inbound{conn: conn, done: make(chan struct{})}
	defer close(in.done)
	key := streamKey{h.from, ch}
	d.mu.Lock()
	old := d.inbound[key]
	d.inbound[key] = in
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.inbound[key] == in {
			delete(d.inbound, key)
		}
	}()
	if old != nil {
		_ = old.conn.Close()
		<-old.done
	}
	if _, err := conn.Write([]byte{0}); err != nil {
		log.Debug("a stream ended", "peer", h.from, "error", err)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if !d.post(broker.Link{Peer: h.from, Channel: ch, Up: true}) {
		return
	}
	err = d.readMessages(r, h.from, ch)
	if d.ctx.Err() == nil {
		log.Debug("a stream ended", "peer", h.from, "error", err)
	}
}

func (d *driver) readMessages(r io.Reader, from broker.NodeID, ch broker.Channel) error {
	for {
		size, err := readSize(r, wire.MaxMessage)
		if err != nil {
			return err
		}
		b, err := readBody(r, size)
		if err != nil {
			return err
		}
		msg, err := wire.Decode(b)
		if err != nil {
			d.log.Warn("closing a stream: a message cannot be decoded", "peer", from, "channel", channelName(ch), "error", err)
			return err
		}
		if !d.post(broker.PeerMessage{From: from, Channel: ch, Msg: msg}) {
			return nil
		}
	}
}

func channelName(ch broker.Channel) string {
	if ch == broker.Quorum {
		return "quorum"
	}
	return "peer"
}

// link is the outgoing stream to one peer on one channel.
type link struct {
	d    *driver
	key  streamKey
	addr string
	name string

	mu    sync.Mutex
	conn  net.Conn // nil: down
	queue net.Buffers
	bytes int // queued, and handed to the socket but not taken yet
	wake  chan struct{}
}

func (d *driver) newLink(m Member, ch broker.Channel) *link {
	port := m.PeerPort
	if ch == broker.Quorum {
		port = m.QuorumPort
	}
	return &link{
		d: d, key: streamKey{m.ID, ch}, addr: net.JoinHostPort(m.Host, strconv.Itoa(port)), name: m.Name, wake: make(chan struct{}, 1),
	}
}

// send queues a message, or drops it where the stream is down. It never waits: a
// peer that does not take what is sent loses its stream.
func (l *link) send(msg []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return
	}
	if l.bytes > 0 && l.bytes+len(msg) > l.d.cfg.QueueBytes {
		l.d.log.Warn("dropping a stream: the peer does not take what is sent", "peer", l.name, "channel", channelName(l.key.channel), "queued_bytes", l.bytes)
		_ = l.conn.Close()
		l.down()
		return
	}
	l.queue = append(l.queue, binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg)
	l.bytes += len(msg)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// down forgets what is queued. The caller holds l.mu.
func (l *link) down() { l.conn, l.queue, l.bytes = nil, nil, 0 }

func (l *link) up() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn != nil
}

// run keeps the stream up until the driver ends.
func (l *link) run() {
	log := l.d.log.With("peer", l.name, "channel", channelName(l.key.channel), "address", l.addr)
	backOff, told := backOffMin, ""
	for l.d.ctx.Err() == nil {
		conn, err := l.dial()
		if err != nil {
			// The same reason is told once, not at every attempt.
			if text := err.Error(); text != told && l.d.ctx.Err() == nil {
				log.Warn("no stream to a peer, trying on", "reason", text)
				told = text
			}
			// Jitter keeps nodes that lost each other together from dialling together.
			pause := backOff/2 + rand.N(backOff)
			backOff = min(2*backOff, backOffMax)
			select {
			case <-l.d.ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		backOff, told = backOffMin, ""
		log.Info("stream up")
		err = l.stream(conn)
		l.d.metrics.linkDrops.WithLabelValues(l.name, channelName(l.key.channel)).Inc()
		if l.d.ctx.Err() == nil {
			log.Info("stream down", "reason", err)
		}
	}
}

// dial connects and says hello.
func (l *link) dial() (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(l.d.ctx, "tcp", l.addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(l.d.ctx, func() { _ = conn.Close() })
	err = l.greet(conn)
	stop()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// greet sends the hello and reads its answer.
func (l *link) greet(conn net.Conn) error {
	if err := tune(conn); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	h := hello{channel: l.key.channel, from: l.d.cfg.ID, to: l.key.peer, cluster: l.d.digest}
	if _, err := conn.Write(h.encode()); err != nil {
		return err
	}
	var answer [3]byte
	if _, err := io.ReadFull(conn, answer[:1]); err != nil {
		return fmt.Errorf("the hello was not answered: %w", err)
	}
	if answer[0] != 0 {
		text := "no reason given"
		if _, err := io.ReadFull(conn, answer[1:]); err == nil {
			b := make([]byte, binary.BigEndian.Uint16(answer[1:]))
			if _, err := io.ReadFull(conn, b); err == nil {
				text = strconv.Quote(string(b))
			}
		}
		return fmt.Errorf("the peer refused the hello: %s", text)
	}
	return conn.SetDeadline(time.Time{})
}

// stream sends what is queued until the connection ends, and reports both ends
// of that time to the node.
func (l *link) stream(conn net.Conn) error {
	defer context.AfterFunc(l.d.ctx, func() { _ = conn.Close() })()
	l.mu.Lock()
	l.conn = conn
	l.mu.Unlock()
	l.d.post(broker.Link{Peer: l.key.peer, Channel: l.key.channel, Up: true})

	// The peer says nothing on this stream: reading ends when the connection does.
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		if err == nil {
			err = errors.New("the peer sent data on a stream that is for its input")
		}
		ended <- err
	}()
	err, read := l.write(conn, ended)

	l.mu.Lock()
	if l.conn == conn {
		l.down()
	}
	l.mu.Unlock()
	_ = conn.Close()
	if !read {
		<-ended
	}
	l.d.post(broker.Link{Peer: l.key.peer, Channel: l.key.channel})
	return err
}

// write returns what ended the stream; read says that it was taken from ended.
func (l *link) write(conn net.Conn, ended <-chan error) (err error, read bool) {
	for {
		select {
		case err := <-ended:
			return err, true
		case <-l.wake:
		}
		l.mu.Lock()
		var queue net.Buffers
		bytes := 0
		if l.conn == conn {
			queue, bytes = l.queue, l.bytes
			l.queue = nil
		}
		l.mu.Unlock()
		if len(queue) == 0 {
			continue
		}
		if err := conn.SetWriteDeadline(time.Now().Add(l.d.cfg.WriteTimeout)); err != nil {
			return err, false
		}
		if _, err := queue.WriteTo(conn); err != nil {
			return err, false
		}
		l.mu.Lock()
		if l.conn == conn {
			l.bytes -= bytes
		}
		l.mu.Unlock()
	}
}
