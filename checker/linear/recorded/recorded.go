// Package recorded gives the operations of recorded histories to the procedures
// of package linear, as far as possible from disk.
package recorded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/checker/linear"
	"github.com/faultline-mq/faultline/checker/linear/jepsen"
)

// Undecidable is the error of a history that cannot be decided in this way, and why.
type Undecidable struct{ Why string }

func (u *Undecidable) Error() string { return u.Why }

func undecidable(format string, args ...any) error {
	return &Undecidable{fmt.Sprintf(format, args...)}
}

// Queues decides the queues of the history in a file, each key one, as a stream: in
// memory that does not grow with the file. A send enqueues, and a receive dequeues what
// it delivered; one that was answered without a record found the queue empty. A send
// that was promised nothing (acks=0) may not have happened. What was accepted was
// dequeued before, and sentinels of the drain are left out.
//
// A message that goes back to its queue makes it no FIFO queue, and a transaction moves
// what is in it: such a history is Unknown, and so is one in which a receive took
// several messages at once. An error is that of a file that is no history, or whose
// operations of one process overlap.
func Queues(ctx context.Context, path string) (keys []string, results []linear.Streamed, err error) {
	r, err := history.Open(path)
	if err != nil {
		return nil, nil, err
	}
	h := r.Header()
	if err := r.Close(); err != nil {
		return nil, nil, err
	}
	why := ""
	for _, q := range h.Queues {
		if q.DeadLetters != "" {
			why = fmt.Sprintf("queue %s gives messages up to %s, so neither is a FIFO queue on its own", q.Key, q.DeadLetters)
		}
	}
	if why == "" {
		results, err = linear.DecideQueues(ctx, len(h.Keys), queues(path))
		var u *Undecidable
		switch {
		case errors.As(err, &u):
			why = u.Why
		case errors.Is(err, linear.ErrDisorder):
			why = err.Error() + ": export it as JSON lines, sort the operations by their calls and import it again"
		case err != nil:
			return nil, nil, err
		}
	}
	if why != "" {
		results = make([]linear.Streamed, len(h.Keys))
		for i := range results {
			results[i].Result = linear.Result{Verdict: linear.Unknown, Procedure: "none", Reason: why}
		}
	}
	return h.Keys, results, nil
}

// queues reads a history as moments of queues.
func queues(path string) linear.Stream {
	return func() iter.Seq2[linear.Moment, error] {
		return func(yield func(linear.Moment, error) bool) {
			r, err := history.Open(path)
			if err != nil {
				yield(linear.Moment{}, err)
				return
			}
			defer func() { _ = r.Close() }() // it was only read
			keys := int32(len(r.Header().Keys))
			var p processes
			now := int64(0)
			for e, err := range r.Entries() {
				if e.Op == nil && err == nil {
					continue
				}
				var m linear.Moment
				there := true
				if err == nil {
					err = p.check(e)
				}
				if err == nil && (e.Op.Key < 0 || e.Op.Key >= keys) {
					err = fmt.Errorf("operation %d names key %d of %d", e.Op.ID, e.Op.Key, keys)
				}
				if err == nil {
					m, there, err = moment(e)
				}
				// When an operation is given up is of no importance, but near to the others.
				if m.Stage == linear.Unanswered {
					m.At = max(now, m.Call)
				}
				now = max(now, m.At)
				if (there || err != nil) && (!yield(m, err) || err != nil) {
					return
				}
			}
		}
	}
}

// moment is what an entry is to a queue, if anything.
func moment(e history.Entry) (m linear.Moment, there bool, err error) {
	op := e.Op
	m = linear.Moment{At: op.Call, Call: op.Call, ID: op.ID, Queue: op.Key, Kind: linear.Enqueue, Value: uint64(op.Value)}
	switch op.Kind {
	case history.Send:
	case history.Receive:
		m.Kind, m.Value = linear.Dequeue, 0
	case history.Accept:
		return m, false, nil
	default:
		return m, false, undecidable("operation %d is a %s, which a FIFO queue does not have", op.ID, op.Kind)
	}
	switch {
	case op.Txn != 0:
		return m, false, undecidable("operation %d belongs to transaction %d, which takes effect as a whole", op.ID, op.Txn)
	case !e.Answered:
		return m, true, nil
	case op.Return < op.Call:
		return m, false, fmt.Errorf("operation %d returned at %d, before it was called at %d", op.ID, op.Return, op.Call)
	}
	m.At = op.Return
	switch {
	case op.Outcome == history.Failed:
		m.Stage = linear.Failed
	case op.Outcome != history.OK || op.Kind == history.Send && !op.Acked:
		m.Stage = linear.Unanswered
	case m.Kind == linear.Enqueue:
		m.Stage = linear.Returned
	case len(op.Records) == 0:
		m.Stage, m.Kind = linear.Returned, linear.Empty
	case len(op.Records) > 1:
		return m, false, undecidable("operation %d took %d messages at once: which of them when is not known", op.ID, len(op.Records))
	default:
		r := &op.Records[0]
		switch {
		case r.Payload == history.Sentinel:
			m.Stage = linear.Failed // it took none of what was sent
		case r.Payload != history.Good:
			return m, false, undecidable("operation %d took a message whose payload is %s: which one it was is not known", op.ID, r.Payload)
		case r.Delivery > 1:
			return m, false, undecidable("operation %d took message %s, which was delivered %d times: it went back to the queue in between", op.ID, r.Value, r.Delivery)
		}
		if m.Stage == linear.Called {
			m.Stage, m.Value = linear.Returned, uint64(r.Value)
		}
	}
	return m, true, nil
}

