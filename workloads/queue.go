package workloads

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// What consumers of the queue workload do.
const (
	receiveMost = 4                      // messages that one receive asks for, at most
	receiveWait = 100 * time.Millisecond // how long a node may wait for messages
	heldMost    = 8                      // messages that a consumer holds before it settles some
	// Of so many messages one is kept for a while before it is settled, from keepLeast
	// on and for up to as much again.
	keepEvery = 32
	keepLeast = 500 * time.Millisecond
	// awayMost is how long a consumer that left stays away.
	awayMost = 2 * time.Second

	defaultReleases = 1.0 / 16
	defaultLeaves   = 10 * time.Second

	// A spell of one pace lasts from spellLeast on, and up to so much longer.
	spellLeast = time.Second
	spellMore  = 2 * time.Second
	// idlePeriod stands for the time between two messages of a producer where there is
	// no rate.
	idlePeriod = 5 * time.Millisecond

	maxConsumers = 1000
)

// validateQueue refuses what workload queue cannot be built from.
func (c Config) validateQueue() error {
	for _, k := range c.DeadLetters {
		if k < 0 || int(k) >= c.Keys {
			return fmt.Errorf("key %d takes dead letters: there are %d keys", k, c.Keys)
		}
	}
	switch {
	case len(c.sendable()) == 0:
		return fmt.Errorf("all %d keys take dead letters: at least one must be sent to", c.Keys)
	case c.Consumers > maxConsumers:
		return fmt.Errorf("%d consumers: at most %d are possible", c.Consumers, maxConsumers)
	case !(c.Releases <= 1):
		return fmt.Errorf("share of released messages %g: it is at most 1", c.Releases)
	case !(c.Rejects >= 0 && c.Rejects <= 1):
		return fmt.Errorf("share of rejected messages %g: it is from 0 to 1", c.Rejects)
	case c.Rejects > 0 && len(c.DeadLetters) == 0:
		return fmt.Errorf("share of rejected messages %g: no queue has dead letters", c.Rejects)
	case c.releases()+c.Rejects > 1:
		return fmt.Errorf("shares of released and of rejected messages, %g and %g: together they are at most 1", c.releases(), c.Rejects)
	}
	return nil
}

func (c Config) releases() float64 {
	switch {
	case c.Releases == 0:
		return min(defaultReleases, 1-c.Rejects)
	case c.Releases < 0:
		return 0
	}
	return c.Releases
}

// Queue builds the workload of queues. Producers are those of workload log: each
// value is sent once, whatever its outcome.
//
// Consumers take a few messages at a time from their queues in turn, hold up to
// eight, and settle each once: most are accepted, some released or rejected, by the
// shares of c; a few are kept for a while first. Now and then a consumer leaves, with
// what it holds, stays away and comes back. There are as many consumers as producers,
// or as c says; the first ones are pinned, as many of them as that share of the
// producers; with Readers all are, to these in turn, whoever leads. Consumer i takes from the queues whose number, of those that are sent
// to, leaves i when divided by their count, as pollers do.
//
// Without a pause of c, a consumer's pace changes from spell to spell: as fast as it
// can, at the pace of the producers, at half of it, or not at all. In half of the
// runs (it depends on the seed) nobody is as fast as he can: there a backlog grows.
//
// After a receive without an answer, a settlement that was not confirmed, and a
// receive that failed while it held something, a consumer leaves before it does
// anything else, whatever comes of that: nobody could say what it holds. See "A
// consumer's session" in docs/checking.md for what that asks of a client.
//
// Queue is pure: the same config gives the same generators. c must be valid.
func Queue(c Config) []ClientSpec {
	c.Nodes, c.Clients, c.Keys = max(c.Nodes, 1), max(c.Clients, 1), max(c.Keys, 1)
	specs := c.producers()
	n, keys := c.consumers(), c.sendable()
	groups := min(n, len(keys))
	pinned := 0
	if n > 0 {
		pinned = min(n, int(math.Ceil(float64(c.pinned())/float64(c.Clients)*float64(n))))
	}
	leisurely := rand.New(rand.NewPCG(c.Seed, 5<<32)).IntN(2) == 0
	period := idlePeriod
	if c.Rate > 0 {
		period = max(1, time.Duration(min(float64(n)/c.Rate, time.Hour.Seconds())*float64(time.Second)))
	}
	for i := range n {
		g := &consumer{
			rng: rand.New(rand.NewPCG(c.Seed, 6<<32|uint64(i))), pause: c.Pause, period: period, leisurely: leisurely,
			releases: c.releases(), rejects: c.Rejects, leaves: c.Leaves,
		}
		if g.leaves == 0 {
			g.leaves = defaultLeaves
		}
		for k := i % groups; k < len(keys); k += groups {
			g.keys = append(g.keys, keys[k])
		}
		pin := -1
		if i < pinned {
			pin = i % c.Nodes
		}
		loyal := len(c.Readers) > 0
		if loyal {
			pin = c.Readers[i%len(c.Readers)]
		}
		specs = append(specs, ClientSpec{Name: fmt.Sprintf("consumer-%d", i), Role: "consumer", Pinned: pin, Loyal: loyal, Gen: g})
	}
	return specs
}

