package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/faultline-mq/faultline/nemesis"
)

// direction is one way between two endpoints.
type direction struct {
	rand   *rand.Rand
	rules  []*rule
	shapes []*shape

	// Nonces pass while no rule of AnyPort is in force.
	anyPort   int           // such rules
	openSince time.Duration // of the present opening
	received  uint64        // highest nonce of former openings
}

// rule is one cut in force.
type rule struct {
	cut     nemesis.Cut
	newOnly bool
	since   uint64 // NewOnly: connections up to this number are spared
	dropped uint64
}

// ruleSet is what one Block installed.
type ruleSet struct {
	rules []*rule
	off   bool // sabotage took it out of force
}

func (w *World) dir(from, to int) *direction { return &w.dirs[from*w.endpoints()+to] }

func (r *rule) hits(c *conn) bool {
	if r.cut.Port != nemesis.AnyPort && r.cut.Port != c.ch.Port {
		return false
	}
	return !r.newOnly || c.id > r.since
}

// blocks reports whether a packet of c is dropped between these endpoints.
func (w *World) blocks(from, to int, c *conn) bool {
	for _, r := range w.dir(from, to).rules {
		if r.hits(c) {
			return true
		}
	}
	return false
}

// drops is blocks, and counts the packet.
func (w *World) drops(from, to int, c *conn) bool {
	d := w.dir(from, to)
	if len(d.rules) == 0 {
		return false
	}
	hit := false
	for _, r := range d.rules {
		if r.hits(c) {
			r.dropped++
			hit = true
		}
	}
	return hit
}

// nonceLatency is the travel time of a nonce.
func (w *World) nonceLatency() time.Duration { return w.opts.Latency.Base }

// reached is the highest nonce that has arrived by now. Nonce k leaves at k
// times NonceInterval; it arrives where its direction was open from then until
// its arrival.
func (w *World) reached(d *direction) uint64 {
	if d.anyPort > 0 || w.now < w.nonceLatency() {
		return d.received
	}
	k := (w.now - w.nonceLatency()) / nemesis.NonceInterval
	if k*nemesis.NonceInterval < d.openSince {
		return d.received
	}
	return max(d.received, uint64(k))
}

func (w *World) addRule(r *rule) {
	d := w.dir(w.index[r.cut.From], w.index[r.cut.To])
	if r.cut.Port == nemesis.AnyPort && !r.newOnly {
		d.received = w.reached(d)
		d.anyPort++
	}
	d.rules = append(d.rules, r)
}

func (w *World) removeRule(r *rule) {
	d := w.dir(w.index[r.cut.From], w.index[r.cut.To])
	d.rules = slices.DeleteFunc(d.rules, func(o *rule) bool { return o == r })
	if r.cut.Port == nemesis.AnyPort && !r.newOnly {
		d.anyPort--
		if d.anyPort == 0 {
			d.openSince = w.now
		}
	}
}

// disable takes a rule set out of force.
func (w *World) disable(s *ruleSet) {
	if s.off {
		return
	}
	s.off = true
	for _, r := range s.rules {
		if !w.stubbed(r.cut) {
			w.removeRule(r)
		}
	}
	w.pathsChanged()
}

// stubbed reports whether sabotage keeps a cut from being installed.
func (w *World) stubbed(c nemesis.Cut) bool {
	s := w.opts.Sabotage
	return s.Mode == Stubbed || s.Mode == StubbedNode && c.To == s.Node
}

// network implements nemesis.Network.
type network struct{ w *World }

var _ nemesis.Network = network{}

func (n network) Block(ctx context.Context, id string, cuts []nemesis.Cut) error {
	w := n.w
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, known := w.sets[id]; known {
		return fmt.Errorf("block %q: this rule set exists already: unblock it first", id)
	}
	if len(cuts) == 0 {
		return fmt.Errorf("block %q: no cuts given", id)
	}
	for _, c := range cuts {
		for _, e := range []string{c.From, c.To} {
			if _, ok := w.index[e]; !ok {
				return fmt.Errorf("block %q: unknown endpoint %q: known are %v and %q", id, e, w.names, nemesis.Clients)
			}
		}
		if c.From == c.To {
			return fmt.Errorf("block %q: the cut from %q to itself cuts nothing", id, c.From)
		}
		switch c.Port {
		case nemesis.AnyPort, nemesis.ClientPort, nemesis.PeerPort, nemesis.QuorumPort:
		default:
			return fmt.Errorf("block %q: unknown port %q", id, c.Port)
		}
	}
	s := &ruleSet{}
	w.sets[id] = s
	for _, c := range cuts {
		if slices.ContainsFunc(s.rules, func(r *rule) bool { return r.cut == c }) {
			continue
		}
		r := &rule{cut: c, newOnly: w.opts.Sabotage.Mode == NewOnly, since: w.connSeq}
		s.rules = append(s.rules, r)
		if !w.stubbed(c) {
			w.addRule(r)
		}
	}
	if sab := w.opts.Sabotage; sab.Mode == RemovedAfter {
		w.queue.push(w.now+sab.After, action{kind: evRulesOff, on: s})
	}
	return nil
}

func (n network) Unblock(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, known := n.w.sets[id]
	if !known {
		return fmt.Errorf("unblock %q: no such rule set", id)
	}
	delete(n.w.sets, id)
	n.w.disable(s)
	return nil
}

func (n network) Observe(ctx context.Context) (nemesis.Observation, error) {
	if err := ctx.Err(); err != nil {
		return nemesis.Observation{}, err
	}
	w := n.w
	o := nemesis.Observation{
		Reach:   map[nemesis.Pair]nemesis.Reach{},
		Boots:   map[string]string{},
		Dropped: map[string]map[nemesis.Cut]uint64{},
	}
	for from := range w.endpoints() {
		name := w.endpoint(from)
		o.Boots[name] = "sim-" + strconv.FormatUint(w.opts.Seed, 10) + "-" + name
		for to := range w.endpoints() {
			if from != to {
				o.Reach[nemesis.Pair{From: name, To: w.endpoint(to)}] = nemesis.Reach{
					Sent:     uint64(w.now / nemesis.NonceInterval),
					Received: w.reached(w.dir(from, to)),
				}
			}
		}
	}
	for id, s := range w.sets {
		counts := map[nemesis.Cut]uint64{}
		for _, r := range s.rules {
			counts[r.cut] = r.dropped
		}
		o.Dropped[id] = counts
	}
	return o, nil
}
