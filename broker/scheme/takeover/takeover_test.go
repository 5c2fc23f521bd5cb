package takeover

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemetest"
)

func settingsOf(t *testing.T, set map[string]string) scheme.Options {
	t.Helper()
	d := Definition()
	return schemetest.Options(t, set, slices.Concat(d.Options, d.Also))
}

// views are the nodes' own views of each other, as package peers keeps them: who was
// declared dead is of the cluster again once it has restarted, and a node that starts
// while nobody is up waits for those that it saw last.
type views struct {
	w       *schemetest.World
	members []broker.NodeID
	live    map[broker.NodeID][]broker.NodeID
	cut     map[broker.NodeID]bool // not reached by the others
	joined  map[broker.NodeID]bool
	rec     map[broker.NodeID]scheme.Record // as a node knows it, and tells one that joins
	disk    map[broker.NodeID]scheme.Record
	keeps   []keep // records that are not durable yet
	serial  int32
}

type keep struct {
	from broker.NodeID
	rec  scheme.Record
}

func newViews(n int, o scheme.Options) *views {
	v := &views{w: schemetest.NewWorld(n, New, o), live: map[broker.NodeID][]broker.NodeID{}, cut: map[broker.NodeID]bool{}, joined: map[broker.NodeID]bool{}, rec: map[broker.NodeID]scheme.Record{}, disk: map[broker.NodeID]scheme.Record{}}
	for _, n := range v.w.Nodes {
		v.members = append(v.members, n.ID)
	}
	v.w.Record = func(n *schemetest.Node, r scheme.Record) {
		v.rec[n.ID] = r
		v.keeps = append(v.keeps, keep{n.ID, r})
	}
	for _, n := range v.w.Nodes {
		v.rec[n.ID] = scheme.Record{Version: 1, Master: 1, Mirrors: []broker.NodeID{1}, Synced: []broker.NodeID{1}}
		v.disk[n.ID], v.live[n.ID], v.joined[n.ID] = v.rec[n.ID], v.members, true
		v.w.Boot(n)
	}
	v.tell()
	return v
}

// tell brings every node its view.
func (v *views) tell() {
	for _, n := range v.w.Nodes {
		if !n.Up || !v.joined[n.ID] {
			continue
		}
		v.serial++
		reached := []broker.NodeID{n.ID}
		for _, o := range v.w.Nodes {
			if o != n && o.Up && v.joined[o.ID] && !v.cut[o.ID] && !v.cut[n.ID] {
				reached = append(reached, o.ID)
			}
		}
		slices.Sort(reached)
		n.M.Assigned(scheme.Assignment{PartEpoch: v.serial, Peers: &scheme.Neighbours{
			Record: v.rec[n.ID], Home: 1, Members: v.members, Live: slices.Clone(v.live[n.ID]), Reached: reached, Session: 1,
		}})
	}
}

// durable makes the oldest record durable that is not yet, and tells the others.
func (v *views) durable() bool {
	if len(v.keeps) == 0 {
		return false
	}
	k := v.keeps[0]
	v.keeps = v.keeps[1:]
	v.disk[k.from] = k.rec
	for _, id := range v.live[k.from] {
		if id != k.from && slices.Contains(v.live[id], k.from) && k.rec.Newer(v.rec[id]) {
			v.rec[id], v.disk[id] = k.rec, k.rec
		}
	}
	if !slices.ContainsFunc(v.keeps, func(o keep) bool { return o.from == k.from }) { // the newest one is answered
		v.w.Node(k.from).M.ISRAnswer(0)
	}
	v.tell()
	return true
}

func (v *views) settle(t *testing.T, d time.Duration) {
	t.Helper()
	for range 50 {
		require.NoError(t, v.w.Settle())
		require.NoError(t, v.w.Pass(d/50))
		for v.durable() {
			require.NoError(t, v.w.Settle())
		}
	}
}

func (v *views) without(id, dead broker.NodeID) {
	v.live[id] = slices.DeleteFunc(slices.Clone(v.live[id]), func(o broker.NodeID) bool { return o == dead })
}

