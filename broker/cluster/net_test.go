package cluster

import (
	"bytes"
	cryptorand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker"
)

// seedRaft makes raft's election jitter the same in every run.
func seedRaft(t testing.TB) {
	reader := cryptorand.Reader
	cryptorand.Reader = rand.NewChaCha8([32]byte{})
	t.Cleanup(func() { cryptorand.Reader = reader })
}

type link struct{ from, to broker.NodeID }

// node is one Cluster with the log that its driver would keep.
type node struct {
	cfg     Config
	starts  int
	c       *Cluster // nil: down
	log     [][]byte // durable
	writes  []broker.MetaAppend
	results []Result
	changes []Change
	events  []broker.Event
	ready   bool
	lazy    bool // writes wait for store
	heard   map[string]int
}

// testNet is a network of nodes under a virtual clock.
type testNet struct {
	t      require.TestingT
	now    time.Duration
	ids    []broker.NodeID
	nodes  map[broker.NodeID]*node
	queues map[link][]broker.Message
	cut    map[link]bool
	drop   func(link, broker.Message) bool // loses a message
	// Over all nodes:
	states  map[uint64][]byte // replicated state by applied index
	members map[uint64]string // members of the quorum, likewise
	leaders map[string]broker.NodeID
	fatal   []string
}

func newNet(t require.TestingT, voters, learners int, change func(*Config)) *testNet {
	n := &testNet{
		t: t, nodes: map[broker.NodeID]*node{}, queues: map[link][]broker.Message{}, cut: map[link]bool{},
		states: map[uint64][]byte{}, members: map[uint64]string{}, leaders: map[string]broker.NodeID{},
	}
	var members []broker.Member
	for i := range voters + learners {
		id := broker.NodeID(i + 1)
		n.ids = append(n.ids, id)
		members = append(members, broker.Member{ID: id, Name: fmt.Sprintf("n%d", id)})
	}
	for _, id := range n.ids {
		cfg := DefaultConfig()
		cfg.ID, cfg.Host, cfg.Port = id, members[id-1].Name, 9092
		cfg.Voters, cfg.Learners = members[:voters], members[voters:]
		if change != nil {
			change(&cfg)
		}
		n.nodes[id] = &node{cfg: cfg, heard: map[string]int{}}
		n.start(id)
	}
	return n
}

// fresh starts an empty node in the place of this id: one that has to be added.
func (n *testNet) fresh(id broker.NodeID, dir Directory) {
	d := n.nodes[id]
	if d == nil {
		cfg := n.nodes[n.ids[0]].cfg
		cfg.ID, cfg.Host = id, fmt.Sprintf("n%d", id)
		d = &node{cfg: cfg, heard: map[string]int{}}
		n.nodes[id] = d
		n.ids = append(n.ids, id)
	} else if d.c != nil {
		n.kill(id)
	}
	d.cfg.Directory, d.log = dir, nil
	n.start(id)
}

func (n *testNet) time() broker.Time { return broker.Time{Mono: n.now, Wall: int64(n.now)} }

func (n *testNet) start(id broker.NodeID) {
	d := n.nodes[id]
	d.starts++
	d.cfg.Incarnation = fmt.Sprintf("%d.%d", id, d.starts)
	c, err := New(d.cfg, slices.Clone(d.log), n.time())
	require.NoError(n.t, err)
	d.c, d.ready, d.writes, d.changes = c, false, nil, nil
	n.take(id)
}

// kill loses what was not stored, and what is on the way from and to the node.
func (n *testNet) kill(id broker.NodeID) {
	n.nodes[id].c, n.nodes[id].writes = nil, nil
	for _, other := range n.ids {
		delete(n.queues, link{id, other})
		delete(n.queues, link{other, id})
	}
}

// take carries out what a node asks for and checks what must always hold.
func (n *testNet) take(id broker.NodeID) {
	d := n.nodes[id]
	for {
		out := d.c.Take()
		if out.Fatal != "" {
			n.fatal = append(n.fatal, fmt.Sprintf("node %d: %s", id, out.Fatal))
		}
		require.Empty(n.t, n.fatal)
		for _, s := range out.Sends {
			l := link{id, s.To}
			if !n.cut[l] && n.nodes[s.To] != nil && n.nodes[s.To].c != nil && (n.drop == nil || !n.drop(l, s.Msg)) {
				n.queues[l] = append(n.queues[l], s.Msg)
			}
		}
		d.writes = append(d.writes, out.Writes...)
		d.results = append(d.results, out.Results...)
		d.changes = append(d.changes, out.Changes...)
		d.events = append(d.events, out.Events...)
		d.ready = d.ready || out.ShutdownReady
		n.check(d, out.Changes)
		if d.lazy || len(d.writes) == 0 {
			return
		}
		n.store(id, len(d.writes))
	}
}

