// Package peers is the authority of schemes that have no metadata quorum
// (metadata=peers): each node goes by its own view. A failure detector says who is
// there, topics and records are told to everybody and merged, and a partition policy
// says what a node does that sees few others. It models RabbitMQ's classic cluster:
// Erlang's distribution (net_ticktime; a closed connection is a death), Mnesia's
// replicated records, and cluster_partition_handling.
//
// Two nodes of which one declared the other dead, and which see each other again, are
// estranged: they talk (requests are passed on, topics are merged), and they are no
// cluster until one of them has restarted or joined anew. That is what keeps both
// masters after a partition or a pause (RabbitMQ: running_partitioned_network).
//
// Like everything below the driver it is a state machine: messages, links, ticks and
// stored acknowledgements in, an Output out.
package peers

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Policy is what a node does in a partition (RabbitMQ: cluster_partition_handling).
type Policy string

// The policies.
const (
	Ignore        Policy = "ignore"         // go on; both sides have masters until somebody restarts one
	PauseMinority Policy = "pause_minority" // a node that sees no more than half of all members stops serving, and joins anew when it sees more
	Autoheal      Policy = "autoheal"       // when the partition ends, the nodes of all sides but one join anew
)

// Locator says where the home of a new partition is (RabbitMQ: queue-leader-locator).
type Locator string

// The locators.
const (
	Balanced    Locator = "balanced"     // members in turn
	ClientLocal Locator = "client-local" // the node that was asked
)

// Config configures one node's part. Durations are on the monotonic clock.
type Config struct {
	ID          broker.NodeID
	Name        string
	Host        string // advertised to clients
	Port        int32
	Rack        string
	Incarnation string
	Members     []broker.Member // all nodes that there may be
	TickTime    time.Duration   // net_ticktime: a node that was not heard for so long is dead; default 1.5 s (RabbitMQ: 60 s)
	Policy      Policy          // default ignore
	Locator     Locator         // default balanced (RabbitMQ 3.12: client-local)

	DefaultPartitions int32 // of topics that do not say, default 1
	DefaultScheme     string
}

// Validate names the first setting that cannot work.
func (c *Config) Validate() error {
	switch {
	case !slices.ContainsFunc(c.Members, func(m broker.Member) bool { return m.ID == c.ID }):
		return fmt.Errorf("peers: node %d is no member of %v", c.ID, c.Members)
	case c.Incarnation == "":
		return errors.New("peers: empty incarnation: give every start of a node its own")
	case c.TickTime < ticks*time.Millisecond:
		return fmt.Errorf("peers: net_ticktime is %s: it must be at least %s", c.TickTime, ticks*time.Millisecond)
	case !slices.Contains([]Policy{Ignore, PauseMinority, Autoheal}, c.Policy):
		return fmt.Errorf("peers: unknown partition policy %q", c.Policy)
	case !slices.Contains([]Locator{Balanced, ClientLocal}, c.Locator):
		return fmt.Errorf("peers: unknown locator %q", c.Locator)
	case c.DefaultPartitions < 1:
		return errors.New("peers: DefaultPartitions must be at least 1")
	}
	return nil
}

// ticks are the heartbeats within TickTime (net_kernel: 4).
const ticks = 4

// pauseCheck is how often a paused node looks whether it may join again (RabbitMQ: 1 s).
const pauseCheck = time.Second

type phase uint8

const (
	joining phase = iota // waits for those that know more
	joined
	paused
)

// Heartbeat is what a node tells each other one, several times within TickTime.
type Heartbeat struct {
	Session string // of the sender: its incarnation, and how often it joined
	Seq     uint64 // ascending within an incarnation
	// Heard and HeardSeq are the newest session and number that the sender heard of the
	// receiver.
	Heard    string
	HeardSeq uint64
	// Dead: the sender declared the session Heard of the receiver dead.
	Dead    bool
	Joined  bool
	Leaving bool            // it stops in order
	Live    []broker.NodeID // in its view
	Reached []broker.NodeID
	Clients int32 // clients that it served lately
	Host    string
	Port    int32
	Rack    string
}

// Metadata is everything that a node knows of topics, told at every change.
type Metadata struct {
	Session string
	Joined  bool
	Topics  []Topic
	Deleted [][16]byte
}

