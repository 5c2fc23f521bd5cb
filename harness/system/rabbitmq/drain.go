package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

const (
	drainPause = 200 * time.Millisecond
	// held is the most that one consumer holds without settling it: AMQP counts its
	// prefetch in 16 bits, and quorum queues take none for 2,000.
	held = 65_000
)

// Drain implements system.Cluster. Every queue is drained by its leader, without
// settling, up to a sentinel that was confirmed, until nothing waits and what is
// unacknowledged is what the drain holds. Where nodes name several leaders each of
// them is drained, and the drain is not complete.
func (c *cluster) Drain(ctx context.Context, limit time.Duration) (drains []history.Drain, replicas []history.Replica) {
	deadline := c.clock.Now() + limit
	quiet := c.quiet(ctx, c.clock.Now()+limit/3)
	type result struct {
		drain    history.Drain
		replicas []history.Replica
	}
	results := make([]result, len(c.keys))
	var g sync.WaitGroup
	for i, key := range c.keys {
		g.Go(func() {
			r := &results[i]
			r.drain, r.replicas = c.drainKey(ctx, int32(i), key, deadline)
			if r.drain.Quiet = quiet == ""; !r.drain.Quiet {
				r.drain.Complete, r.drain.Reason = false, orElse(r.drain.Reason, quiet)
			}
		})
	}
	g.Wait()
	for _, r := range results {
		drains = append(drains, r.drain)
		replicas = append(replicas, r.replicas...)
	}
	return drains, replicas
}

// quiet waits until no node knows a connection of the workload any more, and returns
// what is in the way.
func (c *cluster) quiet(ctx context.Context, deadline time.Duration) (why string) {
	for {
		why = ""
		for _, node := range c.nodes {
			names, err := c.api.connections(ctx, node)
			names = slices.DeleteFunc(names, func(n string) bool { return n == adminName || n == drainName })
			switch {
			case err != nil:
				why = err.Error()
			case len(names) > 0:
				slices.Sort(names)
				why = fmt.Sprintf("node %s still counts connections of clients: %s", node, strings.Join(slices.Compact(names), ", "))
			}
		}
		if why == "" || c.clock.Now() >= deadline || c.clock.Sleep(ctx, drainPause) != nil {
			return why
		}
	}
}

func (c *cluster) drainKey(ctx context.Context, index int32, key string, deadline time.Duration) (history.Drain, []history.Replica) {
	d := history.Drain{Key: key, Epoch: -1}
	views, why := c.settled(ctx, key, c.clock.Now()+(deadline-c.clock.Now())/2)
	d.InSync, d.Reason = why == "", why
	if why == missing {
		d.InSync, d.Missing, d.Complete, d.At = true, true, true, int64(c.clock.Now())
		return d, nil
	}
	var leaders []string
	for _, node := range c.nodes { // in the order of how many name it
		if backers(views, node) > 0 {
			leaders = append(leaders, node)
		}
	}
	slices.SortStableFunc(leaders, func(a, b string) int { return backers(views, b) - backers(views, a) })
	var replicas []history.Replica
	d.Complete = d.InSync && len(leaders) == 1
	for i, node := range leaders {
		r := c.drainAt(ctx, index, key, node, deadline)
		r.Leader = i == 0
		d.Complete = d.Complete && r.Complete
		d.Reason = orElse(d.Reason, r.Reason)
		replicas = append(replicas, r)
	}
	d.At = int64(c.clock.Now())
	return d, replicas
}

const missing = "the queue is gone from every node"

// settled waits until all nodes agree on a queue's leader and all its copies are
// there, and returns the last views and what is not so.
func (c *cluster) settled(ctx context.Context, key string, deadline time.Duration) (map[string]queueView, string) {
	for {
		views, errs := c.views(ctx, key)
		why := ""
		gone := 0
		for _, err := range errs {
			if errors.Is(err, errNotFound) {
				gone++
			} else if err != nil {
				why = orElse(why, err.Error())
			}
		}
		if gone == len(c.nodes) {
			why = missing
		}
		if err := c.agree(key, views); err != nil {
			why = err.Error() + "; restart those on one side (fault restart), as an operator does"
		}
		if why == "" {
			for _, node := range c.nodes {
				if err := c.whole(views[node]); err != nil {
					why = fmt.Sprintf("node %s sees %s of %s", node, err, key)
				}
			}
		}
		if why == "" || c.clock.Now() >= deadline || c.clock.Sleep(ctx, drainPause) != nil {
			return views, why
		}
	}
}

