package node_test

import (
	crand "crypto/rand"
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/kafka"
	"github.com/faultline-mq/faultline/broker/node"
	"github.com/faultline-mq/faultline/broker/scheme"
)

const topic = "t"

// cluster3 is three ready nodes and the topic t of one partition, led by lead.
func cluster3(t *testing.T, set map[string]string) (w *world, lead *peer) {
	w = newWorld(t, 3, "isr", set)
	w.ready()
	require.Zero(t, w.create(w.peers[0], topic, 1, 3, nil).ErrorCode)
	w.run(100 * time.Millisecond)
	lead = w.peer(w.leader(w.peers[0], topic))
	return w, lead
}

func (w *world) others(p *peer) []*peer {
	return slices.DeleteFunc(slices.Clone(w.peers), func(q *peer) bool { return q == p })
}

func TestWritesAreReplicatedAndRead(t *testing.T) {
	w, lead := cluster3(t, nil)
	for i := range 5 {
		offset, err := w.produce(lead, topic, fmt.Sprintf("v%d", i))
		require.NoError(t, err)
		require.Equal(t, int64(i), offset)
	}
	values, err := w.values(lead, topic, -1)
	require.NoError(t, err)
	require.Equal(t, []string{"v0", "v1", "v2", "v3", "v4"}, values)
	for _, p := range w.peers {
		own, err := w.values(p, topic, kafka.DebuggingConsumer)
		require.NoError(t, err)
		require.Equal(t, values, own, "log of %d", p.id)
	}
	for _, p := range w.others(lead) {
		_, err := w.values(p, topic, -1)
		require.ErrorIs(t, err, kerr.NotLeaderForPartition)
		_, err = w.produce(p, topic, "x")
		require.ErrorIs(t, err, kerr.NotLeaderForPartition)
	}
}

// TestRestartedNodeDoesNotActOnOldMetadata: what a node finds on disk says that it
// leads. Until this incarnation is registered it does nothing about it.
func TestRestartedNodeDoesNotActOnOldMetadata(t *testing.T) {
	w, lead := cluster3(t, nil)
	_, err := w.produce(lead, topic, "a")
	require.NoError(t, err)
	for _, p := range w.peers {
		w.crash(p, false)
	}
	led := lead.emitted("leader")
	w.boot(lead)
	w.run(5 * time.Second)
	ok, why := lead.n.Ready()
	require.False(t, ok)
	require.Equal(t, "no controller is known", why)
	require.Equal(t, led, lead.emitted("leader"), "it leads nothing")
	require.NotEmpty(t, lead.lanes, "and deletes nothing")
	_, err = w.produce(lead, topic, "b")
	require.ErrorIs(t, err, kerr.NotLeaderForPartition)
	_, err = w.values(lead, topic, -1)
	require.ErrorIs(t, err, kerr.NotLeaderForPartition)

	// With a quorum all goes on.
	for _, p := range w.others(lead) {
		w.boot(p)
	}
	w.ready()
	w.eventually("a leader", func() bool { return w.leader(lead, topic) != broker.None })
	w.run(2 * time.Second)
	now := w.peer(w.leader(lead, topic))
	_, err = w.produce(now, topic, "b")
	require.NoError(t, err)
	values, err := w.values(now, topic, -1)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, values)
}

// TestRestartedFollowerRejoins: registration takes a node out of the in-sync set,
// and it comes back by fetching.
func TestRestartedFollowerRejoins(t *testing.T) {
	w, lead := cluster3(t, nil)
	f := w.others(lead)[0]
	w.crash(f, true)
	w.boot(f)
	left := false
	w.eventually("it has left and joined again", func() bool {
		n := len(w.inSync(lead, topic))
		left = left || n == 2
		return left && n == 3
	})
}

