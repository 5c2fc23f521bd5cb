package standby

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemetest"
)

func settingsOf(t *testing.T, set map[string]string) scheme.Options {
	t.Helper()
	return schemetest.Options(t, set, Definition().Options)
}

// TestScripts runs the golden scripts of testdata: 1 is the master and all are in sync.
func TestScripts(t *testing.T) { schemetest.Scripts(t, New, Definition().Options) }

// TestRandom: with its master fixed and no disk lost, everything that was acknowledged
// is there in the end, under every rule of acknowledgement, and slaves have nothing
// else; and an answer of two copies means that two had it.
func TestRandom(t *testing.T) {
	seeds := 600
	if testing.Short() {
		seeds = 60
	}
	total := map[string]int{}
	for seed := range seeds {
		rnd := rand.New(rand.NewSource(int64(seed)))
		set := [...]map[string]string{
			nil,
			{roleOption: "SYNC_MASTER"},
			{roleOption: "SYNC_MASTER", inSyncOption: "2"},
			{roleOption: "SYNC_MASTER", inSyncOption: "3", autoOption: "true", minOption: "2"},
		}[rnd.Intn(4)]
		w := schemetest.NewWorld(3, New, settingsOf(t, set))
		w.A.Leader, w.A.Epoch, w.A.PartEpoch, w.A.ISR = 1, 1, 1, slices.Clone(w.A.Replicas)
		w.Quiet = true
		w.Emit = func(_ *schemetest.Node, ev broker.Event) { total[ev.Kind]++ }
		acked := map[int64]string{}
		w.Answer = func(n *schemetest.Node, token uint64, p scheme.Produced) {
			if p.Code != 0 {
				return
			}
			total["acknowledged"]++
			acked[p.Base] = w.Values[token]
			if set[inSyncOption] == "2" {
				copies := 0
				for _, o := range w.Nodes {
					if o.Up && len(o.Records()) > int(p.Base) && strings.HasPrefix(o.Records()[p.Base], w.Values[token]+"@") {
						copies++
					}
				}
				// A slave may have died since it confirmed; the master cannot know.
				if copies < 2 {
					total["alone"]++
				}
			}
		}
		for _, n := range w.Nodes {
			w.Boot(n)
		}
		dead := 0
		for i := range 600 {
			switch k := rnd.Intn(100); {
			case k < 50 && len(w.Wires) > 0:
				w.Deliver(0)
			case k < 65:
				w.Store(w.Nodes[rnd.Intn(3)])
			case k < 75:
				w.Now.Mono += time.Duration(rnd.Intn(200)) * time.Millisecond
				w.WakeDue()
			case k < 95:
				if w.Nodes[0].Up {
					w.Produce(w.Nodes[0], fmt.Sprint("v", i), -1, time.Second)
				}
			case k < 97:
				n := w.Nodes[rnd.Intn(3)]
				if !n.Up {
					reboot(w, n)
					break
				}
				dead++
				w.Die(n, rnd.Intn(n.Pending()+1))
				if n.ID == 1 {
					w.Assign(func(a *scheme.Assignment) { a.Leader, a.Epoch = broker.None, a.Epoch+1 })
				}
			}
		}
		for _, n := range w.Nodes {
			if !n.Up {
				reboot(w, n)
			}
		}
		require.NoError(t, w.Pass(10*time.Second), "seed %d", seed)
		log := w.Nodes[0].Records()
		for at, v := range acked {
			require.Greater(t, len(log), int(at), "seed %d: offset %d is gone", seed, at)
			require.True(t, strings.HasPrefix(log[at], v+"@"), "seed %d: offset %d holds %s, acknowledged was %s", seed, at, log[at], v)
		}
		for _, n := range w.Nodes {
			require.Equal(t, log, n.Records(), "seed %d: %d differs", seed, n.ID)
		}
		total["died"] += dead
	}
	t.Log(total)
	require.Less(t, total["alone"], total["acknowledged"]/20)
	for _, k := range []string{"acknowledged", "died", "truncate"} {
		require.Greater(t, total[k], seeds/4, "%s: the schedule is too tame: %v", k, total)
	}
}

// reboot starts a node, and lets the master lead again.
func reboot(w *schemetest.World, n *schemetest.Node) {
	w.Boot(n)
	if n.ID == 1 {
		w.Assign(func(a *scheme.Assignment) { a.Leader, a.Epoch = 1, a.Epoch+1 })
	}
}

func TestPromise(t *testing.T) {
	lost := scheme.Faults{Nodes: 3, Replicas: 3, Planned: true, Losses: []scheme.Loss{{Kind: scheme.LostDisk, Nodes: 1, Alone: true, Down: 1}}}
	calm := scheme.Faults{Nodes: 3, Replicas: 3, Planned: true}
	for _, c := range []struct {
		name            string
		set             map[string]string
		f               scheme.Faults
		acked, reads    bool
		fresh, recovers bool
	}{
		{"async, its disk stays", nil, calm, true, true, true, true},
		{"async, a disk is lost", nil, lost, false, false, false, false},
		{"slaves are read", map[string]string{readOption: "true"}, calm, true, false, false, true},
		{"async with a controller", map[string]string{controllerOption: "true"}, calm, false, false, false, true},
		{"sync by default of two", map[string]string{controllerOption: "true", roleOption: "SYNC_MASTER"}, calm, false, false, false, true},
		{"two of three copies", map[string]string{controllerOption: "true", roleOption: "SYNC_MASTER", inSyncOption: "2"}, calm, false, false, false, true},
		{"all copies", map[string]string{controllerOption: "true", roleOption: "SYNC_MASTER", inSyncOption: "3"}, lost, true, false, false, true},
		{"all copies, degrading", map[string]string{controllerOption: "true", roleOption: "SYNC_MASTER", inSyncOption: "3", autoOption: "true"}, lost, false, false, false, true},
		{"all in sync", map[string]string{controllerOption: "true", roleOption: "SYNC_MASTER", allOption: "true"}, calm, true, true, false, true},
		{"all in sync, may be one", map[string]string{controllerOption: "true", roleOption: "SYNC_MASTER", allOption: "true"}, lost, false, false, false, false},
		{"all in sync, two at least", map[string]string{controllerOption: "true", roleOption: "SYNC_MASTER", allOption: "true", minOption: "2"}, lost, true, true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := promise(settingsOf(t, c.set).Set, c.f)
			require.Equal(t, []bool{c.acked, c.reads, c.fresh, c.recovers}, []bool{p.Acknowledged, p.CommittedReads, p.Fresh, p.Recovers})
		})
	}
}
