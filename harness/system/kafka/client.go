package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

// Partition is one key of a workload.
type Partition struct {
	Topic string
	Index int32
}

// String returns "topic-partition".
func (p Partition) String() string { return fmt.Sprintf("%s-%d", p.Topic, p.Index) }

// Cluster is what all clients of one run share.
type Cluster struct {
	RunID     string
	Nodes     []string // broker id i+1 is Nodes[i], unless IDs says otherwise
	IDs       []int32  // the broker ids of Nodes; empty: 1, 2, 3, …
	First     int      // so many of Nodes belong to the cluster from its begin
	Keys      []Partition
	Transport Transport
	Clock     Clock
	Acks      int16         // 0, 1, -1
	Timeout   time.Duration // of one request
	// Foreign is true for systems other than the reference broker: their
	// NOT_LEADER_OR_FOLLOWER may come after the append and is indeterminate, they serve
	// no reads of a single replica's log, and the controller that metadata names is any
	// broker (Kafka without ZooKeeper).
	Foreign bool
	// OneCopy says that all replicas of a key are the same log, read through its leader.
	OneCopy bool
	// Own says that nodes go by their own views: each names itself leader, and the
	// first in-sync replica that it names answers.
	Own bool
	// Creates says that the clients' requests for metadata create what they ask for.
	Creates bool
	// Local says that offsets belong to a node, and that every node answers for its own log.
	Local bool
}

// NodeOf returns the name of a broker id, "" where it is unknown.
func (c *Cluster) NodeOf(id int32) string {
	if len(c.IDs) > 0 {
		if i := slices.Index(c.IDs, id); i >= 0 {
			return c.Nodes[i]
		}
		return ""
	}
	if id < 1 || int(id) > len(c.Nodes) {
		return ""
	}
	return c.Nodes[id-1]
}

// leader is what a client believes about a partition.
type leader struct {
	node  int // index into Nodes, -1: unknown
	epoch int32
}

// Client is one precise client. It is used by one task.
type Client struct {
	c       *Cluster
	name    string
	pinned  int  // index of the only node whose metadata it believes, or -1
	loyal   int  // index of the only node that it sends to, or -1
	unaware bool // a loyal client gives no leader epoch this time
	numbers *numbers
	leaders []leader
	stale   bool
	next    int           // node to ask for metadata next
	askedAt time.Duration // last metadata request
	asked   bool
}

// metadataPause is the least time between two metadata requests of a client,
// and metadataAge the time after which it looks again unasked.
const (
	metadataPause = 100 * time.Millisecond
	metadataAge   = 2 * time.Second
)

// NewClient returns a client that knows nothing yet.
func NewClient(c *Cluster, spec workloads.ClientSpec) *Client {
	cl := &Client{c: c, name: spec.Name, pinned: spec.Pinned, loyal: -1, leaders: make([]leader, len(c.Keys)), stale: true, next: max(spec.Pinned, 0)}
	if spec.Loyal {
		cl.loyal, cl.pinned = spec.Pinned, -1
	}
	if spec.Idempotent {
		cl.numbers = &numbers{}
	}
	for i := range cl.leaders {
		cl.leaders[i] = leader{-1, -1}
	}
	return cl
}

// Close closes the client's connections.
func (cl *Client) Close() { cl.c.Transport.Close(cl.name) }

// Route looks up the leader of an operation's partition, asking for metadata
// where that is needed, and returns the node that Do will send it to
// (history.NoNode: none is known). It is not part of the operation.
func (cl *Client) Route(ctx context.Context, op *workloads.Op) int16 {
	l := &cl.leaders[op.Key]
	now := cl.c.Clock.Now()
	if cl.stale || l.node < 0 || now-cl.askedAt > metadataAge {
		if !cl.asked || now-cl.askedAt >= metadataPause {
			cl.refresh(ctx)
		}
	}
	if cl.loyal >= 0 {
		cl.unaware = !cl.unaware
		return int16(cl.loyal)
	}
	if l.node < 0 {
		return history.NoNode
	}
	return int16(l.node)
}

