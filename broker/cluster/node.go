package cluster

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/faultline-mq/faultline/broker"
)

// Limits of raft's messages: entries are small, and a follower that is further
// behind than the inflight window is paused until it answers.
const (
	maxMessageBytes    = 1 << 20
	maxInflight        = 64
	maxUncommitted     = 16 << 20
	proposalRetries    = 4 // attempts within ProposalTimeout
	stallTicks         = 3 // a longer gap between two ticks is a stall of this process
	snapshotTrailDenom = 2 // of SnapshotEntries, entries kept in memory behind a snapshot for slow followers
)

// Cluster is one node's part in the metadata quorum. Every method takes the time of
// the step; what follows from it is fetched with Take. After Output.Fatal it does
// nothing any more.
type Cluster struct {
	cfg  Config
	st   *State
	rn   *raft.RawNode
	mem  *raft.MemoryStorage
	out  Output
	now  broker.Time
	dead bool

	// The metadata log.
	seq    uint64        // of the newest write
	writes []write       // asked for, not yet stored
	hard   *pb.HardState // the newest that raft handed out
	snapAt uint64        // index of the newest snapshot

	// Raft.
	leading     bool
	term        uint64
	appliedTerm uint64 // of the newest entry applied
	nextTick    time.Duration
	lastTick    time.Duration
	snapSent    map[uint64]time.Duration // since when a follower is known to wait for a snapshot, by raft id

	// Proposals of this node, by ticket.
	ticket    Ticket
	proposals []*proposal

	// The broker's part.
	nextBeat     time.Duration
	nextRegister time.Duration
	leaving      bool
	ready        bool // ShutdownReady was reported

	// The controller's part.
	ruling        bool // leads raft, and has applied everything from before its term
	sessions      map[broker.NodeID]*session
	nextRebalance time.Duration
}

// write is one MetaAppend on its way; msg is what raft asked for, nil for a snapshot of our own.
type write struct {
	seq uint64
	msg *pb.Message
}

// proposal is one that waits for its outcome.
type proposal struct {
	ticket   Ticket
	data     []byte
	step     *changeMember // a change of raft's members, which data goes along with
	deadline time.Duration
	retry    time.Duration
	duty     string // of the broker's or controller's own: what it is for; no Result
	term     uint64 // of the controller's duties
}

// New starts a node's part from the records of its metadata log, in the order in
// which MetaAppend wrote them (after a Snapshot write, the replacing ones only); none
// on the first start. The first Take gives the recovered state as changes. It fails
// for a configuration that cannot work and for a log that no node can have written.
func New(cfg Config, recovered [][]byte, now broker.Time) (c *Cluster, err error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			c, err = nil, fmt.Errorf("cluster: starting raft from the metadata log: %v", r)
		}
	}()
	c = &Cluster{
		cfg:      cfg,
		st:       newState(cfg.ID, cfg.Incarnation),
		mem:      raft.NewMemoryStorage(),
		now:      now,
		nextTick: now.Mono,
		lastTick: now.Mono,
		snapSent: map[uint64]time.Duration{},
		sessions: map[broker.NodeID]*session{},
	}
	c.st.mutants = cfg.Mutants
	c.st.conf = confState(&cfg)
	if err := c.load(recovered); err != nil {
		return nil, err
	}
	c.rn, err = raft.NewRawNode(&raft.Config{
		ID:                        c.id(),
		ElectionTick:              cfg.ElectionTicks,
		HeartbeatTick:             cfg.HeartbeatTicks,
		Storage:                   c.mem,
		Applied:                   c.snapAt,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             maxMessageBytes,
		MaxUncommittedEntriesSize: maxUncommitted,
		MaxInflightMsgs:           maxInflight,
		CheckQuorum:               true,
		PreVote:                   true,
		StepDownOnRemoval:         true,
		Logger:                    (*logger)(c),
	})
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := c.drain(); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	// What happened on the way to the recovered state is history.
	c.out.Changes, c.out.Events = c.st.everything(), nil
	return c, nil
}

