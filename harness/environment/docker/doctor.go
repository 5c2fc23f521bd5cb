package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// The features that an engine and its host may have; each try of Examine is
// another one, by its name.
const (
	FeatureEngine   = "Docker Engine"
	FeatureImage    = "node image"
	FeatureRoot     = "engine runs as root"
	FeatureCgroups  = "control groups"
	FeatureNftables = "nftables"
	FeatureLoop     = "loop devices"
	FeatureExt4     = "ext4"
	FeatureDisks    = "disks of nodes" // made by a privileged container
	FeatureThrottle = "block throttle"
	FeatureLimits   = "limits at run time"
	FeatureNetem    = "netem"
	FeatureMapper   = "device mapper"
	FeatureFUSE     = "FUSE"
	examinedNode    = "n1"
	examineTimeout  = 90 * time.Second
	imagesRemedy    = "run `" + imagesCommand + "`; `faultline run` does so by itself"
	notExamined     = "not looked at"
)

// Feature is what was seen of one thing that an engine's host can do, or not.
type Feature struct {
	Name   string `json:"name"`
	Works  bool   `json:"works"`
	Detail string `json:"detail,omitempty"` // what was seen, or why it does not work
	Remedy string `json:"remedy,omitempty"`
}

// Host is what was found out about an engine and its host.
type Host struct {
	Engine   string            `json:"engine"` // its address
	Facts    map[string]string `json:"facts,omitempty"`
	Features []Feature         `json:"features"`
}

// Lookup returns a feature; one that nobody looked at does not work.
func (h Host) Lookup(name string) Feature {
	for _, f := range h.Features {
		if f.Name == name {
			return f
		}
	}
	return Feature{Name: name, Detail: notExamined}
}

// found notes a feature. An error's remedy comes after its semicolon.
func (h *Host) found(name, detail string, err error) {
	f := Feature{Name: name, Works: err == nil, Detail: detail}
	if err != nil {
		text := strings.ReplaceAll(err.Error(), "\n", "; ")
		for _, prefix := range []string{
			ErrUnavailable.Error(), ErrNoImage.Error(), ErrStaleImage.Error(), ErrNoDisks.Error(), ErrNoLimits.Error(), ErrNoShaping.Error(), "at the engine's host",
		} {
			text = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(text, prefix), ":"))
		}
		f.Detail, f.Remedy, _ = strings.Cut(text, "; ")
	}
	h.Features = append(h.Features, f)
}

// Examine finds out what an engine and its host can do: it asks the engine, and
// lets the sidecars of a node try everything there, without the node. tries are
// rule sets, without ids, by the names of the features that they show. Nothing is
// left. What does not work is in the answer; the error is ctx's or that of the
// clean-up.
func Examine(ctx context.Context, tries map[string]sidecar.RuleSet) (h Host, err error) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	order := slices.Concat([]string{FeatureEngine, FeatureImage, FeatureRoot, FeatureCgroups, FeatureNftables}, slices.Sorted(maps.Keys(tries)),
		[]string{FeatureLoop, FeatureExt4, FeatureDisks, FeatureThrottle, FeatureLimits, FeatureNetem, FeatureMapper, FeatureFUSE})
	defer func() { h.complete(order) }()
	cli, err := connect(ctx)
	if err != nil {
		h.found(FeatureEngine, "", err)
		return h, ctx.Err()
	}
	defer func() { _ = cli.Close() }()
	h.Engine = cli.DaemonHost()
	info, err := cli.Info(ctx)
	if err != nil {
		h.found(FeatureEngine, "", fmt.Errorf("asking the engine about itself: %w", err))
		return h, ctx.Err()
	}
	h.Facts = map[string]string{
		"engine": info.ServerVersion, "api": cli.ClientVersion(), "kernel": info.KernelVersion, "os": info.OperatingSystem, "arch": info.Architecture, "cgroup": info.CgroupVersion,
	}
	h.found(FeatureEngine, fmt.Sprintf("%s, API %s, kernel %s, at %s", info.ServerVersion, cli.ClientVersion(), info.KernelVersion, h.Engine), nil)
	name, err := ImageName()
	if err == nil {
		_, err = checkImage(ctx, cli, name)
	}
	if errors.Is(err, ErrNoImage) || errors.Is(err, ErrStaleImage) {
		err = fmt.Errorf("%s is not built; %s", name, imagesRemedy)
	}
	h.found(FeatureImage, name, err)
	var root error
	if rootless(info.SecurityOptions) {
		root = errors.New("it is " + rootlessRemedy)
	}
	h.found(FeatureRoot, "", root)
	h.found(FeatureCgroups, "version "+info.CgroupVersion+", by "+info.CgroupDriver, nil)
	if !h.Lookup(FeatureImage).Works {
		return h, ctx.Err()
	}
	e, err := New(Config{RunID: NewRunID(), Nodes: []NodeSpec{{Name: examinedNode}}})
	if err != nil {
		return h, err
	}
	e.cfg.Throttle = true // without Disks: what is rootless is to be told of, not to be refused
	e.examine = func(ctx context.Context, n *node, gateway netip.Addr, access Access) {
		h.try(ctx, e, n, gateway, access, tries)
	}
	if err := e.Up(ctx); err != nil && ctx.Err() == nil {
		h.found(FeatureNftables, "", err) // nothing could be tried
	}
	return h, errors.Join(ctx.Err(), e.Down(ctx))
}

