package nemesis

import (
	"context"
	"time"
)

// Machines is what an environment can do to nodes beside cutting links,
// controlling processes and taking power. A nil field is missing there.
type Machines struct {
	FullDisks DiskFiller
	BadDisks  DiskBreaker
	SlowDisks DiskSlower
	LostDisks DiskWiper
	Files     FileDamager
	Clocks    Clocks
	Shaper    Shaper
	Resetter  Resetter
	NewNodes  NodeReplacer
	Limiter   Limiter
	Upgrader  Upgrader
	Locks     LockRemover
	Shell     Shell
}

// Shell runs commands of the user's own on the harness's host.
type Shell interface {
	// Run has a line run by sh, and returns when it has ended or its time is over; it
	// is ended then, with all that it started. An error says that it could not be run at
	// all, or that ctx ended.
	Run(ctx context.Context, c ShellCommand) (ShellResult, error)
}

// ShellCommand is a line for the shell, and what it is told.
type ShellCommand struct {
	Line    string
	Step    int      // of the plan
	Stage   string   // "inject", "prove" or "heal"
	Targets []string // node names
	Limit   time.Duration
}

// ShellResult is how a command ended.
type ShellResult struct {
	Code   int    // its exit code, -1 where it was ended by a signal
	Late   bool   // its time was over
	Output string // the end of what it printed
}

// LockRemover takes the files from under locks on a storage device that nodes share.
type LockRemover interface {
	// Files returns the identity of every lock file by its name: another file of that name
	// has another one, though its inode's number may be the same.
	Files(ctx context.Context) (map[string]string, error)
	// Remove removes a lock file, or puts a new one in its place. Whoever holds a lock on
	// it keeps that.
	Remove(ctx context.Context, name string, replace bool) error
}

// NodeReplacer puts new nodes in the places of others.
type NodeReplacer interface {
	// Replace gives a place whose process is dead to a new node: all disks are
	// exchanged for empty ones, formatted for a node of this identity (a decimal
	// number from 1 to below 2^48) that is going to be admitted to the cluster.
	Replace(ctx context.Context, node, identity string) error
}

// DiskProbe is how a node's data disk serves at one moment.
type DiskProbe struct {
	Sync time.Duration // of a small file that was just written
	Err  error         // the file system's own, such as syscall.ENOSPC; Sync means nothing then
}

// DiskProber shows how the disk of a node's partition logs serves.
type DiskProber interface {
	// Probe writes a small file beside the partition logs, syncs it and removes it
	// again. err is a failure to look; what the disk answered is in the probe.
	Probe(ctx context.Context, node string) (DiskProbe, error)
}

// DiskFiller leaves no room on the disks of partition logs. The metadata
// quorum's log is on another volume and is not touched.
type DiskFiller interface {
	DiskProber
	// Fill takes all room that is left: what extends a file gets syscall.ENOSPC.
	Fill(ctx context.Context, node string) error
	// Free gives it back. A disk that is not filled is left alone.
	Free(ctx context.Context, node string) error
}

// DiskBreaker makes the disks of partition logs fail. The metadata quorum's log
// is on another volume and is not touched.
type DiskBreaker interface {
	DiskProber
	// Break lets every change and every sync fail with syscall.EIO; reads may go on
	// or fail. What was written before it stays.
	Break(ctx context.Context, node string) error
	// Mend ends that, and may end the node's process for it. A disk that is not
	// broken is left alone.
	Mend(ctx context.Context, node string) error
}

// DiskSlower slows the disks of partition logs. The metadata quorum's log is on
// another volume and is not touched.
type DiskSlower interface {
	DiskProber
	// Slow lets syncs that are issued from now on take about factor (above 1) times
	// as long, or longer; other operations may take longer as well.
	Slow(ctx context.Context, node string, factor float64) error
	// Quicken ends that. A disk that is not slow is left alone.
	Quicken(ctx context.Context, node string) error
}

// DiskWiper exchanges the disks of partition logs for empty ones. The metadata
// quorum's log is on another volume and stays.
type DiskWiper interface {
	// Wipe gives a node whose process is dead an empty data volume.
	Wipe(ctx context.Context, node string) error
	// Stored returns the bytes of all files of partition logs.
	Stored(ctx context.Context, node string) (int64, error)
	// Found returns how many records the node's present incarnation said that it
	// found in its logs when it started; ok is false where it said nothing.
	Found(ctx context.Context, node string) (records int64, ok bool, err error)
}

// StoredFile is a file that holds records of a partition.
type StoredFile struct {
	Name string
	Size int64 // bytes
}

