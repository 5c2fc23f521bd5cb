package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/faultline-mq/faultline/broker"
)

func ready(t *testing.T, voters, learners int, change func(*Config)) *testNet {
	seedRaft(t)
	n := newNet(t, voters, learners, change)
	n.until("all brokers up", n.up)
	return n
}

func create(t *testing.T, n *testNet, name string, partitions int32, rf int16, configs map[string]string) {
	r := n.propose(n.ids[0], CreateTopic{Name: name, Partitions: partitions, ReplicationFactor: rf, Configs: configs})
	require.Zero(t, r.Code, r.Text)
	n.until("all applied", n.agreed)
}

func TestRegistersAndUnfences(t *testing.T) {
	n := ready(t, 3, 2, nil)
	for _, id := range n.ids {
		d := n.nodes[id]
		require.Equal(t, d.c.State().Broker(id).Epoch, d.c.State().Registered())
		var kinds []string
		for _, e := range d.events {
			kinds = append(kinds, e.Kind)
		}
		require.Contains(t, kinds, "unfenced")
		require.NotContains(t, kinds, "fenced")
	}
	require.Contains(t, fmt.Sprint(n.nodes[n.controller()].events), "controller")
	require.NotContains(t, []broker.NodeID{4, 5}, n.controller(), "learners do not lead")
}

func TestOneNodeIsAQuorum(t *testing.T) {
	n := ready(t, 1, 0, nil)
	create(t, n, "a", -1, -1, nil)
	require.Equal(t, broker.NodeID(1), n.nodes[1].c.State().Partition("a", 0).Leader)
	n.kill(1)
	n.start(1)
	n.until("up again", n.up)
	p := n.nodes[1].c.State().Partition("a", 0)
	require.Equal(t, broker.NodeID(1), p.Leader)
	require.Equal(t, int32(2), p.Epoch, "to None and back as a new incarnation")
}

func TestControllerOnlyNodesDoNotRegister(t *testing.T) {
	n := ready(t, 3, 2, func(c *Config) { c.ControllerOnly = c.ID <= 3 })
	require.Len(t, n.nodes[1].c.State().Brokers(), 2)
	require.Equal(t, int64(-1), n.nodes[1].c.State().Registered())
	n.nodes[1].c.Leave(n.time())
	n.until("a controller leaves at once", func() bool { return n.nodes[1].ready })
}

func TestDeadLeaderIsFencedAndReplaced(t *testing.T) {
	n := ready(t, 3, 0, nil)
	create(t, n, "a", 3, 3, nil)
	victim := n.controller()
	at := n.now
	n.kill(victim)
	other := n.ids[victim%3]
	n.until("fenced", func() bool { return n.nodes[other].c.State().Broker(victim).Fenced })
	require.GreaterOrEqual(t, n.now-at, n.nodes[other].cfg.SessionTimeout, "a new controller gives a full session")
	for _, p := range n.nodes[other].c.State().Topic("a").Partitions {
		require.NotEqual(t, victim, p.Leader)
		require.NotContains(t, p.ISR, victim)
	}
	n.start(victim)
	n.until("back", n.up)
	require.NotContains(t, n.nodes[victim].c.State().Partition("a", 0).ISR, victim, "it joins through its leader only")
}

func TestLiveBrokersAreNotFenced(t *testing.T) {
	n := ready(t, 3, 0, nil)
	n.run(20 * time.Second)
	for _, id := range n.ids {
		for _, e := range n.nodes[id].events {
			require.NotEqual(t, "fenced", e.Kind)
		}
	}
}

func TestAStalledControllerFencesNobody(t *testing.T) {
	n := ready(t, 1, 2, nil)
	n.now += 10 * time.Second // nobody ran, as if the host had stood still
	n.run(2 * time.Second)
	for _, b := range n.nodes[1].c.State().Brokers() {
		require.False(t, b.Fenced, "broker %d", b.ID)
	}
	for _, id := range n.ids {
		for _, e := range n.nodes[id].events {
			require.NotEqual(t, "fenced", e.Kind)
		}
	}
}

