package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	digestFile = "data.sha256"
	// digestLimit bounds what is read of one node's data, in bytes.
	digestLimit = 512 << 20
)

// Collect writes below dir/<node>/: stdout.log, stderr.log, events.jsonl (the
// events with their times on the run's clock), sidecar.log, and data.sha256, a
// digest of every file of the node's volumes in the format of sha256sum. It does
// what it can and returns what failed. Call it before Down; nodes may be running.
// Where Up created no node there is nothing to write.
func (e *Environment) Collect(ctx context.Context, dir string) error {
	e.mu.Lock()
	nodes := maps.Clone(e.nodes)
	down := e.down
	e.mu.Unlock()
	if down {
		return fmt.Errorf("collecting logs: %w", ErrNotUp)
	}
	var errs error
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		n, to := nodes[name], filepath.Join(dir, name)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return fmt.Errorf("collecting logs: %w", err)
		}
		if err := n.log.copyTo(to); err != nil {
			errs = errors.Join(errs, fmt.Errorf("collecting logs of %s: %w", name, err))
		}
		if n, err := e.node(name); err == nil {
			if err := n.digest(ctx, filepath.Join(to, digestFile)); err != nil {
				errs = errors.Join(errs, fmt.Errorf("collecting the data digest of %s: %w", name, err))
			}
		}
	}
	return errs
}

// digest lists the files of the node's volumes with their digests. A file that
// changes meanwhile has the digest of what was read.
func (n *node) digest(ctx context.Context, to string) error {
	var out []string
	for _, dir := range []string{n.spec.DataDir, n.spec.MetaDir} {
		if dir == "" {
			continue
		}
		files, err := n.digests(ctx, dir)
		if err != nil {
			return err
		}
		out = append(out, files...)
	}
	// By path, not by digest.
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(a[min(66, len(a)):], b[min(66, len(b)):]) })
	var buf bytes.Buffer
	for _, line := range out {
		fmt.Fprintln(&buf, line)
	}
	return os.WriteFile(to, buf.Bytes(), 0o644)
}

// digests lists the files of one volume.
func (n *node) digests(ctx context.Context, dir string) (out []string, err error) {
	r, _, err := n.cli.CopyFromContainer(ctx, n.container(), dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	t := tar.NewReader(io.LimitReader(r, digestLimit))
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return append(out, fmt.Sprintf("# stopped after %d bytes", digestLimit)), nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		sum := sha256.New()
		switch _, err := io.Copy(sum, t); {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return append(out, fmt.Sprintf("# stopped after %d bytes", digestLimit)), nil
		case err != nil:
			return nil, err
		}
		out = append(out, hex.EncodeToString(sum.Sum(nil))+"  "+h.Name)
	}
}
