package driver

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/kafka"
)

// pending is a request that the node has not answered yet.
type pending struct {
	correlation int32
	reply       chan []byte // holds one; nil: the request has no reply
}

// serveClient takes one client's connection until it ends: one request in
// progress, in order.
func (d *driver) serveClient(conn net.Conn) {
	log := d.log.With("remote", conn.RemoteAddr().String())
	frames, done := make(chan []byte), make(chan struct{})
	gone := make(chan error, 1)
	defer func() {
		_ = conn.Close()
		close(done)
		<-gone
	}()
	// Reading goes on while a request is in progress: that is how a closed
	// connection is noticed.
	go func() {
		defer close(gone)
		gone <- d.readFrames(conn, frames, done)
	}()
	for {
		select {
		case frame := <-frames:
			if err := d.handle(conn, frame, gone); err != nil {
				if !errors.Is(err, errGone) {
					log.Warn("closing a client's connection", "reason", err)
				}
				return
			}
		case err := <-gone:
			switch {
			case errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed):
				log.Debug("a client's connection ended", "reason", err)
			case err != nil:
				log.Warn("closing a client's connection", "reason", err)
			}
			return
		case <-d.closing:
			return
		}
	}
}

func (d *driver) readFrames(conn net.Conn, frames chan<- []byte, done <-chan struct{}) error {
	r := bufio.NewReaderSize(conn, 32<<10)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(d.cfg.IdleTimeout)); err != nil {
			return err
		}
		size, err := readSize(r, kafka.MaxRequest)
		if err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(d.cfg.FrameTimeout)); err != nil {
			return err
		}
		frame, err := readBody(r, size)
		if err != nil {
			return err
		}
		select {
		case frames <- frame:
		case <-done:
			return nil
		}
	}
}

// errGone says that a connection ended while its request was in progress.
var errGone = errors.New("the connection is gone")

// handle carries one request through the node and writes its reply.
func (d *driver) handle(conn net.Conn, frame []byte, gone <-chan error) error {
	begin := time.Now()
	h, req, unsupported, err := kafka.Decode(frame)
	if err != nil {
		return err
	}
	name := kmsg.NameForKey(h.Key)
	d.metrics.requests.WithLabelValues(name).Inc()
	if unsupported {
		resp := kafka.Versions(0)
		resp.ErrorCode = kerr.UnsupportedVersion.Code
		return d.writeReply(conn, kafka.AppendResponse(nil, h.Correlation, resp))
	}
	id := broker.ReqID(d.lastReq.Add(1))
	p := &pending{correlation: h.Correlation, reply: make(chan []byte, 1)}
	d.mu.Lock()
	d.pending[id] = p
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.pending, id)
		d.mu.Unlock()
	}()
	if !d.post(broker.Request{ID: id, ClientID: h.ClientID, Req: req}) {
		return errGone
	}
	var reply []byte
	select {
	case reply = <-p.reply:
	case <-gone:
		d.post(broker.RequestGone{ID: id})
		return errGone
	case <-d.closing:
		// The node has stopped; what it answered before is still delivered.
		select {
		case reply = <-p.reply:
		default:
			return errGone
		}
	}
	if reply == nil {
		return nil // acks=0
	}
	d.metrics.latency.WithLabelValues(name).Observe(time.Since(begin).Seconds())
	return d.writeReply(conn, reply)
}

func (d *driver) writeReply(conn net.Conn, b []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(d.cfg.WriteTimeout)); err != nil {
		return err
	}
	_, err := conn.Write(b)
	return err
}

// reply hands a reply to the connection that waits for it.
func (d *driver) reply(e broker.Reply) {
	d.mu.Lock()
	p := d.pending[e.ID]
	delete(d.pending, e.ID)
	d.mu.Unlock()
	switch {
	case p == nil: // its connection is gone
	case e.Resp == nil:
		p.reply <- nil
	default:
		// Without slices it is encoded here, inside the step: it may share memory with
		// the node.
		d.filled(e.Slices, func() { p.reply <- kafka.AppendResponse(nil, p.correlation, e.Resp) })
	}
}
