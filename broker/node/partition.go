package node

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/batch"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/kafka"
	"github.com/faultline-mq/faultline/broker/logindex"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/peers"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// partition hosts one partition's machine: its scheme.Host.
type partition struct {
	n     *Node
	id    partID
	topic string
	key   string // topic-partition
	lane  broker.Lane
	sync  broker.Effect // of the lane
	m     scheme.Machine
	index *logindex.Index

	seq          uint64 // of the lane's writes
	kept         []byte // what was kept at the start
	keep         uint64 // the newest Keep's number, and that of the newest write that is done
	writtenUpTo  uint64
	unstable     []write
	stable       int64
	refused      bool
	damaged      bool           // the damage that made it refused is still on disk
	partEpoch    int32          // of the newest assignment
	proposal     cluster.Ticket // the newest proposal of an in-sync set
	checkpointed int64
	shared       bool // the log lies on the shared device
	open         bool // and is open
}

// write is one append or truncation that is not stable yet.
type write struct {
	seq uint64
	end int64 // log end after it, less what a later truncation took
}

var (
	_ scheme.Host       = (*partition)(nil)
	_ scheme.SharedHost = (*partition)(nil)
	_ kafka.Partition   = (*partition)(nil)
)

func (p *partition) Self() broker.NodeID                  { return p.n.cfg.ID }
func (p *partition) Now() broker.Time                     { return p.n.now }
func (p *partition) Index() *logindex.Index               { return p.index }
func (p *partition) Stable() int64                        { return p.stable }
func (p *partition) Refused() bool                        { return p.refused }
func (p *partition) BrokerEpoch() int64                   { return p.n.epoch }
func (p *partition) Name(id broker.NodeID) string         { return p.n.names[id] }
func (p *partition) Machine() scheme.Machine              { return p.m }
func (p *partition) Lane() broker.Lane                    { return p.lane }
func (p *partition) Advanced()                            { p.n.k.Advanced(p) }
func (p *partition) Produced(t uint64, r scheme.Produced) { p.n.k.Produced(t, r) }

// Append implements scheme.Host.
func (p *partition) Append(batches [][]byte, infos []batch.Info) {
	p.repair()
	for _, i := range infos {
		p.index.Append(i)
	}
	p.write(broker.Append{Lane: p.lane, Seq: p.seq + 1, Batches: batches})
}

// Persisted implements scheme.Host.
func (p *partition) Persisted() []byte { return p.kept }

// Persist implements scheme.Host.
func (p *partition) Persist(state []byte) {
	p.seq++
	p.keep = p.seq
	p.unstable = append(p.unstable, write{p.seq, p.index.End()})
	p.n.do(broker.Keep{Lane: p.lane, Seq: p.seq, State: state})
	if p.n.opts.SyncAlways {
		p.n.do(p.sync) // the write's own place in the lane
	}
}

// Persisting implements scheme.Host.
func (p *partition) Persisting() bool { return p.writtenUpTo < p.keep }

// Truncate implements scheme.Host.
func (p *partition) Truncate(to int64) int64 {
	end := p.index.Truncate(to)
	for i := range p.unstable {
		p.unstable[i].end = min(p.unstable[i].end, end)
	}
	p.stable = min(p.stable, end)
	p.damaged = false
	p.write(broker.Truncate{Lane: p.lane, Seq: p.seq + 1, To: end})
	return end
}

// repair cuts the damage off, and not before something comes in its place: until
// then every start must find it and refuse, or the replica would lead without what
// it lost.
func (p *partition) repair() {
	if p.damaged {
		p.Truncate(p.index.End())
	}
}

func (p *partition) write(e broker.Effect) {
	p.seq++
	p.unstable = append(p.unstable, write{p.seq, p.index.End()})
	p.n.do(e)
	if p.n.opts.SyncAlways {
		p.n.do(p.sync)
	}
}

// storedUpTo takes the driver's report: with fsync=always only what is synced is
// stable, otherwise what is written.
func (p *partition) storedUpTo(written, synced uint64) {
	mark := written
	if p.n.opts.SyncAlways && !p.n.opts.Mutants.On(mutant.AckBeforeSync) {
		mark = synced
	}
	before, keeping := p.stable, p.Persisting()
	p.writtenUpTo = max(p.writtenUpTo, written)
	for len(p.unstable) > 0 && p.unstable[0].seq <= mark {
		p.stable = p.unstable[0].end
		p.unstable = p.unstable[1:]
	}
	if p.stable != before || len(p.unstable) == 0 || keeping && !p.Persisting() {
		p.m.Stored()
	}
}

// Send implements scheme.Host.
func (p *partition) Send(to broker.NodeID, msg broker.Message, from, upTo int64, data *[]byte) {
	s := broker.Send{To: to, Channel: broker.Peer, Msg: &PartitionMessage{Topic: p.id.topic, Index: p.id.index, Body: msg}}
	if upTo > from {
		s.Slices = []broker.Slice{{Lane: p.lane, From: from, To: upTo, Into: data}}
	}
	p.n.do(s)
}