func (v *views) die(n *schemetest.Node, writes int) {
	v.w.Die(n, writes)
	v.joined[n.ID], v.rec[n.ID] = false, v.disk[n.ID]
	v.keeps = slices.DeleteFunc(v.keeps, func(k keep) bool { return k.from == n.ID })
	for _, o := range v.w.Nodes {
		if o.Up && v.joined[o.ID] {
			v.without(o.ID, n.ID)
		}
	}
	v.tell()
}

// part cuts a node off, and all of both sides declare each other dead.
func (v *views) part(n *schemetest.Node) {
	v.cut[n.ID] = true
	for _, o := range v.w.Nodes {
		if o != n {
			v.w.Cut(n.ID, o.ID, true)
			v.w.Cut(o.ID, n.ID, true)
			v.without(o.ID, n.ID)
			v.without(n.ID, o.ID)
		}
	}
	v.tell()
}

func (v *views) heal(n *schemetest.Node) {
	v.cut[n.ID] = false
	for _, o := range v.w.Nodes {
		if o != n {
			v.w.Cut(n.ID, o.ID, false)
			v.w.Cut(o.ID, n.ID, false)
		}
	}
	v.tell()
}

func (v *views) start(n *schemetest.Node) {
	v.w.Boot(n)
	for _, o := range v.w.Nodes {
		if o.Up && v.joined[o.ID] { // a running cluster: its word is newer
			v.rec[n.ID], v.disk[n.ID], v.joined[n.ID] = v.rec[o.ID], v.rec[o.ID], true
			v.live[n.ID] = append(slices.Clone(v.live[o.ID]), n.ID)
			for _, id := range v.live[o.ID] {
				v.live[id] = append(slices.Clone(v.live[id]), n.ID)
				slices.Sort(v.live[id])
			}
			slices.Sort(v.live[n.ID])
			v.tell()
			return
		}
	}
	v.form()
}

// form makes a cluster of nodes that wait, once one has all there that it saw last.
func (v *views) form() {
	for _, n := range v.w.Nodes {
		missing := slices.ContainsFunc(v.live[n.ID], func(id broker.NodeID) bool { return !v.w.Node(id).Up })
		if !n.Up || missing {
			continue
		}
		r := v.rec[n.ID]
		together := slices.Clone(v.live[n.ID])
		for _, id := range together {
			if v.rec[id].Newer(r) {
				r = v.rec[id]
			}
		}
		r.Mirrors, r.Synced, r.Version = []broker.NodeID{r.Master}, []broker.NodeID{r.Master}, r.Version+1
		for _, id := range together {
			v.rec[id], v.disk[id], v.joined[id], v.live[id] = r, r, true, slices.Clone(together)
		}
		v.tell()
		for _, o := range v.w.Nodes {
			if o.Up && !v.joined[o.ID] {
				v.joined[o.ID] = true
				v.rec[o.ID], v.disk[o.ID] = r, r
				for _, id := range together {
					v.live[id] = append(v.live[id], o.ID)
					slices.Sort(v.live[id])
				}
				v.live[o.ID] = slices.Clone(v.live[together[0]])
			}
		}
		v.tell()
		return
	}
}

