package cluster

import (
	"cmp"
	"slices"

	"github.com/faultline-mq/faultline/broker"
)

// View returns a state that nobody applies anything to: what an authority other than
// the metadata quorum shows of the metadata. The topics have different names; the
// node itself is registered if brokers has it with this incarnation.
func View(self broker.NodeID, incarnation string, controller broker.NodeID, brokers []*Broker, topics []*Topic) *State {
	s := newState(self, incarnation)
	s.controller = controller
	s.brokers = slices.SortedFunc(slices.Values(brokers), func(a, b *Broker) int { return cmp.Compare(a.ID, b.ID) })
	s.topics = slices.SortedFunc(slices.Values(topics), func(a, b *Topic) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

// NewTopic makes the topic that c asks for, without partitions, or says why it may
// not be created beside those of this state: a Kafka error code and a text. Its id is
// derived from created, which no other topic may have.
func (s *State) NewTopic(created uint64, c CreateTopic) (t *Topic, code int16, text string) {
	t, bad := s.newTopic(created, c)
	if bad != nil {
		return nil, bad.code, bad.text
	}
	return t, 0, ""
}