// Topic is a topic with the records of its partitions.
type Topic struct {
	Topic   cluster.Topic
	Records []scheme.Record
}

// Rejoin tells a node whose side lost that it has to join the winners anew (autoheal).
type Rejoin struct {
	Session string // of the receiver
	Winners []broker.NodeID
}

// neighbour is what a node knows of another one.
type neighbour struct {
	id      broker.NodeID
	session string // "" before it was heard
	hb      Heartbeat
	heardAt time.Duration // newest heartbeat
	echoAt  time.Duration // newest that shows that it hears this node
	echoSeq uint64        // number of this node's that it confirmed
	minEcho uint64        // a confirmation counts above this: the stream broke then
	live    bool
	grace   time.Duration // a member of the cluster joined that was not heard yet is dead only after it
	dead    string        // the session of it that was declared dead
	left    bool          // it is not live because it stopped in order
	parted  string        // the session of it that this node told of as of another cluster's
	meta    *Metadata
	metaOf  string // the own session in which meta came
}

// Peers is one node's view of the others.
type Peers struct {
	cfg     Config
	now     broker.Time
	started bool
	lastAt  time.Duration // last tick
	nextAt  time.Duration
	seq     uint64 // of heartbeats
	gen     int    // how often this process joined, from 1
	phase   phase
	since   time.Duration // of the phase
	leaving bool
	others  []*neighbour // by id

	last    []broker.NodeID // checked live members, kept: whom a restart waits for
	winners []broker.NodeID // whom this node must join, nil: anybody
	split   time.Duration   // autoheal: since when the same partition shows whole, -1: not
	clients []client

	counter   uint64 // logical clock of topics
	producers int64
	topics    []*Topic
	deleted   [][16]byte
	versions  map[[16]byte]int32 // of what was told of a topic to the machines
	st        *cluster.State

	writes  uint64
	ticket  cluster.Ticket
	waiting []result // answered when a write is durable
	out     cluster.Output
	shown   []broker.NodeID // reached when the machines were told last
	told    bool            // something changed that others are told at the end of the step
	beat    bool            // a heartbeat goes out at the end of the step
}

type result struct {
	write uint64
	cluster.Result
}

type client struct {
	id string
	at time.Duration
}

// clientAge is how long a client counts after its last request.
const clientAge = 5 * time.Second

// encoding is deterministic: equal values give equal bytes (RFC 8949, 4.2).
var encoding = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return m
}()

// kept is what the metadata log holds: one record, replaced at every change.
type kept struct {
	View      []broker.NodeID
	Counter   uint64
	Producers int64
	Topics    []*Topic
	Deleted   [][16]byte
}

// New returns a node's part in the state that its metadata log left.
func New(cfg Config, records [][]byte, now broker.Time) (*Peers, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Peers{cfg: cfg, now: now, gen: 1, since: now.Mono, split: -1, versions: map[[16]byte]int32{}, producers: int64(cfg.ID) << 40}
	for _, m := range cfg.Members {
		p.last = append(p.last, m.ID)
		if m.ID != cfg.ID {
			p.others = append(p.others, &neighbour{id: m.ID})
		}
	}
	slices.Sort(p.last)
	slices.SortFunc(p.others, func(a, b *neighbour) int { return int(a.id - b.id) })
	if len(records) > 0 {
		var k kept
		if err := cbor.Unmarshal(records[len(records)-1], &k); err != nil {
			return nil, fmt.Errorf("peers: metadata log: %w; remove this node's metadata directory only if another node is intact", err)
		}
		if slices.ContainsFunc(k.Topics, func(t *Topic) bool { return t == nil || !t.valid() }) {
			return nil, errors.New("peers: metadata log: a topic is not whole; remove this node's metadata directory only if another node is intact")
		}
		p.last, p.counter, p.topics, p.deleted = k.View, k.Counter, k.Topics, k.Deleted
		p.producers = max(p.producers, k.Producers)
	}
	p.show()
	return p, nil
}

// Channel is where its messages go.
func (p *Peers) Channel() broker.Channel { return broker.Peer }

func (p *Peers) session() string { return fmt.Sprintf("%s/%d", p.cfg.Incarnation, p.gen) }

