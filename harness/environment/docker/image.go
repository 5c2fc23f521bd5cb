package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/client"
	"github.com/gofrs/flock"
)

const (
	imageRepository = "faultline/node"
	// labelSource carries the digest of the source that an image was built from.
	labelSource = "io.faultline.source"
)

// binaries of the image, by name, and the packages that they are built from.
var binaries = map[string]string{
	"faultbroker":  "./cmd/faultbroker",
	"faultsidecar": "./cmd/faultsidecar",
}

// ImageName returns the name of the node image that belongs to this source.
func ImageName() (string, error) {
	digest, err := SourceDigest()
	if err != nil {
		return "", fmt.Errorf("naming the node image: %w", err)
	}
	return imageNameOf(imageRepository, digest), nil
}

func imageNameOf(repository, digest string) string {
	return tagged(repository, digest[:min(12, len(digest))])
}

// tagged names an image. One that was built with build tags says so: nobody takes
// a broker with mutants for one without.
func tagged(repository, tag string) string {
	if buildTags != "" {
		tag += "-" + buildTags
	}
	return repository + ":" + tag
}

// nextSuffix ends the tag of the image of this source with another version stamp.
const nextSuffix = "-next"

// BuildNextImage builds the node image of this source once more, with another
// version stamp, unless the engine has it, and returns its name: what nodes are
// upgraded to where a plan names nothing else. It is as BuildImage otherwise.
func BuildNextImage(ctx context.Context, progress io.Writer) (string, error) {
	return buildNodeImage(ctx, nextSuffix, progress)
}

// HaveImage reports whether the engine has the node image of this source.
func HaveImage(ctx context.Context) (bool, error) {
	name, err := ImageName()
	if err != nil {
		return false, err
	}
	cli, err := connect(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = cli.Close() }()
	_, err = checkImage(ctx, cli, name)
	if errors.Is(err, ErrNoImage) || errors.Is(err, ErrStaleImage) {
		return false, nil
	}
	return err == nil, err
}

// checkImage returns the id of an image. An image of ours that was built from
// another source is refused.
func checkImage(ctx context.Context, cli *client.Client, name string) (string, error) {
	img, err := cli.ImageInspect(ctx, name)
	if cerrdefs.IsNotFound(err) {
		if strings.HasPrefix(name, imageRepository+":") {
			return "", fmt.Errorf("%w: %s is not built; run `%s`", ErrNoImage, name, imagesCommand)
		}
		return "", fmt.Errorf("%w: %s; pull or build it first", ErrNoImage, name)
	}
	if err != nil {
		return "", fmt.Errorf("inspecting image %s: %w", name, err)
	}
	if img.Config != nil && img.Config.Labels[labelSource] != "" {
		want, err := SourceDigest()
		if err != nil {
			return "", fmt.Errorf("checking image %s: %w", name, err)
		}
		if got := img.Config.Labels[labelSource]; got != want {
			return "", fmt.Errorf("%w: %s was built from source %.12s, this is %.12s; run `%s`", ErrStaleImage, name, got, want, imagesCommand)
		}
	}
	return img.ID, nil
}

// BuildImage builds the node image of the source tree above the working
// directory, unless the engine has it, tags it faultline/node:dev too (for the
// compose file; dev-mutants where it has mutants), and returns its name. It needs the Go toolchain. progress (nil = discard) gets the output of the tools.
func BuildImage(ctx context.Context, progress io.Writer) (string, error) {
	return buildNodeImage(ctx, "", progress)
}

func buildNodeImage(ctx context.Context, suffix string, progress io.Writer) (string, error) {
	if progress == nil {
		progress = io.Discard
	}
	cli, err := connect(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = cli.Close() }()
	name, err := ensureImage(ctx, cli, imageRepository, suffix, binaries, progress)
	if err != nil {
		return "", fmt.Errorf("building the node image: %w", err)
	}
	return name, nil
}

