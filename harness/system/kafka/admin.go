package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// admin is the name under which the harness itself asks.
const admin = "harness"

// AskTimeout is the deadline of one administrative request.
const AskTimeout = 2 * time.Second

// CreateTopic creates the workload's topic, asking nodes in turn until one
// answers for certain or ctx ends. A topic that is already there is fine.
func (c *Cluster) CreateTopic(ctx context.Context, topic string, partitions int32, replication int16, configs map[string]string, names []string) error {
	var last error
	for i := 0; ; i++ {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.SetVersion(5)
		req.TimeoutMillis = int32(AskTimeout.Milliseconds())
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = topic, partitions, replication
		for _, name := range names {
			cfg := kmsg.NewCreateTopicsRequestTopicConfig()
			cfg.Name, cfg.Value = name, kmsg.StringPtr(configs[name])
			t.Configs = append(t.Configs, cfg)
		}
		req.Topics = append(req.Topics, t)
		resp, err := c.Transport.RoundTrip(ctx, admin, c.Nodes[i%c.First], req, 2*AskTimeout)
		if r, ok := resp.(*kmsg.CreateTopicsResponse); err == nil && ok && len(r.Topics) == 1 {
			code := r.Topics[0].ErrorCode
			if code == 0 || code == kerr.TopicAlreadyExists.Code {
				return nil
			}
			text := ""
			if r.Topics[0].ErrorMessage != nil {
				text = *r.Topics[0].ErrorMessage
			}
			last = fmt.Errorf("topic %s cannot be created: %s: %s", topic, codeName(code), text)
			switch code {
			case kerr.InvalidConfig.Code, kerr.InvalidPartitions.Code, kerr.InvalidTopicException.Code,
				kerr.TopicAuthorizationFailed.Code, kerr.ClusterAuthorizationFailed.Code, kerr.PolicyViolation.Code:
				return last
			}
		} else if err != nil {
			last = err
		}
		if err := c.Clock.Sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%w (last answer: %v)", err, last)
		}
	}
}

// DeleteTopic deletes a topic, asking nodes in turn until one answers for certain or
// ctx ends. A topic that is gone is fine.
func (c *Cluster) DeleteTopic(ctx context.Context, topic string) error {
	for i := 0; ; i++ {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.SetVersion(4)
		req.TimeoutMillis = int32(AskTimeout.Milliseconds())
		req.TopicNames = []string{topic}
		resp, err := c.Transport.RoundTrip(ctx, admin, c.Nodes[i%c.First], req, 2*AskTimeout)
		if r, ok := resp.(*kmsg.DeleteTopicsResponse); err == nil && ok && len(r.Topics) == 1 {
			code := r.Topics[0].ErrorCode
			switch code {
			case 0, kerr.UnknownTopicOrPartition.Code:
				return nil
			case kerr.TopicAuthorizationFailed.Code, kerr.ClusterAuthorizationFailed.Code, kerr.TopicDeletionDisabled.Code:
				return fmt.Errorf("topic %s: %s", topic, codeName(code))
			}
			err = fmt.Errorf("topic %s: %s", topic, codeName(code))
		}
		if serr := c.Clock.Sleep(ctx, 100*time.Millisecond); serr != nil {
			return fmt.Errorf("%w (last answer: %v)", serr, err)
		}
	}
}

// Broker is a broker as the cluster's metadata lists it.
type Broker struct {
	ID   int32
	Host string // as it advertises itself
	Port int32
}

// Brokers asks a node which brokers there are.
func (c *Cluster) Brokers(ctx context.Context, node string) ([]Broker, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(1)
	req.Topics = []kmsg.MetadataRequestTopic{} // none: null would be all
	resp, err := c.Transport.RoundTrip(ctx, admin, node, req, 2*AskTimeout)
	if err != nil {
		return nil, err
	}
	md, ok := resp.(*kmsg.MetadataResponse)
	if !ok {
		return nil, fmt.Errorf("metadata of %s: unexpected response %T", node, resp)
	}
	var all []Broker
	for _, b := range md.Brokers {
		all = append(all, Broker{ID: b.NodeID, Host: b.Host, Port: b.Port})
	}
	return all, nil
}

