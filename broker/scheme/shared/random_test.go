package shared_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/shared"
)

// TestTokensKeepOwnersApart: with a token nothing that was acknowledged or shown is
// lost or changed, whatever becomes of locks, leases, clocks and processes, and however
// late writes land.
func TestTokensKeepOwnersApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, 3, shared.Options{
			Poll: 10 * time.Second, KeepAlive: rapid.SampledFrom([]time.Duration{0, 2 * time.Second, 8 * time.Second}).Draw(t, "keep alive"),
			Fenced: true,
		})
		if w.opts.KeepAlive > 0 {
			w.opts.Lease = rapid.Bool().Draw(t, "lease")
			w.opts.Margin = rapid.SampledFrom([]time.Duration{0, 3 * time.Second}).Draw(t, "margin")
		}
		for _, n := range w.nodes {
			w.boot(n) // with these options
		}
		kept := map[int64]string{} // by offset: acknowledged, or shown to a consumer
		w.produced = func(n *node, token uint64, p scheme.Produced) {
			if p.Code == 0 {
				keep(t, kept, p.Base, n.values[token])
			}
		}
		for _, n := range w.nodes {
			w.assign(n)
		}
		any := func(t *rapid.T) *node { return w.nodes[rapid.IntRange(0, 2).Draw(t, "node")] }
		value := byte('a')
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				if n := any(t); n.up {
					value++
					w.send(n, string([]byte{'a' + value%26, '0' + value%10})[:1+int(value)%2])
					w.settle()
				}
			},
			"read": func(t *rapid.T) {
				n := any(t)
				if !n.up || n.paused {
					return
				}
				if limit, code := n.m.CheckRead(-1); code == 0 {
					values, err := n.log(limit)
					require.NoError(t, err)
					for i, v := range values {
						keep(t, kept, int64(i), v)
					}
				}
			},
			"time":    func(t *rapid.T) { w.pass(time.Duration(rapid.IntRange(1, 15).Draw(t, "seconds")) * time.Second) },
			"hold":    func(t *rapid.T) { any(t).held = true },
			"release": func(t *rapid.T) { any(t).held = false; w.settle() },
			"step": func(t *rapid.T) {
				if n := any(t); n.up && len(n.ops) > 0 {
					n.op()
				}
			},
			"pause": func(t *rapid.T) { n := any(t); n.paused = n.up },
			"resume": func(t *rapid.T) {
				if n := any(t); n.up && n.paused {
					w.resume(n)
				}
			},
			"crash": func(t *rapid.T) { n := any(t); n.up, n.paused = false, false },
			"start": func(t *rapid.T) {
				if n := any(t); !n.up {
					w.boot(n)
					w.assign(n)
				}
			},
			"clock": func(t *rapid.T) {
				any(t).clock = time.Duration(rapid.IntRange(-30, 30).Draw(t, "seconds")) * time.Second
			},
			"lose the lock": func(*rapid.T) { _ = w.device.Unlink(w.lockFile()) }, // there may be none
		})

		// In the end all goes well, and whoever published the highest token leads and has
		// everything. Others may take themselves for leaders, and show what they had.
		for _, n := range w.nodes {
			n.held, n.clock = false, 0
			if !n.up {
				w.boot(n)
				w.assign(n)
			}
			if n.paused {
				w.resume(n)
			}
		}
		w.settle()
		w.pass(2 * time.Minute)
		newest := int32(-1)
		for _, n := range w.nodes {
			newest = max(newest, n.m.View().Epoch)
		}
		require.Positive(t, newest)
		for _, n := range w.nodes {
			limit, code := n.m.CheckRead(-1)
			if code != 0 {
				continue
			}
			values, err := n.log(limit)
			require.NoError(t, err)
			for offset, v := range kept {
				if n.m.View().Epoch == newest {
					require.Less(t, offset, int64(len(values)), "offset %d held %s", offset, v)
				}
				if offset < int64(len(values)) {
					require.Equal(t, v, values[offset], "offset %d", offset)
				}
			}
		}
	})
}

func keep(t require.TestingT, kept map[int64]string, offset int64, value string) {
	if was, ok := kept[offset]; ok {
		require.Equal(t, was, value, "offset %d", offset)
	}
	kept[offset] = value
}
