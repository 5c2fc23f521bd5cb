package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/nemesis"
)

var clientChannel = Channel{Port: nemesis.ClientPort}

// CallError says why a call has no answer.
type CallError struct {
	Client, Node string
	// Reason is "refused", "timeout", "reset", "closed" or "cancelled".
	Reason string
	// Sent is false only where it is certain that the node never received the
	// request: no connection was established. Otherwise the outcome is indeterminate.
	Sent bool
	err  error // the context's
}

func (e *CallError) Error() string {
	state := "not sent"
	if e.Sent {
		state = "sent, outcome unknown"
	}
	return fmt.Sprintf("call from %s to %s: %s (%s)", e.Client, e.Node, e.Reason, state)
}

// Unwrap returns the context's error of a cancelled call.
func (e *CallError) Unwrap() error { return e.err }

// response is what a node sends back.
type response struct {
	id   RequestID
	resp any
}

// client is what the World knows of one client: its unused connections.
type client struct {
	idle   [][]*conn // by node, oldest first
	closed bool
}

// clientConn is the client's side of a connection.
type clientConn struct {
	w      *World
	client *client
	node   int
	conn   *conn
	call   *call // in progress, or nil
}

// call is one request in progress.
type call struct {
	task   *task
	id     RequestID // 0 until sent
	done   bool
	resp   any
	reason string // why the connection is unusable, or ""
}

// Call sends a request to a node and parks the calling task until its response
// arrives, at most timeout. Client names one client: its calls reuse its
// connections. Where the connection fails or the timeout ends, the error is a
// *CallError, and the connection is closed; an unknown node is a plain error.
func (w *World) Call(ctx context.Context, clientName, node string, req any, timeout time.Duration) (any, error) {
	return w.request(ctx, clientName, node, req, timeout, false)
}

// Post sends a request to which there is no response (a produce request with
// acks=0). It returns once the connection is established and the request is
// handed to it; that says nothing of its arrival. Errors are as Call's.
func (w *World) Post(ctx context.Context, clientName, node string, req any, timeout time.Duration) error {
	_, err := w.request(ctx, clientName, node, req, timeout, true)
	return err
}

// CloseClient closes a client's connections: the unused ones now, those of calls
// in progress with their end.
func (w *World) CloseClient(clientName string) {
	cl := w.clients[clientName]
	if cl == nil {
		return
	}
	delete(w.clients, clientName)
	cl.closed = true
	for _, idle := range cl.idle {
		for _, c := range idle {
			c.abandon(0, true)
		}
	}
}

func (w *World) request(ctx context.Context, name, nodeName string, req any, timeout time.Duration, noReply bool) (any, error) {
	i, ok := w.index[nodeName]
	if !ok || i >= len(w.nodes) {
		return nil, fmt.Errorf("call from %s: no node %q: the nodes are %v", name, nodeName, w.names)
	}
	if w.current == nil {
		return nil, ErrOutside
	}
	cl := w.clients[name]
	if cl == nil {
		cl = &client{idle: make([][]*conn, len(w.nodes))}
		w.clients[name] = cl
	}
	deadline := w.now + timeout
	fail := func(reason string, sent bool, err error) (any, error) {
		return nil, &CallError{Client: name, Node: nodeName, Reason: reason, Sent: sent, err: err}
	}
	k := &call{task: w.current}
	var cc *clientConn
	if n := len(cl.idle[i]); n > 0 {
		cc = cl.idle[i][n-1].client
		cl.idle[i] = cl.idle[i][:n-1]
		cc.call = k
	} else {
		cc = &clientConn{w: w, client: cl, node: i, call: k}
		cc.dial()
		for !cc.conn.up && k.reason == "" {
			switch w.park(ctx, deadline, w.nodes[i].dialling) {
			case woken:
				continue
			case cancelled:
				cc.giveUp()
				return fail("cancelled", false, ctx.Err())
			case stopped:
				return fail("cancelled", false, ErrStopped)
			}
			cc.giveUp()
			return fail("timeout", false, nil)
		}
		if k.reason != "" {
			return fail(k.reason, false, nil)
		}
	}
	w.reqSeq++
	k.id = RequestID(w.reqSeq)
	cc.conn.halves[0].send(itemData, Request{ID: k.id, Conn: cc.conn.id, Client: name, Req: w.encode(req), NoReply: noReply})
	for !noReply && !k.done && k.reason == "" {
		switch w.park(ctx, deadline, w.nodes[i].calling) {
		case woken:
			continue
		case cancelled:
			cc.giveUp()
			return fail("cancelled", true, ctx.Err())
		case stopped:
			return fail("cancelled", true, ErrStopped)
		}
		cc.giveUp()
		return fail("timeout", true, nil)
	}
	if k.reason != "" {
		return fail(k.reason, true, nil)
	}
	cc.call = nil
	if cl.closed {
		cc.conn.abandon(0, true)
		return k.resp, nil
	}
	cl.idle[i] = append(cl.idle[i], cc.conn)
	return k.resp, nil
}

func (cc *clientConn) dial() {
	w := cc.w
	cc.conn = w.newConn(clientChannel, len(w.nodes), cc.node)
	cc.conn.client = cc
	w.dial(cc.conn)
}

// giveUp closes the connection on the client's behalf.
func (cc *clientConn) giveUp() {
	cc.call = nil
	cc.conn.abandon(0, true)
}

func (cc *clientConn) established() {
	if cc.call != nil {
		cc.w.wake(cc.call.task, woken)
	}
}

// dialFailed dials anew where nothing answered, as a kernel repeats its first
// packet: the call's deadline ends that.
func (cc *clientConn) dialFailed(reason string) {
	if cc.call == nil {
		return
	}
	if reason == "timeout" {
		cc.dial()
		return
	}
	cc.call.reason = reason
	cc.w.wake(cc.call.task, woken)
}

func (cc *clientConn) receive(msg any) {
	if k := cc.call; k != nil && msg.(response).id == k.id {
		k.done, k.resp = true, msg.(response).resp
		cc.w.wake(k.task, woken)
	}
}

// closed says that the connection is unusable from now on.
func (cc *clientConn) closed(reason string) {
	if k := cc.call; k != nil {
		k.reason = reason
		cc.w.wake(k.task, woken)
		return
	}
	idle := &cc.client.idle[cc.node]
	*idle = slices.DeleteFunc(*idle, func(c *conn) bool { return c == cc.conn })
}
