// Faultline tests message brokers under faults: it runs a cluster, drives
// clients, injects faults and proves them, and decides from the recorded history
// whether what was acknowledged survived.
//
// Exit codes: 0 valid, 1 invalid, 2 unknown or inconclusive, 254 bad arguments,
// 255 harness error.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/harness"
)

const (
	exitBadArguments = 254
	exitHarness      = 255
)

// exitError carries an exit code past cobra; its text was printed already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use:           "faultline",
		Short:         "fault injection for message brokers, with verdicts",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return badArguments(fmt.Errorf("%w; %s --help lists the flags", err, c.CommandPath()))
	})
	root.AddCommand(runCommand(), checkCommand(), replayCommand(), reportCommand(), huntCommand(), shrinkCommand(), mutantsCommand(), matrixCommand(), compareCommand(), listCommand(), explainCommand(), exportCommand(), importCommand(), linearizableCommand(),
		imagesCommand(), cleanCommand(), doctorCommand(), verifyCommand(), versionCommand(), workerCommand())
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, harness.ErrBadPlan):
		complain(strings.TrimPrefix(err.Error(), harness.ErrBadPlan.Error()+": "))
		return exitBadArguments
	}
	complain(err.Error())
	return exitHarness
}

// complain prints an error as one line: joined errors come in several.
func complain(text string) {
	fmt.Fprintln(os.Stderr, "faultline:", strings.ReplaceAll(strings.TrimSpace(text), "\n", "; "))
}

func badArguments(err error) error { return fmt.Errorf("%w: %w", harness.ErrBadPlan, err) }

func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			names = append(names, sub.Name())
		}
	}
	return badArguments(fmt.Errorf("unknown command %q; known commands: %s", args[0], strings.Join(names, ", ")))
}

// exactly wants n arguments, named in usage.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return badArguments(fmt.Errorf("usage: %s", c.UseLine()))
		}
		return nil
	}
}
