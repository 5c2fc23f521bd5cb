package kafka

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

// drainBytes is what one fetch of the drain asks for.
const drainBytes = 4 << 20

// DrainResult is what the drain found of one key.
type DrainResult struct {
	Drain    history.Drain
	Replicas []history.Replica
}

// Drain reads every replica's own log of every key: of those that are replicas
// now, whoever was one before; of a foreign system the leader's, as a consumer sees it. It waits until all of them are in sync, sends one acknowledged sentinel per key, and reads each replica up
// to the sentinel. What is not proven is said so: a replica that did not catch up
// within the limit is not complete, and neither is its key. Workload connections
// must be closed before.
func (c *Cluster) Drain(ctx context.Context, limit time.Duration) []DrainResult {
	deadline := c.Clock.Now() + limit
	results := make([]DrainResult, 0, len(c.Keys))
	for i, key := range c.Keys {
		if c.Local {
			results = append(results, c.drainLocal(ctx, int32(i), key, deadline))
			continue
		}
		results = append(results, c.drainKey(ctx, int32(i), key, deadline))
	}
	return results
}

func (c *Cluster) drainKey(ctx context.Context, index int32, key Partition, deadline time.Duration) DrainResult {
	r := DrainResult{Drain: history.Drain{Key: key.String(), Quiet: true, Epoch: -1}}
	d := &r.Drain
	state, why := c.inSync(ctx, key, true, deadline)
	d.InSync, d.Reason = why == "", why
	if state.Answers == "" {
		d.Missing = why == missing
		d.At = int64(c.Clock.Now())
		return r
	}
	sentinel, why := c.sendSentinel(ctx, index, key, deadline)
	if d.Reason == "" {
		d.Reason = why
	}
	// The epoch in which the sentinel was acknowledged is the drain's: replicas are
	// compared in it.
	after, _ := c.inSync(ctx, key, false, deadline)
	d.Epoch = after.Epoch
	d.Complete = d.InSync && sentinel >= 0
	replicas := state.Replicas
	if c.OneCopy || c.Foreign {
		replicas = []string{after.Leader}
	}
	for _, node := range replicas {
		rep := c.drainReplica(ctx, key, node, sentinel, deadline)
		rep.Leader = node == after.Answers
		d.Complete = d.Complete && rep.Complete
		if !rep.Complete && d.Reason == "" {
			d.Reason = rep.Reason
		}
		d.Trimmed = d.Trimmed || rep.Start > 0
		rep.Epoch = after.Epoch
		r.Replicas = append(r.Replicas, rep)
	}
	if final, _ := c.inSync(ctx, key, false, deadline); final.Epoch != after.Epoch {
		d.Complete = false
		d.Reason = fmt.Sprintf("the leader epoch of %s moved from %d to %d during the drain", key, after.Epoch, final.Epoch)
	}
	d.At = int64(c.Clock.Now())
	return r
}

const missing = "the topic is gone"

// inSync waits until a key has a leader and, where all is set, all its replicas in
// sync, in the view of its leader, and returns the newest state known and what is missing.
func (c *Cluster) inSync(ctx context.Context, key Partition, all bool, deadline time.Duration) (PartitionState, string) {
	var best PartitionState
	for {
		best = PartitionState{Epoch: -1}
		answers, known := 0, 0
		masters := map[string]string{} // by who names them
		for _, node := range c.Nodes {
			md, err := c.Metadata(ctx, admin, node, AskTimeout)
			if err != nil {
				continue
			}
			answers++
			if p, ok := md[key]; ok {
				known++
				masters[node] = p.Answers
				if p.Answers != "" && (p.Epoch > best.Epoch || p.Epoch == best.Epoch && node == p.Answers) {
					best = p
				}
			}
		}
		why := ""
		switch {
		case answers >= c.First && known == 0:
			why = missing
		case best.Answers == "":
			why = fmt.Sprintf("%s has no leader", key)
		case all && c.Own && c.differ(masters) != "":
			why = fmt.Sprintf("the nodes do not agree on the master of %s: %s", key, c.differ(masters))
		case all && len(best.ISR) < len(best.Replicas):
			why = fmt.Sprintf("%s has %d of %d replicas in sync", key, len(best.ISR), len(best.Replicas))
		}
		if why == "" || c.Clock.Now() >= deadline || c.Clock.Sleep(ctx, 100*time.Millisecond) != nil {
			return best, why
		}
	}
}

// differ words the masters that nodes name, where not all of them name the same one.
func (c *Cluster) differ(masters map[string]string) string {
	var words []string
	same := true
	for _, node := range c.Nodes[:c.First] {
		name := masters[node]
		same = same && name != "" && name == masters[c.Nodes[0]]
		if name == "" {
			name = "none"
		}
		words = append(words, fmt.Sprintf("%s names %s", node, name))
	}
	if same {
		return ""
	}
	return strings.Join(words, ", ")
}