// store makes the first count of a node's writes durable and says so.
func (n *testNet) store(id broker.NodeID, count int) {
	d := n.nodes[id]
	for _, w := range d.writes[:count] {
		n.persist(d, w)
	}
	seq := d.writes[count-1].Seq
	d.writes = d.writes[count:]
	d.c.Stored(n.time(), seq)
}

func (n *testNet) persist(d *node, w broker.MetaAppend) {
	if w.Snapshot {
		d.log = nil
	}
	d.log = append(d.log, w.Records...)
}

func (n *testNet) check(d *node, changes []Change) {
	st := d.c.State()
	data, err := st.marshal()
	require.NoError(n.t, err)
	if want, ok := n.states[st.Applied()]; ok {
		require.True(n.t, bytes.Equal(want, data), "states differ at index %d", st.Applied())
	}
	n.states[st.Applied()] = data
	members := fmt.Sprint(slices.Sorted(slices.Values(st.conf.GetVoters())), slices.Sorted(slices.Values(st.conf.GetLearners())))
	if want, ok := n.members[st.Applied()]; ok {
		require.Equal(n.t, want, members, "members differ at index %d", st.Applied())
	}
	n.members[st.Applied()] = members
	for _, ch := range changes {
		p := ch.Partition
		if p == nil {
			continue
		}
		key := fmt.Sprintf("%x-%d@%d", ch.Topic.ID, p.Index, p.Epoch)
		if led, ok := n.leaders[key]; ok {
			require.Equal(n.t, led, p.Leader, "two leaders of %s", key)
		}
		n.leaders[key] = p.Leader
		requireSets(n.t, ch.Topic, p)
		require.True(n.t, slices.Equal(p.Removing, p.Replicas[len(p.Replicas)-len(p.Removing):]), "%s: %s", key, showPartition(p))
	}
}

// requireSets checks what always holds of a partition's in-sync and eligible replicas.
func requireSets(t require.TestingT, tp *Topic, p *Partition) {
	for _, m := range slices.Concat(p.ISR, p.ELR) {
		require.Contains(t, p.Replicas, m, showPartition(p))
	}
	for _, m := range p.ELR {
		require.NotContains(t, p.ISR, m, showPartition(p))
	}
	if p.Leader != broker.None {
		require.Contains(t, p.ISR, p.Leader, showPartition(p))
	}
	if !tp.Eligible || p.Leader != broker.None {
		require.NotEmpty(t, p.ISR, showPartition(p))
	}
	if !tp.Eligible || len(p.ISR) >= min(int(tp.MinISR), len(p.Replicas)) {
		require.Empty(t, p.ELR, showPartition(p))
	}
}

// deliver hands over the oldest message of a link.
func (n *testNet) deliver(l link) {
	q := n.queues[l]
	n.queues[l] = q[1:]
	if d := n.nodes[l.to]; d.c != nil && !n.cut[l] {
		d.heard[fmt.Sprintf("%T", q[0])]++
		d.c.Message(n.time(), l.from, q[0])
		n.take(l.to)
	}
}

// busy gives the links with messages, in order.
func (n *testNet) busy() []link {
	var links []link
	for _, from := range n.ids {
		for _, to := range n.ids {
			if len(n.queues[link{from, to}]) > 0 {
				links = append(links, link{from, to})
			}
		}
	}
	return links
}

func (n *testNet) settle() {
	for range 10_000 {
		links := n.busy()
		if len(links) == 0 {
			return
		}
		for _, l := range links {
			n.deliver(l)
		}
	}
	require.FailNow(n.t, "the nodes never stop talking", n.dump())
}

// tick moves the clock on and wakes who asked for it.
func (n *testNet) tick(d time.Duration) {
	n.now += d
	for _, id := range n.ids {
		if c := n.nodes[id].c; c != nil && n.now >= c.NextWake() {
			c.Tick(n.time())
			n.take(id)
		}
	}
}

