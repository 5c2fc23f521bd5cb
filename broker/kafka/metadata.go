package kafka

import (
	"cmp"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/scheme"
)

func (s *Server) metadata(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.MetadataRequest)
	resp := kmsg.NewPtrMetadataResponse()
	resp.SetVersion(req.Version)
	st := s.b.State()
	resp.ClusterID = &s.cfg.ClusterID
	resp.ControllerID = int32(st.Controller())
	for _, b := range st.Brokers() {
		if b.Fenced {
			continue
		}
		m := kmsg.NewMetadataResponseBroker()
		m.NodeID, m.Host, m.Port = int32(b.ID), b.Host, b.Port
		if b.Rack != "" {
			m.Rack = &b.Rack
		}
		resp.Brokers = append(resp.Brokers, m)
	}
	all := req.Topics == nil || req.Version == 0 && len(req.Topics) == 0
	if all {
		for _, t := range st.Topics() {
			resp.Topics = append(resp.Topics, s.describeTopic(t))
		}
	}
	for _, asked := range req.Topics {
		var t *cluster.Topic
		name := ""
		missing := kerr.UnknownTopicOrPartition
		if asked.Topic != nil {
			name = *asked.Topic
			t = st.Topic(name)
		} else {
			missing = kerr.UnknownTopicID
			for _, known := range st.Topics() {
				if known.ID == asked.TopicID {
					t = known
				}
			}
		}
		if t != nil {
			resp.Topics = append(resp.Topics, s.describeTopic(t))
			continue
		}
		// Before version 4 a client cannot forbid it.
		switch {
		case !s.cfg.AutoCreate || asked.Topic == nil || req.Version >= 4 && !req.AllowAutoTopicCreation:
		case cluster.ValidTopicName(name) != nil:
			missing = kerr.InvalidTopicException
		default: // the client asks again, and by then it is there
			c := cluster.CreateTopic{Name: name, Partitions: -1, ReplicationFactor: -1}
			s.fitScheme(&c)
			s.propose(c, func(cluster.Result) {})
			missing = kerr.LeaderNotAvailable
		}
		if st.Registered() < 0 {
			missing = kerr.LeaderNotAvailable // this node does not know yet what there is
		}
		m := kmsg.NewMetadataResponseTopic()
		m.Topic, m.TopicID, m.ErrorCode = asked.Topic, asked.TopicID, missing.Code
		resp.Topics = append(resp.Topics, m)
	}
	reply(s, id, resp)
}

func (s *Server) describeTopic(t *cluster.Topic) kmsg.MetadataResponseTopic {
	m := kmsg.NewMetadataResponseTopic()
	m.Topic, m.TopicID = kmsg.StringPtr(t.Name), t.ID
	for _, p := range t.Partitions {
		mp := kmsg.NewMetadataResponseTopicPartition()
		mp.Partition, mp.Leader, mp.LeaderEpoch = p.Index, int32(p.Leader), p.Epoch
		mp.Replicas, mp.ISR = ids(p.Replicas), ids(p.ISR)
		replicas := p.Replicas
		if v, ok := s.ownView(t, p); ok {
			mp.Leader, mp.LeaderEpoch, mp.ISR = int32(v.Leader), v.Epoch, ids(v.InSync)
			if v.Replicas != nil {
				replicas, mp.Replicas = v.Replicas, ids(v.Replicas)
			}
		}
		if v, ok := s.proxied(t.Name, p.Index); ok {
			// Any node takes requests: each names itself.
			replicas = v.Replicas
			mp.Leader, mp.LeaderEpoch, mp.Replicas, mp.ISR = int32(s.cfg.Self), -1, ids(v.Replicas), ids(v.InSync)
			if own := s.b.State().Broker(s.cfg.Self); own == nil || own.Fenced {
				mp.Leader, mp.ErrorCode = int32(broker.None), kerr.LeaderNotAvailable.Code
			}
		}
		for _, id := range replicas {
			if b := s.b.State().Broker(id); b == nil || b.Fenced {
				mp.OfflineReplicas = append(mp.OfflineReplicas, int32(id))
			}
		}
		if mp.Leader == int32(broker.None) {
			mp.ErrorCode = kerr.LeaderNotAvailable.Code
		}
		m.Partitions = append(m.Partitions, mp)
	}
	return m
}

// ownView is what this node's replica says of a partition whose leader and in-sync
// set are not the quorum's to decide, if that is not older than what the quorum was told.
func (s *Server) ownView(t *cluster.Topic, p *cluster.Partition) (scheme.View, bool) {
	if d := s.scheme(cmp.Or(t.Scheme, s.cfg.Scheme)); d != nil && d.Election == scheme.Lock {
		if own := s.b.Partition(t.Name, p.Index); own != nil {
			return own.Machine().View(), true
		}
		return scheme.View{Leader: broker.None, Epoch: -1}, true
	}
	if t.Election == cluster.ElectInSync {
		return scheme.View{}, false
	}
	host := s.b.Partition(t.Name, p.Index)
	if host == nil {
		return scheme.View{}, false
	}
	v := host.Machine().View()
	return v, v.Leader != broker.None && v.Epoch >= p.Epoch
}

// proxied is the view of a partition that any node takes requests for.
func (s *Server) proxied(topic string, index int32) (scheme.View, bool) {
	p := s.b.Partition(topic, index)
	if p == nil {
		return scheme.View{}, false
	}
	v := p.Machine().View()
	return v, v.Proxied
}

func ids(nodes []broker.NodeID) []int32 {
	out := make([]int32, len(nodes))
	for i, id := range nodes {
		out[i] = int32(id)
	}
	return out
}
