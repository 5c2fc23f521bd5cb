package harness

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
)

// Dimensions that a swarm draws beside options, by the names of their flags.
const (
	DimFaults  = "faults"
	DimTargets = "targets"
	DimNodes   = "nodes"
	DimClients = "clients"
	DimTime    = "time"
	DimRate    = "rate"
	DimSize    = "size"
)

// Swarm draws plans. Each seed has its own subset of faults, their number and
// overlap, its own cluster, load and options: a bug that needs one feature absent
// is found as well as one that needs many together (swarm testing, Groce et al.
// 2012). Only configurations are drawn whose contract promises that acknowledged
// messages survive; what the user fixed stays as it is, whatever it promises.
type Swarm struct {
	// Base gives what is not drawn. An option that is set in it is fixed.
	Base Plan
	// Fixed names the dimensions of Base that are not drawn.
	Fixed map[string]bool
	// Faults are those that steps are made of, instead of drawn ones. Unlike those that are
	// fixed they may be followed by others, which wait for events or lie over all.
	Faults []string
	// Haze is the fault that lies over all others; "": drawn.
	Haze string
	// When is the event that all reactions wait for, many of them, and Then the fault that
	// they bring; "": drawn.
	When nemesis.Event
	Then string
	// Estrange: the faults are those of estrange. Otherwise that is drawn.
	Estrange bool
}

// SwarmPlan draws the resolved plan of a seed with nothing fixed but base's options.
func SwarmPlan(base Plan, seed uint64) (Plan, error) { return Swarm{Base: base}.Plan(seed) }

// swarmFaults are what is drawn of faults: under each a contract says what it
// promises. Those of a kind stand in for each other, so that no kind outweighs
// the others by its number of shapes. Partitions are what brokers get wrong most.
var swarmFaults = [][]string{
	{"partition"},
	{"partition"},
	{"kill"},
	{"pause"},
	{"stop", "rolling-restart"},
	{"power"},
	{"restart:kill", "restart:power", "restart:wipe"},
	{"wipe"},
	{"corrupt-file:bit-flip", "corrupt-file:bit-flip", "corrupt-file:truncate", "corrupt-file:stale-restore"},
	{"membership:add", "membership:remove", "membership:replace"},
	{"leadership:transfer", "leadership:flap"},
	{"disk-slow"},
	{"delay", "loss"},
	{"reset", "clock:jump", "clock:drift", "clock:strobe", "disk-full", "disk-error"},
}

// swarmEvents are the events that a swarm lets steps wait for, as often as they
// stand here.
var swarmEvents = []nemesis.Event{
	nemesis.LeaderChange, nemesis.LeaderChange, nemesis.LeaderChange, nemesis.InSyncExpand, nemesis.InSyncExpand, nemesis.InSyncShrink, nemesis.InSyncShrink,
	nemesis.FollowerChange, nemesis.Truncation, nemesis.Truncation, nemesis.NodeStart, nemesis.ControllerChange,
}

// Limits of what a swarm draws.
const (
	swarmMinTime   = 67 * time.Second // with the phases' shares: time for three faults
	swarmMaxTime   = 110 * time.Second
	swarmMinFaults = 3
	swarmMaxShapes = 3 // named; a partition without one draws from all
)