// load brings the storage and the state to where the metadata log starts.
func (c *Cluster) load(records [][]byte) error {
	var l *recoveredLog
	if len(records) == 0 {
		data, err := c.st.marshal()
		if err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
		l = &recoveredLog{
			hard: &pb.HardState{Term: new(uint64(bootTerm)), Vote: new(raft.None), Commit: new(uint64(bootIndex))},
			snap: &pb.Snapshot{Data: data, Metadata: &pb.SnapshotMetadata{
				ConfState: c.st.conf, Index: new(uint64(bootIndex)), Term: new(uint64(bootTerm)),
			}},
		}
		c.append(nil, replacing(l.hard, l.snap, nil), true)
	} else {
		var err error
		if l, err = recoverLog(c.st.conf, records); err != nil {
			return err
		}
	}
	c.snapAt = l.snap.GetMetadata().GetIndex()
	if err := c.st.restore(c.snapAt, l.snap.GetData()); err != nil {
		return fmt.Errorf("cluster: metadata log: %w", err)
	}
	c.st.conf = l.snap.GetMetadata().GetConfState()
	c.hard = l.hard
	c.term = l.hard.GetTerm()
	if err := c.mem.ApplySnapshot(l.snap); err != nil {
		return fmt.Errorf("cluster: metadata log: %w", err)
	}
	if err := c.mem.SetHardState(l.hard); err != nil {
		return fmt.Errorf("cluster: metadata log: %w", err)
	}
	return c.mem.Append(l.entries)
}

// step runs one input and what follows from it. A panic in raft ends the node, as
// it would end the process.
func (c *Cluster) step(now broker.Time, f func() error) {
	if c.dead {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			c.fail(fmt.Sprintf("metadata quorum: %v", r))
		}
	}()
	if now.Mono >= c.now.Mono {
		c.now = now
	}
	err := f()
	if err == nil {
		err = c.drain()
	}
	if err != nil {
		c.fail(err.Error())
	}
}

func (c *Cluster) fail(reason string) {
	c.dead = true
	c.out.Fatal = reason
}

// Message takes a message of another node. One that this node cannot have been sent is dropped.
func (c *Cluster) Message(now broker.Time, from broker.NodeID, msg broker.Message) {
	c.step(now, func() error {
		m, isRaft := msg.(RaftMessage)
		switch {
		case isRaft && from != c.cfg.ID:
			// Also of nodes that this one does not know to be members: it may be behind.
			c.raftMessage(from, m.Data)
			return nil
		case from == c.cfg.ID || !c.member(from):
			c.logf("debug", "dropped a message of node %d, which is no member", from)
			return nil
		}
		switch m := msg.(type) {
		case Heartbeat:
			c.heartbeat(from, m)
		case HeartbeatReply:
			c.heartbeatReply(m)
		default:
			c.logf("warn", "dropped a message of node %d of unknown type %T", from, msg)
		}
		return nil
	})
}

func (c *Cluster) member(id broker.NodeID) bool {
	is := func(member uint64) bool { return nodeOf(member) == id }
	return slices.ContainsFunc(c.st.conf.GetVoters(), is) || slices.ContainsFunc(c.st.conf.GetLearners(), is)
}

func (c *Cluster) raftMessage(from broker.NodeID, data []byte) {
	m := &pb.Message{}
	if err := proto.Unmarshal(data, m); err != nil {
		c.logf("warn", "dropped a raft message of node %d: %v", from, err)
		return
	}
	if m.GetTo() != c.id() && nodeOf(m.GetTo()) == c.cfg.ID {
		return // for a node that had this id before, or will have
	}
	if nodeOf(m.GetFrom()) != from || m.GetTo() != c.id() || !peerMessage(m) || m.GetType() == pb.MsgProp && !c.member(from) {
		c.logf("warn", "dropped a raft message of node %d: %v from %d to %d with %d entries", from, m.GetType(), m.GetFrom(), m.GetTo(), len(m.GetEntries()))
		return
	}
	// The only errors are that of a proposal without a leader, which its proposer
	// tries again, and of messages that are out of place.
	if err := c.rn.Step(m); err != nil {
		c.logf("debug", "raft message %v of node %d: %v", m.GetType(), from, err)
	}
}

