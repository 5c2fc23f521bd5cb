// Package kafka answers Kafka clients: one file per request, encoded by
// github.com/twmb/franz-go/pkg/kmsg. What is advertised in ApiVersions is all
// there is. The handlers are part of the node: no goroutine, clock or socket.
package kafka

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// DebuggingConsumer is the replica id with which a fetch or a ListOffsets reads
// a replica's own log up to its end, whoever leads (Kafka:
// FetchRequest.DEBUGGING_CONSUMER_ID). The drain sees every replica by it.
const DebuggingConsumer = -2

// Backend is what the handlers need of the node.
type Backend interface {
	Now() broker.Time
	State() *cluster.State
	Propose(cluster.Command) cluster.Ticket
	Quorum() cluster.Quorum
	// Partition returns a partition hosted by this node, nil where it is not.
	Partition(topic string, index int32) Partition
	Reply(broker.Reply)
	// Send sends a message to the same handlers on another node.
	Send(to broker.NodeID, m broker.Message, s []broker.Slice)
	// Configs are the defaults of a topic's configs.
	Configs(*cluster.Topic) map[string]string
	BrokerConfigs() map[string]string
}

// Partition is one hosted partition.
type Partition interface {
	Machine() scheme.Machine
	Index() *logindex.Index
	Lane() broker.Lane
	Now() broker.Time
}

// Config configures the handlers.
type Config struct {
	Self       broker.NodeID
	ClusterID  string
	AutoCreate bool // auto.create.topics.enable
	// Schemes are the replication schemes that a topic may name. Nil: not checked.
	Schemes []scheme.Definition
	Scheme  string // of topics that name none
	// Nodes are those that may be added to the quorum. Nil: not checked.
	Nodes []broker.NodeID
}

// Server holds the requests in progress.
type Server struct {
	b   Backend
	cfg Config

	produces map[broker.ReqID]*produce
	tokens   map[uint64]token
	token    uint64
	fetches  []*fetch // parked, in order of arrival
	waits    []*wait
	dirty    []Partition
	admin    map[cluster.Ticket]func(cluster.Result)

	passed []*passed // in order of their ids
	passID uint64
	inner  broker.ReqID
	then   map[broker.ReqID]func(broker.Reply) // of inner requests
	cut    map[broker.NodeID]bool              // streams that broke
}

// New returns a server without requests.
func New(b Backend, cfg Config) *Server {
	return &Server{
		b: b, cfg: cfg, produces: map[broker.ReqID]*produce{}, tokens: map[uint64]token{}, admin: map[cluster.Ticket]func(cluster.Result){},
		then: map[broker.ReqID]func(broker.Reply){}, cut: map[broker.NodeID]bool{},
	}
}

// api is one request kind that is served.
type api struct {
	key      kmsg.Key
	min, max int16
	handle   func(*Server, broker.ReqID, kmsg.Request)
}

var apis []api

// The table refers to handlers, one of which reads the table.
func init() {
	apis = []api{
		{kmsg.Produce, 3, 9, (*Server).produce},
		{kmsg.Fetch, 4, 12, (*Server).fetch},
		{kmsg.ListOffsets, 1, 6, (*Server).listOffsets},
		{kmsg.Metadata, 0, 12, (*Server).metadata},
		{kmsg.ApiVersions, 0, 3, (*Server).apiVersions},
		{kmsg.CreateTopics, 2, 7, (*Server).createTopics},
		{kmsg.DeleteTopics, 1, 6, (*Server).deleteTopics},
		{kmsg.InitProducerID, 0, 4, (*Server).initProducerID},
		{kmsg.OffsetForLeaderEpoch, 2, 4, (*Server).offsetForLeaderEpoch},
		{kmsg.DescribeConfigs, 1, 4, (*Server).describeConfigs},
		{kmsg.ElectLeaders, 0, 2, (*Server).electLeaders},
		{kmsg.AlterPartitionAssignments, 0, 1, (*Server).alterPartitionReassignments},
		{kmsg.ListPartitionReassignments, 0, 0, (*Server).listPartitionReassignments},
		{kmsg.DescribeQuorum, 0, 2, (*Server).describeQuorum},
		{kmsg.DescribeCluster, 0, 1, (*Server).describeCluster},
		{kmsg.UnregisterBroker, 0, 0, (*Server).unregisterBroker},
		{kmsg.AddRaftVoter, 0, 1, (*Server).addRaftVoter},
		{kmsg.RemoveRaftVoter, 0, 0, (*Server).removeRaftVoter},
	}
}