// TestScripts runs the golden scripts of testdata. Beside World.Run's commands:
//
//	new [nodes=N] [set=(name:value,…)]  N (2) nodes; 1 has the main queue
//	crash N, start N                    the others learn of it at once
//	part N, meet N                      a node is cut off, and all take each other for dead; it is back, and they still do
//	pass D                              time passes, and records become durable
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var v *views
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var args []schemetest.Arg
			set := map[string]string{}
			for _, a := range d.CmdArgs {
				args = append(args, schemetest.Arg{Key: a.Key, Vals: a.Vals})
				for _, s := range a.Vals {
					if name, value, ok := strings.Cut(s, ":"); ok {
						set[name] = value
					}
				}
			}
			node := func() *schemetest.Node {
				return v.w.Node(broker.NodeID(args[0].Key[0] - '0'))
			}
			quietly := func(f func()) string {
				v.w.Quiet = true
				f()
				v.settle(t, 100*time.Millisecond)
				out, err := v.w.Run("run", nil)
				v.w.Quiet = false
				require.NoError(t, err)
				return out
			}
			switch d.Cmd {
			case "new":
				n := 2
				d.MaybeScanArgs(t, "nodes", &n)
				v = newViews(n, settingsOf(t, set))
				quietly(func() { v.settle(t, 2*time.Second) })
				return ""
			case "pass":
				length, err := time.ParseDuration(args[0].Key)
				require.NoError(t, err)
				return v.shown(func() { v.settle(t, length) })
			case "crash":
				return v.shown(func() { v.die(node(), node().Pending()); v.settle(t, 100*time.Millisecond) })
			case "start":
				return v.shown(func() { v.start(node()); v.settle(t, 100*time.Millisecond) })
			case "part":
				return v.shown(func() { v.part(node()); v.settle(t, 100*time.Millisecond) })
			case "meet":
				return v.shown(func() { v.heal(node()); v.settle(t, 100*time.Millisecond) })
			}
			out, err := v.w.Run(d.Cmd, args)
			require.NoError(t, err)
			return out
		})
	})
}

// shown is what nodes report meanwhile, without their messages.
func (v *views) shown(f func()) string {
	var b strings.Builder
	v.w.Quiet = true
	v.w.Emit = func(n *schemetest.Node, ev broker.Event) {
		fmt.Fprintf(&b, "%d: %s epoch=%d leader=%s", n.ID, ev.Kind, ev.Epoch, ev.Leader)
		if ev.Kind == "truncate" {
			fmt.Fprintf(&b, " removed=[%d,%d)", ev.From, ev.To)
		}
		b.WriteString("\n")
	}
	f()
	v.w.Quiet, v.w.Emit = false, nil
	return b.String()
}

// schedule runs a random schedule of deaths over a main queue and its backup. It returns
// the first acknowledged message that is not there in the end.
func schedule(t *testing.T, seed int, o scheme.Options, total map[string]int) (lost string) {
	t.Helper()
	rnd := rand.New(rand.NewSource(int64(seed)))
	v := newViews(2, o)
	w := v.w
	w.Quiet = true
	w.Emit = func(_ *schemetest.Node, ev broker.Event) { total[ev.Kind]++ }
	acked := map[int64]string{}
	w.Answer = func(_ *schemetest.Node, token uint64, p scheme.Produced) {
		if p.Code == 0 {
			total["acknowledged"]++
			acked[p.Base] = w.Values[token]
		}
	}
	for i := range 800 {
		n := w.Nodes[rnd.Intn(2)]
		switch k := rnd.Intn(200); {
		case k < 90 && len(w.Wires) > 0:
			w.Deliver(0)
		case k < 120:
			w.Store(n)
		case k < 140:
			w.Now.Mono += time.Duration(rnd.Intn(400)) * time.Millisecond
			w.WakeDue()
		case k < 155:
			v.durable()
		case k < 195:
			if n.Up && n.M.View().Writable {
				w.Produce(n, fmt.Sprint("v", i), -1, time.Second)
			}
		case n.Up:
			total["died"]++
			v.die(n, rnd.Intn(n.Pending()+1))
		default:
			v.start(n)
		}
	}
	for _, n := range w.Nodes {
		if !n.Up {
			v.start(n)
		}
	}
	v.settle(t, 20*time.Second)
	var log []string
	for _, n := range w.Nodes {
		if n.M.View().Writable {
			require.Nil(t, log, "seed %d: two are active", seed)
			log = append([]string{}, n.Records()...)
		}
	}
	require.NotNil(t, log, "seed %d: nobody is active", seed)
	for at, value := range acked {
		if len(log) <= int(at) || !strings.HasPrefix(log[at], value+"@") {
			return fmt.Sprintf("%s at offset %d", value, at)
		}
	}
	return ""
}