// refresh asks one node for metadata: the pinned one, or each in turn.
func (cl *Client) refresh(ctx context.Context) {
	cl.asked, cl.askedAt = true, cl.c.Clock.Now()
	i := cl.pinned
	if i < 0 {
		i = cl.next
		cl.next = (cl.next + 1) % cl.c.First
	}
	md, err := cl.c.Metadata(ctx, cl.name, cl.c.Nodes[i], cl.c.Timeout/2)
	if err != nil {
		return
	}
	cl.stale = false
	for k, key := range cl.c.Keys {
		p, ok := md[key]
		if !ok {
			continue
		}
		l := &cl.leaders[k]
		// A client that is not pinned never goes back to an older epoch, whoever says so.
		if cl.pinned < 0 && p.Epoch < l.epoch {
			cl.stale = true
			continue
		}
		l.epoch, l.node = p.Epoch, slices.Index(cl.c.Nodes, p.Leader)
	}
}

// Do executes an operation on the node that Route named.
func (cl *Client) Do(ctx context.Context, op *workloads.Op) workloads.Result {
	res := workloads.Result{Op: *op, Node: history.NoNode, Offset: history.NoOffset, High: history.NoOffset}
	switch {
	case op.Kind == history.Send && cl.numbers != nil && cl.c.Acks != 0:
		cl.sendNumbered(ctx, op, &res)
	case cl.loyal < 0 && cl.leaders[op.Key].node < 0:
		// Nothing was sent to anybody.
		res.Outcome, res.Code = history.Failed, "no leader known"
	default:
		cl.request(ctx, op, &res)
	}
	res.At = cl.c.Clock.Now()
	if res.Outcome != history.OK {
		cl.stale = true
	}
	return res
}

// request is one request to one node.
func (cl *Client) request(ctx context.Context, op *workloads.Op, res *workloads.Result) {
	i := cl.leaders[op.Key].node
	if cl.loyal >= 0 {
		i = cl.loyal
	}
	res.Node, res.Code = int16(i), ""
	if op.Kind == history.Send {
		cl.send(ctx, op, cl.c.Nodes[i], res)
	} else {
		cl.poll(ctx, op, cl.c.Nodes[i], cl.Epoch(op.Key), res)
	}
}

// Epoch is the leader epoch that the client believes in for a key, and gives; -1
// where it knows or gives none.
func (cl *Client) Epoch(key int32) int32 {
	if cl.unaware {
		return -1
	}
	return cl.leaders[key].epoch
}

func (cl *Client) send(ctx context.Context, op *workloads.Op, node string, res *workloads.Result) {
	key := cl.c.Keys[op.Key]
	req := produceRequest(key, workloads.Encode(cl.c.RunID, op.Value, op.Size), cl.numbers.of(op.Key), cl.c.Acks, cl.c.Timeout)
	resp, err := cl.c.Transport.RoundTrip(ctx, cl.name, node, req, cl.c.Timeout)
	if err != nil {
		res.Outcome, res.Code = unanswered(err)
		return
	}
	if cl.c.Acks == 0 {
		res.Outcome = history.OK
		return
	}
	p := produced(resp)
	if p == nil {
		res.Outcome, res.Code = history.Indeterminate, "malformed response"
		return
	}
	switch {
	case p.ErrorCode == 0:
		res.Outcome, res.Offset = history.OK, p.BaseOffset
	case p.ErrorCode == kerr.DuplicateSequenceNumber.Code:
		res.Outcome = history.OK
	default:
		res.Code = codeName(p.ErrorCode)
		res.Outcome = history.Indeterminate
		if cl.c.failedForCertain(p.ErrorCode) {
			res.Outcome = history.Failed
		}
	}
}

// failedForCertain is the whitelist of CHECKS.md: after these answers the write
// did not and will not happen.
func (c *Cluster) failedForCertain(code int16) bool {
	switch code {
	case kerr.NotEnoughReplicas.Code, kerr.InvalidRecord.Code, kerr.MessageTooLarge.Code, kerr.UnknownTopicOrPartition.Code,
		kerr.TopicAuthorizationFailed.Code, kerr.ClusterAuthorizationFailed.Code, kerr.InvalidRequiredAcks.Code:
		return true
	case kerr.NotLeaderForPartition.Code:
		return !c.Foreign
	}
	return false
}

// unanswered is the outcome of an operation whose request got no answer.
func unanswered(err error) (history.Outcome, string) {
	var e *Error
	if errors.As(err, &e) {
		if !e.Sent {
			return history.Failed, e.Reason + ", nothing sent"
		}
		return history.Indeterminate, e.Reason
	}
	return history.Indeterminate, err.Error()
}

