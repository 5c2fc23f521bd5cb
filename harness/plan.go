// Package harness carries out one run, from a plan to a verdict: environment
// up, readiness, baseline, faults, recovery, drain, checks, report, clean-up.
// It is written once, in blocking style, for containers and for the simulator.
package harness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/environment/external"
	"github.com/faultline-mq/faultline/harness/report"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/harness/system/anykafka"
	"github.com/faultline-mq/faultline/harness/system/example"
	"github.com/faultline-mq/faultline/harness/system/nats"
	"github.com/faultline-mq/faultline/harness/system/rabbitmq"
	"github.com/faultline-mq/faultline/harness/system/reference"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
	"github.com/faultline-mq/faultline/workloads"
)

// PlanVersion is the version of the plan format.
const PlanVersion = 1

// ErrBadPlan marks (wrapped) what the user can mend: unknown names, impossible
// counts, contradictions. It stands for exit code 254.
var ErrBadPlan = errors.New("bad plan")

// Plan says everything about a run. As stored it is fully resolved: every step
// with its time and seed, every option with its value.
type Plan struct {
	Version     int           `yaml:"version"`
	Scenario    string        `yaml:"scenario,omitempty"` // whose plan it is, weakened or not; its steps and phases are fixed
	System      string        `yaml:"system"`
	Scheme      string        `yaml:"scheme"`
	Workload    string        `yaml:"workload"`
	Faults      []string      `yaml:"faults"`             // as on the command line; empty: none
	Schedule    string        `yaml:"schedule,omitempty"` // random (also if empty) or periodic
	Interval    time.Duration `yaml:"interval,omitempty"` // from one fault to the next; 0: as many as fit
	Targets     string        `yaml:"targets"`            // what faults hit that do not choose for themselves; empty: drawn
	Environment string        `yaml:"environment"`        // docker, sim or external
	Nodes       int           `yaml:"nodes"`
	Clients     int           `yaml:"clients"`           // producers; pollers come with them
	Time        time.Duration `yaml:"time"`              // baseline, fault and recovery together
	Rate        float64       `yaml:"rate"`              // sends per second over all producers; 0 = closed loop
	Size        int           `yaml:"size"`              // bytes of a payload
	Pinned      float64       `yaml:"pinned"`            // share of producers that believe one node only; below 0: none
	Idempotent  float64       `yaml:"idempotent"`        // share of producers that are idempotent
	Seekers     int           `yaml:"seekers"`           // pollers that go back now and then
	Loyal       int           `yaml:"loyal"`             // pollers of each node that ask it alone
	Senders     []string      `yaml:"senders,omitempty"` // nodes that producers send to, whoever leads; empty: all
	Readers     []string      `yaml:"readers,omitempty"` // nodes that pollers ask, one each, and no others do; empty: all
	// Late is how long after the fault phase began clients come, and create the topic,
	// each at the node that it asks; 0: the topic is there before them, and they work
	// from the baseline on.
	Late time.Duration `yaml:"late,omitempty"`

	// Of workload queue; workloads.Config says what each means, and what 0 and below mean.
	Consumers int           `yaml:"consumers,omitempty"`
	Pause     time.Duration `yaml:"pause,omitempty"`    // of a consumer after each message
	Releases  float64       `yaml:"releases,omitempty"` // share of the messages that consumers give back
	Rejects   float64       `yaml:"rejects,omitempty"`  // share of the messages that they give up
	Leaves    time.Duration `yaml:"leaves,omitempty"`   // between two times that a consumer leaves of its own accord

	Seed    uint64            `yaml:"seed"`
	Expect  string            `yaml:"expect"` // survive or declared
	Options map[string]string `yaml:"options"`
	Phases  Phases            `yaml:"phases"` // empty: derived from time
	// StopOnViolation ends the fault phase at the first violation that is found while the run goes on.
	StopOnViolation bool             `yaml:"stop_on_violation,omitempty"`
	Upgrade         string           `yaml:"upgrade,omitempty"`   // the image that the fault upgrade goes to; empty: this source's, with another version stamp
	Image           string           `yaml:"image,omitempty"`     // of the nodes in Docker; empty: the system's own
	Addresses       []string         `yaml:"addresses,omitempty"` // host:port of each node of an external cluster; with environment external only
	Client          string           `yaml:"client,omitempty"`    // kind of client; empty: precise
	Exec            nemesis.Commands `yaml:"exec,omitempty"`      // what the fault exec runs, where it is drawn
	Steps           []nemesis.Step   `yaml:"steps"`               // empty: drawn from the seed
	Script          *Script          `yaml:"script,omitempty"`    // what clients do; none: what the workload says
}

