package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/faultline-mq/faultline/harness"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/report"
	"github.com/faultline-mq/faultline/nemesis"
)

// planFlags are the flags that make a plan.
type planFlags struct {
	plan     harness.Plan
	faults   string
	file     string
	set      []string
	scenario string
	weakened bool
}

func (f *planFlags) add(c *cobra.Command) {
	d := harness.DefaultPlan()
	f.plan = d
	fl := c.Flags()
	fl.StringVar(&f.plan.System, "system", d.System, "system under test (faultline list systems)")
	fl.StringVar(&f.plan.Scheme, "scheme", d.Scheme, "replication scheme (faultline list schemes); of another system: its first")
	fl.StringVar(&f.plan.Workload, "workload", d.Workload, "what clients do (faultline list workloads); of another system: its first")
	fl.StringVar(&f.faults, "faults", strings.Join(d.Faults, ","), "faults, with a shape after a colon: partition:one-way-in,kill; none (faultline list faults)")
	fl.StringVar(&f.plan.Schedule, "schedule", "", "random, or periodic: faults begin exactly an interval apart and last as long as they must (default random)")
	fl.DurationVar(&f.plan.Interval, "interval", 0, "from one fault to the next (default: as many as fit)")
	fl.StringVar(&f.plan.Targets, "targets", "", "one, minority, majority, all, leader, follower, followers, controller or NAME,… (default: drawn)")
	fl.StringVar(&f.plan.Environment, "env", d.Environment, "docker, sim, or auto (docker where there is one); external comes with --addresses")
	fl.IntVar(&f.plan.Nodes, "nodes", d.Nodes, "nodes of the cluster")
	fl.IntVar(&f.plan.Clients, "clients", d.Clients, "producers; pollers come with them")
	fl.IntVar(&f.plan.Consumers, "consumers", 0, "consumers of workload queue; below 0: none (default: as many as producers)")
	fl.DurationVar(&f.plan.Pause, "pause", 0, "of such a consumer after each message; below 0: none (default: changes now and then)")
	fl.DurationVar(&f.plan.Time, "time", d.Time, "baseline, faults and recovery together")
	fl.Float64Var(&f.plan.Rate, "rate", d.Rate, "sends per second over all producers; 0 = closed loop")
	fl.IntVar(&f.plan.Size, "size", d.Size, "bytes of a payload")
	fl.Uint64Var(&f.plan.Seed, "seed", d.Seed, "derives every choice")
	fl.StringVar(&f.plan.Expect, "expect", d.Expect, "survive: acknowledged messages must survive whatever was configured; declared: only what the configuration promises")
	fl.BoolVar(&f.plan.StopOnViolation, "stop-on-violation", false, "end the faults at the first violation that is found while the run goes on; recovery, drain and the final check follow")
	fl.StringVar(&f.plan.Upgrade, "upgrade-to", "", "image that the fault upgrade goes to (default: this source's, with another version stamp)")
	fl.StringVar(&f.plan.Image, "image", "", "image of the nodes in docker (default: the system's own)")
	fl.StringSliceVar(&f.plan.Addresses, "addresses", nil, "HOST:PORT,… of every node of a cluster that is there: workloads and checks only, no faults but exec")
	fl.StringVar(&f.plan.Client, "client", "", "kind of client: precise, or one that the system has beside it, as kgo (default precise)")
	fl.StringVar(&f.plan.Exec.Inject, "exec-inject", "", "command of your own that injects the fault exec; run with sh -c, told FAULTLINE_TARGETS and more (docs/running.md)")
	fl.StringVar(&f.plan.Exec.Prove, "exec-prove", "", "command that exits with 0 where the effect is there, and with 1 to 125 where it is not")
	fl.StringVar(&f.plan.Exec.Heal, "exec-heal", "", "command that heals it; it always runs")
	fl.DurationVar(&f.plan.Exec.Limit, "exec-limit", 0, "how long each of these commands may take (default "+nemesis.DefaultCommandLimit.String()+")")
	fl.StringArrayVar(&f.set, "set", nil, "option NAME=VALUE, repeatable (faultline list options)")
	fl.StringVar(&f.file, "plan", "", "plan file (YAML); flags that are given override it")
}

// base returns the plan that flags override, and whether there is one.
func (f *planFlags) base(c *cobra.Command) (p harness.Plan, ok bool, err error) {
	switch {
	case f.scenario != "" && f.file != "":
		return p, false, badArguments(errors.New("--scenario and --plan exclude each other"))
	case f.scenario != "":
		for _, name := range []string{"faults", "schedule", "interval", "targets", "nodes", "time"} {
			if c.Flags().Changed(name) {
				return p, false, badArguments(fmt.Errorf("--%s: a scenario has its own; run its stored plan.yaml with --plan to change it", name))
			}
		}
		p, err = harness.LookupScenario(f.scenario, f.weakened)
		return p, true, err
	case f.weakened:
		return p, false, badArguments(errors.New("--weakened: say which --scenario"))
	case f.file != "":
		p, err = harness.ReadPlan(f.file)
		return p, true, err
	}
	return p, false, nil
}

