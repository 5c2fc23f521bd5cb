// Package standby replicates a partition from a master to slaves that pull, as
// RocketMQ does (SCHEMES.md 1.6): the master acknowledges alone (ASYNC_MASTER), or
// after so many copies (SYNC_MASTER), and consumers see what it has stored, copied or
// not. Nobody takes over by himself; with enableControllerMode the metadata quorum
// makes another master out of those in sync.
//
// Sources of the rules: RocketMQ 5 CommitLog.asyncPutMessage, calcNeedAckNums and
// handleHA, DefaultHAService.inSyncReplicasNums, AutoSwitchHAService
// (maybeExpandInSyncStateSet, maybeShrinkSyncStateSet), and its documents on
// QuorumACK.
package standby

import (
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/pull"
)

type role uint8

const (
	idle role = iota
	master
	slave
)

// settings are the scheme's options.
type settings struct {
	sync, auto, read, controller, all bool
	copies, least                     int
	timeout, quiet, catchUp           time.Duration
	gap                               int
}

// everyone is the number of copies that stands for all in sync.
const everyone = 0

// Machine is one replica of one partition. It implements scheme.Machine.
type Machine struct {
	h    scheme.Host
	o    scheme.Options
	s    settings
	a    scheme.Assignment
	role role
	high int64 // confirmed: what all in sync have

	// As master.
	start   int64
	peers   pull.Leader
	linked  []broker.NodeID // whose connection did not break
	acks    []waiting       // by the number of copies
	maximal []broker.NodeID // in sync, committed or proposed
	pending bool
	checkAt time.Duration
	told    []broker.NodeID // in sync, as the authority was told

	pull pull.Follower
}

// waiting are the writes that wait for one number of copies.
type waiting struct {
	copies int
	scheme.Acks
}

var _ scheme.Machine = (*Machine)(nil)

// New makes the machine of one replica. It is a scheme.Factory.
func New(h scheme.Host, o scheme.Options, high int64) scheme.Machine {
	v := o.Set
	return newMachine(h, o, high, v.String(roleOption) == "SYNC_MASTER")
}

// NewSynchronous is New with every master whom a controller makes a SYNC_MASTER,
// whatever brokerRole says (RocketMQ: ReplicasManager.changeToMaster).
func NewSynchronous(h scheme.Host, o scheme.Options, high int64) scheme.Machine {
	v := o.Set
	return newMachine(h, o, high, v.String(roleOption) == "SYNC_MASTER" || v.Bool(controllerOption))
}

// NewPair makes the machine of one replica as with a controller, whatever the options
// say of that: with synchronous, all in sync must have it before it is acknowledged or
// shown, otherwise the master alone.
func NewPair(h scheme.Host, o scheme.Options, high int64, synchronous bool) *Machine {
	m := newMachine(h, o, high, synchronous)
	m.s.controller, m.s.all, m.s.read, m.s.copies, m.s.least = true, synchronous, false, 1, 1
	if synchronous {
		m.high = min(high, h.Index().End())
	}
	return m
}

// Complete reports whether a slave has everything that this master has.
func (m *Machine) Complete(id broker.NodeID) bool {
	r := m.peers.Find(id)
	return m.role == master && r != nil && r.Stable >= m.h.Index().End()
}

func newMachine(h scheme.Host, o scheme.Options, high int64, sync bool) *Machine {
	v := o.Set
	m := &Machine{
		h: h, o: o, checkAt: scheme.Never,
		a: scheme.Assignment{Leader: broker.None, Epoch: -1, PartEpoch: -1},
		s: settings{
			sync: sync, auto: v.Bool(autoOption), read: v.Bool(readOption), controller: v.Bool(controllerOption), all: v.Bool(allOption),
			copies: v.Int(inSyncOption), least: v.Int(minOption),
			timeout: v.Duration(timeoutOption), quiet: v.Duration(quietOption), catchUp: v.Duration(catchUpOption), gap: v.Int(gapOption),
		},
	}
	if m.confirmedOnly() {
		m.high = min(high, h.Index().End())
	}
	m.peers, m.pull = pull.NewLeader(h, o, &m.high), pull.NewFollower(h, o, &m.high)
	return m
}

