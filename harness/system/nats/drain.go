package nats

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

// fetchMost is how many messages one request of the drain asks for.
const fetchMost = 1000

// Drain implements system.Cluster. It waits until the replicas of a stream say the same
// of it, publishes an acknowledged sentinel, and takes everything up to it: a queue
// through its consumer, without acknowledging, until nothing waits and the drain holds
// all that is delivered; a log by a consumer of its own. Then every node must say the
// same of the stream through its own API.
//
// JetStream serves no reads of one replica, and the replicas' contents are not compared.
// So a replica that stays behind does not make the drain incomplete: the leader's
// content, with a sentinel that a majority has, is what the stream is.
//
// The streams share the limit, and waiting for replicas takes a third of each one's part.
func (c *cluster) Drain(ctx context.Context, limit time.Duration) (drains []history.Drain, replicas []history.Replica) {
	deadline := c.clock.Now() + limit
	for i, key := range c.keys {
		part := (deadline - c.clock.Now()) / time.Duration(len(c.keys)-i)
		d, rep := c.drainKey(ctx, int32(i), key, part)
		d.At = int64(c.clock.Now())
		drains = append(drains, d)
		if rep != nil {
			replicas = append(replicas, *rep)
		}
	}
	return drains, replicas
}

func (c *cluster) drainKey(ctx context.Context, index int32, key string, limit time.Duration) (history.Drain, *history.Replica) {
	d := history.Drain{Key: key, Quiet: true, Epoch: -1}
	start := c.clock.Now()
	deadline := start + limit
	d.Reason = c.until(ctx, start+limit/3, func() (why string) {
		why, d.InSync = c.inSync(ctx, key)
		return why
	})
	if v := c.look(ctx, key); v.known == 0 && v.silent == 0 {
		d.Missing, d.Reason = true, fmt.Sprintf("no node knows stream %s", key)
		return d, nil
	}
	rep := &history.Replica{Key: key, Leader: true, Epoch: -1, Sentinel: history.NoOffset, Queue: c.queue}
	sentinel, why := c.sendSentinel(ctx, index, key, deadline)
	rep.Sentinel = sentinel
	if why == "" {
		why = c.until(ctx, deadline, func() string { return c.read(ctx, key, rep, deadline) })
	}
	if why == "" {
		why = c.until(ctx, deadline, func() string { return c.everywhere(ctx, key) })
	}
	rep.Complete, rep.Reason = why == "", why
	if d.Reason == "" {
		d.Reason = why
	}
	d.Complete = d.InSync && rep.Complete
	d.Trimmed = !c.queue && rep.Start > 0
	if rep.Node == "" {
		rep.Node = c.nodes[0]
	}
	return d, rep
}

// until repeats a probe until it says that nothing is missing, or the time is over.
func (c *cluster) until(ctx context.Context, deadline time.Duration, missing func() string) string {
	for {
		why := missing()
		if why == "" || c.clock.Now() >= deadline || c.clock.Sleep(ctx, 200*time.Millisecond) != nil {
			return why
		}
	}
}

// sendSentinel publishes the drain's mark through one node after another until it is
// acknowledged, and returns its offset.
func (c *cluster) sendSentinel(ctx context.Context, index int32, key string, deadline time.Duration) (int64, string) {
	for attempt := 1; ; attempt++ {
		var ack struct {
			Seq int64 `json:"seq"`
		}
		mark := workloads.EncodeSentinel(c.runID, history.MakeValue(index, int64(attempt)), 0)
		err := c.request(ctx, c.nodes[attempt%len(c.nodes)], subject(key), mark, &ack, askTimeout)
		if err == nil && ack.Seq > 0 {
			return ack.Seq - 1, ""
		}
		if c.clock.Now() >= deadline || c.clock.Sleep(ctx, 100*time.Millisecond) != nil {
			return history.NoOffset, fmt.Sprintf("the sentinel of %s was not acknowledged: %v", key, err)
		}
	}
}