// Ready reports whether every node answers and every key has a leader and all
// its replicas in sync, in the view of every node. detail says what is missing.
func (c *Cluster) Ready(ctx context.Context, replication int) (ok bool, detail string) {
	for _, node := range c.Nodes[:c.First] {
		md, err := c.Metadata(ctx, admin, node, AskTimeout)
		if err != nil {
			return false, err.Error()
		}
		for _, k := range c.Keys {
			p, ok := md[k]
			switch {
			case !ok:
				return false, fmt.Sprintf("%s does not know %s", node, k)
			case p.Answers == "":
				return false, fmt.Sprintf("%s has no leader in the view of %s", k, node)
			case len(p.ISR) < replication:
				return false, fmt.Sprintf("%s has %d of %d replicas in sync in the view of %s", k, len(p.ISR), replication, node)
			}
		}
	}
	return true, ""
}

// Answers reports whether every node answers and knows a controller.
func (c *Cluster) Answers(ctx context.Context) (ok bool, detail string) {
	for _, node := range c.Nodes[:c.First] {
		_, md, err := c.metadata(ctx, admin, node, AskTimeout)
		switch {
		case err != nil:
			return false, err.Error()
		case c.NodeOf(md.ControllerID) == "":
			return false, node + " knows no controller"
		case len(md.Brokers) < c.First:
			return false, fmt.Sprintf("%s sees %d of %d brokers", node, len(md.Brokers), c.First)
		}
	}
	return true, ""
}

// Leader implements nemesis.Roles: the leader with the highest epoch that any
// node names; where there are no epochs the master that most nodes name.
func (c *Cluster) Leader(ctx context.Context, key string) (string, int32, error) {
	k, err := c.ParseKey(key)
	if err != nil {
		return "", -1, err
	}
	name, epoch := "", int32(-1)
	votes := map[string]int{}
	for _, node := range c.Nodes {
		md, err2 := c.Metadata(ctx, admin, node, AskTimeout)
		if err2 != nil {
			err = err2
			continue
		}
		p, ok := md[k]
		if !ok || p.Answers == "" {
			continue
		}
		votes[p.Answers]++
		if p.Epoch > epoch || name == "" || p.Epoch == epoch && votes[p.Answers] > votes[name] {
			name, epoch = p.Answers, p.Epoch
		}
	}
	if name == "" {
		return "", -1, fmt.Errorf("no node names a leader of %s (last error: %v)", key, err)
	}
	return name, epoch, nil
}

// Controller implements nemesis.Roles: the leader of the metadata quorum, and where
// the nodes know none the node that most of them name.
func (c *Cluster) Controller(ctx context.Context) (string, error) {
	if c.Foreign {
		for _, node := range c.Nodes {
			if p, err := c.quorum(ctx, node, 0); err == nil && p != nil && c.NodeOf(p.LeaderID) != "" {
				return c.NodeOf(p.LeaderID), nil
			}
		}
	}
	votes := make(map[string]int)
	var last error
	for _, node := range c.Nodes {
		_, md, err := c.metadata(ctx, admin, node, AskTimeout)
		if err != nil {
			last = err
			continue
		}
		votes[c.NodeOf(md.ControllerID)]++
	}
	best := ""
	for _, node := range c.Nodes {
		if votes[node] > votes[best] || best == "" && votes[node] > 0 {
			best = node
		}
	}
	if best == "" {
		return "", fmt.Errorf("no node names a controller (last error: %v)", last)
	}
	return best, nil
}

// Responds implements nemesis.Roles.
func (c *Cluster) Responds(ctx context.Context, node string, timeout time.Duration) bool {
	req := kmsg.NewPtrApiVersionsRequest()
	req.SetVersion(0)
	// A connection of its own: one that was established before a fault may hold
	// another request's remains.
	name := admin + "-probe"
	defer c.Transport.Close(name)
	_, err := c.Transport.RoundTrip(ctx, name, node, req, timeout)
	return err == nil
}
