package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/nemesis"
)

var (
	_ environment.Environment = (*World)(nil)
	_ environment.Runtime     = (*World)(nil)
)

type envPhase uint8

const (
	envNew envPhase = iota
	envUp
	envDown
)

// Name is "sim".
func (w *World) Name() string { return "sim" }

// Runtime is the World itself.
func (w *World) Runtime() environment.Runtime { return w }

// Nodes are the nodes' names, in order.
func (w *World) Nodes() []string { return append([]string(nil), w.names...) }

// Network cuts links.
func (w *World) Network() nemesis.Network { return network{w} }

// Processes controls the nodes' processes.
func (w *World) Processes() nemesis.Processes { return processes{w} }

// Disks takes the power from nodes.
func (w *World) Disks() nemesis.Disks { return disks{w} }

// Events adds a receiver of the nodes' events, as they are emitted. The
// receiver must not wait in virtual time.
func (w *World) Events(sink func(history.NodeEvent)) { w.sinks = append(w.sinks, sink) }

// Versions names the environment and the Go release.
func (w *World) Versions() map[string]string {
	return map[string]string{"environment": "sim", "go": runtime.Version()}
}

// Up starts all nodes but the spares and returns once their processes have begun. It can be
// called once.
func (w *World) Up(ctx context.Context) error {
	if w.phase != envNew {
		return errors.New("sim: Up was called before: make a new World")
	}
	if w.current == nil {
		return ErrOutside
	}
	w.phase = envUp
	for _, n := range w.nodes {
		if !slices.Contains(w.opts.Spares, n.name) {
			n.start()
		}
	}
	for _, n := range w.nodes {
		if err := w.awaitBoot(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// Down kills all nodes, removes all rules and closes all clients' connections.
// The nodes' volumes, logs and events stay for Collect. It may be called at any
// time, more than once, with an ended context.
func (w *World) Down(context.Context) error {
	w.phase = envDown
	for _, n := range w.nodes {
		if n.state != down {
			n.end(exitKilled, false)
		}
	}
	for id, s := range w.sets {
		delete(w.sets, id)
		s.off = true
	}
	w.shapes, w.rejectionOf, w.rejections = map[string][]*shape{}, map[string]*rejection{}, nil
	for i := range w.dirs {
		d := &w.dirs[i]
		d.shapes = nil
		d.rules, d.anyPort, d.openSince = nil, 0, w.now
	}
	w.clients = map[string]*client{}
	return nil
}

// Collect writes dir/<node>/stdout.log, events.jsonl and digest.
func (w *World) Collect(ctx context.Context, dir string) error {
	for _, n := range w.nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := n.collect(filepath.Join(dir, n.name)); err != nil {
			return fmt.Errorf("collecting node %s: %w", n.name, err)
		}
	}
	return nil
}

func (n *node) collect(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "stdout.log"), n.log.buf.Bytes(), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "digest"), []byte(n.volume.Digest()+"\n"), 0o644); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := bufio.NewWriter(f)
	enc := json.NewEncoder(buf)
	for i := range n.events {
		if err := enc.Encode(&n.events[i]); err != nil {
			return err
		}
	}
	return buf.Flush()
}
