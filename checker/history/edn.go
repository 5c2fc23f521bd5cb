package history

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// ExportEDN writes h as a history of Jepsen's kafka workload (jepsen.tests.kafka),
// one operation map a line:
//
//	{:index 0, :time 12, :type :invoke, :process 3, :f :send, :value [[:send 0 17]]}
//	{:index 1, :time 15, :type :ok, :process 3, :f :send, :value [[:send 0 [4 17]]]}
//	{:index 2, :time 16, :type :ok, :process 4, :f :poll, :value [[:poll {0 [[4 17]]}]]}
//
// Keys are the header's indexes and values are Value as integers. So that
// Jepsen's checker accuses nothing that happened rightly:
//   - a send that was promised nothing (acks=0) ends as :info, under a process of its own;
//   - what was never answered ends as :info at the end;
//   - a poll with Reset comes behind two :assign that drop its key and take it again;
//   - the drain of every leader and complete replica is a last :poll, under a
//     process of its own: without it every message that no poll reached would
//     look lost;
//   - a record whose payload is not Good has the value "altered@OFFSET" (or
//     "other-run@", "sentinel@").
//
// Faults and events of nodes are left out; so is what that workload has no shape
// for: queues and the ends of transactions.
func ExportEDN(w io.Writer, h *History) error {
	b := bufio.NewWriterSize(w, 64<<10)
	for i, e := range ednEvents(h) {
		_, _ = fmt.Fprintf(b, "{:index %d, :time %d, :type :%s, :process %d, :f :%s, :value ", i, e.time, e.kind, e.process, e.f)
		e.value(b)
		if e.op != nil {
			if e.op.Node >= 0 && int(e.op.Node) < len(h.Header.Nodes) {
				_, _ = fmt.Fprintf(b, ", :node %s", ednString(h.Header.Nodes[e.op.Node]))
			}
			if e.kind != "invoke" && e.op.Code != "" {
				_, _ = fmt.Fprintf(b, ", :error %s", ednString(e.op.Code))
			}
		}
		_, _ = b.WriteString("}\n")
	}
	if err := b.Flush(); err != nil { // it keeps the first error
		return fmt.Errorf("exporting history as EDN: %w", err)
	}
	return nil
}

// ednEvent is one line: an invocation or a completion.
type ednEvent struct {
	time    int64
	rank    int // place among events of one time, see ednProcess
	id      int // place among events of one time and rank
	process int64
	kind    string // invoke, ok, fail, info
	f       string // send, poll, assign
	op      *Op
	assign  []int32  // of an :assign
	drained *Replica // of a last :poll
	key     int32    // of drained
}

// ednProcess ranks the events of one process at one time: invocations first,
// as ties are concurrent, and yet in the order of the process.
type ednProcess struct {
	time int64
	rank int
	keys []int32 // polled so far
}

func (p *ednProcess) next(t int64, kind string) int {
	switch {
	case t == p.time && p.rank >= 0:
		p.rank++
	case kind == "invoke":
		p.rank = 0
	default:
		p.rank = 1
	}
	p.time = t
	return p.rank
}

