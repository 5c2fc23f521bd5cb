package jepsen

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"olympos.io/encoding/edn"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/checker/linear"
)

// ReadKafka reads a history of jepsen.tests.kafka as one that checkers can judge.
// It has what Jepsen recorded and no more: no drain, no replicas, no faults. Its
// contract is empty: the caller sets what the system promises.
//
//   - Each process is a client; each :send and each key of a :poll is an operation,
//     from the call to the end of what it was a part of, in a process of its own where
//     these would overlap.
//   - Values are numbered anew by their senders, unless they are those of an export of
//     this project. A value that was polled and never sent to that key belongs to the
//     client "nobody".
//   - An :info send is indeterminate. A :poll that is not :ok says nothing, nor does one
//     that found nothing: it names no key.
//   - After an :assign or a :crash a consumer begins anew; under a :subscribe it may at
//     any poll, because it may be given other partitions.
//
// Anything else is refused; an error names the line.
func ReadKafka(r io.Reader) (*history.History, error) {
	all, err := operations(r)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b operation) int { return cmp.Compare(a.from, b.from) })
	im := newImporter(all, "log")
	if err := im.number(all, sends); err != nil {
		return nil, err
	}
	for i := range all {
		if err := im.kafka(&all[i]); err != nil {
			return nil, all[i].error(err)
		}
	}
	return im.finish(), nil
}

// ReadQueue reads a history of Jepsen's queue workloads as one that checkers can
// judge: :enqueue sends, :dequeue receives, and :drain is a receive of each of its
// values, each in a process of its own. A delivery consumes its message. For the rest it
// does as ReadKafka.
func ReadQueue(r io.Reader) (*history.History, error) {
	all, err := operations(r)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b operation) int { return cmp.Compare(a.from, b.from) })
	im := newImporter(all, "queue")
	const key = "queue"
	im.key(key)
	im.h.Header.Queues = []history.Queue{{Key: key}}
	if err := im.number(all, func(o *operation) ([]sending, error) {
		if o.call.F != "enqueue" {
			return nil, nil
		}
		return []sending{{sent{key, text(o.call.Value)}, o.call.Value, o}}, nil
	}); err != nil {
		return nil, err
	}
	for i := range all {
		if err := im.queue(&all[i], key); err != nil {
			return nil, all[i].error(err)
		}
	}
	return im.finish(), nil
}

// queue adds an operation on a queue.
func (im *importer) queue(o *operation, key string) error {
	op := history.Op{Kind: history.Receive, Offset: history.NoOffset}
	var taken []any
	switch o.call.F {
	case "enqueue":
		op.Kind, op.Value, op.Acked = history.Send, im.values[sent{key, text(o.call.Value)}], true
		im.add(im.client(o.process, "producer"), o, true, op)
		return nil
	case "dequeue":
		if o.done != nil && o.done.Value != nil {
			taken = []any{o.done.Value}
		}
	case "drain":
		var vector bool
		if o.done != nil {
			taken, vector = o.done.Value.([]any)
		}
		if !vector && !o.failed {
			return fmt.Errorf("a :drain ends with the vector of all that it dequeued, or what it took is not known")
		}
		if len(taken) == 0 {
			return nil
		}
	default:
		return fmt.Errorf("%s is no operation on a queue: :enqueue, :dequeue and :drain are known", o.call.F)
	}
	c := im.client(o.process, "consumer")
	if len(taken) == 0 {
		im.add(c, o, true, op)
	}
	for i, v := range taken {
		record := history.Record{Offset: history.NoOffset, Epoch: -1}
		if record.Payload = payload(v); record.Payload == history.Good {
			record.Value = im.value(key, v)
		}
		op.Records = []history.Record{record}
		im.add(c, o, i == 0, op)
	}
	return nil
}

// importer builds a history.
type importer struct {
	h       *history.History
	keys    map[string]int32
	nodes   map[string]int16
	clients map[int64]*client // by process
	values  map[sent]history.Value
	fresh   int64 // the next process to be given
	shift   int64 // of times, so that none is negative
	nobody  int32 // the client of what nobody sent; -1: there is none
	unsent  int64 // values of nobody
}

// sent is a value, told by its text, and the key that it was sent to.
type sent struct{ key, value string }

// client is one process of Jepsen's.
type client struct {
	index      int32
	process    int64 // of its next operation
	values     int64
	begun      int           // how often its consumer began anew
	polled     map[int32]int // by key: begun as it was at the last poll
	subscribed bool
}

func newImporter(all []operation, workload string) *importer {
	im := &importer{
		h:    &history.History{Header: history.Header{Version: history.Version, System: "jepsen", Workload: workload}, Closed: true},
		keys: map[string]int32{}, nodes: map[string]int16{}, clients: map[int64]*client{}, values: map[sent]history.Value{}, nobody: -1,
	}
	for i := range all {
		im.fresh = max(im.fresh, all[i].process+1)
		im.shift = max(im.shift, -all[i].from)
	}
	return im
}

