package sim

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo answers every request that is not "mute" with itself, and notes those
// that went.
func echo(p *probe, ev Event) {
	if q, ok := ev.(Request); ok && q.Req != "mute" {
		p.Reply(q.ID, q.Req)
	}
}

func TestCall(t *testing.T) {
	gone := func(p *probe) int { return countOf[RequestGone](p, nil) }
	requests := func(p *probe) int { return countOf[Request](p, nil) }
	for _, c := range []struct {
		name   string
		before func(r *rig) // the connection is idle and up
		req    string
		during func(r *rig) // 100 ms into the call
		reason string       // "" = answered
		sent   bool
		took   time.Duration // lower bound
		after  func(r *rig)
	}{
		{name: "answered", req: "x"},
		{
			name: "no answer", req: "mute", reason: "timeout", sent: true, took: 2 * time.Second,
			after: func(r *rig) { require.Equal(t, 1, gone(r.at("n1"))) },
		},
		{
			name: "node killed during the call", req: "mute", reason: "closed", sent: true, took: 100 * ms,
			during: func(r *rig) { require.NoError(t, r.Processes().Kill(ctx, "n1")) },
		},
		{
			name: "node down", req: "x", reason: "refused",
			before: func(r *rig) { require.NoError(t, r.Processes().Kill(ctx, "n1")); r.sleep(ms) },
		},
		{
			name: "node without power, idle connection: nobody knows", req: "x", reason: "timeout", sent: true, took: 2 * time.Second,
			before: func(r *rig) { require.NoError(t, r.Disks().PowerLoss(ctx, []string{"n1"})) },
		},
		{
			name: "cut before the dial: certainly not sent", req: "x", reason: "timeout", took: 2 * time.Second,
			before: func(r *rig) { r.CloseClient("c"); r.sleep(ms); r.block("x", "clients>n1") },
			after:  func(r *rig) { require.Equal(t, 1, requests(r.at("n1")), "only the warm-up") },
		},
		{
			name: "dial through a healed cut", req: "x", took: 900 * ms,
			before: func(r *rig) { r.CloseClient("c"); r.sleep(ms); r.block("x", "n1>clients") },
			during: func(r *rig) { r.unblock("x") },
		},
		{
			name: "request cut on an open connection: indeterminate, and it arrives late", req: "x", reason: "timeout", sent: true, took: 2 * time.Second,
			before: func(r *rig) { r.block("x", "clients>n1") },
			after: func(r *rig) {
				require.Equal(t, 1, requests(r.at("n1")))
				r.unblock("x")
				r.sleep(time.Second)
				require.Equal(t, 2, requests(r.at("n1")))
			},
		},
		{
			name: "response cut, healed in time", req: "x", took: 100 * ms,
			before: func(r *rig) { r.block("x", "n1>clients") },
			during: func(r *rig) { r.unblock("x") },
		},
		{
			name: "response cut", req: "x", reason: "timeout", sent: true, took: 2 * time.Second,
			before: func(r *rig) { r.block("x", "n1>clients") },
			after:  func(r *rig) { require.Equal(t, 2, requests(r.at("n1"))) },
		},
		{
			name: "paused: handled on resume though the client gave up", req: "mute", reason: "timeout", sent: true, took: 2 * time.Second,
			before: func(r *rig) { require.NoError(t, r.Processes().Pause(ctx, "n1")) },
			after: func(r *rig) {
				require.Equal(t, 1, requests(r.at("n1")))
				require.NoError(t, r.Processes().Resume(ctx, "n1"))
				r.sleep(ms)
				require.Equal(t, 2, requests(r.at("n1")))
				require.Equal(t, 1, gone(r.at("n1")), "after the request, as it was not answered")
			},
		},
		{
			name: "paused and resumed in time", req: "x", took: 100 * ms,
			before: func(r *rig) { require.NoError(t, r.Processes().Pause(ctx, "n1")) },
			during: func(r *rig) { require.NoError(t, r.Processes().Resume(ctx, "n1")) },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1, echo, nil)
			r.run(func() {
				_, err := r.Call(ctx, "c", "n1", "warm-up", time.Second)
				require.NoError(t, err)
				if c.before != nil {
					c.before(r)
				}
				g := r.Group()
				if c.during != nil {
					g.Go("during", func() { r.sleep(100 * ms); c.during(r) })
				}
				begin := r.Now()
				resp, err := r.Call(ctx, "c", "n1", c.req, 2*time.Second)
				took := r.Now() - begin
				g.Wait()
				r.sleep(ms)
				require.GreaterOrEqual(t, took, c.took)
				require.LessOrEqual(t, took, 2*time.Second)
				if c.reason == "" {
					require.NoError(t, err)
					require.Equal(t, c.req, resp)
				} else {
					var ce *CallError
					require.ErrorAs(t, err, &ce)
					require.Equal(t, c.reason, ce.Reason)
					require.Equal(t, c.sent, ce.Sent)
					require.Contains(t, err.Error(), "call from c to n1")
				}
				if c.after != nil {
					c.after(r)
				}
			})
		})
	}
}

func TestCallsOfOneClient(t *testing.T) {
	r := newRig(t, 1, echo, nil)
	r.run(func() {
		_, err := r.Call(ctx, "c", "nobody", "x", time.Second)
		require.ErrorContains(t, err, `no node "nobody"`)

		require.NoError(t, r.Post(ctx, "c", "n1", "mute", time.Second))
		resp, err := r.Call(ctx, "c", "n1", "x", time.Second)
		require.NoError(t, err)
		require.Equal(t, "x", resp)
		first, second := r.at("n1").seen[1].ev.(Request), r.at("n1").seen[2].ev.(Request)
		require.True(t, first.NoReply)
		require.Equal(t, first.Conn, second.Conn, "one connection, in order")

		cctx, cancel := context.WithCancel(ctx)
		g := r.Group()
		g.Go("call", func() {
			_, err := r.Call(cctx, "c", "n1", "mute", time.Hour)
			var ce *CallError
			require.ErrorAs(t, err, &ce)
			require.True(t, ce.Sent)
			require.ErrorIs(t, err, context.Canceled)
		})
		r.sleep(10 * ms)
		cancel()
		g.Wait()
		r.sleep(ms)
		require.Equal(t, 1, countOf[RequestGone](r.at("n1"), nil))

		_, err = r.Call(ctx, "c", "n1", "x", time.Second)
		require.NoError(t, err)
		require.Len(t, r.nodes[0].conns, 1)
		r.CloseClient("c")
		r.sleep(ms)
		require.Empty(t, r.nodes[0].conns, "no connection is left open")
	})
}
