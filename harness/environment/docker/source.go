package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const modulePath = "github.com/faultline-mq/faultline"

// builtDigest is the source digest of a binary that is used away from its
// source tree, set by -ldflags "-X .../harness/environment/docker.builtDigest=…".
var builtDigest string

// imageSources are the parts of the tree that the image's binaries are built
// from: files, and folders with the Go files below them.
var imageSources = []string{
	"go.mod", "go.sum", "docker/Dockerfile",
	"broker", "nemesis/sidecar", "cmd/faultbroker", "cmd/faultsidecar",
}

// errNoSource: no source tree above the working directory.
var errNoSource = errors.New("the working directory is not inside the source that the image is made from: run faultline in a clone of it, or use --env sim")

// SourceDigest returns the digest (64 hexadecimal digits) of the source that
// the node image must have been built from: of the tree above the working
// directory, or else the one that was set when this binary was built.
func SourceDigest() (string, error) {
	root, err := sourceRoot()
	if errors.Is(err, errNoSource) && builtDigest != "" {
		return builtDigest, nil
	}
	if err != nil {
		return "", err
	}
	return digestTree(root)
}

// sourceRoot walks up from the working directory to the module's root.
func sourceRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the source tree: %w", err)
	}
	for {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil {
			for line := range strings.Lines(string(data)) {
				if f := strings.Fields(line); len(f) >= 2 && f[0] == "module" && f[1] == modulePath {
					return dir, nil
				}
			}
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errNoSource
		}
		dir = parent
	}
}

// digestTree hashes path, length and content of every source file, in the
// order of their paths. Tests and testdata do not count.
func digestTree(root string) (string, error) {
	var files []string
	for _, part := range imageSources {
		err := filepath.WalkDir(filepath.Join(root, part), func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return filepath.SkipDir
			case !d.Type().IsRegular() || strings.HasSuffix(path, "_test.go"):
			case strings.HasSuffix(path, ".go") || path == filepath.Join(root, part):
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("reading the source tree: %w", err)
		}
	}
	slices.Sort(files)
	h := sha256.New()
	_, _ = h.Write([]byte(buildTags)) // an image with mutants is another one
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("reading the source tree: %w", err)
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return "", fmt.Errorf("reading the source tree: %w", err)
		}
		fmt.Fprintf(h, "%s %d\n", filepath.ToSlash(rel), len(data))
		_, _ = h.Write(data) // a hash never fails
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
