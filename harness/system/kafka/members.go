package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/nemesis"
)

// Admin is a cluster's own administration, by Kafka's requests. A node's identity
// is the number in the last eight bytes of its directory id, "0" for the nodes
// that the cluster began with.
type Admin struct{ *Cluster }

var _ nemesis.Admin = Admin{}

// metadataTopic names the metadata quorum in DescribeQuorum.
const metadataTopic = "__cluster_metadata"

// Members implements nemesis.Admin: as the leader of the metadata quorum tells.
func (a Admin) Members(ctx context.Context) ([]nemesis.Member, error) {
	last := fmt.Errorf("no node leads the metadata quorum")
	for _, node := range a.Nodes {
		p, err := a.quorum(ctx, node, 2)
		if err != nil {
			last = err
			continue
		}
		if p == nil {
			continue // another node leads
		}
		states, md, err := a.metadata(ctx, admin, node, AskTimeout)
		if err != nil {
			last = err
			continue
		}
		return a.members(*p, states, md), nil
	}
	return nil, last
}

// quorum asks a node for the metadata quorum; nil where it says that another one
// knows it.
func (c *Cluster) quorum(ctx context.Context, node string, version int16) (*kmsg.DescribeQuorumResponseTopicPartition, error) {
	req := kmsg.NewPtrDescribeQuorumRequest()
	req.SetVersion(version)
	rt := kmsg.NewDescribeQuorumRequestTopic()
	rt.Topic = metadataTopic
	rt.Partitions = append(rt.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
	req.Topics = append(req.Topics, rt)
	resp, err := c.Transport.RoundTrip(ctx, admin, node, req, AskTimeout)
	if err != nil {
		return nil, err
	}
	r, ok := resp.(*kmsg.DescribeQuorumResponse)
	if !ok || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return nil, fmt.Errorf("quorum of %s: malformed response", node)
	}
	p := &r.Topics[0].Partitions[0]
	if r.ErrorCode != 0 || p.ErrorCode != 0 {
		return nil, nil
	}
	return p, nil
}

func (a Admin) members(p kmsg.DescribeQuorumResponseTopicPartition, states map[Partition]PartitionState, md *kmsg.MetadataResponse) []nemesis.Member {
	var members []nemesis.Member
	for i, group := range [][]kmsg.DescribeQuorumResponseTopicPartitionReplicaState{p.CurrentVoters, p.Observers} {
		for _, v := range group {
			m := nemesis.Member{Node: a.NodeOf(v.ReplicaID), Identity: strconv.FormatUint(binary.BigEndian.Uint64(v.ReplicaDirectoryID[8:]), 10), Voter: i == 0}
			m.Live = slices.ContainsFunc(md.Brokers, func(b kmsg.MetadataResponseBroker) bool { return b.NodeID == v.ReplicaID })
			for _, key := range a.Keys {
				if slices.Contains(states[key].Replicas, m.Node) {
					m.Replicas++
				}
			}
			members = append(members, m)
		}
	}
	return members
}

// ask sends a request to the controller, or to one node after another until one
// answers; the answer may be a refusal. A node that is no member of the quorum
// answers as well, and cannot do anything.
func (a Admin) ask(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	controller, last := a.Controller(ctx)
	nodes := slices.DeleteFunc(slices.Clone(a.Nodes), func(n string) bool { return n == controller })
	if last == nil {
		nodes = append([]string{controller}, nodes...)
	}
	for _, node := range nodes {
		resp, err := a.Transport.RoundTrip(ctx, admin, node, req, 2*AskTimeout)
		if err == nil {
			return resp, nil
		}
		last = err
	}
	return nil, last
}

// refusal makes an error of an answer's code, nil for one of those that are fine.
func refusal(what string, code int16, text *string, fine ...*kerr.Error) error {
	if code == 0 || slices.ContainsFunc(fine, func(e *kerr.Error) bool { return e.Code == code }) {
		return nil
	}
	detail := ""
	if text != nil {
		detail = ": " + *text
	}
	return fmt.Errorf("%s: %s%s", what, codeName(code), detail)
}

// id is a node's broker id.
func (c *Cluster) id(node string) int32 {
	i := slices.Index(c.Nodes, node)
	if i >= 0 && len(c.IDs) > 0 {
		return c.IDs[i]
	}
	return int32(i) + 1
}

func directory(identity string) ([16]byte, error) {
	var id [16]byte
	n, err := strconv.ParseUint(identity, 10, 64)
	binary.BigEndian.PutUint64(id[8:], n)
	return id, err
}

// Admit implements nemesis.Admin.
func (a Admin) Admit(ctx context.Context, node, identity string) error {
	req := kmsg.NewPtrAddRaftVoterRequest()
	req.SetVersion(1)
	req.AckWhenCommitted = false // answered when it has begun
	var err error
	if req.VoterDirectoryID, err = directory(identity); err != nil {
		return err
	}
	req.VoterID, req.TimeoutMillis = a.id(node), int32(AskTimeout.Milliseconds())
	resp, err := a.ask(ctx, req)
	if err != nil {
		return err
	}
	r := resp.(*kmsg.AddRaftVoterResponse)
	return refusal("adding "+node, r.ErrorCode, r.ErrorMessage)
}

