package peers_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/peers"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// A script is a sequence of commands and what comes of each:
//
//	new nodes=3 [policy=P] [local]   nodes that start together; local: homes are where a topic is created
//	time DURATION                    passes, in steps of 10 ms; messages take one
//	cut N …, heal                    N is cut off from all others: links hold what is sent; heal: it arrives
//	hold A B                         links between two nodes hold what is sent, until heal
//	reset A B                        the streams between two nodes break, and are up again
//	crash N, start N [wipe]          a process dies, and starts on what its disk holds
//	stop N                           in order
//	pause N, resume N                a process stands still, and reads later what was sent
//	create N TOPIC [partitions=P], delete N TOPIC
//	master N TOPIC M version=V       the machine on N keeps a record with master M
//	client N NAME                    a client is served
//	show                             what each node sees
type world struct {
	t      *testing.T
	now    time.Duration
	nodes  []*node
	wires  []wire
	policy peers.Policy
	where  peers.Locator
	cut    map[broker.NodeID]bool
	held   map[[2]broker.NodeID]bool
	out    strings.Builder
}

type wire struct {
	from, to broker.NodeID
	inc      int // of the sender
	at       time.Duration
	msg      broker.Message
}

type node struct {
	id     broker.NodeID
	p      *peers.Peers // nil: down
	inc    int
	paused bool
	meta   [][]byte
	view   map[string]*scheme.Neighbours // by partition
}

func (w *world) boot(n *node) {
	n.inc++
	c := peers.Config{
		ID: n.id, Name: "n" + n.id.String(), Host: "h", Port: 1, Incarnation: fmt.Sprintf("n%d.%d", n.id, n.inc), TickTime: 1500 * time.Millisecond,
		Policy: w.policy, Locator: w.where, DefaultPartitions: 1, DefaultScheme: "classic",
	}
	for _, o := range w.nodes {
		c.Members = append(c.Members, broker.Member{ID: o.id, Name: "n" + o.id.String()})
	}
	p, err := peers.New(c, n.meta, w.time())
	require.NoError(w.t, err)
	n.p, n.view, n.paused = p, map[string]*scheme.Neighbours{}, false
	for _, o := range w.nodes {
		if o != n && o.p != nil && !w.cut[n.id] && !w.cut[o.id] {
			w.link(n, o, true)
			w.link(o, n, true)
		}
	}
	w.step(n, func() { p.Tick(w.time()) })
}

func (w *world) link(n, to *node, up bool) { w.step(n, func() { n.p.Link(w.time(), to.id, up) }) }

func (w *world) time() broker.Time { return broker.Time{Mono: w.now} }

// step runs an input and carries out what comes of it.
func (w *world) step(n *node, do func()) {
	if n.p == nil {
		return
	}
	do()
	for range 3 {
		out := n.p.Take()
		for _, m := range out.Writes {
			n.meta = m.Records
			n.p.Stored(w.time(), m.Seq)
		}
		for _, s := range out.Sends {
			w.wires = append(w.wires, wire{n.id, s.To, n.inc, w.now, s.Msg})
		}
		for _, e := range out.Events {
			w.printf("%s n%d: %s %s\n", w.clock(), n.id, e.Kind, e.Detail)
		}
		for _, l := range out.Logs {
			if l.Level == "warn" {
				w.printf("%s n%d: %s\n", w.clock(), n.id, l.Text)
			}
		}
		for _, ch := range out.Changes {
			w.changed(n, ch)
		}
		for _, r := range out.Results {
			if r.Code != 0 {
				w.printf("n%d answers: %s\n", n.id, kerr.TypedErrorForCode(r.Code).Message)
			}
		}
	}
}

func (w *world) changed(n *node, ch cluster.Change) {
	if ch.Deleted {
		for i := range ch.Topic.Partitions {
			delete(n.view, fmt.Sprintf("%s-%d", ch.Topic.Name, i))
		}
		return
	}
	if ch.Peers.Unchecked {
		w.printf("%s n%d: not checked yet: live %v\n", w.clock(), n.id, ch.Peers.Live)
	}
	n.view[fmt.Sprintf("%s-%d", ch.Topic.Name, ch.Partition.Index)] = ch.Peers
}

func (w *world) clock() string { return fmt.Sprintf("%.2fs", w.now.Seconds()) }

func (w *world) printf(format string, args ...any) { fmt.Fprintf(&w.out, format, args...) }

func (w *world) pass(d time.Duration) {
	for end := w.now + d; w.now < end; {
		w.now += 10 * time.Millisecond
		arrived := w.wires
		w.wires = nil
		for _, m := range arrived {
			to, from := w.nodes[m.to-1], w.nodes[m.from-1]
			switch {
			case to.p == nil || from.inc != m.inc:
			case to.paused || w.cut[m.from] || w.cut[m.to] || w.held[[2]broker.NodeID{m.from, m.to}]:
				w.wires = append(w.wires, m) // the stream holds it
			default:
				w.step(to, func() { to.p.Message(w.time(), m.from, m.msg) })
			}
		}
		for _, n := range w.nodes {
			if n.p != nil && !n.paused && n.p.NextWake() <= w.now {
				w.step(n, func() { n.p.Tick(w.time()) })
			}
		}
	}
}