// complete puts the features into order, and says of those that were not looked
// at why they were not: one that everything needs does not work.
func (h *Host) complete(order []string) {
	why := ""
	for _, name := range []string{FeatureEngine, FeatureImage, FeatureNftables} {
		if f := h.Lookup(name); !f.Works && why == "" && f.Detail != notExamined {
			why = name
		}
	}
	found := *h
	h.Features = nil
	for _, name := range order {
		f := found.Lookup(name)
		if f.Detail == notExamined && why != "" {
			f.Remedy = "see " + why
		}
		h.Features = append(h.Features, f)
	}
}

// try lets the sidecars of a node try what faults ask of the engine's host.
func (h *Host) try(ctx context.Context, e *Environment, n *node, gateway netip.Addr, access Access, tries map[string]sidecar.RuleSet) {
	err := e.startSidecar(ctx, n, map[string]netip.Addr{n.spec.Name: n.addr}, gateway, access)
	if err == nil {
		err = n.agent.Try(ctx, sidecar.RuleSet{ID: "try", Drops: []sidecar.Drop{{Hook: sidecar.Input, Peer: sidecar.Clients}}})
	}
	h.found(FeatureNftables, "", err)
	if err != nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(tries)) {
		set := tries[name]
		set.ID = "try"
		h.found(name, "", n.agent.Try(ctx, set))
	}
	kernel, err := n.agent.Kernel(ctx)
	if err != nil {
		h.found(FeatureNetem, "", err)
	}

	if !h.Lookup(FeatureRoot).Works {
		for _, name := range []string{FeatureDisks, FeatureThrottle} {
			h.found(name, "", errors.New("the engine is "+rootlessRemedy))
		}
	} else {
		err := e.startDisk(ctx, n)
		if n.device == "" {
			h.found(FeatureDisks, "", err)
			h.found(FeatureThrottle, "", errors.New("there is no disk to throttle; see "+FeatureDisks))
		} else {
			h.found(FeatureDisks, "ext4 on "+n.device, nil)
			h.found(FeatureThrottle, "", err)
		}
	}
	h.found(FeatureLimits, "", e.startLimits(ctx, n))

	// Modules that were needed until now are loaded by it.
	if again, err := n.agent.Kernel(ctx); err == nil {
		kernel = again
	}
	for _, f := range []struct {
		name, remedy string
		there        bool
	}{
		{FeatureLoop, "load the kernel module loop", kernel.Loop},
		{FeatureExt4, "load the kernel module ext4", kernel.Ext4},
		{FeatureNetem, "no fault needs it", kernel.Netem == ""},
		{FeatureMapper, "no fault needs it", kernel.DeviceMapper},
		{FeatureFUSE, "no fault needs it", kernel.FUSE},
	} {
		var missing error
		if !f.there {
			missing = errors.New("the kernel has none, or has not loaded it; " + f.remedy)
			if f.name == FeatureNetem {
				missing = errors.New(kernel.Netem + "; " + f.remedy)
			}
		}
		h.found(f.name, "", missing)
	}
}

// rootlessRemedy says what is wrong with a rootless engine, and what to do.
const rootlessRemedy = "rootless and may not make loop devices; name one that runs as root with DOCKER_HOST, or use --env sim"

func rootless(options []string) bool {
	return slices.ContainsFunc(options, func(o string) bool { return strings.Contains(o, "name=rootless") })
}
