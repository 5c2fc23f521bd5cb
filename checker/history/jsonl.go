package history

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// line is one line of the JSON form: exactly one of its fields is set.
type line struct {
	Header  *Header      `json:"header,omitempty"`
	Phase   *Phase       `json:"phase,omitempty"`
	Fault   *Fault       `json:"fault,omitempty"`
	Event   *NodeEvent   `json:"event,omitempty"`
	Stall   *Stall       `json:"stall,omitempty"`
	Op      *jsonOp      `json:"op,omitempty"`
	Replica *jsonReplica `json:"replica,omitempty"`
	Drain   *Drain       `json:"drain,omitempty"`
	Note    *Note        `json:"note,omitempty"`
	End     *jsonEnd     `json:"end,omitempty"`
}

type jsonEnd struct {
	Closed bool  `json:"closed"`
	Torn   int64 `json:"torn,omitempty"`
	Ops    int   `json:"ops"`
}

type jsonOp struct {
	ID        int64        `json:"id"`
	Kind      string       `json:"kind"` // "send", "poll", "receive", …
	Client    int32        `json:"client"`
	Process   int64        `json:"process"`
	Key       int32        `json:"key"`
	Node      int16        `json:"node"`
	Call      int64        `json:"call"`
	Return    *int64       `json:"return"` // null: never
	Outcome   string       `json:"outcome"`
	Code      string       `json:"code,omitempty"`
	Value     string       `json:"value,omitempty"` // "producer:sequence"
	Offset    *int64       `json:"offset,omitempty"`
	Acked     bool         `json:"acked,omitempty"`
	From      *int64       `json:"from,omitempty"`
	High      *int64       `json:"high,omitempty"`
	Epoch     int32        `json:"epoch"`
	Reset     bool         `json:"reset,omitempty"`
	Due       int64        `json:"due,omitempty"`
	Lock      int64        `json:"lock,omitempty"`
	Of        *int64       `json:"of,omitempty"`
	Txn       int64        `json:"txn,omitempty"`
	Committed bool         `json:"committed,omitempty"`
	Records   []jsonRecord `json:"records,omitempty"`
}

type jsonRecord struct {
	Offset   int64  `json:"offset"`
	Value    string `json:"value"`
	Epoch    int32  `json:"epoch"`
	Payload  string `json:"payload,omitempty"` // "good" where absent
	Delivery int32  `json:"delivery,omitempty"`
}

type jsonReplica struct {
	Replica
	Records []jsonRecord `json:"records,omitempty"`
}

// ExportJSONL writes h as JSON lines: a header, then phases, faults, events of
// nodes, stalls, operations in order of ID, replicas, drains and notes, and at
// last {"end":{"closed":true,"ops":N}}. Clients, keys and nodes of operations
// are indexes into the header's lists; times are nanoseconds; values are
// "producer:sequence"; the return of what was never answered is null. A send
// leaves out From and High where they are 0, a poll Value, Offset and Acked; what
// only queues and transactions have is left out where it is 0.
func ExportJSONL(w io.Writer, h *History) error {
	l := newLines(w)
	l.put(line{Header: &h.Header})
	for i := range h.Phases {
		l.put(line{Phase: &h.Phases[i]})
	}
	for i := range h.Faults {
		l.put(line{Fault: &h.Faults[i]})
	}
	for i := range h.Events {
		l.put(line{Event: &h.Events[i]})
	}
	for i := range h.Stalls {
		l.put(line{Stall: &h.Stalls[i]})
	}
	for i := range h.Ops {
		l.put(line{Op: toJSON(&h.Ops[i])})
	}
	for i := range h.Replicas {
		l.replica(h.Replicas[i])
	}
	for i := range h.Drains {
		l.put(line{Drain: &h.Drains[i]})
	}
	for i := range h.Notes {
		l.put(line{Note: &h.Notes[i]})
	}
	return l.end(jsonEnd{h.Closed, h.Torn, len(h.Ops)})
}

