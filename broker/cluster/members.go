package cluster

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/faultline-mq/faultline/broker"
)

// Directory tells apart the nodes that bear one id one after another (Kafka:
// the directory id of KIP-853): a node that lost its metadata log has forgotten
// its votes, and must not be taken for the one that cast them. It is below 2^48; 0
// is the node that the metadata log begins with.
type Directory uint64

// A member of the quorum has a raft id of its own: its directory above its id.
const (
	directoryShift = 16
	maxNodeID      = 1<<directoryShift - 1
	maxDirectory   = 1<<(64-directoryShift) - 1
)

func raftID(id broker.NodeID, dir Directory) uint64 { return uint64(dir)<<directoryShift | uint64(id) }

func nodeOf(raftID uint64) broker.NodeID { return broker.NodeID(raftID & maxNodeID) }

func directoryOf(raftID uint64) Directory { return Directory(raftID >> directoryShift) }

// promotionLag is how many entries a learner may be behind when it becomes a voter.
const promotionLag = 16

// Voter is a member of the metadata quorum.
type Voter struct {
	ID        broker.NodeID
	Directory Directory
	// Learner: it has no vote.
	Learner bool
	// Match is the raft index up to which it is known to have the log; only the
	// leader knows it of others, 0 elsewhere.
	Match uint64
}

// Quorum is the metadata quorum as a node sees it.
type Quorum struct {
	Leader broker.NodeID // None: unknown
	Term   uint64
	Commit uint64
	// Ruling: this node is the leader, and has applied everything from before its term.
	Ruling  bool
	Members []Voter // by raft id
}

// voterChange is a change of the quorum's members that is under way. There is one
// at a time: of two at once each could be decided by a majority that the other's
// has no member in common with. The log's order sees to it as well: what asks for
// the second change is applied after the last step of the first.
type voterChange struct {
	ID        broker.NodeID
	Directory Directory
	Remove    bool
}

// changeMember is one step of a voterChange, proposed by the controller as a
// configuration change of raft.
type changeMember struct {
	Type      int32 // pb.ConfChangeType
	ID        broker.NodeID
	Directory Directory
}

// addVoter notes the change; the controller carries it out.
func (s *State) addVoter(c AddVoter) outcome {
	switch {
	case c.ID < 1 || c.ID > maxNodeID || c.Directory > maxDirectory:
		return refuse(kerr.InvalidRequest, "node %d with directory %d: ids are 1 to %d, directories 0 to %d", c.ID, c.Directory, maxNodeID, uint64(maxDirectory))
	case s.voting != nil:
		return s.busy()
	}
	for _, id := range slices.Concat(s.conf.GetVoters(), s.conf.GetLearners()) {
		if nodeOf(id) == c.ID {
			return refuse(kerr.DuplicateVoter, "node %d is a member already, with directory %d: remove that one first", c.ID, directoryOf(id))
		}
	}
	s.voting = &voterChange{ID: c.ID, Directory: c.Directory}
	return outcome{}
}

// removeVoter notes the change; the controller carries it out. A node that is
// still being added can be removed.
func (s *State) removeVoter(c RemoveVoter) outcome {
	adding := s.voting != nil && !s.voting.Remove && s.voting.ID == c.ID && s.voting.Directory == c.Directory
	id := raftID(c.ID, c.Directory)
	switch {
	case s.voting != nil && !adding:
		return s.busy()
	case !adding && !slices.Contains(s.conf.GetVoters(), id) && !slices.Contains(s.conf.GetLearners(), id):
		return refuse(kerr.VoterNotFound, "node %d with directory %d is no member", c.ID, c.Directory)
	case slices.Equal(s.conf.GetVoters(), []uint64{id}):
		return refuse(kerr.InvalidRequest, "node %d is the only voter: add another one first", c.ID)
	}
	if b := s.Broker(c.ID); b != nil && !b.Fenced && !adding {
		if ps := s.hosted(c.ID); len(ps) > 0 {
			return refuse(kerr.InvalidRequest, "broker %d is alive and hosts %d replicas, of %s-%d for one: reassign them first", c.ID, len(ps), ps[0].Topic, ps[0].Index)
		}
	}
	if adding && !slices.Contains(s.conf.GetLearners(), id) {
		s.voting = nil // nothing was done yet
		return outcome{}
	}
	s.voting = &voterChange{ID: c.ID, Directory: c.Directory, Remove: true}
	return outcome{}
}

func (s *State) busy() outcome {
	what := "added"
	if s.voting.Remove {
		what = "removed"
	}
	return refuse(kerr.RequestTimedOut, "node %d is being %s: members change one at a time", s.voting.ID, what)
}