// Expel implements nemesis.Admin.
func (a Admin) Expel(ctx context.Context, node, identity string) error {
	req := kmsg.NewPtrRemoveRaftVoterRequest()
	var err error
	if req.VoterDirectoryID, err = directory(identity); err != nil {
		return err
	}
	req.VoterID = a.id(node)
	resp, err := a.ask(ctx, req)
	if err != nil {
		return err
	}
	r := resp.(*kmsg.RemoveRaftVoterResponse)
	return refusal("removing "+node, r.ErrorCode, r.ErrorMessage, kerr.VoterNotFound)
}

// Forget implements nemesis.Admin.
func (a Admin) Forget(ctx context.Context, node string) error {
	req := kmsg.NewPtrUnregisterBrokerRequest()
	req.BrokerID = a.id(node)
	resp, err := a.ask(ctx, req)
	if err != nil {
		return err
	}
	r := resp.(*kmsg.UnregisterBrokerResponse)
	return refusal("unregistering "+node, r.ErrorCode, r.ErrorMessage, kerr.BrokerIDNotRegistered)
}

// Assignment implements nemesis.Admin: as the node tells that leads the partition,
// or else the one that knows the highest epoch.
func (a Admin) Assignment(ctx context.Context, key string) (nemesis.Assignment, error) {
	k, err := a.ParseKey(key)
	if err != nil {
		return nemesis.Assignment{}, err
	}
	best, from := PartitionState{Epoch: -1}, ""
	for _, node := range a.Nodes {
		md, err := a.Metadata(ctx, admin, node, AskTimeout)
		if err != nil {
			continue
		}
		if p, ok := md[k]; ok && (p.Epoch > best.Epoch || p.Epoch == best.Epoch && node == p.Leader) {
			best, from = p, node
		}
	}
	if from == "" {
		return nemesis.Assignment{}, fmt.Errorf("no node knows the replicas of %s", key)
	}
	req := kmsg.NewPtrListPartitionReassignmentsRequest()
	rt := kmsg.NewListPartitionReassignmentsRequestTopic()
	rt.Topic, rt.Partitions = k.Topic, []int32{k.Index}
	req.Topics = append(req.Topics, rt)
	resp, err := a.Transport.RoundTrip(ctx, admin, from, req, AskTimeout)
	if err != nil {
		return nemesis.Assignment{}, err
	}
	r := resp.(*kmsg.ListPartitionReassignmentsResponse)
	if err := refusal("reassignments", r.ErrorCode, r.ErrorMessage); err != nil {
		return nemesis.Assignment{}, err
	}
	return nemesis.Assignment{Replicas: best.Replicas, InSync: best.ISR, Moving: len(r.Topics) > 0}, nil
}

// Assign implements nemesis.Admin.
func (a Admin) Assign(ctx context.Context, key string, replicas []string) error {
	k, err := a.ParseKey(key)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	req.SetVersion(1)
	req.AllowReplicationFactorChange, req.TimeoutMillis = true, int32(AskTimeout.Milliseconds())
	rt := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	rt.Topic = k.Topic
	rp := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
	rp.Partition, rp.Replicas = k.Index, []int32{}
	for _, n := range replicas {
		rp.Replicas = append(rp.Replicas, a.id(n))
	}
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := a.ask(ctx, req)
	if err != nil {
		return err
	}
	r := resp.(*kmsg.AlterPartitionAssignmentsResponse)
	if err := refusal("reassigning "+key, r.ErrorCode, r.ErrorMessage); err != nil {
		return err
	}
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return fmt.Errorf("reassigning %s: malformed response", key)
	}
	p := r.Topics[0].Partitions[0]
	return refusal("reassigning "+key, p.ErrorCode, p.ErrorMessage)
}

// Elect implements nemesis.Admin.
func (a Admin) Elect(ctx context.Context, key string) error {
	k, err := a.ParseKey(key)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrElectLeadersRequest()
	req.SetVersion(2)
	req.TimeoutMillis = int32(AskTimeout.Milliseconds())
	rt := kmsg.NewElectLeadersRequestTopic()
	rt.Topic, rt.Partitions = k.Topic, []int32{k.Index}
	req.Topics = append(req.Topics, rt)
	resp, err := a.ask(ctx, req)
	if err != nil {
		return err
	}
	r := resp.(*kmsg.ElectLeadersResponse)
	if err := refusal("electing a leader of "+key, r.ErrorCode, nil); err != nil {
		return err
	}
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return fmt.Errorf("electing a leader of %s: malformed response", key)
	}
	p := r.Topics[0].Partitions[0]
	return refusal("electing a leader of "+key, p.ErrorCode, p.ErrorMessage, kerr.ElectionNotNeeded)
}
