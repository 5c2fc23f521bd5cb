package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
)

func write(p *probe, s string) {
	d := p.Volume().(*memDisk)
	p.Submit("log", Append, len(s), &opFunc{run: func() any { d.log = append(d.log, s); return len(d.log) }})
}

func fsync(p *probe) {
	d := p.Volume().(*memDisk)
	p.Submit("log", Sync, 0, &opFunc{run: func() any { d.synced = len(d.log); return d.synced }})
}

func TestStorageIsFIFOPerLane(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	r.run(func() {
		p := r.at("n1")
		for i := range 100 {
			p.Submit(Lane(fmt.Sprint(i%2)), []StorageKind{Append, Sync, Read}[i%3], 10, &opFunc{run: func() any { return i }})
		}
		r.sleep(10 * time.Second)
		last := map[Lane]int{"0": -2, "1": -1}
		for _, s := range p.seen {
			if d, ok := s.ev.(*StorageDone); ok {
				require.Equal(t, last[d.Lane]+2, d.Op.(*opFunc).result)
				require.EqualValues(t, d.Op.(*opFunc).result.(int)+1, d.Token)
				last[d.Lane] = d.Op.(*opFunc).result.(int)
			}
		}
		require.Equal(t, map[Lane]int{"0": 98, "1": 99}, last)
	})
}

// After a kill a prefix of what was issued lands, nothing is reported, and the
// next incarnation begins after the last landing.
func TestKillLeavesAPrefixOfIssuedWrites(t *testing.T) {
	kept := map[int]bool{}
	for seed := range uint64(40) {
		r := newRig(t, 1, nil, func(o *Options) { o.Seed = seed })
		r.run(func() {
			p := r.at("n1")
			d := p.Volume().(*memDisk)
			want := []string{"0", "1", "2", "3", "4"}
			for _, s := range want {
				write(p, s)
			}
			require.NoError(t, r.SlowDisk(ctx, "n1", 1000))
			require.NoError(t, r.Processes().Kill(ctx, "n1"))
			require.NoError(t, r.Processes().Start(ctx, "n1"))
			n := len(d.log)
			kept[n] = true
			require.Equal(t, want[:n], append([]string{}, d.log...))
			r.sleep(time.Minute)
			require.Len(t, d.log, n, "nothing of the dead lands after the restart")
			require.Zero(t, countOf[*StorageDone](p, nil)+countOf[*StorageDone](r.at("n1"), nil))
			require.Zero(t, p.Submit("log", Append, 0, &opFunc{run: func() any { panic("dead") }}), "a dead incarnation has no effect")
		})
	}
	for n := range 6 {
		require.True(t, kept[n], "no seed kept %d of 5", n)
	}
}

func TestPausedNodeGetsItsStorageOnResume(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	r.run(func() {
		p := r.at("n1")
		write(p, "a")
		p.SetWake(r.Now() + 50*ms)
		require.NoError(t, r.Processes().Pause(ctx, "n1"))
		require.ErrorContains(t, r.Processes().Pause(ctx, "n1"), "paused already")
		r.sleep(time.Second)
		require.Equal(t, []string{"a"}, p.Volume().(*memDisk).log, "what was issued lands")
		require.Len(t, p.seen, 1)
		require.NoError(t, r.Processes().Resume(ctx, "n1"))
		require.ErrorContains(t, r.Processes().Resume(ctx, "n1"), "not paused")
		require.NoError(t, r.Processes().Pause(ctx, "n1"))
		r.sleep(ms)
		require.Len(t, p.seen, 1, "paused again at once")
		require.NoError(t, r.Processes().Resume(ctx, "n1"))
		r.sleep(ms)
		require.IsType(t, &StorageDone{}, p.seen[1].ev)
		require.IsType(t, Wake{}, p.seen[2].ev)
		require.Len(t, p.seen, 3)
	})
}

