package sidecar

import (
	"context"
	"errors"
)

// Kernel is what the kernel of the sidecar's host has, as far as its modules are loaded.
type Kernel struct {
	Loop         bool `json:"loop"`
	Ext4         bool `json:"ext4"`
	FUSE         bool `json:"fuse"`
	DeviceMapper bool `json:"device_mapper"`
	// Netem is why a netem queue could not be made, "" where one could.
	Netem string `json:"netem"`
}

// Kernel asks what the kernel of the sidecar's host has.
func (c *Client) Kernel(ctx context.Context) (Kernel, error) {
	resp, err := c.do(ctx, DefaultTimeout, Request{Op: opKernel})
	if err != nil {
		return Kernel{}, err
	}
	if resp.Kernel == nil {
		return Kernel{}, errors.New("kernel: an answer without content")
	}
	return *resp.Kernel, nil
}
