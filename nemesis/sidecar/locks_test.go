//go:build linux

package sidecar

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLocks(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join("logs", "t-0.1", "lock")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "logs", "t-0.1"), 0o755))
	write := func(name string) { require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644)) }
	write(name)
	write(filepath.Join("logs", "t-0.1", "holder"))
	do := func(l locks, req LocksRequest) (map[string]string, error) {
		var resp LocksResponse
		err := l.do(req, &resp)
		return resp.Files, err
	}
	l := locks{dir: dir}
	before, err := do(l, LocksRequest{})
	require.NoError(t, err)
	require.Len(t, before, 1)
	require.NotEmpty(t, before[name])

	same, err := do(locks{dir: dir, stubbed: true}, LocksRequest{Remove: name})
	require.NoError(t, err)
	require.Equal(t, before, same)

	replaced, err := do(l, LocksRequest{Remove: name, Replace: true})
	require.NoError(t, err)
	require.Len(t, replaced, 1)
	require.NotEqual(t, before[name], replaced[name])

	gone, err := do(l, LocksRequest{Remove: name})
	require.NoError(t, err)
	require.Empty(t, gone)
	_, err = do(l, LocksRequest{Remove: name})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = do(l, LocksRequest{Remove: "logs/t-0.1/holder"})
	require.ErrorContains(t, err, "no lock file")
	_, err = do(locks{dir: filepath.Join(dir, "none")}, LocksRequest{})
	require.ErrorContains(t, err, "shares no device")
}