// TestDamagedReplica: a log with a corrupt middle is fetched again; before that the
// replica neither leads nor is in sync. The damage stays on disk until there is
// something to put in its place, so that the next start refuses it too.
func TestDamagedReplica(t *testing.T) {
	w, lead := cluster3(t, nil)
	for _, v := range []string{"a", "b", "c"} {
		_, err := w.produce(lead, topic, v)
		require.NoError(t, err)
	}
	f := w.others(lead)[0]
	w.crash(f, false)
	spoil(f)
	w.mute = f.id
	for range 2 {
		f.effects = nil
		w.boot(f)
		w.ready()
		w.run(time.Second)
		require.Equal(t, 2, len(w.inSync(lead, topic)))
		for _, e := range f.effects {
			_, cut := e.(broker.Truncate)
			require.False(t, cut, "nothing has come in the place of what is damaged")
		}
		w.crash(f, false)
	}
	w.mute = 0
	w.boot(f)
	w.eventually("it is in sync again", func() bool { return len(w.inSync(lead, topic)) == 3 && f.lanes[laneOf(f)].corrupt == "" })
	require.Equal(t, 3, f.emitted("corrupt"), "each start told so")
	values, err := w.values(f, topic, kafka.DebuggingConsumer)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "c"}, values)

	// It is as good as any other now: it can lead.
	for _, p := range w.others(f) {
		w.crash(p, false)
		w.eventually("a leader", func() bool { id := w.leader(f, topic); return id != broker.None && id != p.id })
		w.boot(p)
		w.ready()
		w.eventually("all are in sync", func() bool { return len(w.inSync(f, topic)) == 3 })
	}
	w.eventually("leadership", func() bool { return w.leader(f, topic) != broker.None })
}

func laneOf(p *peer) broker.Lane { return sortedLanes(p.lanes)[0] }

// spoil makes recovery find the log corrupt from its second batch on.
func spoil(p *peer) {
	l := p.lanes[laneOf(p)]
	l.batches, l.corrupt = l.batches[:1], "corrupt at byte 77"
}

// TestDamagedOnlyReplica: with nobody to fetch from, a partition stays down, however
// often its node starts; it does not come back without what it had acknowledged.
func TestDamagedOnlyReplica(t *testing.T) {
	w := newWorld(t, 1, "single", nil)
	w.ready()
	created := w.create(w.peers[0], topic, 1, -1, nil)
	require.Zero(t, created.ErrorCode)
	require.Equal(t, int16(1), created.ReplicationFactor)
	p := w.peers[0]
	for _, v := range []string{"a", "b"} {
		_, err := w.produce(p, topic, v)
		require.NoError(t, err)
	}
	w.crash(p, false)
	spoil(p)
	for range 3 {
		w.boot(p)
		w.ready()
		w.run(time.Second)
		_, err := w.produce(p, topic, "c")
		require.ErrorIs(t, err, kerr.NotLeaderForPartition)
		w.crash(p, false)
	}
}

func TestSingleKeepsWhatItAcknowledged(t *testing.T) {
	w := newWorld(t, 3, "single", nil)
	w.ready()
	require.Equal(t, kerr.InvalidReplicationFactor.Code, w.create(w.peers[0], "wide", 1, 2, nil).ErrorCode)
	require.Equal(t, kerr.InvalidConfig.Code, w.create(w.peers[0], "odd", 1, 1, map[string]string{kafka.SchemeConfig: "quantum"}).ErrorCode)
	require.Zero(t, w.create(w.peers[0], topic, 1, -1, nil).ErrorCode)
	w.run(100 * time.Millisecond)
	p := w.peer(w.leader(w.peers[0], topic))
	_, err := w.produce(p, topic, "a")
	require.NoError(t, err)
	w.crash(p, true)
	w.run(4 * time.Second)
	require.Equal(t, broker.None, w.leader(w.others(p)[0], topic), "no fail-over")
	w.boot(p)
	w.ready()
	w.eventually("it leads again", func() bool { return w.leader(p, topic) == p.id })
	values, err := w.values(p, topic, -1)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, values)
}

// TestDeletedTopic: its logs go, on a node that was down as well; a topic of the
// same name has other ones.
func TestDeletedTopic(t *testing.T) {
	w, lead := cluster3(t, nil)
	_, err := w.produce(lead, topic, "old")
	require.NoError(t, err)
	away := w.others(lead)[0]
	old := laneOf(away)
	waiting := w.send(lead, fetchRequest(topic, 1, -1))
	w.crash(away, false)
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Version = 6
	rt := kmsg.NewDeleteTopicsRequestTopic()
	rt.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, rt)
	resp := w.ask(lead, req).(*kmsg.DeleteTopicsResponse)
	require.Zero(t, resp.Topics[0].ErrorCode)
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, lead.replies[waiting].(*kmsg.FetchResponse).Topics[0].Partitions[0].ErrorCode)
	require.Empty(t, lead.lanes)
	require.Zero(t, w.create(lead, topic, 1, 3, nil).ErrorCode)
	w.boot(away)
	w.ready()
	w.run(time.Second)
	require.Len(t, away.lanes, 1)
	require.NotEqual(t, old, laneOf(away))
	values, err := w.values(away, topic, kafka.DebuggingConsumer)
	require.NoError(t, err)
	require.Empty(t, values)
	_, err = w.produce(lead, "gone", "x")
	require.ErrorIs(t, err, kerr.UnknownTopicOrPartition)
}

