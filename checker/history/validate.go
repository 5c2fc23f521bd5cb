package history

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// maxProblems is how many problems Validate names.
const maxProblems = 20

// Validate returns what is impossible in h, the first twenty problems joined:
// the harness recorded wrongly, and no verdict may rest on such a history. It
// judges the record, never the system: what a broker answered is for checkers.
func (h *History) Validate() error {
	v := validator{h: h}
	v.header()
	v.ops()
	v.processes()
	v.events()
	v.replicas()
	if v.more > 0 {
		v.problems = append(v.problems, fmt.Errorf("and %d more", v.more))
	}
	if len(v.problems) == 0 {
		return nil
	}
	return fmt.Errorf("the history is not one that a run can leave (record the run again; if it repeats, the harness is at fault): %w", errors.Join(v.problems...))
}

type validator struct {
	h        *History
	problems []error
	more     int
}

func (v *validator) add(format string, args ...any) {
	if len(v.problems) == maxProblems {
		v.more++
		return
	}
	v.problems = append(v.problems, fmt.Errorf(format, args...))
}

func (v *validator) header() {
	if v.h.Header.Version != Version {
		v.add("its format version is %d, not %d", v.h.Header.Version, Version)
	}
	v.unique("key", v.h.Header.Keys)
	v.unique("node", v.h.Header.Nodes)
	names := make([]string, len(v.h.Header.Clients))
	for i, c := range v.h.Header.Clients {
		names[i] = c.Name
	}
	v.unique("client", names)
	queues := make([]string, len(v.h.Header.Queues))
	for i, q := range v.h.Header.Queues {
		queues[i] = q.Key
		v.name("the header", "queue", q.Key, v.h.Header.Keys)
	}
	v.unique("queue", queues)
	for _, q := range v.h.Header.Queues {
		if q.DeadLetters != "" {
			v.name("queue "+q.Key, "dead-letter queue", q.DeadLetters, queues)
		}
	}
}

func (v *validator) unique(what string, names []string) {
	seen := make(map[string]bool, len(names))
	for _, n := range names {
		if seen[n] {
			v.add("two %ss are named %q", what, n)
		}
		seen[n] = true
	}
}

func (v *validator) ops() {
	sent := map[Value]int64{}
	for i := range v.h.Ops {
		op := &v.h.Ops[i]
		if op.ID != int64(i) {
			v.add("operation %d stands at place %d", op.ID, i)
		}
		v.index(op, "client", int64(op.Client), len(v.h.Header.Clients))
		v.index(op, "key", int64(op.Key), len(v.h.Header.Keys))
		if op.Node != NoNode {
			v.index(op, "node", int64(op.Node), len(v.h.Header.Nodes))
		}
		v.times(op)
		switch op.Kind {
		case Send:
			if op.Value.Seq() == 0 {
				v.add("operation %d sends value %s: sequence numbers begin at 1", op.ID, op.Value)
			}
			if first, again := sent[op.Value]; again {
				v.add("operations %d and %d both send value %s: values are unique within a run", first, op.ID, op.Value)
			} else {
				sent[op.Value] = op.ID
			}
		case Accept, Release, Reject:
			v.settles(i, op)
		case Commit, Abort:
			if op.Txn == 0 {
				v.add("operation %d (%s) ends no transaction: transactions are numbered from 1", op.ID, op.Kind)
			}
		case Poll, Receive, Leave:
		default:
			v.add("operation %d is of unknown kind %d", op.ID, uint8(op.Kind))
		}
		if op.Kind != Poll && op.Kind != Receive && len(op.Records) > 0 {
			v.add("operation %d (%s) delivered %d records", op.ID, op.Kind, len(op.Records))
		}
		v.offsets(op)
	}
}

// settles checks that what operation i settles was delivered before, where it says by which.
func (v *validator) settles(i int, op *Op) {
	switch {
	case op.Of == NoOp:
	case op.Of < 0 || op.Of >= int64(i) || v.h.Ops[op.Of].Kind != Receive:
		v.add("operation %d settles what operation %d delivered, which is no receive before it", op.ID, op.Of)
	case !slices.ContainsFunc(v.h.Ops[op.Of].Records, func(r Record) bool { return r.Payload == Good && r.Value == op.Value }):
		v.add("operation %d settles value %s, which operation %d did not deliver", op.ID, op.Value, op.Of)
	}
}

func (v *validator) index(op *Op, what string, i int64, n int) {
	if i < 0 || i >= int64(n) {
		v.add("operation %d names %s %d of %d", op.ID, what, i, n)
	}
}

func (v *validator) times(op *Op) {
	switch {
	case op.Call < 0:
		v.add("operation %d was called at %d, before the run began", op.ID, op.Call)
	case op.Return < op.Call:
		v.add("operation %d returned at %d, before it was called at %d", op.ID, op.Return, op.Call)
	}
	switch op.Outcome {
	case OK, Failed:
		if op.Return == Infinity {
			v.add("operation %d is %s and never returned", op.ID, op.Outcome)
		}
	case Indeterminate:
	case Pending:
		v.add("operation %d is pending: what was never answered is indeterminate", op.ID)
	default:
		v.add("operation %d has unknown outcome %d", op.ID, uint8(op.Outcome))
	}
}

func (v *validator) offsets(op *Op) {
	for _, f := range [...]struct {
		name string
		v    int64
	}{{"offset", op.Offset}, {"from", op.From}, {"high watermark", op.High}, {"epoch", int64(op.Epoch)}} {
		if f.v < -1 {
			v.add("operation %d has %s %d: the least is -1, for unknown", op.ID, f.name, f.v)
		}
	}
	for _, f := range [...]struct {
		name string
		v    int64
	}{{"time when it was due", op.Due}, {"lock", op.Lock}, {"transaction", op.Txn}} {
		if f.v < 0 {
			v.add("operation %d has %s %d: the least is 0, for none", op.ID, f.name, f.v)
		}
	}
	v.records(fmt.Sprintf("operation %d", op.ID), op.Records, op.Kind == Receive)
}

