package forwarding

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/origin"
)

// A script is a sequence of commands and what comes of each:
//
//	new [nodes=N] [ttl=N] [prefetch=N] [replay] [audit] [own]
//	send N VALUE…       a client sends to node N
//	read N [end]        a consumer of node N reads from the begin or at the end, and waits if nothing is shown
//	deliver [A>B …]     the first message of each of these links arrives, of all without any
//	lose [A>B …]        it is lost, and both ends see a new stream
//	store [N …]         everything written becomes durable
//	settle              both, until nothing is left to do
//	cut N M             they do not reach each other any more
//	join N M            they do again
//	crash N [power]     its process dies; what was under way to and from it is lost, with the power the cursor too
//	start N with=(M,…)  it starts, and reaches these
//	time DURATION       passes; machines wake
//	show                what each node shows, and in brackets what it holds and hides
type world struct {
	now      broker.Time
	opts     Options
	nodes    []*node
	wires    []envelope
	token    uint64
	out      strings.Builder
	quiet    bool
	produced func(token uint64, p scheme.Produced)
}

type envelope struct {
	from, to broker.NodeID
	msg      broker.Message
}

// node hosts one machine.
type node struct {
	scheme.Host // what the scheme does not use
	w           *world
	id          broker.NodeID
	up          bool
	m           *Machine
	index       *logindex.Index
	log         [][]byte
	stable      int64
	values      map[uint64]string
	reached     []broker.NodeID
	session     int
	epoch       int32
	mark        int64 // the cursor that is kept
}

func (n *node) Self() broker.NodeID          { return n.id }
func (n *node) Now() broker.Time             { return n.w.now }
func (n *node) Index() *logindex.Index       { return n.index }
func (n *node) Stable() int64                { return n.stable }
func (n *node) Refused() bool                { return false }
func (n *node) Advanced()                    {}
func (n *node) Name(id broker.NodeID) string { return "n" + id.String() }

func (n *node) Append(batches [][]byte, infos []batch.Info) {
	for i := range batches {
		n.index.Append(infos[i])
		n.log = append(n.log, slices.Clone(batches[i]))
	}
}

func (n *node) Truncate(to int64) int64 {
	end := n.index.Truncate(to)
	n.log = slices.DeleteFunc(n.log, func(b []byte) bool { return base(b) >= end })
	n.stable = min(n.stable, end)
	return end
}

func (n *node) Send(to broker.NodeID, msg broker.Message, from, upTo int64, data *[]byte) {
	for _, b := range n.log {
		if base(b) >= from && base(b) < upTo {
			*data = append(*data, b...)
		}
	}
	n.w.wires = append(n.w.wires, envelope{n.id, to, msg})
	n.w.printf("%v\n", envelope{n.id, to, msg})
}

func (n *node) Produced(token uint64, p scheme.Produced) {
	if n.w.produced != nil {
		n.w.produced(token, p)
	}
	answer := fmt.Sprintf("ok at %d", p.Base)
	if p.Code != 0 {
		answer = kerr.TypedErrorForCode(p.Code).Message
	}
	n.w.printf("%d answers %s: %s\n", n.id, n.values[token], answer)
}

func (n *node) Emit(ev broker.Event) {
	s := fmt.Sprintf("%d: %s", n.id, ev.Kind)
	if ev.ISR != nil {
		s += " sees=(" + strings.Join(ev.ISR, ",") + ")"
	}
	if ev.Kind == "truncate" {
		s += fmt.Sprintf(" removed=[%d,%d): %s", ev.From, ev.To, ev.Detail)
	}
	n.w.printf("%s\n", s)
}

