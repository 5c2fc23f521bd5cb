package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/workloads"
)

// consumerName is the durable consumer of a stream that is a queue.
const consumerName = "workers"

// subject is that of a stream.
func subject(stream string) string { return "faultline." + stream }

// The API's subject for one message of a stream, and what settles a delivery, as the
// protocol has them (docs.nats.io/reference/reference-protocols/nats_api_reference).
func getSubject(stream string) string { return "$JS.API.STREAM.MSG.GET." + stream }

var settlements = map[history.Kind][]byte{
	history.Accept: []byte("+ACK"), history.Release: []byte("-NAK"), history.Reject: []byte("+TERM"),
}

// apiError is how JetStream answers that something failed.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }

// Error codes of the API that are told apart: errors.json of the server.
const (
	streamNotFound  = 10059
	messageNotFound = 10037
)

// client is one precise client: each operation is one message to one node, and its
// answer, on a connection that does not come back by itself.
type client struct {
	c      *cluster
	spec   workloads.ClientSpec
	node   int // index of the node that it uses
	nc     *nats.Conn
	held   map[history.Value]string // where to settle what was delivered last: its reply subject
	silent bool                     // something was not answered, and may happen late
}

var _ system.Client = (*client)(nil)

// Route implements system.Client: the node that the client is pinned to, or the one
// that it uses until an operation there is not ok. Every node passes requests on to
// whoever leads.
func (cl *client) Route(context.Context, *workloads.Op) int16 { return int16(cl.node) }

// Epoch implements system.Client.
func (cl *client) Epoch(int32) int32 { return -1 }

// Close implements system.Client.
func (cl *client) Close() {
	if cl.nc != nil {
		cl.nc.Close()
		cl.nc = nil
	}
}

// Do implements system.Client.
func (cl *client) Do(ctx context.Context, op *workloads.Op) workloads.Result {
	res := workloads.Result{Op: *op, Node: int16(cl.node), Offset: history.NoOffset, High: history.NoOffset}
	deadline := cl.c.clock.Now() + cl.c.v.duration(optTimeout)
	for {
		res.Node, res.Code = int16(cl.node), ""
		cl.once(ctx, op, &res, deadline-cl.c.clock.Now())
		res.At = cl.c.clock.Now()
		if res.Outcome == history.OK {
			return res
		}
		cl.silent = cl.silent || res.Outcome == history.Indeterminate && op.Kind != history.Leave
		if cl.spec.Pinned < 0 {
			cl.Close()
			cl.node = (cl.node + 1) % len(cl.c.nodes)
		}
		if !cl.spec.Idempotent || op.Kind != history.Send || cl.c.clock.Sleep(ctx, retryPause) != nil || res.At >= deadline {
			return res
		}
	}
}

// retryPause is between two attempts of an idempotent producer.
const retryPause = 50 * time.Millisecond

// once is one request to one node.
func (cl *client) once(ctx context.Context, op *workloads.Op, res *workloads.Result, timeout time.Duration) {
	if op.Kind == history.Leave {
		cl.leave(res)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, timeout+op.Wait)
	defer cancel()
	if cl.nc == nil || cl.nc.IsClosed() {
		nc, err := cl.c.connect(cl.c.nodes[cl.node], cl.spec.Name, timeout)
		if err != nil {
			// No byte of the operation was written.
			res.Outcome, res.Code = history.Failed, "no connection, nothing sent: "+err.Error()
			return
		}
		cl.nc = nc
	}
	switch op.Kind {
	case history.Send:
		cl.send(ctx, op, res)
	case history.Poll:
		cl.poll(ctx, op, res)
	case history.Receive:
		cl.receive(ctx, op, res)
	case history.Accept, history.Release, history.Reject:
		cl.settle(ctx, op, res)
	default:
		res.Outcome, res.Code = history.Failed, "system nats has no operation "+op.Kind.String()
	}
}

// unanswered fills in the outcome of a request without a usable answer.
func (cl *client) unanswered(err error, res *workloads.Result) {
	res.Outcome = history.Indeterminate
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		res.Code = "timeout"
	case errors.Is(err, context.Canceled):
		res.Code = "cancelled"
	default:
		res.Code = err.Error()
	}
	// A late answer must not meet the next request, and a dead connection may take long
	// to be seen as one.
	cl.Close()
}

