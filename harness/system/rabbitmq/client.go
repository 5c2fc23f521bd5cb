package rabbitmq

import (
	"context"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

// client is one precise client: one operation at one node with one deadline, without
// repetition. A message that it was given is its own as long as its connection stands.
type client struct {
	c       *cluster
	name    string
	node    int  // index of the node that it uses
	stays   bool // at that node, whatever happens
	conn    *conn
	at      int                      // node of conn
	tags    map[history.Value]uint64 // what it holds
	dropped bool                     // a connection was given up: the node may not know yet
}

// Route implements system.Client. Every node answers for every queue. Clients that
// are pinned stay with their node; the others go on to the next one after a failure.
func (cl *client) Route(context.Context, *workloads.Op) int16 { return int16(cl.node) }

// Epoch implements system.Client: there are none.
func (*client) Epoch(int32) int32 { return -1 }

// Do implements system.Client.
func (cl *client) Do(ctx context.Context, op *workloads.Op) workloads.Result {
	res := workloads.Result{Op: *op, Node: int16(cl.node), Offset: history.NoOffset, High: history.NoOffset}
	limited, cancel := context.WithTimeout(ctx, cl.c.timeout)
	defer cancel()
	cl.do(limited, op, &res)
	res.At = cl.c.clock.Now()
	if res.Outcome != history.OK && !cl.stays {
		cl.node = (cl.node + 1) % len(cl.c.nodes)
	}
	return res
}

func (cl *client) do(ctx context.Context, op *workloads.Op, res *workloads.Result) {
	switch op.Kind {
	case history.Leave:
		cl.leave(ctx, res)
		return
	case history.Accept, history.Release, history.Reject:
		if _, held := cl.tags[op.Value]; !held || cl.conn == nil || !cl.conn.usable() {
			res.Outcome, res.Code = history.Failed, "not held any more: its channel is closed, nothing sent"
			return
		}
	}
	if err := cl.connect(ctx); err != nil {
		res.Outcome, res.Code = history.Failed, reason(err)+", nothing sent"
		return
	}
	queue := cl.c.keys[op.Key]
	switch op.Kind {
	case history.Send:
		cl.send(ctx, queue, op, res)
	case history.Receive:
		cl.receive(ctx, queue, res)
	case history.Accept, history.Release, history.Reject:
		cl.settle(ctx, queue, op, res)
	default:
		res.Outcome, res.Code = history.Failed, "not an operation on queues: "+op.Kind.String()
	}
}

// connect makes sure of a connection to the node that is used.
func (cl *client) connect(ctx context.Context) error {
	if cl.conn != nil && cl.at == cl.node && cl.conn.usable() {
		return nil
	}
	cl.drop()
	k, err := cl.c.dial(ctx, cl.c.nodes[cl.node], cl.name)
	if err != nil {
		return err
	}
	cl.conn, cl.at, cl.tags = k, cl.node, map[history.Value]uint64{}
	return nil
}

// drop gives the connection up. The node notices when the packets arrive, or when
// heartbeats are missing; what the client held goes back then.
func (cl *client) drop() {
	if cl.conn != nil {
		cl.conn.abort()
		cl.dropped = true
	}
	cl.conn, cl.tags = nil, nil
}

// send is OK where the node confirmed and had not returned the message before.
func (cl *client) send(ctx context.Context, queue string, op *workloads.Op, res *workloads.Result) {
	outcome, code := cl.conn.publish(ctx, queue, cl.c.v.is("mandatory"), uint8(cl.c.v.number("delivery_mode")), workloads.Encode(cl.c.runID, op.Value, op.Size))
	switch res.Code = code; outcome {
	case taken:
		res.Outcome = history.OK
	case returned:
		res.Outcome, res.Code = history.Failed, "returned: "+code
	case unknown:
		res.Outcome = history.Indeterminate
		cl.drop()
	}
}

// receive asks for one message. That there is none is an answer.
func (cl *client) receive(ctx context.Context, queue string, res *workloads.Result) {
	var d amqp.Delivery
	var some bool
	err := cl.conn.within(ctx, func() (err error) {
		d, some, err = cl.conn.ch.Get(queue, false)
		return err
	})
	if err != nil {
		res.Outcome, res.Code = history.Indeterminate, reason(err)
		if refusedWith(err, amqp.NotFound, amqp.AccessRefused, amqp.ResourceLocked) {
			res.Outcome = history.Failed // the queue was not asked
		}
		cl.drop()
		return
	}
	res.Outcome = history.OK
	if !some {
		return
	}
	rec := record(cl.c.runID, d)
	if rec.Payload == history.Good {
		cl.tags[rec.Value] = d.DeliveryTag
	}
	res.Records = []history.Record{rec}
}

// record decodes a delivery. Quorum queues count how often a message went back; of
// others it is known whether this is the first time.
func record(runID string, d amqp.Delivery) history.Record {
	value, payload := workloads.Decode(runID, d.Body)
	rec := history.Record{Offset: history.NoOffset, Value: value, Epoch: -1, Payload: payload}
	if n, ok := d.Headers["x-delivery-count"].(int64); ok {
		rec.Delivery = int32(n) + 1
	} else if !d.Redelivered {
		rec.Delivery = 1
	}
	return rec
}

// settle sends basic.ack, basic.nack or basic.reject, which are not answered, and asks
// for the state of the queue on the same channel: channel and queue handle what comes
// from one channel in order, so the answer shows that the queue has the settlement
// (AMQP 0-9-1, 4.7: methods of one channel are handled in order).
func (cl *client) settle(ctx context.Context, queue string, op *workloads.Op, res *workloads.Result) {
	tag := cl.tags[op.Value]
	delete(cl.tags, op.Value)
	err := cl.conn.within(ctx, func() error {
		var err error
		switch op.Kind {
		case history.Accept:
			err = cl.conn.ch.Ack(tag, false)
		case history.Release:
			err = cl.conn.ch.Nack(tag, false, true)
		default:
			err = cl.conn.ch.Reject(tag, false)
		}
		if err != nil {
			return err
		}
		_, err = cl.conn.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err
	})
	if err != nil {
		res.Outcome, res.Code = history.Indeterminate, reason(err)
		cl.drop()
		return
	}
	res.Outcome = history.OK
}

// leave ends the session. It is confirmed where the node answered, and no connection
// was given up before, whose messages the node may still keep for it.
func (cl *client) leave(ctx context.Context, res *workloads.Result) {
	if cl.conn == nil {
		res.Node = history.NoNode
	} else {
		res.Node = int16(cl.at)
		err := cl.conn.close(ctx)
		cl.conn, cl.tags = nil, nil
		if err != nil {
			cl.dropped = true
			res.Outcome, res.Code = history.Indeterminate, reason(err)
			return
		}
	}
	res.Outcome = history.OK
	if cl.dropped {
		res.Outcome, res.Code = history.Indeterminate, "a connection was given up before"
	}
}

// Close implements system.Client.
func (cl *client) Close() {
	if cl.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cl.c.timeout)
	defer cancel()
	if cl.conn.close(ctx) != nil {
		cl.conn.abort()
	}
	cl.conn = nil
}
