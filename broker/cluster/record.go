package cluster

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/faultline-mq/faultline/broker"
)

// The metadata log is a sequence of records, each a marshalled raftpb.Message of
// type MsgStorageAppend: what raft asked to be stored at once. The first record
// holds the snapshot that the log starts from. Every record repeats the newest hard
// state, so that the log up to any record is one that raft can start from.

// bootIndex and bootTerm are those of the snapshot that an empty log starts from,
// the same on every node.
const (
	bootIndex = 1
	bootTerm  = 1
)

var marshaling = proto.MarshalOptions{Deterministic: true}

func record(hard *pb.HardState, entries []*pb.Entry, snap *pb.Snapshot) []byte {
	data, err := marshaling.Marshal(&pb.Message{
		Type: pb.MsgStorageAppend.Enum(),
		Term: hard.Term, Vote: hard.Vote, Commit: hard.Commit,
		Entries: entries, Snapshot: snap,
	})
	if err != nil {
		panic(err) // only a required field that is missing: there is none
	}
	return data
}

// replacing gives the records of a log that starts from a snapshot.
func replacing(hard *pb.HardState, snap *pb.Snapshot, entries []*pb.Entry) [][]byte {
	first := &pb.HardState{Term: hard.Term, Vote: hard.Vote, Commit: snap.GetMetadata().Index}
	return [][]byte{record(first, nil, snap), record(hard, entries, nil)}
}

// recoveredLog is what the records of a metadata log amount to.
type recoveredLog struct {
	hard    *pb.HardState
	snap    *pb.Snapshot
	entries []*pb.Entry // those after the snapshot
}

// recoverLog reads the records of a metadata log that is not empty. It accepts what
// a node can have written and nothing else: raft panics on the rest.
func recoverLog(conf *pb.ConfState, records [][]byte) (*recoveredLog, error) {
	l := &recoveredLog{}
	for i, data := range records {
		if err := l.add(conf, data); err != nil {
			return nil, fmt.Errorf("cluster: metadata log, record %d of %d: %w; remove this node's metadata directory only if a majority of controllers is intact",
				i+1, len(records), err)
		}
	}
	return l, nil
}

func (l *recoveredLog) add(conf *pb.ConfState, data []byte) error {
	m := &pb.Message{}
	if err := proto.Unmarshal(data, m); err != nil {
		return err
	}
	if m.GetType() != pb.MsgStorageAppend {
		return fmt.Errorf("type %v is not one of a log", m.GetType())
	}
	if l.snap == nil {
		snap := m.GetSnapshot()
		meta := snap.GetMetadata()
		if meta.GetIndex() < bootIndex || meta.GetTerm() < bootTerm {
			return errors.New("the log does not start with a snapshot")
		}
		// Later snapshots carry the members of their time.
		if cs := meta.GetConfState(); meta.GetIndex() == bootIndex && !sameMembers(cs, conf) {
			return fmt.Errorf("it was written with voters %v and learners %v, the configuration names %v and %v: restore that configuration",
				cs.GetVoters(), cs.GetLearners(), conf.GetVoters(), conf.GetLearners())
		} else if !plainMembers(cs) {
			return fmt.Errorf("members %v are none of a quorum that changes one at a time", cs)
		}
		l.snap = snap
		l.hard = &pb.HardState{}
	} else if m.Snapshot != nil {
		return errors.New("a snapshot in the middle")
	}
	for _, e := range m.GetEntries() {
		if err := l.addEntry(e); err != nil {
			return err
		}
	}
	hard := &pb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	last, lastTerm := l.last()
	switch {
	case hard.GetTerm() < max(l.hard.GetTerm(), lastTerm) || hard.GetTerm() == 0:
		return fmt.Errorf("term %d goes back", hard.GetTerm())
	case hard.GetCommit() < max(l.hard.GetCommit(), l.snap.GetMetadata().GetIndex()) || hard.GetCommit() > last:
		return fmt.Errorf("commit index %d is not between what was committed and the last entry %d", hard.GetCommit(), last)
	case hard.GetVote() != raft.None && nodeOf(hard.GetVote()) < 1:
		return fmt.Errorf("vote for %d, which is no node", hard.GetVote())
	}
	l.hard = hard
	return nil
}

func (l *recoveredLog) addEntry(e *pb.Entry) error {
	first := l.snap.GetMetadata().GetIndex() + 1
	last, _ := l.last()
	if e.GetIndex() < first || e.GetIndex() > last+1 {
		return fmt.Errorf("entry %d does not follow %d", e.GetIndex(), last)
	}
	if e.GetIndex() <= l.hard.GetCommit() {
		return fmt.Errorf("entry %d replaces a committed one", e.GetIndex())
	}
	if e.GetType() != pb.EntryNormal && e.GetType() != pb.EntryConfChange {
		return fmt.Errorf("entry %d is of type %v", e.GetIndex(), e.GetType())
	}
	l.entries = l.entries[:e.GetIndex()-first]
	if _, term := l.last(); e.GetTerm() < term {
		return fmt.Errorf("entry %d: term %d goes back", e.GetIndex(), e.GetTerm())
	}
	l.entries = append(l.entries, e)
	return nil
}

// last gives index and term of the last entry, or of the snapshot.
func (l *recoveredLog) last() (index, term uint64) {
	if n := len(l.entries); n > 0 {
		return l.entries[n-1].GetIndex(), l.entries[n-1].GetTerm()
	}
	meta := l.snap.GetMetadata()
	return meta.GetIndex(), meta.GetTerm()
}

// confState is the membership that the log begins with: sorted, so that it is the same on every node.
func confState(cfg *Config) *pb.ConfState {
	ids := func(members []broker.Member) []uint64 {
		var ids []uint64
		for _, m := range members {
			ids = append(ids, uint64(m.ID))
		}
		slices.Sort(ids)
		return ids
	}
	return pb.EnsureConfState(&pb.ConfState{Voters: ids(cfg.Voters), Learners: ids(cfg.Learners)})
}

func sameMembers(a, b *pb.ConfState) bool {
	return slices.Equal(a.GetVoters(), b.GetVoters()) && slices.Equal(a.GetLearners(), b.GetLearners())
}

// plainMembers says whether a membership is one outside of joint consensus: members
// change one at a time here.
func plainMembers(cs *pb.ConfState) bool {
	return len(cs.GetVoters()) > 0 && len(cs.GetVotersOutgoing()) == 0 && len(cs.GetLearnersNext()) == 0 && !cs.GetAutoLeave()
}