func TestPowerLoss(t *testing.T) {
	r := newRig(t, 3, nil, nil)
	r.run(func() {
		for _, n := range []string{"n1", "n2"} {
			p := r.at(n)
			require.NoError(t, r.Disks().WriteCanary(ctx, n, "synced", true))
			require.NoError(t, r.Disks().WriteCanary(ctx, n, "lost", false))
			write(p, "durable")
			fsync(p)
			r.sleep(time.Second)
			for i := range 20 {
				write(p, fmt.Sprint(i))
			}
			fsync(p)
		}
		r.sleep(ms)
		require.NoError(t, r.Processes().Kill(ctx, "n2"), "a node that is down loses its unsynced data as well")
		require.NoError(t, r.Disks().PowerLoss(ctx, []string{"n1", "n2"}))
		for _, n := range []string{"n1", "n2"} {
			d := r.nodes[r.index[n]].volume.(*memDisk)
			frozen := slices.Clone(d.log)
			require.Equal(t, "durable", frozen[0])
			r.sleep(time.Minute)
			require.Equal(t, frozen, d.log, "nothing lands without power")
			has, err := r.Disks().HasCanary(ctx, n, "synced")
			require.NoError(t, err)
			require.True(t, has)
			has, err = r.Disks().HasCanary(ctx, n, "lost")
			require.NoError(t, err)
			require.False(t, has)
			s, err := r.Processes().State(ctx, n)
			require.NoError(t, err)
			require.False(t, s.Running)
			require.Equal(t, 137, s.ExitCode)
		}
		require.Error(t, r.Disks().PowerLoss(ctx, nil))
		require.ErrorContains(t, r.Disks().PowerLoss(ctx, []string{"n1", "n1"}), "twice")
		require.ErrorContains(t, r.Wipe(ctx, "n3"), "kill it first")
		require.NoError(t, r.Wipe(ctx, "n1"))
		require.NoError(t, r.Processes().Start(ctx, "n1"))
		require.Equal(t, 2, r.at("n1").Incarnation())
		require.Empty(t, r.at("n1").Volume().(*memDisk).log)
	})
}

func TestProcesses(t *testing.T) {
	r := newRig(t, 2, func(p *probe, ev Event) {
		if _, ok := ev.(Terminate); ok && p.Node() == "n1" {
			p.Exit(3)
			p.Emit(history.NodeEvent{Kind: "after exit"})
		}
	}, nil)
	var events []history.NodeEvent
	r.Events(func(ev history.NodeEvent) { events = append(events, ev) })
	r.run(func() {
		ps := r.Processes()
		s, err := ps.State(ctx, "n1")
		require.NoError(t, err)
		require.True(t, s.Running && !s.Paused && s.PID > 0)
		code, err := ps.Stop(ctx, "n1", time.Second)
		require.NoError(t, err)
		require.Equal(t, 3, code)
		after, err := ps.State(ctx, "n1")
		require.NoError(t, err)
		require.False(t, after.Running)
		require.Zero(t, after.PID)
		require.Equal(t, 3, after.ExitCode)
		require.Empty(t, events, "nothing has an effect after Exit")
		_, err = ps.Stop(ctx, "n2", time.Second)
		require.ErrorContains(t, err, "still runs 1s after SIGTERM")
		require.ErrorContains(t, ps.Kill(ctx, "n1"), "not running")
		require.ErrorContains(t, ps.Start(ctx, "n2"), "runs already")
		require.ErrorContains(t, ps.Kill(ctx, "n9"), `no node "n9"`)
		require.ErrorContains(t, ps.Kill(ctx, nemesis.Clients), "no node")
		require.NoError(t, ps.Start(ctx, "n1"))
		again, err := ps.State(ctx, "n1")
		require.NoError(t, err)
		require.NotEqual(t, s.Started, again.Started)
		require.NotEqual(t, s.PID, again.PID)
	})
}