// peerMessage says whether a message is one that this package sends to a peer.
func peerMessage(m *pb.Message) bool {
	switch m.GetType() {
	case pb.MsgProp:
		if len(m.GetEntries()) == 0 {
			return false // raft panics on it
		}
	case pb.MsgSnap:
		if m.GetSnapshot() == nil {
			return false
		}
	case pb.MsgApp, pb.MsgAppResp, pb.MsgVote, pb.MsgVoteResp, pb.MsgHeartbeat, pb.MsgHeartbeatResp,
		pb.MsgTimeoutNow, pb.MsgPreVote, pb.MsgPreVoteResp:
	default:
		return false
	}
	return !slices.ContainsFunc(m.GetEntries(), func(e *pb.Entry) bool {
		if e.GetType() == pb.EntryConfChange {
			_, err := changeOf(e)
			return err != nil // raft panics on it
		}
		return e == nil || e.GetType() != pb.EntryNormal
	})
}

// Stored says that every write up to seq is durable. What depends on it is sent now.
func (c *Cluster) Stored(now broker.Time, seq uint64) {
	c.step(now, func() error {
		for len(c.writes) > 0 && c.writes[0].seq <= seq {
			w := c.writes[0]
			c.writes = c.writes[1:]
			if w.msg == nil {
				continue
			}
			if err := c.stored(w.msg); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *Cluster) stored(m *pb.Message) error {
	if snap := m.GetSnapshot(); snap != nil {
		if err := c.mem.ApplySnapshot(snap); err != nil {
			return fmt.Errorf("metadata quorum: applying a snapshot: %w", err)
		}
		before := c.st.topics
		c.snapAt = snap.GetMetadata().GetIndex()
		if err := c.st.restore(c.snapAt, snap.GetData()); err != nil {
			return fmt.Errorf("metadata quorum: applying a snapshot: %w", err)
		}
		c.st.conf = snap.GetMetadata().GetConfState()
		c.appliedTerm = snap.GetMetadata().GetTerm()
		c.out.Changes = append(c.out.Changes, c.st.since(before)...)
	}
	if err := c.mem.Append(m.GetEntries()); err != nil {
		return fmt.Errorf("metadata quorum: %w", err)
	}
	for _, r := range m.GetResponses() {
		if err := c.deliver(r); err != nil {
			return err
		}
	}
	return nil
}

// deliver hands a message to this node's raft or sends it.
func (c *Cluster) deliver(m *pb.Message) error {
	if m.GetTo() == c.id() {
		if err := c.rn.Step(m); err != nil {
			return fmt.Errorf("metadata quorum: raft refuses its own %v: %w", m.GetType(), err)
		}
		return nil
	}
	data, err := marshaling.Marshal(m)
	if err != nil {
		return fmt.Errorf("metadata quorum: encoding a raft message: %w", err)
	}
	c.out.Sends = append(c.out.Sends, Send{To: nodeOf(m.GetTo()), Msg: RaftMessage{Data: data}})
	return nil
}

// drain does what raft asks for until it asks for nothing.
func (c *Cluster) drain() error {
	for c.rn.HasReady() {
		rd := c.rn.Ready()
		if rd.SoftState != nil {
			c.softState(rd.SoftState)
		}
		for _, m := range rd.Messages {
			var err error
			switch m.GetTo() {
			case raft.LocalAppendThread:
				c.persist(m)
			case raft.LocalApplyThread:
				err = c.applyCommitted(m)
			default:
				err = c.deliver(m)
			}
			if err != nil {
				return err
			}
		}
	}
	c.rule()
	return nil
}

func (c *Cluster) softState(s *raft.SoftState) {
	leader := broker.None
	if s.Lead != raft.None {
		leader = nodeOf(s.Lead)
	}
	if leader != c.st.controller {
		c.st.controller = leader
		for _, p := range c.proposals {
			p.retry = c.now.Mono // the former leader may have lost it
		}
		c.nextBeat = c.now.Mono
	}
	leading := s.RaftState == raft.StateLeader
	if leading && !c.leading {
		c.term = c.rn.BasicStatus().HardState.GetTerm()
		c.out.Events = append(c.out.Events, broker.Event{Kind: "controller", Epoch: int32(c.term), Leader: c.cfg.name(c.cfg.ID)})
	}
	c.leading = leading
}

// append asks for a write. It hands out records that nobody changes.
func (c *Cluster) append(m *pb.Message, records [][]byte, snapshot bool) {
	c.seq++
	c.writes = append(c.writes, write{seq: c.seq, msg: m})
	c.out.Writes = append(c.out.Writes, broker.MetaAppend{Seq: c.seq, Records: records, Snapshot: snapshot})
}

// persist asks for what raft wants stored. A mere advance of the commit index, on
// which nothing depends, waits for the next write.
func (c *Cluster) persist(m *pb.Message) {
	if m.Term != nil {
		c.hard = &pb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		c.term = m.GetTerm()
	}
	switch {
	case m.GetSnapshot() != nil:
		c.append(m, replacing(c.hard, m.GetSnapshot(), m.GetEntries()), true)
	case len(m.GetEntries()) > 0 || len(m.GetResponses()) > 0:
		c.append(m, [][]byte{record(c.hard, m.GetEntries(), nil)}, false)
	}
}

func (c *Cluster) applyCommitted(m *pb.Message) error {
	members := c.st.conf
	for _, e := range m.GetEntries() {
		if err := c.applyEntry(e); err != nil {
			return err
		}
	}
	for _, r := range m.GetResponses() {
		if err := c.deliver(r); err != nil {
			return err
		}
	}
	// A snapshot from before a change of members would not let the new one in.
	return c.snapshot(!sameMembers(members, c.st.conf))
}

func (c *Cluster) applyEntry(e *pb.Entry) error {
	c.st.applied = e.GetIndex()
	c.appliedTerm = e.GetTerm()
	if len(e.GetData()) == 0 {
		return nil // a new leader's first
	}
	data := e.GetData()
	var cc *pb.ConfChange
	if e.GetType() == pb.EntryConfChange {
		var err error
		if cc, err = changeOf(e); err != nil {
			return fmt.Errorf("metadata quorum: entry %d is corrupt: %w", e.GetIndex(), err)
		}
		data = cc.GetContext()
	}
	env, cmd, err := decodeEnvelope(data)
	if _, step := cmd.(changeMember); err == nil && step != (cc != nil) {
		err = fmt.Errorf("a %T in an entry of type %v", cmd, e.GetType())
	}
	if err != nil {
		return fmt.Errorf("metadata quorum: entry %d is corrupt or of a newer version: %w", e.GetIndex(), err)
	}
	before := c.st.own()
	o, ok := c.st.apply(e.GetIndex(), e.GetTerm(), &env, cmd)
	if !ok {
		return nil
	}
	if cc != nil && o.code == 0 {
		c.st.conf = pb.EnsureConfState(c.rn.ApplyConfChange(cc))
	}
	c.out.Changes = append(c.out.Changes, o.changes...)
	c.report(before, o.changes)
	if env.Node != c.cfg.ID || env.Incarnation != c.cfg.Incarnation {
		return nil
	}
	i := slices.IndexFunc(c.proposals, func(p *proposal) bool { return p.ticket == env.Ticket })
	if i < 0 {
		return nil // given up
	}
	c.finish(i, o)
	return nil
}

// report makes events of what happened to this broker.
func (c *Cluster) report(before *Broker, changes []Change) {
	own := c.st.own()
	if own == nil {
		return
	}
	if before == nil {
		c.nextBeat = c.now.Mono // registered just now
	} else if before.Fenced != own.Fenced {
		kind := "unfenced"
		if own.Fenced {
			kind = "fenced"
		}
		c.out.Events = append(c.out.Events, broker.Event{Kind: kind, Epoch: int32(own.Epoch)})
	}
	for _, ch := range changes {
		if ch.Unclean && ch.Partition.Leader == c.cfg.ID {
			c.out.Events = append(c.out.Events, broker.Event{
				Kind: "unclean", Key: fmt.Sprintf("%s-%d", ch.Topic.Name, ch.Partition.Index), Epoch: ch.Partition.Epoch,
				Leader: c.cfg.name(c.cfg.ID), ISR: []string{c.cfg.name(c.cfg.ID)},
			})
		}
	}
}

// snapshot replaces the log by the state, every SnapshotEntries entries or now.
func (c *Cluster) snapshot(now bool) error {
	index := c.st.applied
	if index == c.snapAt || index-c.snapAt < uint64(c.cfg.SnapshotEntries) && !now {
		return nil
	}
	data, err := c.st.marshal()
	if err != nil {
		return fmt.Errorf("metadata quorum: encoding a snapshot: %w", err)
	}
	snap, err := c.mem.CreateSnapshot(index, c.st.conf, data)
	if err != nil {
		return fmt.Errorf("metadata quorum: taking a snapshot: %w", err)
	}
	c.snapAt = index
	entries, err := c.entriesAfter(index)
	if err != nil {
		return err
	}
	c.append(nil, replacing(c.hard, snap, entries), true)
	if trail := uint64(c.cfg.SnapshotEntries / snapshotTrailDenom); index > trail {
		if err := c.mem.Compact(index - trail); err != nil && !errors.Is(err, raft.ErrCompacted) {
			return fmt.Errorf("metadata quorum: compacting: %w", err)
		}
	}
	return nil
}

// entriesAfter gives the log's entries after index as they are once every write asked for so far is stored.
func (c *Cluster) entriesAfter(index uint64) ([]*pb.Entry, error) {
	last, err := c.mem.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("metadata quorum: %w", err)
	}
	var entries []*pb.Entry
	if last > index {
		if entries, err = c.mem.Entries(index+1, last+1, 1<<62); err != nil {
			return nil, fmt.Errorf("metadata quorum: %w", err)
		}
	}
	for _, w := range c.writes {
		for _, e := range w.msg.GetEntries() {
			if e.GetIndex() > index {
				entries = append(entries[:e.GetIndex()-index-1:e.GetIndex()-index-1], e)
			}
		}
	}
	return entries, nil
}

// NextWake is the time, on the monotonic clock, of the next Tick; every timeout is
// looked at there, to the precision of TickInterval.
func (c *Cluster) NextWake() time.Duration { return c.nextTick }

// Tick lets time pass. It may be called early or late.
func (c *Cluster) Tick(now broker.Time) {
	c.step(now, func() error {
		if c.now.Mono < c.nextTick {
			return nil
		}
		gap := c.now.Mono - c.lastTick
		c.lastTick = c.now.Mono
		c.nextTick += c.cfg.TickInterval
		if c.nextTick <= c.now.Mono {
			// Late: missed ticks are not made up for, or a pause would look like silence of the others.
			c.nextTick = c.now.Mono + c.cfg.TickInterval
		}
		c.rn.Tick()
		if err := c.drain(); err != nil {
			return err
		}
		c.retryProposals()
		c.resendSnapshots()
		c.brokerTick()
		c.controllerTick(gap)
		return nil
	})
}

// resendSnapshots tells raft to try again where a snapshot was not acknowledged
// for an election timeout: raft itself waits for ever.
func (c *Cluster) resendSnapshots() {
	if !c.leading {
		clear(c.snapSent)
		return
	}
	var lost []uint64
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr progress) {
		sent, waiting := c.snapSent[id]
		switch {
		case pr.State != stateSnapshot:
			delete(c.snapSent, id)
		case !waiting:
			c.snapSent[id] = c.now.Mono
		case c.now.Mono-sent >= time.Duration(c.cfg.ElectionTicks)*c.cfg.TickInterval:
			delete(c.snapSent, id)
			lost = append(lost, id)
		}
	})
	for _, id := range lost {
		c.rn.ReportSnapshot(id, raft.SnapshotFailure)
	}
}