// sessionOf is the session by which this node knows a node, itself included.
func (p *Peers) sessionOf(id broker.NodeID) string {
	if o := p.other(id); o != nil {
		return o.session
	}
	return p.session()
}

func (p *Peers) interval() time.Duration { return p.cfg.TickTime / ticks }

// State is what this node shows of the metadata.
func (p *Peers) State() *cluster.State { return p.st }

// Quorum is nobody's.
func (p *Peers) Quorum() cluster.Quorum { return cluster.Quorum{Leader: broker.None} }

// NextWake is when Tick is wanted.
func (p *Peers) NextWake() time.Duration { return p.nextAt }

// Take returns what came of the inputs since the last call.
func (p *Peers) Take() cluster.Output {
	p.flush()
	out := p.out
	p.out = cluster.Output{}
	return out
}

// flush writes down and tells the others what changed.
func (p *Peers) flush() {
	if p.told {
		p.told = false
		p.store()
		p.show()
		for _, o := range p.others {
			if o.session != "" {
				p.send(o.id, p.metadata())
			}
		}
	}
	if p.beat {
		p.beat = false
		p.beatAll()
	}
}

func (p *Peers) store() {
	data, err := encoding.Marshal(kept{p.last, p.counter, p.producers, p.topics, p.deleted})
	if err != nil {
		p.out.Fatal = "the metadata cannot be encoded: " + err.Error()
		return
	}
	p.writes++
	p.out.Writes = append(p.out.Writes, broker.MetaAppend{Seq: p.writes, Records: [][]byte{data}, Snapshot: true})
}

// Stored takes the acknowledgement of a write.
func (p *Peers) Stored(_ broker.Time, seq uint64) {
	for len(p.waiting) > 0 && p.waiting[0].write <= seq {
		p.out.Results = append(p.out.Results, p.waiting[0].Result)
		p.waiting = p.waiting[1:]
	}
}

func (p *Peers) send(to broker.NodeID, m broker.Message) {
	p.out.Sends = append(p.out.Sends, cluster.Send{To: to, Msg: m})
}

func (p *Peers) logf(level, format string, args ...any) {
	p.out.Logs = append(p.out.Logs, broker.LogLine{Level: level, Text: fmt.Sprintf(format, args...)})
}

func (p *Peers) name(id broker.NodeID) string {
	for _, m := range p.cfg.Members {
		if m.ID == id {
			return m.Name
		}
	}
	return id.String()
}

// show makes the state anew.
func (p *Peers) show() {
	var brokers []*cluster.Broker
	if p.phase != joining {
		brokers = append(brokers, &cluster.Broker{
			ID: p.cfg.ID, Name: p.cfg.Name, Host: p.cfg.Host, Port: p.cfg.Port, Rack: p.cfg.Rack, Incarnation: p.cfg.Incarnation, Epoch: 1, Fenced: p.phase == paused, Leaving: p.leaving,
		})
	}
	for _, o := range p.others {
		if o.session != "" {
			brokers = append(brokers, &cluster.Broker{
				ID: o.id, Name: p.name(o.id), Host: o.hb.Host, Port: o.hb.Port, Rack: o.hb.Rack, Incarnation: o.session, Epoch: 1, Fenced: !p.reached(o) || !o.hb.Joined,
			})
		}
	}
	topics := make([]*cluster.Topic, len(p.topics))
	for i, t := range p.topics {
		topics[i] = &t.Topic
	}
	p.st = cluster.View(p.cfg.ID, p.cfg.Incarnation, p.cfg.ID, brokers, topics)
}

// Client notes that a client was served: autoheal counts them.
func (p *Peers) Client(id string) {
	if i := slices.IndexFunc(p.clients, func(c client) bool { return c.id == id }); i >= 0 {
		p.clients[i].at = p.now.Mono
		return
	}
	p.clients = append(p.clients, client{id, p.now.Mono})
}

// Leave begins a stop in order: the others are told, and that suffices.
func (p *Peers) Leave(now broker.Time) {
	p.step(now)
	if p.leaving {
		return
	}
	p.leaving = true
	p.show()
	p.beatAll()
	p.out.ShutdownReady = true
}

