package kafka

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/workloads"
)

// KgoConfig says where a Kgo finds the brokers.
type KgoConfig struct {
	Brokers []Broker                          // of the cluster's nodes, in their order
	Resolve func(node string) (string, error) // the address at which this host reaches a node
}

// Kgo drives franz-go's client as applications use it: it looks for leaders itself,
// and sends again what was not answered. All attempts at one message are one
// operation, which is indeterminate unless it is certain that no attempt can have been
// written. It is used by one task.
//
// What it changes of the library's defaults is time, so that a run sees an end: a
// request has the cluster's timeout, a message deliveryLimit, and new leaders are
// looked for every kgoMetadataPause at most. With acks=all it numbers its messages
// (KIP-98), as it does by default, and gives one up all the same when its time is over.
type Kgo struct {
	c    *Cluster
	cfg  KgoConfig
	name string

	producer  *kgo.Client
	consumers map[int32]*kgoConsumer // by key
}

// kgoConsumer reads one partition.
type kgoConsumer struct {
	cl   *kgo.Client
	next int64 // offset of what it delivers next; unknownPosition: nobody knows
}

const (
	unknownPosition  = -1
	kgoMetadataPause = 250 * time.Millisecond
)

// NewKgo returns a client without connections.
func NewKgo(c *Cluster, spec workloads.ClientSpec, cfg KgoConfig) *Kgo {
	return &Kgo{c: c, cfg: cfg, name: spec.Name, consumers: map[int32]*kgoConsumer{}}
}

// options are those of every client.
func (k *Kgo) options() []kgo.Opt {
	nodes := map[string]string{}
	var seeds []string
	for i, b := range k.cfg.Brokers {
		at := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		nodes[at] = k.c.Nodes[i]
		seeds = append(seeds, at)
	}
	return []kgo.Opt{
		kgo.SeedBrokers(seeds...), kgo.ClientID(k.name), kgo.MetadataMinAge(kgoMetadataPause),
		kgo.RequestTimeoutOverhead(max(k.c.Timeout, 100*time.Millisecond)), kgo.DialTimeout(k.c.Timeout), kgo.DisableClientMetrics(),
		// What brokers advertise need not be reachable from here under that name.
		kgo.Dialer(func(ctx context.Context, network, at string) (net.Conn, error) {
			if node, ok := nodes[at]; ok {
				var err error
				if at, err = k.cfg.Resolve(node); err != nil {
					return nil, err
				}
			}
			return (&net.Dialer{}).DialContext(ctx, network, at)
		}),
	}
}

