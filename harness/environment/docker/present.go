package docker

import "context"

// CheckImage returns nil where the engine has an image that nodes can be run from, and
// otherwise ErrNoImage or ErrStaleImage (wrapped), or the engine's error.
func CheckImage(ctx context.Context, name string) error {
	cli, err := connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	_, err = checkImage(ctx, cli, name)
	return err
}
