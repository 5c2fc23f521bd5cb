package combined

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemetest"
)

func all() []options.Option {
	d := Definition()
	return slices.Concat(d.Options, d.Also)
}

func settingsOf(t *testing.T, set map[string]string) scheme.Options {
	t.Helper()
	return schemetest.Options(t, set, all())
}

// TestScripts runs the golden scripts of testdata: 1 is the master and all are in sync.
func TestScripts(t *testing.T) { schemetest.Scripts(t, New, all()) }

var safe = map[string]string{"enableControllerMode": "true", "allAckInSyncStateSet": "true", "minInSyncReplicas": "2"}

// schedule runs a random schedule over three replicas and a controller that takes its
// time. It returns what came to pass, and the first acknowledged message that is not
// there in the end.
func schedule(t *testing.T, seed int, o scheme.Options, total map[string]int) (lost string) {
	t.Helper()
	rnd := rand.New(rand.NewSource(int64(seed)))
	w := schemetest.NewWorld(3, New, o)
	w.A.Leader, w.A.Epoch, w.A.PartEpoch, w.A.ISR = 1, 1, 1, slices.Clone(w.A.Replicas)
	w.Quiet = true
	w.Emit = func(_ *schemetest.Node, ev broker.Event) { total[ev.Kind]++ }
	acked := map[int64]string{}
	w.Answer = func(_ *schemetest.Node, token uint64, p scheme.Produced) {
		if p.Code == 0 {
			total["acknowledged"]++
			acked[p.Base] = w.Values[token]
		}
	}
	c := controller{w: w}
	w.Propose = c.propose
	for _, n := range w.Nodes {
		w.Boot(n)
	}
	for i := range 800 {
		n := w.Nodes[rnd.Intn(3)]
		switch k := rnd.Intn(100); {
		case k < 50 && len(w.Wires) > 0:
			w.Deliver(0)
		case k < 65:
			w.Store(n)
		case k < 72:
			w.Now.Mono += time.Duration(rnd.Intn(300)) * time.Millisecond
			w.WakeDue()
		case k < 76:
			c.decide()
		case k < 79:
			c.tell(n)
		case k < 97:
			if leader := w.A.Leader; leader != broker.None && w.Node(leader).Up {
				w.Produce(w.Node(leader), fmt.Sprint("v", i), -1, time.Second)
			}
		case n.Up && len(c.up()) > 1:
			total["died"]++
			w.Die(n, rnd.Intn(n.Pending()+1))
			c.gone(n.ID)
		case !n.Up:
			w.Boot(n)
			c.back(n.ID)
		}
	}
	for _, n := range w.Nodes {
		if !n.Up {
			w.Boot(n)
			c.back(n.ID)
		}
		c.tell(n)
	}
	for range 10 {
		c.decide()
		for _, n := range w.Nodes {
			c.tell(n)
		}
		require.NoError(t, w.Pass(time.Second), "seed %d", seed)
	}
	log := w.Node(w.A.Leader).Records()
	for at, v := range acked {
		if len(log) <= int(at) || !strings.HasPrefix(log[at], v+"@") {
			return fmt.Sprintf("%s at offset %d", v, at)
		}
	}
	for _, n := range w.Nodes {
		require.Equal(t, log, n.Records(), "seed %d: %d differs", seed, n.ID)
	}
	return ""
}

// controller decides in its own time, and each replica learns of it when it is told.
type controller struct {
	w       *schemetest.World
	pending []proposal
}

type proposal struct {
	from             broker.NodeID
	epoch, partEpoch int32
	isr              []broker.NodeID
}

func (c *controller) propose(n *schemetest.Node, epoch, partEpoch int32, isr []scheme.Member) {
	p := proposal{from: n.ID, epoch: epoch, partEpoch: partEpoch}
	for _, m := range isr {
		p.isr = append(p.isr, m.ID)
	}
	c.pending = append(c.pending, p)
}

// decide takes the oldest proposal, or refuses it.
func (c *controller) decide() {
	if len(c.pending) == 0 {
		return
	}
	p := c.pending[0]
	c.pending = c.pending[1:]
	a := &c.w.A
	alive := !slices.ContainsFunc(p.isr, func(id broker.NodeID) bool { return !c.w.Node(id).Up })
	if p.epoch == a.Epoch && p.partEpoch == a.PartEpoch && p.from == a.Leader && alive {
		a.ISR = p.isr
		a.PartEpoch++
	}
}

