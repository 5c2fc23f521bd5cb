package sim

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/nemesis"
)

// Each case begins with n1's stream to n2 up and "a" delivered.
func TestLink(t *testing.T) {
	send := func(r *rig, msgs ...string) {
		for _, m := range msgs {
			require.True(t, r.at("n1").Send("n2", PeerChannel, m), "send %s", m)
		}
	}
	p := func(r *rig) nemesis.Processes { return r.Processes() }
	for _, c := range []struct {
		name    string
		act     func(r *rig)
		got     []string // received by n2's newest incarnation
		down    []string // reasons of LinkDown at n1
		inbound []string // reasons of LinkDown at n2's newest incarnation
		ups     int      // LinkUps at n1
	}{
		{
			name: "in order",
			act:  func(r *rig) { send(r, "b", "c", "d"); r.sleep(100 * ms) },
			got:  []string{"a", "b", "c", "d"}, ups: 1,
		},
		{
			name: "idle through a long cut",
			act: func(r *rig) {
				r.block("x", "n1>n2", "n2>n1")
				r.sleep(time.Minute)
				r.unblock("x")
				send(r, "b")
				r.sleep(10 * ms)
			},
			got: []string{"a", "b"}, ups: 1,
		},
		{
			name: "cut, healed before the user timeout: held, then delivered in order",
			act: func(r *rig) {
				r.block("x", "n1>n2")
				send(r, "b", "c")
				r.sleep(2900 * ms)
				require.Equal(t, []string{"a"}, r.at("n2").texts("n1"))
				r.unblock("x")
				send(r, "d")
				r.sleep(500 * ms)
			},
			got: []string{"a", "b", "c", "d"}, ups: 1,
		},
		{
			name: "in flight when the cut comes: held too",
			act: func(r *rig) {
				send(r, "b")
				r.block("x", "n1>n2")
				r.sleep(time.Second)
				require.Equal(t, []string{"a"}, r.at("n2").texts("n1"))
				r.unblock("x")
				r.sleep(500 * ms)
			},
			got: []string{"a", "b"}, ups: 1,
		},
		{
			name: "cut longer than the user timeout: lost, dialled anew after healing",
			act: func(r *rig) {
				r.block("x", "n1>n2", "n2>n1")
				send(r, "b", "c")
				r.sleep(5 * time.Second)
				require.Equal(t, []string{"timeout"}, downs(r.at("n1"), false))
				require.False(t, r.at("n1").Send("n2", PeerChannel, "d"))
				r.unblock("x")
				r.sleep(2 * time.Second)
				send(r, "e")
				r.sleep(10 * ms)
			},
			got: []string{"a", "e"}, down: []string{"timeout"}, inbound: []string{"replaced"}, ups: 2,
		},
		{
			name: "way back cut: data arrives, reset after the user timeout",
			act: func(r *rig) {
				r.block("x", "n2>n1")
				send(r, "b")
				r.sleep(time.Second)
				send(r, "c")
				r.sleep(1900 * ms)
				require.Equal(t, []string{"a", "b", "c"}, r.at("n2").texts("n1"))
				require.Empty(t, downs(r.at("n1"), false))
				r.sleep(3 * time.Second)
				require.Equal(t, []string{"timeout"}, downs(r.at("n1"), false))
				require.Equal(t, 1, ups(r.at("n1"), false), "a handshake needs both ways")
			},
			got: []string{"a", "b", "c"}, down: []string{"timeout"}, ups: 1,
		},
		{
			name: "way back cut and healed in time: nothing happens",
			act: func(r *rig) {
				r.block("x", "n2>n1")
				send(r, "b")
				r.sleep(2500 * ms)
				r.unblock("x")
				r.sleep(10 * time.Second)
				send(r, "c")
				r.sleep(10 * ms)
			},
			got: []string{"a", "b", "c"}, ups: 1,
		},
		{
			name: "kill of the receiver: closed at once, refused while down, up after restart",
			act: func(r *rig) {
				require.NoError(t, p(r).Kill(ctx, "n2"))
				r.sleep(1 * ms)
				require.Equal(t, []string{"closed"}, downs(r.at("n1"), false))
				r.sleep(2 * time.Second)
				require.NoError(t, p(r).Start(ctx, "n2"))
				r.sleep(600 * ms)
				send(r, "b")
				r.sleep(10 * ms)
			},
			got: []string{"b"}, down: []string{"closed"}, ups: 2,
		},
		{
			name: "kill of the receiver behind a cut: its goodbye is held until healing",
			act: func(r *rig) {
				r.block("x", "n2>n1")
				require.NoError(t, p(r).Kill(ctx, "n2"))
				r.sleep(2 * time.Second)
				require.Empty(t, downs(r.at("n1"), false))
				r.unblock("x")
				r.sleep(500 * ms)
				require.NoError(t, p(r).Start(ctx, "n2"))
				r.sleep(600 * ms)
			},
			down: []string{"closed"}, ups: 2,
		},
		{
			name: "goodbye given up: the next data meets a reset",
			act: func(r *rig) {
				r.block("x", "n2>n1")
				require.NoError(t, p(r).Kill(ctx, "n2"))
				r.sleep(4 * time.Second)
				require.NoError(t, p(r).Start(ctx, "n2"))
				r.unblock("x")
				r.sleep(time.Second)
				require.Empty(t, downs(r.at("n1"), false))
				send(r, "b")
				r.sleep(2 * ms)
				require.Equal(t, []string{"reset"}, downs(r.at("n1"), false))
				r.sleep(time.Second)
			},
			down: []string{"reset"}, ups: 2,
		},
		{
			name: "kill of the sender: what was sent arrives, then the goodbye",
			act: func(r *rig) {
				send(r, "b", "c")
				require.NoError(t, p(r).Kill(ctx, "n1"))
				r.sleep(10 * ms)
				require.Equal(t, []string{"a", "b", "c"}, r.at("n2").texts("n1"))
				require.Equal(t, []string{"closed"}, downs(r.at("n2"), true))
				require.NoError(t, p(r).Start(ctx, "n1"))
				r.sleep(100 * ms)
			},
			got: []string{"a", "b", "c"}, inbound: []string{"closed"}, ups: 1,
		},
		{
			name: "kill of the sender behind a cut, healed: late data of the dead arrives",
			act: func(r *rig) {
				r.block("x", "n1>n2")
				send(r, "b")
				require.NoError(t, p(r).Kill(ctx, "n1"))
				r.sleep(time.Second)
				r.unblock("x")
				r.sleep(time.Second)
				require.NoError(t, p(r).Start(ctx, "n1"))
				r.sleep(100 * ms)
			},
			got: []string{"a", "b"}, inbound: []string{"closed"}, ups: 1,
		},
		{
			name: "pause of the receiver: buffered without reset, handled in order on resume",
			act: func(r *rig) {
				require.NoError(t, p(r).Pause(ctx, "n2"))
				send(r, "b", "c")
				r.sleep(20 * time.Second)
				require.Equal(t, []string{"a"}, r.at("n2").texts("n1"))
				require.NoError(t, p(r).Resume(ctx, "n2"))
				send(r, "d")
				r.sleep(10 * ms)
			},
			got: []string{"a", "b", "c", "d"}, ups: 1,
		},
		{
			name: "kill of a paused receiver: what its kernel held is lost",
			act: func(r *rig) {
				require.NoError(t, p(r).Pause(ctx, "n2"))
				send(r, "b")
				r.sleep(10 * ms)
				require.NoError(t, p(r).Kill(ctx, "n2"))
				require.NoError(t, p(r).Start(ctx, "n2"))
				r.sleep(time.Second)
			},
			down: []string{"closed"}, ups: 2,
		},
		{
			name: "power loss of the receiver: silence, no reset, lost at the user timeout",
			act: func(r *rig) {
				require.NoError(t, r.Disks().PowerLoss(ctx, []string{"n2"}))
				send(r, "b")
				r.sleep(2900 * ms)
				require.Empty(t, downs(r.at("n1"), false))
				r.sleep(200 * ms)
				require.Equal(t, []string{"timeout"}, downs(r.at("n1"), false))
				r.sleep(5 * time.Second)
				require.NoError(t, p(r).Start(ctx, "n2"))
				r.sleep(2 * time.Second)
			},
			down: []string{"timeout"}, ups: 2,
		},
		{
			name: "power loss and a quick restart: the retransmission meets a reset",
			act: func(r *rig) {
				require.NoError(t, r.Disks().PowerLoss(ctx, []string{"n2"}))
				send(r, "b")
				require.NoError(t, p(r).Start(ctx, "n2"))
				r.sleep(time.Second)
			},
			down: []string{"reset"}, ups: 2,
		},
		{
			name: "disconnect: what was sent arrives, the other side hears of it",
			act: func(r *rig) {
				send(r, "b")
				r.at("n1").Disconnect("n2", PeerChannel)
				require.False(t, r.at("n1").Send("n2", PeerChannel, "c"))
				r.sleep(5 * time.Second)
			},
			got: []string{"a", "b"}, inbound: []string{"closed"}, ups: 1,
		},
		{
			name: "disconnect while dialling: no stream comes up",
			act: func(r *rig) {
				r.at("n1").Connect("n2", QuorumChannel)
				r.at("n1").Disconnect("n2", QuorumChannel)
				r.sleep(5 * time.Second)
			},
			got: []string{"a"}, ups: 1,
		},
		{
			name: "a cut of another port leaves the stream alone",
			act: func(r *rig) {
				require.NoError(t, r.Network().Block(ctx, "x", []nemesis.Cut{{From: "n1", To: "n2", Port: nemesis.QuorumPort}}))
				send(r, "b")
				r.sleep(10 * ms)
				obs, err := r.Network().Observe(ctx)
				require.NoError(t, err)
				require.Zero(t, obs.Dropped["x"][nemesis.Cut{From: "n1", To: "n2", Port: nemesis.QuorumPort}])
			},
			got: []string{"a", "b"}, ups: 1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 2, dialN1, nil)
			r.run(func() {
				r.sleep(600 * ms) // boots differ by up to 80 ms; the back-off is at most 500 ms
				require.Equal(t, 1, ups(r.at("n1"), false))
				require.Equal(t, 1, ups(r.at("n2"), true))
				send(r, "a")
				r.sleep(10 * ms)
				c.act(r)
				require.Equal(t, c.got, r.at("n2").texts("n1"))
				require.Equal(t, c.inbound, downs(r.at("n2"), true))
				if len(r.probes["n1"]) == 1 {
					require.Equal(t, c.down, downs(r.at("n1"), false))
				}
				require.Equal(t, c.ups, ups(r.at("n1"), false))
			})
		})
	}
}