// TestReassignedReplica: a replica that is reassigned goes with its log, and not
// before another has everything; when it comes back it begins anew.
func TestReassignedReplica(t *testing.T) {
	w := newWorld(t, 4, "isr", nil)
	w.ready()
	require.Zero(t, w.create(w.peers[0], topic, 1, 3, map[string]string{"min.insync.replicas": "2"}).ErrorCode)
	w.run(time.Second)
	lead := w.peer(w.leader(w.peers[0], topic))
	var spare *peer
	for _, p := range w.peers {
		if len(p.lanes) == 0 {
			spare = p
		}
	}
	require.NotNil(t, spare)
	away := w.others(lead)[0]
	if away == spare {
		away = w.others(lead)[1]
	}
	move := func(replicas ...int32) {
		t.Helper()
		req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
		rt, rp := kmsg.NewAlterPartitionAssignmentsRequestTopic(), kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
		rp.Replicas = replicas
		rt.Topic, rt.Partitions = topic, append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp := w.ask(w.peers[0], req).(*kmsg.AlterPartitionAssignmentsResponse)
		require.Zero(t, resp.Topics[0].Partitions[0].ErrorCode)
	}
	var third *peer
	for _, p := range w.peers {
		if p != lead && p != away && p != spare {
			third = p
		}
	}
	want := []string{}
	send := func(value string) {
		t.Helper()
		_, err := w.produce(lead, topic, value)
		require.NoError(t, err)
		want = append(want, value)
	}
	has := func(p *peer) {
		t.Helper()
		w.run(time.Second)
		got, err := w.values(p, topic, kafka.DebuggingConsumer)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	send("a")
	// The new replica hears nothing of the leader: nobody leaves, and writes go on.
	w.mute = spare.id
	move(int32(lead.id), int32(third.id), int32(spare.id))
	w.run(5 * time.Second)
	require.NotEmpty(t, away.lanes)
	send("b")
	has(away)
	w.mute = broker.None
	w.eventually("it has caught up, and the old one is gone", func() bool { return len(away.lanes) == 0 })
	has(spare)
	send("c")
	_, err := w.values(away, topic, kafka.DebuggingConsumer)
	require.ErrorIs(t, err, kerr.NotLeaderForPartition)
	// Back again, in the same incarnation: an empty log whose writes are numbered on.
	move(int32(lead.id), int32(third.id), int32(away.id))
	w.eventually("the spare one is gone", func() bool { return len(spare.lanes) == 0 })
	send("d")
	has(away)
	has(third)
	// The leader itself leaves; another one leads with everything.
	move(int32(third.id), int32(away.id), int32(spare.id))
	w.eventually("the leader is gone", func() bool { return len(lead.lanes) == 0 })
	w.run(time.Second)
	lead = w.peer(w.leader(third, topic))
	send("e")
	got, err := w.values(lead, topic, -1)
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, p := range []*peer{third, away, spare} {
		has(p)
	}
}

// TestGracefulStop: leadership has moved when the process ends with 0, and what is
// written meanwhile is kept.
func TestGracefulStop(t *testing.T) {
	w, lead := cluster3(t, nil)
	_, err := w.produce(lead, topic, "a")
	require.NoError(t, err)
	lead.step(broker.Terminate{})
	w.eventually("it stops", func() bool { return lead.exit != nil })
	require.Equal(t, 0, lead.exit.Code)
	other := w.others(lead)[0]
	now := w.leader(other, topic)
	require.NotEqual(t, broker.None, now)
	require.NotEqual(t, lead.id, now)
	require.Equal(t, int64(1), lead.lanes[laneOf(lead)].high, "the high watermark is kept")
	values, err := w.values(w.peer(now), topic, -1)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, values)
}

