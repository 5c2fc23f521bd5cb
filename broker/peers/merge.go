package peers

import (
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/scheme"
)

func (p *Peers) metadata() *Metadata {
	m := &Metadata{Session: p.session(), Joined: p.phase == joined, Deleted: slices.Clone(p.deleted)}
	for _, t := range p.topics {
		m.Topics = append(m.Topics, t.copy())
	}
	return m
}

func (t *Topic) copy() Topic {
	c := Topic{Topic: t.Topic}
	for _, r := range t.Records {
		c.Records = append(c.Records, copied(r))
	}
	return c
}

// learn takes what another node knows.
func (p *Peers) learn(o *neighbour, m *Metadata) {
	if p.phase == paused {
		return
	}
	if !m.valid() {
		p.logf("warn", "dropped what %s told of topics: it is not whole", p.name(o.id))
		return
	}
	o.meta, o.metaOf = m, p.session() // it may come before the session's first heartbeat
	if p.phase == joined && m.Joined && m.Session == o.session {
		p.merge(m, p.mine(o))
	}
}

// valid reports whether metadata has the shape that this package and the machines rely on.
func (m *Metadata) valid() bool {
	return !slices.ContainsFunc(m.Topics, func(t Topic) bool { return !t.valid() })
}

func (t *Topic) valid() bool {
	return len(t.Records) == len(t.Topic.Partitions) && !slices.Contains(t.Topic.Partitions, nil) && !slices.ContainsFunc(t.Records, func(r scheme.Record) bool {
		return len(r.Mirrors) == 0 || r.Mirrors[0] != r.Master || len(r.Sessions) != len(r.Mirrors)
	})
}

// mine says which records of another node are about this node's cluster: those of a
// partner, unless they name a master that is dead in this node's view. Where a
// partition is not the same for all, nodes would otherwise contradict each other for ever.
func (p *Peers) mine(o *neighbour) func(scheme.Record) bool {
	live := p.live()
	return func(r scheme.Record) bool { return o.live && slices.Contains(live, r.Master) }
}

func everything(scheme.Record) bool { return true }

// merge takes over deletions and topics of another node, and those of its records that
// count and are newer. Of two topics of one name the older one stays; the other one
// goes with everything in it.
func (p *Peers) merge(m *Metadata, counts func(scheme.Record) bool) {
	for _, id := range m.Deleted {
		if slices.Contains(p.deleted, id) {
			continue
		}
		if t := p.topic(id); t != nil {
			p.drop(t)
		} else {
			p.deleted = append(p.deleted, id)
			p.told = true
		}
	}
	for i := range m.Topics {
		theirs := m.Topics[i].copy()
		p.counter = max(p.counter, theirs.Topic.Created>>16)
		own := p.topic(theirs.Topic.ID)
		switch {
		case slices.Contains(p.deleted, theirs.Topic.ID):
		case own == nil:
			p.arrive(&theirs)
		default:
			p.update(own, theirs.Records, counts)
		}
	}
}

// arrive takes over a topic that this node did not know.
func (p *Peers) arrive(t *Topic) {
	if i := slices.IndexFunc(p.topics, func(o *Topic) bool { return o.Topic.Name == t.Topic.Name }); i >= 0 {
		own := p.topics[i]
		if older(own, t) < 0 {
			p.logf("warn", "topic %s was created twice: the one of node %d goes, with what is in it", t.Topic.Name, t.Topic.Created&0xffff)
			p.deleted = append(p.deleted, t.Topic.ID)
			p.told = true
			return
		}
		p.logf("warn", "topic %s was created twice: the one of node %d goes, with what is in it", t.Topic.Name, own.Topic.Created&0xffff)
		p.drop(own)
	}
	p.add(t)
}

func (p *Peers) update(t *Topic, records []scheme.Record, counts func(scheme.Record) bool) {
	changed := false
	for i, r := range records {
		if i < len(t.Records) && counts(r) && r.Newer(t.Records[i]) {
			t.Records[i], changed = r, true
		}
	}
	if changed {
		p.told = true
		p.tell(t)
	}
}

