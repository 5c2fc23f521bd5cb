package nemesis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// world is a cluster in memory on a virtual clock. Tests sabotage it through
// its fields and through at.
type world struct {
	now   time.Duration
	hooks []hook

	nodes  []string
	reach  map[Pair]Reach
	inAir  map[Pair]uint64 // nonces on their way: they take one interval
	ticked time.Duration
	sets   map[string][]Cut
	drops  map[string]map[Cut]uint64
	boots  map[string]string
	procs  map[string]ProcessState
	files  map[string]map[string]bool // node → canary → synced
	keys   []string
	leader map[string]string
	nextID int

	applies   func(Cut) bool // whether a cut takes effect; nil: all do
	overcut   func(Pair) bool
	silent    bool // the system sends nothing of its own
	mute      string
	sticky    bool // Unblock removes nothing from the wire
	deafs     map[string]bool
	killNoop  map[string]bool
	pauseNoop map[string]bool
	startNoop bool
	crashes   bool // a started process dies at once
	stopCode  int
	stopHangs bool
	tooGentle bool // power loss keeps unsynced data
	tooRough  bool // power loss takes synced data
	fail      map[string]error

	hardware
	office
	shell    fakeShell
	noSpares bool

	events []history.Fault
}

type hook struct {
	at time.Duration
	do func()
}

func newWorld(n int) *world {
	w := &world{
		reach:     map[Pair]Reach{},
		inAir:     map[Pair]uint64{},
		sets:      map[string][]Cut{},
		drops:     map[string]map[Cut]uint64{},
		boots:     map[string]string{},
		procs:     map[string]ProcessState{},
		files:     map[string]map[string]bool{},
		keys:      []string{"log-0", "log-1"},
		leader:    map[string]string{},
		deafs:     map[string]bool{},
		killNoop:  map[string]bool{},
		pauseNoop: map[string]bool{},
		fail:      map[string]error{},
		hardware:  newHardware(),
	}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		w.nodes = append(w.nodes, name)
		w.boots[name] = "boot-" + name
		w.files[name] = map[string]bool{}
		w.procs[name] = w.incarnation()
		w.logs[name] = []byte("0123456789")
		w.founds[name] = 10
	}
	for i, k := range w.keys {
		w.leader[k] = w.nodes[i%n]
	}
	w.office = newOffice(w)
	ends := append([]string{Clients}, w.nodes...)
	for _, a := range ends {
		for _, b := range ends {
			if a != b {
				w.reach[Pair{a, b}] = Reach{Sent: 7, Received: 7}
			}
		}
	}
	return w
}

func (w *world) target() Target {
	spares := []string{"spare"}
	if w.noSpares {
		spares = nil
	}
	return Target{Admin: wAdmin{w}, Spares: spares, Nodes: w.nodes, Clock: w, Network: wNet{w}, Processes: wProcs{w}, Disks: wDisks{w}, Roles: wRoles{w}, Versions: wVersions{w}, Machines: w.machines()}
}

func (w *world) incarnation() ProcessState {
	w.nextID++
	return ProcessState{Running: true, PID: 100 + w.nextID, Started: fmt.Sprintf("s%d", w.nextID)}
}

// at does something at a time from now.
func (w *world) at(d time.Duration, do func()) {
	w.hooks = append(w.hooks, hook{w.now + d, do})
	sort.SliceStable(w.hooks, func(i, j int) bool { return w.hooks[i].at < w.hooks[j].at })
}

func (w *world) Now() time.Duration { return w.now }

