package sidecar

import (
	"context"
	"errors"
	"time"
)

// GroupRequest asks for the control group of a container that runs, as the host
// has it: of version 1 or of version 2.
type GroupRequest struct {
	Container string `json:"container"`
	// Press is how many bytes of a file a process among the container's reads
	// first, so that they are in the page cache at the group's expense; 0 = none.
	Press int64 `json:"press,omitempty"`
}

// Group is what a control group is allowed, and what it used.
type Group struct {
	// Of each Period, processes may run for Quota; below 0: for all of it.
	Period time.Duration `json:"period"`
	Quota  time.Duration `json:"quota"`
	CPU    time.Duration `json:"cpu"` // that they ran so far
	// Throttled counts the periods in which they had to wait, and ThrottledFor is
	// how long they did, over all processors.
	Throttled    uint64        `json:"throttled"`
	ThrottledFor time.Duration `json:"throttled_for"`
	// Limit is how much memory they may have, in bytes; from NoLimit on: all.
	Limit    int64  `json:"limit"`
	Usage    int64  `json:"usage"`
	Resident int64  `json:"resident"` // of that, what is not cached of files
	Hits     uint64 `json:"hits"`     // how often they wanted more than Limit, so that memory was reclaimed
}

// NoLimit is the least Group.Limit that is none: the kernel's own figure for it
// depends on its page size.
const NoLimit = 1 << 62

// Group asks for the control group of a container.
func (c *Client) Group(ctx context.Context, req GroupRequest) (Group, error) {
	resp, err := c.do(ctx, groupTimeout, Request{Op: opGroup, Group: &req})
	if err != nil {
		return Group{}, err
	}
	if resp.Group == nil {
		return Group{}, errors.New("group: an answer without content")
	}
	return *resp.Group, nil
}

// groupTimeout bounds that: a process in a group that is short of memory is slow.
const groupTimeout = 30 * time.Second

// PressDir is the folder, on a disk, where the sidecar has the file that it reads.
const PressDir = "/press"
