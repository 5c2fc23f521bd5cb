package node_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestQuorumPartition: replicas elect among themselves, every node tells who leads, and
// the vote and the beginning of the term outlive the process.
func TestQuorumPartition(t *testing.T) {
	w := newWorld(t, 4, "quorum", nil)
	w.ready()
	require.Zero(t, w.create(w.peers[0], topic, 1, 3, nil).ErrorCode)
	led := func() bool { return w.leader(w.peers[0], topic) > 0 }
	w.eventually("somebody leads", led)
	w.run(time.Second)
	lead := w.peer(w.leader(w.peers[0], topic))
	for _, p := range w.peers { // one has no replica, and was told
		require.Equal(t, lead.id, w.leader(p, topic), "in the view of %d", p.id)
	}
	offset, err := w.produce(lead, topic, "a")
	require.NoError(t, err)
	require.Zero(t, offset, "the beginning of a term takes no offset")

	w.crash(lead, true)
	var rest *peer
	for _, p := range w.others(lead) {
		if len(p.lanes) > 0 {
			rest = p
		}
	}
	w.eventually("another leads", func() bool { return w.leader(rest, topic) > 0 && w.leader(rest, topic) != lead.id })
	next := w.peer(w.leader(rest, topic))
	w.eventually("it has committed what it found", func() bool {
		values, err := w.values(next, topic, -1)
		return err == nil && len(values) == 1
	})
	offset, err = w.produce(next, topic, "b")
	require.NoError(t, err)
	require.Equal(t, int64(1), offset)
	for _, l := range next.lanes {
		require.NotEmpty(t, l.kept)
	}

	w.boot(lead)
	w.eventually("it is back", func() bool { return len(w.inSync(next, topic)) == 3 })
	values, err := w.values(next, topic, -1)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, values)
}