// records checks records, which may be unnumbered.
func (v *validator) records(whose string, records []Record, unnumbered bool) {
	for _, r := range records {
		switch {
		case r.Offset < 0 && !(unnumbered && r.Offset == NoOffset):
			v.add("%s has a record at offset %d", whose, r.Offset)
		case r.Epoch < -1:
			v.add("%s has a record of epoch %d at offset %d", whose, r.Epoch, r.Offset)
		case r.Payload > Sentinel:
			v.add("%s has a record of unknown payload %d at offset %d", whose, uint8(r.Payload), r.Offset)
		case r.Delivery < 0:
			v.add("%s has a record that was delivered %d times at offset %d: the least is 0, for unknown", whose, r.Delivery, r.Offset)
		}
	}
}

// processes checks that every process is one client's, does one thing at a
// time, and ends with its first indeterminate operation.
func (v *validator) processes() {
	order := make([]*Op, len(v.h.Ops))
	for i := range v.h.Ops {
		order[i] = &v.h.Ops[i]
	}
	slices.SortStableFunc(order, func(a, b *Op) int {
		return cmp.Or(cmp.Compare(a.Process, b.Process), cmp.Compare(a.Call, b.Call), cmp.Compare(a.Return, b.Return))
	})
	for i := 1; i < len(order); i++ {
		a, b := order[i-1], order[i]
		switch {
		case a.Process != b.Process:
		case a.Client != b.Client:
			v.add("operations %d and %d are of process %d and of clients %d and %d", a.ID, b.ID, a.Process, a.Client, b.Client)
		case a.Return > b.Call:
			v.add("operations %d and %d of process %d overlap: the first returns at %s, the second is called at %d", a.ID, b.ID, a.Process, moment(a.Return), b.Call)
		case a.Outcome == Indeterminate:
			v.add("operation %d of process %d follows operation %d, which is indeterminate: the client goes on under a new process", b.ID, b.Process, a.ID)
		}
	}
}

func moment(t int64) string {
	if t == Infinity {
		return "no time"
	}
	return fmt.Sprint(t)
}

func (v *validator) events() {
	h := v.h
	last := int64(0)
	for _, p := range h.Phases {
		if p.At < last {
			v.add("phase %q begins at %d, before %d", p.Name, p.At, last)
		}
		last = max(last, p.At)
	}
	for _, f := range h.Faults {
		switch f.Stage {
		case Injecting, Injected, Proven, StillProven, Healing, Healed, Unproven, Skipped:
		default:
			v.add("fault %d (%s) has unknown stage %q", f.ID, f.Name, f.Stage)
		}
		if f.At < 0 || f.ID < 0 {
			v.add("fault %d (%s) has a stage at %d", f.ID, f.Name, f.At)
		}
		for _, k := range f.Keys {
			v.name(fmt.Sprintf("fault %d (%s)", f.ID, f.Name), "key", k, h.Header.Keys)
		}
	}
	// A node may have started before the run's clock did: its events may be negative.
	for _, e := range h.Events {
		if e.Uncertainty < 0 || e.Seq < 1 {
			v.add("event %d of node %s (%s) has uncertainty %d: events are numbered from 1, and an uncertainty is not negative", e.Seq, e.Node, e.Kind, e.Uncertainty)
		}
		v.name("an event", "node", e.Node, h.Header.Nodes)
	}
	for _, s := range h.Stalls {
		if s.From < 0 || s.To < s.From {
			v.add("a stall lasts from %d to %d", s.From, s.To)
		}
	}
	for _, d := range h.Drains {
		v.name("a drain", "key", d.Key, h.Header.Keys)
		if d.At < 0 {
			v.add("the drain of %s was at %d", d.Key, d.At)
		}
	}
	for _, n := range h.Notes {
		if n.At < 0 {
			v.add("a note was taken at %d: %s", n.At, n.Text)
		}
	}
}

func (v *validator) replicas() {
	seen := map[[2]string]bool{}
	for _, r := range v.h.Replicas {
		whose := fmt.Sprintf("replica %s on %s", r.Key, r.Node)
		if id := [2]string{r.Key, r.Node}; seen[id] {
			v.add("%s was drained twice", whose)
		} else {
			seen[id] = true
		}
		v.name(whose, "key", r.Key, v.h.Header.Keys)
		v.name(whose, "node", r.Node, v.h.Header.Nodes)
		if r.Same != "" && !seen[[2]string{r.Key, r.Same}] {
			v.add("%s is said to equal that on %s, which was not drained before it", whose, r.Same)
		}
		if r.Same == r.Node {
			v.add("%s is said to equal itself", whose)
		}
		if r.Ready < 0 || r.Unacknowledged < 0 {
			v.add("%s has %d messages that wait and %d that are not settled", whose, r.Ready, r.Unacknowledged)
		}
		v.records(whose, r.Records, false)
		for i := 1; i < len(r.Records); i++ {
			if a, b := r.Records[i-1].Offset, r.Records[i].Offset; a >= b {
				v.add("%s has offset %d behind %d", whose, b, a)
				break
			}
		}
	}
}

func (v *validator) name(whose, what, name string, known []string) {
	if !slices.Contains(known, name) {
		v.add("%s names %s %q, which is not in the header", whose, what, name)
	}
}
