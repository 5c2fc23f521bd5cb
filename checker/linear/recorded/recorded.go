// Package recorded gives the operations of recorded histories to the procedures
// of package linear, as far as possible from disk.
package recorded

import (
	"errors"
	"fmt"
	"iter"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/checker/linear"
)

// ErrBatch says that a receive took several values at once: as a stream a dequeue
// takes one.
var ErrBatch = errors.New("a receive took several values at once")

// queues reads a history as operations on queues, each key one: a send enqueues, a
// receive dequeues, and one that was answered without a record found the queue empty.
// What an operation without a promise (acks=0) did is not known. Sentinels of the
// drain are left out. Operations of one process must not overlap.
func queues(path string) linear.Stream {
	return func() iter.Seq2[linear.Moment, error] {
		return func(yield func(linear.Moment, error) bool) {
			r, err := history.Open(path)
			if err != nil {
				yield(linear.Moment{}, err)
				return
			}
			defer func() { _ = r.Close() }() // it was only read
			var p processes
			for e, err := range r.Entries() {
				if e.Op == nil && err == nil {
					continue
				}
				var m linear.Moment
				if err == nil {
					err = p.check(e)
				}
				if err == nil {
					m, err = moment(e)
				}
				if !yield(m, err) || err != nil {
					return
				}
			}
		}
	}
}

func moment(e history.Entry) (linear.Moment, error) {
	op := e.Op
	m := linear.Moment{At: op.Call, Call: op.Call, ID: op.ID, Queue: op.Key, Kind: linear.Enqueue, Value: uint64(op.Value)}
	switch op.Kind {
	case history.Send:
	case history.Poll:
		m.Kind = linear.Dequeue
	default:
		return m, fmt.Errorf("operation %d is a %s, and no operation on a queue", op.ID, op.Kind)
	}
	if !e.Answered {
		return m, nil
	}
	m.At = max(m.Call, op.Return)
	switch {
	case op.Outcome == history.Failed:
		m.Stage = linear.Failed
	case op.Outcome != history.OK || op.Kind == history.Send && !op.Acked:
		m.At, m.Stage = op.Call, linear.Unanswered
	case m.Kind == linear.Enqueue:
		m.Stage = linear.Returned
	case len(op.Records) == 0:
		m.Stage, m.Kind = linear.Returned, linear.Empty
	case len(op.Records) > 1:
		return m, fmt.Errorf("operation %d: %w", op.ID, ErrBatch)
	default:
		m.Stage, m.Value = linear.Returned, uint64(op.Records[0].Value)
	}
	return m, nil
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
		if op.Outcome == history.Indeterminate {
			delete(p.of, op.Process) // it has ended, and is not met again
		}
	case last.busy:
		return fmt.Errorf("operation %d of process %d is called while its operation %d is under way: a process does one thing at a time", op.ID, op.Process, last.op)
	case op.Call < last.ret:
		return fmt.Errorf("operation %d of process %d is called at %d, before its operation %d returned at %d: a process does one thing at a time", op.ID, op.Process, op.Call, last.op, last.ret)
	default:
		last.busy, last.op = true, op.ID
	}
	return nil
}
