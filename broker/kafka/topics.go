package kafka

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// SchemeConfig is the topic config that chooses the replication scheme.
const SchemeConfig = "replication.scheme"

func (s *Server) createTopics(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.CreateTopicsRequest)
	resp := kmsg.NewPtrCreateTopicsResponse()
	resp.SetVersion(req.Version)
	resp.Topics = make([]kmsg.CreateTopicsResponseTopic, len(req.Topics))
	waiting := len(req.Topics)
	if waiting == 0 {
		reply(s, id, resp)
	}
	for i, t := range req.Topics {
		rt := &resp.Topics[i]
		rt.Default()
		rt.Topic = t.Topic
		c := cluster.CreateTopic{Name: t.Topic, Partitions: t.NumPartitions, ReplicationFactor: t.ReplicationFactor, ValidateOnly: req.ValidateOnly, Configs: map[string]string{}}
		code, why := assignment(&c, t.ReplicaAssignment)
		for _, cfg := range t.Configs {
			switch {
			case cfg.Value == nil:
			case cfg.Name == SchemeConfig:
				c.Scheme = *cfg.Value
			default:
				c.Configs[cfg.Name] = *cfg.Value
			}
		}
		if code == 0 {
			code, why = s.fitScheme(&c)
		}
		done := func(r cluster.Result) {
			rt.ErrorCode, rt.ErrorMessage = r.Code, text(r.Code, r.Text)
			if created, ok := r.Value.(*cluster.Topic); ok && created != nil {
				rt.TopicID, rt.NumPartitions = created.ID, int32(len(created.Partitions))
				if len(created.Partitions) > 0 {
					rt.ReplicationFactor = int16(len(created.Partitions[0].Replicas))
				}
			}
			if waiting--; waiting == 0 {
				reply(s, id, resp)
			}
		}
		if code != 0 {
			done(cluster.Result{Code: code, Text: why})
			continue
		}
		s.propose(c, done)
	}
}

// fitScheme refuses a scheme that does not exist and more replicas than it has: a
// second replica of a scheme without fail-over would take over empty.
func (s *Server) fitScheme(c *cluster.CreateTopic) (int16, string) {
	name := cmp.Or(c.Scheme, s.cfg.Scheme)
	d := s.scheme(name)
	switch {
	case s.cfg.Schemes == nil:
	case d == nil:
		var known []string
		for _, d := range s.cfg.Schemes {
			known = append(known, d.Name)
		}
		return kerr.InvalidConfig.Code, fmt.Sprintf("unknown %s %q; known schemes: %s", SchemeConfig, name, strings.Join(known, ", "))
	case d.Replicas != scheme.One:
	case c.ReplicationFactor > 1 || slices.ContainsFunc(c.Assignment, func(r []broker.NodeID) bool { return len(r) > 1 }):
		return kerr.InvalidReplicationFactor.Code, fmt.Sprintf("scheme %s has one replica of a partition", name)
	case c.ReplicationFactor == -1 && len(c.Assignment) == 0:
		c.ReplicationFactor = 1
	}
	return 0, ""
}

// scheme returns a scheme's definition, nil where there is none.
func (s *Server) scheme(name string) *scheme.Definition {
	i := slices.IndexFunc(s.cfg.Schemes, func(d scheme.Definition) bool { return d.Name == name })
	if i < 0 {
		return nil
	}
	return &s.cfg.Schemes[i]
}

// assignment takes over a manual assignment, which must number partitions from 0.
func assignment(c *cluster.CreateTopic, as []kmsg.CreateTopicsRequestTopicReplicaAssignment) (int16, string) {
	if len(as) == 0 {
		return 0, ""
	}
	as = slices.Clone(as)
	slices.SortFunc(as, func(a, b kmsg.CreateTopicsRequestTopicReplicaAssignment) int { return int(a.Partition - b.Partition) })
	for i, a := range as {
		if int(a.Partition) != i || len(a.Replicas) == 0 {
			return kerr.InvalidReplicaAssignment.Code, "partitions must be numbered from 0 without gaps, each with replicas"
		}
		var nodes []broker.NodeID
		for _, r := range a.Replicas {
			nodes = append(nodes, broker.NodeID(r))
		}
		c.Assignment = append(c.Assignment, nodes)
	}
	return 0, ""
}

func (s *Server) deleteTopics(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.DeleteTopicsRequest)
	resp := kmsg.NewPtrDeleteTopicsResponse()
	resp.SetVersion(req.Version)
	type want struct {
		name *string
		id   [16]byte
	}
	var wants []want
	for _, name := range req.TopicNames {
		wants = append(wants, want{name: &name})
	}
	for _, t := range req.Topics {
		wants = append(wants, want{t.Topic, t.TopicID})
	}
	resp.Topics = make([]kmsg.DeleteTopicsResponseTopic, len(wants))
	waiting := len(wants)
	if waiting == 0 {
		reply(s, id, resp)
	}
	for i, w := range wants {
		rt := &resp.Topics[i]
		rt.Default()
		rt.TopicID = w.id
		done := func(r cluster.Result) {
			rt.Topic, rt.ErrorCode, rt.ErrorMessage = w.name, r.Code, text(r.Code, r.Text)
			if waiting--; waiting == 0 {
				reply(s, id, resp)
			}
		}
		if w.name == nil {
			if j := slices.IndexFunc(s.b.State().Topics(), func(t *cluster.Topic) bool { return t.ID == w.id }); j >= 0 {
				w.name = &s.b.State().Topics()[j].Name
			}
		}
		if w.name == nil {
			done(cluster.Result{Code: kerr.UnknownTopicID.Code})
			continue
		}
		s.propose(cluster.DeleteTopic{Name: *w.name}, done)
	}
}
