package multimaster

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// TestUnion: whatever is cut, lost or killed, in whatever order messages arrive and disks
// answer: when all is healed every node holds the same messages, each once, and among them
// all that were acknowledged.
func TestUnion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(2, 4).Draw(t, "nodes")
		opts := DefaultOptions()
		opts.Rule = rapid.SampledFrom([]string{allConfigured, allLive, quorum}).Draw(t, "rule")
		opts.Total = rapid.Bool().Draw(t, "total")
		w := newWorld(nodes, opts)
		w.quiet = true
		sent, answered, acknowledged := map[uint64]string{}, map[uint64]bool{}, map[uint64]bool{}
		w.produced = func(token uint64, p scheme.Produced) {
			require.False(t, answered[token], "answered twice")
			answered[token], acknowledged[token] = true, p.Code == 0
		}
		id := func(name string) broker.NodeID { return broker.NodeID(rapid.IntRange(1, nodes).Draw(t, name)) }
		up := func() (ids []broker.NodeID) {
			for _, n := range w.nodes {
				if n.up {
					ids = append(ids, n.id)
				}
			}
			return ids
		}
		for i := range rapid.IntRange(5, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 13).Draw(t, "step") {
			case 0, 1, 2:
				value := fmt.Sprintf("v%d", i)
				if n := w.node(id("to")); n.up {
					sent[w.token+1] = value
					w.produce(n.id, value)
				}
			case 3, 4, 5, 6:
				if len(w.wires) > 0 { // the first of any link
					e := w.wires[rapid.IntRange(0, len(w.wires)-1).Draw(t, "wire")]
					w.arrive(w.first([]string{fmt.Sprintf("%d>%d", e.from, e.to)}))
				}
			case 7, 8:
				w.store(w.node(id("store")))
			case 9:
				if n := w.node(id("crash")); n.up {
					w.crash(n.id)
				}
			case 10:
				if n := w.node(id("start")); !n.up {
					w.start(n.id, up())
				}
			case 11:
				if a, b := id("a"), id("b"); a != b {
					w.cut(a, b)
				}
			case 12:
				if a, b := id("a"), id("b"); a != b {
					w.join(a, b)
				}
			case 13:
				if a, b := id("a"), id("b"); a != b {
					w.lose(a, b)
				}
				w.wake(opts.Gossip)
			}
		}
		for _, n := range w.nodes {
			if !n.up {
				w.start(n.id, nil)
			}
		}
		for a := range w.nodes {
			for b := range a {
				w.join(broker.NodeID(a+1), broker.NodeID(b+1))
			}
		}
		for range 6 {
			w.settle()
			w.wake(opts.Gossip)
		}
		w.settle()
		want := valuesOf(w.nodes[0])
		require.Len(t, slices.Compact(slices.Clone(want)), len(want), "a value stands twice")
		for token := uint64(1); token <= w.token; token++ {
			if acknowledged[token] {
				require.Contains(t, want, sent[token], "acknowledged and lost")
			}
		}
		for _, n := range w.nodes {
			require.Equal(t, want, valuesOf(n), "node %d", n.id)
			require.Len(t, n.m.View().InSync, nodes)
		}
	})
}

// valuesOf are the values in a node's log, sorted.
func valuesOf(n *node) []string {
	values := []string{}
	for _, b := range n.log {
		values = append(values, string(b[batch.HeaderSize:]))
	}
	slices.Sort(values)
	return values
}