// noResponders: the node knew nobody to pass a request on to, and dropped it.
const noResponders = "no responders"

func (cl *client) send(ctx context.Context, op *workloads.Op, res *workloads.Result) {
	m := nats.NewMsg(subject(cl.c.keys[op.Key]))
	m.Data = workloads.Encode(cl.c.runID, op.Value, op.Size)
	if cl.spec.Idempotent {
		m.Header.Set(nats.MsgIdHdr, op.Value.String())
	}
	reply, err := cl.nc.RequestMsgWithContext(ctx, m)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		// In an idempotent producer an attempt before this one may have arrived.
		res.Code = noResponders
		if res.Outcome != history.Indeterminate {
			res.Outcome = history.Failed
		}
		return
	case err != nil:
		cl.unanswered(err, res)
		return
	}
	var ack struct {
		Error     *apiError `json:"error"`
		Stream    string    `json:"stream"`
		Seq       uint64    `json:"seq"`
		Duplicate bool      `json:"duplicate"`
	}
	switch err := json.Unmarshal(reply.Data, &ack); {
	case err != nil || ack.Error == nil && (ack.Seq == 0 || ack.Stream != cl.c.keys[op.Key]):
		res.Outcome, res.Code = history.Indeterminate, "malformed acknowledgement"
	case ack.Error != nil:
		res.Outcome, res.Code = history.Indeterminate, ack.Error.Error()
	default:
		res.Outcome, res.Offset = history.OK, int64(ack.Seq)-1
	}
}

// stored is a message of a stream, as STREAM.MSG.GET answers.
type stored struct {
	Error   *apiError `json:"error"`
	Message *struct {
		Seq  uint64 `json:"seq"`
		Data []byte `json:"data"`
	} `json:"message"`
}

// poll reads the next message of a stream from an offset on. Offsets are sequence
// numbers, which begin with 1, less one.
func (cl *client) poll(ctx context.Context, op *workloads.Op, res *workloads.Result) {
	req, err := json.Marshal(map[string]any{"seq": op.From + 1, "next_by_subj": ">"})
	if err != nil {
		res.Outcome, res.Code = history.Failed, err.Error()
		return
	}
	reply, err := cl.nc.RequestWithContext(ctx, getSubject(cl.c.keys[op.Key]), req)
	if err != nil {
		cl.unanswered(err, res)
		res.Outcome = history.Failed // a read changes nothing
		return
	}
	var got stored
	switch err := json.Unmarshal(reply.Data, &got); {
	case err != nil:
		res.Outcome, res.Code = history.Failed, "malformed answer"
	case got.Error != nil && got.Error.ErrCode == messageNotFound:
		res.Outcome = history.OK // nothing is there yet
	case got.Error != nil:
		res.Outcome, res.Code = history.Failed, got.Error.Error()
	case got.Message == nil:
		res.Outcome, res.Code = history.Failed, "malformed answer"
	default:
		v, state := workloads.Decode(cl.c.runID, got.Message.Data)
		res.Outcome = history.OK
		res.Records = []history.Record{{Offset: int64(got.Message.Seq) - 1, Value: v, Epoch: -1, Payload: state}}
	}
}

// receive asks the consumer for a batch. What was delivered before an answer that
// something is wrong was delivered.
func (cl *client) receive(ctx context.Context, op *workloads.Op, res *workloads.Result) {
	most := max(op.Max, 1)
	res.Lock = cl.c.v.duration(optAckWait)
	sub, err := fetch(cl.nc, cl.c.keys[op.Key], consumerName, most, op.Wait)
	if err != nil {
		cl.unanswered(err, res)
		return
	}
	defer func() { _ = sub.Unsubscribe() }() // its connection may be gone
	for len(res.Records) < most {
		m, err := sub.NextMsgWithContext(ctx)
		if errors.Is(err, nats.ErrNoResponders) {
			res.Outcome, res.Code = history.Failed, noResponders
			return
		}
		if err != nil {
			cl.unanswered(err, res)
			return
		}
		if status := m.Header.Get("Status"); status != "" {
			cl.status(status, m.Header.Get("Description"), res)
			if res.Outcome == 0 {
				continue
			}
			return
		}
		rec, err := cl.c.delivered(m)
		if err != nil {
			res.Outcome, res.Code = history.Indeterminate, err.Error()
			return
		}
		cl.held[rec.Value] = m.Reply
		res.Records = append(res.Records, rec)
	}
	res.Outcome = history.OK
}

