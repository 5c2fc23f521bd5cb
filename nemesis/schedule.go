package nemesis

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Step is one fault of a schedule. Times count from the begin of the fault
// phase. A step with an event waits for it from At on, and lasts as long as Until
// is after At once it is injected.
type Step struct {
	ID      int           `yaml:"id" json:"id"`
	Fault   string        `yaml:"fault" json:"fault"`                     // "partition", "kill", …
	Shape   Shape         `yaml:"shape,omitempty" json:"shape,omitempty"` // of faults that have shapes
	Port    Port          `yaml:"port,omitempty" json:"port,omitempty"`   // partition only: one kind of traffic
	Targets string        `yaml:"targets,omitempty" json:"targets,omitempty"`
	As      string        `yaml:"as,omitempty" json:"as,omitempty"`         // a name for its one target, for the targets of later steps: "@old", "not @old", "all but @old"
	When    Event         `yaml:"when,omitempty" json:"when,omitempty"`     // the event of the cluster that it waits for from At on; empty: none
	After   time.Duration `yaml:"after,omitempty" json:"after,omitempty"`   // from that event to the injection
	Within  time.Duration `yaml:"within,omitempty" json:"within,omitempty"` // how long it waits at most; 0: as long as it lasts
	At      time.Duration `yaml:"at" json:"at"`
	Until   time.Duration `yaml:"until" json:"until"`
	Seed    uint64        `yaml:"seed" json:"seed"` // draws targets and keys at injection

	Commands `yaml:",inline"` // exec only
}

// Name returns the fault as the command line names it: "partition:isolate-leader".
func (s Step) Name() string {
	if s.Shape == "" {
		return s.Fault
	}
	return s.Fault + ":" + string(s.Shape)
}

// Validate refuses a step that could not be run on nodes: an unknown fault,
// shape, port or target, a shape that needs more nodes, targets that are none,
// and times that are no interval.
func (s Step) Validate(nodes []string) error {
	wrap := func(err error) error { return fmt.Errorf("step %d: %w", s.ID, err) }
	k, err := lookup(s.Fault)
	if err != nil {
		return wrap(err)
	}
	if s.At < 0 || s.Until <= s.At {
		return wrap(fmt.Errorf("%s lasts from %s until %s: it must end after it begins", s.Name(), s.At, s.Until))
	}
	if err := s.validateEvent(); err != nil {
		return wrap(err)
	}
	if err := s.validateAs(nodes); err != nil {
		return wrap(err)
	}
	if err := s.validateCommands(); err != nil {
		return wrap(err)
	}
	if s.Fault != "partition" {
		if s.Port != AnyPort || s.Shape != "" && len(k.Shapes) == 0 {
			return wrap(fmt.Errorf("fault %s takes no shape and no port", s.Fault))
		}
		if len(k.Shapes) > 0 {
			if _, err := k.shape(s.Shape); err != nil {
				return wrap(err)
			}
		}
		n, err := countTargets(s.Targets, nodes)
		if err != nil {
			return wrap(fmt.Errorf("%s: %w", s.Name(), err))
		}
		if own := k.ownTargets(s.Shape); own != "" && s.Targets != own {
			return wrap(fmt.Errorf("%s takes targets %q alone, and %q were asked for", s.Name(), own, s.Targets))
		}
		if len(k.Shapes) > 0 {
			info, _ := k.shape(s.Shape)
			if err := info.fits(k.Name, len(nodes)); err != nil {
				return wrap(err)
			}
			if s.Fault == "upgrade" && s.Shape == MixedVersions && n == len(nodes) {
				return wrap(fmt.Errorf("%s needs a node that keeps its version, and %q are all: use upgrade:%s", s.Name(), s.Targets, RollingUpgrade))
			}
			if info.OneTarget && n != 1 {
				return wrap(fmt.Errorf("%s takes one target, and %q are %d", s.Name(), s.Targets, n))
			}
		}
		return nil
	}
	info, err := k.shape(s.Shape)
	if err != nil {
		return wrap(err)
	}
	if err := info.fits(k.Name, len(nodes)); err != nil {
		return wrap(err)
	}
	switch s.Port {
	case AnyPort, PeerPort, QuorumPort:
		if s.Port != AnyPort && s.Shape == ClientShape {
			return wrap(fmt.Errorf("partition:client cuts clients, who have no traffic on port %q", s.Port))
		}
	case ClientPort:
		if s.Shape != ClientShape {
			return wrap(fmt.Errorf("%s cuts nodes from each other, who have no traffic on port %q", s.Name(), s.Port))
		}
	default:
		return wrap(fmt.Errorf("unknown port %q: known are client, peer, quorum", s.Port))
	}
	if err := checkShapeTargets(info, s.Targets, nodes); err != nil {
		return wrap(err)
	}
	return nil
}

