package kafka

import (
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
)

func (s *Server) describeCluster(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.DescribeClusterRequest)
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.SetVersion(req.Version)
	st := s.b.State()
	resp.ClusterID, resp.ControllerID = s.cfg.ClusterID, int32(st.Controller())
	for _, b := range st.Brokers() {
		if b.Fenced {
			continue
		}
		m := kmsg.NewDescribeClusterResponseBroker()
		m.NodeID, m.Host, m.Port = int32(b.ID), b.Host, b.Port
		if b.Rack != "" {
			m.Rack = &b.Rack
		}
		resp.Brokers = append(resp.Brokers, m)
	}
	reply(s, id, resp)
}

// Resource types and config sources of DescribeConfigs.
const (
	topicResource  = kmsg.ConfigResourceTypeTopic
	brokerResource = kmsg.ConfigResourceTypeBroker
	sourceTopic    = kmsg.ConfigSourceDynamicTopicConfig
	sourceBroker   = kmsg.ConfigSourceStaticBrokerConfig
)

func (s *Server) describeConfigs(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.DescribeConfigsRequest)
	resp := kmsg.NewPtrDescribeConfigsResponse()
	resp.SetVersion(req.Version)
	for _, want := range req.Resources {
		rr := kmsg.NewDescribeConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = want.ResourceType, want.ResourceName
		values, own := map[string]string{}, map[string]string{}
		switch want.ResourceType {
		case topicResource:
			t := s.b.State().Topic(want.ResourceName)
			if t == nil {
				rr.ErrorCode = kerr.UnknownTopicOrPartition.Code
				break
			}
			values = s.b.Configs(t)
			own = maps.Clone(t.Configs)
			if t.Scheme != "" {
				values[SchemeConfig] = t.Scheme
			}
			maps.Copy(values, own)
		case brokerResource:
			if want.ResourceName != "" && want.ResourceName != strconv.Itoa(int(s.cfg.Self)) {
				rr.ErrorCode, rr.ErrorMessage = kerr.InvalidRequest.Code, text(kerr.InvalidRequest.Code, "ask broker "+want.ResourceName+" itself")
				break
			}
			values = s.b.BrokerConfigs()
		default:
			rr.ErrorCode = kerr.InvalidRequest.Code
		}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			if want.ConfigNames != nil && !slices.Contains(want.ConfigNames, name) {
				continue
			}
			c := kmsg.NewDescribeConfigsResponseResourceConfig()
			c.Name, c.Value, c.ReadOnly = name, kmsg.StringPtr(values[name]), want.ResourceType == brokerResource
			c.Source = sourceBroker
			if _, ok := own[name]; ok {
				c.Source = sourceTopic
			}
			rr.Configs = append(rr.Configs, c)
		}
		resp.Resources = append(resp.Resources, rr)
	}
	reply(s, id, resp)
}
