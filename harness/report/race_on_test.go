//go:build race

package report

// raceEnabled says that the race detector slows everything down about tenfold.
const raceEnabled = true
