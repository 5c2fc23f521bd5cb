package sidecar

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DiskOp is one command about the node's data disk: a file system of its own, in
// a sparse file, on a loop device. The sidecar keeps it mounted, so that it
// outlives the node's container: where the node's mount were the only one, its
// end would write out what a power loss is to take.
type DiskOp string

// The commands. Attach is the first.
const (
	DiskAttach DiskOp = "attach" // make it, of Size bytes; answers Device
	DiskCanary DiskOp = "canary" // write file Name at its top, synced where Sync
	DiskHas    DiskOp = "has"    // answers Found: whether that canary is there, whole
	// DiskCut drops what was not synced, and DiskRemount ends what DiskBreak did. Both
	// mount the file system anew: nobody else may have it mounted.
	DiskCut     DiskOp = "cut"
	DiskBreak   DiskOp = "break" // sync everything, and fail from then on
	DiskRemount DiskOp = "remount"
	DiskProbe   DiskOp = "probe"  // write and sync a file, as one of Containers; answers Took or Errno
	DiskFill    DiskOp = "fill"   // take all room
	DiskFree    DiskOp = "free"   // give it back
	DiskWipe    DiskOp = "wipe"   // make it anew, of the same owner; nobody else may have it mounted
	DiskFiles   DiskOp = "files"  // answers Files
	DiskFlip    DiskOp = "flip"   // invert Bit of the byte at Offset of file Name
	DiskTrim    DiskOp = "trim"   // end file Name at Size
	DiskDigest  DiskOp = "digest" // answers Digest of the first Size bytes of Name, "" where there is none; of all files where Name is ""
	DiskCopy    DiskOp = "copy"   // keep a copy of it as it is now
	DiskPutBack DiskOp = "put-back"
	// DiskThrottle lets what the processes of Containers write wait, so that Rate
	// writes get through per second; 0 = no limit.
	DiskThrottle DiskOp = "throttle"
)

// DiskRequest is a command about the disk; what Op does not name is ignored.
type DiskRequest struct {
	Op     DiskOp `json:"op"`
	Name   string `json:"name,omitempty"` // below the disk's top
	Size   int64  `json:"size,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	Bit    uint   `json:"bit,omitempty"`
	Sync   bool   `json:"sync,omitempty"`
	// Containers are ids, of those whose writes it is about: a throttle holds for
	// processes, not for the device. Those that do not run are left out.
	Containers []string `json:"containers,omitempty"`
	Rate       int      `json:"rate,omitempty"`
}

// DiskResponse answers a DiskRequest.
type DiskResponse struct {
	Device string        `json:"device,omitempty"`
	Found  bool          `json:"found,omitempty"`
	Took   time.Duration `json:"took,omitempty"` // of the sync
	Errno  syscall.Errno `json:"errno,omitempty"`
	Files  []DiskFile    `json:"files,omitempty"` // sorted by name
	Digest string        `json:"digest,omitempty"`
}

// DiskFile is a regular file of the disk. The sidecar's own are not listed.
type DiskFile struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// diskTimeout bounds a command about the disk: syncs of a throttled disk and the
// end of a dead node's mount take their time.
const diskTimeout = 60 * time.Second

// Disk carries out a command about the node's disk.
func (c *Client) Disk(ctx context.Context, req DiskRequest) (DiskResponse, error) {
	resp, err := c.do(ctx, diskTimeout, Request{Op: opDisk, Disk: &req})
	if err != nil {
		return DiskResponse{}, err
	}
	if resp.Disk == nil {
		return DiskResponse{}, errors.New("disk: an answer without content")
	}
	return *resp.Disk, nil
}

// Where a disk's sidecar finds and keeps things, in its container.
const (
	DiskDir   = "/disk"   // a volume: the file of the loop device, its copy, the mount point
	CgroupDir = "/cgroup" // the host's control groups, where a throttle is wanted
)

// own begins the names of the sidecar's files on the node's disk. They are plain
// files at its top: a folder would be a partition to Kafka.
const own = ".faultline-"

func isOwn(name string) bool { return strings.HasPrefix(filepath.Base(name), own) }