// Under any seeded storm of cuts a stream delivers a subsequence of what was
// sent, in order, and loses nothing while it stays up.
func TestStreamKeepsOrder(t *testing.T) {
	for seed := range uint64(15) {
		r := newRig(t, 2, dialN1, func(o *Options) {
			o.Seed = seed
			o.Latency.Jitter = 50 * ms
		})
		r.run(func() {
			rng := r.Stream("test")
			g := r.Group()
			g.Go("cuts", func() {
				for i := range 30 {
					id := fmt.Sprint(i)
					cuts := [][]string{{"n1>n2"}, {"n2>n1"}, {"n1>n2", "n2>n1"}}[rng.IntN(3)]
					r.block(id, cuts...)
					r.sleep(time.Duration(rng.IntN(4000)) * ms)
					r.unblock(id)
					r.sleep(time.Duration(rng.IntN(1000)) * ms)
				}
			})
			n := 0
			g.Go("sender", func() {
				for i := range 2000 {
					if r.at("n1").Send("n2", PeerChannel, i) {
						n++
					}
					r.sleep(time.Duration(rng.IntN(50)) * ms)
				}
			})
			g.Wait()
			r.sleep(10 * time.Second)
			// Per connection at n2 (between its LinkUps) numbers rise; across them too,
			// unless data of an old connection arrives late, which "replaced" precludes.
			last, got := -1, 0
			for _, s := range r.at("n2").seen {
				if m, ok := s.ev.(Message); ok {
					require.Greater(t, m.Msg.(int), last)
					last = m.Msg.(int)
					got++
				}
			}
			require.Greater(t, got, 100)
			require.LessOrEqual(t, got, n)
			if len(downs(r.at("n1"), false)) == 0 {
				require.Equal(t, n, got)
			}
		})
	}
}

func TestCodecSeesEverything(t *testing.T) {
	n := 0
	r := newRig(t, 2, func(p *probe, ev Event) {
		dialN1(p, ev)
		if q, ok := ev.(Request); ok {
			p.Reply(q.ID, q.Req)
		}
	}, func(o *Options) { o.Codec = func(v any) any { n++; return v.(string) + "'" } })
	r.run(func() {
		r.sleep(600 * ms)
		r.at("n1").Send("n2", PeerChannel, "m")
		resp, err := r.Call(ctx, "c", "n1", "q", time.Second)
		require.NoError(t, err)
		require.Equal(t, "q''", resp)
		require.Equal(t, []string{"m'"}, r.at("n2").texts("n1"))
		require.Equal(t, 3, n)
	})
}