// Phases are the lengths of a run's phases.
type Phases struct {
	Baseline time.Duration `yaml:"baseline"`
	Fault    time.Duration `yaml:"fault"`
	Recovery time.Duration `yaml:"recovery"`
}

// DefaultPlan returns the plan of `faultline run` without flags.
func DefaultPlan() Plan {
	return Plan{
		Version: PlanVersion, System: "reference", Scheme: "isr", Workload: "log", Faults: []string{"partition"}, Environment: "docker", Nodes: 3, Clients: 5,
		Time: 60 * time.Second, Rate: 200, Size: 128, Seed: 1, Expect: "survive", Options: map[string]string{},
	}
}

// Limits of a plan.
const (
	maxNodes   = 9
	maxClients = 1000
	maxSize    = 1_000_000 // with what a batch adds it fits Kafka's default of max.message.bytes
	minPhase   = 3 * time.Second
)

// Systems lists the systems under test.
func Systems() []system.System {
	return []system.System{
		reference.System{},
		anykafka.System{Further: []anykafka.Distribution{reference.Distribution{}}},
		rabbitmq.System{},
		nats.System{},
		example.System{},
	}
}

// LookupSystem returns a system by name.
func LookupSystem(name string) (system.System, error) {
	var names []string
	for _, s := range Systems() {
		if s.Name() == name {
			return s, nil
		}
		names = append(names, s.Name())
	}
	return nil, fmt.Errorf("%w: unknown system %q; known systems: %s", ErrBadPlan, name, strings.Join(names, ", "))
}

// NodeNames returns the names n1, n2, … of a plan's nodes.
func (p Plan) NodeNames() []string {
	names := make([]string, p.Nodes)
	for i := range names {
		names[i] = fmt.Sprintf("n%d", i+1)
	}
	return names
}

// spares returns the names of further nodes, which are no members at first: one,
// where a step of membership:add needs its place.
func (p Plan) spares() []string {
	needs := func(fault string) bool {
		return fault == "membership" || fault == "membership:"+string(nemesis.AddNode)
	}
	if slices.ContainsFunc(p.Faults, needs) || slices.ContainsFunc(p.Steps, func(s nemesis.Step) bool { return needs(s.Name()) }) {
		return []string{fmt.Sprintf("n%d", p.Nodes+1)}
	}
	return nil
}

// places returns the names of all nodes, members or not.
func (p Plan) places() []string { return slices.Concat(p.NodeNames(), p.spares()) }

func (p Plan) spec(runID string) system.Spec {
	return system.Spec{Scheme: p.Scheme, Workload: p.Workload, Image: p.Image, Addresses: p.Addresses, Client: p.Client, RunID: runID, Nodes: p.NodeNames(), Spares: p.spares(), Faults: p.Faults, Steps: p.Steps, Set: p.Options, Expect: p.Expect, Seed: p.Seed, Late: p.Late > 0}
}

// Prepare makes the images that a plan's system needs in Docker and the engine lacks.
func (p Plan) Prepare(ctx context.Context, progress io.Writer) error {
	sys, err := LookupSystem(p.System)
	if err != nil {
		return err
	}
	pre, ok := sys.(system.Preparer)
	if !ok {
		return nil
	}
	if progress == nil {
		progress = io.Discard
	}
	err = pre.Prepare(ctx, p.spec(""), progress)
	if errors.Is(err, docker.ErrNoImage) {
		return fmt.Errorf("%w: system %s: %w", ErrBadPlan, p.System, err)
	}
	if err != nil {
		return fmt.Errorf("system %s: %w", p.System, err)
	}
	return nil
}