// ProposeISR implements scheme.Host.
func (p *partition) ProposeISR(epoch, partEpoch int32, isr []scheme.Member) {
	members := make([]cluster.Member, len(isr))
	for i, m := range isr {
		members[i] = cluster.Member{ID: m.ID, Epoch: m.Epoch}
		if b := p.n.c.State().Broker(m.ID); m.Epoch < 0 && b != nil {
			members[i].Epoch = b.Epoch // a committed member: the partition epoch vouches for it
		}
	}
	t := p.n.c.Propose(p.n.now, cluster.AlterPartition{
		Topic: p.topic, TopicID: p.id.topic, Index: p.id.index, Leader: p.n.cfg.ID, Epoch: epoch, PartEpoch: partEpoch, ISR: members,
	})
	p.n.isr[t], p.proposal = p, t
}

// Report implements scheme.Host.
func (p *partition) Report(epoch int32, inSync []broker.NodeID) {
	p.n.c.Propose(p.n.now, cluster.ReportLeader{
		Topic: p.topic, TopicID: p.id.topic, Index: p.id.index, Leader: p.n.cfg.ID, Epoch: epoch, ISR: slices.Clone(inSync),
	})
}

// Keep implements scheme.Host.
func (p *partition) Keep(r scheme.Record) {
	t := p.n.c.Propose(p.n.now, peers.Keep{Topic: p.id.topic, Index: p.id.index, Record: r})
	p.n.isr[t], p.proposal = p, t
}

// Eligible implements scheme.Host.
func (p *partition) Eligible(id broker.NodeID, brokerEpoch int64) bool {
	b := p.n.c.State().Broker(id)
	return b != nil && (!b.Fenced && !b.Leaving || p.n.opts.Mutants.On(mutant.JoinFenced)) &&
		(b.Epoch == brokerEpoch || p.n.opts.Mutants.On(mutant.JoinAnyBrokerEpoch))
}

// Owner implements scheme.SharedHost.
func (p *partition) Owner() string { return p.n.cfg.Incarnation }

func (p *partition) device(e broker.Device) {
	e.Lane = p.lane
	p.n.do(e)
}

// TryLock implements scheme.SharedHost.
func (p *partition) TryLock(l broker.Lock) { p.device(broker.Device{Do: broker.TryLock, Lock: l}) }

// CheckLock implements scheme.SharedHost.
func (p *partition) CheckLock(l broker.Lock) { p.device(broker.Device{Do: broker.CheckLock, Lock: l}) }

// Publish implements scheme.SharedHost.
func (p *partition) Publish(l broker.Lock) { p.device(broker.Device{Do: broker.Publish, Lock: l}) }

// CheckToken implements scheme.SharedHost.
func (p *partition) CheckToken() { p.device(broker.Device{Do: broker.CheckToken}) }

// OpenLog implements scheme.SharedHost.
func (p *partition) OpenLog(fenced bool, token uint64) {
	p.device(broker.Device{Do: broker.OpenLog, Fenced: fenced, Token: token})
}

// CloseLog implements scheme.SharedHost.
func (p *partition) CloseLog(l broker.Lock) {
	p.index, p.unstable, p.stable, p.open, p.refused = logindex.New(0, nil), nil, 0, false, false
	p.device(broker.Device{Do: broker.CloseLog, Lock: l})
}

// adopt takes the shared log as it was found.
func (p *partition) adopt(l *broker.LogState) {
	p.index = logindex.New(l.Start, l.Batches)
	p.unstable, p.stable, p.open, p.refused = nil, p.index.End(), true, l.Corrupt != ""
	if l.Corrupt != "" {
		p.Emit(broker.Event{Kind: "corrupt", Epoch: -1, Offset: p.stable, Detail: l.Corrupt})
	}
	if l.Torn > 0 {
		p.Emit(broker.Event{Kind: "torn", Epoch: -1, Offset: p.stable, Detail: fmt.Sprintf("cut %d bytes of a torn tail", l.Torn)})
	}
}

// Emit implements scheme.Host.
func (p *partition) Emit(ev broker.Event) {
	ev.Key = p.key
	p.n.Emit(ev)
}

// backend is what the Kafka handlers see of the node.
type backend struct{ n *Node }

var _ kafka.Backend = backend{}

func (b backend) Now() broker.Time                         { return b.n.now }
func (b backend) State() *cluster.State                    { return b.n.c.State() }
func (b backend) Propose(c cluster.Command) cluster.Ticket { return b.n.c.Propose(b.n.now, c) }

func (b backend) Quorum() cluster.Quorum { return b.n.c.Quorum() }

func (b backend) Reply(r broker.Reply) { b.n.do(r) }

func (b backend) Send(to broker.NodeID, m broker.Message, s []broker.Slice) {
	b.n.do(broker.Send{To: to, Channel: broker.Peer, Msg: m, Slices: s})
}

func (b backend) Configs(t *cluster.Topic) map[string]string {
	return map[string]string{
		cluster.MaxMessageConfig:         strconv.Itoa(cluster.DefaultMaxMessage),
		"min.insync.replicas":            strconv.Itoa(int(t.MinISR)),
		"unclean.leader.election.enable": strconv.FormatBool(t.Unclean),
	}
}

func (b backend) BrokerConfigs() map[string]string { return b.n.cfg.Options.Map() }

func (b backend) Partition(topic string, index int32) kafka.Partition {
	t := b.n.c.State().Topic(topic)
	if t == nil {
		return nil
	}
	if p := b.n.byID[partID{t.ID, index}]; p != nil {
		return p
	}
	return nil
}
