package cluster

import (
	"slices"

	"github.com/faultline-mq/faultline/broker"
)

// stripes places replicas as Kafka's StripedReplicaPlacer does: over racks in turn,
// then over the brokers of each rack; never two replicas of a partition on one
// broker. Fenced brokers are taken only when the live ones do not suffice, so the
// first replica, the preferred leader, is a live one.
//
// With racks of unequal size leaders spread evenly over racks, not over brokers, as in Kafka.
type stripes struct {
	racks [][2][]broker.NodeID // in rack order; of each the live, then the fenced brokers, by id
}

// newStripes takes brokers sorted by id.
func newStripes(brokers []*Broker) *stripes {
	var names []string
	for _, b := range brokers {
		if !slices.Contains(names, b.Rack) {
			names = append(names, b.Rack)
		}
	}
	slices.Sort(names)
	s := &stripes{racks: make([][2][]broker.NodeID, len(names))}
	for _, b := range brokers {
		r := &s.racks[slices.Index(names, b.Rack)]
		state := 0
		if b.Fenced || b.Leaving {
			state = 1
		}
		r[state] = append(r[state], b.ID)
	}
	return s
}

// place returns the replicas of the n-th partition ever placed, rf of them; it
// needs 1 <= rf <= the number of brokers. Consecutive n start at consecutive racks and, after each
// round of the racks, at the next broker of each.
func (s *stripes) place(n uint64, rf int) []broker.NodeID {
	replicas := make([]broker.NodeID, 0, rf)
	for state := range 2 {
		// Only racks that have such brokers take part, so that leaders rotate over them evenly.
		var racks [][]broker.NodeID
		longest := 0
		for _, r := range s.racks {
			if len(r[state]) > 0 {
				racks = append(racks, r[state])
				longest = max(longest, len(r[state]))
			}
		}
		count := uint64(len(racks))
		for round := uint64(0); round < uint64(longest); round++ {
			for i := range count {
				rack := racks[(n+i)%count]
				if round >= uint64(len(rack)) {
					continue
				}
				if len(replicas) == rf {
					return replicas
				}
				replicas = append(replicas, rack[(n/count+round)%uint64(len(rack))])
			}
		}
	}
	return replicas
}
