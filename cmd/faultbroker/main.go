// Command faultbroker is the reference broker's daemon: one node of a cluster.
// Events go to standard output, one JSON object per line; the log goes to
// standard error.
//
// Exit codes: 0 graceful stop, 1 the graceful stop took too long, 2 crash, 3 the
// node cannot trust its storage or its metadata, 4 it could not start, 64 wrong
// flags, 130 a second signal.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/faultline-mq/faultline/broker"
	"github.com/faultline-mq/faultline/broker/cluster"
	"github.com/faultline-mq/faultline/broker/driver"
)

const (
	exitUsage       = 64 // EX_USAGE of sysexits.h
	exitInterrupted = 130
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	cmd, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage())
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "faultbroker: %v; see faultbroker --help\n", err)
		return exitUsage
	case cmd.version:
		fmt.Fprintln(stdout, version())
		return 0
	case cmd.check != "":
		return check(cmd.check, stdout, stderr)
	}
	cmd.cfg.Stdout, cmd.cfg.Stderr = stdout, stderr
	cmd.cfg.Version = version()
	cmd.cfg.Terminate = terminate()
	code, err := driver.Run(context.Background(), cmd.cfg)
	if err != nil {
		fmt.Fprintf(stderr, "faultbroker: %v\n", err)
	}
	return code
}

// terminate returns what the first SIGTERM or SIGINT closes; the second ends the
// process at once. As process 1 of a container it has no default action for signals.
func terminate() <-chan struct{} {
	signals, stop := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		close(stop)
		<-signals
		os.Exit(exitInterrupted)
	}()
	return stop
}

// command is a parsed command line.
type command struct {
	cfg     driver.Config
	check   string
	version bool
}

// flags returns the flags, which fill cmd, and the list of members as it was given.
func flags(cmd *command) (fs *flag.FlagSet, members *string) {
	fs = flag.NewFlagSet("faultbroker", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	c := &cmd.cfg
	*c = driver.DefaultConfig()
	c.Set = map[string]string{}
	fs.Func("id", "`ID` of this node, from 1", func(s string) error {
		var id int32
		if _, err := fmt.Sscanf(s+"\n", "%d\n", &id); err != nil || id < 1 {
			return errors.New("a whole number from 1 is wanted")
		}
		c.ID = broker.NodeID(id)
		return nil
	})
	fs.StringVar(&c.Name, "name", "", "`NAME` of this node")
	fs.StringVar(&c.DataDir, "data", "", "`DIR` of the partition logs")
	fs.StringVar(&c.MetaDir, "meta-data", "", "`DIR` of the metadata log (default: that of --data)")
	fs.StringVar(&c.Shared, "shared", "", "`DIR` of the storage device that the nodes share, for schemes that keep their logs there")
	members = fs.String("cluster", "", "all nodes that there may be, the same `LIST` on every one, separated by commas: ID@NAME:HOST, or\nID@NAME:HOST/CLIENT/PEER/QUORUM where a node has ports of its own\n(1@n1:127.0.0.1/19092/19093/19094,2@n2:127.0.0.1/29092/29093/29094)")
	fs.Func("voters", "`IDS` of the nodes that the cluster begins with, separated by commas, the same on every\nnode (default: all of --cluster); others are added later", func(s string) error {
		for id := range strings.SplitSeq(s, ",") {
			n, err := strconv.ParseInt(strings.TrimSpace(id), 10, 32)
			if err != nil || n < 1 {
				return errors.New("whole numbers from 1 are wanted, separated by commas")
			}
			c.Voters = append(c.Voters, broker.NodeID(n))
		}
		return nil
	})
	fs.Func("directory", "make the empty metadata directory that of a new node, which waits until it is added to\nthe running cluster under this `NUMBER` (1 to below 2^48, never used before)", func(s string) error {
		n, err := strconv.ParseUint(s, 10, 48)
		if err != nil || n == 0 {
			return errors.New("a whole number from 1 to below 2^48 is wanted")
		}
		c.Directory = cluster.Directory(n)
		return nil
	})
	fs.IntVar(&c.ClientPort, "client-port", c.ClientPort, "`PORT` for Kafka clients")
	fs.IntVar(&c.PeerPort, "peer-port", c.PeerPort, "`PORT` for replication")
	fs.IntVar(&c.QuorumPort, "quorum-port", c.QuorumPort, "`PORT` for the metadata quorum")
	fs.IntVar(&c.AdminPort, "admin-port", c.AdminPort, "`PORT` for /readyz, /livez, /clock and /metrics")
	fs.StringVar(&c.Listen, "listen", "", "`ADDRESS` to listen on (default: all)")
	fs.StringVar(&c.Advertise, "advertise", "", "`HOST:PORT` that clients are told (default: as in --cluster)")
	fs.StringVar(&c.Clock, "clock", "", "`FILE` that makes this node's wall clock wrong as long as it is there, as a test of it: a JSON\nobject with since, offset, rate, by and period (nanoseconds; rate: seconds per second)")
	fs.StringVar(&c.Rack, "rack", "", "`NAME` of this node's rack")
	fs.StringVar(&c.Scheme, "scheme", c.Scheme, "replication `SCHEME` of topics that name none")
	fs.Func("set", "`NAME=VALUE` of an option; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return errors.New("NAME=VALUE is wanted")
		}
		if _, twice := c.Set[name]; twice {
			return errors.New("the option is set twice")
		}
		c.Set[name] = value
		return nil
	})
	fs.TextVar(&c.LogLevel, "log-level", slog.LevelInfo, "debug, info, warn or error: `LEVEL` of the log")
	fs.StringVar(&cmd.check, "check", "", "ask a running node at `URL` (http://127.0.0.1:9095/readyz) and exit with 0 if it answers 200, with 1 if not")
	fs.BoolVar(&cmd.version, "version", false, "print the version")
	return fs, members
}

