package sim

import (
	"fmt"
	"math"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
)

func TestDiskFaults(t *testing.T) {
	r := newRig(t, 2, func(p *probe, ev Event) {
		if _, ok := ev.(Started); ok && p.Node() == "n1" {
			p.Emit(history.NodeEvent{Kind: "start", Offset: int64(10 * p.Incarnation())})
		}
	}, nil)
	r.run(func() {
		m := r.Machines()
		probe := func(n string) nemesis.DiskProbe {
			p, err := m.FullDisks.Probe(ctx, n)
			require.NoError(t, err)
			return p
		}
		require.NoError(t, probe("n1").Err)
		require.NoError(t, m.FullDisks.Fill(ctx, "n1"))
		require.ErrorIs(t, probe("n1").Err, syscall.ENOSPC)
		require.NoError(t, probe("n2").Err)
		require.NoError(t, m.FullDisks.Free(ctx, "n1"))
		require.NoError(t, m.BadDisks.Break(ctx, "n1"))
		require.ErrorIs(t, probe("n1").Err, syscall.EIO)
		require.NoError(t, m.BadDisks.Mend(ctx, "n1"))
		require.NoError(t, probe("n1").Err)

		// The harness's own syncs take the time that a node's would.
		require.NoError(t, m.SlowDisks.Slow(ctx, "n1", 100))
		begin := r.Now()
		took := probe("n1").Sync
		require.Equal(t, took, r.Now()-begin)
		require.Greater(t, took, 100*r.opts.Disk.Sync.Base-1)
		p := r.at("n1")
		begin = r.Now()
		done := func(lane Lane) (at time.Duration) {
			for _, s := range p.seen {
				if d, ok := s.ev.(*StorageDone); ok && d.Lane == lane {
					at = s.at - begin
				}
			}
			return at
		}
		p.Submit("log", Sync, 0, &opFunc{run: func() any { return nil }})
		p.Submit(MetaLane, Sync, 0, &opFunc{run: func() any { return nil }})
		r.sleep(time.Minute)
		require.Greater(t, done("log"), 49*ms)
		require.Less(t, done(MetaLane), 49*ms+r.opts.Disk.TailMax, "the metadata log has its own disk")
		require.Positive(t, done(MetaLane))
		require.NoError(t, m.SlowDisks.Quicken(ctx, "n1"))

		write(p, "data")
		r.sleep(ms)
		stored, err := m.LostDisks.Stored(ctx, "n1")
		require.NoError(t, err)
		require.EqualValues(t, 1, stored)
		require.ErrorContains(t, m.LostDisks.Wipe(ctx, "n1"), "kill it first")
		found, said, err := m.LostDisks.Found(ctx, "n1")
		require.NoError(t, err)
		require.True(t, said)
		require.EqualValues(t, 10, found)
		_, said, err = m.LostDisks.Found(ctx, "n2")
		require.NoError(t, err)
		require.False(t, said, "it reported nothing")
		require.NoError(t, r.Processes().Kill(ctx, "n1"))
		require.NoError(t, m.LostDisks.Wipe(ctx, "n1"))
		require.NoError(t, r.Processes().Start(ctx, "n1"))
		found, _, err = m.LostDisks.Found(ctx, "n1")
		require.NoError(t, err)
		require.EqualValues(t, 20, found, "of the present incarnation")

		for _, err := range []error{
			m.FullDisks.Fill(ctx, "n9"), m.FullDisks.Free(ctx, "n9"), m.BadDisks.Break(ctx, "n9"), m.BadDisks.Mend(ctx, "n9"),
			m.SlowDisks.Slow(ctx, "n9", 2), m.LostDisks.Wipe(ctx, "n9"), m.Files.Flip(ctx, "n9", "f", 0, 0), m.Files.Cut(ctx, "n9", "f", 0),
			m.Clocks.Jump(ctx, "n9", 1), m.Clocks.Drift(ctx, "n9", 2), m.Clocks.Restore(ctx, "n9"), m.Resetter.Reject(ctx, "x", "n9"),
		} {
			require.ErrorContains(t, err, `no node "n9"`)
		}
	})
}

