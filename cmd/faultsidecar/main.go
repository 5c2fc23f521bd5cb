// Command faultsidecar is the agent that owns a node's network namespace. The
// harness starts it and speaks to it over its standard streams; it is not
// meant to be run by hand.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

func main() { os.Exit(run()) }

func run() int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if args := os.Args[1:]; len(args) > 1 {
		var err error
		switch {
		case args[0] == sidecar.ProbeCommand:
			err = sidecar.Probe(os.Stdout, args[1], args[2:]...)
		case args[0] == sidecar.PressCommand && len(args) > 2:
			err = sidecar.Press(args[1], args[2], args[3:]...)
		default:
			err = fmt.Errorf("unknown arguments %q: the harness alone starts it", args)
		}
		if err != nil {
			log.Error("faultsidecar", "error", err)
			return 1
		}
		return 0
	}
	// As process 1 of its container it has no default action for signals.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	agent, err := sidecar.NewAgent(sidecar.Sabotage(os.Getenv(sidecar.SabotageEnv)), log)
	if err != nil {
		log.Error("faultsidecar", "error", err)
		return 2
	}
	if err := agent.Serve(ctx, os.Stdin, os.Stdout); err != nil {
		log.Error("faultsidecar", "error", err)
		return 1
	}
	return 0
}
