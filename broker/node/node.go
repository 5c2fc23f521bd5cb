// Package node is one broker: it routes inputs to the metadata quorum, to the
// partitions it hosts and to the Kafka request handlers, and collects their
// effects. It is deterministic: the same inputs give the same effects.
package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/kafka"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
)

// Config is what a node is made from.
type Config struct {
	ID          broker.NodeID
	Name        string
	Incarnation string          // differs between incarnations of one node
	Members     []broker.Member // every node that there may be, each at its place
	Voters      []broker.NodeID // those that the cluster begins with, brokers and controllers; nil: all of Members
	Host        string          // advertised to clients
	Port        int32
	Rack        string
	Scheme      string // of topics that name none
	Options     options.Values
	Mutants     mutant.Set // seeded bugs; none without the build tag
}

// Validate checks what New relies on.
func (c Config) Validate() error {
	if _, err := schemes.Lookup(c.Scheme); err != nil {
		return err
	}
	if !slices.ContainsFunc(c.Members, func(m broker.Member) bool { return m.ID == c.ID && m.Name == c.Name }) {
		return fmt.Errorf("node %d (%s) is not a member of the cluster %v", c.ID, c.Name, c.Members)
	}
	for _, id := range c.Voters {
		if !slices.ContainsFunc(c.Members, func(m broker.Member) bool { return m.ID == id }) {
			return fmt.Errorf("node %d of the first voters is not a member of the cluster %v", id, c.Members)
		}
	}
	return nil
}

// LaneState is one log as the driver found it at start: everything in it is
// durable.
type LaneState struct {
	Lane    broker.Lane
	Start   int64
	Batches []batch.Info
	High    int64  // checkpointed high watermark
	Kept    []byte // what the scheme keeps beside the log (broker.Keep), nil for nothing
	// Corrupt names damage in the middle of the log, from Start plus Batches on;
	// what stood behind it is not to be trusted.
	Corrupt string
	// Torn is the number of bytes of a torn tail that were cut off.
	Torn int64
}

// Recovered is what the driver found on disk.
type Recovered struct {
	Lanes []LaneState
	Meta  [][]byte
	// Directory is what the metadata volume was formatted with, 0 for a node that
	// the cluster begins with. Any other waits until it is added.
	Directory cluster.Directory
	// Stopped is the broker epoch of the incarnation that stopped in order on these logs
	// (broker.Exit), 0 if the last one did not or if damage was found since.
	Stopped int64
}

// Node is one broker. It is not safe for concurrent use.
type Node struct {
	cfg     Config
	now     broker.Time
	eff     []broker.Effect
	seq     int64 // of events
	c       authority
	k       *kafka.Server
	opts    scheme.Options
	found   map[broker.Lane]LaneState
	parts   []*partition // in order of creation
	byID    map[partID]*partition
	byLane  map[broker.Lane]*partition
	isr     map[cluster.Ticket]*partition
	names   map[broker.NodeID]string
	written map[broker.Lane]uint64 // lanes of replicas that left: number of their last write
	epoch   int64                  // own broker epoch, -1 before registration
	former  int64                  // Recovered.Stopped
	syncAt  time.Duration
	highAt  time.Duration
	leaving bool
	stopAt  time.Duration
	stopped bool
}

type partID struct {
	topic [16]byte
	index int32
}

// PartitionMessage is a message of one partition to the same partition on
// another node.
type PartitionMessage struct {
	Topic [16]byte // topic id
	Index int32
	Body  broker.Message
}

// Intervals of the node's own chores.
const (
	highInterval = 5 * time.Second  // checkpoint of high watermarks (Kafka: replica.high.watermark.checkpoint.interval.ms)
	stopLimit    = 10 * time.Second // a graceful stop takes no longer
)

