package peers

import (
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/broker"
)

// step takes over the time.
func (p *Peers) step(now broker.Time) {
	if now.Mono >= p.now.Mono {
		p.now = now
	}
}

func (p *Peers) other(id broker.NodeID) *neighbour {
	if i := slices.IndexFunc(p.others, func(o *neighbour) bool { return o.id == id }); i >= 0 {
		return p.others[i]
	}
	return nil
}

// Message takes a message of another node.
func (p *Peers) Message(now broker.Time, from broker.NodeID, msg broker.Message) {
	p.step(now)
	o := p.other(from)
	if o == nil {
		p.logf("debug", "dropped a message of node %d, which is no member", from)
		return
	}
	switch m := msg.(type) {
	case *Heartbeat:
		p.heartbeat(o, m)
	case *Metadata:
		p.learn(o, m)
	case *Rejoin:
		if m.Session == p.session() && p.phase == joined {
			p.rejoin(m.Winners, fmt.Sprintf("autoheal: %v go on", p.names(m.Winners)))
		}
	default:
		p.logf("warn", "dropped a message of node %d of unknown type %T", from, msg)
	}
	p.tryJoin()
}

// Link: a stream to a node that broke is its death, whatever heartbeats say, until it
// shows that it hears this node again.
func (p *Peers) Link(now broker.Time, id broker.NodeID, up bool) {
	p.step(now)
	o := p.other(id)
	switch {
	case o == nil:
	case up:
		p.beat = true // the peer waits for it
		if o.session != "" {
			p.send(o.id, p.metadata())
		}
	default:
		o.minEcho = p.seq
		p.lost(o)
		p.estrangedLost()
	}
}

// estrangedLost tells the machines if a node is out of reach that was not live: its loss
// is nobody's death.
func (p *Peers) estrangedLost() {
	if p.phase == joined && !slices.Equal(p.partners(), p.shown) {
		p.show()
		p.changed()
	}
}

func (p *Peers) heartbeat(o *neighbour, hb *Heartbeat) {
	if o.session == hb.Session && hb.Seq <= o.hb.Seq {
		return
	}
	known, before := o.session == hb.Session, p.reached(o)
	if !known {
		if o.session != "" {
			p.lost(o) // another incarnation: the former one is dead
		}
		o.session, o.dead, o.echoSeq = hb.Session, "", 0
		p.beat = true
		p.send(o.id, p.metadata())
	}
	joinedNow := hb.Joined && !o.hb.Joined
	o.hb, o.heardAt = *hb, p.now.Mono
	if hb.Heard == p.session() && hb.HeardSeq > o.echoSeq {
		o.echoSeq, o.echoAt = hb.HeardSeq, p.now.Mono
	}
	if hb.Dead && hb.Heard == p.session() && o.live {
		p.lost(o)
	}
	p.accept(o)
	if before != p.reached(o) || joinedNow {
		p.beat = true
		p.show()
		if p.phase == joined {
			p.changed()
		}
	}
}

// accept takes a node for a partner that joined this one's side: it counts this node,
// or a partner of this node, among its own.
func (p *Peers) accept(o *neighbour) {
	if p.phase != joined || o.live || !p.reached(o) || !o.hb.Joined || p.estranged(o) {
		return
	}
	if live := p.live(); !slices.ContainsFunc(o.hb.Live, func(id broker.NodeID) bool { return slices.Contains(live, id) }) {
		return
	}
	o.live, o.left = true, false
	p.last, p.told, p.beat = p.live(), true, true
	if o.meta != nil && o.meta.Joined && o.meta.Session == o.session {
		p.merge(o.meta, p.mine(o))
	}
	p.logf("info", "%s is a member of this cluster again", p.name(o.id))
	p.changed()
}

// part tells, once, of a node that is reached again and is another cluster's now
// (Mnesia: running_partitioned_network).
func (p *Peers) part(o *neighbour) {
	if p.phase != joined || !o.hb.Joined || o.parted == o.session || !p.estranged(o) || !p.reached(o) {
		return
	}
	o.parted = o.session
	p.out.Events = append(p.out.Events, broker.Event{Kind: "partitioned", Epoch: -1, Leader: p.name(o.id), Detail: fmt.Sprintf("%s is there again, and one of the two had taken the other for dead: they are two clusters", p.name(o.id))})
}

// lost declares a node dead if it counted as alive, and applies the partition policy.
func (p *Peers) lost(dead ...*neighbour) {
	any := false
	for _, o := range dead {
		if !o.live {
			continue
		}
		any = true
		o.live, o.dead, o.left = false, o.session, o.hb.Leaving
		p.out.Events = append(p.out.Events, broker.Event{Kind: "peer-down", Epoch: -1, Leader: p.name(o.id), Detail: fmt.Sprintf("%s is dead in the view of this node", p.name(o.id))})
	}
	p.show()
	if !any || p.phase != joined {
		return
	}
	p.beat = true
	p.unchecked()
	p.check()
	if p.phase == joined {
		p.last, p.told = p.live(), true
		p.changed()
	}
}

// unchecked tells the machines who died before the policy speaks.
func (p *Peers) unchecked() {
	from := len(p.out.Changes)
	p.changed()
	for _, ch := range p.out.Changes[from:] {
		ch.Peers.Unchecked = true
	}
}