// ensureImage builds an image of packages (by the name of their binary) from the
// source tree, unless it is there, and moves the repository's tag dev to it. Both
// tags end in a suffix; the binaries are stamped with the first. One build at a
// time runs on this host.
func ensureImage(ctx context.Context, cli *client.Client, repository, suffix string, packages map[string]string, progress io.Writer) (string, error) {
	root, err := sourceRoot()
	if err != nil {
		return "", err
	}
	digest, err := digestTree(root)
	if err != nil {
		return "", err
	}
	st, err := openState()
	if err != nil {
		return "", err
	}
	lock := flock.New(filepath.Join(st.dir, "build.lock"))
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		return "", fmt.Errorf("waiting for another build: %w", err)
	}
	defer func() { _ = lock.Unlock() }()

	name, dev := imageNameOf(repository, digest)+suffix, tagged(repository, "dev")+suffix
	if _, err := checkImage(ctx, cli, name); err == nil {
		return name, cli.ImageTag(ctx, name, dev)
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
	files := map[string]string{"Dockerfile": filepath.Join(root, "docker", "Dockerfile")}
	for bin, pkg := range packages {
		files[bin] = filepath.Join(dir, bin)
		if err := goBuild(ctx, root, version.Arch, strings.TrimPrefix(name, repository+":"), pkg, files[bin], progress); err != nil {
			return "", err
		}
	}
	if after, err := digestTree(root); err != nil {
		return "", err
	} else if after != digest {
		return "", fmt.Errorf("the source changed while it was built; run it again")
	}
	if err := buildImage(ctx, cli, files, []string{name, dev}, map[string]string{labelSource: digest}, progress); err != nil {
		return "", err
	}
	return name, nil
}

// goBuild builds a static binary for the engine's architecture, with a version
// stamp where it takes one.
func goBuild(ctx context.Context, root, arch, stamp, pkg, out string, progress io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags="+buildTags, "-ldflags=-s -w -X main.stamp="+stamp, "-o", out, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	var stderr bytes.Buffer
	cmd.Stdout = progress
	cmd.Stderr = io.MultiWriter(progress, &stderr)
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("building %s: %w; install Go, or build the image elsewhere with `%s`", pkg, err, imagesCommand)
		}
		return fmt.Errorf("building %s: %w: %s", pkg, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// buildImage sends files (name in the context → path here) to the engine's
// builder. It asks for the first-generation builder, which every engine has.
func buildImage(ctx context.Context, cli *client.Client, files map[string]string, tags []string, labels map[string]string, progress io.Writer) error {
	return buildContext(ctx, cli, files, build.ImageBuildOptions{Tags: tags, Labels: labels}, progress)
}

// buildContext is buildImage with more that the builder can be told.
func buildContext(ctx context.Context, cli *client.Client, files map[string]string, opts build.ImageBuildOptions, progress io.Writer) error {
	name := opts.Tags[0]
	context := map[string][]byte{}
	for file, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		context[file] = data
	}
	archive, err := tarOf(context, 0o755)
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	opts.Dockerfile, opts.Remove, opts.ForceRemove, opts.Version = "Dockerfile", true, true, build.BuilderV1
	resp, err := cli.ImageBuild(ctx, archive, opts)
	if err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := readAnswer(resp.Body, progress); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return nil
}

// readAnswer reads what the engine streams while it makes an image, to its end.
func readAnswer(r io.Reader, progress io.Writer) error {
	for dec := json.NewDecoder(r); ; {
		var msg struct {
			Stream string `json:"stream"`
			Error  string `json:"error"`
		}
		if err := dec.Decode(&msg); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading the engine's answer: %w", err)
		}
		if msg.Error != "" {
			return errors.New(msg.Error)
		}
		_, _ = io.WriteString(progress, msg.Stream) // progress only
	}
}

// tarOf archives files (name → content) with one mode.
func tarOf(files map[string][]byte, mode int64) (*bytes.Buffer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data := files[name]
		if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(name, "/"), Mode: mode, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	return &buf, w.Close()
}
