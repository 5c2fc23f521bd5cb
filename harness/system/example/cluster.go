package example

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/harness/system/example/tinyq"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/workloads"
)

const (
	setupTimeout = 30 * time.Second       // for the server to answer
	retry        = 100 * time.Millisecond // between two looks at something that is not yet so
	drainMost    = 1000                   // messages that one request of the drain takes
)

// cluster is a running server as clients see it.
type cluster struct {
	runID   string
	node    string
	keys    []string
	clock   nemesis.Clock
	address func() (string, error)
}

var _ system.Cluster = (*cluster)(nil)

// Setup implements system.Cluster: every queue is there.
func (c *cluster) Setup(ctx context.Context) error {
	why := c.until(ctx, c.clock.Now()+setupTimeout, func() error {
		for _, key := range c.keys {
			if _, err := c.count(ctx, key); err != nil {
				return err
			}
		}
		return nil
	})
	if why != nil {
		return fmt.Errorf("node %s is not ready after %s: %w; see nodes/%s for what it printed", c.node, setupTimeout, why, c.node)
	}
	return ctx.Err()
}

// until tries again until there is no error or the time is over, and returns the last.
func (c *cluster) until(ctx context.Context, deadline time.Duration, try func() error) error {
	for {
		err := try()
		if err == nil || c.clock.Now() >= deadline || c.clock.Sleep(ctx, retry) != nil {
			return err
		}
	}
}

// count asks for the state of a queue, in a session of its own.
func (c *cluster) count(ctx context.Context, key string) (tinyq.Answer, error) {
	conn, err := dial(ctx, c.address, "harness")
	if err != nil {
		return tinyq.Answer{}, err
	}
	a, err := conn.ask(ctx, tinyq.Request{Do: "count", Queue: key})
	if a.Error != "" {
		err = refusal(a.Error)
	}
	return a, errors.Join(err, conn.Close())
}

// Client implements system.Cluster.
func (c *cluster) Client(spec workloads.ClientSpec) system.Client {
	return &client{c: c, name: spec.Name, ids: map[history.Value]uint64{}}
}

// Keys implements nemesis.Roles.
func (c *cluster) Keys() []string { return c.keys }

// Leader implements nemesis.Roles: there is one node.
func (c *cluster) Leader(context.Context, string) (string, int32, error) { return c.node, -1, nil }

// Controller implements nemesis.Roles.
func (c *cluster) Controller(context.Context) (string, error) { return c.node, nil }

// Responds implements nemesis.Roles.
func (c *cluster) Responds(ctx context.Context, _ string, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := c.count(ctx, c.keys[0])
	return err == nil
}

// Admin implements system.Cluster: there is none.
func (c *cluster) Admin() nemesis.Admin { return nil }

// Versions implements system.Cluster: the node does not say.
func (c *cluster) Versions() nemesis.Versions { return nil }

// Drain implements system.Cluster.
func (c *cluster) Drain(ctx context.Context, limit time.Duration) (drains []history.Drain, replicas []history.Replica) {
	deadline := c.clock.Now() + limit
	for i, key := range c.keys {
		d := history.Drain{Key: key, InSync: true, Epoch: -1} // one copy is in sync with itself
		r := history.Replica{Key: key, Node: c.node, Leader: true, Queue: true, Epoch: -1, Sentinel: history.NoOffset}
		attempt := int64(0)
		err := c.until(ctx, deadline, func() error {
			attempt++
			d.Quiet = false
			return c.drain(ctx, &d, &r, history.MakeValue(int32(i), attempt))
		})
		r.Complete = err == nil
		d.Complete = r.Complete
		if err != nil {
			d.Reason, r.Reason = err.Error(), err.Error()
		}
		d.At = int64(c.clock.Now())
		drains, replicas = append(drains, d), append(replicas, r)
	}
	return drains, replicas
}

// drain reads one queue to a proven end: no other session is open, a message sent after
// that comes out, nothing waits, and nothing is taken but what came out here. It begins
// anew each time; what it took before goes back with its session.
func (c *cluster) drain(ctx context.Context, d *history.Drain, r *history.Replica, mark history.Value) error {
	r.Records, r.Sentinel = nil, history.NoOffset
	conn, err := dial(ctx, c.address, "harness")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ask := func(q tinyq.Request) (tinyq.Answer, error) {
		q.Queue = d.Key
		a, err := conn.ask(ctx, q)
		if a.Error != "" {
			err = refusal(a.Error)
		}
		return a, err
	}
	state, err := ask(tinyq.Request{Do: "count"})
	if err != nil {
		return err
	}
	if state.Sessions > 1 {
		return fmt.Errorf("%d sessions of clients are still open", state.Sessions-1)
	}
	d.Quiet = true
	if _, err := ask(tinyq.Request{Do: "put", Body: workloads.EncodeSentinel(c.runID, mark, 0)}); err != nil {
		return fmt.Errorf("the sentinel was not acknowledged: %w", err)
	}
	for {
		a, err := ask(tinyq.Request{Do: "take", Most: drainMost})
		if err != nil {
			return err
		}
		for _, m := range a.Messages {
			rec := record(c.runID, m)
			rec.Offset = int64(len(r.Records))
			if rec.Payload == history.Sentinel && rec.Value == mark {
				r.Sentinel = rec.Offset
			}
			r.Records = append(r.Records, rec)
		}
		if len(a.Messages) == 0 {
			break
		}
	}
	if state, err = ask(tinyq.Request{Do: "count"}); err != nil {
		return err
	}
	r.End, r.Ready, r.Unacknowledged = int64(len(r.Records)), int64(state.Ready), int64(state.Taken)
	if r.Sentinel == history.NoOffset {
		return errors.New("the sentinel did not come out")
	}
	return nil
}