// run lets virtual time pass with a perfect network.
func (n *testNet) run(d time.Duration) {
	for end := n.now + d; n.now < end; {
		n.tick(50 * time.Millisecond)
		n.settle()
	}
}

// until runs until a condition holds.
func (n *testNet) until(what string, ok func() bool) {
	for range 2000 {
		if ok() {
			return
		}
		n.tick(50 * time.Millisecond)
		n.settle()
	}
	require.FailNow(n.t, "never: "+what, n.dump())
}

// member says whether a node is a member of the quorum by the newest state applied.
func (n *testNet) member(id broker.NodeID) bool {
	var newest *State
	for _, other := range n.ids {
		if c := n.nodes[other].c; c != nil && (newest == nil || c.State().Applied() > newest.Applied()) {
			newest = c.State()
		}
	}
	raft := raftID(id, n.nodes[id].cfg.Directory)
	return newest != nil && (slices.Contains(newest.conf.GetVoters(), raft) || slices.Contains(newest.conf.GetLearners(), raft))
}

func (n *testNet) controller() broker.NodeID {
	for _, id := range n.ids {
		if d := n.nodes[id]; d.c != nil && d.c.ruling && d.c.State().Controller() == id {
			return id
		}
	}
	return broker.None
}

// up says whether every live broker is registered and unfenced as every live node sees it.
func (n *testNet) up() bool {
	for _, id := range n.ids {
		d := n.nodes[id]
		if d.c == nil || !n.member(id) {
			continue
		}
		for _, other := range n.ids {
			o := n.nodes[other]
			b := d.c.State().Broker(other)
			if o.c != nil && n.member(other) && !o.cfg.ControllerOnly && (b == nil || b.Fenced || b.Incarnation != o.cfg.Incarnation) {
				return false
			}
		}
	}
	return n.controller() != broker.None
}

// agreed says whether all live nodes have applied the same.
func (n *testNet) agreed() bool {
	var first *State
	for _, id := range n.ids {
		c := n.nodes[id].c
		if c == nil || !n.member(id) {
			continue
		}
		if first == nil {
			first = c.State()
		}
		if c.State().Applied() != first.Applied() {
			return false
		}
	}
	return true
}

// propose waits for the outcome.
func (n *testNet) propose(id broker.NodeID, cmd Command) Result {
	d := n.nodes[id]
	ticket := d.c.Propose(n.time(), cmd)
	n.take(id)
	var r Result
	n.until(fmt.Sprintf("result of %#v", cmd), func() bool {
		n.settle()
		i := slices.IndexFunc(d.results, func(r Result) bool { return r.Ticket == ticket })
		if i >= 0 {
			r = d.results[i]
		}
		return i >= 0
	})
	return r
}

func (n *testNet) dump() string {
	var b strings.Builder
	for _, id := range n.ids {
		if c := n.nodes[id].c; c != nil {
			fmt.Fprintf(&b, "node %d, controller %v, applied %d\n%s", id, c.State().Controller(), c.State().Applied(), show(c.State()))
		}
	}
	return b.String()
}

// show prints a state as the golden scripts do.
func show(s *State) string {
	var b strings.Builder
	for _, br := range s.Brokers() {
		fmt.Fprintf(&b, "broker %d epoch=%d", br.ID, br.Epoch)
		if br.Rack != "" {
			fmt.Fprintf(&b, " rack=%s", br.Rack)
		}
		if br.Fenced {
			b.WriteString(" fenced")
		}
		if br.Leaving {
			b.WriteString(" leaving")
		}
		b.WriteString("\n")
	}
	for _, t := range s.Topics() {
		for _, p := range t.Partitions {
			b.WriteString(showPartition(p) + "\n")
		}
	}
	return b.String()
}

func showPartition(p *Partition) string {
	leader := "none"
	if p.Leader != broker.None {
		leader = p.Leader.String()
	}
	moving := ""
	if len(p.Adding)+len(p.Removing) > 0 {
		moving = fmt.Sprintf(" adding=%v removing=%v", p.Adding, p.Removing)
	}
	eligible := ""
	if len(p.ELR) > 0 {
		eligible = fmt.Sprintf(" elr=%v", p.ELR)
	}
	return fmt.Sprintf("%s-%d leader=%s epoch=%d isr=%v%s replicas=%v%s partepoch=%d", p.Topic, p.Index, leader, p.Epoch, p.ISR, eligible, p.Replicas, moving, p.PartEpoch)
}
