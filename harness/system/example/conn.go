package example

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"time"

	"github.com/faultline-mq/faultline/harness/system/example/tinyq"
)

// requestTimeout is the deadline of one request.
const requestTimeout = 2 * time.Second

// errUnsent marks (wrapped) that no byte of a request left.
var errUnsent = errors.New("not sent")

// conn is one connection, and so one session.
type conn struct {
	net.Conn
	in  *json.Decoder
	out *json.Encoder
}

// dial opens a session: the server ends those that were open under that name.
func dial(ctx context.Context, address func() (string, error), name string) (*conn, error) {
	at, err := address()
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: requestTimeout}
	nc, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	c := &conn{nc, json.NewDecoder(nc), json.NewEncoder(nc)}
	if _, err := c.ask(ctx, tinyq.Request{Do: "hello", Name: name}); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return c, nil
}

// ask sends one request and reads its answer. After an error the connection is of no
// use any more: nobody knows what was done.
func (c *conn) ask(ctx context.Context, r tinyq.Request) (a tinyq.Answer, err error) {
	defer context.AfterFunc(ctx, func() { _ = c.Close() })() // cancellation ends the wait
	err = c.SetDeadline(time.Now().Add(requestTimeout))
	if err == nil {
		err = c.out.Encode(r)
	}
	if err == nil {
		err = c.in.Decode(&a)
	}
	return a, err
}