// New returns a node in the state that the driver found on disk. Step it with
// Wake first.
func New(cfg Config, rec Recovered, now broker.Time) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	o := cfg.Options
	n := &Node{
		cfg: cfg, now: now, found: map[broker.Lane]LaneState{}, byID: map[partID]*partition{}, byLane: map[broker.Lane]*partition{},
		isr: map[cluster.Ticket]*partition{}, names: map[broker.NodeID]string{}, written: map[broker.Lane]uint64{}, epoch: -1, former: rec.Stopped, syncAt: scheme.Never, highAt: now.Mono + highInterval, stopAt: scheme.Never,
	}
	n.opts = scheme.DefaultOptions()
	n.opts.Mutants = cfg.Mutants
	n.opts.SyncAlways = o.String("fsync") == "always"
	n.opts.Set = o
	if o.String("fsync") == "interval" {
		n.syncAt = now.Mono + o.Duration("fsync.interval.ms")
	}
	for _, l := range rec.Lanes {
		n.found[l.Lane] = l
	}
	var ids []broker.NodeID
	for _, m := range cfg.Members {
		n.names[m.ID] = m.Name
		ids = append(ids, m.ID)
	}
	c, err := n.newAuthority(rec)
	if err != nil {
		return nil, err
	}
	n.c = c
	n.k = kafka.New(backend{n}, kafka.Config{Self: cfg.ID, ClusterID: "faultline", AutoCreate: o.Bool("auto.create.topics.enable"), Scheme: cfg.Scheme, Schemes: n.beside(), Nodes: ids})
	records := int64(0)
	for _, l := range rec.Lanes {
		if k := len(l.Batches); k > 0 {
			records += l.Batches[k-1].Last + 1 - l.Start
		}
	}
	found := fmt.Sprintf("scheme %s; found %d logs with %d records", cfg.Scheme, len(rec.Lanes), records)
	if rec.Stopped > 0 {
		found += ", as they were left in order"
	}
	n.Emit(broker.Event{Kind: "start", Epoch: -1, Offset: records, Detail: found})
	return n, nil
}

// beside are the schemes that a topic may have: those of the node's own authority.
func (n *Node) beside() []scheme.Definition {
	return slices.DeleteFunc(slices.Clone(schemes.Known()), func(d scheme.Definition) bool { return d.MetadataUnder(n.cfg.Options) != n.metadata() })
}

// metadata is the authority of the node's scheme.
func (n *Node) metadata() scheme.Metadata {
	d, _ := schemes.Lookup(n.cfg.Scheme) // Validate found it
	return d.MetadataUnder(n.cfg.Options)
}

// eligibleLeaders gives the schemes that keep eligible leader replicas.
func eligibleLeaders(o options.Values) []string {
	var names []string
	for _, d := range schemes.Known() {
		if d.Eligible != nil && d.Eligible(o) {
			names = append(names, d.Name)
		}
	}
	return names
}

// elections gives the schemes whose leaders are not elected from an in-sync set.
func elections(o options.Values) map[string]cluster.Election {
	m := map[string]cluster.Election{}
	for _, d := range schemes.Known() {
		switch d.ElectionUnder(o) {
		case scheme.Fixed:
			m[d.Name] = cluster.ElectFixed
		case scheme.Replicas:
			m[d.Name] = cluster.ElectReplicas
		}
	}
	return m
}

// Step takes one input and returns what to do, in order. The slice is valid
// until the next step.
func (n *Node) Step(now broker.Time, in broker.Input) []broker.Effect {
	n.now = now
	if n.stopped {
		return nil
	}
	switch i := in.(type) {
	case broker.Request:
		n.c.Client(i.ClientID)
		n.k.Handle(i)
	case broker.RequestGone:
		n.k.Gone(i.ID)
	case broker.PeerMessage:
		n.peer(i)
	case broker.Link:
		if i.Channel == n.c.Channel() {
			n.c.Link(now, i.Peer, i.Up)
		}
		if i.Channel == broker.Peer {
			n.k.Link(i.Peer, i.Up)
			for _, p := range n.parts {
				p.m.Link(i.Peer, i.Up)
			}
		}
	case broker.Stored:
		n.stored(i)
	case broker.MetaStored:
		if i.Err != nil {
			n.fail("the metadata log cannot be written: " + i.Err.Error())
			break
		}
		n.c.Stored(now, i.Seq)
	case broker.DeviceDone:
		n.device(i)
	case broker.ReadFailed:
		if p := n.byLane[i.Lane]; p != nil && p.shared {
			p.m.Message(n.cfg.ID, &i) // whoever damaged it, this node may still serve others
			break
		}
		// The bytes on disk are not what was written: this replica can no longer be
		// trusted with anything. At the next start recovery refuses the damage.
		n.fail(fmt.Sprintf("log %s is damaged at offset %d: %v", i.Lane, i.Offset, i.Err))
	case broker.Wake:
		n.wake()
	case broker.Terminate:
		if !n.leaving {
			n.leaving, n.stopAt = true, now.Mono+stopLimit
			n.c.Leave(now)
			for _, p := range n.parts {
				if r, ok := p.m.(scheme.Resigner); ok {
					r.Resign()
				}
			}
		}
	}
	n.pump()
	n.marks()
	out := n.eff
	n.eff = out[:0] // the next step's take its place
	if i := slices.IndexFunc(out, func(e broker.Effect) bool { _, ok := e.(broker.Exit); return ok }); i >= 0 {
		return out[:i+1] // the process has ended
	}
	return out
}

