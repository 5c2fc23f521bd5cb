package nemesis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// The shapes of corrupt-file.
const (
	BitFlip      Shape = "bit-flip" // one bit of one byte
	TruncateFile Shape = "truncate" // the end of a file is gone
	// StaleRestore puts the disk of partition logs back to an earlier copy.
	StaleRestore Shape = "stale-restore"
)

func damages() []ShapeInfo {
	return []ShapeInfo{
		{Name: BitFlip, Description: "inverts one bit of a file that holds records", MinNodes: 1},
		{Name: TruncateFile, Description: "cuts off the end of a file that holds records", MinNodes: 1},
		{Name: StaleRestore, Description: "puts the disk of partition logs back to an earlier copy, while the process is dead", MinNodes: 1},
	}
}

// corruptFile damages one stored file of each target. The seed decides whether
// its process is killed first, or goes on and may meet the damage; either way it
// is (re)started when the fault is healed, and meets it then.
type corruptFile struct {
	held
	down  bool // processes are killed first
	hit   []string
	files map[string]*damagedFile
}

type damagedFile struct {
	StoredFile
	before, after string // digests of the first Size bytes
	what          string // was done
}

var _ Fault = (*corruptFile)(nil)

// Available implements Fault.
func (*corruptFile) Available(t Target) error {
	return lacking("corrupt-file", map[Capability]bool{NeedsFiles: t.Files != nil, NeedsProcesses: t.Processes != nil, NeedsRoles: t.Roles != nil})
}

// Inject implements Fault.
func (c *corruptFile) Inject(ctx context.Context, s *Scene) error {
	if err := c.take(ctx, s); err != nil {
		return err
	}
	c.down = s.rng.IntN(2) == 0
	c.files = map[string]*damagedFile{}
	if s.Step.Shape == StaleRestore {
		return c.putBack(ctx, s)
	}
	for _, n := range s.Targets {
		c.hit = append(c.hit, n)
		if c.down {
			if err := s.Processes.Kill(ctx, n); err != nil {
				return fmt.Errorf("killing %s: %w", n, err)
			}
		}
	}
	for _, n := range s.Targets {
		if err := c.damage(ctx, s, n); err != nil {
			return err
		}
	}
	return nil
}

func (c *corruptFile) damage(ctx context.Context, s *Scene, n string) error {
	files, err := s.Files.Files(ctx, n)
	if err != nil {
		return fmt.Errorf("files of %s: %w", n, err)
	}
	var full []StoredFile
	for _, f := range files {
		if f.Size > 0 {
			full = append(full, f)
		}
	}
	if len(full) == 0 {
		return unproven("was not injected: %s has stored no records that it could damage", n)
	}
	f := &damagedFile{StoredFile: full[s.rng.IntN(len(full))]}
	if f.before, err = c.digest(ctx, s, n, f); err != nil {
		return err
	}
	at := s.rng.Int64N(f.Size)
	if s.Step.Shape == BitFlip {
		bit := uint(s.rng.IntN(8))
		f.what = fmt.Sprintf("bit %d of byte %d of %d", bit, at, f.Size)
		err = s.Files.Flip(ctx, n, f.Name, at, bit)
	} else {
		f.what = fmt.Sprintf("cut to %d of %d bytes", at, f.Size)
		err = s.Files.Cut(ctx, n, f.Name, at)
	}
	if err != nil {
		return fmt.Errorf("damaging %s on %s: %w", f.Name, n, err)
	}
	c.files[n] = f
	f.after, err = c.digest(ctx, s, n, f)
	return err
}

// staleAfter is how long a node goes on after its disk was copied.
const staleAfter = 3 * time.Second