// ExportJSONL writes the rest of the file as JSON lines, in memory that does not grow
// with the history: what the function ExportJSONL writes, in the order in which it was
// recorded, operations in the order of their answers and at last those without one.
// ImportJSONL makes the same history of both. Where it fails the last line is missing.
func (r *Reader) ExportJSONL(w io.Writer) error {
	l := newLines(w)
	l.put(line{Header: &r.header})
	var replicas History // without their records
	for e, err := range r.Entries() {
		switch {
		case err != nil:
			return errors.Join(err, l.b.Flush())
		case e.Answered:
			l.put(line{Op: toJSON(e.Op)})
		case e.Op == nil:
			l.event(e.Event)
			if replica, ok := e.Event.(Replica); ok {
				replica.Records = nil
				replicas.add(replica)
			}
		}
		if l.err != nil {
			break
		}
	}
	for _, op := range r.Open() {
		unanswered := *op
		unanswered.Outcome = Indeterminate
		l.put(line{Op: toJSON(&unanswered)})
	}
	if err := replicas.resolve(); err != nil {
		return errors.Join(&CorruptError{r.name, r.begun, err.Error()}, l.b.Flush())
	}
	return l.end(jsonEnd{r.closed, r.torn, int(r.next)})
}

// lines writes the JSON form, until an error.
type lines struct {
	b   *bufio.Writer
	enc *json.Encoder
	err error
}

func newLines(w io.Writer) *lines {
	b := bufio.NewWriterSize(w, 64<<10)
	l := &lines{b: b, enc: json.NewEncoder(b)}
	l.enc.SetEscapeHTML(false)
	return l
}

func (l *lines) put(one line) {
	if l.err == nil {
		l.err = l.enc.Encode(one)
	}
}

// event puts an event, given by value.
func (l *lines) event(ev any) {
	switch v := ev.(type) {
	case Phase:
		l.put(line{Phase: &v})
	case Fault:
		l.put(line{Fault: &v})
	case NodeEvent:
		l.put(line{Event: &v})
	case Stall:
		l.put(line{Stall: &v})
	case Replica:
		l.replica(v)
	case Drain:
		l.put(line{Drain: &v})
	case Note:
		l.put(line{Note: &v})
	}
}

func (l *lines) replica(r Replica) {
	j := &jsonReplica{Replica: r}
	if r.Same == "" {
		j.Records = recordsToJSON(r.Records)
	}
	l.put(line{Replica: j})
}

func (l *lines) end(e jsonEnd) error {
	l.put(line{End: &e})
	if l.err == nil {
		l.err = l.b.Flush()
	}
	if l.err != nil {
		return fmt.Errorf("exporting history as JSON lines: %w", l.err)
	}
	return nil
}

func toJSON(op *Op) *jsonOp {
	j := &jsonOp{
		ID: op.ID, Kind: op.Kind.String(), Client: op.Client, Process: op.Process, Key: op.Key, Node: op.Node, Call: op.Call,
		Outcome: op.Outcome.String(), Code: op.Code, Acked: op.Acked, Epoch: op.Epoch, Reset: op.Reset,
		Due: op.Due, Lock: op.Lock, Txn: op.Txn, Committed: op.Committed, Records: recordsToJSON(op.Records),
	}
	if op.Return != Infinity {
		j.Return = &op.Return
	}
	if op.Value != 0 || op.Kind == Send || op.Kind.Settles() {
		j.Value = op.Value.String()
	}
	if op.Of != 0 || op.Kind.Settles() {
		j.Of = &op.Of
	}
	for _, f := range [...]struct {
		to   **int64
		v    *int64
		kind Kind // whose field it is
	}{{&j.Offset, &op.Offset, Send}, {&j.From, &op.From, Poll}, {&j.High, &op.High, Poll}} {
		if *f.v != 0 || op.Kind == f.kind {
			*f.to = f.v
		}
	}
	return j
}

func recordsToJSON(records []Record) []jsonRecord {
	if len(records) == 0 {
		return nil
	}
	out := make([]jsonRecord, len(records))
	for i, r := range records {
		out[i] = jsonRecord{Offset: r.Offset, Value: r.Value.String(), Epoch: r.Epoch, Delivery: r.Delivery}
		if r.Payload != Good {
			out[i].Payload = r.Payload.String()
		}
	}
	return out
}