// Take gives everything that happened since the last Take.
func (c *Cluster) Take() Output {
	out := c.out
	c.out = Output{}
	return out
}

// State is the applied state.
func (c *Cluster) State() *State { return c.st }

// Propose proposes a command; its Result comes with the ticket, at the latest after
// ProposalTimeout. It needs no leader now: it is tried again until then, and applied
// at most once.
func (c *Cluster) Propose(now broker.Time, cmd Command) Ticket {
	var t Ticket
	c.step(now, func() error {
		t = c.propose(cmd, "", 0)
		return nil
	})
	return t
}

func (c *Cluster) propose(cmd Command, duty string, term uint64) Ticket {
	c.ticket++
	p := &proposal{ticket: c.ticket, deadline: c.now.Mono + c.cfg.ProposalTimeout, duty: duty, term: term}
	env := envelope{
		Node: c.cfg.ID, Incarnation: c.cfg.Incarnation, Ticket: p.ticket, Oldest: p.ticket, Term: term,
	}
	if len(c.proposals) > 0 {
		env.Oldest = c.proposals[0].ticket
	}
	if t, ok := cmd.(CreateTopic); ok {
		t = c.withDefaults(t)
		cmd = t
		env.MinISR, env.Unclean, env.Eligible = c.cfg.MinISR, c.cfg.Unclean, slices.Contains(c.cfg.EligibleLeaders, t.Scheme)
		env.Election = c.cfg.Elections[t.Scheme]
	}
	if step, ok := cmd.(changeMember); ok {
		p.step = &step
	}
	var err error
	if p.data, err = env.marshal(cmd); err != nil {
		if duty == "" {
			c.out.Results = append(c.out.Results, Result{Ticket: p.ticket, Code: kerr.InvalidRequest.Code, Text: err.Error()})
		}
		return p.ticket
	}
	c.proposals = append(c.proposals, p)
	c.attempt(p)
	return p.ticket
}

