// Package kafka drives any system that speaks Kafka's protocol with precise
// clients: one operation is one request to one node with one deadline, without
// hidden retry, unless the client is an idempotent producer. It also reads what
// the drain needs.
package kafka

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/nemesis"
)

// Transport carries requests to nodes. A client has at most one request to a
// node in progress.
type Transport interface {
	// RoundTrip sends one request over the client's connection to the node,
	// dialling where there is none, and returns the response. A produce request
	// with acks=0 has no response: nil. Errors are *Error; after one the
	// connection is closed.
	RoundTrip(ctx context.Context, client, node string, req kmsg.Request, timeout time.Duration) (kmsg.Response, error)
	// Close closes the connections of a client.
	Close(client string)
}

// Error says why a request got no answer.
type Error struct {
	Node string
	// Sent is false only where it is certain that no byte of the request left.
	Sent bool
	// Reason is short: "refused", "timeout", "reset", "closed", "cancelled", "decode".
	Reason string
	Err    error
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("request to %s: %s: %v", e.Node, e.Reason, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// maxResponse bounds what a node may make a client allocate.
const maxResponse = 128 << 20

// TCP is the Transport over real sockets.
type TCP struct {
	// Resolve gives the address at which this host reaches a node.
	Resolve func(node string) (string, error)

	mu    sync.Mutex
	conns map[[2]string]*conn
}

type conn struct {
	c    net.Conn
	r    *bufio.Reader
	corr int32
}

var _ Transport = (*TCP)(nil)

// RoundTrip implements Transport.
func (t *TCP) RoundTrip(ctx context.Context, client, node string, req kmsg.Request, timeout time.Duration) (kmsg.Response, error) {
	deadline := time.Now().Add(timeout)
	c, err := t.conn(ctx, client, node, deadline)
	if err != nil {
		return nil, &Error{Node: node, Reason: reason(ctx, err, "refused"), Err: err}
	}
	resp, err := c.roundTrip(ctx, client, req, deadline)
	if err != nil {
		t.drop(client, node, c)
		return nil, &Error{Node: node, Sent: true, Reason: reason(ctx, err, "reset"), Err: err}
	}
	return resp, nil
}

func (t *TCP) conn(ctx context.Context, client, node string, deadline time.Time) (*conn, error) {
	key := [2]string{client, node}
	t.mu.Lock()
	c := t.conns[key]
	t.mu.Unlock()
	if c != nil {
		return c, nil
	}
	addr, err := t.Resolve(node)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Deadline: deadline}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c = &conn{c: nc, r: bufio.NewReaderSize(nc, 64<<10)}
	t.mu.Lock()
	if t.conns == nil {
		t.conns = map[[2]string]*conn{}
	}
	t.conns[key] = c
	t.mu.Unlock()
	return c, nil
}

func (t *TCP) drop(client, node string, c *conn) {
	_ = c.c.Close() // it is unusable already
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns[[2]string{client, node}] == c {
		delete(t.conns, [2]string{client, node})
	}
}

// Close implements Transport.
func (t *TCP) Close(client string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, c := range t.conns {
		if key[0] == client {
			_ = c.c.Close() // nothing is in progress on it
			delete(t.conns, key)
		}
	}
}

func (c *conn) roundTrip(ctx context.Context, client string, req kmsg.Request, deadline time.Time) (kmsg.Response, error) {
	if err := c.c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.c.SetDeadline(time.Unix(1, 0)) }) // cancellation ends the wait
	defer stop()
	c.corr++
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID(client))
	if _, err := c.c.Write(f.AppendRequest(nil, req, c.corr)); err != nil {
		return nil, err
	}
	if p, ok := req.(*kmsg.ProduceRequest); ok && p.Acks == 0 {
		return nil, nil
	}
	var head [8]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, err
	}
	size := int64(binary.BigEndian.Uint32(head[:4])) - 4
	if size < 0 || size > maxResponse {
		return nil, fmt.Errorf("response of %d bytes: not a Kafka server, or a broken one", size)
	}
	if corr := int32(binary.BigEndian.Uint32(head[4:])); corr != c.corr {
		return nil, fmt.Errorf("response to request %d, expected %d", corr, c.corr)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return nil, err
	}
	return decode(req, body)
}

func decode(req kmsg.Request, body []byte) (kmsg.Response, error) {
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		if len(body) == 0 || body[0] != 0 {
			return nil, errors.New("response header has tags that no known version has")
		}
		body = body[1:]
	}
	return resp, resp.ReadFrom(body)
}

// reason names an error in one word.
func reason(ctx context.Context, err error, otherwise string) string {
	var ne net.Error
	switch {
	case ctx.Err() != nil:
		return "cancelled"
	case errors.As(err, &ne) && ne.Timeout():
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	}
	return otherwise
}

// Clock is the run's clock.
type Clock = nemesis.Clock
