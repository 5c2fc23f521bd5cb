package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/faultline-mq/faultline/"

// graph is who imports whom: packages of the module without its name, others in full.
type graph map[string][]string

// sourceGraph reads the imports of this source and of everything below it.
func sourceGraph(t *testing.T) graph {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports", module+"...")
	out, err := cmd.Output()
	require.NoError(t, err)
	g := graph{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return g
		}
		require.NoError(t, err)
		var imports []string
		for _, i := range p.Imports {
			imports = append(imports, strings.TrimPrefix(i, module))
		}
		g[strings.TrimPrefix(p.ImportPath, module)] = imports
	}
}

// path returns a way from one package to the first that is found of what match
// says, or nil.
func (g graph) path(from string, match func(string) bool) []string {
	came := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range g[queue[0]] {
			if _, seen := came[next]; seen {
				continue
			}
			came[next] = queue[0]
			if match(next) {
				way := []string{next}
				for at := queue[0]; at != ""; at = came[at] {
					way = append([]string{at}, way...)
				}
				return way
			}
			queue = append(queue, next)
		}
	}
	return nil
}

// with returns the graph with one more arrow.
func (g graph) with(from, to string) graph {
	c := maps.Clone(g)
	c[from] = append(slices.Clone(c[from]), to)
	return c
}

// in reports whether p is one of the trees or below one. A "=" in front means the
// package alone.
func in(trees ...string) func(string) bool {
	return func(p string) bool {
		return slices.ContainsFunc(trees, func(t string) bool {
			if only, ok := strings.CutPrefix(t, "="); ok {
				return p == only
			}
			return p == t || strings.HasPrefix(p, t+"/")
		})
	}
}

var (
	dockerClient = []string{"github.com/docker", "github.com/moby", "harness/environment/docker"}
	sockets      = []string{"=net", "net/http", "crypto/tls"}
	// below the driver a state machine has no goroutine, lock, clock, random
	// source, socket or file.
	machines = in("=broker", "broker/batch", "broker/cluster", "broker/kafka", "broker/logindex", "broker/node", "broker/options", "broker/peers", "broker/scheme", "broker/wire")
	effects  = in("=net", "net/http", "os", "sync", "math/rand", "crypto/rand", "log", "context", "io/fs", "syscall", "golang.org/x/sys", "golang.org/x/sync")
)

// arrows are the rules of the house. Each forbids the packages that from accepts
// to reach any that to accepts: by an import of their own (direct), or by any way.
var arrows = []struct {
	name     string
	direct   bool
	from, to func(string) bool
}{
	{"the command line is imported by nobody", true, in("broker", "checker", "harness", "nemesis", "workloads", "cmd"), in("cmd")},
	{"nemesis, workloads, checker and broker do not know the harness", true, in("nemesis", "workloads", "checker", "broker", "cmd/faultbroker", "cmd/faultsidecar"), in("harness")},
	{"workloads do not know the nemesis, nor it them", true, in("workloads"), in("nemesis")},
	{"nemesis does not know workloads", true, in("nemesis"), in("workloads")},
	{"the checker knows the history alone", true, in("checker"), in("nemesis", "workloads", "harness", "broker", "cmd")},
	{"the history knows nothing of the module", true, in("checker/history"), in("=checker", "nemesis", "workloads", "harness", "broker", "cmd")},
	{"linearizability knows nothing of the module", true, in("=checker/linear"), in("=checker", "checker/history", "nemesis", "workloads", "harness", "broker", "cmd")},
	{"the broker knows none of the harness's packages", true, in("broker"), in("checker", "nemesis", "workloads", "harness", "cmd")},
	{
		"only the reference system and the broker's daemon know the broker", true,
		func(p string) bool {
			return in("checker", "nemesis", "workloads", "harness", "cmd")(p) && !in("harness/system/reference", "cmd/faultbroker")(p)
		},
		in("broker"),
	},
	{"checker and workloads reach no Docker, no sockets, no broker", false, in("checker", "workloads"), in(append(append([]string{"broker"}, sockets...), dockerClient...)...)},
	{"nemesis reaches no Docker and no sockets", false, in("=nemesis"), in(append(append([]string{"broker"}, sockets...), dockerClient...)...)},
	{"the sidecar reaches no Docker and no broker", false, in("nemesis/sidecar", "cmd/faultsidecar"), in(append([]string{"broker"}, dockerClient...)...)},
	{"the simulator reaches no broker, no Docker, no sockets", false, in("harness/environment/sim"), in(append(append([]string{"broker"}, sockets...), dockerClient...)...)},
	{"environments do not know systems, reports or runs", true, in("harness/environment"), in("=harness", "harness/system", "harness/report", "workloads")},
	{"the report rests on the history and the checks alone", true, in("harness/report"), in("=harness", "harness/environment", "harness/system", "nemesis", "workloads", "broker")},
	{"systems do not know the run that uses them", true, in("harness/system"), in("=harness", "harness/report")},
	{"a Kafka client knows no environment", true, in("harness/system/kafka"), in("harness/environment", "broker")},
	{"Docker's client stays behind one package", true, func(p string) bool { return inModule(p) && !in("harness/environment/docker")(p) }, in("github.com/docker", "github.com/moby")},
	{"the broker's state machines have no effects of their own", true, machines, effects},
	{"the broker's state machines do not know their driver", false, machines, in("broker/driver", "broker/storage", "broker/seglog", "broker/vfs")},
}

