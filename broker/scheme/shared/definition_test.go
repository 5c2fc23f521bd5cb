package shared_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
	"github.com/faultline-mq/faultline/broker/scheme/shared"
)

func TestPromise(t *testing.T) {
	token := map[string]string{"fencing": "token"}
	lease := map[string]string{"locker": "lease"}
	margin := map[string]string{"locker": "lease", "lease.skew.margin.ms": "600"}
	wiped := []scheme.Loss{{Kind: scheme.LostDisk, Nodes: 1}}
	for _, c := range []struct {
		name string
		set  map[string]string
		f    scheme.Faults
		kept bool
	}{
		{"deaths, pauses, cuts", nil, scheme.Faults{Deaths: 3, Pauses: 2, Cuts: 1, Clocks: 1}, true},
		{"a node without power", map[string]string{"fsync": "never"}, scheme.Faults{Losses: []scheme.Loss{{Kind: scheme.LostPower}}}, true},
		{"a lost lock", nil, scheme.Faults{Locks: 1}, false},
		{"a lost lock, looked at", map[string]string{"lockKeepAlivePeriod": "50"}, scheme.Faults{Locks: 1}, false},
		{"a lost lock with a token", token, scheme.Faults{Locks: 1, Pauses: 2}, true},
		{"a lost device", token, scheme.Faults{Losses: wiped}, false},
		{"nothing acknowledged", map[string]string{"acks": "0"}, scheme.Faults{}, false},
		{"a lease", lease, scheme.Faults{Deaths: 1}, true},
		{"a lease and a pause", lease, scheme.Faults{Pauses: 1}, false},
		{"a lease and a wrong clock", lease, scheme.Faults{Skews: 1}, false},
		{"a lease with a margin", margin, scheme.Faults{Skews: 1}, true},
		{"two clocks apart", margin, scheme.Faults{Skews: 2}, false},
		{"more than the margin", margin, scheme.Faults{Clocks: 1}, false},
		{"a lease that is hardly renewed", map[string]string{"locker": "lease", "lockKeepAlivePeriod": "950"}, scheme.Faults{}, false},
	} {
		o, err := schemes.Resolve(c.set)
		require.NoError(t, err, c.name)
		require.Equal(t, c.kept, shared.Definition().Promise(o, c.f).Acknowledged, c.name)
	}
	_, err := schemes.Resolve(map[string]string{"locker": "lease", "lockKeepAlivePeriod": "1000"})
	require.ErrorContains(t, err, "lockKeepAlivePeriod")
}