// Resolve checks a plan and fills in what it leaves open: phases, options and
// the schedule. A resolved plan resolves to itself. Every error wraps ErrBadPlan.
func (p Plan) Resolve() (Plan, error) {
	bad := func(format string, args ...any) (Plan, error) {
		return Plan{}, fmt.Errorf("%w: %w", ErrBadPlan, fmt.Errorf(format, args...))
	}
	if p.Version != PlanVersion {
		return bad("plan version %d; this faultline reads version %d", p.Version, PlanVersion)
	}
	sys, err := LookupSystem(p.System)
	if err != nil {
		return Plan{}, err
	}
	if p.Scheme == "" {
		p.Scheme = sys.Schemes()[0].Name
	}
	if p.Workload == "" {
		p.Workload = sys.Workloads()[0]
	}
	if _, err := workloads.Lookup(p.Workload); err != nil {
		return bad("%w", err)
	}
	for _, n := range slices.Concat(p.Senders, p.Readers) {
		if !slices.Contains(p.NodeNames(), n) {
			return bad("senders and readers: %q is none of %s", n, strings.Join(p.NodeNames(), ", "))
		}
	}
	if err := p.resolveReach(sys); err != nil {
		return bad("%w", err)
	}
	if err := p.resolveClient(sys); err != nil {
		return bad("%w", err)
	}
	switch {
	case !slices.Contains(sys.Workloads(), p.Workload):
		return bad("system %s cannot carry workload %s; it can carry %s", p.System, p.Workload, strings.Join(sys.Workloads(), ", "))
	case p.Environment != "docker" && p.Environment != "sim" && p.Environment != "external":
		return bad("unknown environment %q; known environments: docker, sim, external", p.Environment)
	case p.Nodes < 1 || p.Nodes > maxNodes:
		return bad("%d nodes: 1 to %d are possible", p.Nodes, maxNodes)
	case p.Clients < 1 || p.Clients > maxClients:
		return bad("%d clients: 1 to %d are possible", p.Clients, maxClients)
	case p.Rate < 0 || p.Rate > 1e6:
		return bad("a rate of %g operations per second: 0 (closed loop) to 1,000,000 is possible", p.Rate)
	case p.Expect != "survive" && p.Expect != "declared":
		return bad("unknown expectation %q; known: survive, declared", p.Expect)
	case p.Schedule != "" && p.Schedule != "random" && p.Schedule != "periodic":
		return bad("unknown schedule %q; known: random, periodic", p.Schedule)
	case p.Workload != "queue" && (p.Consumers != 0 || p.Pause != 0 || p.Releases != 0 || p.Rejects != 0 || p.Leaves != 0):
		return bad("consumers, pause, releases, rejects and leaves are of workload queue: workload %s has no consumers", p.Workload)
	case p.Size > maxSize:
		return bad("payloads of %d bytes: at most %d are possible", p.Size, maxSize)
	}
	if err := sys.Validate(p.spec("")); err != nil {
		return bad("%w", err)
	}
	p.Options = maps.Clone(sys.Options(p.spec("")))
	if _, err := nemesis.Parse(strings.Join(p.Faults, ",")); len(p.Faults) > 0 && err != nil {
		return bad("%w", err)
	}
	for _, name := range p.Faults {
		if err := lacking(p.Environment, name); err != nil {
			return bad("%w", err)
		}
	}
	if p.Exec != (nemesis.Commands{}) && !slices.Contains(p.FaultNames(), "exec") {
		return bad("commands are given, and the plan has no fault exec; add it with --faults exec")
	}
	if p.Phases == (Phases{}) {
		if p.Phases, err = phases(p.Time, len(p.Faults) > 0); err != nil {
			return bad("%w", err)
		}
	}
	if p.Phases.Baseline < time.Second || p.Phases.Recovery < time.Second || p.Phases.Fault < 0 {
		return bad("phases %s, %s and %s: baseline and recovery need at least a second each", p.Phases.Baseline, p.Phases.Fault, p.Phases.Recovery)
	}
	p.Time = p.Phases.Baseline + p.Phases.Fault + p.Phases.Recovery
	if len(p.Steps) == 0 && len(p.Faults) > 0 {
		p.Steps, err = nemesis.Generate(nemesis.ScheduleConfig{
			Seed: p.Seed, Faults: p.Faults, Nodes: p.NodeNames(), Keys: len(sys.Keys(p.spec(""))), Duration: p.Phases.Fault,
			Detection: sys.Detection(p.spec("")), Targets: p.Targets, Interval: p.Interval, Periodic: p.Schedule == "periodic", Commands: p.Exec,
		})
		if err != nil {
			return bad("%w", err)
		}
	}
	switch {
	case p.Late < 0 || p.Late > 0 && (p.Late >= p.Phases.Fault || len(p.Steps) == 0):
		return bad("clients that come %s late: 0s or more is possible, and less than a fault phase of %s with faults", p.Late, p.Phases.Fault)
	case p.Late > 0 && p.Script != nil:
		return bad("clients that come %s late: those of a script say themselves when they come", p.Late)
	}
	for _, s := range p.Steps {
		if err := s.Validate(p.NodeNames()); err != nil {
			return bad("%w", err)
		}
		if err := lacking(p.Environment, s.Name()); err != nil {
			return bad("%w", err)
		}
		if why := sys.Lacks(p.spec(""), s); why != "" {
			return bad("fault %s: system %s: %s", s.Name(), p.System, why)
		}
	}
	if p.Upgrade != "" && !upgrades(p.Steps) {
		return bad("upgrade to %q: the plan has no fault upgrade", p.Upgrade)
	}
	if p.Environment == "sim" {
		if _, err := sys.Sim(p.spec("")); err != nil {
			return bad("system %s: %w", p.System, err)
		}
	}
	if p.Environment == "docker" {
		cfg, err := sys.Docker(p.spec(""))
		if err == nil {
			err = tellable(p.System, cfg, p.Steps)
		}
		if err != nil {
			return bad("%w", err)
		}
	}
	if err := nemesis.ValidateNames(p.Steps); err != nil {
		return bad("%w", err)
	}
	if _, err := p.clientSpecs(sys); err != nil {
		return bad("%w", err)
	}
	return p, nil
}

