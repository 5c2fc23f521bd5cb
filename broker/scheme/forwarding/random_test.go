package forwarding

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// TestNothingIsLost: whatever is cut, lost or killed, in whatever order messages arrive and
// disks answer: what was acknowledged is shown by some node in the end. Where nothing
// fails it is shown by one alone.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(2, 4).Draw(t, "nodes")
		opts := Options{
			TTL: rapid.IntRange(1, 3).Draw(t, "ttl"), Replay: rapid.Bool().Draw(t, "replay"), Prefetch: rapid.IntRange(1, 5).Draw(t, "prefetch"),
			Audit: rapid.Bool().Draw(t, "audit"), Own: rapid.Bool().Draw(t, "own"), Ack: 500 * time.Millisecond,
		}
		calm := rapid.Bool().Draw(t, "calm")
		w := newWorld(nodes, opts)
		w.quiet = true
		sent, answered, acknowledged := map[uint64]string{}, map[uint64]bool{}, map[uint64]bool{}
		w.produced = func(token uint64, p scheme.Produced) {
			require.False(t, answered[token], "answered twice")
			answered[token], acknowledged[token] = true, p.Code == 0
		}
		id := func(name string) broker.NodeID { return broker.NodeID(rapid.IntRange(1, nodes).Draw(t, name)) }
		last := 16
		if calm {
			last = 9
		}
		for i := range rapid.IntRange(5, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, last).Draw(t, "step") {
			case 0, 1, 2:
				value := fmt.Sprintf("v%d", i)
				if n := w.node(id("to")); n.up {
					sent[w.token+1] = value
					w.produce(n.id, value)
				}
			case 3, 4, 5:
				if len(w.wires) > 0 { // the first of any link
					e := w.wires[rapid.IntRange(0, len(w.wires)-1).Draw(t, "wire")]
					w.arrive(w.first([]string{fmt.Sprintf("%d>%d", e.from, e.to)}))
				}
			case 6, 7:
				w.store(w.node(id("store")))
			case 8:
				n := w.node(id("read"))
				w.read(n, n.index.End())
			case 9:
				w.wake(100 * time.Millisecond)
				w.settle()
			case 10:
				w.wake(opts.Ack)
			case 11:
				if n := w.node(id("crash")); n.up {
					w.keep()
					w.crash(n.id)
					if rapid.Bool().Draw(t, "power") {
						n.mark = 0
					}
				}
			case 12, 13:
				if n := w.node(id("start")); !n.up {
					w.start(n.id, nil)
					for a := range w.nodes {
						w.join(broker.NodeID(a+1), n.id)
					}
				}
			case 14:
				if a, b := id("a"), id("b"); a != b {
					w.cut(a, b)
				}
			case 15:
				if a, b := id("a"), id("b"); a != b {
					w.join(a, b)
				}
			case 16:
				if a, b := id("a"), id("b"); a != b {
					w.lose(a, b)
				}
			}
		}
		for _, n := range w.nodes {
			if !n.up {
				w.start(n.id, nil)
			}
		}
		w.settle()
		shown := map[string]int{}
		for _, n := range w.nodes {
			values, _ := n.shown()
			for _, v := range values {
				shown[v]++
			}
		}
		for token := uint64(1); token <= w.token; token++ {
			if acknowledged[token] {
				require.Positive(t, shown[sent[token]], "%s was acknowledged and lost", sent[token])
			}
			if calm && sent[token] != "" {
				require.LessOrEqual(t, shown[sent[token]], 1, "%s is shown twice", sent[token])
			}
		}
		require.False(t, slices.ContainsFunc(w.nodes, func(n *node) bool { return n.stable < n.index.End() }))
	})
}