// Assigned implements scheme.Machine.
func (m *Machine) Assigned(a scheme.Assignment) {
	if a.PartEpoch <= m.a.PartEpoch || a.Epoch < m.a.Epoch {
		return
	}
	old := m.a
	m.a = a
	m.peers.Epoch = a.Epoch
	switch {
	case a.Leader == m.h.Self() && !m.h.Refused():
		if m.role == master && a.Epoch == old.Epoch {
			m.committed(old)
			return
		}
		m.stepDown()
		m.lead()
	case a.Leader != broker.None && a.Leader != m.h.Self():
		if m.role == slave && a.Epoch == old.Epoch {
			return
		}
		m.stepDown()
		m.role = slave
		m.h.Emit(broker.Event{Kind: "follower", Epoch: a.Epoch, Leader: m.h.Name(a.Leader), Offset: m.h.Index().End()})
		m.pull.Follow(a.Leader, a.Epoch)
		m.h.Advanced()
	default:
		m.stepDown()
		m.role = idle
		m.pull.Stop()
		m.h.Advanced()
	}
}

// lead begins an epoch as its master. What it has, it has: a slave that has more cuts it.
func (m *Machine) lead() {
	m.pull.Stop()
	m.role = master
	if m.o.Mutants.On(mutant.LeadFromConfirmed) {
		m.h.Truncate(min(m.high, m.h.Index().End()))
	}
	m.h.Index().StartEpoch(m.a.Epoch)
	m.start = m.h.Index().End()
	m.peers.Know(m.a.Replicas)
	m.linked = slices.Clone(m.a.Replicas)
	m.maximal, m.pending, m.told = slices.Clone(m.a.ISR), false, nil
	m.checkAt = m.h.Now().Mono + m.period()
	if m.a.Unclean {
		m.h.Emit(broker.Event{Kind: "unclean", Epoch: m.a.Epoch, Leader: m.h.Name(m.h.Self()), Offset: m.start, Detail: "elected outside the in-sync set"})
	}
	m.h.Emit(broker.Event{Kind: "leader", Epoch: m.a.Epoch, Leader: m.h.Name(m.h.Self()), ISR: m.names(m.a.ISR), Offset: m.start})
	m.raise()
	m.h.Advanced()
}

// period is how often the master looks who is in sync.
func (m *Machine) period() time.Duration { return m.s.catchUp / 3 }

// stepDown ends this replica's time as master. Writes in the log may still take
// effect, so their answer is REQUEST_TIMED_OUT.
func (m *Machine) stepDown() {
	if m.role != master {
		return
	}
	m.role = idle
	for i := range m.acks {
		m.acks[i].Abandon(m.h)
	}
	m.peers.Dismiss()
	m.checkAt = scheme.Never
}

// committed takes over a new in-sync set in the same epoch.
func (m *Machine) committed(old scheme.Assignment) {
	m.peers.Know(m.a.Replicas)
	m.maximal, m.pending = slices.Clone(m.a.ISR), false
	if !slices.Equal(old.ISR, m.a.ISR) {
		m.h.Emit(broker.Event{Kind: "isr", Epoch: m.a.Epoch, Leader: m.h.Name(m.h.Self()), ISR: m.names(m.a.ISR), Offset: m.high})
	}
	m.raise()
}

// ISRAnswer implements scheme.Machine. Where the outcome is unknown, those that were
// proposed go on counting.
func (m *Machine) ISRAnswer(code int16) {
	if m.role == master && m.pending {
		m.pending = false
		if code != kerr.RequestTimedOut.Code {
			m.maximal = slices.Clone(m.a.ISR)
			m.raise()
		}
	}
}

// connected reports whether a slave is there: its connection stands, it fetched not
// long ago, and it is not too far behind (DefaultHAService.isInSyncSlave).
func (m *Machine) connected(r *pull.Remote) bool {
	if r.Heard < 0 || m.h.Now().Mono-r.Heard > m.s.quiet+m.o.FetchWait || !slices.Contains(m.linked, r.ID) {
		return false
	}
	x := m.h.Index()
	_, _, behind := x.Range(r.Stable, x.End(), m.s.gap+1)
	return behind <= m.s.gap
}

// present is the number of copies that are in sync, the master's among them.
func (m *Machine) present() int {
	if m.s.controller {
		return len(m.a.ISR)
	}
	n := 1
	for _, r := range m.peers.Remotes {
		if m.connected(r) {
			n++
		}
	}
	return n
}

// need is how many copies a write waits for; ok is false where it is refused, because
// there are too few (CommitLog.asyncPutMessage). Up to one, nobody is waited for: so
// SYNC_MASTER with its default of inSyncReplicas is asynchronous (CommitLog.handleHA).
func (m *Machine) need(acks int16) (copies int, ok bool) {
	if !m.s.sync || acks != -1 {
		return 1, true
	}
	present := m.present()
	switch {
	case m.o.Mutants.On(mutant.SyncOfOne):
		return 1, present >= m.s.least
	case m.s.controller && m.s.all:
		return everyone, present >= m.s.least
	case m.s.controller:
		return m.s.copies, present >= m.s.least
	case m.s.auto:
		copies = max(min(m.s.copies, present), m.s.least)
		return copies, copies <= present
	}
	return m.s.copies, true
}

