// Package shared keeps a partition's one log on a storage device that all nodes share.
// Whoever holds its lock leads; the others poll for it. Nothing is copied: a node that
// takes over reads the same log (ActiveMQ's shared file system master/slave; SCHEMES.md
// 1.5).
//
// The lock is a lock on a file, which the kernel frees with the process and keeps while
// it is stopped, or a lease, which ends by the wall clock. Either can be lost while its
// owner lives. What then keeps two owners apart is the fencing token: each owner
// publishes a higher one before it reads the log, writes into a part of the log of its
// own, and acknowledges only what was durable while the token was still its own.
// Without it both write to one log, each at its own position.
package shared

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// Options of the scheme, resolved.
type Options struct {
	Poll      time.Duration // lockAcquireSleepInterval: between tries for the lock, and the length of a lease
	KeepAlive time.Duration // lockKeepAlivePeriod: between looks at the lock; 0: never again
	Lease     bool          // locker=lease
	Margin    time.Duration // lease.skew.margin.ms
	Fenced    bool          // fencing=token
}

// phase is where a node is on its way to the log and back.
type phase uint8

const (
	waiting    phase = iota // for the next try
	trying                  // for the lock
	publishing              // its token
	opening                 // the log
	leading
	refusing // the log is damaged; the lock is kept
	closing
	closed
)

// Machine is one node's part of one partition. It implements scheme.Machine.
type Machine struct {
	h scheme.SharedHost
	o Options
	m mutant.Set

	members []broker.NodeID // of the newest assignment
	part    int32           // its partition epoch
	phase   phase
	pollAt  time.Duration // waiting: the next try
	holder  broker.NodeID // who was said to hold the lock

	token     uint64        // this owner's
	epoch     int32         // the token, -1 without one
	start     int64         // log end when this node began to lead
	keepAt    time.Duration // leading: the next look at the lock
	keeping   bool          // it is under way
	expires   int64         // end of the own lease, by the own wall clock
	renewal   int64         // wall clock of the renewal that is under way
	checking  bool          // the token is being read
	checked   int64         // stable end when that was asked for
	confirmed int64         // what was durable while the token was this owner's
	acks      scheme.Acks
}

var _ scheme.Machine = (*Machine)(nil)

// New makes the machine of one partition.
func New(h scheme.SharedHost, o Options, mutants mutant.Set) *Machine {
	return &Machine{h: h, o: o, m: mutants, part: -1, pollAt: scheme.Never, holder: broker.None, epoch: -1}
}

// Assigned implements scheme.Machine: the directory is there, so try. Who the quorum
// says leads means nothing here.
func (m *Machine) Assigned(a scheme.Assignment) {
	if a.PartEpoch <= m.part {
		return
	}
	first := m.part < 0
	m.part, m.members = a.PartEpoch, a.Replicas
	if first && m.phase == waiting {
		m.try()
	}
}

func (m *Machine) lock() broker.Lock {
	l := broker.Lock{Node: m.h.Self(), Owner: m.h.Owner(), Lease: m.o.Lease, Wall: m.h.Now().Wall, Length: m.o.Poll, Margin: m.o.Margin}
	if m.m.On(mutant.NoSkewMargin) {
		l.Margin = 0
	}
	return l
}

func (m *Machine) try() {
	m.phase, m.pollAt, m.renewal = trying, scheme.Never, m.h.Now().Wall
	m.h.TryLock(m.lock())
}

// wait goes back to polling.
func (m *Machine) wait() {
	m.phase, m.pollAt = waiting, m.h.Now().Mono+m.o.Poll
}

// release closes the log and gives the lock up.
func (m *Machine) release() {
	m.phase = closing
	m.h.CloseLog(m.lock())
}

// Message implements scheme.Machine: answers of the shared device.
func (m *Machine) Message(_ broker.NodeID, msg broker.Message) {
	switch d := msg.(type) {
	case *broker.DeviceDone:
		m.done(d)
	case *broker.ReadFailed:
		if m.phase == leading {
			m.h.Emit(broker.Event{Kind: "corrupt", Epoch: m.epoch, Offset: d.Offset, Detail: d.Err.Error()})
			m.stepDown("the log is damaged")
		}
	}
}

