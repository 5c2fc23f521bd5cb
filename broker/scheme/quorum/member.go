package quorum

import (
	"slices"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// A replica whose disk was lost has forgotten its votes and what it confirmed: as its
// former self it could elect a second leader of a term, or one without what was
// committed. So each names its log's directory, durably, before it says anything, and
// only members vote, stand and are counted:
//
//   - The first replica founds the group as soon as every other one has told it its
//     directory and none is a member. Nobody votes before. The others are members by
//     finding their own directory among the founders.
//   - Any other directory is that of a lost disk. It becomes a member once every other
//     replica has told it its term (those that lost theirs, too, count for nothing), a
//     majority of all replicas among them are members, and it durably has the log of a
//     leader of the highest of these terms, as that was when it was asked. It never votes
//     in that term or an earlier one.
//
// docs/decisions/quorum-raft.md says why that is safe.

// Ask asks a replica who it is. The sender, with directory Dir, is no member.
type Ask struct{ Dir string }

// Tell answers an Ask of directory To.
type Tell struct {
	To, Dir  string
	Term     int32
	Founders []Founder // none: the sender is no member
	Leads    bool      // the sender leads Term, and its log ends at End
	End      int64
}

// told is the newest Tell of a replica.
type told struct {
	from broker.NodeID
	Tell
}

// joining is a replica on its way to be a member.
type joining struct {
	askAt time.Duration // Never: it is one
	tells []told
}

func (s *state) member() bool { return len(s.founders) > 0 }

// introduce asks all who they are.
func (m *Machine) introduce() {
	if m.member() || m.a.Replicas == nil {
		m.askAt = scheme.Never
		return
	}
	m.askAt = m.h.Now().Mono + m.heartbeat
	if !m.h.Persisting() {
		m.broadcast(&Ask{Dir: m.dir})
	}
	m.enter()
}

// introduced answers an Ask. Whoever asks is no member, whatever it held before.
func (m *Machine) introduced(from broker.NodeID, a *Ask) {
	if v := m.voter(from); v != nil {
		v.holds = false
	}
	m.tell(from, a.Dir)
	if known := slices.ContainsFunc(m.tells, func(t told) bool { return t.from == from }); !known && !m.member() && !m.h.Persisting() {
		m.h.Send(from, &Ask{Dir: m.dir}, 0, 0, nil)
	}
}

func (m *Machine) tell(to broker.NodeID, dir string) {
	m.later(to, &Tell{To: dir, Dir: m.dir, Term: m.term, Founders: m.founders, Leads: m.role == leader, End: m.h.Index().End()})
}

// learn takes the answer to an Ask.
func (m *Machine) learn(from broker.NodeID, t *Tell) {
	if m.member() || t.To != m.dir {
		return
	}
	m.tells = append(slices.DeleteFunc(m.tells, func(o told) bool { return o.from == from }), told{from, *t})
	m.enter()
}

// enter makes this replica a member if what it was told allows it.
func (m *Machine) enter() {
	if m.member() || m.h.Persisting() || m.a.Replicas == nil {
		return
	}
	self := Founder{m.h.Self(), m.dir}
	members, highest := 0, int32(0)
	var source *told
	for i, t := range m.tells {
		if len(t.Founders) == 0 {
			continue
		}
		if slices.Contains(t.Founders, self) {
			m.join(t.Founders)
			return
		}
		members, highest = members+1, max(highest, t.Term)
		if t.Leads && t.Term == m.term && t.from == m.leader {
			source = &m.tells[i]
		}
	}
	switch {
	case len(m.tells) < len(m.others()):
	case members == 0:
		if self.ID == m.a.Replicas[0] {
			m.found()
		}
	case members >= m.majority() && source != nil && m.term >= highest && m.pull.Matched && m.held.term == m.term && m.h.Stable() >= source.End:
		m.vote = self.ID // of this term nobody gets it
		m.h.Emit(broker.Event{Kind: "refilled", Epoch: m.term, Leader: m.h.Name(m.leader), Offset: m.h.Index().End(), Detail: "its disk was lost; it has all that the leader has, and votes from the next term on"})
		m.join(append(slices.DeleteFunc(slices.Clone(source.Founders), func(f Founder) bool { return f.ID == self.ID }), self))
	}
}

// found begins the group.
func (m *Machine) found() {
	var founders []Founder
	for _, id := range m.a.Replicas {
		f := Founder{id, m.dir}
		if i := slices.IndexFunc(m.tells, func(t told) bool { return t.from == id }); i >= 0 {
			f.Dir = m.tells[i].Dir
		}
		founders = append(founders, f)
	}
	tells := m.tells
	m.join(founders)
	for _, t := range tells {
		m.tell(t.from, t.Dir)
	}
}

// join makes this replica a member.
func (m *Machine) join(founders []Founder) {
	m.founders, m.joining = founders, joining{askAt: scheme.Never}
	m.keep()
	switch {
	case m.role == follower && m.leader != broker.None:
		if m.held.term == m.term {
			m.later(m.leader, &LeadAnswer{Term: m.term, Holds: true})
		}
	case m.term == 0:
		m.first()
	}
}
