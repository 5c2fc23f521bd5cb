package quorum_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/quorum"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
)

func TestPromise(t *testing.T) {
	disk := scheme.Loss{Kind: scheme.LostDisk, Nodes: 1}
	power := scheme.Loss{Kind: scheme.LostPower, Nodes: 3}
	for _, c := range []struct {
		name     string
		set      map[string]string
		replicas int
		planned  bool
		losses   []scheme.Loss
		kept     bool
	}{
		{"nothing is lost", nil, 3, true, nil, true},
		{"the disk of one of three", nil, 3, true, []scheme.Loss{disk}, false},
		{"of one of two", nil, 2, true, []scheme.Loss{disk}, false},
		{"of nobody knows how many", nil, 3, false, []scheme.Loss{disk}, false},
		{"power, and everything is synced", nil, 3, true, []scheme.Loss{power}, true},
		{"power, and nothing is", map[string]string{"fsync": "never"}, 3, true, []scheme.Loss{{Kind: scheme.LostPower, Nodes: 1}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := schemes.Resolve(c.set)
			require.NoError(t, err)
			p := quorum.Definition().Promise(o, scheme.Faults{Nodes: 5, Replicas: c.replicas, Planned: c.planned, Losses: c.losses})
			require.Equal(t, c.kept, p.Acknowledged)
			require.Equal(t, c.kept, p.Epochs)
			require.Equal(t, c.kept, p.Recovers)
		})
	}
}
