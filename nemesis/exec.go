package nemesis

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// Commands are those of a fault of the user's own. Each is a line for sh.
type Commands struct {
	Inject string        `yaml:"inject,omitempty" json:"inject,omitempty"`
	Prove  string        `yaml:"prove,omitempty" json:"prove,omitempty"`
	Heal   string        `yaml:"heal,omitempty" json:"heal,omitempty"`
	Limit  time.Duration `yaml:"limit,omitempty" json:"limit,omitempty"` // of each; 0: DefaultCommandLimit
}

// DefaultCommandLimit is how long a command may take where a plan does not say.
const DefaultCommandLimit = 30 * time.Second

// provePause is the time between two runs of a proving command.
const provePause = 250 * time.Millisecond

// Validate refuses commands that are not whole.
func (c Commands) Validate() error {
	var missing []string
	for _, m := range []struct{ name, line string }{{"inject", c.Inject}, {"prove", c.Prove}, {"heal", c.Heal}} {
		if strings.TrimSpace(m.line) == "" {
			missing = append(missing, m.name)
		}
	}
	switch {
	case len(missing) > 0:
		return fmt.Errorf("exec has no command to %s: give it in the step, or with --exec-%s", strings.Join(missing, " and none to "), strings.Join(missing, " and --exec-"))
	case c.Limit < 0:
		return fmt.Errorf("exec: a limit of %s for each command: it is above 0s", c.Limit)
	}
	return nil
}

func (s Step) validateCommands() error {
	if s.Fault == "exec" {
		return s.Commands.Validate()
	}
	if s.Commands != (Commands{}) {
		return fmt.Errorf("fault %s takes no commands: inject, prove, heal and limit belong to exec", s.Name())
	}
	return nil
}

// commands is a fault that the user's own commands make.
type commands struct {
	begun bool // the injecting command was started
}

var _ Fault = (*commands)(nil)

// Available implements Fault.
func (*commands) Available(t Target) error {
	return lacking("exec", map[Capability]bool{NeedsShell: t.Shell != nil, NeedsRoles: t.Roles != nil})
}

// run runs one of the commands.
func (*commands) run(ctx context.Context, s *Scene, stage, line string) (ShellResult, error) {
	limit := s.Step.Limit
	if limit == 0 {
		limit = DefaultCommandLimit
	}
	r, err := s.Shell.Run(ctx, ShellCommand{Line: line, Step: s.Step.ID, Stage: stage, Targets: s.Targets, Limit: limit})
	if err == nil && r.Late {
		r.Output = strings.TrimSpace(fmt.Sprintf("after %s, its limit; %s", limit, r.Output))
	}
	return r, err
}

// ended words how a command ended.
func (r ShellResult) ended() string {
	how := fmt.Sprintf("it exited with %d", r.Code)
	switch {
	case r.Late:
		how = "it did not end"
	case r.Code < 0:
		how = "a signal ended it"
	}
	if r.Output != "" {
		how += ": " + strings.Join(strings.Fields(r.Output), " ")
	}
	return how
}

func (r ShellResult) figures(stage string) map[string]string {
	return map[string]string{stage: fmt.Sprintf("exit code %d", r.Code), stage + " output": r.Output}
}

// seen runs the proving command and reports whether it sees the effect. One that
// could not do its work has seen neither the effect nor its absence: it took too
// long, was ended by a signal, or sh did not find it (126, 127).
func (c *commands) seen(ctx context.Context, s *Scene) (seen bool, r ShellResult, err error) {
	r, err = c.run(ctx, s, "prove", s.Step.Prove)
	switch {
	case err != nil:
		return false, r, err
	case r.Code == 0:
		return true, r, nil
	case r.Late || r.Code < 0 || r.Code > 125:
		return false, r, &UnprovenError{"has no proof, as its prove command did not work: " + r.ended(), r.figures("prove")}
	}
	return false, r, nil
}

// Inject implements Fault. What is proven must not have been there before.
func (c *commands) Inject(ctx context.Context, s *Scene) error {
	seen, r, err := c.seen(ctx, s)
	if err != nil {
		return err
	}
	if seen {
		return &UnprovenError{"was not injected: its prove command succeeds before it, so it would prove nothing", r.figures("prove")}
	}
	c.begun = true
	if r, err = c.run(ctx, s, "inject", s.Step.Inject); err != nil {
		return err
	}
	if r.Code != 0 {
		return &UnprovenError{"was not injected by its command: " + r.ended(), r.figures("inject")}
	}
	return nil
}

// Prove implements Fault.
func (c *commands) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	want, limit := true, s.Limits.Proof
	switch stage {
	case history.StillProven:
		limit = 0
	case history.Healed:
		want, limit = false, s.Limits.Respond
	}
	var last ShellResult
	ok, err := s.waitEvery(ctx, provePause, limit, func() (bool, error) {
		seen, r, err := c.seen(ctx, s)
		last = r
		return err == nil && seen == want, err
	})
	if err != nil {
		return Proof{}, err
	}
	if ok {
		detail := "the prove command sees the effect"
		if !want {
			detail = "the prove command sees no effect any more"
		}
		return Proof{Detail: detail, Figures: last.figures("prove")}, nil
	}
	why := "had no effect within " + limit.String() + ": the prove command does not see it; " + last.ended()
	switch stage {
	case history.StillProven:
		why = "did not last: the prove command does not see its effect any more; " + last.ended()
	case history.Healed:
		why = "was not healed within " + limit.String() + ": the prove command still sees its effect; " + last.ended()
	}
	return Proof{}, &UnprovenError{why, last.figures("prove")}
}

// Heal implements Fault. It runs the command once: what it could not do is the
// user's to mend.
func (c *commands) Heal(ctx context.Context, s *Scene) error {
	if !c.begun {
		return nil
	}
	r, err := c.run(ctx, s, "heal", s.Step.Heal)
	if err == nil && r.Code != 0 {
		err = &UnprovenError{"was not healed by its command, look after the cluster: " + r.ended(), r.figures("heal")}
	}
	return err
}