// resolve returns the plan that the flags make.
func (f *planFlags) resolve(c *cobra.Command) (harness.Plan, error) {
	p := f.plan
	base, ok, err := f.base(c)
	if err != nil {
		return p, err
	}
	if ok {
		given := p
		p = base
		// The faults that a plan names are drawn again; where it names none its steps are all.
		redraw := func() {
			if len(p.Faults) > 0 {
				p.Steps = nil
			}
		}
		for name, take := range map[string]func(){
			"system": func() { p.System = given.System }, "scheme": func() { p.Scheme = given.Scheme }, "workload": func() { p.Workload = given.Workload },
			"schedule": func() { p.Schedule = given.Schedule; redraw() }, "interval": func() { p.Interval = given.Interval; redraw() },
			"targets": func() { p.Targets = given.Targets; redraw() }, "env": func() { p.Environment = given.Environment },
			"nodes": func() { p.Nodes = given.Nodes; redraw() }, "clients": func() { p.Clients = given.Clients },
			"time": func() { p.Time, p.Phases = given.Time, harness.Phases{}; redraw() }, "rate": func() { p.Rate = given.Rate },
			"size": func() { p.Size = given.Size }, "seed": func() { p.Seed = given.Seed; redraw() }, "expect": func() { p.Expect = given.Expect }, "upgrade-to": func() { p.Upgrade = given.Upgrade },
			"consumers": func() { p.Consumers = given.Consumers }, "pause": func() { p.Pause = given.Pause },
			"image":             func() { p.Image = given.Image },
			"client":            func() { p.Client = given.Client },
			"addresses":         func() { p.Addresses = given.Addresses; redraw() },
			"exec-inject":       func() { p.Exec.Inject = given.Exec.Inject; redraw() },
			"exec-prove":        func() { p.Exec.Prove = given.Exec.Prove; redraw() },
			"exec-heal":         func() { p.Exec.Heal = given.Exec.Heal; redraw() },
			"exec-limit":        func() { p.Exec.Limit = given.Exec.Limit; redraw() },
			"stop-on-violation": func() { p.StopOnViolation = given.StopOnViolation },
		} {
			if c.Flags().Changed(name) {
				take()
			}
		}
	}
	if d := harness.DefaultPlan(); p.System != d.System && (!ok || c.Flags().Changed("system")) {
		// The defaults are of another system; its own stand for what is empty.
		if !c.Flags().Changed("scheme") {
			p.Scheme = ""
		}
		if !c.Flags().Changed("workload") {
			p.Workload = ""
		}
	}
	if err := f.reach(c, &p); err != nil {
		return p, err
	}
	switch {
	case c.Flags().Changed("faults"):
		p.Steps, p.Faults = nil, nil
		if f.faults != "" && f.faults != "none" {
			p.Faults = strings.Split(f.faults, ",")
		}
	case !ok:
		p.Faults = p.DefaultFaults()
	}
	if p.Options == nil {
		p.Options = map[string]string{}
	}
	for _, s := range f.set {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return p, badArguments(fmt.Errorf("--set %s: NAME=VALUE is wanted", s))
		}
		p.Options[name] = value
	}
	return p, nil
}

// reach settles where the nodes of a plan with addresses are, and how many.
func (f *planFlags) reach(c *cobra.Command, p *harness.Plan) error {
	if len(p.Addresses) == 0 {
		return nil
	}
	if !c.Flags().Changed("env") {
		p.Environment = "external"
	}
	if c.Flags().Changed("nodes") && p.Nodes != len(p.Addresses) {
		return badArguments(fmt.Errorf("--nodes %d, and %d addresses: leave --nodes out", p.Nodes, len(p.Addresses)))
	}
	return nil
}

// place settles --env auto: docker where an engine answers, else the simulator,
// and why.
func place(ctx context.Context, env string) (string, string) {
	if env != "auto" {
		return env, ""
	}
	if _, err := docker.HaveImage(ctx); errors.Is(err, docker.ErrUnavailable) {
		return "sim", err.Error()
	}
	return "docker", ""
}

type runFlags struct {
	planFlags
	out   string
	keep  bool
	json  bool
	quiet bool
	debug bool
	// history, where set, is the digest that the run's history must have: a replay's.
	history string
	command string // that runs this again, where it is not the plan's own
}

func (f *runFlags) addOutput(c *cobra.Command) {
	c.Flags().StringVar(&f.out, "out", "results", "where results are stored")
	c.Flags().BoolVar(&f.keep, "keep", false, "leave a failed cluster up (docker); faultline clean --kept removes it")
	c.Flags().BoolVar(&f.json, "json", false, "print summary.json instead of the verdict")
	c.Flags().BoolVar(&f.quiet, "quiet", false, "print nothing but errors")
	c.Flags().BoolVar(&f.debug, "debug", false, "log what the harness does")
}