// putBack gives nodes an earlier copy of their disk: a restored backup, or a
// virtual machine that was put back. What was written in between is gone, though
// it was synced, and nothing on the disk tells of it.
func (c *corruptFile) putBack(ctx context.Context, s *Scene) error {
	c.down = true
	for _, n := range s.Targets {
		if err := s.Files.Copy(ctx, n); err != nil {
			return fmt.Errorf("copying the disk of %s: %w", n, err)
		}
	}
	if err := s.Clock.Sleep(ctx, staleAfter); err != nil {
		return err
	}
	for _, n := range s.Targets {
		c.hit = append(c.hit, n)
		if err := s.Processes.Kill(ctx, n); err != nil {
			return fmt.Errorf("killing %s: %w", n, err)
		}
	}
	for _, n := range s.Targets {
		f := &damagedFile{StoredFile: StoredFile{Name: allFiles}, what: fmt.Sprintf("put back to what it was %s before", staleAfter)}
		var err error
		if f.before, err = c.digest(ctx, s, n, f); err != nil {
			return err
		}
		if err := s.Files.PutBack(ctx, n); err != nil {
			return fmt.Errorf("putting the disk of %s back: %w", n, err)
		}
		c.files[n] = f
		if f.after, err = c.digest(ctx, s, n, f); err != nil {
			return err
		}
	}
	return nil
}

// allFiles stands for the whole disk of partition logs.
const allFiles = "its disk"

func (c *corruptFile) digest(ctx context.Context, s *Scene, n string, f *damagedFile) (digest string, err error) {
	if f.Name == allFiles {
		digest, err = s.Files.DataDigest(ctx, n)
	} else {
		digest, err = s.Files.Digest(ctx, n, f.Name, f.Size)
	}
	if err != nil {
		return "", fmt.Errorf("digest of %s on %s: %w", f.Name, n, err)
	}
	return digest, nil
}

// Heal implements Fault: it restarts what runs, and starts what is dead. The
// damage stays: to find and to mend it is the system's part.
func (c *corruptFile) Heal(ctx context.Context, s *Scene) error {
	var errs []error
	for _, n := range c.hit {
		st, err := s.Processes.State(ctx, n)
		if err == nil && st.Running && st.Started == c.before[n].Started {
			err = s.Processes.Kill(ctx, n)
		}
		if err == nil {
			err = s.revive(ctx, n)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("restarting %s: %w", n, err))
		}
	}
	c.drop(s)
	return errors.Join(errs...)
}

// Prove implements Fault. The damage must be there until healing, unless the
// process goes on: then it may write over it, but what was there before must not
// be there again.
func (c *corruptFile) Prove(ctx context.Context, s *Scene, stage history.FaultStage) (Proof, error) {
	if stage == history.Healed {
		proof, err := s.proveAnswers(ctx, func(n string, st ProcessState) string {
			if st.Running && st.Started == c.before[n].Started {
				return fmt.Sprintf("%s was not restarted: it is the incarnation started %s", n, st.Started)
			}
			return ""
		})
		proof.Detail += ", restarted on what was damaged"
		return proof, err
	}
	figures := map[string]string{}
	for _, n := range s.Targets {
		f := c.files[n]
		now, err := c.digest(ctx, s, n, f)
		if err != nil {
			return Proof{}, err
		}
		st, err := s.Processes.State(ctx, n)
		if err != nil {
			return Proof{}, fmt.Errorf("state of %s: %w", n, err)
		}
		figures[n] = fmt.Sprintf("%s: %s; digest %.12s before, %.12s after, %.12s now; its process is %s", f.Name, f.what, f.before, f.after, orNone(now), describe(st))
		switch {
		case c.down && st.Running || st.Running && st.Started != c.before[n].Started:
			return Proof{}, &UnprovenError{fmt.Sprintf("cannot be proven: %s was started before it was healed", n), figures}
		case f.after == f.before:
			return Proof{}, &UnprovenError{fmt.Sprintf("had no effect: %s on %s is as it was", f.Name, n), figures}
		case now == f.before, now == "", now != f.after && c.down:
			return Proof{}, &UnprovenError{fmt.Sprintf("did not last: the damage to %s on %s is gone", f.Name, n), figures}
		}
	}
	return Proof{Detail: fmt.Sprintf("files of %s are damaged", many(len(s.Targets), "node", "nodes")), Figures: figures}, nil
}