func TestFileDamage(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	r.run(func() {
		m := r.Machines().Files
		r.at("n1").Volume().(*memDisk).file = []byte{1, 2, 3}
		files, err := m.Files(ctx, "n1")
		require.NoError(t, err)
		require.Equal(t, []nemesis.StoredFile{{Name: "f", Size: 3}}, files)
		require.NoError(t, m.Flip(ctx, "n1", "f", 1, 3))
		require.NoError(t, m.Cut(ctx, "n1", "f", 2))
		d, err := m.Digest(ctx, "n1", "f", 3)
		require.NoError(t, err)
		require.Equal(t, "010a", d)
	})
}

func TestClocks(t *testing.T) {
	r := newRig(t, 2, nil, nil)
	r.run(func() {
		c := r.Machines().Clocks
		offset := func(n string) time.Duration {
			d, err := c.Offset(ctx, n)
			require.NoError(t, err)
			return d
		}
		require.NoError(t, c.Jump(ctx, "n1", -time.Hour))
		require.Equal(t, -time.Hour, offset("n1"))
		require.Zero(t, offset("n2"))
		require.NoError(t, c.Drift(ctx, "n1", 2))
		r.sleep(time.Minute)
		require.Equal(t, time.Minute-time.Hour, offset("n1"))
		require.Equal(t, r.at("n1").Wall().Sub(r.at("n2").Wall()), offset("n1"), "it is what the node reads")
		require.NoError(t, c.Restore(ctx, "n1"))
		r.sleep(time.Minute)
		require.Zero(t, offset("n1"))
	})
}

// A strobe is wrong and right by turns, until the clock is set.
func TestStrobe(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	r.run(func() {
		c := r.Machines().Clocks
		read := func() string {
			got := ""
			for range 6 {
				d, err := c.Offset(ctx, "n1")
				require.NoError(t, err)
				got += d.String() + " "
				r.sleep(50 * ms)
			}
			return got
		}
		require.ErrorContains(t, c.Strobe(ctx, "n1", time.Hour, 0), "above zero")
		require.NoError(t, c.Strobe(ctx, "n1", time.Hour, 100*ms))
		require.Equal(t, "1h0m0s 1h0m0s 0s 0s 1h0m0s 1h0m0s ", read())
		require.Equal(t, "0s 0s 1h0m0s 1h0m0s 0s 0s ", read())
		require.NoError(t, c.Restore(ctx, "n1"))
		require.Equal(t, "0s 0s 0s 0s 0s 0s ", read())
	})
}

// A spare is not started with the others, and a place that is given to a new node
// or put back to an earlier copy has to be dead.
func TestPlaces(t *testing.T) {
	r := newRig(t, 3, nil, func(o *Options) { o.Spares = []string{"n3"} })
	r.run(func() {
		m, p := r.Machines(), r.Processes()
		st, err := p.State(ctx, "n3")
		require.NoError(t, err)
		require.False(t, st.Running, "a spare waits")
		require.ErrorContains(t, m.NewNodes.Replace(ctx, "n1", "7"), "its process runs")
		require.NoError(t, m.NewNodes.Replace(ctx, "n3", "7"))
		require.Equal(t, "7", r.nodes[2].volume.(*memDisk).identity)
		require.NoError(t, p.Start(ctx, "n3"))

		r.nodes[0].volume.(*memDisk).file = []byte("abc")
		require.NoError(t, m.Files.Copy(ctx, "n1"), "a copy is taken while the process runs")
		before, err := m.Files.DataDigest(ctx, "n1")
		require.NoError(t, err)
		require.NoError(t, m.Files.Cut(ctx, "n1", "f", 1))
		after, err := m.Files.DataDigest(ctx, "n1")
		require.NoError(t, err)
		require.NotEqual(t, before, after)
		require.ErrorContains(t, m.Files.PutBack(ctx, "n1"), "its process runs")
		require.NoError(t, p.Kill(ctx, "n1"))
		require.NoError(t, m.Files.PutBack(ctx, "n1"))
		again, err := m.Files.DataDigest(ctx, "n1")
		require.NoError(t, err)
		require.Equal(t, before, again)
	})
	opts := DefaultOptions([]string{"n1"}, 1)
	opts.Spares = []string{"n2"}
	require.ErrorContains(t, opts.Validate(), `the spare "n2" is none of the nodes`)
}