// NextWake is the time (monotonic) at which the node wants a Wake.
func (n *Node) NextWake() time.Duration {
	if n.stopped {
		return scheme.Never
	}
	next := min(n.c.NextWake(), n.k.NextWake(), n.syncAt, n.highAt, n.stopAt)
	for _, p := range n.parts {
		next = min(next, p.m.NextWake())
	}
	return next
}

func (n *Node) wake() {
	now := n.now.Mono
	n.c.Tick(n.now)
	for _, p := range n.parts {
		if p.m.NextWake() <= now {
			p.m.Wake()
		}
	}
	n.k.Wake()
	if n.syncAt <= now {
		n.syncAt = now + n.cfg.Options.Duration("fsync.interval.ms")
		n.syncAll()
	}
	if n.highAt <= now {
		n.highAt = now + highInterval
		n.checkpoint()
	}
	switch {
	case n.stopAt > now:
	case n.c.State().Controller() == broker.None:
		// The others are gone too: there is nobody to move leadership to (Kafka, as
		// well, then goes on to stop in order).
		n.finish("graceful stop without a metadata quorum: leadership was not moved")
	default:
		n.exit(1, "the graceful stop took longer than "+stopLimit.String())
	}
}

// finish ends the node in order: what it knows is kept. Before its registration it
// has not touched the logs: they are as the former incarnation left them.
func (n *Node) finish(reason string) {
	n.checkpoint()
	n.syncAll()
	for _, p := range n.parts {
		if p.shared {
			p.m.Close() // others need not wait for its lease
		}
	}
	epoch := n.epoch
	if epoch < 0 {
		epoch = n.former
	}
	n.end(broker.Exit{Reason: reason, BrokerEpoch: epoch})
}

func (n *Node) checkpoint() {
	for _, p := range n.parts {
		high := p.m.High()
		if s, ok := p.m.(scheme.Selective); ok {
			high = s.Mark()
		}
		n.checkpointOf(p, high)
	}
}

func (n *Node) checkpointOf(p *partition, high int64) {
	if !p.shared && high != p.checkpointed {
		p.checkpointed = high
		n.do(broker.Checkpoint{Lane: p.lane, HW: high})
	}
}

// marks keeps what selective machines keep as soon as it has changed.
func (n *Node) marks() {
	for _, p := range n.parts {
		if s, ok := p.m.(scheme.Selective); ok {
			n.checkpointOf(p, s.Mark())
		}
	}
}

// pump carries out what the quorum decided until nothing more comes of it.
func (n *Node) pump() {
	for {
		out := n.c.Take()
		for _, w := range out.Writes {
			n.do(w)
		}
		for _, s := range out.Sends {
			n.do(broker.Send{To: s.To, Channel: n.c.Channel(), Msg: s.Msg})
		}
		for _, ev := range out.Events {
			n.Emit(ev)
		}
		for _, l := range out.Logs {
			n.do(l)
		}
		if out.Fatal != "" {
			n.fail(out.Fatal)
			return
		}
		n.register()
		for _, ch := range out.Changes {
			n.changed(ch)
		}
		for _, r := range out.Results {
			if p, ok := n.isr[r.Ticket]; ok {
				delete(n.isr, r.Ticket)
				if p.proposal == r.Ticket {
					p.m.ISRAnswer(r.Code)
				}
				continue
			}
			n.k.Result(r)
		}
		if out.ShutdownReady && n.leaving {
			n.finish("graceful stop")
			return
		}
		n.k.Run()
		if len(out.Writes)+len(out.Sends)+len(out.Changes)+len(out.Results) == 0 {
			return
		}
	}
}

// register notices this incarnation's registration. Before it, metadata speaks
// of a former incarnation: a restarted broker must not act on it.
func (n *Node) register() {
	if n.epoch >= 0 {
		return
	}
	b := n.c.State().Broker(n.cfg.ID)
	if b == nil || b.Incarnation != n.cfg.Incarnation {
		return
	}
	n.epoch = b.Epoch
	for _, ch := range n.c.Current() {
		n.assign(ch)
	}
	n.dropUnknownLanes()
}

