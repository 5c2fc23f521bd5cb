package driver

import (
	"context"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestMirrored drives a cluster without metadata quorum by a common client, over
// sockets: each node names itself leader and passes on what another one answers, of one
// request in several parts. A node dies, a mirror takes over, and comes back.
func TestMirrored(t *testing.T) {
	nodes := newCluster(t, 3)
	for _, n := range nodes {
		n.cfg.Scheme = "mirrored"
		n.cfg.Set = map[string]string{"partitions": "3", "ha-sync-mode": "automatic", "ha-promote-on-failure": "when-synced"}
		n.start()
	}
	for _, n := range nodes {
		n.requireReady()
	}
	const partitions = 3
	offsets := map[int32]kgo.Offset{}
	for i := range int32(partitions) {
		offsets[i] = kgo.NewOffset().AtStart()
	}
	c := client(t, seeds(nodes), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"t": offsets}))
	createTopic(t, c, "t", partitions, -1)
	inSync := func(copies float64) {
		for i := range partitions { // t-0 has its home on the first node, and so on
			for _, n := range nodes {
				n.requireMetric(`faultline_in_sync_replicas{partition="t-`+strconv.Itoa(i)+`"}`, copies)
			}
		}
	}
	inSync(3)
	sent := 0
	produce := func() {
		var records []*kgo.Record
		for range 90 {
			records = append(records, &kgo.Record{Topic: "t", Partition: int32(sent % partitions), Value: []byte(strconv.Itoa(sent))})
			sent++
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		require.NoError(t, c.ProduceSync(ctx, records...).FirstErr())
	}
	produce()
	nodes[0].stop()
	produce()
	nodes[0].start()
	nodes[0].requireReady()
	inSync(3)
	nodes[1].stop()
	produce()

	got := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for len(got) < sent {
		fetches := c.PollFetches(ctx)
		require.NoError(t, ctx.Err(), "%d of %d records", len(got), sent)
		fetches.EachRecord(func(r *kgo.Record) { got[string(r.Value)]++ })
	}
	for value, times := range got {
		require.Equal(t, 1, times, value)
	}
	for _, n := range nodes {
		require.NotContains(t, n.log.String(), "panic")
	}
}
