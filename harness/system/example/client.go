package example

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/harness/system/example/tinyq"
	"github.com/faultline-mq/faultline/workloads"
)

// client is one producer or consumer. It has one session at most, and sends one
// request for each operation, never a second one.
type client struct {
	c    *cluster
	name string
	conn *conn
	ids  map[history.Value]uint64 // of the messages that it holds
	// dangling: a session ended without a word of the server, which may believe in it still.
	dangling bool
}

var _ system.Client = (*client)(nil)

// Route implements system.Client: there is one node.
func (c *client) Route(context.Context, *workloads.Op) int16 { return 0 }

// Epoch implements system.Client: there are none.
func (c *client) Epoch(int32) int32 { return -1 }

// Close implements system.Client.
func (c *client) Close() {
	if c.conn != nil {
		_ = c.conn.Close() // whatever comes of it, the session is over
	}
}

// Do implements system.Client.
func (c *client) Do(ctx context.Context, op *workloads.Op) workloads.Result {
	res := workloads.Result{Op: *op, Offset: history.NoOffset, High: history.NoOffset, Outcome: history.OK}
	var a tinyq.Answer
	var err error
	switch op.Kind {
	case history.Send:
		_, err = c.ask(ctx, tinyq.Request{Do: "put", Queue: c.c.keys[op.Key], Body: workloads.Encode(c.c.runID, op.Value, op.Size)})
	case history.Receive:
		a, err = c.ask(ctx, tinyq.Request{Do: "take", Queue: c.c.keys[op.Key], Most: op.Max, WaitMS: int(op.Wait.Milliseconds())})
		for _, m := range a.Messages {
			rec := record(c.c.runID, m)
			c.ids[rec.Value] = m.ID
			res.Records = append(res.Records, rec)
		}
	case history.Accept:
		_, err = c.ask(ctx, tinyq.Request{Do: "accept", ID: c.ids[op.Value]})
	case history.Release:
		_, err = c.ask(ctx, tinyq.Request{Do: "release", ID: c.ids[op.Value]})
	case history.Leave:
		err = c.leave(ctx)
	default:
		err = refusal("tinyq cannot " + op.Kind.String())
	}
	if err != nil {
		res.Outcome, res.Code = outcome(err)
	}
	res.At = c.c.clock.Now()
	return res
}

// record is a message as the history has it. Messages of a queue are not numbered.
func record(runID string, m tinyq.Message) history.Record {
	rec := history.Record{Offset: history.NoOffset, Epoch: -1, Delivery: int32(m.Times)}
	rec.Value, rec.Payload = workloads.Decode(runID, m.Body)
	return rec
}

// refusal is an answer by which nothing happened.
type refusal string

func (r refusal) Error() string { return string(r) }

// errUnconfirmed is returned where the server does not say that sessions are over.
var errUnconfirmed = errors.New("nobody says that the sessions are over")

// outcome says what is known of an operation that ended with err. It failed for
// certain only where the server said so, or no byte of it was sent.
func outcome(err error) (history.Outcome, string) {
	var said refusal
	var timeout net.Error
	switch {
	case errors.As(err, &said):
		return history.Failed, strings.ReplaceAll(string(said), " ", "-")
	case errors.Is(err, errUnsent) && errors.Is(err, syscall.ECONNREFUSED):
		return history.Failed, "refused"
	case errors.Is(err, errUnsent):
		return history.Failed, "no-session"
	case errors.Is(err, errUnconfirmed):
		return history.Indeterminate, "unconfirmed"
	case errors.As(err, &timeout) && timeout.Timeout():
		return history.Indeterminate, "timeout"
	}
	return history.Indeterminate, "reset"
}

// ask sends a request in the client's session, and opens one where there is none.
func (c *client) ask(ctx context.Context, r tinyq.Request) (tinyq.Answer, error) {
	if c.conn == nil {
		conn, err := dial(ctx, c.c.address, c.name)
		if err != nil {
			return tinyq.Answer{}, fmt.Errorf("%w: %w", errUnsent, err)
		}
		c.conn, c.dangling = conn, false // the server ended all the others
	}
	a, err := c.conn.ask(ctx, r)
	switch {
	case err != nil:
		c.drop()
	case a.Error != "":
		return a, refusal(a.Error)
	}
	return a, err
}

// drop ends the session for this client; what the server knows of it is another matter.
func (c *client) drop() {
	_ = c.conn.Close() // it is of no use any more
	c.conn, c.dangling = nil, true
	clear(c.ids)
}

// leave ends every session that this client ever had. It is answered for certain only
// where the server says of the last one that it is over, and ended the others before.
func (c *client) leave(ctx context.Context) error {
	clear(c.ids)
	if c.conn == nil && !c.dangling {
		return nil
	}
	_, err := c.ask(ctx, tinyq.Request{Do: "bye"})
	if c.conn != nil {
		c.drop()
		c.dangling = false
	}
	if err != nil {
		return errUnconfirmed // which is no failure: they may be over
	}
	return nil
}