// fetch asks a consumer for messages and returns where they come, until the consumer
// says with a status that there are no more, or that the time is over.
func fetch(nc *nats.Conn, stream, consumer string, most int, wait time.Duration) (*nats.Subscription, error) {
	req, err := json.Marshal(map[string]any{"batch": most, "expires": wait.Nanoseconds(), "no_wait": wait <= 0})
	if err != nil {
		return nil, err
	}
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+stream+"."+consumer, inbox, req); err != nil {
		return nil, errors.Join(err, sub.Unsubscribe())
	}
	return sub, nil
}

// status takes what a consumer answers instead of messages. It leaves the outcome open
// where more may come.
func (cl *client) status(status, text string, res *workloads.Result) {
	switch {
	case status == "404" || status == "408":
		// No messages, or no more of them before the request expired.
		res.Outcome = history.OK
	case status == "100":
		// A sign of life.
	case len(res.Records) > 0:
		res.Outcome, res.Code = history.OK, status+" "+text
	case status == "503":
		res.Outcome, res.Code = history.Failed, noResponders
	default:
		res.Outcome, res.Code = history.Indeterminate, status+" "+text
	}
}

// delivered decodes a message that a consumer delivered.
func (c *cluster) delivered(m *nats.Msg) (history.Record, error) {
	meta, err := m.Metadata()
	if err != nil {
		return history.Record{}, fmt.Errorf("a delivery that is none: %w", err)
	}
	v, state := workloads.Decode(c.runID, m.Data)
	return history.Record{Offset: int64(meta.Sequence.Stream) - 1, Value: v, Epoch: -1, Payload: state, Delivery: int32(min(meta.NumDelivered, 1<<30))}, nil
}

// settle answers a delivery and waits for the consumer's confirmation (a double
// acknowledgement).
func (cl *client) settle(ctx context.Context, op *workloads.Op, res *workloads.Result) {
	reply, ok := cl.held[op.Value]
	if !ok {
		res.Outcome, res.Code = history.Failed, "nothing to settle: "+op.Value.String()+" is not held"
		return
	}
	if _, err := cl.nc.RequestWithContext(ctx, reply, settlements[op.Kind]); err != nil {
		cl.unanswered(err, res)
		return
	}
	res.Outcome = history.OK
	delete(cl.held, op.Value)
}

// leave ends the client's session. JetStream knows none: what was delivered and not
// settled goes back when its ack_wait is over. That nothing of this session happens any
// more is certain only where all of it was answered.
func (cl *client) leave(res *workloads.Result) {
	res.Outcome = history.OK
	if cl.silent {
		res.Outcome, res.Code = history.Indeterminate, "something was not answered"
	}
	cl.Close()
	clear(cl.held)
}

// connect opens a connection to one node, which does not come back by itself and knows
// of no other node.
func (c *cluster) connect(node, name string, timeout time.Duration) (*nats.Conn, error) {
	at, err := c.resolve(node)
	if err != nil {
		return nil, err
	}
	return nats.Connect("nats://"+at, nats.Name(c.runID+" "+name), nats.NoReconnect(), nats.IgnoreDiscoveredServers(),
		nats.Timeout(max(timeout, time.Millisecond)), nats.PingInterval(c.v.duration(optPing)), nats.MaxPingsOutstanding(2), nats.DontRandomize())
}

// request asks JetStream's API through one node, over a connection of its own; in is
// sent as it is where it is bytes and as JSON otherwise, and out takes the answer.
func (c *cluster) request(ctx context.Context, node, subject string, in, out any, timeout time.Duration) error {
	nc, err := c.connect(node, harnessName, timeout)
	if err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	defer nc.Close()
	if err := call(ctx, nc, subject, in, out, timeout); err != nil {
		return fmt.Errorf("%s through %s: %w", subject, node, err)
	}
	return nil
}

// harnessName is the name under which the harness itself asks.
const harnessName = "harness"

func call(ctx context.Context, nc *nats.Conn, subject string, in, out any, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, ok := in.([]byte)
	if !ok && in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	m, err := nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return err
	}
	var failed struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return err
	}
	if failed.Error != nil {
		return failed.Error
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(m.Data, out)
}
