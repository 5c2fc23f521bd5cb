package kafka

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

// How long an idempotent producer tries to deliver one message, and its pause
// between two requests (Kafka: delivery.timeout.ms, retry.backoff.ms).
const (
	deliveryLimit = 10 * time.Second
	retryPause    = 50 * time.Millisecond
)

// numbers is what an idempotent producer numbers its messages with (KIP-98).
type numbers struct {
	known bool
	id    int64
	epoch int16
	next  map[int32]int32 // key → sequence number of its next message
}

// of returns the number of a key's next message; none is that of a producer
// without numbers.
func (n *numbers) of(key int32) number {
	if n == nil || !n.known {
		return number{-1, -1, -1}
	}
	return number{n.id, n.epoch, n.next[key]}
}

// sendNumbered sends a message until it is answered for certain or its time is
// over, each time with the same number, to whoever leads then. One that may have
// happened ends the producer's id: what comes next has a number of a new one.
func (cl *Client) sendNumbered(ctx context.Context, op *workloads.Op, res *workloads.Result) {
	deadline := cl.c.Clock.Now() + deliveryLimit
	maybe := false
	for {
		l := cl.leaders[op.Key]
		switch {
		case l.node < 0:
			res.Node, res.Outcome, res.Code = history.NoNode, history.Failed, "no leader known"
		case !cl.numbers.known && !cl.number(ctx, cl.c.Nodes[l.node]):
			res.Outcome, res.Code = history.Failed, "no producer id"
		default:
			cl.request(ctx, op, res)
			if res.Outcome == history.OK {
				cl.numbers.next[op.Key]++
				return
			}
			maybe = maybe || res.Outcome == history.Indeterminate
		}
		cl.stale = true
		over := res.Code == kerr.OutOfOrderSequenceNumber.Message || res.Code == kerr.InvalidProducerEpoch.Message
		if over || cl.c.Clock.Now() >= deadline || cl.c.Clock.Sleep(ctx, retryPause) != nil {
			break
		}
		cl.Route(ctx, op)
	}
	if maybe {
		res.Outcome = history.Indeterminate
		cl.numbers.known = false
	}
}

// number asks for a producer id.
func (cl *Client) number(ctx context.Context, node string) bool {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.SetVersion(3)
	req.ProducerID, req.ProducerEpoch = -1, -1
	resp, err := cl.c.Transport.RoundTrip(ctx, cl.name, node, req, cl.c.Timeout)
	r, ok := resp.(*kmsg.InitProducerIDResponse)
	if err != nil || !ok || r.ErrorCode != 0 {
		return false
	}
	cl.numbers = &numbers{known: true, id: r.ProducerID, epoch: r.ProducerEpoch, next: map[int32]int32{}}
	return true
}