// resolveReach checks how the nodes are reached: an external cluster has as many as
// it has addresses.
func (p *Plan) resolveReach(sys system.System) error {
	if p.Environment != "external" {
		if len(p.Addresses) > 0 {
			return fmt.Errorf("addresses belong to an external cluster: leave --env out, or set environment: external in the plan")
		}
		return nil
	}
	_, ok := sys.(system.Reachable)
	switch {
	case !ok:
		return fmt.Errorf("system %s cannot be reached by addresses; use --system kafka where it speaks Kafka's protocol", p.System)
	case len(p.Addresses) == 0:
		return errors.New("environment external needs the address of every node: --addresses HOST:PORT,…")
	case p.Image != "":
		return errors.New("an external cluster is there already: --image and --addresses exclude each other")
	case p.Upgrade != "":
		return errors.New("the harness has no nodes of an external cluster to upgrade: leave --upgrade-to out")
	}
	for i, a := range p.Addresses {
		if err := external.ParseAddress(a); err != nil {
			return err
		}
		if slices.Contains(p.Addresses[:i], a) {
			return fmt.Errorf("address %q is named twice", a)
		}
	}
	p.Nodes = len(p.Addresses)
	return nil
}

// resolveClient checks the kind of clients. Those that choose their nodes themselves
// cannot be pinned to one, nor are they idempotent in part.
func (p *Plan) resolveClient(sys system.System) error {
	if p.Client == system.PreciseClient {
		p.Client = ""
	}
	if p.Client == "" {
		return nil
	}
	known := []string{system.PreciseClient}
	if s, ok := sys.(system.Clients); ok {
		known = append(known, s.ClientKinds()...)
	}
	switch {
	case !slices.Contains(known, p.Client):
		return fmt.Errorf("unknown client %q of system %s; known clients: %s", p.Client, p.System, strings.Join(known, ", "))
	case p.Environment == "sim":
		return fmt.Errorf("client %s: environment sim has precise clients only; use --env docker", p.Client)
	case p.Pinned > 0 || p.Idempotent > 0 || p.Loyal > 0 || p.Script != nil:
		return fmt.Errorf("client %s chooses its nodes and numbers its messages itself: pinned, idempotent, loyal and scripts belong to precise clients", p.Client)
	}
	p.Pinned = -1
	return nil
}