func TestPreferredLeaderComesBackOnlyInSync(t *testing.T) {
	n := ready(t, 3, 0, func(c *Config) { c.RebalanceInterval = 2 * time.Second })
	create(t, n, "a", 1, 3, nil)
	st := n.nodes[1].c.State
	first := st().Partition("a", 0).Replicas[0]
	n.kill(first)
	survivor := n.ids[first%3]
	n.until("moved", func() bool { return n.nodes[survivor].c.State().Partition("a", 0).Leader != first })
	n.start(first)
	n.until("up", n.up)
	n.run(5 * time.Second)
	p := n.nodes[survivor].c.State().Partition("a", 0)
	require.NotEqual(t, first, p.Leader, "not in sync yet")
	r := n.propose(p.Leader, n.alter("a", 0, p.Replicas))
	require.Zero(t, r.Code, r.Text)
	n.until("preferred leader", func() bool { return n.nodes[survivor].c.State().Partition("a", 0).Leader == first })
}

// alter builds the change of an in-sync set as the leader would.
func (n *testNet) alter(topic string, index int32, isr []broker.NodeID) AlterPartition {
	p := (*Partition)(nil)
	var st *State
	for _, id := range n.ids {
		if c := n.nodes[id].c; c != nil && (st == nil || c.State().Applied() > st.Applied()) {
			st = c.State()
			p = st.Partition(topic, index)
		}
	}
	a := AlterPartition{Topic: topic, TopicID: st.Topic(topic).ID, Index: index, Leader: p.Leader, Epoch: p.Epoch, PartEpoch: p.PartEpoch}
	for _, id := range isr {
		if b := st.Broker(id); b != nil {
			a.ISR = append(a.ISR, Member{ID: id, Epoch: b.Epoch})
		}
	}
	return a
}

func TestControlledShutdown(t *testing.T) {
	n := ready(t, 3, 0, nil)
	create(t, n, "a", 6, 3, nil)
	leaver := n.controller()
	n.nodes[leaver].c.Leave(n.time())
	n.take(leaver)
	at := n.now
	n.until("ready", func() bool { return n.nodes[leaver].ready })
	require.Less(t, n.now-at, n.nodes[1].cfg.SessionTimeout, "it does not wait for timeouts")
	require.NotEqual(t, leaver, n.controller(), "raft's leadership moved too")
	for _, id := range n.ids {
		for _, p := range n.nodes[id].c.State().Topic("a").Partitions {
			require.NotEqual(t, leaver, p.Leader, "everyone knows it by then")
			require.NotContains(t, p.ISR, leaver)
		}
	}
	n.kill(leaver)
	n.start(leaver)
	n.until("back", n.up)
	require.False(t, n.nodes[1].c.State().Broker(leaver).Leaving)
}

func TestLastBrokerMayLeaveAndIsNamed(t *testing.T) {
	n := ready(t, 1, 0, nil)
	create(t, n, "a", 1, 1, nil)
	n.nodes[1].c.Leave(n.time())
	n.until("ready", func() bool { return n.nodes[1].ready })
	require.Equal(t, broker.NodeID(1), n.nodes[1].c.State().Partition("a", 0).Leader, "it serves until it stops")
}

func TestFullRestartFromTheLog(t *testing.T) {
	n := ready(t, 3, 1, nil)
	create(t, n, "a", 4, 3, map[string]string{"min.insync.replicas": "2"})
	before := show(n.nodes[1].c.State())
	for _, id := range n.ids {
		n.kill(id)
	}
	for _, id := range n.ids {
		n.start(id)
	}
	n.until("up", n.up)
	for _, id := range n.ids {
		require.NotEmpty(t, n.nodes[id].changes, "the recovered state comes as changes")
	}
	n.until("agreed", n.agreed)
	st := n.nodes[1].c.State()
	require.NotEqual(t, before, show(st))
	require.Equal(t, int32(2), st.Topic("a").MinISR)
	for _, p := range st.Topic("a").Partitions {
		require.NotEqual(t, broker.None, p.Leader)
	}
	require.NotZero(t, n.propose(2, CreateTopic{Name: "a", Partitions: 1, ReplicationFactor: 1}).Code)
}