// dropUnknownLanes deletes logs of topics that were deleted while this node was away.
func (n *Node) dropUnknownLanes() {
	var unknown []broker.Lane
	for lane := range n.found {
		if n.byLane[lane] == nil {
			unknown = append(unknown, lane)
		}
	}
	slices.Sort(unknown)
	for _, lane := range unknown {
		// Its topic is deleted for certain: this incarnation's registration comes
		// after every creation that this node ever applied.
		n.do(broker.RemoveLane{Lane: lane})
	}
	n.found = map[broker.Lane]LaneState{}
}

func (n *Node) changed(ch cluster.Change) {
	if n.epoch < 0 {
		return
	}
	if ch.Deleted {
		for _, p := range slices.Clone(n.parts) {
			if p.id.topic == ch.Topic.ID {
				n.Emit(broker.Event{Kind: "deleted", Key: p.key, Epoch: -1, Offset: p.index.End(), Detail: "its topic was deleted"})
				n.remove(p)
			}
		}
		return
	}
	if ch.Partition != nil {
		n.assign(ch)
		return
	}
	for _, p := range ch.Topic.Partitions {
		n.assign(cluster.Change{Topic: ch.Topic, Partition: p})
	}
}

// assign tells a partition's machine what was decided, and makes the machine if
// this node is a new replica.
func (n *Node) assign(ch cluster.Change) {
	t, cp := ch.Topic, ch.Partition
	id := partID{t.ID, cp.Index}
	p := n.byID[id]
	if ch.Peers == nil && !slices.Contains(cp.Replicas, n.cfg.ID) {
		if p != nil && cp.PartEpoch > p.partEpoch {
			n.remove(p) // reassigned: others have it all
		}
		return
	}
	if p == nil {
		p = n.host(t, cp)
		n.parts = append(n.parts, p)
		n.byID[id], n.byLane[p.lane] = p, p
	}
	if cp.PartEpoch <= p.partEpoch {
		return // what was decided before the registration, or known since
	}
	p.partEpoch = cp.PartEpoch
	if p.refused && cp.Leader != broker.None && cp.Leader != n.cfg.ID && slices.Contains(cp.ISR, n.cfg.ID) {
		p.refused = false // the leader took it in: it has fetched the damaged part again
		p.repair()
	}
	p.m.Assigned(scheme.Assignment{
		Replicas: slices.Clone(cp.Replicas), ISR: slices.Clone(cp.ISR), Leader: cp.Leader, Epoch: cp.Epoch, PartEpoch: cp.PartEpoch,
		MinISR: min(int(t.MinISR), len(cp.Replicas)), Unclean: ch.Unclean, Eligible: ch.Eligible, Peers: ch.Peers,
	})
}

// Lane returns the lane of a partition: topics that were deleted and created
// again under the same name have different ones.
func Lane(topic string, index int32, created uint64) broker.Lane {
	return broker.Lane(fmt.Sprintf("%s-%d.%d", topic, index, created))
}

// LaneKey returns the "topic-partition" of a lane.
func LaneKey(l broker.Lane) string {
	s := string(l)
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		return s[:i]
	}
	return s
}

func (n *Node) host(t *cluster.Topic, cp *cluster.Partition) *partition {
	d, err := schemes.Lookup(t.Scheme)
	if err != nil {
		d, _ = schemes.Lookup(n.cfg.Scheme) // Validate checked it
	}
	p := &partition{
		shared: d.Shared, open: !d.Shared,
		n: n, id: partID{t.ID, cp.Index}, topic: t.Name, key: fmt.Sprintf("%s-%d", t.Name, cp.Index),
		lane: Lane(t.Name, cp.Index, t.Created), index: logindex.New(0, nil), partEpoch: -1, seq: n.written[Lane(t.Name, cp.Index, t.Created)],
	}
	high := int64(0)
	if l, ok := n.found[p.lane]; ok {
		p.index = logindex.New(l.Start, l.Batches)
		high, p.kept = l.High, l.Kept
		if l.Corrupt != "" {
			p.refused, p.damaged = true, true
			n.Emit(broker.Event{Kind: "corrupt", Key: p.key, Epoch: -1, Offset: p.index.End(), Detail: l.Corrupt})
		}
		if l.Torn > 0 {
			n.Emit(broker.Event{Kind: "torn", Key: p.key, Epoch: -1, Offset: p.index.End(), Detail: fmt.Sprintf("cut %d bytes of a torn tail", l.Torn)})
		}
		delete(n.found, p.lane)
	} else if !d.Shared {
		n.do(broker.OpenLane{Lane: p.lane})
	}
	p.sync = broker.Sync{Lane: p.lane}
	p.stable, p.checkpointed = p.index.End(), high
	p.m = d.New(p, n.opts, high)
	return p
}

