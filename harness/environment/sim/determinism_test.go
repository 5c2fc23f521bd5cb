package sim

import (
	cryptorand "crypto/rand"
	"crypto/sha256"
	"fmt"
	"math/big"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/nemesis"
)

// opFunc is an operation that keeps what a function returns.
type opFunc struct {
	run    func() any
	result any
}

func (o *opFunc) Run() { o.result = o.run() }

// toy is a small replicated log: n1 appends, stores and sends what clients
// send, answers when a majority has stored it; heartbeats with random timing.
type toy struct {
	Host
	disk    *memDisk
	acks    map[int]int
	waiting map[int]RequestID
	next    int
	ops     map[Token]any
}

type entryMsg struct {
	N    int
	Text string
}
type (
	ackMsg struct{ N int }
	beat   struct{ Term int64 }
)

func newToy(h Host) Process {
	return &toy{Host: h, disk: h.Volume().(*memDisk), acks: map[int]int{}, waiting: map[int]RequestID{}, ops: map[Token]any{}}
}

func (p *toy) store(e entryMsg) {
	p.Submit("log", Append, 100, &opFunc{run: func() any { p.disk.log = append(p.disk.log, e.Text); return nil }})
	p.ops[p.Submit("log", Sync, 0, &opFunc{run: func() any { p.disk.synced = len(p.disk.log); return nil }})] = e
}

func (p *toy) ack(n int) {
	p.acks[n]++
	if p.acks[n] == 2 {
		p.Reply(p.waiting[n], n)
		p.Emit(history.NodeEvent{Kind: "hw", Offset: int64(n)})
	}
}

func (p *toy) Handle(ev Event) {
	switch ev := ev.(type) {
	case Started:
		for _, n := range p.Nodes() {
			if n != p.Node() {
				p.Connect(n, PeerChannel)
			}
		}
		p.SetWake(p.Now())
	case Wake:
		v, err := cryptorand.Int(cryptorand.Reader, big.NewInt(1<<40)) // as raft draws its timeouts
		if err != nil {
			panic(err)
		}
		for _, n := range p.Nodes() {
			if n != p.Node() {
				p.Send(n, PeerChannel, beat{v.Int64()})
			}
		}
		p.SetWake(p.Now() + 20*ms + time.Duration(v.Int64()%int64(10*ms)) + time.Duration(p.Rand("beat").IntN(1000)))
	case Request:
		p.next++
		p.waiting[p.next] = ev.ID
		e := entryMsg{p.next, fmt.Sprint(ev.Req)}
		p.store(e)
		for _, n := range p.Nodes() {
			if n != p.Node() {
				p.Send(n, PeerChannel, e)
			}
		}
	case Message:
		switch m := ev.Msg.(type) {
		case entryMsg:
			p.store(m)
		case ackMsg:
			p.ack(m.N)
		}
	case *StorageDone:
		if e, ok := p.ops[ev.Token].(entryMsg); ok {
			delete(p.ops, ev.Token)
			if p.Node() == "n1" {
				p.ack(e.N)
			} else {
				p.Send("n1", PeerChannel, ackMsg{e.N})
			}
		}
	case Terminate:
		p.Exit(0)
	}
}

