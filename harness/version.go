package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/faultline-mq/faultline/harness/report"
)

// Version identifies this program as results record it: the revision of its
// source, and where that alone does not say what was built (a changed tree, or a
// build without version control) the digest of the program itself behind a "+".
// Only the same version gives the same history for the same seed.
var Version = sync.OnceValue(func() string {
	rev := Revision()
	if rev != "unknown" && !strings.HasSuffix(rev, "-dirty") {
		return rev
	}
	sum, err := programDigest()
	if err != nil {
		return rev
	}
	return rev + "+" + sum
})

// programDigest returns the first 12 hexadecimal digits of the SHA-256 of the
// running program.
func programDigest() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

// Keys of a result's versions.
const (
	versionKey    = "faultline"
	simDigestKey  = "simulation digest"
	histDigestKey = "history digest"
)

// Stored is what a result directory says of its run, for a replay.
type Stored struct {
	Dir     string
	Plan    Plan
	Version string // of the program that made it, or "unknown"
	// Digest identifies the history of a simulated run, "" where none was stored.
	Digest string
}

// OpenStored reads a result directory (or any file in it). Every error wraps ErrBadPlan.
func OpenStored(dir string) (Stored, error) {
	o, _, err := open(dir)
	if err != nil {
		return Stored{}, err
	}
	s := Stored{Dir: o.Dir, Plan: o.Execution.Plan, Version: "unknown"}
	if sum, err := report.ReadSummary(o.Dir); err == nil {
		if v := sum.Versions[versionKey]; v != "" {
			s.Version = v
		}
		s.Digest = sum.Versions[histDigestKey]
	}
	return s, nil
}

// Replayable refuses a simulated result that another version made: its seed
// gives another history here. In docker no replay is exact, and none is refused.
func (s Stored) Replayable() error {
	if s.Plan.Environment != "sim" || s.Version == Version() {
		return nil
	}
	return fmt.Errorf("%w: %s was made by faultline %s and this is faultline %s: the same seed gives another history here; use the version that made it, or --force to run its plan all the same",
		ErrBadPlan, s.Dir, s.Version, Version())
}