// read fills rep in with what a stream holds. It begins anew each time.
func (c *cluster) read(ctx context.Context, key string, rep *history.Replica, deadline time.Duration) string {
	rep.Records = nil
	rep.Node = c.look(ctx, key).leader
	if rep.Node == "" {
		return fmt.Sprintf("stream %s has no leader", key)
	}
	nc, err := c.connect(rep.Node, harnessName, askTimeout)
	if err != nil {
		return err.Error()
	}
	defer nc.Close()
	consumer := consumerName
	if !c.queue {
		var made struct {
			Name string `json:"name"`
		}
		if err := call(ctx, nc, "$JS.API.CONSUMER.CREATE."+key, map[string]any{"stream_name": key, "config": map[string]any{
			"deliver_policy": "all", "ack_policy": "none", "replay_policy": "instant", "num_replicas": 1, "mem_storage": true, "inactive_threshold": time.Minute.Nanoseconds(),
		}}, &made, setupRequest); err != nil {
			return fmt.Sprintf("no consumer to read stream %s: %v", key, err)
		}
		consumer = made.Name
		defer func() { // what is left of it goes with the stream
			_ = call(context.WithoutCancel(ctx), nc, "$JS.API.CONSUMER.DELETE."+key+"."+consumer, nil, nil, askTimeout)
		}()
	}
	seen := map[int64]bool{}
	for {
		if err := c.take(ctx, nc, key, consumer, rep, seen); err != nil {
			return fmt.Sprintf("reading stream %s: %v", key, err)
		}
		why, err := c.finish(ctx, nc, key, rep, seen)
		if err != nil {
			return fmt.Sprintf("asking for the state of stream %s: %v", key, err)
		}
		if why == "" {
			return ""
		}
		if c.clock.Now() >= deadline || ctx.Err() != nil {
			return why
		}
	}
}

// take adds a batch of messages to rep, those that are new.
func (c *cluster) take(ctx context.Context, nc *nats.Conn, key, consumer string, rep *history.Replica, seen map[int64]bool) error {
	const wait = 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, wait+askTimeout)
	defer cancel()
	sub, err := fetch(nc, key, consumer, fetchMost, wait)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // its connection may be gone
	for range fetchMost {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "100":
			continue
		case "404", "408":
			return nil
		default:
			return errors.New(status + " " + m.Header.Get("Description"))
		}
		rec, err := c.delivered(m)
		if err != nil {
			return err
		}
		if !seen[rec.Offset] && (c.queue || rec.Offset <= rep.Sentinel) {
			seen[rec.Offset] = true
			rep.Records = append(rep.Records, rec)
		}
	}
	return nil
}

// finish says what is missing until all is read, and takes the bounds that the system
// names: of a log up to its sentinel; of a queue until nothing waits, and what is
// delivered and not settled is what the drain was given.
func (c *cluster) finish(ctx context.Context, nc *nats.Conn, key string, rep *history.Replica, seen map[int64]bool) (string, error) {
	var stream struct {
		State streamState `json:"state"`
	}
	if err := call(ctx, nc, "$JS.API.STREAM.INFO."+key, nil, &stream, askTimeout); err != nil {
		return "", err
	}
	rep.Start, rep.End = max(int64(stream.State.First)-1, 0), int64(stream.State.Last)
	if !seen[rep.Sentinel] {
		return fmt.Sprintf("the sentinel of %s, at offset %d, did not come out after %d messages", key, rep.Sentinel, len(rep.Records)), nil
	}
	if !c.queue {
		slices.SortFunc(rep.Records, func(a, b history.Record) int { return cmp.Compare(a.Offset, b.Offset) })
		rep.End, rep.Digest = rep.Sentinel+1, digest(rep.Records)
		return "", nil
	}
	var consumer struct {
		Waiting   int64 `json:"num_pending"`
		Delivered int64 `json:"num_ack_pending"`
	}
	if err := call(ctx, nc, "$JS.API.CONSUMER.INFO."+key+"."+consumerName, nil, &consumer, askTimeout); err != nil {
		return "", err
	}
	rep.Ready, rep.Unacknowledged = consumer.Waiting, consumer.Delivered
	if rep.Ready != 0 || rep.Unacknowledged != int64(len(rep.Records)) {
		return fmt.Sprintf("of queue %s %d messages wait and %d are delivered, and the drain was given %d", key, rep.Ready, rep.Unacknowledged, len(rep.Records)), nil
	}
	for i := range rep.Records {
		rep.Records[i].Offset = int64(i) // of a queue the place in the order of delivery
	}
	rep.Digest = digest(rep.Records)
	return "", nil
}

// digest covers every record's offset, value and payload.
func digest(records []history.Record) string {
	sum := sha256.New()
	for _, r := range records {
		fmt.Fprintf(sum, "%d %d %d\n", r.Offset, r.Value, r.Payload)
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// everywhere says what is missing until every node, asked through its own API, tells
// the same of a stream.
func (c *cluster) everywhere(ctx context.Context, key string) string {
	type info struct {
		Cluster struct {
			Leader string `json:"leader"`
		} `json:"cluster"`
		State streamState `json:"state"`
	}
	var first info
	for i, node := range c.nodes {
		var in info
		if err := c.request(ctx, node, "$JS.API.STREAM.INFO."+key, nil, &in, askTimeout); err != nil {
			return err.Error()
		}
		if i == 0 {
			first = in
		}
		if in != first {
			return fmt.Sprintf("stream %s is %+v through %s, and %+v through %s", key, first, c.nodes[0], in, node)
		}
	}
	return ""
}
