package quorum

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemetest"
)

func settings(t *testing.T) scheme.Options {
	t.Helper()
	o := scheme.DefaultOptions()
	var err error
	o.Set, err = options.Resolve(nil, Definition().Options...)
	require.NoError(t, err)
	return o
}

func word(msg broker.Message) string {
	switch m := msg.(type) {
	case *Vote:
		what := "vote"
		if m.Pre {
			what = "pre-vote"
		}
		if m.Transfer {
			what += " (handed over)"
		}
		return fmt.Sprintf("%s? term %d, log ends at %d in term %d", what, m.Term, m.End, m.LastTerm)
	case *VoteAnswer:
		what := map[bool]string{true: "pre-vote", false: "vote"}[m.Pre]
		return fmt.Sprintf("%s in term %d: %v, term is %d", what, m.Term, map[bool]string{true: "yes", false: "no"}[m.Granted], m.Current)
	case *Lead:
		return fmt.Sprintf("lead term %d, from %d", m.Term, m.Start)
	case *LeadAnswer:
		return fmt.Sprintf("term %d, %s", m.Term, map[bool]string{true: "holds its beginning", false: "not there yet"}[m.Holds])
	case *Ask:
		return fmt.Sprintf("who are you? I am %s", m.Dir)
	case *Tell:
		what := "no member"
		if len(m.Founders) > 0 {
			what = "a member"
		}
		if m.Leads {
			what += fmt.Sprintf(", leads, log ends at %d", m.End)
		}
		return fmt.Sprintf("I am %s, term %d, %s", m.Dir, m.Term, what)
	case *Take:
		return fmt.Sprintf("take over from term %d", m.Term)
	}
	return fmt.Sprintf("%T", msg)
}

// TestScripts runs the golden scripts of testdata (schemetest.World.Run has the
// commands). new [nodes=N] makes N replicas that nobody leads yet; unfounded: they do not
// know each other either.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var w *schemetest.World
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "new" {
				n := 3
				d.MaybeScanArgs(t, "nodes", &n)
				w = schemetest.NewWorld(n, New, settings(t))
				w.Text = word
				w.Report = func(n *schemetest.Node, epoch int32, inSync []broker.NodeID) {
					w.Printf("%d reports: leads term %d, in sync %v\n", n.ID, epoch, inSync)
					w.Assign(func(a *scheme.Assignment) { a.Leader, a.Epoch, a.ISR = n.ID, epoch, inSync })
				}
				for _, n := range w.Nodes {
					w.Boot(n)
				}
				if !d.HasArg("unfounded") {
					require.NoError(t, w.Settle())
				}
				return ""
			}
			var args []schemetest.Arg
			for _, a := range d.CmdArgs {
				args = append(args, schemetest.Arg{Key: a.Key, Vals: a.Vals})
			}
			out, err := w.Run(d.Cmd, args)
			require.NoError(t, err)
			return out
		})
	})
}

// chaos is a world under a random schedule.
type chaos struct {
	*schemetest.World
	t       *testing.T
	rnd     *rand.Rand
	acked   map[int64]string // offset → value
	leaders map[int32]broker.NodeID
	visible []string // what a consumer may have read, in order
	moves   map[string]int
	values  int
	wipes   wipes
	lost    map[broker.NodeID]bool // whose disk was lost since it was a member
}

// wipes is which disks a schedule loses.
type wipes uint8

const (
	none     wipes = iota
	minority       // never a majority at once
	majority       // any, but not all
)

// TestSafety: whatever dies, loses its power or is cut off: one term has one leader
// (election safety), what was acknowledged or visible stays where it was (leader
// completeness, state machine safety), and logs with an equal record are equal
// before it (log matching). When all is quiet again, everybody has the same log and
// takes writes.
func TestSafety(t *testing.T) { schedules(t, none, "truncate", "handed over") }

// TestLostDisks: the same where disks are lost, of a minority at once.
func TestLostDisks(t *testing.T) { schedules(t, minority, "wiped", "refilled") }

// TestLostMajority: where a majority loses its disks nobody leads again, and nothing that
// was committed is contradicted.
func TestLostMajority(t *testing.T) { schedules(t, majority, "wiped", "lost for good") }

