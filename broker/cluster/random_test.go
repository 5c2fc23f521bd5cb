package cluster

import (
	"cmp"
	cryptorand "crypto/rand"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/broker"
)

// TestRandomSchedules loses messages, delays writes, crashes nodes so that exactly
// what was stored is left, cuts links, and proposes all the while. The network
// checks at every step: states are equal at equal applied indices, there is one
// leader per epoch, in-sync and eligible sets are as they must be and hold the leader. In the end all
// nodes come back, agree, and lead everything.
func TestRandomSchedules(t *testing.T) {
	seedRaft(t) // restores the reader
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		cryptorand.Reader = rand.NewChaCha8([32]byte{rapid.Byte().Draw(t, "raft seed")})
		voters := rapid.SampledFrom([]int{1, 3, 3, 5}).Draw(t, "voters")
		learners := rapid.IntRange(0, 5-voters).Draw(t, "learners")
		n := newNet(t, voters, learners, func(c *Config) {
			c.SnapshotEntries = 8
			c.RebalanceInterval = time.Second
			c.Unclean = c.ID%2 == 0 // defaults of the nodes differ: what is applied must not
			c.MinISR = int32(c.ID)
			if c.ID < 3 {
				c.EligibleLeaders = []string{""}
			}
		})
		n.until("up", n.up)
		n.randomSchedule(t, seen, rapid.IntRange(20, 150).Draw(t, "steps"), 0)
	})
	if raceEnabled {
		return // too few for it
	}
	// An unclean election and the fencing of a broker that hears of it are too rare to be demanded here; the rule scripts show them.
	for _, kind := range []string{"controller", "unfenced", "snapshot", "torn", "crash", "start", "isr"} {
		require.NotZero(t, seen[kind], "%s never happened: %v", kind, slices.Sorted(maps.Keys(seen)))
	}
}

// TestRandomMembership changes the quorum's members under the same faults, and the
// members at equal applied indices have to be equal, too.
func TestRandomMembership(t *testing.T) {
	seedRaft(t)
	seen, sets := map[string]int{}, map[string]bool{}
	rapid.Check(t, func(t *rapid.T) {
		cryptorand.Reader = rand.NewChaCha8([32]byte{rapid.Byte().Draw(t, "raft seed")})
		n := newNet(t, rapid.IntRange(2, 4).Draw(t, "voters"), rapid.IntRange(0, 1).Draw(t, "learners"), func(c *Config) {
			c.SnapshotEntries = 8
		})
		n.until("up", n.up)
		n.randomSchedule(t, seen, rapid.IntRange(60, 150).Draw(t, "steps"), 12)
		for _, m := range n.members {
			sets[m] = true
		}
	})
	if raceEnabled {
		return
	}
	for _, kind := range []string{"add", "remove", "fresh", "reassign", "crash", "controller", "snapshot"} {
		require.NotZero(t, seen[kind], "%s never happened: %v", kind, seen)
	}
	require.Greater(t, len(sets), 12, "the members hardly changed: %v", sets)
}

// randomSchedule takes random steps, each followed by a change of members with a
// probability of changes percent, brings everything back and looks at what must be then.
func (n *testNet) randomSchedule(t *rapid.T, seen map[string]int, steps, changes int) {
	for range steps {
		n.randomStep(t, seen)
		if changes > 0 && rapid.IntRange(1, 100).Draw(t, "change of members") <= changes {
			n.changeMembers(t, seen)
		}
	}
	n.recover()
	n.until("up", n.up)
	n.until("agreed", n.agreed)
	given := map[int64]bool{}
	for _, id := range n.ids {
		for _, r := range n.nodes[id].results {
			if v, ok := r.Value.(int64); ok {
				require.False(t, given[v], "producer id %d was given twice", v)
				given[v] = true
			}
		}
		for _, e := range n.nodes[id].events {
			seen[e.Kind]++
		}
	}
	i := slices.IndexFunc(n.ids, n.member)
	for _, tp := range n.nodes[n.ids[i]].c.State().Topics() {
		for _, p := range tp.Partitions {
			last := slices.Concat(p.ISR, p.ELR)
			if len(last) == 0 {
				last = append(last, p.LastLeader)
			}
			if slices.ContainsFunc(last, n.member) { // others left, and may have been the last in sync
				require.NotEqual(t, broker.None, p.Leader, "%s-%d", p.Topic, p.Index)
			}
		}
	}
	for _, d := range n.nodes {
		if d.c.snapAt > bootIndex {
			seen["snapshot"]++
		}
	}
}