func base(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

func (e envelope) String() string {
	s := fmt.Sprintf("%d>%d ", e.from, e.to)
	switch m := e.msg.(type) {
	case *Demand:
		return s + "consumers wait"
	case *Bundle:
		batches, _, _ := batch.Split(m.Data)
		s += fmt.Sprintf("move %d:", number(m.ID))
		for _, b := range batches {
			s += fmt.Sprintf(" %s", b[batch.HeaderSize:])
		}
		return s
	case *Taken:
		return s + fmt.Sprintf("took %d", number(m.ID))
	}
	return s + fmt.Sprintf("%T", e.msg)
}

func (w *world) printf(format string, args ...any) {
	if !w.quiet {
		fmt.Fprintf(&w.out, format, args...)
	}
}

func (w *world) node(id broker.NodeID) *node { return w.nodes[id-1] }

func newWorld(nodes int, opts Options) *world {
	w := &world{opts: opts, now: broker.Time{Wall: time.Date(2020, 1, 1, 0, 0, 0, 1_000_000, time.UTC).UnixNano()}}
	for i := range nodes {
		w.nodes = append(w.nodes, &node{w: w, id: broker.NodeID(i + 1), values: map[uint64]string{}, index: logindex.New(0, nil)})
	}
	for _, n := range w.nodes {
		n.up = true
		n.boot()
		n.reached = nil
		for _, o := range w.nodes {
			n.reached = append(n.reached, o.id)
		}
	}
	for _, n := range w.nodes {
		n.tell()
	}
	return w
}

// boot makes the machine anew, on the log that is there.
func (n *node) boot() {
	n.m = WithOptions(n, scheme.DefaultOptions(), n.w.opts, min(n.mark, n.index.End()))
	n.reached, n.epoch = []broker.NodeID{n.id}, 0
}

// tell gives the machine the node's view.
func (n *node) tell() {
	n.epoch++
	var members []broker.NodeID
	for _, o := range n.w.nodes {
		members = append(members, o.id)
	}
	slices.Sort(n.reached)
	n.m.Assigned(scheme.Assignment{PartEpoch: n.epoch, Peers: &scheme.Neighbours{
		Members: members, Live: slices.Clone(n.reached), Reached: slices.Clone(n.reached), Session: n.session,
	}})
}

// links is where a message of one of these links is, -1 for none.
func (w *world) first(links []string) int {
	return slices.IndexFunc(w.wires, func(e envelope) bool {
		return len(links) == 0 || slices.Contains(links, fmt.Sprintf("%d>%d", e.from, e.to))
	})
}

func (w *world) arrive(i int) {
	e := w.wires[i]
	w.wires = slices.Delete(w.wires, i, i+1)
	if to := w.node(e.to); to.up {
		to.m.Message(e.from, e.msg)
	}
}

func (w *world) deliver(links ...string) {
	for n := len(w.wires); n > 0; n-- {
		i := w.first(links)
		if i < 0 {
			return
		}
		w.arrive(i)
	}
}

// lose loses all that is under way from one node to another: the stream breaks.
func (w *world) lose(from, to broker.NodeID) {
	w.wires = slices.DeleteFunc(w.wires, func(e envelope) bool { return e.from == from && e.to == to })
	if n := w.node(from); n.up {
		n.m.Link(to, false)
		n.m.Link(to, true)
	}
}

func (w *world) store(n *node) {
	if n.up && n.stable < n.index.End() {
		n.stable = n.index.End()
		n.m.Stored()
	}
}

// settle goes on until nothing more happens.
func (w *world) settle() {
	for range 1000 {
		if len(w.wires) == 0 && !slices.ContainsFunc(w.nodes, func(n *node) bool { return n.up && n.stable < n.index.End() }) {
			return
		}
		w.deliver()
		for _, n := range w.nodes {
			w.store(n)
		}
	}
}

// see lets a node reach another one, or not.
func (w *world) see(at, id broker.NodeID, yes bool) {
	n := w.node(at)
	if !n.up || slices.Contains(n.reached, id) == yes {
		return
	}
	n.reached = slices.DeleteFunc(n.reached, func(o broker.NodeID) bool { return o == id })
	if yes {
		n.reached = append(n.reached, id)
	}
	n.tell()
}

func (w *world) cut(a, b broker.NodeID) {
	w.wires = slices.DeleteFunc(w.wires, func(e envelope) bool { return e.from == a && e.to == b || e.from == b && e.to == a })
	w.see(a, b, false)
	w.see(b, a, false)
}

func (w *world) join(a, b broker.NodeID) {
	if w.node(a).up && w.node(b).up {
		w.see(a, b, true)
		w.see(b, a, true)
	}
}

func (w *world) crash(id broker.NodeID) {
	n := w.node(id)
	n.up = false
	for _, o := range w.nodes {
		if o != n {
			w.cut(o.id, id)
		}
	}
	n.index.Truncate(n.stable)
	n.log = slices.DeleteFunc(n.log, func(b []byte) bool { return base(b) >= n.stable })
}

func (w *world) start(id broker.NodeID, with []broker.NodeID) {
	n := w.node(id)
	n.up = true
	n.session++
	w.now.Wall += int64(time.Millisecond)
	n.boot()
	n.tell()
	for _, o := range with {
		w.join(o, id)
	}
}

// wake lets time pass.
func (w *world) wake(d time.Duration) {
	w.now.Mono += d
	for _, n := range w.nodes {
		if n.up && n.m.NextWake() <= w.now.Mono {
			n.m.Wake()
		}
	}
}

// produce sends a value to a node and returns its token.
func (w *world) produce(id broker.NodeID, value string) uint64 {
	w.token++
	n := w.node(id)
	n.values[w.token] = value
	b := testBatch(value)
	info, err := batch.Parse(b)
	if err != nil {
		panic(err) // the test made it
	}
	n.m.Produce(scheme.Produce{Token: w.token, Batch: b, Info: info, Acks: -1, Timeout: time.Second})
	return w.token
}

// number is a move's in the life of its node.
func number(id uint64) int64 { return origin.Of(0, int64(id)).N }

func testBatch(value string) []byte {
	b := make([]byte, batch.HeaderSize, batch.HeaderSize+len(value))
	b = append(b, value...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	binary.BigEndian.PutUint64(b[43:], ^uint64(0))
	binary.BigEndian.PutUint32(b[57:], 1)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// shown are the values that a node shows, and those that it hides.
func (n *node) shown() (values, hidden []string) {
	visible := map[int64]bool{}
	for at := int64(0); ; {
		from, to := n.m.Shown(at, false)
		if from == to {
			break
		}
		for ; from < to; from++ {
			visible[from] = true
		}
		at = to
	}
	for _, b := range n.log {
		if v := string(b[batch.HeaderSize:]); visible[base(b)] {
			values = append(values, v)
		} else {
			hidden = append(hidden, v)
		}
	}
	return values, hidden
}

func (n *node) String() string {
	values, hidden := n.shown()
	s := fmt.Sprintf("%d: %s", n.id, strings.Join(values, " "))
	if !n.up {
		s = fmt.Sprintf("%d down", n.id)
	} else if len(hidden) > 0 {
		s += " [" + strings.Join(hidden, " ") + "]"
	}
	return strings.TrimRight(s, " ")
}

// keep keeps the cursors, as a node does at the end of every step.
func (w *world) keep() {
	for _, n := range w.nodes {
		if n.up {
			n.mark = n.m.Mark()
		}
	}
}

// read lets a consumer look for anything that a node shows, from an offset on.
func (w *world) read(n *node, offset int64) int64 {
	if !n.up {
		return offset
	}
	_, to := n.m.Shown(offset, true)
	return max(to, offset)
}

func (w *world) run(t *testing.T, d *datadriven.TestData) string {
	w.out.Reset()
	var names []string
	for _, a := range d.CmdArgs {
		names = append(names, a.Key)
	}
	id := func(i int) broker.NodeID {
		n, err := strconv.Atoi(names[i])
		require.NoError(t, err, d.Pos)
		return broker.NodeID(n)
	}
	switch d.Cmd {
	case "send":
		for _, value := range names[1:] {
			w.produce(id(0), value)
		}
	case "deliver":
		w.deliver(names...)
	case "lose":
		for _, l := range names {
			w.lose(broker.NodeID(l[0]-'0'), broker.NodeID(l[2]-'0'))
		}
	case "store":
		for i := range names {
			w.store(w.node(id(i)))
		}
	case "settle":
		w.settle()
	case "cut":
		w.cut(id(0), id(1))
	case "join":
		w.join(id(0), id(1))
	case "crash":
		w.keep()
		w.crash(id(0))
		if d.HasArg("power") {
			w.node(id(0)).mark = 0
		}
	case "read":
		from := int64(0)
		if d.HasArg("end") {
			from = w.node(id(0)).index.End()
		}
		w.read(w.node(id(0)), from)
	case "start":
		var with []broker.NodeID
		for _, v := range d.CmdArgs[1].Vals {
			n, err := strconv.Atoi(v)
			require.NoError(t, err, d.Pos)
			with = append(with, broker.NodeID(n))
		}
		w.start(id(0), with)
	case "time":
		by, err := time.ParseDuration(names[0])
		require.NoError(t, err)
		w.wake(by)
	case "show":
		for _, n := range w.nodes {
			w.printf("%v\n", n)
		}
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return w.out.String()
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var w *world
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "new" {
				return w.run(t, d)
			}
			nodes := 2
			opts := DefaultOptions()
			d.MaybeScanArgs(t, "nodes", &nodes)
			d.MaybeScanArgs(t, "ttl", &opts.TTL)
			d.MaybeScanArgs(t, "prefetch", &opts.Prefetch)
			opts.Replay, opts.Audit, opts.Own = d.HasArg("replay"), d.HasArg("audit"), d.HasArg("own")
			w = newWorld(nodes, opts)
			w.out.Reset()
			return ""
		})
	})
}