func (k *Kgo) produce() (*kgo.Client, error) {
	if k.producer != nil {
		return k.producer, nil
	}
	opts := append(k.options(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProduceRequestTimeout(max(k.c.Timeout, 100*time.Millisecond)), kgo.RecordDeliveryTimeout(deliveryLimit))
	switch k.c.Acks {
	case 0:
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	case 1:
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	default:
		opts = append(opts, kgo.AllowIdempotentProduceCancellation())
	}
	var err error
	k.producer, err = kgo.NewClient(opts...)
	return k.producer, err
}

// consume returns the consumer of a key, at a position.
func (k *Kgo) consume(key int32, from int64, wait time.Duration, most int) (*kgoConsumer, error) {
	p := k.c.Keys[key]
	c := k.consumers[key]
	at := map[string]map[int32]kgo.Offset{p.Topic: {p.Index: kgo.NewOffset().At(from)}}
	switch {
	case c == nil:
		cl, err := kgo.NewClient(append(k.options(),
			kgo.ConsumePartitions(at), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxWait(max(wait, 10*time.Millisecond)), kgo.FetchMaxBytes(int32(most)),
			kgo.FetchMaxPartitionBytes(int32(most)))...)
		if err != nil {
			return nil, err
		}
		c = &kgoConsumer{cl: cl}
		k.consumers[key] = c
	case c.next != from:
		c.cl.RemoveConsumePartitions(map[string][]int32{p.Topic: {p.Index}})
		c.cl.AddConsumePartitions(at)
	}
	c.next = from
	return c, nil
}

// Route returns history.NoNode: which node the client sends to, and how often, is its
// own affair.
func (*Kgo) Route(context.Context, *workloads.Op) int16 { return history.NoNode }

// Epoch returns -1: the client keeps epochs to itself.
func (*Kgo) Epoch(int32) int32 { return -1 }

// Do executes an operation, with as many requests as the client thinks fit.
func (k *Kgo) Do(ctx context.Context, op *workloads.Op) workloads.Result {
	res := workloads.Result{Op: *op, Node: history.NoNode, Offset: history.NoOffset, High: history.NoOffset}
	if op.Kind == history.Send {
		k.send(ctx, op, &res)
	} else {
		k.poll(ctx, op, &res)
	}
	res.At = k.c.Clock.Now()
	return res
}

func (k *Kgo) send(ctx context.Context, op *workloads.Op, res *workloads.Result) {
	cl, err := k.produce()
	if err != nil {
		res.Outcome, res.Code = history.Failed, err.Error()
		return
	}
	p := k.c.Keys[op.Key]
	within, cancel := context.WithTimeout(ctx, deliveryLimit+k.c.Timeout)
	defer cancel()
	r, err := cl.ProduceSync(within, &kgo.Record{Topic: p.Topic, Partition: p.Index, Value: workloads.Encode(k.c.RunID, op.Value, op.Size)}).First()
	switch {
	case err == nil:
		res.Outcome = history.OK
		if k.c.Acks != 0 && r.Offset >= 0 {
			res.Offset = r.Offset
		}
	case neverWritten(err):
		res.Outcome, res.Code = history.Failed, kgoCode(err)
	default:
		res.Outcome, res.Code = history.Indeterminate, kgoCode(err)
	}
}

// neverWritten reports whether an error says that no attempt can have been written:
// of those that end a message at once, before or at its first attempt.
func neverWritten(err error) bool {
	for _, e := range []error{kerr.MessageTooLarge, kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.InvalidRequiredAcks, kgo.ErrMaxBuffered} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// kgoCode names an error, by Kafka's name where it has one.
func kgoCode(err error) string {
	var e *kerr.Error
	switch {
	case errors.As(err, &e):
		return e.Message
	case errors.Is(err, kgo.ErrRecordTimeout), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return err.Error()
}

// poll waits for records. The client does not tell an answer without records from no
// answer: nothing in time is a poll that did not happen.
func (k *Kgo) poll(ctx context.Context, op *workloads.Op, res *workloads.Result) {
	c, err := k.consume(op.Key, op.From, op.Wait, op.Max)
	if err != nil {
		res.Outcome, res.Code = history.Failed, err.Error()
		return
	}
	within, cancel := context.WithTimeout(ctx, op.Wait+k.c.Timeout)
	defer cancel()
	res.Outcome, res.Code = history.Failed, "nothing delivered in time"
	c.cl.PollFetches(within).EachPartition(func(f kgo.FetchTopicPartition) {
		if f.Topic != k.c.Keys[op.Key].Topic {
			return // the end of ctx comes as a fetch without topic
		}
		if f.Err != nil {
			res.Code, c.next = kgoCode(f.Err), unknownPosition
			if errors.Is(f.Err, kerr.OffsetOutOfRange) {
				res.OutOfRange, res.Start, res.High = true, max(f.LogStartOffset, 0), f.HighWatermark
			}
			return
		}
		res.High = f.HighWatermark
		for _, r := range f.Records {
			v, state := workloads.Decode(k.c.RunID, r.Value)
			res.Records = append(res.Records, history.Record{Offset: r.Offset, Value: v, Epoch: r.LeaderEpoch, Payload: state})
			c.next = r.Offset + 1
		}
		if len(f.Records) > 0 {
			res.Outcome, res.Code = history.OK, ""
		}
	})
}

// Close closes the connections. It does not wait for what is under way.
func (k *Kgo) Close() {
	if k.producer != nil {
		k.producer.Close()
	}
	for _, c := range k.consumers {
		c.cl.Close()
	}
}