// consumer takes messages from its queues in turn and settles them.
type consumer struct {
	keys      []int32
	turn      int // index of the queue that is asked
	rng       *rand.Rand
	pause     time.Duration // after each message; 0: by spells; negative: none
	period    time.Duration // between two messages, at the pace of the producers
	leisurely bool
	releases  float64
	rejects   float64
	leaves    time.Duration // negative: never of its own accord

	held    []holding
	unsure  bool          // it leaves before anything else
	leaveAt time.Duration // of its own accord; 0: not yet drawn
	spell   time.Duration // when the pace changes
	pace    pace
}

// holding is a message that was delivered and is to be settled.
type holding struct {
	key   int32
	value history.Value
	until time.Duration // it is kept until then
}

// pace is how fast a consumer takes messages.
type pace int

const (
	fast   pace = iota
	even        // as fast as they are sent
	half        // half as fast
	asleep      // it takes none
)

// Next implements Generator.
func (c *consumer) Next(now time.Duration, last *Result) Step {
	at := now
	if last != nil {
		at = c.learn(now, last)
	}
	if c.leaves > 0 && c.leaveAt == 0 {
		c.leaveAt = now + c.leaves/2 + time.Duration(c.rng.Int64N(int64(c.leaves)))
	}
	if c.unsure || c.leaves > 0 && at >= c.leaveAt {
		return Step{At: at, Op: &Op{Kind: history.Leave, Key: c.keys[0]}}
	}
	if at >= c.spell {
		c.change(at)
	}
	ripe := c.ripe(at)
	switch {
	case len(ripe) > 0 && (len(c.held) >= heldMost || c.rng.IntN(4) > 0):
		return c.settle(at, c.held[ripe[c.rng.IntN(len(ripe))]])
	case len(c.held) >= heldMost: // it keeps all of them
		return Step{At: slices.MinFunc(c.held, func(a, b holding) int { return cmp.Compare(a.until, b.until) }).until}
	case c.pause == 0 && c.pace == asleep:
		wake := c.spell
		for _, h := range c.held {
			wake = min(wake, h.until)
		}
		return Step{At: max(at+pollPause, wake)}
	}
	key := c.keys[c.turn]
	c.turn = (c.turn + 1) % len(c.keys)
	return Step{At: at, Op: &Op{Kind: history.Receive, Key: key, Max: 1 + c.rng.IntN(min(receiveMost, heldMost-len(c.held))), Wait: receiveWait}}
}

// ripe are the indices of what is held and need not be kept.
func (c *consumer) ripe(now time.Duration) []int {
	var all []int
	for i, h := range c.held {
		if h.until <= now {
			all = append(all, i)
		}
	}
	return all
}

// settle settles h, one way or another.
func (c *consumer) settle(at time.Duration, h holding) Step {
	kind := history.Accept
	switch x := c.rng.Float64(); {
	case x < c.releases:
		kind = history.Release
	case x < c.releases+c.rejects:
		kind = history.Reject
	}
	return Step{At: at, Op: &Op{Kind: kind, Key: h.key, Value: h.value}}
}

// change begins another spell.
func (c *consumer) change(now time.Duration) {
	c.spell = now + spellLeast + time.Duration(c.rng.Int64N(int64(spellMore)))
	paces := []pace{fast, fast, fast, even, half, asleep}
	if c.leisurely {
		paces = []pace{even, even, even, even, half, asleep}
	}
	c.pace = paces[c.rng.IntN(len(paces))]
	if c.pace == asleep {
		c.spell = now + spellLeast
	}
}

// rest is the pause after a message that was settled.
func (c *consumer) rest() time.Duration {
	switch {
	case c.pause != 0:
		return max(c.pause, 0)
	case c.pace == even:
		return c.period
	case c.pace == half:
		return 2 * c.period
	}
	return 0
}

// learn takes the answer to the last operation and returns when to go on.
func (c *consumer) learn(now time.Duration, last *Result) time.Duration {
	ok := last.Outcome == history.OK
	switch kind := last.Op.Kind; {
	case kind == history.Leave:
		// Whatever was answered, the session is over for this client.
		own := !c.unsure
		c.held, c.unsure, c.leaveAt = nil, false, 0
		if own {
			now += time.Duration(c.rng.Int64N(int64(awayMost)))
		}
	case kind == history.Receive:
		c.unsure = last.Outcome == history.Indeterminate || !ok && len(c.held) > 0
		if ok {
			for _, r := range last.Records {
				c.take(now, last.Op.Key, r)
			}
			if len(last.Records) == 0 {
				return now + pollPause
			}
		}
	case ok:
		c.held = slices.DeleteFunc(c.held, func(h holding) bool { return h.value == last.Op.Value })
		return now + c.rest()
	default:
		c.unsure = true
	}
	if !ok {
		return standBack(now, backOff, c.rng)
	}
	return now
}

// take holds a message that was delivered. One that it held before is held by its
// last delivery.
func (c *consumer) take(now time.Duration, key int32, r history.Record) {
	if r.Payload != history.Good {
		return // it has no name by which it could be settled
	}
	c.held = slices.DeleteFunc(c.held, func(h holding) bool { return h.value == r.Value })
	h := holding{key: key, value: r.Value}
	if c.rng.IntN(keepEvery) == 0 {
		h.until = now + keepLeast + time.Duration(c.rng.Int64N(int64(keepLeast)))
	}
	c.held = append(c.held, h)
}