// member applies one step of the change under way. It is for the caller to change
// raft's own members where it was not refused.
func (s *State) member(c changeMember) outcome {
	v := s.voting
	id := raftID(c.ID, c.Directory)
	learner, voter := slices.Contains(s.conf.GetLearners(), id), slices.Contains(s.conf.GetVoters(), id)
	stale := func() outcome {
		return refuse(kerr.InvalidRequest, "step %v of node %d is over", pb.ConfChangeType(c.Type), c.ID)
	}
	if v == nil || v.ID != c.ID || v.Directory != c.Directory {
		return stale()
	}
	switch t := pb.ConfChangeType(c.Type); {
	case t == pb.ConfChangeAddLearnerNode && !v.Remove && !learner && !voter:
		return outcome{}
	case t == pb.ConfChangeAddNode && !v.Remove && learner,
		t == pb.ConfChangeRemoveNode && v.Remove && (learner || voter):
		s.voting = nil
		return outcome{}
	}
	return stale()
}

// unregister forgets a broker.
func (s *State) unregister(c UnregisterBroker) outcome {
	i, ok := s.findBroker(c.ID)
	if !ok {
		return refuse(kerr.BrokerIDNotRegistered, "broker %d is not registered", c.ID)
	}
	if !s.brokers[i].Fenced {
		return refuse(kerr.InvalidRequest, "broker %d is alive: stop it first", c.ID)
	}
	if ps := s.hosted(c.ID); len(ps) > 0 {
		return refuse(kerr.InvalidRequest, "broker %d hosts %d replicas, of %s-%d for one: reassign them first", c.ID, len(ps), ps[0].Topic, ps[0].Index)
	}
	s.brokers = slices.Delete(s.brokers, i, i+1)
	return outcome{}
}

// Quorum is the metadata quorum as this node sees it.
func (c *Cluster) Quorum() Quorum {
	q := Quorum{Leader: c.st.controller, Term: c.term, Commit: c.hard.GetCommit(), Ruling: c.ruling}
	match := map[uint64]uint64{}
	if c.leading {
		c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr progress) { match[id] = pr.Match })
	}
	for i, ids := range [][]uint64{c.st.conf.GetVoters(), c.st.conf.GetLearners()} {
		for _, id := range ids {
			q.Members = append(q.Members, Voter{ID: nodeOf(id), Directory: directoryOf(id), Learner: i == 1, Match: match[id]})
		}
	}
	return q
}

// Voting reports whether a change of the quorum's members is under way.
func (s *State) Voting() bool { return s.voting != nil }

// Voter reports whether a node is a voter of the metadata quorum.
func (s *State) Voter(id broker.NodeID, dir Directory) bool {
	return slices.Contains(s.conf.GetVoters(), raftID(id, dir))
}

// voterTick carries on with the change of members under way: a learner is made a
// voter once it has caught up, and a leader that is to go hands over first.
func (c *Cluster) voterTick() {
	v := c.st.voting
	if v == nil {
		return
	}
	id := raftID(v.ID, v.Directory)
	step := changeMember{ID: v.ID, Directory: v.Directory}
	switch learner := slices.Contains(c.st.conf.GetLearners(), id); {
	case v.Remove && id == c.id():
		c.transfer()
		return
	case v.Remove:
		step.Type = int32(pb.ConfChangeRemoveNode)
	case !learner:
		step.Type = int32(pb.ConfChangeAddLearnerNode)
	default:
		caughtUp := false
		c.rn.WithProgress(func(other uint64, _ raft.ProgressType, pr progress) {
			// A new member counts as active before it has said a word.
			caughtUp = caughtUp || other == id && pr.State == tracker.StateReplicate && pr.RecentActive && pr.Match+promotionLag >= c.st.applied
		})
		if !caughtUp {
			return
		}
		step.Type = int32(pb.ConfChangeAddNode)
	}
	c.duty(fmt.Sprintf("step %v of member %d", pb.ConfChangeType(step.Type), v.ID), step)
}

// id is this node's raft id.
func (c *Cluster) id() uint64 { return raftID(c.cfg.ID, c.cfg.Directory) }

// confChange is what raft is asked for in a step; the command goes along with it,
// so that it is admitted and refused as any other.
func confChange(step changeMember, data []byte) *pb.ConfChange {
	return &pb.ConfChange{Type: pb.ConfChangeType(step.Type).Enum(), NodeId: new(raftID(step.ID, step.Directory)), Context: data}
}

// changeOf takes a configuration change apart.
func changeOf(e *pb.Entry) (*pb.ConfChange, error) {
	cc := &pb.ConfChange{}
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		return nil, err
	}
	return cc, nil
}