// check pauses a node that sees no more than half of all members.
func (p *Peers) check() {
	if p.cfg.Policy != PauseMinority || p.phase != joined || 2*len(p.all()) > len(p.others)+1 {
		return
	}
	p.phase, p.since, p.told, p.beat = paused, p.now.Mono, true, true
	p.out.Events = append(p.out.Events, broker.Event{Kind: "fenced", Epoch: -1, Detail: fmt.Sprintf("pause_minority: it sees %d of %d members", len(p.all()), len(p.others)+1)})
	p.show()
	p.changed()
}

// rejoin lets this node join the cluster as if it had restarted.
func (p *Peers) rejoin(winners []broker.NodeID, why string) {
	p.gen++
	p.phase, p.since, p.winners, p.split = joining, p.now.Mono, winners, -1
	for _, o := range p.others {
		o.live, o.dead, o.left, o.meta, o.echoSeq = false, "", false, nil, 0
	}
	p.told, p.beat = true, true
	p.out.Events = append(p.out.Events, broker.Event{Kind: "fenced", Epoch: -1, Detail: "joins anew: " + why})
	p.show()
	p.changed()
}

// Tick is the timer: heartbeats go out, and who was not heard for TickTime is dead.
func (p *Peers) Tick(now broker.Time) {
	p.step(now)
	if now.Mono < p.nextAt && p.started {
		return
	}
	if gap := now.Mono - p.lastAt; p.started && gap > 2*p.interval() {
		// This process stood still: its clock went on, and the others' words wait to be
		// read. Erlang counts ticks, not time, and forgives it likewise.
		for _, o := range p.others {
			o.heardAt, o.echoAt = o.heardAt+gap, o.echoAt+gap
		}
	}
	p.started, p.lastAt, p.nextAt = true, now.Mono, now.Mono+p.interval()
	p.clients = slices.DeleteFunc(p.clients, func(c client) bool { return now.Mono-c.at > clientAge })
	var silent []*neighbour
	for _, o := range p.others {
		if o.live && !p.reached(o) && now.Mono >= o.grace {
			silent = append(silent, o)
		}
	}
	p.lost(silent...)
	for _, o := range p.others {
		p.part(o) // not at once: what it says first may be from before it paused or joined anew
	}
	p.estrangedLost()
	p.check()
	if p.phase == paused && now.Mono-p.since >= pauseCheck {
		p.since = now.Mono
		if 2*len(p.all()) > len(p.others)+1 {
			p.last = p.all()
			p.rejoin(nil, "it sees a majority again")
		}
	}
	p.tryJoin()
	if p.cfg.Policy == Autoheal {
		p.heal()
	}
	p.show()
	p.beat = true
}

func (p *Peers) beatAll() {
	p.seq++
	live, reached := p.live(), p.all()
	for _, o := range p.others {
		p.send(o.id, &Heartbeat{
			Session: p.session(), Seq: p.seq, Heard: o.session, HeardSeq: o.hb.Seq, Dead: o.dead != "" && o.dead == o.session,
			Joined: p.phase == joined, Leaving: p.leaving, Live: live, Reached: reached, Clients: int32(len(p.clients)),
			Host: p.cfg.Host, Port: p.cfg.Port, Rack: p.cfg.Rack,
		})
	}
}

// heal ends a partition that is over: all nodes reach each other, and are still
// several clusters. The lowest of them decides: the side with most clients goes on,
// then the one with most nodes, then the one with the lowest node.
func (p *Peers) heal() {
	sides := p.sides()
	if len(sides) < 2 {
		p.split = -1
		return
	}
	if p.split < 0 {
		p.split = p.now.Mono
	}
	if p.now.Mono-p.split < 2*p.interval() || p.all()[0] != p.cfg.ID {
		return
	}
	clients := func(side []broker.NodeID) int32 {
		n := int32(0)
		for _, id := range side {
			if o := p.other(id); o != nil {
				n += o.hb.Clients
			} else {
				n += int32(len(p.clients))
			}
		}
		return n
	}
	winner := slices.MaxFunc(sides, func(a, b []broker.NodeID) int {
		if d := clients(a) - clients(b); d != 0 {
			return int(d)
		}
		return len(a) - len(b)
	})
	p.logf("warn", "autoheal: of %v the side %v goes on", sides, winner)
	for _, id := range p.all() {
		if o := p.other(id); o != nil && !slices.Contains(winner, id) {
			p.send(id, &Rejoin{Session: o.session, Winners: winner})
		}
	}
	if !slices.Contains(winner, p.cfg.ID) {
		p.rejoin(winner, fmt.Sprintf("autoheal: %v go on", p.names(winner)))
	}
}

// sides are the clusters that the reached nodes form, nil where not all of them reach
// each other or one is not joined.
func (p *Peers) sides() [][]broker.NodeID {
	all := p.all()
	view := func(id broker.NodeID) (live, reached []broker.NodeID, in bool) {
		if o := p.other(id); o != nil {
			return o.hb.Live, o.hb.Reached, o.hb.Joined
		}
		return p.live(), all, p.phase == joined
	}
	var sides [][]broker.NodeID
	for _, id := range all {
		live, reached, in := view(id)
		if !in || !slices.Equal(reached, all) {
			return nil
		}
		i := slices.IndexFunc(sides, func(side []broker.NodeID) bool {
			back, _, _ := view(side[0])
			return slices.Contains(live, side[0]) && slices.Contains(back, id)
		})
		if i < 0 {
			sides = append(sides, []broker.NodeID{id})
		} else {
			sides[i] = append(sides[i], id)
		}
	}
	return sides
}