// lacking refuses a fault (with its shape, if any) whose capability an environment
// lacks by nature.
func lacking(env, name string) error {
	fault, shape, _ := strings.Cut(name, ":")
	for _, f := range nemesis.Known() {
		if f.Name != fault {
			continue
		}
		if why, lacks := SimLacks(f); lacks && env == "sim" {
			return fmt.Errorf("fault %s: %s; use --env docker", name, why)
		}
		for _, c := range f.NeedsOf(nemesis.Shape(shape)) {
			if env == "external" && !slices.Contains(external.Capabilities(), c) {
				return fmt.Errorf("fault %s: the harness cannot %s of a cluster that it does not run; use --faults exec with commands of your own, or --faults none", name, c)
			}
		}
	}
	return nil
}

// tellable refuses to set the clocks of containers that cannot be told a time.
func tellable(system string, cfg docker.Config, steps []nemesis.Step) error {
	for _, s := range steps {
		if s.Fault == "clock" && !cfg.TellsTime() {
			return fmt.Errorf("fault %s: a node of system %s goes by the clock of its machine, which all containers share, and cannot be told another one; leave the fault out", s.Name(), system)
		}
	}
	return nil
}

// simLacks is what the simulator cannot do by nature, and why.
var simLacks = map[nemesis.Capability]string{
	nemesis.NeedsLimits:   "its nodes take no processor time and share one process's memory",
	nemesis.NeedsVersions: "all its nodes are this program",
	nemesis.NeedsShell:    "its time is virtual, and commands on this host take real time",
}

// SimLacks returns why environment sim cannot have a fault, if it cannot.
func SimLacks(f nemesis.Info) (why string, lacks bool) {
	for _, c := range f.NeedsOf("") {
		if why, lacks = simLacks[c]; lacks {
			return fmt.Sprintf("environment sim cannot %s: %s", c, why), true
		}
	}
	return "", false
}

// ofDisks is what environment docker can do only to nodes that have disks of their own.
var ofDisks = []nemesis.Capability{
	nemesis.NeedsDisks, nemesis.NeedsRoom, nemesis.NeedsDiskErrors, nemesis.NeedsSlowDisks, nemesis.NeedsWiping, nemesis.NeedsFiles,
}

// disksNeeded reports whether steps need nodes in Docker to have disks of their
// own, and whether these are going to be slowed. Other runs do without: making
// disks takes time and privilege, and syncs through a loop device are slower.
func disksNeeded(steps []nemesis.Step) (disks, slowed bool) {
	for _, f := range nemesis.Known() {
		for _, s := range steps {
			if s.Fault == f.Name {
				disks = disks || slices.ContainsFunc(f.NeedsOf(s.Shape), func(c nemesis.Capability) bool { return slices.Contains(ofDisks, c) })
				slowed = slowed || slices.Contains(f.Needs, nemesis.NeedsSlowDisks)
			}
		}
	}
	return disks, slowed
}

// limitsNeeded reports whether steps need nodes in Docker to be limited.
func limitsNeeded(steps []nemesis.Step) bool {
	return slices.ContainsFunc(nemesis.Known(), func(f nemesis.Info) bool {
		return slices.Contains(f.Needs, nemesis.NeedsLimits) && slices.ContainsFunc(steps, func(s nemesis.Step) bool { return s.Fault == f.Name })
	})
}

// upgrades reports whether steps change nodes' versions.
func upgrades(steps []nemesis.Step) bool {
	return slices.ContainsFunc(steps, func(s nemesis.Step) bool { return s.Fault == "upgrade" })
}

// onPackets is what each fault on packets and connections asks of the kernel in Docker.
var onPackets = map[string]sidecar.RuleSet{
	"delay":           {Shapes: []sidecar.Shape{{Hook: sidecar.Input, Peer: sidecar.Clients, Delay: time.Millisecond}}},
	"loss":            {Shapes: []sidecar.Shape{{Hook: sidecar.Input, Peer: sidecar.Clients, Loss: 0.1}}},
	"duplicate":       {Shapes: []sidecar.Shape{{Hook: sidecar.Input, Peer: sidecar.Clients, Duplicate: 0.1}}},
	"reorder":         {Shapes: []sidecar.Shape{{Hook: sidecar.Input, Peer: sidecar.Clients, Delay: time.Millisecond, Reorder: 0.1}}},
	"corrupt-packets": {Shapes: []sidecar.Shape{{Hook: sidecar.Input, Peer: sidecar.Clients, Corrupt: 0.1}}},
	"rate":            {Shapes: []sidecar.Shape{{Hook: sidecar.Input, Peer: sidecar.Clients, Rate: 1 << 30}}},
	"reset":           {Drops: []sidecar.Drop{{Hook: sidecar.Input, Peer: sidecar.Clients, Mode: sidecar.Reset}}},
	"half-open":       {Drops: []sidecar.Drop{{Hook: sidecar.Input, Peer: sidecar.Clients, Mode: sidecar.HalfOpen}}},
}