func checkShapeTargets(info ShapeInfo, spec string, nodes []string) error {
	if !info.OneTarget {
		if spec == "" || info.Name == IsolateLeader && spec == TargetLeader {
			return nil
		}
		return fmt.Errorf("partition:%s chooses its own targets, and %q were asked for", info.Name, spec)
	}
	n, err := countTargets(spec, nodes)
	if err != nil {
		return fmt.Errorf("partition:%s: %w", info.Name, err)
	}
	if n != 1 || spec == TargetAll || spec == TargetMajority {
		return fmt.Errorf("partition:%s takes one target, and %q are %d", info.Name, spec, n)
	}
	return nil
}

// Least lengths where detection times are very short: a proof takes a quarter
// of a second by itself (minNonces), and the system needs a breath in between.
const (
	minLength = time.Second
	minGap    = time.Second
)

// ScheduleConfig is what a schedule is drawn from.
type ScheduleConfig struct {
	Seed     uint64
	Faults   []string      // as Parse returns them
	Nodes    []string      // names
	Keys     int           // partitions of the workload
	Duration time.Duration // of the fault phase: all faults are healed by its end
	// Detection is the slowest detection time of the system under test; every
	// fault lasts at least three times as long.
	Detection time.Duration
	// Targets is what every fault hits that does not choose for itself; empty: drawn.
	Targets string
	// Interval is the time from one fault to the next; 0: as many as fit.
	Interval time.Duration
	// Periodic: faults begin exactly so far apart and last exactly as long as they
	// must; otherwise both are drawn within the interval.
	Periodic bool
	// Commands are those of every exec.
	Commands Commands
}

// Least returns the shortest fault phase that holds every named fault once.
func (c ScheduleConfig) Least() time.Duration {
	return time.Duration(len(c.Faults)) * max(c.length()+c.gap(), c.Interval)
}

func (c ScheduleConfig) length() time.Duration { return max(3*c.Detection, minLength) }
func (c ScheduleConfig) gap() time.Duration    { return max(c.Detection, minGap) }

// Generate draws a schedule of faults one after another, as many as fit or one
// every interval: each lasts at least three detection times, and at least one
// passes before it.
// Named faults take turns; a fault that has shapes and was named without one draws
// a shape each time and repeats none before all were drawn, and "partition" has
// isolate-leader among them always. The
// same config gives the same schedule. A phase or an interval that is too short, unknown
// faults, and shapes or targets that do not fit the nodes are errors.
func Generate(c ScheduleConfig) ([]Step, error) {
	if len(c.Faults) == 0 {
		return nil, errors.New("no faults named: say at least one, or run without a nemesis")
	}
	if _, err := Parse(strings.Join(c.Faults, ",")); err != nil {
		return nil, err
	}
	if c.Detection <= 0 {
		return nil, fmt.Errorf("detection time %s: it must be positive", c.Detection)
	}
	if len(c.Nodes) == 0 {
		return nil, errors.New("no nodes: a schedule needs their names")
	}
	if byRole(c.Targets) && c.Targets != TargetController && c.Keys <= 0 {
		return nil, fmt.Errorf("targets %q need a partition that has a leader, and the workload has none", c.Targets)
	}
	if c.Targets != "" {
		if _, err := countTargets(c.Targets, c.Nodes); err != nil {
			return nil, err
		}
	}
	unit := c.length() + c.gap()
	switch {
	case c.Interval < 0 || c.Interval > 0 && c.Interval < unit:
		return nil, fmt.Errorf("an interval of %s between faults is too short: each needs %s (three detection times of %s, and a gap)", c.Interval, unit, c.Detection)
	case c.Duration < c.Least():
		return nil, fmt.Errorf("a fault phase of %s is too short for %s: each needs %s (three detection times of %s, and a gap), so at least %s",
			c.Duration, strings.Join(c.Faults, ", "), max(unit, c.Interval), c.Detection, c.Least())
	}

	rng := rand.New(rand.NewPCG(c.Seed, 0x6e656d65736973))
	count := int(c.Duration / unit)
	slot := (c.Duration / time.Duration(count)).Truncate(time.Millisecond)
	if slot < unit {
		slot = unit
	}
	if c.Interval > 0 {
		slot = c.Interval
		count = int(c.Duration / slot)
	}
	names := takeTurns(rng, c.Faults, count)
	shapes, err := c.drawShapes(rng, names)
	if err != nil {
		return nil, err
	}
	decks := map[string]*deck{}
	steps := make([]Step, count)
	for i, name := range names {
		k, shape, err := split(name)
		if err != nil {
			return nil, err
		}
		s := Step{ID: i, Fault: k.Name, Shape: shape, Targets: c.Targets, Seed: rng.Uint64()}
		if k.Name == "partition" {
			drawn := shape == ""
			if drawn {
				s.Shape, shapes = shapes[0], shapes[1:]
			}
			info, _ := shapeInfo(s.Shape)
			switch {
			case drawn && !info.OneTarget:
				s.Targets = "" // --targets cannot concern it
			case info.OneTarget && c.Targets == "":
				s.Targets = []string{TargetOne, TargetLeader}[rng.IntN(2)]
				if c.Keys <= 0 {
					s.Targets = TargetOne
				}
			}
		} else {
			if c.Targets == "" {
				if decks[name] == nil {
					decks[name] = &deck{cards: c.drawable(k.draw)}
				}
				s.Targets = decks[name].next(rng)
			}
			if len(k.Shapes) > 0 && shape == "" {
				forms := "shapes of " + name
				if decks[forms] == nil {
					decks[forms] = &deck{}
					for _, i := range k.Shapes {
						if i.fits(k.Name, len(c.Nodes)) == nil {
							decks[forms].cards = append(decks[forms].cards, string(i.Name))
						}
					}
					if len(decks[forms].cards) == 0 {
						return nil, k.Shapes[0].fits(k.Name, len(c.Nodes))
					}
				}
				s.Shape = Shape(decks[forms].next(rng))
			}
			if own := k.ownTargets(s.Shape); own != "" {
				s.Targets = own // --targets cannot concern it
			}
		}
		if k.Name == "exec" {
			s.Commands = c.Commands
		}
		begin := time.Duration(i) * slot
		spare := slot - unit
		if c.Periodic {
			spare = 0
		}
		lead := jitter(rng, spare/2)
		s.At = begin + c.gap() + lead
		s.Until = s.At + c.length() + jitter(rng, spare-lead)
		if err := s.Validate(c.Nodes); err != nil {
			return nil, err
		}
		steps[i] = s
	}
	return steps, nil
}

