//go:build race

package harness

// raceEnabled says that the race detector slows everything down about tenfold.
const raceEnabled = true