func TestLaggingFollowerGetsASnapshot(t *testing.T) {
	n := ready(t, 3, 0, func(c *Config) { c.SnapshotEntries = 10 })
	create(t, n, "gone", 2, 3, nil)
	lag := n.ids[n.controller()%3]
	asker := n.controller()
	n.kill(lag)
	require.Zero(t, n.propose(asker, DeleteTopic{Name: "gone"}).Code)
	for i := range 50 {
		require.Zero(t, n.propose(asker, CreateTopic{Name: fmt.Sprintf("t%d", i), Partitions: 1, ReplicationFactor: 2}).Code)
	}
	n.start(lag)
	require.NotNil(t, n.nodes[lag].c.State().Topic("gone"))
	lost := 0
	n.drop = func(_ link, m broker.Message) bool {
		if !isSnapshot(m) || lost == 2 {
			return false
		}
		lost++ // and raft has to be told
		return true
	}
	n.until("up", n.up)
	n.until("agreed", n.agreed)
	st := n.nodes[lag].c.State()
	require.Equal(t, 2, lost)
	require.Nil(t, st.Topic("gone"))
	require.NotNil(t, st.Topic("t49"))
	deleted := false
	for _, c := range n.nodes[lag].changes {
		deleted = deleted || c.Deleted && c.Topic.Name == "gone"
	}
	require.True(t, deleted, "what a snapshot skips is reported as changes")
	require.Less(t, len(n.nodes[asker].log), 60, "the log is replaced")
	// What the snapshot wrote is a log to start from.
	n.kill(lag)
	n.start(lag)
	require.NotNil(t, n.nodes[lag].c.State().Topic("t49"))
}

func isSnapshot(m broker.Message) bool {
	r, ok := m.(RaftMessage)
	if !ok {
		return false
	}
	p := &pb.Message{}
	return proto.Unmarshal(r.Data, p) == nil && p.GetType() == pb.MsgSnap
}

func TestNothingIsAcknowledgedBeforeItIsStored(t *testing.T) {
	n := ready(t, 2, 0, nil)
	leader := n.controller()
	follower := n.ids[leader%2]
	d := n.nodes[follower]
	d.lazy = true
	ticket := n.nodes[leader].c.Propose(n.time(), CreateTopic{Name: "a", Partitions: 1, ReplicationFactor: 1})
	n.take(leader)
	for len(n.queues[link{leader, follower}]) > 0 {
		n.deliver(link{leader, follower})
	}
	require.NotEmpty(t, d.writes, "it asked for a write")
	for _, m := range n.queues[link{follower, leader}] {
		p := &pb.Message{}
		if r, ok := m.(RaftMessage); ok && proto.Unmarshal(r.Data, p) == nil {
			require.NotEqual(t, pb.MsgAppResp, p.GetType())
		}
	}
	n.settle()
	require.Empty(t, n.nodes[leader].results)
	n.store(follower, len(d.writes))
	d.lazy = false
	n.take(follower)
	n.settle()
	require.Len(t, n.nodes[leader].results, 1)
	require.Equal(t, ticket, n.nodes[leader].results[0].Ticket)
}

func TestProposalWithoutQuorumTimesOut(t *testing.T) {
	n := ready(t, 3, 0, nil)
	n.kill(2)
	n.kill(3)
	at := n.now
	r := n.propose(1, AllocateProducerID{})
	require.Equal(t, kerr.RequestTimedOut.Code, r.Code)
	require.GreaterOrEqual(t, n.now-at, n.nodes[1].cfg.ProposalTimeout)
	n.start(2)
	n.until("a controller", func() bool { return n.controller() != broker.None })
	require.Zero(t, n.propose(2, AllocateProducerID{}).Code)
}

func TestProposalOutlivesAMissingLeader(t *testing.T) {
	n := ready(t, 3, 0, nil)
	dead := n.controller()
	asker := n.ids[dead%3]
	n.kill(dead)
	r := n.propose(asker, CreateTopic{Name: "a", Partitions: 1, ReplicationFactor: 1})
	require.Zero(t, r.Code, r.Text)
}

func TestResultsAndRefusals(t *testing.T) {
	n := ready(t, 3, 0, nil)
	r := n.propose(2, struct{}{})
	require.Equal(t, kerr.InvalidRequest.Code, r.Code)
	r = n.propose(2, CreateTopic{Name: "a", Partitions: 2, ReplicationFactor: 3})
	require.Equal(t, "a", r.Value.(*Topic).Name)
	require.Len(t, r.Value.(*Topic).Partitions, 2)
	a := n.propose(1, AllocateProducerID{}).Value.(int64)
	b := n.propose(3, AllocateProducerID{}).Value.(int64)
	require.NotEqual(t, a, b)
}