// Plan draws the resolved plan of a seed: the same swarm and seed give the same
// plan. Every error wraps ErrBadPlan.
func (s Swarm) Plan(seed uint64) (Plan, error) {
	p := s.Base
	p.Seed, p.Environment, p.Phases, p.Steps, p.Script = seed, "sim", Phases{}, nil, nil
	p.Options = maps.Clone(s.Base.Options)
	if p.Options == nil {
		p.Options = map[string]string{}
	}
	sys, err := LookupSystem(p.System)
	if err != nil {
		return Plan{}, err
	}
	scheme, err := lookupScheme(sys, p.Scheme)
	if err != nil {
		return Plan{}, err
	}
	// One stream per part: what one part draws does not shift the others.
	part := func(name string) *rand.Rand {
		sum := uint64(14695981039346656037)
		for _, c := range []byte(name) {
			sum = (sum ^ uint64(c)) * 1099511628211
		}
		return rand.New(rand.NewPCG(seed, sum))
	}
	if !s.Fixed[DimNodes] {
		p.Nodes = pick(part("nodes"), 3, 3, 5)
	}
	if s.Faults != nil {
		p.Faults = s.Faults
	} else if !s.Fixed[DimFaults] {
		p.Faults = drawFaults(part("faults"), p.Nodes, scheme)
	}
	s.drawOptions(part("options"), &p, scheme)
	s.sound(&p, scheme)
	s.drawTimeout(part("timeout"), &p, sys)
	s.drawLoad(part("load"), &p)
	if !s.Fixed[DimTime] {
		p.Time = s.drawTime(part("time"), p, sys)
	}
	if p, err = p.Resolve(); err != nil {
		return Plan{}, fmt.Errorf("%w (seed %d)", err, seed)
	}
	if !promises(p) {
		for _, o := range scheme.Options {
			if _, fixed := s.Base.Options[o.Name]; o.Safe != "" && !fixed {
				p.Options[o.Name] = o.Safe
			}
		}
	}
	if s.Fixed[DimTargets] || p.Targets != "" {
		return p, nil
	}
	free := !s.Fixed[DimFaults] && s.Faults == nil && s.Haze == "" && s.When == "" // what else is asked for is kept
	if rng := part("estrange"); s.Estrange || free && rng.IntN(8) == 0 {
		if with, ok := estrange(rng, p, scheme, sys.Detection(p.spec(""))); ok {
			return with.Resolve()
		}
	}
	ports(part("ports"), p, scheme)
	spare(part("spare"), p, sys)
	p = keepDisks(p)
	overlap(part("overlap"), p)
	if !s.Fixed[DimFaults] {
		p = follow(part("follow"), p, scheme)
		p = s.react(part("react"), p, scheme, sys.Detection(p.spec("")))
		s.haze(part("haze"), &p, scheme)
	}
	return p.Resolve()
}

// lookupScheme returns a system's scheme by name.
func lookupScheme(sys system.System, name string) (system.Scheme, error) {
	var known []string
	for _, s := range sys.Schemes() {
		if s.Name == name {
			return s, nil
		}
		known = append(known, s.Name)
	}
	return system.Scheme{}, fmt.Errorf("%w: unknown scheme %q of system %s; known schemes: %s", ErrBadPlan, name, sys.Name(), strings.Join(known, ", "))
}

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

// swarmKinds is how many kinds of faults are drawn: a few at a time reach deeper
// than all together.
var swarmKinds = []int{1, 2, 2, 3, 3, 4}

// drawFaults draws a non-empty subset of the faults; of partitions half the time
// only some shapes.
func drawFaults(rng *rand.Rand, nodes int, scheme system.Scheme) []string {
	count := pick(rng, swarmKinds...)
	var faults []string
	for _, kind := range rng.Perm(len(swarmFaults)) {
		f := pick(rng, swarmFaults[kind]...)
		if len(faults) == count {
			break
		}
		if kind, _, _ := strings.Cut(f, ":"); !scheme.Survives && (strings.HasSuffix(f, "wipe") || kind == "corrupt-file") || !scheme.Moves && (kind == "membership" || kind == "leadership") {
			continue // nothing is promised of a lost disk, or nobody else could lead
		}
		if scheme.Survived != nil && !slices.Contains(scheme.Survived, f) {
			continue
		}
		if scheme.Shared && slices.Contains([]string{"disk-full", "disk-error"}, f) {
			continue // the device is that of nodes that are not hit
		}
		if scheme.Shared && f == "disk-slow" {
			f = pick(rng, f, "lock-remove", "clock:skew")
		}
		if f == "partition" && slices.ContainsFunc(faults, func(other string) bool { return strings.HasPrefix(other, f) }) {
			continue
		}
		if f != "partition" || rng.IntN(2) == 0 {
			faults = append(faults, f)
			continue
		}
		some := slices.Clip(faults)
		for len(some) == len(faults) {
			for _, shape := range nemesis.Shapes() {
				if shape.MinNodes <= nodes && rng.IntN(4) == 0 {
					some = append(some, f+":"+string(shape.Name))
				}
			}
		}
		some = some[:min(len(some), len(faults)+swarmMaxShapes)]
		count += len(some) - len(faults) - 1 // they are one kind
		faults = some
	}
	return faults
}

