package cluster

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/faultline-mq/faultline/broker"
)

type progress = tracker.Progress

const stateSnapshot = tracker.StateSnapshot

// session is what the controller knows of a live broker; it dies with its rule.
type session struct {
	epoch    int64
	deadline time.Duration
	applied  uint64
}

// rebalanceBatch bounds the partitions of one ElectLeaders.
const rebalanceBatch = 1000

// Leave begins a controlled shutdown: leadership moves, then Output.ShutdownReady
// comes. Without a quorum it never comes: the caller sets a limit.
func (c *Cluster) Leave(now broker.Time) {
	c.step(now, func() error {
		if c.leaving {
			return nil
		}
		c.leaving = true
		c.nextBeat = c.now.Mono
		c.transfer()
		return nil
	})
}

// transfer hands the leadership of raft to the voter that is furthest.
func (c *Cluster) transfer() {
	if !c.leading {
		return
	}
	var best, match uint64
	c.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr progress) {
		if id != c.id() && typ == raft.ProgressTypePeer && pr.RecentActive && pr.Match > match {
			best, match = id, pr.Match
		}
	})
	if best != raft.None {
		c.rn.TransferLeader(best)
	}
}

// brokerTick registers, and sends a heartbeat to the controller.
func (c *Cluster) brokerTick() {
	if c.cfg.ControllerOnly {
		if c.leaving {
			c.shutdownReady()
		}
		return
	}
	own := c.st.own()
	if own == nil {
		c.register()
		return
	}
	if c.now.Mono < c.nextBeat || c.st.controller == broker.None {
		return
	}
	c.nextBeat = c.now.Mono + c.cfg.BrokerHeartbeat
	h := Heartbeat{Incarnation: c.cfg.Incarnation, Epoch: own.Epoch, Applied: c.st.applied, Leave: c.leaving}
	if c.leading {
		c.heartbeat(c.cfg.ID, h)
		return
	}
	c.out.Sends = append(c.out.Sends, Send{To: c.st.controller, Msg: h})
}

func (c *Cluster) register() {
	const duty = "registering this broker"
	if c.proposed(duty) || c.now.Mono < c.nextRegister {
		return
	}
	c.nextRegister = c.now.Mono + c.cfg.BrokerHeartbeat
	c.propose(RegisterBroker{
		ID: c.cfg.ID, Name: c.cfg.name(c.cfg.ID), Host: c.cfg.Host, Port: c.cfg.Port, Rack: c.cfg.Rack, Incarnation: c.cfg.Incarnation,
		PreviousEpoch: c.cfg.PreviousEpoch,
	}, duty, 0)
}

func (c *Cluster) heartbeatReply(r HeartbeatReply) {
	if own := c.st.own(); own == nil || own.Epoch != r.Epoch {
		return // of an earlier registration
	}
	if r.Stale {
		c.register()
	}
	if r.ShutdownReady && c.leaving {
		c.shutdownReady()
	}
}

func (c *Cluster) shutdownReady() {
	if !c.ready {
		c.ready = true
		c.out.ShutdownReady = true
	}
}

// proposed says whether a duty is on its way.
func (c *Cluster) proposed(duty string) bool {
	return slices.ContainsFunc(c.proposals, func(p *proposal) bool { return p.duty == duty })
}

// duty proposes what the controller decided, unless that is on its way.
func (c *Cluster) duty(name string, cmd Command) {
	if !c.proposed(name) {
		c.propose(cmd, name, c.term)
	}
}

// rule begins and ends the controller's part. It begins when the first entry of the
// term is applied: then nothing is unknown of what earlier controllers decided.
// Every live broker gets a full session, because it may have reported to another until now.
func (c *Cluster) rule() {
	ruling := c.leading && c.appliedTerm == c.term
	if ruling == c.ruling {
		return
	}
	c.ruling = ruling
	clear(c.sessions)
	c.nextRebalance = c.now.Mono + c.cfg.RebalanceInterval
	if !ruling {
		c.proposals = slices.DeleteFunc(c.proposals, func(p *proposal) bool { return p.term != 0 })
	}
}

func (c *Cluster) controllerTick(gap time.Duration) {
	if !c.ruling {
		return
	}
	if gap > stallTicks*c.cfg.TickInterval {
		// This process stood still; the heartbeats of that time may still be on their way.
		for _, s := range c.sessions {
			s.deadline += gap
		}
	}
	for _, b := range c.st.brokers {
		if b.Fenced {
			continue
		}
		s := c.sessions[b.ID]
		if s == nil || s.epoch != b.Epoch {
			s = &session{epoch: b.Epoch, deadline: c.now.Mono + c.cfg.SessionTimeout}
			c.sessions[b.ID] = s
		}
		if c.now.Mono >= s.deadline {
			c.duty(fmt.Sprintf("fencing broker %d", b.ID), SetFenced{ID: b.ID, Epoch: b.Epoch, Fenced: true})
		}
	}
	c.voterTick()
	if c.cfg.RebalanceInterval > 0 && c.now.Mono >= c.nextRebalance {
		c.nextRebalance = c.now.Mono + c.cfg.RebalanceInterval
		c.rebalance()
	}
}

