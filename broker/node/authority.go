package node

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/peers"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
)

// authority decides about brokers, topics and who leads, or leaves that to the
// machines of partitions.
type authority interface {
	// Channel is where its messages go.
	Channel() broker.Channel
	State() *cluster.State
	Quorum() cluster.Quorum
	// Current are all partitions as they are decided now.
	Current() []cluster.Change
	Propose(now broker.Time, c cluster.Command) cluster.Ticket
	Message(now broker.Time, from broker.NodeID, m broker.Message)
	// Link tells of the streams of Channel.
	Link(now broker.Time, peer broker.NodeID, up bool)
	Stored(now broker.Time, seq uint64)
	Tick(now broker.Time)
	NextWake() time.Duration
	// Client notes that a client was served.
	Client(id string)
	// Leave begins a stop in order.
	Leave(now broker.Time)
	Take() cluster.Output
}

// quorum is the metadata quorum.
type quorum struct{ *cluster.Cluster }

var (
	_ authority = quorum{}
	_ authority = (*peers.Peers)(nil)
)

func (quorum) Channel() broker.Channel               { return broker.Quorum }
func (quorum) Link(broker.Time, broker.NodeID, bool) {}
func (quorum) Client(string)                         {}

// Current implements authority.
func (q quorum) Current() []cluster.Change {
	var changes []cluster.Change
	for _, t := range q.State().Topics() {
		for _, p := range t.Partitions {
			changes = append(changes, cluster.Change{Topic: t, Partition: p})
		}
	}
	return changes
}

// newAuthority makes the authority of the node's scheme.
func (n *Node) newAuthority(rec Recovered) (authority, error) {
	cfg, o := n.cfg, n.cfg.Options
	if n.metadata() == scheme.Peers {
		p, err := peers.New(peers.Config{
			ID: cfg.ID, Name: cfg.Name, Host: cfg.Host, Port: cfg.Port, Rack: cfg.Rack, Incarnation: cfg.Incarnation, Members: n.first(),
			TickTime: o.Duration("net_ticktime.ms"), Policy: peers.Policy(o.String("cluster_partition_handling")), Locator: peers.Locator(o.String("queue-leader-locator")),
			DefaultPartitions: int32(o.Int("partitions")), DefaultScheme: cfg.Scheme,
		}, rec.Meta, n.now)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	voters := n.first()
	d, _ := schemes.Lookup(cfg.Scheme) // Validate found it
	copies := min(o.Int("replication.factor"), len(voters))
	if d.Copies != nil {
		copies = d.Copies(o, len(voters))
	}
	c, err := cluster.New(cluster.Config{
		ID: cfg.ID, Name: cfg.Name, Host: cfg.Host, Port: cfg.Port, Rack: cfg.Rack, Incarnation: cfg.Incarnation, Directory: rec.Directory, Voters: voters, Names: n.names,
		TickInterval: o.Duration("quorum.tick.ms"), ElectionTicks: 10, HeartbeatTicks: 2,
		BrokerHeartbeat: o.Duration("broker.heartbeat.interval.ms"), SessionTimeout: o.Duration("broker.session.timeout.ms"),
		ProposalTimeout: 3 * time.Second, RebalanceInterval: o.Duration("leader.rebalance.interval.ms"), SnapshotEntries: 2000,
		DefaultPartitions: int32(o.Int("partitions")), DefaultReplication: int16(copies), DefaultScheme: cfg.Scheme,
		MinISR: int32(o.Int("min.insync.replicas")), Unclean: o.Bool("unclean.leader.election.enable") || d.Unclean != nil && d.Unclean(o),
		EligibleLeaders: eligibleLeaders(o), Elections: elections(o), PreviousEpoch: rec.Stopped, Mutants: cfg.Mutants,
	}, rec.Meta, n.now)
	if err != nil {
		return nil, fmt.Errorf("metadata quorum of node %s: %w", cfg.Name, err)
	}
	return quorum{c}, nil
}

// first are the members that the cluster begins with.
func (n *Node) first() []broker.Member {
	first := slices.DeleteFunc(slices.Clone(n.cfg.Members), func(m broker.Member) bool { return n.cfg.Voters != nil && !slices.Contains(n.cfg.Voters, m.ID) })
	slices.SortFunc(first, func(a, b broker.Member) int { return cmp.Compare(a.ID, b.ID) })
	return first
}