// drawOptions draws what the user did not set.
func (s Swarm) drawOptions(rng *rand.Rand, p *Plan, scheme system.Scheme) {
	ms := func(values ...int) string { return strconv.Itoa(pick(rng, values...)) }
	set := func(name, value string) {
		if _, fixed := s.Base.Options[name]; !fixed && rng.IntN(3) > 0 { // often the default
			p.Options[name] = value
		}
	}
	power := !scheme.Unsynced && slices.ContainsFunc(p.Faults, func(f string) bool { return f == "power" || f == "restart:power" })
	set("partitions", ms(1, 2, 3, 4, 6, 8))
	if _, fixed := s.Base.Options["partitions"]; scheme.Few && !fixed {
		if n, err := strconv.Atoi(p.Options["partitions"]); err != nil || n < p.Nodes {
			p.Options["partitions"] = strconv.Itoa(p.Nodes) // a fault could hit a node that has none
		}
	}
	if _, fixed := s.Base.Options["broker.heartbeat.interval.ms"]; !fixed {
		set("broker.session.timeout.ms", ms(1000, 1500, 2000, 3000))
	}
	set("leader.rebalance.interval.ms", ms(0, 1500, 5000, 10000))
	set("quorum.tick.ms", ms(20, 50, 100))
	set("segment.bytes", ms(4096, 16384, 65536, 1<<20))
	if fsync := pick(rng, "always", "interval", "never"); !power {
		set("fsync", fsync)
	}
	set("fsync.interval.ms", ms(50, 500, 3000))
	for _, o := range scheme.Options {
		if len(o.Draw) > 0 && !o.Protocol {
			set(o.Name, pick(rng, o.Draw...))
		}
	}
	rf := min(3, p.Nodes)
	if scheme.Factor {
		if p.Nodes > 3 {
			set("replication.factor", strconv.Itoa(p.Nodes))
		}
		_, fixed := s.Base.Options["replication.factor"]
		if n, err := strconv.Atoi(p.Options["partitions"]); err == nil && n < 4 && !fixed {
			// With fewer replicas than nodes a fault could hit one that has none.
			p.Options["replication.factor"] = strconv.Itoa(p.Nodes)
		}
		if v, err := strconv.Atoi(p.Options["replication.factor"]); err == nil {
			rf = min(v, p.Nodes)
		}
	}
	if scheme.InSync {
		least := pick(rng, 2, 2, 2, max(2, min(3, rf)))
		if slices.ContainsFunc(p.Faults, func(f string) bool { return strings.HasPrefix(f, "membership") }) && rf == p.Nodes {
			least = 2 // a node that leaves takes a replica with it
		}
		set("min.insync.replicas", strconv.Itoa(least))
	}
	for _, o := range scheme.Options {
		_, fixed := s.Base.Options[o.Name]
		if o.Protocol && !fixed {
			p.Options[o.Name] = pick(rng, o.Draw...)
		}
		if v, ok := scheme.Hunted[o.Name]; ok && !fixed {
			p.Options[o.Name] = v
		}
	}
}

// sound takes a scheme's drawn options back where with them nothing is promised
// whatever happens, and without them something is.
func (s Swarm) sound(p *Plan, scheme system.Scheme) {
	calm := *p
	calm.Faults = nil
	if promises(calm) {
		return
	}
	calm.Options = maps.Clone(p.Options)
	for _, o := range scheme.Options {
		if _, fixed := s.Base.Options[o.Name]; !fixed {
			delete(calm.Options, o.Name)
		}
	}
	if promises(calm) {
		p.Options = calm.Options
	}
}

// drawTimeout draws a request's deadline: so short that a client which waits for
// a leader that is cut off tries it several times before the fault is healed.
func (s Swarm) drawTimeout(rng *rand.Rand, p *Plan, sys system.System) {
	const name = "request.timeout.ms"
	if _, fixed := s.Base.Options[name]; fixed {
		return
	}
	timeouts := slices.DeleteFunc([]int{200, 300, 500, 700, 1000}, func(ms int) bool {
		return time.Duration(ms)*time.Millisecond > 3*sys.Detection(p.spec(""))/8
	})
	if len(timeouts) > 0 {
		p.Options[name] = strconv.Itoa(pick(rng, timeouts...))
	}
}