func (m *Machine) done(d *broker.DeviceDone) {
	switch {
	case m.phase == closed:
		// The log was closed behind whatever was under way.
	case d.Do == broker.TryLock && m.phase == trying:
		m.tried(d)
	case d.Do == broker.Publish && m.phase == publishing:
		if d.Err != nil {
			m.release()
			return
		}
		m.token = d.Token
		m.phase = opening
		m.h.OpenLog(true, m.token)
	case d.Do == broker.OpenLog && m.phase == opening:
		m.opened(d)
	case d.Do == broker.CheckLock && m.phase == leading:
		m.kept(d)
	case d.Do == broker.CheckToken && m.phase == leading:
		m.tokenRead(d)
	case d.Do == broker.CloseLog && m.phase == closing:
		m.wait()
	}
}

func (m *Machine) tried(d *broker.DeviceDone) {
	if d.Err != nil || !d.Held {
		m.holder = d.Holder
		if d.Holder == m.h.Self() {
			m.holder = broker.None // a former incarnation of this node
		}
		m.wait()
		m.h.Advanced()
		return
	}
	m.holder, m.expires = broker.None, m.renewal+int64(m.o.Poll)
	if m.o.Fenced {
		m.phase = publishing
		m.h.Publish(m.lock())
		return
	}
	m.phase = opening
	m.h.OpenLog(false, 0)
}

func (m *Machine) opened(d *broker.DeviceDone) {
	switch {
	case d.Err != nil || !d.Held:
		m.release()
		return
	case m.h.Refused():
		m.phase = refusing
		return
	}
	m.phase, m.epoch, m.start = leading, -1, m.h.Index().End()
	if m.o.Fenced {
		m.epoch = int32(m.token)
	}
	m.h.Index().StartEpoch(m.epoch)
	m.confirmed, m.checking, m.keeping = m.start, false, false
	m.keepAt = scheme.Never
	if m.o.KeepAlive > 0 && !m.m.On(mutant.NoFence) {
		m.keepAt = m.h.Now().Mono + m.o.KeepAlive
	}
	self := m.h.Name(m.h.Self())
	m.h.Emit(broker.Event{Kind: "leader", Epoch: m.epoch, Leader: self, ISR: []string{self}, Offset: m.start})
	m.h.Advanced()
}

// kept takes the outcome of a look at the lock, or of a lease's renewal. One that
// failed tells nothing: the next one comes in time, or the lease ends.
func (m *Machine) kept(d *broker.DeviceDone) {
	m.keeping, m.keepAt = false, m.h.Now().Mono+m.o.KeepAlive
	switch {
	case d.Err != nil:
	case !d.Held:
		m.stepDown("the lock is lost")
	default:
		m.expires = m.renewal + int64(m.o.Poll)
	}
}

// stepDown stops leading: another may lead already. Whether the writes that wait are
// in what it found nobody here knows.
func (m *Machine) stepDown(why string) {
	m.h.Emit(broker.Event{Kind: "follower", Epoch: m.epoch, Detail: why})
	m.acks.Abandon(m.h)
	m.release()
	m.h.Advanced()
}

// Stored implements scheme.Machine.
func (m *Machine) Stored() {
	if m.phase != leading || m.expired() {
		return
	}
	if m.o.Fenced && !m.m.On(mutant.NoFence) {
		m.checkToken()
		return
	}
	m.confirm(m.h.Stable())
}

// checkToken asks for the token once something was made durable since it was last
// asked for: only a token that is read after the sync says that nobody had taken over
// before it.
func (m *Machine) checkToken() {
	if m.checking || m.h.Stable() <= m.confirmed {
		return
	}
	m.checking, m.checked = true, m.h.Stable()
	m.h.CheckToken()
}

