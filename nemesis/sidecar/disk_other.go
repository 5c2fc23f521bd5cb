//go:build !linux

package sidecar

import "io"

type disk struct {
	stubbed bool
	dir     string
}

func (*disk) do(DiskRequest, *DiskResponse) error { return errLinux }
func (*disk) close() error                        { return nil }

// ProbeCommand is the first argument of the process that probes a disk.
const ProbeCommand = "probe"

// Probe is that process.
func Probe(io.Writer, string, ...string) error { return errLinux }