func (w *world) Sleep(ctx context.Context, d time.Duration) error {
	to := w.now + d
	for len(w.hooks) > 0 && w.hooks[0].at <= to {
		h := w.hooks[0]
		w.hooks = w.hooks[1:]
		w.now = max(w.now, h.at)
		w.tick()
		h.do()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	w.now = to
	w.tick()
	return ctx.Err()
}

func (w *world) blocks(p Pair) bool {
	if w.overcut != nil && w.overcut(p) {
		return true
	}
	for _, cuts := range w.sets {
		for _, c := range cuts {
			if c.From == p.From && c.To == p.To && c.Port == AnyPort && (w.applies == nil || w.applies(c)) {
				return true
			}
		}
	}
	return false
}

// tick sends the nonces, and the system's own packets, that are due.
func (w *world) tick() {
	for ; w.ticked+NonceInterval <= w.now; w.ticked += NonceInterval {
		for p, r := range w.reach {
			r.Received = max(r.Received, w.inAir[p])
			if p.From != w.mute {
				r.Sent++
				if !w.blocks(p) {
					w.inAir[p] = r.Sent
				}
			}
			w.reach[p] = r
		}
		for id, cuts := range w.sets {
			for _, c := range cuts {
				if !w.silent && (w.applies == nil || w.applies(c)) {
					w.drops[id][c]++
				}
			}
		}
	}
}

func (w *world) resetCounters() {
	for p := range w.reach {
		w.reach[p] = Reach{}
		w.inAir[p] = 0
	}
}

func (w *world) Event(ev any) {
	f := ev.(history.Fault)
	w.events = append(w.events, f)
}

func (w *world) stages(id int) []history.FaultStage {
	var out []history.FaultStage
	for _, e := range w.events {
		if e.ID == id {
			out = append(out, e.Stage)
		}
	}
	return out
}

func (w *world) why(id int) string {
	var out []string
	for _, e := range w.events {
		if e.ID == id && e.Stage == history.Unproven {
			out = append(out, e.Detail)
		}
	}
	return strings.Join(out, "; ")
}

// requireClean fails where a fault left something behind.
func (w *world) requireClean(t *testing.T) {
	t.Helper()
	require.Empty(t, w.sets, "rules left behind")
	for n, p := range w.procs {
		require.True(t, p.Running, "%s left dead", n)
		require.False(t, p.Paused, "%s left paused", n)
	}
	require.Empty(t, w.disks, "disks left spoiled")
	require.Empty(t, w.clocks, "clocks left wrong")
	require.Empty(t, w.shapes, "shapes left behind")
	require.Empty(t, w.rejects, "resets left behind")
	require.Empty(t, w.mutes, "silence left behind")
	for n, l := range w.limits {
		require.Zero(t, l.processors, "the processor time of %s left limited", n)
		require.Zero(t, l.memory, "the memory of %s left limited", n)
	}
}

type wNet struct{ *world }

func (w wNet) Block(ctx context.Context, id string, cuts []Cut) error {
	if err := errors.Join(ctx.Err(), w.fail["block"]); err != nil {
		return err
	}
	if _, known := w.sets[id]; known {
		return fmt.Errorf("set %s is known", id)
	}
	w.sets[id] = slices.Clone(cuts)
	w.drops[id] = map[Cut]uint64{}
	return nil
}

func (w wNet) Unblock(ctx context.Context, id string) error {
	if err := errors.Join(ctx.Err(), w.fail["unblock"]); err != nil {
		return err
	}
	if _, known := w.sets[id]; !known {
		return fmt.Errorf("set %s is unknown", id)
	}
	if !w.sticky {
		delete(w.sets, id)
	}
	return nil
}

func (w wNet) Observe(ctx context.Context) (Observation, error) {
	if err := errors.Join(ctx.Err(), w.fail["observe"]); err != nil {
		return Observation{}, err
	}
	o := Observation{Reach: maps.Clone(w.reach), Boots: maps.Clone(w.boots), Dropped: map[string]map[Cut]uint64{}}
	for id, d := range w.drops {
		o.Dropped[id] = maps.Clone(d)
	}
	return o, nil
}

type wProcs struct{ *world }

func (w wProcs) Kill(_ context.Context, n string) error {
	if err := w.fail["kill "+n]; err != nil {
		return err
	}
	if !w.killNoop[n] {
		w.die(n, 137)
	}
	return nil
}

func (w *world) die(n string, code int) {
	w.procs[n] = ProcessState{Started: w.procs[n].Started, ExitCode: code}
}

func (w wProcs) Stop(_ context.Context, n string, _ time.Duration) (int, error) {
	if w.stopHangs {
		return 0, errors.New("still running")
	}
	w.die(n, w.stopCode)
	return w.stopCode, nil
}

func (w wProcs) Start(_ context.Context, n string) error {
	if err := w.fail["start "+n]; err != nil {
		return err
	}
	if w.procs[n].Running {
		return fmt.Errorf("%s runs", n)
	}
	if w.starting != nil {
		w.starting()
	}
	was := w.procs[n]
	w.procs[n] = w.incarnation()
	w.founds[n] = int64(len(w.logs[n]))
	if w.startNoop {
		p := w.procs[n]
		p.Started = was.Started
		w.procs[n] = p
	}
	if w.crashes {
		w.die(n, 3)
	}
	return nil
}

func (w wProcs) Pause(_ context.Context, n string) error {
	p := w.procs[n]
	p.Paused = !w.pauseNoop[n]
	w.procs[n] = p
	return nil
}

func (w wProcs) Resume(_ context.Context, n string) error {
	p := w.procs[n]
	if !p.Paused {
		return fmt.Errorf("%s is not paused", n)
	}
	p.Paused = w.sticky
	w.procs[n] = p
	return nil
}

func (w wProcs) State(_ context.Context, n string) (ProcessState, error) {
	return w.procs[n], w.fail["state"]
}

type wDisks struct{ *world }

func (w wDisks) WriteCanary(_ context.Context, n, name string, sync bool) error {
	w.files[n][name] = sync
	return nil
}

func (w wDisks) HasCanary(_ context.Context, n, name string) (bool, error) {
	_, ok := w.files[n][name]
	return ok, nil
}

func (w wDisks) PowerLoss(_ context.Context, nodes []string) error {
	if err := w.fail["power"]; err != nil {
		return err
	}
	for _, n := range nodes {
		w.die(n, 137)
		maps.DeleteFunc(w.files[n], func(_ string, synced bool) bool { return !synced && !w.tooGentle || w.tooRough })
	}
	return nil
}

type wRoles struct{ *world }

func (w wRoles) Leader(_ context.Context, key string) (string, int32, error) {
	if w.leader[key] == "" {
		return "", -1, errors.New("LEADER_NOT_AVAILABLE")
	}
	return w.leader[key], w.epochs[key], nil
}

func (w wRoles) Controller(context.Context) (string, error) {
	if w.leader["controller"] == "" {
		return "", errors.New("no controller")
	}
	return w.leader["controller"], nil
}

func (w wRoles) Responds(ctx context.Context, n string, timeout time.Duration) bool {
	p := w.procs[n]
	if p.Running && !p.Paused && !w.deafs[n] && !w.blocks(Pair{Clients, n}) && !w.blocks(Pair{n, Clients}) {
		return true
	}
	_ = w.Sleep(ctx, timeout)
	return false
}

func (w wRoles) Keys() []string { return w.keys }