// Streams show a bad network as delay, in order, and in the worst case as a reset.
func TestShaping(t *testing.T) {
	for _, c := range []struct {
		name        string
		delay       time.Duration
		loss        float64
		least, most time.Duration // median delivery
		echo        float64       // datagrams that come back
	}{
		{"none", 0, 0, 100 * time.Microsecond, ms, 1},
		{"delay", 100 * ms, 0, 100 * ms, 200 * ms, 1},
		{"some loss", 0, 0.3, 100 * time.Microsecond, 2 * time.Second, 0.49},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 2, dialN1, nil)
			r.run(func() {
				r.sleep(time.Second)
				s := r.Machines().Shaper
				rules := []nemesis.Shaping{
					{From: "n1", To: "n2", Delay: c.delay, Jitter: c.delay / 2, Loss: c.loss}, {From: "n2", To: "n1", Delay: c.delay, Jitter: c.delay / 2, Loss: c.loss},
				}
				require.NoError(t, s.Shape(ctx, "x", rules))
				require.ErrorContains(t, s.Shape(ctx, "x", rules), "exists already")
				for i := range 50 {
					require.True(t, r.at("n1").Send("n2", PeerChannel, fmt.Sprint(i)))
					r.sleep(time.Second)
				}
				got := r.at("n2").texts("n1")
				require.Len(t, got, 50, "nothing is lost on a stream that stays up")
				for i := range got {
					require.Equal(t, fmt.Sprint(i), got[i])
				}
				counts, err := s.Shaped(ctx, "x")
				require.NoError(t, err)
				hit := counts[nemesis.Pair{From: "n1", To: "n2"}]
				require.Equal(t, c.delay > 0 || c.loss > 0, hit > 0)
				e, err := s.Echo(ctx, "n2", "n1", nemesis.Volley{Count: 2000})
				require.NoError(t, err)
				require.InDelta(t, c.echo, float64(e.Returned)/2000, 0.06)
				require.GreaterOrEqual(t, e.Median, 2*c.delay)
				require.LessOrEqual(t, e.Median, 3*c.delay+ms)
				after, err := s.Shaped(ctx, "x")
				require.NoError(t, err)
				require.Equal(t, counts, after, "datagrams of the harness are not counted")
				require.NoError(t, s.Unshape(ctx, "x"))
				require.ErrorContains(t, s.Unshape(ctx, "x"), "no such set")
				e, err = s.Echo(ctx, "n2", "n1", nemesis.Volley{Count: 100})
				require.NoError(t, err)
				require.Equal(t, 100, e.Returned)
				require.Less(t, e.Median, 2*ms)
			})
		})
	}
}

func TestTotalLossResetsStreams(t *testing.T) {
	r := newRig(t, 2, dialN1, nil)
	r.run(func() {
		r.sleep(time.Second)
		s := r.Machines().Shaper
		require.NoError(t, s.Shape(ctx, "x", []nemesis.Shaping{{From: "n1", To: "n2", Loss: 1}}))
		r.at("n1").Send("n2", PeerChannel, "lost")
		r.at("n1").Send("n2", PeerChannel, "lost too")
		r.sleep(10 * time.Second)
		require.Equal(t, []string{"timeout"}, downs(r.at("n1"), false))
		require.Empty(t, r.at("n2").texts("n1"))
		e, err := s.Echo(ctx, "n1", "n2", nemesis.Volley{Count: 10})
		require.NoError(t, err)
		require.Zero(t, e.Arrived)
		require.NoError(t, s.Unshape(ctx, "x"))
		r.sleep(5 * time.Second)
		require.True(t, r.at("n1").Send("n2", PeerChannel, "again"), "the stream is dialled anew")
		r.sleep(time.Second)
		require.Equal(t, []string{"again"}, r.at("n2").texts("n1"))
	})
}

