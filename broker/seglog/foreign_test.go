package seglog

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/vfs"
)

// TestForeign reads a log whose owner goes on: what was read stays, whatever the owner
// appends, and nothing of the owner's is touched.
func TestForeign(t *testing.T) {
	m := vfs.NewMem()
	owner, _ := healthy(t, m, Options{SegmentBytes: 300})
	for base := int64(0); base < 6; base += 2 {
		require.NoError(t, owner.Append(small(base, 2)))
		require.NoError(t, owner.Sync())
	}
	require.NoError(t, owner.Append(small(6, 1))) // not synced
	before := m.Digest()

	l, rec, err := OpenForeign(m, dir, Options{}, -1)
	require.NoError(t, err)
	require.Nil(t, rec.Corrupt)
	require.Equal(t, int64(7), rec.End)
	require.Len(t, rec.Batches, 4)
	require.Equal(t, before, m.Digest(), "nothing was changed")
	require.ErrorIs(t, l.Append(small(7, 1)), ErrFailed)
	require.ErrorIs(t, l.Truncate(0), ErrFailed)

	// The owner writes on, into the same segment and into another one.
	for base := int64(7); base < 15; base += 2 {
		require.NoError(t, owner.Append(small(base, 2)))
	}
	require.NoError(t, owner.Sync())
	require.Equal(t, join([]Frame{small(4, 2), small(6, 1)}), read(t, l, 4, 99))
	require.NoError(t, l.Close())

	m.PowerLoss(source(1)) // what was taken over had been made durable
	l, rec, err = OpenForeign(m, dir, Options{}, 7)
	require.NoError(t, err)
	require.Nil(t, rec.Corrupt)
	require.Equal(t, int64(7), rec.End)
	require.Equal(t, join([]Frame{small(0, 2), small(2, 2), small(4, 2), small(6, 1)}), read(t, l, 0, 99))
	require.NoError(t, l.Close())
}

func TestForeignMakesDurable(t *testing.T) {
	for seed := range uint64(20) {
		m := vfs.NewMem()
		owner, _ := healthy(t, m, Options{})
		require.NoError(t, owner.Append(small(0, 3)))
		_, rec, err := OpenForeign(m, dir, Options{}, -1)
		require.NoError(t, err)
		require.Equal(t, int64(3), rec.End)
		require.NoError(t, owner.Append(small(3, 1)))
		m.PowerLoss(source(seed))
		_, rec, err = OpenForeign(m, dir, Options{}, 3)
		require.NoError(t, err)
		require.Nil(t, rec.Corrupt)
		require.Equal(t, int64(3), rec.End)
	}
}

func TestForeignTailAndDamage(t *testing.T) {
	for _, c := range []struct {
		name    string
		spoil   func(m *vfs.Mem, seg string, size int64) error
		upTo    int64
		end     int64
		corrupt bool
	}{
		{"a frame that is not whole yet is not there", func(m *vfs.Mem, seg string, size int64) error { return m.Cut(seg, size-3) }, -1, 4, false},
		{"damage behind what is wanted does not matter", func(m *vfs.Mem, seg string, size int64) error { return m.Flip(seg, size-5, 1) }, 4, 4, false},
		{"damage to what was durable is refused", func(m *vfs.Mem, seg string, _ int64) error { return m.Flip(seg, 60, 1) }, -1, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := vfs.NewMem()
			owner, _ := healthy(t, m, Options{})
			require.NoError(t, owner.Append(small(0, 2)))
			require.NoError(t, owner.Append(small(2, 2)))
			require.NoError(t, owner.Sync())
			require.NoError(t, owner.Append(small(4, 2)))
			seg := owner.path(owner.active().name)
			require.NoError(t, c.spoil(m, seg, owner.active().size))
			size := m.Digest()
			_, rec, err := OpenForeign(m, dir, Options{}, c.upTo)
			require.NoError(t, err)
			require.Equal(t, c.corrupt, rec.Corrupt != nil, "%v", rec.Corrupt)
			require.Equal(t, c.end, rec.End)
			require.Equal(t, size, m.Digest())
		})
	}
}
