package isr

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// chaos is a cluster under a random schedule. The authority is honest (it elects
// from the in-sync set) and slow: each node learns its decisions in order, some time.
type chaos struct {
	*cluster
	t       *testing.T
	rnd     *rand.Rand
	inbox   map[broker.NodeID][]func()
	sent    map[uint64]string
	acked   map[int64]string // offset → value of acks=all
	visible map[int64]string // what a consumer may have read
	moves   map[string]int   // what happened, by kind
	values  int
	// Of a reassignment.
	adding, removing []broker.NodeID
	former           map[broker.NodeID]bool // was a replica, and left
}

// TestRandom: whatever happens, short of an unclean election, what was acknowledged
// with acks=all or was visible to a consumer stays where it was; when all is quiet
// again the logs are equal.
func TestRandom(t *testing.T) {
	seeds := 300
	if testing.Short() {
		seeds = 50
	}
	total := map[string]int{}
	for seed := range seeds {
		x := newChaos(t, int64(seed))
		for i := range 1500 {
			x.step()
			if i%10 == 0 {
				x.observe()
			}
		}
		x.recover()
		for k, n := range x.moves {
			total[k] += n
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Log(total)
	for _, k := range []string{"acknowledged", "elected", "restarted", "applied", "refused", "unknown", "truncated", "reassigned", "left", "came back"} {
		require.Greater(t, total[k], seeds/2, "%s: the schedule is too tame: %v", k, total)
	}
}

func newChaos(t *testing.T, seed int64) *chaos {
	c := &cluster{
		down: map[string]bool{}, epochs: map[broker.NodeID]int64{}, fenced: map[broker.NodeID]bool{}, opts: scheme.DefaultOptions(), nextEpoch: 100,
		a: scheme.Assignment{Leader: 1, MinISR: 2, Epoch: 1, PartEpoch: 1},
	}
	c.quiet = true
	c.opts.ReplicaLag = time.Second
	x := &chaos{
		cluster: c, t: t, rnd: rand.New(rand.NewSource(seed)), inbox: map[broker.NodeID][]func(){},
		former: map[broker.NodeID]bool{}, sent: map[uint64]string{}, acked: map[int64]string{}, visible: map[int64]string{}, moves: map[string]int{},
	}
	c.produced = func(token uint64, p scheme.Produced) {
		if p.Code == 0 && x.sent[token] != "" {
			x.keep(x.acked, p.Base, x.sent[token], "acknowledged")
			x.moves["acknowledged"]++
		}
	}
	for i := range 4 {
		r := &replica{c: c, id: broker.NodeID(i + 1), index: logindex.New(0, nil)}
		c.nodes = append(c.nodes, r)
		if i < 3 {
			c.a.Replicas = append(c.a.Replicas, r.id)
		}
		c.boot(r)
	}
	c.a.ISR = slices.Clone(c.a.Replicas)
	x.announce()
	return x
}

func (x *chaos) keep(m map[int64]string, offset int64, value, what string) {
	old, ok := m[offset]
	require.False(x.t, ok && old != value, "offset %d: %s %q after %q", offset, what, value, old)
	m[offset] = value
}

// announce sends the authority's present decision to all.
func (x *chaos) announce() {
	a := x.a
	a.ISR, a.Replicas = slices.Clone(a.ISR), slices.Clone(a.Replicas)
	for _, r := range x.nodes {
		if r.up {
			x.inbox[r.id] = append(x.inbox[r.id], func() { x.assigned(r, a) })
		}
	}
}

// assigned tells a replica what was decided. One that is none any more loses its
// log, and is a new one when it comes back.
func (x *chaos) assigned(r *replica, a scheme.Assignment) {
	if slices.Contains(a.Replicas, r.id) {
		r.m.Assigned(a)
		return
	}
	if r.m.a.PartEpoch >= 0 && a.PartEpoch > r.m.a.PartEpoch {
		x.moves["left"]++
		r.m.Close()
		x.wipe(r)
	}
}

func (x *chaos) wipe(r *replica) {
	r.log, r.index, r.stable = nil, logindex.New(0, nil), 0
	r.m = New(r, x.opts, 0).(*Machine)
}

// reassign gives the partition other replicas, as the metadata quorum does.
func (x *chaos) reassign() {
	if len(x.adding)+len(x.removing) > 0 {
		return
	}
	var target []broker.NodeID
	for _, i := range x.rnd.Perm(len(x.nodes))[:2+x.rnd.Intn(2)] {
		target = append(target, x.nodes[i].id)
	}
	x.moves["reassigned"]++
	x.adding, x.removing = minus(target, x.a.Replicas), minus(x.a.Replicas, target)
	for _, id := range x.adding {
		if x.former[id] {
			x.moves["came back"]++
		}
	}
	x.a.Replicas = slices.Concat(target, x.removing)
	x.a.PartEpoch++
	x.announce()
	x.settleReplicas()
}

// settleReplicas completes a reassignment: the new replicas are in sync, and with
// them alone the minimum is.
func (x *chaos) settleReplicas() {
	target := minus(x.a.Replicas, x.removing)
	isr := minus(x.a.ISR, x.removing)
	if len(x.adding)+len(x.removing) == 0 || len(minus(x.adding, isr)) > 0 || len(isr) < min(x.a.MinISR, len(target)) {
		return
	}
	leader := x.a.Leader
	if slices.Contains(x.removing, leader) {
		i := slices.IndexFunc(isr, func(id broker.NodeID) bool { return !x.fenced[id] })
		if i < 0 {
			return
		}
		leader = isr[i]
	}
	gone := len(x.removing) > 0
	for _, id := range x.removing {
		x.former[id] = true
	}
	x.a.Replicas, x.a.ISR, x.adding, x.removing = target, isr, nil, nil
	if leader != x.a.Leader || gone {
		x.lead(leader)
		return
	}
	x.a.PartEpoch++
	x.announce()
}

func minus(ids, others []broker.NodeID) []broker.NodeID {
	return slices.DeleteFunc(slices.Clone(ids), func(id broker.NodeID) bool { return slices.Contains(others, id) })
}

func (x *chaos) any() *replica { return x.nodes[x.rnd.Intn(len(x.nodes))] }

func (x *chaos) step() {
	r := x.any()
	switch n := x.rnd.Intn(1000); {
	case n < 450:
		x.deliver(x.oldestOf(r.id))
	case n < 650:
		x.store(r)
	case n < 740:
		x.write(r)
	case n < 860:
		x.learn(r)
	case n < 930:
		x.wait(time.Duration(x.rnd.Intn(200)) * time.Millisecond)
	case n < 945:
		x.cutOrHeal()
	case n < 975:
		x.decide()
	case n < 982:
		x.election()
	case n < 985:
		x.reassign()
	case n < 988:
		if r.up && !slices.ContainsFunc(x.nodes, func(o *replica) bool { return !o.up }) {
			x.inbox[r.id] = nil
			x.die(r, x.rnd.Intn(2) == 0)
			x.authorityFences(r.id)
		}
	default:
		for _, o := range x.nodes {
			if !o.up {
				x.register(o)
			}
		}
	}
}

func (x *chaos) oldestOf(from broker.NodeID) int {
	if i := slices.IndexFunc(x.wires, func(e envelope) bool { return e.from == from }); i >= 0 && x.rnd.Intn(2) == 0 {
		return i
	}
	to := x.any().id
	return slices.IndexFunc(x.wires, func(e envelope) bool { return e.from == from && e.to == to })
}

func (x *chaos) write(r *replica) {
	if !r.up {
		return
	}
	x.values++
	x.token++
	value := fmt.Sprintf("v%d", x.values)
	b := testBatch(value, batch.NoProducer, 0, -1)
	info, err := batch.Parse(b)
	require.NoError(x.t, err)
	acks := int16(-1)
	if x.rnd.Intn(4) == 0 {
		acks = 1
	} else {
		x.sent[x.token] = value
	}
	r.values[x.token] = value
	r.m.Produce(scheme.Produce{Token: x.token, Batch: b, Info: info, Acks: acks, Timeout: time.Second})
}

func (x *chaos) learn(r *replica) {
	if q := x.inbox[r.id]; r.up && len(q) > 0 {
		x.inbox[r.id] = q[1:]
		q[0]()
	}
}

func (x *chaos) wait(d time.Duration) {
	x.now.Mono += d
	for _, r := range x.nodes {
		if r.up && r.m.NextWake() <= x.now.Mono {
			r.m.Wake()
		}
	}
}

func (x *chaos) cutOrHeal() {
	a, b := x.any(), x.any()
	if a == b {
		return
	}
	l := link(a.id, b.id)
	x.down[l] = !x.down[l]
	x.wires = slices.DeleteFunc(x.wires, func(e envelope) bool { return link(e.from, e.to) == l })
	for _, p := range [][2]*replica{{a, b}, {b, a}} {
		if p[0].up {
			p[0].m.Link(p[1].id, !x.down[l])
		}
	}
}

// decide answers a proposal, any of those under way, as the quorum does.
func (x *chaos) decide() {
	if len(x.proposals) == 0 {
		return
	}
	p := x.proposals[0]
	x.proposals = x.proposals[1:]
	unknown := x.rnd.Intn(4) == 0
	answer := func(code int16) {
		if unknown {
			code = kerr.RequestTimedOut.Code
		}
		if p.node.up && p.node.epoch == p.by {
			x.inbox[p.node.id] = append(x.inbox[p.node.id], func() { p.tell(code) })
		}
	}
	if unknown {
		x.moves["unknown"]++
	}
	ok := p.partEpoch == x.a.PartEpoch && p.epoch == x.a.Epoch && !(unknown && x.rnd.Intn(2) == 0)
	var isr []broker.NodeID
	for _, m := range p.isr {
		isr = append(isr, m.ID)
		ok = ok && (m.Epoch < 0 || m.Epoch == x.epochs[m.ID]) && !x.fenced[m.ID]
	}
	if !ok {
		x.moves["refused"]++
		answer(kerr.IneligibleReplica.Code)
		return
	}
	x.moves["applied"]++
	if !slices.Equal(isr, x.a.ISR) {
		x.a.ISR = isr
		x.a.PartEpoch++
		x.announce()
	}
	x.settleReplicas()
	answer(0)
}

// election moves the leadership to any member of the in-sync set that is up.
func (x *chaos) election() {
	if id := x.any().id; slices.Contains(x.a.ISR, id) && !x.fenced[id] && id != x.a.Leader {
		x.lead(id)
	}
}

func (x *chaos) lead(id broker.NodeID) {
	x.a.Leader = id
	x.a.Epoch++
	x.a.PartEpoch++
	x.moves["elected"]++
	if id != broker.None {
		log := x.node(id)
		for offset, value := range x.acked {
			require.Equal(x.t, value, log.at(offset), "node %d is elected for epoch %d without what was acknowledged at %d", id, x.a.Epoch, offset)
		}
		for offset, value := range x.visible {
			require.Equal(x.t, value, log.at(offset), "node %d is elected for epoch %d without what was visible at %d", id, x.a.Epoch, offset)
		}
	}
	x.announce()
}

// authorityFences takes a dead broker out of the in-sync set, unless it is the last.
func (x *chaos) authorityFences(id broker.NodeID) {
	x.fenced[id] = true
	if len(x.a.ISR) > 1 && slices.Contains(x.a.ISR, id) {
		x.a.ISR = slices.DeleteFunc(slices.Clone(x.a.ISR), func(m broker.NodeID) bool { return m == id })
		x.a.PartEpoch++
		x.announce()
	}
	x.elect0()
}

// elect0 elects a leader if the present one is gone.
func (x *chaos) elect0() {
	if x.a.Leader != broker.None && !x.fenced[x.a.Leader] {
		return
	}
	for _, id := range x.a.Replicas {
		if slices.Contains(x.a.ISR, id) && !x.fenced[id] {
			x.lead(id)
			return
		}
	}
	if x.a.Leader != broker.None {
		x.lead(broker.None)
	}
}

func (x *chaos) register(r *replica) {
	x.moves["restarted"]++
	x.boot(r)
	x.inbox[r.id] = nil
	x.fenced[r.id] = false
	if !slices.Contains(x.a.Replicas, r.id) {
		x.wipe(r) // a log of no replica is deleted at the registration
	}
	x.announce()
	x.elect0()
	x.settleReplicas()
	for _, p := range x.nodes {
		if p.up && p != r {
			p.m.Link(r.id, true)
		}
	}
}

// observe notes what consumers could read, and keeps account of truncations.
func (x *chaos) observe() {
	for _, r := range x.nodes {
		if !r.up {
			continue
		}
		if limit, code := r.m.CheckRead(-1); code == 0 {
			for offset := int64(0); offset < limit; offset++ {
				x.keep(x.visible, offset, r.at(offset), "visible")
			}
		}
	}
	x.moves["truncated"] += x.truncations
	x.truncations = 0
	x.check(x.t)
}

// recover lets everything heal, and looks at the logs.
func (x *chaos) recover() {
	for _, r := range x.nodes {
		if !r.up {
			x.register(r)
		}
	}
	clear(x.down)
	for _, r := range x.nodes {
		for _, o := range x.nodes {
			if o != r {
				r.m.Link(o.id, true)
			}
		}
	}
	for range 200 {
		for _, r := range x.nodes {
			for len(x.inbox[r.id]) > 0 {
				x.learn(r)
			}
		}
		for x.deliver(min(0, len(x.wires)-1)) {
		}
		for _, r := range x.nodes {
			x.store(r)
		}
		x.decide()
		x.wait(50 * time.Millisecond)
	}
	x.observe()
	require.Len(x.t, x.a.ISR, len(x.a.Replicas), "all replicas are in sync again")
	require.Empty(x.t, slices.Concat(x.adding, x.removing), "the reassignment is complete")
	first := x.node(x.a.Replicas[0])
	for _, r := range x.nodes {
		if !slices.Contains(x.a.Replicas, r.id) {
			require.Empty(x.t, r.log, "the log of %d, which is no replica", r.id)
			continue
		}
		require.Equal(x.t, slices.Concat(first.log...), slices.Concat(r.log...), "logs of %d and %d", first.id, r.id)
		require.Equal(x.t, first.index.End(), r.m.high, "high watermark of %d", r.id)
	}
	for offset, value := range x.acked {
		require.Equal(x.t, value, first.at(offset), "acknowledged at %d", offset)
	}
}

// at is the value at an offset, "" where there is none.
func (r *replica) at(offset int64) string {
	if offset >= int64(len(r.log)) {
		return ""
	}
	return string(r.log[offset][batch.HeaderSize:])
}