// drawLoad draws clients, rate and payloads: enough messages for a verdict, few
// enough for many seeds. Where partitions come, every node has producers that
// stay with it: without them nobody writes to a leader that is cut off, and one
// alone waits for an answer most of the time.
func (s Swarm) drawLoad(rng *rand.Rand, p *Plan) {
	loyal, others := 2*p.Nodes+rng.IntN(2), 2+rng.IntN(4)
	cuts := slices.ContainsFunc(p.Faults, func(f string) bool { return strings.HasPrefix(f, "partition") })
	if rng.IntN(3) == 0 && !cuts {
		loyal, others = 0, others+2 // or they would all wait for one node at once
	}
	clients, rate, size := loyal+others, pick(rng, 60.0, 80, 100, 120, 160), pick(rng, 32, 128, 128, 512, 1024)
	pinned := float64(loyal) / float64(clients)
	if loyal == 0 {
		pinned = -1
	}
	if !s.Fixed[DimClients] {
		p.Clients = clients
	}
	if !s.Fixed[DimRate] {
		p.Rate = rate
	}
	if !s.Fixed[DimSize] {
		p.Size = size
	}
	if p.Pinned == 0 && !s.Fixed[DimClients] {
		p.Pinned = pinned
	}
	seekers, idempotent, watched := pick(rng, 0, 0, 1), pick(rng, 0, 0, 0.3, 0.6), pick(rng, 0, 1, 2)
	if p.Idempotent == 0 && !s.Fixed[DimClients] {
		// One that is idempotent and bound to a node that is cut off asks it for the
		// same message all the while: too little to judge the fault by.
		p.Idempotent = min(idempotent, 1-max(pinned, 0))
	}
	if slices.ContainsFunc(p.Faults, func(f string) bool { return strings.HasPrefix(f, "corrupt-file") }) {
		seekers = 1 // or hardly anybody reads what is damaged
	}
	if p.Seekers == 0 && !s.Fixed[DimClients] {
		p.Seekers = seekers
	}
	if p.Loyal == 0 && !s.Fixed[DimClients] {
		p.Loyal = watched
	}
}

// drawTime draws a length that holds every named fault, and three at least.
func (s Swarm) drawTime(rng *rand.Rand, p Plan, sys system.System) time.Duration {
	c := nemesis.ScheduleConfig{Faults: p.Faults, Detection: sys.Detection(p.spec("")), Interval: p.Interval}
	least := c.Least()
	if n := len(p.Faults); n > 0 && n < swarmMinFaults {
		least = least / time.Duration(n) * swarmMinFaults
	}
	length := swarmMinTime + time.Duration(rng.Int64N(int64(swarmMaxTime-swarmMinTime))).Truncate(time.Second)
	for {
		ph, err := phases(length, true)
		if err != nil || ph.Fault >= least {
			return length
		}
		length += 5 * time.Second
	}
}

// spare lets steps that take what disks hold hit no more than the contract allows
// where it would promise nothing otherwise.
func spare(rng *rand.Rand, p Plan, sys system.System) {
	survives := func(step nemesis.Step) bool {
		alone := p.spec("")
		alone.Steps = []nemesis.Step{step}
		return sys.Contract(alone).Acknowledged
	}
	for i, step := range p.Steps {
		if survives(step) {
			continue
		}
		step.Targets = pick(rng, nemesis.TargetOne, nemesis.TargetLeader, nemesis.TargetFollower)
		if survives(step) {
			p.Steps[i] = step
		}
	}
}

// keepDisks lets the last steps that lose what disks hold end the processes alone, as far
// as the contract allows no more of them.
func keepDisks(p Plan) Plan {
	with := p
	with.Steps = slices.Clone(p.Steps)
	for i := len(with.Steps) - 1; i >= 0 && !promises(with); i-- {
		switch step := &with.Steps[i]; {
		case slices.Contains([]string{"wipe", "corrupt-file", "power"}, step.Fault):
			step.Fault, step.Shape = "kill", ""
		case step.Fault == "restart" && slices.Contains([]nemesis.Shape{nemesis.RestartWipe, nemesis.RestartPower}, step.Shape):
			step.Shape = nemesis.RestartKill
		}
	}
	if promises(with) {
		return with
	}
	return p
}

