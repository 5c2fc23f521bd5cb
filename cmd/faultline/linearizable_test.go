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
	require.Contains(t, a.stdout, "no operation on such an object")
	for _, c := range []struct{ text, object, file string }{
		{`unknown object "stack": --object takes log, log-with-gaps, queue, register`, "stack", legal},
		{"is not told by its content: --format takes history, jepsen-kafka", "", file("hello")},
		{"is of the format jsonl; known are history", "", file(`{"header":{}}`)},
		{"no such file", "queue", filepath.Join(t.TempDir(), "none")},
		{"line 2: :enqueue is no operation on a register", "register", legal},
		{"line 1 is no map of a Jepsen history", "queue", file("hello")},
		{"is no vector of a Jepsen history's maps", "queue", file("[{:type")},
	} {
		a = ask(t, nil, "linearizable", "--object", c.object, c.file)
		a.requireRefused(t, 254, c.text)
	}
}

// TestLinearizableFormats: what a file holds is told from its content.
func TestLinearizableFormats(t *testing.T) {
	for _, c := range []struct {
		name, text string
		code       int
		says       string
	}{
		{"queue", `{:type :invoke, :f :dequeue, :process 0} {:type :ok, :f :dequeue, :value 3, :process 0}`, 1, "FIFO queue: not linearizable (1 operations, exact FIFO queue procedure)"},
		{"kafka", `{:type :invoke, :f :send, :value [[:send 0 17]], :process 1} {:type :ok, :f :send, :value [[:send 0 [4 17]]], :process 1}`, 0, "log with gaps 0: linearizable"},
		{"register", `{:type :invoke, :f :write, :value 3, :process 0}`, 0, "register: linearizable"},
		{"register with compare-and-set", `{:type :invoke, :f :cas, :value [3 4], :process 0} {:type :ok, :f :cas, :value [3 4], :process 0}`, 1, "register with compare-and-set: not linearizable (1 operations, Porcupine)"},
		{"of several keys", `{:type :invoke, :f :cas, :value [7 [3 4]], :process 0}`, 0, "register with compare-and-set 7: linearizable"},
		{"etcd", "INFO  jepsen.util - 0 :invoke :read nil\nINFO  jepsen.util - 0 :ok :read 4", 1, "register: not linearizable (1 operations, exact register procedure)"},
		{"texts", `{:process 0, :type :invoke, :f :get, :key "3", :value nil} {:process 0, :type :ok, :f :get, :key "3", :value ""}`, 0, "text 3: linearizable (1 operations, Porcupine)"},
	} {
		name := filepath.Join(t.TempDir(), "history")
		require.NoError(t, os.WriteFile(name, []byte(c.text), 0o644))
		a := ask(t, nil, "linearizable", name)
		require.Equal(t, c.code, a.code, c.name+": "+a.stderr)
		require.Contains(t, a.stdout, c.says, c.name)
	}
}
