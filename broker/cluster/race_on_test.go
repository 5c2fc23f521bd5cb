//go:build race

package cluster

import "flag"

// A state machine has one goroutine and gains nothing from the race detector:
// `make test` runs the schedules in full without it.
func init() { _ = flag.Set("rapid.checks", "10") }

const raceEnabled = true