func runCommand() *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use:   "run",
		Short: "run one plan and judge it",
		Args:  exactly(0),
	}
	f.add(c)
	f.addOutput(c)
	c.Flags().StringVar(&f.scenario, "scenario", "", "a schedule of several steps by name (faultline list scenarios)")
	c.Flags().BoolVar(&f.weakened, "weakened", false, "without the protection that the scenario tests: it is to end invalid")
	c.RunE = func(c *cobra.Command, _ []string) error {
		p, err := f.resolve(c)
		if err != nil {
			return err
		}
		if f.file != "" { // flags alone cannot say its steps
			f.command = again(c, "out", "keep", "json", "quiet", "debug")
		}
		return f.run(c.Context(), p)
	}
	return c
}

func replayCommand() *cobra.Command {
	f := &runFlags{}
	force := false
	c := &cobra.Command{
		Use:   "replay RESULT",
		Short: "run a stored result's plan, seed and schedule again",
		Long: `Runs the plan that a result directory holds again: the same seed, the same steps
at the same times. In the simulator the same version gives the same history. In
docker the steps are the same and the timing of everything else is not. A simulated
result that another version made is refused: there the same seed is another history.`,
		Args: exactly(1),
	}
	f.addOutput(c)
	c.Flags().BoolVar(&force, "force", false, "run the plan of another version's result all the same")
	c.RunE = func(c *cobra.Command, args []string) error {
		stored, err := harness.OpenStored(args[0])
		if err != nil {
			return err
		}
		if !force {
			if err := stored.Replayable(); err != nil {
				return err
			}
		}
		p := stored.Plan
		if p.Environment != "sim" && !f.quiet && !f.json {
			fmt.Fprintln(os.Stderr, "replaying the recorded steps; timing outside the simulator is not deterministic")
		}
		if stored.Version == harness.Version() {
			f.history = stored.Digest
		}
		f.command = "faultline replay " + report.ShellQuote(args[0])
		return f.run(c.Context(), p)
	}
	return c
}

// run carries out a plan and prints its verdict.
func (f *runFlags) run(ctx context.Context, p harness.Plan) error {
	talk := !f.quiet && !f.json
	env, why := place(ctx, p.Environment)
	p.Environment = env
	if why != "" && talk {
		fmt.Printf("No Docker here, running in the simulator (%s)\n", why)
	}
	p, err := p.Resolve()
	if err != nil {
		return err
	}
	command := cmp.Or(f.command, p.Command())
	cfg := harness.Config{Plan: p, RunID: docker.NewRunID(), Keep: f.keep, Log: slog.New(slog.DiscardHandler)}
	if f.debug {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if p.Environment == "docker" {
		if err := prepareDocker(ctx, talk, p); err != nil {
			return err
		}
	}
	if talk {
		fmt.Printf("seed %d  %s\n", p.Seed, command)
		cfg.Progress = report.NewProgress(os.Stdout)
	}
	o, err := harness.Run(ctx, cfg, f.out, command)
	cfg.Progress.Close()
	if err != nil {
		return err
	}
	if err := report.WriteIndex(f.out); err != nil {
		fmt.Fprintln(os.Stderr, "faultline: the index of results:", err)
	}
	switch {
	case f.json:
		if err := o.Summary.WriteJSON(os.Stdout); err != nil {
			return err
		}
	case !f.quiet:
		if err := report.PrintVerdict(os.Stdout, o.Summary); err != nil {
			return err
		}
	}
	if err := f.same(o, talk); err != nil {
		return err
	}
	if code := o.Summary.ExitCode; code != 0 {
		return exitError(code)
	}
	return nil
}

// same compares the history of a replay with the one it repeats.
func (f *runFlags) same(o harness.Outcome, talk bool) error {
	if f.history == "" || o.History == nil {
		return nil
	}
	if got := o.History.Digest(); got != f.history {
		return fmt.Errorf("the replay gave another history (digest %s) than the stored one (%s), although version and seed are the same: the simulation is not deterministic; report both results", got, f.history)
	}
	if talk {
		fmt.Println("the same history as before, byte for byte")
	}
	return nil
}

// prepareDocker sweeps what dead runs left, and builds the node image where this
// source's is not there and the images that plans need.
func prepareDocker(ctx context.Context, talk bool, plans ...harness.Plan) error {
	have, err := docker.HaveImage(ctx)
	if err != nil {
		return err
	}
	if !have {
		if talk {
			fmt.Println("building the node image of this source")
		}
		if _, err := docker.BuildImage(ctx, nil); err != nil {
			return err
		}
	}
	for _, p := range plans {
		if err := p.Prepare(ctx, nil); err != nil {
			return err
		}
	}
	swept, err := docker.Sweep(ctx, docker.SweepOptions{})
	if err != nil {
		return err
	}
	if talk && len(swept.Runs) > 0 {
		fmt.Printf("removed what %d dead runs left: %d containers, %d networks, %d volumes\n", len(swept.Runs), swept.Containers, swept.Networks, swept.Volumes)
	}
	return nil
}
