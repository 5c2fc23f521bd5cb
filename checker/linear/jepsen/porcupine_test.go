package jepsen

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/linear"
)

// porcupineData is the directory of Porcupine's own test data.
func porcupineData(t *testing.T) fs.FS {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/anishathalye/porcupine").Output()
	require.NoError(t, err)
	return os.DirFS(filepath.Join(strings.TrimSpace(string(out)), "test_data"))
}

// TestPorcupinesRegisters: the histories of Porcupine's tests have the verdicts that its
// tests ask for. They leave out number 95.
func TestPorcupinesRegisters(t *testing.T) {
	t.Parallel()
	linearizable := map[string]bool{}
	for _, n := range strings.Fields("002 005 007 018 025 031 038 045 048 049 051 053 056 067 075 076 080 087 092 098 100 101 102") {
		linearizable["jepsen/etcd_"+n+".log"] = true
	}
	data := porcupineData(t)
	files, err := fs.Glob(data, "jepsen/*.log")
	require.NoError(t, err)
	require.Len(t, files, 103)
	for _, name := range files {
		if name == "jepsen/etcd_095.log" {
			continue
		}
		f, err := data.Open(name)
		require.NoError(t, err)
		object, ops, err := ReadEtcdLog(f)
		require.NoError(t, err, name)
		require.NoError(t, f.Close())
		require.Equal(t, linear.CAS, object)
		r, err := linear.Decide(t.Context(), object, ops, time.Minute)
		require.NoError(t, err)
		want := linear.Illegal
		if linearizable[name] {
			want = linear.Legal
		}
		require.Equal(t, want, r.Verdict, "%s: %s", name, r.Reason)
		require.Equal(t, "Porcupine", r.Procedure)
	}
}

func TestPorcupinesTexts(t *testing.T) {
	t.Parallel()
	data := porcupineData(t)
	for name, want := range map[string]linear.Verdict{
		"c01-ok": linear.Legal, "c01-bad": linear.Illegal, "c10-ok": linear.Legal, "c10-bad": linear.Illegal, "c50-ok": linear.Legal, "c50-bad": linear.Illegal,
	} {
		f, err := data.Open("kv/" + name + ".txt")
		require.NoError(t, err)
		all, err := ReadKV(f)
		require.NoError(t, err, name)
		require.NoError(t, f.Close())
		require.NotEmpty(t, all, name)
		got := linear.Legal
		for _, texts := range all {
			limit := time.Minute
			if want == linear.Illegal {
				limit = time.Second // one key that is not linearizable is enough
			}
			r, err := linear.SearchText(t.Context(), texts.Ops, limit)
			require.NoError(t, err)
			if r.Verdict == linear.Illegal {
				got = r.Verdict // Porcupine goes no further either
				break
			}
			require.True(t, r.Verdict == linear.Legal || want == linear.Illegal, "%s, key %s: %s", name, texts.Key, r.Reason)
		}
		require.Equal(t, want, got, name)
	}
}

func TestEtcdLog(t *testing.T) {
	object, ops, err := ReadEtcdLog(strings.NewReader(`WARN something else
INFO  jepsen.util - :nemesis	:info	:start	nil
INFO  jepsen.util - 0	:invoke	:read	nil
INFO  jepsen.util - 1	:invoke	:write	4
INFO  jepsen.util - 0	:ok	:read	nil
INFO  jepsen.util - 2	:invoke	:cas	[4 5]
INFO  jepsen.util - 1	:info	:write	:timed-out
INFO  jepsen.util - 2	:fail	:cas	[4 5]
INFO  jepsen.util - 0	:invoke	:read	nil
INFO  jepsen.util - 0	:fail	:read	:timed-out
INFO  jepsen.util - 3	:invoke	:cas	[0 1]
`))
	require.NoError(t, err)
	require.Equal(t, linear.CAS, object)
	require.Equal(t, []linear.Op{
		{Kind: linear.Read, Value: linear.Unset, Call: 3, Return: 5},
		{Kind: linear.Write, Value: 4, Call: 4, Return: linear.Never},
		{Kind: linear.Refused, Offset: 4, Value: 5, Call: 6, Return: 8},
		{Kind: linear.Swap, Offset: 0, Value: 1, Call: 11, Return: linear.Never},
	}, ops)
	const line = "INFO  jepsen.util - 0 :invoke :write 4\n"
	for want, in := range map[string]string{
		"line 2: process 0 calls :write, and its :write of line 1 has not ended": line + line,
		"line 1: :ok ends :read of process 0, which called nothing":              "INFO  jepsen.util - 0 :ok :read 4",
		"line 2: its process is in :write since line 1, and this ends :read":     line + "INFO  jepsen.util - 0 :ok :read 4",
		"line 2: :done is none of":                                               line + "INFO  jepsen.util - 0 :done :write 4",
		"line 1: the value x is no integer from 0 on":                            "INFO  jepsen.util - 0 :invoke :write x",
		"line 1: the value -1 is no integer":                                     "INFO  jepsen.util - 0 :invoke :write -1",
		"line 1: the value 9223372036854775807 is no":                            "INFO  jepsen.util - 0 :invoke :write 9223372036854775807",
		"line 1: the value [4] of a :cas is no pair":                             "INFO  jepsen.util - 0 :invoke :cas [4]",
		"line 1: :push is no operation on a register":                            "INFO  jepsen.util - 0 :invoke :push 4",
		"line 2: the value y is no integer from 0 on":                            "INFO  jepsen.util - 0 :invoke :read nil\nINFO  jepsen.util - 0 :ok :read y",
		"reading line 1 of a log: bufio.Scanner: token":                          strings.Repeat("x", 2<<20),
	} {
		_, _, err := ReadEtcdLog(strings.NewReader(in))
		require.ErrorContains(t, err, want)
	}
}

