package docker

import (
	"context"
	"errors"
	"fmt"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"
)

// SweepOptions says what a sweep takes.
type SweepOptions struct {
	Kept bool // also clusters that were kept on purpose
}

// Swept counts what a sweep removed.
type Swept struct {
	Runs       []string
	Containers int
	Networks   int
	Volumes    int
}

// Sweep removes what dead runs of this host and user left behind on the engine:
// containers, networks, volumes, and their state here. A run is dead when
// nobody holds its lock. Runs that live, and those of other hosts, are not touched.
func Sweep(ctx context.Context, o SweepOptions) (Swept, error) {
	cli, err := connect(ctx)
	if err != nil {
		return Swept{}, err
	}
	defer func() { _ = cli.Close() }()
	st, err := openState()
	if err != nil {
		return Swept{}, err
	}
	return sweep(ctx, cli, st, o)
}

func sweep(ctx context.Context, cli *client.Client, st state, o SweepOptions) (Swept, error) {
	found, err := list(ctx, cli, filters.Arg("label", labelHost+"="+st.host))
	if err != nil {
		return Swept{}, fmt.Errorf("sweeping: %w", err)
	}
	runs := map[string]bool{} // whether the engine has something of it
	local, err := st.runs()
	if err != nil {
		return Swept{}, err
	}
	for _, run := range local {
		runs[run] = false
	}
	for _, run := range found.runs() {
		runs[run] = true
	}
	var swept Swept
	var errs error
	for run, onEngine := range runs {
		if !runExp.MatchString(run) || (st.kept(run) && !o.Kept) {
			continue
		}
		lock, err := st.lock(run)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		if lock == nil {
			continue // alive
		}
		if onEngine {
			n, err := removeRun(ctx, cli, run, st.host)
			swept.Containers += n.Containers
			swept.Networks += n.Networks
			swept.Volumes += n.Volumes
			if err != nil {
				errs = errors.Join(errs, err, lock.Close())
				continue
			}
			swept.Runs = append(swept.Runs, run)
		}
		errs = errors.Join(errs, st.forget(run, lock))
	}
	return swept, errs
}

// objects are what the engine has under a label.
type objects struct {
	containers []container.Summary
	networks   []network.Summary
	volumes    []*volume.Volume
}

func list(ctx context.Context, cli *client.Client, label ...filters.KeyValuePair) (objects, error) {
	by := filters.NewArgs(label...)
	var o objects
	var err error
	if o.containers, err = cli.ContainerList(ctx, container.ListOptions{All: true, Filters: by}); err != nil {
		return o, fmt.Errorf("listing containers: %w", err)
	}
	if o.networks, err = cli.NetworkList(ctx, network.ListOptions{Filters: by}); err != nil {
		return o, fmt.Errorf("listing networks: %w", err)
	}
	vs, err := cli.VolumeList(ctx, volume.ListOptions{Filters: by})
	if err != nil {
		return o, fmt.Errorf("listing volumes: %w", err)
	}
	o.volumes = vs.Volumes
	return o, nil
}

func (o objects) empty() bool { return len(o.containers)+len(o.networks)+len(o.volumes) == 0 }

func (o objects) runs() []string {
	var runs []string
	for _, c := range o.containers {
		runs = append(runs, c.Labels[labelRun])
	}
	for _, n := range o.networks {
		runs = append(runs, n.Labels[labelRun])
	}
	for _, v := range o.volumes {
		runs = append(runs, v.Labels[labelRun])
	}
	return runs
}

const removeRetry = 50 * time.Millisecond

// removeRun removes everything of a run until nothing of it is listed. What is
// found by its labels is complete whatever became of the process that made it.
func removeRun(ctx context.Context, cli *client.Client, run, host string) (Swept, error) {
	var n Swept
	var last error
	for {
		o, err := list(ctx, cli, filters.Arg("label", labelRun+"="+run), filters.Arg("label", labelHost+"="+host))
		if err != nil {
			return n, errors.Join(fmt.Errorf("removing run %s: %w", run, err), last)
		}
		if o.empty() {
			return n, nil
		}
		before := n
		last = removeObjects(ctx, cli, o, &n)
		if n.Containers+n.Networks+n.Volumes > before.Containers+before.Networks+before.Volumes {
			continue
		}
		// In removal by somebody else, or still in use by what is being removed.
		select {
		case <-ctx.Done():
			return n, errors.Join(fmt.Errorf("removing run %s: %w; run `faultline clean`", run, ctx.Err()), last)
		case <-time.After(removeRetry):
		}
	}
}

func removeObjects(ctx context.Context, cli *client.Client, o objects, n *Swept) error {
	var errs error
	// Nodes before sidecars, whose namespaces they are in.
	for _, nodes := range []bool{true, false} {
		var g errgroup.Group
		g.SetLimit(8)
		removed := make([]error, len(o.containers))
		for i, c := range o.containers {
			if (c.Labels[labelRole] != roleSidecar) != nodes {
				continue
			}
			g.Go(func() error {
				removed[i] = cli.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
				return nil
			})
		}
		_ = g.Wait() // errors are in removed
		for i, c := range o.containers {
			if (c.Labels[labelRole] != roleSidecar) != nodes {
				continue
			}
			if count(&n.Containers, removed[i]) != nil {
				errs = errors.Join(errs, fmt.Errorf("removing container %.12s: %w", c.ID, removed[i]))
			}
		}
	}
	for _, net := range o.networks {
		if err := count(&n.Networks, cli.NetworkRemove(ctx, net.ID)); err != nil {
			errs = errors.Join(errs, fmt.Errorf("removing network %s: %w", net.Name, err))
		}
	}
	for _, v := range o.volumes {
		if err := count(&n.Volumes, cli.VolumeRemove(ctx, v.Name, true)); err != nil {
			errs = errors.Join(errs, fmt.Errorf("removing volume %s: %w", v.Name, err))
		}
	}
	return errs
}

// count counts a removal that worked; what is gone already is no error.
func count(n *int, err error) error {
	if cerrdefs.IsNotFound(err) {
		return nil
	}
	if err == nil {
		*n++
	}
	return err
}
