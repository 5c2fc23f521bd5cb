package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// ownImages is how the names of images begin that are made here and pulled from nowhere.
const ownImages = "faultline/"

// CheckImage returns nil where the engine has an image that nodes can be run from, or
// pulls it from its registry now, and otherwise ErrNoImage or ErrStaleImage (wrapped), or
// the engine's error.
func CheckImage(ctx context.Context, name string) error {
	cli, err := connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	_, err = checkImage(ctx, cli, name)
	if !errors.Is(err, ErrNoImage) || strings.HasPrefix(name, ownImages) {
		return err
	}
	if perr := pull(ctx, cli, name); perr != nil {
		return fmt.Errorf("%w: %s is not here, and pulling it failed: %w", ErrNoImage, name, perr)
	}
	_, err = checkImage(ctx, cli, name)
	return err
}

func pull(ctx context.Context, cli *client.Client, name string) error {
	resp, err := cli.ImagePull(ctx, name, image.PullOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Close() }()
	return readAnswer(resp, io.Discard)
}
