package docker

import (
	"context"
	"fmt"

	"github.com/docker/docker/api/types/container"

	"github.com/faultline-mq/faultline/nemesis"
)

// upgrader gives nodes a second container, of another image: it joins the same
// sidecar and has the same volumes. One of the two runs at a time.
type upgrader struct{ e *Environment }

var _ nemesis.Upgrader = upgrader{}

// made is what a node's container was created from, and the two that there may be.
type made struct {
	cfg       container.Config
	host      container.HostConfig
	name      string
	own, next string // containers: of the node's own image, and of the other one once it is there
}

func (u upgrader) Upgrade(ctx context.Context, name string) error {
	return u.exchange(ctx, name, func(n *node) (string, error) {
		if n.made.next != "" || u.e.stubbed(name) {
			return n.made.next, nil
		}
		cfg, host := n.made.cfg, n.made.host
		cfg.Image = u.e.cfg.NextImage
		id, err := n.createContainer(ctx, &cfg, &host, n.made.name+"-next")
		n.made.next = id
		return id, err
	})
}

func (u upgrader) Downgrade(ctx context.Context, name string) error {
	return u.exchange(ctx, name, func(n *node) (string, error) { return n.made.own, nil })
}

// exchange puts another container into a node's place; "" leaves it as it is.
func (u upgrader) exchange(ctx context.Context, name string, by func(*node) (string, error)) error {
	n, unlock, err := u.e.lockNode(ctx, name)
	if err != nil {
		return fmt.Errorf("version of %s: %w", name, err)
	}
	defer unlock()
	if err := n.dead(ctx); err != nil {
		return fmt.Errorf("version of %s: %w", name, err)
	}
	id, err := by(n)
	if err != nil {
		return fmt.Errorf("version of %s: %w", name, err)
	}
	if id != "" {
		n.setContainer(id)
	}
	return nil
}
