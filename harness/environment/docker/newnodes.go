package docker

import (
	"context"
	"fmt"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// newNodes puts new nodes in the places of others.
type newNodes struct{ e *Environment }

var _ nemesis.NodeReplacer = newNodes{}

// Replace exchanges the container and the volumes of a node. The place stays: the
// sidecars, with namespace, address, rules, clock and the device of the data disk.
func (r newNodes) Replace(ctx context.Context, name, identity string) error {
	if err := r.replace(ctx, name, identity); err != nil {
		return fmt.Errorf("exchanging node %s: %w", name, err)
	}
	return nil
}

func (r newNodes) replace(ctx context.Context, name, identity string) error {
	e := r.e
	n, unlock, err := e.lockNode(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := n.dead(ctx); err != nil {
		return err
	}
	if e.stubbed(name) {
		return nil
	}
	// What is made after Down has looked for what there is would stay.
	e.ending.Lock()
	defer e.ending.Unlock()
	if _, err := e.node(name); err != nil {
		return err
	}
	if n.disk != nil {
		if err := (disks{e}).atOnce(ctx, n, sidecar.DiskRequest{Op: sidecar.DiskWipe}); err != nil {
			return err
		}
	}
	n.setContainer("")
	for _, old := range []string{n.made.own, n.made.next} {
		if old == "" {
			continue
		}
		if err := e.cli.ContainerRemove(ctx, old, container.RemoveOptions{}); err != nil {
			return err
		}
	}
	for _, kind := range []string{dataVolume, metaVolume} {
		if err := e.cli.VolumeRemove(ctx, e.volumeName(n, kind), false); err != nil && !cerrdefs.IsNotFound(err) {
			return err
		}
	}
	return e.createNode(ctx, n, identity)
}