// sendSentinel appends the drain's mark, acknowledged by all, and returns its offset.
// An attempt whose outcome is unknown leaves a mark behind; the next attempt
// writes another one, and the last acknowledged one counts.
func (c *Cluster) sendSentinel(ctx context.Context, index int32, key Partition, deadline time.Duration) (int64, string) {
	why := "no attempt"
	for attempt := int64(1); ; attempt++ {
		state, missing := c.inSync(ctx, key, false, deadline)
		if missing == "" {
			var offset int64
			if offset, why = c.mark(ctx, key, state.Answers, history.MakeValue(index, attempt)); why == "" {
				return offset, ""
			}
		} else {
			why = missing
		}
		if c.Clock.Now() >= deadline || c.Clock.Sleep(ctx, 100*time.Millisecond) != nil {
			return history.NoOffset, fmt.Sprintf("the sentinel of %s was not acknowledged: %s", key, why)
		}
	}
}

// mark sends a sentinel to a node and returns its offset, or why there is none.
func (c *Cluster) mark(ctx context.Context, key Partition, node string, value history.Value) (int64, string) {
	payload := workloads.EncodeSentinel(c.RunID, value, workloads.MinPayload)
	resp, err := c.Transport.RoundTrip(ctx, admin, node, produceRequest(key, payload, (*numbers)(nil).of(0), -1, AskTimeout), AskTimeout+AskTimeout/2)
	p := produced(resp)
	switch {
	case err != nil:
		return history.NoOffset, err.Error()
	case p == nil:
		return history.NoOffset, "malformed response"
	case p.ErrorCode != 0:
		return history.NoOffset, codeName(p.ErrorCode)
	case p.BaseOffset < 0:
		return history.NoOffset, "it was confirmed and is in no log"
	}
	return p.BaseOffset, ""
}

// drainReplica reads one replica's own log up to the sentinel's offset (to its
// end where there is no sentinel).
func (c *Cluster) drainReplica(ctx context.Context, key Partition, node string, sentinel int64, deadline time.Duration) history.Replica {
	rep := history.Replica{Key: key.String(), Node: node, Sentinel: sentinel}
	sum := sha256.New()
	next := int64(0)
	reader := int32(-2) // Kafka's debugging consumer
	if c.Foreign {
		reader = -1
	}
	var line []byte
	for {
		done, why := func() (bool, string) {
			resp, err := c.Transport.RoundTrip(ctx, admin, node, fetchRequest(key, reader, -1, next, drainBytes, 0), AskTimeout+AskTimeout)
			if err != nil {
				return false, err.Error()
			}
			p := fetched(resp)
			switch {
			case p == nil:
				return false, "malformed response"
			case c.Foreign && p.ErrorCode == kerr.OffsetOutOfRange.Code && p.LogStartOffset > next:
				next = p.LogStartOffset // retention took what was before it
				return false, ""
			case p.ErrorCode != 0:
				return false, codeName(p.ErrorCode)
			}
			rep.Start = max(p.LogStartOffset, 0)
			next = max(next, rep.Start)
			records, err := Records(c.RunID, p.RecordBatches, next)
			for _, rec := range records {
				next = rec.Offset + 1
				if sentinel >= 0 && rec.Offset > sentinel {
					continue // behind the mark
				}
				rep.Records = append(rep.Records, rec)
				line = appendDigested(line[:0], rec)
				_, _ = sum.Write(line) // a hash never fails
			}
			if err != nil {
				return true, err.Error()
			}
			if len(records) > 0 && (sentinel < 0 || next <= sentinel) {
				return false, "" // more to read
			}
			return sentinel < 0 || next > sentinel, fmt.Sprintf("%s ends at offset %d on %s, before the sentinel at %d", key, next, node, sentinel)
		}()
		rep.End = next
		if done {
			rep.Complete = sentinel >= 0 && next > sentinel
			if !rep.Complete {
				rep.Reason = why
			}
			break
		}
		if why == "" {
			continue
		}
		rep.Reason = why
		if c.Clock.Now() >= deadline || c.Clock.Sleep(ctx, 100*time.Millisecond) != nil {
			break
		}
	}
	if rep.Complete {
		rep.Reason = ""
	}
	rep.Digest = hex.EncodeToString(sum.Sum(nil)[:16])
	return rep
}

// appendDigested appends what the digest of a log covers of one record.
func appendDigested(b []byte, r history.Record) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Offset))
	b = binary.BigEndian.AppendUint32(b, uint32(r.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Value))
	return append(b, byte(r.Payload))
}
