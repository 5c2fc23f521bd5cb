package workloads

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// How the log workload polls, and how long clients stand back.
const (
	pollBytes = 1 << 20                // wanted at most by one poll
	pollWait  = 100 * time.Millisecond // how long a node may wait for records
	// pollPause follows an empty poll: some systems answer at once whatever was
	// asked for, and must not be polled without end in one moment.
	pollPause = 10 * time.Millisecond
	// backOff is the least time after an operation that was not ok; up to as much
	// is added, drawn from the seed, so that clients do not return in step.
	backOff = 50 * time.Millisecond
	// eagerBackOff is that of loyal pollers: they are to be there when their node
	// begins to lead.
	eagerBackOff = 30 * time.Millisecond
	maxLoyal     = 16
	maxSeekers   = 16
	// A seeker goes back after one of so many answers with records, on average. It
	// reads little at a time, or it would be through at once.
	seekEvery = 8
	seekBytes = 4 << 10
)

// Validate refuses what no workload can be built from.
func (c Config) Validate() error {
	switch {
	case c.Nodes < 1:
		return fmt.Errorf("%d nodes: a workload needs at least one", c.Nodes)
	case c.Clients < 1:
		return fmt.Errorf("%d clients: a workload needs at least one", c.Clients)
	case c.Clients >= 1<<24:
		return fmt.Errorf("%d clients: at most %d have a number", c.Clients, 1<<24-1)
	case c.Keys < 1:
		return fmt.Errorf("%d partitions: a workload needs at least one", c.Keys)
	case c.Keys > math.MaxInt32:
		return fmt.Errorf("%d partitions: at most %d have a number", c.Keys, math.MaxInt32)
	case c.Size < MinPayload:
		return fmt.Errorf("payloads of %d bytes: they need at least %d", c.Size, MinPayload)
	case c.Rate < 0 || math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0):
		return fmt.Errorf("rate of %g operations per second: it is 0 (closed loop) or more", c.Rate)
	case c.Rate > 0 && float64(c.Clients)/c.Rate > time.Hour.Seconds():
		return fmt.Errorf("rate of %g operations per second over %d clients: each would send less than once an hour", c.Rate, c.Clients)
	case c.Pinned > 1 || math.IsNaN(c.Pinned):
		return fmt.Errorf("share of pinned producers %g: it is at most 1", c.Pinned)
	case !(c.Idempotent >= 0 && c.Idempotent <= 1):
		return fmt.Errorf("share of idempotent producers %g: it is from 0 to 1", c.Idempotent)
	case c.Loyal < 0 || c.Loyal > maxLoyal:
		return fmt.Errorf("%d loyal pollers of each node: 0 to %d are possible", c.Loyal, maxLoyal)
	case c.Seekers < 0 || c.Seekers > maxSeekers:
		return fmt.Errorf("%d seekers: 0 to %d are possible", c.Seekers, maxSeekers)
	case slices.ContainsFunc(slices.Concat(c.Senders, c.Readers), func(i int) bool { return i < 0 || i >= c.Nodes }):
		return fmt.Errorf("senders %v, readers %v: numbers of %d nodes from 0 on are possible", c.Senders, c.Readers, c.Nodes)
	case c.ThinkTime < 0:
		return fmt.Errorf("think time %s: it is 0 or more", c.ThinkTime)
	}
	return c.validateQueue()
}

// pinned returns how many of the producers are pinned: a half where c does not
// say, none where it says a negative share; rounded up.
func (c Config) pinned() int {
	share := c.Pinned
	switch {
	case share == 0:
		share = 0.5
	case share < 0:
		return 0
	}
	return min(c.Clients, int(math.Ceil(share*float64(c.Clients))))
}