// drainAt drains a queue through one node.
func (c *cluster) drainAt(ctx context.Context, index int32, key, node string, deadline time.Duration) history.Replica {
	ctx, cancel := context.WithTimeout(ctx, max(deadline-c.clock.Now(), time.Second))
	defer cancel()
	for attempt := int64(1); ; attempt++ {
		r := history.Replica{Key: key, Node: node, Epoch: -1, Sentinel: history.NoOffset, Queue: true}
		err := c.drainOnce(ctx, history.MakeValue(index, attempt), &r)
		if r.Complete = err == nil; r.Complete {
			return r
		}
		r.Reason = fmt.Sprintf("draining %s at %s: %v", key, node, err)
		if c.clock.Now() >= deadline || c.clock.Sleep(ctx, drainPause) != nil {
			return r
		}
	}
}

// drainOnce is one attempt, over one connection.
func (c *cluster) drainOnce(ctx context.Context, sentinel history.Value, r *history.Replica) error {
	k, err := c.dial(ctx, r.Node, drainName)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		if k.close(ctx) != nil { // what it holds goes back
			k.abort()
		}
	}()
	if outcome, code := k.publish(ctx, r.Key, true, 2, workloads.EncodeSentinel(c.runID, sentinel, workloads.MinPayload)); outcome != taken {
		return fmt.Errorf("the sentinel was not acknowledged: %s", code)
	}
	return c.collect(ctx, k, sentinel, r)
}

// collect takes what is in a queue, until the sentinel came, nothing waits, and what
// the node counts as unacknowledged is what is held.
func (c *cluster) collect(ctx context.Context, k *conn, sentinel history.Value, r *history.Replica) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, ended := make(chan amqp.Delivery), make(chan struct{}, 1)
	ask := time.NewTicker(drainPause)
	defer ask.Stop()
	why := ""
	for consumers := 0; ; {
		if len(r.Records) >= consumers*held {
			if err := c.consume(ctx, k, r.Key, in, ended); err != nil {
				return fmt.Errorf("asking for the messages: %w", err)
			}
			consumers++
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s held, and no end%s", count(len(r.Records)), why)
		case <-ended:
			return errors.New("the node ended the delivery")
		case d := <-in:
			rec := record(c.runID, d)
			rec.Offset = int64(len(r.Records))
			r.Records = append(r.Records, rec)
			if r.End = rec.Offset + 1; rec.Payload == history.Sentinel && rec.Value == sentinel {
				r.Sentinel = rec.Offset
			}
		case <-ask.C:
			if r.Sentinel == history.NoOffset {
				continue
			}
			err := c.account(ctx, k, r)
			if err == nil {
				return nil
			}
			why = ": " + err.Error()
		}
	}
}

// consume begins the delivery of at most held messages into in, on a channel of its own.
func (c *cluster) consume(ctx context.Context, k *conn, key string, in chan<- amqp.Delivery, ended chan<- struct{}) error {
	return k.within(ctx, func() error {
		ch, err := k.c.Channel()
		if err != nil {
			return err
		}
		if err := ch.Qos(held, 0, false); err != nil {
			return err
		}
		deliveries, err := ch.Consume(key, "", false, false, false, false, nil)
		if err != nil {
			return err
		}
		go func() {
			for d := range deliveries {
				select {
				case in <- d:
				case <-ctx.Done():
				}
			}
			select {
			case ended <- struct{}{}:
			default:
			}
		}()
		return nil
	})
}

// account compares what the node counts with what the drain holds.
func (c *cluster) account(ctx context.Context, k *conn, r *history.Replica) error {
	var q amqp.Queue
	err := k.within(ctx, func() (err error) {
		q, err = k.ch.QueueDeclarePassive(r.Key, true, false, false, false, nil)
		return err
	})
	if err != nil {
		return err
	}
	n, err := c.api.counts(ctx, r.Node, r.Key)
	switch {
	case err != nil:
		return err
	case n.Ready == nil || n.Unacknowledged == nil:
		return errors.New("the node has not counted the messages yet")
	}
	r.Ready, r.Unacknowledged = max(*n.Ready, int64(q.Messages)), *n.Unacknowledged
	if r.Ready != 0 || r.Unacknowledged != int64(len(r.Records)) {
		return fmt.Errorf("the node counts %s ready and %s unacknowledged", count(int(r.Ready)), count(int(r.Unacknowledged)))
	}
	return nil
}

func count(n int) string {
	if n == 1 {
		return "1 message"
	}
	return fmt.Sprintf("%d messages", n)
}
