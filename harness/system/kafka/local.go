package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// drainLocal drains a key whose offsets belong to a node: it waits until every node says
// that all have the same, sends each node a sentinel of its own, and reads each log up to
// its own. The first node's log stands for the leader's.
func (c *Cluster) drainLocal(ctx context.Context, index int32, key Partition, deadline time.Duration) DrainResult {
	r := DrainResult{Drain: history.Drain{Key: key.String(), Quiet: true, Epoch: -1}}
	d := &r.Drain
	d.Reason = c.equal(ctx, key, deadline)
	d.InSync = d.Reason == ""
	d.Missing = d.Reason == missing
	d.Complete = d.InSync
	for i, node := range c.Nodes[:c.First] {
		if d.Missing {
			break
		}
		sentinel, why := c.markNode(ctx, key, node, index, int64(i)<<markBits, deadline)
		rep := c.drainReplica(ctx, key, node, sentinel, deadline)
		rep.Leader, rep.Epoch = i == 0, -1
		if why == "" {
			why = rep.Reason
		}
		d.Complete = d.Complete && rep.Complete
		if d.Reason == "" {
			d.Reason = why
		}
		d.Trimmed = d.Trimmed || rep.Start > 0
		r.Replicas = append(r.Replicas, rep)
	}
	d.At = int64(c.Clock.Now())
	return r
}

// markBits leaves room for the attempts of one node's sentinel below the node's number.
const markBits = 16

// markNode sends a node its sentinel until it is acknowledged.
func (c *Cluster) markNode(ctx context.Context, key Partition, node string, index int32, first int64, deadline time.Duration) (int64, string) {
	for attempt := first + 1; ; attempt++ {
		offset, why := c.mark(ctx, key, node, history.MakeValue(index, attempt))
		if why == "" {
			return offset, ""
		}
		if c.Clock.Now() >= deadline || c.Clock.Sleep(ctx, 100*time.Millisecond) != nil {
			return history.NoOffset, fmt.Sprintf("the sentinel of %s on %s was not acknowledged: %s", key, node, why)
		}
	}
}

// equal waits until each node says that all nodes have what it has, and says what is missing.
func (c *Cluster) equal(ctx context.Context, key Partition, deadline time.Duration) string {
	for {
		known, answers, why := 0, 0, ""
		for _, node := range c.Nodes[:c.First] {
			md, err := c.Metadata(ctx, admin, node, AskTimeout)
			if err != nil {
				why = err.Error()
				continue
			}
			answers++
			p, ok := md[key]
			switch {
			case !ok:
				why = fmt.Sprintf("%s does not know %s", node, key)
				continue
			case p.Answers == "":
				why = fmt.Sprintf("%s does not serve %s", node, key)
			case len(p.ISR) < len(p.Replicas):
				why = fmt.Sprintf("in the view of %s, %d of %d nodes have all of %s", node, len(p.ISR), len(p.Replicas), key)
			}
			known++
		}
		if known == 0 && answers == c.First {
			why = missing
		}
		if why == "" || c.Clock.Now() >= deadline || c.Clock.Sleep(ctx, 100*time.Millisecond) != nil {
			return why
		}
	}
}