func TestPanicOfAProcessIsACrashOfItsNode(t *testing.T) {
	r := newRig(t, 2, func(p *probe, ev Event) {
		if q, ok := ev.(Request); ok {
			panic(q.Req)
		}
	}, nil)
	var events []history.NodeEvent
	r.Events(func(ev history.NodeEvent) { events = append(events, ev) })
	require.NoError(t, r.Run(ctx, func() {
		require.NoError(t, r.Up(ctx))
		_, err := r.Call(ctx, "c", "n2", "raft says no", time.Second)
		require.ErrorContains(t, err, "closed")
		s, err := r.Processes().State(ctx, "n2")
		require.NoError(t, err)
		require.Equal(t, 2, s.ExitCode)
	}))
	require.Len(t, r.Crashes(), 1)
	require.Equal(t, "n2", r.Crashes()[0].Node)
	require.Equal(t, "raft says no", r.Crashes()[0].Value)
	require.Contains(t, r.Crashes()[0].Stack, "fault_test.go")
	require.Len(t, events, 1)
	require.Equal(t, history.NodeEvent{Node: "n2", Incarnation: "1", Seq: 1, At: int64(r.Crashes()[0].At), Kind: "panic", Detail: "raft says no"}, events[0])
}

func TestWake(t *testing.T) {
	r := newRig(t, 1, nil, nil)
	r.run(func() {
		p, t0 := r.at("n1"), r.Now()
		wakes := func() (at []time.Duration) {
			for _, s := range p.seen {
				if _, ok := s.ev.(Wake); ok {
					at = append(at, s.at-t0)
				}
			}
			return at
		}
		p.SetWake(t0 + 10*ms)
		p.SetWake(t0 + 20*ms) // replaces
		r.sleep(15 * ms)
		require.Empty(t, wakes())
		p.SetWake(t0 + 18*ms) // earlier
		r.sleep(100 * ms)
		require.Equal(t, []time.Duration{18 * ms}, wakes())
		p.SetWake(t0) // past: at once
		r.sleep(ms)
		require.Equal(t, []time.Duration{18 * ms, 115 * ms}, wakes())
		p.SetWake(r.Now() + ms)
		p.SetWake(NoWake)
		r.sleep(time.Second)
		require.Len(t, wakes(), 2)
	})
}

func TestClock(t *testing.T) {
	r := newRig(t, 2, nil, nil)
	r.run(func() {
		a, b := r.at("n1"), r.at("n2")
		require.Equal(t, a.Wall(), b.Wall())
		require.NoError(t, r.SetClock(ctx, "n1", time.Hour, 0.5))
		require.Equal(t, time.Hour, a.Wall().Sub(b.Wall()))
		r.sleep(time.Minute)
		require.Equal(t, time.Hour-30*time.Second, a.Wall().Sub(b.Wall()))
		require.Equal(t, a.Now(), b.Now())
		require.Error(t, r.SetClock(ctx, "n1", 0, -1))
	})
}