// drawShapes returns a shape for every "partition" without one.
func (c ScheduleConfig) drawShapes(rng *rand.Rand, names []string) ([]Shape, error) {
	count := 0
	for _, n := range names {
		if n == "partition" {
			count++
		}
	}
	if count == 0 {
		return nil, nil
	}
	if c.Keys <= 0 {
		return nil, errors.New("partition always isolates a leader, and the workload has no partition that has one: name a shape")
	}
	info, _ := shapeInfo(IsolateLeader)
	if err := info.fits("partition", len(c.Nodes)); err != nil {
		return nil, err
	}
	var others []Shape
	for _, i := range Shapes() {
		// With fewer than five nodes majority and primaries are isolate-one again.
		few := len(c.Nodes) < 5 && (i.Name == Majority || i.Name == Primaries)
		if i.Name != IsolateLeader && !few && i.fits("partition", len(c.Nodes)) == nil {
			others = append(others, i.Name)
		}
	}
	var shapes []Shape
	for len(shapes) < count {
		shuffle(rng, others)
		round := append([]Shape{IsolateLeader}, others...)
		round = round[:min(len(round), count-len(shapes))]
		shuffle(rng, round)
		shapes = append(shapes, round...)
	}
	return shapes, nil
}

func shuffle[T any](rng *rand.Rand, s []T) {
	rng.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

// drawable returns those of specs that mean at least one of the nodes, and need
// no leader where there is none.
func (c ScheduleConfig) drawable(specs []string) []string {
	return slices.DeleteFunc(slices.Clone(specs), func(spec string) bool {
		_, err := countTargets(spec, c.Nodes)
		return err != nil || byRole(spec) && c.Keys <= 0
	})
}

// takeTurns returns count names, every one of names once before any comes again.
func takeTurns(rng *rand.Rand, names []string, count int) []string {
	d := &deck{cards: names}
	turns := make([]string, count)
	for i := range turns {
		turns[i] = d.next(rng)
	}
	return turns
}

// deck deals its cards in random order, all of them before any comes again.
type deck struct {
	cards []string
	left  []string
}

func (d *deck) next(rng *rand.Rand) string {
	if len(d.left) == 0 {
		d.left = slices.Clone(d.cards)
		shuffle(rng, d.left)
	}
	card := d.left[0]
	d.left = d.left[1:]
	return card
}

// jitter returns a whole number of milliseconds from 0 to limit.
func jitter(rng *rand.Rand, limit time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(limit/time.Millisecond)+1)) * time.Millisecond
}
