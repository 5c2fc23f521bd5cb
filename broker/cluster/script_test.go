package cluster

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
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/faultline-mq/faultline/broker"
)

// TestRules runs the scripts of testdata/rules: one command is one committed
// entry, each answer its outcome and changes.
//
//	register 1 2 rack=a inc=x [previous=EPOCH]     unfence|fence|leave ID… [epoch=N]
//	create NAME partitions=N rf=N assign=(1,2|2,3) config=(k:v) [eligible] validate
//	delete NAME       elect NAME-INDEX… [unclean]       producer-id
//	alter NAME-INDEX isr=(1,2) [leader=N epoch=N partepoch=N brokerepoch=(2:9) wrong-id]
//	reassign NAME-INDEX to=(1,2,4) [fixed] | reassign NAME-INDEX cancel
//	unregister ID     voters 1 2 3 (at first)     add-voter ID dir=N     remove-voter ID dir=N
//	step learner|voter|remove ID dir=N                  a step of a change of voters
//	entry node=N inc=X ticket=N oldest=N [bound=TERM]   a raw AllocateProducerID
//	show
func TestRules(t *testing.T) {
	datadriven.Walk(t, "testdata/rules", func(t *testing.T, path string) {
		r := &rules{st: newState(1, "none"), index: 1, term: 1}
		datadriven.RunTest(t, path, r.run)
	})
}

type rules struct {
	st    *State
	index uint64
	term  uint64
	// of the proposals
	ticket Ticket
}

func (r *rules) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "show":
		return show(r.st)
	case "register":
		var b strings.Builder
		for _, id := range ids(t, d.CmdArgs) {
			inc := fmt.Sprintf("%d.1", id)
			d.MaybeScanArgs(t, "inc", &inc)
			rack := ""
			d.MaybeScanArgs(t, "rack", &rack)
			c := RegisterBroker{ID: id, Incarnation: inc, Rack: rack}
			d.MaybeScanArgs(t, "previous", &c.PreviousEpoch)
			b.WriteString(r.apply(envelope{Node: id, Incarnation: inc}, c))
		}
		return b.String()
	case "fence", "unfence", "leave":
		var b strings.Builder
		for _, id := range ids(t, d.CmdArgs) {
			var epoch int64
			if br := r.st.Broker(id); br != nil {
				epoch = br.Epoch
			}
			d.MaybeScanArgs(t, "epoch", &epoch)
			if d.Cmd == "leave" {
				b.WriteString(r.any(SetLeaving{ID: id, Epoch: epoch}))
			} else {
				b.WriteString(r.any(SetFenced{ID: id, Epoch: epoch, Fenced: d.Cmd == "fence"}))
			}
		}
		return b.String()
	case "create":
		c := CreateTopic{Name: "", Partitions: -1, ReplicationFactor: -1, ValidateOnly: d.HasArg("validate")}
		if len(d.CmdArgs) > 0 && len(d.CmdArgs[0].Vals) == 0 {
			c.Name = d.CmdArgs[0].Key
		}
		var rf int
		if d.MaybeScanArgs(t, "rf", &rf) {
			c.ReplicationFactor = int16(rf)
		}
		d.MaybeScanArgs(t, "partitions", &c.Partitions)
		if arg, ok := d.Arg("assign"); ok {
			for _, part := range strings.Split(strings.Join(arg.Vals, ","), "|") {
				c.Assignment = append(c.Assignment, nodeIDs(t, part))
			}
		}
		if arg, ok := d.Arg("config"); ok {
			c.Configs = map[string]string{}
			for _, kv := range arg.Vals {
				k, v, _ := strings.Cut(kv, ":")
				c.Configs[k] = v
			}
		}
		return r.apply(envelope{Node: 100, Incarnation: "100.1", MinISR: 1, Eligible: d.HasArg("eligible")}, c)
	case "delete":
		return r.any(DeleteTopic{Name: d.CmdArgs[0].Key})
	case "elect":
		c := ElectLeaders{}
		for _, a := range d.CmdArgs {
			if a.Key == "unclean" {
				c.Unclean = true
				continue
			}
			topic, index := partition(t, a.Key)
			c.Partitions = append(c.Partitions, PartitionID{topic, index})
		}
		return r.any(c)
	case "reassign":
		topic, index := partition(t, d.CmdArgs[0].Key)
		c := Reassign{Topic: topic, Index: index, FixedFactor: d.HasArg("fixed")}
		if arg, ok := d.Arg("to"); ok {
			c.Replicas = append([]broker.NodeID{}, nodeIDs(t, strings.Join(arg.Vals, ","))...)
		}
		return r.any(c)
	case "unregister":
		return r.any(UnregisterBroker{ID: ids(t, d.CmdArgs)[0]})
	case "voters":
		r.st.conf = &pb.ConfState{}
		for _, id := range ids(t, d.CmdArgs) {
			r.st.conf.Voters = append(r.st.conf.Voters, raftID(id, 0))
		}
		return "ok\n"
	case "add-voter", "remove-voter", "step":
		var dir uint64
		d.MaybeScanArgs(t, "dir", &dir)
		switch d.Cmd {
		case "add-voter":
			return r.any(AddVoter{ID: ids(t, d.CmdArgs)[0], Directory: Directory(dir)})
		case "remove-voter":
			return r.any(RemoveVoter{ID: ids(t, d.CmdArgs)[0], Directory: Directory(dir)})
		}
		return r.step(d.CmdArgs[0].Key, ids(t, d.CmdArgs[1:])[0], Directory(dir))
	case "producer-id":
		return r.any(AllocateProducerID{})
	case "alter":
		return r.any(r.alter(t, d))
	case "entry":
		e := envelope{}
		var node int32
		d.ScanArgs(t, "node", &node)
		d.ScanArgs(t, "inc", &e.Incarnation)
		d.ScanArgs(t, "ticket", (*uint64)(&e.Ticket))
		d.ScanArgs(t, "oldest", (*uint64)(&e.Oldest))
		d.MaybeScanArgs(t, "bound", &e.Term)
		e.Node = broker.NodeID(node)
		return r.entry(&e, AllocateProducerID{})
	}
	d.Fatalf(t, "unknown command %s", d.Cmd)
	return ""
}