func (im *importer) key(name string) int32 {
	k, ok := im.keys[name]
	if !ok {
		k = int32(len(im.keys))
		im.keys[name] = k
		im.h.Header.Keys = append(im.h.Header.Keys, name)
	}
	return k
}

func (im *importer) node(of *operation) int16 {
	name, ok := of.call.Node.(string)
	if !ok {
		return history.NoNode
	}
	n, ok := im.nodes[name]
	if !ok {
		if len(im.nodes) == math.MaxInt16 {
			return history.NoNode
		}
		n = int16(len(im.nodes))
		im.nodes[name] = n
		im.h.Header.Nodes = append(im.h.Header.Nodes, name)
	}
	return n
}

func (im *importer) newClient(name, role string) int32 {
	im.h.Header.Clients = append(im.h.Header.Clients, history.Client{Name: name, Role: role})
	return int32(len(im.h.Header.Clients) - 1)
}

func (im *importer) client(process int64, role string) *client {
	c := im.clients[process]
	if c == nil {
		c = &client{index: im.newClient(fmt.Sprintf("process %d", process), role), process: process, polled: map[int32]int{}}
		im.clients[process] = c
	}
	return c
}

// add records an operation as part of another. Of several parts each but the first
// has a process of its own.
func (im *importer) add(c *client, of *operation, first bool, op history.Op) {
	op.Client, op.Process, op.Node = c.index, c.process, im.node(of)
	if !first {
		op.Process = im.fresh
		im.fresh++
	}
	op.Call, op.Return = of.from+im.shift, history.Infinity
	if of.until != linear.Never {
		op.Return = of.until + im.shift
	}
	switch {
	case of.failed:
		op.Outcome = history.Failed
	case of.done != nil:
		op.Outcome = history.OK
	default:
		op.Outcome = history.Indeterminate
		if first {
			c.process = im.fresh
			im.fresh++
		}
	}
	if op.Outcome != history.OK && of.end != nil && of.end.Error != nil {
		op.Code = fmt.Sprint(of.end.Error)
	}
	op.High, op.Epoch = history.NoOffset, -1
	im.h.Ops = append(im.h.Ops, op)
}

// finish numbers the operations by their calls.
func (im *importer) finish() *history.History {
	h := im.h
	slices.SortStableFunc(h.Ops, func(a, b history.Op) int { return cmp.Compare(a.Call, b.Call) })
	for i := range h.Ops {
		h.Ops[i].ID = int64(i)
	}
	return h
}

// sending is a value that was sent, and by which operation.
type sending struct {
	sent
	value any
	of    *operation
}

// sends are the values that an operation of jepsen.tests.kafka sends.
func sends(o *operation) ([]sending, error) {
	if o.call.F != "send" && o.call.F != "txn" {
		return nil, nil
	}
	parts, vector := o.call.Value.([]any)
	if !vector {
		return nil, fmt.Errorf("the value %v is no vector of :send and :poll", o.call.Value)
	}
	var all []sending
	for _, each := range parts {
		part, _ := each.([]any)
		if len(part) != 3 || part[0] != edn.Keyword("send") {
			continue // whatever else it is, it is looked at later
		}
		value := part[2]
		if pair, is := value.([]any); is && len(pair) == 2 {
			value = pair[1]
		}
		key, err := keyOf(part[1])
		if err != nil {
			return nil, err
		}
		all = append(all, sending{sent{key, text(value)}, value, o})
	}
	return all, nil
}

// number gives a Value to everything that is sent.
func (im *importer) number(all []operation, sends func(*operation) ([]sending, error)) error {
	var found []sending
	seen := map[sent]int{}
	values := map[history.Value]bool{}
	ours := false // they are Values of this project
	alike := true // they may be
	for i := range all {
		o := &all[i]
		these, err := sends(o)
		if err != nil {
			return o.error(err)
		}
		for _, s := range these {
			if line := seen[s.sent]; line != 0 {
				return o.error(fmt.Errorf("the value %v was sent to %s before (line %d): values must be unique", s.value, s.key, line))
			}
			seen[s.sent] = o.line
			n, _ := s.value.(int64)
			v := history.Value(n)
			alike = alike && n > 0 && v.Seq() > 0 && v.Producer() < 1<<12 && !values[v]
			ours = ours || v.Producer() > 0
			values[v] = true
		}
		found = append(found, these...)
	}
	if ours = ours && alike; ours {
		// Each producer is a client, whatever processes it went through.
		last := int32(0)
		for v := range values {
			last = max(last, v.Producer())
		}
		for p := range last + 1 {
			im.newClient(fmt.Sprintf("producer %d", p), "producer")
		}
	}
	for _, s := range found {
		if ours {
			v := history.Value(s.value.(int64))
			im.values[s.sent] = v
			if im.clients[s.of.process] == nil {
				im.clients[s.of.process] = &client{index: v.Producer(), process: s.of.process, polled: map[int32]int{}}
			}
			continue
		}
		c := im.client(s.of.process, "producer")
		c.values++
		im.values[s.sent] = history.MakeValue(c.index, c.values)
	}
	return nil
}