// Log builds the workload of a replicated log. Producers send unique values to
// partitions drawn from the seed, each value once, whatever its outcome. The
// first ones are pinned to a node each, in turn. With a rate, sends are paced
// evenly over all producers, and one that fell behind catches up; without one,
// each producer sends when it was answered and has thought.
//
// Pollers read every partition from offset 0 on: as many as there are
// producers, or partitions if these are fewer; poller i reads the partitions
// whose number leaves i when divided by their count. They follow the newest
// leader. Where producers are pinned, as many pinned ones read the same
// partitions by their own node's word, and so see what a cut-off leader serves.
//
// Idempotent producers are the last ones, so that these follow the newest leader
// where not all do. Loyal pollers divide the partitions among those of one node.
//
// Senders and Readers place all clients: producers at some nodes, pollers at others.
//
// Log is pure: the same config gives the same generators. c must be valid
// (Validate); less than one node, client or partition counts as one.
func Log(c Config) []ClientSpec {
	c.Nodes, c.Clients, c.Keys = max(c.Nodes, 1), max(c.Clients, 1), max(c.Keys, 1)
	pinned := c.pinned()
	specs := c.producers()
	if len(c.Readers) > 0 {
		return append(specs, c.readers()...)
	}
	groups := min(c.Clients, c.Keys)
	pollers := groups
	if pinned > 0 {
		pollers *= 2
	}
	for i := range pollers {
		p := &poller{rng: rand.New(rand.NewPCG(c.Seed, 1<<32|uint64(i))), backOff: backOff}
		for k := i % groups; k < c.Keys; k += groups {
			p.parts = append(p.parts, part{key: int32(k)})
		}
		pin := -1
		if i >= groups {
			pin = (i - groups) % c.Nodes
		}
		specs = append(specs, ClientSpec{Name: fmt.Sprintf("poller-%d", i), Role: "poller", Pinned: pin, Gen: p})
	}
	for i := range c.Nodes * min(c.Loyal, c.Keys) {
		p := &poller{rng: rand.New(rand.NewPCG(c.Seed, 2<<32|uint64(i))), backOff: eagerBackOff}
		for k := i / c.Nodes; k < c.Keys; k += c.Loyal {
			p.parts = append(p.parts, part{key: int32(k)})
		}
		specs = append(specs, ClientSpec{Name: fmt.Sprintf("loyal-%d", i), Role: "poller", Pinned: i % c.Nodes, Loyal: true, Gen: p})
	}
	for i := range c.Seekers {
		p := &poller{rng: rand.New(rand.NewPCG(c.Seed, 3<<32|uint64(i))), backOff: backOff, seeks: true}
		for k := range c.Keys {
			p.parts = append(p.parts, part{key: int32(k)})
		}
		specs = append(specs, ClientSpec{Name: fmt.Sprintf("seeker-%d", i), Role: "poller", Pinned: -1, Gen: p})
	}
	return specs
}

// producers are those of workload log, which others have too.
func (c Config) producers() []ClientSpec {
	pinned, keys := c.pinned(), c.sendable()
	idempotent := int(math.Round(c.Idempotent * float64(c.Clients)))
	var specs []ClientSpec
	for i := range c.Clients {
		p := &producer{
			id:    int32(i),
			keys:  keys,
			size:  max(c.Size, MinPayload),
			think: c.ThinkTime,
			rng:   rand.New(rand.NewPCG(c.Seed, uint64(i))),
		}
		if c.Rate > 0 {
			p.every = max(1, time.Duration(min(float64(c.Clients)/c.Rate, time.Hour.Seconds())*float64(time.Second)))
			p.phase = p.every * time.Duration(i) / time.Duration(c.Clients)
		}
		pin := -1
		if i < pinned {
			pin = i % c.Nodes
		}
		loyal := len(c.Senders) > 0
		if loyal {
			pin = c.Senders[i%len(c.Senders)]
		}
		specs = append(specs, ClientSpec{Name: fmt.Sprintf("producer-%d", i), Role: "producer", Pinned: pin, Loyal: loyal, Idempotent: i >= c.Clients-idempotent, Gen: p})
	}
	return specs
}