func (n *testNet) randomStep(t *rapid.T, seen map[string]int) {
	id := rapid.SampledFrom(n.ids).Draw(t, "node")
	d := n.nodes[id]
	switch action := rapid.IntRange(0, 15).Draw(t, "action"); {
	case action <= 3: // time passes, and most messages arrive
		for range rapid.IntRange(1, 30).Draw(t, "ticks") {
			n.tick(50 * time.Millisecond)
			n.settle()
		}
	case action <= 5:
		n.tick(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
	case action <= 7:
		for range rapid.IntRange(1, 10).Draw(t, "messages") {
			if links := n.busy(); len(links) > 0 {
				n.deliver(rapid.SampledFrom(links).Draw(t, "link"))
			}
		}
	case action == 8: // a connection breaks: what was on its way is lost
		if links := n.busy(); len(links) > 0 {
			delete(n.queues, rapid.SampledFrom(links).Draw(t, "link"))
		}
	case action == 9:
		d.lazy = !d.lazy
		if d.c != nil && len(d.writes) > 0 {
			n.store(id, rapid.IntRange(1, len(d.writes)).Draw(t, "stored"))
			n.take(id)
		}
	case action == 10:
		other := rapid.SampledFrom(n.ids).Draw(t, "other")
		l := link{id, other}
		n.cut[l] = !n.cut[l]
	case action == 11:
		if d.c == nil {
			n.start(id)
			seen["start"]++
			return
		}
		seen["crash"]++
		if len(d.writes) > 0 { // some writes had reached the disk, unreported
			seen["torn"]++
			for _, w := range d.writes[:rapid.IntRange(0, len(d.writes)).Draw(t, "survive")] {
				n.persist(d, w)
			}
		}
		n.kill(id)
	default:
		if d.c != nil {
			n.randomCommand(t, id, seen)
		}
	}
}

func (n *testNet) randomCommand(t *rapid.T, id broker.NodeID, seen map[string]int) {
	d := n.nodes[id]
	st := d.c.State()
	topic := fmt.Sprintf("t%d", rapid.IntRange(0, 2).Draw(t, "topic"))
	var cmd Command
	switch rapid.IntRange(0, 8).Draw(t, "command") {
	case 0:
		cmd = CreateTopic{
			Name: topic, Partitions: int32(rapid.IntRange(-1, 3).Draw(t, "partitions")), ReplicationFactor: int16(rapid.IntRange(-1, 4).Draw(t, "rf")),
		}
	case 1:
		cmd = DeleteTopic{Name: topic}
	case 2, 3:
		tp := st.Topic(topic)
		if tp == nil {
			return
		}
		p := rapid.SampledFrom(tp.Partitions).Draw(t, "partition")
		a := AlterPartition{Topic: topic, TopicID: tp.ID, Index: p.Index, Leader: p.Leader, Epoch: p.Epoch, PartEpoch: p.PartEpoch}
		for _, r := range p.Replicas {
			if b := st.Broker(r); b != nil && (r == p.Leader || rapid.Bool().Draw(t, "in sync")) {
				a.ISR = append(a.ISR, Member{ID: r, Epoch: b.Epoch})
			}
		}
		seen["isr"]++
		cmd = a
	case 4:
		cmd = ElectLeaders{Partitions: []PartitionID{{topic, 0}}, Unclean: rapid.Bool().Draw(t, "unclean")}
	case 5:
		cmd = Reassign{Topic: topic}
		if p := st.Partition(topic, 0); p != nil && rapid.IntRange(0, 4).Draw(t, "cancel") > 0 {
			for _, b := range st.Brokers() {
				if rapid.Bool().Draw(t, "to") {
					cmd = Reassign{Topic: topic, Replicas: append(cmd.(Reassign).Replicas, b.ID)}
				}
			}
		}
	case 6:
		cmd = UnregisterBroker{ID: rapid.SampledFrom(n.ids).Draw(t, "broker")}
	case 7:
		m := rapid.SampledFrom(n.ids).Draw(t, "member")
		dir := n.nodes[m].cfg.Directory
		if cmd = (RemoveVoter{ID: m, Directory: dir}); rapid.Bool().Draw(t, "add") {
			cmd = AddVoter{ID: m, Directory: dir}
		}
	default:
		cmd = AllocateProducerID{}
	}
	d.c.Propose(n.time(), cmd)
	n.take(id)
}

// changeMembers does as an operator does: with all nodes up it removes and adds
// members by turns, and gives the place of a removed one to an empty node. What
// comes of it is not awaited.
func (n *testNet) changeMembers(t *rapid.T, seen map[string]int) {
	n.recover()
	n.run(3 * time.Second)
	st := n.nodes[n.ids[slices.IndexFunc(n.ids, n.member)]].c.State()
	if !n.agreed() || st.voting != nil {
		return
	}
	id := rapid.SampledFrom(append(slices.Clone(n.ids), 7)).Draw(t, "place")
	from := n.ids[slices.IndexFunc(n.ids, n.member)]
	propose := func(cmd Command) {
		n.nodes[from].c.Propose(n.time(), cmd)
		n.take(from)
	}
	if st.Topic("t0") == nil {
		propose(CreateTopic{Name: "t0", Partitions: 2, ReplicationFactor: 1})
	} else {
		seen["reassign"]++
		c := Reassign{Topic: "t0"}
		for _, b := range st.Brokers() {
			if rapid.Bool().Draw(t, "to") {
				c.Replicas = append(c.Replicas, b.ID)
			}
		}
		propose(c)
	}
	switch d := n.nodes[id]; {
	case d == nil || !n.member(id) && rapid.Bool().Draw(t, "empty"):
		seen["fresh"]++
		n.fresh(id, Directory(1000+seen["fresh"]))
	case n.member(id):
		if len(st.conf.GetVoters()) > 2 { // so that one that stays away does not take the quorum with it
			seen["remove"]++
			propose(RemoveVoter{ID: id, Directory: d.cfg.Directory})
		}
	default:
		seen["add"]++
		propose(AddVoter{ID: id, Directory: d.cfg.Directory})
	}
}

// recover brings everything back.
func (n *testNet) recover() {
	clear(n.cut)
	for _, id := range n.ids {
		d := n.nodes[id]
		d.lazy = false
		if d.c == nil {
			n.start(id)
		}
		n.take(id)
	}
}

// FuzzNew: no metadata log makes a node panic, and one that is accepted works.
func FuzzNew(f *testing.F) {
	seedRaft(f)
	n := newNet(f, 1, 1, func(c *Config) { c.SnapshotEntries = 6 })
	n.until("up", n.up)
	for i := range 6 {
		n.propose(1, CreateTopic{Name: fmt.Sprintf("t%d", i), Partitions: 1, ReplicationFactor: 2})
		f.Add(join(n.nodes[1].log))
		f.Add(join(n.nodes[2].log))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg := n.nodes[1].cfg
		cfg.Incarnation = "new"
		c, err := New(cfg, split(data), broker.Time{})
		if err != nil {
			return
		}
		for i := range 40 {
			c.Tick(broker.Time{Mono: time.Duration(i) * 100 * time.Millisecond})
			for _, w := range c.Take().Writes {
				c.Stored(broker.Time{Mono: time.Duration(i) * 100 * time.Millisecond}, w.Seq)
			}
		}
	})
}

