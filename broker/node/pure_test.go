package node_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Everything below the driver.
var pure = []string{"batch", "cluster", "kafka", "logindex", "node", "options", "peers", "scheme", "scheme/classic", "scheme/combined", "scheme/forwarding", "scheme/isr", "scheme/mirrored", "scheme/multimaster", "scheme/origin", "scheme/pull", "scheme/quorum", "scheme/schemes", "scheme/shared", "scheme/single", "scheme/standby", "scheme/takeover"}

// Ranges over maps whose order cannot reach an output, by function, with the reason.
var orderless = map[string]string{
	"node.dropUnknownLanes":  "sorts before it acts",
	"cluster.controllerTick": "adds the same to each",
	"options.Resolve":        "sorts before it acts",
	"options.Map":            "copies into a map",
}

// TestPure: a node has no goroutine, lock, clock, random source, socket or file, and
// follows no map order.
func TestPure(t *testing.T) {
	for _, dir := range pure {
		files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(dir), "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files, dir)
		fset := token.NewFileSet()
		var parsed []*ast.File
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			a, err := parser.ParseFile(fset, f, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			parsed = append(parsed, a)
		}
		for _, complaint := range impurities(fset, parsed) {
			t.Error(complaint)
		}
	}
}

// TestImpuritiesAreFound: the check above can fail.
func TestImpuritiesAreFound(t *testing.T) {
	const source = `package p
import ("math/rand"; "sync"; wall "time"; "maps")
type t struct { m map[int]func() }
func (x *t) f() {
	go x.f()
	_ = wall.Now()
	for _, g := range x.m { g() }
	for range maps.Keys(x.m) {}
	select {}
	var mu sync.Mutex
	_, _ = rand.Int(), &mu
}`
	fset := token.NewFileSet()
	a, err := parser.ParseFile(fset, "p.go", source, parser.SkipObjectResolution)
	require.NoError(t, err)
	got := strings.Join(impurities(fset, []*ast.File{a}), "\n")
	for _, want := range []string{`import "math/rand"`, `import "sync"`, "goroutine", "time.Now", "range over a map in p.f", "maps.Keys", "select"} {
		require.Contains(t, got, want)
	}
}

func impurities(fset *token.FileSet, files []*ast.File) (complaints []string) {
	complain := func(n ast.Node, format string, args ...any) {
		complaints = append(complaints, fmt.Sprintf("%s: %s", fset.Position(n.Pos()), fmt.Sprintf(format, args...)))
	}
	// Types of this package suffice to know its maps; imports stay unresolved.
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	conf := types.Config{Error: func(error) {}, Importer: noImports{}}
	pkg, _ := conf.Check(files[0].Name.Name, fset, files, info)
	for _, file := range files {
		names := map[string]string{} // local name → path
		for _, i := range file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			name := path[strings.LastIndexByte(path, '/')+1:]
			if i.Name != nil {
				name = i.Name.Name
			}
			names[name] = path
			first, _, _ := strings.Cut(path, "/")
			if slices.Contains([]string{"os", "net", "sync", "log", "syscall", "unsafe", "runtime", "context"}, first) || path == "math/rand" || path == "math/rand/v2" || path == "crypto/rand" {
				complain(i, "import %q", path)
			}
		}
		for _, d := range file.Decls {
			function := ""
			if f, ok := d.(*ast.FuncDecl); ok {
				function = f.Name.Name
			}
			ast.Inspect(d, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					complain(n, "goroutine")
				case *ast.SelectStmt:
					complain(n, "select")
				case *ast.ChanType:
					complain(n, "channel")
				case *ast.CallExpr:
					sel, ok := n.Fun.(*ast.SelectorExpr)
					if !ok {
						break
					}
					x, ok := sel.X.(*ast.Ident)
					if !ok {
						break
					}
					switch call := names[x.Name] + "." + sel.Sel.Name; call {
					case "time.Now", "time.Since", "time.Until", "time.Sleep", "time.After", "time.AfterFunc", "time.NewTimer", "time.NewTicker", "time.Tick":
						complain(n, "call of %s", call)
					}
				case *ast.RangeStmt:
					where := pkg.Name() + "." + function
					if tv, ok := info.Types[n.X]; ok && tv.Type != nil && orderless[where] == "" {
						if _, ok := tv.Type.Underlying().(*types.Map); ok {
							complain(n, "range over a map in %s", where)
						}
					}
					if c, ok := n.X.(*ast.CallExpr); ok {
						if sel, ok := c.Fun.(*ast.SelectorExpr); ok {
							if x, ok := sel.X.(*ast.Ident); ok && names[x.Name] == "maps" {
								complain(n, "range over maps.%s", sel.Sel.Name)
							}
						}
					}
				}
				return true
			})
		}
	}
	return complaints
}

type noImports struct{}

func (noImports) Import(path string) (*types.Package, error) {
	return nil, errors.New("not resolved: " + path)
}
