package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
)

func (s *Server) apiVersions(id broker.ReqID, r kmsg.Request) {
	reply(s, id, Versions(r.GetVersion()))
}

// Versions is the answer to ApiVersions: what is served, and nothing else.
func Versions(version int16) *kmsg.ApiVersionsResponse {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.SetVersion(version)
	for _, a := range apis {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = int16(a.key), a.min, a.max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	return resp
}