// tell brings a replica what was decided. What it proposed before is answered by that.
func (c *controller) tell(n *schemetest.Node) {
	if n.Up {
		n.M.Assigned(c.w.A)
		if !slices.ContainsFunc(c.pending, func(p proposal) bool { return p.from == n.ID }) {
			n.M.ISRAnswer(0)
		}
	}
}

func (c *controller) up() (ids []broker.NodeID) {
	for _, n := range c.w.Nodes {
		if n.Up {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// gone takes a dead replica out of the in-sync set, and elects.
func (c *controller) gone(id broker.NodeID) {
	a := &c.w.A
	if len(a.ISR) > 1 {
		a.ISR = slices.DeleteFunc(slices.Clone(a.ISR), func(o broker.NodeID) bool { return o == id })
	}
	c.elect(id)
}

func (c *controller) elect(dead broker.NodeID) {
	a := &c.w.A
	if a.Leader == dead || a.Leader == broker.None {
		next := broker.None
		for _, o := range a.ISR {
			if c.w.Node(o).Up {
				next = o
				break
			}
		}
		a.Leader, a.Epoch = next, a.Epoch+1
	}
	a.PartEpoch++
}

// back lets a replica in that was away: the last one in sync leads again.
func (c *controller) back(broker.NodeID) {
	if c.w.A.Leader == broker.None {
		c.elect(broker.None)
	}
}

// TestRandom: what all in sync have acknowledged is there in the end, whoever dies.
func TestRandom(t *testing.T) {
	seeds := 500
	if testing.Short() {
		seeds = 100
	}
	total := map[string]int{}
	for seed := range seeds {
		require.Empty(t, schedule(t, seed, settingsOf(t, safe), total), "seed %d: an acknowledged message is lost", seed)
	}
	t.Log(total)
	for _, k := range []string{"acknowledged", "died", "leader", "isr", "truncate"} {
		require.Greater(t, total[k], seeds/4, "%s: the schedule is too tame: %v", k, total)
	}
}

// TestRandomConvicts: the same schedules lose messages with the defaults, and under each
// seeded bug.
func TestRandomConvicts(t *testing.T) {
	cases := map[string]string{"defaults": ""}
	if mutant.Enabled {
		for _, name := range []string{"sync-state-set-after-reply", "master-begins-at-confirmed-offset"} {
			cases[name] = name
		}
	}
	for name, m := range cases {
		t.Run(name, func(t *testing.T) {
			o := settingsOf(t, safe)
			if m == "" {
				o = settingsOf(t, map[string]string{"enableControllerMode": "true"})
			}
			var err error
			o.Mutants, err = mutant.Parse(m)
			require.NoError(t, err)
			for seed := range 2000 {
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
	lost := scheme.Faults{Nodes: 3, Replicas: 3, Planned: true, Losses: []scheme.Loss{{Kind: scheme.LostDisk, Nodes: 1, Alone: true, Down: 1}}}
	calm := scheme.Faults{Nodes: 3, Replicas: 3, Planned: true}
	for _, c := range []struct {
		name            string
		set             map[string]string
		f               scheme.Faults
		acked, recovers bool
		copies          int
	}{
		{"2m-2s", nil, calm, true, true, 2},
		{"2m-2s, a disk is lost", nil, lost, false, false, 2},
		{"a controller's defaults", map[string]string{"enableControllerMode": "true"}, calm, false, true, 3},
		{"all in sync, two at least", safe, lost, true, true, 3},
		{"unclean", map[string]string{"enableControllerMode": "true", "allAckInSyncStateSet": "true", "minInSyncReplicas": "2", uncleanOption: "true"}, calm, false, true, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := settingsOf(t, c.set).Set
			p := d.Promise(o, c.f)
			require.Equal(t, []bool{c.acked, c.recovers}, []bool{p.Acknowledged, p.Recovers})
			require.Equal(t, c.copies, d.Copies(o, 5))
		})
	}
}