// toyRun runs clients and faults against the toy and digests all that came of it.
func toyRun(t testing.TB, seed uint64, length time.Duration, trace func(TraceEvent)) (digest string, w *World) {
	o := DefaultOptions([]string{"n1", "n2", "n3"}, seed)
	o.Volume, o.Factory, o.Trace = newMemDisk, newToy, trace
	w, err := New(o)
	require.NoError(t, err)
	restore, err := w.InstallRandReader()
	require.NoError(t, err)
	defer restore()
	sum := sha256.New()
	w.Events(func(ev history.NodeEvent) { fmt.Fprintf(sum, "%+v\n", ev) })
	answered := 0
	err = w.Run(ctx, func() {
		require.NoError(t, w.Up(ctx))
		g := w.Group()
		for c := range 4 {
			g.Go("client", func() {
				for i := 0; w.Now() < length; i++ {
					resp, err := w.Call(ctx, fmt.Sprint("c", c), "n1", fmt.Sprintf("%d-%d", c, i), 500*ms)
					if err == nil {
						answered++
					}
					fmt.Fprintln(sum, w.Now(), resp, err)
					require.NoError(t, w.Sleep(ctx, 20*ms))
				}
			})
		}
		g.Go("nemesis", func() {
			r := w.Stream("nemesis")
			for i := 0; w.Now() < length; i++ {
				node := w.Nodes()[r.IntN(3)]
				require.NoError(t, w.Sleep(ctx, time.Duration(r.Int64N(int64(time.Second)))))
				hold := time.Duration(r.Int64N(int64(4 * time.Second)))
				var heal func() error
				switch r.IntN(4) {
				case 0:
					id := fmt.Sprint(i)
					other := []string{"n2", "n3", nemesis.Clients}[r.IntN(3)]
					cuts := []nemesis.Cut{{From: "n1", To: other}, {From: other, To: "n1"}}
					require.NoError(t, w.Network().Block(ctx, id, cuts[r.IntN(2):]))
					heal = func() error { return w.Network().Unblock(ctx, id) }
				case 1:
					require.NoError(t, w.Processes().Kill(ctx, node))
					heal = func() error { return w.Processes().Start(ctx, node) }
				case 2:
					require.NoError(t, w.Processes().Pause(ctx, node))
					heal = func() error { return w.Processes().Resume(ctx, node) }
				case 3:
					require.NoError(t, w.Disks().PowerLoss(ctx, []string{node}))
					heal = func() error { return w.Processes().Start(ctx, node) }
				}
				require.NoError(t, w.Sleep(ctx, hold))
				require.NoError(t, heal())
			}
		})
		g.Wait()
		obs, err := w.Network().Observe(ctx)
		require.NoError(t, err)
		fmt.Fprintln(sum, obs) // fmt prints maps in order
	})
	require.NoError(t, err)
	require.Empty(t, w.Crashes())
	for _, n := range w.nodes {
		fmt.Fprintln(sum, n.volume.Digest())
	}
	require.Positive(t, answered)
	return fmt.Sprintf("%x %s", sum.Sum(nil), w.TraceDigest()), w
}

func TestSameSeedSameHistory(t *testing.T) {
	digests := map[string]uint64{}
	for seed := range uint64(6) {
		former := runtime.GOMAXPROCS(1)
		var trace []TraceEvent
		a, _ := toyRun(t, seed, 15*time.Second, func(e TraceEvent) { trace = append(trace, e) })
		runtime.GOMAXPROCS(2)
		b, w := toyRun(t, seed, 15*time.Second, func(e TraceEvent) {
			if i := int(e.Number) - 1; i < len(trace) && trace[i] != e {
				require.Equal(t, trace[i], e, "the first event that differs")
			}
		})
		runtime.GOMAXPROCS(former)
		require.Equal(t, a, b, "seed %d", seed)
		require.Len(t, trace, int(w.Executed()))
		other, dup := digests[a]
		require.False(t, dup, "seeds %d and %d agree", seed, other)
		digests[a] = seed
	}
}

func TestStreamsAreIndependentOfEachOther(t *testing.T) {
	a := stream(1, "a")
	want := []uint64{a.Uint64(), a.Uint64()}
	a2, b := stream(1, "a"), stream(1, "b")
	require.NotEqual(t, want[0], b.Uint64())
	require.Equal(t, want, []uint64{a2.Uint64(), a2.Uint64()})
	require.NotEqual(t, want[0], stream(2, "a").Uint64())
}

func TestRandReaderIsGuarded(t *testing.T) {
	a, b := newRig(t, 1, nil, nil), newRig(t, 1, nil, nil)
	before := cryptorand.Reader
	restore, err := a.InstallRandReader()
	require.NoError(t, err)
	_, err = b.InstallRandReader()
	require.ErrorIs(t, err, ErrRandReaderTaken)
	draw := func() (out []int64) {
		for range 5 {
			v, err := cryptorand.Int(cryptorand.Reader, big.NewInt(1000))
			require.NoError(t, err)
			out = append(out, v.Int64())
		}
		return out
	}
	first := draw()
	restore()
	restore() // once is enough
	require.True(t, before == cryptorand.Reader)
	restore, err = b.InstallRandReader()
	require.NoError(t, err)
	defer restore()
	require.Equal(t, first, draw(), "same seed, same bytes")
}

