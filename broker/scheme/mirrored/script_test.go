package mirrored

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
)

// A script is a sequence of commands and what comes of each:
//
//	new nodes=3 [all|exactly=N] [automatic] [when-synced] [after-check] [batch=N]
//	send N VALUE        a client sends to node N
//	deliver [A>B …]     messages of these links arrive, of all without any
//	store [N …]         everything written becomes durable
//	settle              both, until nothing is left to do
//	dead N at=(M,…) [left] [unchecked]   N is dead in the views of M, …
//	crash N             its process dies; what was under way to and from it is lost
//	start N with=(M,…) [unheard=(K,…)]  it starts and joins these, which take it for live
//	                    again; of the others of their cluster it has heard nothing yet
//	join N M            both hear each other, and take each other for live
//	pause N             the partition policy does not let it serve
//	time DURATION       passes; machines wake
//	show
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

// record is what the authority of one node tells those of the others.
type record struct{ r scheme.Record }

// node hosts one machine, and is its authority.
type node struct {
	w       *world
	id      broker.NodeID
	up      bool
	m       *Machine
	index   *logindex.Index
	log     [][]byte
	stable  int64
	values  map[uint64]string
	live    []broker.NodeID
	unheard []broker.NodeID // of them
	left    []broker.NodeID
	paused  bool
	session int
	rec     scheme.Record
	epoch   int32
	kept    bool // an answer to Keep is due
}

var _ scheme.Host = (*node)(nil)

// What this scheme does not use.
func (n *node) Persisted() []byte             { return nil }
func (n *node) Owner() string                 { return "" }
func (n *node) Persist([]byte)                {}
func (n *node) Persisting() bool              { return false }
func (n *node) Report(int32, []broker.NodeID) {}

func (n *node) Self() broker.NodeID                      { return n.id }
func (n *node) Now() broker.Time                         { return n.w.now }
func (n *node) Index() *logindex.Index                   { return n.index }
func (n *node) Stable() int64                            { return n.stable }
func (n *node) Refused() bool                            { return false }
func (n *node) BrokerEpoch() int64                       { return 1 }
func (n *node) Advanced()                                {}
func (n *node) ProposeISR(int32, int32, []scheme.Member) {}
func (n *node) Eligible(broker.NodeID, int64) bool       { return false }
func (n *node) Name(id broker.NodeID) string             { return "n" + id.String() }

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

func (n *node) Keep(r scheme.Record) {
	n.rec, n.kept = r, true
	n.w.printf("%d keeps: %s\n", n.id, show(r))
	for _, id := range n.live {
		if id != n.id {
			n.w.wires = append(n.w.wires, envelope{n.id, id, record{r}})
		}
	}
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
	if ev.Leader != "" {
		s += " leader=" + ev.Leader
	}
	if ev.ISR != nil {
		s += " synced=(" + strings.Join(ev.ISR, ",") + ")"
	}
	if ev.Kind == "truncate" {
		s += fmt.Sprintf(" removed=[%d,%d)", ev.From, ev.To)
	}
	n.w.printf("%s\n", s)
}

func show(r scheme.Record) string {
	return fmt.Sprintf("version %d, master %d, mirrors %v, synchronised %v", r.Version, r.Master, r.Mirrors, r.Synced)
}

