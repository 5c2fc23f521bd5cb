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

type cgroups struct{}

func (*cgroups) do(GroupRequest, *Group) error { return errLinux }

// PressCommand is the first argument of the process that fills the page cache.
const PressCommand = "press"

// Press is that process.
func Press(string, string, ...string) error { return errLinux }

func lookAtKernel() *Kernel { return &Kernel{Netem: errLinux.Error()} }