// step does what raft does with an accepted step, without raft.
func (r *rules) step(what string, id broker.NodeID, dir Directory) string {
	types := map[string]pb.ConfChangeType{"learner": pb.ConfChangeAddLearnerNode, "voter": pb.ConfChangeAddNode, "remove": pb.ConfChangeRemoveNode}
	out := r.any(changeMember{Type: int32(types[what]), ID: id, Directory: dir})
	if strings.HasPrefix(out, "ok") {
		conf, member := r.st.conf, raftID(id, dir)
		other := func(m uint64) bool { return m == member }
		next := &pb.ConfState{Voters: slices.DeleteFunc(slices.Clone(conf.GetVoters()), other), Learners: slices.DeleteFunc(slices.Clone(conf.GetLearners()), other)}
		switch what {
		case "learner":
			next.Learners = append(next.Learners, member)
		case "voter":
			next.Voters = append(next.Voters, member)
		}
		r.st.conf = next
	}
	return out
}

func (r *rules) alter(t *testing.T, d *datadriven.TestData) AlterPartition {
	topic, index := partition(t, d.CmdArgs[0].Key)
	c := AlterPartition{Topic: topic, Index: index}
	if tp := r.st.Topic(topic); tp != nil {
		c.TopicID = tp.ID
	}
	if d.HasArg("wrong-id") {
		c.TopicID[0]++
	}
	if p := r.st.Partition(topic, index); p != nil {
		c.Leader, c.Epoch, c.PartEpoch = p.Leader, p.Epoch, p.PartEpoch
	}
	var leader int32
	if d.MaybeScanArgs(t, "leader", &leader) {
		c.Leader = broker.NodeID(leader)
	}
	d.MaybeScanArgs(t, "epoch", &c.Epoch)
	d.MaybeScanArgs(t, "partepoch", &c.PartEpoch)
	arg, _ := d.Arg("isr")
	for _, id := range nodeIDs(t, strings.Join(arg.Vals, ",")) {
		m := Member{ID: id}
		if b := r.st.Broker(id); b != nil {
			m.Epoch = b.Epoch
		}
		if be, ok := d.Arg("brokerepoch"); ok {
			for _, kv := range be.Vals {
				if k, v, _ := strings.Cut(kv, ":"); k == id.String() {
					m.Epoch, _ = strconv.ParseInt(v, 10, 64)
				}
			}
		}
		c.ISR = append(c.ISR, m)
	}
	return c
}

// any proposes from a node that is no broker.
func (r *rules) any(cmd Command) string {
	return r.apply(envelope{Node: 100, Incarnation: "100.1", MinISR: 1}, cmd)
}

func (r *rules) apply(e envelope, cmd Command) string {
	r.ticket++
	e.Ticket, e.Oldest = r.ticket, r.ticket
	return r.entry(&e, cmd)
}