func ednEvents(h *History) []ednEvent {
	order := slices.DeleteFunc(ednOrder(h), func(op *Op) bool { return op.Kind != Send && op.Kind != Poll })
	var end, fresh int64 // the last time of all; the next process number to give
	for _, op := range order {
		end = max(end, op.Call)
		if op.Return != Infinity {
			end = max(end, op.Return)
		}
		fresh = max(fresh, op.Process+1)
	}
	for _, d := range h.Drains {
		end = max(end, d.At)
	}

	events := make([]ednEvent, 0, 2*len(order))
	add := func(p *ednProcess, e ednEvent) {
		e.rank, e.id = p.next(e.time, e.kind), len(events)
		events = append(events, e)
	}
	var p *ednProcess
	for i, op := range order {
		if i == 0 || order[i-1].Process != op.Process {
			p = &ednProcess{rank: -1}
		}
		e := ednEvent{time: op.Call, process: op.Process, kind: "invoke", f: op.Kind.String(), op: op}
		q := p
		kind, at := ednKind(op), op.Return
		if at == Infinity {
			at = end
		}
		if op.Kind == Send && op.Outcome == OK && !op.Acked {
			q, e.process = &ednProcess{rank: -1}, fresh
			fresh++
		}
		if op.Kind == Poll {
			others := slices.DeleteFunc(slices.Clone(p.keys), func(k int32) bool { return k == op.Key })
			p.keys = append(others, op.Key)
			if op.Reset {
				for _, keys := range [][]int32{others, p.keys} {
					for _, kind := range []string{"invoke", "ok"} {
						add(q, ednEvent{time: op.Call, process: e.process, kind: kind, f: "assign", assign: slices.Clone(keys)})
					}
				}
			}
		}
		add(q, e)
		e.kind, e.time = kind, at
		add(q, e)
	}
	for i := range h.Replicas {
		r := &h.Replicas[i]
		key := slices.Index(h.Header.Keys, r.Key)
		if key < 0 || r.Queue || r.Same != "" || !r.Leader && !r.Complete {
			continue
		}
		q := &ednProcess{rank: -1}
		e := ednEvent{time: end, process: fresh, f: "poll", drained: r, key: int32(key)}
		fresh++
		for _, e.kind = range []string{"invoke", "ok"} {
			add(q, e)
		}
	}
	slices.SortFunc(events, func(a, b ednEvent) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.rank, b.rank), cmp.Compare(a.id, b.id))
	})
	return events
}

// ednOrder are the operations, process by process and each in its order.
func ednOrder(h *History) []*Op {
	order := make([]*Op, len(h.Ops))
	for i := range h.Ops {
		order[i] = &h.Ops[i]
	}
	slices.SortStableFunc(order, func(a, b *Op) int {
		return cmp.Or(cmp.Compare(a.Process, b.Process), cmp.Compare(a.Call, b.Call), cmp.Compare(a.Return, b.Return))
	})
	return order
}

func ednKind(op *Op) string {
	switch {
	case op.Outcome == Failed:
		return "fail"
	case op.Outcome == OK && (op.Kind != Send || op.Acked):
		return "ok"
	}
	return "info"
}

// value writes the :value. The writer keeps the first error.
func (e *ednEvent) value(b *bufio.Writer) {
	switch {
	case e.f == "assign":
		_, _ = fmt.Fprintf(b, "%d", e.assign)
	case e.drained != nil && e.kind == "ok":
		ednPoll(b, e.key, e.drained.Records)
	case e.f == "poll" && e.kind == "ok":
		ednPoll(b, e.op.Key, e.op.Records)
	case e.f == "poll":
		_, _ = b.WriteString("[[:poll]]")
	case e.kind == "ok" && e.op.Offset == NoOffset:
		_, _ = fmt.Fprintf(b, "[[:send %d [nil %d]]]", e.op.Key, uint64(e.op.Value))
	case e.kind == "ok":
		_, _ = fmt.Fprintf(b, "[[:send %d [%d %d]]]", e.op.Key, e.op.Offset, uint64(e.op.Value))
	default:
		_, _ = fmt.Fprintf(b, "[[:send %d %d]]", e.op.Key, uint64(e.op.Value))
	}
}

func ednPoll(b *bufio.Writer, key int32, records []Record) {
	if len(records) == 0 {
		_, _ = b.WriteString("[[:poll {}]]")
		return
	}
	_, _ = fmt.Fprintf(b, "[[:poll {%d [", key)
	var num []byte
	for i := range records {
		r := &records[i]
		num = num[:0]
		if i > 0 {
			num = append(num, ' ')
		}
		num = append(num, '[')
		num = strconv.AppendInt(num, r.Offset, 10)
		num = append(num, ' ')
		if r.Payload == Good {
			num = strconv.AppendUint(num, uint64(r.Value), 10)
		} else {
			num = append(num, fmt.Sprintf(`"%s@%d"`, r.Payload, r.Offset)...)
		}
		num = append(num, ']')
		_, _ = b.Write(num)
	}
	_, _ = b.WriteString("]}]]")
}

var ednEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

func ednString(s string) string { return `"` + ednEscapes.Replace(s) + `"` }
