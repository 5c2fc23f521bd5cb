// Package workloads holds what clients do: pure generators of operations,
// without goroutine and clock. The same generator is driven by a goroutine
// against containers and by the event queue of the simulator.
package workloads

import (
	"slices"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// Op is one operation that a generator asks for.
type Op struct {
	Kind  history.Kind
	Key   int32         // index into the run's keys
	Value history.Value // Send, and what settles: the message, as it was delivered to this client last
	Size  int           // Send: payload size in bytes, at least MinPayload
	From  int64         // Poll: offset to read from
	Max   int           // Poll: bytes wanted at most; Receive: messages wanted at most
	Wait  time.Duration // Poll, Receive: how long the node may wait for records
	Reset bool          // Poll: the position was moved on purpose
}

// Result is the answer to an Op.
type Result struct {
	Op      Op
	At      time.Duration // time of the return
	Node    int16         // that was asked last, or history.NoNode
	Outcome history.Outcome
	Code    string
	Offset  int64            // Send
	Records []history.Record // Poll, Receive: what was delivered
	// Lock, of a Receive, is for how long what it delivered is given to nobody else,
	// from the call on at least; 0: until it is settled or the session is gone.
	Lock time.Duration
	High int64 // Poll: high watermark, or NoOffset
	// OutOfRange, of a Poll, is set where the node said that From is outside its log; Start
	// and High are then its bounds.
	OutOfRange bool
	Start      int64
}

// Step is what a generator wants next.
type Step struct {
	Op *Op           // nil with Done or a pure wait
	At time.Duration // not before this time on the run's clock
	// Due is when an open-loop schedule wanted the operation, at or before At; 0:
	// there is no schedule.
	Due  time.Duration
	Done bool // nothing more, ever
}

// Generator yields the operations of one client. It is called again only after
// the previous operation was answered (or given up): last is its result, nil at
// first. It must not keep pointers into last.
type Generator interface {
	Next(now time.Duration, last *Result) Step
}

// ClientSpec is one client of a workload.
type ClientSpec struct {
	Name   string // "producer-0", "poller-2"
	Role   string // "producer", "poller" or "consumer"
	Pinned int    // index of the node whose metadata alone it believes, or -1: follows the newest leader
	// Loyal clients send everything to the node that they are pinned to, whoever
	// leads, and believe the newest leader epoch that any node names, or, every
	// other time, give none.
	Loyal bool
	// Idempotent producers number what they send and send it again until it is
	// answered for certain or the time is over (KIP-98).
	Idempotent bool
	Gen        Generator
}

// Config is what a workload is built from.
type Config struct {
	Seed    uint64
	Nodes   int
	Clients int     // producers; as many pollers are added by the workload's own rule
	Keys    int     // partitions
	Rate    float64 // sends per second over all producers; 0 = closed loop
	Size    int     // payload bytes
	Pinned  float64 // share of producers pinned to a node; 0 = the default 0.5, negative = none
	// Idempotent is the share of producers that are idempotent, the last ones.
	Idempotent float64
	// Seekers adds so many pollers of all partitions that now and then go back to
	// an offset drawn from what they know of the log.
	Seekers int
	// Loyal adds, for each node, so many pollers that ask it alone, whoever leads.
	Loyal int
	// Senders and Readers, where given, are indices of nodes: producers send to the former
	// alone, in turn, and there are no pollers but one of all partitions at each of the
	// latter, loyal ones.
	Senders, Readers []int
	// ThinkTime is a producer's pause after an answer in a closed loop.
	ThinkTime time.Duration

	// Of workload queue. DeadLetters are those of the keys that take what other
	// queues give up: nobody sends to them, and nobody but the drain reads them.
	DeadLetters []int32
	Consumers   int // 0 = as many as producers, negative = none
	// Pause follows each message that a consumer settled; 0 = the pace changes from
	// spell to spell, drawn from the seed; negative = none.
	Pause    time.Duration
	Releases float64       // share of the messages that go back; 0 = the default 1/16, negative = none
	Rejects  float64       // share of the messages that are given up
	Leaves   time.Duration // between two times that a consumer leaves of its own accord, on average; 0 = the default 10 s, negative = never
}

// consumers returns how many there are.
func (c Config) consumers() int {
	switch {
	case c.Consumers == 0:
		return c.Clients
	case c.Consumers < 0:
		return 0
	}
	return c.Consumers
}

// sendable returns the keys that are sent to.
func (c Config) sendable() []int32 {
	var keys []int32
	for k := range int32(c.Keys) {
		if !slices.Contains(c.DeadLetters, k) {
			keys = append(keys, k)
		}
	}
	return keys
}