// join and split put records into one byte string: two bytes of length, then the record.
func join(records [][]byte) []byte {
	var out []byte
	for _, r := range records {
		out = append(out, byte(len(r)>>8), byte(len(r)))
		out = append(out, r...)
	}
	return out
}

func split(data []byte) [][]byte {
	var out [][]byte
	for len(data) >= 2 {
		size := min(int(data[0])<<8|int(data[1]), len(data)-2)
		out = append(out, data[2:2+size])
		data = data[2+size:]
	}
	return out
}

// TestDamagedLogsAreRefused flips every bit of a small log, drops and swaps records.
func TestDamagedLogsAreRefused(t *testing.T) {
	n := ready(t, 3, 0, func(c *Config) { c.SnapshotEntries = 6 })
	create(t, n, "a", 2, 3, nil)
	cfg, log := n.nodes[1].cfg, n.nodes[1].log
	require.Greater(t, len(log), 3)
	_, err := New(cfg, log, broker.Time{})
	require.NoError(t, err)
	_, err = New(cfg, log[1:], broker.Time{})
	require.ErrorContains(t, err, "does not start with a snapshot")
	_, err = New(cfg, append(slices.Clone(log), log[0]), broker.Time{})
	require.ErrorContains(t, err, "a snapshot in the middle")
	refused := 0
	for i, r := range log {
		for bit := range len(r) * 8 {
			bad := slices.Clone(r)
			bad[bit/8] ^= 1 << (bit % 8)
			damaged := slices.Clone(log)
			damaged[i] = bad
			if _, err := New(cfg, damaged, broker.Time{}); err != nil { // never a panic
				refused++
			}
		}
	}
	require.NotZero(t, refused)
}

func TestPlacementSpreads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var brokers []*Broker
		racks := rapid.IntRange(1, 4).Draw(t, "racks")
		per := rapid.IntRange(1, 4).Draw(t, "brokers of a rack")
		for i := range racks * per {
			brokers = append(brokers, &Broker{ID: broker.NodeID(i + 1), Rack: fmt.Sprint("r", i%racks), Fenced: false})
		}
		rf := rapid.IntRange(1, len(brokers)).Draw(t, "rf")
		start := rapid.Uint64Range(0, 1000).Draw(t, "start")
		s := newStripes(brokers)
		leads := map[broker.NodeID]int{}
		rounds := 3
		for i := range rounds * len(brokers) {
			replicas := s.place(start+uint64(i), rf)
			require.Len(t, replicas, rf)
			unique := slices.Compact(slices.SortedFunc(slices.Values(replicas), cmp.Compare[broker.NodeID]))
			require.Len(t, unique, rf, "two replicas on one broker: %v", replicas)
			used := map[string]bool{}
			for _, id := range replicas {
				used[brokers[id-1].Rack] = true
			}
			require.Len(t, used, min(rf, racks), "all racks are used: %v", replicas)
			leads[replicas[0]]++
		}
		for _, b := range brokers {
			require.Equal(t, rounds, leads[b.ID], "leaders are spread evenly: %v", leads)
		}
	})
}