func TestHostileMessagesAreDropped(t *testing.T) {
	n := ready(t, 3, 0, nil)
	follower := n.ids[n.controller()%3]
	c := n.nodes[follower].c
	raw := func(m *pb.Message) RaftMessage {
		data, err := proto.Marshal(m)
		require.NoError(t, err)
		return RaftMessage{Data: data}
	}
	self, from := uint64(follower), uint64(n.controller())
	for _, m := range []broker.Message{
		nil, 7,
		RaftMessage{},
		RaftMessage{Data: []byte{1, 2, 3}},
		raw(&pb.Message{Type: pb.MsgProp.Enum(), From: &from, To: &self}),
		raw(&pb.Message{Type: pb.MsgHup.Enum(), From: &from, To: &self}),
		raw(&pb.Message{Type: pb.MsgSnap.Enum(), From: &from, To: &self}),
		raw(&pb.Message{Type: pb.MsgApp.Enum(), From: &self, To: &self}),
		raw(&pb.Message{Type: pb.MsgProp.Enum(), From: &from, To: &self, Entries: []*pb.Entry{{Type: pb.EntryConfChange.Enum()}}}),
	} {
		c.Message(n.time(), n.controller(), m)
		n.take(follower)
	}
	c.Message(n.time(), 99, Heartbeat{})
	n.take(follower)
	require.True(t, n.up())
}

func TestConfigIsChecked(t *testing.T) {
	good := func() Config {
		c := DefaultConfig()
		c.ID, c.Incarnation, c.Voters = 1, "x", []broker.Member{{ID: 1, Name: "n1"}}
		return c
	}
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no voters", func(c *Config) { c.Voters = nil }, "no voters"},
		{"stranger", func(c *Config) { c.ID = 2 }, "neither voter nor learner"},
		{"twice", func(c *Config) { c.Learners = c.Voters }, "named twice"},
		{"bad id", func(c *Config) { c.Learners = []broker.Member{{ID: 0}} }, "ids are 1 to 65535"},
		{"incarnation", func(c *Config) { c.Incarnation = "" }, "incarnation"},
		{"session", func(c *Config) { c.SessionTimeout = c.BrokerHeartbeat }, "SessionTimeout"},
		{"ticks", func(c *Config) { c.ElectionTicks = 2 }, "ElectionTicks"},
		{"negative", func(c *Config) { c.TickInterval = -1 }, "positive"},
		{"snapshot", func(c *Config) { c.SnapshotEntries = -1 }, "SnapshotEntries"},
		{"min isr", func(c *Config) { c.MinISR = -1 }, "MinISR"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := good()
			tc.change(&c)
			_, err := New(c, nil, broker.Time{})
			require.ErrorContains(t, err, tc.want)
		})
	}
	_, err := New(good(), nil, broker.Time{})
	require.NoError(t, err)
}

func TestLogOfAnotherMembershipIsRefused(t *testing.T) {
	n := ready(t, 3, 0, nil)
	cfg := n.nodes[1].cfg
	cfg.Voters = cfg.Voters[:2]
	_, err := New(cfg, n.nodes[1].log, broker.Time{})
	require.ErrorContains(t, err, "restore that configuration")
}

// TestSameSeedSameRun: nothing but the inputs decides, to the byte.
func TestSameSeedSameRun(t *testing.T) {
	run := func() ([][][]byte, string) {
		n := ready(t, 3, 2, func(c *Config) { c.SnapshotEntries = 10 })
		create(t, n, "a", 6, 3, map[string]string{"min.insync.replicas": "2", "retention.ms": "-1", "max.message.bytes": "1000"})
		n.kill(n.controller())
		n.run(5 * time.Second)
		var logs [][][]byte
		for _, id := range n.ids {
			logs = append(logs, n.nodes[id].log)
		}
		return logs, n.dump()
	}
	logs, dump := run()
	for range 3 {
		again, dumpAgain := run()
		require.Equal(t, dump, dumpAgain)
		require.Equal(t, logs, again)
	}
}