// TestGracefulStopOfAll: the last ones have no quorum any more, and nobody to move
// leadership to. They stop in order all the same, after a while.
func TestGracefulStopOfAll(t *testing.T) {
	w, lead := cluster3(t, map[string]string{"fsync": "never"})
	_, err := w.produce(lead, topic, "a")
	require.NoError(t, err)
	for _, p := range w.peers {
		p.step(broker.Terminate{})
	}
	for _, p := range w.peers {
		w.eventually("it stops", func() bool { return p.exit != nil })
		require.Equal(t, 0, p.exit.Code)
		synced := slices.ContainsFunc(p.inputs[len(p.inputs)-1].effects, func(e broker.Effect) bool { _, ok := e.(broker.Sync); return ok })
		require.True(t, synced, "what it has is made durable before it ends")
	}
}

// TestStopInOrderKeepsEligible: a replica that left the in-sync set below the minimum,
// and stopped in order, leads where the in-sync one is gone. After its death it does
// not: then the last leader is awaited.
func TestStopInOrderKeepsEligible(t *testing.T) {
	for _, how := range []string{"stop", "stop twice", "death"} {
		t.Run(how, func(t *testing.T) {
			w, lead := cluster3(t, nil)
			muted, other := w.others(lead)[0], w.others(lead)[1]
			_, err := w.produce(lead, topic, "a")
			require.NoError(t, err)
			w.mute = muted.id
			w.eventually("it leaves the in-sync set", func() bool { return len(w.inSync(muted, topic)) == 2 })
			_, err = w.produce(lead, topic, "b")
			require.NoError(t, err)
			stop := func() {
				other.step(broker.Terminate{})
				w.eventually("it stops", func() bool { return other.exit != nil })
			}
			if how == "death" {
				w.crash(other, false)
			} else {
				stop()
			}
			w.eventually("one is in sync", func() bool { return slices.Equal(w.inSync(muted, topic), []int32{int32(lead.id)}) })
			w.crash(lead, false)
			if how == "stop twice" { // before it is registered: what the first stop left is still true
				w.isolate(other, true)
				w.boot(other)
				stop()
				w.isolate(other, false)
			}
			w.boot(other)
			leads := func(id broker.NodeID) func() bool {
				return func() bool { return w.leader(muted, topic) == id }
			}
			if how == "death" {
				require.Zero(t, other.rec.Stopped)
				w.eventually("nobody leads", leads(broker.None))
				require.False(t, w.until(10*time.Second, leads(other.id)))
				w.boot(lead)
				w.eventually("the last leader leads", leads(lead.id))
				return
			}
			require.Positive(t, other.rec.Stopped)
			w.eventually("the eligible one leads", leads(other.id))
			w.mute = broker.None
			w.eventually("another one joins", func() bool { return len(w.inSync(other, topic)) == 2 })
			values, err := w.values(other, topic, -1)
			require.NoError(t, err)
			require.Equal(t, []string{"a", "b"}, values)
		})
	}
}

// TestSlowStop: a quorum is there, and does not do its part in time.
func TestSlowStop(t *testing.T) {
	w, _ := cluster3(t, nil)
	quorum := slices.IndexFunc(w.peers, func(p *peer) bool { return controls(p) })
	p := w.peers[(quorum+1)%3]
	// It hears of the controller, which hears nothing of it.
	for _, q := range w.others(p) {
		w.cut[[2]broker.NodeID{p.id, q.id}] = true
	}
	p.step(broker.Terminate{})
	w.eventually("it stops", func() bool { return p.exit != nil })
	require.Equal(t, 1, p.exit.Code)
}

func controls(p *peer) bool {
	for _, s := range p.n.Stats() {
		if s.Name == "controller" {
			return s.Value == 1
		}
	}
	return false
}

// TestStorageErrors: what a node cannot store it must not acknowledge. It ends with
// code 3, and nothing comes after the end.
func TestStorageErrors(t *testing.T) {
	cases := []struct {
		name string
		in   func(p *peer) broker.Input
	}{
		{"log", func(p *peer) broker.Input { return broker.Stored{Lane: laneOf(p), Err: errDisk} }},
		{"metadata log", func(*peer) broker.Input { return broker.MetaStored{Err: errDisk} }},
		{"read", func(p *peer) broker.Input { return broker.ReadFailed{Lane: laneOf(p), Err: errDisk} }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w, lead := cluster3(t, nil)
			id := w.send(lead, produceRequest(topic, "a", -1))
			lead.effects = nil
			lead.step(c.in(lead))
			require.NotNil(t, lead.exit)
			require.Equal(t, 3, lead.exit.Code)
			require.Contains(t, lead.exit.Reason, errDisk.Error())
			require.IsType(t, broker.Exit{}, lead.effects[len(lead.effects)-1])
			require.NotContains(t, lead.replies, id)
		})
	}
}