// What a stream shows of disturbed packets is time; datagrams show what it is.
func TestDisturbedPackets(t *testing.T) {
	const n = 1000
	for _, c := range []struct {
		name  string
		rule  nemesis.Shaping
		check func(t *testing.T, e nemesis.Echo)
	}{
		{"duplicate", nemesis.Shaping{Duplicate: 0.25}, func(t *testing.T, e nemesis.Echo) {
			require.InDelta(t, n/4, e.There.Twice, 60)
			require.Equal(t, n, e.Arrived)
			require.Zero(t, e.There.Overtaken+e.There.Damaged)
		}},
		{"reorder", nemesis.Shaping{Delay: 50 * ms, Reorder: 0.25}, func(t *testing.T, e nemesis.Echo) {
			require.InDelta(t, 3*n/4, e.There.Overtaken, 60, "all that are delayed")
			require.Equal(t, n, e.Arrived)
		}},
		{"corrupt", nemesis.Shaping{Corrupt: 0.25}, func(t *testing.T, e nemesis.Echo) {
			require.InDelta(t, n/4, e.There.Damaged, 60)
			require.Equal(t, n, e.Arrived+e.There.Damaged)
		}},
		{"rate", nemesis.Shaping{Rate: 640_000}, func(t *testing.T, e nemesis.Echo) {
			require.InDelta(t, float64(100*ms), float64(e.There.Spread), float64(2*ms))
			require.Equal(t, n, e.Arrived)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 2, dialN1, nil)
			r.run(func() {
				r.sleep(time.Second)
				s := r.Machines().Shaper
				c.rule.From, c.rule.To = "n1", "n2"
				require.NoError(t, s.Shape(ctx, "x", []nemesis.Shaping{c.rule}))
				for i := range 50 {
					require.True(t, r.at("n1").Send("n2", PeerChannel, fmt.Sprint(i)))
					if i%10 == 9 {
						r.sleep(time.Second)
					}
				}
				got := r.at("n2").texts("n1")
				require.Len(t, got, 50, "nothing is lost, and nothing comes twice")
				for i := range got {
					require.Equal(t, fmt.Sprint(i), got[i], "in order")
				}
				counts, err := s.Shaped(ctx, "x")
				require.NoError(t, err)
				require.Positive(t, counts[nemesis.Pair{From: "n1", To: "n2"}])
				e, err := s.Echo(ctx, "n1", "n2", nemesis.Volley{Count: n})
				require.NoError(t, err)
				c.check(t, e)
				require.Zero(t, e.Back.Twice+e.Back.Overtaken+e.Back.Damaged, "the other direction")
				require.NoError(t, s.Unshape(ctx, "x"))
				e, err = s.Echo(ctx, "n1", "n2", nemesis.Volley{Count: n})
				require.NoError(t, err)
				require.Equal(t, n, e.Returned)
				require.Zero(t, e.There.Twice+e.There.Overtaken+e.There.Damaged)
				require.Less(t, e.There.Spread, 5*ms)
			})
		})
	}
}

// What would wait longer than the backlog is lost, and sent again by a stream.
func TestRateLosesWhatIsTooMuch(t *testing.T) {
	r := newRig(t, 2, dialN1, nil)
	r.run(func() {
		r.sleep(time.Second)
		s := r.Machines().Shaper
		require.NoError(t, s.Shape(ctx, "x", []nemesis.Shaping{{From: "n1", To: "n2", Rate: 64_000}}))
		e, err := s.Echo(ctx, "n1", "n2", nemesis.Volley{Count: 2000})
		require.NoError(t, err)
		require.InDelta(t, 500, e.Arrived, 2, "half a second's worth")
		require.NoError(t, s.Unshape(ctx, "x"))
	})
}