// kernelNeeded are the rule sets that show whether the kernel can do what steps need.
func kernelNeeded(steps []nemesis.Step) []sidecar.RuleSet {
	var sets []sidecar.RuleSet
	for _, fault := range slices.Sorted(maps.Keys(onPackets)) {
		if slices.ContainsFunc(steps, func(s nemesis.Step) bool { return s.Fault == fault }) {
			sets = append(sets, onPackets[fault])
		}
	}
	return sets
}

// phases divides a run's time: a sixth for the baseline, a quarter for the
// recovery (each at most 20 s), the rest for faults.
func phases(total time.Duration, faults bool) (Phases, error) {
	if total < 3*minPhase || total > 24*time.Hour {
		return Phases{}, fmt.Errorf("a run of %s: %s to 24h is possible", total, 3*minPhase)
	}
	ph := Phases{Baseline: clamp(total/6, minPhase, 20*time.Second), Recovery: clamp(total/5, minPhase, 20*time.Second)}
	ph.Fault = total - ph.Baseline - ph.Recovery
	if !faults {
		ph.Baseline, ph.Fault = ph.Baseline+ph.Fault, 0
	}
	return ph, nil
}

func clamp(d, low, high time.Duration) time.Duration { return max(low, min(d, high)) }

func (p Plan) workload(sys system.System) workloads.Config {
	return workloads.Config{
		Seed: p.Seed, Nodes: p.Nodes, Clients: p.Clients, Keys: len(sys.Keys(p.spec(""))), Rate: p.Rate, Size: p.Size, Pinned: p.Pinned,
		Idempotent: p.Idempotent, Loyal: p.Loyal, Seekers: p.Seekers, Senders: p.indices(p.Senders), Readers: p.indices(p.Readers),
		ThinkTime: time.Millisecond,
		Consumers: p.Consumers, Pause: p.Pause, Releases: p.Releases, Rejects: p.Rejects, Leaves: p.Leaves, DeadLetters: deadLetters(sys, p.spec("")),
	}
}

// deadLetters returns the keys that take the dead letters of others, each once.
func deadLetters(sys system.System, spec system.Spec) []int32 {
	var keys []int32
	for i, key := range sys.Keys(spec) {
		if slices.ContainsFunc(sys.Queues(spec), func(q history.Queue) bool { return q.DeadLetters == key }) {
			keys = append(keys, int32(i))
		}
	}
	return keys
}

// indices are the places of nodes among the plan's.
func (p Plan) indices(nodes []string) (indices []int) {
	for _, n := range nodes {
		indices = append(indices, slices.Index(p.NodeNames(), n))
	}
	return indices
}

// YAML returns the plan as it is stored.
func (p Plan) YAML() ([]byte, error) {
	b, err := yaml.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return b, nil
}

// ReadPlan reads a plan file over the defaults. Unknown keys are refused.
func ReadPlan(path string) (Plan, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Plan{}, fmt.Errorf("%w: plan file: %w", ErrBadPlan, err)
	}
	return ParsePlan(b, path)
}

// ParsePlan parses a plan over the defaults; name stands in errors. The default
// faults are those of a plan that has neither faults nor steps.
func ParsePlan(b []byte, name string) (Plan, error) {
	p := DefaultPlan()
	p.Version, p.Faults = 0, nil
	p.Scheme, p.Workload = "", "" // which ones are meant hangs on the system
	dec := yaml.NewDecoder(bytes.NewReader(b), yaml.DisallowUnknownField())
	if err := dec.Decode(&p); err != nil {
		// The first line says it; the others draw the place.
		line, _, _ := strings.Cut(strings.TrimSpace(err.Error()), "\n")
		return Plan{}, fmt.Errorf("%w: %s: %s; see plan.yaml in any result directory for a plan that is right", ErrBadPlan, name, line)
	}
	if d := DefaultPlan(); p.System == d.System {
		p.Scheme, p.Workload = cmp.Or(p.Scheme, d.Scheme), cmp.Or(p.Workload, d.Workload)
	}
	if p.Faults == nil && len(p.Steps) == 0 {
		p.Faults = p.DefaultFaults()
	}
	if p.Version == 0 {
		return Plan{}, fmt.Errorf("%w: %s has no version; this faultline reads version %d", ErrBadPlan, name, PlanVersion)
	}
	return p, nil
}