func TestStoppedNodeDoesNothing(t *testing.T) {
	w, lead := cluster3(t, nil)
	n := lead.n
	lead.step(broker.MetaStored{Err: errDisk})
	require.Empty(t, n.Step(lead.time(), broker.Wake{}))
	require.Equal(t, scheme.Never, n.NextWake())
	ok, why := n.Ready()
	require.False(t, ok)
	require.Equal(t, "stopped", why)
	_ = w
}

func TestConfigIsChecked(t *testing.T) {
	w := newWorld(t, 1, "isr", nil)
	c := w.config(w.peers[0])
	c.Scheme = "quantum"
	_, err := node.New(c, node.Recovered{}, broker.Time{})
	require.ErrorContains(t, err, "classic, combined, forwarding, isr, mirrored, multimaster, quorum, shared, single, standby, takeover")
	c = w.config(w.peers[0])
	c.Name = "other"
	_, err = node.New(c, node.Recovered{}, broker.Time{})
	require.ErrorContains(t, err, "not a member")
}

func TestStats(t *testing.T) {
	w, lead := cluster3(t, nil)
	_, err := w.produce(lead, topic, "a")
	require.NoError(t, err)
	got := map[string]float64{}
	for _, s := range lead.n.Stats() {
		got[s.Name+s.Key] = s.Value
	}
	require.Equal(t, 1.0, got["ready"])
	require.Equal(t, 1.0, got["is_leadert-0"])
	require.Equal(t, 1.0, got["log_end_offsett-0"])
	require.Equal(t, 1.0, got["high_watermarkt-0"])
	require.Equal(t, 3.0, got["in_sync_replicast-0"])
}

// TestSameInputsSameEffects runs a cluster under faults, and then each incarnation
// once more from its recorded inputs: the effects are the same, to the last byte.
func TestSameInputsSameEffects(t *testing.T) {
	w, _ := cluster3(t, map[string]string{"replica.lag.time.max.ms": "1000"})
	rnd := rand.New(rand.NewSource(1))
	acked := 0
	replayed := 0
	for i := range 400 {
		p := w.peers[rnd.Intn(3)]
		switch n := rnd.Intn(40); {
		case n < 30 && p.n != nil:
			w.send(p, produceRequest(topic, fmt.Sprintf("v%d", i), []int16{-1, -1, 1, 0}[rnd.Intn(4)]))
			w.send(p, fetchRequest(topic, int64(rnd.Intn(10)), -1))
		case n == 30:
			w.isolate(p, true)
		case n < 34:
			w.isolate(p, false)
		case n == 34 && p.n != nil:
			replayed += replay(t, w, p)
			w.crash(p, rnd.Intn(2) == 0)
		case n > 34 && p.n == nil:
			w.boot(p)
		}
		w.run(time.Duration(rnd.Intn(200)) * time.Millisecond)
	}
	for _, p := range w.peers {
		if p.n != nil {
			replayed += replay(t, w, p)
		}
		for _, r := range p.replies {
			if r, ok := r.(*kmsg.ProduceResponse); ok && r.Topics[0].Partitions[0].ErrorCode == 0 {
				acked++
			}
		}
	}
	require.Greater(t, replayed, 5000, "steps")
	require.Greater(t, acked, 20)
}

// replay runs an incarnation again from its inputs.
func replay(t *testing.T, w *world, p *peer) int {
	t.Helper()
	var first []stepped
	for range 2 {
		crand.Reader = rand.New(rand.NewSource(9))
		n, err := node.New(w.config(p), p.rec, broker.Time{Mono: time.Second})
		require.NoError(t, err)
		var again []stepped
		for _, s := range p.inputs {
			again = append(again, stepped{s.now, s.in, n.Step(s.now, s.in)})
		}
		if first == nil {
			first = again
			continue
		}
		for i := range again {
			require.True(t, reflect.DeepEqual(first[i].effects, again[i].effects), "step %d, %T", i, first[i].in)
		}
	}
	return len(first)
}