// served looks a request kind up; ok is false where it or its version is not served.
func served(key, version int16) (a api, ok bool) {
	i := slices.IndexFunc(apis, func(a api) bool { return int16(a.key) == key })
	if i < 0 {
		return api{}, false
	}
	return apis[i], version >= apis[i].min && version <= apis[i].max
}

// Handle takes a request. Its answer may come in a later step.
func (s *Server) Handle(r broker.Request) {
	a, ok := served(r.Req.Key(), r.Req.GetVersion())
	if !ok {
		// The driver closes such connections before they get here.
		s.b.Reply(broker.Reply{ID: r.ID})
		return
	}
	if !s.spread(r) {
		a.handle(s, r.ID, r.Req)
	}
}

// Gone drops a request whose connection is closed.
func (s *Server) Gone(id broker.ReqID) {
	delete(s.produces, id)
	s.fetches = slices.DeleteFunc(s.fetches, func(f *fetch) bool { return f.id == id })
	s.passed = slices.DeleteFunc(s.passed, func(p *passed) bool { return p.g.id == id })
}

// Advanced notes that more of a partition may be readable now.
func (s *Server) Advanced(p Partition) {
	if !slices.Contains(s.dirty, p) {
		s.dirty = append(s.dirty, p)
	}
}

// Deleted ends the reads that wait for a partition.
func (s *Server) Deleted(p Partition) { s.Advanced(p) }

// Run looks again at the parked reads of partitions that advanced, and at what
// waits for the metadata.
func (s *Server) Run() {
	s.lookAgain()
	if len(s.dirty) == 0 {
		return
	}
	s.fetches = slices.DeleteFunc(s.fetches, func(f *fetch) bool {
		return slices.ContainsFunc(f.parts, func(p Partition) bool { return slices.Contains(s.dirty, p) }) && s.tryFetch(f)
	})
	clear(s.dirty)
	s.dirty = s.dirty[:0]
}

// Wake answers the parked reads whose time is over.
func (s *Server) Wake() {
	s.lookAgain()
	now := s.b.Now().Mono
	s.giveUp(func(p *passed) bool { return p.until <= now })
	s.fetches = slices.DeleteFunc(s.fetches, func(f *fetch) bool { return f.until <= now && s.tryFetch(f) })
}

// NextWake is the earliest end of a parked read's wait.
func (s *Server) NextWake() time.Duration {
	next := s.nextPass()
	for _, w := range s.waits {
		next = min(next, w.until)
	}
	for _, f := range s.fetches {
		next = min(next, f.until)
	}
	return next
}

// propose runs then with the outcome of a command.
func (s *Server) propose(c cluster.Command, then func(cluster.Result)) {
	s.admin[s.b.Propose(c)] = then
}

// Result takes the outcome of a proposal.
func (s *Server) Result(r cluster.Result) {
	if then := s.admin[r.Ticket]; then != nil {
		delete(s.admin, r.Ticket)
		then(r)
	}
}

func reply(s *Server, id broker.ReqID, resp kmsg.Response) {
	s.answer(broker.Reply{ID: id, Resp: resp})
}

// text is an error message for a response, nil for success.
func text(code int16, detail string) *string {
	if code == 0 {
		return nil
	}
	if detail == "" {
		if e := kerr.TypedErrorForCode(code); e != nil {
			detail = e.Description
		}
	}
	return &detail
}
