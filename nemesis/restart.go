package nemesis

import (
	"context"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

// How a restart ends the processes that it starts again at once.
const (
	RestartKill  Shape = "kill"  // as kill
	RestartPower Shape = "power" // as power: unsynced data is gone
	RestartWipe  Shape = "wipe"  // as wipe: the data disk is empty
)

func restarts() []ShapeInfo {
	return []ShapeInfo{
		{Name: RestartKill, MinNodes: 1, Description: "with SIGKILL"},
		{Name: RestartPower, MinNodes: 1, Description: "with SIGKILL, and what their disks had not synced is gone"},
		{Name: RestartWipe, MinNodes: 1, Description: "with SIGKILL, and their data disks are exchanged for empty ones"},
	}
}

// restartNeeds returns what a shape needs beside processes; "" is any of them.
func restartNeeds(s Shape) []Capability {
	switch s {
	case RestartKill:
		return nil
	case RestartPower:
		return []Capability{NeedsDisks}
	case RestartWipe:
		return []Capability{NeedsWiping}
	}
	return []Capability{NeedsDisks, NeedsWiping}
}

// restart ends processes and starts them again at once: they are back before
// anybody has missed them. What comes back is not who left.
type restart struct {
	shape   Shape
	inner   Fault // that ends them
	claimed bool
}

var (
	_ Fault    = (*restart)(nil)
	_ Preparer = (*restart)(nil)
)

func newRestart(s Shape) *restart {
	r := &restart{shape: s}
	switch s {
	case RestartPower:
		r.inner = &power{}
	case RestartWipe:
		r.inner = &wipe{}
	default:
		r.inner = &kill{}
	}
	return r
}

// Available implements Fault.
func (r *restart) Available(t Target) error {
	have := map[Capability]bool{NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil, NeedsDisks: t.Disks != nil, NeedsWiping: t.LostDisks != nil}
	need := map[Capability]bool{}
	for _, c := range append(restartNeeds(r.shape), NeedsProcesses, NeedsRoles) {
		need[c] = have[c]
	}
	return lacking("restart", need)
}

// Prepare does what the shape asks for before any client starts.
func (r *restart) Prepare(ctx context.Context, s Step, t Target) error {
	if p, ok := r.inner.(Preparer); ok {
		return p.Prepare(ctx, s, t)
	}
	return nil
}

// Inject implements Fault: the processes are proven dead, and started again.
func (r *restart) Inject(ctx context.Context, s *Scene) error {
	if err := r.inner.Inject(ctx, s); err != nil {
		return err
	}
	if _, err := r.inner.Prove(ctx, s, history.Proven); err != nil {
		return err
	}
	if err := r.inner.Heal(ctx, s); err != nil {
		return err
	}
	// No other fault may end them before the proof that they came back.
	if err := s.ground.claim("process", s.Step.Name(), s.Targets); err != nil {
		return fmt.Errorf("holding on to the processes: %w", err)
	}
	r.claimed = true
	return nil
}

// Heal implements Fault: they are back already, unless the injection failed.
func (r *restart) Heal(ctx context.Context, s *Scene) error {
	if r.claimed {
		s.ground.release("process", s.Targets)
		r.claimed = false
		return nil
	}
	return r.inner.Heal(ctx, s)
}

// Prove implements Fault. Its effect is the healed one's: another incarnation
// runs and answers, without what it was to lose.
func (r *restart) Prove(ctx context.Context, s *Scene, _ history.FaultStage) (Proof, error) {
	p, err := r.inner.Prove(ctx, s, history.Healed)
	p.Detail += ", as other incarnations than before"
	return p, err
}
