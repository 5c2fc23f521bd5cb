package docker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/gofrs/flock"
)

const (
	// recipes is the folder with one folder per system whose image is built here.
	recipes = "docker/systems"
	// baseScript writes a root file system that recipes with "ARG BASE" build on.
	baseScript     = "docker/base.sh"
	baseRepository = "faultline/base"
	// labelRecipe has the digest of the recipe that an image was built by.
	labelRecipe = "io.faultline.recipe"
	osRelease   = "/etc/os-release"
)

// recipe is how the image of a system is made.
type recipe struct {
	system string
	root   string            // of the source tree
	files  map[string]string // the build context: name there → path here
	based  bool              // it asks for the base
	digest string            // of all of that
}

// readRecipe reads the recipe of a system from the source tree.
func readRecipe(system string) (recipe, error) {
	root, err := sourceRoot()
	if err != nil {
		return recipe{}, err
	}
	r := recipe{system: system, root: root, files: map[string]string{}}
	dir := filepath.Join(root, recipes, system)
	h := sha256.New()
	add := func(name, path string) error {
		data, err := os.ReadFile(path)
		if err == nil {
			fmt.Fprintf(h, "%s\x00%d\x00%s", name, len(data), data)
			r.based = r.based || name == "Dockerfile" && bytes.Contains(data, []byte("\nARG BASE\n"))
		}
		return err
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		r.files[name] = path
		return add(name, path)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return recipe{}, fmt.Errorf("system %s has no recipe for an image: there is no %s/%s; name an image with --image", system, recipes, system)
	}
	if err == nil && r.based {
		err = add(baseScript, filepath.Join(root, baseScript))
	}
	if err != nil {
		return recipe{}, fmt.Errorf("reading the recipe of system %s: %w", system, err)
	}
	r.digest = hex.EncodeToString(h.Sum(nil))
	return r, nil
}

func (r recipe) image() string { return "faultline/" + r.system + ":" + r.digest[:12] }

// SystemImageName returns the name of the image that belongs to this source's
// recipe of a system, docker/systems/<system>.
func SystemImageName(system string) (string, error) {
	r, err := readRecipe(system)
	if err != nil {
		return "", err
	}
	return r.image(), nil
}

// HaveSystemImage reports whether the engine has it.
func HaveSystemImage(ctx context.Context, system string) (bool, error) {
	name, err := SystemImageName(system)
	if err != nil {
		return false, err
	}
	cli, err := connect(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = cli.Close() }()
	return haveImage(ctx, cli, name)
}

func haveImage(ctx context.Context, cli *client.Client, name string) (bool, error) {
	_, err := cli.ImageInspect(ctx, name)
	if cerrdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("inspecting image %s: %w", name, err)
	}
	return true, nil
}

// BuildSystemImage builds the image of a system by its recipe, unless the engine has
// it, and returns its name. Where the recipe asks for the base, that is made first,
// by docker/base.sh, which needs root on a Debian machine. One build at a time runs
// on this host. progress (nil = discard) gets the output of the tools.
func BuildSystemImage(ctx context.Context, system string, progress io.Writer) (string, error) {
	if progress == nil {
		progress = io.Discard
	}
	r, err := readRecipe(system)
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
	lock := flock.New(filepath.Join(st.dir, "build.lock"))
	if _, err := lock.TryLockContext(ctx, lockRetry); err != nil {
		return "", fmt.Errorf("waiting for another build: %w", err)
	}
	defer func() { _ = lock.Unlock() }()

	if have, err := haveImage(ctx, cli, r.image()); have || err != nil {
		return r.image(), err
	}
	// The network of the engine's host, so that a proxy on its loopback is reached too.
	opts := build.ImageBuildOptions{Tags: []string{r.image()}, Labels: map[string]string{labelRecipe: r.digest}, NetworkMode: "host", BuildArgs: map[string]*string{}}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} { // the builder keeps these out of the image
		if v, ok := os.LookupEnv(name); ok {
			opts.BuildArgs[name] = &v
		}
	}
	if r.based {
		base, err := ensureBase(ctx, cli, r.root, progress)
		if err != nil {
			return "", fmt.Errorf("making the base of the image of %s: %w", system, err)
		}
		opts.BuildArgs["BASE"] = &base
	}
	if err := buildContext(ctx, cli, r.files, opts, progress); err != nil {
		return "", fmt.Errorf("building the image of %s: %w", system, err)
	}
	return r.image(), nil
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
	name := baseRepository + ":" + hex.EncodeToString(digest[:6]) + "-" + suite()
	if have, err := haveImage(ctx, cli, name); have || err != nil {
		return name, err
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
	var last tail
	cmd := exec.CommandContext(ctx, script)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it removes what it made
	cmd.WaitDelay = lockRetry * 50
	cmd.Stdout = archive
	cmd.Stderr = io.MultiWriter(progress, &last)
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s; or name an image with --image", baseScript, err, last.line())
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

// suite is the code name of this machine's distribution, "unknown" where it has none.
func suite() string {
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

// tail keeps the last kilobyte that was written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-1024):]
	return len(p), nil
}

// line is the last line.
func (t *tail) line() string {
	s := strings.TrimSpace(string(t.b))
	return s[strings.LastIndexByte(s, '\n')+1:]
}