// DefaultFaults are those of a plan that names none: what its environment can have.
func (p Plan) DefaultFaults() []string {
	switch {
	case p.Exec != (nemesis.Commands{}):
		return []string{"exec"}
	case p.Environment == "external":
		return nil
	}
	return DefaultPlan().Faults
}

// FaultNames are the faults that the plan names, or that its steps have.
func (p Plan) FaultNames() []string { return strings.Split(p.FaultList(), ",") }

// FaultList is the plan's faults as on the command line.
func (p Plan) FaultList() string {
	if len(p.Faults) > 0 {
		return strings.Join(p.Faults, ",")
	}
	var names []string
	for _, s := range p.Steps {
		if !slices.Contains(names, s.Name()) {
			names = append(names, s.Name())
		}
	}
	return strings.Join(names, ",")
}

// Command is the command line that runs the plan.
func (p Plan) Command() string {
	var b strings.Builder
	fmt.Fprintf(&b, "faultline run --system %s --scheme %s --workload %s", p.System, p.Scheme, p.Workload)
	switch {
	case p.Scenario != "":
		fmt.Fprintf(&b, " --scenario %s", p.Scenario)
	case len(p.Faults) > 0:
		fmt.Fprintf(&b, " --faults %s", strings.Join(p.Faults, ","))
	default:
		b.WriteString(" --faults none")
	}
	if p.Schedule != "" {
		fmt.Fprintf(&b, " --schedule %s", p.Schedule)
	}
	if p.Interval != 0 {
		fmt.Fprintf(&b, " --interval %s", p.Interval)
	}
	if p.Targets != "" {
		fmt.Fprintf(&b, " --targets %s", p.Targets)
	}
	if len(p.Addresses) > 0 {
		fmt.Fprintf(&b, " --addresses %s", strings.Join(p.Addresses, ","))
	} else {
		fmt.Fprintf(&b, " --env %s", p.Environment)
	}
	if p.Client != "" {
		fmt.Fprintf(&b, " --client %s", p.Client)
	}
	for _, c := range []struct{ flag, line string }{{"inject", p.Exec.Inject}, {"prove", p.Exec.Prove}, {"heal", p.Exec.Heal}} {
		if c.line != "" {
			fmt.Fprintf(&b, " --exec-%s %s", c.flag, report.ShellQuote(c.line))
		}
	}
	if p.Exec.Limit != 0 {
		fmt.Fprintf(&b, " --exec-limit %s", p.Exec.Limit)
	}
	if p.Scenario == "" && len(p.Addresses) == 0 {
		fmt.Fprintf(&b, " --nodes %d", p.Nodes)
	}
	fmt.Fprintf(&b, " --clients %d", p.Clients)
	if p.Consumers != 0 {
		fmt.Fprintf(&b, " --consumers %d", p.Consumers)
	}
	if p.Pause != 0 {
		fmt.Fprintf(&b, " --pause %s", p.Pause)
	}
	if p.Scenario == "" {
		fmt.Fprintf(&b, " --time %s", p.Time)
	}
	if p.StopOnViolation {
		b.WriteString(" --stop-on-violation")
	}
	if p.Upgrade != "" {
		fmt.Fprintf(&b, " --upgrade-to %s", p.Upgrade)
	}
	if p.Image != "" {
		fmt.Fprintf(&b, " --image %s", p.Image)
	}
	fmt.Fprintf(&b, " --rate %g --seed %d --expect %s", p.Rate, p.Seed, p.Expect)
	sys, err := LookupSystem(p.System)
	if err != nil {
		return b.String()
	}
	defaults := p
	defaults.Options = nil
	base := sys.Options(defaults.spec(""))
	for _, name := range slices.Sorted(maps.Keys(p.Options)) {
		if base[name] != p.Options[name] {
			fmt.Fprintf(&b, " --set %s=%s", name, p.Options[name])
		}
	}
	return b.String()
}
