package shared

import (
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
)

// The scheme's options, by their names in ActiveMQ where it has them.
const (
	pollOption   = "lockAcquireSleepInterval"
	keepOption   = "lockKeepAlivePeriod"
	lockerOption = "locker"
	marginOption = "lease.skew.margin.ms"
	fenceOption  = "fencing"
)

// Definition describes the scheme.
func Definition() scheme.Definition {
	const owner = "scheme shared"
	return scheme.Definition{
		Name: "shared", Doc: "one log on a storage device that all nodes share; whoever holds its lock leads (ActiveMQ's shared file system)",
		New: configured, Metadata: scheme.Raft, Election: scheme.Lock, Replicas: scheme.All, Shared: true,
		Options: []options.Option{
			{Name: pollOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "1000", Kafka: "10000", Min: 10, Max: 600_000, Draw: []string{"200", "500", "1000", "2000"}, Doc: "between tries for the lock, and the length of a lease"},
			{Name: keepOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "0", Min: 0, Max: 600_000, Draw: []string{"50", "100", "150"}, Protocol: true, Doc: "how often the owner looks whether it still has the lock, and renews a lease; 0: never, as ActiveMQ does with files; of a lease, half of its length"},
			{Name: lockerOption, Owner: owner, Type: "enum", Default: "file", Values: []string{"file", "lease"}, Draw: []string{"file", "lease"}, Protocol: true, Doc: "file: a lock of the file system, which ends with its process; lease: a record that ends by the wall clock"},
			{Name: marginOption, Owner: owner, Type: "duration-ms", Unit: "ms", Default: "0", Min: 0, Max: 600_000, Draw: []string{"600", "1200"}, Doc: "by how much clocks may differ: an owner stops at the end of its lease, and others wait for so long in addition; 0: an owner looks only when it renews, as ActiveMQ's does"},
			{Name: fenceOption, Owner: owner, Type: "enum", Default: "none", Values: []string{"none", "token"}, Draw: []string{"none", "token"}, Safe: "token", Protocol: true, Doc: "token: every owner publishes a higher token, and acknowledges only what was durable while the token was still its own; none: nothing keeps two owners apart but the lock, as in ActiveMQ"},
		},
		Check: check,
		// A node dies right after the others tried, and a lease has just been renewed; the
		// new owner reads the log.
		Detection: func(o options.Values) time.Duration {
			d := o.Duration(pollOption) + reading
			if o.String(lockerOption) == "lease" {
				d += o.Duration(pollOption) + o.Duration(marginOption)
			}
			return d
		},
		Promise: promise,
	}
}

// reading is held for long enough to read the log.
const reading = 500 * time.Millisecond

// configured makes a machine with the scheme's options as they were set.
func configured(h scheme.Host, o scheme.Options, _ int64) scheme.Machine {
	return New(h.(scheme.SharedHost), Options{
		Poll: o.Set.Duration(pollOption), KeepAlive: keepAlive(o.Set), Lease: o.Set.String(lockerOption) == "lease",
		Margin: o.Set.Duration(marginOption), Fenced: o.Set.String(fenceOption) == "token",
	}, o.Mutants)
}

// keepAlive is lockKeepAlivePeriod, or what stands for 0 with a lease.
func keepAlive(o options.Values) time.Duration {
	if d := o.Duration(keepOption); d > 0 || o.String(lockerOption) == "file" {
		return d
	}
	return o.Duration(pollOption) / 2
}

func check(o options.Values) error {
	if o.String(lockerOption) == "lease" && o.Duration(keepOption) >= o.Duration(pollOption) {
		return fmt.Errorf("%s (%s) must be below %s (%s) with %s=lease, or leases end between two renewals", keepOption, o.String(keepOption), pollOption, o.String(pollOption), lockerOption)
	}
	return nil
}

// Skew is the largest difference between clocks that small clock faults make
// (clock:skew).
const Skew = 500 * time.Millisecond

// promise: there is one copy, and what was acknowledged is in it as long as the device
// keeps it and no two owners write to it. With a token they never do. Without one it
// takes a lock that cannot be lost: one on a file that nobody removes, or a lease while
// no owner is held up and clocks differ by no more than the margin. The device has a
// power supply of its own: nodes that lose theirs lose nothing of it.
func promise(o options.Values, f scheme.Faults) scheme.Promise {
	kept := !lostDisk(f)
	fenced := o.String(fenceOption) == "token"
	one := f.Locks == 0
	if o.String(lockerOption) == "lease" {
		one = one && leaseHolds(o, f)
	}
	safe := kept && (fenced || one)
	acknowledged := safe && o.Acks() != 0
	return scheme.Promise{
		Acknowledged: acknowledged, CommittedReads: safe, Monotonic: safe, Recovers: safe, Linearizable: acknowledged,
		Fresh:      acknowledged && one && o.String(lockerOption) == "file", // one owner, and one copy
		AtMostOnce: true, Order: "producer", Offsets: "global", Epochs: fenced && kept,
	}
}

// leaseHolds reports whether an owner always renews its lease before it ends, and
// others never take it for over before that. What its owner had asked of the device may
// be done a moment after it stopped.
func leaseHolds(o options.Values, f scheme.Faults) bool {
	renewed := keepAlive(o)+moment <= o.Duration(pollOption)
	apart := time.Duration(min(f.Skews, 2)) * Skew // one clock is ahead, another one behind
	return renewed && f.Pauses == 0 && f.Slow == 0 && f.Clocks == 0 && f.Disks == 0 && (f.Skews == 0 || o.Duration(marginOption) >= apart+moment)
}

// moment is held for long enough for one operation on the device.
const moment = 100 * time.Millisecond

// lostDisk reports whether the device loses or damages what it holds. What nodes lose
// with their power or their places is not there.
func lostDisk(f scheme.Faults) bool {
	for _, l := range f.Losses {
		if l.Kind == scheme.LostDisk {
			return true
		}
	}
	return false
}