// Produce implements scheme.Machine.
func (m *Machine) Produce(p scheme.Produce) {
	refuse := func(e *kerr.Error, text string) {
		if p.Acks != 0 {
			m.h.Produced(p.Token, scheme.Produced{Code: e.Code, Base: -1, Text: text})
		}
	}
	if m.role != master {
		refuse(kerr.NotLeaderForPartition, "this replica is not the master")
		return
	}
	copies, ok := m.need(p.Acks)
	if !ok {
		refuse(kerr.NotEnoughReplicas, fmt.Sprintf("%d copies are in sync, %s is %d", m.present(), minOption, m.s.least))
		return
	}
	base, end, done := scheme.Prepare(m.h, p, m.a.Epoch)
	if done {
		return
	}
	if p.Acks != 0 {
		wait := p.Timeout
		if copies != 1 {
			wait = min(wait, m.s.timeout)
		}
		m.waitFor(copies).Add(p.Token, base, end, m.h.Now().Mono+wait)
	}
	m.peers.ServeParked()
	m.raise()
}

// waitFor gives the writes that wait for so many copies.
func (m *Machine) waitFor(copies int) *waiting {
	i := slices.IndexFunc(m.acks, func(w waiting) bool { return w.copies == copies })
	if i < 0 {
		i = len(m.acks)
		m.acks = append(m.acks, waiting{copies: copies})
	}
	return &m.acks[i]
}

// raise answers what has its copies, and moves what is confirmed.
func (m *Machine) raise() {
	if m.role != master {
		return
	}
	before := m.high
	m.high = max(m.high, m.copied(everyone))
	if m.high != before {
		m.peers.ServeParked()
	}
	for i := range m.acks {
		m.acks[i].Reach(m.h, m.copied(m.acks[i].copies), 0)
	}
	m.h.Advanced()
}

// copied is the offset up to which so many copies are stable, the master's among them;
// with everyone, all in sync.
func (m *Machine) copied(copies int) int64 {
	own := m.h.Stable()
	if copies == everyone {
		for _, r := range m.peers.Remotes {
			if slices.Contains(m.maximal, r.ID) && (m.connected(r) || !m.o.Mutants.On(mutant.ConfirmConnected)) {
				own = min(own, r.Stable)
			}
		}
		return own
	}
	ends := []int64{}
	for _, r := range m.peers.Remotes {
		ends = append(ends, r.Stable)
	}
	slices.SortFunc(ends, func(a, b int64) int { return int(b - a) })
	switch others := copies - 1; {
	case others <= 0:
		return own
	case others > len(ends):
		return -1
	default:
		return min(own, ends[others-1])
	}
}

// Message implements scheme.Machine.
func (m *Machine) Message(from broker.NodeID, msg broker.Message) {
	switch f := msg.(type) {
	case *pull.Fetch:
		r, diverged := m.peers.Take(from, f)
		if r == nil {
			return
		}
		if !slices.Contains(m.linked, from) {
			m.linked = append(m.linked, from)
		}
		if diverged {
			m.peers.Diverged(r, f)
			return
		}
		m.review(false)
		m.report(false)
		m.raise()
		m.peers.Serve(r)
	case *pull.FetchAnswer:
		m.pull.Answered(from, f)
		if m.s.read {
			m.h.Advanced()
		}
	}
}

// review proposes who is in sync, with a controller: a slave joins when it has what is
// confirmed, and leaves when it has not caught up for long.
func (m *Machine) review(shrink bool) {
	if !m.s.controller || m.role != master || m.pending {
		return
	}
	now := m.h.Now().Mono
	var want []broker.NodeID
	members := []scheme.Member{}
	for _, id := range m.a.Replicas {
		r := m.peers.Find(id)
		in, epoch := slices.Contains(m.maximal, id), m.h.BrokerEpoch()
		if r != nil {
			epoch = r.BrokerEpoch
			switch {
			case in && shrink:
				in = now-r.CaughtUp <= m.s.catchUp
			case !in:
				in = r.End >= m.start && r.Stable >= m.high && now-r.CaughtUp <= m.s.catchUp && m.h.Eligible(id, r.BrokerEpoch)
			}
		}
		if in {
			want, members = append(want, id), append(members, scheme.Member{ID: id, Epoch: epoch})
		}
	}
	if slices.Equal(want, m.a.ISR) && len(m.maximal) == len(m.a.ISR) {
		return
	}
	for _, id := range want {
		if !slices.Contains(m.maximal, id) && !m.o.Mutants.On(mutant.SyncStateSetAfterReply) {
			m.maximal = append(m.maximal, id)
		}
	}
	m.pending = true
	m.h.ProposeISR(m.a.Epoch, m.a.PartEpoch, members)
}

