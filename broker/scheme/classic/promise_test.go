package classic_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/classic"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
)

func TestPromise(t *testing.T) {
	kept := map[string]string{"mandatory": "true"}
	for _, c := range []struct {
		name         string
		set          map[string]string
		f            scheme.Faults
		acknowledged bool
		atMostOnce   bool
	}{
		{"nothing happens", kept, scheme.Faults{}, true, true},
		{"cuts, pauses, slow disks", kept, scheme.Faults{Cuts: 2, Pauses: 1, Slow: 1}, true, true},
		{"a home that ends may have shown what it had not on disk", kept, scheme.Faults{Deaths: 1, Ended: 1}, true, false},
		{"so may one without power", kept, scheme.Faults{Deaths: 1, Ended: 1, Losses: []scheme.Loss{{Kind: scheme.LostPower, Nodes: 1}}}, true, false},
		{"a lost disk", kept, scheme.Faults{Deaths: 1, Ended: 1, Losses: []scheme.Loss{{Kind: scheme.LostDisk, Nodes: 1}}}, false, false},
		{"messages that reach no queue are dropped", nil, scheme.Faults{}, false, true},
		{"transient messages", map[string]string{"mandatory": "true", "delivery_mode": "1"}, scheme.Faults{}, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := schemes.Resolve(c.set)
			require.NoError(t, err)
			p := classic.Definition().Promise(o, c.f)
			require.Equal(t, c.acknowledged, p.Acknowledged)
			require.Equal(t, c.atMostOnce, p.AtMostOnce)
			require.False(t, p.CommittedReads, "what is appended is shown")
		})
	}
}