func TestNetworkObservation(t *testing.T) {
	r := newRig(t, 3, dialN1, nil)
	obs := func() nemesis.Observation {
		o, err := r.Network().Observe(ctx)
		require.NoError(t, err)
		return o
	}
	r.run(func() {
		r.sleep(time.Second)
		first := obs()
		require.Len(t, first.Reach, 12)
		for pair, reach := range first.Reach {
			require.LessOrEqual(t, reach.Sent-reach.Received, uint64(1), "%v", pair)
			require.Greater(t, reach.Received, uint64(20))
		}
		r.block("a", "n1>n2", "n1>n3")
		r.block("b", "n1>n2", "clients>n1")
		require.ErrorContains(t, r.Network().Block(ctx, "a", []nemesis.Cut{{From: "n1", To: "n2"}}), "exists already")
		r.at("n1").Send("n2", PeerChannel, "x")
		at := obs()
		r.sleep(time.Second)
		cut := obs()
		for pair, reach := range cut.Reach {
			if pair == (nemesis.Pair{From: "n1", To: "n2"}) || pair == (nemesis.Pair{From: "n1", To: "n3"}) || pair == (nemesis.Pair{From: nemesis.Clients, To: "n1"}) {
				require.Equal(t, at.Reach[pair].Received, reach.Received, "%v is cut", pair)
				require.Equal(t, at.Reach[pair].Sent+20, reach.Sent)
			} else {
				require.Equal(t, at.Reach[pair].Received+20, reach.Received, "%v is open", pair)
			}
		}
		require.EqualValues(t, 1, cut.Dropped["a"][nemesis.Cut{From: "n1", To: "n2"}])
		require.EqualValues(t, 1, cut.Dropped["b"][nemesis.Cut{From: "n1", To: "n2"}])
		require.EqualValues(t, 0, cut.Dropped["a"][nemesis.Cut{From: "n1", To: "n3"}])
		require.Equal(t, first.Boots, cut.Boots)
		require.Len(t, cut.Boots, 4)

		r.unblock("a")
		require.ErrorContains(t, r.Network().Unblock(ctx, "a"), "no such rule set")
		r.sleep(time.Second)
		half := obs()
		require.NotContains(t, half.Dropped, "a")
		require.Equal(t, at.Reach[nemesis.Pair{From: "n1", To: "n2"}].Received, half.Reach[nemesis.Pair{From: "n1", To: "n2"}].Received, "b still cuts it")
		require.Greater(t, half.Reach[nemesis.Pair{From: "n1", To: "n3"}].Received, cut.Reach[nemesis.Pair{From: "n1", To: "n3"}].Sent)
		r.unblock("b")
		r.sleep(200 * ms)
		for pair, reach := range obs().Reach {
			require.LessOrEqual(t, reach.Sent-reach.Received, uint64(1), "%v", pair)
		}
		for _, bad := range []nemesis.Cut{{From: "n1", To: "n9"}, {From: "n1", To: "n1"}, {From: "n1", To: "n2", Port: "smtp"}} {
			require.Error(t, r.Network().Block(ctx, "bad", []nemesis.Cut{bad}))
		}
		require.Error(t, r.Network().Block(ctx, "none", nil))
		require.Error(t, r.Network().Unblock(ctx, "bad"), "a refused set is not registered")
	})
}

// Whatever sabotage does to the rules shows in real traffic and in nonces.
func TestSabotage(t *testing.T) {
	for _, c := range []struct {
		name string
		s    Sabotage
		cut  map[string]bool // directions that are still cut after one second of 4
		late bool            // and after 3 seconds
	}{
		{"none", Sabotage{}, map[string]bool{"n1>n2": true, "n2>n1": true}, true},
		{"stubbed", Sabotage{Mode: Stubbed}, nil, false},
		{"one node", Sabotage{Mode: StubbedNode, Node: "n2"}, map[string]bool{"n2>n1": true}, true},
		{"half time", Sabotage{Mode: RemovedAfter, After: 2 * time.Second}, map[string]bool{"n1>n2": true, "n2>n1": true}, false},
		{"new only", Sabotage{Mode: NewOnly}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 2, func(p *probe, ev Event) {
				if _, ok := ev.(Started); ok {
					p.Connect(map[string]string{"n1": "n2", "n2": "n1"}[p.Node()], PeerChannel)
				}
			}, func(o *Options) { o.Sabotage, o.UserTimeout = c.s, time.Minute })
			r.run(func() {
				r.sleep(time.Second)
				r.block("x", "n1>n2", "n2>n1")
				check := func(want func(dir string) bool) {
					before, err := r.Network().Observe(ctx)
					require.NoError(t, err)
					msg := fmt.Sprint(r.Now())
					r.at("n1").Send("n2", PeerChannel, msg)
					r.at("n2").Send("n1", PeerChannel, msg)
					r.sleep(time.Second)
					after, err := r.Network().Observe(ctx)
					require.NoError(t, err)
					for _, d := range []string{"n1>n2", "n2>n1"} {
						from, to, _ := strings.Cut(d, ">")
						p := nemesis.Pair{From: from, To: to}
						require.Equal(t, want(d), after.Reach[p].Received == before.Reach[p].Received, "nonces %s", d)
						require.Equal(t, want(d), !slices.Contains(r.at(to).texts(from), msg), "traffic %s", d)
					}
				}
				check(func(d string) bool { return c.cut[d] })
				r.sleep(2 * time.Second)
				check(func(d string) bool { return c.cut[d] && c.late })
				if c.s.Mode == NewOnly {
					require.NoError(t, r.Processes().Kill(ctx, "n1"))
					require.NoError(t, r.Processes().Start(ctx, "n1"))
					r.sleep(5 * time.Second)
					require.Zero(t, ups(r.at("n1"), false)+ups(r.at("n1"), true), "new connections are cut")
				}
				r.unblock("x")
			})
		})
	}
}

