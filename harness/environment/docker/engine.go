package docker

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/client"
)

// The errors that a caller can tell apart. Each comes wrapped in one line that
// names the thing and the remedy.
var (
	// ErrUnavailable: no Docker Engine that can be used.
	ErrUnavailable = errors.New("cannot use Docker")
	// ErrNoImage: the image of this source is not built, or a named image is not there.
	ErrNoImage = errors.New("image not found")
	// ErrStaleImage: the image was built from another source.
	ErrStaleImage = errors.New("stale image")
	// ErrNoSubnet: every subnet of the pools is in use.
	ErrNoSubnet = errors.New("no free subnet")
	// ErrNoDisks: the engine's host cannot give nodes disks of their own.
	ErrNoDisks = errors.New("no disks for this run's faults")
	// ErrNoLimits: the engine's host cannot limit what nodes use at run time.
	ErrNoLimits = errors.New("no limits for this run's faults")
	// ErrNoShaping: the engine's kernel cannot do what this run's faults do to packets.
	ErrNoShaping = errors.New("the kernel lacks what this run's faults need")
	// ErrNotUp: the environment is not up.
	ErrNotUp = errors.New("the environment is not up")
)

// MinAPIVersion is the oldest API that is spoken: Docker Engine 20.10's.
const MinAPIVersion = "1.41"

const pingTimeout = 10 * time.Second

// connect returns a client whose API version is negotiated, or ErrUnavailable
// (wrapped). The caller closes it.
func connect(ctx context.Context) (*client.Client, error) {
	host := os.Getenv(client.EnvOverrideHost)
	if strings.HasPrefix(host, "ssh://") {
		return nil, fmt.Errorf("%w: DOCKER_HOST=%s: ssh is not supported; forward the engine's socket (ssh -L) and name it with unix:// or tcp://", ErrUnavailable, host)
	}
	cli, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("%w: DOCKER_HOST=%q: %w; unset it, or set it like unix:///var/run/docker.sock", ErrUnavailable, host, err)
	}
	if err := usable(ctx, cli); err != nil {
		_ = cli.Close()
		return nil, err
	}
	return cli, nil
}

func usable(ctx context.Context, cli *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	ping, err := cli.Ping(ctx)
	at := cli.DaemonHost()
	if err != nil {
		return unusable(err, at)
	}
	if versions.LessThan(ping.APIVersion, MinAPIVersion) {
		return fmt.Errorf("%w: the engine at %s speaks API %s, needed is %s; use Docker Engine 20.10 or newer", ErrUnavailable, at, ping.APIVersion, MinAPIVersion)
	}
	if ping.OSType != "" && ping.OSType != "linux" {
		return fmt.Errorf("%w: the engine at %s runs %s containers; switch it to Linux containers", ErrUnavailable, at, ping.OSType)
	}
	return nil
}

// unusable says what became of a ping.
func unusable(err error, at string) error {
	switch {
	case errors.Is(err, os.ErrPermission) || strings.Contains(err.Error(), "permission denied"):
		return fmt.Errorf("%w: no permission for %s; add your user to the group docker, or use an engine of your own (rootless Docker)", ErrUnavailable, at)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %s does not answer within %v; restart the engine, or set DOCKER_HOST", ErrUnavailable, at, pingTimeout)
	case errors.Is(err, context.Canceled):
		return err
	}
	return fmt.Errorf("%w at %s: %s; start the engine, or set DOCKER_HOST", ErrUnavailable, at, firstLine(err))
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// publishedHost returns where this process reaches published ports, and the
// address of the engine's host on which they are to be opened.
func publishedHost(daemon string) (reach, listen string) {
	u, err := url.Parse(daemon)
	if err != nil || u.Hostname() == "" || u.Scheme == "unix" || u.Scheme == "npipe" {
		return "127.0.0.1", "127.0.0.1"
	}
	return u.Hostname(), "0.0.0.0"
}