// ImportJSONL reads what ExportJSONL wrote: behind the header, entries may come in any
// order. Its errors name the line. Input
// without its last line is refused: where an export was cut, nobody knows what
// is missing.
func ImportJSONL(r io.Reader) (*History, error) {
	var (
		h  History
		in = bufio.NewReaderSize(r, 64<<10)
	)
	for n := 1; ; n++ {
		text, err := in.ReadBytes('\n')
		if len(bytes.TrimSpace(text)) == 0 {
			if errors.Is(err, io.EOF) {
				return nil, fmt.Errorf(`line %d: the input ends without its {"end":…} line: it was cut off, export it again`, n)
			}
			if err == nil {
				continue
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("reading line %d: %w", n, err)
		}
		end, err := h.importLine(text, n == 1)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if end {
			return &h, nil
		}
	}
}

// importLine adds one line to h, and reports whether it was the last.
func (h *History) importLine(text []byte, first bool) (end bool, err error) {
	var l line
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return false, fmt.Errorf("%w: it is not a line of a history's JSON form", err)
	}
	if first != (l.Header != nil) {
		return false, errors.New("the header is the first line, and only the first")
	}
	switch {
	case l.Header != nil:
		if l.Header.Version != Version {
			return false, fmt.Errorf("format version %d, and this program reads version %d: use the version of faultline that wrote it", l.Header.Version, Version)
		}
		h.Header = *l.Header
	case l.Phase != nil:
		h.add(*l.Phase)
	case l.Fault != nil:
		h.add(*l.Fault)
	case l.Event != nil:
		h.add(*l.Event)
	case l.Stall != nil:
		h.add(*l.Stall)
	case l.Op != nil:
		op, err := l.Op.op()
		if err != nil {
			return false, err
		}
		h.Ops = append(h.Ops, op)
	case l.Replica != nil:
		r := l.Replica.Replica
		if r.Records, err = recordsFromJSON(l.Replica.Records); err != nil {
			return false, err
		}
		h.add(r)
	case l.Drain != nil:
		h.add(*l.Drain)
	case l.Note != nil:
		h.add(*l.Note)
	case l.End != nil:
		if l.End.Ops != len(h.Ops) {
			return false, fmt.Errorf("%d operations were exported and %d are here", l.End.Ops, len(h.Ops))
		}
		h.Closed, h.Torn = l.End.Closed, l.End.Torn
		return true, errors.Join(h.arrange(), h.resolve())
	default:
		return false, errors.New("the line holds nothing")
	}
	return false, nil
}

// arrange puts the operations in order of ID: from 0 on each stands once.
func (h *History) arrange() error {
	stands := make([]bool, len(h.Ops))
	stray := -1 // the first operation that has no place
	for i := range h.Ops {
		switch id := h.Ops[i].ID; {
		case id >= 0 && id < int64(len(stands)) && !stands[id]:
			stands[id] = true
		case stray < 0:
			stray = i
		}
	}
	if stray >= 0 {
		return fmt.Errorf("operation %d, and %d was expected: each stands once, and none is left out", h.Ops[stray].ID, slices.Index(stands, false))
	}
	byID := func(a, b Op) int { return cmp.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(h.Ops, byID) {
		slices.SortFunc(h.Ops, byID)
	}
	return nil
}

func (j *jsonOp) op() (Op, error) {
	op := Op{
		ID: j.ID, Client: j.Client, Process: j.Process, Key: j.Key, Node: j.Node, Call: j.Call, Return: Infinity,
		Code: j.Code, Acked: j.Acked, Epoch: j.Epoch, Reset: j.Reset,
		Due: j.Due, Lock: j.Lock, Txn: j.Txn, Committed: j.Committed,
	}
	var err error
	if op.Kind, err = parse(j.Kind, "kind", Send, Poll, Receive, Accept, Release, Reject, Leave, Commit, Abort); err != nil {
		return op, err
	}
	if op.Outcome, err = parse(j.Outcome, "outcome", Pending, OK, Failed, Indeterminate); err != nil {
		return op, err
	}
	if j.Value != "" {
		if op.Value, err = ParseValue(j.Value); err != nil {
			return op, err
		}
	}
	for _, f := range [...]struct{ from, to *int64 }{{j.Return, &op.Return}, {j.Offset, &op.Offset}, {j.From, &op.From}, {j.High, &op.High}, {j.Of, &op.Of}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	op.Records, err = recordsFromJSON(j.Records)
	return op, err
}

func recordsFromJSON(in []jsonRecord) ([]Record, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]Record, len(in))
	for i, j := range in {
		v, err := ParseValue(j.Value)
		if err != nil {
			return nil, err
		}
		out[i] = Record{Offset: j.Offset, Value: v, Epoch: j.Epoch, Delivery: j.Delivery}
		if j.Payload != "" {
			if out[i].Payload, err = parse(j.Payload, "payload", Good, OtherRun, Altered, Sentinel); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// parse finds the one of all whose String is s.
func parse[T fmt.Stringer](s, what string, all ...T) (T, error) {
	for _, v := range all {
		if v.String() == s {
			return v, nil
		}
	}
	var zero T
	return zero, fmt.Errorf("unknown %s %q: known are %v", what, s, all)
}