func (w *world) crash(n *node) {
	n.p = nil
	w.wires = slices.DeleteFunc(w.wires, func(m wire) bool { return m.from == n.id || m.to == n.id })
	for _, o := range w.nodes {
		if o.p != nil && !w.cut[n.id] && !w.cut[o.id] {
			w.link(o, n, false)
		}
	}
}

func (w *world) show() {
	for _, n := range w.nodes {
		if n.p == nil {
			w.printf("n%d: down\n", n.id)
			continue
		}
		st := n.p.State()
		own := "joining"
		if b := st.Broker(n.id); b != nil {
			own = "joined"
			if b.Fenced {
				own = "paused"
			}
		}
		w.printf("n%d: %s\n", n.id, own)
		for _, t := range st.Topics() {
			for _, p := range t.Partitions {
				key := fmt.Sprintf("%s-%d", t.Name, p.Index)
				if v := n.view[key]; v != nil {
					w.printf("  %s master %d (version %d), live %v, reached %v, left %v\n", key, v.Record.Master, v.Record.Version, v.Live, v.Reached, v.Left)
				}
			}
		}
	}
}

func (w *world) run(t *testing.T, d *datadriven.TestData) string {
	w.out.Reset()
	at := func(i int) *node {
		id, err := strconv.Atoi(d.CmdArgs[i].Key)
		require.NoError(t, err, d.Pos)
		return w.nodes[id-1]
	}
	switch d.Cmd {
	case "time":
		by, err := time.ParseDuration(d.CmdArgs[0].Key)
		require.NoError(t, err)
		w.pass(by)
	case "cut":
		for i := range d.CmdArgs {
			w.cut[at(i).id] = true
		}
	case "heal":
		clear(w.cut)
		clear(w.held)
	case "hold":
		w.held[[2]broker.NodeID{at(0).id, at(1).id}], w.held[[2]broker.NodeID{at(1).id, at(0).id}] = true, true
	case "reset":
		w.link(at(0), at(1), false)
		w.link(at(1), at(0), false)
		w.link(at(0), at(1), true)
		w.link(at(1), at(0), true)
	case "crash":
		w.crash(at(0))
	case "stop":
		n := at(0)
		w.step(n, func() { n.p.Leave(w.time()) })
		w.pass(10 * time.Millisecond)
		w.crash(n)
	case "start":
		if d.HasArg("wipe") {
			at(0).meta = nil
		}
		w.boot(at(0))
	case "pause", "resume":
		at(0).paused = d.Cmd == "pause"
	case "client":
		at(0).p.Client(d.CmdArgs[1].Key)
	case "create":
		c := cluster.CreateTopic{Name: d.CmdArgs[1].Key, Partitions: -1, ReplicationFactor: -1}
		if d.HasArg("partitions") {
			n := 0
			d.ScanArgs(t, "partitions", &n)
			c.Partitions = int32(n)
		}
		w.step(at(0), func() { at(0).p.Propose(w.time(), c) })
	case "delete":
		w.step(at(0), func() { at(0).p.Propose(w.time(), cluster.DeleteTopic{Name: d.CmdArgs[1].Key}) })
	case "master":
		var version int
		d.ScanArgs(t, "version", &version)
		m := []broker.NodeID{at(2).id}
		k := peers.Keep{Topic: at(0).p.State().Topic(d.CmdArgs[1].Key).ID, Record: scheme.Record{Version: int64(version), Master: m[0], Mirrors: m, Synced: m, Sessions: []string{""}}}
		w.step(at(0), func() { at(0).p.Propose(w.time(), k) })
	case "show":
		w.show()
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return w.out.String()
}

func newWorld(t *testing.T, nodes int, policy peers.Policy, where peers.Locator) *world {
	w := &world{t: t, policy: policy, where: where, cut: map[broker.NodeID]bool{}, held: map[[2]broker.NodeID]bool{}}
	for i := range nodes {
		w.nodes = append(w.nodes, &node{id: broker.NodeID(i + 1)})
	}
	for _, n := range w.nodes {
		w.boot(n)
	}
	return w
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var w *world
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "new" {
				return w.run(t, d)
			}
			nodes, policy, where := 3, string(peers.Ignore), peers.Balanced
			if d.HasArg("nodes") {
				d.ScanArgs(t, "nodes", &nodes)
			}
			if d.HasArg("policy") {
				d.ScanArgs(t, "policy", &policy)
			}
			if d.HasArg("local") {
				where = peers.ClientLocal
			}
			w = newWorld(t, nodes, peers.Policy(policy), where)
			return w.out.String()
		})
	})
}