// ports lets some cuts stop one kind of traffic only: a leader that loses its
// followers and not the quorum stays one. Shapes in which some leader may keep all
// its followers could stop nothing.
func ports(rng *rand.Rand, p Plan, scheme system.Scheme) {
	whole := []nemesis.Shape{nemesis.ClientShape, nemesis.Bridge, nemesis.Ring}
	for i := range p.Steps {
		if s := &p.Steps[i]; s.Fault == "partition" && !slices.Contains(whole, s.Shape) && s.Port == nemesis.AnyPort {
			s.Port = port(scheme, pick(rng, nemesis.AnyPort, nemesis.AnyPort, nemesis.AnyPort, nemesis.AnyPort, nemesis.PeerPort, nemesis.PeerPort, nemesis.QuorumPort))
		}
	}
}

// port is the drawn one, if a scheme uses it: single copies have no peers, and nodes
// that go by their own views no quorum.
func port(scheme system.Scheme, drawn nemesis.Port) nemesis.Port {
	quorum := scheme.Authority == "raft"
	if drawn == nemesis.PeerPort && scheme.Single && quorum || drawn == nemesis.QuorumPort && !quorum {
		return nemesis.AnyPort
	}
	return drawn
}

// promises reports whether acknowledged messages survive the plan's steps.
func promises(p Plan) bool {
	sys, err := LookupSystem(p.System)
	return err == nil && sys.Contract(p.spec("")).Acknowledged
}

// follow lets whoever is cut off by a step that no other one meets suffer something
// worse before it is healed: a leader that lost its followers goes, or its disk does.
func follow(rng *rand.Rand, p Plan, scheme system.Scheme) Plan {
	for i, cut := range p.Steps {
		r := nemesis.Step{Fault: pick(rng, "kill", "pause", "power", "wipe"), Seed: rng.Uint64()}
		length := cut.Until - cut.At
		r.At = cut.At + length/4 + time.Duration(rng.Int64N(int64(length/2))).Truncate(time.Millisecond)
		r.Until = r.At + 3*length/4
		one := []nemesis.Shape{nemesis.IsolateOne, nemesis.IsolateLeader, nemesis.OneWayIn, nemesis.OneWayOut}
		met := func(o nemesis.Step) bool { return o.ID != cut.ID && o.At < max(r.Until, cut.Until) && cut.At < o.Until }
		if rng.IntN(4) == 0 || cut.Fault != "partition" || !slices.Contains(one, cut.Shape) || r.Until > p.Phases.Fault || slices.ContainsFunc(p.Steps, met) {
			continue
		}
		more := p
		more.Steps = slices.Clone(p.Steps)
		more.Steps[i].As, more.Steps[i].Port = fmt.Sprintf("cut-%d", i), port(scheme, pick(rng, cut.Port, nemesis.PeerPort))
		r.ID, r.Targets = len(more.Steps), "@"+more.Steps[i].As
		more.Steps = append(more.Steps, r)
		if promises(more) {
			p = more
		}
	}
	return p
}

// react adds steps that wait for an event of the cluster, from some time on.
func (s Swarm) react(rng *rand.Rand, p Plan, scheme system.Scheme, detection time.Duration) Plan {
	length := max(3*detection/2, time.Second)
	reactions := make([]nemesis.Step, pick(rng, 0, 3, 6, 10))
	if s.When != "" {
		reactions = make([]nemesis.Step, 10)
	}
	for i := range reactions {
		reactions[i] = s.reaction(rng, scheme)
	}
	if rng.IntN(2) == 0 { // what takes data goes only with few others
		slices.SortStableFunc(reactions, func(a, b nemesis.Step) int {
			disk := func(s nemesis.Step) int { return slices.Index([]string{"power", "wipe"}, s.Fault) }
			return cmp.Compare(disk(b), disk(a))
		})
	}
	for _, r := range reactions {
		r.At = time.Duration(rng.Int64N(int64(p.Phases.Fault - length))).Truncate(time.Millisecond)
		r.Until, r.Within = r.At+length, p.Phases.Fault-r.At
		more := p
		more.Steps = append(slices.Clone(p.Steps), r)
		for i := range more.Steps {
			more.Steps[i].ID = i
		}
		if promises(more) {
			p = more
		}
	}
	return p
}