func (r *rules) entry(e *envelope, cmd Command) string {
	// Through the encoding, as it comes from the log.
	data, err := e.marshal(cmd)
	if err != nil {
		return err.Error() + "\n"
	}
	env, cmd, err := decodeEnvelope(data)
	if err != nil {
		return err.Error() + "\n"
	}
	r.index++
	o, ok := r.st.apply(r.index, r.term, &env, cmd)
	r.st.applied = r.index
	if !ok {
		return "not applied\n"
	}
	var b strings.Builder
	if o.code != 0 {
		fmt.Fprintf(&b, "%v: %s\n", kerr.TypedErrorForCode(o.code).Message, o.text)
	} else if len(o.changes) == 0 {
		fmt.Fprintf(&b, "ok at %d", r.index)
		switch v := o.value.(type) {
		case int64:
			fmt.Fprintf(&b, ": %d", v)
		case *Topic:
			fmt.Fprintf(&b, ": %s", v.Name)
			for _, p := range v.Partitions {
				fmt.Fprintf(&b, " %v", p.Replicas)
			}
		case *Broker:
			fmt.Fprintf(&b, ": broker %d epoch %d", v.ID, v.Epoch)
		}
		b.WriteString("\n")
	}
	for _, c := range o.changes {
		switch {
		case c.Deleted:
			fmt.Fprintf(&b, "deleted %s\n", c.Topic.Name)
		case c.Unclean:
			fmt.Fprintf(&b, "unclean %s\n", showPartition(c.Partition))
		case c.Eligible:
			fmt.Fprintf(&b, "eligible %s\n", showPartition(c.Partition))
		default:
			b.WriteString(showPartition(c.Partition) + "\n")
		}
	}
	return b.String()
}

func ids(t *testing.T, args []datadriven.CmdArg) []broker.NodeID {
	var out []broker.NodeID
	for _, a := range args {
		if len(a.Vals) == 0 {
			out = append(out, nodeIDs(t, a.Key)...)
		}
	}
	return out
}

func nodeIDs(t *testing.T, list string) []broker.NodeID {
	var out []broker.NodeID
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		out = append(out, broker.NodeID(n))
	}
	return out
}

func partition(t *testing.T, name string) (string, int32) {
	i := strings.LastIndex(name, "-")
	require.Positive(t, i, "a partition is NAME-INDEX")
	n, err := strconv.Atoi(name[i+1:])
	require.NoError(t, err)
	return name[:i], int32(n)
}

// TestScenes runs the scripts of testdata/scenes on a network of nodes under a
// virtual clock:
//
//	nodes voters=3 learners=0 [snapshot=N] [rebalance=DUR]
//	run 2s         kill ID… | start ID… | isolate ID… | heal | leave ID…
//	create NAME partitions=N rf=N     fill COUNT (topics)
//	fresh ID dir=N                    an empty node that is no member takes the place of ID
//	add-voter ID dir=N | remove-voter ID dir=N | unregister ID | reassign NAME-INDEX to=(1,2)
//	members ID                        of the quorum, as a node sees them
//	join NAME-INDEX                   the leader puts every live replica into the in-sync set
//	show ID        roles              events ID
func TestScenes(t *testing.T) {
	datadriven.Walk(t, "testdata/scenes", func(t *testing.T, path string) {
		seedRaft(t)
		s := &scene{}
		datadriven.RunTest(t, path, s.run)
	})
}

type scene struct{ n *testNet }