// neighbours is this node's view for the machine of a partition.
func (p *Peers) neighbours(r scheme.Record, home broker.NodeID) *scheme.Neighbours {
	n := &scheme.Neighbours{Record: copied(r), Home: home, Members: p.members(), Live: p.live(), Reached: p.partners(), Paused: p.phase != joined, Session: p.gen}
	for _, id := range n.Live {
		n.Sessions = append(n.Sessions, p.sessionOf(id))
	}
	for _, o := range p.others {
		if o.left && !o.live {
			n.Left = append(n.Left, o.id)
		}
	}
	return n
}

// partners are the nodes reached that take part, live or not, this one among them.
func (p *Peers) partners() []broker.NodeID {
	ids := []broker.NodeID{p.cfg.ID}
	for _, o := range p.others {
		if p.reached(o) && o.hb.Joined {
			ids = append(ids, o.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// members are all nodes that there may be.
func (p *Peers) members() []broker.NodeID {
	var ids []broker.NodeID
	for _, m := range p.cfg.Members {
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	return ids
}

func copied(r scheme.Record) scheme.Record {
	r.Mirrors, r.Synced, r.Sessions = slices.Clone(r.Mirrors), slices.Clone(r.Synced), slices.Clone(r.Sessions)
	return r
}

// live are this node and its partners.
func (p *Peers) live() []broker.NodeID {
	ids := []broker.NodeID{p.cfg.ID}
	for _, o := range p.others {
		if o.live {
			ids = append(ids, o.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// reached reports whether a node hears this one and is heard.
func (p *Peers) reached(o *neighbour) bool {
	return o.session != "" && o.echoSeq > o.minEcho && o.hb.Heard == p.session() && p.now.Mono-min(o.heardAt, o.echoAt) < p.cfg.TickTime
}

// all are the nodes reached, this one among them.
func (p *Peers) all() []broker.NodeID {
	ids := []broker.NodeID{p.cfg.ID}
	for _, o := range p.others {
		if p.reached(o) {
			ids = append(ids, o.id)
		}
	}
	slices.Sort(ids)
	return ids
}

// estranged: one of the two declared the other dead, and neither has restarted since.
func (p *Peers) estranged(o *neighbour) bool {
	return o.dead == o.session || o.hb.Dead && o.hb.Heard == p.session()
}

// Current is the view as it is, for a node that begins to act on it.
func (p *Peers) Current() []cluster.Change {
	var changes []cluster.Change
	for _, t := range p.topics {
		changes = append(changes, p.view(t)...)
	}
	return changes
}

// changed tells every partition's machine of the view.
func (p *Peers) changed() {
	p.shown = p.partners()
	for _, t := range p.topics {
		p.tell(t)
	}
}

func (p *Peers) tell(t *Topic) { p.out.Changes = append(p.out.Changes, p.view(t)...) }

// view is each partition of a topic as this node sees it, every time with a higher epoch.
func (p *Peers) view(t *Topic) []cluster.Change {
	p.versions[t.Topic.ID]++
	changes := make([]cluster.Change, len(t.Records))
	for i, part := range t.Topic.Partitions {
		r := t.Records[i]
		q := *part
		q.Replicas, q.ISR, q.Leader, q.Epoch, q.PartEpoch = r.Mirrors, r.Synced, r.Master, -1, p.versions[t.Topic.ID]
		changes[i] = cluster.Change{Topic: &t.Topic, Partition: &q, Peers: p.neighbours(r, part.Leader)}
	}
	return changes
}

func (p *Peers) topic(id [16]byte) *Topic {
	for _, t := range p.topics {
		if t.Topic.ID == id {
			return t
		}
	}
	return nil
}

// Keep replaces the record of a partition.
type Keep struct {
	Topic  [16]byte
	Index  int32
	Record scheme.Record
}

// Propose carries a command out at once, by this node's own view. The Result comes
// as soon as it is durable here.
func (p *Peers) Propose(now broker.Time, cmd cluster.Command) cluster.Ticket {
	p.step(now)
	p.ticket++
	r := cluster.Result{Ticket: p.ticket}
	switch c := cmd.(type) {
	case Keep:
		t := p.topic(c.Topic)
		if t == nil || int(c.Index) >= len(t.Records) {
			r.Code = kerr.UnknownTopicOrPartition.Code
			break
		}
		t.Records[c.Index] = copied(c.Record)
		p.told = true
	case cluster.CreateTopic:
		r.Value, r.Code, r.Text = p.create(c)
	case cluster.DeleteTopic:
		r.Code, r.Text = p.delete(c.Name)
	case cluster.AllocateProducerID:
		p.producers++
		r.Value, p.told = p.producers, true
	default:
		r.Code, r.Text = kerr.InvalidRequest.Code, "nodes that go by their own views (metadata=peers) have no such request"
	}
	if r.Code != 0 || !p.told {
		p.out.Results = append(p.out.Results, r)
		return p.ticket
	}
	p.waiting = append(p.waiting, result{p.writes + 1, r})
	return p.ticket
}

func (p *Peers) create(c cluster.CreateTopic) (t *cluster.Topic, code int16, text string) {
	if p.phase != joined {
		return nil, kerr.NotController.Code, "this node is no part of the cluster at present: ask another one"
	}
	if c.Scheme == "" {
		c.Scheme = p.cfg.DefaultScheme
	}
	p.counter++
	// Ids of two nodes differ, and of one node grow: the older topic has the lower one.
	t, code, text = p.st.NewTopic(p.counter<<16|uint64(p.cfg.ID), c)
	if code != 0 {
		return nil, code, text
	}
	homes, code, text := p.homes(c)
	if code != 0 {
		return nil, code, text
	}
	t.Election = cluster.ElectReplicas // nobody beside the machines says who leads
	whole := &Topic{Topic: *t}
	for i, home := range homes {
		whole.Topic.Partitions = append(whole.Topic.Partitions, &cluster.Partition{Topic: c.Name, Index: int32(i), Leader: home, Replicas: []broker.NodeID{home}, Epoch: -1})
		whole.Records = append(whole.Records, scheme.Record{Version: 1, Master: home, Mirrors: []broker.NodeID{home}, Synced: []broker.NodeID{home}, Sessions: []string{p.sessionOf(home)}})
	}
	if c.ValidateOnly {
		return &whole.Topic, 0, ""
	}
	p.add(whole)
	return &whole.Topic, 0, ""
}

// homes gives each new partition a node.
func (p *Peers) homes(c cluster.CreateTopic) ([]broker.NodeID, int16, string) {
	var homes []broker.NodeID
	if len(c.Assignment) > 0 {
		for _, replicas := range c.Assignment {
			if len(replicas) == 0 || !slices.ContainsFunc(p.cfg.Members, func(m broker.Member) bool { return m.ID == replicas[0] }) {
				return nil, kerr.InvalidReplicaAssignment.Code, fmt.Sprintf("%v does not begin with a member of the cluster", replicas)
			}
			homes = append(homes, replicas[0])
		}
		return homes, 0, ""
	}
	n := c.Partitions
	if n == -1 {
		n = p.cfg.DefaultPartitions
	}
	if n < 1 || n > maxPartitions {
		return nil, kerr.InvalidPartitions.Code, fmt.Sprintf("%d partitions: from 1 to %d are allowed, or -1 for the default", n, maxPartitions)
	}
	live := p.live()
	for i := range n {
		home := p.cfg.ID
		if p.cfg.Locator == Balanced {
			home = live[int(i)%len(live)]
		}
		homes = append(homes, home)
	}
	return homes, 0, ""
}

const maxPartitions = 10_000

func (p *Peers) add(t *Topic) {
	p.topics = append(p.topics, t)
	slices.SortFunc(p.topics, older)
	p.told = true
	p.show()
	p.tell(t)
}

func older(a, b *Topic) int { return cmp.Compare(a.Topic.Created, b.Topic.Created) }

func (p *Peers) delete(name string) (int16, string) {
	for _, t := range p.topics {
		if t.Topic.Name == name {
			p.drop(t)
			return 0, ""
		}
	}
	return kerr.UnknownTopicOrPartition.Code, fmt.Sprintf("topic %q does not exist", name)
}

// drop forgets a topic for good: its id is remembered, so that no other node brings it back.
func (p *Peers) drop(t *Topic) {
	p.topics = slices.DeleteFunc(p.topics, func(o *Topic) bool { return o == t })
	p.deleted = append(p.deleted, t.Topic.ID)
	p.told = true
	p.show()
	p.out.Changes = append(p.out.Changes, cluster.Change{Topic: &t.Topic, Deleted: true})
}