func parse(args []string) (cmd command, err error) {
	fs, members := flags(&cmd)
	if err := fs.Parse(args); err != nil {
		return cmd, err
	}
	if fs.NArg() > 0 {
		return cmd, fmt.Errorf("unexpected argument %q: all arguments are flags", fs.Arg(0))
	}
	if cmd.version || cmd.check != "" {
		return cmd, nil
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for _, name := range []string{"id", "name", "data", "cluster"} {
		if !given[name] {
			return cmd, fmt.Errorf("--%s is missing", name)
		}
	}
	c := &cmd.cfg
	if c.Members, err = driver.ParseCluster(*members); err != nil {
		return cmd, fmt.Errorf("--cluster: %w", err)
	}
	for _, m := range c.Members {
		for _, p := range []struct {
			flag       string
			here, list int
		}{{"client-port", c.ClientPort, m.ClientPort}, {"peer-port", c.PeerPort, m.PeerPort}, {"quorum-port", c.QuorumPort, m.QuorumPort}} {
			if m.ID == c.ID && given[p.flag] && p.list != 0 && p.list != p.here {
				return cmd, fmt.Errorf("--%s is %d, but --cluster gives node %d port %d: leave the flag out, or make them equal", p.flag, p.here, m.ID, p.list)
			}
		}
	}
	return cmd, c.Validate()
}

func usage() string {
	var b strings.Builder
	b.WriteString("faultbroker runs one node of the reference broker.\n\n")
	fs, _ := flags(&command{})
	fs.SetOutput(&b)
	fs.PrintDefaults()
	return strings.ReplaceAll(b.String(), "\n  -", "\n  --")
}

// check asks a node's admin port; container images without a shell use it as
// their health check.
func check(url string, stdout, stderr io.Writer) int {
	client := http.Client{Timeout: 3 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		fmt.Fprintf(stderr, "faultbroker: %v\n", err)
		return 1
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil || resp.StatusCode != http.StatusOK {
		fmt.Fprintf(stderr, "faultbroker: %s: %s %s\n", url, resp.Status, strings.TrimSpace(string(body)))
		return 1
	}
	_, _ = stdout.Write(body)
	return 0
}

// stamp is the version, set by the linker where an image is built.
var stamp string

func version() string {
	v := "(devel)"
	if stamp != "" {
		v = stamp
	} else if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		v = info.Main.Version
	}
	return fmt.Sprintf("faultbroker %s %s %s/%s", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