func (s *scene) run(t *testing.T, d *datadriven.TestData) string {
	n := s.n
	switch d.Cmd {
	case "nodes":
		voters, learners, snapshot, rebalance := 3, 0, 0, "0s"
		d.MaybeScanArgs(t, "voters", &voters)
		d.MaybeScanArgs(t, "learners", &learners)
		d.MaybeScanArgs(t, "snapshot", &snapshot)
		d.MaybeScanArgs(t, "rebalance", &rebalance)
		every, err := time.ParseDuration(rebalance)
		require.NoError(t, err)
		s.n = newNet(t, voters, learners, func(c *Config) {
			c.SnapshotEntries, c.RebalanceInterval = snapshot, every
			c.setDefaults()
		})
		s.n.until("up", s.n.up)
		s.n.until("agreed", s.n.agreed)
		return s.roles()
	case "run":
		dur, err := time.ParseDuration(d.CmdArgs[0].Key)
		require.NoError(t, err)
		n.run(dur)
		return s.roles()
	case "kill", "start", "leave", "isolate":
		for _, id := range ids(t, d.CmdArgs) {
			switch d.Cmd {
			case "kill":
				n.kill(id)
			case "start":
				n.start(id)
			case "leave":
				n.nodes[id].c.Leave(n.time())
				n.take(id)
			case "isolate":
				for _, other := range n.ids {
					n.cut[link{id, other}], n.cut[link{other, id}] = true, true
				}
			}
		}
		return "ok\n"
	case "heal":
		clear(n.cut)
		return "ok\n"
	case "create":
		var partitions int32
		var rf int
		d.ScanArgs(t, "partitions", &partitions)
		d.ScanArgs(t, "rf", &rf)
		r := n.propose(s.alive(), CreateTopic{Name: d.CmdArgs[0].Key, Partitions: partitions, ReplicationFactor: int16(rf)})
		require.Zero(t, r.Code, r.Text)
		n.until("agreed", n.agreed)
		return show(n.nodes[s.alive()].c.State())
	case "fill":
		count, err := strconv.Atoi(d.CmdArgs[0].Key)
		require.NoError(t, err)
		for range count {
			require.Zero(t, n.propose(s.alive(), AllocateProducerID{}).Code)
		}
		return "ok\n"
	case "fresh", "add-voter", "remove-voter", "unregister", "reassign", "members":
		return s.membership(t, d)
	case "join":
		topic, index := partition(t, d.CmdArgs[0].Key)
		st := n.nodes[s.alive()].c.State()
		p := st.Partition(topic, index)
		var isr []broker.NodeID
		for _, id := range p.Replicas {
			if st.electable(id) {
				isr = append(isr, id)
			}
		}
		r := n.propose(p.Leader, n.alter(topic, index, isr))
		require.Zero(t, r.Code, r.Text)
		return showPartition(r.Value.(*Partition)) + "\n"
	case "show":
		return show(n.nodes[ids(t, d.CmdArgs)[0]].c.State())
	case "log":
		id := ids(t, d.CmdArgs)[0]
		return fmt.Sprintf("%d records, snapshot at %d\n", len(n.nodes[id].log), n.nodes[id].c.snapAt)
	case "events":
		var b strings.Builder
		for _, e := range n.nodes[ids(t, d.CmdArgs)[0]].events {
			fmt.Fprintf(&b, "%s epoch=%d key=%s\n", e.Kind, e.Epoch, e.Key)
		}
		return b.String()
	case "roles":
		return s.roles()
	}
	d.Fatalf(t, "unknown command %s", d.Cmd)
	return ""
}

func (s *scene) membership(t *testing.T, d *datadriven.TestData) string {
	n := s.n
	var id broker.NodeID
	if d.Cmd != "reassign" {
		id = ids(t, d.CmdArgs)[0]
	}
	var dir uint64
	d.MaybeScanArgs(t, "dir", &dir)
	var cmd Command
	switch d.Cmd {
	case "fresh":
		n.fresh(id, Directory(dir))
		return "ok\n"
	case "members":
		var b strings.Builder
		for _, m := range n.nodes[id].c.Quorum().Members {
			kind := "voter"
			if m.Learner {
				kind = "learner"
			}
			fmt.Fprintf(&b, "%s %d directory %d\n", kind, m.ID, m.Directory)
		}
		return b.String()
	case "add-voter":
		cmd = AddVoter{ID: id, Directory: Directory(dir)}
	case "remove-voter":
		cmd = RemoveVoter{ID: id, Directory: Directory(dir)}
	case "unregister":
		cmd = UnregisterBroker{ID: id}
	case "reassign":
		topic, index := partition(t, d.CmdArgs[0].Key)
		arg, _ := d.Arg("to")
		cmd = Reassign{Topic: topic, Index: index, Replicas: nodeIDs(t, strings.Join(arg.Vals, ","))}
	}
	r := n.propose(s.alive(), cmd)
	if r.Code != 0 {
		return fmt.Sprintf("%v: %s\n", kerr.TypedErrorForCode(r.Code).Message, r.Text)
	}
	return "ok\n"
}

// alive is the first node that is up.
func (s *scene) alive() broker.NodeID {
	for _, id := range s.n.ids {
		if s.n.nodes[id].c != nil {
			return id
		}
	}
	return broker.None
}

func (s *scene) roles() string {
	var b strings.Builder
	for _, id := range s.n.ids {
		d := s.n.nodes[id]
		switch {
		case d.c == nil:
			fmt.Fprintf(&b, "%d down", id)
		case d.c.ruling:
			fmt.Fprintf(&b, "%d controller of term %d", id, d.c.term)
		default:
			fmt.Fprintf(&b, "%d follows %v", id, d.c.State().Controller())
		}
		if d.c != nil {
			fmt.Fprintf(&b, ", applied %d", d.c.State().Applied())
			if d.ready {
				b.WriteString(", ready to stop")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