// rebalance gives leadership back to preferred leaders that are in sync.
func (c *Cluster) rebalance() {
	var ps []PartitionID
	for _, t := range c.st.topics {
		for _, p := range t.Partitions {
			preferred := p.Replicas[0]
			if t.Election == ElectInSync && p.Leader != preferred && c.st.preferable(p) && len(ps) < rebalanceBatch {
				ps = append(ps, PartitionID{Topic: t.Name, Index: p.Index})
			}
		}
	}
	if len(ps) > 0 {
		c.duty("electing preferred leaders", ElectLeaders{Partitions: ps})
	}
}

// heartbeat is the controller's answer to a broker.
func (c *Cluster) heartbeat(from broker.NodeID, h Heartbeat) {
	if !c.ruling {
		return
	}
	b := c.st.Broker(from)
	switch {
	case b == nil || h.Epoch < b.Epoch || h.Epoch == b.Epoch && h.Incarnation != b.Incarnation:
		c.answer(from, HeartbeatReply{Epoch: h.Epoch, Stale: true})
		return
	case h.Epoch > b.Epoch:
		return // its registration is committed but not yet applied here
	}
	c.sessions[from] = &session{epoch: b.Epoch, deadline: c.now.Mono + c.cfg.SessionTimeout, applied: h.Applied}
	reply := HeartbeatReply{Epoch: h.Epoch}
	switch {
	case h.Leave && (b.Fenced || b.Leaving && c.known(b.LeavingAt, from)):
		reply.ShutdownReady = true
		for _, p := range c.st.hosted(from) {
			if p.Leader == from {
				c.logf("warn", "broker %d stops as the leader of %s-%d: no other in-sync replica can lead", from, p.Topic, p.Index)
			}
		}
	case h.Leave && !b.Leaving:
		c.duty(fmt.Sprintf("moving leadership away from broker %d", from), SetLeaving{ID: from, Epoch: b.Epoch})
	case b.Fenced && h.Applied >= uint64(b.Epoch):
		c.duty(fmt.Sprintf("unfencing broker %d", from), SetFenced{ID: from, Epoch: b.Epoch, Fenced: false})
	}
	c.answer(from, reply)
}

// known says whether every live broker but one has applied the metadata up to index.
func (c *Cluster) known(index uint64, but broker.NodeID) bool {
	for _, b := range c.st.brokers {
		if b.Fenced || b.ID == but {
			continue
		}
		if s := c.sessions[b.ID]; s == nil || s.epoch != b.Epoch || s.applied < index {
			return false
		}
	}
	return true
}

func (c *Cluster) answer(to broker.NodeID, r HeartbeatReply) {
	if to == c.cfg.ID {
		c.heartbeatReply(r)
		return
	}
	c.out.Sends = append(c.out.Sends, Send{To: to, Msg: r})
}

// logger gives raft's own lines to the Cluster, all at debug: what raft calls a
// warning is everyday life under faults. A panic is caught by step.
type logger Cluster

var _ raft.Logger = (*logger)(nil)

func (l *logger) line(text string)            { (*Cluster)(l).logf("debug", "raft: %s", text) }
func (l *logger) Debug(v ...any)              { l.line(fmt.Sprint(v...)) }
func (l *logger) Debugf(f string, v ...any)   { l.line(fmt.Sprintf(f, v...)) }
func (l *logger) Error(v ...any)              { l.line(fmt.Sprint(v...)) }
func (l *logger) Errorf(f string, v ...any)   { l.line(fmt.Sprintf(f, v...)) }
func (l *logger) Info(v ...any)               { l.line(fmt.Sprint(v...)) }
func (l *logger) Infof(f string, v ...any)    { l.line(fmt.Sprintf(f, v...)) }
func (l *logger) Warning(v ...any)            { l.line(fmt.Sprint(v...)) }
func (l *logger) Warningf(f string, v ...any) { l.line(fmt.Sprintf(f, v...)) }
func (l *logger) Fatal(v ...any)              { panic(fmt.Sprint(v...)) }
func (l *logger) Fatalf(f string, v ...any)   { panic(fmt.Sprintf(f, v...)) }
func (l *logger) Panic(v ...any)              { panic(fmt.Sprint(v...)) }
func (l *logger) Panicf(f string, v ...any)   { panic(fmt.Sprintf(f, v...)) }
