package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

const (
	// baseScript writes the root file system of the base image.
	baseScript     = "docker/base.sh"
	baseRepository = "faultline/base"
	osRelease      = "/etc/os-release"
)

// proxied lets a build take packages from where this machine takes them: through its
// proxies, which the builder keeps out of the image, and by the network of the
// engine's host, so that a proxy on its loopback is reached too.
func proxied(opts *build.ImageBuildOptions) {
	opts.NetworkMode = "host"
	opts.BuildArgs = map[string]*string{}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if v, ok := os.LookupEnv(name); ok {
			opts.BuildArgs[name] = &v
		}
	}
}

// ensureBase makes the base image, unless it is there, and returns its name: it
// belongs to the script and to the suite of this machine.
func ensureBase(ctx context.Context, cli *client.Client, root string, progress io.Writer) (string, error) {
	script := filepath.Join(root, baseScript)
	data, err := os.ReadFile(script)
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256(data)
	name := baseRepository + ":" + hex.EncodeToString(digest[:6]) + "-" + Suite()
	if _, err := cli.ImageInspect(ctx, name); err == nil {
		return name, nil
	} else if !cerrdefs.IsNotFound(err) {
		return "", fmt.Errorf("inspecting image %s: %w", name, err)
	}
	_, _ = fmt.Fprintf(progress, "making the base image %s: some minutes\n", name)
	// The archive goes to a file first: an import of half a file system would look whole.
	archive, err := os.CreateTemp("", "faultline-base-*.tar")
	if err != nil {
		return "", err
	}
	defer func() {
		_ = archive.Close()
		_ = os.Remove(archive.Name())
	}()
	var said strings.Builder
	cmd := exec.CommandContext(ctx, script)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it removes what it made
	cmd.WaitDelay = 30 * time.Second
	cmd.Stdout = archive
	cmd.Stderr = io.MultiWriter(progress, &said)
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", baseScript, err, lastLine(said.String()))
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	resp, err := cli.ImageImport(ctx, image.ImportSource{Source: archive, SourceName: "-"}, name, image.ImportOptions{Message: baseScript})
	if err != nil {
		return "", fmt.Errorf("importing it: %w", err)
	}
	defer func() { _ = resp.Close() }()
	return name, readAnswer(resp, progress)
}

// Suite is the code name of this machine's distribution, "unknown" where it has none.
func Suite() string {
	data, err := os.ReadFile(osRelease)
	if err == nil {
		for line := range strings.Lines(string(data)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok && v != "" {
				return strings.Trim(v, `"`)
			}
		}
	}
	return "unknown"
}
