package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/driver"
)

func args(more ...string) []string {
	return append([]string{"--id", "2", "--name", "n2", "--data", "/data", "--cluster", "1@n1:h1,2@n2:h2/1/2/3,3@n3:h3"}, more...)
}

func TestParse(t *testing.T) {
	cmd, err := parse(args("--meta-data", "/meta", "--admin-port", "4", "--listen", "127.0.0.1", "--advertise", "h:9", "--rack", "r", "--scheme", "single", "--set", "fsync=never", "--set", "partitions=8", "--log-level", "debug"))
	require.NoError(t, err)
	c := cmd.cfg
	require.EqualValues(t, 2, c.ID)
	require.Equal(t, []string{"n2", "/data", "/meta", "127.0.0.1", "h:9", "r", "single"}, []string{c.Name, c.DataDir, c.MetaDir, c.Listen, c.Advertise, c.Rack, c.Scheme})
	require.Equal(t, [4]int{9092, 9093, 9094, 4}, [4]int{c.ClientPort, c.PeerPort, c.QuorumPort, c.AdminPort})
	require.Equal(t, map[string]string{"fsync": "never", "partitions": "8"}, c.Set)
	require.Equal(t, slog.LevelDebug, c.LogLevel)
	require.Equal(t, driver.Member{ID: 2, Name: "n2", Host: "h2", ClientPort: 1, PeerPort: 2, QuorumPort: 3}, c.Members[1])
}

func TestBadFlags(t *testing.T) {
	for want, a := range map[string][]string{
		"--id is missing":                     {},
		"--cluster is missing":                {"--id", "1", "--name", "n1", "--data", "d"},
		"from 1 is wanted":                    args("--id", "0"),
		"flag provided but not defined":       args("--bogus"),
		"unexpected argument":                 args("more"),
		"not in the cluster list":             args("--id", "9"),
		"separated by commas":                 args("--voters", "1,x"),
		"of the first voters is not a member": args("--voters", "1,7"),
		"below 2^48 is wanted":                args("--directory", "0"),
		"unknown option":                      args("--set", "fsyncc=never"),
		"NAME=VALUE is wanted":                args("--set", "fsync"),
		"set twice":                           args("--set", "fsync=never", "--set", "fsync=always"),
		"unknown scheme":                      args("--scheme", "x"),
		"leave the flag out, or make them eq": args("--peer-port", "7"),
		"log-level":                           args("--log-level", "loud"),
		"admin port 0":                        args("--admin-port", "0"),
	} {
		var out, errs bytes.Buffer
		require.Equal(t, exitUsage, run(a, &out, &errs), want)
		require.Contains(t, errs.String(), want)
		require.Equal(t, 1, strings.Count(errs.String(), "\n"), "one line: %s", errs.String())
		require.Empty(t, out.String())
	}
}

func TestHelpAndVersion(t *testing.T) {
	var out, errs bytes.Buffer
	require.Zero(t, run([]string{"--help"}, &out, &errs))
	for _, name := range []string{
		"id", "name", "data", "meta-data", "shared", "cluster", "voters", "directory", "client-port", "peer-port", "quorum-port", "admin-port", "listen", "advertise", "rack", "scheme", "set", "log-level", "check", "version",
	} {
		require.Regexp(t, `(?m)^  --`+name+`( |$)`, out.String())
	}
	out.Reset()
	require.Zero(t, run([]string{"--version"}, &out, &errs))
	require.Contains(t, out.String(), "faultbroker ")
	require.Empty(t, errs.String())
}

func TestCheck(t *testing.T) {
	ready := false
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write([]byte("detail\n"))
	}))
	defer s.Close()
	var out, errs bytes.Buffer
	require.Equal(t, 1, run([]string{"--check", s.URL}, &out, &errs))
	require.Contains(t, errs.String(), "503 Service Unavailable detail")
	ready = true
	require.Zero(t, run([]string{"--check", s.URL}, &out, &errs))
	require.Equal(t, "detail\n", out.String())
	s.Close()
	require.Equal(t, 1, run([]string{"--check", s.URL}, &out, &errs))
}