var inModule = in("broker", "checker", "cmd", "harness", "nemesis", "workloads")

// violations returns a sentence for every arrow that points up.
func (g graph) violations() []string {
	var out []string
	for _, rule := range arrows {
		for _, p := range slices.Sorted(maps.Keys(g)) {
			if !rule.from(p) {
				continue
			}
			way := []string(nil)
			if rule.direct {
				if i := slices.IndexFunc(g[p], rule.to); i >= 0 {
					way = []string{p, g[p][i]}
				}
			} else {
				way = g.path(p, rule.to)
			}
			if way != nil {
				out = append(out, fmt.Sprintf("%s: %s", rule.name, strings.Join(way, " → ")))
			}
		}
	}
	return out
}

// TestImports keeps the arrows pointing down: cmd → harness → {workloads, nemesis}
// → checker → checker/history, and broker beside them.
func TestImports(t *testing.T) {
	g := sourceGraph(t)
	require.Empty(t, g.violations())
	for _, rule := range arrows {
		packages := slices.Collect(maps.Keys(g))
		require.True(t, slices.ContainsFunc(packages, rule.from), "%s: no package is meant by it any more", rule.name)
	}
	for _, p := range []string{"net", "os", "github.com/docker/docker/client", "broker/node", "checker/history"} {
		require.Contains(t, g, p, "the graph is whole")
	}
}

// TestMachinesStartNothing: no state machine starts a goroutine or has a channel, so that
// they are tested without the race detector.
func TestMachinesStartNothing(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}} {{.Dir}}", module+"broker/...").Output()
	require.NoError(t, err)
	files := 0
	for line := range strings.Lines(string(out)) {
		name, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !machines(strings.TrimPrefix(name, module)) {
			continue
		}
		sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		for _, source := range sources {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, source, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			files++
			ast.Inspect(f, func(n ast.Node) bool {
				switch n.(type) {
				case *ast.GoStmt, *ast.ChanType:
					t.Errorf("%s: a state machine has one goroutine", fset.Position(n.Pos()))
				}
				return true
			})
		}
	}
	require.Greater(t, files, 100)
}

// TestImportsReversed draws every kind of arrow that must not be, one at a time,
// into the real graph: each must be found.
func TestImportsReversed(t *testing.T) {
	g := sourceGraph(t)
	for _, arrow := range [][2]string{
		{"harness", "cmd/faultline"},
		{"workloads", "harness"},
		{"nemesis", "harness/environment"},
		{"nemesis", "workloads"},
		{"nemesis", "net"},
		{"nemesis", "github.com/docker/docker/client"},
		{"nemesis/sidecar", "harness/environment/docker"},
		{"workloads", "nemesis"},
		{"workloads", "broker"},
		{"workloads", "net/http"},
		{"checker", "workloads"},
		{"checker", "nemesis"},
		{"checker", "net"},
		{"checker", "harness/environment/docker"},
		{"checker", "broker/batch"},
		{"checker/history", "checker"},
		{"checker/history", "broker"},
		{"broker", "checker/history"},
		{"broker/node", "harness/environment/sim"},
		{"broker/node", "net"},
		{"broker/cluster", "sync"},
		{"broker/scheme/isr", "math/rand/v2"},
		{"broker/kafka", "broker/driver"},
		{"harness", "broker/options"},
		{"harness", "github.com/docker/docker/client"},
		{"harness/report", "broker"},
		{"harness/report", "harness"},
		{"harness/system/kafka", "harness/environment/docker"},
		{"harness/environment/sim", "broker/node"},
		{"harness/environment/sim", "net"},
		{"harness/environment", "harness/system"},
		{"harness/system/reference", "harness"},
		{"cmd/faultline", "broker/options"},
		{"cmd/faultbroker", "harness"},
		// Ways round a corner: a package that may be imported becomes one that may not.
		{"github.com/anishathalye/porcupine", "net/http"},
		{"github.com/klauspost/compress/zstd", "github.com/docker/docker/client"},
	} {
		require.Contains(t, g, arrow[0])
		require.Contains(t, g, arrow[1])
		require.NotEmpty(t, g.with(arrow[0], arrow[1]).violations(), "%s → %s was not found", arrow[0], arrow[1])
	}
}