// withDefaults settles a topic's defaults at the node that was asked.
func (c *Cluster) withDefaults(t CreateTopic) CreateTopic {
	if len(t.Assignment) == 0 {
		if t.Partitions == -1 {
			t.Partitions = c.cfg.DefaultPartitions
		}
		if t.ReplicationFactor == -1 && c.cfg.DefaultReplication > 0 {
			t.ReplicationFactor = c.cfg.DefaultReplication
		}
	}
	if t.Scheme == "" {
		t.Scheme = c.cfg.DefaultScheme
	}
	return t
}

func (c *Cluster) attempt(p *proposal) {
	p.retry = c.now.Mono + c.cfg.ProposalTimeout/proposalRetries
	var err error
	if p.step != nil {
		err = c.rn.ProposeConfChange(confChange(*p.step, p.data))
	} else {
		err = c.rn.Propose(p.data)
	}
	if err != nil {
		c.logf("debug", "proposal %d: %v", p.ticket, err) // no leader, or one that is moving: tried again
	}
}

func (c *Cluster) retryProposals() {
	for i := 0; i < len(c.proposals); {
		p := c.proposals[i]
		if c.now.Mono >= p.deadline {
			c.finish(i, refuse(kerr.RequestTimedOut, "the metadata quorum did not answer within %v", c.cfg.ProposalTimeout))
			continue
		}
		if c.now.Mono >= p.retry {
			c.attempt(p)
		}
		i++
	}
}

// finish ends the i-th proposal.
func (c *Cluster) finish(i int, o outcome) {
	p := c.proposals[i]
	c.proposals = slices.Delete(c.proposals, i, i+1)
	if p.duty != "" {
		if o.code != 0 {
			c.logf("debug", "%s: %s", p.duty, o.text)
		}
		return
	}
	c.out.Results = append(c.out.Results, Result{Ticket: p.ticket, Code: o.code, Text: o.text, Value: o.value})
}

// logf keeps a line for people.
func (c *Cluster) logf(level, format string, args ...any) {
	c.out.Logs = append(c.out.Logs, broker.LogLine{Level: level, Text: fmt.Sprintf(format, args...)})
}