// text tells values apart.
func text(v any) string {
	if n, ok := v.(int64); ok {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%T %v", v, v)
}

// value is that of what was polled.
func (im *importer) value(key string, v any) history.Value {
	s := sent{key, text(v)}
	value, ok := im.values[s]
	if !ok {
		if im.nobody < 0 {
			im.nobody = im.newClient("nobody", "producer")
		}
		im.unsent++
		value = history.MakeValue(im.nobody, im.unsent)
		im.values[s] = value
	}
	return value
}

// kafka adds the parts of an operation.
func (im *importer) kafka(o *operation) error {
	switch o.call.F {
	case "send", "poll", "txn":
	case "assign", "subscribe", "crash":
		c := im.client(o.process, "poller")
		c.begun++
		if o.call.F != "crash" {
			c.subscribed = o.call.F == "subscribe"
		}
		return nil
	case "debug-topic-partitions":
		return nil // it touches no record
	default:
		return fmt.Errorf("%s is no operation of jepsen.tests.kafka: :send, :poll, :txn, :assign, :subscribe and :crash are known", o.call.F)
	}
	said := o.call.Value
	if o.done != nil {
		said = o.done.Value
	}
	parts, vector := said.([]any)
	if !vector {
		return fmt.Errorf("the value %v is no vector of :send and :poll", said)
	}
	first := true
	for _, each := range parts {
		part, _ := each.([]any)
		switch {
		case len(part) == 3 && part[0] == edn.Keyword("send"):
			op, err := im.send(part)
			if err != nil {
				return err
			}
			im.add(im.client(o.process, "producer"), o, first, op)
			first = false
		case len(part) == 2 && part[0] == edn.Keyword("poll"):
			if o.done == nil {
				continue
			}
			polls, err := im.polls(im.client(o.process, "poller"), part[1])
			if err != nil {
				return err
			}
			for _, op := range polls {
				im.add(im.clients[o.process], o, first, op)
				first = false
			}
		case len(part) == 1 && part[0] == edn.Keyword("poll"):
		default:
			return fmt.Errorf("%v is neither [:send key record] nor [:poll records]", each)
		}
	}
	return nil
}

func (im *importer) send(part []any) (history.Op, error) {
	key, err := keyOf(part[1])
	if err != nil {
		return history.Op{}, err
	}
	offset, value, err := placed(part[2])
	if err != nil {
		return history.Op{}, err
	}
	v, ok := im.values[sent{key, text(value)}]
	if !ok {
		return history.Op{}, fmt.Errorf("the value %v of key %s was acknowledged, and is none that was sent", value, key)
	}
	return history.Op{Kind: history.Send, Key: im.key(key), Value: v, Offset: offset, Acked: true}, nil
}

// polls are those of each key of one :poll.
func (im *importer) polls(c *client, said any) ([]history.Op, error) {
	polled, ok := said.(map[any]any)
	if !ok {
		return nil, fmt.Errorf("the :poll %v is no map from keys to records", said)
	}
	byKey := map[string][]any{}
	for key, list := range polled {
		records, ok := list.([]any)
		if !ok {
			return nil, fmt.Errorf("%v is no vector of records", list)
		}
		name, err := keyOf(key)
		if err != nil {
			return nil, err
		}
		byKey[name] = append(byKey[name], records...)
	}
	var ops []history.Op
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		op := history.Op{Kind: history.Poll, Key: im.key(key), Offset: history.NoOffset, From: history.NoOffset}
		for _, r := range byKey[key] {
			offset, value, err := placed(r)
			if err == nil && offset == history.NoOffset {
				err = fmt.Errorf("%v was polled without its offset", r)
			}
			if err != nil {
				return nil, err
			}
			record := history.Record{Offset: offset, Epoch: -1}
			if record.Payload = payload(value); record.Payload == history.Good {
				record.Value = im.value(key, value)
			}
			op.Records = append(op.Records, record)
		}
		if len(op.Records) == 0 {
			continue
		}
		begun, before := c.polled[op.Key]
		op.Reset = c.subscribed || before && begun != c.begun
		c.polled[op.Key] = c.begun
		ops = append(ops, op)
	}
	return ops, nil
}

// payload tells what an export of this project said of a record.
func payload(value any) history.Payload {
	if said, ok := value.(string); ok {
		name, _, marked := strings.Cut(said, "@")
		for _, p := range []history.Payload{history.OtherRun, history.Altered, history.Sentinel} {
			if marked && name == p.String() {
				return p
			}
		}
	}
	return history.Good
}

// placed takes a value, or a pair of its offset and its value.
func placed(from any) (offset int64, value any, err error) {
	pair, ok := from.([]any)
	if !ok {
		return history.NoOffset, from, nil
	}
	if len(pair) != 2 {
		return 0, nil, fmt.Errorf("%v is no pair of an offset and a value", from)
	}
	if pair[0] == nil {
		return history.NoOffset, pair[1], nil
	}
	n, err := number(pair[0])
	if err != nil {
		return 0, nil, fmt.Errorf("%v is no offset", pair[0])
	}
	return int64(n), pair[1], nil
}