func TestKV(t *testing.T) {
	all, err := ReadKV(strings.NewReader(`{:process 0, :type :invoke, :f :get, :key "3", :value nil}
{:process 1, :type :invoke, :f :put, :key "2", :value "a"} {:process 0, :type :ok, :f :get, :key "3", :value ""}
{:process 0, :type :invoke, :f :append, :key "3", :value "b"} {:process 1, :type :info, :f :put, :key "2", :value "a"}
{:process 4, :type :invoke, :f :append, :key "3", :value "c"} {:process 4, :type :fail, :f :append, :key "3", :value "c"}`))
	require.NoError(t, err)
	require.Equal(t, []Texts{
		{"2", []linear.TextOp{{Call: 2, Return: linear.Never, Kind: linear.Put, Text: "a"}}},
		{"3", []linear.TextOp{{Call: 1, Return: 3, Kind: linear.Look}, {Call: 4, Return: linear.Never, Kind: linear.Concat, Text: "b"}}},
	}, all)
	const put = `{:process 0, :type :invoke, :f :put, :key "3", :value "a"} `
	for want, in := range map[string]string{
		"line 1 is no map of a key-value history":                            `hello`,
		"line 1: a map needs :process and :key":                              `{:type :invoke, :f :put, :key "3", :value "a"}`,
		"line 1: :swap is no operation on a text":                            `{:process 0, :type :invoke, :f :swap, :key "3", :value "a"}`,
		"line 1: the value 4 of a :put is no text":                           `{:process 0, :type :invoke, :f :put, :key "3", :value 4}`,
		"line 2: process 0 calls :put, and its :put of line 1 has not ended": put + put,
		"line 1: :ok ends :put of process 0, which called nothing":           `{:process 0, :type :ok, :f :put, :key "3", :value "a"}`,
		`line 2: its process is in :put of key "3" since line 1`:             put + `{:process 0, :type :ok, :f :put, :key "4", :value "a"}`,
		"line 2: the value 7 that a :get saw is no text":                     `{:process 0, :type :invoke, :f :get, :key "3", :value nil} {:process 0, :type :ok, :f :get, :key "3", :value 7}`,
		"line 2: :type :done is none of":                                     put + `{:process 0, :type :done, :f :put, :key "3", :value "a"}`,
	} {
		_, err := ReadKV(strings.NewReader(in))
		require.ErrorContains(t, err, want)
	}
}

func FuzzEtcdLog(f *testing.F) {
	f.Add("INFO  jepsen.util - 0 :invoke :cas [1 2]\nINFO  jepsen.util - 0 :fail :cas [1 2]\nINFO  jepsen.util - 0 :invoke :read nil\nINFO  jepsen.util - 0 :ok :read 4")
	f.Fuzz(func(t *testing.T, text string) {
		object, ops, err := ReadEtcdLog(strings.NewReader(text))
		if err == nil {
			_, err = linear.Exact(object, ops)
			require.NoError(t, err, "what was read is a history")
		}
	})
}

func FuzzKV(f *testing.F) {
	f.Add(`{:process 0, :type :invoke, :f :get, :key "3", :value nil} {:process 0, :type :ok, :f :get, :key "3", :value "a"}`)
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ReadKV(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, k := range all {
			for _, o := range k.Ops {
				require.Less(t, o.Call, o.Return)
			}
		}
	})
}