// reaction draws a fault that waits for an event: most often the new leader goes
// at once. Where nobody else could lead, what happens is that a process starts.
func (s Swarm) reaction(rng *rand.Rand, scheme system.Scheme) nemesis.Step {
	r := nemesis.Step{When: nemesis.LeaderChange, Targets: nemesis.TargetEvent, Fault: pick(rng, "kill", "pause", "partition"), Seed: rng.Uint64()}
	if scheme.Single {
		r.When, r.Fault = nemesis.NodeStart, pick(rng, "kill", "restart", "power", "power")
	}
	if s.When != "" {
		r.When = s.When
		if s.When != nemesis.LeaderChange {
			r.Targets = pick(rng, nemesis.TargetEvent, nemesis.TargetOther)
		}
	} else if rng.IntN(2) == 0 {
		r.When, r.Targets = pick(rng, swarmEvents...), pick(rng, nemesis.TargetEvent, nemesis.TargetEvent, nemesis.TargetOther)
		r.Fault = pick(rng, "kill", "pause", "partition", "stop", "restart", "power", "wipe")
		if r.When == nemesis.InSyncShrink {
			r.Fault = pick(rng, r.Fault, "power", "wipe") // who may be the last in sync
		}
	}
	if s.Then != "" {
		r.Fault = s.Then
	}
	switch r.Fault {
	case "partition":
		r.Shape = pick(rng, nemesis.IsolateOne, nemesis.IsolateOne, nemesis.OneWayIn, nemesis.OneWayOut)
	case "restart":
		r.Shape = nemesis.RestartKill
	}
	r.After = time.Duration(rng.Int64N(int64(pick(rng, 1, 5, 50, 500)))) * time.Millisecond
	return r
}

// estrange replaces the steps of a plan. Again and again a replica goes and comes back,
// and as it begins to follow a leader stops to hear the metadata quorum, which still hears
// it; then what comes back loses its peers. What the quorum decides about that replica
// does not reach its leader, if the leader is the one and it happens in time: random steps
// hardly ever meet in that moment. It is false where the scheme has no such quorum or no
// replicas, where there is no time for it, or where nothing would be promised.
func estrange(rng *rand.Rand, p Plan, scheme system.Scheme, detection time.Duration) (Plan, bool) {
	if scheme.Authority != "raft" || scheme.Single {
		return p, false
	}
	ms := func(below int) time.Duration { return time.Duration(rng.IntN(below)) * time.Millisecond }
	away, back, gap := 3*detection/2, 2*detection, detection+time.Second
	nodes := p.NodeNames()
	p.Faults = []string{"kill", "partition:one-way-in", "partition:isolate-one"}
	p.Steps = nil
	for at := time.Second; at+away+2*back <= p.Phases.Fault; at += away + 2*back + gap {
		i := rng.IntN(len(nodes))
		replica, leader := nodes[i], nodes[(i+1+rng.IntN(len(nodes)-1))%len(nodes)]
		home := at + away
		deaf := ms(100)
		p.Steps = append(
			p.Steps,
			nemesis.Step{Fault: "kill", Targets: replica, At: at, Until: home, Seed: rng.Uint64()},
			nemesis.Step{Fault: "partition", Shape: nemesis.OneWayIn, Port: nemesis.QuorumPort, Targets: leader, When: nemesis.FollowerChange, After: deaf, Within: back, At: home, Until: home + back, Seed: rng.Uint64()},
			nemesis.Step{Fault: "partition", Shape: nemesis.IsolateOne, Port: nemesis.PeerPort, Targets: replica, When: nemesis.FollowerChange, After: deaf + ms(150), Within: back, At: home, Until: home + back, Seed: rng.Uint64()},
		)
	}
	for i := range p.Steps {
		p.Steps[i].ID = i
	}
	return p, len(p.Steps) > 0 && promises(p)
}

