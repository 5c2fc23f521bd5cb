package checker

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNamesAreListed: every clause and class that has a constant is in its list.
func TestNamesAreListed(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "checker.go", nil, 0)
	require.NoError(t, err)
	names := map[string][]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		lit, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		for _, kind := range []string{"Clause", "Class"} {
			if strings.HasPrefix(spec.Names[0].Name, kind) {
				value, err := strconv.Unquote(lit.Value)
				require.NoError(t, err)
				names[kind] = append(names[kind], value)
			}
		}
		return true
	})
	require.ElementsMatch(t, names["Class"], Classes())
	require.Subset(t, names["Clause"], Clauses())
	require.Greater(t, len(names["Class"]), 20)
	for _, c := range Clauses() {
		require.NotEmpty(t, ClauseDoc(c), c)
	}
}