func (cl *Client) poll(ctx context.Context, op *workloads.Op, node string, epoch int32, res *workloads.Result) {
	key := cl.c.Keys[op.Key]
	resp, err := cl.c.Transport.RoundTrip(ctx, cl.name, node, fetchRequest(key, -1, epoch, op.From, op.Max, op.Wait), cl.c.Timeout+op.Wait)
	if err != nil {
		res.Outcome, res.Code = unanswered(err)
		return
	}
	p := fetched(resp)
	switch {
	case p == nil:
		res.Outcome, res.Code = history.Indeterminate, "malformed response"
	case p.ErrorCode != 0:
		// A read changes nothing: whatever the answer, it certainly did not happen.
		res.Outcome, res.Code = history.Failed, codeName(p.ErrorCode)
		if p.ErrorCode == kerr.OffsetOutOfRange.Code {
			res.OutOfRange, res.Start, res.High = true, max(p.LogStartOffset, 0), p.HighWatermark
		}
	default:
		records, err := Records(cl.c.RunID, p.RecordBatches, op.From)
		if err != nil {
			// What was decoded before the damage was delivered; the damage itself shows
			// as an altered payload.
			res.Code = err.Error()
		}
		res.Outcome, res.Records, res.High = history.OK, records, p.HighWatermark
	}
}

func codeName(code int16) string {
	if e := kerr.TypedErrorForCode(code); e != nil {
		return e.Message
	}
	return fmt.Sprintf("error code %d", code)
}

// PartitionState is a partition as a node's metadata shows it.
type PartitionState struct {
	Leader   string // to whom clients send; "" where there is none
	Answers  string // who answers: Leader, or behind it the master; "" where there is none
	Epoch    int32
	Replicas []string
	ISR      []string
}

// Metadata asks one node for the state of all keys. A key that the node does not
// know is absent.
func (c *Cluster) Metadata(ctx context.Context, client, node string, timeout time.Duration) (map[Partition]PartitionState, error) {
	md, _, err := c.metadata(ctx, client, node, timeout)
	return md, err
}

func (c *Cluster) metadata(ctx context.Context, client, node string, timeout time.Duration) (map[Partition]PartitionState, *kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(9)
	req.AllowAutoTopicCreation = c.Creates && client != admin
	var topics []string
	for _, k := range c.Keys {
		if !slices.Contains(topics, k.Topic) {
			topics = append(topics, k.Topic)
			t := kmsg.NewMetadataRequestTopic()
			t.Topic = kmsg.StringPtr(k.Topic)
			req.Topics = append(req.Topics, t)
		}
	}
	resp, err := c.Transport.RoundTrip(ctx, client, node, req, timeout)
	if err != nil {
		return nil, nil, err
	}
	md, ok := resp.(*kmsg.MetadataResponse)
	if !ok {
		return nil, nil, fmt.Errorf("metadata of %s: unexpected response %T", node, resp)
	}
	out := map[Partition]PartitionState{}
	for _, t := range md.Topics {
		if t.Topic == nil || t.ErrorCode != 0 {
			continue
		}
		for _, p := range t.Partitions {
			st := PartitionState{Leader: c.NodeOf(p.Leader), Epoch: p.LeaderEpoch, Replicas: c.names(p.Replicas), ISR: c.names(p.ISR)}
			st.Answers = st.Leader
			if c.Own {
				st.Answers = ""
				if len(st.ISR) > 0 {
					st.Answers = st.ISR[0]
				}
			}
			out[Partition{*t.Topic, p.Partition}] = st
		}
	}
	return out, md, nil
}

func (c *Cluster) names(ids []int32) []string {
	var names []string
	for _, id := range ids {
		names = append(names, c.NodeOf(id))
	}
	return names
}

// KeyNames returns the keys as "topic-partition".
func (c *Cluster) KeyNames() []string {
	names := make([]string, len(c.Keys))
	for i, k := range c.Keys {
		names[i] = k.String()
	}
	return names
}

// ParseKey is the reverse of Partition.String.
func (c *Cluster) ParseKey(s string) (Partition, error) {
	for _, k := range c.Keys {
		if k.String() == s {
			return k, nil
		}
	}
	return Partition{}, fmt.Errorf("unknown partition %q; known: %s", s, strings.Join(c.KeyNames(), ", "))
}
