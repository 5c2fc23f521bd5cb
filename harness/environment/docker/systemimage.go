package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/build"
	"github.com/gofrs/flock"
)

// SystemImage says how the image of a system under test is made, on a machine where
// no registry answers.
type SystemImage struct {
	// Name is that of the folder docker/systems/<name> with its Dockerfile, and of the
	// image: faultline/<name>.
	Name string
	// Version becomes the first part of the image's tag.
	Version string
	// Based: the Dockerfile has "ARG BASE", the image of docker/base.sh, which needs root
	// on a Debian machine where it is not there yet.
	Based bool
	// Files makes the further files of the build context for an architecture ("amd64")
	// in the empty folder dir: name in the context → path. nil = there are none.
	Files func(ctx context.Context, arch, dir string, progress io.Writer) (map[string]string, error)
}

// Tag returns the image's name: faultline/<name>:<version>-<digest of the Dockerfile
// and the base's script, 8 digits>. The source tree needs to be there.
func (img SystemImage) Tag() (string, error) {
	root, err := sourceRoot()
	if err == nil {
		var name string
		if name, err = img.tag(root); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("naming the image of system %s: %w; or name another image with --image", img.Name, err)
}

func (img SystemImage) tag(root string) (string, error) {
	text, err := os.ReadFile(img.dockerfile(root))
	if err != nil {
		return "", err
	}
	if img.Based {
		script, err := os.ReadFile(filepath.Join(root, baseScript))
		if err != nil {
			return "", err
		}
		text = append(text, script...)
	}
	sum := sha256.Sum256(text)
	return "faultline/" + img.Name + ":" + img.Version + "-" + hex.EncodeToString(sum[:4]), nil
}

func (img SystemImage) dockerfile(root string) string {
	return filepath.Join(root, "docker", "systems", img.Name, "Dockerfile")
}

// BuildSystemImage builds an image, unless the engine has it, and returns its name
// (Tag). progress (nil = discard) gets the output of the tools.
func BuildSystemImage(ctx context.Context, img SystemImage, progress io.Writer) (string, error) {
	name, err := buildSystemImage(ctx, img, progress)
	if err != nil {
		return "", fmt.Errorf("building the image of system %s: %w; or name another image with --image", img.Name, err)
	}
	return name, nil
}

func buildSystemImage(ctx context.Context, img SystemImage, progress io.Writer) (string, error) {
	if progress == nil {
		progress = io.Discard
	}
	root, err := sourceRoot()
	if err != nil {
		return "", err
	}
	name, err := img.tag(root)
	if err != nil {
		return "", err
	}
	cli, err := connect(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = cli.Close() }()
	st, err := openState()
	if err != nil {
		return "", err
	}
	lock := flock.New(filepath.Join(st.dir, "build-"+img.Name+".lock"))
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		return "", fmt.Errorf("waiting for another build: %w", err)
	}
	defer func() { _ = lock.Unlock() }()
	if _, err := cli.ImageInspect(ctx, name); err == nil {
		return name, nil
	} else if !cerrdefs.IsNotFound(err) {
		return "", fmt.Errorf("inspecting image %s: %w", name, err)
	}
	version, err := cli.ServerVersion(ctx)
	if err != nil {
		return "", fmt.Errorf("asking the engine for its architecture: %w", err)
	}
	dir, err := os.MkdirTemp("", "faultline-build-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	files := map[string]string{}
	if img.Files != nil {
		if files, err = img.Files(ctx, version.Arch, dir, progress); err != nil {
			return "", err
		}
	}
	files["Dockerfile"] = img.dockerfile(root)
	opts := build.ImageBuildOptions{Tags: []string{name}}
	if img.Based {
		base, err := ensureBase(ctx, cli, root, progress)
		if err != nil {
			return "", fmt.Errorf("its base: %w", err)
		}
		proxied(&opts)
		opts.BuildArgs["BASE"] = &base
	}
	return name, buildContext(ctx, cli, files, opts, progress)
}

// InstallGo builds the command of a Go package at a version of its module, as a
// static binary for Linux on an architecture, in the empty folder dir, and returns
// its path. It needs the Go toolchain; the module comes from where that one gets modules.
func InstallGo(ctx context.Context, pkg, version, arch, dir string, progress io.Writer) (string, error) {
	// GOBIN cannot be set for another architecture; a GOPATH of its own can.
	out, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("building %s needs Go: %w", pkg, err)
	}
	cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", pkg+"@"+version)
	cmd.Dir = dir // outside of any module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOPATH="+dir, "GOBIN=", "GOMODCACHE="+strings.TrimSpace(string(out)))
	var text strings.Builder
	cmd.Stdout, cmd.Stderr = progress, io.MultiWriter(progress, &text)
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("building %s at version %s: %w: %s", pkg, version, err, lastLine(text.String()))
	}
	var path string
	err = filepath.WalkDir(filepath.Join(dir, "bin"), func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			path = p
		}
		return err
	})
	if err == nil && path == "" {
		err = errors.New("the toolchain left no binary")
	}
	return path, err
}

// lastLine is the last line of a tool's output that says something.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// BuildGo builds the command of a package of this source tree ("./cmd/name"), as a
// static binary for Linux on an architecture, in the empty folder dir, and returns its
// path. It needs the Go toolchain.
func BuildGo(ctx context.Context, pkg, arch, dir string, progress io.Writer) (string, error) {
	root, err := sourceRoot()
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, filepath.Base(pkg))
	return out, goBuild(ctx, root, arch, "", pkg, out, progress)
}
