// Package example is a system under test to learn from: tinyq, a small durable queue
// server, with all that faultline asks of a system. docs/systems/adding.md walks
// through it.
package example

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/harness/system/example/tinyq"
	"github.com/faultline-mq/faultline/nemesis"
)

// System is tinyq as a system under test. Its nodes are containers only.
type System struct{ system.Contained }

var (
	_ system.System   = System{}
	_ system.Preparer = System{}
)

// Name implements system.System.
func (System) Name() string { return "example" }

// Doc implements system.System.
func (System) Doc() string {
	return "tinyq, a queue server of one node that shows how a system is added (docs/systems/adding.md)"
}

// Schemes implements system.System.
func (System) Schemes() []system.Scheme {
	return []system.Scheme{{Name: "alone", Doc: "one server, one log file", Election: "none", Replicas: "1", Single: true, Survives: true}}
}

// Workloads implements system.System.
func (System) Workloads() []string { return []string{"queue"} }

// The options and their defaults.
const (
	optQueues     = "queues"
	optDurability = "durability"
)

var defaults = map[string]string{optQueues: "2", optDurability: string(tinyq.Synced)}

// OptionList implements system.System.
func (System) OptionList() []system.Info {
	return []system.Info{
		{Name: optDurability, Doc: "what an answer means: synced (default; on disk), written (with the operating system) or buffered (in memory)"},
		{Name: optQueues, Doc: "number of queues (default 2)"},
	}
}

// Options implements system.System.
func (System) Options(spec system.Spec) map[string]string {
	all := maps.Clone(defaults)
	maps.Copy(all, spec.Set)
	return all
}

// Validate implements system.System.
func (s System) Validate(spec system.Spec) error {
	if spec.Scheme != "alone" {
		return fmt.Errorf("system example: unknown scheme %q; known: alone", spec.Scheme)
	}
	if n := len(spec.Nodes); n != 1 {
		return fmt.Errorf("system example: it has one node, not %d; use --nodes 1", n)
	}
	for name := range spec.Set {
		if _, ok := defaults[name]; !ok {
			return fmt.Errorf("unknown option %q of system example; known options: %s", name, strings.Join(slices.Sorted(maps.Keys(defaults)), ", "))
		}
	}
	o := s.Options(spec)
	if n, err := strconv.Atoi(o[optQueues]); err != nil || n < 1 || n > 16 {
		return fmt.Errorf("option %s=%s: it needs to be a number from 1 to 16", optQueues, o[optQueues])
	}
	switch d := tinyq.Durability(o[optDurability]); d {
	case tinyq.Synced, tinyq.Written, tinyq.Buffered:
		return nil
	default:
		return fmt.Errorf("option %s=%s: known are synced, written, buffered", optDurability, d)
	}
}

// Lacks implements system.System.
func (System) Lacks(_ system.Spec, step nemesis.Step) string {
	switch step.Fault {
	case "lock-remove":
		return "its node takes no lock"
	case "membership", "leadership":
		return "it has one node, which is all there is"
	case "upgrade", "downgrade":
		return "there is no second version"
	}
	return ""
}

// Keys implements system.System.
func (s System) Keys(spec system.Spec) []string {
	n, _ := strconv.Atoi(s.Options(spec)[optQueues]) // it was validated
	keys := make([]string, n)
	for i := range keys {
		keys[i] = "q" + strconv.Itoa(i)
	}
	return keys
}

// Queues implements system.System: all keys are queues, without dead letters.
func (s System) Queues(spec system.Spec) []history.Queue {
	var queues []history.Queue
	for _, key := range s.Keys(spec) {
		queues = append(queues, history.Queue{Key: key})
	}
	return queues
}

// Contract implements system.System. What is on disk survives everything but damage to
// the disk; what the operating system has survives the end of the process; what is in
// memory survives nothing.
func (s System) Contract(spec system.Spec) history.Contract {
	kept := !planned(spec, "wipe", "corrupt-file", "restart")
	switch tinyq.Durability(s.Options(spec)[optDurability]) {
	case tinyq.Written:
		kept = kept && !planned(spec, "power")
	case tinyq.Buffered:
		kept = false
	}
	return history.Contract{
		Expect: spec.Expect, Acknowledged: kept, Recovers: true,
		Order: "producer", Offsets: "none",
		Delivery: "at-least-once", Settled: kept, Redelivers: kept, Exclusive: true, TruthfulEmpty: kept,
	}
}

// planned reports whether a plan has one of some faults.
func planned(spec system.Spec, faults ...string) bool {
	return slices.ContainsFunc(spec.Faults, func(f string) bool {
		name, _, _ := strings.Cut(f, ":")
		return slices.Contains(faults, name)
	}) || slices.ContainsFunc(spec.Steps, func(s nemesis.Step) bool { return slices.Contains(faults, s.Fault) })
}

// Detection implements system.System: nobody takes over, so nothing is detected, and
// faults may be short.
func (System) Detection(system.Spec) time.Duration { return 500 * time.Millisecond }

// source is all that the image is made of: another source is another image.
//
//go:embed tinyq
var source embed.FS

// image is the server's image, built from this source.
func image() (docker.SystemImage, error) {
	sum := sha256.New()
	err := fs.WalkDir(source, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := source.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(text), text)
		return err
	})
	return docker.SystemImage{
		Name: "tinyq", Version: hex.EncodeToString(sum.Sum(nil)[:6]),
		Files: func(ctx context.Context, arch, dir string, progress io.Writer) (map[string]string, error) {
			path, err := docker.BuildGo(ctx, "./harness/system/example/tinyq/tinyqd", arch, dir, progress)
			return map[string]string{"tinyqd": path}, err
		},
	}, err
}

// Prepare implements system.Preparer.
func (System) Prepare(ctx context.Context, spec system.Spec, progress io.Writer) error {
	if spec.Image != "" {
		return nil
	}
	img, err := image()
	if err != nil {
		return err
	}
	_, err = docker.BuildSystemImage(ctx, img, progress)
	return err
}

// Docker implements system.System.
func (s System) Docker(spec system.Spec) (docker.Config, error) {
	name := spec.Image
	if name == "" {
		img, err := image()
		if err != nil {
			return docker.Config{}, err
		}
		if name, err = img.Tag(); err != nil {
			return docker.Config{}, err
		}
	}
	ports := environment.DefaultPorts
	return docker.Config{RunID: spec.RunID, Ports: ports, Nodes: []docker.NodeSpec{{
		Name: spec.Nodes[0], Image: name, DataDir: "/data", Records: ".log",
		Cmd: func(map[string]netip.Addr, string) []string {
			return []string{
				"--data=/data", "--listen=:" + strconv.Itoa(ports.Client),
				"--queues=" + strings.Join(s.Keys(spec), ","), "--durability=" + s.Options(spec)[optDurability],
			}
		},
	}}}, nil
}

// ConnectDocker implements system.System.
func (s System) ConnectDocker(spec system.Spec, env *docker.Environment) system.Cluster {
	return s.Connect(spec, env.Runtime(), func() (string, error) { return env.Addr(spec.Nodes[0], environment.DefaultPorts.Client) })
}

// Connect returns the cluster whose node is reached at an address ("host:port"),
// wherever it runs.
func (s System) Connect(spec system.Spec, clock nemesis.Clock, address func() (string, error)) system.Cluster {
	return &cluster{runID: spec.RunID, node: spec.Nodes[0], keys: s.Keys(spec), clock: clock, address: address}
}
