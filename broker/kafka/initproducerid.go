package kafka

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
)

func (s *Server) initProducerID(id broker.ReqID, r kmsg.Request) {
	req := r.(*kmsg.InitProducerIDRequest)
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.SetVersion(req.Version)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code // transactions are not served
		reply(s, id, resp)
		return
	}
	s.propose(cluster.AllocateProducerID{}, func(r cluster.Result) {
		resp.ErrorCode = r.Code
		if n, ok := r.Value.(int64); ok && r.Code == 0 {
			resp.ProducerID, resp.ProducerEpoch = n, 0
		}
		if r.Code == kerr.RequestTimedOut.Code {
			resp.ErrorCode = kerr.CoordinatorNotAvailable.Code // ask again; an id that was lost is never used
		}
		reply(s, id, resp)
	})
}
