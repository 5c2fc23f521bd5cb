package sidecar

import (
	"fmt"
	"strings"
	"time"
)

// SabotageEnv is the environment variable by which a test weakens a sidecar.
const SabotageEnv = "FAULTSIDECAR_SABOTAGE"

// Sabotage makes a sidecar pretend. It exists only to prove that the proofs of
// effect fail when the effect is missing; no command line sets it. Its forms:
// "" or "none"; "stubbed" applies no rule; "new-only" cuts new connections
// only; "half:DURATION" removes a set's rules silently after that time.
type Sabotage string

// The forms without argument.
const (
	NoSabotage Sabotage = "none"
	Stubbed    Sabotage = "stubbed"
	NewOnly    Sabotage = "new-only"
)

// HalfTime is the sabotage that removes rules after d.
func HalfTime(d time.Duration) Sabotage { return Sabotage("half:" + d.String()) }

// Validate refuses an unknown form.
func (s Sabotage) Validate() error {
	_, err := s.parse()
	return err
}

type weakness struct {
	stubbed, newOnly bool
	after            time.Duration // 0 = never
}

func (s Sabotage) parse() (weakness, error) {
	switch s {
	case "", NoSabotage:
		return weakness{}, nil
	case Stubbed:
		return weakness{stubbed: true}, nil
	case NewOnly:
		return weakness{newOnly: true}, nil
	}
	if text, ok := strings.CutPrefix(string(s), "half:"); ok {
		if d, err := time.ParseDuration(text); err == nil && d > 0 {
			return weakness{after: d}, nil
		}
	}
	return weakness{}, fmt.Errorf("unknown sabotage %q, known are none, stubbed, new-only and half:DURATION", string(s))
}