func (m *Machine) tokenRead(d *broker.DeviceDone) {
	m.checking = false
	switch {
	case d.Err != nil:
		m.stepDown("the token cannot be read")
	case d.Token != m.token:
		m.stepDown("another owner has published a token")
	case !m.expired():
		m.confirm(m.checked)
		m.checkToken()
	}
}

func (m *Machine) confirm(end int64) {
	m.confirmed = max(m.confirmed, end)
	m.acks.Reach(m.h, m.confirmed, 0)
	m.h.Advanced()
}

// expired reports whether the own lease is over, where that is looked at between two
// renewals, and then steps down. Others wait for the margin in addition.
func (m *Machine) expired() bool {
	over := m.o.Lease && m.o.Margin > 0 && !m.m.On(mutant.NoSkewMargin) && m.h.Now().Wall >= m.expires
	if over && m.phase == leading {
		m.stepDown("the lease is over")
	}
	return over
}

// Produce implements scheme.Machine.
func (m *Machine) Produce(p scheme.Produce) {
	if m.phase != leading || m.expired() {
		if p.Acks != 0 {
			m.h.Produced(p.Token, scheme.Produced{Code: kerr.NotLeaderForPartition.Code, Base: -1, Text: "this node does not hold the lock of the log"})
		}
		return
	}
	base, end, done := scheme.Prepare(m.h, p, m.epoch)
	if done {
		return
	}
	if p.Acks != 0 {
		m.acks.Add(p.Token, base, end, m.h.Now().Mono+p.Timeout)
	}
	m.acks.Reach(m.h, m.confirmed, 0) // a duplicate
}

// Wake implements scheme.Machine.
func (m *Machine) Wake() {
	now := m.h.Now()
	m.acks.Expire(m.h)
	switch {
	case m.phase == waiting && m.pollAt <= now.Mono:
		m.try()
	case m.phase == leading && !m.expired() && !m.keeping && m.keepAt <= now.Mono:
		m.keeping, m.renewal = true, now.Wall
		m.h.CheckLock(m.lock())
	}
}

// NextWake implements scheme.Machine.
func (m *Machine) NextWake() time.Duration {
	next := m.acks.Next()
	switch {
	case m.phase == waiting:
		next = min(next, m.pollAt)
	case m.phase == leading && !m.keeping:
		next = min(next, m.keepAt)
	}
	return next
}

// ISRAnswer implements scheme.Machine; this scheme proposes nothing.
func (m *Machine) ISRAnswer(int16) {}

// Link implements scheme.Machine; nodes say nothing to each other.
func (m *Machine) Link(broker.NodeID, bool) {}

// CheckRead implements scheme.Machine: what is confirmed can be read.
func (m *Machine) CheckRead(leaderEpoch int32) (int64, int16) {
	switch {
	case m.phase != leading:
		return 0, kerr.NotLeaderForPartition.Code
	case leaderEpoch >= 0 && leaderEpoch < m.epoch:
		return 0, kerr.FencedLeaderEpoch.Code
	case leaderEpoch > m.epoch:
		return 0, kerr.UnknownLeaderEpoch.Code
	}
	return m.confirmed, 0
}

// High implements scheme.Machine.
func (m *Machine) High() int64 { return m.confirmed }

// View implements scheme.Machine: this node, while it leads, or else who was seen to
// hold the lock when it was last tried. All nodes reach the one copy there is.
func (m *Machine) View() scheme.View {
	v := scheme.View{Leader: m.holder, Epoch: -1, InSync: m.members}
	if m.phase == leading {
		v.Leader, v.Epoch, v.Writable, v.Visible, v.EpochStart = m.h.Self(), m.epoch, true, m.confirmed, m.start
	}
	return v
}

// Close implements scheme.Machine.
func (m *Machine) Close() {
	m.acks.Abandon(m.h)
	if m.phase != waiting && m.phase != closing && m.phase != closed {
		m.h.CloseLog(m.lock())
	}
	m.phase = closed
}
