package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// conn is one connection with one channel, whose publishes are confirmed. It is used
// by one task. The library neither reconnects nor repeats anything.
type conn struct {
	net     net.Conn
	c       *amqp.Connection
	ch      *amqp.Channel
	returns chan amqp.Return // at most one publish is unconfirmed
	ended   chan *amqp.Error // why the channel was closed
}

// login is who connects, and how.
type login struct {
	name      string // of the connection, for people and to tell ours apart
	password  string
	heartbeat time.Duration
}

// dial connects within ctx's deadline.
func dial(ctx context.Context, addr string, l login) (*conn, error) {
	k := &conn{}
	var mu sync.Mutex
	closed := false
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if closed = true; k.net != nil {
			_ = k.net.Close() // it is given up
		}
	})
	defer stop()
	cfg := amqp.Config{
		SASL: []amqp.Authentication{&amqp.PlainAuth{Username: user, Password: l.password}}, Vhost: "/", Heartbeat: l.heartbeat, Locale: "en_US",
		Properties: amqp.Table{"connection_name": l.name},
		Dial: func(network, addr string) (net.Conn, error) {
			var d net.Dialer
			n, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			defer mu.Unlock()
			if k.net = n; closed {
				_ = n.Close()
			}
			return n, nil
		},
	}
	var err error
	if k.c, err = amqp.DialConfig("amqp://"+addr+"/", cfg); err == nil {
		if k.ch, err = k.c.Channel(); err == nil {
			err = k.ch.Confirm(false)
		}
	}
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		if k.net != nil {
			_ = k.net.Close()
		}
		return nil, err
	}
	k.returns = k.ch.NotifyReturn(make(chan amqp.Return, 1))
	k.ended = k.ch.NotifyClose(make(chan *amqp.Error, 1))
	return k, nil
}

// within runs f, and closes the connection where ctx ends first: then f ends too.
func (k *conn) within(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = k.net.Close() })
	err := f()
	if !stop() {
		return ctx.Err()
	}
	return err
}

// abort closes the connection without a word to the node.
func (k *conn) abort() { _ = k.net.Close() }

// close ends the session: the node confirms that it is over.
func (k *conn) close(ctx context.Context) error {
	return k.within(ctx, k.c.Close)
}

// usable reports whether neither side has closed it, as far as is known.
func (k *conn) usable() bool { return !k.c.IsClosed() && !k.ch.IsClosed() }

// sent is what came of a publish.
type sent int

const (
	unknown  sent = iota // it may have been taken, or may still be
	taken                // confirmed, and not returned before
	returned             // no queue took it
)

// publish sends one message to a queue, by the default exchange, and waits for its
// confirmation. The connection is of no use after an unknown end.
func (k *conn) publish(ctx context.Context, queue string, mandatory bool, mode uint8, body []byte) (sent, string) {
	outcome, code := unknown, ""
	err := k.within(ctx, func() error {
		confirmation, err := k.ch.PublishWithDeferredConfirm("", queue, mandatory, false, amqp.Publishing{DeliveryMode: mode, Body: body})
		if err != nil {
			return err
		}
		ok := confirmation.Wait() // it ends with the channel
		if !ok && !k.usable() {
			return k.why()
		}
		select {
		case r := <-k.returns: // it came before the confirmation
			if ok {
				outcome, code = returned, r.ReplyText
			}
		default:
			if ok {
				outcome = taken
			}
		}
		if outcome == unknown {
			code = "nack"
		}
		return nil
	})
	if err != nil {
		return unknown, reason(err)
	}
	return outcome, code
}

// why is what ended the channel.
func (k *conn) why() error {
	select {
	case err := <-k.ended:
		if err != nil && err.Server {
			return err
		}
	default:
	}
	return amqp.ErrClosed
}

// reason names an error in a few words.
func reason(err error) string {
	var ae *amqp.Error
	var ne net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.As(err, &ae) && ae.Server:
		return fmt.Sprintf("%d %s", ae.Code, ae.Reason)
	case errors.As(err, &ae), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.As(err, &ne) && ne.Timeout():
		return "timeout"
	}
	return err.Error()
}

// refusedWith reports whether the node closed the channel with one of some codes,
// before it did anything.
func refusedWith(err error, codes ...int) bool {
	var ae *amqp.Error
	if !errors.As(err, &ae) || !ae.Server {
		return false
	}
	for _, c := range codes {
		if ae.Code == c {
			return true
		}
	}
	return false
}
