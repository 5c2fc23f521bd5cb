package kafka

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
)

// metadataTopic is the name by which Kafka's clients ask for the metadata quorum.
const metadataTopic = "__cluster_metadata"

// removeTimeout bounds the wait for a voter's removal: the request names no time.
const removeTimeout = 10 * time.Second

// DirectoryUUID is a directory id as Kafka's requests carry it.
func DirectoryUUID(d cluster.Directory) [16]byte {
	var id [16]byte
	binary.BigEndian.PutUint64(id[8:], uint64(d))
	return id
}

func directoryOf(id [16]byte) (cluster.Directory, bool) {
	d := cluster.Directory(binary.BigEndian.Uint64(id[8:]))
	return d, DirectoryUUID(d) == id
}

// wait is a request whose answer waits for the metadata.
type wait struct {
	until time.Duration
	// done says whether the answer is known, and which.
	done   func(*cluster.State) (code int16, detail string, ok bool)
	answer func(code int16, detail string)
}

// await answers when done says so, or with REQUEST_TIMED_OUT.
func (s *Server) await(w *wait) {
	s.waits = append(s.waits, w)
	s.lookAgain()
}

func (s *Server) lookAgain() {
	s.waits = slices.DeleteFunc(s.waits, func(w *wait) bool {
		code, detail, ok := w.done(s.b.State())
		if !ok && s.b.Now().Mono >= w.until {
			code, detail, ok = kerr.RequestTimedOut.Code, "the change of members goes on", true
		}
		if ok {
			w.answer(code, detail)
		}
		return ok
	})
}

// addRaftVoter answers when the node is a voter, or where AckWhenCommitted is
// false (from version 1 on) when the change has begun. The listeners are not
// used: every node's configuration names the places of all.
func (s *Server) addRaftVoter(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.AddRaftVoterRequest)
	resp := kmsg.NewPtrAddRaftVoterResponse()
	resp.SetVersion(req.Version)
	done := func(code int16, detail string) {
		resp.ErrorCode, resp.ErrorMessage = code, text(code, detail)
		reply(s, id, resp)
	}
	node, dir, code, why := s.voter(req.ClusterID, req.VoterID, req.VoterDirectoryID)
	if code != 0 {
		done(code, why)
		return
	}
	wait := &wait{until: s.b.Now().Mono + time.Duration(req.TimeoutMillis)*time.Millisecond, answer: done, done: func(st *cluster.State) (int16, string, bool) {
		switch {
		case st.Voter(node, dir):
			return 0, "", true
		case !st.Voting():
			return kerr.VoterNotFound.Code, fmt.Sprintf("node %d was taken back", node), true
		}
		return 0, "", false
	}}
	s.propose(cluster.AddVoter{ID: node, Directory: dir}, func(r cluster.Result) {
		if r.Code != 0 || req.Version >= 1 && !req.AckWhenCommitted {
			done(r.Code, r.Text)
			return
		}
		s.await(wait)
	})
}

// removeRaftVoter answers when the node is none any more.
func (s *Server) removeRaftVoter(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.RemoveRaftVoterRequest)
	resp := kmsg.NewPtrRemoveRaftVoterResponse()
	resp.SetVersion(req.Version)
	done := func(code int16, detail string) {
		resp.ErrorCode, resp.ErrorMessage = code, text(code, detail)
		reply(s, id, resp)
	}
	node, dir, code, why := s.voter(req.ClusterID, req.VoterID, req.VoterDirectoryID)
	if code != 0 {
		done(code, why)
		return
	}
	wait := &wait{until: s.b.Now().Mono + removeTimeout, answer: done, done: func(st *cluster.State) (int16, string, bool) {
		return 0, "", !st.Voting() && !st.Voter(node, dir)
	}}
	s.propose(cluster.RemoveVoter{ID: node, Directory: dir}, func(r cluster.Result) {
		if r.Code != 0 {
			done(r.Code, r.Text)
			return
		}
		s.await(wait)
	})
}

// voter checks what both requests have.
func (s *Server) voter(clusterID *string, id int32, dir [16]byte) (broker.NodeID, cluster.Directory, int16, string) {
	d, ok := directoryOf(dir)
	switch {
	case clusterID != nil && *clusterID != s.cfg.ClusterID:
		return 0, 0, kerr.InconsistentClusterID.Code, fmt.Sprintf("this is cluster %q", s.cfg.ClusterID)
	case !ok:
		return 0, 0, kerr.InvalidRequest.Code, "directory ids of this broker have zeros in their first eight bytes"
	case s.cfg.Nodes != nil && !slices.Contains(s.cfg.Nodes, broker.NodeID(id)):
		return 0, 0, kerr.InvalidRequest.Code, fmt.Sprintf("no node's configuration names a place for node %d", id)
	}
	return broker.NodeID(id), d, 0, ""
}

// unregisterBroker forgets a broker that is gone and hosts nothing.
func (s *Server) unregisterBroker(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.UnregisterBrokerRequest)
	resp := kmsg.NewPtrUnregisterBrokerResponse()
	resp.SetVersion(req.Version)
	s.propose(cluster.UnregisterBroker{ID: broker.NodeID(req.BrokerID)}, func(r cluster.Result) {
		resp.ErrorCode, resp.ErrorMessage = r.Code, text(r.Code, r.Text)
		reply(s, id, resp)
	})
}

// describeQuorum tells of the metadata quorum; only its leader knows enough. Times
// of followers' fetches are not kept (-1), and the metadata holds no addresses of
// the quorum's own ports: a node's listeners are empty.
func (s *Server) describeQuorum(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.DescribeQuorumRequest)
	resp := kmsg.NewPtrDescribeQuorumResponse()
	resp.SetVersion(req.Version)
	q := s.b.Quorum()
	for _, t := range req.Topics {
		rt := kmsg.NewDescribeQuorumResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewDescribeQuorumResponseTopicPartition()
			rp.Partition = p.Partition
			switch {
			case t.Topic != metadataTopic || p.Partition != 0:
				rp.ErrorCode = kerr.UnknownTopicOrPartition.Code
			case !q.Ruling:
				rp.ErrorCode = kerr.NotLeaderForPartition.Code
			default:
				rp.LeaderID, rp.LeaderEpoch, rp.HighWatermark = int32(q.Leader), int32(q.Term), int64(q.Commit)
				for _, m := range q.Members {
					state := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
					state.ReplicaID, state.ReplicaDirectoryID, state.LogEndOffset = int32(m.ID), DirectoryUUID(m.Directory), int64(m.Match)
					state.LastFetchTimestamp, state.LastCaughtUpTimestamp = -1, -1
					if m.Learner {
						rp.Observers = append(rp.Observers, state)
					} else {
						rp.CurrentVoters = append(rp.CurrentVoters, state)
					}
				}
			}
			rp.ErrorMessage = text(rp.ErrorCode, "")
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	if q.Ruling {
		for _, m := range q.Members {
			n := kmsg.NewDescribeQuorumResponseNode()
			n.NodeID = int32(m.ID)
			resp.Nodes = append(resp.Nodes, n)
		}
	}
	reply(s, id, resp)
}
