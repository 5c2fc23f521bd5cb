//go:build !mutants

package mutant

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// Without the build tag a set takes no room, has nothing in it, and takes no name.
func TestStub(t *testing.T) {
	require.False(t, Enabled)
	require.Zero(t, unsafe.Sizeof(Set{}))
	for n := range names {
		require.False(t, Set{}.On(n))
	}
	require.Empty(t, All())
	require.Empty(t, Unseeded())
	_, err := Parse("")
	require.NoError(t, err)
	_, err = Parse("ack-before-fsync")
	require.ErrorContains(t, err, "build it with -tags mutants")
}
