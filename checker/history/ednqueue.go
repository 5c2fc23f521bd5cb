package history

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
)

// ExportQueueEDN writes the queue of a history as a history of Jepsen's queue
// workloads (jepsen.checker/queue, total-queue), one operation map a line:
//
//	{:index 0, :time 12, :type :invoke, :process 3, :f :enqueue, :value 17}
//	{:index 1, :time 15, :type :ok, :process 3, :f :enqueue, :value 17}
//	{:index 2, :time 16, :type :invoke, :process 4, :f :dequeue, :value nil}
//	{:index 3, :time 18, :type :ok, :process 4, :f :dequeue, :value 17}
//
// A receive that found nothing is a dequeue of nil; one that took several messages is
// as many dequeues, each but the first in a process of its own. What was promised
// nothing (acks=0) and what was never answered ends as :info. The messages of the drain
// are a last :drain. Payloads that are not Good are strings as in ExportEDN. What settles
// a delivery, faults and events of nodes are left out. It fails where the history has
// several queues, as that format has one.
func ExportQueueEDN(w io.Writer, h *History) error {
	q := ednQueue{b: bufio.NewWriterSize(w, 64<<10), processes: map[int64]*ednProcess{}}
	if err := q.collect(h); err != nil {
		return fmt.Errorf("exporting history as EDN: %w", err)
	}
	for i, l := range q.lines {
		_, _ = fmt.Fprintf(q.b, "{:index %d, :time %d, :type :%s, :process %d, :f :%s, :value %s", i, l.time, l.kind, l.process, l.f, l.value)
		if l.code != "" {
			_, _ = fmt.Fprintf(q.b, ", :error %s", ednString(l.code))
		}
		_, _ = q.b.WriteString("}\n")
	}
	if err := q.b.Flush(); err != nil { // it keeps the first error
		return fmt.Errorf("exporting history as EDN: %w", err)
	}
	return nil
}

type ednQueue struct {
	b         *bufio.Writer
	lines     []ednLine
	processes map[int64]*ednProcess
	end       int64 // the last time of all
	fresh     int64 // the next process number to give
}

type ednLine struct {
	time    int64
	rank    int // of lines of one time
	process int64
	kind, f string
	value   string
	code    string
}

func (q *ednQueue) collect(h *History) error {
	key := int32(-1)
	for i := range h.Ops {
		op := &h.Ops[i]
		q.fresh = max(q.fresh, op.Process+1)
		q.end = max(q.end, op.Call)
		if op.Return != Infinity {
			q.end = max(q.end, op.Return)
		}
		switch {
		case op.Kind != Send && op.Kind != Receive:
			continue
		case op.Txn != 0:
			return fmt.Errorf("operation %d is part of a transaction, which Jepsen's queue workloads do not have: export JSON lines instead", op.ID)
		}
		if key >= 0 && key != op.Key {
			return fmt.Errorf("operation %d is on a second queue, and Jepsen's queue workloads have one: export JSON lines instead", op.ID)
		}
		key = op.Key
	}
	for _, op := range ednOrder(h) {
		q.operation(op)
	}
	for i := range h.Replicas {
		if r := &h.Replicas[i]; r.Queue && r.Same == "" && (r.Leader || r.Complete) && key >= 0 && int(key) < len(h.Header.Keys) && r.Key == h.Header.Keys[key] {
			q.drain(r)
		}
	}
	slices.SortStableFunc(q.lines, func(a, b ednLine) int { return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.rank, b.rank)) })
	return nil
}

func (q *ednQueue) operation(op *Op) {
	f, values := "dequeue", []string{"nil"}
	switch op.Kind {
	case Send:
		f, values[0] = "enqueue", fmt.Sprint(uint64(op.Value))
	case Receive:
		if len(op.Records) > 0 {
			values = values[:0]
		}
		for i := range op.Records {
			values = append(values, ednValue(&op.Records[i]))
		}
	default:
		return
	}
	kind, at := ednKind(op), op.Return
	if at == Infinity {
		at = q.end
	}
	process := op.Process
	for i, value := range values {
		if i > 0 || op.Kind == Send && kind == "info" && op.Outcome == OK {
			process = q.fresh
			q.fresh++
		}
		called, code := "nil", ""
		if op.Kind == Send {
			called = value
		}
		if kind != "ok" {
			value, code = called, op.Code
		}
		q.add(op.Call, at, process, kind, f, called, value, code)
	}
}

func (q *ednQueue) drain(r *Replica) {
	all := []byte{'['}
	for i := range r.Records {
		if i > 0 {
			all = append(all, ' ')
		}
		all = append(all, ednValue(&r.Records[i])...)
	}
	q.add(q.end, q.end, q.fresh, "ok", "drain", "nil", string(append(all, ']')), "")
	q.fresh++
}

func (q *ednQueue) add(call, ret, process int64, kind, f, called, value, code string) {
	p := q.processes[process]
	if p == nil {
		p = &ednProcess{rank: -1}
		q.processes[process] = p
	}
	q.lines = append(q.lines,
		ednLine{call, p.next(call, "invoke"), process, "invoke", f, called, ""},
		ednLine{ret, p.next(ret, kind), process, kind, f, value, code})
}

// ednValue is a record's value, or what was wrong with it.
func ednValue(r *Record) string {
	if r.Payload == Good {
		return fmt.Sprint(uint64(r.Value))
	}
	return fmt.Sprintf(`"%s@%d"`, r.Payload, r.Offset)
}