// A silenced node's connections stay, as both ends see them, until they give up;
// new ones open for their diallers only.
func TestSilence(t *testing.T) {
	r := newRig(t, 3, func(p *probe, ev Event) {
		dialN1(p, ev)
		echo(p, ev)
	}, nil)
	r.run(func() {
		r.sleep(time.Second)
		m := r.Machines().Resetter
		dial := func(from, to string) string {
			got, err := m.Dial(ctx, from, to)
			require.NoError(t, err)
			return got
		}
		require.NoError(t, m.Silence(ctx, "x", "n1"))
		require.ErrorContains(t, m.Silence(ctx, "x", "n1"), "exists already")
		require.ErrorContains(t, m.Reject(ctx, "x", "n1"), "exists already")
		for _, from := range []string{"n2", "n3", nemesis.Clients} {
			require.Equal(t, nemesis.DialSilent, dial(from, "n1"))
		}
		require.Equal(t, nemesis.DialSilent, dial("n1", "n3"))
		require.Equal(t, nemesis.DialAccepted, dial("n2", "n3"), "others are spared")
		require.Empty(t, downs(r.at("n2"), true), "nobody hears of it")
		require.True(t, r.at("n1").Send("n2", PeerChannel, "held"))
		_, err := r.Call(ctx, "c", "n1", "x", time.Second)
		var ce *CallError
		require.ErrorAs(t, err, &ce)
		require.Equal(t, "timeout", ce.Reason)
		require.True(t, ce.Sent, "the client took its connection for open")
		require.Empty(t, r.at("n2").texts("n1"))
		met, err := m.Resets(ctx, "x")
		require.NoError(t, err)
		require.Positive(t, met)
		r.sleep(10 * time.Second)
		require.Contains(t, downs(r.at("n1"), false), "timeout")
		require.NoError(t, m.Accept(ctx, "x"))
		require.Equal(t, nemesis.DialAccepted, dial("n2", "n1"))
		r.sleep(10 * time.Second)
		require.True(t, r.at("n1").Send("n2", PeerChannel, "again"))
		r.sleep(time.Second)
		require.Equal(t, []string{"again"}, r.at("n2").texts("n1"))
		_, err = r.Call(ctx, "c", "n1", "x", time.Second)
		require.NoError(t, err)
	})
}

// A silence that ends before anybody gives up loses nothing.
func TestShortSilence(t *testing.T) {
	r := newRig(t, 2, dialN1, nil)
	r.run(func() {
		r.sleep(time.Second)
		m := r.Machines().Resetter
		require.NoError(t, m.Silence(ctx, "x", "n2"))
		require.True(t, r.at("n1").Send("n2", PeerChannel, "held"))
		r.sleep(500 * ms)
		require.Empty(t, r.at("n2").texts("n1"))
		require.NoError(t, m.Accept(ctx, "x"))
		r.sleep(time.Second)
		require.Equal(t, []string{"held"}, r.at("n2").texts("n1"))
		require.Empty(t, downs(r.at("n1"), false))
	})
}

func TestShapingIsChecked(t *testing.T) {
	r := newRig(t, 2, nil, nil)
	r.run(func() {
		s := r.Machines().Shaper
		require.ErrorContains(t, s.Shape(ctx, "x", nil), "no rules")
		for _, bad := range []nemesis.Shaping{
			{From: "n1", To: "n9"},
			{From: "n1", To: "n1"},
			{From: "n1", To: "n2", Delay: -1},
			{From: "n1", To: "n2", Loss: 1.1},
			{From: "n1", To: "n2", Loss: math.NaN()},
			{From: "n1", To: "n2", Corrupt: 2},
			{From: "n1", To: "n2", Duplicate: -1},
			{From: "n1", To: "n2", Rate: -1},
		} {
			require.Error(t, s.Shape(ctx, "x", []nemesis.Shaping{bad}))
		}
		require.Error(t, s.Unshape(ctx, "x"), "a refused set is not registered")
		_, err := s.Echo(ctx, "n1", "n9", nemesis.Volley{Count: 1})
		require.Error(t, err)
		_, err = s.Shaped(ctx, "x")
		require.Error(t, err)
	})
}