func (n *Node) remove(p *partition) {
	p.m.Close()
	n.k.Deleted(p)
	n.parts = slices.DeleteFunc(n.parts, func(q *partition) bool { return q == p })
	delete(n.byID, p.id)
	delete(n.byLane, p.lane)
	// Should the replica come back, reports of these writes are none of its own.
	n.written[p.lane] = p.seq
	if p.shared {
		n.do(broker.Device{Lane: p.lane, Do: broker.RemoveLog})
		return
	}
	n.do(broker.RemoveLane{Lane: p.lane})
}

// device takes an answer of the shared storage device.
func (n *Node) device(in broker.DeviceDone) {
	p := n.byLane[in.Lane]
	if p == nil {
		return
	}
	if in.Do == broker.OpenLog && in.Err == nil && in.Held {
		p.adopt(in.Log)
	}
	p.m.Message(n.cfg.ID, &in)
}

func (n *Node) peer(in broker.PeerMessage) {
	switch m := in.Msg.(type) {
	case *PartitionMessage:
		if p := n.byID[partID{m.Topic, m.Index}]; p != nil && in.Channel == broker.Peer {
			p.m.Message(in.From, m.Body)
		}
	case *kafka.Forward:
		n.k.Forwarded(in.From, m)
	case *kafka.Forwarded:
		n.k.Answered(in.From, m)
	default:
		if in.Channel == n.c.Channel() {
			n.c.Message(n.now, in.From, in.Msg)
		}
	}
}

func (n *Node) stored(in broker.Stored) {
	if in.Err != nil {
		n.fail(fmt.Sprintf("log %s cannot be written: %v", in.Lane, in.Err))
		return
	}
	if p := n.byLane[in.Lane]; p != nil {
		p.storedUpTo(in.Written, in.Synced)
	}
}

func (n *Node) syncAll() {
	for _, p := range n.parts {
		if p.open {
			n.do(p.sync)
		}
	}
}

// fail ends the node at once: what it cannot store it must not acknowledge.
func (n *Node) fail(reason string) {
	n.do(broker.LogLine{Level: "error", Text: reason})
	n.exit(3, reason)
}

func (n *Node) exit(code int, reason string) { n.end(broker.Exit{Code: code, Reason: reason}) }

func (n *Node) end(e broker.Exit) {
	if n.stopped {
		return
	}
	n.Emit(broker.Event{Kind: "stop", Epoch: -1, Detail: e.Reason})
	n.do(e)
	n.stopped = true
}

func (n *Node) do(e broker.Effect) { n.eff = append(n.eff, e) }

// Emit reports an event, numbered.
func (n *Node) Emit(ev broker.Event) {
	n.seq++
	ev.Seq, ev.Wall, ev.Inc = n.seq, n.now.Wall, n.cfg.Incarnation
	n.do(broker.Emit{Event: ev})
}

// Ready reports whether this node takes part: registered, not fenced, and a
// controller is known. detail says what is missing.
func (n *Node) Ready() (ok bool, detail string) {
	st := n.c.State()
	b := st.Broker(n.cfg.ID)
	switch {
	case n.stopped:
		return false, "stopped"
	case st.Controller() == broker.None:
		return false, "no controller is known"
	case n.epoch < 0:
		return false, "not registered yet"
	case b == nil || b.Fenced:
		return false, "fenced"
	}
	return true, "ready"
}

// Stat is one figure of a node for /metrics.
type Stat struct {
	Name  string
	Key   string // topic-partition, or empty
	Value float64
}

// Stats returns the node's figures.
func (n *Node) Stats() []Stat {
	ready, _ := n.Ready()
	s := []Stat{
		{Name: "ready", Value: b2f(ready)},
		{Name: "broker_epoch", Value: float64(n.epoch)},
		{Name: "partitions", Value: float64(len(n.parts))},
		{Name: "controller", Value: b2f(n.c.State().Controller() == n.cfg.ID)},
	}
	for _, p := range n.parts {
		v := p.m.View()
		s = append(s,
			Stat{"log_end_offset", p.key, float64(p.index.End())}, Stat{"log_stable_offset", p.key, float64(p.stable)}, Stat{"high_watermark", p.key, float64(p.m.High())},
			Stat{"leader_epoch", p.key, float64(v.Epoch)}, Stat{"is_leader", p.key, b2f(v.Leader == n.cfg.ID)}, Stat{"in_sync_replicas", p.key, float64(len(v.InSync))})
	}
	return s
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