// FileDamager damages what nodes have stored, as a silently failing disk does:
// no operation reports it, and what was synced is damaged as well.
type FileDamager interface {
	// Files lists the files that hold records, sorted by name.
	Files(ctx context.Context, node string) ([]StoredFile, error)
	// Flip inverts one bit (0 to 7) of the byte at offset.
	Flip(ctx context.Context, node, file string, offset int64, bit uint) error
	// Cut ends a file at size bytes.
	Cut(ctx context.Context, node, file string, size int64) error
	// Digest is a digest of the file's first upTo bytes, or of as many as there
	// are; "" where there is no such file.
	Digest(ctx context.Context, node, file string, upTo int64) (string, error)
	// Copy keeps a copy of the disk of partition logs as it is now, running or not,
	// in the place of an earlier one.
	Copy(ctx context.Context, node string) error
	// PutBack gives a node whose process is dead the copy back: all that was written
	// since is gone. The metadata quorum's log is on another volume and stays.
	PutBack(ctx context.Context, node string) error
	// DataDigest is a digest of all files of partition logs.
	DataDigest(ctx context.Context, node string) (string, error)
}

// Clocks sets nodes' wall clocks. What is set takes effect within moments.
type Clocks interface {
	// Offset is the node's wall clock less the true one, as the node reads it. It is
	// an error where the node does not tell, as when its process is dead or paused.
	Offset(ctx context.Context, node string) (time.Duration, error)
	// Jump adds by, which may be negative, to the node's wall clock.
	Jump(ctx context.Context, node string, by time.Duration) error
	// Drift lets the node's wall clock run at rate seconds per second from now on.
	Drift(ctx context.Context, node string, rate float64) error
	// Strobe lets the node's wall clock be wrong by by, right again, and so on, each
	// for period.
	Strobe(ctx context.Context, node string, by, period time.Duration) error
	// Restore sets it to the true time, at the true rate.
	Restore(ctx context.Context, node string) error
}

// Shaping is what happens to the packets of one direction between two
// endpoints (node names, or Clients). Shares are within [0, 1], and drawn for
// each packet.
type Shaping struct {
	From, To  string
	Delay     time.Duration // added to every packet
	Jitter    time.Duration // added on top, uniformly drawn; the order of packets stays
	Reorder   float64       // share of packets that are not delayed, and so overtake others
	Loss      float64       // share that is lost
	Duplicate float64       // share that arrives twice
	Corrupt   float64       // share of which one bit is inverted; checksums stay as they were
	Rate      int           // bytes per second that get through; 0 = all
}

// Volley is how a link is measured: by so many datagrams, one right after another.
type Volley struct {
	Count int
	Size  int // of each, in bytes; 0 = 64
}

// Echo is the outcome of datagrams that one endpoint sent to another, which sent
// each back at once.
type Echo struct {
	Sent     int
	Arrived  int           // whole, at the other end
	Returned int           // of those
	Median   time.Duration // round trip of those that returned; 0 where none did
	There    Way           // what became of them on the way there
	Back     Way           // and of those that arrived, on the way back
}

// Way is what became of datagrams in one direction.
type Way struct {
	Twice     int           // copies of what had arrived before
	Overtaken int           // arrived after one that was sent later
	Damaged   int           // arrived, but not whole
	Spread    time.Duration // from the first arrival to the last
}

// Shaper disturbs packets.
type Shaper interface {
	// Shape adds rules; where several concern one direction, their delays add up
	// and each may lose a packet. A known id is an error.
	Shape(ctx context.Context, id string, rules []Shaping) error
	// Unshape removes exactly the set id. An unknown id is an error.
	Unshape(ctx context.Context, id string) error
	// Shaped counts, per direction, the packets of the system itself that the
	// set id did something to.
	Shaped(ctx context.Context, id string) (map[Pair]uint64, error)
	// Echo sends datagrams from one endpoint to another.
	Echo(ctx context.Context, from, to string, v Volley) (Echo, error)
}

// What became of a dial.
const (
	DialAccepted = "accepted" // and what was sent on it was answered
	DialReset    = "reset"
	DialSilent   = "silent"  // opened, and what was sent on it was not answered
	DialTimeout  = "timeout" // not opened
)

// Resetter spoils connections.
type Resetter interface {
	// Reject answers every segment from and to a node with a reset, dials
	// included; datagrams pass. A known id is an error.
	Reject(ctx context.Context, id, node string) error
	// Silence drops every segment from and to a node but those that begin a
	// connection, so that its dialler takes it for open; datagrams pass. A known id
	// is an error.
	Silence(ctx context.Context, id, node string) error
	// Accept ends exactly the set id. An unknown id is an error.
	Accept(ctx context.Context, id string) error
	// Resets counts what the set id did to the system's own traffic: connections and
	// dials, or segments, that it reset; segments that it dropped.
	Resets(ctx context.Context, id string) (uint64, error)
	// Dial opens a connection from one endpoint to a node's machine, sends something
	// that is answered there, closes it again and reports what happened.
	Dial(ctx context.Context, from, node string) (string, error)
}
