package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/faultline-mq/faultline/checker/history"
)

// How far an upgrade goes before it is taken back.
const (
	MixedVersions  Shape = "mixed"
	RollingUpgrade Shape = "rolling"
)

func upgrades() []ShapeInfo {
	return []ShapeInfo{
		{Name: MixedVersions, MinNodes: 2, Description: "some nodes run the other version, and some do not"},
		{Name: RollingUpgrade, MinNodes: 1, Description: "all nodes go to the other version, and back when healed"},
	}
}

// Versions tells which version of the system nodes run.
type Versions interface {
	// Version asks the node itself.
	Version(ctx context.Context, node string) (string, error)
}

// Upgrader gives nodes another version of the system.
type Upgrader interface {
	// Upgrade lets a node whose process is dead run the other version from its next
	// start on, with its data, name, address and network rules.
	Upgrade(ctx context.Context, node string) error
	// Downgrade lets it run its own one again. What was not upgraded is left alone.
	Downgrade(ctx context.Context, node string) error
}

// upgrade lets nodes run another version, one after another, as an operator does,
// and takes that back when it is healed.
type upgrade struct {
	held
	own     map[string]string // versions of all nodes before
	hit     []string          // nodes that were to be stopped
	failure string
}

var _ Fault = (*upgrade)(nil)

// Available implements Fault.
func (*upgrade) Available(t Target) error {
	return lacking("upgrade", map[Capability]bool{NeedsVersions: t.Upgrader != nil && t.Versions != nil, NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault. What was not graceful, or did not come back, is no
// error here: the first proof tells of it, and the upgrade ends there.
func (u *upgrade) Inject(ctx context.Context, s *Scene) error {
	if err := u.take(ctx, s); err != nil {
		return err
	}
	u.own = map[string]string{}
	for _, n := range s.Nodes {
		v, err := s.versionOf(ctx, n)
		if err != nil {
			return err
		}
		u.own[n] = v
	}
	for _, n := range s.Targets {
		u.hit = append(u.hit, n)
		_, failure, err := s.stop(ctx, n)
		if err != nil {
			return err
		}
		if u.failure = failure; failure != "" {
			return nil
		}
		if err := s.Upgrader.Upgrade(ctx, n); err != nil {
			return fmt.Errorf("upgrading %s: %w", n, err)
		}
		back, err := u.start(ctx, s, n)
		if err != nil {
			return err
		}
		if !back {
			u.failure = fmt.Sprintf("did not go on: %s was upgraded, and the system did not answer with a leader of every partition within %s", n, s.Limits.Respond)
			return nil
		}
	}
	return nil
}

// start starts a node and waits until the system has taken it back in.
func (u *upgrade) start(ctx context.Context, s *Scene, n string) (bool, error) {
	if err := s.Processes.Start(ctx, n); err != nil {
		return false, fmt.Errorf("starting %s: %w", n, err)
	}
	ok, err := s.awaitLeaders(ctx, n)
	if err != nil || !ok {
		return ok, err
	}
	return true, s.Clock.Sleep(ctx, rollPause)
}

// Heal implements Fault: the nodes go back, one after another, the last one first.
func (u *upgrade) Heal(ctx context.Context, s *Scene) error {
	var errs []error
	for _, n := range slices.Backward(u.hit) {
		if err := u.back(ctx, s, n); err != nil {
			errs = append(errs, fmt.Errorf("downgrading %s: %w", n, err))
		}
	}
	u.drop(s)
	return errors.Join(errs...)
}

// back lets a node run its own version. What does not stop is killed, and what
// does not come back soon is for the proof to tell.
func (u *upgrade) back(ctx context.Context, s *Scene, n string) error {
	st, err := s.Processes.State(ctx, n)
	if err != nil {
		return err
	}
	if st.Running {
		if exited, _, err := s.stop(ctx, n); err != nil || !exited {
			if err := s.Processes.Kill(ctx, n); err != nil {
				return err
			}
		}
	}
	if err := s.Upgrader.Downgrade(ctx, n); err != nil {
		return err
	}
	_, err = u.start(ctx, s, n)
	return err
}

// versionOf asks a node for its version until it answers.
func (s *Scene) versionOf(ctx context.Context, node string) (v string, err error) {
	var last error
	ok, err := s.waitFor(ctx, s.Limits.Respond, func() (bool, error) {
		v, last = s.Versions.Version(ctx, node)
		return last == nil, ctx.Err()
	})
	if err != nil {
		return "", err
	}
	if !ok {
		return "", unproven("cannot be proven: %s does not say which version it runs: %v", node, last)
	}
	return v, nil
}

// Prove implements Fault: every target says that it runs another version than
// before, and all the same; every other node says what it said before. After
// healing all do, and every target runs and answers as another incarnation.
func (u *upgrade) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if u.failure != "" && stage != history.Healed {
		return Proof{}, unproven("%s", u.failure)
	}
	proof := Proof{Figures: map[string]string{}}
	if stage == history.Healed {
		var err error
		if proof, err = u.proveUp(ctx, s); err != nil {
			return proof, err
		}
	}
	other := ""
	for _, n := range s.Nodes {
		v, err := s.versionOf(ctx, n)
		if err != nil {
			return Proof{}, err
		}
		proof.Figures["version of "+n] = fmt.Sprintf("%s; %s before", v, u.own[n])
		switch {
		case stage == history.Healed && v != u.own[n]:
			return Proof{}, &UnprovenError{fmt.Sprintf("was not healed: %s runs version %s, and ran %s before", n, v, u.own[n]), proof.Figures}
		case stage == history.Healed:
		case !slices.Contains(s.Targets, n):
			if v != u.own[n] {
				return Proof{}, &UnprovenError{fmt.Sprintf("cannot be proven: %s is no target, and runs version %s; %s before", n, v, u.own[n]), proof.Figures}
			}
		case v == u.own[n]:
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %s runs version %s, as before", n, v), proof.Figures}
		case other != "" && v != other:
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %s runs version %s, and another target %s", n, v, other), proof.Figures}
		default:
			other = v
		}
	}
	if stage == history.Healed {
		proof.Detail += ", with their own versions"
		return proof, nil
	}
	proof.Detail = fmt.Sprintf("%d of %d nodes run version %s", len(s.Targets), len(s.Nodes), other)
	return proof, nil
}
