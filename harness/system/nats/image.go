package nats

import (
	"context"
	"io"

	"github.com/faultline-mq/faultline/harness/environment/docker"
)

// module is the NATS server's Go module, whose root is its command.
const module = "github.com/nats-io/nats-server/v2"

// Image is the image of a version ("v2.15.2") of the NATS server, built from its Go
// module.
func Image(version string) docker.SystemImage {
	return docker.SystemImage{
		Name: "nats", Version: version,
		Files: func(ctx context.Context, arch, dir string, progress io.Writer) (map[string]string, error) {
			path, err := docker.InstallGo(ctx, module, version, arch, dir, progress)
			return map[string]string{"nats-server": path}, err
		},
	}
}
