package mirrored

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// TestSynchronisedSurvives: with ha-sync-mode=automatic and promotion of synchronised
// mirrors only, whatever processes die, in whatever order messages arrive and disks
// answer: what was confirmed is in the master's log in the end, and in every copy.
func TestSynchronisedSurvives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(2, 4).Draw(t, "nodes")
		opts := Options{Mode: "all", Automatic: true, Batch: rapid.Int64Range(1, 3).Draw(t, "batch"), ConfirmBeforeCheck: rapid.Bool().Draw(t, "before")}
		if rapid.Bool().Draw(t, "some") {
			opts.Mode, opts.Count = exactly, 2
		}
		w := newWorld(nodes, opts)
		w.quiet = true
		sent, confirmed := map[uint64]string{}, map[uint64]bool{}
		w.produced = func(token uint64, p scheme.Produced) {
			require.False(t, confirmed[token], "answered twice")
			confirmed[token] = p.Code == 0
		}
		any := func(name string) broker.NodeID { return broker.NodeID(rapid.IntRange(1, nodes).Draw(t, name)) }
		up := func() (ids []broker.NodeID) {
			for _, n := range w.nodes {
				if n.up {
					ids = append(ids, n.id)
				}
			}
			return ids
		}
		for i := range rapid.IntRange(5, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 12).Draw(t, "step") {
			case 0, 1, 2:
				value := fmt.Sprintf("v%d", i)
				if n := w.node(any("to")); n.up {
					sent[w.token+1] = value
					w.produce(n.id, value)
				}
			case 3, 4, 5, 6:
				if len(w.wires) > 0 { // the first of any link
					e := w.wires[rapid.IntRange(0, len(w.wires)-1).Draw(t, "wire")]
					w.arrive(slices.IndexFunc(w.wires, func(o envelope) bool { return o.from == e.from && o.to == e.to }))
				}
			case 7, 8:
				w.store(w.node(any("store")))
			case 9:
				// The last one that is up would be the first to start: the authority sees to that.
				if n := w.node(any("crash")); n.up && len(up()) > 1 {
					w.crash(n.id)
					for _, id := range up() {
						w.dead(n.id, id, rapid.Bool().Draw(t, "left"), rapid.Bool().Draw(t, "unchecked"))
						w.dead(n.id, id, false, false)
					}
				}
			case 10:
				if n := w.node(any("start")); !n.up {
					with := up()
					heard := rapid.IntRange(1, len(with)).Draw(t, "heard")
					w.start(n.id, with[:heard], with[heard:])
				}
			case 12:
				w.hear()
			case 11:
				w.wake(retry)
			}
		}
		for _, n := range w.nodes {
			if !n.up {
				w.start(n.id, up(), nil)
			}
		}
		w.hear()
		for range 30 {
			w.settle()
			w.wake(retry)
		}
		lead := slices.IndexFunc(w.nodes, func(n *node) bool { return n.m.serving() })
		require.GreaterOrEqual(t, lead, 0, "nobody leads")
		master := w.nodes[lead]
		want := logOf(master)
		for token := uint64(1); token <= w.token; token++ {
			if confirmed[token] {
				require.Contains(t, want, sent[token], "confirmed and lost")
			}
		}
		require.Len(t, slices.Compact(slices.Sorted(slices.Values(want))), len(want), "a value stands twice")
		copies := opts.Count
		if opts.Mode == "all" {
			copies = nodes
		}
		require.Len(t, master.m.rec.Synced, copies)
		for _, id := range master.m.rec.Synced {
			require.Equal(t, want, logOf(w.node(id)), "copy %d", id)
		}
	})
}

// hear lets all hear those of whom they have not heard.
func (w *world) hear() {
	for _, n := range w.nodes {
		for _, id := range slices.Clone(n.unheard) {
			if n.up && w.node(id).up {
				w.meet(n.id, id)
				w.meet(id, n.id)
			}
		}
	}
}

func logOf(n *node) []string {
	values := []string{}
	for _, b := range n.log {
		values = append(values, string(b[batch.HeaderSize:]))
	}
	return values
}

// wake lets time pass.
func (w *world) wake(d time.Duration) {
	w.now.Mono += d
	for _, n := range w.nodes {
		if n.up && n.m.NextWake() <= w.now.Mono {
			n.m.Wake()
			n.answered()
		}
	}
}
