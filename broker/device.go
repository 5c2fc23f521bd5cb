package broker

import (
	"time"

	"github.com/faultline-mq/faultline/broker/batch"
)

// Device asks the shared storage device for something about one lane whose log lies
// there. DeviceDone answers, in the order of the lane's other operations.
type Device struct {
	Lane Lane
	Do   DeviceOp
	Lock Lock // for all but CheckToken and OpenLog
	// Fenced, for OpenLog: the log has a part of its own for each owner, named by its
	// Token. Otherwise all write into one, each at its own position.
	Fenced bool
	Token  uint64 // for OpenLog
}

// DeviceOp is what is asked of the shared storage device.
type DeviceOp uint8

// The operations on the shared storage device.
const (
	// TryLock takes the lane's lock if nobody has it.
	TryLock DeviceOp = iota + 1
	// CheckLock looks whether the lock is still held, and renews a lease.
	CheckLock
	// Publish makes a token that is higher than every one before, by a rename.
	Publish
	// CheckToken reads the highest token that stands there.
	CheckToken
	// OpenLog reads the log as it is now and begins to append at its end.
	OpenLog
	// CloseLog closes the log and gives up the lock.
	CloseLog
	// RemoveLog closes the log, and deletes it if the lock is held.
	RemoveLog
)

// Lock says how a lane is locked, and for whom.
type Lock struct {
	Node  NodeID
	Owner string // incarnation
	// Lease: the lock is a record with an end by the wall clock. Otherwise it is a lock on
	// a file, which lasts as long as its process.
	Lease  bool
	Wall   int64         // the node's wall clock, Unix nanoseconds
	Length time.Duration // of a lease, from Wall on
	Margin time.Duration // how long after its end a lease of another is still respected
}

// DeviceDone answers a Device. With Err nothing else holds, and nothing is known of
// the outcome.
type DeviceDone struct {
	Lane Lane
	Do   DeviceOp
	// Held: the lock is held (TryLock, CheckLock); the token is still the highest (OpenLog
	// with Fenced).
	Held   bool
	Holder NodeID // TryLock, where it is not held: who said last that it holds it; None: nobody
	Token  uint64 // Publish, CheckToken: the highest that stands there
	Log    *LogState
	Err    error
}

// LogState is a log as it was found.
type LogState struct {
	Start   int64
	Batches []batch.Info
	// Corrupt names damage in the middle of the log, from Start plus Batches on.
	Corrupt string
	Torn    int64 // bytes of a torn tail that were cut off
}

func (Device) effect()    {}
func (DeviceDone) input() {}
