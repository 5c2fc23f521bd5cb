package rabbitmq

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

const (
	// offsetHeader is the argument of a consumer that says where it begins, and the header
	// of a delivery that says where that stood.
	offsetHeader = "x-stream-offset"
	// lull is how long a poll waits for one more message once it has some.
	lull = 20 * time.Millisecond
)

// tail begins to read a stream at an offset, on a channel of its own, with at most so many
// messages on their way. A node serves it from its own replica, as far as that knows
// the stream to be committed.
func (k *conn) tail(key string, from int64, most int) (*amqp.Channel, <-chan amqp.Delivery, error) {
	ch, err := k.c.Channel()
	if err != nil {
		return nil, nil, err
	}
	if err := ch.Qos(most, 0, false); err != nil {
		return nil, nil, err
	}
	in, err := ch.Consume(key, "", false, false, false, false, amqp.Table{offsetHeader: from})
	return ch, in, err
}

// read takes up to most messages of a stream from an offset on, and waits for the first.
func (k *conn) read(ctx context.Context, key string, from int64, most int, wait time.Duration) (got []amqp.Delivery, err error) {
	err = k.within(ctx, func() error {
		ch, in, err := k.tail(key, from, most)
		if err != nil {
			return err
		}
		enough := time.NewTimer(wait)
		defer enough.Stop()
		for len(got) < most {
			select {
			case d, more := <-in:
				if !more {
					return amqp.ErrClosed
				}
				got = append(got, d)
				enough.Reset(lull)
			case <-enough.C:
				return ch.Close()
			}
		}
		return ch.Close()
	})
	return got, err
}

// poll reads a stream from an offset on. That nothing came says that the node's replica
// had nothing committed there, not that there is nothing.
func (cl *client) poll(ctx context.Context, queue string, op *workloads.Op, res *workloads.Result) {
	got, err := cl.conn.read(ctx, queue, op.From, max(op.Max, 1), op.Wait)
	if err != nil {
		res.Outcome, res.Code = history.Failed, reason(err) // a read changes nothing
		cl.drop()
		return
	}
	res.Outcome = history.OK
	for _, d := range got {
		rec, err := streamed(cl.c.runID, d)
		switch {
		case err != nil:
			res.Outcome, res.Code, res.Records = history.Failed, err.Error(), nil
			return
		case rec.Offset >= op.From: // where that is not there yet, it begins at the end
			res.Records = append(res.Records, rec)
		}
	}
}

// streamed decodes a message of a stream.
func streamed(runID string, d amqp.Delivery) (history.Record, error) {
	at, ok := d.Headers[offsetHeader].(int64)
	if !ok || at < 0 {
		return history.Record{}, fmt.Errorf("a message of a stream without an offset: its header %s is %v", offsetHeader, d.Headers[offsetHeader])
	}
	value, payload := workloads.Decode(runID, d.Body)
	return history.Record{Offset: at, Value: value, Epoch: -1, Payload: payload}, nil
}

// drainStream reads what every node's replica of a stream holds, up to a sentinel that
// was confirmed.
func (c *cluster) drainStream(ctx context.Context, index int32, key string, deadline time.Duration) (history.Drain, []history.Replica) {
	d := history.Drain{Key: key, Epoch: -1}
	views, why := c.settled(ctx, key, c.clock.Now()+(deadline-c.clock.Now())/2)
	d.InSync, d.Reason = why == "", why
	if why == missing {
		d.InSync, d.Missing, d.Complete, d.At = true, true, true, int64(c.clock.Now())
		return d, nil
	}
	leader := ""
	for _, node := range c.nodes {
		if backers(views, node) > backers(views, leader) {
			leader = node
		}
	}
	// The management API does not say which nodes have a replica: where not all have, the
	// leader alone is read.
	at := c.nodes
	if c.v.number(clusterSize) < len(c.nodes) {
		at = []string{leader}
	}
	ctx, cancel := context.WithTimeout(ctx, max(deadline-c.clock.Now(), time.Second))
	defer cancel()
	sentinel, err := c.mark(ctx, index, key, deadline)
	if err != nil {
		d.Reason = orElse(d.Reason, fmt.Sprintf("the sentinel of %s was not acknowledged: %v", key, err))
		return d, nil
	}
	replicas := make([]history.Replica, len(at))
	var g sync.WaitGroup
	for i, node := range at {
		g.Go(func() {
			for {
				r := history.Replica{Key: key, Node: node, Epoch: -1, Leader: node == leader, Sentinel: history.NoOffset}
				err := c.readStream(ctx, sentinel, &r)
				if r.Complete = err == nil; err != nil {
					r.Reason = fmt.Sprintf("reading %s at %s: %v", key, node, err)
				}
				if replicas[i] = r; r.Complete || c.clock.Now() >= deadline || c.clock.Sleep(ctx, drainPause) != nil {
					return
				}
			}
		})
	}
	g.Wait()
	d.Complete = d.InSync && len(replicas) > 0
	for _, r := range replicas {
		d.Complete = d.Complete && r.Complete
		d.Reason = orElse(d.Reason, r.Reason)
	}
	d.At = int64(c.clock.Now())
	return d, replicas
}

// mark sends the drain's sentinel through one node after another until it is confirmed.
func (c *cluster) mark(ctx context.Context, index int32, key string, deadline time.Duration) (history.Value, error) {
	for attempt := int64(1); ; attempt++ {
		sentinel := history.MakeValue(index, attempt)
		k, err := c.dial(ctx, c.nodes[int(attempt)%len(c.nodes)], drainName)
		if err == nil {
			outcome, code := k.publish(ctx, key, true, 2, workloads.EncodeSentinel(c.runID, sentinel, workloads.MinPayload))
			if k.close(ctx) != nil {
				k.abort()
			}
			if outcome == taken {
				return sentinel, nil
			}
			err = errors.New(code)
		}
		if c.clock.Now() >= deadline || c.clock.Sleep(ctx, drainPause) != nil {
			return 0, err
		}
	}
}

// readStream is one attempt to read a replica from its first message to the sentinel.
func (c *cluster) readStream(ctx context.Context, sentinel history.Value, r *history.Replica) error {
	const window = 2000
	k, err := c.dial(ctx, r.Node, drainName)
	if err != nil {
		return err
	}
	defer k.abort() // it holds nothing
	return k.within(ctx, func() error {
		ch, in, err := k.tail(r.Key, 0, window)
		if err != nil {
			return err
		}
		for d := range in {
			rec, err := streamed(c.runID, d)
			if err != nil {
				return err
			}
			r.Records = append(r.Records, rec)
			if rec.Payload == history.Sentinel && rec.Value == sentinel {
				slices.SortFunc(r.Records, func(a, b history.Record) int { return cmp.Compare(a.Offset, b.Offset) })
				r.Start, r.Sentinel, r.End = r.Records[0].Offset, rec.Offset, rec.Offset+1
				r.Digest = digest(r.Records)
				return nil
			}
			if len(r.Records)%(window/2) == 0 { // settled: it may send more
				if err := ch.Ack(d.DeliveryTag, true); err != nil {
					return err
				}
			}
		}
		return fmt.Errorf("%s, and no sentinel", count(len(r.Records)))
	})
}

// digest covers every record's offset, value and payload.
func digest(records []history.Record) string {
	sum := sha256.New()
	for _, r := range records {
		fmt.Fprintf(sum, "%d %d %d\n", r.Offset, r.Value, r.Payload)
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}
