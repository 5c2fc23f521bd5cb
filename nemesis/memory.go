package nemesis

import (
	"context"
	"fmt"

	"github.com/faultline-mq/faultline/checker/history"
)

const mib = 1 << 20

// memoryRooms are what the seed chooses from, in bytes: what a process gets beyond
// what cannot be taken from it. It is enough for a broker's heap to grow by, and
// little for what it reads and writes.
var memoryRooms = []int64{8 * mib, 16 * mib, 32 * mib}

// memory limits the memory of processes so far that what they cache is taken from
// them.
type memory struct {
	limited
	room   int64
	limits map[string]int64
}

var _ Fault = (*memory)(nil)

// Available implements Fault.
func (*memory) Available(t Target) error {
	return lacking("memory", map[Capability]bool{NeedsLimits: t.Limiter != nil, NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault. What is cached is made to fill the room from the
// start: the process would take its time for that.
func (m *memory) Inject(ctx context.Context, s *Scene) error {
	m.room, m.limits = memoryRooms[s.rng.IntN(len(memoryRooms))], map[string]int64{}
	return m.limit(ctx, s, 0, func(n string) error {
		m.limits[n] = (m.last[n].Resident + m.room + mib - 1) / mib * mib
		if err := s.Limiter.LimitMemory(ctx, n, m.limits[n]); err != nil {
			return err
		}
		return m.press(ctx, s, n)
	})
}

// press fills the room twice over.
func (m *memory) press(ctx context.Context, s *Scene, node string) error {
	err := s.Limiter.Press(ctx, node, 2*m.room)
	if err == nil {
		return nil
	}
	// The process may have been killed for want of memory, or whatever else.
	if st, serr := s.Processes.State(ctx, node); serr == nil && !st.Running {
		return nil
	}
	return fmt.Errorf("pressing the memory of %s: %w", node, err)
}

// Heal implements Fault.
func (m *memory) Heal(ctx context.Context, s *Scene) error {
	return m.free(ctx, s, s.Limiter.FreeMemory)
}

// Prove implements Fault: the machine has the limit in force and counted how often
// it was met; a process that was killed for want of memory proves it as well.
// After healing the limits of before are in force.
func (m *memory) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if stage == history.Healed {
		return m.proveFree(ctx, s, Use.ofMemory)
	}
	figures := map[string]string{}
	killed := 0
	for _, n := range s.Targets {
		st, err := s.Processes.State(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("state of %s: %w", n, err)
		}
		if !st.Running && st.OutOfMemory {
			figures[n] = describe(st)
			killed++
			continue
		}
		alone, err := m.use(ctx, s, n)
		if err != nil {
			return Proof{}, err
		}
		if err := m.press(ctx, s, n); err != nil {
			return Proof{}, err
		}
		u, err := m.use(ctx, s, n)
		if err != nil {
			return Proof{}, err
		}
		was := m.last[n]
		figures[n] = fmt.Sprintf("%s, and has %d; it met the limit %d times before, then %d times, and %d times when %d were read at its expense",
			u.ofMemory(), u.Memory, was.Hits, alone.Hits-was.Hits, u.Hits-alone.Hits, 2*m.room)
		switch {
		case u.Limit != m.limits[n]:
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %s has %s, not %d bytes", n, u.ofMemory(), m.limits[n]), figures}
		case u.Memory > u.Limit || u.Hits <= alone.Hits:
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %s has %d bytes with %s, and met that %d times; %d before", n, u.Memory, u.ofMemory(), u.Hits, was.Hits), figures}
		}
		m.last[n] = u
	}
	detail := fmt.Sprintf("%s %d MiB beyond what cannot be taken away, and met that limit", many(len(s.Targets)-killed, "process has", "processes have"), m.room/mib)
	if killed > 0 {
		detail += fmt.Sprintf("; %d were killed for want of memory", killed)
	}
	return Proof{Detail: detail, Figures: figures}, nil
}

// ofMemory says what memory a process is allowed.
func (u Use) ofMemory() string {
	if u.Limit < 0 {
		return "all memory"
	}
	return fmt.Sprintf("a limit of %d bytes", u.Limit)
}