// report tells the authority who is in sync where nothing is decided by it: when that
// changed, and again as long as the authority does not know.
func (m *Machine) report(again bool) {
	if m.s.controller {
		return
	}
	inSync := m.View().InSync
	if !slices.Equal(inSync, m.a.ISR) && (again || !slices.Equal(inSync, m.told)) {
		m.told = inSync
		m.h.Report(m.a.Epoch, inSync)
	}
}

// Link implements scheme.Machine: a connection that broke ends a slave's presence.
func (m *Machine) Link(peer broker.NodeID, up bool) {
	m.pull.Link(peer, up)
	m.linked = slices.DeleteFunc(m.linked, func(id broker.NodeID) bool { return id == peer && !up })
}

// Stored implements scheme.Machine.
func (m *Machine) Stored() {
	switch m.role {
	case master:
		m.raise()
	case slave:
		m.pull.Stored()
		if m.s.read {
			m.h.Advanced()
		}
	}
}

// Wake implements scheme.Machine.
func (m *Machine) Wake() {
	now := m.h.Now().Mono
	switch m.role {
	case master:
		for i := range m.acks {
			m.acks[i].Expire(m.h)
		}
		if m.checkAt <= now {
			m.checkAt = now + m.period()
			m.review(true)
			m.report(true)
		}
		m.peers.ServeParked()
	case slave:
		m.pull.Wake()
	}
}

// NextWake implements scheme.Machine.
func (m *Machine) NextWake() time.Duration {
	switch m.role {
	case master:
		next := min(m.checkAt, m.peers.NextWake())
		for i := range m.acks {
			next = min(next, m.acks[i].Next())
		}
		return next
	case slave:
		return m.pull.NextWake()
	}
	return scheme.Never
}

// confirmedOnly reports whether consumers see only what all in sync have.
func (m *Machine) confirmedOnly() bool { return m.s.controller && m.s.sync && m.s.all }

// visible is the first offset that is not shown: what is stored (flushed with
// fsync=always, otherwise written), whoever else has it.
func (m *Machine) visible() int64 {
	if m.confirmedOnly() {
		return m.high
	}
	return m.h.Stable()
}

// CheckRead implements scheme.Machine: the master serves consumers, and with
// slaveReadEnable so does a slave, with whatever it has; where only what is confirmed is
// shown, with what it knows to be (DefaultMessageStore.getConfirmOffset). Otherwise a
// record could be read from a slave, be cut, and be read again at another offset once its
// producer had sent it to the next master.
func (m *Machine) CheckRead(leaderEpoch int32) (int64, int16) {
	switch {
	case m.role != master && m.s.read && !m.h.Refused():
		return m.visible(), 0
	case m.role != master:
		return 0, kerr.NotLeaderForPartition.Code
	case leaderEpoch >= 0 && leaderEpoch < m.a.Epoch:
		return 0, kerr.FencedLeaderEpoch.Code
	case leaderEpoch > m.a.Epoch:
		return 0, kerr.UnknownLeaderEpoch.Code
	}
	return m.visible(), 0
}

// High implements scheme.Machine: consumers take it for the end of what they may see.
func (m *Machine) High() int64 { return m.visible() }

// View implements scheme.Machine. The in-sync set is the committed one with a
// controller; otherwise those that have, or lately had, all that the master has.
func (m *Machine) View() scheme.View {
	v := scheme.View{Leader: m.a.Leader, Epoch: m.a.Epoch, InSync: m.a.ISR, Visible: m.visible(), Writable: m.role == master}
	if m.role != master {
		return v
	}
	if m.confirmedOnly() {
		v.EpochStart = m.start
	}
	if !m.s.controller {
		v.InSync = nil
		for _, id := range m.a.Replicas {
			if r := m.peers.Find(id); id == m.h.Self() || r != nil && m.connected(r) && m.h.Now().Mono-r.CaughtUp <= m.s.catchUp {
				v.InSync = append(v.InSync, id)
			}
		}
	}
	return v
}

// Close implements scheme.Machine.
func (m *Machine) Close() {
	m.stepDown()
	m.pull.Stop()
	m.role = idle
}

func (m *Machine) names(ids []broker.NodeID) []string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = m.h.Name(id)
	}
	return names
}
