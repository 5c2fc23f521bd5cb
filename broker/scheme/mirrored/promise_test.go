package mirrored_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/mirrored"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
)

func TestPromise(t *testing.T) {
	auto := map[string]string{"ha-sync-mode": "automatic"}
	waits := map[string]string{"ha-promote-on-failure": "when-synced"}
	for _, c := range []struct {
		name string
		set  map[string]string
		f    scheme.Faults
		kept bool
	}{
		{"nothing happens", nil, scheme.Faults{}, true},
		{"one dies", nil, scheme.Faults{Deaths: 1, Ended: 1}, true},
		{"two die one after another", nil, scheme.Faults{Deaths: 2, Ended: 2}, true},
		{"as many as there are copies", nil, scheme.Faults{Deaths: 3, Ended: 3}, false},
		{"and nobody knows whether they were synchronised between", auto, scheme.Faults{Deaths: 3, Ended: 3}, false},
		{"nobody else may take over", waits, scheme.Faults{Deaths: 9, Ended: 9}, true},
		{"unless in order", map[string]string{"ha-promote-on-failure": "when-synced", "ha-promote-on-shutdown": "always"}, scheme.Faults{Stops: 9, Ended: 9}, false},
		{"partition", waits, scheme.Faults{Cuts: 1}, false},
		{"pause", waits, scheme.Faults{Pauses: 1}, false},
		{"slow links", waits, scheme.Faults{Slow: 1}, false},
		{"a lost disk", waits, scheme.Faults{Deaths: 1, Ended: 1, Planned: true, Losses: []scheme.Loss{{Kind: scheme.LostDisk, Nodes: 1, Down: 1}}}, true},
		{"and a copy that is synchronised", auto, scheme.Faults{Deaths: 1, Ended: 1, Planned: true, Losses: []scheme.Loss{{Kind: scheme.LostDisk, Nodes: 1, Down: 1}}}, true},
		{"which goes, too", auto, scheme.Faults{Deaths: 3, Ended: 3, Planned: true, Losses: []scheme.Loss{{Kind: scheme.LostDisk, Nodes: 1, Down: 3}}}, false},
		{"a lost disk long after the others ended, which may not be synchronised yet", map[string]string{"ha-sync-mode": "automatic", "ha-promote-on-failure": "when-synced"}, scheme.Faults{Deaths: 3, Ended: 3, Planned: true, Losses: []scheme.Loss{{Kind: scheme.LostDisk, Nodes: 1, Alone: true, Down: 1}}}, false},
		{"power, and everything is synced", nil, scheme.Faults{Deaths: 1, Ended: 1, Planned: true, Losses: []scheme.Loss{{Kind: scheme.LostPower, Nodes: 1, Down: 1}}}, true},
		{"power, and nothing is", map[string]string{"fsync": "never"}, scheme.Faults{Deaths: 1, Ended: 3, Planned: true, Losses: []scheme.Loss{{Kind: scheme.LostPower, Nodes: 3, Down: 3}}}, false},
		{"no acknowledgements", map[string]string{"acks": "0"}, scheme.Faults{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := schemes.Resolve(c.set)
			require.NoError(t, err)
			c.f.Nodes, c.f.Replicas = 3, 3
			p := mirrored.Definition().Promise(o, c.f)
			require.Equal(t, c.kept, p.Acknowledged)
			require.False(t, p.AtMostOnce && c.f.Ended > 0, "a master that ends may have shown what nobody has")
			require.False(t, p.CommittedReads, "what is appended is shown")
			require.False(t, p.Epochs)
		})
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    map[string]string
		copies int // on 5 nodes; 0: refused
	}{
		{"all", nil, 5},
		{"two", map[string]string{"ha-mode": "exactly"}, 2},
		{"more than there are", map[string]string{"ha-mode": "exactly", "ha-params": "9"}, 5},
		{"none", map[string]string{"ha-mode": "exactly", "ha-params": "0"}, 0},
		{"no number", map[string]string{"ha-mode": "exactly", "ha-params": "n1"}, 0},
		{"named", map[string]string{"ha-mode": "nodes", "ha-params": "n1,n3"}, 2},
		{"numbers for names", map[string]string{"ha-mode": "nodes"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := schemes.Resolve(c.set)
			if c.copies == 0 {
				require.ErrorContains(t, err, "ha-params")
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.copies, mirrored.Definition().Copies(o, 5))
		})
	}
}