func schedules(t *testing.T, w wipes, moves ...string) {
	t.Helper()
	seeds := 500
	if testing.Short() {
		seeds = 100
	}
	total := map[string]int{}
	for seed := range seeds {
		x := newChaos(t, int64(seed))
		x.wipes = w
		for i := range 800 {
			x.step()
			if i%8 == 0 {
				x.observe()
			}
		}
		x.recover()
		for k, n := range x.moves {
			total[k] += n
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Log(total)
	for _, k := range append([]string{"acknowledged", "leader", "died"}, moves...) {
		require.Greater(t, total[k], seeds/4, "%s: the schedule is too tame: %v", k, total)
	}
}

func newChaos(t *testing.T, seed int64) *chaos {
	rnd := rand.New(rand.NewSource(seed))
	x := &chaos{
		World: schemetest.NewWorld([]int{3, 3, 5}[rnd.Intn(3)], New, settings(t)),
		t:     t, rnd: rnd, acked: map[int64]string{}, leaders: map[int32]broker.NodeID{}, moves: map[string]int{}, lost: map[broker.NodeID]bool{},
	}
	x.Quiet = true
	x.Answer = func(_ *schemetest.Node, token uint64, p scheme.Produced) {
		if p.Code == 0 {
			x.moves["acknowledged"]++
			old, ok := x.acked[p.Base]
			require.False(t, ok && old != x.Values[token], "seed %d: offset %d: acknowledged %q after %q", seed, p.Base, x.Values[token], old)
			x.acked[p.Base] = x.Values[token]
		}
	}
	x.Emit = func(n *schemetest.Node, ev broker.Event) {
		x.moves[ev.Kind]++
		if ev.Kind == "leader" {
			old, ok := x.leaders[ev.Epoch]
			require.False(t, ok, "seed %d: term %d has two leaders: %d after %d", seed, ev.Epoch, n.ID, old)
			x.leaders[ev.Epoch] = n.ID
		}
	}
	for _, n := range x.Nodes {
		x.Boot(n)
	}
	if rnd.Intn(4) > 0 { // most often the group is founded in peace
		require.NoError(t, x.Settle())
	}
	return x
}

func (x *chaos) any() *schemetest.Node { return x.Nodes[x.rnd.Intn(len(x.Nodes))] }

func (x *chaos) step() {
	switch k := x.rnd.Intn(100); {
	case k < 45 && len(x.Wires) > 0:
		i := 0
		if x.rnd.Intn(10) == 0 {
			i = x.rnd.Intn(len(x.Wires)) // another stream's: they are in order each
			first := slices.IndexFunc(x.Wires, func(e schemetest.Envelope) bool { return e.From == x.Wires[i].From && e.To == x.Wires[i].To })
			i = first
		}
		x.World.Deliver(i)
	case k < 60:
		x.Store(x.any())
	case k < 75:
		x.Now.Mono += time.Duration(x.rnd.Intn(300)) * time.Millisecond
		x.WakeDue()
	case k < 88:
		for _, n := range x.Nodes { // whoever believes that it leads gets a write
			if n.Up && n.M.View().Writable {
				x.values++
				x.Produce(n, fmt.Sprint("v", x.values), -1, time.Second)
			}
		}
	case k < 91:
		n := x.any()
		if n.Up {
			x.moves["died"]++
			x.Die(n, x.rnd.Intn(n.Pending()+1))
			x.wipe(n)
		} else {
			x.Boot(n)
		}
	case k < 93:
		for _, n := range x.Nodes {
			if !n.Up {
				x.Boot(n)
			}
		}
	case k < 96:
		a, b := x.any(), x.any()
		if a != b {
			x.World.Cut(a.ID, b.ID, x.rnd.Intn(2) == 0)
		}
	case k < 97:
		for _, a := range x.Nodes {
			for _, b := range x.Nodes {
				if a != b {
					x.World.Cut(a.ID, b.ID, false)
				}
			}
		}
	case k < 98:
		n := x.any()
		if n.Up && n.M.View().Writable {
			x.moves["handed over"]++
			n.M.(scheme.Resigner).Resign()
		}
	}
}

// wipe loses the disk of a replica that is down, if the schedule does that.
func (x *chaos) wipe(n *schemetest.Node) {
	if x.wipes == none || x.rnd.Intn(3) > 0 {
		return
	}
	lost := 1
	for _, o := range x.Nodes {
		if o.Up && o.M.(*Machine).member() && !o.M.(*Machine).h.Persisting() {
			x.lost[o.ID] = false
		}
		if o != n && x.lost[o.ID] {
			lost++
		}
	}
	most := (len(x.Nodes) - 1) / 2
	if x.wipes == majority {
		most = len(x.Nodes) - 1
	}
	if lost <= most {
		x.moves["wiped"]++
		x.lost[n.ID] = true
		x.Wipe(n)
	}
}

// members are those that are up and remember what they said.
func (x *chaos) members() int {
	n := 0
	for _, o := range x.Nodes {
		if o.Up && o.M.(*Machine).member() {
			n++
		}
	}
	return n
}

// observe checks what must hold at every moment.
func (x *chaos) observe() {
	for _, n := range x.Nodes {
		if !n.Up {
			continue
		}
		log := n.Records()
		high := n.M.High()
		require.LessOrEqual(x.t, high, int64(len(log)))
		for at, r := range log[:high] {
			if at == len(x.visible) {
				x.visible = append(x.visible, r)
			}
			require.Equal(x.t, x.visible[at], r, "offset %d of %d differs from what was committed", at, n.ID)
		}
		for _, o := range x.Nodes {
			if o.Up {
				matching(x.t, log, o.Records())
			}
		}
	}
	for at, v := range x.acked { // a leader may have died before another knew what was committed
		if int(at) < len(x.visible) {
			require.Contains(x.t, x.visible[at], v+"@", "offset %d was acknowledged as something else", at)
		}
	}
}

// matching: where two logs have the same record of the same term, they are equal up
// to it.
func matching(t *testing.T, a, b []string) {
	t.Helper()
	for i := min(len(a), len(b)) - 1; i >= 0; i-- {
		if a[i] == b[i] {
			require.Equal(t, a[:i], b[:i])
			return
		}
	}
}

func (x *chaos) recover() {
	for _, a := range x.Nodes {
		for _, b := range x.Nodes {
			if a != b {
				x.World.Cut(a.ID, b.ID, false)
			}
		}
	}
	for _, n := range x.Nodes { // those that resigned never stand again
		if n.Up {
			x.Die(n, n.Pending())
		}
	}
	for _, n := range x.Nodes {
		x.Boot(n)
	}
	require.NoError(x.t, x.Pass(20*time.Second))
	x.observe()
	i := slices.IndexFunc(x.Nodes, func(n *schemetest.Node) bool { return n.M.View().Writable })
	if x.wipes == majority && 2*x.members() <= len(x.Nodes) {
		x.moves["lost for good"]++
		require.Negative(x.t, i, "a minority leads")
		return
	}
	require.GreaterOrEqual(x.t, i, 0, "nobody leads")
	token := x.Produce(x.Nodes[i], "last", -1, time.Second)
	require.NoError(x.t, x.Pass(2*time.Second))
	require.Contains(x.t, x.acked, int64(len(x.Nodes[i].Records())-1))
	require.Equal(x.t, "last", x.Values[token])
	x.observe()
	for at := range x.acked {
		require.Less(x.t, int(at), len(x.visible), "offset %d was acknowledged and is gone", at)
	}
	for _, n := range x.Nodes {
		require.Equal(x.t, x.Nodes[i].Records(), n.Records())
		require.Equal(x.t, int64(len(n.Records())), n.M.High())
		require.Len(x.t, x.Nodes[i].M.View().InSync, len(x.Nodes), "in sync")
	}
}

func TestState(t *testing.T) {
	founders := []Founder{{1, "1.101"}, {2, "2.102"}, {3, ""}}
	for _, s := range []state{
		{0, broker.None, nothing, "1.101", nil}, {7, 2, beginning{7, 100}, "d", founders}, {7, broker.None, beginning{3, 0}, "d", founders[:1]},
	} {
		got, err := decode(s.encode())
		require.NoError(t, err)
		require.Equal(t, s, got)
		for n := 1; n < len(s.encode()); n++ {
			_, err := decode(s.encode()[:n])
			require.Error(t, err, "the first %d bytes", n)
		}
	}
	empty, err := decode(nil)
	require.NoError(t, err)
	require.Equal(t, state{0, broker.None, nothing, "", nil}, empty)
	for _, bad := range [][]byte{
		{1}, make([]byte, stateSize+1), state{1, 1, beginning{2, 0}, "d", nil}.encode(), state{-1, 1, nothing, "d", nil}.encode(), state{1, 1, nothing, "", nil}.encode(),
	} {
		_, err := decode(bad)
		require.Error(t, err)
	}
}

func FuzzState(f *testing.F) {
	f.Add(state{7, 2, beginning{7, 100}, "1.101", []Founder{{1, "1.101"}, {2, "2.102"}}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decode(b); err == nil && len(b) > 0 {
			require.Equal(t, b, s.encode())
		}
	})
}