// Object tells what the history in a file is about, by the first operation that
// says it: queues, or logs with gaps.
func Object(path string) (linear.Object, error) {
	r, err := history.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }() // it was only read
	if len(r.Header().Queues) > 0 {
		return linear.Queue, nil
	}
	for e, err := range r.Entries() {
		switch {
		case err != nil:
			return "", err
		case e.Op == nil:
		case e.Op.Kind == history.Poll:
			return linear.SparseLog, nil
		case e.Op.Kind == history.Receive:
			return linear.Queue, nil
		}
	}
	return linear.SparseLog, nil
}

// Logs reads the history in a file as operations on logs, each key one: a send
// appends, and a poll read each record that it delivered. What an empty poll says of the
// end of the log depends on the system's promise of fresh reads, so it says nothing here.
// Records that were not sent in this run are left out. The whole history is held
// in memory.
func Logs(path string) ([]jepsen.History, error) {
	h, err := history.Load(path)
	if err != nil {
		return nil, err
	}
	if err := h.Validate(); err != nil {
		return nil, err
	}
	logs := make([]jepsen.History, len(h.Header.Keys))
	for i, key := range h.Header.Keys {
		logs[i].Key = key
	}
	for i := range h.Ops {
		op := &h.Ops[i]
		o := linear.Op{Call: op.Call, Return: op.Return, Value: uint64(op.Value), Offset: op.Offset, Kind: linear.Append}
		if op.Outcome == history.Indeterminate || op.Kind == history.Send && !op.Acked {
			o.Return = linear.Never
		}
		ops := &logs[op.Key].Ops
		switch {
		case op.Outcome == history.Failed:
		case op.Kind == history.Send:
			*ops = append(*ops, o)
		case op.Kind != history.Poll || op.Outcome != history.OK:
		default:
			for _, r := range op.Records {
				if r.Payload == history.Good {
					o.Kind, o.Value, o.Offset = linear.Get, uint64(r.Value), r.Offset
					*ops = append(*ops, o)
				}
			}
		}
	}
	for i := range logs {
		slices.SortStableFunc(logs[i].Ops, func(a, b linear.Op) int { return cmp.Compare(a.Call, b.Call) })
	}
	return logs, nil
}

// processes finds operations of one process that overlap.
type processes struct {
	of map[int64]*process
	// The process of each client that was met last.
	recent []recent
}

type process struct {
	client int32
	busy   bool
	op     int64 // its last operation
	ret    int64 // when that returned
}

type recent struct {
	id int64
	*process
}

func (p *processes) check(e history.Entry) error {
	op := e.Op
	if p.of == nil {
		p.of = map[int64]*process{}
	}
	var last *process
	small := op.Client >= 0 && op.Client < 1<<16
	if small && int(op.Client) < len(p.recent) && p.recent[op.Client].id == op.Process {
		last = p.recent[op.Client].process
	}
	if last == nil {
		if last = p.of[op.Process]; last == nil {
			last = &process{client: op.Client, ret: -1}
			p.of[op.Process] = last
		}
		for small && int(op.Client) >= len(p.recent) {
			p.recent = append(p.recent, recent{})
		}
		if small {
			p.recent[op.Client] = recent{op.Process, last}
		}
	}
	switch {
	case e.Answered:
		last.busy, last.ret = false, op.Return
	case last.client != op.Client:
		return fmt.Errorf("process %d is of clients %d and %d", op.Process, last.client, op.Client)
	case !last.busy && last.ret == history.Infinity:
		return fmt.Errorf("operation %d of process %d is called after its operation %d, which was never answered: the client goes on under a new process", op.ID, op.Process, last.op)
	case last.busy:
		return fmt.Errorf("operation %d of process %d is called while its operation %d is under way: a process does one thing at a time", op.ID, op.Process, last.op)
	case op.Call < last.ret:
		return fmt.Errorf("operation %d of process %d is called at %d, before its operation %d returned at %d: a process does one thing at a time", op.ID, op.Process, op.Call, last.op, last.ret)
	default:
		last.busy, last.op = true, op.ID
	}
	return nil
}