// readers are the only pollers of a workload that names their nodes.
func (c Config) readers() []ClientSpec {
	var specs []ClientSpec
	for i, node := range c.Readers {
		p := &poller{rng: rand.New(rand.NewPCG(c.Seed, 4<<32|uint64(i))), backOff: eagerBackOff}
		for k := range c.Keys {
			p.parts = append(p.parts, part{key: int32(k)})
		}
		specs = append(specs, ClientSpec{Name: fmt.Sprintf("reader-%d", i), Role: "poller", Pinned: node, Loyal: true, Gen: p})
	}
	return specs
}

// standBack returns when a client may go on after an operation that was not ok.
func standBack(now, least time.Duration, rng *rand.Rand) time.Duration {
	return now + least + time.Duration(rng.Int64N(int64(least)))
}

// producer sends values 1, 2, 3, … of its own.
type producer struct {
	id    int32
	keys  []int32
	size  int
	think time.Duration
	every time.Duration // open loop: between two sends; 0 = closed loop
	phase time.Duration // of its first send
	rng   *rand.Rand

	started bool
	start   time.Duration
	seq     int64
}

// Next implements Generator. An indeterminate send is not repeated: whether it
// took effect is for the drain to say.
func (p *producer) Next(now time.Duration, last *Result) Step {
	if !p.started {
		p.started, p.start = true, now
	}
	at, due := now, time.Duration(0)
	switch {
	case p.every > 0:
		at = p.start + p.phase + time.Duration(p.seq)*p.every
		due = at
	case last != nil:
		at = now + p.think
	}
	if last != nil && last.Outcome != history.OK {
		at = max(at, standBack(now, backOff, p.rng))
	}
	p.seq++
	return Step{At: at, Due: due, Op: &Op{
		Kind:  history.Send,
		Key:   p.keys[p.rng.IntN(len(p.keys))],
		Value: history.MakeValue(p.id, p.seq),
		Size:  p.size,
	}}
}

// part is a poller's position in one partition.
type part struct {
	key   int32
	from  int64
	moved bool // on purpose, and not yet answered since
}

// poller reads its partitions in turn.
type poller struct {
	parts []part
	turn  int // index of the partition that is being polled
	rng   *rand.Rand

	backOff time.Duration
	seeks   bool // it goes back now and then
}

// Next implements Generator.
func (p *poller) Next(now time.Duration, last *Result) Step {
	at := now
	if last != nil {
		at = p.learn(now, last)
		p.turn = (p.turn + 1) % len(p.parts)
	}
	part, most := p.parts[p.turn], pollBytes
	if p.seeks {
		most = seekBytes
	}
	return Step{At: at, Op: &Op{
		Kind:  history.Poll,
		Key:   part.key,
		From:  part.from,
		Max:   most,
		Wait:  pollWait,
		Reset: part.moved,
	}}
}

// learn takes the answer to the last poll and returns when to go on. Only
// delivered records advance a position; only a node that says that the position
// is outside its log moves it otherwise.
func (p *poller) learn(now time.Duration, last *Result) time.Duration {
	part := &p.parts[p.turn]
	switch {
	case last.OutOfRange:
		to := last.Start
		if part.from > last.Start && last.High != history.NoOffset {
			to = max(last.Start, last.High)
		}
		part.from, part.moved = max(to, 0), true
		return standBack(now, p.backOff, p.rng)
	case last.Outcome != history.OK:
		return standBack(now, p.backOff, p.rng)
	}
	part.moved = false
	if len(last.Records) == 0 {
		return now + pollPause
	}
	part.from = max(part.from, last.Records[len(last.Records)-1].Offset+1)
	if !p.seeks {
		return now
	}
	if p.rng.IntN(seekEvery) == 0 {
		part.from, part.moved = p.rng.Int64N(part.from), true
	}
	return now + pollPause
}
