package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/faultline-mq/faultline/nemesis"
)

// Options describe a World. DefaultOptions fills all but Nodes, Factory and Volume.
type Options struct {
	Nodes   []string
	Spares  []string // those of Nodes that Up does not start
	Seed    uint64
	Factory Factory
	// Volume makes the disk of a node; it is called once per node, in order.
	Volume func(node string) Volume

	// Latency of one message in one direction, and of each packet of a handshake.
	Latency Latency
	// UserTimeout is the time after which a sender gives up data that is not
	// acknowledged (TCP_USER_TIMEOUT). Default 3 s.
	UserTimeout time.Duration
	// DialTimeout ends a dial that nothing answers. Default 1 s.
	DialTimeout time.Duration
	// RedialMin and RedialMax bound the pause between a node's dials; it doubles
	// with each failure. Defaults 20 ms and 500 ms.
	RedialMin, RedialMax time.Duration
	// Boot is the time from a start to the process's first event.
	// Default 20 ms + up to 80 ms.
	Boot Latency
	// Disk is the latency model of the nodes' disks.
	Disk DiskModel

	// Codec, where set, is applied to every message, request and response: tests
	// give one that encodes and decodes. It must return an equal value.
	Codec func(any) any

	// Wall is the nodes' wall clock at virtual time 0. Default 2026-01-01T00:00:00Z.
	Wall time.Time
	// LogLevel is the lowest level that nodes' logs keep. Default Info.
	LogLevel slog.Level
	// LogBytes bounds each node's log: beyond it the older half is dropped, and
	// the log says so. Default 8 MiB.
	LogBytes int

	// MaxTime and MaxEvents end a Run with ErrLimit, as absolute figures of the
	// World. Defaults 24 h and 2e9.
	MaxTime   time.Duration
	MaxEvents uint64

	// Trace, where set, is called for every event executed: for finding where
	// two runs part.
	Trace func(TraceEvent)

	// Sabotage spoils Network.Block so that proofs can be seen to fail.
	Sabotage Sabotage
}

// Latency is a base time and a uniformly distributed jitter on top of it.
type Latency struct{ Base, Jitter time.Duration }

// DiskModel gives the latencies of storage operations. A write or read takes
// Op plus its size at Throughput; a sync takes Sync.Base plus an exponentially
// distributed time of mean SyncMean, cut at Sync.Base+Sync.Jitter, and with
// probability Tail a uniform time up to TailMax more.
type DiskModel struct {
	Op         Latency       // default 20 µs + up to 180 µs
	Throughput int64         // bytes per second, default 1 GB/s
	Sync       Latency       // default 500 µs + up to 4.5 ms
	SyncMean   time.Duration // default 700 µs
	Tail       float64       // default 0.002
	TailMax    time.Duration // default 60 ms
}

// SabotageMode names a way to spoil the network rules.
type SabotageMode uint8

// The ways to spoil the network rules. Each works on real traffic and on
// nonces alike; rule sets are registered as if all were well.
const (
	NoSabotage   SabotageMode = iota
	Stubbed                   // no rule has an effect
	StubbedNode               // rules that Node enforces (cuts towards it) have no effect
	RemovedAfter              // a rule set loses its effect After its injection
	NewOnly                   // rules hit new connections only, not established flows
)

// Sabotage is a test hook.
type Sabotage struct {
	Mode  SabotageMode
	Node  string        // StubbedNode
	After time.Duration // RemovedAfter
}

// DefaultOptions returns the options for these nodes and this seed, without
// Factory and Volume.
func DefaultOptions(nodes []string, seed uint64) Options {
	return Options{
		Nodes:       nodes,
		Seed:        seed,
		Latency:     Latency{Base: 150 * time.Microsecond, Jitter: 250 * time.Microsecond},
		UserTimeout: 3 * time.Second,
		DialTimeout: time.Second,
		RedialMin:   20 * time.Millisecond,
		RedialMax:   500 * time.Millisecond,
		Boot:        Latency{Base: 20 * time.Millisecond, Jitter: 80 * time.Millisecond},
		Disk: DiskModel{
			Op:         Latency{Base: 20 * time.Microsecond, Jitter: 180 * time.Microsecond},
			Throughput: 1e9,
			Sync:       Latency{Base: 500 * time.Microsecond, Jitter: 4500 * time.Microsecond},
			SyncMean:   700 * time.Microsecond,
			Tail:       0.002,
			TailMax:    60 * time.Millisecond,
		},
		Wall:      time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		LogLevel:  slog.LevelInfo,
		LogBytes:  8 << 20,
		MaxTime:   24 * time.Hour,
		MaxEvents: 2e9,
	}
}

// Validate names what is missing or impossible.
func (o *Options) Validate() error {
	if len(o.Nodes) == 0 {
		return errors.New("sim: no nodes: name at least one")
	}
	seen := map[string]bool{nemesis.Clients: true, "": true}
	for _, n := range o.Nodes {
		if seen[n] {
			return fmt.Errorf("sim: node name %q is empty, reserved or given twice: choose another", n)
		}
		seen[n] = true
	}
	for _, n := range o.Spares {
		if !slices.Contains(o.Nodes, n) {
			return fmt.Errorf("sim: the spare %q is none of the nodes %v", n, o.Nodes)
		}
	}
	if o.Factory == nil || o.Volume == nil {
		return errors.New("sim: Factory and Volume must both be set")
	}
	for name, d := range map[string]time.Duration{
		"Latency.Base": o.Latency.Base, "UserTimeout": o.UserTimeout, "DialTimeout": o.DialTimeout,
		"RedialMin": o.RedialMin, "MaxTime": o.MaxTime,
	} {
		if d <= 0 {
			return fmt.Errorf("sim: %s is %v, must be above zero: begin from DefaultOptions", name, d)
		}
	}
	for name, d := range map[string]time.Duration{
		"Latency.Jitter": o.Latency.Jitter, "RedialMax-RedialMin": o.RedialMax - o.RedialMin,
		"Boot.Base": o.Boot.Base, "Boot.Jitter": o.Boot.Jitter,
		"Disk.Op.Base": o.Disk.Op.Base, "Disk.Op.Jitter": o.Disk.Op.Jitter,
		"Disk.Sync.Base": o.Disk.Sync.Base, "Disk.Sync.Jitter": o.Disk.Sync.Jitter,
		"Disk.SyncMean": o.Disk.SyncMean, "Disk.TailMax": o.Disk.TailMax,
	} {
		if d < 0 {
			return fmt.Errorf("sim: %s is %v, must not be negative", name, d)
		}
	}
	if o.Disk.Throughput <= 0 || o.Disk.Tail < 0 || o.Disk.Tail > 1 {
		return fmt.Errorf("sim: disk throughput %d must be above zero and tail probability %v within [0,1]", o.Disk.Throughput, o.Disk.Tail)
	}
	if o.LogBytes <= 0 || o.MaxEvents == 0 {
		return errors.New("sim: LogBytes and MaxEvents must be above zero: begin from DefaultOptions")
	}
	s := o.Sabotage
	if s.Mode > NewOnly || s.Mode == StubbedNode && !seen[s.Node] || s.Mode == RemovedAfter && s.After <= 0 {
		return fmt.Errorf("sim: sabotage %+v names no known mode, no node, or no time", s)
	}
	return nil
}
