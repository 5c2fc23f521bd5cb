package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/environment/sim"
)

// TestImportOfExports: what a run exported is judged alike as JSON lines, and in
// Jepsen's EDN, which lacks the drain, never worse.
func TestImportOfExports(t *testing.T) {
	plainly(t)
	t.Parallel()
	for _, acks := range []string{"all", "1"} {
		first := stored(t, acks, sim.NoSabotage).Summary
		dir := t.TempDir()
		export := func(format string) string {
			a := ask(t, nil, "export", "--format", format, first.Dir)
			require.Equal(t, 0, a.code, a.stderr)
			name := filepath.Join(dir, format)
			require.NoError(t, os.WriteFile(name, []byte(a.stdout), 0o644))
			return name
		}
		out := filepath.Join(dir, "from-jsonl")
		a := ask(t, nil, "import", export("jsonl"), "--out", out)
		require.Equal(t, 0, a.code, a.stderr)
		require.Contains(t, a.stdout, "faultline check "+out+" judges them")
		again := ask(t, nil, "check", "--json", out).summary(t)
		require.Equal(t, first.Verdict, again.Verdict)
		require.Equal(t, first.Sentence, again.Sentence)

		out = filepath.Join(dir, "from-edn")
		a = ask(t, nil, "import", export("edn"), "--out", out)
		require.Equal(t, 0, a.code, a.stderr)
		again = ask(t, nil, "check", "--json", out).summary(t)
		if first.Verdict == checker.Valid {
			require.Equal(t, checker.Unknown, again.Verdict, again.Sentence)
		}
		require.Equal(t, first.Ops.Acknowledged, again.Ops.Acknowledged)
		ask(t, nil, "check", out, "--json")
		require.FileExists(t, filepath.Join(out, "index.html"))

		// The logs themselves are linearizable where nothing was lost, from disk as from EDN.
		if first.Verdict == checker.Valid {
			for _, file := range []string{first.Dir, filepath.Join(dir, "edn")} {
				a = ask(t, nil, "linearizable", file)
				require.Equal(t, 0, a.code, a.stdout+a.stderr)
				require.Contains(t, a.stdout, "log with gaps ")
			}
		}
	}
}

func TestImportFindsWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
		return name
	}
	kafka := write("kafka", `{:type :invoke, :f :send, :value [[:send 0 1]], :process 0} {:type :ok, :f :send, :value [[:send 0 [0 1]]], :process 0}
{:type :invoke, :f :send, :value [[:send 0 2]], :process 0} {:type :ok, :f :send, :value [[:send 0 [1 2]]], :process 0}
{:type :invoke, :f :poll, :value [[:poll]], :process 1} {:type :ok, :f :poll, :value [[:poll {0 [[0 1] [1 2]]}]], :process 1}
{:type :invoke, :f :poll, :value [[:poll]], :process 1} {:type :ok, :f :poll, :value [[:poll {0 [[0 1]]}]], :process 1}`)
	out := filepath.Join(dir, "one")
	require.Equal(t, 0, ask(t, nil, "import", kafka, "--out", out).code)
	a := ask(t, nil, "check", out)
	require.Equal(t, 1, a.code, a.stdout+a.stderr)
	require.Contains(t, a.stdout, "non-monotonic")

	out = filepath.Join(dir, "two")
	require.Equal(t, 0, ask(t, nil, "import", kafka, "--out", out, "--promise", "acknowledged,order").code)
	a = ask(t, nil, "check", out)
	require.Equal(t, 2, a.code, a.stdout+a.stderr)

	queue := write("queue", `{:type :invoke, :f :enqueue, :value 1, :process 0} {:type :ok, :f :enqueue, :value 1, :process 0}
{:type :invoke, :f :dequeue, :process 0} {:type :ok, :f :dequeue, :value 1, :process 0} {:type :invoke, :f :dequeue, :process 0} {:type :ok, :f :dequeue, :value 1, :process 0}`)
	out = filepath.Join(dir, "three")
	require.Equal(t, 0, ask(t, nil, "import", queue, "--out", out).code)
	a = ask(t, nil, "linearizable", out)
	require.Equal(t, 1, a.code, a.stdout+a.stderr)
	require.Contains(t, a.stdout, "FIFO queue queue: not linearizable (3 operations, exact FIFO queue procedure, streamed)\n  duplicate: ")

	for _, c := range []struct {
		name  string
		args  []string
		texts []string
	}{
		{"no directory", []string{kafka}, []string{"--out DIR is missing"}},
		{"taken", []string{kafka, "--out", out}, []string{"exists", "--out"}},
		{"nowhere", []string{kafka, "--out", filepath.Join(dir, "no", "where")}, []string{"choose another directory with --out"}},
		{"format", []string{kafka, "--out", filepath.Join(dir, "x"), "--format", "csv"}, []string{"of the format csv", "jepsen-kafka, jepsen-queue, jsonl"}},
		{"a history", []string{filepath.Join(out, history.FileName), "--out", filepath.Join(dir, "x")}, []string{"of the format history"}},
		{"promise", []string{kafka, "--out", filepath.Join(dir, "x"), "--promise", "all"}, []string{`unknown promise "all"`, "truthful-empty"}},
		{"no history", []string{write("odd", "odd"), "--out", filepath.Join(dir, "x")}, []string{"is not told by its content"}},
		{"damaged", []string{write("cut", `{"header":{"version":2}}`), "--out", filepath.Join(dir, "x")}, []string{"cut: line 2", "export it again"}},
		{"nothing there", []string{filepath.Join(dir, "none"), "--out", filepath.Join(dir, "x")}, []string{"no such file"}},
		{"impossible", []string{write("impossible", strings.Join([]string{
			`{"header":{"version":2,"keys":["q"],"clients":[{"name":"a"}]}}`,
			`{"op":{"id":0,"kind":"send","client":0,"process":0,"key":0,"node":-1,"call":5,"return":1,"outcome":"ok","value":"0:1","offset":0,"epoch":-1}}`,
			`{"end":{"closed":true,"ops":1}}`,
		}, "\n")), "--out", filepath.Join(dir, "x")}, []string{"operation 0 returned at 1, before it was called at 5"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ask(t, nil, append([]string{"import"}, c.args...)...)
			a.requireRefused(t, 254, c.texts...)
			require.NoDirExists(t, filepath.Join(dir, "x"))
		})
	}
}
