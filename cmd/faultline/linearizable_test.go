package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLinearizable(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "history.edn")
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
		return name
	}
	legal := file(`{:type :invoke, :f :enqueue, :value 1, :process 0, :time 1}
{:type :ok, :f :enqueue, :value 1, :process 0, :time 2}
{:type :info, :f :start, :value nil, :process :nemesis, :time 2}
{:type :invoke, :f :dequeue, :value nil, :process 1, :time 3}
{:type :ok, :f :dequeue, :value 1, :process 1, :time 4}`)
	a := ask(t, nil, "linearizable", "--object", "queue", legal)
	require.Equal(t, 0, a.code, a.stderr)
	require.Equal(t, "FIFO queue: linearizable (2 operations, exact FIFO queue procedure)\n", a.stdout)

	broken := file(`[{:type :invoke, :f :write, :value [7 3], :process 0} {:type :ok, :f :write, :value [7 3], :process 0}
 {:type :invoke, :f :read, :value [7 nil], :process 0} {:type :ok, :f :read, :value [7 nil], :process 0}
 {:type :invoke, :f :read, :value [8 nil], :process 0} {:type :ok, :f :read, :value [8 nil], :process 0}]`)
	a = ask(t, nil, "linearizable", "--object", "register", broken)
	require.Equal(t, 1, a.code, a.stderr)
	require.Equal(t, `register 7: not linearizable (2 operations, exact register procedure)
  cycle: nothing had been written at the beginning before write(3) was called, and write(3) had returned before read(nothing) was called
    [0, 1] write(3)
    [2, 3] read(nothing)
register 8: linearizable (1 operations, exact register procedure)
`, a.stdout)
	a = ask(t, nil, "linearizable", "--object", "register", "--json", broken)
	require.Equal(t, 1, a.code, a.stderr)
	var all []map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.stdout), &all))
	require.Len(t, all, 2)
	require.Equal(t, "cycle", all[0]["rule"])
	require.Equal(t, "write", all[0]["witness"].([]any)[0].(map[string]any)["kind"])

	a = ask(t, nil, "linearizable", "--object", "log", file(""))
	require.Equal(t, 0, a.code, a.stderr)
	require.Contains(t, a.stdout, "no operation on a log")
	for _, c := range []struct{ text, object, file string }{
		{`unknown object "": --object takes log, log-with-gaps, queue, register`, "", legal},
		{`unknown object "stack"`, "stack", legal},
		{"no such file", "queue", filepath.Join(t.TempDir(), "none")},
		{"line 2: :enqueue is no operation on a register", "register", legal},
		{"line 1 is no map of a Jepsen history", "queue", file("hello")},
		{"is no vector of a Jepsen history's maps", "queue", file("[{:type")},
	} {
		a = ask(t, nil, "linearizable", "--object", c.object, c.file)
		a.requireRefused(t, 254, c.text)
	}
}
