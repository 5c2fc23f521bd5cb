//go:build !linux

package sidecar

import "errors"

var errLinux = errors.New("a sidecar runs on Linux only: it needs nftables")

type unsupported struct{}

func newFilter(bool) filter { return unsupported{} }

func (unsupported) setup(string, uint16) error              { return errLinux }
func (unsupported) apply(string, []rule) error              { return errLinux }
func (unsupported) remove(string) error                     { return errLinux }
func (unsupported) counters() (map[string][]packets, error) { return nil, errLinux }
func (unsupported) teardown() error                         { return nil }