// haze lays a fault over all others that makes everything slower, and what
// happens in a millisecond without it can be met by another fault: on a slow disk a
// power loss finds more that is not synced. A new member would hardly ever catch up under it.
func (s Swarm) haze(rng *rand.Rand, p *Plan, scheme system.Scheme) {
	h := nemesis.Step{ID: len(p.Steps), Fault: pick(rng, "delay", "delay", "loss", "disk-slow"), At: 100 * time.Millisecond, Seed: rng.Uint64()}
	if s.Haze != "" {
		h.Fault = s.Haze
	} else if slices.ContainsFunc(p.Steps, func(o nemesis.Step) bool { return o.Fault == "power" }) {
		h.Fault = pick(rng, h.Fault, "disk-slow")
	}
	h.Targets = pick(rng, nemesis.TargetAll, nemesis.TargetAll, nemesis.TargetMajority, nemesis.TargetMinority, nemesis.TargetMinority)
	if h.Fault == "disk-slow" {
		h.Targets = pick(rng, nemesis.TargetMinority, nemesis.TargetFollower)
		if scheme.Single { // nobody waits for another one's disk
			h.Targets = pick(rng, nemesis.TargetMajority, nemesis.TargetAll)
		}
	}
	whole := p.Phases.Fault - 500*time.Millisecond
	h.Until = h.At + whole/4 + time.Duration(rng.Int64N(int64(3*whole/4)))
	same := [][]string{{"delay", "loss"}, {"disk-slow", "disk-full", "disk-error"}}
	if rng.IntN(2) == 0 && s.Haze == "" || slices.ContainsFunc(p.Steps, func(o nemesis.Step) bool {
		return o.Fault == "membership" || slices.ContainsFunc(same, func(kind []string) bool { return slices.Contains(kind, h.Fault) && slices.Contains(kind, o.Fault) })
	}) {
		return
	}
	with := *p
	with.Steps, with.Options = append([]nemesis.Step{h}, p.Steps...), maps.Clone(p.Options)
	for name, value := range map[string]string{"request.timeout.ms": "1000", "quorum.tick.ms": "100"} { // or nothing would ever be answered
		if _, fixed := s.Base.Options[name]; !fixed {
			with.Options[name] = value
		}
	}
	if !promises(with) {
		return
	}
	for i := range with.Steps {
		with.Steps[i].ID = i
	}
	*p = with
}

// overlap moves steps forward in time, so that some begin while another lasts. A
// process belongs to one fault at a time and a role needs a cluster that has it:
// so a fault on processes meets a partition, or a fault on other processes by
// name, and what is to be bound by role comes first.
func overlap(rng *rand.Rand, p Plan) {
	if rng.IntN(2) == 0 {
		return
	}
	steps := p.Steps
	for i := 1; i < len(steps); i++ {
		prev, s := &steps[i-1], &steps[i]
		if rng.IntN(2) == 0 || i > 1 && steps[i-2].Until > prev.At { // two at a time
			continue
		}
		before, was := *prev, *s
		if !meet(rng, prev, s, p.NodeNames()) {
			continue
		}
		length := prev.Until - prev.At
		begin := prev.At + length/4 + time.Duration(rng.Int64N(int64(length/2))).Truncate(time.Millisecond)
		s.At, s.Until = begin, begin+s.Until-s.At
		if !promises(p) {
			*prev, *s = before, was
		}
	}
}

// meet reports whether s may begin while prev lasts, and binds both to names
// where they might want one process.
func meet(rng *rand.Rand, prev, s *nemesis.Step, nodes []string) bool {
	cut, cuts := prev.Fault == "partition", s.Fault == "partition"
	named := func(step *nemesis.Step) bool {
		return step.Targets == nemesis.TargetOne || slices.Contains(nodes, step.Targets)
	}
	// An operator changes members and leaders while the cluster is whole.
	admin := func(step *nemesis.Step) bool { return step.Fault == "membership" || step.Fault == "leadership" }
	switch {
	case admin(prev) || admin(s):
		return false
	case prev.Fault == "lock-remove" && s.Fault == "lock-remove":
		return false
	case prev.Fault == "lock-remove" || s.Fault == "lock-remove":
		return true // it is about no process
	case cut && cuts:
		// Two cuts together may leave no majority, so that no leader could be named.
		return s.Shape != nemesis.IsolateLeader && s.Shape != nemesis.Primaries && named(s)
	case cut != cuts:
		process, other := prev, s
		if cut {
			process, other = s, prev
		}
		if other.Shape == nemesis.IsolateLeader || other.Shape == nemesis.Primaries || !slices.Contains([]string{"", nemesis.TargetOne}, other.Targets) {
			return false
		}
		process.Targets = pick(rng, nodes...)
		return true
	default:
		first := rng.IntN(len(nodes))
		prev.Targets, s.Targets = nodes[first], nodes[(first+1+rng.IntN(len(nodes)-1))%len(nodes)]
		return true
	}
}