var sound = map[string]string{dataOption: "sync", restoreOption: resync}

// TestRandom: with copies made synchronously and a restore after catching up, deaths alone
// lose nothing, and somebody is active in the end.
func TestRandom(t *testing.T) {
	seeds := 400
	if testing.Short() {
		seeds = 80
	}
	for _, fencing := range []string{"none", "epoch"} {
		total := map[string]int{}
		for seed := range seeds {
			set := map[string]string{dataOption: "sync", restoreOption: resync, fencingOption: fencing}
			require.Empty(t, schedule(t, seed, settingsOf(t, set), total), "seed %d, fencing %s: an acknowledged message is lost", seed, fencing)
		}
		t.Log(fencing, total)
		for _, k := range []string{"acknowledged", "died", "takeover", "restore"} {
			require.Greater(t, total[k], seeds/8, "%s: the schedule is too tame: %v", k, total)
		}
	}
}

// TestRandomConvicts: the same schedules lose messages where less is done, and under the
// seeded bug.
func TestRandomConvicts(t *testing.T) {
	cases := []map[string]string{{dataOption: "none"}, {dataOption: "async", restoreOption: resync}, {dataOption: "sync"}}
	mutants := []string{"", "", ""}
	if mutant.Enabled {
		cases, mutants = append(cases, sound), append(mutants, "blind-restore")
	}
	for i, set := range cases {
		t.Run(fmt.Sprint(set, mutants[i]), func(t *testing.T) {
			o := settingsOf(t, set)
			var err error
			o.Mutants, err = mutant.Parse(mutants[i])
			require.NoError(t, err)
			for seed := range 500 {
				if lost := schedule(t, seed, o, map[string]int{}); lost != "" {
					t.Logf("seed %d lost %s", seed, lost)
					return
				}
			}
			t.Fatal("nothing is lost")
		})
	}
}

func TestPromise(t *testing.T) {
	d := Definition()
	deaths := scheme.Faults{Nodes: 2, Replicas: 2, Planned: true, Deaths: 2}
	cut := scheme.Faults{Nodes: 3, Replicas: 2, Planned: true, Cuts: 1}
	for _, c := range []struct {
		name   string
		set    map[string]string
		f      scheme.Faults
		acked  bool
		copies int
		from   scheme.Metadata
	}{
		{"the article", nil, deaths, false, 1, scheme.Peers},
		{"copies, blind", map[string]string{dataOption: "sync"}, deaths, false, 2, scheme.Peers},
		{"copies, resynchronised", sound, deaths, true, 2, scheme.Peers},
		{"copies, resynchronised, cut off", sound, cut, false, 2, scheme.Peers},
		{"behind", map[string]string{dataOption: "async", restoreOption: resync}, deaths, false, 2, scheme.Peers},
		{"several at once", map[string]string{dataOption: "sync", restoreOption: resync, extentOption: "cluster"}, deaths, false, 3, scheme.Peers},
		{"a witness", map[string]string{dataOption: "sync", fencingOption: "witness"}, cut, true, 2, scheme.Raft},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := settingsOf(t, c.set).Set
			require.Equal(t, c.acked, d.Promise(o, c.f).Acknowledged)
			require.Equal(t, c.copies, d.Copies(o, 3))
			require.Equal(t, c.from, d.MetadataUnder(o))
		})
	}
}

func TestCheck(t *testing.T) {
	d := Definition()
	for _, set := range []map[string]string{
		{fencingOption: "witness"},
		{fencingOption: "witness", dataOption: "sync", rerouteOption: "proxy"},
		{fencingOption: "witness", dataOption: "sync", managerOption: "n3"},
	} {
		require.ErrorContains(t, d.Check(settingsOf(t, set).Set), "witness")
	}
	require.NoError(t, d.Check(settingsOf(t, map[string]string{fencingOption: "witness", dataOption: "sync"}).Set))
}
