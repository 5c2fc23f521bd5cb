// Command tinyqd serves queues until it is told to stop.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/faultline-mq/faultline/harness/system/example/tinyq"
)

func main() {
	if err := run(); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "tinyqd:", err)
		os.Exit(1)
	}
}

func run() error {
	var cfg tinyq.Config
	listen := flag.String("listen", ":9092", "address to serve at")
	queues := flag.String("queues", "q0", "names of the queues, with commas between")
	flag.StringVar(&cfg.Dir, "data", "/data", "folder of the log")
	flag.DurationVar(&cfg.Idle, "idle", 0, "a session from which nothing was heard for so long is over (default 10s)")
	durability := flag.String("durability", string(tinyq.Synced), "what an answer means: synced, written or buffered")
	flag.Parse()
	cfg.Queues, cfg.Durability = strings.Split(*queues, ","), tinyq.Durability(*durability)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	s, err := tinyq.Open(cfg)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	return s.Serve(ctx, l)
}