func TestQueueIsOrdered(t *testing.T) {
	var q queue
	r := stream(1, "queue")
	type key struct {
		at  time.Duration
		gen uint64
	}
	var want, got []key
	slots := map[uint64]uint32{}
	for i := range uint64(5000) {
		k := key{time.Duration(r.IntN(500)), i}
		slots[i] = q.push(k.at, action{gen: i})
		want = append(want, k)
		if r.IntN(4) == 0 {
			j := r.IntN(len(want))
			q.remove(slots[want[j].gen])
			want = slices.Delete(want, j, j+1)
		}
		if len(want) == 0 {
			continue
		}
		if r.IntN(3) == 0 {
			at, a := q.pop()
			k := key{at, a.gen}
			j := 0
			for n := range want {
				if want[n].at < want[j].at {
					j = n
				}
			}
			require.Equal(t, want[j], k)
			want = slices.Delete(want, j, j+1)
		}
	}
	slices.SortStableFunc(want, func(a, b key) int { return int(a.at - b.at) })
	for q.len() > 0 {
		at, a := q.pop()
		got = append(got, key{at, a.gen})
	}
	require.Equal(t, want, got)
	require.Less(t, len(q.slots), 5000, "slots are used again")
}

// ticker wakes itself up at once, again and again.
type ticker struct {
	Host
	left int
}

func (p *ticker) Handle(Event) {
	if p.left--; p.left > 0 {
		p.SetWake(p.Now() + time.Microsecond)
	}
}

func benchWorld(b *testing.B, nodes int, f Factory) *World {
	var names []string
	for i := range nodes {
		names = append(names, fmt.Sprint("n", i+1))
	}
	o := DefaultOptions(names, 1)
	o.Volume, o.Factory = newMemDisk, f
	w, err := New(o)
	require.NoError(b, err)
	b.ResetTimer()
	return w
}

func perSecond(b *testing.B, w *World) {
	b.ReportMetric(float64(w.Executed())/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkWake(b *testing.B) {
	w := benchWorld(b, 1, func(h Host) Process { return &ticker{h, b.N} })
	require.NoError(b, w.Run(ctx, func() {
		require.NoError(b, w.Up(ctx))
		require.NoError(b, w.Sleep(ctx, time.Duration(b.N)*time.Microsecond))
	}))
	perSecond(b, w)
}

// pinger sends each message back.
type pinger struct {
	Host
	left, ups int
}

func (p *pinger) Handle(ev Event) {
	other := map[string]string{"n1": "n2", "n2": "n1"}[p.Node()]
	switch ev.(type) {
	case Started:
		p.Connect(other, PeerChannel)
	case LinkUp:
		if p.ups++; p.Node() == "n1" && p.ups == 2 { // both ways
			for range 64 {
				p.Send(other, PeerChannel, p)
			}
		}
	case Message:
		if p.left--; p.left > 0 {
			p.Send(other, PeerChannel, p)
		}
	}
}

func BenchmarkMessages(b *testing.B) {
	w := benchWorld(b, 2, func(h Host) Process { return &pinger{Host: h, left: b.N / 2} })
	require.NoError(b, w.Run(ctx, func() {
		require.NoError(b, w.Up(ctx))
		require.NoError(b, w.Sleep(ctx, 10*time.Second+time.Duration(b.N)*time.Millisecond/64))
	}))
	perSecond(b, w)
}

func BenchmarkSleep(b *testing.B) {
	w := benchWorld(b, 1, newToy)
	require.NoError(b, w.Run(ctx, func() {
		for range b.N {
			_ = w.Sleep(ctx, time.Microsecond)
		}
	}))
	perSecond(b, w)
}

// BenchmarkToy is a three-node cluster under faults, at about 160 calls per
// simulated second: what the simulator itself costs in a run.
func BenchmarkToy(b *testing.B) {
	var events uint64
	for i := range b.N {
		_, w := toyRun(b, uint64(i), time.Minute, nil)
		events += w.Executed()
	}
	b.ReportMetric(float64(b.N)*60/b.Elapsed().Seconds(), "sim-s/s")
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
}