func base(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

func values(data []byte) string {
	var s []string
	batches, infos, _ := batch.Split(data)
	for i, b := range batches {
		s = append(s, fmt.Sprintf("%d:%s", infos[i].Base, b[batch.HeaderSize:]))
	}
	return strings.Join(s, " ")
}

func (e envelope) String() string {
	s := fmt.Sprintf("%d>%d ", e.from, e.to)
	switch m := e.msg.(type) {
	case record:
		return s + show(m.r)
	case *Probe:
		return s + "what do you have?"
	case *Tail:
		return s + fmt.Sprintf("up to %d, whole=%v", m.End, m.Whole)
	case *Pull:
		return s + fmt.Sprintf("give what is from %d on", m.From)
	case *Rest:
		return s + "rest " + values(m.Data)
	case *Begin:
		return s + fmt.Sprintf("begin at %d, keep=%v", m.From, m.Keep)
	case *Push:
		return s + "push " + values(m.Data)
	case *Have:
		return s + fmt.Sprintf("have %d", m.End)
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
	w := &world{opts: opts}
	for i := range nodes {
		w.nodes = append(w.nodes, &node{w: w, id: broker.NodeID(i + 1), values: map[uint64]string{}, index: logindex.New(0, nil)})
	}
	var all []broker.NodeID
	for _, n := range w.nodes {
		all = append(all, n.id)
	}
	for _, n := range w.nodes {
		n.up, n.live, n.session = true, slices.Clone(all), 1
		n.rec = scheme.Record{Version: 1, Master: 1, Mirrors: []broker.NodeID{1}, Synced: []broker.NodeID{1}, Sessions: []string{"1"}}
		n.boot()
	}
	for _, n := range w.nodes {
		n.tell(false)
	}
	return w
}

// boot makes the machine anew, on the log that is there.
func (n *node) boot() {
	o := scheme.DefaultOptions()
	n.m = WithOptions(n, o, n.w.opts).(*Machine)
	n.epoch = 0
}

// tell gives the machine the node's view.
func (n *node) tell(unchecked bool) {
	n.epoch++
	var sessions []string
	for _, id := range n.live {
		session := strconv.Itoa(n.w.node(id).session)
		if slices.Contains(n.unheard, id) {
			session = ""
		}
		sessions = append(sessions, session)
	}
	n.m.Assigned(scheme.Assignment{PartEpoch: n.epoch, Peers: &scheme.Neighbours{
		Record: n.rec, Live: slices.Clone(n.live), Sessions: sessions, Reached: slices.Clone(n.live), Left: slices.Clone(n.left), Paused: n.paused, Unchecked: unchecked, Session: n.session,
	}})
	n.answered()
}

func (n *node) answered() {
	for n.kept {
		n.kept = false
		n.m.ISRAnswer(0)
	}
}

func (w *world) arrive(i int) {
	e := w.wires[i]
	w.wires = slices.Delete(w.wires, i, i+1)
	to := w.node(e.to)
	if !to.up {
		return
	}
	r, ok := e.msg.(record)
	switch {
	case !ok:
		to.m.Message(e.from, e.msg)
		to.answered()
	case slices.Contains(to.live, e.from) && slices.Contains(to.live, r.r.Master) && r.r.Newer(to.rec):
		to.rec = r.r
		to.tell(false)
	}
}

// deliver lets the first message of a link arrive, or of any.
func (w *world) deliver(links ...string) {
	for n := len(w.wires); n > 0 && len(w.wires) > 0; n-- {
		i := slices.IndexFunc(w.wires, func(e envelope) bool {
			return len(links) == 0 || slices.Contains(links, fmt.Sprintf("%d>%d", e.from, e.to))
		})
		if i < 0 {
			return
		}
		w.arrive(i)
	}
}

func (w *world) store(n *node) {
	if n.up && n.stable < n.index.End() {
		n.stable = n.index.End()
		n.m.Stored()
		n.answered()
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

func (w *world) crash(id broker.NodeID) {
	n := w.node(id)
	n.up = false
	w.wires = slices.DeleteFunc(w.wires, func(e envelope) bool { return e.from == id || e.to == id })
	n.index.Truncate(n.stable)
	n.log = slices.DeleteFunc(n.log, func(b []byte) bool { return base(b) >= n.stable })
}

func (w *world) dead(id, at broker.NodeID, left, unchecked bool) {
	n := w.node(at)
	n.live = slices.DeleteFunc(n.live, func(o broker.NodeID) bool { return o == id })
	n.unheard = slices.DeleteFunc(n.unheard, func(o broker.NodeID) bool { return o == id })
	if left {
		n.left = append(n.left, id)
	}
	n.tell(unchecked)
}

func (w *world) start(id broker.NodeID, with, unheard []broker.NodeID) {
	n := w.node(id)
	n.up, n.paused, n.left, n.unheard = true, false, nil, unheard
	n.live = slices.Sorted(slices.Values(slices.Concat(with, unheard, []broker.NodeID{id})))
	for i, o := range with { // the newest that they know
		if r := w.node(o).rec; i == 0 || r.Newer(n.rec) {
			n.rec = r
		}
	}
	n.session++
	n.boot()
	for _, o := range with {
		w.meet(o, id)
	}
	n.tell(false)
}

// meet lets a node hear another one, and take it for live.
func (w *world) meet(at, id broker.NodeID) {
	n := w.node(at)
	is := func(o broker.NodeID) bool { return o == id }
	n.live = slices.Sorted(slices.Values(append(slices.DeleteFunc(n.live, is), id)))
	n.unheard = slices.DeleteFunc(n.unheard, is)
	n.left = slices.DeleteFunc(n.left, is)
	if r := w.node(id).rec; slices.Contains(n.live, r.Master) && r.Newer(n.rec) {
		n.rec = r
	}
	n.tell(false)
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
	n.answered()
	return w.token
}

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

func (n *node) String() string {
	if !n.up {
		return fmt.Sprintf("%d down", n.id)
	}
	role := [...]string{"idle", "mirror", "master"}[n.m.role]
	if n.m.role == master && !n.m.serving() {
		role = "master, not serving"
	}
	var s []string
	for _, b := range n.log {
		mark := ""
		if base(b) >= n.stable {
			mark = "*"
		}
		s = append(s, fmt.Sprintf("%d:%s%s", base(b), b[batch.HeaderSize:], mark))
	}
	return fmt.Sprintf("%d %s: %s", n.id, role, strings.Join(s, " "))
}

func (w *world) run(t *testing.T, d *datadriven.TestData) string {
	w.out.Reset()
	ids := func(key string) (out []broker.NodeID) {
		for _, a := range d.CmdArgs {
			if a.Key == key {
				for _, v := range a.Vals {
					id, err := strconv.Atoi(v)
					require.NoError(t, err)
					out = append(out, broker.NodeID(id))
				}
			}
		}
		return out
	}
	plain := func(i int) broker.NodeID {
		id, err := strconv.Atoi(d.CmdArgs[i].Key)
		require.NoError(t, err, d.Pos)
		return broker.NodeID(id)
	}
	switch d.Cmd {
	case "send":
		w.produce(plain(0), d.CmdArgs[1].Key)
	case "deliver":
		var links []string
		for _, a := range d.CmdArgs {
			links = append(links, a.Key)
		}
		w.deliver(links...)
	case "store":
		for i := range d.CmdArgs {
			w.store(w.node(plain(i)))
		}
	case "settle":
		w.settle()
	case "dead":
		for _, at := range ids("at") {
			w.dead(plain(0), at, d.HasArg("left"), d.HasArg("unchecked"))
		}
	case "crash":
		w.crash(plain(0))
	case "start":
		w.start(plain(0), ids("with"), ids("unheard"))
	case "join":
		w.meet(plain(0), plain(1))
		w.meet(plain(1), plain(0))
	case "pause":
		w.node(plain(0)).paused = true
		w.node(plain(0)).tell(false)
	case "time":
		by, err := time.ParseDuration(d.CmdArgs[0].Key)
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
			nodes := 3
			opts := Options{Mode: "all", Batch: 4096, PromoteAlways: !d.HasArg("when-synced"), ConfirmBeforeCheck: !d.HasArg("after-check"), Automatic: d.HasArg("automatic")}
			if d.HasArg("nodes") {
				d.ScanArgs(t, "nodes", &nodes)
			}
			if d.HasArg("exactly") {
				opts.Mode = exactly
				d.ScanArgs(t, "exactly", &opts.Count)
			}
			if d.HasArg("batch") {
				d.ScanArgs(t, "batch", &opts.Batch)
			}
			w = newWorld(nodes, opts)
			return ""
		})
	})
}