// tryJoin makes this node part of the cluster as soon as it knows what the cluster knows:
//
//   - From members that are joined. It waits a moment for all of them; where they are
//     estranged from each other it takes the side with most clients, then most nodes.
//   - Where nobody is: when all are there that it last saw alive. Nobody then knows of a
//     later change (RabbitMQ: the last node to go down must be the first one up).
func (p *Peers) tryJoin() {
	if p.phase != joining {
		return
	}
	var ready []*neighbour // joined
	waiting := p.winners == nil
	for _, o := range p.others {
		if !p.reached(o) || o.meta == nil || o.metaOf != p.session() || o.meta.Session != o.session {
			waiting = waiting && !slices.Contains(p.last, o.id)
			continue
		}
		if o.meta.Joined && o.hb.Joined && (p.winners == nil || slices.Contains(p.winners, o.id)) {
			ready = append(ready, o)
		}
	}
	waited := p.now.Mono - p.since
	switch {
	case waited < 2*p.interval():
	case len(ready) > 0:
		p.join(p.side(ready), true)
	case waiting && (waited >= p.cfg.TickTime || len(p.all()) > len(p.others)):
		var all []*neighbour
		for _, o := range p.others {
			if slices.Contains(p.last, o.id) {
				all = append(all, o)
			}
		}
		p.join(all, false)
	}
}

// side is the part of nodes to join where they are several clusters.
func (p *Peers) side(nodes []*neighbour) []*neighbour {
	var best []*neighbour
	bestClients := int32(-1)
	for _, o := range nodes {
		var side []*neighbour
		clients := int32(0)
		for _, q := range nodes {
			if q == o || slices.Contains(o.hb.Live, q.id) && slices.Contains(q.hb.Live, o.id) {
				side = append(side, q)
				clients += q.hb.Clients
			}
		}
		if clients > bestClients || clients == bestClients && len(side) > len(best) {
			best, bestClients = side, clients
		}
	}
	return best
}

// join takes over what the others know. running: they are a cluster, and their word is
// newer than this node's own.
func (p *Peers) join(others []*neighbour, running bool) {
	own := p.topics
	if running {
		// What this node alone knew stays; what both know is theirs.
		for _, t := range own {
			for i := range t.Records {
				t.Records[i].Version = 0
			}
		}
	}
	for _, o := range others {
		p.merge(o.meta, everything)
		o.live, o.left = true, false
		if running {
			p.inherit(o.hb.Live)
		}
	}
	if !running {
		p.forgetMirrors()
	}
	for _, t := range p.topics {
		for i := range t.Records {
			t.Records[i].Version = max(t.Records[i].Version, 1)
		}
	}
	p.phase, p.since, p.winners = joined, p.now.Mono, nil
	p.last, p.told, p.beat = p.live(), true, true
	p.out.Events = append(p.out.Events, broker.Event{Kind: "unfenced", Epoch: -1, Detail: fmt.Sprintf("joined with %v", p.names(p.live()))})
	p.show()
	p.changed()
}

// inherit takes the members of the cluster that this node joins for live, though it has
// not heard all of them yet: they are not dead because of that.
func (p *Peers) inherit(live []broker.NodeID) {
	for _, id := range live {
		if o := p.other(id); o != nil && !o.live {
			o.live, o.left, o.grace = true, false, p.now.Mono+p.cfg.TickTime
		}
	}
}

// forgetMirrors: after all were down, each mirror begins empty, for it cannot know
// whether it diverged.
func (p *Peers) forgetMirrors() {
	for _, t := range p.topics {
		for i := range t.Records {
			r := &t.Records[i]
			if len(r.Mirrors) > 1 || len(r.Synced) > 1 {
				r.Mirrors, r.Synced, r.Sessions = []broker.NodeID{r.Master}, []broker.NodeID{r.Master}, []string{""}
				r.Version++
			}
		}
	}
}

func (p *Peers) names(ids []broker.NodeID) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = p.name(id)
	}
	return names
}