func TestEnvironment(t *testing.T) {
	r := newRig(t, 2, func(p *probe, ev Event) {
		if _, ok := ev.(Started); ok {
			p.Logger().Info("hello", "node", p.Node())
			p.Logger().With("a", 1).WithGroup("g").Debug("hidden")
			p.Emit(history.NodeEvent{Kind: "start", Node: "forged", Seq: 99})
			p.Emit(history.NodeEvent{Kind: "leader"})
		}
	}, nil)
	dir := t.TempDir()
	r.run(func() {
		require.ErrorContains(t, r.Up(ctx), "called before")
		write(r.at("n1"), "data")
		r.block("x", "n1>n2")
		r.sleep(time.Second)
		require.NoError(t, r.Down(ctx))
		require.NoError(t, r.Down(ctx))
		obs, err := r.Network().Observe(ctx)
		require.NoError(t, err)
		require.Empty(t, obs.Dropped)
		for _, n := range r.Nodes() {
			s, err := r.Processes().State(ctx, n)
			require.NoError(t, err)
			require.False(t, s.Running)
		}
	})
	require.NoError(t, r.Collect(ctx, dir))
	read := func(path ...string) string {
		b, err := os.ReadFile(filepath.Join(append([]string{dir}, path...)...))
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, "data\n", read("n1", "digest"))
	require.Contains(t, read("n2", "stdout.log"), `time=2026-01-01T00:00:00.`)
	require.Contains(t, read("n2", "stdout.log"), `msg=hello node=n2`)
	require.NotContains(t, read("n2", "stdout.log"), `hidden`)
	lines := strings.Split(strings.TrimSpace(read("n1", "events.jsonl")), "\n")
	require.Len(t, lines, 2)
	var ev history.NodeEvent
	require.NoError(t, json.Unmarshal([]byte(lines[1]), &ev))
	require.Equal(t, "n1", ev.Node)
	require.EqualValues(t, 2, ev.Seq)
	require.Equal(t, "sim", r.Versions()["environment"])
}

func TestLogKeepsItsNewestPart(t *testing.T) {
	b := logBuffer{limit: 1000}
	for i := range 1000 {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	require.LessOrEqual(t, b.buf.Len(), 1100)
	require.True(t, strings.HasPrefix(b.buf.String(), "(older lines dropped"))
	require.True(t, strings.HasSuffix(b.buf.String(), "line 998\nline 999\n"))
}

func TestOptionsValidate(t *testing.T) {
	for name, spoil := range map[string]func(*Options){
		"no nodes":   func(o *Options) { o.Nodes = nil },
		"reserved":   func(o *Options) { o.Nodes = []string{nemesis.Clients} },
		"twice":      func(o *Options) { o.Nodes = []string{"a", "a"} },
		"no factory": func(o *Options) { o.Factory = nil },
		"no latency": func(o *Options) { o.Latency = Latency{} },
		"jitter":     func(o *Options) { o.Latency.Jitter = -1 },
		"disk":       func(o *Options) { o.Disk = DiskModel{} },
		"limits":     func(o *Options) { o.MaxEvents = 0 },
		"sabotage":   func(o *Options) { o.Sabotage = Sabotage{Mode: StubbedNode, Node: "x"} },
	} {
		t.Run(name, func(t *testing.T) {
			o := DefaultOptions([]string{"n1"}, 1)
			o.Factory, o.Volume = func(Host) Process { return nil }, newMemDisk
			require.NoError(t, o.Validate())
			spoil(&o)
			_, err := New(o)
			require.Error(t, err)
		})
	}
}