func TestResets(t *testing.T) {
	r := newRig(t, 3, func(p *probe, ev Event) {
		dialN1(p, ev)
		echo(p, ev)
	}, nil)
	r.run(func() {
		r.sleep(time.Second)
		_, err := r.Call(ctx, "c", "n1", "x", time.Second)
		require.NoError(t, err)
		m := r.Machines().Resetter
		dial := func(from, to string) string {
			got, err := m.Dial(ctx, from, to)
			require.NoError(t, err)
			return got
		}
		require.Equal(t, "accepted", dial("n2", "n1"))
		before := ups(r.at("n2"), true)
		require.NoError(t, m.Reject(ctx, "x", "n1"))
		require.ErrorContains(t, m.Reject(ctx, "x", "n1"), "exists already")
		r.sleep(ms)
		require.Equal(t, []string{"reset"}, downs(r.at("n2"), true))
		require.Contains(t, downs(r.at("n1"), false), "reset")
		for _, from := range []string{"n2", "n3", nemesis.Clients} {
			require.Equal(t, "reset", dial(from, "n1"))
		}
		require.Equal(t, "accepted", dial("n2", "n3"), "others are spared")
		require.Equal(t, "reset", dial("n1", "n3"), "its own dials are reset too")
		_, err = r.Call(ctx, "c", "n1", "x", time.Second)
		var ce *CallError
		require.ErrorAs(t, err, &ce)
		require.Equal(t, "refused", ce.Reason)
		require.False(t, ce.Sent)
		r.sleep(5 * time.Second)
		require.Equal(t, before, ups(r.at("n2"), true), "no stream comes up meanwhile")
		resets, err := m.Resets(ctx, "x")
		require.NoError(t, err)
		require.Greater(t, resets, uint64(5))
		s, err := r.Processes().State(ctx, "n1")
		require.NoError(t, err)
		require.True(t, s.Running)
		obs, err := r.Network().Observe(ctx)
		require.NoError(t, err)
		reach := obs.Reach[nemesis.Pair{From: "n2", To: "n1"}]
		require.LessOrEqual(t, reach.Sent-reach.Received, uint64(1), "datagrams pass")
		require.NoError(t, m.Accept(ctx, "x"))
		require.ErrorContains(t, m.Accept(ctx, "x"), "no such rule")
		_, err = m.Resets(ctx, "x")
		require.Error(t, err)
		r.sleep(5 * time.Second)
		require.Equal(t, before+1, ups(r.at("n2"), true))
		_, err = r.Call(ctx, "c", "n1", "x", time.Second)
		require.NoError(t, err)
		r.block("cut", "n2>n1")
		require.Equal(t, "timeout", dial("n2", "n1"))
		r.unblock("cut")
		require.NoError(t, r.Processes().Kill(ctx, "n1"))
		require.Equal(t, "reset", dial("n2", "n1"), "the kernel of a dead process refuses")
	})
}

// A call in progress whose connection is reset is indeterminate.
func TestResetDuringCall(t *testing.T) {
	r := newRig(t, 1, echo, nil)
	r.run(func() {
		g := r.Group()
		g.Go("resetter", func() {
			r.sleep(100 * ms)
			require.NoError(t, r.Machines().Resetter.Reject(ctx, "x", "n1"))
		})
		_, err := r.Call(ctx, "c", "n1", "mute", 5*time.Second)
		var ce *CallError
		require.ErrorAs(t, err, &ce)
		require.Equal(t, "reset", ce.Reason)
		require.True(t, ce.Sent)
		require.Less(t, r.Now(), 2*time.Second)
		g.Wait()
	})
}
